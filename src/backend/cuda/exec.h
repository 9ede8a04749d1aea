/* exec: a compiled plan: nodes (operations after fusion), registers in one workspace, tables of the step, graphs.
 * Written by compile.c, run by run.c, driven by step.c. One thread at a time. */
#ifndef IMP_CUDA_EXEC_H
#define IMP_CUDA_EXEC_H

#include "backend/cuda/cuda_impl.h"

typedef enum node_kind { NODE_LINEAR, NODE_QKV, NODE_OP } node_kind;

/* NODE_LINEAR: up to three products of one input; or act(gate) * up; or one product plus a residual. A norm that feeds
 * nothing else is part of it. NODE_QKV: head norms, rotations and the KV store between projections and attention. */
typedef struct node {
    node_kind kind;
    int32_t op;                       /* the operation it stands at */
    int32_t n_lin, lin[GEMV_MAX_W];   /* LINEAR: operations */
    int32_t norm, glu, add;           /* LINEAR: operations fused in, -1 = none; OP: an add after OP_COMBINE */
    bool norm_shared;                 /* others read the normalised rows too */
    int32_t q_norm, k_norm, v_norm, q_rope, k_rope, attend; /* QKV */
    plan_reg q, k, v;                 /* QKV: sources */
    int32_t qkv;                      /* OP of an attention: its QKV node, -1 = none */
    enum { GROUP_NONE, GROUP_PAIR, GROUP_ONE } grouped; /* LINEAR of experts: many rows go expert by expert */
    const struct mixture *mix; /* what it is part of, NULL = none */
    const struct mixture *routes; /* LINEAR: of which it makes the scores, where `up` may do that; NULL = none */
    struct fp8_copy *fp8; /* LINEAR: its weights for prompts with --prefill fp8 (run_fp8.c), NULL = none */
} node;

/* A mixture of experts that two kernels compute where tokens are few (run_experts.c); nodes. */
typedef struct mixture {
    int32_t route, up, down, sum;
    int32_t router, nth;              /* whose norm and product `up` may compute, -1 = none; how many of those come
                                       * before it */
} mixture;

typedef struct reg {
    bool used, f16;
    plan_reg alias;      /* shares the memory of that register, PLAN_NONE = its own */
    plan_dim dim;
    uint32_t width, ld;
    int32_t first, last; /* nodes */
    uint64_t least, bytes, off; /* least: bytes that it has however few the rows are */
} reg;

typedef struct run_range { /* consecutive rows of one class */
    int32_t begin, n;
    bool prompt;
} run_range;

/* Tables of a step on the device. The small ones serve steps that may be a graph, and lie in one piece. There are two
 * sets of them, which steps take in turn, so that one is sent while the step before still reads the other. */
typedef struct tables {
    CUdeviceptr dev, tok, seq, row, save, table, ext;
    uint64_t n_bytes;                 /* up to and with the block tables */
    uint64_t off_tok, off_seq, off_row, off_save, off_table;
    uint64_t off_sample, sample_bytes; /* sample_desc[max_row], then their lists and masks; sent by itself */
    int32_t max_tok, max_seq, max_row, max_save, max_table;
} tables;

#define BATCH_MEETS 2048
#define N_TICKET 4
#define MAX_GRAPHS 192 /* a step of each shape has two, one for each set of small tables */
#define SMALL_STEP 128

typedef struct ticket_slot {
    int64_t id;
    bool open, poisoned;
    bool follows;                     /* the ticket before it was open at submit */
    imp_status status;
    CUevent begin, sent, done;        /* begin: NULL unless the backend takes times; sent: its tables are on the
                                       * device */
    uint8_t *host;                    /* pinned: tables of the step */
    uint64_t host_bytes;
    int32_t *out_id;                  /* pinned [max_row] */
    float *logits, *hidden;           /* pinned, when rows want them */
    uint64_t logits_bytes, hidden_bytes;
    sample_row_out *result;
    imp_status *row_status;
    const batch *bt;
    int32_t n_row;
    int32_t *host_row;                /* rows sampled on the host: index into the batch; n_host of them */
    int32_t n_host;
    int32_t *logit_at;                /* [max_row] place of a row in `logits`, -1 = not fetched */
    int32_t *dev_row;                 /* rows that the sampling kernel takes: index into the batch; n_dev of them */
    int32_t n_dev;
    bool dev_stats;                   /* some of them want log-probabilities */
    sample_result *sampled;           /* pinned [max_row], by place in dev_row */
    void *work;
    struct bexec *x;
} ticket_slot;

typedef struct graph_entry {
    const tables *t;
    int32_t n_tok, n_row, n_seq, split;
    bool one_each;
    CUgraphExec exec;
    int64_t last_use;
} graph_entry;

struct bexec {
    backend *b;
    const plan *p;
    kvcache *kv;
    bweight **w;
    plan_limits lim;
    node *node;
    int32_t n_node;
    mixture *mix;
    int32_t n_routed;                 /* mixtures with a router */
    CUdeviceptr sent;                 /* their scores as words, [n_routed][SENT_BYTES] */
    bool keep_sent;                   /* nobody makes them unsent (profile.c) */
    reg *reg;
    int32_t *node_of_op;              /* [n_op]; -1 fused away */
    const char **kernel;              /* [n_op] name for inspect */
    CUdeviceptr ws;
    uint64_t ws_bytes, total_bytes;
    CUdeviceptr *constant;
    /* scratch beside the registers */
    CUdeviceptr xh;                   /* f16 input of a product whose register is f32 */
    uint32_t xh_ld;
    CUdeviceptr x8, x8_scale;         /* e4m3 rows, and factors of 128 columns of them (prefill fp8) */
    CUdeviceptr a8, a8_scale;         /* the same between a pair and the product that reads it (run_fp8.c) */
    CUdeviceptr partial;              /* z partial sums of a rows kernel */
    uint64_t partial_bytes;
    CUdeviceptr came;                 /* counters of a batch kernel's blocks, [BATCH_MEETS][2], zero between launches */
    CUdeviceptr part, counter;        /* attention splits */
    uint64_t part_bytes;
    uint32_t part_tokens, part_splits; /* counters, most splits of a token */
    CUdeviceptr last, out_id, greedy_part, greedy_counter, sampled;
    tables small[2], large;
    CUdeviceptr moe_pair, moe_tile, moe_x; /* lists of the grouped products; f16 rows of pairs */
    uint32_t moe_k, moe_experts, moe_cols; /* the most choices, experts and columns of such rows; 0 = none */
    CUdeviceptr scratch[16];
    uint64_t scratch_bytes[16];
    int n_scratch;
    /* the step in progress */
    const tables *t;
    int32_t n_tok, n_row, n_seq, n_host;
    uint32_t split;
    bool one_each;                    /* decoding, a token a sequence, which sees itself last: attention does QKV's
                                       * work */
    const seq_desc *host_seq;         /* the step's, in pinned memory */
    run_range *tok_run, *row_run;
    int32_t n_tok_run, n_row_run;
    ticket_slot slot[N_TICKET];
    int64_t next_ticket;
    int64_t n_timed;                  /* steps that were queued while the one before was not done yet */
    double idle_ms, step_ms;          /* between those, and in them */
    graph_entry graph[MAX_GRAPHS];
    int32_t n_graph;
};

static inline CUdeviceptr reg_ptr(const bexec *x, plan_reg r)
{
    while (x->reg[r].alias != PLAN_NONE)
        r = x->reg[r].alias;
    return x->ws + x->reg[r].off;
}
static inline uint32_t reg_ld(const bexec *x, plan_reg r)
{
    while (x->reg[r].alias != PLAN_NONE)
        r = x->reg[r].alias;
    return x->reg[r].ld;
}
/* The first matrix of an operation. */
static inline const dweight *matrix(const bexec *x, int32_t op) { return &x->w[x->p->op[op].weight[0]]->d; }
static inline CUdeviceptr vec(const bexec *x, int32_t w) { return w == PLAN_NONE ? 0 : x->w[w]->vec; }
static inline uint64_t reg_row_bytes(const bexec *x, plan_reg r)
{
    return (uint64_t)x->reg[r].ld * (x->reg[r].f16 ? 2 : 4);
}
static inline CUdeviceptr at_row(const bexec *x, plan_reg r, int32_t row)
{
    return reg_ptr(x, r) + (uint64_t)row * reg_row_bytes(x, r);
}

static inline uint32_t attend_splits(uint32_t n_pos) { return n_pos ? SPLIT_OF(n_pos - 1) + 1 : 1; }

#define ATTEND_HEADS 8 /* query heads that a block of the decode kernels takes */
#define ATTEND_SUBS 2  /* blocks that share a kv head at most */

/* Which decode kernel takes these heads; 0 = none of them. */
static inline uint32_t exec_attend_width(const bexec *x, const plan_attend *t)
{
    const kv_group *g = &x->kv->group[t->group];
    uint32_t d = t->d_k > t->d_v ? t->d_k : t->d_v;
    if (x->kv->type == KV_F32 || t->d_k % 8 || t->d_v % 8 || g->k_width % 8 || g->v_width % 8 || d > 256 ||
        t->n_head / t->n_kv_head > ATTEND_HEADS * ATTEND_SUBS)
        return 0;
    uint32_t bs = (uint32_t)x->kv->block_size;
    return bs < 8 || bs & (bs - 1) ? 0 : d <= 64 ? 64 : d <= 128 ? 128 : 256;
}

/* Whether attention of class P is not cut into splits, so that their number is that of the other rows. */
static inline bool exec_prompts_whole(const bexec *x)
{
    return !x->b->deterministic && x->b->fn[K_attend_p64] && !(x->kv && x->kv->type == KV_F32);
}

imp_status exec_nodes(bexec *x, imp_err *e); /* launches the whole step on the backend's stream */
bool exec_can_f16(plan_op_kind k);           /* kinds whose kernel can write f16 in ACT_POS order */
imp_status exec_node(bexec *x, int32_t node, imp_err *e); /* one of them */

/* Prompts on Hopper (run_prompt.c): rows of class P. xh: f16 rows in ACT_POS order, padded to ldx. */
bool exec_prompt(const bexec *x); /* rows of class P have their own kernels here */
imp_status exec_prompt_product(bexec *x, const dweight *w, CUdeviceptr xh, uint32_t ldx, CUdeviceptr out, uint32_t ldo,
                               CUdeviceptr res, uint32_t ldr, uint32_t n, imp_err *e);
/* act(gate) * up in one launch, where that is possible; else *done = false and nothing happened. g: m, w, out, ldo,
 * act. */
imp_status exec_prompt_pair(bexec *x, const gemv_args *g, CUdeviceptr xh, uint32_t ldx, bool *done, imp_err *e);
/* A grouped node; rows of class D get the bytes of a gemv. */
imp_status exec_experts(bexec *x, const node *n, int32_t r0, int32_t n_row, bool prompt, CUdeviceptr xh, uint32_t ldx,
                        imp_err *e);
#define EXPERTS_FROM 4 /* rows of class D from which on a grouped node goes expert by expert */
void exec_group_experts(bexec *x);
/* Lists of (token, choice) pairs in the order of their experts, n_tok of them a tile. */
imp_status exec_sort_pairs(bexec *x, const plan_op *l, int32_t r0, uint32_t n_pair, uint32_t n_expert, uint32_t n_tok,
                           imp_err *e);
int32_t exec_readers(const plan *p, plan_reg r); /* operands that are r */
bool exec_same_tiles(const dweight *a, const dweight *b);
uint64_t exec_moe_bytes(const bexec *x, int32_t n_tok, uint64_t *tiles_at, uint64_t *rows_at);

/* Attention (run_attend.c), and the node before it, which does nothing where attention does its work. */
imp_status exec_qkv(bexec *x, const node *n, imp_err *e);
imp_status exec_attend(bexec *x, const node *attend, imp_err *e);

/* Mixtures in steps of few tokens (run_experts.c). find: after the nodes and storage types are there, before memory is
 * given to registers. now: this step's tokens are few enough. node: instead of exec_node, of a node with a mixture. */
imp_status exec_find_mixtures(bexec *x, imp_err *e);
bool exec_mixture_now(const bexec *x);
imp_status exec_mixture_node(bexec *x, int32_t node, imp_err *e);
/* This step's `up` does the work of the mixture's router; words of scores as before any step. */
bool exec_routes_now(const bexec *x, const mixture *m);
#define SENT_BYTES 512 /* of a mixture: 128 experts' scores */
imp_status exec_unsend(bexec *x, imp_err *e);
route_args exec_route_args(const bexec *x, const plan_op *o);

/* Prompts in FP8 (run_fp8.c). make: copies of the weights of all nodes that take part, when the backend was opened for
 * it. bytes and place: the activations of steps of so many rows. exec_fp8: act(gate) * up where the copy is a pair,
 * else g's products and residual; in: the input from row r0 of the step on, as imp_fp8_rows takes it; g: m, w, out,
 * ldo, act, residual. */
typedef struct fp8_copy fp8_copy;
imp_status exec_fp8_make(bexec *x, imp_err *e);
uint64_t exec_fp8_bytes(const bexec *x, uint64_t rows);
void exec_fp8_place(bexec *x, CUdeviceptr at, uint64_t rows);
void exec_fp8_free(bexec *x);
bool exec_fp8_is_pair(const fp8_copy *c);
imp_status exec_fp8(bexec *x, const node *n, int32_t r0, const op_args *in, const gemv_args *g, imp_err *e);
const char *exec_fp8_tile_name(const bexec *x, int i); /* for the GPU test; NULL past the last */

/* What the matrices of a gemv are made of: one layout, or a mixture of two that files have, or another. */
enum { LAYS_Q4K_Q6K = LAY_COUNT, LAYS_Q5K_Q6K, LAYS_ANY, LAYS_COUNT };
uint32_t exec_layouts(const gemv_args *a);

/* Products of --precise (run_precise.c): all of a node's, norm and activation excepted; registers are f32. lists: what
 * room the lists of experts need. */
imp_status exec_precise(bexec *x, const node *n, int32_t r0, int32_t n_row, imp_err *e);
void exec_precise_lists(bexec *x);
const char *exec_precise_name(uint32_t layout);

/* smem, or as much more that no multiprocessor takes more than its share of so many blocks (run_dense.c). */
uint32_t exec_spread(const bexec *x, uint32_t blocks, uint32_t smem);
/* One row of class D where there is a kernel for just this (run_dense.c); else *done = false and nothing happened. */
imp_status exec_dense(bexec *x, const gemv_args *g, bool *done, imp_err *e);

/* Two and more rows of class D on Hopper (run_batch.c): g as for a gemv, without its x; xh is the input as f16 rows. */
bool exec_batch_fits(const bexec *x, const gemv_args *g);
imp_status exec_batch(bexec *x, const gemv_args *g, CUdeviceptr xh, uint32_t ldx, imp_err *e);

/* The same for 2 to 8 rows where there is a kernel for just this (run_few.c); else *done = false and nothing
 * happened. */
imp_status exec_few(bexec *x, const gemv_args *g, CUdeviceptr xh, uint32_t ldx, bool *done, imp_err *e);

/* profile.c */
typedef backend_profile_row exec_profile_row;
typedef backend_profile exec_profile;
/* Repeats the step that was submitted last (results and KV of it are rewritten); call when no ticket is open. */
imp_status exec_run_profile(bexec *x, int32_t reps, exec_profile *out, imp_err *e);
const char *exec_op_kernel(const bexec *x, int32_t op);
void exec_drop_graphs(bexec *x);

/* sample.c: who chooses a row's token, and the sampling kernel's side of a step. */
typedef enum row_sampler { ROW_NOBODY, ROW_GREEDY, ROW_DEVICE, ROW_HOST } row_sampler;
/* Describes row i of the batch in the ticket's tables when the sampling kernel takes it. */
row_sampler exec_row_sampler(const bexec *x, ticket_slot *t, const batch *b, int32_t i, uint64_t *n_data);
/* Sends the descriptions, before the step's work so that nothing lies between it and the kernel; n_data: words of
 * lists. */
imp_status exec_sample_send(bexec *x, const ticket_slot *t, uint64_t n_data, imp_err *e);
imp_status exec_sample_rows(bexec *x, ticket_slot *t, imp_err *e); /* queues the kernel, results included */
void exec_sampled(const ticket_slot *t, int32_t k, const sample_row_in *in, sample_row_out *out);
uint64_t exec_sample_bytes(const bexec *x, int32_t n_row); /* room for their descriptions */

#endif

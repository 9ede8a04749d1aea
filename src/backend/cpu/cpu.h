/* cpu: what the CPU backend's files share. One pool entry a step: every thread walks the plan's operations in order, takes
 * its static share of each, and meets the others at a barrier between operations.
 *
 * Registers are f32, [rows][width], row-major, at offsets that liveness packed into one workspace. The fast paths turn a
 * register into quantised rows (`prep`) once and share that between the operations that multiply by it. */
#ifndef IMP_BACKEND_CPU_CPU_H
#define IMP_BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "base/pool.h"

typedef struct cpu_isa cpu_isa;
typedef struct cpu_linear cpu_linear;

struct backend {
    pool *pool;
    const cpu_isa *isa;
    bool scalar;               /* the reference path: exact weights, f32 activations, f32 KV */
    uint64_t weights, kv, workspace; /* bytes held */
    const log_sink *log;
};

/* How products with one weight format are computed on one instruction set. */
struct cpu_linear {
    const char *name;          /* "vnni q4_k 16-row", shown by inspect */
    bool generic;              /* slow but right: said so wherever it shows */
    /* Builds w->packed from w->w; NULL: computes from the mapping. Runs on the loading thread and may use the pool. */
    imp_status (*pack)(backend *b, bweight *w, imp_err *e);
    /* Prepared activations: bytes a row of k values takes, and the preparation of one row. NULL: takes f32 rows. */
    size_t (*prep_bytes)(uint64_t k);
    void (*prep)(const float *x, uint64_t k, void *dst);
    int prep_kind;             /* equal kinds can share prepared rows; 0 = plain f32 */
    /* y[t*y_stride + r - row_begin'..] for rows [row_begin, row_end) of expert `expert` and n_tok prepared rows:
     * y points at row 0's column, results go to y[t*y_stride + r]. row_begin is a multiple of `grain`. */
    void (*rows)(const bweight *w, uint32_t expert, uint64_t row_begin, uint64_t row_end, const void *x, size_t x_stride,
                 int32_t n_tok, float *y, size_t y_stride, void *scratch);
    size_t (*scratch)(uint64_t k); /* bytes a thread needs in rows(); NULL = none */
    uint32_t grain;            /* rows a thread's share is cut at */
};

struct bweight {
    const weight *w;
    uint64_t rows, cols;       /* of one expert */
    const cpu_linear *lin;     /* NULL for vectors */
    void *packed;
    uint64_t packed_bytes;
    float *vec;                /* vectors: decoded; matrices: NULL */
    float *bias;               /* [n_expert*rows], NULL = none */
    uint64_t bytes;            /* anonymous memory held */
};

/* One instruction set: its name and its kernels. Everything that is not named here has a portable body. */
struct cpu_isa {
    const char *name;
    bool (*supported)(void);
    /* The kernel for a weight, never NULL for a format that decodes. */
    const cpu_linear *(*pick)(const weight *w);
    void (*attend)(bexec *x, const plan_op *op, int ith, int nth); /* NULL: the reference */
    void (*norm)(const float *x, const float *w, float plus, float eps, uint32_t n, float *y); /* NULL: the reference */
    void (*glu)(const float *g, const float *u, plan_act act, uint32_t n, float *y);           /* NULL: the reference */
    double (*read_bytes)(const void *p, size_t n);                  /* sums n bytes as fast as it can (NULL: portable) */
};

extern const cpu_isa cpu_isa_scalar;
extern const cpu_isa *const cpu_isa_list[]; /* best first, NULL-terminated, scalar last */

struct kvcache {
    backend *b;
    const plan *p;
    kv_type type;
    int32_t block_size, n_state;
    struct {
        uint8_t *mem;          /* reserved for n_block blocks; pages come as they are touched */
        uint64_t block_bytes, reserved;
        int64_t n_block, usable;
        uint32_t n_head;       /* K and V are stored head by head inside a block: [head][block_size][width/n_head] */
    } group[PLAN_MAX_GROUPS];
    float *state;              /* [n_state][state_floats] */
    uint64_t state_floats;
    uint64_t *state_off;       /* [plan.n_state] floats */
};

typedef void (*cpu_op_fn)(bexec *x, const plan_op *op, int ith, int nth);

struct bexec {
    backend *b;
    const plan *p;
    bweight **w;
    kvcache *kv;
    plan_limits lim;
    uint64_t *off;             /* [n_reg] byte offset into work */
    uint8_t *work;
    uint64_t work_bytes;
    cpu_op_fn *fn;             /* [n_op] */
    struct prep {              /* prepared rows of a register, by kind */
        plan_reg reg;
        int kind;
        uint64_t off;
        size_t stride;
        int32_t maker;         /* the operation that prepares it */
    } *prep;
    int32_t n_prep;
    int32_t *prep_of;          /* [n_op] index into prep, -1 = plain rows */
    uint8_t *scratch;          /* [n_threads][scratch_bytes] */
    size_t scratch_bytes;
    void *sample_work;         /* one a thread */
    size_t sample_bytes;
    const batch *batch;        /* of the step in flight */
    int32_t *last_tok;         /* [lim.n_seq] what was sampled for each slot */
    sample_row_out *row[2];    /* results of the last two tickets */
    imp_status *row_status[2];
    backend_ticket ticket;
    int32_t n_row[2];
    int32_t *row_tok;          /* [lim.n_row] */
};

/* ---- used by operations ------------------------------------------------------------------------------------------- */
static inline float *exec_reg(const bexec *x, plan_reg r) { return (float *)(void *)(x->work + x->off[r]); }
static inline int32_t exec_rows(const bexec *x, plan_reg r)
{
    return x->p->reg[r].dim == DIM_R ? x->batch->n_row : x->batch->n_tok;
}
static inline uint32_t exec_width(const bexec *x, plan_reg r) { return x->p->reg[r].width; }
static inline const bweight *exec_weight(const bexec *x, const plan_op *op, int i)
{
    return op->weight[i] == PLAN_NONE ? NULL : x->w[op->weight[i]];
}
static inline void *exec_scratch(const bexec *x, int ith) { return x->scratch + (size_t)ith * x->scratch_bytes; }

/* Address of K (v = false) or V of one block, slot and head: [block_size][width] elements. */
uint8_t *kv_at(const kvcache *kv, int32_t group, int32_t block, int32_t slot, uint32_t head, bool v);

/* ops.c: the portable operation of each kind. */
extern const cpu_op_fn cpu_ops[OP_COUNT];
float cpu_act(plan_act act, float x);
/* attend.c: the reference attention. */
void cpu_attend(bexec *x, const plan_op *op, int ith, int nth);
size_t cpu_attend_scratch(const plan_op *op, int32_t block_size);
/* recurrent.c */
void cpu_conv(bexec *x, const plan_op *op, int ith, int nth);
void cpu_gdn(bexec *x, const plan_op *op, int ith, int nth);
void cpu_mamba2(bexec *x, const plan_op *op, int ith, int nth);
/* linear.c: any format, from the mapping, exact weights times f32 rows. */
extern const cpu_linear cpu_linear_generic;
imp_status cpu_upload(backend *b, const weight *w, plan_op_kind hint, uint64_t row_begin, uint64_t row_end, uint64_t col_begin,
                      uint64_t col_end, bweight **out, imp_err *e);
void cpu_weight_free(backend *b, bweight *w);
/* kv.c */
imp_status cpu_kv_open(backend *b, const plan *p, const kv_options *opt, kvcache **out, imp_err *e);
imp_status cpu_kv_grow(kvcache *kv, int32_t group, int64_t n_block, imp_err *e);
void cpu_kv_copy_block(kvcache *kv, int32_t group, int32_t from, int32_t to);
void cpu_kv_copy_state(kvcache *kv, int32_t from, int32_t to);
uint64_t cpu_kv_block_bytes(const kvcache *kv, int32_t group);
kv_type cpu_kv_get_type(const kvcache *kv);
void cpu_kv_close(kvcache *kv);
void cpu_kv_store(bexec *x, const plan_op *op, int ith, int nth);
/* exec.c */
imp_status cpu_compile(backend *b, const plan *p, bweight *const *w, kvcache *kv, const plan_limits *lim, bexec **out, imp_err *e);
void cpu_exec_free(bexec *x);
imp_status cpu_submit(bexec *x, const batch *b, backend_ticket *t, imp_err *e);
imp_status cpu_wait(bexec *x, backend_ticket t, step_result *out, imp_err *e);

#endif

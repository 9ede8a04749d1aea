/* exec: a plan as a list of instructions that all threads of the pool walk through together.
 * Invariants: (1) an instruction writes only what its split gives the thread: TOKEN: whole rows; COL: a range of
 * columns of every row, cut at multiples of 32; OTHER: as it likes, read only after a barrier. (2) Instructions between
 * two barriers form an epoch; an operand made in the same epoch is read with the split that made it. (3) Two registers
 * share memory only when the last epoch of one lies before the first of the other. (4) After compile nothing is
 * allocated. */
#ifndef IMP_BACKEND_CPU_EXEC_H
#define IMP_BACKEND_CPU_EXEC_H

#include "backend/cpu/cpu.h"
#include "base/arena.h"

typedef enum cpu_split { SPLIT_TOKEN, SPLIT_COL, SPLIT_OTHER } cpu_split;

typedef struct instr instr;
typedef void (*instr_fn)(const bexec *x, const instr *in, int ith);

/* A value in the workspace: a register of the plan, its quantised form, or a rotation table. */
typedef struct xreg {
    plan_dim dim;
    uint32_t width, ld;      /* columns, and f32 from row to row */
    bool quantised;          /* a cpu_qact instead of rows */
    cpu_qform form;          /* of it */
    bool idx;                /* i32 */
    int32_t source;          /* of a quantised form: the register */
    cpu_split split;         /* of its writer */
    int32_t epoch, last;     /* written in, last read in; last -1 = never made */
    uint64_t off, bytes;
} xreg;

struct instr {
    instr_fn run;
    const plan_op *op;       /* NULL for quantise and rope tables */
    bool barrier;            /* before it */
    cpu_split split;
    int32_t in[6], out[2];   /* xreg, -1 absent */
    const bweight *w[3];
    int32_t table;           /* ROPE: xreg of cosines and sines */
    const plan_rope *rope;   /* rope tables */
    uint32_t n_head;         /* KV_STORE: kv heads, as the readers of its slot count them */
};

struct bexec {
    backend *be;
    const plan *p;
    kvcache *kv;
    plan_limits lim;
    int32_t last_route;      /* operation; -1: none */
    arena mem;
    instr *code;
    int32_t n_code, cap_code;
    xreg *reg;               /* [plan.n_reg], then quantised forms and tables */
    int32_t n_reg, cap_reg;
    const char **kernel;     /* [plan.n_op] */
    int32_t epoch;           /* while compiling */
    int32_t kv_epoch;        /* last epoch that stored into the cache */

    uint8_t *work;           /* registers, then one scratch a thread */
    uint64_t n_work, off_scratch, scratch_bytes;
    uint64_t off_sample;     /* inside a thread's scratch: the sampler's work */

    /* one step */
    const batch *b;
    int32_t *id, *ext;       /* [lim.n_tok] resolved ids, rows of ext_row */
    int32_t *last_id;        /* [lim.n_seq] sampled for each slot */
    long *best;              /* [lim.n_row][n_thread] greedy candidates */
    backend_ticket n_submitted;
    struct step_out {
        sample_row_out *row;
        imp_status *status;
        int32_t n;
    } out[2];
};

static inline long x_rows(const bexec *x, plan_dim d)
{
    return d == DIM_T ? x->b->n_tok : d == DIM_R ? x->b->n_row : 0;
}
static inline float *x_f32(const bexec *x, int32_t r) { return (float *)(x->work + x->reg[r].off); }
static inline int32_t *x_i32(const bexec *x, int32_t r) { return (int32_t *)(x->work + x->reg[r].off); }
static inline void *x_scratch(const bexec *x, int ith)
{
    return x->work + x->off_scratch + (uint64_t)ith * x->scratch_bytes;
}

/* Bytes of a quantised register: metas behind quants. */
static inline uint64_t qact_bytes(cpu_qform form, long nb, long n_tok)
{
    return (uint64_t)nb * (uint64_t)n_tok * ((uint64_t)cpu_qblock(form) + sizeof(cpu_qmeta));
}
static inline cpu_qact x_qact(const bexec *x, int32_t r)
{
    long n = x_rows(x, x->reg[r].dim), nb = (x->reg[r].width + 31) / 32;
    int8_t *q = (int8_t *)(x->work + x->reg[r].off);
    return (cpu_qact){.q = q, .meta = (cpu_qmeta *)(q + nb * cpu_qblock(x->reg[r].form) * n), .nb = nb, .n_tok = n};
}

/* Where block 0 of token t lies, and the tokens between its blocks. */
static inline long qact_at(const cpu_qact *a, long t, long *step)
{
    long tile = t / CPU_TILE, left = a->n_tok - tile * CPU_TILE;
    *step = left < CPU_TILE ? left : CPU_TILE;
    return tile * CPU_TILE * a->nb + t % CPU_TILE;
}

/* How an operation is compiled: see exec.c. */
typedef struct op_row {
    instr_fn run;
    cpu_split split;     /* OTHER when it reads rows made by others; elementwise operations may follow a COL writer */
    bool elementwise;    /* column j of a result needs column j of the operands only */
    const char *name;
} op_row;
extern const op_row cpu_op_table[OP_COUNT];

void run_quantise(const bexec *x, const instr *in, int ith);
void run_rope_table(const bexec *x, const instr *in, int ith);
/* exec_moe.c */
void run_route(const bexec *x, const instr *in, int ith);
void run_combine(const bexec *x, const instr *in, int ith);
void run_decay(const bexec *x, const instr *in, int ith);
void run_expert_linear(const bexec *x, const instr *in, int ith);
void run_head_linear(const bexec *x, const instr *in, int ith);
/* exec_recurrent.c */
void run_conv(const bexec *x, const instr *in, int ith);
void run_gdn(const bexec *x, const instr *in, int ith);
void run_mamba2(const bexec *x, const instr *in, int ith);
void cpu_begin_states(const bexec *x);
uint64_t cpu_expert_scratch(const bweight *w);
uint64_t cpu_route_scratch(const plan_route *r);
/* Rows [r0, r1) of one matrix times f32 rows, without packing: float rows where they lie, other formats decoded.
 * scratch: 4 * (cols + 16) floats. */
void cpu_linear_f32(const bexec *x, const bweight *b, long expert, long r0, long r1, const float *in, long ldx,
                    long n_tok, float *y, long ldy, void *scratch);

#endif

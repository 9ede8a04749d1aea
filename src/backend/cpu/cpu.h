/* cpu: what the files of the CPU backend share. Objects belong to one thread at a time (backend.h); inside a step all
 * threads of the pool read them and write disjoint parts of the workspace. */
#ifndef IMP_BACKEND_CPU_CPU_H
#define IMP_BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/pack.h"
#include "base/pool.h"

typedef enum cpu_level { CPU_SCALAR, CPU_AVX2, CPU_AVX512, CPU_VNNI, CPU_AMX, CPU_LEVELS } cpu_level;

/* Memory that several packed weights share, so that small ones lie on huge pages too. */
typedef struct cpu_slab {
    uint8_t *data; /* mem_map */
    uint64_t n_data, used;
    uint32_t refs; /* weights in it, and the backend while it still gives from it */
} cpu_slab;

struct backend {
    pool *pool;
    cpu_slab *slab;    /* the one that weights are taken from; NULL: none yet */
    int n_thread;
    cpu_level level;
    const cpu_ops *ops;
    const cpu_mm *mm;  /* products with packed weights; NULL on the scalar path */
    long ahead;        /* of cpu_panels: how far ahead this machine wants to be asked for a stream of weights */
    const log_sink *log;
    _Atomic uint64_t n_weights, n_kv, n_work; /* bytes held; memory() may be asked while a step grows the cache */
};

struct bweight {
    const weight *w;       /* borrowed: the model outlives its weights on a backend */
    const cpu_pack *pack;  /* NULL: not packed */
    cpu_slab *slab;        /* holds data */
    uint8_t *data;         /* n_expert * n_group panels of 16 rows */
    uint64_t n_data, panel; /* bytes in all, bytes a panel */
    long n_group;          /* panels an expert */
    quant_id plain;        /* F32, F16 or BF16 when rows can be multiplied as they lie; else QUANT_NONE */
    float *bias;           /* [n_expert * rows] or NULL */
    float *vec;            /* all values as f32: vectors (norms, biases, sinks); else NULL */
    uint64_t n_bytes;
};

struct kvcache {
    backend *be;
    const plan *p;
    kv_type type;
    quant_id elem;
    int32_t block;
    int n_group;
    struct kv_group {
        uint8_t *base;
        uint64_t block_bytes, reserved; /* bytes of address space */
        int64_t n_block, n_grown;
        bool tiled;
    } group[PLAN_MAX_GROUPS];
    float *state;         /* n_state slots of state_floats */
    uint64_t state_floats;
    uint64_t *state_off;  /* [plan.n_state] floats into a slot */
    int32_t n_state;
};

/* View of the cache for one group and slot. */
cpu_kv_view kv_view(const kvcache *kv, int32_t group, int32_t slot, uint32_t d_k, uint32_t d_v);

imp_status cpu_upload(backend *b, const weight *w, plan_op_kind hint, uint64_t row_begin, uint64_t row_end,
                      uint64_t col_begin, uint64_t col_end, bweight **out, imp_err *e);
uint64_t cpu_weight_bytes(const bweight *w);
void cpu_weight_free(backend *b, bweight *w);
void cpu_slab_drop(cpu_slab *s); /* one reference; NULL is fine */

imp_status cpu_kv_open(backend *b, const plan *p, const kv_options *opt, kvcache **out, imp_err *e);
imp_status cpu_kv_grow(kvcache *kv, int32_t group, int64_t n_block, imp_err *e);
void cpu_kv_copy_block(kvcache *kv, int32_t group, int32_t from, int32_t to);
void cpu_kv_copy_state(kvcache *kv, int32_t from, int32_t to);
uint64_t cpu_kv_block_bytes(const kvcache *kv, int32_t group);
kv_type cpu_kv_get_type(const kvcache *kv);
void cpu_kv_close(kvcache *kv);

imp_status cpu_compile(backend *b, const plan *p, bweight *const *w, kvcache *kv, const plan_limits *lim, bexec **out,
                       imp_err *e);
uint64_t cpu_exec_workspace(const bexec *x);
const char *cpu_exec_kernel(const bexec *x, int32_t op);
void cpu_exec_free(bexec *x);
imp_status cpu_submit(bexec *x, const batch *b, backend_ticket *t, imp_err *e);
imp_status cpu_wait(bexec *x, backend_ticket t, step_result *out, imp_err *e);

#endif

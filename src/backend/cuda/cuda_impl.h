/* cuda_impl: the inside of the CUDA backend. A backend owns one context, streams for steps, for uploads and for the
 * tables of steps to come, and every allocation that its objects made; all of it belongs to one thread at a time. */
#ifndef IMP_CUDA_IMPL_H
#define IMP_CUDA_IMPL_H

#include "backend/backend.h"
#include "backend/cuda/driver.h"
#include "backend/cuda/kernels/params.h"
#include "backend/cuda/kernels/sample_params.h"
#include "base/pool.h"

/* Kernels that exist once for each layout of weights. */
#define EACH_LAYOUT(F, X) F(X, f16) F(X, i8) F(X, u4) F(X, nv4) F(X, q4k) F(X, q5k) F(X, q6k) F(X, f8)
#define GEMV_KERNELS(X, l) X(gemv_##l)
#define DENSE_KERNELS(X, l) \
    X(gemv_##l##_norm) X(gemv_##l##_norm8) X(gemv_##l##_pair) X(gemv_##l##_pair8) X(gemv_##l##_half)
#define FEW_KERNELS(X, l) X(gemv_##l##_few) X(gemv_##l##_few_pair)
#define EXPERTS_KERNELS(X, l) X(experts_up_##l) X(experts_up_##l##_p) X(experts_down_##l) X(experts_down_##l##_p)

#define KERNEL_LIST(X)                                                                                                \
    EACH_LAYOUT(GEMV_KERNELS, X) X(gemv_q4k_q6k) X(gemv_q5k_q6k) X(gemv_any)                                          \
    EACH_LAYOUT(DENSE_KERNELS, X)                                                                                     \
    X(gemv_q4k_q6k_norm) X(gemv_q5k_q6k_norm) X(gemv_q4k_q6k_norm8) X(gemv_q5k_q6k_norm8)                             \
    EACH_LAYOUT(FEW_KERNELS, X) X(gemv_q4k_q6k_few) X(gemv_q5k_q6k_few)                                               \
    X(rows2) X(rows4) X(rows8) X(rows_sum) X(repack) X(rescale) X(fill_random) X(read) X(embed)                       \
    X(norm) X(norm_group) X(add) X(mul) X(unary) X(glu) X(gate) X(slice) X(concat) X(gather) X(combine) X(decay)      \
    X(qkv) X(rope) X(kv_store) X(route) X(greedy) X(sample)                                                           \
    X(attend_h128) X(attend_h256) X(attend_h576) X(attend_f128) X(attend_f256) X(attend_f576) X(attend_join)          \
    X(attend_d64) X(attend_d128) X(attend_d256)                                                                       \
    X(attend_q64) X(attend_q128) X(attend_q256) X(attend_q64p) X(attend_q128p) X(attend_q64l) X(attend_q128l)         \
    X(attend_p64) X(attend_p128) X(attend_p256) X(conv) X(gdn) X(mamba2) X(moe_sort) X(fp8_copy) X(fp8_rows)          \
    X(precise_one) X(precise_four) X(precise_many) X(precise_embed)                                                   \
    EACH_LAYOUT(EXPERTS_KERNELS, X) X(experts_up_q4k_r)

/* kernels that exist for one generation only: absent ones are NULL */
#define KERNEL_LIST_HOPPER(X)                                                                                         \
    X(prefill_1x64) X(prefill_1x128) X(prefill_1x256) X(prefill_2x64) X(prefill_2x128) X(experts_d16)                 \
    X(attend_w64) X(attend_w128) X(attend_w256) X(batch8) X(batch16) X(batch32) X(batch64) X(batch128)                \
    X(fp8_128x256) X(fp8_64x256) X(fp8_128x128) X(fp8_64x128) X(fp8_64x64)

typedef enum kernel_id {
#define K_X(n) K_##n,
    KERNEL_LIST(K_X) KERNEL_LIST_HOPPER(K_X)
#undef K_X
    K_COUNT
} kernel_id;

#define MAX_LIBRARIES 24
#define STAGE_BYTES (32u << 20)
#define N_STAGE 2

struct backend {
    cu_api cu;
    CUdevice dev;
    CUcontext ctx;
    bool retained, deterministic, prefill_fp8, precise;
    int fp8_tile;          /* an instrument of the GPU test: row of run_fp8.c's table + 1; 0 = choose */
    bool no_pdl, no_graph; /* instruments of the GPU test */
    bool timing;            /* events tell time */
    CUstream stream, up, tables; /* of steps, of uploads, of the tables of steps to come */
    CUlibrary lib[MAX_LIBRARIES];
    int n_lib;
    CUfunction fn[K_COUNT];
    const char *fn_name[K_COUNT];
    int n_sm, smem_max, cc;
    uint64_t total;
    char name[128];
    uint64_t weights, kv, workspace;
    const log_sink *log;
    /* uploads */
    void *stage_host[N_STAGE];
    CUdeviceptr stage_dev[N_STAGE];
    CUevent stage_done[N_STAGE];
    bool stage_used[N_STAGE];
    int stage_next;
    pool *copiers;          /* made by the first large copy, gone when a plan is compiled */
};

struct bweight {
    bool is_vec;
    dweight d;              /* tiles */
    CUdeviceptr vec;        /* f32, is_vec */
    uint64_t n_vec;
    CUdeviceptr mem[3];     /* what to free: tiles or vec, row scales, bias */
    CUdeviceptr peak;       /* u32 that d.unit follows from, until cuda_weight_unit has asked for it; or 0 */
    uint64_t n_bytes;
    uint32_t n_expert;
    const char *layout;     /* for exec_kernel */
};

typedef struct kv_group {
    CUdeviceptr base;
    uint64_t reserved, mapped, block_bytes;
    uint64_t *k_off, *v_off; /* [n_slot] */
    uint32_t k_width, v_width; /* v_width: distance of V rows in values */
    CUmemGenericAllocationHandle *chunk;
    uint64_t *chunk_bytes;
    int32_t n_chunk, cap_chunk;
    int64_t n_block;
} kv_group;

struct kvcache {
    backend *b;
    kv_group group[PLAN_MAX_GROUPS];
    int32_t n_group, block_size, n_state;
    kv_type type;               /* of K and V: KV_F16 or KV_F32 */
    CUdeviceptr state;
    uint64_t state_bytes;       /* of a slot */
    uint64_t *state_off;        /* [plan.n_state] bytes */
    int32_t n_plan_state;
    uint64_t granularity, state_total;
};

/* Makes the backend's context current; every entry point of the table begins with it. */
imp_status cuda_enter(backend *b, imp_err *e);
imp_status cuda_alloc(backend *b, uint64_t n_bytes, uint64_t *account, CUdeviceptr *out, const char *what, imp_err *e);
void cuda_free(backend *b, CUdeviceptr p, uint64_t n_bytes, uint64_t *account);
/* Launches on s; pdl: may begin before its predecessor in the stream is done (every kernel of ours waits by itself). */
imp_status cuda_launch(backend *b, CUstream s, kernel_id k, uint32_t gx, uint32_t gy, uint32_t gz, uint32_t threads,
                       uint32_t smem, bool pdl, const void *args, imp_err *e);
/* The same in clusters of `cluster` blocks along x. */
imp_status cuda_launch_cluster(backend *b, CUstream s, kernel_id k, uint32_t gx, uint32_t gy, uint32_t gz,
                               uint32_t cluster, uint32_t threads, uint32_t smem, bool pdl, const void *args,
                               imp_err *e);

imp_status cuda_upload(backend *b, const weight *w, plan_op_kind hint, uint64_t row_begin, uint64_t row_end,
                       uint64_t col_begin, uint64_t col_end, bweight **out, imp_err *e);
uint64_t cuda_weight_bytes(const bweight *w);
void cuda_weight_free(backend *b, bweight *w);
/* d.unit of a weight, which the device knows first; before any kernel gets d, and after its upload is done. */
imp_status cuda_weight_unit(backend *b, bweight *w, imp_err *e);
void cuda_upload_done(backend *b); /* lets the copying threads go */

imp_status cuda_kv_open(backend *b, const plan *p, const kv_options *opt, kvcache **out, imp_err *e);
imp_status cuda_kv_grow(kvcache *kv, int32_t group, int64_t n_block, imp_err *e);
void cuda_kv_copy_block(kvcache *kv, int32_t group, int32_t from, int32_t to);
void cuda_kv_copy_state(kvcache *kv, int32_t from, int32_t to);
uint64_t cuda_kv_block_bytes(const kvcache *kv, int32_t group);
kv_type cuda_kv_get_type(const kvcache *kv);
void cuda_kv_close(kvcache *kv);

imp_status cuda_compile(backend *b, const plan *p, bweight *const *w, kvcache *kv, const plan_limits *lim, bexec **out,
                        imp_err *e);
uint64_t cuda_exec_workspace(const bexec *x);
const char *cuda_exec_kernel(const bexec *x, int32_t op);
void cuda_exec_free(bexec *x);
imp_status cuda_submit(bexec *x, const batch *bt, backend_ticket *t, imp_err *e);
imp_status cuda_wait(bexec *x, backend_ticket t, step_result *out, imp_err *e);

static inline uint32_t up_to(uint32_t v, uint32_t m) { return (v + m - 1) / m * m; }
static inline uint32_t div_up(uint32_t v, uint32_t m) { return (v + m - 1) / m; }

#endif

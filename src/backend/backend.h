/* backend: the interface between plans and the machines that compute them. A versioned struct of functions; entries are
 * only added at the end. Support is decided when a plan is compiled: a pair (operation, format) without a kernel is an
 * error naming tensor, format and backend, or a generic kernel whose name says so (inspect --plan shows it).
 * Threads: a backend object and all it made belong to one thread at a time (the engine's), but for exec_kernel and
 * memory, which only read. Failures: IMP_E_NOMEM and IMP_E_UNSUPPORTED at load, IMP_E_DEVICE when the device is
 * lost. */
#ifndef IMP_BACKEND_BACKEND_H
#define IMP_BACKEND_BACKEND_H

#include "base/log.h"
#include "base/status.h"
#include "plan/batch.h"
#include "plan/plan.h"
#include "quant/weight.h"

#define BACKEND_VERSION 1

typedef struct backend backend;  /* an open device */
typedef struct bweight bweight;  /* a weight on it */
typedef struct kvcache kvcache;  /* KV blocks and recurrent states of a plan */
typedef struct bexec bexec;      /* a compiled plan */

typedef enum kv_type { KV_AUTO, KV_F32, KV_F16, KV_BF16, KV_FP8, KV_Q8_0, KV_NVFP4 } kv_type;

typedef struct backend_options {
    int32_t device;
    int32_t n_threads;       /* 0 = all allowed (CPU) */
    const char *cpu;         /* "auto", "scalar", "avx2", "avx512", "vnni", "amx" */
    bool deterministic, profile; /* profile: events around steps, for backend_profile.idle_us */
    bool prefill_fp8;        /* prompts with e4m3 products; IMP_E_UNSUPPORTED where there are none */
    const log_sink *log;
    bool precise;            /* every product with the file's exact weights, f32 inputs and f32 sums, and K and V in
                              * f32 where their type is KV_AUTO; CPU: the scalar path */
} backend_options;

typedef struct kv_options {
    kv_type type;            /* KV_AUTO: the backend chooses (f32 when it is precise; CPU: also when every weight is a
                              * float format or the model a mixture; else f16) */
    int32_t block_size;      /* tokens a block: 64; tests also run with 2 */
    int64_t n_block[PLAN_MAX_GROUPS]; /* most blocks ever; address space is reserved, memory comes with kv_grow */
    int32_t n_state;         /* state slots */
} kv_options;

typedef struct plan_limits {
    int32_t n_tok, n_row, n_seq; /* most a step */
} plan_limits;

typedef int64_t backend_ticket;

typedef struct step_result {
    imp_status status;       /* of the step; a failed row has its own in row_status */
    int32_t n_row;
    const sample_row_out *row;     /* [n_row]; valid until the ticket after next is submitted */
    const imp_status *row_status;  /* [n_row] */
} step_result;

typedef struct backend_memory {
    uint64_t total, free;    /* bytes of the device (CPU: of the machine or cgroup) */
    uint64_t weights, kv, workspace; /* bytes held by this backend object */
} backend_memory;

/* Time by role: all layers' operations of a role run back to back. bytes: of the weights they read, as the file has
 * them. */
typedef struct backend_profile_row {
    char name[48];           /* "gate: gemv/rows Q4K" */
    int32_t count;
    double us, bytes;        /* of all layers together, once */
} backend_profile_row;
typedef struct backend_profile {
    int64_t n_step;
    double idle_us, step_us; /* the device between steps that followed each other at once, and in them, on average */
    int32_t n;
    backend_profile_row row[64];
} backend_profile;

typedef struct backend_api {
    uint32_t version;
    const char *name;        /* "cpu", "cuda" */

    imp_status (*open)(const backend_options *opt, backend **out, imp_err *e);
    void (*close)(backend *b);                       /* after everything made from it was freed */
    /* "AVX-512 VNNI, 2 threads", "NVIDIA H100 80GB HBM3, driver 580" */
    void (*describe)(backend *b, char *out, size_t n);
    imp_status (*memory)(backend *b, backend_memory *out, imp_err *e);

    /* Uploads rows [row_begin,row_end) x cols [col_begin,col_end) (0,0 = all), repacking once into the layout the
     * kernels like. hint: the operation kind that will use it most (LINEAR, EMBED, EXPERT_LINEAR, NORM ...); a tied
     * embedding is uploaded once with hint LINEAR and must serve EMBED as well. */
    imp_status (*upload)(backend *b, const weight *w, plan_op_kind hint, uint64_t row_begin, uint64_t row_end,
                         uint64_t col_begin, uint64_t col_end, bweight **out, imp_err *e);
    uint64_t (*weight_bytes)(const bweight *w);      /* as stored on the device */
    void (*weight_free)(backend *b, bweight *w);

    imp_status (*kv_open)(backend *b, const plan *p, const kv_options *opt, kvcache **out, imp_err *e);
    /* blocks [0, n_block) become usable */
    imp_status (*kv_grow)(kvcache *kv, int32_t group, int64_t n_block, imp_err *e);
    void (*kv_copy_block)(kvcache *kv, int32_t group, int32_t from, int32_t to);    /* between steps */
    void (*kv_copy_state)(kvcache *kv, int32_t from, int32_t to);                   /* from -1 clears */
    uint64_t (*kv_block_bytes)(const kvcache *kv, int32_t group);
    kv_type (*kv_get_type)(const kvcache *kv);
    void (*kv_close)(kvcache *kv);

    /* w[i] serves plan.weight[i]. Workspace is allocated here and its size is exact from then on. */
    imp_status (*compile)(backend *b, const plan *p, bweight *const *w, kvcache *kv, const plan_limits *lim,
                          bexec **out, imp_err *e);
    uint64_t (*exec_workspace)(const bexec *x);
    /* name of the kernel that serves an operation; "" = fused away */
    const char *(*exec_kernel)(const bexec *x, int32_t op);
    void (*exec_free)(bexec *x);

    /* Two tickets may be open. submit returns once the batch is queued (CPU: once computed). */
    imp_status (*submit)(bexec *x, const batch *b, backend_ticket *t, imp_err *e);
    imp_status (*wait)(bexec *x, backend_ticket t, step_result *out, imp_err *e);

    /* Bytes read a second by the backend's own read-only kernel over n_bytes (0: a size past the caches). */
    imp_status (*read_ceiling)(backend *b, uint64_t n_bytes, double *bytes_per_s, imp_err *e);

    int32_t n_ticket; /* tickets worth having open at once: 1 where submit computes, 2 where it queues */
    int32_t n_batch;  /* tokens a step when nobody says how many */

    /* Repeats the step that was submitted last, role by role (its results and KV are rewritten); no ticket may be open.
     * NULL where there is none. */
    imp_status (*profile)(bexec *x, int32_t reps, backend_profile *out, imp_err *e);

    bool one_class;   /* prompt and generated tokens share kernels; else they do with backend_options.deterministic
                       * only */
} backend_api;

extern const backend_api backend_cpu;
extern const backend_api backend_cuda; /* only in builds with CUDA */

#endif

/* gpu_test: what the parity and the timing half share: random weights of any format, small plans, steps. */
#ifndef GPU_TEST_H
#define GPU_TEST_H

#include "backend/backend.h"
#include "backend/cuda/exec.h"
#include "base/jsonw.h"

uint64_t rnd(void);
float rnd_f(void);                       /* roughly normal, deviation 1 */
void rnd_seed(uint64_t s);

/* Random but valid blocks of a format, values of deviation about 0.02. */
void fill_blocks(quant_id f, void *dst, uint64_t n_block);
/* pool_bytes 0: every row its own bytes; else all rows come from a pool of that size (timing). */
weight *make_weight(const char *name, quant_id f, uint32_t n_expert, uint64_t rows, uint64_t cols, uint64_t pool_bytes);
weight *make_vector(const char *name, uint64_t n, float mean, float dev);
void add_bias(weight *w);

typedef struct shape {
    const char *name;
    uint32_t n_layer, hidden, n_head /* 0: no attention */, n_kv_head, d, ff, vocab, n_expert, n_used, window;
    bool qk_norm, tied, bias, post_norm, sinks;
    bool fused_experts; /* gate and up in one matrix, with biases */
    bool expert_bias, expert_factor; /* experts of three matrices with biases; a factor for each expert's weight */
    float choice_bias; /* how far apart the values are that are added before experts are compared; 0 = there are none */
    plan_route route; /* how experts are chosen; all zero = softmax, weights sum to 1. n_expert and k are set by the
                       * shape */
    float softcap, final_softcap;
    float norm; /* what the weights of its rows' norms are about; 0 = 1 */
    plan_act act;
    quant_id fmt, fmt_v, fmt_down, fmt_head, fmt_embd; /* attn_v and ffn_down of every other layer may differ
                                                        * (Q4_K_M) */
    uint64_t pool;
} shape;

typedef struct model {
    plan p;
    double linear_bytes, linear_params; /* multiplied a token, without the embedding: bytes in the file; parameters
                                         * without the head */
} model;
imp_status build_model(const shape *s, model *m, imp_err *e);

/* One backend with everything a plan needs on it. */
typedef struct rig {
    const backend_api *api;
    backend *b;
    bweight **w;
    kvcache *kv;
    bexec *x;
    plan *p;
    int32_t block;
    double upload_s;
} rig;
imp_status rig_open(rig *r, const backend_api *api, const char *cpu, bool deterministic, plan *p, int32_t block,
                    int64_t n_block, plan_limits lim, int threads, imp_err *e);
imp_status rig_reopen(rig *r, plan_limits lim, imp_err *e);
void rig_close(rig *r);
bool cuda_refuses(backend_options bo); /* with IMP_E_UNSUPPORTED, and leaves nothing open */
/* CUDA rigs that are opened now: prompts in FP8; exact products (F32 weights made now then have all their bits, else
 * f16's). */
extern bool rig_fp8, rig_precise;

/* |a - b| / |b| over n values, |a - b| where b is zero. */
double rel_l2(const float *a, const double *b, uint64_t n);

/* A sequence for steps: positions [n_past, n_past + n) with ids; its blocks are first_block, first_block + 1, ... */
typedef struct seq_step {
    int32_t n_past, n, first_block, slot;
    const int32_t *ids;                  /* NULL: LAST */
    uint8_t cls;
    bool all_rows;                       /* a row for every token; else for the last */
} seq_step;
/* Runs one step; logits (may be NULL) get all rows' logits, sampled (may be NULL) the greedy tokens. */
imp_status run_step(rig *r, const seq_step *s, int32_t n_seq, float *logits, int32_t *sampled, imp_err *e);
imp_status submit_step(rig *r, const seq_step *s, int32_t n_seq, float *logits, int32_t bank, backend_ticket *t,
                       imp_err *e);

int run_sample(jw *out, bool tiny, int *n_tests); /* returns failures */
int run_errors(int *n_tests);
int run_fp8(jw *out, bool tiny, int *n_tests);
int run_fp8_bench(void);
extern bool opt_no_pdl, opt_no_graph, opt_decode, opt_prompt, opt_batches;
int run_parity(jw *out, const char *only);
/* Its parts: products against double arithmetic, a model against the CPU. They count. */
extern int parity_run, parity_bad;
void parity_linear(jw *o, quant_id f, uint32_t rows, uint32_t cols, bool bias);
void parity_model(jw *o, const shape *sh, int32_t block, int32_t prompt);
int run_bench(jw *out, const char *only);

#endif

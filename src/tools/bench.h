/* bench: llama-bench's tests through the engine itself: prompts prefilled and sampled tokens fed back, exactly as a
 * request runs. Each test is a prompt of n_prompt tokens, or n_gen tokens after n_depth tokens of context, on n_seq
 * sequences. */
#ifndef IMP_TOOLS_BENCH_H
#define IMP_TOOLS_BENCH_H

#include "imp.h"

typedef struct bench_test {
    uint32_t n_prompt, n_gen, n_depth, n_seq;
} bench_test;

#define BENCH_MAX_RUNS 1000

typedef struct bench_result {
    bench_test test;
    uint32_t n;               /* samples */
    int64_t *ns;              /* [n] owned: imp_free */
    double avg_ns, std_ns, avg_ts, std_ts; /* tokens a second over all sequences */
    double min_ts, max_ts, median_ts;
} bench_result;

/* One warm-up, then runs samples. vocab: ids are drawn from it, the same for every run. */
imp_status bench_run(imp_engine *g, const bench_test *t, uint32_t runs, uint32_t vocab, bench_result *out, imp_err *e);

/* Tokens of context that the test takes in an engine that computes n_batch tokens a step. */
uint32_t bench_context(const bench_test *t, uint32_t n_batch);

typedef struct bench_check_result {
    uint32_t n_row, n_top1;   /* rows compared; how many have the same largest logit */
    double error, kl;         /* largest max|a-b| / max|b| of a row; mean KL(reference, engine) */
} bench_check_result;

/* Lets the engine answer a prompt of n_prompt random tokens with n_gen greedy ones and compares the logits of every row
 * with those of the CPU's scalar path on the same model (a second engine in this process), given the same tokens. */
imp_status bench_check(imp_engine *g, imp_model *m, uint32_t n_prompt, uint32_t n_gen, bench_check_result *out,
                       imp_err *e);

/* Writes the model that a path names (random:SHAPE:FORMAT above all) as one GGUF file. */
imp_status bench_write(const char *model, const char *path, imp_err *e);

#endif

/* bench: llama-bench's tests through the engine itself: prompts prefilled and sampled tokens fed back, exactly as a request
 * runs. Each test is a prompt of n_prompt tokens, or n_gen tokens after n_depth tokens of context, on n_seq sequences. */
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

#endif

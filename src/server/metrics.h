/* metrics: counters and histograms in Prometheus' text form, under vLLM's names. One lock, held for a few additions;
 * the engine is never locked (its gauges are read from imp_engine_stats). */
#ifndef IMP_SERVER_METRICS_H
#define IMP_SERVER_METRICS_H

#include <pthread.h>

#include "base/strbuf.h"
#include "imp.h"

typedef enum metric_hist {
    HIST_TTFT, HIST_ITL, HIST_TPOT, HIST_TPOT_OLD, HIST_E2E, HIST_QUEUE, HIST_INFERENCE, HIST_PREFILL, HIST_DECODE,
    HIST_PROMPT, HIST_GENERATION, HIST_MAX_GENERATION, HIST_PARAM_MAX, HIST_PARAM_N, HIST_HTTP, HIST_N
} metric_hist;

typedef enum metric_finish { FINISHED_STOP, FINISHED_LENGTH, FINISHED_ABORT, FINISHED_ERROR, FINISHED_N } metric_finish;

#define METRIC_MAX_BUCKETS 40
#define METRIC_MAX_HTTP 128

typedef struct metrics {
    pthread_mutex_t lock;
    struct { uint64_t n[METRIC_MAX_BUCKETS + 1]; double sum; uint64_t count; } hist[HIST_N];
    uint64_t finished[FINISHED_N];
    uint64_t prompt_tokens, cached_tokens, generation_tokens;
    struct { const char *handler; char method[8]; char status[4]; uint64_t n; } http[METRIC_MAX_HTTP];
    uint32_t n_http;
} metrics;

void metrics_init(metrics *m);
void metrics_free(metrics *m);
void metrics_observe(metrics *m, metric_hist h, double v);
/* handler: static text. */
void metrics_http(metrics *m, const char *handler, const char *method, int status, double seconds);
void metrics_finished(metrics *m, metric_finish f);
void metrics_tokens(metrics *m, uint32_t prompt, uint32_t cached, uint32_t generated);
void metrics_print(metrics *m, const char *model, const imp_stats *st, double started_unix, strbuf *out);

#endif

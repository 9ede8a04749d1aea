#include "server/metrics.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/jsonw.h"

/* ---- tables ----------------------------------------------------------------------------------------------------- */
#define TIME_TTFT ".001 .005 .01 .02 .04 .06 .08 .1 .25 .5 .75 1 2.5 5 7.5 10 20 40 80 160 640 2560"
#define TIME_TOKEN ".01 .025 .05 .075 .1 .15 .2 .3 .4 .5 .75 1 2.5 5 7.5 10 20 40 80"
#define TIME_REQUEST ".3 .5 .8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680"
#define COUNTS "1 2 5 10 20 50 100 200 500 1000 2000 5000 10000 20000 50000 100000 200000 500000 1000000"

static const struct { const char *name, *help, *bounds; } hists[HIST_N] = {
    [HIST_TTFT] = {"vllm:time_to_first_token_seconds", "Seconds from arrival to the first token.", TIME_TTFT},
    [HIST_ITL] = {"vllm:inter_token_latency_seconds", "Seconds between two tokens.", TIME_TOKEN},
    [HIST_TPOT] = {"vllm:request_time_per_output_token_seconds",
                   "Mean seconds per token after the first, of a request.", TIME_TOKEN},
    [HIST_TPOT_OLD] = {"vllm:time_per_output_token_seconds",
                       "Old name of vllm:request_time_per_output_token_seconds.", TIME_TOKEN},
    [HIST_E2E] = {"vllm:e2e_request_latency_seconds", "Seconds from arrival to the end.", TIME_REQUEST},
    [HIST_QUEUE] = {"vllm:request_queue_time_seconds", "Seconds until a request was first scheduled.", TIME_REQUEST},
    [HIST_INFERENCE] = {"vllm:request_inference_time_seconds", "Seconds from scheduling to the last token.",
                        TIME_REQUEST},
    [HIST_PREFILL] = {"vllm:request_prefill_time_seconds", "Seconds from scheduling to the first token.", TIME_REQUEST},
    [HIST_DECODE] = {"vllm:request_decode_time_seconds", "Seconds from the first to the last token.", TIME_REQUEST},
    [HIST_PROMPT] = {"vllm:request_prompt_tokens", "Tokens of the prompt.", COUNTS},
    [HIST_GENERATION] = {"vllm:request_generation_tokens", "Tokens generated.", COUNTS},
    [HIST_MAX_GENERATION] = {"vllm:request_max_num_generation_tokens", "Most tokens of the choices of a request.",
                             COUNTS},
    [HIST_PARAM_MAX] = {"vllm:request_params_max_tokens", "Value of max_tokens.", COUNTS},
    [HIST_PARAM_N] = {"vllm:request_params_n", "Value of n.", "1 2 5 10 20"},
    [HIST_HTTP] = {"http_request_duration_seconds", "Seconds of HTTP requests.", TIME_TTFT},
};

static const char *const finished_name[FINISHED_N] = {"stop", "length", "abort", "error"};

/* ---- counting --------------------------------------------------------------------------------------------------- */
void metrics_init(metrics *m)
{
    memset(m, 0, sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
}

void metrics_free(metrics *m) { pthread_mutex_destroy(&m->lock); }

/* Text such as ".1 .25 1" to numbers; returns how many. */
static int bounds_of(const char *text, double out[METRIC_MAX_BUCKETS])
{
    int n = 0;
    for (double v = 0, scale; *text && n < METRIC_MAX_BUCKETS; out[n++] = v) {
        for (v = 0; *text >= '0' && *text <= '9'; text++)
            v = v * 10 + (*text - '0');
        if (*text == '.')
            for (scale = 10, text++; *text >= '0' && *text <= '9'; text++, scale *= 10)
                v += (*text - '0') / scale;
        if (*text == ' ')
            text++;
    }
    return n;
}

static void observe(metrics *m, metric_hist h, double v)
{
    double bound[METRIC_MAX_BUCKETS];
    int n = bounds_of(hists[h].bounds, bound), i = 0;
    while (i < n && v > bound[i])
        i++;
    m->hist[h].n[i]++;
    m->hist[h].sum += v;
    m->hist[h].count++;
}

void metrics_observe(metrics *m, metric_hist h, double v)
{
    pthread_mutex_lock(&m->lock);
    observe(m, h, v);
    pthread_mutex_unlock(&m->lock);
}

void metrics_http(metrics *m, const char *handler, const char *method, int status, double seconds)
{
    char code[4] = {(char)('0' + status / 100 % 10), 'x', 'x', 0};
    pthread_mutex_lock(&m->lock);
    observe(m, HIST_HTTP, seconds);
    uint32_t i = 0;
    while (i < m->n_http && (strcmp(m->http[i].handler, handler) || strcmp(m->http[i].method, method) ||
                             strcmp(m->http[i].status, code)))
        i++;
    if (i == m->n_http && i < METRIC_MAX_HTTP) {
        /* An odd method is not kept: whoever sends it must not choose our labels. */
        bool known = strcmp(method, "GET") == 0 || strcmp(method, "POST") == 0 || strcmp(method, "OPTIONS") == 0 ||
                     strcmp(method, "HEAD") == 0;
        m->http[i].handler = handler;
        snprintf(m->http[i].method, sizeof m->http[i].method, "%s", known ? method : "other");
        memcpy(m->http[i].status, code, sizeof code);
        m->http[i].n = 0;
        m->n_http++;
    }
    if (i < METRIC_MAX_HTTP)
        m->http[i].n++;
    pthread_mutex_unlock(&m->lock);
}

void metrics_finished(metrics *m, metric_finish f)
{
    pthread_mutex_lock(&m->lock);
    m->finished[f]++;
    pthread_mutex_unlock(&m->lock);
}

void metrics_tokens(metrics *m, uint32_t prompt, uint32_t cached, uint32_t generated)
{
    pthread_mutex_lock(&m->lock);
    m->prompt_tokens += prompt;
    m->cached_tokens += cached;
    m->generation_tokens += generated;
    pthread_mutex_unlock(&m->lock);
}

/* ---- printing --------------------------------------------------------------------------------------------------- */
static void head(strbuf *out, const char *name, const char *type, const char *help)
{
    sb_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void value(strbuf *out, const char *name, const char *labels, double v)
{
    char text[32];
    num_format_double(v, text);
    sb_printf(out, "%s%s%s%s %s\n", name, labels[0] ? "{" : "", labels, labels[0] ? "}" : "", text);
}

static void one(strbuf *out, const char *name, const char *type, const char *help, const char *labels, double v)
{
    head(out, name, type, help);
    value(out, name, labels, v);
}

static void print_hist(metrics *m, metric_hist h, const char *labels, strbuf *out)
{
    double bound[METRIC_MAX_BUCKETS];
    char text[32], l[600];
    int n = bounds_of(hists[h].bounds, bound);
    uint64_t sum = 0;
    if (h == HIST_HTTP)
        labels = "";
    const char *sep = labels[0] ? "," : "";
    head(out, hists[h].name, "histogram", hists[h].help);
    for (int i = 0; i <= n; i++) {
        sum += m->hist[h].n[i];
        if (i < n)
            num_format_double(bound[i], text);
        sb_printf(out, "%s_bucket{%s%sle=\"%s\"} %llu\n", hists[h].name, labels, sep, i < n ? text : "+Inf",
                  (unsigned long long)sum);
    }
    snprintf(l, sizeof l, "%s_sum", hists[h].name);
    value(out, l, labels, m->hist[h].sum);
    snprintf(l, sizeof l, "%s_count", hists[h].name);
    value(out, l, labels, (double)m->hist[h].count);
}

static long resident_bytes(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%*s %ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

static long open_files(void)
{
    long n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n > 3 ? n - 3 : 0; /* ".", ".." and the folder itself */
}

static void print_process(double started, strbuf *out)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                 (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
    one(out, "process_cpu_seconds_total", "counter", "CPU time.", "", cpu);
    one(out, "process_resident_memory_bytes", "gauge", "Resident memory.", "", (double)resident_bytes());
    one(out, "process_open_fds", "gauge", "Open descriptors.", "", (double)open_files());
    one(out, "process_start_time_seconds", "gauge", "Start, seconds since 1970.", "", started);
}

static void print_engine(const imp_stats *st, const char *l, strbuf *out)
{
    double used = st->blocks_total ? (double)st->blocks_used / (double)st->blocks_total : 0;
    char more[700];
    one(out, "vllm:num_requests_running", "gauge", "Sequences in the batch.", l, st->running);
    one(out, "vllm:num_requests_waiting", "gauge", "Sequences that wait for a place.", l, st->waiting);
    head(out, "vllm:num_requests_waiting_by_reason", "gauge", "The same, by reason.");
    snprintf(more, sizeof more, "%s,reason=\"capacity\"", l);
    value(out, "vllm:num_requests_waiting_by_reason", more, st->waiting);
    snprintf(more, sizeof more, "%s,reason=\"deferred\"", l);
    value(out, "vllm:num_requests_waiting_by_reason", more, 0);
    one(out, "vllm:kv_cache_usage_perc", "gauge", "KV blocks in use, 0 to 1.", l, used);
    one(out, "vllm:gpu_cache_usage_perc", "gauge", "Old name of vllm:kv_cache_usage_perc.", l, used);
    head(out, "vllm:engine_sleep_state", "gauge", "1 for the state it is in.");
    snprintf(more, sizeof more, "%s,sleep_state=\"awake\"", l);
    value(out, "vllm:engine_sleep_state", more, 1);
    head(out, "vllm:cache_config_info", "gauge", "Configuration of the KV cache.");
    snprintf(more, sizeof more, "%s,block_size=\"%u\",num_gpu_blocks=\"%llu\"", l, st->block_size,
             (unsigned long long)st->blocks_total);
    value(out, "vllm:cache_config_info", more, 1);
    one(out, "vllm:num_preemptions_total", "counter", "Sequences that gave up their blocks for a while.", l,
        (double)st->preemptions);
    static const char *const queries[] = {"vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"};
    static const char *const hits[] = {"vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"};
    for (int i = 0; i < 2; i++) {
        one(out, queries[i], "counter", "Prompt tokens looked up in the prefix cache.", l, (double)st->prefix_queries);
        one(out, hits[i], "counter", "Prompt tokens found in it.", l, (double)st->cached_tokens);
    }
}

void metrics_print(metrics *m, const char *model, const imp_stats *st, double started, strbuf *out)
{
    char labels[500], more[600];
    strbuf name = {0};
    json_quote(&name, model, strlen(model), false);
    snprintf(labels, sizeof labels, "model_name=%.400s,engine=\"0\"", name.s ? name.s : "\"\"");
    sb_free(&name);
    print_engine(st, labels, out);
    pthread_mutex_lock(&m->lock);
    one(out, "vllm:prompt_tokens_total", "counter", "Prompt tokens of finished requests.", labels,
        (double)m->prompt_tokens);
    one(out, "vllm:prompt_tokens_cached_total", "counter", "Of these, tokens from the prefix cache.", labels,
        (double)m->cached_tokens);
    head(out, "vllm:prompt_tokens_by_source_total", "counter",
         "Prompt tokens by where their keys and values came from.");
    snprintf(more, sizeof more, "%s,source=\"local_compute\"", labels);
    value(out, "vllm:prompt_tokens_by_source_total", more, (double)(m->prompt_tokens - m->cached_tokens));
    snprintf(more, sizeof more, "%s,source=\"local_cache_hit\"", labels);
    value(out, "vllm:prompt_tokens_by_source_total", more, (double)m->cached_tokens);
    one(out, "vllm:generation_tokens_total", "counter", "Tokens generated.", labels, (double)m->generation_tokens);
    head(out, "vllm:request_success_total", "counter", "Finished sequences by reason.");
    for (int i = 0; i < FINISHED_N; i++) {
        snprintf(more, sizeof more, "%s,finished_reason=\"%s\"", labels, finished_name[i]);
        value(out, "vllm:request_success_total", more, (double)m->finished[i]);
    }
    for (int i = 0; i < HIST_N; i++)
        print_hist(m, (metric_hist)i, labels, out);
    head(out, "http_requests_total", "counter", "HTTP requests.");
    for (uint32_t i = 0; i < m->n_http; i++) {
        snprintf(more, sizeof more, "handler=\"%s\",method=\"%s\",status=\"%s\"", m->http[i].handler,
                 m->http[i].method, m->http[i].status);
        value(out, "http_requests_total", more, (double)m->http[i].n);
    }
    pthread_mutex_unlock(&m->lock);
    print_process(started, out);
}

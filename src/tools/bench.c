#include "tools/bench.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"
#include "file/modelfile.h"

/* What the sequences of a sample share; written on the engine thread alone, but for the gate. */
typedef struct window {
    imp_engine *g;
    pthread_mutex_t lock;
    pthread_cond_t all_in;
    bool open;                               /* the gate, under lock: every sequence has been submitted */
    uint32_t n_seq, n_gen, n_started, n_tok; /* n_tok: tokens of all sequences since the window opened */
    int64_t t_open, t_close;                 /* of tests that generate: all had their first token; the slowest had
                                                n_gen more */
    struct lane *lane;
    uint64_t *req;
} window;

/* One sequence's times, written on the engine thread. */
typedef struct lane {
    window *w;
    uint32_t n_depth;         /* prompt tokens that are only context */
    uint32_t n_at;            /* prompt tokens done when at least n_depth were */
    uint32_t n_in;            /* tokens since the window opened */
    int64_t t_depth, t_first, t_done;
    imp_err err;
} lane;

/* Counts a token. The window is open while every sequence decodes: prompts come before it, and the stragglers that go
 * on until the slowest has its tokens are cancelled behind it. */
static void on_token(lane *l)
{
    window *w = l->w;
    if (!l->t_first) {
        l->t_first = clock_ns();
        if (++w->n_started == w->n_seq)
            w->t_open = l->t_first;
        return;
    }
    if (!w->n_gen || !w->t_open || w->t_close)
        return;
    l->n_in++;
    w->n_tok++;
    for (uint32_t i = 0; i < w->n_seq; i++)
        if (w->lane[i].n_in < w->n_gen)
            return;
    w->t_close = clock_ns();
    for (uint32_t i = 0; i < w->n_seq; i++)
        imp_cancel(w->g, w->req[i]);
}

/* Holds the engine at its first event until every sequence is in its queue: on a busy machine the submitting thread may
 * lose its core between two of them, and a small model's first sequence would be through all its tokens before the last
 * one came. (Event functions must not block, as everybody waits; here everybody shall.) */
static void wait_for_all(window *w)
{
    pthread_mutex_lock(&w->lock);
    while (!w->open)
        pthread_cond_wait(&w->all_in, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

static void open_gate(window *w)
{
    pthread_mutex_lock(&w->lock);
    w->open = true;
    pthread_cond_broadcast(&w->all_in);
    pthread_mutex_unlock(&w->lock);
}

static void on_event(void *user, const imp_event *ev)
{
    lane *l = user;
    wait_for_all(l->w);
    if (ev->kind == IMP_EVENT_PROMPT && !l->t_depth && ev->n_done >= l->n_depth) {
        l->t_depth = clock_ns();
        l->n_at = ev->n_done;
    }
    if (ev->kind == IMP_EVENT_TOKEN && ev->token >= 0)
        on_token(l);
    if (ev->kind == IMP_EVENT_DONE) {
        l->t_done = clock_ns();
        if (ev->status != IMP_OK && ev->status != IMP_E_CANCELLED)
            err_set(&l->err, ev->status, "%s", ev->message ? ev->message : imp_status_text(ev->status));
    }
}

/* Tokens that the first sequence may be ahead of the last: one a step while the others' prompts go through. */
static uint32_t bench_slack(const bench_test *t, uint32_t n_batch)
{
    uint64_t prompt = (uint64_t)(t->n_depth + t->n_prompt + 1) * (t->n_seq - 1);
    return t->n_seq == 1 ? 2 : (uint32_t)(prompt / (n_batch > t->n_seq ? n_batch - t->n_seq : 1)) + t->n_seq + 8;
}

uint32_t bench_context(const bench_test *t, uint32_t n_batch)
{
    uint32_t prompt = t->n_depth + t->n_prompt + 1;
    return prompt + t->n_gen + bench_slack(t, n_batch) + 2;
}

/* One sample: the time of what the test counts, in ns for n_seq * (n_gen or n_prompt) tokens. */
static imp_status sample(imp_engine *g, const bench_test *t, const int32_t *ids, lane *lanes, uint64_t *req,
                         int64_t *ns, imp_err *e)
{
    imp_request r;
    imp_stats st = {.size = sizeof st};
    imp_engine_stats(g, &st);
    imp_request_init(&r);
    window w = {.g = g, .n_seq = t->n_seq, .n_gen = t->n_gen, .lane = lanes, .req = req,
                .lock = PTHREAD_MUTEX_INITIALIZER, .all_in = PTHREAD_COND_INITIALIZER};
    r.prompt = ids;
    r.ignore_eos = true;
    r.n_prompt = t->n_prompt ? t->n_depth + t->n_prompt : t->n_depth ? t->n_depth : 1;
    r.max_tokens = t->n_gen ? 1 + t->n_gen + bench_slack(t, st.n_batch) : 1;
    imp_status s = IMP_OK;
    memset(lanes, 0, t->n_seq * sizeof *lanes);
    for (uint32_t i = 0; i < t->n_seq; i++) {
        lanes[i].n_depth = t->n_depth;
        lanes[i].w = &w;
    }
    int64_t t0 = clock_ns();
    uint32_t n = 0;
    for (; n < t->n_seq && s == IMP_OK; n++)
        s = imp_submit(g, &r, on_event, &lanes[n], &req[n], e);
    open_gate(&w);
    if (s != IMP_OK)
        n--;
    for (uint32_t i = 0; i < n; i++)
        imp_wait(g, req[i], -1);
    int64_t first = 0;
    for (uint32_t i = 0; i < n && s == IMP_OK; i++) {
        if (lanes[i].err.status != IMP_OK)
            s = err_set(e, lanes[i].err.status, "%s", lanes[i].err.message);
        first = lanes[i].t_first > first ? lanes[i].t_first : first;
    }
    if (s != IMP_OK)
        return s;
    if (t->n_gen) {
        if (!w.t_close || !w.n_tok)
            return err_set(e, IMP_E_INTERNAL, "bench: some sequence ended before every one had its %u tokens",
                           t->n_gen);
        *ns = (int64_t)((double)(w.t_close - w.t_open) * t->n_gen * t->n_seq / w.n_tok);
    } else if (!t->n_depth) {
        *ns = first - t0;
    } else { /* from the step that completed the context, scaled to the tokens asked for */
        uint32_t rest = r.n_prompt - lanes[0].n_at;
        *ns = rest ? (int64_t)((double)(first - lanes[0].t_depth) * t->n_prompt / rest)
                   : (int64_t)((double)(first - t0) * t->n_prompt / r.n_prompt); /* context and prompt were one step */
    }
    return IMP_OK;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void summarise(bench_result *r)
{
    double tokens = (double)r->test.n_seq * (r->test.n_gen ? r->test.n_gen : r->test.n_prompt);
    double sum = 0, sum2 = 0, ts = 0, ts2 = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        double ns = (double)r->ns[i], v = tokens / (ns * 1e-9);
        sum += ns;
        sum2 += ns * ns;
        ts += v;
        ts2 += v * v;
    }
    double n = r->n;
    r->avg_ns = sum / n;
    r->avg_ts = ts / n;
    r->std_ns = n > 1 ? sqrt(fmax(0, (sum2 - sum * sum / n) / (n - 1))) : 0;
    r->std_ts = n > 1 ? sqrt(fmax(0, (ts2 - ts * ts / n) / (n - 1))) : 0;
    int64_t *s = mem_alloc(r->n * sizeof *s);
    if (!s)
        return;
    memcpy(s, r->ns, r->n * sizeof *s);
    qsort(s, r->n, sizeof *s, by_value);
    r->max_ts = tokens / ((double)s[0] * 1e-9);
    r->min_ts = tokens / ((double)s[r->n - 1] * 1e-9);
    r->median_ts = tokens / ((double)s[r->n / 2] * 1e-9);
    mem_free(s);
}

imp_status bench_run(imp_engine *g, const bench_test *t, uint32_t runs, uint32_t vocab, bench_result *out, imp_err *e)
{
    *out = (bench_result){.test = *t, .n = runs};
    uint32_t n = t->n_depth + t->n_prompt + 1;
    int32_t *ids = mem_alloc(n * sizeof *ids);
    lane *lanes = mem_calloc(t->n_seq, sizeof *lanes);
    uint64_t *req = mem_calloc(t->n_seq, sizeof *req);
    out->ns = mem_calloc(runs, sizeof *out->ns);
    imp_status s = ids && lanes && req && out->ns ? IMP_OK : err_oom(e, "bench", n * sizeof *ids);
    uint32_t x = 12345;
    for (uint32_t i = 0; ids && i < n; i++) {
        x = x * 1664525u + 1013904223u;
        ids[i] = (int32_t)((x >> 8) % vocab);
    }
    int64_t warm;
    if (s == IMP_OK) { /* pages, caches, threads; a short answer suffices where the context is the same */
        bench_test w = *t;
        if (w.n_gen > 8)
            w.n_gen = 8;
        s = sample(g, &w, ids, lanes, req, &warm, e);
    }
    for (uint32_t i = 0; i < runs && s == IMP_OK; i++)
        s = sample(g, t, ids, lanes, req, &out->ns[i], e);
    mem_free(ids);
    mem_free(lanes);
    mem_free(req);
    if (s == IMP_OK)
        summarise(out);
    return s;
}

imp_status bench_write(const char *model, const char *path, imp_err *e)
{
    modelfile *m;
    imp_status s = mf_open(&m, model, e);
    if (s != IMP_OK)
        return s;
    const file_map *map = mf_tensor_count(m) ? mf_tensor_at(m, 0)->map : NULL;
    if (mf_get_kind(m) != MF_GGUF || !map || mf_file_bytes(m) != map->size)
        s = err_set(e, IMP_E_USAGE, "%s: wanted one GGUF file", model);
    FILE *f = s == IMP_OK ? fopen(path, "wb") : NULL;
    if (s == IMP_OK && (!f || fwrite(map->data, 1, map->size, f) != map->size))
        s = err_set(e, IMP_E_IO, "%s: %s", path, strerror(errno));
    if (f && fclose(f) && s == IMP_OK)
        s = err_set(e, IMP_E_IO, "%s: %s", path, strerror(errno));
    mf_close(m);
    return s;
}

#include "tools/bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"

/* One sequence's times, written on the engine thread. */
typedef struct lane {
    uint32_t n_depth;         /* prompt tokens that are only context */
    uint32_t n_at;            /* prompt tokens done when at least n_depth were */
    int64_t t_depth, t_first, t_done;
    imp_err err;
} lane;

static void on_event(void *user, const imp_event *ev)
{
    lane *l = user;
    if (ev->kind == IMP_EVENT_PROMPT && !l->t_depth && ev->n_done >= l->n_depth) {
        l->t_depth = clock_ns();
        l->n_at = ev->n_done;
    }
    if (ev->kind == IMP_EVENT_TOKEN && ev->token >= 0 && !l->t_first)
        l->t_first = clock_ns();
    if (ev->kind == IMP_EVENT_DONE) {
        l->t_done = clock_ns();
        if (ev->status != IMP_OK)
            err_set(&l->err, ev->status, "%s", ev->message ? ev->message : imp_status_text(ev->status));
    }
}

/* One sample: the time of what the test counts. */
static imp_status sample(imp_engine *g, const bench_test *t, const int32_t *ids, lane *lanes, uint64_t *req, int64_t *ns, imp_err *e)
{
    imp_request r;
    imp_request_init(&r);
    bool gen = t->n_gen > 0;
    r.prompt = ids;
    r.ignore_eos = true;
    r.n_prompt = t->n_prompt ? t->n_depth + t->n_prompt : t->n_depth ? t->n_depth : 1;
    /* After a context the first token belongs to the context's last step; without one every token is a decode step. */
    r.max_tokens = gen ? t->n_gen + (r.n_prompt > 1) : 1;
    imp_status s = IMP_OK;
    memset(lanes, 0, t->n_seq * sizeof *lanes);
    for (uint32_t i = 0; i < t->n_seq; i++)
        lanes[i].n_depth = t->n_depth;
    int64_t t0 = clock_ns();
    uint32_t n = 0;
    for (; n < t->n_seq && s == IMP_OK; n++)
        s = imp_submit(g, &r, on_event, &lanes[n], &req[n], e);
    if (s != IMP_OK)
        n--;
    for (uint32_t i = 0; i < n; i++)
        imp_wait(g, req[i], -1);
    int64_t first = 0, done = 0;
    for (uint32_t i = 0; i < n && s == IMP_OK; i++) {
        if (lanes[i].err.status != IMP_OK)
            s = err_set(e, lanes[i].err.status, "%s", lanes[i].err.message);
        first = lanes[i].t_first > first ? lanes[i].t_first : first;
        done = lanes[i].t_done > done ? lanes[i].t_done : done;
    }
    if (gen)
        *ns = done - (r.n_prompt > 1 ? first : t0);
    else if (!t->n_depth)
        *ns = first - t0;
    else if (s == IMP_OK) /* from the step that completed the context, scaled to the tokens asked for */
        *ns = (int64_t)((double)(first - lanes[0].t_depth) * t->n_prompt / (double)(r.n_prompt - lanes[0].n_at ? r.n_prompt - lanes[0].n_at : 1));
    return s;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void summarise(bench_result *r)
{
    double tokens = (double)r->test.n_seq * (r->test.n_gen ? r->test.n_gen : r->test.n_prompt), sum = 0, sum2 = 0, ts = 0, ts2 = 0;
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

/* The engine's logits against the CPU's scalar path. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "tools/bench.h"

typedef struct taker {
    float *row;  /* [n][n_vocab] */
    int32_t *id; /* [n_gen] chosen tokens */
    uint32_t n_vocab, n_row, max_row, n_id, max_id;
    imp_err err;
} taker;

static void on_event(void *user, const imp_event *ev)
{
    taker *t = user;
    if (ev->kind == IMP_EVENT_LOGITS && t->n_row < t->max_row)
        memcpy(t->row + (size_t)t->n_row++ * t->n_vocab, ev->logits, t->n_vocab * sizeof *t->row);
    else if (ev->kind == IMP_EVENT_TOKEN && ev->token >= 0 && t->n_id < t->max_id)
        t->id[t->n_id++] = ev->token;
    else if (ev->kind == IMP_EVENT_DONE && ev->status != IMP_OK)
        err_set(&t->err, ev->status, "%s", ev->message ? ev->message : imp_status_text(ev->status));
}

static imp_status ask(imp_engine *g, const imp_request *r, taker *t, imp_err *e)
{
    uint64_t id;
    imp_status s = imp_submit(g, r, on_event, t, &id, e);
    if (s != IMP_OK)
        return s;
    imp_wait(g, id, -1);
    return t->err.status == IMP_OK ? IMP_OK : err_set(e, t->err.status, "%s", t->err.message);
}

static void compare(const float *a, const float *b, uint32_t n, bench_check_result *out)
{
    double worst = 0, scale = 0, za = 0, zb = 0, kl = 0;
    uint32_t ia = 0, ib = 0;
    for (uint32_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
        scale = fmax(scale, fabs((double)b[i]));
        ia = a[i] > a[ia] ? i : ia;
        ib = b[i] > b[ib] ? i : ib;
    }
    for (uint32_t i = 0; i < n; i++) {
        za += exp((double)a[i] - (double)a[ia]);
        zb += exp((double)b[i] - (double)b[ib]);
    }
    for (uint32_t i = 0; i < n; i++) {
        double la = (double)a[i] - (double)a[ia] - log(za), lb = (double)b[i] - (double)b[ib] - log(zb);
        kl += exp(lb) * (lb - la);
    }
    double err = scale > 0 ? worst / scale : worst;
    out->error = !(err <= out->error) ? err : out->error; /* a NaN stays */
    out->kl += kl;
    out->n_top1 += ia == ib;
    out->n_row++;
}

imp_status bench_check(imp_engine *g, imp_model *m, uint32_t n_prompt, uint32_t n_gen, bench_check_result *out,
                       imp_err *e)
{
    *out = (bench_check_result){0};
    imp_model_info info = {.size = sizeof info};
    imp_model_get_info(m, &info);
    uint32_t n = n_prompt + n_gen, v = info.n_vocab;
    int32_t *ids = mem_calloc(n, sizeof *ids);
    taker a = {.n_vocab = v, .max_row = n_gen, .max_id = n_gen}, b = {.n_vocab = v, .max_row = n};
    a.row = mem_alloc((size_t)n_gen * v * sizeof *a.row);
    b.row = mem_alloc((size_t)n * v * sizeof *b.row);
    imp_status s = ids && a.row && b.row ? IMP_OK : err_oom(e, "logits", (unsigned long long)n * v * 8);
    uint32_t x = 4711;
    for (uint32_t i = 0; i < n_prompt && s == IMP_OK; i++) {
        x = x * 1664525u + 1013904223u;
        ids[i] = (int32_t)((x >> 8) % v);
    }
    a.id = s == IMP_OK ? ids + n_prompt : NULL;
    imp_request r;
    imp_request_init(&r);
    r.prompt = ids;
    r.n_prompt = n_prompt;
    r.max_tokens = n_gen;
    r.ignore_eos = r.gen_logits = true;
    if (s == IMP_OK)
        s = ask(g, &r, &a, e);
    imp_engine_params p;
    imp_engine_params_init(&p);
    p.prefix_cache = false;
    p.backend = "cpu";
    p.cpu = "scalar";
    p.n_ctx = n + 1;
    p.n_seq = 1;
    p.n_batch = p.n_row = n;
    imp_engine *ref = NULL;
    if (s == IMP_OK)
        s = imp_engine_new(m, &p, &ref, e);
    r.n_prompt = n;
    r.gen_logits = false;
    r.echo_logits = true;
    r.max_tokens = 1;
    if (s == IMP_OK)
        s = ask(ref, &r, &b, e);
    imp_engine_free(ref);
    for (uint32_t i = 0; i < n_gen && s == IMP_OK; i++)
        compare(a.row + (size_t)i * v, b.row + (size_t)(n_prompt - 1 + i) * v, v, out);
    if (out->n_row)
        out->kl /= out->n_row;
    mem_free(ids);
    mem_free(a.row);
    mem_free(b.row);
    return s;
}

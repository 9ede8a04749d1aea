#include <string.h>

#include "api/api.h"
#include "base/mem.h"

imp_status imp_engine_new(imp_model *m, const imp_engine_params *p, imp_engine **out, imp_err *e)
{
    *out = NULL;
    imp_engine_params full;
    imp_engine_params_init(&full);
    if (p) /* an older caller's struct is shorter: what it does not know keeps its default */
        memcpy(&full, p, p->size < sizeof full ? p->size : sizeof full);
    imp_engine *g = mem_calloc(1, sizeof *g);
    if (!g)
        return err_oom(e, "engine", sizeof *g);
    if (full.n_ctx == 0)
        full.n_ctx = m->par.n_ctx;
    imp_status s = engine_new(m->m, m->t, &full, &g->g, e);
    if (s != IMP_OK) {
        mem_free(g);
        return s;
    }
    g->m = m;
    atomic_fetch_add(&m->refs, 1);
    *out = g;
    return IMP_OK;
}

void imp_engine_free(imp_engine *g)
{
    if (!g)
        return;
    engine_free(g->g);
    api_model_unref(g->m);
    mem_free(g);
}

imp_status imp_submit(imp_engine *g, const imp_request *r, imp_event_fn fn, void *user, uint64_t *id, imp_err *e)
{
    imp_request full;
    imp_request_init(&full);
    memcpy(&full, r, r->size < sizeof full ? r->size : sizeof full);
    return engine_submit(g->g, &full, fn, user, id, e);
}

void imp_cancel(imp_engine *g, uint64_t id) { engine_cancel(g->g, id); }
imp_status imp_wait(imp_engine *g, uint64_t id, int64_t timeout_ms) { return engine_wait(g->g, id, timeout_ms); }

/* ---- waiting wrappers ------------------------------------------------------------------------------------------- */
typedef struct collect {
    strbuf text;
    imp_timing timing;
    imp_err err;
    float *logits;
    uint32_t n_prompt;
    bool last_only;
} collect;

static void on_generate(void *user, const imp_event *ev)
{
    collect *c = user;
    if (ev->choice != 0)
        return;
    if (ev->kind == IMP_EVENT_TOKEN)
        sb_add(&c->text, ev->text, ev->n_text);
    if (ev->kind != IMP_EVENT_DONE)
        return;
    c->timing = ev->timing;
    if (ev->status != IMP_OK)
        err_set(&c->err, ev->status, "%s", ev->message ? ev->message : imp_status_text(ev->status));
}

imp_status imp_generate(imp_engine *g, const imp_request *r, char **text, size_t *n_text, imp_timing *timing,
                        imp_err *e)
{
    *text = NULL;
    collect c = {0};
    uint64_t id;
    imp_status s = imp_submit(g, r, on_generate, &c, &id, e);
    if (s == IMP_OK)
        s = imp_wait(g, id, -1);
    if (s == IMP_OK && c.err.status != IMP_OK)
        s = err_set(e, c.err.status, "%s", c.err.message);
    size_t n = c.text.n;
    if (s == IMP_OK && !(*text = sb_take(&c.text)))
        s = err_oom(e, "text", n);
    if (n_text)
        *n_text = n;
    if (timing)
        *timing = c.timing;
    sb_free(&c.text);
    return s;
}

static void on_logits(void *user, const imp_event *ev)
{
    collect *c = user;
    if (ev->kind == IMP_EVENT_LOGITS) {
        size_t row = c->last_only ? 0 : ev->n_done;
        memcpy(c->logits + row * ev->n_vocab, ev->logits, ev->n_vocab * sizeof(float));
    } else if (ev->kind == IMP_EVENT_DONE && ev->status != IMP_OK) {
        err_set(&c->err, ev->status, "%s", ev->message ? ev->message : imp_status_text(ev->status));
    }
}

imp_status imp_logits(imp_engine *g, const int32_t *prompt, uint32_t n_prompt, bool last_only, float *out, imp_err *e)
{
    collect c = {.logits = out, .n_prompt = n_prompt, .last_only = last_only};
    imp_request r;
    imp_request_init(&r);
    r.prompt = prompt;
    r.n_prompt = n_prompt;
    r.echo_logits = !last_only;
    r.last_logits = last_only;
    r.max_tokens = 1;
    uint64_t id;
    imp_status s = imp_submit(g, &r, on_logits, &c, &id, e);
    if (s == IMP_OK)
        s = imp_wait(g, id, -1);
    return s == IMP_OK && c.err.status != IMP_OK ? err_set(e, c.err.status, "%s", c.err.message) : s;
}

imp_status imp_engine_stats(imp_engine *g, imp_stats *s)
{
    imp_stats full = {.size = s->size};
    engine_stats(g->g, &full);
    memcpy(s, &full, s->size < sizeof full ? s->size : sizeof full);
    return IMP_OK;
}

const char *imp_engine_lost(imp_engine *g) { return engine_lost(g->g); }

double imp_engine_step_bytes(imp_engine *g, uint32_t n_ctx, uint32_t n_seq)
{
    return engine_step_bytes(g->g, n_ctx, n_seq);
}

imp_status imp_engine_profile(imp_engine *g, double read_ceiling, char **text, imp_err *e)
{
    strbuf b = {0};
    *text = NULL;
    imp_status s = engine_profile(g->g, read_ceiling, &b, e);
    if (s == IMP_OK && !(*text = sb_take(&b)))
        s = err_oom(e, "profile", b.n);
    sb_free(&b);
    return s;
}

double imp_engine_linear_params(imp_engine *g) { return engine_linear_params(g->g); }
double imp_engine_attend_flops(imp_engine *g) { return engine_attend_flops(g->g); }

imp_status imp_engine_read_ceiling(imp_engine *g, uint64_t n_bytes, double *out, imp_err *e)
{
    return engine_read_ceiling(g->g, n_bytes, out, e);
}

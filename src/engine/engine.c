#include "engine/engine_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/sizing.h"

/* ---- lists ------------------------------------------------------------------------------------------------------ */
void list_push(seq_list *l, seq *s)
{
    s->next = NULL;
    if (l->tail)
        l->tail->next = s;
    else
        l->head = s;
    l->tail = s;
    l->n++;
}

void list_push_front(seq_list *l, seq *s)
{
    s->next = l->head;
    l->head = s;
    if (!l->tail)
        l->tail = s;
    l->n++;
}

void list_remove(seq_list *l, seq *s)
{
    seq *prev = NULL;
    for (seq *c = l->head; c; prev = c, c = c->next)
        if (c == s) {
            if (prev)
                prev->next = c->next;
            else
                l->head = c->next;
            if (l->tail == c)
                l->tail = prev;
            l->n--;
            c->next = NULL;
            return;
        }
}

/* ---- requests --------------------------------------------------------------------------------------------------- */
void seq_free(engine *g, seq *s)
{
    if (!s)
        return;
    for (int i = 0; i < g->m->text.n_group; i++)
        mem_free(s->table[i]);
    mem_free(s->tok);
    stream_free(&s->text);
    penalty_free(&s->pen);
    constrain_state_free(s->constraint);
    mem_free(s->mask);
    mem_free(s);
}

static void request_free(request *q)
{
    if (!q)
        return;
    constrain_prog_free(q->prog);
    arena_free(&q->mem);
    mem_free(q);
}

static const void *copy(arena *a, const void *v, size_t n, size_t size)
{
    void *c = n ? arena_array(a, n, size) : NULL;
    if (c)
        memcpy(c, v, n * size);
    return c;
}

static imp_status request_copy(request *q, const imp_request *r, imp_err *e)
{
    arena *a = &q->mem;
    q->r = *r;
    q->r.prompt = copy(a, r->prompt, r->n_prompt, sizeof *r->prompt);
    q->r.stop_token = copy(a, r->stop_token, r->n_stop_token, sizeof *r->stop_token);
    q->r.sampling.logit_bias =
        copy(a, r->sampling.logit_bias, r->sampling.n_logit_bias, sizeof *r->sampling.logit_bias);
    const char **stop = ARENA_ARRAY(a, const char *, r->n_stop + 1);
    for (uint32_t i = 0; stop && i < r->n_stop; i++)
        stop[i] = arena_strdup(a, r->stop[i]);
    q->r.stop = stop;
    q->r.constraint = r->constraint ? arena_strdup(a, r->constraint) : NULL;
    q->r.salt = r->salt && *r->salt ? arena_strdup(a, r->salt) : NULL;
    return a->failed ? err_oom(e, "request", a->n_bytes) : IMP_OK;
}

#define MAX_SALT 1024 /* the prefix cache keeps a copy with every first block */

static imp_status check_number(double v, double min, double max, const char *name, imp_err *e)
{
    if (v >= min && v <= max)
        return IMP_OK;
    return err_set(e, IMP_E_USAGE, "%s: wanted %g to %g, got %g", name, min, max, v);
}

static imp_status check_request(const engine *g, const imp_request *r, imp_err *e)
{
    const imp_sampling *s = &r->sampling;
    const struct { const char *name; double v, min, max; } number[] = {
        {"temperature", (double)s->temperature, 0, 1000}, {"top_p", (double)s->top_p, 0, 1},
        {"min_p", (double)s->min_p, 0, 1}, {"typical_p", (double)s->typical_p, 0, 1},
        {"top_k", s->top_k, 0, INT32_MAX}, {"repeat_penalty", (double)s->repeat_penalty, 1e-6, 1e6},
        {"frequency_penalty", (double)s->frequency_penalty, -1e4, 1e4},
        {"presence_penalty", (double)s->presence_penalty, -1e4, 1e4},
        {"dry_multiplier", (double)s->dry_multiplier, 0, 1e4}, {"dry_base", (double)s->dry_base, 0, 1e4},
        {"mirostat_tau", (double)s->mirostat_tau, 0, 1e4}, {"mirostat_eta", (double)s->mirostat_eta, 0, 1e4},
        {"n", r->n, 1, 128}, {"logprobs", r->logprobs, -1, SAMPLE_MAX_TOP}, {"stop", r->n_stop, 0, 1024},
    };
    imp_status st = IMP_OK;
    for (size_t i = 0; i < sizeof number / sizeof *number && st == IMP_OK; i++)
        st = check_number(number[i].v, number[i].min, number[i].max, number[i].name, e);
    if (st != IMP_OK)
        return st;
    if (s->mirostat != 0 && s->mirostat != 2)
        return err_set(e, IMP_E_USAGE, "mirostat: wanted 0 or 2, got %d", s->mirostat);
    if (r->n_prompt == 0 || !r->prompt)
        return err_set(e, IMP_E_USAGE, "prompt: wanted at least one token, got none");
    if (r->n_prompt > g->n_ctx || (r->n_prompt == g->n_ctx && !r->last_logits && !r->echo_logits))
        return err_set(e, IMP_E_CONTEXT, "prompt: %u tokens do not fit the context of %u", r->n_prompt, g->n_ctx);
    if (r->salt && strnlen(r->salt, MAX_SALT + 1) > MAX_SALT)
        return err_set(e, IMP_E_USAGE, "salt: wanted at most %d bytes, got more", MAX_SALT);
    if (r->rows_from >= r->n_prompt)
        return err_set(e, IMP_E_USAGE, "rows_from: wanted less than the prompt's %u tokens, got %u", r->n_prompt,
                       r->rows_from);
    for (uint32_t i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || (uint32_t)r->prompt[i] >= g->m->config.n_vocab)
            return err_set(e, IMP_E_USAGE, "prompt: token %u is %d, wanted 0 to %u", i, r->prompt[i],
                           g->m->config.n_vocab - 1);
    return IMP_OK;
}

static seq *seq_new(engine *g, request *q, uint32_t choice, imp_err *e)
{
    seq *s = mem_calloc(1, sizeof *s);
    if (!s) {
        err_oom(e, "sequence", sizeof *s);
        return NULL;
    }
    uint64_t most = q->r.max_tokens ? (uint64_t)q->r.n_prompt + q->r.max_tokens : g->n_ctx;
    s->cap_tok = most < g->n_ctx ? (uint32_t)most : g->n_ctx;
    if (s->cap_tok < q->r.n_prompt)
        s->cap_tok = q->r.n_prompt;
    s->req = q;
    s->choice = choice;
    s->slot = -1;
    s->at = PREFIX_ROOT;
    s->n_prompt = s->n_tok = s->n_said = q->r.n_prompt;
    s->mirostat_mu = 2 * q->r.sampling.mirostat_tau;
    s->tok = mem_alloc(((size_t)s->cap_tok + 1) * sizeof *s->tok);
    bool ok = s->tok != NULL;
    for (int i = 0; i < g->m->text.n_group && ok; i++) {
        s->table[i] = mem_alloc((s->cap_tok / (uint32_t)g->block_size + 2) * sizeof **s->table);
        ok = s->table[i] != NULL;
    }
    if (!ok)
        err_oom(e, "sequence", (uint64_t)s->cap_tok * sizeof *s->tok);
    ok = ok && penalty_init(&s->pen, &q->r.sampling, s->cap_tok, e) == IMP_OK && constraint_attach(g, s, e) == IMP_OK;
    if (!ok) {
        seq_free(g, s);
        return NULL;
    }
    memcpy(s->tok, q->r.prompt, q->r.n_prompt * sizeof *s->tok);
    stream_init(&s->text, g->tk, q->r.keep_special, q->r.stop, q->r.n_stop);
    if (constraint_jump(g, s, e) != IMP_OK) {
        seq_free(g, s);
        return NULL;
    }
    return s;
}

imp_status engine_submit(engine *g, const imp_request *r, imp_event_fn fn, void *user, uint64_t *id, imp_err *e)
{
    imp_status st = check_request(g, r, e);
    if (st == IMP_OK && atomic_load(&g->dead) != IMP_OK)
        st = err_set(e, atomic_load(&g->dead), "%s", g->dead_why);
    if (st != IMP_OK)
        return st;
    request *q = mem_calloc(1, sizeof *q);
    if (!q)
        return err_oom(e, "request", sizeof *q);
    seq_list list = {0};
    st = request_copy(q, r, e);
    if (st == IMP_OK)
        st = constraint_compile(g, q, e);
    for (uint32_t i = 0; i < r->n && st == IMP_OK; i++) {
        seq *s = seq_new(g, q, i, e);
        if (s)
            list_push(&list, s);
        else
            st = IMP_E_NOMEM;
    }
    q->fn = fn;
    q->user = user;
    q->n_left = r->n;
    q->t_submit = clock_ns();
    pthread_mutex_lock(&g->lock);
    if (st == IMP_OK && g->stop)
        st = err_set(e, IMP_E_SHUTDOWN, "the engine is shutting down");
    if (st == IMP_OK) {
        q->id = ++g->next_id;
        if (id)
            *id = q->id;
        q->next = g->all;
        g->all = q;
        for (seq *s = list.head, *next; s; s = next) {
            next = s->next;
            s->age = q->id;
            list_push(&g->incoming, s);
        }
        pthread_cond_signal(&g->wake);
    }
    pthread_mutex_unlock(&g->lock);
    if (st != IMP_OK) {
        for (seq *s = list.head, *next; s; s = next) {
            next = s->next;
            seq_free(g, s);
        }
        request_free(q);
    }
    return st;
}

static request *find(engine *g, uint64_t id)
{
    request *q = g->all;
    while (q && q->id != id)
        q = q->next;
    return q;
}

void engine_cancel(engine *g, uint64_t id)
{
    pthread_mutex_lock(&g->lock);
    request *q = find(g, id);
    if (q)
        atomic_store(&q->cancelled, true);
    pthread_cond_signal(&g->wake);
    pthread_mutex_unlock(&g->lock);
}

imp_status engine_wait(engine *g, uint64_t id, int64_t timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    imp_status st = IMP_OK;
    pthread_mutex_lock(&g->lock);
    while (find(g, id) && st == IMP_OK) {
        if (timeout_ms < 0)
            pthread_cond_wait(&g->done, &g->lock);
        else if (pthread_cond_timedwait(&g->done, &g->lock, &until) == ETIMEDOUT)
            st = find(g, id) ? IMP_E_BUSY : IMP_OK;
    }
    pthread_mutex_unlock(&g->lock);
    return st;
}

/* ---- events and ends -------------------------------------------------------------------------------------------- */
void engine_event(seq *s, imp_event *ev)
{
    ev->size = sizeof *ev;
    ev->id = s->req->id;
    ev->choice = s->choice;
    ev->n_prompt = s->n_prompt;
    if (s->req->fn)
        s->req->fn(s->req->user, ev);
}

void engine_finish(engine *g, seq *s, imp_finish why, imp_status status, const char *message)
{
    int64_t now = clock_ns();
    imp_event ev = {.kind = IMP_EVENT_DONE, .finish = why, .status = status, .message = message,
                    .stop_string = s->text.hit,
                    .stop_token = why == IMP_FINISH_STOP && s->n_said > s->n_prompt ? s->tok[s->n_said - 1] : -1};
    ev.timing = (imp_timing){.n_prompt = s->n_prompt, .n_cached = s->n_cached, .n_generated = s->n_said - s->n_prompt};
    ev.timing.queue_ns = (s->t_first_sched ? s->t_first_sched : now) - s->req->t_submit;
    if (s->t_first_sched)
        ev.timing.prefill_ns = (s->t_first_token ? s->t_first_token : now) - s->t_first_sched;
    if (s->t_first_token)
        ev.timing.decode_ns = now - s->t_first_token;
    engine_event(s, &ev);
    kv_release(g, s);
    if (s->slot >= 0) {
        g->slot[s->slot] = NULL;
        list_remove(&g->running, s);
    } else {
        list_remove(&g->waiting, s);
    }
    request *q = s->req;
    s->req = NULL;
    s->gone = true;
    if (!s->n_flight) /* else open steps still name it */
        seq_free(g, s);
    pthread_mutex_lock(&g->lock);
    if (--q->n_left == 0) {
        request **p = &g->all;
        while (*p != q)
            p = &(*p)->next;
        *p = q->next;
        request_free(q);
        pthread_cond_broadcast(&g->done);
    }
    pthread_mutex_unlock(&g->lock);
}

/* ---- the thread ------------------------------------------------------------------------------------------------- */
static void sweep(engine *g, seq_list *l, bool all)
{
    for (seq *s = l->head, *next; s; s = next) {
        next = s->next;
        if (all)
            engine_finish(g, s, IMP_FINISH_CANCELLED, IMP_E_SHUTDOWN, "the engine is shutting down");
        else if (atomic_load(&g->dead) != IMP_OK)
            engine_finish(g, s, IMP_FINISH_ERROR, atomic_load(&g->dead), g->dead_why);
        else if (atomic_load(&s->req->cancelled))
            engine_finish(g, s, IMP_FINISH_CANCELLED, IMP_E_CANCELLED, "cancelled");
    }
}

static void engine_idle(engine *g)
{
    g->idle = true;
    pthread_cond_broadcast(&g->done);
    pthread_cond_wait(&g->wake, &g->lock);
    g->idle = false;
}

static void *engine_main(void *arg)
{
    engine *g = arg;
    for (;;) {
        pthread_mutex_lock(&g->lock);
        while (!g->incoming.head && !g->running.head && !g->waiting.head && !g->n_open && !g->stop)
            engine_idle(g);
        for (seq *s = g->incoming.head, *next; s; s = next) {
            next = s->next;
            list_push(&g->waiting, s);
        }
        g->incoming = (seq_list){0};
        bool stop = g->stop;
        pthread_mutex_unlock(&g->lock);
        sweep(g, &g->running, stop);
        sweep(g, &g->waiting, stop);
        if (stop && !g->running.head && !g->waiting.head && !g->n_open)
            return NULL;
        engine_step(g);
        atomic_store(&g->n_running, g->running.n);
        atomic_store(&g->n_waiting, g->waiting.n);
    }
}

/* ---- life ------------------------------------------------------------------------------------------------------- */
static imp_status make_flight(engine *g, flight *f, imp_err *e)
{
    size_t t = g->n_batch, n = g->n_seq, r = g->n_row;
    f->id = mem_calloc(t, sizeof *f->id);
    f->seq_of = mem_calloc(t, sizeof *f->seq_of);
    f->kv_index = mem_calloc(t, sizeof *f->kv_index);
    f->vis_begin = mem_calloc(t, sizeof *f->vis_begin);
    f->vis_end = mem_calloc(t, sizeof *f->vis_end);
    f->pos = mem_calloc(t, sizeof *f->pos);
    f->cls = mem_calloc(t, 1);
    f->seqs = mem_calloc(n, sizeof *f->seqs);
    f->rows = mem_calloc(r, sizeof *f->rows);
    f->row_seq = mem_calloc(r, sizeof *f->row_seq);
    f->owner = mem_calloc(n, sizeof *f->owner);
    f->from = mem_calloc(n, sizeof *f->from);
    if (!f->id || !f->seq_of || !f->kv_index || !f->vis_begin || !f->vis_end || !f->pos || !f->cls || !f->seqs ||
        !f->rows || !f->row_seq || !f->owner || !f->from)
        return err_oom(e, "batch", t * 40);
    f->b = (batch){.id = f->id, .seq = f->seq_of, .kv_index = f->kv_index, .pos = (const int32_t(*)[3])f->pos,
                   .vis_begin = f->vis_begin, .vis_end = f->vis_end, .cls = f->cls, .seqs = f->seqs, .rows = f->rows};
    return IMP_OK;
}

static void free_flight(flight *f)
{
    void *own[] = {f->id, f->seq_of, f->kv_index, f->vis_begin, f->vis_end, f->pos, f->cls, f->seqs, f->rows,
                   f->row_seq, f->owner, f->from, f->logits, f->row_mask, f->row_only};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        mem_free(own[i]);
}

static imp_status make_flights(engine *g, uint32_t asked, imp_err *e)
{
    uint32_t n = asked ? asked : (uint32_t)g->api->n_ticket;
    g->n_flight = n < 1 ? 1 : n > MAX_FLIGHT ? MAX_FLIGHT : n;
    g->slot = mem_calloc(g->n_seq, sizeof *g->slot);
    imp_status st = g->slot ? IMP_OK : err_oom(e, "slots", g->n_seq * sizeof *g->slot);
    for (uint32_t i = 0; i < g->n_flight && st == IMP_OK; i++)
        st = make_flight(g, &g->flight[i], e);
    return st;
}

static imp_status upload_all(engine *g, const imp_engine_params *p, imp_err *e)
{
    const plan *pl = &g->m->text;
    g->w = mem_calloc((size_t)pl->n_weight, sizeof(bweight *));
    plan_op_kind *hint = mem_calloc((size_t)pl->n_weight, sizeof *hint);
    imp_status st = g->w && hint ? IMP_OK : err_oom(e, "weights", (uint64_t)pl->n_weight * 16);
    for (int32_t i = 0; i < pl->n_op && st == IMP_OK; i++)
        for (int j = 0; j < 3; j++) /* a later LINEAR wins over an earlier EMBED: that is a tied head */
            if (pl->op[i].weight[j] >= 0)
                hint[pl->op[i].weight[j]] = pl->op[i].kind;
    uint64_t done = 0;
    int64_t t0 = clock_ns();
    for (int32_t i = 0; i < pl->n_weight && st == IMP_OK; i++) {
        char what[48];
        st = g->api->upload(g->be, pl->weight[i], hint[i], 0, 0, 0, 0, &g->w[i], e);
        done += pl->weight[i]->n_bytes;
        snprintf(what, sizeof what, "loading %.1f GB/s", (double)done / (double)(clock_ns() - t0 + 1));
        if (st == IMP_OK && p->progress && !p->progress(p->progress_user, what, done, g->m->weight_bytes))
            st = err_set(e, IMP_E_CANCELLED, "loading: cancelled");
    }
    mem_free(hint);
    return st;
}

/* Best first; "auto" takes the first that works here. */
static const backend_api *const backends[] = {
#ifdef IMP_CUDA
    &backend_cuda,
#endif
    &backend_cpu,
};

/* A backend may serve shapes that its fast kernels do not take; the kernel's name says so (backend.h). Nobody is to
 * find out by waiting. */
static void tell_slow_attention(const engine *g)
{
    const plan *p = &g->m->text;
    for (int32_t i = 0; i < p->n_op; i++) {
        const char *kernel = p->op[i].kind == OP_ATTEND ? g->api->exec_kernel(g->exec, i) : "";
        if (!strstr(kernel, "(generic)"))
            continue;
        log_line(&g->log, LOG_WARN, "attention of layer %d runs on a general kernel of the %s, which is slow: its "
                 "heads are of another shape than the fast ones take, or blocks of %d tokens are not a power of two "
                 "from 8 on (--block-size)", (int)p->op[i].layer, g->api->name, (int)g->block_size);
        return;
    }
}

static imp_status start(engine *g, const imp_engine_params *p, imp_err *e)
{
    backend_options bo = {.device = p->device, .n_threads = p->n_threads, .cpu = p->cpu ? p->cpu : "auto",
                          .deterministic = p->deterministic, .profile = p->profile,
                          .prefill_fp8 = p->prefill == IMP_PREFILL_FP8, .log = &g->log, .precise = p->precise};
    int64_t t0 = clock_ns();
    imp_status st = g->api->open(&bo, &g->be, e);
    if (st != IMP_OK)
        return st;
    g->api->describe(g->be, g->describe, sizeof g->describe);
    kv_options ko = {0};
    st = engine_sizes(g, p, &ko, e);
    int64_t t_open = clock_ns();
    if (st == IMP_OK)
        st = upload_all(g, p, e);
    int64_t t_up = clock_ns();
    if (st == IMP_OK)
        st = g->api->kv_open(g->be, &g->m->text, &ko, &g->kv, e);
    for (int i = 0; i < g->m->text.n_group && st == IMP_OK; i++)
        st = blocks_init(&g->blk[i], (int32_t)ko.n_block[i], p->shuffle_blocks, e);
    if (st == IMP_OK)
        st = kv_cache_open(g, p, e);
    plan_limits lim = {.n_tok = (int32_t)g->n_batch, .n_row = (int32_t)g->n_row, .n_seq = (int32_t)g->n_seq};
    if (st == IMP_OK)
        st = g->api->compile(g->be, &g->m->text, g->w, g->kv, &lim, &g->exec, e);
    if (st == IMP_OK)
        st = make_flights(g, p->n_ticket, e);
    if (st == IMP_OK)
        log_line(&g->log, LOG_INFO, "%s opened in %.2f s; weights %.2f GB in %.2f s, %.1f GB/s; the rest %.2f s",
                 g->api->name, (double)(t_open - t0) * 1e-9, (double)g->m->weight_bytes * 1e-9,
                 (double)(t_up - t_open) * 1e-9, (double)g->m->weight_bytes / (double)(t_up - t_open + 1),
                 (double)(clock_ns() - t_up) * 1e-9);
    if (st == IMP_OK)
        tell_slow_attention(g);
    return st;
}

/* Everything that start() made, from half-built states too. */
static void stop_backend(engine *g)
{
    if (g->exec)
        g->api->exec_free(g->exec);
    if (g->kv)
        g->api->kv_close(g->kv);
    for (int32_t i = 0; g->w && i < g->m->text.n_weight; i++)
        if (g->w[i])
            g->api->weight_free(g->be, g->w[i]);
    mem_free(g->w);
    if (g->be)
        g->api->close(g->be);
    prefix_free(g->prefix);
    for (int i = 0; i < PLAN_MAX_GROUPS; i++)
        blocks_free(&g->blk[i]);
    for (int i = 0; i < MAX_FLIGHT; i++)
        free_flight(&g->flight[i]);
    mem_free(g->slot);
    *g = (engine){.m = g->m, .tk = g->tk, .log = g->log, .jump = g->jump};
}

/* Starts the backend that was asked for, or the best that can run this model here; a GPU that cannot is said so
 * aloud. */
static imp_status start_best(engine *g, const imp_engine_params *p, imp_err *e)
{
    bool any = !p->backend || strcmp(p->backend, "auto") == 0;
    size_t n = sizeof backends / sizeof *backends;
    for (size_t i = 0; i < n; i++) {
        if (!any && strcmp(p->backend, backends[i]->name) != 0)
            continue;
        imp_err why = {0};
        g->api = backends[i];
        imp_status st = start(g, p, &why);
        if (st == IMP_OK)
            return IMP_OK;
        bool opened = g->be != NULL;
        stop_backend(g);
        if (!any || i + 1 == n || (st != IMP_E_UNSUPPORTED && st != IMP_E_DEVICE))
            return err_set(e, st, "%s", why.message);
        log_line(&g->log, opened ? LOG_WARN : LOG_DEBUG, "%s; the %s runs the model instead", why.message,
                 backends[i + 1]->name);
    }
    if (strcmp(p->backend, "cuda") == 0)
        return err_set(e, IMP_E_UNSUPPORTED, "backend cuda: this program was built without it (make with nvcc)");
    return err_set(e, IMP_E_USAGE, "backend %s: wanted auto, cpu or cuda", p->backend);
}

imp_status engine_new(model *m, const tok *tk, const imp_engine_params *p, engine **out, imp_err *e)
{
    *out = NULL;
    int64_t t0 = clock_ns();
    engine *g = mem_calloc(1, sizeof *g);
    if (!g)
        return err_oom(e, "engine", sizeof *g);
    g->m = m;
    g->tk = tk;
    g->log = (log_sink){p->log, p->log_user};
    g->jump = p->jump;
    imp_status st = start_best(g, p, e);
    if (st == IMP_OK) {
        pthread_condattr_t a;
        pthread_condattr_init(&a);
        pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
        pthread_mutex_init(&g->lock, NULL);
        pthread_mutex_init(&g->vocab_lock, NULL);
        pthread_cond_init(&g->wake, &a);
        pthread_cond_init(&g->done, &a);
        pthread_condattr_destroy(&a);
        g->have_sync = true;
        g->load_seconds = (double)(clock_ns() - t0) * 1e-9;
        int err = pthread_create(&g->thread, NULL, engine_main, g);
        g->have_thread = err == 0;
        if (err)
            st = err_set(e, IMP_E_NOMEM, "engine thread: %s", strerror(err));
    }
    if (st != IMP_OK) {
        engine_free(g);
        return st;
    }
    *out = g;
    return IMP_OK;
}

void engine_free(engine *g)
{
    if (!g)
        return;
    if (g->have_thread) {
        pthread_mutex_lock(&g->lock);
        g->stop = true;
        pthread_cond_signal(&g->wake);
        pthread_mutex_unlock(&g->lock);
        pthread_join(g->thread, NULL);
    }
    if (g->have_sync) {
        pthread_mutex_destroy(&g->lock);
        pthread_mutex_destroy(&g->vocab_lock);
        pthread_cond_destroy(&g->wake);
        pthread_cond_destroy(&g->done);
    }
    constrain_vocab_free(g->vocab);
    if (g->api)
        stop_backend(g);
    mem_free(g);
}

void engine_stats(engine *g, imp_stats *s)
{
    backend_memory mem = {0};
    g->api->memory(g->be, &mem, NULL);
    uint32_t size = s->size;
    *s = (imp_stats){.size = size, .backend = g->describe, .n_ctx = g->n_ctx, .n_seq = g->n_seq, .n_batch = g->n_batch,
                     .block_size = (uint32_t)g->block_size, .running = g->n_running, .waiting = g->n_waiting,
                     .blocks_used = (uint64_t)atomic_load(&g->blocks_used), .prompt_tokens = g->n_prompt_tok,
                     .cached_tokens = g->n_cached_tok, .generated_tokens = g->n_gen_tok, .preemptions = g->n_preempt,
                     .forced_tokens = g->n_forced_tok, .weight_bytes = mem.weights, .kv_bytes = mem.kv,
                     .workspace_bytes = mem.workspace, .load_seconds = g->load_seconds,
                     .prefix_queries = g->n_query_tok, .blocks_cached = (uint64_t)atomic_load(&g->blocks_cached)};
    for (int i = 0; i < g->m->text.n_group; i++)
        s->blocks_total += (uint64_t)g->blk[i].n_total;
}

const char *engine_lost(engine *g) { return atomic_load(&g->dead) != IMP_OK ? g->dead_why : NULL; }

double engine_step_bytes(engine *g, uint32_t n_ctx, uint32_t n_seq)
{
    return plan_step_bytes(&g->m->text, g->api->kv_get_type(g->kv), n_ctx, n_seq);
}

imp_status engine_profile(engine *g, double read_ceiling, strbuf *out, imp_err *e)
{
    backend_profile p = {0};
    if (!g->api->profile)
        return err_set(e, IMP_E_UNSUPPORTED, "profile: the %s backend has none", g->api->name);
    pthread_mutex_lock(&g->lock); /* held all the time: the thread stays where it is */
    while (!g->idle)
        pthread_cond_wait(&g->done, &g->lock);
    imp_status st = g->api->profile(g->exec, 10, &p, e);
    if (g->prefix)
        prefix_clear(g->prefix); /* the repeated steps wrote over blocks */
    pthread_mutex_unlock(&g->lock);
    if (st == IMP_OK && p.n_step)
        sb_printf(out, "%lld steps one after the other: %.1f us each, the device idle for %.1f us between them\n",
                  (long long)p.n_step, p.step_us, p.idle_us);
    sb_str(out, "| kernel | count | us each | us | GB/s | of ceiling |\n|---|---:|---:|---:|---:|---:|\n");
    for (int32_t i = 0; i < p.n && st == IMP_OK; i++) {
        const backend_profile_row *r = &p.row[i];
        sb_printf(out, "| %s | %d | %.2f | %.1f |", r->name, r->count, r->us / r->count, r->us);
        if (r->bytes > 0 && r->us > 0)
            sb_printf(out, " %.0f | %.0f%% |\n", r->bytes / r->us * 1e-3,
                      read_ceiling > 0 ? 100 * r->bytes / r->us * 1e6 / read_ceiling : 0);
        else
            sb_str(out, " | |\n");
    }
    return st;
}

double engine_linear_params(engine *g) { return plan_linear_params(&g->m->text); }
double engine_attend_flops(engine *g) { return plan_attend_flops(&g->m->text); }

imp_status engine_read_ceiling(engine *g, uint64_t n_bytes, double *out, imp_err *e)
{
    return g->api->read_ceiling(g->be, n_bytes, out, e);
}

const char *engine_kernel(engine *g, int32_t op) { return g->api->exec_kernel(g->exec, op); }

static const char *kernel_of(void *user, int32_t op) { return engine_kernel(user, op); }

void engine_print_plan(engine *g, strbuf *out) { plan_print(&g->m->text, kernel_of, g, out); }

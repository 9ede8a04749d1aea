/* One step: admit, fill the batch (decoders first, then prompts in order of age), compute, hand out the results. */
#include "engine/engine_impl.h"

#include <math.h>

#include "base/clock.h"
#include "base/mem.h"

static bool decoding(const seq *s) { return s->n_kv + 1 == s->n_tok && s->n_tok > s->n_prompt; }

/* How many logits rows of this prompt chunk the request wants. */
static bool wants_rows(const seq *s) { return s->req->r.echo_logits || s->req->r.prompt_logprobs; }

static void admit(engine *g)
{
    while (g->waiting.head && g->running.n < g->n_seq) {
        seq *s = g->waiting.head;
        int32_t slot = 0;
        while (g->slot[slot])
            slot++;
        list_remove(&g->waiting, s);
        s->slot = slot;
        g->slot[slot] = s;
        list_push(&g->running, s);
        if (!s->t_first_sched)
            s->t_first_sched = clock_ns();
        if (!s->req->started) {
            s->req->started = true;
            imp_event ev = {.kind = IMP_EVENT_START};
            engine_event(s, &ev);
        }
    }
}

static void preempt(engine *g, seq *s)
{
    kv_release(g, s);
    g->slot[s->slot] = NULL;
    s->slot = -1;
    list_remove(&g->running, s);
    list_push_front(&g->waiting, s);
    atomic_fetch_add(&g->n_preempt, 1);
}

static seq *youngest(engine *g)
{
    seq *y = NULL;
    for (seq *s = g->running.head; s; s = s->next)
        if (!y || s->age > y->age || (s->age == y->age && s->choice > y->choice))
            y = s;
    return y;
}

/* Room for n more tokens of s, preempting younger sequences if it must; false: s has to sit this step out. */
static bool make_room(engine *g, seq *s, uint32_t n)
{
    while (!kv_reserve(g, s, s->n_kv + n)) {
        seq *y = youngest(g);
        if (y == s || y->n_step) /* never one that is already in this step */
            return false;
        preempt(g, y);
    }
    return true;
}

static void add_row(engine *g, seq *s, int32_t tok, uint32_t want)
{
    batch_row *r = &g->rows[g->b.n_row];
    *r = (batch_row){.tok = tok, .want = want};
    g->row_seq[g->b.n_row] = s;
    if (want & BATCH_LOGITS)
        r->logits = g->logits + (size_t)g->b.n_row * g->m->config.n_vocab;
    if (want & BATCH_SAMPLE) {
        const imp_sampling *p = &s->req->r.sampling;
        penalty_update(&s->pen, p, s->tok, s->n_tok);
        r->sample = (sample_row_in){
            .par = {.temperature = p->temperature, .top_k = p->top_k, .top_p = p->top_p, .min_p = p->min_p, .typical_p = p->typical_p,
                    .repeat_penalty = p->repeat_penalty, .frequency_penalty = p->frequency_penalty, .presence_penalty = p->presence_penalty,
                    .mirostat = p->mirostat, .mirostat_tau = p->mirostat_tau, .mirostat_eta = p->mirostat_eta, .seed = p->seed,
                    .choice = s->choice},
            .position = s->n_tok, .bias = s->pen.bias, .n_bias = s->pen.n_bias, .count = s->pen.count, .n_count = s->pen.n_count,
            .mask = s->mask, .mirostat_mu = p->mirostat ? &s->mirostat_mu : NULL, .n_top = s->req->r.logprobs,
        };
    }
    g->b.n_row++;
}

/* Puts the next n tokens of s into the batch, with the rows it wants. */
static void add_tokens(engine *g, seq *s, uint32_t n)
{
    batch_seq *bs = &g->seqs[g->b.n_seq];
    *bs = (batch_seq){.n_kv = (int32_t)(s->n_kv + n), .slot = s->slot, .state_in = s->state_ready ? s->slot : -1, .state_out = s->slot,
                      .tok_begin = g->b.n_tok, .tok_end = g->b.n_tok + (int32_t)n};
    for (int i = 0; i < g->m->text.n_group; i++) {
        bs->table[i] = s->table[i];
        bs->table_len[i] = s->table_len[i];
        bs->base[i] = s->base[i];
    }
    for (uint32_t j = 0; j < n; j++) {
        int32_t t = g->b.n_tok++, p = (int32_t)(s->n_kv + j);
        g->id[t] = s->tok[p];
        g->seq_of[t] = g->b.n_seq;
        g->kv_index[t] = p;
        g->pos[t][0] = g->pos[t][1] = g->pos[t][2] = p;
        g->vis_begin[t] = 0;
        g->vis_end[t] = p + 1;
        g->cls[t] = (uint32_t)p < s->n_prompt ? BATCH_P : BATCH_D;
        bool last = (uint32_t)p + 1 == s->n_tok;
        bool prompt_row = (uint32_t)p < s->n_prompt && (uint32_t)p >= s->n_row && (uint32_t)p >= s->req->r.rows_from && (wants_rows(s) || (s->req->r.last_logits && last));
        bool sample = last && !(s->req->r.last_logits || s->req->r.echo_logits);
        uint32_t want = (prompt_row ? (uint32_t)BATCH_LOGITS : 0) | (sample ? (uint32_t)BATCH_SAMPLE : 0);
        if (want)
            add_row(g, s, t, want);
    }
    s->n_step = n;
    g->b.n_seq++;
}

static uint32_t chunk_of(engine *g, seq *s)
{
    uint32_t n = s->n_tok - s->n_kv, budget = g->n_batch - (uint32_t)g->b.n_tok;
    if (n > budget)
        n = budget;
    if (wants_rows(s)) { /* every token from rows_from on needs a row */
        uint32_t rows = g->n_row - (uint32_t)g->b.n_row, free = s->req->r.rows_from > s->n_kv ? s->req->r.rows_from - s->n_kv : 0;
        if (n > free + rows)
            n = free + rows;
    }
    return n;
}

static bool ensure_logits(engine *g, seq *s)
{
    if (g->logits || !(wants_rows(s) || s->req->r.last_logits))
        return true;
    g->logits = mem_alloc((size_t)g->n_row * g->m->config.n_vocab * sizeof *g->logits);
    return g->logits != NULL;
}

/* The token that will be sampled in this step depends on a mask made here. */
static bool masked(engine *g, seq *s, uint32_t n)
{
    if (!s->constraint || s->n_kv + n != s->n_tok)
        return true;
    imp_status st = constraint_mask(g, s);
    if (st != IMP_OK)
        engine_finish(g, s, IMP_FINISH_ERROR, st, st == IMP_E_LIMIT ? "constraint: no token of this vocabulary can continue the text"
                                                                    : "constraint: out of memory");
    return st == IMP_OK;
}

/* Gives s its part of the step. May preempt younger sequences or end s. */
static void visit(engine *g, seq *s)
{
    uint32_t n = chunk_of(g, s);
    if (n == 0)
        return;
    if (!ensure_logits(g, s)) {
        engine_finish(g, s, IMP_FINISH_ERROR, IMP_E_NOMEM, "logits: out of memory");
    } else if (make_room(g, s, n)) {
        if (masked(g, s, n))
            add_tokens(g, s, n);
    } else if (g->running.n == 1) {
        engine_finish(g, s, IMP_FINISH_ERROR, IMP_E_NOMEM, "KV cache: no memory for the next block");
    } else if (g->b.n_tok == 0 && youngest(g) == s) {
        preempt(g, s); /* nothing younger to take from: it waits itself */
    }
}

static seq *next_unvisited(engine *g, bool decoders)
{
    for (seq *s = g->running.head; s; s = s->next)
        if (!s->visited && decoding(s) == decoders)
            return s;
    return NULL;
}

static void fill(engine *g)
{
    g->b.n_tok = g->b.n_seq = g->b.n_row = 0;
    for (seq *s = g->running.head; s; s = s->next) {
        s->n_step = 0;
        s->visited = false;
    }
    /* The list changes under visit(), so look for the next one afresh each time. */
    for (int pass = 0; pass < 2; pass++)
        for (seq *s; g->b.n_row < (int32_t)g->n_row && (s = next_unvisited(g, pass == 0)) != NULL;) {
            s->visited = true;
            visit(g, s);
        }
}

/* ---- results ---------------------------------------------------------------------------------------------------- */
static bool ends(const engine *g, const seq *s, int32_t id)
{
    for (uint32_t i = 0; i < s->req->r.n_stop_token; i++)
        if (s->req->r.stop_token[i] == id)
            return true;
    return !s->req->r.ignore_eos && g->tk && tok_is_eog(g->tk, id);
}

/* A sampled token: text, events, and whether the answer is over. */
static void accept(engine *g, seq *s, const sample_row_out *o)
{
    int32_t id = o->id;
    bool final = false;
    if (constraint_accept(s, id, &final) != IMP_OK) {
        engine_finish(g, s, IMP_FINISH_ERROR, IMP_E_INTERNAL, "constraint: a token outside the mask was chosen");
        return;
    }
    s->tok[s->n_tok++] = id;
    if (!s->t_first_token)
        s->t_first_token = clock_ns();
    atomic_fetch_add(&g->n_gen_tok, 1);
    bool eos = ends(g, s, id), hit = false;
    imp_logprob top[SAMPLE_MAX_TOP];
    imp_event ev = {.kind = IMP_EVENT_TOKEN, .token = id, .logprob = o->logprob, .top = top, .n_top = (uint32_t)o->n_top,
                    .n_done = s->n_tok - s->n_prompt, .text = ""};
    for (int32_t i = 0; i < o->n_top; i++)
        top[i] = (imp_logprob){o->top_id[i], o->top_logprob[i]};
    bool full = !eos && (s->n_tok >= s->cap_tok || (s->req->r.max_tokens && s->n_tok - s->n_prompt >= s->req->r.max_tokens));
    if (!eos)
        hit = stream_push(&s->text, id, &ev.text, &ev.n_text);
    if (s->text.held.failed) {
        engine_finish(g, s, IMP_FINISH_ERROR, IMP_E_NOMEM, "text: out of memory");
        return;
    }
    if (!eos)
        engine_event(s, &ev);
    eos = eos || final; /* a constrained text that nothing may follow needs no token that says so */
    if (!eos && !hit && !full)
        return;
    if (!hit) {
        imp_event rest = {.kind = IMP_EVENT_TOKEN, .token = -1, .logprob = NAN, .n_done = s->n_tok - s->n_prompt, .text = ""};
        hit = stream_flush(&s->text, &rest.text, &rest.n_text);
        if (rest.n_text)
            engine_event(s, &rest);
    }
    engine_finish(g, s, hit ? IMP_FINISH_STOP_STRING : eos ? IMP_FINISH_STOP : IMP_FINISH_LENGTH, IMP_OK, NULL);
}

static double log_softmax_at(const float *l, uint32_t n, int32_t id)
{
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        max = (double)l[i] > max ? (double)l[i] : max;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)l[i] - max);
    return (double)l[id] - max - log(sum);
}

static void deliver_logits(engine *g, seq *s, const batch_row *r)
{
    uint32_t p = (uint32_t)g->kv_index[r->tok];
    imp_event ev = {.kind = IMP_EVENT_LOGITS, .n_done = p, .logits = r->logits, .n_vocab = g->m->config.n_vocab};
    if (s->req->r.echo_logits || s->req->r.last_logits)
        engine_event(s, &ev);
    if (s->req->r.prompt_logprobs && p + 1 < s->n_prompt) {
        imp_event pe = {.kind = IMP_EVENT_PROMPT, .n_done = p + 1, .token = s->tok[p + 1],
                        .logprob = (float)log_softmax_at(r->logits, g->m->config.n_vocab, s->tok[p + 1])};
        engine_event(s, &pe);
    }
    s->n_row = p + 1;
}

static void fail_all(engine *g, imp_status st, const char *why)
{
    for (int32_t i = 0; i < g->b.n_seq; i++) {
        seq *s = g->slot[g->seqs[i].slot];
        if (s)
            engine_finish(g, s, IMP_FINISH_ERROR, st, why);
    }
}

static void process(engine *g, const step_result *res)
{
    for (int32_t i = 0; i < g->b.n_seq; i++) {
        seq *s = g->slot[g->seqs[i].slot];
        uint32_t before = s->n_kv;
        s->n_kv += s->n_step;
        s->state_ready = true;
        if (before < s->n_prompt) {
            uint32_t done = s->n_kv < s->n_prompt ? s->n_kv : s->n_prompt;
            atomic_fetch_add(&g->n_prompt_tok, done - before);
            imp_event ev = {.kind = IMP_EVENT_PROMPT, .n_done = done, .token = -1, .logprob = NAN};
            if (!s->req->r.prompt_logprobs)
                engine_event(s, &ev);
        }
    }
    for (int32_t i = 0; i < g->b.n_row; i++) {
        seq *s = g->row_seq[i];
        const batch_row *r = &g->rows[i];
        if (r->want & BATCH_LOGITS)
            deliver_logits(g, s, r);
        bool logits_only = (s->req->r.echo_logits || s->req->r.last_logits) && s->n_row == s->n_prompt;
        if (logits_only)
            engine_finish(g, s, IMP_FINISH_LENGTH, IMP_OK, NULL);
        else if ((r->want & BATCH_SAMPLE) && res->row_status[i] != IMP_OK)
            engine_finish(g, s, IMP_FINISH_ERROR, res->row_status[i],
                          res->row_status[i] == IMP_E_NUMERIC ? "the model's logits are not finite numbers: the weights are damaged"
                                                              : imp_status_text(res->row_status[i]));
        else if (r->want & BATCH_SAMPLE)
            accept(g, s, &res->row[i]);
    }
}

bool engine_step(engine *g)
{
    admit(g);
    fill(g);
    if (g->b.n_tok == 0)
        return false;
    imp_err e = {0};
    backend_ticket t;
    step_result res = {0};
#ifdef IMP_GUARD_STEPS
    mem_guard(++g->n_step > 4); /* warm by then: from here on a step that allocates fails, and a test sees it */
#endif
    imp_status st = g->api->submit(g->exec, &g->b, &t, &e);
    if (st == IMP_OK)
        st = g->api->wait(g->exec, t, &res, &e);
#ifdef IMP_GUARD_STEPS
    mem_guard(false);
#endif
    if (st == IMP_OK)
        st = res.status;
    if (st != IMP_OK) {
        fail_all(g, st, e.message[0] ? e.message : imp_status_text(st));
        return true;
    }
    process(g, &res);
    return true;
}

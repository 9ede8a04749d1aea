/* One step: admit, fill the batch (decoders first, then prompts in order of age), compute, hand out the results. */
#include "engine/engine_impl.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

/* Tokens with those that open steps are sampling. */
static uint32_t total(const seq *s) { return s->n_tok + s->n_pend; }

/* Who is served first: those that decode; then those with a few forced tokens to carry, or resumed; then prompts. */
enum { DECODING, JUMPING, READING, N_TURN };
static int turn(const seq *s)
{
    if (total(s) == s->n_prompt || s->n_kv < s->n_prompt)
        return READING;
    return s->n_kv + 1 == total(s) ? DECODING : JUMPING;
}

/* Its next choice depends on the last one in ways that only the host knows. */
static bool is_sync(const seq *s)
{
    return s->pen.counts_on || s->pen.dry_on || s->constraint || s->req->r.sampling.mirostat;
}

/* Nothing to compute until open steps are done: the token that they sample decides, or is the last one anyway. */
static bool must_wait(const seq *s)
{
    const imp_request *r = &s->req->r;
    return s->n_pend && (is_sync(s) || s->n_kv + 1 != total(s) || total(s) >= s->cap_tok ||
                         (r->max_tokens && total(s) - s->n_prompt >= r->max_tokens));
}

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
    }
}

/* Its turn has come for the first time, or again after it gave up its blocks. */
static void begin(engine *g, seq *s)
{
    if (g->prefix)
        kv_reuse(g, s);
    if (s->req->started)
        return;
    s->req->started = true;
    imp_event ev = {.kind = IMP_EVENT_START, .timing = {.n_prompt = s->n_prompt, .n_cached = s->n_cached}};
    engine_event(s, &ev);
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

/* Room for n more tokens of s, preempting younger sequences if it must; false: s has to sit this step out. Preemption
 * waits until no step is open, so that a sequence's blocks and tokens are all it has. */
static bool make_room(engine *g, seq *s, uint32_t n)
{
    while (!kv_reserve(g, s, s->n_kv + n)) {
        if (g->n_open) {
            g->drain = true;
            return false;
        }
        seq *y = youngest(g);
        if (y == s || y->n_step) /* never one that is already in this step */
            return false;
        preempt(g, y);
    }
    return true;
}

static bool say(engine *g, seq *s, const sample_row_out *o);

/* Delivers the forced tokens that wait for nothing. False: s ended. */
static bool say_all(engine *g, seq *s)
{
    while (s->n_said < s->n_tok)
        if (!say(g, s, NULL))
            return false;
    return true;
}

/* A row at position p that only tells what the model thinks of the forced token behind it. */
static void force_row(engine *g, seq *s, batch_row *r, uint32_t p)
{
    r->sample = (sample_row_in){.position = p + 1,
                                .mask = constraint_only(g, g->cur, g->cur->b.n_row, s->tok[p + 1]),
                                .n_top = s->req->r.logprobs};
    sample_params_init(&r->sample.par);
}

static void add_row(engine *g, seq *s, int32_t tok, uint32_t want)
{
    flight *f = g->cur;
    uint32_t p = (uint32_t)f->kv_index[tok];
    batch_row *r = &f->rows[f->b.n_row];
    *r = (batch_row){.tok = tok, .want = want};
    f->row_seq[f->b.n_row] = s;
    if (want & BATCH_LOGITS)
        r->logits = f->logits + (size_t)f->b.n_row * g->m->config.n_vocab;
    if ((want & BATCH_SAMPLE) && p + 1 < s->n_tok) {
        force_row(g, s, r, p);
    } else if (want & BATCH_SAMPLE) {
        const imp_sampling *q = &s->req->r.sampling;
        penalty_update(&s->pen, q, s->tok, s->n_tok);
        r->sample = (sample_row_in){
            .par = {.temperature = q->temperature, .top_k = q->top_k, .top_p = q->top_p, .min_p = q->min_p,
                    .typical_p = q->typical_p, .repeat_penalty = q->repeat_penalty,
                    .frequency_penalty = q->frequency_penalty, .presence_penalty = q->presence_penalty,
                    .mirostat = q->mirostat, .mirostat_tau = q->mirostat_tau, .mirostat_eta = q->mirostat_eta,
                    .seed = q->seed, .choice = s->choice},
            .position = total(s), .bias = s->pen.bias, .n_bias = s->pen.n_bias, .count = s->pen.count,
            .n_count = s->pen.n_count, .mask = s->mask, .mirostat_mu = q->mirostat ? &s->mirostat_mu : NULL,
            .n_top = s->req->r.logprobs,
        };
        s->n_pend++;
    }
    f->b.n_row++;
}

/* Puts the next n tokens of s into the batch, with the rows it wants. */
static void add_tokens(engine *g, seq *s, uint32_t n)
{
    flight *f = g->cur;
    batch_seq *bs = &f->seqs[f->b.n_seq];
    uint32_t end = total(s);
    *bs = (batch_seq){.n_kv = (int32_t)(s->n_kv + n), .slot = s->slot, .state_in = s->state_ready ? s->slot : -1,
                      .state_out = s->slot, .tok_begin = f->b.n_tok, .tok_end = f->b.n_tok + (int32_t)n};
    for (int i = 0; i < g->m->text.n_group; i++) {
        bs->table[i] = s->table[i];
        bs->table_len[i] = s->table_len[i];
        bs->base[i] = s->base[i];
    }
    for (uint32_t j = 0; j < n; j++) {
        int32_t t = f->b.n_tok++, p = (int32_t)(s->n_kv + j);
        f->id[t] = (uint32_t)p < s->n_tok ? s->tok[p] : BATCH_LAST;
        f->seq_of[t] = f->b.n_seq;
        f->kv_index[t] = p;
        f->pos[t][0] = f->pos[t][1] = f->pos[t][2] = p;
        f->vis_begin[t] = 0;
        f->vis_end[t] = p + 1;
        f->cls[t] = (uint32_t)p < s->n_prompt ? BATCH_P : BATCH_D;
        bool last = (uint32_t)p + 1 == end;
        bool prompt_row = (uint32_t)p < s->n_prompt && (uint32_t)p >= s->n_row &&
                          (uint32_t)p >= s->req->r.rows_from && (wants_rows(s) || (s->req->r.last_logits && last));
        /* a generated token comes next */
        bool chosen = last || ((uint32_t)p + 1 >= s->n_said && constraint_rows(g, s));
        bool sample = chosen && !(s->req->r.last_logits || s->req->r.echo_logits);
        bool logits = prompt_row || (s->req->r.gen_logits && chosen);
        uint32_t want = (logits ? (uint32_t)BATCH_LOGITS : 0) | (sample ? (uint32_t)BATCH_SAMPLE : 0);
        if (want)
            add_row(g, s, t, want);
    }
    f->owner[f->b.n_seq] = s;
    f->from[f->b.n_seq++] = s->n_kv;
    s->n_step = n;
    s->n_kv += n;
    s->n_flight++;
    s->state_ready = true;
}

static uint32_t chunk_of(engine *g, seq *s)
{
    uint32_t n = must_wait(s) ? 0 : total(s) - s->closed - s->n_kv, budget = g->n_batch - (uint32_t)g->cur->b.n_tok;
    if (n > budget)
        n = budget;
    if (constraint_rows(g, s)) { /* every token before a forced one that was not delivered yet needs a row */
        uint32_t rows = g->jump == IMP_JUMP_STEPS ? 1 : g->n_row - (uint32_t)g->cur->b.n_row;
        uint32_t free = s->n_said - 1 > s->n_kv ? s->n_said - 1 - s->n_kv : 0;
        if (n > free + rows)
            n = free + rows;
    }
    if (wants_rows(s)) { /* every token from rows_from on needs a row */
        uint32_t rows = g->n_row - (uint32_t)g->cur->b.n_row;
        uint32_t free = s->req->r.rows_from > s->n_kv ? s->req->r.rows_from - s->n_kv : 0;
        if (n > free + rows)
            n = free + rows;
    }
    return n;
}

static bool ensure_rows(engine *g, seq *s)
{
    flight *f = g->cur;
    if (constraint_rows(g, s) && s->n_said < s->n_tok && !constraint_row_masks(g, f))
        return false;
    if (f->logits || !(wants_rows(s) || s->req->r.last_logits || s->req->r.gen_logits))
        return true;
    f->logits = mem_alloc((size_t)g->n_row * g->m->config.n_vocab * sizeof *f->logits);
    return f->logits != NULL;
}

/* The token that will be sampled in this step depends on a mask made here. */
static bool masked(engine *g, seq *s, uint32_t n)
{
    if (!s->constraint || s->n_kv + n != total(s))
        return true;
    imp_status st = constraint_mask(g, s);
    if (st != IMP_OK)
        engine_finish(g, s, IMP_FINISH_ERROR, st,
                      st == IMP_E_LIMIT ? "constraint: no token of this vocabulary can continue the text"
                                        : "constraint: out of memory");
    return st == IMP_OK;
}

/* Gives s its part of the step. May preempt younger sequences or end s. */
static void visit(engine *g, seq *s)
{
    if (!s->n_kv) {
        if (g->cur->b.n_tok == (int32_t)g->n_batch || (g->prefix && kv_twin_ahead(g, s)))
            return;
        begin(g, s);
    }
    /* forced from the first token to the last: there is nothing to ask the model */
    if (s->closed && !constraint_rows(g, s)) {
        say_all(g, s);
        return;
    }
    uint32_t n = chunk_of(g, s);
    if (n == 0)
        return;
    if (!ensure_rows(g, s)) {
        engine_finish(g, s, IMP_FINISH_ERROR, IMP_E_NOMEM, "logits: out of memory");
    } else if (make_room(g, s, n)) {
        if (masked(g, s, n))
            add_tokens(g, s, n);
    } else if (g->n_open) {
        return;
    } else if (g->running.n == 1) {
        engine_finish(g, s, IMP_FINISH_ERROR, IMP_E_NOMEM, "KV cache: no memory for the next block");
    } else if (g->cur->b.n_tok == 0 && youngest(g) == s) {
        preempt(g, s); /* nothing younger to take from: it waits itself */
    }
}

static seq *next_unvisited(engine *g, int whose)
{
    for (seq *s = g->running.head; s; s = s->next)
        if (!s->visited && turn(s) == whose)
            return s;
    return NULL;
}

static void fill(engine *g)
{
    batch *b = &g->cur->b;
    b->n_tok = b->n_seq = b->n_row = 0;
    for (seq *s = g->running.head; s; s = s->next) {
        s->n_step = 0;
        s->visited = false;
    }
    /* The list changes under visit(), so look for the next one afresh each time. */
    for (int whose = DECODING; whose < N_TURN; whose++)
        for (seq *s; b->n_row < (int32_t)g->n_row && (s = next_unvisited(g, whose)) != NULL;) {
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

/* Delivers tok[n_said]: text, events, and whether the answer is over (then s is gone: false). o: NULL for a forced
 * token whose log-probability nobody asked for. */
static bool say(engine *g, seq *s, const sample_row_out *o)
{
    int32_t id = s->tok[s->n_said++];
    if (!s->t_first_token)
        s->t_first_token = clock_ns();
    atomic_fetch_add(&g->n_gen_tok, 1);
    bool eos = ends(g, s, id), hit = false;
    imp_logprob top[SAMPLE_MAX_TOP];
    imp_event ev = {.kind = IMP_EVENT_TOKEN, .token = id, .logprob = o ? o->logprob : NAN, .top = top,
                    .n_top = o ? (uint32_t)o->n_top : 0, .n_done = s->n_said - s->n_prompt, .text = ""};
    for (uint32_t i = 0; i < ev.n_top; i++)
        top[i] = (imp_logprob){o->top_id[i], o->top_logprob[i]};
    bool full = !eos && (s->n_said >= s->cap_tok ||
                         (s->req->r.max_tokens && s->n_said - s->n_prompt >= s->req->r.max_tokens));
    if (!eos)
        hit = stream_push(&s->text, id, &ev.text, &ev.n_text);
    if (s->text.held.failed) {
        engine_finish(g, s, IMP_FINISH_ERROR, IMP_E_NOMEM, "text: out of memory");
        return false;
    }
    if (!eos)
        engine_event(s, &ev);
    /* a constrained text that nothing may follow needs no token that says so */
    eos = eos || (s->final && s->n_said == s->n_tok);
    if (!eos && !hit && !full)
        return true;
    if (!hit) {
        imp_event rest = {.kind = IMP_EVENT_TOKEN, .token = -1, .logprob = NAN, .n_done = s->n_said - s->n_prompt,
                          .text = ""};
        hit = stream_flush(&s->text, &rest.text, &rest.n_text);
        if (rest.n_text)
            engine_event(s, &rest);
    }
    engine_finish(g, s, hit ? IMP_FINISH_STOP_STRING : eos ? IMP_FINISH_STOP : IMP_FINISH_LENGTH, IMP_OK, NULL);
    return false;
}

/* What the row at position p chose. */
static void accept(engine *g, seq *s, uint32_t p, const sample_row_out *o)
{
    if (p + 1 < s->n_tok) { /* the row was a forced token's */
        if (o->id == s->tok[p + 1])
            say(g, s, o);
        else
            engine_finish(g, s, IMP_FINISH_ERROR, IMP_E_INTERNAL, "constraint: a token outside the mask was chosen");
        return;
    }
    s->n_pend--;
    if (!say_all(g, s))
        return;
    if (constraint_accept(s, o->id) != IMP_OK) {
        engine_finish(g, s, IMP_FINISH_ERROR, IMP_E_INTERNAL, "constraint: a token outside the mask was chosen");
        return;
    }
    s->tok[s->n_tok++] = o->id;
    if (!say(g, s, o))
        return;
    imp_err e = {0};
    if (constraint_jump(g, s, &e) != IMP_OK)
        engine_finish(g, s, IMP_FINISH_ERROR, e.status, e.message);
    else if (!constraint_rows(g, s))
        say_all(g, s);
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

static void deliver_logits(engine *g, const flight *f, seq *s, const batch_row *r)
{
    uint32_t p = (uint32_t)f->kv_index[r->tok];
    imp_event ev = {.kind = IMP_EVENT_LOGITS, .n_done = p, .logits = r->logits, .n_vocab = g->m->config.n_vocab};
    if (s->req->r.echo_logits || s->req->r.last_logits || s->req->r.gen_logits)
        engine_event(s, &ev);
    if (s->req->r.prompt_logprobs && p + 1 < s->n_prompt) {
        imp_event pe = {.kind = IMP_EVENT_PROMPT, .n_done = p + 1, .token = s->tok[p + 1],
                        .logprob = (float)log_softmax_at(r->logits, g->m->config.n_vocab, s->tok[p + 1])};
        engine_event(s, &pe);
    }
    s->n_row = p + 1;
}

/* The step no longer holds s; true when s is over and only the step kept it. */
static bool let_go(engine *g, seq *s)
{
    s->n_flight--;
    if (!s->gone)
        return false;
    if (!s->n_flight)
        seq_free(g, s);
    return true;
}

static void fail_flight(engine *g, flight *f, imp_status st, const char *why)
{
    for (int32_t i = 0; i < f->b.n_seq; i++)
        if (!let_go(g, f->owner[i]))
            engine_finish(g, f->owner[i], IMP_FINISH_ERROR, st, why);
}

static void process_row(engine *g, const flight *f, const step_result *res, int32_t i)
{
    seq *s = f->row_seq[i];
    const batch_row *r = &f->rows[i];
    if (r->want & BATCH_LOGITS)
        deliver_logits(g, f, s, r);
    bool logits_only = (s->req->r.echo_logits || s->req->r.last_logits) && s->n_row == s->n_prompt;
    if (logits_only)
        engine_finish(g, s, IMP_FINISH_LENGTH, IMP_OK, NULL);
    else if ((r->want & BATCH_SAMPLE) && res->row_status[i] != IMP_OK)
        engine_finish(g, s, IMP_FINISH_ERROR, res->row_status[i],
                      res->row_status[i] == IMP_E_NUMERIC
                          ? "the model's logits are not finite numbers: the weights are damaged"
                          : imp_status_text(res->row_status[i]));
    else if (r->want & BATCH_SAMPLE)
        accept(g, s, (uint32_t)f->kv_index[r->tok], &res->row[i]);
}

static void process(engine *g, flight *f, const step_result *res)
{
    for (int32_t i = 0; i < f->b.n_seq; i++) {
        seq *s = f->owner[i];
        uint32_t before = f->from[i], end = before + (uint32_t)(f->seqs[i].tok_end - f->seqs[i].tok_begin);
        if (s->gone)
            continue;
        kv_landed(g, s, end);
        if (before >= s->n_prompt)
            continue;
        uint32_t done = end < s->n_prompt ? end : s->n_prompt;
        atomic_fetch_add(&g->n_prompt_tok, done - before);
        imp_event ev = {.kind = IMP_EVENT_PROMPT, .n_done = done, .token = -1, .logprob = NAN};
        if (!s->req->r.prompt_logprobs)
            engine_event(s, &ev);
    }
    for (int32_t i = 0; i < f->b.n_row; i++)
        if (!f->row_seq[i]->gone)
            process_row(g, f, res, i);
    for (int32_t i = 0; i < f->b.n_seq; i++)
        let_go(g, f->owner[i]);
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */
static void guard(engine *g, bool on)
{
#ifdef IMP_GUARD_STEPS
    mem_guard(on && g->n_step > 4); /* warm by then: from here on a step that allocates fails, and a test sees it */
#else
    (void)g;
    (void)on;
#endif
}

/* A step failed. When that was the device's end, nothing after it can succeed: whoever waits is told so (engine.c). */
static void step_failed(engine *g, flight *f, imp_status st, const imp_err *e)
{
    const char *why = e->message[0] ? e->message : imp_status_text(st);
    if (st == IMP_E_DEVICE && atomic_load(&g->dead) == IMP_OK) {
        size_t n = strlen(why) < sizeof g->dead_why ? strlen(why) : sizeof g->dead_why - 1;
        memcpy(g->dead_why, why, n);
        g->dead_why[n] = 0;
        atomic_store(&g->dead, st);
        log_line(&g->log, LOG_ERROR, "the device is lost: %s", why);
    }
    fail_flight(g, f, st, why);
}

/* Fills and submits one step; false when there was nothing to do. */
static bool launch(engine *g)
{
    g->drain = false;
    g->cur = &g->flight[(g->first + g->n_open) % g->n_flight];
    admit(g);
    fill(g);
    if (g->cur->b.n_tok == 0)
        return false;
    imp_err e = {0};
    g->n_step++;
    guard(g, true);
    imp_status st = g->api->submit(g->exec, &g->cur->b, &g->cur->ticket, &e);
    guard(g, false);
    if (st == IMP_OK)
        g->n_open++;
    else
        step_failed(g, g->cur, st, &e);
    return true;
}

/* Waits for the oldest open step and hands out its results. */
static void land(engine *g)
{
    flight *f = &g->flight[g->first];
    imp_err e = {0};
    step_result res = {0};
    guard(g, true);
    imp_status st = g->api->wait(g->exec, f->ticket, &res, &e);
    guard(g, false);
    g->first = (g->first + 1) % g->n_flight;
    g->n_open--;
    if (st == IMP_OK)
        st = res.status;
    if (st != IMP_OK)
        step_failed(g, f, st, &e);
    else
        process(g, f, &res);
}

void engine_step(engine *g)
{
    bool room = g->n_open < g->n_flight && !(g->drain && g->n_open);
    bool launched = room && launch(g);
    if (g->n_open && (!launched || g->n_open == g->n_flight))
        land(g);
}

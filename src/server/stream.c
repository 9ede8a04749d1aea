/* One streaming state machine for all protocols: engine events in, pieces of answers out.
 *
 * Life of a gen:
 *   built by a worker -> gen_go: refused (an error is the answer), or submitted
 *   scoring (echo with logprobs) -> the prompts' logits come first, then the answers are submitted
 *   begun: a stream's first byte was printed; from then on errors are events in the stream
 *   finished: submitted, no DONE event to come: answered, freed
 * Invariants: (1) every submitted choice gives exactly one DONE; (2) only the pump thread frees a gen, after its last
 * DONE; (3) call.g is set before the first submission and cleared before the gen is freed, both under call.lock. */
#include "server/stream.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "server/tools.h"

/* ---- building --------------------------------------------------------------------------------------------------- */
gen *gen_new(call *c, const printer *pr, json_t *doc)
{
    gen *g = mem_calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->c = c;
    g->s = c->s;
    g->pr = pr;
    g->doc = doc;
    g->created = clock_unix_s();
    g->a = (ask){.sampling = c->s->p.sampling, .max_tokens = c->s->p.max_tokens, .max_completion = -1, .n = 1,
                 .logprobs = -1, .top_logprobs = -1, .ignore_eos = c->s->p.ignore_eos, .seeded = c->s->p.has_seed,
                 .mem = &g->mem, .err = &g->err};
    return g;
}

void gen_free(gen *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; i < g->n_prompt; i++)
        imp_free(g->prompt[i].ids);
    for (uint32_t i = 0; i < g->n_choice; i++) {
        choice *c = &g->choice[i];
        imp_chat_parser_free(c->parser);
        for (uint32_t j = 0; j < c->n_call; j++) {
            mem_free(c->call[j].name);
            sb_free(&c->call[j].args);
        }
        mem_free(c->call);
        sb_free(&c->reasoning);
        sb_free(&c->text);
        for (int j = 0; j < 4; j++)
            sb_free(&c->lp[j]);
    }
    sb_free(&g->out);
    json_decref(g->doc);
    arena_free(&g->mem);
    mem_free(g);
}

bool gen_prompts(gen *g, uint32_t n)
{
    uint32_t k = (uint32_t)g->a.n;
    g->prompt = ARENA_ARRAY(&g->mem, gen_prompt, n);
    g->choice = ARENA_ARRAY(&g->mem, choice, (size_t)n * k);
    g->scorer = ARENA_ARRAY(&g->mem, choice, (size_t)n + 1);
    g->sub = ARENA_ARRAY(&g->mem, gen_sub, (size_t)n * 2);
    if (g->mem.failed)
        return false;
    g->n_prompt = n;
    g->n_choice = n * k;
    for (uint32_t i = 0; i < g->n_choice; i++)
        g->choice[i] = (choice){.g = g, .index = i, .prompt = &g->prompt[i / k]};
    for (uint32_t i = 0; i <= n; i++)
        g->scorer[i] = (choice){.g = g, .index = i, .prompt = i < n ? &g->prompt[i] : NULL};
    return true;
}

void gen_refuse(gen *g)
{
    call *c = g->c;
    req_err *e = &g->err;
    int http = e->http ? e->http : 503;
    if (http >= 500)
        log_line(&c->s->p.log, LOG_WARN, "%s: %d: %s", c->id, http, e->http ? e->message : "out of memory");
    if (http == 429 || http == 503)
        c->retry_after = 1;
    sb_clear(&c->out);
    error_print(&c->out, c->form, c->id, &http, e->code, e->param[0] ? e->param : NULL,
                e->http ? e->message : "out of memory", e->extra[0] ? e->extra : NULL);
    gen_free(g);
    call_answer(c, http, "application/json");
    call_unref(c);
}

/* ---- from the engine thread -------------------------------------------------------------------------------------- */
/* The likeliest n of a row of logits and the logarithm of its sum of exponentials. */
static double best_of_row(const float *l, uint32_t n_vocab, imp_logprob *top, uint32_t n_top)
{
    uint32_t n = 0;
    float max = -INFINITY;
    for (uint32_t i = 0; i < n_vocab; i++) {
        if (l[i] > max)
            max = l[i];
        if (!n_top || (n == n_top && !(l[i] > top[n - 1].logprob)))
            continue;
        uint32_t at = n < n_top ? n++ : n - 1;
        for (; at > 0 && l[i] > top[at - 1].logprob; at--)
            top[at] = top[at - 1];
        top[at] = (imp_logprob){(int32_t)i, l[i]};
    }
    double sum = 0;
    for (uint32_t i = 0; i < n_vocab; i++)
        sum += (double)expf(l[i] - max);
    return (double)max + log(sum);
}

static void score(gen_sub *sub, const imp_event *ev)
{
    gen *g = sub->g;
    imp_logprob top[20];
    uint32_t n_top = g->a.logprobs > 20 ? 20 : (uint32_t)g->a.logprobs, next = ev->n_done + 1;
    if (next >= sub->prompt->n)
        return;
    if (n_top > ev->n_vocab)
        n_top = ev->n_vocab;
    double lse = best_of_row(ev->logits, ev->n_vocab, top, n_top);
    for (uint32_t i = 0; i < n_top; i++)
        top[i].logprob = (float)((double)top[i].logprob - lse);
    ev_record r = {.kind = EV_SCORE, .g = g, .c = &g->scorer[sub->prompt - g->prompt], .sub = sub, .position = next,
                   .token = sub->prompt->ids[next],
                   .logprob = (float)((double)ev->logits[sub->prompt->ids[next]] - lse), .n_top = n_top};
    pump_push(g->s, &r, top, "");
}

static void on_event(void *user, const imp_event *ev)
{
    gen_sub *sub = user;
    gen *g = sub->g;
    server *s = g->s;
    choice *c = sub->scoring ? &g->scorer[sub->prompt - g->prompt] : &g->choice[sub->first + ev->choice];
    ev_record r = {.g = g, .c = c, .sub = sub, .t = clock_ns(), .token = ev->token, .logprob = ev->logprob};
    if (ev->kind == IMP_EVENT_START) {
        r.kind = EV_START;
        r.position = ev->timing.n_cached;
        pump_push(s, &r, NULL, "");
    } else if (ev->kind == IMP_EVENT_TOKEN) {
        r.kind = EV_TOKEN;
        r.n_top = ev->n_top;
        r.n_text = (uint32_t)ev->n_text;
        pump_push(s, &r, ev->top, ev->text);
    } else if (ev->kind == IMP_EVENT_LOGITS) {
        score(sub, ev);
    } else if (ev->kind == IMP_EVENT_DONE) {
        c->finish = ev->finish;
        c->status = ev->status;
        c->timing = ev->timing;
        snprintf(c->message, sizeof c->message, "%s", ev->message ? ev->message : "");
        for (uint32_t i = 0; ev->stop_string && i < g->a.n_stop; i++) /* the engine's copy goes with its request */
            if (strcmp(g->a.stop[i], ev->stop_string) == 0)
                c->stop_string = g->a.stop[i];
        if (!sub->scoring)
            atomic_fetch_sub(&s->n_choice, 1);
        pump_done(s, c); /* from here on g may be gone */
    }
}

/* ---- submitting -------------------------------------------------------------------------------------------------- */
static void fail_req(req_err *e, int http, const char *code, const char *message)
{
    if (e->http)
        return;
    e->http = http;
    e->code = code;
    snprintf(e->message, sizeof e->message, "%s", message);
}

static void fill_request(const gen *g, const gen_prompt *p, bool scoring, imp_request *r)
{
    const ask *a = &g->a;
    imp_request_init(r);
    r->prompt = p->ids;
    r->n_prompt = p->n;
    r->salt = a->salt;
    r->priority = a->priority;
    if (scoring) {
        r->echo_logits = true;
        r->max_tokens = 1;
        return;
    }
    r->max_tokens = (uint32_t)a->max_tokens;
    r->n = (uint32_t)a->n;
    r->sampling = a->sampling;
    r->stop = a->stop;
    r->n_stop = a->n_stop;
    r->stop_token = a->stop_token;
    r->n_stop_token = a->n_stop_token;
    r->ignore_eos = a->ignore_eos;
    r->keep_special = a->keep_special || g->parses;
    r->logprobs = a->logprobs;
    r->constraint_kind = a->constraint_kind;
    r->constraint = a->constraint;
    r->key_order = true; /* as OpenAI's server does, and others: clients read streams by it */
}

/* Submits every prompt; returns how many DONE events will not come. */
static uint32_t submit_all(gen *g, bool scoring)
{
    uint32_t each = scoring ? 1 : (uint32_t)g->a.n;
    if (!scoring)
        atomic_fetch_add(&g->s->n_choice, g->n_choice);
    for (uint32_t i = 0; i < g->n_prompt; i++) {
        imp_request r;
        imp_err e = {0};
        uint32_t at = (scoring ? 0 : g->n_prompt) + i;
        gen_sub *sub = &g->sub[at];
        *sub = (gen_sub){.g = g, .prompt = &g->prompt[i], .first = i * each, .scoring = scoring};
        fill_request(g, sub->prompt, scoring, &r);
        imp_status st = imp_submit(g->s->g, &r, on_event, sub, &sub->id, &e);
        if (st != IMP_OK) {
            uint32_t missing = (g->n_prompt - i) * each;
            if (!scoring)
                atomic_fetch_sub(&g->s->n_choice, missing);
            tools_explain(g, e.message, sizeof e.message);
            fail_req(&g->err, imp_status_http(st), st == IMP_E_CONTEXT ? "context_length_exceeded" : NULL, e.message);
            gen_cancel(g);
            return missing;
        }
        pthread_mutex_lock(&g->c->lock);
        atomic_store(&g->n_sub, at + 1);
        bool cancelled = atomic_load(&g->cancelled);
        pthread_mutex_unlock(&g->c->lock);
        if (cancelled)
            imp_cancel(g->s->g, sub->id);
    }
    return 0;
}

/* With c->lock, or on the thread that submits. An id counts once n_sub has passed it; whoever submits meanwhile sees
 * the flag. */
void gen_cancel(gen *g)
{
    atomic_store(&g->cancelled, true);
    for (uint32_t i = 0, n = atomic_load(&g->n_sub); i < n; i++)
        if (g->sub[i].id)
            imp_cancel(g->s->g, g->sub[i].id);
}

static bool check_sizes(gen *g)
{
    const server *s = g->s;
    for (uint32_t i = 0; i < g->a.sampling.n_logit_bias; i++)
        if ((uint32_t)g->a.sampling.logit_bias[i].token >= s->info.n_vocab) {
            fail_req(&g->err, 400, NULL, "logit_bias: a token id is past the vocabulary");
            snprintf(g->err.param, sizeof g->err.param, "logit_bias");
            return false;
        }
    bool answers = !(g->a.has_max && g->a.max_tokens == 0);
    for (uint32_t i = 0; i < g->n_prompt; i++) {
        uint32_t n = g->prompt[i].n, most = s->about.n_ctx;
        if (n == 0) {
            fail_req(&g->err, 400, NULL, "the prompt is empty: it has no tokens");
            return false;
        }
        if (n < most || (n == most && !answers))
            continue;
        char text[200];
        snprintf(text, sizeof text, "the prompt has %u tokens, which exceeds the available context size of %u tokens",
                 n, most);
        fail_req(&g->err, 400, "context_length_exceeded", text);
        snprintf(g->err.extra, sizeof g->err.extra, "\"n_prompt_tokens\":%u,\"n_ctx\":%u", n, most);
        return false;
    }
    if (atomic_load(&s->n_choice) + g->n_choice > s->about.n_seq + s->p.max_queue) {
        fail_req(&g->err, 429, NULL, "the queue is full: try again later");
        return false;
    }
    return true;
}

void gen_go(gen *g)
{
    call *c = g->c;
    if (g->err.http || !check_sizes(g)) {
        gen_refuse(g);
        return;
    }
    pthread_mutex_lock(&c->lock);
    bool gone = c->gone;
    if (!gone) {
        c->g = g;
        atomic_fetch_add(&g->s->n_gen, 1);
    }
    pthread_mutex_unlock(&c->lock);
    if (gone) {
        gen_free(g);
        call_abort(c);
        call_unref(c);
        return;
    }
    g->scoring = g->a.echo && g->a.logprobs >= 0;
    bool answers = !(g->a.has_max && g->a.max_tokens == 0);
    g->left = g->scoring ? g->n_prompt : answers ? g->n_choice : 0;
    if (g->left)
        g->n_missing = submit_all(g, g->scoring);
    pump_done(g->s, &g->scorer[g->n_prompt]);
}

/* ---- pump thread ------------------------------------------------------------------------------------------------- */
static void begin(gen *g)
{
    if (g->begun || !g->a.stream || g->err.http)
        return;
    g->begun = true;
    if (g->pr->begin)
        g->pr->begin(g, &g->out);
    call_stream(g->c);
}

/* With echo, an answer begins with its prompt. */
static void echo(gen *g, choice *c)
{
    if (!g->a.echo || c->echoed)
        return;
    c->echoed = true;
    const gen_prompt *p = c->prompt;
    piece text = {.text = p->text, .n_text = p->n_text, .token = -1, .logprob = NAN};
    if (!p->score) {
        g->pr->piece(g, c, &text, &g->out);
        return;
    }
    for (uint32_t i = 0; i < p->n_score; i++) {
        piece t = p->score[i];
        t.text = i ? "" : text.text;
        t.n_text = i ? 0 : text.n_text;
        g->pr->piece(g, c, &t, &g->out);
    }
}

static void keep_score(gen *g, const ev_record *r, const imp_logprob *top)
{
    gen_prompt *p = r->sub->prompt;
    if (!p->score) {
        p->score = ARENA_ARRAY(&g->mem, piece, p->n);
        for (uint32_t i = 0; p->score && i < p->n; i++)
            p->score[i] = (piece){.text = "", .token = p->ids[i], .logprob = NAN};
        p->n_score = p->score ? p->n : 0;
    }
    imp_logprob *copy = ARENA_ARRAY(&g->mem, imp_logprob, r->n_top + 1);
    if (!p->score || !copy) {
        r->c->lost = true;
        return;
    }
    memcpy(copy, top, r->n_top * sizeof *top);
    p->score[r->position].logprob = r->logprob;
    p->score[r->position].top = copy;
    p->score[r->position].n_top = r->n_top;
}

/* ---- parts: content, reasoning, tool calls ---- */
static tool_call *new_call(choice *c, const imp_part *p)
{
    if (c->n_call == c->cap_call) {
        uint32_t cap = c->cap_call ? 2 * c->cap_call : 4;
        tool_call *call = mem_realloc(c->call, cap * sizeof *call);
        if (!call)
            return NULL;
        c->call = call;
        c->cap_call = cap;
    }
    char *name = mem_strndup(p->text, p->n);
    if (!name)
        return NULL;
    c->call[c->n_call] = (tool_call){.name = name};
    return &c->call[c->n_call++];
}

/* From the parser of choice `user`; pump thread. */
void gen_on_part(void *user, const imp_part *p)
{
    choice *c = user;
    gen *g = c->g;
    c->thinks = p->kind == IMP_PART_REASONING;
    if (g->a.one_call && c->n_call && c->call[c->n_call - 1].complete)
        return;
    if (p->kind == IMP_PART_TOOL_BEGIN && !new_call(c, p))
        c->lost = true;
    tool_call *call = c->n_call ? &c->call[c->n_call - 1] : NULL;
    if (p->kind == IMP_PART_CONTENT && !g->a.stream)
        sb_add(&c->text, p->text, p->n);
    else if (p->kind == IMP_PART_REASONING && !g->a.stream)
        sb_add(&c->reasoning, p->text, p->n);
    else if (p->kind == IMP_PART_TOOL_ARGS && call)
        sb_add(&call->args, p->text, p->n);
    else if (p->kind == IMP_PART_TOOL_END && call)
        call->complete = true;
    if (c->text.failed || c->reasoning.failed || (call && call->args.failed))
        c->lost = true;
    if (g->a.stream && !c->lost)
        g->pr->part(g, c, p, &g->out);
}

/* What the prompt has of the answer already. */
static void feed(gen *g, choice *c)
{
    if (!c->parser || c->fed)
        return;
    c->fed = true;
    if (g->forced && imp_chat_parser_push(c->parser, g->forced, strlen(g->forced)) != IMP_OK)
        c->lost = true;
}

static void give(gen *g, choice *c, const piece *p)
{
    if (!c->parser) {
        g->pr->piece(g, c, p, &g->out);
        return;
    }
    piece bare = *p;
    bare.text = "";
    bare.n_text = 0;
    feed(g, c);
    g->pr->piece(g, c, &bare, &g->out);
    if (p->n_text && imp_chat_parser_push(c->parser, p->text, p->n_text) != IMP_OK)
        c->lost = true;
    c->n_reasoning += c->thinks && p->token >= 0;
}

static void on_token(gen *g, const ev_record *r, const imp_logprob *top, const char *text)
{
    choice *c = r->c;
    metrics *m = &g->s->metrics;
    begin(g);
    echo(g, c);
    if (r->token >= 0) {
        if (!c->t_first) {
            c->t_first = r->t;
            metrics_observe(m, HIST_TTFT, (double)(r->t - g->c->t_arrival) * 1e-9);
        } else {
            metrics_observe(m, HIST_ITL, (double)(r->t - c->t_last) * 1e-9);
        }
        c->t_last = r->t;
        c->n_token++;
        metrics_tokens(m, 0, 0, 1);
    }
    piece p = {.text = text, .n_text = r->n_text, .token = r->token, .logprob = r->logprob, .top = top,
               .n_top = r->n_top};
    give(g, c, &p);
}

void gen_on_record(gen *g, const ev_record *r, const imp_logprob *top, const char *text)
{
    if (!g->t_sched && r->kind == EV_START)
        g->t_sched = r->t;
    if (r->kind == EV_START && !r->sub->scoring) {
        r->c->n_cached = r->position;
        begin(g);
    } else if (r->kind == EV_SCORE) {
        keep_score(g, r, top);
    } else if (r->kind == EV_TOKEN) {
        on_token(g, r, top, text);
    }
}

static void measure(gen *g, const choice *c)
{
    static const metric_finish reason[] = {
        [IMP_FINISH_NONE] = FINISHED_ERROR, [IMP_FINISH_STOP] = FINISHED_STOP,
        [IMP_FINISH_STOP_STRING] = FINISHED_STOP, [IMP_FINISH_LENGTH] = FINISHED_LENGTH,
        [IMP_FINISH_CANCELLED] = FINISHED_ABORT, [IMP_FINISH_ERROR] = FINISHED_ERROR,
    };
    metrics *m = &g->s->metrics;
    const imp_timing *t = &c->timing;
    double now = (double)clock_ns() * 1e-9;
    metrics_finished(m, reason[c->finish]);
    if (c->status != IMP_OK)
        return;
    metrics_observe(m, HIST_E2E, now - (double)g->c->t_arrival * 1e-9);
    metrics_observe(m, HIST_QUEUE, (double)t->queue_ns * 1e-9);
    metrics_observe(m, HIST_PREFILL, (double)t->prefill_ns * 1e-9);
    metrics_observe(m, HIST_DECODE, (double)t->decode_ns * 1e-9);
    metrics_observe(m, HIST_INFERENCE, (double)(t->prefill_ns + t->decode_ns) * 1e-9);
    metrics_observe(m, HIST_PROMPT, t->n_prompt);
    metrics_observe(m, HIST_GENERATION, t->n_generated);
    if (t->n_generated > 1) {
        metrics_observe(m, HIST_TPOT, (double)t->decode_ns * 1e-9 / (t->n_generated - 1));
        metrics_observe(m, HIST_TPOT_OLD, (double)t->decode_ns * 1e-9 / (t->n_generated - 1));
    }
}

/* The scores are there: now the answers, if any are wanted. */
static void after_scoring(gen *g)
{
    g->scoring = false;
    if (g->err.http || atomic_load(&g->cancelled) || (g->a.has_max && g->a.max_tokens == 0))
        return;
    g->left = g->n_choice;
    g->left -= submit_all(g, false);
}

void gen_on_done(gen *g, choice *c)
{
    if (c == &g->scorer[g->n_prompt]) {
        g->submitted = true;
        g->left -= g->n_missing;
    } else {
        g->left--;
        c->over = true;
        bool scorer = g->scorer && c >= g->scorer && c < g->scorer + g->n_prompt;
        if (!scorer && c->status == IMP_OK && c->parser && !g->err.http) {
            begin(g);
            feed(g, c);
            c->lost |= imp_chat_parser_finish(c->parser) != IMP_OK;
        }
        if (c->lost && c->status == IMP_OK) {
            c->status = IMP_E_NOMEM;
            snprintf(c->message, sizeof c->message, "out of memory for the answer");
        }
        if (c->status == IMP_E_CANCELLED) /* by us: the client has gone, time is up, or the server hurries to its end */
            fail_req(&g->err, 503, NULL, "the server is shutting down");
        else if (c->status != IMP_OK)
            fail_req(&g->err, imp_status_http(c->status), NULL, c->message);
        if (!scorer) {
            measure(g, c);
            if (c->status == IMP_OK)
                echo(g, c);
            if (g->a.stream && !g->err.http) {
                begin(g);
                g->pr->over(g, c, &g->out);
            }
        }
    }
    if (g->scoring && g->submitted && g->left == 0)
        after_scoring(g);
}

static void measure_request(const gen *g)
{
    metrics *m = &g->s->metrics;
    gen_usage u = gen_count(g);
    uint32_t most = 0, shown = 0;
    for (uint32_t i = 0; i < g->n_choice; i++) {
        most = g->choice[i].timing.n_generated > most ? g->choice[i].timing.n_generated : most;
        shown += g->choice[i].n_token;
    }
    /* what no token event told of: the tokens that ended answers */
    metrics_tokens(m, u.prompt, u.cached, u.completion - shown);
    metrics_observe(m, HIST_MAX_GENERATION, most);
    metrics_observe(m, HIST_PARAM_N, g->a.n);
    if (g->a.max_tokens)
        metrics_observe(m, HIST_PARAM_MAX, (double)g->a.max_tokens);
}

static void answer(gen *g)
{
    call *c = g->c;
    server *s = g->s;
    pthread_mutex_lock(&c->lock);
    bool gone = c->gone;
    c->g = NULL; /* nobody cancels it any more */
    pthread_mutex_unlock(&c->lock);
    if (!g->err.http)
        measure_request(g);
    if (g->err.http == 429 || g->err.http == 503)
        c->retry_after = 1;
    if (gone) {
        call_abort(c);
    } else if (g->err.http && !g->begun) {
        gen_refuse(g);
        atomic_fetch_sub(&s->n_gen, 1);
        return;
    } else if (g->a.stream) {
        if (g->err.http)
            g->pr->fail(g, g->err.http, g->err.message, &g->out);
        else
            g->pr->end(g, &g->out);
        call_send(c, g->out.s ? g->out.s : "", g->out.n);
        call_end(c);
    } else {
        sb_clear(&c->out);
        g->pr->whole(g, &c->out);
        call_answer(c, 200, "application/json");
    }
    gen_free(g);
    call_unref(c);
    atomic_fetch_sub(&s->n_gen, 1);
}

static void send(gen *g)
{
    if (!g->out.n && !g->out.failed)
        return;
    if (g->out.failed)
        fail_req(&g->err, 503, NULL, "out of memory for the answer");
    call_send(g->c, g->out.s ? g->out.s : "", g->out.n);
    sb_clear(&g->out);
    g->t_out = clock_ns();
    call_wake(g->c);
    pthread_mutex_lock(&g->c->lock);
    if (g->c->gone && !atomic_load(&g->cancelled))
        gen_cancel(g);
    pthread_mutex_unlock(&g->c->lock);
}

void gen_flush(gen *g)
{
    bool finished = g->submitted && g->left == 0 && !g->scoring;
    if (finished && !g->err.http && !g->begun && g->a.stream)
        begin(g); /* nothing was generated: the stream still has its frame */
    if (finished && g->left == 0 && g->a.has_max && g->a.max_tokens == 0 && !g->err.http)
        for (uint32_t i = 0; i < g->n_choice; i++) {
            choice *c = &g->choice[i];
            echo(g, c);
            c->over = true;
            c->finish = IMP_FINISH_LENGTH;
            c->timing.n_prompt = c->prompt->n;
            if (g->a.stream)
                g->pr->over(g, c, &g->out);
        }
    send(g);
    if (finished)
        answer(g);
}

void gen_tick(gen *g, int64_t now)
{
    const server *s = g->s;
    if (s->p.timeout_s && !g->timed_out && now - g->c->t_arrival > (int64_t)s->p.timeout_s * 1000000000) {
        g->timed_out = true;
        fail_req(&g->err, 504, NULL, "the request took longer than the server's time limit");
        gen_cancel(g);
    }
    if (!g->a.stream || !g->submitted)
        return;
    if (!g->begun && now - g->c->t_arrival > SERVER_PING_NS)
        begin(g); /* still waiting: the client learns that it was heard */
    else if (g->begun && now - g->t_out > SERVER_PING_NS)
        sb_str(&g->out, g->pr->ping);
    send(g);
}

/* ---- for printers ------------------------------------------------------------------------------------------------ */
gen_usage gen_count(const gen *g)
{
    gen_usage u = {0};
    for (uint32_t i = 0; i < g->n_prompt; i++) {
        u.prompt += g->prompt[i].n;
        u.cached += g->choice[(uint32_t)g->a.n * i].n_cached;
    }
    for (uint32_t i = 0; i < g->n_choice; i++) {
        u.completion += g->choice[i].timing.n_generated;
        u.reasoning += g->choice[i].n_reasoning;
    }
    return u;
}

void token_text(const server *s, int32_t id, bool bytes_form, strbuf *out)
{
    const char *t;
    size_t n;
    imp_token_bytes(s->m, id, &t, &n);
    if (utf8_valid(t, n) || !bytes_form) {
        sb_add(out, t, n); /* the JSON writer puts U+FFFD where it is no text */
        return;
    }
    sb_str(out, "bytes:");
    for (size_t i = 0; i < n; i++)
        sb_printf(out, "\\x%02x", (unsigned char)t[i]);
}

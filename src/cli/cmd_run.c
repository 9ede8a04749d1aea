/* imp run: one prompt, the answer streamed to stdout, one line about speed on stderr. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/jsonw.h"
#include "base/mem.h"
#include "cli/cli.h"

typedef struct answer {
    const cli *c;
    strbuf text;             /* --json collects it */
    bool ids, json, write_failed, first;
    imp_timing timing;
    imp_finish finish;
    imp_err err;
    double t_first;
    strbuf id_list;
} answer;

static void on_event(void *user, const imp_event *ev)
{
    answer *a = user;
    if (ev->kind == IMP_EVENT_TOKEN) {
        if (a->t_first == 0)
            a->t_first = clock_s();
        if (ev->token >= 0 && (a->ids || a->json))
            sb_printf(&a->id_list, "%s%d", a->id_list.n ? "," : "", ev->token);
        if (a->json)
            sb_add(&a->text, ev->text, ev->n_text);
        else if (a->ids && ev->token >= 0)
            printf("%s%d", a->first ? "" : ",", ev->token);
        else if (!a->ids)
            fwrite(ev->text, 1, ev->n_text, stdout);
        a->first = false;
        if (!a->json && fflush(stdout))
            a->write_failed = true; /* the reader has gone: no reason to go on */
    } else if (ev->kind == IMP_EVENT_DONE) {
        a->timing = ev->timing;
        a->finish = ev->finish;
        if (ev->status != IMP_OK)
            err_set(&a->err, ev->status, "%s", ev->message ? ev->message : imp_status_text(ev->status));
    }
}

/* The text as a user's message, in the model's chat format. */
static imp_status chat_ids(cli *c, const char *tmpl, const char *text, size_t len, int32_t **ids, size_t *n, imp_err *e)
{
    strbuf b = {0};
    sb_str(&b, "{\"messages\":[");
    if (c->o.system) {
        sb_str(&b, "{\"role\":\"system\",\"content\":");
        json_quote(&b, c->o.system, strlen(c->o.system), false);
        sb_str(&b, "},");
    }
    sb_str(&b, "{\"role\":\"user\",\"content\":");
    json_quote(&b, text, len, false);
    sb_str(&b, "}]}");
    imp_status s = b.failed ? err_oom(e, "prompt", len) : imp_chat_tokenize(c->model, tmpl, b.s, b.n, ids, n, e);
    sb_free(&b);
    return s;
}

/* The prompt's tokens: ids as given, a chat rendering, or the text itself. */
static imp_status prompt_ids(cli *c, int32_t **ids, size_t *n, imp_err *e)
{
    char *text;
    size_t len;
    const char *tmpl = NULL;
    imp_model_info info = {.size = sizeof info};
    imp_model_get_info(c->model, &info);
    imp_status s = cli_chat_template(c, &tmpl, e);
    if (s == IMP_OK)
        s = cli_read_prompt(c, &text, &len, e);
    if (s != IMP_OK)
        return s;
    bool plain = c->o.raw || c->o.ids, chat = !plain && (tmpl || info.has_template);
    if (!chat && !plain && info.has_tokenizer && !c->o.quiet)
        fprintf(stderr, "imp: %s has no chat template: the prompt goes in as it is, as with --raw\n", info.name);
    if (c->o.ids)
        s = cli_parse_ids(text, ids, n, e);
    else if (chat)
        s = chat_ids(c, tmpl, text, len, ids, n, e);
    else
        s = imp_tokenize(c->model, text, len, IMP_ADD_SPECIAL | IMP_PARSE_SPECIAL, ids, n, e);
    mem_free(text);
    if (s == IMP_OK && *n == 0)
        s = err_set(e, IMP_E_USAGE, "the prompt is empty: give some text");
    return s;
}

static double rate(uint32_t n, int64_t ns) { return ns > 0 ? (double)n / ((double)ns * 1e-9) : 0; }

static const char *finish_name(imp_finish f)
{
    static const char *const name[] = {"none", "stop", "stop_string", "length", "cancelled", "error"};
    return name[f];
}

static void report(cli *c, answer *a, uint64_t seed)
{
    const imp_timing *t = &a->timing;
    if (a->json) {
        strbuf b = {0};
        jw w;
        jw_init(&w, &b);
        jw_object(&w);
        jw_key(&w, "text");
        jw_strn(&w, a->text.s ? a->text.s : "", a->text.n);
        jw_key(&w, "ids");
        jw_array(&w);
        jw_raw(&w, a->id_list.s ? a->id_list.s : "", a->id_list.n);
        jw_end_array(&w);
        jw_kstr(&w, "finish", finish_name(a->finish));
        jw_kint(&w, "n_prompt", t->n_prompt);
        jw_kint(&w, "n_generated", t->n_generated);
        jw_kdouble(&w, "prompt_tokens_per_second", rate(t->n_prompt - t->n_cached, t->prefill_ns));
        jw_kdouble(&w, "tokens_per_second", t->n_generated > 1 ? rate(t->n_generated - 1, t->decode_ns) : 0);
        jw_key(&w, "seed");
        jw_uint(&w, seed);
        jw_end_object(&w);
        printf("%s\n", b.s ? b.s : "");
        sb_free(&b);
        return;
    }
    putchar('\n');
    fflush(stdout);
    if (!c->o.quiet)
        fprintf(stderr, "[prompt %u tokens, %.1f tok/s; answer %u tokens, %.1f tok/s; first token after %.2f s]\n",
                t->n_prompt, rate(t->n_prompt - t->n_cached, t->prefill_ns),
                t->n_generated, t->n_generated > 1 ? rate(t->n_generated - 1, t->decode_ns) : 0,
                a->t_first ? a->t_first - c->t_start : 0);
}

#define MAX_CONSTRAINT_BYTES ((size_t)16 << 20)

/* --schema, --regex or --grammar into the request; the text lives in c->mem. */
static imp_status constraint(cli *c, imp_request *r, imp_err *e)
{
    const char *path = c->o.schema ? c->o.schema : c->o.grammar;
    int given = (c->o.schema != NULL) + (c->o.regex != NULL) + (c->o.grammar != NULL);
    if (given > 1)
        return err_set(e, IMP_E_USAGE, "--schema, --regex, --grammar: give one of them");
    r->constraint_kind = c->o.schema  ? IMP_CONSTRAINT_SCHEMA
                         : c->o.regex ? IMP_CONSTRAINT_REGEX
                         : given      ? IMP_CONSTRAINT_GRAMMAR
                                      : IMP_CONSTRAINT_NONE;
    r->constraint = c->o.regex;
    r->key_order = cli_key_order(&c->o);
    if (!path)
        return IMP_OK;
    char *text;
    size_t n;
    imp_status s = file_read_all(path, MAX_CONSTRAINT_BYTES, &text, &n, e);
    if (s != IMP_OK)
        return s;
    r->constraint = arena_strndup(&c->mem, text, n);
    mem_free(text);
    return r->constraint ? IMP_OK : err_oom(e, path, n);
}

int cmd_run(cli *c)
{
    imp_err e = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    answer a = {.c = c, .ids = c->o.ids, .json = c->o.json, .first = true};
    imp_request r;
    imp_request_init(&r);
    imp_status s = cli_load_model(c, &e);
    if (s == IMP_OK)
        s = constraint(c, &r, &e);
    if (s == IMP_OK)
        s = prompt_ids(c, &ids, &n, &e);
    if (s == IMP_OK)
        s = cli_sampling(c, &r.sampling, &c->mem, &e);
    if (s == IMP_OK)
        s = cli_load_engine(c, 0, &e);
    r.prompt = ids;
    r.n_prompt = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
    r.max_tokens = c->o.max_tokens > 0 ? (uint32_t)c->o.max_tokens : 0;
    r.stop = c->o.stop.v;
    r.n_stop = c->o.stop.n;
    r.ignore_eos = c->o.ignore_eos;
    uint64_t id = 0;
    if (s == IMP_OK)
        s = imp_submit(c->engine, &r, on_event, &a, &id, &e);
    if (s == IMP_OK) {
        cli_set_request(id);
        if (cli_interrupted())
            imp_cancel(c->engine, id);
        while (imp_wait(c->engine, id, 100) == IMP_E_BUSY)
            if (a.write_failed)
                imp_cancel(c->engine, id);
        cli_set_request(0);
    }
    mem_free(ids);
    int rc = 0;
    if (s != IMP_OK) {
        rc = cli_fail(&e);
    } else if (a.err.status != IMP_OK && a.finish != IMP_FINISH_CANCELLED) {
        putchar('\n');
        rc = cli_fail(&a.err);
    } else {
        report(c, &a, r.sampling.seed);
        rc = cli_interrupted() ? 130 : a.write_failed ? 1 : 0;
    }
    sb_free(&a.text);
    sb_free(&a.id_list);
    return rc;
}

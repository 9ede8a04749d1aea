/* POST /v1/completions: OpenAI's legacy completions. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "server/openai.h"
#include "server/protocols.h"

#define OBJECT "text_completion"
#define MAX_PROMPTS 1024

static bool field_logprobs(ask *a, const field *f, json_t *v)
{
    if (json_is_false(v))
        return true;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > 20)
        return field_fail(a, f->name, "wanted 0 to 20");
    a->logprobs = (int32_t)json_integer_value(v);
    return true;
}

static bool field_add_special(ask *a, const field *f, json_t *v)
{
    if (!json_is_boolean(v))
        return field_fail(a, f->name, "wanted true or false");
    a->no_add_special = json_is_false(v);
    return true;
}

static const field rows[] = {
    {.name = "prompt", .kind = FIELD_ANY, .off = offsetof(ask, prompt)},
    {.name = "logprobs", .kind = FIELD_FN, .fn = field_logprobs},
    {.name = "echo", .kind = FIELD_BOOL, .off = offsetof(ask, echo)},
    {.name = "best_of", .kind = FIELD_I32, .off = offsetof(ask, best_of), .min = 1, .max = 128},
    {.name = "add_special_tokens", .kind = FIELD_FN, .fn = field_add_special},
    {.name = "suffix", .kind = FIELD_REFUSED, .why = "not built yet"},
    {.name = NULL},
};
static const field *const tables[] = {rows, openai_fields, fields_sampling, NULL};
const field_set completions_fields = {tables, false};

/* ---- prompts ---------------------------------------------------------------------------------------------------- */
static bool text_prompt(gen *g, gen_prompt *p, json_t *v)
{
    imp_err e = {0};
    size_t n = 0;
    unsigned flags = IMP_PARSE_SPECIAL | (g->a.no_add_special ? 0u : (unsigned)IMP_ADD_SPECIAL);
    imp_status s = imp_tokenize(g->s->m, json_string_value(v), json_string_length(v), flags, &p->ids, &n, &e);
    p->n = (uint32_t)n;
    if (s == IMP_OK && g->a.echo) {
        p->n_text = json_string_length(v);
        p->text = arena_strndup(&g->mem, json_string_value(v), p->n_text);
    }
    return s == IMP_OK || field_fail(&g->a, "prompt", "%s", e.message);
}

static bool id_prompt(gen *g, gen_prompt *p, json_t *v)
{
    size_t n = json_array_size(v), len = 0;
    imp_err e = {0};
    int32_t *ids = n < INT32_MAX ? mem_alloc((n + 1) * sizeof *ids) : NULL;
    p->ids = ids;
    if (!ids)
        return field_fail(&g->a, "prompt", "no memory for %zu tokens", n);
    for (size_t i = 0; i < n; i++) {
        json_t *t = json_array_get(v, i);
        if (!json_is_integer(t) || json_integer_value(t) < 0 || json_integer_value(t) >= g->s->info.n_vocab)
            return field_fail(&g->a, "prompt", "element %zu is no token id below %u", i, g->s->info.n_vocab);
        ids[i] = (int32_t)json_integer_value(t);
    }
    p->n = (uint32_t)n;
    if (!g->a.echo)
        return true;
    char *text;
    if (imp_detokenize(g->s->m, ids, n, false, &text, &len, &e) != IMP_OK)
        return field_fail(&g->a, "prompt", "%s", e.message);
    p->text = arena_strndup(&g->mem, text, len);
    p->n_text = len;
    imp_free(text);
    return true;
}

static bool prompts(gen *g)
{
    json_t *v = g->a.prompt;
    if (!v)
        return field_fail(&g->a, "prompt", "missing");
    bool list = json_is_array(v) && json_array_size(v) && !json_is_integer(json_array_get(v, 0));
    size_t n = list ? json_array_size(v) : 1;
    if (!json_is_string(v) && !json_is_array(v))
        return field_fail(&g->a, "prompt", "wanted a string, a list of strings, token ids, or lists of token ids");
    if (n > MAX_PROMPTS || n * (size_t)g->a.n > MAX_PROMPTS)
        return field_fail(&g->a, "prompt", "at most %d answers a request, got %zu prompts and n = %d",
                          MAX_PROMPTS, n, g->a.n);
    if (!gen_prompts(g, (uint32_t)n))
        return field_fail(&g->a, "prompt", "out of memory");
    for (size_t i = 0; i < n; i++) {
        json_t *p = list ? json_array_get(v, i) : v;
        if (!json_is_string(p) && !json_is_array(p))
            return field_fail(&g->a, "prompt", "element %zu: wanted a string or token ids", i);
        if (!(json_is_string(p) ? text_prompt(g, &g->prompt[i], p) : id_prompt(g, &g->prompt[i], p)))
            return false;
    }
    return true;
}

/* ---- printing --------------------------------------------------------------------------------------------------- */
static void comma(strbuf *b)
{
    if (b->n)
        sb_char(b, ',');
}

static void number(strbuf *b, double v)
{
    char text[32];
    if (isfinite(v))
        sb_add(b, text, (size_t)num_format_double(v, text));
    else
        sb_str(b, "null");
}

/* {"token": logprob, ..}: the alternatives, and the token itself when it is none of them. */
static void top_dict(const gen *g, const piece *p, strbuf *out)
{
    strbuf seen = {0}, name = {0};
    sb_char(out, '{');
    for (uint32_t i = 0; i <= p->n_top; i++) {
        int32_t id = i < p->n_top ? p->top[i].token : p->token;
        sb_clear(&name);
        token_text(g->s, id, true, &name);
        strbuf quoted = {0};
        json_quote(&quoted, name.s ? name.s : "", name.n, false);
        sb_char(&quoted, ':');
        /* Two tokens may have one text; an object may not have a key twice. */
        if (quoted.s && (!seen.n || !memmem(seen.s, seen.n, quoted.s, quoted.n))) {
            if (seen.n)
                sb_char(out, ',');
            sb_add(&seen, quoted.s, quoted.n);
            sb_add(out, quoted.s, quoted.n);
            number(out, (double)(i < p->n_top ? p->top[i].logprob : p->logprob));
        }
        sb_free(&quoted);
    }
    sb_char(out, '}');
    sb_free(&seen);
    sb_free(&name);
}

static size_t count_chars(const char *s, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        k += ((unsigned char)s[i] & 0xc0) != 0x80;
    return k;
}

static void keep_logprob(const gen *g, choice *c, const piece *p)
{
    strbuf name = {0};
    token_text(g->s, p->token, true, &name);
    for (int i = 0; i < 4; i++)
        comma(&c->lp[i]);
    json_quote(&c->lp[0], name.s ? name.s : "", name.n, false);
    number(&c->lp[1], (double)p->logprob);
    if (isfinite(p->logprob))
        top_dict(g, p, &c->lp[2]);
    else
        sb_str(&c->lp[2], "null");
    sb_printf(&c->lp[3], "%zu", c->n_char);
    c->n_char += count_chars(name.s ? name.s : "", name.n);
    sb_free(&name);
}

static void print_logprobs(jw *w, const gen *g, choice *c)
{
    static const char *const key[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    jw_key(w, "logprobs");
    if (g->a.logprobs < 0) {
        jw_null(w);
        return;
    }
    jw_object(w);
    for (int i = 0; i < 4; i++) {
        jw_key(w, key[i]);
        jw_array(w);
        if (c->lp[i].n)
            jw_raw(w, c->lp[i].s, c->lp[i].n);
        jw_end_array(w);
        sb_clear(&c->lp[i]);
    }
    jw_end_object(w);
}

static void print_choice(jw *w, const gen *g, choice *c, const char *text, size_t n, const char *finish)
{
    jw_object(w);
    jw_kint(w, "index", c->index);
    jw_key(w, "text");
    jw_strn(w, text, n);
    print_logprobs(w, g, c);
    jw_kstr(w, "finish_reason", finish);
    jw_end_object(w);
}

static void chunk(gen *g, choice *c, const char *text, size_t n, const char *finish, strbuf *out)
{
    jw w;
    openai_chunk(&w, out, g, OBJECT);
    jw_key(&w, "choices");
    jw_array(&w);
    print_choice(&w, g, c, text, n, finish);
    jw_end_array(&w);
    if (finish && !g->a.include_usage) {
        jw_key(&w, "timings");
        openai_timings(&w, g);
    }
    openai_chunk_end(&w, out, g, false);
}

static void on_piece(gen *g, choice *c, const piece *p, strbuf *out)
{
    if (p->token >= 0 && g->a.logprobs >= 0)
        keep_logprob(g, c, p);
    if (!g->a.stream)
        sb_add(&c->text, p->text, p->n_text);
    else if (p->n_text)
        chunk(g, c, p->text, p->n_text, NULL, out);
}

static void on_over(gen *g, choice *c, strbuf *out) { chunk(g, c, "", 0, openai_finish(c), out); }
static void on_end(gen *g, strbuf *out) { openai_end(g, OBJECT, out); }

static void on_whole(gen *g, strbuf *out)
{
    jw w;
    jw_init(&w, out);
    openai_head(&w, g, OBJECT);
    jw_key(&w, "choices");
    jw_array(&w);
    for (uint32_t i = 0; i < g->n_choice; i++) {
        choice *c = &g->choice[i];
        print_choice(&w, g, c, c->text.s ? c->text.s : "", c->text.n, openai_finish(c));
    }
    jw_end_array(&w);
    jw_key(&w, "usage");
    openai_usage(&w, g);
    jw_key(&w, "timings");
    openai_timings(&w, g);
    jw_end_object(&w);
}

static const printer text_printer = {
    .form = FORM_OPENAI, .piece = on_piece, .over = on_over, .end = on_end, .fail = openai_fail, .whole = on_whole,
    .ping = OPENAI_PING,
};

void route_completions(call *c)
{
    req_err err = {0};
    json_t *doc = fields_parse_body(c->body.s ? c->body.s : "", c->body.n, &err);
    sb_free(&c->body);
    gen *g = gen_new(c, &text_printer, doc);
    if (!g) {
        json_decref(doc);
        call_error(c, 503, NULL, NULL, "out of memory");
        call_unref(c);
        return;
    }
    g->err = err;
    snprintf(g->id, sizeof g->id, "cmpl-%s", c->id + 4);
    if (!doc || !fields_read(&g->a, &completions_fields, doc) || !fields_model(g->s, &g->a) || !openai_settle(g) ||
        !prompts(g))
        gen_refuse(g);
    else
        gen_go(g);
}

/* POST /v1/chat/completions. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/chat.h"
#include "server/openai.h"
#include "server/protocols.h"
#include "server/tools.h"

#define CHUNK "chat.completion.chunk"

/* ---- fields ----------------------------------------------------------------------------------------------------- */
static bool field_parallel(ask *a, const field *f, json_t *v)
{
    a->one_call = json_is_false(v);
    return json_is_boolean(v) || field_fail(a, f->name, "wanted true or false");
}

static bool field_effort(ask *a, const field *f, json_t *v)
{
    static const char *const known[] = {"none", "minimal", "low", "medium", "high", "xhigh"};
    for (size_t i = 0; json_is_string(v) && i < sizeof known / sizeof *known; i++)
        if (strcmp(json_string_value(v), known[i]) == 0) {
            a->effort = known[i];
            return true;
        }
    return field_fail(a, f->name, "wanted none, minimal, low, medium, high or xhigh");
}

static bool field_modalities(ask *a, const field *f, json_t *v)
{
    const char *s = json_string_value(json_array_get(v, 0));
    return (json_array_size(v) == 1 && s && strcmp(s, "text") == 0) ||
           field_fail(a, f->name, "only [\"text\"] is offered");
}

static bool field_kwargs(ask *a, const field *f, json_t *v)
{
    a->kwargs = v;
    return json_is_object(v) || field_fail(a, f->name, "wanted an object");
}

#define OLD "the old spelling of tools and tool_choice"
static const field rows[] = {
    {.name = "messages", .kind = FIELD_ANY, .off = offsetof(ask, messages)},
    {.name = "max_completion_tokens", .kind = FIELD_I64, .off = offsetof(ask, max_completion), .min = 1,
     .max = INT32_MAX},
    {.name = "logprobs", .kind = FIELD_BOOL, .off = offsetof(ask, chat_logprobs)},
    {.name = "top_logprobs", .kind = FIELD_I32, .off = offsetof(ask, top_logprobs), .max = 20},
    {.name = "chat_template_kwargs", .kind = FIELD_FN, .fn = field_kwargs},
    {.name = "add_generation_prompt", .kind = FIELD_ANY, .off = offsetof(ask, add_generation_prompt)},
    {.name = "continue_final_message", .kind = FIELD_ANY, .off = offsetof(ask, continue_final_message)},
    {.name = "reasoning_effort", .kind = FIELD_FN, .fn = field_effort},
    {.name = "modalities", .kind = FIELD_FN, .fn = field_modalities},
    {.name = "tools", .kind = FIELD_FN, .fn = field_tools},
    {.name = "functions", .kind = FIELD_REFUSED, .why = OLD},
    {.name = "function_call", .kind = FIELD_REFUSED, .why = OLD},
    {.name = "tool_choice", .kind = FIELD_FN, .fn = field_tool_choice},
    {.name = "parallel_tool_calls", .kind = FIELD_FN, .fn = field_parallel},
    {.name = "audio", .kind = FIELD_REFUSED, .why = "this model speaks in text only"},
    {.name = "web_search_options", .kind = FIELD_REFUSED, .why = "there is no web search"},
    {.name = "chat_template", .kind = FIELD_REFUSED,
     .why = "templates come from the model or --chat-template, not from requests"},
    {.name = "prediction", .kind = FIELD_IGNORED},
    {.name = "verbosity", .kind = FIELD_IGNORED},
    {.name = NULL},
};
static const field *const tables[] = {rows, openai_fields, fields_sampling, NULL};
const field_set chat_fields = {tables, false};

/* ---- messages --------------------------------------------------------------------------------------------------- */
static bool check_part(ask *a, size_t i, size_t j, json_t *part)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    char at[64];
    snprintf(at, sizeof at, "messages[%zu].content[%zu]", i, j);
    if (!type)
        return field_fail(a, at, "wanted an object with a type");
    if (strcmp(type, "text") == 0 || strcmp(type, "refusal") == 0)
        return json_is_string(json_object_get(part, type)) || field_fail(a, at, "wanted a string under '%s'", type);
    return field_fail(a, at, "parts of type '%.60s' are not offered by this model", type);
}

static bool check_message(ask *a, size_t i, json_t *m)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", "function"};
    const char *role = json_string_value(json_object_get(m, "role"));
    json_t *content = json_object_get(m, "content"), *part;
    char at[64];
    snprintf(at, sizeof at, "messages[%zu]", i);
    if (!json_is_object(m) || !role)
        return field_fail(a, at, "wanted an object with a role");
    bool known = false;
    for (size_t k = 0; k < sizeof roles / sizeof *roles; k++)
        known |= strcmp(role, roles[k]) == 0;
    if (!known)
        return field_fail(a, at, "role '%.60s': wanted system, developer, user, assistant or tool", role);
    if (json_is_string(content))
        return true;
    if (!content || json_is_null(content))
        return strcmp(role, "assistant") == 0 || field_fail(a, at, "wanted content");
    if (!json_is_array(content) || !json_array_size(content))
        return field_fail(a, at, "content: wanted a string or a list of parts");
    size_t j;
    json_array_foreach(content, j, part)
        if (!check_part(a, i, j, part))
            return false;
    return true;
}

bool chat_check(ask *a)
{
    size_t i;
    json_t *m;
    if (!json_is_array(a->messages) || !json_array_size(a->messages))
        return field_fail(a, "messages", a->messages ? "wanted a list of at least one message" : "missing");
    json_array_foreach(a->messages, i, m)
        if (!check_message(a, i, m))
            return false;
    return true;
}

/* The request that the template renders. */
static char *chat_json(const gen *g)
{
    const ask *a = &g->a;
    json_t *q = json_object();
    json_object_set(q, "messages", a->messages);
    if (a->tools)
        json_object_set(q, "tools", a->tools);
    if (a->kwargs)
        json_object_set(q, "chat_template_kwargs", a->kwargs);
    if (a->effort) {
        json_object_set_new(q, "reasoning_effort", json_string(a->effort));
        if (strcmp(a->effort, "none") == 0)
            json_object_set_new(q, "enable_thinking", json_false());
    }
    if (a->add_generation_prompt)
        json_object_set(q, "add_generation_prompt", a->add_generation_prompt);
    if (a->continue_final_message) {
        json_object_set(q, "continue_final_message", a->continue_final_message);
        if (json_is_true(a->continue_final_message) && !a->add_generation_prompt)
            json_object_set_new(q, "add_generation_prompt", json_false());
    }
    char *text = json_dumps(q, JSON_COMPACT);
    json_decref(q);
    return text;
}

bool chat_prompt(gen *g)
{
    imp_err e = {0};
    size_t n = 0;
    if (!gen_prompts(g, 1))
        return field_fail(&g->a, "messages", "out of memory");
    char *json = chat_json(g);
    imp_status st = json ? imp_chat_tokenize(g->s->m, g->s->p.chat_template, json, strlen(json),
                                             &g->prompt[0].ids, &n, &e)
                         : IMP_E_NOMEM;
    free(json);
    g->prompt[0].n = (uint32_t)n;
    if (st == IMP_OK)
        return tools_prompt(g);
    field_fail(&g->a, "messages", "%s", e.message[0] ? e.message : imp_status_text(st));
    if (imp_status_http(st) >= 500)
        g->err.http = imp_status_http(st);
    return false;
}

/* ---- printing --------------------------------------------------------------------------------------------------- */
static void print_token(jw *w, const gen *g, int32_t id, double logprob)
{
    strbuf name = {0};
    token_text(g->s, id, false, &name);
    jw_object(w);
    jw_key(w, "token");
    jw_strn(w, name.s ? name.s : "", name.n);
    jw_kdouble(w, "logprob", logprob);
    jw_key(w, "bytes");
    jw_array(w);
    for (size_t i = 0; i < name.n; i++)
        jw_int(w, (unsigned char)name.s[i]);
    jw_end_array(w);
    sb_free(&name);
}

static void keep_logprob(const gen *g, choice *c, const piece *p)
{
    strbuf *b = &c->lp[0];
    jw w;
    if (b->n)
        sb_char(b, ',');
    jw_init(&w, b);
    print_token(&w, g, p->token, (double)p->logprob);
    jw_key(&w, "top_logprobs");
    jw_array(&w);
    for (uint32_t i = 0; i < p->n_top; i++) {
        print_token(&w, g, p->top[i].token, (double)p->top[i].logprob);
        jw_end_object(&w);
    }
    jw_end_array(&w);
    jw_end_object(&w);
}

static void print_logprobs(jw *w, const gen *g, choice *c)
{
    jw_key(w, "logprobs");
    if (g->a.logprobs < 0) {
        jw_null(w);
        return;
    }
    jw_object(w);
    jw_key(w, "content");
    jw_array(w);
    if (c->lp[0].n)
        jw_raw(w, c->lp[0].s, c->lp[0].n);
    jw_end_array(w);
    jw_key(w, "refusal");
    jw_null(w);
    jw_end_object(w);
    sb_clear(&c->lp[0]);
}

/* ---- streams ---- */
typedef void delta_fn(jw *w, const choice *c, const char *text, size_t n);

static void delta_role(jw *w, const choice *c, const char *text, size_t n)
{
    (void)c, (void)text, (void)n;
    jw_kstr(w, "role", "assistant");
    jw_kstr(w, "content", NULL);
}

static void delta_content(jw *w, const choice *c, const char *text, size_t n)
{
    (void)c;
    jw_key(w, "content");
    jw_strn(w, text, n);
}

static void delta_reasoning(jw *w, const choice *c, const char *text, size_t n)
{
    (void)c;
    jw_key(w, "reasoning_content");
    jw_strn(w, text, n);
}

static void call_id(jw *w, const choice *c, uint32_t i)
{
    char id[64];
    snprintf(id, sizeof id, "call_%s%02x%02x", c->g->c->id + 4, c->index & 255, i & 255);
    jw_kstr(w, "id", id);
}

/* A piece of the last call; its first one tells id and name. */
static void delta_call(jw *w, const choice *c, const char *text, size_t n)
{
    const tool_call *call = &c->call[c->n_call - 1];
    bool first = !call->args.n;
    jw_key(w, "tool_calls");
    jw_array(w);
    jw_object(w);
    jw_kint(w, "index", c->n_call - 1);
    if (first) {
        call_id(w, c, c->n_call - 1);
        jw_kstr(w, "type", "function");
    }
    jw_key(w, "function");
    jw_object(w);
    if (first)
        jw_kstr(w, "name", call->name);
    jw_key(w, "arguments");
    jw_strn(w, first ? "" : text, first ? 0 : n);
    jw_end_object(w);
    jw_end_object(w);
    jw_end_array(w);
}

/* fn NULL: the end of the choice. */
static void chunk(gen *g, choice *c, delta_fn *fn, const char *text, size_t n, strbuf *out)
{
    jw w;
    openai_chunk(&w, out, g, CHUNK);
    jw_key(&w, "choices");
    jw_array(&w);
    jw_object(&w);
    jw_kint(&w, "index", c->index);
    jw_key(&w, "delta");
    jw_object(&w);
    if (fn)
        fn(&w, c, text, n);
    jw_end_object(&w);
    if (fn == delta_role || !c->lp[0].n)
        jw_kstr(&w, "logprobs", NULL);
    else
        print_logprobs(&w, g, c);
    jw_kstr(&w, "finish_reason", fn ? NULL : openai_finish(c));
    jw_end_object(&w);
    jw_end_array(&w);
    if (!fn && !g->a.include_usage) {
        jw_key(&w, "timings");
        openai_timings(&w, g);
    }
    openai_chunk_end(&w, out, g, false);
}

static void on_begin(gen *g, strbuf *out)
{
    for (uint32_t i = 0; i < g->n_choice; i++)
        chunk(g, &g->choice[i], delta_role, "", 0, out);
}

static void on_piece(gen *g, choice *c, const piece *p, strbuf *out)
{
    if (p->token >= 0 && g->a.logprobs >= 0)
        keep_logprob(g, c, p);
    if (!g->a.stream)
        sb_add(&c->text, p->text, p->n_text);
    else if (p->n_text)
        chunk(g, c, delta_content, p->text, p->n_text, out);
}

static void on_part(gen *g, choice *c, const imp_part *p, strbuf *out)
{
    static delta_fn *const fn[] = {
        [IMP_PART_CONTENT] = delta_content, [IMP_PART_REASONING] = delta_reasoning,
        [IMP_PART_TOOL_BEGIN] = delta_call, [IMP_PART_TOOL_ARGS] = delta_call, [IMP_PART_TOOL_END] = NULL,
    };
    if (fn[p->kind])
        chunk(g, c, fn[p->kind], p->text, p->n, out);
}

static void on_over(gen *g, choice *c, strbuf *out) { chunk(g, c, NULL, "", 0, out); }
static void on_end(gen *g, strbuf *out) { openai_end(g, CHUNK, out); }

/* ---- whole answers ---- */
static void print_message(jw *w, const choice *c)
{
    jw_object(w);
    jw_kstr(w, "role", "assistant");
    jw_key(w, "content");
    if (c->text.n || !c->n_call)
        jw_strn(w, c->text.s ? c->text.s : "", c->text.n);
    else
        jw_null(w);
    if (c->reasoning.n) {
        jw_key(w, "reasoning_content");
        jw_strn(w, c->reasoning.s, c->reasoning.n);
    }
    if (c->n_call) {
        jw_key(w, "tool_calls");
        jw_array(w);
        for (uint32_t i = 0; i < c->n_call; i++) {
            jw_object(w);
            call_id(w, c, i);
            jw_kstr(w, "type", "function");
            jw_key(w, "function");
            jw_object(w);
            jw_kstr(w, "name", c->call[i].name);
            jw_key(w, "arguments");
            jw_strn(w, c->call[i].args.s ? c->call[i].args.s : "", c->call[i].args.n);
            jw_end_object(w);
            jw_end_object(w);
        }
        jw_end_array(w);
    }
    jw_kstr(w, "refusal", NULL);
    jw_end_object(w);
}

static void on_whole(gen *g, strbuf *out)
{
    jw w;
    jw_init(&w, out);
    openai_head(&w, g, "chat.completion");
    jw_key(&w, "choices");
    jw_array(&w);
    for (uint32_t i = 0; i < g->n_choice; i++) {
        choice *c = &g->choice[i];
        jw_object(&w);
        jw_kint(&w, "index", c->index);
        jw_key(&w, "message");
        print_message(&w, c);
        print_logprobs(&w, g, c);
        jw_kstr(&w, "finish_reason", openai_finish(c));
        jw_end_object(&w);
    }
    jw_end_array(&w);
    jw_key(&w, "usage");
    openai_usage(&w, g);
    jw_key(&w, "timings");
    openai_timings(&w, g);
    jw_end_object(&w);
}

static const printer chat_printer = {
    .form = FORM_OPENAI, .begin = on_begin, .piece = on_piece, .part = on_part, .over = on_over, .end = on_end,
    .fail = openai_fail, .whole = on_whole, .ping = OPENAI_PING,
};

static bool settle(gen *g)
{
    ask *a = &g->a;
    if (a->top_logprobs >= 0 && !a->chat_logprobs)
        return field_fail(a, "top_logprobs", "only with logprobs: true");
    if (a->chat_logprobs)
        a->logprobs = a->top_logprobs > 0 ? a->top_logprobs : 0;
    if (a->has_max && a->max_tokens < 1)
        return field_fail(a, "max_tokens", "wanted at least 1, got %lld", (long long)a->max_tokens);
    return openai_settle(g) && tools_settle(a);
}

void route_chat(call *c)
{
    req_err err = {0};
    json_t *doc = fields_parse_body(c->body.s ? c->body.s : "", c->body.n, &err);
    sb_free(&c->body);
    gen *g = gen_new(c, &chat_printer, doc);
    if (!g) {
        json_decref(doc);
        call_error(c, 503, NULL, NULL, "out of memory");
        call_unref(c);
        return;
    }
    g->err = err;
    snprintf(g->id, sizeof g->id, "chatcmpl-%s", c->id + 4);
    if (!doc || !fields_read(&g->a, &chat_fields, doc) || !fields_model(g->s, &g->a) || !settle(g) ||
        !chat_check(&g->a) || !chat_prompt(g))
        gen_refuse(g);
    else
        gen_go(g);
}

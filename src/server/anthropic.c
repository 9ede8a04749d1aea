/* POST /v1/messages and /v1/messages/count_tokens: Anthropic's protocol. Messages are turned into OpenAI's form, which
 * is what templates know; unknown fields are ignored, as Anthropic's clients send many. */
#include <stdio.h>
#include <string.h>

#include "base/jsonw.h"
#include "server/chat.h"
#include "server/protocols.h"
#include "server/tools.h"

/* ---- fields ----------------------------------------------------------------------------------------------------- */
/* {"type": "enabled" | "adaptive" | "disabled"}: the template's switch, where it has one. */
static bool field_thinking(ask *a, const field *f, json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!type || (strcmp(type, "enabled") != 0 && strcmp(type, "adaptive") != 0 && strcmp(type, "disabled") != 0))
        return field_fail(a, f->name, "wanted an object with type enabled, adaptive or disabled");
    return true;
}

static const field rows[] = {
    {.name = "messages", .kind = FIELD_ANY, .off = offsetof(ask, messages)},
    {.name = "system", .kind = FIELD_ANY, .off = offsetof(ask, system)},
    {.name = "stop_sequences", .kind = FIELD_FN, .fn = field_stop, .max = 64},
    {.name = "thinking", .kind = FIELD_FN, .fn = field_thinking},
    {.name = "tools", .kind = FIELD_ANY, .off = offsetof(ask, tools)}, /* converted with the messages */
    {.name = "tool_choice", .kind = FIELD_FN, .fn = field_tool_choice_anthropic},
    {.name = "mcp_servers", .kind = FIELD_REFUSED, .why = "this server calls no other"},
    {.name = "output_format", .kind = FIELD_FN, .fn = field_response_format},
    {.name = "metadata", .kind = FIELD_IGNORED},
    {.name = "service_tier", .kind = FIELD_IGNORED},
    {.name = NULL},
};
static const field *const tables[] = {rows, fields_sampling, NULL};
const field_set messages_fields = {tables, true};

/* ---- messages to OpenAI's form ----------------------------------------------------------------------------------- */
static bool is_type(json_t *block, const char *type)
{
    const char *t = json_string_value(json_object_get(block, "type"));
    return t && strcmp(t, type) == 0;
}

static bool wrong_block(ask *a, const char *where, json_t *block)
{
    const char *t = json_string_value(json_object_get(block, "type"));
    return field_fail(a, where,
                      t ? "blocks of type '%.60s' are not offered by this model" : "wanted blocks with a type", t);
}

/* Text of a string or of text blocks, one line feed between blocks; NULL with the error set. */
static json_t *joined(ask *a, const char *where, json_t *v, bool system)
{
    strbuf b = {0};
    size_t i, n = 0;
    json_t *block;
    if (json_is_string(v))
        return json_incref(v);
    if (!json_is_array(v)) {
        field_fail(a, where, "wanted a string or a list of blocks");
        return NULL;
    }
    json_array_foreach(v, i, block) {
        json_t *t = json_object_get(block, "text");
        if (!is_type(block, "text") || !json_is_string(t)) {
            wrong_block(a, where, block);
            sb_free(&b);
            return NULL;
        }
        /* Claude Code puts a line that changes with every request in front; it would make every prefix a new one. */
        if (system && strncmp(json_string_value(t), "x-anthropic-billing-header:", 27) == 0)
            continue;
        if (n++)
            sb_char(&b, '\n');
        sb_add(&b, json_string_value(t), json_string_length(t));
    }
    json_t *s = json_stringn(b.s ? b.s : "", b.n);
    sb_free(&b);
    return s;
}

static void add_call(json_t *msg, json_t *block)
{
    json_t *calls = json_object_get(msg, "tool_calls"), *input = json_object_get(block, "input");
    if (!calls) {
        json_object_set_new(msg, "tool_calls", json_array());
        calls = json_object_get(msg, "tool_calls");
    }
    char *args = input ? json_dumps(input, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    json_t *fn = json_object();
    json_object_set(fn, "name", json_object_get(block, "name"));
    json_object_set_new(fn, "arguments", json_string(args ? args : "{}"));
    free(args);
    json_t *call = json_object();
    json_object_set(call, "id", json_object_get(block, "id"));
    json_object_set_new(call, "type", json_string("function"));
    json_object_set_new(call, "function", fn);
    json_array_append_new(calls, call);
}

static bool add_result(ask *a, const char *where, json_t *out, json_t *block)
{
    json_t *content = json_object_get(block, "content");
    json_t *text = content ? joined(a, where, content, false) : json_string("");
    if (!text)
        return false;
    json_t *m = json_object();
    json_object_set_new(m, "role", json_string("tool"));
    json_object_set(m, "tool_call_id", json_object_get(block, "tool_use_id"));
    json_object_set_new(m, "content", text);
    json_array_append_new(out, m);
    return true;
}

static bool add_blocks(ask *a, const char *where, json_t *out, const char *role, json_t *blocks)
{
    json_t *m = json_object(), *parts = json_array(), *block;
    size_t i;
    bool ok = true;
    json_object_set_new(m, "role", json_string(role));
    json_array_foreach(blocks, i, block) {
        if (is_type(block, "text") && json_is_string(json_object_get(block, "text"))) {
            json_t *p = json_object();
            json_object_set_new(p, "type", json_string("text"));
            json_object_set(p, "text", json_object_get(block, "text"));
            json_array_append_new(parts, p);
        } else if (is_type(block, "thinking") && json_is_string(json_object_get(block, "thinking"))) {
            json_object_set(m, "reasoning_content", json_object_get(block, "thinking"));
        } else if (is_type(block, "tool_use") && json_is_string(json_object_get(block, "name"))) {
            add_call(m, block);
        } else if (is_type(block, "tool_result")) {
            ok = ok && add_result(a, where, out, block);
        } else if (!is_type(block, "redacted_thinking")) {
            ok = wrong_block(a, where, block);
        }
    }
    if (json_array_size(parts) || strcmp(role, "assistant") == 0) {
        json_object_set(m, "content", json_array_size(parts) ? parts : json_null());
        json_array_append(out, m);
    }
    json_decref(parts);
    json_decref(m);
    return ok;
}

/* a->messages and a->system become a->messages in OpenAI's form, kept alive by the document. */
bool messages_convert(ask *a, json_t *doc)
{
    if (!json_is_array(a->messages) || !json_array_size(a->messages))
        return field_fail(a, "messages", a->messages ? "wanted a list of at least one message" : "missing");
    json_t *out = json_array(), *m;
    json_object_set_new(doc, " converted", out);
    if (a->system) {
        json_t *text = joined(a, "system", a->system, true);
        if (!text)
            return false;
        m = json_object();
        json_object_set_new(m, "role", json_string("system"));
        json_object_set_new(m, "content", text);
        if (json_string_length(text))
            json_array_append(out, m);
        json_decref(m);
    }
    size_t i;
    json_array_foreach(a->messages, i, m) {
        const char *role = json_string_value(json_object_get(m, "role"));
        json_t *content = json_object_get(m, "content");
        char at[64];
        snprintf(at, sizeof at, "messages.%zu", i);
        if (!role || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 && strcmp(role, "system") != 0))
            return field_fail(a, at, "role: wanted user or assistant");
        if (json_is_array(content) && json_array_size(content)) {
            if (!add_blocks(a, at, out, role, content))
                return false;
        } else if (json_is_string(content)) {
            json_t *copy = json_object();
            json_object_set(copy, "role", json_object_get(m, "role"));
            json_object_set(copy, "content", content);
            json_array_append_new(out, copy);
        } else {
            return field_fail(a, at, "content: wanted a string or a list of blocks");
        }
    }
    a->messages = out;
    json_t *tools = a->tools;
    a->tools = NULL;
    if (!tools_convert(a, tools, doc))
        return false;
    json_t *thinking = json_object_get(doc, "thinking");
    if (thinking && !json_is_null(thinking)) {
        a->kwargs = json_object();
        json_object_set_new(doc, " kwargs", a->kwargs);
        json_object_set_new(a->kwargs, "enable_thinking", json_boolean(!is_type(thinking, "disabled")));
    }
    return true;
}

/* ---- printing --------------------------------------------------------------------------------------------------- */
static void usage(jw *w, const gen *g, bool begin)
{
    gen_usage u = gen_count(g);
    jw_key(w, "usage");
    jw_object(w);
    jw_kint(w, "input_tokens", (int64_t)u.prompt - u.cached);
    jw_kint(w, "cache_creation_input_tokens", 0);
    jw_kint(w, "cache_read_input_tokens", u.cached);
    jw_kint(w, "output_tokens", begin ? 0 : u.completion);
    jw_end_object(w);
}

static const char *stop_reason(const gen *g)
{
    const choice *c = &g->choice[0];
    if (c->finish == IMP_FINISH_STOP_STRING)
        return "stop_sequence";
    if (c->finish != IMP_FINISH_LENGTH)
        return c->n_call ? "tool_use" : "end_turn";
    bool full = c->timing.n_prompt + c->timing.n_generated >= g->s->about.n_ctx &&
                (int64_t)c->timing.n_generated < g->a.max_tokens;
    return full ? "model_context_window_exceeded" : "max_tokens";
}

static void event(jw *w, strbuf *out, const char *type)
{
    sb_printf(out, "event: %s\ndata: ", type);
    jw_init(w, out);
    jw_object(w);
    jw_kstr(w, "type", type);
}

static void event_end(jw *w, strbuf *out)
{
    jw_end_object(w);
    sb_str(out, "\n\n");
}

static void tool_use(jw *w, const choice *c, uint32_t i)
{
    char id[64];
    snprintf(id, sizeof id, "toolu_%s%02x", c->g->c->id + 4, i & 255);
    jw_kstr(w, "type", "tool_use");
    jw_kstr(w, "id", id);
    jw_kstr(w, "name", c->call[i].name);
    jw_key(w, "input");
}

/* A call that was cut by the token limit has no value yet: clients want an object all the same. */
static void input(jw *w, const strbuf *args)
{
    json_t *v = args->n ? json_loadb(args->s, args->n, 0, NULL) : NULL;
    if (json_is_object(v)) {
        jw_raw(w, args->s, args->n);
    } else {
        jw_object(w);
        jw_end_object(w);
    }
    json_decref(v);
}

static void content(jw *w, const choice *c)
{
    if (c->reasoning.n) {
        jw_object(w);
        jw_kstr(w, "type", "thinking");
        jw_key(w, "thinking");
        jw_strn(w, c->reasoning.s, c->reasoning.n);
        jw_kstr(w, "signature", "");
        jw_end_object(w);
    }
    if (c->text.n || !(c->reasoning.n || c->n_call)) {
        jw_object(w);
        jw_kstr(w, "type", "text");
        jw_key(w, "text");
        jw_strn(w, c->text.s ? c->text.s : "", c->text.n);
        jw_end_object(w);
    }
    for (uint32_t i = 0; i < c->n_call; i++) {
        jw_object(w);
        tool_use(w, c, i);
        input(w, &c->call[i].args);
        jw_end_object(w);
    }
}

static void message(jw *w, const gen *g, bool begin)
{
    const choice *c = &g->choice[0];
    jw_kstr(w, "id", g->id);
    jw_kstr(w, "type", "message");
    jw_kstr(w, "role", "assistant");
    jw_kstr(w, "model", g->s->model_id);
    jw_key(w, "content");
    jw_array(w);
    if (!begin)
        content(w, c);
    jw_end_array(w);
    jw_kstr(w, "stop_reason", begin ? NULL : stop_reason(g));
    jw_kstr(w, "stop_sequence", begin ? NULL : c->finish == IMP_FINISH_STOP_STRING ? c->stop_string : NULL);
    usage(w, g, begin);
}

static void on_begin(gen *g, strbuf *out)
{
    jw w;
    event(&w, out, "message_start");
    jw_key(&w, "message");
    jw_object(&w);
    message(&w, g, true);
    jw_end_object(&w);
    event_end(&w, out);
}

/* ---- blocks of a stream: one after the other, each closed before the next ---- */
static void delta(const choice *c, const char *type, const char *key, const char *s, size_t n, strbuf *out)
{
    jw w;
    event(&w, out, "content_block_delta");
    jw_kint(&w, "index", c->n_block - 1);
    jw_key(&w, "delta");
    jw_object(&w);
    jw_kstr(&w, "type", type);
    jw_key(&w, key);
    jw_strn(&w, s, n);
    jw_end_object(&w);
    event_end(&w, out);
}

static void block_stop(choice *c, strbuf *out)
{
    jw w;
    if (!c->has_block)
        return;
    if (c->block == IMP_PART_REASONING)
        delta(c, "signature_delta", "signature", "", 0, out);
    c->has_block = false;
    event(&w, out, "content_block_stop");
    jw_kint(&w, "index", c->n_block - 1);
    event_end(&w, out);
}

/* kind: content, reasoning or the beginning of a call. */
static void block_start(choice *c, imp_part_kind kind, strbuf *out)
{
    jw w;
    if (c->has_block && c->block == kind && kind != IMP_PART_TOOL_BEGIN)
        return;
    block_stop(c, out);
    c->has_block = true;
    c->block = kind;
    event(&w, out, "content_block_start");
    jw_kint(&w, "index", c->n_block++);
    jw_key(&w, "content_block");
    jw_object(&w);
    if (kind == IMP_PART_TOOL_BEGIN) {
        tool_use(&w, c, c->n_call - 1);
        jw_object(&w);
        jw_end_object(&w);
    } else {
        jw_kstr(&w, "type", kind == IMP_PART_REASONING ? "thinking" : "text");
        jw_kstr(&w, kind == IMP_PART_REASONING ? "thinking" : "text", "");
    }
    if (kind == IMP_PART_REASONING)
        jw_kstr(&w, "signature", "");
    jw_end_object(&w);
    event_end(&w, out);
}

static void on_part(gen *g, choice *c, const imp_part *p, strbuf *out)
{
    (void)g;
    if (p->kind == IMP_PART_TOOL_END) {
        block_stop(c, out);
    } else if (p->kind == IMP_PART_TOOL_ARGS) {
        delta(c, "input_json_delta", "partial_json", p->text, p->n, out);
    } else {
        block_start(c, p->kind, out);
        if (p->kind == IMP_PART_REASONING)
            delta(c, "thinking_delta", "thinking", p->text, p->n, out);
        else if (p->kind == IMP_PART_CONTENT)
            delta(c, "text_delta", "text", p->text, p->n, out);
    }
}

static void on_piece(gen *g, choice *c, const piece *p, strbuf *out)
{
    imp_part part = {.kind = IMP_PART_CONTENT, .text = p->text, .n = p->n_text};
    if (!g->a.stream)
        sb_add(&c->text, p->text, p->n_text);
    else if (p->n_text)
        on_part(g, c, &part, out);
}

static void on_over(gen *g, choice *c, strbuf *out)
{
    (void)g;
    if (!c->n_block)
        block_start(c, IMP_PART_CONTENT, out);
    block_stop(c, out);
}

static void on_end(gen *g, strbuf *out)
{
    const choice *c = &g->choice[0];
    jw w;
    event(&w, out, "message_delta");
    jw_key(&w, "delta");
    jw_object(&w);
    jw_kstr(&w, "stop_reason", stop_reason(g));
    jw_kstr(&w, "stop_sequence", c->finish == IMP_FINISH_STOP_STRING ? c->stop_string : NULL);
    jw_end_object(&w);
    usage(&w, g, false);
    event_end(&w, out);
    event(&w, out, "message_stop");
    event_end(&w, out);
}

static void on_fail(gen *g, int http, const char *text, strbuf *out)
{
    sb_str(out, "event: error\ndata: ");
    error_print(out, FORM_ANTHROPIC, g->c->id, &http, NULL, NULL, text, NULL);
    sb_str(out, "\n\n");
}

static void on_whole(gen *g, strbuf *out)
{
    jw w;
    jw_init(&w, out);
    jw_object(&w);
    message(&w, g, false);
    jw_end_object(&w);
}

static const printer anthropic_printer = {
    .form = FORM_ANTHROPIC, .begin = on_begin, .piece = on_piece, .part = on_part, .over = on_over, .end = on_end,
    .fail = on_fail, .whole = on_whole, .ping = "event: ping\ndata: {\"type\": \"ping\"}\n\n",
};

/* ---- endpoints -------------------------------------------------------------------------------------------------- */
static bool read_request(gen *g, bool count)
{
    ask *a = &g->a;
    if (!g->doc || !fields_read(a, &messages_fields, g->doc) || !fields_model(g->s, a))
        return false;
    if (!count && !a->has_max)
        return field_fail(a, "max_tokens", "missing");
    if (a->has_max && a->max_tokens < 1)
        return field_fail(a, "max_tokens", "wanted at least 1, got %lld", (long long)a->max_tokens);
    return messages_convert(a, g->doc) && fields_settle(a, &g->s->p) && tools_settle(a) && chat_check(a) &&
           chat_prompt(g);
}

static gen *start(call *c)
{
    req_err err = {0};
    json_t *doc = fields_parse_body(c->body.s ? c->body.s : "", c->body.n, &err);
    sb_free(&c->body);
    gen *g = gen_new(c, &anthropic_printer, doc);
    if (!g) {
        json_decref(doc);
        call_error(c, 503, NULL, NULL, "out of memory");
        call_unref(c);
        return NULL;
    }
    g->err = err;
    snprintf(g->id, sizeof g->id, "msg_%s", c->id + 4);
    return g;
}

void route_messages(call *c)
{
    gen *g = start(c);
    if (g && read_request(g, false))
        gen_go(g);
    else if (g)
        gen_refuse(g);
}

void route_count_tokens(call *c)
{
    gen *g = start(c);
    if (!g)
        return;
    if (!read_request(g, true)) {
        gen_refuse(g);
        return;
    }
    sb_printf(&c->out, "{\"input_tokens\":%u}", g->prompt[0].n);
    gen_free(g);
    call_answer(c, 200, "application/json");
    call_unref(c);
}

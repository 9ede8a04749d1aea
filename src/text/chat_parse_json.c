/* Calls written as JSON: {"name": ..., "arguments": {...}}, one or an array of them, character by character. */
#include <string.h>

#include "base/json.h"
#include "text/chat_parse_impl.h"

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

/* ---- a value on its way through ---- */

void cp_args_start(chat_parser *p)
{
    p->args = (cp_args){0};
    sb_clear(&p->value); /* nothing passed yet */
}

static void put(chat_parser *p, const char *s, size_t n)
{
    sb_add(&p->out, s, n);
    p->failed = p->failed || p->out.failed;
}

static void put_string_char(chat_parser *p, char c)
{
    cp_args *a = &p->args;
    if (a->escape) {
        a->escape = false;
        if (!strchr("\"\\/bfnrtu", c) || !c)
            put(p, "\\", 1); /* "\'" and the like: the backslash was meant */
        put(p, &c, 1);
    } else if (c == '\\') {
        a->escape = true;
        put(p, &c, 1);
    } else if (c == '"') {
        a->in_string = false;
        put(p, &c, 1);
    } else if ((unsigned char)c < 0x20) {
        char t[8];
        static const char hex[] = "0123456789abcdef";
        if (c == '\n' || c == '\t' || c == '\r') {
            put(p, c == '\n' ? "\\n" : c == '\t' ? "\\t" : "\\r", 2);
        } else {
            memcpy(t, "\\u00", 4);
            t[4] = hex[c >> 4 & 15];
            t[5] = hex[c & 15];
            put(p, t, 6);
        }
    } else {
        put(p, &c, 1);
    }
}

void cp_args_close(chat_parser *p)
{
    cp_args *a = &p->args;
    if (a->in_string)
        put(p, a->escape ? "\\\"" : "\"", a->escape ? 2 : 1);
    a->in_string = a->escape = false;
    while (a->depth > 0) {
        a->depth--;
        if (a->depth < CP_MAX_STACK)
            put(p, &a->stack[a->depth], 1);
    }
}

/* One character outside of strings; false: the value ended before it. */
static bool structure(chat_parser *p, char c, bool *done)
{
    cp_args *a = &p->args;
    if (c == '<' || c == '`') { /* no JSON: the section's end, too early */
        cp_args_close(p);
        *done = true;
        return false;
    }
    if (c == '{' || c == '[') {
        if (a->depth < CP_MAX_STACK)
            a->stack[a->depth] = c == '{' ? '}' : ']';
        a->depth++;
    } else if (c == '}' || c == ']') {
        char want = a->depth - 1 < CP_MAX_STACK ? a->stack[a->depth - 1] : c;
        if (c != want) { /* one was forgotten: supply it, and look at c again */
            put(p, &want, 1);
            a->depth--;
            *done = a->depth == 0;
            return false;
        }
        a->depth--;
        *done = a->depth == 0;
    } else if (c == '"') {
        a->in_string = true;
    }
    put(p, &c, 1);
    return true;
}

size_t cp_args_feed(chat_parser *p, const char *s, size_t n, bool *done)
{
    cp_args *a = &p->args;
    size_t i = 0;
    *done = false;
    while (i < n && !*done && !p->failed) {
        if (a->in_string) {
            put_string_char(p, s[i++]);
            continue;
        }
        if (a->depth == 0 && s[i] != '{' && s[i] != '[') { /* before the value */
            if (is_space(s[i])) {
                i++;
                continue;
            }
            put(p, "{}", 2);
            *done = true;
            break;
        }
        i += structure(p, s[i], done);
    }
    return i;
}

/* ---- calls ---- */

void cp_json_start(chat_parser *p)
{
    p->state = CP_JSON_CALLS;
    p->j = CPJ_TOP;
    p->array = false;
    p->have_name = p->have_args = false;
}

static void object_begin(chat_parser *p)
{
    p->have_name = p->have_args = false;
    sb_clear(&p->name);
    sb_clear(&p->held_args);
    p->j = CPJ_KEY;
}

/* The object is complete, or cut off in a tolerable place: true when it was a call. */
static bool object_end(chat_parser *p)
{
    if (p->open) {
        cp_end(p);
        return true;
    }
    if (!p->have_name || !p->name.n || (p->bare_now && !p->have_args))
        return false;
    cp_begin(p, p->name.s, p->name.n);
    const char *a = p->held_args.n ? p->held_args.s : "{}";
    cp_args_text(p, a, strlen(a));
    cp_end(p);
    return true;
}

static bool malformed(chat_parser *p)
{
    if (p->open) {
        cp_end(p);
        return cp_after_call(p);
    }
    return p->keep_raw ? cp_not_a_call(p) : cp_after_call(p);
}

static void classify_key(chat_parser *p)
{
    static const struct { const char *key; int kind; } keys[] = {
        {"name", CPK_NAME}, {"tool_name", CPK_NAME}, {"function", CPK_NAME}, {"arguments", CPK_ARGS},
        {"parameters", CPK_ARGS}, {"args", CPK_ARGS}, {"tool_parameters", CPK_ARGS}};
    p->jkey = CPK_OTHER;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (p->key.n == strlen(keys[i].key) && !memcmp(p->key.s, keys[i].key, p->key.n))
            p->jkey = keys[i].kind;
}

static void value_start(chat_parser *p, char c)
{
    sb_clear(&p->value);
    p->skip_string = p->skip_escape = false;
    p->skip_depth = 0;
    if (p->jkey == CPK_ARGS && !p->have_args && (c == '{' || c == '[')) {
        if (p->have_name && !p->have_args && !p->open)
            cp_begin(p, p->name.s, p->name.n);
        cp_args_start(p);
        p->have_args = true;
        p->j = CPJ_ARGS;
    } else if (c == '"') {
        cp_eat(p, 1);
        p->j = CPJ_STRING;
    } else {
        p->j = c == '{' || c == '[' ? CPJ_SKIP : CPJ_SCALAR;
    }
}

/* A complete string value (or key) is in p->value, still escaped. */
static void string_done(chat_parser *p)
{
    strbuf plain = {0};
    jr_str v = {.s = p->value.s ? p->value.s : "", .n = p->value.n, .escaped = true};
    jr_str_decode(&v, &plain);
    p->failed = p->failed || plain.failed;
    if (p->jkey == CPK_NAME && !p->have_name) {
        sb_clear(&p->name);
        sb_add(&p->name, plain.s ? plain.s : "", plain.n);
        p->have_name = plain.n > 0 && plain.n <= 256;
        if (p->have_name && p->held_args.n) {
            cp_begin(p, p->name.s, p->name.n);
            cp_args_text(p, p->held_args.s, p->held_args.n);
            sb_clear(&p->held_args);
        }
    } else if (p->jkey == CPK_ARGS && !p->have_args) { /* the arguments' JSON, quoted once more */
        p->have_args = true;
        if (p->have_name) {
            cp_begin(p, p->name.s, p->name.n);
            cp_args_text(p, plain.n ? plain.s : "{}", plain.n ? plain.n : 2);
        } else {
            sb_add(&p->held_args, plain.n ? plain.s : "{}", plain.n ? plain.n : 2);
        }
    }
    sb_free(&plain);
}

/* Reads a string's characters up to its quote; false when more is needed. */
static bool read_string(chat_parser *p, strbuf *into)
{
    const char *s = cp_s(p);
    size_t n = cp_n(p), i = 0;
    bool end = false;
    for (; i < n && !end; i++) {
        if (p->skip_escape)
            p->skip_escape = false;
        else if (s[i] == '\\')
            p->skip_escape = true;
        else
            end = s[i] == '"';
        if (!end)
            sb_add(into, s + i, 1);
    }
    p->failed = p->failed || into->failed;
    cp_eat(p, i);
    return end;
}

static bool skip_value(chat_parser *p)
{
    const char *s = cp_s(p);
    size_t n = cp_n(p), i = 0;
    bool end = false;
    for (; i < n && !end; i++) {
        char c = s[i];
        if (p->skip_string) {
            if (p->skip_escape)
                p->skip_escape = false;
            else if (c == '\\')
                p->skip_escape = true;
            else if (c == '"')
                p->skip_string = false;
        } else if (c == '"') {
            p->skip_string = true;
        } else if (c == '{' || c == '[') {
            p->skip_depth++;
        } else if (c == '}' || c == ']') {
            end = --p->skip_depth == 0;
        }
    }
    cp_eat(p, i);
    return end;
}

static bool json_args(chat_parser *p)
{
    bool done;
    sb_clear(&p->out);
    size_t used = cp_args_feed(p, cp_s(p), cp_n(p), &done);
    if (p->open)
        cp_args_text(p, p->out.s ? p->out.s : "", p->out.n);
    else
        sb_add(&p->held_args, p->out.s ? p->out.s : "", p->out.n);
    p->failed = p->failed || p->held_args.failed;
    cp_eat(p, used);
    if (done)
        p->j = CPJ_KEY;
    return done;
}

static bool top(chat_parser *p, char c)
{
    if (c == '[' && !p->array) {
        p->array = true;
        cp_eat(p, 1);
    } else if (c == '{') {
        cp_eat(p, 1);
        object_begin(p);
    } else if (c == ',' && p->array) {
        cp_eat(p, 1);
    } else if (c == ']' && p->array) {
        cp_eat(p, 1);
        return p->keep_raw ? cp_not_a_call(p) : cp_after_call(p);
    } else {
        return malformed(p);
    }
    return true;
}

static bool key(chat_parser *p, char c)
{
    if (c == ',') {
        cp_eat(p, 1);
    } else if (c == '"') {
        cp_eat(p, 1);
        sb_clear(&p->key);
        p->skip_escape = false;
        p->j = CPJ_IN_KEY;
    } else if (c == '}') {
        cp_eat(p, 1);
        if (!object_end(p))
            return malformed(p);
        p->j = CPJ_TOP;
        if (!p->array)
            return cp_after_call(p);
    } else if ((p->open || c == '<') && object_end(p)) { /* the brace was forgotten */
        return cp_after_call(p);
    } else {
        return malformed(p);
    }
    return true;
}

bool cp_json_step(chat_parser *p)
{
    if (p->j == CPJ_IN_KEY) {
        if (!read_string(p, &p->key))
            return false;
        classify_key(p);
        p->j = CPJ_COLON;
        return true;
    }
    if (p->j == CPJ_STRING) {
        if (!read_string(p, &p->value))
            return false;
        string_done(p);
        p->j = CPJ_KEY;
        return true;
    }
    if (p->j == CPJ_ARGS)
        return json_args(p);
    if (p->j == CPJ_SKIP) {
        bool end = skip_value(p);
        if (end)
            p->j = CPJ_KEY;
        return end;
    }
    if (!cp_skip_space(p))
        return false;
    char c = cp_s(p)[0];
    switch (p->j) {
    case CPJ_TOP: return top(p, c);
    case CPJ_KEY: return key(p, c);
    case CPJ_COLON:
        if (c != ':')
            return malformed(p);
        cp_eat(p, 1);
        p->j = CPJ_VALUE;
        return true;
    case CPJ_VALUE:
        if (c == '}' || c == ']' || c == ',' || c == '<')
            return malformed(p);
        value_start(p, c);
        return true;
    default: /* CPJ_SCALAR: number, true, false, null */
        if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || strchr("+-.", c)) {
            cp_eat(p, 1);
            return true;
        }
        p->have_args = p->have_args || p->jkey == CPK_ARGS; /* "arguments": null */
        p->j = CPJ_KEY;
        return c == ',' || c == '}' ? true : malformed(p);
    }
}

void cp_json_finish(chat_parser *p)
{
    if (p->open || !p->keep_raw)
        return;
    /* All that is missing may be the end of the object: {"name": "f", "arguments": {...} */
    if (p->j == CPJ_KEY && p->have_name)
        object_end(p);
}

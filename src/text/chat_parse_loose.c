/* Calls in notations that are read as a whole: Python's [f(a=1, b="x"), g()] and Gemma's call:f{a:1,b:<|"|>x<|"|>}. */
#include <string.h>

#include "base/json.h"
#include "base/jsonw.h"
#include "text/chat_parse_impl.h"

typedef struct loose {
    const char *s;
    size_t n, i;
    unsigned depth;
    strbuf *out;
} loose;

#define MAX_DEPTH 64
#define GEMMA_QUOTE "<|\"|>"

static void space(loose *l)
{
    while (l->i < l->n && strchr(" \n\t\r", l->s[l->i]) && l->s[l->i])
        l->i++;
}

static bool take(loose *l, const char *lit)
{
    size_t k = strlen(lit);
    if (k > l->n - l->i || memcmp(l->s + l->i, lit, k))
        return false;
    l->i += k;
    return true;
}

static bool value(loose *l);

static bool quoted_gemma(loose *l)
{
    const char *end = memmem(l->s + l->i, l->n - l->i, GEMMA_QUOTE, 5);
    if (!end)
        return false;
    size_t n = (size_t)(end - (l->s + l->i));
    json_quote(l->out, l->s + l->i, n, false);
    l->i += n + 5;
    return true;
}

static bool quoted(loose *l, char q)
{
    strbuf t = {0};
    bool end = false;
    for (; l->i < l->n && !end; l->i++) {
        char c = l->s[l->i];
        if (c == q) {
            end = true;
        } else if (c == '\\' && l->i + 1 < l->n) {
            static const char from[] = "nrtbf\\'\"/", to[] = "\n\r\t\b\f\\'\"/";
            c = l->s[++l->i];
            const char *p = strchr(from, c);
            if (c == 'u' && l->n - l->i > 4) { /* let JSON's own reader see to it */
                jr_str u = {.s = l->s + l->i - 1, .n = 6, .escaped = true};
                jr_str_decode(&u, &t);
                l->i += 4;
            } else if (p && c) {
                sb_char(&t, to[p - from]);
            } else {
                sb_char(&t, '\\');
                sb_char(&t, c);
            }
        } else {
            sb_char(&t, c);
        }
    }
    json_quote(l->out, t.s ? t.s : "", t.n, false);
    bool ok = end && !t.failed;
    sb_free(&t);
    return ok;
}

static bool name(loose *l, const char **s, size_t *n)
{
    size_t b = l->i;
    while (l->i < l->n && !strchr(" \n\t\r=:,(){}[]\"'<>", l->s[l->i]))
        l->i++;
    *s = l->s + b;
    *n = l->i - b;
    return *n > 0 && *n <= 256;
}

static bool key(loose *l)
{
    const char *s;
    size_t n;
    if (take(l, GEMMA_QUOTE))
        return quoted_gemma(l);
    if (l->i < l->n && (l->s[l->i] == '"' || l->s[l->i] == '\'')) {
        l->i++;
        return quoted(l, l->s[l->i - 1]);
    }
    if (!name(l, &s, &n))
        return false;
    json_quote(l->out, s, n, false);
    return true;
}

/* Entries up to `close`, with `sep` between key and value; written as a JSON object. */
static bool entries(loose *l, char sep, char close)
{
    sb_char(l->out, '{');
    for (size_t k = 0;; k++) {
        space(l);
        if (l->i < l->n && l->s[l->i] == close) {
            l->i++;
            break;
        }
        if (k) {
            if (l->i >= l->n || l->s[l->i] != ',')
                return false;
            l->i++;
            sb_str(l->out, ", ");
            space(l);
        }
        if (!key(l))
            return false;
        space(l);
        if (l->i >= l->n || l->s[l->i] != sep)
            return false;
        l->i++;
        sb_str(l->out, ": ");
        if (!value(l))
            return false;
    }
    sb_char(l->out, '}');
    return true;
}

static bool list(loose *l)
{
    sb_char(l->out, '[');
    for (size_t k = 0;; k++) {
        space(l);
        if (take(l, "]"))
            break;
        if (k) {
            if (!take(l, ","))
                return false;
            sb_str(l->out, ", ");
        }
        if (!value(l))
            return false;
    }
    sb_char(l->out, ']');
    return true;
}

static bool word(loose *l)
{
    static const struct { const char *from, *to; } words[] = {{"True", "true"}, {"False", "false"}, {"None", "null"}};
    const char *s;
    size_t n;
    if (!name(l, &s, &n))
        return false;
    for (size_t i = 0; i < 3; i++)
        if (n == strlen(words[i].from) && !memcmp(s, words[i].from, n)) {
            sb_str(l->out, words[i].to);
            return true;
        }
    jr r;
    jr_init(&r, s, n, "value", NULL);
    if (jr_skip(&r) && jr_end(&r))
        sb_add(l->out, s, n);
    else
        json_quote(l->out, s, n, false); /* a bare word */
    return true;
}

static bool value(loose *l)
{
    space(l);
    if (l->i >= l->n || ++l->depth > MAX_DEPTH)
        return false;
    bool ok;
    char c = l->s[l->i];
    if (take(l, GEMMA_QUOTE)) {
        ok = quoted_gemma(l);
    } else if (c == '"' || c == '\'') {
        l->i++;
        ok = quoted(l, c);
    } else if (c == '{') {
        l->i++;
        ok = entries(l, ':', '}');
    } else if (c == '[') {
        l->i++;
        ok = list(l);
    } else {
        ok = word(l);
    }
    l->depth--;
    return ok;
}

typedef struct found {
    size_t name, n_name, args, n_args; /* places in the name buffer and in out */
} found;

static bool one_call(loose *l, const char **s, size_t *n)
{
    space(l);
    bool gemma = take(l, "call:");
    if (!name(l, s, n))
        return false;
    space(l);
    if (l->i >= l->n || l->s[l->i] != (gemma ? '{' : '('))
        return false;
    l->i++;
    return entries(l, gemma ? ':' : '=', gemma ? '}' : ')');
}

/* Reads the section; with emit, gives out the calls. */
static bool walk(chat_parser *p, const char *s, size_t n, bool emit)
{
    strbuf out = {0};
    loose l = {.s = s, .n = n, .out = &out};
    bool ok = true, any = false;
    space(&l);
    bool bracket = take(&l, "[");
    while (ok) {
        const char *nm;
        size_t k;
        sb_clear(&out);
        ok = one_call(&l, &nm, &k) && !out.failed;
        if (ok && emit) {
            cp_begin(p, nm, k);
            cp_args_text(p, out.s, out.n);
            cp_end(p);
        }
        any = any || ok;
        space(&l);
        if (!ok || !(take(&l, ",") || take(&l, ";")))
            break;
    }
    if (ok && bracket)
        ok = take(&l, "]");
    space(&l);
    sb_free(&out);
    return ok && any && l.i == n;
}

bool cp_loose_calls(chat_parser *p, const char *s, size_t n)
{
    return walk(p, s, n, false) && walk(p, s, n, true); /* nothing is begun before all of it is known to be good */
}

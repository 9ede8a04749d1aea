/* Grammar text to tree. Two spellings of one thing:
 *   GBNF / EBNF:  name ::= "text" [a-z] other ( ... | ... )* x{2,5} .      # comment
 *   Lark subset:  name: "text" /re/i OTHER [optional] ( ... | ... )~2..5   // comment
 * Which it is shows in the first definition. A definition goes on until the next name that is being defined. */
#include <string.h>

#include "base/utf8.h"
#include "constrain/grammar_impl.h"

#define GRAMMAR_DEPTH 200

_Noreturn static void bad(grammar *g, imp_status st, const char *why)
{
    size_t line = 1, col = 1;
    for (size_t i = 0; i < g->pos && i < g->n; i++)
        if (g->s[i] == '\n')
            line++, col = 1;
        else
            col++;
    cc_fail(g->c, st, "grammar: line %zu, column %zu: %s", line, col, why);
}

gn *gn_new(grammar *g, gn_op op)
{
    gn *p = CC_NEW(g->c, gn);
    p->op = op;
    return p;
}

void gn_add(grammar *g, gn *p, gn *kid) { CC_PUSH(g->c, p->kid, p->n, p->cap, kid); }

static bool at(const grammar *g, const char *t)
{
    size_t k = strlen(t);
    return g->n - g->pos >= k && !memcmp(g->s + g->pos, t, k);
}

static void skip(grammar *g)
{
    for (;;) {
        while (g->pos < g->n && strchr(" \t\r\n", g->s[g->pos]) && g->s[g->pos])
            g->pos++;
        if (g->lark ? at(g, "//") : at(g, "#") && !at(g, "#x")) {
            while (g->pos < g->n && g->s[g->pos] != '\n')
                g->pos++;
        } else if (at(g, "/*")) {
            const char *e = memmem(g->s + g->pos + 2, g->n - g->pos - 2, "*/", 2);
            if (!e)
                bad(g, IMP_E_PARSE, "/* without */");
            g->pos = (size_t)(e - g->s) + 2;
        } else {
            return;
        }
    }
}

static bool name_char(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (!first && ((c >= '0' && c <= '9') || c == '-'));
}

static size_t name_len(const grammar *g, size_t pos)
{
    size_t i = pos;
    if (i < g->n && g->s[i] == '<') { /* BNF's <name> */
        while (i < g->n && g->s[i] != '>' && g->s[i] != '\n')
            i++;
        return i < g->n && g->s[i] == '>' ? i + 1 - pos : 0;
    }
    while (i < g->n && name_char(g->s[i], i == pos))
        i++;
    return i - pos;
}

/* Is a definition starting at pos? *body: where its right side begins. */
static bool defines(const grammar *g, size_t pos, size_t *name, size_t *len, size_t *body)
{
    size_t i = pos;
    if (g->lark)
        while (i < g->n && (g->s[i] == '?' || g->s[i] == '!'))
            i++;
    *name = i;
    *len = name_len(g, i);
    if (!*len)
        return false;
    i += *len;
    if (g->lark && i < g->n && g->s[i] == '.') { /* priority */
        i++;
        while (i < g->n && g->s[i] >= '0' && g->s[i] <= '9')
            i++;
    }
    while (i < g->n && (g->s[i] == ' ' || g->s[i] == '\t'))
        i++;
    size_t k = g->lark ? (i < g->n && g->s[i] == ':') : g->n - i >= 3 && !memcmp(g->s + i, "::=", 3) ? 3 : 0;
    *body = i + k;
    return k != 0;
}

static uint32_t rule_of(grammar *g, const char *s, size_t n)
{
    for (size_t i = 0; i < g->n_def; i++)
        if (g->def[i].name_n == n && !memcmp(g->def[i].name, s, n))
            return (uint32_t)i;
    cc_work(g->c, g->n_def + 10);
    gdef d = {.name = s, .name_n = n, .used_at = g->pos};
    CC_PUSH(g->c, g->def, g->n_def, g->cap_def, d);
    return (uint32_t)(g->n_def - 1);
}

static gn *of_set(grammar *g, cpset *s)
{
    gn *p = gn_new(g, GN_RE);
    cpset_norm(s);
    p->re = re_new(g->c, RE_SET, NULL, NULL);
    p->re->set = re_set_add(g->c, &g->sets, s);
    return p;
}

static uint32_t escape(grammar *g)
{
    static const char from[] = "nrtfvabe0", to[] = {'\n', '\r', '\t', '\f', '\v', 7, 8, 27, 0};
    if (g->pos >= g->n)
        bad(g, IMP_E_PARSE, "backslash at the end");
    char c = g->s[g->pos++];
    const char *k = strchr(from, c);
    if (c && k)
        return (unsigned char)to[k - from];
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t v = 0;
    if (!digits)
        return (unsigned char)c;
    for (int i = 0; i < digits; i++) {
        char h = g->pos < g->n ? g->s[g->pos] : 0;
        int d = hex_value(h);
        if (d < 0)
            bad(g, IMP_E_PARSE, "not a hexadecimal digit");
        v = v << 4 | (uint32_t)d;
        g->pos++;
    }
    if (v > CP_MAX)
        bad(g, IMP_E_PARSE, "code point out of range");
    return v;
}

static gn *literal(grammar *g, char quote)
{
    re_node *cat = NULL;
    size_t first = g->sets.n, n = 0;
    cpset *sets = NULL;
    size_t cap = 0;
    (void)first;
    for (g->pos++;; ) {
        if (g->pos >= g->n || g->s[g->pos] == '\n')
            bad(g, IMP_E_PARSE, "text without its closing quote");
        if (g->s[g->pos] == quote)
            break;
        uint32_t cp;
        bool ok;
        g->pos += utf8_get(g->s + g->pos, g->n - g->pos, &cp, &ok);
        if (!ok)
            bad(g, IMP_E_PARSE, "not UTF-8");
        if (cp == '\\')
            cp = escape(g);
        cpset s = {0};
        cpset_add(g->c, &s, cp, cp);
        CC_PUSH(g->c, sets, n, cap, s);
    }
    g->pos++;
    bool icase = g->lark && g->pos < g->n && g->s[g->pos] == 'i';
    g->pos += icase;
    for (size_t i = 0; i < n; i++) {
        if (icase)
            cpset_fold_case(g->c, &sets[i]);
        re_node *r = re_new(g->c, RE_SET, NULL, NULL);
        r->set = re_set_add(g->c, &g->sets, &sets[i]);
        cat = cat ? re_new(g->c, RE_CAT, cat, r) : r;
    }
    gn *p = gn_new(g, GN_RE);
    p->re = cat ? cat : re_new(g->c, RE_EMPTY, NULL, NULL);
    return p;
}

static gn *regex(grammar *g)
{
    size_t b = ++g->pos;
    bool cls = false;
    for (; g->pos < g->n && (g->s[g->pos] != '/' || cls); g->pos++) {
        if (g->s[g->pos] == '\\')
            g->pos++;
        else if (g->s[g->pos] == '[')
            cls = true;
        else if (g->s[g->pos] == ']')
            cls = false;
    }
    if (g->pos >= g->n)
        bad(g, IMP_E_PARSE, "/ without /");
    size_t len = g->pos - b, flags = ++g->pos;
    while (g->pos < g->n && strchr("imsux", g->s[g->pos]) && g->s[g->pos])
        g->pos++;
    char *t = CC_ARRAY(g->c, char, len + 16);
    size_t k = 0;
    bool icase = false, dotall = false; /* a flag may stand there any number of times */
    for (size_t i = flags; i < g->pos; i++) {
        if (g->s[i] != 'i' && g->s[i] != 's' && g->s[i] != 'u')
            bad(g, IMP_E_UNSUPPORTED, "this flag is not supported");
        icase |= g->s[i] == 'i';
        dotall |= g->s[i] == 's';
    }
    if (icase)
        memcpy(t, "(?i)", 4), k = 4;
    if (dotall)
        memcpy(t + k, "(?s)", 4), k += 4;
    for (size_t i = 0; i < len; i++) { /* \/ is Lark's, not the expression's */
        if (g->s[b + i] == '\\' && i + 1 < len && g->s[b + i + 1] == '/')
            i++;
        t[k++] = g->s[b + i];
    }
    gn *p = gn_new(g, GN_RE);
    p->re = re_parse(g->c, &g->sets, t, k, "grammar");
    return p;
}

static gn *alternatives(grammar *g);

static gn *group(grammar *g, char close)
{
    if (++g->depth > GRAMMAR_DEPTH)
        bad(g, IMP_E_LIMIT, "nested too deeply");
    g->pos++;
    gn *p = alternatives(g);
    skip(g);
    if (g->pos >= g->n || g->s[g->pos] != close)
        bad(g, IMP_E_PARSE, close == ')' ? "( without )" : "[ without ]");
    g->pos++;
    g->depth--;
    return p;
}

static gn *rep(grammar *g, gn *kid, uint32_t min, uint32_t max)
{
    if (min > max)
        bad(g, IMP_E_PARSE, "repeat out of order");
    gn *p = gn_new(g, GN_REP);
    p->min = min;
    p->max = max;
    gn_add(g, p, kid);
    return p;
}

static bool number(grammar *g, uint32_t *v)
{
    size_t b = g->pos;
    uint64_t n = 0;
    for (; g->pos < g->n && g->s[g->pos] >= '0' && g->s[g->pos] <= '9'; g->pos++)
        n = n < 1000000 ? n * 10 + (unsigned)(g->s[g->pos] - '0') : n;
    if (n > 100000)
        bad(g, IMP_E_LIMIT, "repeat count too large");
    *v = (uint32_t)n;
    return g->pos > b;
}

static gn *suffixes(grammar *g, gn *p)
{
    for (;;) {
        uint32_t min = 0, max;
        char c = g->pos < g->n ? g->s[g->pos] : 0;
        if (c == '*' || c == '+' || c == '?') {
            g->pos++;
            p = rep(g, p, c == '+', c == '?' ? 1 : INF);
        } else if (c == '{' && !g->lark) {
            g->pos++;
            skip(g);
            bool have = number(g, &min);
            max = min;
            skip(g);
            if (g->pos < g->n && g->s[g->pos] == ',') {
                g->pos++;
                skip(g);
                if (!number(g, &max))
                    max = INF;
                have = true;
            }
            skip(g);
            if (!have || g->pos >= g->n || g->s[g->pos] != '}')
                bad(g, IMP_E_PARSE, "wanted {m}, {m,} or {m,n}");
            g->pos++;
            p = rep(g, p, min, max);
        } else if (g->lark && c == '~') {
            g->pos++;
            skip(g);
            if (!number(g, &min))
                bad(g, IMP_E_PARSE, "wanted ~n or ~n..m");
            max = min;
            if (at(g, "..")) {
                g->pos += 2;
                number(g, &max);
            }
            p = rep(g, p, min, max);
        } else {
            return p;
        }
    }
}

static gn *item(grammar *g)
{
    char c = g->s[g->pos];
    cpset s = {0};
    if (c == '"' || (c == '\'' && !g->lark))
        return literal(g, c);
    if (c == '(')
        return group(g, ')');
    if (c == '[') {
        if (g->lark)
            return rep(g, group(g, ']'), 0, 1);
        g->pos++;
        re_parse_class(g->c, g->s, g->n, &g->pos, &s, "grammar");
        return of_set(g, &s);
    }
    if (c == '.') {
        g->pos++;
        cpset_add(g->c, &s, 0, CP_MAX);
        return of_set(g, &s);
    }
    if (c == '/' && g->lark)
        return regex(g);
    if (at(g, "#x") && !g->lark) {
        uint32_t v = 0;
        size_t b = g->pos += 2;
        for (; g->pos < g->n && g->pos - b < 6; g->pos++) {
            int d = hex_value(g->s[g->pos]);
            if (d < 0)
                break;
            v = v << 4 | (uint32_t)d;
        }
        if (g->pos == b || v > CP_MAX)
            bad(g, IMP_E_PARSE, "code point out of range");
        cpset_add(g->c, &s, v, v);
        return of_set(g, &s);
    }
    size_t n = name_len(g, g->pos);
    if (!n)
        bad(g, IMP_E_PARSE, "unexpected character");
    gn *p = gn_new(g, GN_REF);
    p->rule = rule_of(g, g->s + g->pos, n);
    g->pos += n;
    return p;
}

static gn *sequence(grammar *g)
{
    gn *cat = gn_new(g, GN_CAT);
    for (;;) {
        size_t a, b, d;
        skip(g);
        if (g->pos >= g->n || strchr("|)];", g->s[g->pos]) || defines(g, g->pos, &a, &b, &d))
            break;
        if (g->lark && at(g, "->")) { /* alias: names the tree, not the text */
            g->pos += 2;
            skip(g);
            g->pos += name_len(g, g->pos);
            continue;
        }
        if (g->lark && g->s[g->pos] == '%')
            break;
        cc_work(g->c, 10);
        gn_add(g, cat, suffixes(g, item(g)));
    }
    if (!cat->n)
        return gn_new(g, GN_EMPTY);
    return cat->n == 1 ? cat->kid[0] : cat;
}

static gn *alternatives(grammar *g)
{
    gn *alt = gn_new(g, GN_ALT);
    for (;;) {
        gn_add(g, alt, sequence(g));
        skip(g);
        if (g->pos >= g->n || g->s[g->pos] != '|')
            break;
        g->pos++;
    }
    return alt->n == 1 ? alt->kid[0] : alt;
}

void grammar_parse(grammar *g)
{
    size_t name, len, body;
    if (memchr(g->s, 0, g->n))
        bad(g, IMP_E_PARSE, "a NUL character");
    skip(g);
    g->lark = !defines(g, g->pos, &name, &len, &body);
    if (g->lark) {
        g->pos = 0;
        skip(g);
    }
    while (g->pos < g->n) {
        if (g->lark && g->s[g->pos] == '%')
            bad(g, IMP_E_UNSUPPORTED, "directives (%ignore, %import, ...) are not supported");
        if (!defines(g, g->pos, &name, &len, &body))
            bad(g, IMP_E_PARSE, "wanted a definition: name ::= ..., or name: ...");
        uint32_t r = rule_of(g, g->s + name, len);
        if (g->def[r].body)
            bad(g, IMP_E_PARSE, "defined twice");
        g->pos = body;
        gn *p = alternatives(g);
        g->def[r].body = p;
        skip(g);
        if (g->pos < g->n && g->s[g->pos] == ';')
            g->pos++;
        skip(g);
    }
    for (size_t i = 0; i < g->n_def; i++)
        if (!g->def[i].body) {
            g->pos = g->def[i].used_at;
            cc_fail(g->c, IMP_E_PARSE, "grammar: \"%.*s\" is used but not defined",
                    (int)(g->def[i].name_n < 100 ? g->def[i].name_n : 100), g->def[i].name);
        }
}

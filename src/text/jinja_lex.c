/* The lexer: template text to tokens, with jinja2's white-space rules for trim_blocks and lstrip_blocks. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_impl.h"

typedef struct lex {
    jx *c;
    const char *s;
    size_t n, pos;
    jtoks *out;
    bool line_starting; /* the previous match ended with a newline: jinja2's line_starting */
    char open[JINJA_MAX_PARSE_DEPTH];
    unsigned n_open;
} lex;

static const char *const tok_names[] = {
    "end of template", "text", "{{", "}}", "{%", "%}", "name", "string", "integer", "float", "+", "-", "*", "/", "//",
    "%", "**", "~", "[", "]", "(", ")", "{", "}", "==", "!=", ">", ">=", "<", "<=", "=", ".", ":", "|", ",", ";"
};
const char *jtok_name(jtok_kind k) { return tok_names[k]; }

static void emit(lex *l, jtok_kind kind, size_t pos, jval v)
{
    jtoks *t = l->out;
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 256;
        jtok *nv = jx_array(l->c, cap, sizeof *nv);
        if (t->n)
            memcpy(nv, t->v, t->n * sizeof *nv);
        t->v = nv;
        t->cap = cap;
    }
    t->v[t->n++] = (jtok){kind, (uint32_t)pos, v};
}

static _Noreturn void lex_fail(lex *l, size_t pos, const char *what)
{
    l->c->pos = (uint32_t)pos;
    jx_fail(l->c, IMP_E_PARSE, "%s", what);
}

static size_t skip_space(const lex *l, size_t i)
{
    while (i < l->n) {
        uint32_t cp;
        size_t k = utf8_get(l->s + i, l->n - i, &cp, NULL);
        if (!ju_space(cp))
            break;
        i += k;
    }
    return i;
}

static bool at(const lex *l, size_t i, const char *lit)
{
    size_t k = strlen(lit);
    return k <= l->n - i && !memcmp(l->s + i, lit, k);
}

static bool all_space(const lex *l, size_t from, size_t to)
{
    return from < to && skip_space(l, from) >= to;
}

static size_t rstrip(const lex *l, size_t from, size_t to)
{
    while (to > from) {
        size_t i = to - 1;
        while (i > from && ((unsigned char)l->s[i] & 0xC0) == 0x80)
            i--;
        uint32_t cp;
        utf8_get(l->s + i, to - i, &cp, NULL);
        if (!ju_space(cp))
            break;
        to = i;
    }
    return to;
}

/* Emits text [from, to) that stands before a tag with the given sign ('-', '+' or 0). */
static void emit_data(lex *l, size_t from, size_t to, char sign, bool variable)
{
    if (sign == '-') {
        to = rstrip(l, from, to);
    } else if (sign != '+' && !variable) {
        size_t lp = to;
        while (lp > from && l->s[lp - 1] != '\n')
            lp--;
        if ((lp > from || l->line_starting) && all_space(l, lp, to))
            to = lp;
    }
    if (to > from)
        emit(l, T_DATA, from, jv_str(js_view(l->c, l->s + from, to - from, false)));
}

/* The end of a block tag at i: "+%}", "-%}" and white space, "%}" and one newline. 0 when there is none. */
static size_t tag_end(const lex *l, size_t i, char c1)
{
    char t[4] = {'+', c1, '}', 0}, m[4] = {'-', c1, '}', 0}, p[3] = {c1, '}', 0};
    if (at(l, i, t))
        return i + 3;
    if (at(l, i, m))
        return skip_space(l, i + 3);
    if (at(l, i, p))
        return i + 2 + (i + 2 < l->n && l->s[i + 2] == '\n');
    return 0;
}

static void end_match(lex *l, size_t end)
{
    l->line_starting = end > 0 && l->s[end - 1] == '\n';
    l->pos = end;
}

/* "raw" right after a block's opening at i (after the sign): position behind its end, or 0. */
static size_t raw_begin(const lex *l, size_t i)
{
    i = skip_space(l, i);
    if (!at(l, i, "raw"))
        return 0;
    i = skip_space(l, i + 3);
    if (at(l, i, "-%}"))
        return skip_space(l, i + 3);
    return at(l, i, "%}") ? i + 2 : 0;
}

static void lex_raw(lex *l, size_t opened)
{
    for (size_t i = l->pos; i < l->n; i++) {
        if (!at(l, i, "{%"))
            continue;
        size_t j = i + 2;
        char sign = 0;
        if (j < l->n && (l->s[j] == '-' || l->s[j] == '+'))
            sign = l->s[j++];
        j = skip_space(l, j);
        if (!at(l, j, "endraw"))
            continue;
        j = skip_space(l, j + 6);
        size_t end = tag_end(l, j, '%');
        if (!end)
            continue;
        emit_data(l, l->pos, i, sign, false);
        end_match(l, end);
        return;
    }
    if (l->pos < l->n) /* right at the end it is forgiven, as in jinja2 */
        lex_fail(l, opened, "missing end of raw block");
}

static void lex_comment(lex *l, size_t opened)
{
    for (size_t i = l->pos; i < l->n; i++) {
        size_t end = 0;
        if (l->s[i] == '#' || ((l->s[i] == '-' || l->s[i] == '+') && i + 1 < l->n && l->s[i + 1] == '#'))
            end = tag_end(l, i, '#');
        if (end) {
            end_match(l, end);
            return;
        }
    }
    if (l->pos < l->n)
        lex_fail(l, opened, "missing end of comment");
}

static unsigned hex_digits(const char *s, size_t n, size_t want, uint32_t *out)
{
    uint32_t v = 0;
    if (n < want)
        return 0;
    for (size_t i = 0; i < want; i++) {
        char ch = s[i];
        unsigned d = ch >= '0' && ch <= '9' ? (unsigned)(ch - '0')
                     : (ch | 32) >= 'a' && (ch | 32) <= 'f' ? (unsigned)((ch | 32) - 'a' + 10) : 16u;
        if (d == 16)
            return 0;
        v = v * 16 + d;
    }
    *out = v;
    return 1;
}

/* Python's unicode-escape; returns how much of s (behind the backslash) was used. */
static size_t unescape(lex *l, jbuf *b, const char *s, size_t n, size_t pos)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *p = n && s[0] ? strchr(from, s[0]) : NULL;
    if (p) {
        jb_add(b, to + (p - from), 1, false);
        return 1;
    }
    if (n && s[0] == '\n')
        return 1;
    if (n && s[0] >= '0' && s[0] <= '7') {
        uint32_t v = 0;
        size_t i = 0;
        for (; i < 3 && i < n && s[i] >= '0' && s[i] <= '7'; i++)
            v = v * 8 + (uint32_t)(s[i] - '0');
        jb_cp(b, v, false);
        return i;
    }
    size_t want = n == 0 ? 0 : s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : s[0] == 'U' ? 8 : 0;
    if (want) {
        uint32_t v, lo;
        if (!hex_digits(s + 1, n - 1, want, &v) || v > 0x10FFFF)
            lex_fail(l, pos, "malformed escape in a string");
        size_t used = 1 + want;
        if (want == 4 && v >= 0xD800 && v < 0xDC00 && n > used + 1 && s[used] == '\\' && s[used + 1] == 'u' &&
            hex_digits(s + used + 2, n - used - 2, 4, &lo) && lo >= 0xDC00 && lo < 0xE000) {
            v = 0x10000 + ((v - 0xD800) << 10) + (lo - 0xDC00);
            used += 6;
        }
        jb_cp(b, v, false);
        return used;
    }
    if (n && s[0] == 'N')
        lex_fail(l, pos, "named characters (\\N{...}) are not supported");
    jb_add(b, "\\", 1, false);
    return 0;
}

static void lex_string(lex *l)
{
    size_t begin = l->pos, i = begin + 1;
    char q = l->s[begin];
    bool esc = false;
    while (i < l->n && l->s[i] != q) {
        if (l->s[i] == '\\') {
            esc = true;
            i++;
        }
        i++;
    }
    if (i >= l->n)
        lex_fail(l, begin, "string without an end");
    const jstr *v;
    if (!esc) {
        v = js_view(l->c, l->s + begin + 1, i - begin - 1, false);
    } else {
        jbuf b = {.c = l->c};
        for (size_t k = begin + 1; k < i;) {
            if (l->s[k] == '\\') {
                k++;
                k += unescape(l, &b, l->s + k, i - k, k);
            } else {
                jb_add(&b, l->s + k++, 1, false);
            }
        }
        v = jb_done(&b);
    }
    emit(l, T_STR, begin, jv_str(v));
    end_match(l, i + 1);
}

/* Digits, possibly with single underscores between them; returns the end. */
static size_t digits(const lex *l, size_t i, bool (*is)(char))
{
    size_t start = i;
    for (;;) {
        if (i < l->n && is(l->s[i]))
            i++;
        else if (i > start && i + 1 < l->n && l->s[i] == '_' && is(l->s[i + 1]))
            i += 2;
        else
            return i;
    }
}
static bool is_dec(char c) { return c >= '0' && c <= '9'; }
static bool is_bin(char c) { return c == '0' || c == '1'; }
static bool is_oct(char c) { return c >= '0' && c <= '7'; }
static bool is_hex(char c) { return is_dec(c) || ((c | 32) >= 'a' && (c | 32) <= 'f'); }
static bool is_zero(char c) { return c == '0'; }

/* End of a float at i, or 0: digits with a fraction, an exponent, or both. */
static size_t float_end(const lex *l, size_t i)
{
    if (i > 0 && l->s[i - 1] == '.')
        return 0;
    size_t e = digits(l, i, is_dec), f = e;
    bool frac = false;
    if (e < l->n && l->s[e] == '.') {
        f = digits(l, e + 1, is_dec);
        frac = f > e + 1;
        if (!frac)
            f = e;
    }
    if (f < l->n && (l->s[f] | 32) == 'e') {
        size_t x = f + 1;
        if (x < l->n && (l->s[x] == '+' || l->s[x] == '-'))
            x++;
        size_t y = digits(l, x, is_dec);
        if (y > x)
            return y;
    }
    return frac ? f : 0;
}

static char *without_underscores(lex *l, size_t from, size_t to, size_t *n)
{
    char *t = jx_alloc(l->c, to - from + 1);
    *n = 0;
    for (size_t i = from; i < to; i++)
        if (l->s[i] != '_')
            t[(*n)++] = l->s[i];
    return t;
}

static void lex_number(lex *l)
{
    size_t i = l->pos, n, end = float_end(l, i);
    if (end) {
        char *t = without_underscores(l, i, end, &n);
        emit(l, T_FLOAT, i, jval_float(strtod(t, NULL)));
        end_match(l, end);
        return;
    }
    static const struct { char letter; unsigned base; bool (*is)(char); } bases[] = {
        {'b', 2, is_bin}, {'o', 8, is_oct}, {'x', 16, is_hex}};
    unsigned base = 10;
    size_t from = i;
    if (l->s[i] == '0') {
        for (size_t k = 0; k < 3; k++)
            if (i + 1 < l->n && (l->s[i + 1] | 32) == bases[k].letter) {
                size_t first = i + 2 + (i + 2 < l->n && l->s[i + 2] == '_');
                end = digits(l, first, bases[k].is);
                if (end > first) {
                    base = bases[k].base;
                    from = i + 2;
                }
                break;
            }
        if (base == 10)
            end = digits(l, i, is_zero);
    } else {
        end = digits(l, i, is_dec);
    }
    char *t = without_underscores(l, from, end, &n);
    if (n > 4300)
        lex_fail(l, i, "integer with more than 4300 digits");
    emit(l, T_INT, i, jn_parse_int(l->c, t, n, base));
    end_match(l, end);
}

static const struct { char s[3]; jtok_kind kind; } operators[] = {
    {"//", T_FLOORDIV}, {"**", T_POW}, {"==", T_EQ}, {"!=", T_NE}, {">=", T_GE}, {"<=", T_LE}, {"+", T_ADD},
    {"-", T_SUB}, {"/", T_DIV}, {"*", T_MUL}, {"%", T_MOD}, {"~", T_TILDE}, {"[", T_LBRACKET}, {"]", T_RBRACKET},
    {"(", T_LPAREN}, {")", T_RPAREN}, {"{", T_LBRACE}, {"}", T_RBRACE}, {">", T_GT}, {"<", T_LT}, {"=", T_ASSIGN},
    {".", T_DOT}, {":", T_COLON}, {"|", T_PIPE}, {",", T_COMMA}, {";", T_SEMICOLON}};

static void lex_operator(lex *l)
{
    for (size_t k = 0; k < sizeof operators / sizeof operators[0]; k++) {
        if (!at(l, l->pos, operators[k].s))
            continue;
        jtok_kind kind = operators[k].kind;
        char ch = operators[k].s[0];
        if (kind == T_LPAREN || kind == T_LBRACKET || kind == T_LBRACE) {
            if (l->n_open == sizeof l->open)
                lex_fail(l, l->pos, "brackets nested too deeply");
            l->open[l->n_open++] = ch;
        } else if (kind == T_RPAREN || kind == T_RBRACKET || kind == T_RBRACE) {
            char want = l->n_open ? l->open[--l->n_open] : 0;
            if (want != (ch == ')' ? '(' : ch == ']' ? '[' : '{'))
                lex_fail(l, l->pos, "unexpected closing bracket");
        }
        emit(l, kind, l->pos, jval_none());
        end_match(l, l->pos + strlen(operators[k].s));
        return;
    }
    lex_fail(l, l->pos, "unexpected character");
}

static bool name_byte(unsigned char ch, bool first)
{
    return ((ch | 32) >= 'a' && (ch | 32) <= 'z') || ch >= 0x80 || ch == '_' || (!first && ch >= '0' && ch <= '9');
}

/* The inside of {{ }} or {% %}. */
static void lex_inside(lex *l, size_t opened, bool variable)
{
    while (l->pos < l->n) {
        size_t end = 0;
        if (!l->n_open && variable)
            end = at(l, l->pos, "-}}") ? skip_space(l, l->pos + 3) : at(l, l->pos, "}}") ? l->pos + 2 : 0;
        else if (!l->n_open)
            end = tag_end(l, l->pos, '%');
        if (end) {
            emit(l, variable ? T_VAR_END : T_BLOCK_END, l->pos, jval_none());
            end_match(l, end);
            return;
        }
        size_t i = skip_space(l, l->pos);
        if (i > l->pos) {
            end_match(l, i);
            continue;
        }
        unsigned char ch = (unsigned char)l->s[l->pos];
        if (is_dec((char)ch)) {
            lex_number(l);
        } else if (name_byte(ch, true)) {
            while (i < l->n && name_byte((unsigned char)l->s[i], false))
                i++;
            emit(l, T_NAME, l->pos, jv_str(js_view(l->c, l->s + l->pos, i - l->pos, false)));
            end_match(l, i);
        } else if (ch == '"' || ch == '\'') {
            lex_string(l);
        } else {
            lex_operator(l);
        }
    }
    lex_fail(l, opened, variable ? "missing end of '{{'" : "missing end of '{%'");
}

void jinja_lex(jx *c, jtoks *out)
{
    lex l = {.c = c, .s = c->compiling->src, .n = c->compiling->n_src, .out = out, .line_starting = true};
    while (l.pos < l.n) {
        size_t i = l.pos;
        while (i + 1 < l.n && !(l.s[i] == '{' && (l.s[i + 1] == '{' || l.s[i + 1] == '%' || l.s[i + 1] == '#')))
            i++;
        if (i + 1 >= l.n) {
            emit(&l, T_DATA, l.pos, jv_str(js_view(c, l.s + l.pos, l.n - l.pos, false)));
            break;
        }
        char kind = l.s[i + 1], sign = 0;
        size_t j = i + 2, opened = i;
        if (j < l.n && (l.s[j] == '-' || l.s[j] == '+'))
            sign = l.s[j++];
        emit_data(&l, l.pos, i, sign, kind == '{');
        size_t raw = kind == '%' ? raw_begin(&l, j) : 0;
        if (raw) {
            end_match(&l, raw);
            lex_raw(&l, opened);
            continue;
        }
        end_match(&l, j);
        if (kind == '#') {
            lex_comment(&l, opened);
        } else {
            emit(&l, kind == '{' ? T_VAR_BEGIN : T_BLOCK_BEGIN, opened, jval_none());
            lex_inside(&l, opened, kind == '{');
        }
    }
    emit(&l, T_EOF, l.n, jval_none());
}

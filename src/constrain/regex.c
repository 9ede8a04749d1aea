/* Regular expressions: text to tree. The syntax is what ECMA-262 (JSON Schema), Python and RE2 share: classes, groups,
 * greedy and lazy repeats (the same language), ^ and $, \d \w \s (ASCII, ECMA's spaces), \p{..}, (?i:..), named groups.
 * Look-around, back references and \b are refused: they are not what a finite automaton can promise cheaply. */
#include <string.h>

#include "base/utf8.h"
#include "constrain/constrain_impl.h"

#define RE_DEPTH 200     /* nesting; the parser recurses */
#define RE_REPEAT 100000 /* largest {n} */

typedef struct rp {
    cc *c;
    re_sets *sets;
    const char *s, *where;
    size_t n, pos;
    int depth;
    bool icase, dotall;
} rp;

re_node *re_new(cc *c, re_op op, re_node *a, re_node *b)
{
    re_node *r = CC_NEW(c, re_node);
    r->op = op;
    r->a = a;
    r->b = b;
    return r;
}

/* n * k rounds, INF where either has no end; too many to be one repeat: 0 rounds of a repeat that has some. */
static uint32_t rounds(uint32_t n, uint32_t k)
{
    if (!n || !k)
        return 0;
    return n == INF || k == INF ? INF : (uint64_t)n * k <= RE_REPEAT ? n * k : 0;
}

/* Counts of counts, x{a,b}{min,max}, are one count of x where no number between is left out: written out they would be
 * thousands of ways to the same text, each state a set of all that are left. */
static bool fold_counts(const re_node *a, uint32_t *min, uint32_t *max)
{
    if (a->op != RE_REP)
        return false;
    bool gap = *max > *min &&
               (a->max == INF && *min ? false
                : (uint64_t)a->min * (*min + 1ull) > (a->max == INF ? 0 : (uint64_t)a->max * *min) + 1);
    uint32_t lo = rounds(a->min, *min), hi = rounds(a->max, *max);
    if (gap || (!lo && a->min && *min) || (!hi && a->max && *max))
        return false;
    *min = lo;
    *max = hi;
    return true;
}

re_node *re_rep(cc *c, re_node *a, uint32_t min, uint32_t max)
{
    if (fold_counts(a, &min, &max))
        a = a->a;
    re_node *r = re_new(c, RE_REP, a, NULL);
    r->min = min;
    r->max = max;
    return r;
}

uint32_t re_set_add(cc *c, re_sets *v, const cpset *s)
{
    for (size_t i = v->n; i-- > 0 && v->n - i < 64;) /* the same few classes come again and again */
        if (v->s[i].n == s->n && (!s->n || !memcmp(v->s[i].r, s->r, s->n * sizeof *s->r)))
            return (uint32_t)i;
    CC_PUSH(c, v->s, v->n, v->cap, *s);
    return (uint32_t)(v->n - 1);
}

_Noreturn static void re_bad(rp *p, imp_status s, const char *why)
{
    cc_fail(p->c, s, "%s: regular expression, offset %zu: %s", p->where, p->pos, why);
}

static uint32_t get_cp(rp *p)
{
    uint32_t cp;
    bool ok;
    p->pos += utf8_get(p->s + p->pos, p->n - p->pos, &cp, &ok);
    if (!ok)
        re_bad(p, IMP_E_PARSE, "not UTF-8");
    return cp;
}

static void add_digit(rp *p, cpset *s) { cpset_add(p->c, s, '0', '9'); }

static void add_word(rp *p, cpset *s)
{
    cpset_add(p->c, s, '0', '9');
    cpset_add(p->c, s, 'A', 'Z');
    cpset_add(p->c, s, '_', '_');
    cpset_add(p->c, s, 'a', 'z');
}

static void add_space(rp *p, cpset *s)
{
    static const cprange sp[] = {{9, 13}, {32, 32}, {0xA0, 0xA0}, {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029},
                                 {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
    for (size_t i = 0; i < sizeof sp / sizeof *sp; i++)
        cpset_add(p->c, s, sp[i].lo, sp[i].hi);
}

static uint32_t hex(rp *p, int n)
{
    uint32_t v = 0;
    for (int i = 0; i < n; i++) {
        if (p->pos >= p->n)
            re_bad(p, IMP_E_PARSE, "escape cut short");
        int d = hex_value(p->s[p->pos++]);
        if (d < 0)
            re_bad(p, IMP_E_PARSE, "not a hexadecimal digit");
        v = v * 16 + (uint32_t)d;
    }
    return v;
}

static uint32_t braced_hex(rp *p)
{
    uint32_t v = 0;
    int n = 0;
    p->pos++;
    while (p->pos < p->n && p->s[p->pos] != '}') {
        v = v * 16 + hex(p, 1);
        if (++n > 6 || v > CP_MAX)
            re_bad(p, IMP_E_PARSE, "code point out of range");
    }
    if (!n || p->pos >= p->n)
        re_bad(p, IMP_E_PARSE, "escape cut short");
    p->pos++;
    return v;
}

/* Behind a backslash. Adds to set and returns INF for a class escape, else returns the one code point. */
static uint32_t escape(rp *p, cpset *set, bool in_class)
{
    if (p->pos >= p->n)
        re_bad(p, IMP_E_PARSE, "backslash at the end");
    uint32_t ch = get_cp(p);
    cpset t = {0};
    switch (ch) {
    case 'd': add_digit(p, set); return INF;
    case 'w': add_word(p, set); return INF;
    case 's': add_space(p, set); return INF;
    case 'D': add_digit(p, &t); cpset_invert(p->c, &t); cpset_add_set(p->c, set, &t); return INF;
    case 'W': add_word(p, &t); cpset_invert(p->c, &t); cpset_add_set(p->c, set, &t); return INF;
    case 'S': add_space(p, &t); cpset_invert(p->c, &t); cpset_add_set(p->c, set, &t); return INF;
    case 'p':
    case 'P': {
        const char *name = p->s + p->pos;
        size_t n = 1;
        if (p->pos < p->n && *name == '{') {
            name++;
            const char *end = memchr(name, '}', p->n - p->pos - 1);
            if (!end)
                re_bad(p, IMP_E_PARSE, "\\p{ without }");
            n = (size_t)(end - name);
            p->pos += n + 2;
        } else if (p->pos < p->n) {
            p->pos++;
        } else {
            re_bad(p, IMP_E_PARSE, "\\p without a property");
        }
        bool neg = ch == 'P';
        if (n && *name == '^')
            neg = !neg, name++, n--;
        if (!cpset_add_property(p->c, &t, name, n))
            re_bad(p, IMP_E_UNSUPPORTED, "Unicode property not known");
        if (neg)
            cpset_invert(p->c, &t);
        cpset_add_set(p->c, set, &t);
        return INF;
    }
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'f': return '\f';
    case 'v': return '\v';
    case 'a': return in_class || true ? 7 : 0;
    case 'e': return 27;
    case 'x': return p->pos < p->n && p->s[p->pos] == '{' ? braced_hex(p) : hex(p, 2);
    case 'U': return hex(p, 8) & 0x1FFFFF;
    case 'u': {
        if (p->pos < p->n && p->s[p->pos] == '{')
            return braced_hex(p);
        uint32_t v = hex(p, 4);
        if (v >= 0xD800 && v < 0xDC00 && p->pos + 6 <= p->n && p->s[p->pos] == '\\' && p->s[p->pos + 1] == 'u') {
            p->pos += 2;
            uint32_t lo = hex(p, 4);
            if (lo < 0xDC00 || lo > 0xDFFF)
                re_bad(p, IMP_E_PARSE, "half a surrogate pair");
            v = 0x10000 + ((v - 0xD800) << 10) + (lo - 0xDC00);
        }
        return v;
    }
    case 'c':
        if (p->pos < p->n && ((p->s[p->pos] | 32) >= 'a' && (p->s[p->pos] | 32) <= 'z'))
            return (uint32_t)(p->s[p->pos++] & 31);
        re_bad(p, IMP_E_PARSE, "\\c needs a letter");
    case '0':
        if (p->pos < p->n && p->s[p->pos] >= '0' && p->s[p->pos] <= '7')
            re_bad(p, IMP_E_UNSUPPORTED, "octal escapes are not supported");
        return 0;
    case 'b':
        if (in_class)
            return 8;
        re_bad(p, IMP_E_UNSUPPORTED, "\\b (word boundary) is not supported");
    default: break;
    }
    if (ch >= '1' && ch <= '9')
        re_bad(p, IMP_E_UNSUPPORTED, "back references are not supported");
    if ((ch >= 'A' && ch <= 'Z') || (ch >= 'a' && ch <= 'z'))
        re_bad(p, IMP_E_UNSUPPORTED, "unknown escape");
    return ch;
}

static const struct { const char *name; const char *set; } posix[] = {
    {"alpha", "AZaz"}, {"digit", "09"}, {"alnum", "09AZaz"}, {"upper", "AZ"}, {"lower", "az"}, {"xdigit", "09AFaf"},
    {"space", "\t\r  "}, {"punct", "!/:@[`{~"}, {"word", "09AZ__az"}, {"blank", "\t\t  "},
    {"cntrl", "\x01\x1f\x7f\x7f"}, {"print", " ~"}, {"graph", "!~"},
};

static bool posix_class(rp *p, cpset *out)
{
    if (p->pos + 1 >= p->n || p->s[p->pos] != '[' || p->s[p->pos + 1] != ':')
        return false;
    for (size_t i = 0; i < sizeof posix / sizeof *posix; i++) {
        size_t k = strlen(posix[i].name);
        if (p->n - p->pos >= k + 4 && !memcmp(p->s + p->pos + 2, posix[i].name, k) &&
            !memcmp(p->s + p->pos + 2 + k, ":]", 2)) {
            for (const char *q = posix[i].set; *q; q += 2)
                cpset_add(p->c, out, (unsigned char)q[0], (unsigned char)q[1]);
            p->pos += k + 4;
            return true;
        }
    }
    return false;
}

static void parse_class(rp *p, cpset *out)
{
    bool neg = false, first = true;
    if (p->pos < p->n && p->s[p->pos] == '^')
        neg = true, p->pos++;
    for (;; first = false) {
        if (p->pos >= p->n)
            re_bad(p, IMP_E_PARSE, "[ without ]");
        /* ECMA: [] is empty and [^] is anything; elsewhere ] first is itself. Both agree that "[]" alone closes
         * here. */
        if (p->s[p->pos] == ']') {
            p->pos++;
            break;
        }
        if (posix_class(p, out))
            continue;
        (void)first;
        uint32_t lo = get_cp(p), hi;
        if (lo == '\\')
            lo = escape(p, out, true);
        hi = lo;
        if (p->pos + 1 < p->n && p->s[p->pos] == '-' && p->s[p->pos + 1] != ']' && lo != INF) {
            size_t save = p->pos++;
            size_t before = out->n;
            hi = get_cp(p);
            if (hi == '\\')
                hi = escape(p, out, true);
            if (hi == INF) { /* [a-\d]: three things */
                (void)save;
                (void)before;
                cpset_add(p->c, out, '-', '-');
                hi = lo;
            } else if (hi < lo) {
                re_bad(p, IMP_E_PARSE, "range out of order");
            }
        }
        if (lo != INF)
            cpset_add(p->c, out, lo, hi);
    }
    cpset_norm(out);
    if (p->icase)
        cpset_fold_case(p->c, out);
    if (neg)
        cpset_invert(p->c, out);
}

void re_parse_class(cc *c, const char *s, size_t n, size_t *pos, cpset *out, const char *where)
{
    rp p = {.c = c, .s = s, .n = n, .pos = *pos, .where = where};
    parse_class(&p, out);
    *pos = p.pos;
}

static re_node *set_node(rp *p, cpset *s)
{
    re_node *r = re_new(p->c, RE_SET, NULL, NULL);
    cpset_norm(s);
    r->set = re_set_add(p->c, p->sets, s);
    return r;
}

static re_node *parse_alt(rp *p);

/* Behind "(?": flags, kinds of group. Returns the group's tree, or NULL for flags that hold to the end of the group. */
static re_node *parse_special(rp *p)
{
    bool on = true, icase = p->icase, dotall = p->dotall;
    while (p->pos < p->n) {
        char ch = p->s[p->pos++];
        switch (ch) {
        case 'i': icase = on; break;
        case 's': dotall = on; break;
        case 'u': case 'a': break;
        case '-': on = false; break;
        case 'm': re_bad(p, IMP_E_UNSUPPORTED, "multi-line mode is not supported");
        case ':': {
            bool i0 = p->icase, d0 = p->dotall;
            p->icase = icase, p->dotall = dotall;
            re_node *r = parse_alt(p);
            p->icase = i0, p->dotall = d0;
            return r;
        }
        case ')': p->icase = icase, p->dotall = dotall; return NULL;
        case 'P':
        case '<': {
            if (ch == 'P' && (p->pos >= p->n || p->s[p->pos++] != '<'))
                re_bad(p, IMP_E_UNSUPPORTED, "this kind of group is not supported");
            if (p->pos < p->n && (p->s[p->pos] == '=' || p->s[p->pos] == '!'))
                re_bad(p, IMP_E_UNSUPPORTED, "look-around is not supported");
            const char *end = memchr(p->s + p->pos, '>', p->n - p->pos);
            if (!end)
                re_bad(p, IMP_E_PARSE, "(?< without >");
            p->pos = (size_t)(end - p->s) + 1;
            return parse_alt(p);
        }
        case '=':
        case '!': re_bad(p, IMP_E_UNSUPPORTED, "look-around is not supported");
        default: re_bad(p, IMP_E_UNSUPPORTED, "this kind of group is not supported");
        }
    }
    re_bad(p, IMP_E_PARSE, "( without )");
}

static re_node *parse_atom(rp *p)
{
    cpset s = {0};
    uint32_t ch = get_cp(p);
    switch (ch) {
    case '(': {
        if (++p->depth > RE_DEPTH)
            re_bad(p, IMP_E_LIMIT, "nested too deeply");
        re_node *r;
        bool icase = p->icase, dotall = p->dotall;
        if (p->pos < p->n && p->s[p->pos] == '?') {
            p->pos++;
            r = parse_special(p);
            if (!r) {
                p->depth--;
                return re_new(p->c, RE_EMPTY, NULL, NULL); /* (?i): holds for what follows */
            }
        } else {
            r = parse_alt(p);
        }
        p->icase = icase, p->dotall = dotall;
        if (p->pos >= p->n || p->s[p->pos] != ')')
            re_bad(p, IMP_E_PARSE, "( without )");
        p->pos++;
        p->depth--;
        return r;
    }
    case '[': parse_class(p, &s); return set_node(p, &s);
    case '.':
        if (p->dotall) {
            cpset_add(p->c, &s, 0, CP_MAX);
        } else {
            cpset_add(p->c, &s, '\n', '\n');
            cpset_add(p->c, &s, '\r', '\r');
            cpset_add(p->c, &s, 0x2028, 0x2029);
            cpset_invert(p->c, &s);
        }
        return set_node(p, &s);
    case '^': return re_new(p->c, RE_BOL, NULL, NULL);
    case '$': return re_new(p->c, RE_EOL, NULL, NULL);
    case '\\': {
        if (p->pos < p->n && (p->s[p->pos] == 'A' || p->s[p->pos] == 'z' || p->s[p->pos] == 'Z'))
            return re_new(p->c, p->s[p->pos++] == 'A' ? RE_BOL : RE_EOL, NULL, NULL);
        uint32_t e = escape(p, &s, false);
        if (e != INF)
            cpset_add(p->c, &s, e, e);
        break;
    }
    case '*': case '+': case '?': re_bad(p, IMP_E_PARSE, "nothing to repeat");
    default: cpset_add(p->c, &s, ch, ch); break;
    }
    cpset_norm(&s);
    if (p->icase)
        cpset_fold_case(p->c, &s);
    return set_node(p, &s);
}

/* {m}, {m,}, {m,n}, {,n}; anything else is a literal brace, as in ECMA's annex B. */
static bool parse_braces(rp *p, uint32_t *min, uint32_t *max)
{
    size_t i = p->pos + 1;
    unsigned long long v[2] = {0, 0};
    bool have[2] = {false, false}, comma = false;
    for (; i < p->n && p->s[i] != '}'; i++) {
        if (p->s[i] == ',' && !comma) {
            comma = true;
        } else if (p->s[i] >= '0' && p->s[i] <= '9') {
            have[comma] = true;
            v[comma] = v[comma] * 10 + (unsigned)(p->s[i] - '0');
            if (v[comma] > 0xFFFFFFF)
                v[comma] = 0xFFFFFFF;
        } else {
            return false;
        }
    }
    if (i >= p->n || (!have[0] && !have[1]))
        return false;
    p->pos = i + 1;
    *min = (uint32_t)v[0];
    *max = !comma ? *min : have[1] ? (uint32_t)v[1] : INF;
    if (*min > *max)
        re_bad(p, IMP_E_PARSE, "repeat out of order");
    if (*min > RE_REPEAT || (*max != INF && *max > RE_REPEAT))
        re_bad(p, IMP_E_LIMIT, "repeat count too large");
    return true;
}

static re_node *parse_repeat(rp *p)
{
    re_node *r = parse_atom(p);
    while (p->pos < p->n) {
        uint32_t min, max;
        char ch = p->s[p->pos];
        if (ch == '*' || ch == '+' || ch == '?') {
            p->pos++;
            min = ch == '+';
            max = ch == '?' ? 1 : INF;
        } else if (ch != '{' || !parse_braces(p, &min, &max)) {
            break;
        }
        if (p->pos < p->n && p->s[p->pos] == '?')
            p->pos++; /* lazy: the same language */
        else if (p->pos < p->n && p->s[p->pos] == '+')
            re_bad(p, IMP_E_UNSUPPORTED, "possessive repeats are not supported");
        r = re_rep(p->c, r, min, max);
    }
    return r;
}

static re_node *parse_alt(rp *p)
{
    re_node *alt = NULL;
    bool icase = p->icase, dotall = p->dotall;
    for (;;) {
        re_node *cat = NULL;
        while (p->pos < p->n && p->s[p->pos] != '|' && p->s[p->pos] != ')') {
            cc_work(p->c, 10);
            re_node *r = parse_repeat(p);
            cat = cat ? re_new(p->c, RE_CAT, cat, r) : r;
        }
        if (!cat)
            cat = re_new(p->c, RE_EMPTY, NULL, NULL);
        alt = alt ? re_new(p->c, RE_ALT, alt, cat) : cat;
        if (p->pos >= p->n || p->s[p->pos] != '|')
            break;
        p->pos++;
    }
    p->icase = icase, p->dotall = dotall;
    return alt;
}

re_node *re_parse(cc *c, re_sets *sets, const char *s, size_t n, const char *where)
{
    rp p = {.c = c, .sets = sets, .s = s, .n = n, .where = where};
    re_node *r = parse_alt(&p);
    if (p.pos < n)
        re_bad(&p, IMP_E_PARSE, ") without (");
    return r;
}

/* ^C{m,n}$: the class alone becomes the automaton and the repeat becomes counters, so {1,65536} costs nothing. */
static re_node *counted_class(re_node *r, bool search)
{
    bool bol = !search, eol = !search;
    while (r->op == RE_CAT && (r->b->op == RE_EOL || r->a->op == RE_BOL)) {
        if (r->b->op == RE_EOL)
            eol = true, r = r->a;
        else
            bol = true, r = r->b;
    }
    bool repeat = bol && eol && r->op == RE_REP && r->a->op == RE_SET && r->max != 1;
    return repeat && (r->min > 1 || (r->max != INF && r->max > 8)) ? r : NULL;
}

/* The ')' of the group that begins at s[at], or n. */
static size_t group_end(const char *s, size_t n, size_t at)
{
    unsigned depth = 0;
    bool cls = false;
    for (size_t i = at; i < n; i++) {
        if (s[i] == '\\')
            i++;
        else if (cls)
            cls = s[i] != ']';
        else if (s[i] == '[')
            cls = true;
        else if (s[i] == '(')
            depth++;
        else if (s[i] == ')' && --depth == 0)
            return i;
    }
    return n;
}

/* Is there a '|' outside of groups and classes? */
static bool top_choice(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '|')
            return true;
        if (s[i] == '\\') {
            i++;
        } else if (s[i] == '(') {
            i = group_end(s, n, i);
        } else if (s[i] == '[') {
            while (++i < n && s[i] != ']')
                i += s[i] == '\\';
        }
    }
    return false;
}

static bool looks_ahead(const char *s, size_t n)
{
    return n > 3 && s[0] == '(' && s[1] == '?' && (s[2] == '!' || s[2] == '=');
}

/* ^(?!A)(?=B)Y, the one place where look-ahead is an intersection of regular languages: Y, without what begins with A,
 * and only what begins with B. False: another shape (the parser then names what it does not support). */
static bool leading_looks(cc *c, const char *s, size_t n, bool search, const char *where, cdfa **out)
{
    size_t at = 1, end;
    if (!n || s[0] != '^' || !looks_ahead(s + 1, n - 1))
        return false;
    for (; looks_ahead(s + at, n - at); at = end + 1)
        if ((end = group_end(s, n, at)) == n)
            return false;
    if (top_choice(s + at, n - at) || (at < n && strchr("*+?{", s[at])))
        return false;
    re_sets sets = {0};
    const char *rest = arena_printf(c->a, "^%.*s", (int)(n - at), s + at);
    if (!rest)
        cc_fail(c, IMP_E_NOMEM, "%s: out of memory", where);
    cdfa *d = re_compile(c, &sets, re_parse(c, &sets, rest, strlen(rest), where), search, where);
    for (size_t i = 1; i < at && d; i = end + 1) {
        end = group_end(s, n, i);
        re_sets own = {0};
        const char *look = arena_printf(c->a, "^(?:%.*s)", (int)(end - i - 3), s + i + 3);
        if (!look)
            cc_fail(c, IMP_E_NOMEM, "%s: out of memory", where);
        cdfa *a = re_compile(c, &own, re_parse(c, &own, look, strlen(look), where), true, where);
        if (s[i + 2] == '=')
            d = a ? dfa_product(c, d, a, DFA_AND) : NULL;
        else if (a)
            d = dfa_product(c, d, a, DFA_SUB);
    }
    *out = d;
    return true;
}

cdfa *re_pattern(cc *c, const char *s, size_t n, bool search, const char *where, uint32_t *min_len, uint32_t *max_len,
                 bool counted)
{
    re_sets sets = {0};
    cdfa *looked;
    if (n && !memchr(s, 0, n) && leading_looks(c, s, n, search, where, &looked)) {
        *min_len = 0;
        *max_len = INF;
        return looked;
    }
    re_node *r = re_parse(c, &sets, s, n, where);
    *min_len = 0;
    *max_len = INF;
    re_node *k = counted ? counted_class(r, search) : NULL;
    if (k) {
        *min_len = k->min;
        *max_len = k->max;
        return re_compile(c, &sets, re_rep(c, k->a, 0, INF), false, where);
    }
    return re_compile(c, &sets, r, search, where);
}

cdfa *re_counted_class(cc *c, const char *s, size_t n, const char *where, uint32_t *min, uint32_t *max)
{
    if (n && s[0] == '^' && looks_ahead(s + 1, n - 1))
        return NULL;
    re_sets sets = {0};
    re_node *k = counted_class(re_parse(c, &sets, s, n, where), false);
    if (!k)
        return NULL;
    *min = k->min;
    *max = k->max;
    return re_compile(c, &sets, k->a, false, where);
}

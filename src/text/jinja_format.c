/* Python's two string formattings: "..." % values and "...".format(values). */
#include <math.h>
#include <string.h>

#include "text/jinja_impl.h"

typedef struct spec { /* both mini-languages, parsed */
    uint32_t fill;     /* 0: none given */
    char align, sign;  /* '<' '>' '^' '='; '+' '-' ' ' */
    bool alt, zero;
    char group;        /* ',' or '_' */
    int64_t width, prec; /* -1: none */
    char conv;
} spec;

/* Writes body (an unpadded text whose first n_sign bytes are a sign or prefix) to width. */
static void pad(jbuf *b, const jstr *body, size_t n_sign, const spec *f, char align)
{
    int64_t missing = f->width - (int64_t)body->n_cp, left = 0;
    uint32_t fill = f->fill ? f->fill : f->zero ? '0' : ' ';
    if (missing <= 0) {
        jb_str(b, body);
        return;
    }
    jx_step(b->c, (size_t)missing);
    left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
    if (align == '=')
        jb_sub(b, body, 0, n_sign);
    for (int64_t i = 0; i < left; i++)
        jb_cp(b, fill, false);
    jb_sub(b, body, align == '=' ? n_sign : 0, body->n);
    for (int64_t i = left; i < missing; i++)
        jb_cp(b, fill, false);
}

static const jstr *grouped(jx *c, const jstr *digits, size_t from, size_t to, char sep, unsigned every)
{
    jbuf b = {.c = c};
    jb_sub(&b, digits, 0, from);
    for (size_t i = from; i < to; i++) {
        if (i > from && (to - i) % every == 0)
            jb_add(&b, &sep, 1, false);
        jb_sub(&b, digits, i, i + 1);
    }
    jb_sub(&b, digits, to, digits->n);
    return jb_done(&b);
}

static void sign(jbuf *b, bool neg, char want)
{
    if (neg)
        jb_lit(b, "-");
    else if (want == '+' || want == ' ')
        jb_add(b, &want, 1, false);
}

static bool negative(jx *c, jval v) { return v.t == J_FLOAT ? signbit(v.u.f) && !isnan(v.u.f) : jn_cmp(c, v,
    jval_int(0)) < 0; }

/* Zeros between sign and digits, counted with the separators that they get. */
static const jstr *zero_filled(jx *c, const jstr *t, size_t n_sign, size_t int_end, const spec *f, unsigned every)
{
    jbuf b = {.c = c};
    size_t digits = int_end - n_sign, rest = t->n - int_end;
    int64_t want = f->width - (int64_t)n_sign - (int64_t)rest;
    size_t n = digits;
    if (f->zero && !f->align)
        while ((int64_t)(n + (f->group ? (n - 1) / every : 0)) < want) {
            n++;
            jx_step(c, 1);
        }
    jb_sub(&b, t, 0, n_sign);
    for (size_t i = digits; i < n; i++)
        jb_lit(&b, "0");
    jb_sub(&b, t, n_sign, t->n);
    const jstr *r = jb_done(&b);
    return f->group ? grouped(c, r, n_sign, n_sign + n, f->group, every) : r;
}

static void put_int(jbuf *b, jval v, const spec *f)
{
    jx *c = b->c;
    jbuf t = {.c = c};
    unsigned base = f->conv == 'x' || f->conv == 'X' ? 16 : f->conv == 'o' ? 8 : f->conv == 'b' ? 2 : 10;
    sign(&t, negative(c, v), f->sign);
    if (f->alt && base != 10)
        jb_lit(&t, f->conv == 'x' ? "0x" : f->conv == 'X' ? "0X" : f->conv == 'o' ? "0o" : "0b");
    size_t n_sign = t.n;
    jbuf d = {.c = c};
    jb_int(&d, jn_abs(c, v.t == J_BOOL ? jval_int(v.u.b) : v), base);
    for (int64_t i = (int64_t)d.n; i < f->prec; i++) {
        jb_lit(&t, "0");
        jx_step(c, 1);
    }
    const jstr *digits = jb_done(&d);
    jb_str(&t, f->conv == 'X' ? ju_convert(c, digits, JU_UPPER) : digits);
    const jstr *s = jb_done(&t);
    pad(b, zero_filled(c, s, n_sign, s->n, f, base == 10 ? 3 : 4), n_sign, f, f->align ? f->align : f->zero ? '='
        : '>');
}

/* repr-like with precision (the empty format type): 'g' that keeps ".0" and switches late to exponents. */
static void float_general(jbuf *t, double x, const spec *f)
{
    if (f->prec < 0) {
        jb_float(t, x, false);
        return;
    }
    jbuf g = {.c = t->c};
    int p = f->prec ? (int)f->prec : 1, exp10 = 0;
    jb_fixed(&g, x, 'e', p - 1, false, false);
    for (size_t i = g.n; i-- > 0;)
        if (g.s[i] == 'e') {
            int e = 0;
            for (size_t j = i + 2; j < g.n; j++)
                e = e * 10 + (g.s[j] - '0');
            exp10 = g.s[i + 1] == '-' ? -e : e;
            break;
        }
    jbuf r = {.c = t->c};
    if (exp10 >= p - 1 && exp10 >= -4 && exp10 < p) { /* would lose its ".0" */
        jb_fixed(&r, x, 'e', p - 1 > 0 ? p - 1 : 0, false, false);
        if (p > 1 || exp10 >= p) {
            jb_str(t, jb_done(&r));
            return;
        }
        jb_str(t, jb_done(&r));
        return;
    }
    jb_fixed(&r, x, 'g', p, false, false);
    const jstr *s = jb_done(&r);
    jb_str(t, s);
    if (js_find(s, 0, ".", 1) == SIZE_MAX && js_find(s, 0, "e", 1) == SIZE_MAX)
        jb_lit(t, ".0");
}

static void put_float(jbuf *b, double x, const spec *f)
{
    jx *c = b->c;
    jbuf t = {.c = c};
    char conv = f->conv ? (char)(f->conv | 32) : 0;
    bool upper = f->conv && f->conv != (f->conv | 32);
    sign(&t, signbit(x) && !isnan(x), f->sign);
    size_t n_sign = t.n;
    jbuf d = {.c = c};
    if (isnan(x) || isinf(x)) {
        jb_lit(&d, isnan(x) ? "nan" : "inf");
    } else if (conv == 0) {
        float_general(&d, fabs(x), f);
    } else {
        int prec = f->prec < 0 ? 6 : f->prec > 1000 ? 1000 : (int)f->prec;
        jb_fixed(&d, fabs(x) * (conv == '%' ? 100 : 1), conv == '%' ? 'f' : conv == 'n' ? 'g' : conv, prec, f->alt,
            false);
    }
    if (conv == '%')
        jb_lit(&d, "%");
    const jstr *s = jb_done(&d);
    jb_str(&t, upper ? ju_convert(c, s, JU_UPPER) : s);
    s = jb_done(&t);
    size_t end = n_sign;
    while (end < s->n && s->s[end] >= '0' && s->s[end] <= '9')
        end++;
    if (end > n_sign)
        s = zero_filled(c, s, n_sign, end, f, 3);
    pad(b, s, n_sign, f, f->align ? f->align : f->zero ? '=' : '>');
}

static void put_str(jbuf *b, const jstr *s, const spec *f)
{
    if (f->prec >= 0 && (size_t)f->prec < s->n_cp)
        s = js_sub(b->c, s, 0, js_offset(s, (size_t)f->prec));
    pad(b, s, 0, f, f->align ? f->align : '<');
}

/* ---- "..." % values ---- */

typedef struct percent {
    jx *c;
    const jstr *s;
    size_t i;
    jval arg;
    size_t used;
    bool mapping;
} percent;

static jval next_arg(percent *p)
{
    bool tuple = p->arg.t == J_LIST && p->arg.u.l->kind == JL_TUPLE;
    size_t n = tuple ? p->arg.u.l->n : 1;
    if (p->used >= n)
        jx_type_error(p->c, "not enough arguments for format string");
    p->used++;
    return tuple ? p->arg.u.l->v[p->used - 1] : p->arg;
}

static int64_t number_or_star(percent *p)
{
    int64_t v = 0;
    if (p->i < p->s->n && p->s->s[p->i] == '*') {
        p->i++;
        if (!jn_to_i64(next_arg(p), &v))
            jx_type_error(p->c, "* wants int");
        return v;
    }
    while (p->i < p->s->n && p->s->s[p->i] >= '0' && p->s->s[p->i] <= '9' && v < 100000000)
        v = v * 10 + (p->s->s[p->i++] - '0');
    return v;
}

static void percent_value(percent *p, jbuf *b, jval v, spec *f)
{
    jx *c = p->c;
    char conv = f->conv;
    if (conv == 's' || conv == 'r' || conv == 'a') {
        f->zero = false;
        const jstr *s = conv == 's' ? jv_to_str(c, v) : jv_repr(c, v);
        char align = f->align == '<' ? '<' : '>';
        if (f->prec >= 0 && (size_t)f->prec < s->n_cp)
            s = js_sub(c, s, 0, js_offset(s, (size_t)f->prec));
        pad(b, s, 0, f, align);
        return;
    }
    if (v.t == J_UNDEF)
        jx_undefined(c, v);
    if (conv == 'c') {
        int64_t cp = 0;
        jbuf t = {.c = c};
        if (v.t == J_STR && v.u.s->n_cp == 1)
            jb_str(&t, v.u.s);
        else if (jn_to_i64(v, &cp) && cp >= 0 && cp < 0x110000)
            jb_cp(&t, (uint32_t)cp, false);
        else
            jx_type_error(c, "%%c requires int or char");
        f->zero = false;
        pad(b, jb_done(&t), 0, f, f->align == '<' ? '<' : '>');
        return;
    }
    if (!strchr("diuoxXeEfFgG", conv) || !conv)
        jx_type_error(c, "unsupported format character '%c'", conv >= 32 && conv < 127 ? conv : '?');
    if (!jv_is_num(v))
        jx_type_error(c, "%%%c format: a real number is required, not %s", conv, jv_type(v));
    if (strchr("eEfFgG", conv)) {
        if (f->align == '<')
            f->zero = false;
        put_float(b, jn_double(c, v), f);
        return;
    }
    if (v.t == J_FLOAT) {
        if (strchr("oxX", conv))
            jx_type_error(c, "%%%c format: an integer is required, not float", conv);
        v = jn_from_double(c, v.u.f);
    }
    if (conv == 'i' || conv == 'u')
        f->conv = 'd';
    if (f->align == '<')
        f->zero = false;
    put_int(b, v, f);
}

const jstr *jstr_format_percent(jx *c, const jstr *fmt, jval arg)
{
    percent p = {.c = c, .s = fmt, .arg = arg};
    jbuf b = {.c = c};
    bool tuple = arg.t == J_LIST && arg.u.l->kind == JL_TUPLE;
    while (p.i < fmt->n) {
        size_t e = js_find(fmt, p.i, "%", 1);
        if (e == SIZE_MAX)
            e = fmt->n;
        jb_sub(&b, fmt, p.i, e);
        if ((p.i = e) == fmt->n)
            break;
        p.i++;
        jx_step(c, 1);
        spec f = {.width = 0, .prec = -1};
        jval v = {.t = J_MISSING};
        if (p.i < fmt->n && fmt->s[p.i] == '(') {
            size_t from = ++p.i, depth = 1;
            while (p.i < fmt->n && depth)
                depth += fmt->s[p.i] == '(', depth -= fmt->s[p.i] == ')', p.i++;
            if (depth)
                jx_type_error(c, "incomplete format key");
            if (arg.t != J_DICT)
                jx_type_error(c, "format requires a mapping");
            const jval *found = jd_find(c, arg.u.d, jv_str(js_sub(c, fmt, from, p.i - 1)));
            if (!found)
                jx_type_error(c, "KeyError in a format string");
            v = *found;
            p.mapping = true;
        }
        for (; p.i < fmt->n && strchr("-+ #0", fmt->s[p.i]) && fmt->s[p.i]; p.i++) {
            char ch = fmt->s[p.i];
            if (ch == '-')
                f.align = '<';
            else if (ch == '+' || (ch == ' ' && f.sign != '+'))
                f.sign = ch;
            else if (ch == '#')
                f.alt = true;
            else if (ch == '0')
                f.zero = true;
        }
        f.width = number_or_star(&p);
        if (f.width < 0) {
            f.align = '<';
            f.width = -f.width;
        }
        if (p.i < fmt->n && fmt->s[p.i] == '.') {
            p.i++;
            f.prec = number_or_star(&p);
            if (f.prec < 0)
                f.prec = 0;
        }
        while (p.i < fmt->n && strchr("hlL", fmt->s[p.i]) && fmt->s[p.i])
            p.i++;
        if (p.i >= fmt->n)
            jx_type_error(c, "incomplete format");
        f.conv = fmt->s[p.i++];
        if (f.conv == '%') {
            jb_sub(&b, fmt, p.i - 1, p.i);
            continue;
        }
        if (v.t == J_MISSING)
            v = next_arg(&p);
        percent_value(&p, &b, v, &f);
    }
    bool all = tuple ? p.used == arg.u.l->n : p.used || p.mapping || arg.t == J_DICT || (arg.t == J_LIST && !tuple);
    if (!all)
        jx_type_error(c, "not all arguments converted during string formatting");
    return jb_done(&b);
}

/* ---- "...".format() ---- */

static spec parse_spec(jx *c, const jstr *s)
{
    spec f = {.width = 0, .prec = -1};
    size_t i = 0, n = 0;
    if (s->n) {
        uint32_t cp = js_cp(s, 0, &n);
        if (n < s->n && strchr("<>^=", s->s[n])) {
            f.fill = cp;
            f.align = s->s[n];
            i = n + 1;
        } else if (strchr("<>^=", s->s[0])) {
            f.align = s->s[i++];
        }
    }
    if (i < s->n && strchr("+- ", s->s[i]))
        f.sign = s->s[i++];
    if (i < s->n && s->s[i] == 'z')
        i++;
    if (i < s->n && s->s[i] == '#') {
        f.alt = true;
        i++;
    }
    if (i < s->n && s->s[i] == '0') {
        f.zero = true;
        i++;
    }
    while (i < s->n && s->s[i] >= '0' && s->s[i] <= '9' && f.width < 100000000)
        f.width = f.width * 10 + (s->s[i++] - '0');
    if (i < s->n && (s->s[i] == ',' || s->s[i] == '_'))
        f.group = s->s[i++];
    if (i < s->n && s->s[i] == '.') {
        size_t from = ++i;
        f.prec = 0;
        while (i < s->n && s->s[i] >= '0' && s->s[i] <= '9' && f.prec < 100000000)
            f.prec = f.prec * 10 + (s->s[i++] - '0');
        if (i == from)
            jx_type_error(c, "Format specifier missing precision");
    }
    if (i < s->n)
        f.conv = s->s[i++];
    if (i < s->n)
        jx_type_error(c, "Invalid format specifier");
    return f;
}

void jb_format_spec(jbuf *b, jval v, const jstr *text)
{
    jx *c = b->c;
    if (!text->n) {
        jb_val(b, v);
        return;
    }
    if (v.t != J_STR && !jv_is_num(v))
        jx_type_error(c, "unsupported format string passed to %s.__format__", jv_type(v));
    spec f = parse_spec(c, text);
    if (v.t == J_STR) {
        if ((f.conv && f.conv != 's') || f.sign || f.group || f.align == '=')
            jx_type_error(c, "this format is not allowed for 'str'");
        f.fill = f.fill ? f.fill : f.zero ? '0' : 0;
        put_str(b, v.u.s, &f);
        return;
    }
    if (v.t == J_BOOL && !f.conv) { /* bool falls back to str only without a type; with a spec it is an int */
        v = jval_int(v.u.b);
    }
    bool float_conv = f.conv && strchr("eEfFgG%n", f.conv), int_conv = f.conv && strchr("bdoxXc", f.conv);
    if (f.conv && !float_conv && !int_conv)
        jx_type_error(c, "Unknown format code '%c'", f.conv >= 32 && f.conv < 127 ? f.conv : '?');
    if (v.t == J_FLOAT || float_conv) {
        if (int_conv)
            jx_type_error(c, "Unknown format code '%c' for object of type 'float'", f.conv);
        if (f.conv == 'n' && v.t != J_FLOAT) {
            f.conv = 'd';
            put_int(b, v, &f);
            return;
        }
        put_float(b, jn_double(c, v), &f);
        return;
    }
    if (f.prec >= 0)
        jx_type_error(c, "Precision not allowed in integer format specifier");
    if (f.conv == 'c') {
        int64_t cp;
        jbuf t = {.c = c};
        if (!jn_to_i64(v, &cp) || cp < 0 || cp >= 0x110000)
            jx_type_error(c, "%%c arg not in range(0x110000)");
        jb_cp(&t, (uint32_t)cp, false);
        pad(b, jb_done(&t), 0, &f, f.align ? f.align : '<');
        return;
    }
    put_int(b, v, &f);
}

typedef struct braces {
    jx *c;
    const jargs *a;
    jval mapping; /* format_map; J_NONE else */
    int64_t next;
    int mode;     /* 0 unknown, 1 automatic, 2 manual numbering */
} braces;

static const jstr *expand(braces *p, const jstr *s, int depth);

static jval field_value(braces *p, const jstr *name)
{
    jx *c = p->c;
    size_t e = 0;
    while (e < name->n && name->s[e] != '.' && name->s[e] != '[')
        e++;
    jval v = {.t = J_MISSING};
    bool digits = e > 0;
    int64_t idx = 0;
    for (size_t i = 0; i < e; i++) {
        digits = digits && name->s[i] >= '0' && name->s[i] <= '9' && idx < 1000000;
        if (digits)
            idx = idx * 10 + (name->s[i] - '0');
    }
    if (e == 0 || digits) {
        if (p->mode && p->mode != (e ? 2 : 1))
            jx_type_error(c, "cannot switch between manual and automatic field numbering");
        p->mode = e ? 2 : 1;
        if (!e)
            idx = p->next++;
        if (p->mapping.t != J_NONE)
            jx_type_error(c, "Format string contains positional fields");
        if ((size_t)idx >= p->a->n_pos)
            jx_type_error(c, "Replacement index %lld out of range for positional args tuple", (long long)idx);
        v = p->a->pos[idx];
    } else {
        const jstr *key = js_sub(c, name, 0, e);
        for (size_t i = 0; i < p->a->n_kw; i++)
            if (js_eq(p->a->kw_name[i], key))
                v = p->a->kw[i];
        if (p->mapping.t == J_DICT) {
            const jval *found = jd_find(c, p->mapping.u.d, jv_str(key));
            if (found)
                v = *found;
        }
        if (v.t == J_MISSING)
            jx_type_error(c, "KeyError: '%.*s'", (int)(key->n > 100 ? 100 : key->n), key->s);
    }
    while (e < name->n) {
        size_t from = ++e;
        if (name->s[e - 1] == '.') {
            while (e < name->n && name->s[e] != '.' && name->s[e] != '[')
                e++;
            v = jv_getattr(c, v, js_sub(c, name, from, e));
            continue;
        }
        size_t close = js_find(name, e, "]", 1);
        if (close == SIZE_MAX)
            jx_type_error(c, "Missing ']' in format string");
        const jstr *key = js_sub(c, name, from, close);
        bool num = key->n > 0 && key->n < 18;
        for (size_t i = 0; i < key->n; i++)
            num = num && key->s[i] >= '0' && key->s[i] <= '9';
        v = jv_getitem(c, v, num ? jn_parse_int(c, key->s, key->n, 10) : jv_str(key));
        e = close + 1;
        if (e < name->n && name->s[e] != '.' && name->s[e] != '[')
            jx_type_error(c, "Only '.' or '[' may follow ']' in format field specifier");
    }
    return v;
}

/* One field, s[from, to) between its braces. */
static void field(braces *p, jbuf *b, const jstr *s, size_t from, size_t to, int depth)
{
    jx *c = p->c;
    size_t e = from, br = 0;
    while (e < to && (br || (s->s[e] != '!' && s->s[e] != ':'))) {
        br = s->s[e] == '[' ? 1 : s->s[e] == ']' ? 0 : br;
        e++;
    }
    jval v = field_value(p, js_sub(c, s, from, e));
    if (e < to && s->s[e] == '!') {
        char conv = e + 1 < to ? s->s[e + 1] : 0;
        if (!conv || !strchr("rsa", conv))
            jx_type_error(c, "Unknown conversion specifier");
        v = jv_str(conv == 's' ? jv_to_str(c, v) : jv_repr(c, v));
        e += 2;
        if (e < to && s->s[e] != ':')
            jx_type_error(c, "expected ':' after conversion specifier");
    }
    const jstr *spec = e < to ? expand(p, js_sub(c, s, e + 1, to), depth + 1) : js_lit(c, "");
    jb_format_spec(b, v, spec);
}

static const jstr *expand(braces *p, const jstr *s, int depth)
{
    jbuf b = {.c = p->c};
    if (depth > 1)
        jx_type_error(p->c, "Max string recursion exceeded");
    for (size_t i = 0; i < s->n;) {
        jx_step(p->c, 1);
        char ch = s->s[i];
        if (ch != '{' && ch != '}') {
            size_t e = i;
            while (e < s->n && s->s[e] != '{' && s->s[e] != '}')
                e++;
            jb_sub(&b, s, i, e);
            i = e;
            continue;
        }
        if (i + 1 < s->n && s->s[i + 1] == ch) {
            jb_sub(&b, s, i, i + 1);
            i += 2;
            continue;
        }
        if (ch == '}')
            jx_type_error(p->c, "Single '}' encountered in format string");
        size_t e = ++i, open = 1;
        while (e < s->n && open) {
            open += s->s[e] == '{';
            open -= s->s[e] == '}';
            e++;
        }
        if (open)
            jx_type_error(p->c, "expected '}' before end of string");
        field(p, &b, s, i, e - 1, depth);
        i = e;
    }
    return jb_done(&b);
}

const jstr *jstr_format_braces(jx *c, const jstr *fmt, const jargs *a, jval mapping)
{
    braces p = {.c = c, .a = a, .mapping = mapping};
    return expand(&p, fmt, 0);
}

/* Filters on single values and texts. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_impl.h"

static const jstr *text(jx *c, const jcall *k) { return jv_to_str(c, k->self); }
static bool given(const jcall *k, int i) { return k->p[i].t != J_MISSING; }
static bool flag(jx *c, const jcall *k, int i, bool absent) { return given(k, i) ? jv_true(c, k->p[i]) : absent; }

static int64_t integer(jx *c, const jcall *k, int i, int64_t absent)
{
    int64_t v;
    if (!given(k, i))
        return absent;
    if (k->p[i].t == J_UNDEF)
        jx_undefined(c, k->p[i]);
    if (!jn_to_i64(k->p[i], &v))
        jx_type_error(c, "%s: '%s' object cannot be interpreted as an integer", k->name, jv_type(k->p[i]));
    return v;
}

static const jstr *must_str(jx *c, const jcall *k)
{
    if (k->self.t == J_UNDEF)
        jx_undefined(c, k->self);
    if (k->self.t != J_STR)
        jx_type_error(c, "%s: expected str, not %s", k->name, jv_type(k->self));
    return k->self.u.s;
}

static jval f_upper(jx *c, jcall *k) { return jv_str(ju_convert(c, text(c, k), JU_UPPER)); }
static jval f_lower(jx *c, jcall *k) { return jv_str(ju_convert(c, text(c, k), JU_LOWER)); }
static jval f_capitalize(jx *c, jcall *k) { return jv_str(ju_convert(c, text(c, k), JU_CAPITALIZE)); }
static jval f_string(jx *c, jcall *k) { return jv_str(text(c, k)); }

static jval f_title(jx *c, jcall *k)
{
    const jstr *s = text(c, k);
    jbuf b = {.c = c, .markup = s->markup};
    bool start = true;
    for (size_t i = 0, n; i < s->n;) {
        uint32_t cp = js_cp(s, i, &n);
        bool sep = cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' || ju_space(cp);
        if (sep || start) {
            jb_str(&b, ju_convert(c, js_sub(c, s, i, i + n), JU_UPPER));
            start = sep;
            i += n;
            continue;
        }
        size_t e = i; /* the rest of the word as one piece: a final sigma needs its neighbours */
        while (e < s->n) {
            cp = js_cp(s, e, &n);
            if (cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' || ju_space(cp))
                break;
            e += n;
        }
        jb_str(&b, ju_convert(c, js_sub(c, s, i, e), JU_LOWER));
        i = e;
    }
    return jv_str(jb_done(&b));
}

static jval f_trim(jx *c, jcall *k)
{
    const jstr *chars = NULL;
    if (given(k, 0) && k->p[0].t != J_NONE) {
        if (k->p[0].t != J_STR)
            jx_type_error(c, "strip arg must be None or str");
        chars = k->p[0].u.s;
    }
    return jv_str(ju_strip(c, text(c, k), chars, true, true));
}

static jval f_replace(jx *c, jcall *k)
{
    int64_t max = given(k, 2) && k->p[2].t != J_NONE ? integer(c, k, 2, -1) : -1;
    return jv_str(js_replace(c, text(c, k), jv_to_str(c, k->p[0]), jv_to_str(c, k->p[1]), max));
}

static jval f_center(jx *c, jcall *k)
{
    const jstr *s = text(c, k);
    int64_t w = integer(c, k, 0, 80), missing = w - (int64_t)s->n_cp;
    return jv_str(js_pad(c, s, w, missing > 0 ? js_center_left(missing, w) : 0, js_lit(c, " ")));
}

static jval f_escape(jx *c, jcall *k) { return jv_str(js_escaped(c, text(c, k))); }

static jval marked(jx *c, const jstr *s, bool markup)
{
    jstr *m = js_sub(c, s, 0, s->n);
    m->markup = markup;
    return jv_str(m);
}
static jval f_safe(jx *c, jcall *k) { return marked(c, text(c, k), true); }
static jval f_forceescape(jx *c, jcall *k) { return jv_str(js_escaped(c, marked(c, text(c, k), false).u.s)); }

static jval f_striptags(jx *c, jcall *k)
{
    const jstr *s = text(c, k);
    jbuf b = {.c = c};
    size_t i = 0, lt, end;
    bool space = false;
    static const struct { const char *ent; const char *to; } ents[] = {
        {"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&#39;", "'"}, {"&#34;", "\""}, {"&quot;", "\""}};
    jbuf raw = {.c = c};
    jx_step(c, s->n / 8);
    while ((lt = js_find(s, i, "<", 1)) != SIZE_MAX) { /* comments first, then tags */
        bool comment = lt + 4 <= s->n && !memcmp(s->s + lt, "<!--", 4);
        end = js_find(s, lt, comment ? "-->" : ">", comment ? 3 : 1);
        if (end == SIZE_MAX)
            break;
        jb_sub(&raw, s, i, lt);
        i = end + (comment ? 3 : 1);
    }
    jb_sub(&raw, s, i, s->n);
    const jstr *r = ju_strip(c, jb_done(&raw), NULL, true, true);
    for (size_t j = 0, n; j < r->n; j += n) {
        uint32_t cp = js_cp(r, j, &n);
        if (ju_space(cp)) {
            if (!space)
                jb_lit_t(&b, " ", js_taint_at(r, j));
            space = true;
            continue;
        }
        space = false;
        size_t e = 0;
        while (e < 6 && !(r->n - j >= strlen(ents[e].ent) && !memcmp(r->s + j, ents[e].ent, strlen(ents[e].ent))))
            e++;
        if (e < 6) {
            jb_lit_t(&b, ents[e].to, js_taint_at(r, j));
            n = strlen(ents[e].ent);
        } else {
            jb_sub(&b, r, j, j + n);
        }
    }
    return jv_str(jb_done(&b));
}

static jval f_indent(jx *c, jcall *k)
{
    const jstr *s = must_str(c, k), *pad;
    bool first = flag(c, k, 1, false), blank = flag(c, k, 2, false);
    jbuf p = {.c = c}, b = {.c = c, .markup = s->markup};
    if (given(k, 0) && k->p[0].t == J_STR)
        pad = k->p[0].u.s;
    else {
        for (int64_t i = integer(c, k, 0, 4); i > 0; i--)
            jb_lit(&p, " ");
        pad = jb_done(&p);
    }
    jb_str(&b, s);
    jb_lit(&b, "\n");
    jlist *l = js_lines(c, jb_done(&b), false);
    b = (jbuf){.c = c, .markup = s->markup};
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            jb_lit(&b, "\n");
        if (i ? blank || l->v[i].u.s->n : first)
            jb_str(&b, pad);
        jb_str(&b, l->v[i].u.s);
    }
    return jv_str(jb_done(&b));
}

static jval f_truncate(jx *c, jcall *k)
{
    const jstr *s, *end = given(k, 2) ? jv_to_str(c, k->p[2]) : js_lit(c, "...");
    int64_t len = integer(c, k, 0, 255), leeway = given(k, 3) && k->p[3].t != J_NONE ? integer(c, k, 3, 5) : 5;
    if (len < (int64_t)end->n_cp || leeway < 0)
        jx_type_error(c, "truncate: expected length >= %zu and leeway >= 0", end->n_cp);
    int64_t n = (int64_t)jv_len(c, k->self); /* anything short enough passes as it is, strings or not */
    if (n <= len || n - len <= leeway)
        return k->self;
    s = must_str(c, k);
    size_t cut = js_offset(s, (size_t)len - end->n_cp);
    if (!flag(c, k, 1, false))
        for (size_t i = cut; i-- > 0;)
            if (s->s[i] == ' ') {
                cut = i;
                break;
            }
    jbuf b = {.c = c};
    jb_sub(&b, s, 0, cut);
    jb_str(&b, end);
    return jv_str(jb_done(&b));
}

static jval f_wordcount(jx *c, jcall *k)
{
    const jstr *s = text(c, k);
    int64_t words = 0;
    bool in = false;
    jx_step(c, s->n / 8);
    for (size_t i = 0, n; i < s->n; i += n) {
        bool w = ju_word(js_cp(s, i, &n));
        words += w && !in;
        in = w;
    }
    return jval_int(words);
}

static void quote(jbuf *b, jval v, bool query)
{
    static const char hex[] = "0123456789ABCDEF";
    const jstr *s = jv_to_str(b->c, v);
    for (size_t i = 0; i < s->n; i++) {
        unsigned char ch = (unsigned char)s->s[i];
        bool t = js_taint_at(s, i);
        if ((ch < 0x80 && isalnum(ch)) || (ch && strchr("_.-~", ch)) || (ch == '/' && !query)) {
            jb_add(b, s->s + i, 1, t);
        } else if (ch == ' ' && query) {
            jb_lit_t(b, "+", t);
        } else {
            char e[3] = {'%', hex[ch >> 4], hex[ch & 15]};
            jb_add(b, e, 3, t);
        }
    }
}

static jval f_urlencode(jx *c, jcall *k)
{
    jbuf b = {.c = c};
    jlist *l = k->self.t == J_STR ? NULL : jv_iter_or_null(c, k->self);
    if (!l) {
        quote(&b, k->self, false);
        return jv_str(jb_done(&b));
    }
    for (size_t i = 0; i < l->n; i++) {
        jval key, v;
        if (k->self.t == J_DICT) {
            key = k->self.u.d->k[i];
            v = k->self.u.d->v[i];
        } else {
            jlist *pair = jv_iter(c, l->v[i]);
            if (pair->n != 2)
                jx_type_error(c, "urlencode: expected pairs");
            key = pair->v[0];
            v = pair->v[1];
        }
        if (i)
            jb_lit(&b, "&");
        quote(&b, key, true);
        jb_lit(&b, "=");
        quote(&b, v, true);
    }
    return jv_str(jb_done(&b));
}

static jval f_xmlattr(jx *c, jcall *k)
{
    if (k->self.t != J_DICT)
        jx_type_error(c, "xmlattr: expected a mapping, not %s", jv_type(k->self));
    jbuf b = {.c = c};
    const jdict *d = k->self.u.d;
    for (size_t i = 0; i < d->n; i++) {
        if (d->v[i].t == J_NONE || d->v[i].t == J_UNDEF)
            continue;
        const jstr *key = jv_to_str(c, d->k[i]);
        for (size_t j = 0; j < key->n; j++)
            if (strchr(" \t\n\r\f\v/>=", key->s[j]))
                jx_type_error(c, "Invalid character in attribute name");
        if (b.n || flag(c, k, 0, true))
            jb_lit(&b, " ");
        jb_str(&b, js_escaped(c, key));
        jb_lit(&b, "=\"");
        jb_str(&b, js_escaped(c, jv_to_str(c, d->v[i])));
        jb_lit(&b, "\"");
    }
    return jv_str(jb_done(&b));
}

/* ---- numbers ---- */

static jval f_abs(jx *c, jcall *k)
{
    if (k->self.t == J_UNDEF)
        jx_undefined(c, k->self);
    if (!jv_is_num(k->self))
        jx_type_error(c, "bad operand type for abs(): '%s'", jv_type(k->self));
    return jn_abs(c, k->self);
}

/* Python's int(text, base). */
static bool parse_int(jx *c, const jstr *s, int64_t base, jval *out)
{
    s = ju_strip(c, s, NULL, true, true);
    size_t i = 0, n = 0;
    bool neg = s->n && s->s[0] == '-', prefix = false;
    if (s->n && (s->s[0] == '-' || s->s[0] == '+'))
        i++;
    if (i + 1 < s->n && s->s[i] == '0') {
        char ch = (char)(s->s[i + 1] | 32);
        int64_t b = ch == 'x' ? 16 : ch == 'o' ? 8 : ch == 'b' ? 2 : 0;
        if (b && (base == b || base == 0)) {
            base = b;
            i += 2;
            prefix = true;
        }
    }
    if (base == 0)
        base = 10;
    if (base < 2 || base > 36 || i >= s->n)
        return false;
    char *t = jx_alloc(c, s->n + 1);
    for (bool under = !prefix; i < s->n; i++) {
        char ch = s->s[i];
        if (ch == '_' && !under) {
            under = true;
            continue;
        }
        int d = ch >= '0' && ch <= '9' ? ch - '0' : (ch | 32) >= 'a' && (ch | 32) <= 'z' ? (ch | 32) - 'a' + 10 : 99;
        if (d >= base)
            return false;
        t[n++] = ch;
        under = false;
        if (i + 1 == s->n)
            break;
    }
    if (!n || s->s[s->n - 1] == '_')
        return false;
    *out = jn_parse_int(c, t, n, (unsigned)base);
    if (neg)
        *out = jn_neg(c, *out);
    return true;
}

/* Python's float(text). */
static bool parse_float(jx *c, const jstr *s, double *out)
{
    static const char *const words[] = {"inf", "infinity", "nan"};
    s = ju_strip(c, s, NULL, true, true);
    char *t = jx_alloc(c, s->n + 1);
    size_t n = 0, sign = s->n && (s->s[0] == '+' || s->s[0] == '-');
    for (size_t i = 0; i < 3; i++)
        if (s->n - sign == strlen(words[i]) && !strncasecmp(s->s + sign, words[i], s->n - sign)) {
            *out = i == 2 ? NAN : s->s[0] == '-' ? -INFINITY : INFINITY;
            return true;
        }
    for (size_t i = 0; i < s->n; i++) {
        if (s->s[i] == '_' && i && i + 1 < s->n && isdigit((unsigned char)s->s[i - 1]) &&
            isdigit((unsigned char)s->s[i + 1]))
            continue;
        if (!isdigit((unsigned char)s->s[i]) && !strchr("+-.eE", s->s[i]))
            return false;
        t[n++] = s->s[i];
    }
    char *end;
    *out = strtod(t, &end);
    return n && *end == 0 && end != t;
}

static jval f_int(jx *c, jcall *k)
{
    jval v, absent = given(k, 0) ? k->p[0] : jval_int(0);
    double f;
    switch (k->self.t) {
    case J_UNDEF: jx_undefined(c, k->self);
    case J_BOOL: return jval_int(k->self.u.b);
    case J_INT: case J_BIG: return k->self;
    case J_FLOAT: return isnan(k->self.u.f) || isinf(k->self.u.f) ? absent : jn_from_double(c, k->self.u.f);
    case J_STR:
        if (parse_int(c, k->self.u.s, integer(c, k, 1, 10), &v))
            return v;
        if (parse_float(c, k->self.u.s, &f) && !isnan(f) && !isinf(f))
            return jn_from_double(c, f);
        return absent;
    default: return absent;
    }
}

static jval f_float(jx *c, jcall *k)
{
    double f;
    if (k->self.t == J_UNDEF)
        jx_undefined(c, k->self);
    if (jv_is_num(k->self))
        return jval_float(jn_double(c, k->self));
    if (k->self.t == J_STR && parse_float(c, k->self.u.s, &f))
        return jval_float(f);
    return given(k, 0) ? k->p[0] : jval_float(0);
}

static jval f_round(jx *c, jcall *k)
{
    int64_t prec = integer(c, k, 0, 0);
    const jstr *how = given(k, 1) ? jv_to_str(c, k->p[1]) : js_lit(c, "common");
    if (k->self.t == J_UNDEF)
        jx_undefined(c, k->self);
    if (!jv_is_num(k->self))
        jx_type_error(c, "type %s doesn't define __round__ method", jv_type(k->self));
    if (js_is(how, "common")) {
        if (k->self.t == J_FLOAT)
            return jn_round(c, k->self.u.f, prec);
        if (prec >= 0)
            return k->self.t == J_BOOL ? jval_int(k->self.u.b) : k->self;
        if (prec < -4000)
            return jval_int(0);
        jval p = jn_binary(c, T_POW, jval_int(10), jval_int(-prec)), q = jn_binary(c, T_FLOORDIV, k->self, p);
        jval r = jn_binary(c, T_SUB, k->self, jn_binary(c, T_MUL, q, p));
        int cmp = jn_cmp(c, jn_binary(c, T_MUL, r, jval_int(2)), p);
        if (cmp > 0 || (cmp == 0 && !jn_is_zero(jn_binary(c, T_MOD, q, jval_int(2)))))
            q = jn_binary(c, T_ADD, q, jval_int(1));
        return jn_binary(c, T_MUL, q, p);
    }
    bool ceiling = js_is(how, "ceil");
    if (!ceiling && !js_is(how, "floor"))
        jx_type_error(c, "method must be common, ceil or floor");
    jval p = jn_binary(c, T_POW, jval_int(10), jval_int(prec)), v = jn_binary(c, T_MUL, k->self, p);
    if (v.t == J_FLOAT)
        v = jn_from_double(c, ceiling ? ceil(v.u.f) : floor(v.u.f));
    return jn_binary(c, T_DIV, v, p);
}

static jval f_filesizeformat(jx *c, jcall *k)
{
    static const char *const names[2][8] = {{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"},
                                            {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}};
    double v, base = flag(c, k, 0, false) ? 1024 : 1000;
    v = jv_is_num(k->self) ? jn_double(c, k->self) : 0;
    if (!jv_is_num(k->self) && (k->self.t != J_STR || !parse_float(c, k->self.u.s, &v)))
        jx_type_error(c, "could not convert %s to float", jv_type(k->self));
    jbuf b = {.c = c};
    if (v == 1 || v < base) {
        jb_int(&b, jn_from_double(c, v), 10);
        jb_lit(&b, v == 1 ? " Byte" : " Bytes");
        return jv_str(jb_done(&b));
    }
    double unit = base * base;
    int i = 0;
    for (; i < 7 && v >= unit; i++)
        unit *= base;
    jb_fixed(&b, base * v / unit, 'f', 1, false, false);
    jb_lit(&b, " ");
    jb_lit(&b, names[base == 1024][i]);
    return jv_str(jb_done(&b));
}

static jval f_default(jx *c, jcall *k)
{
    if (k->self.t == J_UNDEF || (flag(c, k, 1, false) && !jv_true(c, k->self)))
        return given(k, 0) ? k->p[0] : jv_lit(c, "");
    return k->self;
}

static jval f_format(jx *c, jcall *k)
{
    jlist *l = jl_new(c, JL_TUPLE, k->args->n_pos);
    if (k->args->n_pos && k->args->n_kw)
        jx_type_error(c, "can't handle positional and keyword arguments at the same time");
    if (k->args->n_kw) {
        jdict *d = jd_new(c);
        for (size_t i = 0; i < k->args->n_kw; i++)
            jd_set(c, d, jv_str(k->args->kw_name[i]), k->args->kw[i]);
        return jv_str(jstr_format_percent(c, text(c, k), jv_dict(d)));
    }
    for (size_t i = 0; i < k->args->n_pos; i++)
        jl_push(c, l, k->args->pos[i]);
    return jv_str(jstr_format_percent(c, text(c, k), jv_list(l)));
}

static jval f_tojson(jx *c, jcall *k)
{
    bool has_indent = given(k, 1) && k->p[1].t != J_NONE;
    jjson_opts o = {.ascii = flag(c, k, 0, false), .sort_keys = flag(c, k, 3, false)};
    o.item_sep = js_lit(c, has_indent ? "," : ", ");
    o.key_sep = js_lit(c, ": ");
    if (has_indent && k->p[1].t == J_STR) {
        o.indent = k->p[1].u.s;
    } else if (has_indent) {
        jbuf b = {.c = c};
        for (int64_t i = integer(c, k, 1, 0); i > 0; i--)
            jb_lit(&b, " ");
        o.indent = jb_done(&b);
    }
    if (given(k, 2) && k->p[2].t != J_NONE) {
        jlist *l = jv_iter(c, k->p[2]);
        if (l->n != 2 || l->v[0].t != J_STR || l->v[1].t != J_STR)
            jx_type_error(c, "tojson: separators must be two strings");
        o.item_sep = l->v[0].u.s;
        o.key_sep = l->v[1].u.s;
    }
    jbuf b = {.c = c};
    jb_json(&b, k->self, &o);
    return jv_str(jb_done(&b));
}

static jval unsupported(jx *c, jcall *k) { jx_fail(c, IMP_E_UNSUPPORTED, "the filter '%s' is not supported", k->name); }

const jrow jinja_filters[] = {
    {"abs", f_abs, 0, 0, {0}}, {"capitalize", f_capitalize, 0, 0, {0}}, {"center", f_center, 0, 1, {"width"}},
    {"d", f_default, 0, 2, {"default_value", "boolean"}}, {"default", f_default, 0, 2, {"default_value", "boolean"}},
    {"e", f_escape, 0, 0, {0}}, {"escape", f_escape, 0, 0, {0}},
    {"filesizeformat", f_filesizeformat, 0, 1, {"binary"}}, {"float", f_float, 0, 1, {"default"}},
    {"forceescape", f_forceescape, 0, 0, {0}}, {"format", f_format, 0, -1, {0}},
    {"indent", f_indent, 0, 3, {"width", "first", "blank"}}, {"int", f_int, 0, 2, {"default", "base"}},
    {"lower", f_lower, 0, 0, {0}}, {"replace", f_replace, 2, 3, {"old", "new", "count"}},
    {"round", f_round, 0, 2, {"precision", "method"}}, {"safe", f_safe, 0, 0, {0}}, {"string", f_string, 0, 0, {0}},
    {"striptags", f_striptags, 0, 0, {0}}, {"title", f_title, 0, 0, {0}},
    {"tojson", f_tojson, 0, 4, {"ensure_ascii", "indent", "separators", "sort_keys"}},
    {"trim", f_trim, 0, 1, {"chars"}}, {"truncate", f_truncate, 0, 4, {"length", "killwords", "end", "leeway"}},
    {"upper", f_upper, 0, 0, {0}}, {"urlencode", f_urlencode, 0, 0, {0}}, {"wordcount", f_wordcount, 0, 0, {0}},
    {"xmlattr", f_xmlattr, 0, 1, {"autospace"}}, {"pprint", unsupported, 0, -1, {0}},
    {"random", unsupported, 0, -1, {0}}, {"urlize", unsupported, 0, -1, {0}}, {"wordwrap", unsupported, 0, -1, {0}},
    {0}};

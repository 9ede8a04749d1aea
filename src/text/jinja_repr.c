/* Values as text: str, repr, and JSON as Python's json.dumps writes it. */
#include <math.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_impl.h"

static void repr_str(jbuf *b, const jstr *s)
{
    bool single = s->n && memchr(s->s, '\'', s->n), dbl = s->n && memchr(s->s, '"', s->n);
    char q = single && !dbl ? '"' : '\'';
    static const char hex[] = "0123456789abcdef";
    bool edge = s->n && js_taint_at(s, 0);
    jb_add(b, &q, 1, edge);
    for (size_t i = 0, k; i < s->n; i += k) {
        uint32_t cp = js_cp(s, i, &k);
        bool t = js_taint_at(s, i);
        if (cp == (uint32_t)q || cp == '\\') {
            jb_lit_t(b, "\\", t);
            jb_sub(b, s, i, i + k);
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            jb_lit_t(b, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t", t);
        } else if (ju_printable(cp)) {
            jb_sub(b, s, i, i + k);
        } else {
            char e[10] = "\\x";
            int n = cp < 0x100 ? 2 : cp < 0x10000 ? 4 : 8;
            e[1] = n == 2 ? 'x' : n == 4 ? 'u' : 'U';
            for (int j = 0; j < n; j++)
                e[2 + j] = hex[cp >> (4 * (n - 1 - j)) & 15];
            jb_add(b, e, (size_t)n + 2, t);
        }
    }
    jb_add(b, &q, 1, edge);
}

static void repr_items(jbuf *b, const jval *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (i)
            jb_lit(b, ", ");
        jb_repr(b, v[i]);
    }
}

static void repr_list(jbuf *b, const jlist *l)
{
    static const char *const open[] = {"[", "(", "", "dict_keys([", "dict_values([", "dict_items([",
        "<generator object"};
    static const char *const close[] = {"]", ")", "", "])", "])", "])", ">"};
    if (l->kind == JL_RANGE) {
        const jval *def = l->v + l->n; /* start, stop, step; a slice of a range has none, and is shown as its items */
        jb_lit(b, "range(");
        if (l->cap != l->n + 3) {
            repr_items(b, l->v, l->n);
        } else {
            repr_items(b, def, def[2].u.i == 1 ? 2 : 3);
        }
        jb_lit(b, ")");
        return;
    }
    jb_lit(b, open[l->kind]);
    if (l->kind != JL_GEN)
        repr_items(b, l->v, l->n);
    jb_lit(b, l->kind == JL_TUPLE && l->n == 1 ? ",)" : close[l->kind]);
}

static void repr_dict(jbuf *b, const jdict *d)
{
    jb_lit(b, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i)
            jb_lit(b, ", ");
        jb_repr(b, d->k[i]);
        jb_lit(b, ": ");
        jb_repr(b, d->v[i]);
    }
    jb_lit(b, "}");
}

void jb_repr(jbuf *b, jval v)
{
    jx_enter(b->c);
    jx_step(b->c, 1);
    switch (v.t) {
    case J_UNDEF: jb_lit(b, "Undefined"); break;
    case J_NONE: jb_lit(b, "None"); break;
    case J_BOOL: jb_lit(b, v.u.b ? "True" : "False"); break;
    case J_INT: case J_BIG: jb_int(b, v, 10); break;
    case J_FLOAT: jb_float(b, v.u.f, false); break;
    case J_STR:
        if (v.u.s->markup)
            jb_lit(b, "Markup(");
        repr_str(b, v.u.s);
        if (v.u.s->markup)
            jb_lit(b, ")");
        break;
    case J_LIST: repr_list(b, v.u.l); break;
    case J_DICT: repr_dict(b, v.u.d); break;
    case J_NS:
        jb_lit(b, "<Namespace ");
        repr_dict(b, v.u.d);
        jb_lit(b, ">");
        break;
    case J_MACRO: {
        const jmacro *m = v.u.p;
        jb_lit(b, "<Macro ");
        if (m->name)
            repr_str(b, m->name);
        else
            jb_lit(b, "anonymous");
        jb_lit(b, ">");
        break;
    }
    case J_LOOP: {
        const jloop *l = v.u.p;
        jb_lit(b, "<LoopContext ");
        jb_int(b, jval_int((int64_t)l->i + 1), 10);
        jb_lit(b, "/");
        jb_int(b, jval_int((int64_t)l->items->n), 10);
        jb_lit(b, ">");
        break;
    }
    default: /* no addresses in the output */
        jb_lit(b, "<");
        jb_lit(b, jv_type(v));
        jb_lit(b, " object>");
    }
    jx_leave(b->c);
}

void jb_val(jbuf *b, jval v)
{
    if (v.t == J_STR)
        jb_str(b, v.u.s);
    else if (v.t != J_UNDEF)
        jb_repr(b, v);
}

const jstr *jv_to_str(jx *c, jval v)
{
    if (v.t == J_STR)
        return v.u.s;
    jbuf b = {.c = c};
    jb_val(&b, v);
    return jb_done(&b);
}

const jstr *jv_repr(jx *c, jval v)
{
    jbuf b = {.c = c};
    jb_repr(&b, v);
    return jb_done(&b);
}

/* ---- JSON ---- */

static void json_u(jbuf *b, uint32_t u, bool t)
{
    static const char hex[] = "0123456789abcdef";
    char e[6] = {'\\', 'u', hex[u >> 12 & 15], hex[u >> 8 & 15], hex[u >> 4 & 15], hex[u & 15]};
    jb_add(b, e, 6, t);
}

static void json_str(jbuf *b, const jstr *s, const jjson_opts *o)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    bool edge = s->n && js_taint_at(s, 0);
    jb_lit_t(b, "\"", edge);
    for (size_t i = 0, run = 0; i <= s->n;) {
        unsigned char ch = i < s->n ? (unsigned char)s->s[i] : 0;
        bool plain = i < s->n && ch >= 0x20 && ch != '"' && ch != '\\' && (!o->ascii || ch < 0x7F);
        if (plain) {
            i++;
            continue;
        }
        jb_sub(b, s, run, i);
        if (i == s->n)
            break;
        bool t = js_taint_at(s, i);
        const char *p = memchr(from, ch, sizeof from - 1);
        if (ch >= 0x80) {
            size_t k;
            uint32_t cp = js_cp(s, i, &k);
            if (cp >= 0x10000) {
                json_u(b, 0xD800 + ((cp - 0x10000) >> 10), t);
                json_u(b, 0xDC00 + ((cp - 0x10000) & 0x3FF), t);
            } else {
                json_u(b, cp, t);
            }
            i += k;
        } else {
            if (p) {
                char e[2] = {'\\', to[p - from]};
                jb_add(b, e, 2, t);
            } else {
                json_u(b, ch, t);
            }
            i++;
        }
        run = i;
    }
    jb_lit_t(b, "\"", edge);
}

static void newline(jbuf *b, const jjson_opts *o, unsigned level)
{
    if (!o->indent)
        return;
    jb_lit(b, "\n");
    for (unsigned i = 0; i < level; i++)
        jb_str(b, o->indent);
}

static void json_number(jbuf *b, jval v)
{
    if (v.t == J_FLOAT && (isnan(v.u.f) || isinf(v.u.f)))
        jb_lit(b, isnan(v.u.f) ? "NaN" : v.u.f < 0 ? "-Infinity" : "Infinity");
    else if (v.t == J_FLOAT)
        jb_float(b, v.u.f, false);
    else
        jb_int(b, v, 10);
}

static void json_any(jbuf *b, jval v, const jjson_opts *o, unsigned level);

/* Keys become strings: True is "true", None is "null", numbers are written. */
static void json_key(jbuf *b, jval k, const jjson_opts *o)
{
    if (k.t == J_STR) {
        json_str(b, k.u.s, o);
        return;
    }
    if (k.t != J_NONE && !jv_is_num(k))
        jx_type_error(b->c, "keys must be str, int, float, bool or None, not %s", jv_type(k));
    jb_lit(b, "\"");
    json_any(b, k, o, 0);
    jb_lit(b, "\"");
}

/* Order of keys for sort_keys: a merge sort, so that equal keys keep their places and the time is bounded. */
static void sort_order(jx *c, const jdict *d, size_t *ord, size_t *tmp, size_t n)
{
    if (n < 2)
        return;
    size_t h = n / 2, i = 0, j = h, k = 0;
    sort_order(c, d, ord, tmp, h);
    sort_order(c, d, ord + h, tmp, n - h);
    jx_step(c, n);
    while (i < h || j < n)
        tmp[k++] = j == n || (i < h && jv_cmp(c, d->k[ord[j]], d->k[ord[i]], "<") >= 0) ? ord[i++] : ord[j++];
    memcpy(ord, tmp, n * sizeof *ord);
}

static void json_dict(jbuf *b, const jdict *d, const jjson_opts *o, unsigned level)
{
    if (!d->n) {
        jb_lit(b, "{}");
        return;
    }
    size_t *ord = NULL;
    if (o->sort_keys) {
        ord = jx_array(b->c, d->n * 2, sizeof *ord);
        for (size_t i = 0; i < d->n; i++)
            ord[i] = i;
        sort_order(b->c, d, ord, ord + d->n, d->n);
    }
    jb_lit(b, "{");
    for (size_t i = 0; i < d->n; i++) {
        size_t e = ord ? ord[i] : i;
        if (i)
            jb_str(b, o->item_sep);
        newline(b, o, level + 1);
        json_key(b, d->k[e], o);
        jb_str(b, o->key_sep);
        json_any(b, d->v[e], o, level + 1);
    }
    newline(b, o, level);
    jb_lit(b, "}");
}

static void json_any(jbuf *b, jval v, const jjson_opts *o, unsigned level)
{
    jx_enter(b->c);
    jx_step(b->c, 1);
    switch (v.t) {
    case J_NONE: jb_lit(b, "null"); break;
    case J_BOOL: jb_lit(b, v.u.b ? "true" : "false"); break;
    case J_INT: case J_BIG: case J_FLOAT: json_number(b, v); break;
    case J_STR: json_str(b, v.u.s, o); break;
    case J_DICT: json_dict(b, v.u.d, o, level); break;
    case J_LIST:
        if (v.u.l->kind <= JL_TUPLE) {
            const jlist *l = v.u.l;
            jb_lit(b, "[");
            for (size_t i = 0; i < l->n; i++) {
                if (i)
                    jb_str(b, o->item_sep);
                newline(b, o, level + 1);
                json_any(b, l->v[i], o, level + 1);
            }
            if (l->n)
                newline(b, o, level);
            jb_lit(b, "]");
            break;
        }
        /* fall through */
    default: jx_type_error(b->c, "Object of type %s is not JSON serializable", jv_type(v));
    }
    jx_leave(b->c);
}

void jb_json(jbuf *b, jval v, const jjson_opts *o) { json_any(b, v, o, 0); }

/* Methods of str that cut, join and search; see jinja_methods2.c for the rest. */
#include <string.h>

#include "text/jinja_impl.h"

static const jstr *self(const jcall *k) { return k->self.u.s; }

static const jstr *str_arg(jx *c, const jcall *k, int i)
{
    if (k->p[i].t == J_UNDEF)
        jx_undefined(c, k->p[i]);
    if (k->p[i].t != J_STR)
        jx_type_error(c, "%s() argument %d must be str, not %s", k->name, i + 1, jv_type(k->p[i]));
    return k->p[i].u.s;
}

static int64_t int_arg(jx *c, const jcall *k, int i, int64_t absent)
{
    int64_t v;
    if (k->p[i].t == J_MISSING)
        return absent;
    if (k->p[i].t == J_UNDEF)
        jx_undefined(c, k->p[i]);
    if (!jn_to_i64(k->p[i], &v))
        jx_type_error(c, "'%s' object cannot be interpreted as an integer", jv_type(k->p[i]));
    return v;
}

/* Optional [start, end) arguments p[i], p[i + 1] as byte offsets; false when start lies past the end of the string. */
static bool window(jx *c, const jcall *k, int i, size_t *from, size_t *to)
{
    const jstr *s = self(k);
    int64_t n = (int64_t)s->n_cp, b[2] = {0, n};
    for (int j = 0; j < 2; j++) {
        if (k->p[i + j].t == J_MISSING || k->p[i + j].t == J_NONE)
            continue;
        int64_t v = int_arg(c, k, i + j, 0);
        b[j] = v < 0 ? (v + n < 0 ? 0 : v + n) : v;
    }
    if (b[0] > n || b[0] > (b[1] > n ? n : b[1]))
        return false;
    *from = js_offset(s, (size_t)b[0]);
    *to = js_offset(s, (size_t)(b[1] > n ? n : b[1]));
    jx_step(c, js_ascii(s) ? 0 : s->n / 64);
    return true;
}

static size_t cp_index(const jstr *s, size_t off)
{
    if (js_ascii(s))
        return off;
    size_t k = 0;
    for (size_t i = 0; i < off; i++)
        k += ((unsigned char)s->s[i] & 0xC0) != 0x80;
    return k;
}

static size_t search(jx *c, const jcall *k, bool last)
{
    const jstr *s = self(k), *pat = str_arg(c, k, 0);
    size_t from, to, found = SIZE_MAX;
    if (!window(c, k, 1, &from, &to))
        return SIZE_MAX;
    jx_step(c, (to - from) / 64);
    jstr w = {.s = s->s, .n = to};
    if (!last)
        return js_find(&w, from, pat->s, pat->n);
    if (pat->n > to - from)
        return SIZE_MAX;
    for (size_t i = to - pat->n + 1; i-- > from;) {
        if (!pat->n || !memcmp(s->s + i, pat->s, pat->n)) {
            found = i;
            break;
        }
        if ((to - i) % 64 == 0)
            jx_step(c, 1);
    }
    return found;
}

static jval found_at(jx *c, const jcall *k, size_t off, bool must)
{
    if (off == SIZE_MAX && must)
        jx_type_error(c, "substring not found");
    return jval_int(off == SIZE_MAX ? -1 : (int64_t)cp_index(self(k), off));
}
static jval m_find(jx *c, jcall *k) { return found_at(c, k, search(c, k, false), false); }
static jval m_rfind(jx *c, jcall *k) { return found_at(c, k, search(c, k, true), false); }
static jval m_index(jx *c, jcall *k) { return found_at(c, k, search(c, k, false), true); }
static jval m_rindex(jx *c, jcall *k) { return found_at(c, k, search(c, k, true), true); }

static jval m_count(jx *c, jcall *k)
{
    const jstr *s = self(k), *pat = str_arg(c, k, 0);
    size_t from, to, n = 0;
    if (!window(c, k, 1, &from, &to))
        return jval_int(0);
    jx_step(c, (to - from) / 16);
    jstr w = {.s = s->s, .n = to};
    if (!pat->n)
        return jval_int((int64_t)(cp_index(s, to) - cp_index(s, from)) + 1);
    for (size_t i; (i = js_find(&w, from, pat->s, pat->n)) != SIZE_MAX; from = i + pat->n)
        n++;
    return jval_int((int64_t)n);
}

static bool has_affix(const jstr *s, size_t from, size_t to, const jstr *a, bool end)
{
    return a->n <= to - from && !memcmp(s->s + (end ? to - a->n : from), a->s, a->n);
}

static jval affix(jx *c, jcall *k, bool end)
{
    const jstr *s = self(k);
    size_t from = 0, to = 0;
    bool in = window(c, k, 1, &from, &to);
    if (k->p[0].t == J_LIST && k->p[0].u.l->kind == JL_TUPLE) {
        const jlist *l = k->p[0].u.l;
        for (size_t i = 0; i < l->n; i++) {
            if (l->v[i].t != J_STR)
                jx_type_error(c, "tuple for %s must only contain str, not %s", k->name, jv_type(l->v[i]));
            if (in && has_affix(s, from, to, l->v[i].u.s, end))
                return jval_bool(true);
        }
        return jval_bool(false);
    }
    if (k->p[0].t == J_UNDEF)
        jx_undefined(c, k->p[0]);
    if (k->p[0].t != J_STR)
        jx_type_error(c, "%s first arg must be str or a tuple of str, not %s", k->name, jv_type(k->p[0]));
    return jval_bool(in && has_affix(s, from, to, k->p[0].u.s, end));
}
static jval m_startswith(jx *c, jcall *k) { return affix(c, k, false); }
static jval m_endswith(jx *c, jcall *k) { return affix(c, k, true); }

static jval m_removeprefix(jx *c, jcall *k)
{
    const jstr *s = self(k), *a = str_arg(c, k, 0);
    return has_affix(s, 0, s->n, a, false) ? jv_str(js_sub(c, s, a->n, s->n)) : k->self;
}
static jval m_removesuffix(jx *c, jcall *k)
{
    const jstr *s = self(k), *a = str_arg(c, k, 0);
    return has_affix(s, 0, s->n, a, true) ? jv_str(js_sub(c, s, 0, s->n - a->n)) : k->self;
}

static jval stripped(jx *c, jcall *k, bool left, bool right)
{
    const jstr *chars = k->p[0].t == J_MISSING || k->p[0].t == J_NONE ? NULL : str_arg(c, k, 0);
    return jv_str(ju_strip(c, self(k), chars, left, right));
}
static jval m_strip(jx *c, jcall *k) { return stripped(c, k, true, true); }
static jval m_lstrip(jx *c, jcall *k) { return stripped(c, k, true, false); }
static jval m_rstrip(jx *c, jcall *k) { return stripped(c, k, false, true); }

/* ---- split ---- */

static size_t skip_spaces(const jstr *s, size_t i, bool want)
{
    for (size_t n; i < s->n && ju_space(js_cp(s, i, &n)) == want; i += n)
        ;
    return i;
}

static size_t rskip_spaces(const jstr *s, size_t i, bool want)
{
    while (i > 0) {
        size_t j = i - 1, n;
        while (j > 0 && ((unsigned char)s->s[j] & 0xC0) == 0x80)
            j--;
        if (ju_space(js_cp(s, j, &n)) != want)
            break;
        i = j;
    }
    return i;
}

static void push_sub(jx *c, jlist *l, const jstr *s, size_t from, size_t to)
{
    jx_step(c, 1 + (to - from) / 16);
    jl_push(c, l, jv_str(js_sub(c, s, from, to)));
}

static void split_spaces(jx *c, jlist *l, const jstr *s, int64_t max)
{
    size_t i = skip_spaces(s, 0, true);
    for (; i < s->n && max != 0; max--) {
        size_t e = skip_spaces(s, i, false);
        push_sub(c, l, s, i, e);
        i = skip_spaces(s, e, true);
    }
    if (i < s->n)
        push_sub(c, l, s, i, s->n);
}

static void rsplit_spaces(jx *c, jlist *l, const jstr *s, int64_t max)
{
    size_t i = rskip_spaces(s, s->n, true);
    for (; i > 0 && max != 0; max--) {
        size_t b = rskip_spaces(s, i, false);
        push_sub(c, l, s, b, i);
        i = rskip_spaces(s, b, true);
    }
    if (i > 0)
        push_sub(c, l, s, 0, i);
}

static void reverse(jlist *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        jval t = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = t;
    }
}

static jval split(jx *c, jcall *k, bool right)
{
    const jstr *s = self(k);
    jlist *l = jl_new(c, JL_LIST, 0);
    int64_t max = int_arg(c, k, 1, -1);
    if (k->p[0].t == J_MISSING || k->p[0].t == J_NONE) {
        (right ? rsplit_spaces : split_spaces)(c, l, s, max);
    } else {
        const jstr *sep = str_arg(c, k, 0);
        if (!sep->n)
            jx_type_error(c, "empty separator");
        size_t from = 0, to = s->n, i;
        jx_step(c, s->n / 16);
        if (!right) {
            for (; max != 0 && (i = js_find(s, from, sep->s, sep->n)) != SIZE_MAX; max--) {
                push_sub(c, l, s, from, i);
                from = i + sep->n;
            }
            push_sub(c, l, s, from, s->n);
        } else {
            for (i = to; max != 0 && i >= sep->n;) {
                if (memcmp(s->s + i - sep->n, sep->s, sep->n)) {
                    i--;
                    continue;
                }
                push_sub(c, l, s, i, to);
                to = i -= sep->n;
                max--;
            }
            push_sub(c, l, s, 0, to);
        }
    }
    if (right)
        reverse(l);
    return jv_list(l);
}
static jval m_split(jx *c, jcall *k) { return split(c, k, false); }
static jval m_rsplit(jx *c, jcall *k) { return split(c, k, true); }

static jval partition(jx *c, jcall *k, bool right)
{
    const jstr *s = self(k), *sep = str_arg(c, k, 0);
    if (!sep->n)
        jx_type_error(c, "empty separator");
    size_t i = search(c, k, right);
    jlist *l = jl_new(c, JL_TUPLE, 3);
    jval empty = jv_lit(c, "");
    if (i == SIZE_MAX) {
        jl_push(c, l, right ? empty : k->self);
        jl_push(c, l, empty);
        jl_push(c, l, right ? k->self : empty);
    } else {
        push_sub(c, l, s, 0, i);
        push_sub(c, l, s, i, i + sep->n);
        push_sub(c, l, s, i + sep->n, s->n);
    }
    return jv_list(l);
}
static jval m_partition(jx *c, jcall *k) { return partition(c, k, false); }
static jval m_rpartition(jx *c, jcall *k) { return partition(c, k, true); }

static bool line_break(uint32_t cp)
{
    return (cp >= 10 && cp <= 13) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
}

jlist *js_lines(jx *c, const jstr *s, bool keep)
{
    jlist *l = jl_new(c, JL_LIST, 0);
    size_t from = 0;
    for (size_t i = 0, n; i < s->n;) {
        uint32_t cp = js_cp(s, i, &n);
        if (!line_break(cp)) {
            i += n;
            continue;
        }
        size_t end = i + n;
        if (cp == '\r' && end < s->n && s->s[end] == '\n')
            end++;
        push_sub(c, l, s, from, keep ? end : i);
        i = from = end;
    }
    if (from < s->n)
        push_sub(c, l, s, from, s->n);
    return l;
}

static jval m_splitlines(jx *c, jcall *k)
{
    return jv_list(js_lines(c, self(k), k->p[0].t != J_MISSING && jv_true(c, k->p[0])));
}

static jval m_join(jx *c, jcall *k)
{
    jlist *l = jv_iter(c, k->p[0]);
    jbuf b = {.c = c};
    for (size_t i = 0; i < l->n; i++) {
        if (l->v[i].t != J_STR)
            jx_type_error(c, "sequence item %zu: expected str instance, %s found", i, jv_type(l->v[i]));
        if (i)
            jb_str(&b, self(k));
        jb_str(&b, l->v[i].u.s);
        jx_step(c, 1);
    }
    return jv_str(jb_done(&b));
}

const jstr *js_replace(jx *c, const jstr *s, const jstr *old, const jstr *new, int64_t max)
{
    jbuf b = {.c = c};
    size_t from = 0, i;
    jx_step(c, s->n / 16);
    if (!old->n) {
        for (size_t n; max != 0; max--, from += n) {
            jx_step(c, 1);
            jb_str(&b, new);
            if (from == s->n)
                break;
            js_cp(s, from, &n);
            jb_sub(&b, s, from, from + n);
        }
    } else {
        for (; max != 0 && (i = js_find(s, from, old->s, old->n)) != SIZE_MAX; max--) {
            jx_step(c, 1);
            jb_sub(&b, s, from, i);
            jb_str(&b, new);
            from = i + old->n;
        }
        if (!from)
            return s;
    }
    if (from < s->n)
        jb_sub(&b, s, from, s->n);
    return jb_done(&b);
}

static jval m_replace(jx *c, jcall *k)
{
    return jv_str(js_replace(c, self(k), str_arg(c, k, 0), str_arg(c, k, 1), int_arg(c, k, 2, -1)));
}

const jrow jinja_str_methods[] = {
    {"find", m_find, 1, 3, {0}}, {"rfind", m_rfind, 1, 3, {0}}, {"index", m_index, 1, 3, {0}},
    {"rindex", m_rindex, 1, 3, {0}}, {"count", m_count, 1, 3, {0}}, {"startswith", m_startswith, 1, 3, {0}},
    {"endswith", m_endswith, 1, 3, {0}}, {"removeprefix", m_removeprefix, 1, 1, {0}},
    {"removesuffix", m_removesuffix, 1, 1, {0}}, {"strip", m_strip, 0, 1, {0}}, {"lstrip", m_lstrip, 0, 1, {0}},
    {"rstrip", m_rstrip, 0, 1, {0}}, {"split", m_split, 0, 2, {"sep", "maxsplit"}},
    {"rsplit", m_rsplit, 0, 2, {"sep", "maxsplit"}}, {"partition", m_partition, 1, 1, {0}},
    {"rpartition", m_rpartition, 1, 1, {0}}, {"splitlines", m_splitlines, 0, 1, {"keepends"}},
    {"join", m_join, 1, 1, {0}}, {"replace", m_replace, 2, 3, {0}}, {0}};

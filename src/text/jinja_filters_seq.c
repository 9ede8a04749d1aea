/* Filters on sequences and mappings. Those that are generators in Python give a JL_GEN list: it can be looped over
 * once, is always true and has no length. */
#include <string.h>

#include "text/jinja_impl.h"

static bool given(const jcall *k, int i) { return k->p[i].t != J_MISSING; }
static bool flag(jx *c, const jcall *k, int i, bool absent) { return given(k, i) ? jv_true(c, k->p[i]) : absent; }

static int64_t integer(jx *c, const jcall *k, int i)
{
    int64_t v;
    if (!jn_to_i64(k->p[i], &v))
        jx_type_error(c, "%s: '%s' object cannot be interpreted as an integer", k->name, jv_type(k->p[i]));
    return v;
}

/* ---- attribute paths: "a.b.0", an integer, or nothing ---- */

static jval path(jx *c, jval obj, jval attr, jval absent)
{
    if (attr.t == J_MISSING || attr.t == J_NONE)
        return obj;
    if (attr.t != J_STR) {
        obj = jv_getitem(c, obj, attr);
        return obj.t == J_UNDEF && absent.t != J_MISSING && absent.t != J_NONE ? absent : obj;
    }
    const jstr *s = attr.u.s;
    for (size_t i = 0; i <= s->n;) {
        size_t e = js_find(s, i, ".", 1);
        if (e == SIZE_MAX)
            e = s->n;
        const jstr *part = js_sub(c, s, i, e);
        bool digits = part->n > 0 && part->n < 18;
        for (size_t j = 0; j < part->n; j++)
            digits = digits && part->s[j] >= '0' && part->s[j] <= '9';
        obj = jv_getitem(c, obj, digits ? jn_parse_int(c, part->s, part->n, 10) : jv_str(part));
        if (obj.t == J_UNDEF && absent.t != J_MISSING && absent.t != J_NONE)
            obj = absent;
        i = e + 1;
    }
    return obj;
}

jval jx_attr_path(jx *c, jval obj, jval attribute)
{
    return path(c, obj, attribute, (jval){.t = J_MISSING});
}

static jval fold(jx *c, jval v, bool case_sensitive)
{
    return v.t == J_STR && !case_sensitive ? jv_str(ju_convert(c, v.u.s, JU_LOWER)) : v;
}

/* ---- sorting: stable, by keys, at most n log n comparisons ---- */

static bool less(jx *c, jval a, jval b) { return jv_cmp(c, a, b, "<") < 0; }

static void merge_sort(jx *c, const jval *key, size_t *ord, size_t *tmp, size_t n, bool reverse)
{
    if (n < 2)
        return;
    size_t h = n / 2, i = 0, j = h, k = 0;
    merge_sort(c, key, ord, tmp, h, reverse);
    merge_sort(c, key, ord + h, tmp, n - h, reverse);
    jx_step(c, n);
    while (i < h || j < n) {
        bool right = i == h;
        if (!right && j < n)
            right = reverse ? less(c, key[ord[i]], key[ord[j]]) : less(c, key[ord[j]], key[ord[i]]);
        tmp[k++] = right ? ord[j++] : ord[i++];
    }
    memcpy(ord, tmp, n * sizeof *ord);
}

static jlist *sorted(jx *c, const jlist *in, const jval *key, bool reverse)
{
    size_t *ord = jx_array(c, in->n * 2, sizeof *ord);
    for (size_t i = 0; i < in->n; i++)
        ord[i] = i;
    merge_sort(c, key, ord, ord + in->n, in->n, reverse);
    jlist *out = jl_new(c, JL_LIST, in->n);
    for (size_t i = 0; i < in->n; i++)
        jl_push(c, out, in->v[ord[i]]);
    return out;
}

static jval f_sort(jx *c, jcall *k)
{
    jlist *in = jv_iter(c, k->self);
    jval *key = jx_array(c, in->n, sizeof *key);
    bool sensitive = flag(c, k, 1, false);
    for (size_t i = 0; i < in->n; i++) {
        if (!given(k, 2) || k->p[2].t != J_STR) {
            key[i] = fold(c, path(c, in->v[i], k->p[2], (jval){.t = J_MISSING}), sensitive);
            continue;
        }
        const jstr *s = k->p[2].u.s; /* "a,b.c": several keys */
        jlist *l = jl_new(c, JL_LIST, 1);
        for (size_t from = 0; from <= s->n;) {
            size_t e = js_find(s, from, ",", 1);
            if (e == SIZE_MAX)
                e = s->n;
            jval attr = jv_str(js_sub(c, s, from, e));
            jl_push(c, l, fold(c, path(c, in->v[i], attr, (jval){.t = J_MISSING}), sensitive));
            from = e + 1;
        }
        key[i] = l->n == 1 ? l->v[0] : jv_list(l);
    }
    return jv_list(sorted(c, in, key, flag(c, k, 0, false)));
}

static jlist *pairs(jx *c, const jdict *d)
{
    jlist *l = jl_new(c, JL_LIST, d->n);
    for (size_t i = 0; i < d->n; i++) {
        jlist *p = jl_new(c, JL_TUPLE, 2);
        jl_push(c, p, d->k[i]);
        jl_push(c, p, d->v[i]);
        jl_push(c, l, jv_list(p));
    }
    return l;
}

static const jdict *mapping(jx *c, const jcall *k)
{
    if (k->self.t == J_UNDEF)
        jx_undefined(c, k->self);
    if (k->self.t != J_DICT)
        jx_type_error(c, "%s: expected a mapping, not %s", k->name, jv_type(k->self));
    return k->self.u.d;
}

static jval f_dictsort(jx *c, jcall *k)
{
    jlist *in = pairs(c, mapping(c, k));
    const jstr *by = given(k, 1) ? jv_to_str(c, k->p[1]) : js_lit(c, "key");
    if (!js_is(by, "key") && !js_is(by, "value"))
        jx_type_error(c, "You can only sort by either \"key\" or \"value\"");
    jval *key = jx_array(c, in->n, sizeof *key);
    for (size_t i = 0; i < in->n; i++)
        key[i] = fold(c, in->v[i].u.l->v[js_is(by, "value")], flag(c, k, 0, false));
    return jv_list(sorted(c, in, key, flag(c, k, 2, false)));
}

static jval f_items(jx *c, jcall *k)
{
    jlist *l = k->self.t == J_UNDEF ? jl_new(c, JL_LIST, 0) : pairs(c, mapping(c, k));
    l->kind = JL_GEN;
    return jv_list(l);
}

static jval f_groupby(jx *c, jcall *k)
{
    jlist *in = jv_iter(c, k->self), *out = jl_new(c, JL_LIST, 0), *group = NULL;
    bool sensitive = flag(c, k, 2, false);
    jval *key = jx_array(c, in->n, sizeof *key);
    jlist *idx = jl_new(c, JL_LIST, in->n);
    for (size_t i = 0; i < in->n; i++) {
        key[i] = fold(c, path(c, in->v[i], k->p[0], k->p[1]), sensitive);
        jl_push(c, idx, jval_int((int64_t)i));
    }
    idx = sorted(c, idx, key, false);
    for (size_t i = 0; i < idx->n; i++) {
        size_t at = (size_t)idx->v[i].u.i;
        if (!group || !jv_eq(c, key[at], key[idx->v[i - 1].u.i])) {
            jlist *pair = jl_new(c, JL_TUPLE, 2);
            group = jl_new(c, JL_LIST, 0);
            jl_push(c, pair, path(c, in->v[at], k->p[0], k->p[1]));
            jl_push(c, pair, jv_list(group));
            pair->used = JL_GROUP;
            jl_push(c, out, jv_list(pair));
        }
        jl_push(c, group, in->v[at]);
    }
    return jv_list(out);
}

static jval f_unique(jx *c, jcall *k)
{
    jlist *in = jv_iter(c, k->self), *out = jl_new(c, JL_GEN, 0);
    jdict *seen = jd_new(c);
    for (size_t i = 0; i < in->n; i++) {
        jval key = fold(c, path(c, in->v[i], k->p[1], (jval){.t = J_MISSING}), flag(c, k, 0, false));
        jx_step(c, 1);
        if (jd_find(c, seen, key))
            continue;
        jd_set(c, seen, key, jval_bool(true));
        jl_push(c, out, in->v[i]);
    }
    return jv_list(out);
}

static jval extreme(jx *c, jcall *k, bool max)
{
    jlist *in = jv_iter(c, k->self);
    if (!in->n)
        return jv_undef(c, "No aggregated item, sequence was empty.");
    jval best = in->v[0], best_key = best;
    for (size_t i = 0; i < in->n; i++) {
        jval key = fold(c, path(c, in->v[i], k->p[1], (jval){.t = J_MISSING}), flag(c, k, 0, false));
        jx_step(c, 1);
        if (i && !(max ? less(c, best_key, key) : less(c, key, best_key)))
            continue;
        best = in->v[i];
        best_key = key;
    }
    return best;
}
static jval f_min(jx *c, jcall *k) { return extreme(c, k, false); }
static jval f_max(jx *c, jcall *k) { return extreme(c, k, true); }

static jval f_sum(jx *c, jcall *k)
{
    jlist *in = jv_iter(c, k->self);
    jval sum = given(k, 1) ? k->p[1] : jval_int(0);
    if (sum.t == J_STR)
        jx_type_error(c, "sum() can't sum strings [use ''.join(seq) instead]");
    for (size_t i = 0; i < in->n; i++) {
        jx_step(c, 1);
        sum = jx_binary(c, T_ADD, sum, path(c, in->v[i], k->p[0], (jval){.t = J_MISSING}));
    }
    return sum;
}

static jval f_join(jx *c, jcall *k)
{
    jlist *in = jv_iter(c, k->self);
    const jstr *sep = given(k, 0) ? jv_to_str(c, k->p[0]) : js_lit(c, "");
    jbuf b = {.c = c};
    for (size_t i = 0; i < in->n; i++) {
        jx_step(c, 1);
        if (i)
            jb_str(&b, sep);
        jb_val(&b, path(c, in->v[i], k->p[1], (jval){.t = J_MISSING}));
    }
    return jv_str(jb_done(&b));
}

static jval f_first(jx *c, jcall *k)
{
    jlist *l = jv_iter(c, k->self);
    return l->n ? l->v[0] : jv_undef(c, "No first item, sequence was empty.");
}

static jval f_last(jx *c, jcall *k)
{
    if (k->self.t == J_LIST && k->self.u.l->kind == JL_GEN)
        jx_type_error(c, "'generator' object is not reversible");
    jlist *l = jv_iter(c, k->self);
    return l->n ? l->v[l->n - 1] : jv_undef(c, "No last item, sequence was empty.");
}

static jval f_length(jx *c, jcall *k) { return jval_int((int64_t)jv_len(c, k->self)); }

static jlist *copied(jx *c, jval v, jlist_kind kind)
{
    jlist *in = jv_iter(c, v), *out = jl_new(c, kind, in->n);
    jx_step(c, in->n / 8);
    if (in->n)
        memcpy(out->v, in->v, in->n * sizeof *out->v);
    out->n = in->n;
    return out;
}
static jval f_list(jx *c, jcall *k) { return jv_list(copied(c, k->self, JL_LIST)); }

static jval f_reverse(jx *c, jcall *k)
{
    if (k->self.t == J_STR)
        return jv_slice(c, k->self, jval_none(), jval_none(), jval_int(-1));
    bool gen = !(k->self.t == J_LIST && k->self.u.l->kind == JL_GEN);
    jlist *l = copied(c, k->self, gen ? JL_GEN : JL_LIST);
    for (size_t i = 0; i < l->n / 2; i++) {
        jval t = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = t;
    }
    return jv_list(l);
}

static jval f_slice(jx *c, jcall *k)
{
    jlist *in = jv_iter(c, k->self), *out = jl_new(c, JL_GEN, 0);
    int64_t n = integer(c, k, 0), len = (int64_t)in->n, offset = 0;
    if (n == 0)
        jx_type_error(c, "integer division or modulo by zero");
    for (int64_t i = 0; i < n; i++) {
        jx_step(c, 1);
        int64_t start = offset + i * (len / n);
        if (i < len % n)
            offset++;
        int64_t end = offset + (i + 1) * (len / n);
        jlist *part = jl_new(c, JL_LIST, 0);
        for (int64_t j = start; j < end && j < len; j++)
            jl_push(c, part, in->v[j]);
        if (given(k, 1) && k->p[1].t != J_NONE && i >= len % n)
            jl_push(c, part, k->p[1]);
        jl_push(c, out, jv_list(part));
    }
    return jv_list(out);
}

static jval f_batch(jx *c, jcall *k)
{
    jlist *in = jv_iter(c, k->self), *out = jl_new(c, JL_GEN, 0), *row = NULL;
    int64_t n = integer(c, k, 0);
    for (size_t i = 0; i < in->n; i++) {
        if (!row || (int64_t)row->n == n) {
            row = jl_new(c, JL_LIST, 0);
            jl_push(c, out, jv_list(row));
        }
        jl_push(c, row, in->v[i]);
    }
    if (row && given(k, 1) && k->p[1].t != J_NONE)
        while ((int64_t)row->n < n) {
            jx_step(c, 1);
            jl_push(c, row, k->p[1]);
        }
    return jv_list(out);
}

static jval f_attr(jx *c, jcall *k)
{
    const jstr *name = jv_to_str(c, k->p[0]);
    bool found;
    if (k->self.t == J_UNDEF)
        jx_undefined(c, k->self);
    jval v = jv_own_attr(c, k->self, name, &found);
    return found ? v : jv_undef_attr(c, k->self, name);
}

/* ---- map, select, reject ---- */

static jargs rest(const jargs *a, size_t skip)
{
    jargs r = *a;
    r.pos += skip;
    r.n_pos -= skip;
    return r;
}

static const jval *keyword(const jargs *a, const char *name)
{
    for (size_t i = 0; i < a->n_kw; i++)
        if (js_is(a->kw_name[i], name))
            return &a->kw[i];
    return NULL;
}

static const jrow *named(jx *c, jval name, bool test)
{
    if (name.t != J_STR)
        jx_type_error(c, "the name of a %s must be a string, not %s", test ? "test" : "filter", jv_type(name));
    const jrow *r = test ? jrow_find(jinja_tests, name.u.s->s, name.u.s->n) : jinja_filter_find(name.u.s);
    if (!r)
        jx_type_error(c, "No %s named '%.*s'.", test ? "test" : "filter",
                      (int)(name.u.s->n > 100 ? 100 : name.u.s->n), name.u.s->s);
    return r;
}

static jval f_map(jx *c, jcall *k)
{
    jlist *out = jl_new(c, JL_GEN, 0);
    if (!jv_true(c, k->self))
        return jv_list(out);
    jlist *in = jv_iter(c, k->self);
    const jval *attr = keyword(k->args, "attribute"), *def = keyword(k->args, "default");
    if (!k->args->n_pos && !attr)
        jx_type_error(c, "map requires a filter argument");
    if (!k->args->n_pos && k->args->n_kw > (def ? 2u : 1u))
        jx_type_error(c, "map: unexpected keyword argument");
    const jrow *r = k->args->n_pos ? named(c, k->args->pos[0], false) : NULL;
    jargs a = k->args->n_pos ? rest(k->args, 1) : (jargs){0};
    jx_enter(c);
    for (size_t i = 0; i < in->n; i++) {
        jx_step(c, 1);
        jl_push(c, out, r ? jx_call_row(c, r, in->v[i], &a, k->env)
                          : path(c, in->v[i], *attr, def ? *def : (jval){.t = J_MISSING}));
    }
    jx_leave(c);
    return jv_list(out);
}

static jval choose(jx *c, jcall *k, bool want, bool by_attr)
{
    jlist *out = jl_new(c, JL_GEN, 0);
    if (!jv_true(c, k->self))
        return jv_list(out);
    jlist *in = jv_iter(c, k->self);
    size_t off = by_attr;
    if (by_attr && !k->args->n_pos)
        jx_type_error(c, "Missing parameter for attribute name");
    const jrow *r = k->args->n_pos > off ? named(c, k->args->pos[off], true) : NULL;
    jargs a = r ? rest(k->args, off + 1) : (jargs){0};
    jx_enter(c);
    for (size_t i = 0; i < in->n; i++) {
        jx_step(c, 1);
        jval v = by_attr ? path(c, in->v[i], k->args->pos[0], (jval){.t = J_MISSING}) : in->v[i];
        if (r)
            v = jx_call_row(c, r, v, &a, k->env);
        if (jv_true(c, v) == want)
            jl_push(c, out, in->v[i]);
    }
    jx_leave(c);
    return jv_list(out);
}
static jval f_select(jx *c, jcall *k) { return choose(c, k, true, false); }
static jval f_reject(jx *c, jcall *k) { return choose(c, k, false, false); }
static jval f_selectattr(jx *c, jcall *k) { return choose(c, k, true, true); }
static jval f_rejectattr(jx *c, jcall *k) { return choose(c, k, false, true); }

const jrow jinja_filters_seq[] = {
    {"attr", f_attr, 1, 1, {"name"}}, {"batch", f_batch, 1, 2, {"linecount", "fill_with"}},
    {"count", f_length, 0, 0, {0}}, {"dictsort", f_dictsort, 0, 3, {"case_sensitive", "by", "reverse"}},
    {"first", f_first, 0, 0, {0}}, {"groupby", f_groupby, 1, 3, {"attribute", "default", "case_sensitive"}},
    {"items", f_items, 0, 0, {0}}, {"join", f_join, 0, 2, {"d", "attribute"}}, {"last", f_last, 0, 0, {0}},
    {"length", f_length, 0, 0, {0}}, {"list", f_list, 0, 0, {0}}, {"map", f_map, 0, -1, {0}},
    {"max", f_max, 0, 2, {"case_sensitive", "attribute"}}, {"min", f_min, 0, 2, {"case_sensitive", "attribute"}},
    {"reject", f_reject, 0, -1, {0}}, {"rejectattr", f_rejectattr, 0, -1, {0}}, {"reverse", f_reverse, 0, 0, {0}},
    {"select", f_select, 0, -1, {0}}, {"selectattr", f_selectattr, 0, -1, {0}},
    {"slice", f_slice, 1, 2, {"slices", "fill_with"}},
    {"sort", f_sort, 0, 3, {"reverse", "case_sensitive", "attribute"}}, {"sum", f_sum, 0, 2, {"attribute", "start"}},
    {"unique", f_unique, 0, 2, {"case_sensitive", "attribute"}}, {0}};

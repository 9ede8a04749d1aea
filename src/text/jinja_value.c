/* Values: dicts, truth, equality, order, iteration, attributes, items. As Python has them. */
#include <string.h>

#include "text/jinja_impl.h"

jval jv_lit(jx *c, const char *lit) { return jv_str(js_lit(c, lit)); }

/* ---- undefined ---- */

static jval undef(jx *c, jundef u)
{
    jundef *p = JX_NEW(c, jundef);
    *p = u;
    return (jval){.t = J_UNDEF, .u.p = p};
}
jval jv_undef(jx *c, const char *hint) { return undef(c, (jundef){.hint = hint, .obj.t = J_MISSING}); }
jval jv_undef_name(jx *c, const jstr *name) { return undef(c, (jundef){.name = name, .obj.t = J_MISSING}); }
jval jv_undef_attr(jx *c, jval obj, const jstr *name) { return undef(c, (jundef){.name = name, .obj = obj}); }

_Noreturn void jx_undefined(jx *c, jval v)
{
    const jundef *u = v.u.p;
    while (u && !u->hint && u->obj.t == J_UNDEF)
        u = u->obj.u.p;
    if (!u || u->hint)
        jx_type_error(c, "%s", u ? u->hint : "undefined value");
    int n = (int)(u->name->n > 200 ? 200 : u->name->n);
    if (u->obj.t == J_MISSING)
        jx_type_error(c, "'%.*s' is undefined", n, u->name->s);
    const char *type = u->obj.t == J_NONE ? "None" : jv_type(u->obj), *object = u->obj.t == J_NONE ? "" : " object";
    if (u->element)
        jx_type_error(c, "%s%s has no element %.*s", type, object, n, u->name->s);
    jx_type_error(c, "'%s%s' has no attribute '%.*s'", type, object, n, u->name->s);
}

/* ---- lists ---- */

jlist *jl_new(jx *c, jlist_kind kind, size_t cap)
{
    jlist *l = JX_NEW(c, jlist);
    l->kind = kind;
    l->cap = cap;
    l->v = cap ? jx_array(c, cap, sizeof *l->v) : NULL;
    return l;
}

void jl_push(jx *c, jlist *l, jval v)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 8;
        jval *nv = jx_array(c, cap, sizeof *nv);
        if (l->n)
            memcpy(nv, l->v, l->n * sizeof *nv);
        l->v = nv;
        l->cap = cap;
    }
    l->v[l->n++] = v;
}

/* ---- dicts ---- */

jdict *jd_new(jx *c) { return JX_NEW(c, jdict); }

#define SMALL_DICT 8 /* searched in order; beyond it an index is kept */

bool jv_hashable(jval v)
{
    if (v.t == J_LIST && v.u.l->kind == JL_TUPLE) {
        for (size_t i = 0; i < v.u.l->n; i++)
            if (!jv_hashable(v.u.l->v[i]))
                return false;
        return true;
    }
    return v.t == J_LIST ? v.u.l->kind == JL_RANGE : v.t != J_DICT;
}

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    return h;
}

static uint64_t hash_str(const jstr *s)
{
    uint64_t h = 0x9E3779B97F4A7C15u + s->n;
    size_t i = 0;
    for (; i + 8 <= s->n; i += 8) {
        uint64_t w;
        memcpy(&w, s->s + i, 8);
        h = mix(h ^ w) + 0x632BE59BD9B4E019u;
    }
    uint64_t w = 0;
    memcpy(&w, s->s + i, s->n - i);
    return mix(h ^ w);
}

static uint64_t hash(jval v)
{
    uint64_t h = 77;
    switch (v.t) {
    case J_STR: return hash_str(v.u.s);
    case J_BOOL: case J_INT: case J_BIG: case J_FLOAT: return mix(jn_hash(v));
    case J_LIST:
        for (size_t i = 0; i < v.u.l->n; i++)
            h = mix(h * 31 + hash(v.u.l->v[i]));
        return h;
    default: return mix((uint64_t)v.t);
    }
}

static void index_add(jdict *d, size_t entry)
{
    size_t m = d->n_index - 1, i = (size_t)hash(d->k[entry]) & m;
    while (d->index[i])
        i = (i + 1) & m;
    d->index[i] = (uint32_t)entry + 1;
}

static size_t find(jx *c, const jdict *d, jval key)
{
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++)
            if (key.t == J_STR && d->k[i].t == J_STR ? js_eq(key.u.s, d->k[i].u.s) : jv_eq(c, key, d->k[i]))
                return i;
        return SIZE_MAX;
    }
    size_t m = d->n_index - 1, probes = 0;
    for (size_t i = (size_t)hash(key) & m; d->index[i]; i = (i + 1) & m) {
        if (++probes % 16 == 0)
            jx_step(c, 1); /* keys made to collide cost the one who made them */
        if (jv_eq(c, key, d->k[d->index[i] - 1]))
            return d->index[i] - 1;
    }
    return SIZE_MAX;
}

const jval *jd_find(jx *c, const jdict *d, jval key)
{
    if (!jv_hashable(key))
        jx_type_error(c, "unhashable type: '%s'", jv_type(key));
    size_t i = find(c, d, key);
    return i == SIZE_MAX ? NULL : &d->v[i];
}

const jval *jd_find_lit(const jdict *d, const char *key)
{
    jstr s = {.s = key, .n = strlen(key)};
    jx c = {.steps = UINT64_MAX}; /* string keys never fail */
    size_t i = find(&c, d, jv_str(&s));
    return i == SIZE_MAX ? NULL : &d->v[i];
}

void jd_set(jx *c, jdict *d, jval key, jval v)
{
    if (!jv_hashable(key))
        jx_type_error(c, "unhashable type: '%s'", jv_type(key));
    size_t i = find(c, d, key);
    if (i != SIZE_MAX) {
        d->v[i] = v; /* the first key stays, as in Python */
        return;
    }
    if (d->n >= UINT32_MAX / 4)
        jx_fail(c, IMP_E_LIMIT, "dict too large");
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 4;
        jval *nk = jx_array(c, cap, sizeof *nk), *nv = jx_array(c, cap, sizeof *nv);
        if (d->n) {
            memcpy(nk, d->k, d->n * sizeof *nk);
            memcpy(nv, d->v, d->n * sizeof *nv);
        }
        d->k = nk;
        d->v = nv;
        d->cap = cap;
    }
    d->k[d->n] = key;
    d->v[d->n++] = v;
    if (d->n <= SMALL_DICT)
        return;
    if (d->n * 2 > d->n_index) {
        d->n_index = d->n_index ? d->n_index * 2 : 4 * SMALL_DICT;
        d->index = jx_array(c, d->n_index, sizeof *d->index);
        for (i = 0; i < d->n; i++)
            index_add(d, i);
    } else {
        index_add(d, d->n - 1);
    }
}

/* ---- questions ---- */

static const char *const type_names[] = {
    "Undefined", "NoneType", "bool", "int", "int", "float", "str", "list", "dict", "Namespace", "function",
    "builtin_function_or_method", "Macro", "LoopContext", "Cycler", "Joiner", "TemplateReference", "BlockReference",
        "?"};
static const char *const list_names[] = {"list", "tuple", "range", "dict_keys", "dict_values", "dict_items",
    "generator"};

const char *jv_type(jval v)
{
    if (v.t == J_LIST)
        return list_names[v.u.l->kind];
    return type_names[v.t];
}

bool jv_is_num(jval v) { return v.t >= J_BOOL && v.t <= J_FLOAT; }

bool jv_true(jx *c, jval v)
{
    (void)c;
    switch (v.t) {
    case J_UNDEF: case J_NONE: case J_MISSING: return false;
    case J_BOOL: case J_INT: case J_BIG: case J_FLOAT: return !jn_is_zero(v);
    case J_STR: return v.u.s->n > 0;
    case J_LIST: return v.u.l->kind == JL_GEN || v.u.l->n > 0;
    case J_DICT: return v.u.d->n > 0;
    default: return true;
    }
}

static bool same_sequence(jlist_kind a, jlist_kind b) { return a == b && a != JL_GEN && a != JL_VALUES; }

bool jv_eq(jx *c, jval a, jval b)
{
    if (jv_is_num(a) && jv_is_num(b))
        return jn_cmp(c, a, b) == 0;
    if (a.t != b.t)
        return false;
    bool r = true;
    switch (a.t) {
    case J_UNDEF: case J_NONE: return true;
    case J_STR: return js_eq(a.u.s, b.u.s);
    case J_LIST:
        if (a.u.l == b.u.l)
            return true;
        if (!same_sequence(a.u.l->kind, b.u.l->kind) || a.u.l->n != b.u.l->n)
            return false;
        jx_enter(c);
        jx_step(c, a.u.l->n / 4);
        for (size_t i = 0; r && i < a.u.l->n; i++)
            r = jv_eq(c, a.u.l->v[i], b.u.l->v[i]);
        jx_leave(c);
        return r;
    case J_DICT:
        if (a.u.d == b.u.d)
            return true;
        if (a.u.d->n != b.u.d->n)
            return false;
        jx_enter(c);
        jx_step(c, a.u.d->n / 4);
        for (size_t i = 0; r && i < a.u.d->n; i++) {
            const jval *v = jd_find(c, b.u.d, a.u.d->k[i]);
            r = v && jv_eq(c, a.u.d->v[i], *v);
        }
        jx_leave(c);
        return r;
    case J_METHOD: {
        const jmethod *x = a.u.p, *y = b.u.p;
        return x->row == y->row && x->self.t == y->self.t && x->self.u.p == y->self.u.p;
    }
    default: return a.u.p == b.u.p;
    }
}

int jv_cmp(jx *c, jval a, jval b, const char *op)
{
    if (jv_is_num(a) && jv_is_num(b))
        return jn_cmp(c, a, b);
    if (a.t == J_STR && b.t == J_STR)
        return js_cmp(a.u.s, b.u.s);
    if (a.t == J_LIST && b.t == J_LIST && a.u.l->kind == b.u.l->kind && a.u.l->kind <= JL_TUPLE) {
        size_t n = a.u.l->n < b.u.l->n ? a.u.l->n : b.u.l->n;
        int r = 0;
        jx_enter(c);
        jx_step(c, n / 4);
        for (size_t i = 0; !r && i < n; i++)
            if (!jv_eq(c, a.u.l->v[i], b.u.l->v[i]))
                r = jv_cmp(c, a.u.l->v[i], b.u.l->v[i], op);
        jx_leave(c);
        return r ? r : (a.u.l->n > b.u.l->n) - (a.u.l->n < b.u.l->n);
    }
    if (a.t == J_UNDEF)
        jx_undefined(c, a);
    if (b.t == J_UNDEF)
        jx_undefined(c, b);
    jx_type_error(c, "'%s' not supported between instances of '%s' and '%s'", op, jv_type(a), jv_type(b));
}

bool jv_contains(jx *c, jval box, jval item)
{
    if (box.t == J_STR) {
        if (item.t == J_UNDEF)
            jx_undefined(c, item);
        if (item.t != J_STR)
            jx_type_error(c, "'in <string>' requires string as left operand, not %s", jv_type(item));
        jx_step(c, box.u.s->n / 64);
        return js_find(box.u.s, 0, item.u.s->s, item.u.s->n) != SIZE_MAX;
    }
    if (box.t == J_DICT)
        return jd_find(c, box.u.d, item) != NULL;
    jlist *l = jv_iter_or_null(c, box);
    if (!l) {
        if (box.t == J_UNDEF)
            return false;
        jx_type_error(c, "argument of type '%s' is not iterable", jv_type(box));
    }
    for (size_t i = 0; i < l->n; i++) {
        jx_step(c, 1);
        if (jv_eq(c, item, l->v[i]))
            return true;
    }
    return false;
}

jlist *jv_iter_or_null(jx *c, jval v)
{
    jlist *l;
    switch (v.t) {
    case J_UNDEF: return jl_new(c, JL_LIST, 0);
    case J_LIST:
        if (v.u.l->kind != JL_GEN || v.u.l->used == 0) {
            if (v.u.l->kind == JL_GEN) { /* handed out once */
                l = jl_new(c, JL_LIST, 0);
                l->v = v.u.l->v;
                l->n = l->cap = v.u.l->n;
                v.u.l->used = 1;
                return l;
            }
            return v.u.l;
        }
        return jl_new(c, JL_LIST, 0);
    case J_DICT:
        l = jl_new(c, JL_LIST, v.u.d->n);
        jx_step(c, v.u.d->n / 4);
        for (size_t i = 0; i < v.u.d->n; i++)
            jl_push(c, l, v.u.d->k[i]);
        return l;
    case J_STR:
        l = jl_new(c, JL_LIST, v.u.s->n_cp);
        jx_step(c, v.u.s->n_cp);
        for (size_t i = 0; i < v.u.s->n;) {
            size_t k;
            js_cp(v.u.s, i, &k);
            jl_push(c, l, jv_str(js_sub(c, v.u.s, i, i + k)));
            i += k;
        }
        return l;
    case J_LOOP: { /* iterating "loop" itself goes on with the rest */
        jloop *p = v.u.p;
        l = jl_new(c, JL_LIST, 0);
        for (size_t i = p->i + 1; i < p->items->n; i++)
            jl_push(c, l, p->items->v[i]);
        return l;
    }
    default: return NULL;
    }
}

jlist *jv_iter(jx *c, jval v)
{
    jlist *l = jv_iter_or_null(c, v);
    if (!l)
        jx_type_error(c, "'%s' object is not iterable", jv_type(v));
    return l;
}

size_t jv_len(jx *c, jval v)
{
    switch (v.t) {
    case J_UNDEF: return 0;
    case J_STR: return v.u.s->n_cp;
    case J_LIST:
        if (v.u.l->kind != JL_GEN)
            return v.u.l->n;
        break;
    case J_DICT: return v.u.d->n;
    case J_LOOP: return ((jloop *)v.u.p)->items->n;
    default: break;
    }
    jx_type_error(c, "object of type '%s' has no len()", jv_type(v));
}

/* Did any of v's bytes come from the data? Numbers and the like have no bytes of their own. */
bool jv_tainted(jval v) { return v.t == J_STR && v.u.s->tainted; }

/* ---- attributes and items ---- */

static jval method(jx *c, jval self, const jrow *row)
{
    jmethod *m = JX_NEW(c, jmethod);
    m->self = self;
    m->row = row;
    return (jval){.t = J_METHOD, .u.p = m};
}

static jval macro_attr(jx *c, const jmacro *m, const jstr *name, bool *found)
{
    *found = true;
    if (js_is(name, "name"))
        return m->name ? jv_str(m->name) : jval_none();
    if (js_is(name, "arguments")) {
        jlist *l = jl_new(c, JL_TUPLE, m->node->n);
        for (uint32_t i = 0; i < m->node->n; i++)
            jl_push(c, l, jv_str(m->node->list[i]->str));
        return jv_list(l);
    }
    if (js_is(name, "catch_kwargs") || js_is(name, "catch_varargs") || js_is(name, "caller"))
        return jval_bool(m->node->uses & (js_is(name, "caller") ? JU_CALLER
                                          : js_is(name, "catch_kwargs") ? JU_KWARGS : JU_VARARGS));
    *found = false;
    return jval_none();
}

/* What Python's getattr finds on an object that templates may see. */
jval jv_own_attr(jx *c, jval obj, const jstr *name, bool *found)
{
    *found = true;
    const jval *v;
    switch (obj.t) {
    case J_NS:
        v = jd_find(c, obj.u.d, jv_str(name));
        if (v)
            return *v;
        break;
    case J_LOOP: {
        jval r = jloop_getattr(c, obj.u.p, name, found);
        if (*found)
            return r;
        break;
    }
    case J_MACRO: {
        jval r = macro_attr(c, obj.u.p, name, found);
        if (*found)
            return r;
        break;
    }
    case J_SELF:
        v = jd_find(c, c->prog->blocks, jv_str(name));
        if (v)
            return (jval){.t = J_BLOCK, .u.i = v->u.i};
        break;
    case J_LIST:
        if (obj.u.l->kind == JL_TUPLE && obj.u.l->used == JL_GROUP && (js_is(name, "grouper") || js_is(name, "list")))
            return obj.u.l->v[js_is(name, "list")];
        break;
    case J_CYCLER:
        if (js_is(name, "current")) {
            const jcycler *y = obj.u.p;
            return y->v[y->i];
        }
        break;
    case J_FLOAT:
        if (js_is(name, "real") || js_is(name, "imag"))
            return js_is(name, "real") ? obj : jval_float(0);
        break;
    case J_BOOL: case J_INT: case J_BIG:
        if (js_is(name, "real") || js_is(name, "numerator"))
            return obj.t == J_BOOL ? jval_int(obj.u.b) : obj;
        if (js_is(name, "imag") || js_is(name, "denominator"))
            return jval_int(js_is(name, "denominator"));
        break;
    default: break;
    }
    const jrow *row = jinja_method_find(obj, name);
    *found = row != NULL;
    if (row && row->n_max == JROW_UNSAFE) {
        char *hint = arena_printf(c->mem, "access to attribute '%s' of '%s' object is unsafe.", row->name,
            jv_type(obj));
        return jv_undef(c, hint ? hint : "access to this attribute is unsafe.");
    }
    return row ? method(c, obj, row) : jval_none();
}

static bool item(jx *c, jval obj, jval key, jval *out)
{
    int64_t i;
    if (obj.t == J_DICT) {
        if (!jv_hashable(key))
            return false; /* TypeError, which getitem swallows */
        const jval *v = jd_find(c, obj.u.d, key);
        if (v)
            *out = *v;
        return v != NULL;
    }
    bool seq = obj.t == J_LIST && obj.u.l->kind <= JL_RANGE;
    if ((obj.t != J_STR && !seq) || !jn_to_i64(key, &i))
        return false;
    int64_t n = (int64_t)jv_len(c, obj);
    if (i < 0)
        i += n;
    if (i < 0 || i >= n)
        return false;
    if (seq) {
        *out = obj.u.l->v[i];
    } else {
        size_t off = js_offset(obj.u.s, (size_t)i), len;
        js_cp(obj.u.s, off, &len);
        jx_step(c, js_ascii(obj.u.s) ? 0 : off / 64);
        *out = jv_str(js_sub(c, obj.u.s, off, off + len));
    }
    return true;
}

jval jv_getattr(jx *c, jval obj, const jstr *name)
{
    if (obj.t == J_UNDEF)
        jx_undefined(c, obj);
    bool found;
    jval r = jv_own_attr(c, obj, name, &found);
    if (found || item(c, obj, jv_str(name), &r))
        return r;
    return jv_undef_attr(c, obj, name);
}

jval jv_getitem(jx *c, jval obj, jval key)
{
    if (obj.t == J_UNDEF)
        jx_undefined(c, obj);
    jval r;
    if (item(c, obj, key, &r))
        return r;
    if (key.t == J_STR) {
        bool found;
        r = jv_own_attr(c, obj, key.u.s, &found);
        if (found)
            return r;
    }
    return undef(c, (jundef){.name = key.t == J_STR ? key.u.s : jv_repr(c, key), .obj = obj,
        .element = key.t != J_STR});
}

/* An index as an int64; huge ones are clamped to where they stay huge. */
static int64_t slice_int(jx *c, jval v)
{
    if (!jv_is_int(v)) {
        if (v.t == J_UNDEF)
            jx_undefined(c, v);
        jx_type_error(c, "slice indices must be integers or None or have an __index__ method");
    }
    int64_t i;
    if (!jn_to_i64(v, &i))
        i = jn_cmp(c, v, jval_int(0)) < 0 ? INT64_MIN : INT64_MAX;
    return i < INT64_MIN / 2 ? INT64_MIN / 2 : i > INT64_MAX / 2 ? INT64_MAX / 2 : i;
}

static int64_t bound(jx *c, jval v, int64_t n, int64_t lo, int64_t hi, int64_t absent)
{
    if (v.t == J_NONE || v.t == J_MISSING)
        return absent;
    int64_t i = slice_int(c, v);
    if (i < 0)
        i = i + n < lo ? lo : i + n;
    return i > hi ? hi : i;
}

jval jv_slice(jx *c, jval obj, jval start, jval stop, jval step)
{
    if (obj.t == J_UNDEF)
        jx_undefined(c, obj);
    if (obj.t != J_STR && !(obj.t == J_LIST && obj.u.l->kind <= JL_RANGE))
        jx_type_error(c, "'%s' object cannot be sliced", jv_type(obj));
    int64_t n = (int64_t)jv_len(c, obj), st = step.t == J_NONE || step.t == J_MISSING ? 1 : slice_int(c, step);
    if (st == 0)
        jx_type_error(c, "slice step cannot be zero");
    int64_t lo = st > 0 ? 0 : -1, hi = st > 0 ? n : n - 1;
    int64_t a = bound(c, start, n, lo, hi, st > 0 ? 0 : n - 1), b = bound(c, stop, n, lo, hi, st > 0 ? n : -1);
    if (obj.t == J_STR && st == 1) {
        const jstr *s = obj.u.s;
        size_t from = js_offset(s, (size_t)a), to = b > a ? js_offset(s, (size_t)b) : from;
        jx_step(c, js_ascii(s) ? 0 : s->n / 64);
        return jv_str(js_sub(c, s, from, to));
    }
    jlist *src = jv_iter(c, obj), *l = jl_new(c, obj.t == J_LIST ? src->kind : JL_LIST, 0);
    jbuf buf = {.c = c};
    for (int64_t i = a; st > 0 ? i < b : i > b; i += st) {
        jx_step(c, 1);
        if (obj.t == J_STR)
            jb_str(&buf, src->v[i].u.s);
        else
            jl_push(c, l, src->v[i]);
    }
    return obj.t == J_STR ? jv_str(jb_done(&buf)) : jv_list(l);
}

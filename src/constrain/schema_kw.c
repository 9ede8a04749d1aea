/* Keywords: for each, what it says about a value of the branch's type, and what its negation says. One row a
 * keyword. */
#include <string.h>

#include "base/ck.h"
#include "constrain/schema_impl.h"

typedef bool (*kw_fn)(sx *x, work *w, const jv *owner, const jv *v, bool neg);
#define TM(t) (1u << (t))
#define T_ANY ((1u << T_COUNT) - 1)

static uint32_t count_of(sx *x, const jv *v)
{
    if (v->type != JV_NUMBER || v->num.neg || !dec_is_int(&v->num))
        schema_fail(x, v, IMP_E_PARSE, "wanted a non-negative integer");
    uint64_t n = 0;
    for (int64_t i = 0; i < v->num.n + v->num.exp && n < 1u << 31; i++)
        n = n * 10 + (i < v->num.n ? (unsigned)(v->num.d[i] - '0') : 0);
    return n < 1u << 31 ? (uint32_t)n : (1u << 31);
}

static void need_type(sx *x, const jv *v, jv_type t, const char *why)
{
    if (v->type != t)
        schema_fail(x, v, IMP_E_PARSE, why);
}

/* ---- any type --------------------------------------------------------------------------------------------------- */
static bool kw_type(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    static const struct { const char *name; jtype t; } names[] = {
        {"null", T_NULL}, {"boolean", T_BOOL}, {"number", T_NUM}, {"integer", T_NUM}, {"string", T_STR},
        {"array", T_ARR}, {"object", T_OBJ}, {"any", T_COUNT}};
    bool in = false, in_int = false;
    (void)owner;
    for (const jv *t = v->type == JV_ARRAY ? v->child : v; t; t = v->type == JV_ARRAY ? t->next : NULL) {
        size_t i = 0;
        need_type(x, t, JV_STRING, "wanted the name of a type");
        while (i < CK_COUNT(names) && (strlen(names[i].name) != t->n || memcmp(names[i].name, t->s, t->n)))
            i++;
        if (i == CK_COUNT(names))
            schema_fail(x, t, IMP_E_PARSE, "unknown type");
        if (i == 3)
            in_int = in_int || w->b.t == T_NUM;
        else
            in = in || names[i].t == w->b.t || names[i].t == T_COUNT;
    }
    if (in)
        return !neg;
    if (!in_int)
        return neg;
    if (neg)
        w->b.num.only_frac = true;
    else
        w->b.num.only_int = true;
    return !num_empty_quick(&w->b.num);
}

static jtype type_of(const jv *v)
{
    static const jtype t[] = {[JV_NULL] = T_NULL, [JV_FALSE] = T_BOOL, [JV_TRUE] = T_BOOL, [JV_NUMBER] = T_NUM,
                              [JV_STRING] = T_STR, [JV_ARRAY] = T_ARR, [JV_OBJECT] = T_OBJ};
    return t[v->type];
}

static bool num_bound(branch *b, const dec *d, bool lower, bool open)
{
    num_con *n = &b->num;
    if (lower) {
        int r = n->has_lo ? dec_cmp(d, &n->lo) : 1;
        if (r > 0)
            n->lo = *d, n->has_lo = true, n->lo_open = open;
        else if (!r)
            n->lo_open |= open;
    } else {
        int r = n->has_hi ? dec_cmp(d, &n->hi) : -1;
        if (r < 0)
            n->hi = *d, n->has_hi = true, n->hi_open = open;
        else if (!r)
            n->hi_open |= open;
    }
    return !num_empty_quick(n);
}

bool const_apply(sx *x, work *w, const jv *v, bool neg)
{
    branch *b = &w->b;
    if (type_of(v) != b->t)
        return neg;
    const alt *alts = NULL;
    uint32_t n = 0;
    switch (b->t) {
    case T_NULL: return !neg;
    case T_BOOL:
        b->bools &= (v->type == JV_TRUE ? 2u : 1u) ^ (neg ? 3u : 0u);
        return b->bools != 0;
    case T_STR: return branch_restrict_string(x, b, dfa_strings(x->c, &v->s, &v->n, 1), neg);
    case T_NUM:
        if (!neg)
            return num_bound(b, &v->num, true, false) && num_bound(b, &v->num, false, false);
        alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_NUM_BELOW, .v = v}, NULL));
        alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_NUM_ABOVE, .v = v}, NULL));
        push_choice(x, w, alts, 2);
        return true;
    case T_ARR:
    case T_OBJ: {
        bool arr = b->t == T_ARR;
        uint32_t i = 0;
        if (!neg) {
            push_atom(x, w, (atom){.kind = arr ? A_MINI : A_MINP, .a = v->n_child});
            push_atom(x, w, (atom){.kind = arr ? A_MAXI : A_MAXP, .a = v->n_child});
            for (const jv *m = v->child; m; m = m->next)
                push_atom(x, w, (atom){.kind = arr ? A_INDEX : A_PROP, .v = m, .constant = true, .a = i++});
            return true;
        }
        alts = alt_new(x, alts, atom_new(x, (atom){.kind = arr ? A_MINI : A_MINP, .a = v->n_child + 1}, NULL));
        n++;
        if (arr && v->n_child) {
            alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_MAXI, .a = v->n_child - 1}, NULL));
            n++;
        }
        for (const jv *m = v->child; m; m = m->next, n++) {
            atom differs = {.kind = arr ? A_INDEX : A_PROP, .v = m, .constant = true, .neg = true, .a = i++};
            alts = alt_new(x, alts, atom_new(x, differs, NULL));
            if (!arr) {
                alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_ABSENT, .v = m}, NULL));
                n++;
            }
        }
        push_choice(x, w, alts, n);
        return true;
    }
    default: return false;
    }
}

static bool kw_const(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    (void)owner;
    return const_apply(x, w, v, neg);
}

static bool kw_enum(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    (void)owner;
    need_type(x, v, JV_ARRAY, "wanted a list of values");
    if (w->b.t == T_STR) {
        const char **s = CC_ARRAY(x->c, const char *, (size_t)v->n_child + 1);
        size_t *len = CC_ARRAY(x->c, size_t, (size_t)v->n_child + 1), n = 0;
        for (const jv *m = v->child; m; m = m->next)
            if (m->type == JV_STRING)
                s[n] = m->s, len[n++] = m->n;
        return n ? branch_restrict_string(x, &w->b, dfa_strings(x->c, s, len, n), neg) : neg;
    }
    const alt *alts = NULL;
    uint32_t n = 0;
    for (const jv *m = v->child; m; m = m->next) {
        if (type_of(m) != w->b.t)
            continue;
        if (neg) {
            push_atom(x, w, (atom){.kind = A_CONST, .v = m, .neg = true});
        } else {
            alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_CONST, .v = m}, NULL));
            n++;
        }
    }
    if (!neg)
        push_choice(x, w, alts, n);
    return neg || n;
}

static bool kw_allof(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    const alt *alts = NULL;
    (void)owner;
    need_type(x, v, JV_ARRAY, "wanted a list of schemas");
    for (const jv *m = v->child; m; m = m->next) {
        atom a = {.kind = A_SCHEMA, .v = m, .neg = neg};
        if (neg)
            alts = alt_new(x, alts, atom_new(x, a, NULL));
        else
            push_atom(x, w, a);
    }
    if (neg)
        push_choice(x, w, alts, v->n_child);
    return true;
}

static bool kw_anyof(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    const alt *alts = NULL;
    (void)owner;
    need_type(x, v, JV_ARRAY, "wanted a list of schemas");
    for (const jv *m = v->child; m; m = m->next) {
        atom a = {.kind = A_SCHEMA, .v = m, .neg = neg};
        if (!neg)
            alts = alt_new(x, alts, atom_new(x, a, NULL));
        else
            push_atom(x, w, a);
    }
    if (!neg)
        push_choice(x, w, alts, v->n_child);
    return true;
}

static bool is_note(const char *k, size_t n)
{
    static const char *const notes[] = {"title", "description", "default", "examples", "$comment", "deprecated",
                                        "readOnly", "writeOnly"};
    for (size_t i = 0; i < CK_COUNT(notes); i++)
        if (strlen(notes[i]) == n && !memcmp(notes[i], k, n))
            return true;
    return false;
}

/* oneOf over plain constants that all differ: the same as anyOf, seen without looking at every pair of schemas. */
static bool constants_differ(const jv *v)
{
    const jv *val[400];
    size_t n = 0;
    for (const jv *m = v->child; m; m = m->next) {
        const jv *k = jv_get(m, "const");
        if (!k || n == CK_COUNT(val))
            return false;
        for (const jv *o = m->child; o; o = o->next)
            if (o != k && !is_note(o->key, o->key_n) && !(o->key_n == 4 && !memcmp(o->key, "type", 4)))
                return false;
        for (size_t i = 0; i < n; i++)
            if (jv_equal(val[i], k))
                return false;
        val[n++] = k;
    }
    return true;
}

static bool kw_oneof(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    const alt *alts = NULL;
    uint32_t n = 0;
    (void)owner;
    need_type(x, v, JV_ARRAY, "wanted a list of schemas");
    bool easy = constants_differ(v);
    if (!neg) {
        for (const jv *m = v->child; m; m = m->next) {
            const atom *at = NULL;
            for (const jv *o = v->child; o && !easy; o = o->next)
                if (o != m && !pair_disjoint(x, m, o, w->b.t))
                    at = atom_new(x, (atom){.kind = A_SCHEMA, .v = o, .neg = true}, at);
            at = atom_new(x, (atom){.kind = A_SCHEMA, .v = m}, at);
            alts = alt_new(x, alts, at);
            n++;
        }
    } else {
        const atom *none = NULL;
        for (const jv *m = v->child; m; m = m->next) {
            none = atom_new(x, (atom){.kind = A_SCHEMA, .v = m, .neg = true}, none);
            for (const jv *o = m->next; o && !easy; o = o->next)
                if (!pair_disjoint(x, m, o, w->b.t)) {
                    const atom *two = atom_new(x, (atom){.kind = A_SCHEMA, .v = o}, NULL);
                    alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_SCHEMA, .v = m}, two));
                    n++;
                }
        }
        alts = alt_new(x, alts, none);
        n++;
    }
    push_choice(x, w, alts, n);
    return true;
}

static bool kw_not(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    (void)owner;
    push_atom(x, w, (atom){.kind = A_SCHEMA, .v = v, .neg = !neg});
    return true;
}

static bool kw_if(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    const jv *t = jv_get(owner, "then"), *e = jv_get(owner, "else");
    const alt *alts = NULL;
    uint32_t n = 0;
    if (!neg || t) {
        const atom *a = t ? atom_new(x, (atom){.kind = A_SCHEMA, .v = t, .neg = neg}, NULL) : NULL;
        alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_SCHEMA, .v = v}, a));
        n++;
    }
    if (!neg || e) {
        const atom *a = e ? atom_new(x, (atom){.kind = A_SCHEMA, .v = e, .neg = neg}, NULL) : NULL;
        alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_SCHEMA, .v = v, .neg = true}, a));
        n++;
    }
    push_choice(x, w, alts, n);
    return true;
}

static bool kw_ref(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    (void)owner;
    push_atom(x, w, (atom){.kind = A_SCHEMA, .v = schema_ref(x, v), .neg = neg});
    return true;
}

static bool kw_refuse(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    (void)owner;
    (void)neg;
    (void)x;
    if (!w->b.unsup) {
        w->b.unsup = v;
        w->b.unsup_why = "this keyword cannot be enforced";
    }
    return true;
}

/* ---- strings ---------------------------------------------------------------------------------------------------- */
static bool kw_minlength(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    uint32_t n = count_of(x, v);
    (void)owner;
    if (!neg)
        w->b.smin = n > w->b.smin ? n : w->b.smin;
    else if (!n)
        return false;
    else
        w->b.smax = n - 1 < w->b.smax ? n - 1 : w->b.smax;
    return w->b.smin <= w->b.smax;
}

static bool kw_maxlength(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    uint32_t n = count_of(x, v);
    (void)owner;
    if (neg)
        w->b.smin = n + 1 > w->b.smin ? n + 1 : w->b.smin;
    else
        w->b.smax = n < w->b.smax ? n : w->b.smax;
    return w->b.smin <= w->b.smax;
}

static bool kw_pattern(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    uint32_t min = 0, max = INF;
    (void)owner;
    need_type(x, v, JV_STRING, "wanted a regular expression");
    const cdfa *d = pattern_dfa(x, v, v->s, v->n, neg ? NULL : &min, neg ? NULL : &max);
    w->b.smin = min > w->b.smin ? min : w->b.smin;
    w->b.smax = max < w->b.smax ? max : w->b.smax;
    return branch_restrict_string(x, &w->b, d, neg) && w->b.smin <= w->b.smax;
}

static bool kw_format(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    bool known;
    (void)owner;
    need_type(x, v, JV_STRING, "wanted the name of a format");
    const cdfa *d = format_dfa(x->c, v->s, v->n, &known);
    if ((known && !d) || (!known && x->c->o.refuse_unknown_formats)) {
        w->b.unsup = v;
        w->b.unsup_why = "this format cannot be enforced";
        return true;
    }
    if (!known)
        return !neg;
    if (v->n == 8 && !memcmp(v->s, "hostname", 8) && !neg)
        w->b.smax = 253 < w->b.smax ? 253 : w->b.smax;
    return branch_restrict_string(x, &w->b, d, neg);
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */
static bool bound(sx *x, work *w, const jv *v, bool neg, bool lower, bool open)
{
    need_type(x, v, JV_NUMBER, "wanted a number");
    return num_bound(&w->b, &v->num, lower != neg, open != neg);
}

static bool kw_minimum(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    const jv *ex = jv_get(owner, "exclusiveMinimum"); /* draft 4: a boolean beside minimum */
    return bound(x, w, v, neg, true, ex && ex->type == JV_TRUE);
}

static bool kw_maximum(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    const jv *ex = jv_get(owner, "exclusiveMaximum");
    return bound(x, w, v, neg, false, ex && ex->type == JV_TRUE);
}

static bool kw_exmin(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    (void)owner;
    if (v->type == JV_TRUE || v->type == JV_FALSE)
        return !neg;
    return bound(x, w, v, neg, true, true);
}

static bool kw_exmax(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    (void)owner;
    if (v->type == JV_TRUE || v->type == JV_FALSE)
        return !neg;
    return bound(x, w, v, neg, false, true);
}

static bool kw_multiple(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    (void)owner;
    if (v->type != JV_NUMBER || v->num.neg || !v->num.n)
        schema_fail(x, v, IMP_E_PARSE, "wanted a positive number");
    if (v->num.n == 1 && v->num.d[0] == '1' && !v->num.exp) { /* a multiple of 1 is an integer */
        if (neg)
            w->b.num.only_frac = true;
        else
            w->b.num.only_int = true;
        return !num_empty_quick(&w->b.num);
    }
    for (const num_multiple *m = w->b.num.mult; m; m = m->next)
        if (!dec_cmp(&m->m, &v->num))
            return m->neg == neg;
    num_multiple *m = CC_NEW(x->c, num_multiple);
    *m = (num_multiple){v->num, neg, w->b.num.mult};
    w->b.num.mult = m;
    return true;
}

/* ---- objects ---------------------------------------------------------------------------------------------------- */
static void add_layer(sx *x, const llist **l, const jv *owner)
{
    for (const llist *p = *l; p; p = p->next)
        if (p->owner == owner)
            return;
    llist *n = CC_NEW(x->c, llist);
    *n = (llist){owner, *l};
    *l = n;
}

static bool kw_properties(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    need_type(x, v, JV_OBJECT, "wanted an object of schemas");
    if (!neg) {
        add_layer(x, &w->b.olayers, owner);
        return true;
    }
    const alt *alts = NULL;
    for (const jv *m = v->child; m; m = m->next)
        alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_PROP, .v = m, .neg = true}, NULL));
    push_choice(x, w, alts, v->n_child);
    return true;
}

static bool kw_patternprops(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    need_type(x, v, JV_OBJECT, "wanted an object of schemas");
    if (!neg) {
        add_layer(x, &w->b.olayers, owner);
        return true;
    }
    const alt *alts = NULL;
    for (const jv *m = v->child; m; m = m->next)
        alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_EXISTS, .owner = owner, .v = m, .a = 1, .neg = true},
                                         NULL));
    push_choice(x, w, alts, v->n_child);
    return true;
}

static bool kw_addprops(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    if (!neg)
        add_layer(x, &w->b.olayers, owner);
    else
        push_atom(x, w, (atom){.kind = A_EXISTS, .owner = owner, .v = v, .neg = true});
    return true;
}

bool names_atoms(sx *x, work *w, const jv *v, bool neg)
{
    need_type(x, v, JV_ARRAY, "wanted a list of names");
    const alt *alts = NULL;
    for (const jv *m = v->child; m; m = m->next) {
        need_type(x, m, JV_STRING, "wanted a name");
        if (!neg)
            push_atom(x, w, (atom){.kind = A_REQ, .v = m, .b = 1});
        else
            alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_ABSENT, .v = m, .b = 1}, NULL));
    }
    if (neg)
        push_choice(x, w, alts, v->n_child);
    return true;
}

static bool kw_required(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    (void)owner;
    return names_atoms(x, w, v, neg);
}

static bool kw_minprops(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    uint32_t n = count_of(x, v);
    (void)owner;
    if (!neg)
        w->b.minp = n > w->b.minp ? n : w->b.minp;
    else if (!n)
        return false;
    else
        w->b.maxp = n - 1 < w->b.maxp ? n - 1 : w->b.maxp;
    return w->b.minp <= w->b.maxp;
}

static bool kw_maxprops(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    uint32_t n = count_of(x, v);
    (void)owner;
    if (neg)
        w->b.minp = n + 1 > w->b.minp ? n + 1 : w->b.minp;
    else
        w->b.maxp = n < w->b.maxp ? n : w->b.maxp;
    return w->b.minp <= w->b.maxp;
}

static bool kw_propnames(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    if (!neg) {
        ilist *l = CC_NEW(x->c, ilist);
        *l = (ilist){item_of(v, false, false), w->b.pnames};
        w->b.pnames = l;
    } else if (v->type == JV_FALSE) {
        push_atom(x, w, (atom){.kind = A_MINP, .a = 1});
    } else if (v->type == JV_TRUE) {
        return false;
    } else {
        push_atom(x, w, (atom){.kind = A_BADNAME, .v = v, .owner = owner});
    }
    return true;
}

static bool kw_dependencies(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    const alt *neg_alts = NULL;
    uint32_t n = 0;
    (void)owner;
    need_type(x, v, JV_OBJECT, "wanted an object");
    for (const jv *m = v->child; m; m = m->next) {
        /* absent, or the dependency holds */
        atom dep = {.kind = m->type == JV_ARRAY ? A_NAMES : A_SCHEMA, .v = m, .neg = neg};
        if (m->type == JV_STRING) /* draft 3 wrote one name bare */
            dep = (atom){.kind = neg ? A_ABSENT : A_REQ, .v = m, .b = 1};
        if (!neg) {
            const alt *alts = alt_new(x, NULL, atom_new(x, dep, NULL));
            alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_ABSENT, .v = m}, NULL));
            push_choice(x, w, alts, 2);
        } else {
            neg_alts = alt_new(x, neg_alts, atom_new(x, (atom){.kind = A_REQ, .v = m}, atom_new(x, dep, NULL)));
            n++;
        }
    }
    if (neg)
        push_choice(x, w, neg_alts, n);
    return true;
}

/* ---- arrays ----------------------------------------------------------------------------------------------------- */
/* The list of leading schemas (first of a sibling chain, NULL) and the schema of the rest (NULL: anything). */
uint32_t array_prefix(sx *x, const jv *owner, const jv **prefix, const jv **rest)
{
    const jv *items = jv_get(owner, "items"), *pre = jv_get(owner, "prefixItems");
    *prefix = NULL;
    *rest = NULL;
    if (pre) {
        need_type(x, pre, JV_ARRAY, "wanted a list of schemas");
        *prefix = pre->child;
        *rest = items && items->type != JV_ARRAY ? items : NULL;
        return pre->n_child;
    }
    if (items && items->type == JV_ARRAY) {
        *prefix = items->child;
        *rest = jv_get(owner, "additionalItems");
        return items->n_child;
    }
    *rest = items;
    return 0;
}

static bool kw_items(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    if (!neg) {
        add_layer(x, &w->b.alayers, owner);
        return true;
    }
    const jv *prefix, *rest;
    uint32_t n = array_prefix(x, owner, &prefix, &rest), i = 0, k = 0;
    const alt *alts = NULL;
    if (v->type == JV_ARRAY) { /* the list itself: one of its indices fails */
        for (const jv *m = v->child; m; m = m->next, k++)
            alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_INDEX, .v = m, .neg = true, .a = i++}, NULL));
        push_choice(x, w, alts, k);
        return true;
    }
    if (v != rest)
        return false; /* additionalItems without a list: says nothing */
    push_atom(x, w, (atom){.kind = A_CONTAINS, .v = v, .neg = true, .a = n});
    return true;
}

static bool kw_contains(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    const jv *mn = jv_get(owner, "minContains"), *mx = jv_get(owner, "maxContains");
    clist *l = CC_NEW(x->c, clist);
    bool counts = x->draft == 0 || x->draft >= 2019;
    *l = (clist){item_of(v, false, false), mn && counts ? count_of(x, mn) : 1, mx && counts ? count_of(x, mx) : INF, 0,
                 w->b.contains};
    if (!neg) {
        if (l->min == 0 && l->max == INF)
            return true;
        w->b.contains = l;
        return l->min <= l->max;
    }
    if (l->min && l->max == INF) {
        l->max = l->min - 1;
        l->min = 0;
        w->b.contains = l;
        return true;
    }
    if (!l->min && l->max != INF) {
        l->min = l->max + 1;
        l->max = INF;
        w->b.contains = l;
        return true;
    }
    w->b.unsup = v;
    w->b.unsup_why = "cannot be enforced under a negation";
    return l->min || l->max != INF;
}

static bool kw_minitems(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    uint32_t n = count_of(x, v);
    (void)owner;
    if (!neg)
        w->b.mini = n > w->b.mini ? n : w->b.mini;
    else if (!n)
        return false;
    else
        w->b.maxi = n - 1 < w->b.maxi ? n - 1 : w->b.maxi;
    return w->b.mini <= w->b.maxi;
}

static bool kw_maxitems(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    uint32_t n = count_of(x, v);
    (void)owner;
    if (neg)
        w->b.mini = n + 1 > w->b.mini ? n + 1 : w->b.mini;
    else
        w->b.maxi = n < w->b.maxi ? n : w->b.maxi;
    return w->b.mini <= w->b.maxi;
}

static bool kw_unique(sx *x, work *w, const jv *owner, const jv *v, bool neg)
{
    (void)owner;
    if (v->type != JV_TRUE)
        return !neg;
    if (neg)
        return kw_refuse(x, w, owner, v, neg);
    w->b.unique = true;
    return true;
}

/* Draft bounds: [from, to]; schemas that name no draft are read as the newest, with the older spellings understood. */
static const struct kw {
    const char *name;
    unsigned types;
    kw_fn fn;
    int from, to;
} kws[] = {
    {"type", T_ANY, kw_type, 0, 9999},
    {"enum", T_ANY, kw_enum, 0, 9999},
    {"const", T_ANY, kw_const, 6, 9999},
    {"$ref", T_ANY, kw_ref, 0, 9999},
    {"allOf", T_ANY, kw_allof, 0, 9999},
    {"anyOf", T_ANY, kw_anyof, 0, 9999},
    {"oneOf", T_ANY, kw_oneof, 0, 9999},
    {"not", T_ANY, kw_not, 0, 9999},
    {"if", T_ANY, kw_if, 7, 9999},
    {"minLength", TM(T_STR), kw_minlength, 0, 9999},
    {"maxLength", TM(T_STR), kw_maxlength, 0, 9999},
    {"pattern", TM(T_STR), kw_pattern, 0, 9999},
    {"format", TM(T_STR), kw_format, 0, 9999},
    {"minimum", TM(T_NUM), kw_minimum, 0, 9999},
    {"maximum", TM(T_NUM), kw_maximum, 0, 9999},
    {"exclusiveMinimum", TM(T_NUM), kw_exmin, 0, 9999},
    {"exclusiveMaximum", TM(T_NUM), kw_exmax, 0, 9999},
    {"multipleOf", TM(T_NUM), kw_multiple, 0, 9999},
    {"properties", TM(T_OBJ), kw_properties, 0, 9999},
    {"patternProperties", TM(T_OBJ), kw_patternprops, 0, 9999},
    {"additionalProperties", TM(T_OBJ), kw_addprops, 0, 9999},
    {"required", TM(T_OBJ), kw_required, 0, 9999},
    {"minProperties", TM(T_OBJ), kw_minprops, 0, 9999},
    {"maxProperties", TM(T_OBJ), kw_maxprops, 0, 9999},
    {"propertyNames", TM(T_OBJ), kw_propnames, 6, 9999},
    {"dependencies", TM(T_OBJ), kw_dependencies, 0, 9999},
    {"dependentRequired", TM(T_OBJ), kw_dependencies, 2019, 9999},
    {"dependentSchemas", TM(T_OBJ), kw_dependencies, 2019, 9999},
    {"prefixItems", TM(T_ARR), kw_items, 2020, 9999},
    {"items", TM(T_ARR), kw_items, 0, 9999},
    {"additionalItems", TM(T_ARR), kw_items, 0, 9999},
    {"contains", TM(T_ARR), kw_contains, 6, 9999},
    {"minItems", TM(T_ARR), kw_minitems, 0, 9999},
    {"maxItems", TM(T_ARR), kw_maxitems, 0, 9999},
    {"uniqueItems", TM(T_ARR), kw_unique, 0, 9999},
    {"unevaluatedItems", TM(T_ARR), kw_refuse, 2019, 9999},
    {"unevaluatedProperties", TM(T_OBJ), kw_refuse, 2019, 9999},
    {"$dynamicRef", T_ANY, kw_refuse, 2020, 9999},
    {"$recursiveRef", T_ANY, kw_refuse, 2019, 9999},
};

static const struct kw *kw_find(sx *x, const jv *kw)
{
    for (size_t i = 0; i < CK_COUNT(kws); i++)
        if (strlen(kws[i].name) == kw->key_n && !memcmp(kws[i].name, kw->key, kw->key_n))
            return !x->draft || (x->draft >= kws[i].from && x->draft <= kws[i].to) ? &kws[i] : NULL;
    return NULL;
}

bool kw_asserts(sx *x, const jv *owner, const jv *kw)
{
    (void)owner;
    return kw_find(x, kw) != NULL;
}

bool kw_apply(sx *x, work *w, const jv *owner, const jv *kw, bool neg)
{
    const struct kw *k = kw_find(x, kw);
    if (!k || !(k->types >> w->b.t & 1))
        return !neg;
    return k->fn(x, w, owner, kw, neg);
}

/* Branches of objects and arrays: which names, key classes and indices there are, and the value node of each. */
#include <stdlib.h>
#include <string.h>

#include "constrain/schema_impl.h"

#define EX_MAX 3 /* obligations of one object: their sets are bits of a word (ex_viable) */
#define CON_MAX 3

typedef struct strs {
    const char **s;
    size_t *len;
    size_t n, cap, cap2;
} strs;

typedef struct name_at {
    const char *s;
    size_t n;
    uint32_t at;               /* where the schema speaks of it first: members of `properties`, then other mentions */
} name_at;

static int by_name(const void *a, const void *b)
{
    const name_at *x = a, *y = b;
    int r = memcmp(x->s, y->s, x->n < y->n ? x->n : y->n);
    return r ? r : x->n < y->n ? -1 : x->n > y->n;
}

static int by_name_at(const void *a, const void *b)
{
    const name_at *x = a, *y = b;
    int r = by_name(a, b);
    return r ? r : x->at < y->at ? -1 : x->at > y->at;
}

static int by_at(const void *a, const void *b)
{
    const name_at *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

typedef struct items {
    item *it;
    size_t n, cap;
} items;

static void add(sx *x, items *l, item it) { CC_PUSH(x->c, l->it, l->n, l->cap, it); }

/* What the layer says of a key; `matched` tells which of its patterns the key matches. */
static void layer_items(sx *x, const jv *owner, const jv *prop, bool (*matched)(void *, const jv *), void *arg,
                        items *out)
{
    const jv *pp = jv_get(owner, "patternProperties"), *ap = jv_get(owner, "additionalProperties");
    bool any = prop != NULL;
    if (prop)
        add(x, out, item_of(prop, false, false));
    for (const jv *m = pp && pp->type == JV_OBJECT ? pp->child : NULL; m; m = m->next)
        if (matched(arg, m)) {
            any = true;
            add(x, out, item_of(m, false, false));
        }
    if (!any && ap)
        add(x, out, item_of(ap, false, false));
}

typedef struct name_arg {
    sx *x;
    const char *s;
    size_t n;
} name_arg;

static bool matched_by_name(void *arg, const jv *m)
{
    name_arg *a = arg;
    return name_matches(a->x, m, a->s, a->n);
}

typedef struct label_arg {
    const jv **pat;
    size_t n;
    uint32_t label;
} label_arg;

static bool matched_by_label(void *arg, const jv *m)
{
    label_arg *a = arg;
    for (size_t i = 0; i < a->n; i++)
        if (a->pat[i]->key_n == m->key_n && !memcmp(a->pat[i]->key, m->key, m->key_n))
            return a->label >> i & 1;
    return false;
}

static bool ex_applies(const elist *e, bool is_prop, bool (*matched)(void *, const jv *), void *arg)
{
    if (e->pattern)
        return matched(arg, e->pattern);
    if (is_prop)
        return false;
    const jv *pp = jv_get(e->owner, "patternProperties");
    for (const jv *m = pp && pp->type == JV_OBJECT ? pp->child : NULL; m; m = m->next)
        if (matched(arg, m))
            return false;
    return true;
}

/* One node for each set of obligations that the key fulfils. */
static void nodes_for(sx *x, const branch *b, const items *base, uint32_t n_ex, uint32_t can, uint32_t *out)
{
    for (uint32_t set = 0; set < 1u << n_ex; set++) {
        out[set] = DEAD;
        if (set & ~can)
            continue;
        items l = {0};
        for (size_t i = 0; i < base->n; i++)
            add(x, &l, base->it[i]);
        uint32_t k = 0;
        for (const elist *e = b->exists; e; e = e->next, k++)
            if (set >> k & 1 && e->it != ITEM_ANY)
                add(x, &l, e->it);
        if (!l.n)
            add(x, &l, 0), l.n = 0;
        out[set] = node_get(x, l.it, l.n);
    }
}

/* ---- propertyNames ---------------------------------------------------------------------------------------------- */
const cdfa *with_length(sx *x, const cdfa *d, uint32_t min, uint32_t max)
{
    if (!min && max == INF)
        return d ? d : dfa_all(x->c);
    re_sets sets = {0};
    cpset any = {0};
    cpset_add(x->c, &any, 0, CP_MAX);
    re_node *one = re_new(x->c, RE_SET, NULL, NULL);
    one->set = re_set_add(x->c, &sets, &any);
    if (min > 100000 || (max != INF && max > 100000))
        cc_fail(x->c, IMP_E_LIMIT, "schema: a length this large cannot be enforced together with other conditions");
    const cdfa *len = re_compile(x->c, &sets, re_rep(x->c, one, min, max), false, "length");
    return d && len ? dfa_product(x->c, d, len, DFA_AND) : len;
}

typedef struct pn {
    const cdfa *d;
    bool any;
} pn;

static void collect_names(sx *x, bnode *b, name_at **out, size_t *n_out)
{
    name_at *v = NULL;
    size_t n = 0, cap = 0;
    uint32_t at = x->doc.n;
    for (const llist *l = b->b.olayers; l; l = l->next) {
        const jv *p = jv_get(l->owner, "properties");
        for (const jv *m = p && p->type == JV_OBJECT ? p->child : NULL; m; m = m->next)
            CC_PUSH(x->c, v, n, cap, ((name_at){m->key, m->key_n, m->id}));
    }
    for (const elist *l = b->b.exists; l; l = l->next) {
        const jv *p = jv_get(l->owner, "properties");
        for (const jv *m = p && p->type == JV_OBJECT ? p->child : NULL; m; m = m->next)
            CC_PUSH(x->c, v, n, cap, ((name_at){m->key, m->key_n, m->id}));
    }
    for (const nlist *l = b->b.req; l; l = l->next)
        CC_PUSH(x->c, v, n, cap, ((name_at){l->s, l->n, at++}));
    for (const nlist *l = b->b.extra; l; l = l->next)
        CC_PUSH(x->c, v, n, cap, ((name_at){l->s, l->n, at++}));
    if (n)
        qsort(v, n, sizeof *v, by_name_at);
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (!k || by_name(&v[k - 1], &v[i]))
            v[k++] = v[i];
    *out = v;
    *n_out = k;
}

/* The place of each name (sorted by text) when they come in the order in which the schema speaks of them. */
static uint32_t *ranks_of(sx *x, const name_at *names, size_t n)
{
    name_at *v = CC_ARRAY(x->c, name_at, n + 1);
    uint32_t *rank = CC_ARRAY(x->c, uint32_t, n + 1);
    if (n) {
        memcpy(v, names, n * sizeof *v);
        qsort(v, n, sizeof *v, by_at);
    }
    for (size_t i = 0; i < n; i++) {
        const name_at *at = bsearch(&v[i], names, n, sizeof *v, by_name);
        rank[at - names] = (uint32_t)i;
    }
    return rank;
}

/* The automaton of the names that satisfy a conjunction; NULL: none does; *any: all do. */
static const cdfa *names_of(sx *x, items l, bool *any)
{
    const cdfa *d = NULL;
    uint32_t id = node_get(x, l.it, l.n);
    if (!x->node[id].expanded)
        node_expand(x, id);
    for (size_t i = 0; i < x->node[id].n_br; i++) {
        const branch *s = &x->node[id].br[i].b;
        if (s->t != T_STR)
            continue;
        const cdfa *one = with_length(x, s->sd, s->smin, s->smax);
        d = d && one ? dfa_product(x->c, d, one, DFA_OR) : one ? one : d;
    }
    *any = d && d->universal;
    return d;
}

/* The names that propertyNames allows. */
static const cdfa *allowed_names(sx *x, bnode *b, bool *any)
{
    items l = {0};
    *any = !b->b.pnames;
    for (const ilist *p = b->b.pnames; p; p = p->next)
        add(x, &l, p->it);
    return *any ? NULL : names_of(x, l, any);
}

/* The names that an obligation's schema forbids: such a key fulfils it. */
static const cdfa *failing_names(sx *x, const elist *e)
{
    items l = {0};
    bool any;
    add(x, &l, item_of(e->names, false, true));
    return names_of(x, l, &any);
}

void object_children(sx *x, bnode *bn)
{
    branch *b = &bn->b;
    obr *o = &bn->o;
    name_at *names;
    size_t n;
    bool any_name;
    for (const elist *e = b->exists; e; e = e->next)
        if (++o->n_ex > EX_MAX)
            schema_fail(x, e->owner, IMP_E_UNSUPPORTED, "too many negated conditions on keys at once");
    collect_names(x, bn, &names, &n);
    const cdfa *pnd = allowed_names(x, bn, &any_name), *bad[EX_MAX];
    size_t n_bad = 0;
    for (const elist *e = b->exists; e; e = e->next)
        if (e->names)
            bad[n_bad++] = failing_names(x, e);
    o->n_names = (uint32_t)n;
    /* A negated condition on keys asks for some key, whichever: leaving names behind could leave it without one. */
    o->rank = x->c->o.key_order && !o->n_ex ? ranks_of(x, names, n) : NULL;
    o->name = CC_ARRAY(x->c, const char *, n + 1);
    o->name_n = CC_ARRAY(x->c, size_t, n + 1);
    o->required = CC_ARRAY(x->c, uint8_t, n + 1);
    o->node = CC_ARRAY(x->c, uint32_t, (n << o->n_ex) + 1);
    for (const nlist *r = b->req; r; r = r->next) {
        name_at key = {.s = r->s, .n = r->n}, *at = bsearch(&key, names, n, sizeof key, by_name);
        o->required[at - names] = 1;
    }
    for (size_t i = 0; i < n; i++) {
        items l = {0};
        name_arg arg = {x, names[i].s, names[i].n};
        uint32_t can = 0, k = 0;
        cc_work(x->c, 30);
        o->name[i] = names[i].s;
        o->name_n[i] = names[i].n;
        for (const llist *p = b->olayers; p; p = p->next) {
            const jv *props = jv_get(p->owner, "properties");
            layer_items(x, p->owner, props ? jv_getn(props, arg.s, arg.n) : NULL, matched_by_name, &arg, &l);
        }
        for (const nlist *e = b->extra; e; e = e->next)
            if (e->n == arg.n && !memcmp(e->s, arg.s, arg.n))
                add(x, &l, e->it);
        if (!any_name && (!pnd || !dfa_accepts(pnd, arg.s, arg.n)))
            add(x, &l, ITEM_FALSE);
        size_t at_bad = 0;
        for (const elist *e = b->exists; e; e = e->next, k++) {
            const jv *props = jv_get(e->owner, "properties");
            const cdfa *fails = e->names ? bad[at_bad++] : NULL;
            if (e->names ? fails && dfa_accepts(fails, arg.s, arg.n)
                         : ex_applies(e, props && jv_getn(props, arg.s, arg.n), matched_by_name, &arg))
                can |= 1u << k;
        }
        nodes_for(x, b, &l, o->n_ex, can, o->node + (i << o->n_ex));
    }
    /* keys outside the names */
    const jv **pat = NULL;
    size_t n_pat = 0, cap = 0;
    for (int pass = 0; pass < 2; pass++) {
        const llist *l = b->olayers;
        const elist *e = b->exists;
        for (;;) {
            const jv *owner = pass ? (e ? e->owner : NULL) : l ? l->owner : NULL;
            if (!owner)
                break;
            const jv *pp = jv_get(owner, "patternProperties");
            for (const jv *m = pp && pp->type == JV_OBJECT ? pp->child : NULL; m; m = m->next) {
                size_t k = 0;
                while (k < n_pat && (pat[k]->key_n != m->key_n || memcmp(pat[k]->key, m->key, m->key_n)))
                    k++;
                if (k == n_pat)
                    CC_PUSH(x->c, pat, n_pat, cap, m);
            }
            if (pass)
                e = e->next;
            else
                l = l->next;
        }
    }
    bool plain = !n_pat && any_name && !n_bad;
    size_t first_bad = n_pat + !any_name;
    uint32_t *labels = NULL;
    size_t n_lab = 0, cap_lab = 0;
    if (plain) {
        CC_PUSH(x->c, labels, n_lab, cap_lab, 1);
    } else {
        cdfa **d = CC_ARRAY(x->c, cdfa *, first_bad + n_bad + 1);
        for (size_t i = 0; i < n_pat; i++)
            d[i] = (cdfa *)(void *)pattern_dfa(x, pat[i], pat[i]->key, pat[i]->key_n, NULL, NULL);
        if (!any_name)
            d[n_pat] = (cdfa *)(void *)pnd;
        for (size_t i = 0; i < n_bad; i++)
            d[first_bad + i] = (cdfa *)(void *)bad[i];
        o->kd = dfa_tag_product(x->c, d, first_bad + n_bad);
        for (uint32_t q = 0; q < o->kd->n; q++) {
            size_t k = 0;
            while (k < n_lab && labels[k] != o->kd->label[q])
                k++;
            if (k == n_lab)
                CC_PUSH(x->c, labels, n_lab, cap_lab, o->kd->label[q]);
        }
    }
    o->cls_label = labels;
    o->n_cls = (uint32_t)n_lab;
    o->cls_node = CC_ARRAY(x->c, uint32_t, n_lab << o->n_ex);
    for (size_t i = 0; i < n_lab; i++) {
        items l = {0};
        label_arg arg = {pat, n_pat, labels[i]};
        uint32_t can = 0, k = 0;
        for (const llist *p = b->olayers; p; p = p->next)
            layer_items(x, p->owner, NULL, matched_by_label, &arg, &l);
        if (!any_name && !(labels[i] >> n_pat & 1))
            add(x, &l, ITEM_FALSE);
        size_t at_bad = first_bad;
        for (const elist *e = b->exists; e; e = e->next, k++)
            if (e->names ? labels[i] >> at_bad++ & 1 : ex_applies(e, false, matched_by_label, &arg))
                can |= 1u << k;
        nodes_for(x, b, &l, o->n_ex, can, o->cls_node + (i << o->n_ex));
    }
}

void array_children(sx *x, bnode *bn)
{
    branch *b = &bn->b;
    abr *a = &bn->a;
    uint32_t np = 0;
    for (const clist *l = b->contains; l; l = l->next) {
        if (++a->n_con > CON_MAX)
            schema_fail(x, x->doc.by_id[l->it >> 2], IMP_E_UNSUPPORTED, "more than 3 contains conditions on one array");
        np = l->from > np ? l->from : np;
    }
    for (const llist *l = b->alayers; l; l = l->next) {
        const jv *prefix, *rest;
        uint32_t n = array_prefix(x, l->owner, &prefix, &rest);
        np = n > np ? n : np;
    }
    for (const xlist *l = b->aextra; l; l = l->next)
        np = l->index + 1 > np ? l->index + 1 : np;
    if (np > 10000)
        cc_fail(x->c, IMP_E_LIMIT, "schema: an array with more than 10000 items of their own");
    a->n_prefix = np;
    a->con = CC_ARRAY(x->c, pcontains, a->n_con + 1);
    uint32_t k = 0;
    for (const clist *l = b->contains; l; l = l->next)
        a->con[k++] = (pcontains){l->min, l->max};
    a->node = CC_ARRAY(x->c, uint32_t, (size_t)(np + 1) << a->n_con);
    for (uint32_t i = 0; i <= np; i++)
        for (uint32_t var = 0; var < 1u << a->n_con; var++) {
            items l = {0};
            bool none = false;
            cc_work(x->c, 30);
            for (const llist *p = b->alayers; p; p = p->next) {
                const jv *prefix, *rest;
                uint32_t n = array_prefix(x, p->owner, &prefix, &rest);
                if (i < n) {
                    for (uint32_t j = 0; j < i; j++)
                        prefix = prefix->next;
                    add(x, &l, item_of(prefix, false, false));
                } else if (rest) {
                    add(x, &l, item_of(rest, false, false));
                }
            }
            for (const xlist *p = b->aextra; p; p = p->next)
                if (p->index == i)
                    add(x, &l, p->it);
            k = 0;
            for (const clist *p = b->contains; p; p = p->next, k++) {
                if (var >> k & 1) {
                    none = none || i < p->from;
                    add(x, &l, p->it);
                } else if (p->max != INF && i >= p->from) {
                    add(x, &l, p->it ^ 1); /* not counted because it does not match */
                }
            }
            if (none)
                add(x, &l, ITEM_FALSE);
            if (!l.n)
                add(x, &l, 0), l.n = 0;
            a->node[((size_t)i << a->n_con) + var] = node_get(x, l.it, l.n);
        }
}

/* From conjunctions of schemas to branches. See schema_impl.h for the idea. */
#include <stdlib.h>
#include <string.h>

#include "constrain/schema_impl.h"

#define BRANCH_MAX 600   /* branches of one node and type */
#define CHOICE_DEPTH 300 /* nested choices: the solver recurses */

_Noreturn void schema_fail(sx *x, const jv *v, imp_status s, const char *why)
{
    const jv *k = v;
    while (k && !k->key)
        k = k->parent;
    cc_fail(x->c, s, "schema: %s: %.60s: %s", jv_path(x->c, v), k ? k->key : "schema", why);
}

/* ---- atoms ------------------------------------------------------------------------------------------------------ */
const atom *atom_new(sx *x, atom a, const atom *next)
{
    atom *p = CC_NEW(x->c, atom);
    *p = a;
    p->next = next;
    return p;
}

const alt *alt_new(sx *x, const alt *next, const atom *atoms)
{
    alt *p = CC_NEW(x->c, alt);
    *p = (alt){atoms, next};
    return p;
}

void push_atom(sx *x, work *w, atom a) { w->todo = atom_new(x, a, w->todo); }

void push_choice(sx *x, work *w, const alt *alts, uint32_t n)
{
    choice *p = CC_NEW(x->c, choice);
    *p = (choice){alts, n, w->choices};
    w->choices = p;
}

bool branch_restrict_string(sx *x, branch *b, const cdfa *d, bool neg)
{
    if (neg) {
        if (d)
            d = dfa_product(x->c, b->sd ? b->sd : dfa_all(x->c), d, DFA_SUB);
        else
            return true;
        b->sd = d;
    } else {
        b->sd = d && b->sd ? dfa_product(x->c, b->sd, d, DFA_AND) : d;
    }
    if (!b->sd)
        return false;
    if (b->sd->universal)
        b->sd = NULL;
    return true;
}

typedef struct counted { /* a cached pattern with its counters */
    const cdfa *d;
    uint32_t min, max;
} counted;

const cdfa *pattern_dfa(sx *x, const jv *at, const char *s, size_t n, uint32_t *min, uint32_t *max)
{
    bool found;
    const char *kind = min ? "counted" : "pattern";
    counted *k = (counted *)(void *)dfa_cached(x->c, kind, s, n, &found);
    if (!found) {
        const char *where = arena_printf(x->c->a, "schema: %s", jv_path(x->c, at));
        k = CC_NEW(x->c, counted);
        k->max = INF;
        uint32_t lo, hi;
        k->d = re_pattern(x->c, s, n, true, where ? where : "schema", min ? &k->min : &lo, min ? &k->max : &hi,
                          min != NULL);
        dfa_cache_add(x->c, kind, s, n, (cdfa *)(void *)k);
    }
    if (min) {
        *min = k->min;
        *max = k->max;
    }
    return k->d;
}

bool name_matches(sx *x, const jv *p, const char *s, size_t n)
{
    const cdfa *d = pattern_dfa(x, p, p->key, p->key_n, NULL, NULL);
    return d && dfa_accepts(d, s, n);
}

static bool says_nothing(sx *x, const jv *s)
{
    if (s->type != JV_OBJECT)
        return s->type == JV_TRUE;
    for (const jv *m = s->child; m; m = m->next)
        if (kw_asserts(x, s, m))
            return false;
    return true;
}

static bool in_list(const jv *list, const char *s, size_t n)
{
    for (const jv *m = list->child; m; m = m->next)
        if (m->type == JV_STRING && m->n == n && !memcmp(m->s, s, n))
            return true;
    return false;
}

/* How an object fails `properties` or `required`: a required member that is not there or has another value is one way,
 * not two, so that a conjunction of negated schemas does not multiply ways that say the same. */
static const alt *members_fail(sx *x, const jv *props, const jv *req, const alt *alts, uint32_t *n)
{
    for (const jv *m = props->child; m; m = m->next) {
        bool must = in_list(req, m->key, m->key_n), any = says_nothing(x, m);
        if (any && !must)
            continue;
        atom_kind kind = any ? A_ABSENT : must ? A_MAYBE : A_PROP;
        alts = alt_new(x, alts, atom_new(x, (atom){.kind = kind, .v = m, .neg = !any}, NULL));
        ++*n;
    }
    for (const jv *m = req->child; m; m = m->next)
        if (!jv_getn(props, m->s, m->n)) {
            alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_ABSENT, .v = m, .b = 1}, NULL));
            ++*n;
        }
    return alts;
}

static bool are_names(const jv *list)
{
    const jv *m = list && list->type == JV_ARRAY ? list->child : NULL;
    while (m && m->type == JV_STRING)
        m = m->next;
    return list && list->type == JV_ARRAY && !m;
}

static bool apply_schema(sx *x, work *w, const jv *s, bool neg)
{
    item it = item_of(s, false, neg);
    if (s->type == JV_TRUE || s->type == JV_FALSE)
        return (s->type == JV_TRUE) != neg;
    if (s->type != JV_OBJECT)
        schema_fail(x, s, IMP_E_PARSE, "wanted a schema: an object or a boolean");
    for (const ilist *l = w->applied; l; l = l->next) {
        cc_work(x->c, 1);
        if (l->it == it)
            return true;
        if (l->it == (it ^ 1))
            return false;
    }
    ilist *l = CC_NEW(x->c, ilist);
    *l = (ilist){it, w->applied};
    w->applied = l;
    /* until draft 7 a $ref silences its siblings */
    const jv *only = x->draft && x->draft <= 7 ? jv_get(s, "$ref") : NULL;
    if (only && only->type != JV_STRING)
        only = NULL;
    const alt *alts = NULL;
    uint32_t n = 0;
    const jv *props = jv_get(s, "properties"), *req = jv_get(s, "required");
    bool both = neg && !only && props && props->type == JV_OBJECT && are_names(req);
    if (both && w->b.t == T_OBJ)
        alts = members_fail(x, props, req, alts, &n);
    for (const jv *m = s->child; m; m = m->next) {
        if ((only && m != only) || !kw_asserts(x, s, m) || (both && (m == props || m == req)))
            continue;
        if (!neg) {
            if (!kw_apply(x, w, s, m, false))
                return false;
        } else {
            alts = alt_new(x, alts, atom_new(x, (atom){.kind = A_KW, .v = m, .owner = s, .neg = true}, NULL));
            n++;
        }
    }
    if (neg) {
        if (!n)
            return false;
        push_choice(x, w, alts, n);
    }
    return true;
}

static void add_name(sx *x, const nlist **l, const char *s, size_t n, item it)
{
    nlist *p = CC_NEW(x->c, nlist);
    *p = (nlist){s, n, it, *l};
    *l = p;
}

static bool apply_atom(sx *x, work *w, const atom *a)
{
    branch *b = &w->b;
    const char *name = a->v ? (a->b ? a->v->s : a->v->key) : NULL;
    size_t name_n = a->v ? (a->b ? a->v->n : a->v->key_n) : 0;
    bool arr = b->t == T_ARR, obj = b->t == T_OBJ;
    switch (a->kind) {
    case A_SCHEMA: return apply_schema(x, w, a->v, a->neg);
    case A_CONST: return const_apply(x, w, a->v, a->neg);
    case A_KW: return kw_apply(x, w, a->owner, a->v, a->neg);
    case A_NAMES: return obj ? names_atoms(x, w, a->v, a->neg) : !a->neg;
    case A_PROP: /* the member is there, with this value */
        if (!obj)
            return false;
        add_name(x, &b->req, name, name_n, 0);
        add_name(x, &b->extra, name, name_n, item_of(a->v, a->constant, a->neg));
        return true;
    case A_MAYBE: /* the member is not there, or with this value */
        if (!obj)
            return false;
        add_name(x, &b->extra, name, name_n, item_of(a->v, false, a->neg));
        return true;
    case A_ABSENT:
        if (!obj)
            return true;
        for (const nlist *r = b->req; r; r = r->next)
            if (r->n == name_n && !memcmp(r->s, name, name_n))
                return false;
        add_name(x, &b->extra, name, name_n, ITEM_FALSE);
        return true;
    case A_REQ:
        if (!obj)
            return true;
        for (const nlist *r = b->req; r; r = r->next)
            if (r->n == name_n && !memcmp(r->s, name, name_n))
                return true;
        for (const nlist *r = b->extra; r; r = r->next)
            if (r->it == ITEM_FALSE && r->n == name_n && !memcmp(r->s, name, name_n))
                return false;
        add_name(x, &b->req, name, name_n, 0);
        return true;
    case A_MINP:
        b->minp = obj && a->a > b->minp ? a->a : b->minp;
        return obj && b->minp <= b->maxp;
    case A_MAXP:
        b->maxp = obj && a->a < b->maxp ? a->a : b->maxp;
        return obj && b->minp <= b->maxp;
    case A_MINI:
        b->mini = arr && a->a > b->mini ? a->a : b->mini;
        return arr && b->mini <= b->maxi;
    case A_MAXI:
        b->maxi = arr && a->a < b->maxi ? a->a : b->maxi;
        return arr && b->mini <= b->maxi;
    case A_INDEX: {
        if (!arr)
            return false;
        xlist *l = CC_NEW(x->c, xlist);
        *l = (xlist){a->a, item_of(a->v, a->constant, a->neg), b->aextra};
        b->aextra = l;
        b->mini = a->a + 1 > b->mini ? a->a + 1 : b->mini;
        return b->mini <= b->maxi;
    }
    case A_CONTAINS: {
        if (!arr)
            return false;
        clist *l = CC_NEW(x->c, clist);
        *l = (clist){item_of(a->v, false, a->neg), 1, INF, a->a, b->contains};
        b->contains = l;
        return true;
    }
    case A_EXISTS: {
        if (!obj)
            return false;
        elist *l = CC_NEW(x->c, elist);
        *l = (elist){a->owner, a->a ? a->v : NULL, NULL, item_of(a->v, false, a->neg), b->exists};
        b->exists = l;
        b->minp = b->minp ? b->minp : 1;
        return b->minp <= b->maxp;
    }
    case A_BADNAME: { /* some key's name fails the schema; its value may be anything */
        if (!obj)
            return false;
        elist *l = CC_NEW(x->c, elist);
        *l = (elist){a->owner, NULL, a->v, ITEM_ANY, b->exists};
        b->exists = l;
        b->minp = b->minp ? b->minp : 1;
        return b->minp <= b->maxp;
    }
    case A_NUM_BELOW:
    case A_NUM_ABOVE: {
        num_con *n = &b->num;
        bool lower = a->kind == A_NUM_ABOVE;
        const dec *d = &a->v->num;
        if (lower && (!n->has_lo || dec_cmp(d, &n->lo) >= 0))
            n->has_lo = n->lo_open = true, n->lo = *d;
        if (!lower && (!n->has_hi || dec_cmp(d, &n->hi) <= 0))
            n->has_hi = n->hi_open = true, n->hi = *d;
        return !num_empty_quick(n);
    }
    }
    return false;
}

bool apply_all(sx *x, work *w)
{
    while (w->todo) {
        const atom *a = w->todo;
        w->todo = a->next;
        cc_work(x->c, 20);
        if (!apply_atom(x, w, a))
            return false;
    }
    return true;
}

/* ---- the solver ------------------------------------------------------------------------------------------------- */
typedef bool (*emit_fn)(sx *x, void *arg, const branch *b); /* false: enough */

static bool solve(sx *x, work *w, int depth, emit_fn emit, void *arg)
{
    if (depth > CHOICE_DEPTH)
        cc_fail(x->c, IMP_E_LIMIT, "schema: too complex: choices nested deeper than %d", CHOICE_DEPTH);
    while (w->choices) {
        /* The choice with the fewest alternatives first: contradictions show early. */
        const choice *best = w->choices;
        for (const choice *k = w->choices; k; k = k->next)
            if (k->n < best->n)
                best = k;
        choice *rest = NULL;
        for (const choice *k = w->choices; k; k = k->next)
            if (k != best) {
                choice *copy = CC_NEW(x->c, choice);
                *copy = (choice){k->alts, k->n, rest};
                rest = copy;
            }
        work *out = NULL;
        size_t n = 0, cap = 0;
        bool trivial = false;
        for (const alt *a = best->alts; a && !trivial; a = a->next) {
            work t = {.b = w->b, .todo = a->atoms, .choices = NULL, .applied = w->applied};
            memcpy(&t.b, &w->b, sizeof t.b);
            cc_work(x->c, 30);
            if (!apply_all(x, &t))
                continue;
            /* It holds as it is: the choice says nothing. */
            trivial = !t.choices && !memcmp(&t.b, &w->b, sizeof t.b);
            for (const choice *k = t.choices; k; k = k->next) {
                if (k->next)
                    continue;
                ((choice *)(void *)k)->next = rest;
                break;
            }
            if (!t.choices)
                t.choices = rest;
            CC_PUSH(x->c, out, n, cap, t);
        }
        w->choices = rest;
        if (trivial)
            continue;
        if (!n)
            return true;
        if (n == 1) {
            memcpy(w, &out[0], sizeof *w);
            continue;
        }
        for (size_t i = 0; i < n; i++)
            if (!solve(x, &out[i], depth + 1, emit, arg))
                return false;
        return true;
    }
    return emit(x, arg, &w->b);
}

static void work_init(work *w, jtype t)
{
    memset(w, 0, sizeof *w);
    w->b.t = t;
    w->b.bools = 3;
    w->b.smax = w->b.maxp = w->b.maxi = INF;
}

static bool solve_items(sx *x, const item *it, size_t n, jtype t, emit_fn emit, void *arg)
{
    work w;
    work_init(&w, t);
    for (size_t i = n; i-- > 0;) {
        if (it[i] == ITEM_FALSE)
            return true;
        push_atom(x, &w, (atom){.kind = it[i] & 2 ? A_CONST : A_SCHEMA, .v = x->doc.by_id[it[i] >> 2],
                                .neg = it[i] & 1});
    }
    return !apply_all(x, &w) || solve(x, &w, 0, emit, arg);
}

/* ---- nodes ------------------------------------------------------------------------------------------------------ */
static int by_item(const void *a, const void *b)
{
    item x = *(const item *)a, y = *(const item *)b;
    return x < y ? -1 : x > y;
}

uint32_t node_get(sx *x, item *it, size_t n)
{
    size_t k = 0;
    bool found, never = false;
    if (n)
        qsort(it, n, sizeof *it, by_item);
    for (size_t i = 0; i < n; i++) {
        /* `true` adds nothing; `false` and "S and not S" leave nothing */
        const jv *v = it[i] == ITEM_FALSE ? NULL : x->doc.by_id[it[i] >> 2];
        bool plain = v && !(it[i] & 2);
        bool whole = plain && (v->type == JV_TRUE || (v->type == JV_OBJECT && !v->n_child));
        if (!v || (plain && v->type == JV_FALSE && !(it[i] & 1)) || (whole && (it[i] & 1)) ||
            (k && (it[k - 1] ^ 1) == it[i]))
            never = true;
        if (whole || (plain && v->type == JV_FALSE) || (k && it[k - 1] == it[i]))
            continue;
        it[k++] = it[i];
    }
    if (never)
        it[0] = ITEM_FALSE, k = 1;
    uint64_t h = hash_bytes(it, k * sizeof *it) >> 1;
    for (;; h++) {
        uint32_t *v = idmap_at(x->c, &x->by_items, h, &found);
        if (!found) {
            vnode node = {.it = CC_ARRAY(x->c, item, k + 1), .n = (uint32_t)k, .out = DEAD};
            if (k)
                memcpy(node.it, it, k * sizeof *it);
            *v = (uint32_t)x->n_node;
            CC_PUSH(x->c, x->node, x->n_node, x->cap_node, node);
            if (x->n_node > 400000)
                cc_fail(x->c, IMP_E_LIMIT, "schema: too complex: more than 400000 value nodes");
            return (uint32_t)(x->n_node - 1);
        }
        const vnode *o = &x->node[*v];
        if (o->n == k && (!k || !memcmp(o->it, it, k * sizeof *it)))
            return *v;
    }
}

/* Neither end of the lengths is met or passed by the automaton alone: only both together tell. */
static bool lengths_tangled(const branch *b)
{
    return b->sd && b->sd->mind[b->sd->start] < b->smin && b->sd->maxd[b->sd->start] > b->smax;
}

bool string_nonempty(sx *x, const branch *b)
{
    if (b->smin > b->smax)
        return false;
    if (!b->sd)
        return true;
    if (b->sd->mind[b->sd->start] > b->smax || b->sd->maxd[b->sd->start] < b->smin)
        return false;
    return !lengths_tangled(b) || b->smax > 300 || with_length(x, b->sd, b->smin, b->smax);
}

static bool branch_scalar_ok(sx *x, const branch *b)
{
    if (b->t == T_STR)
        return string_nonempty(x, b);
    if (b->t == T_NUM) {
        const num_con *n = &b->num;
        bool plain = !n->mult && !((n->only_int || n->only_frac) && n->has_lo && n->has_hi);
        return !num_empty_quick(n) && (plain || number_dfa(x, n, false, "schema"));
    }
    return true;
}

/* ---- subsumption: a says all that b says, and maybe more; then b alone is enough -------------------------------- */
static bool names_within(const nlist *b, const nlist *a)
{
    for (; b; b = b->next) {
        const nlist *p = a;
        while (p && (p->it != b->it || p->n != b->n || memcmp(p->s, b->s, b->n)))
            p = p->next;
        if (!p)
            return false;
    }
    return true;
}

static bool layers_within(const llist *b, const llist *a)
{
    for (; b; b = b->next) {
        const llist *p = a;
        while (p && p->owner != b->owner)
            p = p->next;
        if (!p)
            return false;
    }
    return true;
}

static bool says_more(const branch *a, const branch *b)
{
    if (a->t != b->t || (a->t != T_OBJ && a->t != T_ARR))
        return false;
    if (a->t == T_OBJ) {
        for (const elist *e = b->exists; e; e = e->next) {
            const elist *p = a->exists;
            while (p && (p->owner != e->owner || p->pattern != e->pattern || p->names != e->names || p->it != e->it))
                p = p->next;
            if (!p)
                return false;
        }
        return a->minp >= b->minp && a->maxp <= b->maxp && (!b->pnames || a->pnames == b->pnames) &&
               names_within(b->req, a->req) && names_within(b->extra, a->extra) &&
               layers_within(b->olayers, a->olayers);
    }
    for (const xlist *e = b->aextra; e; e = e->next) {
        const xlist *p = a->aextra;
        while (p && (p->index != e->index || p->it != e->it))
            p = p->next;
        if (!p)
            return false;
    }
    return a->mini >= b->mini && a->maxi <= b->maxi && (!b->contains || a->contains == b->contains) &&
           (!b->unique || a->unique) && layers_within(b->alayers, a->alayers);
}

static bool emit_node(sx *x, void *arg, const branch *b)
{
    vnode *v = &x->node[*(uint32_t *)arg];
    if (!branch_scalar_ok(x, b))
        return true;
    if (b->unsup)
        schema_fail(x, b->unsup, IMP_E_UNSUPPORTED, b->unsup_why);
    size_t k = 0;
    cc_work(x->c, v->n_br);
    for (size_t i = 0; i < v->n_br; i++)
        if (!memcmp(&v->br[i].b, b, sizeof *b) || says_more(b, &v->br[i].b))
            return true;
    for (size_t i = 0; i < v->n_br; i++)
        if (!says_more(&v->br[i].b, b)) {
            if (k != i)
                memcpy(&v->br[k], &v->br[i], sizeof *v->br);
            k++;
        }
    v->n_br = k;
    bnode n;
    memset(&n, 0, sizeof n);
    memcpy(&n.b, b, sizeof *b);
    if (b->t == T_STR && lengths_tangled(b) && b->smax <= 300) {
        n.b.sd = with_length(x, b->sd, b->smin, b->smax);
        n.b.smin = 0;
        n.b.smax = INF;
    }
    n.idx = DEAD;
    if (v->n_br >= BRANCH_MAX)
        schema_fail(x, x->doc.by_id[v->it[0] >> 2], IMP_E_LIMIT,
                    "too complex: its alternatives multiply to more than 600");
    CC_PUSH(x->c, v->br, v->n_br, v->cap_br, n);
    return true;
}

void node_expand(sx *x, uint32_t id)
{
    item *it = x->node[id].it;
    uint32_t n = x->node[id].n;
    x->node[id].expanded = true;
    for (int t = 0; t < T_COUNT; t++)
        solve_items(x, it, n, (jtype)t, emit_node, &id);
    for (size_t i = 0; i < x->node[id].n_br; i++) {
        /* children may add nodes: x->node moves, so work on a copy */
        bnode b = x->node[id].br[i];
        if (b.b.t == T_OBJ)
            object_children(x, &b);
        else if (b.b.t == T_ARR)
            array_children(x, &b);
        x->node[id].br[i] = b;
    }
}

/* ---- is there anything at all? (before nodes are made; errs towards yes) ---------------------------------------- */
typedef struct quick {
    int depth;
    bool sat;
} quick;

static bool emit_quick(sx *x, void *arg, const branch *b)
{
    quick *q = arg;
    if (!branch_scalar_ok(x, b))
        return true;
    if (b->t == T_OBJ && q->depth > 0) {
        for (const nlist *r = b->req; r; r = r->next) {
            item it[64];
            size_t n = 0;
            for (const nlist *e = b->extra; e && n < 60; e = e->next)
                if (e->n == r->n && !memcmp(e->s, r->s, r->n))
                    it[n++] = e->it;
            for (const llist *l = b->olayers; l && n < 60; l = l->next) {
                const jv *p = jv_get(l->owner, "properties"), *m = p ? jv_getn(p, r->s, r->n) : NULL;
                const jv *ap = jv_get(l->owner, "additionalProperties");
                if (m)
                    it[n++] = item_of(m, false, false);
                else if (ap && ap->type == JV_FALSE && !jv_get(l->owner, "patternProperties"))
                    return true; /* required, and not allowed */
            }
            if (n && !items_sat_quick(x, it, n, q->depth - 1))
                return true;
        }
    }
    q->sat = true;
    return false;
}

bool items_sat_quick(sx *x, const item *it, size_t n, int depth)
{
    quick q = {.depth = depth};
    for (int t = 0; t < T_COUNT && !q.sat; t++)
        solve_items(x, it, n, (jtype)t, emit_quick, &q);
    return q.sat;
}

bool pair_disjoint(sx *x, const jv *a, const jv *b, jtype t)
{
    bool found;
    if (a->id > b->id) {
        const jv *s = a;
        a = b;
        b = s;
    }
    uint64_t key = ((uint64_t)a->id << 32 | b->id) * 8 + (uint64_t)t;
    uint32_t *v = idmap_at(x->c, &x->disjoint, key, &found);
    if (found)
        return *v == 1;
    *v = 0; /* asked again while being computed: not shown to be disjoint */
    if (++x->depth > 40) {
        x->depth--;
        return false;
    }
    quick q = {.depth = 4};
    item it[2] = {item_of(a, false, false), item_of(b, false, false)};
    solve_items(x, it, 2, t, emit_quick, &q);
    x->depth--;
    *idmap_at(x->c, &x->disjoint, key, &found) = !q.sat;
    return !q.sat;
}

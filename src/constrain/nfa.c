/* Regular expression tree to automaton: Thompson's construction and the subset construction over character classes.
 *
 * Invariants of a state set: (1) it is closed under empty moves other than EOL; (2) BOL moves were taken only in the
 * closure made before the first character; (3) it is sorted, so equal sets compare equal. An end that needs no EOL
 * means that anything may follow when searching; an end behind EOL counts at the end of the text alone. */
#include <stdlib.h>
#include <string.h>

#include "constrain/constrain_impl.h"

typedef enum nfa_op { N_SET, N_SPLIT, N_BOL, N_EOL, N_MATCH, N_FAIL } nfa_op;
typedef struct nfa_node {
    nfa_op op;
    uint32_t set, out, out1;
} nfa_node;

typedef struct nfa {
    cc *c;
    nfa_node *node;
    size_t n, cap;
    const char *where;
} nfa;

#define NFA_MAX 200000

static uint32_t nfa_add(nfa *m, nfa_op op, uint32_t set, uint32_t out, uint32_t out1)
{
    if (m->n >= NFA_MAX)
        cc_fail(m->c, IMP_E_LIMIT, "%s: regular expression too big once its repeats are written out", m->where);
    cc_work(m->c, 4);
    nfa_node v = {op, set, out, out1};
    CC_PUSH(m->c, m->node, m->n, m->cap, v);
    return (uint32_t)(m->n - 1);
}

/* Builds backwards: returns the entry of r whose every end leads to next. CAT and ALT lean left and may be long, so
 * their spines are loops; real nesting is bounded by the parsers. */
static uint32_t nfa_emit(nfa *m, const re_node *r, uint32_t next)
{
    switch (r->op) {
    case RE_EMPTY: return next;
    case RE_NEVER: return nfa_add(m, N_FAIL, 0, 0, 0);
    case RE_SET: return nfa_add(m, N_SET, r->set, next, 0);
    case RE_BOL: return nfa_add(m, N_BOL, 0, next, 0);
    case RE_EOL: return nfa_add(m, N_EOL, 0, next, 0);
    case RE_CAT:
        for (; r->op == RE_CAT; r = r->a)
            next = nfa_emit(m, r->b, next);
        return nfa_emit(m, r, next);
    case RE_ALT: {
        uint32_t rest = nfa_emit(m, r->b, next);
        for (r = r->a; r->op == RE_ALT; r = r->a)
            rest = nfa_add(m, N_SPLIT, 0, nfa_emit(m, r->b, next), rest);
        return nfa_add(m, N_SPLIT, 0, nfa_emit(m, r, next), rest);
    }
    case RE_REP: {
        uint32_t at = next, must = r->min;
        if (r->max == INF) {
            uint32_t loop = nfa_add(m, N_SPLIT, 0, 0, next);
            uint32_t body = nfa_emit(m, r->a, loop);
            m->node[loop].out = body;
            at = loop;
            if (must) { /* the loop's body is the last of the required ones */
                at = body;
                must--;
            }
        } else {
            for (uint32_t i = r->min; i < r->max; i++)
                at = nfa_add(m, N_SPLIT, 0, nfa_emit(m, r->a, at), next);
        }
        for (uint32_t i = 0; i < must; i++)
            at = nfa_emit(m, r->a, at);
        return at;
    }
    }
    return next;
}

typedef struct subset {
    uint32_t *s, n;
} subset;

typedef struct build {
    cc *c;
    nfa m;
    uint32_t *mark, stamp, *stack;
    uint32_t *set, n_set;        /* the closure being made */
    bool hit;                    /* it holds MATCH */
    size_t n_seen;               /* nodes passed */
} build;

/* A closure stops at such a node and holds it; the others are passed through. */
static bool is_stop(nfa_op op) { return op != N_SPLIT && op != N_BOL && op != N_MATCH && op != N_FAIL; }

static void closure_add(build *b, uint32_t q, bool bol)
{
    uint32_t sp = 0;
    if (b->mark[q] == b->stamp)
        return;
    b->mark[q] = b->stamp;
    b->stack[sp++] = q;
    while (sp) {
        q = b->stack[--sp];
        b->n_seen++;
        nfa_node *v = &b->m.node[q];
        uint32_t next[2], n = 0;
        switch (v->op) {
        case N_SPLIT: next[n++] = v->out1; next[n++] = v->out; break;
        case N_BOL:
            if (bol)
                next[n++] = v->out;
            break;
        case N_MATCH: b->hit = true; break;
        case N_FAIL: break;
        default: b->set[b->n_set++] = q; break;
        }
        for (uint32_t i = 0; i < n; i++)
            if (b->mark[next[i]] != b->stamp) {
                b->mark[next[i]] = b->stamp;
                b->stack[sp++] = next[i];
            }
    }
}

/* Does the set end here when the text ends? */
static bool ends_at_eol(build *b, const subset *s, bool bol)
{
    uint32_t sp = 0;
    b->stamp++;
    for (uint32_t i = 0; i < s->n; i++)
        if (b->m.node[s->s[i]].op == N_EOL)
            b->stack[sp++] = s->s[i];
    while (sp) {
        nfa_node *v = &b->m.node[b->stack[--sp]];
        uint32_t next[2], n = 0;
        if (v->op == N_MATCH)
            return true;
        if (v->op == N_SPLIT)
            next[n++] = v->out, next[n++] = v->out1;
        else if (v->op == N_EOL || (v->op == N_BOL && bol))
            next[n++] = v->out;
        for (uint32_t i = 0; i < n; i++)
            if (b->mark[next[i]] != b->stamp) {
                b->mark[next[i]] = b->stamp;
                b->stack[sp++] = next[i];
            }
    }
    return false;
}

static int by_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

typedef struct dstates {
    subset *s;
    uint32_t *label;
    size_t n, cap, cap_l;
    uint32_t *slot;
    size_t hcap;
} dstates;

/* The current closure as a state; new ones are appended. `sink`: accepts whatever follows. */
static uint32_t intern(build *b, dstates *d, bool search, bool start)
{
    cc *c = b->c;
    subset s = {b->set, b->n_set};
    uint32_t label = b->hit;
    bool sink = b->hit && search;
    if (sink)
        s.n = 0;
    if (!s.n && !label)
        return DEAD;
    if (s.n < 64) { /* insertion sort: sets are small and nearly sorted */
        for (uint32_t i = 1; i < s.n; i++) {
            uint32_t v = s.s[i], j = i;
            for (; j && s.s[j - 1] > v; j--)
                s.s[j] = s.s[j - 1];
            s.s[j] = v;
        }
    } else if (s.n > b->m.n / 32) { /* most of the nodes: their marks stand in order already */
        uint32_t n = 0;
        for (uint32_t q = 0; q < b->m.n; q++)
            if (b->mark[q] == b->stamp && is_stop(b->m.node[q].op))
                s.s[n++] = q;
    } else {
        qsort(s.s, s.n, sizeof *s.s, by_u32);
    }
    if (!label)
        label = ends_at_eol(b, &s, start) ? 2 : 0;
    uint64_t h = hash64(hash_bytes(s.s, s.n * sizeof *s.s) ^ (label << 1) ^ start);
    size_t j = h & (d->hcap - 1);
    for (; d->slot[j] != DEAD; j = (j + 1) & (d->hcap - 1)) {
        uint32_t o = d->slot[j];
        if (d->label[o] == label && d->s[o].n == s.n && !memcmp(d->s[o].s, s.s, s.n * sizeof *s.s))
            return o;
    }
    if (d->n >= c->o.max_states)
        cc_fail(c, IMP_E_LIMIT, "%s: regular expression too complex: more than %u states", b->m.where, c->o.max_states);
    subset keep = {CC_ARRAY(c, uint32_t, s.n + 1), s.n};
    memcpy(keep.s, s.s, s.n * sizeof *s.s);
    size_t nl = d->n;
    CC_PUSH(c, d->label, nl, d->cap_l, label);
    CC_PUSH(c, d->s, d->n, d->cap, keep);
    d->slot[j] = (uint32_t)(d->n - 1);
    if (d->n * 2 > d->hcap) {
        d->hcap *= 2;
        d->slot = CC_ARRAY(c, uint32_t, d->hcap);
        memset(d->slot, 0xFF, d->hcap * sizeof *d->slot);
        for (size_t i = 0; i < d->n; i++) {
            uint64_t h = hash_bytes(d->s[i].s, d->s[i].n * sizeof(uint32_t));
            size_t k = hash64(h ^ (d->label[i] << 1) ^ (i == 0)) & (d->hcap - 1);
            while (d->slot[k] != DEAD)
                k = (k + 1) & (d->hcap - 1);
            d->slot[k] = (uint32_t)i;
        }
    }
    return (uint32_t)(d->n - 1);
}

cdfa *re_compile(cc *c, const re_sets *sets, const re_node *re, bool search, const char *where)
{
    build b = {.c = c, .m = {.c = c, .where = where}};
    dfa_raw r = {0};
    uint64_t *members;
    size_t words;
    re_sets all = {0}; /* the pattern's own sets, and last the set of everything */
    for (size_t i = 0; i < sets->n; i++)
        CC_PUSH(c, all.s, all.n, all.cap, sets->s[i]);
    cpset any = {0};
    cpset_add(c, &any, 0, CP_MAX);
    CC_PUSH(c, all.s, all.n, all.cap, any);
    dfa_classes(c, &r, all.s, all.n, &members, &words);

    uint32_t match = nfa_add(&b.m, N_MATCH, 0, 0, 0);
    uint32_t entry = nfa_emit(&b.m, re, match), again = DEAD;
    if (search) {
        again = nfa_add(&b.m, N_SPLIT, 0, 0, entry);
        uint32_t skip = nfa_add(&b.m, N_SET, (uint32_t)all.n - 1, again, 0);
        b.m.node[again].out = skip;
    }
    b.mark = CC_ARRAY(c, uint32_t, b.m.n + 1);
    b.stack = CC_ARRAY(c, uint32_t, b.m.n + 1);
    b.set = CC_ARRAY(c, uint32_t, b.m.n + 1);
    dstates d = {.hcap = 64};
    d.slot = CC_ARRAY(c, uint32_t, d.hcap);
    memset(d.slot, 0xFF, d.hcap * sizeof *d.slot);
    b.stamp = 1;
    closure_add(&b, search ? again : entry, true);
    if (intern(&b, &d, search, true) == DEAD)
        return NULL;

    /* per class: which targets; a chain per class over (target) cells, rebuilt for each state */
    uint32_t *first = CC_ARRAY(c, uint32_t, r.ncls), *cell_next = CC_ARRAY(c, uint32_t, 1);
    uint32_t *cell_to = NULL;
    size_t cells_cap = 0, to_cap = 0, nt = 0, cap_t = 0;
    uint32_t **set_cls = CC_ARRAY(c, uint32_t *, all.n), *n_set_cls = CC_ARRAY(c, uint32_t, all.n);
    for (size_t i = 0; i < all.n; i++) {
        set_cls[i] = CC_ARRAY(c, uint32_t, r.ncls);
        for (uint32_t k = 0; k < r.ncls; k++)
            if (members[k * words + i / 64] >> i % 64 & 1)
                set_cls[i][n_set_cls[i]++] = k;
    }
    uint32_t *trans = NULL;
    for (size_t q = 0; q < d.n; q++) {
        memset(first, 0xFF, r.ncls * sizeof *first);
        size_t n_cell = 0;
        bool sink = search && d.label[q] == 1;
        for (uint32_t i = 0; i < d.s[q].n; i++) {
            nfa_node *v = &b.m.node[d.s[q].s[i]];
            if (v->op != N_SET)
                continue;
            for (uint32_t k = 0; k < n_set_cls[v->set]; k++) {
                uint32_t cls = set_cls[v->set][k];
                size_t nc = n_cell;
                CC_PUSH(c, cell_next, nc, cells_cap, first[cls]);
                CC_PUSH(c, cell_to, n_cell, to_cap, v->out);
                first[cls] = (uint32_t)(n_cell - 1);
            }
        }
        cc_work(c, n_cell + r.ncls);
        for (uint32_t k = 0; k < r.ncls; k++) {
            uint32_t to = DEAD;
            if (sink) {
                bool in = members[k * words + (all.n - 1) / 64] >> (all.n - 1) % 64 & 1;
                to = in ? (uint32_t)q : DEAD;
            } else if (first[k] != DEAD) {
                b.stamp++;
                b.n_set = 0;
                b.hit = false;
                for (uint32_t i = first[k]; i != DEAD; i = cell_next[i])
                    closure_add(&b, cell_to[i], false);
                to = intern(&b, &d, search, false);
                cc_work(c, 2 * b.n_seen + 2 * b.n_set); /* sets are what time goes into */
                b.n_seen = 0;
            }
            CC_PUSH(c, trans, nt, cap_t, to);
        }
    }
    for (size_t q = 0; q < d.n; q++)
        d.label[q] = d.label[q] != 0;
    r.n = (uint32_t)d.n;
    r.trans = trans;
    r.label = d.label;
    return dfa_finish(c, &r, false);
}

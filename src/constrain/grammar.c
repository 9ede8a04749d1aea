/* Grammars: from the tree to rules. What is regular becomes one automaton each; only recursion needs the stack. Direct
 * left recursion becomes a repeat; indirect is refused by name. Rules that can never end are cut away, so that every
 * prefix that is accepted can be completed. */
#include <string.h>

#include "constrain/grammar_impl.h"

#define INLINE_MAX 4000 /* nodes of one expression written out before it is left to the stack */

typedef struct lrule {
    uint32_t *prod;
    size_t n, cap;
    bool nullable, productive, filled;
    const char *name;
    size_t name_n;
} lrule;

typedef struct low {
    grammar *g;
    cc *c;
    constrain_prog *p;
    gsym *sym;
    size_t n_sym, cap_sym;
    lrule *rule;
    size_t n_rule, cap_rule;
    grep_ *rep;
    size_t n_rep, cap_rep;
    const cdfa **raw;
    size_t n_raw, cap_raw;
    int depth;
} low;

void prog_from_dfa(cc *c, constrain_prog *p, const cdfa *d)
{
    p->raw = (const cdfa **)(void *)CC_KEEP(c, cdfa *, 1);
    p->raw[0] = dfa_keep(c, d);
    p->n_raw = 1;
    p->gsym = CC_KEEP(c, gsym, 2);
    p->gsym[0] = (gsym){GS_LEX, 0};
    p->gsym[1] = (gsym){GS_END, 0};
    p->n_gsym = 2;
    p->rule = CC_KEEP(c, grule, 1);
    p->rule[0].prod = CC_KEEP(c, uint32_t, 1);
    p->rule[0].n = 1;
    p->rule[0].nullable = d->label[d->start] != 0;
    p->n_rule = 1;
}

/* Makes the program's one rule repeat: a counter instead of a state for each character. */
void prog_repeat(cc *c, constrain_prog *p, uint32_t min, uint32_t max)
{
    grule body = p->rule[0];
    p->gsym = CC_KEEP(c, gsym, 4);
    p->gsym[0] = (gsym){GS_LEX, 0};
    p->gsym[1] = (gsym){GS_END, 0};
    p->gsym[2] = (gsym){GS_REP, 0};
    p->gsym[3] = (gsym){GS_END, 0};
    p->n_gsym = 4;
    p->rep = CC_KEEP(c, grep_, 1);
    p->rep[0] = (grep_){0, min, max};
    p->n_rep = 1;
    p->rule = CC_KEEP(c, grule, 2);
    p->rule[0] = body;
    p->rule[1].prod = CC_KEEP(c, uint32_t, 1);
    p->rule[1].prod[0] = 2;
    p->rule[1].n = 1;
    p->rule[1].nullable = min == 0;
    p->n_rule = 2;
    p->root = 1;
}

/* ---- recursion -------------------------------------------------------------------------------------------------- */
/* Marks rules that can reach themselves. Depth is bounded by the number of rules; deep chains are refused. */
static bool reaches(grammar *g, const gn *p, uint32_t target, int depth)
{
    cc_work(g->c, 1);
    if (depth > 1000)
        cc_fail(g->c, IMP_E_LIMIT, "grammar: rules refer to each other more than 1000 deep");
    if (p->op == GN_REF) {
        if (p->rule == target)
            return true;
        gdef *d = &g->def[p->rule];
        if (d->mark)
            return false;
        d->mark = 1;
        return reaches(g, d->body, target, depth + 1);
    }
    for (size_t i = 0; i < p->n; i++)
        if (reaches(g, p->kid[i], target, depth + 1))
            return true;
    return false;
}

static void mark_recursive(grammar *g)
{
    for (size_t i = 0; i < g->n_def; i++) {
        for (size_t k = 0; k < g->n_def; k++)
            g->def[k].mark = 0;
        cc_work(g->c, g->n_def);
        g->def[i].recursive = reaches(g, g->def[i].body, (uint32_t)i, 0);
    }
}

/* A: A x | A y | z   becomes   A: z (x | y)* */
static void direct_left(grammar *g, uint32_t r)
{
    gn *body = g->def[r].body, *base = gn_new(g, GN_ALT), *tails = gn_new(g, GN_ALT);
    size_t n = body->op == GN_ALT ? body->n : 1;
    for (size_t i = 0; i < n; i++) {
        gn *a = body->op == GN_ALT ? body->kid[i] : body;
        if (a->op == GN_REF && a->rule == r)
            continue; /* A: A says nothing */
        if (a->op == GN_CAT && a->kid[0]->op == GN_REF && a->kid[0]->rule == r) {
            gn *t = gn_new(g, GN_CAT);
            for (size_t k = 1; k < a->n; k++)
                gn_add(g, t, a->kid[k]);
            gn_add(g, tails, t);
        } else {
            gn_add(g, base, a);
        }
    }
    if (!tails->n)
        return;
    gn *star = gn_new(g, GN_REP), *cat = gn_new(g, GN_CAT);
    star->max = INF;
    gn_add(g, star, tails);
    gn_add(g, cat, base);
    gn_add(g, cat, star);
    g->def[r].body = cat;
}

/* ---- the regular part ------------------------------------------------------------------------------------------- */
static re_node *to_re(grammar *g, const gn *p, size_t *budget, size_t times, int depth)
{
    if (depth > 300 || *budget < times)
        return NULL;
    *budget -= times;
    switch (p->op) {
    case GN_EMPTY: return re_new(g->c, RE_EMPTY, NULL, NULL);
    case GN_RE: {
        size_t cost = 0;
        for (const re_node *r = p->re; r->op == RE_CAT || r->op == RE_ALT; r = r->a)
            cost += times;
        if (cost > *budget)
            return NULL;
        *budget -= cost;
        return p->re;
    }
    case GN_REF: return g->def[p->rule].recursive ? NULL : to_re(g, g->def[p->rule].body, budget, times, depth + 1);
    case GN_REP: {
        size_t k = p->max == INF ? (p->min ? p->min : 1) : p->max;
        re_node *a = to_re(g, p->kid[0], budget, times * (k ? k : 1), depth + 1);
        return a ? re_rep(g->c, a, p->min, p->max) : NULL;
    }
    case GN_CAT:
    case GN_ALT: {
        re_node *all = NULL;
        for (size_t i = 0; i < p->n; i++) {
            re_node *a = to_re(g, p->kid[i], budget, times, depth + 1);
            if (!a)
                return NULL;
            all = all ? re_new(g->c, p->op == GN_CAT ? RE_CAT : RE_ALT, all, a) : a;
        }
        return all ? all : re_new(g->c, p->op == GN_CAT ? RE_EMPTY : RE_NEVER, NULL, NULL);
    }
    }
    return NULL;
}

static re_node *regular(low *l, const gn *p)
{
    size_t budget = INLINE_MAX;
    return to_re(l->g, p, &budget, 1, 0);
}

/* Only the sets that the expression uses take part, so that its classes stay few. */
static re_node *gather(low *l, const re_node *r, re_sets *out)
{
    re_node *k = re_new(l->c, r->op, NULL, NULL);
    k->min = r->min;
    k->max = r->max;
    if (r->op == RE_SET)
        k->set = re_set_add(l->c, out, &l->g->sets.s[r->set]);
    if (r->op == RE_CAT || r->op == RE_ALT) { /* left spines are long: a loop */
        re_node **tail = &k;
        for (; r->op == RE_CAT || r->op == RE_ALT; r = r->a) {
            re_node *m = re_new(l->c, r->op, NULL, gather(l, r->b, out));
            *tail = m;
            tail = &m->a;
        }
        *tail = gather(l, r, out);
        return k;
    }
    if (r->a)
        k->a = gather(l, r->a, out);
    return k;
}

/* DEAD when nothing matches. */
static uint32_t lex(low *l, const re_node *r)
{
    re_sets sets = {0};
    re_node *k = gather(l, r, &sets);
    const cdfa *d = re_compile(l->c, &sets, k, false, "grammar");
    if (!d)
        return DEAD;
    CC_PUSH(l->c, l->raw, l->n_raw, l->cap_raw, d);
    return (uint32_t)(l->n_raw - 1);
}

/* ---- rules ------------------------------------------------------------------------------------------------------ */
static uint32_t new_rule(low *l, const char *name, size_t n)
{
    lrule r = {.name = name, .name_n = n};
    CC_PUSH(l->c, l->rule, l->n_rule, l->cap_rule, r);
    return (uint32_t)(l->n_rule - 1);
}

static void fill_rule(low *l, uint32_t rule, const gn *p);

/* The symbols of p, appended to syms; false: it can never match. */
static bool symbols(low *l, const gn *p, gsym **syms, size_t *n, size_t *cap)
{
    re_node *re = regular(l, p);
    if (re) {
        if (re->op == RE_EMPTY)
            return true;
        gsym s = {GS_LEX, lex(l, re)};
        if (s.idx == DEAD)
            return false;
        CC_PUSH(l->c, *syms, *n, *cap, s);
        return true;
    }
    if (++l->depth > 400)
        cc_fail(l->c, IMP_E_LIMIT, "grammar: nested too deeply");
    bool ok = true;
    switch (p->op) {
    case GN_REF: {
        gsym s = {GS_RULE, p->rule};
        CC_PUSH(l->c, *syms, *n, *cap, s);
        break;
    }
    case GN_CAT:
        for (size_t i = 0; i < p->n && ok;) {
            /* as long a run as is regular together */
            gn run = {.op = GN_CAT, .kid = p->kid + i};
            re_node *best = NULL;
            size_t k = 0;
            while (i + k < p->n) {
                run.n = k + 1;
                re_node *t = regular(l, p->kid[i + k]) ? regular(l, &run) : NULL;
                if (!t)
                    break;
                best = t;
                k++;
            }
            if (best) {
                gsym s = {GS_LEX, lex(l, best)};
                ok = s.idx != DEAD;
                CC_PUSH(l->c, *syms, *n, *cap, s);
                i += k;
            } else {
                ok = symbols(l, p->kid[i], syms, n, cap);
                i++;
            }
        }
        break;
    case GN_ALT: {
        uint32_t r = new_rule(l, NULL, 0);
        fill_rule(l, r, p);
        gsym s = {GS_RULE, r};
        CC_PUSH(l->c, *syms, *n, *cap, s);
        break;
    }
    case GN_REP: {
        uint32_t r = new_rule(l, NULL, 0);
        fill_rule(l, r, p->kid[0]);
        grep_ g = {r, p->min, p->max};
        CC_PUSH(l->c, l->rep, l->n_rep, l->cap_rep, g);
        gsym s = {GS_REP, (uint32_t)(l->n_rep - 1)};
        CC_PUSH(l->c, *syms, *n, *cap, s);
        break;
    }
    default: ok = false;
    }
    l->depth--;
    return ok;
}

static void fill_rule(low *l, uint32_t rule, const gn *p)
{
    size_t n = p->op == GN_ALT ? p->n : 1;
    l->rule[rule].filled = true;
    bool whole = regular(l, p) != NULL;
    for (size_t i = 0; i < (whole ? 1 : n); i++) {
        const gn *a = !whole && p->op == GN_ALT ? p->kid[i] : p;
        gsym *s = NULL, end = {GS_END, 0};
        size_t k = 0, cap = 0;
        cc_work(l->c, 20);
        if (!symbols(l, a, &s, &k, &cap))
            continue;
        uint32_t at = (uint32_t)l->n_sym;
        for (size_t j = 0; j < k; j++)
            CC_PUSH(l->c, l->sym, l->n_sym, l->cap_sym, s[j]);
        CC_PUSH(l->c, l->sym, l->n_sym, l->cap_sym, end);
        lrule *r = &l->rule[rule];
        CC_PUSH(l->c, r->prod, r->n, r->cap, at);
    }
}

static bool sym_nullable(low *l, const gsym *s)
{
    if (s->kind == GS_LEX)
        return l->raw[s->idx]->label[l->raw[s->idx]->start] != 0;
    if (s->kind == GS_RULE)
        return l->rule[s->idx].nullable;
    return !l->rep[s->idx].min || l->rule[l->rep[s->idx].rule].nullable;
}

static bool sym_productive(low *l, const gsym *s)
{
    return s->kind == GS_LEX || (s->kind == GS_RULE && l->rule[s->idx].productive) ||
           (s->kind == GS_REP && (!l->rep[s->idx].min || l->rule[l->rep[s->idx].rule].productive));
}

static void properties(low *l)
{
    for (bool change = true; change;) {
        change = false;
        for (size_t i = l->n_rule; i-- > 0;) {
            lrule *r = &l->rule[i];
            cc_work(l->c, r->n + 1);
            for (size_t k = 0; k < r->n; k++) {
                bool nul = true, pro = true;
                for (const gsym *s = &l->sym[r->prod[k]]; s->kind != GS_END; s++) {
                    nul = nul && sym_nullable(l, s);
                    pro = pro && sym_productive(l, s);
                }
                change = change || (nul && !r->nullable) || (pro && !r->productive);
                r->nullable = r->nullable || nul;
                r->productive = r->productive || pro;
            }
        }
    }
    /* cut what can never end */
    for (size_t i = 0; i < l->n_rule; i++) {
        lrule *r = &l->rule[i];
        size_t n = 0;
        for (size_t k = 0; k < r->n; k++) {
            bool pro = true;
            for (const gsym *s = &l->sym[r->prod[k]]; s->kind != GS_END; s++)
                pro = pro && sym_productive(l, s);
            if (pro)
                r->prod[n++] = r->prod[k];
        }
        r->n = n;
    }
    for (size_t i = 0; i < l->n_rep; i++)
        if (!l->rule[l->rep[i].rule].productive)
            l->rep[i].max = 0;
}

/* Refuses rules that can come back to themselves without taking a character. mark: 1 on the path, 2 finished. */
static void no_left(low *l, uint32_t rule, uint8_t *mark, int depth)
{
    lrule *r = &l->rule[rule];
    if (mark[rule] == 2)
        return;
    if (mark[rule] == 1 || depth > 2000)
        cc_fail(l->c, IMP_E_UNSUPPORTED,
                "grammar: %.*s: left recursion through other rules cannot be enforced; write it as a repeat",
                (int)(r->name_n < 100 ? r->name_n : 100), r->name ? r->name : "");
    mark[rule] = 1;
    for (size_t k = 0; k < r->n; k++)
        for (const gsym *s = &l->sym[r->prod[k]]; s->kind != GS_END; s++) {
            cc_work(l->c, 1);
            if (s->kind == GS_RULE)
                no_left(l, s->idx, mark, depth + 1);
            else if (s->kind == GS_REP && l->rep[s->idx].max)
                no_left(l, l->rep[s->idx].rule, mark, depth + 1);
            if (!sym_nullable(l, s))
                break;
        }
    mark[rule] = 2;
}

static void keep(low *l, uint32_t root)
{
    constrain_prog *p = l->p;
    cc *c = l->c;
    p->root = root;
    p->raw = (const cdfa **)(void *)CC_KEEP(c, cdfa *, l->n_raw + 1);
    for (size_t i = 0; i < l->n_raw; i++)
        p->raw[i] = dfa_keep(c, l->raw[i]);
    p->n_raw = (uint32_t)l->n_raw;
    p->gsym = CC_KEEP(c, gsym, l->n_sym + 1);
    memcpy(p->gsym, l->sym, l->n_sym * sizeof *p->gsym);
    p->n_gsym = (uint32_t)l->n_sym;
    p->rule = CC_KEEP(c, grule, l->n_rule + 1);
    for (size_t i = 0; i < l->n_rule; i++) {
        const lrule *r = &l->rule[i];
        p->rule[i] = (grule){.prod = CC_KEEP(c, uint32_t, r->n + 1), .nullable = r->nullable, .n = (uint32_t)r->n};
        if (r->n)
            memcpy(p->rule[i].prod, r->prod, r->n * sizeof *r->prod);
    }
    p->n_rule = (uint32_t)l->n_rule;
    p->rep = CC_KEEP(c, grep_, l->n_rep + 1);
    if (l->n_rep)
        memcpy(p->rep, l->rep, l->n_rep * sizeof *l->rep);
    p->n_rep = (uint32_t)l->n_rep;
}

void grammar_compile(cc *c, const char *text, size_t n, constrain_prog *p)
{
    grammar g = {.c = c, .s = text, .n = n};
    low l = {.g = &g, .c = c, .p = p};
    uint32_t root = DEAD;
    grammar_parse(&g);
    for (size_t i = 0; i < g.n_def; i++)
        if ((g.def[i].name_n == 4 && !memcmp(g.def[i].name, "root", 4)) ||
            (g.def[i].name_n == 5 && !memcmp(g.def[i].name, "start", 5)))
            root = (uint32_t)i;
    if (root == DEAD)
        cc_fail(c, IMP_E_PARSE, "grammar: no rule is called \"root\" (or, in Lark, \"start\")");
    for (size_t i = 0; i < g.n_def; i++)
        direct_left(&g, (uint32_t)i);
    mark_recursive(&g);
    for (size_t i = 0; i < g.n_def; i++)
        new_rule(&l, g.def[i].name, g.def[i].name_n);
    for (size_t i = 0; i < g.n_def; i++)
        if (i == root || g.def[i].recursive || !regular(&l, g.def[i].body))
            fill_rule(&l, (uint32_t)i, g.def[i].body);
    for (size_t i = 0; i < l.n_sym; i++) /* regular, yet over the budget where it was used */
        if (l.sym[i].kind == GS_RULE && !l.rule[l.sym[i].idx].filled)
            fill_rule(&l, l.sym[i].idx, g.def[l.sym[i].idx].body);
    properties(&l);
    if (!l.rule[root].productive)
        cc_fail(c, IMP_E_UNSUPPORTED, "grammar: no text matches it");
    uint8_t *mark = CC_ARRAY(c, uint8_t, l.n_rule + 1);
    for (size_t i = 0; i < l.n_rule; i++)
        no_left(&l, (uint32_t)i, mark, 0);
    keep(&l, root);
}

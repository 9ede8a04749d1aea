/* From expanded nodes to the program: which nodes have values at all (a least fixed point), then tables. */
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "constrain/schema_impl.h"

/* ---- satisfiability --------------------------------------------------------------------------------------------- */
static bool sat(sx *x, uint32_t node) { return node != DEAD && x->node[node].sat; }

static bool any_sat(sx *x, const uint32_t *v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (sat(x, v[i]))
            return true;
    return false;
}

static uint64_t add_sat(uint64_t a, uint64_t b) { return a + b > INF ? INF : a + b; }

/* Fewest keys beyond the required ones that fulfil every obligation of an object; see ex_cost in machine_json.c. */
static uint64_t obligations_cost(sx *x, const obr *o)
{
    uint32_t sets = 1u << o->n_ex;
    uint64_t cost[32], next[32];
    for (uint32_t m = 0; m < sets; m++)
        cost[m] = m ? INF : 0;
    for (uint32_t i = 0; i < o->n_names; i++) {
        for (uint32_t m = 0; m < sets; m++)
            next[m] = o->required[i] ? INF : cost[m];
        for (uint32_t m = 0; m < sets; m++)
            for (uint32_t s = 0; s < sets; s++)
                if (sat(x, o->node[((size_t)i << o->n_ex) + s]) && cost[m] + !o->required[i] < next[m | s])
                    next[m | s] = cost[m] + !o->required[i];
        memcpy(cost, next, sizeof cost);
    }
    for (bool change = true; change;) {
        change = false;
        for (uint32_t c = 0; c < o->n_cls; c++)
            for (uint32_t m = 0; m < sets; m++)
                for (uint32_t s = 1; s < sets; s++)
                    if (sat(x, o->cls_node[((size_t)c << o->n_ex) + s]) && cost[m] + 1 < cost[m | s])
                        cost[m | s] = cost[m] + 1, change = true;
    }
    return cost[sets - 1];
}

typedef struct keep_arg {
    const obr *o;
    sx *x;
} keep_arg;

static bool keep_label(void *arg, uint32_t label)
{
    keep_arg *k = arg;
    for (uint32_t i = 0; i < k->o->n_cls; i++)
        if (k->o->cls_label[i] == label)
            return any_sat(k->x, k->o->cls_node + ((size_t)i << k->o->n_ex), 1u << k->o->n_ex);
    return false;
}

/* How many keys outside the names kd (NULL: any key) accepts. */
static uint32_t other_keys(const obr *o, const cdfa *kd)
{
    uint32_t n = kd ? kd->count[kd->start] : INF;
    for (uint32_t i = 0; i < o->n_names && n != INF; i++)
        n -= dfa_accepts(kd, o->name[i], o->name_n[i]);
    return n;
}

static bool object_sat(sx *x, bnode *bn)
{
    const branch *b = &bn->b;
    const obr *o = &bn->o;
    uint32_t sets = 1u << o->n_ex, need = 0;
    uint64_t can = 0;
    for (uint32_t i = 0; i < o->n_names; i++) {
        bool s = any_sat(x, o->node + ((size_t)i << o->n_ex), sets);
        if (o->required[i] && !s)
            return false;
        need += o->required[i];
        can += s;
    }
    bool extras = false;
    for (uint32_t i = 0; i < o->n_cls && !extras; i++)
        extras = any_sat(x, o->cls_node + ((size_t)i << o->n_ex), sets);
    if (extras && can < b->minp) { /* patterns may allow too few others */
        keep_arg ka = {o, x};
        can = add_sat(can, other_keys(o, o->kd ? dfa_filter(x->c, o->kd, keep_label, &ka) : NULL));
    }
    if (need > b->maxp || can < b->minp)
        return false;
    if (o->n_ex && b->maxp != INF)
        return need + obligations_cost(x, o) <= b->maxp;
    for (uint32_t e = 0; e < o->n_ex; e++) {
        bool ok = false;
        for (uint32_t set = 0; set < sets; set++) {
            if (!(set >> e & 1))
                continue;
            for (uint32_t i = 0; i < o->n_names && !ok; i++)
                ok = sat(x, o->node[((size_t)i << o->n_ex) + set]);
            for (uint32_t i = 0; i < o->n_cls && !ok; i++)
                ok = sat(x, o->cls_node[((size_t)i << o->n_ex) + set]);
        }
        if (!ok)
            return false;
    }
    return true;
}

static uint32_t array_max(sx *x, const bnode *bn)
{
    const abr *a = &bn->a;
    uint32_t max = bn->b.maxi;
    for (uint32_t i = 0; i <= a->n_prefix && i < max; i++)
        if (!any_sat(x, a->node + ((size_t)i << a->n_con), 1u << a->n_con))
            max = i;
    return max;
}

/* Counters of the contains clauses, clamped, packed as digits of mixed base. */
static uint32_t con_cap(const pcontains *c) { return c->max == INF ? c->min : c->max + 1; }

static uint32_t count_states(const pcontains *con, uint32_t n)
{
    uint64_t s = 1;
    for (uint32_t i = 0; i < n; i++)
        s *= (uint64_t)con_cap(&con[i]) + 1;
    return s > 100000 ? INF : (uint32_t)s;
}

static uint32_t count_next(const pcontains *con, uint32_t n, uint32_t state, uint32_t var, bool *dead)
{
    uint32_t out = 0, base = 1;
    *dead = false;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t cap = con_cap(&con[i]), v = state % (cap + 1);
        state /= cap + 1;
        if (var >> i & 1 && v < cap)
            v++;
        if (con[i].max != INF && v > con[i].max)
            *dead = true;
        out += v * base;
        base *= cap + 1;
    }
    return out;
}

static bool count_ok(const pcontains *con, uint32_t n, uint32_t state)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t cap = con_cap(&con[i]), v = state % (cap + 1);
        state /= cap + 1;
        if (v < con[i].min || (con[i].max != INF && v > con[i].max))
            return false;
    }
    return true;
}

/* viable[pos][counts]: from here the array can be finished. pos is clamped at `clamp`. */
static uint8_t *array_viable(sx *x, const bnode *bn, uint32_t clamp, uint32_t max, uint32_t n_counts)
{
    const abr *a = &bn->a;
    uint8_t *v = CC_ARRAY(x->c, uint8_t, (size_t)(clamp + 1) * n_counts);
    for (bool change = true; change;) {
        change = false;
        for (uint32_t pos = clamp + 1; pos-- > 0;) {
            cc_work(x->c, n_counts);
            for (uint32_t s = 0; s < n_counts; s++) {
                uint8_t *at = &v[(size_t)pos * n_counts + s];
                bool ok = *at || (pos >= bn->b.mini && count_ok(a->con, a->n_con, s));
                for (uint32_t var = 0; var < 1u << a->n_con && !ok && pos < max; var++) {
                    bool dead;
                    uint32_t p = pos < a->n_prefix ? pos : a->n_prefix;
                    uint32_t to = count_next(a->con, a->n_con, s, var, &dead);
                    uint32_t next = pos < clamp ? pos + 1 : clamp;
                    ok = !dead && sat(x, a->node[((size_t)p << a->n_con) + var]) && v[(size_t)next * n_counts + to];
                }
                if (ok && !*at)
                    *at = 1, change = true;
            }
        }
        if (max != INF)
            break; /* no loop at the clamp: one pass from the end is exact */
    }
    return v;
}

static uint32_t array_clamp(const bnode *bn, uint32_t max)
{
    uint32_t c = bn->a.n_prefix > bn->b.mini ? bn->a.n_prefix : bn->b.mini;
    return max != INF ? max : c;
}

static uint32_t node_domain(sx *x, uint32_t node);

bool branch_sat(sx *x, bnode *bn)
{
    if (bn->b.t == T_OBJ)
        return object_sat(x, bn);
    if (bn->b.t != T_ARR)
        return true;
    uint32_t max = array_max(x, bn);
    if (bn->b.mini > max)
        return false;
    if (bn->b.unique && bn->b.mini > 1 && !bn->a.n_prefix && !bn->a.n_con && node_domain(x, bn->a.node[0]) < bn->b.mini)
        return false;
    if (!bn->a.n_con)
        return true;
    uint32_t n = count_states(bn->a.con, bn->a.n_con), clamp = array_clamp(bn, max);
    if (n == INF || (uint64_t)n * clamp > 4000000)
        cc_fail(x->c, IMP_E_LIMIT, "schema: contains: counts too large to be enforced");
    return array_viable(x, bn, clamp, max, n)[0];
}

static void sat_fixpoint(sx *x)
{
    for (bool change = true; change;) {
        change = false;
        for (size_t i = x->n_node; i-- > 0;) {
            vnode *v = &x->node[i];
            cc_work(x->c, 1);
            if (v->sat)
                continue;
            for (size_t k = 0; k < v->n_br && !v->sat; k++)
                v->sat = branch_sat(x, &v->br[k]);
            change = change || v->sat;
        }
    }
    for (size_t i = 0; i < x->n_node; i++)
        for (size_t k = 0; k < x->node[i].n_br; k++)
            x->node[i].br[k].sat = x->node[i].sat && branch_sat(x, &x->node[i].br[k]);
}

/* ---- keeping automata ------------------------------------------------------------------------------------------- */
static const void *keep_mem(sx *x, const void *p, size_t n)
{
    void *q = CC_KEEP(x->c, char, n);
    memcpy(q, p, n);
    return q;
}

static const cdfa *keep_dfa(sx *x, const cdfa *d)
{
    bool found;
    if (!d)
        return NULL;
    uint32_t *v = idmap_at(x->c, &x->raw_of, (uint64_t)(uintptr_t)d, &found);
    if (found)
        return x->p->raw[*v];
    *v = x->p->n_raw;
    const cdfa *k = dfa_keep(x->c, d);
    size_t n = x->p->n_raw;
    CC_PUSH(x->c, x->p->raw, n, x->cap_raw, k);
    x->p->n_raw = (uint32_t)n;
    return k;
}

static uint32_t keep_raw(sx *x, const cdfa *d)
{
    bool found;
    keep_dfa(x, d);
    return *idmap_at(x->c, &x->raw_of, (uint64_t)(uintptr_t)d, &found);
}

/* ---- strings ---------------------------------------------------------------------------------------------------- */
/* Which lengths are possible from each state, when neither the nearest nor the farthest end tells. */
static void need_lengths(sx *x, strlex *s)
{
    const cdfa *d = s->d;
    uint32_t words = s->max / 64 + 1;
    if (s->max > 8192 || (uint64_t)d->n * words > 400000)
        cc_fail(x->c, IMP_E_LIMIT, "schema: a pattern with minLength %u and maxLength %u is too big to be enforced",
                s->min, s->max);
    uint64_t *l = CC_KEEP(x->c, uint64_t, (size_t)d->n * words);
    for (uint32_t q = 0; q < d->n; q++)
        l[(size_t)q * words] = d->label[q] != 0;
    for (uint32_t n = 0; n < s->max; n++) {
        cc_work(x->c, (uint64_t)d->n * d->ncls);
        for (uint32_t q = 0; q < d->n; q++)
            for (uint32_t k = 0; k < d->ncls; k++) {
                uint32_t t = d->trans[(size_t)q * d->ncls + k];
                if (t != DEAD && l[(size_t)t * words + n / 64] >> n % 64 & 1)
                    l[(size_t)q * words + (n + 1) / 64] |= 1ull << (n + 1) % 64;
            }
    }
    bool any = false;
    for (uint32_t n = s->min; n <= s->max && !any; n++)
        any = l[(size_t)d->start * words + n / 64] >> n % 64 & 1;
    if (!any)
        cc_fail(x->c, IMP_E_UNSUPPORTED, "schema: no string matches its pattern with %u to %u characters", s->min,
                s->max);
    s->lens = l;
    s->lens_words = words;
}

static uint32_t keep_str(sx *x, const cdfa *d, uint32_t min, uint32_t max)
{
    strlex s = {.d = keep_dfa(x, d), .min = min, .max = max};
    if (d) {
        if (d->mind[d->start] >= min)
            s.min = 0;
        if (d->maxd[d->start] <= max)
            s.max = INF;
    }
    for (uint32_t i = 0; i < x->p->n_str; i++) {
        const strlex *o = &x->p->str[i];
        if (o->d == s.d && o->min == s.min && o->max == s.max)
            return i;
        if (x->p->n_str - i > 5000)
            i = x->p->n_str - 5000;
    }
    if (d && s.min && s.max != INF)
        need_lengths(x, &s);
    size_t n = x->p->n_str;
    CC_PUSH(x->c, x->p->str, n, x->cap_str, s);
    x->p->n_str = (uint32_t)n;
    return x->p->n_str - 1;
}

/* ---- nodes ------------------------------------------------------------------------------------------------------ */
static uint32_t pnode_of(sx *x, uint32_t node, bool canonical);

static void add_alt(sx *x, palt **v, size_t *n, size_t *cap, alt_kind kind, uint32_t idx)
{
    palt a = {kind, idx};
    CC_PUSH(x->c, *v, *n, *cap, a);
}

static void dec_key(strbuf *b, const dec *d)
{
    sb_printf(b, "%c%.*s@%lld", d->neg ? '-' : '+', (int)d->n, d->d ? d->d : "", (long long)d->exp);
}

const cdfa *number_dfa(sx *x, const num_con *n, bool canonical, const char *where)
{
    num_con k = *n;
    char key[400];
    strbuf b = {.max = sizeof key - 1};
    bool found, over;
    k.canonical = canonical;
    sb_printf(&b, "%d%d%d", k.only_int, k.only_frac, k.canonical);
    if (k.has_lo)
        sb_str(&b, k.lo_open ? ">" : ">="), dec_key(&b, &k.lo);
    if (k.has_hi)
        sb_str(&b, k.hi_open ? "<" : "<="), dec_key(&b, &k.hi);
    for (const num_multiple *m = k.mult; m; m = m->next)
        sb_str(&b, m->neg ? "!*" : "*"), dec_key(&b, &m->m);
    over = b.failed || !b.s;
    size_t kn = over ? 0 : b.n;
    if (!over)
        memcpy(key, b.s, kn);
    sb_free(&b);
    cdfa *d = over ? NULL : dfa_cached(x->c, "number", key, kn, &found);
    if (over || !found) {
        d = num_dfa(x->c, &k, where);
        if (!over)
            dfa_cache_add(x->c, "number", key, kn, d);
    }
    return d;
}

/* Union of d[0..n) pairwise, so that sizes stay balanced. */
static const cdfa *unite(sx *x, const cdfa **d, size_t n)
{
    for (; n > 1; n = (n + 1) / 2)
        for (size_t i = 0; i < n; i += 2) {
            const cdfa *a = d[i], *b = i + 1 < n ? d[i + 1] : NULL;
            d[i / 2] = a && b ? dfa_product(x->c, a, b, DFA_OR) : a ? a : b;
        }
    return n ? d[0] : NULL;
}

typedef struct scalars {
    bool null, strings_all;
    uint32_t bools;
    const cdfa **num, **str;
    size_t n_num, cap_num, n_str, cap_str;
} scalars;

static const char *where_of(sx *x, const vnode *v) { return v->n ? jv_path(x->c, x->doc.by_id[v->it[0] >> 2]) : "#"; }

static void scalar_alts(sx *x, vnode *v, bool canonical, palt **alt, size_t *n, size_t *cap, uint32_t *domain)
{
    scalars s = {0};
    uint64_t dom = 0;
    const char *where = where_of(x, v);
    for (size_t i = 0; i < v->n_br; i++) {
        const branch *b = &v->br[i].b;
        if (!v->br[i].sat)
            continue;
        switch (b->t) {
        case T_NULL: s.null = true; break;
        case T_BOOL: s.bools |= b->bools; break;
        case T_NUM: {
            const cdfa *d = number_dfa(x, &b->num, canonical, where);
            if (d)
                CC_PUSH(x->c, s.num, s.n_num, s.cap_num, d);
            break;
        }
        case T_STR:
            if (!b->sd && !b->smin && b->smax == INF)
                s.strings_all = true;
            break;
        default: dom = INF; break;
        }
    }
    const char *lit[3];
    size_t len[3], k = 0;
    if (s.null)
        lit[k] = "null", len[k++] = 4;
    if (s.bools & 1)
        lit[k] = "false", len[k++] = 5;
    if (s.bools & 2)
        lit[k] = "true", len[k++] = 4;
    if (k) {
        bool found;
        char key[2] = {(char)('0' + s.null), (char)('0' + s.bools)};
        cdfa *d = dfa_cached(x->c, "literal", key, 2, &found);
        if (!found) {
            d = dfa_strings(x->c, lit, len, k);
            dfa_cache_add(x->c, "literal", key, 2, d);
        }
        add_alt(x, alt, n, cap, ALT_RAW, keep_raw(x, d));
        dom = add_sat(dom, k);
    }
    const cdfa *num = unite(x, s.num, s.n_num);
    if (num) {
        add_alt(x, alt, n, cap, ALT_RAW, keep_raw(x, num));
        dom = add_sat(dom, num->count[num->start]);
    }
    if (s.strings_all) {
        add_alt(x, alt, n, cap, ALT_STR, keep_str(x, NULL, 0, INF));
        dom = INF;
    } else {
        for (size_t i = 0; i < v->n_br; i++) {
            const branch *b = &v->br[i].b;
            if (!v->br[i].sat || b->t != T_STR)
                continue;
            bool free_len = b->sd && b->sd->mind[b->sd->start] >= b->smin && b->sd->maxd[b->sd->start] <= b->smax;
            if (free_len) {
                CC_PUSH(x->c, s.str, s.n_str, s.cap_str, b->sd);
                continue;
            }
            add_alt(x, alt, n, cap, ALT_STR, keep_str(x, b->sd, b->smin, b->smax));
            dom = b->smax == 0 ? add_sat(dom, 1) : INF;
        }
        const cdfa *str = unite(x, s.str, s.n_str);
        if (str) {
            add_alt(x, alt, n, cap, ALT_STR, keep_str(x, str, 0, INF));
            dom = add_sat(dom, str->count[str->start]);
        }
    }
    *domain = (uint32_t)dom;
}

/* How many different values a node has, INF when that is not small or not known. */
static uint32_t node_domain(sx *x, uint32_t node)
{
    vnode *v = &x->node[node];
    palt *alt = NULL;
    size_t n = 0, cap = 0;
    uint32_t d;
    for (size_t i = 0; i < v->n_br; i++) {
        if (v->br[i].b.t == T_ARR || v->br[i].b.t == T_OBJ)
            return INF;
        v->br[i].sat = true; /* scalars are kept only when they have values */
    }
    scalar_alts(x, v, true, &alt, &n, &cap, &d);
    return d;
}

/* ---- objects and arrays ----------------------------------------------------------------------------------------- */
static uint32_t map_node(sx *x, uint32_t node, bool canonical)
{
    return sat(x, node) ? pnode_of(x, node, canonical) : DEAD;
}

static const uint32_t *reachable_classes(sx *x, const cdfa *d, const pclass *cls, uint32_t n)
{
    uint32_t *r = CC_KEEP(x->c, uint32_t, d->n);
    for (uint32_t q = 0; q < d->n; q++)
        for (uint32_t c = 0; c < n && c < 32; c++)
            r[q] |= (uint32_t)(cls[c].label == d->label[q]) << c;
    for (bool change = true; change;) {
        change = false;
        cc_work(x->c, (uint64_t)d->n * d->ncls);
        for (uint32_t q = 0; q < d->n; q++)
            for (uint32_t k = 0; k < d->ncls; k++) {
                uint32_t t = d->trans[(size_t)q * d->ncls + k];
                if (t != DEAD && (r[t] & ~r[q]))
                    r[q] |= r[t], change = true;
            }
    }
    return r;
}

/* What is left from each place in the order on; p has its names, nodes and other keys. */
static void order_tables(sx *x, const obr *o, pobj *p)
{
    uint32_t n = p->n_names, *at = CC_ARRAY(x->c, uint32_t, n + 1);
    pplace *t = CC_KEEP(x->c, pplace, n + 1);
    for (uint32_t i = 0; i < n; i++)
        at[o->rank[i]] = i;
    t[n].stop = n;
    for (uint32_t r = n; r-- > 0;) {
        bool must = o->required[at[r]], can = p->name_node[at[r]] != DEAD;
        t[r] = (pplace){t[r + 1].left + must, must ? r : t[r + 1].stop, t[r + 1].avail + can};
    }
    p->words = 0;
    p->rank = keep_mem(x, o->rank, (n + 1) * sizeof *o->rank);
    p->place = t;
}

static uint32_t emit_object(sx *x, const bnode *bn)
{
    const obr *o = &bn->o;
    pobj p = {.minp = bn->b.minp, .maxp = bn->b.maxp, .n_ex = o->n_ex, .n_names = o->n_names};
    uint32_t sets = 1u << o->n_ex, n = o->n_names;
    p.words = (n + 31) / 32;
    if (n > 60000)
        cc_fail(x->c, IMP_E_LIMIT, "schema: an object with more than 60000 properties");
    const uint32_t **name = CC_KEEP(x->c, const uint32_t *, n + 1);
    uint32_t *len = CC_KEEP(x->c, uint32_t, n + 1), *node = CC_KEEP(x->c, uint32_t, ((size_t)n << o->n_ex) + 1);
    uint32_t *req = CC_KEEP(x->c, uint32_t, p.words + 1);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t *cp = CC_KEEP(x->c, uint32_t, o->name_n[i] + 1);
        for (size_t k = 0; k < o->name_n[i]; len[i]++)
            k += utf8_get(o->name[i] + k, o->name_n[i] - k, &cp[len[i]], NULL);
        name[i] = cp;
        for (uint32_t s = 0; s < sets; s++)
            node[((size_t)i << o->n_ex) + s] = map_node(x, o->node[((size_t)i << o->n_ex) + s], false);
        if (o->required[i]) {
            req[i / 32] |= 1u << i % 32;
            p.n_required++;
        }
    }
    keep_arg ka = {o, x};
    bool extras = false;
    pclass *cls = CC_KEEP(x->c, pclass, o->n_cls + 1);
    for (uint32_t i = 0; i < o->n_cls; i++) {
        uint32_t *cn = CC_KEEP(x->c, uint32_t, sets);
        for (uint32_t s = 0; s < sets; s++) {
            cn[s] = map_node(x, o->cls_node[((size_t)i << o->n_ex) + s], false);
            extras = extras || cn[s] != DEAD;
        }
        cls[i] = (pclass){o->cls_label[i], cn};
    }
    p.extras = extras;
    p.kcount = INF;
    if (extras && o->kd) {
        const cdfa *kd = dfa_filter(x->c, o->kd, keep_label, &ka);
        p.kd = keep_dfa(x, kd);
        p.kcount = kd->count[kd->start];
        if (o->n_ex && p.kcount != INF)
            cc_fail(x->c, IMP_E_UNSUPPORTED, "schema: %s: a negated condition on keys where only finitely many keys "
                    "are possible cannot be enforced", jv_path(x->c, bn->b.exists->owner));
    }
    p.cls = cls;
    p.n_cls = o->n_cls;
    if (p.kd && o->n_ex && p.maxp != INF)
        p.reach = reachable_classes(x, p.kd, cls, o->n_cls);
    p.name = name;
    p.name_len = len;
    p.name_node = node;
    p.required = req;
    if (o->rank)
        order_tables(x, o, &p);
    p.others = !extras ? 0 : other_keys(o, p.kd);
    size_t k = x->p->n_obj;
    CC_PUSH(x->c, x->p->obj, k, x->cap_obj, p);
    x->p->n_obj = (uint32_t)k;
    return x->p->n_obj - 1;
}

static uint32_t emit_array(sx *x, const bnode *bn)
{
    const abr *a = &bn->a;
    parr p = {.n_prefix = a->n_prefix, .n_var = 1u << a->n_con, .min = bn->b.mini, .n_con = a->n_con,
              .unique = bn->b.unique};
    p.max = array_max(x, bn);
    p.clamp = array_clamp(bn, p.max);
    size_t nn = (size_t)(a->n_prefix + 1) << a->n_con;
    if (bn->b.unique) { /* more items than values: never */
        uint64_t dom = 0;
        for (size_t i = 0; i < nn; i++)
            if (sat(x, a->node[i])) {
                uint32_t id = pnode_of(x, a->node[i], true);
                vnode *v = &x->node[a->node[i]];
                for (size_t k = 0; k < v->n_br; k++)
                    p.unique_deep = p.unique_deep || (v->br[k].sat && (v->br[k].b.t == T_ARR || v->br[k].b.t == T_OBJ));
                palt *alt = NULL;
                size_t na = 0, cap = 0;
                uint32_t d;
                (void)id;
                scalar_alts(x, v, true, &alt, &na, &cap, &d);
                dom = a->n_prefix || a->n_con ? INF : d;
            }
        if (dom < p.max)
            p.max = (uint32_t)dom;
        if (p.max < p.min)
            cc_fail(x->c, IMP_E_UNSUPPORTED, "schema: uniqueItems: fewer than minItems different items exist");
        p.clamp = array_clamp(bn, p.max);
    }
    uint32_t *node = CC_KEEP(x->c, uint32_t, nn);
    for (size_t i = 0; i < nn; i++)
        node[i] = map_node(x, a->node[i], bn->b.unique);
    p.node = node;
    pcontains *con = CC_KEEP(x->c, pcontains, a->n_con + 1);
    if (a->n_con)
        memcpy(con, a->con, a->n_con * sizeof *con);
    p.con = con;
    if (a->n_con) {
        p.n_counts = count_states(a->con, a->n_con);
        p.viable = keep_mem(x, array_viable(x, bn, p.clamp, p.max, p.n_counts), (size_t)(p.clamp + 1) * p.n_counts);
    }
    x->p->any_unique = x->p->any_unique || p.unique;
    if (p.unique_deep)
        x->p->deep_unique = true;
    size_t k = x->p->n_arr;
    CC_PUSH(x->c, x->p->arr, k, x->cap_arr, p);
    x->p->n_arr = (uint32_t)k;
    return x->p->n_arr - 1;
}

/* Program nodes are numbered when first asked for and filled by schema_emit's loop, so nothing recurses. A node has two
 * forms: `canonical` (inside uniqueItems) spells each number in one way only. */
static uint32_t pnode_of(sx *x, uint32_t node, bool canonical)
{
    bool found;
    uint32_t *v = idmap_at(x->c, &x->ids_out, (uint64_t)node * 2 + canonical, &found);
    if (!found) {
        pnode p = {0};
        size_t n = x->p->n_node, q = n;
        *v = (uint32_t)n;
        CC_PUSH(x->c, x->p->node, n, x->cap_pnode, p);
        x->p->n_node = (uint32_t)n;
        uint64_t src = (uint64_t)node * 2 + canonical;
        CC_PUSH(x->c, x->out_src, q, x->cap_src, src);
        return (uint32_t)(n - 1);
    }
    return *v;
}

static const void *keep_array(sx *x, const void *p, size_t n, size_t size)
{
    return n ? keep_mem(x, p, n * size) : CC_KEEP(x->c, char, 1);
}

void schema_emit(sx *x, uint32_t root)
{
    for (size_t i = 0; i < x->n_node; i++)
        if (!x->node[i].expanded)
            node_expand(x, (uint32_t)i);
    sat_fixpoint(x);
    if (!x->node[root].sat)
        cc_fail(x->c, IMP_E_UNSUPPORTED, "schema: #: no value satisfies it");
    x->p->root = pnode_of(x, root, false);
    for (uint32_t i = 0; i < x->p->n_node; i++) {
        vnode *v = &x->node[x->out_src[i] / 2];
        bool canonical = x->out_src[i] & 1;
        palt *alt = NULL;
        size_t n = 0, cap = 0;
        uint32_t domain;
        scalar_alts(x, v, canonical, &alt, &n, &cap, &domain);
        for (size_t k = 0; k < v->n_br; k++) {
            bnode *b = &v->br[k];
            if (!b->sat || (b->b.t != T_ARR && b->b.t != T_OBJ))
                continue;
            if (b->idx == DEAD)
                b->idx = b->b.t == T_OBJ ? emit_object(x, b) : emit_array(x, b);
            add_alt(x, &alt, &n, &cap, b->b.t == T_OBJ ? ALT_OBJ : ALT_ARR, b->idx);
        }
        x->p->node[i] = (pnode){.alt = CC_KEEP(x->c, palt, n + 1), .n = (uint32_t)n, .domain = domain};
        if (n)
            memcpy(x->p->node[i].alt, alt, n * sizeof *alt);
    }
    /* from scratch to the program's own memory */
    x->p->raw = (const cdfa **)(void *)(uintptr_t)keep_array(x, x->p->raw, x->p->n_raw, sizeof *x->p->raw);
    x->p->str = (strlex *)(uintptr_t)keep_array(x, x->p->str, x->p->n_str, sizeof *x->p->str);
    x->p->node = (pnode *)(uintptr_t)keep_array(x, x->p->node, x->p->n_node, sizeof *x->p->node);
    x->p->obj = (pobj *)(uintptr_t)keep_array(x, x->p->obj, x->p->n_obj, sizeof *x->p->obj);
    x->p->arr = (parr *)(uintptr_t)keep_array(x, x->p->arr, x->p->n_arr, sizeof *x->p->arr);
}

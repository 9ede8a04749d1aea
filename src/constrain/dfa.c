/* Deterministic automata over code points: classes, products, trimming, minimising, analysis. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "constrain/constrain_impl.h"

/* ---- classes ---------------------------------------------------------------------------------------------------- */
typedef struct event {
    uint32_t at, set;
} event;

static int by_at(const void *a, const void *b)
{
    const event *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Surrogates belong to no set: decoded text has none, so their class leads nowhere. */
void dfa_classes(cc *c, dfa_raw *r, const cpset *sets, size_t n_sets, uint64_t **members, size_t *n_words)
{
    size_t n_ev = 4, words = (n_sets + 63) / 64 + 1;
    for (size_t i = 0; i < n_sets; i++)
        n_ev += 2 * sets[i].n;
    cc_work(c, n_ev * words);
    event *ev = CC_ARRAY(c, event, n_ev);
    size_t k = 0;
    const uint32_t none = (uint32_t)n_sets;
    ev[k++] = (event){0x80, none};
    ev[k++] = (event){0xD800, none};
    ev[k++] = (event){0xE000, none};
    for (size_t i = 0; i < n_sets; i++)
        for (size_t j = 0; j < sets[i].n; j++) {
            ev[k++] = (event){sets[i].r[j].lo, (uint32_t)i};
            ev[k++] = (event){sets[i].r[j].hi + 1, (uint32_t)i};
        }
    qsort(ev, k, sizeof *ev, by_at);
    uint64_t *cur = CC_ARRAY(c, uint64_t, words), *zero = CC_ARRAY(c, uint64_t, words);
    uint64_t *mem = NULL;
    size_t ncls = 0, cap = 0;
    r->rlo = CC_ARRAY(c, uint32_t, k + 2);
    r->rcls = CC_ARRAY(c, uint16_t, k + 2);
    r->nr = 0;
    uint64_t *hash = CC_ARRAY(c, uint64_t, k + 2);
    size_t i = 0;
    for (uint32_t at = 0, end; at <= CP_MAX; at = end) {
        for (; i < k && ev[i].at == at; i++)
            if (ev[i].set != none)
                cur[ev[i].set / 64] ^= 1ull << ev[i].set % 64;
        end = i < k ? ev[i].at : CP_MAX + 1;
        const uint64_t *sig = at >= 0xD800 && at < 0xE000 ? zero : cur;
        uint64_t h = hash_bytes(sig, words * 8);
        size_t cls = 0;
        while (cls < ncls && (hash[cls] != h || memcmp(mem + cls * words, sig, words * 8)))
            cls++;
        cc_work(c, 1 + cls / 8);
        if (cls == ncls) {
            if (ncls >= cap) {
                size_t nc = cap ? cap * 2 : 16;
                uint64_t *m2 = CC_ARRAY(c, uint64_t, nc * words);
                if (ncls)
                    memcpy(m2, mem, ncls * words * 8);
                mem = m2;
                cap = nc;
            }
            if (ncls > 4000)
                cc_fail(c, IMP_E_LIMIT, "constraint: more than 4000 classes of characters");
            memcpy(mem + ncls * words, sig, words * 8);
            hash[ncls++] = h;
        }
        for (uint32_t cp = at; cp < end && cp < 128; cp++)
            r->ascii[cp] = (uint16_t)cls;
        if (end > 0x80 && (!r->nr || r->rcls[r->nr - 1] != cls)) {
            r->rlo[r->nr] = at;
            r->rcls[r->nr++] = (uint16_t)cls;
        }
    }
    *members = mem;
    *n_words = words;
    r->ncls = (uint32_t)ncls;
}

/* ---- finish: trim, merge classes, minimise, analyse ------------------------------------------------------------- */
static void mark_live(cc *c, const dfa_raw *r, uint8_t *live)
{
    size_t edges = (size_t)r->n * r->ncls;
    uint32_t *head = CC_ARRAY(c, uint32_t, (size_t)r->n + 2), *from = CC_ARRAY(c, uint32_t, edges + 1);
    uint32_t *queue = CC_ARRAY(c, uint32_t, (size_t)r->n + 1);
    cc_work(c, edges * 2);
    for (size_t i = 0; i < edges; i++)
        if (r->trans[i] != DEAD)
            head[r->trans[i] + 1]++;
    for (uint32_t i = 0; i < r->n; i++)
        head[i + 1] += head[i];
    uint32_t *fill = CC_ARRAY(c, uint32_t, (size_t)r->n + 1);
    for (uint32_t q = 0; q < r->n; q++)
        for (uint32_t k = 0; k < r->ncls; k++) {
            uint32_t t = r->trans[(size_t)q * r->ncls + k];
            if (t != DEAD)
                from[head[t] + fill[t]++] = q;
        }
    uint32_t qn = 0;
    for (uint32_t q = 0; q < r->n; q++)
        if (r->label[q])
            live[q] = 1, queue[qn++] = q;
    for (uint32_t i = 0; i < qn; i++) {
        uint32_t t = queue[i];
        for (uint32_t j = head[t]; j < head[t + 1]; j++)
            if (!live[from[j]])
                live[from[j]] = 1, queue[qn++] = from[j];
    }
}

/* Renumbers: part[q] = new state or DEAD. */
static void renumber(cc *c, dfa_raw *r, const uint32_t *part, uint32_t n_new)
{
    uint32_t *trans = CC_ARRAY(c, uint32_t, (size_t)n_new * r->ncls), *label = CC_ARRAY(c, uint32_t, n_new);
    for (uint32_t q = 0; q < r->n; q++) {
        uint32_t p = part[q];
        if (p == DEAD)
            continue;
        label[p] = r->label[q];
        for (uint32_t k = 0; k < r->ncls; k++) {
            uint32_t t = r->trans[(size_t)q * r->ncls + k];
            trans[(size_t)p * r->ncls + k] = t == DEAD ? DEAD : part[t];
        }
    }
    r->start = part[r->start];
    r->n = n_new;
    r->trans = trans;
    r->label = label;
}

static void merge_classes(cc *c, dfa_raw *r)
{
    uint16_t *map = CC_ARRAY(c, uint16_t, r->ncls);
    uint32_t *rep = CC_ARRAY(c, uint32_t, r->ncls), n = 0;
    uint64_t *h = CC_ARRAY(c, uint64_t, r->ncls);
    cc_work(c, (size_t)r->n * r->ncls);
    for (uint32_t q = 0; q < r->n; q++)
        for (uint32_t k = 0; k < r->ncls; k++)
            h[k] = (h[k] ^ r->trans[(size_t)q * r->ncls + k]) * 0x9E3779B97F4A7C15ull + (h[k] >> 29);
    for (uint32_t k = 0; k < r->ncls; k++) {
        uint32_t m = 0;
        for (; m < n; m++) {
            if (h[rep[m]] != h[k])
                continue;
            bool same = true;
            for (uint32_t q = 0; q < r->n && same; q++)
                same = r->trans[(size_t)q * r->ncls + k] == r->trans[(size_t)q * r->ncls + rep[m]];
            if (same)
                break;
        }
        if (m == n)
            rep[n++] = k;
        map[k] = (uint16_t)m;
    }
    if (n == r->ncls)
        return;
    uint32_t *trans = CC_ARRAY(c, uint32_t, (size_t)r->n * n);
    for (uint32_t q = 0; q < r->n; q++)
        for (uint32_t m = 0; m < n; m++)
            trans[(size_t)q * n + m] = r->trans[(size_t)q * r->ncls + rep[m]];
    r->trans = trans;
    r->ncls = n;
    for (int i = 0; i < 128; i++)
        r->ascii[i] = map[r->ascii[i]];
    uint32_t k = 0;
    for (uint32_t i = 0; i < r->nr; i++) {
        uint16_t m = map[r->rcls[i]];
        if (k && r->rcls[k - 1] == m)
            continue;
        r->rlo[k] = r->rlo[i];
        r->rcls[k++] = m;
    }
    r->nr = k;
}

/* Moore's partition refinement by hashing; given up when it would take too long (the automaton stays correct). */
static void minimise(cc *c, dfa_raw *r)
{
    size_t cap = 16, budget = 6u << 20;
    while (cap < (size_t)r->n * 2)
        cap *= 2;
    uint32_t *part = CC_ARRAY(c, uint32_t, r->n), *next = CC_ARRAY(c, uint32_t, r->n);
    uint32_t *slot = CC_ARRAY(c, uint32_t, cap);
    uint32_t n_part = 0;
    idmap first = {0};
    for (uint32_t q = 0; q < r->n; q++) {
        bool found;
        uint32_t *v = idmap_at(c, &first, r->label[q], &found);
        if (!found)
            *v = n_part++;
        part[q] = *v;
    }
    for (;;) {
        size_t cost = (size_t)r->n * r->ncls;
        if (cost > budget)
            return;
        budget -= cost;
        cc_work(c, cost);
        memset(slot, 0xFF, cap * sizeof *slot);
        uint32_t n_next = 0;
        for (uint32_t q = 0; q < r->n; q++) {
            const uint32_t *tq = r->trans + (size_t)q * r->ncls;
            uint64_t h = hash64(part[q]);
            for (uint32_t k = 0; k < r->ncls; k++)
                h = (h ^ (tq[k] == DEAD ? DEAD : part[tq[k]])) * 0x9E3779B97F4A7C15ull + (h >> 31);
            size_t j = hash64(h) & (cap - 1);
            for (; slot[j] != DEAD; j = (j + 1) & (cap - 1)) { /* slot holds a representative state */
                uint32_t o = slot[j];
                const uint32_t *to = r->trans + (size_t)o * r->ncls;
                bool same = part[o] == part[q];
                for (uint32_t k = 0; k < r->ncls && same; k++)
                    same = (tq[k] == DEAD ? DEAD : part[tq[k]]) == (to[k] == DEAD ? DEAD : part[to[k]]);
                if (same)
                    break;
            }
            if (slot[j] == DEAD) {
                slot[j] = q;
                next[q] = n_next++;
            } else {
                next[q] = next[slot[j]];
            }
        }
        uint32_t *t = part;
        part = next;
        next = t;
        if (n_next == n_part)
            break;
        n_part = n_next;
    }
    if (n_part < r->n)
        renumber(c, r, part, n_part);
}

static uint32_t sat_add(uint64_t a, uint64_t b) { return a + b > 0x7FFFFFFF ? INF : (uint32_t)(a + b); }

static void analyse(cc *c, cdfa *d)
{
    uint32_t *size = CC_ARRAY(c, uint32_t, d->ncls);
    for (int i = 0; i < 128; i++)
        size[d->ascii[i]]++;
    for (uint32_t i = 0; i < d->nr; i++)
        size[d->rcls[i]] += (i + 1 < d->nr ? d->rlo[i + 1] : CP_MAX + 1) - d->rlo[i];
    uint32_t *mind = CC_ARRAY(c, uint32_t, d->n), *maxd = CC_ARRAY(c, uint32_t, d->n);
    uint32_t *count = CC_ARRAY(c, uint32_t, d->n);
    uint32_t *deg = CC_ARRAY(c, uint32_t, d->n), *queue = CC_ARRAY(c, uint32_t, (size_t)d->n + 1);
    uint32_t *head = CC_ARRAY(c, uint32_t, (size_t)d->n + 2), *fill = CC_ARRAY(c, uint32_t, (size_t)d->n + 1), *from;
    size_t edges = (size_t)d->n * d->ncls;
    cc_work(c, edges * 3);
    from = CC_ARRAY(c, uint32_t, edges + 1);
    for (size_t i = 0; i < edges; i++)
        if (d->trans[i] != DEAD) {
            head[d->trans[i] + 1]++;
            deg[i / d->ncls]++;
        }
    for (uint32_t i = 0; i < d->n; i++)
        head[i + 1] += head[i];
    for (size_t i = 0; i < edges; i++) {
        uint32_t t = d->trans[i];
        if (t != DEAD)
            from[head[t] + fill[t]++] = (uint32_t)(i / d->ncls);
    }
    uint32_t qn = 0;
    memset(mind, 0xFF, d->n * sizeof *mind);
    for (uint32_t q = 0; q < d->n; q++)
        if (d->label[q])
            mind[q] = 0, queue[qn++] = q;
    for (uint32_t i = 0; i < qn; i++)
        for (uint32_t j = head[queue[i]]; j < head[queue[i] + 1]; j++)
            if (mind[from[j]] == INF)
                mind[from[j]] = mind[queue[i]] + 1, queue[qn++] = from[j];
    /* States all of whose successors are settled have finitely many texts; the rest can reach a cycle. */
    qn = 0;
    memset(maxd, 0xFF, d->n * sizeof *maxd);
    memset(count, 0xFF, d->n * sizeof *count);
    for (uint32_t q = 0; q < d->n; q++)
        if (!deg[q])
            queue[qn++] = q;
    for (uint32_t i = 0; i < qn; i++) {
        uint32_t q = queue[i];
        maxd[q] = 0;
        uint32_t n = d->label[q] != 0;
        for (uint32_t k = 0; k < d->ncls; k++) {
            uint32_t t = d->trans[(size_t)q * d->ncls + k];
            if (t == DEAD)
                continue;
            if (maxd[t] + 1 > maxd[q])
                maxd[q] = maxd[t] + 1;
            n = n == INF || count[t] == INF ? INF : sat_add(n, (uint64_t)size[k] * count[t]);
        }
        count[q] = n;
        for (uint32_t j = head[q]; j < head[q + 1]; j++)
            if (--deg[from[j]] == 0)
                queue[qn++] = from[j];
    }
    d->mind = mind;
    d->maxd = maxd;
    d->count = count;
    d->universal = d->label[d->start] != 0;
    for (uint32_t k = 0; k < d->ncls && d->universal; k++) {
        bool surrogate = d->trans[(size_t)d->start * d->ncls + k] == DEAD && k == dfa_class(d, 0xD800) &&
                         size[k] == 0x800;
        d->universal = surrogate || d->trans[(size_t)d->start * d->ncls + k] == d->start;
    }
}

cdfa *dfa_finish(cc *c, dfa_raw *r, bool keep_dead)
{
    if (!r->n)
        return NULL;
    if (!keep_dead) {
        uint8_t *live = CC_ARRAY(c, uint8_t, r->n);
        uint32_t *part = CC_ARRAY(c, uint32_t, r->n), n = 0;
        mark_live(c, r, live);
        if (!live[r->start])
            return NULL;
        for (uint32_t q = 0; q < r->n; q++)
            part[q] = live[q] ? n++ : DEAD;
        if (n < r->n)
            renumber(c, r, part, n);
        merge_classes(c, r);
        minimise(c, r);
        merge_classes(c, r);
    }
    cdfa *d = CC_NEW(c, cdfa);
    d->n = r->n;
    d->ncls = r->ncls;
    d->start = r->start;
    memcpy(d->ascii, r->ascii, sizeof d->ascii);
    d->nr = r->nr;
    d->rlo = r->rlo;
    d->rcls = r->rcls;
    d->trans = r->trans;
    d->label = r->label;
    analyse(c, d);
    return d;
}

/* ---- products --------------------------------------------------------------------------------------------------- */
/* Common refinement of the classes of a and b; pa/pb give each new class's old ones. */
static void pair_classes(cc *c, const cdfa *a, const cdfa *b, dfa_raw *r, uint32_t **pa, uint32_t **pb)
{
    idmap m = {0};
    bool found;
    size_t most = (size_t)a->nr + b->nr + 1 + 128;
    *pa = CC_ARRAY(c, uint32_t, most);
    *pb = CC_ARRAY(c, uint32_t, most);
    r->ncls = 0;
    for (int i = 0; i < 128; i++) {
        uint32_t *v = idmap_at(c, &m, (uint64_t)a->ascii[i] << 32 | b->ascii[i], &found);
        if (!found) {
            *v = r->ncls;
            (*pa)[r->ncls] = a->ascii[i];
            (*pb)[r->ncls++] = b->ascii[i];
        }
        r->ascii[i] = (uint16_t)*v;
    }
    r->rlo = CC_ARRAY(c, uint32_t, (size_t)a->nr + b->nr);
    r->rcls = CC_ARRAY(c, uint16_t, (size_t)a->nr + b->nr);
    for (uint32_t i = 0, j = 0; i < a->nr && j < b->nr;) {
        uint32_t at = a->rlo[i] > b->rlo[j] ? a->rlo[i] : b->rlo[j];
        uint32_t *v = idmap_at(c, &m, (uint64_t)a->rcls[i] << 32 | b->rcls[j], &found);
        if (!found) {
            *v = r->ncls;
            (*pa)[r->ncls] = a->rcls[i];
            (*pb)[r->ncls++] = b->rcls[j];
        }
        r->rlo[r->nr] = at;
        r->rcls[r->nr++] = (uint16_t)*v;
        uint32_t ea = i + 1 < a->nr ? a->rlo[i + 1] : CP_MAX + 1, eb = j + 1 < b->nr ? b->rlo[j + 1] : CP_MAX + 1;
        if (ea <= eb)
            i++;
        if (eb <= ea)
            j++;
    }
    if (r->ncls > 60000)
        cc_fail(c, IMP_E_LIMIT, "constraint: too many classes of characters");
}

typedef uint32_t (*label_fn)(void *arg, uint32_t la, uint32_t lb);

static cdfa *product(cc *c, const cdfa *a, const cdfa *b, bool need_a, bool need_b, label_fn label, void *arg,
                     bool keep_dead)
{
    dfa_raw r = {0};
    uint32_t *pa, *pb;
    pair_classes(c, a, b, &r, &pa, &pb);
    idmap m = {0};
    uint64_t *state = NULL;
    uint32_t *trans = NULL, *lab = NULL;
    size_t n = 0, cap_s = 0, cap_t = 0, cap_l = 0, nt = 0;
    bool found;
    uint64_t start = (uint64_t)a->start << 32 | b->start;
    *idmap_at(c, &m, start, &found) = 0;
    CC_PUSH(c, state, n, cap_s, start);
    for (size_t q = 0; q < n; q++) {
        uint32_t qa = (uint32_t)(state[q] >> 32), qb = (uint32_t)state[q];
        size_t nl = q;
        uint32_t l = label(arg, qa == DEAD ? 0 : a->label[qa], qb == DEAD ? 0 : b->label[qb]);
        CC_PUSH(c, lab, nl, cap_l, l);
        cc_work(c, r.ncls);
        for (uint32_t k = 0; k < r.ncls; k++) {
            uint32_t ta = qa == DEAD ? DEAD : a->trans[(size_t)qa * a->ncls + pa[k]];
            uint32_t tb = qb == DEAD ? DEAD : b->trans[(size_t)qb * b->ncls + pb[k]];
            uint32_t to = DEAD;
            if (!((need_a && ta == DEAD) || (need_b && tb == DEAD) || (ta == DEAD && tb == DEAD && !keep_dead))) {
                uint64_t key = (uint64_t)ta << 32 | tb;
                if (key == UINT64_MAX)
                    key = UINT64_MAX - 1; /* both dead, kept: its halves read as DEAD and an unused state */
                uint32_t *v = idmap_at(c, &m, key, &found);
                if (!found) {
                    if (n > c->o.max_states)
                        cc_fail(c, IMP_E_LIMIT, "constraint: too complex: an automaton of more than %u states",
                                c->o.max_states);
                    *v = (uint32_t)n;
                    to = *v;
                    uint64_t s = (uint64_t)ta << 32 | tb;
                    CC_PUSH(c, state, n, cap_s, s);
                } else {
                    to = *v;
                }
            }
            CC_PUSH(c, trans, nt, cap_t, to);
        }
    }
    r.n = (uint32_t)n;
    r.trans = trans;
    r.label = lab;
    return dfa_finish(c, &r, keep_dead);
}

static uint32_t label_and(void *arg, uint32_t a, uint32_t b) { (void)arg; return a && b; }
static uint32_t label_or(void *arg, uint32_t a, uint32_t b) { (void)arg; return a || b; }
static uint32_t label_sub(void *arg, uint32_t a, uint32_t b) { (void)arg; return a && !b; }

cdfa *dfa_product(cc *c, const cdfa *a, const cdfa *b, dfa_op op)
{
    static const struct { bool need_a, need_b; label_fn f; } ops[] = {
        [DFA_AND] = {true, true, label_and}, [DFA_OR] = {false, false, label_or}, [DFA_SUB] = {true, false, label_sub}};
    return product(c, a, b, ops[op].need_a, ops[op].need_b, ops[op].f, NULL, false);
}

static uint32_t label_tag(void *arg, uint32_t a, uint32_t b)
{
    return a | (b ? *(uint32_t *)arg : 0);
}

cdfa *dfa_tag_product(cc *c, cdfa *const *d, size_t n)
{
    if (n > 24)
        cc_fail(c, IMP_E_LIMIT, "constraint: more than 24 key patterns in one object");
    /* The everything automaton carries bit n and never dies, so neither does any product with it. */
    cdfa *acc = CC_NEW(c, cdfa);
    *acc = *dfa_all(c);
    uint32_t *label = CC_ARRAY(c, uint32_t, acc->n);
    for (uint32_t q = 0; q < acc->n; q++)
        label[q] = 1u << n;
    acc->label = label;
    for (size_t i = 0; i < n; i++) {
        uint32_t bit = 1u << i;
        if (!d[i])
            continue; /* matches nothing */
        acc = product(c, acc, d[i], true, false, label_tag, &bit, false);
    }
    return acc;
}

cdfa *dfa_filter(cc *c, const cdfa *d, bool (*keep)(void *, uint32_t), void *arg)
{
    dfa_raw r = {.n = d->n, .ncls = d->ncls, .start = d->start, .nr = d->nr};
    memcpy(r.ascii, d->ascii, sizeof r.ascii);
    r.rlo = CC_ARRAY(c, uint32_t, d->nr);
    r.rcls = CC_ARRAY(c, uint16_t, d->nr);
    memcpy(r.rlo, d->rlo, d->nr * sizeof *r.rlo);
    memcpy(r.rcls, d->rcls, d->nr * sizeof *r.rcls);
    r.trans = CC_ARRAY(c, uint32_t, (size_t)d->n * d->ncls);
    memcpy(r.trans, d->trans, (size_t)d->n * d->ncls * sizeof *r.trans);
    r.label = CC_ARRAY(c, uint32_t, d->n);
    for (uint32_t q = 0; q < d->n; q++)
        r.label[q] = keep(arg, d->label[q]) ? d->label[q] : 0;
    return dfa_finish(c, &r, false);
}

cdfa *dfa_all(cc *c)
{
    if (c->all)
        return c->all;
    dfa_raw r = {.n = 1};
    cpset any = {0};
    cpset_add(c, &any, 0, CP_MAX);
    uint64_t *members;
    size_t words;
    dfa_classes(c, &r, &any, 1, &members, &words);
    r.trans = CC_ARRAY(c, uint32_t, r.ncls);
    r.label = CC_ARRAY(c, uint32_t, 1);
    r.label[0] = 1;
    for (uint32_t k = 0; k < r.ncls; k++)
        r.trans[k] = members[k * words] & 1 ? 0 : DEAD;
    return c->all = dfa_finish(c, &r, false);
}

static int by_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* ---- finite sets: a trie ---------------------------------------------------------------------------------------- */
typedef struct tnode {
    uint32_t cp, child, next, end;
} tnode;

cdfa *dfa_strings(cc *c, const char *const *s, const size_t *len, size_t count)
{
    tnode *t = NULL;
    size_t n = 0, cap = 0;
    uint32_t *cps = NULL;
    size_t n_cp = 0, cap_cp = 0;
    idmap seen = {0};
    bool found;
    CC_PUSH(c, t, n, cap, ((tnode){0, DEAD, DEAD, 0}));
    for (size_t i = 0; i < count; i++) {
        uint32_t at = 0;
        for (size_t k = 0; k < len[i];) {
            uint32_t cp;
            k += utf8_get(s[i] + k, len[i] - k, &cp, NULL);
            uint32_t *v = idmap_at(c, &seen, cp, &found);
            if (!found) {
                *v = (uint32_t)n_cp;
                CC_PUSH(c, cps, n_cp, cap_cp, cp);
            }
            uint32_t j = t[at].child;
            for (; j != DEAD && t[j].cp != cp; j = t[j].next)
                cc_work(c, 1);
            if (j == DEAD) {
                j = (uint32_t)n;
                CC_PUSH(c, t, n, cap, ((tnode){cp, DEAD, t[at].child, 0}));
                t[at].child = j;
            }
            at = j;
        }
        t[at].end = 1;
    }
    /* Each character is a class of its own; class n_cp is the rest. */
    if (n_cp > 60000)
        cc_fail(c, IMP_E_LIMIT, "constraint: too many classes of characters");
    dfa_raw r = {.n = (uint32_t)n, .ncls = (uint32_t)n_cp + 1};
    uint32_t *order = CC_ARRAY(c, uint32_t, n_cp + 1);
    if (n_cp)
        memcpy(order, cps, n_cp * sizeof *order);
    if (n_cp)
        qsort(order, n_cp, sizeof *order, by_u32);
    r.rlo = CC_ARRAY(c, uint32_t, n_cp * 2 + 1);
    r.rcls = CC_ARRAY(c, uint16_t, n_cp * 2 + 1);
    for (int i = 0; i < 128; i++)
        r.ascii[i] = (uint16_t)n_cp;
    r.rlo[0] = 0x80;
    r.rcls[0] = (uint16_t)n_cp;
    r.nr = 1;
    for (size_t i = 0; i < n_cp; i++) {
        uint32_t cp = order[i];
        uint16_t cls = (uint16_t)*idmap_at(c, &seen, cp, &found);
        if (cp < 128) {
            r.ascii[cp] = cls;
            continue;
        }
        if (r.rlo[r.nr - 1] == cp)
            r.nr--;
        r.rlo[r.nr] = cp;
        r.rcls[r.nr++] = cls;
        if (cp < CP_MAX) {
            r.rlo[r.nr] = cp + 1;
            r.rcls[r.nr++] = (uint16_t)n_cp;
        }
    }
    r.trans = CC_ARRAY(c, uint32_t, n * r.ncls);
    memset(r.trans, 0xFF, n * r.ncls * sizeof *r.trans);
    r.label = CC_ARRAY(c, uint32_t, n);
    for (size_t i = 0; i < n; i++) {
        r.label[i] = t[i].end;
        for (uint32_t j = t[i].child; j != DEAD; j = t[j].next)
            r.trans[i * r.ncls + *idmap_at(c, &seen, t[j].cp, &found)] = j;
    }
    return dfa_finish(c, &r, false);
}

/* ---- running ---------------------------------------------------------------------------------------------------- */
uint32_t dfa_run(const cdfa *d, uint32_t q, const char *s, size_t n)
{
    for (size_t i = 0; i < n && q != DEAD;) {
        uint32_t cp;
        bool ok;
        i += utf8_get(s + i, n - i, &cp, &ok);
        q = ok ? dfa_step(d, q, cp) : DEAD;
    }
    return q;
}

bool dfa_accepts(const cdfa *d, const char *s, size_t n)
{
    uint32_t q = dfa_run(d, d->start, s, n);
    return q != DEAD && d->label[q];
}

bool dfa_live_range(const cdfa *d, uint32_t q, uint32_t lo, uint32_t hi)
{
    const uint32_t *t = d->trans + (size_t)q * d->ncls;
    for (; lo < 128 && lo <= hi; lo++)
        if (t[d->ascii[lo]] != DEAD)
            return true;
    for (uint32_t i = 0; i < d->nr && lo <= hi && d->rlo[i] <= hi; i++) {
        uint32_t end = i + 1 < d->nr ? d->rlo[i + 1] - 1 : CP_MAX;
        if (end >= lo && t[d->rcls[i]] != DEAD)
            return true;
    }
    return false;
}

/* ---- automata given by functions -------------------------------------------------------------------------------- */
cdfa *dfa_from_spec(cc *c, const dfa_spec *s, const void *start)
{
    size_t ns = strlen(s->symbols), sz = s->state_size, n = 0, cap = 0, hcap = 1024;
    char *st = NULL, *tmp = CC_ARRAY(c, char, sz);
    uint32_t *slot = CC_ARRAY(c, uint32_t, hcap), *trans = NULL, *label = NULL;
    size_t nt = 0, cap_t = 0, nl = 0, cap_l = 0;
    memset(slot, 0xFF, hcap * sizeof *slot);
    st = CC_ARRAY(c, char, 64 * sz);
    cap = 64;
    memcpy(st, start, sz);
    slot[hash_bytes(start, sz) & (hcap - 1)] = 0;
    n = 1;
    for (size_t q = 0; q < n; q++) {
        uint32_t l = s->accept(s->arg, st + q * sz);
        CC_PUSH(c, label, nl, cap_l, l);
        cc_work(c, ns * 4);
        for (size_t k = 0; k <= ns; k++) {
            uint32_t to = DEAD;
            memset(tmp, 0, sz);
            if (k < ns && s->step(s->arg, st + q * sz, s->symbols[k], tmp)) {
                size_t j = hash_bytes(tmp, sz) & (hcap - 1);
                while (slot[j] != DEAD && memcmp(st + slot[j] * sz, tmp, sz))
                    j = (j + 1) & (hcap - 1);
                if (slot[j] == DEAD) {
                    if (n >= c->o.max_states)
                        cc_fail(c, IMP_E_LIMIT, "constraint: too complex: an automaton of more than %u states",
                                c->o.max_states);
                    if (n == cap) {
                        char *st2 = CC_ARRAY(c, char, cap * 2 * sz);
                        memcpy(st2, st, n * sz);
                        st = st2;
                        cap *= 2;
                    }
                    memcpy(st + n * sz, tmp, sz);
                    slot[j] = (uint32_t)n++;
                    to = slot[j];
                    if (n * 2 > hcap) {
                        hcap *= 2;
                        slot = CC_ARRAY(c, uint32_t, hcap);
                        memset(slot, 0xFF, hcap * sizeof *slot);
                        for (size_t i = 0; i < n; i++) {
                            size_t h = hash_bytes(st + i * sz, sz) & (hcap - 1);
                            while (slot[h] != DEAD)
                                h = (h + 1) & (hcap - 1);
                            slot[h] = (uint32_t)i;
                        }
                    }
                } else {
                    to = slot[j];
                }
            }
            CC_PUSH(c, trans, nt, cap_t, to);
        }
    }
    dfa_raw r = {.n = (uint32_t)n, .ncls = (uint32_t)ns + 1, .trans = trans, .label = label, .nr = 1};
    for (int i = 0; i < 128; i++)
        r.ascii[i] = (uint16_t)ns;
    for (size_t k = 0; k < ns; k++)
        r.ascii[(unsigned char)s->symbols[k]] = (uint16_t)k;
    r.rlo = CC_ARRAY(c, uint32_t, 1);
    r.rcls = CC_ARRAY(c, uint16_t, 1);
    r.rlo[0] = 0x80;
    r.rcls[0] = (uint16_t)ns;
    return dfa_finish(c, &r, false);
}

static const void *keep_mem(cc *c, const void *p, size_t n)
{
    void *q = CC_KEEP(c, char, n);
    memcpy(q, p, n);
    return q;
}

static const uint32_t *first_rows(cc *c, const cdfa *d)
{
    uint32_t *out = CC_KEEP(c, uint32_t, (size_t)d->n * 5), *cls = CC_ARRAY(c, uint32_t, (size_t)d->ncls * 5);
    for (unsigned b = 0; b < 128; b++)
        cls[d->ascii[b] * 5 + b / 32] |= 1u << b % 32;
    for (uint32_t i = 0; i < d->nr; i++)
        cls[d->rcls[i] * 5 + 4] = 1;
    for (uint32_t q = 0; q < d->n; q++)
        for (uint32_t k = 0; k < d->ncls; k++)
            for (unsigned w = 0; w < 5 && d->trans[(size_t)q * d->ncls + k] != DEAD; w++)
                out[(size_t)q * 5 + w] |= cls[k * 5 + w];
    return out;
}

const cdfa *dfa_keep(cc *c, const cdfa *d)
{
    cdfa *k = CC_KEEP(c, cdfa, 1);
    *k = *d;
    k->rlo = keep_mem(c, d->rlo, d->nr * sizeof *d->rlo);
    k->rcls = keep_mem(c, d->rcls, d->nr * sizeof *d->rcls);
    k->trans = keep_mem(c, d->trans, (size_t)d->n * d->ncls * sizeof *d->trans);
    k->label = keep_mem(c, d->label, d->n * sizeof *d->label);
    k->mind = keep_mem(c, d->mind, d->n * sizeof *d->mind);
    k->maxd = keep_mem(c, d->maxd, d->n * sizeof *d->maxd);
    k->count = keep_mem(c, d->count, d->n * sizeof *d->count);
    k->first = first_rows(c, d);
    return k;
}

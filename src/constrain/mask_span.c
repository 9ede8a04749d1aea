/* Automata over parts of the trie. The vocabulary knows which characters the tokens below a node write (vocab.h: span)
 * and how long they are. In most states of an automaton most characters lead to one and the same state; following these
 * for as many characters as the part is deep tells in a few steps that all of it can be read, and it is not visited.
 * Words in a class of letters, also when they are counted, cost a handful of nodes this way. */
#include <string.h>

#include "constrain/mask.h"

static bool at_live(const strlex *l, uint32_t q, uint32_t cnt) { return q != DEAD && str_viable(l, q, cnt); }

codec_result span_step(const constrain_prog *p, const strlex *l, at *a, unsigned char b)
{
    uint32_t next, cp;
    codec_result r = codec_step((codec)p->codec, a->part, b, &next, &cp);
    if (r == CODEC_CP) {
        a->part = 0;
        a->q = dfa_step(l->d, a->q, cp);
        a->cnt = str_count(l, a->cnt);
        return at_live(l, a->q, a->cnt) ? CODEC_CP : CODEC_DEAD;
    }
    if (r != CODEC_PART)
        return r;
    cprange rg[CODEC_RANGES];
    unsigned n = codec_ranges((codec)p->codec, next, rg);
    for (unsigned i = 0; i < n; i++)
        for (uint32_t lo = rg[i].lo, k = dfa_range(l->d, lo); lo <= rg[i].hi;) { /* one of each class speaks for all */
            uint32_t end = rg[i].hi;
            while (k + 1 < l->d->nr && l->d->rlo[k + 1] <= lo)
                k++;
            if (lo < 128)
                end = lo;
            else if (k + 1 < l->d->nr && l->d->rlo[k + 1] - 1 < end)
                end = l->d->rlo[k + 1] - 1;
            if (at_live(l, dfa_step(l->d, a->q, lo), str_count(l, a->cnt))) {
                a->part = next;
                return CODEC_PART;
            }
            lo = end + 1;
        }
    return CODEC_DEAD;
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */
static void touch_groups(uint64_t *touch, uint32_t lo, uint32_t hi, uint64_t cls)
{
    for (uint32_t at = lo; at < hi;) {
        touch[at < 0x800 ? 17 + at / 256 : at < 0x10000 ? at / 4096 : 16] |= cls;
        at = at < 0x800 ? (at | 0xFF) + 1 : at < 0x10000 ? (at | 0xFFF) + 1 : CP_MAX + 1;
    }
}

/* The groups of the code points [lo, hi) hold class cls. */
static void touch_range(uint64_t *touch, uint32_t lo, uint32_t hi, uint64_t cls)
{
    for (size_t i = 0; i < VOCAB_N_ODD_SPACES && lo < hi; i++) {
        const cprange *odd = &VOCAB_ODD_SPACES[i];
        if (odd->hi < lo || odd->lo >= hi)
            continue;
        touch_groups(touch, lo, odd->lo, cls);
        touch[SPAN_ODD_SPACE] |= cls;
        lo = odd->hi + 1;
    }
    touch_groups(touch, lo, hi, cls);
}

static void touch_fill(span_cache *c, const cdfa *d)
{
    c->d = d;
    memset(c->touch, 0, sizeof c->touch);
    for (unsigned b = 0; b < 0x80; b++)
        c->touch[byte_group((unsigned char)b)] |= 1ull << (d->ascii[b] < 63 ? d->ascii[b] : 63);
    for (uint32_t i = 0; i < d->nr; i++) {
        uint32_t lo = d->rlo[i], hi = i + 1 < d->nr ? d->rlo[i + 1] : CP_MAX + 1;
        uint64_t cls = 1ull << (d->rcls[i] < 63 ? d->rcls[i] : 63);
        touch_range(c->touch, lo, hi < 0xD800 ? hi : 0xD800, cls); /* surrogates never occur */
        touch_range(c->touch, lo > 0xE000 ? lo : 0xE000, hi, cls);
    }
}

/* Where all characters of a group lead; DEAD: to several states, or nowhere. */
static uint32_t group_to(const cdfa *d, uint32_t q, uint64_t touch)
{
    const uint32_t *t = d->trans + (size_t)q * d->ncls;
    if (!touch || touch >> 63)
        return DEAD;
    uint32_t to = t[__builtin_ctzll(touch)];
    for (touch &= touch - 1; touch; touch &= touch - 1)
        if (t[__builtin_ctzll(touch)] != to)
            return DEAD;
    return to;
}

static void row_fill(span_row *r, const span_cache *c)
{
    uint32_t to[128], seen[8], n_seen = 0, n_of[8] = {0}, best = 0;
    for (unsigned g = 0; g < 128; g++) {
        uint32_t k = 0;
        to[g] = c->json && g == '\\' ? DEAD : group_to(r->d, r->q, c->touch[g]); /* there it begins an escape */
        if (to[g] == DEAD)
            continue;
        while (k < n_seen && seen[k] != to[g])
            k++;
        if (k == 8)
            continue;
        if (k == n_seen)
            seen[n_seen++] = to[g];
        n_of[k]++;
        best = n_of[k] > n_of[best] ? k : best;
    }
    r->to = n_seen ? seen[best] : DEAD;
    r->set[0] = r->set[1] = 0;
    for (unsigned g = 0; g < 128 && n_seen; g++)
        if (to[g] == r->to)
            r->set[g / 64] |= 1ull << g % 64;
    if (c->json) /* what these do in a string does not depend on its automaton: other tables sort them out */
        r->set[0] |= SPAN_CONTROLS | 1ull << '"';
}

const span_row *span_row_of(const cdfa *d, uint32_t q, span_cache *cache)
{
    span_row *r = &cache->row[(q ^ (uint32_t)((uintptr_t)d >> 6)) & (SPAN_ROWS - 1)];
    if (r->d != d || r->q != q) {
        if (cache->d != d)
            touch_fill(cache, d);
        r->d = d;
        r->q = q;
        row_fill(r, cache);
    }
    return r;
}

static inline bool in_row(const uint64_t span[2], const span_row *r)
{
    return !(span[0] & ~r->set[0]) && !(span[1] & ~r->set[1]);
}

bool span_taken(const constrain_vocab *v, const cdfa *d, uint32_t q, uint32_t i, span_cache *cache)
{
    uint32_t left = v->all.node[i].chars;
    if (d->maxd[q] < left)
        return false;
    for (; left; left--) {
        const span_row *r = span_row_of(d, q, cache);
        if (r->to == DEAD || !in_row(v->span[i], r))
            return false;
        if (r->to == q)
            return true;
        q = r->to;
    }
    return true;
}

/* ---- inside strings --------------------------------------------------------------------------------------------- */
/* span_taken for a string with its lengths and `left` characters to come; other tables sort out what no string may
 * hold. */
static inline bool stays(const constrain_vocab *v, const strlex *l, uint32_t i, const at *a, uint32_t left,
                         span_cache *cache)
{
    uint32_t q = a->q, cnt = a->cnt;
    if (a->part || l->d->maxd[q] < left || (l->max != INF && cnt + (uint64_t)left > l->max))
        return false;
    for (; left; left--) {
        const span_row *r = span_row_of(l->d, q, cache);
        if (r->to == DEAD || !in_row(v->span[i], r))
            return false;
        if (r->to == q)
            return l->max == INF || cnt + left + (uint64_t)l->d->mind[q] <= l->max;
        q = r->to;
        cnt = str_count(l, cnt);
        if (!str_viable(l, q, cnt))
            return false;
    }
    return true;
}

/* span_step, shorter for a plain character of a string without lengths. */
static inline codec_result step_quick(const constrain_prog *p, const strlex *l, at *a, unsigned char b)
{
    if (b < 0x20 || b > 0x7E || b == '"' || b == '\\' || a->part || l->max != INF || l->min)
        return span_step(p, l, a, b);
    a->q = l->d->trans[(size_t)a->q * l->d->ncls + l->d->ascii[b]];
    return a->q == DEAD ? CODEC_DEAD : CODEC_CP;
}

/* A permissive state starts from the mask of the string without conditions and clears. */
void span_inside(constrain_state *s, const strlex *l, uint32_t q, uint32_t cnt, uint32_t known, uint32_t *out)
{
    const constrain_vocab *v = s->v;
    const trie *t = &v->all;
    const uint32_t *any = v->len_mask[VOCAB_LEN_MASKS - 1];
    span_cache cache;
    at *path = s->path_at;
    memset(&cache, 0, sizeof cache);
    cache.json = true;
    const span_row *first = span_row_of(l->d, q, &cache);
    bool clear = l->max == INF && __builtin_popcountll(first->set[0] >> 32) + __builtin_popcountll(first->set[1]) > 61;
    uint32_t *bits = clear ? s->tmp_dfa : out;
    if (clear)
        memcpy(bits, any, v->words * sizeof *bits);
    path[0] = (at){q, 0, cnt};
    for (uint32_t i = 1; i < t->n;) {
        const trie_node *n = &t->node[i];
        uint32_t d = n->depth, stop = t->node[n->end].first;
        at a = path[d - 1];
        if (known && a.cnt - cnt + (a.part != 0) + n->chars <= known) {
            i = n->end;
            continue;
        }
        bool whole = stays(v, l, i, &a, n->chars, &cache);
        codec_result r = whole ? CODEC_CP : step_quick(s->p, l, &a, n->byte);
        if (r == CODEC_DEAD || r == CODEC_QUOTE) {
            for (uint32_t k = n->first; clear && r == CODEC_DEAD && k < stop; k++)
                clear_bit(bits, t->order[k]);
            i = n->end;
            continue;
        }
        if (whole || stays(v, l, i, &a, n->chars - ((n->byte & 0xC0) != 0x80), &cache)) {
            for (uint32_t k = n->first; !clear && k < stop; k++)
                bits[t->order[k] / 32] |= any[t->order[k] / 32] & (1u << t->order[k] % 32);
            i = n->end;
            continue;
        }
        for (uint32_t k = n->first; !clear && k < n->first + n->n_here; k++)
            set_bit(bits, t->order[k]);
        path[d] = a;
        i++;
    }
    if (clear)
        or_bits(out, bits, v->words);
}

/* Token masks of a state: the vocabulary's trie walked with the state's set, with what strings and keys share
 * precomputed. */
#include <string.h>

#include "base/mem.h"
#include "constrain/mask.h"

/* The frame of a set whose automaton may take whole parts of the trie at once: the one that loops on most. 0: none. */
static uint32_t taker(const machine *m, uint32_t set, span_cache *cache)
{
    size_t n;
    const uint32_t *ids = machine_list(m, set, &n);
    uint32_t best = 0;
    int most = 0;
    for (size_t i = 0; i < n && i < 8; i++) {
        const frame *f = &m->fr[ids[i]];
        if (f->kind != F_RAW || f->x || f->y)
            continue;
        const span_row *r = span_row_of(m->p->raw[f->node], f->q, cache);
        int size = __builtin_popcountll(r->set[0]) + __builtin_popcountll(r->set[1]);
        if (size > most) {
            most = size;
            best = ids[i];
        }
    }
    return best;
}

/* Does a character begin where the tokens of a walk from `set` begin? */
static bool at_character(const machine *m, uint32_t set)
{
    size_t n;
    const uint32_t *ids = machine_list(m, set, &n);
    for (size_t i = 0; i < n; i++) {
        const frame *f = &m->fr[ids[i]];
        if ((f->kind == F_RAW || f->kind == F_STR || f->kind == F_KEY) && f->x)
            return false;
    }
    return true;
}

#define UNASKED 0xFFFFFFFFu
#define SMALL_PART 6 /* nodes of a part of the trie that is sooner walked than judged */

/* Sets the bits of the tokens of t that can follow `from`. Where one automaton takes all that a part of the trie
 * writes, that part is not visited. merged: t is the trie of rests behind a quote; need, room: then, code points that
 * the string must and may still take before it. */
static void walk(constrain_state *s, const trie *t, uint32_t from, uint32_t *bits, bool merged, uint32_t need,
                 uint32_t room)
{
    machine *m = &s->m;
    span_cache cache;
    bool parts = !merged && at_character(m, from);
    memset(&cache, 0, sizeof cache);
    s->path_set[0] = from;
    s->path_base[0] = UNASKED; /* here: the taker of path_set */
    memset(s->path_first[0], 0, sizeof s->path_first[0]);
    machine_first(m, from, s->path_first[0]);
    if (merged)
        for (uint32_t k = 0; k < t->node[0].n_here; k++)
            if (t->extra[k] >= need && t->extra[k] <= room)
                set_bit(bits, t->order[k]);
    for (uint32_t i = 1; i < t->n;) {
        const trie_node *v = &t->node[i];
        uint32_t d = v->depth;
        if (!(s->path_first[d - 1][v->byte / 32] >> v->byte % 32 & 1)) {
            i = v->end;
            continue;
        }
        if (parts && v->end - i >= SMALL_PART) {
            if (s->path_base[d - 1] == UNASKED)
                s->path_base[d - 1] = taker(m, s->path_set[d - 1], &cache);
            const frame *f = &m->fr[s->path_base[d - 1]];
            if (s->path_base[d - 1] && span_taken(s->v, m->p->raw[f->node], f->q, i, &cache)) {
                for (uint32_t k = v->first; k < t->node[v->end].first; k++)
                    bits[t->order[k] / 32] |= s->v->utf8_mask[t->order[k] / 32] & 1u << t->order[k] % 32;
                i = v->end;
                continue;
            }
        }
        m->n_text = s->n_text + d - 1;
        uint32_t next = machine_step(m, s->path_set[d - 1], v->byte);
        if (!next) {
            if (m->full || m->oom)
                return;
            i = v->end;
            continue;
        }
        for (uint32_t k = v->first; k < v->first + v->n_here; k++)
            if (!merged || (t->extra[k] >= need && t->extra[k] <= room))
                set_bit(bits, t->order[k]);
        i++;
        if (i < v->end) {
            s->path_set[d] = next;
            s->path_base[d] = next == s->path_set[d - 1] ? s->path_base[d - 1] : UNASKED;
            if (next == s->path_set[d - 1]) {
                memcpy(s->path_first[d], s->path_first[d - 1], sizeof s->path_first[d]);
            } else {
                memset(s->path_first[d], 0, sizeof s->path_first[d]);
                machine_first(m, next, s->path_first[d]);
            }
        }
    }
}

/* Bits hold what may follow `base`; makes them hold what may follow `from`, visiting only where the two part. */
static void walk_apart(constrain_state *s, uint32_t from, uint32_t base, uint32_t *bits)
{
    machine *m = &s->m;
    const trie *t = &s->v->all;
    s->path_set[0] = from;
    s->path_base[0] = base;
    machine_apart(m, from, base, s->path_first[0]);
    for (uint32_t i = 1; i < t->n;) {
        const trie_node *v = &t->node[i];
        uint32_t d = v->depth, b = 0;
        if (!(s->path_first[d - 1][v->byte / 32] >> v->byte % 32 & 1)) {
            i = v->end;
            continue;
        }
        m->n_text = s->n_text + d - 1;
        uint32_t a = machine_step(m, s->path_set[d - 1], v->byte);
        if (s->path_base[d - 1])
            b = machine_step(m, s->path_base[d - 1], v->byte);
        if (m->full || m->oom)
            return;
        if (a == b) {
            i = v->end;
            continue;
        }
        uint32_t stop = t->node[v->end].first;
        if (!a) {
            for (uint32_t k = v->first; k < stop; k++)
                clear_bit(bits, t->order[k]);
            i = v->end;
            continue;
        }
        for (uint32_t k = v->first; k < v->first + v->n_here; k++)
            set_bit(bits, t->order[k]);
        i++;
        if (i < v->end) {
            s->path_set[d] = a;
            s->path_base[d] = b;
            machine_apart(m, a, b, s->path_first[d]);
        }
    }
}

/* The tokens that close some string and go on with `after`. Asked for again and again while a string is written. */
static const uint32_t *crossing(constrain_state *s, uint32_t after)
{
    if (s->cross_set != after) {
        memset(s->cross_bits, 0, s->v->words * sizeof *s->cross_bits);
        walk(s, &s->v->cross, after, s->cross_bits, true, 0, INF);
        s->cross_set = s->m.full || s->m.oom ? 0 : after;
    }
    return s->cross_bits;
}

/* A string that allows anything but has lengths: what stays inside, then what crosses its end into `after`. */
static void free_string(constrain_state *s, uint32_t after, uint32_t need, uint32_t room, uint32_t *bits)
{
    const constrain_vocab *v = s->v;
    if (room < VOCAB_LEN_MASKS - 1) {
        or_bits(bits, v->len_mask[room], v->words);
    } else if (room == INF || !v->n_by_need || v->need[v->by_need[0]] <= room) {
        or_bits(bits, v->len_mask[VOCAB_LEN_MASKS - 1], v->words);
    } else { /* bits may hold other configurations' tokens: add the long ones one by one */
        or_bits(bits, v->len_mask[VOCAB_LEN_MASKS - 2], v->words);
        for (uint32_t i = v->n_by_need; i-- > 0 && v->need[v->by_need[i]] <= room;)
            set_bit(bits, v->by_need[i]);
    }
    if (after && !need && room >= v->max_extra)
        or_bits(bits, crossing(s, after), v->words);
    else if (after)
        walk(s, &v->cross, after, bits, true, need, room);
}

/* ---- strings and keys with an automaton ------------------------------------------------------------------------- */
/* The tokens that stay inside from state q on when no length is in the way; remembered in the program: every state that
 * comes by this place of the automaton takes them from there. NULL: no room for them. Valid until the next walk. */
static const uint32_t *inside_known(constrain_state *s, const cdfa *d, uint32_t q)
{
    const constrain_vocab *v = s->v;
    const strlex free_of_lengths = {.d = d, .max = INF};
    _Atomic(inside_row *) *slot = NULL;
    uint64_t h = hash64((uint64_t)(uintptr_t)d ^ q);
    for (unsigned k = 0; k < 8 && !slot; k++) {
        _Atomic(inside_row *) *at = &s->p->inside[(h + k) % INSIDE_ROWS];
        inside_row *r = atomic_load_explicit(at, memory_order_acquire);
        if (!r)
            slot = at;
        else if (r->d == d && r->q == q && r->vocab == v->digest && r->words == v->words)
            return r->bits;
    }
    inside_row *row = slot ? mem_calloc(1, sizeof *row + v->words * sizeof *row->bits) : NULL, *none = NULL;
    if (!row)
        return NULL;
    row->d = d;
    row->q = q;
    row->vocab = v->digest;
    row->words = v->words;
    span_inside(s, &free_of_lengths, q, 0, 0, row->bits);
    if (atomic_compare_exchange_strong(slot, &none, row))
        return row->bits;
    memcpy(s->tmp_dfa, row->bits, v->words * sizeof *row->bits); /* another state was faster */
    mem_free(row);
    return s->tmp_dfa;
}

/* The string's end when token id is written from state q and length cnt on; CODEC_CP or CODEC_PART: it stays inside. */
static codec_result string_run(const constrain_state *s, const strlex *l, at *a, uint32_t id)
{
    const constrain_token *t = &s->v->tok[id];
    codec_result r = CODEC_CP;
    for (uint32_t i = 0; i < t->n && r != CODEC_DEAD && r != CODEC_QUOTE; i++)
        r = span_step(s->p, l, a, (unsigned char)t->s[i]);
    return r;
}

/* A string with a longest length: tokens so short that every state they may lead to can still end are those that stay
 * inside without lengths; only longer ones are walked. False: it is not far enough from its end for that. */
static bool inside_bounded(constrain_state *s, const strlex *l, uint32_t q, uint32_t cnt, uint32_t *out)
{
    const constrain_vocab *v = s->v;
    const uint32_t *any = v->len_mask[VOCAB_LEN_MASKS - 1];
    uint32_t room = l->max - cnt, far = 0;
    for (uint32_t i = 0; i < l->d->n; i++)
        far = l->d->mind[i] > far ? l->d->mind[i] : far;
    const uint32_t *row = room > far ? inside_known(s, l->d, q) : NULL;
    if (!row)
        return false;
    uint32_t sure = room - far, k = sure < VOCAB_LEN_MASKS - 2 ? sure : VOCAB_LEN_MASKS - 2;
    for (size_t w = 0; w < v->words; w++) {
        out[w] |= row[w] & v->len_mask[k][w];
        for (uint32_t more = row[w] & ~any[w]; more; more &= more - 1) { /* escapes that the tables do not know */
            uint32_t id = (uint32_t)(w * 32) + (uint32_t)__builtin_ctz(more);
            at a = {q, 0, cnt};
            codec_result r = string_run(s, l, &a, id);
            if (r == CODEC_CP || r == CODEC_PART)
                set_bit(out, id);
        }
    }
    for (uint32_t i = v->n_by_need; i-- > 0 && v->need[v->by_need[i]] <= sure;)
        if (row[v->by_need[i] / 32] >> v->by_need[i] % 32 & 1)
            set_bit(out, v->by_need[i]);
    if (sure < v->most_chars)
        span_inside(s, l, q, cnt, sure, out);
    return true;
}

/* Adds the tokens that stay inside a string or key with an automaton. */
static void inside_dfa(constrain_state *s, const strlex *l, uint32_t q, uint32_t cnt, uint32_t *out)
{
    if (cnt >= l->min && l->max != INF && inside_bounded(s, l, q, cnt, out))
        return;
    const uint32_t *row = cnt >= l->min && l->max == INF ? inside_known(s, l->d, q) : NULL;
    if (row)
        or_bits(out, row, s->v->words);
    else
        span_inside(s, l, q, cnt, 0, out);
}

/* Tokens that close the string and go on with `after`: what follows the quote is walked, what stands before it is run
 * through the automaton. label: where it must end (0: any end). */
static void cross_dfa(constrain_state *s, const strlex *l, uint32_t q, uint32_t cnt, uint32_t label, uint32_t after,
                      uint32_t *out)
{
    const constrain_vocab *v = s->v;
    if (!after || l->d->mind[q] > v->max_extra)
        return;
    const uint32_t *hit = crossing(s, after);
    for (size_t w = 0; w < v->words; w++)
        for (uint32_t more = hit[w]; more; more &= more - 1) {
            uint32_t id = (uint32_t)(w * 32) + (uint32_t)__builtin_ctz(more);
            at a = {q, 0, cnt};
            if (string_run(s, l, &a, id) == CODEC_QUOTE && str_ends(l, a.q, a.cnt) &&
                (!label || l->d->label[a.q] == label))
                set_bit(out, id);
        }
}

static uint32_t single(machine *m, uint32_t id) { return machine_set(m, &id, 1); }

/* A key or string is done in two steps where names or values are in its way and must be looked at one by one: the frame
 * `off`, where nothing is in the way, gives the mask, and a walk mends it where the two differ. */
typedef struct apart {
    uint32_t here, base; /* sets */
    uint32_t *bits;      /* where the mask of base goes */
} apart;

static apart apart_begin(constrain_state *s, uint32_t id, const frame *off, uint32_t *bits)
{
    uint32_t off_id = machine_frame(&s->m, off);
    apart a = {single(&s->m, id), single(&s->m, off_id), off_id == id ? bits : s->tmp_bits};
    if (a.bits != bits)
        memset(a.bits, 0, s->v->words * sizeof *a.bits);
    return a;
}

static void apart_end(constrain_state *s, const apart *a, uint32_t *bits)
{
    if (a->bits == bits)
        return;
    walk_apart(s, a->here, a->base, a->bits);
    or_bits(bits, a->bits, s->v->words);
}

static void string_mask(constrain_state *s, uint32_t id, uint32_t *bits)
{
    machine *m = &s->m;
    frame f = m->fr[id], off = f;
    const strlex *l = &s->p->str[f.node];
    uint32_t after = machine_after(m, f.parent);
    off.y = off.z = 0;
    apart a = apart_begin(s, id, &off, bits);
    if (l->d) {
        inside_dfa(s, l, f.q, f.cnt, a.bits);
        cross_dfa(s, l, f.q, f.cnt, 0, after, a.bits);
    } else {
        free_string(s, after, l->min > f.cnt ? l->min - f.cnt : 0, l->max == INF ? INF : l->max - f.cnt, a.bits);
    }
    apart_end(s, &a, bits);
}

static void key_free_mask(constrain_state *s, uint32_t id, uint32_t *bits)
{
    machine *m = &s->m;
    frame off = m->fr[id];
    off.y = off.z = off.cnt = 0;
    apart a = apart_begin(s, id, &off, bits);
    free_string(s, machine_step(m, a.base, '"'), 0, INF, a.bits);
    apart_end(s, &a, bits);
}

/* A key in an object with key patterns: by the automaton of other keys as long as names are out of the way. */
static void key_dfa_mask(constrain_state *s, uint32_t id, uint32_t *bits)
{
    machine *m = &s->m;
    frame f = m->fr[id], off = f;
    const pobj *o = &s->p->obj[f.node];
    const strlex l = {.d = o->kd, .max = INF};
    off.y = off.z = off.cnt = 0;
    apart a = apart_begin(s, id, &off, bits);
    inside_dfa(s, &l, f.q, 0, a.bits);
    for (uint32_t c = 0; c < o->n_cls; c++) {
        frame end = off;
        for (end.q = 0; end.q < o->kd->n && o->kd->label[end.q] != o->cls[c].label; end.q++)
            ;
        uint32_t end_id = end.q < o->kd->n ? machine_frame(m, &end) : 0;
        uint32_t after = end_id ? machine_step(m, single(m, end_id), '"') : 0;
        if (after)
            cross_dfa(s, &l, f.q, 0, o->cls[c].label, after, a.bits);
    }
    apart_end(s, &a, bits);
}

/* Fills in what configuration id allows, if it is a string or key that need not be walked. */
static bool easy_mask(constrain_state *s, uint32_t id, uint32_t *bits)
{
    machine *m = &s->m;
    frame f = m->fr[id], up = m->fr[f.parent];
    if (f.x || (f.kind != F_STR && f.kind != F_KEY))
        return false;
    if (f.kind == F_STR) {
        string_mask(s, id, bits);
        return true;
    }
    const pobj *o = &s->p->obj[f.node];
    if (!key_others(m, o, &up) || (o->kd && (o->kcount != INF || f.q == DEAD)))
        return false;
    if (o->kd)
        key_dfa_mask(s, id, bits);
    else
        key_free_mask(s, id, bits);
    return true;
}

/* ---- counts -----------------------------------------------------------------------------------------------------
 * A token of n bytes begins at most n rounds of a repeat whose rounds are not empty. Counts from which so many rounds
 * meet neither of its bounds, or are all between them, allow the same tokens: one stands for them all, so that the four
 * hundredth line finds the masks of the first. */
static uint32_t count_alike(const grep_ *r, uint32_t cnt, uint32_t reach)
{
    if (r->min > reach && cnt < r->min - reach)
        return r->min - reach - 1;
    return r->max != INF && cnt > r->min && r->max > reach && cnt < r->max - reach ? r->min : cnt;
}

static bool has_long_counts(const constrain_state *s)
{
    uint32_t reach = s->v->all.max_depth;
    for (uint32_t i = 0; !s->p->json && i < s->p->n_rep; i++)
        if (s->p->rep[i].min > reach || (s->p->rep[i].max != INF && s->p->rep[i].max - s->p->rep[i].min > reach))
            return true;
    return false;
}

/* The frame that stands for frame id; remembered, so a frame costs its own step up once. 0: out of room. */
static uint32_t frame_alike(constrain_state *s, uint32_t id)
{
    machine *m = &s->m;
    uint32_t depth = 0, at = id, up = 0;
    if (m->cap_alike < m->cap_fr) {
        uint32_t *more = mem_realloc(m->alike, m->cap_fr * sizeof *more);
        if (!more)
            return 0;
        memset(more + m->cap_alike, 0, (m->cap_fr - m->cap_alike) * sizeof *more);
        m->alike = more;
        m->cap_alike = m->cap_fr;
    }
    uint32_t chain[64]; /* frames are made from below, one by one: their parents are known but for the first time */
    for (; depth < 64 && m->fr[at].kind != F_END && !m->alike[at]; at = m->fr[at].parent)
        chain[depth++] = at;
    up = m->alike[at] ? m->alike[at] : at; /* deeper than 64: as it is */
    while (depth--) {
        frame f = m->fr[chain[depth]];
        f.parent = up;
        if (f.kind == F_REP && !s->p->rule[s->p->rep[f.node].rule].nullable)
            f.cnt = count_alike(&s->p->rep[f.node], f.cnt, s->v->all.max_depth);
        up = machine_frame(m, &f);
        if (!up)
            return 0;
        m->alike[chain[depth]] = up;
    }
    return up;
}

/* The set whose mask is that of the state's set. */
static uint32_t set_alike(constrain_state *s)
{
    machine *m = &s->m;
    size_t n;
    const uint32_t *of = machine_list(m, s->set, &n);
    uint32_t *ids = has_long_counts(s) ? mem_alloc((n + 1) * sizeof *ids) : NULL, set = s->set;
    for (size_t i = 0; ids && i < n; i++) {
        ids[i] = frame_alike(s, of[i]);
        if (!ids[i])
            n = 0;
    }
    if (ids && n)
        set = machine_set(m, ids, n);
    if (m->full || m->oom || !set) { /* it does without */
        m->full = m->oom = false;
        set = s->set;
    }
    mem_free(ids);
    return set;
}

static void mask_fill(constrain_state *s, uint32_t set, uint32_t *bits)
{
    machine *m = &s->m;
    size_t n, n_rest = 0;
    state_at_text(s, s->n_text);
    /* A mask may be kept for the set, so it must not depend on the text. Keys and items that a token completes are then
     * unknown, which at most forbids a token that completes two of them, or a whole array or object of uniqueItems
     * together with something before it. */
    m->text_known = false;
    machine_list(m, set, &n);
    uint32_t *rest = mem_alloc((n + 1) * sizeof *rest);
    if (!rest) {
        m->oom = true;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t id = machine_list(m, set, &n)[i];
        if (!easy_mask(s, id, bits))
            rest[n_rest++] = id;
    }
    if (n_rest && !m->oom && !m->full)
        walk(s, &s->v->all, machine_set(m, rest, n_rest), bits, false, 0, INF);
    mem_free(rest);
}

/* Tokens that complete a whole array or object of uniqueItems together with something before it: the text decides, so
 * the mask that allows them on trust is made too, and each token that only it allows is tried. */
static void deep_fill(constrain_state *s, uint32_t *bits)
{
    const constrain_vocab *v = s->v;
    machine *m = &s->m;
    uint32_t *trust = mem_calloc(v->words + 1, sizeof *trust);
    if (!trust) {
        m->oom = true;
        return;
    }
    m->deep_trust = true;
    m->deep_guessed = false;
    s->cross_set = 0;
    mask_fill(s, s->set, trust);
    m->deep_trust = false;
    s->cross_set = 0;
    for (size_t w = 0; w < v->words && m->deep_guessed && !m->full && !m->oom; w++)
        for (uint32_t more = trust[w] & ~bits[w]; more; more &= more - 1) {
            uint32_t id = (uint32_t)(w * 32) + (uint32_t)__builtin_ctz(more);
            if (state_try_bytes(s, v->tok[id].s, v->tok[id].n))
                set_bit(bits, id);
        }
    s->text.n = s->n_text;
    mem_free(trust);
}

static mask_row **mask_slot(machine *m, uint32_t set) { return &m->mask[hash64(set) & (m->cap_mask - 1)]; }

static const uint32_t *mask_find(machine *m, uint32_t set)
{
    if (!m->cap_mask)
        return NULL;
    for (mask_row *r = *mask_slot(m, set); r; r = r->next)
        if (r->state == set)
            return r->bits;
    return NULL;
}

static void mask_keep(machine *m, uint32_t set, const uint32_t *bits, size_t words)
{
    if (m->bytes + words * 4 > SOFT_BYTES)
        return;
    if (!m->cap_mask) {
        m->mask = mem_calloc(1024, sizeof *m->mask);
        if (!m->mask)
            return;
        m->cap_mask = 1024;
    }
    mask_row *r = mem_alloc(sizeof *r + words * sizeof *bits);
    if (!r)
        return;
    r->state = set;
    memcpy(r->bits, bits, words * sizeof *bits);
    r->next = *mask_slot(m, set);
    *mask_slot(m, set) = r;
    m->bytes += sizeof *r + words * sizeof *bits;
}

imp_status constrain_state_mask(constrain_state *s, uint32_t *bits)
{
    const constrain_vocab *v = s->v;
    machine *m = &s->m;
    if (!v)
        return IMP_E_USAGE;
    memset(bits, 0, v->words * sizeof *bits);
    if (!s->set)
        return IMP_OK;
    uint32_t set = set_alike(s);
    const uint32_t *known = mask_find(m, set);
    if (known) {
        memcpy(bits, known, v->words * sizeof *bits);
    } else {
        for (int tries = 0;; tries++) {
            mask_fill(s, set, bits);
            if (s->p->deep_unique && !m->full && !m->oom)
                deep_fill(s, bits);
            if (!m->full && !m->oom)
                break;
            bool oom = m->oom;
            m->full = m->oom = false;
            memset(bits, 0, v->words * sizeof *bits);
            if (tries || oom || !state_renew(s)) {
                return oom ? IMP_E_NOMEM : IMP_E_LIMIT;
            }
            set = set_alike(s);
        }
        if (!s->p->deep_unique)
            mask_keep(m, set, bits, v->words);
    }
    bool complete = machine_complete(m, s->set);
    for (uint32_t i = 0; i < v->n_eos; i++)
        if (complete)
            set_bit(bits, v->eos[i]);
    if (s->p->json && s->p->ws == CONSTRAIN_WS_FREE && !s->lex.in_str && s->lex.ws_run + v->max_lead > s->p->ws_max)
        for (uint32_t i = 0; i < v->n_ws_tok && s->lex.ws_run + v->ws_lead[i] > s->p->ws_max; i++)
            clear_bit(bits, v->ws_tok[i]);
    return IMP_OK;
}

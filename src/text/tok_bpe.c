/* Byte-pair merging: always the pair of lowest rank, of equal ones the leftmost, until no pair is left. Short words
 * scan for it; long ones keep a heap of (rank, position), so a megabyte without a break stays n log n. An entry of the
 * heap is out of date when its symbol is gone or its pair has changed; that is seen when it comes out. */
#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_impl.h"

#define NO_PAIR UINT32_MAX
#define SCAN_MAX 24 /* symbols up to which scanning beats the heap */

void tok_enc_oom(tok_enc *c, const char *what)
{
    if (c->st == IMP_OK)
        c->st = err_oom(c->e, what, 0);
}

void tok_emit(tok_enc *c, int32_t id)
{
    tok_ids *v = c->out;
    if (v->n == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 64;
        int32_t *p = cap <= SIZE_MAX / sizeof *p ? mem_realloc(v->id, cap * sizeof *p) : NULL;
        if (!p) {
            tok_enc_oom(c, "token ids");
            return;
        }
        v->id = p;
        v->cap = cap;
    }
    v->id[v->n++] = id;
}

void tok_emit_unk(tok_enc *c)
{
    if (c->t->unk < 0 || (c->t->fuse_unk && c->last_unk))
        return;
    tok_emit(c, c->t->unk);
    c->last_unk = true;
}

bool tok_syms_reserve(tok_enc *c, size_t n)
{
    if (n <= c->cap_sym)
        return true;
    size_t cap = n < 256 ? 256 : n + n / 4;
    mem_free(c->sym); /* nothing in it is kept */
    c->sym = mem_alloc(cap * sizeof *c->sym);
    c->cap_sym = c->sym ? cap : 0;
    if (!c->sym)
        tok_enc_oom(c, "the symbols of a word");
    return c->sym != NULL;
}

/* Larger score first: the order of floats turned into the order of unsigned numbers, upside down. */
static uint32_t score_rank(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    u = u >> 31 ? ~u : u | 0x80000000u;
    u = ~u;
    return u == NO_PAIR ? NO_PAIR - 1 : u;
}

static void pair_rank(const tok_enc *c, const char *s, tok_sym *l)
{
    const tok *t = c->t;
    l->rank = NO_PAIR;
    if (l->next < 0)
        return;
    const tok_sym *r = &c->sym[l->next];
    if (t->kind == TOK_KIND_SPM) {
        int32_t id = l->len + r->len <= t->max_len ? tok_lookup(t, s + l->start, (size_t)l->len + r->len) : -1;
        if (id >= 0) {
            l->rank = score_rank(t->score[id]);
            l->merged = id;
        }
        return;
    }
    const tok_pair *p = tok_pair_find(t, l->id, r->id);
    if (p) {
        l->rank = p->rank;
        l->merged = p->id;
    }
}

/* Joins symbol i with the next one; gives the previous symbol (or -1), whose pair has changed too. */
static int32_t join(tok_enc *c, const char *s, int32_t i)
{
    tok_sym *l = &c->sym[i], *r = &c->sym[l->next];
    l->len += r->len;
    l->id = l->merged;
    l->next = r->next;
    r->len = 0;
    r->rank = NO_PAIR;
    if (l->next >= 0)
        c->sym[l->next].prev = i;
    pair_rank(c, s, l);
    if (l->prev >= 0)
        pair_rank(c, s, &c->sym[l->prev]);
    return l->prev;
}

static void heap_down(uint64_t *h, size_t n, size_t i)
{
    uint64_t v = h[i];
    for (;;) {
        size_t k = i * 4 + 1, best = k;
        if (k >= n)
            break;
        for (size_t j = k + 1; j < k + 4 && j < n; j++)
            if (h[j] < h[best])
                best = j;
        if (h[best] >= v)
            break;
        h[i] = h[best];
        i = best;
    }
    h[i] = v;
}

static bool heap_push(tok_enc *c, uint64_t v)
{
    if (c->n_heap == c->cap_heap) {
        size_t cap = c->cap_heap * 2 + 64;
        uint64_t *p = mem_realloc(c->heap, cap * sizeof *p);
        if (!p) {
            tok_enc_oom(c, "the queue of merges");
            return false;
        }
        c->heap = p;
        c->cap_heap = cap;
    }
    size_t i = c->n_heap++;
    while (i && c->heap[(i - 1) / 4] > v) {
        c->heap[i] = c->heap[(i - 1) / 4];
        i = (i - 1) / 4;
    }
    c->heap[i] = v;
    return true;
}

static bool push_pair(tok_enc *c, int32_t i)
{
    return c->sym[i].rank == NO_PAIR || heap_push(c, (uint64_t)c->sym[i].rank << 32 | (uint32_t)i);
}

static void merge_heap(tok_enc *c, const char *s, size_t n)
{
    if (c->cap_heap < n) {
        mem_free(c->heap);
        c->heap = mem_alloc((n + n / 4) * sizeof *c->heap);
        c->cap_heap = c->heap ? n + n / 4 : 0;
        if (!c->heap) {
            tok_enc_oom(c, "the queue of merges");
            return;
        }
    }
    c->n_heap = 0;
    for (size_t i = 0; i < n; i++)
        if (c->sym[i].rank != NO_PAIR)
            c->heap[c->n_heap++] = (uint64_t)c->sym[i].rank << 32 | i;
    for (size_t i = c->n_heap / 4 + 1; i-- > 0;)
        if (i < c->n_heap)
            heap_down(c->heap, c->n_heap, i);
    while (c->n_heap) {
        uint64_t top = c->heap[0];
        c->heap[0] = c->heap[--c->n_heap];
        if (c->n_heap)
            heap_down(c->heap, c->n_heap, 0);
        int32_t i = (int32_t)(uint32_t)top;
        if (c->sym[i].len == 0 || c->sym[i].rank != (uint32_t)(top >> 32))
            continue;
        int32_t prev = join(c, s, i);
        if (!push_pair(c, i) || (prev >= 0 && !push_pair(c, prev)))
            return;
    }
}

void tok_merge(tok_enc *c, const char *s, size_t n)
{
    tok_sym *y = c->sym;
    for (size_t i = 0; i < n; i++) {
        y[i].prev = (int32_t)i - 1;
        y[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
    }
    for (size_t i = 0; i < n; i++)
        pair_rank(c, s, &y[i]);
    if (n > SCAN_MAX) {
        merge_heap(c, s, n);
        return;
    }
    for (;;) {
        int32_t best = -1;
        uint32_t rank = NO_PAIR;
        for (int32_t i = n ? 0 : -1; i >= 0; i = y[i].next)
            if (y[i].rank < rank) {
                rank = y[i].rank;
                best = i;
            }
        if (best < 0)
            return;
        join(c, s, best);
    }
}

static void emit_syms(tok_enc *c)
{
    for (int32_t i = 0; i >= 0; i = c->sym[i].next) {
        if (c->sym[i].id < 0) {
            tok_emit_unk(c);
            continue;
        }
        tok_emit(c, c->sym[i].id);
        c->last_unk = false;
    }
}

/* A character that is no token becomes its bytes when all of them are tokens, else one unknown symbol. */
static size_t char_syms(const tok *t, tok_sym *y, const char *s, size_t at, size_t len)
{
    int32_t id = tok_lookup(t, s + at, len);
    if (id < 0 && t->byte_fallback) {
        bool all = true;
        for (size_t k = 0; k < len; k++)
            all &= t->byte_id[(uint8_t)s[at + k]] >= 0;
        if (all) {
            for (size_t k = 0; k < len; k++)
                y[k] = (tok_sym){.start = (uint32_t)(at + k), .len = 1, .id = t->byte_id[(uint8_t)s[at + k]]};
            return len;
        }
    }
    y[0] = (tok_sym){.start = (uint32_t)at, .len = (uint32_t)len, .id = id};
    return 1;
}

static void merge_and_emit(tok_enc *c, const char *s, size_t k)
{
    if (!k)
        return;
    tok_merge(c, s, k);
    if (c->st == IMP_OK)
        emit_syms(c);
}

/* Characters: cut first where no token reaches across, as in tok_spm.c. */
static void bpe_chars(tok_enc *c, const char *s, size_t n)
{
    const tok *t = c->t;
    size_t k = 0, begin = 0;
    uint32_t prev = 0, cp;
    for (size_t i = 0; i < n && c->st == IMP_OK; prev = cp) {
        size_t len = utf8_get(s + i, n - i, &cp, NULL);
        if (i > begin && t->bigram && !tok_bigram_has(t, prev, cp)) {
            merge_and_emit(c, s, k);
            begin = i;
            k = 0;
        }
        k += char_syms(t, c->sym + k, s, i, len);
        i += len;
    }
    if (c->st == IMP_OK)
        merge_and_emit(c, s, k);
}

void tok_bpe_word(tok_enc *c, const char *s, size_t n)
{
    const tok *t = c->t;
    c->last_unk = false;
    if (!n || c->st != IMP_OK || !tok_syms_reserve(c, n))
        return;
    if (t->ignore_merges) {
        int32_t id = tok_lookup(t, s, n);
        if (id >= 0) {
            tok_emit(c, id);
            return;
        }
    }
    if (!t->byte_level) {
        bpe_chars(c, s, n);
        return;
    }
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = t->byte_id[(uint8_t)s[i]];
        if (id >= 0 || t->unk >= 0) /* Hugging Face drops a byte that is no token when there is no unknown token */
            c->sym[k++] = (tok_sym){.start = (uint32_t)i, .len = 1, .id = id};
    }
    merge_and_emit(c, s, k);
}

/* The vocabulary: texts in one block, a hash index, merges as an id-pair table, added tokens as a byte trie. All of it
 * is laid out in a few big allocations, because a vocabulary of 262,144 has to be ready in tens of milliseconds. */
#include <stdio.h>

#include "base/ck.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_impl.h"

uint32_t tok_hash(const char *s, size_t n)
{
    uint64_t h = 0x9E3779B97F4A7C15u ^ (n * 0xA24BAED4963EE407u), v;
    while (n >= 8) {
        memcpy(&v, s, 8);
        h = (h ^ v) * 0x9FB21C651E98DF25u;
        h ^= h >> 32;
        s += 8;
        n -= 8;
    }
    v = 0;
    if (n) {
        memcpy(&v, s, n);
        h = (h ^ v) * 0x9FB21C651E98DF25u;
        h ^= h >> 29;
    }
    h *= 0xD6E8FEB86659FD93u;
    return (uint32_t)(h >> 32);
}

/* GPT-2's alphabet: printable bytes stand for themselves, the other 68 are U+0100 and up in order of the byte. */
static int alphabet_byte(uint32_t cp)
{
    if (cp < 256) {
        bool self = (cp >= 0x21 && cp <= 0x7E) || (cp >= 0xA1 && cp <= 0xAC) || (cp >= 0xAE && cp <= 0xFF);
        return self ? (int)cp : -1;
    }
    if (cp < 0x100 + 33)
        return (int)(cp - 0x100);
    if (cp < 0x100 + 33 + 34)
        return (int)(cp - 0x100 - 33 + 0x7F);
    return cp == 0x100 + 67 ? 0xAD : -1;
}

static uint32_t alphabet_char(unsigned b)
{
    if (b <= 0x20)
        return 0x100 + b;
    if (b >= 0x7F && b <= 0xA0)
        return 0x100 + 33 + (b - 0x7F);
    return b == 0xAD ? 0x100 + 67 : b;
}

size_t tok_alphabet_to_bytes(const char *s, size_t n, char *out)
{
    size_t o = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp = (unsigned char)s[i];
        if (cp < 0x80) {
            i++;
        } else if (cp >= 0xC2 && cp <= 0xC5 && i + 1 < n && ((unsigned char)s[i + 1] & 0xC0) == 0x80) {
            cp = (cp & 31) << 6 | ((unsigned char)s[i + 1] & 63);
            i += 2;
        } else {
            bool ok;
            i += utf8_get(s + i, n - i, &cp, &ok);
            if (!ok)
                return SIZE_MAX;
        }
        int b = alphabet_byte(cp);
        if (b < 0)
            return SIZE_MAX;
        out[o++] = (char)b;
    }
    return o;
}

void tok_bytes_to_alphabet(const char *s, size_t n, strbuf *out)
{
    for (size_t i = 0; i < n; i++)
        sb_utf8(out, alphabet_char((unsigned char)s[i]));
}

imp_status tok_vocab_set(tok *t, const tok_word *w, size_t n, bool byte_level, const char *name, imp_err *e)
{
    if (n == 0 || n > INT32_MAX / 4)
        return err_set(e, IMP_E_MODEL, "%s: tokenizer: vocabulary of %zu tokens, wanted 1 to %d", name, n,
                       INT32_MAX / 4);
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++)
        if (!ck_add(total, w[i].n, &total) || total > UINT32_MAX / 2)
            return err_set(e, IMP_E_MODEL, "%s: tokenizer: token texts pass 2 GiB at id %zu", name, i);
    char *text = arena_alloc(&t->a, (size_t)total + 1);
    uint32_t *off = ARENA_ARRAY(&t->a, uint32_t, n + 1);
    t->attr = arena_alloc(&t->a, n);
    if (!text || !off || !t->attr)
        return err_oom(e, "the vocabulary", total);
    uint32_t pos = 0;
    for (size_t i = 0; i < n; i++) {
        off[i] = pos;
        size_t k = byte_level ? tok_alphabet_to_bytes(w[i].s, w[i].n, text + pos) : SIZE_MAX;
        if (k == SIZE_MAX) { /* a text outside the alphabet (added tokens) is taken as it is */
            k = w[i].n;
            if (k)
                memcpy(text + pos, w[i].s, k);
        }
        pos += (uint32_t)k;
    }
    off[n] = pos;
    t->text = t->out = text;
    t->text_off = t->out_off = off;
    t->n = (int32_t)n;
    t->byte_level = byte_level;
    return IMP_OK;
}

imp_status tok_vocab_index(tok *t, const uint8_t *skip, const char *name, imp_err *e)
{
    uint32_t cap = 16;
    while (cap < (uint32_t)t->n * 2u)
        cap *= 2;
    t->slot = ARENA_ARRAY(&t->a, tok_slot, cap);
    if (!t->slot)
        return err_oom(e, name, (unsigned long long)cap * sizeof(tok_slot));
    memset(t->slot, 0xFF, cap * sizeof(tok_slot));
    t->slot_mask = cap - 1;
    uint32_t ahead[16] = {0}; /* hashes of the next texts: their slots are fetched before they are needed */
    for (int32_t i = 0; i < t->n + 16; i++) {
        int32_t done = i - 16;
        uint32_t h = ahead[i & 15];
        if (i < t->n) {
            tok_word w = tok_text(t, i);
            ahead[i & 15] = tok_hash(w.s, w.n);
            __builtin_prefetch(&t->slot[ahead[i & 15] & t->slot_mask], 1);
        }
        if (done < 0)
            continue;
        tok_word w = tok_text(t, done);
        if (!w.n || (skip && skip[done]))
            continue;
        uint32_t k = h & t->slot_mask;
        for (; t->slot[k].id >= 0; k = (k + 1) & t->slot_mask) {
            if (t->slot[k].hash != h)
                continue;
            tok_word o = tok_text(t, t->slot[k].id);
            if (o.n == w.n && !memcmp(o.s, w.s, w.n))
                break;
        }
        t->slot[k] = (tok_slot){h, done};
    }
    return IMP_OK;
}

static int32_t lookup_hashed(const tok *t, uint32_t h, const char *s, size_t n)
{
    for (uint32_t k = h & t->slot_mask; t->slot[k].id >= 0; k = (k + 1) & t->slot_mask) {
        if (t->slot[k].hash != h)
            continue;
        tok_word w = tok_text(t, t->slot[k].id);
        if (w.n == n && !memcmp(w.s, s, n))
            return t->slot[k].id;
    }
    return -1;
}

int32_t tok_lookup(const tok *t, const char *s, size_t n) { return lookup_hashed(t, tok_hash(s, n), s, n); }

imp_status tok_pairs_alloc(tok *t, size_t n, const char *name, imp_err *e)
{
    if (n > UINT32_MAX / 8)
        return err_set(e, IMP_E_MODEL, "%s: tokenizer: %zu merges, wanted at most %u", name, n, UINT32_MAX / 8);
    uint32_t cap = 16;
    while (cap < n * 2)
        cap *= 2;
    t->pair = ARENA_ARRAY(&t->a, tok_pair, cap);
    if (!t->pair)
        return err_oom(e, "the merges", (unsigned long long)cap * sizeof(tok_pair));
    for (uint32_t i = 0; i < cap; i++)
        t->pair[i].left = -1;
    t->pair_mask = cap - 1;
    return IMP_OK;
}

static inline uint32_t pair_hash(int32_t l, int32_t r)
{
    uint64_t h = ((uint64_t)(uint32_t)l << 32 | (uint32_t)r) * 0x9FB21C651E98DF25u;
    h ^= h >> 29;
    return (uint32_t)((h * 0xD6E8FEB86659FD93u) >> 32);
}

static void pairs_flush(tok *t, tok_pair_batch *b)
{
    int32_t id[TOK_PAIR_BATCH][3];
    uint32_t slot[TOK_PAIR_BATCH];
    for (uint32_t i = 0; i < b->n; i++) {
        const char *s = b->text.s + b->v[i].off;
        uint32_t l = b->v[i].left, all = b->v[i].all;
        id[i][0] = lookup_hashed(t, b->v[i].h[0], s, l);
        id[i][1] = lookup_hashed(t, b->v[i].h[1], s + l, all - l);
        id[i][2] = lookup_hashed(t, b->v[i].h[2], s, all);
        slot[i] = pair_hash(id[i][0], id[i][1]) & t->pair_mask;
        __builtin_prefetch(&t->pair[slot[i]], 1);
    }
    for (uint32_t i = 0; i < b->n; i++) {
        int32_t l = id[i][0], r = id[i][1];
        if (l < 0 || r < 0 || id[i][2] < 0)
            continue;
        uint32_t k = slot[i];
        while (t->pair[k].left >= 0 && (t->pair[k].left != l || t->pair[k].right != r))
            k = (k + 1) & t->pair_mask;
        t->pair[k] = (tok_pair){l, r, b->v[i].rank, id[i][2]};
    }
    b->n = 0;
    b->text.n = 0;
}

static size_t half(tok *t, strbuf *b, tok_word w)
{
    size_t at = b->n;
    sb_add(b, w.s, w.n);
    if (b->failed || !t->byte_level)
        return w.n;
    size_t k = tok_alphabet_to_bytes(w.s, w.n, b->s + at);
    b->n = at + (k == SIZE_MAX ? 0 : k);
    return b->n - at;
}

bool tok_pairs_push(tok *t, tok_pair_batch *b, tok_word left, tok_word right, uint32_t rank)
{
    size_t off = b->text.n, l = half(t, &b->text, left), r = half(t, &b->text, right), all = l + r;
    if (b->text.failed)
        return false;
    if (!l || !r || off > UINT32_MAX / 2 || all > UINT32_MAX / 4)
        return true;
    const char *s = b->text.s + off;
    uint32_t h[3] = {tok_hash(s, l), tok_hash(s + l, r), tok_hash(s, all)};
    for (int i = 0; i < 3; i++) {
        __builtin_prefetch(&t->slot[h[i] & t->slot_mask]);
        b->v[b->n].h[i] = h[i];
    }
    b->v[b->n].off = (uint32_t)off;
    b->v[b->n].left = (uint32_t)l;
    b->v[b->n].all = (uint32_t)all;
    b->v[b->n++].rank = rank;
    if (b->n == TOK_PAIR_BATCH)
        pairs_flush(t, b);
    return true;
}

void tok_pairs_end(tok *t, tok_pair_batch *b)
{
    pairs_flush(t, b);
    sb_free(&b->text);
}

const tok_pair *tok_pair_find(const tok *t, int32_t left, int32_t right)
{
    if (left < 0 || right < 0)
        return NULL;
    for (uint32_t k = pair_hash(left, right) & t->pair_mask; t->pair[k].left >= 0; k = (k + 1) & t->pair_mask)
        if (t->pair[k].left == left && t->pair[k].right == right)
            return &t->pair[k];
    return NULL;
}

/* ---- character pairs -------------------------------------------------------------------------------------------
 * Two neighbouring characters that no token holds side by side can never be merged across, so the text may be cut
 * there without changing any result. That turns "the whole text is one word" (SentencePiece) into short words. */
#define BIGRAM_BITS 21u

static inline uint32_t bigram_bit(uint32_t a, uint32_t b)
{
    return ((a * 0x9E3779B1u) ^ (b * 0x85EBCA77u + (b << 7))) >> (32 - BIGRAM_BITS);
}

bool tok_bigram_has(const tok *t, uint32_t a, uint32_t b)
{
    uint32_t k = bigram_bit(a, b);
    return t->bigram[k >> 6] >> (k & 63) & 1;
}

imp_status tok_bigrams_build(tok *t, const char *name, imp_err *e)
{
    size_t bytes = (1u << BIGRAM_BITS) / 8;
    t->bigram = arena_alloc(&t->a, bytes);
    if (!t->bigram)
        return err_oom(e, name, bytes);
    for (int32_t i = 0; i < t->n; i++) {
        tok_word w = tok_text(t, i);
        uint32_t prev = 0, cp;
        for (size_t k = 0; k < w.n; prev = cp) {
            bool first = k == 0;
            k += utf8_get(w.s + k, w.n - k, &cp, NULL);
            if (!first) {
                uint32_t bit = bigram_bit(prev, cp);
                t->bigram[bit >> 6] |= (uint64_t)1 << (bit & 63);
            }
        }
    }
    return IMP_OK;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

bool tok_byte_token(tok_word w, unsigned *byte)
{
    if (w.n != 6 || memcmp(w.s, "<0x", 3) || w.s[5] != '>' || hex(w.s[3]) < 0 || hex(w.s[4]) < 0)
        return false;
    *byte = (unsigned)(hex(w.s[3]) << 4 | hex(w.s[4]));
    return true;
}

imp_status tok_out_spaces(tok *t, bool bytes, const char *name, imp_err *e)
{
    size_t total = t->text_off[t->n];
    char *out = arena_alloc(&t->a, total + 1);
    uint32_t *off = ARENA_ARRAY(&t->a, uint32_t, (size_t)t->n + 1);
    if (!out || !off)
        return err_oom(e, name, total);
    uint32_t o = 0;
    for (int32_t i = 0; i < t->n; i++) {
        off[i] = o;
        tok_word w = tok_text(t, i);
        unsigned b;
        if (bytes && (t->attr[i] & TOK_BYTE) && tok_byte_token(w, &b)) {
            out[o++] = (char)b;
            continue;
        }
        for (size_t k = 0; k < w.n;) {
            if (w.n - k >= 3 && !memcmp(w.s + k, "\xE2\x96\x81", 3)) {
                out[o++] = ' ';
                k += 3;
            } else {
                out[o++] = w.s[k++];
            }
        }
    }
    off[t->n] = o;
    t->out = out;
    t->out_off = off;
    return IMP_OK;
}

/* ---- added tokens ------------------------------------------------------------------------------------------------ */
static uint32_t trie_node(tok_trie *tr, uint8_t byte)
{
    if (tr->n == tr->cap) {
        uint32_t cap = tr->cap ? tr->cap * 2 : 256;
        tok_trie_node *p = cap > tr->cap ? mem_realloc(tr->node, (size_t)cap * sizeof *p) : NULL;
        if (!p)
            return 0;
        tr->node = p;
        tr->cap = cap;
    }
    if (!tr->n)
        tr->node[tr->n++] = (tok_trie_node){.id = -1}; /* index 0 means "none" */
    if (tr->n == tr->cap)
        return trie_node(tr, byte);
    tr->node[tr->n] = (tok_trie_node){.id = -1, .byte = byte};
    return tr->n++;
}

bool tok_trie_add(tok_trie *tr, const char *s, size_t n, int32_t id, unsigned flags)
{
    if (!n)
        return true;
    uint8_t b = (uint8_t)s[0];
    uint32_t at = tr->root[b];
    if (!at && !(at = tr->root[b] = trie_node(tr, b)))
        return false;
    for (size_t i = 1; i < n; i++) {
        b = (uint8_t)s[i];
        uint32_t c = tr->node[at].first;
        while (c && tr->node[c].byte != b)
            c = tr->node[c].next;
        if (!c) {
            if (!(c = trie_node(tr, b)))
                return false;
            tr->node[c].next = tr->node[at].first;
            tr->node[at].first = c;
        }
        at = c;
    }
    tr->node[at].id = id;
    tr->node[at].flags = (uint8_t)flags;
    return true;
}

size_t tok_trie_match(const tok *t, const tok_trie *tr, const char *s, size_t n, unsigned deny, int32_t *id,
                      unsigned *flags)
{
    size_t best = 0;
    uint32_t at = n ? tr->root[(uint8_t)s[0]] : 0;
    for (size_t i = 1; at; i++) {
        const tok_trie_node *d = &tr->node[at];
        if (d->id >= 0 && !(t->attr[d->id] & deny)) {
            best = i;
            *id = d->id;
            *flags = d->flags;
        }
        if (i == n)
            break;
        uint32_t c = d->first;
        while (c && tr->node[c].byte != (uint8_t)s[i])
            c = tr->node[c].next;
        at = c;
    }
    return best;
}

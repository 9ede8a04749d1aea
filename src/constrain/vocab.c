/* The vocabulary: a trie of all tokens, and what every JSON program shares (see vocab.h). */
#include "constrain/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "constrain/machine.h"

#define TOKEN_MAX 2048 /* longer tokens are never allowed; real ones have at most a few hundred bytes */

typedef struct entry {
    const char *s;
    uint32_t n, id;
    uint16_t extra;
} entry;

static int by_bytes(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    int r = memcmp(x->s, y->s, x->n < y->n ? x->n : y->n);
    if (r)
        return r;
    if (x->n != y->n)
        return x->n < y->n ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Sorts e and builds its trie. root: node 0 is the empty prefix, so that empty texts have a place. */
static bool trie_build(trie *t, entry *e, uint32_t n)
{
    uint64_t most = 2;
    qsort(e, n, sizeof *e, by_bytes);
    for (uint32_t i = 0; i < n; i++)
        most += e[i].n;
    t->node = mem_calloc(most, sizeof *t->node);
    t->order = mem_alloc((n + 1) * sizeof *t->order);
    t->extra = mem_alloc((n + 1) * sizeof *t->extra);
    uint32_t *open = mem_alloc((TOKEN_MAX + 2) * sizeof *open), depth = 0;
    if (!t->node || !t->order || !t->extra || !open || most > 0xFFFFFFFF) {
        mem_free(open);
        return false;
    }
    t->n = 1;
    open[0] = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t common = 0;
        while (i && common < depth && common < e[i].n && e[i - 1].s[common] == e[i].s[common])
            common++;
        for (; depth > common; depth--)
            t->node[open[depth]].end = t->n;
        for (; depth < e[i].n; depth++) {
            trie_node *v = &t->node[t->n];
            *v = (trie_node){.first = i, .depth = (uint16_t)(depth + 1), .byte = (uint8_t)e[i].s[depth]};
            open[depth + 1] = t->n++;
        }
        if (e[i].n > t->max_depth)
            t->max_depth = (uint16_t)e[i].n;
        t->node[open[depth]].n_here++;
        t->order[i] = e[i].id;
        t->extra[i] = e[i].extra;
    }
    for (;; depth--) {
        t->node[open[depth]].end = t->n;
        if (!depth)
            break;
    }
    t->n_order = n;
    t->node[t->n].first = n;
    mem_free(open);
    trie_node *fit = mem_realloc(t->node, ((size_t)t->n + 1) * sizeof *fit);
    if (fit)
        t->node = fit;
    return true;
}

/* Follows one token inside a string that allows anything, in plain spelling (a token that writes \\u0061 is not worth
 * two tables). Returns its length to the closing quote, or n when it has none;
 * -1 when it cannot stand in a string. *need: code points, an unfinished one counted. */
static long in_string(const char *s, uint32_t n, uint32_t *need)
{
    uint32_t part = 0, cp;
    *need = 0;
    for (uint32_t i = 0; i < n; i++)
        switch (codec_step(CODEC_JSON_PLAIN, part, (unsigned char)s[i], &part, &cp)) {
        case CODEC_DEAD: return -1;
        case CODEC_CP: ++*need; break;
        case CODEC_QUOTE: return (long)i;
        case CODEC_PART: break;
        }
    *need += part != 0;
    return (long)n;
}

static bool is_utf8(const char *s, uint32_t n)
{
    uint32_t part = 0, cp;
    for (uint32_t i = 0; i < n; i++) {
        codec_result r = codec_step(CODEC_UTF8, part, (unsigned char)s[i], &part, &cp);
        if (r == CODEC_DEAD)
            return false;
        part = r == CODEC_CP ? 0 : part;
    }
    return true;
}

static uint32_t *new_mask(const constrain_vocab *v) { return mem_calloc(v->words + 1, sizeof(uint32_t)); }

static int by_u64_desc(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x > y ? -1 : x < y;
}

static bool string_tables(constrain_vocab *v)
{
    entry *cross = mem_alloc((v->n + 1) * sizeof *cross);
    uint64_t *longs = mem_alloc((v->n + 1) * sizeof *longs);
    uint32_t n_cross = 0, n_long = 0;
    bool ok = cross && longs;
    v->need = mem_calloc(v->n + 1, sizeof *v->need);
    v->utf8_mask = new_mask(v);
    ok = ok && v->need && v->utf8_mask;
    for (int i = 0; i < VOCAB_LEN_MASKS && ok; i++)
        ok = (v->len_mask[i] = new_mask(v)) != NULL;
    for (size_t i = 0; i < v->n && ok; i++) {
        const constrain_token *t = &v->tok[i];
        uint32_t need;
        if (!t->n)
            continue;
        if (is_utf8(t->s, t->n))
            v->utf8_mask[i / 32] |= 1u << i % 32;
        long at = in_string(t->s, t->n, &need);
        if (at < 0)
            continue;
        if (at == (long)t->n) {
            uint32_t k = need < VOCAB_LEN_MASKS - 1 ? need : VOCAB_LEN_MASKS - 1;
            v->len_mask[k][i / 32] |= 1u << i % 32;
            v->need[i] = (uint16_t)need;
            if (need >= VOCAB_LEN_MASKS - 1)
                longs[n_long++] = (uint64_t)need << 32 | i;
        } else {
            v->max_extra = need > v->max_extra ? need : v->max_extra;
            cross[n_cross++] = (entry){t->s + at + 1, t->n - (uint32_t)at - 1, (uint32_t)i, (uint16_t)need};
        }
    }
    for (int k = 1; k < VOCAB_LEN_MASKS && ok; k++)
        for (size_t w = 0; w < v->words; w++)
            v->len_mask[k][w] |= v->len_mask[k - 1][w];
    ok = ok && (v->by_need = mem_alloc((n_long + 1) * sizeof *v->by_need));
    if (ok) {
        qsort(longs, n_long, sizeof *longs, by_u64_desc);
        for (uint32_t i = 0; i < n_long; i++)
            v->by_need[i] = (uint32_t)longs[i];
        v->n_by_need = n_long;
        ok = trie_build(&v->cross, cross, n_cross);
    }
    mem_free(cross);
    mem_free(longs);
    return ok;
}

static bool is_odd_space(uint32_t cp)
{
    for (size_t i = 0; i < VOCAB_N_ODD_SPACES; i++)
        if (cp >= VOCAB_ODD_SPACES[i].lo && cp <= VOCAB_ODD_SPACES[i].hi)
            return true;
    return false;
}

/* Marks the nodes whose byte completes white space beyond ASCII (two or three bytes, all of them in the path). */
static void odd_spaces(constrain_vocab *v, uint8_t *path)
{
    const trie *t = &v->all;
    for (uint32_t i = 1; i < t->n; i++) {
        uint32_t d = t->node[i].depth;
        path[d] = t->node[i].byte;
        uint32_t two = d > 1 ? (path[d - 1] & 0x1Fu) << 6 | (path[d] & 0x3Fu) : 0;
        uint32_t three = d > 2 ? (path[d - 2] & 0xFu) << 12 | (path[d - 1] & 0x3Fu) << 6 | (path[d] & 0x3Fu) : 0;
        bool low = (path[d] & 0xC0) == 0x80, low2 = low && d > 2 && (path[d - 1] & 0xC0) == 0x80;
        if ((low && d > 1 && path[d - 1] >= 0xC2 && path[d - 1] < 0xE0 && is_odd_space(two)) ||
            (low2 && path[d - 2] >= 0xE0 && path[d - 2] < 0xF0 && is_odd_space(three)))
            v->span[i][0] = 1ull << SPAN_ODD_SPACE;
    }
}

static bool span_table(constrain_vocab *v)
{
    trie *t = &v->all;
    uint8_t *path = mem_calloc((size_t)t->max_depth + 3, 1);
    uint64_t(*acc)[2] = mem_calloc((size_t)t->max_depth + 3, sizeof *acc);
    uint16_t *chars = mem_calloc((size_t)t->max_depth + 3, sizeof *chars);
    v->span = mem_calloc((size_t)t->n + 1, sizeof *v->span);
    bool ok = acc && chars && v->span && path;
    if (ok)
        odd_spaces(v, path);
    for (uint32_t i = t->n; ok && i-- > 1;) { /* children come before their parent this way */
        uint32_t d = t->node[i].depth;
        int b = byte_group(t->node[i].byte);
        v->span[i][0] |= acc[d + 1][0];
        v->span[i][1] = acc[d + 1][1];
        if (b >= 0)
            v->span[i][b / 64] |= 1ull << b % 64;
        t->node[i].chars = (uint16_t)(chars[d + 1] + ((t->node[i].byte & 0xC0) != 0x80));
        memset(acc[d + 1], 0, sizeof *acc);
        chars[d + 1] = 0;
        acc[d][0] |= v->span[i][0];
        acc[d][1] |= v->span[i][1];
        chars[d] = chars[d] > t->node[i].chars ? chars[d] : t->node[i].chars;
        v->most_chars = v->most_chars > t->node[i].chars ? v->most_chars : t->node[i].chars;
    }
    mem_free(acc);
    mem_free(chars);
    mem_free(path);
    return ok;
}

/* Tokens that begin with white space, the longest runs first: only those that are too long are asked for. */
static bool ws_longest_first(constrain_vocab *v)
{
    uint64_t *by = mem_alloc((v->n_ws_tok + 1) * sizeof *by);
    for (uint32_t i = 0; by && i < v->n_ws_tok; i++)
        by[i] = (uint64_t)v->ws_lead[i] << 32 | v->ws_tok[i];
    if (by)
        qsort(by, v->n_ws_tok, sizeof *by, by_u64_desc);
    for (uint32_t i = 0; by && i < v->n_ws_tok; i++) {
        v->ws_tok[i] = (uint32_t)by[i];
        v->ws_lead[i] = (uint16_t)(by[i] >> 32);
    }
    mem_free(by);
    return by != NULL;
}

imp_status constrain_vocab_new(const constrain_token *tok, size_t n, constrain_vocab **out, imp_err *e)
{
    size_t total = 0;
    uint32_t k = 0;
    *out = NULL;
    if (n > 1u << 26)
        return err_set(e, IMP_E_LIMIT, "vocabulary: %zu tokens: too many", n);
    for (size_t i = 0; i < n; i++)
        total += tok[i].n <= TOKEN_MAX ? tok[i].n : 0;
    constrain_vocab *v = mem_calloc(1, sizeof *v);
    entry *ent = mem_alloc((n + 1) * sizeof *ent);
    if (!v || !ent)
        goto oom;
    v->n = n;
    v->words = (n + 31) / 32;
    v->digest = 14695981039346656037ull; /* FNV-1a */
    v->tok = mem_calloc(n + 1, sizeof *v->tok);
    v->bytes = mem_alloc(total + 1);
    v->ws_tok = mem_alloc((n + 1) * sizeof *v->ws_tok);
    v->ws_lead = mem_alloc((n + 1) * sizeof *v->ws_lead);
    v->eos = mem_alloc((n + 1) * sizeof *v->eos);
    if (!v->tok || !v->bytes || !v->ws_tok || !v->ws_lead || !v->eos)
        goto oom;
    total = 0;
    for (size_t i = 0; i < n; i++) {
        v->tok[i].eos = tok[i].eos;
        if (tok[i].eos)
            v->eos[v->n_eos++] = (uint32_t)i;
        if (tok[i].eos || !tok[i].n || tok[i].n > TOKEN_MAX)
            continue;
        memcpy(v->bytes + total, tok[i].s, tok[i].n);
        for (uint32_t b = 0; b < tok[i].n; b++)
            v->digest = (v->digest ^ (unsigned char)tok[i].s[b]) * 1099511628211ull;
        v->digest = (v->digest ^ i) * 1099511628211ull;
        v->tok[i].s = v->bytes + total;
        v->tok[i].n = tok[i].n;
        total += tok[i].n;
        ent[k++] = (entry){v->tok[i].s, v->tok[i].n, (uint32_t)i, 0};
        uint16_t lead = 0;
        while (lead < tok[i].n && tok[i].s[lead] && strchr(" \t\r\n", tok[i].s[lead]))
            lead++;
        if (lead) {
            v->ws_tok[v->n_ws_tok] = (uint32_t)i;
            v->ws_lead[v->n_ws_tok++] = lead;
            v->max_lead = lead > v->max_lead ? lead : v->max_lead;
        }
    }
    if (!ws_longest_first(v))
        goto oom;
    if (!trie_build(&v->all, ent, k) || !string_tables(v) || !span_table(v))
        goto oom;
    mem_free(ent);
    *out = v;
    return IMP_OK;
oom:
    mem_free(ent);
    constrain_vocab_free(v);
    return err_oom(e, "vocabulary", (unsigned long long)n * 64);
}

static void trie_free(trie *t)
{
    mem_free(t->node);
    mem_free(t->order);
    mem_free(t->extra);
}

void constrain_vocab_free(constrain_vocab *v)
{
    if (!v)
        return;
    trie_free(&v->all);
    trie_free(&v->cross);
    for (int i = 0; i < VOCAB_LEN_MASKS; i++)
        mem_free(v->len_mask[i]);
    mem_free(v->span);
    mem_free(v->utf8_mask);
    mem_free(v->by_need);
    mem_free(v->need);
    mem_free(v->ws_tok);
    mem_free(v->ws_lead);
    mem_free(v->eos);
    mem_free(v->tok);
    mem_free(v->bytes);
    mem_free(v);
}

size_t constrain_vocab_size(const constrain_vocab *v) { return v->n; }

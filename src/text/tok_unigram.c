/* Unigram: the segmentation with the largest sum of scores (Viterbi over characters), and WordPiece: the longest
 * prefix that is a token, again and again. */
#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_impl.h"

typedef struct node { /* best way to reach a byte position */
    double score;
    uint32_t from;
    int32_t id; /* -1: an unknown character */
} node;

static void emit_piece(tok_enc *c, const char *s, size_t n, int32_t id)
{
    const tok *t = c->t;
    if (id >= 0) {
        tok_emit(c, id);
        return;
    }
    bool all = t->byte_fallback;
    for (size_t i = 0; i < n && all; i++)
        all = t->byte_id[(uint8_t)s[i]] >= 0;
    for (size_t i = 0; i < n && all; i++)
        tok_emit(c, t->byte_id[(uint8_t)s[i]]);
    if (!all && t->unk >= 0)
        tok_emit(c, t->unk);
}

/* SentencePiece adds floats, Hugging Face doubles; which of two nearly equal ways wins depends on it. */
static double add_score(const tok *t, double a, double b) { return t->score64 ? a + b : (double)((float)a + (float)b); }

void tok_unigram_word(tok_enc *c, const char *s, size_t n)
{
    const tok *t = c->t;
    if (c->st != IMP_OK || !n)
        return;
    if (c->cap_vit < n + 1) {
        mem_free(c->vit);
        c->cap_vit = n + n / 4 + 64;
        c->vit = mem_alloc(c->cap_vit * sizeof(node));
        if (!c->vit) {
            c->cap_vit = 0;
            tok_enc_oom(c, "a lattice");
            return;
        }
    }
    node *v = c->vit;
    for (size_t i = 0; i <= n; i++)
        v[i] = (node){.from = UINT32_MAX};
    v[0].from = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = utf8_get(s + i, n - i, &cp, NULL);
        bool single = false;
        uint32_t at = t->pieces.root[(uint8_t)s[i]];
        for (size_t k = 1; at; k++) {
            const tok_trie_node *d = &t->pieces.node[at];
            if (d->id >= 0) {
                double sum = add_score(t, v[i].score, t->score64 ? t->score64[d->id] : (double)t->score[d->id]);
                node *w = &v[i + k];
                if (w->from == UINT32_MAX || sum > w->score)
                    *w = (node){sum, (uint32_t)i, d->id};
                single |= k == len;
            }
            if (i + k >= n)
                break;
            uint32_t ch = d->first;
            while (ch && t->pieces.node[ch].byte != (uint8_t)s[i + k])
                ch = t->pieces.node[ch].next;
            at = ch;
        }
        if (!single) {
            double sum = add_score(t, v[i].score, t->unk_score);
            node *w = &v[i + len];
            if (w->from == UINT32_MAX || sum > w->score)
                *w = (node){sum, (uint32_t)i, -1};
        }
        i += len;
    }
    /* walk back, turning the links round, then emit; unknown characters side by side are one piece */
    uint32_t next = UINT32_MAX;
    for (uint32_t p = (uint32_t)n;;) {
        uint32_t from = v[p].from;
        v[p].from = next;
        next = p;
        if (p == 0)
            break;
        p = from;
    }
    for (uint32_t b = 0, e; b < n; b = e) {
        e = v[b].from;
        int32_t id = v[e].id;
        while (id < 0 && e < n && v[v[e].from].id < 0)
            e = v[e].from;
        emit_piece(c, s + b, e - b, id);
    }
}

void tok_wordpiece_word(tok_enc *c, const char *s, size_t n)
{
    const tok *t = c->t;
    size_t chars = 0, k = strlen(t->wp_prefix), n_before = c->out->n;
    for (size_t i = 0; i < n; i++)
        chars += ((unsigned char)s[i] & 0xC0) != 0x80;
    bool bad = chars > t->wp_max_chars;
    for (size_t b = 0; b < n && !bad && c->st == IMP_OK;) {
        size_t e = n;
        int32_t id = -1;
        for (; e > b; e--) {
            if (e < n && ((unsigned char)s[e] & 0xC0) == 0x80)
                continue;
            sb_clear(&c->piece);
            if (b)
                sb_add(&c->piece, t->wp_prefix, k);
            sb_add(&c->piece, s + b, e - b);
            if (c->piece.failed) {
                tok_enc_oom(c, "a word");
                return;
            }
            if ((id = tok_lookup(t, c->piece.s, c->piece.n)) >= 0)
                break;
        }
        bad = id < 0;
        if (!bad)
            tok_emit(c, id);
        b = e;
    }
    if (bad && c->st == IMP_OK) {
        c->out->n = n_before;
        if (t->unk >= 0)
            tok_emit(c, t->unk);
    }
}

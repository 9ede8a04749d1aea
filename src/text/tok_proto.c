/* tokenizer.model: SentencePiece's protocol buffer. Only what changes ids is read: pieces {text, score, type}, the
 * trainer's model type, special ids and byte fallback, the normalizer's options and precompiled map. */
#include <math.h>

#include "base/ck.h"
#include "base/mem.h"
#include "text/tok_impl.h"

enum { PB_NORMAL = 1, PB_UNKNOWN, PB_CONTROL, PB_USER, PB_UNUSED, PB_BYTE };
enum { PB_UNIGRAM = 1, PB_BPE = 2 };

typedef struct pb { /* one message's bytes */
    const uint8_t *p, *end;
    bool bad;
} pb;

static uint64_t varint(pb *b)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && b->p < b->end; shift += 7) {
        uint8_t c = *b->p++;
        v |= (uint64_t)(c & 127) << shift;
        if (!(c & 128))
            return v;
    }
    b->bad = true;
    return 0;
}

typedef struct pb_field {
    uint32_t num, wire;
    uint64_t v;   /* wire 0, 1, 5 */
    pb body;      /* wire 2 */
} pb_field;

static bool next_field(pb *b, pb_field *f)
{
    if (b->bad || b->p >= b->end)
        return false;
    uint64_t tag = varint(b);
    *f = (pb_field){.num = (uint32_t)(tag >> 3), .wire = (uint32_t)(tag & 7)};
    size_t left = (size_t)(b->end - b->p), n = f->wire == 1 ? 8 : f->wire == 5 ? 4 : 0;
    if (f->wire == 0) {
        f->v = varint(b);
    } else if (f->wire == 2) {
        uint64_t k = varint(b);
        left = (size_t)(b->end - b->p);
        if (b->bad || k > left) {
            b->bad = true;
            return false;
        }
        f->body = (pb){.p = b->p, .end = b->p + k};
        b->p += k;
    } else if (n && n <= left) {
        memcpy(&f->v, b->p, n);
        b->p += n;
    } else {
        b->bad = true;
    }
    return !b->bad;
}

typedef struct spm {
    tok_word *w;
    float *score;
    uint8_t *type, *skip;
    size_t n, cap;
    int64_t model, unk, bos, eos;
    bool fallback, suffix, prefix, trim, escape;
    pb map;
} spm;

static bool add_piece(spm *m, pb b)
{
    if (m->n == m->cap) {
        size_t cap = m->cap * 2 + 1024;
        tok_word *w = mem_realloc(m->w, cap * sizeof *w);
        m->w = w ? w : m->w;
        float *s = mem_realloc(m->score, cap * sizeof *s);
        m->score = s ? s : m->score;
        uint8_t *t = mem_realloc(m->type, cap);
        m->type = t ? t : m->type;
        uint8_t *k = mem_realloc(m->skip, cap);
        m->skip = k ? k : m->skip;
        if (!w || !s || !t || !k)
            return false;
        m->cap = cap;
    }
    tok_word w = {"", 0};
    float score = 0;
    uint64_t type = PB_NORMAL;
    for (pb_field f; next_field(&b, &f);) {
        if (f.num == 1 && f.wire == 2)
            w = (tok_word){(const char *)f.body.p, (size_t)(f.body.end - f.body.p)};
        else if (f.num == 2 && f.wire == 5)
            memcpy(&score, &f.v, 4);
        else if (f.num == 3 && f.wire == 0)
            type = f.v;
    }
    m->w[m->n] = w;
    m->score[m->n] = score;
    m->type[m->n++] = b.bad || isnan(score) || type < 1 || type > PB_BYTE ? 0 : (uint8_t)type;
    return true;
}

static void read_trainer(spm *m, pb b)
{
    for (pb_field f; next_field(&b, &f);) {
        if (f.wire != 0)
            continue;
        switch (f.num) {
        case 3: m->model = (int64_t)f.v; break;
        case 24: m->suffix = f.v != 0; break;
        case 35: m->fallback = f.v != 0; break;
        case 40: m->unk = (int32_t)f.v; break;
        case 41: m->bos = (int32_t)f.v; break;
        case 42: m->eos = (int32_t)f.v; break;
        default: break;
        }
    }
}

static void read_normalizer(spm *m, pb b)
{
    for (pb_field f; next_field(&b, &f);) {
        if (f.num == 2 && f.wire == 2)
            m->map = f.body;
        else if (f.num == 3 && f.wire == 0)
            m->prefix = f.v != 0;
        else if (f.num == 4 && f.wire == 0)
            m->trim = f.v != 0;
        else if (f.num == 5 && f.wire == 0)
            m->escape = f.v != 0;
    }
}

static imp_status read_model(spm *m, const char *s, size_t n, const char *name, imp_err *e)
{
    pb b = {.p = (const uint8_t *)s, .end = (const uint8_t *)s + n};
    for (pb_field f; next_field(&b, &f);) {
        if (f.wire != 2)
            continue;
        if (f.num == 1 && !add_piece(m, f.body))
            return err_oom(e, "the pieces", m->n);
        if (f.num == 1 && m->type[m->n - 1] == 0)
            return err_set(e, IMP_E_PARSE, "%s: piece %zu is malformed", name, m->n - 1);
        if (f.num == 2)
            read_trainer(m, f.body);
        if (f.num == 3)
            read_normalizer(m, f.body);
    }
    if (b.bad || !m->n)
        return err_set(e, IMP_E_PARSE, "%s: not a SentencePiece model (byte %zu of %zu)", name,
                       (size_t)(b.p - (const uint8_t *)s), n);
    if (m->model != PB_BPE && m->model != PB_UNIGRAM)
        return err_set(e, IMP_E_UNSUPPORTED, "%s: SentencePiece model type %lld, known: 1 (unigram), 2 (bpe)", name,
                       (long long)m->model);
    if (m->suffix || !m->escape)
        return err_set(e, IMP_E_UNSUPPORTED,
                       "%s: treat_whitespace_as_suffix and unescaped white space are not supported", name);
    return IMP_OK;
}

static imp_status spm_norms(tok *t, const spm *m, const char *name, imp_err *e)
{
    imp_status st = IMP_OK;
    size_t k = (size_t)(m->map.end - m->map.p);
    if (k) {
        uint32_t trie = 0;
        if (k >= 4)
            memcpy(&trie, m->map.p, 4);
        if (k < 4 || trie > k - 4 || trie % 4)
            return err_set(e, IMP_E_PARSE, "%s: precompiled_charsmap: %zu bytes do not hold a trie of %u", name, k,
                           trie);
        char *copy = arena_alloc(&t->a, k);
        if (!copy)
            return err_oom(e, "precompiled_charsmap", k);
        memcpy(copy, m->map.p + 4, k - 4);
        st = tok_norm_add(
            t, (tok_norm){.kind = NORM_CHARSMAP, .from = copy, .n_from = trie, .to = copy + trie, .n_to = k - 4 - trie},
            name, e);
    }
    if (st == IMP_OK && m->trim)
        st = tok_norm_add(t, (tok_norm){.kind = NORM_SPM_SPACES}, name, e);
    if (st == IMP_OK && m->prefix)
        st = tok_norm_add(t, (tok_norm){.kind = NORM_PREPEND, .to = "\xE2\x96\x81", .n_to = 3}, name, e);
    if (st == IMP_OK)
        st = tok_norm_add(t, TOK_SPACES_TO_2581, name, e);
    return st;
}

static imp_status spm_tokens(tok *t, const spm *m, const char *name, imp_err *e)
{
    static const uint8_t attr[] = {0, 0, TOK_UNKNOWN | TOK_CONTROL, TOK_CONTROL, TOK_USER, 0, TOK_BYTE};
    float *score = ARENA_ARRAY(&t->a, float, m->n), low = 0;
    if (!score)
        return err_oom(e, "scores", m->n * sizeof *score);
    bool any = false;
    for (size_t i = 0; i < m->n; i++) {
        int32_t id = (int32_t)i;
        unsigned b, kind = m->type[i];
        t->attr[i] = attr[kind];
        score[i] = m->score[i];
        t->max_len = m->w[i].n > t->max_len ? (uint32_t)m->w[i].n : t->max_len;
        if (kind == PB_BYTE && tok_byte_token(m->w[i], &b))
            t->byte_id[b] = id;
        bool spaces = kind == PB_USER && memmem(m->w[i].s, m->w[i].n, "\xE2\x96\x81", 3);
        if ((kind == PB_UNKNOWN || kind == PB_CONTROL || kind == PB_USER) &&
            !tok_trie_add(spaces ? &t->normed : &t->raw, m->w[i].s, m->w[i].n, id, 0))
            return err_oom(e, "special tokens", i);
        if (m->model == PB_UNIGRAM && kind == PB_NORMAL) {
            low = !any || score[i] < low ? score[i] : low;
            any = true;
            if (!tok_trie_add(&t->pieces, m->w[i].s, m->w[i].n, id, 0))
                return err_oom(e, "pieces", i);
        }
    }
    t->score = score;
    t->unk_score = (double)(low - 10.0f);
    t->byte_fallback = m->fallback;
    if (m->unk >= t->n || m->bos >= t->n || m->eos >= t->n)
        return err_set(e, IMP_E_PARSE, "%s: a special id lies beyond the vocabulary of %d", name, t->n);
    t->unk = (int32_t)m->unk;
    t->bos = m->bos < 0 ? -1 : (int32_t)m->bos;
    t->eos = m->eos < 0 ? -1 : (int32_t)m->eos;
    t->fuse_unk = true;
    return IMP_OK;
}

imp_status tok_load_spm_proto(tok *t, const char *s, size_t n, const char *name, imp_err *e)
{
    spm m = {.model = PB_UNIGRAM, .unk = 0, .bos = 1, .eos = 2, .prefix = true, .trim = true, .escape = true};
    imp_status st = read_model(&m, s, n, name, e);
    t->kind = m.model == PB_BPE ? TOK_KIND_SPM : TOK_KIND_UNIGRAM;
    if (st == IMP_OK)
        st = tok_vocab_set(t, m.w, m.n, false, name, e);
    for (size_t i = 0; i < m.n; i++) /* special and byte pieces are never reached by merging */
        m.skip[i] = m.type[i] == PB_UNKNOWN || m.type[i] == PB_CONTROL || m.type[i] == PB_BYTE;
    if (st == IMP_OK)
        st = tok_vocab_index(t, m.skip, name, e);
    if (st == IMP_OK)
        st = spm_tokens(t, &m, name, e);
    if (st == IMP_OK)
        st = spm_norms(t, &m, name, e);
    if (st == IMP_OK)
        st = tok_bigrams_build(t, name, e);
    if (st == IMP_OK)
        st = tok_out_spaces(t, true, name, e);
    t->strip_first = m.prefix;
    t->dec_fallback = true;
    mem_free(m.w);
    mem_free(m.score);
    mem_free(m.type);
    mem_free(m.skip);
    return st;
}

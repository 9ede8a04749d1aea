/* SentencePiece BPE as GGUF's `llama` model stores it: no list of merges; two neighbours may join when their text is a
 * token, best score first. Characters that end up in no token become byte tokens. The text is first cut where no token
 * could reach across (tok_bigram_has), which changes no result and keeps the words short. */
#include "base/utf8.h"
#include "text/tok_impl.h"

static void emit_bytes(tok_enc *c, const char *s, size_t n)
{
    const tok *t = c->t;
    for (size_t i = 0; i < n; i++)
        if (t->byte_id[(uint8_t)s[i]] < 0) {
            tok_emit_unk(c);
            return;
        }
    for (size_t i = 0; i < n; i++)
        tok_emit(c, t->byte_id[(uint8_t)s[i]]);
    c->last_unk = false;
}

static void spm_word(tok_enc *c, const char *s, size_t n, size_t n_chars)
{
    if (!tok_syms_reserve(c, n_chars))
        return;
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = utf8_get(s + i, n - i, &cp, NULL);
        c->sym[k++] = (tok_sym){.start = (uint32_t)i, .len = (uint32_t)len, .id = tok_lookup(c->t, s + i, len)};
        i += len;
    }
    tok_merge(c, s, k);
    if (c->st != IMP_OK)
        return;
    for (int32_t i = 0; i >= 0; i = c->sym[i].next) {
        const tok_sym *y = &c->sym[i];
        if (y->id < 0) {
            emit_bytes(c, s + y->start, y->len);
        } else {
            tok_emit(c, y->id);
            c->last_unk = false;
        }
    }
}

void tok_spm_text(tok_enc *c, const char *s, size_t n)
{
    const tok *t = c->t;
    c->last_unk = false;
    size_t begin = 0, chars = 0;
    uint32_t prev = 0, cp;
    for (size_t i = 0; i < n && c->st == IMP_OK; prev = cp) {
        size_t len = utf8_get(s + i, n - i, &cp, NULL);
        if (i > begin && !tok_bigram_has(t, prev, cp)) {
            spm_word(c, s + begin, i - begin, chars);
            begin = i;
            chars = 0;
        }
        i += len;
        chars++;
    }
    if (n > begin && c->st == IMP_OK)
        spm_word(c, s + begin, n - begin, chars);
}

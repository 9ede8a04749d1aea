/* Tokenizers from GGUF metadata (tokenizer.ggml.*). Three models are known: `llama` (SentencePiece BPE: texts, scores,
 * types), `gpt2` (byte-level BPE: texts, merges, a named pre-tokenizer) and `gemma4` (BPE over characters with U+2581
 * for the space). */
#include <math.h>

#include "base/ck.h"
#include "base/mem.h"
#include "text/tok_impl.h"

enum { GG_NORMAL = 1, GG_UNKNOWN, GG_CONTROL, GG_USER, GG_UNUSED, GG_BYTE };

typedef struct gg {
    tok *t;
    modelfile *mf;
    const char *file;
    imp_err *e;
    const meta_value *tokens;
    bool spaces, bytes; /* U+2581 stands for the space; byte-level texts */
    bool phi3;          /* its special tokens swallow the white space after them, which GGUF does not say */
} gg;

static imp_status get_array(gg *g, const char *key, meta_type elem, uint64_t n, bool need, const meta_value **out)
{
    const meta_value *v = mf_meta(g->mf, key);
    *out = v;
    if (!v)
        return need ? err_set(g->e, IMP_E_MODEL, "%s: %s is missing", g->file, key) : IMP_OK;
    if (v->type != META_ARRAY || v->arr.elem != elem)
        return err_set(g->e, IMP_E_MODEL, "%s: %s: wanted an array of %s", g->file, key,
                       elem == META_STR ? "strings" : elem == META_FLOAT ? "floats" : "integers");
    if (n && v->arr.n != n)
        return err_set(g->e, IMP_E_MODEL, "%s: %s: wanted %llu elements, got %llu", g->file, key, (unsigned long long)n,
                       (unsigned long long)v->arr.n);
    return IMP_OK;
}

static imp_status get_id(gg *g, const char *key, int32_t *out)
{
    int64_t v;
    imp_status st = mf_get_int(g->mf, key, -1, INT64_MAX, -1, &v, g->e);
    if (st != IMP_OK)
        return st;
    if (v == 0xFFFFFFFF)
        v = -1;
    if (v >= g->t->n)
        return err_set(g->e, IMP_E_MODEL, "%s: %s: token %lld, but the vocabulary ends at %d", g->file, key,
                       (long long)v, g->t->n - 1);
    *out = (int32_t)v;
    return IMP_OK;
}

static imp_status load_tokens(gg *g)
{
    uint64_t n = g->tokens->arr.n;
    tok_word *w = mem_alloc((size_t)n * sizeof *w);
    if (!w)
        return err_oom(g->e, "the vocabulary", n * sizeof *w);
    for (uint64_t i = 0; i < n; i++) {
        meta_str s = {0};
        mf_array_str(g->tokens, i, &s);
        w[i] = (tok_word){s.s ? s.s : "", s.n};
    }
    imp_status st = tok_vocab_set(g->t, w, (size_t)n, g->bytes, g->file, g->e);
    mem_free(w);
    return st;
}

static unsigned strip_flags(const gg *g, meta_str s, int64_t kind)
{
    static const char *const keep[] = {"<unk>", "<s>", "<|endoftext|>"};
    if (!g->phi3 || kind == GG_USER)
        return 0;
    for (size_t i = 0; i < CK_COUNT(keep); i++)
        if (strlen(keep[i]) == s.n && !memcmp(keep[i], s.s, s.n))
            return 0;
    return TOK_ADDED_RSTRIP;
}

static bool add_spaced(tok *t, meta_str s, int32_t id)
{
    strbuf b = {0};
    for (size_t k = 0; k < s.n; k++)
        sb_add(&b, s.s[k] == ' ' ? "\xE2\x96\x81" : s.s + k, s.s[k] == ' ' ? 3 : 1);
    bool ok = !b.failed && tok_trie_add(&t->normed, b.s, b.n, id, 0);
    sb_free(&b);
    return ok;
}

/* Token types become attributes; everything but normal and byte tokens is matched as a whole in the text. */
static imp_status load_types(gg *g, uint8_t *skip)
{
    tok *t = g->t;
    const meta_value *types;
    imp_status st = get_array(g, "tokenizer.ggml.token_type", META_INT, (uint64_t)t->n, false, &types);
    if (st != IMP_OK)
        return st;
    for (int32_t i = 0; i < t->n; i++) {
        int64_t k = GG_NORMAL;
        if (types)
            mf_array_int(types, (uint64_t)i, &k);
        meta_str s = {0};
        mf_array_str(g->tokens, (uint64_t)i, &s);
        static const uint8_t attr[] = {0, 0, TOK_UNKNOWN | TOK_CONTROL, TOK_CONTROL, TOK_USER, TOK_UNUSED, TOK_BYTE};
        t->attr[i] = k >= 0 && k <= GG_BYTE ? attr[k] : 0;
        if (k == GG_UNKNOWN || k == GG_CONTROL || k == GG_USER) {
            /* SentencePiece matches user tokens after spaces became U+2581; the file has them with spaces again */
            bool spaces = k == GG_USER && g->spaces && memchr(s.s ? s.s : "", ' ', s.n);
            if (spaces ? !add_spaced(t, s, i) : !tok_trie_add(&t->raw, s.s, s.n, i, strip_flags(g, s, k)))
                return err_oom(g->e, "the added tokens", (unsigned long long)t->raw.n);
        }
        /* Out of the index: special texts must not be reached by merging, and in raw bytes an added token's text could
         * hide a normal token's. */
        skip[i] = k == GG_UNKNOWN || k == GG_CONTROL || k == GG_UNUSED || k == GG_BYTE || (k == GG_USER && g->bytes);
        if (k == GG_BYTE) {
            unsigned b;
            if (!tok_byte_token((tok_word){s.s, s.n}, &b))
                return err_set(g->e, IMP_E_MODEL, "%s: token %d: a byte token must read <0xXX>, got '%.*s'", g->file, i,
                               (int)(s.n > 20 ? 20 : s.n), s.s);
            t->byte_id[b & 255] = i;
            t->byte_fallback = true;
        }
    }
    return IMP_OK;
}

static imp_status load_scores(gg *g)
{
    tok *t = g->t;
    const meta_value *v;
    imp_status st = get_array(g, "tokenizer.ggml.scores", META_FLOAT, (uint64_t)t->n, true, &v);
    if (st != IMP_OK)
        return st;
    float *score = ARENA_ARRAY(&t->a, float, (size_t)t->n);
    if (!score)
        return err_oom(g->e, "token scores", (unsigned long long)t->n * 4);
    for (int32_t i = 0; i < t->n; i++) {
        double d = 0;
        mf_array_float(v, (uint64_t)i, &d);
        if (isnan(d))
            return err_set(g->e, IMP_E_MODEL, "%s: tokenizer.ggml.scores: element %d is not a number", g->file, i);
        score[i] = (float)d;
        uint32_t len = t->text_off[i + 1] - t->text_off[i];
        t->max_len = len > t->max_len ? len : t->max_len;
    }
    t->score = score;
    return IMP_OK;
}

static imp_status load_merges(gg *g)
{
    tok *t = g->t;
    const meta_value *v;
    imp_status st = get_array(g, "tokenizer.ggml.merges", META_STR, 0, true, &v);
    if (st == IMP_OK)
        st = tok_pairs_alloc(t, (size_t)v->arr.n, g->file, g->e);
    tok_pair_batch batch = {0};
    for (uint64_t i = 0; i < (st == IMP_OK ? v->arr.n : 0); i++) {
        meta_str s = {0};
        mf_array_str(v, i, &s);
        const char *sp =
            s.n > 1 ? memchr(s.s + 1, ' ', s.n - 1) : NULL; /* the first character may be the space itself */
        if (!sp) {
            st = err_set(g->e, IMP_E_MODEL, "%s: tokenizer.ggml.merges: element %llu has no space between its halves",
                         g->file, (unsigned long long)i);
            break;
        }
        tok_word l = {s.s, (size_t)(sp - s.s)}, r = {sp + 1, s.n - l.n - 1};
        if (!tok_pairs_push(t, &batch, l, r, (uint32_t)i)) {
            st = err_oom(g->e, "merges", s.n);
            break;
        }
    }
    if (st == IMP_OK)
        tok_pairs_end(t, &batch);
    sb_free(&batch.text);
    return st;
}

static imp_status load_specials(gg *g, bool bos_default)
{
    tok *t = g->t;
    static const char *const more[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    imp_status st = get_id(g, "tokenizer.ggml.bos_token_id", &t->bos);
    if (st == IMP_OK)
        st = get_id(g, "tokenizer.ggml.eos_token_id", &t->eos);
    if (st == IMP_OK)
        st = get_id(g, "tokenizer.ggml.unknown_token_id", &t->unk);
    for (size_t i = 0; i < 2 && st == IMP_OK; i++) {
        int32_t id = -1;
        st = get_id(g, more[i], &id);
        if (id >= 0)
            t->attr[id] |= TOK_EOG;
    }
    const meta_value *v = mf_meta(g->mf, "tokenizer.ggml.eos_token_ids");
    for (uint64_t i = 0; v && v->type == META_ARRAY && i < v->arr.n; i++) {
        int64_t id;
        if (mf_array_int(v, i, &id) && id >= 0 && id < t->n)
            t->attr[id] |= TOK_EOG;
    }
    if (st == IMP_OK)
        st = mf_get_bool(g->mf, "tokenizer.ggml.add_bos_token", bos_default, &t->add_bos, g->e);
    if (st == IMP_OK)
        st = mf_get_bool(g->mf, "tokenizer.ggml.add_eos_token", false, &t->add_eos, g->e);
    if (st != IMP_OK)
        return st;
    t->add_bos &= t->bos >= 0;
    t->add_eos &= t->eos >= 0;
    return tok_template_set(t, &t->bos, t->add_bos, &t->eos, t->add_eos, g->e);
}

static imp_status load_chat(gg *g)
{
    meta_str s;
    imp_status st = mf_get_str(g->mf, "tokenizer.chat_template", (meta_str){0}, &s, g->e);
    if (st != IMP_OK || !s.s)
        return st;
    g->t->chat = arena_strndup(&g->t->a, s.s, s.n);
    g->t->n_chat = s.n;
    return g->t->chat ? IMP_OK : err_oom(g->e, "the chat template", s.n);
}

static imp_status load_spm(gg *g)
{
    tok *t = g->t;
    t->kind = TOK_KIND_SPM;
    t->fuse_unk = true;
    bool prefix, trim;
    imp_status st = mf_get_bool(g->mf, "tokenizer.ggml.add_space_prefix", true, &prefix, g->e);
    if (st == IMP_OK)
        st = mf_get_bool(g->mf, "tokenizer.ggml.remove_extra_whitespaces", false, &trim, g->e);
    if (st == IMP_OK)
        st = load_scores(g);
    if (st == IMP_OK && trim)
        st = tok_norm_add(t, (tok_norm){.kind = NORM_SPM_SPACES}, g->file, g->e);
    if (st == IMP_OK && prefix)
        st = tok_norm_add(t, (tok_norm){.kind = NORM_PREPEND, .to = "\xE2\x96\x81", .n_to = 3}, g->file, g->e);
    if (st == IMP_OK)
        st =
            tok_norm_add(t, TOK_SPACES_TO_2581, g->file, g->e);
    t->strip_first = prefix;
    t->dec_fallback = true;
    return st;
}

static imp_status load_bpe(gg *g, const char *pre, size_t n_pre)
{
    tok *t = g->t;
    t->kind = TOK_KIND_BPE;
    t->fuse_unk = !g->bytes;
    imp_status st = load_merges(g);
    if (st == IMP_OK)
        st = tok_pretok_named(t, pre, n_pre, g->file, g->e);
    if (!g->bytes) {
        t->dec_fallback = true;
        return st;
    }
    t->lossy_bytes = true;
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        t->byte_id[b] = tok_lookup(t, &c, 1);
    }
    return st;
}

imp_status tok_load_gguf(tok *t, modelfile *mf, imp_err *e)
{
    gg g = {.t = t, .mf = mf, .file = mf_path(mf), .e = e};
    meta_str model, pre;
    imp_status st = mf_get_str(mf, "tokenizer.ggml.model", (meta_str){"no_vocab", 8}, &model, e);
    if (st != IMP_OK)
        return st;
    if ((model.n == 8 && !memcmp(model.s, "no_vocab", 8)) || (model.n == 4 && !memcmp(model.s, "none", 4)))
        return err_set(e, IMP_E_NOTFOUND, "%s: the file has no vocabulary", g.file);
    bool spm = model.n == 5 && !memcmp(model.s, "llama", 5), gpt2 = model.n == 4 && !memcmp(model.s, "gpt2", 4);
    bool gemma4 = model.n == 6 && !memcmp(model.s, "gemma4", 6);
    if (!spm && !gpt2 && !gemma4)
        return err_set(e, IMP_E_UNSUPPORTED,
                       "%s: tokenizer.ggml.model: unknown tokenizer '%.*s', known: llama gpt2 gemma4", g.file,
                       (int)(model.n > 60 ? 60 : model.n), model.s);
    g.bytes = gpt2;
    g.spaces = !gpt2;
    meta_str arch = {0};
    st = mf_get_str(mf, "general.architecture", arch, &arch, e);
    if (st != IMP_OK)
        return st;
    g.phi3 = spm && arch.n == 4 && !memcmp(arch.s, "phi3", 4);
    st = mf_get_str(mf, "tokenizer.ggml.pre", gemma4 ? (meta_str){"gemma4", 6} : (meta_str){"default", 7}, &pre, e);
    if (st == IMP_OK && gemma4)
        pre = (meta_str){"gemma4", 6};
    if (st == IMP_OK)
        st = get_array(&g, "tokenizer.ggml.tokens", META_STR, 0, true, &g.tokens);
    if (st == IMP_OK)
        st = load_tokens(&g);
    uint8_t *skip = st == IMP_OK ? mem_calloc((size_t)t->n, 1) : NULL;
    if (st == IMP_OK && !skip)
        st = err_oom(e, "the vocabulary", (unsigned long long)t->n);
    if (st == IMP_OK)
        st = load_types(&g, skip);
    if (st == IMP_OK)
        st = tok_vocab_index(t, skip, g.file, e);
    mem_free(skip);
    if (st == IMP_OK)
        st = spm ? load_spm(&g) : load_bpe(&g, pre.s, pre.n);
    if (st == IMP_OK && !gpt2)
        st = tok_bigrams_build(t, g.file, e);
    if (st == IMP_OK && !gpt2)
        st = tok_out_spaces(t, true, g.file, e);
    if (st == IMP_OK)
        st = load_specials(&g, spm || t->add_bos);
    return st == IMP_OK ? load_chat(&g) : st;
}

/* The tokenizer itself: making one, asking it, and encoding. Loaders are in tok_gguf.c and tok_json.c. */
#include "text/tok.h"

#include <utf8proc.h>

#include "base/ck.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_impl.h"

void tok_ids_free(tok_ids *v)
{
    if (!v)
        return;
    mem_free(v->id);
    *v = (tok_ids){0};
}

void tok_free(tok *t)
{
    if (!t)
        return;
    for (uint32_t i = 0; i < t->n_norm; i++)
        pcre2_code_free(t->norm[i].re);
    for (uint32_t i = 0; i < t->n_stage; i++)
        pcre2_code_free(t->stage[i].re);
    mem_free(t->pieces.node);
    mem_free(t->raw.node);
    mem_free(t->normed.node);
    arena_free(&t->a);
    mem_free(t);
}

imp_status tok_new(tok **out, modelfile *mf, imp_err *e)
{
    *out = NULL;
    tok *t = mem_calloc(1, sizeof *t);
    if (!t)
        return err_oom(e, "a tokenizer", sizeof *t);
    t->bos = t->eos = t->unk = -1;
    for (int i = 0; i < 256; i++)
        t->byte_id[i] = -1;
    imp_status st = mf_get_kind(mf) == MF_GGUF ? tok_load_gguf(t, mf, e) : tok_load_folder(t, mf, e);
    if (st == IMP_OK)
        tok_mark_eog(t);
    if (st != IMP_OK) {
        tok_free(t);
        return st;
    }
    *out = t;
    return IMP_OK;
}

/* ---- asking ------------------------------------------------------------------------------------------------------ */
int32_t tok_vocab_size(const tok *t) { return t->n; }
int32_t tok_bos(const tok *t) { return t->bos; }
int32_t tok_eos(const tok *t) { return t->eos; }
bool tok_adds_bos(const tok *t) { return t->add_bos; }
bool tok_adds_eos(const tok *t) { return t->add_eos; }
bool tok_is_eog(const tok *t, int32_t id) { return id >= 0 && id < t->n && (t->attr[id] & TOK_EOG); }
unsigned tok_attrs(const tok *t, int32_t id)
{
    return id >= 0 && id < t->n ? t->attr[id] & ~(unsigned)TOK_EOG : TOK_UNUSED;
}

void tok_bytes(const tok *t, int32_t id, const char **s, size_t *n)
{
    *s = "";
    *n = 0;
    if (id < 0 || id >= t->n || (t->attr[id] & TOK_UNUSED))
        return;
    *s = t->out + t->out_off[id];
    *n = t->out_off[id + 1] - t->out_off[id];
}

int32_t tok_find(const tok *t, const char *text)
{
    size_t n = strlen(text);
    int32_t id = -1;
    unsigned flags;
    const tok_trie *tr[2] = {&t->raw, &t->normed};
    for (int i = 0; i < 2; i++) {
        if (tok_trie_match(t, tr[i], text, n, 0, &id, &flags) == n && n)
            return id;
    }
    return n ? tok_lookup(t, text, n) : -1;
}

const char *tok_chat_template(const tok *t, size_t *n)
{
    if (n)
        *n = t->n_chat;
    return t->chat;
}

imp_status tok_template_set(tok *t, const int32_t *pre, size_t n_pre, const int32_t *suf, size_t n_suf, imp_err *e)
{
    t->prefix = ARENA_ARRAY(&t->a, int32_t, n_pre + 1);
    t->suffix = ARENA_ARRAY(&t->a, int32_t, n_suf + 1);
    if (!t->prefix || !t->suffix)
        return err_oom(e, "the tokenizer's template", n_pre + n_suf);
    if (n_pre)
        memcpy(t->prefix, pre, n_pre * sizeof *pre);
    if (n_suf)
        memcpy(t->suffix, suf, n_suf * sizeof *suf);
    t->n_prefix = (uint32_t)n_pre;
    t->n_suffix = (uint32_t)n_suf;
    return IMP_OK;
}

void tok_mark_eog(tok *t)
{
    /* Texts under which families end a turn; many files name only one of theirs. */
    static const char *const texts[] = {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<turn|>", "<|endoftext|>",
        "<|eom_id|>", "<|end_of_text|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_turn|>", "<end_of_utterance>",
        "<｜end▁of▁sentence｜>", "</s>", "<eos>", "<|user|>", "<|observation|>"};
    bool harmony = false; /* gpt-oss: <|end|> closes one message of an answer, <|return|> and <|call|> end it */
    int32_t ret = tok_find(t, "<|return|>"), call = tok_find(t, "<|call|>");
    harmony = ret >= 0 && call >= 0;
    for (size_t i = 0; i < CK_COUNT(texts); i++) {
        int32_t id = tok_find(t, texts[i]);
        if (id < 0 || !(t->attr[id] & TOK_CONTROL) || (harmony && !strcmp(texts[i], "<|end|>")))
            continue;
        t->attr[id] |= TOK_EOG;
    }
    if (t->eos >= 0)
        t->attr[t->eos] |= TOK_EOG;
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */
void tok_enc_free(tok_enc *c)
{
    mem_free(c->sym);
    mem_free(c->heap);
    mem_free(c->vit);
    sb_free(&c->buf[0]);
    sb_free(&c->buf[1]);
    sb_free(&c->piece);
    sb_free(&c->unmap);
    pcre2_match_data_free(c->md);
    pcre2_match_context_free(c->mctx);
    pcre2_jit_stack_free(c->jit);
    pcre2_general_context_free(c->gctx);
}

static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static size_t char_before(const char *s, size_t at, uint32_t *cp)
{
    size_t b = at - 1;
    while (b && ((unsigned char)s[b] & 0xC0) == 0x80)
        b--;
    utf8_get(s + b, at - b, cp, NULL);
    return b;
}

/* \w of Unicode: letters, marks, digits, connectors, joiners. */
static bool is_word(uint32_t c)
{
    static const unsigned words = 1u << UTF8PROC_CATEGORY_LU | 1u << UTF8PROC_CATEGORY_LL | 1u << UTF8PROC_CATEGORY_LT |
                                  1u << UTF8PROC_CATEGORY_LM | 1u << UTF8PROC_CATEGORY_LO | 1u << UTF8PROC_CATEGORY_MN |
                                  1u << UTF8PROC_CATEGORY_MC | 1u << UTF8PROC_CATEGORY_ME | 1u << UTF8PROC_CATEGORY_ND |
                                  1u << UTF8PROC_CATEGORY_NL | 1u << UTF8PROC_CATEGORY_PC;
    return words >> utf8proc_category((utf8proc_int32_t)c) & 1 || c == 0x200C || c == 0x200D ||
           (c >= 0x24B6 && c <= 0x24E9);
}

typedef void (*text_fn)(tok_enc *c, const char *s, size_t n, bool at_start);

#define SPECIAL (TOK_CONTROL | TOK_UNKNOWN)

/* The longest added token at s[0..n) that may stand there: special ones not over flagged bytes. */
static size_t match_added(const tok_enc *c, const tok_trie *tr, const char *s, size_t n, const uint8_t *data,
                          unsigned deny, int32_t *id, unsigned *flags)
{
    size_t m = tok_trie_match(c->t, tr, s, n, deny, id, flags);
    const uint8_t *bad = data && m ? memchr(data, 1, m) : NULL;
    if (!bad)
        return m;
    size_t clean = (size_t)(bad - data);
    size_t any = tok_trie_match(c->t, tr, s, n, deny | SPECIAL, id, flags);
    int32_t sid = -1;
    unsigned sflags = 0;
    size_t special = clean > any ? tok_trie_match(c->t, tr, s, clean, deny, &sid, &sflags) : 0;
    if (special <= any)
        return any;
    *id = sid;
    *flags = sflags;
    return special;
}

/* Cuts s at the added tokens of one trie and hands the rest to fn. `deny`: attributes that stay text; data: flags of
 * s's bytes or NULL. */
static void cut_added(tok_enc *c, const tok_trie *tr, const char *s, size_t n, const uint8_t *data, unsigned deny,
                      bool at_start, text_fn fn)
{
    size_t last = 0;
    uint32_t cp;
    for (size_t i = 0; i < n && tr->n && c->st == IMP_OK;) {
        if (!tr->root[(uint8_t)s[i]]) {
            i++;
            continue;
        }
        int32_t id = -1;
        unsigned flags = 0;
        size_t m = match_added(c, tr, s + i, n - i, data ? data + i : NULL, deny, &id, &flags);
        if (!m) {
            i++;
            continue;
        }
        size_t b = i, e = i + m;
        if (flags & TOK_ADDED_WORD) {
            bool inside = b > 0 && (char_before(s, b, &cp), is_word(cp));
            if (!inside && e < n) {
                utf8_get(s + e, n - e, &cp, NULL);
                inside = is_word(cp);
            }
            if (inside) {
                i++;
                continue;
            }
        }
        while ((flags & TOK_ADDED_LSTRIP) && b > last) {
            size_t k = char_before(s, b, &cp);
            if (!is_space(cp))
                break;
            b = k;
        }
        while ((flags & TOK_ADDED_RSTRIP) && e < n) {
            size_t k = utf8_get(s + e, n - e, &cp, NULL);
            if (!is_space(cp))
                break;
            e += k;
        }
        if (b > last)
            fn(c, s + last, b - last, at_start && last == 0);
        tok_emit(c, id);
        i = last = e;
    }
    if (n > last && c->st == IMP_OK)
        fn(c, s + last, n - last, at_start && last == 0);
}

static void encode_plain(tok_enc *c, const char *s, size_t n, bool at_start)
{
    if (c->st != IMP_OK || (!n))
        return;
    const char *p;
    size_t k;
    if (!tok_normalize(c, s, n, at_start, &p, &k))
        return;
    /* Normalization moves bytes, so here a piece with any flagged byte keeps all special text as text. */
    unsigned deny = c->data && memchr(c->data + (s - c->text), 1, n) ? SPECIAL : c->deny;
    if (c->t->normed.n)
        cut_added(c, &c->t->normed, p, k, NULL, deny, at_start, tok_pretokenize);
    else
        tok_pretokenize(c, p, k, at_start);
}

imp_status tok_encode(const tok *t, const char *text, size_t n, unsigned flags, tok_ids *out, imp_err *e)
{
    return tok_encode_marked(t, text, NULL, n, flags, out, e);
}

imp_status tok_encode_marked(const tok *t, const char *text, const uint8_t *data, size_t n, unsigned flags,
                             tok_ids *out, imp_err *e)
{
    if (n > TOK_MAX_TEXT)
        return err_set(e, IMP_E_LIMIT, "tokenizer: text of %zu bytes, at most %zu", n, TOK_MAX_TEXT);
    tok_enc c = {.t = t, .out = out, .e = e, .st = IMP_OK};
    strbuf clean = {0};
    if (!utf8_valid(text, n)) {
        if (data)
            return err_set(e, IMP_E_PARSE, "tokenizer: the text is not valid UTF-8");
        for (size_t i = 0; i < n;) {
            uint32_t cp;
            i += utf8_get(text + i, n - i, &cp, NULL);
            sb_utf8(&clean, cp);
        }
        if (clean.failed)
            tok_enc_oom(&c, "text");
        text = clean.s;
        n = clean.n;
    }
    size_t n_before = out->n;
    if (flags & TOK_ADD_SPECIAL)
        for (uint32_t i = 0; i < t->n_prefix; i++)
            tok_emit(&c, t->prefix[i]);
    c.deny = flags & TOK_PARSE_SPECIAL ? 0 : SPECIAL;
    c.text = text;
    c.data = data;
    if (c.st == IMP_OK)
        cut_added(&c, &t->raw, text, n, data, c.deny, true, encode_plain);
    if (flags & TOK_ADD_SPECIAL)
        for (uint32_t i = 0; i < t->n_suffix; i++)
            tok_emit(&c, t->suffix[i]);
    if (c.st != IMP_OK)
        out->n = n_before; /* nothing half-done */
    tok_enc_free(&c);
    sb_free(&clean);
    return c.st;
}

/* Tokenizers: every fixture of tests/fixtures/tok (made by Hugging Face `tokenizers` and SentencePiece, see its
 * make.py) gives equal ids and equal text; streaming equals decoding; long texts stay linear; special text stays text;
 * bad vocabularies are refused by name; running out of memory anywhere is survived. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/ck.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "gguf_make.h"
#include "text/tok_impl.h"

#define DIR "tests/fixtures/tok/"

static const char *const NAMES[] = {
    "pre-llama-bpe.gguf", "pre-qwen2.gguf", "pre-qwen35.gguf", "pre-gpt-2.gguf", "pre-starcoder.gguf",
    "pre-command-r.gguf", "pre-falcon.gguf", "pre-gpt-4o.gguf", "pre-tekken.gguf", "pre-deepseek-llm.gguf",
    "pre-deepseek-coder.gguf", "pre-deepseek-v3.gguf", "pre-viking.gguf", "pre-kimi-k2.gguf", "pre-seed-coder.gguf",
    "pre-bailingmoe.gguf", "gemma4.gguf", "spm-llama.gguf", "spm-bpe", "spm-unigram", "json-gemma", "json-unigram",
    "json-wordpiece"};

static char *corpus;
static size_t n_corpus;

static int load_corpus(void **state)
{
    (void)state;
    imp_err e = {0};
    return file_read_all(DIR "corpus.bin", 8 << 20, &corpus, &n_corpus, &e) == IMP_OK ? 0 : -1;
}

static int free_corpus(void **state)
{
    (void)state;
    mem_free(corpus);
    return 0;
}

static tok *open_tok(const char *path, modelfile **mf)
{
    imp_err e = {0};
    tok *t = NULL;
    if (mf_open(mf, path, &e) != IMP_OK || tok_new(&t, *mf, &e) != IMP_OK)
        fail_msg("%s: %s", path, e.message);
    return t;
}

static tok *open_fixture(const char *name, modelfile **mf)
{
    char path[200];
    snprintf(path, sizeof path, DIR "%s", name);
    return open_tok(path, mf);
}

static uint32_t fnv(const void *p, size_t n, uint32_t h)
{
    for (const unsigned char *s = p; n--; s++)
        h = (h ^ *s) * 0x01000193u;
    return h;
}

static void stream_all(const tok *t, const tok_ids *v, bool keep, strbuf *out)
{
    tok_stream s;
    tok_stream_init(&s, t, keep);
    for (size_t i = 0; i < v->n; i++) {
        size_t at = out->n;
        tok_stream_push(&s, v->id[i], out);
        assert_true(utf8_valid(out->s ? out->s + at : "", out->n - at)); /* never half a character */
    }
    tok_stream_flush(&s, out);
}

static void check_fixture(const char *name)
{
    modelfile *mf;
    tok *t = open_fixture(name, &mf);
    char path[200];
    char *exp;
    size_t n_exp, at = 0, i = 0;
    imp_err e = {0};
    snprintf(path, sizeof path, DIR "%.*s.exp", (int)(strstr(name, ".gguf") ? strlen(name) - 5 : strlen(name)), name);
    assert_int_equal(file_read_all(path, 1 << 20, &exp, &n_exp, &e), IMP_OK);
    tok_ids v = {0};
    strbuf text[2] = {{0}}, live = {0};
    for (; at < n_corpus; i++) {
        uint32_t len, want[2];
        memcpy(&len, corpus + at, 4);
        const char *s = corpus + at + 4;
        at += 4 + len;
        assert_true((i + 1) * 8 <= n_exp);
        memcpy(want, exp + i * 8, 8);
        v.n = 0;
        assert_int_equal(tok_encode(t, s, len, TOK_ADD_SPECIAL | TOK_PARSE_SPECIAL, &v, &e), IMP_OK);
        const uint32_t h = 0x811C9DC5u;
        for (int keep = 1; keep >= 0; keep--) {
            sb_clear(&text[keep]);
            sb_clear(&live);
            assert_int_equal(tok_decode(t, v.id, v.n, keep, &text[keep], &e), IMP_OK);
            stream_all(t, &v, keep, &live);
            if (live.n != text[keep].n || (live.n && memcmp(live.s, text[keep].s, live.n)))
                fail_msg("%s: string %zu: streamed text differs: %.*s", name, i, (int)len, s);
        }
        if (fnv(v.id, v.n * sizeof *v.id, h) != want[0])
            fail_msg("%s: string %zu: other ids than the reference: %.*s", name, i, (int)len, s);
        if (fnv(text[1].s, text[1].n, fnv(text[0].s, text[0].n, h)) != want[1])
            fail_msg("%s: string %zu: other text than the reference: %.*s", name, i, (int)len, s);
    }
    assert_int_equal(i * 8, n_exp);
    assert_true(i > 2000);
    sb_free(&text[0]);
    sb_free(&text[1]);
    sb_free(&live);
    tok_ids_free(&v);
    mem_free(exp);
    tok_free(t);
    mf_close(mf);
}

static void test_fixtures(void **state)
{
    (void)state;
    for (size_t i = 0; i < CK_COUNT(NAMES); i++)
        check_fixture(NAMES[i]);
}

/* ---- one at a time ----------------------------------------------------------------------------------------------- */
static tok_ids encode(const tok *t, const char *s, size_t n, unsigned flags)
{
    tok_ids v = {0};
    imp_err e = {0};
    if (tok_encode(t, s, n, flags, &v, &e) != IMP_OK)
        fail_msg("%s", e.message);
    return v;
}

static void test_special_text_stays_text(void **state)
{
    (void)state;
    static const char *const files[] = {"pre-qwen2.gguf", "pre-llama-bpe.gguf", "spm-llama.gguf",
                                        "gemma4.gguf",    "json-gemma",         "spm-bpe"};
    static const char *const texts[] = {"<|im_end|>", "</s>", "</s>", "<eos>", "<eos>", "</s>"};
    for (size_t i = 0; i < CK_COUNT(files); i++) {
        modelfile *mf;
        tok *t = open_fixture(files[i], &mf);
        int32_t id = tok_find(t, texts[i]);
        assert_true(id >= 0);
        assert_true(tok_attrs(t, id) & TOK_CONTROL);
        tok_ids on = encode(t, texts[i], strlen(texts[i]), TOK_PARSE_SPECIAL),
                off = encode(t, texts[i], strlen(texts[i]), 0);
        assert_int_equal(on.n, 1);
        assert_int_equal(on.id[0], id);
        for (size_t k = 0; k < off.n; k++)
            assert_false(tok_attrs(t, off.id[k]) & TOK_CONTROL);
        strbuf b = {0};
        assert_int_equal(tok_decode(t, off.id, off.n, false, &b, NULL), IMP_OK);
        assert_string_equal(b.s, texts[i]);
        sb_clear(&b);
        assert_int_equal(tok_decode(t, on.id, on.n, false, &b, NULL), IMP_OK);
        assert_int_equal(b.n, 0);
        assert_int_equal(tok_decode(t, on.id, on.n, true, &b, NULL), IMP_OK);
        assert_string_equal(b.s, texts[i]);
        sb_free(&b);
        tok_ids_free(&on);
        tok_ids_free(&off);
        tok_free(t);
        mf_close(mf);
    }
}

static void test_questions(void **state)
{
    (void)state;
    modelfile *mf;
    tok *t = open_fixture("pre-llama-bpe.gguf", &mf);
    const char *s;
    size_t n;
    assert_int_equal(tok_vocab_size(t), 900 + 6 + 4);
    assert_int_equal(tok_bos(t), 903);
    assert_int_equal(tok_eos(t), 904);
    assert_true(tok_adds_bos(t));
    assert_false(tok_adds_eos(t));
    assert_true(tok_is_eog(t, 904) && tok_is_eog(t, tok_find(t, "<|im_end|>")) && !tok_is_eog(t, 5) &&
                !tok_is_eog(t, -1));
    assert_int_equal(tok_find(t, "no such token"), -1);
    assert_int_equal(tok_find(t, ""), -1);
    assert_int_equal(tok_attrs(t, tok_find(t, "<think>")), TOK_USER);
    assert_int_equal(tok_attrs(t, 1 << 30), TOK_UNUSED);
    tok_bytes(t, tok_find(t, " the"), &s, &n);
    assert_true(n == 4 && !memcmp(s, " the", 4));
    tok_bytes(t, -1, &s, &n);
    assert_int_equal(n, 0);
    assert_null(tok_chat_template(t, &n));
    assert_int_equal(n, 0);
    tok_free(t);
    mf_close(mf);
    t = open_fixture("spm-llama.gguf", &mf);
    tok_ids v = encode(t, "\xFF", 1, 0); /* U+FFFD, by byte tokens, with the space in front */
    assert_int_equal(v.n, 4);
    tok_bytes(t, v.id[3], &s, &n);
    assert_true(n == 1 && s[0] == '\xBD' && (tok_attrs(t, v.id[3]) & TOK_BYTE));
    tok_ids_free(&v);
    tok_free(t);
    mf_close(mf);
}

/* Bytes of a SentencePiece run are written when the run ends; one that is not UTF-8 as a whole becomes U+FFFD a byte.
 */
static void test_byte_runs(void **state)
{
    (void)state;
    modelfile *mf;
    tok *t = open_fixture("spm-llama.gguf", &mf);
    int32_t id[4] = {-1, -1, -1, -1};
    static const unsigned char want[4] = {0xE4, 0xB8, 0xAD, 0xFF};
    for (int32_t i = 0; i < tok_vocab_size(t); i++) {
        const char *s;
        size_t n;
        tok_bytes(t, i, &s, &n);
        for (int k = 0; k < 4; k++)
            if ((tok_attrs(t, i) & TOK_BYTE) && (unsigned char)s[0] == want[k])
                id[k] = i;
    }
    strbuf b = {0};
    assert_int_equal(tok_decode(t, id, 3, false, &b, NULL), IMP_OK);
    assert_string_equal(b.s, "\xE4\xB8\xAD");
    sb_clear(&b);
    assert_int_equal(tok_decode(t, id, 4, false, &b, NULL), IMP_OK);
    assert_string_equal(b.s, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    tok_stream s;
    tok_stream_init(&s, t, false);
    sb_clear(&b);
    for (int i = 0; i < 400; i++) /* a long run is not held for ever */
        for (int k = 0; k < 3; k++)
            tok_stream_push(&s, id[k], &b);
    assert_true(b.n > 900 && utf8_valid(b.s, b.n));
    tok_stream_flush(&s, &b);
    assert_int_equal(b.n, 1200);
    sb_free(&b);
    tok_free(t);
    mf_close(mf);
}

static void test_long_texts(void **state)
{
    (void)state;
    static const char *const files[] = {"pre-qwen2.gguf",       "pre-gpt-4o.gguf",  "pre-deepseek-llm.gguf",
                                        "pre-deepseek-v3.gguf", "pre-kimi-k2.gguf", "spm-llama.gguf",
                                        "spm-unigram",          "gemma4.gguf",      "json-unigram"};
    static const char *const units[] = {" ",   "a", "7",    "A",       "\xE4\xB8\xAD", "\n", "ab", "\xCC\xA3\xCC\x81",
                                        " \n", "<", "\xFF", "A1 b\r\n"};
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    const size_t size = 1 << 18; /* enough to tell n from n squared at their pace */
#else
    const size_t size = 1 << 20;
#endif
    char *text = mem_alloc(size + 1);
    for (size_t i = 0; i < CK_COUNT(files); i++) {
        modelfile *mf;
        tok *t = open_fixture(files[i], &mf);
        for (size_t u = 0; u < CK_COUNT(units); u++) {
            size_t k = strlen(units[u]);
            for (size_t p = 0; p < size; p++)
                text[p] = units[u][p % k];
            text[size - 1] = 'x'; /* what looks like the end of a run is not the end of the text */
            double start = clock_s();
            tok_ids v = encode(t, text, size, TOK_PARSE_SPECIAL);
            double s = clock_s() - start;
            /* a quadratic step over so many characters takes minutes; sanitizers and a busy machine do not */
            if (s > 20)
                fail_msg("%s: a long text of '%s' took %.1f s", files[i], units[u], s);
            assert_true(v.n > 0 && v.n <= 3 * size);
            tok_ids_free(&v);
        }
        tok_free(t);
        mf_close(mf);
    }
    mem_free(text);
}

/* One tokenizer, many threads: nothing of it is written while encoding. */
typedef struct worker {
    pthread_t id;
    const tok *t;
    uint32_t hash;
} worker;

static void *encode_corpus(void *arg)
{
    worker *w = arg;
    tok_ids v = {0};
    w->hash = 0x811C9DC5u;
    for (size_t at = 0; at < n_corpus;) {
        uint32_t len;
        memcpy(&len, corpus + at, 4);
        v.n = 0;
        if (tok_encode(w->t, corpus + at + 4, len, 3, &v, NULL) != IMP_OK)
            w->hash = 0;
        w->hash = fnv(v.id, v.n * sizeof *v.id, w->hash);
        at += 4 + len;
    }
    tok_ids_free(&v);
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    static const char *const files[] = {"pre-kimi-k2.gguf", "spm-llama.gguf", "json-unigram"};
    for (size_t i = 0; i < CK_COUNT(files); i++) {
        modelfile *mf;
        tok *t = open_fixture(files[i], &mf);
        worker w[4];
        for (int k = 0; k < 4; k++) {
            w[k].t = t;
            assert_int_equal(pthread_create(&w[k].id, NULL, encode_corpus, &w[k]), 0);
        }
        for (int k = 0; k < 4; k++)
            pthread_join(w[k].id, NULL);
        for (int k = 1; k < 4; k++)
            assert_int_equal(w[k].hash, w[0].hash);
        tok_free(t);
        mf_close(mf);
    }
}

/* ---- bad files --------------------------------------------------------------------------------------------------- */
typedef struct bad {
    const char *what, *model, *pre;
    int n_tokens, n_scores, n_types, type, merges; /* merges: 1 good, 2 without a space */
    float score;
    int64_t eos;
    const char *byte_token;
    const char *want; /* in the message; NULL: opens */
} bad;

static void write_bad(strbuf *b, const bad *d)
{
    unsigned n_kv = 2 + (d->pre != NULL) + (d->n_tokens >= 0) + (d->n_scores >= 0) + (d->n_types >= 0) +
                    (d->merges > 0) + (d->eos >= 0);
    gm_head(b, 3, 0, n_kv);
    gm_kv_str(b, "general.architecture", "llama");
    gm_kv_str(b, "tokenizer.ggml.model", d->model);
    if (d->pre)
        gm_kv_str(b, "tokenizer.ggml.pre", d->pre);
    if (d->n_tokens >= 0) {
        gm_key(b, "tokenizer.ggml.tokens", GM_ARRAY);
        gm_array(b, GM_STR, (uint64_t)d->n_tokens);
        for (int i = 0; i < d->n_tokens; i++)
            gm_str(b, i == 0 && d->byte_token ? d->byte_token : i == 1 ? "a" : i == 2 ? "b" : i == 3 ? "ab" : "c");
    }
    if (d->n_scores >= 0) {
        gm_key(b, "tokenizer.ggml.scores", GM_ARRAY);
        gm_array(b, GM_F32, (uint64_t)d->n_scores);
        for (int i = 0; i < d->n_scores; i++)
            gm_f32(b, d->score);
    }
    if (d->n_types >= 0) {
        gm_key(b, "tokenizer.ggml.token_type", GM_ARRAY);
        gm_array(b, GM_I32, (uint64_t)d->n_types);
        for (int i = 0; i < d->n_types; i++)
            gm_u32(b, (uint32_t)(i == 0 ? d->type : 1));
    }
    if (d->merges) {
        gm_key(b, "tokenizer.ggml.merges", GM_ARRAY);
        gm_array(b, GM_STR, 1);
        gm_str(b, d->merges == 1 ? "a b" : "ab");
    }
    if (d->eos >= 0)
        gm_kv_u32(b, "tokenizer.ggml.eos_token_id", (uint32_t)d->eos);
    gm_pad(b, 32);
}

static const char *tmp_file(const void *data, size_t n)
{
    static char path[200];
    const char *dir = getenv("TMPDIR");
    imp_err e = {0};
    snprintf(path, sizeof path, "%s/imp_test_tok_%d.gguf", dir ? dir : "/tmp", (int)getpid());
    assert_int_equal(file_write_all(path, data, n, &e), IMP_OK);
    return path;
}

static void test_bad_gguf(void **state)
{
    (void)state;
    static const bad cases[] = {
        {"good gpt2", "gpt2", "gpt-2", 5, -1, -1, 1, 1, 0, 3, NULL, NULL},
        {"good llama", "llama", NULL, 5, 5, 5, 6, 0, 0, 3, "<0x41>", NULL},
        {"no vocabulary", "no_vocab", NULL, -1, -1, -1, 1, 0, 0, -1, NULL, "has no vocabulary"},
        {"unknown model", "bpe2", NULL, 5, -1, -1, 1, 1, 0, -1, NULL,
         "unknown tokenizer 'bpe2', known: llama gpt2 gemma4"},
        {"unknown pre", "gpt2", "wrong", 5, -1, -1, 1, 1, 0, -1, NULL,
         "unknown pre-tokenizer 'wrong', known: default llama-bpe"},
        {"no tokens", "gpt2", "gpt-2", -1, -1, -1, 1, 1, 0, -1, NULL, "tokenizer.ggml.tokens is missing"},
        {"zero tokens", "gpt2", "gpt-2", 0, -1, -1, 1, 1, 0, -1, NULL, "vocabulary of 0 tokens"},
        {"no merges", "gpt2", "gpt-2", 5, -1, -1, 1, 0, 0, -1, NULL, "tokenizer.ggml.merges is missing"},
        {"merge without space", "gpt2", "gpt-2", 5, -1, -1, 1, 2, 0, -1, NULL, "merges: element 0 has no space"},
        {"no scores", "llama", NULL, 5, -1, -1, 1, 0, 0, -1, NULL, "tokenizer.ggml.scores is missing"},
        {"few scores", "llama", NULL, 5, 4, -1, 1, 0, 0, -1, NULL, "scores: wanted 5 elements, got 4"},
        {"score NaN", "llama", NULL, 5, 5, -1, 1, 0, (float)(0.0 / 0.0), -1, NULL, "scores: element 0 is not a number"},
        {"many types", "llama", NULL, 5, 5, 6, 1, 0, 0, -1, NULL, "token_type: wanted 5 elements, got 6"},
        {"byte token", "llama", NULL, 5, 5, 5, 6, 0, 0, -1, "<0xZZ>",
         "token 0: a byte token must read <0xXX>, got '<0xZZ>'"},
        {"eos beyond", "llama", NULL, 5, 5, 5, 1, 0, 0, 5, NULL, "eos_token_id: token 5, but the vocabulary ends at 4"},
    };
    for (size_t i = 0; i < CK_COUNT(cases); i++) {
        strbuf b = {0};
        imp_err e = {0};
        modelfile *mf = NULL;
        tok *t = NULL;
        write_bad(&b, &cases[i]);
        const char *path = tmp_file(b.s, b.n);
        assert_int_equal(mf_open(&mf, path, &e), IMP_OK);
        imp_status st = tok_new(&t, mf, &e);
        if (cases[i].want ? st == IMP_OK || !strstr(e.message, cases[i].want) : st != IMP_OK)
            fail_msg("%s: wanted '%s', got %d '%s'", cases[i].what, cases[i].want ? cases[i].want : "success", (int)st,
                     e.message);
        assert_true(st == IMP_OK || t == NULL);
        tok_free(t);
        mf_close(mf);
        unlink(path);
        sb_free(&b);
    }
}

#define JSON_BPE(more)                                                                                                 \
    "{" more "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}"

static void test_bad_json(void **state)
{
    (void)state;
    static const struct { const char *text, *want;
    } cases[] = {
        {JSON_BPE(""), NULL},
        {JSON_BPE("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[]},\"decoder\":{\"type\":\"Fuse\"},"), NULL},
        {"", "wanted"},
        {"[]", "wanted"},
        {"{}", "no model"},
        {"{\"model\":{\"type\":\"BPE\"}}", "without a vocabulary"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", "vocabulary is empty"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", "without merges"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}}}", "model not supported: \"WordLevel\""},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "-1"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999},\"merges\":[]}}", "99999999"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"aa\"]}}", "space between its halves"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"a\",\"a\"]]}}", "two halves"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}", "</w>"},
        {"{\"model\":{\"type\":\"Unigram\",\"unk_id\":7,\"vocab\":[[\"a\",0.5]]}}", "model.unk_id"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0.5,1]]}}", "two members"},
        {JSON_BPE("\"normalizer\":{\"type\":\"Magic\"},"), "normalizer not supported: \"Magic\""},
        {JSON_BPE("\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"/////w==\"},"),
         "precompiled_charsmap"},
        {JSON_BPE("\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"},"),
         "pre-tokenizer not supported: \"UnicodeScripts\""},
        {JSON_BPE("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"},"),
         "does not compile"},
        {JSON_BPE("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"}},"), "set operations"},
        {JSON_BPE("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"Odd\"},"),
         "split behavior"},
        {JSON_BPE("\"pre_tokenizer\":{\"type\":\"ByteLevel\"},"), "ByteLevel stands in only one"},
        {JSON_BPE("\"decoder\":{\"type\":\"CTC\"},"), "decoder not supported: \"CTC\""},
        {JSON_BPE("\"decoder\":{\"type\":\"Strip\",\"content\":\"x\",\"start\":1,\"stop\":0},"), "one leading space"},
        {JSON_BPE("\"post_processor\":{\"type\":\"Odd\"},"), "post-processor not supported: \"Odd\""},
        {JSON_BPE("\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"x\",3],\"cls\":[\"x\",0]},"), "3"},
        {JSON_BPE("\"added_tokens\":[{\"id\":3}],"), "added token without content"},
        {JSON_BPE("\"added_tokens\":[{\"id\":-3,\"content\":\"x\"}],"), "token id -3"},
        {JSON_BPE("") "x", "wanted"},
    };
    for (size_t i = 0; i < CK_COUNT(cases); i++) {
        imp_err e = {0};
        tok *t = mem_calloc(1, sizeof *t);
        t->bos = t->eos = t->unk = -1;
        imp_status st = tok_load_json(t, cases[i].text, strlen(cases[i].text), "tokenizer.json", &e);
        if (cases[i].want ? st == IMP_OK || !strstr(e.message, cases[i].want) : st != IMP_OK)
            fail_msg("%s: wanted '%s', got %d '%s'", cases[i].text, cases[i].want ? cases[i].want : "success", (int)st,
                     e.message);
        tok_free(t);
    }
}

/* Every allocation of loading and of encoding fails once: an error each time, nothing lost, and then it works. */
static void test_out_of_memory(void **state)
{
    (void)state;
    static const char *const files[] = {"pre-deepseek-v3.gguf", "spm-llama.gguf", "gemma4.gguf",
                                        "json-unigram",         "json-wordpiece", "spm-unigram"};
    const char *text =
        "Hello  w\xC3\xB6rld e\xCC\x81 12345 \xE4\xB8\xAD\xE6\x96\x87 \xFF supercalifragilisticexpialidocious </s>\n";
    for (size_t i = 0; i < CK_COUNT(files); i++) {
        modelfile *mf;
        tok *good = open_fixture(files[i], &mf), *t = NULL;
        for (long n = 0;; n++) {
            imp_err e = {0};
            mem_fail_after(n);
            imp_status st = tok_new(&t, mf, &e);
            mem_fail_after(-1);
            if (st == IMP_OK)
                break;
            assert_int_equal(st, IMP_E_NOMEM);
            assert_null(t);
            n += n / 40;
        }
        tok_ids want = encode(good, text, strlen(text), 3);
        for (long n = 0;; n++) {
            imp_err e = {0};
            tok_ids v = {0};
            mem_fail_after(n);
            imp_status st = tok_encode(t, text, strlen(text), 3, &v, &e);
            mem_fail_after(-1);
            if (st != IMP_OK) {
                assert_int_equal(st, IMP_E_NOMEM);
                assert_int_equal(v.n, 0);
            }
            bool done = st == IMP_OK;
            if (done)
                assert_true(v.n == want.n && !memcmp(v.id, want.id, v.n * sizeof *v.id));
            tok_ids_free(&v);
            if (done)
                break;
        }
        tok_ids_free(&want);
        tok_free(good);
        tok_free(t);
        mf_close(mf);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures),      cmocka_unit_test(test_special_text_stays_text),
        cmocka_unit_test(test_questions),     cmocka_unit_test(test_byte_runs),
        cmocka_unit_test(test_long_texts),    cmocka_unit_test(test_threads),
        cmocka_unit_test(test_bad_gguf),
        cmocka_unit_test(test_bad_json),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, load_corpus, free_corpus);
}

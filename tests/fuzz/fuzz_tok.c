/* fuzz_tok: the first byte chooses what the rest is: a tokenizer.json, a SentencePiece model, a GGUF vocabulary, or a
 * text for a small tokenizer made at the start. Whatever loads must encode and decode without harm, and
 * - streamed text equals decoded text and is valid UTF-8 at every step,
 * - a byte-level tokenizer with all 256 bytes gives back exactly the text that went in. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_impl.h"

static void check(bool ok)
{
    if (!ok)
        abort();
}

/* A text with something for everybody. */
static const char SAMPLE[] = " Hello  w\xC3\xB6rld e\xCC\x81 It's 12345\r\n\t\xE4\xB8\xAD\xE6\x96\x87 "
                             "<s></s><|im_end|> \xF0\x9F\x99\x82\xFF \xE2\x96\x81 aaaa [INST] ##x";

static void use(const tok *t, const char *s, size_t n, unsigned flags, bool exact)
{
    tok_ids v = {0};
    imp_err e = {0};
    if (tok_encode(t, s, n, flags, &v, &e) != IMP_OK) {
        check(e.status != IMP_OK && v.n == 0);
        tok_ids_free(&v);
        return;
    }
    for (int keep = 0; keep < 2; keep++) {
        strbuf whole = {0}, live = {0};
        tok_stream st;
        check(tok_decode(t, v.id, v.n, keep, &whole, NULL) == IMP_OK);
        tok_stream_init(&st, t, keep);
        for (size_t i = 0; i < v.n; i++) {
            check(v.id[i] >= 0 && v.id[i] < tok_vocab_size(t));
            size_t at = live.n;
            tok_stream_push(&st, v.id[i], &live);
            check(utf8_valid(live.s ? live.s + at : "", live.n - at) || !exact);
        }
        tok_stream_flush(&st, &live);
        check(live.n == whole.n && (!live.n || !memcmp(live.s, whole.s, live.n)));
        if (exact && keep && utf8_valid(s, n) && !(flags & TOK_ADD_SPECIAL))
            check(whole.n == n && (!n || !memcmp(whole.s, s, n)));
        sb_free(&whole);
        sb_free(&live);
    }
    tok_ids_free(&v);
}

static void use_all(tok *t)
{
    tok_mark_eog(t);
    for (unsigned f = 0; f < 4; f++)
        use(t, SAMPLE, sizeof SAMPLE - 1, f, false);
    const char *s;
    size_t n;
    for (int32_t i = -1; i <= tok_vocab_size(t) && i < 5000; i++) {
        tok_bytes(t, i, &s, &n);
        check(n == 0 || s != NULL);
    }
}

static tok *from_bytes(int how, const char *s, size_t n, imp_err *e)
{
    tok *t = NULL;
    modelfile *mf = NULL;
    char path[64];
    if (how == 2) { /* as a file without a name */
        int fd = memfd_create("fuzz", 0);
        check(fd >= 0 && write(fd, s, n) == (ssize_t)n);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (mf_open(&mf, path, e) == IMP_OK)
            tok_new(&t, mf, e);
        mf_close(mf);
        close(fd);
        return t;
    }
    t = mem_calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->bos = t->eos = t->unk = -1;
    for (int i = 0; i < 256; i++)
        t->byte_id[i] = -1;
    imp_status st = how == 0 ? tok_load_json(t, s, n, "fuzz.json", e) : tok_load_spm_proto(t, s, n, "fuzz.model", e);
    check((st == IMP_OK) == (e->status == IMP_OK));
    if (st != IMP_OK) {
        tok_free(t);
        return NULL;
    }
    return t;
}

/* Byte-level with every byte, a few merges, added tokens and the pre-tokenizer of the given pattern. */
static tok *make(const char *pattern, const char *norm)
{
    strbuf b = {0};
    imp_err e = {0};
    sb_printf(&b,
              "{\"added_tokens\":[{\"id\":256,\"content\":\"<s>\",\"special\":true},{\"id\":257,\"content\":\"</"
              "s>\",\"special\":true},"
              "{\"id\":258,\"content\":\"<|im_end|>\",\"special\":false,\"normalized\":false}],\"normalizer\":%s,\"pre_"
              "tokenizer\":{\"type\":\"Sequence\","
              "\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},\"behavior\":\"Isolated\","
              "\"invert\":false},"
              "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},\"decoder\":{\"type\":"
              "\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{",
              norm, pattern);
    for (int i = 0; i < 256; i++) {
        char c = (char)i;
        strbuf one = {0};
        tok_bytes_to_alphabet(&c, 1, &one);
        sb_printf(&b, "%s\"%s%s\":%d", i ? "," : "", one.s[0] == '"' || one.s[0] == '\\' ? "\\" : "", one.s, i);
        sb_free(&one);
    }
    sb_str(&b, ",\"aa\":259,\"aaaa\":260,\"\xC4\xA0t\":261,\"he\":262,\"\xC4\xA0the\":263,\"\xC4\xA0\xC4\xA0\":264,"
               "\"\xC3\xA4\xC2\xB8\":265},"
               "\"merges\":[\"a a\",\"aa aa\",\"\xC4\xA0 t\",\"h e\",\"\xC4\xA0t he\",\"\xC4\xA0 \xC4\xA0\",\"\xC3\xA4 "
               "\xC2\xB8\"]}}");
    tok *t = from_bytes(0, b.s, b.n, &e);
    if (!t)
        fprintf(stderr, "%s\n", e.message);
    check(t != NULL);
    sb_free(&b);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static tok *fixed[3];
    if (!fixed[0]) {
        fixed[0] = make("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| "
                        "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|"
                        "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+",
                        "null");
        fixed[1] = make("\\\\s?[a-z]+|(?<!\\\\s)\\\\s+$|\\\\p{Han}+", "null");
        fixed[2] = make("\\\\w+|[^\\\\w\\\\s]+", "{\"type\":\"NFC\"}");
    }
    if (size < 2)
        return 0;
    unsigned how = data[0] & 3, more = data[0] >> 2;
    const char *s = (const char *)data + 1;
    size_t n = size - 1;
    if (how == 3) {
        use(fixed[more % 3], s, n, more / 3 & 3, more % 3 < 2);
        return 0;
    }
    imp_err e = {0};
    if (more & 32)
        mem_fail_after((long)(more & 31) * 9);
    tok *t = from_bytes((int)how, s, n, &e);
    mem_fail_after(-1);
    if (t)
        use_all(t);
    tok_free(t);
    return 0;
}

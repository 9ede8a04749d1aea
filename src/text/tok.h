/* tok: tokenizers. One struct for all kinds: SentencePiece BPE (llama, gemma), byte-level BPE with a pre-tokenizer
 * (gpt2 family), Unigram and WordPiece (tokenizer.json). Built once from a modelfile, then immutable and shared by all
 * threads. Encoding is linear in the text for any text (1 MB of spaces or of one word included).
 * Token bytes are what the token contributes to the output text; ids are int32. */
#ifndef IMP_TEXT_TOK_H
#define IMP_TEXT_TOK_H

#include "base/status.h"
#include "base/strbuf.h"
#include "file/modelfile.h"

typedef struct tok tok;

typedef enum tok_attr {
    TOK_NORMAL = 0, TOK_UNKNOWN = 1, TOK_CONTROL = 2 /* special: not shown */, TOK_USER = 4 /* added, shown */,
    TOK_UNUSED = 8, TOK_BYTE = 16
} tok_attr;

typedef struct tok_ids {
    int32_t *id; /* owned: mem_free */
    size_t n, cap;
} tok_ids;
void tok_ids_free(tok_ids *v);

/* Reads tokenizer.ggml.* (GGUF) or tokenizer.json / tokenizer.model (folder). IMP_E_NOTFOUND when the file has no
 * vocabulary ("no_vocab"): such a model takes ids only. */
imp_status tok_new(tok **out, modelfile *mf, imp_err *e);
void tok_free(tok *t);

int32_t tok_vocab_size(const tok *t);             /* tokens known to the tokenizer (the model may have more rows) */
/* The bytes that id stands for in output text (U+2581 resolved to a space, byte tokens to their byte, special tokens
 * to their text). Borrowed; empty for ids out of range or unused. */
void tok_bytes(const tok *t, int32_t id, const char **s, size_t *n);
unsigned tok_attrs(const tok *t, int32_t id);     /* tok_attr bits */
int32_t tok_find(const tok *t, const char *text); /* id of a token by its exact text (special tokens), or -1 */
int32_t tok_bos(const tok *t);                    /* -1 when there is none */
int32_t tok_eos(const tok *t);
bool tok_is_eog(const tok *t, int32_t id);        /* ends generation: eos, eot, generation_config's list */
bool tok_adds_bos(const tok *t);
bool tok_adds_eos(const tok *t);

typedef enum tok_flags {
    TOK_ADD_SPECIAL = 1,   /* BOS/EOS as the file says */
    TOK_PARSE_SPECIAL = 2  /* special-token text becomes special tokens; without it, it stays text */
} tok_flags;
/* Appends the ids of text[0..n) (any bytes; invalid UTF-8 becomes U+FFFD first) to out. */
imp_status tok_encode(const tok *t, const char *text, size_t n, unsigned flags, tok_ids *out, imp_err *e);
/* As tok_encode, for text that was put together from a template and from data (chat.h): data has one flag a byte, and
 * special-token text is recognised only where none of its bytes is flagged. Everything else is cut and merged as if
 * the flags were not there. The text must be valid UTF-8. */
imp_status tok_encode_marked(const tok *t, const char *text, const uint8_t *data, size_t n, unsigned flags,
                             tok_ids *out, imp_err *e);
/* Text of ids; special tokens are left out unless keep_special. Equal to Hugging Face's decode of the same ids. */
imp_status tok_decode(const tok *t, const int32_t *id, size_t n, bool keep_special, strbuf *out, imp_err *e);

/* Streaming detokenisation: bytes become text as soon as they are certain; a character is never split. The
 * concatenation of all pushes and the final flush equals tok_decode of the ids.
 * SentencePiece's byte tokens are only certain when their run ends (Hugging Face replaces every byte of a run that is
 * not UTF-8 as a whole), so a run is held until another token comes, at most TOK_RUN_MAX bytes of it. */
#define TOK_RUN_MAX 240
typedef struct tok_stream {
    const tok *t;
    bool keep_special;
    bool started;      /* something was written (the first space of SentencePiece is dropped) */
    char held[TOK_RUN_MAX + 16]; /* bytes of an unfinished character or run */
    unsigned n_held;
} tok_stream;
void tok_stream_init(tok_stream *s, const tok *t, bool keep_special);
void tok_stream_push(tok_stream *s, int32_t id, strbuf *out);
void tok_stream_flush(tok_stream *s, strbuf *out); /* what is unfinished becomes U+FFFD */

/* The model's own chat template text (GGUF tokenizer.chat_template or chat_template.jinja), NULL when it has none. */
const char *tok_chat_template(const tok *t, size_t *n);

#endif

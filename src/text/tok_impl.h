/* tok_impl: what the tokenizer's files share; nobody outside src/text/tok*.c includes it (unit tests do).
 * A tok is a pipeline, whatever file it came from:
 *
 *   text --(valid UTF-8)--> added tokens (raw) --> normalizers --> added tokens (normalized) --> pre-tokenizer stages
 *        --> model (BPE over an id-pair table, SentencePiece BPE over text, Unigram, WordPiece) --> ids
 *
 * Invariants: (1) after loading a tok is never written; every encode has its own `tok_enc`. (2) text is valid UTF-8
 * from the first step on. (3) In a byte-level tok all token texts are raw bytes, not the printable alphabet of GPT-2.
 * (4) Nothing here is slower than n log n in the text. */
#ifndef IMP_TEXT_TOK_IMPL_H
#define IMP_TEXT_TOK_IMPL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/arena.h"
#include "text/tok.h"

#define TOK_MAX_STAGES 16
#define TOK_MAX_NORMS 16
#define TOK_MAX_TEXT ((size_t)1 << 30) /* positions are 32 bits wide */
#define TOK_EOG 0x40                   /* private bit beside tok_attr */

typedef enum tok_kind { TOK_KIND_BPE, TOK_KIND_SPM, TOK_KIND_UNIGRAM, TOK_KIND_WORDPIECE } tok_kind;

typedef struct tok_slot { /* text -> id, open addressing; id -1 is empty */
    uint32_t hash;
    int32_t id;
} tok_slot;

typedef struct tok_pair { /* (left, right) -> merged token; left -1 is empty */
    int32_t left, right;
    uint32_t rank;
    int32_t id;
} tok_pair;

enum { TOK_ADDED_LSTRIP = 1, TOK_ADDED_RSTRIP = 2, TOK_ADDED_WORD = 4 };
typedef struct tok_trie_node {
    uint32_t first, next; /* child, sibling; 0 is none */
    int32_t id;           /* token that ends here, or -1 */
    uint8_t byte, flags;
} tok_trie_node;
typedef struct tok_trie {
    tok_trie_node *node; /* node[0] is the root; mem_ heap */
    uint32_t n, cap;
    uint32_t root[256];
} tok_trie;

typedef enum tok_norm_kind {
    NORM_NFC, NORM_NFD, NORM_NFKC, NORM_NFKD, NORM_PREPEND, NORM_REPLACE, NORM_REPLACE_RE, NORM_LOWER, NORM_STRIP,
    NORM_STRIP_ACCENTS, NORM_BERT, NORM_NMT, NORM_CHARSMAP,
    NORM_SPM_SPACES /* SentencePiece's remove_extra_whitespaces */
} tok_norm_kind;
typedef struct tok_norm {
    tok_norm_kind kind;
    unsigned flags; /* STRIP: 1 left, 2 right; BERT: 1 clean, 2 CJK, 4 strip accents, 8 lower case */
    const char *from, *to; /* REPLACE, PREPEND (to); CHARSMAP: from = the trie's bytes, to = the replacements */
    size_t n_from, n_to;
    pcre2_code *re;
} tok_norm;
#define TOK_SPACES_TO_2581 \
    ((tok_norm){.kind = NORM_REPLACE, .from = " ", .n_from = 1, .to = "\xE2\x96\x81", .n_to = 3})

typedef enum tok_stage_kind { STAGE_RE, STAGE_STRING, STAGE_BYTE_LEVEL, STAGE_METASPACE } tok_stage_kind;
typedef enum tok_split {
    SPLIT_ISOLATED, SPLIT_REMOVED, SPLIT_MERGE_PREV, SPLIT_MERGE_NEXT, SPLIT_CONTIGUOUS
} tok_split;
typedef struct tok_stage {
    tok_stage_kind kind;
    tok_split behavior;
    bool invert;
    bool prefix_space;      /* BYTE_LEVEL: a space in front of every piece that has none */
    bool only_first;        /* METASPACE: prepend only at the start of the text */
    bool prepend, split;    /* METASPACE */
    const char *str;        /* STRING: the pattern; METASPACE: the replacement */
    size_t n_str;
    pcre2_code *re;
} tok_stage;

struct tok {
    arena a;
    tok_kind kind;
    int32_t n;
    const char *text, *out;              /* token texts for the model; bytes for people */
    const uint32_t *text_off, *out_off;  /* n + 1 each */
    uint8_t *attr;
    const float *score;                  /* SPM, UNIGRAM */
    const double *score64;               /* UNIGRAM of tokenizer.json, whose sums are double; else NULL */
    tok_slot *slot;
    uint32_t slot_mask;
    tok_pair *pair;
    uint32_t pair_mask;
    uint64_t *bigram;                    /* set of hashed character pairs that occur inside some token; NULL: unknown */
    int32_t byte_id[256];                /* BYTE tokens, or single raw bytes when byte_level; -1 */
    int32_t unk, bos, eos;
    bool byte_level, byte_fallback, fuse_unk, ignore_merges, add_bos, add_eos;
    double unk_score;                    /* UNIGRAM: min score - 10 */
    uint32_t max_len;                    /* UNIGRAM: longest token in bytes */
    const char *wp_prefix, *wp_suffix;   /* WORDPIECE continuing prefix; BPE end-of-word suffix */
    uint32_t wp_max_chars;
    int32_t *prefix, *suffix;            /* ids around a single text (post-processor) */
    uint32_t n_prefix, n_suffix;
    tok_trie pieces;                     /* UNIGRAM: all of the vocabulary */
    tok_trie raw, normed;                /* added tokens that match before / after normalization */
    tok_norm norm[TOK_MAX_NORMS];
    uint32_t n_norm;
    tok_stage stage[TOK_MAX_STAGES];
    uint32_t n_stage;
    /* decoding */
    bool lossy_bytes;    /* token bytes are cut anywhere: UTF-8 is put together across tokens (byte-level) */
    bool dec_fallback;   /* runs of BYTE tokens are UTF-8, else one U+FFFD a byte */
    bool strip_first;    /* one leading space of the whole text is dropped */
    bool dec_wordpiece;  /* a space between words */
    bool dec_cleanup;    /* WordPiece: no space before punctuation and contractions */
    const char *dec_prefix;    /* WordPiece: marks the rest of a word */
    const char *dec_metaspace; /* in the first token this is dropped instead of becoming a space */
    bool dec_join_space; /* no decoder at all: tokens joined by spaces */
    const char *chat;
    size_t n_chat;
};

/* memmem, looking only at the bytes it needs (sanitizers' memmem reads all of the haystack at every call). */
static inline const char *tok_find_str(const char *s, size_t n, const char *what, size_t k)
{
    for (const char *p; k && n >= k && (p = memchr(s, what[0], n - k + 1)) != NULL; n -= (size_t)(p + 1 - s), s = p + 1)
        if (!memcmp(p, what, k))
            return p;
    return NULL;
}

/* ---- vocabulary (tok_vocab.c) ---- */
typedef struct tok_word {
    const char *s;
    size_t n;
} tok_word;
uint32_t tok_hash(const char *s, size_t n);
/* Copies n texts into the arena; byte_level: from GPT-2's alphabet to raw bytes where every character belongs to it. */
imp_status tok_vocab_set(tok *t, const tok_word *w, size_t n, bool byte_level, const char *name, imp_err *e);
/* Builds slot[] from text[]; tokens whose `skip` byte is set stay out. Later ids win. */
imp_status tok_vocab_index(tok *t, const uint8_t *skip, const char *name, imp_err *e);
int32_t tok_lookup(const tok *t, const char *s, size_t n); /* -1 */
imp_status tok_pairs_alloc(tok *t, size_t n, const char *name, imp_err *e);
/* Merges are recorded in batches, so that the cache misses of their look-ups overlap. Zero-initialise; push all; then
 * tok_pairs_end. A merge whose halves or result are no tokens can never apply and is left out. Halves come as in the
 * file; in a byte-level tok they are turned into bytes. */
#define TOK_PAIR_BATCH 32
typedef struct tok_pair_batch {
    strbuf text;
    struct { uint32_t off, left, all, rank, h[3]; } v[TOK_PAIR_BATCH];
    uint32_t n;
} tok_pair_batch;
bool tok_pairs_push(tok *t, tok_pair_batch *b, tok_word left, tok_word right, uint32_t rank); /* false: out of memory */
void tok_pairs_end(tok *t, tok_pair_batch *b);
const tok_pair *tok_pair_find(const tok *t, int32_t left, int32_t right);
imp_status tok_bigrams_build(tok *t, const char *name, imp_err *e);
bool tok_bigram_has(const tok *t, uint32_t a, uint32_t b);
/* Output bytes for SentencePiece-like vocabularies: U+2581 becomes a space, <0xXX> its byte. */
imp_status tok_out_spaces(tok *t, bool bytes, const char *name, imp_err *e);
bool tok_byte_token(tok_word w, unsigned *byte); /* <0xXX> */
size_t tok_alphabet_to_bytes(const char *s, size_t n, char *out); /* SIZE_MAX when a character is not in the alphabet */
void tok_bytes_to_alphabet(const char *s, size_t n, strbuf *out);
bool tok_trie_add(tok_trie *tr, const char *s, size_t n, int32_t id, unsigned flags);
/* Longest entry at s whose token passes (attr & deny) == 0; returns its length or 0. */
size_t tok_trie_match(const tok *t, const tok_trie *tr, const char *s, size_t n, unsigned deny, int32_t *id,
                      unsigned *flags);
static inline tok_word tok_text(const tok *t, int32_t id)
{
    return (tok_word){t->text + t->text_off[id], t->text_off[id + 1] - t->text_off[id]};
}

/* ---- one encode -------------------------------------------------------------------------------------------------- */
typedef struct tok_sym {
    uint32_t start, len;
    int32_t prev, next;
    int32_t id;      /* current token, -1 when this text is none */
    uint32_t rank;   /* of the pair with the next symbol; UINT32_MAX: none */
    int32_t merged;  /* id of that pair */
} tok_sym;

typedef struct tok_enc {
    const tok *t;
    tok_ids *out;
    imp_err *e;
    imp_status st;     /* sticky */
    const char *text;  /* the whole text, and one flag a byte: special tokens may not touch flagged ones; or NULL */
    const uint8_t *data;
    unsigned deny;     /* attributes of added tokens that stay text everywhere */
    bool last_unk;     /* fuse_unk within one piece */
    tok_sym *sym;
    size_t cap_sym;
    uint64_t *heap;
    size_t n_heap, cap_heap;
    void *vit;         /* Unigram's lattice */
    size_t cap_vit;
    strbuf buf[2], piece, unmap;
    pcre2_match_data *md;
    pcre2_match_context *mctx;
    pcre2_general_context *gctx;
    pcre2_jit_stack *jit;
} tok_enc;

void tok_enc_free(tok_enc *c);
void tok_enc_oom(tok_enc *c, const char *what);
void tok_emit(tok_enc *c, int32_t id);
void tok_emit_unk(tok_enc *c);

/* ---- models ------------------------------------------------------------------------------------------------------ */
void tok_bpe_word(tok_enc *c, const char *s, size_t n);       /* tok_bpe.c */
void tok_spm_text(tok_enc *c, const char *s, size_t n);       /* tok_spm.c */
void tok_unigram_word(tok_enc *c, const char *s, size_t n);   /* tok_unigram.c */
void tok_wordpiece_word(tok_enc *c, const char *s, size_t n); /* tok_unigram.c */
/* The merge loop over c->sym[0..n), ranks filled in: lowest rank first, leftmost first (tok_bpe.c). */
void tok_merge(tok_enc *c, const char *s, size_t n);
bool tok_syms_reserve(tok_enc *c, size_t n);

/* ---- normalizers (tok_norm.c) and pre-tokenizers (tok_pretok.c) ---- */
/* Runs all normalizers over s; what comes out is either s itself or memory of c that lives until the next call. */
bool tok_normalize(tok_enc *c, const char *s, size_t n, bool at_start, const char **out, size_t *n_out);
/* Cuts s into pieces and hands each to the model. at_start: s begins the text. */
void tok_pretokenize(tok_enc *c, const char *s, size_t n, bool at_start);
/* Compiles a pattern written for Oniguruma (as tokenizer.json has them) for PCRE2. */
imp_status tok_re_compile(pcre2_code **out, const char *pat, size_t n, const char *name, imp_err *e);
/* Next match at or after `from`: 1 found, 0 none, -1 failed (c->st set). */
int tok_re_next(tok_enc *c, const pcre2_code *re, const char *s, size_t n, size_t from, size_t *b, size_t *e);
/* Fills in normalizers, stages and flags for a GGUF pre-tokenizer name; unknown names are refused with the list. */
imp_status tok_pretok_named(tok *t, const char *name, size_t n, const char *file, imp_err *e);
imp_status tok_norm_add(tok *t, tok_norm n, const char *file, imp_err *e);
imp_status tok_stage_add(tok *t, tok_stage s, const char *file, imp_err *e);

/* ---- loaders ----------------------------------------------------------------------------------------------------- */
imp_status tok_load_gguf(tok *t, modelfile *mf, imp_err *e);   /* tok_gguf.c */
imp_status tok_load_folder(tok *t, modelfile *mf, imp_err *e); /* tok_json.c */
imp_status tok_load_json(tok *t, const char *s, size_t n, const char *name, imp_err *e);
imp_status tok_load_spm_proto(tok *t, const char *s, size_t n, const char *name, imp_err *e); /* tok_proto.c */
/* Marks tokens that end generation by their well-known texts. */
void tok_mark_eog(tok *t);
imp_status tok_template_set(tok *t, const int32_t *pre, size_t n_pre, const int32_t *suf, size_t n_suf, imp_err *e);

#endif

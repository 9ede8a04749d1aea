/* vocab: a vocabulary laid out for masks. Private. Immutable once made. */
#ifndef IMP_CONSTRAIN_VOCAB_H
#define IMP_CONSTRAIN_VOCAB_H

#include "constrain/constrain_impl.h"

/* A trie in depth-first order: a node's subtree is [i, end). Tokens are sorted by bytes, so those below a node are the
 * run [first, node[end].first) of `order`; the first n_here of them end at the node itself. */
typedef struct trie_node {
    uint32_t end, first;
    uint16_t depth;       /* bytes from the root to here, this one included */
    uint16_t n_here;
    uint16_t chars;       /* the most characters that begin here and below */
    uint8_t byte;
} trie_node;

typedef struct trie {
    trie_node *node;      /* one more than n: a sentinel with the final `first` */
    uint32_t n;
    uint32_t *order;      /* token ids */
    uint16_t *extra;      /* merged trie: code points before the closing quote */
    uint32_t n_order;
    uint16_t max_depth;
} trie;

#define VOCAB_LEN_MASKS 33

struct constrain_vocab {
    size_t n, words;
    constrain_token *tok; /* s points into bytes */
    char *bytes;
    trie all;
    /* Tokens inside a JSON string that allows anything: */
    uint32_t *len_mask[VOCAB_LEN_MASKS]; /* [r]: those that add at most r code points; the last: any number */
    uint32_t *by_need;    /* tokens of more than VOCAB_LEN_MASKS - 2 code points, most first */
    uint16_t *need;       /* [token] */
    uint32_t n_by_need;
    uint32_t most_chars;  /* in any token */
    uint32_t max_extra;   /* most code points before the closing quote in a token of cross */
    trie cross;           /* what follows the closing quote, for tokens that close such a string */
    uint64_t (*span)[2];  /* [node of all]: what its byte and the bytes below it are, as bits of byte_group() */
    uint32_t *utf8_mask;  /* tokens that are UTF-8 from their first byte on, the last character perhaps unfinished */
    uint64_t digest;      /* of the tokens: equal vocabularies share a program's masks */
    uint32_t *ws_tok;     /* tokens that begin with white space, the longest runs first */
    uint16_t *ws_lead;
    uint32_t n_ws_tok;
    uint32_t max_lead;
    uint32_t *eos;
    uint32_t n_eos;
};

/* The bit of a byte in span: printable ASCII has its own, 32..127; characters beyond are known by their first byte:
 * 0..15 three bytes by E0..EF, 16 four, 17..24 two bytes in groups of 256 code points; 25..28 tab, line feed, return,
 * other controls; 29 the white space beyond ASCII, which . and \s set apart from its neighbours: besides its first
 * byte's group, in which an automaton's row does not count it. -1: continuation bytes: their first byte tells, or they
 * are nothing. */
#define SPAN_CONTROLS (15ull << 25)
#define SPAN_ODD_SPACE 29
static const cprange VOCAB_ODD_SPACES[] = {{0xA0, 0xA0}, {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029},
                                           {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
#define VOCAB_N_ODD_SPACES (sizeof VOCAB_ODD_SPACES / sizeof *VOCAB_ODD_SPACES)
static inline int byte_group(unsigned char b)
{
    if (b >= 0x80)
        return b < 0xC0 ? -1 : b < 0xE0 ? 17 + (b - 0xC0) / 4 : b < 0xF0 ? b - 0xE0 : 16;
    return b >= 0x20 ? b : b == '\t' ? 25 : b == '\n' ? 26 : b == '\r' ? 27 : 28;
}

#endif

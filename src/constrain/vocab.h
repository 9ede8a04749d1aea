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
    trie cross;           /* what follows the closing quote, for tokens that close such a string */
    uint64_t (*below)[2]; /* [node of all]: bytes that occur below it; bit 0 stands for all bytes from 0x80 on */
    uint32_t *ws_tok;     /* tokens that begin with white space */
    uint16_t *ws_lead;
    uint32_t n_ws_tok;
    uint32_t max_lead;
    uint32_t *eos;
    uint32_t n_eos;
};

#endif

/* mask: what mask.c (masks of sets) and mask_span.c (automata over parts of the trie) share. Private. Nothing here
 * allocates; everything belongs to the thread of the state. */
#ifndef IMP_CONSTRAIN_MASK_H
#define IMP_CONSTRAIN_MASK_H

#include "constrain/state.h"

static inline void set_bit(uint32_t *bits, uint32_t id) { bits[id / 32] |= 1u << id % 32; }
static inline void clear_bit(uint32_t *bits, uint32_t id) { bits[id / 32] &= ~(1u << id % 32); }
static inline void or_bits(uint32_t *bits, const uint32_t *o, size_t words)
{
    for (size_t i = 0; i < words; i++)
        bits[i] |= o[i];
}

/* Where most characters lead from a state of an automaton: `to`, and which groups of them (byte_group) all lead
 * there. */
typedef struct span_row {
    const cdfa *d;         /* NULL: free */
    uint32_t q, to;
    uint64_t set[2];
} span_row;

#define SPAN_ROWS 64
/* Serves one walk, and is zeroed before it. touch: the classes of characters of d that a group holds, 63 for the
 * rest. */
typedef struct span_cache {
    bool json;             /* read through a JSON string's spelling */
    const cdfa *d;
    uint64_t touch[128];
    span_row row[SPAN_ROWS];
} span_cache;

const span_row *span_row_of(const cdfa *d, uint32_t q, span_cache *cache);
/* Can every text that a token writes from node i on (its byte included) be read from state q on? (False does not say
 * that it cannot.) The tokens must be UTF-8 from there. */
bool span_taken(const constrain_vocab *v, const cdfa *d, uint32_t q, uint32_t i, span_cache *cache);
/* One byte of a string with an automaton; CODEC_DEAD when it could not be finished any more. */
codec_result span_step(const constrain_prog *p, const strlex *l, at *a, unsigned char b);
/* Adds to out the tokens that stay inside a string with an automaton, from state q and length cnt on. known: parts of
 * the trie of at most so many characters are not looked at (with a longest length only; 0: all are). */
void span_inside(constrain_state *s, const strlex *l, uint32_t q, uint32_t cnt, uint32_t known, uint32_t *out);

#endif

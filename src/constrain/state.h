/* state: what state.c (the text) and mask.c (the tokens that may follow it) share. Private. */
#ifndef IMP_CONSTRAIN_STATE_H
#define IMP_CONSTRAIN_STATE_H

#include "constrain/machine.h"
#include "constrain/vocab.h"

#define SOFT_BYTES ((size_t)48 << 20) /* beyond this the caches are dropped between two tokens */

typedef struct at { /* where a walk stands inside a string or key with an automaton */
    uint32_t q, part, cnt;
} at;

struct constrain_state {
    const constrain_prog *p;
    const constrain_vocab *v;
    machine m;
    uint32_t set;
    strbuf text;           /* all of it, and while walking the bytes of the token being tried */
    lexer lex;             /* at the end of the accepted text */
    size_t n_text;
    uint32_t *path_set;    /* [max_depth + 1] walk stacks */
    uint32_t *path_base;
    uint32_t (*path_first)[8];
    uint32_t *tmp_bits, *tmp_dfa;
    uint32_t cross_set, *cross_bits; /* mask.c: tokens that close a string before cross_set; 0: none known */
    at *path_at;
};

/* state.c */
/* Drops every cache, keeping the set. False: out of memory (the state is unchanged). */
bool state_renew(constrain_state *s);
/* Tells the machine what the text is, for steps that read it: text[0..n). */
void state_at_text(constrain_state *s, size_t n);
/* The set after these bytes (0: refused); the text holds them behind n_text, not yet counted. */
uint32_t state_try_bytes(constrain_state *s, const char *bytes, size_t n);

#endif

/* constrain: output that is always valid. A JSON Schema, regular expression or grammar is compiled to an immutable
 * program (automata plus a stack for recursion); a state follows one text through it and says which tokens may come
 * next.
 * Owns: a program owns its automata, a vocabulary copies the token bytes, a state owns its own caches and keeps the
 * program and vocabulary borrowed (they must outlive it). Threads: programs and vocabularies are read-only and shared
 * freely; a state belongs to one thread at a time.
 * Fails closed: what cannot be enforced is IMP_E_UNSUPPORTED with the JSON path and the keyword; what passes a limit is
 * IMP_E_LIMIT. Whatever compiles accepts valid texts only. */
#ifndef IMP_CONSTRAIN_H
#define IMP_CONSTRAIN_H

#include "base/status.h"
#include "base/strbuf.h"

typedef struct constrain_prog constrain_prog;
typedef struct constrain_vocab constrain_vocab;
typedef struct constrain_state constrain_state;

typedef enum constrain_ws {
    CONSTRAIN_WS_FREE,    /* any JSON white space between tokens, runs of at most ws_max bytes */
    CONSTRAIN_WS_COMPACT, /* none: {"a":1,"b":[1,2]} */
    CONSTRAIN_WS_PYTHON   /* one optional space after ',' and ':' */
} constrain_ws;

typedef struct constrain_options {
    constrain_ws ws;
    unsigned ws_max;          /* longest run of white space; 0 = the default, 256 */
    bool plain_integers;  /* an integer is spelled without a fraction (JSON Schema also calls 1.0 an integer) */
    bool plain_escapes;   /* strings escape only what JSON must escape (and characters beyond ASCII, if the text
                           * likes) */
    bool key_order;           /* members of an object come in the order of the schema's `properties`, others after
                               * them; see docs/constrain.md for schemas that are joined. Default: in any order */
    bool refuse_unknown_formats; /* default: a format that no specification names is an annotation */
    size_t max_bytes;         /* memory that compiling may take; 0 = the default, 192 MiB */
    unsigned max_states;      /* states of one automaton; 0 = the default, 20000 */
    unsigned long long max_work; /* elementary steps of compiling; 0 = the default (well under a second) */
} constrain_options;

/* Compiles text[0..n). options may be NULL. *out is owned by the caller (constrain_prog_free). */
imp_status constrain_compile_schema(const char *text, size_t n, const constrain_options *o, constrain_prog **out,
                                    imp_err *e);
/* The whole text must match; ^ and $ are allowed and mean begin and end of the text. */
imp_status constrain_compile_regex(const char *text, size_t n, const constrain_options *o, constrain_prog **out,
                                   imp_err *e);
/* GBNF, or a subset of EBNF and Lark (docs/constrain.md). */
imp_status constrain_compile_grammar(const char *text, size_t n, const constrain_options *o, constrain_prog **out,
                                     imp_err *e);
/* Any JSON object (response_format json_object). */
imp_status constrain_compile_json(const constrain_options *o, constrain_prog **out, imp_err *e);
void constrain_prog_free(constrain_prog *p); /* NULL is fine */
size_t constrain_prog_bytes(const constrain_prog *p);

typedef struct constrain_token {
    const char *s; /* the bytes that the token writes; n = 0: never allowed (control tokens, unused ids) */
    unsigned n;
    bool eos;      /* ends the text: allowed exactly when the text is complete */
} constrain_token;
imp_status constrain_vocab_new(const constrain_token *tok, size_t n, constrain_vocab **out, imp_err *e);
void constrain_vocab_free(constrain_vocab *v);
size_t constrain_vocab_size(const constrain_vocab *v);

/* vocab may be NULL for a state that only takes bytes. */
imp_status constrain_state_new(const constrain_prog *p, const constrain_vocab *v, constrain_state **out, imp_err *e);
imp_status constrain_state_clone(const constrain_state *s, constrain_state **out, imp_err *e);
void constrain_state_free(constrain_state *s);
void constrain_state_reset(constrain_state *s); /* back to the empty text; the caches stay */

/* bits: (vocabulary size + 31) / 32 words; bit i = token i may come next. IMP_E_NOMEM or IMP_E_LIMIT when the
 * state's memory ran out (then nothing is allowed). */
imp_status constrain_state_mask(constrain_state *s, uint32_t *bits);
/* Appends a token or bytes. False: not allowed; the state is then as it was. */
bool constrain_state_accept_token(constrain_state *s, int32_t id);
bool constrain_state_accept_bytes(constrain_state *s, const char *bytes, size_t n);
bool constrain_state_is_complete(const constrain_state *s);
/* Complete, and no byte may follow. */
bool constrain_state_is_final(constrain_state *s);
/* Appends to out the bytes that must come next, whatever the model says (possibly none; at most max). */
void constrain_state_forced(constrain_state *s, size_t max, strbuf *out);
/* forced[0..n) as constrain_state_forced gave them: can a token of the vocabulary begin at forced[at] and go on beyond
 * its end with a byte that may follow there? */
bool constrain_state_crosses(constrain_state *s, const char *forced, size_t n, size_t at);
/* Can byte b follow forced[0..n)? */
bool constrain_state_follows(constrain_state *s, const char *forced, size_t n, unsigned char b);

#endif

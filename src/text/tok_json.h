/* tok_json: helpers between the two files that read tokenizer.json. A `jobj` is the raw text of a JSON value inside a
 * bigger document; members are found by scanning, which is fine for the small objects it is used on. */
#ifndef IMP_TEXT_TOK_JSON_H
#define IMP_TEXT_TOK_JSON_H

#include "base/json.h"
#include "text/tok_impl.h"

typedef struct jobj {
    const char *s;
    size_t n;
} jobj;

#define TJ_MODEL_KEYS 32
typedef struct tj {
    tok *t;
    const char *name; /* of the file, for messages */
    imp_err *e;
    imp_status st;    /* sticky */
    jobj added, normalizer, pre, post, decoder;
    struct { jr_str key; jobj v; } model[TJ_MODEL_KEYS]; /* members of the model; it is too big to scan for each */
    size_t n_model;
    tok_word *shown; /* by id: texts that replace a token's own when decoding; NULL when there are none */
} tj;

bool jobj_get(tj *j, jobj o, const char *key, jobj *out); /* false when absent or null */
char *jobj_str(tj *j, jobj v, size_t *n);                 /* decoded, in the tok's arena; NULL when no string */
bool jobj_is(tj *j, jobj v, const char *text);            /* is it this string? */
bool jobj_bool(tj *j, jobj o, const char *key, bool dflt);
int64_t jobj_int(tj *j, jobj o, const char *key, int64_t dflt);
bool jobj_isnull(jobj v);
/* Calls fn for every element of an array. */
void jobj_each(tj *j, jobj arr, void (*fn)(tj *j, jobj item, void *user), void *user);
void tj_refuse(tj *j, const char *what, jobj v);

void tj_normalizer(tj *j, jobj v);
void tj_pre_tokenizer(tj *j, jobj v);
void tj_post_processor(tj *j, jobj v);
/* Applies the decoder to every token's text: fills out[], and the flags for what works across tokens. */
void tj_decoder(tj *j, jobj v);
bool tj_has_type(tj *j, jobj v, const char *list_key, const char *type); /* v itself, or an element of its sequence */

#endif

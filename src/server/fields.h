/* fields: request bodies. Every field of a protocol is one row: its name, how it is read, and what it does; a field
 * that does nothing is ignored in a documented row, or refused by name. Worker threads; pure functions over a parsed
 * body. */
#ifndef IMP_SERVER_FIELDS_H
#define IMP_SERVER_FIELDS_H

#include "server/stream.h"

typedef enum field_kind {
    FIELD_BOOL, FIELD_I32, FIELD_I64, FIELD_FLOAT, FIELD_TEXT, /* stored at off */
    FIELD_ANY,       /* json_t * at off: read later */
    FIELD_FN,        /* fn does it */
    FIELD_IGNORED,   /* accepted and without effect; docs/server.md says why */
    FIELD_REFUSED    /* 400, unless null, false, or an empty list or object; why tells the reason */
} field_kind;

typedef struct field {
    const char *name;
    field_kind kind;
    size_t off;
    double min, max;
    bool (*fn)(ask *a, const struct field *f, json_t *v);
    const char *why;
} field;

typedef struct field_set {
    const field *const *table; /* NULL-terminated lists of rows, each ended by a NULL name */
    bool lenient;              /* unknown fields are ignored (Anthropic) */
} field_set;

/* The sampling rows that all protocols share. */
extern const field fields_sampling[];

/* Depth, UTF-8, JSON, one object. NULL: err tells. */
json_t *fields_parse_body(const char *s, size_t n, req_err *err);
/* Fills a from the object; false: a->err tells which field. */
bool fields_read(ask *a, const field_set *set, json_t *doc);
bool field_fail(ask *a, const char *param, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Row functions that more than one protocol uses. */
bool field_stop(ask *a, const field *f, json_t *v);        /* max: most of them */
/* constraint.c */
bool field_response_format(ask *a, const field *f, json_t *v);
bool field_guided_json(ask *a, const field *f, json_t *v);
bool field_guided_regex(ask *a, const field *f, json_t *v);
bool field_guided_grammar(ask *a, const field *f, json_t *v);
bool field_guided_choice(ask *a, const field *f, json_t *v);
bool field_structured(ask *a, const field *f, json_t *v);
/* What the rows left to settle together: max_tokens, seed, the server's own stop strings. */
bool fields_settle(ask *a, const server_params *p);
/* Is this the name of our model? Else err says 404. */
bool fields_model(const server *s, ask *a);

#endif

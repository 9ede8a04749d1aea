/* json: a pull reader for big or untrusted JSON (tokenizer.json, SafeTensors headers, config.json, schemas).
 * Reads a caller-owned byte range and never copies it; strings are handed out as views that jr_str_decode unescapes.
 * Depth-limited (JR_MAX_DEPTH), strict RFC 8259 (no comments, no trailing commas, valid UTF-8, no lone surrogates).
 * The first failure is sticky: every later call returns JR_ERROR / false, and r->err holds "what: offset N: why".
 * Not thread-safe; keeps no heap memory.
 *
 *   jr r; jr_init(&r, text, n, "config.json", &err);
 *   if (jr_enter_object(&r))
 *       while (jr_next_key(&r, &key)) {           // key is a view of the raw (still escaped) text, see jr_key_is
 *           if (jr_key_is(&key, "hidden_size")) jr_int(&r, 1, 1 << 20, &h);
 *           else jr_skip(&r);
 *       }
 *   if (!jr_end(&r)) return err.status;           // also checks that nothing follows
 */
#ifndef IMP_BASE_JSON_H
#define IMP_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"

#define JR_MAX_DEPTH 128 /* deeper than any real document; bounds the reader's bit stack */

typedef enum jr_type {
    JR_ERROR, JR_OBJECT, JR_ARRAY, JR_STRING, JR_NUMBER, JR_TRUE, JR_FALSE, JR_NULL, JR_EOF
} jr_type;

typedef struct jr_str {
    const char *s; /* between the quotes, escapes not resolved; borrowed from the input */
    size_t n;
    bool escaped;  /* contains a backslash */
} jr_str;

typedef struct jr {
    const char *s;
    size_t n, pos;
    const char *name; /* for messages */
    imp_err *err;
    unsigned depth;
    unsigned char kind[JR_MAX_DEPTH + 1]; /* '{' or '[' a level */
    bool first[JR_MAX_DEPTH + 1];         /* no element seen yet at this level */
    bool failed;
    bool nonfinite; /* set after jr_init: NaN, Infinity and -Infinity are numbers too (Python writes them) */
} jr;

void jr_init(jr *r, const char *s, size_t n, const char *name, imp_err *err); /* err may be NULL */
jr_type jr_peek(jr *r);                      /* type of the next value; consumes white space only */
bool jr_enter_object(jr *r);                 /* consumes '{'; false with an error when it is something else */
bool jr_next_key(jr *r, jr_str *key);        /* next key and its ':'; false at '}' (consumed) or on error */
bool jr_enter_array(jr *r);
bool jr_next_item(jr *r);                    /* true: a value follows; false at ']' (consumed) or on error */
bool jr_string(jr *r, jr_str *out);
bool jr_int(jr *r, int64_t min, int64_t max, int64_t *out); /* integral numbers only (1.0 and 1e3 are accepted) */
bool jr_double(jr *r, double *out);          /* finite only (but see `nonfinite`) */
bool jr_number_text(jr *r, const char **s, size_t *n); /* the literal itself */
bool jr_bool(jr *r, bool *out);
bool jr_null(jr *r);
bool jr_skip(jr *r);                         /* any value */
bool jr_raw(jr *r, const char **s, size_t *n); /* skips any value and gives its text */
bool jr_end(jr *r);                          /* nothing but white space is left and nothing failed */
/* The caller's own complaint, with the offset. */
imp_status jr_fail(jr *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

bool jr_key_is(const jr_str *key, const char *name);       /* compares the decoded text */
void jr_str_decode(const jr_str *v, strbuf *out);          /* appends the unescaped UTF-8 */
/* A checked literal to the nearest double, whatever the program's locale; false only when memory runs out. */
bool json_parse_double(const char *s, size_t n, double *out);

#endif

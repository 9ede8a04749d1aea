/* jsonw: writing JSON into a strbuf. Commas and nesting are kept by the writer; failure is the strbuf's sticky flag.
 * Numbers are written as the shortest decimal that reads back as the same double, in Python's repr style (0.1, 1e-07,
 * 1e+16, 5.0), because rendered prompts and caches compare bytes. */
#ifndef IMP_BASE_JSONW_H
#define IMP_BASE_JSONW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/strbuf.h"

#define JW_MAX_DEPTH 64

typedef struct jw {
    strbuf *out;
    unsigned depth;
    bool comma[JW_MAX_DEPTH + 1];
    bool after_key;
} jw;

void jw_init(jw *w, strbuf *out);
void jw_object(jw *w);
void jw_end_object(jw *w);
void jw_array(jw *w);
void jw_end_array(jw *w);
void jw_key(jw *w, const char *key);
void jw_str(jw *w, const char *s);                 /* NULL writes null; invalid UTF-8 becomes U+FFFD */
void jw_strn(jw *w, const char *s, size_t n);
void jw_int(jw *w, int64_t v);
void jw_uint(jw *w, uint64_t v);
void jw_double(jw *w, double v);                   /* NaN and infinities write null */
void jw_bool(jw *w, bool v);
void jw_null(jw *w);
void jw_raw(jw *w, const char *s, size_t n);       /* text that is JSON already */

/* key + value in one call */
void jw_kstr(jw *w, const char *key, const char *s);
void jw_kint(jw *w, const char *key, int64_t v);
void jw_kdouble(jw *w, const char *key, double v);
void jw_kbool(jw *w, const char *key, bool v);

/* Shortest decimal of v in Python's repr form; returns its length (< 32). */
int num_format_double(double v, char out[32]);
/* Appends s as a JSON string with quotes; ascii: \u and four hex digits for everything past 0x7E (Python's
 * ensure_ascii=True). */
void json_quote(strbuf *out, const char *s, size_t n, bool ascii);

#endif

/* fuzz_json: any bytes through the pull reader. Whatever it accepts must survive being written and read again, its
 * strings must decode to valid UTF-8, and its numbers to the shortest text that reads back. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/jsonw.h"
#include "base/utf8.h"

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void copy_string(jw *w, const jr_str *s, bool key)
{
    strbuf b = {0};
    jr_str_decode(s, &b);
    check(b.n <= s->n && utf8_valid(b.s ? b.s : "", b.n));
    if (!key)
        jw_strn(w, b.s ? b.s : "", b.n);
    else if (b.s && !memchr(b.s, 0, b.n))
        check(jr_key_is(s, b.s)), jw_key(w, b.s);
    else
        jw_key(w, "k");
    sb_free(&b);
}

/* Copies one value; the writer is shallower than the reader, so deep ones are only skipped. */
static void copy(jr *r, jw *w, unsigned depth)
{
    jr_str s;
    double d;
    bool flag;
    if (depth >= JW_MAX_DEPTH) {
        if (jr_skip(r))
            jw_null(w);
        return;
    }
    switch (jr_peek(r)) {
    case JR_OBJECT:
        jw_object(w);
        jr_enter_object(r);
        while (jr_next_key(r, &s)) {
            copy_string(w, &s, true);
            copy(r, w, depth + 1);
        }
        jw_end_object(w);
        break;
    case JR_ARRAY:
        jw_array(w);
        jr_enter_array(r);
        while (jr_next_item(r))
            copy(r, w, depth + 1);
        jw_end_array(w);
        break;
    case JR_STRING:
        if (jr_string(r, &s))
            copy_string(w, &s, false);
        break;
    case JR_NUMBER: {
        jr again = *r;
        again.err = NULL;
        int64_t i;
        bool is_int = jr_int(&again, INT64_MIN, INT64_MAX, &i);
        if (jr_double(r, &d)) {
            char text[32];
            double back;
            int n = num_format_double(d, text);
            check(n > 0 && n < 32 && (!isfinite(d) || (json_parse_double(text, (size_t)n, &back) && back == d)));
            check(!is_int || fabs((double)i - d) <= fabs(d) * 1e-15);
            jw_double(w, d);
        }
        break;
    }
    case JR_TRUE:
    case JR_FALSE:
        if (jr_bool(r, &flag))
            jw_bool(w, flag);
        break;
    case JR_NULL:
        jr_null(r);
        jw_null(w);
        break;
    default: jr_skip(r); check(r->failed); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *text = (const char *)data;
    imp_err e = {0};
    jr r;
    jw w;
    strbuf out = {0};
    jr_init(&r, text, n, "fuzz", &e);
    r.nonfinite = n & 1;
    jw_init(&w, &out);
    copy(&r, &w, 0);
    bool ok = jr_end(&r);
    check(ok == (e.status == IMP_OK) && ok == !e.message[0]);
    /* Skipping agrees with reading, but for numbers out of a double's range. */
    jr skip;
    jr_init(&skip, text, n, "fuzz", NULL);
    skip.nonfinite = n & 1;
    jr_skip(&skip);
    bool skipped = jr_end(&skip);
    check(!ok || skipped);
    check(ok || !skipped || strstr(e.message, "out of range"));
    if (ok) {
        check(!out.failed);
        jr_init(&r, out.s, out.n, "copy", &e);
        jr_skip(&r);
        check(jr_end(&r));
    }
    sb_free(&out);
    return 0;
}

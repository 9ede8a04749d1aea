/* The pull reader of json.h. The cursor only moves forward; a level of nesting costs one byte of `kind` and one of
 * `first`, so hostile nesting ends at JR_MAX_DEPTH and never on the C stack. */
#include "base/json.h"

#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

void jr_init(jr *r, const char *s, size_t n, const char *name, imp_err *err)
{
    *r = (jr){.s = s, .n = n, .name = name ? name : "JSON", .err = err};
}

imp_status jr_fail(jr *r, const char *fmt, ...)
{
    if (r->failed)
        return IMP_E_PARSE;
    r->failed = true;
    char why[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return err_set(r->err, IMP_E_PARSE, "%s: offset %zu: %s", r->name, r->pos, why);
}

/* What stands at the cursor, for messages. */
static const char *here(const jr *r, char buf[24])
{
    if (r->pos >= r->n)
        return "the end";
    unsigned char c = (unsigned char)r->s[r->pos];
    if (c >= 0x20 && c < 0x7F)
        snprintf(buf, 24, "'%c'", c);
    else
        snprintf(buf, 24, "byte 0x%02X", c);
    return buf;
}

static bool wanted(jr *r, const char *what)
{
    char buf[24];
    jr_fail(r, "wanted %s, got %s", what, here(r, buf));
    return false;
}

static void skip_space(jr *r)
{
    while (r->pos < r->n) {
        char c = r->s[r->pos];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t')
            break;
        r->pos++;
    }
}

jr_type jr_peek(jr *r)
{
    if (r->failed)
        return JR_ERROR;
    skip_space(r);
    if (r->pos >= r->n)
        return JR_EOF;
    switch (r->s[r->pos]) {
    case '{': return JR_OBJECT;
    case '[': return JR_ARRAY;
    case '"': return JR_STRING;
    case 't': return JR_TRUE;
    case 'f': return JR_FALSE;
    case 'n': return JR_NULL;
    case 'N':
    case 'I':
        if (r->nonfinite)
            return JR_NUMBER;
        break;
    case '-':
    case '0': case '1': case '2': case '3': case '4':
    case '5': case '6': case '7': case '8': case '9': return JR_NUMBER;
    default: break;
    }
    wanted(r, "a value");
    return JR_ERROR;
}

static bool enter(jr *r, jr_type t, char kind)
{
    jr_type got = jr_peek(r);
    if (got == JR_ERROR)
        return false;
    if (got != t)
        return wanted(r, kind == '{' ? "an object" : "an array");
    if (r->depth == JR_MAX_DEPTH) {
        jr_fail(r, "nested deeper than %d levels", JR_MAX_DEPTH);
        return false;
    }
    r->depth++;
    r->kind[r->depth] = (unsigned char)kind;
    r->first[r->depth] = true;
    r->pos++;
    return true;
}

bool jr_enter_object(jr *r) { return enter(r, JR_OBJECT, '{'); }
bool jr_enter_array(jr *r) { return enter(r, JR_ARRAY, '['); }

/* Moves to the next member of the container of this kind; false at its end or on error. */
static bool next(jr *r, char kind, char close)
{
    if (r->failed)
        return false;
    if (!r->depth || r->kind[r->depth] != (unsigned char)kind) {
        jr_fail(r, "the reader is not inside %s", kind == '{' ? "an object" : "an array");
        return false;
    }
    skip_space(r);
    if (r->pos < r->n && r->s[r->pos] == close) {
        r->pos++;
        r->depth--;
        return false;
    }
    if (r->first[r->depth]) {
        r->first[r->depth] = false;
        return r->pos < r->n ? true : wanted(r, kind == '{' ? "a key or '}'" : "a value or ']'");
    }
    if (r->pos >= r->n || r->s[r->pos] != ',')
        return wanted(r, kind == '{' ? "',' or '}'" : "',' or ']'");
    r->pos++;
    skip_space(r);
    return true;
}

bool jr_next_item(jr *r)
{
    return next(r, '[', ']') && (jr_peek(r) == JR_EOF ? wanted(r, "a value") : !r->failed);
}

/* ---- strings --------------------------------------------------------------------------------------------------- */

static int hex4(const char *s)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        char c = s[i];
        int d = -1;
        if (c >= '0' && c <= '9')
            d = c - '0';
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            d = (c | 0x20) - 'a' + 10;
        if (d < 0)
            return -1;
        v = v << 4 | d;
    }
    return v;
}

/* Checks the escape at the cursor (a backslash) and steps over it. */
static bool check_escape(jr *r)
{
    const char *s = r->s + r->pos;
    size_t left = r->n - r->pos;
    if (left < 2) {
        jr_fail(r, "the text ends inside a string");
        return false;
    }
    if (s[1] != 'u') {
        if (!s[1] || !strchr("\"\\/bfnrt", s[1])) {
            jr_fail(r, "unknown escape in a string");
            return false;
        }
        r->pos += 2;
        return true;
    }
    int v = left >= 6 ? hex4(s + 2) : -1;
    if (v < 0) {
        jr_fail(r, "\\u wants four hexadecimal digits");
        return false;
    }
    size_t len = 6;
    if (v >= 0xD800 && v <= 0xDFFF) {
        int low = v <= 0xDBFF && left >= 12 && s[6] == '\\' && s[7] == 'u' ? hex4(s + 8) : -1;
        if (low < 0xDC00 || low > 0xDFFF) {
            jr_fail(r, "lone surrogate \\u%04X in a string", v);
            return false;
        }
        len = 12;
    }
    r->pos += len;
    return true;
}

/* True when none of the eight bytes is a quote, a backslash, a control character or past ASCII. */
static bool plain8(const char *s)
{
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    uint64_t w;
    memcpy(&w, s, 8);
    uint64_t quote = w ^ ones * '"', slash = w ^ ones * '\\';
    uint64_t bad = (quote - ones) | (slash - ones) | (w - ones * 0x20) | w;
    return !(bad & high); /* may say false for a plain group, never true for one that is not */
}

bool jr_string(jr *r, jr_str *out)
{
    *out = (jr_str){.s = "", .n = 0};
    jr_type got = jr_peek(r);
    if (got == JR_ERROR)
        return false;
    if (got != JR_STRING)
        return wanted(r, "a string");
    size_t begin = ++r->pos;
    bool escaped = false;
    for (;;) {
        while (r->n - r->pos >= 8 && plain8(r->s + r->pos))
            r->pos += 8;
        if (r->pos >= r->n) {
            jr_fail(r, "the text ends inside a string");
            return false;
        }
        unsigned char c = (unsigned char)r->s[r->pos];
        if (c == '"')
            break;
        if (c == '\\') {
            escaped = true;
            if (!check_escape(r))
                return false;
        } else if (c < 0x20) {
            jr_fail(r, "control character 0x%02X in a string (it must be escaped)", c);
            return false;
        } else if (c < 0x80) {
            r->pos++;
        } else {
            uint32_t cp;
            bool ok;
            size_t len = utf8_get(r->s + r->pos, r->n - r->pos, &cp, &ok);
            if (!ok) {
                jr_fail(r, "invalid UTF-8 in a string");
                return false;
            }
            r->pos += len;
        }
    }
    *out = (jr_str){.s = r->s + begin, .n = r->pos - begin, .escaped = escaped};
    r->pos++;
    return true;
}

bool jr_next_key(jr *r, jr_str *key)
{
    *key = (jr_str){.s = "", .n = 0};
    if (!next(r, '{', '}'))
        return false;
    if (r->pos >= r->n || r->s[r->pos] != '"')
        return wanted(r, "a key in quotes");
    if (!jr_string(r, key))
        return false;
    skip_space(r);
    if (r->pos >= r->n || r->s[r->pos] != ':')
        return wanted(r, "':'");
    r->pos++;
    if (jr_peek(r) == JR_EOF)
        return wanted(r, "a value");
    return !r->failed;
}

/* Decodes the unit at s[0..n) of a checked string into out[4]; *used says how much it took. */
static size_t decode_unit(const char *s, size_t n, size_t *used, char out[4])
{
    *used = 1;
    out[0] = s[0];
    if (s[0] != '\\' || n < 2)
        return 1;
    *used = 2;
    switch (s[1]) {
    case 'b': out[0] = '\b'; return 1;
    case 'f': out[0] = '\f'; return 1;
    case 'n': out[0] = '\n'; return 1;
    case 'r': out[0] = '\r'; return 1;
    case 't': out[0] = '\t'; return 1;
    case 'u': break;
    default: out[0] = s[1]; return 1;
    }
    int v = n >= 6 ? hex4(s + 2) : -1;
    if (v < 0)
        return utf8_put(UTF8_REPLACEMENT, out);
    *used = 6;
    uint32_t cp = (uint32_t)v;
    int low = cp >= 0xD800 && cp <= 0xDBFF && n >= 12 ? hex4(s + 8) : -1;
    if (low >= 0xDC00) {
        cp = 0x10000 + ((cp - 0xD800) << 10) + ((uint32_t)low - 0xDC00);
        *used = 12;
    }
    return utf8_put(cp, out);
}

bool jr_key_is(const jr_str *key, const char *name)
{
    size_t n = strlen(name);
    if (!key->escaped)
        return key->n == n && memcmp(key->s, name, n) == 0;
    size_t at = 0;
    for (size_t i = 0; i < key->n;) {
        size_t used;
        char unit[4];
        size_t len = decode_unit(key->s + i, key->n - i, &used, unit);
        if (len > n - at || memcmp(unit, name + at, len) != 0)
            return false;
        at += len;
        i += used;
    }
    return at == n;
}

void jr_str_decode(const jr_str *v, strbuf *out)
{
    if (!v->escaped) {
        sb_add(out, v->s, v->n);
        return;
    }
    for (size_t i = 0; i < v->n;) {
        const char *slash = memchr(v->s + i, '\\', v->n - i);
        size_t run = slash ? (size_t)(slash - (v->s + i)) : v->n - i;
        sb_add(out, v->s + i, run);
        i += run;
        if (slash) {
            size_t used;
            char unit[4];
            size_t len = decode_unit(v->s + i, v->n - i, &used, unit);
            sb_add(out, unit, len);
            i += used;
        }
    }
}

/* ---- numbers and words ----------------------------------------------------------------------------------------- */

static size_t digits(const jr *r, size_t i)
{
    size_t k = i;
    while (k < r->n && r->s[k] >= '0' && r->s[k] <= '9')
        k++;
    return k - i;
}

static bool word_at(const jr *r, size_t at, const char *w)
{
    size_t n = strlen(w);
    return n <= r->n - at && memcmp(r->s + at, w, n) == 0;
}

bool jr_number_text(jr *r, const char **s, size_t *n)
{
    *s = "";
    *n = 0;
    jr_type got = jr_peek(r);
    if (got == JR_ERROR)
        return false;
    if (got != JR_NUMBER)
        return wanted(r, "a number");
    size_t begin = r->pos, i = begin;
    if (r->s[i] == '-')
        i++;
    size_t k = digits(r, i);
    if (!k && r->nonfinite && (word_at(r, i, "Infinity") || (i == begin && word_at(r, i, "NaN")))) {
        i += r->s[i] == 'I' ? 8 : 3;
        *s = r->s + begin;
        *n = i - begin;
        r->pos = i;
        return true;
    }
    if (k > 1 && r->s[i] == '0') {
        r->pos = i + 1;
        jr_fail(r, "a number must not begin with 0");
        return false;
    }
    i += k;
    if (k && i < r->n && r->s[i] == '.') {
        k = digits(r, ++i);
        i += k;
    }
    if (k && i < r->n && (r->s[i] == 'e' || r->s[i] == 'E')) {
        i++;
        if (i < r->n && (r->s[i] == '+' || r->s[i] == '-'))
            i++;
        k = digits(r, i);
        i += k;
    }
    if (!k) {
        r->pos = i;
        return wanted(r, "a digit");
    }
    *s = r->s + begin;
    *n = i - begin;
    r->pos = i;
    return true;
}

/* The literal as an integer: 1 = it is one and fits, 0 = not integral, -1 = too large. Exact, no double in between. */
static int literal_int(const char *s, size_t n, int64_t *out)
{
    bool neg = n && s[0] == '-';
    size_t i = neg, exp_at = n;
    for (size_t k = i; k < n; k++)
        if (s[k] == 'e' || s[k] == 'E') {
            exp_at = k;
            break;
        }
    long exp = 0;
    if (exp_at < n) {
        size_t k = exp_at + 1;
        bool eneg = s[k] == '-';
        k += s[k] == '-' || s[k] == '+';
        for (; k < n; k++)
            exp = exp < 100000000 ? exp * 10 + (s[k] - '0') : exp;
        exp = eneg ? -exp : exp;
    }
    /* Two passes over the digits: how many follow the decimal point's final place, then the value itself. */
    size_t end = exp_at;
    bool point = memchr(s + i, '.', end - i) != NULL;
    long frac = 0;
    if (point) {
        while (s[end - 1] == '0')
            end--;
        frac = (long)(s + end - 1 - (const char *)memchr(s + i, '.', end - i));
        if (s[end - 1] == '.')
            end--;
    }
    exp -= frac;
    if (exp < 0 && !frac) /* 100e-2: trailing zeros of the integer part count */
        while (exp < 0 && end > i + 1 && s[end - 1] == '0') {
            end--;
            exp++;
        }
    uint64_t v = 0;
    bool zero = true;
    for (size_t k = i; k < end; k++) {
        if (s[k] == '.')
            continue;
        unsigned d = (unsigned)(s[k] - '0');
        zero = zero && !d;
        if (__builtin_mul_overflow(v, 10u, &v) || __builtin_add_overflow(v, d, &v))
            return exp < 0 ? 0 : -1;
    }
    if (zero)
        exp = 0;
    if (exp < 0)
        return 0;
    for (; exp > 0; exp--)
        if (__builtin_mul_overflow(v, 10u, &v))
            return -1;
    if (v > (uint64_t)INT64_MAX + neg)
        return -1;
    *out = neg ? (int64_t)(0 - v) : (int64_t)v;
    return 1;
}

bool jr_int(jr *r, int64_t min, int64_t max, int64_t *out)
{
    const char *s;
    size_t n;
    *out = 0;
    if (!jr_number_text(r, &s, &n))
        return false;
    size_t after = r->pos;
    r->pos = (size_t)(s - r->s); /* a complaint points at the number, not behind it */
    int64_t v = 0;
    int k = s[n - 1] < '0' || s[n - 1] > '9' ? 0 : literal_int(s, n, &v);
    if (k == 0)
        jr_fail(r, "wanted an integer, got %.*s", (int)(n < 40 ? n : 40), s);
    else if (k < 0 || v < min || v > max)
        jr_fail(r, "wanted an integer from %lld to %lld, got %.*s", (long long)min, (long long)max,
                (int)(n < 40 ? n : 40), s);
    else
        *out = v;
    if (r->failed)
        return false;
    r->pos = after;
    return true;
}

bool json_parse_double(const char *s, size_t n, double *out)
{
    char small[64];
    strbuf big = {0};
    const char *text = small;
    *out = 0;
    if (n < sizeof small) {
        memcpy(small, s, n);
        small[n] = 0;
    } else { /* thousands of digits are legal; they all may matter for rounding */
        sb_add(&big, s, n);
        if (big.failed)
            return false;
        text = big.s;
    }
    /* "C" is a constant object of the C library: nothing is allocated, and the program's locale does not matter. */
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c) {
        *out = strtod_l(text, NULL, c);
        freelocale(c);
    }
    sb_free(&big);
    return c != (locale_t)0;
}

bool jr_double(jr *r, double *out)
{
    const char *s;
    size_t n;
    *out = 0;
    if (!jr_number_text(r, &s, &n))
        return false;
    if (!json_parse_double(s, n, out)) {
        r->failed = true;
        err_oom(r->err, r->name, n);
        return false;
    }
    if (!isfinite(*out) && s[n - 1] >= '0' && s[n - 1] <= '9') {
        r->pos = (size_t)(s - r->s);
        *out = 0;
        jr_fail(r, "number out of range: %.*s", (int)(n < 40 ? n : 40), s);
        return false;
    }
    return true;
}

static bool word(jr *r, const char *w)
{
    if (!word_at(r, r->pos, w))
        return wanted(r, w);
    r->pos += strlen(w);
    return true;
}

bool jr_bool(jr *r, bool *out)
{
    jr_type got = jr_peek(r);
    *out = got == JR_TRUE;
    if (got == JR_ERROR)
        return false;
    if (got != JR_TRUE && got != JR_FALSE)
        return wanted(r, "true or false");
    return word(r, got == JR_TRUE ? "true" : "false");
}

bool jr_null(jr *r)
{
    jr_type got = jr_peek(r);
    if (got == JR_ERROR)
        return false;
    return got == JR_NULL ? word(r, "null") : wanted(r, "null");
}

bool jr_skip(jr *r)
{
    /* Iterative: containers opened here are closed here, so the C stack does not grow with the text's nesting. */
    unsigned base = r->depth;
    do {
        jr_str str;
        const char *s;
        size_t n;
        bool b;
        switch (jr_peek(r)) {
        case JR_OBJECT: jr_enter_object(r); break;
        case JR_ARRAY: jr_enter_array(r); break;
        case JR_STRING: jr_string(r, &str); break;
        case JR_NUMBER: jr_number_text(r, &s, &n); break;
        case JR_TRUE:
        case JR_FALSE: jr_bool(r, &b); break;
        case JR_NULL: jr_null(r); break;
        default: wanted(r, "a value"); break;
        }
        while (!r->failed && r->depth > base) {
            if (r->kind[r->depth] == '{' ? jr_next_key(r, &str) : jr_next_item(r))
                break;
        }
    } while (!r->failed && r->depth > base);
    return !r->failed;
}

bool jr_raw(jr *r, const char **s, size_t *n)
{
    jr_peek(r);
    size_t begin = r->pos;
    bool ok = jr_skip(r);
    *s = ok ? r->s + begin : "";
    *n = ok ? r->pos - begin : 0;
    return ok;
}

bool jr_end(jr *r)
{
    if (r->failed)
        return false;
    skip_space(r);
    if (r->depth) {
        jr_fail(r, "%u levels are still open", r->depth);
        return false;
    }
    return r->pos == r->n ? true : wanted(r, "the end");
}

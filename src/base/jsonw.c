/* The JSON writer of jsonw.h, and the shortest-double printer behind it. */
#include "base/jsonw.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"

void jw_init(jw *w, strbuf *out)
{
    *w = (jw){.out = out};
}

/* Every value and key passes here: writes the comma that separates it from its elder sibling. */
static void separate(jw *w)
{
    if (w->after_key) {
        w->after_key = false;
        return;
    }
    if (w->comma[w->depth])
        sb_char(w->out, ',');
    w->comma[w->depth] = true;
}

static void open_level(jw *w, char c)
{
    separate(w);
    sb_char(w->out, c);
    if (w->depth == JW_MAX_DEPTH) {
        w->out->failed = true; /* our own documents are shallow; a caller's recursion must not run past the array */
        return;
    }
    w->comma[++w->depth] = false;
}

static void close_level(jw *w, char c)
{
    sb_char(w->out, c);
    if (w->depth)
        w->depth--;
    w->comma[w->depth] = true;
    w->after_key = false;
}

void jw_object(jw *w) { open_level(w, '{'); }
void jw_end_object(jw *w) { close_level(w, '}'); }
void jw_array(jw *w) { open_level(w, '['); }
void jw_end_array(jw *w) { close_level(w, ']'); }

void json_quote(strbuf *out, const char *s, size_t n, bool ascii)
{
    static const char hex[] = "0123456789abcdef";
    static const char letter[0x20] = {['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't'};
    sb_char(out, '"');
    for (size_t i = 0; i < n;) {
        size_t run = i;
        while (run < n && (unsigned char)s[run] >= 0x20 && (unsigned char)s[run] < 0x7F && s[run] != '"' &&
               s[run] != '\\')
            run++;
        sb_add(out, s + i, run - i);
        i = run;
        if (i == n)
            break;
        unsigned char c = (unsigned char)s[i];
        if (c < 0x80) {
            i++;
            char u[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            if (c == '"' || c == '\\')
                sb_add(out, (char[2]){'\\', (char)c}, 2);
            else if (c == 0x7F && !ascii)
                sb_char(out, (char)c);
            else if (c < 0x20 && letter[c])
                sb_add(out, (char[2]){'\\', letter[c]}, 2);
            else
                sb_add(out, u, sizeof u);
            continue;
        }
        uint32_t cp;
        i += utf8_get(s + i, n - i, &cp, NULL);
        if (!ascii) {
            sb_utf8(out, cp);
            continue;
        }
        uint32_t unit[2] = {cp, 0};
        int k = 1;
        if (cp >= 0x10000) {
            unit[0] = 0xD800 + ((cp - 0x10000) >> 10);
            unit[1] = 0xDC00 + ((cp - 0x10000) & 0x3FF);
            k = 2;
        }
        for (int j = 0; j < k; j++) {
            char u[6] = {
                '\\', 'u', hex[unit[j] >> 12], hex[unit[j] >> 8 & 15], hex[unit[j] >> 4 & 15], hex[unit[j] & 15]};
            sb_add(out, u, sizeof u);
        }
    }
    sb_char(out, '"');
}

void jw_strn(jw *w, const char *s, size_t n)
{
    separate(w);
    json_quote(w->out, s, n, false);
}

void jw_str(jw *w, const char *s)
{
    if (s)
        jw_strn(w, s, strlen(s));
    else
        jw_null(w);
}

void jw_key(jw *w, const char *key)
{
    separate(w);
    json_quote(w->out, key, strlen(key), false);
    sb_char(w->out, ':');
    w->after_key = true;
}

void jw_int(jw *w, int64_t v)
{
    separate(w);
    sb_printf(w->out, "%lld", (long long)v);
}

void jw_uint(jw *w, uint64_t v)
{
    separate(w);
    sb_printf(w->out, "%llu", (unsigned long long)v);
}

void jw_double(jw *w, double v)
{
    char s[32];
    if (!isfinite(v)) {
        jw_null(w);
        return;
    }
    separate(w);
    sb_add(w->out, s, (size_t)num_format_double(v, s));
}

void jw_bool(jw *w, bool v)
{
    separate(w);
    sb_str(w->out, v ? "true" : "false");
}

void jw_null(jw *w)
{
    separate(w);
    sb_str(w->out, "null");
}

void jw_raw(jw *w, const char *s, size_t n)
{
    separate(w);
    sb_add(w->out, s, n);
}

void jw_kstr(jw *w, const char *key, const char *s)
{
    jw_key(w, key);
    jw_str(w, s);
}

void jw_kint(jw *w, const char *key, int64_t v)
{
    jw_key(w, key);
    jw_int(w, v);
}

void jw_kdouble(jw *w, const char *key, double v)
{
    jw_key(w, key);
    jw_double(w, v);
}

void jw_kbool(jw *w, const char *key, bool v)
{
    jw_key(w, key);
    jw_bool(w, v);
}

/* ---- shortest decimal -------------------------------------------------------------------------------------------- */

/* digit[0..n) and the power of ten of the first one: d.ddd x 10^exp. */
typedef struct decimal {
    char digit[20];
    int n, exp;
} decimal;

/* v > 0 correctly rounded to n digits. The C library prints the locale's decimal point; only digits are read back. */
static decimal round_to(double v, int n)
{
    char s[64];
    decimal d = {.n = n};
    snprintf(s, sizeof s, "%.*e", n - 1, v);
    int k = 0;
    const char *p = s;
    for (; *p && *p != 'e'; p++)
        if (*p >= '0' && *p <= '9' && k < n)
            d.digit[k++] = *p;
    bool neg = *p && p[1] == '-';
    for (p += *p ? 2 : 0; *p >= '0' && *p <= '9'; p++)
        d.exp = d.exp * 10 + (*p - '0');
    d.exp = neg ? -d.exp : d.exp;
    return d;
}

static bool reads_back(const decimal *d, double v)
{
    char s[48];
    double back;
    int n = snprintf(s, sizeof s, "%.1s%.*se%d", d->digit, d->n - 1, d->digit + 1, d->exp - (d->n - 1));
    return json_parse_double(s, (size_t)n, &back) && back == v;
}

/* The next decimal of as many digits upwards. */
static decimal step_up(decimal d)
{
    int i = d.n - 1;
    while (i >= 0 && d.digit[i] == '9')
        d.digit[i--] = '0';
    if (i >= 0) {
        d.digit[i]++;
    } else {
        d.digit[0] = '1';
        d.exp++;
    }
    return d;
}

static decimal shortest(double v)
{
    /* Any decimal of up to 15 digits survives a normal double, so 15 digits without their trailing zeros are already
     * the shortest if they read back; a subnormal has fewer digits than that, so there every length is tried. */
    for (int n = fpclassify(v) == FP_SUBNORMAL ? 1 : 15; n < 17; n++) {
        decimal d = round_to(v, n);
        if (reads_back(&d, v))
            return d;
        /* Below a power of two doubles lie twice as dense: the nearest decimal may lie just outside on that side
         * while its upper neighbour, though farther away, is inside (2^-44 is the first such number). */
        decimal up = step_up(d);
        if (reads_back(&up, v))
            return up;
    }
    return round_to(v, 17);
}

int num_format_double(double v, char out[32])
{
    int k = 0;
    if (isnan(v))
        return snprintf(out, 32, "nan");
    if (signbit(v))
        out[k++] = '-';
    v = fabs(v);
    if (isinf(v))
        return k + snprintf(out + k, 32 - (size_t)k, "inf");
    if (v == 0)
        return k + snprintf(out + k, 32 - (size_t)k, "0.0");
    decimal d = shortest(v);
    while (d.n > 1 && d.digit[d.n - 1] == '0')
        d.n--;
    if (d.exp < -4 || d.exp >= 16) { /* 1e-05, 1.5e+16 */
        out[k++] = d.digit[0];
        if (d.n > 1) {
            out[k++] = '.';
            for (int i = 1; i < d.n; i++)
                out[k++] = d.digit[i];
        }
        return k + snprintf(out + k, 32 - (size_t)k, "e%c%02d", d.exp < 0 ? '-' : '+', d.exp < 0 ? -d.exp : d.exp);
    }
    int point = d.exp + 1; /* digits before the point; 0 or less: 0.000ddd */
    if (point <= 0) {
        out[k++] = '0';
        out[k++] = '.';
        for (int i = point; i < 0; i++)
            out[k++] = '0';
    }
    for (int i = 0; i < d.n || i < point; i++) {
        if (i == point && point > 0)
            out[k++] = '.';
        out[k++] = i < d.n ? d.digit[i] : '0';
    }
    if (point >= d.n) {
        out[k++] = '.';
        out[k++] = '0';
    }
    out[k] = 0;
    return k;
}

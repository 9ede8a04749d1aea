/* utf8: decoding as Unicode and Python do it: an invalid sequence becomes U+FFFD once per maximal subpart
 * (Unicode 15 §3.9, the rule behind bytes.decode(errors="replace")). Pure functions. */
#ifndef IMP_BASE_UTF8_H
#define IMP_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_REPLACEMENT 0xFFFDu

/* Decodes one code point at s[0..n), n > 0. Returns the bytes consumed (>= 1) and stores the code point, or
 * UTF8_REPLACEMENT with *ok = false for an invalid or truncated sequence (consumed = its maximal subpart). ok may be
 * NULL. */
size_t utf8_get(const char *s, size_t n, uint32_t *cp, bool *ok);
/* Encodes cp into out[4]; returns the length (U+FFFD for surrogates and values past 0x10FFFF). */
size_t utf8_put(uint32_t cp, char out[4]);
/* Is all of s valid UTF-8? */
bool utf8_valid(const char *s, size_t n);
/* Bytes at the end of s that are a proper prefix of a character that later bytes could complete (0..3). */
size_t utf8_incomplete_tail(const char *s, size_t n);

/* What a hexadecimal digit stands for; -1: c is none, as NUL is none. */
static inline int hex_value(char c)
{
    const int low = c | 32;
    return c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

#endif

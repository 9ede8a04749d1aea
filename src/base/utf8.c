#include "base/utf8.h"

size_t utf8_get(const char *str, size_t n, uint32_t *cp, bool *ok)
{
    const unsigned char *s = (const unsigned char *)str;
    uint32_t c = s[0];
    if (ok)
        *ok = true;
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    size_t want = 0;
    unsigned lo = 0x80, hi = 0xBF; /* allowed range of the second byte: shuts out overlongs, surrogates, > 10FFFF */
    if (c >= 0xC2 && c <= 0xDF) {
        want = 2;
        c &= 0x1F;
    } else if (c >= 0xE0 && c <= 0xEF) {
        want = 3;
        if (c == 0xE0)
            lo = 0xA0;
        if (c == 0xED)
            hi = 0x9F;
        c &= 0x0F;
    } else if (c >= 0xF0 && c <= 0xF4) {
        want = 4;
        if (c == 0xF0)
            lo = 0x90;
        if (c == 0xF4)
            hi = 0x8F;
        c &= 0x07;
    }
    size_t i = 1;
    for (; i < want && i < n; i++) {
        if (s[i] < lo || s[i] > hi)
            break;
        c = c << 6 | (s[i] & 0x3Fu);
        lo = 0x80;
        hi = 0xBF;
    }
    if (want && i == want) {
        *cp = c;
        return want;
    }
    *cp = UTF8_REPLACEMENT;
    if (ok)
        *ok = false;
    return i;
}

size_t utf8_put(uint32_t cp, char out[4])
{
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF))
        cp = UTF8_REPLACEMENT;
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

bool utf8_valid(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        if ((unsigned char)s[i] < 0x80) {
            i++;
            continue;
        }
        uint32_t cp;
        bool ok;
        i += utf8_get(s + i, n - i, &cp, &ok);
        if (!ok)
            return false;
    }
    return true;
}

size_t utf8_incomplete_tail(const char *s, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)s[n - back];
        if ((c & 0xC0) == 0x80)
            continue;
        if (c < 0xC0)
            return 0;
        size_t want = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
        uint32_t cp;
        bool ok;
        if (want <= back)
            return 0;
        /* a subpart that ends exactly at the end of the buffer may still be completed */
        size_t used = utf8_get(s + n - back, back, &cp, &ok);
        return used == back ? back : 0;
    }
    return 0;
}

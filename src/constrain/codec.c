/* Bytes to code points: UTF-8, and inside JSON strings the escapes. A partial sequence is one 32-bit word:
 *   bits 28..31 kind | kind's own fields
 *   1 UTF-8:  26..27 bytes to come, 24..25 length - 1, 0..20 value so far
 *   2 after a backslash
 *   3 \u:     24..25 digits read, 0..15 value
 *   4 \uD8xx: 0..9 the high half; 5: and its backslash
 *   6 \uD8xx\u: 24..25 digits read, 12..21 high half, 0..11 low value so far */
#include "base/utf8.h"
#include "constrain/machine.h"

#define KIND(p) ((p) >> 28)
#define MAKE(k, v) ((uint32_t)(k) << 28 | (v))

/* Code points that a UTF-8 sequence of this length, with `left` bytes to come, can become; false: none. */
static bool utf8_range(uint32_t len, uint32_t left, uint32_t v, cprange *r)
{
    static const uint32_t min[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t lo = v << 6 * left, hi = lo | ((1u << 6 * left) - 1);
    if (lo < min[len])
        lo = min[len];
    if (hi > CP_MAX)
        hi = CP_MAX;
    if (lo >= 0xD800 && lo <= 0xDFFF)
        lo = 0xE000;
    if (hi >= 0xD800 && hi <= 0xDFFF)
        hi = 0xD7FF;
    *r = (cprange){lo, hi};
    return lo <= hi;
}

/* Plain spelling: a character that needs no escape has none, so that a name or an enum can be written in one way. */
static bool spelled(codec mode, uint32_t cp) { return mode != CODEC_JSON_PLAIN || cp < 0x20 || cp > 0x7E; }

codec_result codec_step(codec json, uint32_t part, unsigned char b, uint32_t *next, uint32_t *cp)
{
    cprange r;
    int h;
    *next = 0;
    switch (KIND(part)) {
    case 0: {
        if (json) {
            if (b == '"')
                return CODEC_QUOTE;
            if (b == '\\') {
                *next = MAKE(2, 0);
                return CODEC_PART;
            }
            if (b < 0x20)
                return CODEC_DEAD;
        }
        if (b < 0x80) {
            *cp = b;
            return CODEC_CP;
        }
        uint32_t len = b >= 0xC2 && b <= 0xDF ? 2 : b >= 0xE0 && b <= 0xEF ? 3 : b >= 0xF0 && b <= 0xF4 ? 4 : 0;
        if (!len)
            return CODEC_DEAD;
        *next = MAKE(1, (len - 1) << 26 | (len - 1) << 24 | (b & (0x7Fu >> len)));
        return CODEC_PART;
    }
    case 1: {
        uint32_t left = part >> 26 & 3, len = (part >> 24 & 3) + 1, v = (part & 0x1FFFFF) << 6 | (b & 0x3F);
        if ((b & 0xC0) != 0x80 || !utf8_range(len, left - 1, v, &r))
            return CODEC_DEAD;
        if (left > 1) {
            *next = MAKE(1, (left - 1) << 26 | (len - 1) << 24 | v);
            return CODEC_PART;
        }
        *cp = v;
        return CODEC_CP;
    }
    case 2:
        switch (b) {
        case 'n': *cp = '\n'; return CODEC_CP;
        case 't': *cp = '\t'; return CODEC_CP;
        case 'r': *cp = '\r'; return CODEC_CP;
        case 'b': *cp = '\b'; return CODEC_CP;
        case 'f': *cp = '\f'; return CODEC_CP;
        case '"':
        case '\\':
        case '/': *cp = b; return CODEC_CP;
        case 'u': *next = MAKE(3, 0); return CODEC_PART;
        default: return CODEC_DEAD;
        }
    case 3: {
        uint32_t n = part >> 24 & 3, v = (part & 0xFFFF) << 4;
        if ((h = hex_value((char)b)) < 0)
            return CODEC_DEAD;
        v |= (uint32_t)h;
        if (n == 1 && v >= 0xDC && v <= 0xDF)
            return CODEC_DEAD; /* a low half alone */
        if (n < 3) {
            *next = MAKE(3, (n + 1) << 24 | v);
            return CODEC_PART;
        }
        if (v >= 0xD800 && v <= 0xDBFF) {
            *next = MAKE(4, v - 0xD800);
            return CODEC_PART;
        }
        *cp = v;
        return spelled(json, v) ? CODEC_CP : CODEC_DEAD;
    }
    case 4:
        *next = MAKE(5, part & 0x3FF);
        return b == '\\' ? CODEC_PART : CODEC_DEAD;
    case 5:
        *next = MAKE(6, (part & 0x3FF) << 12);
        return b == 'u' ? CODEC_PART : CODEC_DEAD;
    default: {
        uint32_t n = part >> 24 & 3, v = (part & 0xFFF) << 4, hi = part >> 12 & 0x3FF;
        if ((h = hex_value((char)b)) < 0)
            return CODEC_DEAD;
        v |= (uint32_t)h;
        if ((n == 0 && v != 0xD) || (n == 1 && v < 0xDC))
            return CODEC_DEAD;
        if (n < 3) {
            *next = MAKE(6, (n + 1) << 24 | hi << 12 | v);
            return CODEC_PART;
        }
        *cp = 0x10000 + (hi << 10) + (v - 0xDC00);
        return CODEC_CP;
    }
    }
}

/* Adds [lo, hi], in plain spelling without what \u may not spell. */
static unsigned add_range(codec mode, uint32_t lo, uint32_t hi, cprange *out)
{
    unsigned n = 0;
    if (mode != CODEC_JSON_PLAIN || lo > 0x7E || hi < 0x20) {
        out[n++] = (cprange){lo, hi};
        return n;
    }
    if (lo < 0x20)
        out[n++] = (cprange){lo, 0x1F};
    if (hi > 0x7E)
        out[n++] = (cprange){0x7F, hi};
    return n;
}

unsigned codec_ranges(codec mode, uint32_t part, cprange out[CODEC_RANGES])
{
    unsigned n = 0;
    switch (KIND(part)) {
    case 1: n += utf8_range((part >> 24 & 3) + 1, part >> 26 & 3, part & 0x1FFFFF, &out[n]); break;
    case 2:
        n += add_range(mode, 0, 0xD7FF, out);
        out[n++] = (cprange){0xE000, CP_MAX};
        if (mode == CODEC_JSON_PLAIN) {
            out[n++] = (cprange){'"', '"'};
            out[n++] = (cprange){'/', '/'};
            out[n++] = (cprange){'\\', '\\'};
        }
        break;
    case 3: {
        uint32_t left = 4 - (part >> 24 & 3), lo = (part & 0xFFFF) << 4 * left, hi = lo | ((1u << 4 * left) - 1);
        if (lo < 0xD800)
            n += add_range(mode, lo, hi < 0xD800 ? hi : 0xD7FF, out + n);
        if (hi >= 0xE000)
            out[n++] = (cprange){lo > 0xE000 ? lo : 0xE000, hi};
        if (lo <= 0xDBFF && hi >= 0xD800) {
            uint32_t a = lo > 0xD800 ? lo : 0xD800, b = hi < 0xDBFF ? hi : 0xDBFF;
            out[n++] = (cprange){0x10000 + ((a - 0xD800) << 10), 0x10000 + ((b - 0xD800) << 10) + 0x3FF};
        }
        break;
    }
    case 4:
    case 5: {
        uint32_t lo = 0x10000 + ((part & 0x3FF) << 10);
        out[n++] = (cprange){lo, lo + 0x3FF};
        break;
    }
    case 6: {
        uint32_t d = part >> 24 & 3, left = 4 - d, base = 0x10000 + ((part >> 12 & 0x3FF) << 10);
        uint32_t lo = (part & 0xFFF) << 4 * left, hi = lo | ((1u << 4 * left) - 1);
        lo = lo < 0xDC00 ? 0xDC00 : lo;
        hi = hi > 0xDFFF ? 0xDFFF : hi;
        if (lo <= hi)
            out[n++] = (cprange){base + lo - 0xDC00, base + hi - 0xDC00};
        break;
    }
    default: break;
    }
    return n;
}

/* ---- strings with lengths --------------------------------------------------------------------------------------- */
bool str_ends(const strlex *s, uint32_t q, uint32_t cnt)
{
    return cnt >= s->min && (s->max == INF || cnt <= s->max) && (!s->d || s->d->label[q]);
}

/* Can a string that is in state q after cnt code points still end with an allowed length? Exact (see need_lengths). */
bool str_viable(const strlex *s, uint32_t q, uint32_t cnt)
{
    if (s->max != INF && cnt > s->max)
        return false;
    if (!s->d)
        return true;
    uint32_t need = cnt < s->min ? s->min - cnt : 0, room = s->max == INF ? INF : s->max - cnt;
    uint32_t near = s->d->mind[q];
    if (near > room)
        return false;
    if (near >= need)
        return true;
    if (s->d->maxd[q] < need)
        return false;
    if (s->max == INF)
        return true; /* a path that passes `need`: either it is finite and long enough, or there is a cycle */
    const uint64_t *l = s->lens + (size_t)q * s->lens_words;
    for (uint32_t n = need; n <= room; n++)
        if (l[n / 64] >> n % 64 & 1)
            return true;
    return false;
}

/* unpack: from a panel (pack.h) to bytes and scales in registers, 16 rows at a time (AVX-512) or 8 (AVX2, half h).
 * For each format X: X_unpack(q, j, w): columns 32j..32j+31 of a super-block, w[k] holding four columns of each row as
 * unsigned bytes, value + X_ZERO, below 2^X_BITS; X_pairs(q, j, w, p): for CPU_Q12, p[g] = w_i + 16 * w_j in units of
 * 2^X_DROP for the pairs of columns (c, c + 8); X_scales(s, h, j, d, m): the factor of those bytes (d[1], m[1]: of the
 * second sixteen columns where X_SPLIT) and what is subtracted where X_MIN. Included only by files for one instruction
 * set. */
#ifndef IMP_BACKEND_CPU_UNPACK_H
#define IMP_BACKEND_CPU_UNPACK_H

#include <immintrin.h>
#include <stdint.h>

#include "quant/blocks.h"

#define U_INLINE static inline __attribute__((always_inline, unused))

#if defined(__AVX512F__)
typedef __m512i ub; /* bytes */
typedef __m512 uf;  /* floats */
#define U_ROWS 16
U_INLINE ub u_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
U_INLINE ub u_set8(int v) { return _mm512_set1_epi8((char)v); }
U_INLINE ub u_and(ub a, ub b) { return _mm512_and_si512(a, b); }
U_INLINE ub u_or(ub a, ub b) { return _mm512_or_si512(a, b); }
U_INLINE ub u_shr(ub a, int n) { return _mm512_srli_epi16(a, (unsigned)n); }
U_INLINE ub u_shl(ub a, int n) { return _mm512_slli_epi16(a, (unsigned)n); }
U_INLINE ub u_avg(ub a, ub b) { return _mm512_avg_epu8(a, b); }
U_INLINE ub u_lut(const uint8_t *t, ub i)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)t)), i);
}
U_INLINE uf u_f16(const uint8_t *p, int h) { return (void)h, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
U_INLINE ub u_u32(const uint8_t *p, int h)
{
    (void)h;
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
U_INLINE uf u_u8(const uint8_t *p, int h) { return _mm512_cvtepi32_ps(u_u32(p, h)); }
U_INLINE uf u_i8(const uint8_t *p, int h)
{
    (void)h;
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
U_INLINE ub u_sub32(ub a, int v) { return _mm512_sub_epi32(a, _mm512_set1_epi32(v)); }
U_INLINE ub u_max32(ub a, int v) { return _mm512_max_epi32(a, _mm512_set1_epi32(v)); }
U_INLINE ub u_shl32(ub a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
U_INLINE ub u_shr32(ub a, int n) { return _mm512_srli_epi32(a, (unsigned)n); }
U_INLINE ub u_and32(ub a, int v) { return _mm512_and_si512(a, _mm512_set1_epi32(v)); }
U_INLINE uf u_cvt32(ub a) { return _mm512_cvtepi32_ps(a); }
U_INLINE uf u_as_f(ub a) { return _mm512_castsi512_ps(a); }
U_INLINE uf u_half_bits(ub a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)); }
U_INLINE uf u_mul(uf a, uf b) { return _mm512_mul_ps(a, b); }
U_INLINE uf u_setf(float v) { return _mm512_set1_ps(v); }
#else
typedef __m256i ub;
typedef __m256 uf;
#define U_ROWS 8
U_INLINE ub u_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
U_INLINE ub u_set8(int v) { return _mm256_set1_epi8((char)v); }
U_INLINE ub u_and(ub a, ub b) { return _mm256_and_si256(a, b); }
U_INLINE ub u_or(ub a, ub b) { return _mm256_or_si256(a, b); }
U_INLINE ub u_shr(ub a, int n) { return _mm256_srli_epi16(a, n); }
U_INLINE ub u_shl(ub a, int n) { return _mm256_slli_epi16(a, n); }
U_INLINE ub u_avg(ub a, ub b) { return _mm256_avg_epu8(a, b); }
U_INLINE ub u_lut(const uint8_t *t, ub i)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)t)), i);
}
U_INLINE uf u_f16(const uint8_t *p, int h) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 16 * h))); }
U_INLINE ub u_u32(const uint8_t *p, int h)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8 * h)));
}
U_INLINE uf u_u8(const uint8_t *p, int h) { return _mm256_cvtepi32_ps(u_u32(p, h)); }
U_INLINE uf u_i8(const uint8_t *p, int h)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8 * h))));
}
U_INLINE ub u_sub32(ub a, int v) { return _mm256_sub_epi32(a, _mm256_set1_epi32(v)); }
U_INLINE ub u_max32(ub a, int v) { return _mm256_max_epi32(a, _mm256_set1_epi32(v)); }
U_INLINE ub u_shl32(ub a, int n) { return _mm256_slli_epi32(a, n); }
U_INLINE ub u_shr32(ub a, int n) { return _mm256_srli_epi32(a, n); }
U_INLINE ub u_and32(ub a, int v) { return _mm256_and_si256(a, _mm256_set1_epi32(v)); }
U_INLINE uf u_cvt32(ub a) { return _mm256_cvtepi32_ps(a); }
U_INLINE uf u_as_f(ub a) { return _mm256_castsi256_ps(a); }
U_INLINE uf u_half_bits(ub a)
{
    ub p = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, a), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(p));
}
U_INLINE uf u_mul(uf a, uf b) { return _mm256_mul_ps(a, b); }
U_INLINE uf u_setf(float v) { return _mm256_set1_ps(v); }
#endif

U_INLINE ub u_low(ub a) { return u_and(a, u_set8(15)); }
U_INLINE ub u_high(ub a) { return u_low(u_shr(a, 4)); }
/* Bit b of every byte, moved to bit `to`. */
U_INLINE ub u_bit(ub a, int b, int to) { return u_and(b > to ? u_shr(a, b - to) : u_shl(a, to - b), u_set8(1 << to)); }
/* Bits b, b+1 of every byte, moved to `to`. */
U_INLINE ub u_pair(ub a, int b, int to) { return u_and(b > to ? u_shr(a, b - to) : u_shl(a, to - b), u_set8(3 << to)); }

/* Four lines of nibbles: two for each sixteen columns, low halves its first eight, high halves its last. */
U_INLINE void u_nibbles(const uint8_t *q, ub w[8])
{
    for (int g = 0; g < 4; g++) {
        ub v = u_load(q + 64 * g);
        w[g / 2 * 4 + g % 2] = u_low(v);
        w[g / 2 * 4 + g % 2 + 2] = u_high(v);
    }
}

/* Pairs of nibbles are the lines themselves. */
U_INLINE void u_nibble_pairs(const uint8_t *q, ub p[4])
{
    for (int g = 0; g < 4; g++)
        p[g] = u_load(q + 64 * g);
}

/* Pairs of what was unpacked. More than four bits are rounded: the low ones of w_i, and one more of the sum, so that it
 * stays a byte (at most 144); the first on average loses what the second gains, up to half a unit. */
U_INLINE void u_pairs(int bits, const ub w[8], ub p[4])
{
    for (int g = 0; g < 4; g++) {
        ub i = w[g / 2 * 4 + g % 2], j = w[g / 2 * 4 + g % 2 + 2];
        p[g] = bits <= 4 ? u_or(i, u_shl(j, 4)) : u_avg(bits < 8 ? u_shl(j, 8 - bits) : j, u_low(u_shr(i, bits - 4)));
    }
}
#define U_DROP(bits) ((bits) <= 4 ? 0 : (bits) - 3)

/* BLK_IQ4_VALUES + 128 */
static const uint8_t U_IQ4[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
/* BLK_E2M1_X2 + 12 */
static const uint8_t U_E2M1[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

/* ---- one block a super-block ------------------------------------------------------------------------------------- */
#define q4_0_BITS 4
#define q4_0_ZERO 8
#define q4_0_SPLIT 0
#define q4_0_MIN 0
U_INLINE void q4_0_unpack(const uint8_t *q, int j, ub w[8]) { (void)j; u_nibbles(q, w); }
U_INLINE void q4_0_scales(const uint8_t *s, int h, int j, uf *d, uf *m) { (void)j; (void)m; d[0] = u_f16(s, h); }

#define q4_1_BITS 4
#define q4_1_ZERO 0
#define q4_1_SPLIT 0
#define q4_1_MIN 1
#define q4_1_unpack q4_0_unpack
U_INLINE void q4_1_scales(const uint8_t *s, int h, int j, uf *d, uf *m)
{
    (void)j;
    d[0] = u_f16(s, h);
    m[0] = u_mul(u_f16(s + 32, h), u_setf(-1)); /* added in the file, subtracted here */
}

#define q5_0_BITS 5
#define q5_0_ZERO 16
#define q5_0_SPLIT 0
#define q5_0_MIN 0
U_INLINE void q5_0_unpack(const uint8_t *q, int j, ub w[8])
{
    (void)j;
    u_nibbles(q, w);
    ub high = u_load(q + 256);
    for (int k = 0; k < 8; k++)
        w[k] = u_or(w[k], u_bit(high, k, 4));
}
#define q5_0_scales q4_0_scales

#define q5_1_BITS 5
#define q5_1_ZERO 0
#define q5_1_SPLIT 0
#define q5_1_MIN 1
#define q5_1_unpack q5_0_unpack
#define q5_1_scales q4_1_scales

#define q8_0_BITS 8
#define q8_0_ZERO 128
#define q8_0_SPLIT 0
#define q8_0_MIN 0
U_INLINE void q8_0_unpack(const uint8_t *q, int j, ub w[8])
{
    (void)j;
    for (int k = 0; k < 8; k++)
        w[k] = u_load(q + 64 * k);
}
#define q8_0_scales q4_0_scales

#define iq4_nl_BITS 8
#define iq4_nl_ZERO 128
#define iq4_nl_SPLIT 0
#define iq4_nl_MIN 0
U_INLINE void iq4_nl_unpack(const uint8_t *q, int j, ub w[8])
{
    (void)j;
    u_nibbles(q, w);
    for (int k = 0; k < 8; k++)
        w[k] = u_lut(U_IQ4, w[k]);
}
#define iq4_nl_scales q4_0_scales

#define mxfp4_BITS 5
#define mxfp4_ZERO 12
#define mxfp4_SPLIT 0
#define mxfp4_MIN 0
U_INLINE void mxfp4_unpack(const uint8_t *q, int j, ub w[8])
{
    (void)j;
    u_nibbles(q, w);
    for (int k = 0; k < 8; k++)
        w[k] = u_lut(U_E2M1, w[k]);
}
U_INLINE void mxfp4_scales(const uint8_t *s, int h, int j, uf *d, uf *m)
{ /* 2^(e-127) / 2, exact but for the two smallest, which are below every f32 that a sum could notice */
    (void)j;
    (void)m;
    d[0] = u_as_f(u_shl32(u_max32(u_sub32(u_u32(s, h), 1), 0), 23));
}

/* ---- K ----------------------------------------------------------------------------------------------------------- */
#define q4_k_BITS 4
#define q4_k_ZERO 0
#define q4_k_SPLIT 0
#define q4_k_MIN 1
U_INLINE void q4_k_unpack(const uint8_t *q, int j, ub w[8]) { u_nibbles(q + 256 * j, w); }
U_INLINE void q4_k_scales(const uint8_t *s, int h, int j, uf *d, uf *m)
{
    d[0] = u_mul(u_f16(s, h), u_u8(s + 64 + 16 * j, h));
    m[0] = u_mul(u_f16(s + 32, h), u_u8(s + 64 + 16 * (8 + j), h));
}

#define q5_k_BITS 5
#define q5_k_ZERO 0
#define q5_k_SPLIT 0
#define q5_k_MIN 1
U_INLINE void q5_k_unpack(const uint8_t *q, int j, ub w[8]) { q5_0_unpack(q + 320 * j, 0, w); }
#define q5_k_scales q4_k_scales

#define q6_k_BITS 6
#define q6_k_ZERO 32
#define q6_k_SPLIT 1
#define q6_k_MIN 0
U_INLINE void q6_k_unpack(const uint8_t *q, int j, ub w[8])
{ /* three lines are sixteen columns: their low six bits twelve of them, the bits above the other four */
    q += 384 * j;
    for (int g = 0; g < 2; g++, q += 192) {
        ub a = u_load(q), b = u_load(q + 64), c = u_load(q + 128);
        w[4 * g] = u_and(a, u_set8(63));
        w[4 * g + 1] = u_and(b, u_set8(63));
        w[4 * g + 2] = u_and(c, u_set8(63));
        w[4 * g + 3] = u_or(u_pair(a, 6, 0), u_or(u_pair(b, 6, 2), u_pair(c, 6, 4)));
    }
}
U_INLINE void q6_k_scales(const uint8_t *s, int h, int j, uf *d, uf *m)
{
    (void)m;
    d[0] = u_mul(u_f16(s, h), u_i8(s + 32 + 32 * j, h));
    d[1] = u_mul(u_f16(s, h), u_i8(s + 32 + 32 * j + 16, h));
}

#define q2_k_BITS 4
#define q2_k_ZERO 0
#define q2_k_SPLIT 1
#define q2_k_MIN 1
U_INLINE void u_bit_pairs(const uint8_t *q, ub w[8])
{
    for (int g = 0; g < 2; g++) {
        ub v = u_load(q + 64 * g);
        for (int k = 0; k < 4; k++)
            w[4 * g + k] = u_pair(v, 2 * k, 0);
    }
}
U_INLINE void q2_k_unpack(const uint8_t *q, int j, ub w[8]) { u_bit_pairs(q + 128 * j, w); }
U_INLINE void q2_k_scales(const uint8_t *s, int h, int j, uf *d, uf *m)
{
    for (int i = 0; i < 2; i++) {
        ub v = u_u32(s + 64 + 32 * j + 16 * i, h);
        d[i] = u_mul(u_f16(s, h), u_cvt32(u_and32(v, 15)));
        m[i] = u_mul(u_f16(s + 32, h), u_cvt32(u_shr32(v, 4)));
    }
}

#define q3_k_BITS 4
#define q3_k_ZERO 4
#define q3_k_SPLIT 1
#define q3_k_MIN 0
U_INLINE void q3_k_unpack(const uint8_t *q, int j, ub w[8])
{
    u_bit_pairs(q + 192 * j, w);
    ub high = u_load(q + 192 * j + 128);
    for (int k = 0; k < 8; k++)
        w[k] = u_or(w[k], u_bit(high, k, 2));
}
#define q3_k_scales q6_k_scales

#define iq4_xs_BITS 8
#define iq4_xs_ZERO 128
#define iq4_xs_SPLIT 0
#define iq4_xs_MIN 0
U_INLINE void iq4_xs_unpack(const uint8_t *q, int j, ub w[8]) { iq4_nl_unpack(q + 256 * j, 0, w); }
U_INLINE void iq4_xs_scales(const uint8_t *s, int h, int j, uf *d, uf *m)
{
    (void)m;
    d[0] = u_mul(u_f16(s, h), u_i8(s + 32 + 16 * j, h));
}

#define nvfp4_BITS 5
#define nvfp4_ZERO 12
#define nvfp4_SPLIT 1
#define nvfp4_MIN 0
U_INLINE void nvfp4_unpack(const uint8_t *q, int j, ub w[8])
{
    u_nibbles(q + 256 * j, w);
    for (int k = 0; k < 8; k++)
        w[k] = u_lut(U_E2M1, w[k]);
}
U_INLINE void nvfp4_scales(const uint8_t *s, int h, int j, uf *d, uf *m)
{ /* E4M3's fields sit in f16 seven bits up, with 2^8 less; half of it since the table holds twice the values */
    (void)m;
    for (int i = 0; i < 2; i++)
        d[i] = u_mul(u_half_bits(u_shl32(u_u32(s + 32 * j + 16 * i, h), 7)), u_setf(128));
}

/* ---- pairs ------------------------------------------------------------------------------------------------------- */
#define U_PAIRS(X)                                                           \
    U_INLINE void X##_pairs(const uint8_t *q, int j, const ub w[8], ub p[4]) \
    {                                                                        \
        (void)q;                                                             \
        (void)j;                                                             \
        u_pairs(X##_BITS, w, p);                                             \
    }
#define U_LINE_PAIRS(X)                                                      \
    U_INLINE void X##_pairs(const uint8_t *q, int j, const ub w[8], ub p[4]) \
    {                                                                        \
        (void)w;                                                             \
        u_nibble_pairs(q + 256 * j, p);                                      \
    }
U_LINE_PAIRS(q4_0)
U_LINE_PAIRS(q4_1)
U_LINE_PAIRS(q4_k)
U_PAIRS(q5_0)
U_PAIRS(q5_1)
U_PAIRS(q8_0)
U_PAIRS(q2_k)
U_PAIRS(q3_k)
U_PAIRS(q5_k)
U_PAIRS(q6_k)
U_PAIRS(iq4_nl)
U_PAIRS(iq4_xs)
U_PAIRS(mxfp4)
U_PAIRS(nvfp4)

/* Every format: name, blocks of 32 a super-block, bytes of quants and of scales (cpu_pack_table's numbers). */
#define MM_FORMATS(K)          \
    K(q4_0, 1, 256, 32)        \
    K(q4_1, 1, 256, 64)        \
    K(q5_0, 1, 320, 32)        \
    K(q5_1, 1, 320, 64)        \
    K(q8_0, 1, 512, 32)        \
    K(q2_k, 8, 1024, 320)      \
    K(q3_k, 8, 1536, 288)      \
    K(q4_k, 8, 2048, 320)      \
    K(q5_k, 8, 2560, 320)      \
    K(q6_k, 8, 3072, 320)      \
    K(iq4_nl, 1, 256, 32)      \
    K(iq4_xs, 8, 2048, 160)    \
    K(mxfp4, 1, 256, 16)       \
    K(nvfp4, 2, 512, 64)

#define MM_TABLE(suffix) \
    { \
        [PACK_Q4_0] = q4_0_##suffix, [PACK_Q4_1] = q4_1_##suffix, [PACK_Q5_0] = q5_0_##suffix, \
        [PACK_Q5_1] = q5_1_##suffix, [PACK_Q8_0] = q8_0_##suffix, [PACK_Q2_K] = q2_k_##suffix, \
        [PACK_Q3_K] = q3_k_##suffix, [PACK_Q4_K] = q4_k_##suffix, [PACK_Q5_K] = q5_k_##suffix, \
        [PACK_Q6_K] = q6_k_##suffix, [PACK_IQ4_NL] = iq4_nl_##suffix, [PACK_IQ4_XS] = iq4_xs_##suffix, \
        [PACK_MXFP4] = mxfp4_##suffix, [PACK_NVFP4] = nvfp4_##suffix \
    }

#endif

/* The oldest block formats: 32 values, one f16 scale, perhaps one f16 minimum. */
#include "quant/fit.h"
#include "quant/quant_impl.h"

enum { N = 32, HALF = N / 2 };

/* Bit i of the four bytes, as 0 or 16. */
static int fifth(const uint8_t qh[4], int i)
{
    return (qh[i >> 3] >> (i & 7) & 1) << 4;
}

static void decode_q4_0(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q4_0, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int j = 0; j < HALF; j++) {
            dst[j] = d * (float)((b.qs[j] & 15) - 8);
            dst[j + HALF] = d * (float)((b.qs[j] >> 4) - 8);
        }
    }
}

static void decode_q4_1(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q4_1, b, N) {
        float d = quant_f16_to_f32(b.d), m = quant_f16_to_f32(b.m);
        for (int j = 0; j < HALF; j++) {
            dst[j] = d * (float)(b.qs[j] & 15) + m;
            dst[j + HALF] = d * (float)(b.qs[j] >> 4) + m;
        }
    }
}

static void decode_q5_0(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q5_0, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int j = 0; j < HALF; j++) {
            dst[j] = d * (float)(((b.qs[j] & 15) | fifth(b.qh, j)) - 16);
            dst[j + HALF] = d * (float)((b.qs[j] >> 4 | fifth(b.qh, j + HALF)) - 16);
        }
    }
}

static void decode_q5_1(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q5_1, b, N) {
        float d = quant_f16_to_f32(b.d), m = quant_f16_to_f32(b.m);
        for (int j = 0; j < HALF; j++) {
            dst[j] = d * (float)((b.qs[j] & 15) | fifth(b.qh, j)) + m;
            dst[j + HALF] = d * (float)(b.qs[j] >> 4 | fifth(b.qh, j + HALF)) + m;
        }
    }
}

static void decode_q8_0(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q8_0, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int j = 0; j < N; j++)
            dst[j] = d * (float)b.qs[j];
    }
}

static void decode_q8_1(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q8_1, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int j = 0; j < N; j++)
            dst[j] = d * (float)b.qs[j];
    }
}

/* ---- encode ---- */

/* Head of an encoder (src, dst, n, weight): out is the place of block b. */
#define FOR_OUT(blk, b)                                                        \
    uint8_t *out = dst;                                                        \
    blk b;                                                                     \
    for (size_t at = 0; at < n; at += N, memcpy(out, &b, sizeof b), out += sizeof b)

static void pack_nibbles(const unsigned char q[N], uint8_t qs[HALF])
{
    for (int j = 0; j < HALF; j++)
        qs[j] = (uint8_t)((q[j] & 15) | (q[j + HALF] & 15) << 4);
}

static void pack_fifths(const unsigned char q[N], uint8_t qh[4])
{
    memset(qh, 0, 4);
    for (int i = 0; i < N; i++)
        qh[i >> 3] |= (uint8_t)((q[i] >> 4 & 1) << (i & 7));
}

/* Levels of a block with a scale alone; returns the scale as stored. */
static uint16_t scaled(const float *x, const float *weight, const fit_levels *l, unsigned char q[N])
{
    fit_block f;
    fit_load(&f, x, weight, N, 65504.0f * 32);
    uint16_t d = quant_scale_f16(fit_scale(f.x, f.w, N, l));
    fit_quantise(f.x, N, quant_f16_to_f32(d), 0, l->lo, l->hi, q);
    return d;
}

static uint16_t scaled_min(const float *x, const float *weight, const fit_levels *l, unsigned char q[N], uint16_t *m)
{
    fit_block f;
    float min;
    fit_load(&f, x, weight, N, 65504.0f);
    uint16_t d = quant_scale_f16(fit_scale_min(f.x, f.w, N, l, false, &min));
    *m = quant_f32_to_f16_sat(min);
    fit_quantise(f.x, N, quant_f16_to_f32(d), quant_f16_to_f32(*m), l->lo, l->hi, q);
    return d;
}

static void encode_q4_0(const float *src, void *dst, size_t n, const float *weight)
{
    static const fit_levels L = {-8, 7, 12, 12, 0.15f};
    unsigned char q[N];
    FOR_OUT(blk_q4_0, b) {
        b.d = scaled(src + at, weight ? weight + at : NULL, &L, q);
        pack_nibbles(q, b.qs);
    }
}

static void encode_q4_1(const float *src, void *dst, size_t n, const float *weight)
{
    static const fit_levels L = {0, 15, 14, 14, 0.15f};
    unsigned char q[N];
    FOR_OUT(blk_q4_1, b) {
        b.d = scaled_min(src + at, weight ? weight + at : NULL, &L, q, &b.m);
        pack_nibbles(q, b.qs);
    }
}

static void encode_q5_0(const float *src, void *dst, size_t n, const float *weight)
{
    static const fit_levels L = {-16, 15, 12, 12, 0.2f};
    unsigned char q[N];
    FOR_OUT(blk_q5_0, b) {
        b.d = scaled(src + at, weight ? weight + at : NULL, &L, q);
        pack_nibbles(q, b.qs);
        pack_fifths(q, b.qh);
    }
}

static void encode_q5_1(const float *src, void *dst, size_t n, const float *weight)
{
    static const fit_levels L = {0, 31, 14, 14, 0.15f};
    unsigned char q[N];
    FOR_OUT(blk_q5_1, b) {
        b.d = scaled_min(src + at, weight ? weight + at : NULL, &L, q, &b.m);
        pack_nibbles(q, b.qs);
        pack_fifths(q, b.qh);
    }
}

/* Eight bits need no search: the largest magnitude becomes 127 by the scale before its rounding to f16, halves round
 * away from zero: byte for byte what other programs write. Only where f16 has few bits left (below 2^-14) that scale
 * would be far from the stored one, so there the stored one counts. Returns the scale; *h is what to store. */
static float eight_bits(const float *x, int8_t q[N], uint16_t *h, int *sum)
{
    const float limit = 65504.0f * 127;
    float v[N], max = 0;
    for (int i = 0; i < N; i++) {
        v[i] = quant_finite(x[i]);
        v[i] = v[i] > limit ? limit : v[i] < -limit ? -limit : v[i];
        float a = v[i] < 0 ? -v[i] : v[i];
        max = a > max ? a : max;
    }
    float d = max / 127;
    *h = quant_scale_f16(d);
    if (d < 0x1p-14f)
        d = quant_f16_to_f32(*h);
    float id = d > 0 ? 1 / d : 0;
    *sum = 0;
    for (int i = 0; i < N; i++) {
        float a = v[i] * id, mag = a < 0 ? -a : a;
        int r = mag < 127 ? (int)mag : 127;
        r += mag < 127 && mag - (float)r >= 0.5f;
        q[i] = (int8_t)(a < 0 ? -r : r);
        *sum += q[i];
    }
    return d;
}

static void encode_q8_0(const float *src, void *dst, size_t n, const float *weight)
{
    (void)weight;
    int sum;
    FOR_OUT(blk_q8_0, b)
        eight_bits(src + at, b.qs, &b.d, &sum);
}

static void encode_q8_1(const float *src, void *dst, size_t n, const float *weight)
{
    (void)weight;
    int sum;
    FOR_OUT(blk_q8_1, b) {
        float d = eight_bits(src + at, b.qs, &b.d, &sum);
        b.s = quant_f32_to_f16_sat(d * (float)sum);
    }
}

static const quant_fmt ROWS[] = {
    {QUANT_ROW(Q4_0, blk_q4_0, N), .decode = decode_q4_0, .encode = encode_q4_0},
    {QUANT_ROW(Q4_1, blk_q4_1, N), .decode = decode_q4_1, .encode = encode_q4_1},
    {QUANT_ROW(Q5_0, blk_q5_0, N), .decode = decode_q5_0, .encode = encode_q5_0},
    {QUANT_ROW(Q5_1, blk_q5_1, N), .decode = decode_q5_1, .encode = encode_q5_1},
    {QUANT_ROW(Q8_0, blk_q8_0, N), .decode = decode_q8_0, .encode = encode_q8_0},
    {QUANT_ROW(Q8_1, blk_q8_1, N), .decode = decode_q8_1, .encode = encode_q8_1},
};

const quant_family quant_legacy = {ROWS, CK_COUNT(ROWS)};

/* K formats: 256 values in groups whose scales (and minima) are small integers times one f16. Decoding and the table
 * rows; encoding is in kquants_encode.c. */
#include "quant/kquants.h"

enum { N = QUANT_K };

void k4_scale_min(const uint8_t s[12], int g, int *sc, int *m)
{
    if (g < 4) {
        *sc = s[g] & 63;
        *m = s[g + 4] & 63;
    } else {
        *sc = (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
        *m = s[g + 4] >> 4 | (s[g] >> 6) << 4;
    }
}

int k3_scale(const uint8_t s[12], int g)
{
    return ((s[g & 7] >> 4 * (g >> 3) & 15) | (s[8 + (g & 3)] >> 2 * (g >> 2) & 3) << 4) - 32;
}

/* The 2-bit fields of group g of 16: bytes from here on, at bit g & 6. */
static const uint8_t *two_bits(const uint8_t qs[64], int g)
{
    return qs + 32 * (g >> 3) + 16 * (g & 1);
}

static void decode_q2_k(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q2_k, b, N) {
        float d = quant_f16_to_f32(b.d), dmin = quant_f16_to_f32(b.dmin);
        for (int g = 0; g < 16; g++) {
            float dl = d * (float)(b.scales[g] & 15), ml = dmin * (float)(b.scales[g] >> 4);
            const uint8_t *q = two_bits(b.qs, g);
            for (int j = 0; j < 16; j++)
                dst[16 * g + j] = dl * (float)(q[j] >> (g & 6) & 3) - ml;
        }
    }
}

static void decode_q3_k(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q3_k, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int g = 0; g < 16; g++) {
            float dl = d * (float)k3_scale(b.scales, g);
            const uint8_t *low = two_bits(b.qs, g), *high = b.hmask + 16 * (g & 1);
            for (int j = 0; j < 16; j++)
                dst[16 * g + j] = dl * (float)((low[j] >> (g & 6) & 3) + 4 * (high[j] >> (g >> 1) & 1) - 4);
        }
    }
}

static void decode_q4_k(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q4_k, b, N) {
        float d = quant_f16_to_f32(b.d), dmin = quant_f16_to_f32(b.dmin);
        for (int g = 0; g < 8; g++) {
            int sc, m, shift = g & 1 ? 4 : 0;
            k4_scale_min(b.scales, g, &sc, &m);
            float dl = d * (float)sc, ml = dmin * (float)m;
            const uint8_t *q = b.qs + 32 * (g >> 1);
            for (int j = 0; j < 32; j++)
                dst[32 * g + j] = dl * (float)(q[j] >> shift & 15) - ml;
        }
    }
}

static void decode_q5_k(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q5_k, b, N) {
        float d = quant_f16_to_f32(b.d), dmin = quant_f16_to_f32(b.dmin);
        for (int g = 0; g < 8; g++) {
            int sc, m, shift = g & 1 ? 4 : 0;
            k4_scale_min(b.scales, g, &sc, &m);
            float dl = d * (float)sc, ml = dmin * (float)m;
            const uint8_t *q = b.qs + 32 * (g >> 1);
            for (int j = 0; j < 32; j++)
                dst[32 * g + j] = dl * (float)((q[j] >> shift & 15) | (b.qh[j] >> g & 1) << 4) - ml;
        }
    }
}

static void decode_q6_k(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q6_k, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int g = 0; g < 16; g++) {
            float dl = d * (float)b.scales[g];
            const uint8_t *low = b.ql + 64 * (g >> 3) + 16 * (g & 3), *high = two_bits(b.qh, g);
            for (int j = 0; j < 16; j++)
                dst[16 * g + j] = dl * (float)(((low[j] >> (g & 4) & 15) | (high[j] >> (g & 6) & 3) << 4) - 32);
        }
    }
}

static void decode_q8_k(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q8_k, b, N) {
        for (int j = 0; j < N; j++)
            dst[j] = b.d * (float)b.qs[j];
    }
}

static const quant_fmt ROWS[] = {
    {QUANT_ROW(Q2_K, blk_q2_k, N), .decode = decode_q2_k, .encode = encode_q2_k},
    {QUANT_ROW(Q3_K, blk_q3_k, N), .decode = decode_q3_k, .encode = encode_q3_k},
    {QUANT_ROW(Q4_K, blk_q4_k, N), .decode = decode_q4_k, .encode = encode_q4_k},
    {QUANT_ROW(Q5_K, blk_q5_k, N), .decode = decode_q5_k, .encode = encode_q5_k},
    {QUANT_ROW(Q6_K, blk_q6_k, N), .decode = decode_q6_k, .encode = encode_q6_k},
    {QUANT_ROW(Q8_K, blk_q8_k, N), .decode = decode_q8_k, .encode = encode_q8_k},
};

const quant_family quant_kquants = {ROWS, CK_COUNT(ROWS)};

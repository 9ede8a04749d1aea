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

/* Where 2-bit fields lie: value i in byte 32*(i/128) + i%32 at bit 2*(i%128/32). */
static int two_bits(const uint8_t qs[64], int i)
{
    return qs[i >> 7 << 5 | (i & 31)] >> (i >> 4 & 6) & 3;
}

static void decode_q2_k(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q2_k, b, N) {
        float d = quant_f16_to_f32(b.d), dmin = quant_f16_to_f32(b.dmin);
        for (int g = 0; g < 16; g++) {
            float dl = d * (float)(b.scales[g] & 15), ml = dmin * (float)(b.scales[g] >> 4);
            for (int i = 16 * g; i < 16 * g + 16; i++)
                dst[i] = dl * (float)two_bits(b.qs, i) - ml;
        }
    }
}

static void decode_q3_k(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_q3_k, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int g = 0; g < 16; g++) {
            float dl = d * (float)k3_scale(b.scales, g);
            for (int i = 16 * g; i < 16 * g + 16; i++) {
                int high = b.hmask[i & 31] >> (i >> 5) & 1;
                dst[i] = dl * (float)(two_bits(b.qs, i) + 4 * high - 4);
            }
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
            for (int i = 16 * g; i < 16 * g + 16; i++) {
                int low = b.ql[i >> 7 << 6 | (i & 63)] >> (i >> 4 & 4) & 15;
                dst[i] = dl * (float)((low | two_bits(b.qh, i) << 4) - 32);
            }
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

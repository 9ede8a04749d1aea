/* The oldest block formats: 32 values, one f16 scale, perhaps one f16 minimum. */
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

static const quant_fmt ROWS[] = {
    {QUANT_ROW(Q4_0, blk_q4_0, N), .decode = decode_q4_0},
    {QUANT_ROW(Q4_1, blk_q4_1, N), .decode = decode_q4_1},
    {QUANT_ROW(Q5_0, blk_q5_0, N), .decode = decode_q5_0},
    {QUANT_ROW(Q5_1, blk_q5_1, N), .decode = decode_q5_1},
    {QUANT_ROW(Q8_0, blk_q8_0, N), .decode = decode_q8_0},
    {QUANT_ROW(Q8_1, blk_q8_1, N), .decode = decode_q8_1},
};

const quant_family quant_legacy = {ROWS, CK_COUNT(ROWS)};

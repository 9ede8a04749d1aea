/* Ternary formats: -1, 0 and 1 times one f16 for 256 values. */
#include "quant/quant_impl.h"

enum { N = 256 };

/* Where TQ1_0 keeps its values: runs of `bytes` bytes whose digit n is `bytes` consecutive values. */
static const struct { int first, bytes, digits, value; } RUNS[] = {{0, 32, 5, 0}, {32, 16, 5, 160}, {48, 4, 4, 240}};

static void decode_tq1_0(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_tq1_0, b, N) {
        uint8_t q[52];
        memcpy(q, b.qs, 48);
        memcpy(q + 48, b.qh, 4);
        float d = quant_f16_to_f32(b.d);
        for (size_t r = 0; r < CK_COUNT(RUNS); r++)
            for (int j = 0; j < RUNS[r].bytes; j++) {
                uint8_t frac = q[RUNS[r].first + j]; /* the digits after a base-3 point, in 256ths */
                for (int t = 0; t < RUNS[r].digits; t++) {
                    dst[RUNS[r].value + RUNS[r].bytes * t + j] = d * (float)((frac * 3 >> 8) - 1);
                    frac = (uint8_t)(frac * 3);
                }
            }
    }
}

static void decode_tq2_0(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_tq2_0, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int g = 0; g < N / 32; g++)
            for (int j = 0; j < 32; j++)
                dst[32 * g + j] = d * (float)((b.qs[32 * (g >> 2) + j] >> 2 * (g & 3) & 3) - 1);
    }
}

/* The scale is the largest magnitude; digit 0, 1 or 2 for each value. */
static float ternary_digits(const float *x, uint8_t digit[N])
{
    float max = 0;
    for (int i = 0; i < N; i++) {
        float a = quant_finite(x[i]);
        a = a < 0 ? -a : a;
        max = a > max ? a : max;
    }
    float id = max > 0 ? 1 / max : 0;
    for (int i = 0; i < N; i++) {
        float v = quant_finite(x[i]) * id;
        digit[i] = (uint8_t)(v >= 0.5f ? 2 : v <= -0.5f ? 0 : 1);
    }
    return max;
}

static void encode_tq1_0(const float *src, void *dst, size_t n, const float *weight)
{
    (void)weight;
    uint8_t *out = dst;
    blk_tq1_0 b;
    for (size_t left = n / N; left > 0; left--, src += N, out += sizeof b) {
        uint8_t digit[N], q[52];
        b.d = quant_f32_to_f16_sat(ternary_digits(src, digit));
        for (size_t r = 0; r < CK_COUNT(RUNS); r++)
            for (int j = 0; j < RUNS[r].bytes; j++) {
                unsigned whole = 0;
                for (int t = 0; t < 5; t++)
                    whole = whole * 3 + (t < RUNS[r].digits ? digit[RUNS[r].value + RUNS[r].bytes * t + j] : 0u);
                /* rounded up, so that decoding's truncation restores every digit */
                q[RUNS[r].first + j] = (uint8_t)((whole * 256 + 242) / 243);
            }
        memcpy(b.qs, q, 48);
        memcpy(b.qh, q + 48, 4);
        memcpy(out, &b, sizeof b);
    }
}

static void encode_tq2_0(const float *src, void *dst, size_t n, const float *weight)
{
    (void)weight;
    uint8_t *out = dst;
    blk_tq2_0 b;
    for (size_t left = n / N; left > 0; left--, src += N, out += sizeof b) {
        uint8_t digit[N];
        b.d = quant_f32_to_f16_sat(ternary_digits(src, digit));
        memset(b.qs, 0, sizeof b.qs);
        for (int i = 0; i < N; i++)
            b.qs[i >> 7 << 5 | (i & 31)] |= (uint8_t)(digit[i] << (i >> 4 & 6));
        memcpy(out, &b, sizeof b);
    }
}

static const quant_fmt ROWS[] = {
    {QUANT_ROW(TQ1_0, blk_tq1_0, N), .decode = decode_tq1_0, .encode = encode_tq1_0},
    {QUANT_ROW(TQ2_0, blk_tq2_0, N), .decode = decode_tq2_0, .encode = encode_tq2_0},
};

const quant_family quant_ternary = {ROWS, CK_COUNT(ROWS)};

/* FP4 formats: E2M1 codes with an E8M0 scale for 32 values (MXFP4) or an unsigned E4M3 scale for 16 (NVFP4). The
 * code list is doubled to be integer, so scales are halved: exact, both being powers of two apart. */
#include "quant/fit.h"
#include "quant/quant_impl.h"

static const int8_t CODE[16] = BLK_E2M1_X2;

/* Half of 2^(e-127). The format has no NaN here: 255 is 2^128, whose half still fits. */
static float e8m0_half(uint8_t e)
{
    return quant_bits_f32(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

/* Half of an unsigned E4M3; 0x7F, which would be NaN, is zero. */
static float ue4m3_half(uint8_t x)
{
    if (x == 0x7F)
        return 0;
    int exp = x >> 3 & 15, man = x & 7;
    /* exponent bias 7 and the half: 2^(exp - 8), subnormals count 2^-10 */
    return exp == 0 ? (float)man * 0x1p-10f : (float)(8 + man) * quant_bits_f32((uint32_t)(exp + 127 - 11) << 23);
}

static void decode_mxfp4(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_mxfp4, b, 32) {
        float d = e8m0_half(b.e);
        for (int j = 0; j < 16; j++) {
            dst[j] = d * (float)CODE[b.qs[j] & 15];
            dst[j + 16] = d * (float)CODE[b.qs[j] >> 4];
        }
    }
}

static void decode_nvfp4(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_nvfp4, b, 64) {
        for (int g = 0; g < 4; g++) {
            float d = ue4m3_half(b.d[g]);
            for (int j = 0; j < 8; j++) {
                dst[16 * g + j] = d * (float)CODE[b.qs[8 * g + j] & 15];
                dst[16 * g + j + 8] = d * (float)CODE[b.qs[8 * g + j] >> 4];
            }
        }
    }
}

/* ---- encode: the scale the format's inventors compute, and its neighbours, whichever loses least ---- */

/* Sum of w * error^2 of n values with scale d (not halved). */
static float code_error(const float *x, const float *w, int n, float d)
{
    float sum = 0, id = d > 0 ? 1 / d : 0;
    for (int i = 0; i < n; i++) {
        float e = x[i] - d * quant_e2m1_to_f32(quant_f32_to_e2m1(x[i] * id));
        sum += w[i] * e * e;
    }
    return sum;
}

static void code_pack(const float *x, int half, float d, uint8_t *qs)
{
    float id = d > 0 ? 1 / d : 0;
    for (int j = 0; j < half; j++)
        qs[j] = (uint8_t)(quant_f32_to_e2m1(x[j] * id) | quant_f32_to_e2m1(x[j + half] * id) << 4);
}

static float largest(const float *x, size_t n)
{
    float v = x[fit_largest(x, n)];
    return v < 0 ? -v : v;
}

static void encode_mxfp4(const float *src, void *dst, size_t n, const float *weight)
{
    uint8_t *out = dst;
    for (size_t at = 0; at < n; at += 32) {
        blk_mxfp4 b = {0};
        fit_block f;
        fit_load(&f, src + at, weight ? weight + at : NULL, 32, 1e12f);
        /* 2^floor(log2(largest)) / 4: the largest value lands in [4, 8), the code list ends at 6. */
        int usual = (int)(quant_f32_bits(largest(f.x, 32)) >> 23) - 2;
        float best = -1;
        for (int e = usual + 1; e >= usual - 1; e--) {
            if (e < 1 || e > 254)
                continue;
            float err = code_error(f.x, f.w, 32, quant_e8m0_to_f32((uint8_t)e));
            if (best < 0 || err < best) {
                best = err;
                b.e = (uint8_t)e;
            }
        }
        if (b.e)
            code_pack(f.x, 16, quant_e8m0_to_f32(b.e), b.qs);
        memcpy(out, &b, sizeof b);
        out += sizeof b;
    }
}

/* Scale codes worth trying put the largest value between 4 and a little above 6. */
static uint8_t nvfp4_scale(const float *x, const float *w)
{
    float max = largest(x, 16), best = code_error(x, w, 16, 0);
    int from = quant_f32_to_e4m3(max / 6) - 2, to = quant_f32_to_e4m3(max / 4) + 1;
    uint8_t code = 0;
    for (int c = from < 1 ? 1 : from; c <= to && c <= 0x7E; c++) {
        float err = code_error(x, w, 16, 2 * ue4m3_half((uint8_t)c));
        if (err < best) {
            best = err;
            code = (uint8_t)c;
        }
    }
    return code;
}

static void encode_nvfp4(const float *src, void *dst, size_t n, const float *weight)
{
    uint8_t *out = dst;
    for (size_t at = 0; at < n; at += 64) {
        blk_nvfp4 b;
        fit_block f;
        fit_load(&f, src + at, weight ? weight + at : NULL, 64, 448.0f * 6);
        for (int g = 0; g < 4; g++) {
            b.d[g] = nvfp4_scale(f.x + 16 * g, f.w + 16 * g);
            code_pack(f.x + 16 * g, 8, 2 * ue4m3_half(b.d[g]), b.qs + 8 * g);
        }
        memcpy(out, &b, sizeof b);
        out += sizeof b;
    }
}

static const quant_fmt ROWS[] = {
    {QUANT_ROW(MXFP4, blk_mxfp4, 32), .decode = decode_mxfp4, .encode = encode_mxfp4},
    {QUANT_ROW(NVFP4, blk_nvfp4, 64), .decode = decode_nvfp4, .encode = encode_nvfp4},
};

const quant_family quant_fp4 = {ROWS, CK_COUNT(ROWS)};

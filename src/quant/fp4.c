/* FP4 formats: E2M1 codes with an E8M0 scale for 32 values (MXFP4) or an unsigned E4M3 scale for 16 (NVFP4). The
 * code list is doubled to be integer, so scales are halved: exact, both being powers of two apart. */
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

static const quant_fmt ROWS[] = {
    {QUANT_ROW(MXFP4, blk_mxfp4, 32), .decode = decode_mxfp4},
    {QUANT_ROW(NVFP4, blk_nvfp4, 64), .decode = decode_nvfp4},
};

const quant_family quant_fp4 = {ROWS, CK_COUNT(ROWS)};

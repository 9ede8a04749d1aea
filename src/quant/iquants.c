/* IQ formats: short vectors of magnitudes taken from a code book, signs apart, group scales against one f16. Decoding
 * and the table rows. IQ4 has a curved list of sixteen values instead of a code book. */
#include "quant/iquants.h"

#include "quant/iq_grids.h"

enum { N = 256 };

static const uint16_t GRID_2XXS[IQ2_XXS_POINTS] = IQ2_XXS_GRID;
static const uint16_t GRID_2XS[IQ2_XS_POINTS] = IQ2_XS_GRID;
static const uint16_t GRID_2S[IQ2_S_POINTS] = IQ2_S_GRID;
static const uint16_t GRID_3XXS[IQ3_XXS_POINTS] = IQ3_XXS_GRID;
static const uint16_t GRID_3S[IQ3_S_POINTS] = IQ3_S_GRID;
static const uint16_t GRID_1[IQ1_POINTS] = IQ1_GRID;

/* Seven sign bits are stored; the eighth makes their number even. */
static unsigned even_signs(unsigned seven)
{
    return seven | (unsigned)__builtin_parity(seven) << 7;
}

/* Eight values of a two-bit grid point times d, bit k of signs negating value k. */
static void put8(float *dst, float d, uint16_t point, unsigned signs)
{
    static const float value[4] = IQ2_XXS_VALUES;
    for (int k = 0; k < 8; k++)
        dst[k] = d * value[point >> 2 * k & 3] * (signs >> k & 1 ? -1.0f : 1.0f);
}

/* Four values of a four-bit grid point. */
static void put4(float *dst, float d, const float value[8], uint16_t point, unsigned signs)
{
    for (int k = 0; k < 4; k++)
        dst[k] = d * value[point >> 4 * k & 7] * (signs >> k & 1 ? -1.0f : 1.0f);
}

/* Eight values -1, 0, 1 shifted by an eighth. */
static void put8_ternary(float *dst, float d, uint16_t point, float shift)
{
    for (int k = 0; k < 8; k++)
        dst[k] = d * ((float)((point >> 2 * k & 3) - 1) + shift);
}

static void decode_iq2_xxs(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_iq2_xxs, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int g = 0; g < 8; g++) {
            const uint16_t *q = b.qs + 4 * g; /* two words of indices, two of signs and scale */
            uint32_t aux = q[2] | (uint32_t)q[3] << 16;
            float dl = d * (0.5f + (float)(aux >> 28)) * 0.25f;
            for (int j = 0; j < 4; j++) {
                unsigned index = q[j >> 1] >> 8 * (j & 1) & 255;
                put8(dst + 32 * g + 8 * j, dl, GRID_2XXS[index], even_signs(aux >> 7 * j & 127));
            }
        }
    }
}

static void decode_iq2_xs(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_iq2_xs, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int j = 0; j < 32; j++) {
            float dl = d * (0.5f + (float)(b.scales[j >> 2] >> 2 * (j & 2) & 15)) * 0.25f;
            put8(dst + 8 * j, dl, GRID_2XS[b.qs[j] & 511], even_signs(b.qs[j] >> 9));
        }
    }
}

static void decode_iq2_s(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_iq2_s, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int j = 0; j < 32; j++) {
            float dl = d * (0.5f + (float)(b.scales[j >> 2] >> 2 * (j & 2) & 15)) * 0.25f;
            int high = b.qh[j >> 2] >> 2 * (j & 3) & 3;
            put8(dst + 8 * j, dl, GRID_2S[b.qs[j] | high << 8], b.signs[j]);
        }
    }
}

static void decode_iq3_xxs(const void *src, float *dst, size_t n)
{
    static const float value[8] = IQ3_XXS_VALUES;
    QUANT_FOR_BLOCKS(blk_iq3_xxs, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int g = 0; g < 8; g++) {
            uint32_t aux;
            memcpy(&aux, b.aux + 4 * g, sizeof aux);
            float dl = d * (0.5f + (float)(aux >> 28)) * 0.5f;
            for (int j = 0; j < 8; j++) {
                unsigned signs = even_signs(aux >> 7 * (j >> 1) & 127);
                put4(dst + 32 * g + 4 * j, dl, value, GRID_3XXS[b.qs[8 * g + j]], signs >> 4 * (j & 1));
            }
        }
    }
}

static void decode_iq3_s(const void *src, float *dst, size_t n)
{
    static const float value[8] = IQ3_S_VALUES;
    QUANT_FOR_BLOCKS(blk_iq3_s, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int j = 0; j < 64; j++) {
            float dl = d * (float)(1 + 2 * (b.scales[j >> 4] >> (j >> 1 & 4) & 15));
            int high = b.qh[j >> 3] >> (j & 7) & 1;
            put4(dst + 4 * j, dl, value, GRID_3S[b.qs[j] | high << 8], b.signs[j >> 1] >> 4 * (j & 1));
        }
    }
}

static void decode_iq1_s(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_iq1_s, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int j = 0; j < 32; j++) {
            unsigned h = b.qh[j >> 2];
            float dl = d * (float)(2 * (h >> 12 & 7) + 1);
            put8_ternary(dst + 8 * j, dl, GRID_1[b.qs[j] | (h >> 3 * (j & 3) & 7) << 8], h & 0x8000 ? -0.125f : 0.125f);
        }
    }
}

static void decode_iq1_m(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_iq1_m, b, N) {
        uint16_t sc[4];
        memcpy(sc, b.scales, sizeof sc);
        int top = sc[0] >> 12 | (sc[1] >> 12) << 4 | (sc[2] >> 12) << 8 | (sc[3] >> 12) << 12;
        float d = quant_f16_to_f32((uint16_t)top);
        for (int j = 0; j < 32; j++) {
            unsigned h = b.qh[j >> 1] >> 4 * (j & 1) & 15;
            float dl = d * (float)(2 * (sc[j >> 3] >> 3 * (j >> 1 & 3) & 7) + 1);
            put8_ternary(dst + 8 * j, dl, GRID_1[b.qs[j] | (h & 7) << 8], h & 8 ? -0.125f : 0.125f);
        }
    }
}

const int8_t iq4_value[16] = BLK_IQ4_VALUES;

static void decode_iq4_nl(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_iq4_nl, b, 32) {
        float d = quant_f16_to_f32(b.d);
        for (int j = 0; j < 16; j++) {
            dst[j] = d * (float)iq4_value[b.qs[j] & 15];
            dst[j + 16] = d * (float)iq4_value[b.qs[j] >> 4];
        }
    }
}

static void decode_iq4_xs(const void *src, float *dst, size_t n)
{
    QUANT_FOR_BLOCKS(blk_iq4_xs, b, N) {
        float d = quant_f16_to_f32(b.d);
        for (int g = 0; g < 8; g++) {
            int scale = (b.scales_l[g >> 1] >> 4 * (g & 1) & 15) | (b.scales_h >> 2 * g & 3) << 4;
            float dl = d * (float)(scale - 32);
            const uint8_t *q = b.qs + 16 * g;
            for (int j = 0; j < 16; j++) {
                dst[32 * g + j] = dl * (float)iq4_value[q[j] & 15];
                dst[32 * g + j + 16] = dl * (float)iq4_value[q[j] >> 4];
            }
        }
    }
}

static const quant_fmt ROWS[] = {
    {QUANT_ROW(IQ2_XXS, blk_iq2_xxs, N), .decode = decode_iq2_xxs},
    {QUANT_ROW(IQ2_XS, blk_iq2_xs, N), .decode = decode_iq2_xs},
    {QUANT_ROW(IQ2_S, blk_iq2_s, N), .decode = decode_iq2_s},
    {QUANT_ROW(IQ3_XXS, blk_iq3_xxs, N), .decode = decode_iq3_xxs},
    {QUANT_ROW(IQ3_S, blk_iq3_s, N), .decode = decode_iq3_s},
    {QUANT_ROW(IQ1_S, blk_iq1_s, N), .decode = decode_iq1_s},
    {QUANT_ROW(IQ1_M, blk_iq1_m, N), .decode = decode_iq1_m},
    {QUANT_ROW(IQ4_NL, blk_iq4_nl, 32), .decode = decode_iq4_nl, .encode = encode_iq4_nl},
    {QUANT_ROW(IQ4_XS, blk_iq4_xs, N), .decode = decode_iq4_xs, .encode = encode_iq4_xs},
};

const quant_family quant_iquants = {ROWS, CK_COUNT(ROWS)};

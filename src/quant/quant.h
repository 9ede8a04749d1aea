/* quant: block formats, one row of one table each. A format turns `block` consecutive values of a row into `bytes`
 * bytes. Everything here is pure: no state, no allocation, any thread. Little-endian, as the files are.
 *
 * Reference decode is exact (bit-equal to the PyPI package gguf); every kernel of every backend is tested against it.
 * Encoders take any input: NaN and infinity count as 0, and what a format cannot hold is clipped to what it can. */
#ifndef IMP_QUANT_QUANT_H
#define IMP_QUANT_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __F16C__
#include <immintrin.h> /* _cvtsh_ss, _cvtss_sh */
#endif

/* Formats as files have them. Numbers are GGUF's ggml_type where one exists (so a file's code is a table lookup, not a
 * switch); those that only SafeTensors knows follow from 200. */
typedef enum quant_id {
    QUANT_F32 = 0, QUANT_F16 = 1, QUANT_Q4_0 = 2, QUANT_Q4_1 = 3, QUANT_Q5_0 = 6, QUANT_Q5_1 = 7, QUANT_Q8_0 = 8,
    QUANT_Q8_1 = 9, QUANT_Q2_K = 10, QUANT_Q3_K = 11, QUANT_Q4_K = 12, QUANT_Q5_K = 13, QUANT_Q6_K = 14,
    QUANT_Q8_K = 15,
    QUANT_IQ2_XXS = 16, QUANT_IQ2_XS = 17, QUANT_IQ3_XXS = 18, QUANT_IQ1_S = 19, QUANT_IQ4_NL = 20, QUANT_IQ3_S = 21,
    QUANT_IQ2_S = 22, QUANT_IQ4_XS = 23, QUANT_I8 = 24, QUANT_I16 = 25, QUANT_I32 = 26, QUANT_I64 = 27, QUANT_F64 = 28,
    QUANT_IQ1_M = 29, QUANT_BF16 = 30, QUANT_TQ1_0 = 34, QUANT_TQ2_0 = 35, QUANT_MXFP4 = 39, QUANT_NVFP4 = 40,
    /* plain element types of SafeTensors; scales are separate parts of the weight descriptor */
    QUANT_F8_E4M3 = 200, QUANT_F8_E5M2 = 201, QUANT_E2M1 = 202 /* two a byte, even element low */, QUANT_E8M0 = 203,
    QUANT_U8 = 204, QUANT_I4 = 205 /* eight an int32, low first */, QUANT_BOOL = 206,
    QUANT_NONE = 255
} quant_id;

typedef struct quant_fmt {
    quant_id id;
    const char *name;      /* as llama-quantize spells it: "Q4_K" */
    uint32_t block;        /* values a block (1 for plain types) */
    uint32_t bytes;        /* bytes a block */
    bool is_float;         /* F64 F32 F16 BF16 */
    /* n values (a multiple of block) from src (block-packed, any alignment) to f32. Exact. NULL: not decodable. */
    void (*decode)(const void *src, float *dst, size_t n);
    /* n values to blocks; weight[n] >= 0 is an importance for each value, or NULL. NULL: this format is only read. */
    void (*encode)(const float *src, void *dst, size_t n, const float *weight);
} quant_fmt;

/* NULL for an id that is not in the table. */
const quant_fmt *quant_get(quant_id id);
const quant_fmt *quant_by_name(const char *name); /* case-insensitive */
/* i-th row of the table, NULL past the end (for listings and tests). */
const quant_fmt *quant_at(size_t i);
/* Bytes of n values, n a multiple of the block; false when it is not or the result would not fit. */
bool quant_bytes(quant_id id, uint64_t n, uint64_t *out);

/* Scalar conversions shared by all. Round to nearest even; NaN stays NaN. Inline because they sit in inner loops: a
 * file compiled for F16C gets the instruction, the others a few integer operations. None of them meets an f32 subnormal
 * on the way, so they do not depend on the caller's flush-to-zero mode (e8m0's 2^-127 is one by value). */
static inline float quant_bits_f32(uint32_t u)
{
    union { uint32_t u; float f; } v = {u};
    return v.f;
}
static inline uint32_t quant_f32_bits(float f)
{
    union { float f; uint32_t u; } v = {f};
    return v.u;
}

static inline float quant_f16_to_f32(uint16_t h)
{
#ifdef __F16C__
    return _cvtsh_ss(h);
#else
    uint32_t m = h & 0x7FFFu, u;
    if (m < 0x0400u) /* subnormal: its mantissa counts units of 2^-24, which is the last place of 0.5 */
        u = quant_f32_bits(quant_bits_f32(0x3F000000u | m) - 0.5f);
    else
        u = (m << 13) + (m < 0x7C00u ? 0x38000000u : 0x70000000u); /* rebias; twice for infinity and NaN */
    return quant_bits_f32(u | (uint32_t)(h & 0x8000u) << 16);
#endif
}

static inline uint16_t quant_f32_to_f16(float f)
{
#ifdef __F16C__
    return _cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT);
#else
    uint32_t u = quant_f32_bits(f), m = u & 0x7FFFFFFFu, r;
    if (m >= 0x47800000u) /* 65536 and more */
        r = m > 0x7F800000u ? 0x7E00u | (m >> 13 & 0x3FFu) : 0x7C00u;
    else if (m < 0x38800000u) /* subnormal or zero: the addition rounds at 2^-24 */
        r = quant_f32_bits(quant_bits_f32(m) + 0.5f) - 0x3F000000u;
    else
        r = (m + 0xFFFu + (m >> 13 & 1) - 0x38000000u) >> 13;
    return (uint16_t)(r | (u >> 16 & 0x8000u));
#endif
}

static inline float quant_bf16_to_f32(uint16_t h)
{
    return quant_bits_f32((uint32_t)h << 16);
}

static inline uint16_t quant_f32_to_bf16(float f)
{
    uint32_t u = quant_f32_bits(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1)) >> 16);
}

/* OCP FP8 E4M3 (fn): 0x7F/0xFF are NaN, there is no infinity. */
static inline float quant_e4m3_to_f32(uint8_t b)
{
    uint32_t m = b & 0x7Fu, sign = (uint32_t)(b & 0x80u) << 24;
    if (m < 8) /* subnormal: units of 2^-9, the last place of 2^14 */
        return quant_bits_f32(sign | quant_f32_bits(quant_bits_f32(0x46800000u | m) - 0x1p14f));
    return quant_bits_f32(sign | (m == 0x7F ? 0x7FC00000u : (m << 20) + 0x3C000000u));
}
static inline float quant_e5m2_to_f32(uint8_t b)
{
    return quant_f16_to_f32((uint16_t)(b << 8));
}
static inline float quant_e8m0_to_f32(uint8_t b) /* 2^(b-127); 255 is NaN */
{
    return quant_bits_f32(b == 0 ? 0x00400000u : b == 255 ? 0x7FC00000u : (uint32_t)b << 23);
}
static inline float quant_e2m1_to_f32(uint8_t nibble)
{
    static const float value[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -.5f, -1, -1.5f, -2, -3, -4, -6};
    return value[nibble & 15];
}
/* Saturating at 448 (E4M3) and 57344 (E5M2), as inference engines store activations; NaN stays NaN. */
uint8_t quant_f32_to_e4m3(float f);
uint8_t quant_f32_to_e5m2(float f);
/* Nearest E2M1 code, ties to the even code, saturating at 6; NaN becomes 0. */
uint8_t quant_f32_to_e2m1(float f);

#endif

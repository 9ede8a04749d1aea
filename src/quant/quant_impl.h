/* quant_impl: what the family files and quant.c share; nobody else includes it. */
#ifndef IMP_QUANT_QUANT_IMPL_H
#define IMP_QUANT_QUANT_IMPL_H

#include <string.h>

#include "base/ck.h"
#include "quant/blocks.h"
#include "quant/quant.h"

/* A family file exports its rows; quant.c lists the families. */
typedef struct quant_family {
    const quant_fmt *row;
    size_t n;
} quant_family;

extern const quant_family quant_plain, quant_legacy, quant_kquants, quant_iquants, quant_ternary, quant_fp4;

/* The head of a row for a block format: its size is that of the struct, which blocks.h asserts. */
#define QUANT_ROW(ID, blk, values) .id = QUANT_##ID, .name = #ID, .block = (values), .bytes = sizeof(blk)

/* Body of a decoder (src, dst, n): runs once a block of `values`, b being an aligned copy and dst the block's place. */
#define QUANT_FOR_BLOCKS(blk, b, values)                                                            \
    const uint8_t *in = src;                                                                        \
    blk b;                                                                                          \
    for (size_t left = n / (values); left > 0 && (memcpy(&b, in, sizeof b), true);                  \
         left--, in += sizeof b, dst += (values))

/* Encoders meet NaN and infinity in bad files: such values count as 0, so that every conversion below is defined. */
static inline float quant_finite(float x)
{
    return (quant_f32_bits(x) & 0x7F800000u) == 0x7F800000u ? 0.0f : x;
}

/* A scale that f16 cannot hold stops at its largest value, because an infinite one would turn the block into NaN. */
static inline uint16_t quant_f32_to_f16_sat(float x)
{
    return quant_f32_to_f16(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x);
}

/* The same, but subnormal scales are rounded away from zero: f16 has few bits there, and integers chosen afterwards can
 * make up for a scale that is too large, not for one that is too small or has vanished. */
static inline uint16_t quant_scale_f16(float x)
{
    uint16_t h = quant_f32_to_f16_sat(x);
    if ((h & 0x7C00) == 0) {
        float got = quant_f16_to_f32(h);
        h = (uint16_t)(h + (x < 0 ? x < got : x > got));
    }
    return h;
}

#endif

/* Plain element types: floats, small floats, integers. Scales, where a file has them, are parts of the weight. */
#include "quant/quant_impl.h"

/* One decoder a type: `T x` is the element read from the file, EXPR its value. */
#define PLAIN_DECODE(name, T, EXPR)                                     \
    static void name(const void *src, float *dst, size_t n)            \
    {                                                                   \
        const uint8_t *s = src;                                         \
        for (size_t i = 0; i < n; i++) {                                \
            T x;                                                        \
            memcpy(&x, s + i * sizeof x, sizeof x);                     \
            dst[i] = (float)(EXPR);                                     \
        }                                                               \
    }

#define PLAIN_ENCODE(name, T, EXPR)                                                 \
    static void name(const float *src, void *dst, size_t n, const float *weight)   \
    {                                                                               \
        (void)weight;                                                               \
        uint8_t *d = dst;                                                           \
        for (size_t i = 0; i < n; i++) {                                            \
            T x = (EXPR);                                                           \
            memcpy(d + i * sizeof x, &x, sizeof x);                                 \
        }                                                                           \
    }

/* A double above FLT_MAX becomes infinity as IEEE says; C leaves that conversion undefined. */
static float f64_to_f32(double x)
{
    if (x >= 0x1.ffffffp127 || x <= -0x1.ffffffp127)
        return quant_bits_f32(x > 0 ? 0x7F800000u : 0xFF800000u);
    return (float)x;
}

PLAIN_DECODE(decode_f16, uint16_t, quant_f16_to_f32(x))
PLAIN_DECODE(decode_bf16, uint16_t, quant_bf16_to_f32(x))
PLAIN_DECODE(decode_f64, double, f64_to_f32(x))
PLAIN_DECODE(decode_i8, int8_t, x)
PLAIN_DECODE(decode_u8, uint8_t, x)
PLAIN_DECODE(decode_i16, int16_t, x)
PLAIN_DECODE(decode_i32, int32_t, x)
PLAIN_DECODE(decode_i64, int64_t, x)
PLAIN_DECODE(decode_bool, uint8_t, x != 0)
PLAIN_DECODE(decode_e4m3, uint8_t, quant_e4m3_to_f32(x))
PLAIN_DECODE(decode_e5m2, uint8_t, quant_e5m2_to_f32(x))
PLAIN_DECODE(decode_e8m0, uint8_t, quant_e8m0_to_f32(x))

PLAIN_ENCODE(encode_f16, uint16_t, quant_f32_to_f16(src[i]))
PLAIN_ENCODE(encode_bf16, uint16_t, quant_f32_to_bf16(src[i]))
PLAIN_ENCODE(encode_f64, double, (double)src[i])
PLAIN_ENCODE(encode_e4m3, uint8_t, quant_f32_to_e4m3(src[i]))
PLAIN_ENCODE(encode_e5m2, uint8_t, quant_f32_to_e5m2(src[i]))

static void decode_f32(const void *src, float *dst, size_t n)
{
    memcpy(dst, src, n * sizeof *dst);
}

static void encode_f32(const float *src, void *dst, size_t n, const float *weight)
{
    (void)weight;
    memcpy(dst, src, n * sizeof *src);
}

static void decode_e2m1(const void *src, float *dst, size_t n)
{
    const uint8_t *s = src;
    for (size_t i = 0; i < n; i += 2, s++) {
        dst[i] = quant_e2m1_to_f32(*s & 15);
        dst[i + 1] = quant_e2m1_to_f32(*s >> 4);
    }
}

static void encode_e2m1(const float *src, void *dst, size_t n, const float *weight)
{
    (void)weight;
    uint8_t *d = dst;
    for (size_t i = 0; i < n; i += 2)
        *d++ = (uint8_t)(quant_f32_to_e2m1(src[i]) | quant_f32_to_e2m1(src[i + 1]) << 4);
}

/* Eight unsigned nibbles an int32, low first; 8 stands for zero. */
static void decode_i4(const void *src, float *dst, size_t n)
{
    const uint8_t *s = src; /* little-endian: byte order is nibble order */
    for (size_t i = 0; i < n; i += 2, s++) {
        dst[i] = (float)((*s & 15) - 8);
        dst[i + 1] = (float)((*s >> 4) - 8);
    }
}

#define PLAIN(ID, n_bytes) .id = QUANT_##ID, .name = #ID, .block = 1, .bytes = (n_bytes)

static const quant_fmt ROWS[] = {
    {PLAIN(F32, 4), .is_float = true, .decode = decode_f32, .encode = encode_f32},
    {PLAIN(F16, 2), .is_float = true, .decode = decode_f16, .encode = encode_f16},
    {PLAIN(BF16, 2), .is_float = true, .decode = decode_bf16, .encode = encode_bf16},
    {PLAIN(F64, 8), .is_float = true, .decode = decode_f64, .encode = encode_f64},
    {PLAIN(I8, 1), .decode = decode_i8},
    {PLAIN(I16, 2), .decode = decode_i16},
    {PLAIN(I32, 4), .decode = decode_i32},
    {PLAIN(I64, 8), .decode = decode_i64},
    {PLAIN(U8, 1), .decode = decode_u8},
    {PLAIN(BOOL, 1), .decode = decode_bool},
    {PLAIN(F8_E4M3, 1), .decode = decode_e4m3, .encode = encode_e4m3},
    {PLAIN(F8_E5M2, 1), .decode = decode_e5m2, .encode = encode_e5m2},
    {PLAIN(E8M0, 1), .decode = decode_e8m0},
    {.id = QUANT_E2M1, .name = "E2M1", .block = 2, .bytes = 1, .decode = decode_e2m1, .encode = encode_e2m1},
    {.id = QUANT_I4, .name = "I4", .block = 8, .bytes = 4, .decode = decode_i4},
};

const quant_family quant_plain = {ROWS, CK_COUNT(ROWS)};

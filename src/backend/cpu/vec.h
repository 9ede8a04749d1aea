/* vec: sixteen floats, whatever the machine. One AVX-512 register, two AVX registers or four SSE registers behind the
 * same functions, so that one body (ops_body.h) serves all instruction sets and sums in the same lane order on each.
 * Included only by files that are compiled for one instruction set. Pure; nothing fails. */
#ifndef IMP_BACKEND_CPU_VEC_H
#define IMP_BACKEND_CPU_VEC_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "quant/quant.h"

#define VEC_INLINE static inline __attribute__((always_inline, unused))

#if defined(__AVX512F__)
#define VEC_PARTS 1
#define VEC_BYTES 64
#elif defined(__AVX2__)
#define VEC_PARTS 2
#define VEC_BYTES 32
#else
#define VEC_PARTS 4
#define VEC_BYTES 16
#endif
#define VEC_EACH for (int vec_i = 0; vec_i < VEC_PARTS; vec_i++)
#define VEC_LANES (16 / VEC_PARTS)

typedef float vec_f __attribute__((vector_size(VEC_BYTES)));
typedef int32_t vec_i32 __attribute__((vector_size(VEC_BYTES)));
typedef float vec_fu __attribute__((vector_size(VEC_BYTES), aligned(4), may_alias));
typedef int32_t vec_iu __attribute__((vector_size(VEC_BYTES), aligned(4), may_alias));

typedef struct v16 {
    vec_f r[VEC_PARTS];
} v16;
typedef struct i16v {
    vec_i32 r[VEC_PARTS];
} i16v;

VEC_INLINE v16 v_set(float f)
{
    v16 o;
    VEC_EACH o.r[vec_i] = f - (vec_f){0};
    return o;
}
VEC_INLINE v16 v_load(const float *p)
{
    v16 o;
    VEC_EACH o.r[vec_i] = *(const vec_fu *)(p + vec_i * VEC_LANES);
    return o;
}
VEC_INLINE void v_store(float *p, v16 v)
{
    VEC_EACH *(vec_fu *)(p + vec_i * VEC_LANES) = v.r[vec_i];
}
/* The first n of sixteen; the rest reads as zero. */
VEC_INLINE v16 v_load_n(const float *p, long n)
{
    if (n >= 16)
        return v_load(p);
    float t[16] = {0};
    memcpy(t, p, (size_t)n * sizeof *p);
    return v_load(t);
}
VEC_INLINE void v_store_n(float *p, v16 v, long n)
{
    if (n >= 16) {
        v_store(p, v);
        return;
    }
    float t[16];
    v_store(t, v);
    memcpy(p, t, (size_t)n * sizeof *p);
}
#define VEC_BINARY(name, op)               \
    VEC_INLINE v16 name(v16 a, v16 b)      \
    {                                      \
        v16 o;                             \
        VEC_EACH o.r[vec_i] = a.r[vec_i] op b.r[vec_i]; \
        return o;                          \
    }
VEC_BINARY(v_add, +)
VEC_BINARY(v_sub, -)
VEC_BINARY(v_mul, *)
VEC_BINARY(v_div, /)
#undef VEC_BINARY

/* a * b + c; rounded once where the machine can (all but the SSE build). */
VEC_INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
    v16 o;
#if defined(__AVX512F__)
    o.r[0] = (vec_f)_mm512_fmadd_ps((__m512)a.r[0], (__m512)b.r[0], (__m512)c.r[0]);
#elif defined(__FMA__)
    VEC_EACH o.r[vec_i] = (vec_f)_mm256_fmadd_ps((__m256)a.r[vec_i], (__m256)b.r[vec_i], (__m256)c.r[vec_i]);
#else
    VEC_EACH o.r[vec_i] = a.r[vec_i] * b.r[vec_i] + c.r[vec_i];
#endif
    return o;
}
VEC_INLINE v16 v_max(v16 a, v16 b)
{
    v16 o;
#if defined(__AVX512F__)
    o.r[0] = (vec_f)_mm512_max_ps((__m512)a.r[0], (__m512)b.r[0]);
#elif defined(__AVX2__)
    VEC_EACH o.r[vec_i] = (vec_f)_mm256_max_ps((__m256)a.r[vec_i], (__m256)b.r[vec_i]);
#else
    VEC_EACH o.r[vec_i] = (vec_f)_mm_max_ps((__m128)a.r[vec_i], (__m128)b.r[vec_i]);
#endif
    return o;
}
VEC_INLINE v16 v_min(v16 a, v16 b)
{
    v16 o;
#if defined(__AVX512F__)
    o.r[0] = (vec_f)_mm512_min_ps((__m512)a.r[0], (__m512)b.r[0]);
#elif defined(__AVX2__)
    VEC_EACH o.r[vec_i] = (vec_f)_mm256_min_ps((__m256)a.r[vec_i], (__m256)b.r[vec_i]);
#else
    VEC_EACH o.r[vec_i] = (vec_f)_mm_min_ps((__m128)a.r[vec_i], (__m128)b.r[vec_i]);
#endif
    return o;
}
/* a where mask (all ones or all zeros a lane), else b. */
VEC_INLINE v16 v_select(i16v mask, v16 a, v16 b)
{
    v16 o;
    VEC_EACH o.r[vec_i] = (vec_f)(((vec_i32)a.r[vec_i] & mask.r[vec_i]) | ((vec_i32)b.r[vec_i] & ~mask.r[vec_i]));
    return o;
}
VEC_INLINE i16v v_less(v16 a, v16 b)
{
    i16v o;
    VEC_EACH o.r[vec_i] = (vec_i32)(a.r[vec_i] < b.r[vec_i]);
    return o;
}
VEC_INLINE v16 v_abs(v16 a)
{
    v16 o;
    VEC_EACH o.r[vec_i] = (vec_f)((vec_i32)a.r[vec_i] & 0x7FFFFFFF);
    return o;
}
/* Lane numbers plus base, and a comparison that makes masks of them. */
VEC_INLINE i16v v_iota(int32_t base)
{
    static const int32_t lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    i16v o;
    VEC_EACH o.r[vec_i] = *(const vec_iu *)(lane + vec_i * VEC_LANES) + base;
    return o;
}
/* Bit i of bits as a mask of lane i. */
VEC_INLINE i16v v_bits(uint32_t bits)
{
    static const int32_t lane[16] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
    i16v o;
    VEC_EACH
    {
        vec_i32 one = *(const vec_iu *)(lane + vec_i * VEC_LANES);
        o.r[vec_i] = (vec_i32)((one & (int32_t)bits) == one);
    }
    return o;
}
VEC_INLINE i16v v_in_range(i16v i, int32_t lo, int32_t hi)
{
    i16v o;
    VEC_EACH o.r[vec_i] = (vec_i32)(i.r[vec_i] >= lo) & (vec_i32)(i.r[vec_i] < hi);
    return o;
}

/* Sums and maxima over lanes, always as lane i with i+8, then +4, +2, +1. */
VEC_INLINE float v_sum(v16 v)
{
#if defined(__AVX512F__)
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256((__m512)v.r[0]), _mm512_extractf32x8_ps((__m512)v.r[0], 1));
#elif defined(__AVX2__)
    __m256 a = (__m256)(v.r[0] + v.r[1]);
#endif
#if defined(__AVX2__)
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
#else
    __m128 b = (__m128)((v.r[0] + v.r[2]) + (v.r[1] + v.r[3]));
#endif
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}
VEC_INLINE float v_max_lane(v16 v)
{
    float t[16];
    v_store(t, v);
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++)
            t[i] = t[i + n] > t[i] ? t[i + n] : t[i];
    return t[0];
}

/* e^x: 2^n * p(f), |f| <= ln2/2; relative error below 2e-7; 0 below -87.3, infinity above 88.7, NaN stays NaN. */
VEC_INLINE v16 v_exp(v16 x)
{
    v16 c = v_min(v_set(89.0f), v_max(v_set(-88.0f), x)); /* in this operand order a NaN stays */
    v16 n = v_add(v_mul(c, v_set(1.44269504f)), v_set(12582912.0f)), k = v_sub(n, v_set(12582912.0f));
    v16 f = v_sub(v_sub(c, v_mul(k, v_set(0.693145752f))), v_mul(k, v_set(1.42860677e-6f)));
    v16 p = v_set(1.98412698e-4f);
    p = v_fma(p, f, v_set(1.38888889e-3f));
    p = v_fma(p, f, v_set(8.33333377e-3f));
    p = v_fma(p, f, v_set(4.16666679e-2f));
    p = v_fma(p, f, v_set(1.66666672e-1f));
    p = v_fma(p, f, v_set(0.5f));
    p = v_fma(p, f, v_set(1.0f));
    p = v_fma(p, f, v_set(1.0f));
    v16 half, o;
    VEC_EACH
    { /* in two factors, since 2^128 is not a float */
        vec_i32 e = (vec_i32)n.r[vec_i] - 0x4B400000, h = e >> 1;
        half.r[vec_i] = (vec_f)((h + 127) << 23);
        o.r[vec_i] = p.r[vec_i] * half.r[vec_i] * (vec_f)((e - h + 127) << 23);
    }
    return v_select(v_less(x, v_set(-87.3f)), v_set(0), o);
}

VEC_INLINE v16 v_sigmoid(v16 x) { return v_div(v_set(1), v_add(v_set(1), v_exp(v_sub(v_set(0), x)))); }

/* tanh, relative error below 1e-6: near zero a series, else from e^-2|x|. */
VEC_INLINE v16 v_tanh(v16 x)
{
    v16 a = v_abs(x), e = v_exp(v_mul(a, v_set(-2)));
    v16 far = v_div(v_sub(v_set(1), e), v_add(v_set(1), e)), s = v_mul(x, x);
    v16 p = v_fma(v_set(0.0218694882f), s, v_set(-0.0539682540f));
    p = v_fma(p, s, v_set(0.133333340f));
    p = v_fma(p, s, v_set(-0.333333343f));
    v16 near = v_fma(v_mul(v_mul(x, s), p), v_set(1), x), o;
    VEC_EACH o.r[vec_i] = (vec_f)((vec_i32)far.r[vec_i] | ((vec_i32)x.r[vec_i] & (int32_t)0x80000000));
    return v_select(v_less(a, v_set(0.25f)), near, o);
}

/* Sixteen values of an element type to f32, exactly. */
VEC_INLINE v16 v_load_f16(const uint16_t *p)
{
    v16 o;
#if defined(__AVX512F__)
    o.r[0] = (vec_f)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__F16C__)
    VEC_EACH o.r[vec_i] = (vec_f)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8 * vec_i)));
#else
    float t[16];
    for (int i = 0; i < 16; i++)
        t[i] = quant_f16_to_f32(p[i]);
    o = v_load(t);
#endif
    return o;
}
VEC_INLINE v16 v_load_bf16(const uint16_t *p)
{
    v16 o;
#if defined(__AVX512F__)
    o.r[0] = (vec_f)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#elif defined(__AVX2__)
    VEC_EACH {
        __m128i bits = _mm_loadu_si128((const __m128i *)(p + 8 * vec_i));
        o.r[vec_i] = (vec_f)_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
    }
#else
    float t[16];
    for (int i = 0; i < 16; i++)
        t[i] = quant_bf16_to_f32(p[i]);
    o = v_load(t);
#endif
    return o;
}
VEC_INLINE void v_store_f16(uint16_t *p, v16 v)
{
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)v.r[0], _MM_FROUND_TO_NEAREST_INT));
#else
    float t[16];
    v_store(t, v);
    for (int i = 0; i < 16; i++)
        p[i] = quant_f32_to_f16(t[i]);
#endif
}
VEC_INLINE v16 v_load_type(quant_id type, const void *p, long i)
{
    return type == QUANT_F32   ? v_load((const float *)p + i)
           : type == QUANT_F16 ? v_load_f16((const uint16_t *)p + i)
                               : v_load_bf16((const uint16_t *)p + i);
}

#endif

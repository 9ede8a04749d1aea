/* The AVX-512 kernels (ops_avx512.c, mm_vnni.c, mm_amx.c) with the instructions that they use in plain C, lane by lane
 * as Intel's Intrinsics Guide has them, so that they are tested bit for bit on machines with AVX2 alone. Defines
 * cpu_ops_avx512_emulated, cpu_mm_vnni_emulated and cpu_mm_amx_emulated. What the kernels newly use must be added here:
 * a name without a line below is a call of the real instruction, which the compiler refuses. */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "amx_emulated.h"
#include "backend/cpu/cpu.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi2")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi" /* 64-byte vectors are passed in memory here: nobody else calls these */

typedef union e512 {
    __m512i i;
    __m512 f;
    __m256i half[2];
    __m256 half_f[2];
    __m128i quarter[4];
    int8_t i8[64];
    uint8_t u8[64];
    uint16_t u16[32];
    int32_t i32[16];
    uint32_t u32[16];
    float f32[16];
} e512;

/* Calls, and plain optimisation: unrolled and inlined, sixty kernels would take the compiler minutes. */
#pragma GCC optimize("O0")
#define E_FN static __attribute__((noinline, unused))
#define E_LANES(n) for (int k = 0; k < (n); k++)
#define E_INT(name, params, n, lane)                    \
    E_FN __m512i e_##name params               \
    {                                                   \
        e512 x = {.i = a}, y = {.i = b}, o;             \
        (void)x, (void)y;                               \
        E_LANES(n) lane;                                \
        return o.i;                                     \
    }
#define E_FLOAT(name, lane)                             \
    E_FN __m512 e_##name(__m512 a, __m512 b)   \
    {                                                   \
        e512 x = {.f = a}, y = {.f = b}, o;             \
        E_LANES(16) lane;                               \
        return o.f;                                     \
    }
#define TWO (__m512i a, __m512i b)

E_INT(add_epi32, TWO, 16, o.u32[k] = x.u32[k] + y.u32[k])
E_INT(sub_epi32, TWO, 16, o.u32[k] = x.u32[k] - y.u32[k])
E_INT(sub_epi8, TWO, 64, o.u8[k] = (uint8_t)(x.u8[k] - y.u8[k]))
E_INT(and_si512, TWO, 16, o.u32[k] = x.u32[k] & y.u32[k])
E_INT(or_si512, TWO, 16, o.u32[k] = x.u32[k] | y.u32[k])
E_INT(avg_epu8, TWO, 64, o.u8[k] = (uint8_t)((x.u8[k] + y.u8[k] + 1) >> 1))
E_INT(max_epi32, TWO, 16, o.i32[k] = x.i32[k] > y.i32[k] ? x.i32[k] : y.i32[k])
E_INT(shuffle_epi8, TWO, 64, o.u8[k] = y.u8[k] & 0x80 ? 0 : x.u8[k / 16 * 16 + (y.u8[k] & 15)])
E_FLOAT(add_ps, o.f32[k] = x.f32[k] + y.f32[k])
E_FLOAT(mul_ps, o.f32[k] = x.f32[k] * y.f32[k])
E_FLOAT(max_ps, o.f32[k] = x.f32[k] > y.f32[k] ? x.f32[k] : y.f32[k])
E_FLOAT(min_ps, o.f32[k] = x.f32[k] < y.f32[k] ? x.f32[k] : y.f32[k])

#define E_SHIFT(name, count, n, lane)                        \
    E_FN __m512i e_##name(__m512i a, count)         \
    {                                                        \
        e512 x = {.i = a}, o;                                \
        E_LANES(n) lane;                                     \
        return o.i;                                          \
    }
E_SHIFT(slli_epi32, unsigned c, 16, o.u32[k] = c > 31 ? 0 : x.u32[k] << c)
E_SHIFT(srli_epi32, unsigned c, 16, o.u32[k] = c > 31 ? 0 : x.u32[k] >> c)
E_SHIFT(srai_epi32, unsigned c, 16, o.i32[k] = x.i32[k] >> (c > 31 ? 31 : c))
E_SHIFT(slli_epi16, unsigned c, 32, o.u16[k] = (uint16_t)(c > 15 ? 0 : x.u16[k] << c))
E_SHIFT(srli_epi16, unsigned c, 32, o.u16[k] = (uint16_t)(c > 15 ? 0 : x.u16[k] >> c))
E_FN __m512i e_sll_epi32(__m512i a, __m128i c)
{
    uint64_t n;
    memcpy(&n, &c, sizeof n);
    return e_slli_epi32(a, n > 31 ? 32 : (unsigned)n);
}

E_FN __m512 e_fmadd_ps(__m512 a, __m512 b, __m512 c)
{
    e512 x = {.f = a}, y = {.f = b}, z = {.f = c}, o;
    E_LANES(16) o.f32[k] = fmaf(x.f32[k], y.f32[k], z.f32[k]);
    return o.f;
}
E_FN __m512 e_fnmadd_ps(__m512 a, __m512 b, __m512 c)
{
    e512 x = {.f = a}, y = {.f = b}, z = {.f = c}, o;
    E_LANES(16) o.f32[k] = fmaf(-x.f32[k], y.f32[k], z.f32[k]);
    return o.f;
}
/* a: sums; b: unsigned bytes; c: signed bytes. */
E_FN __m512i e_dpbusd_epi32(__m512i a, __m512i b, __m512i c)
{
    e512 x = {.i = a}, y = {.i = b}, z = {.i = c};
    E_LANES(64) x.u32[k / 4] += (uint32_t)(y.u8[k] * z.i8[k]);
    return x.i;
}

E_FN __m512i e_set1_epi8(char v)
{
    e512 o;
    memset(&o, v, sizeof o);
    return o.i;
}
E_FN __m512i e_set1_epi32(int v)
{
    e512 o;
    E_LANES(16) o.i32[k] = v;
    return o.i;
}
E_FN __m512 e_set1_ps(float v)
{
    e512 o;
    E_LANES(16) o.f32[k] = v;
    return o.f;
}
E_FN __m512 e_setzero_ps(void) { return e_set1_ps(0); }
E_FN __m512i e_loadu_si512(const void *p)
{
    e512 o;
    memcpy(&o, p, sizeof o);
    return o.i;
}
E_FN void e_store_si512(void *p, __m512i a) { memcpy(p, &a, sizeof a); }
E_FN __m512 e_load_ps(const void *p) { return (e512){.i = e_loadu_si512(p)}.f; }
E_FN void e_store_ps(void *p, __m512 a) { memcpy(p, &a, sizeof a); }
E_FN __m512 e_maskz_loadu_ps(__mmask16 m, const void *p)
{
    e512 o;
    E_LANES(16) o.f32[k] = m >> k & 1 ? ((const float *)p)[k] : 0;
    return o.f;
}
E_FN void e_mask_storeu_ps(void *p, __mmask16 m, __m512 a)
{
    e512 x = {.f = a};
    for (int k = 0; k < 16; k++)
        if (m >> k & 1)
            ((float *)p)[k] = x.f32[k];
}
E_FN __m512i e_broadcast_i32x4(__m128i a) { return (e512){.quarter = {a, a, a, a}}.i; }
E_FN __m512i e_zextsi256_si512(__m256i a) { return (e512){.half = {a, _mm256_setzero_si256()}}.i; }
E_FN __m512 e_castsi512_ps(__m512i a) { return (e512){.i = a}.f; }
E_FN __m256 e_castps512_ps256(__m512 a) { return (e512){.f = a}.half_f[0]; }
E_FN __m256 e_extractf32x8_ps(__m512 a, int i) { return (e512){.f = a}.half_f[i]; }

#define E_FROM(name, type, from, lane)                  \
    E_FN __m512i e_##name(type a)              \
    {                                                   \
        from x[16];                                     \
        e512 o;                                         \
        memcpy(x, &a, sizeof a);                        \
        E_LANES(16) o.i32[k] = lane;                    \
        return o.i;                                     \
    }
E_FROM(cvtepi8_epi32, __m128i, int8_t, x[k])
E_FROM(cvtepu8_epi32, __m128i, uint8_t, x[k])
E_FROM(cvtepu16_epi32, __m256i, uint16_t, x[k])
E_FROM(cvtps_epi32, __m512, float, _mm_cvtss_si32(_mm_set_ss(x[k])))
E_FN __m512 e_cvtepi32_ps(__m512i a)
{
    e512 x = {.i = a}, o;
    E_LANES(16) o.f32[k] = (float)x.i32[k];
    return o.f;
}
E_FN __m128i e_cvtepi32_epi8(__m512i a)
{
    e512 x = {.i = a}, o;
    E_LANES(16) o.u8[k] = (uint8_t)x.u32[k];
    return o.quarter[0];
}
E_FN __m128i e256_cvtepi32_epi8(__m256i a) /* eight bytes, then zeros */
{
    e512 x = {.half = {a, a}}, o = {.i = e_set1_epi32(0)};
    E_LANES(8) o.u8[k] = (uint8_t)x.u32[k];
    return o.quarter[0];
}
E_FN __m256i e_cvtepi32_epi16(__m512i a)
{
    e512 x = {.i = a}, o;
    E_LANES(16) o.u16[k] = (uint16_t)x.u32[k];
    return o.half[0];
}
E_FN __m512 e_cvtph_ps(__m256i a)
{
    e512 x = {.half = {a, a}};
    return (e512){.half_f = {_mm256_cvtph_ps(x.quarter[0]), _mm256_cvtph_ps(x.quarter[1])}}.f;
}
#define e_cvtps_ph(a, r) e_to_half(a)
E_FN __m256i e_to_half(__m512 a)
{
    e512 x = {.f = a};
    return (e512){.quarter = {_mm256_cvtps_ph(x.half_f[0], _MM_FROUND_TO_NEAREST_INT),
                              _mm256_cvtps_ph(x.half_f[1], _MM_FROUND_TO_NEAREST_INT)}}.half[0];
}
E_FN int e_reduce_add_epi32(__m512i a)
{
    e512 x = {.i = a};
    uint32_t sum = 0;
    E_LANES(16) sum += x.u32[k];
    return (int)sum;
}
E_FN int e_reduce_max_epi32(__m512i a)
{
    e512 x = {.i = a};
    int max = x.i32[0];
    E_LANES(16) max = x.i32[k] > max ? x.i32[k] : max;
    return max;
}

#undef _mm512_add_epi32
#define _mm512_add_epi32 e_add_epi32
#undef _mm512_sub_epi32
#define _mm512_sub_epi32 e_sub_epi32
#undef _mm512_sub_epi8
#define _mm512_sub_epi8 e_sub_epi8
#undef _mm512_and_si512
#define _mm512_and_si512 e_and_si512
#undef _mm512_or_si512
#define _mm512_or_si512 e_or_si512
#undef _mm512_avg_epu8
#define _mm512_avg_epu8 e_avg_epu8
#undef _mm512_max_epi32
#define _mm512_max_epi32 e_max_epi32
#undef _mm512_shuffle_epi8
#define _mm512_shuffle_epi8 e_shuffle_epi8
#undef _mm512_add_ps
#define _mm512_add_ps e_add_ps
#undef _mm512_mul_ps
#define _mm512_mul_ps e_mul_ps
#undef _mm512_max_ps
#define _mm512_max_ps e_max_ps
#undef _mm512_min_ps
#define _mm512_min_ps e_min_ps
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 e_slli_epi32
#undef _mm512_srli_epi32
#define _mm512_srli_epi32 e_srli_epi32
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 e_srai_epi32
#undef _mm512_slli_epi16
#define _mm512_slli_epi16 e_slli_epi16
#undef _mm512_srli_epi16
#define _mm512_srli_epi16 e_srli_epi16
#undef _mm512_sll_epi32
#define _mm512_sll_epi32 e_sll_epi32
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps e_fmadd_ps
#undef _mm512_fnmadd_ps
#define _mm512_fnmadd_ps e_fnmadd_ps
#undef _mm512_dpbusd_epi32
#define _mm512_dpbusd_epi32 e_dpbusd_epi32
#undef _mm512_set1_epi8
#define _mm512_set1_epi8 e_set1_epi8
#undef _mm512_set1_epi32
#define _mm512_set1_epi32 e_set1_epi32
#undef _mm512_set1_ps
#define _mm512_set1_ps e_set1_ps
#undef _mm512_setzero_ps
#define _mm512_setzero_ps e_setzero_ps
#undef _mm512_loadu_si512
#define _mm512_loadu_si512 e_loadu_si512
#undef _mm512_load_si512
#define _mm512_load_si512 e_loadu_si512
#undef _mm512_store_si512
#define _mm512_store_si512 e_store_si512
#undef _mm512_load_ps
#define _mm512_load_ps e_load_ps
#undef _mm512_store_ps
#define _mm512_store_ps e_store_ps
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps e_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps e_mask_storeu_ps
#undef _mm512_broadcast_i32x4
#define _mm512_broadcast_i32x4 e_broadcast_i32x4
#undef _mm512_zextsi256_si512
#define _mm512_zextsi256_si512 e_zextsi256_si512
#undef _mm512_castsi512_ps
#define _mm512_castsi512_ps e_castsi512_ps
#undef _mm512_castps512_ps256
#define _mm512_castps512_ps256 e_castps512_ps256
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps e_extractf32x8_ps
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32 e_cvtepi8_epi32
#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi32 e_cvtepu8_epi32
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 e_cvtepu16_epi32
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32 e_cvtps_epi32
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps e_cvtepi32_ps
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8 e_cvtepi32_epi8
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16 e_cvtepi32_epi16
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps e_cvtph_ps
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph e_cvtps_ph
#undef _mm512_reduce_add_epi32
#define _mm512_reduce_add_epi32 e_reduce_add_epi32
#undef _mm512_reduce_max_epi32
#define _mm512_reduce_max_epi32 e_reduce_max_epi32
#undef _mm256_cvtepi32_epi8
#define _mm256_cvtepi32_epi8 e256_cvtepi32_epi8

#define __AVX512F__ 1
#define cpu_ops_avx512 cpu_ops_avx512_emulated
#define cpu_mm_vnni cpu_mm_vnni_emulated
#define cpu_mm_amx cpu_mm_amx_emulated
#include "../../src/backend/cpu/ops_avx512.c"
#include "../../src/backend/cpu/mm_vnni.c"
#include "../../src/backend/cpu/mm_amx.c"
#undef cpu_ops_avx512
#undef cpu_mm_vnni
#undef cpu_mm_amx
#undef __AVX512F__
#pragma GCC diagnostic pop
#pragma GCC pop_options
extern const cpu_ops cpu_ops_avx512;
extern const cpu_mm cpu_mm_vnni, cpu_mm_amx;

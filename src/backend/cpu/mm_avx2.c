/* mm_avx2: eight rows x one, two or four tokens a pass. VPMADDUBSW saturates at 16 bits, so formats with full bytes give
 * their sign to the activations; the others stay below 64 and cannot reach it. */
#include "backend/cpu/unpack.h"

#define MM_SIGNED 1
#define MM_MAX 4

static inline __attribute__((always_inline)) __m256i mm_dot(__m256i acc, __m256i w, const int8_t *a, int zero)
{
    int32_t v;
    __builtin_memcpy(&v, a, 4);
    __m256i x = _mm256_set1_epi32(v);
    if (zero == 128) { /* |w| <= 128, |x| <= 127: two products fit */
        w = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
        x = _mm256_sign_epi8(x, w);
        w = _mm256_abs_epi8(w);
    }
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
}

/* Pairs of nibbles as their nibbles, wider ones as 16-bit values, since 144 * 128 twice would not fit. */
static inline __attribute__((always_inline)) __m256i mm_dot_pairs(__m256i acc, __m256i p, const int8_t *a, int bits, int centre)
{
    int32_t v;
    __builtin_memcpy(&v, a, 4);
    __m256i x = _mm256_set1_epi32(v);
    if (bits <= 4) {
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u_low(p), x), _mm256_set1_epi16(1)));
        return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u_high(p), x), _mm256_set1_epi16(16)));
    }
    __m256i even = _mm256_and_si256(p, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(p, 8), c = _mm256_set1_epi16((short)centre);
    __m256i x_even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), x_odd = _mm256_srai_epi16(x, 8);
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_sub_epi16(even, c), x_even));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_sub_epi16(odd, c), x_odd));
}

#include "backend/cpu/mm_body.h"

MM_FORMATS(MM_KERNEL)

const cpu_mm cpu_mm_avx2 = {.isa = "AVX2", .fn = {MM_TABLE(mm22), MM_TABLE(mm12)}};

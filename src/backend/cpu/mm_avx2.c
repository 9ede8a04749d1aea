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

#include "backend/cpu/mm_body.h"

MM_FORMATS(MM_KERNEL)

const cpu_mm cpu_mm_avx2 = {.isa = "AVX2", .fn = MM_TABLE(mm)};

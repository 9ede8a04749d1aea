/* mm_vnni: sixteen rows x one, two or eight tokens a pass, VPDPBUSD. A line of a panel is one register. */
#include "backend/cpu/unpack.h"

#define MM_MAX 8

/* a: four activations, broadcast to every row. */
static inline __attribute__((always_inline)) __m512i mm_dot(__m512i acc, __m512i w, const int8_t *a)
{
    int32_t v;
    __builtin_memcpy(&v, a, 4);
    return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(v));
}

#include "backend/cpu/mm_body.h"

MM_FORMATS(MM_KERNEL)

const cpu_mm cpu_mm_vnni = {.isa = "AVX-512 VNNI", .fn = {MM_TABLE(mm22), MM_TABLE(mm12)}};

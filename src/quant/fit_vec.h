/* fit_vec: the few vector operations of the encoders; private to src/quant. */
#ifndef IMP_QUANT_FIT_VEC_H
#define IMP_QUANT_FIT_VEC_H

#include <stdint.h>
#include <string.h>

/* Four lanes, which every x86-64 has; GCC and Clang both lower this to plain SSE2. */
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t v4i __attribute__((vector_size(16)));

static inline v4 v_load(const float *p)
{
    v4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline v4 v_splat(float f)
{
    return (v4){f, f, f, f};
}

static inline v4 v_pick(v4i mask, v4 a, v4 b)
{
    return (v4)(((v4i)a & mask) | ((v4i)b & ~mask));
}

static inline float v_sum(v4 v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}

/* 1/d, or 0 for what no f16 scale can represent, which keeps products in range. */
static inline float fit_inverse(float d)
{
    return d > 1e-12f || d < -1e-12f ? 1 / d : 0;
}

#endif

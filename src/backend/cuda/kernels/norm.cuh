/* norm: a row normalised by a block of 256 threads, the same bits in every kernel that does it: the order in which
 * squares are added, and two products, each rounded, that nothing is added to, so that no compiler fuses them here and
 * not there. Where the columns are a multiple of 4, thread t has columns 4t .. 4t + 3 of every 1,024, in order. */
#ifndef IMP_CUDA_NORM_CUH
#define IMP_CUDA_NORM_CUH

#include "ptx.cuh"

/* The thread's columns of a row of n, n <= 1024 * N, zeros past them; there: or nothing but zeros. */
template <int N> DEV void load_part(float4 *v, const float *src, u32 n, u32 tid, bool there = true)
{
#pragma unroll
    for (int j = 0; j < N; j++)
        v[j] = there && tid * 4 + 1024u * j < n ? *(const float4 *)(src + tid * 4 + 1024 * j) : make_float4(0, 0, 0, 0);
}

DEV float add_squares(float s, float4 v)
{
    s = fmaf(v.x, v.x, s), s = fmaf(v.y, v.y, s);
    return fmaf(v.w, v.w, fmaf(v.z, v.z, s));
}
/* s: of all squares; then of the thread's. */
DEV float rms_of_all(float s, u32 n, float eps) { return rsqrtf(__fdividef(s, (float)n) + eps); }
DEV float rms_of_sum(float s, u32 n, float eps, float *red) { return rms_of_all(block_sum(s, red), n, eps); }

/* 1 / rms of a row that the threads have in v; red: 8 floats. */
template <int N> DEV float rms_of(const float4 *v, u32 n, float eps, float *red)
{
    float s = 0;
#pragma unroll
    for (int j = 0; j < N; j++)
        s = add_squares(s, v[j]);
    return rms_of_sum(s, n, eps, red);
}

/* The same of a row in memory, of any length. */
DEV float row_rms(const float *src, u32 n, float eps, float *red)
{
    float s = 0;
    if (n % 4 == 0) {
        for (u32 i = threadIdx.x * 4; i < n; i += 1024)
            s = add_squares(s, *(const float4 *)(src + i));
    } else {
        for (u32 i = threadIdx.x; i < n; i += 256)
            s = fmaf(src[i], src[i], s);
    }
    return rms_of_sum(s, n, eps, red);
}

/* Weights as they multiply, and values normalised by them. */
DEV float4 plus(float4 a, float b) { return make_float4(a.x + b, a.y + b, a.z + b, a.w + b); }
DEV float normed(float v, float scale, float w) { return v * scale * w; }
DEV float4 normed(float4 v, float scale, float4 w)
{
    return make_float4(normed(v.x, scale, w.x), normed(v.y, scale, w.y), normed(v.z, scale, w.z),
                       normed(v.w, scale, w.w));
}

/* 1 / the deviation of a row over 256 threads, and its mean: LayerNorm's. */
DEV float row_deviation(const float *src, u32 n, float eps, float *red, float &mean)
{
    float s = 0;
    for (u32 i = threadIdx.x; i < n; i += 256)
        s += src[i];
    mean = block_sum(s, red) / (float)n;
    s = 0;
    for (u32 i = threadIdx.x; i < n; i += 256)
        s += (src[i] - mean) * (src[i] - mean);
    return rms_of_sum(s, n, eps, red);
}

#endif

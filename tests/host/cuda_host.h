/* cuda_host: the words of CUDA C++ that the kernels use, for a host's compiler: qualifiers, vector types, places of
 * threads, warps' functions, arithmetic. What makes threads meet is simt.h's. */
#ifndef CUDA_HOST_H
#define CUDA_HOST_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "simt.h"

#define __global__
#define __device__
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...) /* driver_host.c knows */
#define __align__(n) __attribute__((aligned(n)))
#define threadIdx (simt_me->thread)
#define blockIdx (simt_me->block)
#define gridDim (simt_me->grid)

struct __align__(8) uint2 { uint32_t x, y; };
struct __align__(8) int2 { int32_t x, y; };
struct __align__(16) uint4 { uint32_t x, y, z, w; };
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
static inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

/* An array (or a struct: no dimensions) that a kernel declares as shared: a reference to what its block has of it. */
#define SHARED(name, type, dimensions)                                                                                 \
    static const char of_##name = 0;                                                                                   \
    auto &name = *(type(*) dimensions)simt_static(&of_##name, sizeof(type dimensions))

/* ---- bits and numbers ---- */
template <class To, class From> static inline To bits_as(From v)
{
    static_assert(sizeof(To) == sizeof(From), "of one size");
    To r;
    memcpy(&r, &v, sizeof r);
    return r;
}
static inline uint32_t __float_as_uint(float f) { return bits_as<uint32_t>(f); }
static inline float __uint_as_float(uint32_t u) { return bits_as<float>(u); }
static inline float __int_as_float(int32_t i) { return bits_as<float>(i); }
static inline int __popc(uint32_t v) { return __builtin_popcount(v); }
static inline int __clz(int v) { return v ? __builtin_clz((uint32_t)v) : 32; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
/* Compiled with -ffp-contract=off: what is not fmaf is rounded twice anyway. */
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return (uint64_t)((unsigned __int128)a * b >> 64); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __ull2double_rn(uint64_t v) { return (double)v; }
static inline float __double2float_rn(double v) { return (float)v; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fdividef(float a, float b) { return a / b; }
#define __expf expf /* libm has one of that name, which its header declares */
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
template <class T> static inline T max(T a, T b) { return a > b ? a : b; }
template <class T> static inline T min(T a, T b) { return a < b ? a : b; }

/* ---- memory: nothing runs at the same time ---- */
template <class T> static inline T __ldcg(const T *p) { return *p; }
template <class T> static inline void __stcg(T *p, T v) { *p = v; }
static inline void __threadfence(void) {}
template <class T, class V> static inline T atomicAdd(T *p, V v) { T was = *p; *p = was + (T)v; return was; }
template <class T, class V> static inline T atomicMax(T *p, V v) { T was = *p; *p = max(was, (T)v); return was; }
template <class T, class V> static inline T atomicMin(T *p, V v) { T was = *p; *p = min(was, (T)v); return was; }

/* ---- warps and blocks ---- */
static inline void __syncthreads(void) { simt_barrier(0, 0, true); }
static inline uint32_t __activemask(void) { return simt_warp_alive(); }

/* Every lane of mask gets f of all lanes' words. */
template <class F> static void each_lane(simt_lane *lane, uint32_t mask, F f)
{
    for (uint32_t i = 0; i < 32; i++)
        if (mask >> i & 1)
            f(lane, i);
}
static inline void no_exchange(simt_lane *lane, uint32_t mask) { (void)lane, (void)mask; }
static inline void __syncwarp(uint32_t mask = ~0u) { simt_meet(mask, no_exchange); }

/* in[2]: the lane whose value is wanted. */
static inline void exchange(simt_lane *lane, uint32_t mask)
{
    each_lane(lane, mask, [mask](simt_lane *l, uint32_t i) {
        const uint32_t from = l[i].in[2];
        if (!(mask >> from & 1))
            simt_fail("lane %u wants what lane %u has, of lanes %08x", i, from, mask);
        l[i].out[0] = l[from].in[0], l[i].out[1] = l[from].in[1];
    });
}
template <class T> static inline T shuffle(uint32_t mask, T v, uint32_t from)
{
    static_assert(sizeof v <= 8, "a register or two");
    simt_lane *l = simt_in();
    memcpy(l->in, &v, sizeof v);
    l->in[2] = from;
    memcpy(&v, simt_meet(mask, exchange), sizeof v);
    return v;
}
/* Lanes past the ends of a group of `width` keep their own. */
template <class T> static inline T __shfl_sync(uint32_t mask, T v, uint32_t from, uint32_t width = 32)
{
    return shuffle(mask, v, (simt_me->lane & ~(width - 1)) | (from & (width - 1)));
}
template <class T> static inline T __shfl_xor_sync(uint32_t mask, T v, uint32_t x)
{
    return shuffle(mask, v, simt_me->lane ^ x);
}
template <class T> static inline T __shfl_up_sync(uint32_t mask, T v, uint32_t n, uint32_t width = 32)
{
    const uint32_t i = simt_me->lane;
    return shuffle(mask, v, (i & (width - 1)) >= n ? i - n : i);
}
template <class T> static inline T __shfl_down_sync(uint32_t mask, T v, uint32_t n, uint32_t width = 32)
{
    const uint32_t i = simt_me->lane;
    return shuffle(mask, v, (i & (width - 1)) + n < width ? i + n : i);
}

template <class F> static void fold(simt_lane *lane, uint32_t mask, F f)
{
    uint32_t all = lane[__builtin_ctz(mask)].in[0];
    each_lane(lane, mask, [&](simt_lane *l, uint32_t i) { all = f(all, l[i].in[0]); });
    each_lane(lane, mask, [&](simt_lane *l, uint32_t i) { l[i].out[0] = all; });
}
static inline void fold_max(simt_lane *l, uint32_t m) { fold(l, m, max<uint32_t>); }
static inline void fold_min(simt_lane *l, uint32_t m) { fold(l, m, min<uint32_t>); }
static inline void fold_or(simt_lane *l, uint32_t m) { fold(l, m, [](uint32_t a, uint32_t b) { return a | b; }); }
static inline void ballot(simt_lane *lane, uint32_t mask)
{
    uint32_t all = 0;
    each_lane(lane, mask, [&](simt_lane *l, uint32_t i) { all |= (l[i].in[0] ? 1u : 0u) << i; });
    each_lane(lane, mask, [&](simt_lane *l, uint32_t i) { l[i].out[0] = all; });
}
static inline void match(simt_lane *lane, uint32_t mask)
{
    each_lane(lane, mask, [mask](simt_lane *l, uint32_t i) {
        l[i].out[0] = 0;
        for (uint32_t k = 0; k < 32; k++)
            if (mask >> k & 1 && l[k].in[0] == l[i].in[0])
                l[i].out[0] |= 1u << k;
    });
}
static inline uint32_t meet_one(uint32_t mask, uint32_t v, simt_work *work)
{
    simt_in()->in[0] = v;
    return simt_meet(mask, work)[0];
}
static inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t v) { return meet_one(mask, v, fold_max); }
static inline uint32_t __reduce_min_sync(uint32_t mask, uint32_t v) { return meet_one(mask, v, fold_min); }
static inline uint32_t __reduce_or_sync(uint32_t mask, uint32_t v) { return meet_one(mask, v, fold_or); }
static inline uint32_t __ballot_sync(uint32_t mask, int yes) { return meet_one(mask, yes != 0, ballot); }
static inline uint32_t __match_any_sync(uint32_t mask, uint32_t v) { return meet_one(mask, v, match); }

#endif

/* ptx_host: the host's ptx.cuh. The same functions, each what its PTX instruction does; the build puts this file where
 * the kernels' copies look for ptx.cuh. Arithmetic is IEEE's (f16 by F16C); where hardware is coarser (ex2, rsqrt, the
 * order inside a tensor core) tests have bounds. Waits for other kernels are nothing here: kernels run one after the
 * other. */
#ifndef IMP_CUDA_PTX_CUH
#define IMP_CUDA_PTX_CUH

#include <immintrin.h>

#include "cuda_host.h"
#include "params.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;
#define HOPPER 1
#define LATE_NS 2000000000u
#define LATE_TRIES 2000u
#define DEV static inline __attribute__((unused))
#define KERNEL(threads, blocks) extern "C" void

DEV u32 smem_addr(const void *p) { return simt_shared_address(p); }

/* ---- loads ---- */
template <class T> DEV T lds(u32 a) { return *(const T *)simt_shared(a, sizeof(T)); }
template <class T> DEV void sts(u32 a, T v) { *(T *)simt_shared(a, sizeof(T)) = v; }
DEV u32 lds32(u32 a) { return lds<u32>(a); }
DEV u32 lds16(u32 a) { return lds<u16>(a); }
DEV uint2 lds64(u32 a) { return lds<uint2>(a); }
DEV uint4 lds128(u32 a) { return lds<uint4>(a); }
DEV void sts32_if(bool yes, u32 a, u32 v)
{
    if (yes)
        sts<u32>(a, v);
}
DEV void sts32(u32 a, u32 v) { sts<u32>(a, v); }
DEV void sts128(u32 a, uint4 v) { sts<uint4>(a, v); }
DEV float ldg_f32(const float *p) { return *p; }
DEV uint4 ldg128(const void *p) { return *(const uint4 *)p; }
DEV void cp_async16(u32 dst, const void *src, bool valid) { simt_copy(dst, valid ? src : NULL, 16); }
DEV void cp_async16_stream(u32 dst, const void *src) { simt_copy(dst, src, 16); }
DEV void cp_async_commit(void) { simt_copy_commit(); }
template <int N> DEV void cp_async_wait(void) { simt_copy_wait(N); }

/* Matrices of 8 rows of 16 bytes, whose addresses lanes 8i .. 8i + 7 have. Lane 4g + t gets columns 2t and 2t + 1 of
 * row g, or (transposed) what stands in column g of rows 2t and 2t + 1. */
template <bool TRANSPOSED> static void load_matrices(simt_lane *lane, u32 mask)
{
    u16 v[32][8];
    for (u32 i = 0; i < 32; i++)
        memcpy(v[i], simt_shared(lane[i].in[0], 16), 16);
    each_lane(lane, mask, [&](simt_lane *l, u32 i) {
        const u32 g = i >> 2, t = i & 3;
        for (u32 k = 0; k < 4; k++) {
            const u16 lo = TRANSPOSED ? v[8 * k + 2 * t][g] : v[8 * k + g][2 * t];
            const u16 hi = TRANSPOSED ? v[8 * k + 2 * t + 1][g] : v[8 * k + g][2 * t + 1];
            l[i].out[k] = lo | (u32)hi << 16;
        }
    });
}
DEV void ldmatrix4(u32 *r, u32 a)
{
    simt_in()->in[0] = a;
    memcpy(r, simt_meet(~0u, load_matrices<false>), 16);
}
DEV void ldmatrix4t(u32 *r, u32 a)
{
    simt_in()->in[0] = a;
    memcpy(r, simt_meet(~0u, load_matrices<true>), 16);
}
DEV void transpose(simt_lane *lane, u32 mask)
{
    each_lane(lane, mask, [](simt_lane *l, u32 i) {
        const u32 g = i >> 2, t = i & 3, shift = 16 * (g & 1);
        const u32 lo = l[8 * t + g / 2].in[0] >> shift, hi = l[8 * t + 4 + g / 2].in[0] >> shift;
        l[i].out[0] = (lo & 0xFFFF) | hi << 16;
    });
}
DEV u32 movmatrix(u32 a)
{
    simt_in()->in[0] = a;
    return *simt_meet(~0u, transpose);
}

/* ---- f16 pairs ---- */
DEV float h2f(u16 h) { return _cvtsh_ss(h); }
DEV u16 to_half(float f) { return (u16)_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT); }
/* Rounded once: by way of a float whose last bit says whether anything was lost. */
DEV u16 to_half(double d)
{
    float f = (float)d;
    u32 b = bits_as<u32>(f);
    if ((double)f != d && f == f && b << 1 != 0xFF000000u) {
        b -= fabs((double)f) > fabs(d);
        f = bits_as<float>(b | 1);
    }
    return to_half(f);
}
template <class F> DEV u32 both(F f) { return f(0) | (u32)f(16) << 16; }
DEV double half_at(u32 v, u32 shift) { return (double)h2f((u16)(v >> shift)); }
DEV u32 hfma2(u32 a, u32 b, u32 c)
{
    return both([=](u32 s) { return to_half(half_at(a, s) * half_at(b, s) + half_at(c, s)); });
}
DEV u32 hadd2(u32 a, u32 b) { return both([=](u32 s) { return to_half(half_at(a, s) + half_at(b, s)); }); }
DEV u32 hmul2(u32 a, u32 b) { return both([=](u32 s) { return to_half(half_at(a, s) * half_at(b, s)); }); }
DEV u32 e4m3x2_f16x2(u32 a)
{
    return both([=](u32 s) {
        const u32 v = a >> s / 2 & 0xFF, size = v & 0x7F, e = size >> 3, m = size & 7;
        const double x = e ? ldexp(8.0 + m, (int)e - 10) : ldexp((double)m, -9);
        return (u16)((size == 0x7F ? 0x7FFFu : to_half(x)) | (v & 0x80) << 8);
    });
}
DEV u16 f2h(float f) /* the largest for what is larger */
{
    const u16 h = to_half(f);
    return f != f ? 0x7FFF : (h & 0x7FFF) == 0x7C00 ? h - 1 : h;
}
DEV u32 pack_h2(float lo, float hi) { return f2h(lo) | (u32)f2h(hi) << 16; }
DEV u32 pack_h2_fast(float lo, float hi) { return to_half(lo) | (u32)to_half(hi) << 16; }
DEV u32 splat_lo(u32 v) { return (v & 0xFFFF) * 0x10001u; }
DEV u32 splat_hi(u32 v) { return (v >> 16) * 0x10001u; }
DEV u32 prmt(u32 a, u32 b, u32 sel)
{
    const u64 all = a | (u64)b << 32;
    u32 r = 0;
    for (u32 i = 0; i < 4; i++, sel >>= 4) {
        const u32 v = (u32)(all >> 8 * (sel & 7)) & 0xFF;
        r |= (sel & 8 ? (v & 0x80 ? 0xFFu : 0) : v) << 8 * i;
    }
    return r;
}
DEV float bits_float(u32 b) { return __uint_as_float(b); } /* decode_exact.cuh asks a program on the host for it */
DEV u32 and_or(u32 a, u32 b, u32 c) { return (a & b) | c; }
DEV float ex2(float x) { return exp2f(x); }

/* ---- tensor cores ----
 * Lane 4g + t has of A (16 x 16) rows g and g + 8, columns 2t, 2t + 1 and those 8 further on; of B (16 x 8) the same
 * rows of column g; of C rows g and g + 8 of columns 2t and 2t + 1. in: c, a, b. */
DEV void multiply_16x8x16(simt_lane *lane, u32 mask)
{
    (void)mask;
    float a[16][16], c[16][8], b[16][8];
    for (u32 i = 0; i < 32; i++) {
        const u32 g = i >> 2, t = 2 * (i & 3), *in = lane[i].in;
        for (u32 k = 0; k < 4; k++) {
            float *to = &a[g + 8 * (k & 1)][t + 8 * (k >> 1)];
            to[0] = h2f((u16)in[4 + k]), to[1] = h2f((u16)(in[4 + k] >> 16));
            c[g + 8 * (k >> 1)][t + (k & 1)] = bits_as<float>(in[k]);
        }
        for (u32 k = 0; k < 2; k++)
            b[t + 8 * k][g] = h2f((u16)in[8 + k]), b[t + 8 * k + 1][g] = h2f((u16)(in[8 + k] >> 16));
    }
    for (u32 r = 0; r < 16; r++) {
        __m256 sum = _mm256_loadu_ps(c[r]);
        for (u32 k = 0; k < 16; k++)
            sum = _mm256_fmadd_ps(_mm256_set1_ps(a[r][k]), _mm256_loadu_ps(b[k]), sum);
        _mm256_storeu_ps(c[r], sum);
    }
    for (u32 i = 0; i < 32; i++)
        for (u32 k = 0; k < 4; k++)
            lane[i].out[k] = bits_as<u32>(c[(i >> 2) + 8 * (k >> 1)][2 * (i & 3) + (k & 1)]);
}
DEV void mma_f16(float *c, const u32 *a, u32 b0, u32 b1)
{
    simt_lane *l = simt_in();
    memcpy(l->in, c, 16);
    memcpy(l->in + 4, a, 16);
    l->in[8] = b0, l->in[9] = b1;
    memcpy(c, simt_meet(~0u, multiply_16x8x16), 16);
}

/* ---- asynchronous copies ---- */
DEV void mbar_init(u32 m, u32 n) { simt_mbar_init(m, n); }
DEV void mbar_init_fence(void) {}
DEV void mbar_expect(u32 m, u32 bytes) { simt_mbar_arrive(m, bytes); }
DEV void mbar_arrive(u32 m) { simt_mbar_arrive(m, 0); }
DEV void mbar_wait(u32 m, u32 parity) { simt_mbar_wait(m, parity); }
DEV void mbar_wait_bounded(u32 m, u32 parity) { simt_mbar_wait(m, parity); }
DEV u32 global_ns(void) { return 0; } /* that nothing comes any more, simt.c finds */
DEV u64 policy_evict_first(void) { return 0; }
DEV void bulk_load(u32 dst, const void *src, u32 bytes, u32 m, u64 pol)
{
    (void)pol;
    simt_bulk(dst, src, bytes, m);
}
DEV void bulk_load_keep(u32 dst, const void *src, u32 bytes, u32 m) { simt_bulk(dst, src, bytes, m); }
DEV void fence_proxy_async(void) {}

/* ---- clusters of blocks ---- */
DEV void cluster_arrive_relaxed(void) { simt_cluster_arrive(); }
DEV void cluster_arrive(void) { simt_cluster_arrive(); }
DEV void cluster_wait(void) { simt_cluster_wait(); }
DEV void cluster_sync(void)
{
    cluster_arrive();
    cluster_wait();
}
DEV u32 cluster_addr(u32 addr, u32 rank) { return addr % SIMT_BLOCK + rank * SIMT_BLOCK; }
DEV float ld_cluster(u32 addr) { return lds<float>(addr); }
DEV void send(u32 addr, float2 v, u32 bar) { simt_send(addr, &v, sizeof v, bar); }
DEV void send(u32 addr, float4 v, u32 bar) { simt_send(addr, &v, sizeof v, bar); }
DEV u32 add_acq_rel(u32 *p, u32 v) { return atomicAdd(p, v); }
DEV void st_words(void *p, uint4 v) { *(uint4 *)p = v; }
DEV uint4 ld_words(const void *p)
{
    simt_pause();
    return *(const uint4 *)p;
}

/* ---- programmatic dependent launch, and words to a compiler that is not here ---- */
DEV void pdl_wait(void) {}
DEV void pdl_launch(void) {}
DEV u32 late_zero(void) { return 0; }
DEV void expect_at(const void *p) { (void)p; }
DEV void hold(u32 &v) { (void)v; }
DEV u32 uniform(u32 v) { return __reduce_or_sync(~0u, v); }

DEV void bar_sync(u32 id, u32 n) { simt_barrier(id, n, true); }
DEV void bar_arrive(u32 id, u32 n) { simt_barrier(id, n, false); }

DEV float warp_sum(float v)
{
    for (u32 o = 16; o; o >>= 1)
        v += __shfl_xor_sync(~0u, v, o);
    return v;
}
DEV float warp_max(float v)
{
    for (u32 o = 16; o; o >>= 1)
        v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
    return v;
}
/* As ptx.cuh's: its barriers are what a test may find missing. */
DEV float block_sum(float v, float *red)
{
    v = warp_sum(v);
    __syncthreads();
    if ((threadIdx.x & 31) == 0)
        red[threadIdx.x >> 5] = v;
    __syncthreads();
    float s = 0;
    for (u32 i = 0; i < 8; i++)
        s += red[i];
    return s;
}

#endif

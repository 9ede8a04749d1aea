/* wgmma_fp8: D[64 x N] = (ADD: +=) A[64 x 32] B[32 x N], e4m3 in, f32 sums, both from shared memory (K-major, 128-byte
 * swizzle). One instruction a function; the operand lists are why they are written out. Hopper only. */
#ifndef IMP_CUDA_WGMMA_FP8_CUH
#define IMP_CUDA_WGMMA_FP8_CUH

#include "wgmma.cuh"

#ifdef HOPPER
#define REG4(how, i) how(d[i]), how(d[i + 1]), how(d[i + 2]), how(d[i + 3])
#define REG16(how, i) REG4(how, i), REG4(how, i + 4), REG4(how, i + 8), REG4(how, i + 12)

template <int N> struct wgmma_e4m3;

template <> struct wgmma_e4m3<32> {
    template <bool ADD> static __device__ __forceinline__ void run(float *d, u64 a, u64 b)
    {
        asm volatile("wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 {"
                     "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, "
                     "%16, %17, %18, 1, 1;"
                     : REG16("+f", 0)
                     : "l"(a), "l"(b), "n"(ADD));
    }
};

template <> struct wgmma_e4m3<64> {
    template <bool ADD> static __device__ __forceinline__ void run(float *d, u64 a, u64 b)
    {
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {"
                     "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                     "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
                     "%32, %33, %34, 1, 1;"
                     : REG16("+f", 0), REG16("+f", 16)
                     : "l"(a), "l"(b), "n"(ADD));
    }
};

template <> struct wgmma_e4m3<128> {
    template <bool ADD> static __device__ __forceinline__ void run(float *d, u64 a, u64 b)
    {
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
                     "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                     "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                     "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
                     "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
                     "%64, %65, %66, 1, 1;"
                     : REG16("+f", 0), REG16("+f", 16), REG16("+f", 32), REG16("+f", 48)
                     : "l"(a), "l"(b), "n"(ADD));
    }
};

#undef REG4
#undef REG16
#endif

#endif

/* wgmma_fp8: D[64 x N] = (ADD: +=) A[64 x 32] B[32 x N], e4m3 in, f32 sums, both from shared memory (K-major, 128-byte
 * swizzle). One instruction a function. Hopper only. */
#ifndef IMP_CUDA_WGMMA_FP8_CUH
#define IMP_CUDA_WGMMA_FP8_CUH

#include "wgmma.cuh"

#ifdef HOPPER
template <int N> struct wgmma_e4m3;

template <> struct wgmma_e4m3<32> {
    template <bool ADD> static __device__ __forceinline__ void run(float *d, u64 a, u64 b)
    {
        asm volatile("wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 {" NUMS16 "}, %16, %17, %18, 1, 1;"
                     : REGS16("+f")
                     : "l"(a), "l"(b), "n"(ADD));
    }
};

template <> struct wgmma_e4m3<64> {
    template <bool ADD> static __device__ __forceinline__ void run(float *d, u64 a, u64 b)
    {
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {" NUMS32 "}, %32, %33, %34, 1, 1;"
                     : REGS32("+f")
                     : "l"(a), "l"(b), "n"(ADD));
    }
};

template <> struct wgmma_e4m3<128> {
    template <bool ADD> static __device__ __forceinline__ void run(float *d, u64 a, u64 b)
    {
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" NUMS64 "}, %64, %65, %66, 1, 1;"
                     : REGS64("+f")
                     : "l"(a), "l"(b), "n"(ADD));
    }
};

#endif

#endif

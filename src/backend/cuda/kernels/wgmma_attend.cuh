/* wgmma for attention: S = Q K^T with both from shared memory, and O += P V with P from registers and V lying as
 * [position][column]. Operand lists as in wgmma.cuh. Hopper only. */
#ifndef IMP_CUDA_WGMMA_ATTEND_CUH
#define IMP_CUDA_WGMMA_ATTEND_CUH

#include "wgmma.cuh"

#ifdef HOPPER
/* the first step of a product: what d held does not matter */
DEV void wgmma_qk_first64(float *d, u64 a, u64 b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" NUMS32 "}, %32, %33, 0, 1, 1, 0, 0;"
                 : REGS32("=f")
                 : "l"(a), "l"(b));
}
DEV void wgmma_qk_first128(float *d, u64 a, u64 b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" NUMS64 "}, %64, %65, 0, 1, 1, 0, 0;"
                 : REGS64("=f")
                 : "l"(a), "l"(b));
}
/* and the further steps */
DEV void wgmma_qk64(float *d, u64 a, u64 b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" NUMS32 "}, %32, %33, 1, 1, 1, 0, 0;"
                 : REGS32("+f")
                 : "l"(a), "l"(b));
}
DEV void wgmma_qk128(float *d, u64 a, u64 b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" NUMS64 "}, %64, %65, 1, 1, 1, 0, 0;"
                 : REGS64("+f")
                 : "l"(a), "l"(b));
}
/* columns in panels of 64, `panel` bytes apart (wgmma_desc_panels) */
DEV void wgmma_pv128(float *d, const u32 *a, u64 b) { WGMMA(128, 64, 64, 65, 66, 67, 68, 1); }
DEV void wgmma_pv256(float *d, const u32 *a, u64 b) { WGMMA(256, 128, 128, 129, 130, 131, 132, 1); }
/* B as [16][N], 64 columns of 128 bytes together, the next 64 `panel` bytes further on */
DEV u64 wgmma_desc_panels(u32 addr, u32 panel)
{
    return (u64)((addr & 0x3FFFF) >> 4) | (u64)(panel >> 4) << 16 | 64ull << 32 | 1ull << 62;
}

template <int N> DEV void wgmma_qk(float *d, u64 a, u64 b, bool first)
{
    if (N == 64)
        first ? wgmma_qk_first64(d, a, b) : wgmma_qk64(d, a, b);
    else
        first ? wgmma_qk_first128(d, a, b) : wgmma_qk128(d, a, b);
}
template <int N> DEV void wgmma_pv(float *d, const u32 *a, u64 b)
{
    if (N == 64)
        wgmma_t64(d, a, b);
    else if (N == 128)
        wgmma_pv128(d, a, b);
    else
        wgmma_pv256(d, a, b);
}
#endif

#endif

/* tma_host: the host's tma.cuh. */
#ifndef IMP_CUDA_TMA_CUH
#define IMP_CUDA_TMA_CUH

#include "ptx.cuh"

struct __align__(128) tensor_map { u64 v[16]; };
static_assert(sizeof(simt_map) <= sizeof(tensor_map), "a map lies in the driver's");

DEV void tma_prefetch_map(const tensor_map *t) { (void)t; }
DEV void tma_5d(u32 dst, const tensor_map *t, u32 a, u32 b, u32 c, u32 d, u32 e, u32 bar)
{
    const u32 at[5] = {a, b, c, d, e};
    simt_tensor(dst, (const simt_map *)t, at, bar);
}
DEV void tma_2d(u32 dst, const tensor_map *t, u32 x, u32 y, u32 bar) { tma_5d(dst, t, x, y, 0, 0, 0, bar); }
DEV void tma_3d(u32 dst, const tensor_map *t, u32 x, u32 y, u32 z, u32 bar) { tma_5d(dst, t, x, y, z, 0, 0, bar); }

#define RASTER 8
DEV void raster(u32 n_rb, u32 n_tb, u32 i, u32 &rb, u32 &tb) /* as tma.cuh's */
{
    const u32 strip = i / (RASTER * n_tb), r0 = strip * RASTER, wide = n_rb - r0 < RASTER ? n_rb - r0 : RASTER;
    i -= r0 * n_tb;
    rb = r0 + i % wide;
    tb = i / wide;
}

#endif

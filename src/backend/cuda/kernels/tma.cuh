/* tma: copies to shared memory that a tensor map describes, and the order in which blocks that stay take tiles. */
#ifndef IMP_CUDA_TMA_CUH
#define IMP_CUDA_TMA_CUH

#include "ptx.cuh"

struct __align__(128) tensor_map { u64 v[16]; }; /* CUtensorMap, as the host encoded it; in a kernel's parameters */

DEV void tma_prefetch_map(const tensor_map *t) { asm volatile("prefetch.tensormap [%0];" ::"l"(t) : "memory"); }
DEV void tma_5d(u32 dst, const tensor_map *t, u32 a, u32 b, u32 c, u32 d, u32 e, u32 bar)
{
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0],[%1,{%2,%3,%4,%5,%6}],[%7];"
                 ::"r"(dst), "l"(t), "r"(a), "r"(b), "r"(c), "r"(d), "r"(e), "r"(bar) : "memory");
}

#ifdef HOPPER
/* A box at (x, y) or (x, y, z), in elements; its bytes are reported to the barrier at bar. One thread. */
DEV void tma_2d(u32 dst, const tensor_map *t, u32 x, u32 y, u32 bar)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 " [%0],[%1,{%2,%3}],[%4];"
                 ::"r"(dst), "l"(t), "r"(x), "r"(y), "r"(bar) : "memory");
}
DEV void tma_3d(u32 dst, const tensor_map *t, u32 x, u32 y, u32 z, u32 bar)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 " [%0],[%1,{%2,%3,%4}],[%5];"
                 ::"r"(dst), "l"(t), "r"(x), "r"(y), "r"(z), "r"(bar) : "memory");
}

#define RASTER 8 /* blocks of rows that are taken together, so that a wave of blocks is about square */

/* The i-th of n_rb blocks of rows x n_tb blocks of tokens: neighbours share rows or tokens. i < n_rb * n_tb. */
DEV void raster(u32 n_rb, u32 n_tb, u32 i, u32 &rb, u32 &tb)
{
    const u32 strip = i / (RASTER * n_tb), r0 = strip * RASTER, wide = n_rb - r0 < RASTER ? n_rb - r0 : RASTER;
    i -= r0 * n_tb;
    rb = r0 + i % wide;
    tb = i / wide;
}
#endif

#endif

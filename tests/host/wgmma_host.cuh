/* wgmma_host: the host's wgmma.cuh. A warp's rows of the product are its own, so each warp multiplies for itself, at
 * once, by the smaller instruction, whose bits are the same. That products are asynchronous is not modelled: a wait for
 * them that is missing is not found. */
#ifndef IMP_CUDA_WGMMA_CUH
#define IMP_CUDA_WGMMA_CUH

#include "ptx.cuh"

template <int N> struct wgmma {
    static void run(float *d, const u32 *a, u64 b)
    {
        const u32 g = simt_me->lane >> 2, t = simt_me->lane & 3,
                  from = (u32)(b & 0x3FFF) << 4 | simt_me->rank * SIMT_BLOCK;
        for (u32 n = 0; n < N / 8; n++) { /* 8 rows of 128 bytes; 16 bytes stand where the row turns them */
            const u32 at = from + n * 1024 + g * 128 + t * 4;
            auto word = [](u32 p) { return lds32(p ^ (p >> 3 & 0x70)); };
            mma_f16(d + 4 * n, a, word(at), word(at + 16));
        }
    }
};

DEV void proxy_fence(void) {}
DEV void wgmma_fence(void) {}
DEV void wgmma_commit(void) {}
template <int N> DEV void wgmma_wait(void) {}
template <int N> DEV void pin(float *v) { (void)v; }
DEV u64 wgmma_desc(u32 addr) { return (addr & 0x3FFFF) >> 4; }

#endif

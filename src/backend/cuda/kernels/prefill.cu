/* prefill: y[M][N] f32 = x[M][K] W[N][K]^T for rows of class P: prompts. Hopper's wgmma with the weights as A, decoded from
 * their tiles into registers on the way (no copy of the weights is ever made), tokens as B through TMA.
 * Block: 2 * MB * 64 weight rows x NTOK tokens. Warpgroup 0 loads: weight tiles (256 columns) by bulk copies into one ring,
 * tokens (64 columns) by TMA into another. Warpgroups 1 and 2 decode a chunk of 64 columns while the tensor cores work on
 * the one before: two sets of A registers, one group of four products in flight.
 * Order of sums: k16 steps in order, whatever MB, NTOK and M, so a row's bytes do not depend on its chunk.
 * Floor: max(2MNK / 700 TFLOP/s measured, bytes). Numerics: f16 products, f32 sums. */
#include "decode.cuh"
#include "wgmma.cuh"

struct __align__(128) tensor_map { u64 v[16]; };
struct prefill_params {
    tensor_map x;
    prefill_args a;
};

#ifdef HOPPER
DEV void tma_2d(u32 dst, const tensor_map *t, u32 x, u32 y, u32 bar)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0],[%1,{%2,%3}],[%4];"
                 ::"r"(dst), "l"(t), "r"(x), "r"(y), "r"(bar) : "memory");
}

template <int L, int MB, int NTOK> DEV void consume(const prefill_args &p, u32 wsm, u32 xsm, u32 bars, u32 warp, u32 lane, float (*acc)[NTOK / 2])
{
    const u32 full_w = bars, empty_w = bars + 32, full_x = bars + 64, empty_x = bars + 128;
    const u32 x_bytes = NTOK * 128, w_bytes = 8 * MB * p.w.tile_bytes;
    const u32 wg = warp >> 2, w4 = warp & 3;
    u32 sw = 0, pw = 0, sx = 0, px = 0, held = 0, n_held = 0; /* x stages read but not yet given back */
    u32 a[2][4][4];
#pragma unroll 1
    for (u32 kt = 0; kt < p.w.k_tiles; kt++) {
        mbar_wait(full_w + sw * 8, pw);
        scales q[MB];
#pragma unroll
        for (int mb = 0; mb < MB; mb++) {
            in_smem src = {wsm + sw * w_bytes + ((wg * MB + mb) * 4 + w4) * p.w.tile_bytes};
            tile_scales<L>(src, lane, q[mb]);
        }
#pragma unroll
        for (int c = 0; c < 4; c++) {
#pragma unroll
            for (int mb = 0; mb < MB; mb++) {
                const int buf = MB == 2 ? mb : c & 1;
                wgmma_wait<1>(); /* the products that read this set of registers are done */
                if (mb == MB - 1 && n_held > (MB == 2 ? 0 : 1)) {
                    if (lane == 0)
                        mbar_arrive(empty_x + held * 8);
                    held = held + 1 == p.n_stage_x ? 0 : held + 1;
                    n_held--;
                }
                in_smem src = {wsm + sw * w_bytes + ((wg * MB + mb) * 4 + w4) * p.w.tile_bytes};
                chunk<L>(src, lane, c, q[mb], p.w.lut, a[buf]);
                if (mb == 0)
                    mbar_wait(full_x + sx * 8, px);
#pragma unroll
                for (int j = 0; j < 4; j++) /* all of it before the fence: the compiler would sink what it can */
                    asm volatile("" : "+r"(a[buf][j][0]), "+r"(a[buf][j][1]), "+r"(a[buf][j][2]), "+r"(a[buf][j][3])::"memory");
                u64 desc[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    desc[j] = wgmma_desc(xsm + sx * x_bytes) + 2 * j;
                    asm volatile("" : "+l"(desc[j])::"memory");
                }
                wgmma_fence();

#pragma unroll
                for (int j = 0; j < 4; j++)
                    wgmma<NTOK>::run(acc[mb], a[buf][j], desc[j]);
                wgmma_commit();
            }
            n_held++;
            if (++sx == p.n_stage_x)
                sx = 0, px ^= 1;
        }
        wgmma_wait<0>(); /* the assembler wants the pipeline empty at the end of a loop; the other warpgroup fills the gap */
#pragma unroll
        for (int mb = 0; mb < MB; mb++)
            pin<NTOK / 2>(acc[mb]);
        __syncwarp();
        if (lane == 0) {
            mbar_arrive(empty_w + sw * 8);
            for (; n_held; n_held--) {
                mbar_arrive(empty_x + held * 8);
                held = held + 1 == p.n_stage_x ? 0 : held + 1;
            }
        }
        held = sx;
        n_held = 0;
        if (++sw == p.n_stage_w)
            sw = 0, pw ^= 1;
    }
}

template <int MB, int NTOK> DEV void prefill(const prefill_params &pp)
{
    extern __shared__ __align__(1024) u8 sm[];
    const prefill_args &p = pp.a;
    const u32 base = (smem_addr(sm) + 1023) & ~1023u;
    const u32 xsm = base, wsm = xsm + p.n_stage_x * NTOK * 128, bars = wsm + p.n_stage_w * 8 * MB * p.w.tile_bytes;
    const u32 full_w = bars, empty_w = bars + 32, full_x = bars + 64, empty_x = bars + 128;
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    const u32 rt0 = blockIdx.x * 8 * MB, tok0 = blockIdx.y * NTOK;
    if (tid == 0) {
        for (u32 i = 0; i < p.n_stage_w; i++)
            mbar_init(full_w + i * 8, 1), mbar_init(empty_w + i * 8, 8);
        for (u32 i = 0; i < p.n_stage_x; i++)
            mbar_init(full_x + i * 8, 1), mbar_init(empty_x + i * 8, 8);
        mbar_init_fence();
    }
    __syncthreads();
    pdl_launch();
    if (warp < 4) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (warp == 0) { /* weights */
            const u64 pol = policy_evict_first();
            (void)pol;
            const u32 n = p.w.row_tiles - rt0 < 8 * MB ? p.w.row_tiles - rt0 : 8 * MB;
            u32 s = 0, ph = 1;
            for (u32 kt = 0; kt < p.w.k_tiles; kt++) {
                mbar_wait(empty_w + s * 8, ph);
                if (lane == 0)
                    mbar_expect(full_w + s * 8, n * p.w.tile_bytes);
                __syncwarp();
                if (lane < n)
                    bulk_load_keep(wsm + (s * 8 * MB + lane) * p.w.tile_bytes,
                                   (const u8 *)p.w.tiles + ((u64)(rt0 + lane) * p.w.k_tiles + kt) * p.w.tile_bytes, p.w.tile_bytes, full_w + s * 8);
                if (++s == p.n_stage_w)
                    s = 0, ph ^= 1;
            }
        } else if (warp == 1 && lane == 0) { /* tokens: the previous kernel's work */
            pdl_wait();
            u32 s = 0, ph = 1;
            for (u32 c = 0; c < p.w.k_tiles * 4; c++) {
                mbar_wait(empty_x + s * 8, ph);
                mbar_expect(full_x + s * 8, NTOK * 128);
                tma_2d(xsm + s * NTOK * 128, &pp.x, c * 64, tok0, full_x + s * 8);
                if (++s == p.n_stage_x)
                    s = 0, ph ^= 1;
            }
        }
        pdl_wait();
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    float acc[MB][NTOK / 2];
#pragma unroll
    for (int mb = 0; mb < MB; mb++)
#pragma unroll
        for (int i = 0; i < NTOK / 2; i++)
            acc[mb][i] = 0;
    LAYOUT_SWITCH(p.w.layout, (consume<L, MB, NTOK>(p, wsm, xsm, bars, warp - 4, lane, acc));)
    pdl_wait(); /* the output may be what the previous kernel still reads */
    const u32 g = lane >> 2, t = lane & 3, wg = (warp - 4) >> 2, w4 = warp & 3;
#pragma unroll
    for (int mb = 0; mb < MB; mb++) {
        const u32 rt = rt0 + (wg * MB + mb) * 4 + w4;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const u32 n = rt * 16 + g + 8 * h;
            if (n >= p.w.rows)
                continue;
            const float rs = p.w.row_scale ? ((const float *)p.w.row_scale)[n] : 1.0f, b = p.w.bias ? ((const float *)p.w.bias)[n] : 0.0f;
#pragma unroll
            for (int i = 0; i < NTOK / 8; i++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const u32 m = tok0 + 8 * i + 2 * t + e;
                    if (m >= p.m)
                        continue;
                    float v = acc[mb][4 * i + 2 * h + e];
                    if (p.w.row_scale)
                        v *= rs;
                    if (p.w.bias)
                        v += b;
                    if (p.residual)
                        v = ((const float *)p.residual)[(u64)m * p.ldr + n] + v;
                    ((float *)p.out)[(u64)m * p.ldo + n] = v;
                }
        }
    }
}

KERNEL(384, 1) imp_prefill_1x64(const __grid_constant__ prefill_params p) { prefill<1, 64>(p); }
KERNEL(384, 1) imp_prefill_1x128(const __grid_constant__ prefill_params p) { prefill<1, 128>(p); }
KERNEL(384, 1) imp_prefill_1x256(const __grid_constant__ prefill_params p) { prefill<1, 256>(p); }
KERNEL(384, 1) imp_prefill_2x128(const __grid_constant__ prefill_params p) { prefill<2, 128>(p); }
#endif

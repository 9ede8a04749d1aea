/* rows: y[M][N] f32 = x[M][K] W[N][K]^T for more rows of class D than gemv takes, each weight decoded once for all of
 * them. Same products and sums in the same order as gemv, so a row's bytes do not depend on how many rows there are:
 * the accumulator restarts at each of gemv's segments, segments add up in order, z groups of them end as partial sums.
 * Grid: (128-row blocks, z, column blocks of 8 * NT). A block loads x and weights tile by tile of 256 columns, n_stage
 * deep.
 * Bytes: N*K*bits/8 a column block (L2 serves further ones) + M*K*2 a row block. Numerics: as gemv. */
#include "decode.cuh"

#define XSTRIDE 528 /* 256 f16 and 16 bytes, so that ldmatrix meets no bank twice */

template <int L, int NT> DEV void tile_mma_n(const in_smem &src, u32 lane, const u32 *lut, u32 xaddr, float (*acc)[4])
{
    scales q;
    tile_scales<L>(src, lane, q);
#pragma unroll
    for (int c = 0; c < 4; c++) {
        u32 a[4][4];
        chunk<L>(src, lane, c, q, lut, a);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            u32 b[8];
            ldmatrix4(b, xaddr + n * 8 * XSTRIDE + c * 128);
            ldmatrix4(b + 4, xaddr + n * 8 * XSTRIDE + c * 128 + 64);
#pragma unroll
            for (int j = 0; j < 4; j++)
                mma_f16(acc[n], a[j], b[2 * j], b[2 * j + 1]);
        }
    }
}

template <int NT> DEV void rows_body(const rows_args &p)
{
    extern __shared__ __align__(128) u8 smem[];
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    const u32 rt = blockIdx.x * 8 + warp, zi = blockIdx.y, col0 = blockIdx.z * NT * 8;
    const u32 s0 = zi * p.w.seg / p.w.z, s1 = (zi + 1) * p.w.seg / p.w.z;
    const u32 k0 = seg_begin(p.w, s0), k1 = seg_begin(p.w, s1);
    const u32 bars = smem_addr(smem), base = bars + 128;
    const u32 x_bytes = NT * 8 * XSTRIDE, stage_bytes = x_bytes + 8 * p.slot_bytes;
    const bool live = rt < p.w.row_tiles;
    const u64 pol = policy_evict_first();
    const u32 n_live = p.w.row_tiles - blockIdx.x * 8 < 8 ? p.w.row_tiles - blockIdx.x * 8 : 8;

    if (tid == 0)
        for (u32 i = 0; i < p.n_stage; i++)
            mbar_init(bars + i * 8, 1);
    mbar_init_fence();
    __syncthreads();
    pdl_launch();
    /* Weights of the first stages before the previous kernel is done, its output after. */
    auto ask_w = [&](u32 kt) {
        u32 s = (kt - k0) % p.n_stage, bar = bars + s * 8;
        if (tid == 0)
            mbar_expect(bar, NT * 8 * 512 + n_live * p.w.tile_bytes);
        if (live && lane == 0)
            bulk_load(base + s * stage_bytes + x_bytes + warp * p.slot_bytes,
                      (const u8 *)p.w.tiles + ((u64)rt * p.w.k_tiles + kt) * p.w.tile_bytes, p.w.tile_bytes, bar, pol);
    };
    auto ask_x = [&](u32 kt) {
        u32 s = (kt - k0) % p.n_stage, bar = bars + s * 8;
        if (lane < NT) {
            u32 col = warp * NT + lane, m = col0 + col < p.m ? col0 + col : p.m - 1;
            bulk_load_keep(base + s * stage_bytes + col * XSTRIDE,
                           (const u16 *)p.x + (u64)m * p.ldx + kt * TILE_COLS, 512, bar);
        }
    };
    for (u32 kt = k0; kt < k1 && kt < k0 + p.n_stage; kt++)
        ask_w(kt);
    pdl_wait();
    for (u32 kt = k0; kt < k1 && kt < k0 + p.n_stage; kt++)
        ask_x(kt);

    float sum[NT][4], acc[NT][4];
#pragma unroll
    for (int n = 0; n < NT; n++)
        for (int i = 0; i < 4; i++)
            sum[n][i] = acc[n][i] = 0;
    u32 slot = 0, phase = 0, s = s0, s_end = seg_begin(p.w, s0 + 1);
    for (u32 kt = k0; kt < k1; kt++) {
        mbar_wait(bars + slot * 8, phase);
        if (live) {
            in_smem src = {base + slot * stage_bytes + x_bytes + warp * p.slot_bytes};
            u32 xaddr = base + slot * stage_bytes + (lane & 7) * XSTRIDE + (lane >> 3) * 16;
            LAYOUT_SWITCH(p.w.layout, (tile_mma_n<L, NT>(src, lane, p.w.lut, xaddr, acc));)
        }
        if (kt + 1 == s_end) {
#pragma unroll
            for (int n = 0; n < NT; n++)
                for (int i = 0; i < 4; i++) {
                    sum[n][i] += acc[n][i];
                    acc[n][i] = 0;
                }
            s++;
            s_end = seg_begin(p.w, s + 1);
        }
        __syncthreads();
        if (kt + p.n_stage < k1) {
            ask_w(kt + p.n_stage);
            ask_x(kt + p.n_stage);
        }
        if (++slot == p.n_stage) {
            slot = 0;
            phase ^= 1;
        }
    }
    if (!live)
        return;
    const u32 g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 m = col0 + n * 8 + 2 * t + (i & 1), r = rt * 16 + g + (i & 2) * 4;
            if (m >= p.m || r >= p.w.rows)
                continue;
            float v = sum[n][i];
            if (p.w.z > 1) {
                ((float *)p.partial)[((u64)zi * p.m + m) * p.w.rows + r] = v;
                continue;
            }
            v = with_scale_and_bias(p.w, v, r);
            if (p.residual)
                v = ((const float *)p.residual)[(u64)m * p.ldr + r] + v;
            ((float *)p.out)[(u64)m * p.ldo + r] = v;
        }
}

KERNEL(256, 2) imp_rows2(const __grid_constant__ rows_args p) { rows_body<2>(p); }
KERNEL(256, 2) imp_rows4(const __grid_constant__ rows_args p) { rows_body<4>(p); }
KERNEL(256, 2) imp_rows8(const __grid_constant__ rows_args p) { rows_body<8>(p); }

KERNEL(256, 4) imp_rows_sum(const __grid_constant__ sum_args p)
{
    pdl_launch();
    pdl_wait();
    u32 n = blockIdx.x * 256 + threadIdx.x, m = blockIdx.y;
    if (n >= p.w.rows)
        return;
    float v = 0;
    for (u32 z = 0; z < p.w.z; z++)
        v += ((const float *)p.partial)[((u64)z * p.m + m) * p.w.rows + n];
    v = with_scale_and_bias(p.w, v, n);
    if (p.residual)
        v = ((const float *)p.residual)[(u64)m * p.ldr + n] + v;
    ((float *)p.out)[(u64)m * p.ldo + n] = v;
}

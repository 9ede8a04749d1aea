/* attend_w: attention of one sequence's rows of class P on Hopper's wgmma, K and V in blocks of a multiple of 64 positions.
 * Block = 128 rows = (128 / G tokens) x G query heads of one kv head: warpgroup 0 loads 64 positions of K and of V at a time
 * by TMA (128-byte swizzle, three dimensions: columns, positions of a block, blocks), warpgroups 1 and 2 take 64 rows each.
 * S = Q K^T with Q in registers, online softmax, O += P V with P in registers and V read across. Positions come at absolute
 * multiples of 64, and a block of positions that a row does not see leaves it exactly as it was.
 * FLOP: 4 * rows * positions * d. Numerics: f16 products, f32 sums and softmax. */
#include "attend.cuh"
#include "wgmma.cuh"

struct __align__(128) tensor_map { u64 v[16]; };
struct attend_w_params {
    tensor_map k, v;
    attend_args a;
};

#ifdef HOPPER
DEV void tma_3d(u32 dst, const tensor_map *t, u32 x, u32 y, u32 z, u32 bar)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0],[%1,{%2,%3,%4}],[%5];"
                 ::"r"(dst), "l"(t), "r"(x), "r"(y), "r"(z), "r"(bar) : "memory");
}
#define STAGES_W 4

template <int D> DEV void attend_w(const attend_w_params &pp)
{
    extern __shared__ __align__(1024) u8 sm[];
    const attend_args &p = pp.a;
    constexpr u32 TILE = 64 * D * 2; /* 64 positions */
    const u32 base = (smem_addr(sm) + 1023) & ~1023u, ksm = base, vsm = base + STAGES_W * TILE, bars = vsm + STAGES_W * TILE;
    const u32 full_k = bars, full_v = bars + 32, empty_k = bars + 64, empty_v = bars + 96;
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
    const u32 G = p.n_head / p.n_kv_head, per = 128 / G, kh = blockIdx.y, first = (gridDim.x - 1 - blockIdx.x) * per;
    const u32 n_tok = p.n_tok - first < per ? p.n_tok - first : per;
    if (tid == 0) {
        for (u32 i = 0; i < STAGES_W; i++) {
            mbar_init(full_k + i * 8, 1), mbar_init(full_v + i * 8, 1);
            mbar_init(empty_k + i * 8, 8), mbar_init(empty_v + i * 8, 8);
        }
        mbar_init_fence();
    }
    __syncthreads();
    pdl_launch();
    pdl_wait();
    /* positions that some row of the block sees: views grow with the token, but for images, whose rows share one */
    u32 from = ~0u, to = 0;
    for (u32 i = lane; i < n_tok; i += 32) {
        view w = token_view(p, p.tok0 + first + i);
        from = w.lo < from ? w.lo : from;
        to = w.hi > to ? w.hi : to;
    }
    from = __reduce_min_sync(~0u, from);
    to = __reduce_max_sync(~0u, to);
    const u32 b0 = from / 64, b1 = to > from ? (to + 63) / 64 : b0;
    if (warp < 4) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (tid == 0) {
            const view v = token_view(p, p.tok0 + first);
            for (u32 b = b0; b < b1; b++) {
                const u32 s = (b - b0) % STAGES_W, ph = (b - b0) / STAGES_W & 1 ^ 1, pos = b * 64;
                const u32 blk = (u32)v.table[(i32)(pos / p.block_size) - v.base], row = pos % p.block_size;
                mbar_wait(empty_k + s * 8, ph);
                mbar_expect(full_k + s * 8, TILE);
                for (u32 i = 0; i < D / 64; i++)
                    tma_3d(ksm + s * TILE + i * 8192, &pp.k, kh * p.d_k + 64 * i, row, blk, full_k + s * 8);
                mbar_wait(empty_v + s * 8, ph);
                mbar_expect(full_v + s * 8, TILE);
                for (u32 i = 0; i < D / 64; i++)
                    tma_3d(vsm + s * TILE + i * 8192, &pp.v, kh * p.d_v + 64 * i, row, blk, full_v + s * 8);
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    u32 lo[2], hi[2], tk[2], hd[2];
    bool live[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        u32 r = (warp - 4) * 16 + g + 8 * h;
        live[h] = r < n_tok * G;
        tk[h] = p.tok0 + first + (live[h] ? r / G : 0);
        hd[h] = kh * G + (live[h] ? r % G : 0);
        view w = token_view(p, tk[h]);
        lo[h] = live[h] ? w.lo : 0;
        hi[h] = live[h] ? w.hi : 0;
    }
    u32 qa[D / 16][4];
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                u32 d = 16 * i + 8 * j + 2 * t;
                float2 x = make_float2(0, 0);
                if (live[h] && d < p.d_k)
                    x = *(const float2 *)((const float *)p.q + (u64)tk[h] * p.ldq + (u64)hd[h] * p.d_k + d);
                qa[i][h + 2 * j] = pack_h2(x.x, x.y);
            }
    float o[D / 64][32], m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < D / 64; i++)
#pragma unroll
        for (int j = 0; j < 32; j++)
            o[i][j] = 0;
    const float sc = p.softcap > 0 ? p.scale : p.scale * LOG2E;
#pragma unroll 1
    for (u32 b = b0; b < b1; b++) {
        const u32 s = (b - b0) % STAGES_W, ph = (b - b0) / STAGES_W & 1;
        float x[32];
#pragma unroll
        for (int j = 0; j < 32; j++)
            x[j] = 0;
        mbar_wait(full_k + s * 8, ph);
        pin<32>(x); /* what the tensor cores add to is finished before, and not read before they are done */
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            wgmma<64>::run(x, qa[i], wgmma_desc(ksm + s * TILE + (i / 4) * 8192) + 2 * (i % 4));
        wgmma_commit();
        wgmma_wait<0>();
        pin<32>(x);
        if (lane == 0)
            mbar_arrive(empty_k + s * 8);
        u32 pa[4][4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float mx = -INFINITY;
            const bool all = lo[h] <= b * 64 && hi[h] >= b * 64 + 64;
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float y = x[4 * n + 2 * h + j] * sc;
                    if (p.softcap > 0)
                        y = p.softcap * tanhf(y / p.softcap) * LOG2E;
                    u32 pos = b * 64 + 8 * n + 2 * t + j;
                    if (!all && !(pos >= lo[h] && pos < hi[h]))
                        y = -INFINITY;
                    x[4 * n + 2 * h + j] = y;
                    mx = fmaxf(mx, y);
                }
            mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 1));
            mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 2));
            const float nm = fmaxf(m[h], mx), off = nm == -INFINITY ? 0.0f : nm, c = ex2(m[h] - off);
            float sum = 0;
            m[h] = nm;
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    x[4 * n + 2 * h + j] = ex2(x[4 * n + 2 * h + j] - off);
                    sum += x[4 * n + 2 * h + j];
                }
            l[h] = l[h] * c + sum; /* a lane's own columns; lanes are added at the end */
#pragma unroll
            for (int i = 0; i < D / 64; i++)
#pragma unroll
                for (int n = 0; n < 8; n++) {
                    o[i][4 * n + 2 * h] *= c;
                    o[i][4 * n + 2 * h + 1] *= c;
                }
#pragma unroll
            for (int k = 0; k < 4; k++) {
                pa[k][h] = pack_h2_fast(x[8 * k + 2 * h], x[8 * k + 2 * h + 1]);
                pa[k][2 + h] = pack_h2_fast(x[8 * k + 4 + 2 * h], x[8 * k + 4 + 2 * h + 1]);
            }
        }
#pragma unroll
        for (int k = 0; k < 4; k++)
            asm volatile("" : "+r"(pa[k][0]), "+r"(pa[k][1]), "+r"(pa[k][2]), "+r"(pa[k][3])::"memory");
        mbar_wait(full_v + s * 8, ph);
#pragma unroll
        for (int i = 0; i < D / 64; i++)
            pin<32>(o[i]);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int i = 0; i < D / 64; i++)
                wgmma_t64(o[i], pa[k], wgmma_desc(vsm + s * TILE + i * 8192) + 128 * k);
        wgmma_commit();
        wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < D / 64; i++)
            pin<32>(o[i]);
        if (lane == 0)
            mbar_arrive(empty_v + s * 8);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float L = l[h], f = 1.0f;
        L += __shfl_xor_sync(~0u, L, 1);
        L += __shfl_xor_sync(~0u, L, 2);
        if (!live[h])
            continue;
        if (p.sinks) {
            float s = ((const float *)p.sinks)[hd[h]] * LOG2E, nm = fmaxf(m[h], s);
            f = ex2(m[h] - nm);
            L = L * f + ex2(s - nm);
        }
        f = L > 0 ? f / L : 0.0f;
#pragma unroll
        for (int i = 0; i < D / 64; i++)
#pragma unroll
            for (int n = 0; n < 8; n++) {
                u32 d = 64 * i + 8 * n + 2 * t, col = hd[h] * p.d_v + d;
                if (d >= p.d_v)
                    continue;
                float a = o[i][4 * n + 2 * h] * f, c = o[i][4 * n + 2 * h + 1] * f;
                if (p.out_f16)
                    *(u32 *)((u16 *)p.out + (u64)tk[h] * p.ldo + ACT_POS(col)) = pack_h2(a, c);
                else
                    *(float2 *)((float *)p.out + (u64)tk[h] * p.ldo + col) = make_float2(a, c);
            }
    }
    if (p.out_f16 && kh == 0)
        for (u32 i = 0; i < n_tok; i++)
            for (u32 c = p.n_head * p.d_v + tid - 128; c < p.ldo; c += 256)
                ((u16 *)p.out)[(u64)(p.tok0 + first + i) * p.ldo + ACT_POS(c)] = 0;
}

KERNEL(384, 1) imp_attend_w128(const __grid_constant__ attend_w_params p) { attend_w<128>(p); }
#endif

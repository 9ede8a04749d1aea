/* gemv: y[M][N] f32 = x[M][K] W[N][K]^T for M <= 8 rows of class D: decoding. One function for all layouts, a kernel a
 * layout; the matrices of a fused launch may differ (Q4_K_M keeps V in Q6_K), and have kernels that ask.
 * Work: item = a row tile (or a gate/up pair of them); seg warps of a block share an item, each a run of K; the partial
 * sums meet in shared memory and one warp, in turn, adds them in a fixed order while the others go on. Each warp streams
 * its own tiles through its own ring with bulk copies, so nothing but the sums needs a block-wide barrier, and copies of
 * weights start before the previous kernel is done (PDL).
 * The 8 columns of the mma are the M rows; columns past M repeat row 0 and are dropped.
 * Bytes: N*K*bits/8 + small; memory bound. Floor and what was reached: docs/kernels.md.
 * Numerics: f16 products, f32 sums; order = tiles of a segment, then segments in order (z groups apart), independent of M. */
#include "decode.cuh"

#define WARPS 8
#define SUMS 4 /* items whose sums may be under way */

template <int L> DEV void tile_mma(const in_smem &src, u32 lane, const u32 *lut, u32 xaddr, float *acc)
{
    scales q;
    tile_scales<L>(src, lane, q);
#pragma unroll
    for (int c = 0; c < 4; c++) {
        u32 a[4][4], b[8];
        ldmatrix4(b, xaddr + c * 128);
        ldmatrix4(b + 4, xaddr + c * 128 + 64);
        chunk<L>(src, lane, c, q, lut, a);
#pragma unroll
        for (int j = 0; j < 4; j++)
            mma_f16(acc, a[j], b[2 * j], b[2 * j + 1]);
    }
}

/* The warp's tiles of a unit, as they come in; each place is asked for anew once it is read. */
template <int L, class F>
DEV void multiply(const gemv_args &p, const dweight &w, u32 k0, u32 k1, u32 lane, u32 ring, u32 bars, u32 xbase, u32 &slot, u32 &phase, float *acc, F request)
{
#pragma unroll 1
    for (u32 kt = k0; kt < k1; kt++) {
        mbar_wait(bars + slot * 8, phase);
        const in_smem src = {ring + slot * p.slot_bytes};
        tile_mma<L>(src, lane, w.lut, xbase + kt * 512, acc);
        __syncwarp();
        request();
        if (++slot == p.n_stage) {
            slot = 0;
            phase ^= 1;
        }
    }
}

/* The warp's stream of tiles: items, then gate/up, then its segment. src and left are of the segment being asked for. */
struct stream {
    const u8 *src;
    u32 left, bytes, item, sub, slot;
};

/* Segments of one output in order, z groups of them apart; then scale and bias. seg and z are powers of two, seg at most
 * 8: all parts are asked for at once, and no division stands in the way of the warp that adds. */
DEV float total(const dweight &w, const float *part, u32 stride, u32 seg, u32 n)
{
    const u32 per = seg / w.z;
    float x[8], v = 0, sum = 0;
#pragma unroll
    for (u32 s = 0; s < 8; s++)
        x[s] = s < seg ? part[s * stride] : 0.0f;
#pragma unroll
    for (u32 s = 0; s < 8; s++) {
        const bool end = ((s + 1) & (per - 1)) == 0;
        if (s < seg)
            sum += x[s];
        if (s < seg && end) {
            v += sum;
            sum = 0;
        }
    }
    return with_scale_and_bias(w, v, n);
}

/* L0, L1: the layouts of the launch, which are one or two; -1: any. */
template <int L0, int L1> DEV void gemv(const gemv_args &p)
{
    extern __shared__ __align__(128) u8 smem[];
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    const u32 seg = p.w[0].seg, groups = WARPS / seg, grp = warp / seg, my_seg = warp % seg;
    const u32 n_sub = p.pair ? 2 : 1;
    const u32 kpad = p.w[0].k_tiles * TILE_COLS, xstride = kpad * 2 + 16;
    /* rings' barriers 512 | sums' barriers 512 | norm scratch 64 | sums 4 x 8 x 2 x 16 m | x | rings */
    const u32 rs = 16 * p.m; /* floats of a warp's sums */
    float *red = (float *)(smem + 1088);
    u8 *xs = smem + 1088 + 4096 * p.m;
    const u32 ring = smem_addr(xs) + ((p.m * xstride + 127) & ~127u) + warp * p.n_stage * p.slot_bytes;
    const u32 bars = smem_addr(smem) + warp * 64, sums = smem_addr(smem) + 512;
    const u32 k0 = seg_begin(p.w[0], my_seg), k1 = seg_begin(p.w[0], my_seg + 1);
    const u32 step = gridDim.x * groups;
    const u64 pol = policy_evict_first();

    if (lane == 0)
        for (u32 i = 0; i < p.n_stage; i++)
            mbar_init(bars + i * 8, 1);
    if (tid < groups * SUMS) {
        mbar_init(sums + tid * 16, seg);
        mbar_init(sums + tid * 16 + 8, 1);
    }
    mbar_init_fence();
    __syncwarp();
    pdl_launch();

    u64 expert_off0 = 0, expert_off1 = 0;
    const u32 row = blockIdx.y;       /* pairs of MoE and heads have one row a blockIdx.y */
    u32 bias_off = 0;
    if (p.ids) {
        pdl_wait(); /* the choice of experts is the previous kernel's */
        u32 e = (u32)((const i32 *)p.ids)[row];
        expert_off0 = e * p.w[0].expert_stride;
        expert_off1 = e * p.w[1].expert_stride;
        bias_off = e * p.w[0].rows;
    } else if (p.x_groups) {
        expert_off0 = (row % p.x_groups) * p.w[0].expert_stride;
        bias_off = (row % p.x_groups) * p.w[0].rows;
    }

    stream in = {0, 0, 0, blockIdx.x * groups + grp, 0, 0};
    auto request = [&]() {
        if (in.left == 0) { /* the next segment */
            if (in.item >= p.n_item)
                return;
            u32 wi = in.sub, rt = in.item;
            if (!p.pair) {
                wi = p.n_w > 1 && rt >= p.item_begin[1] ? (p.n_w > 2 && rt >= p.item_begin[2] ? 2 : 1) : 0;
                rt -= p.item_begin[wi];
            }
            in.bytes = p.w[wi].tile_bytes;
            in.src = (const u8 *)p.w[wi].tiles + (rt * p.w[0].k_tiles + k0) * in.bytes; /* a matrix is under 4 GiB */
            if (p.expert)
                in.src += wi ? expert_off1 : expert_off0;
            in.left = k1 - k0;
            if (++in.sub == n_sub) {
                in.sub = 0;
                in.item += step;
            }
        }
        if (lane == 0) {
            mbar_expect(bars + in.slot * 8, in.bytes);
            bulk_load(ring + in.slot * p.slot_bytes, in.src, in.bytes, bars + in.slot * 8, pol);
        }
        in.src += in.bytes;
        in.left--;
        in.slot = in.slot + 1 == p.n_stage ? 0 : in.slot + 1;
    };
    for (u32 i = 0; i < p.n_stage; i++)
        request();

    if (!p.ids)
        pdl_wait();
    /* ---- x to shared memory as f16 in fragment order ---- */
    const u32 xrow = p.ids ? (p.x_per_choice ? row : row / p.n_choice) : p.x_groups ? row / p.x_groups : 0;
    const u32 xcol = p.x_groups ? (row % p.x_groups) * p.k : 0;
    const bool tells = p.norm_out && blockIdx.x == 0; /* others want the normalised row too; there is one row then */
    for (u32 m = 0; m < p.m; m++) {
        u16 *dst = (u16 *)(xs + m * xstride);
        if (p.x_kind == X_F16) {
            const u16 *src = (const u16 *)p.x + (u64)(xrow + m) * p.ldx;
            for (u32 i = tid * 8; i < kpad; i += 256 * 8)
                *(uint4 *)(dst + i) = *(const uint4 *)(src + i);
            continue;
        }
        const float *src = (const float *)p.x + (u64)(xrow + m) * p.ldx + xcol;
        const float *nw = p.x_kind == X_NORM ? (const float *)p.norm_w : 0;
        const float one = nw ? p.plus_one : 1.0f;
        if (p.k % 4 == 0 && p.k <= 4096) {
            float4 v[4], g[4];
#pragma unroll
            for (int j = 0; j < 4; j++)
                g[j] = nw && tid * 4 + 1024u * j < p.k ? *(const float4 *)(nw + tid * 4 + 1024 * j) : make_float4(0, 0, 0, 0);
            float scale = 1.0f;
            if (p.x_kind == X_NORM)
                scale = row_rms<4>(src, p.k, p.eps, (float *)(smem + 1024), v);
            else
#pragma unroll
                for (int j = 0; j < 4; j++)
                    v[j] = tid * 4 + 1024u * j < p.k ? *(const float4 *)(src + tid * 4 + 1024 * j) : make_float4(0, 0, 0, 0);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                u32 i = tid * 4 + 1024 * j;
                if (i < kpad) {
                    const float4 y = make_float4(v[j].x * scale * (g[j].x + one), v[j].y * scale * (g[j].y + one), v[j].z * scale * (g[j].z + one),
                                                 v[j].w * scale * (g[j].w + one));
                    *(u32 *)(dst + ACT_POS(i)) = pack_h2(y.x, y.y);
                    *(u32 *)(dst + ACT_POS(i + 2)) = pack_h2(y.z, y.w);
                    if (tells && !p.norm_f16 && i < p.k)
                        *(float4 *)((float *)p.norm_out + i) = y;
                }
            }
            continue;
        }
        float scale = p.x_kind == X_NORM ? row_rms<0>(src, p.k, p.eps, (float *)(smem + 1024), 0) : 1.0f;
        for (u32 i = tid; i < kpad; i += 256) {
            float v = i < p.k ? src[i] : 0.0f;
            if (p.x_kind == X_NORM && i < p.k)
                v = v * scale * (nw ? nw[i] + p.plus_one : 1.0f);
            dst[ACT_POS(i)] = f2h(v);
            if (tells && !p.norm_f16 && i < p.k)
                ((float *)p.norm_out)[i] = v;
        }
    }
    __syncthreads();
    if (tells && p.norm_f16)
        for (u32 i = tid * 8; i < kpad; i += 256 * 8)
            *(uint4 *)((u16 *)p.norm_out + i) = *(const uint4 *)(xs + i * 2);

    /* ldmatrix: lanes 8i .. 8i+7 point at the 8 columns of 16 bytes i */
    const u32 xcolumn = lane & 7;
    const u32 xbase = smem_addr(xs) + (xcolumn < p.m ? xcolumn : 0) * xstride + (lane >> 3) * 16;
    u32 slot = 0, phase = 0, turn = 0;
    for (u32 item = blockIdx.x * groups + grp; item < p.n_item; item += step, turn++) {
        const u32 buf = turn % SUMS, full = sums + (grp * SUMS + buf) * 16, free = full + 8;
        u32 wi = p.pair ? 0 : p.n_w > 1 && item >= p.item_begin[1] ? (p.n_w > 2 && item >= p.item_begin[2] ? 2 : 1) : 0;
        const u32 rt = item - (p.pair ? 0 : p.item_begin[wi]), i0 = lane;
        float res = 0; /* asked for early: it is one trip to memory */
        const bool mine = turn % seg == my_seg; /* this warp adds the item's sums up */
        if (mine && p.residual && i0 < 16 * p.m && rt * 16 + (i0 & 15) < p.w[wi].rows)
            res = ((const float *)p.residual)[(u64)(row * p.m + (i0 >> 4)) * p.ldr + rt * 16 + (i0 & 15)];
        for (u32 sub = 0; sub < n_sub; sub++) {
            const dweight &w = p.w[p.pair ? sub : wi];
            float acc[4] = {0, 0, 0, 0};
            if (L0 < 0)
                LAYOUT_SWITCH(w.layout, (multiply<L>(p, w, k0, k1, lane, ring, bars, xbase, slot, phase, acc, request));)
            else if (L0 == L1 || w.layout == L0)
                multiply<L0 < 0 ? 0 : L0>(p, w, k0, k1, lane, ring, bars, xbase, slot, phase, acc, request);
            else
                multiply<L1 < 0 ? 0 : L1>(p, w, k0, k1, lane, ring, bars, xbase, slot, phase, acc, request);
            if (sub == 0 && turn >= SUMS)
                mbar_wait(free, (turn / SUMS & 1) ^ 1);
            float *r = red + ((buf * WARPS + warp) * 2 + sub) * rs + (lane >> 2);
            u32 t = lane & 3;
            if (2 * t < p.m)
                r[2 * t * 16] = acc[0], r[2 * t * 16 + 8] = acc[2];
            if (2 * t + 1 < p.m)
                r[(2 * t + 1) * 16] = acc[1], r[(2 * t + 1) * 16 + 8] = acc[3];
        }
        __syncwarp();
        if (lane == 0)
            mbar_arrive(full);
        if (!mine)
            continue; /* on to the next item; nobody waits for the sums but the warp that adds them */
        mbar_wait(full, turn / SUMS & 1);
        const dweight &w = p.w[wi];
        for (u32 i = i0; i < 16 * p.m; i += 32) {
            u32 r = i & 15, m = i >> 4, n = rt * 16 + r;
            if (n >= w.rows)
                continue;
            const float *q = red + (buf * WARPS + grp * seg) * 2 * rs + i;
            float y = total(w, q, 2 * rs, seg, bias_off + n);
            if (p.pair)
                y = glu_apply(p.act, y, total(p.w[1], q + rs, 2 * rs, seg, bias_off + n), p.limit, p.alpha);
            u32 orow = row * p.m + m;
            if (p.out_f16) {
                ((u16 *)p.out[0])[(u64)orow * p.ldo[0] + ACT_POS(n)] = f2h(y);
            } else {
                if (p.residual)
                    y = (i == i0 ? res : ((const float *)p.residual)[(u64)orow * p.ldr + n]) + y;
                ((float *)p.out[wi])[(u64)orow * p.ldo[wi] + n] = y;
            }
        }
        __syncwarp();
        if (lane == 0)
            mbar_arrive(free);
    }
}

/* A kernel a layout, and for the mixtures that files have: code that knows its layout takes fewer instructions and registers. */
#define GEMV(name, l0, l1) \
    KERNEL(256, 3) imp_gemv_##name(const __grid_constant__ gemv_args p) { gemv<l0, l1>(p); }
GEMV(f16, LAY_F16, LAY_F16)
GEMV(i8, LAY_I8, LAY_I8)
GEMV(u4, LAY_U4, LAY_U4)
GEMV(nv4, LAY_NV4, LAY_NV4)
GEMV(q4k, LAY_Q4K, LAY_Q4K)
GEMV(q5k, LAY_Q5K, LAY_Q5K)
GEMV(q6k, LAY_Q6K, LAY_Q6K)
GEMV(f8, LAY_F8, LAY_F8)
GEMV(q4k_q6k, LAY_Q4K, LAY_Q6K)
GEMV(q5k_q6k, LAY_Q5K, LAY_Q6K)
GEMV(any, -1, -1)

/* gemv: y[N] f32 = W[N][K] x[K] for a row of class D: decoding one sequence. One function for all layouts, a kernel a
 * layout; the matrices of a fused launch may differ (Q4_K_M keeps V in Q6_K), and have kernels that ask. What dense
 * layers are made of has kernels of its own (gemv_dense.cu); this takes the rest: f32 rows, rows to be normalised of an
 * odd number of columns or more than 8,192, heads, experts. More rows are batch.cu's and rows.cu's, with the same sums.
 * Work: item = a row tile (or a gate/up pair of them); seg warps of a block share an item, each a run of K; the partial
 * sums meet in shared memory and one warp, in turn, adds them in a fixed order while the others go on. Each warp
 * streams its own tiles through its own ring, each lane copying 16 bytes at a time (cp.async), so nothing but the sums
 * needs a block-wide barrier; the first tiles are asked for before anything else is done, and before the previous
 * kernel is done.
 * The 8 columns of the mma are all the row; the first counts.
 * Bytes: N*K*bits/8 + small; memory bound. Floor and what was reached: docs/kernels.md.
 * Numerics: f16 products, f32 sums; order = tiles of a segment, then segments in order (z groups apart). */
#include "gemv.cuh"
#include "norm.cuh"

#define WARPS 8

/* Whose an item is, where they are no pairs. */
DEV u32 gemv_matrix(const gemv_args &p, u32 item)
{
    return p.n_w > 1 && item >= p.item_begin[1] ? (p.n_w > 2 && item >= p.item_begin[2] ? 2 : 1) : 0;
}

/* What run_items (gemv.cuh) asks. row: of the output; expert: whose weights. */
template <int L0, int L1> struct gemv_job {
    const gemv_args &p;
    u32 seg_, step_, row, expert;
    DEV_IN u32 seg(void) const { return seg_; }
    DEV_IN u32 n_item(void) const { return p.n_item; }
    DEV_IN u32 step(void) const { return step_; }
    DEV_IN u32 n_sub(void) const { return p.pair ? 2 : 1; }
    DEV_IN u32 matrix_of(u32 item) const { return p.pair ? 0 : gemv_matrix(p, item); }
    DEV_IN float residual(u32 item, u32 wi, bool mine, u32 lane) const
    {
        float res = 0;
        const u32 n = (item - p.item_begin[wi]) * 16 + lane;
        if (mine && p.residual && lane < 16 && n < p.w[wi].rows)
            res = ((const float *)p.residual)[(u64)row * p.ldr + n];
        return res;
    }
    template <class F>
    DEV_IN void product(u32 m, const lane_places &at, u32 lane, stream &in, float *acc, F request) const
    {
        const dweight &w = p.w[m];
        if (L0 < 0)
            LAYOUT_SWITCH(w.layout, (multiply<L, 2>(w.lut, at.n_tile, lane, at.row, in, acc, request));)
        else if (L0 == L1 || w.layout == L0)
            multiply<L0 < 0 ? 0 : L0, 2>(w.lut, at.n_tile, lane, at.row, in, acc, request);
        else
            multiply<L1 < 0 ? 0 : L1, 2>(w.lut, at.n_tile, lane, at.row, in, acc, request);
    }
    /* Lanes 0 to 15 have a row each, of a pair's first matrix, 16 to 31 of its second; parts: of the lane's row, in
     * shared memory. */
    DEV_IN void total(u32 item, u32 wi, u32 lane, u32 parts, float res) const
    {
        const u32 sub = lane >> 4, n = (item - p.item_begin[wi]) * 16 + (lane & 15);
        if (sub && !p.pair)
            return;
        const dweight &w = p.w[p.pair ? sub : wi];
        float x[8];
        if (seg_ == 8) {
            const float4 a = lds_f4(parts), b = lds_f4(parts + 16);
            x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
        } else {
#pragma unroll
            for (u32 s = 0; s < 8; s++)
                x[s] = s < seg_ ? __uint_as_float(lds32(parts + s * 4)) : 0.0f;
        }
        const bool in = n < w.rows;
        float y = ::total(w, x, seg_, in ? (p.expert ? expert * p.w[0].rows : 0) + n : 0);
        if (p.pair)
            y = glu_apply(p.act, y, __shfl_down_sync(~0u, y, 16), p.limit, p.alpha);
        if (!in || sub)
            return;
        if (p.out_f16)
            ((u16 *)p.out[0])[(u64)row * p.ldo[0] + ACT_POS(n)] = f2h(y);
        else
            ((float *)p.out[wi])[(u64)row * p.ldo[wi] + n] = p.residual ? res + y : y;
    }
};

/* The row to shared memory as f16 in fragment order, normalised where it is to be; then: what to do once it is asked
 * for. */
struct x_source {
    u32 row, col, kpad;
    bool quick, tells; /* at most 4096 columns, in fours; others want the normalised row too */
};

template <class F> DEV void make_x(const gemv_args &p, const x_source &x, u32 tid, u16 *dst, float *scratch, F then)
{
    const float *src = (const float *)p.x + (u64)x.row * p.ldx + x.col;
    const float *nw = p.x_kind == X_NORM ? (const float *)p.norm_w : 0;
    const float one = nw ? p.plus_one : 1.0f;
    if (x.quick) {
        float4 v[4], g[4];
        load_part<4>(v, src, p.k, tid);
        load_part<4>(g, nw, p.k, tid, nw);
        then();
        const float scale = p.x_kind == X_NORM ? rms_of<4>(v, p.k, p.eps, scratch) : 1.0f;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            u32 i = tid * 4 + 1024 * j;
            if (i < x.kpad) {
                const float4 y = normed(v[j], scale, plus(g[j], one));
                *(u32 *)(dst + ACT_POS(i)) = pack_h2(y.x, y.y);
                *(u32 *)(dst + ACT_POS(i + 2)) = pack_h2(y.z, y.w);
                if (x.tells && !p.norm_f16 && i < p.k)
                    *(float4 *)((float *)p.norm_out + i) = y;
            }
        }
        return;
    }
    then();
    if (p.x_kind == X_F16) {
        const u16 *h = (const u16 *)p.x + (u64)x.row * p.ldx;
#pragma unroll 4
        for (u32 i = tid * 8; i < x.kpad; i += 256 * 8)
            *(uint4 *)(dst + i) = *(const uint4 *)(h + i);
        return;
    }
    const float scale = p.x_kind == X_NORM ? row_rms(src, p.k, p.eps, scratch) : 1.0f;
    for (u32 i = tid; i < x.kpad; i += 256) {
        float v = i < p.k ? src[i] : 0.0f;
        if (p.x_kind == X_NORM && i < p.k)
            v = normed(v, scale, nw ? nw[i] + p.plus_one : 1.0f);
        dst[ACT_POS(i)] = f2h(v);
        if (x.tells && !p.norm_f16 && i < p.k)
            ((float *)p.norm_out)[i] = v;
    }
}

/* L0, L1: the layouts of the launch, which are one or two; -1: any. */
template <int L0, int L1> DEV void gemv(const gemv_args &p)
{
    extern __shared__ __align__(128) u8 smem[];
    /* a warp's number is the same in all its lanes: told so, the compiler keeps what follows from it once a warp */
    const u32 tid = threadIdx.x, warp = __shfl_sync(~0u, tid >> 5, 0), lane = tid & 31;
    const u32 seg = p.w[0].seg, log_seg = 31 - __clz((int)seg), groups = WARPS >> log_seg;
    const u32 grp = warp >> log_seg, my_seg = warp & (seg - 1);
    const u32 n_sub = p.pair ? 2 : 1;
    const u32 kpad = p.w[0].k_tiles * TILE_COLS;
    /* norm scratch 64 | sums 4096 | x | rings */
    const u32 sums = smem_addr(smem + 64);
    u16 *xs = (u16 *)(smem + 64 + 4096);
    const u32 k0 = seg_begin(p.w[0], my_seg), k1 = seg_begin(p.w[0], my_seg + 1);
    const u32 step = gridDim.x * groups, row = blockIdx.y; /* pairs of MoE and heads have one row a blockIdx.y */

    u32 expert = 0;
    if (p.ids) {
        pdl_launch();
        pdl_wait(); /* the choice of experts is the previous kernel's */
        expert = (u32)((const i32 *)p.ids)[row];
    } else if (p.x_groups) {
        expert = row % p.x_groups;
    }

    const u32 ring = smem_addr(xs) + kpad * 2 + warp * 2 * p.slot_bytes;
    stream in = {ring, ring, p.slot_bytes, 0, 0, blockIdx.x * groups + grp, 0, 0};
    auto request = [&]() {
        if (in.left == 0 && in.item < p.n_item) { /* the next segment */
            u32 wi = in.sub, rt = in.item;
            if (!p.pair) {
                wi = gemv_matrix(p, rt);
                rt -= p.item_begin[wi];
            }
            in.layout = p.w[wi].layout;
            in.src = (const u8 *)p.w[wi].tiles + (rt * p.w[0].k_tiles + k0) * p.w[wi].tile_bytes +
                     lane * 16; /* a matrix is under 4 GiB */
            if (p.expert)
                in.src += expert * p.w[wi].expert_stride;
            in.left = (k1 - k0) * (L0 == LAY_F16 || (L0 < 0 && in.layout == LAY_F16) ? 2 : 1);
            if (++in.sub == n_sub) {
                in.sub = 0;
                in.item += step;
            }
        }
        if (in.left) {
            const u32 to = in.at + lane * 16;
            u32 bytes;
            if (L0 < 0)
                LAYOUT_SWITCH(in.layout, copy_tile<piece<L>::BYTES>(to, in.src, lane); bytes = piece<L>::BYTES;)
            else if (L0 == L1 || in.layout == L0)
                bytes = piece<L0 < 0 ? 0 : L0>::BYTES, copy_tile<piece<L0 < 0 ? 0 : L0>::BYTES>(to, in.src, lane);
            else
                bytes = piece<L1 < 0 ? 0 : L1>::BYTES, copy_tile<piece<L1 < 0 ? 0 : L1>::BYTES>(to, in.src, lane);
            in.src += bytes;
            in.left--;
        }
        cp_async_commit();
    };
    /* The second place is asked for behind the row where the kernel before is a long one: the row is what all wait for,
     * and would have to wait for the weights. Rows without a norm come from kernels that leave room, and time, for
     * both. */
    const bool both = p.x_kind == X_F16 && !p.ids;
    auto ask = [&]() {
        request();
        in.next<2>();
    };
    ask();
    if (both)
        ask();
    if (p.x_kind == X_NORM && p.norm_w && blockIdx.x < 4) /* it was last read a step ago */
        for (u32 i = tid * 32; i < p.k; i += 256 * 32)
            asm volatile("prefetch.global.L2 [%0];" ::"l"((const float *)p.norm_w + i));
    if (!p.ids)
        pdl_launch();

    x_source x = {p.ids ? (p.x_per_choice ? row : row / p.n_choice) : p.x_groups ? row / p.x_groups : 0,
                  p.x_groups ? (row % p.x_groups) * p.k : 0, kpad,
                  p.x_kind != X_F16 && p.k % 4 == 0 && p.k <= 4096, p.norm_out && blockIdx.x == 0};
    if (!p.ids)
        pdl_wait();
    make_x(p, x, tid, xs, (float *)smem, [&]() {
        if (!both)
            ask();
    });
    __syncthreads();
    if (x.tells && p.norm_f16)
        for (u32 i = tid * 8; i < kpad; i += 256 * 8)
            *(uint4 *)((u16 *)p.norm_out + i) = *(const uint4 *)(xs + i);

    /* ldmatrix: lanes 8i .. 8i+7 point at the 8 columns of 16 bytes i, which are the same */
    const lane_places at = {smem_addr(xs) + (lane >> 3) * 16 + k0 * 512, sums + ((lane >> 2) * seg + my_seg) * 4,
                            sums + lane * seg * 4, k1 - k0};
    const gemv_job<L0, L1> job = {p, seg, step, row, expert};
    run_items(job, blockIdx.x * groups + grp, grp, my_seg, lane, at, in, request);
}

/* A kernel a layout, and for the mixtures that files have: code that knows its layout takes fewer instructions and
 * registers. */
#define GEMV(name, l0, l1, blocks) \
    KERNEL(256, blocks) imp_gemv_##name(const __grid_constant__ gemv_args p) { gemv<l0, l1>(p); }
GEMV(f16, LAY_F16, LAY_F16, 3)
GEMV(i8, LAY_I8, LAY_I8, 2)
GEMV(u4, LAY_U4, LAY_U4, 3)
GEMV(nv4, LAY_NV4, LAY_NV4, 3)
GEMV(q4k, LAY_Q4K, LAY_Q4K, 3)
GEMV(q5k, LAY_Q5K, LAY_Q5K, 3)
GEMV(q6k, LAY_Q6K, LAY_Q6K, 3)
GEMV(f8, LAY_F8, LAY_F8, 2)
GEMV(q4k_q6k, LAY_Q4K, LAY_Q6K, 3)
GEMV(q5k_q6k, LAY_Q5K, LAY_Q6K, 3)
GEMV(any, -1, -1, 3)

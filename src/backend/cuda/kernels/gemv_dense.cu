/* gemv_dense: gemv.cu's products for what a step of a dense model is made of, a kernel a layout and purpose:
 *   norm  up to three matrices of an f32 row that is normalised first: QKV, head
 *   pair  act(gate x) * (up x) of such a row, as f16
 *   half  one matrix of an f16 row, with a residual or not: attn_output, down
 * norm8 and pair8 are norm and pair for rows of more than 4,096 columns, up to 8,192.
 * Between two of these kernels the card's memory idles, and all that a block does until its first tile is multiplied is
 * on that path, its instructions fetched anew each time. So this is gemv without choices: what the host can work out it
 * does, a norm's weights (and whatever else no kernel makes) are loaded before the previous kernel is done, and rare
 * paths are functions. The same segments, sums and roundings as gemv, rows and batch;
 * Bytes: N*K*bits/8 + small. Floor and what was reached: docs/kernels.md. */
#include "gemv.cuh"
#include "norm.cuh"

#define THREADS 256
enum { NORM, PAIR, HALF };
/* float4s of a norm's weights that a thread has registers for, next to eight of the row: all of 5,120 columns. The rest
 * waits in shared memory, where the row will be. */
#define KEPT_WEIGHTS 5
/* The row, f16 in fragment order. */
DEV void copy_row(const dense_args &p, u32 tid, u16 *xs)
{
    const u16 *h = (const u16 *)p.x;
    const u32 n = p.k_tiles * TILE_COLS;
    for (u32 i = tid * 8; i < n; i += 8 * THREADS * 8) { /* eight trips to memory at a time */
        uint4 v[8];
#pragma unroll
        for (u32 j = 0; j < 8; j++)
            if (i + j * THREADS * 8 < n)
                v[j] = *(const uint4 *)(h + i + j * THREADS * 8);
#pragma unroll
        for (u32 j = 0; j < 8; j++)
            if (i + j * THREADS * 8 < n)
                *(uint4 *)(xs + i + j * THREADS * 8) = v[j];
    }
}

/* The same from f32 and normalised; v and g: the values and the norm's weights of the thread's columns. to: where the
 * first of them goes; two columns further on are 8 further on there, 1024 are 1024. rest: where the weights lie that g
 * has not. */
template <int N>
DEV void norm_row(const dense_args &p, u32 tid, const float4 *v, const float4 *g, u32 to, u32 rest, float *scratch)
{
    constexpr int KEPT = N < KEPT_WEIGHTS ? N : KEPT_WEIGHTS;
    const float scale = rms_of<N>(v, p.k, p.eps, scratch);
    if (N > KEPT && p.k > 1024 * KEPT) {
        u32 h[N - KEPT + 1][2];
        cp_async_wait<1>(); /* all but the warp's second tile */
#pragma unroll
        for (int j = KEPT; j < N; j++) {
            const float4 y = normed(v[j], scale, plus(lds_f4(rest + 4096 * (j - KEPT)), p.one));
            h[j - KEPT][0] = pack_h2(y.x, y.y);
            h[j - KEPT][1] = pack_h2(y.z, y.w);
        }
        __syncwarp(); /* the warp's columns go where its weights lay */
#pragma unroll
        for (int j = KEPT; j < N; j++) {
            const bool in = tid * 4 + 1024 * j < p.k_tiles * TILE_COLS;
            sts32_if(in, to + 2048 * j, h[j - KEPT][0]);
            sts32_if(in, to + 2048 * j + 16, h[j - KEPT][1]);
        }
    }
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
        const bool in = tid * 4 + 1024 * j < p.k_tiles * TILE_COLS;
        const float4 y = normed(v[j], scale, N > 4 ? plus(g[j], p.one) : g[j]);
        sts32_if(in, to + 2048 * j, pack_h2(y.x, y.y));
        sts32_if(in, to + 2048 * j + 16, pack_h2(y.z, y.w));
    }
}

/* For a mixture, whose experts read the row as well. */
static __device__ __noinline__ void tell_row(const dense_args &p, u32 tid, const u16 *xs, float *scratch)
{
    if (p.norm_f16) {
        for (u32 i = tid * 8; i < p.k_tiles * TILE_COLS; i += THREADS * 8)
            *(uint4 *)((u16 *)p.norm_out + i) = *(const uint4 *)(xs + i);
        return;
    }
    const float *src = (const float *)p.x, *nw = (const float *)p.norm_w;
    const float scale = row_rms(src, p.k, p.eps, scratch);
    for (u32 i = tid; i < p.k; i += 256)
        ((float *)p.norm_out)[i] = normed(src[i], scale, (nw ? nw[i] : 0.0f) + p.one);
}

/* Row n of matrix m from its parts, in shared memory. */
static __device__ __noinline__ float total_rare(const dense_args &p, u32 m, u32 n, u32 parts)
{
    float x[8];
#pragma unroll
    for (u32 s = 0; s < 8; s++)
        x[s] = s < 1u << p.log_seg ? __uint_as_float(lds32(parts + s * 4)) : 0.0f;
    return scale_and_bias(add_segments(x, 1u << p.log_seg, p.per[m]), p.unit[m], p.row_scale[m], p.bias[m], n);
}
/* The same where there are eight parts, or four, and nothing is added or multiplied behind them. */
DEV float total_plain(const dense_args &p, u32 m, u32 parts)
{
    const bool all = p.per[m] >= 4; /* one group; else groups of two, or of one */
    const float4 a = lds_f4(parts);
    float v;
    if (p.log_seg == 3) {
        const float4 b = lds_f4(parts + 16);
        v = all ? (((((((0.0f + a.x) + a.y) + a.z) + a.w) + b.x) + b.y) + b.z) + b.w
                : ((((0.0f + a.x) + a.y) + ((0.0f + a.z) + a.w)) + ((0.0f + b.x) + b.y)) + ((0.0f + b.z) + b.w);
    } else {
        v = (((0.0f + a.x) + a.y) + a.z) + a.w; /* in order, whether one group or four */
    }
    return v * p.unit[m];
}

/* Lanes 0 to 15 have a row of item n_item each, of a pair's first matrix, 16 to 31 of its second; parts: of the
 * lane's row, in shared memory. */
template <int KIND> DEV void finish(const dense_args &p, u32 item, u32 wi, u32 lane, u32 parts, float res)
{
    const u32 m = KIND == PAIR ? lane >> 4 : wi, r = lane & 15, n = (KIND == NORM ? item - p.begin[wi] : item) * 16 + r;
    if (KIND != PAIR && lane >= 16)
        return;
    const bool in = n < p.rows[m];
    float y = p.plain ? total_plain(p, m, parts) : total_rare(p, m, in ? n : 0, parts);
    if (KIND == PAIR) {
        const float up = __shfl_down_sync(~0u, y, 16);
        y = glu_usual(p.act, y, up, p.limit, p.alpha);
        if (in && lane < 16)
            ((u16 *)p.out[0])[ACT_POS(n)] = f2h(y);
    } else if (in) {
        ((float *)p.out[m])[n] = KIND == HALF && p.residual ? res + y : y;
    }
}

/* The row to shared memory, once the previous kernel is done. second: asks for the warp's second tile.
 * The next kernel is let in behind the row, or its blocks would ask for their weights while the row comes; where the
 * row is f16, and here sooner than their weights could be, at once. */
template <int KIND, int N, class F> DEV void make_row(const dense_args &p, u32 tid, u16 *xs, float *scratch, F second)
{
    if (KIND == HALF) {
        pdl_wait();
        pdl_launch();
        copy_row(p, tid, xs);
        __syncthreads();
        return;
    }
    constexpr int KEPT = N < KEPT_WEIGHTS ? N : KEPT_WEIGHTS;
    float4 g[KEPT], v[N];
    load_part<KEPT>(g, (const float *)p.norm_w, p.k, tid, p.norm_w);
    if (N <= 4) /* else registers are few, and they would be waited for before the row is asked for */
#pragma unroll
        for (int j = 0; j < KEPT; j++)
            g[j] = plus(g[j], p.one);
    u32 to = smem_addr(xs) + ACT_POS(tid * 4) * 2;
    hold(to);
    /* 1024 columns of weights are 4096 bytes, two runs of the 2048 that 1024 columns of the row will be, and of each a
     * warp's part is its own: no other warp is in its way. Past the row's end they are zeros, which may reach into the
     * sums' place: what lay there may be no number, and the padding is multiplied too. */
    const u32 rest = smem_addr(xs) + (tid >> 5) * 256 + (tid >> 4 & 1) * 2048 + (tid & 15) * 16;
    if (N > KEPT && p.k > 1024 * KEPT) {
#pragma unroll
        for (int j = KEPT; j < N; j++)
            cp_async16(rest + 4096 * (j - KEPT), (const float *)p.norm_w + tid * 4 + 1024 * j,
                       tid * 4 + 1024 * j < p.k);
        cp_async_commit();
    }
    pdl_wait();
    load_part<N>(v, (const float *)p.x, p.k, tid);
    second();
    norm_row<N>(p, tid, v, g, to, rest, scratch);
    __syncthreads();
    pdl_launch();
    if (KIND == NORM && p.norm_out && blockIdx.x == gridDim.x - 1) /* it has no other work, where all have room */
        tell_row(p, tid, xs, scratch);
}

/* What run_items (gemv.cuh) asks. */
template <int L0, int L1, int KIND, u32 PLACES> struct dense_job {
    static constexpr u32 N_SUB = KIND == PAIR ? 2 : 1;
    const dense_args &p;
    DEV_IN u32 seg(void) const { return 1u << p.log_seg; }
    DEV_IN u32 n_item(void) const { return p.n_item; }
    DEV_IN u32 step(void) const { return p.step; }
    DEV_IN u32 n_sub(void) const { return N_SUB; }
    DEV_IN u32 matrix_of(u32 item) const { return KIND != NORM ? 0u : (item >= p.begin[1]) + (item >= p.begin[2]); }
    DEV_IN float residual(u32 item, u32, bool mine, u32 lane) const
    {
        float res = 0;
        if (KIND == HALF && mine && p.residual && lane < 16 && item * 16 + lane < p.rows[0])
            res = ((const float *)p.residual)[item * 16 + lane];
        return res;
    }
    template <class F>
    DEV_IN void product(u32 m, const lane_places &at, u32 lane, stream &in, float *acc, F request) const
    {
        if (L0 == L1 || p.layout[m] == L0)
            multiply<L0, PLACES>(p.lut[m], at.n_tile, lane, at.row, in, acc, request);
        else
            multiply<L1, PLACES>(p.lut[m], at.n_tile, lane, at.row, in, acc, request);
    }
    DEV_IN void total(u32 item, u32 wi, u32 lane, u32 parts, float res) const
    {
        finish<KIND>(p, item, wi, lane, parts, res);
    }
};

/* N: a row that is to be normalised has at most 1024 * N columns.
 * Shared memory: norm scratch 64 | x | sums 4096 | rings. */
template <int L0, int L1, int KIND, int N> DEV void dense(const dense_args &p)
{
    extern __shared__ __align__(128) u8 smem[];
    constexpr u32 B0 = piece<L0>::BYTES, B1 = piece<L1>::BYTES, PLACE = B0 > B1 ? B0 : B1;
    constexpr u32 PLACES = DENSE_PLACES(KIND == HALF, PLACE);
    const u32 tid = threadIdx.x, warp = __shfl_sync(~0u, tid >> 5, 0), lane = tid & 31;
    const u32 seg = 1u << p.log_seg, grp = warp >> p.log_seg, my_seg = warp & (seg - 1);
    const u32 k0 = p.k_tiles * my_seg >> p.log_seg, n_tile = (p.k_tiles * (my_seg + 1) >> p.log_seg) - k0;
    const u32 ring = smem_addr(smem) + p.ring + warp * PLACES * PLACE, first = blockIdx.x * p.groups + grp;
    stream in = {ring, ring, PLACE, 0, 0, first, 0, 0};
    const dense_job<L0, L1, KIND, PLACES> job = {p};
    auto request = [&]() {
        if (in.left == 0 && in.item < p.n_item) { /* the next segment */
            const u32 wi = KIND == PAIR ? in.sub : job.matrix_of(in.item);
            const u32 rt = KIND == NORM ? in.item - p.begin[wi] : in.item;
            in.layout = L0 == L1 ? L0 : p.layout[wi];
            const u32 bytes = L0 == L1 || in.layout == L0 ? tile<L0>::BYTES : tile<L1>::BYTES;
            in.src = (const u8 *)p.tiles[wi] + (rt * p.k_tiles + k0) * bytes + lane * 16; /* a matrix is under 4 GiB */
            in.left = n_tile * piece<L0>::A_TILE; /* of two layouts, both have whole tiles */
            if (KIND == PAIR)
                in.sub ^= 1;
            if (KIND != PAIR || in.sub == 0)
                in.item += p.step;
        }
        in.ask<L0, L1>(lane);
    };
    auto ask = [&]() {
        request();
        in.next<PLACES>();
    };
    /* The second place is asked for behind a row that is to be normalised: the row is what all wait for, and would have
     * to wait for the weights. f16 rows come from kernels that leave room, and time, for all. */
    ask();
    if (KIND == HALF)
#pragma unroll
        for (u32 i = 1; i < PLACES; i++)
            ask();
    u16 *xs = (u16 *)(smem + 64);
    const u32 sums = smem_addr(xs) + p.k_tiles * TILE_COLS * 2;
    /* ldmatrix: lanes 8i .. 8i+7 point at the 8 columns of 16 bytes i, which are the same */
    lane_places at = {smem_addr(xs) + (lane >> 3) * 16 + k0 * 512, sums + ((lane >> 2) * seg + my_seg) * 4,
                      sums + lane * seg * 4, n_tile};
    hold(at.row), hold(at.sums_to), hold(at.sums_at), hold(at.n_tile);
    make_row<KIND, N>(p, tid, xs, (float *)smem, ask);
    run_items(job, first, grp, my_seg, lane, at, in, request);
}

#define DENSE(name, l0, l1, kind, KIND, n)                                             \
    KERNEL(THREADS, DENSE_BLOCKS)                                                      \
    imp_gemv_##name##_##kind(const __grid_constant__ dense_args p) { dense<l0, l1, KIND, n>(p); }
#define DENSE_NORMS(name, l0, l1) DENSE(name, l0, l1, norm, NORM, 4) DENSE(name, l0, l1, norm8, NORM, 8)
#define DENSE_ALL(name, l)                                                             \
    DENSE_NORMS(name, l, l)                                                            \
    DENSE(name, l, l, pair, PAIR, 4) DENSE(name, l, l, pair8, PAIR, 8) DENSE(name, l, l, half, HALF, 4)
DENSE_ALL(f16, LAY_F16)
DENSE_ALL(i8, LAY_I8)
DENSE_ALL(u4, LAY_U4)
DENSE_ALL(nv4, LAY_NV4)
DENSE_ALL(q4k, LAY_Q4K)
DENSE_ALL(q5k, LAY_Q5K)
DENSE_ALL(q6k, LAY_Q6K)
DENSE_ALL(f8, LAY_F8)
DENSE_NORMS(q4k_q6k, LAY_Q4K, LAY_Q6K)
DENSE_NORMS(q5k_q6k, LAY_Q5K, LAY_Q6K)

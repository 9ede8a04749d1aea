/* gemv_dense: gemv.cu's products for what a step of a dense model is made of, a kernel a layout and purpose:
 *   norm  up to three matrices of an f32 row that is normalised first: QKV, head
 *   pair  act(gate x) * (up x) of such a row, as f16
 *   half  one matrix of an f16 row, with a residual or not: attn_output, down
 * Between two of these kernels the card's memory idles, and all that a block does until its first tile is multiplied is on
 * that path, its instructions fetched anew each time. So this is gemv without choices: what the host can work out it does,
 * a norm's weights (and whatever else no kernel makes) are loaded before the previous kernel is done, and rare paths are
 * functions. The same segments, sums and roundings as gemv, rows and batch;
 * Bytes: N*K*bits/8 + small. Floor and what was reached: docs/kernels.md. */
#include "gemv.cuh"

#define THREADS 256
enum { NORM, PAIR, HALF };

/* Anything but SiLU. */
static __device__ __noinline__ float glu_rare(u32 act, float gate, float up, float limit, float alpha) { return glu_apply(act, gate, up, limit, alpha); }

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

/* The same from f32 and normalised; v and g: the values and the norm's weights of the thread's columns. to: where the first
 * of them goes; two columns further on are 8 further on there, 1024 are 1024. */
DEV void norm_row(const dense_args &p, u32 tid, const float4 *v, const float4 *g, u32 to, float *scratch)
{
    const float scale = rms_of<4>(v, p.k, p.eps, scratch);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const bool in = tid * 4 + 1024 * j < p.k_tiles * TILE_COLS;
        sts32_if(in, to + 2048 * j, pack_h2(v[j].x * scale * g[j].x, v[j].y * scale * g[j].y));
        sts32_if(in, to + 2048 * j + 16, pack_h2(v[j].z * scale * g[j].z, v[j].w * scale * g[j].w));
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
    const float scale = row_rms<0>(src, p.k, p.eps, scratch, 0);
    for (u32 i = tid; i < p.k; i += 256)
        ((float *)p.norm_out)[i] = src[i] * scale * ((nw ? nw[i] : 0.0f) + p.one);
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
DEV float4 lds_f4(u32 a)
{
    const uint4 v = lds128(a);
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}
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
        y = p.act == 0 ? __fdividef(y, 1.0f + __expf(-y)) * up : glu_rare(p.act, y, up, p.limit, p.alpha);
        if (in && lane < 16)
            ((u16 *)p.out[0])[ACT_POS(n)] = f2h(y);
    } else if (in) {
        ((float *)p.out[m])[n] = KIND == HALF && p.residual ? res + y : y;
    }
}

/* The row to shared memory, once the previous kernel is done. second: asks for the warp's second tile.
 * The next kernel is let in behind the row, or its blocks would ask for their weights while the row comes; where the
 * row is f16, and here sooner than their weights could be, at once. */
template <int KIND, class F> DEV void make_row(const dense_args &p, u32 tid, u16 *xs, float *scratch, F second)
{
    if (KIND == HALF) {
        pdl_wait();
        pdl_launch();
        copy_row(p, tid, xs);
        __syncthreads();
        return;
    }
    float4 g[4], v[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        g[j] = p.norm_w && tid * 4 + 1024u * j < p.k ? *(const float4 *)((const float *)p.norm_w + tid * 4 + 1024 * j) : make_float4(0, 0, 0, 0);
        g[j] = make_float4(g[j].x + p.one, g[j].y + p.one, g[j].z + p.one, g[j].w + p.one);
    }
    u32 to = smem_addr(xs) + ACT_POS(tid * 4) * 2;
    hold(to);
    pdl_wait();
#pragma unroll
    for (int j = 0; j < 4; j++)
        v[j] = tid * 4 + 1024u * j < p.k ? *(const float4 *)((const float *)p.x + tid * 4 + 1024 * j) : make_float4(0, 0, 0, 0);
    second();
    norm_row(p, tid, v, g, to, scratch);
    __syncthreads();
    pdl_launch();
    if (KIND == NORM && p.norm_out && blockIdx.x == gridDim.x - 1) /* it has no other work, where all have room */
        tell_row(p, tid, xs, scratch);
}

/* Where in shared memory a lane finds the row and leaves sums, and sums of the item that its warp adds up. */
struct lane_places {
    u32 row, sums_to, sums_at, n_tile;
};

/* All items of the warp's group. in: the stream that request() fills.
 * Sums of n_buf items may lie there, each with a named barrier: the writers arrive, the adding warp waits. A warp that
 * waits in turn T knows that all have come to T, so that sums of turns before T are added up; it adds every seg turns, so
 * seg places need nothing else. A pair of eight segments has room for four: there all wait every other turn. */
template <int L0, int L1, int KIND, u32 PLACES, class F, class M>
DEV void run_items(const dense_args &p, u32 first, u32 grp, u32 my_seg, u32 lane, const lane_places &at, stream &in, F request, M matrix_of)
{
    constexpr u32 N_SUB = KIND == PAIR ? 2 : 1;
    const u32 seg = 1u << p.log_seg, n_buf = KIND == PAIR && seg == 8 ? 4 : seg;
    const bool reused = KIND == PAIR && n_buf < seg && p.n_item > n_buf * p.step;
    u32 turn = 0;
    for (u32 item = first; item < p.n_item; item += p.step, turn++) {
        const u32 buf = grp * n_buf + (turn & (n_buf - 1)); /* its barrier is the next: 0 is __syncthreads' */
        const u32 wi = matrix_of(item);
        const bool mine = (turn & (seg - 1)) == my_seg; /* this warp adds the item's sums up */
        float res = 0; /* asked for early: it is one trip to memory */
        if (KIND == HALF && mine && p.residual && lane < 16 && item * 16 + lane < p.rows[0])
            res = ((const float *)p.residual)[item * 16 + lane];
#pragma unroll 1
        for (u32 sub = 0; sub < N_SUB; sub++) {
            float acc[4] = {0, 0, 0, 0};
            const u32 m = KIND == PAIR ? sub : wi;
            if (L0 == L1 || p.layout[m] == L0)
                multiply<L0, PLACES>(p.lut[m], at.n_tile, lane, at.row, in, acc, request);
            else
                multiply<L1, PLACES>(p.lut[m], at.n_tile, lane, at.row, in, acc, request);
            const u32 to = at.sums_to + (buf * N_SUB + sub) * 64 * seg;
            if ((lane & 3) == 0) {
                sts32(to, __float_as_uint(acc[0]));
                sts32(to + 32 * seg, __float_as_uint(acc[2]));
            }
        }
        if (mine || (reused && (turn & 1)))
            bar_sync(1 + buf, seg * 32);
        else
            bar_arrive(1 + buf, seg * 32);
        if (mine)
            finish<KIND>(p, item, wi, lane, at.sums_at + buf * N_SUB * 64 * seg, res);
    }
}

/* Shared memory: norm scratch 64 | x | sums 4096 | rings. */
template <int L0, int L1, int KIND> DEV void dense(const dense_args &p)
{
    extern __shared__ __align__(128) u8 smem[];
    constexpr u32 B0 = piece<L0>::BYTES, B1 = piece<L1>::BYTES, PLACE = B0 > B1 ? B0 : B1, PLACES = DENSE_PLACES(KIND == HALF, PLACE);
    const u32 tid = threadIdx.x, warp = __shfl_sync(~0u, tid >> 5, 0), lane = tid & 31;
    const u32 seg = 1u << p.log_seg, grp = warp >> p.log_seg, my_seg = warp & (seg - 1);
    const u32 k0 = p.k_tiles * my_seg >> p.log_seg, n_tile = (p.k_tiles * (my_seg + 1) >> p.log_seg) - k0;
    const u32 ring = smem_addr(smem) + p.ring + warp * PLACES * PLACE, first = blockIdx.x * p.groups + grp;
    stream in = {ring, ring, PLACE, 0, 0, first, 0, 0};
    auto matrix_of = [&](u32 item) { return KIND != NORM ? 0u : (item >= p.begin[1]) + (item >= p.begin[2]); };
    auto request = [&]() {
        if (in.left == 0 && in.item < p.n_item) { /* the next segment */
            const u32 wi = KIND == PAIR ? in.sub : matrix_of(in.item), rt = KIND == NORM ? in.item - p.begin[wi] : in.item;
            in.layout = L0 == L1 ? L0 : p.layout[wi];
            const u32 bytes = L0 == L1 || in.layout == L0 ? tile<L0>::BYTES : tile<L1>::BYTES;
            in.src = (const u8 *)p.tiles[wi] + (rt * p.k_tiles + k0) * bytes + lane * 16; /* a matrix is under 4 GiB */
            in.left = n_tile * piece<L0>::A_TILE; /* of two layouts, both have whole tiles */
            if (KIND == PAIR)
                in.sub ^= 1;
            if (KIND != PAIR || in.sub == 0)
                in.item += p.step;
        }
        if (in.left) {
            if (L0 == L1 || in.layout == L0)
                copy_tile<B0>(in.at + lane * 16, in.src, lane), in.src += B0;
            else
                copy_tile<B1>(in.at + lane * 16, in.src, lane), in.src += B1;
            in.left--;
        }
        cp_async_commit();
    };
    auto ask = [&]() {
        request();
        in.next<PLACES>();
    };
    /* The second place is asked for behind a row that is to be normalised: the row is what all wait for, and would have to
     * wait for the weights. f16 rows come from kernels that leave room, and time, for all. */
    ask();
    if (KIND == HALF)
#pragma unroll
        for (u32 i = 1; i < PLACES; i++)
            ask();
    u16 *xs = (u16 *)(smem + 64);
    const u32 sums = smem_addr(xs) + p.k_tiles * TILE_COLS * 2;
    /* ldmatrix: lanes 8i .. 8i+7 point at the 8 columns of 16 bytes i, which are the same */
    lane_places at = {smem_addr(xs) + (lane >> 3) * 16 + k0 * 512, sums + ((lane >> 2) * seg + my_seg) * 4, sums + lane * seg * 4, n_tile};
    hold(at.row), hold(at.sums_to), hold(at.sums_at), hold(at.n_tile);
    make_row<KIND>(p, tid, xs, (float *)smem, ask);
    run_items<L0, L1, KIND, PLACES>(p, first, grp, my_seg, lane, at, in, request, matrix_of);
}

#define DENSE(name, l0, l1, kind, KIND) \
    KERNEL(THREADS, DENSE_BLOCKS) imp_gemv_##name##_##kind(const __grid_constant__ dense_args p) { dense<l0, l1, KIND>(p); }
#define DENSE_3(name, l) DENSE(name, l, l, norm, NORM) DENSE(name, l, l, pair, PAIR) DENSE(name, l, l, half, HALF)
DENSE_3(f16, LAY_F16)
DENSE_3(i8, LAY_I8)
DENSE_3(u4, LAY_U4)
DENSE_3(nv4, LAY_NV4)
DENSE_3(q4k, LAY_Q4K)
DENSE_3(q5k, LAY_Q5K)
DENSE_3(q6k, LAY_Q6K)
DENSE_3(f8, LAY_F8)
DENSE(q4k_q6k, LAY_Q4K, LAY_Q6K, norm, NORM)
DENSE(q5k_q6k, LAY_Q5K, LAY_Q6K, norm, NORM)

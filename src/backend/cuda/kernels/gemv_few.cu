/* gemv_few: products of 2 to 8 rows of class D, gemv's with a row a column of the mma, where gemv has its one row in
 * all eight: the same tensor work and the same decoding for up to eight rows. A kernel a layout and purpose:
 *   few       up to three matrices of one f16 input: QKV; attn_output and down, with a residual; head
 *   few_pair  act(gate x) * (up x)
 * Grid: (c, y). c blocks, a cluster, hold 1/c of gemv's segments of K each, and of the rows only those columns; eight
 * warps of a block are its segments times `groups` row tiles. c is 1 where a block multiplies much with its rows; else
 * fetching all columns in every block would take longer than the weights do. Sums of segments meet in shared memory, of
 * the cluster's blocks where c > 1, and are added in gemv's order: the bytes are gemv's.
 * Weights are asked for before the previous kernel is done (PDL), the rows after.
 * Shared memory: a barrier 128 | rows, each 16 bytes longer than its columns, so that ldmatrix meets no bank twice |
 * sums | rings.
 * Bytes: N*K*bits/8 + M*K*2/c a block (L2). Floor: the weights' bytes; decoding takes what gemv's does. */
#include "gemv.cuh"

#define THREADS 256
#define WARPS 8
#define COLUMN 20 /* floats of a column of 16 sums: fragments meet no bank twice */
static_assert(8 * COLUMN * 4 == FEW_SUMS, "FEW_SUMS");

/* The block's columns of all rows, kb to kb + n_tile in tiles, by one warp: m copies. */
DEV void ask_rows(const few_args &p, u32 bar, u32 xs, u32 kb, u32 n_tile, u32 lane)
{
    const u32 bytes = n_tile * TILE_COLS * 2;
    if (lane == 0)
        mbar_expect(bar, bytes * p.m);
    __syncwarp();
    if (lane < p.m)
        bulk_load_keep(xs + lane * p.stride, (const u16 *)p.x + (u64)lane * p.ldx + kb * TILE_COLS, bytes, bar);
}

DEV u32 matrix_of(const few_args &p, u32 item) { return (item >= p.begin[1]) + (item >= p.begin[2]); }

/* Where an output is: its row tile, of the block's groups and of all; column of the mma; row of its matrix. */
struct place_of {
    u32 grp, item, col, wi, n;
    bool in;
};

/* Number j of the outputs that a group adds up, or where a cluster shares them, of the block's. base: of group 0. */
template <bool PAIR> DEV place_of output(const few_args &p, u32 base, u32 grp, u32 j)
{
    place_of o = {grp, 0, j >> 4, 0, 0, false};
    if (p.log_c) { /* columns of row tiles, by turns */
        const u32 u = (j >> 4 << p.log_c) + blockIdx.x;
        o.grp = u & (p.groups - 1);
        o.col = u >> (3 - p.log_own);
    }
    o.item = base + o.grp;
    o.wi = PAIR ? 0 : matrix_of(p, o.item);
    o.n = (PAIR ? o.item : o.item - p.begin[o.wi]) * TILE_ROWS + (j & 15);
    o.in = o.col < p.m && o.item < p.n_item && o.n < p.rows[o.wi];
    return o;
}

/* Row n of matrix m from its parts: at `parts` of each block, FEW_SUMS bytes apart. */
DEV float sum_of(const few_args &p, u32 m, u32 n, u32 parts)
{
    const u32 seg = 1u << p.log_seg;
    float x[8];
#pragma unroll
    for (u32 s = 0; s < 8; s++) {
        x[s] = 0;
        const u32 at = parts + (s & ((1u << p.log_own) - 1)) * FEW_SUMS;
        if (s < seg)
            x[s] = p.log_c ? ld_cluster(cluster_addr(at, s >> p.log_own)) : __uint_as_float(lds32(at));
    }
    return scale_and_bias(add_segments(x, seg, p.per[m]), p.unit[m], p.row_scale[m], p.bias[m], n);
}

DEV float residual_of(const few_args &p, const place_of &o)
{
    return o.in ? ((const float *)p.residual)[(u64)o.col * p.ldr + o.n] : 0.0f;
}

/* One output. sums: of the item set's first row tile. */
template <bool PAIR> DEV void finish(const few_args &p, const place_of &o, u32 row, u32 sums, float res)
{
    if (!o.in)
        return;
    const u32 own = FEW_SUMS << p.log_own; /* bytes of a row tile's sums */
    const u32 parts = sums + o.grp * (PAIR ? 2 : 1) * own + (o.col * COLUMN + row) * 4;
    float y = sum_of(p, o.wi, o.n, parts);
    if (PAIR) {
        const float up = sum_of(p, 1, o.n, parts + own);
        y = glu_usual(p.act, y, up, p.limit, p.alpha);
    }
    if (p.out_f16)
        ((u16 *)p.out[0])[(u64)o.col * p.ldo[0] + ACT_POS(o.n)] = f2h(y);
    else
        ((float *)p.out[o.wi])[(u64)o.col * p.ldo[o.wi] + o.n] = !PAIR && p.residual ? res + y : y;
}

/* A warp's accumulators: rows g and g + 8 of columns 2t and 2t + 1. to: the lane's place. */
DEV void leave_sums(u32 to, const float *acc)
{
    sts32(to, __float_as_uint(acc[0]));
    sts32(to + COLUMN * 4, __float_as_uint(acc[1]));
    sts32(to + 32, __float_as_uint(acc[2]));
    sts32(to + COLUMN * 4 + 32, __float_as_uint(acc[3]));
}

template <int L0, int L1, bool PAIR, u32 PLACES> DEV void few(const few_args &p)
{
    extern __shared__ __align__(128) u8 smem[];
    constexpr u32 B0 = piece<L0>::BYTES, B1 = piece<L1>::BYTES, PLACE = B0 > B1 ? B0 : B1, N_SUB = PAIR ? 2 : 1;
    const u32 tid = threadIdx.x, warp = __shfl_sync(~0u, tid >> 5, 0), lane = tid & 31;
    const u32 log_own = p.log_own, own = 1u << log_own; /* segments of this block */
    const u32 grp = warp >> log_own, my = warp & (own - 1), base0 = blockIdx.y * p.groups;
    u32 s0 = blockIdx.x << log_own;
    const u32 k0 = p.k_tiles * (s0 + my) >> p.log_seg, n_tile = (p.k_tiles * (s0 + my + 1) >> p.log_seg) - k0;
    const u32 bar = smem_addr(smem), xs = bar + FEW_FIXED, ring = bar + p.ring + warp * PLACES * PLACE;
    stream in = {ring, ring, PLACE, 0, 0, base0 + grp, 0, 0};
    auto request = [&]() {
        if (in.left == 0 && in.item < p.n_item) { /* the next segment */
            const u32 wi = PAIR ? in.sub : matrix_of(p, in.item), rt = PAIR ? in.item : in.item - p.begin[wi];
            in.layout = L0 == L1 ? L0 : p.layout[wi];
            const u32 bytes = L0 == L1 || in.layout == L0 ? tile<L0>::BYTES : tile<L1>::BYTES;
            in.src = (const u8 *)p.tiles[wi] + (rt * p.k_tiles + k0) * bytes + lane * 16; /* a matrix is under 4 GiB */
            in.left = n_tile * piece<L0>::A_TILE; /* of two layouts, both have whole tiles */
            if (PAIR)
                in.sub ^= 1;
            if (!PAIR || in.sub == 0)
                in.item += p.step;
        }
        in.ask<L0, L1>(lane);
    };
#pragma unroll
    for (u32 i = 0; i < PLACES; i++) {
        request();
        in.next<PLACES>();
    }
    hold(s0); /* none of what follows before the first copy */
    const u32 kb = p.k_tiles * s0 >> p.log_seg, ke = p.k_tiles * (s0 + own) >> p.log_seg;
    if (tid == 0) {
        mbar_init(bar, 1);
        mbar_init_fence();
    }
    __syncthreads();
    pdl_wait();
    if (warp == 0)
        ask_rows(p, bar, xs, kb, ke - kb, lane);
    /* ldmatrix: lanes 8i .. 8i+7 point at 16 bytes i of the 8 columns; columns past the last row are it again */
    const u32 row = (lane & 7) < p.m ? lane & 7 : p.m - 1;
    u32 xaddr = xs + row * p.stride + (lane >> 3) * 16 + (k0 - kb) * (TILE_COLS * 2);
    u32 to = bar + p.sums + ((grp * N_SUB << log_own) + my) * FEW_SUMS + ((lane & 3) * 2 * COLUMN + (lane >> 2)) * 4;
    const u32 j0 = p.log_c ? tid : my * 32 + lane, threads = p.log_c ? THREADS : own * 32;
    const u32 n_out = (((p.log_c ? p.groups : 1) * p.m + (1u << p.log_c) - 1) >> p.log_c) * TILE_ROWS;
    hold(xaddr), hold(to);
    mbar_wait_bounded(bar, 0);
    pdl_launch();
    auto meet = [&]() {
        if (p.log_c)
            cluster_sync();
        else
            bar_sync(1 + grp, own * 32);
    };
    const bool adds = !PAIR && p.residual;
    u32 buf = 0;
#pragma unroll 1
    for (u32 base = base0; base < p.n_item; base += p.step, buf ^= p.buffer) {
        const u32 item = base + grp, wi = PAIR ? 0 : matrix_of(p, item);
        const float res = adds ? residual_of(p, output<PAIR>(p, base, grp, j0)) : 0; /* one trip to memory: early */
        if (item < p.n_item) {
#pragma unroll 1
            for (u32 sub = 0; sub < N_SUB; sub++) {
                const u32 m = PAIR ? sub : wi;
                float acc[4] = {0, 0, 0, 0};
                if (L0 == L1 || p.layout[m] == L0)
                    multiply<L0, PLACES>(p.lut[m], n_tile, lane, xaddr, in, acc, request);
                else
                    multiply<L1, PLACES>(p.lut[m], n_tile, lane, xaddr, in, acc, request);
                leave_sums(to + buf + (sub << log_own) * FEW_SUMS, acc);
            }
        }
        meet();
#pragma unroll 1
        for (u32 j = j0; j < n_out; j += threads) {
            const place_of o = output<PAIR>(p, base, grp, j);
            finish<PAIR>(p, o, j & 15, bar + p.sums + buf, !adds || j == j0 ? res : residual_of(p, o));
        }
        __syncwarp(); /* lanes without an output come along: barriers are whole warps' */
        if (!p.buffer && base + p.step < p.n_item)
            meet(); /* the sums are read; of two buffers, the next item's meeting says so */
    }
    if (p.log_c)
        cluster_sync(); /* the others may still be reading this block's sums */
}

#define FEW(name, l0, l1, kind, PAIR)                                                                                  \
    KERNEL(THREADS, 3) imp_gemv_##name##_##kind(const __grid_constant__ few_args p) { few<l0, l1, PAIR, 2>(p); }
#define FEW_BOTH(name, l) FEW(name, l, l, few, false) FEW(name, l, l, few_pair, true)
FEW_BOTH(f16, LAY_F16)
FEW_BOTH(i8, LAY_I8)
FEW_BOTH(u4, LAY_U4)
FEW_BOTH(nv4, LAY_NV4)
FEW_BOTH(q4k, LAY_Q4K)
FEW_BOTH(q5k, LAY_Q5K)
FEW_BOTH(q6k, LAY_Q6K)
FEW_BOTH(f8, LAY_F8)
FEW(q4k_q6k, LAY_Q4K, LAY_Q6K, few, false)
FEW(q5k_q6k, LAY_Q5K, LAY_Q6K, few, false)

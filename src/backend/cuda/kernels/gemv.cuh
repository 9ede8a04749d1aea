/* gemv.cuh: what gemv.cu, gemv_dense.cu and experts.cu share: tiles into a warp's part of shared memory, their products
 * with one row, a warp's way through its items (the first two), and the order in which a row's parts are added. By one
 * warp each; total() by one thread. */
#ifndef IMP_CUDA_GEMV_CUH
#define IMP_CUDA_GEMV_CUH

#include "decode.cuh"

#define DEV_IN __device__ __forceinline__ /* in a struct */

template <int L> struct tile {
    static constexpr u32 BYTES = L == LAY_F16   ? TILE_BYTES_F16
                                 : L == LAY_I8  ? TILE_BYTES_I8
                                 : L == LAY_U4  ? TILE_BYTES_U4
                                 : L == LAY_NV4 ? TILE_BYTES_NV4
                                 : L == LAY_Q4K ? TILE_BYTES_Q4K
                                 : L == LAY_Q5K ? TILE_BYTES_Q5K
                                 : L == LAY_Q6K ? TILE_BYTES_Q6K
                                                : TILE_BYTES_F8;
};

DEV float4 lds_f4(u32 a)
{
    const uint4 v = lds128(a);
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}

/* A run of weights into shared memory, 16 bytes a lane at a time: dst and src are this lane's. The caller commits. */
template <u32 BYTES> DEV void copy_tile(u32 dst, const u8 *src, u32 lane)
{
    constexpr u32 N = BYTES / 16;
#pragma unroll
    for (u32 i = 0; i < N / 32; i++)
        cp_async16_stream(dst + i * 512, src + i * 512);
    if (N % 32 && lane < N % 32)
        cp_async16_stream(dst + N / 32 * 512, src + N / 32 * 512);
}

/* acc += the first CHUNKS chunks of a tile times the row, which lies at xaddr (this lane's, for ldmatrix) in ACT_POS
 * order. All 8 columns of the mma are the row. */
template <int L, int CHUNKS> DEV void tile_mma(const in_smem &src, u32 lane, const u32 *lut, u32 xaddr, float *acc)
{
    scales q;
    tile_scales<L>(src, lane, q);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        u32 a[4][4], b[8];
        ldmatrix4(b, xaddr + c * 128);
        ldmatrix4(b + 4, xaddr + c * 128 + 64);
        chunk<L>(src, lane, c, q, lut, a);
#pragma unroll
        for (int j = 0; j < 4; j++)
            mma_f16(acc, a[j], b[2 * j], b[2 * j + 1]);
    }
}

/* A place in a ring holds a tile, of F16 half a tile. */
template <int L> struct piece {
    static constexpr u32 A_TILE = L == LAY_F16 ? 2 : 1, CHUNKS = 4 / A_TILE, BYTES = tile<L>::BYTES / A_TILE;
};

/* A warp's ring of places and the stream of pieces through it: items, then gate/up, then its segment. src and left are
 * of the segment being asked for. A piece is a group of copies, and so is none: waits count them. */
struct stream {
    u32 at, first; /* shared memory: the place whose turn it is, which is also the one to fill next; the first */
    u32 place;     /* a place's bytes */
    const u8 *src; /* this lane's */
    u32 left, item, sub, layout;
    /* The segment's next piece, of one layout or the other (in.layout), to the place whose turn it is; or nothing. */
    template <int L0, int L1> DEV_IN void ask(u32 lane)
    {
        constexpr u32 B0 = piece<L0>::BYTES, B1 = piece<L1>::BYTES;
        if (left) {
            if (L0 == L1 || layout == L0)
                copy_tile<B0>(at + lane * 16, src, lane), src += B0;
            else
                copy_tile<B1>(at + lane * 16, src, lane), src += B1;
            left--;
        }
        cp_async_commit();
    }
    template <u32 PLACES> DEV_IN void next(void)
    {
        if (PLACES == 2)
            at = 2 * first + place - at;
        else
            at = at == first + (PLACES - 1) * place ? first : at + place;
    }
};

/* The warp's tiles of a unit, as they come in; each place is asked for anew once it is read. */
template <int L, u32 PLACES, class F>
DEV void multiply(const u32 *lut, u32 n_tile, u32 lane, u32 xaddr, stream &in, float *acc, F request)
{
#pragma unroll 1
    for (u32 n = n_tile * piece<L>::A_TILE; n; n--) {
        cp_async_wait<PLACES - 1>();
        __syncwarp(); /* other lanes' copies too */
        tile_mma<L, piece<L>::CHUNKS>({in.at}, lane, lut, xaddr, acc);
        __syncwarp(); /* the place is read */
        request();
        in.next<PLACES>();
        xaddr += piece<L>::CHUNKS * 128;
    }
}

/* act(gate) * up, SiLU in place; the others, which few models have, behind a call. */
static __device__ __noinline__ float glu_rare(u32 act, float gate, float up, float limit, float alpha)
{
    return glu_apply(act, gate, up, limit, alpha);
}
DEV float glu_usual(u32 act, float gate, float up, float limit, float alpha)
{
    return act == 0 ? __fdividef(gate, 1.0f + __expf(-gate)) * up : glu_rare(act, gate, up, limit, alpha);
}

/* Where in shared memory a lane finds the row and leaves sums, and sums of the item that its warp adds up. */
struct lane_places {
    u32 row, sums_to, sums_at, n_tile;
};

/* All items of the warp's group: first, first + step, ... in: the stream that request() fills. job: what a kernel makes
 * of an item, and of how many.
 * Sums of n_buf items may lie there, each with a named barrier: the writers arrive, the adding warp waits. A warp that
 * waits in turn T knows that all have come to T, so that sums of turns before T are added up; it adds every seg turns,
 * so seg places need nothing else. A pair of eight segments has room for four: there all wait every other turn. */
template <class J, class F>
DEV void run_items(const J &job, u32 first, u32 grp, u32 my_seg, u32 lane, const lane_places &at, stream &in, F request)
{
    const u32 seg = job.seg(), n_sub = job.n_sub(), n_buf = n_sub == 2 && seg == 8 ? 4 : seg;
    const bool reused = n_sub == 2 && n_buf < seg && job.n_item() > n_buf * job.step();
    u32 turn = 0;
    for (u32 item = first; item < job.n_item(); item += job.step(), turn++) {
        const u32 buf = grp * n_buf + (turn & (n_buf - 1)); /* its barrier is the next: 0 is __syncthreads' */
        const u32 wi = job.matrix_of(item);
        const bool mine = (turn & (seg - 1)) == my_seg; /* this warp adds the item's sums up */
        const float res = job.residual(item, wi, mine, lane); /* asked for early: it is one trip to memory */
#pragma unroll 1
        for (u32 sub = 0; sub < n_sub; sub++) {
            float acc[4] = {0, 0, 0, 0};
            job.product(n_sub == 2 ? sub : wi, at, lane, in, acc, request);
            const u32 to = at.sums_to + (buf * n_sub + sub) * 64 * seg;
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
            job.total(item, wi, lane, at.sums_at + buf * n_sub * 64 * seg, res);
    }
}

/* Segments of one output in order, groups of `per` apart. x: the parts, 0 past seg. Both numbers are powers of two, seg
 * at most 8. */
DEV float add_segments(const float *x, u32 seg, u32 per)
{
    float v = 0, sum = 0;
    if (per == 8) { /* the usual cases */
#pragma unroll
        for (u32 s = 0; s < 8; s++)
            sum += x[s];
        return v + sum;
    }
    if (per == 2 && seg == 8) {
#pragma unroll
        for (u32 s = 0; s < 8; s += 2)
            v += (0.0f + x[s]) + x[s + 1];
        return v;
    }
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
    return v;
}
DEV float total(const dweight &w, const float *x, u32 seg, u32 n)
{
    return with_scale_and_bias(w, add_segments(x, seg, seg >> (31 - __clz((int)w.z))), n);
}

#endif

/* gemv.cuh: what gemv.cu and experts.cu share: tiles into a warp's part of shared memory, their products with one row,
 * and the order in which a row's parts are added. By one warp each; total() by one thread. */
#ifndef IMP_CUDA_GEMV_CUH
#define IMP_CUDA_GEMV_CUH

#include "decode.cuh"

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
    u32 at, first, place; /* shared memory: the place whose turn it is, which is also the one to fill next; the first; a place's bytes */
    const u8 *src; /* this lane's */
    u32 left, item, sub, layout;
    template <u32 PLACES> __device__ __forceinline__ void next(void)
    {
        if (PLACES == 2)
            at = 2 * first + place - at;
        else
            at = at == first + (PLACES - 1) * place ? first : at + place;
    }
};

/* The warp's tiles of a unit, as they come in; each place is asked for anew once it is read. */
template <int L, u32 PLACES, class F> DEV void multiply(const u32 *lut, u32 n_tile, u32 lane, u32 xaddr, stream &in, float *acc, F request)
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

/* Segments of one output in order, groups of `per` apart. x: the parts, 0 past seg. Both numbers are powers of two, seg at
 * most 8. */
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
DEV float total(const dweight &w, const float *x, u32 seg, u32 n) { return with_scale_and_bias(w, add_segments(x, seg, seg >> (31 - __clz((int)w.z))), n); }

#endif

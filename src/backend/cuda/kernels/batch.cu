/* batch: y[M][N] f32 = x[M][K] W[N][K]^T for 2 to 128 rows of class D: decoding of many sequences. Hopper's wgmma with
 * the weights as A, decoded from their tiles into registers once for all rows, and the rows as B through TMA.
 * Same bytes as gemv: wgmma m64nNk16 gives the bits of mma.m16n8k16 (measured: docs/kernels.md), the accumulator
 * restarts at gemv's segments of K, segments add up in order, and z groups of them are summed apart and then in order.
 * Block: two warpgroups, a row tile a warp (a pair of matrices: 4 + 4 tiles of the same rows). Each warp brings its own
 * tiles through a ring of its own; warp 0 brings the rows through a ring for all. Grid: (z, column blocks of NC,
 * items); the z blocks of an item are a cluster and add up through distributed shared memory, each for its share of the
 * columns; where a multiprocessor takes one block only, too few clusters fit and they meet in memory (part) instead.
 * Weights are asked for before the previous kernel is done (PDL), x after.
 * Shared memory: barriers | n_x x CH x [NC][64] f16, swizzled by 128 bytes | n_w x 8 tiles; at the end [NC][SUM_LD]
 * sums.
 * Bytes: N*K*bits/8 + M*K*2 a block (L2). Floor: max(bytes, 2MNK / 700 TFLOP/s). Numerics: f16 products, f32 sums. */
#include "decode.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

struct batch_params {
    tensor_map x; /* f16 {64, rows, chunks of 64}, box {64, NC, CH} */
    batch_args a;
};

#ifdef HOPPER
#define THREADS 256
#define MAX_RING 8
#define SUM_LD 132 /* 128 rows and 4 floats, so that fragments meet no bank twice */

/* Where things lie in shared memory. */
struct places {
    u32 bars, x, tile; /* tile: of this warp in slot 0 */
    __device__ __forceinline__ u32 full_w(u32 slot, u32 warp) const { return bars + (slot * 8 + warp) * 8; }
    __device__ __forceinline__ u32 full_x(u32 slot) const { return bars + MAX_RING * 64 + slot * 8; }
    __device__ __forceinline__ u32 empty_x(u32 slot) const { return bars + MAX_RING * 72 + slot * 8; }
};

/* Asks for the rows' columns of place number n, CH chunks of 64; one thread. */
template <int NC, int CH> DEV void ask_x(const batch_params &pp, const places &at, u32 slot, u32 n)
{
    mbar_expect(at.full_x(slot), NC * 128 * CH);
    tma_3d(at.x + slot * NC * 128 * CH, &pp.x, 0, blockIdx.y * NC, n * CH, at.full_x(slot));
}

/* One warp's part of a warpgroup's 64 rows: segments [s, s1) into sum, fragments as the accumulators of m64nNCk16.
 * src: the warp's tile in column tile seg_begin(s) + n_w, 0 = it has none. CH: chunks of 64 columns in a place for
 * rows, 1 or 4: one barrier a chunk costs time, four need memory. SETS: of registers for A; one is enough where other
 * warpgroups keep the tensor cores busy and registers are few. */
template <int L, int NC, int CH, int SETS>
DEV void multiply(const batch_params &pp, const dweight &w, const places &at, u32 warp, u32 lane, u32 s, u32 s1,
                  const u8 *src, float *sum)
{
    constexpr u32 LAG = CH == 4 ? 1 : SETS + 1; /* a place for rows is filled anew this many places after it was used */
    const batch_args &p = pp.a;
    float acc[NC / 2];
    u32 a[SETS][4][4];
    const u32 k0 = seg_begin(w, s), n_tile = seg_begin(w, s1) - k0;
    u32 sw = 0, pw = 0, sx = 0, px = 0, t = 0;
    const u64 pol = policy_evict_first();
    auto before = [&](u32 n) { return sx >= n ? sx - n : sx + p.n_x - n; };
    auto release = [&](u32 slot) { /* this warp's products have read the rows */
        if (lane == 0)
            mbar_arrive(at.empty_x(slot));
    };
    auto refill = [&](u32 i) { /* at place number i: the one LAG before it, once all warps have released it */
        const u32 ask = i + p.n_x - LAG;
        if (warp == 0 && i >= LAG && ask < n_tile * (4 / CH)) {
            const u32 slot = before(LAG);
            mbar_wait_bounded(at.empty_x(slot), sx >= LAG ? px : px ^ 1);
            if (lane == 0)
                ask_x<NC, CH>(pp, at, slot, k0 * (4 / CH) + ask);
            __syncwarp();
        }
    };
    auto next_place = [&]() {
        if (++sx == p.n_x)
            sx = 0, px ^= 1;
    };
#pragma unroll
    for (int i = 0; i < NC / 2; i++)
        acc[i] = 0;
#pragma unroll 1
    for (; s < s1; s++) {
        const u32 t_end = seg_begin(w, s + 1) - k0;
#pragma unroll 1
        for (; t < t_end; t++) {
            if (src)
                mbar_wait_bounded(at.full_w(sw, warp), pw);
            const in_smem tile = {at.tile + sw * 8 * p.slot_bytes};
            scales q;
            tile_scales<L>(tile, lane, q);
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const int buf = c % SETS;
                if (c >= SETS) {
                    wgmma_wait<SETS - 1>(); /* the products that read this set of registers are done */
                    if (CH == 1)
                        release(before(SETS));
                }
                chunk<L>(tile, lane, c, q, w.lut, a[buf]);
                if (CH == 1)
                    refill(t * 4 + c);
                if (CH == 1 || c == 0)
                    mbar_wait_bounded(at.full_x(sx), px);
                u64 desc = wgmma_desc(at.x + (sx * CH + (CH == 4 ? c : 0)) * NC * 128);
#pragma unroll
                for (int j = 0; j < 4; j++) /* all of it before the fence: the compiler would sink what it can */
                    asm volatile("" : "+r"(a[buf][j][0]), "+r"(a[buf][j][1]), "+r"(a[buf][j][2]), "+r"(a[buf][j][3]),
                                      "+l"(desc)::"memory");
                wgmma_fence();
#pragma unroll
                for (int j = 0; j < 4; j++)
                    wgmma<NC>::run(acc, a[buf][j], desc + 2 * j);
                wgmma_commit();
                if (CH == 1)
                    next_place();
                else if (c == 0)
                    refill(t);
            }
            __syncwarp(); /* the tile is read */
            if (src && lane == 0 && t + p.n_w < n_tile) {
                mbar_expect(at.full_w(sw, warp), w.tile_bytes);
                bulk_load(at.tile + sw * 8 * p.slot_bytes, src, w.tile_bytes, at.full_w(sw, warp), pol);
            }
            src += src ? w.tile_bytes : 0;
            if (++sw == p.n_w)
                sw = 0, pw ^= 1;
            /* the assembler wants the pipeline empty at the end of a loop; other warpgroups fill the gap */
            wgmma_wait<0>();
            pin<NC / 2>(acc);
            if (CH == 4) {
                release(sx);
                next_place();
            } else {
#pragma unroll
                for (int n = SETS; n; n--)
                    release(before(n));
            }
        }
#pragma unroll
        for (int i = 0; i < NC / 2; i++) {
            sum[i] += acc[i];
            acc[i] = 0;
        }
    }
}

/* Where z blocks that are no cluster meet: sums of block i of this item and column block, [NC][128]. */
template <int NC> DEV float *part_of(const batch_args &p, u32 i)
{
    return (float *)p.part + ((u64)(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + i) * (NC * 128);
}

/* All z blocks of an item wait here until each of them has come. Blocks start in order, those of an item one after the
 * other, so the first item that is not complete always can be. came[0] counts comers, came[1] leavers. */
DEV void meet(u32 *came, u32 z, u32 tid)
{
    __threadfence();
    __syncthreads();
    if (tid == 0) {
        u32 n = atomicAdd(came, 1) + 1;
        const u32 t0 = global_ns();
        u32 late = 0;
        while (n < z) {
            asm volatile("ld.acquire.gpu.u32 %0,[%1];" : "=r"(n) : "l"(came) : "memory");
            if (global_ns() - t0 > LATE_NS && ++late > LATE_TRIES)
                asm volatile("trap;");
        }
    }
    __syncthreads();
}
DEV void leave(u32 *came, u32 z, u32 tid)
{
    __syncthreads();
    if (tid == 0 && atomicAdd(came + 1, 1) == z - 1)
        came[0] = came[1] = 0; /* the next kernel's */
}

/* Sums of the z blocks in order, then what gemv does with them: scale, bias, activation, residual. */
template <int NC> DEV void finish(const batch_args &p, u32 sums, u32 tid, u32 wi, u32 rt0, u32 col0)
{
    const dweight &w = p.w[wi];
    const u32 z = w.z, per = (NC + z - 1) / z, c0 = blockIdx.x * per, c1 = c0 + per < NC ? c0 + per : NC;
    const u32 n_row = p.pair ? 64 : 128, r = tid & (n_row - 1), step = THREADS / n_row, n = rt0 * 16 + r;
    if (n >= w.rows)
        return;
    const float *part = part_of<NC>(p, 0);
    auto total = [&](const dweight &m, u32 c, u32 row) {
        const u32 at = sums + (c * SUM_LD + row) * 4;
        float v = 0;
        for (u32 i = 0; i < z; i++)
            v += p.part ? __ldcg(part + (i * NC + c) * 128 + row)
                 : z == 1 ? __uint_as_float(lds32(at)) : ld_cluster(cluster_addr(at, i));
        return with_scale_and_bias(m, v, n);
    };
    for (u32 c = c0 + tid / n_row; c < c1 && col0 + c < p.m; c += step) {
        const u64 m = col0 + c;
        float y = total(w, c, r);
        if (p.pair)
            y = glu_apply(p.act, y, total(p.w[1], c, r + 64), p.limit, p.alpha);
        if (p.out_f16) {
            ((u16 *)p.out[0])[m * p.ldo[0] + ACT_POS(n)] = f2h(y);
        } else {
            if (p.residual)
                y = ((const float *)p.residual)[m * p.ldr + n] + y;
            ((float *)p.out[wi])[m * p.ldo[wi] + n] = y;
        }
    }
}

template <int NC, int CH, int SETS> DEV void batch(const batch_params &pp)
{
    extern __shared__ __align__(1024) u8 sm[];
    const batch_args &p = pp.a;
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    /* the item's matrix and its first row tile; of a pair both have the same rows */
    const u32 item = blockIdx.z;
    const u32 wi = p.pair ? 0
                   : p.n_mat > 1 && item >= p.item_begin[1] ? (p.n_mat > 2 && item >= p.item_begin[2] ? 2 : 1) : 0;
    const u32 rt0 = p.pair ? item * 4 : (item - p.item_begin[wi]) * 8, rt = rt0 + (p.pair ? warp & 3 : warp);
    const dweight &w = p.w[p.pair && warp >= 4 ? 1 : wi];
    const u32 z = w.z, s0 = blockIdx.x * w.seg / z, s1 = (blockIdx.x + 1) * w.seg / z, k0 = seg_begin(w, s0),
              n_tile = seg_begin(w, s1) - k0;
    const u32 bars = smem_addr(sm), x = (bars + MAX_RING * 80 + 1023) & ~1023u;
    const places at = {bars, x, x + p.n_x * NC * 128 * CH + warp * p.slot_bytes};
    if (lane == 0) {
        for (u32 i = 0; i < p.n_w; i++)
            mbar_init(at.full_w(i, warp), 1);
        if (warp == 0)
            for (u32 i = 0; i < p.n_x; i++) {
                mbar_init(at.full_x(i), 1);
                mbar_init(at.empty_x(i), 8);
            }
        mbar_init_fence();
    }
    __syncthreads();
    pdl_launch();
    const u8 *src = rt < w.row_tiles ? (const u8 *)w.tiles + ((u64)rt * w.k_tiles + k0) * w.tile_bytes : 0;
    if (src && lane == 0)
        for (u32 i = 0; i < p.n_w && i < n_tile; i++) {
            mbar_expect(at.full_w(i, warp), w.tile_bytes);
            bulk_load(at.tile + i * 8 * p.slot_bytes, src + i * w.tile_bytes, w.tile_bytes, at.full_w(i, warp),
                      policy_evict_first());
        }
    if (warp == 0) {
        pdl_wait(); /* the rows are the previous kernel's work */
        if (lane == 0)
            for (u32 i = 0; i < p.n_x && i < n_tile * (4 / CH); i++)
                ask_x<NC, CH>(pp, at, i, k0 * (4 / CH) + i);
        __syncwarp();
    }
    float sum[NC / 2];
#pragma unroll
    for (int i = 0; i < NC / 2; i++)
        sum[i] = 0;
    src += src ? (u64)p.n_w * w.tile_bytes : 0;
    LAYOUT_SWITCH(w.layout, (multiply<L, NC, CH, SETS>(pp, w, at, warp, lane, s0, s1, src, sum));)
    __syncthreads(); /* nobody reads the rings any more, and nothing is on its way to them */
    const u32 g = lane >> 2, t = lane & 3;
    float *part = part_of<NC>(p, blockIdx.x);
    u32 *came = (u32 *)p.came + (blockIdx.z * gridDim.y + blockIdx.y) * 2;
#pragma unroll
    for (int i = 0; i < NC / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const u32 c = 8 * i + 2 * t + (e & 1), r = warp * 16 + g + 8 * (e >> 1);
            if (p.part)
                __stcg(part + c * 128 + r, sum[4 * i + e]);
            else
                sts32(x + (c * SUM_LD + r) * 4, __float_as_uint(sum[4 * i + e]));
        }
    if (p.part)
        meet(came, z, tid);
    else if (z > 1)
        cluster_sync();
    else
        __syncthreads();
    pdl_wait(); /* what the epilogue reads may be the previous kernel's, and what it writes may be read by it */
    finish<NC>(p, x, tid, wi, rt0, blockIdx.y * NC);
    if (p.part)
        leave(came, z, tid);
    else if (z > 1) {
        __syncwarp();
        cluster_sync(); /* the others may still be reading this block's sums */
    }
}

KERNEL(THREADS, 2) imp_batch8(const __grid_constant__ batch_params p) { batch<8, 4, 2>(p); }
KERNEL(THREADS, 2) imp_batch16(const __grid_constant__ batch_params p) { batch<16, 4, 2>(p); }
KERNEL(THREADS, 2) imp_batch32(const __grid_constant__ batch_params p) { batch<32, 4, 2>(p); }
KERNEL(THREADS, 2) imp_batch64(const __grid_constant__ batch_params p) { batch<64, 1, 1>(p); }
KERNEL(THREADS, 1) imp_batch128(const __grid_constant__ batch_params p) { batch<128, 1, 2>(p); }
#endif

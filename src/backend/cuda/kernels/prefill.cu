/* prefill: y[M][N] = x[M][K] W[N][K]^T for rows of class P: prompts. Hopper's wgmma with the weights as A, decoded from
 * their tiles into registers on the way (no copy of the weights is ever made), tokens as B through shared memory.
 * One block a multiprocessor takes tile after tile of 2 * MB * 64 weight rows x NTOK tokens, neighbours in an order in
 * which all blocks together touch few weights and few tokens. Warpgroup 0 loads, ahead of the tile being computed:
 * weight tiles (256 columns) by bulk copies into one ring, tokens (64 columns) into another, by TMA or, where the rows
 * of an expert lie scattered, by cp.async. Warpgroups 1 and 2 decode a chunk of 64 columns while the tensor cores work
 * on the one before: two sets of A registers, one group of four products in flight.
 * pair: half of the rows are of gate, half of up, and the same thread holds both: out = act(gate) * up as f16; act is
 * SiLU, GELU (tanh) or gpt-oss's.
 * grouped (MoE): tokens come as tiles of one expert each (group_tile), made by imp_moe_sort.
 * Order of sums: k16 steps in order, whatever MB, NTOK, M and place in a tile, so a row's bytes depend on itself alone.
 * SEGMENTS: rows of class D (a few of an expert): the sums of gemv, which start anew at each of its runs of K; wgmma
 * and mma.sync add the same way, bit for bit (tests/gpu, "same bytes").
 * Floor: max(2MNK / 700 TFLOP/s measured, bytes). Numerics: f16 products, f32 sums. */
#include "decode.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

struct prefill_params {
    tensor_map x;
    prefill_args a;
};

#ifdef HOPPER
#define DEV_MEMBER __device__ __forceinline__
#define GATHERERS 64 /* threads that gather rows */
#define GATHER_LAG(n_tok) ((n_tok) < 64 ? 5 : 2) /* stages whose copies are under way before the oldest is waited for */

struct tile {
    u32 rb, expert, first, n;
};
/* The i-th tile of the launch; false when there is none. */
template <int NTOK> DEV bool tile_at(const prefill_args &p, u32 i, tile &t)
{
    if (p.tile) {
        if (i >= *(const u32 *)p.tile * p.n_rb)
            return false;
        const uint4 g = *((const uint4 *)p.tile + 1 + i / p.n_rb);
        t.rb = i % p.n_rb, t.expert = g.x, t.first = g.y, t.n = g.z;
        return true;
    }
    if (i >= p.n_rb * p.n_tb)
        return false;
    u32 tb;
    raster(p.n_rb, p.n_tb, i, t.rb, tb);
    t.expert = 0, t.first = tb * NTOK;
    t.n = p.m - t.first < NTOK ? p.m - t.first : NTOK;
    return true;
}

struct rings { /* where a warp stands in the two rings */
    u32 sw, pw, sx, px;
};

/* gemv's sums: acc is a run of K so far, sum its group of runs, total the groups before. */
template <int MB, int NTOK, bool SEGMENTS> struct segments {
    DEV_MEMBER void begin() {}
    DEV_MEMBER void after(const dweight &, u32, float (*)[NTOK / 2]) {}
    DEV_MEMBER void end(float (*)[NTOK / 2]) {}
};
template <int MB, int NTOK> struct segments<MB, NTOK, true> {
    float sum[MB][NTOK / 2], total[MB][NTOK / 2];
    u32 s, z;
    DEV_MEMBER void begin()
    {
        s = z = 0;
        for_all([&](int m, int i) { sum[m][i] = total[m][i] = 0; });
    }
    DEV_MEMBER void after(const dweight &w, u32 kt, float (*acc)[NTOK / 2])
    {
        if (kt + 1 != seg_begin(w, s + 1))
            return;
        for_all([&](int m, int i) { sum[m][i] += acc[m][i], acc[m][i] = 0; });
        if (++s != (z + 1) * w.seg / w.z)
            return;
        for_all([&](int m, int i) { total[m][i] += sum[m][i], sum[m][i] = 0; });
        z++;
    }
    DEV_MEMBER void end(float (*acc)[NTOK / 2]) { for_all([&](int m, int i) { acc[m][i] = total[m][i]; }); }
    template <class F> DEV_MEMBER void for_all(F f)
    {
#pragma unroll
        for (int m = 0; m < MB; m++)
#pragma unroll
            for (int i = 0; i < NTOK / 2; i++)
                f(m, i);
    }
};

template <int L, int MB, int NTOK, bool SEGMENTS>
DEV void consume(const prefill_args &p, u32 wsm, u32 xsm, u32 bars, u32 warp, u32 lane, rings &r,
                 float (*acc)[NTOK / 2])
{
    const u32 full_w = bars, empty_w = bars + 32, full_x = bars + 64, empty_x = bars + 128;
    const u32 x_bytes = NTOK * 128, w_bytes = 8 * MB * p.w[0].tile_bytes;
    const u32 wg = warp >> 2, w4 = warp & 3;
    u32 held = r.sx, n_held = 0; /* x stages read but not yet given back */
    u32 a[2][4][4];
    segments<MB, NTOK, SEGMENTS> seg;
    seg.begin();
#pragma unroll 1
    for (u32 kt = 0; kt < p.w[0].k_tiles; kt++) {
        mbar_wait_bounded(full_w + r.sw * 8, r.pw);
        scales q[MB];
#pragma unroll
        for (int mb = 0; mb < MB; mb++) {
            in_smem src = {wsm + r.sw * w_bytes + ((wg * MB + mb) * 4 + w4) * p.w[0].tile_bytes};
            tile_scales<L>(src, lane, q[mb]);
        }
#pragma unroll
        for (int c = 0; c < 4; c++) {
#pragma unroll
            for (int mb = 0; mb < MB; mb++) {
                const int buf = MB == 2 ? mb : c & 1;
                wgmma_wait<1>(); /* the products that read this set of registers are done */
                if (mb == MB - 1 && n_held > (MB == 2 ? 0 : 1)) {
                    if (lane == 0)
                        mbar_arrive(empty_x + held * 8);
                    held = held + 1 == p.n_stage_x ? 0 : held + 1;
                    n_held--;
                }
                in_smem src = {wsm + r.sw * w_bytes + ((wg * MB + mb) * 4 + w4) * p.w[0].tile_bytes};
                chunk<L>(src, lane, c, q[mb], p.w[0].lut, a[buf]);
                if (mb == 0)
                    mbar_wait_bounded(full_x + r.sx * 8, r.px);
#pragma unroll
                for (int j = 0; j < 4; j++) /* all of it before the fence: the compiler would sink what it can */
                    asm volatile("" : "+r"(a[buf][j][0]), "+r"(a[buf][j][1]), "+r"(a[buf][j][2]), "+r"(a[buf][j][3])
                                 ::"memory");
                u64 desc[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    desc[j] = wgmma_desc(xsm + r.sx * x_bytes) + 2 * j;
                    asm volatile("" : "+l"(desc[j])::"memory");
                }
                wgmma_fence();

#pragma unroll
                for (int j = 0; j < 4; j++)
                    wgmma<NTOK>::run(acc[mb], a[buf][j], desc[j]);
                wgmma_commit();
            }
            n_held++;
            if (++r.sx == p.n_stage_x)
                r.sx = 0, r.px ^= 1;
        }
        /* the assembler wants the pipeline empty at the end of a loop; the other warpgroup fills the gap */
        wgmma_wait<0>();
#pragma unroll
        for (int mb = 0; mb < MB; mb++)
            pin<NTOK / 2>(acc[mb]);
        seg.after(p.w[0], kt, acc);
        /* every lane for what it read itself: racecheck does not take one lane's word for a warp */
        mbar_arrive(empty_w + r.sw * 8);
        __syncwarp();
        if (lane == 0) {
            for (; n_held; n_held--) {
                mbar_arrive(empty_x + held * 8);
                held = held + 1 == p.n_stage_x ? 0 : held + 1;
            }
        }
        held = r.sx;
        n_held = 0;
        if (++r.sw == p.n_stage_w)
            r.sw = 0, r.pw ^= 1;
    }
    seg.end(acc);
}

/* Warp 0: weights. */
template <int MB, int NTOK> DEV void load_weights(const prefill_args &p, u32 wsm, u32 bars, u32 lane)
{
    const u32 full_w = bars, empty_w = bars + 32, bytes = p.w[0].tile_bytes;
    const dweight &w = p.w[p.pair ? lane >> 2 & 1 : 0];
    u32 s = 0, ph = 1;
    tile t;
    if (p.tile)
        pdl_wait(); /* the list of tiles is the previous kernel's */
    for (u32 i = blockIdx.x; tile_at<NTOK>(p, i, t); i += gridDim.x) {
        const u32 rt = p.pair ? t.rb * 8 + (lane >> 3) * 4 + (lane & 3) : t.rb * 8 * MB + lane;
        const bool ok = lane < 8 * MB && rt < w.row_tiles;
        const u32 n = __popc(__ballot_sync(~0u, ok));
        const u8 *src = (const u8 *)w.tiles + t.expert * w.expert_stride + (u64)rt * w.k_tiles * bytes;
        for (u32 kt = 0; kt < p.w[0].k_tiles; kt++, src += bytes) {
            mbar_wait_bounded(empty_w + s * 8, ph);
            if (lane == 0)
                mbar_expect(full_w + s * 8, n * bytes);
            __syncwarp();
            if (ok)
                bulk_load_keep(wsm + (s * 8 * MB + lane) * bytes, src, bytes, full_w + s * 8);
            if (++s == p.n_stage_w)
                s = 0, ph ^= 1;
        }
    }
}

/* One thread: tokens that lie together. */
template <int NTOK> DEV void load_tokens(const prefill_params &pp, u32 xsm, u32 bars)
{
    const prefill_args &p = pp.a;
    const u32 full_x = bars + 64, empty_x = bars + 128;
    u32 s = 0, ph = 1;
    tile t;
    pdl_wait(); /* the previous kernel's work */
    for (u32 i = blockIdx.x; tile_at<NTOK>(p, i, t); i += gridDim.x)
        for (u32 c = 0; c < p.w[0].k_tiles * 4; c++) {
            mbar_wait_bounded(empty_x + s * 8, ph);
            mbar_expect(full_x + s * 8, NTOK * 128);
            tma_2d(xsm + s * NTOK * 128, &pp.x, c * 64, t.first, full_x + s * 8);
            if (++s == p.n_stage_x)
                s = 0, ph ^= 1;
        }
}

/* GATHERERS threads: rows from anywhere. Eight threads take the 128 bytes of a row, swizzled as TMA would. A stage is
 * reported when its copies have landed, some stages after they were asked for. */
template <int NTOK> DEV void gather_tokens(const prefill_args &p, u32 xsm, u32 bars, u32 from, u32 id)
{
    const u32 full_x = bars + 64, empty_x = bars + 128, piece = id & 7, r0 = id >> 3;
    const u32 at = r0 * 128 + ((piece ^ (r0 & 7)) << 4);
    u32 s = 0, ph = 1, landed = 0, asked = 0;
    tile t;
    pdl_wait();
    for (u32 i = blockIdx.x; tile_at<NTOK>(p, i, t); i += gridDim.x) {
        bar_sync(2, GATHERERS); /* the table's readers are done */
        for (u32 m = id; m < NTOK; m += GATHERERS) {
            const u32 q = (u32)((const i32 *)p.pair_of)[t.first + (m < t.n ? m : t.n - 1)] / p.n_choice * p.ldx;
            asm volatile("st.shared.u32 [%0],%1;" ::"r"(from + m * 4), "r"(q) : "memory");
        }
        bar_sync(2, GATHERERS);
        for (u32 c = 0; c < p.w[0].k_tiles * 4; c++) {
            mbar_wait_bounded(empty_x + s * 8, ph);
            const u32 dst = xsm + s * NTOK * 128 + at;
            const u16 *src = (const u16 *)p.x + c * 64 + piece * 8;
#pragma unroll
            for (u32 r = 0; r < NTOK / 8; r++)
                cp_async16(dst + r * 1024, src + lds32(from + (r * 8 + r0) * 4), true);
            cp_async_commit();
            if (++s == p.n_stage_x)
                s = 0, ph ^= 1;
            if (++asked > GATHER_LAG(NTOK)) {
                cp_async_wait<GATHER_LAG(NTOK)>();
                proxy_fence();
                mbar_arrive(full_x + landed * 8);
                landed = landed + 1 == p.n_stage_x ? 0 : landed + 1;
            }
        }
    }
    cp_async_wait<0>();
    proxy_fence();
    for (u32 n = asked < GATHER_LAG(NTOK) ? asked : GATHER_LAG(NTOK); n; n--) {
        mbar_arrive(full_x + landed * 8);
        landed = landed + 1 == p.n_stage_x ? 0 : landed + 1;
    }
}

/* f32 rows: scale, bias, residual. Residuals are asked for 16 at a time: one trip to memory, not 16. SCATTER: each row
 * goes to the place of its pair; such products have no residual. */
template <int MB, int NTOK, bool SCATTER>
DEV void store_sums(const prefill_args &p, const tile &tl, u32 warp, u32 lane, float (*acc)[NTOK / 2])
{
    const u32 g = lane >> 2, t = lane & 3, wg = warp >> 2, w4 = warp & 3;
    constexpr int B = NTOK / 8 < 8 ? NTOK / 8 : 8; /* columns of 8 tokens taken together */
    const dweight &w = p.w[0];
#pragma unroll
    for (int i0 = 0; i0 < NTOK / 8; i0 += B) {
        u32 place[SCATTER ? 2 * B : 1];
        auto col = [&](int j) { return 8 * (i0 + j / 2) + 2 * t + (j & 1); };
        auto row = [&](int j) { return SCATTER ? place[j] : tl.first + col(j); };
        if (SCATTER)
#pragma unroll
            for (int j = 0; j < 2 * B; j++)
                place[SCATTER ? j : 0] = col(j) < tl.n ? (u32)((const i32 *)p.pair_of)[tl.first + col(j)] : 0;
#pragma unroll
        for (int mb = 0; mb < MB; mb++) {
            const u32 n0 = (tl.rb * 8 * MB + (wg * MB + mb) * 4 + w4) * 16 + g;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const u32 n = n0 + 8 * h, en = tl.expert * w.rows + n;
                if (n >= w.rows)
                    continue;
                const float rs = w.row_scale ? ((const float *)w.row_scale)[en] : 1.0f,
                            b = w.bias ? ((const float *)w.bias)[en] : 0.0f;
                float res[SCATTER ? 1 : 2 * B];
                if (!SCATTER && p.residual)
#pragma unroll
                    for (int j = 0; j < 2 * B; j++)
                        res[SCATTER ? 0 : j] =
                            col(j) < tl.n ? ((const float *)p.residual)[(u64)row(j) * p.ldr + n] : 0.0f;
#pragma unroll
                for (int j = 0; j < 2 * B; j++) {
                    float v = acc[mb][4 * (i0 + j / 2) + 2 * h + (j & 1)] * w.unit;
                    if (w.row_scale)
                        v = __fmul_rn(v, rs); /* each rounded by itself, as in gemv */
                    if (w.bias)
                        v = __fadd_rn(v, b);
                    if (!SCATTER && p.residual)
                        v = res[SCATTER ? 0 : j] + v;
                    if (col(j) < tl.n)
                        ((float *)p.out)[(u64)row(j) * p.ldo + n] = v;
                }
            }
        }
    }
}

/* act(gate) * up as f16 in ACT_POS order. Lanes of rows n and n + 1 swap a value, so that each stores a pair of one
 * token. Columns past the matrix, up to the padded width, become zeros. ACT: known here, because a choice inside the
 * unrolled loops would make code that no instruction cache holds (it took 40 us a tile). */
template <int NTOK, int ACT>
DEV void store_pairs(const prefill_args &p, const tile &tl, u32 warp, u32 lane, float (*acc)[NTOK / 2])
{
    const u32 g = lane >> 2, t = lane & 3, wg = warp >> 2, w4 = warp & 3, odd = g & 1;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const u32 n = (tl.rb * 8 + wg * 4 + w4) * 16 + g + 8 * h, en = tl.expert * p.w[0].rows + n;
        const bool in = n < p.w[0].rows;
#pragma unroll
        for (int k = 0; k < 2; k++) { /* each rounded by itself, as in gemv */
#pragma unroll
            for (int i = 0; i < NTOK / 4; i++)
                acc[k][i / 2 * 4 + 2 * h + (i & 1)] *= p.w[k].unit;
            if (p.w[k].row_scale) {
                const float s = in ? ((const float *)p.w[k].row_scale)[en] : 1.0f;
#pragma unroll
                for (int i = 0; i < NTOK / 4; i++)
                    acc[k][i / 2 * 4 + 2 * h + (i & 1)] = __fmul_rn(acc[k][i / 2 * 4 + 2 * h + (i & 1)], s);
            }
            if (p.w[k].bias) {
                const float b = in ? ((const float *)p.w[k].bias)[en] : 0.0f;
#pragma unroll
                for (int i = 0; i < NTOK / 4; i++)
                    acc[k][i / 2 * 4 + 2 * h + (i & 1)] = __fadd_rn(acc[k][i / 2 * 4 + 2 * h + (i & 1)], b);
            }
        }
        const u32 col = n & ~1u;
        u16 *out = (u16 *)p.out + (u64)(tl.first + 2 * t + odd) * p.ldo + ACT_POS(col);
#pragma unroll
        for (int i = 0; i < NTOK / 8; i++, out += 8 * p.ldo) {
            float v[2];
#pragma unroll
            for (int e = 0; e < 2; e++)
                v[e] = in ? glu_apply(ACT, acc[0][4 * i + 2 * h + e], acc[1][4 * i + 2 * h + e], p.limit, p.alpha)
                          : 0.0f;
            const float mine = odd ? v[1] : v[0], other = __shfl_xor_sync(~0u, odd ? v[0] : v[1], 4);
            if (8 * i + 2 * t + odd < tl.n && col < p.ldo)
                *(u32 *)out = odd ? pack_h2(other, mine) : pack_h2(mine, other);
        }
    }
}

template <int MB, int NTOK, bool SEGMENTS = false> DEV void prefill(const prefill_params &pp)
{
    extern __shared__ __align__(1024) u8 sm[];
    const prefill_args &p = pp.a;
    const u32 base = (smem_addr(sm) + 1023) & ~1023u;
    const u32 xsm = base, wsm = xsm + p.n_stage_x * NTOK * 128, bars = wsm + p.n_stage_w * 8 * MB * p.w[0].tile_bytes;
    const u32 full_w = bars, empty_w = bars + 32, full_x = bars + 64, empty_x = bars + 128, from = bars + 256;
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    if (tid == 0) {
        for (u32 i = 0; i < p.n_stage_w; i++)
            mbar_init(full_w + i * 8, 1), mbar_init(empty_w + i * 8, 256);
        for (u32 i = 0; i < p.n_stage_x; i++)
            mbar_init(full_x + i * 8, p.gather ? GATHERERS : 1), mbar_init(empty_x + i * 8, 8);
        mbar_init_fence();
    }
    __syncthreads();
    pdl_launch();
    if (warp < 4) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (warp == 0)
            load_weights<MB, NTOK>(p, wsm, bars, lane);
        else if (warp >= 2 && p.gather)
            gather_tokens<NTOK>(p, xsm, bars, from, tid - 64);
        else if (warp == 1 && lane == 0 && !p.gather)
            load_tokens<NTOK>(pp, xsm, bars);
        pdl_wait();
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    if (p.tile)
        pdl_wait();
    rings r = {0, 0, 0, 0};
    bool first = !p.tile;
    tile t;
#pragma unroll 1
    for (u32 i = blockIdx.x; tile_at<NTOK>(p, i, t); i += gridDim.x) {
        float acc[MB][NTOK / 2];
#pragma unroll
        for (int mb = 0; mb < MB; mb++)
#pragma unroll
            for (int k = 0; k < NTOK / 2; k++)
                acc[mb][k] = 0;
        LAYOUT_SWITCH(p.w[0].layout, (consume<L, MB, NTOK, SEGMENTS>(p, wsm, xsm, bars, warp - 4, lane, r, acc));)
        if (first)
            pdl_wait(); /* the output may be what the previous kernel still reads */
        first = false;
        if (MB == 2 && p.pair) {
            if (p.act == 0)
                store_pairs<NTOK, 0>(p, t, warp - 4, lane, acc);
            else if (p.act == 1)
                store_pairs<NTOK, 1>(p, t, warp - 4, lane, acc);
            else
                store_pairs<NTOK, 8>(p, t, warp - 4, lane, acc);
        } else if (p.scatter)
            store_sums<MB, NTOK, true>(p, t, warp - 4, lane, acc);
        else
            store_sums<MB, NTOK, false>(p, t, warp - 4, lane, acc);
    }
    if (first)
        pdl_wait();
}

KERNEL(384, 1) imp_prefill_1x64(const __grid_constant__ prefill_params p) { prefill<1, 64>(p); }
KERNEL(384, 1) imp_prefill_1x128(const __grid_constant__ prefill_params p) { prefill<1, 128>(p); }
KERNEL(384, 1) imp_prefill_1x256(const __grid_constant__ prefill_params p) { prefill<1, 256>(p); }
KERNEL(384, 1) imp_prefill_2x64(const __grid_constant__ prefill_params p) { prefill<2, 64>(p); }
KERNEL(384, 1) imp_prefill_2x128(const __grid_constant__ prefill_params p) { prefill<2, 128>(p); }
KERNEL(384, 1) imp_experts_d16(const __grid_constant__ prefill_params p) { prefill<2, 16, true>(p); }
#endif

/* (token, choice) pairs in the order of their experts, and the tiles of the grouped product: a stable counting sort, so
 * that the list is the same however often it is made. One block; a warp counts, later places, its own run of pairs. */
#define SORT_EXPERTS 512
KERNEL(1024, 1) imp_moe_sort(const __grid_constant__ sort_args p)
{
    extern __shared__ __align__(16) u8 sm[];
    u32 *count = (u32 *)sm; /* [32][n_expert]: pairs of the warp; then where its next one goes */
    __shared__ u32 warp_pairs[16], warp_tiles[16];
    const u32 tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, ne = p.n_expert;
    const i32 *ids = (const i32 *)p.ids;
    pdl_launch();
    for (u32 i = tid; i < 32 * ne; i += 1024)
        count[i] = 0;
    __syncthreads();
    pdl_wait();
    const u32 run = (p.n_pair + 1023) / 1024 * 32, i0 = warp * run, i1 = i0 + run < p.n_pair ? i0 + run : p.n_pair;
    u32 *mine = count + warp * ne;
    for (u32 i = i0; i < i1; i += 32) {
        const u32 e = i + lane < i1 ? (u32)ids[i + lane] : ~0u, same = __match_any_sync(~0u, e);
        if (e < ne && (same & ((1u << lane) - 1)) == 0)
            mine[e] += __popc(same);
        __syncwarp();
    }
    __syncthreads();
    u32 n = 0, tiles = 0, an = 0, at = 0;
    if (tid < SORT_EXPERTS) { /* sums of what stands before, of pairs and of tiles */
        if (tid < ne)
            for (u32 w = 0; w < 32; w++)
                n += count[w * ne + tid];
        tiles = (n + p.n_tok - 1) / p.n_tok;
        an = n, at = tiles;
#pragma unroll
        for (int o = 1; o < 32; o *= 2) {
            u32 bn = __shfl_up_sync(~0u, an, o), bt = __shfl_up_sync(~0u, at, o);
            an += lane >= o ? bn : 0;
            at += lane >= o ? bt : 0;
        }
        if (lane == 31)
            warp_pairs[warp] = an, warp_tiles[warp] = at;
    }
    __syncthreads();
    if (tid < SORT_EXPERTS) {
        for (u32 k = 0; k < warp; k++)
            an += warp_pairs[k], at += warp_tiles[k];
        u32 to = an - n;
        if (tid < ne)
            for (u32 w = 0; w < 32; w++) {
                const u32 c = count[w * ne + tid];
                count[w * ne + tid] = to;
                to += c;
            }
        for (u32 k = 0; k < tiles; k++)
            *((uint4 *)p.tile + 1 + at - tiles + k) =
                make_uint4(tid, an - n + k * p.n_tok, n - k * p.n_tok < p.n_tok ? n - k * p.n_tok : p.n_tok, 0);
        if (tid == SORT_EXPERTS - 1)
            *(u32 *)p.tile = at;
    }
    __syncthreads();
    for (u32 i = i0; i < i1; i += 32) {
        const u32 e = i + lane < i1 ? (u32)ids[i + lane] : ~0u, same = __match_any_sync(~0u, e),
                  before = __popc(same & ((1u << lane) - 1));
        const u32 to = e < ne ? mine[e] + before : 0;
        __syncwarp();
        if (e < ne) {
            ((i32 *)p.pair_of)[to] = (i32)(i + lane);
            if (before == 0)
                mine[e] += __popc(same);
        }
        __syncwarp();
    }
}

/* fp8: prompts with e4m3 products, y[M][N] = x[M][K] W[N][K]^T, opt-in (--prefill fp8), Hopper only. Three kernels:
 * imp_fp8_copy turns the tiles of a matrix into e4m3 rows once, when a plan is compiled; imp_fp8_rows turns activations
 * (f32, f32 to be normalised, or f16) into e4m3 rows; imp_fp8_* multiply. Factors are powers of two (params.h).
 * Products: tokens are A, weights are B, both through shared memory by TMA, 128 columns a stage; here A may be tokens
 * because nothing is decoded on the way, and then a thread holds neighbouring results of one token: two are stored at
 * once, and gate and up meet without a shuffle. Hopper keeps about 14 bits of an e4m3 sum: after each 128 columns the
 * sums go, times the token's factor of those columns, to f32 registers and begin anew. So a warpgroup has 64 x 128 sums
 * under way and two of those blocks done, one after the other; the other warpgroup's products run while it adds.
 * One block a multiprocessor takes tile after tile, in the order of prefill.cu.
 * Order of sums: a function of K alone, so a row's bytes depend on itself alone.
 * Floor: max(2MNK / 1,350 TFLOP/s measured for cuBLAS, bytes). Numerics: e4m3 products (exact), sums as said. */
#include "decode.cuh"
#include "norm.cuh"
#include "tma.cuh"
#include "wgmma_fp8.cuh"

DEV u32 e4m3x2(float lo, float hi)
{
    u16 d;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0,%1,%2;" : "=h"(d) : "f"(hi), "f"(lo));
    return d;
}
DEV u32 e4m3x4(float a, float b, float c, float d) { return e4m3x2(a, b) | e4m3x2(c, d) << 16; }
DEV float pow2(i32 e) { return __uint_as_float((u32)(e + 127) << 23); }

/* ---- weights ------------------------------------------------------------------------------------------------ */
/* f(k, h, pair) for the values of the row tile: places k and k + 1 of row g + 8h. A warp takes every eighth tile of
 * columns. */
template <int L, class F> DEV void each_pair(const dweight &d, const u8 *tiles, u32 warp, u32 lane, F f)
{
    for (u32 kt = warp; kt < d.k_tiles; kt += 8) {
        in_gmem src = {tiles + (u64)kt * d.tile_bytes};
        scales q;
        tile_scales<L>(src, lane, q);
#pragma unroll
        for (int c = 0; c < 4; c++) {
            u32 a[4][4];
            chunk<L>(src, lane, c, q, d.lut, a);
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    f(kt * 256 + c * 64 + j * 16 + (i >> 1) * 8 + 2 * (lane & 3), i & 1, a[j][i]);
        }
    }
}

/* A block a tile of 16 rows: its warps look for the largest values, then write. */
KERNEL(256, 2) imp_fp8_copy(const __grid_constant__ fp8_copy_args p)
{
    __shared__ float most[8][16];
    const u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, rt = blockIdx.x;
    const u8 *tiles = (const u8 *)p.w.tiles + (u64)rt * p.w.k_tiles * p.w.tile_bytes;
    float m[2] = {0, 0};
    auto look = [&](u32, int h, u32 v) { m[h] = fmaxf(m[h], fmaxf(fabsf(h2f((u16)v)), fabsf(h2f((u16)(v >> 16))))); };
    LAYOUT_SWITCH(p.w.layout, each_pair<L>(p.w, tiles, warp, lane, look);)
#pragma unroll
    for (int h = 0; h < 2; h++) {
        m[h] = fmaxf(m[h], __shfl_xor_sync(~0u, m[h], 1));
        m[h] = fmaxf(m[h], __shfl_xor_sync(~0u, m[h], 2));
        if (t == 0)
            most[warp][g + 8 * h] = m[h];
    }
    __syncthreads();
    float inv[2];
    u8 *dst[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const u32 n = rt * 16 + g + 8 * h, row = p.pair ? FP8_PAIR_ROW(n, p.pair == 2) : n;
        for (int w = 0; w < 8; w++)
            m[h] = fmaxf(m[h], most[w][g + 8 * h]);
        const i32 e = fp8_exponent(__float_as_uint(m[h]));
        inv[h] = pow2(-e);
        dst[h] = n < p.w.rows ? (u8 *)p.dst + (u64)row * p.ld : 0;
        if (warp == 0 && t == 0 && n < p.w.rows) {
            ((float *)p.scale)[row] = pow2(e) * p.w.unit * (p.w.row_scale ? ((const float *)p.w.row_scale)[n] : 1.0f);
            if (p.bias)
                ((float *)p.bias)[row] = p.w.bias ? ((const float *)p.w.bias)[n] : 0.0f;
        }
    }
    auto write = [&](u32 k, int h, u32 v) {
        if (k < p.ld && dst[h])
            *(u16 *)(dst[h] + k) = (u16)e4m3x2(h2f((u16)v) * inv[h], h2f((u16)(v >> 16)) * inv[h]);
    };
    LAYOUT_SWITCH(p.w.layout, each_pair<L>(p.w, tiles, warp, lane, write);)
}

/* ---- activations -------------------------------------------------------------------------------------------- */
/* The factor of 128 values of a row, four a lane, of which m is the lane's largest; returns what to multiply by. */
DEV float block_factor(const op_args &p, u32 row, u32 block, float m)
{
    u32 bits;
    asm volatile("redux.sync.max.u32 %0,%1,0xffffffff;" : "=r"(bits) : "r"(__float_as_uint(m)));
    const i32 e = fp8_exponent(bits);
    if ((threadIdx.x & 31) == 0)
        ((float *)p.out2)[(u64)block * p.ldo2 + row] = pow2(e);
    return pow2(-e);
}
DEV float most4(float a, float b, float c, float d)
{
    return fmaxf(fmaxf(fabsf(a), fabsf(b)), fmaxf(fabsf(c), fabsf(d)));
}

/* f16 rows in ACT_POS order, which stays. */
DEV void rows_of_f16(const op_args &p, u32 row, u32 warp, u32 lane)
{
    const uint2 *src = (const uint2 *)((const u16 *)p.a + (u64)row * p.lda);
    u32 *out = (u32 *)((u8 *)p.out + (u64)row * p.ldo);
    const u32 n = p.ldo / 128;
    for (u32 b0 = warp; b0 < n; b0 += 64) {
        uint2 v[8];
#pragma unroll
        for (int j = 0; j < 8; j++)
            v[j] = b0 + 8 * j < n ? src[(b0 + 8 * j) * 32 + lane] : make_uint2(0, 0);
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (b0 + 8 * j < n) {
                const float a = h2f((u16)v[j].x), b = h2f((u16)(v[j].x >> 16)), c = h2f((u16)v[j].y),
                            d = h2f((u16)(v[j].y >> 16));
                const float f = block_factor(p, row, b0 + 8 * j, most4(a, b, c, d));
                out[(b0 + 8 * j) * 32 + lane] = e4m3x4(a * f, b * f, c * f, d * f);
            }
    }
}

/* A block a row; a: rows of lda values, flag2: what they are; out: e4m3 [row][ldo], ldo = FP8_K(width); out2: factors
 * [ldo / 128][ldo2]. Norms as in imp_norm, but for the rounding to f16 that it ends with. */
KERNEL(256, 6) imp_fp8_rows(const __grid_constant__ op_args p)
{
    __shared__ float red[8];
    pdl_launch();
    pdl_wait();
    const u32 row = blockIdx.x, tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, n = p.ldo / 128;
    if (p.flag2 == FP8_FROM_F16) {
        rows_of_f16(p, row, warp, lane);
        return;
    }
    const float *src = (const float *)p.a + (u64)row * p.lda, *w = (const float *)p.w,
                *bias = p.flag ? (const float *)p.bias : 0;
    u8 *out = (u8 *)p.out + (u64)row * p.ldo;
    float scale = 1, mean = 0;
    if (p.flag) { /* LayerNorm */
        scale = row_deviation(src, p.width, p.eps, red, mean);
    } else if (p.flag2 == FP8_FROM_NORM) {
        scale = row_rms(src, p.width, p.eps, red);
    }
    const bool whole = p.width % 4 == 0; /* else rows lie at odd places */
    auto four = [&](const float *v, u32 i, float other) { /* past the width: zeros */
        if (!v)
            return make_float4(other, other, other, other);
        if (whole && i < p.width)
            return *(const float4 *)(v + i);
        return make_float4(i < p.width ? v[i] : 0.0f, i + 1 < p.width ? v[i + 1] : 0.0f,
                           i + 2 < p.width ? v[i + 2] : 0.0f, i + 3 < p.width ? v[i + 3] : 0.0f);
    };
    const float plus = w ? p.plus_one : 0.0f;
    for (u32 b = warp; b < n; b += 8) {
        const u32 i = b * 128 + lane * 4;
        float4 v = four(src, i, 0);
        const float4 g = four(w, i, 1), c = four(bias, i, 0);
        v = make_float4((v.x - mean) * scale * (g.x + plus) + c.x, (v.y - mean) * scale * (g.y + plus) + c.y,
                        (v.z - mean) * scale * (g.z + plus) + c.z, (v.w - mean) * scale * (g.w + plus) + c.w);
        if (mean != 0) /* what a mean makes of the padding */
            v = make_float4(i < p.width ? v.x : 0.0f, i + 1 < p.width ? v.y : 0.0f, i + 2 < p.width ? v.z : 0.0f,
                            i + 3 < p.width ? v.w : 0.0f);
        const float f = block_factor(p, row, b, most4(v.x, v.y, v.z, v.w));
        *(u16 *)(out + ACT_POS(i)) = (u16)e4m3x2(v.x * f, v.y * f);
        *(u16 *)(out + ACT_POS(i + 2)) = (u16)e4m3x2(v.z * f, v.w * f);
    }
}

/* ---- products ----------------------------------------------------------------------------------------------- */
struct fp8_params {
    tensor_map x, w;
    fp8_args a;
};

#ifdef HOPPER
/* Tile: WAVES * 64 tokens (SPLIT: 128, 64 a warpgroup) x 2 * N rows of the copy (SPLIT: N). */
template <int WAVES, int N, bool SPLIT> struct shape {
    static constexpr u32 tokens = SPLIT ? 128 : 64 * WAVES, rows = SPLIT ? N : 2 * N, x_bytes = tokens * 128,
                         w_bytes = rows * 128;
    static constexpr u32 bytes = x_bytes + w_bytes, stages = FP8_STAGES(tokens, rows);
};
/* Shared memory: barriers "full" of the stages, 64 bytes on "empty"; from 1,024 on the tokens' factors, 512 bytes a
 * stage; then the stages, tokens before rows. */
#define FACTORS 1024u
#define STAGE0 (FACTORS + 4096u)

struct tile8 {
    u32 rb, first;
};
template <class S> DEV bool tile_at(const fp8_args &p, u32 i, tile8 &t)
{
    if (i >= p.n_rb * p.n_tb)
        return false;
    u32 tb;
    raster(p.n_rb, p.n_tb, i, t.rb, tb);
    t.first = tb * S::tokens;
    return true;
}

/* One thread: rows of the copy, or of tokens. Each says itself how much will come. */
template <class S, bool WEIGHTS> DEV void load(const fp8_params &pp, u32 base)
{
    const fp8_args &p = pp.a;
    u32 s = 0, ph = 1;
    tile8 t;
    for (u32 i = blockIdx.x; tile_at<S>(p, i, t); i += gridDim.x)
        for (u32 k = 0; k < p.n_k; k++) {
            const u32 full = base + s * 8, empty = base + 64 + s * 8, x = base + STAGE0 + s * S::bytes,
                      w = x + S::x_bytes;
            mbar_wait_bounded(empty, ph);
            mbar_expect(full, WEIGHTS ? S::w_bytes : S::x_bytes + S::tokens * 4);
            if (!WEIGHTS) {
                tma_2d(x, &pp.x, k * 128, t.first, full);
                bulk_load_keep(base + FACTORS + s * 512, (const float *)p.x_scale + (u64)k * p.ldx + t.first,
                               S::tokens * 4, full);
            } else {
                tma_2d(w, &pp.w, k * 128, t.rb * S::rows, full);
            }
            if (++s == S::stages)
                s = 0, ph ^= 1;
        }
}

template <class S, int WAVES, int N, bool SPLIT>
DEV void multiply(const fp8_args &p, u32 base, u32 wg, u32 lane, u32 row, u32 &s, u32 &ph, float (*sum)[N / 2])
{
    float acc[N / 2]; /* one set for all products: declared inside, the assembler takes a second one and spills */
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        acc[i] = 0;
#pragma unroll 1
    for (u32 k = 0; k < p.n_k; k++) {
        const u32 x = base + STAGE0 + s * S::bytes + (SPLIT ? wg * 8192 : 0),
                  w = base + STAGE0 + s * S::bytes + S::x_bytes + (SPLIT ? 0 : wg * (N * 128));
        mbar_wait_bounded(base + s * 8, ph);
#pragma unroll
        for (int v = 0; v < WAVES; v++) {
            const u64 a = wgmma_desc(x + v * 8192), b = wgmma_desc(w);
            wgmma_fence();
            wgmma_e4m3<N>::template run<false>(acc, a, b);
#pragma unroll
            for (int j = 1; j < 4; j++)
                wgmma_e4m3<N>::template run<true>(acc, a + 2 * j, b + 2 * j);
            wgmma_commit();
            const u32 at = base + FACTORS + s * 512 + (row + v * 64) * 4;
            const float f0 = __uint_as_float(lds32(at)), f1 = __uint_as_float(lds32(at + 32));
            wgmma_wait<0>();
            pin<N / 2>(acc);
            if (v == WAVES - 1 && lane == 0)
                mbar_arrive(base + 64 + s * 8); /* read: the stage may be filled anew */
#pragma unroll
            for (int i = 0; i < N / 2; i++)
                sum[v][i] = fmaf(acc[i], i & 2 ? f1 : f0, sum[v][i]);
        }
        if (++s == S::stages)
            s = 0, ph ^= 1;
    }
}

/* f32 results of one part, residual added. Residuals are asked for 16 at a time: one trip to memory. */
template <int N> DEV void store_row(const fp8_part &q, u32 token, u32 n0, bool even, const float *v, int h)
{
    float *out = (float *)q.out + (u64)token * q.ldo + n0;
    const float *res = (const float *)q.residual + (u64)token * q.ldr + n0;
    constexpr int B = N / 8 < 8 ? N / 8 : 8;
    auto in = [&](int i, u32 e) { return n0 + 8 * i + e < q.rows; };
#pragma unroll
    for (int i0 = 0; i0 < N / 8; i0 += B) {
        float2 r[B];
#pragma unroll
        for (int i = 0; i < B; i++) {
            r[i] = make_float2(0, 0);
            if (q.residual && even && in(i0 + i, 0))
                r[i] = *(const float2 *)(res + 8 * (i0 + i));
        }
        if (q.residual && !even)
#pragma unroll
            for (int i = 0; i < B; i++) {
                r[i].x = in(i0 + i, 0) ? res[8 * (i0 + i)] : 0.0f;
                r[i].y = in(i0 + i, 1) ? res[8 * (i0 + i) + 1] : 0.0f;
            }
#pragma unroll
        for (int i = 0; i < B; i++) {
            const float2 o = make_float2(r[i].x + v[4 * (i0 + i) + 2 * h], r[i].y + v[4 * (i0 + i) + 2 * h + 1]);
            float *to = out + 8 * (i0 + i);
            if (even && in(i0 + i, 0))
                *(float2 *)to = o;
            if (!even && in(i0 + i, 0))
                to[0] = o.x;
            if (!even && in(i0 + i, 1))
                to[1] = o.y;
        }
    }
}

/* act(gate) * up as f16 in ACT_POS order: columns 16u + c of the copy's rows are gate's, 16u + 8 + c up's. */
template <int N, int ACT> DEV void store_pair_row(const fp8_args &p, u32 token, u32 pos, const float *v, int h)
{
    u16 *out = (u16 *)p.part[0].out + (u64)token * p.part[0].ldo + pos;
#pragma unroll
    for (int u = 0; u < N / 16; u++) {
        float o[2];
#pragma unroll
        for (int e = 0; e < 2; e++)
            o[e] = glu_apply(ACT, v[8 * u + 2 * h + e], v[8 * u + 4 + 2 * h + e], p.limit, p.alpha);
        if (pos + 8 * u < p.part[0].ldo)
            *(u32 *)(out + 8 * u) = pack_h2(o[0], o[1]);
    }
}

/* The same as e4m3 rows with a factor for each 128 columns of a token, for the product that reads them. The warpgroups
 * hold 64 of those columns each and tell each other their largest; a quad swaps its values so that each lane stores 8
 * in one piece. */
template <int WAVES, int ACT>
DEV void store_pairs_e4m3(const fp8_args &p, u32 base, u32 tile, u32 row0, u32 token0, u32 row, u32 lane,
                          float (*sum)[64])
{
    const u32 wg = row0 >> 7 & 1, t = lane & 3,
              most = base + FACTORS + 2048 + (tile & 1) * 1024; /* two sets: the other may still read */
    float m[WAVES][2];
#pragma unroll
    for (int v = 0; v < WAVES; v++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float &x = m[v][h];
            x = 0;
#pragma unroll
            for (int i = 0; i < 16; i++) {
                const int at = 8 * (i >> 1) + 2 * h + (i & 1);
                sum[v][at] = glu_apply(ACT, sum[v][at], sum[v][at + 4], p.limit, p.alpha);
                x = fmaxf(x, fabsf(sum[v][at]));
            }
            x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
            x = fmaxf(x, __shfl_xor_sync(~0u, x, 2));
            if (t == 0)
                sts32(most + (wg * 128 + row + v * 64 + h * 8) * 4, __float_as_uint(x));
        }
    bar_sync(3, 256);
#pragma unroll
    for (int v = 0; v < WAVES; v++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const u32 token = token0 + v * 64 + h * 8;
            const i32 e = fp8_exponent(__float_as_uint(
                fmaxf(m[v][h], __uint_as_float(lds32(most + ((wg ^ 1) * 128 + row + v * 64 + h * 8) * 4)))));
            const float f = pow2(-e);
            if (wg == 0 && t == 0 && token < p.m)
                ((float *)p.out_scale)[(u64)(row0 >> 8) * p.ldos + token] = pow2(e);
#pragma unroll
            for (int u = 0; u < 8; u += 4) {
                u32 q[4];
#pragma unroll
                for (int k = 0; k < 4; k++)
                    q[k] = e4m3x2(sum[v][8 * (u + k) + 2 * h] * f, sum[v][8 * (u + k) + 2 * h + 1] * f);
                const bool odd = t & 1, up = t & 2;
                const u32 got = __shfl_xor_sync(~0u, odd ? q[0] | q[2] << 16 : q[1] | q[3] << 16, 1);
                const u32 a = odd ? (got & 0xFFFF) | q[1] << 16 : q[0] | got << 16; /* u + 0 or 1, from two lanes */
                const u32 b = odd ? got >> 16 | q[3] << 16 : q[2] | (got & 0xFFFF0000);        /* u + 2 or 3 */
                const u32 far = __shfl_xor_sync(~0u, up ? a : b, 2);
                if (token < p.m)
                    *(uint2 *)((u8 *)p.part[0].out + (u64)token * p.part[0].ldo + row0 / 2 + 8 * (u + t)) =
                        up ? make_uint2(far, b) : make_uint2(a, far);
            }
        }
}

template <int WAVES, int N, int ACT> DEV void store_pairs(const fp8_args &p, u32 token0, u32 pos, float (*sum)[N / 2])
{
#pragma unroll
    for (int v = 0; v < WAVES; v++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (token0 + v * 64 + h * 8 < p.m)
                store_pair_row<N, ACT>(p, token0 + v * 64 + h * 8, pos, sum[v], h);
}

/* row0: the warpgroup's first row of the copy; token0: the thread's first token, row: its place in the tile; tile: how
 * many there were. */
template <int WAVES, int N, bool SPLIT>
DEV void store(const fp8_args &p, u32 base, u32 tile, u32 row0, u32 token0, u32 row, u32 lane, float (*sum)[N / 2])
{
    const u32 t = lane & 3;
#pragma unroll
    for (int i = 0; i < N / 8; i++) {
        if (i % 2 == 0)
            asm volatile("" ::: "memory"); /* two at a time: the sums leave no room for more */
        const float2 f = *(const float2 *)((const float *)p.w_scale + row0 + 8 * i + 2 * t);
        const float2 b = p.bias ? *(const float2 *)((const float *)p.bias + row0 + 8 * i + 2 * t) : make_float2(0, 0);
#pragma unroll
        for (int v = 0; v < WAVES; v++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                sum[v][4 * i + 2 * h] = __fmaf_rn(sum[v][4 * i + 2 * h], f.x, b.x);
                sum[v][4 * i + 2 * h + 1] = __fmaf_rn(sum[v][4 * i + 2 * h + 1], f.y, b.y);
            }
    }
    if constexpr (N == 128 && !SPLIT)
        if (p.out_scale) {
            if (p.act == 0)
                store_pairs_e4m3<WAVES, 0>(p, base, tile, row0, token0, row, lane, sum);
            else if (p.act == 1)
                store_pairs_e4m3<WAVES, 1>(p, base, tile, row0, token0, row, lane, sum);
            else
                store_pairs_e4m3<WAVES, 8>(p, base, tile, row0, token0, row, lane, sum);
            return;
        }
    if (p.pair) {
        const u32 pos = row0 / 2 + 2 * t;
        if (p.act == 0)
            store_pairs<WAVES, N, 0>(p, token0, pos, sum);
        else if (p.act == 1)
            store_pairs<WAVES, N, 1>(p, token0, pos, sum);
        else
            store_pairs<WAVES, N, 8>(p, token0, pos, sum);
        return;
    }
    u32 k = 0;
    while (k + 1 < p.n_part && row0 >= p.part[k + 1].row0)
        k++;
    const fp8_part q = p.part[k];
#pragma unroll
    for (int v = 0; v < WAVES; v++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (token0 + v * 64 + h * 8 < p.m)
                store_row<N>(q, token0 + v * 64 + h * 8, row0 - q.row0 + 2 * t, p.even, sum[v], h);
}

template <int WAVES, int N, bool SPLIT> DEV void fp8(const fp8_params &pp)
{
    extern __shared__ __align__(1024) u8 sm[];
    typedef shape<WAVES, N, SPLIT> S;
    const fp8_args &p = pp.a;
    const u32 base = (smem_addr(sm) + 1023) & ~1023u;
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    if (tid == 0) {
        for (u32 i = 0; i < S::stages; i++)
            mbar_init(base + i * 8, 2), mbar_init(base + 64 + i * 8, 8);
        mbar_init_fence();
    }
    __syncthreads();
    pdl_launch();
    if (warp < 4) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (warp == 0 && lane == 0)
            load<S, true>(pp, base);
        pdl_wait();
        if (warp == 1 && lane == 0)
            load<S, false>(pp, base);
        __syncwarp();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        const u32 wg = (warp - 4) >> 2,
                  row = (SPLIT ? wg * 64 : 0) + (warp & 3) * 16 + (lane >> 2); /* the thread's first */
        u32 s = 0, ph = 0, n = 0;
        tile8 t;
        pdl_wait();
#pragma unroll 1
        for (u32 i = blockIdx.x; tile_at<S>(p, i, t); i += gridDim.x) {
            float sum[WAVES][N / 2];
#pragma unroll
            for (int v = 0; v < WAVES; v++)
#pragma unroll
                for (int k = 0; k < N / 2; k++)
                    sum[v][k] = 0;
            multiply<S, WAVES, N, SPLIT>(p, base, wg, lane, row, s, ph, sum);
            store<WAVES, N, SPLIT>(p, base, n++, t.rb * S::rows + (SPLIT ? 0 : wg * N), t.first + row, row, lane, sum);
        }
    }
}

KERNEL(384, 1) imp_fp8_128x256(const __grid_constant__ fp8_params p) { fp8<2, 128, false>(p); }
KERNEL(384, 1) imp_fp8_64x256(const __grid_constant__ fp8_params p) { fp8<1, 128, false>(p); }
KERNEL(384, 1) imp_fp8_128x128(const __grid_constant__ fp8_params p) { fp8<1, 128, true>(p); }
KERNEL(384, 1) imp_fp8_64x128(const __grid_constant__ fp8_params p) { fp8<1, 64, false>(p); }
KERNEL(384, 1) imp_fp8_64x64(const __grid_constant__ fp8_params p) { fp8<1, 32, false>(p); }
#endif

/* attend: attention over paged K and V of any shape, f16 (imp_attend_any) or f32 (imp_attend_f32: --precise, --kv f32);
 * products and sums are f32. The reference, and what serves shapes, sizes of blocks and types without a kernel of their
 * own (attend_d.cu: rows of class D; attend_p.cu, attend_w.cu: prompts).
 * Block = (token, up to four query heads of a kv head, split or all of them): a warp a head. 32 positions of K, then of
 * V, come to shared memory for all heads; a lane takes a position's score, then columns of the output.
 * Splits lie at absolute positions (SPLIT_OF) and are added in order by the same steps whoever does it, the block that
 * has them all or imp_attend_join, so a row's bytes depend on nothing but its own positions.
 * Bytes: positions * (d_k + d_v) * 4 a kv head and four of its heads. Operations: 2 * positions * (d_k + d_v) a head,
 * scalar. */
#include "attend.cuh"

#define COLUMNS 18 /* of a lane: heads of up to 576 */

struct sums { /* of a head: largest score, sum of weights, columns lane + 32 * i of the weighted V */
    float m, l, o[COLUMNS];
};

DEV float number(u16 h) { return h2f(h); }
DEV float number(float f) { return f; }

/* What adding b to a takes: both are scaled to the larger maximum. False: b saw nothing. */
struct scales {
    float m, a, b;
};
DEV bool scale_both(float a, float b, scales &s)
{
    s.m = fmaxf(a, b);
    if (b == -INFINITY)
        return false;
    s.a = a == -INFINITY ? 0.0f : ex2((a - s.m) * LOG2E);
    s.b = ex2((b - s.m) * LOG2E);
    return true;
}
DEV float add_scaled(float a, float b, const scales &s) { return fmaf(a, s.a, __fmul_rn(b, s.b)); }

/* A column's sum o to the row's output. m and l: its head's; a sink takes part in the sum of weights alone. */
DEV void finish(const attend_args &p, u32 tok, u32 h, u32 d, float m, float l, float o)
{
    if (p.sinks) {
        scales s;
        if (scale_both(m, ((const float *)p.sinks)[h], s))
            l = add_scaled(l, 1.0f, s), o = __fmul_rn(o, s.a);
    }
    o = l > 0 ? o / l : 0.0f;
    const u32 col = h * p.d_v + d;
    if (p.out_f16)
        ((u16 *)p.out)[(u64)tok * p.ldo + ACT_POS(col)] = f2h(o);
    else
        ((float *)p.out)[(u64)tok * p.ldo + col] = o;
}
DEV void pad_row(const attend_args &p, u32 tok, u32 first, u32 step)
{
    for (u32 c = p.n_head * p.d_v + first; p.out_f16 && c < p.ldo; c += step)
        ((u16 *)p.out)[(u64)tok * p.ldo + ACT_POS(c)] = 0;
}

/* Columns [first, first + n) of 32 positions to rows of ld floats, zeros behind n and where the token sees nothing. A
 * warp takes four rows at a time, so that their trips to memory go together. off: of K or V in a cache block, whose
 * rows have width columns. */
template <typename T>
DEV void fetch(const attend_args &p, const view &v, u32 from, u64 off, u32 width, u32 first, u32 n, u32 ld, float *tile)
{
    const u32 lane = threadIdx.x & 31;
#pragma unroll 1
    for (u32 r = threadIdx.x / 32 * 4; r < ATTEND_ANY_POS; r += p.heads * 4) {
        const T *src[4];
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            const u32 pos = from + r + j;
            src[j] = 0;
            if (pos >= v.lo && pos < v.hi)
                src[j] = (const T *)(block_of(p, v, pos) + off) + (u64)(pos % p.block_size) * width + first;
        }
#pragma unroll 2
        for (u32 c = lane; c < ld; c += 32) {
            float x[4];
#pragma unroll
            for (u32 j = 0; j < 4; j++)
                x[j] = src[j] && c < n ? number(src[j][c]) : 0.0f;
#pragma unroll
            for (u32 j = 0; j < 4; j++)
                tile[(r + j) * ld + c] = x[j];
        }
    }
}

/* n a multiple of four; q at one of 16 bytes. */
DEV float dot(const float *q, const float *k, u32 n)
{
    float s[4] = {0, 0, 0, 0};
#pragma unroll 4
    for (u32 i = 0; i < n; i += 4) {
        const float4 a = *(const float4 *)(q + i);
        s[0] = fmaf(a.x, k[i], s[0]), s[1] = fmaf(a.y, k[i + 1], s[1]);
        s[2] = fmaf(a.z, k[i + 2], s[2]), s[3] = fmaf(a.w, k[i + 3], s[3]);
    }
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* The lane's position to its head's scores; k: the position's row in shared memory. The weight. */
DEV float weigh(const attend_args &p, const view &w, u32 pos, const float *q, const float *k, u32 n, sums &a)
{
    const bool ok = pos >= w.lo && pos < w.hi;
    float s = dot(q, k, n) * p.scale;
    if (p.softcap > 0)
        s = p.softcap * tanhf(s / p.softcap);
    const float m = fmaxf(a.m, warp_max(ok ? s : -INFINITY));
    const float c = ex2((a.m - m) * LOG2E), e = ok ? ex2((s - m) * LOG2E) : 0.0f;
    a.l = fmaf(a.l, c, warp_sum(e));
    a.m = m;
#pragma unroll
    for (int i = 0; i < COLUMNS; i++)
        a.o[i] *= c;
    return e;
}
/* 32 positions, each by the weight that its lane has. */
DEV void add_values(float weight, const float *v, u32 ld, u32 lane, u32 d_v, sums &a)
{
    for (u32 j = 0; j < ATTEND_ANY_POS; j++) {
        const float e = __shfl_sync(~0u, weight, j);
#pragma unroll
        for (u32 i = 0; i < COLUMNS; i++) {
            if (i * 32 >= d_v)
                break;
            a.o[i] = fmaf(e, v[j * ld + i * 32 + lane], a.o[i]);
        }
    }
}

DEV void no_sums(sums &a)
{
    a.m = -INFINITY, a.l = 0;
#pragma unroll
    for (int i = 0; i < COLUMNS; i++)
        a.o[i] = 0;
}

/* A split of a head, by all warps of the block together. q: the warp's query, tile: shared memory. */
template <typename T>
DEV void one_split(const attend_args &p, const view &v, u32 split, u32 kh, const float *q, float *tile, sums &a)
{
    const u32 lane = threadIdx.x & 31, n = (p.d_k + 3) & ~3u, ld = n + 1, lo = v.lo & ~(ATTEND_ANY_POS - 1);
    const u32 begin = SPLIT_BEGIN(split) > lo ? SPLIT_BEGIN(split) : lo;
    const u32 end = SPLIT_BEGIN(split + 1) < v.hi ? SPLIT_BEGIN(split + 1) : v.hi;
    const bool v_in_k = p.v_off == p.k_off && p.n_kv_head == 1; /* the first columns of K are V */
    no_sums(a);
#pragma unroll 1
    for (u32 b = begin; b < end; b += ATTEND_ANY_POS) {
        __syncthreads(); /* the tile before is read */
        fetch<T>(p, v, b, p.k_off, p.k_width, kh * p.d_k, p.d_k, ld, tile);
        __syncthreads();
        const float e = weigh(p, v, b + lane, q, tile + lane * ld, n, a);
        if (!v_in_k) {
            __syncthreads();
            fetch<T>(p, v, b, p.v_off, p.v_width, kh * p.d_v, p.d_v, p.d_v, tile);
            __syncthreads();
        }
        add_values(e, tile, v_in_k ? ld : p.d_v, lane, p.d_v, a);
    }
}

/* Where a split's sums of a head lie: d_v columns, the largest score, the sum of weights. */
DEV float *place(const attend_args &p, u32 tok, u32 h, u32 nth)
{
    return (float *)p.part + (((u64)(tok - p.tok0) * p.n_head + h) * p.n_split + nth) * PART_LD(p.d_v);
}

template <typename T> DEV void attend_any(const attend_args &p)
{
    extern __shared__ __align__(16) float smem[];
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, tok = p.tok0 + blockIdx.x;
    const u32 group = p.n_head / p.n_kv_head, subs = gridDim.y / p.n_kv_head, kh = blockIdx.y / subs;
    const u32 nth_head = blockIdx.y % subs * p.heads + warp, h = kh * group + nth_head, n = (p.d_k + 3) & ~3u;
    const bool mine = nth_head < group; /* the others bring K and V with them */
    float *q = smem + warp * n, *tile = smem + p.heads * n;
    pdl_launch();
    pdl_wait();
    for (u32 i = lane; i < n; i += 32)
        q[i] = mine && i < p.d_k ? ((const float *)p.q)[(u64)tok * p.ldq + h * p.d_k + i] : 0.0f;
    __syncwarp();
    const view v = token_view(p, tok);
    const u32 first = SPLIT_OF(v.lo), last = v.hi ? SPLIT_OF(v.hi - 1) : 0;
    sums one, all;
    if (p.n_split > 1) {
        if (first + blockIdx.z > last)
            return;
        one_split<T>(p, v, first + blockIdx.z, kh, q, tile, one);
        float *to = place(p, tok, h, blockIdx.z);
#pragma unroll
        for (u32 i = 0; i < COLUMNS; i++)
            if (mine && i * 32 + lane < p.d_v)
                to[i * 32 + lane] = one.o[i];
        if (mine && lane == 0)
            to[p.d_v] = one.m, to[p.d_v + 1] = one.l;
        return;
    }
    no_sums(all);
#pragma unroll 1
    for (u32 split = first; split <= last; split++) {
        one_split<T>(p, v, split, kh, q, tile, one);
        scales s;
        if (!scale_both(all.m, one.m, s))
            continue;
        all.m = s.m;
        all.l = add_scaled(all.l, one.l, s);
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
            all.o[i] = add_scaled(all.o[i], one.o[i], s);
    }
#pragma unroll
    for (u32 i = 0; i < COLUMNS; i++)
        if (mine && i * 32 + lane < p.d_v)
            finish(p, tok, h, i * 32 + lane, all.m, all.l, all.o[i]);
    if (blockIdx.y == 0)
        pad_row(p, tok, threadIdx.x, 32 * p.heads);
}

KERNEL(128, 4) imp_attend_any(const __grid_constant__ attend_args p) { attend_any<u16>(p); }
KERNEL(128, 4) imp_attend_f32(const __grid_constant__ attend_args p) { attend_any<float>(p); }

/* A head's splits of a token, in order. */
KERNEL(128, 8) imp_attend_join(const __grid_constant__ attend_args p)
{
    pdl_launch();
    pdl_wait();
    const u32 tok = p.tok0 + blockIdx.x, h = blockIdx.y;
    const view v = token_view(p, tok);
    const u32 n = v.hi > v.lo ? SPLIT_OF(v.hi - 1) - SPLIT_OF(v.lo) + 1 : 0;
    for (u32 d = threadIdx.x; d < p.d_v; d += 128) {
        float m = -INFINITY, l = 0, o = 0;
        for (u32 i = 0; i < n; i++) {
            const float *part = place(p, tok, h, i);
            scales s;
            if (!scale_both(m, part[p.d_v], s))
                continue;
            m = s.m;
            l = add_scaled(l, part[p.d_v + 1], s);
            o = add_scaled(o, part[d], s);
        }
        finish(p, tok, h, d, m, l, o);
    }
    if (h == 0)
        pad_row(p, tok, threadIdx.x, 128);
}

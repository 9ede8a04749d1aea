/* attend: attention over paged K and V of any shape, f16 (imp_attend_h*) or f32 (imp_attend_f*: --precise, --kv f32);
 * products and sums are f32. What serves shapes, sizes of blocks and types without a kernel of their own (attend_d.cu:
 * rows of class D; attend_p.cu, attend_w.cu: prompts).
 * Block = (token, some query heads of a kv head, a split or all of them). A warp takes 32 positions at a time, for all
 * heads of the block: those whose number / 32 is its own, modulo the warps. K and V lie in shared memory as f32; a lane
 * has a position's scores, then columns of V.
 * Splits lie at absolute positions (SPLIT_OF); warps, then splits, are added in order by the same steps whoever does
 * it, the block that has all splits or imp_attend_join, so a row's bytes depend on nothing but its own positions.
 * Bytes: positions * (d_k + d_v) * size for each block's heads. Operations: 2 * positions * (d_k + d_v) a head. */
#include "attend.cuh"

struct sums { /* of a part of a head's positions: largest score, sum of weights, a column of the weighted V */
    float m, l, o;
};
/* a += b. What saw nothing has m -INFINITY. */
DEV void add_sums(sums &a, const sums &b)
{
    if (b.m == -INFINITY)
        return;
    const float m = fmaxf(a.m, b.m), ca = a.m == -INFINITY ? 0.0f : ex2((a.m - m) * LOG2E);
    const float cb = ex2((b.m - m) * LOG2E);
    a.l = fmaf(a.l, ca, __fmul_rn(b.l, cb));
    a.o = fmaf(a.o, ca, __fmul_rn(b.o, cb));
    a.m = m;
}

/* Column d of head h: the row's output. A sink takes part in the sum of weights alone. */
DEV void finish(const attend_args &p, u32 tok, u32 h, u32 d, sums a)
{
    if (p.sinks)
        add_sums(a, {((const float *)p.sinks)[h], 1, 0});
    const float o = a.l > 0 ? a.o / a.l : 0.0f;
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

/* Four columns to shared memory, or zeros. */
DEV void bring4(float *dst, const float *src, bool ok) { cp_async16(smem_addr(dst), src, ok); }
DEV void bring4(float *dst, const u16 *src, bool ok)
{
    const uint2 x = ok ? *(const uint2 *)src : make_uint2(0, 0);
    *(float4 *)dst = make_float4(h2f((u16)x.x), h2f((u16)(x.x >> 16)), h2f((u16)x.y), h2f((u16)(x.y >> 16)));
}
DEV float number(u16 h) { return h2f(h); }
DEV float number(float f) { return f; }

/* n columns of a warp's 32 positions to rows of ld floats. src: the lane's position's, 0 where the token sees nothing:
 * zeros then. */
template <typename T> DEV void fetch(const attend_args &p, const T *src, u32 n, u32 ld, float *tile, u32 lane)
{
    const u32 two = n <= 64, sub = two ? lane >> 4 : 0; /* rows at once */
    __syncwarp();                                       /* what lay there is read */
    if (p.by_four) {
#pragma unroll 4
        for (u32 r = sub; r < ATTEND_POS; r += 1 + two) {
            const T *from = (const T *)__shfl_sync(~0u, (u64)src, r);
#pragma unroll 1
            for (u32 c = (two ? lane & 15 : lane) * 4; c < n; c += 128)
                bring4(tile + r * ld + c, from ? from + c : (const T *)p.kv, from != 0);
        }
    } else {
#pragma unroll 1
        for (u32 r = 0; r < ATTEND_POS; r++) {
            const T *from = (const T *)__shfl_sync(~0u, (u64)src, r);
            for (u32 c = lane; c < ((n + 3) & ~3u); c += 32)
                tile[r * ld + c] = from && c < n ? number(from[c]) : 0.0f;
        }
    }
    cp_async_commit();
}

/* Where a split's sums of a head lie: d_v columns, the largest score, the sum of weights. */
DEV float *place(const attend_args &p, u32 tok, u32 h, u32 nth)
{
    return (float *)p.part + (((u64)(tok - p.tok0) * p.n_head + h) * p.n_split + nth) * PART_LD(p.d_v);
}

/* A block's work: H heads at most, of up to 32 * N columns. Shared memory: queries [heads][d_k up to 4]; running sums
 * [heads * d_v]; warps' sums [warp][heads][d_v + 2]; of each warp K, and V behind it if p.v_at, else in its place. */
template <typename T, int N, int H> struct attention {
    const attend_args &p;
    view v;
    u32 tok, kh, h0, heads, lane, warp, n, k_ld; /* query heads [h0, h0 + heads) of kv head kh */
    float *q, *parts, *k, *vs;
    sums *all;
    float m[H], l[H], o[H][N];

    __device__ __forceinline__ u32 step() const { return p.warps * ATTEND_POS; }
    /* The warp's 32 positions to the sums of its heads; weights in e. */
    __device__ __forceinline__ void weigh(u32 pos, float *e)
    {
        const bool ok = pos >= v.lo && pos < v.hi;
        const float *row = k + lane * k_ld;
        float s[H];
#pragma unroll
        for (int h = 0; h < H; h++)
            s[h] = 0;
#pragma unroll 2
        for (u32 i = 0; i < n; i += 4) {
            const float4 b = *(const float4 *)(row + i);
#pragma unroll
            for (int h = 0; h < H; h++) {
                const float4 a = *(const float4 *)(q + h * n + i);
                s[h] = fmaf(a.x, b.x, s[h]), s[h] = fmaf(a.y, b.y, s[h]);
                s[h] = fmaf(a.z, b.z, s[h]), s[h] = fmaf(a.w, b.w, s[h]);
            }
        }
#pragma unroll
        for (int h = 0; h < H; h++) {
            s[h] *= p.scale;
            if (p.softcap > 0)
                s[h] = p.softcap * tanhf(s[h] / p.softcap);
            const float most = fmaxf(m[h], warp_max(ok ? s[h] : -INFINITY));
            const float c = most == -INFINITY ? 0.0f : ex2((m[h] - most) * LOG2E);
            e[h] = ok ? ex2((s[h] - most) * LOG2E) : 0.0f;
            l[h] = fmaf(l[h], c, warp_sum(e[h]));
            m[h] = most;
#pragma unroll
            for (int i = 0; i < N; i++)
                o[h][i] *= c;
        }
    }
    __device__ __forceinline__ void add_values(const float *e)
    {
        const float *row = vs + lane;
#pragma unroll 2
        for (u32 j = 0; j < ATTEND_POS; j++, row += p.v_ld) {
            float w[H];
#pragma unroll
            for (int h = 0; h < H; h++)
                w[h] = __shfl_sync(~0u, e[h], j);
#pragma unroll
            for (u32 i = 0; i < N; i++) {
                if (i * 32 >= p.d_v)
                    break;
                const float x = row[32 * i];
#pragma unroll
                for (int h = 0; h < H; h++)
                    o[h][i] = fmaf(w[h], x, o[h][i]);
            }
        }
    }
    /* Each warp's sums of a split; it waits for none of the others. */
    __device__ __forceinline__ void one_split(u32 split)
    {
        const u32 lo = v.lo & ~(step() - 1), begin = SPLIT_BEGIN(split) > lo ? SPLIT_BEGIN(split) : lo;
        const u32 end = SPLIT_BEGIN(split + 1) < v.hi ? SPLIT_BEGIN(split + 1) : v.hi;
        const bool v_in_k = p.v_off == p.k_off && p.n_kv_head == 1; /* the first columns of K are V */
#pragma unroll
        for (int h = 0; h < H; h++) {
            m[h] = -INFINITY, l[h] = 0;
#pragma unroll
            for (int i = 0; i < N; i++)
                o[h][i] = 0;
        }
#pragma unroll 1
        for (u32 b = begin; b < end; b += step()) {
            const u32 pos = b + warp * ATTEND_POS + lane;
            const u8 *block = 0;
            u64 in = 0;
            if (pos >= v.lo && pos < v.hi)
                block = block_of(p, v, pos), in = pos % p.block_size;
            const T *k_row = block ? (const T *)(block + p.k_off) + in * p.k_width + kh * p.d_k : 0;
            const T *v_row = block ? (const T *)(block + p.v_off) + in * p.v_width + kh * p.d_v : 0;
            float e[H];
            fetch(p, k_row, p.d_k, k_ld, k, lane);
            if (p.v_at)
                fetch(p, v_row, p.d_v, p.v_ld, vs, lane);
            p.v_at ? cp_async_wait<1>() : cp_async_wait<0>();
            __syncwarp();
            weigh(pos, e);
            if (!p.v_at && !v_in_k)
                fetch(p, v_row, p.d_v, p.v_ld, vs, lane);
            cp_async_wait<0>();
            __syncwarp();
            add_values(e);
        }
    }
    /* The warps' sums of a split to one: to its place, or to those of the splits before. */
    __device__ __forceinline__ void merge(u32 nth)
    {
        __syncthreads(); /* the sums before are read */
        float *mine = parts + warp * heads * (p.d_v + 2);
#pragma unroll
        for (u32 h = 0; h < H; h++, mine += p.d_v + 2) {
#pragma unroll
            for (u32 i = 0; i < N; i++)
                if (h < heads && i * 32 + lane < p.d_v)
                    mine[i * 32 + lane] = o[h][i];
            if (h < heads && lane == 0)
                mine[p.d_v] = m[h], mine[p.d_v + 1] = l[h];
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < heads * p.d_v; i += p.warps * 32) {
            const u32 h = i / p.d_v, d = i % p.d_v;
            sums a = {-INFINITY, 0, 0};
            for (u32 w = 0; w < p.warps; w++) {
                const float *from = parts + (w * heads + h) * (p.d_v + 2);
                add_sums(a, {from[p.d_v], from[p.d_v + 1], from[d]});
            }
            if (p.n_split > 1) {
                float *to = place(p, tok, h0 + h, nth);
                to[d] = a.o;
                if (d == 0)
                    to[p.d_v] = a.m, to[p.d_v + 1] = a.l;
            } else {
                add_sums(all[i], a);
            }
        }
    }
    __device__ __forceinline__ void run(void)
    {
        for (u32 i = threadIdx.x; i < H * n; i += p.warps * 32) {
            const u32 h = i / n, d = i % n;
            q[i] = h < heads && d < p.d_k ? ((const float *)p.q)[(u64)tok * p.ldq + (h0 + h) * p.d_k + d] : 0.0f;
        }
        __syncthreads();
        const u32 first = SPLIT_OF(v.lo), last = v.hi ? SPLIT_OF(v.hi - 1) : 0;
        if (p.n_split > 1) {
            if (first + blockIdx.z <= last) {
                one_split(first + blockIdx.z);
                merge(blockIdx.z);
            }
            return;
        }
        for (u32 i = threadIdx.x; i < heads * p.d_v; i += p.warps * 32)
            all[i] = {-INFINITY, 0, 0};
#pragma unroll 1
        for (u32 split = first; split <= last; split++) {
            one_split(split);
            merge(0);
        }
        for (u32 i = threadIdx.x; i < heads * p.d_v; i += p.warps * 32)
            finish(p, tok, h0 + i / p.d_v, i % p.d_v, all[i]);
        if (blockIdx.y == 0)
            pad_row(p, tok, threadIdx.x, p.warps * 32);
    }
};

template <typename T, int N, int H> DEV void attend(const attend_args &p)
{
    extern __shared__ __align__(16) float smem[];
    pdl_launch();
    pdl_wait();
    const u32 tok = p.tok0 + blockIdx.x, group = p.n_head / p.n_kv_head, subs = gridDim.y / p.n_kv_head;
    const u32 kh = blockIdx.y / subs, begin = blockIdx.y % subs * p.heads;
    const u32 heads = group - begin < p.heads ? group - begin : p.heads, n = (p.d_k + 3) & ~3u;
    attention<T, N, H> a = {p, token_view(p, tok), tok, kh, kh * group + begin, heads, threadIdx.x & 31,
                            threadIdx.x >> 5, n, n + 4};
    a.q = smem;
    a.all = (sums *)(smem + H * n);
    a.parts = (float *)(a.all + p.heads * p.d_v);
    a.k = smem + p.k_at + a.warp * p.place;
    a.vs = a.k + p.v_at;
    a.run();
}

#define ATTEND(cols, heads)                                                                                            \
    KERNEL(128, heads == 4 && cols <= 128 ? 4 : 2) imp_attend_h##cols(const __grid_constant__ attend_args p)           \
    {                                                                                                                  \
        attend<u16, cols / 32, heads>(p);                                                                              \
    }                                                                                                                  \
    KERNEL(128, heads == 4 && cols <= 128 ? 4 : 2) imp_attend_f##cols(const __grid_constant__ attend_args p)           \
    {                                                                                                                  \
        attend<float, cols / 32, heads>(p);                                                                            \
    }
ATTEND(128, 4)
ATTEND(256, 4)
ATTEND(576, 2)

/* A head's splits of a token, in order. */
KERNEL(128, 8) imp_attend_join(const __grid_constant__ attend_args p)
{
    pdl_launch();
    pdl_wait();
    const u32 tok = p.tok0 + blockIdx.x, h = blockIdx.y;
    const view v = token_view(p, tok);
    const u32 n = v.hi > v.lo ? SPLIT_OF(v.hi - 1) - SPLIT_OF(v.lo) + 1 : 0;
    for (u32 d = threadIdx.x; d < p.d_v; d += 128) {
        sums a = {-INFINITY, 0, 0};
        for (u32 i = 0; i < n; i += 4) { /* four in one trip to memory */
            sums b[4];
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                const float *from = place(p, tok, h, i + j < n ? i + j : i);
                b[j] = {from[p.d_v], from[p.d_v + 1], from[d]};
            }
#pragma unroll
            for (u32 j = 0; j < 4; j++)
                if (i + j < n)
                    add_sums(a, b[j]);
        }
        finish(p, tok, h, d, a);
    }
    if (h == 0)
        pad_row(p, tok, threadIdx.x, 128);
}

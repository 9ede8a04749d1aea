/* attend_sum.cuh: the parts of attend_d.cu that combine: lanes and warps, the splits of a cluster, the splits in
 * memory. Always in the same order, whoever does it. */
#ifndef IMP_CUDA_ATTEND_SUM_CUH
#define IMP_CUDA_ATTEND_SUM_CUH

#include "attend_d.cuh"

DEV void add_scaled(float4 &o, float4 a, float c)
{
    o.x = fmaf(a.x, c, o.x), o.y = fmaf(a.y, c, o.y);
    o.z = fmaf(a.z, c, o.z), o.w = fmaf(a.w, c, o.w);
}
/* Four columns of a token's output, divided by the sum of their weights. */
template <bool PLAIN> DEV void store4(const attend_args &p, u32 tok, u32 col, float4 o, float sum)
{
    const float inv = __fdividef(1.0f, sum);
    o = make_float4(o.x * inv, o.y * inv, o.z * inv, o.w * inv);
    if (PLAIN || p.out_f16) {
        u16 *dst = (u16 *)p.out + (u64)tok * p.ldo;
        *(u32 *)(dst + ACT_POS(col)) = pack_h2(o.x, o.y);
        *(u32 *)(dst + ACT_POS(col + 2)) = pack_h2(o.z, o.w);
    } else {
        float *dst = (float *)p.out + (u64)tok * p.ldo + col;
        dst[0] = o.x, dst[1] = o.y, dst[2] = o.z, dst[3] = o.w;
    }
}
template <bool PLAIN> DEV float sink_of(const attend_args &p, u32 head)
{
    return !PLAIN && p.sinks ? ((const float *)p.sinks)[head] * LOG2E : -INFINITY;
}

/* A warp's sums of a split to its place [G][LD]. */
template <int D> DEV void leave_sums(sums<D> &a, u32 G, u32 g, u32 t, float *mine)
{
#pragma unroll
    for (int o = 4; o < 32; o <<= 1)
#pragma unroll
        for (int h = 0; h < 2; h++)
            a.l[h] += __shfl_xor_sync(~0u, a.l[h], o);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (2 * t + h >= G)
            continue;
        float *r = mine + (2 * t + h) * layout<D>::LD;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            r[16 * i + g] = a.o[i][h];
            r[16 * i + g + 8] = a.o[i][2 + h];
        }
        if (g == 0)
            *(float2 *)(r + D) = make_float2(a.m[h], a.l[h]);
    }
}

/* Four columns of a head from the warps, in order. */
template <int D> DEV float4 add_warps(const float *all, u32 G, u32 head, u32 d, float &M, float &L)
{
    float2 ml[WARPS];
    float4 o = make_float4(0, 0, 0, 0);
    M = -INFINITY, L = 0;
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) {
        ml[w] = *(const float2 *)(all + (w * G + head) * layout<D>::LD + D);
        M = fmaxf(M, ml[w].x);
    }
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) {
        const float c = ml[w].x == -INFINITY ? 0.0f : ex2(ml[w].x - M);
        L = fmaf(ml[w].y, c, L);
        add_scaled(o, *(const float4 *)(all + (w * G + head) * layout<D>::LD + d), c);
    }
    return o;
}

/* A block of a cluster adds its share of the columns: all [split][1 << share] float4 and ml [split][8] have arrived.
 * The sum of weights is last_block's: a tree over splits as over the lanes of a warp. Products are rounded there before
 * they meet, and so they are here: left to the compiler, some would become an fma with the sum behind them. */
template <int D, bool PLAIN>
DEV void combine_share(const attend_args &p, u32 tok, u32 h0, u32 G, u32 n_part, const float4 *all,
                       const float2 *ml)
{
    const u32 item = (blockIdx.x << p.share) + threadIdx.x, head = item / (D / 4), d = item % (D / 4) * 4;
    if (threadIdx.x >> p.share || head >= G || (!PLAIN && d >= p.d_v))
        return;
    float m[8], l[8];
    const float sink = sink_of<PLAIN>(p, h0 + head);
    float M = sink;
#pragma unroll
    for (u32 s = 0; s < 8; s++) {
        const float2 x = s < n_part ? ml[s * 8 + head] : make_float2(-INFINITY, 0);
        m[s] = x.x, l[s] = x.y;
        M = fmaxf(M, x.x);
    }
#pragma unroll
    for (u32 s = 0; s < 8; s++) {
        m[s] = ex2(m[s] - M);
        l[s] = __fmul_rn(l[s], m[s]);
    }
    float L = ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
    if (!PLAIN && p.sinks)
        L += ex2(sink - M);
    float4 o = make_float4(0, 0, 0, 0);
#pragma unroll
    for (u32 s = 0; s < 8; s++)
        if (s < n_part)
            add_scaled(o, all[(s << p.share) + threadIdx.x], m[s]);
    store4<PLAIN>(p, tok, (h0 + head) * (PLAIN ? D : p.d_v) + d, o, L);
}

/* The last block of a token and its heads: weights of the splits first, then the sums in order. part: of the first
 * head; tot: [8] in shared memory. */
template <int D, bool PLAIN>
DEV void last_block(const attend_args &p, u32 tok, u32 h0, u32 G, u32 n_part, const float *part, float2 *tot)
{
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    const u64 part_head = (u64)p.n_split * PART_LD(D);
    constexpr u32 AT_ONCE = D == 64 ? 16 : 24; /* trips to L2 */
    float4 x[AT_ONCE];
    float m[AT_ONCE];
    auto fetch = [&](const float *r, u32 d, u32 s) {
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) {
            const float *q = r + (u64)(s + j) * PART_LD(D);
            m[j] = s + j < n_part ? __ldcg(q + D) : -INFINITY;
            x[j] = s + j < n_part ? __ldcg((const float4 *)(q + d)) : make_float4(0, 0, 0, 0);
        }
    };
    const u32 n = G * (D / 4);
    if (tid < n)
        fetch(part + tid / (D / 4) * part_head, tid % (D / 4) * 4, 0);
    for (u32 head = warp; head < G; head += WARPS) {
        const float *r = part + head * part_head;
        const float sink = sink_of<PLAIN>(p, h0 + head);
        float M = -INFINITY, L = 0;
        for (u32 s = lane; s < n_part; s += 128) { /* four trips to L2 at a time */
            float2 ml[4];
#pragma unroll
            for (u32 j = 0; j < 4; j++)
                ml[j] = s + 32 * j < n_part ? __ldcg((const float2 *)(r + (u64)(s + 32 * j) * PART_LD(D) + D))
                                            : make_float2(0, 0);
#pragma unroll
            for (u32 j = 0; j < 4; j++)
                if (s + 32 * j < n_part) {
                    const float most = fmaxf(M, ml[j].x);
                    L = fmaf(L, ex2(M - most), ml[j].y * ex2(ml[j].x - most));
                    M = most;
                }
        }
        const float most = fmaxf(warp_max(M), sink);
        L = warp_sum(__fmul_rn(L, ex2(M - most)));
        if (!PLAIN && p.sinks)
            L += ex2(sink - most);
        if (lane == 0)
            tot[head] = make_float2(most, L);
    }
    __syncthreads();
    for (u32 i = tid; i < n; i += WARPS * 32) {
        const u32 head = i / (D / 4), d = i % (D / 4) * 4;
        const float2 t = tot[head];
        float4 o = make_float4(0, 0, 0, 0);
        for (u32 s = 0; s < n_part; s += AT_ONCE) {
            if (s || i != tid)
                fetch(part + head * part_head, d, s);
#pragma unroll
            for (u32 j = 0; j < AT_ONCE; j++)
                if (s + j < n_part)
                    add_scaled(o, x[j], ex2(m[j] - t.x));
        }
        if (PLAIN || d < p.d_v)
            store4<PLAIN>(p, tok, (h0 + head) * (PLAIN ? D : p.d_v) + d, o, t.y);
    }
}

#endif

/* route: the choice of experts for one token by one warp; ties go to the lower expert. */
#ifndef IMP_CUDA_ROUTE_CUH
#define IMP_CUDA_ROUTE_CUH

#include "ptx.cuh"

#define ROUTE_MAX 512
struct route_scratch { /* shared memory: scores, what is compared, groups */
    float s[ROUTE_MAX], c[ROUTE_MAX], grp[64];
};

/* Up to 128 experts without groups are chosen in registers. */
DEV bool route_is_small(const route_args &p) { return p.n_expert <= 128 && p.n_group <= 1; }

/* In the order of the floats; what is no number comes last. */
DEV u32 route_key(float c)
{
    const u32 u = __float_as_uint(c == 0.0f ? 0.0f : c);
    return c != c ? 0 : u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* As route_token for up to 128 experts without groups, four neighbours a lane: choices 0 to `last`. WEIGHTS false: only
 * the expert of choice `last` is wanted, and every lane gets it in e. PLAIN: a multiple of four experts, softmax, no
 * bias, no factor. Softmax keeps the order of scores, so where nothing is added to it the scores themselves are
 * compared and nobody waits for sums. */
template <bool WEIGHTS, bool PLAIN>
DEV float route_small(const route_args &p, const float *x, u32 lane, u32 last, i32 &e)
{
    const float *bias = PLAIN ? 0 : (const float *)p.bias;
    const bool plain = PLAIN || (p.score != 1 && !bias);
    float s[4];
    u32 key[4];
    if (PLAIN || ((p.n_expert | p.lds) & 3) == 0) {
        const float none = -INFINITY;
        const float4 v = lane * 4 < p.n_expert ? *(const float4 *)(x + lane * 4) : make_float4(none, none, none, none);
        s[0] = v.x, s[1] = v.y, s[2] = v.z, s[3] = v.w;
    } else {
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            s[j] = lane * 4 + j < p.n_expert ? x[lane * 4 + j] : -INFINITY;
    }
    if (plain) {
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            key[j] = lane * 4 + j < p.n_expert ? route_key(s[j]) : 0;
    }
    if (p.score == 0 && (WEIGHTS || !plain)) {
        float max = fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3])), sum = 0;
        max = warp_max(max);
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            if (lane * 4 + j < p.n_expert) {
                s[j] = expf(s[j] - max);
                sum += s[j];
            }
        sum = warp_sum(sum);
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            s[j] /= sum;
    } else if (!PLAIN && p.score == 1) {
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            s[j] = 1.0f / (1.0f + expf(-s[j]));
    }
    if (!plain) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            const bool in = lane * 4 + j < p.n_expert;
            key[j] = in ? route_key(s[j] + (bias ? bias[lane * 4 + j] : 0.0f)) : 0;
        }
    }
    float total = 0, top = 0, wj = 0;
    u32 ej = 0;
    for (u32 r = 0; r <= last; r++) {
        const u32 m = max(max(key[0], key[1]), max(key[2], key[3]));
        const u32 j = key[0] == m ? 0 : key[1] == m ? 1 : key[2] == m ? 2 : 3;
        const u32 best = __reduce_max_sync(~0u, m);
        const u32 who = __ballot_sync(~0u, m == best);
        const bool mine = m == best && (who & ((1u << lane) - 1)) == 0;
#pragma unroll
        for (u32 q = 0; q < 4; q++)
            if (mine && q == j)
                key[q] = 0;
        if (!WEIGHTS) {
            if (r == last)
                ej = __shfl_sync(~0u, lane * 4 + j, __ffs((int)who) - 1);
            continue;
        }
        const u32 from = (u32)__ffs((int)who) - 1, at = __shfl_sync(~0u, lane * 4 + j, from);
        float v = __shfl_sync(~0u, j == 0 ? s[0] : j == 1 ? s[1] : j == 2 ? s[2] : s[3], from);
        if (p.score == 2) {
            if (r == 0)
                top = v;
            v = expf(v - top);
        }
        if (lane == r)
            wj = v, ej = at;
        total += v;
    }
    e = (i32)ej;
    if (!WEIGHTS)
        return 0;
    if (p.score == 2)
        wj /= total;
    else if (p.renormalise)
        wj /= total + p.renorm_eps;
    wj *= p.scale;
    return !PLAIN && p.factor ? wj * ((const float *)p.factor)[ej] : wj;
}

/* x: the token's scores. Lane j < k returns the weight of choice j, and its expert in e. */
template <bool PLAIN = false>
DEV float route_token(const route_args &p, const float *x, route_scratch &sm, u32 lane, i32 &e)
{
    const u32 n = p.n_expert;
    if (PLAIN || route_is_small(p))
        return route_small<true, PLAIN>(p, x, lane, p.k - 1, e);
    const float *bias = (const float *)p.bias;
    float max = -INFINITY;
    for (u32 i = lane; i < n; i += 32)
        max = fmaxf(max, x[i]);
    max = warp_max(max);
    float sum = 0;
    for (u32 i = lane; i < n; i += 32) {
        float v = p.score == 0 ? expf(x[i] - max) : p.score == 1 ? 1.0f / (1.0f + expf(-x[i])) : x[i];
        sm.s[i] = v;
        sum += v;
    }
    sum = warp_sum(sum);
    for (u32 i = lane; i < n; i += 32) {
        if (p.score == 0)
            sm.s[i] /= sum;
        sm.c[i] = sm.s[i] + (bias ? bias[i] : 0.0f);
    }
    __syncwarp();
    if (p.n_group > 1) {
        u32 per = n / p.n_group;
        for (u32 g = lane; g < p.n_group; g += 32) {
            float best = 0;
            u32 taken0 = ~0u;
            for (u32 r = 0; r < p.group_top; r++) {
                float m = -INFINITY;
                u32 at = 0;
                for (u32 i = 0; i < per; i++)
                    if (i != taken0 && sm.c[g * per + i] > m)
                        m = sm.c[g * per + i], at = i;
                taken0 = at;
                best += m;
            }
            sm.grp[g] = best;
        }
        __syncwarp();
        if (lane == 0) { /* keep the topk_group best groups */
            u64 keep = 0;
            for (u32 r = 0; r < p.topk_group; r++) {
                float m = -INFINITY;
                u32 at = 0;
                for (u32 g = 0; g < p.n_group; g++)
                    if (!(keep >> g & 1) && sm.grp[g] > m)
                        m = sm.grp[g], at = g;
                keep |= 1ull << at;
            }
            for (u32 g = 0; g < p.n_group; g++)
                sm.grp[g] = keep >> g & 1 ? 1.0f : 0.0f;
        }
        __syncwarp();
        for (u32 i = lane; i < n; i += 32)
            if (sm.grp[i / per] == 0.0f)
                sm.c[i] = -INFINITY;
        __syncwarp();
    }
    float total = 0, top = 0;
    float wj = 0; /* lane j keeps choice j (k <= 32) */
    u32 ej = 0;
    for (u32 j = 0; j < p.k; j++) {
        float m = -INFINITY;
        u32 at = ~0u;
        for (u32 i = lane; i < n; i += 32)
            if (sm.c[i] > m)
                m = sm.c[i], at = i;
#pragma unroll
        for (int o = 16; o; o >>= 1) {
            float om = __shfl_xor_sync(~0u, m, o);
            u32 oa = __shfl_xor_sync(~0u, at, o);
            if (om > m || (om == m && oa < at))
                m = om, at = oa;
        }
        if (at >= n)
            at = 0;
        float v = sm.s[at];
        if (p.score == 2) {
            if (j == 0)
                top = v;
            v = expf(v - top);
        }
        if (lane == j)
            wj = v, ej = at;
        total += v;
        __syncwarp();
        if (lane == 0)
            sm.c[at] = -INFINITY;
        __syncwarp();
    }
    if (p.score == 2)
        wj /= total;
    else if (p.renormalise)
        wj /= total + p.renorm_eps;
    e = (i32)ej;
    wj *= p.scale;
    return p.factor ? wj * ((const float *)p.factor)[ej] : wj;
}

/* The expert of one choice, in every lane. */
template <bool PLAIN> DEV u32 route_choice(const route_args &p, const float *x, route_scratch &sm, u32 lane, u32 choice)
{
    i32 e;
    if (PLAIN || route_is_small(p)) {
        route_small<false, PLAIN>(p, x, lane, choice, e);
        return (u32)e;
    }
    route_token(p, x, sm, lane, e);
    return (u32)__shfl_sync(~0u, e, choice);
}

#endif

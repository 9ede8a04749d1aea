/* route: the choice of experts for one token by one warp; ties go to the lower expert. */
#ifndef IMP_CUDA_ROUTE_CUH
#define IMP_CUDA_ROUTE_CUH

#include "ptx.cuh"

#define ROUTE_MAX 512
struct route_scratch { /* shared memory: scores, what is compared, groups */
    float s[ROUTE_MAX], c[ROUTE_MAX], grp[64];
};

/* As below for up to 128 experts without groups: everything in registers, four experts a lane. */
DEV float route_small(const route_args &p, const float *x, u32 lane, i32 &e)
{
    const float *bias = (const float *)p.bias;
    float s[4], c[4], max = -INFINITY, sum = 0;
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        s[j] = lane + 32 * j < p.n_expert ? x[lane + 32 * j] : -INFINITY;
        max = fmaxf(max, s[j]);
    }
    max = warp_max(max);
#pragma unroll
    for (u32 j = 0; j < 4; j++)
        if (lane + 32 * j < p.n_expert) {
            s[j] = p.score == 0 ? expf(s[j] - max) : p.score == 1 ? 1.0f / (1.0f + expf(-s[j])) : s[j];
            sum += s[j];
        }
    sum = warp_sum(sum);
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        const bool in = lane + 32 * j < p.n_expert;
        if (in && p.score == 0)
            s[j] /= sum;
        c[j] = in ? s[j] + (bias ? bias[lane + 32 * j] : 0.0f) : -INFINITY;
    }
    float total = 0, top = 0, wj = 0;
    u32 ej = 0;
    for (u32 r = 0; r < p.k; r++) {
        float m = -INFINITY;
        u32 at = ~0u;
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            if (c[j] > m)
                m = c[j], at = lane + 32 * j;
        u32 u = __float_as_uint(m == 0.0f ? 0.0f : m); /* in the order of the floats */
        u = u & 0x80000000u ? ~u : u | 0x80000000u;
        const u32 best = __reduce_max_sync(~0u, u);
        at = __reduce_min_sync(~0u, u == best ? at : ~0u);
        if (at >= p.n_expert)
            at = 0;
        const u32 j = at >> 5;
        float v = __shfl_sync(~0u, j == 0 ? s[0] : j == 1 ? s[1] : j == 2 ? s[2] : s[3], at & 31);
        if (p.score == 2) {
            if (r == 0)
                top = v;
            v = expf(v - top);
        }
        if (lane == r)
            wj = v, ej = at;
        total += v;
#pragma unroll
        for (u32 q = 0; q < 4; q++)
            if (at == lane + 32 * q)
                c[q] = -INFINITY;
    }
    if (p.score == 2)
        wj /= total;
    else if (p.renormalise)
        wj /= total + p.renorm_eps;
    e = (i32)ej;
    wj *= p.scale;
    return p.factor ? wj * ((const float *)p.factor)[ej] : wj;
}

/* x: the token's scores. Lane j < k returns the weight of choice j, and its expert in e. */
DEV float route_token(const route_args &p, const float *x, route_scratch &sm, u32 lane, i32 &e)
{
    const u32 n = p.n_expert;
    if (n <= 128 && p.n_group <= 1)
        return route_small(p, x, lane, e);
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

#endif

/* heads: norm and rotation of a head by a warp, the head in shared memory. Every product and sum is rounded as written
 * here, so that all kernels that do this give the same bits. */
#ifndef IMP_CUDA_HEADS_CUH
#define IMP_CUDA_HEADS_CUH

#include "ptx.cuh"

DEV void head_norm(float *h, u32 n, const float *w, float eps, float plus, u32 lane)
{
    float s = 0;
    for (u32 i = lane; i < n; i += 32)
        s = fmaf(h[i], h[i], s);
    float scale = rsqrtf(fmaf(warp_sum(s), 1.0f / (float)n, eps));
    for (u32 i = lane; i < n; i += 32)
        h[i] = h[i] * scale * (w ? w[i] + plus : 1.0f);
    __syncwarp();
}
/* What column i is turned by, and its cosine and sine. */
DEV float rope_arg(const rope_args &r, const tok_desc &d, u32 i, float freq)
{
    u32 axis = 0;
    if (r.section[0]) {
        u32 e0 = r.section[0], e1 = e0 + r.section[1];
        axis = i < e0 ? 0 : i < e1 ? 1 : 2;
    }
    return (float)(axis == 0 ? d.pos[0] : axis == 1 ? d.pos[1] : d.pos[2]) * freq;
}
DEV void rope_turn(const rope_args &r, float arg, float &c, float &s)
{
    sincosf(arg, &s, &c);
    c *= r.mscale;
    s *= r.mscale;
}
DEV void rope_angle(const rope_args &r, const tok_desc &d, u32 i, float &c, float &s)
{
    rope_turn(r, rope_arg(r, d, i, ((const float *)r.freq)[i]), c, s);
}
/* The first two angles of a lane may be at hand already (cs: c0 s0 c1 s1): they do not depend on the previous
 * kernel. */
DEV void head_rope(float *h, const rope_args &r, const tok_desc &d, u32 lane, const float *cs)
{
    for (u32 i = lane, j = 0; i < r.rot / 2; i += 32, j++) {
        float c, s;
        if (cs && j == 0)
            c = cs[0], s = cs[1];
        else if (cs && j == 1)
            c = cs[2], s = cs[3];
        else
            rope_angle(r, d, i, c, s);
        u32 x = r.rot_off + (r.interleaved ? 2 * i : i), y = r.interleaved ? x + 1 : x + r.rot / 2;
        float a = h[x], b = h[y];
        h[x] = fmaf(a, c, -__fmul_rn(b, s));
        h[y] = fmaf(a, s, __fmul_rn(b, c));
    }
    __syncwarp();
}

#endif

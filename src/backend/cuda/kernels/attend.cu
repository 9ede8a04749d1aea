/* attend: imp_attend_any, attention over paged f16 K and V of any shape: a warp a (token, head), scalar. The reference,
 * and what serves shapes and sizes of blocks without a kernel of their own (attend_d.cu: rows of class D; attend_p.cu,
 * attend_w.cu: prompts). */
#include "attend.cuh"

KERNEL(128, 4) imp_attend_any(const __grid_constant__ attend_args p)
{
    extern __shared__ float sq[];
    pdl_launch();
    pdl_wait();
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, h = blockIdx.x * 4 + warp, tok = p.tok0 + blockIdx.y;
    if (h >= p.n_head)
        return;
    float *q = sq + warp * p.d_k;
    for (u32 i = lane; i < p.d_k; i += 32)
        q[i] = ((const float *)p.q)[(u64)tok * p.ldq + h * p.d_k + i];
    __syncwarp();
    const view v = token_view(p, tok);
    const u32 kh = h / (p.n_head / p.n_kv_head);
    float m = -INFINITY, l = 0, o[18];
    for (int i = 0; i < 18; i++)
        o[i] = 0;
    for (u32 b = v.lo & ~31u; b < v.hi; b += 32) {
        u32 pos = b + lane;
        bool ok = pos >= v.lo && pos < v.hi;
        float s = -INFINITY;
        const u8 *blk = 0;
        u32 in = 0;
        if (ok) {
            blk = block_of(p, v, pos);
            in = pos % p.block_size;
            const u16 *k = (const u16 *)(blk + p.k_off) + (u64)in * p.k_width + kh * p.d_k;
            s = 0;
            for (u32 i = 0; i < p.d_k; i++)
                s += q[i] * h2f(k[i]);
            s *= p.scale;
            if (p.softcap > 0)
                s = p.softcap * tanhf(s / p.softcap);
        }
        float nm = fmaxf(m, warp_max(s));
        if (nm == -INFINITY)
            continue;
        float c = ex2((m - nm) * LOG2E), e = ok ? ex2((s - nm) * LOG2E) : 0.0f;
        l = l * c + warp_sum(e);
        m = nm;
        for (int i = 0; i < 18; i++)
            o[i] *= c;
        for (u32 j = 0; j < 32; j++) {
            float pj = __shfl_sync(~0u, e, j);
            u64 bj = __shfl_sync(~0u, (u64)blk, j);
            u32 ij = __shfl_sync(~0u, in, j);
            if (bj == 0)
                continue;
            const u16 *vv = (const u16 *)((const u8 *)bj + p.v_off) + (u64)ij * p.v_width + kh * p.d_v;
#pragma unroll
            for (u32 i = 0; i < 18; i++)
                if (i * 32 + lane < p.d_v)
                    o[i] += pj * h2f(vv[i * 32 + lane]);
        }
    }
    if (p.sinks) {
        float s = ((const float *)p.sinks)[h], nm = fmaxf(m, s), c = m == -INFINITY ? 0.0f : ex2((m - nm) * LOG2E);
        l = l * c + ex2((s - nm) * LOG2E);
        for (int i = 0; i < 18; i++)
            o[i] *= c;
    }
    float inv = l > 0 ? 1.0f / l : 0.0f;
#pragma unroll
    for (u32 i = 0; i < 18; i++) {
        u32 d = i * 32 + lane, col = h * p.d_v + d;
        if (d >= p.d_v)
            continue;
        if (p.out_f16)
            ((u16 *)p.out)[(u64)tok * p.ldo + ACT_POS(col)] = f2h(o[i] * inv);
        else
            ((float *)p.out)[(u64)tok * p.ldo + col] = o[i] * inv;
    }
    if (p.out_f16 && h == 0)
        for (u32 c = p.n_head * p.d_v + lane; c < p.ldo; c += 32)
            ((u16 *)p.out)[(u64)tok * p.ldo + ACT_POS(c)] = 0;
}

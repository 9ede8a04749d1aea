/* attend: attention over paged f16 K and V for rows of class D, and a plain kernel for any shape.
 * imp_attend_d64/128/256: flash decoding. Block = (256 positions, kv head, token): 4 warps of 64 positions each; the query
 * heads of a kv head are the rows of m16n8k16, so K and V are read once. K and V go from memory straight to registers:
 * the head dimension and the columns of V may be permuted freely, so each lane loads 16 consecutive bytes and uses them
 * as they come. Warps, then blocks, are combined in the order of their positions; splits lie at absolute multiples of 256,
 * so a row's bytes depend on nothing but its own positions. The last block of a (token, kv head) combines: no extra launch.
 * Bytes: 2 * positions * n_kv_head * d * 2; memory bound. Numerics: f16 products, f32 sums and softmax.
 * imp_attend_any: a warp a (token, head), scalar; the reference, and what serves shapes without a kernel. */
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

/* V's columns of n-tile i for lane group g: pieces of 8 columns, 64 apart */
#define VCOL(g, i) (((i) >> 3) * 64 + (g) * 8 + ((i) & 7))

template <int D> DEV void attend_d(const attend_args &p)
{
    extern __shared__ __align__(16) float sm[]; /* [4 warps][16 heads][D + 2] */
    __shared__ u32 is_last;
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
    const u32 split = blockIdx.x, kh = blockIdx.y, tok = p.tok0 + blockIdx.z, G = p.n_head / p.n_kv_head;
    pdl_launch();
    pdl_wait();
    const view v = token_view(p, tok);
    const u32 first = v.lo / SPLIT, last = v.hi ? (v.hi - 1) / SPLIT : 0;
    if (split < first || split > last)
        return;
    const u32 n_part = last - first + 1;
    float *mine = sm + warp * 16 * (D + 2);
    const u32 begin = split * SPLIT + warp * 64;
    float o[D / 8][4], m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < D / 8; i++)
        o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;

    if (begin < v.hi && begin + 64 > v.lo) {
        u32 qa[D / 16][4]; /* query fragments of both row halves */
        const float *q = (const float *)p.q + (u64)tok * p.ldq + (u64)kh * G * p.d_k;
#pragma unroll
        for (int i = 0; i < D / 32; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                u32 head = g + 8 * h, d = 32 * i + 8 * t;
                float4 a = make_float4(0, 0, 0, 0), b = a;
                if (head < G && d < p.d_k) {
                    a = *(const float4 *)(q + head * p.d_k + d);
                    b = *(const float4 *)(q + head * p.d_k + d + 4);
                }
                qa[2 * i][h] = pack_h2(a.x, a.y), qa[2 * i][2 + h] = pack_h2(a.z, a.w);
                qa[2 * i + 1][h] = pack_h2(b.x, b.y), qa[2 * i + 1][2 + h] = pack_h2(b.z, b.w);
            }
        const bool whole = p.block_size % 64 == 0;
        const u8 *wblk = whole ? block_of(p, v, begin < v.lo ? v.lo : begin) : 0;
        const float sc = p.softcap > 0 ? p.scale : p.scale * LOG2E;
#pragma unroll 1
        for (u32 s = 0; s < 64; s += 16) {
            const u32 pos0 = begin + s;
            if (pos0 >= v.hi || pos0 + 16 <= v.lo)
                continue;
            /* ---- S = q K^T for 16 positions ---- */
            float sacc[2][4];
#pragma unroll
            for (int n = 0; n < 2; n++) {
                u32 pos = pos0 + 8 * n + g;
                bool ok = pos >= v.lo && pos < v.hi;
                const u16 *k = 0;
                if (ok)
                    k = (const u16 *)((whole ? wblk : block_of(p, v, pos)) + p.k_off) + (u64)(pos % p.block_size) * p.k_width + kh * p.d_k;
                uint4 kb[D / 32];
#pragma unroll
                for (int i = 0; i < D / 32; i++)
                    kb[i] = ok && 32 * i + 8 * t < p.d_k ? *(const uint4 *)(k + 32 * i + 8 * t) : make_uint4(0, 0, 0, 0);
                sacc[n][0] = sacc[n][1] = sacc[n][2] = sacc[n][3] = 0;
#pragma unroll
                for (int i = 0; i < D / 32; i++) {
                    mma_f16(sacc[n], qa[2 * i], kb[i].x, kb[i].y);
                    mma_f16(sacc[n], qa[2 * i + 1], kb[i].z, kb[i].w);
                }
            }
            /* ---- softmax of rows g and g + 8 ---- */
            u32 pa[4];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float x[4], mx = -INFINITY;
#pragma unroll
                for (int n = 0; n < 2; n++)
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        u32 pos = pos0 + 8 * n + 2 * t + j;
                        float y = sacc[n][2 * h + j] * sc;
                        if (p.softcap > 0)
                            y = p.softcap * tanhf(y / p.softcap) * LOG2E;
                        y = pos >= v.lo && pos < v.hi ? y : -INFINITY;
                        x[2 * n + j] = y;
                        mx = fmaxf(mx, y);
                    }
                mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 1));
                mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 2));
                float nm = fmaxf(m[h], mx), c = ex2(m[h] - nm), sum = 0; /* a visible position exists: nm is finite */
                m[h] = nm;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    x[j] = ex2(x[j] - nm);
                    sum += x[j];
                }
                sum += __shfl_xor_sync(~0u, sum, 1);
                sum += __shfl_xor_sync(~0u, sum, 2);
                l[h] = l[h] * c + sum;
                pa[h] = pack_h2_fast(x[0], x[1]);
                pa[2 + h] = pack_h2_fast(x[2], x[3]);
#pragma unroll
                for (int i = 0; i < D / 8; i++) {
                    o[i][2 * h] *= c;
                    o[i][2 * h + 1] *= c;
                }
            }
            /* ---- O += P V ---- */
            const u16 *vr[4];
            bool vok[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                u32 pos = pos0 + 2 * t + (j & 1) + (j & 2) * 4;
                vok[j] = pos >= v.lo && pos < v.hi;
                vr[j] = vok[j] ? (const u16 *)((whole ? wblk : block_of(p, v, pos)) + p.v_off) + (u64)(pos % p.block_size) * p.v_width + kh * p.d_v : 0;
            }
#pragma unroll
            for (int e = 0; e < D / 64; e++) {
                uint4 w[4];
#pragma unroll
                for (int j = 0; j < 4; j++)
                    w[j] = vok[j] && 64 * e + 8 * g < p.d_v ? *(const uint4 *)(vr[j] + 64 * e + 8 * g) : make_uint4(0, 0, 0, 0);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    const u32 sel = i & 1 ? 0x7632 : 0x5410;
                    u32 a0 = i / 2 == 0 ? w[0].x : i / 2 == 1 ? w[0].y : i / 2 == 2 ? w[0].z : w[0].w;
                    u32 a1 = i / 2 == 0 ? w[1].x : i / 2 == 1 ? w[1].y : i / 2 == 2 ? w[1].z : w[1].w;
                    u32 a2 = i / 2 == 0 ? w[2].x : i / 2 == 1 ? w[2].y : i / 2 == 2 ? w[2].z : w[2].w;
                    u32 a3 = i / 2 == 0 ? w[3].x : i / 2 == 1 ? w[3].y : i / 2 == 2 ? w[3].z : w[3].w;
                    mma_f16(o[8 * e + i], pa, prmt(a0, a1, sel), prmt(a2, a3, sel));
                }
            }
        }
    }
    /* column of o[i] fragments: n-tile column is 2t + {0,1}: that is lane group g' = 2t + {0,1} of the load */
#pragma unroll
    for (int h = 0; h < 2; h++) {
        u32 head = g + 8 * h;
        if (head >= G)
            continue;
        float *r = mine + head * (D + 2);
#pragma unroll
        for (int i = 0; i < D / 8; i++) {
            r[VCOL(2 * t, i)] = o[i][2 * h];
            r[VCOL(2 * t + 1, i)] = o[i][2 * h + 1];
        }
        if (t == 0) {
            r[D] = m[h];
            r[D + 1] = l[h];
        }
    }
    __syncthreads();
    /* ---- four warps to one, in order; then out, or to the split's place ---- */
    float *part = (float *)p.part + (((u64)blockIdx.z * p.n_head + kh * G) * p.n_split + (split - first)) * (D + 2);
    const u64 part_head = (u64)p.n_split * (D + 2);
    for (u32 i = tid; i < G * D; i += 128) {
        u32 head = i / D, d = i % D;
        float M = -INFINITY, L = 0, O = 0;
        for (u32 w = 0; w < 4; w++)
            M = fmaxf(M, sm[(w * 16 + head) * (D + 2) + D]);
        for (u32 w = 0; w < 4; w++) {
            const float *r = sm + (w * 16 + head) * (D + 2);
            float c = r[D] == -INFINITY ? 0.0f : ex2(r[D] - M);
            L += r[D + 1] * c;
            O += r[d] * c;
        }
        if (n_part > 1) {
            float *r = part + head * part_head;
            r[d] = O;
            if (d == 0) {
                r[D] = M;
                r[D + 1] = L;
            }
        } else if (d < p.d_v) {
            if (p.sinks) {
                float s = ((const float *)p.sinks)[kh * G + head] * LOG2E, nm = fmaxf(M, s), c = ex2(M - nm);
                L = L * c + ex2(s - nm);
                O *= c;
            }
            u32 col = (kh * G + head) * p.d_v + d;
            if (p.out_f16)
                ((u16 *)p.out)[(u64)tok * p.ldo + ACT_POS(col)] = f2h(O / L);
            else
                ((float *)p.out)[(u64)tok * p.ldo + col] = O / L;
        }
    }
    if (p.out_f16 && kh == 0 && split == first)
        for (u32 c = p.n_head * p.d_v + tid; c < p.ldo; c += 128)
            ((u16 *)p.out)[(u64)tok * p.ldo + ACT_POS(c)] = 0;
    if (n_part == 1)
        return;
    __threadfence();
    __syncthreads();
    u32 *counter = (u32 *)p.counter + (u64)blockIdx.z * p.n_kv_head + kh;
    if (tid == 0) {
        is_last = atomicAdd(counter, 1) == n_part - 1;
        if (is_last)
            *counter = 0;
    }
    __syncthreads();
    if (!is_last)
        return;
    __threadfence();
    part = (float *)p.part + ((u64)blockIdx.z * p.n_head + kh * G) * part_head;
    for (u32 i = tid; i < G * p.d_v; i += 128) {
        u32 head = i / p.d_v, d = i % p.d_v;
        const volatile float *r = part + head * part_head;
        float M = -INFINITY, L = 0, O = 0;
        for (u32 s = 0; s < n_part; s++)
            M = fmaxf(M, r[s * (D + 2) + D]);
        if (p.sinks)
            M = fmaxf(M, ((const float *)p.sinks)[kh * G + head] * LOG2E);
        for (u32 s = 0; s < n_part; s++) {
            float ms = r[s * (D + 2) + D], c = ms == -INFINITY ? 0.0f : ex2(ms - M);
            L += r[s * (D + 2) + D + 1] * c;
            O += r[s * (D + 2) + d] * c;
        }
        if (p.sinks)
            L += ex2(((const float *)p.sinks)[kh * G + head] * LOG2E - M);
        u32 col = (kh * G + head) * p.d_v + d;
        if (p.out_f16)
            ((u16 *)p.out)[(u64)tok * p.ldo + ACT_POS(col)] = f2h(O / L);
        else
            ((float *)p.out)[(u64)tok * p.ldo + col] = O / L;
    }
}

KERNEL(128, 2) imp_attend_d64(const __grid_constant__ attend_args p) { attend_d<64>(p); }
KERNEL(128, 2) imp_attend_d128(const __grid_constant__ attend_args p) { attend_d<128>(p); }
KERNEL(128, 1) imp_attend_d256(const __grid_constant__ attend_args p) { attend_d<256>(p); }

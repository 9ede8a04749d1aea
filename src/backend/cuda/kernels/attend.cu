/* attend: attention over paged f16 K and V for rows of class D, and a plain kernel for any shape.
 * imp_attend_d64/128/256: flash decoding. Block = (split of positions, kv head, token): 4 warps that take 16 positions at a
 * time; the query heads of a kv head are the rows of m16n8k16, so K and V are read once. Each warp streams its rows
 * through its own ring with one bulk copy a lane; what earlier steps stored is asked for before the previous kernel is
 * done. The head dimension and the columns of V may be permuted freely, so a lane uses 16 consecutive bytes as they come.
 * Warps, then blocks, are combined in a fixed order; splits lie at absolute positions (SPLIT_OF), so a row's bytes depend
 * on nothing but its own positions. The last block of a (token, kv head) combines: no extra launch.
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
#define STAGES 3
#define STEP 16 /* positions a warp takes at a time */

template <int D> DEV void attend_d(const attend_args &p)
{
    /* barriers 128 | [4 warps][3 stages][K, V][16 rows][D * 2 + 16 bytes] | [4 warps][G][D + 2] f32 */
    extern __shared__ __align__(128) u8 sm[];
    __shared__ u32 is_last;
    constexpr u32 ROW = D * 2 + 16, PIECE = STEP * ROW;
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
    const u32 split = blockIdx.x, kh = blockIdx.y, tok = p.tok0 + blockIdx.z, G = p.n_head / p.n_kv_head;
    pdl_launch();
    /* The step's tables were there before its first kernel began, and K and V of earlier steps too. */
    const view v = token_view(p, tok);
    const u32 first = SPLIT_OF(v.lo), last = v.hi ? SPLIT_OF(v.hi - 1) : 0;
    if (split < first || split > last)
        return;
    const u32 n_part = last - first + 1, s_begin = SPLIT_BEGIN(split), s_end = SPLIT_BEGIN(split + 1);
    const seq_desc &sq = ((const seq_desc *)p.seq)[((const tok_desc *)p.tok)[tok].seq];
    const u32 old = (u32)((const tok_desc *)p.tok)[sq.tok_begin].kv_index; /* positions below were stored by earlier steps */
    const u32 bars = smem_addr(sm) + warp * 8 * STAGES, ring = smem_addr(sm) + 128 + warp * STAGES * 2 * PIECE;
    float *merge = (float *)(sm + 128 + 4 * STAGES * 2 * PIECE), *mine = merge + warp * G * (D + 2);
    if (lane == 0)
        for (u32 i = 0; i < STAGES; i++)
            mbar_init(bars + i * 8, 1);
    mbar_init_fence();
    __syncwarp();

    /* The warp's steps: pieces of 16 positions, 64 apart, of those that are visible. */
    const u32 lo16 = v.lo & ~15u, begin = s_begin > lo16 ? s_begin : lo16, end = s_end < v.hi ? s_end : v.hi;
    auto start_of = [&](u32 i) { return s_begin + (i * 4 + warp) * STEP; };
    u32 i0 = begin > s_begin + warp * STEP ? (begin - s_begin - warp * STEP + 63) / 64 : 0, i1 = i0;
    if (start_of(i0) < end)
        i1 = (end - start_of(0) + 63) / 64;
    /* a lane copies one row of K (lanes 0-15) or of V */
    auto request = [&](u32 i) {
        const u32 slot = (i - i0) % STAGES, pos = start_of(i) + (lane & 15), bar = bars + slot * 8;
        const bool is_v = lane >= 16, ok = pos >= v.lo && pos < end;
        const u32 dst = ring + slot * 2 * PIECE + is_v * PIECE + (lane & 15) * ROW, n = (is_v ? p.d_v : p.d_k) * 2;
        const u32 n_ok = __popc(__ballot_sync(~0u, ok) & 0xFFFF);
        if (lane == 0)
            mbar_expect(bar, n_ok * (p.d_k + p.d_v) * 2);
        __syncwarp();
        if (ok) {
            const u8 *blk = block_of(p, v, pos) + (is_v ? p.v_off : p.k_off);
            bulk_load_keep(dst, blk + ((u64)(pos % p.block_size) * (is_v ? p.v_width : p.k_width) + kh * (is_v ? p.d_v : p.d_k)) * 2, n, bar);
        } else { /* what is not seen must still be a number */
            for (u32 o = 0; o < n; o += 16)
                asm volatile("st.shared.v4.u32 [%0],{%1,%1,%1,%1};" ::"r"(dst + o), "r"(0) : "memory");
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); /* a later copy may go here */
        }
    };
    u32 asked = i0;
    while (asked < i1 && asked < i0 + STAGES && start_of(asked) + STEP <= old)
        request(asked++);
    pdl_wait();
    while (asked < i1 && asked < i0 + STAGES)
        request(asked++);

    float o[D / 8][4], m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < D / 8; i++)
        o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
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
    const float sc = p.softcap > 0 ? p.scale : p.scale * LOG2E;
#pragma unroll 1
    for (u32 it = i0; it < i1; it++) {
        const u32 slot = (it - i0) % STAGES, pos0 = start_of(it), kb = ring + slot * 2 * PIECE, vb = kb + PIECE;
        mbar_wait(bars + slot * 8, (it - i0) / STAGES & 1);
        __syncwarp();
        /* ---- S = q K^T for 16 positions ---- */
        float sacc[2][4];
#pragma unroll
        for (int n = 0; n < 2; n++) {
            sacc[n][0] = sacc[n][1] = sacc[n][2] = sacc[n][3] = 0;
#pragma unroll
            for (int i = 0; i < D / 32; i++) {
                uint4 k = make_uint4(0, 0, 0, 0);
                if (32 * i + 8 * t < p.d_k)
                    k = lds128(kb + (8 * n + g) * ROW + (32 * i + 8 * t) * 2);
                mma_f16(sacc[n], qa[2 * i], k.x, k.y);
                mma_f16(sacc[n], qa[2 * i + 1], k.z, k.w);
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
#pragma unroll
        for (int e = 0; e < D / 64; e++) {
            uint4 w[4];
#pragma unroll
            for (int j = 0; j < 4; j++)
                w[j] = 64 * e + 8 * g < p.d_v ? lds128(vb + (2 * t + (j & 1) + (j & 2) * 4) * ROW + (64 * e + 8 * g) * 2) : make_uint4(0, 0, 0, 0);
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
        __syncwarp();
        if (asked < i1)
            request(asked++);
    }
    /* column of o[i]'s fragments: 2t + {0, 1} is the lane group that loaded it */
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
#pragma unroll
        for (u32 w = 0; w < 4; w++)
            M = fmaxf(M, merge[(w * G + head) * (D + 2) + D]);
#pragma unroll
        for (u32 w = 0; w < 4; w++) {
            const float *r = merge + (w * G + head) * (D + 2);
            float c = r[D] == -INFINITY ? 0.0f : ex2(r[D] - M);
            L += r[D + 1] * c;
            O += r[d] * c;
        }
        if (n_part > 1) {
            float *r = part + head * part_head;
            __stcg(r + d, O);
            if (d == 0) {
                __stcg(r + D, M);
                __stcg(r + D + 1, L);
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
    /* ---- the last block of this token and kv head: weights of the splits first, then the sums in order ---- */
    part = (float *)p.part + ((u64)blockIdx.z * p.n_head + kh * G) * part_head;
    float *cw = (float *)(sm + 128), *tot = merge; /* [G][n_part], [G] */
    for (u32 head = warp; head < G; head += 4) {
        const float *r = part + head * part_head;
        float M = p.sinks ? ((const float *)p.sinks)[kh * G + head] * LOG2E : -INFINITY, L = 0;
        for (u32 s = lane; s < n_part; s += 32) {
            float ms = __ldcg(r + (u64)s * (D + 2) + D);
            cw[head * n_part + s] = ms;
            M = fmaxf(M, ms);
        }
        M = warp_max(M);
        for (u32 s = lane; s < n_part; s += 32) {
            float ms = cw[head * n_part + s], c = ms == -INFINITY ? 0.0f : ex2(ms - M);
            cw[head * n_part + s] = c;
            L += __ldcg(r + (u64)s * (D + 2) + D + 1) * c;
        }
        L = warp_sum(L);
        if (p.sinks)
            L += ex2(((const float *)p.sinks)[kh * G + head] * LOG2E - M);
        if (lane == 0)
            tot[head] = L;
    }
    __syncthreads();
    for (u32 i = tid; i < G * p.d_v; i += 128) {
        u32 head = i / p.d_v, d = i % p.d_v;
        const float *r = part + head * part_head + d, *c = cw + head * n_part;
        float O = 0;
        u32 s = 0;
        for (; s + 8 <= n_part; s += 8) {
            float x[8];
#pragma unroll
            for (u32 j = 0; j < 8; j++)
                x[j] = __ldcg(r + (u64)(s + j) * (D + 2));
#pragma unroll
            for (u32 j = 0; j < 8; j++)
                O = fmaf(x[j], c[s + j], O);
        }
        for (; s < n_part; s++)
            O = fmaf(__ldcg(r + (u64)s * (D + 2)), c[s], O);
        float y = O / tot[head];
        u32 col = (kh * G + head) * p.d_v + d;
        if (p.out_f16)
            ((u16 *)p.out)[(u64)tok * p.ldo + ACT_POS(col)] = f2h(y);
        else
            ((float *)p.out)[(u64)tok * p.ldo + col] = y;
    }
}

KERNEL(128, 3) imp_attend_d64(const __grid_constant__ attend_args p) { attend_d<64>(p); }
KERNEL(128, 2) imp_attend_d128(const __grid_constant__ attend_args p) { attend_d<128>(p); }
KERNEL(128, 1) imp_attend_d256(const __grid_constant__ attend_args p) { attend_d<256>(p); }

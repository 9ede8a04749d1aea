/* attend: attention over paged f16 K and V for rows of class D, and a plain kernel for any shape.
 * imp_attend_d64/128/256: flash decoding. Block = (splits of positions, kv head, token): 4 warps that take 16 positions at a
 * time; the query heads of a kv head are the rows of m16n8k16, so K and V are read once. Each lane copies what it will
 * multiply, 16 bytes at a time, through a ring of its own, which runs on from split to split; what earlier steps stored is
 * asked for before the previous kernel is done. A block takes one split when there are few tokens, all when there are many. The head dimension and the columns of V may be permuted freely, so a lane uses 16 consecutive bytes as they come.
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
#define STEP 16 /* positions a warp takes at a time */

DEV void copy16(u32 dst, const u8 *src, bool ok) /* zeros where there is nothing to copy */
{
    asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(dst), "l"(src), "r"(ok ? 16 : 0) : "memory");
}
DEV void copy_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEV void copy_wait(void) { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

/* A warp's walk over its pieces of 16 positions: those at 16 * warp + 64 * i of each split, as far as they are visible. */
struct walk {
    u32 split, pos;
    __device__ __forceinline__ void enter(u32 warp, u32 lo16)
    {
        pos = SPLIT_BEGIN(split) + warp * STEP;
        if (pos < lo16)
            pos += (lo16 - pos + 63) / 64 * 64;
    }
    /* moves on to a piece that is before hi, in this split or a later one up to end; false: there is none */
    __device__ __forceinline__ bool settle(u32 warp, u32 lo16, u32 hi, u32 end)
    {
        while (pos >= SPLIT_BEGIN(split + 1) || pos >= hi) {
            if (split + 1 >= end)
                return false;
            split++;
            enter(warp, lo16);
        }
        return true;
    }
};

template <int D, int STAGES> DEV void attend_d(const attend_args &p)
{
    /* [4 warps][STAGES][D / 8 items][32 lanes][16 bytes]: a lane's own operands, nobody else reads them |
     * [4 warps][G][D + 2] f32 */
    extern __shared__ __align__(128) u8 sm[];
    __shared__ u32 is_last;
    constexpr u32 PIECE = D / 8 * 512, N_K = D / 16; /* items of K, then D / 16 of V */
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
    const u32 kh = blockIdx.y, tok = p.tok0 + blockIdx.z, G = p.n_head / p.n_kv_head;
    pdl_launch();
    /* The step's tables were there before its first kernel began, and K and V of earlier steps too. */
    const view v = token_view(p, tok);
    const u32 first = SPLIT_OF(v.lo), last = v.hi ? SPLIT_OF(v.hi - 1) : 0;
    const u32 sp0 = first + blockIdx.x * p.per_block, sp1 = sp0 + p.per_block < last + 1 ? sp0 + p.per_block : last + 1;
    if (sp0 > last)
        return;
    const u32 n_part = last - first + 1, lo16 = v.lo & ~15u;
    const seq_desc &sq = ((const seq_desc *)p.seq)[((const tok_desc *)p.tok)[tok].seq];
    const u32 old = (u32)((const tok_desc *)p.tok)[sq.tok_begin].kv_index; /* positions below were stored by earlier steps */
    const u32 ring = smem_addr(sm) + warp * STAGES * PIECE + lane * 16;
    float *merge = (float *)(sm + 4 * STAGES * PIECE), *mine = merge + warp * G * (D + 2);

    /* Where the row of a position begins; head kh of it. */
    auto row_at = [&](u32 pos, bool is_v) {
        pos = pos < v.hi ? pos : v.hi - 1;
        pos = pos < v.lo ? v.lo : pos;
        return block_of(p, v, pos) + (is_v ? p.v_off : p.k_off) + ((u64)(pos % p.block_size) * (is_v ? p.v_width : p.k_width) + kh * (is_v ? p.d_v : p.d_k)) * 2;
    };
    auto request = [&](u32 pos0, u32 slot) {
        const u8 *k[2], *x[4];
        if (p.block_size % STEP == 0) { /* one block holds them all */
            const u8 *blk = block_of(p, v, pos0);
            const u32 in = pos0 % p.block_size;
            for (u32 n = 0; n < 2; n++)
                k[n] = blk + p.k_off + ((u64)(in + 8 * n + g) * p.k_width + kh * p.d_k) * 2;
            for (u32 j = 0; j < 4; j++)
                x[j] = blk + p.v_off + ((u64)(in + 2 * t + (j & 1) + (j & 2) * 4) * p.v_width + kh * p.d_v) * 2;
        } else {
            for (u32 n = 0; n < 2; n++)
                k[n] = row_at(pos0 + 8 * n + g, false);
            for (u32 j = 0; j < 4; j++)
                x[j] = row_at(pos0 + 2 * t + (j & 1) + (j & 2) * 4, true);
        }
        const u32 dst = ring + slot * PIECE;
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
            const u32 pos = pos0 + 8 * n + g;
            const bool ok = pos >= v.lo && pos < v.hi;
#pragma unroll
            for (u32 i = 0; i < D / 32; i++) {
                const bool in = 32 * i + 8 * t < p.d_k;
                copy16(dst + (n * (D / 32) + i) * 512, k[n] + (in ? (32 * i + 8 * t) * 2 : 0), ok && in);
            }
        }
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            const u32 pos = pos0 + 2 * t + (j & 1) + (j & 2) * 4;
            const bool ok = pos >= v.lo && pos < v.hi;
#pragma unroll
            for (u32 e = 0; e < D / 64; e++) {
                const bool in = 64 * e + 8 * g < p.d_v;
                copy16(dst + (N_K + e * 4 + j) * 512, x[j] + (in ? (64 * e + 8 * g) * 2 : 0), ok && in);
            }
        }
    };
    walk ask = {sp0, 0};
    ask.enter(warp, lo16);
    u32 n_ask = 0;
    bool more = ask.settle(warp, lo16, v.hi, sp1);
    auto request_next = [&](u32 slot) {
        if (more) {
            request(ask.pos, slot);
            ask.pos += 64;
            more = ask.settle(warp, lo16, v.hi, sp1);
        }
        copy_commit(); /* a group a piece, also of none: the waits count them */
    };
    for (; n_ask < STAGES && more && ask.pos + STEP <= old; n_ask++)
        request_next(n_ask);
    pdl_wait();
    for (; n_ask < STAGES; n_ask++)
        request_next(n_ask);

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
    const u64 part_head = (u64)p.n_split * (D + 2);
    u32 slot = 0;
    walk at = {sp0, 0};
#pragma unroll 1
    for (; at.split < sp1; at.split++) {
        const u32 split = at.split, split_end = SPLIT_BEGIN(split + 1) < v.hi ? SPLIT_BEGIN(split + 1) : v.hi;
        float o[D / 8][4], m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};
#pragma unroll
        for (int i = 0; i < D / 8; i++)
            o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
        at.enter(warp, lo16);
#pragma unroll 1
        for (; at.pos < split_end; at.pos += 64) {
            const u32 pos0 = at.pos, piece = ring + slot * PIECE;
            copy_wait<STAGES - 1>();
            /* ---- S = q K^T for 16 positions ---- */
            float sacc[2][4];
#pragma unroll
            for (int n = 0; n < 2; n++) {
                sacc[n][0] = sacc[n][1] = sacc[n][2] = sacc[n][3] = 0;
#pragma unroll
                for (int i = 0; i < D / 32; i++) {
                    const uint4 k = lds128(piece + (n * (D / 32) + i) * 512);
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
                    w[j] = lds128(piece + (N_K + e * 4 + j) * 512);
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
            request_next(slot);
            slot = slot + 1 == STAGES ? 0 : slot + 1;
        }
        __syncthreads(); /* the results of the split before are merged */
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
    }
    if (p.out_f16 && kh == 0 && sp0 == first)
        for (u32 c = p.n_head * p.d_v + tid; c < p.ldo; c += 128)
            ((u16 *)p.out)[(u64)tok * p.ldo + ACT_POS(c)] = 0;
    if (n_part == 1)
        return;
    if (sp1 - sp0 < n_part) { /* others have parts of this token and head too: who comes last combines them */
        __threadfence();
        __syncthreads();
        u32 *counter = (u32 *)p.counter + (u64)blockIdx.z * p.n_kv_head + kh;
        if (tid == 0) {
            is_last = atomicAdd(counter, sp1 - sp0) + sp1 - sp0 == n_part;
            if (is_last)
                *counter = 0;
        }
        __syncthreads();
        if (!is_last)
            return;
    }
    __threadfence();
    __syncthreads();
    /* ---- the last block of this token and kv head: weights of the splits first, then the sums in order ---- */
    const float *part = (const float *)p.part + ((u64)blockIdx.z * p.n_head + kh * G) * part_head;
    float *cw = (float *)sm, *tot = merge; /* [G][n_part], [G] */
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
        for (u32 s = 0; s < n_part; s += 8) { /* eight trips to L2 at a time, the last few as well */
            float x[8];
#pragma unroll
            for (u32 j = 0; j < 8; j++)
                x[j] = s + j < n_part ? __ldcg(r + (u64)(s + j) * (D + 2)) : 0.0f;
#pragma unroll
            for (u32 j = 0; j < 8; j++)
                if (s + j < n_part)
                    O = fmaf(x[j], c[s + j], O);
        }
        float y = O / tot[head];
        u32 col = (kh * G + head) * p.d_v + d;
        if (p.out_f16)
            ((u16 *)p.out)[(u64)tok * p.ldo + ACT_POS(col)] = f2h(y);
        else
            ((float *)p.out)[(u64)tok * p.ldo + col] = y;
    }
}

KERNEL(128, 4) imp_attend_d64(const __grid_constant__ attend_args p) { attend_d<64, 3>(p); }
KERNEL(128, 2) imp_attend_d128(const __grid_constant__ attend_args p) { attend_d<128, 3>(p); }
KERNEL(128, 3) imp_attend_d128s(const __grid_constant__ attend_args p) { attend_d<128, 2>(p); }
KERNEL(128, 1) imp_attend_d256(const __grid_constant__ attend_args p) { attend_d<256, 2>(p); }

/* attend: attention over paged f16 K and V for rows of class D, and a plain kernel for any shape.
 * imp_attend_d64/128/256: flash decoding. Block = (splits of positions, kv head, token): 4 warps that take 16 positions at a
 * time; the query heads of a kv head are the rows of m16n8k16, so K and V are read once. Each lane copies what it will
 * multiply, 16 bytes at a time, through a ring of its own, which runs on from split to split; what earlier steps stored is
 * asked for before the previous kernel is done. A block takes the splits that begin in its span of positions: one when there
 * are few tokens, all when there are many. The head dimension and the columns of V may be permuted freely, so a lane uses 16
 * consecutive bytes as they come. imp_attend_q*: the same after imp_qkv's work, done by its own blocks.
 * Warps, then blocks, are combined in a fixed order; splits lie at absolute positions (SPLIT_OF), so a row's bytes depend
 * on nothing but its own positions. The last block of a (token, kv head) combines: no extra launch.
 * Bytes: 2 * positions * n_kv_head * d * 2; memory bound. Numerics: f16 products, f32 sums and softmax.
 * imp_attend_any: a warp a (token, head), scalar; the reference, and what serves shapes without a kernel. */
#include "attend.cuh"
#include "heads.cuh"

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

DEV void add_scaled(float4 &o, float2 a, float2 b, float c)
{
    o.x = fmaf(a.x, c, o.x), o.y = fmaf(a.y, c, o.y);
    o.z = fmaf(b.x, c, o.z), o.w = fmaf(b.y, c, o.w);
}
/* Four columns of a token's output, divided by the sum of their weights. */
DEV void store4(const attend_args &p, u32 tok, u32 col, float4 o, float sum)
{
    o = make_float4(o.x / sum, o.y / sum, o.z / sum, o.w / sum);
    if (p.out_f16) {
        u16 *dst = (u16 *)p.out + (u64)tok * p.ldo;
        *(u32 *)(dst + ACT_POS(col)) = pack_h2(o.x, o.y);
        *(u32 *)(dst + ACT_POS(col + 2)) = pack_h2(o.z, o.w);
    } else {
        float *dst = (float *)p.out + (u64)tok * p.ldo + col;
        dst[0] = o.x, dst[1] = o.y, dst[2] = o.z, dst[3] = o.w;
    }
}

/* The first split that begins at pos or after it. */
DEV u32 split_from(u32 pos)
{
    const u32 s = SPLIT_OF(pos);
    return SPLIT_BEGIN(s) < pos ? s + 1 : s;
}

/* Steps of one token a sequence: what imp_qkv does, by the blocks that need it. Every block of a kv head norms and rotates the
 * queries for itself, into q [G][D]; the one whose split has the new position stores its K and V as well. What does not depend on
 * the kernel before is at hand early: angles (the first two of a lane) and the norms' weights. */
template <int D> struct new_token {
    float cq[4], ck[4], wq[D / 32], wk[D / 32];
    __device__ __forceinline__ void prepare(const attend_args &p, const qkv_args &x, const tok_desc &d, u32 lane)
    {
        cq[0] = cq[2] = ck[0] = ck[2] = 1, cq[1] = cq[3] = ck[1] = ck[3] = 0;
#pragma unroll
        for (u32 j = 0; j < 2; j++) {
            if (x.has_rope_q && lane + 32 * j < x.rope_q.rot / 2)
                rope_angle(x.rope_q, d, lane + 32 * j, cq[2 * j], cq[2 * j + 1]);
            if (x.has_rope_k && lane + 32 * j < x.rope_k.rot / 2)
                rope_angle(x.rope_k, d, lane + 32 * j, ck[2 * j], ck[2 * j + 1]);
        }
#pragma unroll
        for (u32 j = 0; j < D / 32; j++) {
            const bool in = lane + 32 * j < p.d_k;
            wq[j] = x.q_norm && in ? ((const float *)x.q_norm)[lane + 32 * j] + x.q_plus : 1.0f;
            wk[j] = x.k_norm && in ? ((const float *)x.k_norm)[lane + 32 * j] + x.k_plus : 1.0f;
        }
    }
    /* Head j of the block: a query, K (j = G) or V (G + 1); its values, all asked for at once. */
    __device__ __forceinline__ void load(const attend_args &p, const qkv_args &x, u32 tok, u32 kh, u32 G, u32 j, u32 lane, float *v) const
    {
        const u32 n = j > G ? p.d_v : p.d_k;
        const float *src = j < G ? (const float *)p.q + (u64)tok * p.ldq + (kh * G + j) * n
                                 : (j == G ? (const float *)x.k + (u64)tok * x.ldk : (const float *)x.v + (u64)tok * x.ldv) + kh * n;
#pragma unroll
        for (u32 i = 0; i < D / 32; i++)
            v[i] = lane + 32 * i < n ? src[lane + 32 * i] : 0.0f;
    }
    __device__ __forceinline__ void make(const attend_args &p, const qkv_args &x, const view &v, const tok_desc &d, u32 kh, u32 G, u32 j, u32 lane, const float *val,
                                         float *h) const
    {
        const bool is_q = j < G, is_k = j == G;
        const u32 n = j > G ? p.d_v : p.d_k;
        const bool norm = is_q ? x.has_q_norm : is_k ? x.has_k_norm : x.has_v_norm;
        float scale = 1.0f;
        if (norm) { /* the sums and products of head_norm */
            float s = 0;
#pragma unroll
            for (u32 i = 0; i < D / 32; i++)
                s = fmaf(val[i], val[i], s);
            scale = rsqrtf(warp_sum(s) / (float)n + (is_q ? x.q_eps : is_k ? x.k_eps : x.v_eps));
        }
#pragma unroll
        for (u32 i = 0; i < D / 32; i++) {
            const u32 at = lane + 32 * i;
            const float w = is_q ? wq[i] : is_k ? wk[i] : norm && x.v_norm && at < n ? ((const float *)x.v_norm)[at] + x.v_plus : 1.0f;
            if (at < n)
                h[at] = norm ? val[i] * scale * w : val[i];
        }
        __syncwarp();
        if (is_q ? x.has_rope_q : is_k && x.has_rope_k) {
            const float cs[4] = {is_q ? cq[0] : ck[0], is_q ? cq[1] : ck[1], is_q ? cq[2] : ck[2], is_q ? cq[3] : ck[3]};
            head_rope(h, is_q ? x.rope_q : x.rope_k, d, lane, cs);
        }
        if (is_q)
            return;
        const u32 pos = (u32)d.kv_index;
        u16 *dst = (u16 *)(block_of(p, v, pos) + (is_k ? p.k_off : p.v_off)) + (u64)(pos % p.block_size) * (is_k ? p.k_width : p.v_width) + kh * n;
        for (u32 i = lane; i < n; i += 32)
            dst[i] = f2h(h[i]);
    }
    __device__ __forceinline__ void heads(const attend_args &p, const qkv_args &x, const view &v, const tok_desc &d, u32 tok, u32 kh, u32 G, bool stores, float *q, u32 warp,
                                          u32 lane) const
    {
        const u32 n = G + (stores ? 2 : 0);
        for (u32 j = warp; j < n; j += 8) { /* two of a warp's heads at a time */
            float a[D / 32], b[D / 32];
            load(p, x, tok, kh, G, j, lane, a);
            if (j + 4 < n)
                load(p, x, tok, kh, G, j + 4, lane, b);
            make(p, x, v, d, kh, G, j, lane, a, q + j * D);
            if (j + 4 < n)
                make(p, x, v, d, kh, G, j + 4, lane, b, q + (j + 4) * D);
        }
    }
};

/* QKV: x is what imp_qkv would have been given, and has not run. */
template <int D, int STAGES, bool QKV> DEV void attend_d(const attend_args &p, const qkv_args *x)
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
    const u32 begin = SPLIT_BEGIN(first) + blockIdx.x * p.span, sp0 = split_from(begin), end = split_from(begin + p.span), sp1 = end < last + 1 ? end : last + 1;
    if (sp0 >= sp1)
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
    auto entry_of = [&](u32 pos) { return (u32)v.table[(i32)(pos / p.block_size) - v.base]; };
    auto request = [&](u32 pos0, u32 slot, u32 entry) {
        const u8 *k[2], *x[4];
        if (p.block_size % STEP == 0) { /* one block holds them all */
            const u8 *blk = (const u8 *)p.kv + (u64)entry * p.block_bytes;
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
    u32 entry = more ? entry_of(ask.pos) : 0; /* of the block table: asked for a piece ahead, it is a trip to memory by itself */
    auto request_next = [&](u32 slot) {
        if (more) {
            request(ask.pos, slot, entry);
            ask.pos += 64;
            more = ask.settle(warp, lo16, v.hi, sp1);
            if (more)
                entry = entry_of(ask.pos);
        }
        copy_commit(); /* a group a piece, also of none: the waits count them */
    };
    for (; n_ask < STAGES && more && ask.pos + STEP <= old; n_ask++)
        request_next(n_ask);
    const tok_desc &td = ((const tok_desc *)p.tok)[tok];
    new_token<D> fresh;
    if (QKV)
        fresh.prepare(p, *x, td, lane);
    pdl_wait();
    if (QKV) {
        const u32 s = SPLIT_OF((u32)td.kv_index);
        fresh.heads(p, *x, v, td, tok, kh, G, s >= sp0 && s < sp1, merge, warp, lane);
        __syncthreads(); /* the copies below read what was stored */
    }
    for (; n_ask < STAGES; n_ask++)
        request_next(n_ask);

    u32 qa[D / 16][4]; /* query fragments of both row halves */
    const float *q = QKV ? merge : (const float *)p.q + (u64)tok * p.ldq + (u64)kh * G * p.d_k;
    const u32 ldh = QKV ? D : p.d_k;
#pragma unroll
    for (int i = 0; i < D / 32; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            u32 head = g + 8 * h, d = 32 * i + 8 * t;
            float4 a = make_float4(0, 0, 0, 0), b = a;
            if (head < G && d < p.d_k) {
                a = *(const float4 *)(q + head * ldh + d);
                b = *(const float4 *)(q + head * ldh + d + 4);
            }
            qa[2 * i][h] = pack_h2(a.x, a.y), qa[2 * i][2 + h] = pack_h2(a.z, a.w);
            qa[2 * i + 1][h] = pack_h2(b.x, b.y), qa[2 * i + 1][2 + h] = pack_h2(b.z, b.w);
        }
    const float sc = p.softcap > 0 ? p.scale : p.scale * LOG2E;
    const u64 part_head = (u64)p.n_split * PART_LD(D);
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
        float *part = (float *)p.part + (((u64)blockIdx.z * p.n_head + kh * G) * p.n_split + (split - first)) * PART_LD(D);
        for (u32 i = tid; i < G * (D / 4); i += 128) {
            const u32 head = i / (D / 4), d = i % (D / 4) * 4;
            float M = -INFINITY, L = 0;
            float4 O = make_float4(0, 0, 0, 0);
#pragma unroll
            for (u32 w = 0; w < 4; w++)
                M = fmaxf(M, merge[(w * G + head) * (D + 2) + D]);
#pragma unroll
            for (u32 w = 0; w < 4; w++) {
                const float *r = merge + (w * G + head) * (D + 2);
                const float c = r[D] == -INFINITY ? 0.0f : ex2(r[D] - M);
                L = fmaf(r[D + 1], c, L);
                add_scaled(O, *(const float2 *)(r + d), *(const float2 *)(r + d + 2), c);
            }
            if (n_part > 1) {
                float *r = part + head * part_head;
                __stcg((float4 *)(r + d), O);
                if (d == 0)
                    __stcg((float2 *)(r + D), make_float2(M, L));
            } else if (d < p.d_v) {
                if (p.sinks) {
                    float s = ((const float *)p.sinks)[kh * G + head] * LOG2E, nm = fmaxf(M, s), c = ex2(M - nm);
                    L = L * c + ex2(s - nm);
                    O = make_float4(O.x * c, O.y * c, O.z * c, O.w * c);
                }
                store4(p, tok, (kh * G + head) * p.d_v + d, O, L);
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
            float ms = __ldcg(r + (u64)s * PART_LD(D) + D);
            cw[head * n_part + s] = ms;
            M = fmaxf(M, ms);
        }
        M = warp_max(M);
        for (u32 s = lane; s < n_part; s += 32) {
            float ms = cw[head * n_part + s], c = ms == -INFINITY ? 0.0f : ex2(ms - M);
            cw[head * n_part + s] = c;
            L += __ldcg(r + (u64)s * PART_LD(D) + D + 1) * c;
        }
        L = warp_sum(L);
        if (p.sinks)
            L += ex2(((const float *)p.sinks)[kh * G + head] * LOG2E - M);
        if (lane == 0)
            tot[head] = L;
    }
    __syncthreads();
    for (u32 i = tid; i < G * (p.d_v / 4); i += 128) {
        const u32 head = i / (p.d_v / 4), d = i % (p.d_v / 4) * 4;
        const float *r = part + head * part_head + d, *c = cw + head * n_part;
        float4 O = make_float4(0, 0, 0, 0);
        for (u32 s = 0; s < n_part; s += 16) { /* sixteen trips to L2 at a time, the last few as well */
            float4 x[16];
#pragma unroll
            for (u32 j = 0; j < 16; j++)
                x[j] = s + j < n_part ? __ldcg((const float4 *)(r + (u64)(s + j) * PART_LD(D))) : make_float4(0, 0, 0, 0);
#pragma unroll
            for (u32 j = 0; j < 16; j++)
                if (s + j < n_part)
                    add_scaled(O, make_float2(x[j].x, x[j].y), make_float2(x[j].z, x[j].w), c[s + j]);
        }
        store4(p, tok, (kh * G + head) * p.d_v + d, O, tot[head]);
    }
}

/* imp_attend_q*: with imp_qkv's work, for steps of one token a sequence. */
struct attend_qkv_args {
    attend_args a;
    qkv_args x;
};
#define ATTEND(d, name, stages, blocks)                                                                                    \
    KERNEL(128, blocks) imp_attend_d##name(const __grid_constant__ attend_args p) { attend_d<d, stages, false>(p, 0); }       \
    KERNEL(128, blocks) imp_attend_q##name(const __grid_constant__ attend_qkv_args p) { attend_d<d, stages, true>(p.a, &p.x); }
ATTEND(64, 64, 3, 4)
ATTEND(128, 128, 3, 2)
ATTEND(128, 128s, 2, 3)
ATTEND(256, 256, 2, 1)

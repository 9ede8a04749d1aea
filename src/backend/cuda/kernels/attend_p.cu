/* attend_p: attention over paged f16 K and V for rows of class P: prompts. Block = 64 rows = (64 / G tokens) x G query
 * heads of one kv head, 4 warps of 16 rows; K and V come 64 positions at a time (absolute multiples of 64) into two
 * stages of shared memory by bulk copies, a row a thread. Online softmax; a block of positions that a row does not see
 * leaves that row exactly as it was, so a row's bytes do not depend on its neighbours or its chunk.
 * FLOP: 4 * rows * positions * d; bound by the tensor cores through shared memory. Numerics: f16 products, f32 sums. */
#include "attend.cuh"

template <int D> DEV void attend_p(const attend_args &p)
{
    extern __shared__ __align__(128) u8 sm[];
    constexpr u32 ROW = D * 2 + 16, TILE = 64 * ROW;
    __shared__ u32 range[2];
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
    const u32 G = p.n_head / p.n_kv_head, per = 64 / G, kh = blockIdx.y;
    const u32 blk_x = gridDim.x - 1 - blockIdx.x; /* the longest rows first */
    const u32 first = blk_x * per, n_tok = p.n_tok - first < per ? p.n_tok - first : per;
    const u32 bars = smem_addr(sm), ring = bars + 128; /* [2][K, V][64][ROW] */
    pdl_launch();
    if (tid == 0) {
        mbar_init(bars, 1);
        mbar_init(bars + 8, 1);
        mbar_init_fence();
        range[0] = ~0u;
        range[1] = 0;
    }
    __syncthreads();
    pdl_wait();
    /* rows g and g + 8 of the warp's 16 */
    u32 lo[2], hi[2], tk[2], hd[2];
    bool live[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        u32 r = warp * 16 + g + 8 * h;
        live[h] = r < n_tok * G;
        tk[h] = p.tok0 + first + (live[h] ? r / G : 0);
        hd[h] = kh * G + (live[h] ? r % G : 0);
        view v = token_view(p, tk[h]);
        lo[h] = live[h] ? v.lo : 0;
        hi[h] = live[h] ? v.hi : 0;
        if (live[h] && t == 0) {
            atomicMin(&range[0], v.lo);
            atomicMax(&range[1], v.hi);
        }
    }
    const view first_v = token_view(p, p.tok0 + first);
    const i32 seq0 = ((const tok_desc *)p.tok)[p.tok0 + first].seq;
    u32 qa[D / 16][4];
#pragma unroll
    for (int i = 0; i < D / 32; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            u32 d = 32 * i + 8 * t;
            float4 a = make_float4(0, 0, 0, 0), b = a;
            if (live[h] && d < p.d_k) {
                const float *q = (const float *)p.q + (u64)tk[h] * p.ldq + (u64)hd[h] * p.d_k + d;
                a = *(const float4 *)q;
                b = *(const float4 *)(q + 4);
            }
            qa[2 * i][h] = pack_h2(a.x, a.y), qa[2 * i][2 + h] = pack_h2(a.z, a.w);
            qa[2 * i + 1][h] = pack_h2(b.x, b.y), qa[2 * i + 1][2 + h] = pack_h2(b.z, b.w);
        }
    float o[D / 8][4], m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < D / 8; i++)
        o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
    const float sc = p.softcap > 0 ? p.scale : p.scale * LOG2E;
    __syncthreads();
    /* A block of rows may cross from one sequence to the next: one pass for each, rows of the others see nothing. */
    const u32 last_tok = p.tok0 + first + n_tok - 1;
    const i32 seq1 = ((const tok_desc *)p.tok)[last_tok].seq;
    u32 phase[2] = {0, 0};
    for (i32 sq = seq0; sq <= seq1; sq++) {
        view v = first_v;
        u32 from = range[0], to = range[1];
        bool mine[2] = {live[0], live[1]};
        if (seq0 != seq1) {
            const seq_desc &sd = ((const seq_desc *)p.seq)[sq];
            v.table = (const i32 *)p.table + sd.table[p.group];
            v.base = sd.base[p.group];
            from = ~0u, to = 0;
            for (u32 i = 0; i < n_tok; i++)
                if (((const tok_desc *)p.tok)[p.tok0 + first + i].seq == sq) {
                    view w = token_view(p, p.tok0 + first + i);
                    from = w.lo < from ? w.lo : from;
                    to = w.hi > to ? w.hi : to;
                }
            for (int h = 0; h < 2; h++)
                mine[h] = live[h] && ((const tok_desc *)p.tok)[tk[h]].seq == sq;
        }
        if (to <= from)
            continue;
        const u32 b0 = from / 64, b1 = (to + 63) / 64;
        auto request = [&](u32 b) {
            const u32 s = b & 1, pos = b * 64 + (tid & 63);
            const bool is_v = tid >= 64, ok = pos >= from && pos < to;
            const u32 dst = ring + (s * 2 + is_v) * TILE + (tid & 63) * ROW, n = (is_v ? p.d_v : p.d_k) * 2;
            if (tid == 0) {
                u32 x0 = b * 64 > from ? b * 64 : from, x1 = b * 64 + 64 < to ? b * 64 + 64 : to;
                mbar_expect(bars + s * 8, (x1 - x0) * (p.d_k + p.d_v) * 2);
            }
            if (ok) {
                const u8 *blk = block_of(p, v, pos) + (is_v ? p.v_off : p.k_off);
                bulk_load_keep(dst,
                               blk + ((u64)(pos % p.block_size) * (is_v ? p.v_width : p.k_width) +
                                      kh * (is_v ? p.d_v : p.d_k)) * 2,
                               n, bars + s * 8);
            } else {
                for (u32 k = 0; k < n; k += 16)
                    asm volatile("st.shared.v4.u32 [%0],{%1,%1,%1,%1};" ::"r"(dst + k), "r"(0) : "memory");
                asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            }
        };
        request(b0);
        if (b0 + 1 < b1)
            request(b0 + 1);
        __syncthreads();
#pragma unroll 1
        for (u32 b = b0; b < b1; b++) {
            const u32 s = b & 1, kb = ring + s * 2 * TILE, vb = kb + TILE;
            mbar_wait(bars + s * 8, phase[s]);
            phase[s] ^= 1;
            float x[8][4];
#pragma unroll
            for (int n = 0; n < 8; n++) {
                x[n][0] = x[n][1] = x[n][2] = x[n][3] = 0;
#pragma unroll
                for (int i = 0; i < D / 32; i++) {
                    uint4 k = make_uint4(0, 0, 0, 0);
                    if (D == 64 || D == 128 || 32 * i + 8 * t < p.d_k)
                        k = lds128(kb + (8 * n + g) * ROW + (32 * i + 8 * t) * 2);
                    if (32 * i + 8 * t >= p.d_k)
                        k = make_uint4(0, 0, 0, 0);
                    mma_f16(x[n], qa[2 * i], k.x, k.y);
                    mma_f16(x[n], qa[2 * i + 1], k.z, k.w);
                }
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float mx = -INFINITY;
                const bool all = mine[h] && lo[h] <= b * 64 && hi[h] >= b * 64 + 64;
#pragma unroll
                for (int n = 0; n < 8; n++)
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        float y = x[n][2 * h + j] * sc;
                        if (p.softcap > 0)
                            y = p.softcap * tanhf(y / p.softcap) * LOG2E;
                        u32 pos = b * 64 + 8 * n + 2 * t + j;
                        if (!all && !(mine[h] && pos >= lo[h] && pos < hi[h]))
                            y = -INFINITY;
                        x[n][2 * h + j] = y;
                        mx = fmaxf(mx, y);
                    }
                mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 1));
                mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 2));
                const float nm = fmaxf(m[h], mx), off = nm == -INFINITY ? 0.0f : nm, c = ex2(m[h] - off);
                float sum = 0;
                m[h] = nm;
#pragma unroll
                for (int n = 0; n < 8; n++)
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        x[n][2 * h + j] = ex2(x[n][2 * h + j] - off);
                        sum += x[n][2 * h + j];
                    }
                sum += __shfl_xor_sync(~0u, sum, 1);
                sum += __shfl_xor_sync(~0u, sum, 2);
                l[h] = l[h] * c + sum;
#pragma unroll
                for (int i = 0; i < D / 8; i++) {
                    o[i][2 * h] *= c;
                    o[i][2 * h + 1] *= c;
                }
            }
#pragma unroll
            for (int kk = 0; kk < 4; kk++) {
                u32 pa[4] = {pack_h2_fast(x[2 * kk][0], x[2 * kk][1]),
                             pack_h2_fast(x[2 * kk][2], x[2 * kk][3]),
                             pack_h2_fast(x[2 * kk + 1][0], x[2 * kk + 1][1]),
                             pack_h2_fast(x[2 * kk + 1][2], x[2 * kk + 1][3])};
#pragma unroll
                for (int i = 0; i < D / 16; i++) {
                    u32 bv[4];
                    /* matrices: positions 0-7 and 8-15 of columns 16i.., then of 16i + 8.. */
                    ldmatrix4t(bv, vb + (16 * kk + (lane & 15)) * ROW + (16 * i + (lane >> 4) * 8) * 2);
                    if (16 * i < p.d_v) {
                        mma_f16(o[2 * i], pa, bv[0], bv[1]);
                        mma_f16(o[2 * i + 1], pa, bv[2], bv[3]);
                    }
                }
            }
            __syncthreads();
            if (b + 2 < b1)
                request(b + 2);
        }
        __syncthreads();
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (!live[h])
            continue;
        float L = l[h], f = 1.0f;
        if (p.sinks) {
            float s = ((const float *)p.sinks)[hd[h]] * LOG2E, nm = fmaxf(m[h], s);
            f = ex2(m[h] - nm);
            L = L * f + ex2(s - nm);
        }
        f = L > 0 ? f / L : 0.0f;
#pragma unroll
        for (int i = 0; i < D / 8; i++) {
            u32 d = 8 * i + 2 * t, col = hd[h] * p.d_v + d;
            if (d >= p.d_v)
                continue;
            float a = o[i][2 * h] * f, c = o[i][2 * h + 1] * f;
            if (p.out_f16)
                *(u32 *)((u16 *)p.out + (u64)tk[h] * p.ldo + ACT_POS(col)) = pack_h2(a, c);
            else
                *(float2 *)((float *)p.out + (u64)tk[h] * p.ldo + col) = make_float2(a, c);
        }
    }
    if (p.out_f16 && kh == 0)
        for (u32 i = 0; i < n_tok; i++)
            for (u32 c = p.n_head * p.d_v + tid; c < p.ldo; c += 128)
                ((u16 *)p.out)[(u64)(p.tok0 + first + i) * p.ldo + ACT_POS(c)] = 0;
}

KERNEL(128, 3) imp_attend_p64(const __grid_constant__ attend_args p) { attend_p<64>(p); }
KERNEL(128, 2) imp_attend_p128(const __grid_constant__ attend_args p) { attend_p<128>(p); }
KERNEL(128, 1) imp_attend_p256(const __grid_constant__ attend_args p) { attend_p<256>(p); }

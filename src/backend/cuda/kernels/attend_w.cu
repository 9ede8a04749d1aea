/* attend_w: attention of one sequence's rows of class P on Hopper's wgmma, K and V in blocks of a multiple of 64
 * positions.
 * Block = 128 rows = (128 / G tokens) x G query heads of one kv head: warpgroup 0 loads NPOS positions of K and of V at
 * a time by TMA (128-byte swizzle, three dimensions: columns, positions of a block, blocks), warpgroups 1 and 2 take 64
 * rows each, Q in shared memory. A warpgroup asks for S of the next positions, then for O += P V of these, and does the
 * softmax of the next while that runs; the two warpgroups take turns with the tensor cores, so that one's softmax is
 * under the other's products (as FlashAttention-3 does).
 * Positions come at absolute multiples of NPOS, which the head's width alone decides, and positions that a row does not
 * see leave it exactly as it was: its bytes depend neither on its neighbours nor on its chunk.
 * FLOP: 4 * rows * positions * d. Numerics: f16 products, f32 sums and softmax. */
#include "attend.cuh"
#include "tma.cuh"
#include "wgmma_attend.cuh"

struct attend_w_params {
    tensor_map k, v;
    attend_args a;
};

#ifdef HOPPER

#define STAGES_W 2
#define NOWHERE 0x7FFFFFFu /* a block past all blocks: TMA fills with zeros */

/* Positions that some of the tokens see, and those that all of them see; by a whole warp. */
struct span {
    u32 from, to, all_from, all_to;
};
DEV span tokens_span(const attend_args &p, u32 first, u32 n, u32 lane)
{
    span s = {~0u, 0, 0, ~0u};
    for (u32 i = lane; i < n; i += 32) {
        view w = token_view(p, first + i);
        s.from = w.lo < s.from ? w.lo : s.from;
        s.to = w.hi > s.to ? w.hi : s.to;
        s.all_from = w.lo > s.all_from ? w.lo : s.all_from;
        s.all_to = w.hi < s.all_to ? w.hi : s.all_to;
    }
    s.from = __reduce_min_sync(~0u, s.from);
    s.to = __reduce_max_sync(~0u, s.to);
    s.all_from = __reduce_max_sync(~0u, s.all_from);
    s.all_to = __reduce_min_sync(~0u, s.all_to);
    return s;
}

template <int D, int NPOS>
DEV void load_kv(const attend_w_params &pp, u32 ksm, u32 vsm, u32 bars, u32 kh, u32 first, const span &s)
{
    const attend_args &p = pp.a;
    constexpr u32 TILE = NPOS * D * 2;
    const u32 full_k = bars, full_v = bars + 32, empty_k = bars + 64, empty_v = bars + 96;
    const view v = token_view(p, first);
    const u32 b0 = s.from / NPOS, b1 = (s.to + NPOS - 1) / NPOS;
    for (u32 b = b0; b < b1; b++) {
        const u32 st = (b - b0) % STAGES_W, ph = (b - b0) / STAGES_W & 1 ^ 1;
#pragma unroll
        for (int is_v = 0; is_v < 2; is_v++) {
            const u32 full = (is_v ? full_v : full_k) + st * 8, dst = (is_v ? vsm : ksm) + st * TILE;
            mbar_wait_bounded((is_v ? empty_v : empty_k) + st * 8, ph);
            mbar_expect(full, TILE);
#pragma unroll
            for (u32 h = 0; h < NPOS / 64; h++) {
                const u32 pos = b * NPOS + h * 64;
                const bool seen = pos < s.to && pos + 64 > s.from; /* the sequence may have no block for it */
                const u32 blk = seen ? (u32)v.table[(i32)(pos / p.block_size) - v.base] : NOWHERE;
                for (u32 i = 0; i < D / 64; i++)
                    tma_3d(dst + i * NPOS * 128 + h * 8192, is_v ? &pp.v : &pp.k,
                           kh * (is_v ? p.d_v : p.d_k) + 64 * i, pos % p.block_size, blk, full);
            }
        }
    }
}

/* The rows of one thread, g and g + 8 of its warp's 16. */
struct rows2 {
    u32 lo[2], hi[2];
    float m[2], l[2], c[2]; /* greatest score, sum, what the last step scales O by */
};

/* Online softmax of a block of scores; x becomes the weights. MASK: some row may not see all of it, or there is a
 * softcap. */
template <int NPOS, bool MASK> DEV void softmax(const attend_args &p, rows2 &r, float *x, u32 b, u32 t, float sc)
{
    if (MASK && p.softcap > 0)
#pragma unroll
        for (int n = 0; n < NPOS / 2; n++)
            x[n] = p.softcap * tanhf(x[n] * p.scale / p.softcap);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float mx = -INFINITY;
#pragma unroll
        for (int n = 0; n < NPOS / 8; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float &y = x[4 * n + 2 * h + j];
                const u32 pos = b * NPOS + 8 * n + 2 * t + j;
                if (MASK)
                    y = pos >= r.lo[h] && pos < r.hi[h] ? y : -INFINITY;
                mx = fmaxf(mx, y);
            }
        mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 1));
        mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 2));
        const float nm = fmaxf(r.m[h], mx), seen = nm == -INFINITY ? 0.0f : nm, off = seen * sc;
        r.c[h] = ex2((r.m[h] - seen) * sc); /* exactly 1 when nothing greater came */
        r.m[h] = nm;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < NPOS / 8; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float &y = x[4 * n + 2 * h + j];
                y = ex2(fmaf(y, sc, -off));
                sum += y;
            }
        r.l[h] = r.l[h] * r.c[h] + sum; /* a lane's own columns; lanes are added at the end */
    }
}

template <int D, int NPOS> DEV void attend_w(const attend_w_params &pp)
{
    extern __shared__ __align__(1024) u8 sm[];
    const attend_args &p = pp.a;
    constexpr u32 TILE = NPOS * D * 2, PANEL = NPOS * 128;
    constexpr int PV = D; /* columns of one product of P and V */
    const u32 qsm = (smem_addr(sm) + 1023) & ~1023u, ksm = qsm + 128 * D * 2, vsm = ksm + STAGES_W * TILE,
              bars = vsm + STAGES_W * TILE;
    const u32 full_k = bars, full_v = bars + 32, empty_k = bars + 64, empty_v = bars + 96;
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
    const u32 G = p.n_head / p.n_kv_head, per = 128 / G, kh = blockIdx.y, first = (gridDim.x - 1 - blockIdx.x) * per;
    const u32 n_tok = p.n_tok - first < per ? p.n_tok - first : per;
    if (tid == 0) {
        for (u32 i = 0; i < STAGES_W; i++) {
            mbar_init(full_k + i * 8, 1), mbar_init(full_v + i * 8, 1);
            mbar_init(empty_k + i * 8, 8), mbar_init(empty_v + i * 8, 8);
        }
        mbar_init_fence();
    }
    __syncthreads();
    pdl_launch();
    pdl_wait();
    const span all = tokens_span(p, p.tok0 + first, n_tok, lane);
    const u32 b0 = all.from / NPOS, nb = all.to > all.from ? (all.to + NPOS - 1) / NPOS - b0 : 0;
    if (warp < 4) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (tid == 0 && nb)
            load_kv<D, NPOS>(pp, ksm, vsm, bars, kh, p.tok0 + first, all);
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const u32 wg = (warp >> 2) - 1;
    /* Q to shared memory, in the swizzle that the products expect: 8 values a thread at a time */
#pragma unroll 4
    for (u32 i = tid & 127; i < 64 * D / 8; i += 128) {
        const u32 r = wg * 64 + i / (D / 8), ch = i % (D / 8), d = ch * 8;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (r < n_tok * G && d < p.d_k) {
            const float4 *q = (const float4 *)((const float *)p.q + (u64)(p.tok0 + first + r / G) * p.ldq +
                                               (u64)(kh * G + r % G) * p.d_k + d);
            float4 a = q[0], c = q[1];
            v = make_uint4(pack_h2(a.x, a.y), pack_h2(a.z, a.w), pack_h2(c.x, c.y), pack_h2(c.z, c.w));
        }
        asm volatile("st.shared.v4.u32 [%0],{%1,%2,%3,%4};"
                     ::"r"(qsm + (ch >> 3) * 16384 + r * 128 + (((ch & 7) ^ (r & 7)) << 4)),
                       "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
    }
    proxy_fence();
    rows2 r;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const u32 i = (warp - 4) * 16 + g + 8 * h;
        const bool live = i < n_tok * G;
        const view w = token_view(p, p.tok0 + first + (live ? i / G : 0));
        r.lo[h] = live ? w.lo : 0;
        r.hi[h] = live ? w.hi : 0;
        r.m[h] = -INFINITY, r.l[h] = 0, r.c[h] = 1;
    }
    /* the same in all warps of a warpgroup: positions that all of its rows see need no mask */
    const u32 w0 = wg * 64 / G, w1 = (wg * 64 + 63) / G + 1 < n_tok ? (wg * 64 + 63) / G + 1 : n_tok;
    const span mine = tokens_span(p, p.tok0 + first + w0, w1 > w0 ? w1 - w0 : 0, lane);
    auto plain = [&](u32 b) { return !(p.softcap > 0) && b * NPOS >= mine.all_from && (b + 1) * NPOS <= mine.all_to; };
    bar_sync(1 + wg, 128); /* Q is there */
    float o[D / 2], x[NPOS / 2];
    u32 pa[NPOS / 16][4];
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        o[i] = 0;
    const float sc = p.softcap > 0 ? LOG2E : p.scale * LOG2E;
    const u64 qd = wgmma_desc(qsm + wg * 8192);
    auto ask_scores = [&](u32 s) {
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            wgmma_qk<NPOS>(x, qd + (i / 4) * 1024 + 2 * (i % 4),
                           wgmma_desc(ksm + s * TILE + (i / 4) * PANEL) + 2 * (i % 4), i == 0);
        wgmma_commit();
    };
    auto ask_output = [&](u32 s) {
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                o[4 * n + 2 * h] *= r.c[h];
                o[4 * n + 2 * h + 1] *= r.c[h];
            }
        mbar_wait_bounded(full_v + s % STAGES_W * 8, s / STAGES_W & 1);
#pragma unroll
        for (int k = 0; k < NPOS / 16; k++)
            asm volatile("" : "+r"(pa[k][0]), "+r"(pa[k][1]), "+r"(pa[k][2]), "+r"(pa[k][3])::"memory");
        pin<D / 2>(o);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < NPOS / 16; k++)
#pragma unroll
            for (int i = 0; i < D / PV; i++)
                wgmma_pv<PV>(o + i * PV / 2, pa[k],
                             wgmma_desc_panels(vsm + s % STAGES_W * TILE + i * (PV / 64) * PANEL, PANEL) + 128 * k);
        wgmma_commit();
    };
    auto weights_to_f16 = [&]() {
#pragma unroll
        for (int k = 0; k < NPOS / 16; k++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                pa[k][h] = pack_h2_fast(x[8 * k + 2 * h], x[8 * k + 2 * h + 1]);
                pa[k][2 + h] = pack_h2_fast(x[8 * k + 4 + 2 * h], x[8 * k + 4 + 2 * h + 1]);
            }
    };
    if (nb) {
        mbar_wait_bounded(full_k, 0);
        ask_scores(0);
        wgmma_wait<0>();
        pin<NPOS / 2>(x);
        if (lane == 0)
            mbar_arrive(empty_k);
        if (plain(b0))
            softmax<NPOS, false>(p, r, x, b0, t, sc);
        else
            softmax<NPOS, true>(p, r, x, b0, t, sc);
        weights_to_f16();
        if (wg == 1 && nb > 1)
            bar_arrive(3, 256); /* warpgroup 0 begins */
    }
    /* block b's O while block b + 1's scores become weights */
#define STEP(MASK)                                                                                                \
    {                                                                                                             \
        mbar_wait_bounded(full_k + (i + 1) % STAGES_W * 8, (i + 1) / STAGES_W & 1);                               \
        bar_sync(3 + wg, 256); /* my turn with the tensor cores */                                                \
        ask_scores((i + 1) % STAGES_W);                                                                           \
        ask_output(i);                                                                                            \
        if (wg == 0 || i + 2 < nb)                                                                                \
            bar_arrive(4 - wg, 256);                                                                              \
        wgmma_wait<1>();                                                                                          \
        pin<NPOS / 2>(x);                                                                                         \
        if (lane == 0)                                                                                            \
            mbar_arrive(empty_k + (i + 1) % STAGES_W * 8);                                                        \
        softmax<NPOS, MASK>(p, r, x, b0 + i + 1, t, sc);                                                          \
        pin<NPOS / 2>(x); /* the compiler would move half of it behind the wait */                                \
        wgmma_wait<0>();                                                                                          \
        pin<D / 2>(o);                                                                                            \
        if (lane == 0)                                                                                            \
            mbar_arrive(empty_v + i % STAGES_W * 8);                                                              \
        weights_to_f16();                                                                                         \
    }
#pragma unroll 1
    for (u32 i = 0; i + 1 < nb; i++) {
        if (plain(b0 + i + 1))
            STEP(false)
        else
            STEP(true)
    }
    if (nb) {
        ask_output(nb - 1);
        wgmma_wait<0>();
        pin<D / 2>(o);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const u32 i = (warp - 4) * 16 + g + 8 * h, tok = p.tok0 + first + i / G, head = kh * G + i % G;
        float L = r.l[h], f = 1.0f;
        L += __shfl_xor_sync(~0u, L, 1);
        L += __shfl_xor_sync(~0u, L, 2);
        if (i >= n_tok * G)
            continue;
        if (p.sinks) {
            const float s = ((const float *)p.sinks)[head] * LOG2E, mm = r.m[h] * sc, nm = fmaxf(mm, s);
            f = ex2(mm - nm);
            L = L * f + ex2(s - nm);
        }
        f = L > 0 ? f / L : 0.0f;
        if (p.out_f16) {
            u16 *out = (u16 *)p.out + (u64)tok * p.ldo;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                const u32 d = 8 * n + 2 * t, col = head * p.d_v + d;
                if (d < p.d_v)
                    *(u32 *)(out + ACT_POS(col)) = pack_h2(o[4 * n + 2 * h] * f, o[4 * n + 2 * h + 1] * f);
            }
        } else {
            float *out = (float *)p.out + (u64)tok * p.ldo + head * p.d_v + 2 * t;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                if (8 * n + 2 * t < p.d_v)
                    *(float2 *)(out + 8 * n) = make_float2(o[4 * n + 2 * h] * f, o[4 * n + 2 * h + 1] * f);
        }
    }
    if (p.out_f16 && kh == 0)
        for (u32 i = 0; i < n_tok; i++)
            for (u32 c = p.n_head * p.d_v + tid - 128; c < p.ldo; c += 256)
                ((u16 *)p.out)[(u64)(p.tok0 + first + i) * p.ldo + ACT_POS(c)] = 0;
}

KERNEL(384, 1) imp_attend_w64(const __grid_constant__ attend_w_params p) { attend_w<64, 128>(p); }
KERNEL(384, 1) imp_attend_w128(const __grid_constant__ attend_w_params p) { attend_w<128, 128>(p); }
KERNEL(384, 1) imp_attend_w256(const __grid_constant__ attend_w_params p) { attend_w<256, 64>(p); }
#endif

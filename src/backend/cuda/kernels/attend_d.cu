/* attend_d: flash decoding over paged f16 K and V, for rows of class D.
 * Block = (splits of positions, up to 8 query heads of a kv head, token): 4 warps that take 32 positions at a time, those at
 * 32 * warp + 128 * i. Positions, then columns of V, are the rows of m16n8k16 and the heads its 8 columns, so that no row is
 * wasted. A warp brings its own K and V by TMA, in boxes of 64 columns, swizzled by 128 bytes so that ldmatrix meets no bank
 * twice: a place of 32 positions for K and one for V, each asked for anew as soon as it is read. What earlier steps stored is
 * asked for before the previous kernel is done. A block takes the splits that begin in its span of positions: one when there
 * are few tokens, all when there are many.
 * imp_attend_q*: the same after imp_qkv's work, done by its own blocks: of all positions only the newest is not in memory yet, and
 * its K and V go straight to where a copy would have brought them.
 * Warps, then splits, are combined in a fixed order; splits lie at absolute positions (SPLIT_OF), so a row's bytes depend on
 * nothing but its own positions. The blocks of a token and kv head are a cluster that combines through distributed shared memory
 * (up to 8 splits), or the last of them to finish combines what all left in memory: no extra launch, the same sums.
 * Bytes: 2 * positions * n_kv_head * d * 2; memory bound. Numerics: f16 products, f32 sums and softmax. */
#include "attend.cuh"
#include "heads.cuh"
#include "tma.cuh"

#define WARPS 4
#define PIECE 32          /* positions a warp takes at a time */
#define STRIDE 128        /* from a warp's piece to its next one */
#define NOWHERE 0x7FFFFFFu /* a block past all blocks: TMA fills with zeros */

/* Maps: f16 {columns, positions of a block, 64s of columns, kv heads, blocks}, a box has 64 columns of 32 >> box_shift positions,
 * and all 64s of a head where those 32 are one run and the head is 64s; else a box takes one 64 of the head's columns. */
struct attend_params {
    tensor_map k, v;
    attend_args a;
};
struct attend_q_params {
    tensor_map k, v;
    attend_args a;
    newest_args x;
};

/* Shared memory: [4 warps][K, V] places | barriers | newest K and V | angles | the warps' sums, before them the queries |
 * what a cluster's blocks send each other. run.c knows the sizes (attend_smem). */
template <int D> struct layout {
    static constexpr u32 UNIT = D * PIECE * 2, BOX = PIECE * 128; /* a place; 64 columns of it */
    static constexpr u32 BARS = WARPS * 2 * UNIT, MAIL = BARS + 64, FLAG = BARS + 72, FRESH = BARS + 128;
    static constexpr u32 ANGLES = FRESH + 4 * D, SUMS = ANGLES + 8 * D;
    static constexpr u32 LD = D + 4;   /* a head's sums: D columns, largest score, sum of weights; f32 */
    static constexpr u32 QLD = D + 8;  /* a head's query; f16 */
};

/* ---- the newest token: norms, rotation, K and V, as imp_qkv does them --------------------------------------------- */
/* Angles for q, then k, [2][D / 2], a thread each; they depend on no kernel before. */
template <int D> struct angles {
    static constexpr int N = (D + WARPS * 32 - 1) / (WARPS * 32);
    float freq[N];
    __device__ __forceinline__ static u32 place(int j) { return threadIdx.x + WARPS * 32 * j; }
    __device__ __forceinline__ static u32 is_k(int j) { return place(j) >= D / 2; }
    __device__ __forceinline__ static u32 column(int j) { return place(j) - (is_k(j) ? D / 2 : 0); }
    __device__ __forceinline__ static bool any(const newest_args &x, int j) { return place(j) < D && column(j) < x.rope[is_k(j)].rot / 2; }
    __device__ __forceinline__ void load(const newest_args &x)
    {
#pragma unroll
        for (int j = 0; j < N; j++)
            freq[j] = any(x, j) ? ((const float *)x.rope[is_k(j)].freq)[column(j)] : 0.0f;
    }
    __device__ __forceinline__ void make(const newest_args &x, const tok_desc &d, float2 *angle) const
    {
#pragma unroll 1
        for (int j = 0; j < N; j++)
            if (any(x, j))
                rope_angle(x.rope[is_k(j)], d, column(j), j == 0 ? freq[0] : freq[N - 1], angle[place(j)].x, angle[place(j)].y);
    }
};

/* Two heads of a warp at a time, j0 and j0 + 4, so that one waits for memory and sums while the other does: queries (below
 * G), K (G) and V (G + 1). All but the values is at hand before the previous kernel is done. */
template <int D> struct two_heads {
    static constexpr int N = D / 32;
    const float *src[2]; /* at this lane */
    u32 n[2], norm[2];   /* columns */
    float eps[2], part[2], plus[2], w[2][N], v[2][N]; /* part: 1 / n */

    __device__ __forceinline__ void begin(const newest_args &x, u32 tok, u32 kh, u32 h0, u32 G, u32 j0, u32 lane)
    {
#pragma unroll
        for (u32 u = 0; u < 2; u++) {
            const u32 j = j0 + WARPS * u;
            const head_kind &kind = x.kind[j < G ? 0 : j == G ? 1 : 2];
            n[u] = kind.n, norm[u] = kind.norm, eps[u] = kind.eps, part[u] = kind.part, plus[u] = kind.plus;
            src[u] = (const float *)kind.src + (u64)tok * kind.ld + (j < G ? h0 + j : kh) * kind.n + lane;
            const float *from = (const float *)kind.w + lane;
#pragma unroll
            for (u32 i = 0; i < N; i++)
                w[u][i] = kind.w && j <= G + 1 && lane + 32 * i < kind.n ? from[32 * i] : 1.0f - kind.plus;
        }
    }
    /* After begin; the compiler is not to put it off until after the wait for the previous kernel. */
    __device__ __forceinline__ void hold(void)
    {
#pragma unroll
        for (u32 u = 0; u < 2; u++)
            asm volatile("" : "+l"(src[u]), "+r"(n[u]), "+f"(eps[u]), "+f"(part[u]));
#pragma unroll
        for (u32 u = 0; u < 2; u++)
#pragma unroll
            for (u32 i = 0; i < N; i++) {
                w[u][i] += plus[u];
                asm volatile("" : "+f"(w[u][i]));
            }
    }
    __device__ __forceinline__ void load(u32 j0, u32 n_head, u32 lane)
    {
#pragma unroll
        for (u32 u = 0; u < 2; u++)
#pragma unroll
            for (u32 i = 0; i < N; i++)
                v[u][i] = j0 + WARPS * u < n_head && lane + 32 * i < n[u] ? src[u][32 * i] : 0.0f;
    }
    /* The sums and products of head_norm. */
    __device__ __forceinline__ void normalise(void)
    {
        float s[2] = {0, 0};
#pragma unroll
        for (u32 i = 0; i < N; i++)
#pragma unroll
            for (u32 u = 0; u < 2; u++)
                s[u] = fmaf(v[u][i], v[u][i], s[u]);
#pragma unroll
        for (int o = 16; o; o >>= 1)
#pragma unroll
            for (u32 u = 0; u < 2; u++)
                s[u] += __shfl_xor_sync(~0u, s[u], o);
#pragma unroll
        for (u32 u = 0; u < 2; u++) {
            const float scale = rsqrtf(fmaf(s[u], part[u], eps[u]));
#pragma unroll
            for (u32 i = 0; i < N; i++)
                v[u][i] = norm[u] ? v[u][i] * scale * w[u][i] : v[u][i];
        }
    }
    /* head_rope's. scratch: D floats of the warp, for rotations whose two columns are not one lane's. */
    __device__ __forceinline__ void rotate(const rope_args &r, u32 u, const float2 *angle, float *scratch, u32 lane)
    {
        if (__builtin_expect(r.rot == D && n[u] == D && !r.interleaved, 1)) {
#pragma unroll
            for (u32 i = 0; i < N / 2; i++) {
                const float2 c = angle[lane + 32 * i];
                const float a = v[u][i], b = v[u][i + N / 2];
                v[u][i] = fmaf(a, c.x, -__fmul_rn(b, c.y));
                v[u][i + N / 2] = fmaf(a, c.y, __fmul_rn(b, c.x));
            }
            return;
        }
        __syncwarp();
#pragma unroll
        for (u32 i = 0; i < N; i++)
            scratch[lane + 32 * i] = v[u][i];
        __syncwarp();
#pragma unroll 1
        for (u32 i = lane; i < r.rot / 2; i += 32) {
            const u32 at = r.rot_off + (r.interleaved ? 2 * i : i), to = r.interleaved ? at + 1 : at + r.rot / 2;
            const float2 c = angle[i];
            const float a = scratch[at], b = scratch[to];
            scratch[at] = fmaf(a, c.x, -__fmul_rn(b, c.y));
            scratch[to] = fmaf(a, c.y, __fmul_rn(b, c.x));
        }
        __syncwarp();
#pragma unroll
        for (u32 i = 0; i < N; i++)
            v[u][i] = scratch[lane + 32 * i];
    }
};

/* What the blocks of a kv head do for their token: queries to q [G][QLD]; where has_new, K and V to fresh [2][D], and to
 * the cache rows at k_row and v_row unless those are 0. two: has begun with the warp's first heads. Not real: a dry pass. */
template <int D>
DEV void new_token(const newest_args &x, u32 tok, u32 kh, u32 h0, u32 G, bool has_new, bool real, u16 *k_row, u16 *v_row, two_heads<D> &two,
                   const float2 *angle, float *scratch, u16 *q, u16 *fresh, u32 warp, u32 lane)
{
    const u32 n = G + (has_new ? 2 : 0);
#pragma unroll 1
    for (u32 j0 = warp; j0 < n;) {
        two.load(j0, real ? n : 0, lane);
        two.normalise();
#pragma unroll
        for (u32 u = 0; u < 2; u++) {
            const u32 j = j0 + WARPS * u;
            if (j >= n)
                continue;
            if (j <= G && x.rope[j == G].rot)
                two.rotate(x.rope[j == G], u, angle + (j == G ? D / 2 : 0), scratch, lane);
            u16 *to = (j < G ? q + j * layout<D>::QLD : fresh + (j - G) * D) + lane, *row = j < G ? 0 : j == G ? k_row : v_row;
#pragma unroll
            for (u32 i = 0; i < D / 32; i++) {
                const u16 h = f2h(two.v[u][i]);
                to[32 * i] = h;
                if (row && real && lane + 32 * i < two.n[u])
                    row[lane + 32 * i] = h;
            }
        }
        j0 += real ? 2 * WARPS : n;
        if (j0 < n) {
            two.begin(x, tok, kh, h0, G, j0, lane);
            two.hold();
        }
    }
}

/* Queries that lie in memory, as f16. */
template <int D> DEV void old_queries(const attend_args &p, u32 tok, u32 h0, u32 G, u16 *q)
{
    for (u32 i = threadIdx.x; i < G * (D / 4); i += WARPS * 32) {
        const u32 head = i / (D / 4), d = i % (D / 4) * 4;
        float4 a = make_float4(0, 0, 0, 0);
        if (d < p.d_k)
            a = *(const float4 *)((const float *)p.q + (u64)tok * p.ldq + (h0 + head) * p.d_k + d);
        *(uint2 *)(q + head * layout<D>::QLD + d) = make_uint2(pack_h2(a.x, a.y), pack_h2(a.z, a.w));
    }
}

/* ---- a warp's copies ---------------------------------------------------------------------------------------------- */
template <int D> struct copies {
    const tensor_map *k, *v;
    u32 at, bars;      /* the place of K, that of V follows; their barriers */
    u32 kh, lane, n;   /* n: pieces asked for since the lanes looked up blocks */
    u32 block, in;     /* the lane's: a block of the cache and the position in it */

    /* Each lane looks up a copy's block: a trip to memory for 32 copies, long before they need it. */
    __device__ __forceinline__ void look_up(const attend_args &p, const view &w, u32 pos)
    {
        const u32 rows = PIECE >> p.box_shift;
        const u32 q = pos + (lane >> p.box_shift) * STRIDE + (lane & ((1u << p.box_shift) - 1)) * rows, b = q >> p.block_shift;
        in = q & ((1u << p.block_shift) - 1);
        block = q < w.hi && q + rows > w.lo ? (u32)w.table[(i32)b - w.base] : NOWHERE;
        n = 0;
    }
    /* K or V of piece n - 1. */
    __device__ __forceinline__ void ask(const attend_args &p, bool is_v)
    {
        const u32 bar = bars + (is_v ? 8 : 0), dst = at + (is_v ? layout<D>::UNIT : 0), boxes = 1u << p.box_shift;
        if (lane == 0)
            mbar_expect(bar, layout<D>::UNIT);
#pragma unroll 1
        for (u32 j = 0; j < boxes; j++) {
            const u32 from = ((n - 1) << p.box_shift) + j;
            const u32 b = __shfl_sync(~0u, block, from), i = __shfl_sync(~0u, in, from);
            if (lane == 0)
#pragma unroll 1
                for (u32 c = 0; c < p.box_cols; c++)
                    tma_5d(dst + c * layout<D>::BOX + j * (layout<D>::BOX >> p.box_shift), is_v ? v : k, 64 * c, i, 0, kh, b, bar);
        }
    }
    __device__ __forceinline__ void ask_k(const attend_args &p, const view &w, u32 pos) /* of the next piece, at pos */
    {
        if (n << p.box_shift >= 32)
            look_up(p, w, pos);
        n++;
        ask(p, false);
    }
};

/* ---- a piece ------------------------------------------------------------------------------------------------------ */
template <int D> struct sums { /* of columns 2t and 2t + 1, which are heads; o: rows of V's columns 16i + g and + 8 */
    float o[D / 16][4], m[2], l[2]; /* l: this lane's positions only */
};

/* The newest position's K or V over what the copy brought: row of the place at dst. */
template <int D> DEV void patch(u32 dst, u32 row, u32 fresh, u32 lane)
{
    if (lane < D / 8)
        sts128(dst + (lane >> 3) * layout<D>::BOX + row * 128 + ((lane ^ row) & 7) * 16, lds128(fresh + lane * 16));
}

/* S = K q^T: s[mt]: positions 16 mt + g and + 8, heads 2t and 2t + 1. k: the place, with this lane's row and column. */
template <int D> DEV void scores(u32 k, const u32 (*q)[2], float (*s)[4])
{
#pragma unroll
    for (int mt = 0; mt < 2; mt++)
        s[mt][0] = s[mt][1] = s[mt][2] = s[mt][3] = 0;
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int mt = 0; mt < 2; mt++) {
            u32 a[4];
            ldmatrix4(a, (k ^ (i & 3) << 5) + (i >> 2) * layout<D>::BOX + mt * 2048);
            mma_f16(s[mt], a, q[i][0], q[i][1]);
        }
}

/* Softmax over the positions so far; weights of these as the other product wants them: b[mt]. Somebody is visible. */
template <int D> DEV void weigh(const attend_args &p, const view &v, u32 pos0, bool whole, u32 g, float (*s)[4], sums<D> &a, u32 (*b)[2])
{
    float sc = p.scale * LOG2E;
    if (__builtin_expect(p.softcap > 0, 0)) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            s[i >> 2][i & 3] = p.softcap * tanhf(s[i >> 2][i & 3] * p.scale / p.softcap);
        sc = LOG2E;
    }
    if (!whole)
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const u32 pos = pos0 + 16 * (i >> 2) + 8 * (i >> 1 & 1) + g;
            s[i >> 2][i & 3] = pos >= v.lo && pos < v.hi ? s[i >> 2][i & 3] : -INFINITY;
        }
    float mx[2], c[2];
#pragma unroll
    for (int h = 0; h < 2; h++)
        mx[h] = fmaxf(fmaxf(s[0][h], s[0][2 + h]), fmaxf(s[1][h], s[1][2 + h]));
#pragma unroll
    for (int o = 4; o < 32; o <<= 1)
#pragma unroll
        for (int h = 0; h < 2; h++)
            mx[h] = fmaxf(mx[h], __shfl_xor_sync(~0u, mx[h], o));
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float m = fmaxf(a.m[h], mx[h] * sc);
        c[h] = ex2(a.m[h] - m);
        a.m[h] = m;
#pragma unroll
        for (int mt = 0; mt < 2; mt++) {
            s[mt][h] = ex2(fmaf(s[mt][h], sc, -m));
            s[mt][2 + h] = ex2(fmaf(s[mt][2 + h], sc, -m));
        }
        a.l[h] = fmaf(a.l[h], c[h], (s[0][h] + s[0][2 + h]) + (s[1][h] + s[1][2 + h]));
    }
#pragma unroll
    for (int mt = 0; mt < 2; mt++) {
        b[mt][0] = movmatrix(pack_h2_fast(s[mt][0], s[mt][1]));
        b[mt][1] = movmatrix(pack_h2_fast(s[mt][2], s[mt][3]));
    }
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        a.o[i][0] *= c[0], a.o[i][2] *= c[0];
        a.o[i][1] *= c[1], a.o[i][3] *= c[1];
    }
}

/* O += V^T P^T. v: as k for scores, but rows and columns change places. */
template <int D> DEV void add_values(u32 v, const u32 (*b)[2], sums<D> &a)
{
#pragma unroll
    for (int mt = 0; mt < 2; mt++)
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            u32 w[4];
            ldmatrix4t(w, (v ^ (i & 3) << 5) + (i >> 2) * layout<D>::BOX + mt * 2048);
            mma_f16(a.o[i], w, b[mt][0], b[mt][1]);
        }
}

/* ---- combining ---------------------------------------------------------------------------------------------------- */
DEV void add_scaled(float4 &o, float4 a, float c)
{
    o.x = fmaf(a.x, c, o.x), o.y = fmaf(a.y, c, o.y);
    o.z = fmaf(a.z, c, o.z), o.w = fmaf(a.w, c, o.w);
}
/* Four columns of a token's output, divided by the sum of their weights. */
DEV void store4(const attend_args &p, u32 tok, u32 col, float4 o, float sum)
{
    const float inv = 1.0f / sum;
    o = make_float4(o.x * inv, o.y * inv, o.z * inv, o.w * inv);
    if (p.out_f16) {
        u16 *dst = (u16 *)p.out + (u64)tok * p.ldo;
        *(u32 *)(dst + ACT_POS(col)) = pack_h2(o.x, o.y);
        *(u32 *)(dst + ACT_POS(col + 2)) = pack_h2(o.z, o.w);
    } else {
        float *dst = (float *)p.out + (u64)tok * p.ldo + col;
        dst[0] = o.x, dst[1] = o.y, dst[2] = o.z, dst[3] = o.w;
    }
}
DEV float sink_of(const attend_args &p, u32 head) { return p.sinks ? ((const float *)p.sinks)[head] * LOG2E : -INFINITY; }

/* A warp's sums of a split to its place [G][LD]. */
template <int D> DEV void leave_sums(sums<D> &a, u32 G, u32 g, u32 t, float *mine)
{
#pragma unroll
    for (int o = 4; o < 32; o <<= 1)
#pragma unroll
        for (int h = 0; h < 2; h++)
            a.l[h] += __shfl_xor_sync(~0u, a.l[h], o);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (2 * t + h >= G)
            continue;
        float *r = mine + (2 * t + h) * layout<D>::LD;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            r[16 * i + g] = a.o[i][h];
            r[16 * i + g + 8] = a.o[i][2 + h];
        }
        if (g == 0)
            *(float2 *)(r + D) = make_float2(a.m[h], a.l[h]);
    }
}

/* Four columns of a head from the warps, in order. */
template <int D> DEV float4 add_warps(const float *all, u32 G, u32 head, u32 d, float &M, float &L)
{
    float2 ml[WARPS];
    float4 o = make_float4(0, 0, 0, 0);
    M = -INFINITY, L = 0;
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) {
        ml[w] = *(const float2 *)(all + (w * G + head) * layout<D>::LD + D);
        M = fmaxf(M, ml[w].x);
    }
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) {
        const float c = ml[w].x == -INFINITY ? 0.0f : ex2(ml[w].x - M);
        L = fmaf(ml[w].y, c, L);
        add_scaled(o, *(const float4 *)(all + (w * G + head) * layout<D>::LD + d), c);
    }
    return o;
}

/* A block of a cluster adds its share of the columns: all [split][1 << share] float4 and ml [split][8] have arrived.
 * The sum of weights is last_block's: a tree over splits as over the lanes of a warp. */
template <int D>
DEV void combine_share(const attend_args &p, u32 tok, u32 h0, u32 G, u32 n_part, bool real, const float4 *all, const float2 *ml)
{
    const u32 item = (blockIdx.x << p.share) + threadIdx.x, head = item / (D / 4), d = item % (D / 4) * 4;
    if (threadIdx.x >> p.share || head >= G || d >= p.d_v)
        return;
    float m[8], l[8];
    const float sink = sink_of(p, h0 + head);
    float M = sink;
#pragma unroll
    for (u32 s = 0; s < 8; s++) {
        const float2 x = s < n_part ? ml[s * 8 + head] : make_float2(-INFINITY, 0);
        m[s] = x.x, l[s] = x.y;
        M = fmaxf(M, x.x);
    }
#pragma unroll
    for (u32 s = 0; s < 8; s++) {
        m[s] = ex2(m[s] - M);
        l[s] *= m[s];
    }
    float L = ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
    if (p.sinks)
        L += ex2(sink - M);
    float4 o = make_float4(0, 0, 0, 0);
#pragma unroll
    for (u32 s = 0; s < 8; s++)
        if (s < n_part)
            add_scaled(o, all[(s << p.share) + threadIdx.x], m[s]);
    if (real)
        store4(p, tok, (h0 + head) * p.d_v + d, o, L);
}

/* The last block of a token and its heads: weights of the splits first, then the sums in order. part: of the first head;
 * tot: [8] in shared memory. */
template <int D> DEV void last_block(const attend_args &p, u32 tok, u32 h0, u32 G, u32 n_part, const float *part, float2 *tot)
{
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    const u64 part_head = (u64)p.n_split * PART_LD(D);
    constexpr u32 AT_ONCE = 16; /* trips to L2 */
    float4 x[AT_ONCE];
    float m[AT_ONCE];
    auto fetch = [&](const float *r, u32 d, u32 s) {
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) {
            const float *q = r + (u64)(s + j) * PART_LD(D);
            m[j] = s + j < n_part ? __ldcg(q + D) : -INFINITY;
            x[j] = s + j < n_part ? __ldcg((const float4 *)(q + d)) : make_float4(0, 0, 0, 0);
        }
    };
    const u32 n = G * (D / 4);
    if (tid < n)
        fetch(part + tid / (D / 4) * part_head, tid % (D / 4) * 4, 0);
    for (u32 head = warp; head < G; head += WARPS) {
        const float *r = part + head * part_head;
        const float sink = sink_of(p, h0 + head);
        float M = -INFINITY, L = 0;
        for (u32 s = lane; s < n_part; s += 32) {
            const float2 ml = __ldcg((const float2 *)(r + (u64)s * PART_LD(D) + D));
            const float most = fmaxf(M, ml.x);
            L = fmaf(L, ex2(M - most), ml.y * ex2(ml.x - most));
            M = most;
        }
        const float most = fmaxf(warp_max(M), sink);
        L = warp_sum(L * ex2(M - most));
        if (p.sinks)
            L += ex2(sink - most);
        if (lane == 0)
            tot[head] = make_float2(most, L);
    }
    __syncthreads();
    for (u32 i = tid; i < n; i += WARPS * 32) {
        const u32 head = i / (D / 4), d = i % (D / 4) * 4;
        const float2 t = tot[head];
        float4 o = make_float4(0, 0, 0, 0);
        for (u32 s = 0; s < n_part; s += AT_ONCE) {
            if (s || i != tid)
                fetch(part + head * part_head, d, s);
#pragma unroll
            for (u32 j = 0; j < AT_ONCE; j++)
                if (s + j < n_part)
                    add_scaled(o, x[j], ex2(m[j] - t.x));
        }
        if (d < p.d_v)
            store4(p, tok, (h0 + head) * p.d_v + d, o, t.y);
    }
}

/* The first split that begins at pos or after it. */
DEV u32 split_from(u32 pos)
{
    const u32 s = SPLIT_OF(pos);
    return SPLIT_BEGIN(s) < pos ? s + 1 : s;
}

/* A block's work. What takes `real` runs once dry where that costs nothing (p.dry): all blocks have their place at once and
 * would only wait for the previous kernel, and a launch this short is mostly instructions and parameters that come for the
 * first time. The dry pass reads whatever lies in shared memory and leaves nothing but rubbish there. */
template <int D, bool QKV> struct attention {
    typedef layout<D> at;
    const attend_args &p;
    u8 *sm;
    u32 tid, warp, lane, kh, sub, tok, h0, G; /* query heads [h0, h0 + G) of kv head kh */
    view v;
    u32 newest, first, n_part, sp0, sp1;      /* the token's position, its first split and how many; splits [sp0, sp1) are the block's */
    u32 pos, end, phase;                      /* the warp's next piece, where the block's positions end, the copies' parity */
    copies<D> in;
    two_heads<D> two;
    u16 *k_row, *v_row;                       /* where the newest K and V go in the cache, 0: another block stores them */
    u32 qf[D / 16][2];
    sums<D> a;

    __device__ __forceinline__ float *warps() const { return (float *)(sm + at::SUMS); }
    __device__ __forceinline__ u16 *fresh() const { return (u16 *)(sm + at::FRESH); }
    __device__ __forceinline__ u32 mail() const { return smem_addr(sm) + at::MAIL; }
    __device__ __forceinline__ bool has_new() const { return QKV && newest >= SPLIT_BEGIN(sp0) && newest < end; }

    /* The token's tables and the warp's first copies. False: the block has nothing to do. */
    __device__ __forceinline__ bool begin(const tensor_map *map_k, const tensor_map *map_v, const newest_args *x)
    {
        if (lane == 0 && warp < 2)
            tma_prefetch_map(warp ? map_v : map_k);
        if (p.cluster) { /* the others may send their sums once they know that this block runs and its barrier is ready */
            if (tid == 0) {
                mbar_init(mail(), 1);
                mbar_init_fence();
            }
            __syncwarp();
            cluster_arrive_relaxed();
        }
        /* The step's tables were there before its first kernel began, and K and V of earlier steps too. In steps of one
         * token a sequence, the i-th token is the i-th sequence's. */
        const tok_desc &td = ((const tok_desc *)p.tok)[tok];
        const seq_desc &sq = ((const seq_desc *)p.seq)[QKV ? (i32)tok : td.seq];
        angles<D> angle;
        if (QKV) { /* on their way while the tables come */
            two.begin(*x, tok, kh, h0, G, warp, lane);
            angle.load(*x);
        }
        v = token_view(p, td, sq);
        newest = (u32)td.kv_index;
        first = SPLIT_OF(v.lo);
        const u32 last = v.hi ? SPLIT_OF(v.hi - 1) : 0, from = SPLIT_BEGIN(first) + blockIdx.x * p.span, after = split_from(from + p.span);
        n_part = last - first + 1;
        sp0 = split_from(from);
        sp1 = after < last + 1 ? after : last + 1;
        if (sp0 >= sp1 && !p.cluster)
            return false;
        const u32 lo = v.lo & ~(STRIDE - 1);
        end = sp0 >= sp1 ? 0 : SPLIT_BEGIN(sp1) < v.hi ? SPLIT_BEGIN(sp1) : v.hi;
        pos = (SPLIT_BEGIN(sp0) > lo ? SPLIT_BEGIN(sp0) : lo) + warp * PIECE;
        pos += pos + PIECE <= v.lo ? STRIDE : 0;
        phase = 0;
        in = {map_k, map_v, smem_addr(sm) + warp * 2 * at::UNIT, smem_addr(sm) + at::BARS + warp * 16, kh, lane, 0, 0, 0};
        if (lane == 0) {
            mbar_init(in.bars, 1);
            mbar_init(in.bars + 8, 1);
            mbar_init_fence();
        }
        __syncwarp();
        if (pos < end)
            in.look_up(p, v, pos);
        /* positions below that of the sequence's first token in this step were stored by earlier ones */
        const bool early = QKV || pos + PIECE <= (u32)((const tok_desc *)p.tok)[sq.tok_begin].kv_index;
        if (pos < end && early)
            ask_first();
        if (QKV) {
            k_row = v_row = 0;
            if (has_new() && sub == 0) {
                u8 *blk = (u8 *)p.kv + (u64)(u32)v.table[(i32)(newest >> p.block_shift) - v.base] * p.block_bytes;
                const u32 row = newest & ((1u << p.block_shift) - 1);
                k_row = (u16 *)(blk + p.k_off) + (u64)row * p.k_width + kh * p.d_k;
                v_row = (u16 *)(blk + p.v_off) + (u64)row * p.v_width + kh * p.d_v;
            }
            angle.make(*x, td, (float2 *)(sm + at::ANGLES));
            two.hold();
            __syncthreads();
        }
        return true;
    }
    __device__ __forceinline__ void ask_first(void)
    {
        in.ask_k(p, v, pos);
        in.ask(p, true);
    }
    /* The token's queries as fragments. */
    __device__ __forceinline__ void queries(const newest_args *x, bool real)
    {
        u16 *q = (u16 *)warps();
        float *scratch = (float *)(q + ((p.heads + 1) & ~1u) * at::QLD) + warp * D;
        if (QKV) {
            if (sp0 < sp1)
                new_token<D>(*x, tok, kh, h0, G, has_new(), real, k_row, v_row, two, (const float2 *)(sm + at::ANGLES), scratch, q, fresh(), warp, lane);
        } else {
            if (sp0 < sp1)
                old_queries<D>(p, tok, h0, G, q);
            if (pos < end && in.n == 0)
                ask_first();
        }
        __syncthreads();
        const u32 from = smem_addr(q) + ((lane & 7) < G ? lane & 7 : 0) * at::QLD * 2 + (lane >> 3) * 16;
#pragma unroll
        for (int i = 0; i < D / 16; i += 2) {
            u32 b[4];
            ldmatrix4(b, from + i * 32);
            qf[i][0] = b[0], qf[i][1] = b[1], qf[i + 1][0] = b[2], qf[i + 1][1] = b[3];
        }
    }
    /* V of the piece at pos: nothing may come of what was never stored, 0 times whatever lies there. */
    __device__ __forceinline__ void mend_values(bool whole, bool has)
    {
        if (!whole && (pos + lane < v.lo || pos + lane >= v.hi))
#pragma unroll 1
            for (u32 c = 0; c < D / 8; c++)
                sts128(in.at + at::UNIT + (c >> 3) * at::BOX + lane * 128 + ((c ^ lane) & 7) * 16, make_uint4(0, 0, 0, 0));
        if (has)
            patch<D>(in.at + at::UNIT, newest - pos, smem_addr(fresh() + D), lane);
        fence_proxy_async();
        __syncwarp();
    }
    /* The warp's pieces of a split. */
    __device__ __forceinline__ void pieces(u32 split, bool real)
    {
        const u32 g = lane >> 2, split_end = SPLIT_BEGIN(split + 1) < end ? SPLIT_BEGIN(split + 1) : end;
        const u32 k_at = in.at + ((lane >> 3 & 1) * 8 + (lane & 7)) * 128 + (((lane >> 4) ^ lane) & 7) * 16;
        const u32 v_at = in.at + at::UNIT + ((lane >> 4) * 8 + (lane & 7)) * 128 + (((lane >> 3 & 1) ^ lane) & 7) * 16;
        a.m[0] = a.m[1] = -INFINITY, a.l[0] = a.l[1] = 0;
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            a.o[i][0] = a.o[i][1] = a.o[i][2] = a.o[i][3] = 0;
#pragma unroll 1
        for (u32 n = real ? (pos < split_end ? (split_end - pos + STRIDE - 1) / STRIDE : 0) : 1; n; n--) {
            const bool whole = !real || (pos >= v.lo && pos + PIECE <= v.hi), more = real && pos + STRIDE < end;
            const bool has = QKV && real && newest - pos < PIECE;
            float s[2][4];
            u32 b[2][2];
            if (real)
                mbar_wait_2s(in.bars, phase);
            if (has) {
                patch<D>(in.at, newest - pos, smem_addr(fresh()), lane);
                __syncwarp();
            }
            scores<D>(k_at, qf, s);
            __syncwarp();
            if (more)
                in.ask_k(p, v, pos + STRIDE);
            weigh<D>(p, v, pos, whole, g, s, a, b);
            if (real)
                mbar_wait_2s(in.bars + 8, phase);
            if (!whole || has)
                mend_values(whole, has);
            add_values<D>(v_at, b, a);
            __syncwarp();
            if (more)
                in.ask(p, true);
            if (real) {
                phase ^= 1;
                pos += STRIDE;
            }
        }
    }
    /* A split's sums of four warps to one; then out, to the cluster's blocks, or to the split's place. */
    __device__ __forceinline__ void merge(u32 split, bool real)
    {
        __syncthreads(); /* the queries are read, and the sums of the split before */
        leave_sums<D>(a, G, lane >> 2, lane & 3, warps() + warp * G * at::LD);
        __syncthreads();
        const u32 nth = split - first, recv = smem_addr(sm) + at::SUMS + p.sums_bytes, recv_ml = recv + (gridDim.x << p.share) * 16;
        float *part = (float *)p.part + (((u64)blockIdx.z * p.n_head + h0) * p.n_split + nth) * PART_LD(D);
        for (u32 i = tid; i < G * (D / 4); i += WARPS * 32) {
            const u32 head = i / (D / 4), d = i % (D / 4) * 4;
            float M, L;
            float4 o = add_warps<D>(warps(), G, head, d, M, L);
            if (!real)
                continue;
            if (n_part == 1) {
                const float sink = sink_of(p, h0 + head), m = fmaxf(M, sink), c = ex2(M - m);
                if (p.sinks) {
                    L = L * c + ex2(sink - m);
                    o = make_float4(o.x * c, o.y * c, o.z * c, o.w * c);
                }
                if (d < p.d_v)
                    store4(p, tok, (h0 + head) * p.d_v + d, o, L);
            } else if (p.cluster) {
                const u32 rank = i >> p.share, share = i & ((1u << p.share) - 1);
                send(cluster_addr(recv + ((nth << p.share) + share) * 16, rank), o, cluster_addr(mail(), rank));
                if (d / 4 < gridDim.x)
                    send(cluster_addr(recv_ml + (nth * 8 + head) * 8, d / 4), make_float2(M, L), cluster_addr(mail(), d / 4));
            } else {
                float *r = part + head * (u64)p.n_split * PART_LD(D);
                __stcg((float4 *)(r + d), o);
                if (d == 0)
                    __stcg((float2 *)(r + D), make_float2(M, L));
            }
        }
    }
    /* What the blocks of a cluster have sent each other. */
    __device__ __forceinline__ void combine(bool real)
    {
        const u32 items = G * (D / 4), before = blockIdx.x << p.share, rest = items > before ? items - before : 0, most = 1u << p.share;
        if (real && tid == 0) /* from each split the share's columns and all heads' scores and sums */
            mbar_expect(mail(), n_part * ((rest < most ? rest : most) * 16 + G * 8));
        if (real)
            mbar_wait_2s(mail(), 0); /* a block that is sent to stays until all has come */
        const u8 *recv = sm + at::SUMS + p.sums_bytes;
        combine_share<D>(p, tok, h0, G, n_part, real, (const float4 *)recv, (const float2 *)(recv + (gridDim.x << p.share) * 16));
    }
    /* Without a cluster: the block that comes last combines what all have left in memory. */
    __device__ __forceinline__ void meet(void)
    {
        u32 *is_last = (u32 *)(sm + at::FLAG);
        if (sp1 - sp0 < n_part) { /* others have parts of this token and head too */
            __threadfence();
            __syncthreads();
            u32 *counter = (u32 *)p.counter + (u64)blockIdx.z * gridDim.y + blockIdx.y;
            if (tid == 0) {
                *is_last = atomicAdd(counter, sp1 - sp0) + sp1 - sp0 == n_part;
                if (*is_last)
                    *counter = 0;
            }
            __syncthreads();
            if (!*is_last)
                return;
        }
        __threadfence();
        __syncthreads();
        const float *part = (const float *)p.part + ((u64)blockIdx.z * p.n_head + h0) * p.n_split * PART_LD(D);
        last_block<D>(p, tok, h0, G, n_part, part, (float2 *)warps());
    }
};

/* x: of imp_attend_q*, else 0. */
template <int D, bool QKV> DEV void attend_d(const tensor_map *map_k, const tensor_map *map_v, const attend_args &p, const newest_args *x)
{
    extern __shared__ __align__(1024) u8 sm[];
    const u32 tid = threadIdx.x, kh = blockIdx.y >> p.sub_shift, sub = blockIdx.y & ((1u << p.sub_shift) - 1);
    const u32 left = p.group_heads - sub * p.heads;
    attention<D, QKV> a = {p, sm, tid, tid >> 5, tid & 31, kh, sub, p.tok0 + blockIdx.z, kh * p.group_heads + sub * p.heads, left < p.heads ? left : p.heads};
    pdl_launch();
    if (!a.begin(map_k, map_v, x))
        return;
#pragma unroll 1
    for (u32 real = QKV && p.dry ? 0 : 1; real < 2; real++) {
        if (real && p.cluster)
            cluster_wait(); /* all its blocks run: they may be written to */
        if (real)
            pdl_wait();
        a.queries(x, real);
        const u32 stop = real ? a.sp1 : a.sp0 + 1;
#pragma unroll 1
        for (u32 split = a.sp0; split < stop; split++) {
            a.pieces(split, real);
            a.merge(split, real);
        }
        if (p.cluster && a.n_part > 1)
            a.combine(real);
    }
    if (p.out_f16 && blockIdx.y == 0 && a.sp0 == a.first)
        for (u32 c = p.n_head * p.d_v + tid; c < p.ldo; c += WARPS * 32)
            ((u16 *)p.out)[(u64)a.tok * p.ldo + ACT_POS(c)] = 0;
    if (!p.cluster && a.n_part > 1)
        a.meet();
}

#define ATTEND(d, blocks)                                                                                                       \
    KERNEL(WARPS * 32, blocks) imp_attend_d##d(const __grid_constant__ attend_params p) { attend_d<d, false>(&p.k, &p.v, p.a, 0); } \
    KERNEL(WARPS * 32, blocks) imp_attend_q##d(const __grid_constant__ attend_q_params p) { attend_d<d, true>(&p.k, &p.v, p.a, &p.x); }
ATTEND(64, 4)
ATTEND(128, 3)
ATTEND(256, 1)

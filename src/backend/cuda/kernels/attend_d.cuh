/* attend_d.cuh: the parts of attend_d.cu up to a warp's sums: the newest token's heads, copies of K and V, the two
 * products. D: columns of a head at most, 64, 128 or 256. g and t: lane / 4 and lane % 4. */
#ifndef IMP_CUDA_ATTEND_D_CUH
#define IMP_CUDA_ATTEND_D_CUH

#include "attend.cuh"
#include "heads.cuh"
#include "tma.cuh"

#define WARPS 4
#define PIECE 32           /* positions a warp takes at a time */
#define STRIDE 128         /* from a warp's piece to its next one */
#define NOWHERE 0x7FFFFFFu /* a block past all blocks: TMA fills with zeros */

/* Shared memory: [4 warps][K, V] places | barriers | newest K and V | angles | the warps' sums, before them the queries
 * | what a cluster's blocks send each other. run_attend.c knows the sizes (attend_smem). */
template <int D> struct layout {
    static constexpr u32 UNIT = D * PIECE * 2, BOX = PIECE * 128; /* a place; 64 columns of it */
    static constexpr u32 BARS = WARPS * 2 * UNIT, MAIL = BARS + 64, FLAG = BARS + 72, FRESH = BARS + 128;
    static constexpr u32 ANGLES = FRESH + 4 * D, SUMS = ANGLES + 8 * D;
    static constexpr u32 LD = D + 4;  /* a head's sums: D columns, largest score, sum of weights; f32 */
    static constexpr u32 QLD = D + 8; /* a head's query; f16 */
};

/* ---- the newest token: norms, rotation, K and V, as imp_qkv does them ---- */
/* Angles for q, then k, [2][D / 2], a thread each; they depend on no kernel before. PLAIN, here and below:
 * attend_q*l. */
template <int D, bool PLAIN> struct angles {
    static constexpr int N = (D + WARPS * 32 - 1) / (WARPS * 32);
    float arg[N]; /* first a frequency */
    __device__ __forceinline__ static u32 place(int j) { return threadIdx.x + WARPS * 32 * j; }
    __device__ __forceinline__ static u32 is_k(int j) { return place(j) >= D / 2; }
    __device__ __forceinline__ static u32 column(int j) { return place(j) - (is_k(j) ? D / 2 : 0); }
    __device__ __forceinline__ static bool any(const newest_args &x, int j)
    {
        return place(j) < D && (PLAIN || column(j) < x.rope[is_k(j)].rot / 2);
    }
    __device__ __forceinline__ void load(const newest_args &x)
    {
#pragma unroll
        for (int j = 0; j < N; j++)
            arg[j] = any(x, j) ? ((const float *)x.rope[is_k(j)].freq)[column(j)] : 0.0f;
    }
    __device__ __forceinline__ void at(const newest_args &x, const tok_desc &d) /* after load */
    {
#pragma unroll
        for (int j = 0; j < N; j++)
            arg[j] = PLAIN ? (float)d.pos[0] * arg[j]
                     : any(x, j) ? rope_arg(x.rope[is_k(j)], d, column(j), arg[j]) : 0.0f;
    }
    __device__ __forceinline__ void make(const newest_args &x, float2 *angle) const
    {
#pragma unroll 1
        for (int j = 0; j < N; j++)
            if (any(x, j))
                rope_turn(x.rope[is_k(j)], j == 0 ? arg[0] : arg[N - 1], angle[place(j)].x, angle[place(j)].y);
    }
};

/* Two heads of a warp at a time, j0 and j0 + 4, so that one waits for memory and sums while the other does: queries
 * (below G), K (G) and V (G + 1). All but the values is at hand before the previous kernel is done. */
template <int D, bool PLAIN> struct two_heads {
    static constexpr int N = D / 32;
    const float *src[2];                              /* at this lane */
    u32 n[2], norm[2];                                /* columns */
    float eps[2], part[2], plus[2], w[2][N], v[2][N]; /* part: 1 / n */

    __device__ __forceinline__ void begin(const newest_args &x, u32 tok, u32 kh, u32 h0, u32 G, u32 j0, u32 lane)
    {
#pragma unroll
        for (u32 u = 0; u < 2; u++) {
            const u32 j = j0 + WARPS * u;
            const head_kind &kind = x.kind[j < G ? 0 : j == G ? 1 : 2];
            n[u] = PLAIN ? D : kind.n, norm[u] = kind.norm, eps[u] = kind.eps, part[u] = kind.part, plus[u] = kind.plus;
            src[u] = (const float *)kind.src + (u64)tok * kind.ld + (j < G ? h0 + j : kh) * n[u] + lane;
            const float *from = (const float *)kind.w + lane;
#pragma unroll
            for (u32 i = 0; i < N; i++)
                w[u][i] = kind.w && j <= G + 1 && lane + 32 * i < n[u] ? from[32 * i] : 1.0f - kind.plus;
        }
    }
    /* The compiler is not to put off until after the wait for the previous kernel what begin did. */
    __device__ __forceinline__ void hold(void)
    {
#pragma unroll
        for (u32 u = 0; u < 2; u++)
            asm volatile("" : "+l"(src[u]), "+r"(n[u]), "+f"(eps[u]), "+f"(part[u]));
    }
    __device__ __forceinline__ void load(u32 j0, u32 n_head, u32 lane)
    {
#pragma unroll
        for (u32 u = 0; u < 2; u++)
#pragma unroll
            for (u32 i = 0; i < N; i++)
                v[u][i] = j0 + WARPS * u < n_head && lane + 32 * i < n[u] ? ldg_f32(src[u] + 32 * i) : 0.0f;
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
                v[u][i] = norm[u] ? v[u][i] * scale * (w[u][i] + plus[u]) : v[u][i];
        }
    }
    /* head_rope's. scratch: D floats of the warp, for rotations whose two columns are not one lane's. */
    __device__ __forceinline__ void rotate(const rope_args &r, u32 u, const float2 *angle, float *scratch, u32 lane)
    {
        if (PLAIN || __builtin_expect(r.rot == D && n[u] == D && !r.interleaved, 1)) {
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

/* What the blocks of a kv head do for their token: queries to q [G][QLD]; where has_new, K and V to fresh [2][D], and
 * to the cache rows at k_row and v_row unless those are 0. two: has loaded the warp's first heads. */
template <int D, bool PLAIN>
DEV void new_token(const newest_args &x, u32 tok, u32 kh, u32 h0, u32 G, bool has_new, u16 *k_row, u16 *v_row,
                   two_heads<D, PLAIN> &two, const float2 *angle, float *scratch, u16 *q, u16 *fresh, u32 warp,
                   u32 lane)
{
    const u32 n = G + (has_new ? 2 : 0);
#pragma unroll 1
    for (u32 j0 = warp; PLAIN || j0 < n;) {
        two.normalise();
#pragma unroll
        for (u32 u = 0; u < 2; u++) {
            const u32 j = j0 + WARPS * u;
            if (j >= n)
                continue;
            if (j <= G && (PLAIN || x.rope[j == G].rot))
                two.rotate(x.rope[j == G], u, angle + (j == G ? D / 2 : 0), scratch, lane);
            u16 *to = (j < G ? q + j * layout<D>::QLD : fresh + (j - G) * D) + lane, *row = j < G    ? 0
                                                                                            : j == G ? k_row
                                                                                                     : v_row;
#pragma unroll
            for (u32 i = 0; i < D / 32; i++) {
                const u16 h = f2h(two.v[u][i]);
                to[32 * i] = h;
                if (row && lane + 32 * i < two.n[u])
                    row[lane + 32 * i] = h;
            }
        }
        if (PLAIN) /* at most eight */
            return;
        j0 += 2 * WARPS;
        if (j0 < n) {
            two.begin(x, tok, kh, h0, G, j0, lane);
            two.load(j0, n, lane);
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

/* ---- a warp's copies ---- */
template <int D, bool PLAIN, bool ONE> struct copies { /* ONE: attend_q*p */
    const tensor_map *k, *v;
    u32 at, bars;    /* the place of K, that of V follows; their barriers */
    u32 kh, lane, n; /* n: pieces asked for since the lanes looked up blocks */
    u32 block, in;   /* the lane's: a block of the cache and the position in it */

    /* Each lane looks up a copy's block: a trip to memory for 32 copies, long before they need it. */
    __device__ __forceinline__ void look_up(const attend_args &p, const view &w, u32 pos)
    {
        const u32 shift = PLAIN ? 0 : p.box_shift, rows = PIECE >> shift;
        const u32 q = pos + (lane >> shift) * STRIDE + (lane & ((1u << shift) - 1)) * rows,
                  b = q >> p.block_shift;
        in = q & ((1u << p.block_shift) - 1);
        block = q < w.hi && q + rows > w.lo ? (u32)w.table[(i32)b - w.base] : NOWHERE;
        n = 0;
    }
    /* K or V of piece n - 1. */
    __device__ __forceinline__ void ask(const attend_args &p, bool is_v)
    {
        if (PLAIN) { /* one copy; a single piece's block is lane 0's */
            const u32 b = ONE ? block : __shfl_sync(~0u, block, n - 1), i = ONE ? in : __shfl_sync(~0u, in, n - 1);
            if (lane == 0) {
                const u32 bar = bars + (is_v ? 8 : 0);
                mbar_expect(bar, layout<D>::UNIT);
                tma_5d(at + (is_v ? layout<D>::UNIT : 0), is_v ? v : k, 0, i, 0, kh, b, bar);
            }
            return;
        }
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
                    tma_5d(dst + c * layout<D>::BOX + j * (layout<D>::BOX >> p.box_shift), is_v ? v : k, 64 * c, i, 0,
                           kh, b, bar);
        }
    }
    __device__ __forceinline__ void ask_k(const attend_args &p, const view &w, u32 pos) /* of the next piece, at pos */
    {
        if (!ONE && n << (PLAIN ? 0 : p.box_shift) >= 32)
            look_up(p, w, pos);
        n++;
        ask(p, false);
    }
};

/* ---- a piece ---- */
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
template <int D, bool PLAIN>
DEV void weigh(const attend_args &p, const view &v, u32 pos0, bool whole, u32 g, float (*s)[4], sums<D> &a, u32 (*b)[2])
{
    float sc = p.scale * LOG2E;
    if (!PLAIN && __builtin_expect(p.softcap > 0, 0)) {
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

#endif

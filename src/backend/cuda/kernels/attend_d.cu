/* attend_d: flash decoding over paged f16 K and V, for rows of class D.
 * Block = (splits of positions, up to 8 query heads of a kv head, token): 4 warps that take 32 positions at a time,
 * those at 32 * warp + 128 * i. Positions, then columns of V, are the rows of m16n8k16 and the heads its 8 columns, so
 * that no row is wasted. A warp brings its own K and V by TMA, in boxes of 64 columns, swizzled by 128 bytes so that
 * ldmatrix meets no bank twice: a place of 32 positions for K and one for V, each asked for anew as soon as it is read.
 * What earlier steps stored is asked for before the previous kernel is done. A block takes the splits that begin in its
 * span of positions: one when there are few tokens, all when there are many.
 * imp_attend_q*: the same after imp_qkv's work, done by its own blocks: of all positions only the newest is not in
 * memory yet, and its K and V go straight to where a copy would have brought them.
 * Warps, then splits, are combined in a fixed order; splits lie at absolute positions (SPLIT_OF), so a row's bytes
 * depend on nothing but its own positions. The blocks of a token and kv head are a cluster that combines through
 * distributed shared memory (up to 8 splits), or the last of them to finish combines what all left in memory: no extra
 * launch, the same sums.
 * Bytes: 2 * positions * n_kv_head * d * 2; memory bound. Numerics: f16 products, f32 sums and softmax. */
#include "attend_d.cuh"
#include "attend_sum.cuh"

/* Maps: f16 {columns, positions of a block, 64s of columns, kv heads, blocks}, a box has 64 columns of 32 >> box_shift
 * positions, and all 64s of a head where those 32 are one run and the head is 64s; else a box takes one 64 of the
 * head's columns. */
struct attend_params {
    tensor_map k, v;
    attend_args a;
};
struct attend_q_params {
    tensor_map k, v;
    attend_args a;
    newest_args x;
};

/* The first split that begins at pos or after it. */
DEV u32 split_from(u32 pos)
{
    const u32 s = SPLIT_OF(pos);
    return SPLIT_BEGIN(s) < pos ? s + 1 : s;
}

/* A block's work. PLAIN: attend_q*l; ONE: attend_q*p. */
template <int D, bool QKV, bool PLAIN, bool ONE> struct attention {
    typedef layout<D> at;
    const attend_args &p;
    u8 *sm;
    u32 tid, warp, lane, kh, sub, tok, h0, G; /* query heads [h0, h0 + G) of kv head kh */
    view v;
    u32 newest, first, n_part; /* the token's position, its first split and how many */
    u32 sp0, sp1;              /* the block's: splits [sp0, sp1) */
    u32 pos, end, phase;       /* the warp's next piece, where the block's positions end, the copies' parity */
    copies<D, PLAIN, ONE> in;
    two_heads<D, PLAIN> two;
    angles<D, PLAIN> angle;
    u32 qf[D / 16][2];
    sums<D> a;

    __device__ __forceinline__ float *warps() const { return (float *)(sm + at::SUMS); }
    __device__ __forceinline__ u16 *fresh() const { return (u16 *)(sm + at::FRESH); }
    __device__ __forceinline__ u32 mail() const { return smem_addr(sm) + at::MAIL; }
    __device__ __forceinline__ bool has_new() const { return QKV && newest >= SPLIT_BEGIN(sp0) && newest < end; }

    /* The token's tables and the warp's first copies. False: the block has nothing to do. */
    __device__ __forceinline__ bool begin(const tensor_map *map_k, const tensor_map *map_v, const newest_args *x)
    {
        /* The step's tables were there before its first kernel began, and K and V of earlier steps too. In steps of one
         * token a sequence, the i-th token is the i-th sequence's. First of all: two trips to memory until the
         * copies. */
        const tok_desc td = ((const tok_desc *)p.tok)[tok + late_zero()];
        const seq_desc &sq = ((const seq_desc *)p.seq)[QKV ? tok + late_zero() : (u32)td.seq];
        const i32 table = sq.table[p.group], base = sq.base[p.group], tok_begin = QKV ? 0 : sq.tok_begin;
        if (lane == 0 && warp < 2)
            tma_prefetch_map(warp ? map_v : map_k);
        if (ONE || p.cluster) {
            /* the others may send their sums once they know that this block runs, its barrier ready */
            if (tid == 0) {
                mbar_init(mail(), 1);
                mbar_init_fence();
            }
            __syncwarp();
            cluster_arrive_relaxed();
        }
        if (QKV) { /* on their way while the tables come */
            two.begin(*x, tok, kh, h0, G, warp, lane);
            angle.load(*x);
        }
        phase = 0;
        const u32 s0 = smem_addr(sm);
        in = {map_k, map_v, s0 + warp * 2 * at::UNIT, s0 + at::BARS + warp * 16, kh, lane, 0, 0, 0};
        if (lane == 0) {
            mbar_init(in.bars, 1);
            mbar_init(in.bars + 8, 1);
            mbar_init_fence();
        }
        __syncwarp();
        v = token_view(p, td, (i32)uniform((u32)table), (i32)uniform((u32)base));
        v.lo = uniform(v.lo);
        v.hi = uniform(v.hi);
        newest = uniform((u32)td.kv_index);
        first = SPLIT_OF(v.lo);
        const u32 last = v.hi ? SPLIT_OF(v.hi - 1) : 0, from = SPLIT_BEGIN(first) + blockIdx.x * p.span,
                  after = split_from(from + p.span);
        n_part = last - first + 1;
        sp0 = split_from(from);
        sp1 = after < last + 1 ? after : last + 1;
        if (sp0 >= sp1 && !ONE && !p.cluster)
            return false;
        const u32 lo = v.lo & ~(STRIDE - 1);
        end = sp0 >= sp1 ? 0 : SPLIT_BEGIN(sp1) < v.hi ? SPLIT_BEGIN(sp1) : v.hi;
        pos = (SPLIT_BEGIN(sp0) > lo ? SPLIT_BEGIN(sp0) : lo) + warp * PIECE;
        pos += pos + PIECE <= v.lo ? STRIDE : 0;
        if (pos < end)
            in.look_up(p, v, pos);
        if (QKV) { /* while the block tables come */
            angle.at(*x, td);
            two.hold();
        }
        /* positions below that of the sequence's first token in this step were stored by earlier ones */
        const bool early = QKV || pos + PIECE <= (u32)((const tok_desc *)p.tok)[tok_begin].kv_index;
        if (pos < end && early)
            ask_first();
        return true;
    }
    __device__ __forceinline__ void ask_first(void)
    {
        in.ask_k(p, v, pos);
        in.ask(p, true);
    }
    /* The token's queries as fragments. */
    __device__ __forceinline__ void queries(const newest_args *x)
    {
        u16 *q = (u16 *)warps();
        float *scratch = (float *)(q + ((p.heads + 1) & ~1u) * at::QLD) + warp * D;
        if (QKV) {
            two.load(warp, sp0 < sp1 ? G + (has_new() ? 2 : 0) : 0, lane);
            /* while they come */
            angle.make(*x, (float2 *)(sm + at::ANGLES));
            u16 *k_row = 0, *v_row = 0; /* where the newest K and V go in the cache */
            if (has_new() && sub == 0) {
                u8 *blk = (u8 *)p.kv + (u64)(u32)v.table[(i32)(newest >> p.block_shift) - v.base] * p.block_bytes;
                const u32 row = newest & ((1u << p.block_shift) - 1);
                k_row = (u16 *)(blk + p.k_off) + (u64)row * p.k_width + kh * p.d_k;
                v_row = (u16 *)(blk + p.v_off) + (u64)row * p.v_width + kh * p.d_v;
            }
            __syncthreads();
            if (sp0 < sp1)
                new_token<D, PLAIN>(*x, tok, kh, h0, G, has_new(), k_row, v_row, two,
                                    (const float2 *)(sm + at::ANGLES), scratch, q, fresh(), warp, lane);
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
                sts128(in.at + at::UNIT + (c >> 3) * at::BOX + lane * 128 + ((c ^ lane) & 7) * 16,
                       make_uint4(0, 0, 0, 0));
        if (has)
            patch<D>(in.at + at::UNIT, newest - pos, smem_addr(fresh() + D), lane);
        fence_proxy_async();
        __syncwarp();
    }
    /* The warp's pieces of a split. */
    __device__ __forceinline__ void pieces(u32 split)
    {
        const u32 g = lane >> 2, split_end = SPLIT_BEGIN(split + 1) < end ? SPLIT_BEGIN(split + 1) : end;
        const u32 k_at = in.at + ((lane >> 3 & 1) * 8 + (lane & 7)) * 128 + (((lane >> 4) ^ lane) & 7) * 16;
        const u32 v_at = in.at + at::UNIT + ((lane >> 4) * 8 + (lane & 7)) * 128 + (((lane >> 3 & 1) ^ lane) & 7) * 16;
        a.m[0] = a.m[1] = -INFINITY, a.l[0] = a.l[1] = 0;
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            a.o[i][0] = a.o[i][1] = a.o[i][2] = a.o[i][3] = 0;
#pragma unroll 1
        for (; pos < split_end; pos += STRIDE, phase ^= 1) {
            const bool whole = pos >= v.lo && pos + PIECE <= v.hi, more = !ONE && pos + STRIDE < end;
            const bool has = QKV && newest - pos < PIECE;
            float s[2][4];
            u32 b[2][2];
            mbar_wait_bounded(in.bars, phase);
            if (has) {
                patch<D>(in.at, newest - pos, smem_addr(fresh()), lane);
                __syncwarp();
            }
            scores<D>(k_at, qf, s);
            __syncwarp();
            if (more)
                in.ask_k(p, v, pos + STRIDE);
            weigh<D, PLAIN>(p, v, pos, whole, g, s, a, b);
            mbar_wait_bounded(in.bars + 8, phase);
            if (!whole || has)
                mend_values(whole, has);
            add_values<D>(v_at, b, a);
            __syncwarp();
            if (more)
                in.ask(p, true);
        }
    }
    /* A split's sums of four warps to one; then out, to the cluster's blocks, or to the split's place. */
    __device__ __forceinline__ void merge(u32 split)
    {
        __syncthreads(); /* the queries are read, and the sums of the split before */
        leave_sums<D>(a, G, lane >> 2, lane & 3, warps() + warp * G * at::LD);
        __syncthreads();
        const u32 nth = split - first, recv = smem_addr(sm) + at::SUMS + p.sums_bytes,
                  recv_ml = recv + (gridDim.x << p.share) * 16;
        float *part = (float *)p.part + (((u64)blockIdx.z * p.n_head + h0) * p.n_split + nth) * PART_LD(D);
        for (u32 i = tid; i < G * (D / 4); i += WARPS * 32) {
            const u32 head = i / (D / 4), d = i % (D / 4) * 4;
            float M, L;
            float4 o = add_warps<D>(warps(), G, head, d, M, L);
            if (n_part == 1) {
                const float sink = sink_of<PLAIN>(p, h0 + head), m = fmaxf(M, sink), c = ex2(M - m);
                if (!PLAIN && p.sinks) {
                    L = fmaf(L, c, ex2(sink - m));
                    o = make_float4(o.x * c, o.y * c, o.z * c, o.w * c);
                }
                if (PLAIN || d < p.d_v)
                    store4<PLAIN>(p, tok, (h0 + head) * p.d_v + d, o, L);
            } else if (ONE || p.cluster) {
                const u32 rank = i >> p.share, share = i & ((1u << p.share) - 1);
                send(cluster_addr(recv + ((nth << p.share) + share) * 16, rank), o, cluster_addr(mail(), rank));
                if (d / 4 < gridDim.x)
                    send(cluster_addr(recv_ml + (nth * 8 + head) * 8, d / 4), make_float2(M, L),
                         cluster_addr(mail(), d / 4));
            } else {
                float *r = part + head * (u64)p.n_split * PART_LD(D);
                __stcg((float4 *)(r + d), o);
                if (d == 0)
                    __stcg((float2 *)(r + D), make_float2(M, L));
            }
        }
    }
    /* What the blocks of a cluster have sent each other. */
    __device__ __forceinline__ void combine(void)
    {
        const u32 items = G * (D / 4), before = blockIdx.x << p.share, rest = items > before ? items - before : 0,
                  most = 1u << p.share;
        if (tid == 0) /* from each split the share's columns and all heads' scores and sums */
            mbar_expect(mail(), n_part * ((rest < most ? rest : most) * 16 + G * 8));
        mbar_wait_bounded(mail(), 0); /* a block that is sent to stays until all has come */
        const u8 *recv = sm + at::SUMS + p.sums_bytes;
        combine_share<D, PLAIN>(p, tok, h0, G, n_part, (const float4 *)recv,
                         (const float2 *)(recv + (gridDim.x << p.share) * 16));
    }
    /* Without a cluster: the block that comes last combines what all have left in memory. */
    __device__ __forceinline__ void meet(void)
    {
        u32 *is_last = (u32 *)(sm + at::FLAG);
        if (sp1 - sp0 < n_part) { /* others have parts of this token and head too */
            __syncthreads();
            u32 *counter = (u32 *)p.counter + (u64)blockIdx.z * gridDim.y + blockIdx.y;
            if (tid == 0) {
                *is_last = add_acq_rel(counter, sp1 - sp0) + sp1 - sp0 == n_part;
                if (*is_last)
                    *counter = 0;
            }
            __syncthreads();
            if (!*is_last)
                return;
        } else {
            __syncthreads();
        }
        const float *part = (const float *)p.part + ((u64)blockIdx.z * p.n_head + h0) * p.n_split * PART_LD(D);
        last_block<D, PLAIN>(p, tok, h0, G, n_part, part, (float2 *)warps());
    }
};

/* x: of imp_attend_q*, else 0. */
template <int D, bool QKV, bool PLAIN, bool ONE>
DEV void attend_d(const tensor_map *map_k, const tensor_map *map_v, const attend_args &p, const newest_args *x)
{
    extern __shared__ __align__(1024) u8 sm[];
    const u32 tid = threadIdx.x, kh = blockIdx.y >> p.sub_shift, sub = blockIdx.y & ((1u << p.sub_shift) - 1);
    const u32 left = p.group_heads - sub * p.heads;
    const u32 h0 = kh * p.group_heads + sub * p.heads, G = PLAIN || left >= p.heads ? p.heads : left;
    attention<D, QKV, PLAIN, ONE> a = {p, sm, tid, tid >> 5, tid & 31, kh, sub, p.tok0 + blockIdx.z, h0, G};
    if (!a.begin(map_k, map_v, x))
        return;
    if (ONE || p.cluster)
        cluster_wait(); /* all its blocks run: they may be written to */
    pdl_wait();
    pdl_launch(); /* not before: attn_output's blocks would ask for their weights while the queries come */
    a.queries(x);
#pragma unroll 1
    for (u32 split = a.sp0; split < a.sp1; split++) {
        a.pieces(split);
        a.merge(split);
        if (ONE)
            break;
    }
    if ((ONE || p.cluster) && a.n_part > 1)
        a.combine();
    if (p.out_f16 && blockIdx.y == 0 && a.sp0 == a.first && p.n_head * (PLAIN ? D : p.d_v) < p.ldo)
        for (u32 c = p.n_head * p.d_v + tid; c < p.ldo; c += WARPS * 32)
            ((u16 *)p.out)[(u64)a.tok * p.ldo + ACT_POS(c)] = 0;
    if (!ONE && !p.cluster && a.n_part > 1)
        a.meet();
}

#define ATTEND(d, blocks)                                                                                              \
    KERNEL(WARPS * 32, blocks) imp_attend_d##d(const __grid_constant__ attend_params p)                                \
    {                                                                                                                  \
        attend_d<d, false, false, false>(&p.k, &p.v, p.a, 0);                                                          \
    }                                                                                                                  \
    KERNEL(WARPS * 32, blocks) imp_attend_q##d(const __grid_constant__ attend_q_params p)                              \
    {                                                                                                                  \
        attend_d<d, true, false, false>(&p.k, &p.v, p.a, &p.x);                                                        \
    }
ATTEND(64, 4)
ATTEND(128, 3)
ATTEND(256, 1)

/* What most models ask for while they generate, without the choices that others need: heads of d columns turned whole
 * and by one position, at most six queries a block, each block as many, no softcap, no sinks. p: and a split a block,
 * up to eight as a cluster. */
#define ATTEND_PLAIN(d, blocks)                                                                                        \
    KERNEL(WARPS * 32, blocks) imp_attend_q##d##l(const __grid_constant__ attend_q_params p)                           \
    {                                                                                                                  \
        attend_d<d, true, true, false>(&p.k, &p.v, p.a, &p.x);                                                         \
    }                                                                                                                  \
    KERNEL(WARPS * 32, blocks) imp_attend_q##d##p(const __grid_constant__ attend_q_params p)                           \
    {                                                                                                                  \
        attend_d<d, true, true, true>(&p.k, &p.v, p.a, &p.x);                                                          \
    }
ATTEND_PLAIN(64, 4)
ATTEND_PLAIN(128, 3)

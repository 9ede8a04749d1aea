/* ops: everything between the matrix products, one row or one head at a time. Bound by launches when decoding and by
 * memory in prefill; plain code, fixed order of every sum. f16 outputs feed matrix products: ACT_POS order, padded with
 * zeros. */
#include "gemv.cuh"
#include "heads.cuh"
#include "norm.cuh"
#include "route.cuh"

DEV void put(const op_args &p, u32 row, u32 i, float v)
{
    if (p.out_f16)
        ((u16 *)p.out)[(u64)row * p.ldo + ACT_POS(i)] = f2h(v);
    else
        ((float *)p.out)[(u64)row * p.ldo + i] = v;
}
DEV void put_pad(const op_args &p, u32 row, u32 first) /* zeros up to the padded width; by a thread */
{
    if (p.out_f16)
        for (u32 i = first; i < p.ldo; i++)
            ((u16 *)p.out)[(u64)row * p.ldo + ACT_POS(i)] = 0;
}
#define ROWS_LOOP                                                                   \
    pdl_launch();                                                                   \
    pdl_wait();                                                                     \
    const u32 row = blockIdx.y;                                                     \
    if (blockIdx.x == 0 && threadIdx.x == 0)                                        \
        put_pad(p, row, p.width);                                                   \
    for (u32 i = blockIdx.x * 1024 + threadIdx.x; i < p.width && i < blockIdx.x * 1024 + 1024; i += 256)

KERNEL(256, 4) imp_embed(const __grid_constant__ embed_args p)
{
    /* A warp a tile, to shared memory in one trip: a step begins here. The row's 256 values fall out of the fragments
     * of all 16 rows. */
    extern __shared__ __align__(128) u8 smem[];
    pdl_launch();
    pdl_wait();
    const u32 lane = threadIdx.x & 31, kt = blockIdx.x * 8 + (threadIdx.x >> 5), tok = blockIdx.y;
    const tok_desc &d = ((const tok_desc *)p.tok)[tok];
    if (kt >= p.w.k_tiles)
        return;
    float *out = (float *)p.out + (u64)tok * p.ldo;
    i32 id = d.id;
    if (id == -2) {
        const float *src = (const float *)p.ext + (u64)d.from * p.width;
        for (u32 i = kt * 256 + lane; i < p.width && i < kt * 256 + 256; i += 32)
            out[i] = src[i];
        return;
    }
    if (id == -1)
        id = ((const i32 *)p.last)[d.from];
    if (id < 0 || id >= (i32)p.w.rows)
        id = 0;
    const u8 *from = (const u8 *)p.w.tiles + ((u64)(id / 16) * p.w.k_tiles + kt) * p.w.tile_bytes + lane * 16;
    const in_smem src = {smem_addr(smem) + (threadIdx.x >> 5) * (p.w.tile_bytes + 1024)};
    const u32 row = src.p + p.w.tile_bytes; /* 256 floats */
    float rs = (p.w.row_scale ? ((const float *)p.w.row_scale)[id] : 1.0f) * p.w.unit * p.scale;
    const u32 g = lane >> 2, t = lane & 3;
    const bool mine = (u32)(id & 7) == g;
    const u32 half = id >> 3 & 1;
    LAYOUT_SWITCH(p.w.layout, {
        copy_tile<tile<L>::BYTES>(src.p + lane * 16, from, lane);
        cp_async_commit();
        cp_async_wait<0>();
        __syncwarp();
        scales q;
        tile_scales<L>(src, lane, q);
_Pragma("unroll") /* as an argument of a macro */
        for (int c = 0; c < 4; c++) {
            u32 a[4][4];
            chunk<L>(src, lane, c, q, p.w.lut, a);
            if (mine)
                for (int j = 0; j < 4; j++)
                    for (int h = 0; h < 2; h++) {
                        const u32 v = half ? a[j][2 * h + 1] : a[j][2 * h];
                        const u32 to = row + (c * 64 + t * 16 + j * 4 + h * 2) * 4;
                        sts32(to, __float_as_uint(h2f((u16)v) * rs));
                        sts32(to + 4, __float_as_uint(h2f((u16)(v >> 16)) * rs));
                    }
        }
    })
    __syncwarp();
    for (u32 i = lane; i < 256 && kt * 256 + i < p.width; i += 32)
        out[kt * 256 + i] = __uint_as_float(lds32(row + i * 4));
}

/* A row to f16, at most 1024 * N columns; its norm's weights are at hand before it is. */
template <int N> DEV void norm_f16(const op_args &p, const float *src, u16 *out, u32 tid, float *red)
{
    const float *w = (const float *)p.w;
    const float one = w ? p.plus_one : 1.0f;
    float4 v[N], g[N];
    load_part<N>(g, w, p.width, tid, w);
    pdl_launch();
    pdl_wait();
    load_part<N>(v, src, p.width, tid);
    const float scale = rms_of<N>(v, p.width, p.eps, red);
    u16 *to = out + ACT_POS(tid * 4); /* two columns further on are 8 further on, 1024 are 1024 */
#pragma unroll
    for (int j = 0; j < N; j++)
        if (tid * 4 + 1024u * j < p.ldo) {
            const float4 y = normed(v[j], scale, plus(g[j], one));
            *(u32 *)(to + 1024 * j) = pack_h2(y.x, y.y);
            *(u32 *)(to + 1024 * j + 8) = pack_h2(y.z, y.w);
        }
}

/* a[row][lda] -> row's norm; block a row */
KERNEL(256, 3) imp_norm(const __grid_constant__ op_args p)
{
    __shared__ float red[8];
    const u32 row = blockIdx.x, tid = threadIdx.x;
    const float *src = (const float *)p.a + (u64)row * p.lda, *w = (const float *)p.w, *b = (const float *)p.bias;
    float scale, mean = 0;
    if (!p.flag && p.out_f16 && p.width % 4 == 0 && p.width <= 8192) {
        u16 *out = (u16 *)p.out + (u64)row * p.ldo;
        if (p.width <= 4096)
            norm_f16<4>(p, src, out, tid, red);
        else
            norm_f16<8>(p, src, out, tid, red);
        return;
    }
    pdl_launch();
    pdl_wait();
    if (p.flag) { /* LayerNorm */
        scale = row_deviation(src, p.width, p.eps, red, mean);
    } else {
        scale = row_rms(src, p.width, p.eps, red);
    }
    for (u32 i = tid; i < p.width; i += 256) {
        float v = p.flag ? (src[i] - mean) * scale * (w ? w[i] + p.plus_one : 1.0f) + (b ? b[i] : 0.0f)
                         : normed(src[i], scale, w ? w[i] + p.plus_one : 1.0f);
        put(p, row, i, v);
    }
    if (p.out_f16)
        for (u32 i = p.width + tid; i < p.ldo; i += 256)
            ((u16 *)p.out)[(u64)row * p.ldo + ACT_POS(i)] = 0;
}

/* norm of runs of `group` columns by a warp each; flag: w has the row's width; flag2: L2 norm (rsqrt of the sum, times
 * scale) */
KERNEL(256, 4) imp_norm_group(const __grid_constant__ op_args p)
{
    pdl_launch();
    pdl_wait();
    const u32 lane = threadIdx.x & 31, n = p.width / p.group, item = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (item >= n * p.n_row)
        return;
    const u32 row = item / n, gr = item % n;
    const float *src = (const float *)p.a + (u64)row * p.lda + gr * p.group, *w = (const float *)p.w;
    float s = 0;
    for (u32 i = lane; i < p.group; i += 32)
        s += src[i] * src[i];
    s = warp_sum(s);
    float scale = p.flag2 ? rsqrtf(s + p.eps) * p.scale : rsqrtf(s / (float)p.group + p.eps);
    for (u32 i = lane; i < p.group; i += 32)
        put(p, row, gr * p.group + i, src[i] * scale * (w ? w[p.flag ? gr * p.group + i : i] + p.plus_one : 1.0f));
    if (gr == 0 && lane == 0)
        put_pad(p, row, p.width);
}

KERNEL(256, 4) imp_add(const __grid_constant__ op_args p) /* a + b * scale */
{
    ROWS_LOOP
    {
        const float a = ((const float *)p.a)[(u64)row * p.lda + i], b = ((const float *)p.b)[(u64)row * p.ldb + i];
        put(p, row, i, a + b * p.scale);
    }
}
/* a * b; b_width 1: a scalar a row; b_width 0: vector or scalar weight (flag = its length) */
KERNEL(256, 4) imp_mul(const __grid_constant__ op_args p)
{
    ROWS_LOOP
    {
        float b = p.b_width == 0 ? ((const float *)p.w)[p.flag > 1 ? i : 0]
                                 : ((const float *)p.b)[(u64)row * p.ldb + (p.b_width == 1 ? 0 : i)];
        put(p, row, i, ((const float *)p.a)[(u64)row * p.lda + i] * b);
    }
}
/* flag 0: a * scale; 1: softcap; 2: activation; 3: copy (f32 to f16) */
KERNEL(256, 4) imp_unary(const __grid_constant__ op_args p)
{
    ROWS_LOOP
    {
        float v = ((const float *)p.a)[(u64)row * p.lda + i];
        v = p.flag == 0   ? v * p.scale
            : p.flag == 1 ? p.scale * tanhf(v / p.scale)
            : p.flag == 2 ? act_apply(p.act, v)
                          : v;
        put(p, row, i, v);
    }
}
/* flag: both halves in a; flag2: interleaved */
KERNEL(256, 4) imp_glu(const __grid_constant__ op_args p)
{
    ROWS_LOOP
    {
        const float *a = (const float *)p.a + (u64)row * p.lda, *b = (const float *)p.b + (u64)row * p.ldb;
        float gate = p.flag ? a[p.flag2 ? 2 * i : i] : a[i], up = p.flag ? a[p.flag2 ? 2 * i + 1 : p.width + i] : b[i];
        put(p, row, i, glu_apply(p.act, gate, up, p.limit, p.alpha));
    }
}
KERNEL(256, 4) imp_gate(const __grid_constant__ op_args p) /* a * sigmoid(b[i / group]) */
{
    ROWS_LOOP
    {
        float g = ((const float *)p.b)[(u64)row * p.ldb + i / p.group];
        put(p, row, i, ((const float *)p.a)[(u64)row * p.lda + i] / (1.0f + __expf(-g)));
    }
}
KERNEL(256, 4) imp_slice(const __grid_constant__ op_args p)
{
    ROWS_LOOP put(p, row, i, ((const float *)p.a)[(u64)row * p.lda + i / p.group * p.stride + p.off + i % p.group]);
}
KERNEL(256, 4) imp_concat(const __grid_constant__ op_args p) /* a_w, b_w: widths a group; flag: b shared */
{
    ROWS_LOOP
    {
        u32 w = p.a_w + p.b_w, g = i / w, j = i % w;
        float v = j < p.a_w ? ((const float *)p.a)[(u64)row * p.lda + g * p.a_w + j]
                            : ((const float *)p.b)[(u64)row * p.ldb + (p.flag ? 0 : g * p.b_w) + j - p.a_w];
        put(p, row, i, v);
    }
}
KERNEL(256, 4) imp_gather(const __grid_constant__ op_args p) /* rows of a by row_desc.tok */
{
    ROWS_LOOP
    {
        i32 t = ((const row_desc *)p.b)[row].tok;
        put(p, row, i, ((const float *)p.a)[(u64)t * p.lda + i]);
    }
}
/* sum over j of b[row][j] * a[row][j * width + i], then + c[row][i] where there is a c (ldo2 is its row) */
KERNEL(256, 4) imp_combine(const __grid_constant__ op_args p)
{
    pdl_launch();
    pdl_wait();
    const u32 row = blockIdx.y, i = blockIdx.x * 256 + threadIdx.x;
    if (i == 0)
        put_pad(p, row, p.width);
    if (i >= p.width)
        return;
    const float *a = (const float *)p.a + (u64)row * p.lda + i, *b = (const float *)p.b + (u64)row * p.ldb;
    const float c = p.c ? ((const float *)p.c)[(u64)row * p.ldo2 + i] : 0.0f;
    float s = 0;
    for (u32 j0 = 0; j0 < p.k; j0 += 8) { /* eight trips to memory at a time */
        float x[8], w[8];
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            x[j] = j0 + j < p.k ? a[(u64)(j0 + j) * p.width] : 0.0f;
            w[j] = j0 + j < p.k ? b[j0 + j] : 0.0f;
        }
#pragma unroll
        for (u32 j = 0; j < 8; j++)
            if (j0 + j < p.k)
                s = fmaf(w[j], x[j], s);
    }
    put(p, row, i, p.c ? __fadd_rn(c, s) : s);
}
/* w: A_log, bias: dt_bias; flag: w is -exp(A_log) already */
KERNEL(256, 4) imp_decay(const __grid_constant__ op_args p)
{
    ROWS_LOOP
    {
        float a = ((const float *)p.w)[i], x = ((const float *)p.a)[(u64)row * p.lda + i] + ((const float *)p.bias)[i];
        put(p, row, i, (p.flag ? a : -expf(a)) * (x > 20.0f ? x : log1pf(expf(x))));
    }
}

DEV u8 *kv_row(u64 kv, u64 block_bytes, const seq_desc &s, const i32 *table, u32 group, u32 block, u32 pos)
{
    i32 b = table[s.table[group] + (i32)(pos / block) - s.base[group]];
    return (u8 *)kv + (u64)b * block_bytes;
}

/* K or V of a token begin at dst, f16 or f32; column i. */
DEV void kv_put(u8 *dst, u32 f32, u64 i, float v)
{
    if (f32)
        ((float *)dst)[i] = v;
    else
        ((u16 *)dst)[i] = f2h(v);
}

#define HEAD_MAX 576
/* Angles of a lane's first two columns. */
DEV void first_angles(const rope_args &r, const tok_desc &d, u32 lane, float *cs)
{
    if (lane < r.rot / 2)
        rope_angle(r, d, lane, cs[0], cs[1]);
    if (lane + 32 < r.rot / 2)
        rope_angle(r, d, lane + 32, cs[2], cs[3]);
}

DEV void one_q_head(const qkv_args &p, const tok_desc &d, u32 tok, u32 h, u32 lane, float *v, const float *cs)
{
    const u32 n = p.rope_q.head_dim;
    float *q = (float *)p.q + (u64)tok * p.ldq + h * n;
    for (u32 i = lane; i < n; i += 32)
        v[i] = q[i];
    __syncwarp();
    if (p.has_q_norm)
        head_norm(v, n, (const float *)p.q_norm, p.q_eps, p.q_plus, lane);
    if (p.has_rope_q)
        head_rope(v, p.rope_q, d, lane, cs);
    for (u32 i = lane; i < n; i += 32)
        q[i] = v[i];
}

DEV void one_kv_head(const qkv_args &p, const tok_desc &d, u32 tok, bool is_k, u32 h, u32 lane, float *v,
                     const float *cs)
{
    const seq_desc &s = ((const seq_desc *)p.seq)[d.seq];
    const u32 n = is_k ? p.k_head_dim : p.v_head_dim, in = (u32)d.kv_index % p.block_size;
    const float *src = (is_k ? (const float *)p.k + (u64)tok * p.ldk : (const float *)p.v + (u64)tok * p.ldv) + h * n;
    u8 *blk = kv_row(p.kv, p.block_bytes, s, (const i32 *)p.table, p.group, p.block_size, (u32)d.kv_index);
    u8 *dst = blk + (is_k ? p.k_off : p.v_off);
    const u64 at = (u64)in * (is_k ? p.k_width : p.v_width) + h * n;
    for (u32 i = lane; i < n; i += 32)
        v[i] = src[i];
    __syncwarp();
    if (is_k && p.has_k_norm)
        head_norm(v, n, (const float *)p.k_norm, p.k_eps, p.k_plus, lane);
    if (is_k && p.has_rope_k)
        head_rope(v, p.rope_k, d, lane, cs);
    if (!is_k && p.has_v_norm)
        head_norm(v, n, (const float *)p.v_norm, p.v_eps, p.v_plus, lane);
    for (u32 i = lane; i < n; i += 32)
        kv_put(dst, p.kv_f32, at + i, v[i]);
}

/* Everything between the projections and the attention: q heads, k heads, then v heads; q in place, k and v into the
 * cache. A warp takes a head, or every (4 * gridDim.x)-th one, with the angles of the first of its kind. */
KERNEL(128, 4) imp_qkv(const __grid_constant__ qkv_args p)
{
    __shared__ float heads[4][HEAD_MAX];
    pdl_launch();
    const u32 lane = threadIdx.x & 31, tok = blockIdx.y;
    const u32 nq = p.rope_q.n_head, nk = nq + p.n_k_head, all = nk + p.n_v_head;
    u32 h = blockIdx.x * 4 + (threadIdx.x >> 5);
    float *v = heads[threadIdx.x >> 5], cs[4] = {1, 0, 1, 0};
    const tok_desc &d = ((const tok_desc *)p.tok)[tok]; /* the step's tables were there before its first kernel began */
    if (h < nq ? p.has_rope_q : h < nk && p.has_rope_k)
        first_angles(h < nq ? p.rope_q : p.rope_k, d, lane, cs);
    pdl_wait();
    bool first_k = h < nq; /* the angles are q's */
    for (; h < all; h += 4 * gridDim.x) {
        if (h < nq) {
            one_q_head(p, d, tok, h, lane, v, cs);
        } else {
            if (first_k && h < nk && p.has_rope_k)
                first_angles(p.rope_k, d, lane, cs);
            first_k = false;
            one_kv_head(p, d, tok, h < nk, h < nk ? h - nq : h - nk, lane, v, cs);
        }
        __syncwarp();
    }
}

typedef struct rope_op { op_args o; rope_args r; } rope_op;
KERNEL(128, 4) imp_rope(const __grid_constant__ rope_op p)
{
    __shared__ float heads[4][HEAD_MAX];
    pdl_launch();
    pdl_wait();
    const u32 lane = threadIdx.x & 31, h = blockIdx.x * 4 + (threadIdx.x >> 5), row = blockIdx.y, n = p.r.head_dim;
    if (h >= p.r.n_head)
        return;
    float *v = heads[threadIdx.x >> 5];
    for (u32 i = lane; i < n; i += 32)
        v[i] = ((const float *)p.o.a)[(u64)row * p.o.lda + h * n + i];
    __syncwarp();
    head_rope(v, p.r, ((const tok_desc *)p.o.tok)[row], lane, 0);
    for (u32 i = lane; i < n; i += 32)
        put(p.o, row, h * n + i, v[i]);
    if (h == 0 && lane == 0)
        put_pad(p.o, row, p.o.width);
}

KERNEL(256, 4) imp_kv_store(const __grid_constant__ kvstore_args p)
{
    pdl_launch();
    pdl_wait();
    const u32 tok = blockIdx.y, i = blockIdx.x * 256 + threadIdx.x;
    const tok_desc &d = ((const tok_desc *)p.tok)[tok];
    const seq_desc &s = ((const seq_desc *)p.seq)[d.seq];
    u8 *blk = kv_row(p.kv, p.block_bytes, s, (const i32 *)p.table, p.group, p.block_size, (u32)d.kv_index);
    u32 in = (u32)d.kv_index % p.block_size;
    if (i < p.k_width)
        kv_put(blk + p.k_off, p.kv_f32, (u64)in * p.k_width + i, ((const float *)p.k)[(u64)tok * p.ldk + i]);
    if (p.v && i < p.v_width)
        kv_put(blk + p.v_off, p.kv_f32, (u64)in * p.v_width + i, ((const float *)p.v)[(u64)tok * p.ldv + i]);
}

/* ---- MoE routing (route.cuh): a warp a token ---- */
KERNEL(32, 8) imp_route(const __grid_constant__ route_args p)
{
    __shared__ route_scratch sm;
    pdl_launch();
    pdl_wait();
    const u32 lane = threadIdx.x, tok = blockIdx.x;
    i32 e;
    float w = route_token(p, (const float *)p.scores + (u64)tok * p.lds, sm, lane, e);
    if (lane < p.k) {
        ((i32 *)p.ids)[(u64)tok * p.k + lane] = e;
        ((float *)p.weights)[(u64)tok * p.k + lane] = w;
    }
}

/* ---- greedy choice: blocks find the best of their part, the last one the best of all; ties to the lowest id ---- */
/* The best of a warp's: largest value, then lowest id. Values as numbers that order like them, 0 = none. */
DEV u64 best_of_warp(u32 value, u32 id)
{
    const u32 most = __reduce_max_sync(~0u, value);
    return (u64)most << 32 | __reduce_max_sync(~0u, value == most ? ~id : 0u);
}
KERNEL(256, 4) imp_greedy(const __grid_constant__ greedy_args p)
{
    __shared__ u64 red[8];
    __shared__ u32 last_block;
    const u32 row = blockIdx.y, tid = threadIdx.x, lane = tid & 31, step = gridDim.x * 256;
    const row_desc rd = ((const row_desc *)p.row)[row]; /* there before the step's first kernel */
    pdl_launch();
    pdl_wait();
    if (!rd.greedy)
        return;
    const float *l = (const float *)p.logits + (u64)row * p.ldl;
    float best = -INFINITY;
    u32 at = 0;
    for (u32 i = blockIdx.x * 256 + tid; i < p.n_vocab; i += 12 * step) { /* twelve trips to memory at a time */
        float v[12];
#pragma unroll
        for (u32 j = 0; j < 12; j++)
            v[j] = i + j * step < p.n_vocab ? l[i + j * step] : -INFINITY;
#pragma unroll
        for (u32 j = 0; j < 12; j++)
            if (v[j] > best && v[j] < INFINITY)
                best = v[j], at = i + j * step;
    }
    const u32 bits = __float_as_uint(best == 0.0f ? 0.0f : best);
    const u64 mine = best_of_warp(best == -INFINITY ? 0 : bits & 0x80000000u ? ~bits : bits | 0x80000000u, at);
    if (lane == 0)
        red[tid >> 5] = mine;
    __syncthreads();
    u64 *part = (u64 *)p.part + (u64)row * p.n_part;
    if (tid == 0) {
        u64 most = red[0];
        for (u32 i = 1; i < 8; i++)
            most = red[i] > most ? red[i] : most;
        __stcg(part + blockIdx.x, most);
        __threadfence();
        last_block = atomicAdd((u32 *)p.counter + row, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last_block || tid >= 32)
        return;
    __threadfence();
    u64 all = 0;
    for (u32 i = lane; i < gridDim.x; i += 32) {
        const u64 v = __ldcg(part + i);
        all = v > all ? v : all;
    }
    all = best_of_warp((u32)(all >> 32), ~(u32)all);
    if (lane)
        return;
    ((u32 *)p.counter)[row] = 0;
    const i32 id = all >> 32 ? (i32)~(u32)all : -1;
    ((i32 *)p.out_id)[row] = id;
    ((i32 *)p.last)[rd.slot] = id < 0 ? 0 : id;
    *(i32 *)rd.host_id = id;
}

/* precise: y[M][N] f32 = x[M][K] W[N][K]^T with the file's exact weights, f32 inputs and f32 sums (--precise). Two
 * families with the same bytes: what a row's numbers are does not depend on how many rows there are, or which kernel
 * takes them.
 *   one, four   a warp takes a row tile and a run of its columns; weights go from memory through registers into the
 *               fmas of one or four rows. Decoding; memory and the instructions of decoding.
 *   many        a block takes 64 weight rows x 64 input rows; a chunk of 64 columns of both lies in shared memory as
 *               f32, each weight decoded once a block. Prompts, and experts with many rows; bound by fmas.
 * Order of sums: K is cut into the matrix' seg runs of tiles (a function of the shape). Of a run, quarter t has columns
 * 64c + 16t .. + 15 of every chunk c, one fma after the other in ascending order; then (t0 + t1) + (t2 + t3); runs add
 * up in order; row scale, bias, residual last, each rounded by itself.
 * Columns past the matrix count as zeros in both. Figures: docs/kernels.md. */
#include "decode.cuh"
#include "decode_exact.cuh"

#define WARPS 8

/* The matrix that a block works on, and its block inside of it. */
struct where {
    u32 mat, block;
};
DEV where find_matrix(const precise_args &p)
{
    const u32 mat = blockIdx.x >= p.begin[1] ? (blockIdx.x >= p.begin[2] ? 2 : 1) : 0;
    return {mat, blockIdx.x - p.begin[mat]};
}

/* The last steps of a product, and where it goes. n: its row of the matrix; en: the same among all experts' rows. */
DEV void store(const precise_args &p, u32 mat, u32 row, u32 n, u32 en, float v)
{
    v = with_scale_and_bias(p.w[mat], v, en);
    const u32 col = blockIdx.z * p.w[mat].rows + n;
    if (p.residual && mat == 0)
        v = __fadd_rn(((const float *)p.residual)[(u64)row * p.ldr + col], v);
    ((float *)p.out[mat])[(u64)row * p.ldo[mat] + col] = v;
}

/* ---- few rows ---------------------------------------------------------------------------------------------------- */
/* Four columns of an input row from col on; zeros past the last. Rows are read in fours: others go through `many`. */
DEV float4 x_four(const float *row, u32 col, u32 k)
{
    return col < k ? *(const float4 *)(row + col) : make_float4(0, 0, 0, 0);
}

/* A tile's products with M rows. acc: [half][row]. */
template <int L, int M>
DEV void tile_times(const u32 *lut, const u8 *tile, const float *const *x, u32 col, u32 k, u32 lane, float (*acc)[M])
{
    constexpr bool SMALL = exact_unit<L>::WORDS == 2 && L != LAY_Q5K && L != LAY_Q6K;
    /* chunks that are asked for at once: as many as there are registers for */
    constexpr int AHEAD = L == LAY_F32 ? 1 : M == 1 && SMALL ? 4 : 2;
    constexpr int TURNS = L == LAY_F32 || M > 1 ? 1 : 4 / AHEAD; /* unrolled */
#pragma unroll TURNS
    for (int c0 = 0; c0 < 4; c0 += AHEAD) {
        exact_unit<L> u[AHEAD][2];
#pragma unroll
        for (int c = 0; c < AHEAD; c++)
#pragma unroll
            for (u32 h = 0; h < 2; h++)
                unit_load<L>(tile, lane, h, c0 + c, u[c][h]);
#pragma unroll
        for (int c = 0; c < AHEAD; c++) {
            const unit_scale f[2] = {unit_factors<L>(u[c][0]), unit_factors<L>(u[c][1])};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float v[2][4];
                unit_four<L>(u[c][0], f[0], lut, j, v[0]);
                unit_four<L>(u[c][1], f[1], lut, j, v[1]);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    const float4 b = x_four(x[m], col + (c0 + c) * 64 + j * 4, k);
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        acc[h][m] = fmaf(v[h][0], b.x, acc[h][m]);
                        acc[h][m] = fmaf(v[h][1], b.y, acc[h][m]);
                        acc[h][m] = fmaf(v[h][2], b.z, acc[h][m]);
                        acc[h][m] = fmaf(v[h][3], b.w, acc[h][m]);
                    }
                }
            }
        }
    }
}

template <int L, int M>
DEV void run_times(const dweight &w, const u8 *tile, const float *const *x, u32 k0, u32 k1, u32 k, u32 lane,
                   float (*acc)[M])
{
#pragma unroll 1
    for (u32 kt = k0; kt < k1; kt++, tile += w.tile_bytes)
        tile_times<L, M>(w.lut, tile, x, kt * TILE_COLS + (lane & 3) * 16, k, lane, acc);
}

/* Grid: (row tiles, 8 / seg of them a block; rows, M at a time; heads). Eight warps: runs of K, then row tiles. */
template <int M> DEV void few(const precise_args &p)
{
    __shared__ float part[WARPS][16 * M];
    const u32 warp = __shfl_sync(~0u, threadIdx.x >> 5, 0), lane = threadIdx.x & 31, t = lane & 3, g = lane >> 2;
    const where at = find_matrix(p);
    const dweight &w = p.w[at.mat];
    const u32 log_seg = 31 - __clz((int)w.seg), groups = WARPS >> log_seg, run = warp & (w.seg - 1);
    const u32 rt = at.block * groups + (warp >> log_seg), row0 = blockIdx.y * M;
    const u32 k0 = seg_begin(w, run), k1 = rt < w.row_tiles ? seg_begin(w, run + 1) : k0;

    pdl_launch();
    if (p.ids)
        pdl_wait(); /* the choice of experts is an earlier kernel's */
    const u32 expert = p.ids ? (u32)((const i32 *)p.ids)[row0] : blockIdx.z;
    const u8 *tile = (const u8 *)w.tiles + expert * w.expert_stride + ((u64)rt * w.k_tiles + k0) * w.tile_bytes;
    if (!p.ids) { /* weights are on their way while the kernel before works */
        for (u32 i = lane * 128; i < (k1 - k0) * w.tile_bytes; i += 32 * 128)
            asm volatile("prefetch.global.L2 [%0];" ::"l"(tile + i));
        pdl_wait();
    }
    const float *x[M];
#pragma unroll
    for (u32 m = 0; m < M; m++) { /* rows past the last are the last */
        const u32 row = row0 + m < p.m ? row0 + m : p.m - 1;
        x[m] = (const float *)p.x + (u64)(row / p.n_choice) * p.ldx + blockIdx.z * p.k;
    }
    float acc[2][M];
#pragma unroll
    for (int m = 0; m < M; m++)
        acc[0][m] = acc[1][m] = 0;
    EXACT_SWITCH(w.layout, run_times<L, M>(w, tile, x, k0, k1, p.k, lane, acc);)
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int m = 0; m < M; m++) {
            float v = acc[h][m];
            v += __shfl_xor_sync(~0u, v, 1);
            v += __shfl_xor_sync(~0u, v, 2);
            if (t == 0)
                part[threadIdx.x >> 5][m * 16 + h * 8 + g] = v;
        }
    __syncthreads();
    for (u32 j = threadIdx.x; j < groups * 16 * M; j += WARPS * 32) {
        const u32 i = j % (16 * M), grp = j / (16 * M), m = i / 16, n = (at.block * groups + grp) * 16 + i % 16;
        if (n >= w.rows || row0 + m >= p.m)
            continue;
        float v = 0;
        for (u32 s = 0; s < w.seg; s++)
            v += part[grp * w.seg + s][i];
        store(p, at.mat, row0 + m, n, expert * w.rows + n, v);
    }
}

KERNEL(256, 3) imp_precise_one(const __grid_constant__ precise_args p) { few<1>(p); }
KERNEL(256, 2) imp_precise_four(const __grid_constant__ precise_args p) { few<4>(p); }

/* ---- many rows --------------------------------------------------------------------------------------------------- */
/* A chunk in shared memory: [quarter t][column of 16][row of 64]. The strides let a warp store, a value a lane, without
 * meeting a bank twice: 8 rows of each of four quarters (weights) or columns (inputs). */
#define COL_LD 72
#define QUARTER (16 * COL_LD + 8)
#define CHUNK_FLOATS (4 * QUARTER)
#define SUMS (PRECISE_ROWS * PRECISE_ROWS)
static_assert((4 * CHUNK_FLOATS + SUMS) * 4 == PRECISE_SMEM, "PRECISE_SMEM");
static_assert(4 * SUMS <= 4 * CHUNK_FLOATS, "four quarters' sums fit where two stages of weights and inputs were");

DEV void cp_async4(u32 dst, const void *src, bool valid)
{
    asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"(dst), "l"(src), "r"(valid ? 4u : 0u) : "memory");
}

struct many_block {
    const float *x;    /* this thread's input row */
    bool in;           /* there is one */
    const u8 *tiles;   /* this thread's row tile, first column */
    bool live;         /* there is one */
    u32 w_at, x_at;    /* where this thread's values go: floats from a chunk's begin */
};

/* This thread's share of a chunk of inputs: one row, every fourth column. */
DEV void ask_x(const precise_args &p, const many_block &b, u32 chunk, u32 to)
{
    const u32 il = (threadIdx.x & 31) >> 3;
#pragma unroll
    for (u32 j = 0; j < 16; j++) {
        const u32 col = chunk * 64 + j * 4 + il;
        const bool valid = b.in && col < p.k;
        const u32 at = b.x_at + (j >> 2) * QUARTER + (j & 3) * 4 * COL_LD;
        cp_async4(to + at * 4, valid ? b.x + col : (const float *)p.x, valid);
    }
    cp_async_commit();
}

/* One unit of weights to shared memory, as f32. */
template <int L> DEV void put_unit(const exact_unit<L> &u, const u32 *lut, bool live, float *to)
{
    const unit_scale f = unit_factors<L>(u);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float v[4];
        unit_four<L>(u, f, lut, j, v);
#pragma unroll
        for (int i = 0; i < 4; i++)
            to[(4 * j + i) * COL_LD] = live ? v[i] : 0.0f;
    }
}

/* 16 columns of a quarter: 8 x 8 products a thread and column. */
DEV void multiply_chunk(const float *ws, const float *xs, float (*acc)[8])
{
#pragma unroll 1
    for (int i = 0; i < 16; i++) {
        float w[8], x[8];
        *(float4 *)w = *(const float4 *)(ws + i * COL_LD);
        *(float4 *)(w + 4) = *(const float4 *)(ws + i * COL_LD + 32);
        *(float4 *)x = *(const float4 *)(xs + i * COL_LD);
        *(float4 *)(x + 4) = *(const float4 *)(xs + i * COL_LD + 16);
#pragma unroll
        for (int m = 0; m < 8; m++)
#pragma unroll
            for (int r = 0; r < 8; r++)
                acc[m][r] = fmaf(w[r], x[m], acc[m][r]);
    }
}

/* Chunks [q0, q1) of K, which is a run, into acc. smem: two stages of weights, then of inputs. */
template <int L>
DEV void multiply_run(const precise_args &p, const dweight &w, const many_block &b, float *smem, u32 q0, u32 q1,
                      float (*acc)[8])
{
    constexpr bool EARLY = exact_unit<L>::WORDS <= 4; /* asked for before the chunk is multiplied: registers allow it */
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, half = warp & 1, quarter = warp >> 1;
    const float *ws = smem + quarter * QUARTER + (lane & 7) * 4;
    const float *xs = smem + 2 * CHUNK_FLOATS + quarter * QUARTER + (warp & 1) * 32 + (lane >> 3) * 4;
    const u32 x_smem = smem_addr(smem + 2 * CHUNK_FLOATS);
    exact_unit<L> u = {};
    if (b.live)
        unit_load<L>(b.tiles + (u64)(q0 >> 2) * w.tile_bytes, lane, half, q0 & 3, u);
    ask_x(p, b, q0, x_smem);
    put_unit<L>(u, w.lut, b.live, smem + b.w_at);
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll 1
    for (u32 q = q0, stage = 0; q < q1; q++, stage ^= 1) {
        const bool more = q + 1 < q1;
        if (more) {
            if (EARLY && b.live)
                unit_load<L>(b.tiles + (u64)((q + 1) >> 2) * w.tile_bytes, lane, half, (q + 1) & 3, u);
            ask_x(p, b, q + 1, x_smem + (stage ^ 1) * CHUNK_FLOATS * 4);
        }
        multiply_chunk(ws + stage * CHUNK_FLOATS, xs + stage * CHUNK_FLOATS, acc);
        if (more) {
            if (!EARLY && b.live)
                unit_load<L>(b.tiles + (u64)((q + 1) >> 2) * w.tile_bytes, lane, half, (q + 1) & 3, u);
            put_unit<L>(u, w.lut, b.live, smem + (stage ^ 1) * CHUNK_FLOATS + b.w_at);
        }
        cp_async_wait<0>();
        __syncthreads();
    }
}

/* A run's sums of the four quarters, added to the block's. part: where the stages were; total: [row m][row n]. */
DEV void add_run(float *part, float *total, float (*acc)[8], bool first)
{
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    float *to = part + (warp >> 1) * SUMS + ((warp & 1) * 32 + (lane >> 3) * 4) * PRECISE_ROWS + (lane & 7) * 4;
#pragma unroll
    for (int m = 0; m < 8; m++) {
        float *row = to + ((m >> 2) * 16 + (m & 3)) * PRECISE_ROWS;
        *(float4 *)row = make_float4(acc[m][0], acc[m][1], acc[m][2], acc[m][3]);
        *(float4 *)(row + 32) = make_float4(acc[m][4], acc[m][5], acc[m][6], acc[m][7]);
#pragma unroll
        for (int r = 0; r < 8; r++)
            acc[m][r] = 0;
    }
    __syncthreads();
#pragma unroll 4
    for (u32 i = tid; i < SUMS; i += 256) {
        const float v = (part[i] + part[SUMS + i]) + (part[2 * SUMS + i] + part[3 * SUMS + i]);
        total[i] = (first ? 0.0f : total[i]) + v;
    }
    __syncthreads();
}

template <int L>
DEV void multiply_all(const precise_args &p, const dweight &w, const many_block &b, float *smem, float *total)
{
    float acc[8][8];
#pragma unroll
    for (int m = 0; m < 8; m++)
#pragma unroll
        for (int r = 0; r < 8; r++)
            acc[m][r] = 0;
#pragma unroll 1
    for (u32 s = 0; s < w.seg; s++) {
        multiply_run<L>(p, w, b, smem, seg_begin(w, s) * 4, seg_begin(w, s + 1) * 4, acc);
        add_run(smem, total, acc, s == 0);
    }
}

/* Grid: (64 weight rows; 64 input rows, or an entry of the list of experts; heads). */
KERNEL(256, 2) imp_precise_many(const __grid_constant__ precise_args p)
{
    extern __shared__ __align__(128) u8 sm[];
    float *smem = (float *)sm, *total = smem + 4 * CHUNK_FLOATS;
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
    const where at = find_matrix(p);
    const dweight &w = p.w[at.mat];
    pdl_launch();
    pdl_wait();
    u32 expert = blockIdx.z, first = blockIdx.y * PRECISE_ROWS, n_in = p.m - first;
    if (p.tile) {
        if (blockIdx.y >= *(const u32 *)p.tile)
            return;
        const group_tile e = ((const group_tile *)p.tile)[1 + blockIdx.y];
        expert = e.expert, first = e.first, n_in = e.n;
    }
    n_in = n_in < PRECISE_ROWS ? n_in : PRECISE_ROWS;
    auto row_of = [&](u32 m) { return p.tile ? (u32)((const i32 *)p.pair_of)[first + m] : first + m; };

    const u32 mine = warp * 8 + (lane & 7), rt = at.block * 4 + (warp >> 1);
    many_block b;
    b.in = mine < n_in;
    b.x = (const float *)p.x + (u64)(b.in ? row_of(mine) / p.n_choice : 0) * p.ldx + blockIdx.z * p.k;
    b.live = rt < w.row_tiles;
    b.tiles = (const u8 *)w.tiles + expert * w.expert_stride + (u64)rt * w.k_tiles * w.tile_bytes;
    b.w_at = t * QUARTER + warp * 8 + g;
    b.x_at = (lane >> 3) * COL_LD + mine;
    EXACT_SWITCH(w.layout, multiply_all<L>(p, w, b, smem, total);)
    const u32 n = at.block * PRECISE_ROWS + (tid & 63);
    if (n >= w.rows)
        return;
    for (u32 m = tid >> 6; m < n_in; m += 4)
        store(p, at.mat, row_of(m), n, expert * w.rows + n, total[m * PRECISE_ROWS + (tid & 63)]);
}

/* ---- embeddings -------------------------------------------------------------------------------------------------- */
template <int L> DEV void embed_unit(const precise_embed_args &p, const u8 *tile, u32 id, u32 k, float rs, float *out)
{
    exact_unit<L> u;
    unit_load<L>(tile, 4 * (id & 7) + (k >> 4 & 3), id >> 3 & 1, k >> 6 & 3, u);
    const unit_scale f = unit_factors<L>(u);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float v[4];
        unit_four<L>(u, f, p.w.lut, j, v);
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (k + 4 * j + e < p.width)
                out[k + 4 * j + e] = __fmul_rn(__fmul_rn(v[e], rs), p.scale);
    }
}

/* A thread 16 columns of a token's row. Grid: (4096 columns, tokens). */
KERNEL(256, 2) imp_precise_embed(const __grid_constant__ precise_embed_args p)
{
    pdl_launch();
    pdl_wait();
    const u32 tok = blockIdx.y, k = (blockIdx.x * 256 + threadIdx.x) * 16;
    const tok_desc &d = ((const tok_desc *)p.tok)[tok];
    if (k >= p.width)
        return;
    float *out = (float *)p.out + (u64)tok * p.ldo;
    i32 id = d.id;
    if (id == -2) {
        for (u32 j = k; j < p.width && j < k + 16; j++)
            out[j] = ((const float *)p.ext)[(u64)d.from * p.width + j];
        return;
    }
    if (id == -1)
        id = ((const i32 *)p.last)[d.from];
    if (id < 0 || id >= (i32)p.w.rows)
        id = 0;
    const u8 *tile = (const u8 *)p.w.tiles + ((u64)(id / 16) * p.w.k_tiles + k / 256) * p.w.tile_bytes;
    const float rs = p.w.row_scale ? ((const float *)p.w.row_scale)[id] : 1.0f;
    EXACT_SWITCH(p.w.layout, embed_unit<L>(p, tile, (u32)id, k, rs, out);)
}

/* params: what the host and the kernels say to each other: weight layouts and one argument struct a kernel. Compiled as
 * C17 and as CUDA. Pointers travel as 64-bit integers. Layouts only, nothing that can fail.
 *
 * Weights are tiles of 16 rows x 256 columns (the last ones padded with zeros), row tile by row tile, so that a warp
 * that computes 16 rows streams one run of bytes. Inside a tile the bytes lie in the order in which the lanes of
 * mma.m16n8k16 want them: lane = 4 * g + t holds rows g and g + 8 ("half" 0 and 1) and, of each chunk c of 64 columns,
 * columns 64c + 16t .. + 15; step j of a chunk multiplies columns 16t + 4j .. + 3 of every t.
 *   F16  [c][step j][lane] 16 B: values 4j, 4j+1 of half 0, of half 1; values 4j+2, 4j+3 of half 0, of half 1
 *   I8   [c][half][lane] 16 B: q + 128               | f16 scale [half][g][t/2][c]
 *   U4   [c][half][lane] 8 B: nibbles in order       | f16 scale [half][g][t/2][c]
 *   NV4  as U4                                       | e4m3 scale [half][g][t][c]
 *   Q4K  [c][half][lane] 8 B: pair p (values 2p, 2p+1) at bits 4p and 16+4p of its word, four pairs a word
 *                                                    | {scale, min} bytes [half][g][t/2][c] | f16 {d, -dmin} [half][g]
 *   Q5K  as Q4K | [lane] 16 B: word 2*half+c/2, pair p of chunk c at bits 8*(c&1)+p and 16+8*(c&1)+p | as Q4K
 *   Q6K  as Q4K | [half][lane] 16 B: word c, pair p at bits Q6K_HI(p) and 16+Q6K_HI(p) | scale + 128 [half][g][t][c]
 *                                                    | f16 d [half][g]
 *   F8   [c][half][lane] 16 B                        | f16 scale [half][g][c/2]
 *   BF16 as F16; F32 [c][half][j][lane] 16 B: values 4j .. 4j + 3
 * I8, Q4K, Q5K, Q6K: the tile's f16 factors are 2^24 / unit times those of the file (-dmin: 2^6 / unit), where unit is
 * a power of two for the whole matrix, the least for which no scale of 32 (16) columns passes 2^15. What decode.cuh
 * makes of a tile is then w / unit, at most 2^-3 or so; results are multiplied by unit, which is exact.
 * With --precise no tile has a unit (its factors are the file's, -dmin and d alike), and BF16 and F32 stay what they
 * are, so that decode_exact.cuh makes the file's values; these two layouts exist there alone.
 *
 * f16 activations lie in the order of the same multiplication (ACT_POS): chunk of 64, then step j, then as the B
 * fragment of the instruction; rows are padded with zeros to a multiple of 256. */
#ifndef IMP_CUDA_PARAMS_H
#define IMP_CUDA_PARAMS_H

#include <stdint.h>

enum { LAY_F16, LAY_I8, LAY_U4, LAY_NV4, LAY_Q4K, LAY_Q5K, LAY_Q6K, LAY_F8, LAY_BF16, LAY_F32, LAY_COUNT };

#define TILE_ROWS 16
#define TILE_COLS 256
#define TILE_BYTES_F16 8192
#define TILE_BYTES_I8 4352
#define TILE_BYTES_U4 2304
#define TILE_BYTES_NV4 2304
#define TILE_BYTES_Q4K 2368
#define TILE_BYTES_Q5K 2880
#define TILE_BYTES_Q6K 3360
#define TILE_BYTES_F8 4160
#define TILE_BYTES_BF16 8192
#define TILE_BYTES_F32 16384

/* Where the upper bits of pair p lie in a half of Q6K's word: even pairs are wanted at bit 4 and odd ones at bit 8, so
 * that p and p + 1 share a shift, but for the last two. */
#define Q6K_HI(p)                                                                                                      \
    ((p) == 0 ? 4 : (p) == 1 ? 8 : (p) == 2 ? 2 : (p) == 3 ? 6 : (p) == 4 ? 10 : (p) == 5 ? 14 : (p) == 6 ? 0 : 12)

/* Where value k of a row lies in an f16 activation row. */
#define ACT_POS(k) (((k) & ~63u) | ((k) >> 2 & 3) << 4 | ((k) >> 1 & 1) << 3 | ((k) >> 4 & 3) << 1 | ((k) & 1))

typedef struct dweight {
    uint64_t tiles;         /* [n_expert][row_tiles][k_tiles][tile_bytes] */
    uint64_t row_scale;     /* f32 [n_expert * rows] or 0 */
    uint64_t bias;          /* f32 [n_expert * rows] or 0 */
    uint64_t expert_stride; /* bytes of tiles from an expert to the next */
    uint32_t rows, cols, row_tiles, k_tiles;
    uint32_t layout, tile_bytes;
    uint32_t seg, z;        /* K is cut into seg runs of tiles; z groups of them are summed apart (see linear.cuh) */
    uint32_t lut[4];        /* U4 and NV4: 16 values + 128 */
    float unit;             /* a power of two that results are multiplied by; 1 where tiles hold the file's factors */
    uint32_t pad;
} dweight;

enum { X_F32, X_F16, X_NORM }; /* what a gemv finds as its input: f32 rows, f16 rows (ACT_POS), f32 rows to normalise */

#define GEMV_MAX_W 3
typedef struct gemv_args {
    dweight w[GEMV_MAX_W];
    uint64_t out[GEMV_MAX_W];      /* f32 [M][ldo] */
    uint32_t ldo[GEMV_MAX_W];
    uint32_t item_begin[GEMV_MAX_W + 1]; /* of row tiles; pair mode: w[0] alone counts */
    uint32_t n_w, n_item, m, k;
    uint32_t pair, act;            /* pair: out[0] = act(w[0] x) * (w[1] x) */
    float limit, alpha;
    uint64_t x;
    uint32_t x_kind, ldx;
    uint64_t norm_w;               /* f32 [k] or 0 */
    uint64_t norm_out;             /* X_NORM: where the normalised row goes as well, f32 or (norm_f16) f16 in ACT_POS
                                    * order; or 0 */
    uint32_t norm_f16;
    float eps, plus_one;
    uint64_t residual;             /* f32 [M][ldr] or 0: out[0] = residual + product */
    uint32_t ldr;
    uint32_t out_f16;              /* out[0] is f16 in ACT_POS order (padded to 256 with zeros by whoever made it) */
    uint32_t slot_bytes, expert;   /* expert: weights are chosen by blockIdx.y */
    uint32_t pad;
    uint64_t ids;                  /* i32 [rows * n_choice] or 0: blockIdx.y is a (token, choice); m is 1 */
    uint32_t n_choice, x_per_choice;
    uint32_t x_groups;             /* HEAD_LINEAR: blockIdx.y is a (token, head), weights are experts; else 0 */
} gemv_args;

/* gemv_dense.cu: places of a warp's ring; blocks of a multiprocessor, if shared memory allows (both measured:
 * docs/kernels.md); columns that a row to be normalised has at most, for kernels _norm and _pair and for _norm8 and
 * _pair8. */
#define DENSE_PLACES(f16_row, place_bytes) ((f16_row) && (place_bytes) <= TILE_BYTES_Q4K ? 3u : 2u)
#define DENSE_BLOCKS 3u
#define DENSE_NORM 4096u
#define DENSE_NORM8 8192u
/* The products of a dense layer for one row (gemv_dense.cu), in the order in which the kernel comes to need it. */
typedef struct dense_args {
    uint64_t tiles[GEMV_MAX_W];    /* of the matrices of this launch; of a pair, both */
    uint32_t k_tiles, log_seg;     /* K is cut into 1 << log_seg runs of tiles */
    uint32_t n_item, step, groups; /* row tiles; runs of warps that share one: of the launch, of a block */
    uint32_t ring, k;              /* where in shared memory the warps' rings begin: behind the row and the sums */
    uint32_t begin[GEMV_MAX_W];    /* a matrix' first item (not of a pair) */
    uint32_t layout[GEMV_MAX_W];
    uint64_t x, norm_w;            /* f32 [k] and its norm's weights, f32 or 0; or f16 [k_tiles * 256] */
    float eps, one;                /* norm_w + one multiplies */
    uint64_t residual;             /* f32 or 0: x_kind F16 alone */
    uint32_t plain;                /* 8 runs of K in groups of 8 or 2, or 4 of 4 or 1; no row_scale, no bias */
    uint32_t per[GEMV_MAX_W];      /* runs of K that are summed apart */
    float unit[GEMV_MAX_W];
    uint32_t rows[GEMV_MAX_W];
    uint64_t row_scale[GEMV_MAX_W], bias[GEMV_MAX_W];
    uint64_t out[GEMV_MAX_W];      /* f32; of a pair, f16 in ACT_POS order */
    uint64_t norm_out;             /* the normalised row goes here as well, f32 or (norm_f16) f16 in ACT_POS order;
                                    * or 0 */
    uint32_t norm_f16, act;
    float limit, alpha;
    uint32_t lut[GEMV_MAX_W][4];
} dense_args;

/* The products of 2 to 8 rows (gemv_few.cu). */
#define FEW_ROWS 8u
#define FEW_FIXED 128u /* of shared memory: a barrier */
#define FEW_SUMS 640u  /* a warp's sums of a row tile: 8 columns of 16 and 4 floats */
typedef struct few_args {
    uint64_t tiles[GEMV_MAX_W];    /* of the matrices of this launch; of a pair, both */
    uint32_t k_tiles, log_seg;     /* K is cut into 1 << log_seg runs of tiles */
    uint32_t log_c, log_own;       /* blocks that share them, a cluster; runs that a block has of them */
    uint32_t groups, step;         /* row tiles that a block's warps, or a cluster's, share at once; all blocks' */
    uint32_t n_item, m;            /* row tiles of the launch; rows of x */
    uint32_t stride, sums, ring;   /* bytes of a row in shared memory; where sums and rings begin there */
    uint32_t buffer;               /* bytes of sums if there are two sets of them, else 0 */
    uint32_t begin[GEMV_MAX_W];    /* a matrix' first item (not of a pair) */
    uint32_t layout[GEMV_MAX_W];
    uint64_t x;                    /* f16 [m][ldx], ACT_POS */
    uint32_t ldx, ldr;
    uint64_t residual;             /* f32 [m][ldr] or 0: one matrix alone */
    uint32_t per[GEMV_MAX_W];      /* runs of K that are summed apart */
    float unit[GEMV_MAX_W];
    uint32_t rows[GEMV_MAX_W];
    uint32_t ldo[GEMV_MAX_W];
    uint64_t row_scale[GEMV_MAX_W], bias[GEMV_MAX_W];
    uint64_t out[GEMV_MAX_W];      /* f32 [m][ldo]; out_f16: one alone, in ACT_POS order */
    uint32_t out_f16, act;
    float limit, alpha;
    uint32_t lut[GEMV_MAX_W][4];
} few_args;

typedef struct rows_args {
    dweight w;
    uint64_t x;                    /* f16 [m][ldx], ACT_POS */
    uint64_t out, residual, partial; /* f32 [m][ldo], f32 or 0, f32 [z][m][rows] when w.z > 1 */
    uint32_t m, ldx, ldo, ldr, n_stage, slot_bytes;
} rows_args;

typedef struct batch_args {
    dweight w[GEMV_MAX_W];         /* same seg, z and k_tiles */
    uint64_t out[GEMV_MAX_W];      /* f32 [m][ldo]; out_f16: out[0] is f16 in ACT_POS order */
    uint32_t ldo[GEMV_MAX_W];
    uint32_t item_begin[GEMV_MAX_W]; /* of 8 row tiles; pair: of 4 of each, w[0] counts */
    uint32_t n_mat, m, pair, act;  /* pair: out[0] = act(w[0] x) * (w[1] x) */
    float limit, alpha;
    uint64_t residual;             /* f32 [m][ldr] or 0 */
    uint32_t ldr, out_f16, n_w, n_x, slot_bytes; /* n_w, n_x: places in the rings */
    uint64_t part, came;           /* f32 sums and counters of z blocks that are no cluster, or 0 */
} batch_args;

typedef struct sum_args {          /* adds the z partials of a rows kernel in order */
    dweight w;
    uint64_t partial, out, residual;
    uint32_t m, ldo, ldr;
} sum_args;

/* A block of tokens of one expert: rows [first, first + n) of the sorted (token, choice) pairs. */
typedef struct group_tile {
    uint32_t expert, first, n, pad;
} group_tile;

typedef struct prefill_args {
    dweight w[2];                  /* pair: gate and up, out = act(gate) * up; else w[0] */
    uint64_t out, residual;        /* f32 [row][ldo], or f16 in ACT_POS order; f32 [row][ldr] or 0 */
    uint64_t x;                    /* gather: f16 [row][ldx], ACT_POS; else the tensor map says where x lies */
    uint64_t tile;                 /* grouped: u32 count, 3 words of padding, then group_tile[]; 0 = one matrix */
    uint64_t pair_of;              /* grouped: i32 [pairs] number of the (token, choice) that stands at a sorted
                                    * place */
    uint32_t m, ldo, ldr, ldx, n_stage_x, n_stage_w;
    uint32_t n_rb, n_tb;           /* blocks of rows; of tokens (one matrix) */
    uint32_t pair, act, out_f16, gather, scatter; /* scatter: a row goes to the place of its pair; gather: comes from
                                                   * pair / n_choice */
    uint32_t n_choice;
    float limit, alpha;
} prefill_args;

/* ---- products with exact weights, f32 inputs and sums (precise.cu) ----------------------------------------------
 * Up to three matrices of one input, which blocks along x share; blocks along z are heads, each with its matrix (an
 * "expert"), its columns of the input and its columns of the output. Rows of mixtures are (token, choice) pairs. */
#define PRECISE_ROWS 64            /* input rows of a block of imp_precise_many, and weight rows */
#define PRECISE_SMEM 90624         /* of its shared memory: two stages of a chunk of both, and sums */
typedef struct precise_args {
    dweight w[GEMV_MAX_W];
    uint64_t out[GEMV_MAX_W];      /* f32 [m][ldo] */
    uint32_t ldo[GEMV_MAX_W];
    uint32_t begin[GEMV_MAX_W];    /* a matrix' first block along x; UINT32_MAX past the last matrix */
    uint64_t x, residual;          /* f32 [m / n_choice][ldx] (one, four: read in fours, so k, ldx and x are multiples);
                                    * f32 [m][ldr] that is added to out[0], or 0 */
    uint64_t ids;                  /* a row a time: i32 [m], the row's expert; or 0 */
    uint64_t tile, pair_of;        /* many rows: lists of the experts' rows as in prefill_args; or 0 */
    uint32_t m, k, ldx, ldr;
    uint32_t n_choice;             /* rows that share a row of x, one behind the other; 1 = none do */
    uint32_t pad;
} precise_args;

typedef struct precise_embed_args {
    dweight w;
    uint64_t tok, ext, last, out;  /* as in embed_args */
    uint32_t width, ldo;
    float scale;
} precise_embed_args;

/* ---- prompts in FP8 (fp8.cu) ------------------------------------------------------------------------------------
 * A product multiplies e4m3 rows of FP8_K(k) bytes, values in ACT_POS order on both sides. Factors are powers of two,
 * 2^fp8_exponent of the largest value, one a row of weights and one for each 128 columns of a token: scaling is exact,
 * and so are weights that were e4m3 already. A copy of weights stacks the matrices of a node, each from a multiple of
 * 128 rows on; of a pair, 8 rows of gate and 8 of up take turns and rows stand in the ACT_POS order of the columns that
 * they make, so that a thread holds gate and up of neighbours. */
#define FP8_K(k) (((k) + 127u) & ~127u)
#define FP8_ROWS(n) (((n) + 127u) & ~127u)
#define FP8_PAIR_ROW(r, up) (ACT_POS(r) / 8 * 16 + ACT_POS(r) % 8 + ((up) ? 8u : 0u))
/* Stages of 128 columns that a tile of so many tokens and rows has in shared memory. */
#define FP8_STAGES(tokens, rows) (196608 / (((tokens) + (rows)) * 128) < 8 ? 196608 / (((tokens) + (rows)) * 128) : 8)
/* The least x from -119 on with m <= 448 * 2^x, of a finite or infinite m >= 0 given as the bits of a float. */
#ifdef __CUDACC__
static __device__ __forceinline__
#else
static inline
#endif
    int32_t fp8_exponent(uint32_t bits)
{
    const int32_t field = (int32_t)(bits >> 23);
    return field < 16 ? -119 : field - 127 - ((bits & 0x7FFFFF) <= 0x600000 ? 8 : 7);
}

enum { FP8_FROM_F32, FP8_FROM_NORM, FP8_FROM_F16 }; /* op_args.flag2 of imp_fp8_rows: what the rows are */

typedef struct fp8_copy_args {     /* tiles of one matrix to rows of a copy */
    dweight w;
    uint64_t dst, scale, bias;     /* of the matrix' first row; f32 [rows of the copy]; bias or 0 */
    uint32_t ld, pair;             /* pair: 1 gate, 2 up */
} fp8_copy_args;

typedef struct fp8_part {          /* a matrix of the stack: rows [row0, row0 + rows) */
    uint64_t out, residual;        /* f32 [m][ldo], f32 [m][ldr] or 0 */
    uint32_t row0, rows, ldo, ldr;
} fp8_part;

typedef struct fp8_args {
    fp8_part part[GEMV_MAX_W];     /* pair: part[0].out is f16 [m][ldo] in ACT_POS order, rows counts gate's */
    uint64_t out_scale;            /* pair: f32 [ldo / 128][ldos] or 0; if there, part[0].out is e4m3 [m][ldo] */
    uint64_t x_scale, w_scale, bias; /* f32 [n_k][ldx], f32 [rows of the copy]; the same or 0 */
    uint32_t ldx, ldos, n_part, m;
    uint32_t n_k, n_rb, n_tb;      /* columns / 128; blocks of rows and of tokens */
    uint32_t pair, act, even; /* even: all widths are, so that two results are stored at once */
    float limit, alpha;
} fp8_args;

typedef struct sort_args {         /* counting sort of (token, choice) by expert */
    uint64_t ids;                  /* i32 [n_pair] */
    uint64_t pair_of;              /* i32 [n_pair] out */
    uint64_t tile;                 /* out, as in prefill_args */
    uint32_t n_pair, n_expert, n_tok; /* n_tok: pairs a tile */
} sort_args;

typedef struct repack_args {
    uint64_t src;                  /* raw rows */
    uint64_t src_stride;           /* bytes a row */
    uint64_t scale;                /* f32 scales (F8: [rows][n_scale]) or 0 */
    dweight w;
    uint64_t dst;                  /* tiles of the expert */
    uint32_t format, row0, n_rows, cols, n_scale, gran_cols;
    uint64_t peak;                 /* u32 or 0: the largest PEAK_OF so far; where there is one, tiles get a unit */
} repack_args;

/* How large a matrix' scales are: those of every group are below 2^(peak - 14). Then unit, and what factors in tiles
 * are multiplied by. */
#define PEAK_UNIT(peak) ((int32_t)(peak) - 5)   /* exponents of two */
#define PEAK_FACTOR(peak) (29 - (int32_t)(peak))
#define PEAK_MIN(peak) (11 - (int32_t)(peak))   /* of -dmin */

typedef struct rescale_args {      /* tiles of a matrix with the file's factors to tiles with a unit */
    dweight w;
    uint64_t peak, n_tile;
} rescale_args;

/* ---- the step's tables, in device memory ------------------------------------------------------------------------- */
typedef struct tok_desc {
    int32_t id, seq, kv_index, vis_begin, vis_end, pos[3], cls;
    int32_t from; /* id -2: its external row; -1: the slot whose last token it is */
} tok_desc;
typedef struct seq_desc {
    int32_t table[4], base[4]; /* offset into the table array; first block's number */
    int32_t n_kv, slot, state_in, state_out, tok_begin, tok_end, save_begin, n_save;
} seq_desc;

/* Decode attention is cut at absolute positions: every 128 up to 2048, then every 512. */
#define PART_LD(d) ((d) + 4)
#define ATTEND_POS 32u /* positions of a warp of imp_attend_h* and _f* */
#define SPLIT_FINE 128u
#define SPLIT_COARSE 512u
#define SPLIT_FROM 2048u
#define SPLIT_OF(pos)                                                                                                  \
    ((pos) < SPLIT_FROM ? (pos) / SPLIT_FINE : SPLIT_FROM / SPLIT_FINE + ((pos) - SPLIT_FROM) / SPLIT_COARSE)
#define SPLIT_BEGIN(s)                                                                                                 \
    ((s) <= SPLIT_FROM / SPLIT_FINE ? (s) * SPLIT_FINE                                                                 \
                                    : SPLIT_FROM + ((s) - SPLIT_FROM / SPLIT_FINE) * SPLIT_COARSE)

typedef struct attend_args {
    uint64_t q;            /* f32 [T][ldq] */
    uint64_t out;          /* f32 [T][ldo], or f16 in ACT_POS order */
    uint64_t kv;           /* first byte of the group's blocks */
    uint64_t tok, seq, table;
    uint64_t sinks;        /* f32 [n_head] or 0 */
    uint64_t part, counter; /* split results: f32 [T][n_head][n_split][PART_LD(d)], d columns, largest score, sum;
                             * u32 [T][n_kv_head] */
    uint64_t block_bytes, k_off, v_off; /* a block, and K and V of the slot inside it */
    uint32_t ldq, ldo, out_f16, n_head, n_kv_head, d_k, d_v, k_width, v_width, block_size, group, window, n_split;
    uint32_t tok0, n_tok;
    uint32_t heads;              /* query heads of a block at most */
    /* imp_attend_h* and _f*: */
    uint32_t warps, by_four;     /* a power of two; rows of K and V can be read by fours */
    uint32_t k_at, place;        /* floats of shared memory before the warps' places; a place */
    uint32_t v_at, v_ld;         /* where V begins in a place, 0: where K does; a row of V */
    /* imp_attend_d and _q: */
    uint32_t span;               /* positions a block takes: it has the splits that begin there */
    uint32_t group_heads;        /* query heads of a kv head */
    uint32_t sub_shift;          /* log2 of the blocks that share a kv head */
    uint32_t block_shift;        /* log2 of block_size */
    uint32_t box_shift, box_cols; /* log2 of the runs of a cache block that are 32 positions; copies a run */
    uint32_t sums_bytes;         /* of shared memory for the warps' sums (run_attend.c) */
    uint32_t cluster, share;     /* blocks of a token and kv head are a cluster; log2 of the fours of columns each
                                  * combines */
    float scale, softcap;
} attend_args;

typedef struct rope_args {
    uint64_t freq;
    uint32_t n_head, head_dim, rot, rot_off, interleaved, section[3];
    float mscale;
} rope_args;

typedef struct qkv_args {  /* norm (optional), rope (optional) of q and k, then store k and v */
    uint64_t q, k, v;      /* f32 [T][ld]; q is rewritten in place */
    uint32_t ldq, ldk, ldv;
    uint64_t q_norm, k_norm, v_norm; /* f32 [head_dim] or 0 */
    uint32_t has_q_norm, has_k_norm, has_v_norm;
    float q_eps, k_eps, v_eps, q_plus, k_plus, v_plus;
    rope_args rope_q, rope_k;
    uint32_t has_rope_q, has_rope_k, n_tok, k_head_dim, n_k_head, v_head_dim, n_v_head;
    uint64_t kv, block_bytes, k_off, v_off, tok, seq, table;
    uint32_t k_width, v_width, block_size, group, kv_f32;
} qkv_args;

/* The same for imp_attend_q*, whose blocks do that work: queries, K and V, by kind. */
typedef struct head_kind {
    uint64_t src, w;       /* f32 [T][ld]; weights of the norm f32 [n] or 0 */
    uint32_t ld, n, norm;  /* n: columns of a head */
    float eps, plus, part; /* part: 1 / n */
} head_kind;
typedef struct newest_args {
    head_kind kind[3];
    rope_args rope[2];     /* of queries and K; rot 0: none */
} newest_args;

/* One elementwise or row-wise operation; what the fields mean stands with the kernel. */
typedef struct op_args {
    uint64_t a, b, c, w, bias, out, out2, tok, seq, table;
    uint32_t lda, ldb, ldo, ldo2;
    uint32_t n_row, width;         /* of the output */
    uint32_t b_width, group, groups, off, stride, a_w, b_w, flag, flag2, out_f16, k;
    float scale, eps, plus_one, limit, alpha;
    uint32_t act, row0;
} op_args;

typedef struct embed_args {
    dweight w;
    uint64_t tok, ext, last, out;  /* last: i32 [n_seq] token of each slot */
    uint32_t n_tok, width, ldo;
    float scale;
} embed_args;

typedef struct route_args {
    uint64_t scores, bias, ids, weights, factor; /* factor: f32 [n_expert] on each expert's weight, or 0 */
    uint32_t lds, n_tok, n_expert, k, score, n_group, topk_group, group_top, renormalise;
    float renorm_eps, scale;
} route_args;

/* A mixture of experts for few tokens (experts.cu). Both of its kernels choose for themselves: route.ids and
 * route.weights are not written. */
typedef struct experts_args {
    dweight w[2];                  /* up: gate and up; down: w[0] */
    route_args route;
    uint64_t x;                    /* up: [tok][ldx], f32 or f16 in ACT_POS order; down: f16 [tok * k][k_tiles * 256],
                                    * the same */
    uint64_t out;                  /* up: f16 [tok * k][ldo] in ACT_POS order; down: f32 [tok][ldo] */
    uint64_t residual;             /* down: f32 [tok][ldr] that is added, or 0 */
    uint32_t ldx, ldo, ldr, x_f32, act;
    float limit, alpha;
    uint32_t eight;                /* up: K in eight segments, summed in order or by twos, nothing behind them */
    uint32_t pairs;                /* down: K in two segments that are summed apart, nothing behind them, k at most 8 */
    uint64_t unsent;               /* _p of down: the next mixture's scores as words (below) that are to be made
                                    * unsent, or 0 */
} experts_args;
/* Shared memory: up: the choice, sums of two rounds; x; rings. Down: choices, weights, residual; sums of k experts in
 * seg segments, then of each; x; rings. Eight warps, each with a ring of so many tiles. */
#define EXPERTS_UP_STAGES 2u
#define EXPERTS_DOWN_STAGES 3u
#define EXPERTS_UP_FIXED 2176u
#define EXPERTS_DOWN_FIXED(k, seg) ((320u + (k) * ((seg) + 1) * 64u + 127u) & ~127u)
#define EXPERTS_ROUTE_BYTES 6656u  /* room that a choice among many needs: route_scratch and a token's scores */

/* The same of `up` with the row's norm and the router's product in it (imp_experts_up_*_r): one token, the router in
 * F16, 16 experts each of the first blocks, 2,048 columns at most. Scores go to all blocks and to `down` as words that
 * say of themselves whether they were sent: UNSENT, a NaN that no score is. Each mixture of a plan has words of its
 * own; `down` of one makes those of the next unsent, the last one's those of the first. */
#define UNSENT 0xFFFFFFFFu
typedef struct routed_args {
    dweight w[2], router;          /* gate and up; all of eight tiles along K, each a segment */
    route_args route;              /* scores, ids and weights are not used */
    uint64_t x, norm_w;            /* f32 [k], the row that is normalised, and the norm's weights, f32 [k] or 0 */
    uint64_t sent;                 /* the scores' words [n_expert] */
    uint64_t out;                  /* f16 [choice][ldo] in ACT_POS order */
    uint32_t k, ldo;
    float eps, one;                /* norm_w + one multiplies */
} routed_args;
/* Shared memory: the choice, the norm's scratch; scores; the router's parts [16][8]; x; sums of a block's
 * row tiles [gate, up][segment][16]; the warps' rings, and until there is a choice the router's tiles. */
#define ROUTED_SCORES 64u
#define ROUTED_PARTS 576u
#define ROUTED_X 1152u
#define ROUTED_SUMS (ROUTED_X + 8 * TILE_COLS * 2)
#define ROUTED_RINGS(tiles) (ROUTED_SUMS + (tiles) * 1024u)
#define ROUTED_STAGES 2u
#define ROUTED_WARPS 16u

typedef struct kvstore_args {
    uint64_t k, v, kv, block_bytes, k_off, v_off, tok, seq, table;
    uint32_t ldk, ldv, k_width, v_width, block_size, group, n_tok, kv_f32;
} kvstore_args;

typedef struct scan_args { /* CONV, GDN, MAMBA2: one sequence's tokens in order */
    uint64_t x, q, k, v, g, beta, bmat, cmat, dt, w, bias, a_log, d, dt_bias, out;
    uint64_t state, state_stride; /* f32; bytes from a state slot to the next; the op's own offset is in `state` */
    uint64_t tok, seq, save;
    uint32_t ldx, ldq, ldk, ldv, ldg, ldb, ldbm, ldcm, lddt, ldo;
    uint32_t n_seq, width, taps, act, n_k_head, n_v_head, d_k, d_v, tiled, n_head, head_dim, n_group, d_state, negexp;
} scan_args;

/* ---- sampling ---------------------------------------------------------------------------------------------------- */
typedef struct row_desc {
    int32_t tok, slot, want, greedy;
    uint64_t host_id; /* greedy: i32 in pinned memory, where the host looks for the token */
} row_desc;
typedef struct greedy_args {
    uint64_t logits, row, out_id, last, part; /* part: u64 [rows][n_part]; out_id i32 [rows] */
    uint32_t ldl, n_vocab, n_part, n_row;
    uint64_t counter;
} greedy_args;

#endif

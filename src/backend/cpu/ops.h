/* ops: the operations that do not multiply by quantised weights, as one table of functions an instruction set.
 * ops_body.h is compiled once for each (ops_base.c, ops_avx2.c, ops_avx512.c). All are pure over caller's memory, take
 * rows of f32 and neither allocate nor fail. Results depend on the row alone. */
#ifndef IMP_BACKEND_CPU_OPS_H
#define IMP_BACKEND_CPU_OPS_H

#include "plan/plan.h"

/* Activations as integers: a block of 32 values is x = d * n, and a product is the exact integer sum of w * n in 32
 * bits times both factors. n has more bits than the multipliers' bytes: one byte a value would be off by half a
 * percent, which layers add up to a few percent of a logit. Two forms, chosen by where a value goes (exec.c):
 * CPU_Q22: n = 16384 * hi + 128 * mid + lo, |n| <= 2080768, three signed bytes a value: 32 hi, 32 mid, 32 lo. A product
 *   is the exact sum of w * (128 * hi + mid) and that of w * lo, each made f32, the first times 128 added to the
 *   second.
 * CPU_Q12: columns c and c + 8 of each sixteen are a pair (i, j), and share one further byte t beside their own bytes:
 *   n_i = 256 * h_i + t, n_j = 256 * h_j + 16 * t, where t = 16 * r_i + r_j carries the low four bits of both. So that
 *   w_i * n_i + w_j * n_j = 256 * (w_i * h_i + w_j * h_j) + t * (w_i + 16 * w_j): what t brings along too much,
 *   256 * r_i * w_j, was taken off h_j before, and r_j * w_i before n_i was rounded. |n| <= 30352 in steps of 16, 32
 *   bytes h, then 16 bytes t; half as much again as plain bytes. Where weights have four bits, w_i + 16 * w_j is the
 *   byte that the pair is stored in; wider ones are rounded to eight bits for it, far below a step of h.
 * Q12's error vanishes behind that of 4-bit weights. A router is another matter: it chooses by differences, and
 * whatever error there is turns a choice over where two experts come closer than it. With 22 bits what is left is what
 * f32 sums leave too. */
typedef enum cpu_qform { CPU_Q22, CPU_Q12, CPU_QFORMS } cpu_qform;

typedef struct cpu_qmeta {
    float d;             /* absmax / 2080768 or / 30336; NaN or infinite when the block holds such a value */
    float s[2], s_all;   /* d * sum of n: of each half, of all */
    int32_t z[2], z_all; /* Q12: the integer sums of n; Q22: of 128 * hi + mid */
    int16_t z_lo[2];     /* the sums of lo (Q22), of t (Q12) */
} cpu_qmeta;

enum { CPU_QBLOCK_MAX = 96 };
/* Bytes kept for one block of 32; Q12 leaves the last 16 as they are. */
static inline long cpu_qblock(cpu_qform form) { return form == CPU_Q22 ? 96 : 64; }

/* Quantised activations of n tokens. Tokens come in tiles of 16 (the last one smaller): tile i starts at
 * q + i*16*B*nb, meta + i*16*nb; inside a tile of h tokens, block b of token t is at B*(b*h + t), meta (b*h + t),
 * B = cpu_qblock. A product over one token thus reads straight on, and a tile is what a matrix unit wants. */
typedef struct cpu_qact {
    int8_t *q;
    cpu_qmeta *meta;
    long nb; /* blocks a token */
    long n_tok;
} cpu_qact;

enum { CPU_TILE = 16, CPU_KV_TILE = 64, CPU_ATTEND_ROWS = 64 };

/* One query head of one token. Sees positions [lo, hi). */
typedef struct cpu_attend_row {
    const float *q; /* [d_k] */
    float *o;       /* [d_v] */
    int32_t lo, hi;
    float sink;     /* a logit without a value; -INFINITY = none */
} cpu_attend_row;

/* Where the keys and values of one layer lie. A block holds, for this slot at off_k: for each kv head [block][d_k], or
 * when tiled [block/16][d_k][16], so that sixteen positions of one column are together; at off_v: each head
 * [block][d_v]. */
typedef struct cpu_kv_view {
    const uint8_t *base;
    uint64_t block_bytes, off_k, off_v;
    quant_id type;    /* F32, F16 or BF16 */
    int32_t block;    /* tokens a block */
    bool tiled;       /* false for latent groups and blocks that 16 does not divide */
    bool v_in_k;      /* the value is the key's prefix */
    uint32_t d_k, d_v;
} cpu_kv_view;

typedef struct cpu_attend_task {
    cpu_kv_view kv;
    const int32_t *table; /* of the sequence */
    int32_t table_base;
    uint32_t head;        /* kv head */
    float scale, softcap;
    int32_t n_row;        /* <= CPU_ATTEND_ROWS */
    cpu_attend_row row[CPU_ATTEND_ROWS];
} cpu_attend_task;

/* Recurrences. What makes them fast is that columns of a state know nothing of each other: a task is at most
 * CPU_SCAN_COLS columns of one head, whose state (n_row x n_col floats, 32 KB for widths of 128) stays in the first
 * cache while all tokens of a sequence walk over it; heads and column tiles spread over threads. Rows of token t start
 * ld floats after t-1's. */
enum { CPU_SCAN_COLS = 64, CPU_CONV_TAPS = 64 };

typedef struct cpu_scan_rows {
    const float *p;
    long ld;
} cpu_scan_rows;

/* Gated delta rule: d = beta (v - e^g S^T k); o = e^g S^T q + (q.k) d; S = e^g S + k d^T, which is o = S^T q of the
 * new S. */
typedef struct cpu_gdn_task {
    float *state;              /* [d_k][n_col] */
    cpu_scan_rows q, k;        /* [d_k] */
    cpu_scan_rows v;           /* [n_col] */
    cpu_scan_rows g, beta;     /* one value */
    float *o;                  /* [n_col] a token */
    long ld_o, n_tok, d_k, n_col;
} cpu_gdn_task;

/* Mamba-2: S = e^(A dt) S + B (dt x)^T; y = S^T C + D x, dt = softplus(raw + bias). */
typedef struct cpu_mamba2_task {
    float *state;              /* [d_state][n_col] */
    cpu_scan_rows x;           /* [n_col] */
    cpu_scan_rows b, c;        /* [d_state] */
    cpu_scan_rows dt;          /* one value, raw */
    float A, D, dt_bias;
    float *y;                  /* [n_col] a token */
    long ld_y, n_tok, d_state, n_col;
} cpu_mamba2_task;

/* Causal depthwise convolution, then the activation; at most 16 channels. */
typedef struct cpu_conv_task {
    float *state;              /* [taps-1] rows of the last inputs, oldest first, ld_state floats apart */
    const float *w, *bias;     /* [n_col][taps]; [n_col] or NULL */
    cpu_scan_rows x;
    float *y;
    long ld_y, ld_state, n_tok, n_col;
    uint32_t taps;             /* 2 to CPU_CONV_TAPS */
    plan_act act;
} cpu_conv_task;

typedef struct cpu_ops {
    const char *isa;
    /* y = x / sqrt(mean(x^2) + eps) * (w + w_add), groups of `group`; w NULL = 1; w_step: how w advances a group
     * (0 or group) */
    void (*rms_norm)(float *y, const float *x, const float *w, float w_add, long n, long group, long w_step, float eps);
    void (*layer_norm)(float *y, const float *x, const float *w, const float *bias, long n, float eps);
    void (*l2_norm)(float *y, const float *x, long n, long group, float eps, float scale);
    void (*add)(float *y, const float *a, const float *b, float b_scale, long n);
    void (*mul)(float *y, const float *a, const float *b, long n);
    void (*scale)(float *y, const float *a, float s, long n);
    void (*softcap)(float *y, const float *x, float cap, long n);
    void (*act)(float *y, const float *x, plan_act f, long n);
    void (*glu)(float *y, const float *gate, const float *up, plan_act f, float limit, float alpha, long n);
    void (*gate)(float *y, const float *x, const float *g, long n, long group);
    /* cs: rot/2 cosines, then rot/2 sines */
    void (*rope)(float *y, const float *x, const float *cs, const plan_rope *r);
    /* blocks [b0, b1) of one token whose first block lies at q, meta; step: tokens between its blocks. n columns are
     * real. */
    void (*quantise[CPU_QFORMS])(const float *x, long n, long b0, long b1, int8_t *q, cpu_qmeta *meta, long step);
    /* y[t][r] = sum of x[t] * w[r] (+ bias[r]); w rows of n f32, f16 or bf16, `stride` bytes apart */
    void (*matmul)(float *y, long ldy, const float *x, long ldx, long n_tok, const uint8_t *w, uint64_t stride,
                   quant_id type, long n_row, long n, const float *bias);
    void (*kv_put)(const cpu_kv_view *kv, uint8_t *block, uint32_t n_head, int32_t at, const float *k, const float *v);
    /* work: cpu_attend_work(d_k, d_v) floats, 64-byte aligned */
    void (*attend)(const cpu_attend_task *t, float *work);
    /* y[n] (+)= w * x, in order */
    void (*axpy)(float *y, const float *x, float w, long n, bool add);
    /* largest finite value of those whose bit is set, lowest index; -1: none. mask: a bit for each value, NULL = all */
    long (*argmax)(const float *x, const uint32_t *mask, long n);
    void (*gdn)(const cpu_gdn_task *t);
    void (*mamba2)(const cpu_mamba2_task *t);
    void (*conv)(const cpu_conv_task *t);
    uint64_t (*sum_words)(const uint64_t *p, long n); /* reads memory as fast as it can; n a multiple of 64 */
} cpu_ops;

static inline uint64_t cpu_attend_work(uint32_t d_k, uint32_t d_v)
{
    return (uint64_t)CPU_KV_TILE * (d_k + d_v) + (uint64_t)CPU_ATTEND_ROWS * (CPU_KV_TILE + d_v + 16) + 64;
}

extern const cpu_ops cpu_ops_base, cpu_ops_avx2, cpu_ops_avx512;

#endif

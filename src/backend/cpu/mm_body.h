/* mm_body: products of panels with quantised activations, sixteen rows a register. Includer defines, after unpack.h:
 *   mm_dot(acc, w, a): acc + w . a for groups of four bytes, w as unpacked, a signed (the four bytes at a for every
 *                      row)
 *   MM_MAX: tokens a block of registers
 * For every row and token the order is one: over blocks of 32 columns, acc = fma(f * d_a, d_w, acc), where f is the dot
 * as f32 (Q22: fma(dot, 128, dot of lo)), then acc = fma(-m_w, s_a, acc) where there are minima; where scales change
 * every 16 columns, each half so in turn. The dots are exact, so kernels that differ in anything else agree in every
 * bit; mm_avx2 and mm_amx follow the same order in their own ways. */
#include <string.h>

#include "backend/cpu/pack.h"

typedef __m512i mm_i;
U_INLINE mm_i mm_seti(int v) { return _mm512_set1_epi32(v); }
U_INLINE mm_i mm_addi(mm_i a, mm_i b) { return _mm512_add_epi32(a, b); }
U_INLINE uf mm_fma(uf a, uf b, uf c) { return _mm512_fmadd_ps(a, b, c); }
U_INLINE uf mm_fnma(uf a, uf b, uf c) { return _mm512_fnmadd_ps(a, b, c); }
U_INLINE void mm_store(float *y, uf v, long n, const float *bias)
{
    __mmask16 k = n >= 16 ? 0xFFFF : (__mmask16)((1u << n) - 1);
    if (bias)
        v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(k, bias));
    _mm512_mask_storeu_ps(y, k, v);
}

/* The sums of one block of 32 columns and one token as f32, out[0] of all or of the first sixteen columns, out[1] of
 * the others where X_SPLIT. Q22: from high, middle (e, f) and low bytes (g); Q12: from own bytes (e) and what pairs
 * share (f). The correction for ZERO goes with f and g. */
#define MM_SUMS22(X, w, at, meta, out)                                                              \
    do {                                                                                            \
        mm_i e[2] = {mm_seti(0), mm_seti(0)}, f[2], g[2];                                           \
        f[0] = mm_seti(-X##_ZERO * (X##_SPLIT ? (meta)->z[0] : (meta)->z_all));                     \
        f[1] = mm_seti(-X##_ZERO * (meta)->z[1]);                                                   \
        g[0] = mm_seti(-X##_ZERO * (X##_SPLIT ? (meta)->z_lo[0] : (meta)->z_lo[0] + (meta)->z_lo[1])); \
        g[1] = mm_seti(-X##_ZERO * (meta)->z_lo[1]);                                                \
        for (int k = 0; k < 8; k++) {                                                               \
            int i = X##_SPLIT ? k / 4 : 0;                                                          \
            e[i] = mm_dot(e[i], w[k], (at) + 4 * k);                                                \
            f[i] = mm_dot(f[i], w[k], (at) + 32 + 4 * k);                                           \
            g[i] = mm_dot(g[i], w[k], (at) + 64 + 4 * k);                                           \
        }                                                                                           \
        for (int i = 0; i <= X##_SPLIT; i++)                                                        \
            out[i] = mm_fma(u_cvt32(mm_addi(u_shl32(e[i], 7), f[i])), u_setf(128), u_cvt32(g[i]));  \
    } while (0)

#define MM_SUMS12(X, w, p, at, meta, out)                                                           \
    do {                                                                                            \
        mm_i e[2] = {mm_seti(0), mm_seti(0)}, f[2];                                                 \
        f[0] = mm_seti(-(X##_ZERO >> U_DROP(X##_BITS)) * (X##_SPLIT ? (meta)->z[0] : (meta)->z_all)); \
        f[1] = mm_seti(-(X##_ZERO >> U_DROP(X##_BITS)) * (meta)->z[1]);                             \
        for (int k = 0; k < 8; k++)                                                                 \
            e[X##_SPLIT ? k / 4 : 0] = mm_dot(e[X##_SPLIT ? k / 4 : 0], w[k], (at) + 4 * k);        \
        for (int g = 0; g < 4; g++)                                                                 \
            f[X##_SPLIT ? g / 2 : 0] = mm_dot(f[X##_SPLIT ? g / 2 : 0], p[g], (at) + 32 + 4 * g);   \
        for (int i = 0; i <= X##_SPLIT; i++)                                                        \
            out[i] = u_cvt32(mm_addi(u_shl32(e[i], 8), u_shl32(f[i], U_DROP(X##_BITS))));           \
    } while (0)

/* One block of 32 columns for n tokens. */
#define MM_BLOCK(X, form, n, w, p, d, m, a, am, acc)                                                \
    for (int t = 0; t < (n); t++) {                                                                 \
        uf da = u_setf((am)[t].d);                                                                  \
        uf sum[2];                                                                                  \
        if ((form) == CPU_Q22)                                                                      \
            MM_SUMS22(X, w, (a) + cpu_qblock(form) * t, (am) + t, sum);                             \
        else                                                                                        \
            MM_SUMS12(X, w, p, (a) + cpu_qblock(form) * t, (am) + t, sum);                          \
        acc[t] = mm_fma(u_mul(sum[0], da), d[0], acc[t]);                                           \
        if (X##_SPLIT)                                                                              \
            acc[t] = mm_fma(u_mul(sum[1], da), d[1], acc[t]);                                       \
        if (X##_MIN && !X##_SPLIT)                                                                  \
            acc[t] = mm_fnma(m[0], u_setf((am)[t].s_all), acc[t]);                                  \
        if (X##_MIN && X##_SPLIT) {                                                                 \
            acc[t] = mm_fnma(m[0], u_setf((am)[t].s[0]), acc[t]);                                   \
            acc[t] = mm_fnma(m[1], u_setf((am)[t].s[1]), acc[t]);                                   \
        }                                                                                           \
    }

/* What a kernel is given: a panel (its first scales and quants), blocks of some tokens, `step` tokens between a token's
 * blocks. */
typedef struct mm_task {
    const uint8_t *q, *s;
    long n_super;
    const int8_t *a;
    const cpu_qmeta *am;
    long step;
    float *y;
    long ldy, n_row;
    const float *bias;
    long ahead;
} mm_task;

/* X over super-blocks of SUB blocks of 32: QB bytes of quants, SB of scales; n tokens, half h of the rows. */
#define MM_KERNEL(X, SUB, QB, SB)                                                                   \
    U_INLINE void X##_rows(const mm_task *k, cpu_qform form, int n, int h)                          \
    {                                                                                               \
        uf acc[MM_MAX];                                                                             \
        const uint8_t *q = k->q, *s = k->s;                                                         \
        const int8_t *a = k->a;                                                                     \
        const cpu_qmeta *am = k->am;                                                                \
        long step = k->step, ahead = n == 1 ? k->ahead : 0;                                         \
        for (int t = 0; t < n; t++)                                                                 \
            acc[t] = u_setf(0);                                                                     \
        for (long b = 0; b < k->n_super; b++, q += (QB) + (SB), s += (QB) + (SB)) {                 \
            _Pragma("GCC unroll 8") for (int j = 0; j < (SUB); j++)                                 \
            {                                                                                       \
                ub w[8], p[4];                                                                      \
                uf d[2], m[2];                                                                      \
                if (n == 1 && ahead)                                                                \
                    for (int i = 0; i < ((QB) + (SB)) / (SUB); i += 64)                             \
                        __builtin_prefetch(s + j * (((QB) + (SB)) / (SUB)) + i + ahead);            \
                X##_unpack(q + 32 * h, j, w);                                                       \
                if (form == CPU_Q12)                                                                \
                    X##_pairs(q + 32 * h, j, w, p);                                                 \
                X##_scales(s, h, j, d, m);                                                          \
                MM_BLOCK(X, form, n, w, p, d, m, a, am, acc)                                        \
                a += cpu_qblock(form) * step;                                                       \
                am += step;                                                                         \
            }                                                                                       \
        }                                                                                           \
        for (int t = 0; t < n; t++)                                                                 \
            mm_store(k->y + t * k->ldy, acc[t], k->n_row, k->bias);                                 \
    }                                                                                               \
    MM_ROWS(X, rows22_1, CPU_Q22, 1)                                                                \
    MM_ROWS(X, rows22_2, CPU_Q22, 2)                                                                \
    MM_ROWS(X, rows22_max, CPU_Q22, MM_MAX)                                                         \
    MM_ROWS(X, rows12_1, CPU_Q12, 1)                                                                \
    MM_ROWS(X, rows12_2, CPU_Q12, 2)                                                                \
    MM_ROWS(X, rows12_max, CPU_Q12, MM_MAX)                                                         \
    MM_FN(X, mm22, (X##_rows22_1, X##_rows22_2, X##_rows22_max), SUB, SB, CPU_Q22)                  \
    MM_FN(X, mm12, (X##_rows12_1, X##_rows12_2, X##_rows12_max), SUB, SB, CPU_Q12)

#define MM_ROWS(X, name, form, n)                                                                   \
    __attribute__((noinline)) static void X##_##name(const mm_task *k, int h) { X##_rows(k, form, n, h); }

typedef void (*mm_rows)(const mm_task *k, int h);

/* All panels times all tokens: blocks of panels that stay in the cache meet one tile of tokens after the other. */
static void mm_all(const cpu_panels *p, const cpu_qact *x, float *y, long ldy, long n_row, const float *bias,
                   const mm_rows rows[3], long sub, long sb, cpu_qform form)
{
    long block = x->n_tok <= CPU_TILE ? n_row : 16 * cpu_mm_panels((uint64_t)x->nb * 32);
    for (long r0 = 0; r0 < n_row; r0 += block)
        for (long t0 = 0; t0 < x->n_tok; t0 += CPU_TILE)
            for (long r = r0; r < n_row && r < r0 + block; r += 16) {
                const uint8_t *s = p->data + (uint64_t)(r / 16) * p->stride;
                mm_task k = {.q = s + sb, .s = s, .n_super = x->nb / sub, .ldy = ldy, .ahead = p->ahead};
                k.step = x->n_tok - t0 < CPU_TILE ? x->n_tok - t0 : CPU_TILE;
                for (long t = 0, n; t < k.step; t += n) {
                    n = k.step - t >= MM_MAX ? MM_MAX : k.step - t >= 2 ? 2 : 1;
                    k.a = x->q + (t0 * x->nb + t) * cpu_qblock(form);
                    k.am = x->meta + t0 * x->nb + t;
                    for (int h = 0; r + h * U_ROWS < n_row && h * U_ROWS < 16; h++) {
                        k.y = y + (t0 + t) * ldy + r + h * U_ROWS;
                        k.n_row = n_row - r - h * U_ROWS;
                        k.bias = bias ? bias + r + h * U_ROWS : NULL;
                        rows[n == 1 ? 0 : n == 2 ? 1 : 2](&k, h);
                    }
                }
            }
}

#define MM_UNWRAP(a, b, c) {a, b, c}
#define MM_FN(X, name, kernels, SUB, SB, form)                                                      \
    static void X##_##name(const cpu_panels *p, const cpu_qact *x, float *y, long ldy, long n_row,  \
                           const float *bias, void *scratch)                                        \
    {                                                                                               \
        static const mm_rows rows[3] = MM_UNWRAP kernels;                                           \
        (void)scratch;                                                                              \
        mm_all(p, x, y, ldy, n_row, bias, rows, SUB, SB, form);                                     \
    }

/* mm_body: products of panels with quantised activations, written once. Includer defines, after unpack.h:
 *   mm_dot(acc, w, a): acc + w . a for groups of four bytes, w as unpacked, a signed (the four bytes at a for every row)
 *   MM_SIGNED: mm_dot takes w - 128 of formats whose ZERO is 128 itself, so that no correction is wanted
 *   MM_MAX: tokens a block of registers
 * For every row and token the order is one: over blocks of 32 columns, acc = fma(float(dot) * d_a, d_w, acc), then
 * acc = fma(-m_w, s_a, acc) where there are minima; where scales change every 16 columns, each half so in turn. The dots
 * are exact, so kernels that differ in anything else agree in every bit. */
#include <string.h>

#include "backend/cpu/pack.h"

#ifdef __AVX512F__
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
#else
typedef __m256i mm_i;
U_INLINE mm_i mm_seti(int v) { return _mm256_set1_epi32(v); }
U_INLINE mm_i mm_addi(mm_i a, mm_i b) { return _mm256_add_epi32(a, b); }
U_INLINE uf mm_fma(uf a, uf b, uf c) { return _mm256_fmadd_ps(a, b, c); }
U_INLINE uf mm_fnma(uf a, uf b, uf c) { return _mm256_fnmadd_ps(a, b, c); }
U_INLINE void mm_store(float *y, uf v, long n, const float *bias)
{
    float t[8];
    _mm256_storeu_ps(t, v);
    for (long i = 0; i < n && i < 8; i++)
        y[i] = bias ? t[i] + bias[i] : t[i];
}
#endif

/* Zero point that the dot must be corrected by. */
#define MM_ZERO(X) (MM_SIGNED && X##_ZERO == 128 ? 0 : X##_ZERO)

/* One block of 32 columns for n tokens: e, o from the high bytes, f, g from the low ones with the correction for ZERO. */
#define MM_BLOCK(X, n, w, d, m, a, am, acc)                                                                           \
    for (int t = 0; t < (n); t++) {                                                                                   \
        const int8_t *at = (a) + CPU_QBLOCK * t;                                                                      \
        uf da = u_setf((am)[t].d);                                                                                    \
        mm_i e = mm_seti(0), o = e, g = e;                                                                            \
        mm_i f = mm_seti(X##_SPLIT ? -MM_ZERO(X) * (am)[t].z[0] : -MM_ZERO(X) * (am)[t].z_all);                       \
        if (X##_SPLIT)                                                                                                \
            g = mm_seti(-MM_ZERO(X) * (am)[t].z[1]);                                                                  \
        for (int k = 0; k < 4; k++) {                                                                                 \
            e = mm_dot(e, w[k], at + 4 * k, X##_ZERO);                                                                \
            f = mm_dot(f, w[k], at + 32 + 4 * k, X##_ZERO);                                                           \
        }                                                                                                             \
        for (int k = 4; k < 8; k++)                                                                                   \
            if (X##_SPLIT) {                                                                                          \
                o = mm_dot(o, w[k], at + 4 * k, X##_ZERO);                                                            \
                g = mm_dot(g, w[k], at + 32 + 4 * k, X##_ZERO);                                                       \
            } else {                                                                                                  \
                e = mm_dot(e, w[k], at + 4 * k, X##_ZERO);                                                            \
                f = mm_dot(f, w[k], at + 32 + 4 * k, X##_ZERO);                                                       \
            }                                                                                                         \
        acc[t] = mm_fma(u_mul(u_cvt32(mm_addi(u_shl32(e, 7), f)), da), d[0], acc[t]);                                 \
        if (X##_SPLIT)                                                                                                \
            acc[t] = mm_fma(u_mul(u_cvt32(mm_addi(u_shl32(o, 7), g)), da), d[1], acc[t]);                             \
        if (X##_MIN && !X##_SPLIT)                                                                                    \
            acc[t] = mm_fnma(m[0], u_setf((am)[t].s_all), acc[t]);                                                    \
        if (X##_MIN && X##_SPLIT) {                                                                                   \
            acc[t] = mm_fnma(m[0], u_setf((am)[t].s[0]), acc[t]);                                                     \
            acc[t] = mm_fnma(m[1], u_setf((am)[t].s[1]), acc[t]);                                                     \
        }                                                                                                             \
    }

/* X over super-blocks of SUB blocks of 32: QB bytes of quants, SB of scales. */
#define MM_KERNEL(X, SUB, QB, SB)                                                                               \
    U_INLINE void X##_rows(const uint8_t *q, const uint8_t *s, long n_super, const int8_t *a, const cpu_qmeta *am, long step, \
                           int n, int h, float *y, long ldy, long n_row, const float *bias, long ahead)         \
    {                                                                                                           \
        uf acc[MM_MAX];                                                                                         \
        for (int t = 0; t < n; t++)                                                                             \
            acc[t] = u_setf(0);                                                                                 \
        for (long b = 0; b < n_super; b++, q += (QB) + (SB), s += (QB) + (SB)) { \
            _Pragma("GCC unroll 8") for (int j = 0; j < (SUB); j++)                                             \
            {                                                                                                   \
                ub w[8];                                                                                        \
                uf d[2], m[2];                                                                                  \
                if (n == 1 && ahead)                                                                            \
                    for (int i = 0; i < ((QB) + (SB)) / (SUB); i += 64)                                         \
                        __builtin_prefetch(s + j * (((QB) + (SB)) / (SUB)) + i + ahead);                        \
                X##_unpack(q + 32 * h, j, w);                                                                   \
                X##_scales(s, h, j, d, m);                                                                      \
                MM_BLOCK(X, n, w, d, m, a, am, acc)                                                             \
                a += CPU_QBLOCK * step; \
                am += step;                                                                                     \
            }                                                                                                   \
        }                                                                                                       \
        for (int t = 0; t < n; t++)                                                                             \
            mm_store(y + t * ldy, acc[t], n_row, bias);                                                         \
    }                                                                                                           \
    __attribute__((noinline)) static void X##_rows1(const uint8_t *q, const uint8_t *s, long n_super, const int8_t *a, \
                                                    const cpu_qmeta *am, long step, int h, float *y, long ldy, long n_row, \
                                                    const float *bias, long ahead)                              \
    {                                                                                                           \
        X##_rows(q, s, n_super, a, am, step, 1, h, y, ldy, n_row, bias, ahead);                                 \
    }                                                                                                           \
    __attribute__((noinline)) static void X##_rows_max(const uint8_t *q, const uint8_t *s, long n_super, const int8_t *a, \
                                                       const cpu_qmeta *am, long step, int h, float *y, long ldy, long n_row, \
                                                       const float *bias, long ahead)                           \
    {                                                                                                           \
        (void)ahead;                                                                                            \
        X##_rows(q, s, n_super, a, am, step, MM_MAX, h, y, ldy, n_row, bias, 0);                                \
    }                                                                                                           \
    __attribute__((noinline)) static void X##_rows2(const uint8_t *q, const uint8_t *s, long n_super, const int8_t *a, \
                                                    const cpu_qmeta *am, long step, int h, float *y, long ldy, long n_row, \
                                                    const float *bias, long ahead)                              \
    {                                                                                                           \
        (void)ahead;                                                                                            \
        X##_rows(q, s, n_super, a, am, step, 2, h, y, ldy, n_row, bias, 0);                                     \
    }                                                                                                           \
    static void X##_mm(const cpu_panels *p, const cpu_qact *x, float *y, long ldy, long n_row, const float *bias, void *scratch) \
    {                                                                                                                 \
        (void)scratch;                                                                                                \
        long block = x->n_tok <= CPU_TILE ? n_row : 16 * cpu_mm_panels((uint64_t)x->nb * 32);                         \
        for (long r0 = 0; r0 < n_row; r0 += block)                                                                    \
            for (long t0 = 0; t0 < x->n_tok; t0 += CPU_TILE)                                                          \
                for (long r = r0; r < n_row && r < r0 + block; r += 16) {                                             \
                    const uint8_t *s = p->data + (uint64_t)(r / 16) * p->stride, *q = s + (SB);                   \
                    long step = x->n_tok - t0 < CPU_TILE ? x->n_tok - t0 : CPU_TILE;                                  \
                    for (long t = 0; t < step;) {                                                                     \
                        const int8_t *a = x->q + (t0 * x->nb + t) * CPU_QBLOCK;                                       \
                        const cpu_qmeta *am = x->meta + t0 * x->nb + t;                                               \
                        long n = step - t >= MM_MAX ? MM_MAX : step - t >= 2 ? 2 : 1, rows = n_row - r < 16 ? n_row - r : 16; \
                        for (int h = 0; h * U_ROWS < rows; h++)                                                       \
                            (n == 1 ? X##_rows1 : n == 2 ? X##_rows2 : X##_rows_max)(                                 \
                                q, s, x->nb / (SUB), a, am, step, h, y + (t0 + t) * ldy + r + h * U_ROWS, ldy, rows - h * U_ROWS, \
                                bias ? bias + r + h * U_ROWS : NULL, p->ahead);                                       \
                        t += n;                                                                                       \
                    }                                                                                                 \
                }                                                                                                     \
    }

/* matmul_body: products with float weights as they lie in the file. Each (row, token) sums 16 lanes over the columns in
 * order and then the lanes, whatever block of rows and tokens it is computed in. */
#include "backend/cpu/vec.h"

#if VEC_PARTS == 1
enum { MM_ROWS = 4, MM_TOKS = 4 };
#else
enum { MM_ROWS = 2, MM_TOKS = 2 };
#endif

VEC_INLINE v16 load_tail(quant_id type, const uint8_t *p, long i, long n)
{
    uint8_t t[64] = {0};
    size_t es = type == QUANT_F32 ? 4 : 2;
    memcpy(t, p + (size_t)i * es, (size_t)n * es);
    return v_load_type(type, t, 0);
}

VEC_INLINE void matmul_block(float *y, long ldy, const float *x, long ldx, int nt, const uint8_t *w, uint64_t stride,
                             quant_id type, int nr, long n, const float *bias)
{
    v16 acc[MM_ROWS][MM_TOKS];
    for (int r = 0; r < nr; r++)
        for (int t = 0; t < nt; t++)
            acc[r][t] = v_set(0);
    long i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 xv[MM_TOKS];
        for (int t = 0; t < nt; t++)
            xv[t] = v_load(x + t * ldx + i);
        for (int r = 0; r < nr; r++) {
            v16 wv = v_load_type(type, w + (uint64_t)r * stride, i);
            for (int t = 0; t < nt; t++)
                acc[r][t] = v_fma(wv, xv[t], acc[r][t]);
        }
    }
    if (i < n)
        for (int r = 0; r < nr; r++) {
            v16 wv = load_tail(type, w + (uint64_t)r * stride, i, n - i);
            for (int t = 0; t < nt; t++)
                acc[r][t] = v_fma(wv, v_load_n(x + t * ldx + i, n - i), acc[r][t]);
        }
    for (int r = 0; r < nr; r++)
        for (int t = 0; t < nt; t++)
            y[t * ldy + r] = v_sum(acc[r][t]) + (bias ? bias[r] : 0);
}

VEC_INLINE void matmul_type(float *y, long ldy, const float *x, long ldx, long n_tok, const uint8_t *w, uint64_t stride,
                            quant_id type, long n_row, long n, const float *bias)
{
    for (long r = 0; r < n_row; r += MM_ROWS)
        for (long t = 0; t < n_tok; t += MM_TOKS) {
            long nr = n_row - r < MM_ROWS ? n_row - r : MM_ROWS, nt = n_tok - t < MM_TOKS ? n_tok - t : MM_TOKS;
            const uint8_t *wr = w + (uint64_t)r * stride;
            const float *b = bias ? bias + r : NULL;
            if (nr == MM_ROWS && nt == MM_TOKS)
                matmul_block(y + t * ldy + r, ldy, x + t * ldx, ldx, MM_TOKS, wr, stride, type, MM_ROWS, n, b);
            else if (nr == MM_ROWS)
                for (long j = 0; j < nt; j++)
                    matmul_block(y + (t + j) * ldy + r, ldy, x + (t + j) * ldx, ldx, 1, wr, stride, type, MM_ROWS, n,
                                 b);
            else
                for (long j = 0; j < nt; j++)
                    for (long k = 0; k < nr; k++)
                        matmul_block(y + (t + j) * ldy + r + k, ldy, x + (t + j) * ldx, ldx, 1,
                                     wr + (uint64_t)k * stride, stride, type, 1, n, b ? b + k : NULL);
        }
}

static void matmul(float *y, long ldy, const float *x, long ldx, long n_tok, const uint8_t *w, uint64_t stride,
                   quant_id type, long n_row, long n, const float *bias)
{
    if (type == QUANT_F32)
        matmul_type(y, ldy, x, ldx, n_tok, w, stride, QUANT_F32, n_row, n, bias);
    else if (type == QUANT_F16)
        matmul_type(y, ldy, x, ldx, n_tok, w, stride, QUANT_F16, n_row, n, bias);
    else
        matmul_type(y, ldy, x, ldx, n_tok, w, stride, QUANT_BF16, n_row, n, bias);
}

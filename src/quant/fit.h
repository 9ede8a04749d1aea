/* fit: finding scales, shared by the encoders. A group of n values (a multiple of 4, at most 32) is to become
 * q * d + m with whole q in [lo, hi], minimising the sum of w * error^2. Pure functions on finite input; private to
 * src/quant. All results are finite; a group that cannot be improved on by any scale gets d = 0. */
#ifndef IMP_QUANT_FIT_H
#define IMP_QUANT_FIT_H

#include <stddef.h>

#define FIT_MAX_BLOCK 256

/* What an encoder works on: a block's values made finite and weights scaled to at most 1, so that sums of squares stay
 * in range whatever the file holds. */
typedef struct fit_block {
    _Alignas(16) float x[FIT_MAX_BLOCK];
    _Alignas(16) float w[FIT_MAX_BLOCK];
} fit_block;

/* NaN and infinity become 0, magnitudes stop at `limit` (<= 1e12); weight NULL, or none above 0: all 1. */
void fit_load(fit_block *b, const float *x, const float *weight, size_t n, float limit);

typedef struct fit_levels {
    float lo, hi;  /* lo < 0 < hi for fit_scale, lo = 0 for fit_scale_min */
    int n_in;      /* scales tried that put the largest value inside the outermost level */
    int n_out;     /* and outside it, where it is clipped */
    float step;    /* between two tries, in levels at the largest value; n_in * step < hi */
} fit_levels;

/* Best d for m = 0; either sign. */
float fit_scale(const float *x, const float *w, size_t n, const fit_levels *l);
/* Best d >= 0 and m; m <= 0 when it may only lower (K formats). */
float fit_scale_min(const float *x, const float *w, size_t n, const fit_levels *l, int m_not_above_0, float *m);
/* Sum of w * error^2 with the best q for given d and m. */
float fit_error(const float *x, const float *w, size_t n, float d, float m, float lo, float hi);
/* That q, minus lo. */
void fit_quantise(const float *x, size_t n, float d, float m, float lo, float hi, unsigned char *q);

/* Index of the largest magnitude. */
size_t fit_largest(const float *x, size_t n);

#endif

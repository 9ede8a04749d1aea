/* kquants: private to the K family's two files (decode, encode). */
#ifndef IMP_QUANT_KQUANTS_H
#define IMP_QUANT_KQUANTS_H

#include "quant/quant_impl.h"

#define QUANT_K 256 /* values a block */

/* Scale and minimum of group g (0..7) of Q4_K and Q5_K; scale of group g (0..15) of Q3_K with its offset removed. */
void k4_scale_min(const uint8_t s[12], int g, int *sc, int *m);
int k3_scale(const uint8_t s[12], int g);

void encode_q2_k(const float *src, void *dst, size_t n, const float *weight);
void encode_q3_k(const float *src, void *dst, size_t n, const float *weight);
void encode_q4_k(const float *src, void *dst, size_t n, const float *weight);
void encode_q5_k(const float *src, void *dst, size_t n, const float *weight);
void encode_q6_k(const float *src, void *dst, size_t n, const float *weight);
void encode_q8_k(const float *src, void *dst, size_t n, const float *weight);

#endif

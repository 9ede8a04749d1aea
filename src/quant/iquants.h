/* iquants: private to the IQ family's files (decode, encode). */
#ifndef IMP_QUANT_IQUANTS_H
#define IMP_QUANT_IQUANTS_H

#include "quant/quant_impl.h"

extern const int8_t iq4_value[16]; /* ascending */

void encode_iq4_nl(const float *src, void *dst, size_t n, const float *weight);
void encode_iq4_xs(const float *src, void *dst, size_t n, const float *weight);

#endif

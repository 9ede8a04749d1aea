/* blocks: the byte layout of every block format, declared once for host C, CUDA C and C++. Layouts only: no code, no
 * ownership, nothing that can fail. Files are little-endian and so are these structs; files promise no alignment, so
 * a reader copies a block out (memcpy) before it looks at fields wider than a byte. `d` and `m` are f16 bits.
 *
 * "value i" below counts inside a block; nibble pairs put one value in the low and one in the high half of a byte. */
#ifndef IMP_QUANT_BLOCKS_H
#define IMP_QUANT_BLOCKS_H

#include <stdint.h>

#ifdef __cplusplus
#define BLK_SIZE(T, n) static_assert(sizeof(T) == (n), #T " must be " #n " bytes")
#else
#define BLK_SIZE(T, n) _Static_assert(sizeof(T) == (n), #T " must be " #n " bytes")
#endif

/* ---- legacy: 32 values, one or two f16 a block. Byte j holds value j (low) and value j + 16 (high). ---- */

typedef struct blk_q4_0 { /* d * (q - 8) */
    uint16_t d;
    uint8_t qs[16];
} blk_q4_0;
BLK_SIZE(blk_q4_0, 18);

typedef struct blk_q4_1 { /* d * q + m */
    uint16_t d, m;
    uint8_t qs[16];
} blk_q4_1;
BLK_SIZE(blk_q4_1, 20);

typedef struct blk_q5_0 { /* d * (q - 16) */
    uint16_t d;
    uint8_t qh[4];  /* bit i: fifth bit of value i */
    uint8_t qs[16];
} blk_q5_0;
BLK_SIZE(blk_q5_0, 22);

typedef struct blk_q5_1 { /* d * q + m */
    uint16_t d, m;
    uint8_t qh[4];
    uint8_t qs[16];
} blk_q5_1;
BLK_SIZE(blk_q5_1, 24);

typedef struct blk_q8_0 { /* d * q */
    uint16_t d;
    int8_t qs[32];
} blk_q8_0;
BLK_SIZE(blk_q8_0, 34);

typedef struct blk_q8_1 { /* d * q; an activation format */
    uint16_t d, s;  /* s: d * sum of qs */
    int8_t qs[32];
} blk_q8_1;
BLK_SIZE(blk_q8_1, 36);

/* ---- K: 256 values in groups of 16 or 32, group scales quantised against one f16. ---- */

typedef struct blk_q2_k { /* group g of 16: d * (scales[g] & 15) * q - dmin * (scales[g] >> 4) */
    uint8_t scales[16];
    uint8_t qs[64];   /* value i: byte 32*(i/128) + i%32, bits 2*(i%128/32) */
    uint16_t d, dmin;
} blk_q2_k;
BLK_SIZE(blk_q2_k, 84);

typedef struct blk_q3_k { /* group g of 16: d * (scale g - 32) * (low2 + 4*high - 4) */
    uint8_t hmask[32];  /* value i: byte i%32, bit i/32 */
    uint8_t qs[64];     /* as in q2_k */
    uint8_t scales[12]; /* 6 bits: low nibble of scale g in byte g%8 (high half for g >= 8), top two bits in byte
                           8 + g%4 at bit 2*(g/4) */
    uint16_t d;
} blk_q3_k;
BLK_SIZE(blk_q3_k, 110);

typedef struct blk_q4_k { /* group g of 32: d * sc * q - dmin * m */
    uint16_t d, dmin;
    uint8_t scales[12]; /* g < 4: sc = byte g & 63, m = byte g+4 & 63; else sc = low half of byte g+4, m = its high
                           half, their top two bits are the top two of bytes g-4 and g */
    uint8_t qs[128];    /* value i: byte 32*(i/64) + i%32, high half when i%64 >= 32 */
} blk_q4_k;
BLK_SIZE(blk_q4_k, 144);

typedef struct blk_q5_k { /* as q4_k with a fifth bit */
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];     /* value i: byte i%32, bit i/32 */
    uint8_t qs[128];
} blk_q5_k;
BLK_SIZE(blk_q5_k, 176);

typedef struct blk_q6_k { /* group g of 16: d * scales[g] * (q - 32) */
    uint8_t ql[128];    /* value i, low 4 bits: byte 64*(i/128) + i%64, high half when i%128 >= 64 */
    uint8_t qh[64];     /* value i, top 2 bits: byte 32*(i/128) + i%32, bits 2*(i%128/32) */
    int8_t scales[16];
    uint16_t d;
} blk_q6_k;
BLK_SIZE(blk_q6_k, 210);

typedef struct blk_q8_k { /* d * q; an activation format */
    float d;
    int8_t qs[256];
    int16_t bsums[16];  /* sums of 16 qs */
} blk_q8_k;
BLK_SIZE(blk_q8_k, 292);

/* ---- IQ: 256 values (iq4_nl: 32) as indices into grids of 8 or 4 magnitudes (iq_grids.h) and sign bits. ---- */

typedef struct blk_iq2_xxs { /* 32 values are 8 bytes: 4 grid indices, then 4 x 7 sign bits and a 4-bit scale */
    uint16_t d;
    uint16_t qs[32];
} blk_iq2_xxs;
BLK_SIZE(blk_iq2_xxs, 66);

typedef struct blk_iq2_xs { /* 8 values are 16 bits: 9 of grid index, 7 of signs */
    uint16_t d;
    uint16_t qs[32];
    uint8_t scales[8];  /* 4 bits a 16 values, low half first */
} blk_iq2_xs;
BLK_SIZE(blk_iq2_xs, 74);

typedef struct blk_iq2_s {
    uint16_t d;
    uint8_t qs[32];     /* low 8 bits of the grid index, one an 8 values */
    uint8_t signs[32];
    uint8_t qh[8];      /* top 2 bits of four indices each */
    uint8_t scales[8];
} blk_iq2_s;
BLK_SIZE(blk_iq2_s, 82);

typedef struct blk_iq3_xxs {
    uint16_t d;
    uint8_t qs[64];     /* grid index, one a 4 values */
    uint8_t aux[32];    /* little-endian u32 a 32 values: 4 x 7 sign bits, 4-bit scale on top */
} blk_iq3_xxs;
BLK_SIZE(blk_iq3_xxs, 98);

typedef struct blk_iq3_s {
    uint16_t d;
    uint8_t qs[64];     /* low 8 bits of the grid index, one a 4 values */
    uint8_t qh[8];      /* ninth bit of eight indices each */
    uint8_t signs[32];
    uint8_t scales[4];  /* 4 bits a 32 values */
} blk_iq3_s;
BLK_SIZE(blk_iq3_s, 110);

typedef struct blk_iq1_s {
    uint16_t d;
    uint8_t qs[32];     /* low 8 bits of the grid index, one an 8 values */
    uint16_t qh[8];     /* a 32 values: 4 x 3 top index bits, 3-bit scale, sign of the shift */
} blk_iq1_s;
BLK_SIZE(blk_iq1_s, 50);

typedef struct blk_iq1_m {
    uint8_t qs[32];
    uint8_t qh[16];     /* a nibble an 8 values: 3 top index bits, sign of the shift */
    uint8_t scales[8];  /* 4 little-endian u16: 4 x 3-bit scales (one a 16 values); the top nibbles together are d */
} blk_iq1_m;
BLK_SIZE(blk_iq1_m, 56);

typedef struct blk_iq4_nl { /* d * BLK_IQ4_VALUES[q]; nibbles as in q4_0 */
    uint16_t d;
    uint8_t qs[16];
} blk_iq4_nl;
BLK_SIZE(blk_iq4_nl, 18);

typedef struct blk_iq4_xs { /* group g of 32: d * (scale g - 32) * BLK_IQ4_VALUES[q] */
    uint16_t d;
    uint16_t scales_h;   /* top 2 bits of scale g at bit 2*g */
    uint8_t scales_l[4]; /* low 4 bits, low half first */
    uint8_t qs[128];     /* group g: bytes 16*g.., nibbles as in q4_0 */
} blk_iq4_xs;
BLK_SIZE(blk_iq4_xs, 136);

/* ---- ternary: 256 values of -1, 0, 1 times one f16. ---- */

typedef struct blk_tq1_0 {
    uint8_t qs[48];  /* five base-3 digits a byte, as a fraction of 256: digit n = (byte * 3^n mod 256) * 3 >> 8.
                        values 0..159: byte i%32, digit i/32; 160..239: byte 32 + i%16, digit (i-160)/16 */
    uint8_t qh[4];   /* values 240..255: byte i%4, digit (i-240)/4 */
    uint16_t d;
} blk_tq1_0;
BLK_SIZE(blk_tq1_0, 54);

typedef struct blk_tq2_0 { /* d * (q - 1); value i: byte 32*(i/128) + i%32, bits 2*(i%128/32) */
    uint8_t qs[64];
    uint16_t d;
} blk_tq2_0;
BLK_SIZE(blk_tq2_0, 66);

/* ---- FP4: E2M1 codes with small-float scales. ---- */

typedef struct blk_mxfp4 { /* 32 values: 2^(e-127) * e2m1; nibbles as in q4_0 */
    uint8_t e;
    uint8_t qs[16];
} blk_mxfp4;
BLK_SIZE(blk_mxfp4, 17);

typedef struct blk_nvfp4 { /* 64 values, group g of 16: e4m3(d[g]) * e2m1 */
    uint8_t d[4];    /* unsigned E4M3; the sign bit is ignored, 0x7F is 0 */
    uint8_t qs[32];  /* value i: byte 8*(i/16) + i%8, high half when i%16 >= 8 */
} blk_nvfp4;
BLK_SIZE(blk_nvfp4, 36);

/* Value tables as initialisers, so that a kernel can put them into the memory it likes. */
#define BLK_IQ4_VALUES {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}
#define BLK_E2M1_X2 {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12} /* twice the E2M1 value */

#endif

/* pack: quantised weights in the order in which kernels read them. Sixteen rows form a panel. For each super-block it
 * holds their scales, sixteen rows of each scale together, and then their quants, four consecutive columns of one row
 * side by side and the sixteen rows next to each other, so that 64 bytes are 16 rows x 4 columns and products need no
 * sums across lanes. A panel is read from its first byte to its last, and panels follow each other: one stream from
 * memory. Nibbles and high bits stay packed and those of a block of 32 columns lie together, so that a block is read
 * straight on: a panel takes the file's bits, but for K scales of 6 bits kept in bytes and 32 bytes a super-block of
 * Q6_K. Columns c and c + 8 of sixteen share a byte of nibbles, as CPU_Q12 wants them.
 * Pure; nothing fails. */
#ifndef IMP_BACKEND_CPU_PACK_H
#define IMP_BACKEND_CPU_PACK_H

#include "backend/cpu/ops.h"
#include "quant/quant.h"

typedef enum cpu_pack_id {
    PACK_Q4_0, PACK_Q4_1, PACK_Q5_0, PACK_Q5_1, PACK_Q8_0, PACK_Q2_K, PACK_Q3_K, PACK_Q4_K, PACK_Q5_K, PACK_Q6_K,
    PACK_IQ4_NL, PACK_IQ4_XS, PACK_MXFP4, PACK_NVFP4, PACK_COUNT
} cpu_pack_id;

typedef struct cpu_pack {
    quant_id id;
    uint32_t values;           /* a row's columns in one super-block */
    uint32_t block_bytes;      /* bytes of it in the file */
    uint32_t q_bytes, s_bytes; /* of sixteen rows of it in a panel */
    /* n super-blocks of sixteen rows; row[i] NULL gives zeros; q, s: where those of the first one go */
    void (*pack)(const uint8_t *const row[16], uint64_t n, uint8_t *q, uint8_t *s);
} cpu_pack;

extern const cpu_pack cpu_pack_table[PACK_COUNT];
const cpu_pack *cpu_pack_find(quant_id id); /* NULL: no packed layout */

/* Panels one after the other. */
typedef struct cpu_panels {
    const uint8_t *data;
    uint64_t stride; /* bytes from panel to panel */
    long ahead;      /* bytes to ask from memory in advance where few tokens stream through; 0: the machine does it
                      * itself */
} cpu_panels;

/* n_row rows of panels times all of a: y[t][0..n_row) = products (+ bias[n_row]). scratch: cpu_mm_scratch(cols) bytes,
 * 64-aligned. */
typedef void (*cpu_mm_fn)(const cpu_panels *p, const cpu_qact *a, float *y, long ldy, long n_row, const float *bias,
                          void *scratch);
typedef struct cpu_mm {
    const char *isa;
    cpu_mm_fn fn[CPU_QFORMS][PACK_COUNT]; /* by the form of the activations */
} cpu_mm;

/* Panels that meet a tile of tokens before the next tile comes: what they take unpacked
 * (cols/32 * (512 + 256 + 2 * 128) bytes each) stays in a core's second-level cache, beside a tile. */
static inline long cpu_mm_panels(uint64_t cols)
{
    uint64_t n = ((uint64_t)640 << 10) / (cols * 32 + 1);
    return n < 1 ? 1 : n > 16 ? 16 : (long)n;
}
/* Enough for those, or (AVX2) for 64 tokens as words of two bytes twice and a chunk of a panel. */
static inline uint64_t cpu_mm_scratch(uint64_t cols)
{
    uint64_t n = (uint64_t)cpu_mm_panels(cols) * cols * 32;
    return (n > cols * 256 ? n : cols * 256) + 32768;
}

extern const cpu_mm cpu_mm_avx2, cpu_mm_vnni, cpu_mm_amx;

#endif

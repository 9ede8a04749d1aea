/* weight: what a plan's operation multiplies by, as it lies in files, described and not copied.
 * A weight is a matrix of n_expert * rows rows by cols columns (a vector has one row); values are
 * data x every scale part (granularity says which scale belongs to which value) + zero handling. Slices point into
 * mapped files, which must outlive the weight. Nothing is permuted: RoPE order, partial width and +1 norms are
 * attributes of operations. Immutable after binding; any thread. */
#ifndef IMP_QUANT_WEIGHT_H
#define IMP_QUANT_WEIGHT_H

#include "quant/quant.h"

/* The logical dimension an axis runs along: a split for several devices falls on its natural boundaries. */
typedef enum weight_axis {
    AXIS_NONE, AXIS_HIDDEN, AXIS_Q_HEAD, AXIS_KV_HEAD, AXIS_FF, AXIS_EXPERT, AXIS_VOCAB, AXIS_LATENT, AXIS_STATE
} weight_axis;

typedef enum weight_role {
    PART_DATA,
    PART_SCALE,       /* value *= scale (or /= scale when part.reciprocal) */
    PART_SCALE2,      /* second-level scale, usually one a tensor */
    PART_ZERO,        /* value -= zero before scaling */
    PART_BIAS,        /* added to the product, one a row */
    PART_INPUT_SCALE  /* of the activations: not part of the value */
} weight_role;

/* Consecutive logical rows that lie at a constant distance in one file. */
typedef struct weight_slice {
    const uint8_t *data; /* first row, borrowed from a file map */
    uint64_t rows;
    uint64_t stride;     /* bytes from a row to the next; 0: one row serves all */
    const void *map;     /* NULL, or the file_map (base/file.h) it lies in, for weight_release and weight_check */
} weight_slice;

typedef struct weight_part {
    weight_role role;
    quant_id type;
    bool reciprocal;                /* compressed-tensors stores 1/scale */
    bool transposed;                /* stored [cols][rows]: element (r,c) at data + c*stride + r*size (plain types) */
    bool packed_rows;               /* I4 only: an int32 holds eight rows of one column, as compressed-tensors stores
                                       zero points: row r of a slice in the word at data + r/8*stride + c*4 */
    uint32_t gran_rows, gran_cols;  /* rows x columns one element serves, counted within an expert; 0 = all of that
                                       axis. The last row or column of elements may serve fewer. PART_DATA: 1,1 */
    uint32_t n_slices;
    const weight_slice *slices;     /* in row order; together n_expert * rows rows (or their scale rows) */
} weight_part;

#define WEIGHT_MAX_PARTS 6

typedef struct weight {
    const char *name;     /* of its first tensor, for messages */
    quant_id format;      /* of PART_DATA */
    uint32_t n_expert;    /* 1 for ordinary matrices */
    uint64_t rows, cols;  /* out features x in features, an expert */
    weight_axis row_axis, col_axis;
    uint32_t n_parts;
    weight_part part[WEIGHT_MAX_PARTS];
    uint64_t n_bytes;     /* bytes in the files, all parts: what a floor counts */
} weight;

const weight_part *weight_find(const weight *w, weight_role role); /* NULL when absent */
/* Pointer to the packed bytes of one row of PART_DATA (row counts over experts: e * rows + r); NULL when there is no
 * such row or the data is transposed. Walks the slices: hoist it out of inner loops. */
const uint8_t *weight_row(const weight *w, uint64_t row);
/* Values of rows [row, row + n) to dst[n][cols] f32: ((data - zero) * scale) * scale2, each step rounded to f32 once,
 * whatever the order of the parts. The reference for every kernel. PART_BIAS is not applied. Expects a weight that
 * passed weight_check; only the row range is checked here. */
imp_status weight_decode(const weight *w, uint64_t row, uint64_t n, float *dst, imp_err *e);
/* Bias of rows [0, n_expert*rows) as f32 to dst[n_expert*rows], if there is PART_BIAS; false otherwise. */
bool weight_bias(const weight *w, float *dst);
/* Checks sizes of all parts against rows, cols and granularity, and every slice against its map where one is given (a
 * binding bug or a bad file ends here, by name): IMP_E_MODEL, or IMP_E_UNSUPPORTED for a format that cannot be read. */
imp_status weight_check(const weight *w, imp_err *e);

#endif

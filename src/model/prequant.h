/* prequant: a matrix as SafeTensors folders keep it when it is already quantised: a data tensor with scale tensors
 * beside it. Each layout is known by its suffixes and types (one table row a suffix); the result is a list of parts
 * that bind.c turns into an ordinary weight descriptor. A plain tensor is the list with one part. */
#ifndef IMP_MODEL_PREQUANT_H
#define IMP_MODEL_PREQUANT_H

#include "file/modelfile.h"
#include "quant/weight.h"

typedef struct pq_part {
    weight_role role;
    const mf_tensor *t;
    quant_id type;                  /* how its bytes are read: U8 may be two E2M1, or E8M0 */
    uint32_t gran_rows, gran_cols;  /* as in weight_part */
    bool reciprocal, transposed;
    uint32_t packed_rows;
} pq_part;

/* Is there a tensor of this name, plain or under any known layout? name is the plain one ("....weight", or without). */
bool prequant_has(modelfile *mf, const char *name);
/* Parts of the [n_expert x rows, cols] matrix `name` (transposed: stored [n_expert][cols][rows]) to out, marking its
 * tensors as used. *n = 0 when there is no such tensor. Errors name tensor, wanted, got. */
imp_status prequant_parts(modelfile *mf, const char *name, uint32_t n_expert, uint64_t rows, uint64_t cols,
                          bool transposed, pq_part out[WEIGHT_MAX_PARTS], uint32_t *n, imp_err *e);

#endif

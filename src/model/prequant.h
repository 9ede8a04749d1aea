/* prequant: weights that come quantised in SafeTensors folders: a data tensor with scale tensors beside it. Each layout is
 * one row of a table (suffixes, roles, granularity); the result is an ordinary weight descriptor. */
#ifndef IMP_MODEL_PREQUANT_H
#define IMP_MODEL_PREQUANT_H

#include "model/build.h"

/* name is the plain tensor's name ("....weight"). Is there a quantised tensor for it under any known layout? */
bool prequant_has(modelfile *mf, const char *name);
/* The plain name exists, but with scales beside it, so it must not be read as plain values. */
bool prequant_wants(modelfile *mf, const char *name);
/* Rows row, row+step, ... (n of them, per expert) of the [n_expert x total, cols] matrix `name` into w (format, parts, name). */
imp_status prequant_bind(modelfile *mf, arena *mem, const char *name, uint32_t n_expert, uint64_t total, uint64_t row, uint64_t n,
                         uint64_t step, uint64_t cols, weight *w, imp_err *e);
/* One quantised tensor an expert: joins them (w has n_expert, rows and cols set). NULL after a failure in b. */
const weight *prequant_experts(build *b, int32_t layer, const char *role, weight *w);

/* bind.c: the tensor name of a role in this file, for one expert. */
bool bind_spell(build *b, int32_t layer, int32_t expert, const char *role, char *out, size_t n);

#endif

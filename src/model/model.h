/* model: an opened model: file, configuration, plan and tokenizer-independent facts. Read-only after model_open and
 * shared by any threads; owns the mapped files, so it must outlive every backend weight made from it. */
#ifndef IMP_MODEL_MODEL_H
#define IMP_MODEL_MODEL_H

#include "model/arch.h"

typedef struct model {
    modelfile *mf;
    const arch_def *arch;
    model_config config;
    plan text;
    plan next[CONFIG_MAX_NEXT]; /* multi-token-prediction modules (next.c): the first n_next, over the same weights */
    uint32_t n_next;
    uint64_t n_param_next;    /* values in their own weights, not counted below */
    arena mem;
    uint64_t n_param;         /* values in all bound weights */
    uint64_t n_param_active;  /* values a token multiplies: experts count by k/E, the embedding table not unless it is
                                 the head */
    uint64_t weight_bytes;    /* bytes in the file of all bound weights */
} model;

typedef struct model_options {
    uint32_t n_ctx;           /* context to plan for; 0 = the model's own (rope tables may depend on it) */
} model_options;

/* Opens and plans; refuses unknown families (with the list), unread keys, missing, misshapen and left-over tensors. */
imp_status model_open(model **out, const char *path, const model_options *opt, imp_err *e);
void model_close(model *m); /* NULL is fine */

#endif

/* arch: a model family as data. One file of src/arch exports one `const arch_def arch_<file name>`; the Makefile lists
 * the folder. names[] are GGUF's general.architecture and Hugging Face's architectures[0], so one row serves both
 * files. */
#ifndef IMP_MODEL_ARCH_H
#define IMP_MODEL_ARCH_H

#include "model/build.h"
#include "model/config.h"

/* role -> tensor name in either kind of file; %d is the layer. NULL = that file has none. */
typedef struct tensor_name {
    const char *role, *gguf, *hf;
} tensor_name;

typedef struct arch_def {
    const char *title;                 /* for people: "Qwen 3" */
    const char *names[8];              /* NULL-terminated */
    const tensor_name *tensor;         /* its own names, before the standard ones; NULL or role NULL-terminated */
    const char *const *harmless;       /* keys it knows and may ignore ('*' at the end matches any rest);
                                          NULL-terminated */
    const char *next_layers;           /* what stands for "model.layers." in a folder's multi-token-prediction modules,
                                          which then count from 0; NULL: they count on from the text's layers */
    const char *const *ignored_tensor; /* tensors it knows and does not use (vision, mtp, rotary inv_freq) */
    void (*config)(cfg *k, model_config *c);
    void (*layer)(build *b, int32_t layer, plan_reg *x); /* NULL: layer_std */
    void (*embed)(build *b, plan_reg *x);                /* NULL: embed_std */
} arch_def;

extern const arch_def *const arch_list[]; /* generated from the folder src/arch; NULL-terminated */

#endif

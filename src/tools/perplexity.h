/* perplexity: how well a model predicts a text, as llama-perplexity defines it: the text is cut into windows of n_ctx
 * tokens, each begins with BOS where the model uses one, and the second half of each window is scored.
 * Rows of logits are streamed, so memory does not grow with the vocabulary. */
#ifndef IMP_TOOLS_PERPLEXITY_H
#define IMP_TOOLS_PERPLEXITY_H

#include "imp.h"

typedef struct perplexity_result {
    double ppl, error;        /* error: standard error of the estimate */
    uint64_t n_token, n_window;
    /* against a base file */
    bool compared;
    double mean_kl, max_kl, top1_agreement, base_ppl;
} perplexity_result;

/* kl_base: NULL, or a file: written when it does not exist, compared with when it does. progress may be NULL. */
imp_status perplexity_run(imp_model *m, imp_engine *g, const char *text, size_t n, uint32_t n_ctx, const char *kl_base,
                          imp_progress_fn progress, void *user, perplexity_result *out, imp_err *e);

#endif

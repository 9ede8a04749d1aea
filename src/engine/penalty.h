/* penalty: what of a sequence's past the sampler needs: how often each recent token occurred, and DRY's sparse
 * penalties. Sized once a sequence; a step allocates nothing. Engine thread. */
#ifndef IMP_ENGINE_PENALTY_H
#define IMP_ENGINE_PENALTY_H

#include "imp.h"
#include "plan/sample.h"

typedef struct penalty {
    bool counts_on, dry_on;
    sample_count *count;   /* [n_count] */
    int32_t n_count, cap;  /* cap: a power of two, twice the window */
    int32_t *hash;         /* [cap] index + 1 into count, 0 = empty */
    sample_bias *bias;     /* logit bias of the request, then DRY's */
    int32_t n_bias, n_fixed, cap_bias;
} penalty;

/* n_ctx: the most tokens a sequence can have. */
imp_status penalty_init(penalty *p, const imp_sampling *s, uint32_t n_ctx, imp_err *e);
void penalty_free(penalty *p);
/* Recomputes counts and DRY for the tokens so far (prompt included). */
void penalty_update(penalty *p, const imp_sampling *s, const int32_t *tok, uint32_t n_tok);

#endif

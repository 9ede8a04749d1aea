/* blocks: who holds which KV block of one group. Numbers only; the bytes are the backend's.
 * Invariants: (1) a block is free (ref 0, on the stack) or held (ref >= 1); (2) n_free + held = n_total;
 * (3) a block that is not full has one holder. Engine thread only. */
#ifndef IMP_ENGINE_BLOCKS_H
#define IMP_ENGINE_BLOCKS_H

#include "base/status.h"

typedef struct blocks {
    int32_t n_total, n_free;
    int32_t high;      /* blocks that were ever handed out: what the backend must have grown to */
    int32_t *free;     /* stack of free numbers */
    uint32_t *ref;     /* [n_total] */
} blocks;

/* shuffle: hand out numbers in a scrambled order (tests that results do not depend on it). */
imp_status blocks_init(blocks *b, int32_t n_total, bool shuffle, imp_err *e);
void blocks_free(blocks *b);
int32_t blocks_take(blocks *b);            /* -1 when none is free */
void blocks_hold(blocks *b, int32_t id);
void blocks_drop(blocks *b, int32_t id);

#endif

/* batch: one flat step: tokens of any number of sequences, some prefilling a chunk, some decoding, some verifying.
 * All arrays are host memory owned by the engine and stay unchanged from submit until wait of that ticket returned. */
#ifndef IMP_PLAN_BATCH_H
#define IMP_PLAN_BATCH_H

#include "plan/plan.h"
#include "plan/sample.h"

#define BATCH_LAST (-1)      /* id: the token that the previous step sampled for this sequence's slot */
#define BATCH_EXTERNAL (-2)  /* id: take the next row of ext_row instead of an embedding */

typedef enum batch_class { BATCH_P = 0 /* prompt */, BATCH_D = 1 /* generated, draft, replayed */ } batch_class;

typedef struct batch_save {
    int32_t tok;             /* after this token of the sequence (index into the batch) ... */
    int32_t state;           /* ... copy its states to this state slot */
} batch_save;

typedef struct batch_seq {
    /* For each kv group: block numbers; entry j holds positions [(base+j)*B, (base+j+1)*B) of this sequence,
     * B = block size. */
    const int32_t *table[PLAN_MAX_GROUPS];
    int32_t table_len[PLAN_MAX_GROUPS];
    int32_t base[PLAN_MAX_GROUPS];
    int32_t n_kv;            /* positions stored after this step */
    int32_t slot;            /* 0..limits.n_seq-1: identifies the sequence on the device from step to step (LAST) */
    int32_t state_in;        /* state slot to start from, -1 = zeros */
    int32_t state_out;       /* state slot that holds the state after the step's last token */
    const batch_save *save;
    int32_t n_save;
    int32_t tok_begin, tok_end; /* its tokens in the batch: contiguous, ascending kv_index */
} batch_seq;

typedef enum batch_row_want { BATCH_SAMPLE = 1, BATCH_LOGITS = 2, BATCH_HIDDEN = 4 } batch_row_want;

typedef struct batch_row {
    int32_t tok;             /* index of its token in the batch */
    uint32_t want;           /* batch_row_want bits */
    float *logits;           /* [n_vocab] to fill, when BATCH_LOGITS */
    float *hidden;           /* [n_hidden] to fill, when BATCH_HIDDEN */
    sample_row_in sample;    /* when BATCH_SAMPLE */
} batch_row;

typedef struct batch {
    int32_t n_tok, n_seq, n_row;
    /* per token [n_tok] */
    const int32_t *id;       /* token id, BATCH_LAST or BATCH_EXTERNAL */
    const int32_t *seq;      /* index into seqs */
    const int32_t *kv_index; /* where its K and V go: position in the sequence's cache */
    const int32_t (*pos)[3]; /* rope positions (text: all three equal) */
    const int32_t *vis_begin, *vis_end; /* it sees kv positions [vis_begin, vis_end); a window narrows this further */
    const uint64_t *ancestors; /* draft trees: bit j = sees the token j places before it among this step's drafts;
                                  NULL = chain */
    const uint8_t *cls;      /* batch_class */
    const batch_seq *seqs;   /* [n_seq] */
    const batch_row *rows;   /* [n_row], ascending tok */
    const float *ext_row;    /* [number of BATCH_EXTERNAL tokens][n_hidden] */
    const float *hidden;     /* [n_tok][n_hidden] for plans that take it (plan.takes_hidden), else NULL */
} batch;

#endif

/* sample_params: what the host tells the sampling kernel (sample.cu) about a row, and what it gets back. Compiled as
 * C17 and as CUDA. Layouts only. */
#ifndef IMP_CUDA_SAMPLE_PARAMS_H
#define IMP_CUDA_SAMPLE_PARAMS_H

#include <stdint.h>

#define SAMPLE_CLUSTER 8u    /* blocks a row: each holds its eighth of the logits in shared memory */
#define SAMPLE_THREADS 512u
#define SAMPLE_LIST 2048u    /* candidates that one block can sort out alone */
#define SAMPLE_TOPS 20u      /* = SAMPLE_MAX_TOP */
#define SAMPLE_FIXED (24u << 10) /* shared memory besides the logits, at most */
#define SAMPLE_NO_MASK 0xFFFFFFFFu
#define SAMPLE_MAX_SPARSE 1024   /* entries of bias or counts; longer lists are sampled on the host */

typedef struct sample_desc {
    uint64_t bits53;          /* the draw's 53 random bits (sample.h), made by the host: they depend on no result */
    uint32_t row, slot;
    float temperature, top_p, min_p, typical_p, repeat, frequency, presence;
    int32_t top_k, n_top;     /* n_top as in sample_row_in */
    uint32_t n_bias, bias;    /* sample_bias[] at this word of the data */
    uint32_t n_count, count;  /* sample_count[] */
    uint32_t mask;            /* words of the mask, SAMPLE_NO_MASK = all allowed */
} sample_desc;

typedef struct sample_result {
    uint64_t total;           /* mass of the untouched logits, when n_top >= 0 */
    float max, chosen;        /* largest of them, and the chosen token's */
    int32_t id, n_top;
    int32_t top_id[SAMPLE_TOPS];
    float top[SAMPLE_TOPS];
} sample_result;

typedef struct sample_args {
    uint64_t logits, desc, data, out, out_id, last; /* out: sample_result a desc; out_id: i32 a row */
    uint32_t ldl, n_vocab, slice; /* slice: logits a block */
} sample_args;

#endif

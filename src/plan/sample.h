/* sample: what sampling means, once, for every backend. sample_row() is the reference; others must agree in the chosen
 * token for the same logits (the CPU's bytes are the definition).
 *
 * Order of stages on a row of logits l[V]:
 *   1 bias        l[id] += bias            (logit bias and DRY, sparse list)
 *   2 penalties   repetition (l>0 ? l/r : l*r), then l -= frequency*count + presence*(count>0), from counts
 *   3 mask        forbidden tokens are removed (bit 0)
 *   4 temperature 0: the largest wins, ties to the lowest id, and nothing below applies; else l /= temperature
 *   5 top-k       the k largest (ties to the lowest id); 0 = off
 *   6 typical-p   smallest set by |surprise - entropy| whose mass reaches p (1 = off)
 *   7 top-p       smallest set of largest whose mass reaches p (1 = off)
 *   8 min-p       p(i) >= min_p * p(max) (0 = off)
 *   9 draw        u = uniform(seed, choice; position, stage 0); first id, in id order, whose running mass exceeds
 *                 u * total
 * Masses: the mass of a token is floor(e^(l - max) 2^43) as an integer (exp_neg in sample.c, bit for bit), "reaches p"
 * means at least ceil(p z) of the set's mass z, surprise minus entropy is (max - l) minus its mean by mass, and
 * u * total is floor(u z). Integer sums do not depend on their order, which is what lets a parallel sampler choose the
 * same tokens.
 * Mirostat v2 replaces 5-8: tokens with surprise (bits) > mu are dropped, then mu -= eta * (surprise(chosen) - tau).
 * Each stage after 4 renormalises. Log-probabilities reported are log softmax of the logits before stage 1.
 *
 * Random numbers: Philox4x32-10 (Salmon et al. 2011), key = (seed low, seed high ^ choice), counter = (position low,
 * position high, stage, 0); uniform = 53 bits of words 0 and 1, / 2^53. A draw is thus a pure function of the
 * request. */
#ifndef IMP_PLAN_SAMPLE_H
#define IMP_PLAN_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct sample_bias { int32_t id; float add; } sample_bias;
typedef struct sample_count { int32_t id; int32_t n; } sample_count;

typedef struct sample_params {
    float temperature;          /* >= 0 */
    int32_t top_k;              /* 0 = off */
    float top_p, min_p, typical_p;
    float repeat_penalty, frequency_penalty, presence_penalty;
    int32_t mirostat;           /* 0 or 2 */
    float mirostat_tau, mirostat_eta;
    uint64_t seed;
    uint32_t choice;            /* index of n > 1 */
} sample_params;

/* One row to sample: all pointers are borrowed for the step. */
typedef struct sample_row_in {
    sample_params par;
    uint64_t position;          /* absolute position of the token being chosen */
    const sample_bias *bias;
    int32_t n_bias;
    const sample_count *count;  /* tokens of the penalty window with how often each occurs */
    int32_t n_count;
    const uint32_t *mask;       /* bit id%32 of word id/32: 1 = allowed; NULL = all */
    float *mirostat_mu;         /* in/out, when mirostat == 2 */
    int32_t n_top;              /* log-probabilities: -1 none, 0 the chosen one's, else as many best ones too
                                   (<= SAMPLE_MAX_TOP) */
} sample_row_in;

#define SAMPLE_MAX_TOP 20

typedef struct sample_row_out {
    int32_t id;                 /* -1: no finite logit or nothing allowed (status says which) */
    float logprob;              /* NaN when none was wanted */
    int32_t n_top;
    int32_t top_id[SAMPLE_MAX_TOP];
    float top_logprob[SAMPLE_MAX_TOP];
} sample_row_out;

void sample_params_init(sample_params *p); /* greedy: temperature 0, everything else off */

/* Philox4x32-10 block. */
void sample_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]);
/* The 53 random bits of a draw; sample_uniform is them / 2^53. */
uint64_t sample_bits(uint64_t seed, uint32_t choice, uint64_t position, uint32_t stage);
double sample_uniform(uint64_t seed, uint32_t choice, uint64_t position, uint32_t stage);

/* log of the softmax's denominator, from the largest logit and the masses' sum. */
double sample_log_z(float max, uint64_t total);

/* At most 2^20 tokens. logits[n_vocab] is destroyed. work: at least sample_work_bytes(n_vocab), any alignment of 16.
 * No allocation. IMP_E_NUMERIC when no allowed logit is finite. */
uint64_t sample_work_bytes(int32_t n_vocab);
imp_status sample_row(float *logits, int32_t n_vocab, const sample_row_in *in, sample_row_out *out, void *work);

#endif

/* engine: one thread that runs requests on one model and one backend.
 *
 * Threads: any thread may submit, cancel, wait and ask for stats; these take the queue's lock for a moment. Sequences,
 * blocks and the backend belong to the engine thread alone. Events are delivered on that thread with no lock held.
 * Order of locks: engine.lock and vocab_lock are never held together.
 *
 * Life of a sequence (one choice of a request):
 *   WAITING -> RUNNING     admit(): a slot is free and its first chunk fits
 *   RUNNING -> WAITING     preempt(): KV blocks ran out and it is the youngest; it keeps its tokens, drops its blocks,
 *                          and computes them anew later: same tokens, because every draw depends on (seed, position)
 *                          alone
 *   RUNNING -> gone        finish(): stop, length, cancelled or failed; exactly one DONE event
 * Invariants: (1) a running sequence's tables hold exactly the blocks its KV positions need; (2) tok[0..n_kv) are in
 * the cache, tok[n_kv..n_tok) are not; (3) a sequence that generates has n_tok = n_kv + 1 between steps. */
#ifndef IMP_ENGINE_ENGINE_H
#define IMP_ENGINE_ENGINE_H

#include "backend/backend.h"
#include "imp.h"
#include "model/model.h"
#include "text/tok.h"

typedef struct engine engine;

/* The model and tokenizer are borrowed and must outlive the engine. tk may be NULL (no vocabulary: text is empty). */
imp_status engine_new(model *m, const tok *tk, const imp_engine_params *p, engine **out, imp_err *e);
void engine_free(engine *g);
imp_status engine_submit(engine *g, const imp_request *r, imp_event_fn fn, void *user, uint64_t *id, imp_err *e);
void engine_cancel(engine *g, uint64_t id);
imp_status engine_wait(engine *g, uint64_t id, int64_t timeout_ms);
void engine_stats(engine *g, imp_stats *s);
imp_status engine_profile(engine *g, double read_ceiling, strbuf *out, imp_err *e);
const char *engine_lost(engine *g);
double engine_linear_params(engine *g);
double engine_attend_flops(engine *g);
double engine_step_bytes(engine *g, uint32_t n_ctx, uint32_t n_seq);
imp_status engine_read_ceiling(engine *g, uint64_t n_bytes, double *out, imp_err *e);
/* The plan with the kernel of each operation, appended to out. */
void engine_print_plan(engine *g, strbuf *out);
const char *engine_kernel(engine *g, int32_t op);

#endif

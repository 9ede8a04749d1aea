/* sizing: how much context, how many sequences and blocks fit, decided before anything is allocated. */
#ifndef IMP_ENGINE_SIZING_H
#define IMP_ENGINE_SIZING_H

#include "engine/engine_impl.h"

/* Fills in g->n_ctx, n_seq, n_batch, n_row, block_size and the KV options. IMP_E_NOMEM with the numbers when it cannot
 * fit. */
imp_status engine_sizes(engine *g, const imp_engine_params *p, kv_options *ko, imp_err *e);

/* See imp_engine_step_bytes and what follows it in imp.h. */
double plan_linear_params(const plan *p);
double plan_attend_flops(const plan *p);
double plan_step_bytes(const plan *p, kv_type kv, uint32_t n_ctx, uint32_t n_seq);

#endif

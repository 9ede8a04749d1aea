/* One step: checked on the engine's thread, walked through by the pool, rows sampled at its end. */
#include <math.h>
#include <string.h>

#include "backend/cpu/exec.h"

/* A row whose token is simply the largest logit, of those that a mask allows: it needs no sort and no copy, and the
 * threads share the search. */
static bool is_plain_greedy(const sample_row_in *s)
{
    return !(s->par.temperature > 0) && !s->n_bias && !s->n_count && s->n_top < 0;
}

static void find_best(const bexec *x, int ith)
{
    long c0, c1;
    pool_share(x->p->n_vocab, 32, ith, x->be->n_thread, &c0, &c1);
    for (int32_t r = 0; r < x->b->n_row; r++) {
        const batch_row *row = &x->b->rows[r];
        if (!(row->want & BATCH_SAMPLE) || !is_plain_greedy(&row->sample))
            continue;
        const float *l = x_f32(x, x->p->logits) + (long)r * (long)x->reg[x->p->logits].ld;
        /* c0: a multiple of 32 */
        long i = x->be->ops->argmax(l + c0, row->sample.mask ? row->sample.mask + c0 / 32 : NULL, c1 - c0);
        x->best[(long)r * x->be->n_thread + ith] = i < 0 ? i : c0 + i;
    }
}

static imp_status take_best(const bexec *x, int32_t r, const float *l, sample_row_out *out)
{
    long best = -1;
    for (int i = 0; i < x->be->n_thread; i++) {
        long j = x->best[(long)r * x->be->n_thread + i];
        if (j >= 0 && (best < 0 || l[j] > l[best]))
            best = j;
    }
    *out = (sample_row_out){.id = (int32_t)best, .logprob = __builtin_nanf("")};
    return best < 0 ? IMP_E_NUMERIC : IMP_OK;
}

static void finish_rows(const bexec *x, int ith)
{
    const struct step_out *o = &x->out[x->n_submitted & 1];
    for (int32_t r = ith; r < x->b->n_row; r += x->be->n_thread) {
        const batch_row *row = &x->b->rows[r];
        float *l = x->p->logits >= 0 ? x_f32(x, x->p->logits) + (long)r * (long)x->reg[x->p->logits].ld : NULL;
        o->status[r] = IMP_OK;
        o->row[r] = (sample_row_out){.id = -1, .logprob = __builtin_nanf("")};
        if ((row->want & BATCH_HIDDEN) && row->hidden)
            memcpy(row->hidden, x_f32(x, x->p->hidden) + (long)r * (long)x->reg[x->p->hidden].ld,
                   x->p->n_hidden * sizeof *l);
        if ((row->want & BATCH_LOGITS) && row->logits)
            memcpy(row->logits, l, x->p->n_vocab * sizeof *l);
        if (row->want & BATCH_SAMPLE)
            o->status[r] = is_plain_greedy(&row->sample)
                               ? take_best(x, r, l, &o->row[r])
                               : sample_row(l, (int32_t)x->p->n_vocab, &row->sample, &o->row[r], x_scratch(x, ith));
    }
}

static void walk(void *arg, int ith, int nth)
{
    const bexec *x = arg;
    (void)nth;
    for (int32_t i = 0; i < x->n_code; i++) {
        if (x->code[i].barrier)
            pool_barrier(x->be->pool, ith);
        x->code[i].run(x, &x->code[i], ith);
    }
    if (x->b->n_row == 0)
        return;
    pool_barrier(x->be->pool, ith);
    if (x->p->logits >= 0) {
        find_best(x, ith);
        pool_barrier(x->be->pool, ith);
    }
    finish_rows(x, ith);
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */
static imp_status check_token(bexec *x, const batch *b, int32_t t, int32_t *n_ext, imp_err *e)
{
    if (b->seq[t] < 0 || b->seq[t] >= b->n_seq)
        return err_set(e, IMP_E_INTERNAL, "batch: token %d: sequence %d of %d", t, b->seq[t], b->n_seq);
    const batch_seq *s = &b->seqs[b->seq[t]];
    int32_t id = b->id[t];
    if (id == BATCH_LAST)
        id = x->last_id[s->slot];
    x->id[t] = id;
    if (id == BATCH_EXTERNAL)
        x->ext[t] = (*n_ext)++;
    else if (id < 0 || (uint32_t)id >= x->p->n_vocab)
        return err_set(e, IMP_E_USAGE, "token %d: wanted an id below %u, got %d", t, x->p->n_vocab, id);
    if (id == BATCH_EXTERNAL && !b->ext_row)
        return err_set(e, IMP_E_INTERNAL, "batch: token %d: no external rows were given", t);
    if (b->vis_begin[t] < 0 || b->vis_end[t] > s->n_kv || b->kv_index[t] < 0 || b->kv_index[t] >= s->n_kv)
        return err_set(e, IMP_E_INTERNAL, "batch: token %d: sees [%d, %d) and goes to %d of %d positions", t,
                       b->vis_begin[t], b->vis_end[t], b->kv_index[t], s->n_kv);
    return IMP_OK;
}

/* Every block that a token may touch is in its table and in memory. */
static imp_status check_seq(const bexec *x, const batch *b, int32_t i, imp_err *e)
{
    const batch_seq *s = &b->seqs[i];
    if (s->slot < 0 || s->slot >= x->lim.n_seq || s->tok_begin < 0 || s->tok_end > b->n_tok ||
        s->tok_begin > s->tok_end)
        return err_set(e, IMP_E_INTERNAL, "batch: sequence %d: slot %d, tokens [%d, %d)", i, s->slot, s->tok_begin,
                       s->tok_end);
    bool states_ok = x->p->n_state == 0 ||
                     (x->kv && x->kv->state && s->state_in >= -1 && s->state_in < x->kv->n_state &&
                      s->state_out >= 0 && s->state_out < x->kv->n_state);
    for (int32_t j = 0; j < s->n_save && x->p->n_state; j++)
        states_ok = states_ok && s->save[j].state >= 0 && s->save[j].state < x->kv->n_state;
    if (!states_ok)
        return err_set(e, IMP_E_INTERNAL, "batch: sequence %d: states %d to %d are not there", i, s->state_in,
                       s->state_out);
    for (int32_t g = 0; g < x->p->n_group; g++) {
        int32_t bs = x->kv->block, low = s->n_kv;
        for (int32_t t = s->tok_begin; t < s->tok_end; t++) {
            int32_t from = b->vis_begin[t], window = (int32_t)x->p->group[g].window;
            if (window && b->kv_index[t] + 1 - window > from)
                from = b->kv_index[t] + 1 - window;
            low = from < low ? from : low;
            low = b->kv_index[t] < low ? b->kv_index[t] : low;
        }
        if (low / bs < s->base[g] || (int64_t)s->base[g] + s->table_len[g] < ((int64_t)s->n_kv + bs - 1) / bs)
            return err_set(e, IMP_E_INTERNAL,
                           "batch: sequence %d: block table of group %d covers blocks [%d, %d), wanted [%d, %d)", i, g,
                           s->base[g], s->base[g] + s->table_len[g], low / bs, (s->n_kv + bs - 1) / bs);
        for (int32_t j = low / bs - s->base[g]; j < (s->n_kv + bs - 1) / bs - s->base[g]; j++)
            if (s->table[g][j] < 0 || s->table[g][j] >= x->kv->group[g].n_grown)
                return err_set(e, IMP_E_INTERNAL, "batch: sequence %d: block %d of group %d is not there", i,
                               s->table[g][j], g);
    }
    return IMP_OK;
}

static imp_status check(bexec *x, const batch *b, imp_err *e)
{
    if (b->n_tok < 1 || b->n_tok > x->lim.n_tok || b->n_row < 0 || b->n_row > x->lim.n_row || b->n_seq < 1)
        return err_set(e, IMP_E_INTERNAL, "batch: %d tokens, %d rows, %d sequences; made for %d, %d, %d", b->n_tok,
                       b->n_row, b->n_seq, x->lim.n_tok, x->lim.n_row, x->lim.n_seq);
    if (x->p->takes_hidden && !b->hidden)
        return err_set(e, IMP_E_INTERNAL, "batch: plan %s takes hidden rows, and none were given", x->p->family);
    if (b->ancestors)
        return err_set(e, IMP_E_UNSUPPORTED, "batch: draft trees are not supported by the cpu backend");
    imp_status s = IMP_OK;
    for (int32_t i = 0; i < b->n_seq && s == IMP_OK; i++)
        s = check_seq(x, b, i, e);
    int32_t n_ext = 0;
    for (int32_t t = 0; t < b->n_tok && s == IMP_OK; t++)
        s = check_token(x, b, t, &n_ext, e);
    for (int32_t r = 0; r < b->n_row && s == IMP_OK; r++)
        if (b->rows[r].tok < 0 || b->rows[r].tok >= b->n_tok)
            s = err_set(e, IMP_E_INTERNAL, "batch: row %d: token %d of %d", r, b->rows[r].tok, b->n_tok);
    return s;
}

imp_status cpu_submit(bexec *x, const batch *b, backend_ticket *t, imp_err *e)
{
    imp_status s = check(x, b, e);
    if (s != IMP_OK)
        return s;
    x->b = b;
    struct step_out *o = &x->out[x->n_submitted & 1];
    o->n = b->n_row;
    cpu_begin_states(x);
    pool_run(x->be->pool, walk, x);
    for (int32_t r = 0; r < b->n_row; r++)
        if ((b->rows[r].want & BATCH_SAMPLE) && o->row[r].id >= 0)
            x->last_id[b->seqs[b->seq[b->rows[r].tok]].slot] = o->row[r].id;
    x->b = NULL;
    *t = x->n_submitted++;
    return IMP_OK;
}

imp_status cpu_wait(bexec *x, backend_ticket t, step_result *out, imp_err *e)
{
    if (t < 0 || t >= x->n_submitted || t + 2 < x->n_submitted)
        return err_set(e, IMP_E_INTERNAL, "wait: ticket %lld is not open", (long long)t);
    const struct step_out *o = &x->out[t & 1];
    *out = (step_result){.status = IMP_OK, .n_row = o->n, .row = o->row, .row_status = o->status};
    return IMP_OK;
}

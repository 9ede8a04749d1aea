/* Compiling a plan: operations to functions, registers to offsets, rows to prepare; and running a step. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/ck.h"
#include "base/mem.h"

#define ALIGN 64

static uint64_t up(uint64_t n) { return (n + ALIGN - 1) & ~(uint64_t)(ALIGN - 1); }

static int64_t rows_max(const bexec *x, plan_dim d) { return d == DIM_R ? x->lim.n_row : x->lim.n_tok; }

/* ---- workspace -------------------------------------------------------------------------------------------------- */
typedef struct span { uint64_t off, n; int32_t from, to; } span; /* alive for operations [from, to] */

/* Lowest offset at which n bytes overlap no span alive at the same time. Spans are few; quadratic is fine at load. */
static uint64_t place(const span *s, int32_t n_span, uint64_t n, int32_t from, int32_t to)
{
    uint64_t at = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (int32_t i = 0; i < n_span; i++)
            if (s[i].from <= to && s[i].to >= from && s[i].off < at + n && s[i].off + s[i].n > at) {
                at = s[i].off + s[i].n;
                moved = true;
            }
    }
    return at;
}

static imp_status layout(bexec *x, imp_err *e)
{
    const plan *p = x->p;
    span *s = mem_calloc((size_t)p->n_reg + (size_t)x->n_prep + 1, sizeof *s);
    if (!s)
        return err_oom(e, "workspace layout", (uint64_t)p->n_reg * sizeof *s);
    int32_t n = 0;
    uint64_t total = 0;
    for (int32_t i = 0; i < p->n_op; i++) { /* in order of definition, prepared rows with the operation that makes them */
        for (int j = 0; j < 2; j++) {
            plan_reg r = p->op[i].out[j];
            if (r == PLAN_NONE)
                continue;
            uint64_t bytes = up((uint64_t)rows_max(x, p->reg[r].dim) * p->reg[r].width * sizeof(float));
            x->off[r] = place(s, n, bytes, i, p->reg[r].last_use);
            s[n++] = (span){x->off[r], bytes, i, p->reg[r].last_use};
            total = x->off[r] + bytes > total ? x->off[r] + bytes : total;
        }
        for (int32_t j = 0; j < x->n_prep; j++) {
            struct prep *q = &x->prep[j];
            if (q->maker != i)
                continue;
            uint64_t rows = (uint64_t)rows_max(x, p->reg[q->reg].dim), bytes;
            uint32_t per = 1;
            const plan_op *o = &p->op[i];
            if (o->kind == OP_EXPERT_LINEAR && o->attr.expert.x_per_choice)
                per = o->attr.expert.k;
            if (o->kind == OP_HEAD_LINEAR)
                per = o->attr.head_linear.n_head;
            bytes = up(rows * per * q->stride);
            q->off = place(s, n, bytes, i, p->reg[q->reg].last_use);
            s[n++] = (span){q->off, bytes, i, p->reg[q->reg].last_use};
            total = q->off + bytes > total ? q->off + bytes : total;
        }
    }
    mem_free(s);
    x->work_bytes = total;
    x->work = mem_map(total);
    return x->work ? IMP_OK : err_oom(e, "workspace", total);
}

/* Which operations multiply quantised rows, and which of them share. */
static void find_preps(bexec *x)
{
    const plan *p = x->p;
    for (int32_t i = 0; i < p->n_op; i++) {
        const plan_op *o = &p->op[i];
        x->prep_of[i] = -1;
        if (o->kind != OP_LINEAR && o->kind != OP_EXPERT_LINEAR && o->kind != OP_HEAD_LINEAR)
            continue;
        const bweight *w = x->w[o->weight[0]];
        if (!w->lin->prep)
            continue;
        for (int32_t j = 0; j < x->n_prep && x->prep_of[i] < 0; j++)
            if (x->prep[j].reg == o->in[0] && x->prep[j].kind == w->lin->prep_kind && x->prep[j].stride == up(w->lin->prep_bytes(w->cols)))
                x->prep_of[i] = j;
        if (x->prep_of[i] >= 0)
            continue;
        x->prep_of[i] = x->n_prep;
        x->prep[x->n_prep++] = (struct prep){.reg = o->in[0], .kind = w->lin->prep_kind, .stride = up(w->lin->prep_bytes(w->cols)), .maker = i};
    }
}

static size_t scratch_need(const bexec *x)
{
    size_t need = 4096 * sizeof(float);
    for (int32_t i = 0; i < x->p->n_op; i++) {
        const plan_op *o = &x->p->op[i];
        size_t n = o->kind == OP_ATTEND ? cpu_attend_scratch(o, x->kv->block_size)
                   : o->kind == OP_ROUTE ? 5ul * o->attr.route.n_expert * sizeof(float)
                                         : 0;
        const bweight *w = exec_weight(x, o, 0);
        if (w && w->lin && w->lin->scratch && w->lin->scratch(w->cols) > n)
            n = w->lin->scratch(w->cols);
        need = n > need ? n : need;
    }
    return (need + 4095) & ~(size_t)4095; /* own pages: no thread writes into another's cache lines */
}

static imp_status choose_functions(bexec *x, imp_err *e)
{
    for (int32_t i = 0; i < x->p->n_op; i++) {
        const plan_op *o = &x->p->op[i];
        x->fn[i] = o->kind == OP_ATTEND && x->b->isa->attend ? x->b->isa->attend : cpu_ops[o->kind];
        if (!x->fn[i])
            return err_set(e, IMP_E_UNSUPPORTED, "cpu backend: operation %s (layer %d, %s) has no kernel", plan_op_name(o->kind), o->layer, o->role);
        if (o->kind == OP_ROPE && o->attr.rope.rot > 4096)
            return err_set(e, IMP_E_UNSUPPORTED, "cpu backend: rotation of %u columns is too wide", o->attr.rope.rot);
    }
    return IMP_OK;
}

imp_status cpu_compile(backend *b, const plan *p, bweight *const *w, kvcache *kv, const plan_limits *lim, bexec **out, imp_err *e)
{
    *out = NULL;
    bexec *x = mem_calloc(1, sizeof *x);
    if (!x)
        return err_oom(e, "executable", sizeof *x);
    size_t n = (size_t)pool_size(b->pool);
    *x = (bexec){.b = b, .p = p, .kv = kv, .lim = *lim};
    x->off = mem_calloc((size_t)p->n_reg, sizeof *x->off);
    x->fn = mem_calloc((size_t)p->n_op, sizeof *x->fn);
    x->prep = mem_calloc((size_t)p->n_op, sizeof *x->prep);
    x->prep_of = mem_calloc((size_t)p->n_op, sizeof *x->prep_of);
    x->w = mem_calloc((size_t)p->n_weight, sizeof(bweight *));
    x->last_tok = mem_calloc((size_t)lim->n_seq, sizeof *x->last_tok);
    x->sample_bytes = (sample_work_bytes((int32_t)p->n_vocab) + ALIGN) & ~(size_t)(ALIGN - 1);
    imp_status s = x->off && x->fn && x->prep && x->prep_of && x->w && x->last_tok ? IMP_OK : err_oom(e, "executable", (uint64_t)p->n_op * 64);
    for (int i = 0; i < 2 && s == IMP_OK; i++) {
        x->row[i] = mem_calloc((size_t)lim->n_row, sizeof **x->row);
        x->row_status[i] = mem_calloc((size_t)lim->n_row, sizeof **x->row_status);
        if (!x->row[i] || !x->row_status[i])
            s = err_oom(e, "executable", (uint64_t)lim->n_row * sizeof **x->row);
    }
    if (s == IMP_OK) {
        memcpy(x->w, w, (size_t)p->n_weight * sizeof *w);
        find_preps(x);
        s = choose_functions(x, e);
    }
    if (s == IMP_OK)
        s = layout(x, e);
    if (s == IMP_OK) {
        x->scratch_bytes = scratch_need(x);
        x->scratch = mem_map(n * x->scratch_bytes);
        x->sample_work = mem_map(n * x->sample_bytes);
        if (!x->scratch || !x->sample_work)
            s = err_oom(e, "workspace", n * (x->scratch_bytes + x->sample_bytes));
        b->workspace += x->work_bytes + n * (x->scratch_bytes + x->sample_bytes);
    }
    if (s != IMP_OK) {
        cpu_exec_free(x);
        return s;
    }
    *out = x;
    return IMP_OK;
}

void cpu_exec_free(bexec *x)
{
    if (!x)
        return;
    size_t n = (size_t)pool_size(x->b->pool);
    if (x->scratch && x->sample_work)
        x->b->workspace -= x->work_bytes + n * (x->scratch_bytes + x->sample_bytes);
    mem_unmap(x->work, x->work_bytes);
    mem_unmap(x->scratch, n * x->scratch_bytes);
    mem_unmap(x->sample_work, n * x->sample_bytes);
    for (int i = 0; i < 2; i++) {
        mem_free(x->row[i]);
        mem_free(x->row_status[i]);
    }
    mem_free(x->off);
    mem_free(x->fn);
    mem_free(x->prep);
    mem_free(x->prep_of);
    mem_free(x->w);
    mem_free(x->last_tok);
    mem_free(x);
}

/* ---- a step ----------------------------------------------------------------------------------------------------- */
static void prepare(bexec *x, int32_t i, int ith, int nth)
{
    const plan_op *o = &x->p->op[i];
    const struct prep *q = &x->prep[x->prep_of[i]];
    const bweight *w = x->w[o->weight[0]];
    long begin, end, rows = (long)exec_rows(x, q->reg) * (long)(exec_width(x, q->reg) / w->cols);
    pool_share(rows, 1, ith, nth, &begin, &end);
    for (long r = begin; r < end; r++)
        w->lin->prep(exec_reg(x, q->reg) + (size_t)r * w->cols, w->cols, x->work + q->off + (size_t)r * q->stride);
    pool_barrier(x->b->pool, ith);
}

static void outputs(bexec *x, int ith, int nth)
{
    const batch *b = x->batch;
    int slot = (int)(x->ticket & 1);
    uint32_t v = x->p->n_vocab, h = x->p->n_hidden;
    for (int32_t r = ith; r < b->n_row; r += nth) {
        const batch_row *row = &b->rows[r];
        x->row_status[slot][r] = IMP_OK;
        if ((row->want & BATCH_LOGITS) && row->logits)
            memcpy(row->logits, exec_reg(x, x->p->logits) + (size_t)r * v, v * sizeof(float));
        if ((row->want & BATCH_HIDDEN) && row->hidden)
            memcpy(row->hidden, exec_reg(x, x->p->hidden) + (size_t)r * h, h * sizeof(float));
        if (row->want & BATCH_SAMPLE) {
            x->row_status[slot][r] = sample_row(exec_reg(x, x->p->logits) + (size_t)r * v, (int32_t)v, &row->sample, &x->row[slot][r],
                                                (uint8_t *)x->sample_work + (size_t)ith * x->sample_bytes);
            x->last_tok[b->seqs[b->seq[row->tok]].slot] = x->row[slot][r].id;
        }
    }
}

static void step(void *arg, int ith, int nth)
{
    bexec *x = arg;
    for (int32_t i = 0; i < x->p->n_op; i++) {
        if (x->prep_of[i] >= 0 && x->prep[x->prep_of[i]].maker == i)
            prepare(x, i, ith, nth);
        x->fn[i](x, &x->p->op[i], ith, nth);
        pool_barrier(x->b->pool, ith);
    }
    outputs(x, ith, nth);
}

/* States of sequences that start anew are zeroed; the others continue in place (state_in == state_out). */
static void begin_states(bexec *x, const batch *b)
{
    for (int32_t i = 0; x->kv->state && i < b->n_seq; i++)
        if (b->seqs[i].state_out >= 0)
            cpu_kv_copy_state(x->kv, b->seqs[i].state_in, b->seqs[i].state_out);
}

imp_status cpu_submit(bexec *x, const batch *b, backend_ticket *t, imp_err *e)
{
    if (b->n_tok > x->lim.n_tok || b->n_row > x->lim.n_row || b->n_seq > x->lim.n_seq)
        return err_set(e, IMP_E_LIMIT, "step: wanted at most %d tokens, %d rows, %d sequences, got %d, %d, %d", x->lim.n_tok, x->lim.n_row,
                       x->lim.n_seq, b->n_tok, b->n_row, b->n_seq);
    x->batch = b;
    x->ticket++;
    x->n_row[x->ticket & 1] = b->n_row;
    begin_states(x, b);
    pool_run(x->b->pool, step, x);
    *t = x->ticket;
    return IMP_OK;
}

imp_status cpu_wait(bexec *x, backend_ticket t, step_result *out, imp_err *e)
{
    if (t > x->ticket || t + 1 < x->ticket)
        return err_set(e, IMP_E_INTERNAL, "step: ticket %lld is not open", (long long)t);
    *out = (step_result){.status = IMP_OK, .n_row = x->n_row[t & 1], .row = x->row[t & 1], .row_status = x->row_status[t & 1]};
    return IMP_OK;
}

/* The operations: each thread takes its split of rows or columns and calls the table of ops.h. */
#include <math.h>
#include <string.h>

#include "backend/cpu/exec.h"

/* Rows of a result that thread ith computes (TOKEN) or all of them, and its columns (COL) or all of them. */
typedef struct part {
    long t0, t1, c0, c1;
} part;

static part share(const bexec *x, const instr *in, int ith, int32_t reg)
{
    const xreg *r = &x->reg[reg];
    part p = {0, x_rows(x, r->dim), 0, r->width};
    if (in->split == SPLIT_COL)
        pool_share(r->width, 32, ith, x->be->n_thread, &p.c0, &p.c1);
    else
        pool_share(p.t1, 1, ith, x->be->n_thread, &p.t0, &p.t1);
    return p;
}

static const float *row(const bexec *x, int32_t reg, long t) { return x_f32(x, reg) + t * (long)x->reg[reg].ld; }
static float *out_row(const bexec *x, const instr *in, long t)
{
    return x_f32(x, in->out[0]) + t * (long)x->reg[in->out[0]].ld;
}

#define EACH_ROW(p, t) for (long t = p.t0; t < p.t1 && p.c0 < p.c1; t++)

static void run_embed(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    const weight *w = in->w[0]->w;
    EACH_ROW(p, t) {
        float *y = out_row(x, in, t);
        if (x->b->id[t] == BATCH_EXTERNAL) {
            memcpy(y, x->b->ext_row + (long)x->ext[t] * (long)w->cols, w->cols * sizeof *y);
            continue;
        }
        weight_decode(w, (uint64_t)x->id[t], 1, y, NULL); /* the id was checked by submit */
        if (in->op->attr.scale != 1)
            x->be->ops->scale(y, y, in->op->attr.scale, (long)w->cols);
    }
}

static void run_hidden(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    EACH_ROW(p, t)
        memcpy(out_row(x, in, t), x->b->hidden + t * p.c1, (size_t)p.c1 * sizeof(float));
}

static void run_gather(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    EACH_ROW(p, r)
        memcpy(out_row(x, in, r), row(x, in->in[0], x->b->rows[r].tok), (size_t)p.c1 * sizeof(float));
}

static void run_norm(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    long group = in->op->attr.norm.group ? in->op->attr.norm.group : p.c1;
    const float *w = in->w[0] ? in->w[0]->vec : NULL;
    EACH_ROW(p, t) {
        if (in->op->attr.norm.layer)
            for (long g = 0; g < p.c1; g += group) {
                long at = in->op->attr.norm.w_full ? g : 0;
                x->be->ops->layer_norm(out_row(x, in, t) + g, row(x, in->in[0], t) + g, w ? w + at : NULL,
                                       in->w[1] ? in->w[1]->vec + at : NULL, group, in->op->attr.norm.eps);
            }
        else
            x->be->ops->rms_norm(out_row(x, in, t), row(x, in->in[0], t), w, in->op->attr.norm.plus_one ? 1 : 0, p.c1,
                                 group, in->op->attr.norm.w_full ? group : 0, in->op->attr.norm.eps);
    }
}

static void run_l2norm(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    EACH_ROW(p, t)
        x->be->ops->l2_norm(out_row(x, in, t), row(x, in->in[0], t), p.c1, in->op->attr.l2norm.group,
                            in->op->attr.l2norm.eps, in->op->attr.l2norm.scale);
}

static void run_add(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    EACH_ROW(p, t)
        x->be->ops->add(out_row(x, in, t) + p.c0, row(x, in->in[0], t) + p.c0, row(x, in->in[1], t) + p.c0,
                        in->op->attr.scale, p.c1 - p.c0);
}

static void run_mul(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    const float *w = in->w[0] ? in->w[0]->vec : NULL;
    uint64_t n = in->w[0] ? in->w[0]->w->rows * in->w[0]->w->cols : x->reg[in->in[1]].width;
    EACH_ROW(p, t) {
        const float *b = w ? w : row(x, in->in[1], t), *a = row(x, in->in[0], t) + p.c0;
        float *y = out_row(x, in, t) + p.c0;
        if (n == 1)
            x->be->ops->scale(y, a, b[0], p.c1 - p.c0);
        else
            x->be->ops->mul(y, a, b + p.c0, p.c1 - p.c0);
    }
}

static void run_scale(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    EACH_ROW(p, t)
        x->be->ops->scale(out_row(x, in, t) + p.c0, row(x, in->in[0], t) + p.c0, in->op->attr.scale, p.c1 - p.c0);
}

static void run_softcap(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    EACH_ROW(p, t)
        x->be->ops->softcap(out_row(x, in, t) + p.c0, row(x, in->in[0], t) + p.c0, in->op->attr.cap, p.c1 - p.c0);
}

static void run_act(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    EACH_ROW(p, t)
        x->be->ops->act(out_row(x, in, t) + p.c0, row(x, in->in[0], t) + p.c0, in->op->attr.act.act, p.c1 - p.c0);
}

static void run_glu(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    long n = p.c1 - p.c0;
    EACH_ROW(p, t) {
        const float *g = row(x, in->in[0], t) + p.c0;
        float *y = out_row(x, in, t) + p.c0;
        const float *u = in->in[1] >= 0 ? row(x, in->in[1], t) + p.c0 : g + n;
        if (!in->op->attr.act.interleaved || in->in[1] >= 0) {
            x->be->ops->glu(y, g, u, in->op->attr.act.act, in->op->attr.act.limit, in->op->attr.act.alpha, n);
            continue;
        }
        for (long i = 0; i < n; i += 64) { /* gate and up alternate */
            float a[64], b[64];
            long m = n - i < 64 ? n - i : 64;
            for (long j = 0; j < m; j++) {
                a[j] = g[2 * (i + j)];
                b[j] = g[2 * (i + j) + 1];
            }
            x->be->ops->glu(y + i, a, b, in->op->attr.act.act, in->op->attr.act.limit, in->op->attr.act.alpha, m);
        }
    }
}

static void run_gate(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    long group = x->reg[in->in[0]].width / x->reg[in->in[1]].width;
    EACH_ROW(p, t)
        x->be->ops->gate(out_row(x, in, t), row(x, in->in[0], t), row(x, in->in[1], t), p.c1, group);
}

static void run_slice(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    uint32_t n = in->op->attr.slice.width;
    EACH_ROW(p, t)
        for (uint32_t g = 0; g < in->op->attr.slice.groups; g++) {
            uint64_t at = (uint64_t)g * in->op->attr.slice.stride + in->op->attr.slice.off;
            memcpy(out_row(x, in, t) + g * n, row(x, in->in[0], t) + at, n * sizeof(float));
        }
}

static void run_concat(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    uint32_t groups = in->op->attr.concat.groups, na = x->reg[in->in[0]].width / groups;
    bool shared = in->op->attr.concat.b_shared;
    uint32_t nb = shared ? x->reg[in->in[1]].width : x->reg[in->in[1]].width / groups;
    EACH_ROW(p, t)
        for (uint32_t g = 0; g < groups; g++) {
            float *y = out_row(x, in, t) + g * (na + nb);
            memcpy(y, row(x, in->in[0], t) + g * na, na * sizeof *y);
            memcpy(y + na, row(x, in->in[1], t) + (shared ? 0 : g * nb), nb * sizeof *y);
        }
}

/* ---- rotation ---------------------------------------------------------------------------------------------------- */
void run_rope_table(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    const plan_rope *r = in->rope;
    const float *freq = x->p->constant[r->freq].v;
    uint32_t half = r->rot / 2, s1 = r->section[0], s2 = s1 + r->section[1], all = s2 + r->section[2];
    EACH_ROW(p, t) {
        float *y = out_row(x, in, t);
        for (uint32_t i = 0; i < half; i++) {
            uint32_t at = all ? i % all : 0;
            int axis = !all || at < s1 ? 0 : at < s2 ? 1 : 2;
            float angle = (float)x->b->pos[t][axis] * freq[i];
            y[i] = cosf(angle) * r->mscale;
            y[half + i] = sinf(angle) * r->mscale;
        }
    }
}

static void run_rope(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    EACH_ROW(p, t)
        x->be->ops->rope(out_row(x, in, t), row(x, in->in[0], t), row(x, in->table, t), &in->op->attr.rope);
}

/* ---- activations as integers ------------------------------------------------------------------------------------- */
void run_quantise(const bexec *x, const instr *in, int ith)
{
    part p = share(x, in, ith, in->out[0]);
    cpu_qact a = x_qact(x, in->out[0]);
    cpu_qform form = x->reg[in->out[0]].form;
    EACH_ROW(p, t) {
        long step, at = qact_at(&a, t, &step);
        x->be->ops->quantise[form](row(x, in->in[0], t), x->reg[in->in[0]].width, p.c0 / 32, (p.c1 + 31) / 32,
                                        a.q + at * cpu_qblock(form), a.meta + at, step);
    }
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* y[n_tok][rows [r0, r1)] with rows that are decoded four at a time: slow, exact, for every format. */
static void linear_generic(const bexec *x, const bweight *b, uint64_t first, long r0, long r1, const float *in,
                           long ldx, long n_tok, float *y, long ldy, float *tmp)
{
    const weight *w = b->w;
    for (long r = r0; r < r1; r += 4) {
        long n = r1 - r < 4 ? r1 - r : 4;
        weight_decode(w, first + (uint64_t)r, (uint64_t)n, tmp, NULL);
        x->be->ops->matmul(y + r, ldy, in, ldx, n_tok, (const uint8_t *)tmp, w->cols * sizeof(float), QUANT_F32, n,
                           (long)w->cols, b->bias ? b->bias + first + (uint64_t)r : NULL);
    }
}

/* The same with float rows where they lie in the file; first: the expert's first row. */
static void linear_rows(const bexec *x, const bweight *b, uint64_t first, long r0, long r1, const float *in, long ldx,
                        long n_tok, float *y, long ldy)
{
    const weight *w = b->w;
    const weight_part *d = weight_find(w, PART_DATA);
    uint64_t at = first + (uint64_t)r0, end = first + (uint64_t)r1, begin = 0;
    for (uint32_t i = 0; i < d->n_slices && at < end; begin += d->slices[i++].rows) {
        const weight_slice *s = &d->slices[i];
        if (at >= begin + s->rows)
            continue;
        uint64_t n = begin + s->rows < end ? begin + s->rows - at : end - at;
        x->be->ops->matmul(y + (at - first), ldy, in, ldx, n_tok, s->data + (at - begin) * s->stride, s->stride,
                           b->plain, (long)n, (long)w->cols, b->bias ? b->bias + at : NULL);
        at += n;
    }
}

void cpu_linear_f32(const bexec *x, const bweight *b, long expert, long r0, long r1, const float *in, long ldx,
                    long n_tok, float *y, long ldy, void *scratch)
{
    uint64_t first = (uint64_t)expert * b->w->rows;
    if (b->plain != QUANT_NONE)
        linear_rows(x, b, first, r0, r1, in, ldx, n_tok, y, ldy);
    else
        linear_generic(x, b, first, r0, r1, in, ldx, n_tok, y, ldy, scratch);
}

static void linear_packed(const bexec *x, const bweight *b, cpu_qform form, long r0, long r1, const cpu_qact *a,
                          float *y, long ldy, int ith)
{
    cpu_mm_fn fn = x->be->mm->fn[form][b->pack - cpu_pack_table];
    cpu_panels p = {b->data + (uint64_t)(r0 / 16) * b->panel, b->panel, x->be->ahead};
    if (r0 < r1)
        fn(&p, a, y + r0, ldy, r1 - r0, b->bias ? b->bias + r0 : NULL, x_scratch(x, ith));
}

static void run_linear(const bexec *x, const instr *in, int ith)
{
    const bweight *b = in->w[0];
    long n_tok = x_rows(x, x->reg[in->out[0]].dim), ldy = x->reg[in->out[0]].ld, r0, r1;
    float *y = x_f32(x, in->out[0]);
    if (n_tok == 0)
        return;
    pool_share((long)b->w->rows, 32, ith, x->be->n_thread, &r0, &r1);
    if (b->pack) {
        cpu_qact a = x_qact(x, in->in[0]);
        linear_packed(x, b, x->reg[in->in[0]].form, r0, r1, &a, y, ldy, ith);
    } else {
        cpu_linear_f32(x, b, 0, r0, r1, x_f32(x, in->in[0]), x->reg[in->in[0]].ld, n_tok, y, ldy, x_scratch(x, ith));
    }
}

/* ---- attention --------------------------------------------------------------------------------------------------- */
static void run_kv_store(const bexec *x, const instr *in, int ith)
{
    const batch *b = x->b;
    int32_t group = in->op->attr.kv.group;
    const plan_kv_group *g = &x->p->group[group];
    cpu_kv_view v = kv_view(x->kv, group, in->op->attr.kv.slot, g->k_width, g->v_width);
    uint32_t n_head = in->n_head;
    v.d_k = g->k_width / n_head;
    v.d_v = g->v_is_prefix_of_k ? 0 : g->v_width / n_head;
    long t0, t1;
    pool_share(b->n_tok, 1, ith, x->be->n_thread, &t0, &t1);
    for (long t = t0; t < t1; t++) {
        const batch_seq *s = &b->seqs[b->seq[t]];
        int32_t at = b->kv_index[t];
        uint8_t *block = x->kv->group[group].base +
                         (uint64_t)s->table[group][at / v.block - s->base[group]] * v.block_bytes;
        x->be->ops->kv_put(&v, block, n_head, at % v.block, row(x, in->in[0], t),
                           in->in[1] >= 0 ? row(x, in->in[1], t) : NULL);
    }
}

/* Query heads a task takes together: all that share a kv head, fewer when there would be no work for some threads. */
static uint32_t heads_a_task(const bexec *x, const plan_attend *a)
{
    uint32_t share = a->n_head / a->n_kv_head, n = share < CPU_ATTEND_ROWS ? share : CPU_ATTEND_ROWS;
    while (n > 1 && (long)x->b->n_tok * a->n_kv_head * ((share + n - 1) / n) < x->be->n_thread)
        n = (n + 1) / 2;
    return n;
}

static void attend_task(const bexec *x, const instr *in, cpu_attend_task *task, int32_t t0, int32_t t1, uint32_t h0,
                        uint32_t h1, int ith)
{
    const plan_attend *a = &in->op->attr.attend;
    const batch *b = x->b;
    task->n_row = 0;
    for (int32_t t = t0; t < t1; t++)
        for (uint32_t h = h0; h < h1; h++) {
            int32_t lo = b->vis_begin[t], from = a->window ? b->kv_index[t] + 1 - (int32_t)a->window : 0;
            task->row[task->n_row++] = (cpu_attend_row){
                .q = row(x, in->in[0], t) + h * a->d_k,
                .o = out_row(x, in, t) + h * a->d_v,
                .lo = lo > from ? lo : from > 0 ? from : 0,
                .hi = b->vis_end[t],
                .sink = in->w[0] ? in->w[0]->vec[h] : -INFINITY,
            };
        }
    x->be->ops->attend(task, x_scratch(x, ith));
}

static void run_attend(const bexec *x, const instr *in, int ith)
{
    const plan_attend *a = &in->op->attr.attend;
    const batch *b = x->b;
    cpu_attend_task task = {.kv = kv_view(x->kv, a->group, a->slot, a->d_k, a->d_v), .scale = a->scale,
                            .softcap = a->softcap};
    uint32_t share_heads = a->n_head / a->n_kv_head, n_heads = heads_a_task(x, a);
    int32_t n_toks = (int32_t)(CPU_ATTEND_ROWS / n_heads);
    long i = 0;
    for (int32_t s = 0; s < b->n_seq; s++) {
        const batch_seq *q = &b->seqs[s];
        task.table = q->table[a->group];
        task.table_base = q->base[a->group];
        for (int32_t t = q->tok_begin; t < q->tok_end; t += n_toks)
            for (uint32_t kh = 0; kh < a->n_kv_head; kh++)
                for (uint32_t h = 0; h < share_heads; h += n_heads, i++) {
                    if (i % x->be->n_thread != ith)
                        continue;
                    uint32_t h0 = kh * share_heads + h;
                    uint32_t h1 = h + n_heads < share_heads ? h0 + n_heads : (kh + 1) * share_heads;
                    task.head = kh;
                    attend_task(x, in, &task, t, t + n_toks < q->tok_end ? t + n_toks : q->tok_end, h0, h1, ith);
                }
    }
}

const op_row cpu_op_table[OP_COUNT] = {
    [OP_EMBED] = {run_embed, SPLIT_TOKEN, false, "rows decoded"},
    [OP_GATHER] = {run_gather, SPLIT_OTHER, false, "copy"},
    [OP_NORM] = {run_norm, SPLIT_TOKEN, false, "norm"},
    [OP_L2NORM] = {run_l2norm, SPLIT_TOKEN, false, "norm"},
    [OP_LINEAR] = {run_linear, SPLIT_COL, false, "product"},
    [OP_ADD] = {run_add, SPLIT_TOKEN, true, "elementwise"},
    [OP_MUL] = {run_mul, SPLIT_TOKEN, true, "elementwise"},
    [OP_SCALE] = {run_scale, SPLIT_TOKEN, true, "elementwise"},
    [OP_SOFTCAP] = {run_softcap, SPLIT_TOKEN, true, "elementwise"},
    [OP_ACT] = {run_act, SPLIT_TOKEN, true, "elementwise"},
    [OP_GLU] = {run_glu, SPLIT_TOKEN, true, "elementwise"},
    [OP_GATE] = {run_gate, SPLIT_TOKEN, false, "elementwise"},
    [OP_ROPE] = {run_rope, SPLIT_TOKEN, false, "rotation"},
    [OP_SLICE] = {run_slice, SPLIT_TOKEN, false, "copy"},
    [OP_CONCAT] = {run_concat, SPLIT_TOKEN, false, "copy"},
    [OP_KV_STORE] = {run_kv_store, SPLIT_TOKEN, false, "store"},
    [OP_HEAD_LINEAR] = {run_head_linear, SPLIT_OTHER, false, "product"},
    [OP_ROUTE] = {run_route, SPLIT_TOKEN, false, "choice"},
    [OP_EXPERT_LINEAR] = {run_expert_linear, SPLIT_OTHER, false, "product"},
    [OP_COMBINE] = {run_combine, SPLIT_TOKEN, false, "weighted sum"},
    [OP_DECAY] = {run_decay, SPLIT_TOKEN, false, "elementwise"},
    [OP_ATTEND] = {run_attend, SPLIT_OTHER, false, "tiles of 64"},
    [OP_CONV] = {run_conv, SPLIT_OTHER, false, "recurrence"},
    [OP_GDN] = {run_gdn, SPLIT_OTHER, false, "recurrence"},
    [OP_MAMBA2] = {run_mamba2, SPLIT_OTHER, false, "recurrence"},
    [OP_HIDDEN] = {run_hidden, SPLIT_TOKEN, false, "copy"},
};

/* Mixtures: choosing experts, products by chosen experts or by heads, and their weighted sum. */
#include <math.h>
#include <string.h>

#include "backend/cpu/exec.h"

static const float *row(const bexec *x, int32_t reg, long t) { return x_f32(x, reg) + t * (long)x->reg[reg].ld; }

/* ---- choosing ---------------------------------------------------------------------------------------------------- */

/* Index of the best value not yet taken (taken ones are -inf); ties to the lowest. */
static uint32_t best(const float *v, uint32_t n)
{
    uint32_t b = 0;
    for (uint32_t i = 1; i < n; i++)
        if (v[i] > v[b])
            b = i;
    return b;
}

/* Group-limited choice: experts outside the best groups are taken out of `choice`. tmp holds 2n floats. */
static void limit_groups(const plan_route *r, float *choice, float *tmp)
{
    uint32_t per = r->n_expert / r->n_group;
    float *score = tmp + r->n_expert;
    for (uint32_t g = 0; g < r->n_group; g++) {
        memcpy(tmp, choice + (size_t)g * per, per * sizeof *tmp);
        score[g] = 0;
        for (uint32_t j = 0; j < (r->group_top ? r->group_top : 1) && j < per; j++) {
            uint32_t b = best(tmp, per);
            score[g] += tmp[b];
            tmp[b] = -INFINITY;
        }
    }
    for (uint32_t j = 0; j < r->n_group - r->topk_group; j++) { /* strike out the worst groups */
        uint32_t w = 0;
        for (uint32_t g = 1; g < r->n_group; g++)
            if (score[w] == INFINITY || (score[g] != INFINITY && score[g] <= score[w]))
                w = g;
        for (uint32_t i = 0; i < per; i++)
            choice[(size_t)w * per + i] = -INFINITY;
        score[w] = INFINITY;
    }
}

static void route_token(const plan_route *r, const float *scores, const float *bias, int32_t *ids, float *w, float *tmp)
{
    float *p = tmp, *choice = p + r->n_expert, *spare = choice + r->n_expert;
    float max = scores[best(scores, r->n_expert)], sum = 0;
    for (uint32_t i = 0; i < r->n_expert; i++) {
        p[i] = r->score == ROUTE_SOFTMAX   ? expf(scores[i] - max)
               : r->score == ROUTE_SIGMOID ? 1 / (1 + expf(-scores[i]))
                                           : scores[i];
        sum += p[i];
    }
    for (uint32_t i = 0; i < r->n_expert; i++) {
        if (r->score == ROUTE_SOFTMAX)
            p[i] /= sum;
        choice[i] = bias ? p[i] + bias[i] : p[i];
    }
    if (r->n_group > 1 && r->topk_group < r->n_group)
        limit_groups(r, choice, spare);
    float total = 0;
    for (uint32_t j = 0; j < r->k; j++) {
        uint32_t b = best(choice, r->n_expert);
        choice[b] = -INFINITY;
        ids[j] = (int32_t)b;
        w[j] = r->score == ROUTE_TOPK_SOFTMAX ? expf(p[b] - max) : p[b];
        total += w[j];
    }
    bool divide = r->renormalise || r->score == ROUTE_TOPK_SOFTMAX;
    for (uint32_t j = 0; j < r->k; j++)
        w[j] = (divide ? w[j] / (total + r->renorm_eps) : w[j]) * r->scale;
}

uint64_t cpu_route_scratch(const plan_route *r) { return 5ull * r->n_expert * sizeof(float); }

void run_route(const bexec *x, const instr *in, int ith)
{
    const plan_route *r = &in->op->attr.route;
    long t0, t1;
    pool_share(x_rows(x, x->reg[in->out[0]].dim), 1, ith, x->be->n_thread, &t0, &t1);
    for (long t = t0; t < t1; t++) {
        int32_t *ids = x_i32(x, in->out[0]) + t * (long)x->reg[in->out[0]].ld;
        float *w = x_f32(x, in->out[1]) + t * (long)x->reg[in->out[1]].ld;
        route_token(r, row(x, in->in[0], t), in->w[0] ? in->w[0]->vec : NULL, ids, w, x_scratch(x, ith));
        for (uint32_t j = 0; in->w[1] && j < r->k; j++)
            w[j] *= in->w[1]->vec[ids[j]];
    }
}

void run_combine(const bexec *x, const instr *in, int ith)
{
    long t0, t1, n = x->reg[in->out[0]].width;
    pool_share(x_rows(x, x->reg[in->out[0]].dim), 1, ith, x->be->n_thread, &t0, &t1);
    for (long t = t0; t < t1; t++) {
        float *y = x_f32(x, in->out[0]) + t * (long)x->reg[in->out[0]].ld;
        for (uint32_t j = 0; j < in->op->attr.expert.k; j++)
            x->be->ops->axpy(y, row(x, in->in[0], t) + j * n, row(x, in->in[1], t)[j], n, j > 0);
    }
}

void run_decay(const bexec *x, const instr *in, int ith)
{
    const float *a = in->w[0]->vec, *dt = in->w[1]->vec;
    long t0, t1, n = x->reg[in->out[0]].width;
    pool_share(x_rows(x, x->reg[in->out[0]].dim), 1, ith, x->be->n_thread, &t0, &t1);
    for (long t = t0; t < t1; t++) {
        float *y = x_f32(x, in->out[0]) + t * (long)x->reg[in->out[0]].ld;
        for (long j = 0; j < n; j++) {
            float v = row(x, in->in[0], t)[j] + dt[j], s = v > 20 ? v : log1pf(expf(v));
            y[j] = (in->op->attr.decay.a_is_negexp ? a[j] : -expf(a[j])) * s;
        }
    }
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* One row of a product by one of several matrices: which input columns, which matrix, where the result goes. */
typedef struct pair {
    long t, col;
    float *y;
} pair;

/* Rows that one matrix meets together: a few tiles of tokens, so that what the kernel unpacks of it serves them all. */
enum { GROUP = 4 * CPU_TILE };

typedef struct group {
    int n;
    pair p[GROUP];
} group;

/* Rows of results that are made at a time for several pairs: as many as the kernel keeps unpacked. */
static long result_rows(uint64_t cols) { return 16 * cpu_mm_panels(cols); }

uint64_t cpu_expert_scratch(const bweight *w)
{
    uint64_t k = w->w->cols, quants = (k / 32 + 1) * GROUP * (CPU_QBLOCK_MAX + sizeof(cpu_qmeta));
    if (!w->pack)
        return sizeof(group) + 64 + 4 * (k + 16) * sizeof(float);
    return sizeof(group) + 64 + quants + (uint64_t)(GROUP * result_rows(k)) * sizeof(float) + 64 + cpu_mm_scratch(k);
}

/* The pairs' quantised columns, side by side as products want them. */
static void gather(const cpu_qact *from, const group *g, long bytes, cpu_qact *to)
{
    for (int i = 0; i < g->n; i++) {
        long step, step_to, at = qact_at(from, g->p[i].t, &step), put = qact_at(to, i, &step_to);
        at += g->p[i].col / 32 * step;
        for (long j = 0; j < to->nb; j++, at += step, put += step_to) {
            memcpy(to->q + put * bytes, from->q + at * bytes, (size_t)bytes);
            to->meta[put] = from->meta[at];
        }
    }
}

static void flush(const bexec *x, const instr *in, long expert, long r0, long r1, group *g)
{
    const bweight *b = in->w[0];
    long k = (long)b->w->cols, nb = k / 32, bytes = cpu_qblock(x->reg[in->in[0]].form);
    uint8_t *work = (uint8_t *)(g + 1) + (-(uintptr_t)(g + 1) & 63);
    if (!b->pack) {
        for (int i = 0; i < g->n; i++)
            cpu_linear_f32(x, b, expert, r0, r1, row(x, in->in[0], g->p[i].t) + g->p[i].col, 0, 1, g->p[i].y, 0, work);
        g->n = 0;
        return;
    }
    cpu_qact from = x_qact(x, in->in[0]), a = {.q = (int8_t *)work, .nb = nb, .n_tok = g->n};
    a.meta = (cpu_qmeta *)(a.q + (nb + 1) * GROUP * bytes);
    float *out = (float *)(a.meta + (nb + 1) * GROUP);
    uint8_t *scratch = (uint8_t *)(out + GROUP * result_rows(b->w->cols));
    scratch += -(uintptr_t)scratch & 63;
    if (g->n == 1 && from.n_tok == 1) { /* one token's blocks follow each other as they lie */
        a.q = from.q + g->p[0].col / 32 * bytes;
        a.meta = from.meta + g->p[0].col / 32;
    } else {
        gather(&from, g, bytes, &a);
    }
    cpu_mm_fn fn = x->be->mm->fn[x->reg[in->in[0]].form][b->pack - cpu_pack_table];
    const float *bias = b->bias ? b->bias + expert * (long)b->w->rows : NULL;
    long step = g->n == 1 ? r1 - r0 : result_rows(b->w->cols);
    for (long r = r0; r < r1; r += step) {
        cpu_panels p = {b->data + (uint64_t)(expert * b->n_group + r / 16) * b->panel, b->panel, x->be->ahead};
        long n = r1 - r < step ? r1 - r : step;
        fn(&p, &a, g->n == 1 ? g->p[0].y + r : out, step, n, bias ? bias + r : NULL, scratch);
        for (int i = 0; i < g->n && g->n > 1; i++)
            memcpy(g->p[i].y + r, out + i * step, (size_t)n * sizeof(float));
    }
    g->n = 0;
}

static void add_pair(const bexec *x, const instr *in, long expert, long r0, long r1, group *g, pair p)
{
    g->p[g->n++] = p;
    if (g->n == GROUP)
        flush(x, in, expert, r0, r1, g);
}

static void end_expert(const bexec *x, const instr *in, long expert, long r0, long r1, group *g)
{
    if (g->n)
        flush(x, in, expert, r0, r1, g);
}

void run_expert_linear(const bexec *x, const instr *in, int ith)
{
    const weight *w = in->w[0]->w;
    long k = in->op->attr.expert.k, n_tok = x_rows(x, x->reg[in->out[0]].dim), rows = (long)w->rows, r0, r1;
    pool_share(rows, 32, ith, x->be->n_thread, &r0, &r1);
    group *g = x_scratch(x, ith);
    g->n = 0;
    for (long e = 0; e < (long)w->n_expert && r0 < r1; e++) {
        for (long t = 0; t < n_tok; t++) {
            const int32_t *ids = x_i32(x, in->in[1]) + t * (long)x->reg[in->in[1]].ld;
            for (long c = 0; c < k; c++)
                if (ids[c] == e) {
                    long col = in->op->attr.expert.x_per_choice ? c * (long)w->cols : 0;
                    float *y = x_f32(x, in->out[0]) + t * (long)x->reg[in->out[0]].ld + c * rows;
                    add_pair(x, in, e, r0, r1, g, (pair){t, col, y});
                }
        }
        end_expert(x, in, e, r0, r1, g);
    }
}

void run_head_linear(const bexec *x, const instr *in, int ith)
{
    const weight *w = in->w[0]->w;
    long n_tok = x_rows(x, x->reg[in->out[0]].dim), rows = (long)w->rows, h0, h1;
    pool_share((long)w->n_expert, 1, ith, x->be->n_thread, &h0, &h1);
    group *g = x_scratch(x, ith);
    g->n = 0;
    for (long h = h0; h < h1; h++) {
        for (long t = 0; t < n_tok; t++) {
            float *y = x_f32(x, in->out[0]) + t * (long)x->reg[in->out[0]].ld + h * rows;
            add_pair(x, in, h, 0, rows, g, (pair){t, h * (long)w->cols, y});
        }
        end_expert(x, in, h, 0, rows, g);
    }
}

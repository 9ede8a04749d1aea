/* The portable body of every operation but products, attention and recurrences. Elementwise work is shared out by rows
 * when there are many, by columns when there is one; either way an element's value does not depend on the split. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"

/* This thread's part of a [rows][width] register: whole rows, or a run of columns of the only row. */
typedef struct part { int32_t row, row_end; uint32_t col, col_end; } part;

static part share(int32_t rows, uint32_t width, uint32_t grain, int ith, int nth)
{
    long b, e;
    if (rows == 1) {
        pool_share(width, grain, ith, nth, &b, &e);
        return (part){0, b < e, (uint32_t)b, (uint32_t)e};
    }
    pool_share(rows, 1, ith, nth, &b, &e);
    return (part){(int32_t)b, (int32_t)e, 0, width};
}

float cpu_act(plan_act act, float x)
{
    switch (act) {
    case ACT_SILU: return x / (1 + expf(-x));
    case ACT_GELU_TANH: return 0.5f * x * (1 + tanhf(0.797884561f * (x + 0.044715f * x * x * x)));
    case ACT_GELU_ERF: return 0.5f * x * (1 + erff(x * 0.707106781f));
    case ACT_RELU2: return x > 0 ? x * x : 0;
    case ACT_SIGMOID: return 1 / (1 + expf(-x));
    case ACT_TANH: return tanhf(x);
    case ACT_SOFTPLUS: return x > 20 ? x : log1pf(expf(x));
    default: return x;
    }
}

static void op_embed(bexec *x, const plan_op *op, int ith, int nth)
{
    const bweight *w = exec_weight(x, op, 0);
    const batch *b = x->batch;
    float *y = exec_reg(x, op->out[0]);
    uint32_t h = exec_width(x, op->out[0]);
    long begin, end, ext = 0;
    pool_share(b->n_tok, 1, ith, nth, &begin, &end);
    for (long t = 0; t < begin; t++)
        ext += b->id[t] == BATCH_EXTERNAL;
    for (long t = begin; t < end; t++) {
        float *row = y + (size_t)t * h;
        if (b->id[t] == BATCH_EXTERNAL) {
            memcpy(row, b->ext_row + (size_t)ext++ * h, h * sizeof *row);
            continue;
        }
        int32_t id = b->id[t] == BATCH_LAST ? x->last_tok[b->seqs[b->seq[t]].slot] : b->id[t];
        if (id < 0 || (uint64_t)id >= w->rows || weight_decode(w->w, (uint64_t)id, 1, row, NULL) != IMP_OK)
            memset(row, 0, h * sizeof *row);
        for (uint32_t j = 0; j < h; j++)
            row[j] *= op->attr.scale;
    }
}

static void op_gather(bexec *x, const plan_op *op, int ith, int nth)
{
    const float *in = exec_reg(x, op->in[0]);
    float *y = exec_reg(x, op->out[0]);
    uint32_t h = exec_width(x, op->out[0]);
    long begin, end;
    pool_share(x->batch->n_row, 1, ith, nth, &begin, &end);
    for (long r = begin; r < end; r++)
        memcpy(y + (size_t)r * h, in + (size_t)x->batch->rows[r].tok * h, h * sizeof *y);
}

/* Sum of squares (or of values) in 16 fixed lanes. */
static float lanes_sum(const float *v, uint32_t n, float shift, bool square)
{
    float lane[16] = {0};
    uint32_t i = 0;
    for (; i < n; i++) {
        float d = v[i] - shift;
        lane[i & 15] += square ? d * d : d;
    }
    for (int s = 8; s; s /= 2)
        for (int j = 0; j < s; j++)
            lane[j] += lane[j + s];
    return lane[0];
}

static void norm_group(const float *v, const float *w, const float *bias, bool layer, float plus, float eps, uint32_t n, float *y)
{
    float mean = layer ? lanes_sum(v, n, 0, false) / (float)n : 0;
    float scale = 1 / sqrtf(lanes_sum(v, n, mean, true) / (float)n + eps);
    for (uint32_t j = 0; j < n; j++) {
        float r = (v[j] - mean) * scale;
        r = w ? r * (w[j] + plus) : r;
        y[j] = bias ? r + bias[j] : r;
    }
}

static void op_norm(bexec *x, const plan_op *op, int ith, int nth)
{
    const bweight *w = exec_weight(x, op, 0);
    const float *in = exec_reg(x, op->in[0]), *wv = w ? w->vec : NULL, *bias = w ? w->bias : NULL;
    float *y = exec_reg(x, op->out[0]), plus = op->attr.norm.plus_one ? 1 : 0;
    uint32_t width = exec_width(x, op->in[0]), n = op->attr.norm.group ? op->attr.norm.group : width, per = width / n;
    long begin, end;
    pool_share((long)exec_rows(x, op->in[0]) * per, 1, ith, nth, &begin, &end);
    for (long i = begin; i < end; i++) {
        const float *g = wv && op->attr.norm.w_full ? wv + (size_t)(i % per) * n : wv;
        const float *src = in + (size_t)i * n;
        if (x->b->isa->norm && !op->attr.norm.layer && g)
            x->b->isa->norm(src, g, plus, op->attr.norm.eps, n, y + (size_t)i * n);
        else
            norm_group(src, g, bias, op->attr.norm.layer, plus, op->attr.norm.eps, n, y + (size_t)i * n);
    }
}

static void op_l2norm(bexec *x, const plan_op *op, int ith, int nth)
{
    const float *in = exec_reg(x, op->in[0]);
    float *y = exec_reg(x, op->out[0]);
    uint32_t n = op->attr.l2norm.group;
    long begin, end;
    pool_share((long)exec_rows(x, op->in[0]) * (exec_width(x, op->in[0]) / n), 1, ith, nth, &begin, &end);
    for (long i = begin; i < end; i++) {
        float s = op->attr.l2norm.scale / sqrtf(lanes_sum(in + (size_t)i * n, n, 0, true) + op->attr.l2norm.eps);
        for (uint32_t j = 0; j < n; j++)
            y[(size_t)i * n + j] = in[(size_t)i * n + j] * s;
    }
}

static void op_add(bexec *x, const plan_op *op, int ith, int nth)
{
    uint32_t w = exec_width(x, op->out[0]);
    part p = share(exec_rows(x, op->out[0]), w, 64, ith, nth);
    const float *a = exec_reg(x, op->in[0]), *b = exec_reg(x, op->in[1]);
    float *y = exec_reg(x, op->out[0]);
    for (int32_t r = p.row; r < p.row_end; r++)
        for (size_t j = (size_t)r * w + p.col; j < (size_t)r * w + p.col_end; j++)
            y[j] = a[j] + b[j] * op->attr.scale;
}

static void op_mul(bexec *x, const plan_op *op, int ith, int nth)
{
    uint32_t w = exec_width(x, op->out[0]);
    part p = share(exec_rows(x, op->out[0]), w, 64, ith, nth);
    const bweight *bw = exec_weight(x, op, 0);
    const float *a = exec_reg(x, op->in[0]), *b = bw ? bw->vec : exec_reg(x, op->in[1]);
    uint32_t bn = bw ? (uint32_t)(bw->rows * bw->cols) : exec_width(x, op->in[1]);
    float *y = exec_reg(x, op->out[0]);
    for (int32_t r = p.row; r < p.row_end; r++)
        for (uint32_t j = p.col; j < p.col_end; j++) {
            size_t at = bw ? (bn == 1 ? 0 : j) : (bn == 1 ? (size_t)r : (size_t)r * w + j);
            y[(size_t)r * w + j] = a[(size_t)r * w + j] * b[at];
        }
}

static void op_unary(bexec *x, const plan_op *op, int ith, int nth)
{
    uint32_t w = exec_width(x, op->out[0]);
    part p = share(exec_rows(x, op->out[0]), w, 64, ith, nth);
    const float *a = exec_reg(x, op->in[0]);
    float *y = exec_reg(x, op->out[0]);
    for (int32_t r = p.row; r < p.row_end; r++)
        for (size_t j = (size_t)r * w + p.col; j < (size_t)r * w + p.col_end; j++)
            y[j] = op->kind == OP_SCALE     ? a[j] * op->attr.scale
                   : op->kind == OP_SOFTCAP ? op->attr.cap * tanhf(a[j] / op->attr.cap)
                                            : cpu_act(op->attr.act.act, a[j]);
}

static float glu_oai(float g, float u, float limit, float alpha)
{
    g = g > limit ? limit : g;
    u = u > limit ? limit : u < -limit ? -limit : u;
    return (u + 1) * g / (1 + expf(-alpha * g));
}

static void op_glu(bexec *x, const plan_op *op, int ith, int nth)
{
    uint32_t w = exec_width(x, op->out[0]);
    part p = share(exec_rows(x, op->out[0]), w, 64, ith, nth);
    bool halves = op->in[1] == PLAN_NONE;
    plan_act act = op->attr.act.act;
    float *y = exec_reg(x, op->out[0]);
    for (int32_t r = p.row; r < p.row_end; r++) {
        const float *g = exec_reg(x, op->in[0]) + (size_t)r * (halves ? 2 * w : w);
        const float *u = halves ? g + w : exec_reg(x, op->in[1]) + (size_t)r * w;
        float *o = y + (size_t)r * w;
        if (x->b->isa->glu && act != ACT_SWIGLU_OAI) {
            x->b->isa->glu(g + p.col, u + p.col, act, p.col_end - p.col, o + p.col);
            continue;
        }
        for (uint32_t j = p.col; j < p.col_end; j++)
            o[j] = act == ACT_SWIGLU_OAI ? glu_oai(g[j], u[j], op->attr.act.limit, op->attr.act.alpha) : cpu_act(act, g[j]) * u[j];
    }
}

static void op_gate(bexec *x, const plan_op *op, int ith, int nth)
{
    uint32_t w = exec_width(x, op->out[0]), gw = exec_width(x, op->in[1]), group = op->attr.gate.group;
    part p = share(exec_rows(x, op->out[0]), w, 64, ith, nth);
    const float *a = exec_reg(x, op->in[0]), *g = exec_reg(x, op->in[1]);
    float *y = exec_reg(x, op->out[0]);
    for (int32_t r = p.row; r < p.row_end; r++)
        for (uint32_t j = p.col; j < p.col_end; j++)
            y[(size_t)r * w + j] = a[(size_t)r * w + j] / (1 + expf(-g[(size_t)r * gw + j / group]));
}

static void rotate(float *v, const plan_rope *a, const float *cs, const float *sn)
{
    uint32_t half = a->rot / 2;
    for (uint32_t i = 0; i < half; i++) {
        uint32_t p = a->interleaved ? 2 * i : i, q = a->interleaved ? 2 * i + 1 : i + half;
        float c = v[p], d = v[q];
        v[p] = c * cs[i] - d * sn[i];
        v[q] = c * sn[i] + d * cs[i];
    }
}

#define ROPE_MAX 4096

static void op_rope(bexec *x, const plan_op *op, int ith, int nth)
{
    const plan_rope *a = &op->attr.rope;
    const float *freq = x->p->constant[a->freq].v, *in = exec_reg(x, op->in[0]);
    float *y = exec_reg(x, op->out[0]);
    uint32_t w = exec_width(x, op->in[0]);
    float *cs = exec_scratch(x, ith), *sn = cs + ROPE_MAX / 2;
    long begin, end;
    pool_share(x->batch->n_tok, 1, ith, nth, &begin, &end);
    for (long t = begin; t < end; t++) {
        for (uint32_t i = 0; i < a->rot / 2; i++) {
            uint32_t axis = a->section[0] && i >= a->section[0] ? (i >= a->section[0] + a->section[1] ? 2 : 1) : 0;
            double angle = (double)((float)x->batch->pos[t][axis] * freq[i]); /* f32 product, as the references compute it */
            cs[i] = (float)cos(angle) * a->mscale;
            sn[i] = (float)sin(angle) * a->mscale;
        }
        memcpy(y + (size_t)t * w, in + (size_t)t * w, w * sizeof *y);
        for (uint32_t h = 0; h < a->n_head; h++)
            rotate(y + (size_t)t * w + (size_t)h * a->head_dim + a->rot_off, a, cs, sn);
    }
}

static void op_slice(bexec *x, const plan_op *op, int ith, int nth)
{
    uint32_t wi = exec_width(x, op->in[0]), wo = exec_width(x, op->out[0]), n = op->attr.slice.width;
    const float *in = exec_reg(x, op->in[0]);
    float *y = exec_reg(x, op->out[0]);
    long begin, end;
    pool_share(exec_rows(x, op->in[0]), 1, ith, nth, &begin, &end);
    for (long r = begin; r < end; r++)
        for (uint32_t g = 0; g < op->attr.slice.groups; g++)
            memcpy(y + (size_t)r * wo + (size_t)g * n, in + (size_t)r * wi + (size_t)g * op->attr.slice.stride + op->attr.slice.off, n * sizeof *y);
}

static void op_concat(bexec *x, const plan_op *op, int ith, int nth)
{
    uint32_t groups = op->attr.concat.groups, wa = exec_width(x, op->in[0]) / groups, wo = exec_width(x, op->out[0]);
    uint32_t wb = op->attr.concat.b_shared ? exec_width(x, op->in[1]) : exec_width(x, op->in[1]) / groups;
    const float *a = exec_reg(x, op->in[0]), *b = exec_reg(x, op->in[1]);
    float *y = exec_reg(x, op->out[0]);
    long begin, end;
    pool_share(exec_rows(x, op->in[0]), 1, ith, nth, &begin, &end);
    for (long r = begin; r < end; r++)
        for (uint32_t g = 0; g < groups; g++) {
            float *o = y + (size_t)r * wo + (size_t)g * (wa + wb);
            memcpy(o, a + ((size_t)r * groups + g) * wa, wa * sizeof *y);
            memcpy(o + wa, op->attr.concat.b_shared ? b + (size_t)r * wb : b + ((size_t)r * groups + g) * wb, wb * sizeof *y);
        }
}

/* ---- mixtures --------------------------------------------------------------------------------------------------- */
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
        p[i] = r->score == ROUTE_SOFTMAX ? expf(scores[i] - max) : r->score == ROUTE_SIGMOID ? 1 / (1 + expf(-scores[i])) : scores[i];
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

static void op_route(bexec *x, const plan_op *op, int ith, int nth)
{
    const plan_route *r = &op->attr.route;
    const bweight *bias = exec_weight(x, op, 0);
    long begin, end;
    pool_share(x->batch->n_tok, 1, ith, nth, &begin, &end);
    for (long t = begin; t < end; t++)
        route_token(r, exec_reg(x, op->in[0]) + (size_t)t * r->n_expert, bias ? bias->vec : NULL,
                    (int32_t *)(void *)exec_reg(x, op->out[0]) + (size_t)t * r->k, exec_reg(x, op->out[1]) + (size_t)t * r->k, exec_scratch(x, ith));
}

static void op_combine(bexec *x, const plan_op *op, int ith, int nth)
{
    uint32_t n = exec_width(x, op->out[0]), k = op->attr.expert.k;
    part p = share(x->batch->n_tok, n, 64, ith, nth);
    const float *in = exec_reg(x, op->in[0]), *w = exec_reg(x, op->in[1]);
    float *y = exec_reg(x, op->out[0]);
    for (int32_t t = p.row; t < p.row_end; t++)
        for (uint32_t j = p.col; j < p.col_end; j++) {
            float s = 0;
            for (uint32_t c = 0; c < k; c++)
                s += w[(size_t)t * k + c] * in[((size_t)t * k + c) * n + j];
            y[(size_t)t * n + j] = s;
        }
}

static void op_decay(bexec *x, const plan_op *op, int ith, int nth)
{
    uint32_t w = exec_width(x, op->out[0]);
    const float *a = exec_weight(x, op, 0)->vec, *dt = exec_weight(x, op, 1)->vec, *in = exec_reg(x, op->in[0]);
    float *y = exec_reg(x, op->out[0]);
    long begin, end;
    pool_share(x->batch->n_tok, 1, ith, nth, &begin, &end);
    for (long t = begin; t < end; t++)
        for (uint32_t j = 0; j < w; j++) {
            float neg = op->attr.decay.a_is_negexp ? a[j] : -expf(a[j]);
            y[(size_t)t * w + j] = neg * cpu_act(ACT_SOFTPLUS, in[(size_t)t * w + j] + dt[j]);
        }
}

/* ---- products --------------------------------------------------------------------------------------------------- */
static void add_bias(const bweight *w, uint32_t expert, uint64_t begin, uint64_t end, float *y)
{
    if (w->bias)
        for (uint64_t r = begin; r < end; r++)
            y[r] += w->bias[expert * w->rows + r];
}

/* The rows of in[0] as the weight's kernel wants them: plain, or prepared by the first operation that needs them. */
static const void *prepared(bexec *x, const plan_op *op, size_t *stride)
{
    int32_t p = x->prep_of[op - x->p->op];
    if (p < 0) {
        *stride = exec_width(x, op->in[0]) * sizeof(float);
        return exec_reg(x, op->in[0]);
    }
    *stride = x->prep[p].stride;
    return x->work + x->prep[p].off;
}

static void op_linear(bexec *x, const plan_op *op, int ith, int nth)
{
    const bweight *w = exec_weight(x, op, 0);
    size_t stride;
    const void *rows = prepared(x, op, &stride);
    int32_t n = exec_rows(x, op->in[0]);
    float *y = exec_reg(x, op->out[0]);
    long begin, end;
    pool_share((long)w->rows, w->lin->grain, ith, nth, &begin, &end);
    if (begin >= end || n == 0)
        return;
    w->lin->rows(w, 0, (uint64_t)begin, (uint64_t)end, rows, stride, n, y, w->rows, exec_scratch(x, ith));
    for (int32_t t = 0; t < n; t++)
        add_bias(w, 0, (uint64_t)begin, (uint64_t)end, y + (size_t)t * w->rows);
}

/* One token and choice at a time: what matters here is that it is right; the order of work does not change a row. */
static void op_expert_linear(bexec *x, const plan_op *op, int ith, int nth)
{
    const bweight *w = exec_weight(x, op, 0);
    size_t stride;
    const uint8_t *rows = prepared(x, op, &stride);
    uint32_t k = op->attr.expert.k;
    const int32_t *ids = (const int32_t *)(const void *)exec_reg(x, op->in[1]);
    float *y = exec_reg(x, op->out[0]);
    long begin, end;
    pool_share((long)w->rows, w->lin->grain, ith, nth, &begin, &end);
    for (long i = 0; begin < end && i < (long)x->batch->n_tok * k; i++) {
        const uint8_t *row = rows + (size_t)(op->attr.expert.x_per_choice ? i : i / k) * stride;
        float *o = y + (size_t)i * w->rows;
        w->lin->rows(w, (uint32_t)ids[i], (uint64_t)begin, (uint64_t)end, row, stride, 1, o, w->rows, exec_scratch(x, ith));
        add_bias(w, (uint32_t)ids[i], (uint64_t)begin, (uint64_t)end, o);
    }
}

static void op_head_linear(bexec *x, const plan_op *op, int ith, int nth)
{
    const bweight *w = exec_weight(x, op, 0);
    uint32_t nh = op->attr.head_linear.n_head;
    size_t stride;
    const uint8_t *rows = prepared(x, op, &stride); /* each head of each token is a row of its own */
    float *y = exec_reg(x, op->out[0]);
    long begin, end;
    pool_share(nh, 1, ith, nth, &begin, &end);
    for (long h = begin; h < end; h++)
        for (int32_t t = 0; t < x->batch->n_tok; t++)
            w->lin->rows(w, (uint32_t)h, 0, w->rows, rows + ((size_t)t * nh + (size_t)h) * stride, stride, 1,
                         y + ((size_t)t * nh + (size_t)h) * w->rows, w->rows, exec_scratch(x, ith));
}

const cpu_op_fn cpu_ops[OP_COUNT] = {
    [OP_EMBED] = op_embed, [OP_GATHER] = op_gather, [OP_NORM] = op_norm, [OP_L2NORM] = op_l2norm, [OP_LINEAR] = op_linear,
    [OP_HEAD_LINEAR] = op_head_linear, [OP_ADD] = op_add, [OP_MUL] = op_mul, [OP_SCALE] = op_unary, [OP_SOFTCAP] = op_unary,
    [OP_ACT] = op_unary, [OP_GLU] = op_glu, [OP_GATE] = op_gate, [OP_ROPE] = op_rope, [OP_SLICE] = op_slice, [OP_CONCAT] = op_concat,
    [OP_KV_STORE] = cpu_kv_store, [OP_ATTEND] = cpu_attend, [OP_ROUTE] = op_route, [OP_EXPERT_LINEAR] = op_expert_linear,
    [OP_COMBINE] = op_combine, [OP_DECAY] = op_decay,
};

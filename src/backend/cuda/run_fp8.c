/* Prompts in FP8 (kernels/fp8.cu): which nodes have a copy of their weights as e4m3 rows, and their products. The
 * copies are made when a plan is compiled and count as weights. Which tile a shape takes changes its time, never a
 * row's bytes. */
#include <stdio.h>

#include "backend/cuda/exec.h"
#include "base/mem.h"

struct fp8_copy {
    CUdeviceptr mem;       /* rows, then scales, then biases */
    uint64_t n_bytes;
    uint32_t rows, k;      /* of the copy: a multiple of 256 (the widest tile), FP8_K of the columns */
    uint32_t row0[GEMV_MAX_W];
    CUdeviceptr scale, bias; /* f32 [rows]; bias may be 0 */
    bool pair;             /* gate and up by turns; the product ends with their activation */
    bool from_pair, to_product; /* x8 between a pair and the one node that reads it */
};

bool exec_fp8_is_pair(const fp8_copy *c) { return c->pair; }

/* ---- copies ------------------------------------------------------------------------------------------------- */
static bool wanted(const bexec *x, const node *n)
{
    bool ok = n->kind == NODE_LINEAR && n->n_lin > 0;
    for (int32_t i = 0; i < n->n_lin && ok; i++)
        ok = plan_op_prompt_fp8(x->p, n->lin[i]);
    return ok;
}

static bool is_pair(const bexec *x, const node *n)
{
    if (n->glu < 0 || n->n_lin != 2)
        return false;
    plan_reg out = x->p->op[n->glu].out[0];
    plan_act a = x->p->op[n->glu].attr.act.act;
    return x->reg[out].f16 && x->reg[out].width % 64 == 0 &&
           (a == ACT_SILU || a == ACT_GELU_TANH || a == ACT_SWIGLU_OAI);
}

static imp_status make_copy(bexec *x, node *n, imp_err *e)
{
    backend *b = x->b;
    const plan_op *l0 = &x->p->op[n->lin[0]];
    fp8_copy *c = mem_calloc(1, sizeof *c);
    if (!c)
        return err_oom(e, "FP8 copy", sizeof *c);
    n->fp8 = c;
    c->pair = is_pair(x, n);
    bool bias = false;
    for (int32_t i = 0; i < n->n_lin; i++) {
        const dweight *w = &x->w[x->p->op[n->lin[i]].weight[0]]->d;
        c->row0[i] = c->rows;
        c->rows += FP8_ROWS(w->rows);
        c->k = FP8_K(w->cols);
        bias = bias || w->bias;
    }
    c->rows = up_to(c->rows, 256);
    uint64_t rows_bytes = (uint64_t)c->rows * c->k;
    c->n_bytes = rows_bytes + (uint64_t)c->rows * (bias ? 8 : 4);
    char what[96];
    snprintf(what, sizeof what, "the FP8 copy for prompts of layer %d %s", (int)l0->layer, l0->role);
    imp_status s = cuda_alloc(b, c->n_bytes, &b->weights, &c->mem, what, e);
    if (s != IMP_OK)
        return s;
    c->scale = c->mem + rows_bytes;
    c->bias = bias ? c->scale + (uint64_t)c->rows * 4 : 0;
    s = cu_check(&b->cu, b->cu.MemsetD8Async(c->mem, 0, c->n_bytes, b->stream), e, "clearing %s", what);
    for (int32_t i = 0; i < n->n_lin && s == IMP_OK; i++) {
        const dweight *w = &x->w[x->p->op[n->lin[i]].weight[0]]->d;
        uint32_t at = c->pair ? 0 : c->row0[i]; /* rows of a pair find their places by themselves */
        fp8_copy_args a = {.w = *w, .dst = c->mem + (uint64_t)at * c->k, .scale = c->scale + (uint64_t)at * 4,
                           .bias = bias ? c->bias + (uint64_t)at * 4 : 0, .ld = c->k,
                           .pair = c->pair ? (uint32_t)i + 1 : 0};
        s = cuda_launch(b, b->stream, K_fp8_copy, w->row_tiles, 1, 1, 256, 0, false, &a, e);
    }
    return s;
}

/* A pair whose result one product alone reads hands it over as e4m3 rows. */
static void chain(bexec *x, node *pair)
{
    const plan *p = x->p;
    plan_reg act = p->op[pair->glu].out[0];
    int32_t readers = 0;
    for (int32_t j = 0; j < p->n_op; j++)
        for (int k = 0; k < 6; k++)
            readers += p->op[j].in[k] == act;
    for (node *n = pair + 1; n < x->node + x->n_node; n++)
        if (n->fp8 && n->norm < 0 && n->n_lin == readers && p->op[n->lin[0]].in[0] == act &&
            n->fp8->k == x->reg[act].width)
            pair->fp8->to_product = n->fp8->from_pair = true;
}

imp_status exec_fp8_make(bexec *x, imp_err *e)
{
    imp_status s = IMP_OK;
    for (int32_t i = 0; i < x->n_node && s == IMP_OK && x->b->prefill_fp8; i++)
        if (wanted(x, &x->node[i]))
            s = make_copy(x, &x->node[i], e);
    for (int32_t i = 0; i < x->n_node && s == IMP_OK; i++)
        if (x->node[i].fp8 && x->node[i].fp8->pair)
            chain(x, &x->node[i]);
    return s;
}

/* ---- activations -------------------------------------------------------------------------------------------- */
/* Rows of k bytes, then factors [k / 128][tokens, a multiple of 4]; tiles read those of 256 tokens, wherever the last
 * one is. x8 serves one launch at a time. In a8 the rows of a step keep their places, as several runs of prompts may be
 * under way; the factors of a run from row r0 on have room for four times its tokens, so that each run begins at a
 * multiple of 16 bytes. */
static uint32_t longest(const bexec *x, bool chained)
{
    uint32_t k = 0;
    for (int32_t i = 0; i < x->n_node; i++) {
        const fp8_copy *c = x->node[i].fp8;
        if (c && c->from_pair == chained && c->k > k)
            k = c->k;
    }
    return k;
}
static uint64_t x8_rows(const bexec *x, uint64_t rows) { return rows * longest(x, false); }
static uint64_t x8_bytes(const bexec *x, uint64_t rows)
{
    return x8_rows(x, rows) + (rows + 4) * (longest(x, false) / 128) * 4 + 2048;
}
static uint64_t a8_rows(const bexec *x, uint64_t rows) { return rows * longest(x, true); }

uint64_t exec_fp8_bytes(const bexec *x, uint64_t rows)
{
    return longest(x, false) ? x8_bytes(x, rows) + a8_rows(x, rows) + rows * 16 * (longest(x, true) / 128) + 2048 : 0;
}

void exec_fp8_place(bexec *x, CUdeviceptr at, uint64_t rows)
{
    x->x8 = at;
    x->x8_scale = at + x8_rows(x, rows);
    x->a8 = at + (x8_bytes(x, rows) + 255) / 256 * 256;
    x->a8_scale = x->a8 + a8_rows(x, rows);
}

void exec_fp8_free(bexec *x)
{
    for (int32_t i = 0; i < x->n_node; i++) {
        fp8_copy *c = x->node[i].fp8;
        if (c && c->mem)
            cuda_free(x->b, c->mem, c->n_bytes, &x->b->weights);
        mem_free(c);
        x->node[i].fp8 = NULL;
    }
}

/* ---- products ----------------------------------------------------------------------------------------------- */
/* Tiles: tokens x rows of the copy, and what one takes compared with the first, measured at 512 and 2,048 tokens of an
 * 8B model. A fixed table, so that a shape takes the same time on every start. */
typedef struct fp8_tile {
    kernel_id k;
    uint32_t tokens, rows;
    float cost;
    bool e4m3; /* can hand over e4m3 rows: its block holds 128 of a pair's columns */
} fp8_tile;
static const fp8_tile tiles[] = {
    {K_fp8_128x256, 128, 256, 1.0f, true},  {K_fp8_64x256, 64, 256, 0.65f, true},
    {K_fp8_128x128, 128, 128, 0.7f, false}, {K_fp8_64x128, 64, 128, 0.41f, false},
    {K_fp8_64x64, 64, 64, 0.33f, false},
};

const char *exec_fp8_tile_name(const bexec *x, int i)
{
    return i >= 0 && i < (int)(sizeof tiles / sizeof *tiles) ? x->b->fn_name[tiles[i].k] : NULL;
}

static const fp8_tile *choose(const bexec *x, uint32_t rows, uint32_t m, bool e4m3)
{
    const fp8_tile *best = NULL;
    double least = 0;
    if (x->b->fp8_tile > 0 && (!e4m3 || tiles[x->b->fp8_tile - 1].e4m3))
        return &tiles[x->b->fp8_tile - 1];
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
        const fp8_tile *t = &tiles[i];
        if (e4m3 && !t->e4m3)
            continue;
        uint32_t n = div_up(rows, t->rows) * div_up(m, t->tokens);
        double cost = (double)div_up(n, (uint32_t)x->b->n_sm) * (double)t->cost;
        if (!best || cost < least) {
            best = t;
            least = cost;
        }
    }
    return best;
}

static imp_status describe(bexec *x, CUtensorMap *map, CUdeviceptr p, uint32_t k, uint32_t rows, uint32_t box_rows,
                           const char *what, imp_err *e)
{
    cuuint64_t dim[2] = {k, rows}, stride[1] = {k};
    cuuint32_t box[2] = {128, box_rows}, step[2] = {1, 1};
    return cu_check(&x->b->cu,
                    x->b->cu.TensorMapEncodeTiled(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, (void *)(uintptr_t)p, dim,
                                                  stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
                    e, "describing %s", what);
}

/* The node's input as e4m3 rows. */
static imp_status input(bexec *x, const fp8_copy *c, op_args in, uint32_t m, imp_err *e)
{
    in.out = x->x8;
    in.ldo = c->k;
    in.out2 = x->x8_scale;
    in.ldo2 = up_to(m, 4);
    return cuda_launch(x->b, x->b->stream, K_fp8_rows, m, 1, 1, 256, 0, true, &in, e);
}

imp_status exec_fp8(bexec *x, const node *n, int32_t r0, const op_args *in, const gemv_args *g, imp_err *e)
{
    const fp8_copy *c = n->fp8;
    const fp8_tile *t = choose(x, c->rows, g->m, c->to_product);
    CUdeviceptr rows = c->from_pair ? x->a8 + (uint64_t)r0 * c->k : x->x8,
                scale = c->from_pair ? x->a8_scale + (uint64_t)r0 * 16 * (c->k / 128) : x->x8_scale;
    struct {
        CUtensorMap x, w;
        fp8_args a;
    } p = {.a = {.n_part = c->pair ? 1 : (uint32_t)n->n_lin, .x_scale = scale, .w_scale = c->scale, .bias = c->bias,
                 .ldx = up_to(g->m, 4), .m = g->m, .n_k = c->k / 128, .n_rb = div_up(c->rows, t->rows),
                 .n_tb = div_up(g->m, t->tokens), .pair = c->pair, .act = g->act, .limit = g->limit,
                 .alpha = g->alpha, .even = 1}};
    for (uint32_t i = 0; i < p.a.n_part; i++) {
        p.a.part[i] = (fp8_part){.out = g->out[i], .residual = i ? 0 : g->residual, .row0 = c->row0[i],
                                 .rows = g->w[i].rows, .ldo = g->ldo[i], .ldr = g->ldr};
        p.a.even &= g->w[i].rows % 2 == 0 && g->ldo[i] % 2 == 0 && g->ldr % 2 == 0;
    }
    if (c->to_product) {
        uint32_t width = g->ldo[0];
        p.a.part[0].out = x->a8 + (uint64_t)r0 * width;
        p.a.out_scale = x->a8_scale + (uint64_t)r0 * 16 * (width / 128);
        p.a.ldos = up_to(g->m, 4);
    }
    imp_status s = c->from_pair ? IMP_OK : input(x, c, *in, g->m, e);
    if (s == IMP_OK)
        s = describe(x, &p.x, rows, c->k, g->m, t->tokens, "FP8 activations", e);
    if (s == IMP_OK)
        s = describe(x, &p.w, c->mem, c->k, c->rows, t->rows, "FP8 weights", e);
    if (s != IMP_OK)
        return s;
    uint32_t all = p.a.n_rb * p.a.n_tb, most = (uint32_t)x->b->n_sm;
    uint32_t smem = 1024 + 5120 + FP8_STAGES(t->tokens, t->rows) * (t->tokens + t->rows) * 128;
    return cuda_launch(x->b, x->b->stream, t->k, all < most ? all : most, 1, 1, 384, smem, true, &p, e);
}

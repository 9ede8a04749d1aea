/* Prompts: rows of class P on Hopper. Products (one matrix, gate and up together, experts) through kernels/prefill.cu,
 * attention through kernels/attend_w.cu. What is chosen here changes the time of a row, never its bytes: every tile
 * adds the same products in the same order. */
#include <string.h>

#include "backend/cuda/exec.h"

static imp_status go(bexec *x, kernel_id k, uint32_t gx, uint32_t gy, uint32_t threads, uint32_t smem, const void *args,
                     imp_err *e)
{
    return cuda_launch(x->b, x->b->stream, k, gx, gy, 1, threads, smem, true, args, e);
}

/* ---- products --------------------------------------------------------------------------------------------------- */
/* Tiles of the prompt kernel, best first; a fixed table, so that a shape takes the same time on every start. */
typedef struct prefill_tile {
    kernel_id k;
    uint32_t mb, n_tok;
} prefill_tile;
static const prefill_tile dense_tiles[] = {
    {K_prefill_2x128, 2, 128}, {K_prefill_1x256, 1, 256}, {K_prefill_1x128, 1, 128}, {K_prefill_1x64, 1, 64}};
static const prefill_tile paired_tiles[] = {{K_prefill_2x128, 2, 128}, {K_prefill_2x64, 2, 64}};
static const prefill_tile decode_tile = {K_experts_d16, 2, 16}; /* rows of class D: gemv's sums */

#define PREFILL_FIXED (1024 + 256 + 512) /* alignment, barriers, rows to gather */
/* A gatherer reports a stage some stages later, and a reader keeps two (prefill.cu). */
#define GATHER_STAGES(n_tok) ((n_tok) < 64 ? 8u : 5u)

/* Shared memory of a tile and the stages of its rings; 0 when it does not fit. */
static uint32_t prefill_smem(const bexec *x, const prefill_tile *t, uint32_t tile_bytes, uint32_t *n_x, uint32_t *n_w)
{
    uint32_t xb = t->n_tok * 128, wb = 8 * t->mb * tile_bytes, most = (uint32_t)x->b->smem_max - PREFILL_FIXED;
    *n_w = 2;
    if (2 * wb + 2 * xb > most)
        return 0;
    *n_x = (most - 2 * wb) / xb;
    *n_x = *n_x > 8 ? 8 : *n_x;
    while (*n_x == 8 && *n_w < 4 && (*n_w + 1) * wb + 8 * xb <= most)
        ++*n_w;
    return PREFILL_FIXED + *n_w * wb + *n_x * xb;
}

/* x: f16 [rows][ldx]; n_tb: blocks of tokens, at most. Everything else of `a` is the caller's. */
static imp_status launch(bexec *x, const prefill_tile *t, const prefill_args *base, CUdeviceptr xh, uint32_t ldx,
                         uint32_t rows, uint32_t n_tb, imp_err *e)
{
    struct {
        CUtensorMap map;
        prefill_args a;
    } p = {.a = *base};
    uint32_t smem = prefill_smem(x, t, p.a.w[0].tile_bytes, &p.a.n_stage_x, &p.a.n_stage_w);
    p.a.n_rb = p.a.pair ? div_up(p.a.ldo, 128) : div_up(p.a.w[0].row_tiles, 8 * t->mb);
    p.a.n_tb = n_tb;
    p.a.x = xh;
    p.a.ldx = ldx;
    cuuint64_t dim[2] = {ldx, rows}, stride[1] = {(cuuint64_t)ldx * 2};
    cuuint32_t box[2] = {64, t->n_tok}, step[2] = {1, 1};
    void *at = (void *)(uintptr_t)xh;
    CUresult mapped =
        x->b->cu.TensorMapEncodeTiled(&p.map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, at, dim, stride, box, step,
                                      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    imp_status s = cu_check(&x->b->cu, mapped, e, "describing activations");
    uint64_t all = (uint64_t)p.a.n_rb * n_tb, n_sm = (uint64_t)x->b->n_sm;
    return s == IMP_OK ? go(x, t->k, (uint32_t)(all < n_sm ? all : n_sm), 1, 384, smem, &p, e) : s;
}

bool exec_same_tiles(const dweight *a, const dweight *b)
{
    return a->layout == b->layout && a->tile_bytes == b->tile_bytes && a->row_tiles == b->row_tiles &&
           a->k_tiles == b->k_tiles && a->seg == b->seg && a->z == b->z && memcmp(a->lut, b->lut, sizeof a->lut) == 0;
}

/* Activations that the epilogue of a pair knows. */
static bool pair_act(plan_act a) { return a == ACT_SILU || a == ACT_GELU_TANH || a == ACT_SWIGLU_OAI; }

bool exec_prompt(const bexec *x) { return !x->b->deterministic && x->b->fn[K_prefill_1x64]; }

imp_status exec_prompt_pair(bexec *x, const gemv_args *g, CUdeviceptr xh, uint32_t ldx, bool *done, imp_err *e)
{
    uint32_t n_x, n_w;
    const prefill_tile *t = &paired_tiles[g->m <= 64];
    *done = g->pair && g->out_f16 && pair_act((plan_act)g->act) && exec_same_tiles(&g->w[0], &g->w[1]) &&
            prefill_smem(x, t, g->w[0].tile_bytes, &n_x, &n_w);
    if (!*done)
        return IMP_OK;
    prefill_args a = {.w = {g->w[0], g->w[1]}, .out = g->out[0], .ldo = g->ldo[0], .out_f16 = 1, .m = g->m,
                      .pair = 1, .act = g->act, .limit = g->limit, .alpha = g->alpha};
    return launch(x, t, &a, xh, ldx, g->m, div_up(g->m, t->n_tok), e);
}

imp_status exec_prompt_product(bexec *x, const dweight *w, CUdeviceptr xh, uint32_t ldx, CUdeviceptr out, uint32_t ldo,
                               CUdeviceptr res, uint32_t ldr, uint32_t n, imp_err *e)
{
    const prefill_tile *best = NULL;
    uint32_t n_x, n_w;
    double least = 0;
    for (size_t i = 0; i < sizeof dense_tiles / sizeof *dense_tiles; i++) {
        const prefill_tile *t = &dense_tiles[i];
        if (!prefill_smem(x, t, w->tile_bytes, &n_x, &n_w))
            continue;
        /* rounds of tiles, each as long as its tile is large, small tiles less efficient */
        uint32_t tiles = div_up(w->row_tiles, 8 * t->mb) * div_up(n, t->n_tok);
        uint32_t rounds = div_up(tiles, (uint32_t)x->b->n_sm);
        double cost = (double)rounds * t->mb * (t->n_tok + (t->n_tok < 128 ? 40 : 24));
        if (!best || cost < least) {
            best = t;
            least = cost;
        }
    }
    if (!best)
        return err_set(e, IMP_E_INTERNAL, "cuda: no tile fits for a prompt's product of %u x %u", w->rows, w->cols);
    prefill_args a = {.w = {*w}, .out = out, .residual = res, .m = n, .ldo = ldo, .ldr = ldr};
    return launch(x, best, &a, xh, ldx, n, div_up(n, best->n_tok), e);
}

/* ---- mixtures of experts ---------------------------------------------------------------------------------------- */
static bool experts_fit(const bexec *x, const dweight *w, bool gather)
{
    const prefill_tile *const tiles[] = {&paired_tiles[0], &paired_tiles[1], &decode_tile};
    uint32_t n_x, n_w;
    for (int t = 0; t < 3; t++)
        if (!prefill_smem(x, tiles[t], w->tile_bytes, &n_x, &n_w) || (gather && n_x < GATHER_STAGES(tiles[t]->n_tok)))
            return false;
    return true;
}

int32_t exec_readers(const plan *p, plan_reg r)
{
    int32_t n = 0;
    for (int32_t j = 0; j < p->n_op; j++)
        for (int k = 0; k < 6; k++)
            n += p->op[j].in[k] == r;
    return n;
}

/* gate and up with their activation, and the product that alone reads them: the activations then lie in the register's
 * memory as f16 rows in the order of their experts, and only these two nodes know. */
static bool group_pair(bexec *x, node *g)
{
    const plan *p = x->p;
    const plan_op *up = &p->op[g->lin[0]];
    plan_reg act = p->op[g->glu].out[0];
    node *d = NULL;
    for (node *c = g + 1; c < x->node + x->n_node && !d; c++) {
        const plan_op *o = &p->op[c->kind == NODE_LINEAR ? c->lin[0] : c->op];
        if (c->kind == NODE_LINEAR && c->n_lin == 1 && o->kind == OP_EXPERT_LINEAR && o->in[0] == act &&
            o->in[1] == up->in[1] && o->attr.expert.x_per_choice)
            d = c;
    }
    if (!d || exec_readers(p, act) != 1)
        return false;
    const dweight *w = matrix(x, g->lin[0]);
    if (!pair_act(p->op[g->glu].attr.act.act) || !exec_same_tiles(w, matrix(x, g->lin[1])) ||
        up_to(w->rows, TILE_COLS) > 2 * w->rows || up->attr.expert.k * w->rows % 4 || x->reg[act].f16 ||
        !experts_fit(x, w, true) || !experts_fit(x, matrix(x, d->lin[0]), false))
        return false;
    g->grouped = d->grouped = GROUP_PAIR;
    return true;
}

void exec_group_experts(bexec *x)
{
    const plan *p = x->p;
    for (int32_t i = 0; i < x->n_node && x->b->fn[K_prefill_2x64]; i++) {
        node *n = &x->node[i];
        const plan_op *l = n->kind == NODE_LINEAR ? &p->op[n->lin[0]] : NULL;
        if (!l || l->kind != OP_EXPERT_LINEAR || x->w[l->weight[0]]->n_expert > 512)
            continue;
        const dweight *w = matrix(x, n->lin[0]);
        if (n->glu >= 0 && n->n_lin == 2) {
            if (!group_pair(x, n))
                continue;
        } else if (!n->grouped) {
            if (n->n_lin != 1 || n->glu >= 0 || n->add >= 0 || !experts_fit(x, w, true) ||
                (l->attr.expert.x_per_choice && x->reg[l->in[0]].f16))
                continue;
            n->grouped = GROUP_ONE;
            if (l->attr.expert.x_per_choice && w->k_tiles * TILE_COLS > x->moe_cols)
                x->moe_cols = w->k_tiles * TILE_COLS;
        }
        x->moe_k = l->attr.expert.k > x->moe_k ? l->attr.expert.k : x->moe_k;
        x->moe_experts = x->w[l->weight[0]]->n_expert > x->moe_experts ? x->w[l->weight[0]]->n_expert : x->moe_experts;
    }
}

/* Bytes of the lists of a step of n_tok tokens: pairs, tiles, and f16 rows for products that find f32 ones. */
uint64_t exec_moe_bytes(const bexec *x, int32_t n_tok, uint64_t *tiles_at, uint64_t *rows_at)
{
    uint64_t pairs = (uint64_t)n_tok * x->moe_k;
    *tiles_at = (pairs * 4 + 255) & ~255ull;
    *rows_at = (*tiles_at + sizeof(group_tile) * (1 + x->moe_experts + pairs / decode_tile.n_tok) + 255) & ~255ull;
    return x->moe_k ? *rows_at + pairs * x->moe_cols * 2 : 0;
}

imp_status exec_sort_pairs(bexec *x, const plan_op *l, int32_t r0, uint32_t n_pair, uint32_t n_expert, uint32_t n_tok,
                           imp_err *e)
{
    sort_args a = {.ids = at_row(x, l->in[1], r0), .pair_of = x->moe_pair, .tile = x->moe_tile, .n_pair = n_pair,
                   .n_expert = n_expert, .n_tok = n_tok};
    return go(x, K_moe_sort, 1, 1, 1024, 32 * n_expert * 4, &a, e);
}

/* One product of experts by itself: f32 rows out, at their pairs' places. */
static imp_status one_of_experts(bexec *x, const plan_op *l, const prefill_tile *t, int32_t r0, int32_t n_row,
                                 CUdeviceptr xh, uint32_t ldx, imp_err *e)
{
    const dweight *w = &x->w[l->weight[0]]->d;
    uint32_t k = l->attr.expert.k, n_pair = (uint32_t)n_row * k, n_expert = x->w[l->weight[0]]->n_expert;
    uint32_t pad = w->k_tiles * TILE_COLS;
    prefill_args a = {.w = {*w}, .tile = x->moe_tile, .pair_of = x->moe_pair, .m = n_pair, .n_choice = k,
                      .gather = 1, .scatter = 1, .ldo = w->rows, .out = at_row(x, l->out[0], r0)};
    imp_status s = exec_sort_pairs(x, l, r0, n_pair, n_expert, t->n_tok, e);
    if (l->attr.expert.x_per_choice) {
        a.n_choice = 1;
        xh = x->moe_x;
        ldx = pad;
        for (uint32_t i = 0; i < n_pair && s == IMP_OK; i += 32768) {
            uint32_t n = n_pair - i < 32768 ? n_pair - i : 32768;
            op_args o = {.a = reg_ptr(x, l->in[0]) + (uint64_t)r0 * reg_row_bytes(x, l->in[0]) +
                              (uint64_t)i * w->cols * 4,
                         .lda = w->cols, .out = x->moe_x + (uint64_t)i * pad * 2, .ldo = pad, .out_f16 = 1,
                         .width = w->cols, .flag = 3};
            s = go(x, K_unary, div_up(w->cols, 1024), n, 256, 0, &o, e);
        }
    }
    return s == IMP_OK ? launch(x, t, &a, xh, ldx, n_pair, n_expert + n_pair / t->n_tok, e) : s;
}

imp_status exec_experts(bexec *x, const node *n, int32_t r0, int32_t n_row, bool prompt, CUdeviceptr xh, uint32_t ldx,
                        imp_err *e)
{
    const plan *p = x->p;
    const plan_op *l = &p->op[n->lin[0]];
    bool down = n->glu < 0;
    const dweight *w = matrix(x, n->lin[0]);
    uint32_t k = l->attr.expert.k, n_pair = (uint32_t)n_row * k, n_expert = x->w[l->weight[0]]->n_expert;
    const prefill_tile *t = prompt ? &paired_tiles[n_pair <= 192 * n_expert] : &decode_tile;
    if (n->grouped == GROUP_ONE)
        return one_of_experts(x, l, t, r0, n_row, xh, ldx, e);
    imp_status s = IMP_OK;
    /* the list that gate and up made still holds, unless another range made its own since; the sort is stable */
    if (!down || x->n_tok_run > 1)
        s = exec_sort_pairs(x, l, r0, n_pair, n_expert, t->n_tok, e);
    if (s != IMP_OK)
        return s;
    plan_reg act = down ? l->in[0] : p->op[n->glu].out[0], out = down ? l->out[0] : act;
    prefill_args a = {.w = {*w}, .tile = x->moe_tile, .pair_of = x->moe_pair, .m = n_pair, .n_choice = k,
                      .out = at_row(x, out, r0)};
    uint32_t most = n_expert + n_pair / t->n_tok;
    if (down) {
        a.scatter = 1;
        a.ldo = w->rows;
        return launch(x, t, &a, at_row(x, act, r0), w->k_tiles * TILE_COLS, n_pair, most, e);
    }
    const plan_op *g = &p->op[n->glu];
    a.w[1] = *matrix(x, n->lin[1]);
    a.pair = a.gather = a.out_f16 = 1;
    a.ldo = up_to(w->rows, TILE_COLS);
    a.act = (uint32_t)g->attr.act.act;
    a.limit = g->attr.act.limit;
    a.alpha = g->attr.act.alpha;
    return launch(x, t, &a, xh, ldx, (uint32_t)n_row, most, e);
}

/* run_precise: the products of --precise (kernels/precise.cu): which kernel, how many blocks. Rows of both classes, all
 * rows of a step at once: a row's bytes depend on neither. Called by run.c on the backend's thread. */
#include "backend/cuda/exec.h"

#define WARPS 8u
/* Rows up to which each block takes a few of them; from there on the kernel for many, whose blocks cost the same for 1
 * row as for 64, is the cheaper one by the count of its instructions (not measured yet). */
#define WARP_ROWS 16u
#define FEW_PAIRS 8u /* of an expert, on average */
#define MOST_Y 32768u

/* Experts' rows are sorted into lists where there are many of them. */
static bool can_sort(const bexec *x, const plan_op *l)
{
    return l->kind == OP_EXPERT_LINEAR && x->w[l->weight[0]]->n_expert <= 512; /* SORT_EXPERTS in prefill.cu */
}

void exec_precise_lists(bexec *x)
{
    for (int32_t i = 0; i < x->n_node; i++) {
        const node *n = &x->node[i];
        const plan_op *l = n->kind == NODE_LINEAR ? &x->p->op[n->lin[0]] : NULL;
        if (!l || !can_sort(x, l))
            continue;
        uint32_t k = l->attr.expert.k, experts = x->w[l->weight[0]]->n_expert;
        x->moe_k = k > x->moe_k ? k : x->moe_k;
        x->moe_experts = experts > x->moe_experts ? experts : x->moe_experts;
    }
}

/* Blocks along x: `per` row tiles each, matrix after matrix. */
static uint32_t share_blocks(precise_args *a, uint32_t n_w, uint32_t per)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < GEMV_MAX_W; i++) {
        a->begin[i] = i < n_w ? at : UINT32_MAX;
        at += i < n_w ? div_up(a->w[i].row_tiles, per) : 0;
    }
    return at;
}

static imp_status go(bexec *x, kernel_id k, precise_args *a, uint32_t n_w, uint32_t gy, uint32_t gz, imp_err *e)
{
    bool many = k == K_precise_many;
    uint32_t gx = share_blocks(a, n_w, many ? PRECISE_ROWS / TILE_ROWS : WARPS / a->w[0].seg);
    return cuda_launch(x->b, x->b->stream, k, gx, gy, gz, 256, many ? PRECISE_SMEM : 0, true, a, e);
}

/* The kernels for few rows read those in fours. */
static bool by_four(const precise_args *a) { return a->k % 4 == 0 && a->ldx % 4 == 0 && a->x % 16 == 0; }

/* Rows of one matrix each, or of n_head heads. */
static imp_status dense(bexec *x, precise_args *a, uint32_t n_w, uint32_t n_head, imp_err *e)
{
    if (a->m > WARP_ROWS || !by_four(a))
        return go(x, K_precise_many, a, n_w, div_up(a->m, PRECISE_ROWS), n_head, e);
    if (a->m > 1)
        return go(x, K_precise_four, a, n_w, div_up(a->m, 4), n_head, e);
    return go(x, K_precise_one, a, n_w, 1, n_head, e);
}

/* (token, choice) pairs of experts: n_tok tokens of the step from r0 on. */
static imp_status experts(bexec *x, const plan_op *l, precise_args *a, uint32_t n_w, int32_t r0, uint32_t n_tok,
                          imp_err *e)
{
    uint32_t k = l->attr.expert.k, n_expert = x->w[l->weight[0]]->n_expert;
    CUdeviceptr in = a->x, ids = at_row(x, l->in[1], r0), out[GEMV_MAX_W];
    if (can_sort(x, l) && ((uint64_t)n_tok * k >= (uint64_t)FEW_PAIRS * n_expert || !by_four(a))) {
        imp_status s = exec_sort_pairs(x, l, r0, n_tok * k, n_expert, PRECISE_ROWS, e);
        a->m = n_tok * k;
        a->tile = x->moe_tile;
        a->pair_of = x->moe_pair;
        return s == IMP_OK ? go(x, K_precise_many, a, n_w, n_expert + a->m / PRECISE_ROWS, 1, e) : s;
    }
    imp_status s = IMP_OK;
    if (!by_four(a))
        s = err_set(e, IMP_E_UNSUPPORTED,
                    "cuda: layer %d %s: precise has no kernel for rows of %u columns and %u experts", (int)l->layer,
                    l->role, a->k, n_expert);
    uint32_t step = MOST_Y / k;
    for (uint32_t i = 0; i < n_w; i++)
        out[i] = a->out[i];
    for (uint32_t t = 0; t < n_tok && s == IMP_OK; t += step) {
        a->m = (n_tok - t < step ? n_tok - t : step) * k;
        a->ids = ids + (uint64_t)t * k * 4;
        a->x = in + (uint64_t)t * k / a->n_choice * a->ldx * 4;
        for (uint32_t i = 0; i < n_w; i++)
            a->out[i] = out[i] + (uint64_t)t * k * a->ldo[i] * 4;
        s = go(x, K_precise_one, a, n_w, a->m, 1, e);
    }
    return s;
}

imp_status exec_precise(bexec *x, const node *n, int32_t r0, int32_t n_row, imp_err *e)
{
    const plan *p = x->p;
    const plan_op *l = &p->op[n->lin[0]];
    bool of_experts = l->kind == OP_EXPERT_LINEAR, heads = l->kind == OP_HEAD_LINEAR;
    plan_reg in = l->in[0];
    precise_args a = {.x = at_row(x, in, r0), .ldx = reg_ld(x, in), .m = (uint32_t)n_row, .n_choice = 1};
    for (int32_t i = 0; i < n->n_lin; i++) {
        const plan_op *o = &p->op[n->lin[i]];
        plan_reg out = n->add >= 0 ? p->op[n->add].out[0] : o->out[0];
        a.w[i] = x->w[o->weight[0]]->d;
        a.out[i] = at_row(x, out, r0);
        a.ldo[i] = of_experts ? a.w[i].rows : reg_ld(x, out);
    }
    a.k = a.w[0].cols;
    if (n->add >= 0) {
        const plan_op *add = &p->op[n->add];
        plan_reg res = add->in[add->in[0] == l->out[0]];
        a.residual = at_row(x, res, r0);
        a.ldr = reg_ld(x, res);
    }
    if (!of_experts)
        return dense(x, &a, (uint32_t)n->n_lin, heads ? l->attr.head_linear.n_head : 1, e);
    if (l->attr.expert.x_per_choice)
        a.ldx = a.k;
    else
        a.n_choice = l->attr.expert.k;
    return n_row ? experts(x, l, &a, (uint32_t)n->n_lin, r0, (uint32_t)n_row, e) : IMP_OK;
}

const char *exec_precise_name(uint32_t layout)
{
    static const char *const names[LAY_COUNT] = {
        [LAY_F16] = "precise F32 F16",   [LAY_I8] = "precise F32 I8",   [LAY_U4] = "precise F32 U4",
        [LAY_NV4] = "precise F32 NV4",   [LAY_Q4K] = "precise F32 Q4K", [LAY_Q5K] = "precise F32 Q5K",
        [LAY_Q6K] = "precise F32 Q6K",   [LAY_F8] = "precise F32 F8",   [LAY_BF16] = "precise F32 BF16",
        [LAY_F32] = "precise F32 F32"};
    return names[layout];
}

/* Runs the nodes of a compiled plan: chooses a kernel by class and number of rows, fills its arguments, launches. */
#include "backend/cuda/exec.h"

/* What a block may take so that two share a multiprocessor of 228 KiB. */
#define SMEM_PAIR (113u << 10)

typedef struct rows { /* the rows a launch is about */
    int32_t r0, n;
    bool prompt;
} rows;

static int32_t dim_rows(const bexec *x, plan_reg r) { return x->reg[r].dim == DIM_R ? x->n_row : x->n_tok; }

static imp_status go(bexec *x, kernel_id k, uint32_t gx, uint32_t gy, uint32_t gz, uint32_t threads, uint32_t smem,
                     const void *args, imp_err *e)
{
    return cuda_launch(x->b, x->b->stream, k, gx, gy, gz, threads, smem, true, args, e);
}

/* ---- one row of one token: nothing to gather ---- */
/* The register that a norm inside a product reads: where there is one token and its row is wanted, what was to be
 * gathered. */
static plan_reg ungathered(const bexec *x, plan_reg r)
{
    const plan *p = x->p;
    int32_t def = p->reg[r].def;
    if (x->n_tok != 1 || x->n_row != 1 || def < 0 || p->op[def].kind != OP_GATHER || r == p->hidden ||
        exec_readers(p, r) != 1)
        return r;
    return p->op[def].in[0];
}
static bool gather_is_idle(const bexec *x, const plan_op *o)
{
    for (int32_t i = 0; i < x->n_node; i++) {
        const node *n = &x->node[i];
        if (n->kind == NODE_LINEAR && n->norm >= 0 && x->p->op[n->norm].in[0] == o->out[0])
            return ungathered(x, o->out[0]) != o->out[0];
    }
    return false;
}

/* ---- products --------------------------------------------------------------------------------------------------- */
static op_args norm_args(const bexec *x, const plan_op *o, CUdeviceptr in, uint32_t ld_in, CUdeviceptr out,
                         uint32_t ld_out, bool f16)
{
    const plan *p = x->p;
    return (op_args){.a = in, .lda = ld_in, .out = out, .ldo = ld_out, .out_f16 = f16,
                     .width = p->reg[o->in[0]].width, .w = vec(x, o->weight[0]),
                     .bias = o->weight[0] == PLAN_NONE ? 0 :
                             o->weight[1] != PLAN_NONE ? vec(x, o->weight[1]) : x->w[o->weight[0]]->d.bias,
                     .eps = o->attr.norm.eps, .plus_one = o->attr.norm.plus_one ? 1.0f : 0.0f,
                     .flag = o->attr.norm.layer};
}

/* A gemv's kernel, by what its matrices' tiles are. */
static kernel_id gemv_kernel(const gemv_args *a)
{
    static const kernel_id of[LAYS_COUNT] = {
        [LAY_F16] = K_gemv_f16, [LAY_I8] = K_gemv_i8,   [LAY_U4] = K_gemv_u4,   [LAY_NV4] = K_gemv_nv4,
        [LAY_Q4K] = K_gemv_q4k, [LAY_Q5K] = K_gemv_q5k, [LAY_Q6K] = K_gemv_q6k, [LAY_F8] = K_gemv_f8,
        [LAYS_Q4K_Q6K] = K_gemv_q4k_q6k, [LAYS_Q5K_Q6K] = K_gemv_q5k_q6k, [LAYS_ANY] = K_gemv_any};
    return of[exec_layouts(a)];
}

typedef struct gemv_fit {
    kernel_id k;
    uint32_t per_sm, smem;
} gemv_fit;

/* As many blocks a multiprocessor, up to three, as shared memory allows: what these kernels lack is warps that are
 * ready (docs/kernels.md). False when the rows do not fit. */
static bool fit_gemv(const bexec *x, gemv_args *a, gemv_fit *out)
{
    if (a->w[0].expert_stride >> 32)
        return false; /* the kernel counts a matrix in 32 bits */
    const uint32_t smem = 64 + 4096 + a->w[0].k_tiles * TILE_COLS * 2 + 8 * 2 * a->slot_bytes;
    /* a block's most is a multiprocessor's, less 1 KiB a block */
    for (uint32_t n = 3; n; n--)
        if (smem <= ((uint32_t)x->b->smem_max + 1024) / n - 1024) {
            *out = (gemv_fit){gemv_kernel(a), n, smem};
            return true;
        }
    return false;
}

static imp_status run_gemv(bexec *x, gemv_args *a, uint32_t gy, const gemv_fit *f, imp_err *e)
{
    uint32_t groups = 8 / a->w[0].seg, blocks = div_up(a->n_item, groups);
    uint32_t most = (uint32_t)x->b->n_sm * f->per_sm / gy; /* one round of blocks */
    most = most ? most : 1;
    return go(x, f->k, blocks < most ? blocks : most, gy, 1, 256, f->smem, a, e);
}

static void gemv_weights(const bexec *x, const node *n, gemv_args *a)
{
    const plan *p = x->p;
    a->n_w = (uint32_t)n->n_lin;
    a->pair = n->glu >= 0;
    for (int32_t i = 0; i < n->n_lin; i++) {
        const plan_op *l = &p->op[n->lin[i]];
        a->w[i] = x->w[l->weight[0]]->d;
        a->item_begin[i] = a->n_item;
        /* gemv.cu: a place's */
        const uint32_t piece = a->w[i].layout == LAY_F16 ? a->w[i].tile_bytes / 2 : a->w[i].tile_bytes;
        a->slot_bytes = piece > a->slot_bytes ? piece : a->slot_bytes;
        a->n_item += a->pair && i ? 0 : a->w[i].row_tiles;
    }
    for (int32_t i = n->n_lin; i <= GEMV_MAX_W; i++)
        a->item_begin[i] = a->n_item;
    a->k = a->w[0].cols;
    if (n->glu >= 0) {
        const plan_op *g = &p->op[n->glu];
        a->act = (uint32_t)g->attr.act.act;
        a->limit = g->attr.act.limit;
        a->alpha = g->attr.act.alpha;
    }
}

static plan_reg node_out(const plan *p, const node *n)
{
    return n->glu >= 0 ? p->op[n->glu].out[0] : n->add >= 0 ? p->op[n->add].out[0] : p->op[n->lin[0]].out[0];
}
static plan_reg node_residual(const plan *p, const node *n)
{
    if (n->add < 0)
        return PLAN_NONE;
    const plan_op *a = &p->op[n->add];
    return a->in[0] == p->op[n->lin[0]].out[0] ? a->in[1] : a->in[0];
}

/* The norm that is part of a product, into its input's rows. */
static imp_status run_norm(bexec *x, const node *n, rows r, imp_err *e)
{
    plan_reg in = x->p->op[n->lin[0]].in[0];
    const plan_op *o = &x->p->op[n->norm];
    plan_reg src = ungathered(x, o->in[0]);
    op_args a = norm_args(x, o, at_row(x, src, r.r0), reg_ld(x, src), at_row(x, in, r.r0), reg_ld(x, in),
                          x->reg[in].f16);
    return go(x, K_norm, (uint32_t)r.n, 1, 1, 256, 0, &a, e);
}

/* The product's input as f16 rows: already so, normalised now, or converted. */
static imp_status f16_input(bexec *x, const node *n, rows r, CUdeviceptr *out, uint32_t *ld, imp_err *e)
{
    const plan *p = x->p;
    plan_reg in = p->op[n->lin[0]].in[0];
    if (n->norm >= 0) {
        imp_status s = run_norm(x, n, r, e);
        if (s != IMP_OK)
            return s;
    }
    if (x->reg[in].f16) {
        *out = at_row(x, in, r.r0);
        *ld = reg_ld(x, in);
        return IMP_OK;
    }
    *out = x->xh;
    *ld = up_to(x->reg[in].width, TILE_COLS);
    op_args a = {.a = at_row(x, in, r.r0), .lda = reg_ld(x, in), .out = x->xh, .ldo = *ld, .out_f16 = 1,
                 .width = x->reg[in].width, .flag = 3};
    return go(x, K_unary, div_up(a.width, 1024), (uint32_t)r.n, 1, 256, 0, &a, e);
}

static imp_status product_rows(bexec *x, const dweight *w, CUdeviceptr xh, uint32_t ldx, CUdeviceptr out, uint32_t ldo,
                               CUdeviceptr res, uint32_t ldr, uint32_t n, imp_err *e)
{
    kernel_id k = n <= 16 ? K_rows2 : n <= 32 ? K_rows4 : K_rows8;
    uint32_t cols = n <= 16 ? 16 : n <= 32 ? 32 : 64, stage = cols * 528 + 8 * w->tile_bytes, most = n;
    uint32_t n_stage = 128 + 2 * stage <= SMEM_PAIR ? (SMEM_PAIR - 128) / stage :
                       ((uint32_t)x->b->smem_max - 128) / stage;
    n_stage = n_stage > 4 ? 4 : n_stage;
    if (w->z > 1 && (uint64_t)w->z * n * w->rows * 4 > x->partial_bytes)
        most = (uint32_t)(x->partial_bytes / ((uint64_t)w->z * w->rows * 4));
    imp_status s = IMP_OK;
    if (!n_stage || !most)
        s = err_set(e, IMP_E_INTERNAL, "cuda: no tile fits for a product of %u x %u", w->rows, w->cols);
    for (uint32_t m = 0; m < n && s == IMP_OK; m += most) {
        uint32_t c = n - m < most ? n - m : most;
        rows_args a = {.w = *w, .x = xh + (uint64_t)m * ldx * 2, .out = out + (uint64_t)m * ldo * 4,
                       .residual = res ? res + (uint64_t)m * ldr * 4 : 0, .partial = x->partial, .m = c, .ldx = ldx,
                       .ldo = ldo, .ldr = ldr, .n_stage = n_stage, .slot_bytes = w->tile_bytes};
        s = go(x, k, div_up(w->row_tiles, 8), w->z, div_up(c, cols), 256, 128 + n_stage * stage, &a, e);
        if (s == IMP_OK && w->z > 1) {
            sum_args sa = {.w = *w, .partial = a.partial, .out = a.out, .residual = a.residual, .m = c, .ldo = ldo,
                           .ldr = ldr};
            s = go(x, K_rows_sum, div_up(w->rows, 256), c, 1, 256, 0, &sa, e);
        }
    }
    return s;
}

/* Rows of class P with --prefill fp8; g: as run_linear made it. */
static imp_status run_fp8(bexec *x, const node *n, rows r, const gemv_args *g, imp_err *e)
{
    const plan *p = x->p;
    plan_reg in = p->op[n->lin[0]].in[0];
    gemv_args a = *g;
    op_args o = {.a = at_row(x, in, r.r0), .lda = reg_ld(x, in), .width = x->reg[in].width,
                 .flag2 = x->reg[in].f16 ? FP8_FROM_F16 : FP8_FROM_F32};
    if (n->norm >= 0 && n->norm_shared) { /* others read these rows too */
        imp_status s = run_norm(x, n, r, e);
        if (s != IMP_OK)
            return s;
    } else if (n->norm >= 0) {
        const plan_op *l = &p->op[n->norm];
        plan_reg src = ungathered(x, l->in[0]);
        o = norm_args(x, l, at_row(x, src, r.r0), reg_ld(x, src), 0, 0, false);
        o.flag2 = FP8_FROM_NORM;
    }
    for (int32_t i = 0; i < n->n_lin && n->glu >= 0 && !exec_fp8_is_pair(n->fp8); i++) {
        a.out[i] = at_row(x, p->op[n->lin[i]].out[0], r.r0);
        a.ldo[i] = reg_ld(x, p->op[n->lin[i]].out[0]);
    }
    return exec_fp8(x, n, r.r0, &o, &a, e);
}

/* act(gate) * up of rows that lie in their registers. */
static imp_status run_glu(bexec *x, const node *n, rows r, imp_err *e)
{
    const plan_op *g = &x->p->op[n->glu];
    plan_reg out = g->out[0];
    op_args o = {.a = at_row(x, g->in[0], r.r0), .lda = reg_ld(x, g->in[0]), .b = at_row(x, g->in[1], r.r0),
                 .ldb = reg_ld(x, g->in[1]), .out = at_row(x, out, r.r0), .ldo = reg_ld(x, out),
                 .out_f16 = x->reg[out].f16, .width = x->reg[out].width, .act = (uint32_t)g->attr.act.act,
                 .limit = g->attr.act.limit, .alpha = g->attr.act.alpha};
    return go(x, K_glu, div_up(o.width, 1024), (uint32_t)r.n, 1, 256, 0, &o, e);
}

static imp_status run_linear(bexec *x, const node *n, rows r, imp_err *e)
{
    const plan *p = x->p;
    const plan_op *l0 = &p->op[n->lin[0]];
    plan_reg in = l0->in[0], out = node_out(p, n), res = node_residual(p, n);
    gemv_args a = {0};
    gemv_weights(x, n, &a);
    a.m = (uint32_t)r.n;
    for (int32_t i = 0; i < n->n_lin; i++) {
        plan_reg o = n->glu >= 0 || n->add >= 0 ? out : p->op[n->lin[i]].out[0];
        a.out[i] = at_row(x, o, r.r0);
        a.ldo[i] = reg_ld(x, o);
    }
    a.out_f16 = x->reg[out].f16;
    if (res != PLAN_NONE) {
        a.residual = at_row(x, res, r.r0);
        a.ldr = reg_ld(x, res);
    }
    CUdeviceptr xh = 0;
    uint32_t ldx = 0;
    bool decode = !r.prompt || x->b->deterministic;
    if (decode && r.n > 1 && exec_batch_fits(x, &a)) {
        bool done = false;
        imp_status s = f16_input(x, n, r, &xh, &ldx, e);
        if (s == IMP_OK)
            s = exec_few(x, &a, xh, ldx, &done, e);
        return s != IMP_OK || done ? s : exec_batch(x, &a, xh, ldx, e);
    }
    gemv_fit fit;
    if (decode && r.n == 1 && fit_gemv(x, &a, &fit)) {
        bool norm = n->norm >= 0;
        a.x_kind = norm ? X_NORM : x->reg[in].f16 ? X_F16 : X_F32;
        plan_reg src = norm ? ungathered(x, p->op[n->norm].in[0]) : in;
        a.x = at_row(x, src, r.r0);
        a.ldx = reg_ld(x, src);
        if (norm) {
            const plan_op *o = &p->op[n->norm];
            a.norm_w = vec(x, o->weight[0]);
            a.eps = o->attr.norm.eps;
            a.plus_one = o->attr.norm.plus_one ? 1.0f : 0.0f;
            if (n->norm_shared) {
                a.norm_out = at_row(x, in, r.r0);
                a.norm_f16 = x->reg[in].f16;
            }
        }
        bool done = false;
        imp_status s = exec_dense(x, &a, &done, e);
        return s != IMP_OK || done ? s : run_gemv(x, &a, 1, &fit, e);
    }
    bool prompt = r.prompt && exec_prompt(x), fp8 = prompt && n->fp8, paired = fp8 && exec_fp8_is_pair(n->fp8);
    imp_status s = fp8 ? run_fp8(x, n, r, &a, e) : f16_input(x, n, r, &xh, &ldx, e);
    if (s == IMP_OK && prompt && !fp8 && n->glu >= 0)
        s = exec_prompt_pair(x, &a, xh, ldx, &paired, e);
    if (paired)
        return s;
    for (int32_t i = 0; i < n->n_lin && s == IMP_OK && !fp8; i++) {
        plan_reg o = n->add >= 0 ? out : p->op[n->lin[i]].out[0];
        s = (prompt ? exec_prompt_product : product_rows)(x, &a.w[i], xh, ldx, at_row(x, o, r.r0), reg_ld(x, o),
                                                          res == PLAN_NONE ? 0 : at_row(x, res, r.r0),
                                                          res == PLAN_NONE ? 0 : reg_ld(x, res), (uint32_t)r.n, e);
    }
    return s == IMP_OK && n->glu >= 0 ? run_glu(x, n, r, e) : s;
}

/* Any product of --precise, whatever its rows' class. */
static imp_status run_precise(bexec *x, const node *n, rows r, imp_err *e)
{
    imp_status s = n->norm >= 0 ? run_norm(x, n, r, e) : IMP_OK;
    if (s == IMP_OK)
        s = exec_precise(x, n, r.r0, r.n, e);
    return s == IMP_OK && n->glu >= 0 ? run_glu(x, n, r, e) : s;
}

/* A row of weights for each (token, choice) or (token, head). */
static imp_status run_expert(bexec *x, const node *n, rows r, imp_err *e)
{
    const plan *p = x->p;
    const plan_op *l = &p->op[n->lin[0]];
    plan_reg in = l->in[0], out = node_out(p, n);
    bool heads = l->kind == OP_HEAD_LINEAR;
    uint32_t per = heads ? l->attr.head_linear.n_head : l->attr.expert.k;
    gemv_args a = {.m = 1, .expert = 1};
    gemv_weights(x, n, &a);
    gemv_fit fit;
    if (!fit_gemv(x, &a, &fit))
        return err_set(e, IMP_E_UNSUPPORTED, "cuda: layer %d %s: %u columns are too many for an expert's row",
                       (int)l->layer, l->role, a.k);
    a.x_kind = x->reg[in].f16 ? X_F16 : X_F32;
    a.n_choice = per;
    a.x_groups = heads ? per : 0;
    a.x_per_choice = !heads && l->attr.expert.x_per_choice;
    a.ldx = a.x_per_choice ? a.k : reg_ld(x, in);
    a.ldo[0] = a.w[0].rows;
    imp_status s = IMP_OK;
    uint32_t step = 32768 / per;
    for (uint32_t t = 0; t < (uint32_t)r.n && s == IMP_OK; t += step) {
        uint32_t c = (uint32_t)r.n - t < step ? (uint32_t)r.n - t : step;
        a.x = at_row(x, in, r.r0 + (int32_t)t);
        a.out[0] = at_row(x, out, r.r0 + (int32_t)t);
        if (!heads)
            a.ids = at_row(x, l->in[1], r.r0 + (int32_t)t);
        s = run_gemv(x, &a, c * per, &fit, e);
    }
    return s;
}

/* ---- the rest --------------------------------------------------------------------------------------------------- */
static imp_status run_scan(bexec *x, const plan_op *o, imp_err *e)
{
    scan_args a = {.tok = x->t->tok, .seq = x->t->seq, .save = x->t->save, .n_seq = (uint32_t)x->n_seq,
                   .x = reg_ptr(x, o->in[0]), .ldx = reg_ld(x, o->in[0]), .out = reg_ptr(x, o->out[0]),
                   .ldo = reg_ld(x, o->out[0]), .width = x->reg[o->out[0]].width, .state_stride = x->kv->state_bytes};
    uint32_t n = (uint32_t)x->n_seq;
    if (o->kind == OP_CONV) {
        a.state = x->kv->state + x->kv->state_off[o->attr.conv.state];
        a.taps = o->attr.conv.taps;
        a.act = (uint32_t)o->attr.conv.act;
        a.w = vec(x, o->weight[0]);
        a.bias = o->weight[1] != PLAN_NONE ? vec(x, o->weight[1]) : x->w[o->weight[0]]->d.bias;
        return go(x, K_conv, div_up(a.width, 128), n, 1, 128, 0, &a, e);
    }
#define IN(field, ld, i) a.field = reg_ptr(x, o->in[i]), a.ld = reg_ld(x, o->in[i])
    if (o->kind == OP_GDN) {
        IN(q, ldq, 0), IN(k, ldk, 1), IN(v, ldv, 2), IN(g, ldg, 3), IN(beta, ldb, 4);
        a.state = x->kv->state + x->kv->state_off[o->attr.gdn.state];
        a.n_k_head = o->attr.gdn.n_k_head, a.n_head = o->attr.gdn.n_v_head;
        a.d_k = o->attr.gdn.d_k, a.d_v = o->attr.gdn.d_v, a.tiled = o->attr.gdn.tiled;
        return go(x, K_gdn, div_up(a.d_v, 8), a.n_head, n, 256, 2 * a.d_k * 4, &a, e);
    }
    IN(bmat, ldbm, 1), IN(cmat, ldcm, 2), IN(dt, lddt, 3);
#undef IN
    a.state = x->kv->state + x->kv->state_off[o->attr.mamba2.state];
    a.n_head = o->attr.mamba2.n_head, a.head_dim = o->attr.mamba2.head_dim, a.n_group = o->attr.mamba2.n_group;
    a.d_state = o->attr.mamba2.d_state;
    a.a_log = vec(x, o->weight[0]), a.d = vec(x, o->weight[1]), a.dt_bias = vec(x, o->weight[2]);
    a.negexp = o->attr.mamba2.a_is_negexp;
    return go(x, K_mamba2, div_up(a.head_dim, 8), a.n_head, n, 256, 0, &a, e);
}

static imp_status run_op(bexec *x, int32_t node_at, imp_err *e)
{
    const plan_op *o = &x->p->op[x->node[node_at].op];
    const plan *p = x->p;
    plan_reg out = o->out[0];
    op_args a = {0};
    if (o->in[0] != PLAN_NONE)
        a.a = reg_ptr(x, o->in[0]), a.lda = reg_ld(x, o->in[0]);
    if (o->in[1] != PLAN_NONE)
        a.b = reg_ptr(x, o->in[1]), a.ldb = reg_ld(x, o->in[1]), a.b_width = x->reg[o->in[1]].width;
    uint32_t n = 0;
    if (out != PLAN_NONE) {
        a.out = reg_ptr(x, out), a.ldo = reg_ld(x, out), a.out_f16 = x->reg[out].f16, a.width = x->reg[out].width;
        a.n_row = n = (uint32_t)dim_rows(x, out);
    }
    a.tok = x->t->tok;
    kernel_id k = K_unary;
    switch (o->kind) {
    case OP_EMBED: {
        embed_args m = {.w = x->w[o->weight[0]]->d, .tok = x->t->tok, .ext = x->t->ext, .last = x->last, .out = a.out,
                        .n_tok = n, .width = a.width, .ldo = a.ldo, .scale = o->attr.scale};
        precise_embed_args pm = {.w = m.w, .tok = m.tok, .ext = m.ext, .last = m.last, .out = m.out, .width = m.width,
                                 .ldo = m.ldo, .scale = m.scale};
        if (x->b->precise)
            return go(x, K_precise_embed, div_up(m.width, 4096), n, 1, 256, 0, &pm, e);
        return go(x, K_embed, div_up(m.w.k_tiles, 8), n, 1, 256, 8 * (m.w.tile_bytes + 1024), &m, e);
    }
    case OP_NORM:
        a = norm_args(x, o, a.a, a.lda, a.out, a.ldo, a.out_f16);
        a.n_row = n;
        if (o->attr.norm.group == 0 || o->attr.norm.group == a.width)
            return go(x, K_norm, n, 1, 1, 256, 0, &a, e);
        a.group = o->attr.norm.group;
        a.flag = o->attr.norm.w_full;
        return go(x, K_norm_group, div_up(a.width / a.group * n, 8), 1, 1, 256, 0, &a, e);
    case OP_L2NORM:
        a.group = o->attr.l2norm.group, a.eps = o->attr.l2norm.eps, a.scale = o->attr.l2norm.scale;
        a.flag2 = 1, a.plus_one = 0;
        return go(x, K_norm_group, div_up(a.width / a.group * n, 8), 1, 1, 256, 0, &a, e);
    case OP_ADD: k = K_add, a.scale = o->attr.scale; break;
    case OP_MUL:
        k = K_mul;
        if (o->in[1] == PLAN_NONE)
            a.b_width = 0, a.w = vec(x, o->weight[0]), a.flag = (uint32_t)x->w[o->weight[0]]->n_vec;
        break;
    case OP_SCALE: a.flag = 0, a.scale = o->attr.scale; break;
    case OP_SOFTCAP: a.flag = 1, a.scale = o->attr.cap; break;
    case OP_ACT: a.flag = 2, a.act = (uint32_t)o->attr.act.act; break;
    case OP_GLU:
        k = K_glu, a.act = (uint32_t)o->attr.act.act, a.limit = o->attr.act.limit, a.alpha = o->attr.act.alpha;
        a.flag = o->in[1] == PLAN_NONE, a.flag2 = o->attr.act.interleaved;
        break;
    case OP_GATE: k = K_gate, a.group = a.width / a.b_width; break;
    case OP_SLICE:
        k = K_slice, a.group = o->attr.slice.width, a.off = o->attr.slice.off, a.stride = o->attr.slice.stride;
        break;
    case OP_CONCAT:
        k = K_concat, a.a_w = x->reg[o->in[0]].width / o->attr.concat.groups, a.flag = o->attr.concat.b_shared;
        a.b_w = a.flag ? a.b_width : a.b_width / o->attr.concat.groups;
        break;
    case OP_GATHER:
        if (gather_is_idle(x, o))
            return IMP_OK;
        k = K_gather, a.b = x->t->row;
        break;
    case OP_COMBINE:
        a.k = o->attr.expert.k;
        if (x->node[node_at].add >= 0) {
            const plan_op *sum = &p->op[x->node[node_at].add];
            plan_reg other = sum->in[sum->in[0] == out];
            a.c = reg_ptr(x, other), a.ldo2 = reg_ld(x, other);
            a.out = reg_ptr(x, sum->out[0]), a.ldo = reg_ld(x, sum->out[0]), a.out_f16 = x->reg[sum->out[0]].f16;
        }
        return go(x, K_combine, div_up(a.width, 256), n, 1, 256, 0, &a, e);
    case OP_DECAY:
        k = K_decay, a.w = vec(x, o->weight[0]), a.bias = vec(x, o->weight[1]), a.flag = o->attr.decay.a_is_negexp;
        break;
    case OP_ROPE: {
        const plan_rope *r = &o->attr.rope;
        struct {
            op_args o;
            rope_args r;
        } m = {a, {.freq = x->constant[r->freq], .n_head = r->n_head, .head_dim = r->head_dim, .rot = r->rot,
                   .rot_off = r->rot_off, .interleaved = r->interleaved,
                   .section = {r->section[0], r->section[1], r->section[2]}, .mscale = r->mscale}};
        return go(x, K_rope, div_up(r->n_head, 4), n, 1, 128, 0, &m, e);
    }
    case OP_KV_STORE: {
        const kv_group *g = &x->kv->group[o->attr.kv.group];
        kvstore_args m = {.k = a.a, .ldk = a.lda, .v = a.b, .ldv = a.ldb, .kv = g->base, .block_bytes = g->block_bytes,
                          .k_off = g->k_off[o->attr.kv.slot], .v_off = g->v_off[o->attr.kv.slot],
                          .tok = x->t->tok, .seq = x->t->seq, .table = x->t->table,
                          .k_width = g->k_width, .v_width = g->v_width, .block_size = (uint32_t)x->kv->block_size,
                          .group = (uint32_t)o->attr.kv.group, .n_tok = (uint32_t)x->n_tok,
                          .kv_f32 = x->kv->type == KV_F32};
        uint32_t w = g->k_width > g->v_width ? g->k_width : g->v_width;
        return go(x, K_kv_store, div_up(w, 256), (uint32_t)x->n_tok, 1, 256, 0, &m, e);
    }
    case OP_ATTEND: return exec_attend(x, &x->node[node_at], e);
    case OP_ROUTE: {
        route_args m = exec_route_args(x, o);
        return go(x, K_route, n, 1, 1, 32, 0, &m, e);
    }
    case OP_CONV: case OP_GDN: case OP_MAMBA2: return run_scan(x, o, e);
    default:
        return err_set(e, IMP_E_UNSUPPORTED, "cuda: layer %d %s: %s has no kernel", (int)o->layer, o->role,
                       plan_op_name(o->kind));
    }
    (void)p;
    return go(x, k, div_up(a.width, 1024), n, 1, 256, 0, &a, e);
}

imp_status exec_node(bexec *x, int32_t i, imp_err *e)
{
    const plan *p = x->p;
    const node *n = &x->node[i];
    if (n->mix && exec_mixture_now(x))
        return exec_mixture_node(x, i, e);
    if (n->routes && exec_routes_now(x, n->routes))
        return IMP_OK;
    if (n->kind == NODE_OP)
        return run_op(x, i, e);
    if (n->kind == NODE_QKV)
        return exec_qkv(x, n, e);
    if (x->b->precise)
        return run_precise(x, n, (rows){0, dim_rows(x, p->op[n->lin[0]].in[0]), false}, e);
    if (p->op[n->lin[0]].kind != OP_LINEAR) {
        if (!n->grouped)
            return run_expert(x, n, (rows){0, x->n_tok, false}, e);
        imp_status s = IMP_OK;
        for (int32_t j = 0; j < x->n_tok_run && s == IMP_OK; j++) {
            bool prompt = x->tok_run[j].prompt && exec_prompt(x), many = prompt || x->tok_run[j].n >= EXPERTS_FROM;
            rows r = {x->tok_run[j].begin, x->tok_run[j].n, prompt};
            CUdeviceptr xh = 0;
            uint32_t ldx = 0;
            if (many && !p->op[n->lin[0]].attr.expert.x_per_choice)
                s = f16_input(x, n, r, &xh, &ldx, e);
            if (s == IMP_OK)
                s = many ? exec_experts(x, n, r.r0, r.n, prompt, xh, ldx, e) : run_expert(x, n, r, e);
        }
        return s;
    }
    bool by_row = x->reg[p->op[n->lin[0]].in[0]].dim == DIM_R;
    int32_t n_run = by_row ? x->n_row_run : x->n_tok_run;
    imp_status s = IMP_OK;
    for (int32_t j = 0; j < n_run && s == IMP_OK; j++) {
        const run_range *r = &(by_row ? x->row_run : x->tok_run)[j];
        s = run_linear(x, n, (rows){r->begin, r->n, r->prompt}, e);
    }
    return s;
}

imp_status exec_nodes(bexec *x, imp_err *e)
{
    const plan *p = x->p;
    imp_status s = IMP_OK;
    for (int32_t i = 0; i < x->n_node && s == IMP_OK; i++) {
        if (x->n_row == 0 && x->node[i].kind == NODE_OP && p->op[x->node[i].op].kind == OP_GATHER)
            break; /* nothing was asked for: the head is not needed */
        s = exec_node(x, i, e);
    }
    if (s == IMP_OK && x->n_row && p->logits != PLAN_NONE) {
        greedy_args a = {.logits = reg_ptr(x, p->logits), .ldl = reg_ld(x, p->logits), .row = x->t->row,
                         .out_id = x->out_id, .last = x->last, .part = x->greedy_part, .n_part = 64,
                         .n_vocab = p->n_vocab, .n_row = (uint32_t)x->n_row, .counter = x->greedy_counter};
        uint32_t parts = div_up(p->n_vocab, 2048);
        s = go(x, K_greedy, parts > 64 ? 64 : parts, (uint32_t)x->n_row, 1, 256, 0, &a, e);
    }
    return s;
}

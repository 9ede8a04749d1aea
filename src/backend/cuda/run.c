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

/* ---- attention -------------------------------------------------------------------------------------------------- */
static qkv_args qkv_of(const bexec *x, const node *n)
{
    const plan *p = x->p;
    const plan_op *st = &p->op[n->op], *at = &p->op[n->attend];
    const kv_group *g = &x->kv->group[st->attr.kv.group];
    qkv_args a = {.q = reg_ptr(x, n->q), .k = reg_ptr(x, n->k), .ldq = reg_ld(x, n->q), .ldk = reg_ld(x, n->k),
                  .n_tok = (uint32_t)x->n_tok, .kv = g->base, .block_bytes = g->block_bytes,
                  .k_off = g->k_off[st->attr.kv.slot], .v_off = g->v_off[st->attr.kv.slot],
                  .tok = x->t->tok, .seq = x->t->seq, .table = x->t->table, .k_width = g->k_width,
                  .v_width = g->v_width, .block_size = (uint32_t)x->kv->block_size,
                  .group = (uint32_t)st->attr.kv.group, .k_head_dim = at->attr.attend.d_k,
                  .n_k_head = at->attr.attend.n_kv_head};
    if (n->v != PLAN_NONE) {
        a.v = reg_ptr(x, n->v);
        a.ldv = reg_ld(x, n->v);
        a.v_head_dim = at->attr.attend.d_v;
        a.n_v_head = at->attr.attend.n_kv_head;
    }
#define NORM_OF(which)                                                               \
    if (n->which##_norm >= 0) {                                                      \
        const plan_op *o = &p->op[n->which##_norm];                                  \
        a.has_##which##_norm = 1;                                                    \
        a.which##_norm = vec(x, o->weight[0]);                                       \
        a.which##_eps = o->attr.norm.eps;                                            \
        a.which##_plus = o->attr.norm.plus_one ? 1.0f : 0.0f;                        \
    }
    NORM_OF(q)
    NORM_OF(k)
    NORM_OF(v)
#undef NORM_OF
#define ROPE_OF(which)                                                                                               \
    if (n->which##_rope >= 0) {                                                                                      \
        const plan_rope *o = &p->op[n->which##_rope].attr.rope;                                                      \
        a.has_rope_##which = 1;                                                                                      \
        a.rope_##which = (rope_args){.freq = x->constant[o->freq], .rot = o->rot, .rot_off = o->rot_off,             \
                                     .interleaved = o->interleaved,                                                  \
                                     .section = {o->section[0], o->section[1], o->section[2]}, .mscale = o->mscale}; \
    }
    ROPE_OF(q)
    ROPE_OF(k)
#undef ROPE_OF
    a.rope_q.n_head = at->attr.attend.n_head;
    a.rope_q.head_dim = at->attr.attend.d_k;
    return a;
}

static imp_status run_qkv(bexec *x, const node *n, imp_err *e)
{
    qkv_args a = qkv_of(x, n);
    /* a warp a head, or where there are enough tokens one for several, which share its angles */
    uint32_t heads = a.rope_q.n_head + a.n_k_head + a.n_v_head;
    return go(x, K_qkv, div_up(heads, x->n_tok < 256 ? 4 : 16), (uint32_t)x->n_tok, 1, 128, 0, &a, e);
}

/* Flash decoding by head width (attend_d.cu). */
typedef struct attend_kernel {
    kernel_id k, with_qkv, plain, cluster; /* the last two: plain heads; and a split a block, as a cluster */
} attend_kernel;
static const attend_kernel attend_d64 = {K_attend_d64, K_attend_q64, K_attend_q64l, K_attend_q64p},
                           attend_d128 = {K_attend_d128, K_attend_q128, K_attend_q128l, K_attend_q128p},
                           attend_d256 = {K_attend_d256, K_attend_q256, K_attend_q256, K_attend_q256};

/* Shared memory: places for 32 positions of K and V a warp, barriers, the newest K and V, angles, then the warps' sums:
 * before them, in the same place, queries and room to rotate. */
static uint32_t attend_sums(uint32_t d, uint32_t heads)
{
    uint32_t sums = 16 * heads * (d + 4), before = up_to(heads, 2) * (2 * d + 16) + 16 * d;
    return sums > before ? sums : before;
}
static uint32_t attend_smem(uint32_t d, uint32_t heads) { return 512 * d + 128 + 12 * d + attend_sums(d, heads); }

/* Positions a block takes. Measured: short contexts of few tokens go split by split; of as many as fit two a
 * multiprocessor, whole; of more, a half or less, so that the last round is short. Long ones of few tokens are cut into
 * about four spans a multiprocessor. */
static uint32_t attend_span(const bexec *x, uint32_t pairs)
{
    uint32_t n_sm = (uint32_t)x->b->n_sm, n_pos = SPLIT_BEGIN(x->split), parts = div_up(6 * n_sm, pairs);
    bool once = pairs > n_sm && pairs <= 2 * n_sm;
    parts = once ? 1 : parts < 2 ? 2 : parts;
    if (n_pos <= SPLIT_FROM)
        return up_to(div_up(n_pos, parts), SPLIT_FINE);
    if (!once && pairs <= 4 * n_sm)
        parts = 4 * n_sm / pairs;
    uint32_t span = n_pos / parts / SPLIT_COARSE * SPLIT_COARSE;
    return span ? span : SPLIT_COARSE;
}

/* Blocks of a token and kv head as a cluster: up to 8 splits, one each, when all blocks have room at once. Sets
 * a->share. */
static bool attend_in_cluster(const bexec *x, attend_args *a, uint32_t d, uint32_t blocks)
{
    uint32_t items = a->heads * (d / 4), n_sm = (uint32_t)x->b->n_sm, room = d > 128 ? n_sm : n_sm * 5 / 2;
    if (x->b->cc / 10 != 9 || x->split < 2 || x->split > 8 || a->span != SPLIT_FINE || blocks > room)
        return false;
    for (a->share = 0; x->split << a->share < items; a->share++) {}
    return a->share <= 7; /* a thread each */
}

/* Attention does the work of its QKV node: one token a sequence, heads that its kernels take. */
static bool attend_takes_qkv(const bexec *x, const node *attend)
{
    return x->one_each && attend->qkv >= 0 && exec_attend_width(x, &x->p->op[attend->op].attr.attend);
}

/* A copy brings all columns of a head, else 64 of them. */
static bool whole_heads(const attend_args *a) { return a->box_shift == 0 && a->d_k % 64 == 0 && a->d_v % 64 == 0; }

/* How K (v: V) of a slot lies in the cache, for the copies of attend_d.cu's kernel for kernel_d columns. */
static imp_status kv_map(const bexec *x, const attend_args *a, uint32_t kernel_d, bool v, CUtensorMap *map,
                         imp_err *e)
{
    const kv_group *g = &x->kv->group[a->group];
    uint32_t d = v ? a->d_v : a->d_k, width = v ? a->v_width : a->k_width;
    bool whole = whole_heads(a);
    cuuint64_t dim[5] = {whole ? 64 : d, a->block_size, whole ? d / 64 : 1, a->n_kv_head, g->reserved / g->block_bytes};
    cuuint64_t stride[4] = {(cuuint64_t)width * 2, 128, (cuuint64_t)d * 2, g->block_bytes};
    cuuint32_t box[5] = {64, 32u >> a->box_shift, whole ? kernel_d / 64 : 1, 1, 1}, step[5] = {1, 1, 1, 1, 1};
    void *at = (void *)(uintptr_t)(a->kv + (v ? a->v_off : a->k_off));
    CUresult r = x->b->cu.TensorMapEncodeTiled(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 5, at, dim, stride, box, step,
                                               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return cu_check(&x->b->cu, r, e, "describing the KV cache");
}

static newest_args newest_of(const qkv_args *x, const attend_args *a)
{
    uint32_t d = a->d_k;
    newest_args n = {
        .kind = {{x->q, x->q_norm, x->ldq, d, x->has_q_norm, x->q_eps, x->q_plus, 0},
                 {x->k, x->k_norm, x->ldk, d, x->has_k_norm, x->k_eps, x->k_plus, 0},
                 {x->v, x->v_norm, x->ldv, a->d_v, x->has_v_norm, x->v_eps, x->v_plus, 0}}};
    for (int i = 0; i < 3; i++)
        n.kind[i].part = 1.0f / (float)n.kind[i].n;
    if (x->has_rope_q)
        n.rope[0] = x->rope_q;
    if (x->has_rope_k)
        n.rope[1] = x->rope_k;
    return n;
}

#define PLAIN_HEADS 6 /* query heads of a block of attend_q*l */
/* What attend_q*l can do (attend_d.cu). */
static bool attend_plain(const attend_args *a, const newest_args *x, uint32_t d)
{
    for (int i = 0; i < 2; i++)
        if (x->rope[i].rot != d || x->rope[i].interleaved || x->rope[i].section[0])
            return false;
    return a->d_k == d && a->d_v == d && a->heads <= PLAIN_HEADS && a->group_heads % a->heads == 0 && !a->box_shift &&
           a->box_cols == 1 && a->out_f16 && a->softcap == 0 && !a->sinks;
}

/* How the heads of a kv head are shared out. Two blocks take them where one cannot, or where there are more than
 * attend_q*l takes but half of them are not: with few tokens and positions, reading K and V twice, the second time out
 * of L2, costs less than that kernel gains. */
static void share_kv_head(const bexec *x, attend_args *a, const newest_args *newest, uint32_t d, uint32_t n_tok)
{
    const uint32_t heads = a->group_heads = a->n_head / a->n_kv_head;
    bool few = n_tok * a->n_kv_head * 8 <= (uint32_t)x->b->n_sm && SPLIT_BEGIN(x->split) <= 4096;
    a->heads = div_up(heads, 2);
    a->sub_shift = heads > ATTEND_HEADS ||
                   (heads > PLAIN_HEADS && heads % 2 == 0 && d <= 128 && few && newest &&
                    attend_plain(a, newest, d));
    a->heads = div_up(heads, 1 + a->sub_shift);
}

/* As many tokens a launch as there is room for split results. */
static imp_status attend_decode(bexec *x, const node *n, const attend_args *base, const run_range *r, uint32_t d,
                                imp_err *e)
{
    struct {
        _Alignas(128) CUtensorMap k; /* the kernels' structs are padded to 128 bytes */
        CUtensorMap v;
        attend_args a;
        newest_args x;
    } p = {.a = *base};
    attend_args *a = &p.a;
    bool with_qkv = attend_takes_qkv(x, n);
    if (with_qkv) {
        qkv_args q = qkv_of(x, &x->node[n->qkv]);
        p.x = newest_of(&q, a);
    }
    while (1u << a->block_shift < a->block_size)
        a->block_shift++;
    a->box_shift = a->block_shift < 5 ? 5 - a->block_shift : 0;
    a->box_cols = whole_heads(a) ? 1 : d / 64;
    share_kv_head(x, a, with_qkv ? &p.x : NULL, d, (uint32_t)r->n);
    a->sums_bytes = attend_sums(d, a->heads);
    a->n_split = x->split;
    imp_status s = kv_map(x, a, d, false, &p.k, e);
    if (s == IMP_OK)
        s = kv_map(x, a, d, true, &p.v, e);

    const attend_kernel *t = d == 64 ? &attend_d64 : d == 128 ? &attend_d128 : &attend_d256;
    uint64_t one = (uint64_t)a->n_head * x->split * PART_LD(d) * 4;
    uint32_t most = one * x->part_tokens > x->part_bytes ? (uint32_t)(x->part_bytes / one) : x->part_tokens;
    uint32_t gy = a->n_kv_head << a->sub_shift;
    for (int32_t k = 0; k < r->n && s == IMP_OK; k += (int32_t)most) {
        a->n_tok = (uint32_t)(r->n - k) < most ? (uint32_t)(r->n - k) : most;
        a->tok0 = (uint32_t)(r->begin + k);
        a->span = attend_span(x, a->n_tok * gy);
        uint32_t gx = div_up(SPLIT_BEGIN(x->split), a->span), smem = attend_smem(d, a->heads);
        a->cluster = attend_in_cluster(x, a, d, gx * gy * a->n_tok);
        if (a->cluster)
            smem += (gx << a->share) * 16 + gx * 64;
        s = cuda_launch_cluster(x->b, x->b->stream,
                                !with_qkv ? t->k :
                                !attend_plain(a, &p.x, d) ? t->with_qkv :
                                a->cluster ? t->cluster : t->plain,
                                gx, gy, a->n_tok, a->cluster ? gx : 1, 128, smem, true, &p, e);
    }
    return s;
}

static imp_status run_attend(bexec *x, int32_t node_at, const plan_op *o, imp_err *e)
{
    const plan_attend *t = &o->attr.attend;
    const kv_group *g = &x->kv->group[t->group];
    plan_reg out = o->out[0];
    attend_args a = {.q = reg_ptr(x, o->in[0]), .ldq = reg_ld(x, o->in[0]), .out = reg_ptr(x, out),
                     .ldo = reg_ld(x, out), .out_f16 = x->reg[out].f16, .kv = g->base, .block_bytes = g->block_bytes,
                     .k_off = g->k_off[t->slot], .v_off = g->v_off[t->slot], .tok = x->t->tok, .seq = x->t->seq,
                     .table = x->t->table, .sinks = vec(x, o->weight[0]), .part = x->part, .counter = x->counter,
                     .n_head = t->n_head, .n_kv_head = t->n_kv_head, .d_k = t->d_k, .d_v = t->d_v,
                     .k_width = g->k_width, .v_width = g->v_width, .block_size = (uint32_t)x->kv->block_size,
                     .group = (uint32_t)t->group, .window = t->window, .scale = t->scale, .softcap = t->softcap};
    uint32_t d = exec_attend_width(x, t);
    imp_status s = IMP_OK;
    for (int32_t i = 0; i < x->n_tok_run && s == IMP_OK; i++) {
        const run_range *r = &x->tok_run[i];
        bool prompt = r->prompt && !x->b->deterministic, done = false;
        if (prompt)
            s = exec_prompt_attend(x, &a, r, d, &done, e);
        if (done)
            continue;
        if (!d) {
            a.tok0 = (uint32_t)r->begin;
            a.n_tok = (uint32_t)r->n;
            s = go(x, K_attend_any, div_up(t->n_head, 4), (uint32_t)r->n, 1, 128, 4 * t->d_k * 4, &a, e);
        } else if (prompt && x->b->fn[K_attend_p64]) {
            a.tok0 = (uint32_t)r->begin;
            a.n_tok = (uint32_t)r->n;
            uint32_t per = 64 / (t->n_head / t->n_kv_head); /* tokens a block of 64 rows */
            s = go(x, d == 64 ? K_attend_p64 : d == 128 ? K_attend_p128 : K_attend_p256, div_up((uint32_t)r->n, per),
                   t->n_kv_head, 1, 128, 128 + 4 * 64 * (d * 2 + 16), &a, e);
        } else {
            s = attend_decode(x, &x->node[node_at], &a, r, d, e);
        }
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
                          .group = (uint32_t)o->attr.kv.group, .n_tok = (uint32_t)x->n_tok};
        uint32_t w = g->k_width > g->v_width ? g->k_width : g->v_width;
        return go(x, K_kv_store, div_up(w, 256), (uint32_t)x->n_tok, 1, 256, 0, &m, e);
    }
    case OP_ATTEND: return run_attend(x, node_at, o, e);
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
        return attend_takes_qkv(x, &x->node[x->node_of_op[n->attend]]) ? IMP_OK : run_qkv(x, n, e);
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

/* Mixtures of experts in steps of few tokens: routing, the experts, their sum and what is added to it by two
 * kernels (kernels/experts.cu). Larger steps, and mixtures of another shape, keep a kernel an operation; the bytes
 * are the same. */
#include "backend/cuda/exec.h"

#include "base/mem.h"

/* Shared memory of a block. On Hopper three of `up` leave room for one of `down` for the usual shapes. */
static uint32_t up_smem(const dweight *w)
{
    return EXPERTS_UP_FIXED + w->k_tiles * TILE_COLS * 2 + 8 * EXPERTS_UP_STAGES * w->tile_bytes;
}
static uint32_t down_smem(const dweight *w, uint32_t k)
{
    uint32_t h = k * w->k_tiles * TILE_COLS * 2;
    return EXPERTS_DOWN_FIXED(k, w->seg) + (h > EXPERTS_ROUTE_BYTES ? h : EXPERTS_ROUTE_BYTES) +
           8 * EXPERTS_DOWN_STAGES * w->tile_bytes;
}

static plan_reg sum_out(const plan *p, const node *n) { return p->op[n->add >= 0 ? n->add : n->op].out[0]; }
static node *node_of_reg(const bexec *x, plan_reg r)
{
    int32_t at = r == PLAN_NONE || x->p->reg[r].def < 0 ? -1 : x->node_of_op[x->p->reg[r].def];
    return at < 0 ? NULL : &x->node[at];
}

/* The node of n_lin products of experts that makes a register with one reader; NULL: something else makes it. */
static node *experts_of(const bexec *x, plan_reg r, int32_t n_lin)
{
    node *n = node_of_reg(x, r);
    bool fits = n && n->kind == NODE_LINEAR && n->n_lin == n_lin && (n->glu >= 0) == (n_lin == 2) && n->add < 0;
    return fits && x->p->op[n->lin[0]].kind == OP_EXPERT_LINEAR && exec_readers(x->p, r) == 1 ? n : NULL;
}

/* The kernels take these matrices: gate, up, down. */
static bool matrices_fit(const bexec *x, const dweight *gate, const dweight *up, const dweight *down, uint32_t k)
{
    uint32_t most = (uint32_t)x->b->smem_max;
    return k <= 32 && exec_same_tiles(gate, up) && gate->rows == down->cols && !(gate->expert_stride >> 32) &&
           !(down->expert_stride >> 32) && up_smem(gate) <= most && down_smem(down, k) <= most;
}

/* What the kernels without rare choices take (route.cuh, experts.cu): softmax over up to 128 experts, four by four. */
static bool plain_route(const route_args *r)
{
    return r->n_expert <= 128 && r->n_expert % 4 == 0 && r->lds % 4 == 0 && r->n_group <= 1 && r->score != 1 &&
           !r->bias && !r->factor;
}

/* Shared memory of a block of `up` with its router. */
static uint32_t routed_smem(const dweight *w, uint32_t tiles)
{
    uint32_t router = 8 * TILE_BYTES_F16, rings = ROUTED_WARPS * ROUTED_STAGES * w->tile_bytes;
    return ROUTED_RINGS(tiles) + (rings > router ? rings : router);
}
/* Blocks of a choice: all there at once, with rounds of one length; those of the first send the scores. */
static uint32_t routed_blocks(const bexec *x, const dweight *w, uint32_t k, uint32_t senders)
{
    const uint32_t room = (uint32_t)x->b->n_sm / k, most = room > senders ? room : senders;
    return div_up(w->row_tiles, div_up(w->row_tiles, most));
}

/* Eight tiles along K, each a segment, with nothing behind their sum. */
static bool eight_tiles(const dweight *w)
{
    return w->k_tiles == 8 && w->seg == 8 && (w->z == 1 || w->z == 4) && !w->row_scale && !w->bias;
}

/* The router that `up` may compute: a norm and one product for the route, of a row that only gate and up read too. */
static int32_t find_router(const bexec *x, const mixture *m)
{
    const plan *p = x->p;
    const node *g = &x->node[m->up];
    const plan_op *route = &p->op[x->node[m->route].op], *up = &p->op[g->lin[0]];
    const node *r = node_of_reg(x, route->in[0]);
    if (!r || r->kind != NODE_LINEAR || r->n_lin != 1 || r->norm < 0 || r->glu >= 0 ||
        r->add >= 0 || p->op[r->lin[0]].kind != OP_LINEAR || p->op[r->lin[0]].in[0] != up->in[0] ||
        exec_readers(p, route->in[0]) != 1 || exec_readers(p, up->in[0]) != 3 || !x->reg[up->in[0]].f16)
        return -1;
    const plan_reg row = p->op[r->norm].in[0];
    const bool gathered = p->reg[row].def >= 0 && p->op[p->reg[row].def].kind == OP_GATHER;
    const dweight *w = matrix(x, r->lin[0]), *gate = matrix(x, g->lin[0]);
    const route_args a = exec_route_args(x, route);
    const uint32_t blocks = routed_blocks(x, gate, a.k, w->row_tiles);
    if (gathered || x->reg[row].f16 || p->reg[row].dim != DIM_T || w->layout != LAY_F16 || !eight_tiles(w) ||
        !eight_tiles(gate) || !eight_tiles(matrix(x, g->lin[1])) || w->cols % 4 || w->rows != a.n_expert ||
        blocks < w->row_tiles || gate->layout != LAY_Q4K || !plain_route(&a) || p->op[g->glu].attr.act.act != 0)
        return -1;
    const uint32_t tiles = div_up(gate->row_tiles, blocks);
    const bool fits = tiles <= 2 * ROUTED_WARPS && routed_smem(gate, tiles) <= (uint32_t)x->b->smem_max;
    return fits ? (int32_t)(r - x->node) : -1; /* a thread has one row of all tiles at most */
}

/* The mixture whose sum is this node; false: it is of another shape. */
static bool find_mixture(const bexec *x, int32_t sum, mixture *out)
{
    const plan *p = x->p;
    const node *s = &x->node[sum];
    const plan_op *c = &p->op[s->op];
    const node *d = experts_of(x, c->in[0], 1);
    const plan_op *down = d ? &p->op[d->lin[0]] : NULL;
    const node *g = d && down->attr.expert.x_per_choice ? experts_of(x, down->in[0], 2) : NULL;
    const node *r = g ? node_of_reg(x, down->in[1]) : NULL;
    if (!r || r->kind != NODE_OP || p->op[r->op].kind != OP_ROUTE || x->reg[sum_out(p, s)].f16)
        return false;
    const plan_op *up = &p->op[g->lin[0]], *route = &p->op[r->op];
    uint32_t k = route->attr.route.k;
    if (up->attr.expert.k != k || down->attr.expert.k != k || up->in[1] != down->in[1] ||
        route->out[0] != down->in[1] || route->out[1] != c->in[1] ||
        exec_readers(p, route->out[0]) != 3 || exec_readers(p, route->out[1]) != 1 ||
        !matrices_fit(x, matrix(x, g->lin[0]), matrix(x, g->lin[1]), matrix(x, d->lin[0]), k))
        return false;
    *out = (mixture){.route = (int32_t)(r - x->node), .up = (int32_t)(g - x->node), .down = (int32_t)(d - x->node),
                     .sum = sum, .router = -1};
    return out->route < out->up && out->up < out->down && out->down < sum;
}

/* Routers that `up` computes. Of one mixture alone none: its `down` would make words unsent that blocks of its own have
 * yet to read. */
static void find_routers(bexec *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        x->mix[i].router = find_router(x, &x->mix[i]);
        x->mix[i].nth = x->n_routed;
        x->n_routed += x->mix[i].router >= 0;
    }
    x->n_routed = x->n_routed < 2 ? 0 : x->n_routed;
    for (int32_t i = 0; i < n; i++) {
        mixture *m = &x->mix[i];
        m->router = x->n_routed ? m->router : -1;
        if (m->router >= 0)
            x->node[m->router].routes = m;
    }
}

imp_status exec_find_mixtures(bexec *x, imp_err *e)
{
    const plan *p = x->p;
    int32_t n = 0;
    for (int32_t i = 0; i < p->n_op; i++)
        n += p->op[i].kind == OP_COMBINE;
    x->mix = mem_calloc((size_t)n + 1, sizeof *x->mix);
    if (!x->mix)
        return err_oom(e, "mixtures", (unsigned long long)n * sizeof *x->mix);
    int32_t at = 0;
    for (int32_t i = 0; i < x->n_node; i++) {
        mixture *m = &x->mix[at];
        if (x->node[i].kind != NODE_OP || p->op[x->node[i].op].kind != OP_COMBINE || !find_mixture(x, i, m))
            continue;
        at++;
        x->node[m->route].mix = x->node[m->up].mix = x->node[m->down].mix = x->node[m->sum].mix = m;
        /* between the kernels the experts' rows are f16, each padded to whole tiles */
        const node *d = &x->node[m->down];
        const dweight *w = matrix(x, d->lin[0]);
        uint64_t row = (uint64_t)p->op[d->lin[0]].attr.expert.k * w->k_tiles * TILE_COLS * 2;
        x->reg[p->op[d->lin[0]].in[0]].least = (EXPERTS_FROM - 1) * row;
    }
    find_routers(x, at);
    return IMP_OK;
}

bool exec_mixture_now(const bexec *x)
{
    return x->n_tok < EXPERTS_FROM && x->n_tok_run == 1 && (!x->tok_run[0].prompt || x->b->deterministic);
}

/* One token: with more, each token's clusters would read the router's weights anew. */
bool exec_routes_now(const bexec *x, const mixture *m)
{
    return m->router >= 0 && x->n_tok == 1 && exec_mixture_now(x);
}
imp_status exec_unsend(bexec *x, imp_err *e)
{
    if (!x->n_routed)
        return IMP_OK;
    CUresult r = x->b->cu.MemsetD8Async(x->sent, 0xFF, (uint64_t)x->n_routed * SENT_BYTES, x->b->stream);
    return cu_check(&x->b->cu, r, e, "clearing scores");
}
static CUdeviceptr sent_of(const bexec *x, int32_t nth) { return x->sent + (uint64_t)nth * SENT_BYTES; }

route_args exec_route_args(const bexec *x, const plan_op *o)
{
    const plan_route *r = &o->attr.route;
    return (route_args){.scores = reg_ptr(x, o->in[0]), .lds = reg_ld(x, o->in[0]), .bias = vec(x, o->weight[0]),
                        .factor = vec(x, o->weight[1]), .ids = reg_ptr(x, o->out[0]), .weights = reg_ptr(x, o->out[1]),
                        .n_tok = (uint32_t)x->n_tok, .n_expert = r->n_expert, .k = r->k, .score = (uint32_t)r->score,
                        .n_group = r->n_group, .topk_group = r->topk_group, .group_top = r->group_top,
                        .renormalise = r->renormalise, .renorm_eps = r->renorm_eps, .scale = r->scale};
}

/* With the router's norm and product. */
static imp_status run_routed(bexec *x, const mixture *m, imp_err *e)
{
    const plan *p = x->p;
    const node *n = &x->node[m->up], *r = &x->node[m->router];
    const plan_op *norm = &p->op[r->norm];
    const dweight *w = matrix(x, n->lin[0]);
    routed_args a = {.w = {*w, *matrix(x, n->lin[1])}, .router = *matrix(x, r->lin[0]),
                     .route = exec_route_args(x, &p->op[x->node[m->route].op]), .x = reg_ptr(x, norm->in[0]),
                     .norm_w = vec(x, norm->weight[0]), .sent = sent_of(x, m->nth),
                     .out = reg_ptr(x, p->op[n->glu].out[0]), .k = w->cols,
                     .ldo = matrix(x, x->node[m->down].lin[0])->k_tiles * TILE_COLS, .eps = norm->attr.norm.eps};
    a.one = !a.norm_w || norm->attr.norm.plus_one ? 1.0f : 0.0f;
    uint32_t blocks = routed_blocks(x, w, a.route.k, a.router.row_tiles), tiles = div_up(w->row_tiles, blocks);
    return cuda_launch(x->b, x->b->stream, K_experts_up_q4k_r, blocks, a.route.k, 1, ROUTED_WARPS * 32,
                       routed_smem(w, tiles), true, &a, e);
}

static imp_status run_up(bexec *x, const mixture *m, imp_err *e)
{
    if (exec_routes_now(x, m))
        return run_routed(x, m, e);
#define OF(l) {K_experts_up_##l, K_experts_up_##l##_p}
    static const kernel_id kernel[LAY_COUNT][2] = {
        [LAY_F16] = OF(f16), [LAY_I8] = OF(i8), [LAY_U4] = OF(u4), [LAY_NV4] = OF(nv4),
        [LAY_Q4K] = OF(q4k), [LAY_Q5K] = OF(q5k), [LAY_Q6K] = OF(q6k), [LAY_F8] = OF(f8)};
#undef OF
    const plan *p = x->p;
    const node *n = &x->node[m->up];
    plan_reg in = p->op[n->lin[0]].in[0];
    const plan_op *g = &p->op[n->glu];
    const dweight *w = matrix(x, n->lin[0]);
    experts_args a = {.w = {*w, *matrix(x, n->lin[1])}, .route = exec_route_args(x, &p->op[x->node[m->route].op]),
                      .x = reg_ptr(x, in), .ldx = reg_ld(x, in), .x_f32 = !x->reg[in].f16, .out = reg_ptr(x, g->out[0]),
                      .ldo = matrix(x, x->node[m->down].lin[0])->k_tiles * TILE_COLS, .act = (uint32_t)g->attr.act.act,
                      .limit = g->attr.act.limit, .alpha = g->attr.act.alpha};
    a.eight = w->seg == 8 && (w->z == 1 || w->z == 4) && !w->row_scale && !w->bias && !a.w[1].row_scale && !a.w[1].bias;
    uint32_t smem = up_smem(w), gy = (uint32_t)x->n_tok * a.route.k;
    uint32_t per_sm = ((uint32_t)x->b->smem_max + 1024) / (smem + 1024); /* a block costs 1 KiB more than it asks for */
    uint32_t blocks = div_up(w->row_tiles, 8 / w->seg), most = (uint32_t)x->b->n_sm * (per_sm > 4 ? 4 : per_sm) / gy;
    blocks = div_up(blocks, div_up(blocks, most ? most : 1)); /* all there at once, with rounds of one length */
    bool plain = plain_route(&a.route) && !a.x_f32 && a.act == 0;
    return cuda_launch(x->b, x->b->stream, kernel[w->layout][plain], blocks, a.route.k, (uint32_t)x->n_tok, 256, smem,
                       true, &a, e);
}

static imp_status run_down(bexec *x, const mixture *m, imp_err *e)
{
#define OF(l) {K_experts_down_##l, K_experts_down_##l##_p}
    static const kernel_id kernel[LAY_COUNT][2] = {
        [LAY_F16] = OF(f16), [LAY_I8] = OF(i8), [LAY_U4] = OF(u4), [LAY_NV4] = OF(nv4),
        [LAY_Q4K] = OF(q4k), [LAY_Q5K] = OF(q5k), [LAY_Q6K] = OF(q6k), [LAY_F8] = OF(f8)};
#undef OF
    const plan *p = x->p;
    const node *s = &x->node[m->sum];
    const plan_op *l = &p->op[x->node[m->down].lin[0]];
    const dweight *w = matrix(x, x->node[m->down].lin[0]);
    plan_reg out = sum_out(p, s);
    experts_args a = {.w = {*w}, .route = exec_route_args(x, &p->op[x->node[m->route].op]), .x = reg_ptr(x, l->in[0]),
                      .ldx = l->attr.expert.k * w->k_tiles * TILE_COLS, .out = reg_ptr(x, out), .ldo = reg_ld(x, out),
                      .pairs = w->seg == 2 && w->z == 2 && !w->row_scale && !w->bias && l->attr.expert.k <= 8};
    if (exec_routes_now(x, m)) {
        a.route.scores = sent_of(x, m->nth);
        a.unsent = x->keep_sent ? 0 : sent_of(x, (m->nth + 1) % x->n_routed);
    }
    if (s->add >= 0) {
        const plan_op *add = &p->op[s->add];
        plan_reg other = add->in[add->in[0] == p->op[s->op].out[0]];
        a.residual = reg_ptr(x, other);
        a.ldr = reg_ld(x, other);
    }
    uint32_t smem = down_smem(w, a.route.k), tiles = w->row_tiles, n = (uint32_t)x->n_tok;
    return cuda_launch(x->b, x->b->stream, kernel[w->layout][plain_route(&a.route)], tiles, n, 1, 256, smem, true, &a,
                       e);
}

imp_status exec_mixture_node(bexec *x, int32_t i, imp_err *e)
{
    const mixture *m = x->node[i].mix;
    return i == m->up ? run_up(x, m, e) : i == m->sum ? run_down(x, m, e) : IMP_OK;
}

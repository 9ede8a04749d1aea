/* The shared layer pieces: what "attention" and "feed forward" mean for the families that agree on it. */
#include <math.h>

#include "model/arch.h"

static unsigned bias_flag(bool wanted) { return wanted ? BIND_BIAS : 0; }

static bool fused_qkv(build *b, int32_t layer)
{
    return !bind_has(b, layer, "attn_q") && bind_has(b, layer, "attn_qkv");
}

plan_reg piece_attention(build *b, int32_t layer, plan_reg x)
{
    const model_config *c = b->c;
    const layer_config *l = &c->layer[layer];
    uint64_t h = c->n_hidden, nq = (uint64_t)l->n_head * l->d_k;
    uint64_t nk = (uint64_t)l->n_kv_head * l->d_k, nv = (uint64_t)l->n_kv_head * l->d_v;
    unsigned bias = bias_flag(c->qkv_bias);
    const weight *wq, *wk, *wv;
    if (fused_qkv(b, layer)) {
        wq = bind_rows(b, layer, "attn_qkv", nq + nk + nv, 0, nq, 1, h, bias);
        wk = bind_rows(b, layer, "attn_qkv", nq + nk + nv, nq, nk, 1, h, bias);
        wv = bind_rows(b, layer, "attn_qkv", nq + nk + nv, nq + nk, nv, 1, h, bias);
    } else {
        wq = bind_weight(b, layer, "attn_q", nq, h, bias);
        wk = bind_weight(b, layer, "attn_k", nk, h, bias);
        wv = bind_weight(b, layer, "attn_v", nv, h, bias);
    }
    plan_reg q = op_linear(b, layer, "attn_q", x, wq, REG_ACT);
    plan_reg k = op_linear(b, layer, "attn_k", x, wk, REG_ACT);
    plan_reg v = op_linear(b, layer, "attn_v", x, wv, REG_ACT);
    if (c->qk_norm) {
        q = op_norm(b, layer, "attn_q_norm", q, l->d_k);
        k = op_norm(b, layer, "attn_k_norm", k, l->d_k);
    }
    q = op_rope(b, layer, "rope_q", q, l->rope, l->n_head, l->d_k, 0);
    k = op_rope(b, layer, "rope_k", k, l->rope, l->n_kv_head, l->d_k, 0);
    float scale = c->attn_scale > 0 ? c->attn_scale : 1.0f / sqrtf((float)l->d_k);
    const weight *sinks = c->attn_sinks ? bind_vector(b, layer, "attn_sinks", l->n_head, 0) : NULL;
    plan_reg o = op_attend(b, layer, q, k, v, scale, sinks);
    const weight *wo = bind_weight(b, layer, "attn_output", h, (uint64_t)l->n_head * l->d_v, bias_flag(c->o_bias));
    return op_linear(b, layer, "attn_output", o, wo, REG_ACT);
}

plan_reg piece_glu(build *b, int32_t layer, plan_reg x, const char *prefix, uint32_t n_ff)
{
    const model_config *c = b->c;
    unsigned bias = bias_flag(c->mlp_bias);
    char *gate = arena_printf(b->mem, "%s_gate", prefix), *up = arena_printf(b->mem, "%s_up", prefix);
    char *down = arena_printf(b->mem, "%s_down", prefix), *act = arena_printf(b->mem, "%s_act", prefix);
    char *fused = arena_printf(b->mem, "%s_gate_up", prefix);
    if (!gate || !up || !down || !act || !fused) {
        build_fail(b, IMP_E_NOMEM, "layer %d: out of memory", layer);
        return PLAN_NONE;
    }
    const weight *wg, *wu;
    if (!bind_has(b, layer, gate) && b->status == IMP_OK) { /* Phi-3 and kin keep gate above up in one tensor */
        wg = bind_rows(b, layer, fused, 2ull * n_ff, 0, n_ff, 1, c->n_hidden, bias);
        wu = bind_rows(b, layer, fused, 2ull * n_ff, n_ff, n_ff, 1, c->n_hidden, bias);
    } else {
        wg = bind_weight(b, layer, gate, n_ff, c->n_hidden, bias);
        wu = bind_weight(b, layer, up, n_ff, c->n_hidden, bias);
    }
    plan_reg g = op_linear(b, layer, gate, x, wg, REG_ACT), u = op_linear(b, layer, up, x, wu, REG_ACT);
    plan_reg y = op_glu(b, layer, act, g, u, c->act);
    return op_linear(b, layer, down, y, bind_weight(b, layer, down, c->n_hidden, n_ff, bias), REG_ACT);
}

plan_reg piece_mlp(build *b, int32_t layer, plan_reg x, const char *prefix, uint32_t n_ff)
{
    const model_config *c = b->c;
    unsigned bias = bias_flag(c->mlp_bias);
    char *up = arena_printf(b->mem, "%s_up", prefix), *down = arena_printf(b->mem, "%s_down", prefix);
    char *act = arena_printf(b->mem, "%s_act", prefix);
    if (!up || !down || !act) {
        build_fail(b, IMP_E_NOMEM, "layer %d: out of memory", layer);
        return PLAN_NONE;
    }
    plan_reg u = op_linear(b, layer, up, x, bind_weight(b, layer, up, n_ff, c->n_hidden, bias), REG_ACT);
    return op_linear(b, layer, down, op_act(b, layer, act, u, c->act),
                     bind_weight(b, layer, down, c->n_hidden, n_ff, bias), REG_ACT);
}

void piece_route(build *b, int32_t layer, plan_reg x, unsigned bias_flags, plan_reg *ids, plan_reg *w)
{
    const moe_config *m = &b->c->moe;
    const weight *router = bind_weight(b, layer, "ffn_router", m->n_expert, b->c->n_hidden, bias_flags);
    plan_reg scores = op_linear(b, layer, "ffn_router", x, router, REG_WIDE);
    const weight *bias = m->choice_bias ? bind_vector(b, layer, "ffn_router_bias", m->n_expert, 0) : NULL;
    if (b->status != IMP_OK)
        return;
    plan_op op = plan_op_init(OP_ROUTE, layer, "route");
    op.in[0] = scores;
    op.weight[0] = plan_add_weight(b->p, bias);
    op.out[0] = *ids = plan_add_reg(b->p, REG_IDX, DIM_T, m->n_used);
    op.out[1] = *w = plan_add_reg(b->p, REG_WIDE, DIM_T, m->n_used);
    op.attr.route = (plan_route){.score = m->score, .n_expert = m->n_expert, .k = m->n_used, .n_group = m->n_group,
                                 .topk_group = m->topk_group, .group_top = m->group_top,
                                 .renormalise = m->renormalise, .renorm_eps = m->renorm_eps, .scale = m->scale};
    plan_add_op(b->p, &op);
}

plan_reg op_expert_linear(build *b, int32_t layer, const char *role, plan_reg x, plan_reg ids, const weight *w,
                          bool per_choice)
{
    if (b->status != IMP_OK || !w)
        return PLAN_NONE;
    plan_op op = plan_op_init(OP_EXPERT_LINEAR, layer, role);
    op.in[0] = x;
    op.in[1] = ids;
    op.weight[0] = plan_add_weight(b->p, w);
    op.attr.expert.k = b->c->moe.n_used;
    op.attr.expert.x_per_choice = per_choice;
    op.out[0] = plan_add_reg(b->p, REG_ACT, DIM_T, (uint32_t)w->rows * b->c->moe.n_used);
    plan_add_op(b->p, &op);
    return op.out[0];
}

/* What experts read and write. */
static uint32_t expert_width(const model_config *c) { return c->moe.n_latent ? c->moe.n_latent : c->n_hidden; }

/* Gate and up of every expert: two tensors, or one with gate's rows above up's. */
static void experts_gate_up(build *b, int32_t layer, const weight **gate, const weight **up)
{
    const moe_config *m = &b->c->moe;
    uint64_t h = expert_width(b->c), f = m->n_ff;
    if (!bind_has(b, layer, "ffn_gate_exps") && bind_has(b, layer, "ffn_gate_up_fused")) {
        *gate = bind_full(b, layer, &(bind_spec){.role = "ffn_gate_up_fused", .n_expert = m->n_expert, .total = 2 * f,
                                                 .n = f, .step = 1, .cols = h});
        *up = bind_full(b, layer, &(bind_spec){.role = "ffn_gate_up_fused", .n_expert = m->n_expert, .total = 2 * f,
                                               .row = f, .n = f, .step = 1, .cols = h});
    } else {
        *gate = bind_experts(b, layer, "ffn_gate_exps", m->n_expert, f, h, 0);
        *up = bind_experts(b, layer, "ffn_up_exps", m->n_expert, f, h, 0);
    }
}

plan_reg piece_experts(build *b, int32_t layer, plan_reg x, plan_reg ids, plan_reg w)
{
    const model_config *c = b->c;
    const moe_config *m = &c->moe;
    plan_reg a;
    const weight *wg = NULL, *wu = NULL;
    if (m->gated) {
        experts_gate_up(b, layer, &wg, &wu);
        plan_reg g = op_expert_linear(b, layer, "ffn_gate_exps", x, ids, wg, false);
        plan_reg u = op_expert_linear(b, layer, "ffn_up_exps", x, ids, wu, false);
        a = op_glu(b, layer, "ffn_act_exps", g, u, c->act);
    } else {
        wu = bind_experts(b, layer, "ffn_up_exps", m->n_expert, m->n_ff, expert_width(c), 0);
        a = op_act(b, layer, "ffn_act_exps", op_expert_linear(b, layer, "ffn_up_exps", x, ids, wu, false), c->act);
    }
    bool fused = !bind_has(b, layer, "ffn_down_exps") && bind_has(b, layer, "ffn_down_fused");
    const weight *wd = bind_experts(b, layer, fused ? "ffn_down_fused" : "ffn_down_exps", m->n_expert,
                                    expert_width(c), m->n_ff, 0);
    return op_combine(b, layer, op_expert_linear(b, layer, "ffn_down_exps", a, ids, wd, true), w);
}

plan_reg op_combine(build *b, int32_t layer, plan_reg x, plan_reg w)
{
    if (b->status != IMP_OK)
        return PLAN_NONE;
    plan_op op = plan_op_init(OP_COMBINE, layer, "ffn_combine");
    op.in[0] = x;
    op.in[1] = w;
    op.attr.expert.k = b->c->moe.n_used;
    op.out[0] = plan_add_reg(b->p, REG_ACT, DIM_T, expert_width(b->c));
    plan_add_op(b->p, &op);
    return op.out[0];
}

plan_reg piece_moe(build *b, int32_t layer, plan_reg x, plan_reg router_x)
{
    const model_config *c = b->c;
    const moe_config *m = &c->moe;
    plan_reg ids = PLAN_NONE, w = PLAN_NONE;
    piece_route(b, layer, router_x, 0, &ids, &w);
    plan_reg in = x;
    if (m->n_latent) {
        const weight *w_in = bind_weight(b, layer, "ffn_latent_in", m->n_latent, c->n_hidden, 0);
        in = op_linear(b, layer, "ffn_latent_in", x, w_in, REG_ACT);
    }
    plan_reg y = piece_experts(b, layer, in, ids, w);
    if (m->n_latent) {
        const weight *w_out = bind_weight(b, layer, "ffn_latent_out", c->n_hidden, m->n_latent, 0);
        y = op_linear(b, layer, "ffn_latent_out", y, w_out, REG_ACT);
    }
    if (!m->n_ff_shared)
        return y;
    plan_reg s = m->gated ? piece_glu(b, layer, x, "ffn_shexp", m->n_ff_shared)
                          : piece_mlp(b, layer, x, "ffn_shexp", m->n_ff_shared);
    if (m->shared_gate) {
        const weight *wg = bind_weight(b, layer, "ffn_shexp_router", 1, c->n_hidden, 0);
        s = op_gate(b, layer, "ffn_shexp_gated", s, op_linear(b, layer, "ffn_shexp_router", x, wg, REG_WIDE));
    }
    return op_add(b, layer, "ffn_shexp_add", y, s);
}

plan_reg piece_ffn(build *b, int32_t layer, plan_reg x)
{
    const layer_config *l = &b->c->layer[layer];
    switch (l->ffn) {
    case FFN_GLU: return piece_glu(b, layer, x, "ffn", l->n_ff);
    case FFN_MLP: return piece_mlp(b, layer, x, "ffn", l->n_ff);
    case FFN_MOE: return piece_moe(b, layer, x, x);
    default: build_fail(b, IMP_E_INTERNAL, "layer %d: no feed forward", layer); return PLAN_NONE;
    }
}

void layer_std(build *b, int32_t layer, plan_reg *x)
{
    bool post = b->c->post_norm;
    plan_reg y = piece_attention(b, layer, op_norm(b, layer, "attn_norm", *x, 0));
    if (post)
        y = op_norm(b, layer, "attn_post_norm", y, 0);
    *x = op_add(b, layer, "attn_residual", *x, y);
    y = piece_ffn(b, layer, op_norm(b, layer, "ffn_norm", *x, 0));
    if (post)
        y = op_norm(b, layer, "ffn_post_norm", y, 0);
    *x = op_add(b, layer, "ffn_residual", *x, y);
}

void embed_std(build *b, plan_reg *x)
{
    const model_config *c = b->c;
    const weight *w = bind_weight(b, -1, "token_embd", c->n_vocab, c->n_hidden, 0);
    if (b->status != IMP_OK)
        return;
    plan_op op = plan_op_init(OP_EMBED, -1, "token_embd");
    op.weight[0] = plan_add_weight(b->p, w);
    op.attr.scale = c->embed_scale;
    op.out[0] = *x = plan_add_reg(b->p, REG_WIDE, DIM_T, c->n_hidden);
    plan_add_op(b->p, &op);
}

/* The rows that were asked for leave the token dimension before the final norm: the head is the widest product. */
static plan_reg gather(build *b, plan_reg x)
{
    plan_op op = plan_op_init(OP_GATHER, -1, "gather");
    op.in[0] = x;
    op.out[0] = plan_add_reg(b->p, REG_WIDE, DIM_R, b->c->n_hidden);
    plan_add_op(b->p, &op);
    return op.out[0];
}

void build_head(build *b, int32_t layer, const char *role, plan_reg x, const weight *head)
{
    const model_config *c = b->c;
    plan *p = b->p;
    if (b->status != IMP_OK)
        return;
    p->hidden = x = op_norm(b, layer, role, gather(b, x), 0);
    if (!head)
        head = c->tied && p->n_op ? p->weight[p->op[0].weight[0]]
                                  : bind_weight(b, -1, "output", c->n_vocab, c->n_hidden, 0);
    plan_reg y = op_linear(b, -1, "output", x, head, REG_WIDE);
    if (c->logit_scale != 0 && c->logit_scale != 1)
        y = op_scale(b, -1, "output_scale", y, c->logit_scale);
    if (c->final_softcap > 0 && b->status == IMP_OK) {
        plan_op op = plan_op_init(OP_SOFTCAP, -1, "output_softcap");
        op.in[0] = y;
        op.attr.cap = c->final_softcap;
        op.out[0] = plan_add_reg(p, REG_WIDE, DIM_R, c->n_vocab);
        plan_add_op(p, &op);
        y = op.out[0];
    }
    p->logits = y;
}

imp_status build_text(build *b)
{
    const model_config *c = b->c;
    plan_reg x = PLAN_NONE;
    (b->arch->embed ? b->arch->embed : embed_std)(b, &x);
    for (uint32_t i = 0; i < c->n_layer && b->status == IMP_OK; i++)
        (b->arch->layer ? b->arch->layer : layer_std)(b, (int32_t)i, &x);
    build_head(b, -1, "output_norm", x, NULL);
    return b->status;
}

/* Recurrent mixers and gated attention, shared by the hybrid families. */
#include <math.h>

#include "model/arch.h"

plan_reg op_conv(build *b, int32_t layer, const char *role, plan_reg x, uint32_t width, uint32_t taps, bool bias)
{
    plan_op op = plan_op_init(OP_CONV, layer, role);
    const weight *w = bind_weight(b, layer, role, width, taps, 0);
    const weight *wb = bias ? bind_vector(b, layer, "ssm_conv_bias", width, 0) : NULL;
    if (b->status != IMP_OK)
        return PLAN_NONE;
    op.in[0] = x;
    op.weight[0] = plan_add_weight(b->p, w);
    op.weight[1] = plan_add_weight(b->p, wb);
    op.attr.conv.taps = taps;
    op.attr.conv.act = ACT_SILU;
    op.attr.conv.state = plan_add_state(b->p, "conv", (uint64_t)(taps - 1) * width);
    op.out[0] = plan_add_reg(b->p, REG_ACT, DIM_T, width);
    plan_add_op(b->p, &op);
    return op.out[0];
}

static plan_reg l2norm(build *b, int32_t layer, const char *role, plan_reg x, uint32_t group, float scale)
{
    if (b->status != IMP_OK)
        return PLAN_NONE;
    plan_op op = plan_op_init(OP_L2NORM, layer, role);
    op.in[0] = x;
    op.attr.l2norm.group = group;
    op.attr.l2norm.eps = 1e-6f;
    op.attr.l2norm.scale = scale;
    op.out[0] = plan_add_reg(b->p, REG_ACT, DIM_T, b->p->reg[x].width);
    plan_add_op(b->p, &op);
    return op.out[0];
}

/* g = -exp(A_log) softplus(a + dt_bias): the log of each head's decay. */
static plan_reg decay(build *b, int32_t layer, plan_reg a, uint32_t n, bool negexp)
{
    const weight *A = bind_vector(b, layer, "ssm_a", n, 0), *dt = bind_vector(b, layer, "ssm_dt", n, 0);
    if (b->status != IMP_OK)
        return PLAN_NONE;
    plan_op op = plan_op_init(OP_DECAY, layer, "gdn_decay");
    op.in[0] = a;
    op.weight[0] = plan_add_weight(b->p, A);
    op.weight[1] = plan_add_weight(b->p, dt);
    op.attr.decay.a_is_negexp = negexp;
    op.out[0] = plan_add_reg(b->p, REG_WIDE, DIM_T, n);
    plan_add_op(b->p, &op);
    return op.out[0];
}

plan_reg piece_gdn(build *b, int32_t layer, plan_reg qkv, plan_reg z, plan_reg beta, plan_reg a)
{
    const model_config *c = b->c;
    bool gguf = mf_get_kind(b->mf) == MF_GGUF;
    uint32_t nk = c->gdn.n_k_head, nv = c->gdn.n_v_head, dk = c->gdn.d_k, dv = c->gdn.d_v;
    uint32_t kw = nk * dk, vw = nv * dv, w = 2 * kw + vw;
    plan_reg conv = op_conv(b, layer, "ssm_conv", qkv, w, c->gdn.taps, false);
    plan_reg q = l2norm(b, layer, "gdn_q_norm", op_slice(b, layer, "gdn_q", conv, 0, kw, 1, w), dk,
                        1 / sqrtf((float)dk));
    plan_reg k = l2norm(b, layer, "gdn_k_norm", op_slice(b, layer, "gdn_k", conv, kw, kw, 1, w), dk, 1);
    plan_reg v = op_slice(b, layer, "gdn_v", conv, 2 * kw, vw, 1, w);
    plan_reg g = decay(b, layer, a, nv, gguf);
    plan_reg bt = op_act(b, layer, "gdn_beta", beta, ACT_SIGMOID);
    if (b->status != IMP_OK)
        return PLAN_NONE;
    plan_op op = plan_op_init(OP_GDN, layer, "gdn");
    plan_reg in[] = {q, k, v, g, bt};
    for (int i = 0; i < 5; i++)
        op.in[i] = in[i];
    op.attr.gdn.n_k_head = nk;
    op.attr.gdn.n_v_head = nv;
    op.attr.gdn.d_k = dk;
    op.attr.gdn.d_v = dv;
    op.attr.gdn.tiled = c->gdn.tiled;
    op.attr.gdn.state = plan_add_state(b->p, "gdn", (uint64_t)nv * dk * dv);
    op.out[0] = plan_add_reg(b->p, REG_ACT, DIM_T, vw);
    plan_add_op(b->p, &op);
    plan_reg o = op_norm(b, layer, "ssm_norm", op.out[0], dv);
    if (b->status == IMP_OK)
        b->p->op[b->p->n_op - 1].attr.norm.plus_one = false; /* the one norm of these families whose weight is plain */
    o = op_glu(b, layer, "gdn_gated", z, o, ACT_SILU);
    return op_linear(b, layer, "ssm_out", o, bind_weight(b, layer, "ssm_out", c->n_hidden, vw, 0), REG_ACT);
}

plan_reg piece_gated_attention(build *b, int32_t layer, plan_reg x)
{
    const model_config *c = b->c;
    const layer_config *l = &c->layer[layer];
    uint32_t nh = l->n_head, nk = l->n_kv_head, d = l->d_k;
    uint64_t h = c->n_hidden;
    plan_reg qg = op_linear(b, layer, "attn_q", x, bind_weight(b, layer, "attn_q", 2ull * nh * d, h, 0), REG_ACT);
    plan_reg k = op_linear(b, layer, "attn_k", x, bind_weight(b, layer, "attn_k", (uint64_t)nk * d, h, 0), REG_ACT);
    plan_reg v = op_linear(b, layer, "attn_v", x, bind_weight(b, layer, "attn_v", (uint64_t)nk * d, h, 0), REG_ACT);
    plan_reg q = op_norm(b, layer, "attn_q_norm", op_slice(b, layer, "attn_q_part", qg, 0, d, nh, 2 * d), d);
    plan_reg gate = op_slice(b, layer, "attn_gate_part", qg, d, d, nh, 2 * d);
    k = op_norm(b, layer, "attn_k_norm", k, d);
    q = op_rope(b, layer, "rope_q", q, l->rope, nh, d, 0);
    k = op_rope(b, layer, "rope_k", k, l->rope, nk, d, 0);
    plan_reg o = op_gate(b, layer, "attn_gated", op_attend(b, layer, q, k, v, 1 / sqrtf((float)d), NULL), gate);
    return op_linear(b, layer, "attn_output", o, bind_weight(b, layer, "attn_output", h, (uint64_t)nh * d, 0), REG_ACT);
}

plan_reg piece_mamba2(build *b, int32_t layer, plan_reg x)
{
    const model_config *c = b->c;
    uint32_t nh = c->mamba.n_head, hd = c->mamba.head_dim, d_in = nh * hd;
    uint32_t gn = c->mamba.n_group * c->mamba.d_state, w = d_in + 2 * gn;
    uint32_t all = d_in + w + nh;
    plan_reg in = op_linear(b, layer, "ssm_in", x, bind_weight(b, layer, "ssm_in", all, c->n_hidden, 0), REG_ACT);
    plan_reg z = op_slice(b, layer, "ssm_z", in, 0, d_in, 1, all);
    plan_reg conv = op_conv(b, layer, "ssm_conv", op_slice(b, layer, "ssm_xbc", in, d_in, w, 1, all), w,
                            c->mamba.taps, true);
    plan_reg dt = op_slice(b, layer, "ssm_dt_raw", in, d_in + w, nh, 1, all);
    plan_op op = plan_op_init(OP_MAMBA2, layer, "mamba2");
    op.in[0] = op_slice(b, layer, "ssm_x", conv, 0, d_in, 1, w);
    op.in[1] = op_slice(b, layer, "ssm_b", conv, d_in, gn, 1, w);
    op.in[2] = op_slice(b, layer, "ssm_c", conv, d_in + gn, gn, 1, w);
    op.in[3] = dt;
    const char *const role[3] = {"ssm_a", "ssm_d", "ssm_dt"};
    for (int i = 0; i < 3; i++)
        op.weight[i] = plan_add_weight(b->p, bind_vector(b, layer, role[i], nh, 0));
    if (b->status != IMP_OK)
        return PLAN_NONE;
    op.attr.mamba2.n_head = nh;
    op.attr.mamba2.head_dim = hd;
    op.attr.mamba2.n_group = c->mamba.n_group;
    op.attr.mamba2.d_state = c->mamba.d_state;
    op.attr.mamba2.a_is_negexp = mf_get_kind(b->mf) == MF_GGUF;
    op.attr.mamba2.state = plan_add_state(b->p, "mamba2", (uint64_t)d_in * c->mamba.d_state);
    op.out[0] = plan_add_reg(b->p, REG_ACT, DIM_T, d_in);
    plan_add_op(b->p, &op);
    plan_reg y = op_glu(b, layer, "ssm_gated", z, op.out[0], ACT_SILU); /* gate first, then the norm by groups */
    plan_op norm = plan_op_init(OP_NORM, layer, "ssm_norm");
    norm.in[0] = y;
    norm.weight[0] = plan_add_weight(b->p, bind_vector(b, layer, "ssm_norm", d_in, 0));
    if (b->status != IMP_OK)
        return PLAN_NONE;
    norm.attr.norm.eps = c->norm_eps;
    norm.attr.norm.group = d_in / c->mamba.n_group;
    norm.attr.norm.w_full = true;
    norm.out[0] = plan_add_reg(b->p, REG_ACT, DIM_T, d_in);
    plan_add_op(b->p, &norm);
    return op_linear(b, layer, "ssm_out", norm.out[0], bind_weight(b, layer, "ssm_out", c->n_hidden, d_in, 0), REG_ACT);
}

/* ---- which layers are which ------------------------------------------------------------------------------------- */
void cfg_gdn(cfg *k, model_config *c)
{
    static const char *const silu[] = {"silu", "swish", NULL};
    cfg_only_str(k, "output_gate_type", silu);
    c->gdn.n_k_head = (uint32_t)cfg_int(k, "ssm.group_count", "linear_num_key_heads", 1, 4096, CFG_REQUIRED);
    c->gdn.n_v_head = (uint32_t)cfg_int(k, "ssm.time_step_rank", "linear_num_value_heads", 1, 4096, CFG_REQUIRED);
    c->gdn.d_k = (uint32_t)cfg_int(k, "ssm.state_size", "linear_key_head_dim", 1, 4096, CFG_REQUIRED);
    uint32_t inner = (uint32_t)cfg_int(k, "ssm.inner_size", NULL, 1, 1 << 24, c->gdn.n_v_head * c->gdn.d_k);
    c->gdn.d_v = k->gguf ? inner / c->gdn.n_v_head
                         : (uint32_t)cfg_int(k, NULL, "linear_value_head_dim", 1, 4096, CFG_REQUIRED);
    c->gdn.taps = (uint32_t)cfg_int(k, "ssm.conv_kernel", "linear_conv_kernel_dim", 2, 64, 4);
    if (c->gdn.n_v_head % c->gdn.n_k_head || (uint64_t)c->gdn.n_v_head * c->gdn.d_v > 1 << 20 || !c->gdn.d_v)
        cfg_fail(k, "gated delta net: wanted value heads to be a multiple of %u key heads, got %u of width %u",
                 c->gdn.n_k_head, c->gdn.n_v_head, c->gdn.d_v);
    const meta_value *types = cfg_value(k, NULL, "layer_types");
    const meta_value *rec = cfg_value(k, "attention.recurrent_layers", NULL);
    uint32_t every = (uint32_t)cfg_int(k, "full_attention_interval", "full_attention_interval", 1, 4096, 4);
    for (uint32_t i = 0; i < c->n_layer; i++) {
        meta_str s;
        int64_t r;
        bool full = (i + 1) % every == 0;
        if (types && mf_array_str(types, i, &s))
            full = cfg_str_is(s, "full_attention");
        else if (rec && mf_array_int(rec, i, &r))
            full = r == 0;
        c->layer[i].mixer = full ? MIX_ATTENTION : MIX_GDN;
    }
}

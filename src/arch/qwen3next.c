/* Qwen3-Next: Qwen 3.5's layers with projections fused and interleaved by key head: [q, k, v.., z..] and [b.., a..].
 * GGUF has qkv and z apart, b and a still interleaved. */
#include "model/arch.h"

static const tensor_name names[] = {
    {"ffn_norm", "blk.%d.post_attention_norm.weight", "model.layers.%d.post_attention_layernorm.weight"},
    {"gdn_qkv", "blk.%d.attn_qkv.weight", NULL},
    {"gdn_z", "blk.%d.attn_gate.weight", NULL},
    {"gdn_qkvz", "blk.%d.ssm_in.weight", "model.layers.%d.linear_attn.in_proj_qkvz.weight"},
    {"gdn_ba", "blk.%d.ssm_ba.weight", "model.layers.%d.linear_attn.in_proj_ba.weight"},
    {"ssm_a", "blk.%d.ssm_a", "model.layers.%d.linear_attn.A_log"},
    {"ssm_dt", "blk.%d.ssm_dt.bias", "model.layers.%d.linear_attn.dt_bias"},
    {"ssm_conv", "blk.%d.ssm_conv1d.weight", "model.layers.%d.linear_attn.conv1d.weight"},
    {"ssm_norm", "blk.%d.ssm_norm.weight", "model.layers.%d.linear_attn.norm.weight"},
    {"ssm_out", "blk.%d.ssm_out.weight", "model.layers.%d.linear_attn.out_proj.weight"},
    {"next_enorm", "blk.%d.nextn.enorm.weight", "mtp.pre_fc_norm_embedding.weight"},
    {"next_hnorm", "blk.%d.nextn.hnorm.weight", "mtp.pre_fc_norm_hidden.weight"},
    {"next_proj", "blk.%d.nextn.eh_proj.weight", "mtp.fc.weight"},
    {"next_norm", "blk.%d.nextn.shared_head_norm.weight", "mtp.norm.weight"},
    {NULL, NULL, NULL},
};

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_next(k, c, "nextn_predict_layers", "mtp_num_hidden_layers");
    if (cfg_bool(k, NULL, "use_sliding_window", false))
        cfg_fail(k, "key use_sliding_window: only false is supported");
    /* published files have it and do not say so */
    if (!k->gguf && !c->n_next && mf_tensor_find(k->mf, "mtp.fc.weight"))
        c->n_next = 1;
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    cfg_gdn(k, c);
    cfg_moe(k, c);
    c->norm_plus_one = !k->gguf;
    c->moe.n_ff_shared = (uint32_t)cfg_int(k, "expert_shared_feed_forward_length", "shared_expert_intermediate_size",
                                           0, 1 << 20, 0);
    c->moe.shared_gate = true;
    c->moe.renormalise = cfg_bool(k, "expert_weights_norm", "norm_topk_prob", true);
    cfg_moe_layers(k, c);
}

static plan_reg gdn(build *b, int32_t i, plan_reg x)
{
    const model_config *c = b->c;
    uint32_t nk = c->gdn.n_k_head, nv = c->gdn.n_v_head, dk = c->gdn.d_k, dv = c->gdn.d_v;
    uint32_t r = nv / nk, s = 2 * dk + 2 * r * dv;
    uint64_t h = c->n_hidden;
    plan_reg qkv, z;
    if (bind_has(b, i, "gdn_qkv")) {
        const weight *w = bind_weight(b, i, "gdn_qkv", 2ull * nk * dk + (uint64_t)nv * dv, h, 0);
        qkv = op_linear(b, i, "gdn_qkv", x, w, REG_ACT);
        z = op_linear(b, i, "gdn_z", x, bind_weight(b, i, "gdn_z", (uint64_t)nv * dv, h, 0), REG_ACT);
    } else {
        plan_reg all = op_linear(b, i, "gdn_qkvz", x, bind_weight(b, i, "gdn_qkvz", (uint64_t)nk * s, h, 0), REG_ACT);
        plan_reg q = op_slice(b, i, "gdn_q_raw", all, 0, dk, nk, s);
        plan_reg k = op_slice(b, i, "gdn_k_raw", all, dk, dk, nk, s);
        plan_reg v = op_slice(b, i, "gdn_v_raw", all, 2 * dk, r * dv, nk, s);
        z = op_slice(b, i, "gdn_z", all, 2 * dk + r * dv, r * dv, nk, s);
        qkv = op_concat(b, i, "gdn_qkv", op_concat(b, i, "gdn_qk", q, k, 1, false), v, 1, false);
    }
    plan_reg ba = op_linear(b, i, "gdn_ba", x, bind_weight(b, i, "gdn_ba", 2ull * nv, h, 0), REG_WIDE);
    return piece_gdn(b, i, qkv, z, op_slice(b, i, "gdn_b", ba, 0, r, nk, 2 * r),
                     op_slice(b, i, "gdn_a", ba, r, r, nk, 2 * r));
}

static void layer(build *b, int32_t i, plan_reg *x)
{
    plan_reg y = op_norm(b, i, "attn_norm", *x, 0);
    y = b->c->layer[i].mixer == MIX_GDN ? gdn(b, i, y) : piece_gated_attention(b, i, y);
    *x = op_add(b, i, "attn_residual", *x, y);
    y = piece_ffn(b, i, op_norm(b, i, "ffn_norm", *x, 0));
    *x = op_add(b, i, "ffn_residual", *x, y);
}

static const char *const harmless[] = {"sliding_window", "max_window_layers", "output_router_logits",
                                       "router_aux_loss_coef", "mtp_num_hidden_layers", NULL};
static const char *const ignored[] = {"mtp.*", NULL};

const arch_def arch_qwen3next = {
    .title = "Qwen3-Next",
    .names = {"qwen3next", "Qwen3NextForCausalLM"},
    .tensor = names,
    .harmless = harmless,
    .ignored_tensor = ignored,
    .next_layers = "mtp.layers.",
    .config = config,
    .layer = layer,
};

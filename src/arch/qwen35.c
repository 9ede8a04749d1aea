/* Qwen 3.5 and 3.6, dense and MoE: Gated DeltaNet layers with gated attention every few; a quarter of each head
 * rotates. GGUF keeps value heads tiled over key heads, Hugging Face grouped. */
#include "model/arch.h"

static const tensor_name names[] = {
    {"ffn_norm", "blk.%d.post_attention_norm.weight", "model.layers.%d.post_attention_layernorm.weight"},
    {"gdn_qkv", "blk.%d.attn_qkv.weight", "model.layers.%d.linear_attn.in_proj_qkv.weight"},
    {"gdn_z", "blk.%d.attn_gate.weight", "model.layers.%d.linear_attn.in_proj_z.weight"},
    {"gdn_b", "blk.%d.ssm_beta.weight", "model.layers.%d.linear_attn.in_proj_b.weight"},
    {"gdn_a", "blk.%d.ssm_alpha.weight", "model.layers.%d.linear_attn.in_proj_a.weight"},
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
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    cfg_gdn(k, c);
    c->gdn.tiled = k->gguf;
    c->norm_plus_one = !k->gguf;
    cfg_moe(k, c);
    c->moe.n_ff_shared = (uint32_t)cfg_int(k, "expert_shared_feed_forward_length", "shared_expert_intermediate_size",
                                           0, 1 << 20, 0);
    c->moe.shared_gate = true;
    c->moe.renormalise = true;
    if (!cfg_bool(k, NULL, "attn_output_gate", true))
        cfg_fail(k, "key attn_output_gate: only true is supported");
    for (uint32_t i = 0; i < c->n_layer && c->moe.n_expert; i++)
        c->layer[i].ffn = FFN_MOE;
}

static plan_reg gdn(build *b, int32_t i, plan_reg x)
{
    const model_config *c = b->c;
    uint64_t h = c->n_hidden, kw = (uint64_t)c->gdn.n_k_head * c->gdn.d_k, vw = (uint64_t)c->gdn.n_v_head * c->gdn.d_v;
    plan_reg qkv = op_linear(b, i, "gdn_qkv", x, bind_weight(b, i, "gdn_qkv", 2 * kw + vw, h, 0), REG_ACT);
    plan_reg z = op_linear(b, i, "gdn_z", x, bind_weight(b, i, "gdn_z", vw, h, 0), REG_ACT);
    plan_reg bt = op_linear(b, i, "gdn_b", x, bind_weight(b, i, "gdn_b", c->gdn.n_v_head, h, 0), REG_WIDE);
    plan_reg a = op_linear(b, i, "gdn_a", x, bind_weight(b, i, "gdn_a", c->gdn.n_v_head, h, 0), REG_WIDE);
    return piece_gdn(b, i, qkv, z, bt, a);
}

static void layer(build *b, int32_t i, plan_reg *x)
{
    plan_reg y = op_norm(b, i, "attn_norm", *x, 0);
    y = b->c->layer[i].mixer == MIX_GDN ? gdn(b, i, y) : piece_gated_attention(b, i, y);
    *x = op_add(b, i, "attn_residual", *x, y);
    y = piece_ffn(b, i, op_norm(b, i, "ffn_norm", *x, 0));
    *x = op_add(b, i, "ffn_residual", *x, y);
}

static const char *const harmless[] = {
    "sliding_window", "max_window_layers", "qwen35.rope.dimension_sections", "qwen35moe.rope.dimension_sections",
    "vision_config.*", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id",
    "rope_parameters.mrope_interleaved", "rope_parameters.mrope_section", "mtp_num_hidden_layers",
    "mtp_use_dedicated_embeddings", "mamba_ssm_dtype", "output_router_logits", "router_aux_loss_coef",
    "language_model_only", "mlp_only_layers", NULL};
static const char *const ignored[] = {"model.visual.*", "mtp.*", "visual.*", NULL};

const arch_def arch_qwen35 = {
    .title = "Qwen 3.5",
    .names = {"qwen35", "qwen35moe", "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration",
              "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM"},
    .tensor = names,
    .harmless = harmless,
    .ignored_tensor = ignored,
    .next_layers = "mtp.layers.",
    .config = config,
    .layer = layer,
};

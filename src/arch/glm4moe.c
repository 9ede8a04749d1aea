/* GLM-4.5, 4.6 (MoE): GQA with biases on q, k, v, half of each head rotated, optional QK norms; DeepSeek V3's
 * routing. */
#include "model/arch.h"

static const tensor_name names[] = {
    {"ffn_norm", "blk.%d.post_attention_norm.weight", "model.layers.%d.post_attention_layernorm.weight"},
    {"ffn_shexp_gate", "blk.%d.ffn_gate_shexp.weight", "model.layers.%d.mlp.shared_experts.gate_proj.weight"},
    {"ffn_shexp_up", "blk.%d.ffn_up_shexp.weight", "model.layers.%d.mlp.shared_experts.up_proj.weight"},
    {"ffn_shexp_down", "blk.%d.ffn_down_shexp.weight", "model.layers.%d.mlp.shared_experts.down_proj.weight"},
    {NULL, NULL, NULL},
};

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_next(k, c, "nextn_predict_layers",
             cfg_has(k, NULL, "num_mtp_layers") ? "num_mtp_layers" : "num_nextn_predict_layers");
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    cfg_moe_deepseek(k, c);
    c->moe.score = k->gguf && cfg_int(k, "expert_gating_func", NULL, 1, 2, 2) == 1 ? ROUTE_SOFTMAX : ROUTE_SIGMOID;
    c->moe.choice_bias = true;
    c->moe.group_top = 2;
    c->qkv_bias = k->gguf ? mf_tensor_find(k->mf, "blk.0.attn_q.bias") != NULL
                          : cfg_bool(k, NULL, "attention_bias", false);
    c->qk_norm = k->gguf ? mf_tensor_find(k->mf, "blk.0.attn_q_norm.weight") != NULL
                         : cfg_bool(k, NULL, "use_qk_norm", false);
}

static const char *const harmless[] = {"output_router_logits", "router_aux_loss_coef",
                                       "glm4moe.rope.scaling.finetuned", NULL};

const arch_def arch_glm4moe = {
    .title = "GLM-4 MoE",
    .names = {"glm4moe", "Glm4MoeForCausalLM"},
    .tensor = names,
    .harmless = harmless,
    .config = config,
};

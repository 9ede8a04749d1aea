/* Qwen 3 mixtures (30B-A3B, 235B-A22B, Coder): Qwen 3's attention, every layer's feed forward a mixture. */
#include "model/arch.h"

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    cfg_moe(k, c);
    c->qk_norm = true;
    c->moe.renormalise = cfg_bool(k, "expert_weights_norm", "norm_topk_prob", k->gguf);
    c->qkv_bias = c->o_bias = cfg_bias(k, "attention_bias", "blk.0.attn_q.bias");
    if (cfg_bool(k, NULL, "use_sliding_window", false)) /* all layers alike, whatever max_window_layers says */
        c->window = (uint32_t)cfg_int(k, NULL, "sliding_window", 0, 1 << 30, 4096);
    cfg_moe_layers(k, c);
    cfg_only_bool(k, "use_qk_norm", true); /* these three: the 480B Coder's */
    cfg_only_bool(k, "qkv_bias", false);
    cfg_only(k, "expert_shared_feed_forward_length", "shared_expert_intermediate_size", 0);
    for (uint32_t i = 0; i < c->n_layer; i++)
        c->layer[i].window = c->window;
}

static const char *const harmless[] = {"sliding_window", "max_window_layers", "layer_types", "output_router_logits",
                                       "router_aux_loss_coef", "qwen3moe.rope.scaling.finetuned", NULL};

const arch_def arch_qwen3moe = {
    .title = "Qwen 3 MoE",
    .names = {"qwen3moe", "Qwen3MoeForCausalLM"},
    .harmless = harmless,
    .config = config,
};

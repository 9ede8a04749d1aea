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
    if (cfg_bool(k, NULL, "attention_bias", false) || cfg_bool(k, NULL, "use_sliding_window", false))
        cfg_fail(k, "keys attention_bias, use_sliding_window: only false is supported");
    if (cfg_int(k, NULL, "decoder_sparse_step", 1, 1 << 20, 1) != 1)
        cfg_fail(k, "key decoder_sparse_step: only 1 is supported");
    const meta_value *dense = cfg_value(k, NULL, "mlp_only_layers");
    if (dense && (dense->type != META_ARRAY || dense->arr.n))
        cfg_fail(k, "key mlp_only_layers: only an empty list is supported");
    for (uint32_t i = 0; i < c->n_layer; i++)
        c->layer[i].ffn = FFN_MOE;
}

static const char *const harmless[] = {"sliding_window", "max_window_layers", "layer_types", "output_router_logits", "router_aux_loss_coef",
                                       "qwen3moe.rope.scaling.finetuned", NULL};

const arch_def arch_qwen3moe = {
    .title = "Qwen 3 MoE",
    .names = {"qwen3moe", "Qwen3MoeForCausalLM"},
    .harmless = harmless,
    .config = config,
};

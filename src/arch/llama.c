/* Llama 2 and 3.x, Mistral (with window), Mixtral, SmolLM, R1 distills of Llama: pre-norm, GQA, SwiGLU, no biases by
 * default. */
#include "model/arch.h"

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    cfg_only_bool(k, "rope_interleaved", false); /* SmolLM 2 */
    c->rope[0].interleaved = k->gguf; /* the converter permutes q and k rows; Hugging Face's weights are not */
    c->qkv_bias = c->o_bias = cfg_bias(k, "attention_bias", "blk.0.attn_q.bias");
    c->mlp_bias = cfg_bias(k, "mlp_bias", "blk.0.ffn_gate.bias");
    c->window = (uint32_t)cfg_int(k, "attention.sliding_window", "sliding_window", 0, 1 << 30, 0);
    cfg_moe(k, c); /* Mixtral is a Llama with experts, and in GGUF it has no other name */
    c->moe.n_ff = c->n_ff;
    c->moe.renormalise = true;
    for (uint32_t i = 0; i < c->n_layer; i++) {
        c->layer[i].window = c->window;
        if (c->moe.n_expert)
            c->layer[i].ffn = FFN_MOE;
    }
}

static const tensor_name names[] = {
    {"ffn_router", "blk.%d.ffn_gate_inp.weight", "model.layers.%d.block_sparse_moe.gate.weight"},
    {"ffn_gate_exps", "blk.%d.ffn_gate_exps.weight", "model.layers.%d.block_sparse_moe.experts.%d.w1.weight"},
    {"ffn_up_exps", "blk.%d.ffn_up_exps.weight", "model.layers.%d.block_sparse_moe.experts.%d.w3.weight"},
    {"ffn_down_exps", "blk.%d.ffn_down_exps.weight", "model.layers.%d.block_sparse_moe.experts.%d.w2.weight"},
    {NULL, NULL, NULL},
};

static const char *const harmless[] = {"llama.attention.layer_norm_epsilon", "llama.rope.scaling.finetuned",
                                       "output_router_logits", "router_aux_loss_coef", "router_jitter_noise",
                                       "is_llama_config", "max_sequence_length", "llama.tensor_data_layout", NULL};

const arch_def arch_llama = {
    .title = "Llama, Mistral, Mixtral",
    .names = {"llama", "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"},
    .tensor = names,
    .harmless = harmless,
    .config = config,
};

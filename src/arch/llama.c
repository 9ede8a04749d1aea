/* Llama 2 and 3.x, Mistral (with window), SmolLM, R1 distills of Llama: pre-norm, GQA, SwiGLU, no biases by default. */
#include "model/arch.h"

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    c->rope[0].interleaved = k->gguf; /* the converter permutes q and k rows; Hugging Face's weights are not */
    c->qkv_bias = cfg_bool(k, NULL, "attention_bias", false);
    c->o_bias = c->qkv_bias;
    c->mlp_bias = cfg_bool(k, NULL, "mlp_bias", false);
    c->window = (uint32_t)cfg_int(k, "attention.sliding_window", "sliding_window", 0, 1 << 30, 0);
    for (uint32_t i = 0; i < c->n_layer; i++)
        c->layer[i].window = c->window;
}

static const char *const harmless[] = {"llama.attention.layer_norm_epsilon", "llama.rope.scaling.finetuned", NULL};

const arch_def arch_llama = {
    .title = "Llama, Mistral",
    .names = {"llama", "LlamaForCausalLM", "MistralForCausalLM"},
    .harmless = harmless,
    .config = config,
};

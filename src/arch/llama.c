/* Llama 2 and 3.x, Mistral (with window), SmolLM, R1 distills of Llama: pre-norm, GQA, SwiGLU, no biases by default. */
#include "model/arch.h"

/* GGUF has no key for it: the tensors themselves tell. */
static bool has_bias(cfg *k, const char *hf, const char *tensor)
{
    return k->gguf ? mf_tensor_find(k->mf, tensor) != NULL : cfg_bool(k, NULL, hf, false);
}

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    c->rope[0].interleaved = k->gguf; /* the converter permutes q and k rows; Hugging Face's weights are not */
    c->qkv_bias = c->o_bias = has_bias(k, "attention_bias", "blk.0.attn_q.bias");
    c->mlp_bias = has_bias(k, "mlp_bias", "blk.0.ffn_gate.bias");
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

/* Qwen 3 (dense): RMS norm on each q and k head before the rotation, no biases, explicit head width. */
#include "model/arch.h"

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    c->qk_norm = true;
    c->qkv_bias = c->o_bias = cfg_bias(k, "attention_bias", "blk.0.attn_q.bias");
    cfg_window_from(k, c);
}

static const char *const harmless[] = {"qwen3.rope.scaling.finetuned", NULL};

const arch_def arch_qwen3 = {
    .title = "Qwen 3",
    .names = {"qwen3", "Qwen3ForCausalLM"},
    .harmless = harmless,
    .config = config,
};

/* Qwen 3 (dense): RMS norm on each q and k head before the rotation, no biases, explicit head width. */
#include "model/arch.h"

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    c->qk_norm = true;
    if (cfg_bool(k, NULL, "attention_bias", false))
        cfg_fail(k, "key attention_bias: only false is supported");
    if (cfg_bool(k, NULL, "use_sliding_window", false))
        cfg_fail(k, "key use_sliding_window: only false is supported");
}

static const char *const harmless[] = {"sliding_window", "max_window_layers", "layer_types", "qwen3.rope.scaling.finetuned", NULL};

const arch_def arch_qwen3 = {
    .title = "Qwen 3",
    .names = {"qwen3", "Qwen3ForCausalLM"},
    .harmless = harmless,
    .config = config,
};

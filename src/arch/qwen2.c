/* Qwen 2 and 2.5, R1 distills of Qwen: Llama's layer with biases on q, k and v only. */
#include "model/arch.h"

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    c->qkv_bias = true;
    cfg_window_from(k, c);
    if (cfg_bool(k, NULL, "use_mrope", false)) /* published files say false */
        cfg_fail(k, "key use_mrope: only false is supported");
}

/* The 1M models: how a server may attend in chunks beyond what the model was trained on; transformers attends to all,
 * as imp does. */
static const char *const harmless[] = {"qwen2.rope.scaling.finetuned", "dual_chunk_attention_config.*", NULL};

const arch_def arch_qwen2 = {
    .title = "Qwen 2",
    .names = {"qwen2", "Qwen2ForCausalLM"},
    .harmless = harmless,
    .config = config,
};

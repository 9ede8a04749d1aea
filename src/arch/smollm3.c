/* SmolLM3: Llama's layer; every fourth does without rotation. */
#include "model/arch.h"

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    c->rope[0].interleaved = k->gguf; /* the converter permutes q and k as for Llama */
    const meta_value *rotates = cfg_value(k, NULL, "no_rope_layers"); /* despite its name: 1 = rotates */
    int64_t every = cfg_int(k, NULL, "no_rope_layer_interval", 1, 1 << 20, 4), on;
    if (cfg_bool(k, NULL, "use_sliding_window", false))
        cfg_fail(k, "key use_sliding_window: only false is supported");
    for (uint32_t i = 0; i < c->n_layer; i++) {
        if (!rotates || !mf_array_int(rotates, i, &on))
            on = (i + 1) % every != 0;
        c->layer[i].rope = on ? 0 : -1;
    }
}

static const char *const harmless[] = {"sliding_window", "layer_types", "max_window_layers", "smollm3.rope.scaling.finetuned", NULL};

const arch_def arch_smollm3 = {
    .title = "SmolLM3",
    .names = {"smollm3", "SmolLM3ForCausalLM"},
    .harmless = harmless,
    .config = config,
};

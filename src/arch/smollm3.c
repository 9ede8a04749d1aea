/* SmolLM3: Llama's layer; every fourth does without rotation. */
#include "model/arch.h"

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    c->tied = cfg_tied(k, true);
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    c->rope[0].interleaved = k->gguf; /* the converter permutes q and k as for Llama */
    const meta_value *rotates = cfg_value(k, NULL, "no_rope_layers"); /* despite its name: 1 = rotates */
    int64_t every = cfg_int(k, NULL, "no_rope_layer_interval", 1, 1 << 20, 4), on;
    bool windows = cfg_bool(k, NULL, "use_sliding_window", false);
    c->window = (uint32_t)cfg_int(k, NULL, "sliding_window", 0, 1 << 30, 0);
    c->qkv_bias = c->o_bias = cfg_bias(k, "attention_bias", "blk.0.attn_q.bias");
    c->mlp_bias = cfg_bias(k, "mlp_bias", "blk.0.ffn_gate.bias");
    for (uint32_t i = 0; i < c->n_layer; i++) {
        if (!rotates || !mf_array_int(rotates, i, &on))
            on = (i + 1) % every != 0;
        c->layer[i].rope = on ? 0 : -1;
        c->layer[i].window = cfg_layer_is(k, i, "sliding_attention", !on) && windows ? c->window : 0;
    }
}

static const char *const harmless[] = {"max_window_layers", "smollm3.rope.scaling.finetuned", NULL};

const arch_def arch_smollm3 = {
    .title = "SmolLM3",
    .names = {"smollm3", "SmolLM3ForCausalLM"},
    .harmless = harmless,
    .config = config,
};

/* Phi-3, 3.5 and 4-mini: Llama's layer with fused QKV and gate_up, LongRoPE, partial rotation and, in some, a
 * window. */
#include "model/arch.h"

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    c->window = (uint32_t)cfg_int(k, "attention.sliding_window", "sliding_window", 0, 1 << 30, 0);
    for (uint32_t i = 0; i < c->n_layer; i++)
        c->layer[i].window = c->window < c->n_ctx_train ? c->window : 0; /* as wide as the context is no window */
}

static const char *const harmless[] = {"phi3.rope.scaling.finetuned", "embd_pdrop", "resid_pdrop", "full_attn_mod",
                                       "interpolate_factor", "lm_head_bias", "mlp_bias",
                                       "original_max_position_embeddings", NULL};

const arch_def arch_phi3 = {
    .title = "Phi-3, Phi-4",
    .names = {"phi3", "Phi3ForCausalLM"},
    .harmless = harmless,
    .config = config,
};

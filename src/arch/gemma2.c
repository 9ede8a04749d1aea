/* Gemma 2: scaled embedding, four norms a layer, GeGLU, soft caps on scores and logits, every other layer windowed. */
#include <math.h>

#include "model/arch.h"

static const tensor_name names[] = {
    {"ffn_norm", "blk.%d.ffn_norm.weight", "model.layers.%d.pre_feedforward_layernorm.weight"},
    {NULL, NULL, NULL},
};

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    cfg_act(k, c, ACT_GELU_TANH);
    c->tied = cfg_tied(k, true);
    c->post_norm = true;
    c->norm_plus_one = !k->gguf; /* the converter folds the one in */
    c->embed_scale = sqrtf((float)c->n_hidden);
    double q = cfg_float(k, NULL, "query_pre_attn_scalar", 0);
    /* GGUF does not store it: 27B (46 layers) takes hidden/heads, the others the head's width */
    if (q <= 0)
        q = c->n_layer == 46 ? (double)c->n_hidden / c->n_head : c->d_head;
    c->attn_scale = (float)(1 / sqrt(q));
    c->attn_softcap = (float)cfg_float_or_none(k, "attn_logit_softcapping", "attn_logit_softcapping", 50);
    c->final_softcap = (float)cfg_float_or_none(k, "final_logit_softcapping", "final_logit_softcapping", 30);
    c->window = (uint32_t)cfg_int(k, "attention.sliding_window", "sliding_window", 0, 1 << 30, 4096);
    for (uint32_t i = 0; i < c->n_layer; i++)
        c->layer[i].window = cfg_layer_is(k, i, "sliding_attention", i % 2 == 0) ? c->window : 0;
}

static const char *const harmless[] = {"sliding_window_size", "cache_implementation", NULL};

const arch_def arch_gemma2 = {
    .title = "Gemma 2",
    .names = {"gemma2", "Gemma2ForCausalLM"},
    .tensor = names,
    .harmless = harmless,
    .config = config,
};

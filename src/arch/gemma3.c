/* Gemma 3 (text): Gemma 2's layer with QK norms instead of soft caps; five windowed layers to one global, each kind
 * with a rotation of its own. */
#include <math.h>

#include "model/arch.h"

static const tensor_name names[] = {
    {"ffn_norm", "blk.%d.ffn_norm.weight", "model.layers.%d.pre_feedforward_layernorm.weight"},
    {NULL, NULL, NULL},
};

/* Published text_configs of the 4B, 12B and 27B leave out what equals their class. */
static const cfg_default absent[] = {
    {"vocab_size", 262208}, {"num_attention_heads", 8}, {"num_key_value_heads", 4}, {"head_dim", 256},
    {"max_position_embeddings", 131072}, {NULL, 0},
};

static void config(cfg *k, model_config *c)
{
    k->absent = k->nest[0] ? absent : NULL;
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_act(k, c, ACT_GELU_TANH);
    cfg_rope_kind(k, c, c->d_head, "full_attention", &c->rope[0]); /* global layers */
    if (!cfg_has(k, "rope.freq_base", "rope_theta") && !cfg_has(k, NULL, "rope_parameters.full_attention.rope_theta"))
        c->rope[0].theta = 1e6;
    double theta = cfg_float(k, "rope.freq_base_swa", "rope_local_base_freq", 10000);
    c->rope[1] = (rope_config){.kind = ROPE_PLAIN, .factor = 1, .partial = 1, .rot = c->rope[0].rot,
                               .theta = cfg_float(k, "rope.freq_base_swa",
                                                  "rope_parameters.sliding_attention.rope_theta", theta)};
    meta_str local = cfg_str(k, NULL, "rope_parameters.sliding_attention.rope_type", "default");
    if (!cfg_str_is(local, "default"))
        cfg_fail(k, "key rope_parameters.sliding_attention.rope_type: only default is supported");
    c->tied = cfg_tied(k, true);
    c->qk_norm = true;
    c->post_norm = true;
    c->norm_plus_one = !k->gguf;
    c->embed_scale = sqrtf((float)c->n_hidden);
    double q = cfg_float(k, NULL, "query_pre_attn_scalar", 0);
    if (q <= 0) /* not in GGUF: 27B (62 layers) takes hidden/heads */
        q = c->n_layer == 62 ? (double)c->n_hidden / c->n_head : c->d_head;
    c->attn_scale = (float)(1 / sqrt(q));
    c->attn_softcap = (float)cfg_float(k, "attn_logit_softcapping", "attn_logit_softcapping", 0);
    c->final_softcap = (float)cfg_float(k, "final_logit_softcapping", "final_logit_softcapping", 0);
    c->window = (uint32_t)cfg_int(k, "attention.sliding_window", "sliding_window", 0, 1 << 30, 1024);
    int64_t newer = cfg_int(k, NULL, "_sliding_window_pattern", 1, 1024, 6);
    uint32_t pattern =
        (uint32_t)cfg_int(k, "attention.sliding_window_pattern", "sliding_window_pattern", 1, 1024, newer);
    if (cfg_bool(k, NULL, "use_bidirectional_attention", false))
        cfg_fail(k, "key use_bidirectional_attention: only false is supported");
    for (uint32_t i = 0; i < c->n_layer; i++) {
        bool global = cfg_layer_is(k, i, "full_attention", (i + 1) % pattern == 0);
        c->layer[i].window = global ? 0 : c->window;
        c->layer[i].rope = global ? 0 : 1;
    }
}

static const char *const harmless[] = {"cache_implementation", "gemma3.mm.tokens_per_image", "mm_tokens_per_image",
                                       "boi_token_index", "eoi_token_index", "image_token_index",
                                       "vision_config*", NULL};
static const char *const ignored[] = {"vision_tower.*", "multi_modal_projector.*", "model.vision_tower.*",
                                      "model.multi_modal_projector.*", NULL};

const arch_def arch_gemma3 = {
    .title = "Gemma 3",
    .names = {"gemma3", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"},
    .tensor = names,
    .harmless = harmless,
    .ignored_tensor = ignored,
    .config = config,
};

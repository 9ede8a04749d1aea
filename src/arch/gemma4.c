/* Gemma 4: windowed layers and global ones of other head widths, value norms, keys that serve as values (26B-A4B), a
 * mixture beside the dense branch, a scalar a layer; in the E models inputs of their own for each layer and K and V
 * shared by the last layers. */
#include <math.h>
#include <stdio.h>

#include "model/arch.h"

#define HF "model.layers.%d."
static const tensor_name names[] = {
    {"ffn_norm", "blk.%d.ffn_norm.weight", HF "pre_feedforward_layernorm.weight"},
    {"ffn_post_norm_1", "blk.%d.post_ffw_norm_1.weight", HF "post_feedforward_layernorm_1.weight"},
    {"ffn_post_norm_2", "blk.%d.post_ffw_norm_2.weight", HF "post_feedforward_layernorm_2.weight"},
    {"ffn_pre_norm_2", "blk.%d.pre_ffw_norm_2.weight", HF "pre_feedforward_layernorm_2.weight"},
    {"layer_scalar", "blk.%d.layer_output_scale.weight", HF "layer_scalar"},
    {"ffn_router", "blk.%d.ffn_gate_inp.weight", HF "router.proj.weight"},
    {"ffn_router_scale", "blk.%d.ffn_gate_inp.scale", HF "router.scale"},
    {"ffn_expert_scale", "blk.%d.ffn_down_exps.scale", HF "router.per_expert_scale"},
    {"ffn_gate_up_fused", "blk.%d.ffn_gate_up_exps.weight", HF "experts.gate_up_proj"},
    {"ffn_down_fused", "blk.%d.ffn_down_exps.weight", HF "experts.down_proj"},
    {"ffn_gate_exps", "blk.%d.ffn_gate_exps.weight", HF "experts.%d.gate_proj.weight"},
    {"ffn_up_exps", "blk.%d.ffn_up_exps.weight", HF "experts.%d.up_proj.weight"},
    {"ffn_down_exps", "blk.%d.ffn_down_exps.weight", HF "experts.%d.down_proj.weight"},
    {"ple_embd", "per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight"},
    {"ple_proj", "per_layer_model_proj.weight", "model.per_layer_model_projection.weight"},
    {"ple_proj_norm", "per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight"},
    {"ple_gate", "blk.%d.inp_gate.weight", HF "per_layer_input_gate.weight"},
    {"ple_out", "blk.%d.proj.weight", HF "per_layer_projection.weight"},
    {"ple_norm", "blk.%d.post_norm.weight", HF "post_per_layer_input_norm.weight"},
    {NULL, NULL, NULL},
};

static bool is_global(cfg *k, uint32_t i)
{
    const meta_value *types = cfg_value(k, NULL, "layer_types");
    const meta_value *slides = cfg_value(k, "attention.sliding_window_pattern", NULL);
    meta_str s;
    int64_t v;
    if (types && mf_array_str(types, i, &s))
        return cfg_str_is(s, "full_attention");
    if (slides && slides->type == META_ARRAY && mf_array_int(slides, i, &v))
        return v == 0;
    return (i + 1) % 6 == 0;
}

static void ropes(cfg *k, model_config *c, uint32_t d_global, uint32_t d_local)
{
    rope_config *g = &c->rope[0], *l = &c->rope[1];
    if (k->gguf) {
        cfg_rope(k, c, d_global, g); /* rope_freqs switches the pairs off that do not rotate */
    } else {
        *g = (rope_config){.kind = ROPE_PROPORTIONAL, .factor = 1, .rot = d_global};
        g->theta = cfg_float(k, NULL, "rope_parameters.full_attention.rope_theta", 1e6);
        g->partial = cfg_float(k, NULL, "rope_parameters.full_attention.partial_rotary_factor", 1);
        meta_str t = cfg_str(k, NULL, "rope_parameters.full_attention.rope_type", "proportional");
        meta_str u = cfg_str(k, NULL, "rope_parameters.sliding_attention.rope_type", "default");
        if (!cfg_str_is(t, "proportional") || !cfg_str_is(u, "default"))
            cfg_fail(k, "key rope_parameters: wanted proportional for full and default for sliding attention");
    }
    *l = (rope_config){.kind = ROPE_PLAIN, .factor = 1, .rot = d_local};
    l->rot = (uint32_t)cfg_int(k, "rope.dimension_count_swa", NULL, 2, 4096, d_local);
    l->theta = cfg_float(k, "rope.freq_base_swa", "rope_parameters.sliding_attention.rope_theta", 10000);
}

/* The last layers read K and V of the last own layer of their kind. */
static void share_kv(cfg *k, model_config *c)
{
    uint32_t n = (uint32_t)cfg_int(k, "attention.shared_kv_layers", "num_kv_shared_layers", 0, c->n_layer - 1, 0);
    uint32_t own = c->n_layer - n;
    bool wide = cfg_bool(k, NULL, "use_double_wide_mlp", false);
    for (uint32_t i = own; i < c->n_layer; i++) {
        for (uint32_t j = 0; j < own; j++)
            if ((c->layer[j].window == 0) == (c->layer[i].window == 0))
                c->layer[i].kv_from = (int32_t)j;
        if (c->layer[i].kv_from < 0)
            cfg_fail(k, "key num_kv_shared_layers: layer %u has no earlier layer of its kind", i);
        if (wide)
            c->layer[i].n_ff *= 2;
    }
}

/* What transformers 5 writes where layer i differs from the rest; it pads layer numbers with zeros to the widest of
 * them. */
static int64_t own_int(cfg *k, uint32_t i, const char *name, int64_t max, int64_t dflt)
{
    char key[64];
    for (int width = 1; width <= 4; width++) {
        snprintf(key, sizeof key, "per_layer_config.%0*u.%s", width, i, name);
        if (cfg_has(k, NULL, key))
            return cfg_int(k, NULL, key, 1, max, dflt);
    }
    return dflt;
}

/* Head width and key heads of global layers that say nothing of their own: where any layer does, they are as the
 * others. */
static void global_shape(cfg *k, const model_config *c, bool k_eq_v, uint32_t *width, uint32_t *n_kv)
{
    bool by_layer = false;
    for (uint32_t i = 0; i < c->n_layer && !by_layer; i++)
        by_layer = own_int(k, i, "head_dim", 4096, 0) || own_int(k, i, "num_key_value_heads", 65536, 0);
    *width = by_layer ? c->d_head : (uint32_t)cfg_int(k, NULL, "global_head_dim", 1, 4096, 512);
    *n_kv = by_layer || !k_eq_v ? 0 : (uint32_t)cfg_int(k, NULL, "num_global_key_value_heads", 1, 65536, 0);
}

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_act(k, c, ACT_GELU_TANH);
    bool k_eq_v = cfg_bool(k, NULL, "attention_k_eq_v", false);
    uint32_t d_local = (uint32_t)cfg_int(k, "attention.key_length_swa", "head_dim", 1, 4096, c->d_head);
    uint32_t d_global = c->d_head, kv_global = 0, widest;
    if (!k->gguf)
        global_shape(k, c, k_eq_v, &d_global, &kv_global);
    widest = d_global; /* of the global layers, which share one rotation */
    for (uint32_t i = 0; i < c->n_layer && !k->gguf; i++)
        if (is_global(k, i)) {
            widest = (uint32_t)own_int(k, i, "head_dim", 4096, d_global);
            break;
        }
    cfg_int(k, "attention.value_length_swa", NULL, 1, 4096, d_local);
    ropes(k, c, widest, d_local);
    c->tied = cfg_tied(k, true);
    c->embed_scale = sqrtf((float)c->n_hidden);
    c->final_softcap = (float)cfg_float(k, "final_logit_softcapping", "final_logit_softcapping", 0);
    c->window = (uint32_t)cfg_int(k, "attention.sliding_window", "sliding_window", 1, 1 << 30, 512);
    cfg_moe(k, c);
    c->moe.renormalise = true;
    if (!k->gguf && !cfg_bool(k, NULL, "enable_moe_block", false))
        c->moe.n_expert = 0;
    c->ple.width =
        (uint32_t)cfg_int(k, "embedding_length_per_layer_input", "hidden_size_per_layer_input", 0, 1 << 16, 0);
    for (uint32_t i = 0; i < c->n_layer && k->status == IMP_OK; i++) {
        layer_config *l = &c->layer[i];
        bool global = is_global(k, i);
        char v[64];
        snprintf(v, sizeof v, "blk.%u.attn_v.weight", i);
        l->window = global ? 0 : c->window;
        l->rope = global ? 0 : 1;
        l->d_k = l->d_v = (uint32_t)own_int(k, i, "head_dim", 4096, global ? d_global : d_local);
        if (global && c->rope[0].rot > l->d_k)
            cfg_fail(k, "rotation: wanted at most %u columns, got %u", l->d_k, c->rope[0].rot);
        if (!k->gguf)
            l->n_kv_head = (uint32_t)own_int(k, i, "num_key_value_heads", 65536,
                                             global && kv_global ? kv_global : l->n_kv_head);
        l->v_is_k = global && (k->gguf ? !mf_tensor_find(k->mf, v) : k_eq_v);
        if (l->n_kv_head == 0 || l->n_head % l->n_kv_head)
            cfg_fail(k, "key num_key_value_heads: layer %u: wanted a divisor of %u, got %u", i, l->n_head,
                     l->n_kv_head);
    }
    share_kv(k, c);
}

static plan_reg attention(build *b, int32_t i, plan_reg x)
{
    const model_config *c = b->c;
    const layer_config *l = &c->layer[i];
    uint64_t h = c->n_hidden, nq = (uint64_t)l->n_head * l->d_k, nk = (uint64_t)l->n_kv_head * l->d_k;
    plan_reg q = op_linear(b, i, "attn_q", x, bind_weight(b, i, "attn_q", nq, h, 0), REG_ACT);
    plan_reg k = PLAN_NONE, v = PLAN_NONE;
    q = op_norm(b, i, "attn_q_norm", q, l->d_k);
    q = op_rope(b, i, "rope_q", q, l->rope, l->n_head, l->d_k, 0);
    if (l->kv_from < 0) {
        plan_reg raw = op_linear(b, i, "attn_k", x, bind_weight(b, i, "attn_k", nk, h, 0), REG_ACT);
        v = l->v_is_k ? raw : op_linear(b, i, "attn_v", x, bind_weight(b, i, "attn_v", nk, h, 0), REG_ACT);
        v = op_norm_plain(b, i, "attn_v_norm", v, l->d_v);
        k = op_norm(b, i, "attn_k_norm", raw, l->d_k);
        k = op_rope(b, i, "rope_k", k, l->rope, l->n_kv_head, l->d_k, 0);
    }
    plan_reg o = op_attend(b, i, q, k, v, 1.0f, NULL);
    return op_linear(b, i, "attn_output", o, bind_weight(b, i, "attn_output", h, nq, 0), REG_ACT);
}

/* The mixture reads the residual stream itself: the router through a plain norm, the experts through a norm of
 * theirs. */
static plan_reg mixture(build *b, int32_t i, plan_reg residual)
{
    const model_config *c = b->c;
    plan_reg r = op_norm_plain(b, i, "ffn_router_norm", residual, 0);
    r = op_mul(b, i, "ffn_router_scaled", r, bind_vector(b, i, "ffn_router_scale", c->n_hidden, 0));
    r = op_scale(b, i, "ffn_router_in", r, 1 / sqrtf((float)c->n_hidden));
    plan_reg ids = PLAN_NONE, w = PLAN_NONE;
    piece_route(b, i, r, 0, &ids, &w);
    const weight *scale = bind_vector(b, i, "ffn_expert_scale", c->moe.n_expert, 0);
    if (b->status == IMP_OK)
        b->p->op[b->p->n_op - 1].weight[1] = plan_add_weight(b->p, scale);
    plan_reg y = piece_experts(b, i, op_norm(b, i, "ffn_pre_norm_2", residual, 0), ids, w);
    return op_norm(b, i, "ffn_post_norm_2", y, 0);
}

/* x += norm(out(gelu(gate x) * this layer's input)). The inputs of all layers are one register, made after the
 * embedding. */
static plan_reg layer_input(build *b, int32_t i, plan_reg x)
{
    uint32_t d = b->c->ple.width;
    plan_reg ple = op_slice(b, i, "ple_slice", b->ple, (uint32_t)i * d, d, 1, d);
    plan_reg g = op_linear(b, i, "ple_gate", x, bind_weight(b, i, "ple_gate", d, b->c->n_hidden, 0), REG_ACT);
    plan_reg y = op_glu(b, i, "ple_act", g, ple, b->c->act);
    y = op_linear(b, i, "ple_out", y, bind_weight(b, i, "ple_out", b->c->n_hidden, d, 0), REG_ACT);
    return op_add(b, i, "ple_residual", x, op_norm(b, i, "ple_norm", y, 0));
}

static void layer(build *b, int32_t i, plan_reg *x)
{
    plan_reg y = attention(b, i, op_norm(b, i, "attn_norm", *x, 0));
    *x = op_add(b, i, "attn_residual", *x, op_norm(b, i, "attn_post_norm", y, 0));
    y = piece_glu(b, i, op_norm(b, i, "ffn_norm", *x, 0), "ffn", b->c->layer[i].n_ff);
    if (b->c->moe.n_expert)
        y = op_add(b, i, "ffn_sum", op_norm(b, i, "ffn_post_norm_1", y, 0), mixture(b, i, *x));
    *x = op_add(b, i, "ffn_residual", *x, op_norm(b, i, "ffn_post_norm", y, 0));
    if (b->c->ple.width)
        *x = layer_input(b, i, *x);
    if (bind_has(b, i, "layer_scalar"))
        *x = op_mul(b, i, "layer_scalar", *x, bind_vector(b, i, "layer_scalar", 1, 0));
}

/* Per-layer inputs: (table[id] * sqrt(d) + rms(proj(x) / sqrt(H))) / sqrt(2), x being the scaled embedding. */
static void embed(build *b, plan_reg *x)
{
    embed_std(b, x);
    const model_config *c = b->c;
    uint32_t d = c->ple.width, all = d * c->n_layer;
    if (!d || b->status != IMP_OK)
        return;
    plan_op op = plan_op_init(OP_EMBED, -1, "ple_embd");
    op.weight[0] = plan_add_weight(b->p, bind_weight(b, -1, "ple_embd", c->n_vocab, all, 0));
    op.attr.scale = sqrtf((float)d);
    op.out[0] = plan_add_reg(b->p, REG_WIDE, DIM_T, all);
    plan_add_op(b->p, &op);
    plan_reg p = op_linear(b, -1, "ple_proj", *x, bind_weight(b, -1, "ple_proj", all, c->n_hidden, 0), REG_ACT);
    p = op_scale(b, -1, "ple_scaled", p, 1 / sqrtf((float)c->n_hidden));
    p = op_norm(b, -1, "ple_proj_norm", p, d);
    b->ple = op_scale(b, -1, "ple", op_add(b, -1, "ple_sum", op.out[0], p), 0.707106781f);
}

static const char *const harmless[] = {
    "audio_config*", "audio_token_id", "boa_token_id", "boi_token_id", "eoa_token_index", "eoa_token_id",
    "eoi_token_id", "image_token_id", "video_token_id", "vision_config*", "vision_soft_tokens_per_image",
    "use_bidirectional_attention", "vocab_size_per_layer_input", "num_global_key_value_heads", "attention_k_eq_v",
    NULL};
static const char *const ignored[] = {"model.embed_vision.*", "model.vision_embedder.*", "model.vision_tower.*",
                                      "model.audio_tower.*", "model.embed_audio.*", NULL};

const arch_def arch_gemma4 = {
    .title = "Gemma 4",
    .names = {"gemma4", "Gemma4ForConditionalGeneration", "Gemma4ForCausalLM", "Gemma4UnifiedForConditionalGeneration"},
    .tensor = names,
    .harmless = harmless,
    .ignored_tensor = ignored,
    .config = config,
    .layer = layer,
    .embed = embed,
};

/* Nemotron-H and Nemotron-3: one norm and one mixer a layer, by a pattern of Mamba-2 (M), attention without rotation
 * (*), squared-ReLU MLP (-) and mixture (E) with DeepSeek V3's routing. */
#include <stdio.h>

#include "model/arch.h"

#define HF "backbone.layers.%d."
static const tensor_name names[] = {
    {"token_embd", "token_embd.weight", "backbone.embeddings.weight"},
    {"output_norm", "output_norm.weight", "backbone.norm_f.weight"},
    {"attn_norm", "blk.%d.attn_norm.weight", HF "norm.weight"},
    {"attn_q", "blk.%d.attn_q.weight", HF "mixer.q_proj.weight"},
    {"attn_k", "blk.%d.attn_k.weight", HF "mixer.k_proj.weight"},
    {"attn_v", "blk.%d.attn_v.weight", HF "mixer.v_proj.weight"},
    {"attn_output", "blk.%d.attn_output.weight", HF "mixer.o_proj.weight"},
    {"ssm_in", "blk.%d.ssm_in.weight", HF "mixer.in_proj.weight"},
    {"ssm_conv", "blk.%d.ssm_conv1d.weight", HF "mixer.conv1d.weight"},
    {"ssm_conv_bias", "blk.%d.ssm_conv1d.bias", HF "mixer.conv1d.bias"},
    {"ssm_a", "blk.%d.ssm_a", HF "mixer.A_log"},
    {"ssm_d", "blk.%d.ssm_d", HF "mixer.D"},
    {"ssm_dt", "blk.%d.ssm_dt.bias", HF "mixer.dt_bias"},
    {"ssm_norm", "blk.%d.ssm_norm.weight", HF "mixer.norm.weight"},
    {"ssm_out", "blk.%d.ssm_out.weight", HF "mixer.out_proj.weight"},
    {"ffn_up", "blk.%d.ffn_up.weight", HF "mixer.up_proj.weight"},
    {"ffn_down", "blk.%d.ffn_down.weight", HF "mixer.down_proj.weight"},
    {"ffn_router", "blk.%d.ffn_gate_inp.weight", HF "mixer.gate.weight"},
    {"ffn_router_bias", "blk.%d.exp_probs_b.bias", HF "mixer.gate.e_score_correction_bias"},
    {"ffn_up_exps", "blk.%d.ffn_up_exps.weight", HF "mixer.experts.%d.up_proj.weight"},
    {"ffn_down_exps", "blk.%d.ffn_down_exps.weight", HF "mixer.experts.%d.down_proj.weight"},
    {"ffn_shexp_up", "blk.%d.ffn_up_shexp.weight", HF "mixer.shared_experts.up_proj.weight"},
    {"ffn_shexp_down", "blk.%d.ffn_down_shexp.weight", HF "mixer.shared_experts.down_proj.weight"},
    {"ffn_latent_in", "blk.%d.ffn_latent_down.weight", HF "mixer.fc1_latent_proj.weight"},
    {"ffn_latent_out", "blk.%d.ffn_latent_up.weight", HF "mixer.fc2_latent_proj.weight"},
    {"next_proj", NULL, NULL}, /* its module is not built: known and left out */
    {NULL, NULL, NULL},
};

/* What layer i of a GGUF file is, by the tensors that it has. */
static char kind_by_tensor(cfg *k, uint32_t i)
{
    static const struct { const char *name; char kind; } sign[] = {
        {"blk.%u.ssm_in.weight", 'M'}, {"blk.%u.attn_q.weight", '*'}, {"blk.%u.ffn_gate_inp.weight", 'E'},
        {"blk.%u.ffn_up.weight", '-'}};
    char name[64];
    for (size_t j = 0; j < sizeof sign / sizeof *sign; j++) {
        snprintf(name, sizeof name, sign[j].name, i);
        if (mf_tensor_find(k->mf, name))
            return sign[j].kind;
    }
    return 'M'; /* so that a missing tensor is said by name */
}

/* The same from a folder: a word a layer as transformers 5 writes them, or a letter a layer as NVIDIA does. */
static char kind_by_key(cfg *k, const model_config *c, uint32_t i)
{
    static const struct { const char *word; char kind; } known[] = {
        {"mamba", 'M'}, {"linear_attention", 'M'}, {"attention", '*'}, {"full_attention", '*'}, {"moe", 'E'},
        {"mlp", '-'}};
    const meta_value *words = cfg_value(k, NULL, "layers_block_type"), *types = cfg_value(k, NULL, "layer_types");
    meta_str letters = cfg_str(k, NULL, "hybrid_override_pattern", NULL), s;
    if (letters.s) {
        if (letters.n != c->n_layer)
            cfg_fail(k, "key hybrid_override_pattern: wanted %u letters, got %zu", c->n_layer, letters.n);
        return k->status == IMP_OK ? letters.s[i] : 'M';
    }
    if (!words)
        words = types;
    if (!words)
        cfg_fail(k, "key hybrid_override_pattern: missing");
    for (size_t j = 0; words && mf_array_str(words, i, &s) && j < sizeof known / sizeof *known; j++)
        if (cfg_str_is(s, known[j].word))
            return known[j].kind;
    cfg_fail(k, "key layers_block_type: wanted mamba, attention, moe or mlp for layer %u", i);
    return 'M';
}

static void pattern(cfg *k, model_config *c)
{
    for (uint32_t i = 0; i < c->n_layer && k->status == IMP_OK; i++) {
        layer_config *l = &c->layer[i];
        char kind = k->gguf ? kind_by_tensor(k, i) : kind_by_key(k, c, i);
        l->mixer = kind == 'M' ? MIX_MAMBA2 : kind == '*' ? MIX_ATTENTION : MIX_NONE;
        l->ffn = kind == 'E' ? FFN_MOE : kind == '-' ? FFN_MLP : FFN_NONE;
        l->rope = -1;
        if (l->mixer == MIX_NONE && l->ffn == FFN_NONE)
            cfg_fail(k, "key hybrid_override_pattern: wanted M, *, - or E, got '%c'", kind);
    }
}

/* Time steps are not clamped here: files say 0 to Infinity, 1e308, or (transformers 5) an object that spells
 * Infinity. */
static void no_limit(cfg *k)
{
    const meta_value *v = cfg_value(k, NULL, "time_step_limit");
    double x;
    if (v && ((mf_array_float(v, 0, &x) && x > 0) || (mf_array_float(v, 1, &x) && x < 1e9)))
        cfg_fail(k, "key time_step_limit: only 0 to infinity is supported");
}

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    /* its norms are RMS whatever the key says */
    double eps = cfg_float(k, "attention.layer_norm_epsilon", "layer_norm_epsilon", 1e-5);
    c->norm_eps = (float)cfg_float(k, "attention.layer_norm_rms_epsilon", "norm_eps", eps);
    cfg_act(k, c, ACT_RELU2);
    cfg_next(k, c, "nextn_predict_layers", NULL);
    static const char *const silu[] = {"silu", "swish", NULL};
    cfg_only_str(k, "mamba_hidden_act", silu);
    if (!cfg_has(k, "attention.key_length", "head_dim")) /* the first ones' word for it */
        c->d_head = (uint32_t)cfg_int(k, NULL, "attention_head_dim", 1, 4096, c->d_head);
    for (uint32_t i = 0; i < c->n_layer; i++)
        c->layer[i].d_k = c->layer[i].d_v = c->d_head;
    c->mamba.n_head = (uint32_t)cfg_int(k, "ssm.time_step_rank", "mamba_num_heads", 1, 65536, CFG_REQUIRED);
    uint32_t inner = (uint32_t)cfg_int(k, "ssm.inner_size", NULL, 1, 1 << 20, c->mamba.n_head);
    c->mamba.head_dim = k->gguf ? inner / c->mamba.n_head
                                : (uint32_t)cfg_int(k, NULL, "mamba_head_dim", 1, 4096, CFG_REQUIRED);
    c->mamba.n_group = (uint32_t)cfg_int(k, "ssm.group_count", "n_groups", 1, 4096, 1);
    c->mamba.d_state = (uint32_t)cfg_int(k, "ssm.state_size", "ssm_state_size", 1, 4096, CFG_REQUIRED);
    c->mamba.taps = (uint32_t)cfg_int(k, "ssm.conv_kernel", "conv_kernel", 2, 64, 4);
    if (c->mamba.n_head % c->mamba.n_group || !c->mamba.head_dim)
        cfg_fail(k, "mamba: wanted heads to be a multiple of %u groups, got %u", c->mamba.n_group, c->mamba.n_head);
    if (cfg_bool(k, NULL, "use_bias", false) || cfg_bool(k, NULL, "mamba_proj_bias", false) ||
        cfg_bool(k, NULL, "attention_bias", false) || cfg_bool(k, NULL, "mlp_bias", false))
        cfg_fail(k, "keys use_bias, mamba_proj_bias, attention_bias, mlp_bias: only false is supported");
    if (!cfg_bool(k, NULL, "use_conv_bias", true))
        cfg_fail(k, "key use_conv_bias: only true is supported");
    no_limit(k);
    cfg_moe_deepseek(k, c);
    c->moe.gated = false;
    c->moe.n_latent = (uint32_t)cfg_int(k, "moe_latent_size", "moe_latent_size", 0, 1 << 20, 0);
    c->moe.score = ROUTE_SIGMOID;
    c->moe.choice_bias = true;
    c->moe.group_top = 2;
    pattern(k, c);
}

static void layer(build *b, int32_t i, plan_reg *x)
{
    const layer_config *l = &b->c->layer[i];
    plan_reg y = op_norm(b, i, "attn_norm", *x, 0);
    if (l->mixer == MIX_MAMBA2)
        y = piece_mamba2(b, i, y);
    else if (l->mixer == MIX_ATTENTION)
        y = piece_attention(b, i, y);
    else
        y = piece_ffn(b, i, y);
    *x = op_add(b, i, "residual", *x, y);
}

static const char *const harmless[] = {
    "chunk_size", "expand", "hidden_dropout", "num_hidden_layers", "layers_block_type", "layer_types",
    "attention_head_dim", "mamba_ssm_cache_dtype", "moe_shared_expert_overlap", "mtp_*", "num_logits_to_keep",
    "num_nextn_predict_layers", "rescale_prenorm_residual", "residual_in_fp32", "sliding_window", "time_step_*",
    "use_mamba_kernels", "output_router_logits", "norm_eps", "n_shared_experts", "rope_theta",
    "partial_rotary_factor", "intermediate_size", "max_position_embeddings", "nemotron_h_moe.rope.*",
    "nemotron_h.rope.*", "nemotron_h_moe.attention.layer_norm_epsilon", "nemotron_h.attention.layer_norm_epsilon",
    "mamba_dt_*", "expert_gating_func", NULL};
static const char *const ignored[] = {"mtp.*", NULL};

const arch_def arch_nemotron_h = {
    .title = "Nemotron-H",
    .names = {"nemotron_h", "nemotron_h_moe", "NemotronHForCausalLM"},
    .tensor = names,
    .harmless = harmless,
    .ignored_tensor = ignored,
    .config = config,
    .layer = layer,
};

/* DeepSeek V2, V3, R1: latent attention (MLA) in its absorbed form, so the cache holds the latent and the rotated key
 * alone; shared and routed experts, chosen within groups. */
#include <math.h>
#include <stdio.h>

#include "model/arch.h"

static const tensor_name names[] = {
    {"attn_q_a", "blk.%d.attn_q_a.weight", "model.layers.%d.self_attn.q_a_proj.weight"},
    {"attn_q_a_norm", "blk.%d.attn_q_a_norm.weight", "model.layers.%d.self_attn.q_a_layernorm.weight"},
    {"attn_q_b", "blk.%d.attn_q_b.weight", "model.layers.%d.self_attn.q_b_proj.weight"},
    {"attn_kv_a", "blk.%d.attn_kv_a_mqa.weight", "model.layers.%d.self_attn.kv_a_proj_with_mqa.weight"},
    {"attn_kv_a_norm", "blk.%d.attn_kv_a_norm.weight", "model.layers.%d.self_attn.kv_a_layernorm.weight"},
    {"attn_k_b", "blk.%d.attn_k_b.weight", NULL},
    {"attn_v_b", "blk.%d.attn_v_b.weight", NULL},
    {"attn_kv_b", "blk.%d.attn_kv_b.weight", "model.layers.%d.self_attn.kv_b_proj.weight"},
    {"ffn_shexp_gate", "blk.%d.ffn_gate_shexp.weight", "model.layers.%d.mlp.shared_experts.gate_proj.weight"},
    {"ffn_shexp_up", "blk.%d.ffn_up_shexp.weight", "model.layers.%d.mlp.shared_experts.up_proj.weight"},
    {"ffn_shexp_down", "blk.%d.ffn_down_shexp.weight", "model.layers.%d.mlp.shared_experts.down_proj.weight"},
    {NULL, NULL, NULL},
};

/* Does the file's first mixture bias its choice, as V3 does? */
static bool choice_bias(cfg *k, const model_config *c)
{
    char name[96];
    uint32_t i = 0;
    while (i + 1 < c->n_layer && c->layer[i].ffn != FFN_MOE)
        i++;
    snprintf(name, sizeof name,
             k->gguf ? "blk.%u.exp_probs_b.bias" : "model.layers.%u.mlp.gate.e_score_correction_bias", i);
    return mf_tensor_find(k->mf, name) != NULL;
}

static void routing(cfg *k, model_config *c)
{
    moe_config *m = &c->moe;
    meta_str score = cfg_str(k, NULL, "scoring_func", NULL), method = cfg_str(k, NULL, "topk_method", NULL);
    int64_t gating = cfg_int(k, "expert_gating_func", NULL, 0, 2, 0);
    bool sigmoid = k->gguf ? gating == 2 : cfg_str_is(score, "sigmoid");
    if (k->gguf ? gating == 0 : !score.s) /* V3's class has no other way, and newer files do not say it */
        sigmoid = cfg_str_is(method, "noaux_tc") || choice_bias(k, c);
    m->score = sigmoid ? ROUTE_SIGMOID : ROUTE_SOFTMAX;
    m->choice_bias = sigmoid;
    m->group_top = sigmoid ? 2 : 1;
    if (!sigmoid && !k->gguf && cfg_str_is(method, "greedy"))
        m->n_group = m->topk_group = 1;
    if (!sigmoid)
        m->renormalise = false; /* V2 never does, whatever its file says */
    if (cfg_int(k, NULL, "moe_layer_freq", 1, 1 << 20, 1) != 1)
        cfg_fail(k, "key moe_layer_freq: only 1 is supported");
}

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    c->mla.kv_lora = (uint32_t)cfg_int(k, "attention.kv_lora_rank", "kv_lora_rank", 1, 1 << 16, CFG_REQUIRED);
    c->mla.q_lora = (uint32_t)cfg_int(k, "attention.q_lora_rank", "q_lora_rank", 0, 1 << 16, 0);
    c->mla.d_rope = (uint32_t)cfg_int(k, "rope.dimension_count", "qk_rope_head_dim", 2, 4096, CFG_REQUIRED);
    uint32_t d_k = (uint32_t)cfg_int(k, "attention.key_length_mla", NULL, 1, 4096, c->d_head);
    c->mla.d_nope = k->gguf ? d_k - c->mla.d_rope
                            : (uint32_t)cfg_int(k, NULL, "qk_nope_head_dim", 1, 4096, CFG_REQUIRED);
    c->mla.d_v = (uint32_t)cfg_int(k, "attention.value_length_mla", "v_head_dim", 1, 4096, c->layer[0].d_v);
    if (k->gguf && d_k <= c->mla.d_rope)
        cfg_fail(k, "key attention.key_length_mla: wanted more than %u, got %u", c->mla.d_rope, d_k);
    cfg_next(k, c, "nextn_predict_layers",
             cfg_has(k, NULL, "num_mtp_layers") ? "num_mtp_layers" : "num_nextn_predict_layers");
    cfg_rope(k, c, c->mla.d_rope, &c->rope[0]);
    rope_config *r = &c->rope[0];
    r->rot = c->mla.d_rope;
    r->interleaved = cfg_bool(k, NULL, "rope_interleave", true);
    double all = k->gguf ? cfg_float(k, "rope.scaling.yarn_log_multiplier", NULL, 0) * 10 : r->mscale_all_dim;
    double m = r->kind == ROPE_YARN && r->factor > 1 ? 0.1 * all * log(r->factor) + 1 : 1;
    c->attn_scale = (float)(m * m / sqrt(c->mla.d_nope + c->mla.d_rope));
    if (k->gguf && r->kind == ROPE_YARN)
        r->attn_factor = 1; /* published files have mscale = mscale_all_dim, whose ratio cos and sin are scaled by */
    cfg_moe_deepseek(k, c);
    routing(k, c);
    for (uint32_t i = 0; i < c->n_layer; i++) {
        layer_config *l = &c->layer[i];
        l->mixer = MIX_MLA;
        l->n_kv_head = 1;
        l->d_k = c->mla.kv_lora + c->mla.d_rope;
        l->d_v = c->mla.kv_lora;
    }
}

/* kv_b quantised in blocks cannot be read sideways: its key half is decoded and turned once. Rows of heads stay
 * together. */
static const weight *turned_k_b(build *b, int32_t layer, uint32_t n_head)
{
    uint64_t lora = b->c->mla.kv_lora, nope = b->c->mla.d_nope, per = nope + b->c->mla.d_v;
    const weight *kv = bind_weight(b, layer, "attn_kv_b", n_head * per, lora, 0);
    float *t = kv ? ARENA_ARRAY(b->mem, float, n_head * nope * lora) : NULL;
    float *row = kv ? ARENA_ARRAY(b->mem, float, lora) : NULL;
    weight *w = ARENA_NEW(b->mem, weight);
    weight_slice *s = ARENA_NEW(b->mem, weight_slice);
    if (!t || !row || !w || !s) {
        build_fail(b, IMP_E_NOMEM, "layer %d: attn_kv_b: out of memory", layer);
        return NULL;
    }
    for (uint64_t h = 0; h < n_head; h++)
        for (uint64_t n = 0; n < nope; n++) {
            imp_status st = weight_decode(kv, h * per + n, 1, row, b->e);
            if (st != IMP_OK) {
                b->status = st;
                return NULL;
            }
            for (uint64_t l = 0; l < lora; l++)
                t[(h * lora + l) * nope + n] = row[l];
        }
    *s = (weight_slice){.data = (const uint8_t *)t, .rows = n_head * lora, .stride = nope * sizeof(float)};
    *w = (weight){.name = kv->name, .format = QUANT_F32, .n_expert = n_head, .rows = lora, .cols = nope, .n_parts = 1,
                  .n_bytes = kv->n_bytes / per * nope};
    w->part[0] = (weight_part){.role = PART_DATA, .type = QUANT_F32, .gran_rows = 1, .gran_cols = 1, .n_slices = 1,
                               .slices = s};
    return w;
}

/* Per head: k_b [lora, nope] takes q into the latent space, v_b [v, lora] takes the sum out of it. */
static void absorbed(build *b, int32_t layer, uint32_t n_head, const weight **k_b, const weight **v_b)
{
    uint64_t lora = b->c->mla.kv_lora, nope = b->c->mla.d_nope, v = b->c->mla.d_v, per = nope + v;
    if (bind_has(b, layer, "attn_k_b")) {
        *k_b = bind_experts(b, layer, "attn_k_b", n_head, lora, nope, 0);
        *v_b = bind_experts(b, layer, "attn_v_b", n_head, v, lora, 0);
        return;
    }
    const weight *all = bind_weight(b, layer, "attn_kv_b", n_head * per, lora, 0);
    const quant_fmt *f = all ? quant_get(all->format) : NULL;
    if (f && f->is_float && all->n_parts == 1) /* the file's [nope][lora] read as [lora, nope] transposed */
        *k_b = bind_full(b, layer, &(bind_spec){.role = "attn_kv_b", .n_expert = n_head, .total = lora, .n = lora,
                                                .step = 1, .cols = nope, .transposed = true, .pitch = per});
    else
        *k_b = all ? turned_k_b(b, layer, n_head) : NULL;
    *v_b = bind_full(b, layer, &(bind_spec){.role = "attn_kv_b", .n_expert = n_head, .total = per, .row = nope, .n = v,
                                            .step = 1, .cols = lora});
}

#define LATENT_EPS 1e-6f /* the reference's default for the two inner norms, whatever rms_norm_eps says */

static plan_reg attention(build *b, int32_t i, plan_reg x)
{
    const model_config *c = b->c;
    uint32_t nh = c->layer[i].n_head, nope = c->mla.d_nope, rope = c->mla.d_rope, lora = c->mla.kv_lora;
    uint64_t h = c->n_hidden, nq = (uint64_t)nh * (nope + rope);
    plan_reg q;
    if (c->mla.q_lora) {
        q = op_linear(b, i, "attn_q_a", x, bind_weight(b, i, "attn_q_a", c->mla.q_lora, h, 0), REG_ACT);
        q = op_norm_eps(b, i, "attn_q_a_norm", q, 0, LATENT_EPS);
        q = op_linear(b, i, "attn_q_b", q, bind_weight(b, i, "attn_q_b", nq, c->mla.q_lora, 0), REG_ACT);
    } else {
        q = op_linear(b, i, "attn_q", x, bind_weight(b, i, "attn_q", nq, h, 0), REG_ACT);
    }
    const weight *k_b = NULL, *v_b = NULL;
    absorbed(b, i, nh, &k_b, &v_b);
    plan_reg qn = op_head_linear(b, i, "attn_k_b", op_slice(b, i, "q_nope", q, 0, nope, nh, nope + rope), k_b);
    plan_reg qr = op_rope(b, i, "rope_q", op_slice(b, i, "q_rope", q, nope, rope, nh, nope + rope), 0, nh, rope, 0);
    q = op_concat(b, i, "q_latent", qn, qr, nh, false);
    plan_reg kv = op_linear(b, i, "attn_kv_a", x, bind_weight(b, i, "attn_kv_a", lora + rope, h, 0), REG_ACT);
    plan_reg kn = op_norm_eps(b, i, "attn_kv_a_norm", op_slice(b, i, "kv_latent", kv, 0, lora, 1, lora + rope), 0,
                              LATENT_EPS);
    plan_reg kr = op_rope(b, i, "rope_k", op_slice(b, i, "k_rope", kv, lora, rope, 1, lora + rope), 0, 1, rope, 0);
    plan_reg k = op_concat(b, i, "k_latent", kn, kr, 1, false);
    plan_reg o = op_head_linear(b, i, "attn_v_b", op_attend(b, i, q, k, PLAN_NONE, c->attn_scale, NULL), v_b);
    const weight *wo = bind_weight(b, i, "attn_output", h, (uint64_t)nh * c->mla.d_v, 0);
    return op_linear(b, i, "attn_output", o, wo, REG_ACT);
}

static void layer(build *b, int32_t i, plan_reg *x)
{
    plan_reg y = attention(b, i, op_norm(b, i, "attn_norm", *x, 0));
    *x = op_add(b, i, "attn_residual", *x, y);
    y = piece_ffn(b, i, op_norm(b, i, "ffn_norm", *x, 0));
    *x = op_add(b, i, "ffn_residual", *x, y);
}

static const char *const harmless[] = {"output_router_logits", "router_aux_loss_coef", "aux_loss_alpha", "seq_aux",
                                       "ep_size", "qk_head_dim", "head_dim", "v_head_dim",
                                       "deepseek2.rope.scaling.finetuned", "topk_method", "norm_topk_prob", NULL};

const arch_def arch_deepseek2 = {
    .title = "DeepSeek V2, V3, R1",
    .names = {"deepseek2", "DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM"},
    .tensor = names,
    .harmless = harmless,
    .config = config,
    .layer = layer,
};

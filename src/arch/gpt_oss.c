/* gpt-oss: attention with a sink logit a head, biases everywhere, every other layer windowed, MXFP4 experts whose gate
 * and up alternate (Hugging Face) or lie apart (GGUF), clamped SwiGLU, softmax over the chosen experts. */
#include "model/arch.h"

static const tensor_name names[] = {
    {"ffn_norm", "blk.%d.post_attention_norm.weight", "model.layers.%d.post_attention_layernorm.weight"},
    {"ffn_router", "blk.%d.ffn_gate_inp.weight", "model.layers.%d.mlp.router.weight"},
    {NULL, NULL, NULL},
};

static void config(cfg *k, model_config *c)
{
    cfg_common(k, c);
    if (k->status != IMP_OK)
        return;
    cfg_rope(k, c, c->d_head, &c->rope[0]);
    cfg_moe(k, c);
    c->moe.n_ff = (uint32_t)cfg_int(k, "expert_feed_forward_length", "intermediate_size", 1, 1 << 20, c->n_ff);
    c->moe.score = ROUTE_TOPK_SOFTMAX;
    c->qkv_bias = c->o_bias = true;
    c->attn_sinks = true;
    c->window = (uint32_t)cfg_int(k, "attention.sliding_window", "sliding_window", 1, 1 << 30, 128);
    double limit = cfg_float(k, NULL, "swiglu_limit", 7), alpha = cfg_float(k, NULL, "swiglu_alpha", 1.702);
    if (limit != 7 || alpha != 1.702)
        cfg_fail(k, "keys swiglu_limit, swiglu_alpha: only 7 and 1.702 are supported");
    for (uint32_t i = 0; i < c->n_layer; i++) {
        c->layer[i].ffn = FFN_MOE;
        c->layer[i].window = cfg_layer_is(k, i, "sliding_attention", i % 2 == 0) ? c->window : 0;
    }
}

#define LIMIT 7.0f
#define ALPHA 1.702f

/* gate and up, then the clamped activation, whichever way the file keeps them. */
static plan_reg gate_up(build *b, int32_t layer, plan_reg x, plan_reg ids)
{
    const moe_config *m = &b->c->moe;
    uint64_t h = b->c->n_hidden;
    /* published checkpoints keep [E, in, 2F] in bf16, [E, 2F, in] in MXFP4 */
    if (!bind_has(b, layer, "ffn_gate_exps")) {
        bool plain = mf_tensor_find(b->mf, "model.layers.0.mlp.experts.gate_up_proj") != NULL;
        bind_spec both = {.role = "ffn_gate_up_fused", .n_expert = m->n_expert, .total = 2ull * m->n_ff,
                          .n = 2ull * m->n_ff, .step = 1, .cols = h, .transposed = plain, .flags = BIND_BIAS};
        const weight *w = bind_full(b, layer, &both);
        return op_glu_interleaved(b, layer, "ffn_act_exps",
                                  op_expert_linear(b, layer, "ffn_gate_up_exps", x, ids, w, false),
                                  ACT_SWIGLU_OAI, LIMIT, ALPHA);
    }
    const weight *wg = bind_experts(b, layer, "ffn_gate_exps", m->n_expert, m->n_ff, h, BIND_BIAS);
    const weight *wu = bind_experts(b, layer, "ffn_up_exps", m->n_expert, m->n_ff, h, BIND_BIAS);
    plan_reg g = op_expert_linear(b, layer, "ffn_gate_exps", x, ids, wg, false);
    plan_reg u = op_expert_linear(b, layer, "ffn_up_exps", x, ids, wu, false);
    plan_reg y = op_glu(b, layer, "ffn_act_exps", g, u, ACT_SWIGLU_OAI);
    if (b->status == IMP_OK) {
        b->p->op[b->p->n_op - 1].attr.act.limit = LIMIT;
        b->p->op[b->p->n_op - 1].attr.act.alpha = ALPHA;
    }
    return y;
}

static plan_reg mixture(build *b, int32_t layer, plan_reg x)
{
    const moe_config *m = &b->c->moe;
    plan_reg ids = PLAN_NONE, w = PLAN_NONE;
    piece_route(b, layer, x, BIND_BIAS, &ids, &w);
    plan_reg a = gate_up(b, layer, x, ids);
    bool fused = !bind_has(b, layer, "ffn_down_exps");
    bool plain = mf_tensor_find(b->mf, "model.layers.0.mlp.experts.down_proj") != NULL;
    bind_spec spec = {.role = fused ? "ffn_down_fused" : "ffn_down_exps", .n_expert = m->n_expert,
                      .total = b->c->n_hidden, .n = b->c->n_hidden, .step = 1, .cols = m->n_ff,
                      .transposed = fused && plain, .flags = BIND_BIAS};
    const weight *wd = bind_full(b, layer, &spec);
    return op_combine(b, layer, op_expert_linear(b, layer, "ffn_down_exps", a, ids, wd, true), w);
}

static void layer(build *b, int32_t i, plan_reg *x)
{
    plan_reg y = piece_attention(b, i, op_norm(b, i, "attn_norm", *x, 0));
    *x = op_add(b, i, "attn_residual", *x, y);
    y = mixture(b, i, op_norm(b, i, "ffn_norm", *x, 0));
    *x = op_add(b, i, "ffn_residual", *x, y);
}

static const char *const harmless[] = {"output_router_logits", "router_aux_loss_coef", "experts_per_token",
                                       "initial_context_length", "rope_scaling.truncate", "router_dtype", NULL};

const arch_def arch_gpt_oss = {
    .title = "gpt-oss",
    .names = {"gpt-oss", "GptOssForCausalLM"},
    .tensor = names,
    .harmless = harmless,
    .config = config,
    .layer = layer,
};

/* Reading hyper-parameters: typed getters over both kinds of file, and the keys nearly all families share. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void cfg_fail(cfg *k, const char *fmt, ...)
{
    if (k->status != IMP_OK)
        return;
    va_list ap;
    va_start(ap, fmt);
    k->status = err_vset(k->e, IMP_E_MODEL, fmt, ap);
    va_end(ap);
}

bool cfg_str_is(meta_str s, const char *text) { return s.n == strlen(text) && memcmp(s.s, text, s.n) == 0; }

/* The file's spelling of a key, or NULL when this kind of file has none. */
static const char *spell(cfg *k, const char *gguf, const char *hf, char *buf, size_t n)
{
    const char *name = k->gguf ? gguf : hf;
    if (!name || k->status != IMP_OK)
        return NULL;
    int len;
    if (k->gguf && name[0] != '.')
        len = snprintf(buf, n, "%s.%s", k->arch, name);
    else
        len = snprintf(buf, n, "%s%s", k->gguf ? "" : k->nest, name + (k->gguf && name[0] == '.'));
    if (len < 0 || (size_t)len >= n) {
        cfg_fail(k, "key %s: too long", name);
        return NULL;
    }
    return buf;
}

const meta_value *cfg_value(cfg *k, const char *gguf, const char *hf)
{
    char key[160];
    if (!spell(k, gguf, hf, key, sizeof key))
        return NULL;
    const meta_value *v = mf_meta(k->mf, key);
    if (!v && !k->gguf && k->nest[0]) /* a nested file still keeps some keys outside */
        v = mf_meta(k->mf, hf);
    return v && v->type == META_NULL ? NULL : v;
}

bool cfg_has(cfg *k, const char *gguf, const char *hf) { return cfg_value(k, gguf, hf) != NULL; }

#define MAX_DIM (1 << 20)   /* no published width comes near; bounds every product below 2^63 */
#define MAX_LAYERS 2048

static const char *type_name(meta_type t)
{
    static const char *const name[] = {
        "a boolean", "an integer", "an integer", "a number", "a string", "an array", "null",
    };
    return name[t];
}

static bool value_double(const meta_value *v, double *out)
{
    switch (v->type) {
    case META_INT: *out = (double)v->i; return true;
    case META_UINT: *out = (double)v->u; return true;
    case META_FLOAT: *out = v->f; return true;
    default: return false;
    }
}

static int64_t checked_int(cfg *k, const char *name, const meta_value *v, int64_t min, int64_t max, int64_t dflt)
{
    double d;
    if (!value_double(v, &d) || d != floor(d)) {
        cfg_fail(k, "key %s: wanted an integer, got %s", name, type_name(v->type));
    } else if (!(d >= (double)min && d <= (double)max)) {
        cfg_fail(k, "key %s: wanted %lld to %lld, got %.0f", name, (long long)min, (long long)max, d);
    } else {
        return (int64_t)d;
    }
    return dflt == CFG_REQUIRED ? min : dflt;
}

int64_t cfg_int(cfg *k, const char *gguf, const char *hf, int64_t min, int64_t max, int64_t dflt)
{
    const meta_value *v = cfg_value(k, gguf, hf);
    const char *name = k->gguf ? gguf : hf;
    if (v)
        return checked_int(k, name, v, min, max, dflt);
    for (const cfg_default *d = k->gguf || !hf ? NULL : k->absent; d && d->hf; d++)
        if (strcmp(d->hf, hf) == 0)
            return d->value;
    if (dflt != CFG_REQUIRED)
        return dflt;
    cfg_fail(k, "key %s: missing", name ? name : hf ? hf : gguf);
    return min;
}

double cfg_float(cfg *k, const char *gguf, const char *hf, double dflt)
{
    const meta_value *v = cfg_value(k, gguf, hf);
    double d;
    if (!v)
        return dflt;
    if (!value_double(v, &d) || !isfinite(d)) {
        cfg_fail(k, "key %s: wanted a finite number, got %s", k->gguf ? gguf : hf, type_name(v->type));
        return dflt;
    }
    return d;
}

bool cfg_bool(cfg *k, const char *gguf, const char *hf, bool dflt)
{
    const meta_value *v = cfg_value(k, gguf, hf);
    if (!v)
        return dflt;
    if (v->type != META_BOOL) {
        cfg_fail(k, "key %s: wanted a boolean, got %s", k->gguf ? gguf : hf, type_name(v->type));
        return dflt;
    }
    return v->b;
}

meta_str cfg_str(cfg *k, const char *gguf, const char *hf, const char *dflt)
{
    meta_str d = {dflt, dflt ? strlen(dflt) : 0};
    const meta_value *v = cfg_value(k, gguf, hf);
    if (!v)
        return d;
    if (v->type != META_STR) {
        cfg_fail(k, "key %s: wanted a string, got %s", k->gguf ? gguf : hf, type_name(v->type));
        return d;
    }
    return v->str;
}

int64_t cfg_layer_int(cfg *k, const char *gguf, const char *hf, int32_t layer, int64_t min, int64_t max, int64_t dflt)
{
    const meta_value *v = cfg_value(k, gguf, hf);
    if (!v || v->type != META_ARRAY)
        return cfg_int(k, gguf, hf, min, max, dflt);
    int64_t i;
    meta_value one = {.type = META_BOOL};
    if (v->arr.elem == META_BOOL && mf_array_int(v, (uint64_t)layer, &i))
        return i;
    if (mf_array_int(v, (uint64_t)layer, &i))
        one = (meta_value){.type = META_INT, .i = i};
    else
        cfg_fail(k, "key %s: wanted an integer for layer %d, got %llu elements", k->gguf ? gguf : hf, layer,
                 (unsigned long long)v->arr.n);
    return one.type == META_INT ? checked_int(k, k->gguf ? gguf : hf, &one, min, max, dflt) : min;
}

bool cfg_layer_is(cfg *k, uint32_t i, const char *type, bool dflt)
{
    const meta_value *types = cfg_value(k, NULL, "layer_types");
    meta_str s;
    if (!types)
        return dflt;
    if (types->type == META_ARRAY && mf_array_str(types, i, &s))
        return cfg_str_is(s, type);
    cfg_fail(k, "key layer_types: wanted a word for layer %u", i);
    return dflt;
}

double cfg_float_or_none(cfg *k, const char *gguf, const char *hf, double dflt)
{
    char key[160];
    const char *name = spell(k, gguf, hf, key, sizeof key);
    const meta_value *v = name ? mf_meta(k->mf, key) : NULL;
    return v && v->type == META_NULL ? 0 : cfg_float(k, gguf, hf, dflt);
}

bool cfg_bias(cfg *k, const char *hf, const char *tensor)
{
    return k->gguf ? mf_tensor_find(k->mf, tensor) != NULL : cfg_bool(k, NULL, hf, false);
}

bool cfg_tied(cfg *k, bool dflt)
{
    return k->gguf ? !mf_tensor_find(k->mf, "output.weight") : cfg_bool(k, NULL, "tie_word_embeddings", dflt);
}

void cfg_only(cfg *k, const char *gguf, const char *hf, double only)
{
    if (cfg_float(k, gguf, hf, only) != only)
        cfg_fail(k, "key %s: only %g is supported, got %g", k->gguf ? gguf : hf, only, cfg_float(k, gguf, hf, only));
}

void cfg_only_bool(cfg *k, const char *hf, bool only)
{
    if (cfg_bool(k, NULL, hf, only) != only)
        cfg_fail(k, "key %s: only %s is supported", hf, only ? "true" : "false");
}

void cfg_only_str(cfg *k, const char *hf, const char *const *only)
{
    meta_str s = cfg_str(k, NULL, hf, NULL);
    for (size_t i = 0; s.s && only[i]; i++)
        if (cfg_str_is(s, only[i]))
            return;
    if (s.s)
        cfg_fail(k, "key %s: only '%s' is supported, got '%.*s'", hf, only[0], (int)(s.n < 64 ? s.n : 64), s.s);
}

/* Layers that a list spells out need no number beside it. */
static int64_t count_layers(cfg *k)
{
    static const char *const list[] = {"layers_block_type", "layer_types"};
    for (size_t i = 0; i < sizeof list / sizeof *list && !cfg_has(k, "block_count", "num_hidden_layers"); i++) {
        const meta_value *v = cfg_value(k, NULL, list[i]);
        if (v && v->type == META_ARRAY && v->arr.n >= 1 && v->arr.n <= MAX_LAYERS)
            return (int64_t)v->arr.n;
    }
    return cfg_int(k, "block_count", "num_hidden_layers", 1, MAX_LAYERS, CFG_REQUIRED);
}

/* ---- shared fields ---------------------------------------------------------------------------------------------- */
void cfg_act(cfg *k, model_config *c, plan_act dflt)
{
    static const struct { const char *name; plan_act act; } known[] = {
        {"silu", ACT_SILU}, {"swish", ACT_SILU}, {"gelu_pytorch_tanh", ACT_GELU_TANH}, {"gelu_tanh", ACT_GELU_TANH},
        {"gelu_new", ACT_GELU_TANH}, {"gelu", ACT_GELU_ERF}, {"relu2", ACT_RELU2},
    };
    c->act = dflt;
    meta_str s = cfg_str(k, NULL, "hidden_activation", NULL);
    meta_str t = cfg_str(k, NULL, "hidden_act", NULL); /* read both: Gemma writes the true one in hidden_activation */
    meta_str u = cfg_str(k, NULL, "mlp_hidden_act", NULL);
    if (!s.s)
        s = t.s ? t : u;
    if (!s.s)
        return;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (cfg_str_is(s, known[i].name)) {
            c->act = known[i].act;
            return;
        }
    cfg_fail(k, "key hidden_act: '%.*s' is not supported", (int)(s.n < 64 ? s.n : 64), s.s);
}

void cfg_common(cfg *k, model_config *c)
{
    c->n_layer = (uint32_t)count_layers(k);
    c->n_hidden = (uint32_t)cfg_int(k, "embedding_length", "hidden_size", 1, MAX_DIM, CFG_REQUIRED);
    c->n_ctx_train = (uint32_t)cfg_int(k, "context_length", "max_position_embeddings", 1, 1 << 30, 4096);
    c->n_head = (uint32_t)cfg_layer_int(k, "attention.head_count", "num_attention_heads", 0, 0, 65536, CFG_REQUIRED);
    c->n_kv_head = (uint32_t)cfg_layer_int(k, "attention.head_count_kv", "num_key_value_heads", 0, 0, 65536, c->n_head);
    c->n_ff = (uint32_t)cfg_layer_int(k, "feed_forward_length", "intermediate_size", 0, 0, MAX_DIM, 0);
    int64_t head = c->n_head ? c->n_hidden / c->n_head : 0;
    c->d_head = (uint32_t)cfg_int(k, "attention.key_length", "head_dim", 1, 4096, head ? head : 1);
    c->norm_eps = (float)cfg_float(k, "attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-6);
    int64_t vocab = cfg_int(k, "vocab_size", "vocab_size", 1, 1 << 24, 0);
    const mf_tensor *emb = mf_tensor_find(k->mf, "token_embd.weight");
    if (k->gguf && emb && emb->n_dims == 2 && emb->dim[1] <= 1 << 24)
        vocab = (int64_t)emb->dim[1]; /* vocab_size is optional there, and the table is what counts */
    if (vocab <= 0)
        cfg_fail(k, "key vocab_size: missing, and there is no token embedding to tell");
    c->n_vocab = (uint32_t)vocab;
    c->embed_scale = 1;
    c->tied = cfg_tied(k, false);
    cfg_act(k, c, ACT_SILU);
    if (k->status != IMP_OK)
        return;
    c->layer = ARENA_ARRAY(k->mem, layer_config, c->n_layer + CONFIG_MAX_NEXT);
    if (!c->layer) {
        k->status = err_oom(k->e, "layer table", (c->n_layer + CONFIG_MAX_NEXT) * sizeof *c->layer);
        return;
    }
    for (uint32_t i = 0; i < c->n_layer; i++)
        c->layer[i] = (layer_config){
            .mixer = MIX_ATTENTION, .ffn = FFN_GLU,
            .n_head = (uint32_t)cfg_layer_int(k, "attention.head_count", "num_attention_heads", (int32_t)i, 0, 65536,
                                              c->n_head),
            .n_kv_head = (uint32_t)cfg_layer_int(k, "attention.head_count_kv", "num_key_value_heads", (int32_t)i, 0,
                                                 65536, c->n_head),
            .d_k = c->d_head,
            .d_v = (uint32_t)cfg_int(k, "attention.value_length", NULL, 1, 4096, c->d_head),
            .n_ff = (uint32_t)cfg_layer_int(k, "feed_forward_length", "intermediate_size", (int32_t)i, 0, MAX_DIM,
                                            c->n_ff),
            .kv_from = -1,
        };
    for (uint32_t i = 0; i < c->n_layer && k->status == IMP_OK; i++) {
        const layer_config *l = &c->layer[i];
        if (l->n_kv_head && l->n_head % l->n_kv_head)
            cfg_fail(k, "key %s: wanted a divisor of %u query heads, got %u",
                     k->gguf ? "attention.head_count_kv" : "num_key_value_heads", l->n_head, l->n_kv_head);
    }
}

void cfg_next(cfg *k, model_config *c, const char *gguf, const char *hf)
{
    c->n_next = (uint32_t)cfg_int(k, gguf, hf, 0, k->gguf ? c->n_layer - 1 : 64, 0);
    if (k->gguf)
        c->n_layer -= c->n_next;
}

void cfg_moe(cfg *k, model_config *c)
{
    moe_config *m = &c->moe;
    int64_t n = cfg_int(k, "expert_count", "num_experts", 0, 65536, -1);
    if (n < 0)
        n = cfg_int(k, NULL, "num_local_experts", 0, 65536, -1);
    if (n < 0)
        n = cfg_int(k, NULL, "n_routed_experts", 0, 65536, 0);
    m->n_expert = (uint32_t)n;
    int64_t used = cfg_int(k, NULL, "top_k_experts", 0, 1024, 0); /* Gemma 4's word for it */
    m->n_used = (uint32_t)cfg_int(k, "expert_used_count", "num_experts_per_tok", 0, 1024, used);
    m->n_ff = (uint32_t)cfg_int(k, "expert_feed_forward_length", "moe_intermediate_size", 0, MAX_DIM, c->n_ff);
    m->score = ROUTE_SOFTMAX;
    m->scale = 1;
    m->gated = true;
    if (m->n_expert && (m->n_used == 0 || m->n_used > m->n_expert))
        cfg_fail(k, "key %s: wanted 1 to %u, got %u", k->gguf ? "expert_used_count" : "num_experts_per_tok",
                 m->n_expert, m->n_used);
}

void cfg_moe_layers(cfg *k, model_config *c)
{
    int64_t step = cfg_int(k, NULL, "decoder_sparse_step", 1, 1 << 20, 1), dense;
    const meta_value *only = cfg_value(k, NULL, "mlp_only_layers");
    if (only && only->type != META_ARRAY)
        cfg_fail(k, "key mlp_only_layers: wanted an array");
    for (uint32_t i = 0; i < c->n_layer && c->moe.n_expert; i++)
        c->layer[i].ffn = (i + 1) % step == 0 ? FFN_MOE : FFN_GLU;
    for (uint64_t j = 0; only && only->type == META_ARRAY && j < only->arr.n; j++)
        if (mf_array_int(only, j, &dense) && dense >= 0 && dense < c->n_layer)
            c->layer[dense].ffn = FFN_GLU;
}

void cfg_window_from(cfg *k, model_config *c)
{
    bool on = cfg_bool(k, NULL, "use_sliding_window", false);
    int64_t from = cfg_int(k, NULL, "max_window_layers", 0, 1 << 20, 28);
    int64_t window = cfg_int(k, NULL, "sliding_window", 0, 1 << 30, 0);
    c->window = on ? (uint32_t)window : 0;
    for (uint32_t i = 0; i < c->n_layer; i++)
        c->layer[i].window = cfg_layer_is(k, i, "sliding_attention", i >= from) ? c->window : 0;
}

void cfg_moe_deepseek(cfg *k, model_config *c)
{
    moe_config *m = &c->moe;
    cfg_moe(k, c);
    int64_t shared = cfg_int(k, "expert_shared_count", "n_shared_experts", 0, 64, 0);
    m->n_ff_shared = (uint32_t)cfg_int(k, "expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size",
                                       0, MAX_DIM, shared * m->n_ff);
    m->n_group = (uint32_t)cfg_int(k, "expert_group_count", "n_group", 0, 1024, 1);
    m->topk_group = (uint32_t)cfg_int(k, "expert_group_used_count", "topk_group", 0, 1024, m->n_group);
    m->scale = (float)cfg_float(k, "expert_weights_scale", "routed_scaling_factor", 1);
    m->renormalise = cfg_bool(k, "expert_weights_norm", "norm_topk_prob", false);
    m->renorm_eps = 1e-20f;
    if (m->n_group > 1 && (m->n_expert % m->n_group || m->topk_group > m->n_group || !m->topk_group))
        cfg_fail(k, "expert groups: wanted a divisor of %u experts and at most as many used, got %u, %u", m->n_expert,
                 m->n_group, m->topk_group);
    uint32_t dense = (uint32_t)cfg_int(k, "leading_dense_block_count", "first_k_dense_replace", 0, c->n_layer, 0);
    for (uint32_t i = dense; i < c->n_layer && m->n_expert; i++)
        c->layer[i].ffn = FFN_MOE;
}

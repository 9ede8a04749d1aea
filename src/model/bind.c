/* Binding: from a role to checked, described bytes. Knows names and shapes, nothing of what is computed. */
#include <stdio.h>
#include <string.h>

#include "model/arch.h"
#include "model/prequant.h"

/* Names that most families share. A family's own table comes first. */
static const tensor_name standard[] = {
    {"token_embd", "token_embd.weight", "model.embed_tokens.weight"},
    {"output", "output.weight", "lm_head.weight"},
    {"output_norm", "output_norm.weight", "model.norm.weight"},
    {"attn_norm", "blk.%d.attn_norm.weight", "model.layers.%d.input_layernorm.weight"},
    {"attn_q", "blk.%d.attn_q.weight", "model.layers.%d.self_attn.q_proj.weight"},
    {"attn_k", "blk.%d.attn_k.weight", "model.layers.%d.self_attn.k_proj.weight"},
    {"attn_v", "blk.%d.attn_v.weight", "model.layers.%d.self_attn.v_proj.weight"},
    {"attn_qkv", "blk.%d.attn_qkv.weight", "model.layers.%d.self_attn.qkv_proj.weight"},
    {"attn_output", "blk.%d.attn_output.weight", "model.layers.%d.self_attn.o_proj.weight"},
    {"attn_q_norm", "blk.%d.attn_q_norm.weight", "model.layers.%d.self_attn.q_norm.weight"},
    {"attn_k_norm", "blk.%d.attn_k_norm.weight", "model.layers.%d.self_attn.k_norm.weight"},
    {"attn_post_norm", "blk.%d.post_attention_norm.weight", "model.layers.%d.post_attention_layernorm.weight"},
    {"ffn_norm", "blk.%d.ffn_norm.weight", "model.layers.%d.post_attention_layernorm.weight"},
    {"ffn_post_norm", "blk.%d.post_ffw_norm.weight", "model.layers.%d.post_feedforward_layernorm.weight"},
    {"ffn_gate", "blk.%d.ffn_gate.weight", "model.layers.%d.mlp.gate_proj.weight"},
    {"ffn_up", "blk.%d.ffn_up.weight", "model.layers.%d.mlp.up_proj.weight"},
    {"ffn_down", "blk.%d.ffn_down.weight", "model.layers.%d.mlp.down_proj.weight"},
    {"ffn_gate_up", "blk.%d.ffn_up.weight", "model.layers.%d.mlp.gate_up_proj.weight"},
    {"ffn_router", "blk.%d.ffn_gate_inp.weight", "model.layers.%d.mlp.gate.weight"},
    {"ffn_gate_exps", "blk.%d.ffn_gate_exps.weight", "model.layers.%d.mlp.experts.%d.gate_proj.weight"},
    {"ffn_up_exps", "blk.%d.ffn_up_exps.weight", "model.layers.%d.mlp.experts.%d.up_proj.weight"},
    {"ffn_down_exps", "blk.%d.ffn_down_exps.weight", "model.layers.%d.mlp.experts.%d.down_proj.weight"},
    {"ffn_shexp_gate", "blk.%d.ffn_gate_shexp.weight", "model.layers.%d.mlp.shared_expert.gate_proj.weight"},
    {"ffn_shexp_up", "blk.%d.ffn_up_shexp.weight", "model.layers.%d.mlp.shared_expert.up_proj.weight"},
    {"ffn_shexp_down", "blk.%d.ffn_down_shexp.weight", "model.layers.%d.mlp.shared_expert.down_proj.weight"},
    {"ffn_shexp_router", "blk.%d.ffn_gate_inp_shexp.weight", "model.layers.%d.mlp.shared_expert_gate.weight"},
    {NULL, NULL, NULL},
};

imp_status build_fail(build *b, imp_status s, const char *fmt, ...)
{
    if (b->status != IMP_OK)
        return b->status;
    va_list ap;
    va_start(ap, fmt);
    b->status = err_vset(b->e, s, fmt, ap);
    va_end(ap);
    return b->status;
}

static const tensor_name *find_role(const tensor_name *t, const char *role)
{
    for (; t && t->role; t++)
        if (strcmp(t->role, role) == 0)
            return t;
    return NULL;
}

/* The role's tensor name in this file; false when the role or this kind of file has none. */
static bool spell(build *b, int32_t layer, int32_t expert, const char *role, char *out, size_t n)
{
    const tensor_name *t = find_role(b->arch->tensor, role);
    if (!t)
        t = find_role(standard, role);
    if (!t) {
        build_fail(b, IMP_E_INTERNAL, "role %s has no tensor name", role);
        return false;
    }
    bool gguf = mf_get_kind(b->mf) == MF_GGUF;
    const char *pattern = gguf ? t->gguf : t->hf;
    if (!pattern)
        return false;
    /* Patterns are ours, but expanded by hand: %d is the layer, a second one the expert. */
    size_t len = 0;
    int seen = 0;
    if (!gguf && b->hf_prefix && strncmp(pattern, "model.", 6) == 0) {
        int k = snprintf(out, n, "%s", b->hf_prefix);
        len = k > 0 ? (size_t)k : 0;
        pattern += 6;
    }
    for (const char *s = pattern; *s && len + 12 < n; s++) {
        if (s[0] == '%' && s[1] == 'd') {
            int k = snprintf(out + len, n - len, "%d", seen++ ? expert : layer);
            len += k > 0 ? (size_t)k : 0;
            s++;
        } else {
            out[len++] = *s;
        }
    }
    out[len < n ? len : n - 1] = 0;
    return true;
}

static bool per_expert(build *b, const char *role)
{
    const tensor_name *t = find_role(b->arch->tensor, role);
    if (!t)
        t = find_role(standard, role);
    const char *p = t ? (mf_get_kind(b->mf) == MF_GGUF ? t->gguf : t->hf) : NULL;
    const char *first = p ? strstr(p, "%d") : NULL;
    return first && strstr(first + 2, "%d");
}

static void shape_text(const mf_tensor *t, char *out, size_t n)
{
    size_t len = 0;
    out[0] = 0;
    for (uint32_t i = t->n_dims; i > 0 && len < n; i--) {
        int k = snprintf(out + len, n - len, "%s%llu", i == t->n_dims ? "" : "x", (unsigned long long)t->dim[i - 1]);
        len += k > 0 ? (size_t)k : 0;
    }
}

bool bind_has(build *b, int32_t layer, const char *role)
{
    char name[256];
    if (b->status != IMP_OK || !spell(b, layer, 0, role, name, sizeof name))
        return false;
    return mf_tensor_find(b->mf, name) || prequant_has(b->mf, name);
}

/* A tensor's rows as one slice, after its shape was checked to be [experts x total, cols]. */
static bool slice_of(build *b, mf_tensor *t, uint64_t n_expert, uint64_t total, uint64_t cols, weight_slice *s)
{
    char got[96];
    uint64_t rows = 1, stride;
    for (uint32_t i = 1; i < t->n_dims; i++)
        rows *= t->dim[i]; /* the loader checked that the product fits */
    bool vector = total == 1 && t->n_dims == 1;
    if (t->dim[0] != cols || (!vector && rows != n_expert * total)) {
        shape_text(t, got, sizeof got);
        if (n_expert > 1)
            build_fail(b, IMP_E_MODEL, "tensor %s: wanted shape %llux%llux%llu, got %s", t->name, (unsigned long long)n_expert,
                       (unsigned long long)total, (unsigned long long)cols, got);
        else if (total > 1)
            build_fail(b, IMP_E_MODEL, "tensor %s: wanted shape %llux%llu, got %s", t->name, (unsigned long long)total,
                       (unsigned long long)cols, got);
        else
            build_fail(b, IMP_E_MODEL, "tensor %s: wanted %llu values, got shape %s", t->name, (unsigned long long)cols, got);
        return false;
    }
    const quant_fmt *f = quant_get(t->type);
    if (!f || !f->decode || !quant_bytes(t->type, cols, &stride)) {
        build_fail(b, IMP_E_UNSUPPORTED, "tensor %s: type %s cannot hold weights", t->name, f ? f->name : "?");
        return false;
    }
    *s = (weight_slice){.data = t->data, .rows = rows, .stride = stride, .map = t->map};
    t->used = true;
    return true;
}

static void bind_bias(build *b, const char *name, weight *w, uint64_t row, uint64_t step, unsigned flags)
{
    char bias[264];
    size_t n = strlen(name);
    if (n < 7 || strcmp(name + n - 7, ".weight") != 0)
        return;
    snprintf(bias, sizeof bias, "%.*s.bias", (int)(n - 7), name);
    mf_tensor *t = mf_tensor_find(b->mf, bias);
    if (!t) {
        if (flags & BIND_BIAS)
            build_fail(b, IMP_E_MODEL, "tensor %s: missing, wanted %llu values", bias, (unsigned long long)w->rows);
        return;
    }
    uint64_t have = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        have *= t->dim[i];
    const quant_fmt *f = quant_get(t->type);
    uint64_t need = row + (w->n_expert * w->rows - 1) * step + 1;
    if (!f || !f->is_float || have < need) {
        build_fail(b, IMP_E_MODEL, "tensor %s: wanted %llu float values, got %llu of type %s", bias, (unsigned long long)need,
                   (unsigned long long)have, f ? f->name : "?");
        return;
    }
    weight_slice *s = ARENA_NEW(b->mem, weight_slice);
    if (!s) {
        build_fail(b, IMP_E_NOMEM, "%s: out of memory", bias);
        return;
    }
    *s = (weight_slice){.data = t->data + row * f->bytes, .rows = w->n_expert * w->rows, .stride = f->bytes * step, .map = t->map};
    t->used = true;
    w->part[w->n_parts++] =
        (weight_part){.role = PART_BIAS, .type = t->type, .gran_rows = 1, .gran_cols = 0, .n_slices = 1, .slices = s};
    w->n_bytes += w->n_expert * w->rows * f->bytes;
}

static const weight *finish(build *b, weight *w)
{
    if (b->status != IMP_OK)
        return NULL;
    imp_status s = weight_check(w, b->e);
    if (s != IMP_OK) {
        b->status = s;
        return NULL;
    }
    return w;
}

static const weight *missing(build *b, const char *role, const char *name, unsigned flags, uint64_t rows, uint64_t cols)
{
    if (!(flags & BIND_OPTIONAL))
        build_fail(b, IMP_E_MODEL, "tensor %s: missing, wanted shape %llux%llu", name ? name : role, (unsigned long long)rows,
                   (unsigned long long)cols);
    return NULL;
}

/* Nothing failed so far; a plan that ran out of memory has registers of no width, so its shapes mean nothing. */
static bool going_on(build *b)
{
    if (b->status == IMP_OK && (b->p->failed || b->p->mem.failed || b->mem->failed))
        build_fail(b, IMP_E_NOMEM, "plan %s: out of memory", b->p->family);
    return b->status == IMP_OK;
}

const weight *bind_rows(build *b, int32_t layer, const char *role, uint64_t total, uint64_t row, uint64_t n, uint64_t step,
                        uint64_t cols, unsigned flags)
{
    char name[256];
    if (!going_on(b))
        return NULL;
    if (!spell(b, layer, 0, role, name, sizeof name))
        return missing(b, role, NULL, flags, n, cols);
    weight *w = ARENA_NEW(b->mem, weight);
    weight_slice *s = ARENA_NEW(b->mem, weight_slice);
    if (!w || !s) {
        build_fail(b, IMP_E_NOMEM, "tensor %s: out of memory", name);
        return NULL;
    }
    *w = (weight){.n_expert = 1, .rows = n, .cols = cols};
    mf_tensor *t = mf_tensor_find(b->mf, name);
    if (!t || prequant_wants(b->mf, name)) {
        if (!prequant_has(b->mf, name))
            return missing(b, role, name, flags, total, cols);
        imp_status st = prequant_bind(b->mf, b->mem, name, 1, total, row, n, step, cols, w, b->e);
        if (st != IMP_OK) {
            b->status = st;
            return NULL;
        }
    } else {
        if (!slice_of(b, t, 1, total, cols, s))
            return NULL;
        s->data += row * s->stride;
        s->rows = n;
        w->n_bytes = n * s->stride;
        s->stride *= step;
        w->name = t->name;
        w->format = t->type;
        w->part[0] = (weight_part){.role = PART_DATA, .type = t->type, .gran_rows = 1, .gran_cols = 1, .n_slices = 1, .slices = s};
        w->n_parts = 1;
    }
    if (flags & (BIND_BIAS | BIND_BIAS_OPT))
        bind_bias(b, name, w, row, step, flags);
    return finish(b, w);
}

const weight *bind(build *b, int32_t layer, const char *role, uint64_t rows, uint64_t cols, unsigned flags)
{
    return bind_rows(b, layer, role, rows, 0, rows, 1, cols, flags);
}

const weight *bind_vector(build *b, int32_t layer, const char *role, uint64_t n, unsigned flags)
{
    return bind_rows(b, layer, role, 1, 0, 1, 1, n, flags);
}

const weight *bind_experts(build *b, int32_t layer, const char *role, uint32_t n_expert, uint64_t rows, uint64_t cols, unsigned flags)
{
    char name[256];
    if (!going_on(b))
        return NULL;
    if (!spell(b, layer, 0, role, name, sizeof name))
        return missing(b, role, NULL, flags, rows, cols);
    bool separate = per_expert(b, role);
    weight *w = ARENA_NEW(b->mem, weight);
    weight_slice *s = ARENA_ARRAY(b->mem, weight_slice, separate ? n_expert : 1);
    if (!w || !s) {
        build_fail(b, IMP_E_NOMEM, "tensor %s: out of memory", name);
        return NULL;
    }
    *w = (weight){.n_expert = n_expert, .rows = rows, .cols = cols};
    mf_tensor *t = mf_tensor_find(b->mf, name);
    if (!t || prequant_wants(b->mf, name))
        return prequant_has(b->mf, name) && !separate
                   ? (b->status = prequant_bind(b->mf, b->mem, name, n_expert, rows, 0, rows, 1, cols, w, b->e), finish(b, w))
                   : separate && prequant_has(b->mf, name) ? prequant_experts(b, layer, role, w)
                                                           : missing(b, role, name, flags, rows * n_expert, cols);
    w->name = t->name;
    w->format = t->type;
    uint32_t n_slices = separate ? n_expert : 1;
    for (uint32_t i = 0; i < n_slices; i++) {
        if (i && (!spell(b, layer, (int32_t)i, role, name, sizeof name) || !(t = mf_tensor_find(b->mf, name))))
            return missing(b, role, name, flags & ~(unsigned)BIND_OPTIONAL, rows, cols);
        if (t->type != w->format) {
            build_fail(b, IMP_E_UNSUPPORTED, "tensor %s: wanted the type of expert 0, %s", name, quant_get(w->format)->name);
            return NULL;
        }
        if (!slice_of(b, t, separate ? 1 : n_expert, rows, cols, &s[i]))
            return NULL;
        w->n_bytes += s[i].rows * s[i].stride;
    }
    w->part[0] = (weight_part){.role = PART_DATA, .type = w->format, .gran_rows = 1, .gran_cols = 1, .n_slices = n_slices, .slices = s};
    w->n_parts = 1;
    if (!separate && (flags & (BIND_BIAS | BIND_BIAS_OPT)))
        bind_bias(b, name, w, 0, 1, flags);
    return finish(b, w);
}

/* The names of one role for expert `expert` (prequant.c walks experts with it). */
bool bind_spell(build *b, int32_t layer, int32_t expert, const char *role, char *out, size_t n)
{
    return spell(b, layer, expert, role, out, n);
}

/* ---- nothing is left over ---------------------------------------------------------------------------------------- */
static bool matches(const char *const *list, const char *name)
{
    for (; list && *list; list++) {
        const char *p = *list;
        size_t n = strlen(p);
        if (p[0] == '*' ? strlen(name) >= n - 1 && strcmp(name + strlen(name) - (n - 1), p + 1) == 0
            : n && p[n - 1] == '*' ? strncmp(name, p, n - 1) == 0
                                   : strcmp(name, p) == 0)
            return true;
    }
    return false;
}

/* Keys that say nothing about the computation: people's facts, the tokenizer (src/text reads it), how the file was made. */
static const char *const harmless_gguf[] = {
    "general.*", "tokenizer.*", "split.*", "quantize.*", "imatrix.*", "GGUF.*", "sampling.*", NULL,
};
static const char *const harmless_hf[] = {
    "architectures*", "model_type", "text_config.model_type", "torch_dtype", "dtype", "text_config.torch_dtype", "text_config.dtype",
    "transformers_version", "text_config.transformers_version", "*bos_token_id", "*eos_token_id", "*pad_token_id",
    "*initializer_range", "*use_cache", "*attention_dropout", "_name_or_path", "auto_map*", "*_attn_implementation",
    "*pretraining_tp", "*rope_interleaved", "generation_config.*", "*unk_token_id", "*decoder_start_token_id", "*sep_token_id",
    "*return_dict", "*output_hidden_states", "*output_attentions", "*is_encoder_decoder", "*cross_attention_hidden_size",
    "*add_cross_attention", "*tie_encoder_decoder", "*chunk_size_feed_forward", "*problem_type", "*tie_word_embeddings",
    "*hidden_dropout", "*resid_pdrop", "*embd_pdrop", "*head_dim", "quantization_config*", "compression_config*", "*id2label*",
    "*label2id*", "*max_window_layers", "*attention_bias", "*mlp_bias", NULL,
};
static const char *const ignored_tensors[] = {"*.rotary_emb.inv_freq", "*.attn_rot_embd", "rope_freqs.weight", NULL};

imp_status bind_check_all(build *b)
{
    if (b->status != IMP_OK)
        return b->status;
    bool gguf = mf_get_kind(b->mf) == MF_GGUF;
    for (size_t i = 0; i < mf_meta_count(b->mf); i++) {
        const meta_kv *kv = mf_meta_at(b->mf, i);
        if (!kv->used && !matches(gguf ? harmless_gguf : harmless_hf, kv->key) && !matches(b->arch->harmless, kv->key))
            return build_fail(b, IMP_E_UNSUPPORTED, "key %s: family %s does not read it, so the model may mean something else",
                              kv->key, b->arch->title);
    }
    for (size_t i = 0; i < mf_tensor_count(b->mf); i++) {
        const mf_tensor *t = mf_tensor_at(b->mf, i);
        if (!t->used && !matches(ignored_tensors, t->name) && !matches(b->arch->ignored_tensor, t->name) &&
            !(b->c->tied && strcmp(t->name, gguf ? "output.weight" : "lm_head.weight") == 0))
            return build_fail(b, IMP_E_UNSUPPORTED, "tensor %s: family %s has no place for it", t->name, b->arch->title);
    }
    return IMP_OK;
}

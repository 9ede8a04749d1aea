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
    {"attn_sinks", "blk.%d.attn_sinks.weight", "model.layers.%d.self_attn.sinks"},
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
    {"ffn_gate_up_fused", "blk.%d.ffn_gate_up_exps.weight", "model.layers.%d.mlp.experts.gate_up_proj"},
    {"ffn_down_fused", "blk.%d.ffn_down_exps.weight", "model.layers.%d.mlp.experts.down_proj"},
    {"ffn_router_bias", "blk.%d.exp_probs_b.bias", "model.layers.%d.mlp.gate.e_score_correction_bias"},
    {"ffn_shexp_gate", "blk.%d.ffn_gate_shexp.weight", "model.layers.%d.mlp.shared_expert.gate_proj.weight"},
    {"ffn_shexp_up", "blk.%d.ffn_up_shexp.weight", "model.layers.%d.mlp.shared_expert.up_proj.weight"},
    {"ffn_shexp_down", "blk.%d.ffn_down_shexp.weight", "model.layers.%d.mlp.shared_expert.down_proj.weight"},
    {"ffn_shexp_router", "blk.%d.ffn_gate_inp_shexp.weight", "model.layers.%d.mlp.shared_expert_gate.weight"},
    {"next_enorm", "blk.%d.nextn.enorm.weight", "model.layers.%d.enorm.weight"},
    {"next_hnorm", "blk.%d.nextn.hnorm.weight", "model.layers.%d.hnorm.weight"},
    {"next_proj", "blk.%d.nextn.eh_proj.weight", "model.layers.%d.eh_proj.weight"},
    {"next_norm", "blk.%d.nextn.shared_head_norm.weight", "model.layers.%d.shared_head.norm.weight"},
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
    if (!gguf && b->arch->next_layers && layer >= (int32_t)b->c->n_layer &&
        strncmp(pattern, "model.layers.", 13) == 0) {
        len = (size_t)snprintf(out, n, "%s", b->arch->next_layers);
        pattern += 13;
        layer -= (int32_t)b->c->n_layer;
    } else if (!gguf && b->hf_prefix && strncmp(pattern, "model.", 6) == 0) {
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

bool bind_has(build *b, int32_t layer, const char *role)
{
    char name[256];
    if (b->status != IMP_OK || !spell(b, layer, 0, role, name, sizeof name))
        return false;
    return prequant_has(b->mf, name);
}

/* "X.weight" has "X.bias"; "X" has "X_bias" or "X.bias". */
static mf_tensor *find_bias(build *b, const char *name, char *out, size_t n)
{
    size_t len = strlen(name);
    bool plain = len > 7 && strcmp(name + len - 7, ".weight") == 0;
    snprintf(out, n, plain ? "%.*s.bias" : "%.*s_bias", (int)(plain ? len - 7 : len), name);
    mf_tensor *t = mf_tensor_find(b->mf, out);
    if (!t && !plain) {
        snprintf(out, n, "%s.bias", name);
        t = mf_tensor_find(b->mf, out);
    }
    return t;
}

static void bind_bias(build *b, const bind_spec *q, const char *name, weight *w)
{
    char bias[264];
    mf_tensor *t = find_bias(b, name, bias, sizeof bias);
    if (!t) {
        if (q->flags & BIND_BIAS)
            build_fail(b, IMP_E_MODEL, "tensor %s: missing, wanted %llu values", bias,
                       (unsigned long long)(w->n_expert * q->total));
        return;
    }
    uint64_t have = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        have *= t->dim[i];
    const quant_fmt *f = quant_get(t->type);
    if (!f || !f->is_float || have != w->n_expert * q->total) {
        build_fail(b, IMP_E_MODEL, "tensor %s: wanted %llu float values, got %llu of type %s", bias,
                   (unsigned long long)(w->n_expert * q->total), (unsigned long long)have, f ? f->name : "?");
        return;
    }
    weight_slice *s = ARENA_ARRAY(b->mem, weight_slice, w->n_expert);
    if (!s) {
        build_fail(b, IMP_E_NOMEM, "%s: out of memory", bias);
        return;
    }
    for (uint32_t i = 0; i < w->n_expert; i++)
        s[i] = (weight_slice){.data = t->data + (i * q->total + q->row) * f->bytes, .rows = w->rows,
                              .stride = f->bytes * q->step, .map = t->map};
    t->used = true;
    w->part[w->n_parts++] = (weight_part){.role = PART_BIAS, .type = t->type, .gran_rows = 1, .gran_cols = 0,
                                          .n_slices = w->n_expert, .slices = s};
    w->n_bytes += w->n_expert * w->rows * f->bytes;
}

/* Nothing failed so far; a plan that ran out of memory has registers of no width, so its shapes mean nothing. */
static bool going_on(build *b)
{
    if (b->status == IMP_OK && (b->p->failed || b->p->mem.failed || b->mem->failed))
        build_fail(b, IMP_E_NOMEM, "plan %s: out of memory", b->p->family);
    return b->status == IMP_OK;
}

/* Columns that the file keeps of each matrix (a transposed one may be a part of what lies there). */
static uint64_t file_cols(const bind_spec *q) { return q->pitch ? q->pitch : q->cols; }

static uint64_t row_bytes(const pq_part *p, const bind_spec *q)
{
    uint64_t bytes = 0, values = p->role == PART_DATA ? q->cols
                                 : p->gran_cols ? (q->cols + p->gran_cols - 1) / p->gran_cols : 1;
    if (p->transposed)
        values = q->total;
    if (p->type == QUANT_I4 && p->packed_rows)
        return values * 4;
    const quant_fmt *f = quant_get(p->type);
    return f && values % f->block == 0 && quant_bytes(p->type, values, &bytes) ? bytes : 0;
}

/* The rows of one tensor that belong to the weight, as slices appended to part i: one an expert. */
static void add_slices(build *b, const bind_spec *q, const pq_part *p, weight *w, uint32_t i, uint32_t n_stacked)
{
    weight_part *part = &w->part[i];
    weight_slice *s = (weight_slice *)(uintptr_t)part->slices + part->n_slices;
    uint64_t stride = row_bytes(p, q), g = p->gran_rows ? p->gran_rows : 1;
    uint64_t per_line = p->packed_rows ? p->packed_rows : g;
    uint64_t total = (q->total + per_line - 1) / per_line; /* lines of the tensor */
    if (!stride || q->row % g || (q->step > 1 && g > 1) ||
        (p->packed_rows && (q->row % p->packed_rows || q->step > 1))) {
        build_fail(b, IMP_E_UNSUPPORTED, "tensor %s: its blocks do not fit rows %llu to %llu", p->t->name,
                   (unsigned long long)q->row,
                   (unsigned long long)(q->row + q->n * q->step));
        return;
    }
    uint64_t rows = (q->n + g - 1) / g, lines = (q->n + per_line - 1) / per_line;
    for (uint32_t k = 0; k < n_stacked; k++) {
        weight_slice *d = &s[k];
        d->map = p->t->map;
        if (p->role != PART_DATA && !p->gran_rows) { /* one value an expert, or one for all */
            bool each = n_stacked > 1 && p->t->n_bytes == (uint64_t)n_stacked * stride;
            *d = (weight_slice){.data = p->t->data + (each ? k * stride : 0), .rows = 1, .stride = stride,
                                .map = p->t->map};
        } else if (p->transposed) {
            uint64_t size = quant_get(p->type)->bytes;
            *d = (weight_slice){.data = p->t->data + k * file_cols(q) * stride + q->row * size, .rows = q->n,
                                .stride = stride, .map = p->t->map};
        } else {
            *d = (weight_slice){.data = p->t->data + (k * total + q->row / per_line) * stride, .rows = rows,
                                .stride = stride * q->step, .map = p->t->map};
        }
        w->n_bytes += p->transposed ? q->n * q->cols * quant_get(p->type)->bytes
                      : d->rows == 1 ? stride : lines * stride;
    }
    part->n_slices += n_stacked;
}

static bool same_layout(const weight_part *a, const pq_part *p)
{
    return a->role == p->role && a->type == p->type && a->gran_rows == p->gran_rows && a->gran_cols == p->gran_cols &&
           a->reciprocal == p->reciprocal;
}

static const weight *missing(build *b, const bind_spec *q, const char *name)
{
    if (!(q->flags & BIND_OPTIONAL))
        build_fail(b, IMP_E_MODEL, "tensor %s: missing, wanted shape %llux%llu", name, (unsigned long long)q->total,
                   (unsigned long long)q->cols);
    return NULL;
}

const weight *bind_full(build *b, int32_t layer, const bind_spec *q)
{
    char name[256];
    if (!going_on(b))
        return NULL;
    if (!spell(b, layer, 0, q->role, name, sizeof name))
        return missing(b, q, q->role);
    /* no heads, no width: the configuration says nonsense */
    if (!q->n_expert || !q->n || !q->cols || q->row > q->total) {
        build_fail(b, IMP_E_MODEL, "tensor %s: the configuration wants %llux%llu of it", name, (unsigned long long)q->n,
                   (unsigned long long)q->cols);
        return NULL;
    }
    uint32_t n_set = q->n_expert > 1 && per_expert(b, q->role) ? q->n_expert : 1, n_stacked = q->n_expert / n_set;
    weight *w = ARENA_NEW(b->mem, weight);
    if (!w) {
        build_fail(b, IMP_E_NOMEM, "tensor %s: out of memory", name);
        return NULL;
    }
    *w = (weight){.n_expert = q->n_expert, .rows = q->n, .cols = q->cols};
    for (uint32_t set = 0; set < n_set; set++) {
        pq_part part[WEIGHT_MAX_PARTS];
        uint32_t n = 0;
        spell(b, layer, (int32_t)set, q->role, name, sizeof name);
        imp_status s = prequant_parts(b->mf, name, n_stacked, q->total, file_cols(q), q->transposed, part, &n, b->e);
        if (s != IMP_OK) {
            b->status = s;
            return NULL;
        }
        if (n == 0 && set == 0)
            return missing(b, q, name);
        if (set == 0) {
            w->name = part[0].t->name;
            w->format = part[0].type;
            w->n_parts = n;
            for (uint32_t i = 0; i < n; i++)
                w->part[i] = (weight_part){.role = part[i].role, .type = part[i].type, .reciprocal = part[i].reciprocal,
                                           .transposed = part[i].transposed, .gran_rows = part[i].gran_rows,
                                           .gran_cols = part[i].gran_cols, .packed_rows = part[i].packed_rows,
                                           .slices = ARENA_ARRAY(b->mem, weight_slice, q->n_expert)};
        }
        if (!going_on(b))
            return NULL;
        if (n != w->n_parts) {
            build_fail(b, IMP_E_UNSUPPORTED, "tensor %s: wanted the layout of expert 0", name);
            return NULL;
        }
        for (uint32_t i = 0; i < n && b->status == IMP_OK; i++) {
            if (!same_layout(&w->part[i], &part[i]))
                build_fail(b, IMP_E_UNSUPPORTED, "tensor %s: wanted the type and layout of expert 0", part[i].t->name);
            else
                add_slices(b, q, &part[i], w, i, n_stacked);
        }
    }
    if (q->flags & (BIND_BIAS | BIND_BIAS_OPT) && b->status == IMP_OK && n_set == 1)
        bind_bias(b, q, name, w);
    if (b->status == IMP_OK)
        b->status = weight_check(w, b->e);
    return b->status == IMP_OK ? w : NULL;
}

const weight *bind_rows(build *b, int32_t layer, const char *role, uint64_t total, uint64_t row, uint64_t n,
                        uint64_t step, uint64_t cols, unsigned flags)
{
    return bind_full(b, layer, &(bind_spec){.role = role, .n_expert = 1, .total = total, .row = row, .n = n,
                                            .step = step, .cols = cols, .flags = flags});
}

const weight *bind_weight(build *b, int32_t layer, const char *role, uint64_t rows, uint64_t cols, unsigned flags)
{
    return bind_rows(b, layer, role, rows, 0, rows, 1, cols, flags);
}

const weight *bind_vector(build *b, int32_t layer, const char *role, uint64_t n, unsigned flags)
{
    return bind_rows(b, layer, role, 1, 0, 1, 1, n, flags);
}

const weight *bind_experts(build *b, int32_t layer, const char *role, uint32_t n_expert, uint64_t rows, uint64_t cols,
                           unsigned flags)
{
    return bind_full(b, layer, &(bind_spec){.role = role, .n_expert = n_expert, .total = rows, .n = rows, .step = 1,
                                            .cols = cols, .flags = flags});
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

/* Keys that say nothing about the computation: people's facts, the tokenizer (src/text reads it), how the file was
 * made. */
static const char *const harmless_gguf[] = {
    "general.*", "tokenizer.*", "split.*", "quantize.*", "imatrix.*", "GGUF.*", "sampling.*", NULL,
};
/* Every configuration of transformers may carry these, at the top or in text_config: how a model was trained or is to
 * be sampled from, what a task or another framework makes of it. Matched without "text_config.". */
static const char *const harmless_hf[] = {
    "architectures*", "model_type", "torch_dtype", "dtype", "transformers_version", "*bos_token_id", "*eos_token_id",
    "*pad_token_id", "*unk_token_id", "*sep_token_id", "decoder_start_token_id", "_name_or_path", "auto_map*",
    "initializer_range", "use_cache", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop",
    "*_attn_implementation", "_attn_implementation_autoset", "pretraining_tp", "return_dict", "output_hidden_states",
    "output_attentions", "is_encoder_decoder", "is_decoder", "cross_attention_hidden_size", "add_cross_attention",
    "tie_encoder_decoder", "chunk_size_feed_forward", "problem_type", "tie_word_embeddings", "head_dim",
    "max_window_layers", "attention_bias", "mlp_bias", "id2label.*", "label2id.*", "finetuning_task",
    "task_specific_params*", "pruned_heads*", "tokenizer_class", "prefix", "torchscript", "use_bfloat16",
    "tf_legacy_loss", "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
    "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens", "transformers.js_config.*", "unsloth_fixed", "unsloth_version", "generation_config.*",
    "quantization_config*", "compression_config*", "hf_quant_config*", NULL,
};
/* Rotations that are computed, and scales of quantised caches where they lie beside no weight; imp's caches need
 * none. */
static const char *const ignored_tensors[] = {
    "*.rotary_emb.inv_freq", "*.attn_rot_embd", "rope_freqs.weight", "*.self_attn.q_scale", "*.self_attn.k_scale",
    "*.self_attn.v_scale", "*.kv_scale", NULL,
};

/* A tensor of a multi-token-prediction module that its plan has no use for: those that the configuration counts come
 * after the text's layers. A module that was planned may still hold copies of the embedding and the head. */
static bool of_next(const build *b, const char *name)
{
    static const char *const copies[] = {"*.embed_tokens.weight", "*.shared_head.head.weight",
                                         "*.shared_head_head.weight", NULL};
    unsigned layer;
    if ((sscanf(name, "blk.%u.", &layer) != 1 && sscanf(name, "model.layers.%u.", &layer) != 1) ||
        layer < b->c->n_layer || layer - b->c->n_layer >= b->c->n_next)
        return false;
    return layer - b->c->n_layer >= b->n_next || matches(copies, name);
}

imp_status bind_check_all(build *b)
{
    if (b->status != IMP_OK)
        return b->status;
    bool gguf = mf_get_kind(b->mf) == MF_GGUF;
    for (size_t i = 0; i < mf_meta_count(b->mf); i++) {
        const meta_kv *kv = mf_meta_at(b->mf, i);
        /* nested or not, the same key */
        const char *inner = strncmp(kv->key, "text_config.", 12) == 0 ? kv->key + 12 : kv->key;
        if (!kv->used && kv->v.type != META_NULL && !matches(gguf ? harmless_gguf : harmless_hf, inner) &&
            !matches(b->arch->harmless, kv->key) && !matches(b->arch->harmless, inner))
            return build_fail(b, IMP_E_UNSUPPORTED,
                              "key %s: family %s does not read it, so the model may mean something else",
                              kv->key, b->arch->title);
    }
    for (size_t i = 0; i < mf_tensor_count(b->mf); i++) {
        const mf_tensor *t = mf_tensor_at(b->mf, i);
        if (!t->used && !matches(ignored_tensors, t->name) && !of_next(b, t->name) &&
            !matches(b->arch->ignored_tensor, t->name) &&
            !(b->c->tied && strcmp(t->name, gguf ? "output.weight" : "lm_head.weight") == 0))
            return build_fail(b, IMP_E_UNSUPPORTED, "tensor %s: family %s has no place for it", t->name,
                              b->arch->title);
    }
    return IMP_OK;
}

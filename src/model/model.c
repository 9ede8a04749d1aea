#include "model/model.h"

#include <string.h>

#include "base/mem.h"

static const arch_def *arch_find(const char *name, size_t n)
{
    for (const arch_def *const *a = arch_list; *a; a++)
        for (const char *const *s = (*a)->names; *s; s++)
            if (strlen(*s) == n && memcmp(*s, name, n) == 0)
                return *a;
    return NULL;
}

/* The name that the file gives its family. */
static imp_status family_name(modelfile *mf, meta_str *out, imp_err *e)
{
    bool gguf = mf_get_kind(mf) == MF_GGUF;
    const char *key = gguf ? "general.architecture" : "architectures";
    const meta_value *v = mf_meta(mf, key);
    if (gguf && v && v->type == META_STR)
        *out = v->str;
    else if (gguf || !v || v->type != META_ARRAY || !mf_array_str(v, 0, out))
        return err_set(e, IMP_E_MODEL, "%s: key %s: missing, so the model's family is unknown", mf_path(mf), key);
    return IMP_OK;
}

static imp_status pick_arch(model *m, imp_err *e)
{
    meta_str name;
    imp_status s = family_name(m->mf, &name, e);
    if (s != IMP_OK)
        return s;
    m->arch = arch_find(name.s, name.n);
    if (m->arch)
        return IMP_OK;
    strbuf list = {0};
    for (const arch_def *const *a = arch_list; *a; a++)
        sb_printf(&list, "%s%s", a == arch_list ? "" : ", ", (*a)->names[0]);
    s = err_set(e, IMP_E_UNSUPPORTED, "%s: family '%.*s' is not supported; supported are: %s", mf_path(m->mf),
                (int)(name.n < 80 ? name.n : 80), name.s, list.s ? list.s : "");
    sb_free(&list);
    return s;
}

/* A folder's quantisation method: its tensors tell the layout, but a method that changes the computation in other ways
 * (rotations, codebooks of its own) must not pass for one that does not. */
static imp_status check_method(model *m, imp_err *e)
{
    static const char *const known[] = {"modelopt", "compressed-tensors", "fp8", "mxfp4"};
    for (size_t i = 0; i < mf_meta_count(m->mf); i++)
        if (strncmp(mf_meta_at(m->mf, i)->key, "quantization_config.transform_config.", 37) == 0)
            return err_set(e, IMP_E_UNSUPPORTED, "key %s: rotated weights are not supported",
                           mf_meta_at(m->mf, i)->key);
    const meta_value *v = mf_meta(m->mf, "quantization_config.quant_method");
    if (!v || v->type != META_STR)
        return IMP_OK;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (cfg_str_is(v->str, known[i]))
            return IMP_OK;
    return err_set(e, IMP_E_UNSUPPORTED, "key quantization_config.quant_method: '%.*s' is not supported; "
                   "supported are modelopt, compressed-tensors, fp8, mxfp4",
                   (int)(v->str.n < 64 ? v->str.n : 64), v->str.s);
}

static void count(model *m)
{
    const plan *p = &m->text;
    bool embed_is_head = m->config.tied;
    for (int32_t i = 0; i < p->n_weight; i++) {
        const weight *w = p->weight[i];
        uint64_t n = w->n_expert * w->rows * w->cols;
        m->n_param += n;
        m->weight_bytes += w->n_bytes;
        bool embed = p->n_op && p->op[0].kind == OP_EMBED && p->op[0].weight[0] == i;
        if (w->n_expert > 1 && m->config.moe.n_expert == w->n_expert)
            n = n / w->n_expert * m->config.moe.n_used;
        if (!embed || embed_is_head)
            m->n_param_active += n;
    }
    for (uint32_t i = 0; i < m->n_next; i++)
        for (int32_t j = 0; j < m->next[i].n_weight; j++) {
            const weight *w = m->next[i].weight[j];
            bool own = true; /* the embedding and the head are the text's */
            for (int32_t k = 0; k < p->n_weight && own; k++)
                own = p->weight[k] != w;
            m->n_param_next += own ? w->n_expert * w->rows * w->cols : 0;
        }
}

static void begin_plan(build *b, plan *p)
{
    const model_config *c = b->c;
    b->p = p;
    for (int i = 0; i < CONFIG_MAX_ROPE; i++)
        b->rope_const[i] = -1;
    plan_init(p, b->arch->names[0]);
    p->n_vocab = c->n_vocab;
    p->n_hidden = c->n_hidden;
    p->n_layer = c->n_layer;
    p->n_ctx_train = c->n_ctx_train;
}

/* Modules that the file has, up to the first that it has not. Their layers are like the text's last one that
 * attends. */
static imp_status plan_next(model *m, build *b)
{
    model_config *c = &m->config;
    int32_t like = (int32_t)c->n_layer - 1;
    while (like > 0 && c->layer[like].mixer != MIX_ATTENTION && c->layer[like].mixer != MIX_MLA)
        like--;
    imp_status s = IMP_OK;
    bool there = true;
    for (uint32_t i = 0; i < c->n_next && i < CONFIG_MAX_NEXT && s == IMP_OK && there; i++) {
        c->layer[c->n_layer + i] = c->layer[like];
        begin_plan(b, &m->next[i]);
        m->next[i].n_layer = 1;
        s = build_next(b, &m->text, i, &there);
        if (s == IMP_OK && there)
            s = plan_finish(&m->next[i], b->e);
        if (s == IMP_OK && there)
            m->n_next++;
    }
    return s;
}

static imp_status plan_text(model *m, const char *arch_name, const model_options *opt, imp_err *e)
{
    bool gguf = mf_get_kind(m->mf) == MF_GGUF;
    model_config *c = &m->config;
    imp_status ms = gguf ? IMP_OK : check_method(m, e);
    if (ms != IMP_OK)
        return ms;
    cfg k = {.mf = m->mf, .gguf = gguf, .arch = arch_name, .nest = "", .e = e, .mem = &m->mem};
    if (!gguf && mf_meta(m->mf, "text_config.hidden_size"))
        k.nest = "text_config.";
    m->arch->config(&k, c);
    if (k.status != IMP_OK)
        return k.status;
    c->n_ctx = opt->n_ctx ? opt->n_ctx : c->n_ctx_train;
    build b = {.mf = m->mf, .arch = m->arch, .c = c, .mem = &m->mem, .e = e};
    if (!gguf && !mf_tensor_find(m->mf, "model.embed_tokens.weight"))
        b.hf_prefix = mf_tensor_find(m->mf, "model.language_model.embed_tokens.weight")   ? "model.language_model."
                      : mf_tensor_find(m->mf, "language_model.model.embed_tokens.weight") ? "language_model.model."
                      : mf_tensor_find(m->mf, "backbone.embeddings.weight")               ? "backbone."
                                                                                          : NULL;
    b.slot_of_layer = ARENA_ARRAY(&m->mem, int32_t, c->n_layer + CONFIG_MAX_NEXT);
    b.kvgroup_of_layer = ARENA_ARRAY(&m->mem, int32_t, c->n_layer + CONFIG_MAX_NEXT);
    if (!b.slot_of_layer || !b.kvgroup_of_layer)
        return err_oom(e, "layer table", c->n_layer * sizeof(int32_t));
    begin_plan(&b, &m->text);
    imp_status s = build_text(&b);
    if (s == IMP_OK)
        s = plan_finish(&m->text, e);
    if (s == IMP_OK)
        s = plan_next(m, &b);
    b.n_next = m->n_next;
    return s == IMP_OK ? bind_check_all(&b) : s;
}

imp_status model_open(model **out, const char *path, const model_options *opt, imp_err *e)
{
    static const model_options none = {0};
    *out = NULL;
    model *m = mem_calloc(1, sizeof *m);
    if (!m)
        return err_oom(e, path, sizeof *m);
    imp_status s = mf_open(&m->mf, path, e);
    if (s == IMP_OK)
        s = pick_arch(m, e);
    if (s == IMP_OK) {
        /* GGUF prefixes its keys with the family's name as the file spells it */
        meta_str name = {0};
        s = family_name(m->mf, &name, e);
        char *arch = s == IMP_OK ? arena_strndup(&m->mem, name.s, name.n) : NULL;
        if (s == IMP_OK && !arch)
            s = err_oom(e, path, name.n);
        imp_err why = {0};
        if (s == IMP_OK && (s = plan_text(m, arch, opt ? opt : &none, &why)) != IMP_OK)
            err_set(e, s, "%s: %s", path, why.message);
    }
    if (s != IMP_OK) {
        model_close(m);
        return s;
    }
    count(m);
    *out = m;
    return IMP_OK;
}

void model_close(model *m)
{
    if (!m)
        return;
    plan_free(&m->text);
    for (uint32_t i = 0; i < CONFIG_MAX_NEXT; i++)
        plan_free(&m->next[i]);
    mf_close(m->mf);
    arena_free(&m->mem);
    mem_free(m);
}

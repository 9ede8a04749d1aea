/* What `imp inspect` tells: read off the model, its plan and, with an engine, the kernels that serve it. */
#include <string.h>

#include "api/api.h"
#include "base/jsonw.h"
#include "base/mem.h"

typedef struct format_sum { quant_id id; uint64_t n_tensor, n_value, n_bytes; } format_sum;

/* Weights by format, largest first. */
static uint32_t sum_formats(const model *m, format_sum *f, uint32_t max)
{
    uint32_t n = 0;
    for (int32_t i = 0; i < m->text.n_weight; i++) {
        const weight *w = m->text.weight[i];
        uint32_t j = 0;
        while (j < n && f[j].id != w->format)
            j++;
        if (j == n && n < max)
            f[n++] = (format_sum){.id = w->format};
        if (j == max)
            continue;
        f[j].n_tensor++;
        f[j].n_value += w->n_expert * w->rows * w->cols;
        f[j].n_bytes += w->n_bytes;
    }
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t j = i; j > 0 && f[j].n_bytes > f[j - 1].n_bytes; j--) {
            format_sum t = f[j];
            f[j] = f[j - 1];
            f[j - 1] = t;
        }
    return n;
}

static const char *format_name(quant_id id) { return quant_get(id) ? quant_get(id)->name : "?"; }

static void meta_json(jw *w, const meta_value *v)
{
    int64_t i;
    double f;
    meta_str s;
    switch (v->type) {
    case META_BOOL: jw_bool(w, v->b); break;
    case META_INT: jw_int(w, v->i); break;
    case META_UINT: jw_uint(w, v->u); break;
    case META_FLOAT: jw_double(w, v->f); break;
    case META_STR: jw_strn(w, v->str.s, v->str.n); break;
    case META_NULL: jw_null(w); break;
    case META_ARRAY:
        jw_array(w);
        for (uint64_t k = 0; k < v->arr.n && k < 16; k++) { /* vocabularies would be megabytes: the first ones tell */
            if (mf_array_str(v, k, &s))
                jw_strn(w, s.s, s.n);
            else if (v->arr.elem == META_FLOAT && mf_array_float(v, k, &f))
                jw_double(w, f);
            else if (mf_array_int(v, k, &i))
                jw_int(w, i);
            else
                jw_null(w);
        }
        jw_end_array(w);
        break;
    }
}

static void print_json(const imp_model *im, engine *g, bool plan, strbuf *out)
{
    model *m = im->m;
    const model_config *c = &m->config;
    format_sum f[32];
    uint32_t nf = sum_formats(m, f, 32);
    jw w;
    jw_init(&w, out);
    jw_object(&w);
    jw_kstr(&w, "path", mf_path(m->mf));
    jw_kstr(&w, "name", im->name);
    jw_kstr(&w, "family", m->arch->title);
    jw_kstr(&w, "architecture", m->arch->names[0]);
    jw_kint(&w, "parameters", (int64_t)m->n_param);
    jw_kint(&w, "active_parameters", (int64_t)m->n_param_active);
    jw_kint(&w, "weight_bytes", (int64_t)m->weight_bytes);
    jw_kint(&w, "layers", c->n_layer);
    jw_kint(&w, "hidden", c->n_hidden);
    jw_kint(&w, "vocabulary", c->n_vocab);
    jw_kint(&w, "context", c->n_ctx_train);
    if (m->n_next) {
        jw_key(&w, "multi_token_prediction");
        jw_object(&w);
        jw_kint(&w, "modules", m->n_next);
        jw_kint(&w, "parameters", (int64_t)m->n_param_next);
        jw_end_object(&w);
    }
    jw_kint(&w, "kv_bytes_per_token_f16", (int64_t)plan_kv_bytes_per_token(&m->text, 16));
    jw_kbool(&w, "tokenizer", im->t != NULL);
    jw_key(&w, "formats");
    jw_array(&w);
    for (uint32_t i = 0; i < nf; i++) {
        jw_object(&w);
        jw_kstr(&w, "format", format_name(f[i].id));
        jw_kint(&w, "tensors", (int64_t)f[i].n_tensor);
        jw_kint(&w, "values", (int64_t)f[i].n_value);
        jw_kint(&w, "bytes", (int64_t)f[i].n_bytes);
        jw_end_object(&w);
    }
    jw_end_array(&w);
    jw_key(&w, "metadata");
    jw_object(&w);
    for (size_t i = 0; i < mf_meta_count(m->mf); i++) {
        const meta_kv *kv = mf_meta_at(m->mf, i);
        jw_key(&w, kv->key);
        meta_json(&w, &kv->v);
    }
    jw_end_object(&w);
    jw_key(&w, "tensors");
    jw_array(&w);
    for (size_t i = 0; i < mf_tensor_count(m->mf); i++) {
        const mf_tensor *t = mf_tensor_at(m->mf, i);
        jw_object(&w);
        jw_kstr(&w, "name", t->name);
        jw_kstr(&w, "type", format_name(t->type));
        jw_key(&w, "shape");
        jw_array(&w);
        for (uint32_t d = t->n_dims; d > 0; d--)
            jw_uint(&w, t->dim[d - 1]);
        jw_end_array(&w);
        jw_kint(&w, "bytes", (int64_t)t->n_bytes);
        jw_end_object(&w);
    }
    jw_end_array(&w);
    if (plan) {
        jw_key(&w, "plan");
        jw_array(&w);
        for (int32_t i = 0; i < m->text.n_op; i++) {
            const plan_op *o = &m->text.op[i];
            jw_object(&w);
            jw_kint(&w, "layer", o->layer);
            jw_kstr(&w, "role", o->role);
            jw_kstr(&w, "operation", plan_op_name(o->kind));
            if (o->weight[0] >= 0) {
                jw_kstr(&w, "weight", m->text.weight[o->weight[0]]->name);
                jw_kstr(&w, "format", format_name(m->text.weight[o->weight[0]]->format));
            }
            if (g)
                jw_kstr(&w, "kernel", engine_kernel(g, i));
            jw_end_object(&w);
        }
        jw_end_array(&w);
    }
    jw_end_object(&w);
    sb_char(out, '\n');
}

static void print_text(const imp_model *im, engine *g, bool plan, strbuf *out)
{
    model *m = im->m;
    const model_config *c = &m->config;
    format_sum f[32];
    uint32_t nf = sum_formats(m, f, 32);
    sb_printf(out, "%s\n  family      %s (%s)\n  parameters  %.2f M", im->name, m->arch->title, m->arch->names[0],
              (double)m->n_param / 1e6);
    if (m->n_param_active != m->n_param)
        sb_printf(out, ", %.2f M a token", (double)m->n_param_active / 1e6);
    sb_printf(out, "\n  shape       %u layers, width %u, vocabulary %u, context %u\n", c->n_layer, c->n_hidden,
              c->n_vocab, c->n_ctx_train);
    sb_printf(out, "  weights     %.1f MB, %.2f bits each\n", (double)m->weight_bytes / 1e6,
              m->n_param ? 8.0 * (double)m->weight_bytes / (double)m->n_param : 0);
    for (uint32_t i = 0; i < nf; i++)
        sb_printf(out, "    %-8s %5llu tensors %10.1f MB\n", format_name(f[i].id), (unsigned long long)f[i].n_tensor,
                  (double)f[i].n_bytes / 1e6);
    if (m->n_next)
        sb_printf(out, "  prediction  %u module%s of %.2f M parameters for tokens after the next: "
                       "planned, not run yet\n",
                  m->n_next, m->n_next == 1 ? "" : "s", (double)m->n_param_next / 1e6);
    uint64_t kv = plan_kv_bytes_per_token(&m->text, 16);
    sb_printf(out, "  KV cache    %.1f kB a token in f16: %.1f MB for 4096, %.1f MB for %u tokens "
                   "(windows need less)\n",
              (double)kv / 1e3, (double)kv * 4096 / 1e6, (double)kv * c->n_ctx_train / 1e6, c->n_ctx_train);
    sb_printf(out, "  tokenizer   %s\n", im->t ? "yes" : "none: takes token ids only");
    size_t n = 0;
    sb_printf(out, "  template    %s\n", im->t && tok_chat_template(im->t, &n) ? "yes" : "none");
    if (plan && g)
        engine_print_plan(g, out);
    else if (plan)
        plan_print(&m->text, NULL, NULL, out);
    for (uint32_t i = 0; plan && i < m->n_next; i++)
        plan_print(&m->next[i], NULL, NULL, out);
}

static imp_status inspect(const imp_model *m, engine *g, bool plan, bool json, char **out, imp_err *e)
{
    strbuf b = {0};
    (json ? print_json : print_text)(m, g, plan, &b);
    size_t n = b.n;
    *out = sb_take(&b);
    return *out ? IMP_OK : err_oom(e, "inspect", n);
}

imp_status imp_model_inspect(const imp_model *m, bool plan, bool json, char **out, imp_err *e)
{
    return inspect(m, NULL, plan, json, out, e);
}

imp_status imp_engine_inspect(imp_engine *g, bool json, char **out, imp_err *e)
{
    return inspect(g->m, g->g, true, json, out, e);
}

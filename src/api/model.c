#include <stdio.h>
#include <string.h>

#include "api/api.h"
#include "base/mem.h"

const char *imp_version(void) { return IMP_VERSION; }

static const struct {
    imp_status s;
    const char *text;
    int http;
    imp_reach reach;
} status_info[] = {
#define IMP_X(name, num, text, http, reach) {IMP_##name, text, http, IMP_REACH_##reach},
    IMP_STATUS_LIST(IMP_X)
#undef IMP_X
};

static size_t status_row(imp_status s)
{
    for (size_t i = 0; i < sizeof status_info / sizeof *status_info; i++)
        if (status_info[i].s == s)
            return i;
    return sizeof status_info / sizeof *status_info - 1; /* an unknown code is an internal error */
}

const char *imp_status_text(imp_status s) { return status_info[status_row(s)].text; }
int imp_status_http(imp_status s) { return status_info[status_row(s)].http; }
imp_reach imp_status_reach(imp_status s) { return status_info[status_row(s)].reach; }

void imp_free(void *p) { mem_free(p); }

/* ---- defaults --------------------------------------------------------------------------------------------------- */
void imp_sampling_init(imp_sampling *s)
{
    *s = (imp_sampling){.size = sizeof *s, .top_p = 1, .typical_p = 1, .repeat_penalty = 1, .repeat_last_n = 64,
                        .dry_base = 1.75f, .dry_allowed_length = 2, .dry_penalty_last_n = -1,
                        .mirostat_tau = 5, .mirostat_eta = 0.1f};
}

/* The file's own settings: general.sampling.* in GGUF, generation_config.json beside SafeTensors. */
static bool setting(modelfile *mf, const char *gguf, const char *hf, double *out)
{
    const meta_value *v = mf_meta(mf, mf_get_kind(mf) == MF_GGUF ? gguf : hf);
    if (!v || (v->type != META_FLOAT && v->type != META_INT))
        return false;
    *out = v->type == META_INT ? (double)v->i : v->f;
    return *out >= 0 && *out <= 1000;
}

static void read_sampling(modelfile *mf, imp_sampling *s)
{
    double t, p, k, mp;
    imp_sampling_init(s);
    bool any = setting(mf, "general.sampling.temp", "generation_config.temperature", &t);
    s->temperature = any ? (float)t : 0.8f;
    bool has_p = setting(mf, "general.sampling.top_p", "generation_config.top_p", &p) && p <= 1;
    bool has_k = setting(mf, "general.sampling.top_k", "generation_config.top_k", &k);
    s->top_p = has_p ? (float)p : any || has_k ? 1 : 0.95f;
    if (has_k)
        s->top_k = (int32_t)k;
    if (setting(mf, "general.sampling.min_p", "generation_config.min_p", &mp) && mp <= 1)
        s->min_p = (float)mp;
}

void imp_model_default_sampling(const imp_model *m, imp_sampling *s) { *s = m->sampling; }

/* ---- opening ---------------------------------------------------------------------------------------------------- */
void imp_model_params_init(imp_model_params *p) { *p = (imp_model_params){.size = sizeof *p}; }

/* general.name, else the last part of the path without its extension. */
static char *model_name(modelfile *mf, const char *path)
{
    const meta_value *v = mf_meta(mf, "general.name");
    if (v && v->type == META_STR && v->str.n)
        return mem_strndup(v->str.s, v->str.n);
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t b = n;
    while (b > 0 && path[b - 1] != '/')
        b--;
    if (n - b > 5 && memcmp(path + n - 5, ".gguf", 5) == 0)
        n -= 5;
    return mem_strndup(path + b, n - b);
}

imp_status imp_model_open(const char *path, const imp_model_params *p, imp_model **out, imp_err *e)
{
    *out = NULL;
    imp_model *m = mem_calloc(1, sizeof *m);
    if (!m)
        return err_oom(e, path, sizeof *m);
    imp_model_params_init(&m->par);
    if (p) /* an older caller's struct is shorter: what it does not know keeps its default */
        memcpy(&m->par, p, p->size < sizeof m->par ? p->size : sizeof m->par);
    atomic_init(&m->refs, 1);
    model_options opt = {.n_ctx = m->par.n_ctx};
    imp_status s = model_open(&m->m, path, &opt, e);
    if (s == IMP_OK) {
        imp_err te = {0};
        s = tok_new(&m->t, m->m->mf, &te);
        if (s == IMP_E_NOTFOUND)
            s = IMP_OK; /* no vocabulary: ids only */
        else if (s != IMP_OK)
            err_set(e, s, "%s: %s", path, te.message);
    }
    if (s == IMP_OK && !(m->name = model_name(m->m->mf, path)))
        s = err_oom(e, path, strlen(path));
    if (s == IMP_OK)
        s = api_templates_new(&m->templates, e);
    if (s != IMP_OK) {
        api_model_unref(m);
        return s;
    }
    read_sampling(m->m->mf, &m->sampling); /* here, because reading marks keys, and an open model is shared */
    *out = m;
    return IMP_OK;
}

void api_model_unref(imp_model *m)
{
    if (!m || atomic_fetch_sub(&m->refs, 1) > 1)
        return;
    api_templates_free(m->templates);
    tok_free(m->t);
    model_close(m->m);
    mem_free(m->name);
    mem_free(m);
}

void imp_model_close(imp_model *m) { api_model_unref(m); }

imp_status imp_model_get_info(const imp_model *m, imp_model_info *info)
{
    const model_config *c = &m->m->config;
    size_t n_tmpl = 0;
    imp_model_info full = {
        .size = info->size, .family = m->m->arch->title, .name = m->name, .path = mf_path(m->m->mf),
        .n_layer = c->n_layer, .n_hidden = c->n_hidden, .n_vocab = c->n_vocab, .n_ctx_train = c->n_ctx_train,
        .n_param = m->m->n_param, .n_param_active = m->m->n_param_active, .weight_bytes = m->m->weight_bytes,
        .has_tokenizer = m->t != NULL, .has_template = m->t && tok_chat_template(m->t, &n_tmpl),
        .bos = m->t ? tok_bos(m->t) : -1, .eos = m->t ? tok_eos(m->t) : -1,
    };
    memcpy(info, &full, info->size < sizeof full ? info->size : sizeof full);
    return IMP_OK;
}

/* ---- tokens ----------------------------------------------------------------------------------------------------- */
static imp_status need_tok(const imp_model *m, imp_err *e)
{
    return m->t ? IMP_OK : err_set(e, IMP_E_UNSUPPORTED, "%s: has no tokenizer; give token ids", mf_path(m->m->mf));
}

imp_status imp_tokenize(const imp_model *m, const char *text, size_t n, unsigned flags, int32_t **ids, size_t *n_ids,
                        imp_err *e)
{
    *ids = NULL;
    *n_ids = 0;
    imp_status s = need_tok(m, e);
    tok_ids v = {0};
    unsigned f = (flags & IMP_ADD_SPECIAL ? (unsigned)TOK_ADD_SPECIAL : 0) |
                 (flags & IMP_PARSE_SPECIAL ? (unsigned)TOK_PARSE_SPECIAL : 0);
    if (s == IMP_OK)
        s = tok_encode(m->t, text, n, f, &v, e);
    if (s != IMP_OK) {
        tok_ids_free(&v);
        return s;
    }
    *ids = v.id;
    *n_ids = v.n;
    return IMP_OK;
}

imp_status imp_detokenize(const imp_model *m, const int32_t *ids, size_t n, bool keep_special, char **text,
                          size_t *n_text, imp_err *e)
{
    *text = NULL;
    strbuf b = {0};
    imp_status s = need_tok(m, e);
    if (s == IMP_OK)
        s = tok_decode(m->t, ids, n, keep_special, &b, e);
    size_t len = b.n;
    if (s == IMP_OK && !(*text = sb_take(&b)))
        s = err_oom(e, "text", len);
    if (n_text)
        *n_text = len;
    sb_free(&b);
    return s;
}

void imp_token_bytes(const imp_model *m, int32_t id, const char **s, size_t *n)
{
    *s = "";
    *n = 0;
    if (m->t)
        tok_bytes(m->t, id, s, n);
}

bool imp_token_is_eog(const imp_model *m, int32_t id) { return m->t && tok_is_eog(m->t, id); }

void imp_request_init(imp_request *r)
{
    *r = (imp_request){.size = sizeof *r, .n = 1, .logprobs = -1};
    imp_sampling_init(&r->sampling);
}

void imp_engine_params_init(imp_engine_params *p) { *p = (imp_engine_params){.size = sizeof *p, .prefix_cache = true}; }

/* Chat of the C API: templates compiled once a model and shared by all threads. */
#include <string.h>

#include "api/api.h"
#include "base/mem.h"
#include "text/chat.h"

/* Compiled templates of one model. A template is compiled and probed the first time it is used and lives as long as the
 * model; past API_MAX_TEMPLATES different ones, further ones are compiled for one use. */
struct api_templates {
    pthread_mutex_t lock;
    struct { char *key; chat_template *t; } row[API_MAX_TEMPLATES];
    size_t n;
};

imp_status api_templates_new(api_templates **out, imp_err *e)
{
    *out = mem_calloc(1, sizeof **out);
    if (!*out)
        return err_oom(e, "chat templates", sizeof **out);
    pthread_mutex_init(&(*out)->lock, NULL);
    return IMP_OK;
}

void api_templates_free(api_templates *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < a->n; i++) {
        mem_free(a->row[i].key);
        chat_template_free(a->row[i].t);
    }
    pthread_mutex_destroy(&a->lock);
    mem_free(a);
}

/* What stands for a template: NULL = the model's own, a built-in's name, or a template's text (which has a brace). */
static imp_status compile(const imp_model *m, const char *tmpl, chat_template **out, imp_err *e)
{
    size_t n = 0;
    if (!tmpl) {
        const char *text = m && m->t ? tok_chat_template(m->t, &n) : NULL;
        if (!text)
            return err_set(e, IMP_E_NOTFOUND,
                           "%s has no chat template; choose one with --chat-template "
                           "(chatml, llama3, gemma, ... or a file)",
                           m ? m->name : "no model: it");
        return chat_template_new(out, text, n, "chat template of the model", e);
    }
    if (!strchr(tmpl, '{'))
        return chat_template_builtin(out, tmpl, e);
    return chat_template_new(out, tmpl, strlen(tmpl), "chat template", e);
}

imp_status api_template(const imp_model *m, const char *tmpl, chat_template **out, bool *own, imp_err *e)
{
    const char *key = tmpl ? tmpl : "";
    imp_status s = IMP_OK;
    *out = NULL;
    *own = !m;
    if (!m)
        return compile(m, tmpl, out, e);
    api_templates *a = m->templates;
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < a->n && !*out; i++)
        if (strcmp(a->row[i].key, key) == 0)
            *out = a->row[i].t;
    if (!*out) {
        char *copy = mem_strdup(key);
        s = copy ? compile(m, tmpl, out, e) : err_oom(e, "chat template", strlen(key));
        *own = s == IMP_OK && a->n == API_MAX_TEMPLATES;
        if (s == IMP_OK && !*own) {
            a->row[a->n].key = copy;
            a->row[a->n++].t = *out;
        } else {
            mem_free(copy);
        }
    }
    pthread_mutex_unlock(&a->lock);
    return s;
}

static char *token_text(const imp_model *m, int32_t id, arena *a)
{
    const char *s = "";
    size_t n = 0;
    if (id >= 0)
        tok_bytes(m->t, id, &s, &n);
    return arena_strndup(a, s, n);
}

static imp_status render(const imp_model *m, const char *tmpl, const char *json, size_t n, chat_mode mode,
                         jinja_out *out, imp_err *e)
{
    arena a = {0};
    chat_request r;
    chat_template *t = NULL;
    bool own = false;
    chat_request_init(&r);
    r.mode = mode;
    imp_status s = api_template(m, tmpl, &t, &own, e);
    if (s == IMP_OK)
        s = chat_request_parse(&r, &a, json, n, e);
    if (s == IMP_OK && !r.bos_token)
        r.bos_token = token_text(m, m && m->t ? tok_bos(m->t) : -1, &a);
    if (s == IMP_OK && !r.eos_token)
        r.eos_token = token_text(m, m && m->t ? tok_eos(m->t) : -1, &a);
    if (s == IMP_OK)
        s = chat_render(t, &r, &a, out, e);
    arena_free(&a);
    if (own)
        chat_template_free(t);
    return s;
}

imp_status imp_chat_render(const imp_model *m, const char *tmpl, const char *request_json, size_t n, char **text,
                           size_t *n_text, imp_err *e)
{
    jinja_out out = {0};
    *text = NULL;
    imp_status s = render(m, tmpl, request_json, n, CHAT_VERBATIM, &out, e);
    size_t len = out.text.n;
    if (s == IMP_OK && !len)
        sb_str(&out.text, "");
    if (s == IMP_OK && !(*text = sb_take(&out.text)))
        s = err_oom(e, "prompt", len);
    if (n_text)
        *n_text = len;
    jinja_out_free(&out);
    return s;
}

imp_status imp_chat_tokenize(const imp_model *m, const char *tmpl, const char *request_json, size_t n, int32_t **ids,
                             size_t *n_ids, imp_err *e)
{
    jinja_out out = {0};
    tok_ids v = {0};
    *ids = NULL;
    *n_ids = 0;
    imp_status s = m->t ? IMP_OK : err_set(e, IMP_E_UNSUPPORTED, "%s: has no tokenizer; give token ids", m->name);
    if (s == IMP_OK)
        s = render(m, tmpl, request_json, n, CHAT_FIT, &out, e);
    if (s == IMP_OK)
        s = chat_encode(m->t, &out, &v, e);
    jinja_out_free(&out);
    if (s != IMP_OK) {
        tok_ids_free(&v);
        return s;
    }
    *ids = v.id;
    *n_ids = v.n;
    return IMP_OK;
}

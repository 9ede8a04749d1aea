/* The small endpoints: health, models, metrics, tokens, templates. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/jsonw.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "server/fields.h"

/* ---- on the I/O thread ------------------------------------------------------------------------------------------- */
void route_health(call *c)
{
    server *s = c->s;
    if (!atomic_load(&s->ready)) {
        call_error(c, 503, NULL, NULL, "the model is still being loaded");
    } else if (atomic_load(&s->draining)) {
        call_error(c, 503, NULL, NULL, "the server is shutting down");
    } else {
        const char *lost = imp_engine_lost(s->g);
        if (lost) {
            call_error(c, 503, NULL, NULL, lost);
            return;
        }
        sb_str(&c->out, "{\"status\":\"ok\"}");
        call_answer(c, 200, "application/json");
    }
}

void route_metrics(call *c)
{
    server *s = c->s;
    imp_stats st = {.size = sizeof st};
    imp_engine_stats(s->g, &st);
    metrics_print(&s->metrics, s->model_id, &st, (double)s->created, &c->out);
    call_answer(c, 200, "text/plain; version=0.0.4; charset=utf-8");
}

static void print_model(jw *w, const server *s)
{
    jw_object(w);
    jw_kstr(w, "id", s->model_id);
    jw_kstr(w, "object", "model");
    jw_kint(w, "created", s->created);
    jw_kstr(w, "owned_by", "imp");
    jw_kstr(w, "root", s->model_id);
    jw_kstr(w, "parent", NULL);
    jw_kint(w, "max_model_len", s->about.n_ctx);
    jw_key(w, "aliases");
    jw_array(w);
    for (uint32_t i = 0; i < s->p.n_alias; i++)
        jw_str(w, s->p.alias[i]);
    jw_end_array(w);
    jw_key(w, "meta");
    jw_object(w);
    jw_kstr(w, "name", s->info.name);
    jw_kstr(w, "family", s->info.family);
    jw_kint(w, "n_ctx", s->about.n_ctx);
    jw_kint(w, "n_ctx_train", s->info.n_ctx_train);
    jw_kint(w, "n_vocab", s->info.n_vocab);
    jw_kint(w, "n_embd", s->info.n_hidden);
    jw_kint(w, "n_params", (int64_t)s->info.n_param);
    jw_kint(w, "size", (int64_t)s->info.weight_bytes);
    jw_end_object(w);
    jw_end_object(w);
}

void route_models(call *c)
{
    jw w;
    jw_init(&w, &c->out);
    jw_object(&w);
    jw_kstr(&w, "object", "list");
    jw_key(&w, "data");
    jw_array(&w);
    print_model(&w, c->s);
    jw_end_array(&w);
    jw_end_object(&w);
    call_answer(c, 200, "application/json");
}

void route_model(call *c)
{
    const char *name = c->path + strlen(c->route->path);
    ask a = {.model = name, .err = &(req_err){0}};
    if (!fields_model(c->s, &a)) {
        call_error(c, 404, "model_not_found", "model", "%s", a.err->message);
        return;
    }
    jw w;
    jw_init(&w, &c->out);
    print_model(&w, c->s);
    call_answer(c, 200, "application/json");
}

/* ---- on workers -------------------------------------------------------------------------------------------------- */
static void bad(req_err *err, const char *what)
{
    if (!err->http) {
        err->http = 400;
        snprintf(err->message, sizeof err->message, "%s", what);
    }
}

/* The parsed body, or NULL with the error sent and the reference dropped. */
static json_t *body(call *c)
{
    req_err err = {0};
    json_t *doc = fields_parse_body(c->body.s ? c->body.s : "", c->body.n, &err);
    sb_free(&c->body);
    if (doc)
        return doc;
    call_error(c, err.http, NULL, NULL, "%s", err.message);
    call_unref(c);
    return NULL;
}

static void finish(call *c, json_t *doc, const req_err *err)
{
    if (err->http)
        call_error(c, err->http, NULL, NULL, "%s", err->message);
    else
        call_answer(c, 200, "application/json");
    json_decref(doc);
    call_unref(c);
}

static bool flag(json_t *doc, const char *key, bool missing, req_err *err)
{
    json_t *v = json_object_get(doc, key);
    if (!v || json_is_null(v))
        return missing;
    if (!json_is_boolean(v)) {
        char text[80];
        snprintf(text, sizeof text, "%s: wanted true or false", key);
        bad(err, text);
    }
    return json_is_true(v);
}

/* Only these fields: one that is misspelt must not be lost without a word. */
static bool only(json_t *doc, const char *const *known, req_err *err)
{
    const char *key;
    json_t *v;
    json_object_foreach(doc, key, v) {
        size_t i = 0;
        while (known[i] && strcmp(known[i], key) != 0)
            i++;
        if (known[i])
            continue;
        char text[120];
        snprintf(text, sizeof text, "%.80s: there is no such field", key);
        bad(err, text);
        return false;
    }
    return true;
}

static void print_piece(jw *w, const server *s, int32_t id)
{
    const char *t;
    size_t n;
    imp_token_bytes(s->m, id, &t, &n);
    jw_object(w);
    jw_kint(w, "id", id);
    jw_key(w, "piece");
    if (utf8_valid(t, n)) {
        jw_strn(w, t, n);
    } else {
        jw_array(w);
        for (size_t i = 0; i < n; i++)
            jw_int(w, (unsigned char)t[i]);
        jw_end_array(w);
    }
    jw_end_object(w);
}

/* The ids of llama-server's {content}, or of vLLM's {prompt} or {messages}. */
static imp_status ids_of(const server *s, json_t *doc, bool *vllm, int32_t **ids, size_t *n, req_err *err)
{
    imp_err e = {0};
    imp_status st = IMP_OK;
    json_t *content = json_object_get(doc, "content"), *prompt = json_object_get(doc, "prompt");
    json_t *messages = json_object_get(doc, "messages");
    static const char *const fields[] = {"content", "prompt", "add_special", "add_special_tokens", "parse_special",
                                         "with_pieces", "model", NULL};
    *vllm = !content;
    json_t *text = content ? content : prompt;
    if ((content || !messages) && !only(doc, fields, err)) /* beside messages, others are the template's variables */
        return IMP_E_USAGE;
    if (!content && messages) {
        char *json = json_dumps(doc, JSON_COMPACT);
        st = json ? imp_chat_tokenize(s->m, s->p.chat_template, json, strlen(json), ids, n, &e) : IMP_E_NOMEM;
        free(json);
    } else if (!json_is_string(text)) {
        bad(err, text ? "content: wanted a string"
                      : "wanted 'content' (llama-server's form), or 'prompt' or 'messages' (vLLM's)");
        return IMP_E_USAGE;
    } else {
        bool add = content ? flag(doc, "add_special", false, err) : flag(doc, "add_special_tokens", true, err);
        bool parse = flag(doc, "parse_special", true, err);
        unsigned f = (add ? (unsigned)IMP_ADD_SPECIAL : 0) | (parse ? (unsigned)IMP_PARSE_SPECIAL : 0);
        st = imp_tokenize(s->m, json_string_value(text), json_string_length(text), f, ids, n, &e);
    }
    if (st != IMP_OK) {
        bad(err, e.message);
        err->http = imp_status_http(st) == 404 ? 400 : imp_status_http(st);
    }
    return st;
}

void route_tokenize(call *c)
{
    json_t *doc = body(c);
    if (!doc)
        return;
    req_err err = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    bool vllm;
    if (ids_of(c->s, doc, &vllm, &ids, &n, &err) == IMP_OK) {
        bool pieces = flag(doc, "with_pieces", false, &err);
        jw w;
        jw_init(&w, &c->out);
        jw_object(&w);
        if (vllm) {
            jw_kint(&w, "count", (int64_t)n);
            jw_kint(&w, "max_model_len", c->s->about.n_ctx);
        }
        jw_key(&w, "tokens");
        jw_array(&w);
        for (size_t i = 0; i < n; i++)
            if (pieces)
                print_piece(&w, c->s, ids[i]);
            else
                jw_int(&w, ids[i]);
        jw_end_array(&w);
        jw_end_object(&w);
    }
    imp_free(ids);
    finish(c, doc, &err);
}

void route_detokenize(call *c)
{
    json_t *doc = body(c);
    if (!doc)
        return;
    req_err err = {0};
    imp_err e = {0};
    static const char *const fields[] = {"tokens", "model", NULL};
    json_t *list = json_object_get(doc, "tokens");
    only(doc, fields, &err);
    size_t n = json_array_size(list), len = 0;
    int32_t *ids = mem_alloc((n + 1) * sizeof *ids);
    char *text = NULL;
    if (!json_is_array(list))
        bad(&err, "tokens: wanted a list of token ids");
    for (size_t i = 0; i < n && ids && !err.http; i++) {
        json_t *t = json_array_get(list, i);
        if (!json_is_integer(t) || json_integer_value(t) < 0 || json_integer_value(t) >= c->s->info.n_vocab)
            bad(&err, "tokens: wanted token ids of the vocabulary");
        else
            ids[i] = (int32_t)json_integer_value(t);
    }
    if (!err.http && (!ids || imp_detokenize(c->s->m, ids, n, true, &text, &len, &e) != IMP_OK))
        bad(&err, e.message[0] ? e.message : "out of memory");
    if (!err.http) {
        bool vllm = json_object_get(doc, "model") != NULL; /* only vLLM's form names the model */
        jw w;
        jw_init(&w, &c->out);
        jw_object(&w);
        jw_key(&w, "content");
        jw_strn(&w, text, len);
        if (vllm) {
            jw_key(&w, "prompt");
            jw_strn(&w, text, len);
        }
        jw_end_object(&w);
    }
    mem_free(ids);
    imp_free(text);
    finish(c, doc, &err);
}

void route_apply_template(call *c)
{
    json_t *doc = body(c);
    if (!doc)
        return;
    req_err err = {0};
    imp_err e = {0};
    char *json = json_dumps(doc, JSON_COMPACT), *text = NULL;
    size_t n = 0;
    imp_status st = json ? imp_chat_render(c->s->m, c->s->p.chat_template, json, strlen(json), &text, &n, &e)
                         : IMP_E_NOMEM;
    free(json);
    if (st != IMP_OK) {
        bad(&err, e.message[0] ? e.message : imp_status_text(st));
    } else {
        jw w;
        jw_init(&w, &c->out);
        jw_object(&w);
        jw_key(&w, "prompt");
        jw_strn(&w, text, n);
        jw_end_object(&w);
    }
    imp_free(text);
    finish(c, doc, &err);
}

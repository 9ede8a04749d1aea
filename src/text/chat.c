/* Chat templates: building, requests, rendering. */
#include "text/chat.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "text/chat_impl.h"

imp_status chat_template_new(chat_template **out, const char *text, size_t n, const char *name, imp_err *e)
{
    *out = NULL;
    chat_template *t = mem_calloc(1, sizeof *t);
    if (!t)
        return err_oom(e, name, sizeof *t);
    imp_status s = jinja_compile(&t->program, text, n, name, e);
    if (!s)
        s = chat_probe(t->program, &t->caps, e);
    if (s)
        chat_template_free(t);
    else
        *out = t;
    return s;
}

imp_status chat_template_builtin(chat_template **out, const char *name, imp_err *e)
{
    size_t n;
    const char *text = chat_builtin_text(name, &n);
    *out = NULL;
    if (text)
        return chat_template_new(out, text, n, name, e);
    strbuf b = {0};
    for (size_t i = 0; chat_builtin_name(i); i++)
        sb_printf(&b, "%s%s", i ? ", " : "", chat_builtin_name(i));
    imp_status s = err_set(e, IMP_E_NOTFOUND, "chat template '%.100s': no such built-in; there are %s", name, b.s
        ? b.s : "");
    sb_free(&b);
    return s;
}

void chat_template_free(chat_template *t)
{
    if (!t)
        return;
    jinja_free(t->program);
    mem_free(t);
}

const chat_caps *chat_template_caps(const chat_template *t) { return &t->caps; }
const jinja_program *chat_template_program(const chat_template *t) { return t->program; }

/* ---- requests ---- */

void chat_request_init(chat_request *r)
{
    *r = (chat_request){.messages = jval_none(), .tools = jval_none(), .documents = jval_none(), .kwargs = jval_none(),
                        .add_generation_prompt = true};
}

bool chat_str_is(const jval *v, const char *s)
{
    return v && v->t == J_STR && v->u.s->n == strlen(s) && !memcmp(v->u.s->s, s, v->u.s->n);
}

static imp_status wrong(imp_err *e, const char *key, const char *wanted)
{
    return err_set(e, IMP_E_USAGE, "chat request: '%s' must be %s", key, wanted);
}

static imp_status get_list(jval doc, const char *key, jval *out, imp_err *e)
{
    const jval *v = jval_get(doc, key);
    if (v && v->t != J_NONE && v->t != J_LIST)
        return wrong(e, key, "a list");
    if (v)
        *out = *v;
    return IMP_OK;
}

static imp_status get_bool(jval doc, const char *key, bool *out, imp_err *e)
{
    const jval *v = jval_get(doc, key);
    if (v && v->t != J_NONE && v->t != J_BOOL)
        return wrong(e, key, "true or false");
    if (v && v->t == J_BOOL)
        *out = v->u.b;
    return IMP_OK;
}

static imp_status get_text(jval doc, const char *key, arena *a, const char **out, imp_err *e)
{
    const jval *v = jval_get(doc, key);
    if (!v || v->t == J_NONE)
        return IMP_OK;
    if (v->t != J_STR)
        return wrong(e, key, "a string");
    *out = arena_strndup(a, v->u.s->s, v->u.s->n);
    return *out ? IMP_OK : err_oom(e, "chat request", v->u.s->n);
}

static imp_status get_now(jval doc, arena *a, const struct tm **out, imp_err *e)
{
    const char *text = NULL;
    imp_status s = get_text(doc, "strftime_now", a, &text, e);
    if (s || !text)
        return s;
    struct tm *t = ARENA_NEW(a, struct tm);
    if (!t)
        return err_oom(e, "chat request", sizeof *t);
    int y, mo, d, h = 0, mi = 0, se = 0;
    int n = sscanf(text, "%d-%d-%d%*1[ T]%d:%d:%d", &y, &mo, &d, &h, &mi, &se);
    if (n < 3 || y < 1 || y > 9999 || mo < 1 || mo > 12 || d < 1 || d > 31 || h < 0 || h > 23 || mi < 0 || mi > 59 ||
        se < 0 || se > 60)
        return wrong(e, "strftime_now", "a time such as 2025-07-01 12:34:56");
    *t = (struct tm){.tm_year = y - 1900, .tm_mon = mo - 1, .tm_mday = d, .tm_hour = h, .tm_min = mi, .tm_sec = se};
    struct tm norm = *t;
    timegm(&norm); /* fills in the day of the week and of the year */
    t->tm_wday = norm.tm_wday;
    t->tm_yday = norm.tm_yday;
    *out = t;
    return IMP_OK;
}

static const char *const known_keys[] = {"messages", "tools", "documents", "add_generation_prompt", "strftime_now",
                                         "continue_final_message", "bos_token", "eos_token", "kwargs",
                                         "chat_template_kwargs", "chat_template", "model", "stream"};

static bool is_known(const jval *key)
{
    for (size_t i = 0; i < sizeof known_keys / sizeof known_keys[0]; i++)
        if (chat_str_is(key, known_keys[i]))
            return true;
    return false;
}

bool chat_set_key(arena *a, jval dict, const jval *key, jval v)
{
    char *k = key->t == J_STR ? arena_strndup(a, key->u.s->s, key->u.s->n) : NULL;
    return k && jval_set(a, dict, k, v);
}

imp_status chat_request_parse(chat_request *r, arena *a, const char *json, size_t n, imp_err *e)
{
    jval doc;
    imp_status s = jval_parse(a, json, n, true, "chat request", &doc, e);
    if (s)
        return s;
    if (doc.t != J_DICT)
        return err_set(e, IMP_E_USAGE, "chat request: wanted an object");
    if ((s = get_list(doc, "messages", &r->messages, e)) || (s = get_list(doc, "tools", &r->tools, e)) ||
        (s = get_list(doc, "documents", &r->documents, e)) ||
        (s = get_bool(doc, "add_generation_prompt", &r->add_generation_prompt, e)) ||
        (s = get_bool(doc, "continue_final_message", &r->continue_final_message, e)) ||
        (s = get_text(doc, "bos_token", a, &r->bos_token, e)) || (s = get_text(doc, "eos_token", a, &r->eos_token,
            e)) ||
        (s = get_now(doc, a, &r->now, e)))
        return s;
    r->kwargs = jval_dict(a);
    const jval *kw[2] = {jval_get(doc, "kwargs"), jval_get(doc, "chat_template_kwargs")};
    bool ok = true;
    for (size_t i = 0; i < doc.u.d->n; i++)
        if (!is_known(&doc.u.d->k[i]))
            ok = ok && chat_set_key(a, r->kwargs, &doc.u.d->k[i], doc.u.d->v[i]);
    for (size_t j = 0; j < 2; j++) {
        if (kw[j] && kw[j]->t != J_NONE && kw[j]->t != J_DICT)
            return wrong(e, "chat_template_kwargs", "an object");
        for (size_t i = 0; kw[j] && kw[j]->t == J_DICT && i < kw[j]->u.d->n; i++)
            ok = ok && chat_set_key(a, r->kwargs, &kw[j]->u.d->k[i], kw[j]->u.d->v[i]);
    }
    return ok && !a->failed ? IMP_OK : err_oom(e, "chat request", n);
}

/* ---- rendering ---- */

static jval trusted(arena *a, const char *s) { return jval_str(a, s ? s : "", s ? strlen(s) : 0, false); }

/* The variables that transformers gives a template; kwargs win over the special tokens, as there. */
static imp_status variables(const chat_request *r, jval messages, arena *a, jval *out, imp_err *e)
{
    jval v = jval_dict(a);
    bool ok = jval_set(a, v, "bos_token", trusted(a, r->bos_token)) &&
              jval_set(a, v, "eos_token", trusted(a, r->eos_token));
    for (size_t i = 0; r->kwargs.t == J_DICT && i < r->kwargs.u.d->n; i++)
        ok = ok && chat_set_key(a, v, &r->kwargs.u.d->k[i], r->kwargs.u.d->v[i]);
    ok = ok && jval_set(a, v, "messages", messages) && jval_set(a, v, "tools", r->tools) &&
         jval_set(a, v, "documents", r->documents) &&
         jval_set(a, v, "add_generation_prompt", jval_bool(r->add_generation_prompt));
    *out = v;
    return ok && !a->failed ? IMP_OK : err_oom(e, "chat request", 0);
}

#define CONTINUE_TAG "CONTINUE_FINAL_MESSAGE_TAG "

/* A copy of messages whose last text ends in the tag. */
static imp_status tag_last(arena *a, jval messages, jval *out, imp_err *e)
{
    size_t n = messages.u.l->n;
    const jval *content = n ? jval_get(messages.u.l->v[n - 1], "content") : NULL;
    const jval *text = content;
    size_t part = 0;
    if (content && content->t == J_LIST) {
        text = NULL;
        for (part = content->u.l->n; part-- > 0 && !text;)
            text = jval_get(content->u.l->v[part], "text");
        part++;
    }
    if (!text || text->t != J_STR)
        return err_set(e, IMP_E_USAGE, "chat request: continue_final_message needs text in the last message");
    strbuf b = {0};
    sb_add(&b, text->u.s->s, text->u.s->n);
    sb_str(&b, CONTINUE_TAG);
    jval tagged = b.failed ? jval_none() : jval_str(a, b.s, b.n, true);
    sb_free(&b);
    jval last = chat_copy_dict(a, messages.u.l->v[n - 1]), list = jval_list(a);
    if (content->t == J_LIST) {
        jval parts = jval_list(a);
        for (size_t i = 0; i < content->u.l->n; i++) {
            jval p = content->u.l->v[i];
            if (i == part) {
                p = chat_copy_dict(a, p);
                jval_set(a, p, "text", tagged);
            }
            jval_push(a, parts, p);
        }
        tagged = parts;
    }
    jval_set(a, last, "content", tagged);
    for (size_t i = 0; i + 1 < n; i++)
        jval_push(a, list, messages.u.l->v[i]);
    jval_push(a, list, last);
    *out = list;
    return a->failed || tagged.t == J_NONE ? err_oom(e, "chat request", 0) : IMP_OK;
}

static void cut(jinja_out *o, size_t n)
{
    o->text.n = n;
    o->text.s[n] = 0;
    while (o->n_span && o->span[o->n_span - 1].begin >= n)
        o->n_span--;
    if (o->n_span && o->span[o->n_span - 1].end > n)
        o->span[o->n_span - 1].end = n;
}

/* Ends the prompt where the tag stands. If the template trimmed the tag's space, the text before it was the end of a
 * trimmed message, and is trimmed too (as transformers does). */
static imp_status cut_at_tag(jinja_out *o, size_t from, imp_err *e)
{
    static const char tag[] = CONTINUE_TAG;
    size_t n = sizeof tag - 2, at = SIZE_MAX; /* without the space */
    for (size_t i = from; i + n <= o->text.n; i++)
        if (!memcmp(o->text.s + i, tag, n))
            at = i;
    if (at == SIZE_MAX)
        return err_set(e, IMP_E_USAGE,
            "chat request: continue_final_message is set, but the template does not show the last message");
    if (at + n >= o->text.n || o->text.s[at + n] != ' ')
        while (at > from && strchr(" \t\n\r\f\v", o->text.s[at - 1]))
            at--;
    cut(o, at);
    return IMP_OK;
}

static imp_status render(const chat_template *t, const chat_request *r, jval messages, arena *a, jinja_out *out,
                         imp_err *e)
{
    jval vars;
    size_t from = out->text.n;
    jinja_env env = {.now = r->now};
    imp_status s = r->continue_final_message ? tag_last(a, messages, &messages, e) : IMP_OK;
    if (!s)
        s = variables(r, messages, a, &vars, e);
    if (!s)
        s = jinja_render(t->program, vars, &env, out, e);
    if (!s && r->continue_final_message)
        s = cut_at_tag(out, from, e);
    return s;
}

static imp_status render_fitted(const chat_template *t, const chat_request *r, arena *a, jinja_out *out, imp_err *e)
{
    jval messages;
    imp_err first = {0};
    chat_request empty = *r;
    imp_status s = chat_fit(&t->caps, t->program, r, a, &messages, e);
    if (s)
        return s;
    s = render(t, r, messages, a, out, &first);
    if (s == IMP_E_PARSE &&
        r->tools.t == J_NONE) { /* templates that loop over tools without asking whether there are any */
        empty.tools = jval_list(a);
        if (!render(t, &empty, messages, a, out, NULL))
            return IMP_OK;
    }
    if (s && e && e->status == IMP_OK)
        *e = first;
    return s;
}

imp_status chat_render(const chat_template *t, const chat_request *r, arena *a, jinja_out *out, imp_err *e)
{
    if (r->messages.t != J_LIST || !r->messages.u.l->n)
        return err_set(e, IMP_E_USAGE, "chat request: 'messages' must be a list of at least one message");
    for (size_t i = 0; i < r->messages.u.l->n; i++)
        if (r->messages.u.l->v[i].t != J_DICT)
            return err_set(e, IMP_E_USAGE, "chat request: messages[%zu] must be an object", i);
    if (r->continue_final_message && r->add_generation_prompt)
        return err_set(e, IMP_E_USAGE,
            "chat request: continue_final_message and add_generation_prompt exclude each other");
    if (r->mode == CHAT_FIT)
        return render_fitted(t, r, a, out, e);
    imp_err first = {0}, second = {0};
    imp_status s = render(t, r, r->messages, a, out, &first);
    if (s == IMP_E_PARSE && !render_fitted(t, r, a, out, &second)) /* not when the template itself refused */
        return IMP_OK;
    if (s && e && e->status == IMP_OK)
        *e = first;
    return s;
}

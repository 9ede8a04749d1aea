/* Brings a conversation into the form that a template renders: one row of rules a message, see chat_fit in chat.h. */
#include <string.h>

#include "text/chat_impl.h"

typedef struct fit {
    const chat_caps *caps;
    const jinja_program *p;
    const chat_request *r;
    arena *a;
    imp_err *e;
    imp_status s; /* sticky */
    bool own_tools; /* the template shows no tools: we describe them, and write calls and results as text */
} fit;

jval chat_copy_dict(arena *a, jval d)
{
    jval c = jval_dict(a);
    for (size_t i = 0; d.t == J_DICT && i < d.u.d->n; i++)
        chat_set_key(a, c, &d.u.d->k[i], d.u.d->v[i]);
    return c;
}

static void fail(fit *f, const char *what, size_t i)
{
    if (!f->s)
        f->s = err_set(f->e, IMP_E_USAGE, "chat request: messages[%zu]: %s", i, what);
}

static jval str(fit *f, const char *s) { return jval_str(f->a, s, strlen(s), false); }
static const jval *role_of(jval m) { return jval_get(m, "role"); }
static bool is_role(jval m, const char *role) { return chat_str_is(role_of(m), role); }
static const jval *filled_list(jval m, const char *key)
{
    const jval *v = jval_get(m, key);
    return v && v->t == J_LIST && v->u.l->n ? v : NULL;
}
static bool is_text(const jval *v) { return v && v->t == J_STR; }
static void lit(jval_text *t, const char *s) { jval_text_add(t, s, strlen(s), false); }

/* ---- content ---- */

typedef enum part_kind { PART_TEXT, PART_IMAGE, PART_OTHER } part_kind;

static part_kind part_of(jval p, jval *text)
{
    static const struct { const char *type; part_kind kind; } types[] = {
        {"text", PART_TEXT}, {"input_text", PART_TEXT}, {"output_text", PART_TEXT}, {"refusal", PART_TEXT},
        {"image", PART_IMAGE}, {"image_url", PART_IMAGE}, {"input_image", PART_IMAGE}};
    if (p.t == J_STR) {
        *text = p;
        return PART_TEXT;
    }
    const jval *type = jval_get(p, "type"), *t = jval_get(p, "text");
    if (!t)
        t = jval_get(p, "refusal");
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (chat_str_is(type, types[i].type)) {
            if (types[i].kind == PART_TEXT && !is_text(t))
                return PART_OTHER;
            if (types[i].kind == PART_TEXT)
                *text = *t;
            return types[i].kind;
        }
    return PART_OTHER;
}

static bool has_image(const jval *content)
{
    jval t;
    for (size_t i = 0; content && content->t == J_LIST && i < content->u.l->n; i++)
        if (part_of(content->u.l->v[i], &t) == PART_IMAGE)
            return true;
    return false;
}

/* Parts to one string, a line each; images to the caller's marker. */
static jval joined(fit *f, const jval *content, size_t at)
{
    jval_text t = {.a = f->a};
    bool text_before = false;
    for (size_t i = 0; i < content->u.l->n; i++) {
        jval s;
        switch (part_of(content->u.l->v[i], &s)) {
        case PART_TEXT:
            if (text_before)
                jval_text_add(&t, "\n", 1, true);
            jval_text_val(&t, s);
            text_before = true;
            break;
        case PART_IMAGE:
            if (!f->r->image_marker)
                fail(f, "the chat template has no place for images", at);
            else
                lit(&t, f->r->image_marker);
            text_before = false;
            break;
        default: fail(f, "a content part is neither text nor image", at);
        }
    }
    return jval_text_done(&t);
}

/* Parts as templates know them: {"type": "text", "text"} and {"type": "image"}. */
static jval parts(fit *f, const jval *content, size_t at)
{
    jval out = jval_list(f->a);
    for (size_t i = 0; i < content->u.l->n; i++) {
        jval s = jval_none(), d = jval_dict(f->a);
        part_kind k = part_of(content->u.l->v[i], &s);
        if (k == PART_OTHER)
            fail(f, "a content part is neither text nor image", at);
        jval_set(f->a, d, "type", str(f, k == PART_IMAGE ? "image" : "text"));
        if (k == PART_TEXT)
            jval_set(f->a, d, "text", s);
        jval_push(f->a, out, d);
    }
    return out;
}

static jval one_part(fit *f, jval text)
{
    jval out = jval_list(f->a), d = jval_dict(f->a);
    jval_set(f->a, d, "type", str(f, "text"));
    jval_set(f->a, d, "text", text);
    jval_push(f->a, out, d);
    return out;
}

static void fit_content(fit *f, jval m, size_t at)
{
    const jval *c = jval_get(m, "content");
    const chat_caps *k = f->caps;
    bool calls = filled_list(m, "tool_calls") != NULL && k->tool_calls;
    if (!c || c->t == J_NONE || (calls && c->t == J_STR && !c->u.s->n)) {
        bool null = calls && k->null_content && (!k->empty_content || !c || c->t == J_NONE);
        jval_set(f->a, m, "content", null ? jval_none() : str(f, ""));
        return;
    }
    if (c->t == J_LIST) {
        bool image = has_image(c);
        bool keep = image ? k->images : k->parts_content && (is_role(m, "user") || !k->string_content);
        jval_set(f->a, m, "content", keep ? parts(f, c, at) : joined(f, c, at));
    } else if (c->t != J_STR) {
        fail(f, "content is neither a string nor a list of parts", at);
    }
    c = jval_get(m, "content");
    if (c->t == J_STR && !k->string_content && k->parts_content)
        jval_set(f->a, m, "content", one_part(f, *c));
}

/* ---- tool calls ---- */

static jval short_id(fit *f, const jval *id)
{
    char t[9];
    uint64_t h = 1469598103934665603u;
    bool good = id->u.s->n == 9;
    for (size_t i = 0; i < id->u.s->n; i++) {
        unsigned char ch = (unsigned char)id->u.s->s[i];
        good = good && ((ch | 32) >= 'a' ? (ch | 32) <= 'z' : ch >= '0' && ch <= '9');
        h = (h ^ ch) * 1099511628211u;
    }
    if (good)
        return *id;
    for (int i = 0; i < 9; i++, h /= 36)
        t[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[h % 36];
    return jval_str(f->a, t, 9, true);
}

static void fit_id(fit *f, jval d, const char *key)
{
    const jval *id = jval_get(d, key);
    if (is_text(id) && f->caps->short_ids)
        jval_set(f->a, d, key, short_id(f, id));
}

static jval fit_args(fit *f, const jval *args)
{
    imp_err none = {0};
    jval v;
    if (f->caps->object_args && is_text(args)) {
        if (!jval_parse(f->a, args->u.s->s, args->u.s->n, true, "arguments", &v, &none) && v.t == J_DICT)
            return v;
        v = jval_dict(f->a); /* broken JSON, perhaps a model's: it must not block the conversation */
        if (args->u.s->n)
            jval_set(f->a, v, "arguments", *args);
        return v;
    }
    if (!f->caps->object_args && args && args->t == J_DICT) {
        jval_text t = {.a = f->a};
        jval_text_json(&t, *args);
        return jval_text_done(&t);
    }
    return args ? *args : f->caps->object_args ? jval_dict(f->a) : str(f, "{}");
}

static void fit_calls(fit *f, jval m, size_t at)
{
    const jval *calls = jval_get(m, "tool_calls");
    jval out = jval_list(f->a);
    for (size_t i = 0; i < calls->u.l->n; i++) {
        jval call = chat_copy_dict(f->a, calls->u.l->v[i]);
        const jval *fn = jval_get(call, "function");
        if (!fn)
            fn = &calls->u.l->v[i]; /* {"name", "arguments"} without a wrapper */
        if (!is_text(jval_get(*fn, "name"))) {
            fail(f, "a tool call has no function name", at);
            return;
        }
        jval g = chat_copy_dict(f->a, *fn);
        jval_set(f->a, g, "arguments", fit_args(f, jval_get(*fn, "arguments")));
        jval_set(f->a, call, "function", g);
        if (!jval_get(call, "type"))
            jval_set(f->a, call, "type", str(f, "function"));
        fit_id(f, call, "id");
        jval_push(f->a, out, call);
    }
    jval_set(f->a, m, "tool_calls", out);
}

/* The name of the function that call `id` called, in the messages before `at`. */
static const jval *called_name(fit *f, size_t at, const jval *id)
{
    const jlist *l = f->r->messages.u.l;
    for (size_t i = at; i-- > 0;) {
        const jval *calls = filled_list(l->v[i], "tool_calls");
        for (size_t j = 0; calls && j < calls->u.l->n; j++) {
            const jval *cid = jval_get(calls->u.l->v[j], "id"), *fn = jval_get(calls->u.l->v[j], "function");
            if (is_text(cid) && is_text(id) && cid->u.s->n == id->u.s->n &&
                !memcmp(cid->u.s->s, id->u.s->s, id->u.s->n))
                return fn ? jval_get(*fn, "name") : jval_get(calls->u.l->v[j], "name");
        }
    }
    return NULL;
}

/* For templates without tools: the calls as text behind the content. */
static void calls_as_text(fit *f, jval m)
{
    const jval *calls = jval_get(m, "tool_calls"), *content = jval_get(m, "content");
    jval_text t = {.a = f->a};
    if (content)
        jval_text_val(&t, *content);
    for (size_t i = 0; i < calls->u.l->n; i++) {
        const jval *fn = jval_get(calls->u.l->v[i], "function");
        jval o = jval_dict(f->a), args = jval_none();
        if (!fn)
            fn = &calls->u.l->v[i];
        chat_caps objects = *f->caps;
        objects.object_args = true;
        fit g = *f;
        g.caps = &objects;
        args = fit_args(&g, jval_get(*fn, "arguments"));
        if (jval_get(*fn, "name"))
            jval_set(f->a, o, "name", *jval_get(*fn, "name"));
        jval_set(f->a, o, "arguments", args);
        lit(&t, t.s.n ? "\n<tool_call>\n" : "<tool_call>\n");
        jval_text_json(&t, o);
        lit(&t, "\n</tool_call>");
    }
    jval_set(f->a, m, "content", jval_text_done(&t));
    jval_set(f->a, m, "tool_calls", jval_none());
}

static void result_as_text(fit *f, jval m, size_t at)
{
    const jval *c = jval_get(m, "content");
    jval s = c && c->t == J_LIST ? joined(f, c, at) : c ? *c : jval_none();
    jval_text t = {.a = f->a};
    lit(&t, "<tool_response>\n");
    jval_text_val(&t, s);
    lit(&t, "\n</tool_response>");
    jval_set(f->a, m, "role", str(f, "user"));
    jval_set(f->a, m, "content", jval_text_done(&t));
}

/* ---- reasoning ---- */

static void fit_reasoning(fit *f, jval m)
{
    static const char *const keys[] = {"reasoning_content", "thinking", "reasoning"};
    const jval *v = NULL, *content = jval_get(m, "content");
    for (size_t i = 0; i < 3 && !v; i++)
        if (is_text(jval_get(m, keys[i])) && jval_get(m, keys[i])->u.s->n)
            v = jval_get(m, keys[i]);
    if (!v)
        return;
    jval r = *v;
    bool content_key = jinja_mentions(f->p, keys[0]);
    /* gpt-oss puts both into one channel and refuses two texts beside a call. */
    if (!content_key && jinja_mentions(f->p, keys[1]) && filled_list(m, "tool_calls") && is_text(content) &&
        content->u.s->n) {
        jval_text t = {.a = f->a};
        jval_text_val(&t, r);
        jval_text_add(&t, "\n\n", 2, true);
        jval_text_val(&t, *content);
        r = jval_text_done(&t);
        jval_set(f->a, m, "content", str(f, ""));
    }
    for (size_t i = 0; i < 3; i++)
        if (jinja_mentions(f->p, keys[i]))
            jval_set(f->a, m, keys[i], r);
}

/* ---- system ---- */

static jval tool_instructions(fit *f)
{
    jval_text t = {.a = f->a};
    lit(&t, "You can call functions to help the user. These functions exist, one JSON object a line:\n<tools>\n");
    for (size_t i = 0; i < f->r->tools.u.l->n; i++) {
        jval_text_json(&t, f->r->tools.u.l->v[i]);
        lit(&t, "\n");
    }
    lit(&t, "</tools>\nTo call one, answer with its name and arguments as JSON between these tags, "
            "once for each call:\n"
            "<tool_call>\n{\"name\": \"...\", \"arguments\": {...}}\n</tool_call>\n"
            "Results come back between <tool_response> tags.");
    return jval_text_done(&t);
}

static jval both(fit *f, const jval *a, const jval *b)
{
    jval_text t = {.a = f->a};
    jval_text_val(&t, *a);
    if (t.s.n && b->t == J_STR && b->u.s->n)
        lit(&t, "\n\n");
    jval_text_val(&t, *b);
    return jval_text_done(&t);
}

static jval message(fit *f, const char *role, jval content)
{
    jval m = jval_dict(f->a);
    jval_set(f->a, m, "role", str(f, role));
    jval_set(f->a, m, "content", content);
    return m;
}

/* Puts text in front of the first user message of list. */
static void merge_into_user(fit *f, jval list, jval text)
{
    for (size_t i = 0; i < list.u.l->n; i++) {
        jval m = list.u.l->v[i];
        const jval *c = jval_get(m, "content");
        if (!is_role(m, "user") || !c)
            continue;
        if (c->t == J_LIST) {
            jval p = one_part(f, text);
            for (size_t j = 0; j < c->u.l->n; j++)
                jval_push(f->a, p, c->u.l->v[j]);
            jval_set(f->a, m, "content", p);
        } else {
            jval_set(f->a, m, "content", both(f, &text, c));
        }
        return;
    }
    jval_push(f->a, list, message(f, "user", f->caps->string_content ? text : one_part(f, text)));
}

/* Joins m to the last message of list if both are text of one role, for templates that want roles to alternate. */
static bool joined_to_last(fit *f, jval list, jval m)
{
    const char *const roles[] = {"user", "assistant"};
    if (!f->caps->strict_turns || !list.u.l->n)
        return false;
    jval last = list.u.l->v[list.u.l->n - 1];
    const jval *a = jval_get(last, "content"), *b = jval_get(m, "content");
    for (size_t i = 0; i < 2; i++)
        if (is_role(last, roles[i]) && is_role(m, roles[i]) && is_text(a) && is_text(b) &&
            !filled_list(last, "tool_calls") && !filled_list(m, "tool_calls")) {
            jval_set(f->a, last, "content", both(f, a, b));
            return true;
        }
    return false;
}

static void fit_message(fit *f, jval m, size_t at)
{
    if (!is_text(role_of(m))) {
        fail(f, "no role", at);
        return;
    }
    if (is_role(m, "developer") && !jinja_mentions(f->p, "developer"))
        jval_set(f->a, m, "role", str(f, "system"));
    if (jval_get(m, "tool_calls") && !filled_list(m, "tool_calls"))
        jval_set(f->a, m, "tool_calls", jval_none());
    if (is_role(m, "function")) /* the old name */
        jval_set(f->a, m, "role", str(f, "tool"));
    fit_content(f, m, at);
    if (is_role(m, "assistant"))
        fit_reasoning(f, m);
    if (filled_list(m, "tool_calls")) {
        if (f->caps->tool_calls)
            fit_calls(f, m, at);
        else
            calls_as_text(f, m);
    }
    if (is_role(m, "tool")) {
        const jval *id = jval_get(m, "tool_call_id"), *name = is_text(jval_get(m, "name")) ? NULL : called_name(f,
            at, id);
        if (name)
            jval_set(f->a, m, "name", *name);
        fit_id(f, m, "tool_call_id");
        if (!f->caps->tool_role)
            result_as_text(f, m, at);
    }
}

static bool same_text(const jval *a, const jval *b)
{
    return is_text(a) && is_text(b) && a->u.s->n == b->u.s->n && !memcmp(a->u.s->s, b->u.s->s, a->u.s->n);
}

/* The conversation with one call a message, each followed by its result: for templates that refuse parallel calls. */
static jval one_call_each(fit *f, jval in)
{
    const jlist *l = in.u.l;
    jval out = jval_list(f->a);
    for (size_t i = 0; i < l->n; i++) {
        const jval *calls = filled_list(l->v[i], "tool_calls");
        if (!calls || calls->u.l->n < 2) {
            jval_push(f->a, out, l->v[i]);
            continue;
        }
        size_t end = i + 1, n_results;
        while (end < l->n && (is_role(l->v[end], "tool") || is_role(l->v[end], "function")))
            end++;
        n_results = end - i - 1;
        for (size_t k = 0; k < calls->u.l->n && !f->a->failed; k++) {
            jval m = chat_copy_dict(f->a, l->v[i]), one = jval_list(f->a);
            jval_push(f->a, one, calls->u.l->v[k]);
            jval_set(f->a, m, "tool_calls", one);
            if (k)
                jval_set(f->a, m, "content", str(f, ""));
            jval_push(f->a, out, m);
            for (size_t j = i + 1; j < end; j++) { /* by id, else by place */
                const jval *id = jval_get(l->v[j], "tool_call_id");
                if (id ? same_text(id, jval_get(calls->u.l->v[k], "id")) : j - i - 1 == k && k < n_results)
                    jval_push(f->a, out, l->v[j]);
            }
        }
        i = end - 1;
    }
    return out;
}

/* A template without tool_calls must not meet the key at all: some test for its presence. */
static jval without_calls(fit *f, jval m)
{
    jval c = jval_dict(f->a);
    for (size_t i = 0; i < m.u.d->n; i++)
        if (!(chat_str_is(&m.u.d->k[i], "tool_calls") && m.u.d->v[i].t == J_NONE))
            chat_set_key(f->a, c, &m.u.d->k[i], m.u.d->v[i]);
    return c;
}

imp_status chat_fit(const chat_caps *caps, const jinja_program *p, const chat_request *r, arena *a, jval *messages,
                    imp_err *e)
{
    fit f = {.caps = caps, .p = p, .r = r, .a = a, .e = e};
    jval out = jval_list(a), sys = jval_none();
    chat_request single = *r;
    if (caps->tool_calls && !caps->parallel_calls) {
        single.messages = one_call_each(&f, r->messages);
        f.r = r = &single;
    }
    f.own_tools = r->tools.t == J_LIST && r->tools.u.l->n && !caps->tools;
    for (size_t i = 0; i < r->messages.u.l->n && !f.s && !a->failed; i++) {
        jval m = chat_copy_dict(a, r->messages.u.l->v[i]);
        fit_message(&f, m, i);
        if (f.s || a->failed)
            break;
        const jval *c = jval_get(m, "content");
        if (i == 0 && is_role(m, "system") && is_text(c) && (!caps->system || f.own_tools)) {
            sys = *c;
            continue;
        }
        if (!joined_to_last(&f, out, m))
            jval_push(a, out, without_calls(&f, m));
    }
    if (!f.s && !a->failed && f.own_tools) {
        jval t = tool_instructions(&f);
        sys = both(&f, &sys, &t);
    }
    if (!f.s && !a->failed && sys.t == J_STR && sys.u.s->n) {
        if (caps->system) {
            jval list = jval_list(a);
            jval_push(a, list, message(&f, "system", sys));
            for (size_t i = 0; i < out.u.l->n; i++)
                jval_push(a, list, out.u.l->v[i]);
            out = list;
        } else {
            merge_into_user(&f, out, sys);
        }
    }
    *messages = out;
    if (f.s)
        return f.s;
    return a->failed ? err_oom(e, "chat request", 0) : IMP_OK;
}

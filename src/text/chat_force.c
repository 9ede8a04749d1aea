/* A tool call that must come. What the format writes before the arguments goes into the prompt, and the rest is held to
 * a JSON Schema: so the model never has to choose the syntax, only what to say in it. */
#include <string.h>

#include "text/chat_impl.h"
#include "text/chat_parse_impl.h"

/* Formats whose calls are JSON have their own beginning; the others get the one that nearly every model has seen. */
const chat_format *cp_force_format(const chat_format *f) { return f->force ? f : chat_format_named("hermes"); }

static jval text(arena *a, const char *s) { return jval_str(a, s, strlen(s), false); }

static bool mentions_ref(jval v)
{
    if (v.t == J_DICT)
        for (size_t i = 0; i < v.u.d->n; i++)
            if (chat_str_is(&v.u.d->k[i], "$ref") || mentions_ref(v.u.d->v[i]))
                return true;
    for (size_t i = 0; v.t == J_LIST && i < v.u.l->n; i++)
        if (mentions_ref(v.u.l->v[i]))
            return true;
    return false;
}

/* The schema of a function's arguments: always an object. nested: it becomes a part of another schema, where references
 * from its root need an address of their own. */
static jval args_schema(arena *a, jval fn, size_t i, bool nested)
{
    const jval *given = jval_get(fn, "parameters");
    jval s = given && given->t == J_DICT ? chat_copy_dict(a, *given) : jval_dict(a);
    if (!jval_get(s, "type"))
        jval_set(a, s, "type", text(a, "object"));
    if (nested && !jval_get(s, "$id") && mentions_ref(s)) {
        char *id = arena_printf(a, "urn:imp:tool:%zu", i);
        jval_set(a, s, "$id", id ? text(a, id) : jval_none());
    }
    return s;
}

static jval object(arena *a, const char *const *keys, const jval *values, size_t n)
{
    jval d = jval_dict(a);
    for (size_t i = 0; i < n; i++)
        jval_set(a, d, keys[i], values[i]);
    return d;
}

/* {"name": that one, "arguments": what fits it} */
static jval call_schema(arena *a, jval fn, size_t i, const char *args_key)
{
    jval only = object(a, (const char *const[]){"const"}, jval_get(fn, "name"), 1), required = jval_list(a);
    jval props = object(a, (const char *const[]){"name", args_key}, (jval[]){only, args_schema(a, fn, i, true)}, 2);
    jval_push(a, required, text(a, "name"));
    jval_push(a, required, text(a, args_key));
    return object(a, (const char *const[]){"type", "properties", "required", "additionalProperties"},
                  (jval[]){text(a, "object"), props, required, jval_bool(false)}, 4);
}

imp_status chat_force(const chat_format *f, jval tools, const char *name, bool in_reasoning, arena *a, strbuf *prefix,
                      strbuf *schema, imp_err *e)
{
    const chat_format *g = cp_force_format(f);
    const char *args_key = g->args_key ? g->args_key : "arguments";
    jval_text t = {.a = a}, head = {.a = a};
    jval any = jval_list(a), one = jval_none();
    size_t found = 0;
    if (in_reasoning) {
        sb_str(prefix, "\n");
        sb_str(prefix, f->think[1] ? f->think[1] : "</think>");
        sb_str(prefix, "\n\n");
    }
    if (tools.t == J_NONE)
        return prefix->failed ? err_oom(e, "prompt", 64) : IMP_OK;
    for (size_t i = 0; tools.t == J_LIST && i < tools.u.l->n; i++) {
        const jval *fn = jval_get(tools.u.l->v[i], "function"), *own = fn ? jval_get(*fn, "name") : NULL;
        if (!own || own->t != J_STR)
            return err_set(e, IMP_E_USAGE, "tools[%zu]: wanted a function with a name", i);
        if (name && !chat_str_is(own, name))
            continue;
        found++;
        one = *fn;
        jval_push(a, any, call_schema(a, *fn, i, args_key));
    }
    if (!found)
        return err_set(e, IMP_E_USAGE, "there is no tool '%s'", name ? name : "");
    sb_str(prefix, g->force);
    jval s = object(a, (const char *const[]){"anyOf"}, &any, 1);
    if (found == 1) { /* even the name need not be chosen */
        jval_text_add(&head, "{\"name\": ", 9, false);
        jval_text_json(&head, *jval_get(one, "name"));
        sb_add(prefix, head.s.s ? head.s.s : "", head.s.n);
        sb_printf(prefix, ", \"%s\": ", args_key);
        s = args_schema(a, one, 0, false);
    }
    bool ok = jval_text_json(&t, s);
    sb_add(schema, t.s.s ? t.s.s : "", t.s.n);
    jval_text_done(&t);
    jval_text_done(&head);
    if (!ok || a->failed || prefix->failed || schema->failed)
        return err_oom(e, "tool choice", schema->n);
    return IMP_OK;
}

#include "server/tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define MAX_NAME 128

/* ---- fields ----------------------------------------------------------------------------------------------------- */
static bool good_name(const char *s)
{
    size_t n = s ? strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:/-") : 0;
    return n > 0 && n <= MAX_NAME && !s[n];
}

static bool check_function(ask *a, const char *at, json_t *name, json_t *schema, const char *schema_key)
{
    if (!good_name(json_string_value(name)))
        return field_fail(a, at, "wanted a name of 1 to %d letters, digits and _ - . : /", MAX_NAME);
    return !schema || json_is_null(schema) || json_is_object(schema) ||
           field_fail(a, at, "%s: wanted a JSON Schema: an object", schema_key);
}

bool field_tools(ask *a, const field *f, json_t *v)
{
    size_t i;
    json_t *t;
    if (!json_is_array(v))
        return field_fail(a, f->name, "wanted a list");
    json_array_foreach(v, i, t) {
        char at[64];
        const char *type = json_string_value(json_object_get(t, "type"));
        json_t *fn = json_object_get(t, "function");
        snprintf(at, sizeof at, "tools[%zu]", i);
        if (type && strcmp(type, "function") != 0)
            return field_fail(a, at, "tools of type '%.60s' are not offered; there are functions", type);
        if (!json_is_object(fn))
            return field_fail(a, at, "wanted {\"type\": \"function\", \"function\": {...}}");
        if (!check_function(a, at, json_object_get(fn, "name"), json_object_get(fn, "parameters"), "parameters"))
            return false;
    }
    a->tools = json_array_size(v) ? v : NULL;
    return true;
}

bool field_tool_choice(ask *a, const field *f, json_t *v)
{
    const char *s = json_string_value(v);
    const char *name = json_string_value(json_object_get(json_object_get(v, "function"), "name"));
    if (s && strcmp(s, "auto") == 0)
        a->tool_mode = TOOLS_AUTO;
    else if (s && strcmp(s, "none") == 0)
        a->tool_mode = TOOLS_NONE;
    else if ((s && strcmp(s, "required") == 0) || name)
        a->tool_mode = TOOLS_MUST;
    else
        return field_fail(a, f->name,
                          "wanted none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ...}}");
    a->tool_name = name;
    return true;
}

bool field_tool_choice_anthropic(ask *a, const field *f, json_t *v)
{
    static const struct { const char *type; int mode; } types[] = {
        {"auto", TOOLS_AUTO}, {"none", TOOLS_NONE}, {"any", TOOLS_MUST}, {"tool", TOOLS_MUST}};
    const char *type = json_string_value(json_object_get(v, "type"));
    size_t k = 0;
    while (type && k < 4 && strcmp(types[k].type, type) != 0)
        k++;
    if (!type || k == 4)
        return field_fail(a, f->name, "wanted an object with type auto, any, tool or none");
    a->tool_mode = types[k].mode;
    a->tool_name = k == 3 ? json_string_value(json_object_get(v, "name")) : NULL;
    if (k == 3 && !a->tool_name)
        return field_fail(a, f->name, "wanted the tool's name");
    a->one_call = json_is_true(json_object_get(v, "disable_parallel_tool_use"));
    return true;
}

bool tools_convert(ask *a, json_t *tools, json_t *doc)
{
    size_t i;
    json_t *t;
    if (!tools || json_is_null(tools))
        return true;
    if (!json_is_array(tools))
        return field_fail(a, "tools", "wanted a list");
    json_t *out = json_array();
    json_object_set_new(doc, " tools", out);
    json_array_foreach(tools, i, t) {
        char at[64];
        const char *type = json_string_value(json_object_get(t, "type"));
        json_t *schema = json_object_get(t, "input_schema");
        snprintf(at, sizeof at, "tools.%zu", i);
        if (type && strcmp(type, "custom") != 0)
            return field_fail(a, at, "tools of type '%.60s' run at Anthropic and are not offered here", type);
        if (!json_is_object(schema))
            return field_fail(a, at, "input_schema: wanted a JSON Schema: an object");
        if (!check_function(a, at, json_object_get(t, "name"), schema, "input_schema"))
            return false;
        json_t *fn = json_object(), *tool = json_object();
        json_object_set(fn, "name", json_object_get(t, "name"));
        if (json_is_string(json_object_get(t, "description")))
            json_object_set(fn, "description", json_object_get(t, "description"));
        json_object_set(fn, "parameters", schema);
        json_object_set_new(tool, "type", json_string("function"));
        json_object_set_new(tool, "function", fn);
        json_array_append_new(out, tool);
    }
    a->tools = json_array_size(out) ? out : NULL;
    return true;
}

bool tools_settle(ask *a)
{
    if (a->tool_mode == TOOLS_NONE)
        a->tools = NULL; /* a model that may not call needs not know what it could */
    if (a->tool_mode != TOOLS_MUST)
        return true;
    if (!a->tools)
        return field_fail(a, "tool_choice", "a call is wanted, but there are no tools");
    if (a->constraint_kind != IMP_CONSTRAINT_NONE)
        return field_fail(a, "tool_choice", "a call that must come and a constraint of the answer exclude each other");
    size_t i;
    json_t *t;
    bool found = !a->tool_name;
    json_array_foreach(a->tools, i, t) {
        const char *name = json_string_value(json_object_get(json_object_get(t, "function"), "name"));
        found |= a->tool_name && strcmp(name, a->tool_name) == 0;
    }
    return found || field_fail(a, "tool_choice", "there is no tool '%.128s'", a->tool_name);
}

/* ---- prompt and answer ------------------------------------------------------------------------------------------- */
/* Appends text to the prompt's tokens. */
static imp_status append(gen *g, gen_prompt *p, const char *text, imp_err *e)
{
    int32_t *ids = NULL;
    size_t n = 0;
    imp_status st = imp_tokenize(g->s->m, text, strlen(text), IMP_PARSE_SPECIAL, &ids, &n, e);
    int32_t *all = st == IMP_OK ? mem_realloc(p->ids, (p->n + n + 1) * sizeof *all) : NULL;
    if (all) {
        memcpy(all + p->n, ids, n * sizeof *ids);
        p->ids = all;
        p->n += (uint32_t)n;
    }
    imp_free(ids);
    return st != IMP_OK || all ? st : IMP_E_NOMEM;
}

/* The answer begins in the prompt: with a call that must come, or with the end of a reasoning block that a constraint
 * would have to stand in. */
static imp_status force(gen *g, const char *tools, const char *tail, imp_err *e)
{
    ask *a = &g->a;
    char *prefix = NULL, *schema = NULL;
    imp_status st = imp_chat_force_call(g->s->m, g->s->p.chat_template, tools, tools ? strlen(tools) : 0, a->tool_name,
                                        tail, &prefix, &schema, e);
    if (st == IMP_OK && tools) {
        a->constraint_kind = IMP_CONSTRAINT_SCHEMA;
        a->constraint = arena_strdup(a->mem, schema);
    }
    if (st == IMP_OK && prefix[0]) {
        g->forced = arena_strdup(a->mem, prefix);
        st = append(g, &g->prompt[0], prefix, e);
    }
    imp_free(prefix);
    imp_free(schema);
    return st == IMP_OK && a->mem->failed ? IMP_E_NOMEM : st;
}

bool tools_prompt(gen *g)
{
    enum { TAIL = 16 };
    const gen_prompt *p = &g->prompt[0];
    bool must = g->a.tool_mode == TOOLS_MUST && g->a.tools;
    unsigned flags = IMP_PARSE_REASONING | (g->a.tools ? (unsigned)IMP_PARSE_TOOLS : 0) |
                     (must ? (unsigned)IMP_PARSE_FORCED : 0);
    imp_err e = {0};
    char *tail = NULL, *tools = g->a.tools ? json_dumps(g->a.tools, JSON_COMPACT) : NULL;
    size_t n = p->n < TAIL ? p->n : TAIL, n_tail;
    imp_status st = g->a.tools && !tools
                        ? IMP_E_NOMEM
                        : imp_detokenize(g->s->m, p->ids + (p->n - n), n, true, &tail, &n_tail, &e);
    if (st == IMP_OK && (must || g->a.constraint_kind != IMP_CONSTRAINT_NONE))
        st = force(g, must ? tools : NULL, tail, &e);
    for (uint32_t i = 0; i < g->n_choice && st == IMP_OK; i++) {
        choice *c = &g->choice[i];
        st = imp_chat_parser_new(g->s->m, g->s->p.chat_template, flags, tools, tail, gen_on_part, c, &c->parser, &e);
        g->parses = c->parser != NULL;
    }
    imp_free(tail);
    free(tools);
    if (st == IMP_OK)
        return true;
    field_fail(&g->a, g->a.tools ? "tools" : "messages", "%s", e.message[0] ? e.message : imp_status_text(st));
    if (imp_status_http(st) >= 500)
        g->err.http = imp_status_http(st);
    return false;
}

void tools_explain(const gen *g, char *message, size_t size)
{
    static const char several[] = "schema: #/anyOf/";
    json_t *tools = g->a.tools;
    size_t i = 0, skip = 0;
    if (g->a.tool_mode != TOOLS_MUST || strncmp(message, "schema: #", 9) != 0)
        return;
    if (json_array_size(tools) > 1 && !g->a.tool_name && strncmp(message, several, sizeof several - 1) == 0) {
        char *end;
        i = strtoul(message + sizeof several - 1, &end, 10);
        const char *rest = strncmp(end, "/properties/", 12) == 0 ? end + 12 + strcspn(end + 12, "/:") /* "arguments" */
                                                                 : end;
        skip = (size_t)(rest - message);
    } else {
        skip = strlen("schema: #");
    }
    const char *name = g->a.tool_name;
    if (!name)
        name = json_string_value(json_object_get(json_object_get(json_array_get(tools, i), "function"), "name"));
    char text[1100];
    snprintf(text, sizeof text, "tool '%.128s': #%.900s", name ? name : "", message + skip);
    snprintf(message, size, "%s", text);
}

/* Rows that constrain the answer: OpenAI's response_format, vLLM's guided_* and structured_outputs, llama-server's
 * grammar and json_schema. They are compiled by imp_submit, on the worker; what does not compile is a 400, never an
 * unconstrained answer. */
#include <string.h>

#include "server/fields.h"

static bool set_constraint(ask *a, const field *f, imp_constraint_kind kind, const char *text)
{
    if (a->constraint_kind != IMP_CONSTRAINT_NONE)
        return field_fail(a, f->name, "the answer is constrained by another field already");
    a->constraint_kind = kind;
    a->constraint = text ? arena_strdup(a->mem, text) : NULL;
    return true;
}

static bool set_schema(ask *a, const field *f, json_t *schema)
{
    if (!json_is_object(schema) && !json_is_boolean(schema))
        return field_fail(a, f->name, "wanted a JSON Schema: an object");
    char *text = json_dumps(schema, JSON_COMPACT | JSON_ENCODE_ANY);
    bool ok = text ? set_constraint(a, f, IMP_CONSTRAINT_SCHEMA, text)
                   : field_fail(a, f->name, "the schema cannot be written");
    free(text);
    return ok;
}

bool field_response_format(ask *a, const field *f, json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!json_is_object(v) || !type)
        return field_fail(a, f->name, "wanted an object with a type");
    if (strcmp(type, "text") == 0)
        return true;
    json_t *js = json_object_get(v, "json_schema");
    json_t *schema = js ? json_object_get(js, "schema") : json_object_get(v, "schema");
    if (strcmp(type, "json_object") == 0)
        return schema ? set_schema(a, f, schema) : set_constraint(a, f, IMP_CONSTRAINT_JSON, NULL);
    if (strcmp(type, "json_schema") != 0)
        return field_fail(a, f->name, "type '%.60s': wanted text, json_object or json_schema", type);
    return schema ? set_schema(a, f, schema) : field_fail(a, f->name, "json_schema: wanted an object with a schema");
}

/* The schema itself, or its text. */
bool field_guided_json(ask *a, const field *f, json_t *v)
{
    return json_is_string(v) ? set_constraint(a, f, IMP_CONSTRAINT_SCHEMA, json_string_value(v)) : set_schema(a, f, v);
}

static bool set_text(ask *a, const field *f, imp_constraint_kind kind, json_t *v)
{
    if (!json_is_string(v) || !json_string_length(v) || strlen(json_string_value(v)) != json_string_length(v))
        return field_fail(a, f->name, "wanted a text");
    return set_constraint(a, f, kind, json_string_value(v));
}

bool field_guided_regex(ask *a, const field *f, json_t *v) { return set_text(a, f, IMP_CONSTRAINT_REGEX, v); }
bool field_guided_grammar(ask *a, const field *f, json_t *v) { return set_text(a, f, IMP_CONSTRAINT_GRAMMAR, v); }

/* One of several texts: a regular expression of its alternatives, with what regular expressions read
 * differently escaped. */
bool field_guided_choice(ask *a, const field *f, json_t *v)
{
    strbuf b = {0};
    size_t i;
    json_t *x;
    if (!json_is_array(v) || !json_array_size(v))
        return field_fail(a, f->name, "wanted a list of texts");
    sb_char(&b, '(');
    json_array_foreach(v, i, x) {
        if (!json_is_string(x) || !json_string_length(x) || strlen(json_string_value(x)) != json_string_length(x)) {
            sb_free(&b);
            return field_fail(a, f->name, "wanted a list of texts");
        }
        if (i)
            sb_char(&b, '|');
        for (const char *s = json_string_value(x); *s; s++) {
            if (strchr("\\^$.|?*+()[]{}/-", *s))
                sb_char(&b, '\\');
            sb_char(&b, *s);
        }
    }
    sb_char(&b, ')');
    bool ok = !b.failed && set_constraint(a, f, IMP_CONSTRAINT_REGEX, b.s);
    sb_free(&b);
    return ok || field_fail(a, f->name, "out of memory");
}

bool field_structured(ask *a, const field *f, json_t *v)
{
    static const struct { const char *key; bool (*fn)(ask *, const field *, json_t *); } kinds[] = {
        {"json", field_guided_json}, {"regex", field_guided_regex}, {"grammar", field_guided_grammar},
        {"choice", field_guided_choice}};
    const char *key;
    json_t *x;
    if (!json_is_object(v))
        return field_fail(a, f->name, "wanted an object");
    json_object_foreach(v, key, x) {
        size_t k = 0;
        if (json_is_null(x))
            continue;
        while (k < 4 && strcmp(kinds[k].key, key) != 0)
            k++;
        if (k == 4)
            return field_fail(a, f->name, "there is no '%.60s'; there are json, regex, grammar and choice", key);
        if (!kinds[k].fn(a, f, x))
            return false;
    }
    return true;
}

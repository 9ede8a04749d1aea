#include "server/fields.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/utf8.h"

#define MAX_DEPTH 128 /* jansson recurses; deeper bodies are attacks */

static void fail(req_err *e, int http, const char *code, const char *param, const char *fmt, va_list ap)
{
    if (e->http)
        return;
    e->http = http;
    e->code = code;
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    int n = param ? snprintf(e->message, sizeof e->message, "%s: ", e->param) : 0;
    vsnprintf(e->message + n, sizeof e->message - (size_t)n, fmt, ap);
}

bool field_fail(ask *a, const char *param, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fail(a->err, 400, NULL, param, fmt, ap);
    va_end(ap);
    return false;
}

__attribute__((format(printf, 2, 3))) static void body_fail(req_err *e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fail(e, 400, NULL, NULL, fmt, ap);
    va_end(ap);
}

/* ---- bodies ----------------------------------------------------------------------------------------------------- */
static bool too_deep(const char *s, size_t n)
{
    unsigned depth = 0;
    bool in_str = false;
    for (size_t i = 0; i < n; i++) {
        if (in_str) {
            if (s[i] == '\\')
                i++;
            else if (s[i] == '"')
                in_str = false;
        } else if (s[i] == '"') {
            in_str = true;
        } else if (s[i] == '{' || s[i] == '[') {
            if (++depth > MAX_DEPTH)
                return true;
        } else if ((s[i] == '}' || s[i] == ']') && depth) {
            depth--;
        }
    }
    return false;
}

json_t *fields_parse_body(const char *s, size_t n, req_err *err)
{
    json_error_t je;
    if (n == 0) {
        body_fail(err, "the body is empty: wanted a JSON object");
        return NULL;
    }
    if (too_deep(s, n)) {
        body_fail(err, "the body is nested more than %d deep", MAX_DEPTH);
        return NULL;
    }
    json_t *doc = json_loadb(s, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &je);
    if (!doc) {
        body_fail(err, "the body is no valid JSON: line %d, column %d: %.200s", je.line, je.column, je.text);
        return NULL;
    }
    if (!json_is_object(doc)) {
        json_decref(doc);
        body_fail(err, "the body must be a JSON object");
        return NULL;
    }
    return doc;
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */
static const char *kind_name(const json_t *v)
{
    static const char *const name[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list", [JSON_STRING] = "a string",
        [JSON_INTEGER] = "an integer", [JSON_REAL] = "a number", [JSON_TRUE] = "true", [JSON_FALSE] = "false",
        [JSON_NULL] = "null",
    };
    return name[json_typeof(v)];
}

static bool read_int(ask *a, const field *f, json_t *v, int64_t *out)
{
    /* 5.0 is an integer to JSON Schema, and to some clients */
    bool whole = json_is_real(v) && floor(json_real_value(v)) == json_real_value(v) && fabs(json_real_value(v)) < 9e15;
    if (!json_is_integer(v) && !whole)
        return field_fail(a, f->name, "wanted an integer, got %s", kind_name(v));
    *out = whole ? (int64_t)json_real_value(v) : json_integer_value(v);
    if ((double)*out < f->min || (double)*out > f->max)
        return field_fail(a, f->name, "wanted %.0f to %.0f, got %lld", f->min, f->max, (long long)*out);
    return true;
}

static bool read_field(ask *a, const field *f, json_t *v)
{
    char *at = (char *)a + f->off;
    int64_t i = 0;
    if (f->kind == FIELD_BOOL) {
        if (!json_is_boolean(v))
            return field_fail(a, f->name, "wanted true or false, got %s", kind_name(v));
        *(bool *)at = json_is_true(v);
    } else if (f->kind == FIELD_I32 || f->kind == FIELD_I64) {
        if (!read_int(a, f, v, &i))
            return false;
        if (f->kind == FIELD_I32)
            *(int32_t *)at = (int32_t)i;
        else
            *(int64_t *)at = i;
    } else if (f->kind == FIELD_FLOAT) {
        if (!json_is_number(v))
            return field_fail(a, f->name, "wanted a number, got %s", kind_name(v));
        double d = json_number_value(v);
        if (!(d >= f->min && d <= f->max))
            return field_fail(a, f->name, "wanted %g to %g, got %g", f->min, f->max, d);
        *(float *)at = (float)d;
    } else if (f->kind == FIELD_TEXT) {
        if (!json_is_string(v))
            return field_fail(a, f->name, "wanted a string, got %s", kind_name(v));
        if (strlen(json_string_value(v)) != json_string_length(v))
            return field_fail(a, f->name, "a NUL character is not taken here");
        *(const char **)at = json_string_value(v);
    } else if (f->kind == FIELD_ANY) {
        *(json_t **)at = v;
    } else if (f->kind == FIELD_REFUSED) {
        bool empty = json_is_false(v) || (json_is_array(v) && !json_array_size(v)) ||
                     (json_is_object(v) && !json_object_size(v));
        return empty || field_fail(a, f->name, "%s", f->why);
    }
    return f->kind != FIELD_FN || f->fn(a, f, v);
}

static const field *find(const field_set *set, const char *name)
{
    for (const field *const *t = set->table; *t; t++)
        for (const field *f = *t; f->name; f++)
            if (strcmp(f->name, name) == 0)
                return f;
    return NULL;
}

bool fields_read(ask *a, const field_set *set, json_t *doc)
{
    const char *key;
    json_t *v;
    json_object_foreach(doc, key, v) {
        const field *f = find(set, key);
        if (!f && set->lenient)
            continue;
        if (!f)
            return field_fail(a, key, "there is no such field");
        if (!json_is_null(v) && !read_field(a, f, v)) /* null is the same as absent, as clients send it */
            return false;
    }
    return true;
}

bool field_stop(ask *a, const field *f, json_t *v)
{
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (!json_is_string(v) && !json_is_array(v))
        return field_fail(a, f->name, "wanted a string or a list of strings, got %s", kind_name(v));
    if ((double)n > f->max)
        return field_fail(a, f->name, "at most %.0f are taken, got %zu", f->max, n);
    a->stop = ARENA_ARRAY(a->mem, const char *, n + 1);
    for (size_t i = 0; a->stop && i < n; i++) {
        json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(s))
            return field_fail(a, f->name, "wanted strings, got %s", kind_name(s));
        if (!json_string_length(s) || strlen(json_string_value(s)) != json_string_length(s))
            return field_fail(a, f->name, "an empty string, or one with a NUL character, cannot end an answer");
        a->stop[a->n_stop++] = json_string_value(s);
    }
    return true;
}

static bool field_stop_tokens(ask *a, const field *f, json_t *v)
{
    size_t n = json_array_size(v);
    if (!json_is_array(v) || n > 1024)
        return field_fail(a, f->name, "wanted a list of at most 1024 token ids");
    a->stop_token = ARENA_ARRAY(a->mem, int32_t, n + 1);
    for (size_t i = 0; a->stop_token && i < n; i++) {
        json_t *t = json_array_get(v, i);
        if (!json_is_integer(t) || json_integer_value(t) < 0 || json_integer_value(t) > INT32_MAX)
            return field_fail(a, f->name, "wanted token ids");
        a->stop_token[a->n_stop_token++] = (int32_t)json_integer_value(t);
    }
    return true;
}

static bool field_bias(ask *a, const field *f, json_t *v)
{
    if (!json_is_object(v))
        return field_fail(a, f->name, "wanted an object of token id to number, got %s", kind_name(v));
    imp_logit_bias *b = ARENA_ARRAY(a->mem, imp_logit_bias, json_object_size(v) + 1);
    uint32_t n = 0;
    const char *key;
    json_t *x;
    json_object_foreach(v, key, x) {
        size_t len = strspn(key, "0123456789");
        long long id = len && len < 11 && !key[len] ? strtoll(key, NULL, 10) : -1;
        if (id < 0 || id > INT32_MAX)
            return field_fail(a, f->name, "wanted token ids as keys, got '%.40s'", key);
        if (!json_is_number(x) || !(fabs(json_number_value(x)) <= 100))
            return field_fail(a, f->name, "token %.12s: wanted a number from -100 to 100", key);
        if (b)
            b[n++] = (imp_logit_bias){(int32_t)id, (float)json_number_value(x)};
    }
    a->sampling.logit_bias = b;
    a->sampling.n_logit_bias = n;
    return true;
}

static bool field_seed(ask *a, const field *f, json_t *v)
{
    int64_t i = 0;
    if (!read_int(a, f, v, &i))
        return false;
    a->sampling.seed = (uint64_t)i;
    a->seeded = true;
    return true;
}

static bool field_max_tokens(ask *a, const field *f, json_t *v)
{
    if (!read_int(a, f, v, &a->max_tokens))
        return false;
    a->has_max = true;
    return true;
}

static bool field_skip_special(ask *a, const field *f, json_t *v)
{
    if (!json_is_boolean(v))
        return field_fail(a, f->name, "wanted true or false, got %s", kind_name(v));
    a->keep_special = json_is_false(v);
    return true;
}

static bool field_mirostat(ask *a, const field *f, json_t *v)
{
    int64_t i = 0;
    if (!read_int(a, f, v, &i))
        return false;
    if (i == 1)
        return field_fail(a, f->name, "wanted 0 (off) or 2; version 1 is not offered");
    a->sampling.mirostat = (int32_t)i;
    return true;
}

#define S(member) .off = offsetof(ask, sampling.member)
#define FLT .kind = FIELD_FLOAT
const field fields_sampling[] = {
    {.name = "temperature", FLT, S(temperature), .max = 2},
    {.name = "top_p", FLT, S(top_p), .max = 1},
    {.name = "top_k", .kind = FIELD_I32, S(top_k), .min = -1, .max = INT32_MAX},
    {.name = "min_p", FLT, S(min_p), .max = 1},
    {.name = "typical_p", FLT, S(typical_p), .max = 1},
    {.name = "repetition_penalty", FLT, S(repeat_penalty), .min = 0.01, .max = 100},
    {.name = "repeat_penalty", FLT, S(repeat_penalty), .min = 0.01, .max = 100},
    {.name = "repeat_last_n", .kind = FIELD_I32, S(repeat_last_n), .min = -1, .max = INT32_MAX},
    {.name = "dry_multiplier", FLT, S(dry_multiplier), .max = 100},
    {.name = "dry_base", FLT, S(dry_base), .max = 100},
    {.name = "dry_allowed_length", .kind = FIELD_I32, S(dry_allowed_length), .min = 1, .max = 1 << 20},
    {.name = "dry_penalty_last_n", .kind = FIELD_I32, S(dry_penalty_last_n), .min = -1, .max = INT32_MAX},
    {.name = "mirostat", .kind = FIELD_FN, .fn = field_mirostat, .max = 2},
    {.name = "mirostat_tau", FLT, S(mirostat_tau), .max = 1000},
    {.name = "mirostat_eta", FLT, S(mirostat_eta), .max = 10},
    {.name = "frequency_penalty", FLT, S(frequency_penalty), .min = -2, .max = 2},
    {.name = "presence_penalty", FLT, S(presence_penalty), .min = -2, .max = 2},
    {.name = "logit_bias", .kind = FIELD_FN, .fn = field_bias},
    {.name = "seed", .kind = FIELD_FN, .fn = field_seed, .min = -9.3e18, .max = 9.3e18},
    {.name = "ignore_eos", .kind = FIELD_BOOL, .off = offsetof(ask, ignore_eos)},
    {.name = "stop_token_ids", .kind = FIELD_FN, .fn = field_stop_tokens},
    {.name = "skip_special_tokens", .kind = FIELD_FN, .fn = field_skip_special},
    {.name = "cache_salt", .kind = FIELD_TEXT, .off = offsetof(ask, salt)},
    {.name = "priority", .kind = FIELD_I32, .off = offsetof(ask, priority), .min = INT32_MIN, .max = INT32_MAX},
    {.name = "stream", .kind = FIELD_BOOL, .off = offsetof(ask, stream)},
    {.name = "model", .kind = FIELD_TEXT, .off = offsetof(ask, model)},
    {.name = "max_tokens", .kind = FIELD_FN, .fn = field_max_tokens, .max = INT32_MAX},
    {.name = NULL},
};

/* ---- afterwards -------------------------------------------------------------------------------------------------- */
bool fields_settle(ask *a, const server_params *p)
{
    if (a->max_completion >= 0) {
        a->max_tokens = a->max_completion;
        a->has_max = true;
    }
    if (a->sampling.top_k < 0) /* vLLM's spelling of "off" */
        a->sampling.top_k = 0;
    if (!a->seeded && getrandom(&a->sampling.seed, sizeof a->sampling.seed, 0) != (ssize_t)sizeof a->sampling.seed)
        a->sampling.seed = (uint64_t)clock_ns();
    if (p->n_stop) {
        const char **all = ARENA_ARRAY(a->mem, const char *, (size_t)a->n_stop + p->n_stop);
        if (all && a->n_stop)
            memcpy(all, a->stop, a->n_stop * sizeof *all);
        for (uint32_t i = 0; all && i < p->n_stop; i++)
            all[a->n_stop + i] = p->stop[i];
        a->stop = all;
        a->n_stop += all ? p->n_stop : 0;
    }
    if (a->mem->failed) {
        a->err->http = 503;
        snprintf(a->err->message, sizeof a->err->message, "out of memory for the request");
        return false;
    }
    return true;
}

bool fields_model(const server *s, ask *a)
{
    const char *m = a->model;
    if (!m || strcmp(m, s->model_id) == 0 || strcmp(m, s->info.name) == 0 || strcmp(m, s->model_path) == 0)
        return true;
    for (uint32_t i = 0; i < s->p.n_alias; i++)
        if (strcmp(s->p.alias[i], "*") == 0 || strcmp(s->p.alias[i], m) == 0)
            return true;
    field_fail(a, "model", "'%.200s' is not served here; there is '%.200s'", m, s->model_id);
    a->err->http = 404;
    a->err->code = "model_not_found";
    return false;
}

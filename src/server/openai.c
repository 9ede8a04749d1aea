#include "server/openai.h"

#include <stdio.h>
#include <string.h>

static bool field_stream_options(ask *a, const field *f, json_t *v)
{
    const char *key;
    json_t *x;
    if (!json_is_object(v))
        return field_fail(a, f->name, "wanted an object");
    json_object_foreach(v, key, x) {
        bool usage = strcmp(key, "include_usage") == 0;
        if (!usage && strcmp(key, "include_obfuscation") != 0)
            return field_fail(a, f->name, "there is no '%.60s'", key);
        if (!json_is_boolean(x) && !json_is_null(x))
            return field_fail(a, f->name, "'%.60s' must be true or false", key);
        if (usage)
            a->include_usage = json_is_true(x);
    }
    return true;
}

#define LATER "not built yet"
const field openai_fields[] = {
    {.name = "n", .kind = FIELD_I32, .off = offsetof(ask, n), .min = 1, .max = 128},
    {.name = "stop", .kind = FIELD_FN, .fn = field_stop, .max = 4},
    {.name = "stream_options", .kind = FIELD_FN, .fn = field_stream_options},
    {.name = "response_format", .kind = FIELD_FN, .fn = field_response_format},
    {.name = "min_tokens", .kind = FIELD_REFUSED, .why = LATER},
    {.name = "prompt_logprobs", .kind = FIELD_REFUSED, .why = "use echo with logprobs on /v1/completions"},
    {.name = "guided_json", .kind = FIELD_FN, .fn = field_guided_json},
    {.name = "guided_regex", .kind = FIELD_FN, .fn = field_guided_regex},
    {.name = "guided_grammar", .kind = FIELD_FN, .fn = field_guided_grammar},
    {.name = "guided_choice", .kind = FIELD_FN, .fn = field_guided_choice},
    {.name = "grammar", .kind = FIELD_FN, .fn = field_guided_grammar},
    {.name = "json_schema", .kind = FIELD_FN, .fn = field_guided_json},
    {.name = "structured_outputs", .kind = FIELD_FN, .fn = field_structured},
    {.name = "lora", .kind = FIELD_REFUSED, .why = LATER},
    {.name = "user", .kind = FIELD_IGNORED},
    {.name = "metadata", .kind = FIELD_IGNORED},
    {.name = "store", .kind = FIELD_IGNORED},
    {.name = "service_tier", .kind = FIELD_IGNORED},
    {.name = "safety_identifier", .kind = FIELD_IGNORED},
    {.name = "prompt_cache_key", .kind = FIELD_IGNORED},
    {.name = "prompt_cache_retention", .kind = FIELD_IGNORED},
    {.name = "cache_prompt", .kind = FIELD_IGNORED},
    {.name = "id_slot", .kind = FIELD_IGNORED},
    {.name = "request_id", .kind = FIELD_IGNORED},
    {.name = NULL},
};

bool openai_settle(gen *g)
{
    ask *a = &g->a;
    if (json_object_get(g->doc, "stream_options") && !json_is_null(json_object_get(g->doc, "stream_options")) &&
        !a->stream)
        return field_fail(a, "stream_options", "only with stream: true");
    if (a->best_of && a->best_of != a->n)
        return field_fail(a, "best_of", "only the value of n (%d) is offered, got %d", a->n, a->best_of);
    return fields_settle(a, &g->s->p);
}

const char *openai_finish(const choice *c)
{
    return c->finish == IMP_FINISH_LENGTH ? "length" : c->n_call ? "tool_calls" : "stop";
}

void openai_usage(jw *w, const gen *g)
{
    gen_usage u = gen_count(g);
    jw_object(w);
    jw_kint(w, "prompt_tokens", u.prompt);
    jw_kint(w, "completion_tokens", u.completion);
    jw_kint(w, "total_tokens", (int64_t)u.prompt + u.completion);
    jw_key(w, "prompt_tokens_details");
    jw_object(w);
    jw_kint(w, "cached_tokens", u.cached);
    jw_end_object(w);
    jw_key(w, "completion_tokens_details");
    jw_object(w);
    jw_kint(w, "reasoning_tokens", u.reasoning);
    jw_end_object(w);
    jw_end_object(w);
}

static void timing(jw *w, const char *what, uint32_t n, int64_t ns)
{
    char key[48];
    double ms = (double)ns * 1e-6;
    snprintf(key, sizeof key, "%s_n", what);
    jw_kint(w, key, n);
    snprintf(key, sizeof key, "%s_ms", what);
    jw_kdouble(w, key, ms);
    snprintf(key, sizeof key, "%s_per_token_ms", what);
    jw_kdouble(w, key, n ? ms / n : 0);
    snprintf(key, sizeof key, "%s_per_second", what);
    jw_kdouble(w, key, ms > 0 ? 1000 * n / ms : 0);
}

/* llama-server's object, of the first choice. */
void openai_timings(jw *w, const gen *g)
{
    const imp_timing *t = &g->choice[0].timing;
    jw_object(w);
    jw_kint(w, "cache_n", t->n_cached);
    timing(w, "prompt", t->n_prompt - t->n_cached, t->prefill_ns);
    timing(w, "predicted", t->n_generated, t->decode_ns);
    jw_end_object(w);
}

void openai_head(jw *w, const gen *g, const char *object)
{
    jw_object(w);
    jw_kstr(w, "id", g->id);
    jw_kstr(w, "object", object);
    jw_kint(w, "created", g->created);
    jw_kstr(w, "model", g->s->model_id);
    jw_kstr(w, "system_fingerprint", "imp-" IMP_VERSION);
}

void openai_chunk(jw *w, strbuf *out, const gen *g, const char *object)
{
    sb_str(out, "data: ");
    jw_init(w, out);
    openai_head(w, g, object);
}

void openai_chunk_end(jw *w, strbuf *out, const gen *g, bool usage)
{
    if (g->a.include_usage) {
        jw_key(w, "usage");
        if (usage)
            openai_usage(w, g);
        else
            jw_null(w);
    }
    jw_end_object(w);
    sb_str(out, "\n\n");
}

void openai_fail(gen *g, int http, const char *message, strbuf *out)
{
    sb_str(out, "data: ");
    error_print(out, FORM_OPENAI, g->c->id, &http, g->err.code, NULL, message, NULL);
    sb_str(out, "\n\n");
}

void openai_end(gen *g, const char *object, strbuf *out)
{
    if (g->a.include_usage) {
        jw w;
        openai_chunk(&w, out, g, object);
        jw_key(&w, "choices");
        jw_array(&w);
        jw_end_array(&w);
        jw_key(&w, "timings");
        openai_timings(&w, g);
        openai_chunk_end(&w, out, g, true);
    }
    sb_str(out, "data: [DONE]\n\n");
}

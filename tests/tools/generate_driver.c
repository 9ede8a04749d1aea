/* Constrained answers of a real model for Python tests: one JSON request a line on stdin, one answer a line.
 *   request: {"schema"|"regex"|"grammar": text (none: free), "prompt": text, "n", "seed", "max_tokens": integers, "temperature": number,
 *             "logprobs": -1..20, "stop": text, "ignore_eos": bool}
 *   answer:  {"ok": bool, "error": text, "choices": [{"text", "ids", "logprobs", "finish": number of imp_finish}..], "forced": tokens,
 *             "decode_ns": longest of the choices, "generated": tokens}
 * usage: generate_driver MODEL JUMP (0 on, 1 steps, 2 off) [sequences at once] [threads] */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "imp.h"

typedef struct collector {
    json_t *choice[128];
    char *text[128];
    size_t n_text[128];
    long long decode_ns, generated;
    const char *error;
} collector;

static void on_event(void *user, const imp_event *ev)
{
    collector *c = user;
    unsigned i = ev->choice;
    if (ev->kind == IMP_EVENT_TOKEN) {
        if (ev->token >= 0) {
            json_array_append_new(json_object_get(c->choice[i], "ids"), json_integer(ev->token));
            if (!isnan(ev->logprob))
                json_array_append_new(json_object_get(c->choice[i], "logprobs"), json_real((double)ev->logprob));
        }
        c->text[i] = realloc(c->text[i], c->n_text[i] + ev->n_text + 1);
        memcpy(c->text[i] + c->n_text[i], ev->text, ev->n_text);
        c->n_text[i] += ev->n_text;
    } else if (ev->kind == IMP_EVENT_DONE) {
        json_object_set_new(c->choice[i], "finish", json_integer(ev->finish));
        json_object_set_new(c->choice[i], "text", json_stringn_nocheck(c->text[i] ? c->text[i] : "", c->n_text[i]));
        if (ev->status != IMP_OK) {
            json_object_set_new(c->choice[i], "error", json_string(ev->message));
            c->error = "a choice failed";
        }
        c->generated += ev->timing.n_generated;
        c->decode_ns = ev->timing.decode_ns > c->decode_ns ? ev->timing.decode_ns : c->decode_ns;
    }
}

static json_t *answer(imp_model *m, imp_engine *g, json_t *req)
{
    static const struct { const char *name; imp_constraint_kind kind; } kinds[] = {
        {"schema", IMP_CONSTRAINT_SCHEMA}, {"regex", IMP_CONSTRAINT_REGEX}, {"grammar", IMP_CONSTRAINT_GRAMMAR}};
    collector c = {0};
    imp_request r;
    imp_err e = {0};
    imp_stats before = {.size = sizeof before}, after = {.size = sizeof after};
    const char *prompt = json_string_value(json_object_get(req, "prompt")), *stop = json_string_value(json_object_get(req, "stop"));
    int32_t *ids = NULL;
    size_t n = 0;
    uint64_t id = 0;
    json_t *ans = json_object(), *list = json_array(), *v;
    imp_request_init(&r);
    imp_status st = imp_tokenize(m, prompt, strlen(prompt), IMP_ADD_SPECIAL, &ids, &n, &e);
    r.prompt = ids;
    r.n_prompt = (uint32_t)n;
    r.n = (v = json_object_get(req, "n")) ? (uint32_t)json_integer_value(v) : 1;
    r.max_tokens = (uint32_t)json_integer_value(json_object_get(req, "max_tokens"));
    r.sampling.temperature = (float)json_number_value(json_object_get(req, "temperature"));
    r.sampling.seed = (uint64_t)json_integer_value(json_object_get(req, "seed"));
    r.logprobs = (v = json_object_get(req, "logprobs")) ? (int32_t)json_integer_value(v) : -1;
    r.ignore_eos = json_is_true(json_object_get(req, "ignore_eos"));
    r.stop = &stop;
    r.n_stop = stop != NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if ((v = json_object_get(req, kinds[i].name))) {
            r.constraint_kind = kinds[i].kind;
            r.constraint = json_string_value(v);
        }
    for (uint32_t i = 0; i < r.n && i < 128; i++)
        c.choice[i] = json_pack("{s:[],s:[]}", "ids", "logprobs");
    imp_engine_stats(g, &before);
    if (st == IMP_OK)
        st = imp_submit(g, &r, on_event, &c, &id, &e);
    if (st == IMP_OK)
        imp_wait(g, id, -1);
    imp_engine_stats(g, &after);
    for (uint32_t i = 0; i < r.n && i < 128; i++) {
        json_array_append_new(list, c.choice[i]);
        free(c.text[i]);
    }
    json_object_set_new(ans, "ok", json_boolean(st == IMP_OK && !c.error));
    json_object_set_new(ans, "error", json_string(st == IMP_OK ? (c.error ? c.error : "") : e.message));
    json_object_set_new(ans, "choices", list);
    json_object_set_new(ans, "forced", json_integer((json_int_t)(after.forced_tokens - before.forced_tokens)));
    json_object_set_new(ans, "generated", json_integer(c.generated));
    json_object_set_new(ans, "decode_ns", json_integer(c.decode_ns));
    imp_free(ids);
    return ans;
}

int main(int argc, char **argv)
{
    imp_err e = {0};
    imp_model *m = NULL;
    imp_engine *g = NULL;
    imp_engine_params p;
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    if (argc < 3)
        return 2;
    imp_engine_params_init(&p);
    p.backend = "cpu";
    p.jump = (imp_jump)atoi(argv[2]);
    p.n_seq = argc > 3 ? (uint32_t)atoi(argv[3]) : 8;
    p.n_threads = argc > 4 ? atoi(argv[4]) : 0;
    p.n_ctx = 2048;
    if (imp_model_open(argv[1], NULL, &m, &e) != IMP_OK || imp_engine_new(m, &p, &g, &e) != IMP_OK) {
        fprintf(stderr, "%s\n", e.message);
        return 1;
    }
    while ((n = getline(&line, &cap, stdin)) > 0) {
        json_t *req = json_loadb(line, (size_t)n, 0, NULL);
        if (!req)
            return 2;
        json_t *ans = answer(m, g, req);
        char *text = json_dumps(ans, JSON_COMPACT | JSON_ENSURE_ASCII);
        puts(text);
        fflush(stdout);
        free(text);
        json_decref(ans);
        json_decref(req);
    }
    free(line);
    imp_engine_free(g);
    imp_model_close(m);
    return 0;
}

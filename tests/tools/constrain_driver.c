/* Drives src/constrain from Python until and beside `imp constrain`: one JSON request a line on stdin, one answer a line.
 *   request: {"schema"|"regex"|"grammar"|"json": text, "ws": 0|1|2, "ws_max": n, "texts": [..], "tokens": [[ids]..], "walks": n, "verify": bool (each mask of them against every token),
 *             "seed": n, "max_steps": n, "forced": text, "plain_integers": bool,
 *             "plain_escapes": bool, "key_order": bool, "times": bool}
 *   answer:  {"ok": bool, "error": text, "status": n, "compile_us": x, "bytes": n, "accept": [bool..] (texts),
 *             "token_accept": [index of the first refused token, or -1; -2: not complete at the end],
 *             "mask_us": [sum, count, worst, its list, its index], "times": [ns of each mask, ns of its token's acceptance, ..], "walks": [text | null], "forced": text}
 * usage: constrain_driver [VOCAB]; VOCAB: u32 n, then per token u32 length | eos << 31 and its bytes. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "constrain/constrain.h"

#define HIST 200000
static long hist[HIST]; /* masks by whole microseconds */
static double total_us;
static constrain_token *toks; /* the vocabulary's bytes, for walks */

/* Time of this thread alone: other work on the machine does not count. */
static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static constrain_vocab *load_vocab(const char *path)
{
    FILE *f = fopen(path, "rb");
    unsigned n = 0;
    constrain_vocab *v = NULL;
    imp_err e = {0};
    if (!f || fread(&n, 4, 1, f) != 1)
        return NULL;
    constrain_token *t = calloc(n, sizeof *t);
    for (unsigned i = 0; i < n; i++) {
        unsigned len;
        if (fread(&len, 4, 1, f) != 1)
            return NULL;
        t[i].eos = len >> 31;
        t[i].n = len & 0x7fffffff;
        char *s = malloc(t[i].n + 1);
        if (t[i].n && fread(s, 1, t[i].n, f) != t[i].n)
            return NULL;
        t[i].s = s;
    }
    fclose(f);
    double t0 = now_us();
    if (constrain_vocab_new(t, n, &v, &e))
        fprintf(stderr, "%s\n", e.message);
    fprintf(stderr, "vocabulary: %u tokens, %.1f ms\n", n, (now_us() - t0) / 1e3);
    toks = t;
    return v;
}

static json_t *run_texts(const constrain_prog *p, json_t *texts)
{
    json_t *out = json_array(), *t;
    size_t i;
    json_array_foreach(texts, i, t) {
        constrain_state *s = NULL;
        bool ok = !constrain_state_new(p, NULL, &s, NULL) && constrain_state_accept_bytes(s, json_string_value(t), json_string_length(t)) &&
                  constrain_state_is_complete(s);
        json_array_append_new(out, json_boolean(ok));
        constrain_state_free(s);
    }
    return out;
}

static bool allowed(const uint32_t *bits, long id) { return bits[id / 32] >> id % 32 & 1; }

static void run_tokens(const constrain_prog *p, const constrain_vocab *v, json_t *req, json_t *ans)
{
    json_t *lists = json_object_get(req, "tokens"), *l, *t, *out = json_array(), *times = json_array();
    bool timed = json_is_true(json_object_get(req, "times"));
    double sum = 0, worst = 0;
    long worst_list = 0, worst_at = 0, n_mask = 0;
    size_t i, k;
    uint32_t *bits = malloc((constrain_vocab_size(v) + 31) / 32 * 4);
    json_array_foreach(lists, i, l) {
        constrain_state *s = NULL;
        long bad = -1;
        if (constrain_state_new(p, v, &s, NULL))
            continue;
        json_array_foreach(l, k, t) {
            long id = (long)json_integer_value(t);
            double t0 = now_us();
            imp_status st = constrain_state_mask(s, bits);
            double us = now_us() - t0;
            sum += us;
            n_mask++;
            hist[us < HIST - 1 ? (int)us : HIST - 1]++;
            if (us > worst)
                worst = us, worst_list = (long)i, worst_at = (long)k;
            t0 = now_us();
            bool in_mask = !st && allowed(bits, id), taken = constrain_state_accept_token(s, (int32_t)id);
            if (timed) {
                json_array_append_new(times, json_integer((json_int_t)(us * 1e3)));
                json_array_append_new(times, json_integer((json_int_t)((now_us() - t0) * 1e3)));
            }
            if (in_mask != taken)
                fprintf(stderr, "mask and acceptance differ at token %zu (id %ld): mask %d, accept %d\n", k, id, in_mask, taken);
            if (!in_mask || !taken) {
                bad = (long)k;
                break;
            }
        }
        if (bad < 0 && !constrain_state_is_complete(s))
            bad = -2;
        json_array_append_new(out, json_integer(bad));
        constrain_state_free(s);
    }
    free(bits);
    json_object_set_new(ans, "token_accept", out);
    if (timed)
        json_object_set_new(ans, "times", times);
    else
        json_decref(times);
    json_object_set_new(ans, "mask_us", json_pack("[f,i,f,i,i]", sum, (int)n_mask, worst, (int)worst_list, (int)worst_at));
    total_us += sum;
}

static unsigned long long rng(unsigned long long *s)
{
    *s = *s * 6364136223846793005ull + 1442695040888963407ull;
    return *s >> 33;
}

static bool driver_closes(int32_t id)
{
    const constrain_token *t = &toks[id];
    return t->eos || (t->n == 1 && strchr("]}\"", t->s[0])) || (t->n == 1 && strchr(":0123456789", t->s[0]));
}

/* Does the mask allow exactly the tokens that would be taken? */
static bool mask_is_right(const constrain_state *s, const uint32_t *bits, size_t n)
{
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        constrain_state *c = NULL;
        if (constrain_state_clone(s, &c, NULL))
            return false;
        bool may = constrain_state_accept_token(c, (int32_t)i);
        if (may != allowed(bits, (long)i)) {
            fprintf(stderr, "token %zu '%.*s': mask %d, text %d\n", i, (int)toks[i].n, toks[i].s, !may, may);
            ok = false;
        }
        constrain_state_free(c);
    }
    return ok;
}

/* A walk of random allowed tokens; once past max_steps the end is taken as soon as it is allowed, and tokens that close
 * things are preferred. null: it got stuck (a defect). */
static void run_walks(const constrain_prog *p, const constrain_vocab *v, json_t *req, json_t *ans)
{
    long n = (long)json_integer_value(json_object_get(req, "walks")), max = (long)json_integer_value(json_object_get(req, "max_steps"));
    unsigned long long seed = (unsigned long long)json_integer_value(json_object_get(req, "seed"));
    size_t size = constrain_vocab_size(v);
    uint32_t *bits = malloc((size + 31) / 32 * 4);
    json_t *out = json_array();
    for (long w = 0; w < n; w++) {
        constrain_state *s = NULL;
        strbuf text = {0};
        bool stuck = false, done = false;
        if (constrain_state_new(p, v, &s, NULL))
            break;
        for (long step = 0; !done && !stuck && step < max * 20; step++) {
            if (constrain_state_mask(s, bits)) {
                stuck = true;
                break;
            }
            if (json_is_true(json_object_get(req, "verify")) && !mask_is_right(s, bits, size)) {
                stuck = true;
                break;
            }
            bool complete = constrain_state_is_complete(s);
            if (complete && (step > max || rng(&seed) % 4 == 0)) {
                done = true;
                break;
            }
            long pick = -1, seen = 0, shortest = -1;
            for (size_t i = 0; i < size; i++)
                if (allowed(bits, (long)i)) {
                    seen++;
                    if (rng(&seed) % (unsigned long long)seen == 0)
                        pick = (long)i;
                    if (driver_closes((int32_t)i) && (shortest < 0 || rng(&seed) % 2))
                        shortest = (long)i;
                }
            if (step > max && shortest >= 0)
                pick = shortest;
            if (pick < 0) {
                done = complete;
                stuck = !complete;
                break;
            }
            size_t before = text.n;
            sb_add(&text, toks[pick].s, toks[pick].eos ? 0 : toks[pick].n);
            if (text.n == before) { /* end of text */
                done = complete;
                stuck = !complete;
                break;
            }
            if (!constrain_state_accept_token(s, (int32_t)pick)) {
                fprintf(stderr, "walk: a token of the mask was refused (id %ld)\n", pick);
                stuck = true;
            }
        }
        if (done)
            json_array_append_new(out, json_pack("s%", text.s ? text.s : "", text.n));
        else
            json_array_append_new(out, stuck ? json_pack("{s:o}", "stuck", json_stringn_nocheck(text.s ? text.s : "", text.n)) : json_null());
        sb_free(&text);
        constrain_state_free(s);
    }
    free(bits);
    json_object_set_new(ans, "walks", out);
}

int main(int argc, char **argv)
{
    constrain_vocab *v = argc > 1 ? load_vocab(argv[1]) : NULL;
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, stdin)) > 0) {
        json_error_t je;
        json_t *req = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, &je), *ans = json_object(), *t;
        if (!req)
            return 2;
        constrain_options o = {.ws = (constrain_ws)json_integer_value(json_object_get(req, "ws")),
                               .ws_max = (unsigned)json_integer_value(json_object_get(req, "ws_max")),
                               .plain_escapes = json_is_true(json_object_get(req, "plain_escapes")), .plain_integers = json_is_true(json_object_get(req, "plain_integers")),
                               .key_order = json_is_true(json_object_get(req, "key_order"))};
        constrain_prog *p = NULL;
        imp_err e = {0};
        imp_status st = IMP_E_USAGE;
        double t0 = now_us();
        if ((t = json_object_get(req, "schema")))
            st = constrain_compile_schema(json_string_value(t), json_string_length(t), &o, &p, &e);
        else if ((t = json_object_get(req, "regex")))
            st = constrain_compile_regex(json_string_value(t), json_string_length(t), &o, &p, &e);
        else if ((t = json_object_get(req, "grammar")))
            st = constrain_compile_grammar(json_string_value(t), json_string_length(t), &o, &p, &e);
        else if (json_object_get(req, "json"))
            st = constrain_compile_json(&o, &p, &e);
        json_object_set_new(ans, "compile_us", json_real(now_us() - t0));
        json_object_set_new(ans, "ok", json_boolean(!st));
        if (st) {
            json_object_set_new(ans, "error", json_stringn_nocheck(e.message, strlen(e.message)));
            json_object_set_new(ans, "status", json_integer(st));
        } else {
            json_object_set_new(ans, "bytes", json_integer((json_int_t)constrain_prog_bytes(p)));
            if ((t = json_object_get(req, "texts")))
                json_object_set_new(ans, "accept", run_texts(p, t));
            if (v && json_object_get(req, "tokens"))
                run_tokens(p, v, req, ans);
            if (v && json_object_get(req, "walks"))
                run_walks(p, v, req, ans);
            if ((t = json_object_get(req, "forced"))) {
                constrain_state *s = NULL;
                strbuf b = {0};
                if (!constrain_state_new(p, NULL, &s, NULL) && constrain_state_accept_bytes(s, json_string_value(t), json_string_length(t)))
                    constrain_state_forced(s, 10000, &b);
                json_object_set_new(ans, "forced", json_stringn_nocheck(b.s ? b.s : "", b.n));
                sb_free(&b);
                constrain_state_free(s);
            }
        }
        char *text = json_dumps(ans, JSON_COMPACT | JSON_ENSURE_ASCII);
        puts(text ? text : "{\"ok\":false,\"error\":\"driver: cannot print\"}");
        fflush(stdout);
        free(text);
        json_decref(ans);
        json_decref(req);
        constrain_prog_free(p);
    }
    long n_mask = 0, seen = 0;
    for (int i = 0; i < HIST; i++)
        n_mask += hist[i];
    static const double at[] = {0.5, 0.9, 0.95, 0.99, 0.999, 1};
    if (n_mask)
        fprintf(stderr, "masks %ld avg %.2f us", n_mask, total_us / (double)n_mask);
    for (int i = 0, k = 0; i < HIST && n_mask && k < 6; i++)
        for (seen += hist[i]; k < 6 && (double)seen >= at[k] * (double)n_mask; k++)
            fprintf(stderr, " p%g %d", at[k] * 100, i);
    if (n_mask)
        fputc('\n', stderr);
    free(line);
    constrain_vocab_free(v);
    return 0;
}

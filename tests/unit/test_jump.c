/* Jump-ahead: tokens that a constraint forces travel together. The answer (tokens, log-probabilities, text, end)
 * must be the one that a mask of each forced token alone gives, one step a token (IMP_JUMP_STEPS), for every chunk size
 * and whatever runs beside it; and where everything is forced, the tokens are the tokenizer's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "imp.h"

#define MAX_OUT 400
#define N_CHOICE 2
/* SentencePiece, and byte-level BPE with a pre-tokenizer */
static const char *const MODELS[] = {"tests/fixtures/models/gemma3-window.gguf",
                                     "tests/fixtures/models/llama-gqa4.gguf"};

typedef struct outcome {
    int32_t id[MAX_OUT];
    float lp[MAX_OUT], top[MAX_OUT];
    uint32_t n, n_generated;
    char text[4 * MAX_OUT];
    size_t n_text;
    imp_finish finish;
    imp_status status;
    char message[128];
    int32_t stop_token;
    bool stopped;
} outcome;

static void on_event(void *user, const imp_event *ev)
{
    outcome *o = (outcome *)user + ev->choice;
    if (ev->kind == IMP_EVENT_TOKEN) {
        if (ev->token >= 0 && o->n < MAX_OUT) {
            o->id[o->n] = ev->token;
            o->lp[o->n] = ev->logprob;
            o->top[o->n++] = ev->n_top ? ev->top[0].logprob : 0;
        }
        assert_true(o->n_text + ev->n_text < sizeof o->text);
        memcpy(o->text + o->n_text, ev->text, ev->n_text);
        o->n_text += ev->n_text;
    } else if (ev->kind == IMP_EVENT_DONE) {
        o->finish = ev->finish;
        o->status = ev->status;
        snprintf(o->message, sizeof o->message, "%s", ev->message ? ev->message : "");
        o->stop_token = ev->stop_token;
        o->stopped = ev->stop_string != NULL;
        o->n_generated = ev->timing.n_generated;
    }
}

typedef struct job {
    imp_constraint_kind kind;
    const char *constraint;
    float temperature;
    int32_t logprobs;
    uint32_t max_tokens;
    const char *stop;
    uint32_t mirostat;
} job;

#define FIXED "the name of it is hello world, and 12345 is a number: \\{\"name\": "
static const job JOBS[] = {
    {IMP_CONSTRAINT_REGEX, FIXED "[a-c]{3}\\} and then it ends here\\.", 0, -1, 0, NULL, 0},
    {IMP_CONSTRAINT_REGEX, FIXED "[a-c]{3}\\} and then it ends here\\.", 1.5f, 3, 0, NULL, 0},
    {IMP_CONSTRAINT_REGEX, FIXED "[a-z]{5}(\n  the end|\n the other end)", 1.2f, 0, 0, NULL, 0},
    {IMP_CONSTRAINT_REGEX, FIXED "[a-z]{5}(\n  the end|\n the other end)", 1.2f, -1, 17, NULL, 0},
    {IMP_CONSTRAINT_REGEX, FIXED "[a-z]{5}(\n  the end|\n the other end)", 1.2f, 1, 9, NULL, 2},
    {IMP_CONSTRAINT_REGEX, "all of it is certain", 1, -1, 0, NULL, 0},
    {IMP_CONSTRAINT_REGEX, "all of it is certain", 1, 2, 0, NULL, 0},
    {IMP_CONSTRAINT_REGEX, "all of it is certain", 1, 2, 3, NULL, 0},
    {IMP_CONSTRAINT_REGEX, "(x|y) then é and \xE6\x97\xA5\xE6\x9C\xAC stop here, not there", 1, -1, 0, "ere", 0},
    {IMP_CONSTRAINT_REGEX, "(x|y) then é and \xE6\x97\xA5\xE6\x9C\xAC stop here, not there", 1, 1, 0, "ere", 0},
    {IMP_CONSTRAINT_SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"identifier\":{\"enum\":[\"first\",\"second\"]},"
     "\"description\":{\"const\":\"a long constant\"},\"ok\":{\"type\":\"boolean\"}},"
     "\"required\":[\"identifier\",\"description\",\"ok\"],\"additionalProperties\":false}", 1, 1, 120, NULL, 0},
    {IMP_CONSTRAINT_GRAMMAR, "root ::= item{3}\nitem ::= \"- the item number \" [0-9] \" is here\\n\"",
     0.8f, -1, 0, NULL, 0},
};
#define N_JOB (sizeof JOBS / sizeof *JOBS)

static imp_engine *open_engine(imp_model *m, imp_jump jump, uint32_t chunk, uint32_t n_seq, int32_t threads,
                               uint32_t n_ticket)
{
    imp_err e = {0};
    imp_engine *g = NULL;
    imp_engine_params p;
    imp_engine_params_init(&p);
    p.backend = "cpu";
    p.n_threads = threads;
    p.n_batch = chunk;
    p.block_size = 8;
    p.n_seq = n_seq;
    p.n_ctx = 256;
    p.jump = jump;
    p.n_ticket = n_ticket;
    if (imp_engine_new(m, &p, &g, &e) != IMP_OK)
        fail_msg("%s", e.message);
    return g;
}

static uint64_t forced_by(imp_engine *g)
{
    imp_stats s = {.size = sizeof s};
    imp_engine_stats(g, &s);
    return s.forced_tokens;
}

/* Runs every job, all at once or one after the other; out: [N_JOB][N_CHOICE]. */
static void run(imp_engine *g, bool together, outcome *out)
{
    static const int32_t prompt[5] = {1, 20, 30, 41, 7};
    uint64_t id[N_JOB];
    memset(out, 0, N_JOB * N_CHOICE * sizeof *out);
    for (size_t i = 0; i < N_JOB; i++) {
        const job *j = &JOBS[i];
        imp_request r;
        imp_err e = {0};
        imp_request_init(&r);
        r.prompt = prompt;
        r.n_prompt = 1 + (uint32_t)i % 5;
        r.n = N_CHOICE;
        r.max_tokens = j->max_tokens;
        r.sampling.temperature = j->temperature;
        r.sampling.seed = 77 + i;
        r.sampling.mirostat = (int32_t)j->mirostat;
        r.sampling.repeat_penalty = i % 2 ? 1.1f : 1;
        r.logprobs = j->logprobs;
        r.stop = &j->stop;
        r.n_stop = j->stop != NULL;
        r.constraint_kind = j->kind;
        r.constraint = j->constraint;
        if (imp_submit(g, &r, on_event, out + i * N_CHOICE, &id[i], &e) != IMP_OK)
            fail_msg("job %zu: %s", i, e.message);
        if (!together)
            assert_int_equal(imp_wait(g, id[i], 60000), IMP_OK);
    }
    for (size_t i = 0; i < N_JOB && together; i++)
        assert_int_equal(imp_wait(g, id[i], 60000), IMP_OK);
}

static void same(const outcome *a, const outcome *b, const char *what)
{
    for (size_t i = 0; i < N_JOB * N_CHOICE; i++, a++, b++) {
        if (a->status != IMP_OK || b->status != IMP_OK)
            fail_msg("%s: job %zu: %s%s", what, i / N_CHOICE, a->message, b->message);
        bool logprobs = JOBS[i / N_CHOICE].logprobs >= 0;
        if (a->n != b->n || a->n_text != b->n_text || memcmp(a->text, b->text, a->n_text) ||
            memcmp(a->id, b->id, a->n * sizeof *a->id))
            fail_msg("%s: job %zu: '%.*s' (%u tokens), then '%.*s' (%u)", what, i / N_CHOICE,
                     (int)a->n_text, a->text, a->n, (int)b->n_text, b->text, b->n);
        if (logprobs && (memcmp(a->lp, b->lp, a->n * sizeof *a->lp) || memcmp(a->top, b->top, a->n * sizeof *a->top)))
            fail_msg("%s: job %zu: log-probabilities differ", what, i / N_CHOICE);
        assert_int_equal(a->finish, b->finish);
        assert_int_equal(a->stop_token, b->stop_token);
        assert_int_equal(a->n_generated, b->n_generated);
        assert_int_equal(a->n_generated, a->n);
    }
}

static void jump_equals_steps(void **state)
{
    (void)state;
    static const struct { uint32_t chunk, n_seq; int32_t threads; uint32_t n_ticket; bool together; } how[] = {
        {64, 4, 1, 1, false}, {64, 24, 2, 1, true}, {8, 3, 2, 2, true}, {512, 1, 2, 2, false}, {5, 5, 1, 2, true}};
    outcome *want = calloc(N_JOB * N_CHOICE, sizeof *want), *got = calloc(N_JOB * N_CHOICE, sizeof *got);
    for (size_t k = 0; k < sizeof MODELS / sizeof *MODELS; k++) {
        imp_model *m = NULL;
        assert_int_equal(imp_model_open(MODELS[k], NULL, &m, NULL), IMP_OK);
        imp_engine *g = open_engine(m, IMP_JUMP_STEPS, 64, 4, 1, 1);
        run(g, false, want);
        uint64_t forced = forced_by(g), all = 0;
        for (size_t i = 0; i < N_JOB * N_CHOICE; i++)
            all += want[i].n;
        assert_true(forced > all / 2); /* most of these texts is fixed */
        imp_engine_free(g);
        for (size_t h = 0; h < sizeof how / sizeof *how; h++) {
            char what[96];
            snprintf(what, sizeof what, "%s, chunk %u, %u sequences", MODELS[k], how[h].chunk, how[h].n_seq);
            g = open_engine(m, IMP_JUMP_ON, how[h].chunk, how[h].n_seq, how[h].threads, how[h].n_ticket);
            run(g, how[h].together, got);
            same(want, got, what);
            assert_int_equal(forced_by(g), forced);
            imp_engine_free(g);
        }
        imp_model_close(m);
    }
    free(want);
    free(got);
}

/* A text without any choice is spelled as the tokenizer spells it, and ends without asking for an end token. */
static void forced_text_is_the_tokenizers(void **state)
{
    (void)state;
    static const char *const text[] = {
        "hello world", "the name: 12345, 678", "{\"name\": [1, 22, 333], \"value\": \"a  b\"}",
        "line\n  line\n\n    line", "don't you're we'll",
        "\xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E \xC3\xA9t\xC3\xA9", "x"};
    for (size_t k = 0; k < sizeof MODELS / sizeof *MODELS; k++) {
        imp_model *m = NULL;
        assert_int_equal(imp_model_open(MODELS[k], NULL, &m, NULL), IMP_OK);
        imp_engine *g = open_engine(m, IMP_JUMP_ON, 64, 2, 1, 1);
        for (size_t i = 0; i < sizeof text / sizeof *text; i++) {
            char grammar[300], *at = grammar + sprintf(grammar, "root ::= \"");
            for (const char *c = text[i]; *c; c++)
                at += *c == '\n' ? sprintf(at, "\\n") : sprintf(at, strchr("\"\\", *c) ? "\\%c" : "%c", *c);
            strcpy(at, "\"\n");
            static const int32_t prompt[1] = {5};
            outcome o = {0};
            imp_request r;
            imp_err e = {0};
            uint64_t id;
            imp_request_init(&r);
            r.prompt = prompt;
            r.n_prompt = 1;
            r.constraint_kind = IMP_CONSTRAINT_GRAMMAR;
            r.constraint = grammar;
            if (imp_submit(g, &r, on_event, &o, &id, &e) != IMP_OK)
                fail_msg("%s: %s", grammar, e.message);
            imp_wait(g, id, 60000);
            int32_t *ids;
            size_t n;
            assert_int_equal(o.finish, IMP_FINISH_STOP);
            assert_int_equal(o.n_text, strlen(text[i]));
            assert_memory_equal(o.text, text[i], o.n_text);
            assert_int_equal(imp_tokenize(m, text[i], strlen(text[i]), 0, &ids, &n, NULL), IMP_OK);
            const char *first;
            size_t n_first, space; /* SentencePiece puts a space in front of a text: a constrained answer has none */
            imp_token_bytes(m, ids[0], &first, &n_first);
            space = n_first == 1 && *first == ' ';
            if (o.n != n - space || memcmp(o.id, ids + space, o.n * sizeof *ids))
                fail_msg("'%s': %u tokens, the tokenizer has %zu", text[i], o.n, n);
            imp_free(ids);
        }
        imp_engine_free(g);
        imp_model_close(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(jump_equals_steps),
                                       cmocka_unit_test(forced_text_is_the_tokenizers)};
    return cmocka_run_group_tests_name("jump", tests, NULL, NULL);
}

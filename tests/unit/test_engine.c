/* IMP_TEST_BACKEND=cuda runs it on a GPU, where only the block size that the kernels are made for gives equal bytes.
 * The C API and the engine: a request's bytes do not depend on what runs beside it, on chunks, blocks or threads;
 * requests fail alone; running out of memory or of KV blocks is survived. Uses the tiny models of
 * tests/fixtures/models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "imp.h"
#include "open_model.h"

#define N_SEQ 8
#define MAX_OUT 96
static const char *const MODELS[] = {"tests/fixtures/models/gemma3-window.gguf", "tests/fixtures/models/qwen3-k.gguf",
                                     "tests/fixtures/models/mistral-window.gguf",
                                     "tests/fixtures/models/gemma2-soft.gguf"};

typedef struct outcome {
    int32_t id[MAX_OUT];
    float lp[MAX_OUT], top[MAX_OUT];
    uint32_t n;
    imp_finish finish;
    imp_status status;
    char message[256];
    int n_done;
} outcome;

static void on_event(void *user, const imp_event *ev)
{
    outcome *o = user;
    if (ev->kind == IMP_EVENT_TOKEN && ev->token >= 0 && o->n < MAX_OUT) {
        o->id[o->n] = ev->token;
        o->lp[o->n] = ev->logprob;
        o->top[o->n++] = ev->n_top ? ev->top[0].logprob : 0;
    } else if (ev->kind == IMP_EVENT_DONE) {
        o->finish = ev->finish;
        o->status = ev->status;
        o->n_done++;
        snprintf(o->message, sizeof o->message, "%s", ev->message ? ev->message : "");
    }
}

static imp_engine *open_engine(imp_model *m, int32_t threads, uint32_t chunk, uint32_t block, bool shuffle,
                               uint32_t n_seq, uint32_t n_ticket)
{
    imp_err e = {0};
    imp_engine *g = NULL;
    imp_engine_params p;
    imp_engine_params_init(&p);
    const char *backend = getenv("IMP_TEST_BACKEND");
    p.backend = backend ? backend : "cpu";
    p.n_threads = threads;
    p.n_batch = chunk;
    p.block_size = backend ? 64 : block;
    p.shuffle_blocks = shuffle;
    p.n_seq = n_seq;
    p.n_ticket = n_ticket;
    p.n_ctx = 256;
    if (imp_engine_new(m, &p, &g, &e) != IMP_OK)
        fail_msg("%s", e.message);
    return g;
}

/* Request i: prompts of 1 to 120 tokens, answers of 5 to 40, half of them sampled with everything on. */
static void make_request(imp_request *r, int i, uint32_t vocab, int32_t *prompt)
{
    static const uint32_t LEN[N_SEQ] = {1, 7, 64, 120, 33, 2, 90, 65};
    uint32_t x = 7919u * (uint32_t)(i + 1);
    imp_request_init(r);
    r->n_prompt = LEN[i % N_SEQ];
    for (uint32_t j = 0; j < r->n_prompt; j++) {
        x = x * 1664525u + 1013904223u;
        prompt[j] = (int32_t)((x >> 9) % vocab);
    }
    r->prompt = prompt;
    r->max_tokens = 5 + 5 * (uint32_t)(i % N_SEQ);
    r->ignore_eos = true;
    r->logprobs = 1;
    if (i % 2) {
        r->sampling.temperature = 1.1f;
        r->sampling.top_p = 0.95f;
        r->sampling.top_k = i % 4 == 1 ? 40 : 0;
        if (i % 4 == 1) /* needs its last token on the host */
            r->sampling.repeat_penalty = 1.1f;
        r->sampling.seed = 1000u + (uint64_t)i;
    }
}

static uint32_t vocab_of(imp_model *m)
{
    imp_model_info info = {.size = sizeof info};
    imp_model_get_info(m, &info);
    return info.n_vocab;
}

static void run_alone(imp_model *m, imp_engine *g, outcome *out)
{
    for (int i = 0; i < N_SEQ; i++) {
        int32_t prompt[128];
        imp_request r;
        imp_err e = {0};
        uint64_t id;
        make_request(&r, i, vocab_of(m), prompt);
        memset(&out[i], 0, sizeof out[i]);
        assert_int_equal(imp_submit(g, &r, on_event, &out[i], &id, &e), IMP_OK);
        assert_int_equal(imp_wait(g, id, 60000), IMP_OK);
        assert_int_equal(out[i].status, IMP_OK);
        assert_int_equal(out[i].n, r.max_tokens);
    }
}

static void run_together(imp_model *m, imp_engine *g, outcome *out)
{
    int32_t prompt[N_SEQ][128];
    uint64_t id[N_SEQ];
    for (int i = 0; i < N_SEQ; i++) {
        imp_request r;
        imp_err e = {0};
        make_request(&r, i, vocab_of(m), prompt[i]);
        memset(&out[i], 0, sizeof out[i]);
        assert_int_equal(imp_submit(g, &r, on_event, &out[i], &id[i], &e), IMP_OK);
        if (i == 2)
            imp_wait(g, id[0], 60000); /* the others join while some have begun: phases differ */
    }
    for (int i = 0; i < N_SEQ; i++)
        assert_int_equal(imp_wait(g, id[i], 60000), IMP_OK);
}

static void same(const outcome *a, const outcome *b, const char *what)
{
    for (int i = 0; i < N_SEQ; i++) {
        assert_int_equal(a[i].n, b[i].n);
        if (memcmp(a[i].id, b[i].id, a[i].n * sizeof *a[i].id) || memcmp(a[i].lp, b[i].lp, a[i].n * sizeof *a[i].lp) ||
            memcmp(a[i].top, b[i].top, a[i].n * sizeof *a[i].top))
            fail_msg("request %d differs: %s", i, what);
    }
}

static void same_bytes(void **state)
{
    (void)state;
    static const struct { int32_t threads; uint32_t chunk, block; bool shuffle; uint32_t tickets; } how[] = {
        {1, 64, 64, false, 1}, {2, 64, 64, false, 2}, {2, 512, 2, true, 1}, {1, 1, 64, true, 2}, {2, 7, 2, false, 2},
        {2, 64, 16, true, 1}, {3, 13, 8, true, 2}};
    outcome *ref = calloc(N_SEQ, sizeof *ref), *got = calloc(N_SEQ, sizeof *got);
    for (size_t k = 0; k < sizeof MODELS / sizeof *MODELS; k++) {
        imp_model *m = open_model(MODELS[k]);
        for (size_t h = 0; h < sizeof how / sizeof *how; h++) {
            imp_engine *g = open_engine(m, how[h].threads, how[h].chunk, how[h].block, how[h].shuffle, N_SEQ,
                                        how[h].tickets);
            char what[128];
            snprintf(what, sizeof what, "%s, %d threads, chunk %u, block %u, shuffle %d, %u open steps", MODELS[k],
                     how[h].threads, how[h].chunk, how[h].block, how[h].shuffle, how[h].tickets);
            if (h == 0)
                run_alone(m, g, ref);
            run_together(m, g, got);
            same(ref, got, what);
            imp_engine_free(g);
        }
        imp_model_close(m);
    }
    free(ref);
    free(got);
}

/* One request alone and among 31 others, with one and with eight prompts in a step. */
static void among_others(void **state)
{
    (void)state;
    enum { CROWD = 32 };
    outcome *ref = calloc(CROWD, sizeof *ref), *got = calloc(CROWD, sizeof *got);
    static int32_t prompt[CROWD][128];
    uint64_t id[CROWD];
    imp_model *m = open_model(MODELS[1]);
    imp_engine *g = open_engine(m, 2, 512, 64, false, CROWD, 0);
    for (int way = 0; way < 3; way++) {
        for (int i = 0; i < CROWD; i++) {
            imp_request r;
            make_request(&r, i, vocab_of(m), prompt[i]);
            outcome *o = way ? &got[i] : &ref[i];
            memset(o, 0, sizeof *o);
            assert_int_equal(imp_submit(g, &r, on_event, o, &id[i], NULL), IMP_OK);
            if (way == 0 || (way == 1 && i % 8 == 7))
                imp_wait(g, id[i], 60000);
        }
        for (int i = 0; i < CROWD; i++)
            assert_int_equal(imp_wait(g, id[i], 60000), IMP_OK);
        for (int i = 0; i < CROWD && way; i++) {
            assert_int_equal(got[i].n, ref[i].n);
            if (memcmp(got[i].id, ref[i].id, ref[i].n * sizeof *ref[i].id) ||
                memcmp(got[i].lp, ref[i].lp, ref[i].n * sizeof *ref[i].lp))
                fail_msg("request %d differs among 31 others, way %d", i, way);
        }
    }
    imp_engine_free(g);
    imp_model_close(m);
    free(ref);
    free(got);
}

static void two_models(void **state)
{
    (void)state;
    imp_model *m[2] = {open_model(MODELS[0]), open_model(MODELS[1])};
    imp_engine *g[2] = {open_engine(m[0], 1, 64, 64, false, N_SEQ, 1), open_engine(m[1], 1, 64, 64, false, N_SEQ, 2)};
    outcome *ref = calloc(2 * N_SEQ, sizeof *ref), *got = calloc(2 * N_SEQ, sizeof *got);
    int32_t prompt[2][N_SEQ][128];
    uint64_t id[2][N_SEQ];
    for (int k = 0; k < 2; k++)
        run_alone(m[k], g[k], ref + k * N_SEQ);
    for (int i = 0; i < N_SEQ; i++)
        for (int k = 0; k < 2; k++) {
            imp_request r;
            make_request(&r, i, vocab_of(m[k]), prompt[k][i]);
            assert_int_equal(imp_submit(g[k], &r, on_event, &got[k * N_SEQ + i], &id[k][i], NULL), IMP_OK);
        }
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < N_SEQ; i++)
            assert_int_equal(imp_wait(g[k], id[k][i], 60000), IMP_OK);
        same(ref + k * N_SEQ, got + k * N_SEQ, "two models in one process");
        imp_engine_free(g[k]);
        imp_model_close(m[k]);
    }
    free(ref);
    free(got);
}

/* More requests than slots: all are served, in the end, with the same bytes. */
static void queue(void **state)
{
    (void)state;
    imp_model *m = open_model(MODELS[1]);
    outcome *ref = calloc(N_SEQ, sizeof *ref), *got = calloc(N_SEQ, sizeof *got);
    imp_engine *g = open_engine(m, 2, 64, 64, false, 2, 2);
    run_alone(m, g, ref);
    run_together(m, g, got);
    same(ref, got, "two slots for eight requests");
    imp_engine_free(g);
    imp_model_close(m);
    free(ref);
    free(got);
}

static void choices(void **state)
{
    (void)state;
    imp_model *m = open_model(MODELS[1]);
    imp_engine *g = open_engine(m, 2, 64, 64, false, 8, 2);
    int32_t prompt[128];
    outcome one = {0};
    imp_request r;
    uint64_t id;
    make_request(&r, 1, vocab_of(m), prompt);
    r.n = 4;
    r.max_tokens = 12;
    assert_int_equal(imp_submit(g, &r, on_event, &one, &id, NULL), IMP_OK);
    assert_int_equal(imp_wait(g, id, 60000), IMP_OK);
    assert_int_equal(one.n_done, 4);
    assert_int_equal(one.n, 48);
    imp_engine_free(g);
    imp_model_close(m);
}

static void cancel(void **state)
{
    (void)state;
    imp_model *m = open_model(MODELS[1]);
    imp_engine *g = open_engine(m, 2, 64, 64, false, 4, 2);
    int32_t prompt[128];
    outcome o[4] = {0};
    uint64_t id[4];
    for (int i = 0; i < 4; i++) {
        imp_request r;
        make_request(&r, i, vocab_of(m), prompt);
        r.max_tokens = 0;
        assert_int_equal(imp_submit(g, &r, on_event, &o[i], &id[i], NULL), IMP_OK);
    }
    imp_cancel(g, id[1]);
    imp_cancel(g, id[3]);
    imp_cancel(g, 123456); /* unknown: nothing happens */
    for (int i = 0; i < 4; i++) {
        assert_int_equal(imp_wait(g, id[i], 60000), IMP_OK);
        assert_int_equal(o[i].n_done, 1);
        assert_int_equal(o[i].finish, i % 2 ? IMP_FINISH_CANCELLED : IMP_FINISH_LENGTH);
    }
    imp_engine_free(g);
    imp_model_close(m);
}

/* An engine that is freed while requests run ends each of them with one event. */
static void shutdown_ends_all(void **state)
{
    (void)state;
    imp_model *m = open_model(MODELS[0]);
    imp_engine *g = open_engine(m, 2, 16, 64, false, 2, 2);
    int32_t prompt[128];
    outcome o[6] = {0};
    for (int i = 0; i < 6; i++) {
        imp_request r;
        make_request(&r, i, vocab_of(m), prompt);
        r.max_tokens = 0;
        assert_int_equal(imp_submit(g, &r, on_event, &o[i], NULL, NULL), IMP_OK);
    }
    imp_model_close(m); /* the engine holds on to it */
    imp_engine_free(g);
    for (int i = 0; i < 6; i++)
        assert_int_equal(o[i].n_done, 1);
}

static void refusals(void **state)
{
    (void)state;
    imp_model *m = open_model(MODELS[1]);
    imp_engine *g = open_engine(m, 1, 64, 64, false, 2, 2);
    int32_t prompt[400] = {0};
    static const struct {
        const char *field; float temp, top_p; uint32_t n, n_prompt; int32_t token, logprobs; imp_status want;
    } bad[] = {
        {"temperature", -1, 1, 1, 3, 1, -1, IMP_E_USAGE}, {"temperature", NAN, 1, 1, 3, 1, -1, IMP_E_USAGE},
        {"top_p", 1, 1.5f, 1, 3, 1, -1, IMP_E_USAGE},     {"n", 0, 1, 0, 3, 1, -1, IMP_E_USAGE},
        {"n", 0, 1, 1000, 3, 1, -1, IMP_E_USAGE},         {"prompt", 0, 1, 1, 0, 1, -1, IMP_E_USAGE},
        {"prompt", 0, 1, 1, 3, -1, -1, IMP_E_USAGE},      {"prompt", 0, 1, 1, 3, 1 << 30, -1, IMP_E_USAGE},
        {"context", 0, 1, 1, 300, 1, -1, IMP_E_CONTEXT},  {"context", 0, 1, 1, 256, 1, -1, IMP_E_CONTEXT},
        {"logprobs", 0, 1, 1, 3, 1, 21, IMP_E_USAGE},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        imp_request r;
        imp_err e = {0};
        imp_request_init(&r);
        prompt[0] = bad[i].token;
        r.prompt = prompt;
        r.n_prompt = bad[i].n_prompt;
        r.n = bad[i].n;
        r.logprobs = bad[i].logprobs;
        r.sampling.temperature = bad[i].temp;
        r.sampling.top_p = bad[i].top_p;
        assert_int_equal(imp_submit(g, &r, on_event, NULL, NULL, &e), bad[i].want);
        if (!strstr(e.message, bad[i].field))
            fail_msg("row %zu: '%s' does not name %s", i, e.message, bad[i].field);
    }
    imp_request r; /* rows wanted past the prompt would never come: refused, not waited for */
    imp_err e = {0};
    imp_request_init(&r);
    prompt[0] = 1;
    r.prompt = prompt;
    r.n_prompt = 3;
    r.echo_logits = true;
    r.rows_from = 3;
    assert_int_equal(imp_submit(g, &r, on_event, NULL, NULL, &e), IMP_E_USAGE);
    assert_non_null(strstr(e.message, "rows_from"));
    imp_engine_free(g);
    imp_model_close(m);
}

/* Every allocation of loading and generating made to fail in turn: an error each time, no crash, no leak (ASan
 * looks). */
static void allocation_ramp(void **state)
{
    (void)state;
    int32_t prompt[128];
    for (long at = 0, ok = 0; ok < 1 && at < 20000; at += at < 300 ? 1 : 37) {
        imp_err e = {0};
        imp_model *m = NULL;
        imp_engine *g = NULL;
        outcome o = {0};
        imp_request r;
        uint64_t id;
        mem_fail_after(at);
        imp_status s = imp_model_open(MODELS[1], NULL, &m, &e);
        if (s == IMP_OK) {
            imp_engine_params p;
            imp_engine_params_init(&p);
            p.n_threads = 1;
            p.n_ctx = 64;
            s = imp_engine_new(m, &p, &g, &e);
        }
        if (s == IMP_OK) {
            imp_request_init(&r);
            prompt[0] = 1;
            r.prompt = prompt;
            r.n_prompt = 1;
            r.max_tokens = 2;
            s = imp_submit(g, &r, on_event, &o, &id, &e);
            if (s == IMP_OK) {
                imp_wait(g, id, -1);
                s = o.status;
                ok = s == IMP_OK;
            }
        }
        mem_fail_after(-1);
        if (s != IMP_OK && s != IMP_E_NOMEM && s != IMP_E_NUMERIC)
            fail_msg("allocation %ld: status %d (%s)", at, s, e.message);
        imp_engine_free(g);
        imp_model_close(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bytes),        cmocka_unit_test(among_others), cmocka_unit_test(two_models),
        cmocka_unit_test(queue),             cmocka_unit_test(choices),      cmocka_unit_test(cancel),
        cmocka_unit_test(shutdown_ends_all), cmocka_unit_test(refusals),     cmocka_unit_test(allocation_ramp),
    };
    if (getenv("IMP_TEST_BACKEND")) /* counts the CPU's allocations one by one */
        cmocka_set_skip_filter("allocation_ramp");
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}

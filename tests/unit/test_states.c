/* Recurrent states: saved at block boundaries in the middle of a step, copied, and taken up again, they give the
 * bytes of a run without a break, whatever the chunks, threads and instruction set; instruction sets agree closely. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "plan_run.h"

static const char *const FOLDER[] = {"tests/fixtures/hf/qwen3-next", "tests/fixtures/hf/nemotron-h"};
static const char *const CPU[] = {"scalar", "avx2", "avx512"};
enum { LEN = 150, SLOT_RUN = 0, SLOT_SAVED = 1 /* and 2 */, SLOT_COPY = 3 };

typedef struct rows {
    float *logits, *hidden;
} rows;

static rows make_rows(const plan *p)
{
    return (rows){calloc((size_t)LEN * p->n_vocab, sizeof(float)), calloc((size_t)LEN * p->n_hidden, sizeof(float))};
}

static void free_rows(rows r)
{
    free(r.logits);
    free(r.hidden);
}

static void same_rows(const plan *p, rows a, rows b, int from, const char *what)
{
    if (memcmp(a.logits + (size_t)from * p->n_vocab, b.logits + (size_t)from * p->n_vocab,
               (size_t)(LEN - from) * p->n_vocab * sizeof(float)) != 0)
        fail_msg("%s: bytes differ from token %d on", what, from);
}

/* One folder on one instruction set; returns the logits of the plain run. */
static rows one(const char *folder, const char *cpu, int threads)
{
    static const int32_t TABLE[N_BLOCK] = {0, 1, 2, 3, 4, 5, 6, 7};
    static const int32_t TABLE2[2][N_BLOCK] = {{0, 3, 4, 5, 6, 7, 1, 2}, {0, 1, 3, 4, 5, 6, 7, 2}};
    static const batch_save SAVE[] = {{.tok = BLOCK - 1, .state = SLOT_SAVED},
                                      {.tok = 2 * BLOCK - 1, .state = SLOT_SAVED + 1}};
    imp_err e = {0};
    model *m;
    backend *be;
    machine k;
    int32_t ids[LEN];
    if (model_open(&m, folder, NULL, &e) != IMP_OK)
        fail_msg("%s", e.message);
    assert_true(m->text.n_state > 0);
    for (int i = 0; i < LEN; i++)
        ids[i] = (i * 7 + i * i) % 199 + 3;
    if (backend_cpu.open(&(backend_options){.cpu = cpu, .n_threads = threads}, &be, &e) != IMP_OK) {
        model_close(m); /* not this machine */
        return (rows){0};
    }
    start(&k, be, &m->text);
    rows plain = make_rows(&m->text), got = make_rows(&m->text);
    way w = {.ids = ids, .to = LEN, .chunk = LEN, .table = TABLE, .state_in = -1, .state_out = SLOT_RUN};
    run(&k, &w, plain.logits, plain.hidden);
    w.save = SAVE;
    w.n_save = 2;
    for (int chunk = 1; chunk <= LEN; chunk = chunk * 4 + 3) { /* 1, 7, 31, 127 */
        w.chunk = chunk;
        run(&k, &w, got.logits, got.hidden);
        same_rows(&m->text, plain, got, 0, "chunks");
    }
    for (int i = 0; i < 2; i++) { /* from each boundary on, into blocks of its own */
        int from = (i + 1) * BLOCK;
        way again = {.ids = ids, .from = from, .to = LEN, .chunk = 13, .table = TABLE2[i],
                     .state_in = SLOT_SAVED + i, .state_out = SLOT_RUN};
        run(&k, &again, got.logits, got.hidden);
        same_rows(&m->text, plain, got, from, "saved state");
        backend_cpu.kv_copy_state(k.kv, SLOT_SAVED + i, SLOT_COPY);
        again.state_in = again.state_out = SLOT_COPY; /* in place */
        again.chunk = LEN;
        run(&k, &again, got.logits, got.hidden);
        same_rows(&m->text, plain, got, from, "copied state");
    }
    backend_cpu.kv_copy_state(k.kv, -1, SLOT_COPY); /* cleared is as good as none */
    w = (way){.ids = ids, .to = LEN, .chunk = 64, .table = TABLE, .state_in = SLOT_COPY, .state_out = SLOT_COPY};
    run(&k, &w, got.logits, got.hidden);
    same_rows(&m->text, plain, got, 0, "cleared state");
    free_rows(got);
    stop(&k, be);
    backend_cpu.close(be);
    model_close(m);
    return plain;
}

static void test_states(void **state)
{
    (void)state;
    for (size_t f = 0; f < sizeof FOLDER / sizeof *FOLDER; f++) {
        rows first = one(FOLDER[f], CPU[0], 1);
        for (size_t c = 0; c < sizeof CPU / sizeof *CPU; c++)
            for (int threads = 1; threads <= 3; threads++) {
                rows r = one(FOLDER[f], CPU[c], threads);
                for (size_t i = 0; r.logits && i < (size_t)LEN * 100; i++)
                    if (fabsf(r.logits[i] - first.logits[i]) > 1e-3f)
                        fail_msg("%s, %s: logit %zu is %g, on the scalar path %g", FOLDER[f], CPU[c], i,
                                 (double)r.logits[i], (double)first.logits[i]);
                if (c == 0 && memcmp(r.logits, first.logits, (size_t)LEN * 100 * sizeof(float)) != 0)
                    fail_msg("%s: %d threads change the bytes", FOLDER[f], threads);
                free_rows(r);
            }
        free_rows(first);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_states)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Multi-token prediction: a module's plan over the text plan's hidden rows gives the reference's logits
 * (tests/fixtures/make_hf_models.py), on every path, and the same bytes whatever the chunks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "plan_run.h"

static const int32_t TABLE[N_BLOCK] = {0, 1, 2, 3, 4, 5, 6, 7};

static double worst(const float *got, const float *want, int rows, uint32_t n)
{
    double w = 0;
    for (int r = 0; r < rows; r++) {
        double d = 0, top = 0;
        for (uint32_t i = 0; i < n; i++) {
            double a = got[(size_t)r * n + i], b = want[(size_t)r * n + i];
            d = fabs(a - b) > d ? fabs(a - b) : d;
            top = fabs(b) > top ? fabs(b) : top;
        }
        w = d / top > w ? d / top : w;
    }
    return w;
}

static void against(const char *folder, const char *cpu)
{
    char path[256];
    imp_err e = {0};
    model *m;
    backend *be;
    char *text;
    size_t size;
    if (model_open(&m, folder, NULL, &e) != IMP_OK)
        fail_msg("%s", e.message);
    assert_int_equal(m->n_next, 1);
    assert_true(m->n_param_next > 0 && m->next[0].takes_hidden && !m->text.takes_hidden);
    snprintf(path, sizeof path, "%s/next.bin", folder);
    assert_int_equal(file_read_all(path, 1 << 20, &text, &size, &e), IMP_OK);
    int32_t head[2], ids[MAX_TOK];
    memcpy(head, text, sizeof head);
    int n = head[0];
    uint32_t V = (uint32_t)head[1], H = m->text.n_hidden;
    assert_true(n <= MAX_TOK && V == m->text.n_vocab && size == sizeof head + (size_t)n * 4 + (size_t)(n - 1) * V * 4);
    memcpy(ids, text + sizeof head, (size_t)n * sizeof *ids);
    float *want = malloc((size_t)(n - 1) * V * sizeof *want), *got = malloc((size_t)n * V * sizeof *got);
    float *again = malloc((size_t)n * V * sizeof *got);
    float *h = malloc((size_t)n * H * sizeof *h), *h2 = malloc((size_t)n * H * sizeof *h);
    memcpy(want, text + sizeof head + (size_t)n * 4, (size_t)(n - 1) * V * 4);
    assert_int_equal(backend_cpu.open(&(backend_options){.cpu = cpu, .n_threads = 2}, &be, &e), IMP_OK);
    machine k, next;
    start(&k, be, &m->text);
    start(&next, be, &m->next[0]);
    run(&k, &(way){.ids = ids, .to = n, .chunk = n, .table = TABLE, .state_in = -1}, got, h);
    way w1 = {.ids = ids + 1, .to = n - 1, .chunk = n - 1, .pos0 = 1, .hidden_in = h, .table = TABLE, .state_in = -1};
    run(&next, &w1, got, h2);
    double w = worst(got, want, n - 1, V);
    if (!(w <= 2e-4))
        fail_msg("%s, %s: wanted an error up to 2e-4, got %.1e", folder, cpu, w);
    for (int chunk = 1; chunk < n; chunk += 6) {
        w1.chunk = chunk;
        run(&next, &w1, again, h2);
        if (memcmp(got, again, (size_t)(n - 1) * V * sizeof *got) != 0)
            fail_msg("%s, %s: chunks of %d change the bytes", folder, cpu, chunk);
    }
    /* rows that were not given are an error, not a wild read */
    batch_seq q = {.n_kv = 1, .state_in = -1};
    assert_int_equal(backend_cpu.submit(next.x, &(batch){.n_tok = 1, .n_seq = 1, .seqs = &q}, &(backend_ticket){0}, &e),
                     IMP_E_INTERNAL);
    stop(&k, be);
    stop(&next, be);
    backend_cpu.close(be);
    free(want);
    free(got);
    free(again);
    free(h);
    free(h2);
    mem_free(text);
    model_close(m);
}

static void test_next(void **state)
{
    (void)state;
    static const char *const folder[] = {"tests/fixtures/hf/deepseek-v3", "tests/fixtures/hf/glm4-moe",
                                         "tests/fixtures/hf/qwen3-next"};
    for (size_t i = 0; i < sizeof folder / sizeof *folder; i++) {
        against(folder[i], "scalar");
        against(folder[i], "auto");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_next)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

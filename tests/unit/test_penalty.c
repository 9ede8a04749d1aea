/* Penalty windows and DRY against naive ones written from their definitions, over random sequences. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "engine/penalty.h"

#define V 12    /* few tokens, so that repeats are many */
#define N 160

static uint32_t state = 1;
static uint32_t rnd(uint32_t n)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % n;
}

static uint32_t begin_of(int32_t last_n, uint32_t n)
{
    return last_n < 0 || (uint32_t)last_n > n ? 0 : n - (uint32_t)last_n;
}

/* DRY: for every earlier place in the window whose token `id` followed the same tokens as those at the end, `len` of
 * them in a row (len >= allowed), id loses multiplier * base^(len - allowed); the longest such repeat
 * counts. */
static double naive_dry(const imp_sampling *s, const int32_t *tok, uint32_t n, int32_t id)
{
    uint32_t from = begin_of(s->dry_penalty_last_n, n);
    int32_t best = 0;
    for (uint32_t i = from + 1; i < n; i++) {
        int32_t len = 0;
        while (i - from > (uint32_t)len && tok[i - 1 - (uint32_t)len] == tok[n - 1 - (uint32_t)len])
            len++;
        if (tok[i] == id && len > best)
            best = len;
    }
    return best >= s->dry_allowed_length && best > 0
               ? (double)s->dry_multiplier * pow((double)s->dry_base, best - s->dry_allowed_length)
               : 0;
}

static void test_dry(void **st)
{
    (void)st;
    static const struct { float multiplier, base; int32_t allowed, last_n; } how[] = {
        {0.8f, 1.75f, 2, -1}, {2, 1.2f, 1, -1}, {1, 3, 3, 40}, {0.5f, 1.1f, 4, 20}, {1, 2, 2, 0}};
    int hits = 0;
    for (size_t h = 0; h < sizeof how / sizeof *how; h++)
        for (int round = 0; round < 40; round++) {
            imp_sampling s;
            penalty p;
            int32_t tok[N];
            uint32_t n = 1 + rnd(N);
            imp_logit_bias fixed = {3, 1.5f};
            imp_sampling_init(&s);
            s.dry_multiplier = how[h].multiplier;
            s.dry_base = how[h].base;
            s.dry_allowed_length = how[h].allowed;
            s.dry_penalty_last_n = how[h].last_n;
            s.logit_bias = &fixed;
            s.n_logit_bias = 1;
            assert_int_equal(penalty_init(&p, &s, N, NULL), IMP_OK);
            for (uint32_t i = 0; i < n; i++) /* phrases that come again, and noise */
                tok[i] = i >= 8 && rnd(3) ? tok[i - 1 - rnd(7)] : (int32_t)rnd(V);
            penalty_update(&p, &s, tok, n);
            for (int32_t id = 0; id < V; id++) {
                double want = -naive_dry(&s, tok, n, id), got = 0;
                for (int32_t i = p.n_fixed; i < p.n_bias; i++)
                    got += p.bias[i].id == id ? (double)p.bias[i].add : 0;
                hits += want != 0;
                if (fabs(got - want) > 1e-4 * fabs(want))
                    fail_msg("case %zu, %u tokens: token %d wanted %g, got %g", h, n, id, want, got);
            }
            assert_true(p.bias[0].id == 3 && p.bias[0].add == 1.5f); /* the request's own bias stays */
            penalty_free(&p);
        }
    assert_true(hits > 200);
}

static void test_counts(void **st)
{
    (void)st;
    static const int32_t windows[] = {-1, 1, 7, 64, 1000};
    for (size_t w = 0; w < sizeof windows / sizeof *windows; w++)
        for (int round = 0; round < 40; round++) {
            imp_sampling s;
            penalty p;
            int32_t tok[N], seen = 0;
            uint32_t n = 1 + rnd(N);
            imp_sampling_init(&s);
            s.frequency_penalty = 1;
            s.repeat_last_n = windows[w];
            assert_int_equal(penalty_init(&p, &s, N, NULL), IMP_OK);
            for (uint32_t i = 0; i < n; i++)
                tok[i] = (int32_t)rnd(V) * 100000;
            penalty_update(&p, &s, tok, n);
            for (int32_t id = 0; id < V; id++) {
                int32_t want = 0, got = 0;
                for (uint32_t i = begin_of(windows[w], n); i < n; i++)
                    want += tok[i] == id * 100000;
                for (int32_t i = 0; i < p.n_count; i++)
                    got += p.count[i].id == id * 100000 ? p.count[i].n : 0;
                assert_int_equal(got, want);
                seen += want > 0;
            }
            assert_int_equal(p.n_count, seen);
            penalty_free(&p);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_dry), cmocka_unit_test(test_counts)};
    return cmocka_run_group_tests_name("penalty", tests, NULL, NULL);
}

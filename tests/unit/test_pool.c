/* pool: entries, barriers, sleeping and waking, shares. Meaningful under ThreadSanitizer too (make tsan). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/pool.h"

enum { N = 1000, ROUNDS = 200 };
typedef struct job {
    pool *p;
    int cell[N];   /* plain memory: only barriers order it */
    int sum[64];
    int entries[64];
} job;

static void step(void *arg, int ith, int nth)
{
    job *j = arg;
    long b, e;
    pool_share(N, 1, ith, nth, &b, &e);
    j->entries[ith]++;
    for (int r = 0; r < 5; r++) {
        for (long i = b; i < e; i++)
            j->cell[i]++;
        pool_barrier(j->p, ith);
        int s = 0;
        for (int i = 0; i < N; i++)
            s += j->cell[i];
        j->sum[ith] = s;
        pool_barrier(j->p, ith);
    }
}

static void run_many(int n_threads)
{
    job j = {0};
    assert_int_equal(pool_new(&j.p, n_threads, NULL), IMP_OK);
    assert_int_equal(pool_size(j.p), n_threads);
    for (int r = 1; r <= ROUNDS; r++) {
        pool_run(j.p, step, &j);
        for (int t = 0; t < n_threads; t++) {
            assert_int_equal(j.entries[t], r);
            assert_int_equal(j.sum[t], 5 * r * N);
        }
        if (r % 50 == 0) /* long enough that the others went to sleep */
            nanosleep(&(struct timespec){0, 3000000}, NULL);
    }
    pool_free(j.p);
}

static void test_one(void **s) { (void)s; run_many(1); }
static void test_two(void **s) { (void)s; run_many(2); }
static void test_more_than_cpus(void **s) { (void)s; run_many(7); }

static void test_two_pools(void **s)
{
    (void)s;
    job a = {0}, b = {0};
    assert_int_equal(pool_new(&a.p, 2, NULL), IMP_OK);
    assert_int_equal(pool_new(&b.p, 3, NULL), IMP_OK);
    for (int r = 0; r < 20; r++) {
        pool_run(a.p, step, &a);
        pool_run(b.p, step, &b);
    }
    assert_int_equal(a.sum[1], 100 * N);
    assert_int_equal(b.sum[2], 100 * N);
    pool_free(b.p);
    pool_free(a.p);
}

static void test_share(void **s)
{
    (void)s;
    for (long n = 0; n < 100; n++)
        for (long grain = 1; grain < 40; grain += 13)
            for (int nth = 1; nth < 9; nth++) {
                long end = 0;
                for (int i = 0; i < nth; i++) {
                    long b, e;
                    pool_share(n, grain, i, nth, &b, &e);
                    assert_int_equal(b, end);
                    assert_true(e >= b && (e % grain == 0 || e == n));
                    end = e;
                }
                assert_int_equal(end, n);
            }
}

static void test_limits(void **s)
{
    (void)s;
    imp_err e = {0};
    pool *p;
    assert_true(pool_default_threads() >= 1);
    assert_int_equal(pool_new(&p, 1 << 20, &e), IMP_E_USAGE);
    assert_null(p);
    mem_fail_after(0);
    assert_int_equal(pool_new(&p, 2, NULL), IMP_E_NOMEM);
    mem_fail_after(-1);
    pool_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one),   cmocka_unit_test(test_two),   cmocka_unit_test(test_more_than_cpus),
        cmocka_unit_test(test_two_pools), cmocka_unit_test(test_share), cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

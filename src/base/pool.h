/* pool: a fixed set of threads that enter a function together (fork-join). One entry a step: the caller is thread 0,
 * the others wait in a bounded spin and then a futex. Work is split statically by the callee from (ith, nth), so that
 * results never depend on timing. pool_barrier synchronises all threads inside an entry.
 * Invariants: (1) only one pool_run at a time, from one thread; (2) nth >= 1 and never changes; (3) after pool_run
 * returns, everything that the threads wrote is visible to the caller. Two pools are independent. */
#ifndef IMP_BASE_POOL_H
#define IMP_BASE_POOL_H

#include "base/status.h"

typedef struct pool pool;
typedef void (*pool_fn)(void *arg, int ith, int nth);

/* n_threads 0: as many as the cgroup and affinity mask allow (pool_default_threads). */
imp_status pool_new(pool **out, int n_threads, imp_err *e);
void pool_free(pool *p); /* NULL is fine */
int pool_size(const pool *p);
void pool_run(pool *p, pool_fn fn, void *arg);
/* Inside pool_run only, by every thread of it. */
void pool_barrier(pool *p, int ith);
int pool_default_threads(void);

/* Contiguous share of n items for thread ith of nth, cut at multiples of `grain`. */
static inline void pool_share(long n, long grain, int ith, int nth, long *begin, long *end)
{
    long units = (n + grain - 1) / grain;
    long b = units * ith / nth * grain, e = units * (ith + 1) / nth * grain;
    *begin = b < n ? b : n;
    *end = e < n ? e : n;
}

#endif

/* The thread pool: one word to start an entry, one word a barrier.
 * Invariants: (1) `epoch` changes only in pool_run and pool_free, after fn, arg and quit were written; (2) a barrier
 * opens by changing `phase` after `arrived` was reset, so a thread may enter the next barrier at once; (3) whoever
 * sleeps first counts itself in `sleepers` and then lets the kernel compare the word, whoever changes a word then looks
 * at `sleepers`: both sequentially consistent, so a wake-up cannot be missed. */
#include "base/pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

enum {
    MAX_THREADS = 1024,
    SPIN_CHECKS = 64,         /* pauses between two looks at the clock */
    SPIN_MAX_NS = 100 * 1000, /* longer than the gaps inside a step, shorter than anyone would notice */
    SPIN_MIN_NS = 2 * 1000
};

typedef struct word { /* a line of its own, so that spinning on one does not slow writers of another */
    _Alignas(64) _Atomic uint32_t v;
} word;

struct pool {
    word epoch, phase, arrived, sleepers;
    /* how long to spin before sleeping, in ns: a guess that every long wait corrects, so any thread may write it */
    word spin;
    pool_fn fn;
    void *arg;
    bool quit;
    int n;
    struct worker {
        pthread_t id;
        pool *p;
        int ith;
    } worker[]; /* n - 1 */
};

static long futex(_Atomic uint32_t *w, int op, uint32_t v)
{
    return syscall(SYS_futex, (uint32_t *)w, op | FUTEX_PRIVATE_FLAG, v, NULL, NULL, 0);
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Returns once *w differs from old. On a busy machine the others are often not running at all: spinning then takes
 * away the very time they wait for. So each wait that outlasts SPIN_MAX_NS halves the spin, and each that does not
 * doubles it. */
static void wait_change(pool *p, word *w, uint32_t old)
{
    int64_t begin = 0, now = 0;
    uint32_t spin = atomic_load_explicit(&p->spin.v, memory_order_relaxed);
    do {
        for (int i = 0; i < SPIN_CHECKS; i++) {
            if (atomic_load_explicit(&w->v, memory_order_acquire) != old)
                return;
            relax();
        }
        now = clock_ns();
        if (!begin)
            begin = now;
    } while (now - begin < spin);
    atomic_fetch_add(&p->sleepers.v, 1);
    while (atomic_load(&w->v) == old)
        futex(&w->v, FUTEX_WAIT, old);
    atomic_fetch_sub(&p->sleepers.v, 1);
    spin = clock_ns() - begin < SPIN_MAX_NS ? spin * 2 : spin / 2;
    spin = spin > SPIN_MAX_NS ? SPIN_MAX_NS : spin < SPIN_MIN_NS ? SPIN_MIN_NS : spin;
    atomic_store_explicit(&p->spin.v, spin, memory_order_relaxed);
}

static void change(pool *p, word *w, uint32_t v)
{
    atomic_store(&w->v, v);
    if (atomic_load(&p->sleepers.v))
        futex(&w->v, FUTEX_WAKE, INT32_MAX);
}

void pool_barrier(pool *p, int ith)
{
    (void)ith;
    if (p->n == 1)
        return;
    uint32_t phase = atomic_load_explicit(&p->phase.v, memory_order_relaxed);
    if (atomic_fetch_add(&p->arrived.v, 1) + 1 == (uint32_t)p->n) {
        atomic_store_explicit(&p->arrived.v, 0, memory_order_relaxed);
        change(p, &p->phase, phase + 1);
    } else {
        wait_change(p, &p->phase, phase);
    }
}

static void *work(void *arg)
{
    struct worker *w = arg;
    pool *p = w->p;
    for (uint32_t seen = 0;; seen++) {
        wait_change(p, &p->epoch, seen);
        if (p->quit)
            return NULL;
        p->fn(p->arg, w->ith, p->n);
        pool_barrier(p, w->ith);
    }
}

void pool_run(pool *p, pool_fn fn, void *arg)
{
    if (p->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    change(p, &p->epoch, atomic_load_explicit(&p->epoch.v, memory_order_relaxed) + 1);
    fn(arg, 0, p->n);
    pool_barrier(p, 0);
}

int pool_size(const pool *p) { return p->n; }

static void stop(pool *p, int n_started)
{
    p->quit = true;
    change(p, &p->epoch, atomic_load_explicit(&p->epoch.v, memory_order_relaxed) + 1);
    for (int i = 0; i < n_started; i++)
        pthread_join(p->worker[i].id, NULL);
    mem_free(p);
}

void pool_free(pool *p)
{
    if (p)
        stop(p, p->n - 1);
}

imp_status pool_new(pool **out, int n_threads, imp_err *e)
{
    *out = NULL;
    int n = n_threads > 0 ? n_threads : pool_default_threads();
    if (n > MAX_THREADS)
        return err_set(e, IMP_E_USAGE, "threads: wanted 1 to %d, got %d", MAX_THREADS, n);
    size_t bytes = sizeof(pool) + (size_t)(n - 1) * sizeof(struct worker);
    pool *p = mem_aligned(64, (bytes + 63) / 64 * 64);
    if (!p)
        return err_oom(e, "thread pool", bytes);
    memset(p, 0, bytes);
    p->n = n;
    atomic_init(&p->spin.v, SPIN_MAX_NS);
    for (int i = 0; i < n - 1; i++) {
        p->worker[i] = (struct worker){.p = p, .ith = i + 1};
        int rc = pthread_create(&p->worker[i].id, NULL, work, &p->worker[i]);
        if (rc) {
            stop(p, i);
            return err_set(e, IMP_E_NOMEM, "thread %d of %d could not be started: %s", i + 1, n, strerror(rc));
        }
    }
    *out = p;
    return IMP_OK;
}

/* ---- how many ---------------------------------------------------------------------------------------------------- */

/* The first line of a small system file; false when there is none. */
static bool read_line(const char *path, char *buf, size_t n)
{
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(buf, (int)n, f);
    if (f)
        fclose(f);
    return ok;
}

/* CPUs that a quota of `quota` of every `period` microseconds is worth, at least one; 0 when there is no quota. */
static int quota_cpus(const char *quota, const char *period)
{
    long q = strtol(quota, NULL, 10), p = strtol(period, NULL, 10);
    return q > 0 && p > 0 ? (int)((q + p - 1) / p < MAX_THREADS ? (q + p - 1) / p : MAX_THREADS) : 0;
}

/* cgroup v2: the tightest cpu.max from this process's group up to the root. */
static int cgroup2_cpus(const char *group)
{
    char dir[2048], path[2200], line[64];
    int least = 0;
    if (snprintf(dir, sizeof dir, "%s", group) >= (int)sizeof dir)
        return 0;
    for (;;) {
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", dir);
        if (read_line(path, line, sizeof line)) { /* "max 100000" or "150000 100000" */
            char *space = strchr(line, ' ');
            int n = space ? quota_cpus(line, space + 1) : 0;
            if (n && (!least || n < least))
                least = n;
        }
        char *slash = strrchr(dir, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

static int cgroup_cpus(void)
{
    char line[2048], quota[64], period[64];
    int n = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, "0::", 3) == 0)
            n = cgroup2_cpus(strcmp(line + 3, "/") == 0 ? "" : line + 3);
    }
    if (f)
        fclose(f);
    if (!n && read_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota, sizeof quota) &&
        read_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us", period, sizeof period))
        n = quota_cpus(quota, period);
    return n;
}

int pool_default_threads(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    int quota = cgroup_cpus();
    if (quota && quota < n)
        n = quota;
    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n;
}

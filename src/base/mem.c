#include "base/mem.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static _Atomic long fail_at = -1; /* allocations left before failing; -1 = never */
static _Atomic long n_alloc;
static _Thread_local bool guarded;

static bool refuse(void)
{
    atomic_fetch_add_explicit(&n_alloc, 1, memory_order_relaxed);
    if (guarded)
        return true;
    if (atomic_load_explicit(&fail_at, memory_order_relaxed) < 0)
        return false;
    long left = atomic_load(&fail_at);
    while (left > 0)
        if (atomic_compare_exchange_weak(&fail_at, &left, left - 1))
            return false;
    return left == 0;
}

void *mem_alloc(size_t n) { return refuse() ? NULL : malloc(n ? n : 1); }

void *mem_calloc(size_t n, size_t size) { return refuse() ? NULL : calloc(n ? n : 1, size ? size : 1); }

void *mem_realloc(void *p, size_t n) { return refuse() ? NULL : realloc(p, n ? n : 1); }

void *mem_aligned(size_t alignment, size_t n)
{
    void *p = NULL;
    if (refuse() || posix_memalign(&p, alignment, n ? n : 1))
        return NULL;
    return p;
}

char *mem_strndup(const char *s, size_t n)
{
    if (n == SIZE_MAX)
        return NULL;
    char *p = mem_alloc(n + 1);
    if (p) {
        memcpy(p, s, n);
        p[n] = 0;
    }
    return p;
}

char *mem_strdup(const char *s) { return mem_strndup(s, strlen(s)); }

void mem_free(void *p)
{
    int e = errno;
    free(p);
    errno = e;
}

void *mem_map(size_t n)
{
    if (refuse())
        return NULL;
    void *p = mmap(NULL, n ? n : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (n >= ((size_t)4 << 20))
        madvise(p, n, MADV_HUGEPAGE); /* fewer TLB misses while streaming weights; refusal is harmless */
    return p;
}

void mem_unmap(void *p, size_t n)
{
    if (p)
        munmap(p, n ? n : 1);
}

void mem_fail_after(long n) { atomic_store(&fail_at, n); }
void mem_guard(bool on) { guarded = on; }
long mem_count(void) { return atomic_load(&n_alloc); }

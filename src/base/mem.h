/* mem: every heap allocation of the library goes through here, so that tests can make the n-th one fail
 * (mem_fail_after) and a guard can forbid allocation in the decode loop (mem_guard). Thread-safe.
 * The two test hooks are process-wide on purpose: they are instruments, not state of a model. */
#ifndef IMP_BASE_MEM_H
#define IMP_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>

void *mem_alloc(size_t n_bytes);                       /* NULL on failure; n_bytes 0 gives a unique pointer */
void *mem_calloc(size_t n, size_t size);               /* zeroed, overflow-checked */
void *mem_realloc(void *p, size_t n_bytes);            /* p stays valid on failure */
void *mem_aligned(size_t alignment, size_t n_bytes);   /* free with mem_free */
char *mem_strdup(const char *s);
char *mem_strndup(const char *s, size_t n);
void mem_free(void *p);                                /* NULL is fine; errno is preserved */

/* Big page-backed regions (weights, KV): zeroed, 2 MiB-aligned when large, given back to the system at once. */
void *mem_map(size_t n_bytes);
void mem_unmap(void *p, size_t n_bytes);

/* Test hooks. mem_fail_after(n): the n-th allocation from now on fails, and all after it; negative switches it off.
 * mem_guard(true) makes any allocation of the calling thread fail until mem_guard(false); both return at once. */
void mem_fail_after(long n);
void mem_guard(bool on);
/* Allocations made so far (for ramps and leak checks in tests). */
long mem_count(void);

#endif

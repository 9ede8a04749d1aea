/* arena: bump allocation with one lifetime. Nothing in it is freed alone; arena_free gives all back.
 * Zero-initialise (arena a = {0}). Not thread-safe. Allocation failure returns NULL and sets a.failed (sticky). */
#ifndef IMP_BASE_ARENA_H
#define IMP_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

typedef struct arena_block arena_block;
typedef struct arena {
    arena_block *head;
    size_t n_bytes; /* sum of what was handed out */
    bool failed;
} arena;

void *arena_alloc(arena *a, size_t n_bytes);            /* zeroed, 16-byte aligned */
void *arena_array(arena *a, size_t n, size_t size);     /* zeroed, overflow-checked */
char *arena_strndup(arena *a, const char *s, size_t n); /* NUL added */
char *arena_strdup(arena *a, const char *s);
char *arena_printf(arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void arena_free(arena *a);

#define ARENA_NEW(a, T) ((T *)arena_alloc((a), sizeof(T)))
#define ARENA_ARRAY(a, T, n) ((T *)arena_array((a), (n), sizeof(T)))

#endif

#include "base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/ck.h"
#include "base/mem.h"

struct arena_block {
    arena_block *next;
    size_t used, size;
    _Alignas(16) unsigned char data[];
};

#define ARENA_BLOCK ((size_t)64 << 10)

void *arena_alloc(arena *a, size_t n)
{
    size_t need;
    if (!ck_add_sz(n, 15, &need) || need > SIZE_MAX - sizeof(arena_block)) {
        a->failed = true;
        return NULL;
    }
    need &= ~(size_t)15;
    arena_block *b = a->head;
    if (!b || b->size - b->used < need) {
        size_t size = need > ARENA_BLOCK / 4 ? need : ARENA_BLOCK;
        arena_block *nb = mem_calloc(1, sizeof *nb + size);
        if (!nb) {
            a->failed = true;
            return NULL;
        }
        nb->size = size;
        if (b && size != ARENA_BLOCK) { /* a big one goes behind the head, which still has room */
            nb->next = b->next;
            b->next = nb;
        } else {
            nb->next = b;
            a->head = nb;
        }
        b = nb;
    }
    void *p = b->data + b->used;
    b->used += need;
    a->n_bytes += need;
    return p;
}

void *arena_array(arena *a, size_t n, size_t size)
{
    size_t bytes;
    if (!ck_mul_sz(n, size, &bytes)) {
        a->failed = true;
        return NULL;
    }
    return arena_alloc(a, bytes);
}

char *arena_strndup(arena *a, const char *s, size_t n)
{
    char *p = n < SIZE_MAX ? arena_alloc(a, n + 1) : NULL;
    if (p && n)
        memcpy(p, s, n);
    return p;
}

char *arena_strdup(arena *a, const char *s) { return arena_strndup(a, s, strlen(s)); }

char *arena_printf(arena *a, const char *fmt, ...)
{
    va_list ap, ap2;
    va_start(ap, fmt);
    va_copy(ap2, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n >= 0 ? arena_alloc(a, (size_t)n + 1) : NULL;
    if (p)
        vsnprintf(p, (size_t)n + 1, fmt, ap2);
    va_end(ap2);
    return p;
}

void arena_free(arena *a)
{
    for (arena_block *b = a->head; b;) {
        arena_block *next = b->next;
        mem_free(b);
        b = next;
    }
    *a = (arena){0};
}

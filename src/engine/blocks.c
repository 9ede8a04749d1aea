#include "engine/blocks.h"

#include "base/mem.h"

imp_status blocks_init(blocks *b, int32_t n_total, bool shuffle, imp_err *e)
{
    *b = (blocks){.n_total = n_total, .n_free = n_total};
    b->free = mem_calloc((size_t)n_total, sizeof *b->free);
    b->ref = mem_calloc((size_t)n_total, sizeof *b->ref);
    if (!b->free || !b->ref) {
        blocks_free(b);
        return err_oom(e, "KV block table", (unsigned long long)n_total * 8);
    }
    for (int32_t i = 0; i < n_total; i++)
        b->free[i] = n_total - 1 - i; /* low numbers first, so memory grows only as far as needed */
    uint64_t x = 88172645463325252u;
    for (int32_t i = n_total - 1; shuffle && i > 0; i--) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        int32_t j = (int32_t)(x % (uint64_t)(i + 1)), t = b->free[i];
        b->free[i] = b->free[j];
        b->free[j] = t;
    }
    return IMP_OK;
}

void blocks_free(blocks *b)
{
    mem_free(b->free);
    mem_free(b->ref);
    *b = (blocks){0};
}

int32_t blocks_take(blocks *b)
{
    if (b->n_free == 0)
        return -1;
    int32_t id = b->free[--b->n_free];
    b->ref[id] = 1;
    if (id + 1 > b->high)
        b->high = id + 1;
    return id;
}

void blocks_hold(blocks *b, int32_t id) { b->ref[id]++; }

void blocks_drop(blocks *b, int32_t id)
{
    if (--b->ref[id] == 0)
        b->free[b->n_free++] = id;
}

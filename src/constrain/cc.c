/* The compile context: memory, failure, step counting, and the cache of automata by pattern. */
#include <stdio.h>
#include <string.h>

#include "constrain/constrain_impl.h"

void cc_fail(cc *c, imp_status s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    err_vset(c->e, s, fmt, ap);
    va_end(ap);
    longjmp(c->fail, s ? s : IMP_E_INTERNAL);
}

void *cc_alloc(cc *c, size_t n)
{
    void *p = c->a->n_bytes < c->o.max_bytes ? arena_alloc(c->a, n) : NULL;
    if (!p) {
        if (c->a->failed)
            cc_fail(c, IMP_E_NOMEM, "constraint: out of memory after %zu bytes", c->a->n_bytes);
        cc_fail(c, IMP_E_LIMIT, "constraint: too big: more than %zu bytes of automata", c->o.max_bytes);
    }
    return p;
}

void *cc_array(cc *c, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > c->o.max_bytes)
        cc_fail(c, IMP_E_LIMIT, "constraint: too big: more than %zu bytes of automata", c->o.max_bytes);
    return cc_alloc(c, bytes);
}

void *cc_keep(cc *c, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > c->o.max_bytes || c->pa->n_bytes > c->o.max_bytes)
        cc_fail(c, IMP_E_LIMIT, "constraint: too big: more than %zu bytes of automata", c->o.max_bytes);
    void *p = arena_alloc(c->pa, bytes);
    if (!p)
        cc_fail(c, IMP_E_NOMEM, "constraint: out of memory after %zu bytes", c->pa->n_bytes);
    return p;
}

uint64_t hash_bytes(const void *p, size_t n)
{
    const unsigned char *s = p;
    uint64_t h = 0x9E3779B97F4A7C15ull ^ n;
    for (; n >= 8; s += 8, n -= 8) {
        uint64_t w;
        memcpy(&w, s, 8);
        h = hash64(h ^ w);
    }
    uint64_t w = 0;
    if (n)
        memcpy(&w, s, n);
    return hash64(h ^ w);
}

uint32_t *idmap_at(cc *c, idmap *m, uint64_t key, bool *found)
{
    if (m->n * 3 >= m->cap * 2) {
        idmap old = *m;
        m->cap = old.cap ? old.cap * 2 : 64;
        m->key = CC_ARRAY(c, uint64_t, m->cap);
        m->val = CC_ARRAY(c, uint32_t, m->cap);
        memset(m->key, 0xFF, m->cap * sizeof *m->key);
        for (size_t i = 0; i < old.cap; i++)
            if (old.key[i] != UINT64_MAX) {
                size_t j = hash64(old.key[i]) & (m->cap - 1);
                while (m->key[j] != UINT64_MAX)
                    j = (j + 1) & (m->cap - 1);
                m->key[j] = old.key[i];
                m->val[j] = old.val[i];
            }
    }
    size_t j = hash64(key) & (m->cap - 1);
    while (m->key[j] != UINT64_MAX && m->key[j] != key)
        j = (j + 1) & (m->cap - 1);
    *found = m->key[j] == key;
    if (!*found) {
        m->key[j] = key;
        m->n++;
    }
    return &m->val[j];
}

void cc_work(cc *c, unsigned long long n)
{
    c->work += n;
    if (c->work > c->o.max_work)
        cc_fail(c, IMP_E_LIMIT, "constraint: too complex: more than %llu steps to compile", c->o.max_work);
}

void *cc_grow(cc *c, void *p, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return p;
    size_t want = *cap ? *cap * 2 : 8;
    void *q = cc_array(c, want, size);
    if (n)
        memcpy(q, p, n * size);
    *cap = want;
    return q;
}

struct dfa_cache_row {
    dfa_cache_row *next;
    const char *kind, *s;
    size_t n;
    cdfa *d;
};

cdfa *dfa_cached(cc *c, const char *kind, const char *s, size_t n, bool *found)
{
    for (dfa_cache_row *r = c->dfa_cache; r; r = r->next)
        if (r->n == n && !strcmp(r->kind, kind) && !memcmp(r->s, s, n)) {
            *found = true;
            return r->d;
        }
    *found = false;
    return NULL;
}

void dfa_cache_add(cc *c, const char *kind, const char *s, size_t n, cdfa *d)
{
    dfa_cache_row *r = CC_NEW(c, dfa_cache_row);
    char *copy = CC_ARRAY(c, char, n + 1);
    memcpy(copy, s, n);
    *r = (dfa_cache_row){.next = c->dfa_cache, .kind = kind, .s = copy, .n = n, .d = d};
    c->dfa_cache = r;
}

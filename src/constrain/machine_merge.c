/* Stacks that share what lies on top: merging after a step, and moving a set of stacks to another machine. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "constrain/machine.h"

/* ---- merging ---------------------------------------------------------------------------------------------------- */
/* Two stacks that differ below their top frame only go on alike until that frame is done, so one frame stands for both,
 * and below it lies F_ANY, the list of what lay below each. Alternatives inside alternatives then add up instead of
 * multiplying. Not merged: keys, which read the object below them, items of uniqueItems arrays, which read its list,
 * and the root's value. */
static bool mergeable(const machine *m, const frame *f)
{
    const frame *up = &m->fr[f->parent];
    return f->kind != F_KEY && f->kind != F_END && up->kind != F_END &&
           !(up->kind == F_ARR && m->p->arr[up->node].unique);
}

typedef struct top {
    uint64_t hash; /* of the frame without its parent */
    uint32_t id;
} top;

static int by_hash(const void *a, const void *b)
{
    const top *x = a, *y = b;
    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : x->id < y->id ? -1 : x->id > y->id;
}

static bool same_top(const frame *a, const frame *b)
{
    frame x = *a;
    x.parent = b->parent;
    return !memcmp(&x, b, sizeof x);
}

/* One frame for v[0..n), which are alike but for their parents; 0: no memory. */
static uint32_t merged(machine *m, const top *v, size_t n)
{
    size_t total = 0, k = 0, len;
    for (size_t i = 0; i < n; i++) {
        const frame *up = &m->fr[m->fr[v[i].id].parent];
        len = 1;
        if (up->kind == F_ANY)
            machine_list(m, up->node, &len);
        total += len;
    }
    uint32_t *t = mem_alloc(total * sizeof *t);
    if (!t) {
        m->oom = true;
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t parent = m->fr[v[i].id].parent;
        if (m->fr[parent].kind == F_ANY) {
            const uint32_t *l = machine_list(m, m->fr[parent].node, &len);
            memcpy(t + k, l, len * sizeof *t);
            k += len;
        } else {
            t[k++] = parent;
        }
    }
    frame any = {.kind = F_ANY, .node = machine_set(m, t, total)}, f = m->fr[v[0].id];
    mem_free(t);
    f.parent = any.node ? machine_frame(m, &any) : 0;
    return f.parent ? machine_frame(m, &f) : 0;
}

void machine_merge(machine *m)
{
    top few[16], *v = m->n_out <= 16 ? few : mem_alloc(m->n_out * sizeof *v);
    size_t n = 0, kept = 0;
    if (!v) {
        m->oom = true;
        return;
    }
    for (size_t i = 0; i < m->n_out; i++) {
        frame f = m->fr[m->out[i]];
        if (!mergeable(m, &f)) {
            m->out[kept++] = m->out[i];
            continue;
        }
        f.parent = 0;
        v[n++] = (top){hash_bytes(&f, sizeof f), m->out[i]};
    }
    if (n > 1)
        qsort(v, n, sizeof *v, by_hash);
    for (size_t i = 0, k; i < n && !m->oom && !m->full; i = k) {
        for (k = i + 1; k < n && v[k].hash == v[i].hash && same_top(&m->fr[v[k].id], &m->fr[v[i].id]); k++)
            ;
        m->out[kept++] = v[k - 1].id == v[i].id ? v[i].id : merged(m, v + i, k - i);
    }
    m->n_out = kept;
    if (v != few)
        mem_free(v);
}

/* ---- moving a set to another machine (clone, and dropping caches that grew too big) ----------------------------- */
static uint32_t copy_blob(machine *to, const machine *from, uint32_t id)
{
    size_t n;
    const void *p = machine_blob_get(from, id, &n);
    return machine_blob(to, p, n);
}

/* A list of blob ids. */
static uint32_t copy_list(machine *to, const machine *from, uint32_t id)
{
    size_t n;
    const uint32_t *v = machine_list(from, id, &n);
    if (!n)
        return 0;
    uint32_t *t = mem_alloc(n * sizeof *t);
    if (!t) {
        to->oom = true;
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        t[i] = v[i] == KEY_UNKNOWN ? v[i] : copy_blob(to, from, v[i]);
    uint32_t r = machine_set(to, t, n);
    mem_free(t);
    return r;
}

/* Frame id of `from`, whose parent is there already: new[] tells where. */
static uint32_t copy_frame(machine *to, const machine *from, uint32_t id, const uint32_t *new)
{
    frame f = from->fr[id];
    f.parent = new[f.parent];
    if (f.kind == F_RAW || f.kind == F_STR || f.kind == F_ARR || f.kind == F_OBJ)
        f.y = copy_list(to, from, f.y);
    if (f.kind == F_KEY)
        f.z = copy_list(to, from, f.z);
    if (f.kind == F_OBJ && from->p->obj[f.node].words > 1)
        f.x = copy_blob(to, from, f.x);
    if (f.kind == F_ANY) {
        size_t n;
        const uint32_t *v = machine_list(from, f.node, &n);
        uint32_t *t = mem_alloc(n * sizeof *t);
        if (!t) {
            to->oom = true;
            return 0;
        }
        for (size_t i = 0; i < n; i++)
            t[i] = new[v[i]];
        f.node = machine_set(to, t, n);
        mem_free(t);
    }
    return machine_frame(to, &f);
}

uint32_t machine_copy_set(machine *to, const machine *from, uint32_t set)
{
    size_t n, len, top = 0;
    const uint32_t *ids = machine_list(from, set, &n);
    for (size_t i = 0; i < n; i++)
        top = ids[i] > top ? ids[i] : top;
    /* What a frame points to is older than itself, so its number is smaller: marks go down, copies go up. */
    uint32_t *new = mem_calloc(top + 1, sizeof *new), *t = mem_alloc((n + 1) * sizeof *t), r = 0;
    if (!new || !t) {
        to->oom = true;
        goto out;
    }
    for (size_t i = 0; i < n; i++)
        new[ids[i]] = 1;
    for (size_t id = top; id > 0; id--)
        if (new[id]) {
            const frame *f = &from->fr[id];
            new[f->parent] = 1;
            const uint32_t *v = machine_list(from, f->kind == F_ANY ? f->node : 0, &len);
            for (size_t i = 0; i < len; i++)
                new[v[i]] = 1;
        }
    new[0] = 0;
    for (size_t id = 1; id <= top && !to->oom && !to->full; id++)
        if (new[id])
            new[id] = copy_frame(to, from, (uint32_t)id, new);
    for (size_t i = 0; i < n; i++)
        t[i] = new[ids[i]];
    r = to->oom || to->full ? 0 : machine_set(to, t, n);
out:
    mem_free(new);
    mem_free(t);
    return r;
}

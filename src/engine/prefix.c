#include "engine/prefix.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

#define NONE (-1)

typedef struct node {
    int32_t parent;        /* NONE: first block behind a salt */
    int32_t next;          /* in its bucket, or in the list of unused nodes */
    int32_t older, newer;  /* in the list of nodes on no path */
    uint32_t users;        /* paths that hold it */
    uint32_t n_child;
    uint64_t hash;
    char *salt;            /* of a first block; NULL = none */
} node;

/* Blocks of a window group that the tree alone holds, in order of their last use. */
typedef struct idle_list {
    int32_t first, last, n;
    int32_t *older, *newer; /* [n_total]; NONE at the ends */
    int32_t *owner;         /* [n_total] its node, NONE = not in the tree */
    bool *in;               /* [n_total] in the list */
} idle_list;

struct prefix {
    blocks *blk;
    int n_group;
    int32_t block_size, n_node;
    uint32_t window[PLAN_MAX_GROUPS]; /* 0 = none */
    idle_list idle[PLAN_MAX_GROUPS];  /* window groups */
    node *node;            /* [n_node] */
    int32_t *tok;          /* [n_node][block_size] */
    int32_t *block;        /* [n_node][n_group], NONE = gone */
    int32_t *bucket;       /* [mask + 1] first node + 1 */
    uint32_t mask;
    uint64_t seed;         /* so that nobody can choose tokens that fall into one bucket */
    bool alike;            /* prefix_hash_nothing */
    int32_t made, unused;  /* nodes ever used; list of those given back */
    int32_t first, last, n_idle; /* nodes on no path, oldest first */
};

static int32_t *tok_of(const prefix *p, int32_t id) { return p->tok + (size_t)id * (size_t)p->block_size; }
static int32_t *block_of(const prefix *p, int32_t id, int i)
{
    return &p->block[(size_t)id * (size_t)p->n_group + (size_t)i];
}

/* ---- life ------------------------------------------------------------------------------------------------------- */
void prefix_free(prefix *p)
{
    if (!p)
        return;
    for (int32_t i = 0; p->node && i < p->made; i++)
        mem_free(p->node[i].salt);
    for (int i = 0; i < p->n_group; i++) {
        mem_free(p->idle[i].older);
        mem_free(p->idle[i].newer);
        mem_free(p->idle[i].owner);
        mem_free(p->idle[i].in);
    }
    mem_free(p->node);
    mem_free(p->tok);
    mem_free(p->block);
    mem_free(p->bucket);
    mem_free(p);
}

static bool idle_init(idle_list *l, int32_t n)
{
    *l = (idle_list){.first = NONE, .last = NONE};
    l->older = mem_calloc((size_t)n, sizeof *l->older);
    l->newer = mem_calloc((size_t)n, sizeof *l->newer);
    l->owner = mem_calloc((size_t)n, sizeof *l->owner);
    l->in = mem_calloc((size_t)n, sizeof *l->in);
    for (int32_t i = 0; l->owner && i < n; i++)
        l->owner[i] = NONE;
    return l->older && l->newer && l->owner && l->in;
}

imp_status prefix_new(blocks *blk, const plan_kv_group *group, int n_group, int32_t block_size, int32_t n_node,
                      prefix **out, imp_err *e)
{
    size_t n = (size_t)n_node;
    prefix *p = mem_calloc(1, sizeof *p);
    if (!p)
        return err_oom(e, "prefix cache", sizeof *p);
    *p = (prefix){.blk = blk, .n_group = n_group, .block_size = block_size, .n_node = n_node, .mask = 63,
                  .unused = NONE, .first = NONE, .last = NONE, .seed = (uint64_t)clock_ns() * 0x9E3779B97F4A7C15u};
    while (p->mask < n && p->mask < (uint32_t)1 << 30)
        p->mask = p->mask * 2 + 1;
    /* untouched pages of these cost nothing: they fill as the cache does */
    p->node = mem_calloc(n, sizeof *p->node);
    p->tok = mem_calloc(n * (size_t)block_size, sizeof *p->tok);
    p->block = mem_calloc(n * (size_t)n_group, sizeof *p->block);
    p->bucket = mem_calloc((size_t)p->mask + 1, sizeof *p->bucket);
    bool ok = p->node && p->tok && p->block && p->bucket;
    for (int i = 0; i < n_group; i++) {
        p->window[i] = group[i].kind == KVG_WINDOW ? group[i].window : 0;
        ok = ok && (!p->window[i] || idle_init(&p->idle[i], blk[i].n_total));
    }
    if (!ok) {
        prefix_free(p);
        return err_oom(e, "prefix cache", n * (sizeof(node) + (size_t)(block_size + n_group + 2) * sizeof(int32_t)));
    }
    *out = p;
    return IMP_OK;
}

/* ---- lists ------------------------------------------------------------------------------------------------------ */
static void idle_push(idle_list *l, int32_t b)
{
    l->older[b] = l->last;
    l->newer[b] = NONE;
    if (l->last == NONE)
        l->first = b;
    else
        l->newer[l->last] = b;
    l->last = b;
    l->in[b] = true;
    l->n++;
}

static void idle_remove(idle_list *l, int32_t b)
{
    if (!l->in[b])
        return;
    if (l->older[b] == NONE)
        l->first = l->newer[b];
    else
        l->newer[l->older[b]] = l->newer[b];
    if (l->newer[b] == NONE)
        l->last = l->older[b];
    else
        l->older[l->newer[b]] = l->older[b];
    l->in[b] = false;
    l->n--;
}

static void lru_push(prefix *p, int32_t id)
{
    p->node[id].older = p->last;
    p->node[id].newer = NONE;
    if (p->last == NONE)
        p->first = id;
    else
        p->node[p->last].newer = id;
    p->last = id;
    p->n_idle++;
}

static void lru_remove(prefix *p, int32_t id)
{
    node *n = &p->node[id];
    if (n->older == NONE)
        p->first = n->newer;
    else
        p->node[n->older].newer = n->newer;
    if (n->newer == NONE)
        p->last = n->older;
    else
        p->node[n->newer].older = n->older;
    p->n_idle--;
}

static void pin(prefix *p, int32_t id)
{
    if (p->node[id].users++ == 0)
        lru_remove(p, id);
}

/* ---- finding ---------------------------------------------------------------------------------------------------- */
static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0xD6E8FEB86659FD93u;
    return h ^ h >> 32;
}

static const char *plain(const char *salt) { return salt ? salt : ""; }

static uint64_t hash_of(const prefix *p, int32_t parent, const char *salt, const int32_t *tok)
{
    uint64_t h = mix(p->seed, (uint64_t)(int64_t)parent);
    for (const char *s = parent == NONE ? plain(salt) : ""; *s; s++)
        h = mix(h, (unsigned char)*s);
    for (int32_t i = 0; i < p->block_size; i++)
        h = mix(h, (uint32_t)tok[i]);
    return p->alike || !h ? 1 : h; /* never 0, which nodes that were given back have */
}

static int32_t find(const prefix *p, int32_t parent, const char *salt, const int32_t *tok, uint64_t hash)
{
    for (int32_t id = p->bucket[hash & p->mask] - 1; id != NONE; id = p->node[id].next) {
        const node *n = &p->node[id];
        if (n->hash == hash && n->parent == parent &&
            memcmp(tok_of(p, id), tok, (size_t)p->block_size * sizeof *tok) == 0 &&
            (parent != NONE || strcmp(plain(n->salt), plain(salt)) == 0))
            return id;
    }
    return NONE;
}

/* First block of window group i that positions behind n blocks still see. */
static uint32_t first_seen(const prefix *p, int i, uint32_t n)
{
    uint64_t at = (uint64_t)n * (uint32_t)p->block_size + 1, w = p->window[i];
    return w && at > w ? (uint32_t)((at - w) / (uint32_t)p->block_size) : 0;
}

/* How many blocks of the longest path can be used, and its last node: in each window group all that is seen must be
 * there. */
static uint32_t longest(const prefix *p, const char *salt, const int32_t *tok, uint32_t max, int32_t *last)
{
    uint32_t run[PLAN_MAX_GROUPS] = {0}, best = 0;
    int32_t parent = NONE;
    for (uint32_t n = 0; n < max; n++) {
        const int32_t *t = tok + (size_t)n * (size_t)p->block_size;
        int32_t id = find(p, parent, salt, t, hash_of(p, parent, salt, t));
        if (id == NONE)
            break;
        bool all = true;
        for (int i = 0; i < p->n_group; i++) {
            run[i] = *block_of(p, id, i) == NONE ? 0 : run[i] + 1;
            all = all && run[i] >= n + 1 - first_seen(p, i, n + 1);
        }
        if (all) {
            best = n + 1;
            *last = id;
        }
        parent = id;
    }
    return best;
}

uint32_t prefix_take(prefix *p, const char *salt, const int32_t *tok, uint32_t max_blocks, prefix_at *at,
                     int32_t *const *table, int32_t *table_len, int32_t *base)
{
    int32_t id = NONE;
    uint32_t n = longest(p, salt, tok, max_blocks, &id);
    *at = (prefix_at){.node = id, .depth = n};
    for (int i = 0; i < p->n_group && n; i++) {
        base[i] = (int32_t)first_seen(p, i, n);
        table_len[i] = (int32_t)n - base[i];
    }
    for (int32_t j = (int32_t)n - 1; j >= 0; j--, id = p->node[id].parent) {
        pin(p, id);
        for (int i = 0; i < p->n_group; i++) {
            if (j < base[i])
                continue;
            int32_t b = *block_of(p, id, i);
            blocks_hold(&p->blk[i], b);
            if (p->window[i])
                idle_remove(&p->idle[i], b);
            table[i][j - base[i]] = b;
        }
    }
    return n;
}

/* ---- adding ----------------------------------------------------------------------------------------------------- */
static void give_block(prefix *p, int32_t id, int i, int32_t b)
{
    blocks_hold(&p->blk[i], b);
    *block_of(p, id, i) = b;
    if (p->window[i])
        p->idle[i].owner[b] = id;
}

static void take_block(prefix *p, int32_t id, int i)
{
    int32_t b = *block_of(p, id, i);
    if (b == NONE)
        return;
    if (p->window[i]) {
        idle_remove(&p->idle[i], b);
        p->idle[i].owner[b] = NONE;
    }
    *block_of(p, id, i) = NONE;
    blocks_drop(&p->blk[i], b);
}

/* Takes the node that was not used for longest out of the tree: it has no children (invariant 3). */
static bool evict_node(prefix *p)
{
    int32_t id = p->first;
    if (id == NONE)
        return false;
    node *n = &p->node[id];
    lru_remove(p, id);
    for (int i = 0; i < p->n_group; i++)
        take_block(p, id, i);
    int32_t *from = &p->bucket[n->hash & p->mask];
    if (*from - 1 == id) {
        *from = n->next + 1;
    } else {
        int32_t k = *from - 1;
        while (p->node[k].next != id)
            k = p->node[k].next;
        p->node[k].next = n->next;
    }
    if (n->parent != NONE)
        p->node[n->parent].n_child--;
    mem_free(n->salt);
    *n = (node){.next = p->unused};
    p->unused = id;
    return true;
}

static int32_t new_node(prefix *p)
{
    if (p->unused == NONE && p->made == p->n_node && !evict_node(p))
        return NONE;
    int32_t id = p->unused;
    if (id == NONE)
        return p->made++;
    p->unused = p->node[id].next;
    return id;
}

static int32_t make(prefix *p, int32_t parent, const char *salt, const int32_t *tok, uint64_t hash,
                    int32_t *const *entry)
{
    char *own = NULL;
    if (parent == NONE && salt && *salt && !(own = mem_strdup(salt)))
        return NONE;
    int32_t id = new_node(p);
    if (id == NONE) {
        mem_free(own);
        return NONE;
    }
    p->node[id] = (node){.parent = parent, .next = p->bucket[hash & p->mask] - 1, .users = 1, .hash = hash,
                         .salt = own};
    p->bucket[hash & p->mask] = id + 1;
    if (parent != NONE)
        p->node[parent].n_child++;
    memcpy(tok_of(p, id), tok, (size_t)p->block_size * sizeof *tok);
    for (int i = 0; i < p->n_group; i++) {
        *block_of(p, id, i) = NONE;
        if (entry[i])
            give_block(p, id, i, *entry[i]);
    }
    return id;
}

/* The sequence computed a block that the tree has: one of the two is enough. */
static void share(prefix *p, int32_t id, int32_t *const *entry)
{
    pin(p, id);
    for (int i = 0; i < p->n_group; i++) {
        int32_t b = *block_of(p, id, i);
        if (!entry[i])
            continue;
        if (b == NONE) {
            give_block(p, id, i, *entry[i]);
            continue;
        }
        blocks_hold(&p->blk[i], b);
        if (p->window[i])
            idle_remove(&p->idle[i], b);
        blocks_drop(&p->blk[i], *entry[i]);
        *entry[i] = b;
    }
}

void prefix_add(prefix *p, prefix_at *at, const char *salt, const int32_t *tok, int32_t *const *entry)
{
    if (at->stuck)
        return;
    uint64_t hash = hash_of(p, at->node, salt, tok);
    int32_t id = find(p, at->node, salt, tok, hash);
    if (id != NONE)
        share(p, id, entry);
    else
        id = make(p, at->node, salt, tok, hash, entry);
    if (id == NONE) {
        at->stuck = true;
        return;
    }
    at->node = id;
    at->depth++;
}

void prefix_leave(prefix *p, prefix_at *at)
{
    for (int32_t id = at->node; id != NONE; id = p->node[id].parent)
        if (--p->node[id].users == 0)
            lru_push(p, id); /* the last block first: a child stands before its parent */
    *at = PREFIX_ROOT;
}

/* ---- giving up -------------------------------------------------------------------------------------------------- */
void prefix_dropped(prefix *p, int i, int32_t b)
{
    if (p->window[i] && p->idle[i].owner[b] != NONE && p->blk[i].ref[b] == 1)
        idle_push(&p->idle[i], b);
}

bool prefix_evict(prefix *p, int i)
{
    if (!p->window[i])
        return evict_node(p);
    int32_t b = p->idle[i].first;
    if (b == NONE)
        return false;
    take_block(p, p->idle[i].owner[b], i);
    return true;
}

int32_t prefix_idle(const prefix *p, int i) { return p->window[i] ? p->idle[i].n : p->n_idle; }

void prefix_clear(prefix *p)
{
    while (evict_node(p))
        ;
}

/* ---- tests ------------------------------------------------------------------------------------------------------ */
void prefix_hash_nothing(prefix *p) { p->alike = true; }

static const char *node_fault(const prefix *p, int32_t id)
{
    const node *n = &p->node[id];
    int32_t k = p->bucket[n->hash & p->mask] - 1;
    while (k != NONE && k != id)
        k = p->node[k].next;
    if (k == NONE)
        return "a node is not in its bucket";
    if (n->parent != NONE && p->node[n->parent].users < n->users)
        return "a node has more paths than its parent";
    for (int i = 0; i < p->n_group; i++) {
        int32_t b = *block_of(p, id, i);
        if (b == NONE && !p->window[i])
            return "a node lacks a block";
        if (b == NONE)
            continue;
        uint32_t ref = p->blk[i].ref[b];
        if (ref < 1)
            return "a node's block is free";
        if (!p->window[i] && ref != n->users + 1)
            return "a block has other holders than its node's paths";
        if (p->window[i] && (p->idle[i].owner[b] != id || p->idle[i].in[b] != (ref == 1)))
            return "a window's block is not listed as it should be";
    }
    return NULL;
}

const char *prefix_fault(const prefix *p)
{
    const char *why = NULL;
    int32_t n_unused = 0, n_idle = 0;
    uint32_t n_child = 0, n_under = 0;
    for (int32_t id = p->unused; id != NONE; id = p->node[id].next)
        n_unused++;
    bool *seen = mem_calloc((size_t)p->n_node, sizeof *seen);
    if (!seen)
        return "out of memory";
    for (int32_t id = p->first; id != NONE && !why; id = p->node[id].newer) {
        n_idle++;
        seen[id] = true;
        if (p->node[id].users)
            why = "a node on a path is in the list";
        if (p->node[id].parent != NONE && seen[p->node[id].parent])
            why = "a parent stands before its child";
    }
    for (int32_t id = p->unused; id != NONE; id = p->node[id].next)
        seen[id] = true;
    int32_t n_used = 0;
    for (int32_t id = 0; id < p->made && !why; id++) {
        if (seen[id] && !p->node[id].hash) /* given back */
            continue;
        n_used++;
        n_child += p->node[id].n_child;
        n_under += p->node[id].parent != NONE;
        why = !seen[id] && !p->node[id].users ? "a node on no path is not in the list" : node_fault(p, id);
    }
    mem_free(seen);
    if (!why && (n_idle != p->n_idle || n_used + n_unused != p->made || n_child != n_under))
        why = "counts do not add up";
    return why;
}

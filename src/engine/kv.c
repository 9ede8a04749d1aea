/* Blocks of a sequence: as many as its positions need, none that its windows have left behind; and what the prefix
 * cache lends it and learns from it. */
#include "engine/engine_impl.h"

#define MAX_WINDOW_NODES 65536

static const plan_kv_group *group(const engine *g, int i) { return &g->m->text.group[i]; }

/* First position that tokens from n_kv on can still see in group i. */
static uint32_t first_visible(const engine *g, int i, uint32_t n_kv)
{
    uint32_t w = group(g, i)->kind == KVG_WINDOW ? group(g, i)->window : 0;
    return w && n_kv + 1 > w ? n_kv + 1 - w : 0;
}

static void drop(engine *g, int i, int32_t id)
{
    blocks_drop(&g->blk[i], id);
    if (g->prefix)
        prefix_dropped(g->prefix, i, id);
}

/* A free block: one that nobody holds, else the cache's least recently used. -1: there is none. */
static int32_t take(engine *g, int i)
{
    int32_t id = blocks_take(&g->blk[i]);
    if (id < 0 && g->prefix && prefix_evict(g->prefix, i))
        id = blocks_take(&g->blk[i]);
    return id;
}

/* Blocks that somebody needs: the cache's own are as good as free. */
static void publish(engine *g)
{
    int64_t used = 0, cached = 0;
    for (int i = 0; i < g->m->text.n_group; i++) {
        int32_t idle = g->prefix ? prefix_idle(g->prefix, i) : 0;
        used += g->blk[i].n_total - g->blk[i].n_free - idle;
        cached += idle;
    }
    atomic_store(&g->blocks_used, used);
    atomic_store(&g->blocks_cached, cached);
}

static void drop_head(engine *g, seq *s, int i)
{
    /* The cache wants blocks of steps that have landed: those of open ones stay until then. */
    int32_t keep_from = (int32_t)(first_visible(g, i, g->prefix ? s->n_landed : s->n_kv) / (uint32_t)g->block_size);
    int32_t n = keep_from - s->base[i];
    if (n <= 0)
        return;
    if (n > s->table_len[i])
        n = s->table_len[i];
    for (int32_t j = 0; j < n; j++)
        drop(g, i, s->table[i][j]);
    for (int32_t j = n; j < s->table_len[i]; j++)
        s->table[i][j - n] = s->table[i][j];
    s->table_len[i] -= n;
    s->base[i] += n;
}

/* Makes the backend's memory reach the highest block handed out. */
static bool grow(engine *g, int i)
{
    if (g->blk[i].high <= g->grown[i])
        return true;
    int64_t want = g->blk[i].high + (g->blk[i].high >> 3) + 16; /* a little ahead, so steps seldom pay for it */
    if (want > g->blk[i].n_total)
        want = g->blk[i].n_total;
    if (g->api->kv_grow(g->kv, i, want, NULL) != IMP_OK)
        return false;
    g->grown[i] = want;
    return true;
}

bool kv_reserve(engine *g, seq *s, uint32_t n_kv)
{
    int32_t old_len[PLAN_MAX_GROUPS];
    int n_group = g->m->text.n_group;
    bool ok = true;
    for (int i = 0; i < n_group; i++)
        drop_head(g, s, i);
    for (int i = 0; i < n_group; i++)
        old_len[i] = s->table_len[i];
    for (int i = 0; i < n_group && ok; i++) {
        int32_t need = (int32_t)((n_kv + (uint32_t)g->block_size - 1) / (uint32_t)g->block_size) - s->base[i];
        while (ok && s->table_len[i] < need) {
            int32_t id = take(g, i);
            if (id < 0)
                ok = false;
            else
                s->table[i][s->table_len[i]++] = id;
        }
        ok = ok && grow(g, i);
    }
    for (int i = 0; i < n_group && !ok; i++) /* all or nothing */
        while (s->table_len[i] > old_len[i])
            blocks_drop(&g->blk[i], s->table[i][--s->table_len[i]]);
    publish(g);
    return ok;
}

void kv_release(engine *g, seq *s)
{
    for (int i = 0; i < g->m->text.n_group; i++) {
        for (int32_t j = 0; j < s->table_len[i]; j++)
            drop(g, i, s->table[i][j]);
        s->table_len[i] = s->base[i] = 0;
    }
    if (g->prefix)
        prefix_leave(g->prefix, &s->at);
    publish(g);
    s->n_kv = s->n_landed = 0;
    s->state_ready = false;
}

/* How many blocks of s may come from the cache: all before the first position whose row it wants. */
static uint32_t reusable(const engine *g, const seq *s)
{
    const imp_request *r = &s->req->r;
    uint32_t end = s->n_said - 1, row = r->rows_from > s->n_row ? r->rows_from : s->n_row;
    if ((r->echo_logits || r->prompt_logprobs) && row < end)
        end = row;
    return end / (uint32_t)g->block_size;
}

bool kv_twin_ahead(const engine *g, const seq *s)
{
    uint32_t n = s->choice && s->n_said == s->n_prompt ? reusable(g, s) * (uint32_t)g->block_size : 0;
    for (const seq *o = g->running.head; o && n; o = o->next)
        if (o->req == s->req && o->choice < s->choice && o->n_landed < n && !o->at.stuck)
            return true;
    return false;
}

void kv_reuse(engine *g, seq *s)
{
    uint32_t n = prefix_take(g->prefix, s->req->r.salt, s->tok, reusable(g, s), &s->at, s->table, s->table_len,
                             s->base);
    s->n_kv = s->n_landed = n * (uint32_t)g->block_size;
    if (!s->looked_up) {
        s->n_cached = s->n_kv;
        atomic_fetch_add(&g->n_query_tok, s->n_prompt);
        atomic_fetch_add(&g->n_cached_tok, s->n_cached);
    }
    s->looked_up = true;
    publish(g);
}

void kv_landed(engine *g, seq *s, uint32_t end)
{
    uint32_t bs = (uint32_t)g->block_size;
    s->n_landed = end;
    if (!g->prefix)
        return;
    if (!g->cache_answers && end > s->n_prompt)
        end = s->n_prompt;
    while (!s->at.stuck && (s->at.depth + 1) * bs <= end) {
        int32_t *entry[PLAN_MAX_GROUPS], j = (int32_t)s->at.depth;
        for (int i = 0; i < g->m->text.n_group; i++)
            entry[i] = j < s->base[i] ? NULL : &s->table[i][j - s->base[i]];
        prefix_add(g->prefix, &s->at, s->req->r.salt, s->tok + s->at.depth * bs, entry);
    }
}

imp_status kv_cache_open(engine *g, const imp_engine_params *p, imp_err *e)
{
    const plan *pl = &g->m->text;
    if (!p->prefix_cache || pl->n_state || !pl->n_group) /* a recurrent state is not in any block */
        return IMP_OK;
    /* As many nodes as there can be blocks of tokens. Where all groups have windows, blocks go and their tokens
     * stay. */
    int64_t n = (int64_t)g->n_seq * (g->n_ctx / (uint32_t)g->block_size + 1);
    n = n < MAX_WINDOW_NODES ? n : MAX_WINDOW_NODES;
    bool full = false;
    for (int i = 0; i < pl->n_group; i++)
        if (!(pl->group[i].kind == KVG_WINDOW && pl->group[i].window) && (!full || g->blk[i].n_total < n)) {
            n = g->blk[i].n_total;
            full = true;
        }
    g->cache_answers = g->api->one_class || p->deterministic;
    return prefix_new(g->blk, pl->group, pl->n_group, g->block_size, (int32_t)n, &g->prefix, e);
}

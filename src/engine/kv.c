/* Blocks of a sequence: as many as its positions need, none that its windows have left behind. */
#include "engine/engine_impl.h"

static const plan_kv_group *group(const engine *g, int i) { return &g->m->text.group[i]; }

/* First position that tokens from n_kv on can still see in group i. */
static uint32_t first_visible(const engine *g, int i, uint32_t n_kv)
{
    uint32_t w = group(g, i)->kind == KVG_WINDOW ? group(g, i)->window : 0;
    return w && n_kv + 1 > w ? n_kv + 1 - w : 0;
}

static void drop_head(engine *g, seq *s, int i)
{
    int32_t keep_from = (int32_t)(first_visible(g, i, s->n_kv) / (uint32_t)g->block_size);
    int32_t n = keep_from - s->base[i];
    if (n <= 0)
        return;
    if (n > s->table_len[i])
        n = s->table_len[i];
    for (int32_t j = 0; j < n; j++)
        blocks_drop(&g->blk[i], s->table[i][j]);
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
            int32_t id = blocks_take(&g->blk[i]);
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
    int64_t used = 0;
    for (int i = 0; i < n_group; i++)
        used += g->blk[i].n_total - g->blk[i].n_free;
    atomic_store(&g->blocks_used, used);
    return ok;
}

void kv_release(engine *g, seq *s)
{
    for (int i = 0; i < g->m->text.n_group; i++) {
        for (int32_t j = 0; j < s->table_len[i]; j++)
            blocks_drop(&g->blk[i], s->table[i][j]);
        s->table_len[i] = s->base[i] = 0;
    }
    s->n_kv = 0;
    s->state_ready = false;
}

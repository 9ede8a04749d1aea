/* The machine's store: interned frames, blobs and sets; remembered steps. */
#include "constrain/machine.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define CONFIG_MAX 4096 /* stacks in one set: an ambiguous grammar must not take the process with it */
#define MACHINE_MAX ((size_t)256 << 20)

static bool reserve(machine *m, void *pp, size_t *cap, size_t need, size_t size)
{
    void *old;
    if (need <= *cap)
        return true;
    size_t c = *cap ? *cap : 64;
    while (c < need)
        c *= 2;
    if (m->bytes + (c - *cap) * size > MACHINE_MAX) {
        m->full = true;
        return false;
    }
    memcpy(&old, pp, sizeof old); /* pp is the address of some pointer type: no aliasing through void ** */
    void *q = mem_realloc(old, c * size);
    if (!q) {
        m->oom = true;
        return false;
    }
    m->bytes += (c - *cap) * size;
    memcpy(pp, &q, sizeof q);
    *cap = c;
    return true;
}

static bool table_grow(machine *m, table *t, uint64_t (*hash)(machine *, uint32_t))
{
    if (t->n * 2 < t->cap)
        return true;
    size_t cap = t->cap ? t->cap * 2 : 256;
    uint32_t *s = mem_calloc(cap, sizeof *s);
    if (!s) {
        m->oom = true;
        return false;
    }
    for (size_t i = 0; i < t->cap; i++)
        if (t->slot[i]) {
            size_t j = hash(m, t->slot[i]) & (cap - 1);
            while (s[j])
                j = (j + 1) & (cap - 1);
            s[j] = t->slot[i];
        }
    m->bytes += (cap - t->cap) * sizeof *s;
    mem_free(t->slot);
    t->slot = s;
    t->cap = cap;
    return true;
}

static uint64_t frame_hash(const frame *f)
{
    uint64_t w[4];
    memcpy(w, f, sizeof w);
    uint64_t h = w[0] * 0x9E3779B97F4A7C15ull ^ w[1] * 0xC2B2AE3D27D4EB4Full ^ w[2] * 0x165667B19E3779F9ull ^
                 w[3] * 0xD6E8FEB86659FD93ull;
    return hash64(h ^ h >> 29);
}
_Static_assert(sizeof(frame) == 32, "frame_hash reads four words");

static uint64_t frame_hash_id(machine *m, uint32_t id) { return frame_hash(&m->fr[id]); }
static uint64_t blob_hash_id(machine *m, uint32_t id)
{
    return hash_bytes(m->blob + m->blob_off[id], m->blob_off[id + 1] - m->blob_off[id]);
}

uint32_t machine_frame(machine *m, const frame *f)
{
    if (!table_grow(m, &m->fr_tab, frame_hash_id))
        return 0;
    size_t mask = m->fr_tab.cap - 1, j = frame_hash(f) & mask;
    for (; m->fr_tab.slot[j]; j = (j + 1) & mask)
        if (!memcmp(&m->fr[m->fr_tab.slot[j]], f, sizeof *f))
            return m->fr_tab.slot[j];
    if (!reserve(m, &m->fr, &m->cap_fr, m->n_fr + 1, sizeof *m->fr))
        return 0;
    m->fr[m->n_fr] = *f;
    m->fr_tab.slot[j] = (uint32_t)m->n_fr;
    m->fr_tab.n++;
    return (uint32_t)m->n_fr++;
}

uint32_t machine_blob(machine *m, const void *p, size_t n)
{
    if (!n || !table_grow(m, &m->blob_tab, blob_hash_id))
        return 0;
    size_t mask = m->blob_tab.cap - 1, j = hash_bytes(p, n) & mask;
    for (; m->blob_tab.slot[j]; j = (j + 1) & mask) {
        uint32_t id = m->blob_tab.slot[j];
        if (m->blob_off[id + 1] - m->blob_off[id] == n && !memcmp(m->blob + m->blob_off[id], p, n))
            return id;
    }
    size_t pad = (n + 3) & ~(size_t)3; /* lists of words stay aligned: every blob is a multiple of four bytes */
    if (pad != n || m->n_blob + n > 0xFFFFFFF0u) {
        m->full = true;
        return 0;
    }
    /* p may point into the blob memory, which may move */
    bool inside = (const uint8_t *)p >= m->blob && m->blob && (const uint8_t *)p < m->blob + m->n_blob;
    size_t off = inside ? (size_t)((const uint8_t *)p - m->blob) : 0;
    if (!reserve(m, &m->blob, &m->cap_blob, m->n_blob + n, 1) ||
        !reserve(m, &m->blob_off, &m->cap_blob_id, m->n_blob_id + 2, sizeof *m->blob_off))
        return 0;
    memcpy(m->blob + m->n_blob, inside ? m->blob + off : p, n);
    m->n_blob += n;
    m->blob_off[m->n_blob_id + 1] = (uint32_t)m->n_blob;
    m->blob_tab.slot[j] = (uint32_t)m->n_blob_id;
    m->blob_tab.n++;
    return (uint32_t)m->n_blob_id++;
}

const void *machine_blob_get(const machine *m, uint32_t id, size_t *n)
{
    *n = id ? m->blob_off[id + 1] - m->blob_off[id] : 0;
    return id ? m->blob + m->blob_off[id] : (const uint8_t *)m->fr; /* not NULL, and nothing to read */
}

static int by_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

uint32_t machine_set(machine *m, uint32_t *ids, size_t n)
{
    if (n == 2 && ids[0] > ids[1]) {
        uint32_t t = ids[0];
        ids[0] = ids[1];
        ids[1] = t;
    } else if (n > 2) {
        qsort(ids, n, sizeof *ids, by_u32);
    }
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (!k || ids[k - 1] != ids[i])
            ids[k++] = ids[i];
    return machine_blob(m, ids, k * sizeof *ids);
}

bool machine_init(machine *m, const constrain_prog *p)
{
    memset(m, 0, sizeof *m);
    m->p = p;
    m->n_fr = 1; /* 0 is no frame */
    m->n_blob_id = 1;
    if (!reserve(m, &m->fr, &m->cap_fr, 64, sizeof *m->fr) ||
        !reserve(m, &m->blob_off, &m->cap_blob_id, 64, sizeof *m->blob_off))
        return false;
    memset(m->fr, 0, sizeof *m->fr);
    m->blob_off[0] = m->blob_off[1] = 0;
    return true;
}

void machine_free(machine *m)
{
    for (size_t i = 0; i < m->cap_mask; i++)
        for (mask_row *r = m->mask[i], *next; r; r = next) {
            next = r->next;
            mem_free(r);
        }
    mem_free(m->mask);
    mem_free(m->alike);
    mem_free(m->fr);
    mem_free(m->fr_tab.slot);
    mem_free(m->blob);
    mem_free(m->blob_off);
    mem_free(m->blob_tab.slot);
    mem_free(m->trans);
    mem_free(m->visit);
    mem_free(m->out);
    mem_free(m->scratch);
    memset(m, 0, sizeof *m);
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */
void machine_add(machine *m, uint32_t id)
{
    if (!id)
        return;
    if (m->n_out >= CONFIG_MAX) {
        m->full = true;
        return;
    }
    if (reserve(m, &m->out, &m->cap_out, m->n_out + 1, sizeof *m->out))
        m->out[m->n_out++] = id;
}

static trans_row *trans_at(machine *m, uint64_t key)
{
    size_t j = hash64(key) & (m->cap_trans - 1);
    while (m->trans[j].key != UINT64_MAX && m->trans[j].key != key)
        j = (j + 1) & (m->cap_trans - 1);
    return &m->trans[j];
}

static bool trans_grow(machine *m)
{
    if (m->n_trans * 3 < m->cap_trans * 2)
        return true;
    size_t cap = m->cap_trans ? m->cap_trans * 2 : 1024;
    if (m->bytes + cap * sizeof(trans_row) > MACHINE_MAX) {
        m->full = true;
        return false;
    }
    trans_row *old = m->trans, *t = mem_alloc(cap * sizeof *t);
    size_t n_old = m->cap_trans;
    if (!t) {
        m->oom = true;
        return false;
    }
    for (size_t i = 0; i < cap; i++)
        t[i].key = UINT64_MAX;
    m->trans = t;
    m->bytes += (cap - m->cap_trans) * sizeof *t;
    m->cap_trans = cap;
    for (size_t i = 0; i < n_old; i++)
        if (old[i].key != UINT64_MAX)
            *trans_at(m, old[i].key) = old[i];
    mem_free(old);
    return true;
}

uint32_t machine_step(machine *m, uint32_t set, unsigned char b)
{
    uint64_t key = (uint64_t)set << 8 | b;
    if (!trans_grow(m))
        return 0;
    trans_row *r = trans_at(m, key);
    if (r->key == key)
        return r->next;
    m->n_out = 0;
    m->used_text = false;
    m->stamp++;
    size_t n;
    machine_list(m, set, &n);
    for (size_t i = 0; i < n; i++) {
        const uint32_t *ids = machine_list(m, set, &n); /* blobs may move while stepping */
        step_frame(m, ids[i], b);
    }
    if (m->n_out > 1 && m->p->json && !m->oom && !m->full)
        machine_merge(m);
    uint32_t next = m->n_out && !m->oom && !m->full ? machine_set(m, m->out, m->n_out) : 0;
    if (m->oom || m->full)
        return 0;
    if (!m->used_text) {
        r = trans_at(m, key);
        *r = (trans_row){key, next};
        m->n_trans++;
    }
    return next;
}

uint32_t machine_below(machine *m, uint32_t parent)
{
    return m->fr[parent].kind == F_ANY ? m->fr[parent].node : machine_set(m, &parent, 1);
}

uint32_t machine_after(machine *m, uint32_t parent)
{
    m->n_out = 0;
    value_close(m, parent, '"');
    if (m->n_out > 1)
        machine_merge(m);
    return m->n_out && !m->oom && !m->full ? machine_set(m, m->out, m->n_out) : 0;
}

static uint32_t cont(machine *m, uint32_t sym, uint32_t parent)
{
    if (m->p->gsym[sym].kind == GS_END)
        return parent;
    frame f = {.kind = F_SEQ, .node = sym, .parent = parent};
    return machine_frame(m, &f);
}

static void seq_step(machine *m, uint32_t id, unsigned char b);

/* Guards the moves without input: each frame once a step. */
static bool visited(machine *m, uint32_t id)
{
    size_t had = m->cap_visit;
    if (!reserve(m, &m->visit, &m->cap_visit, (size_t)id + 1, sizeof *m->visit))
        return true;
    if (m->cap_visit > had)
        memset(m->visit + had, 0, (m->cap_visit - had) * sizeof *m->visit);
    if (m->visit[id] == m->stamp)
        return true;
    m->visit[id] = m->stamp;
    return false;
}

static void rule_step(machine *m, uint32_t rule, uint32_t parent, unsigned char b)
{
    const grule *r = &m->p->rule[rule];
    for (uint32_t i = 0; i < r->n; i++) {
        uint32_t id = cont(m, r->prod[i], parent);
        if (id)
            step_frame(m, id, b);
    }
}

static void raw_start(machine *m, uint32_t raw, uint32_t parent, unsigned char b)
{
    const cdfa *d = m->p->raw[raw];
    frame f = {.kind = F_RAW, .node = raw, .q = d->start, .parent = parent};
    uint32_t next, cp;
    switch (codec_step(CODEC_UTF8, 0, b, &next, &cp)) {
    case CODEC_CP:
        f.q = dfa_step(d, f.q, cp);
        if (f.q != DEAD)
            machine_add(m, machine_frame(m, &f));
        break;
    case CODEC_PART: {
        cprange r[CODEC_RANGES];
        unsigned n = codec_ranges(CODEC_UTF8, next, r);
        bool live = false;
        for (unsigned i = 0; i < n && !live; i++)
            live = dfa_live_range(d, f.q, r[i].lo, r[i].hi);
        f.x = next;
        if (live)
            machine_add(m, machine_frame(m, &f));
        break;
    }
    default: break;
    }
    if (d->label[d->start])
        step_frame(m, parent, b);
}

static void seq_step(machine *m, uint32_t id, unsigned char b)
{
    frame f = m->fr[id];
    if (visited(m, id))
        return;
    if (f.kind == F_REP) {
        const grep_ *r = &m->p->rep[f.node];
        if (r->max == INF || f.cnt < r->max) {
            frame g = f;
            if (r->max != INF || g.cnt < r->min)
                g.cnt++;
            uint32_t up = machine_frame(m, &g);
            if (up)
                rule_step(m, r->rule, up, b);
        }
        if (f.cnt >= r->min)
            step_frame(m, f.parent, b);
        return;
    }
    const gsym *s = &m->p->gsym[f.node];
    uint32_t up = cont(m, f.node + 1, f.parent);
    if (!up)
        return;
    if (s->kind == GS_LEX) {
        raw_start(m, s->idx, up, b);
    } else if (s->kind == GS_RULE) {
        rule_step(m, s->idx, up, b);
    } else if (s->kind == GS_REP) {
        frame g = {.kind = F_REP, .node = s->idx, .parent = up};
        uint32_t r = machine_frame(m, &g);
        if (r)
            step_frame(m, r, b);
    }
}

void step_frame(machine *m, uint32_t id, unsigned char b)
{
    if (m->oom || m->full)
        return;
    frame_kind k = (frame_kind)m->fr[id].kind;
    if (k == F_SEQ || k == F_REP)
        seq_step(m, id, b);
    else if (k != F_END)
        json_step(m, id, b);
}

uint32_t machine_start(machine *m)
{
    frame end = {.kind = F_END};
    uint32_t e = machine_frame(m, &end), ids[256];
    size_t n = 0;
    if (!e)
        return 0;
    if (m->p->json) {
        frame f = {.kind = F_VAL, .node = m->p->root, .parent = e, .phase = V_TIGHT};
        ids[n++] = machine_frame(m, &f);
    } else {
        const grule *r = &m->p->rule[m->p->root];
        if (r->n > 256) {
            m->full = true;
            return 0;
        }
        for (uint32_t i = 0; i < r->n; i++)
            ids[n++] = cont(m, r->prod[i], e);
    }
    return m->oom || m->full ? 0 : machine_set(m, ids, n);
}

/* ---- completeness ----------------------------------------------------------------------------------------------- */
static bool rule_nullable(const constrain_prog *p, uint32_t rule) { return p->rule[rule].nullable; }

static bool ends(const machine *m, uint32_t id)
{
    for (;;) {
        const frame *f = &m->fr[id];
        switch ((frame_kind)f->kind) {
        case F_END: return true;
        case F_RAW:
            if (f->x || !m->p->raw[f->node]->label[f->q])
                return false;
            if (f->y && m->fr[f->parent].kind == F_ARR)
                return false;
            break;
        case F_SEQ:
            for (const gsym *s = &m->p->gsym[f->node]; s->kind != GS_END; s++) {
                const constrain_prog *p = m->p;
                bool empty = s->kind == GS_LEX ? p->raw[s->idx]->label[p->raw[s->idx]->start] != 0
                             : s->kind == GS_RULE ? rule_nullable(p, s->idx)
                                                  : p->rep[s->idx].min == 0 || rule_nullable(p, p->rep[s->idx].rule);
                if (!empty)
                    return false;
            }
            break;
        case F_REP:
            if (f->cnt < m->p->rep[f->node].min && !rule_nullable(m->p, m->p->rep[f->node].rule))
                return false;
            break;
        default: return false;
        }
        id = f->parent;
    }
}

bool machine_complete(const machine *m, uint32_t set)
{
    size_t n;
    const uint32_t *ids = machine_list(m, set, &n);
    for (size_t i = 0; i < n; i++)
        if (ends(m, ids[i]))
            return true;
    return false;
}

/* ---- first bytes ------------------------------------------------------------------------------------------------ */
static void first_add(uint32_t *map, const char *s)
{
    for (; *s; s++)
        map[(unsigned char)*s / 32] |= 1u << (unsigned char)*s % 32;
}

static void first_raw(const cdfa *d, uint32_t q, uint32_t *map)
{
    const uint32_t *row = d->first + (size_t)q * 5;
    for (unsigned w = 0; w < 4; w++)
        map[w] |= row[w];
    if (row[4])
        memset(map + 4, 0xFF, 16);
}

/* Inside a JSON string with automaton d in state q; NULL: any bytes. */
static void first_text(const cdfa *d, uint32_t q, uint32_t *map)
{
    if (!d) {
        memset(map, 0xFF, 32);
        return;
    }
    first_add(map, "\"\\");
    if (q != DEAD)
        first_raw(d, q, map);
}

static void first_key(const machine *m, const pobj *o, const frame *f, uint32_t *map)
{
    const frame *of = &m->fr[f->parent];
    bool others = o->extras && (!o->rank || key_others(m, o, of));
    if (f->x || (others && !o->kd)) {
        memset(map, 0xFF, 32);
        return;
    }
    first_add(map, "\"\\");
    if (others && f->q != DEAD)
        first_raw(o->kd, f->q, map);
    for (uint32_t i = f->y & 0xFFFF; i < f->y >> 16; i++) {
        if (key_misplaced(o, of, i))
            continue;
        uint32_t cp = f->cnt < o->name_len[i] ? o->name[i][f->cnt] : '"';
        if (cp < 128)
            map[cp / 32] |= 1u << cp % 32;
        else
            memset(map + 4, 0xFF, 16);
    }
}

void machine_first(const machine *m, uint32_t set, uint32_t map[8])
{
    size_t n;
    const uint32_t *ids = machine_list(m, set, &n);
    for (size_t i = 0; i < n; i++) {
        const frame *f = &m->fr[ids[i]];
        bool more = true;
        while (more) {
            more = false;
            switch ((frame_kind)f->kind) {
            case F_END: break;
            case F_ANY: first_add(map, " \t\r\n\",}:]"); break; /* objects and arrays behind a value */
            case F_OBJ: first_add(map, " \t\r\n\",}:"); break;
            case F_RAW:
                if (f->x) {
                    memset(map, 0xFF, 32);
                    break;
                }
                first_raw(m->p->raw[f->node], f->q, map);
                if (m->p->raw[f->node]->label[f->q]) {
                    f = &m->fr[f->parent];
                    more = true;
                }
                break;
            case F_VAL: {
                const pnode *v = &m->p->node[f->node];
                first_add(map, " \t\r\n");
                for (uint32_t k = 0; k < v->n; k++) {
                    if (v->alt[k].kind == ALT_RAW)
                        first_raw(m->p->raw[v->alt[k].idx], m->p->raw[v->alt[k].idx]->start, map);
                    else
                        first_add(map, v->alt[k].kind == ALT_STR ? "\"" : v->alt[k].kind == ALT_ARR ? "[" : "{");
                }
                break;
            }
            case F_ARR:
                if (f->phase == AR_AFTER)
                    first_add(map, " \t\r\n,]");
                else
                    first_add(map, " \t\r\n]\"[{-0123456789tfn");
                break;
            case F_STR:
                first_text(f->x ? NULL : m->p->str[f->node].d, f->q, map);
                break;
            case F_KEY:
                first_key(m, &m->p->obj[f->node], f, map);
                break;
            default: memset(map, 0xFF, 32); return;
            }
        }
    }
}

static void apart_cp(uint32_t *map, uint32_t cp)
{
    if (cp < 128)
        map[cp / 32] |= 1u << cp % 32;
    else
        memset(map + 4, 0xFF, 16);
}

/* What the values of `list` go on with. */
static void apart_list(const machine *m, uint32_t list, uint32_t depth, uint32_t *map)
{
    size_t n, len;
    const uint32_t *v = machine_list(m, list, &n);
    for (size_t i = 0; i < n; i++) {
        const uint32_t *w = v[i] == KEY_UNKNOWN ? NULL : machine_list(m, v[i], &len);
        if (!w)
            memset(map, 0xFF, 32);
        else if (len >= depth + 1)
            apart_cp(map, len > depth + 1 ? w[depth + 1] : '"');
    }
}

void machine_apart(const machine *m, uint32_t set, uint32_t base, uint32_t map[8])
{
    size_t n, n_base, k = 0;
    const uint32_t *ids = machine_list(m, set, &n), *other = machine_list(m, base, &n_base);
    memset(map, 0, 32);
    for (size_t i = 0; i < n; i++) {
        const frame *f = &m->fr[ids[i]];
        while (k < n_base && other[k] < ids[i])
            k++;
        if (k < n_base && other[k] == ids[i])
            continue;
        if ((f->kind != F_KEY && f->kind != F_STR) || f->x) {
            memset(map, 0xFF, 32);
            return;
        }
        apart_cp(map, '\\'); /* what is special may be escaped */
        if (f->kind == F_STR) {
            apart_list(m, f->y, f->z, map);
            continue;
        }
        const pobj *o = &m->p->obj[f->node];
        apart_list(m, f->z, f->cnt, map);
        for (uint32_t j = f->y & 0xFFFF; j < f->y >> 16; j++)
            apart_cp(map, o->name_len[j] > f->cnt ? o->name[j][f->cnt] : '"');
    }
}

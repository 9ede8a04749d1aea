/* Frames of JSON values: what each does with a byte. See machine.h for the fields. */
#include <string.h>

#include "base/mem.h"
#include "constrain/machine.h"

static bool is_ws(unsigned char b) { return b == ' ' || b == '\n' || b == '\r' || b == '\t'; }

/* ---- values ----------------------------------------------------------------------------------------------------- */
/* The parent once the value above it is complete; 0 when the value repeats an item of uniqueItems. */
static uint32_t value_done(machine *m, uint32_t parent, char closing)
{
    frame f = m->fr[parent];
    if (f.kind != F_ARR || !m->p->arr[f.node].unique)
        return parent;
    uint32_t id = text_item(m, closing);
    /* A whole array or object must be compared now; a string or number was compared while it was written. */
    bool unknown = id == KEY_UNKNOWN && (closing == '}' || closing == ']');
    m->deep_guessed = m->deep_guessed || (unknown && m->deep_trust);
    if (m->oom || (unknown && !m->deep_trust) || (!unknown && list_has(m, f.y, id)))
        return 0;
    f.y = list_add(m, f.y, id);
    return machine_frame(m, &f);
}

void value_close(machine *m, uint32_t parent, char closing)
{
    size_t n = 1;
    bool any = m->fr[parent].kind == F_ANY;
    if (any)
        machine_list(m, m->fr[parent].node, &n);
    for (size_t i = 0; i < n; i++) /* lists may move while frames are made */
        machine_add(m, value_done(m, any ? machine_list(m, m->fr[parent].node, &n)[i] : parent, closing));
}

static void add_frame(machine *m, const frame *f) { machine_add(m, machine_frame(m, f)); }

static bool raw_viable(const machine *m, const cdfa *d, uint32_t q, uint32_t used)
{
    (void)m;
    return q != DEAD && (!used || d->count[q] == INF || d->count[q] > list_len(m, used));
}

static void raw_feed(machine *m, frame f, unsigned char b)
{
    const cdfa *d = m->p->raw[f.node];
    uint32_t next, cp;
    uint32_t old_q = f.q, old_x = f.x, used = f.y, depth = f.z, parent = f.parent;
    codec_result r = codec_step(CODEC_UTF8, f.x, b, &next, &cp);
    if (r == CODEC_CP) {
        f.q = dfa_step(d, f.q, cp);
        f.x = 0;
        if (f.q != DEAD) {
            if (used) {
                f.y = list_narrow(m, used, 'r', depth, cp);
                f.z = f.y ? depth + 1 : 0;
            }
            if (raw_viable(m, d, f.q, f.y))
                add_frame(m, &f);
        }
    } else if (r == CODEC_PART) {
        cprange rg[CODEC_RANGES];
        unsigned n = codec_ranges(CODEC_UTF8, next, rg);
        for (unsigned i = 0; i < n; i++)
            if (dfa_live_range(d, f.q, rg[i].lo, rg[i].hi)) {
                f.x = next;
                add_frame(m, &f);
                break;
            }
    }
    /* the value may have ended before this byte */
    if (old_x || !d->label[old_q] || (used && list_ends(m, used, 'r', depth)) || m->fr[parent].kind == F_END)
        return;
    size_t n = 1;
    bool any = m->fr[parent].kind == F_ANY;
    if (any)
        machine_list(m, m->fr[parent].node, &n);
    for (size_t i = 0; i < n; i++) {
        uint32_t up = value_done(m, any ? machine_list(m, m->fr[parent].node, &n)[i] : parent, 0);
        if (up)
            step_frame(m, up, b);
    }
}

/* Is there a string that is not used up? */
static bool unique_start(const machine *m, const strlex *s, uint32_t used)
{
    size_t n, k = 0;
    if (!used || (s->d && s->d->count[s->d->start] == INF) || (!s->d && s->max))
        return true;
    const uint32_t *v = machine_list(m, used, &n);
    for (size_t i = 0; i < n; i++) {
        size_t len;
        k += v[i] == KEY_UNKNOWN || machine_list(m, v[i], &len)[0] == 's';
    }
    return (s->d ? s->d->count[s->d->start] : 1) > k;
}

static void value_start(machine *m, uint32_t node, uint32_t parent, unsigned char b)
{
    const pnode *v = &m->p->node[node];
    frame up = m->fr[parent];
    uint32_t used = up.kind == F_ARR && m->p->arr[up.node].unique ? up.y : 0;
    for (uint32_t i = 0; i < v->n; i++) {
        frame f = {.node = v->alt[i].idx, .parent = parent};
        switch (v->alt[i].kind) {
        case ALT_RAW:
            if (b == '"' || b == '{' || b == '[')
                break;
            f.kind = F_RAW;
            f.q = m->p->raw[f.node]->start;
            f.y = used;
            raw_feed(m, f, b);
            break;
        case ALT_STR:
            if (b != '"')
                break;
            f.kind = F_STR;
            f.q = m->p->str[f.node].d ? m->p->str[f.node].d->start : 0;
            f.y = used;
            if (unique_start(m, &m->p->str[f.node], used))
                add_frame(m, &f);
            break;
        case ALT_ARR:
            if (b != '[')
                break;
            f.kind = F_ARR;
            f.phase = AR_OPEN;
            add_frame(m, &f);
            break;
        case ALT_OBJ:
            if (b != '{')
                break;
            f.kind = F_OBJ;
            f.phase = O_OPEN;
            f.aux = (uint16_t)((1u << m->p->obj[f.node].n_ex) - 1);
            add_frame(m, &f);
            break;
        }
    }
}

static val_phase space_phase(const machine *m)
{
    return m->p->ws == CONSTRAIN_WS_FREE ? V_WS : m->p->ws == CONSTRAIN_WS_PYTHON ? V_SP : V_TIGHT;
}

static void val_step(machine *m, uint32_t id, unsigned char b)
{
    frame f = m->fr[id];
    if (f.phase != V_TIGHT && is_ws(b)) {
        if (f.phase == V_WS) {
            machine_add(m, id);
        } else if (b == ' ') {
            f.phase = V_TIGHT;
            add_frame(m, &f);
        }
        return;
    }
    value_start(m, f.node, f.parent, b);
}

/* ---- strings ---------------------------------------------------------------------------------------------------- */
static bool unique_room(const machine *m, const strlex *s, const frame *f)
{
    return !f->y || !s->d || s->d->count[f->q] == INF || s->d->count[f->q] > list_len(m, f->y);
}

static bool str_take(machine *m, const strlex *s, frame *f, uint32_t cp)
{
    if (s->d) {
        f->q = dfa_step(s->d, f->q, cp);
        if (f->q == DEAD)
            return false;
    }
    f->cnt = str_count(s, f->cnt);
    if (!str_viable(s, f->q, f->cnt))
        return false;
    if (f->y) {
        f->y = list_narrow(m, f->y, 's', f->z, cp);
        f->z = f->y ? f->z + 1 : 0;
    }
    return unique_room(m, s, f);
}

/* Could some code point of [lo, hi] be taken? One of each class is tried, and with uniqueItems as many as could be used
 * up. */
static bool str_range(machine *m, const strlex *s, const frame *f, uint32_t lo, uint32_t hi)
{
    size_t tries = 1 + list_len(m, f->y);
    for (uint32_t at = lo; at <= hi;) {
        uint32_t end = hi;
        if (s->d && at >= 128) {
            const cdfa *d = s->d;
            uint32_t i = 0;
            while (i + 1 < d->nr && d->rlo[i + 1] <= at)
                i++;
            if (i + 1 < d->nr && d->rlo[i + 1] - 1 < end)
                end = d->rlo[i + 1] - 1;
        } else if (s->d) {
            end = at;
        }
        for (size_t t = 0; t < tries && at + t <= end; t++) {
            frame g = *f;
            if (str_take(m, s, &g, at + (uint32_t)t))
                return true;
        }
        at = end + 1;
    }
    return false;
}

static void str_step(machine *m, uint32_t id, unsigned char b)
{
    frame f = m->fr[id];
    const strlex *s = &m->p->str[f.node];
    uint32_t next, cp;
    switch (codec_step(m->p->codec, f.x, b, &next, &cp)) {
    case CODEC_QUOTE:
        if (str_ends(s, f.q, f.cnt) && !(f.y && list_ends(m, f.y, 's', f.z)))
            value_close(m, f.parent, '"');
        break;
    case CODEC_CP:
        f.x = 0;
        if (str_take(m, s, &f, cp))
            add_frame(m, &f);
        break;
    case CODEC_PART: {
        cprange r[CODEC_RANGES];
        unsigned n = codec_ranges(m->p->codec, next, r);
        for (unsigned i = 0; i < n; i++)
            if (str_range(m, s, &f, r[i].lo, r[i].hi)) {
                if (f.y && !list_specials(m, f.y, f.z, r, n))
                    f.y = f.z = 0;
                f.x = next;
                add_frame(m, &f);
                break;
            }
        break;
    }
    default: break;
    }
}

/* ---- objects ---------------------------------------------------------------------------------------------------- */
static const uint32_t *used_bits(const machine *m, const pobj *o, const frame *f)
{
    static const uint32_t none[1] = {0};
    if (o->words <= 1)
        return &f->x;
    if (!f->x)
        return none; /* the caller treats the empty blob as all zero */
    size_t n;
    return machine_list(m, f->x, &n);
}

static bool name_used(const machine *m, const pobj *o, const frame *f, uint32_t i)
{
    if (o->rank)
        return o->rank[i] < f->x;
    if (o->words > 1 && !f->x)
        return false;
    return used_bits(m, o, f)[i / 32] >> i % 32 & 1;
}

static uint32_t required_left(const machine *m, const pobj *o, const frame *f)
{
    uint32_t n = o->n_required;
    if (o->rank)
        return o->place[f->x].left;
    if (o->words > 1 && !f->x)
        return n;
    const uint32_t *u = used_bits(m, o, f);
    for (uint32_t i = 0; i < o->words && n; i++)
        n -= (uint32_t)__builtin_popcount(u[i] & o->required[i]);
    return n;
}

static bool node_any(const pobj *o, const uint32_t *node)
{
    for (uint32_t s = 0; s < 1u << o->n_ex; s++)
        if (node[s] != DEAD)
            return true;
    return false;
}

/* Fewest keys beyond the required ones that fulfil the obligations `open`, using name `skip` for none of them; INF: no
 * way. A required name that is still to come can fulfil some for nothing. */
static uint32_t ex_cost(const machine *m, const pobj *o, const frame *f, uint32_t open, uint32_t skip)
{
    uint32_t sets = 1u << o->n_ex, cost[32], next[32];
    for (uint32_t t = 0; t < sets; t++)
        cost[t] = t ? INF : 0;
    for (uint32_t i = 0; i < o->n_names; i++) {
        const uint32_t *node = o->name_node + ((size_t)i << o->n_ex);
        uint32_t one = !(o->required[i / 32] >> i % 32 & 1);
        if (i == skip || name_used(m, o, f, i))
            continue;
        for (uint32_t t = 0; t < sets; t++)
            next[t] = one ? cost[t] : INF;
        for (uint32_t t = 0; t < sets; t++)
            for (uint32_t s = 0; s < sets && cost[t] != INF; s++)
                if (node[s] != DEAD && cost[t] + one < next[(t | s) & open])
                    next[(t | s) & open] = cost[t] + one;
        memcpy(cost, next, sizeof cost);
    }
    for (bool change = o->extras; change;) {
        change = false;
        for (uint32_t c = 0; c < o->n_cls; c++)
            for (uint32_t t = 0; t < sets; t++)
                for (uint32_t s = 1; s < sets && cost[t] != INF; s++)
                    if (o->cls[c].node[s] != DEAD && cost[t] + 1 < cost[(t | s) & open])
                        cost[(t | s) & open] = cost[t] + 1, change = true;
    }
    return cost[open];
}

/* Ordered keys: with `cnt` keys and the names from `place` on still to come, are there enough keys for
 * minProperties? */
static bool order_room(const machine *m, const pobj *o, const frame *f, uint32_t cnt, uint32_t place)
{
    uint64_t have = o->others == INF ? INF : (uint64_t)cnt + o->place[place].avail + o->others;
    return have == INF || have >= o->minp + list_len(m, f->y);
}

/* Which keys may come next in object f, so that what must come still has its place. */
typedef struct room {
    bool only;     /* required names, and what `cost` says */
    uint32_t cost; /* keys that open obligations need, when each place left is spoken for; else 0 */
    uint32_t cls;  /* classes of other keys (bits; all, when not only) */
} room;

static room room_of(const machine *m, const pobj *o, const frame *f)
{
    room r = {.cls = 0xFFFFFFFF};
    if (o->rank && (o->place[f->x].left || !order_room(m, o, f, f->cnt, o->n_names)))
        r.cls = 0;
    if (o->maxp == INF)
        return r;
    uint32_t left = required_left(m, o, f), places = o->maxp - f->cnt;
    uint32_t cost = f->aux ? ex_cost(m, o, f, f->aux, INF) : 0;
    r.only = cost == INF || places <= left + cost;
    if (!r.only)
        return r;
    r.cls = 0;
    r.cost = cost == INF ? 0 : cost;
    for (uint32_t c = 0; c < o->n_cls && c < 32 && r.cost; c++)
        for (uint32_t s = 1; s < 1u << o->n_ex; s++)
            if (o->cls[c].node[s] != DEAD && (s & f->aux) && ex_cost(m, o, f, f->aux & ~s, INF) < r.cost)
                r.cls |= 1u << c;
    return r;
}

bool key_others(const machine *m, const pobj *o, const frame *f)
{
    room r = room_of(m, o, f);
    return o->extras && r.cls && !r.only;
}

static bool name_usable(const machine *m, const pobj *o, const frame *f, uint32_t i, const room *r)
{
    const uint32_t *node = o->name_node + ((size_t)i << o->n_ex);
    if (name_used(m, o, f, i) || !node_any(o, node))
        return false;
    if (o->rank && (key_misplaced(o, f, i) || !order_room(m, o, f, f->cnt + 1, o->rank[i] + 1)))
        return false;
    if (!r->only || (o->required[i / 32] >> i % 32 & 1))
        return true;
    for (uint32_t s = 1; s < 1u << o->n_ex && r->cost; s++)
        if (node[s] != DEAD && (s & f->aux) && ex_cost(m, o, f, f->aux & ~s, i) < r->cost)
            return true;
    return false;
}

/* Other keys that can still be completed from state q of kd, when `used` of them and names [lo, hi) agree so far. */
static bool extras_left(const machine *m, const pobj *o, uint32_t q, uint32_t used, uint32_t lo, uint32_t hi,
                        uint32_t depth, const room *r)
{
    if (!o->extras || !r->cls)
        return false;
    if (!o->kd)
        return r->cls & 1;
    if (q == DEAD || (r->only && !(o->reach && (o->reach[q] & r->cls))))
        return false;
    if (o->kd->count[q] == INF)
        return true;
    size_t taken = list_len(m, used);
    for (uint32_t i = lo; i < hi; i++) {
        uint32_t t = q;
        for (uint32_t k = depth; k < o->name_len[i] && t != DEAD; k++)
            t = dfa_step(o->kd, t, o->name[i][k]);
        taken += t != DEAD && o->kd->label[t];
    }
    return o->kd->count[q] > taken;
}

static bool can_key(const machine *m, const pobj *o, const frame *f)
{
    if (o->maxp != INF && f->cnt >= o->maxp)
        return false;
    room r = room_of(m, o, f);
    for (uint32_t i = 0; i < o->n_names; i++)
        if (name_usable(m, o, f, i, &r))
            return true;
    return extras_left(m, o, o->kd ? o->kd->start : 0, f->y, 0, o->n_names, 0, &r);
}

/* The sets of obligations that one more key can make of those in reach (bit m: set m), given its node for each set. */
static uint64_t ex_reach(const uint32_t *node, uint32_t n_ex, uint32_t open, uint64_t reach)
{
    uint64_t out = reach;
    for (uint32_t s = 1; s < 1u << n_ex; s++)
        for (uint64_t r = node[s] != DEAD && (s & open) ? reach : 0; r; r &= r - 1)
            out |= 1ull << (((uint32_t)__builtin_ctzll(r) | s) & open);
    return out;
}

/* Can every open obligation still be fulfilled, each by a key of its own or one by several? */
static bool ex_viable(const machine *m, const pobj *o, const frame *f, uint32_t open)
{
    uint64_t reach = 1;
    for (uint32_t i = 0; i < o->n_names && !(reach >> open & 1); i++)
        if (!name_used(m, o, f, i))
            reach = ex_reach(o->name_node + ((size_t)i << o->n_ex), o->n_ex, open, reach);
    bool many = o->extras && (!o->kd || o->kd->count[o->kd->start] == INF);
    for (uint64_t before = 0; many && before != reach;) {
        before = reach;
        for (uint32_t c = 0; c < o->n_cls; c++)
            reach = ex_reach(o->cls[c].node, o->n_ex, open, reach);
    }
    return reach >> open & 1;
}

/* With the key that was just taken: can the object still become complete? */
static bool obj_viable(const machine *m, const pobj *o, const frame *f)
{
    if (o->maxp == INF || !o->n_ex)
        return ex_viable(m, o, f, f->aux);
    uint32_t cost = ex_cost(m, o, f, f->aux, INF);
    return cost != INF && (uint64_t)required_left(m, o, f) + cost <= o->maxp - f->cnt;
}

/* The used names of object f with `name` among them. */
static uint32_t used_with(machine *m, const pobj *o, const frame *f, uint32_t name)
{
    if (o->words <= 1)
        return f->x | 1u << name;
    uint32_t stack[64], *w = o->words > 64 ? mem_calloc(o->words, sizeof *w) : stack;
    if (!w) {
        m->oom = true;
        return 0;
    }
    memset(w, 0, o->words * sizeof *w);
    if (f->x)
        memcpy(w, used_bits(m, o, f), o->words * sizeof *w);
    w[name / 32] |= 1u << name % 32;
    uint32_t id = machine_blob(m, w, o->words * sizeof *w);
    if (w != stack)
        mem_free(w);
    return id;
}

/* A key is complete: the object waits for its colon. */
static void key_done(machine *m, const pobj *o, const frame *of, uint32_t name, uint32_t extra, const uint32_t *node)
{
    for (uint32_t set = 0; set < 1u << o->n_ex; set++) {
        if (node[set] == DEAD || (set & ~(uint32_t)of->aux))
            continue;
        frame f = *of;
        f.phase = O_COLON;
        f.q = node[set];
        f.aux = (uint16_t)(of->aux & ~set);
        if (name == DEAD)
            f.y = list_add(m, of->y, extra);
        if (o->rank) /* what was left out cannot come any more */
            f.x = name == DEAD ? o->n_names : o->rank[name] + 1;
        else if (name != DEAD)
            f.x = used_with(m, o, of, name);
        if (o->maxp != INF || f.cnt < o->minp)
            f.cnt++;
        if (!m->oom && obj_viable(m, o, &f))
            add_frame(m, &f);
    }
}

/* First name of [lo, hi) whose code point at depth is >= cp (names that end at depth come first). */
static uint32_t name_bound(const pobj *o, uint32_t lo, uint32_t hi, uint32_t depth, uint64_t cp)
{
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        int64_t at = o->name_len[mid] > depth ? (int64_t)o->name[mid][depth] : -1;
        if (at < (int64_t)cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool key_take(machine *m, const pobj *o, const frame *of, frame *f, uint32_t cp, const room *r)
{
    uint32_t lo = f->y & 0xFFFF, hi = f->y >> 16;
    if (lo < hi) {
        uint32_t a = name_bound(o, lo, hi, f->cnt, cp);
        hi = name_bound(o, a, hi, f->cnt, (uint64_t)cp + 1);
        lo = a;
    }
    if (f->z)
        f->z = list_narrow(m, f->z, 's', f->cnt, cp);
    if (o->kd && f->q != DEAD)
        f->q = dfa_step(o->kd, f->q, cp);
    if (lo >= hi)
        lo = hi = 0;
    f->y = lo | hi << 16;
    f->cnt++;
    if (!hi && !f->z)
        f->cnt = 0;
    f->x = 0;
    for (uint32_t i = lo; i < hi; i++)
        if (name_usable(m, o, of, i, r))
            return true;
    return extras_left(m, o, f->q, f->z, lo, hi, f->cnt, r);
}

/* Could some code point of [lo, hi] be taken? Those that names or used keys go on with are special; of the others, one
 * of each class of kd speaks for all. */
static bool key_range(machine *m, const pobj *o, const frame *of, const frame *f, cprange r, const room *rm)
{
    uint32_t lo = f->y & 0xFFFF, hi = f->y >> 16;
    for (uint32_t i = lo; i < hi; i++) {
        uint32_t cp = o->name_len[i] > f->cnt ? o->name[i][f->cnt] : INF;
        frame g = *f;
        if (cp >= r.lo && cp <= r.hi && key_take(m, o, of, &g, cp, rm))
            return true;
    }
    if (!rm->cls || !o->extras)
        return false;
    size_t tries = 1 + (hi - lo) + list_len(m, f->z);
    for (uint32_t at = r.lo; at <= r.hi;) {
        uint32_t end = r.hi;
        if (o->kd && at < 128) {
            end = at;
        } else if (o->kd) {
            uint32_t i = 0;
            while (i + 1 < o->kd->nr && o->kd->rlo[i + 1] <= at)
                i++;
            if (i + 1 < o->kd->nr && o->kd->rlo[i + 1] - 1 < end)
                end = o->kd->rlo[i + 1] - 1;
        }
        for (size_t t = 0; t < tries && at + t <= end; t++) {
            frame g = *f;
            if (key_take(m, o, of, &g, at + (uint32_t)t, rm))
                return true;
        }
        at = end + 1;
    }
    return false;
}

/* Does a name or a used key go on with a code point of these ranges? */
static bool key_specials(const machine *m, const pobj *o, const frame *f, const cprange *r, unsigned n)
{
    uint32_t lo = f->y & 0xFFFF, hi = f->y >> 16;
    for (unsigned k = 0; k < n; k++)
        for (uint32_t i = lo; i < hi; i++)
            if (o->name_len[i] > f->cnt && o->name[i][f->cnt] >= r[k].lo && o->name[i][f->cnt] <= r[k].hi)
                return true;
    return list_specials(m, f->z, f->cnt, r, n);
}

static void key_step(machine *m, uint32_t id, unsigned char b)
{
    frame f = m->fr[id], of = m->fr[f.parent];
    const pobj *o = &m->p->obj[f.node];
    uint32_t next, cp;
    codec_result r = codec_step(m->p->codec, f.x, b, &next, &cp);
    if (r == CODEC_DEAD)
        return;
    room rm = room_of(m, o, &of);
    uint32_t lo = f.y & 0xFFFF, hi = f.y >> 16;
    if (r == CODEC_QUOTE) {
        if (lo < hi && o->name_len[lo] == f.cnt) {
            if (name_usable(m, o, &of, lo, &rm))
                key_done(m, o, &of, lo, 0, o->name_node + ((size_t)lo << o->n_ex));
            return;
        }
        if (!rm.cls || !o->extras || (o->kd && (f.q == DEAD || !o->kd->label[f.q])) ||
            (f.z && list_ends(m, f.z, 's', f.cnt)))
            return;
        uint32_t label = o->kd ? o->kd->label[f.q] : 1;
        for (uint32_t c = 0; c < o->n_cls; c++)
            if (o->cls[c].label == label && (!rm.only || (c < 32 && rm.cls >> c & 1))) {
                key_done(m, o, &of, DEAD, text_key(m), o->cls[c].node);
                break;
            }
        return;
    }
    if (r == CODEC_CP) {
        if (key_take(m, o, &of, &f, cp, &rm))
            add_frame(m, &f);
        return;
    }
    cprange rg[CODEC_RANGES];
    unsigned n = codec_ranges(m->p->codec, next, rg);
    for (unsigned i = 0; i < n; i++)
        if (key_range(m, o, &of, &f, rg[i], &rm)) {
            if (!o->kd && !key_specials(m, o, &f, rg, n))
                f.y = f.z = f.cnt = 0; /* whatever it becomes, it leaves the names: the state that most keys share */
            f.x = next;
            add_frame(m, &f);
            return;
        }
}

static void obj_step(machine *m, uint32_t id, unsigned char b)
{
    frame f = m->fr[id];
    const pobj *o = &m->p->obj[f.node];
    if (is_ws(b)) {
        if (m->p->ws == CONSTRAIN_WS_FREE) {
            machine_add(m, id);
        } else if (f.phase == O_COMMA_SP && b == ' ') {
            f.phase = O_COMMA;
            add_frame(m, &f);
        }
        return;
    }
    switch (f.phase) {
    case O_OPEN:
    case O_AFTER:
        if (b == '}' && !f.aux && f.cnt >= o->minp && !required_left(m, o, &f))
            value_close(m, f.parent, '}');
        if (f.phase == O_AFTER) {
            if (b == ',' && can_key(m, o, &f)) {
                f.phase = m->p->ws == CONSTRAIN_WS_PYTHON ? O_COMMA_SP : O_COMMA;
                add_frame(m, &f);
            }
            break;
        } /* fallthrough */
    case O_COMMA:
    case O_COMMA_SP:
        if (b == '"' && can_key(m, o, &f)) {
            frame k = {.kind = F_KEY, .node = f.node, .q = o->kd ? o->kd->start : 0, .y = o->n_names << 16, .z = f.y};
            f.phase = O_COMMA;
            k.parent = machine_frame(m, &f);
            if (k.parent)
                add_frame(m, &k);
        }
        break;
    case O_COLON:
        if (b == ':') {
            frame v = {.kind = F_VAL, .phase = (uint8_t)space_phase(m), .node = f.q};
            f.phase = O_AFTER;
            f.q = 0;
            v.parent = machine_frame(m, &f);
            if (v.parent)
                add_frame(m, &v);
        }
        break;
    default: break;
    }
}

/* ---- arrays ----------------------------------------------------------------------------------------------------- */
static uint32_t con_next(const parr *a, uint32_t state, uint32_t var, bool *dead)
{
    uint32_t out = 0, base = 1;
    *dead = false;
    for (uint32_t i = 0; i < a->n_con; i++) {
        uint32_t cap = a->con[i].max == INF ? a->con[i].min : a->con[i].max + 1, v = state % (cap + 1);
        state /= cap + 1;
        if (var >> i & 1 && v < cap)
            v++;
        *dead = *dead || (a->con[i].max != INF && v > a->con[i].max);
        out += v * base;
        base *= cap + 1;
    }
    return out;
}

static bool con_ok(const parr *a, uint32_t state)
{
    for (uint32_t i = 0; i < a->n_con; i++) {
        uint32_t cap = a->con[i].max == INF ? a->con[i].min : a->con[i].max + 1, v = state % (cap + 1);
        state /= cap + 1;
        if (v < a->con[i].min || v > a->con[i].max)
            return false;
    }
    return true;
}

/* Frames for the next item: for each way of counting it, the array as it will be, and the node of the item. */
static uint32_t item_frames(machine *m, const frame *f, uint32_t var, uint32_t *node)
{
    const parr *a = &m->p->arr[f->node];
    if (f->cnt >= a->max)
        return 0;
    bool dead;
    uint32_t at = f->cnt < a->n_prefix ? f->cnt : a->n_prefix, q = con_next(a, f->q, var, &dead);
    *node = a->node[(size_t)at * a->n_var + var];
    if (*node == DEAD || dead)
        return 0;
    frame g = *f;
    g.phase = AR_AFTER;
    g.q = q;
    g.cnt = f->cnt < a->clamp ? f->cnt + 1 : f->cnt;
    if (a->viable && !a->viable[(size_t)g.cnt * a->n_counts + q])
        return 0;
    return machine_frame(m, &g);
}

static void arr_step(machine *m, uint32_t id, unsigned char b)
{
    frame f = m->fr[id];
    const parr *a = &m->p->arr[f.node];
    if (is_ws(b)) {
        if (m->p->ws == CONSTRAIN_WS_FREE)
            machine_add(m, id);
        return;
    }
    if (b == ']') {
        if (f.cnt >= a->min && con_ok(a, f.q))
            value_close(m, f.parent, ']');
        return;
    }
    if (f.phase == AR_AFTER && b != ',')
        return;
    for (uint32_t var = 0; var < a->n_var; var++) {
        uint32_t node, up = item_frames(m, &f, var, &node);
        if (!up)
            continue;
        if (f.phase == AR_OPEN) {
            value_start(m, node, up, b);
        } else {
            frame v = {.kind = F_VAL, .phase = (uint8_t)space_phase(m), .node = node, .parent = up};
            add_frame(m, &v);
        }
    }
}

void json_step(machine *m, uint32_t id, unsigned char b)
{
    switch ((frame_kind)m->fr[id].kind) {
    case F_VAL: val_step(m, id, b); break;
    case F_RAW: raw_feed(m, m->fr[id], b); break;
    case F_STR: str_step(m, id, b); break;
    case F_KEY: key_step(m, id, b); break;
    case F_OBJ: obj_step(m, id, b); break;
    case F_ARR: arr_step(m, id, b); break;
    default: break;
    }
}

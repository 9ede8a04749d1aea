#include "simt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define STACK (64u << 10)
#define POISON 0xFF /* a NaN in f16 and in f32 */
#define NAMED 16    /* barriers of a block */
#define STATICS 16
#define PAUSES_MOST 100000 /* with nothing else that runs */
#define SWEEPS 16   /* a warp goes on for so many instructions at most */

typedef enum wait_kind { RUNS, MEETS, AT_BARRIER, AT_MBAR, AT_CLUSTER, PAUSES, LEFT } wait_kind;

typedef struct copy {
    uint32_t dst, bytes, group;
    const void *src;
} copy;

typedef struct thread {
    simt_at at; /* simt_me points here */
    void *sp;
    wait_kind state;
    uint32_t of_block, warp, bar;
    uint32_t cluster_turn, group; /* group: cp.async groups committed */
    copy *copies;
    uint32_t n_copy, cap_copy;
} thread;

typedef struct warp {
    thread *t; /* its 32 */
    uint32_t runs, meets, left; /* lanes that run, wait for others of the warp, are gone */
    uint32_t mask[32];
    simt_work *work[32]; /* the instruction that a lane waits in, and its lanes */
    simt_lane lane[32];
} warp;

typedef struct block {
    uint32_t alive;
    struct { uint32_t came, n; } bar[NAMED];
    struct { const void *key; uint32_t at; } statics[STATICS];
    uint32_t n_static, static_end;
} block;

typedef struct mbar {
    uint32_t at, count, pending, phase;
    int64_t tx;
} mbar;

/* A bulk copy, a box of a tensor (map) or a value that is on its way. */
typedef struct bulk {
    uint32_t dst, bytes, bar;
    const void *src;
    simt_map map;
    uint32_t at[5], value[4];
    bool is_map, is_value;
} bulk;

static struct {
    simt_kernel *k;
    void *const *param;
    uint32_t threads, blocks, smem, n_warp, alive, /* blocks: that run at once */
        cluster_came, cluster_turn;
    block b[SIMT_CLUSTER];
    warp *w;
    thread *t;
    mbar *bar;
    uint32_t n_bar, cap_bar, n_bulk, cap_bulk;
    bulk *way;
    uint8_t *window, *stacks;
    bool clusters;
    void *home;
    uint64_t random;
    jmp_buf *failed;
    char error[600];
} m = {.random = 1};

simt_kernel *simt_kernels;
const simt_at *simt_me;
const char *simt_running = "none";
static thread *self;

/* Registers that a call keeps, then the stack: sp of the fiber that stops is stored, and the other's taken. */
void simt_switch(void **from, void *to);
__asm__(".text\n.globl simt_switch\n.hidden simt_switch\n.type simt_switch,@function\nsimt_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
        ".size simt_switch,.-simt_switch\n");

void simt_seed(uint64_t seed) { m.random = seed * 0x9E3779B97F4A7C15ull + 1; }
static uint32_t draw(uint32_t n)
{
    m.random ^= m.random << 13;
    m.random ^= m.random >> 7;
    m.random ^= m.random << 17;
    return (uint32_t)((m.random >> 32) * n >> 32);
}

/* Fibers are left as they stand: the next launch begins them anew. */
void simt_fail(const char *format, ...)
{
    char what[400];
    va_list ap;
    va_start(ap, format);
    vsnprintf(what, sizeof what, format, ap);
    va_end(ap);
    const simt_at *a = simt_me;
    snprintf(m.error, sizeof m.error, "kernel %s, block (%u, %u, %u), thread %u: %s", m.k->name, a->block.x, a->block.y,
             a->block.z, a->thread.x, what);
    longjmp(*m.failed, 1);
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */
static void wait_as(wait_kind k)
{
    thread *t = self;
    t->state = k;
    m.w[t->warp].runs &= ~(1u << t->at.lane);
    simt_switch(&t->sp, m.home);
    t->state = RUNS;
}
static void wake(thread *t)
{
    t->state = RUNS;
    m.w[t->warp].runs |= 1u << t->at.lane;
}
/* Of threads that wait like this one: those of a block, or of all. */
static void wake_all(wait_kind k, uint32_t b, uint32_t bar)
{
    for (uint32_t i = b * m.threads; i < (b + 1) * m.threads; i++)
        if (m.t[i].state == k && m.t[i].bar == bar)
            wake(&m.t[i]);
}

simt_lane *simt_in(void) { return &m.w[self->warp].lane[self->at.lane]; }

/* True: all of the mask's lanes are at this instruction (the caller counts as there). */
static bool all_met(const warp *w, uint32_t mask, simt_work *work)
{
    const uint32_t others = mask & ~(1u << self->at.lane);
    if (others & w->left)
        simt_fail("lanes %08x left before an instruction of lanes %08x", others & w->left, mask);
    if (others & ~w->meets)
        return false;
    for (uint32_t rest = others; rest; rest &= rest - 1) {
        const int i = __builtin_ctz(rest);
        if (w->work[i] != work || w->mask[i] != mask)
            simt_fail("lane %d is at another instruction of the warp (of lanes %08x, here %08x)", i, w->mask[i], mask);
    }
    return true;
}

/* Lanes that wait in an instruction run again. */
static void meet_ends(warp *w, uint32_t lanes)
{
    w->meets &= ~lanes;
    w->runs |= lanes;
}
static void wait_in(warp *w, uint32_t mask, simt_work *work)
{
    w->mask[self->at.lane] = mask;
    w->work[self->at.lane] = work;
    w->meets |= 1u << self->at.lane;
    wait_as(MEETS);
}

const uint32_t *simt_meet(uint32_t mask, simt_work *work)
{
    warp *w = &m.w[self->warp];
    const uint32_t own = 1u << self->at.lane;
    if (!(mask & own))
        simt_fail("an instruction of lanes %08x", mask);
    if (all_met(w, mask, work)) {
        work(w->lane, mask);
        meet_ends(w, mask & ~own);
    } else {
        wait_in(w, mask, work);
    }
    return simt_in()->out;
}

/* Lanes that have yet to run may leave before they come here: mask 0 waits for them (see leave). */
static bool alive_met(const warp *w)
{
    if ((w->meets | w->left | 1u << self->at.lane) != ~0u)
        return false;
    for (uint32_t rest = w->meets; rest; rest &= rest - 1)
        if (w->mask[__builtin_ctz(rest)])
            return false;
    return true;
}
uint32_t simt_warp_alive(void)
{
    warp *w = &m.w[self->warp];
    if (alive_met(w))
        meet_ends(w, w->meets);
    else
        wait_in(w, 0, NULL);
    return ~w->left;
}

static bool barrier_full(uint32_t b, uint32_t id)
{
    block *k = &m.b[b];
    if (!k->bar[id].came || k->bar[id].came < (id ? k->bar[id].n : k->alive))
        return false;
    k->bar[id].came = k->bar[id].n = 0;
    wake_all(AT_BARRIER, b, id);
    return true;
}

void simt_barrier(uint32_t id, uint32_t n, bool wait)
{
    block *k = &m.b[self->of_block];
    if (id >= NAMED || (!id && n))
        simt_fail("barrier %u of %u threads", id, n);
    if (k->bar[id].came && k->bar[id].n != n)
        simt_fail("barrier %u is of %u threads here and of %u elsewhere", id, n, k->bar[id].n);
    k->bar[id].n = n;
    k->bar[id].came++;
    if (!barrier_full(self->of_block, id) && wait) {
        self->bar = id;
        wait_as(AT_BARRIER);
    }
}

static void cluster_full(void)
{
    if (!m.cluster_came || m.cluster_came < m.alive)
        return;
    m.cluster_came = 0;
    m.cluster_turn++;
    for (uint32_t b = 0; b < m.blocks; b++)
        wake_all(AT_CLUSTER, b, 0);
}
void simt_pause(void) { wait_as(PAUSES); }

void simt_cluster_arrive(void)
{
    self->cluster_turn = m.cluster_turn;
    m.cluster_came++;
    cluster_full();
}
void simt_cluster_wait(void)
{
    if (self->cluster_turn == m.cluster_turn) {
        self->bar = 0;
        wait_as(AT_CLUSTER);
    }
}

static void leave(void)
{
    warp *w = &m.w[self->warp];
    w->left |= 1u << self->at.lane;
    m.b[self->of_block].alive--;
    m.alive--;
    self->state = LEFT;
    if (alive_met(w))
        meet_ends(w, w->meets);
    barrier_full(self->of_block, 0);
    cluster_full();
    wait_as(LEFT);
}

static void begin_fiber(void)
{
    m.k->call(m.k->fn, m.param);
    leave();
}

/* ---- shared memory ----------------------------------------------------------------------------------------------- */
void *simt_dynamic(void) { return m.window + self->of_block * SIMT_BLOCK; }

void *simt_static(const void *key, size_t bytes)
{
    block *b = &m.b[self->of_block];
    for (uint32_t i = 0; i < b->n_static; i++)
        if (b->statics[i].key == key)
            return m.window + b->statics[i].at;
    const uint32_t end = b->static_end + (uint32_t)((bytes + 15) & ~15ull);
    if (b->n_static == STATICS || end > SIMT_BLOCK)
        simt_fail("too much static shared memory");
    b->statics[b->n_static].key = key;
    b->statics[b->n_static++].at = self->of_block * SIMT_BLOCK + b->static_end;
    b->static_end = end;
    return m.window + b->statics[b->n_static - 1].at;
}

uint32_t simt_shared_address(const void *p) { return (uint32_t)((const uint8_t *)p - m.window); }

void *simt_shared(uint32_t a, uint32_t bytes)
{
    const uint32_t b = a / SIMT_BLOCK, in = a % SIMT_BLOCK;
    if (b >= m.blocks || (in < SIMT_DYNAMIC ? in + bytes > m.smem : in + bytes > m.b[b].static_end))
        simt_fail("%u bytes of shared memory at %u of block %u, of %u", bytes, in, b, m.smem);
    if (bytes <= 16 && in % bytes)
        simt_fail("%u bytes of shared memory at %u: not aligned", bytes, in);
    if (b != self->of_block && !m.clusters)
        simt_fail("shared memory of block %u, which is of no cluster", b);
    if (!m.b[b].alive)
        simt_fail("block %u of the cluster has left", b);
    return m.window + a;
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */
static void *grown(void *p, uint32_t n, uint32_t *cap, size_t size)
{
    if (n < *cap)
        return p;
    *cap = *cap ? 2 * *cap : 64;
    p = realloc(p, *cap * size);
    if (!p)
        abort();
    return p;
}

void simt_copy(uint32_t dst, const void *src, uint32_t bytes)
{
    memset(simt_shared(dst, bytes), POISON, bytes);
    if ((uintptr_t)src % bytes)
        simt_fail("a copy of %u bytes from %p", bytes, src);
    self->copies = grown(self->copies, self->n_copy, &self->cap_copy, sizeof *self->copies);
    self->copies[self->n_copy++] = (copy){dst, bytes, self->group, src};
}
void simt_copy_commit(void) { self->group++; }
void simt_copy_wait(uint32_t groups)
{
    thread *t = self;
    uint32_t i = 0;
    for (; i < t->n_copy && t->copies[i].group + groups < t->group; i++) {
        const copy *c = &t->copies[i];
        if (c->src)
            memcpy(m.window + c->dst, c->src, c->bytes);
        else
            memset(m.window + c->dst, 0, c->bytes);
    }
    t->n_copy -= i;
    memmove(t->copies, t->copies + i, t->n_copy * sizeof *t->copies);
}

static mbar *find_mbar(uint32_t at)
{
    for (uint32_t i = 0; i < m.n_bar; i++)
        if (m.bar[i].at == at)
            return &m.bar[i];
    return NULL;
}
static mbar *mbar_at(uint32_t at)
{
    mbar *b = find_mbar(at);
    if (!b)
        simt_fail("no mbarrier at %u", at);
    return b;
}
static void mbar_check(mbar *b)
{
    if (b->pending || b->tx)
        return;
    b->phase++;
    b->pending = b->count;
    for (uint32_t i = 0; i < m.blocks; i++)
        wake_all(AT_MBAR, i, b->at);
}
void simt_mbar_init(uint32_t at, uint32_t count)
{
    simt_shared(at, 8);
    if (!find_mbar(at)) {
        m.bar = grown(m.bar, m.n_bar, &m.cap_bar, sizeof *m.bar);
        m.n_bar++;
    }
    mbar *b = find_mbar(at);
    *(b ? b : &m.bar[m.n_bar - 1]) = (mbar){.at = at, .count = count, .pending = count};
}
void simt_mbar_arrive(uint32_t at, uint32_t expect)
{
    mbar *b = mbar_at(at);
    if (!b->pending)
        simt_fail("an arrival too many at the mbarrier at %u", at);
    b->tx += expect;
    b->pending--;
    mbar_check(b);
}
void simt_mbar_wait(uint32_t at, uint32_t parity)
{
    if (parity > 1)
        simt_fail("parity %u", parity);
    while ((mbar_at(at)->phase & 1) == parity) {
        self->bar = at;
        wait_as(AT_MBAR);
    }
}

static void on_its_way(bulk c)
{
    memset(simt_shared(c.dst, c.bytes), POISON, c.bytes);
    m.way = grown(m.way, m.n_bulk, &m.cap_bulk, sizeof *m.way);
    m.way[m.n_bulk++] = c;
}
void simt_bulk(uint32_t dst, const void *src, uint32_t bytes, uint32_t bar)
{
    if (dst % 16 || (uintptr_t)src % 16 || bytes % 16 || !bytes)
        simt_fail("a bulk copy of %u bytes from %p to %u", bytes, src, dst);
    on_its_way((bulk){.dst = dst, .bytes = bytes, .bar = bar, .src = src});
}
void simt_send(uint32_t dst, const void *value, uint32_t bytes, uint32_t bar)
{
    bulk c = {.dst = dst, .bytes = bytes, .bar = bar, .is_value = true};
    memcpy(c.value, value, bytes);
    on_its_way(c);
}
void simt_tensor(uint32_t dst, const simt_map *map, const uint32_t *at, uint32_t bar)
{
    bulk c = {.dst = dst, .bytes = 2, .bar = bar, .map = *map, .is_map = true};
    for (uint32_t i = 0; i < 5; i++) {
        c.at[i] = i < map->rank ? at[i] : 0;
        c.bytes *= i < map->rank ? map->box[i] : 1;
    }
    if (dst % 128 || map->box[0] != 64)
        simt_fail("a box of %u columns to %u", map->box[0], dst);
    on_its_way(c);
}

/* Rows of 128 bytes, zeros outside of the tensor; 16 bytes stand where bits 7 to 9 of the address turn them. */
static void copy_box(const bulk *c)
{
    const simt_map *p = &c->map;
    for (uint32_t row = 0; row < c->bytes / 128; row++) {
        const uint8_t *src = (const uint8_t *)(uintptr_t)p->base;
        bool in = true;
        for (uint32_t d = 1, r = row; d < p->rank; r /= p->box[d], d++) {
            const uint32_t x = c->at[d] + r % p->box[d];
            in &= x < p->dim[d];
            src += in ? x * p->stride[d - 1] : 0;
        }
        for (uint32_t k = 0; k < 64; k++) {
            const uint32_t to = c->dst + row * 128 + k * 2, x = c->at[0] + k;
            uint16_t v = 0;
            if (in && x < p->dim[0])
                memcpy(&v, src + x * 2, 2);
            memcpy(m.window + (to ^ (to >> 3 & 0x70)), &v, 2);
        }
    }
}

static void arrive(const bulk *c)
{
    if (c->is_map)
        copy_box(c);
    else
        memcpy(m.window + c->dst, c->is_value ? c->value : c->src, c->bytes);
    mbar *b = mbar_at(c->bar);
    b->tx -= c->bytes;
    mbar_check(b);
}

/* Nothing can run: the copies arrive that one barrier, which a thread waits at, is to be told of, and no others. False:
 * there are none. */
static bool copies_arrive(void)
{
    const uint32_t n_thread = m.blocks * m.threads, from = draw(n_thread);
    for (uint32_t i = 0; i < n_thread; i++) {
        const thread *t = &m.t[(from + i) % n_thread];
        const uint32_t bar = t->bar, n = m.n_bulk;
        if (t->state != AT_MBAR)
            continue;
        m.n_bulk = 0;
        for (uint32_t k = 0; k < n; k++) {
            const bulk c = m.way[k];
            if (c.bar == bar)
                arrive(&c);
            else
                m.way[m.n_bulk++] = c;
        }
        if (m.n_bulk < n)
            return true;
    }
    return false;
}

/* Nothing can run, and nothing arrives: loops go round once more. */
static bool loops_go_on(void)
{
    bool any = false;
    for (uint32_t i = 0; i < m.blocks * m.threads; i++)
        if (m.t[i].state == PAUSES) {
            wake(&m.t[i]);
            any = true;
        }
    return any;
}

/* ---- launches ---------------------------------------------------------------------------------------------------- */
static void *reserve(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        abort();
    return p;
}

static void begin_thread(uint32_t i, uint32_t b, simt_dim grid, simt_dim at)
{
    thread *t = &m.t[i];
    const uint32_t x = i % m.threads;
    copy *copies = t->copies;
    *t = (thread){.at = {.thread = {x, 0, 0}, .block = at, .grid = grid, .lane = x % 32, .rank = b}, .of_block = b,
                  .warp = b * (m.threads / 32) + x / 32, .copies = copies, .cap_copy = t->cap_copy};
    void **sp = (void **)(m.stacks + (size_t)(i + 1) * STACK) - 2; /* a return address is due 8 bytes off 16 */
    *sp = (void *)(uintptr_t)begin_fiber;
    t->sp = sp - 6;
}

static void begin_blocks(simt_dim grid, simt_dim first)
{
    m.n_bar = m.n_bulk = m.cluster_came = m.cluster_turn = 0;
    m.alive = m.blocks * m.threads;
    m.n_warp = m.alive / 32;
    for (uint32_t b = 0; b < m.blocks; b++) {
        memset(m.window + b * SIMT_BLOCK, POISON, m.smem + 64 < SIMT_DYNAMIC ? m.smem + 64 : SIMT_DYNAMIC);
        memset(m.window + b * SIMT_BLOCK + SIMT_DYNAMIC, POISON, SIMT_BLOCK - SIMT_DYNAMIC);
        m.b[b] = (block){.alive = m.threads, .static_end = SIMT_DYNAMIC};
        for (uint32_t i = b * m.threads; i < (b + 1) * m.threads; i++)
            begin_thread(i, b, grid, (simt_dim){first.x + b, first.y, first.z});
    }
    for (uint32_t i = 0; i < m.n_warp; i++) {
        m.w[i].t = &m.t[i * 32];
        m.w[i].runs = ~0u;
        m.w[i].meets = m.w[i].left = 0;
    }
}

/* Of these lanes, every one that can runs until it waits. */
static void sweep_lanes(warp *w, uint32_t lanes)
{
    for (uint32_t rest = w->runs & lanes; rest; rest &= w->runs) {
        const int i = __builtin_ctz(rest);
        rest &= rest - 1;
        self = &w->t[i];
        simt_me = &self->at;
        simt_switch(&m.home, self->sp);
    }
}
/* All lanes, some lane first. */
static void sweep(warp *w)
{
    const uint32_t before = (1u << draw(32)) - 1;
    sweep_lanes(w, ~before);
    sweep_lanes(w, before);
}

static void stuck(void)
{
    static const char *const name[] = {
        "runs", "in a warp's instruction", "at a barrier", "at an mbarrier", "at the cluster's barrier", "in a loop",
        "left"};
    uint32_t n[7] = {0};
    for (uint32_t i = 0; i < m.blocks * m.threads; i++) {
        n[m.t[i].state]++;
        if (m.t[i].state != LEFT)
            simt_me = &m.t[i].at, self = &m.t[i];
    }
    char text[300];
    int at = 0;
    for (int i = 0; i < 7; i++)
        if (n[i])
            at += snprintf(text + at, sizeof text - (size_t)at, "%s%u %s", at ? ", " : "", n[i], name[i]);
    simt_fail("nothing can go on: of the cluster's threads %s; this one is %s %u", text, name[self->state], self->bar);
}

static void run_blocks(void)
{
    uint32_t idle = 0;
    while (m.alive) {
        const uint32_t from = draw(m.n_warp);
        warp *w = NULL;
        for (uint32_t i = 0; i < m.n_warp && !w; i++) {
            warp *c = &m.w[from + i < m.n_warp ? from + i : from + i - m.n_warp];
            w = c->runs ? c : NULL;
        }
        if (!w) {
            if (copies_arrive())
                idle = 0;
            else if (idle++ == PAUSES_MOST || !loops_go_on())
                stuck();
            continue;
        }
        for (uint32_t n = draw(SWEEPS) + 1; n && w->runs; n--)
            sweep(w);
    }
    for (uint32_t i = 0; i < m.n_bulk; i++)
        simt_fail("the block left while a copy to %u was on its way", m.way[i].dst);
}

bool simt_launch(simt_kernel *k, void *const *param, simt_dim grid, uint32_t threads, uint32_t cluster, uint32_t smem,
                 const char **error)
{
    if (!m.window) {
        m.window = reserve(SIMT_CLUSTER * SIMT_BLOCK);
        m.stacks = reserve((size_t)SIMT_CLUSTER * SIMT_THREADS * STACK);
        m.t = reserve(SIMT_CLUSTER * SIMT_THREADS * sizeof *m.t);
        m.w = reserve(SIMT_CLUSTER * SIMT_THREADS / 32 * sizeof *m.w);
    }
    jmp_buf failed;
    static const simt_at nowhere;
    simt_me = &nowhere;
    simt_running = k->name;
    m.k = k, m.param = param, m.threads = threads, m.clusters = cluster > 1, m.smem = smem, m.failed = &failed;
    k->n_launch++;
    *error = m.error;
    if (setjmp(failed))
        return false;
    if (threads % 32 || threads > SIMT_THREADS || cluster > SIMT_CLUSTER || grid.x % cluster || smem > SIMT_DYNAMIC)
        simt_fail("a launch of %u blocks of %u threads, clusters of %u, %u bytes", grid.x, threads, cluster, smem);
    for (uint32_t z = 0; z < grid.z; z++)
        for (uint32_t y = 0; y < grid.y; y++)
            for (uint32_t x = 0; x < grid.x; x += m.blocks) {
                m.blocks = cluster > 1 ? cluster : grid.x - x < SIMT_CLUSTER ? grid.x - x : SIMT_CLUSTER;
                begin_blocks(grid, (simt_dim){x, y, z});
                run_blocks();
            }
    return true;
}

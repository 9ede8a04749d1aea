/* The pump: one thread that carries engine events to printers, watches sockets for clients that leave, and
 * keeps time. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server/stream.h"

/* ---- from the engine thread: copy, and wake the pump if it sleeps ----------------------------------------------- */
static void wake(server *s)
{
    uint64_t one = 1;
    if (write(s->wake, &one, sizeof one) < 0)
        return; /* the counter is full: the pump is awake anyway */
}

void pump_push(server *s, const ev_record *r, const imp_logprob *top, const char *text)
{
    static const char zero[8];
    ev_record rec = *r;
    size_t n = sizeof rec + rec.n_top * sizeof *top + rec.n_text, pad = (8 - n % 8) % 8;
    rec.size = (uint32_t)(n + pad);
    pthread_mutex_lock(&s->ev_lock);
    size_t before = s->ev.n;
    sb_add(&s->ev, &rec, sizeof rec);
    sb_add(&s->ev, top, rec.n_top * sizeof *top);
    sb_add(&s->ev, text, rec.n_text);
    sb_add(&s->ev, zero, pad);
    if (s->ev.failed) { /* no memory: this choice has a hole and will say so; what was queued before it stays whole */
        s->ev.n = before;
        s->ev.failed = false;
        if (rec.c)
            rec.c->lost = true;
    }
    bool sleeping = s->asleep;
    s->asleep = false;
    pthread_mutex_unlock(&s->ev_lock);
    if (sleeping)
        wake(s);
}

/* The end of a choice needs no memory: it is a link through the choice itself. */
void pump_done(server *s, choice *c)
{
    pthread_mutex_lock(&s->ev_lock);
    c->next_done = NULL;
    *s->done_tail = c;
    s->done_tail = &c->next_done;
    bool sleeping = s->asleep;
    s->asleep = false;
    pthread_mutex_unlock(&s->ev_lock);
    if (sleeping)
        wake(s);
}

/* ---- clients that leave ------------------------------------------------------------------------------------------ */
void pump_watch(call *c)
{
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = c->serial};
    c->watched = c->fd >= 0 && epoll_ctl(c->s->epoll, EPOLL_CTL_ADD, c->fd, &ev) == 0;
}

void pump_unwatch(call *c)
{
    if (c->watched)
        epoll_ctl(c->s->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    c->watched = false;
}

/* With c->lock held: the client has gone; stop the work for it. */
static void lost_client(call *c)
{
    c->gone = true;
    if (c->g)
        gen_cancel(c->g);
}

static void on_hangup(server *s, uint64_t serial, uint32_t events)
{
    pthread_mutex_lock(&s->lock);
    call *c = s->calls;
    while (c && c->serial != serial)
        c = c->next;
    if (c) {
        pthread_mutex_lock(&c->lock);
        if (c->watched && (events & (EPOLLHUP | EPOLLERR))) {
            lost_client(c);
        } else if (c->watched) {
            /* Only its sending side is closed: perhaps it still reads. MHD would serve it, so it gets a moment. */
            struct epoll_event ev = {.events = EPOLLONESHOT, .data.u64 = serial};
            c->t_half = clock_ns();
            s->n_half++;
            epoll_ctl(s->epoll, EPOLL_CTL_MOD, c->fd, &ev);
        }
        pthread_mutex_unlock(&c->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */
static void tick(server *s)
{
    int64_t now = clock_ns();
    uint32_t n_half = 0;
    pthread_mutex_lock(&s->lock);
    for (call *c = s->calls; c; c = c->next) {
        pthread_mutex_lock(&c->lock);
        if (c->t_half && !c->gone) {
            if (now - c->t_half > SERVER_HALF_NS)
                lost_client(c);
            else
                n_half++;
        }
        gen *g = c->g;
        pthread_mutex_unlock(&c->lock);
        if (g) /* only this thread takes it away */
            gen_tick(g, now);
    }
    s->n_half = n_half;
    pthread_mutex_unlock(&s->lock);
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */
static void mark(server *s, gen *g)
{
    if (g->is_dirty)
        return;
    g->is_dirty = true;
    g->next_dirty = s->dirty;
    s->dirty = g;
}

/* Takes all that is queued; false when there was nothing (and then the next push wakes us). */
static bool take(server *s, choice **done)
{
    pthread_mutex_lock(&s->ev_lock);
    strbuf full = s->ev;
    s->ev = s->ev_work;
    s->ev.n = 0;
    s->ev_work = full;
    *done = s->done;
    s->done = NULL;
    s->done_tail = &s->done;
    bool any = full.n || *done;
    s->asleep = !any;
    pthread_mutex_unlock(&s->ev_lock);
    return any;
}

static void work(server *s, choice *done)
{
    for (size_t at = 0; at < s->ev_work.n;) {
        ev_record r;
        memcpy(&r, s->ev_work.s + at, sizeof r);
        const char *more = s->ev_work.s + at + sizeof r;
        gen_on_record(r.g, &r, (const imp_logprob *)(const void *)more, more + r.n_top * sizeof(imp_logprob));
        mark(s, r.g);
        at += r.size;
    }
    for (choice *c = done, *next; c; c = next) {
        next = c->next_done;
        mark(s, c->g);
        gen_on_done(c->g, c);
    }
    for (gen *g = s->dirty, *next; g; g = next) {
        next = g->next_dirty;
        g->is_dirty = false;
        gen_flush(g);
    }
    s->dirty = NULL;
}

static void *pump_main(void *arg)
{
    server *s = arg;
    struct epoll_event ev[64];
    int64_t last = clock_ns();
    for (;;) {
        choice *done;
        while (take(s, &done))
            work(s, done);
        if (atomic_load(&s->stop_pump))
            return NULL;
        int n = epoll_wait(s->epoll, ev, 64, s->n_half ? 100 : 1000);
        for (int i = 0; i < n; i++) {
            uint64_t v;
            if (ev[i].data.u64)
                on_hangup(s, ev[i].data.u64, ev[i].events);
            else if (read(s->wake, &v, sizeof v) < 0)
                continue;
        }
        int64_t now = clock_ns();
        if (n == 0 || now - last > 500000000 || s->n_half) {
            last = now;
            tick(s);
        }
    }
}

imp_status pump_start(server *s, imp_err *e)
{
    s->done_tail = &s->done;
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 0};
    if (s->epoll < 0 || s->wake < 0 || epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->wake, &ev))
        return err_set(e, IMP_E_IO, "server: epoll: %s", strerror(errno));
    int rc = pthread_create(&s->pump, NULL, pump_main, s);
    s->have_pump = rc == 0;
    return rc ? err_set(e, IMP_E_NOMEM, "server thread: %s", strerror(rc)) : IMP_OK;
}

void pump_stop(server *s)
{
    atomic_store(&s->stop_pump, true);
    if (s->have_pump) {
        wake(s);
        pthread_join(s->pump, NULL);
    }
    s->have_pump = false;
    if (s->epoll >= 0)
        close(s->epoll);
    if (s->wake >= 0)
        close(s->wake);
    s->epoll = s->wake = -1;
    sb_free(&s->ev);
    sb_free(&s->ev_work);
}

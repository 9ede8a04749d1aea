/* imp serve.
 *
 * Threads. One I/O thread (libmicrohttpd's, http.c) reads requests and writes answers; it parses nothing but headers
 * and never waits. A complete request suspends its connection and goes to one of a few workers (jobs.c), which read
 * the JSON, render, tokenise and submit to the engine. The engine's thread delivers events; they are only copied into
 * a queue (pump.c). The pump thread takes them from there, runs the streaming state machine and the protocol's printer
 * (stream.c, openai_*.c, anthropic.c), adds to the call's output buffer and resumes the connection. The same thread
 * watches the sockets of suspended connections by an epoll of its own, since libmicrohttpd does not: a client that
 * leaves cancels its request, whether that is queued, in its prompt or generating. A client that reads slowly fills
 * its own buffer, up to a limit, and hurts nobody else. /health and /metrics are answered on the I/O thread and wait
 * for no one.
 *
 * Locks, in this order: server.lock, call.lock, then ev_lock, metrics.lock or the engine's own (never two of these).
 * Ends: server_drain lets running requests finish and refuses new ones; server_free cancels what is left, waits for
 * the engine's last event, resumes every suspended connection (libmicrohttpd would abort the process otherwise) and
 * stops. */
#include "server/server.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server/stream.h"

const route server_routes[] = {
    {.method = "GET", .path = "/health", .open = true, .now = route_health},
    {.method = "GET", .path = "/v1/health", .open = true, .now = route_health},
    {.method = "GET", .path = "/metrics", .now = route_metrics},
    {.method = "GET", .path = "/v1/models", .now = route_models},
    {.method = "GET", .path = "/v1/models/", .prefix = true, .now = route_model},
    {.method = "POST", .path = "/v1/completions", .work = route_completions},
    {.method = "POST", .path = "/v1/chat/completions", .work = route_chat},
    {.method = "POST", .path = "/v1/messages", .form = FORM_ANTHROPIC, .work = route_messages},
    {.method = "POST", .path = "/v1/messages/count_tokens", .form = FORM_ANTHROPIC, .work = route_count_tokens},
    {.method = "POST", .path = "/tokenize", .work = route_tokenize},
    {.method = "POST", .path = "/detokenize", .work = route_detokenize},
    {.method = "POST", .path = "/apply-template", .work = route_apply_template},
    {.method = "POST", .path = "/v1/responses", .later = "not built yet: use /v1/chat/completions"},
    {.method = "POST", .path = "/v1/embeddings", .later = "not built yet"},
    {.method = "POST", .path = "/v1/rerank", .later = "not built yet"},
    {.method = "POST", .path = "/infill", .later = "not built yet"},
    {.method = "POST", .path = "/completion", .later = "not built yet: use /v1/completions"},
    {.method = "GET", .path = "/props", .later = "not built yet"},
    {.method = "GET", .path = "/slots", .later = "not built yet"},
    {.method = "GET", .path = "/", .later = "there is no web page yet"},
    {.path = NULL},
};

void server_params_init(server_params *p)
{
    *p = (server_params){.host = "127.0.0.1", .port = 8080, .max_queue = 512, .max_connections = 2048,
                         .max_body = (size_t)32 << 20, .timeout_s = 3600, .drain_s = 300};
    imp_sampling_init(&p->sampling);
}

imp_status server_start(const server_params *p, server **out, imp_err *e)
{
    *out = NULL;
    server *s = mem_calloc(1, sizeof *s);
    if (!s)
        return err_oom(e, "server", sizeof *s);
    s->p = *p;
    s->t_start = clock_ns();
    s->created = clock_unix_s();
    s->epoll = s->wake = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->ev_lock, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &a);
    pthread_condattr_destroy(&a);
    metrics_init(&s->metrics);
    imp_status st = pump_start(s, e);
    if (st == IMP_OK)
        st = jobs_start(s, e);
    if (st == IMP_OK)
        st = http_start(s, e);
    if (st != IMP_OK)
        server_free(s);
    else
        *out = s;
    return st;
}

/* The file's or folder's name without its extension: what clients say in "model". */
static char *id_of(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t b = n;
    while (b > 0 && path[b - 1] != '/')
        b--;
    if (n - b > 5 && memcmp(path + n - 5, ".gguf", 5) == 0)
        n -= 5;
    return mem_strndup(path + b, n - b);
}

imp_status server_ready(server *s, const server_params *p, imp_model *m, imp_engine *g, imp_err *e)
{
    s->p.sampling = p->sampling;
    s->m = m;
    s->g = g;
    s->info.size = sizeof s->info;
    s->about.size = sizeof s->about;
    imp_model_get_info(m, &s->info);
    imp_engine_stats(g, &s->about);
    s->model_path = s->info.path ? s->info.path : "";
    const char *alias = NULL;
    for (uint32_t i = 0; i < s->p.n_alias && !alias; i++)
        if (strcmp(s->p.alias[i], "*") != 0)
            alias = s->p.alias[i];
    s->model_id = alias ? mem_strdup(alias) : id_of(s->model_path);
    if (!s->model_id)
        return err_oom(e, "server", 64);
    atomic_store(&s->ready, true);
    return IMP_OK;
}

uint16_t server_port(const server *s) { return s->port; }
const char *server_model_id(const server *s) { return s->model_id; }

void server_drain(server *s)
{
    if (atomic_exchange(&s->draining, true))
        atomic_store(&s->hurry, true);
    pthread_mutex_lock(&s->lock);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* Waits for server.changed, at most ms. With server.lock. */
static void wait_ms(server *s, long ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += ms % 1000 * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    pthread_cond_timedwait(&s->changed, &s->lock, &t);
}

bool server_wait(server *s)
{
    int64_t until = 0;
    pthread_mutex_lock(&s->lock);
    while (!atomic_load(&s->hurry)) {
        int64_t now = clock_ns();
        bool draining = atomic_load(&s->draining);
        if (draining && !until)
            until = s->p.drain_s ? now + (int64_t)s->p.drain_s * 1000000000 : INT64_MAX;
        if (draining && (!s->n_active || now > until))
            break;
        wait_ms(s, draining ? 50 : 500);
    }
    bool clean = s->n_active == 0;
    pthread_mutex_unlock(&s->lock);
    return clean;
}

/* Every engine request of ours ends, and its gen with it: only then may the pump stop. */
static void cancel_all(server *s)
{
    pthread_mutex_lock(&s->lock);
    while (atomic_load(&s->n_gen)) {
        for (call *c = s->calls; c; c = c->next) {
            pthread_mutex_lock(&c->lock);
            if (c->g)
                gen_cancel(c->g);
            pthread_mutex_unlock(&c->lock);
        }
        wait_ms(s, 10);
    }
    pthread_mutex_unlock(&s->lock);
}

void server_free(server *s)
{
    if (!s)
        return;
    atomic_store(&s->draining, true);
    cancel_all(s);
    http_stop(s); /* from here on no request comes in; what a worker still has finds its client gone */
    jobs_stop(s);
    cancel_all(s);
    pump_stop(s);
    metrics_free(&s->metrics);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->ev_lock);
    pthread_mutex_destroy(&s->lock);
    mem_free(s->model_id);
    mem_free(s);
}

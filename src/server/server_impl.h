/* server_impl: what the server's own files share. Which thread touches what is told at the top of server.c. */
#ifndef IMP_SERVER_SERVER_IMPL_H
#define IMP_SERVER_SERVER_IMPL_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/arena.h"
#include "base/strbuf.h"
#include "server/metrics.h"
#include "server/server.h"

struct MHD_Connection;
struct MHD_Daemon;
typedef struct call call;
typedef struct gen gen;

typedef enum error_form { FORM_OPENAI, FORM_ANTHROPIC } error_form;

/* One row an endpoint (routes.c). Every row but open ones asks for the key. */
typedef struct route {
    const char *method, *path;
    bool prefix;                  /* path is the beginning of what is asked for */
    bool open;                    /* needs no key, and answers while loading or draining */
    error_form form;
    void (*now)(call *c);         /* answers on the I/O thread: quick, never blocks */
    void (*work)(call *c);        /* runs on a worker with the whole body */
    const char *later;            /* not built yet: what to say */
} route;
extern const route server_routes[]; /* path NULL-terminated */

typedef enum call_phase {
    CALL_READING,                 /* headers and body come in */
    CALL_WORKING,                 /* a worker or the engine has it; the connection is suspended */
    CALL_ANSWER,                  /* out holds the whole body */
    CALL_STREAM                   /* out is sent as it grows, until `ended` */
} call_phase;

/* One HTTP exchange. References: the connection's (until MHD says it is completed) and one for the work on it. */
struct call {
    call *next, *prev;            /* server.calls, under server.lock */
    server *s;
    atomic_int refs;
    uint64_t serial;
    const route *route;           /* NULL: no such endpoint */
    error_form form;
    char id[32];                  /* request id, sent back in a header */
    char path[200];
    char method[8];
    strbuf body;
    uint64_t n_seen;              /* body bytes, kept or not */
    int64_t t_arrival;
    bool active;                  /* counted in server.n_active; I/O thread only */

    pthread_mutex_t lock;         /* everything below */
    struct MHD_Connection *conn;  /* NULL once completed */
    int fd;
    bool watched;
    call_phase phase;
    bool suspended;
    bool queued;                  /* the answer was handed to MHD */
    bool ended;                   /* nothing will be added to out */
    bool aborted;                 /* the connection is to be cut */
    bool gone;                    /* the client has left */
    int64_t t_half;               /* when it closed its sending side; 0 = it did not */
    int status;
    const char *type;
    uint32_t retry_after;         /* seconds, 0 = no header */
    strbuf out;
    size_t sent;
    gen *g;                       /* set while it is generating; owned by the pump thread */
};

struct server {
    server_params p;
    imp_model *m;
    imp_engine *g;
    char *model_id;
    const char *model_path;
    const char *template_name;
    imp_model_info info;
    imp_stats about;              /* sizes that never change */
    int64_t t_start;
    int64_t created;
    uint16_t port;
    struct MHD_Daemon *daemon;
    atomic_bool ready, draining, hurry, stop_http, stop_jobs, stop_pump;
    atomic_uint n_gen;            /* requests that generate */
    atomic_uint n_conn;
    atomic_uint n_choice;         /* choices that the engine holds for us */
    metrics metrics;

    pthread_mutex_t lock;         /* calls, serial, n_active, jobs */
    pthread_cond_t changed;
    call *calls;
    uint64_t serial;
    uint32_t n_active;            /* calls whose request is complete and whose answer is not */
    call **job;                   /* ring of calls that wait for a worker */
    uint32_t job_head, n_job;
    pthread_t worker[4];
    uint32_t n_worker;

    /* pump */
    pthread_t pump;
    bool have_pump;
    int epoll, wake;
    pthread_mutex_t ev_lock;      /* ev, done, asleep */
    strbuf ev;
    struct choice *done, **done_tail;
    bool asleep;
    strbuf ev_work;               /* pump thread only */
    gen *dirty;
    uint32_t n_half;              /* calls that are half closed, pump thread only */
};

#define SERVER_MAX_JOBS 4096
#define SERVER_MAX_OUT ((size_t)16 << 20)  /* bytes a slow reader may leave unread before its request is given up */
#define SERVER_HALF_NS 400000000           /* a client that closed its sending side is taken for gone after this */
#define SERVER_PING_NS 15000000000

/* ---- http.c ---- */
call *call_ref(call *c);
void call_unref(call *c);
/* The answer is complete in c->out (call_body). Any thread; wakes the connection. */
void call_answer(call *c, int status, const char *type);
void call_stream(call *c);                      /* the answer begins: event stream */
void call_send(call *c, const char *s, size_t n); /* adds to the stream; call_wake afterwards */
void call_wake(call *c);
void call_end(call *c);                         /* the stream is complete */
void call_abort(call *c);                       /* cut the connection: the client has gone, or cannot be told */
/* An error in the form of the call's protocol. code and param may be NULL. */
void call_error(call *c, int http, const char *code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* The same as one JSON document; extra: members to add to the error object ("\"n_ctx\":5"), or NULL. */
void error_print(strbuf *out, error_form form, const char *id, int *http, const char *code, const char *param,
                 const char *message, const char *extra);
imp_status http_start(server *s, imp_err *e);
void http_stop(server *s);

/* ---- pump.c ---- */
imp_status pump_start(server *s, imp_err *e);
void pump_stop(server *s);
void pump_watch(call *c);         /* c->lock held */
void pump_unwatch(call *c);       /* c->lock held */

/* ---- jobs.c ---- */
imp_status jobs_start(server *s, imp_err *e);
void jobs_stop(server *s);
bool jobs_push(call *c);          /* takes a reference; false when too many wait */

/* ---- handlers ---- */
void route_health(call *c);
void route_models(call *c);
void route_model(call *c);
void route_metrics(call *c);
void route_chat(call *c);
void route_completions(call *c);
void route_messages(call *c);
void route_count_tokens(call *c);
void route_tokenize(call *c);
void route_detokenize(call *c);
void route_apply_template(call *c);

#endif

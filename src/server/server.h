/* server: HTTP over one model: OpenAI's and Anthropic's protocols, tokens, metrics. Uses the public C API only.
 * Owner: the caller keeps model and engine alive until server_free has returned. Threads: see server.c; server_drain
 * may be called from any thread, the rest from one. Fails when it cannot listen. */
#ifndef IMP_SERVER_SERVER_H
#define IMP_SERVER_SERVER_H

#include "base/log.h"
#include "base/status.h"

typedef struct server server;

typedef struct server_params {
    const char *host;              /* address to listen on */
    uint16_t port;                 /* 0 = any free one */
    const char *api_key;           /* NULL = none is asked for */
    const char *const *alias;      /* names of the model besides its own; "*" accepts every name */
    uint32_t n_alias;
    const char *chat_template;     /* built-in name or text; NULL = the model's */
    imp_sampling sampling;         /* what requests start from */
    bool has_seed;                 /* sampling.seed holds for requests that give none */
    bool ignore_eos;
    uint32_t max_tokens;           /* for requests that give none; 0 = up to the context */
    const char *const *stop;       /* besides a request's own */
    uint32_t n_stop;
    uint32_t max_queue;            /* choices that may wait for a place; more are answered 429 */
    uint32_t max_connections;
    size_t max_body;               /* bytes */
    uint32_t timeout_s;            /* for one request; 0 = none */
    uint32_t drain_s;              /* how long running requests may go on after server_drain; 0 = no limit */
    log_sink log;
} server_params;
void server_params_init(server_params *p);

/* Listens; every route answers 503 "loading" until server_ready. Strings of p must outlive the server. */
imp_status server_start(const server_params *p, server **out, imp_err *e);
/* p: as before, but what depends on the model (sampling) may have changed. */
imp_status server_ready(server *s, const server_params *p, imp_model *m, imp_engine *g, imp_err *e);
uint16_t server_port(const server *s);
const char *server_model_id(const server *s);
/* New requests get 503; running ones are finished. A second call ends them. */
void server_drain(server *s);
/* Until drained. False when requests had to be cut off. */
bool server_wait(server *s);
void server_free(server *s); /* NULL is fine */

#endif

/* HTTP: connections, bodies, keys, answers. The only file that knows libmicrohttpd. Runs on its one I/O thread, but for
 * the call_* functions, which hand an answer over from any thread. */
#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/jsonw.h"
#include "base/mem.h"
#include "server/stream.h"

/* ---- calls ------------------------------------------------------------------------------------------------------ */
call *call_ref(call *c)
{
    atomic_fetch_add(&c->refs, 1);
    return c;
}

void call_unref(call *c)
{
    if (atomic_fetch_sub(&c->refs, 1) > 1)
        return;
    sb_free(&c->body);
    sb_free(&c->out);
    pthread_mutex_destroy(&c->lock);
    mem_free(c);
}

/* With c->lock held. MHD wants a connection resumed exactly once for each suspension. */
static void resume(call *c)
{
    if (!c->suspended || !c->conn)
        return;
    c->suspended = false;
    MHD_resume_connection(c->conn);
}

void call_wake(call *c)
{
    pthread_mutex_lock(&c->lock);
    resume(c);
    pthread_mutex_unlock(&c->lock);
}

void call_answer(call *c, int status, const char *type)
{
    pthread_mutex_lock(&c->lock);
    c->status = c->out.failed ? 503 : status;
    c->type = type;
    c->ended = true;
    c->phase = CALL_ANSWER;
    resume(c);
    pthread_mutex_unlock(&c->lock);
}

void call_stream(call *c)
{
    pthread_mutex_lock(&c->lock);
    c->status = 200;
    c->type = "text/event-stream";
    c->phase = CALL_STREAM;
    resume(c);
    pthread_mutex_unlock(&c->lock);
}

void call_send(call *c, const char *s, size_t n)
{
    pthread_mutex_lock(&c->lock);
    sb_add(&c->out, s, n);
    if (c->out.failed || c->out.n - c->sent > SERVER_MAX_OUT)
        c->aborted = c->gone = true;
    pthread_mutex_unlock(&c->lock);
}

void call_end(call *c)
{
    pthread_mutex_lock(&c->lock);
    c->ended = true;
    resume(c);
    pthread_mutex_unlock(&c->lock);
}

void call_abort(call *c)
{
    pthread_mutex_lock(&c->lock);
    c->aborted = c->ended = true;
    if (c->phase == CALL_WORKING)
        c->phase = CALL_ANSWER;
    resume(c);
    pthread_mutex_unlock(&c->lock);
}

/* ---- errors ----------------------------------------------------------------------------------------------------- */
static const struct {
    int http;
    const char *openai, *code, *anthropic;
    int anthropic_http;
} error_kinds[] = {
    {400, "invalid_request_error", NULL, "invalid_request_error", 400},
    {401, "authentication_error", "invalid_api_key", "authentication_error", 401},
    {403, "permission_error", NULL, "permission_error", 403},
    {404, "not_found_error", NULL, "not_found_error", 404},
    {405, "invalid_request_error", "method_not_allowed", "invalid_request_error", 405},
    {413, "invalid_request_error", "request_too_large", "request_too_large", 413},
    {429, "rate_limit_exceeded", "rate_limit_exceeded", "rate_limit_error", 429},
    {500, "server_error", NULL, "api_error", 500},
    {503, "unavailable_error", NULL, "overloaded_error", 529},
    {504, "timeout_error", "timeout", "timeout_error", 504},
};

void error_print(strbuf *out, error_form form, const char *id, int *http, const char *code, const char *param,
                 const char *message, const char *extra)
{
    size_t k = 0;
    while (k + 1 < sizeof error_kinds / sizeof *error_kinds && error_kinds[k].http != *http)
        k++;
    if (error_kinds[k].http != *http)
        k = *http < 500 ? 0 : 7;
    jw w;
    jw_init(&w, out);
    jw_object(&w);
    if (form == FORM_ANTHROPIC) {
        *http = error_kinds[k].anthropic_http;
        jw_kstr(&w, "type", "error");
        jw_key(&w, "error");
        jw_object(&w);
        jw_kstr(&w, "type", error_kinds[k].anthropic);
        jw_kstr(&w, "message", message);
        jw_end_object(&w);
        jw_kstr(&w, "request_id", id);
    } else {
        jw_key(&w, "error");
        jw_object(&w);
        jw_kstr(&w, "message", message);
        jw_kstr(&w, "type", error_kinds[k].openai);
        jw_kstr(&w, "param", param);
        jw_kstr(&w, "code", code ? code : error_kinds[k].code);
        if (extra) {
            sb_char(out, ',');
            sb_str(out, extra);
        }
        jw_end_object(&w);
    }
    jw_end_object(&w);
}

void call_error(call *c, int http, const char *code, const char *param, const char *fmt, ...)
{
    char message[1400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    if (http == 429 || http == 503)
        c->retry_after = 1;
    sb_clear(&c->out);
    error_print(&c->out, c->form, c->id, &http, code, param, message, NULL);
    call_answer(c, http, "application/json");
}

/* ---- answering -------------------------------------------------------------------------------------------------- */
static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max)
{
    call *c = cls;
    (void)pos;
    ssize_t n = 0;
    pthread_mutex_lock(&c->lock);
    size_t left = c->out.n - c->sent;
    if (c->aborted) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (left) {
        n = (ssize_t)(left < max ? left : max);
        memcpy(buf, c->out.s + c->sent, (size_t)n);
        c->sent += (size_t)n;
        if (c->sent == c->out.n) {
            sb_clear(&c->out);
            c->sent = 0;
        }
    } else if (c->ended) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (c->conn) {
        c->suspended = true;
        MHD_suspend_connection(c->conn);
    }
    pthread_mutex_unlock(&c->lock);
    return n;
}

static void add_headers(const call *c, struct MHD_Response *r, bool stream)
{
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, c->type);
    MHD_add_response_header(r, "Access-Control-Allow-Origin", "*");
    MHD_add_response_header(r, c->form == FORM_ANTHROPIC ? "request-id" : "X-Request-Id", c->id);
    if (stream) {
        MHD_add_response_header(r, "Cache-Control", "no-cache");
        MHD_add_response_header(r, "X-Accel-Buffering", "no");
    }
    if (c->retry_after) {
        char text[16];
        snprintf(text, sizeof text, "%u", c->retry_after);
        MHD_add_response_header(r, "Retry-After", text);
    }
    if (atomic_load(&c->s->draining))
        MHD_add_response_header(r, "Connection", "close");
    if (strcmp(c->method, "OPTIONS") == 0) {
        MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
        MHD_add_response_header(r, "Access-Control-Allow-Headers",
                                "authorization, content-type, x-api-key, anthropic-version, anthropic-beta, "
                                "x-request-id");
        MHD_add_response_header(r, "Access-Control-Max-Age", "86400");
    }
    if (c->status == 405)
        MHD_add_response_header(r, "Allow", c->route->method);
    if (c->status == 401)
        MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
}

/* Hands the answer to MHD. In phases CALL_ANSWER and CALL_STREAM. */
static enum MHD_Result queue(call *c)
{
    pthread_mutex_lock(&c->lock);
    bool stream = c->phase == CALL_STREAM, wanted = !c->aborted && !c->queued;
    pthread_mutex_unlock(&c->lock);
    /* What is read below stays as it is in these phases. Not under our lock: MHD takes the response's own, and holds
     * that one when it calls read_stream, which takes ours. */
    struct MHD_Response *r = NULL;
    if (wanted && stream)
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_stream, c, NULL);
    else if (wanted)
        r = MHD_create_response_from_buffer(c->out.failed ? 0 : c->out.n, c->out.s ? c->out.s : "",
                                            MHD_RESPMEM_PERSISTENT);
    if (!r)
        return MHD_NO;
    add_headers(c, r, stream);
    c->queued = true; /* this thread's alone, MHD's */
    enum MHD_Result ok = MHD_queue_response(c->conn, (unsigned)c->status, r);
    MHD_destroy_response(r);
    return ok;
}

/* ---- requests --------------------------------------------------------------------------------------------------- */
/* As long as the longer text, wherever they differ. */
static bool same_secret(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    unsigned diff = na != nb;
    for (size_t i = 0; i < nb; i++)
        diff |= (unsigned char)((na ? a[i % na] : 0) ^ b[i]);
    return diff == 0;
}

static bool authorized(const call *c)
{
    const char *want = c->s->p.api_key;
    if (!want || (c->route && c->route->open) || strcmp(c->method, "OPTIONS") == 0)
        return true;
    const char *a = MHD_lookup_connection_value(c->conn, MHD_HEADER_KIND, "Authorization");
    const char *x = MHD_lookup_connection_value(c->conn, MHD_HEADER_KIND, "x-api-key");
    bool ok = a && strncasecmp(a, "Bearer ", 7) == 0 && same_secret(a + 7, want);
    return (x && same_secret(x, want)) || ok;
}

static const route *find_route(const char *path, const char *method, bool *other_method)
{
    const route *wrong = NULL;
    for (const route *r = server_routes; r->path; r++) {
        size_t n = strlen(r->path);
        if (strncmp(path, r->path, n) != 0 || (!r->prefix && path[n]) || (r->prefix && !path[n]))
            continue;
        if (strcmp(method, r->method) == 0 || (strcmp(method, "HEAD") == 0 && strcmp(r->method, "GET") == 0))
            return r;
        wrong = r;
    }
    *other_method = wrong != NULL;
    return wrong;
}

/* Everything that the headers alone decide. The answer goes out when the body was read, but for a body
 * that is too big. */
static void look(call *c, const char *url)
{
    server *s = c->s;
    bool other = false;
    snprintf(c->path, sizeof c->path, "%s", url);
    c->route = find_route(url, c->method, &other);
    c->form = c->route ? c->route->form : FORM_OPENAI;
    const char *len = MHD_lookup_connection_value(c->conn, MHD_HEADER_KIND, "Content-Length");
    unsigned long long n = len ? strtoull(len, NULL, 10) : 0;
    if (strcmp(c->method, "OPTIONS") == 0)
        call_answer(c, 204, "text/plain");
    else if (!authorized(c))
        call_error(c, 401, NULL, NULL,
                   "wrong or missing API key: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'");
    else if (!c->route)
        call_error(c, 404, NULL, NULL, "%s %.150s: there is no such endpoint", c->method, url);
    else if (other)
        call_error(c, 405, NULL, NULL, "%s %.150s: use %s", c->method, url, c->route->method);
    else if (c->route->later)
        call_error(c, 404, "not_built", NULL, "%s: %s", c->route->path, c->route->later);
    else if (n > s->p.max_body)
        call_error(c, 413, NULL, NULL, "the body has %llu bytes; at most %zu are taken", n, s->p.max_body);
    else if (atomic_load(&s->n_conn) > s->p.max_connections && !c->route->open)
        call_error(c, 503, NULL, NULL, "too many connections: at most %u", s->p.max_connections);
    else if (!atomic_load(&s->ready) && !c->route->open)
        call_error(c, 503, NULL, NULL, "the model is still being loaded");
    else if (atomic_load(&s->draining) && !c->route->open)
        call_error(c, 503, NULL, NULL, "the server is shutting down");
}

static call *call_new(server *s, struct MHD_Connection *conn, const char *method)
{
    call *c = mem_calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->s = s;
    c->conn = conn;
    c->fd = -1;
    c->t_arrival = clock_ns();
    atomic_init(&c->refs, 1);
    pthread_mutex_init(&c->lock, NULL);
    snprintf(c->method, sizeof c->method, "%s", method);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info)
        c->fd = info->connect_fd;
    pthread_mutex_lock(&s->lock);
    c->serial = ++s->serial;
    c->next = s->calls;
    if (c->next)
        c->next->prev = c;
    s->calls = c;
    pthread_mutex_unlock(&s->lock);
    snprintf(c->id, sizeof c->id, "req_%08llx%08llx", (unsigned long long)(s->created & 0xffffffff),
             (unsigned long long)c->serial);
    return c;
}

/* The request is complete: answer at once, or suspend the connection and let others work. */
static enum MHD_Result begin(call *c)
{
    c->active = true;
    pthread_mutex_lock(&c->s->lock);
    c->s->n_active++;
    pthread_mutex_unlock(&c->s->lock);
    if (c->phase == CALL_READING && c->n_seen > c->s->p.max_body)
        call_error(c, 413, NULL, NULL, "the body has more than %zu bytes", c->s->p.max_body);
    else if (c->phase == CALL_READING && c->body.failed)
        call_error(c, 503, NULL, NULL, "out of memory for the body");
    if (c->phase == CALL_READING && c->route->now)
        c->route->now(c);
    if (c->phase != CALL_READING)
        return queue(c);
    pthread_mutex_lock(&c->lock);
    bool stop = atomic_load(&c->s->stop_http); /* under the lock: http_stop resumes what it finds suspended */
    if (!stop) {
        c->phase = CALL_WORKING;
        c->suspended = true;
        MHD_suspend_connection(c->conn);
        pump_watch(c);
    }
    pthread_mutex_unlock(&c->lock);
    if (stop)
        return MHD_NO;
    if (!jobs_push(c))
        call_error(c, 429, NULL, NULL, "too many requests wait to be read");
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                                  const char *version, const char *data, size_t *n, void **con_cls)
{
    server *s = cls;
    call *c = *con_cls;
    (void)version;
    if (!c) {
        *con_cls = c = call_new(s, conn, method);
        if (!c)
            return MHD_NO;
        look(c, url);
        return c->status == 413 ? begin(c) : MHD_YES;
    }
    if (*n) {
        c->n_seen += *n;
        if (c->phase == CALL_READING && c->n_seen <= s->p.max_body)
            sb_add(&c->body, data, *n);
        *n = 0;
        /* A chunked body cannot be answered half-way; one without end is cut. */
        return c->n_seen > s->p.max_body + ((uint64_t)64 << 20) ? MHD_NO : MHD_YES;
    }
    return c->active ? queue(c) : begin(c);
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **con_cls, enum MHD_RequestTerminationCode how)
{
    server *s = cls;
    call *c = *con_cls;
    (void)conn;
    (void)how;
    if (!c)
        return;
    *con_cls = NULL;
    pthread_mutex_lock(&c->lock);
    int status = c->status;
    c->conn = NULL;
    if (!c->ended || c->sent < c->out.n)
        c->gone = true;
    pump_unwatch(c);
    if (c->gone && c->g)
        gen_cancel(c->g);
    pthread_mutex_unlock(&c->lock);
    status = c->queued ? status : 499;
    double seconds = (double)(clock_ns() - c->t_arrival) * 1e-9;
    metrics_http(&s->metrics, c->route ? c->route->path : "other", c->method, status, seconds);
    /* Who watches the log wants to see what went wrong here; what clients did wrong they were told. */
    log_line(&s->p.log, status >= 500 && status != 503 ? LOG_WARN : LOG_DEBUG, "%s: %s %.100s: %d after %.3f s",
             c->id, c->method, c->route ? c->route->path : "(no such endpoint)", status, seconds);
    pthread_mutex_lock(&s->lock);
    if (c->prev)
        c->prev->next = c->next;
    else
        s->calls = c->next;
    if (c->next)
        c->next->prev = c->prev;
    if (c->active)
        s->n_active--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    call_unref(c);
}

static void on_connection(void *cls, struct MHD_Connection *conn, void **sock, enum MHD_ConnectionNotificationCode code)
{
    server *s = cls;
    (void)conn;
    (void)sock;
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        atomic_fetch_add(&s->n_conn, 1);
    else
        atomic_fetch_sub(&s->n_conn, 1);
}

/* %00 would end a path early; MHD's own unescaping is kept but for that. */
static size_t unescape(void *cls, struct MHD_Connection *conn, char *s)
{
    (void)cls;
    (void)conn;
    size_t n = MHD_http_unescape(s);
    for (size_t i = 0; i < n; i++)
        if (!s[i])
            s[i] = '?';
    return n;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */
static imp_status resolve(const server *s, struct addrinfo **out, imp_err *e)
{
    char port[8];
    snprintf(port, sizeof port, "%u", s->p.port);
    struct addrinfo hint = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    int rc = getaddrinfo(s->p.host, port, &hint, out);
    return rc ? err_set(e, IMP_E_USAGE, "--host %s: %s", s->p.host, gai_strerror(rc)) : IMP_OK;
}

static imp_status listen_on(const server *s, int *fd, uint16_t *port, imp_err *e)
{
    struct addrinfo *ai = NULL;
    imp_status st = resolve(s, &ai, e);
    if (st != IMP_OK)
        return st;
    *fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int one = 1;
    if (*fd >= 0)
        setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (*fd < 0 || bind(*fd, ai->ai_addr, ai->ai_addrlen) || listen(*fd, 1024))
        st = err_set(e, IMP_E_IO, "%s port %u: %s", s->p.host, s->p.port, strerror(errno));
    freeaddrinfo(ai);
    struct sockaddr_storage at;
    socklen_t n = sizeof at;
    if (st == IMP_OK && getsockname(*fd, (struct sockaddr *)&at, &n) == 0)
        *port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                               : ((struct sockaddr_in *)&at)->sin_port);
    if (st != IMP_OK && *fd >= 0)
        close(*fd);
    return st;
}

/* MHD's own complaints are about clients' mistakes: they are worth a line only to who asks for it. */
static void mhd_log(void *cls, const char *fmt, va_list ap)
{
    server *s = cls;
    char line[400];
    vsnprintf(line, sizeof line, fmt, ap);
    size_t n = strlen(line);
    if (n && line[n - 1] == '\n')
        line[n - 1] = 0;
    log_line(&s->p.log, LOG_DEBUG, "http: %s", line);
}

imp_status http_start(server *s, imp_err *e)
{
    struct rlimit lim = {0};
    if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
        lim.rlim_cur = lim.rlim_max;
        setrlimit(RLIMIT_NOFILE, &lim);
    }
    int fd = -1;
    imp_status st = listen_on(s, &fd, &s->port, e);
    if (st != IMP_OK)
        return st;
    /* MHD refuses connections past its limit without a word, so its limit is above ours. */
    unsigned most = s->p.max_connections + 256;
    if (lim.rlim_cur > 128 && most > lim.rlim_cur - 64)
        most = (unsigned)lim.rlim_cur - 64;
    s->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0,
                                 NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, mhd_log, s,
                                 MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, most,
                                 MHD_OPTION_CONNECTION_TIMEOUT, 120u,
                                 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)65536,
                                 MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
                                 MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
                                 MHD_OPTION_UNESCAPE_CALLBACK, unescape, s, MHD_OPTION_END);
    if (s->daemon)
        return IMP_OK;
    close(fd);
    return err_set(e, IMP_E_IO, "cannot start the HTTP server on port %u", s->p.port);
}

/* MHD stops the process if a connection is still suspended when it stops. */
void http_stop(server *s)
{
    if (!s->daemon)
        return;
    atomic_store(&s->stop_http, true);
    pthread_mutex_lock(&s->lock);
    for (call *c = s->calls; c; c = c->next) {
        pthread_mutex_lock(&c->lock);
        c->aborted = c->ended = true;
        if (c->phase == CALL_WORKING)
            c->phase = CALL_ANSWER;
        resume(c);
        pthread_mutex_unlock(&c->lock);
    }
    pthread_mutex_unlock(&s->lock);
    MHD_stop_daemon(s->daemon);
    s->daemon = NULL;
}

/* imp serve: the HTTP server. It listens before the model is loaded (503 until then), and SIGTERM or Ctrl-C lets
 * running requests finish; a second one ends them. */
#include <stdatomic.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "server/server.h"

typedef struct serving {
    server *s;
    cli *c;
    atomic_bool loading; /* read by the thread that waits for signals */
} serving;

static bool on_signal(void *user, int sig)
{
    serving *v = user;
    (void)sig;
    if (v->loading)
        return false; /* nothing to finish */
    server_drain(v->s);
    return true;
}

static void show_log(void *user, imp_log_level level, const char *line)
{
    const cli *c = user;
    if (level >= IMP_LOG_WARN || c->o.verbose)
        fprintf(stderr, "imp: %s\n", line);
}

static imp_status load(cli *c, server_params *p, imp_err *e)
{
    imp_status s = cli_load_model(c, e);
    if (s == IMP_OK)
        s = cli_sampling(c, &p->sampling, &c->mem, e);
    if (s == IMP_OK)
        s = cli_load_engine(c, 0, e);
    return s;
}

static server_params params_of(cli *c)
{
    const options *o = &c->o;
    server_params p;
    server_params_init(&p);
    p.host = o->host;
    p.port = (uint16_t)o->port;
    p.api_key = o->api_key;
    p.alias = o->alias.v;
    p.n_alias = o->alias.n;
    p.has_seed = o->seed >= 0;
    p.ignore_eos = o->ignore_eos;
    p.max_tokens = o->max_tokens > 0 ? (uint32_t)o->max_tokens : 0;
    p.stop = o->stop.v;
    p.n_stop = o->stop.n;
    p.max_queue = (uint32_t)o->max_queue;
    p.max_body = (size_t)o->max_body << 20;
    p.timeout_s = (uint32_t)o->timeout;
    p.drain_s = (uint32_t)o->drain;
    p.log = (log_sink){show_log, c};
    return p;
}

int cmd_serve(cli *c)
{
    imp_err e = {0};
    serving v = {.c = c, .loading = true};
    server_params p = params_of(c);
    imp_status s = c->o.model ? cli_chat_template(c, &p.chat_template, &e)
                              : err_set(&e, IMP_E_USAGE, "no model: give one with -m FILE");
    if (s == IMP_OK)
        s = server_start(&p, &v.s, &e);
    cli_on_interrupt(on_signal, &v);
    if (s == IMP_OK)
        s = load(c, &p, &e);
    if (s == IMP_OK)
        s = server_ready(v.s, &p, c->model, c->engine, &e);
    bool clean = false;
    if (s == IMP_OK) {
        imp_stats st = {.size = sizeof st};
        imp_engine_stats(c->engine, &st);
        cli_progress_end();
        v.loading = false;
        fprintf(stderr, "imp: %s on http://%s:%u (%s; context %u, %u at once; ready after %.2f s)\n",
                server_model_id(v.s), p.host, server_port(v.s), st.backend, st.n_ctx, st.n_seq,
                clock_s() - c->t_start);
        clean = server_wait(v.s);
    }
    cli_on_interrupt(NULL, NULL);
    server_free(v.s);
    if (s != IMP_OK)
        return cli_fail(&e);
    return clean ? 0 : 1;
}

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "cli/cli.h"

int cli_fail(const imp_err *e)
{
    cli_progress_end();
    fflush(stdout);
    fprintf(stderr, "imp: %s\n", e->message[0] ? e->message : imp_status_text(e->status));
    return e->status == IMP_E_USAGE ? 2 : e->status == IMP_E_CANCELLED && cli_interrupted() ? 130 : 1;
}

bool cli_on_terminal(void) { return isatty(2); }

/* ---- progress --------------------------------------------------------------------------------------------------- */
static bool bar_shown;
static int64_t bar_last;

void cli_progress_end(void)
{
    if (bar_shown)
        fprintf(stderr, "\r\033[K");
    bar_shown = false;
}

bool cli_go_on(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user, (void)what, (void)done, (void)total;
    return !cli_interrupted();
}

bool cli_show_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user;
    if (cli_interrupted())
        return false;
    int64_t now = clock_ns();
    if (!cli_on_terminal() || (now - bar_last < 50000000 && done < total))
        return true;
    bar_last = now;
    bar_shown = true;
    int width = 30, full = total ? (int)((double)done / (double)total * width) : width;
    fprintf(stderr, "\r%s [%.*s%*s] %3.0f%%", what, full, "##############################", width - full, "",
            total ? 100.0 * (double)done / (double)total : 100.0);
    if (done >= total)
        cli_progress_end();
    return true;
}

static void show_log(void *user, imp_log_level level, const char *line)
{
    const cli *c = user;
    if (level >= IMP_LOG_WARN || c->o.verbose) {
        cli_progress_end();
        fprintf(stderr, "imp: %s\n", line);
    }
}

/* ---- loading ---------------------------------------------------------------------------------------------------- */
imp_status cli_load_model(cli *c, imp_err *e)
{
    if (!c->o.model && c->n_rest)
        c->o.model = c->rest[0];
    if (!c->o.model)
        return err_set(e, IMP_E_USAGE, "no model: give one with -m FILE");
    imp_status s = cli_resolve_model(c, e);
    if (s != IMP_OK)
        return s;
    imp_model_params p;
    imp_model_params_init(&p);
    p.n_ctx = (uint32_t)c->o.context;
    p.log = show_log;
    p.log_user = c;
    return imp_model_open(c->o.model, &p, &c->model, e);
}

static imp_kv kv_of(const options *o)
{
    static const struct { const char *name; imp_kv kv; } names[] = {
        {"auto", IMP_KV_AUTO}, {"f32", IMP_KV_F32}, {"f16", IMP_KV_F16}, {"bf16", IMP_KV_BF16},
        {"fp8", IMP_KV_FP8}, {"q8_0", IMP_KV_Q8_0}, {"nvfp4", IMP_KV_NVFP4},
    };
    for (size_t i = 0; o->kv && i < sizeof names / sizeof *names; i++)
        if (strcmp(o->kv, names[i].name) == 0)
            return names[i].kv;
    return o->kv_fp8 ? IMP_KV_FP8 : o->kv_nvfp4 ? IMP_KV_NVFP4 : IMP_KV_AUTO;
}

imp_status cli_load_engine(cli *c, uint32_t n_row, imp_err *e)
{
    imp_status s = c->model ? IMP_OK : cli_load_model(c, e);
    if (s != IMP_OK)
        return s;
    imp_engine_params p;
    imp_engine_params_init(&p);
    p.backend = c->o.backend;
    p.device = (int32_t)c->o.device;
    p.n_threads = (int32_t)c->o.threads;
    p.cpu = c->o.cpu;
    p.n_ctx = (uint32_t)c->o.context;
    p.n_seq = (uint32_t)c->o.parallel;
    if (!p.n_seq && c->cmd != CMD_SERVE && c->cmd != CMD_BENCH)
        p.n_seq = 1;
    p.n_batch = (uint32_t)c->o.n_batch;
    p.n_row = n_row;
    p.block_size = (uint32_t)c->o.block_size;
    p.kv = kv_of(&c->o);
    p.prefill = c->o.prefill && strcmp(c->o.prefill, "fp8") == 0 ? IMP_PREFILL_FP8 : IMP_PREFILL_FULL;
    p.deterministic = c->o.deterministic;
    p.precise = c->o.precise;
    p.profile = c->o.profile;
    /* what measures computes everything */
    p.prefix_cache = c->o.prefix_cache && (c->cmd & (CMD_RUN | CMD_CHAT | CMD_SERVE));
    p.memory_budget = (uint64_t)c->o.memory_budget << 20;
    p.progress = cli_show_progress;
    p.log = show_log;
    p.log_user = c;
    s = imp_engine_new(c->model, &p, &c->engine, e);
    cli_set_engine(c->engine);
    if (s == IMP_OK && c->o.verbose) {
        imp_stats st = {.size = sizeof st};
        imp_engine_stats(c->engine, &st);
        fprintf(stderr, "imp: %s, loaded in %.2f s, context %u, weights %.0f MB, KV %.0f MB, workspace %.0f MB\n",
                st.backend, st.load_seconds, st.n_ctx, (double)st.weight_bytes / 1e6, (double)st.kv_bytes / 1e6,
                (double)st.workspace_bytes / 1e6);
    }
    return s;
}

void cli_close(cli *c)
{
    cli_set_engine(NULL);
    imp_engine_free(c->engine);
    imp_model_close(c->model);
    c->engine = NULL;
    c->model = NULL;
}

imp_status cli_chat_template(cli *c, const char **tmpl, imp_err *e)
{
    *tmpl = c->o.chat_template;
    if (!*tmpl || strchr(*tmpl, '{') || !file_exists(*tmpl) || file_is_dir(*tmpl))
        return IMP_OK; /* the model's own, a template's text, or a built-in one's name */
    char *text;
    size_t n;
    imp_status s = file_read_all(*tmpl, 1 << 20, &text, &n, e);
    if (s != IMP_OK)
        return s;
    *tmpl = arena_strndup(&c->mem, text, n);
    mem_free(text);
    return *tmpl ? IMP_OK : err_oom(e, "chat template", n);
}

/* ---- input ------------------------------------------------------------------------------------------------------ */
#define MAX_PROMPT_BYTES ((size_t)256 << 20)

imp_status cli_read_prompt(cli *c, char **text, size_t *n, imp_err *e)
{
    *text = NULL;
    if (c->o.prompt && c->o.file)
        return err_set(e, IMP_E_USAGE, "-p and -f: give one of them");
    if (c->o.prompt) {
        *n = strlen(c->o.prompt);
        *text = mem_strdup(c->o.prompt);
        return *text ? IMP_OK : err_oom(e, "prompt", *n);
    }
    if (!c->o.file && isatty(0))
        return err_set(e, IMP_E_USAGE, "no prompt: give one with -p TEXT, -f FILE or on stdin");
    return file_read_all(c->o.file ? c->o.file : "-", MAX_PROMPT_BYTES, text, n, e);
}

imp_status cli_parse_ids(const char *text, int32_t **ids, size_t *n, imp_err *e)
{
    size_t cap = strlen(text) / 2 + 1;
    *n = 0;
    *ids = mem_alloc(cap * sizeof **ids);
    if (!*ids)
        return err_oom(e, "token ids", cap * sizeof **ids);
    const char *p = text + strspn(text, " \t\r\n[");
    while (*p && *p != ']') {
        char *end;
        errno = 0;
        long v = strtol(p, &end, 10);
        if (end == p || v < 0 || v > INT32_MAX || errno || (*end && !strchr(" \t\r\n,]", *end))) {
            mem_free(*ids);
            *ids = NULL;
            return err_set(e, IMP_E_USAGE, "token ids: wanted numbers with commas, got '%.20s'", p);
        }
        (*ids)[(*n)++] = (int32_t)v;
        p = end + strspn(end, " \t\r\n");
        if (*p == ',')
            p += 1 + strspn(p + 1, " \t\r\n");
    }
    return IMP_OK;
}

static imp_status parse_bias(const opt_list *l, imp_sampling *s, arena *mem, imp_err *e)
{
    imp_logit_bias *b = ARENA_ARRAY(mem, imp_logit_bias, l->n + 1);
    if (!b)
        return err_oom(e, "logit bias", l->n * sizeof *b);
    for (uint32_t i = 0; i < l->n; i++) {
        char *end = NULL;
        long id = strtol(l->v[i], &end, 10);
        double x = *end == '=' || *end == ':' || *end == '+' || *end == '-'
                       ? strtod(end + (*end == '=' || *end == ':'), &end) : NAN;
        if (*end || !(fabs(x) <= 1e6) || id < 0 || id > INT32_MAX)
            return err_set(e, IMP_E_USAGE, "--logit-bias: wanted ID=NUMBER, got '%s'", l->v[i]);
        b[i] = (imp_logit_bias){(int32_t)id, (float)x};
    }
    s->logit_bias = b;
    s->n_logit_bias = l->n;
    return IMP_OK;
}

imp_status cli_sampling(const cli *c, imp_sampling *s, arena *mem, imp_err *e)
{
    const options *o = &c->o;
    imp_model_default_sampling(c->model, s);
    const struct { const char *name; float *to; double v; } real[] = {
        {"temperature", &s->temperature, o->temperature}, {"top-p", &s->top_p, o->top_p},
        {"min-p", &s->min_p, o->min_p}, {"typical-p", &s->typical_p, o->typical_p},
        {"repeat-penalty", &s->repeat_penalty, o->repeat_penalty},
        {"frequency-penalty", &s->frequency_penalty, o->frequency_penalty},
        {"presence-penalty", &s->presence_penalty, o->presence_penalty},
        {"dry-multiplier", &s->dry_multiplier, o->dry_multiplier}, {"dry-base", &s->dry_base, o->dry_base},
        {"mirostat-tau", &s->mirostat_tau, o->mirostat_tau}, {"mirostat-eta", &s->mirostat_eta, o->mirostat_eta},
    };
    const struct { const char *name; int32_t *to; int64_t v; } whole[] = {
        {"top-k", &s->top_k, o->top_k}, {"repeat-last-n", &s->repeat_last_n, o->repeat_last_n},
        {"mirostat", &s->mirostat, o->mirostat}, {"dry-allowed-length", &s->dry_allowed_length, o->dry_allowed_length},
        {"dry-penalty-last-n", &s->dry_penalty_last_n, o->dry_last_n},
    };
    for (size_t i = 0; i < sizeof real / sizeof *real; i++)
        if (options_source(c->source, real[i].name))
            *real[i].to = (float)real[i].v;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (options_source(c->source, whole[i].name))
            *whole[i].to = (int32_t)whole[i].v;
    if (o->seed >= 0)
        s->seed = (uint64_t)o->seed;
    else if (getrandom(&s->seed, sizeof s->seed, 0) != sizeof s->seed)
        s->seed = (uint64_t)clock_ns();
    return parse_bias(&o->logit_bias, s, mem, e);
}

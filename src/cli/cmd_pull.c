/* imp pull: a model from the hub; its path on stdout, so that `imp run -m "$(imp pull ...)"` works. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/jsonw.h"
#include "cli/cli.h"
#include "tools/pull.h"

/* The hub's cache, where huggingface_hub keeps it too. NULL: memory ran out or nobody has a home. */
static const char *cache_folder(cli *c)
{
    static const struct { const char *var, *below; } places[] = {
        {"HF_HUB_CACHE", ""}, {"HF_HOME", "/hub"}, {"XDG_CACHE_HOME", "/huggingface/hub"},
        {"HOME", "/.cache/huggingface/hub"}};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const char *v = cli_env(places[i].var);
        if (v)
            return arena_printf(&c->mem, "%s%s", v, places[i].below);
    }
    return NULL;
}

static imp_status params(cli *c, pull_params *p, imp_err *e)
{
    *p = (pull_params){.endpoint = cli_env("HF_ENDPOINT"), .token = cli_env("HF_TOKEN"), .cache = cache_folder(c),
                       .revision = c->o.revision};
    if (!c->o.quiet)
        p->progress = cli_show_progress;
    else
        p->progress = cli_go_on;
    return p->cache ? IMP_OK : err_set(e, IMP_E_USAGE, "no place for downloads: HOME is not set, nor is HF_HUB_CACHE");
}

int cmd_pull(cli *c)
{
    imp_err e = {0};
    pull_params p;
    pull_result r = {0};
    imp_status s = c->n_rest ? params(c, &p, &e) : err_set(&e, IMP_E_USAGE, "no repository: imp pull ORG/NAME[:FILE]");
    cli_interrupt_gently(true);
    if (s == IMP_OK)
        s = pull_model(&p, c->rest[0], &c->mem, &r, &e);
    cli_interrupt_gently(false);
    cli_progress_end();
    if (s != IMP_OK)
        return cli_fail(&e);
    if (!c->o.json) {
        printf("%s\n", r.path);
        if (!c->o.quiet)
            fprintf(stderr, "[%u files, %.1f MB, %.1f MB of them fetched now]\n", r.n_files, (double)r.n_bytes / 1e6,
                    (double)r.n_fetched / 1e6);
        return 0;
    }
    strbuf b = {0};
    jw w;
    jw_init(&w, &b);
    jw_object(&w);
    jw_kstr(&w, "path", r.path);
    jw_kstr(&w, "commit", r.commit);
    jw_kint(&w, "files", r.n_files);
    jw_kint(&w, "bytes", (int64_t)r.n_bytes);
    jw_kint(&w, "fetched", (int64_t)r.n_fetched);
    jw_end_object(&w);
    printf("%s\n", b.s ? b.s : "");
    sb_free(&b);
    return 0;
}

imp_status cli_resolve_model(cli *c, imp_err *e)
{
    if (!pull_is_spec(c->o.model) || file_exists(c->o.model) || strncmp(c->o.model, "random:", 7) == 0)
        return IMP_OK;
    pull_params p;
    pull_result r;
    imp_status s = params(c, &p, e);
    if (s != IMP_OK)
        return s;
    if (pull_cached(&p, c->o.model, &c->mem, &r, NULL) != IMP_OK) { /* what is here needs no network */
        cli_interrupt_gently(true);
        s = pull_model(&p, c->o.model, &c->mem, &r, e);
        cli_interrupt_gently(false);
        cli_progress_end();
    }
    if (s == IMP_OK)
        c->o.model = r.path;
    return s;
}

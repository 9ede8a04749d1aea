/* imp perplexity: of a text, and the distance to another run's logits. */
#include <stdio.h>

#include "base/jsonw.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "tools/perplexity.h"

static void print(const cli *c, const perplexity_result *r)
{
    if (c->o.json) {
        strbuf b = {0};
        jw w;
        jw_init(&w, &b);
        jw_object(&w);
        jw_kdouble(&w, "ppl", r->ppl);
        jw_kdouble(&w, "error", r->error);
        jw_kint(&w, "tokens", (int64_t)r->n_token);
        if (r->compared) {
            jw_kdouble(&w, "base_ppl", r->base_ppl);
            jw_kdouble(&w, "mean_kl", r->mean_kl);
            jw_kdouble(&w, "max_kl", r->max_kl);
            jw_kdouble(&w, "top1_agreement", r->top1_agreement);
        }
        jw_end_object(&w);
        printf("%s\n", b.s ? b.s : "");
        sb_free(&b);
        return;
    }
    if (c->o.quiet) {
        printf("%.4f\n", r->ppl);
        return;
    }
    printf("%llu tokens scored in %llu windows\n", (unsigned long long)r->n_token, (unsigned long long)r->n_window);
    if (r->compared)
        printf("base PPL = %.4f, mean KL = %.6f, max KL = %.6f, top-1 agreement = %.2f%%\n", r->base_ppl, r->mean_kl,
               r->max_kl, 100 * r->top1_agreement);
    printf("PPL = %.4f +/- %.5f\n", r->ppl, r->error);
}

int cmd_perplexity(cli *c)
{
    imp_err e = {0};
    char *text = NULL;
    size_t n;
    perplexity_result r;
    if (!c->o.context)
        c->o.context = 512;
    imp_status s = cli_read_prompt(c, &text, &n, &e);
    if (s == IMP_OK && c->o.context < 8)
        s = err_set(&e, IMP_E_USAGE, "-c: wanted at least 8, got %lld", (long long)c->o.context);
    if (s == IMP_OK)
        s = cli_load_engine(c, 64, &e);
    if (s == IMP_OK)
        s = perplexity_run(c->model, c->engine, text, n, (uint32_t)c->o.context, c->o.kl_base,
                           cli_show_progress, c, &r, &e);
    mem_free(text);
    if (s != IMP_OK)
        return cli_fail(&e);
    print(c, &r);
    return 0;
}

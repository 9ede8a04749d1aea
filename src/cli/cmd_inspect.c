/* imp inspect: what is in a model and what it needs; with --plan every operation and the kernel that serves it here. */
#include <stdio.h>

#include "cli/cli.h"

int cmd_inspect(cli *c)
{
    imp_err e = {0};
    char *text = NULL;
    imp_status s = cli_load_model(c, &e);
    if (s == IMP_OK && c->o.plan && (s = cli_load_engine(c, 0, &e)) == IMP_OK)
        s = imp_engine_inspect(c->engine, c->o.json, &text, &e);
    else if (s == IMP_OK)
        s = imp_model_inspect(c->model, false, c->o.json, &text, &e);
    if (s == IMP_OK)
        fputs(text, stdout);
    imp_free(text);
    return s == IMP_OK ? 0 : cli_fail(&e);
}

/* imp tokenize: text to ids as a JSON array, or ids to text. */
#include <stdio.h>

#include "base/mem.h"
#include "cli/cli.h"

static imp_status to_text(cli *c, imp_err *e)
{
    int32_t *ids = NULL;
    size_t n = 0, len;
    char *text = NULL;
    imp_status s = cli_parse_ids(c->o.ids_text, &ids, &n, e);
    if (s == IMP_OK)
        s = imp_detokenize(c->model, ids, n, !c->o.no_special, &text, &len, e);
    if (s == IMP_OK)
        fwrite(text, 1, len, stdout);
    mem_free(ids);
    imp_free(text);
    return s;
}

static imp_status to_ids(cli *c, imp_err *e)
{
    char *text = NULL;
    int32_t *ids = NULL;
    size_t len, n = 0;
    imp_status s = cli_read_prompt(c, &text, &len, e);
    if (s == IMP_OK)
        s = imp_tokenize(c->model, text, len, c->o.no_special ? 0 : IMP_ADD_SPECIAL | IMP_PARSE_SPECIAL, &ids, &n, e);
    if (s == IMP_OK) {
        putchar('[');
        for (size_t i = 0; i < n; i++)
            printf("%s%d", i ? ", " : "", ids[i]);
        puts("]");
    }
    mem_free(text);
    imp_free(ids);
    return s;
}

int cmd_tokenize(cli *c)
{
    imp_err e = {0};
    imp_status s = cli_load_model(c, &e);
    if (s == IMP_OK)
        s = c->o.ids_text ? to_text(c, &e) : to_ids(c, &e);
    return s == IMP_OK ? 0 : cli_fail(&e);
}

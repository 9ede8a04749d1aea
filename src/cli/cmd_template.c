/* imp template: the prompt that a chat request renders to, byte for byte, on stdout. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cli.h"

#define MAX_TEMPLATE_BYTES ((size_t)8 << 20)

/* --template FILE, else --chat-template, else the model's own (NULL). */
static imp_status template_text(cli *c, const char **out, imp_err *e)
{
    if (!c->o.template_file)
        return cli_chat_template(c, out, e);
    char *text;
    size_t n;
    imp_status s = file_read_all(c->o.template_file, MAX_TEMPLATE_BYTES, &text, &n, e);
    if (s != IMP_OK)
        return s;
    *out = arena_strndup(&c->mem, text, n);
    mem_free(text);
    return *out ? IMP_OK : err_oom(e, "chat template", n);
}

int cmd_template(cli *c)
{
    imp_err e = {0};
    const char *tmpl = NULL;
    char *request = NULL, *text = NULL;
    size_t n, len;
    imp_status s = template_text(c, &tmpl, &e);
    if (s == IMP_OK && !tmpl && !c->o.model)
        s = err_set(&e, IMP_E_USAGE,
            "template: give a model (-m) or a template (--template FILE, --chat-template NAME)");
    if (s == IMP_OK && c->o.model)
        s = cli_load_model(c, &e);
    if (s == IMP_OK)
        s = cli_read_prompt(c, &request, &n, &e);
    if (s == IMP_OK)
        s = imp_chat_render(c->model, tmpl, request, n, &text, &len, &e);
    if (s == IMP_OK)
        fwrite(text, 1, len, stdout);
    mem_free(request);
    imp_free(text);
    if (s == IMP_E_USAGE && request) /* the template refused the request: a failure, not a wrong command line */
        e.status = IMP_E_PARSE;
    return s == IMP_OK ? 0 : cli_fail(&e);
}

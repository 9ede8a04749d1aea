/* imp logits: float32 logits of given ids as a NumPy file, [tokens, vocabulary]. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/cli.h"

typedef struct writer {
    FILE *f;
    imp_err err;
} writer;

static void on_event(void *user, const imp_event *ev)
{
    writer *w = user;
    if (ev->kind == IMP_EVENT_LOGITS && fwrite(ev->logits, sizeof(float), ev->n_vocab, w->f) != ev->n_vocab)
        err_set(&w->err, IMP_E_IO, "cannot write the logits: is the disk full?");
    else if (ev->kind == IMP_EVENT_DONE && ev->status != IMP_OK)
        err_set(&w->err, ev->status, "%s", ev->message ? ev->message : imp_status_text(ev->status));
}

/* NPY 1.0: magic, version, length of a padded Python dictionary. */
static void npy_header(FILE *f, size_t rows, size_t cols)
{
    char dict[128];
    int n = snprintf(dict, sizeof dict, "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }", rows, cols);
    while ((10 + n + 1) % 64)
        dict[n++] = ' ';
    dict[n++] = '\n';
    fwrite("\x93NUMPY\x01\x00", 1, 8, f);
    fputc(n & 255, f);
    fputc(n >> 8, f);
    fwrite(dict, 1, (size_t)n, f);
}

static imp_status write_logits(cli *c, const int32_t *ids, size_t n, FILE *f, imp_err *e)
{
    imp_model_info info = {.size = sizeof info};
    imp_model_get_info(c->model, &info);
    npy_header(f, c->o.last ? 1 : n, info.n_vocab);
    imp_request r;
    imp_request_init(&r);
    r.prompt = ids;
    r.n_prompt = (uint32_t)n;
    r.max_tokens = 1;
    r.echo_logits = !c->o.last;
    r.last_logits = c->o.last;
    writer w = {.f = f};
    uint64_t id;
    imp_status s = imp_submit(c->engine, &r, on_event, &w, &id, e);
    if (s != IMP_OK)
        return s;
    cli_set_request(id);
    imp_wait(c->engine, id, -1);
    cli_set_request(0);
    return w.err.status == IMP_OK ? IMP_OK : err_set(e, w.err.status, "%s", w.err.message);
}

int cmd_logits(cli *c)
{
    imp_err e = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    imp_status s = IMP_OK;
    if (!c->o.ids_text)
        s = err_set(&e, IMP_E_USAGE, "no ids: give them with --ids \"1,2,3\"");
    else if (!c->o.output)
        s = err_set(&e, IMP_E_USAGE, "no output: give a file with -o OUT.npy");
    if (s == IMP_OK)
        s = cli_parse_ids(c->o.ids_text, &ids, &n, &e);
    if (s == IMP_OK && n == 0)
        s = err_set(&e, IMP_E_USAGE, "--ids: wanted at least one id");
    if (s == IMP_OK)
        s = cli_load_engine(c, 64, &e);
    char *tmp = s == IMP_OK ? arena_printf(&c->mem, "%s.tmp.%ld", c->o.output, (long)getpid()) : NULL;
    FILE *f = tmp ? fopen(tmp, "wb") : NULL;
    if (s == IMP_OK && !f)
        s = err_set(&e, IMP_E_IO, "%s: cannot write here", c->o.output);
    if (s == IMP_OK)
        s = write_logits(c, ids, n, f, &e);
    if (f && fclose(f) && s == IMP_OK)
        s = err_set(&e, IMP_E_IO, "%s: cannot write: is the disk full?", c->o.output);
    if (s == IMP_OK && rename(tmp, c->o.output))
        s = err_set(&e, IMP_E_IO, "%s: cannot write here", c->o.output);
    if (s != IMP_OK && f)
        unlink(tmp);
    mem_free(ids);
    return s == IMP_OK ? 0 : cli_fail(&e);
}

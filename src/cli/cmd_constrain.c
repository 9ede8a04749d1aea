/* imp constrain: for each line of stdin (a JSON string: one candidate text) `accept` or `reject`; with a model, the
 * time that each token's mask takes, on stderr. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "constrain/constrain.h"

#define MAX_TEXT ((size_t)16 << 20)

static imp_status compile(cli *c, constrain_prog **out, imp_err *e)
{
    const char *path = c->o.schema ? c->o.schema : c->o.grammar;
    const constrain_options how = {.key_order = cli_key_order(&c->o)};
    if ((c->o.schema != NULL) + (c->o.regex != NULL) + (c->o.grammar != NULL) != 1)
        return err_set(e, IMP_E_USAGE, "give one of --schema FILE, --regex R, --grammar FILE");
    if (c->o.regex)
        return constrain_compile_regex(c->o.regex, strlen(c->o.regex), NULL, out, e);
    char *text;
    size_t n;
    imp_status s = file_read_all(path, MAX_TEXT, &text, &n, e);
    if (s != IMP_OK)
        return s;
    imp_err why = {0};
    s = c->o.schema ? constrain_compile_schema(text, n, &how, out, &why)
                    : constrain_compile_grammar(text, n, NULL, out, &why);
    mem_free(text);
    return s == IMP_OK ? IMP_OK : err_set(e, s, "%s: %s", path, why.message);
}

/* The model's vocabulary, through the public API alone. */
static imp_status vocabulary(cli *c, constrain_vocab **out, imp_err *e)
{
    imp_model_info info = {.size = sizeof info};
    imp_model_get_info(c->model, &info);
    if (!info.has_tokenizer)
        return err_set(e, IMP_E_UNSUPPORTED, "%s: has no tokenizer", info.path);
    constrain_token *t = mem_calloc(info.n_vocab, sizeof *t);
    if (!t)
        return err_oom(e, "vocabulary", info.n_vocab * sizeof *t);
    for (uint32_t i = 0; i < info.n_vocab; i++) {
        size_t n;
        imp_token_bytes(c->model, (int32_t)i, &t[i].s, &n);
        t[i].eos = imp_token_is_eog(c->model, (int32_t)i);
        t[i].n = t[i].eos || n > UINT32_MAX ? 0 : (unsigned)n;
    }
    imp_status s = constrain_vocab_new(t, info.n_vocab, out, e);
    mem_free(t);
    return s;
}

typedef struct mask_time {
    uint64_t n;
    double total_us, max_us;
} mask_time;

/* Walks the text token by token, timing each mask; the verdict is by bytes, so tokenisation cannot change it. */
static imp_status time_masks(cli *c, constrain_state *st, const char *text, size_t n, mask_time *m, imp_err *e)
{
    imp_model_info info = {.size = sizeof info};
    imp_model_get_info(c->model, &info);
    uint32_t *bits = mem_calloc(info.n_vocab / 32 + 1, sizeof *bits);
    int32_t *ids = NULL;
    size_t n_ids = 0;
    imp_status s = bits ? imp_tokenize(c->model, text, n, 0, &ids, &n_ids, e) : err_oom(e, "mask", info.n_vocab / 8);
    constrain_state_reset(st);
    for (size_t i = 0; i < n_ids && s == IMP_OK; i++) {
        int64_t t0 = clock_ns();
        s = constrain_state_mask(st, bits);
        double us = (double)(clock_ns() - t0) * 1e-3;
        m->n++;
        m->total_us += us;
        m->max_us = us > m->max_us ? us : m->max_us;
        if (!constrain_state_accept_token(st, ids[i]))
            break;
    }
    imp_free(ids);
    mem_free(bits);
    return s;
}

static imp_status one_line(cli *c, constrain_state *st, const char *line, size_t n, size_t number, mask_time *m,
                           imp_err *e)
{
    jr r;
    jr_str v;
    strbuf text = {0};
    char name[32];
    snprintf(name, sizeof name, "line %zu", number);
    jr_init(&r, line, n, name, e);
    if (!jr_string(&r, &v) || !jr_end(&r))
        return e->status;
    jr_str_decode(&v, &text);
    imp_status s = text.failed ? err_oom(e, name, n) : IMP_OK;
    if (s == IMP_OK) {
        constrain_state_reset(st);
        bool ok = constrain_state_accept_bytes(st, text.s ? text.s : "", text.n) && constrain_state_is_complete(st);
        puts(ok ? "accept" : "reject");
        if (c->model)
            s = time_masks(c, st, text.s ? text.s : "", text.n, m, e);
    }
    sb_free(&text);
    return s;
}

int cmd_constrain(cli *c)
{
    imp_err e = {0};
    constrain_prog *prog = NULL;
    constrain_vocab *vocab = NULL;
    constrain_state *st = NULL;
    mask_time m = {0};
    char *text = NULL;
    size_t n = 0;
    int64_t t0 = clock_ns();
    imp_status s = compile(c, &prog, &e);
    double compile_ms = (double)(clock_ns() - t0) * 1e-6;
    if (s == IMP_OK && c->o.model && (s = cli_load_model(c, &e)) == IMP_OK)
        s = vocabulary(c, &vocab, &e);
    if (s == IMP_OK)
        s = constrain_state_new(prog, vocab, &st, &e);
    if (s == IMP_OK)
        s = file_read_all("-", (size_t)256 << 20, &text, &n, &e);
    for (size_t pos = 0, number = 1; s == IMP_OK && pos < n; number++) {
        const char *nl = memchr(text + pos, '\n', n - pos);
        size_t len = nl ? (size_t)(nl - text) - pos : n - pos;
        if (len)
            s = one_line(c, st, text + pos, len, number, &m, &e);
        pos += len + 1;
    }
    if (s == IMP_OK && m.n)
        fprintf(stderr, "[compiled in %.2f ms; %llu masks, %.1f us each, at most %.1f us]\n", compile_ms,
                (unsigned long long)m.n, m.total_us / (double)m.n, m.max_us);
    constrain_state_free(st);
    constrain_vocab_free(vocab);
    constrain_prog_free(prog);
    mem_free(text);
    return s == IMP_OK ? 0 : cli_fail(&e);
}

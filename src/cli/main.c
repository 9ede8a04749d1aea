/* imp: one executable, a table of subcommands. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cli/cli.h"

const command cli_commands[] = {
    {"run", CMD_RUN, 0, cmd_run, "imp run -m MODEL [-p TEXT | -f FILE | stdin] [-n N]",
     "one prompt, the answer streamed to stdout"},
    {"chat", CMD_CHAT, 0, cmd_chat, "imp chat -m MODEL [--system TEXT]",
     "a conversation, on a terminal or one message a line"},
    {"serve", CMD_SERVE, 0, cmd_serve, "imp serve -m MODEL [--host 127.0.0.1] [--port 8080]", "the HTTP server"},
    {"bench", CMD_BENCH, 0, cmd_bench, "imp bench -m MODEL [-p 512] [-n 128] [-d 0] [-r 5] [-o md|csv|json|jsonl]",
     "measure speed"},
    {"logits", CMD_LOGITS, 0, cmd_logits, "imp logits -m MODEL --ids \"1,2,3\" -o OUT.npy [--last]",
     "logits as a NumPy file"},
    {"perplexity", CMD_PERPLEXITY, 0, cmd_perplexity, "imp perplexity -m MODEL -f TEXT [-c 512]",
     "perplexity of a text"},
    {"tokenize", CMD_TOKENIZE, 0, cmd_tokenize,
     "imp tokenize -m MODEL [-p TEXT | stdin] [--ids \"1,2\"] [--no-special]", "text to ids, ids to text"},
    {"template", CMD_TEMPLATE, 0, cmd_template, "imp template (-m MODEL | --template FILE) < REQUEST.json",
     "render a chat request"},
    {"constrain", CMD_CONSTRAIN, 0, cmd_constrain,
     "imp constrain (--schema FILE | --regex R | --grammar FILE) [-m MODEL] < LINES", "accept or reject texts"},
    {"inspect", CMD_INSPECT, 1, cmd_inspect, "imp inspect MODEL [--plan] [--json]",
     "what is in a model, and what it needs"},
    {"quantize", CMD_QUANTIZE, 3, NULL, "imp quantize IN OUT TYPE [--imatrix FILE]", "write a GGUF in another format"},
    {"imatrix", CMD_IMATRIX, 0, NULL, "imp imatrix -m MODEL -f TEXT -o FILE", "importance matrix for quantize"},
    {"pull", CMD_PULL, 1, cmd_pull, "imp pull ORG/NAME[:FILE|:QUANT]", "download a model; its path on stdout"},
    {NULL, 0, 0, NULL, NULL, NULL},
};

/* Links by another name behave as a subcommand. */
static const struct { const char *link, *command; } links[] = {
    {"imp-cli", "run"}, {"imp-server", "serve"}, {"imp-bench", "bench"},
};

/* imp-cli without a prompt, on a terminal, is a conversation. */
static bool wants_chat(int argc, char **argv)
{
    static const char *const prompts[] = {"-p", "--prompt", "-f", "--file", "--help", "-h", "--version"};
    for (int i = 1; i < argc; i++)
        for (size_t k = 0; k < sizeof prompts / sizeof *prompts; k++) {
            size_t n = strlen(prompts[k]);
            if (strncmp(argv[i], prompts[k], n) == 0 && (!argv[i][n] || argv[i][n] == '='))
                return false;
        }
    return isatty(0);
}

static int print_usage(FILE *to)
{
    fprintf(to, "imp %s: runs large language models\n\n"
                "usage: imp COMMAND [options]; imp COMMAND --help tells more\n\n", IMP_VERSION);
    for (const command *c = cli_commands; c->name; c++)
        if (c->run)
            fprintf(to, "  %-11s %s\n", c->name, c->help);
    return to == stdout ? 0 : 2;
}

static int print_help(const command *c)
{
    strbuf b = {0};
    sb_printf(&b, "%s\n  %s\n\n", c->usage, c->help);
    opt_print_help(&cli_options, c->bit, &b);
    fputs(b.s ? b.s : "", stdout);
    sb_free(&b);
    return 0;
}

static imp_status read_conf(cli *c, const char *path, imp_err *e)
{
    char *text;
    size_t n;
    imp_status s = file_read_all(path, 1 << 20, &text, &n, e);
    if (s != IMP_OK)
        return s;
    s = opt_read_conf(&cli_options, path, text, n, &c->o, c->source, &c->mem, e);
    mem_free(text);
    return s;
}

/* --set, then the first imp.conf of --config, $IMP_CONFIG, ./imp.conf, ~/.config/imp/imp.conf. */
static imp_status configure(cli *c, imp_err *e)
{
    imp_status s = IMP_OK;
    for (uint32_t i = 0; i < c->o.set.n && s == IMP_OK; i++) {
        const char *eq = strchr(c->o.set.v[i], '=');
        char *key = eq ? arena_strndup(&c->mem, c->o.set.v[i], (size_t)(eq - c->o.set.v[i])) : NULL;
        s = key ? opt_set_key(&cli_options, key, eq + 1, OPT_FROM_SET, &c->o, c->source, &c->mem, e)
                : err_set(e, IMP_E_USAGE, "--set: wanted section.key=value, got '%s'", c->o.set.v[i]);
    }
    if (s != IMP_OK)
        return s;
    const char *path = c->o.config ? c->o.config : cli_env("IMP_CONFIG");
    if (path)
        return read_conf(c, path, e);
    if (file_exists("imp.conf"))
        return read_conf(c, "imp.conf", e);
    const char *base = cli_env("XDG_CONFIG_HOME"), *home = cli_env("HOME");
    path = base ? arena_printf(&c->mem, "%s/imp/imp.conf", base)
           : home ? arena_printf(&c->mem, "%s/.config/imp/imp.conf", home)
                  : NULL;
    return path && file_exists(path) ? read_conf(c, path, e) : IMP_OK;
}

static int run_command(const command *cmd, int argc, char **argv)
{
    cli c = {.cmd = cmd->bit, .t_start = clock_s()};
    imp_err e = {0};
    options_init(&c.o);
    c.source = mem_calloc(cli_options.n, 1);
    imp_status s = c.source ? opt_parse(&cli_options, cmd->bit, argc, argv, &c.o, c.source, &c.mem, c.rest,
                                        cmd->max_rest, &c.n_rest, &e)
                            : err_oom(&e, "options", cli_options.n);
    int rc;
    if (s == IMP_OK && c.o.help) {
        rc = print_help(cmd);
    } else if (s == IMP_OK && c.o.version) {
        rc = printf("imp %s\n", IMP_VERSION) < 0;
    } else if (s != IMP_OK || (s = configure(&c, &e)) != IMP_OK) {
        rc = cli_fail(&e);
        if (rc == 2)
            fprintf(stderr, "usage: %s (--help tells more)\n", cmd->usage);
    } else {
        cli_catch_interrupt(&c);
        rc = cmd->run(&c);
        cli_close(&c);
    }
    mem_free(c.source);
    arena_free(&c.mem);
    if (fflush(stdout) && rc == 0 && !c.o.help) {
        fprintf(stderr, "imp: stdout: cannot write\n");
        rc = 1;
    }
    return rc;
}

int main(int argc, char **argv)
{
    const char *base = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0], *name = NULL;
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        if (strcmp(base, links[i].link) == 0)
            name = links[i].command;
    if (name && strcmp(name, "run") == 0 && wants_chat(argc, argv))
        name = "chat";
    int skip = 1;
    if (!name) {
        if (argc < 2)
            return print_usage(stderr);
        name = argv[1];
        skip = 2;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0)
        return argc > skip ? cli_help(argc - skip, argv + skip) : print_usage(stdout);
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0)
        return printf("imp %s\n", IMP_VERSION) < 0;
    for (const command *c = cli_commands; c->name; c++)
        if (strcmp(c->name, name) == 0) {
            if (c->run)
                return run_command(c, argc - skip, argv + skip);
            fprintf(stderr, "imp: %s: not built yet\n", name);
            return 2;
        }
    fprintf(stderr, "imp: unknown command '%s'; imp --help lists them\n", name);
    return 2;
}

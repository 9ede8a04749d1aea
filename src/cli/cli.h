/* cli: what the subcommands share. The only code besides the server that talks to people: results on stdout, everything
 * else on stderr, exit status 0, 1 (failed) or 2 (usage). */
#ifndef IMP_CLI_CLI_H
#define IMP_CLI_CLI_H

#include "cli/options.h"
#include "imp.h"

#define CLI_MAX_REST 4

typedef struct cli {
    options o;
    uint8_t *source;           /* [cli_options.n] opt_source */
    const char *rest[CLI_MAX_REST];
    uint32_t n_rest;
    arena mem;
    cmd_bit cmd;
    imp_model *model;
    imp_engine *engine;
    double t_start;            /* when main began */
} cli;

typedef struct command {
    const char *name;
    cmd_bit bit;
    uint32_t max_rest;
    int (*run)(cli *c);        /* exit status; NULL = not built yet */
    const char *usage, *help;
} command;

extern const command cli_commands[]; /* name NULL-terminated */

/* common.c */
int cli_fail(const imp_err *e);                    /* prints "imp: message", returns 1, or 2 for IMP_E_USAGE */
imp_status cli_load_model(cli *c, imp_err *e);     /* c->model from -m */
imp_status cli_load_engine(cli *c, uint32_t n_row, imp_err *e); /* model too, with a progress bar on a terminal */
void cli_close(cli *c);
bool cli_on_terminal(void);                        /* is stderr one? */
/* interrupt.c. Ctrl-C: sets the flag and, with an engine running, cancels the current request. A second one ends the
 * program (130). imp chat takes the signals itself: fn runs on the signal's thread, with SIGINT or SIGTERM, and returns
 * true when it has dealt with it; false ends the program. */
void cli_catch_interrupt(cli *c);
bool cli_interrupted(void);
void cli_interrupt_gently(bool on);                 /* work that asks cli_go_on: the first Ctrl-C only sets the flag */
void cli_set_request(uint64_t id);                 /* what Ctrl-C cancels; 0 = nothing */
void cli_set_engine(imp_engine *g);                /* whose request that is */
typedef bool (*cli_interrupt_fn)(void *user, int sig);
void cli_on_interrupt(cli_interrupt_fn fn, void *user); /* NULL: as before */
/* --chat-template as imp_chat_* take it: NULL, a built-in name, or a file's text (in c->mem). */
imp_status cli_chat_template(cli *c, const char **tmpl, imp_err *e);
/* The prompt text from -p, -f or stdin. text is owned by the caller (imp_free). */
imp_status cli_read_prompt(cli *c, char **text, size_t *n, imp_err *e);
/* --key-order free|schema */
static inline bool cli_key_order(const options *o) { return o->key_order && o->key_order[0] == 's'; }
imp_status cli_parse_ids(const char *text, int32_t **ids, size_t *n, imp_err *e); /* "1, 2,3" or "[1,2]"; imp_free */
imp_status cli_sampling(const cli *c, imp_sampling *s, arena *mem, imp_err *e);   /* defaults, then options */
/* a bar on stderr, false after Ctrl-C */
bool cli_show_progress(void *user, const char *what, uint64_t done, uint64_t total);
bool cli_go_on(void *user, const char *what, uint64_t done, uint64_t total); /* the same without a bar */
void cli_progress_end(void);
/* cmd_pull.c: an -m ORG/NAME:FILE becomes the file, downloaded if need be */
imp_status cli_resolve_model(cli *c, imp_err *e);
/* env.c: the only place that reads the environment */
const char *cli_env(const char *name);

/* cmd_help.c: `imp help --json | --markdown | --man COMMAND`; returns the exit status */
int cli_help(int argc, char **argv);

/* Subcommands. */
int cmd_run(cli *c);
int cmd_chat(cli *c);
int cmd_pull(cli *c);
int cmd_serve(cli *c);
int cmd_tokenize(cli *c);
int cmd_template(cli *c);
int cmd_logits(cli *c);
int cmd_perplexity(cli *c);
int cmd_bench(cli *c);
int cmd_inspect(cli *c);
int cmd_constrain(cli *c);

#endif

/* opt: options as rows of a table. One row gives a command-line spelling, an imp.conf key, a range, a help line and
 * where the value goes; help, man pages and docs are printed from the same rows.
 * The table is constant; values live in a struct of the caller's (offset), strings point into argv or an arena. */
#ifndef IMP_BASE_OPT_H
#define IMP_BASE_OPT_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "base/strbuf.h"

typedef enum opt_type {
    OPT_FLAG,  /* bool; "--name", and "--no-name" to switch it off */
    OPT_INT,   /* int64_t; k, m, g suffixes are not taken */
    OPT_FLOAT, /* double */
    OPT_STR,   /* const char * */
    OPT_LIST   /* opt_list; may be given again and again */
} opt_type;

typedef struct opt_list {
    const char **v;
    uint32_t n;
} opt_list;

typedef struct opt_def {
    const char *name;     /* without dashes: "max-tokens" */
    const char *alias;    /* others, separated by spaces, with dashes: "-n --n-predict"; NULL = none */
    const char *key;      /* imp.conf "section.key"; NULL: command line only */
    opt_type type;
    const char *arg;      /* what stands for the value in help: "N" */
    const char *help;
    const char *choices;  /* OPT_STR: allowed words, separated by '|'; NULL = any */
    double min, max;      /* numbers; both 0 = any */
    size_t off;           /* into the values struct */
    uint32_t cmds;        /* bit set of subcommands that take it */
    bool later;           /* its feature is not built yet: refused by name */
} opt_def;

typedef struct opt_table {
    const opt_def *def;
    uint32_t n;
} opt_table;

typedef enum opt_source { OPT_UNSET = 0, OPT_FROM_CONF, OPT_FROM_SET, OPT_FROM_ARGS } opt_source;

/* Parses argv[0..argc) for subcommand bit cmd. What is no option goes to rest (at most max_rest, else an error); "--"
 * ends options. source[n] receives where each value came from. IMP_E_USAGE names the option and suggests a near one. */
imp_status opt_parse(const opt_table *t, uint32_t cmd, int argc, char **argv, void *values, uint8_t *source, arena *mem,
                     const char **rest, uint32_t max_rest, uint32_t *n_rest, imp_err *e);
/* Sets by key ("section.key") unless a stronger source has set it already. */
imp_status opt_set_key(const opt_table *t, const char *key, const char *value, opt_source from, void *values,
                       uint8_t *source, arena *mem, imp_err *e);
/* imp.conf text: [section], key = value, # comments, optional double quotes. Every key must be in the table. */
imp_status opt_read_conf(const opt_table *t, const char *name, const char *text, size_t n, void *values,
                         uint8_t *source, arena *mem, imp_err *e);
/* The name nearest to `word` among the options of cmd (or keys, cmd 0); NULL when none is near. */
const char *opt_suggest(const opt_table *t, uint32_t cmd, const char *word);
void opt_print_help(const opt_table *t, uint32_t cmd, strbuf *out);
void opt_print_markdown(const opt_table *t, strbuf *out); /* docs/imp.conf.md's table */
void opt_print_man(const opt_table *t, uint32_t cmd, strbuf *out);

#endif

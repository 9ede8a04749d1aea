/* imp help: what the program says about itself, from its own tables. `imp help --json` is one document that the
 * README's tables are made of, `imp help --markdown` the table of imp.conf's keys, `imp help --man COMMAND` a manual
 * page. */
#include <stdio.h>
#include <string.h>

#include "base/jsonw.h"
#include "cli/cli.h"
#include "model/arch.h"
#include "quant/quant.h"

static int print_and_free(strbuf *b)
{
    bool ok = b->s && fputs(b->s, stdout) >= 0;
    sb_free(b);
    return ok ? 0 : 1;
}

static void add_options(jw *w, uint32_t cmd)
{
    jw_key(w, "options");
    jw_array(w);
    for (uint32_t i = 0; i < cli_options.n; i++)
        if (cli_options.def[i].cmds & cmd && !cli_options.def[i].later)
            jw_str(w, cli_options.def[i].name);
    jw_end_array(w);
}

static int print_json(void)
{
    strbuf b = {0};
    jw w;
    jw_init(&w, &b);
    jw_object(&w);
    jw_kstr(&w, "version", IMP_VERSION);
    jw_key(&w, "commands");
    jw_array(&w);
    for (const command *c = cli_commands; c->name; c++) {
        jw_object(&w);
        jw_kstr(&w, "name", c->name);
        jw_kstr(&w, "usage", c->usage);
        jw_kstr(&w, "help", c->help);
        jw_kbool(&w, "built", c->run != NULL);
        add_options(&w, c->bit);
        jw_end_object(&w);
    }
    jw_end_array(&w);
    jw_key(&w, "families");
    jw_array(&w);
    for (const arch_def *const *a = arch_list; *a; a++) {
        jw_object(&w);
        jw_kstr(&w, "title", (*a)->title);
        jw_key(&w, "names");
        jw_array(&w);
        for (size_t i = 0; i < sizeof (*a)->names / sizeof *(*a)->names && (*a)->names[i]; i++)
            jw_str(&w, (*a)->names[i]);
        jw_end_array(&w);
        jw_end_object(&w);
    }
    jw_end_array(&w);
    jw_key(&w, "formats");
    jw_array(&w);
    for (size_t i = 0; quant_at(i); i++) {
        const quant_fmt *f = quant_at(i);
        jw_object(&w);
        jw_kstr(&w, "name", f->name);
        jw_kint(&w, "block", f->block);
        jw_kint(&w, "bytes", f->bytes);
        jw_kbool(&w, "decode", f->decode != NULL);
        jw_kbool(&w, "encode", f->encode != NULL);
        jw_end_object(&w);
    }
    jw_end_array(&w);
    jw_end_object(&w);
    sb_str(&b, "\n");
    return print_and_free(&b);
}

static int print_man(const command *c)
{
    strbuf b = {0};
    sb_printf(&b, ".TH IMP-%s 1 \"\" \"imp %s\"\n.SH NAME\nimp\\-%s \\- %s\n.SH SYNOPSIS\n%s\n.SH OPTIONS\n",
              c->name, IMP_VERSION, c->name, c->help, c->usage);
    opt_print_man(&cli_options, c->bit, &b);
    sb_str(&b, ".SH EXIT STATUS\n"
               "0: done. 1: failed, with one line on stderr. 2: wrong usage. 130: ended by Ctrl\\-C.\n");
    return print_and_free(&b);
}

static int print_main_man(void)
{
    strbuf b = {0};
    sb_printf(&b, ".TH IMP 1 \"\" \"imp %s\"\n.SH NAME\nimp \\- runs large language models\n"
                  ".SH SYNOPSIS\nimp COMMAND [options]\n.SH COMMANDS\n", IMP_VERSION);
    for (const command *c = cli_commands; c->name; c++)
        if (c->run)
            sb_printf(&b, ".TP\n\\fBimp\\-%s\\fR(1)\n%s\n", c->name, c->help);
    sb_str(&b, ".SH FILES\n./imp.conf, ~/.config/imp/imp.conf: options that are always wanted.\n");
    return print_and_free(&b);
}

int cli_help(int argc, char **argv)
{
    const char *form = argc > 0 ? argv[0] : "", *name = argc > 1 ? argv[1] : "";
    if (strcmp(form, "--json") == 0 && argc == 1)
        return print_json();
    if (strcmp(form, "--markdown") == 0 && argc == 1) {
        strbuf b = {0};
        opt_print_markdown(&cli_options, &b);
        return print_and_free(&b);
    }
    if (strcmp(form, "--man") == 0 && argc == 1)
        return print_main_man();
    for (const command *c = cli_commands; c->name && strcmp(form, "--man") == 0 && argc == 2; c++)
        if (c->run && strcmp(c->name, name) == 0)
            return print_man(c);
    if (strcmp(form, "--list") == 0 && argc == 1) {
        for (const command *c = cli_commands; c->name; c++)
            if (c->run)
                puts(c->name);
        return 0;
    }
    fprintf(stderr, "imp: help: wanted --json, --markdown, --list, --man or --man COMMAND\n");
    return 2;
}

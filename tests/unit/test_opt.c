/* Options: what the command line and imp.conf accept, which source wins, and what they say about mistakes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/opt.h"

enum { RUN = 1, SERVE = 2 };

typedef struct values {
    bool verbose;
    int64_t port, seed;
    double temp;
    const char *host, *mode, *later;
    opt_list stop;
} values;

#define AT(field) .off = offsetof(values, field)
static const opt_def defs[] = {
    {.name = "verbose", .alias = "-v --loud", .key = "log.verbose", .type = OPT_FLAG, AT(verbose),
     .cmds = RUN | SERVE, .help = "say more"},
    {.name = "port", .alias = "-P", .key = "server.port", .type = OPT_INT, .arg = "N", .min = 0, .max = 65535,
     AT(port), .cmds = SERVE, .help = "port"},
    {.name = "seed", .key = "sampling.seed", .type = OPT_INT, .arg = "N", .min = -1, .max = 9e15,
     AT(seed), .cmds = RUN, .help = ".seed's help"},
    {.name = "temperature", .alias = "--temp", .key = "sampling.temperature", .type = OPT_FLOAT, .arg = "X",
     .min = 0, .max = 10, AT(temp), .cmds = RUN, .help = "heat"},
    {.name = "host", .key = "server.host", .type = OPT_STR, .arg = "ADDRESS", AT(host),
     .cmds = SERVE, .help = "address"},
    {.name = "mode", .key = "log.mode", .type = OPT_STR, .choices = "fast|slow", AT(mode), .cmds = RUN, .help = "pace"},
    {.name = "stop", .key = "sampling.stop", .type = OPT_LIST, .arg = "TEXT", AT(stop), .cmds = RUN, .help = "ends"},
    {.name = "draft", .key = "model.draft", .type = OPT_STR, .later = true, AT(later), .cmds = RUN, .help = "not yet"},
};
#define N (sizeof defs / sizeof *defs)
static const opt_table table = {defs, N};

typedef struct fix {
    values v;
    uint8_t source[N];
    arena mem;
    imp_err e;
    const char *rest[2];
    uint32_t n_rest;
} fix;

static imp_status args(fix *f, uint32_t cmd, const char *line)
{
    char *copy = arena_strndup(&f->mem, line, strlen(line)), *argv[16];
    int n = 0;
    for (char *w = strtok(copy, " "); w && n < 16; w = strtok(NULL, " "))
        argv[n++] = w;
    return opt_parse(&table, cmd, n, argv, &f->v, f->source, &f->mem, f->rest, 2, &f->n_rest, &f->e);
}

static imp_status conf(fix *f, const char *text)
{
    return opt_read_conf(&table, "t.conf", text, strlen(text), &f->v, f->source, &f->mem, &f->e);
}

/* ---- the command line ------------------------------------------------------------------------------------------- */
static void test_spellings(void **state)
{
    (void)state;
    static const struct { const char *line; double temp; bool verbose; uint32_t n_rest; } ok[] = {
        {"--temperature 0.5", 0.5, false, 0}, {"--temperature=0.5", 0.5, false, 0}, {"--temp 2 -v", 2, true, 0},
        {"--loud --no-verbose", 0, false, 0}, {"--verbose=yes", 0, true, 0}, {"--verbose=off", 0, false, 0},
        {"a --verbose b", 0, true, 2}, {"-- --verbose", 0, false, 1}, {"-", 0, false, 1}};
    for (size_t i = 0; i < sizeof ok / sizeof *ok; i++) {
        fix f = {0};
        assert_int_equal(args(&f, RUN, ok[i].line), IMP_OK);
        assert_true(f.v.temp == ok[i].temp);
        assert_int_equal(f.v.verbose, ok[i].verbose);
        assert_int_equal(f.n_rest, ok[i].n_rest);
        arena_free(&f.mem);
    }
}

static void test_command_line_mistakes(void **state)
{
    (void)state;
    static const struct { const char *line, *message; } bad[] = {
        {"--temprature 1", "unknown option --temprature (did you mean --temperature?)"},
        {"--nonsense", "unknown option --nonsense"},
        {"--port 1", "unknown option --port"},              /* another command's */
        {"--temperature", "option --temperature: wanted X"},
        {"--temperature 11", "wanted 0 to 10, got 11"},
        {"--temperature nan", "wanted a number, got 'nan'"},
        {"--temperature 1x", "wanted a number, got '1x'"},
        {"--temperature=", "wanted a number, got ''"},
        {"--seed 1.5", "wanted an integer, got '1.5'"},
        {"--seed 1e99", "wanted -1 to 9e+15"},
        {"--seed inf", "wanted an integer"},
        {"--verbose=maybe", "wanted true or false, got 'maybe'"},
        {"--mode fas", "wanted fast|slow, got 'fas'"},
        {"--mode f", "wanted fast|slow, got 'f'"},
        {"--no-seed", "unknown option --no-seed"},
        {"--draft x", "option --draft: not built yet"},
        {"--draf x", "unknown option --draf"},              /* nothing unbuilt is suggested */
        {"a b c", "unexpected argument 'c'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fix f = {0};
        assert_int_equal(args(&f, RUN, bad[i].line), IMP_E_USAGE);
        if (!strstr(f.e.message, bad[i].message))
            fail_msg("%s: wanted '%s', got '%s'", bad[i].line, bad[i].message, f.e.message);
        arena_free(&f.mem);
    }
    fix f = {0};
    assert_int_equal(args(&f, RUN, "--draf x"), IMP_E_USAGE);
    assert_null(strstr(f.e.message, "did you mean"));
    arena_free(&f.mem);
}

static void test_lists_keep_their_order(void **state)
{
    (void)state;
    fix f = {0};
    assert_int_equal(args(&f, RUN, "--stop a --stop b --stop=c"), IMP_OK);
    assert_int_equal(f.v.stop.n, 3);
    assert_string_equal(f.v.stop.v[0], "a");
    assert_string_equal(f.v.stop.v[1], "b");
    assert_string_equal(f.v.stop.v[2], "c");
    arena_free(&f.mem);
}

/* ---- imp.conf --------------------------------------------------------------------------------------------------- */
static void test_conf(void **state)
{
    (void)state;
    fix f = {0};
    assert_int_equal(conf(&f, "# all of it\r\n\n[server]\r\n  port = 80 # web\n host=\"a # b\"  # quoted\n"
                              "[ log ]\nverbose = on\n"
                              "[sampling]\nstop = one\nstop = \"\"\nstop=\" two \"\ntemperature=1e0"), IMP_OK);
    assert_int_equal(f.v.port, 80);
    assert_string_equal(f.v.host, "a # b");
    assert_true(f.v.verbose && f.v.temp == 1);
    assert_int_equal(f.v.stop.n, 3);
    assert_string_equal(f.v.stop.v[1], "");
    assert_string_equal(f.v.stop.v[2], " two ");
    arena_free(&f.mem);
}

static void test_conf_mistakes(void **state)
{
    (void)state;
    static const struct { const char *text; size_t n; imp_status s; const char *message; } bad[] = {
#define T(text) text, sizeof text - 1
        {T("[server]\nprot = 1"), IMP_E_USAGE, "t.conf: line 2: unknown key server.prot (did you mean server.port?)"},
        {T("port = 1"), IMP_E_USAGE, "line 1: unknown key port (did you mean server.port?)"},
        {T("[sampling]\nport = 1"), IMP_E_USAGE, "unknown key sampling.port (did you mean server.port?)"},
        {T("[x]\nqwertyuiop = 1"), IMP_E_USAGE, "unknown key x.qwertyuiop"},
        {T("[server]\n\n\nport = 65536"), IMP_E_USAGE, "line 4: server.port: wanted 0 to 65535"},
        {T("[server\nport = 1"), IMP_E_PARSE, "line 1: wanted ]"},
        {T("[server] port = 1"), IMP_E_PARSE, "line 1: something follows the section's name"},
        {T("[server]\nport"), IMP_E_PARSE, "line 2: wanted key = value"},
        {T("[server]\nhost = \"a"), IMP_E_PARSE, "a quote is not closed"},
        {T("[server]\nhost = \"a\" b"), IMP_E_PARSE, "something follows the closing quote"},
        {T("[server]\nhost = a\0b"), IMP_E_PARSE, "a zero byte"},
        {T("[server]\nport ="), IMP_E_USAGE, "wanted an integer, got ''"},
        {T("[model]\ndraft = x"), IMP_E_USAGE, "key model.draft: not built yet"},
        {T("= 1"), IMP_E_USAGE, "unknown key"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fix f = {0};
        assert_int_equal(opt_read_conf(&table, "t.conf", bad[i].text, bad[i].n, &f.v, f.source, &f.mem, &f.e),
                         bad[i].s);
        if (!strstr(f.e.message, bad[i].message))
            fail_msg("%zu: wanted '%s', got '%s'", i, bad[i].message, f.e.message);
        arena_free(&f.mem);
    }
}

/* arguments > --set > the file, whichever is read first; of two equals the later one. */
static void test_the_stronger_source_wins(void **state)
{
    (void)state;
    fix f = {0};
    assert_int_equal(args(&f, RUN, "--temp 1 --stop a"), IMP_OK);
    assert_int_equal(opt_set_key(&table, "sampling.temperature", "2", OPT_FROM_SET, &f.v, f.source, &f.mem, &f.e),
                     IMP_OK);
    assert_int_equal(opt_set_key(&table, "sampling.seed", "3", OPT_FROM_SET, &f.v, f.source, &f.mem, &f.e), IMP_OK);
    assert_int_equal(opt_set_key(&table, "sampling.seed", "4", OPT_FROM_SET, &f.v, f.source, &f.mem, &f.e), IMP_OK);
    assert_int_equal(conf(&f, "[sampling]\ntemperature = 5\nseed = 6\nstop = b\n[server]\nport=7\nport=8"), IMP_OK);
    assert_true(f.v.temp == 1);
    assert_int_equal(f.v.seed, 4);
    assert_int_equal(f.v.port, 8);
    assert_int_equal(f.v.stop.n, 1);
    assert_int_equal(f.source[1], OPT_FROM_CONF);
    assert_int_equal(f.source[2], OPT_FROM_SET);
    assert_int_equal(f.source[3], OPT_FROM_ARGS);
    assert_int_equal(f.source[4], OPT_UNSET);
    arena_free(&f.mem);
}

/* A list of many entries costs memory in proportion, not squared: 2e5 entries squared would be 160 GB. */
static void test_a_long_list_is_cheap(void **state)
{
    (void)state;
    fix f = {0};
    enum { COUNT = 200000 };
    strbuf b = {0};
    sb_str(&b, "[sampling]\n");
    for (int i = 0; i < COUNT; i++)
        sb_str(&b, "stop=x\n");
    assert_int_equal(opt_read_conf(&table, "t.conf", b.s, b.n, &f.v, f.source, &f.mem, &f.e), IMP_OK);
    assert_int_equal(f.v.stop.n, COUNT);
    sb_free(&b);
    arena_free(&f.mem);
}

/* ---- printing --------------------------------------------------------------------------------------------------- */
static void test_help_man_and_markdown_come_from_the_rows(void **state)
{
    (void)state;
    strbuf help = {0}, man = {0}, md = {0};
    opt_print_help(&table, RUN, &help);
    opt_print_man(&table, RUN, &man);
    opt_print_markdown(&table, &md);
    for (size_t i = 0; i < N; i++) {
        char name[64];
        bool shown = (defs[i].cmds & RUN) && !defs[i].later;
        snprintf(name, sizeof name, "--%s", defs[i].name);
        assert_int_equal(strstr(help.s, name) != NULL, shown);
        snprintf(name, sizeof name, "\\fB\\-\\-%s\\fR", defs[i].name);
        assert_int_equal(strstr(man.s, name) != NULL, shown);
        assert_int_equal(strstr(md.s, defs[i].key) != NULL, !defs[i].later);
    }
    assert_non_null(strstr(help.s, "-v, --verbose"));
    assert_non_null(strstr(man.s, "\n\\&.seed's help")); /* a leading point is troff's */
    sb_free(&help);
    sb_free(&man);
    sb_free(&md);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spellings), cmocka_unit_test(test_command_line_mistakes),
        cmocka_unit_test(test_lists_keep_their_order), cmocka_unit_test(test_conf),
        cmocka_unit_test(test_conf_mistakes), cmocka_unit_test(test_the_stronger_source_wins),
        cmocka_unit_test(test_a_long_list_is_cheap), cmocka_unit_test(test_help_man_and_markdown_come_from_the_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

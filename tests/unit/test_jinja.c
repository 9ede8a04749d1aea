/* Jinja: every case of tests/fixtures/jinja_cases.json (made by Python's jinja2) renders equal or fails where Python
 * fails; limits hold; errors carry line and column; provenance follows every byte; running out of memory is
 * survived. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "text/jinja.h"

static const struct tm NOW = {.tm_year = 125, .tm_mon = 6, .tm_mday = 1, .tm_hour = 12, .tm_min = 34, .tm_sec = 56,
                              .tm_wday = 2, .tm_yday = 181};

static imp_status render(const char *t, size_t n, jval vars, const jinja_env *env, jinja_out *out, imp_err *e)
{
    jinja_program *p;
    imp_status s = jinja_compile(&p, t, n, "t", e);
    if (!s)
        s = jinja_render(p, vars, env, out, e);
    jinja_free(p);
    return s;
}

/* Renders with vars given as JSON; returns "ERR ..." on failure. Caller frees. */
static char *quick_env(const char *t, const char *json, const jinja_env *env)
{
    arena a = {0};
    imp_err e = {0};
    jinja_out out = {0};
    jval v;
    assert_int_equal(jval_parse(&a, json, strlen(json), true, "vars", &v, &e), IMP_OK);
    if (render(t, strlen(t), v, env, &out, &e)) {
        sb_clear(&out.text);
        sb_printf(&out.text, "ERR %s", e.message);
    }
    char *s = sb_take(&out.text);
    jinja_out_free(&out);
    arena_free(&a);
    return s;
}
static char *quick(const char *t, const char *json) { return quick_env(t, json, NULL); }

static void check(const char *t, const char *json, const char *want)
{
    char *s = quick(t, json);
    assert_string_equal(s, want);
    mem_free(s);
}

static void cases_equal_python(void **state)
{
    (void)state;
    char *text;
    size_t n, bad = 0;
    arena a = {0};
    imp_err e = {0};
    jval doc;
    jinja_env env = {.now = &NOW};
    assert_int_equal(file_read_all("tests/fixtures/jinja_cases.json", 4 << 20, &text, &n, &e), IMP_OK);
    assert_int_equal(jval_parse(&a, text, n, true, "cases", &doc, &e), IMP_OK);
    const jval *vars = jval_get(doc, "vars"), *cases = jval_get(doc, "cases");
    assert_true(cases->u.l->n > 2000);
    for (size_t i = 0; i < cases->u.l->n; i++) {
        const jval *c = cases->u.l->v[i].u.l->v;
        jinja_out out = {0};
        imp_err err = {0};
        imp_status s = render(c[0].u.s->s, c[0].u.s->n, *vars, &env, &out, &err);
        bool ok = c[1].t == J_NONE ? s != IMP_OK
                                   : s == IMP_OK && out.text.n == c[1].u.s->n &&
                                         (!out.text.n || !memcmp(out.text.s, c[1].u.s->s, out.text.n));
        if (!ok && bad++ < 10)
            print_error("%.*s\n  want %.*s\n  got  %s\n", (int)c[0].u.s->n, c[0].u.s->s,
                        c[1].t == J_NONE ? 7 : (int)c[1].u.s->n, c[1].t == J_NONE ? "failure" : c[1].u.s->s,
                        s ? err.message : out.text.s);
        jinja_out_free(&out);
    }
    arena_free(&a);
    mem_free(text);
    assert_int_equal(bad, 0);
}

static void errors_have_places(void **state)
{
    (void)state;
    check("a\nb {{ x.y }}", "{}", "ERR t: line 2, column 8: 'x' is undefined");
    check("{% if x %}\n\n  {{ 1 + }}", "{}", "ERR t: line 3, column 10: expected an expression, got '}}'");
    check("é{{ raise_exception('no ' ~ x) }}", "{\"x\": 5}", "ERR t: line 1, column 20: no 5");
    check("{% for x in y %}", "{}", "ERR t: line 1, column 17: unexpected end of template, wanted 'endfor'");
    check("\n {% frob %}", "{}", "ERR t: line 2, column 5: unknown tag, got name 'frob'");
    check("{{ 'abc }}", "{}", "ERR t: line 1, column 4: string without an end");
    check("{{ x | frob }}", "{}", "ERR t: line 1, column 8: no filter named 'frob'");
    check("{{ 'a' + 1 }}", "{}", "ERR t: line 1, column 8: can only concatenate str (not \"int\") to str");
}

static void limited(const char *t, const char *json, const jinja_env *env, const char *part)
{
    char *s = quick_env(t, json, env);
    if (strncmp(s, "ERR", 3) || !strstr(s, part))
        fail_msg("%s: wanted a failure about '%s', got %.200s", t, part, s);
    mem_free(s);
}

static void limits_hold(void **state)
{
    (void)state;
    jinja_env small = {.max_steps = 5000, .max_memory = 4 << 20, .max_output = 10000, .max_depth = 50};
    static const struct { const char *t, *part; } cases[] = {
        {"{% for a in range(900) %}{% for b in range(900) %}{% endfor %}{% endfor %}", "steps"},
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "levels deep"},
        {"{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}", "levels deep"},
        {"{{ 'x' * 1000000000 }}", ""}, {"{{ [1] * 1000000000 }}", ""}, {"{{ range(1000000000) }}", "range of more"},
        {"{{ '%1000000000d' % 1 }}", ""}, {"{{ '{:1000000000}'.format(1) }}", ""}, {"{{ 'a'.center(1000000000) }}", ""},
        {"{{ 'a'.ljust(100000000) }}", ""}, {"{{ 'a'.zfill(100000000) }}", ""},
        {"{{ '\t'.expandtabs(100000000) }}", ""},
        {"{{ 'a' | indent(100000000, true) }}", ""}, {"{{ [1] | batch(100000000, 1) | list }}", ""},
        {"{{ [1] | slice(100000000) | list }}", ""}, {"{{ [1] | tojson(indent=100000000) }}", ""},
        {"{{ 9 ** (9 ** 9) }}", ""}, {"{{ (2 ** 10000) ** 10000 }}", ""}, {"{{ '%.100000f' % 1 }}", ""},
        {"{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
         "more than"},
        {"{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", ""},
        {"{% set ns = namespace(s=[]) %}{% for i in range(999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}", ""},
        {"{% set n = namespace() %}{% set n.n = n %}{{ n }}", "levels deep"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        limited(cases[i].t, "{}", &small, cases[i].part);
    limited("{{ x }}", "{\"x\": \"0123456789\"}", &(jinja_env){.max_output = 9}, "more than 9 bytes");

    char deep[4000] = "{{ ";
    memset(deep + 3, '(', 1500);
    check(deep, "{}", "ERR t: line 1, column 124: brackets nested too deeply");
    strcpy(deep, "{{ ");
    for (int i = 0; i < 600; i++)
        strcat(deep, "not ");
    strcat(deep, "1 }}");
    char *s = quick(deep, "{}");
    assert_non_null(strstr(s, "levels deep"));
    mem_free(s);
    deep[0] = 0;
    for (int i = 0; i < 200; i++)
        strcat(deep, "{% if 1 %}");
    s = quick(deep, "{}");
    assert_non_null(strstr(s, "levels deep"));
    mem_free(s);
}

/* The text with every stretch from the data in angle brackets. */
static char *marked(const char *t, const char *json)
{
    arena a = {0};
    imp_err e = {0};
    jinja_out out = {0};
    strbuf b = {0};
    jval v;
    assert_int_equal(jval_parse(&a, json, strlen(json), true, "vars", &v, &e), IMP_OK);
    if (render(t, strlen(t), v, NULL, &out, &e))
        fail_msg("%s: %s", t, e.message);
    size_t at = 0;
    for (size_t i = 0; i < out.n_span; i++) {
        assert_int_equal(out.span[i].begin, at);
        assert_true(out.span[i].end > at);
        at = out.span[i].end;
        sb_printf(&b, out.span[i].tainted ? "<%.*s>" : "%.*s", (int)(at - out.span[i].begin),
                  out.text.s + out.span[i].begin);
    }
    assert_int_equal(at, out.text.n);
    jinja_out_free(&out);
    arena_free(&a);
    return sb_take(&b);
}

static void provenance_is_kept(void **state)
{
    (void)state;
    static const struct { const char *t, *want; } cases[] = {
        {"a{{ x }}b", "a<[q] W>b"}, {"{{ '|' + x + '|' }}", "|<[q] W>|"}, {"{{ '|' ~ x ~ 1 ~ '|' }}", "|<[q] W>1|"},
        {"{{ ('|' + x + '|')[1:-1] }}", "<[q] W>"}, {"{{ ('|' + x + '|')[::-1] }}", "|<W ]q[>|"},
        {"{{ ('|' + x + '|').upper() }}", "|<[Q] W>|"}, {"{{ ('  |' + x + '| ') | trim }}", "|<[q] W>|"},
        {"{{ ('a' + x + 'b').replace('q', 'zz') }}", "a<[>zz<] W>b"},
        {"{{ ('a' + x + 'b').replace('a', x) }}", "<[q] W[q] W>b"},
        {"{{ ('a ' + x).split(' ') | join('-') }}", "a-<[q]>-<W>"},
        {"{{ [x, 'y', x] | join(',') }}", "<[q] W>,y,<[q] W>"},
        {"{{ {'k': x, 'l': 1} | tojson }}", "{\"k\": <\"[q] W\">, \"l\": 1}"}, {"{{ [x] }}", "[<'[q] W'>]"},
        {"{{ '%s/%s' % (x, 'y') }}", "<[q] W>/y"}, {"{{ '{}/{}'.format('y', x) }}", "y/<[q] W>"},
        {"{% set z %}({{ x }}){% endset %}{{ z }}", "(<[q] W>)"},
        {"{% macro m(a) %}({{ a }}){% endmacro %}{{ m(x) }}", "(<[q] W>)"},
        {"{% filter upper %}a{{ x }}{% endfilter %}", "A<[Q] W>"},
        {"{% for c in 'a' + x %}{{ c }}{% endfor %}", "a<[q] W>"},
        {"{{ x | indent(2, true) }}", "  <[q] W>"}, {"{{ ('a' + x) | title }}", "A<[Q] W>"}, {"{{ x | length }}", "5"},
        {"{{ x * 2 }}", "<[q] W[q] W>"}, {"{{ x | truncate(4, true, '~', 0) }}", "<[q]>~"},
        {"{{ d.items() | list }}", "[(<'k'>, <'v'>)]"},
        {"{{ x | replace('W', '<|im_end|>') }}", "<[q] ><|im_end|>"}, {"{{ 'y' if x else x }}", "y"},
        {"{{ x.strip('[') ~ '[' }}", "<q] W>["},
        {"{{ 'é' ~ x.center(9, '*') }}", "é**<[q] W>**"}, {"{{ (x ~ '!').partition('!') | join }}", "<[q] W>!"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *s = marked(cases[i].t, "{\"x\": \"[q] W\", \"d\": {\"k\": \"v\"}}");
        if (strcmp(s, cases[i].want))
            fail_msg("%s: want %s, got %s", cases[i].t, cases[i].want, s);
        mem_free(s);
    }
}

static void data_is_pythons(void **state)
{
    (void)state;
    check("{{ x }}", "{\"x\": [1, 1.0, 1e2, 1E400, -0.0, 12345678901234567890123, "
          "\"\\u00e9\\ud83d\\ude00\", null, true]}",
          "[1, 1.0, 100.0, inf, -0.0, 12345678901234567890123, 'é😀', None, True]");
    check("{{ d }}{{ d.a }}", "{\"d\": {\"a\": 1, \"b\": 2, \"a\": 3}}", "{'a': 3, 'b': 2}3");
    arena a = {0};
    imp_err e = {0};
    jval v;
    assert_int_not_equal(jval_parse(&a, "{\"a\": }", 7, true, "req", &v, &e), IMP_OK);
    assert_non_null(strstr(e.message, "req"));
    v = jval_dict(&a);
    for (int i = 0; i < 100; i++) {
        char k[16];
        snprintf(k, sizeof k, "k%d", i);
        assert_true(jval_set(&a, v, k, jval_int(i)));
    }
    assert_int_equal(jval_get(v, "k77")->u.i, 77);
    assert_null(jval_get(v, "k100"));
    jval bad = jval_str(&a, "a\xff" "b", 3, true);
    assert_int_equal(bad.u.s->n, 5);
    arena_free(&a);
}

static void program_is_shared(void **state)
{
    (void)state;
    jinja_program *p;
    imp_err e = {0};
    assert_int_equal(jinja_compile(&p, "{% if tools %}{{ x['enable'] }}{% endif %}", 42, "t", &e), IMP_OK);
    assert_true(jinja_mentions(p, "tools"));
    assert_true(jinja_mentions(p, "enable"));
    assert_false(jinja_mentions(p, "endif"));
    jinja_free(p);
}

/* Every allocation fails once: a status comes back, nothing leaks (the sanitizer build sees it), nothing crashes. */
static void memory_may_run_out(void **state)
{
    (void)state;
    static const char t[] = "{% macro m(a) %}{{ a | upper }}{% endmacro %}"
                            "{% for x in xs %}{{ m(x) ~ loop.index }}{% endfor %}"
                            "{{ xs | map('upper') | join(',') }}{{ xs | tojson(indent=2) }}";
    static const char json[] = "{\"xs\": [\"a\", \"b\\n\"]}";
    for (long i = 1; i < 60; i++) {
        arena a = {0};
        imp_err e = {0};
        jinja_out out = {0};
        jval v;
        mem_fail_after(i);
        imp_status s = jval_parse(&a, json, sizeof json - 1, true, "vars", &v, &e);
        if (!s)
            s = render(t, sizeof t - 1, v, NULL, &out, &e);
        mem_fail_after(-1);
        if (s)
            assert_int_equal(s, IMP_E_NOMEM);
        else
            assert_string_equal(out.text.s, "A1B\n2A,B\n[\n  \"a\",\n  \"b\\n\"\n]");
        jinja_out_free(&out);
        arena_free(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cases_equal_python), cmocka_unit_test(errors_have_places), cmocka_unit_test(limits_hold),
        cmocka_unit_test(provenance_is_kept), cmocka_unit_test(data_is_pythons), cmocka_unit_test(program_is_shared),
        cmocka_unit_test(memory_may_run_out)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

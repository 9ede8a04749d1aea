/* fuzz_jinja: the input is a template, a zero byte, and JSON data (or no zero byte: a fixed value). What renders must
 * be valid UTF-8, covered by its spans, and the same when rendered again. Limits are low, so that a hang is a finding.
 * Seeds: tests/fuzz/seeds/jinja, made by make_jinja_seeds.py. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja.h"

static void check(bool ok)
{
    if (!ok)
        abort();
}

static const char DATA[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"hi <|x|> \\u00e9\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":"
    "[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1.5}}}]}],"
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}}],"
    "\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"add_generation_prompt\":true,\"x\":[3,1,2],\"s\":\"ab c\",\"n\":7}";

static void covered(const jinja_out *o)
{
    size_t at = 0;
    check(utf8_valid(o->text.s ? o->text.s : "", o->text.n));
    for (size_t i = 0; i < o->n_span; i++) {
        check(o->span[i].begin == at && o->span[i].end > at);
        check(!i || o->span[i].tainted != o->span[i - 1].tainted);
        at = o->span[i].end;
    }
    check(at == o->text.n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size;
    arena a = {0};
    imp_err e = {0};
    jval vars;
    jinja_program *p;
    struct tm now = {.tm_year = 125, .tm_mday = 1};
    jinja_env env = {.max_steps = 50000, .max_memory = 32 << 20, .max_output = 1 << 18, .now = &now};
    const char *json = zero ? (const char *)zero + 1 : DATA;
    size_t n_json = zero ? size - n - 1 : sizeof DATA - 1;
    if (!jval_parse(&a, json, n_json, true, "data", &vars, &e) &&
        !jinja_compile(&p, (const char *)data, n, "template", &e)) {
        jinja_out o[2] = {{.text = {0}}, {.text = {0}}};
        imp_err err[2] = {{0}, {0}};
        imp_status s[2];
        for (int i = 0; i < 2; i++) {
            s[i] = jinja_render(p, vars, &env, &o[i], &err[i]);
            check((s[i] == IMP_OK) == (err[i].status == IMP_OK) && s[i] != IMP_E_INTERNAL);
            covered(&o[i]);
        }
        check(s[0] == s[1] && o[0].text.n == o[1].text.n &&
              (!o[0].text.n || !memcmp(o[0].text.s, o[1].text.s, o[0].text.n)));
        for (int i = 0; i < 2; i++)
            jinja_out_free(&o[i]);
        jinja_free(p);
    }
    arena_free(&a);
    return 0;
}

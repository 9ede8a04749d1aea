/* Answers of chats through the C API: parsers, and calls that must come. On the fixture model, with built-in
 * templates. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "imp.h"

static const char TOOLS[] = "[{\"type\":\"function\",\"function\":{\"name\":\"add\","
                            "\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}}}}}]";
/* A template that knows reasoning, and calls as hermes writes them. */
static const char THINKS[] = "{% for m in messages %}{{ m.content }}{% endfor %}{# <think></think> <tool_call> #}";

static imp_model *model;

static int open_model(void **state)
{
    (void)state;
    imp_err e = {0};
    return imp_model_open("tests/fixtures/models/llama-gqa4.gguf", NULL, &model, &e) == IMP_OK ? 0 : -1;
}

static int close_model(void **state)
{
    (void)state;
    imp_model_close(model);
    return 0;
}

/* Parts as text: "C0:", the kind's letter and the call's number, and what it says; neighbours of one kind are
 * joined. */
static void on_part(void *user, const imp_part *p)
{
    static char last;
    char *log = user, head[16];
    assert_true(p->size == sizeof *p && strlen(p->text) == p->n && strlen(log) + p->n < 900);
    snprintf(head, sizeof head, "%s%c%u:", log[0] ? ";" : "", "CRBAE"[p->kind], p->tool);
    if (!log[0] || last != head[log[0] != 0])
        strcat(log, head);
    last = "CRBAE"[p->kind];
    strcat(log, p->text);
}

static void parse(const char *tmpl, unsigned flags, const char *tail, const char *text, const char *want)
{
    imp_chat_parser *p;
    imp_err e = {0};
    char log[1000] = "";
    assert_int_equal(imp_chat_parser_new(model, tmpl, flags, TOOLS, tail, on_part, log, &p, &e), IMP_OK);
    assert_non_null(p);
    assert_int_equal(imp_chat_parser_push(p, text, strlen(text)), IMP_OK);
    assert_int_equal(imp_chat_parser_finish(p), IMP_OK);
    imp_chat_parser_free(p);
    assert_string_equal(log, want);
}

static void test_parsers(void **state)
{
    (void)state;
    static const char call[] = "<think>hm</think>Yes."
                               "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>";
    parse(THINKS, IMP_PARSE_TOOLS | IMP_PARSE_REASONING, NULL, call, "R0:hm;C0:Yes.;B0:add;A0:{\"a\": 1};E0:");
    parse(THINKS, IMP_PARSE_REASONING, NULL, "<think>hm</think>Yes.", "R0:hm;C0:Yes.");
    parse(THINKS, IMP_PARSE_REASONING, "<|assistant|><think>\n", "hm</think>Yes.", "R0:hm;C0:Yes.");
    parse("chatml", IMP_PARSE_TOOLS, NULL, "plain", "C0:plain");
}

static void test_nothing_to_look_for(void **state)
{
    (void)state;
    imp_chat_parser *p = (imp_chat_parser *)1;
    imp_err e = {0};
    assert_int_equal(imp_chat_parser_new(model, "chatml", IMP_PARSE_REASONING, NULL, NULL, on_part, NULL, &p, &e),
                     IMP_OK);
    assert_null(p);
    imp_chat_parser_free(p);
    assert_int_equal(imp_chat_parser_new(model, "no such", IMP_PARSE_TOOLS, NULL, NULL, on_part, NULL, &p, &e),
                     IMP_E_NOTFOUND);
    assert_non_null(strstr(e.message, "chatml"));
}

static void test_forced_calls(void **state)
{
    (void)state;
    char *prefix, *schema, text[400];
    imp_err e = {0};
    assert_int_equal(imp_chat_force_call(model, THINKS, TOOLS, strlen(TOOLS), "add", "<think>\n", &prefix, &schema, &e),
                     IMP_OK);
    assert_string_equal(prefix, "\n</think>\n\n<tool_call>\n{\"name\": \"add\", \"arguments\": ");
    assert_non_null(strstr(schema, "\"integer\""));
    snprintf(text, sizeof text, "%s{\"a\": 7}", prefix);
    parse(THINKS, IMP_PARSE_TOOLS | IMP_PARSE_REASONING | IMP_PARSE_FORCED, "<think>\n", text,
          "B0:add;A0:{\"a\": 7};E0:");
    imp_free(prefix);
    imp_free(schema);
    assert_int_equal(imp_chat_force_call(model, THINKS, TOOLS, strlen(TOOLS), "sub", NULL, &prefix, &schema, &e),
                     IMP_E_USAGE);
    assert_true(strstr(e.message, "'sub'") && !prefix && !schema);
    imp_err e2 = {0};
    assert_int_equal(imp_chat_force_call(model, THINKS, "[1", 2, NULL, NULL, &prefix, &schema, &e2), IMP_E_PARSE);
    for (int open = 0; open < 2; open++) {
        imp_err e3 = {0};
        assert_int_equal(imp_chat_force_call(model, THINKS, NULL, 0, NULL, open ? "<think>\n" : "x", &prefix,
                                             &schema, &e3), IMP_OK);
        assert_string_equal(prefix, open ? "\n</think>\n\n" : "");
        imp_free(prefix);
        imp_free(schema);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parsers), cmocka_unit_test(test_nothing_to_look_for),
                                       cmocka_unit_test(test_forced_calls)};
    return cmocka_run_group_tests_name("answer", tests, open_model, close_model);
}

/* The streaming parser: for each format, texts with the events that they must give, the same for every way of cutting
 * the text in two, and for single bytes. Broken calls come out as content, whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/chat_parse.h"

/* Events as text: C(...) R(...) [name|args]; neighbours of one kind are joined. */
typedef struct log {
    strbuf s;
    int last; /* kind of the part that is open, -1: none */
} log;

static void part(log *l, int kind)
{
    if (l->last == kind)
        return;
    if (l->last >= 0)
        sb_char(&l->s, ')');
    l->last = kind;
    if (kind >= 0)
        sb_str(&l->s, kind == CHAT_EV_CONTENT ? "C(" : "R(");
}

static void on_event(void *user, const chat_event *ev)
{
    log *l = user;
    assert_true(utf8_valid(ev->text, ev->n));
    assert_int_equal(ev->text[ev->n], 0);
    switch (ev->kind) {
    case CHAT_EV_CONTENT: case CHAT_EV_REASONING:
        assert_true(ev->n > 0);
        part(l, (int)ev->kind);
        sb_add(&l->s, ev->text, ev->n);
        break;
    case CHAT_EV_TOOL_BEGIN:
        part(l, -1);
        sb_printf(&l->s, "[%d:%s|", ev->tool, ev->text);
        break;
    case CHAT_EV_TOOL_ARGS: sb_add(&l->s, ev->text, ev->n); break;
    case CHAT_EV_TOOL_END: sb_char(&l->s, ']'); break;
    }
}

static const char TOOLS[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"s\":{\"type\":\"string\"},"
    "\"n\":{\"type\":\"integer\"},\"o\":{\"type\":\"object\"}}}}}]";

typedef struct setup {
    const char *format;
    bool no_tools, no_reasoning, in_reasoning;
} setup;

/* Parses text cut into pieces of `piece` bytes, or in two at `cut`. Caller frees. */
static char *parse(const setup *u, const char *text, size_t n, size_t cut, size_t piece)
{
    arena a = {0};
    imp_err e = {0};
    log l = {.last = -1};
    jval tools = jval_none();
    chat_parser *p;
    assert_int_equal(jval_parse(&a, TOOLS, sizeof TOOLS - 1, true, "tools", &tools, &e), IMP_OK);
    chat_parse_opts o = {.format = chat_format_named(u->format), .tools = tools, .parse_tools = !u->no_tools,
                         .parse_reasoning = !u->no_reasoning, .in_reasoning = u->in_reasoning};
    assert_non_null(o.format);
    assert_int_equal(chat_parser_new(&p, &o, on_event, &l, &e), IMP_OK);
    if (piece) {
        for (size_t i = 0; i < n; i += piece)
            assert_int_equal(chat_parser_push(p, text + i, n - i < piece ? n - i : piece), IMP_OK);
    } else {
        assert_int_equal(chat_parser_push(p, text, cut), IMP_OK);
        assert_int_equal(chat_parser_push(p, text + cut, n - cut), IMP_OK);
    }
    assert_int_equal(chat_parser_finish(p), IMP_OK);
    part(&l, -1);
    chat_parser_free(p);
    arena_free(&a);
    return sb_take(&l.s);
}

typedef struct example {
    setup u;
    const char *text, *want;
} example;

static void check(const example *x)
{
    size_t n = strlen(x->text);
    for (size_t cut = 0; cut <= n + 3; cut++) {
        char *s = cut <= n ? parse(&x->u, x->text, n, cut, 0) : parse(&x->u, x->text, n, 0, cut - n);
        if (strcmp(s, x->want))
            fail_msg("%s, cut %zu of %zu: %s\n want %s\n got  %s", x->u.format, cut, n, x->text, x->want, s);
        mem_free(s);
    }
}

#define CALL "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"s\": \"x\"}}\n</tool_call>"
#define DS(x) "<｜" x "｜>"
#define DSB DS("tool▁calls▁begin")
#define DSE DS("tool▁calls▁end")
#define DCB DS("tool▁call▁begin")
#define DCE DS("tool▁call▁end")
#define DSEP DS("tool▁sep")
#define Q "<|\"|>"

static void formats_are_read(void **state)
{
    (void)state;
    static const example all[] = {
        {{.format = "hermes"}, "Hello, wörld 🙂 <b>x</b> < y.\n",
         "C(Hello, wörld 🙂 <b>x</b> < y.\n)"},
        {{.format = "hermes"}, "", ""}, {{.format = "hermes"}, "  \n", "C(  \n)"},
        {{.format = "hermes"}, " Hi", "C( Hi)"},
        {{.format = "hermes"}, CALL, "[0:f|{\"s\": \"x\"}]"},
        {{.format = "hermes"}, "Let me see.\n\n" CALL "\n" CALL "\n",
         "C(Let me see.)[0:f|{\"s\": \"x\"}][1:f|{\"s\": \"x\"}]"},
        {{.format = "hermes"}, "<think>\nhm, <tool_call> here\n</think>\n\nOK " CALL,
         "R(hm, <tool_call> here)C(OK)[0:f|{\"s\": \"x\"}]"},
        {{.format = "hermes"}, "\n<think>\n\n</think>\n\nOK", "C(OK)"},
        {{.format = "hermes"}, "A <think>b</think>", "C(A <think>b</think>)"},
        {{.format = "hermes", .in_reasoning = true}, "hm\n</think>\nyes\n", "R(hm)C(yes\n)"},
        {{.format = "hermes", .in_reasoning = true}, "hm\n", "R(hm)"},
        {{.format = "hermes", .no_reasoning = true}, "<think>a</think>b", "C(<think>a</think>b)"},
        {{.format = "hermes", .no_tools = true}, "x" CALL, "C(x" CALL ")"},
        {{.format = "hermes"}, "<tool_call>{\"arguments\": {\"s\": [1, {}]}, \"name\": \"f\"}</tool_call>",
         "[0:f|{\"s\": [1, {}]}]"},
        {{.format = "hermes"},
         "<tool_call>{\"name\": \"f\", \"id\": [\"}\"], \"arguments\": \"{\\\"s\\\": 1}\"}</tool_call>",
         "[0:f|{\"s\": 1}]"},
        {{.format = "hermes"}, "<tool_call>{\"name\": \"f\"}</tool_call>", "[0:f|{}]"},
        {{.format = "hermes"}, "<tool_call>{\"name\": \"f\", \"arguments\": null}</tool_call>", "[0:f|{}]"},
        {{.format = "hermes"},
         "<tool_call>[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {\"a\": 1}}]</tool_call>",
         "[0:f|{}][1:g|{\"a\": 1}]"},
        {{.format = "hermes"},
         "<tool_call>{\"name\": \"f\", \"arguments\": {\"s\": \"</tool_call> \\\" \\u00e9\"}}</tool_call>!",
         "[0:f|{\"s\": \"</tool_call> \\\" \\u00e9\"}]C(!)"},
        /* repaired: forgotten braces, raw line breaks and bad escapes in strings */
        {{.format = "hermes"}, "<tool_call>{\"name\": \"f\", \"arguments\": {\"s\": 1}</tool_call>",
         "[0:f|{\"s\": 1}]"},
        {{.format = "hermes"}, "<tool_call>{\"name\": \"f\", \"arguments\": {\"s\": {\"t\": [1</tool_call>x",
         "[0:f|{\"s\": {\"t\": [1]}}]C(x)"},
        {{.format = "hermes"}, "<tool_call>{\"name\": \"f\", \"arguments\": {\"s\": \"a\nb\\'c\t\"}}</tool_call>",
         "[0:f|{\"s\": \"a\\nb\\\\'c\\t\"}]"},
        {{.format = "hermes"}, "<tool_call>{\"name\": \"f\", \"arguments\": {\"s\": [1, 2}}</tool_call>",
         "[0:f|{\"s\": [1, 2]}]"},
        /* cut off by a limit */
        {{.format = "hermes"}, "<tool_call>{\"name\": \"f\", \"arguments\": {\"s\": \"ab", "[0:f|{\"s\": \"ab]"},
        {{.format = "hermes"}, "<tool_call>{\"name\": \"f\"", "[0:f|{}]"},
        {{.format = "hermes"}, "x <tool_call>{\"nam", "C(x <tool_call>{\"nam)"},
        {{.format = "hermes"}, "x <tool_ca", "C(x <tool_ca)"},
        /* no calls: everything comes back as content */
        {{.format = "hermes"}, "The tag <tool_call> opens a call, </tool_call> ends it.",
         "C(The tag <tool_call> opens a call, </tool_call> ends it.)"},
        {{.format = "hermes"}, "<tool_call>{\"x\": 1}</tool_call> a", "C(<tool_call>{\"x\": 1}</tool_call> a)"},
        {{.format = "hermes"}, "a <tool_call>{nonsense} b", "C(a <tool_call>{nonsense} b)"},
        {{.format = "hermes"}, "<tool_call>word</tool_call>", "C(<tool_call>word</tool_call>)"},
        {{.format = "hermes"}, "<tool_call>[]</tool_call>", "C(<tool_call>[]</tool_call>)"},

        {{.format = "qwen3-coder"},
         "Go\n<tool_call>\n<function=f>\n<parameter=s>\nline 1\n<b>\"2\"</b>\n</parameter>\n"
         "<parameter=n>\n42\n</parameter>\n"
         "<parameter=o>\n{\"a\": [1]}\n</parameter>\n<parameter=z>\nTrue\n</parameter>\n</function>\n</tool_call>",
         "C(Go)[0:f|{\"s\": \"line 1\\n<b>\\\"2\\\"</b>\", \"n\": 42, \"o\": {\"a\": [1]}, \"z\": true}]"},
        {{.format = "qwen3-coder"},
         "<tool_call>\n<function=f>\n</function>\n</tool_call>\n"
         "<tool_call>\n<function=g>\n<parameter=q>x y</parameter>\n</function>\n</tool_call>",
         "[0:f|{}][1:g|{\"q\": \"x y\"}]"},
        {{.format = "qwen3-coder"},
         "<tool_call>\n<function=f>\n<parameter=s>\n\n\n</parameter>\n</function>\n</tool_call>",
         "[0:f|{\"s\": \"\\n\"}]"},
        {{.format = "qwen3-coder"}, "<tool_call>\n<function=f>\n<parameter=s>\nabc\n</function>\n</tool_call> ok",
         "[0:f|{\"s\": \"abc\"}]C(ok)"}, /* parameter not closed */
        {{.format = "qwen3-coder"}, "<tool_call>\n<function=f>\n<parameter=s>\nx</parameter>\n</tool_call>",
         "[0:f|{\"s\": \"x\"}]"}, /* function not closed */
        {{.format = "qwen3-coder"}, "<tool_call>\n<function=f>\n<parameter=s>\nx</parameter>\n",
         "[0:f|{\"s\": \"x\"}]"},
        {{.format = "qwen3-coder"}, "<tool_call><function=>x", "C(<tool_call><function=>x)"},
        {{.format = "seed-oss"},
         "<seed:think>t</seed:think>"
         "<seed:tool_call><function=f><parameter=n>1</parameter></function></seed:tool_call>",
         "R(t)[0:f|{\"n\": 1}]"},

        {{.format = "glm"},
         "<think></think>\n<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>12</arg_value>\n"
         "<arg_key>n</arg_key>\n<arg_value>12</arg_value>\n</tool_call>",
         "[0:f|{\"s\": \"12\", \"n\": 12}]"},
        {{.format = "glm"}, "<tool_call>now</tool_call>", "[0:now|{}]"},
        {{.format = "glm"}, "<tool_call>f\n<arg_key>q</arg_key>\n<arg_value>a\nb</arg_value>\n</tool_call>!",
         "[0:f|{\"q\": \"a\\nb\"}]C(!)"},

        {{.format = "deepseek"},
         "Hm.\n" DSB DCB "function" DSEP "f\n```json\n{\"s\": \"a\"}\n```" DCE "\n"
         DCB "function" DSEP "g\n```json\n{}\n```" DCE DSE,
         "C(Hm.)[0:f|{\"s\": \"a\"}][1:g|{}]"},
        {{.format = "deepseek"}, DSB DCB "f" DSEP "{\"s\": \"" DCE "\"}" DCE DSE "x", "[0:f|{\"s\": \"" DCE "\"}]C(x)"},
        {{.format = "deepseek"}, DSB " nothing", "C(" DSB " nothing)"},
        {{.format = "kimi-k2"},
         "<|tool_calls_section_begin|>"
         "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"n\": 1}<|tool_call_end|>"
         "<|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
         "[0:f|{\"n\": 1}][1:g|{}]"},

        {{.format = "mistral"},
         "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"n\": 1}, \"id\": \"abcdefghi\"}, "
         "{\"name\": \"g\", \"arguments\": {}}]",
         "[0:f|{\"n\": 1}][1:g|{}]"},
        {{.format = "mistral"}, "[TOOL_CALLS]f[ARGS]{\"n\": 1}[TOOL_CALLS]g[CALL_ID]123456789[ARGS]{}",
         "[0:f|{\"n\": 1}][1:g|{}]"},
        {{.format = "mistral"}, "[TOOL_CALLS]f{\"n\": 1}", "[0:f|{\"n\": 1}]"},
        {{.format = "mistral"}, "[THINK]a[/THINK]b", "R(a)C(b)"},
        {{.format = "mistral"}, "see [1] and [TOOL_CALLS] no call", "C(see [1] and [TOOL_CALLS] no call)"},

        {{.format = "llama3-json"}, "{\"name\": \"f\", \"parameters\": {\"n\": 1}}", "[0:f|{\"n\": 1}]"},
        {{.format = "llama3-json"}, "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"n\": 1}}", "[0:f|{\"n\": 1}]"},
        {{.format = "llama3-json"}, "{\"answer\": {\"name\": 1}}", "C({\"answer\": {\"name\": 1}})"},
        {{.format = "llama3-json"}, "{\"name\": \"Bob\"}", "C({\"name\": \"Bob\"})"},
        {{.format = "llama3-json"}, "A {\"name\": \"f\", \"parameters\": {}}",
         "C(A {\"name\": \"f\", \"parameters\": {}})"},
        {{.format = "nemotron"},
         "<TOOLCALL>[{\"name\": \"f\", \"arguments\": {\"n\": 1}}, {\"name\": \"g\", \"arguments\": {}}]</TOOLCALL>",
         "[0:f|{\"n\": 1}][1:g|{}]"},
        {{.format = "command-r7b"},
         "<|START_THINKING|>p<|END_THINKING|><|START_ACTION|>[\n"
         "    {\"tool_call_id\": \"0\", \"tool_name\": \"f\", \"parameters\": {\"n\": 1}}\n]<|END_ACTION|>",
         "R(p)[0:f|{\"n\": 1}]"},
        {{.format = "functionary"}, "Ok <function=f>{\"n\": 1}</function><function=g>{}</function>",
         "C(Ok)[0:f|{\"n\": 1}][1:g|{}]"},
        {{.format = "apriel"},
         "<tool_calls>[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {}}]</tool_calls>",
         "[0:f|{}][1:g|{}]"},
        {{.format = "functools"}, " functools[{\"name\": \"f\", \"arguments\": {}}]", "[0:f|{}]"},
        {{.format = "granite"}, "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"n\": 1}}]", "[0:f|{\"n\": 1}]"},
        {{.format = "phi4-mini"}, "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"n\": 1}}]<|/tool_call|>",
         "[0:f|{\"n\": 1}]"},

        {{.format = "lfm2"},
         "<|tool_call_start|>[f(s=\"a\\n'b'\", n=-1.5, o={'k': [True, None]}), g()]<|tool_call_end|>Done",
         "[0:f|{\"s\": \"a\\n'b'\", \"n\": -1.5, \"o\": {\"k\": [true, null]}}][1:g|{}]C(Done)"},
        {{.format = "lfm2"}, "<|tool_call_start|>[f(s=]<|tool_call_end|>",
         "C(<|tool_call_start|>[f(s=]<|tool_call_end|>)"},
        {{.format = "gemma4"},
         "<|channel>thought\nhm\n<channel|>"
         "<|tool_call>call:f{s:" Q "a \"b\", {c}" Q ",o:{k:true,l:[1,2.5," Q Q "]}}<tool_call|>"
         "<|tool_call>call:g{}<tool_call|>",
         "R(hm)[0:f|{\"s\": \"a \\\"b\\\", {c}\", \"o\": {\"k\": true, \"l\": [1, 2.5, \"\"]}}][1:g|{}]"},

        {{.format = "harmony"},
         "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>final<|message|>Hello <b>!",
         "R(Think.)C(Hello <b>!)"},
        {{.format = "harmony"},
         "<|channel|>analysis<|message|>Use f.<|end|>"
         "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"n\": 1}<|call|>",
         "R(Use f.)[0:f|{\"n\": 1}]"},
        {{.format = "harmony"},
         "<|channel|>commentary<|message|>I will.<|end|>"
         "<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{\"s\": \"<|x|>\"}",
         "C(I will.)[0:f|{\"s\": \"<|x|>\"}]"},
        {{.format = "harmony"}, " to=functions.g<|channel|>commentary<|message|>{}<|call|>", "[0:g|{}]"},
        {{.format = "harmony"}, "just text", "C(just text)"},
        {{.format = "harmony", .no_reasoning = true}, "<|channel|>analysis<|message|>a<|end|>", "C(a)"},
        {{.format = "harmony", .no_tools = true}, "<|channel|>commentary to=functions.f<|message|>{}<|call|>", "C({})"},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        check(&all[i]);
}

static void formats_are_found(void **state)
{
    (void)state;
    static const struct { const char *t, *name; } all[] = {
        {"{{ '<tool_call>' }}", "hermes"}, {"x", "hermes"}, {"<tool_call>\n<function=", "qwen3-coder"},
        {"<tool_call>{n}<arg_key>", "glm"}, {"[AVAILABLE_TOOLS]", "mistral"}, {"[TOOL_CALLS]", "mistral"},
        {DSB, "deepseek"}, {"<|channel|>final<|message|>", "harmony"}, {"<TOOLCALL>[", "nemotron"},
        {"<|tool_call>call:", "gemma4"}, {"<|python_tag|>", "llama3-json"}, {"<|tool_call|>", "granite"}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        imp_err e = {0};
        jinja_program *p;
        assert_int_equal(jinja_compile(&p, all[i].t, strlen(all[i].t), "t", &e), IMP_OK);
        assert_string_equal(chat_format_name(chat_format_detect(p)), all[i].name);
        jinja_free(p);
    }
    assert_true(chat_opens_reasoning("a<think>\n", 9));
    assert_false(chat_opens_reasoning("<think>\n\n</think>\n\n", 19));
}

/* Linear time: texts made to be looked at again and again. */
static void long_texts_are_quick(void **state)
{
    (void)state;
    static const struct { const char *format, *unit, *head; } all[] = {
        {"hermes", "<tool_call", ""}, {"hermes", "<tool_call>", ""}, {"hermes", "<tool_call>{", ""},
        {"hermes", " \n", ""}, {"hermes", "\\\"", "<tool_call>{\"name\": \"f\", \"arguments\": {\"s\": \""},
        {"qwen3-coder", "</param", "<tool_call><function=f><parameter=s>"}, {"deepseek", "x", DSB DCB},
        {"harmony", "<|end|>", "<|channel|>final<|message|>"}, {"lfm2", "[", "<|tool_call_start|>"},
        {"gemma4", "call:f{a:[", "<|tool_call>"}, {"llama3-json", "{\"name\":", ""},
        {"mistral", "[TOOL_CALLS]", ""}, {"glm", "<tool_call>a\n", ""}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        strbuf t = {0};
        sb_str(&t, all[i].head);
        while (t.n < 1000000)
            sb_str(&t, all[i].unit);
        setup u = {.format = all[i].format};
        double start = (double)clock() / CLOCKS_PER_SEC; /* own time: the machine may be anybody's */
        char *a = parse(&u, t.s, t.n, t.n, 0), *b = parse(&u, t.s, t.n, 0, 1000);
        double took = (double)clock() / CLOCKS_PER_SEC - start;
        assert_string_equal(a, b);
        if (took > 5) /* quadratic would be minutes; sanitizers need room */
            fail_msg("%s, %s: %.1f s", all[i].format, all[i].unit, took);
        mem_free(a);
        mem_free(b);
        sb_free(&t);
    }
}

static const char TWO[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"g\",\"parameters\":{"
    "\"properties\":{\"x\":{\"$ref\":\"#/$defs/d\"}},"
    "\"$defs\":{\"d\":{}}}}}]";

static void forced_call(const chat_format *f, const char *name, bool in_reasoning)
{
    arena a = {0};
    imp_err e = {0};
    jval tools;
    strbuf prefix = {0}, schema = {0}, text = {0};
    log l = {.last = -1};
    chat_parser *p;
    bool llama = strcmp(chat_format_name(f), "llama3-json") == 0;
    const char *any = llama ? "{\"name\": \"g\", \"parameters\": {\"x\": 1}}"
                            : "{\"arguments\": {\"x\": 1}, \"name\": \"g\"}";
    assert_int_equal(jval_parse(&a, TWO, sizeof TWO - 1, true, "tools", &tools, &e), IMP_OK);
    assert_int_equal(chat_force(f, tools, name, in_reasoning, &a, &prefix, &schema, &e), IMP_OK);
    sb_add(&text, prefix.s ? prefix.s : "", prefix.n);
    sb_str(&text, name ? "{\"x\": [1, \"}\"]}" : any);
    chat_parse_opts o = {.format = f, .forced = true, .tools = tools, .parse_tools = true, .parse_reasoning = true,
                         .in_reasoning = in_reasoning};
    assert_int_equal(chat_parser_new(&p, &o, on_event, &l, &e), IMP_OK);
    for (size_t b = 0; b < text.n; b++)
        assert_int_equal(chat_parser_push(p, text.s + b, 1), IMP_OK);
    assert_int_equal(chat_parser_finish(p), IMP_OK);
    if (strcmp(l.s.s ? l.s.s : "", name ? "[0:g|{\"x\": [1, \"}\"]}]" : "[0:g|{\"x\": 1}]"))
        fail_msg("%s: '%s' gave '%s'", chat_format_name(f), text.s, l.s.s);
    assert_non_null(strstr(schema.s, name ? "\"$ref\": \"#/$defs/d\"" : "\"$id\": \"urn:imp:tool:1\""));
    assert_int_equal(strncmp(schema.s, name ? "{\"properties\"" : "{\"anyOf\"", name ? 13 : 8), 0);
    chat_parser_free(p);
    strbuf *const own[] = {&prefix, &schema, &text, &l.s};
    for (size_t b = 0; b < 4; b++)
        sb_free(own[b]);
    arena_free(&a);
}

/* In every format the prefix and a text that fits the schema are one call, with the arguments as they were written; one
 * tool leaves only the arguments to say, several the name too. */
static void forced_calls(void **state)
{
    (void)state;
    for (size_t i = 0; chat_format_at(i); i++)
        for (int k = 0; k < 4; k++)
            forced_call(chat_format_at(i), k & 1 ? "g" : NULL, k & 2);
    imp_err e = {0};
    arena a = {0};
    strbuf b = {0};
    assert_int_equal(chat_force(chat_format_at(0), jval_list(&a), "h", false, &a, &b, &b, &e), IMP_E_USAGE);
    arena_free(&a);
    sb_free(&b);
}

static void ignore(void *user, const chat_event *ev)
{
    (void)user;
    (void)ev;
}

static void memory_may_run_out(void **state)
{
    (void)state;
    static const char text[] = "a <think>b</think> c\n"
                               "<tool_call>{\"name\": \"f\", \"arguments\": {\"s\": \"x\"}}</tool_call>";
    for (long i = 1; i < 40; i++) {
        chat_parser *p;
        imp_err e = {0};
        chat_parse_opts o = {.parse_tools = true, .parse_reasoning = true, .tools = jval_none()};
        mem_fail_after(i);
        imp_status s = chat_parser_new(&p, &o, ignore, NULL, &e);
        for (size_t k = 0; !s && k < sizeof text - 1; k++)
            s = chat_parser_push(p, text + k, 1);
        if (!s)
            s = chat_parser_finish(p);
        mem_fail_after(-1);
        assert_true(s == IMP_OK || s == IMP_E_NOMEM);
        chat_parser_free(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(formats_are_read), cmocka_unit_test(formats_are_found),
                                       cmocka_unit_test(long_texts_are_quick), cmocka_unit_test(forced_calls),
                                       cmocka_unit_test(memory_may_run_out)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

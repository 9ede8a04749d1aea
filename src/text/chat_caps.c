/* What a chat template can do, found out by asking it: a row a question, each a small conversation whose rendering
 * must (or must not) contain certain words. */
#include <string.h>

#include "text/chat_impl.h"

typedef struct probe {
    const char *messages, *tools; /* JSON */
    const char *want[2];          /* all must be in the output; NULL: nothing more */
    const char *veto[3];          /* none may be: signs of a Python repr, of doubly quoted JSON, of None */
    bool prompt;                  /* add_generation_prompt */
} probe;

#define USER "{\"role\":\"user\",\"content\":\"qz_hello\"}"
#define CALL(id, name, \
    args) "{\"id\":\"" id "\",\"type\":\"function\",\"function\":{\"name\":\"" name "\",\"arguments\":" args "}}"
#define CALLS(content, calls) "[" USER ",{\"role\":\"assistant\"," content "\"tool_calls\":[" calls "]}]"
#define OBJ "{\"qz_key\":\"qz_val\"}"
#define STR "\"{\\\"qz_key\\\": \\\"qz_val\\\"}\""
#define RESULT(id) "{\"role\":\"tool\",\"tool_call_id\":\"" id "\",\"name\":\"qz_fn\",\"content\":\"qz_result\"}"
#define EMPTY "\"content\":\"\","
#define NUL "\"content\":null,"
static const char TOOLS[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"qz_tool\",\"description\":\"d\",\"parameters\":{\"type\":"
    "\"object\",\"properties\":{\"qz_par\":{\"type\":\"string\",\"description\":\"p\"}},\"required\":[\"qz_par\"]}}}]";

#define VETO_ARGS {"{'qz_key'", "\\\"qz_key", "None"}

static bool run(const jinja_program *p, const probe *q, jinja_out *out, imp_status *status)
{
    arena a = {0};
    imp_err e = {0};
    jval vars = jval_dict(&a), messages = jval_none(), tools = jval_none();
    jinja_env env = {.max_steps = 1000000, .max_memory = (size_t)32 << 20, .max_output = (size_t)4 << 20};
    struct tm now = {.tm_year = 125, .tm_mday = 1};
    env.now = &now;
    imp_status s = jval_parse(&a, q->messages, strlen(q->messages), true, "probe", &messages, &e);
    if (!s && q->tools)
        s = jval_parse(&a, q->tools, strlen(q->tools), true, "probe", &tools, &e);
    if (!s && !(jval_set(&a, vars, "messages", messages) && jval_set(&a, vars, "tools", tools) &&
                jval_set(&a, vars, "documents", jval_none()) && jval_set(&a, vars, "bos_token", jval_str(&a, "", 0,
                    false)) &&
                jval_set(&a, vars, "eos_token", jval_str(&a, "", 0, false)) &&
                jval_set(&a, vars, "add_generation_prompt", jval_bool(q->prompt))))
        s = IMP_E_NOMEM;
    if (!s)
        s = jinja_render(p, vars, &env, out, &e);
    if (s == IMP_E_PARSE && !q->tools && jval_set(&a, vars, "tools",
        jval_list(&a))) /* "for t in tools" without asking */
        s = jinja_render(p, vars, &env, out, NULL);
    arena_free(&a);
    if (s == IMP_E_NOMEM)
        *status = s;
    return s == IMP_OK;
}

static bool ask(const jinja_program *p, probe q, imp_status *status)
{
    jinja_out out = {0};
    bool ok = run(p, &q, &out, status);
    for (size_t i = 0; ok && i < 2 && q.want[i]; i++)
        ok = out.text.n && strstr(out.text.s, q.want[i]);
    for (size_t i = 0; ok && i < 3 && q.veto[i]; i++)
        ok = !strstr(out.text.s, q.veto[i]);
    jinja_out_free(&out);
    return ok;
}

/* Tool calls: which way of writing content and arguments is rendered as it should be. */
static void probe_calls(const jinja_program *p, chat_caps *c, imp_status *s)
{
    static const char *const objs[2] = {CALLS(NUL, CALL("call00001", "qz_fn", OBJ)), CALLS(EMPTY, CALL("call00001",
        "qz_fn", OBJ))};
    static const char *const strs[2] = {CALLS(NUL, CALL("call00001", "qz_fn", STR)), CALLS(EMPTY, CALL("call00001",
        "qz_fn", STR))};
    bool obj[2], str[2];
    for (int i = 0; i < 2; i++) {
        obj[i] = ask(p, (probe){objs[i], TOOLS, {"qz_fn", "qz_key"}, VETO_ARGS, false}, s);
        str[i] = ask(p, (probe){strs[i], TOOLS, {"qz_fn", "qz_key"}, VETO_ARGS, false}, s);
    }
    c->object_args = obj[0] || obj[1];
    c->tool_calls = c->object_args || str[0] || str[1];
    c->null_content = c->object_args ? obj[0] : str[0];
    c->empty_content = c->object_args ? obj[1] : str[1];
    if (!c->tool_calls) { /* results may have a place all the same, if tools have one */
        c->tool_role = c->tools && ask(p,
            (probe){"[" USER ",{\"role\":\"assistant\",\"content\":\"x\"}," RESULT("call00001") "]",
                                                  TOOLS, {"qz_result"}, {0}, true}, s);
        return;
    }
#define ROUND(content, args) "[" USER ",{\"role\":\"assistant\"," content "\"tool_calls\":[" CALL("call00001", \
    "qz_fn", args) "]}," RESULT("call00001") "]"
#define TWO(content, args) CALLS(content, CALL("call00001", "qz_fn", args) "," CALL("call00002", "qz_gn", args))
#define LONG(content, args) CALLS(content, CALL("call_qz_long_identifier", "qz_fn", args))
#define PICK(M) (c->object_args ? (c->empty_content ? M(EMPTY, OBJ) : M(NUL, OBJ)) : (c->empty_content ? M(EMPTY, \
    STR) : M(NUL, STR)))
    c->tool_role = ask(p, (probe){PICK(ROUND), TOOLS, {"qz_result"}, {0}, true}, s);
    c->parallel_calls = ask(p, (probe){PICK(TWO), TOOLS, {"qz_fn", "qz_gn"}, {0}, false}, s);
    c->short_ids = !ask(p, (probe){PICK(LONG), TOOLS, {"qz_fn"}, {0}, false}, s);
}

static bool probe_images(const jinja_program *p, imp_status *s)
{
    static const char with[] = "[{\"role\":\"user\",\"content\":"
                               "[{\"type\":\"image\"},{\"type\":\"text\",\"text\":\"qz_hello\"}]}]";
    static const char without[] = "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"qz_hello\"}]}]";
    jinja_out a = {0}, b = {0};
    bool ok = run(p, &(probe){.messages = with}, &a, s) && run(p, &(probe){.messages = without}, &b, s);
    ok = ok && a.text.n > b.text.n && !strstr(a.text.s, "'image'") && !strstr(a.text.s, "\"image\"");
    jinja_out_free(&a);
    jinja_out_free(&b);
    return ok;
}

/* What a generation prompt that leaves the model inside its reasoning ends with. */
static const char *const openers[] = {"<think>", "<seed:think>", "[THINK]", "<|START_THINKING|>", "<reasoning>",
    "<thought>",
                                      "<|channel>thought"};

bool chat_opens_reasoning(const char *s, size_t n)
{
    while (n && strchr(" \n\t\r", s[n - 1]))
        n--;
    for (size_t i = 0; i < sizeof openers / sizeof openers[0]; i++) {
        size_t k = strlen(openers[i]);
        if (n >= k && !memcmp(s + n - k, openers[i], k))
            return true;
    }
    return false;
}

imp_status chat_probe(const jinja_program *p, chat_caps *c, imp_err *e)
{
#define REASONED(key) "[" USER ",{\"role\":\"assistant\",\"content\":\"x\",\"" key "\":\"qz_thought\"}]"
    static const char *const switches[] = {"enable_thinking", "thinking", "reasoning_effort", "thinking_budget"};
    imp_status s = IMP_OK;
    *c = (chat_caps){0};
    c->string_content = ask(p, (probe){.messages = "[" USER "]", .want = {"qz_hello"}}, &s);
    c->parts_content = ask(p,
        (probe){.messages = "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"qz_hello\"}]}]",
                                      .want = {"qz_hello"}, .veto = {"'text'", "\"text\""}}, &s);
    c->system = ask(p, (probe){.messages = "[{\"role\":\"system\",\"content\":\"qz_system\"}," USER "]",
        .want = {"qz_system"}}, &s);
    c->tools = ask(p, (probe){.messages = "[" USER "]", .tools = TOOLS, .want = {"qz_tool", "qz_par"},
        .prompt = true}, &s);
    c->strict_turns = c->string_content && !ask(p, (probe){.messages = "[" USER "," USER "]"}, &s);
    c->images = c->parts_content && probe_images(p, &s);
    c->reasoning = ask(p, (probe){.messages = REASONED("reasoning_content"), .want = {"qz_thought"}}, &s) ||
                   ask(p, (probe){.messages = REASONED("thinking"), .want = {"qz_thought"}}, &s) ||
                   ask(p, (probe){.messages = REASONED("reasoning"), .want = {"qz_thought"}}, &s);
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++)
        c->thinking_switch = c->thinking_switch || jinja_mentions(p, switches[i]);
    probe_calls(p, c, &s);
    jinja_out out = {0};
    if (run(p, &(probe){.messages = "[" USER "]", .prompt = true}, &out, &s))
        c->opens_reasoning = chat_opens_reasoning(out.text.s ? out.text.s : "", out.text.n);
    jinja_out_free(&out);
    return s ? err_oom(e, "chat template", 0) : IMP_OK;
}

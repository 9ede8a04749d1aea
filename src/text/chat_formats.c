/* The table of formats that models write tool calls and reasoning in. Order matters: the first row whose texts are all
 * in the template wins, so special rows stand before general ones. */
#include <string.h>

#include "text/chat_parse_impl.h"

#define DS(x) "<｜" x "｜>"
static const chat_format formats[] = {
    {.name = "harmony", .detect = {"<|channel|>", "<|message|>"}, .body = CP_HARMONY,
         .open = "<|channel|>commentary to="},
    {.name = "gemma4", .detect = {"<|tool_call>"}, .body = CP_LOOSE, .open = "<|tool_call>", .close = "<tool_call|>",
     .think = {"<|channel>thought", "<channel|>"}},
    {.name = "seed-oss", .detect = {"<seed:tool_call>"}, .body = CP_TAGGED, .open = "<seed:tool_call>",
     .close = "</seed:tool_call>", .think = {"<seed:think>", "</seed:think>"}},
    {.name = "qwen3-coder", .detect = {"<tool_call>", "<function="}, .body = CP_TAGGED, .open = "<tool_call>",
         .close = "</tool_call>"},
    {.name = "glm", .detect = {"<tool_call>", "<arg_key>"}, .body = CP_TAGGED, .open = "<tool_call>",
         .close = "</tool_call>"},
    {.name = "deepseek", .detect = {DS("tool▁calls▁begin")}, .body = CP_NAMED, .open = DS("tool▁calls▁begin"),
         .close = DS("tool▁calls▁end"),
     .call_open = DS("tool▁call▁begin"), .call_sep = DS("tool▁sep"), .call_close = DS("tool▁call▁end")},
    {.name = "kimi-k2", .detect = {"<|tool_calls_section_begin|>"}, .body = CP_NAMED,
         .open = "<|tool_calls_section_begin|>",
     .close = "<|tool_calls_section_end|>", .call_open = "<|tool_call_begin|>",
         .call_sep = "<|tool_call_argument_begin|>",
     .call_close = "<|tool_call_end|>"},
    {.name = "apriel", .force = "<tool_calls>[",
     .detect = {"<tool_calls>"}, .body = CP_JSON, .open = "<tool_calls>", .close = "</tool_calls>"},
    {.name = "functionary", .detect = {"<function=", "</function>"}, .body = CP_MISTRAL, .open = "<function=",
         .close = "</function>",
     .call_sep = ">"},
    {.name = "functools", .force = " functools[",
     .detect = {" functools["}, .body = CP_JSON, .open = " functools"},
    {.name = "nemotron", .force = "<TOOLCALL>[",
     .detect = {"<TOOLCALL>"}, .body = CP_JSON, .open = "<TOOLCALL>", .close = "</TOOLCALL>"},
    {.name = "command-r7b", .detect = {"<|START_ACTION|>"}, .body = CP_JSON, .open = "<|START_ACTION|>",
         .close = "<|END_ACTION|>",
     .think = {"<|START_THINKING|>", "<|END_THINKING|>"}},
    {.name = "mistral", .force = "[TOOL_CALLS][",
     .detect = {"[TOOL_CALLS]"}, .body = CP_MISTRAL, .open = "[TOOL_CALLS]", .think = {"[THINK]",
         "[/THINK]"}},
    {.name = "mistral", .force = "[TOOL_CALLS][",
     .detect = {"[AVAILABLE_TOOLS]"}, .body = CP_MISTRAL, .open = "[TOOL_CALLS]",
         .think = {"[THINK]", "[/THINK]"}},
    {.name = "lfm2", .detect = {"<|tool_list_start|>"}, .body = CP_LOOSE, .open = "<|tool_call_start|>",
         .close = "<|tool_call_end|>"},
    {.name = "lfm2", .detect = {"List of tools: ["}, .body = CP_LOOSE, .open = "<|tool_call_start|>",
         .close = "<|tool_call_end|>"},
    {.name = "phi4-mini", .force = "<|tool_call|>[",
     .detect = {"<|tool_call|>", "<|/tool_call|>"}, .body = CP_JSON, .open = "<|tool_call|>",
         .close = "<|/tool_call|>"},
    {.name = "granite", .force = "<|tool_call|>[",
     .detect = {"<|tool_call|>"}, .body = CP_JSON, .open = "<|tool_call|>"},
    {.name = "hermes", .force = "<tool_call>\n",
     .detect = {"<tool_call>"}, .body = CP_TAGGED, .open = "<tool_call>", .close = "</tool_call>"},
    {.name = "llama3-json", .force = "", .args_key = "parameters",
     .detect = {"<|python_tag|>"}, .body = CP_JSON, .open = "<|python_tag|>", .bare = true},
    {.name = "llama3-json", .force = "", .args_key = "parameters",
     .detect = {"\"parameters\": dictionary of"}, .body = CP_JSON, .open = "<|python_tag|>",
         .bare = true},
};
#define N_FORMATS (sizeof formats / sizeof formats[0])

const chat_format *chat_format_named(const char *name)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (!strcmp(formats[i].name, name))
            return &formats[i];
    return NULL;
}

const chat_format *chat_format_detect(const jinja_program *p)
{
    size_t n;
    const char *src = jinja_source(p, &n);
    for (size_t i = 0; i < N_FORMATS; i++) {
        bool all = true;
        for (size_t k = 0; k < 2 && formats[i].detect[k]; k++)
            all = all && memmem(src, n, formats[i].detect[k], strlen(formats[i].detect[k]));
        if (all)
            return &formats[i];
    }
    return chat_format_named("hermes");
}

const char *chat_format_name(const chat_format *f) { return f->name; }
const chat_format *chat_format_at(size_t i) { return i < N_FORMATS ? &formats[i] : NULL; }
const char *chat_format_think(const chat_format *f) { return f->think[0] ? f->think[0] : "<think>"; }
const char *chat_format_open(const chat_format *f) { return f->open ? f->open : ""; }

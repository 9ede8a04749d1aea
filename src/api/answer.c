/* Answers of chats in the C API: the streaming parser, and calls that must come. */
#include <string.h>

#include "api/api.h"
#include "base/mem.h"
#include "text/chat.h"
#include "text/chat_parse.h"

struct imp_chat_parser {
    chat_parser *p;
    arena mem;    /* the tools */
    imp_part_fn fn;
    void *user;
};

static void on_event(void *user, const chat_event *ev)
{
    static const imp_part_kind kind[] = {
        [CHAT_EV_CONTENT] = IMP_PART_CONTENT, [CHAT_EV_REASONING] = IMP_PART_REASONING,
        [CHAT_EV_TOOL_BEGIN] = IMP_PART_TOOL_BEGIN, [CHAT_EV_TOOL_ARGS] = IMP_PART_TOOL_ARGS,
        [CHAT_EV_TOOL_END] = IMP_PART_TOOL_END,
    };
    const imp_chat_parser *w = user;
    imp_part part = {.size = sizeof part, .kind = kind[ev->kind], .tool = ev->tool < 0 ? 0 : (uint32_t)ev->tool,
                     .text = ev->text, .n = ev->n};
    w->fn(w->user, &part);
}

/* The format of the template's answers, and whether reasoning may stand in them. */
static imp_status format_of(const imp_model *m, const char *tmpl, const chat_format **f, bool *thinks, imp_err *e)
{
    chat_template *t;
    bool own;
    size_t n;
    imp_status s = api_template(m, tmpl, &t, &own, e);
    if (s != IMP_OK)
        return s;
    *f = chat_format_detect(chat_template_program(t));
    const char *source = jinja_source(chat_template_program(t), &n), *tag = chat_format_think(*f);
    *thinks = memmem(source, n, tag, strlen(tag)) != NULL || strcmp(chat_format_name(*f), "harmony") == 0;
    if (own)
        chat_template_free(t);
    return IMP_OK;
}

static bool in_reasoning(const char *tail) { return tail && chat_opens_reasoning(tail, strlen(tail)); }

imp_status imp_chat_parser_new(const imp_model *m, const char *tmpl, unsigned flags, const char *tools_json,
                               const char *prompt_tail, imp_part_fn fn, void *user, imp_chat_parser **out, imp_err *e)
{
    bool thinks = false, inside = in_reasoning(prompt_tail);
    chat_parse_opts o = {.tools = jval_none(), .parse_tools = flags & IMP_PARSE_TOOLS, .in_reasoning = inside};
    *out = NULL;
    imp_status s = format_of(m, tmpl, &o.format, &thinks, e);
    o.parse_reasoning = (flags & IMP_PARSE_REASONING) && (thinks || inside);
    if (s != IMP_OK || (!o.parse_tools && !o.parse_reasoning))
        return s;
    o.forced = flags & IMP_PARSE_FORCED;
    imp_chat_parser *w = mem_calloc(1, sizeof *w);
    if (!w)
        return err_oom(e, "chat parser", sizeof *w);
    *w = (imp_chat_parser){.fn = fn, .user = user};
    if (tools_json)
        s = jval_parse(&w->mem, tools_json, strlen(tools_json), true, "tools", &o.tools, e);
    if (s == IMP_OK)
        s = chat_parser_new(&w->p, &o, on_event, w, e);
    if (s != IMP_OK) {
        imp_chat_parser_free(w);
        return s;
    }
    *out = w;
    return IMP_OK;
}

imp_status imp_chat_parser_push(imp_chat_parser *p, const char *text, size_t n)
{
    return chat_parser_push(p->p, text, n);
}

imp_status imp_chat_parser_finish(imp_chat_parser *p) { return chat_parser_finish(p->p); }

void imp_chat_parser_free(imp_chat_parser *p)
{
    if (!p)
        return;
    chat_parser_free(p->p);
    arena_free(&p->mem);
    mem_free(p);
}

imp_status imp_chat_force_call(const imp_model *m, const char *tmpl, const char *tools_json, size_t n, const char *name,
                               const char *prompt_tail, char **prefix, char **schema, imp_err *e)
{
    const chat_format *f;
    bool thinks;
    arena a = {0};
    jval tools = jval_none();
    strbuf p = {0}, q = {0};
    *prefix = *schema = NULL;
    imp_status s = format_of(m, tmpl, &f, &thinks, e);
    if (s == IMP_OK && tools_json)
        s = jval_parse(&a, tools_json, n, true, "tools", &tools, e);
    if (s == IMP_OK)
        s = chat_force(f, tools, name, in_reasoning(prompt_tail), &a, &p, &q, e);
    if (s == IMP_OK && (!(*prefix = sb_take(&p)) || !(*schema = sb_take(&q)))) {
        s = err_oom(e, "tool choice", 64);
        imp_free(*prefix);
        *prefix = NULL;
    }
    sb_free(&p);
    sb_free(&q);
    arena_free(&a);
    return s;
}

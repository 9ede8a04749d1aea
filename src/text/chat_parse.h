/* chat_parse: a model's text back into content, reasoning and tool calls, while it streams.
 * A format is a row of a table, found from the chat template. A parser belongs to one answer and one thread; events are
 * delivered inside push and finish. It never fails on text: what looks like a tool call and is none comes out as
 * content. Running out of memory is sticky and reported by push and finish.
 * Invariants: (1) the events' texts, joined, are the same for every way of cutting the input; (2) a tool call is begun
 * only when its name is known, and every begun call is ended; (3) arguments are JSON text, complete unless the input
 * ended inside them; (4) time and memory are linear in the text (each byte is looked at a bounded number of times);
 * (5) a UTF-8 character is never split over two events.
 * The text must be detokenised with special tokens kept (tok_stream_init keep_special) and without the end token. */
#ifndef IMP_TEXT_CHAT_PARSE_H
#define IMP_TEXT_CHAT_PARSE_H

#include "text/jinja.h"

typedef struct chat_format chat_format;

/* The format that a template teaches its model; never NULL (hermes when nothing is recognised, as chat_fit describes
 * tools then). */
const chat_format *chat_format_detect(const jinja_program *p);
const chat_format *chat_format_named(const char *name); /* NULL when unknown */
const char *chat_format_name(const chat_format *f);
const chat_format *chat_format_at(size_t i);            /* NULL past the end */
/* Text that opens a tool call (for constraints), "" when there is none. */
const char *chat_format_open(const chat_format *f);

/* A call that must come (tool_choice): prefix is the beginning of the answer, to be put behind the prompt and pushed
 * into the parser before the model's text; schema is what that text must fit. name: the tool, NULL = any of tools (a
 * list as in OpenAI's API). in_reasoning: the prompt ended inside a reasoning block, which prefix then closes.
 * IMP_E_USAGE when there is no such tool. tools J_NONE: only the reasoning is closed. a takes intermediate values. */
imp_status chat_force(const chat_format *f, jval tools, const char *name, bool in_reasoning, arena *a, strbuf *prefix,
                      strbuf *schema, imp_err *e);
/* The tag that opens reasoning: "<think>" or the format's own. */
const char *chat_format_think(const chat_format *f);

typedef enum chat_event_kind {
    CHAT_EV_CONTENT, CHAT_EV_REASONING, /* text */
    CHAT_EV_TOOL_BEGIN,                 /* text is the function's name */
    CHAT_EV_TOOL_ARGS,                  /* text is a piece of the arguments' JSON */
    CHAT_EV_TOOL_END
} chat_event_kind;
typedef struct chat_event {
    chat_event_kind kind;
    int tool;         /* number of the call, from 0 */
    const char *text; /* valid during the callback; NUL-terminated */
    size_t n;
} chat_event;
typedef void (*chat_event_fn)(void *user, const chat_event *ev);

typedef struct chat_parse_opts {
    const chat_format *format; /* NULL: hermes */
    jval tools;                /* the request's tools, for parameters' types where the format shows none; J_NONE */
    bool parse_tools;          /* off: tool calls are content */
    bool parse_reasoning;      /* off: reasoning is content, tags included */
    bool forced;               /* the text begins with chat_force's prefix */
    bool in_reasoning;         /* the prompt ended inside a reasoning block (chat_opens_reasoning) */
} chat_parse_opts;

/* Does this prompt end inside a reasoning block ("...<think>\n")? */
bool chat_opens_reasoning(const char *s, size_t n);

typedef struct chat_parser chat_parser;
imp_status chat_parser_new(chat_parser **out, const chat_parse_opts *o, chat_event_fn fn, void *user, imp_err *e);
void chat_parser_free(chat_parser *p); /* NULL is fine */
imp_status chat_parser_push(chat_parser *p, const char *text, size_t n);
imp_status chat_parser_finish(chat_parser *p); /* what is held comes out; open calls are ended */
int chat_parser_n_tools(const chat_parser *p); /* calls begun so far */

#endif

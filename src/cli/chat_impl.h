/* chat_impl: the parts of `imp chat`: where messages come from (chat_input.c), how answers are shown (chat_view.c), and
 * the conversation with its commands (cmd_chat.c). Main thread, but where a comment says otherwise. */
#ifndef IMP_CLI_CHAT_IMPL_H
#define IMP_CLI_CHAT_IMPL_H

#include "base/strbuf.h"
#include "cli/cli.h"

/* ---- input: lines from libedit on a terminal, else from stdin as they are ---- */
typedef struct chat_input chat_input;
typedef enum chat_read {
    CHAT_MESSAGE,
    CHAT_END,       /* Ctrl-D */
    CHAT_INTERRUPT, /* chat_input_wake */
    CHAT_FAILED
} chat_read;

/* history: file to keep lines in, NULL = none. colour: the prompt may have one. */
imp_status chat_input_new(chat_input **out, bool colour, const char *history, imp_err *e);
void chat_input_free(chat_input *in); /* NULL is fine; writes the history */
bool chat_input_interactive(const chat_input *in);
/* One message: a line; lines joined by a \ at their ends; or a block between two """. */
chat_read chat_input_get(chat_input *in, strbuf *message);
/* Any thread: a chat_input_get that waits, or the next one, returns CHAT_INTERRUPT. */
void chat_input_wake(chat_input *in);

/* ---- view: an answer as it streams in; the engine's thread between begin and end ---- */
typedef struct chat_view {
    bool show, colour, show_reasoning; /* set by the owner */
    bool write_failed;                 /* stdout is closed */
    strbuf text, reasoning;            /* what came, in two */
    strbuf pending;                    /* bytes that may be the beginning of a tag */
    int state;
    const char *close;
    bool printed_reasoning, ends_line;
} chat_view;

/* prompt_tail: the end of the rendered prompt, which may open a reasoning block already. */
void chat_view_begin(chat_view *v, const char *prompt_tail);
void chat_view_add(chat_view *v, const char *s, size_t n);
void chat_view_end(chat_view *v); /* what was held back comes out */
void chat_view_free(chat_view *v);

#endif

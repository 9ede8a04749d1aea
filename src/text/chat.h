/* chat: from a conversation to a prompt by a model's chat template.
 * A chat_template is compiled once, probed for what it can do (chat_caps), then immutable and shared by all threads.
 * Requests and their values belong to the caller's arena. Failures: those of jinja.h; IMP_E_USAGE with the template's
 * own words when it refuses a conversation (raise_exception); IMP_E_NOTFOUND for an unknown built-in name.
 *
 * Special-token text inside content stays text. Rendering marks nothing and escapes nothing: the interpreter carries
 * one flag a byte, "came from the request" or "came from the template", through every operation (jinja.h). The output
 * is exactly transformers' text plus spans, and chat_encode lets special tokens match only where all their bytes come
 * from the template (or are bos_token and the like, which the model's file gives). Trimming, slicing, replacing,
 * tojson or macros cannot lose the flag, content cannot forge it, and nothing in the prompt looks different for it. */
#ifndef IMP_TEXT_CHAT_H
#define IMP_TEXT_CHAT_H

#include "text/jinja.h"
#include "text/tok.h"

typedef struct chat_template chat_template;

/* What a template was found to do, by rendering small conversations with it. */
typedef struct chat_caps {
    bool system;          /* renders a system message */
    bool string_content;  /* renders content that is a string */
    bool parts_content;   /* renders content that is a list of {"type": "text"} parts */
    bool strict_turns;    /* refuses two user messages in a row: neighbours of one role are merged */
    bool images;          /* renders a placeholder for an image part */
    bool tools;           /* shows tool definitions to the model */
    bool tool_calls;      /* renders an assistant's tool_calls */
    bool parallel_calls;  /* more than one in a message */
    bool object_args;     /* takes their arguments as an object (else as JSON text) */
    bool null_content;    /* content may be null beside tool_calls */
    bool empty_content;   /* content may be "" beside tool_calls */
    bool tool_role;       /* renders role "tool" */
    bool short_ids;       /* tool call ids must be nine letters and digits (Mistral) */
    bool reasoning;       /* renders reasoning_content or thinking of an earlier turn, in some place */
    bool thinking_switch; /* has enable_thinking (or a like variable) */
    bool opens_reasoning; /* the generation prompt ends inside a reasoning block ("<think>") */
} chat_caps;

imp_status chat_template_new(chat_template **out, const char *text, size_t n, const char *name, imp_err *e);
/* A built-in template: chatml, llama3, gemma, ... IMP_E_NOTFOUND names the known ones. */
imp_status chat_template_builtin(chat_template **out, const char *name, imp_err *e);
const char *chat_builtin_name(size_t i); /* NULL past the end; for --help */
const char *chat_builtin_text(const char *name, size_t *n); /* NULL when unknown */
void chat_template_free(chat_template *t); /* NULL is fine */
const chat_caps *chat_template_caps(const chat_template *t);
const jinja_program *chat_template_program(const chat_template *t);

typedef enum chat_mode {
    CHAT_FIT,      /* the server: messages are brought into the form that this template renders best (chat_fit) */
    CHAT_VERBATIM  /* imp template: exactly what transformers renders; only if that fails, as CHAT_FIT */
} chat_mode;

typedef struct chat_request {
    jval messages;                /* list of dicts as in OpenAI's API; required */
    jval tools;                   /* list, or J_NONE */
    jval documents;               /* list, or J_NONE */
    jval kwargs;                  /* dict of further template variables (enable_thinking, ...), or J_NONE */
    const char *bos_token, *eos_token; /* NULL: "" */
    bool add_generation_prompt;
    bool continue_final_message;  /* the prompt ends inside the last message; add_generation_prompt must be off */
    const char *image_marker;     /* stands for an image in templates without images; NULL: the request fails */
    chat_mode mode;
    const struct tm *now;         /* what strftime_now says; NULL: the local time */
} chat_request;

void chat_request_init(chat_request *r); /* nothing set; add_generation_prompt on */
/* Reads a request's JSON: messages, tools, documents, add_generation_prompt, continue_final_message, bos_token,
 * eos_token, strftime_now ("2025-07-01 12:34:56", fixes the time), chat_template_kwargs or kwargs; other keys become
 * template variables, as in transformers. Everything from the JSON is data, the two tokens excepted. */
imp_status chat_request_parse(chat_request *r, arena *a, const char *json, size_t n, imp_err *e);

/* Renders the prompt; out must be zero-initialised or hold text to append to. The arena takes intermediate values. */
imp_status chat_render(const chat_template *t, const chat_request *r, arena *a, jinja_out *out, imp_err *e);

/* Tokens of a rendered prompt: special tokens only in template text; no BOS or EOS is added (the template has them). */
imp_status chat_encode(const tok *t, const jinja_out *prompt, tok_ids *out, imp_err *e);

/* Brings messages into the form that the template renders: joins parts, merges a system message into the first user
 * message, arguments to objects or text, null content, ids, names of tool results, reasoning under the right key. */
imp_status chat_fit(const chat_caps *caps, const jinja_program *p, const chat_request *r, arena *a, jval *messages,
                    imp_err *e);

#endif

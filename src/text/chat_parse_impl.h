/* chat_parse_impl: the parser's state, shared by its files; private to them. */
#ifndef IMP_TEXT_CHAT_PARSE_IMPL_H
#define IMP_TEXT_CHAT_PARSE_IMPL_H

#include "text/chat_parse.h"

/* How the inside of a call section is written. Where a row says CP_TAGGED, the first character decides between JSON
 * ("{", "["), XML ("<function=") and GLM's name with <arg_key>. */
typedef enum cp_body { CP_TAGGED, CP_JSON, CP_NAMED, CP_MISTRAL, CP_LOOSE, CP_HARMONY } cp_body;

struct chat_format {
    const char *name;
    const char *detect[2];    /* texts that its templates contain, all of them */
    cp_body body;
    const char *open, *close; /* around one call or all; close NULL: none */
    const char *call_open, *call_sep, *call_close; /* CP_NAMED: around each call, between name and arguments */
    bool bare;                /* a call may also be the whole answer, JSON without any tag */
    const char *force;        /* what a forced call begins with, JSON {"name", args_key} follows;
                                 NULL: hermes' is taken */
    const char *args_key;     /* NULL: "arguments" */
    const char *think[2];     /* its own reasoning tags; NULL: <think> */
};

typedef enum cp_state {
    CP_TEXT, CP_REASON, CP_BODY, CP_JSON_CALLS, CP_XML_NEXT, CP_XML_PARAM, CP_XML_VALUE, CP_GLM_NAME, CP_GLM_NEXT,
    CP_GLM_KEY, CP_GLM_SEP, CP_CALL_NEXT, CP_CALL_NAME, CP_CALL_ARGS, CP_SKIP_CLOSE, CP_COLLECT, CP_HARM_HEAD,
        CP_HARM_TEXT
} cp_state;

typedef enum cp_jphase {
    CPJ_TOP, CPJ_KEY, CPJ_IN_KEY, CPJ_COLON, CPJ_VALUE, CPJ_STRING, CPJ_SCALAR, CPJ_SKIP, CPJ_ARGS
} cp_jphase;

#define CP_MAX_STACK 128
typedef struct cp_args { /* a JSON value on its way through, repaired where models go wrong */
    unsigned depth;
    char stack[CP_MAX_STACK]; /* closing bracket that each level wants */
    bool in_string, escape;
} cp_args;

struct chat_parser {
    const chat_format *f;
    jval tools;
    bool parse_tools, parse_reasoning, failed;
    chat_event_fn fn;
    void *user;
    const char *think_open, *think_close;

    cp_state state;
    strbuf in;        /* not yet understood; `at` bytes of it are done */
    size_t at;
    bool final;       /* nothing follows */
    char tail[4];     /* an unfinished character */
    size_t n_tail;

    strbuf white;     /* white space that is dropped before a block and kept before text */
    bool text_seen;   /* content since the last block */
    bool block_seen;  /* reasoning or a call came before */
    bool fresh;       /* at the start of reasoning: white space is dropped */
    strbuf raw;       /* the section so far, in case it is no call */
    bool keep_raw, bare_now;

    int n_tools;      /* begun */
    bool open;        /* a call is begun and not ended */
    strbuf name, key, out;
    cp_args args;

    cp_jphase j;      /* CP_JSON_CALLS */
    bool array, have_name, have_args;
    enum { CPK_OTHER, CPK_NAME, CPK_ARGS } jkey;
    strbuf held_args; /* arguments that came before the name */
    unsigned skip_depth;
    bool skip_string, skip_escape;

    bool value_string, value_first; /* XML: the parameter is streamed as a string; nothing of it was seen yet */
    unsigned n_params;
    strbuf value;
    bool harm_tool;
    chat_event_kind harm_kind;
};

/* chat_force.c: formats whose calls are JSON have their own beginning of a forced call; the others share one. */
const chat_format *cp_force_format(const chat_format *f);

/* chat_parse.c */
void cp_emit(chat_parser *p, chat_event_kind kind, const char *s, size_t n);
void cp_eat(chat_parser *p, size_t n);                     /* n bytes of the input are understood */
static inline const char *cp_s(const chat_parser *p) { return p->in.s + p->at; } /* in.s is never NULL */
static inline size_t cp_n(const chat_parser *p) { return p->in.n - p->at; }
/* Earliest of the tags in the input; *hold: bytes at the end that may begin one (0 when final). -1: none. */
int cp_find(const chat_parser *p, const char *const *tags, size_t *pos, size_t *hold);
/* 1: the input starts with lit; 0: it does not; -1: too short to say. */
int cp_starts(const chat_parser *p, const char *lit);
size_t cp_skip_space(chat_parser *p);                      /* eats white space; returns bytes left */
void cp_begin(chat_parser *p, const char *name, size_t n); /* drops the white space held back */
void cp_args_text(chat_parser *p, const char *s, size_t n);
void cp_end(chat_parser *p);
bool cp_not_a_call(chat_parser *p);                        /* gives the raw text out as content; always true */
bool cp_close_section(chat_parser *p);                     /* back to text; always true */
bool cp_after_call(chat_parser *p);                        /* waits for the section's closing tag */

/* chat_parse_json.c: steps return false when more input is needed. */
void cp_json_start(chat_parser *p);
bool cp_json_step(chat_parser *p);
void cp_json_finish(chat_parser *p);
/* Passes JSON of one value from s to p->out; returns bytes used; *done at its end. Repairs control characters and bad
 * escapes in strings. stop: an outside '<' ends the value early, closing what is open. */
size_t cp_args_feed(chat_parser *p, const char *s, size_t n, bool *done);
void cp_args_start(chat_parser *p);
void cp_args_close(chat_parser *p);                        /* writes the brackets that are missing */

/* chat_parse_xml.c */
bool cp_xml_step(chat_parser *p);
void cp_xml_finish(chat_parser *p);

/* chat_parse_loose.c: a whole section in Python's or Gemma's notation; false when it is none. */
bool cp_loose_calls(chat_parser *p, const char *s, size_t n);

#endif

/* stream: one request's generation, from parsed fields to finished answer: the only streaming state machine of the
 * server. A gen is built by a worker (gen_new .. gen_go) and belongs to the pump thread from gen_go on. Engine events
 * arrive through the pump; a protocol is a printer over them. */
#ifndef IMP_SERVER_STREAM_H
#define IMP_SERVER_STREAM_H

#include "server/server_impl.h"

/* What can go wrong with a request, before anything runs. */
typedef struct req_err {
    int http;                  /* 0 = nothing */
    const char *code;
    char param[64];
    char message[1100];
    char extra[120];           /* further members of OpenAI's error object */
} req_err;

/* What a request asks for, in any protocol. Strings live in the arena. */
typedef struct ask {
    imp_sampling sampling;
    bool stream, include_usage, chat_logprobs, echo, ignore_eos, keep_special, no_add_special;
    bool has_max;              /* max_tokens was given */
    int64_t max_tokens;        /* 0 = up to the context, or nothing at all when has_max */
    int64_t max_completion;    /* wins over max_tokens; -1 = not given */
    int32_t n, best_of;        /* best_of 0 = not given */
    int32_t logprobs;          /* alternatives a token, -1 = none */
    int32_t top_logprobs;      /* -1 = not given */
    int32_t priority;
    const char **stop;
    uint32_t n_stop;
    int32_t *stop_token;
    uint32_t n_stop_token;
    const char *model, *salt, *effort;
    json_t *prompt, *messages, *kwargs, *system; /* borrowed from the document */
    json_t *add_generation_prompt, *continue_final_message;
    imp_constraint_kind constraint_kind;
    const char *constraint;
    json_t *tools;             /* OpenAI's form, borrowed; NULL = none */
    enum { TOOLS_AUTO, TOOLS_NONE, TOOLS_MUST } tool_mode;
    const char *tool_name;     /* TOOLS_MUST: this one; NULL = any */
    bool one_call;             /* calls after the first are left out */
    bool seeded;
    arena *mem;
    req_err *err;
} ask;

/* One alternative or token with its logarithm. */
typedef struct lp_item {
    int32_t token;
    float logprob;
} lp_item;

/* A piece of one choice, as a printer sees it. token -1: text without a token of its own
 * (the end of held-back text). */
typedef struct piece {
    const char *text;
    size_t n_text;
    int32_t token;
    float logprob;
    const imp_logprob *top;
    uint32_t n_top;
} piece;

typedef struct gen_prompt {
    int32_t *ids;              /* owned: imp_free */
    uint32_t n;
    const char *text;          /* for echo: arena */
    size_t n_text;
    piece *score;              /* echo with logprobs: one a token, the first without logprob; arena */
    uint32_t n_score;
} gen_prompt;

/* A call of a tool, as far as it has come. */
typedef struct tool_call {
    char *name;                /* owned, as is args */
    strbuf args;               /* JSON */
    bool complete;
} tool_call;

typedef struct choice {
    gen *g;
    uint32_t index;
    gen_prompt *prompt;
    strbuf text;               /* not streamed: all of it */
    imp_chat_parser *parser;   /* NULL: text is content */
    bool fed;                  /* it knows what stands in front of the model's text */
    strbuf reasoning;          /* not streamed: all of it */
    tool_call *call;           /* [n_call] */
    uint32_t n_call, cap_call;
    bool thinks;               /* the last part was reasoning */
    uint32_t n_reasoning;      /* tokens of it */
    imp_part_kind block;       /* Anthropic: kind of the open block, when has_block */
    bool has_block;
    uint32_t n_block;          /* begun so far */
    strbuf lp[4];              /* logprobs so far, as the protocol writes them (its elements, with commas) */
    size_t n_char;             /* code points so far, for text_offset */
    uint32_t n_token;          /* token events so far */
    uint32_t n_cached;         /* prompt tokens from the cache, of the choice that began its request */
    bool over, lost, echoed;
    imp_finish finish;
    imp_status status;
    char message[400];
    const char *stop_string;   /* one of ask.stop */
    imp_timing timing;
    int64_t t_first, t_last;
    struct choice *next_done;  /* the pump's list */
} choice;

typedef struct printer {
    error_form form;
    void (*begin)(gen *g, strbuf *out);                             /* streams: before anything else; may be NULL */
    void (*piece)(gen *g, choice *c, const piece *p, strbuf *out);  /* keeps what the whole answer needs, or prints */
    void (*part)(gen *g, choice *c, const imp_part *p, strbuf *out); /* streams: content, reasoning or a piece
                                                                        of a call; NULL: no parser */
    void (*over)(gen *g, choice *c, strbuf *out);                   /* streams: a choice has ended */
    void (*end)(gen *g, strbuf *out);                               /* streams: all have */
    void (*fail)(gen *g, int http, const char *message, strbuf *out); /* streams: an error after the first byte */
    void (*whole)(gen *g, strbuf *out);                             /* the answer that is not streamed */
    const char *ping;
} printer;

/* One imp_submit: a prompt and its n choices. */
typedef struct gen_sub {
    gen *g;
    gen_prompt *prompt;
    uint32_t first;            /* its first choice */
    bool scoring;              /* wants the prompt's logits and nothing else */
    uint64_t id;
} gen_sub;

struct gen {
    call *c;
    server *s;
    const printer *pr;
    arena mem;
    ask a;
    json_t *doc;
    gen_prompt *prompt;
    uint32_t n_prompt;
    choice *choice;            /* n_prompt * n, prompt by prompt */
    uint32_t n_choice;
    gen_sub *sub;              /* [n_prompt], and as many for scoring */
    choice *scorer;            /* [n_prompt + 1] stand-ins: the end of a scoring; the last: of the submitting */
    atomic_uint n_sub;         /* submitted so far: ids of sub[0..n_sub) are valid, for cancelling */
    atomic_bool cancelled;
    req_err err;
    int64_t created;
    char id[48];

    bool parses;               /* its choices have parsers */
    const char *forced;        /* the beginning of the answers, in the prompt already; NULL = none */

    uint32_t n_missing;        /* DONE events that will not come, as submitting failed */

    /* pump thread */
    uint32_t left;             /* DONE events to come */
    bool submitted;            /* everything was handed to the engine */
    bool scoring;              /* the prompts are being scored, answers come after that */
    bool begun, timed_out;
    int64_t t_sched, t_out;
    strbuf out;                /* printed, not yet sent */
    gen *next_dirty;
    bool is_dirty;
};

/* Building, on a worker. gen_new takes the document. */
gen *gen_new(call *c, const printer *pr, json_t *doc);
void gen_free(gen *g);
/* Makes room for n prompts; gen_add_prompt takes the ids. */
bool gen_prompts(gen *g, uint32_t n);
/* Checks sizes, submits, and hands g to the pump; every failure is answered. Takes g and the caller's
 * reference to c. */
void gen_go(gen *g);
/* Answers with g->err and frees g; takes the reference to c. */
void gen_refuse(gen *g);
/* Ends its engine requests; any thread that holds c->lock or is the pump. */
void gen_cancel(gen *g);

/* Pump thread. */
typedef enum ev_kind { EV_START, EV_TOKEN, EV_SCORE } ev_kind;
typedef struct ev_record {     /* followed by imp_logprob top[n_top] and the text, padded to 8 */
    uint32_t size, n_top, n_text;
    ev_kind kind;
    gen *g;
    choice *c;
    gen_sub *sub;
    int64_t t;
    int32_t token;
    uint32_t position;
    float logprob;
} ev_record;
void pump_push(server *s, const ev_record *r, const imp_logprob *top, const char *text);
void pump_done(server *s, choice *c);
void gen_on_record(gen *g, const ev_record *r, const imp_logprob *top, const char *text);
void gen_on_done(gen *g, choice *c);
void gen_on_part(void *user, const imp_part *p);
void gen_tick(gen *g, int64_t now);
/* After a batch of events: sends what is new; a finished g is answered and freed. */
void gen_flush(gen *g);

/* Shared by printers. */
typedef struct gen_usage { uint32_t prompt, cached, completion, reasoning; } gen_usage;
gen_usage gen_count(const gen *g);
/* Text of a token as JSON can carry it; `bytes_form`: "bytes:\xf0\x9f" when it is no UTF-8 (legacy completions). */
void token_text(const server *s, int32_t id, bool bytes_form, strbuf *out);

#endif

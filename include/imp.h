/* imp.h: the C API of imp, a large language model inference engine. The only installed header; C17 and C++.
 *
 * Objects: imp_model (weights, tokenizer, plan; read-only after opening, shared freely) and imp_engine (a thread that
 * runs requests on one model). Requests are submitted and answered by events.
 * Threads: every function may be called from any thread unless its comment says otherwise.
 * Errors: functions return an imp_status (0 is success, failures are negative) and, when given an imp_err, a sentence.
 * Versioning: public structs start with `uint32_t size`, are filled in by their imp_*_init function, and only grow at
 * the end; enum values never change their number.
 */
#ifndef IMP_H
#define IMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define IMP_VERSION_MAJOR 0
#define IMP_VERSION_MINOR 1
#define IMP_VERSION_PATCH 0
#define IMP_VERSION "0.1.0"

#if defined(__GNUC__)
#define IMP_API __attribute__((visibility("default")))
#else
#define IMP_API
#endif

/* ---- Status ---------------------------------------------------------------------------------------------------
 * name, number, text, HTTP code, reach. Reach says what the failure ends: the request, the sequence, the model or the
 * device; everything else goes on. */
#define IMP_STATUS_LIST(X)                                                          \
    X(OK, 0, "success", 200, REQUEST)                                               \
    X(E_USAGE, -1, "wrong arguments", 400, REQUEST)                                 \
    X(E_NOMEM, -2, "out of memory", 503, REQUEST)                                   \
    X(E_IO, -3, "input/output failed", 500, MODEL)                                  \
    X(E_PARSE, -4, "malformed input", 400, REQUEST)                                 \
    X(E_LIMIT, -5, "a limit was passed", 400, REQUEST)                              \
    X(E_UNSUPPORTED, -6, "not supported", 400, REQUEST)                             \
    X(E_NOTFOUND, -7, "not found", 404, REQUEST)                                    \
    X(E_CONTEXT, -8, "longer than the context", 400, REQUEST)                       \
    X(E_CANCELLED, -9, "cancelled", 499, REQUEST)                                   \
    X(E_BUSY, -10, "overloaded", 429, REQUEST)                                      \
    X(E_MODEL, -11, "the model file is unusable", 500, MODEL)                       \
    X(E_NUMERIC, -12, "the model produced no finite numbers", 500, SEQUENCE)        \
    X(E_DEVICE, -13, "the device failed", 503, DEVICE)                              \
    X(E_SHUTDOWN, -14, "shutting down", 503, REQUEST)                               \
    X(E_INTERNAL, -15, "internal error", 500, REQUEST)

typedef enum imp_status {
#define IMP_X(name, num, text, http, reach) IMP_##name = num,
    IMP_STATUS_LIST(IMP_X)
#undef IMP_X
} imp_status;

typedef enum imp_reach { IMP_REACH_REQUEST, IMP_REACH_SEQUENCE, IMP_REACH_MODEL, IMP_REACH_DEVICE } imp_reach;

/* A failure and its sentence ("what: why, wanted, got"). Zero-initialise; the first failure written stays. */
typedef struct imp_err {
    imp_status status;
    char message[1020];
} imp_err;

IMP_API const char *imp_version(void);
IMP_API const char *imp_status_text(imp_status s);
IMP_API int imp_status_http(imp_status s);
IMP_API imp_reach imp_status_reach(imp_status s);

/* ---- Models ---------------------------------------------------------------------------------------------------- */
typedef struct imp_model imp_model;   /* reference-counted: an engine keeps its model alive */
typedef struct imp_engine imp_engine;

typedef enum imp_log_level { IMP_LOG_DEBUG, IMP_LOG_INFO, IMP_LOG_WARN, IMP_LOG_ERROR } imp_log_level;
typedef void (*imp_log_fn)(void *user, imp_log_level level, const char *line);
/* Progress of long work: done of total units (bytes, tokens). Called from the working thread; must not block. Return
 * false to stop the work (the call then fails with IMP_E_CANCELLED). */
typedef bool (*imp_progress_fn)(void *user, const char *what, uint64_t done, uint64_t total);

typedef struct imp_model_params {
    uint32_t size;
    uint32_t n_ctx;           /* context to plan for; 0 = the model's own, see imp_engine_params.n_ctx */
    imp_log_fn log;           /* may be NULL */
    void *log_user;
} imp_model_params;
IMP_API void imp_model_params_init(imp_model_params *p);

/* path: a GGUF file (the first of a split set) or a folder with config.json. Everything in it is checked here. */
IMP_API imp_status imp_model_open(const char *path, const imp_model_params *p, imp_model **out, imp_err *e);
IMP_API void imp_model_close(imp_model *m); /* NULL is fine; memory goes when the last engine on it is freed */

typedef struct imp_model_info {
    uint32_t size;
    const char *family;       /* "Gemma 3"; strings belong to the model */
    const char *name;         /* from the file, or its base name */
    const char *path;
    uint32_t n_layer, n_hidden, n_vocab, n_ctx_train;
    uint64_t n_param, n_param_active;
    uint64_t weight_bytes;    /* in the file */
    bool has_tokenizer;
    bool has_template;
    int32_t bos, eos;         /* -1 = none */
} imp_model_info;
IMP_API imp_status imp_model_get_info(const imp_model *m, imp_model_info *info); /* set info->size first */
/* Everything `imp inspect` prints, as text (plan: with every operation) or one JSON document.
 * The caller frees *out with imp_free. */
IMP_API imp_status imp_model_inspect(const imp_model *m, bool plan, bool json, char **out, imp_err *e);
/* For strings and arrays that this library allocated. */
IMP_API void imp_free(void *p);

/* ---- Tokens ----------------------------------------------------------------------------------------------------- */
typedef enum imp_tokenize_flags {
    IMP_ADD_SPECIAL = 1,      /* BOS/EOS as the file says */
    IMP_PARSE_SPECIAL = 2     /* special-token text becomes special tokens */
} imp_tokenize_flags;
/* ids: allocated, imp_free. text may hold any bytes; invalid UTF-8 becomes U+FFFD. */
IMP_API imp_status imp_tokenize(const imp_model *m, const char *text, size_t n, unsigned flags, int32_t **ids,
                                size_t *n_ids, imp_err *e);
/* text: allocated, NUL-terminated, imp_free. keep_special: special tokens show as their text. */
IMP_API imp_status imp_detokenize(const imp_model *m, const int32_t *ids, size_t n, bool keep_special, char **text,
                                  size_t *n_text, imp_err *e);
/* Bytes of one token; borrowed from the model. */
IMP_API void imp_token_bytes(const imp_model *m, int32_t id, const char **s, size_t *n);
IMP_API bool imp_token_is_eog(const imp_model *m, int32_t id);

/* ---- Chat ------------------------------------------------------------------------------------------------------- */
/* Renders an OpenAI-style request ({"messages":[..],"tools":[..],"add_generation_prompt":true,..}) through the model's
 * chat template, or `tmpl`: a template's text, or the name of a built-in one ("chatml", "llama3", "gemma", ...).
 * NULL = model's; IMP_E_NOTFOUND when there is none. Byte-equal to transformers where the template takes the messages
 * as they are; else they are brought into a form that it takes. m may be NULL when tmpl is not. text: imp_free. */
IMP_API imp_status imp_chat_render(const imp_model *m, const char *tmpl, const char *request_json, size_t n,
                                   char **text, size_t *n_text, imp_err *e);
/* The prompt's tokens, as a chat request is answered: messages are first brought into the form that the template
 * renders best, and special-token text inside users' content stays text. ids: imp_free. */
IMP_API imp_status imp_chat_tokenize(const imp_model *m, const char *tmpl, const char *request_json, size_t n,
                                     int32_t **ids, size_t *n_ids, imp_err *e);

/* Answers of chats: a model's text back into content, reasoning and tool calls, while it streams. A parser belongs to
 * one answer and to one thread at a time. Give it the answer's text with special tokens kept
 * (imp_request.keep_special). */
typedef struct imp_chat_parser imp_chat_parser;
typedef enum imp_part_kind {
    IMP_PART_CONTENT, IMP_PART_REASONING, /* text, never part of a character */
    IMP_PART_TOOL_BEGIN,                  /* text is the function's name */
    IMP_PART_TOOL_ARGS,                   /* a piece of the arguments' JSON */
    IMP_PART_TOOL_END
} imp_part_kind;
typedef struct imp_part {
    uint32_t size;
    imp_part_kind kind;
    uint32_t tool;            /* number of the call, from 0 */
    const char *text;         /* valid during the call, NUL-terminated */
    size_t n;
} imp_part;
typedef void (*imp_part_fn)(void *user, const imp_part *part); /* inside push and finish */
typedef enum imp_chat_parse_flags {
    IMP_PARSE_TOOLS = 1,      /* tool calls are parsed; else they are content */
    IMP_PARSE_REASONING = 2,  /* so is reasoning, where the template knows any */
    IMP_PARSE_FORCED = 4      /* the answer begins as imp_chat_force_call says */
} imp_chat_parse_flags;
/* tmpl: as for imp_chat_render. tools_json: the request's tools, from which formats without types take them; may be
 * NULL. prompt_tail: the end of the prompt's text (some tokens are enough), which may open a reasoning block; may be
 * NULL. *out is NULL, with IMP_OK, when there is nothing to look for: the text is content. */
IMP_API imp_status imp_chat_parser_new(const imp_model *m, const char *tmpl, unsigned flags, const char *tools_json,
                                       const char *prompt_tail, imp_part_fn fn, void *user, imp_chat_parser **out,
                                       imp_err *e);
IMP_API imp_status imp_chat_parser_push(imp_chat_parser *p, const char *text, size_t n);
IMP_API imp_status imp_chat_parser_finish(imp_chat_parser *p); /* what was held back comes out, open calls end */
IMP_API void imp_chat_parser_free(imp_chat_parser *p);         /* NULL is fine */
/* A tool call that must come. tools_json: a list as in OpenAI's API; name: one of them, NULL = any. prefix is the
 * beginning of the answer: put its tokens (IMP_PARSE_SPECIAL) behind the prompt's, push it into the parser first, and
 * hold what follows to schema (IMP_CONSTRAINT_SCHEMA). Both are allocated, imp_free. tools_json NULL: no call; prefix
 * only closes a reasoning block that the prompt opened (""), so that a constrained answer does not end up inside it. */
IMP_API imp_status imp_chat_force_call(const imp_model *m, const char *tmpl, const char *tools_json, size_t n,
                                       const char *name, const char *prompt_tail, char **prefix, char **schema,
                                       imp_err *e);

/* ---- Engines ---------------------------------------------------------------------------------------------------- */
typedef enum imp_kv { IMP_KV_AUTO, IMP_KV_F32, IMP_KV_F16, IMP_KV_BF16, IMP_KV_FP8, IMP_KV_Q8_0, IMP_KV_NVFP4 } imp_kv;

/* How products of prompts are computed: as exactly as the weights allow (f16 products on a GPU); or, on a Hopper GPU,
 * both factors rounded to e4m3: faster and coarser, a byte a weight more of device memory. How generated tokens are
 * computed does not change. IMP_E_UNSUPPORTED elsewhere. */
typedef enum imp_prefill { IMP_PREFILL_FULL, IMP_PREFILL_FP8 } imp_prefill;

/* Tokens that a constraint forces: carried through the model together (the default); with the same answer, one a step
 * (tests); or left to the model, which may spell the forced bytes in other tokens. */
typedef enum imp_jump { IMP_JUMP_ON, IMP_JUMP_STEPS, IMP_JUMP_OFF } imp_jump;

typedef struct imp_engine_params {
    uint32_t size;
    const char *backend;      /* "auto", "cpu", "cuda" */
    int32_t device;
    int32_t n_threads;        /* 0 = all that the process may use */
    const char *cpu;          /* "auto", "scalar" (reference), "avx2", "avx512", "vnni", "amx" */
    uint32_t n_ctx;           /* most tokens of one sequence; 0 = as the model was opened, or what memory allows */
    uint32_t n_seq;           /* sequences at once; 0 = 8 */
    uint32_t n_batch;         /* tokens a step, prompt chunk size; 0 = 512 */
    uint32_t n_row;           /* output rows a step (prompt logits); 0 = n_seq */
    uint32_t block_size;      /* tokens a KV block; 0 = 64; a GPU wants a power of two from 8 on */
    imp_kv kv;
    bool deterministic;
    uint64_t memory_budget;   /* bytes for weights, KV and workspace on the device; 0 = what is free */
    bool shuffle_blocks;      /* tests: hand out KV blocks in a scrambled order */
    imp_progress_fn progress; /* loading; may be NULL */
    void *progress_user;
    imp_log_fn log;
    void *log_user;
    bool profile;             /* measure what imp_engine_profile tells of steps; costs a little */
    uint32_t n_ticket;        /* steps open at once; 0 = as many as the backend gains from (1 CPU, 2 GPU);
                                 results are the same */
    imp_jump jump;
    bool prefix_cache;        /* keep computed prompts (where classes share kernels, answers too) for requests that
                                 begin alike; on by default. Models with recurrent states have none. Results do not
                                 depend on it. */
    uint32_t kv_blocks;       /* tests: KV blocks of a group at most, but enough for one sequence;
                                 0 = as memory allows */
    imp_prefill prefill;
    bool precise;             /* every matrix product with the file's exact weights, f32 inputs and f32 sums, and K
                                 and V in f32 unless `kv` says otherwise, for prompt and generated tokens alike. On a
                                 GPU several times slower, and weights without a layout there, and IQ4_XS, take four
                                 bytes each; on the CPU it is cpu "scalar". With IMP_PREFILL_FP8 IMP_E_UNSUPPORTED,
                                 with another cpu IMP_E_USAGE. */
} imp_engine_params;
IMP_API void imp_engine_params_init(imp_engine_params *p);

IMP_API imp_status imp_engine_new(imp_model *m, const imp_engine_params *p, imp_engine **out, imp_err *e);
/* Cancels what runs (their events say IMP_E_SHUTDOWN), joins the thread. Not from an event function. */
IMP_API void imp_engine_free(imp_engine *g);

/* ---- Requests --------------------------------------------------------------------------------------------------- */
typedef struct imp_logit_bias { int32_t token; float bias; } imp_logit_bias;

/* Order of the stages and random numbers: docs/sampling.md. */
typedef struct imp_sampling {
    uint32_t size;
    float temperature;        /* 0 = greedy */
    int32_t top_k;            /* 0 = off */
    float top_p, min_p, typical_p;
    float repeat_penalty;     /* 1 = off */
    int32_t repeat_last_n;    /* tokens that penalties look back on; -1 = all, 0 = off */
    float frequency_penalty, presence_penalty;
    float dry_multiplier;     /* 0 = off */
    float dry_base;
    int32_t dry_allowed_length, dry_penalty_last_n;
    int32_t mirostat;         /* 0 or 2 */
    float mirostat_tau, mirostat_eta;
    uint64_t seed;
    const imp_logit_bias *logit_bias;
    uint32_t n_logit_bias;
} imp_sampling;
/* Greedy with everything off. */
IMP_API void imp_sampling_init(imp_sampling *s);
/* The file's generation settings, else temperature 0.8, top-p 0.95. */
IMP_API void imp_model_default_sampling(const imp_model *m, imp_sampling *s);

typedef enum imp_constraint_kind {
    IMP_CONSTRAINT_NONE, IMP_CONSTRAINT_JSON, IMP_CONSTRAINT_SCHEMA, IMP_CONSTRAINT_REGEX, IMP_CONSTRAINT_GRAMMAR
} imp_constraint_kind;

/* Copied by imp_submit; pointers need to live only for the call. */
typedef struct imp_request {
    uint32_t size;
    const int32_t *prompt;    /* token ids, at least one */
    uint32_t n_prompt;
    uint32_t max_tokens;      /* 0 = up to the context */
    uint32_t n;               /* choices, 1..128 */
    imp_sampling sampling;
    const char *const *stop;  /* stop strings: cut from the text */
    uint32_t n_stop;
    const int32_t *stop_token; /* extra tokens that end the answer */
    uint32_t n_stop_token;
    bool ignore_eos;
    int32_t logprobs;         /* -1 = none, 0..20: that many alternatives a token */
    bool echo_logits;         /* IMP_EVENT_LOGITS for every prompt token (f32 rows of the vocabulary) */
    bool last_logits;         /* ... for the last prompt token only */
    bool prompt_logprobs;     /* IMP_EVENT_PROMPT for every prompt token after the first */
    uint32_t rows_from;       /* echo_logits and prompt_logprobs begin at this prompt position */
    imp_constraint_kind constraint_kind;
    const char *constraint;   /* schema, regex or grammar text */
    bool keep_special;        /* special tokens appear in the text */
    const char *salt;         /* requests share cached prefixes only where it is the same; NULL and "" = none;
                                 at most 1024 bytes */
    int32_t priority;         /* no effect yet: requests are served in order */
    bool gen_logits;          /* IMP_EVENT_LOGITS for every generated token too: the row it was chosen from */
    bool key_order;           /* IMP_CONSTRAINT_SCHEMA: members come in the order of the schema's `properties`,
                                 others after them */
} imp_request;
IMP_API void imp_request_init(imp_request *r);

typedef enum imp_finish {
    IMP_FINISH_NONE, IMP_FINISH_STOP, IMP_FINISH_STOP_STRING, IMP_FINISH_LENGTH, IMP_FINISH_CANCELLED, IMP_FINISH_ERROR
} imp_finish;

typedef enum imp_event_kind {
    IMP_EVENT_START,          /* prompt processing begins */
    IMP_EVENT_PROMPT,         /* progress of the prompt: n_done of n_prompt; logprob of prompt tokens when asked for */
    IMP_EVENT_LOGITS,         /* logits[n_vocab] of position n_done */
    IMP_EVENT_TOKEN,          /* one token was chosen; text may be empty while bytes wait for the rest of a character */
    IMP_EVENT_DONE            /* a choice ended: finish, status, usage. Exactly one a choice, always the last of it */
} imp_event_kind;

typedef struct imp_logprob { int32_t token; float logprob; } imp_logprob;

typedef struct imp_timing {
    uint32_t n_prompt, n_cached, n_generated;
    int64_t queue_ns, prefill_ns, decode_ns; /* to first schedule; to first token; first to last token */
} imp_timing;

/* Pointers are valid during the call only. */
typedef struct imp_event {
    uint32_t size;
    imp_event_kind kind;
    uint64_t id;              /* of the request */
    uint32_t choice;
    uint32_t n_done, n_prompt;
    int32_t token;
    const char *text;         /* valid UTF-8, never part of a character, stop strings held back and cut */
    size_t n_text;
    float logprob;
    const imp_logprob *top;
    uint32_t n_top;
    const float *logits;
    uint32_t n_vocab;
    imp_finish finish;
    const char *stop_string;  /* the one that ended it */
    int32_t stop_token;       /* the token that ended it, -1 */
    imp_status status;        /* of IMP_EVENT_DONE */
    const char *message;      /* when status is a failure */
    imp_timing timing;        /* of IMP_EVENT_DONE; IMP_EVENT_START knows n_prompt and n_cached */
} imp_event;
/* Runs on the engine's thread, in order, for one request at a time; must not block or call
 * imp_wait / imp_engine_free. */
typedef void (*imp_event_fn)(void *user, const imp_event *ev);

IMP_API imp_status imp_submit(imp_engine *g, const imp_request *r, imp_event_fn fn, void *user, uint64_t *id,
                              imp_err *e);
/* Acts between steps; the request's choices end with IMP_FINISH_CANCELLED. An unknown or finished id is ignored. */
IMP_API void imp_cancel(imp_engine *g, uint64_t id);
/* Until the request's last event was delivered. timeout_ms < 0: forever. IMP_E_BUSY when time ran out. */
IMP_API imp_status imp_wait(imp_engine *g, uint64_t id, int64_t timeout_ms);

/* Submit, wait and collect the first choice's text (imp_free). */
IMP_API imp_status imp_generate(imp_engine *g, const imp_request *r, char **text, size_t *n_text, imp_timing *timing,
                                imp_err *e);
/* Logits of prompt positions to out: [n_prompt][n_vocab], or [n_vocab] with last_only. */
IMP_API imp_status imp_logits(imp_engine *g, const int32_t *prompt, uint32_t n_prompt, bool last_only, float *out,
                              imp_err *e);

typedef struct imp_stats {
    uint32_t size;
    const char *backend;      /* "cpu: AVX-512 VNNI, 2 threads" */
    uint32_t n_ctx, n_seq, n_batch, block_size;
    uint32_t running, waiting;
    uint64_t blocks_total, blocks_used; /* KV blocks of all groups; used = held by sequences */
    uint64_t prompt_tokens;   /* computed, those of resumed sequences anew */
    uint64_t cached_tokens;   /* prompt tokens that the prefix cache had, of prefix_queries */
    uint64_t generated_tokens, preemptions;
    uint64_t weight_bytes, kv_bytes, workspace_bytes; /* held on the device */
    double load_seconds;
    uint64_t forced_tokens;   /* of the generated ones: forced by constraints (imp_jump) */
    uint64_t prefix_queries;  /* prompt tokens looked up in the prefix cache: each choice once,
                                 when it is first scheduled */
    uint64_t blocks_cached;   /* held by the prefix cache alone: given up when a sequence needs them */
} imp_stats;
IMP_API imp_status imp_engine_stats(imp_engine *g, imp_stats *s);
/* Why every request fails since the device was lost; NULL while it works. Any thread; lives with the engine. */
IMP_API const char *imp_engine_lost(imp_engine *g);
/* As imp_model_inspect with plan, but with the kernel that serves each operation here. */
IMP_API imp_status imp_engine_inspect(imp_engine *g, bool json, char **out, imp_err *e);
/* Bytes that one decode step of n_seq sequences with n_ctx tokens each must read: the weights multiplied, at the file's
 * bits (of a mixture the experts that n_seq tokens choose on average), and the KV that is seen. */
IMP_API double imp_engine_step_bytes(imp_engine *g, uint32_t n_ctx, uint32_t n_seq);
/* Parameters that a prompt token multiplies (embedding and head left out), and attention's operations a token and
 * visible position: what a prompt's effective speed is counted in. */
IMP_API double imp_engine_linear_params(imp_engine *g);
IMP_API double imp_engine_attend_flops(imp_engine *g);
/* A table of the last step's kernels: how often, microseconds, GB/s of weights and share of the read ceiling. Waits
 * until no request runs; the step is repeated for it. text: imp_free. IMP_E_UNSUPPORTED where the backend has none. */
IMP_API imp_status imp_engine_profile(imp_engine *g, double read_ceiling, char **text, imp_err *e);
/* Bytes a second that the backend's own read kernel reaches over n_bytes (0 = past the caches). */
IMP_API imp_status imp_engine_read_ceiling(imp_engine *g, uint64_t n_bytes, double *bytes_per_s, imp_err *e);

#ifdef __cplusplus
}
#endif
#endif

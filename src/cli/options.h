/* options: every option of every subcommand, as rows of one table (options.c). Help, man pages, imp.conf and its
 * documentation are printed from it. */
#ifndef IMP_CLI_OPTIONS_H
#define IMP_CLI_OPTIONS_H

#include "base/opt.h"

/* Bits of opt_def.cmds. */
typedef enum cmd_bit {
    CMD_RUN = 1, CMD_CHAT = 2, CMD_SERVE = 4, CMD_BENCH = 8, CMD_LOGITS = 16, CMD_PERPLEXITY = 32, CMD_TOKENIZE = 64,
    CMD_TEMPLATE = 128, CMD_CONSTRAIN = 256, CMD_INSPECT = 512, CMD_QUANTIZE = 1024, CMD_IMATRIX = 2048, CMD_PULL = 4096
} cmd_bit;

typedef struct options {
    /* model and machine */
    const char *model, *backend, *cpu, *kv, *prefill, *config;
    int64_t device, threads, context, n_batch, block_size, memory_budget;
    bool deterministic, precise, prefix_cache, verbose, version, help, kv_fp8, kv_nvfp4;
    opt_list set;
    /* prompt and answer */
    const char *prompt, *file, *ids_text, *output, *chat_template, *system, *history, *revision;
    bool raw, ids, last, no_special, json, quiet, plan;
    int64_t max_tokens, seed, top_k, repeat_last_n, mirostat, dry_allowed_length, dry_last_n;
    double temperature, top_p, min_p, typical_p, repeat_penalty, frequency_penalty, presence_penalty, dry_multiplier,
        dry_base, mirostat_tau, mirostat_eta;
    opt_list stop, logit_bias;
    bool ignore_eos;
    const char *schema, *regex, *grammar, *key_order, *template_file;
    /* bench */
    const char *bench_prompt, *bench_gen, *bench_depth, *bench_npl, *bench_format, *bench_write;
    int64_t repeat, bench_check;
    bool profile;
    /* perplexity */
    const char *kl_base;
    /* serve */
    const char *host, *api_key;
    opt_list alias;
    int64_t port, parallel, max_queue, max_body, timeout, drain;
} options;

extern const opt_table cli_options;

/* Values before anything was read. */
void options_init(options *o);
/* Where a value came from (index by &o->field is not needed: by option name). */
opt_source options_source(const uint8_t *source, const char *name);

#endif

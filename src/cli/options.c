#include "cli/options.h"

#include <string.h>

#define ENGINE (CMD_RUN | CMD_CHAT | CMD_SERVE | CMD_BENCH | CMD_LOGITS | CMD_PERPLEXITY | CMD_IMATRIX)
#define MODEL (ENGINE | CMD_TOKENIZE | CMD_TEMPLATE | CMD_CONSTRAIN | CMD_INSPECT)
#define ALL (MODEL | CMD_QUANTIZE | CMD_PULL)
#define ANSWER (CMD_RUN | CMD_CHAT | CMD_SERVE)
#define AT(field) .off = offsetof(options, field)

static const opt_def defs[] = {
    /* model and machine */
    {.name = "model", .alias = "-m", .key = "model.path", .type = OPT_STR, .arg = "MODEL", AT(model), .cmds = MODEL,
     .help = "GGUF file (the first of a split set) or folder with config.json and SafeTensors"},
    {.name = "backend", .key = "model.backend", .type = OPT_STR, .choices = "auto|cpu|cuda", AT(backend), .cmds = MODEL,
     .help = "what computes: auto takes a GPU when there is one"},
    {.name = "device", .key = "model.device", .type = OPT_INT, .arg = "N", .min = 0, .max = 255, AT(device), .cmds = MODEL,
     .help = "number of the GPU"},
    {.name = "cpu", .key = "model.cpu", .type = OPT_STR, .arg = "PATH", AT(cpu), .cmds = MODEL,
     .help = "CPU kernels: auto, scalar (the exact reference), avx2, avx512, vnni, amx"},
    {.name = "threads", .alias = "-t", .key = "model.threads", .type = OPT_INT, .arg = "N", .min = 0, .max = 1024, AT(threads), .cmds = MODEL,
     .help = "CPU threads (0 = all this process may use)"},
    {.name = "context", .alias = "-c --ctx-size --max-seq-len --max-model-len", .key = "model.context", .type = OPT_INT, .arg = "N", .min = 0,
     .max = 1 << 30, AT(context), .cmds = MODEL, .help = "most tokens of one sequence (0 = the model's own, as memory allows)"},
    {.name = "kv", .alias = "--kv-cache-dtype", .key = "model.kv", .type = OPT_STR, .choices = "auto|f32|f16|bf16|fp8|q8_0|nvfp4", AT(kv), .cmds = MODEL,
     .help = "format of the KV cache"},
    {.name = "kv-fp8", .type = OPT_FLAG, AT(kv_fp8), .cmds = MODEL, .help = "the same as --kv fp8"},
    {.name = "kv-nvfp4", .type = OPT_FLAG, AT(kv_nvfp4), .cmds = MODEL, .help = "the same as --kv nvfp4"},
    {.name = "prefill", .key = "model.prefill", .type = OPT_STR, .choices = "full|fp8", AT(prefill), .cmds = MODEL,
     .help = "products of prompts: full quality, or FP8 (Hopper GPUs; faster, coarser, a byte a weight more)"},
    {.name = "vram-budget", .key = "model.vram_budget", .type = OPT_INT, .arg = "MIB", .min = 0, .max = 1 << 30, AT(memory_budget), .cmds = MODEL,
     .help = "device memory to use at most, MiB (0 = what is free)"},
    {.name = "deterministic", .key = "model.deterministic", .type = OPT_FLAG, AT(deterministic), .cmds = MODEL,
     .help = "generated and prompt tokens share kernels (always so on the CPU)"},
    {.name = "precise", .key = "model.precise", .type = OPT_FLAG, AT(precise), .cmds = MODEL,
     .help = "products with exact weights, FP32 inputs and sums (slow; on the CPU --cpu scalar)"},
    {.name = "chunk", .alias = "-b --batch-size", .key = "model.chunk", .type = OPT_INT, .arg = "N", .min = 0, .max = 65536, AT(n_batch), .cmds = ENGINE,
     .help = "tokens a step, so the prompt goes in pieces of N (0 = 512)"},
    {.name = "block-size", .key = "model.block_size", .type = OPT_INT, .arg = "N", .min = 0, .max = 4096, AT(block_size), .cmds = ENGINE,
     .help = "tokens a KV block (0 = 64); a GPU wants a power of two from 8 on"},
    {.name = "parallel", .alias = "-np --max-num-seqs", .key = "model.parallel", .type = OPT_INT, .arg = "N", .min = 0, .max = 4096, AT(parallel),
     .cmds = ENGINE, .help = "sequences at once (0 = 8)"},
    {.name = "prefix-cache", .alias = "--cache-prompt --enable-prefix-caching", .key = "model.prefix_cache", .type = OPT_FLAG, AT(prefix_cache), .cmds = ANSWER,
     .help = "keep computed prompts and answers for requests that begin alike (on; --no-prefix-cache)"},
    {.name = "mmproj", .key = "model.mmproj", .type = OPT_STR, .arg = "FILE", .later = true, .cmds = MODEL, .help = "vision tower"},
    {.name = "image", .type = OPT_STR, .arg = "FILE", .later = true, .cmds = MODEL, .help = "image to show the model"},
    {.name = "draft", .key = "model.draft", .type = OPT_STR, .arg = "MODEL", .later = true, .cmds = MODEL, .help = "draft model for speculation"},
    {.name = "config", .type = OPT_STR, .arg = "FILE", AT(config), .cmds = ALL, .help = "imp.conf to read"},
    {.name = "set", .type = OPT_LIST, .arg = "KEY=VALUE", AT(set), .cmds = ALL, .help = "set a key of imp.conf; may be given again"},
    /* prompt */
    {.name = "prompt", .alias = "-p", .type = OPT_STR, .arg = "TEXT", AT(prompt), .cmds = CMD_RUN | CMD_TOKENIZE, .help = "the prompt"},
    {.name = "file", .alias = "-f", .type = OPT_STR, .arg = "FILE", AT(file), .cmds = CMD_RUN | CMD_TOKENIZE | CMD_PERPLEXITY | CMD_IMATRIX,
     .help = "read the text from FILE (- is stdin)"},
    {.name = "raw", .type = OPT_FLAG, AT(raw), .cmds = CMD_RUN, .help = "no chat template: the prompt as it is"},
    {.name = "ids", .type = OPT_STR, .arg = "\"1,2,3\"", AT(ids_text), .cmds = CMD_LOGITS | CMD_TOKENIZE, .help = "token ids"},
    {.name = "ids", .type = OPT_FLAG, AT(ids), .cmds = CMD_RUN, .help = "the prompt is token ids, and ids are printed"},
    {.name = "last", .type = OPT_FLAG, AT(last), .cmds = CMD_LOGITS, .help = "logits of the last token alone"},
    {.name = "output", .alias = "-o", .type = OPT_STR, .arg = "FILE", AT(output), .cmds = CMD_LOGITS | CMD_IMATRIX, .help = "where to write"},
    {.name = "no-special", .type = OPT_FLAG, AT(no_special), .cmds = CMD_TOKENIZE, .help = "no BOS/EOS, special-token text stays text"},
    {.name = "json", .type = OPT_FLAG, AT(json), .cmds = ALL, .help = "one JSON document on stdout"},
    {.name = "quiet", .alias = "-q", .type = OPT_FLAG, AT(quiet), .cmds = CMD_RUN | CMD_PERPLEXITY | CMD_BENCH | CMD_PULL, .help = "the result alone"},
    {.name = "plan", .type = OPT_FLAG, AT(plan), .cmds = CMD_INSPECT, .help = "every operation with the kernel that serves it"},
    {.name = "chat-template", .key = "chat.template", .type = OPT_STR, .arg = "NAME|FILE", AT(chat_template), .cmds = ANSWER | CMD_TEMPLATE,
     .help = "chat template instead of the model's: a built-in name or a file"},
    {.name = "template", .type = OPT_STR, .arg = "FILE", AT(template_file), .cmds = CMD_TEMPLATE, .help = "template to render"},
    {.name = "system", .alias = "-s", .key = "chat.system", .type = OPT_STR, .arg = "TEXT", AT(system), .cmds = CMD_RUN | CMD_CHAT, .help = "system message"},
    {.name = "history", .key = "chat.history", .type = OPT_STR, .arg = "FILE", AT(history), .cmds = CMD_CHAT,
     .help = "where the lines typed are kept (none: nowhere)"},
    {.name = "revision", .type = OPT_STR, .arg = "REV", AT(revision), .cmds = CMD_PULL, .help = "branch, tag or commit (main)"},
    /* answer */
    {.name = "max-tokens", .alias = "-n --n-predict --max-new-tokens", .key = "sampling.max_tokens", .type = OPT_INT, .arg = "N", .min = -1, .max = 1 << 30,
     AT(max_tokens), .cmds = ANSWER, .help = "most tokens of the answer (0 or -1: up to the context)"},
    {.name = "temperature", .alias = "--temp", .key = "sampling.temperature", .type = OPT_FLOAT, .arg = "X", .min = 0, .max = 1000, AT(temperature), .cmds = ANSWER,
     .help = "0 takes the likeliest token"},
    {.name = "top-k", .key = "sampling.top_k", .type = OPT_INT, .arg = "N", .min = 0, .max = INT32_MAX, AT(top_k), .cmds = ANSWER, .help = "the N likeliest (0 = off)"},
    {.name = "top-p", .key = "sampling.top_p", .type = OPT_FLOAT, .arg = "X", .min = 0, .max = 1, AT(top_p), .cmds = ANSWER, .help = "smallest set with mass X (1 = off)"},
    {.name = "min-p", .key = "sampling.min_p", .type = OPT_FLOAT, .arg = "X", .min = 0, .max = 1, AT(min_p), .cmds = ANSWER, .help = "at least X of the likeliest (0 = off)"},
    {.name = "typical-p", .alias = "--typical", .key = "sampling.typical_p", .type = OPT_FLOAT, .arg = "X", .min = 0, .max = 1, AT(typical_p), .cmds = ANSWER,
     .help = "locally typical set with mass X (1 = off)"},
    {.name = "repeat-penalty", .alias = "--repetition-penalty", .key = "sampling.repeat_penalty", .type = OPT_FLOAT, .arg = "X", .min = 0.01, .max = 100,
     AT(repeat_penalty), .cmds = ANSWER, .help = "divides logits of recent tokens (1 = off)"},
    {.name = "repeat-last-n", .key = "sampling.repeat_last_n", .type = OPT_INT, .arg = "N", .min = -1, .max = 1 << 30, AT(repeat_last_n), .cmds = ANSWER,
     .help = "tokens that penalties look back on (-1 = all)"},
    {.name = "frequency-penalty", .key = "sampling.frequency_penalty", .type = OPT_FLOAT, .arg = "X", .min = -100, .max = 100, AT(frequency_penalty), .cmds = ANSWER,
     .help = "X for every earlier occurrence"},
    {.name = "presence-penalty", .key = "sampling.presence_penalty", .type = OPT_FLOAT, .arg = "X", .min = -100, .max = 100, AT(presence_penalty), .cmds = ANSWER,
     .help = "X once for every token that occurred"},
    {.name = "dry-multiplier", .key = "sampling.dry_multiplier", .type = OPT_FLOAT, .arg = "X", .min = 0, .max = 100, AT(dry_multiplier), .cmds = ANSWER,
     .help = "DRY repetition penalty (0 = off)"},
    {.name = "dry-base", .key = "sampling.dry_base", .type = OPT_FLOAT, .arg = "X", .min = 0, .max = 100, AT(dry_base), .cmds = ANSWER, .help = "DRY growth per repeated token"},
    {.name = "dry-allowed-length", .key = "sampling.dry_allowed_length", .type = OPT_INT, .arg = "N", .min = 1, .max = 1 << 20, AT(dry_allowed_length), .cmds = ANSWER,
     .help = "DRY repeats of this length are free"},
    {.name = "dry-penalty-last-n", .key = "sampling.dry_penalty_last_n", .type = OPT_INT, .arg = "N", .min = -1, .max = 1 << 30, AT(dry_last_n), .cmds = ANSWER,
     .help = "tokens that DRY looks back on (-1 = all)"},
    {.name = "mirostat", .key = "sampling.mirostat", .type = OPT_INT, .arg = "0|2", .min = 0, .max = 2, AT(mirostat), .cmds = ANSWER, .help = "Mirostat v2 instead of top-k, top-p, min-p"},
    {.name = "mirostat-tau", .alias = "--mirostat-ent", .key = "sampling.mirostat_tau", .type = OPT_FLOAT, .arg = "X", .min = 0, .max = 1000, AT(mirostat_tau), .cmds = ANSWER,
     .help = "Mirostat's target surprise, bits"},
    {.name = "mirostat-eta", .alias = "--mirostat-lr", .key = "sampling.mirostat_eta", .type = OPT_FLOAT, .arg = "X", .min = 0, .max = 10, AT(mirostat_eta), .cmds = ANSWER,
     .help = "Mirostat's learning rate"},
    {.name = "seed", .key = "sampling.seed", .type = OPT_INT, .arg = "N", .min = -1, .max = 9e15, AT(seed), .cmds = ANSWER, .help = "random seed (-1 = a new one each time)"},
    {.name = "stop", .key = "sampling.stop", .type = OPT_LIST, .arg = "TEXT", AT(stop), .cmds = ANSWER, .help = "end the answer before TEXT; may be given again"},
    {.name = "logit-bias", .type = OPT_LIST, .arg = "ID=X", AT(logit_bias), .cmds = CMD_RUN | CMD_CHAT, .help = "add X to a token's logit; may be given again"},
    {.name = "ignore-eos", .key = "sampling.ignore_eos", .type = OPT_FLAG, AT(ignore_eos), .cmds = ANSWER, .help = "go on past the end-of-text token"},
    {.name = "schema", .type = OPT_STR, .arg = "FILE", AT(schema), .cmds = CMD_RUN | CMD_CONSTRAIN, .help = "the answer must fit this JSON Schema"},
    {.name = "key-order", .key = "sampling.key_order", .type = OPT_STR, .choices = "free|schema", AT(key_order), .cmds = CMD_RUN | CMD_CONSTRAIN,
     .help = "members of --schema's objects: in any order, or in that of its properties"},
    {.name = "regex", .type = OPT_STR, .arg = "R", AT(regex), .cmds = CMD_RUN | CMD_CONSTRAIN, .help = "the answer must match R"},
    {.name = "grammar", .type = OPT_STR, .arg = "FILE", AT(grammar), .cmds = CMD_RUN | CMD_CONSTRAIN, .help = "the answer must fit this GBNF grammar"},
    /* bench */
    {.name = "n-prompt", .alias = "-p", .type = OPT_STR, .arg = "N,..", AT(bench_prompt), .cmds = CMD_BENCH, .help = "prompt lengths"},
    {.name = "n-gen", .alias = "-n", .type = OPT_STR, .arg = "N,..", AT(bench_gen), .cmds = CMD_BENCH, .help = "tokens to generate"},
    {.name = "n-depth", .alias = "-d", .type = OPT_STR, .arg = "N,..", AT(bench_depth), .cmds = CMD_BENCH, .help = "tokens already in the context"},
    {.name = "repetitions", .alias = "-r", .type = OPT_INT, .arg = "N", .min = 1, .max = 1000, AT(repeat), .cmds = CMD_BENCH, .help = "times each test is run"},
    {.name = "npl", .type = OPT_STR, .arg = "N,..", AT(bench_npl), .cmds = CMD_BENCH, .help = "sequences at once (batched tests)"},
    {.name = "write", .type = OPT_STR, .arg = "FILE", AT(bench_write), .cmds = CMD_BENCH, .help = "write the model (random:SHAPE:FORMAT) to FILE and do nothing else"},
    {.name = "profile", .type = OPT_FLAG, AT(profile), .cmds = CMD_BENCH, .help = "after each test a table of its last step's kernels (GPU)"},
    {.name = "check", .type = OPT_INT, .arg = "N", .min = 0, .max = 64, AT(bench_check), .cmds = CMD_BENCH,
     .help = "afterwards compare the logits of N generated tokens with the CPU's scalar path"},
    {.name = "output-format", .alias = "-o --output", .type = OPT_STR, .choices = "md|csv|json|jsonl", AT(bench_format), .cmds = CMD_BENCH, .help = "form of the results"},
    {.name = "kl-base", .alias = "--kl-divergence-base", .type = OPT_STR, .arg = "FILE", AT(kl_base), .cmds = CMD_PERPLEXITY,
     .help = "write the logits to FILE, or compare with it if it exists"},
    /* serve */
    {.name = "host", .key = "server.host", .type = OPT_STR, .arg = "ADDRESS", AT(host), .cmds = CMD_SERVE, .help = "address to listen on"},
    {.name = "port", .key = "server.port", .type = OPT_INT, .arg = "N", .min = 0, .max = 65535, AT(port), .cmds = CMD_SERVE, .help = "port to listen on (0 = any free one)"},
    {.name = "api-key", .key = "server.api_key", .type = OPT_STR, .arg = "KEY", AT(api_key), .cmds = CMD_SERVE, .help = "requests must carry this key"},
    {.name = "alias", .key = "server.alias", .type = OPT_LIST, .arg = "NAME", AT(alias), .cmds = CMD_SERVE,
     .help = "name of the model for clients (* = any); may be given again"},
    {.name = "max-queue", .key = "server.max_queue", .type = OPT_INT, .arg = "N", .min = 0, .max = 1 << 20, AT(max_queue), .cmds = CMD_SERVE,
     .help = "answers that may wait for a place; further ones get 429"},
    {.name = "max-body", .key = "server.max_body", .type = OPT_INT, .arg = "MIB", .min = 1, .max = 4096, AT(max_body), .cmds = CMD_SERVE,
     .help = "largest request body, MiB"},
    {.name = "timeout", .key = "server.timeout", .type = OPT_INT, .arg = "S", .min = 0, .max = 1 << 30, AT(timeout), .cmds = CMD_SERVE,
     .help = "seconds that one request may take (0 = any)"},
    {.name = "drain", .key = "server.drain", .type = OPT_INT, .arg = "S", .min = 0, .max = 1 << 30, AT(drain), .cmds = CMD_SERVE,
     .help = "seconds that running requests get after SIGTERM (0 = any)"},
    /* everywhere */
    {.name = "verbose", .alias = "-v", .type = OPT_FLAG, AT(verbose), .cmds = ALL, .help = "say more on stderr"},
    {.name = "version", .type = OPT_FLAG, AT(version), .cmds = ALL, .help = "version"},
    {.name = "help", .alias = "-h", .type = OPT_FLAG, AT(help), .cmds = ALL, .help = "this text"},
};

const opt_table cli_options = {defs, sizeof defs / sizeof *defs};

void options_init(options *o)
{
    *o = (options){.seed = -1, .prefix_cache = true, .repeat = 5, .port = 8080, .host = "127.0.0.1", .max_queue = 512, .max_body = 32, .timeout = 3600, .drain = 300, .bench_prompt = "512", .bench_gen = "128", .bench_depth = "0",
                   .bench_format = "md"};
}

opt_source options_source(const uint8_t *source, const char *name)
{
    opt_source best = OPT_UNSET;
    for (uint32_t i = 0; i < cli_options.n; i++)
        if (strcmp(defs[i].name, name) == 0 && source[i] > best)
            best = (opt_source)source[i];
    return best;
}

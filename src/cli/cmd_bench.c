/* imp bench: llama-bench's tests, columns and fields; beside them bytes moved and the share of the read ceiling
 * measured in the same run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/jsonw.h"
#include "base/mem.h"
#include "base/pool.h"
#include "cli/cli.h"
#include "tools/bench.h"

typedef struct numbers { uint32_t v[64]; uint32_t n; } numbers;

static imp_status parse_list(const char *name, const char *text, numbers *out, imp_err *e)
{
    out->n = 0;
    for (const char *p = text; *p;) {
        char *end;
        unsigned long v = strtoul(p, &end, 10);
        if (end == p || v > 1 << 24 || out->n == 64 || (*end && *end != ','))
            return err_set(e, IMP_E_USAGE, "%s: wanted numbers with commas, got '%s'", name, text);
        out->v[out->n++] = (uint32_t)v;
        p = *end ? end + 1 : end;
    }
    return IMP_OK;
}

typedef struct context {
    cli *c;
    imp_model_info info;
    imp_stats stats;
    double ceiling;           /* bytes a second */
    bool first;
    bool batched;
} context;

static void test_name(const bench_test *t, char *out, size_t n)
{
    int k = t->n_gen ? snprintf(out, n, "tg%u", t->n_gen) : snprintf(out, n, "pp%u", t->n_prompt);
    if (t->n_depth && k > 0 && (size_t)k < n)
        snprintf(out + k, n - (size_t)k, " @ d%u", t->n_depth);
}

/* Threads in use: without -t as many as the backend takes by itself. */
static long long threads(const context *x) { return x->c->o.threads > 0 ? x->c->o.threads : pool_default_threads(); }

/* Bytes that a decode step of this test must read, in the middle of what it generates. */
static double floor_bytes(const context *x, const bench_test *t)
{
    return imp_engine_step_bytes(x->c->engine, t->n_depth + t->n_gen / 2 + 1, t->n_seq);
}

/* Time that the floor's bytes take at the read ceiling, over the time taken. */
static double share(const context *x, const bench_result *r)
{
    return r->test.n_gen && x->ceiling > 0 ? floor_bytes(x, &r->test) * r->median_ts / r->test.n_seq / x->ceiling : 0;
}

/* Effective operations a second of a prompt: two a parameter that a token multiplies, embedding and head left out, and
 * causal attention. */
static double prompt_flops(const context *x, const bench_result *r)
{
    if (r->test.n_gen || !r->median_ts)
        return 0;
    double n = r->test.n_prompt, d = r->test.n_depth;
    double flops = 2 * imp_engine_linear_params(x->c->engine) + imp_engine_attend_flops(x->c->engine) * (d + n / 2);
    return flops * r->median_ts;
}

static void fields(const context *x, const bench_result *r, jw *w)
{
    char when[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    jw_object(w);
    jw_kstr(w, "build_commit", IMP_VERSION);
    jw_kint(w, "build_number", 0);
    jw_kstr(w, "cpu_info", x->stats.backend);
    jw_kstr(w, "gpu_info", "");
    jw_kstr(w, "backends", x->stats.backend);
    jw_kstr(w, "model_filename", x->info.path);
    jw_kstr(w, "model_type", x->info.family);
    jw_kint(w, "model_size", (int64_t)x->info.weight_bytes);
    jw_kint(w, "model_n_params", (int64_t)x->info.n_param);
    jw_kint(w, "n_batch", x->stats.n_batch);
    jw_kint(w, "n_ubatch", x->stats.n_batch);
    jw_kint(w, "n_threads", threads(x));
    jw_kint(w, "n_prompt", r->test.n_prompt);
    jw_kint(w, "n_gen", r->test.n_gen);
    jw_kint(w, "n_depth", r->test.n_depth);
    jw_kint(w, "n_seq", r->test.n_seq);
    jw_kstr(w, "test_time", when);
    jw_kdouble(w, "avg_ns", r->avg_ns);
    jw_kdouble(w, "stddev_ns", r->std_ns);
    jw_kdouble(w, "avg_ts", r->avg_ts);
    jw_kdouble(w, "stddev_ts", r->std_ts);
    jw_kdouble(w, "median_ts", r->median_ts);
    jw_kdouble(w, "read_ceiling_bytes_per_s", x->ceiling);
    jw_kdouble(w, "floor_bytes", floor_bytes(x, &r->test));
    jw_kdouble(w, "share_of_ceiling", share(x, r));
    jw_kdouble(w, "prompt_tflops", prompt_flops(x, r) * 1e-12);
    jw_kdouble(w, "load_seconds", x->stats.load_seconds);
    jw_key(w, "samples_ns");
    jw_array(w);
    for (uint32_t i = 0; i < r->n; i++)
        jw_int(w, r->ns[i]);
    jw_end_array(w);
    jw_key(w, "samples_ts");
    jw_array(w);
    for (uint32_t i = 0; i < r->n; i++)
        jw_double(w, (double)r->test.n_seq * (r->test.n_gen ? r->test.n_gen : r->test.n_prompt) /
                         ((double)r->ns[i] * 1e-9));
    jw_end_array(w);
    jw_end_object(w);
}

static void print_md(context *x, const bench_result *r)
{
    char name[48], ceiling[32] = "";
    if (x->first)
        printf("| model | size | params | backend | threads | test | t/s | %% of floor, TFLOP/s |\n"
               "| ----- | ---: | -----: | ------- | ------: | ---: | --: | ------------------: |\n");
    test_name(&r->test, name, sizeof name);
    if (r->test.n_seq > 1)
        snprintf(name + strlen(name), sizeof name - strlen(name), " x%u", r->test.n_seq);
    if (share(x, r) > 0)
        snprintf(ceiling, sizeof ceiling, "%.1f%%", 100 * share(x, r));
    else if (prompt_flops(x, r) > 0)
        snprintf(ceiling, sizeof ceiling, "%.2f TFLOP/s", prompt_flops(x, r) * 1e-12);
    printf("| %s | %.2f MiB | %.2f M | %s | %lld | %s | %.2f ± %.2f | %s |\n", x->info.name,
           (double)x->info.weight_bytes / 1048576, (double)x->info.n_param / 1e6, x->stats.backend, threads(x), name,
           r->avg_ts, r->std_ts, ceiling);
}

static void print_csv(context *x, const bench_result *r)
{
    if (x->first)
        puts("model_filename,model_type,model_size,model_n_params,backends,n_batch,n_prompt,n_gen,n_depth,n_seq,"
             "avg_ns,stddev_ns,avg_ts,stddev_ts");
    printf("\"%s\",\"%s\",%llu,%llu,\"%s\",%u,%u,%u,%u,%u,%.0f,%.0f,%f,%f\n", x->info.path, x->info.family,
           (unsigned long long)x->info.weight_bytes, (unsigned long long)x->info.n_param, x->stats.backend,
           x->stats.n_batch, r->test.n_prompt, r->test.n_gen, r->test.n_depth, r->test.n_seq, r->avg_ns, r->std_ns,
           r->avg_ts, r->std_ts);
}

static void emit(context *x, const bench_result *r)
{
    const char *form = x->c->o.json ? "json" : x->c->o.bench_format;
    if (strcmp(form, "md") == 0) {
        print_md(x, r);
    } else if (strcmp(form, "csv") == 0) {
        print_csv(x, r);
    } else {
        strbuf b = {0};
        jw w;
        jw_init(&w, &b);
        fields(x, r, &w);
        printf("%s%s%s", strcmp(form, "json") == 0 ? (x->first ? "[\n" : ",\n") : "", b.s ? b.s : "",
               strcmp(form, "json") == 0 ? "" : "\n");
        sb_free(&b);
    }
    x->first = false;
    fflush(stdout);
}

static imp_status one(context *x, bench_test t, imp_err *e)
{
    bench_result r;
    if (cli_interrupted())
        return err_set(e, IMP_E_CANCELLED, "cancelled");
    imp_status s = bench_run(x->c->engine, &t, (uint32_t)x->c->o.repeat, x->info.n_vocab, &r, e);
    if (s == IMP_OK)
        emit(x, &r);
    char *table = NULL;
    if (s == IMP_OK && x->c->o.profile)
        s = imp_engine_profile(x->c->engine, x->ceiling, &table, e);
    if (table)
        fprintf(stderr, "%s", table);
    imp_free(table);
    imp_free(r.ns);
    return s;
}

/* --check: after the figures, the same process compares logits with the CPU's scalar path. */
static imp_status check(context *x, imp_err *e)
{
    bench_check_result r;
    imp_status s = bench_check(x->c->engine, x->c->model, 5, (uint32_t)x->c->o.bench_check, &r, e);
    if (s == IMP_OK)
        fprintf(stderr, "[check: %u rows against the scalar path: error %.3g, mean KL %.3g, same best %u]\n",
                r.n_row, r.error, r.kl, r.n_top1);
    return s;
}

static int write_model(cli *c)
{
    imp_err e = {0};
    imp_status s = c->o.model ? bench_write(c->o.model, c->o.bench_write, &e)
                              : err_set(&e, IMP_E_USAGE, "no model: give one with -m");
    return s == IMP_OK ? 0 : cli_fail(&e);
}

int cmd_bench(cli *c)
{
    if (c->o.bench_write)
        return write_model(c);
    imp_err e = {0};
    numbers pp, tg, depth, npl = {{1}, 1};
    context x = {.c = c, .first = true, .info = {.size = sizeof x.info}, .stats = {.size = sizeof x.stats}};
    imp_status s = parse_list("-p", c->o.bench_prompt, &pp, &e);
    if (s == IMP_OK)
        s = parse_list("-n", c->o.bench_gen, &tg, &e);
    if (s == IMP_OK)
        s = parse_list("-d", c->o.bench_depth, &depth, &e);
    if (s == IMP_OK && c->o.bench_npl)
        s = parse_list("--npl", c->o.bench_npl, &npl, &e);
    uint32_t need = 0, most = 1, batch = c->o.n_batch ? (uint32_t)c->o.n_batch : 512;
    for (uint32_t k = 0; s == IMP_OK && k < npl.n * depth.n; k++) {
        bench_test t = {.n_seq = npl.v[k / depth.n], .n_depth = depth.v[k % depth.n]};
        most = t.n_seq > most ? t.n_seq : most;
        for (uint32_t i = 0; i < pp.n + tg.n; i++) {
            t.n_prompt = i < pp.n ? pp.v[i] : 0;
            t.n_gen = i < pp.n ? 0 : tg.v[i - pp.n];
            uint32_t n = t.n_prompt + t.n_gen ? bench_context(&t, batch) : 0;
            need = n > need ? n : need;
        }
    }
    if (!c->o.context)
        c->o.context = need;
    if (!c->o.parallel)
        c->o.parallel = most;
    if (s == IMP_OK)
        s = cli_load_engine(c, 0, &e);
    if (s == IMP_OK) {
        imp_model_get_info(c->model, &x.info);
        imp_engine_stats(c->engine, &x.stats);
        s = imp_engine_read_ceiling(c->engine, 0, &x.ceiling, &e);
    }
    for (uint32_t k = 0; k < npl.n; k++)
        for (uint32_t d = 0; d < depth.n; d++) {
            for (uint32_t i = 0; i < pp.n && s == IMP_OK; i++)
                if (pp.v[i])
                    s = one(&x, (bench_test){.n_prompt = pp.v[i], .n_depth = depth.v[d], .n_seq = npl.v[k]}, &e);
            for (uint32_t i = 0; i < tg.n && s == IMP_OK; i++)
                if (tg.v[i])
                    s = one(&x, (bench_test){.n_gen = tg.v[i], .n_depth = depth.v[d], .n_seq = npl.v[k]}, &e);
        }
    if (s == IMP_OK && c->o.bench_check)
        s = check(&x, &e);
    if (!x.first && (c->o.json || strcmp(c->o.bench_format, "json") == 0))
        puts("\n]");
    if (s == IMP_OK && !c->o.quiet)
        fprintf(stderr, "[read ceiling %.1f GB/s; %s]\n", x.ceiling / 1e9, x.stats.backend);
    return s == IMP_OK ? 0 : cli_fail(&e);
}

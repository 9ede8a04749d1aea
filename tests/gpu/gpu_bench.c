/* Timing: whole models of published shapes with random weights, through submit and wait with the sampled token fed back
 * on the device; every figure next to its floor (weights multiplied at the file's bits, plus KV read, over the read
 * ceiling). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gpu_test.h"

static double ceiling;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void profile(rig *r, jw *o)
{
    bexec *x = r->x;
    exec_profile p = {0};
    imp_err e = {0};
    if (exec_run_profile(x, 10, &p, &e) != IMP_OK) {
        printf("  profile: %s\n", e.message);
        return;
    }
    jw_key(o, "profile");
    jw_array(o);
    for (int32_t i = 0; i < p.n; i++) {
        printf("    %-28s x%-4d %9.2f us each %9.1f us\n", p.row[i].name, p.row[i].count,
               p.row[i].us / p.row[i].count, p.row[i].us);
        jw_object(o);
        jw_kstr(o, "kernel", p.row[i].name);
        jw_kint(o, "count", p.row[i].count);
        jw_kdouble(o, "us", p.row[i].us);
        jw_end_object(o);
    }
    jw_end_array(o);
}

/* n_seq sequences at depth n_past, n steps of decoding; returns seconds a step (median of three runs) */
static imp_status time_decode(rig *r, int32_t n_seq, int32_t n_past, int32_t n, double *s_step, imp_err *e)
{
    seq_step *st = calloc((size_t)n_seq, sizeof *st);
    int32_t per = (n_past + 2 * n + 64) / r->block + 2, one = 1;
    per += per & 1;
    double runs[3];
    imp_status s = IMP_OK;
    for (int rep = 0; rep < 3 && s == IMP_OK; rep++) {
        backend_ticket t[2] = {0};
        double t0 = 0;
        for (int32_t i = 0; i < n + 8 && s == IMP_OK; i++) {
            for (int32_t q = 0; q < n_seq; q++)
                st[q] = (seq_step){.n_past = n_past + i, .n = 1, .first_block = q * per, .slot = q,
                                   .ids = i ? NULL : &one, .cls = 1};
            if (i == 8) { /* warm: let the queue run dry, then count */
                step_result res;
                s = r->api->wait(r->x, t[(i - 1) & 1], &res, e);
                t[(i - 1) & 1] = 0;
                t0 = clock_s();
            }
            if (s == IMP_OK && t[i & 1]) {
                step_result res;
                s = r->api->wait(r->x, t[i & 1], &res, e);
            }
            if (s == IMP_OK)
                s = submit_step(r, st, n_seq, NULL, i & 1, &t[i & 1], e);
        }
        for (int k = 0; k < 2 && s == IMP_OK; k++) {
            int j = (n + 8 + k) & 1;
            step_result res;
            if (t[j])
                s = r->api->wait(r->x, t[j], &res, e);
        }
        runs[rep] = (clock_s() - t0) / n;
    }
    qsort(runs, 3, sizeof *runs, by_value);
    *s_step = runs[1];
    free(st);
    return s;
}

static void row(jw *o, const char *name, const char *test, double value, const char *unit, double floor_s,
                double s_step)
{
    printf("  %-26s %-22s %10.1f %s  (%.3f ms, floor %.3f ms = %.1f%%)\n", name, test, value, unit,
           s_step * 1e3, floor_s * 1e3, 100 * floor_s / s_step);
    jw_object(o);
    jw_kstr(o, "model", name);
    jw_kstr(o, "test", test);
    jw_kdouble(o, "value", value);
    jw_kstr(o, "unit", unit);
    jw_kdouble(o, "ms", s_step * 1e3);
    jw_kdouble(o, "floor_ms", floor_s * 1e3);
    jw_kdouble(o, "share_of_floor", floor_s / s_step);
}

static void bench_model(jw *o, const shape *s, const int32_t *depths, const int32_t *batches, const int32_t *prompts)
{
    imp_err e = {0};
    model m;
    rig r = {0};
    char test[80];
    int32_t maxd = 0, maxb = 1, maxp = 0;
    for (int i = 0; depths[i] >= 0; i++)
        maxd = depths[i] > maxd ? depths[i] : maxd;
    for (int i = 0; batches[i]; i++)
        maxb = batches[i] > maxb ? batches[i] : maxb;
    for (int i = 0; prompts[i]; i++)
        maxp = prompts[i] > maxp ? prompts[i] : maxp;
    int64_t need1 = (maxd > maxp ? maxd : maxp) + 1024, needb = (int64_t)maxb * (512 + 1024);
    int64_t blocks = (need1 > needb ? need1 : needb) / 64 + 64;
    imp_status st = build_model(s, &m, &e);
    double t0 = clock_s();
    if (st == IMP_OK)
        st = rig_open(&r, &backend_cuda, NULL, false, &m.p, 64, blocks,
                      (plan_limits){maxp > 256 ? maxp : 256, 256, maxb > 8 ? maxb : 8}, 1, &e);
    double kv_tok = 2.0 * s->n_layer * 2 * s->n_kv_head * s->d;
    if (st == IMP_OK) {
        backend_memory mem;
        r.api->memory(r.b, &mem, &e);
        printf("%s: %.2f GB multiplied a token, upload %.2f s (%.1f GB/s), device weights %.2f GB, workspace %.0f MB\n",
               s->name, m.linear_bytes * 1e-9, clock_s() - t0, m.linear_bytes * 1e-9 / (clock_s() - t0),
               (double)mem.weights * 1e-9, (double)mem.workspace * 1e-6);
    }
    for (int i = 0; depths[i] >= 0 && st == IMP_OK; i++) {
        double s_step, floor_s = (m.linear_bytes + kv_tok * (depths[i] + 64)) / ceiling;
        st = time_decode(&r, 1, depths[i], 96, &s_step, &e);
        if (st != IMP_OK)
            break;
        snprintf(test, sizeof test, "decode @%d", depths[i]);
        row(o, s->name, test, 1 / s_step, "tok/s", floor_s, s_step);
        if (i == 0)
            profile(&r, o);
        jw_end_object(o);
    }
    for (int i = 0; batches[i] && st == IMP_OK; i++) {
        double s_step, floor_s = (m.linear_bytes + kv_tok * (512 + 24) * batches[i]) / ceiling;
        st = time_decode(&r, batches[i], 512, 32, &s_step, &e);
        if (st != IMP_OK)
            break;
        snprintf(test, sizeof test, "decode x%d @512", batches[i]);
        row(o, s->name, test, batches[i] / s_step, "tok/s", floor_s, s_step);
        if (!batches[i + 1] || opt_batches)
            profile(&r, o);
        jw_end_object(o);
    }
    int32_t *ids = malloc(((size_t)maxp + 1) * 4);
    for (int32_t i = 0; i < maxp; i++)
        ids[i] = (int32_t)(rnd() % s->vocab);
    for (int i = 0; prompts[i] && st == IMP_OK; i++) {
        int32_t n = prompts[i];
        double runs[3], flop = 2 * m.linear_params * n + 2.0 * s->n_layer * s->n_head * s->d * (double)n * n;
        seq_step q = {.n = n, .ids = ids};
        st = run_step(&r, &q, 1, NULL, NULL, &e);
        for (int k = 0; k < 3 && st == IMP_OK; k++) {
            double t = clock_s();
            st = run_step(&r, &q, 1, NULL, NULL, &e);
            runs[k] = clock_s() - t;
        }
        if (st != IMP_OK)
            break;
        qsort(runs, 3, sizeof *runs, by_value);
        snprintf(test, sizeof test, "prompt %d", n);
        row(o, s->name, test, flop / runs[1] * 1e-12, "TFLOP/s", flop / 700e12, runs[1]);
        jw_kdouble(o, "tok_s", n / runs[1]);
        if (!prompts[i + 1])
            profile(&r, o);
        jw_end_object(o);
    }
    free(ids);
    if (st != IMP_OK)
        printf("  %s: %s\n", s->name, e.message);
    rig_close(&r);
    plan_free(&m.p);
}

int run_bench(jw *o, const char *only)
{
    imp_err e = {0};
    backend *b = NULL;
    backend_options bo = {0};
    jw_key(o, "read_ceiling");
    jw_object(o);
    if (backend_cuda.open(&bo, &b, &e) == IMP_OK) {
        static const uint64_t sizes[] = {8ull << 30, 1ull << 30, 256ull << 20, 64ull << 20};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            double v = 0;
            char key[32];
            backend_cuda.read_ceiling(b, sizes[i], &v, &e);
            snprintf(key, sizeof key, "%llu MiB", (unsigned long long)(sizes[i] >> 20));
            jw_kdouble(o, key, v);
            printf("read %s: %.0f GB/s\n", key, v * 1e-9);
            ceiling = i ? ceiling : v;
        }
        backend_cuda.close(b);
    }
    jw_end_object(o);
    static const shape models[] = {
#define QWEN3_8B \
    .n_layer = 36, .hidden = 4096, .n_head = 32, .n_kv_head = 8, .d = 128, .ff = 12288, .vocab = 151936, \
    .qk_norm = true, .pool = 64 << 20
        {.name = "qwen3-8b Q8_0", QWEN3_8B, .fmt = QUANT_Q8_0},
        {.name = "qwen3-8b Q4_K_M", QWEN3_8B,
         .fmt = QUANT_Q4_K, .fmt_v = QUANT_Q6_K, .fmt_down = QUANT_Q6_K, .fmt_head = QUANT_Q6_K},
        {.name = "qwen3-8b Q6_K", QWEN3_8B, .fmt = QUANT_Q6_K},
        {.name = "llama-3.2-1b BF16", .n_layer = 16, .hidden = 2048, .n_head = 32, .n_kv_head = 8, .d = 64, .ff = 8192,
         .vocab = 128256, .tied = true, .fmt = QUANT_BF16, .pool = 64 << 20},
        {.name = "qwen3-0.6b Q8_0", .n_layer = 28, .hidden = 1024, .n_head = 16, .n_kv_head = 8, .d = 128, .ff = 3072,
         .vocab = 151936, .qk_norm = true, .tied = true, .fmt = QUANT_Q8_0, .pool = 64 << 20},
        {.name = "qwen3-30b-a3b Q4_K_M", .n_layer = 48, .hidden = 2048, .n_head = 32, .n_kv_head = 4, .d = 128,
         .ff = 768, .vocab = 151936, .qk_norm = true, .n_expert = 128, .n_used = 8,
         .fmt = QUANT_Q4_K, .fmt_v = QUANT_Q6_K, .fmt_down = QUANT_Q6_K, .fmt_head = QUANT_Q6_K, .pool = 64 << 20},
        /* only when asked for by name */
        {.name = "qwen3-14b Q4_K_M", .n_layer = 40, .hidden = 5120, .n_head = 40, .n_kv_head = 8, .d = 128,
         .ff = 17408, .vocab = 151936, .qk_norm = true,
         .fmt = QUANT_Q4_K, .fmt_v = QUANT_Q6_K, .fmt_down = QUANT_Q6_K, .fmt_head = QUANT_Q6_K, .pool = 64 << 20},
        {.name = "llama-3.3-70b Q4_K_M", .n_layer = 80, .hidden = 8192, .n_head = 64, .n_kv_head = 8, .d = 128,
         .ff = 28672, .vocab = 128256,
         .fmt = QUANT_Q4_K, .fmt_v = QUANT_Q6_K, .fmt_down = QUANT_Q6_K, .fmt_head = QUANT_Q6_K, .pool = 64 << 20},
    };
    static const int32_t depths[] = {512, 16384, -1}, shallow[] = {512, -1}, no_depth[] = {-1};
    static const int32_t batches[] = {8, 32, 64, 128, 0}, none[] = {0}, one_batch[] = {8, 64, 0};
    static const int32_t prompts[] = {512, 2048, 8192, 0};
    rnd_seed(7);
    jw_key(o, "bench");
    jw_array(o);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        if (only ? strstr(models[i].name, only) != NULL : i < 6)
            bench_model(o, &models[i], opt_prompt ? no_depth : i < 2 && !opt_decode && !opt_batches ? depths : shallow,
                        opt_prompt ? none : opt_decode ? one_batch : i < 2 || i == 5 || opt_batches ? batches : none,
                        opt_decode || opt_batches ? none : i < 2 || i == 5 ? prompts : none);
    jw_end_array(o);
    return 0;
}

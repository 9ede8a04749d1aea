/* host_test: the parity tests of tests/gpu with the kernels on the host (simt.h): the backend as it is, on small
 * models, in both classes of rows and in steps of 1 to 128 rows, against double arithmetic or the CPU backend's scalar
 * path with the same bounds. Processes share the tests; each test begins with seeds of its own, so that a failure
 * repeats alone.
 *   usage: host_test [part of a test's name] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "gpu_test.h"
#include "simt.h"

/* gpu_parity.c asks for the rest of gpu_test, which is not about these kernels. */
int run_fp8(jw *out, bool tiny, int *n) { return (void)out, (void)tiny, (void)n, 0; }
int run_errors(int *n) { return (void)n, 0; }

/* A format of each layout, and what the mixed files of it have beside it. */
typedef struct kind {
    const char *name;
    quant_id fmt, other;
} kind;
static const kind kinds[] = {
    {"F16", QUANT_F16, 0}, {"Q8_0", QUANT_Q8_0, 0}, {"Q4_0", QUANT_Q4_0, 0}, {"NVFP4", QUANT_NVFP4, 0},
    {"Q4_K_M", QUANT_Q4_K, QUANT_Q6_K}, {"Q5_K_M", QUANT_Q5_K, QUANT_Q6_K}, {"Q6_K", QUANT_Q6_K, 0}, {"F8",
    QUANT_F8_E4M3, 0},
};
enum { N_KIND = sizeof kinds / sizeof *kinds };

/* Of every kind: a dense model, and mixtures. Norms of F8's rows are
 * small, or its large values would drown the rest. */
static shape dense_of(const kind *k)
{
    return (shape){.n_layer = 2, .hidden = 512, .n_head = 4, .n_kv_head = 2, .d = 64, .ff = 512, .vocab = 301,
                   .fmt = k->fmt, .fmt_v = k->other,
                   .fmt_down = k->other, .fmt_head = k->other, .qk_norm = true,
                   .norm = k->fmt == QUANT_F8_E4M3 ? 1.0f / 64 : 1};
}
/* rare: of a number of experts that the kernels for usual choices do not take. */
static shape mixture_of(const kind *k, bool rare)
{
    return (shape){.n_layer = 1, .hidden = 256, .d = 64, .ff = 256, .vocab = 80, .fmt = k->fmt,
                   .n_expert = rare ? 6 : 8, .n_used = 2, .norm = k->fmt == QUANT_F8_E4M3 ? 1.0f / 64 : 1};
}

typedef struct model_test {
    shape s;
    int32_t block, prompt;
    bool precise;
} model_test;
static const model_test models[] = {
    {{.name = "d64 long", .n_layer = 1, .hidden = 256, .n_head = 4, .n_kv_head = 2, .d = 64, .ff = 256, .vocab = 100,
      .fmt = QUANT_F16, .qk_norm = true, .tied = true}, 64, 300, false},
    {{.name = "d128 G8 sinks", .n_layer = 2, .hidden = 256, .n_head = 8, .n_kv_head = 1, .d = 128, .ff = 256,
      .vocab = 100, .fmt = QUANT_Q8_0, .sinks = true, .window = 40}, 64, 150, false},
    {{.name = "d256 gemma-like", .n_layer = 2, .hidden = 320, .n_head = 2, .n_kv_head = 1, .d = 256, .ff = 512,
      .vocab = 100, .fmt = QUANT_Q8_0, .qk_norm = true, .post_norm = true, .softcap = 50, .final_softcap = 30,
      .act = ACT_GELU_TANH, .tied = true}, 64, 61, false},
    {{.name = "d80 bias", .n_layer = 2, .hidden = 320, .n_head = 4, .n_kv_head = 4, .d = 80, .ff = 640, .vocab = 100,
      .fmt = QUANT_BF16, .bias = true}, 2, 61, false},
    {{.name = "wide", .n_layer = 1, .hidden = 5376, .n_head = 2, .n_kv_head = 1, .d = 128, .ff = 256, .vocab = 48,
      .fmt = QUANT_Q4_K, .qk_norm = true}, 64, 20, false},
    {{.name = "few", .n_layer = 1, .hidden = 2048, .d = 64, .ff = 512, .vocab = 180, .fmt = QUANT_Q4_K}, 64, 20, false},
    {{.name = "fused experts bias", .n_layer = 2, .hidden = 320, .d = 64, .ff = 96, .vocab = 80, .fmt = QUANT_MXFP4,
      .fmt_embd = QUANT_Q8_0, .fmt_head = QUANT_Q8_0, .n_expert = 4, .n_used = 2, .fused_experts = true}, 64, 71,
      false},
    {{.name = "experts bias", .n_layer = 1, .hidden = 320, .d = 64, .ff = 96, .vocab = 80, .fmt = QUANT_MXFP4,
      .fmt_embd = QUANT_Q8_0, .fmt_head = QUANT_Q8_0, .n_expert = 16, .n_used = 3, .expert_bias = true,
      .act = ACT_SWIGLU_OAI, .route = {.score = ROUTE_TOPK_SOFTMAX, .scale = 1}}, 64, 71, false},
    {{.name = "experts in groups", .n_layer = 1, .hidden = 256, .d = 64, .ff = 160, .vocab = 80, .fmt = QUANT_Q8_0,
      .n_expert = 32, .n_used = 6, .choice_bias = 2, .post_norm = true, .route = {.score = ROUTE_SIGMOID,
      .n_group = 8, .topk_group = 4, .group_top = 2, .renormalise = true, .renorm_eps = 1e-20f, .scale = 2.5f}}, 64,
      71, false},
    {{.name = "wide mixture", .n_layer = 1, .hidden = 2048, .d = 64, .ff = 256, .vocab = 80, .fmt = QUANT_Q4_K,
      .n_expert = 4, .n_used = 2}, 64, 20, false},
    {{.name = "precise d80 window", .n_layer = 2, .hidden = 320, .n_head = 4, .n_kv_head = 4, .d = 80, .ff = 256,
      .vocab = 100, .fmt = QUANT_BF16, .bias = true, .window = 24}, 6, 150, true},
    {{.name = "precise d64 G12 sinks", .n_layer = 2, .hidden = 256, .n_head = 12, .n_kv_head = 1, .d = 64, .ff = 256,
      .vocab = 100, .fmt = QUANT_Q8_0, .sinks = true, .qk_norm = true}, 64, 300, true},
    {{.name = "precise d512", .n_layer = 1, .hidden = 256, .n_head = 3, .n_kv_head = 1, .d = 512, .ff = 256,
      .vocab = 100, .fmt = QUANT_Q8_0, .qk_norm = true}, 64, 40, true},
    {{.name = "d320", .n_layer = 1, .hidden = 256, .n_head = 3, .n_kv_head = 1, .d = 320, .ff = 256, .vocab = 100,
      .fmt = QUANT_Q8_0, .qk_norm = true}, 64, 140, false},
    {{.name = "d256 small blocks", .n_layer = 1, .hidden = 256, .n_head = 2, .n_kv_head = 1, .d = 256, .ff = 256,
      .vocab = 100, .fmt = QUANT_Q8_0, .qk_norm = true}, 6, 40, false},
    {{.name = "precise d256 softcap", .n_layer = 2, .hidden = 320, .n_head = 2, .n_kv_head = 1, .d = 256, .ff = 256,
      .vocab = 100, .fmt = QUANT_Q8_0, .qk_norm = true, .softcap = 50}, 64, 61, true},
    {{.name = "routed experts", .n_layer = 2, .hidden = 2048, .d = 64, .ff = 256, .vocab = 80, .fmt = QUANT_Q4_K,
      .fmt_down = QUANT_Q6_K, .n_expert = 128, .n_used = 2, .pool = 4 << 20}, 64, 8, false},
    {{.name = "precise", .n_layer = 2, .hidden = 256, .d = 64, .ff = 256, .vocab = 80, .fmt = QUANT_Q4_K,
      .fmt_down = QUANT_Q8_0, .fmt_head = QUANT_Q6_K}, 64, 61, true},
    {{.name = "precise experts", .n_layer = 2, .hidden = 256, .d = 64, .ff = 256, .vocab = 80, .fmt = QUANT_Q6_K,
      .n_expert = 8, .n_used = 2}, 64, 61, true},
};
enum { N_MODEL = sizeof models / sizeof *models };
static const quant_id formats[] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q4_0, QUANT_Q4_1, QUANT_Q5_0,
                                   QUANT_Q5_1, QUANT_Q2_K, QUANT_Q3_K,
                                   QUANT_Q4_K, QUANT_Q5_K, QUANT_Q6_K, QUANT_IQ4_NL, QUANT_IQ4_XS, QUANT_MXFP4,
                                   QUANT_NVFP4, QUANT_F8_E4M3};
enum { N_FORMAT = sizeof formats / sizeof *formats, N_TEST = 3 * N_KIND + N_MODEL + 2 * N_FORMAT + 2 };

/* Tokens that the device chooses are those of its own largest logits. */
static void greedy(void)
{
    enum { N = 5, VOCAB = 3001 };
    static float logits[N * VOCAB];
    const shape s = {.name = "greedy", .n_layer = 1, .hidden = 256, .d = 64, .ff = 256, .vocab = VOCAB,
                     .fmt = QUANT_Q8_0};
    const int32_t ids[N] = {1, 70, 900, 2000, 3000};
    int32_t got[N] = {0};
    imp_err e = {0};
    model m;
    rig r = {0};
    imp_status st = build_model(&s, &m, &e);
    if (st == IMP_OK)
        st = rig_open(&r, &backend_cuda, NULL, false, &m.p, 64, 4, (plan_limits){16, 16, 2}, 1, &e);
    const seq_step step = {.n = N, .ids = ids, .cls = 1, .all_rows = true};
    if (st == IMP_OK)
        st = run_step(&r, &step, 1, logits, got, &e);
    for (int i = 0; i < N; i++) {
        const float *l = logits + i * VOCAB;
        int32_t best = 0;
        for (int32_t k = 1; k < VOCAB; k++)
            best = l[k] > l[best] ? k : best;
        const bool ok = st == IMP_OK && got[i] == best;
        parity_run++;
        parity_bad += !ok;
        if (!ok)
            printf("FAIL greedy: row %d has token %d, wanted %d %s\n", i, (int)got[i], (int)best,
                   st == IMP_OK ? "" : e.message);
    }
    rig_close(&r);
    plan_free(&m.p);
}

/* Test i if its name has `only` in it. */
static void run_test(int i, const char *only, jw *o)
{
    char name[100];
    shape s = {0};
    const model_test *t = NULL;
    quant_id f = 0;
    bool precise = false;
    if (i < 3 * N_KIND) {
        static const char *const what[] = {"dense", "mixture", "rare mixture"};
        const kind *k = &kinds[i / 3];
        s = i % 3 ? mixture_of(k, i % 3 == 2) : dense_of(k);
        snprintf(name, sizeof name, "%s %s", what[i % 3], k->name);
    } else if (i < 3 * N_KIND + N_MODEL) {
        t = &models[i - 3 * N_KIND];
        s = t->s;
        precise = t->precise;
        snprintf(name, sizeof name, "%s", s.name);
    } else if (i >= N_TEST - 2) {
        snprintf(name, sizeof name, i == N_TEST - 1 ? "greedy" : "sampler");
    } else {
        i -= 3 * N_KIND + N_MODEL;
        precise = i % 2;
        f = formats[i / 2];
        snprintf(name, sizeof name, "%slinear %s", precise ? "precise " : "", quant_get(f)->name);
    }
    if (only && !strstr(name, only))
        return;
    const double begin = clock_s();
    rnd_seed(1);
    simt_seed(1);
    rig_precise = precise;
    s.name = name;
    if (s.hidden)
        parity_model(o, &s, t ? t->block : 64, t ? t->prompt : 71);
    else if (quant_get(f) && strstr(name, "linear"))
        parity_linear(o, f, 72, 1280, true);
    else if (i == N_TEST - 1)
        greedy();
    else
        parity_bad += run_sample(o, true, &parity_run);
    printf("%-24s %5.1f s\n", name, clock_s() - begin);
}

/* Kernels that no test here launches: recurrent layers, what needs large models, and the rarer operations. Of all
 * others one that is not launched is a failure: equal bytes cannot tell if the backend has stopped choosing it. */
static bool may_rest(const char *kernel)
{
    static const char *const names[] = {
        "mamba2", "gdn", "conv", "rows_sum", "rows8", "rows4", "rows2", "read", "fill_random", "prefill_1x256",
        "kv_store", "rope", "decay", "concat", "slice", "gate", "mul", "norm_group", "gemv_any", "gemv_q5k_q6k",
        "gemv_q4k_q6k", "attend_q128p"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(kernel, names[i]) == 0)
            return true;
    return strstr(kernel, "_norm8") || strstr(kernel, "_pair8"); /* launched for one layout only */
}

/* What a process has to say: its tests, and which kernels it launched. Few bytes: one write of a pipe. */
enum { MOST_KERNELS = 512 };
typedef struct outcome {
    int n_test, n_bad;
    bool launched[MOST_KERNELS];
} outcome;

static int tell(int fd, int ith, int nth, const char *only)
{
    strbuf sb = {0};
    jw o;
    jw_init(&o, &sb);
    jw_array(&o);
    for (int i = ith; i < N_TEST; i += nth)
        run_test(i, only, &o);
    sb_free(&sb);
    outcome r = {.n_test = parity_run, .n_bad = parity_bad};
    int n = 0;
    for (const simt_kernel *k = simt_kernels; k && n < MOST_KERNELS; k = k->next)
        r.launched[n++] = k->n_launch > 0;
    return write(fd, &r, sizeof r) == sizeof r ? 0 : 1;
}

int main(int argc, char **argv)
{
    const char *only = argc > 1 ? argv[1] : NULL;
    enum { MOST = 8 };
    int nth = (int)sysconf(_SC_NPROCESSORS_ONLN), fd[MOST][2];
    nth = nth < 1 ? 1 : nth > MOST ? MOST : nth;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < nth; i++) {
        if (pipe(fd[i]) != 0)
            return 1;
        pid_t p = fork();
        if (p == 0)
            _exit(tell(fd[i][1], i, nth, only));
        close(fd[i][1]);
        if (p < 0)
            return 1;
    }
    outcome all = {0};
    for (int i = 0; i < nth; i++) {
        outcome r;
        if (read(fd[i][0], &r, sizeof r) == sizeof r) {
            all.n_test += r.n_test, all.n_bad += r.n_bad;
            for (size_t k = 0; k < sizeof r.launched; k++)
                all.launched[k] |= r.launched[k];
        } else {
            printf("FAIL process %d of %d ended early\n", i, nth);
            all.n_bad++;
        }
    }
    while (wait(NULL) > 0) {}
    int n = 0, used = 0;
    for (const simt_kernel *k = simt_kernels; k && n < MOST_KERNELS; k = k->next, n++) {
        used += all.launched[n];
        if (only || all.launched[n] || may_rest(k->name + strlen("imp_")))
            continue;
        printf("FAIL %s: launched by no test\n", k->name);
        all.n_bad++;
    }
    printf("host: %d kernels, %d tests, %d failures\n", used, all.n_test, all.n_bad);
    return all.n_bad || !all.n_test;
}

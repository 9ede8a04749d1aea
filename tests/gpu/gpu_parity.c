/* Parity: every operation and format on the GPU against double arithmetic or the CPU backend's scalar path, over odd
 * shapes; and "same bytes": a row of class D alone and among others, a prompt whole and in chunks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu_test.h"

extern const backend_api backend_cpu;

int parity_run, parity_bad;

static void verdict(jw *o, bool ok, const char *what, double err, double bound)
{
    parity_run++;
    parity_bad += !ok;
    if (!ok)
        printf("FAIL %s: %.3e, bound %.1e\n", what, err, bound);
    jw_object(o);
    jw_kstr(o, "test", what);
    jw_kdouble(o, "error", err);
    jw_kdouble(o, "bound", bound);
    jw_kbool(o, "ok", ok);
    jw_end_object(o);
}

/* ---- products: y = x W^T against double -------------------------------------------------------------------------- */
/* The greatest difference, as a part of the largest value. */
static double rel_most(const float *a, const double *b, uint64_t n)
{
    double d = 0, m = 0;
    for (uint64_t i = 0; i < n; i++) {
        double x = fabs((double)a[i] - b[i]);
        d = x > d || x != x ? x : d;
        m = fabs(b[i]) > m ? fabs(b[i]) : m;
    }
    return m > 0 ? d / m : d;
}

void parity_linear(jw *o, quant_id f, uint32_t rows, uint32_t cols, bool bias)
{
    enum { VOC = 140 };
    static const int32_t counts[] = {1, 2, 3, 5, 8, 9, 17, 33, 70, 140};
    char what[1300];
    const quant_fmt *q = quant_get(f);
    const char *how = rig_precise ? "precise " : "";
    double bound = rig_precise ? 2e-6 : 1e-3;
    if (cols % q->block)
        return;
    imp_err e = {0};
    plan p;
    plan_init(&p, "linear");
    p.n_vocab = rows, p.n_hidden = cols, p.n_layer = 1;
    weight *te = make_weight("embd", QUANT_F32, 1, VOC, cols, 0), *w = make_weight("w", f, 1, rows, cols, 0);
    float *tv = (float *)(uintptr_t)te->part[0].slices[0].data;
    for (uint32_t i = 0; i < VOC * cols; i++)
        tv[i] = rig_precise ? tv[i] * 50 : quant_f16_to_f32(quant_f32_to_f16(tv[i] * 50));
    if (bias)
        add_bias(w);
    plan_op em = plan_op_init(OP_EMBED, -1, "embd"), li = plan_op_init(OP_LINEAR, 0, "w"),
            ga = plan_op_init(OP_GATHER, -1, "g");
    em.weight[0] = plan_add_weight(&p, te);
    em.attr.scale = 1;
    em.out[0] = plan_add_reg(&p, REG_WIDE, DIM_T, cols);
    plan_add_op(&p, &em);
    li.in[0] = em.out[0];
    li.weight[0] = plan_add_weight(&p, w);
    li.out[0] = plan_add_reg(&p, REG_ACT, DIM_T, rows);
    plan_add_op(&p, &li);
    ga.in[0] = li.out[0];
    ga.out[0] = plan_add_reg(&p, REG_WIDE, DIM_R, rows);
    plan_add_op(&p, &ga);
    p.logits = ga.out[0];
    rig r = {0};
    imp_status s = plan_finish(&p, &e);
    if (s == IMP_OK)
        s = rig_open(&r, &backend_cuda, NULL, false, &p, 64, 16, (plan_limits){VOC, VOC, 2}, 1, &e);
    float *wf = malloc((size_t)rows * cols * 4), *b = calloc(rows, 4),
          *y = malloc((size_t)VOC * rows * 4), *y1 = malloc((size_t)VOC * rows * 4);
    float *prompt = malloc((size_t)VOC * rows * 4);
    double *ref = malloc((size_t)VOC * rows * sizeof *ref);
    if (s == IMP_OK)
        s = weight_decode(w, 0, rows, wf, &e);
    weight_bias(w, b);
    for (uint32_t t = 0; s == IMP_OK && t < VOC; t++)
        for (uint32_t n = 0; n < rows; n++) {
            double v = 0;
            for (uint32_t k = 0; k < cols; k++)
                v += (double)tv[t * cols + k] * (double)wf[(size_t)n * cols + k];
            ref[(size_t)t * rows + n] = v + (double)b[n];
        }
    int32_t ids[VOC];
    for (int i = 0; i < VOC; i++)
        ids[i] = i;
    for (int cls = 0; cls < 2 && s == IMP_OK; cls++) {
        bool have = false;
        for (size_t c = 0; c < sizeof counts / sizeof *counts && s == IMP_OK; c++) {
            int32_t n = counts[c];
            seq_step st = {.n = n, .ids = ids, .cls = (uint8_t)cls, .all_rows = true};
            memset(y, 0xFF, (size_t)n * rows * 4);
            s = run_step(&r, &st, 1, y, NULL, &e);
            if (s != IMP_OK)
                break;
            double err = rig_precise ? rel_most(y, ref, (uint64_t)n * rows) : rel_l2(y, ref, (uint64_t)n * rows);
            snprintf(what, sizeof what, "%slinear %s %ux%u%s class %c, %d rows", how, q->name, rows, cols,
                     bias ? " bias" : "", cls ? 'D' : 'P', n);
            verdict(o, err < bound, what, err, bound);
            if (have) {
                bool same = memcmp(y, y1, (size_t)rows * 4) == 0;
                snprintf(what, sizeof what, "%ssame bytes: %s %ux%u class %c, row 0 of %d", how, q->name, rows, cols,
                         cls ? 'D' : 'P', n);
                verdict(o, same, what, same ? 0 : 1, 0);
            }
            if (!have)
                memcpy(y1, y, (size_t)n * rows * 4);
            have = true;
        }
        if (s == IMP_OK && !cls)
            memcpy(prompt, y, (size_t)VOC * rows * 4);
        if (s == IMP_OK && cls && rig_precise) {
            bool same = memcmp(prompt, y, (size_t)VOC * rows * 4) == 0;
            snprintf(what, sizeof what, "precise same bytes: %s %ux%u, 140 rows of both classes", q->name, rows, cols);
            verdict(o, same, what, same ? 0 : 1, 0);
        }
        static const int32_t alone[] = {1, 7, 8, 31, 69, 127, 139}; /* y has all of them */
        for (size_t k = 0; k < sizeof alone / sizeof *alone && s == IMP_OK && cls; k++) {
            seq_step st = {.n = 1, .ids = ids + alone[k], .cls = 1, .all_rows = true};
            memset(y1, 0xFF, (size_t)rows * 4);
            s = run_step(&r, &st, 1, y1, NULL, &e);
            bool same = s == IMP_OK && memcmp(y1, y + (size_t)alone[k] * rows, (size_t)rows * 4) == 0;
            snprintf(what, sizeof what, "%ssame bytes: %s %ux%u row %d alone and among 140", how, q->name, rows, cols,
                     alone[k]);
            verdict(o, same, what, same ? 0 : 1, 0);
        }
        for (int32_t n = 2; n <= 8 && s == IMP_OK && cls; n += n == 3 ? 2 : 1) { /* rows from n on, all of them */
            seq_step st = {.n = n, .ids = ids + n, .cls = 1, .all_rows = true};
            memset(y1, 0xFF, (size_t)n * rows * 4);
            s = run_step(&r, &st, 1, y1, NULL, &e);
            bool same = s == IMP_OK && memcmp(y1, y + (size_t)n * rows, (size_t)n * rows * 4) == 0;
            snprintf(what, sizeof what, "same bytes: %s %ux%u all of %d rows among 140", q->name, rows, cols, n);
            verdict(o, same, what, same ? 0 : 1, 0);
        }
    }
    if (s != IMP_OK) {
        snprintf(what, sizeof what, "%slinear %s %ux%u: %s", how, q->name, rows, cols, e.message);
        verdict(o, false, what, 1, 0);
    }
    rig_close(&r);
    plan_free(&p);
    free(wf), free(b), free(y), free(y1), free(ref), free(prompt);
}

/* ---- models: prompt in chunks, then decoding, against the CPU ---------------------------------------------------- */
/* The greatest error of a row but for the `but` worst: with f16 a row of a mixture now and then goes to another expert.
 * How often is the model's own: on the CPU's reference, norms moved by 3e-4 of themselves turn over 1 row of 150 of
 * "MoE 128 of 8" (error 2.9e-2) and 1 of "30 of 5" (6.9e-2); "160 of 6 groups" had 3 (0.44) until its choice biases
 * lay further apart, since when it has none. Hence two of 150 rows of a prompt, and one of six generated ones where
 * experts are many. */
static double worst_row(const float *a, const float *b, uint64_t rows, uint64_t n, uint64_t but)
{
    double worst[16] = {0};
    for (uint64_t r = 0; r < rows; r++) {
        double d = 0, m = 0;
        for (uint64_t i = 0; i < n; i++) {
            double x = fabs((double)a[r * n + i] - (double)b[r * n + i]), y = fabs((double)b[r * n + i]);
            d = x > d || x != x ? x : d;
            m = y > m ? y : m;
        }
        double v = m > 0 ? d / m : d;
        if (v != v)
            return v;
        for (uint64_t i = 0; i <= but; i++)
            if (v > worst[i]) {
                double w = worst[i];
                worst[i] = v;
                v = w;
            }
    }
    return worst[but];
}

enum { PROMPT = 150, GEN = 6 };

/* prompt in `chunk`s then GEN forced tokens one at a time; logits of every position */
static imp_status play(rig *r, const int32_t *ids, int32_t prompt, int32_t chunk, int32_t first_block, int32_t slot,
                       float *logits, imp_err *e)
{
    imp_status s = IMP_OK;
    for (int32_t at = 0; at < prompt && s == IMP_OK; at += chunk) {
        seq_step st = {.n_past = at, .n = prompt - at < chunk ? prompt - at : chunk, .first_block = first_block,
                       .slot = slot, .ids = ids + at, .all_rows = true};
        s = run_step(r, &st, 1, logits + (uint64_t)at * r->p->n_vocab, NULL, e);
    }
    for (int32_t i = 0; i < GEN && s == IMP_OK; i++) {
        seq_step st = {.n_past = prompt + i, .n = 1, .first_block = first_block,
                       .slot = slot, .ids = ids + prompt + i, .cls = 1};
        s = run_step(r, &st, 1, logits + (uint64_t)(prompt + i) * r->p->n_vocab, NULL, e);
    }
    return s;
}

/* Rows of two prompts with decoding rows before and between them: each as if it were alone. */
static imp_status among_others(rig *g, const int32_t *ids, int32_t own, int32_t per, const float *alone, bool *same,
                               imp_err *e)
{
    int32_t n1 = own < 40 ? own / 2 : 40, n2 = own - 1 < 131 ? own - 1 : 131;
    uint64_t v = g->p->n_vocab;
    seq_step st[4] = {{.n_past = 9, .n = 1, .first_block = per, .slot = 0, .ids = ids + 9, .cls = 1},
                      {.n = n1, .first_block = 2 * per, .slot = 1, .ids = ids, .all_rows = true},
                      {.n_past = 12, .n = 1, .first_block = per, .slot = 2, .ids = ids + 12, .cls = 1},
                      {.n = n2, .first_block = 3 * per, .slot = 4, .ids = ids, .all_rows = true}};
    float *l = malloc((uint64_t)(n1 + n2 + 2) * v * 4);
    imp_status s = run_step(g, st, 4, l, NULL, e);
    *same = s == IMP_OK && memcmp(l + v, alone, (uint64_t)n1 * v * 4) == 0 &&
            memcmp(l + (uint64_t)(n1 + 2) * v, alone, (uint64_t)n2 * v * 4) == 0;
    free(l);
    return s;
}

void parity_model(jw *o, const shape *sh, int32_t block, int32_t prompt)
{
    char what[1300];
    imp_err e = {0};
    model m;
    int32_t ids[1024 + GEN], n = prompt + GEN, room = prompt + 106;
    for (int32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(rnd() % sh->vocab);
    rig c = {0}, g = {0};
    uint64_t v = sh->vocab;
    float *lc = malloc((uint64_t)n * v * 4), *lg = malloc((uint64_t)n * v * 4),
          *l2 = malloc((uint64_t)n * v * 4), *l8 = malloc(128 * v * 4);
    plan_limits lim = {prompt > 256 ? prompt : 256, prompt > 256 ? prompt : 256, 128};
    int64_t blocks = 16 * (room / block + 2);
    imp_status s = build_model(sh, &m, &e);
    if (s == IMP_OK)
        s = rig_open(&c, &backend_cpu, "scalar", false, &m.p, block, blocks, lim, 8, &e);
    if (s == IMP_OK)
        s = rig_open(&g, &backend_cuda, NULL, false, &m.p, block, blocks, lim, 1, &e);
    if (s == IMP_OK)
        s = play(&c, ids, prompt, prompt, 0, 0, lc, &e);
    memset(lg, 0xFF, (uint64_t)n * v * 4);
    if (s == IMP_OK)
        s = play(&g, ids, prompt, prompt, 0, 0, lg, &e);
    if (s == IMP_OK) {
        /* precise rounds nothing to f16: the same numbers up to the order of sums */
        double bound = rig_precise ? (sh->n_head ? 5e-5 : 1e-5)
                       : rig_fp8 ? 3e-1 : quant_get(sh->fmt)->is_float ? 2e-2 : 3e-2;
        double ep = worst_row(lg, lc, (uint64_t)prompt, v, sh->n_expert ? (uint64_t)prompt / 70 : 0),
               ed = worst_row(lg + (uint64_t)prompt * v, lc + (uint64_t)prompt * v, GEN, v, sh->n_expert > 64);
        snprintf(what, sizeof what, "model %s block %d: prompt against CPU", sh->name, block);
        verdict(o, ep < bound, what, ep, bound);
        snprintf(what, sizeof what, "model %s block %d: decode against CPU", sh->name, block);
        verdict(o, ed < bound, what, ed, bound);
    }
    int32_t per = room / block + 2;
    per += per & 1;
    if (s == IMP_OK)
        s = play(&g, ids, prompt, prompt > 256 ? 97 : 23, per, 3, l2, &e);
    if (s == IMP_OK) {
        bool same = memcmp(lg, l2, (uint64_t)n * v * 4) == 0;
        uint64_t bad = 0;
        for (; !same && bad < (uint64_t)n * v && lg[bad] == l2[bad]; bad++) {}
        snprintf(what, sizeof what,
                 "same bytes: model %s block %d, in chunks, other blocks and slot (first difference at row %d)",
                 sh->name, block, same ? -1 : (int)(bad / v));
        verdict(o, same, what, same ? 0 : 1, 0);
    }
    if (s == IMP_OK) {
        bool same = false;
        s = among_others(&g, ids, prompt, per, lg, &same, &e);
        snprintf(what, sizeof what, "same bytes: model %s block %d, two prompts among decoding rows", sh->name, block);
        verdict(o, same, what, same ? 0 : 1, 0);
    }
    /* the last generated token again, among n_other sequences (each re-runs the same position) */
    static const int32_t crowd[] = {1, 2, 3, 7, 8, 11, 31, 63, 127};
    for (size_t q = 0; q < sizeof crowd / sizeof *crowd && s == IMP_OK; q++) {
        seq_step st[128];
        int32_t others = crowd[q];
        for (int32_t i = 0; i <= others; i++) {
            int32_t k = i == others ? 0 : 1; /* neighbours replay the second copy at various places */
            int32_t at = 4 + 3 * i % (n - 5);
            st[i] = (seq_step){.n_past = k ? at : n - 1, .n = 1, .first_block = k ? per : 0, .slot = i,
                               .ids = k ? ids + at : ids + n - 1, .cls = 1};
        }
        s = run_step(&g, st, others + 1, l8, NULL, &e);
        bool same = s == IMP_OK && memcmp(l8 + (uint64_t)others * v, lg + (uint64_t)(n - 1) * v, v * 4) == 0;
        snprintf(what, sizeof what, "same bytes: model %s block %d, decoding among %d others", sh->name, block, others);
        verdict(o, same, what, same ? 0 : 1, 0);
    }
    if (s != IMP_OK) {
        snprintf(what, sizeof what, "model %s block %d: %s", sh->name, block, e.message);
        verdict(o, false, what, 1, 0);
    }
    rig_close(&c);
    rig_close(&g);
    plan_free(&m.p);
    free(lc), free(lg), free(l2), free(l8);
}

/* Steps of a few rows where matrices have more row tiles than blocks have room at once (gate and up, head), and fewer
 * (QKV, with V in another format; down); all kinds of epilogues. */
static void test_few(jw *o)
{
#define FEW(n, f, ...) \
    {.name = n, .n_layer = 2, .hidden = 2304, .n_head = 4, .n_kv_head = 2, .d = 64, .ff = 6400, .vocab = 6403, \
     .fmt = f, ##__VA_ARGS__}
    static const shape models[] = {
        FEW("few Q4_K_M", QUANT_Q4_K, .fmt_v = QUANT_Q6_K, .fmt_down = QUANT_Q6_K, .fmt_head = QUANT_Q6_K,
            .qk_norm = true),
        FEW("few Q8_0", QUANT_Q8_0, .bias = true, .act = ACT_GELU_TANH), FEW("few F16", QUANT_F16, .post_norm = true),
    };
#undef FEW
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        parity_model(o, &models[i], 64, 20);
}

/* Rows too long for the kernels that keep them in four registers of four: QKV (with V in another format), gate and up
 * and the head read them normalised. All layouts; widths at and about the limits of gemv_dense's norm8 and pair8, and
 * past them. tiny: a small one that takes what those kernels have of their own. */
static void test_wide(jw *o, bool tiny)
{
#define WIDE(n, k, f, ...) \
    {.name = n, .n_layer = 2, .hidden = k, .n_head = 4, .n_kv_head = 2, .d = 64, .ff = 256, .vocab = 300, \
     .qk_norm = true, .fmt = f, ##__VA_ARGS__}
#define K_M .fmt_v = QUANT_Q6_K, .fmt_down = QUANT_Q6_K, .fmt_head = QUANT_Q6_K
    static const shape models[] = {
        WIDE("wide 8192 Q4_K_M", 8192, QUANT_Q4_K, K_M), WIDE("wide 5120 Q4_K_M", 5120, QUANT_Q4_K, K_M),
        WIDE("wide 8192 Q5_K_M", 8192, QUANT_Q5_K, K_M), WIDE("wide 7168 Q6_K", 7168, QUANT_Q6_K),
        WIDE("wide 5120 Q8_0", 5120, QUANT_Q8_0, .bias = true), WIDE("wide 8192 Q8_0", 8192, QUANT_Q8_0),
        WIDE("wide 6176 Q4_0", 6176, QUANT_Q4_0), WIDE("wide 5120 NVFP4", 5120, QUANT_NVFP4),
        WIDE("wide 7680 F8", 7680, QUANT_F8_E4M3, .norm = 1.0f / 64),
        WIDE("wide 6000 BF16", 6000, QUANT_BF16, .post_norm = true),
        WIDE("wide 4100 F16", 4100, QUANT_F16, .bias = true), WIDE("wide 5124 F16", 5124, QUANT_F16),
        WIDE("wide 7172 F16", 7172, QUANT_F16), WIDE("wide 8196 F16", 8196, QUANT_F16),
    };
#undef K_M
#undef WIDE
    static const shape small = {.name = "wide 5376 Q4_K", .n_layer = 1, .hidden = 5376, .n_head = 2, .n_kv_head = 1,
                                .d = 128, .ff = 256, .vocab = 64, .fmt = QUANT_Q4_K, .qk_norm = true};
    if (tiny)
        parity_model(o, &small, 64, 20);
    for (size_t i = 0; i < sizeof models / sizeof *models && !tiny; i++)
        parity_model(o, &models[i], 64, 61);
}

int run_parity(jw *o, const char *only)
{
    static const quant_id formats[] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q4_0, QUANT_Q4_1,
                                       QUANT_Q5_0, QUANT_Q5_1, QUANT_Q2_K, QUANT_Q3_K, QUANT_Q4_K, QUANT_Q5_K,
                                       QUANT_Q6_K, QUANT_IQ4_NL, QUANT_IQ4_XS, QUANT_MXFP4, QUANT_NVFP4,
                                       QUANT_F8_E4M3};
    static const uint32_t sizes[][2] = {{16, 256}, {48, 80}, {40, 96}, {130, 512},
                                        {257, 1280}, {1000, 1024}, {333, 2560}, {64, 4352}};
    rnd_seed(1);
    jw_key(o, "parity");
    jw_array(o);
    bool tiny = only && strcmp(only, "tiny") == 0; /* little enough for the sanitizers */
    for (size_t f = 0; f < sizeof formats / sizeof *formats && (!only || tiny || strstr("linear", only)); f++)
        for (size_t k = tiny ? 3 : 0; k < (tiny ? f % 5 == 0 ? 4 : 0 : sizeof sizes / sizeof *sizes); k++)
            parity_linear(o, formats[f], sizes[k][0], sizes[k][1], k == 3);
    /* More row tiles than blocks have room at once, and one group of segments. */
    for (size_t f = 0; f < 4 && (!only || strstr("linear", only)); f++)
        parity_linear(o, (const quant_id[]){QUANT_F16, QUANT_Q8_0, QUANT_Q4_K, QUANT_Q6_K}[f], 6407, 2304, f == 1);
    static const shape models[] = {
        {.name = "d64", .n_layer = 2, .hidden = 256, .n_head = 8, .n_kv_head = 2, .d = 64, .ff = 512, .vocab = 500,
         .fmt = QUANT_F16, .tied = true},
        {.name = "d128 qk_norm Q8_0", .n_layer = 2, .hidden = 512, .n_head = 8, .n_kv_head = 2, .d = 128, .ff = 1024,
         .vocab = 777, .fmt = QUANT_Q8_0, .qk_norm = true},
        {.name = "d128 Q4_K_M", .n_layer = 2, .hidden = 512, .n_head = 4, .n_kv_head = 1, .d = 128, .ff = 768,
         .vocab = 512, .fmt = QUANT_Q4_K, .fmt_v = QUANT_Q6_K, .fmt_down = QUANT_Q6_K, .fmt_head = QUANT_Q6_K,
         .qk_norm = true},
        {.name = "d80 bias BF16", .n_layer = 2, .hidden = 320, .n_head = 4, .n_kv_head = 4, .d = 80, .ff = 640,
         .vocab = 300, .fmt = QUANT_BF16, .bias = true},
        {.name = "d96 window F16", .n_layer = 3, .hidden = 384, .n_head = 4, .n_kv_head = 2, .d = 96, .ff = 512,
         .vocab = 300, .fmt = QUANT_F16, .window = 24},
        {.name = "d256 gemma-like", .n_layer = 2, .hidden = 640, .n_head = 4, .n_kv_head = 1, .d = 256, .ff = 2048,
         .vocab = 1000, .fmt = QUANT_Q8_0, .qk_norm = true, .post_norm = true, .softcap = 50, .final_softcap = 30,
         .act = ACT_GELU_TANH, .tied = true},
        {.name = "d64 sinks G8", .n_layer = 2, .hidden = 512, .n_head = 16, .n_kv_head = 2, .d = 64, .ff = 512,
         .vocab = 400, .fmt = QUANT_F16, .sinks = true, .window = 40},
        {.name = "MoE 8 of 2", .n_layer = 2, .hidden = 256, .n_head = 4, .n_kv_head = 2, .d = 64, .ff = 256,
         .vocab = 300, .fmt = QUANT_Q4_K, .fmt_down = QUANT_Q6_K, .n_expert = 8, .n_used = 2},
        {.name = "NVFP4", .n_layer = 2, .hidden = 512, .n_head = 8, .n_kv_head = 2, .d = 64, .ff = 768, .vocab = 512,
         .fmt = QUANT_NVFP4},
        {.name = "MoE 3 of 2 Q8_0", .n_layer = 2, .hidden = 320, .n_head = 5, .n_kv_head = 1, .d = 128, .ff = 160,
         .vocab = 300, .fmt = QUANT_Q8_0, .n_expert = 3, .n_used = 2},
        {.name = "MoE 32 of 4 Q4_K_M", .n_layer = 2, .hidden = 512, .n_head = 4, .n_kv_head = 4, .d = 128, .ff = 768,
         .vocab = 300, .fmt = QUANT_Q4_K, .fmt_down = QUANT_Q6_K, .n_expert = 32, .n_used = 4},
        {.name = "MoE 4 of 2 fused bias MXFP4", .n_layer = 2, .hidden = 320, .n_head = 5, .n_kv_head = 5, .d = 64,
         .ff = 96, .vocab = 300, .fmt = QUANT_MXFP4, .fmt_embd = QUANT_Q8_0, .fmt_head = QUANT_Q8_0,
         .n_expert = 4, .n_used = 2, .fused_experts = true},
        {.name = "d64 G12", .n_layer = 2, .hidden = 256, .n_head = 12, .n_kv_head = 1, .d = 64, .ff = 512,
         .vocab = 300, .fmt = QUANT_F16, .qk_norm = true},
        {.name = "MoE 128 of 8 Q4_K_M", .n_layer = 2, .hidden = 256, .n_head = 4, .n_kv_head = 2, .d = 64, .ff = 768,
         .vocab = 300, .fmt = QUANT_Q4_K, .fmt_down = QUANT_Q6_K, .n_expert = 128, .n_used = 8},
        {.name = "MoE 16 of 3 bias MXFP4", .n_layer = 2, .hidden = 320, .n_head = 5, .n_kv_head = 5, .d = 64, .ff = 96,
         .vocab = 300, .fmt = QUANT_MXFP4, .fmt_embd = QUANT_Q8_0, .fmt_head = QUANT_Q8_0, .n_expert = 16, .n_used = 3,
         .expert_bias = true, .act = ACT_SWIGLU_OAI, .route = {.score = ROUTE_TOPK_SOFTMAX, .scale = 1}},
        {.name = "MoE 160 of 6 groups Q8_0", .n_layer = 2, .hidden = 2304, .n_head = 4, .n_kv_head = 2, .d = 64,
         .ff = 160, .vocab = 300, .fmt = QUANT_Q8_0, .n_expert = 160, .n_used = 6, .choice_bias = 2, .post_norm = true,
         .pool = 4 << 20,
         .route = {.score = ROUTE_SIGMOID, .n_group = 8, .topk_group = 4, .group_top = 2, .renormalise = true,
                   .renorm_eps = 1e-20f, .scale = 2.5f}},
        {.name = "MoE 30 of 5 factors F16", .n_layer = 2, .hidden = 1280, .n_head = 4, .n_kv_head = 2, .d = 64,
         .ff = 704, .vocab = 300, .fmt = QUANT_F16, .n_expert = 30, .n_used = 5, .expert_factor = true,
         .choice_bias = 0.1f, .act = ACT_GELU_TANH, .route = {.score = ROUTE_SOFTMAX, .scale = 1.5f}},
        {.name = "d128 G8 Q8_0", .n_layer = 2, .hidden = 512, .n_head = 16, .n_kv_head = 2, .d = 128, .ff = 512,
         .vocab = 300, .fmt = QUANT_Q8_0, .qk_norm = true},
        {.name = "MoE 128 of 8 routed Q4_K_M", .n_layer = 2, .hidden = 2048, .n_head = 4, .n_kv_head = 2, .d = 64,
         .ff = 256, .vocab = 300, .fmt = QUANT_Q4_K, .fmt_down = QUANT_Q6_K, .n_expert = 128, .n_used = 8,
         .qk_norm = true, .pool = 4 << 20},
        {.name = "d320 G3 Q8_0", .n_layer = 2, .hidden = 256, .n_head = 3, .n_kv_head = 1, .d = 320, .ff = 256,
         .vocab = 300, .fmt = QUANT_Q8_0, .qk_norm = true},
    };
    enum { N_MODEL = sizeof models / sizeof *models, D80 = 3, D256 = 5, ROUTED = N_MODEL - 2, D320 = N_MODEL - 1 };
    for (size_t i = tiny ? 2 : 0;
         i < (tiny ? 3 : N_MODEL) && (!only || tiny || strstr("model", only)); i++) {
        parity_model(o, &models[i], 64, PROMPT);
        if (i < 2 || i == 4)
            parity_model(o, &models[i], 2, 61);
        if (i == 1 || i == 4 || i == 12)
            parity_model(o, &models[i], i == 1 ? 16 : 8, 300);
        if (i < 2 || (i >= 4 && i <= 6) || i == 10)
            parity_model(o, &models[i], 64, 700);
    }
    bool tinyrest = only && strcmp(only, "tinyrest") == 0; /* for the sanitizers: kernels that tiny does not launch */
    for (int i = 0; i < 3 && tinyrest; i++)
        parity_model(o, &models[(int[]){D80, ROUTED, D320}[i]], i == 0 ? 2 : 64, 61);
    if (!only || strstr("few", only))
        test_few(o);
    bool tinywide = only && strcmp(only, "tinywide") == 0; /* for racecheck: prompts that go round prefill's rings */
    if (!only || tiny || tinywide || strstr("wide", only))
        test_wide(o, tiny || tinywide);
    for (size_t i = 0; i < 3 && (!only || strcmp("fp8", only) == 0); i++) {
        static const char *const names[] = {"fp8 d64", "fp8 d128 qk_norm Q8_0", "fp8 d128 Q4_K_M"};
        shape s = models[i];
        s.name = names[i];
        rig_fp8 = true;
        parity_model(o, &s, 64, PROMPT);
        parity_model(o, &s, 64, 700);
        rig_fp8 = false;
    }
    rig_precise = true;
    for (size_t f = 0; f < sizeof formats / sizeof *formats && (!only || tiny || strstr("precise", only)); f++)
        for (size_t k = tiny ? 3 : 1; k < (tiny ? f % 5 == 0 ? 4 : 0 : sizeof sizes / sizeof *sizes); k += 2)
            parity_linear(o, formats[f], sizes[k][0], sizes[k][1], k == 3);
    for (size_t i = tiny ? 13 : 0;
         i < (tiny ? 14 : N_MODEL) && (!only || tiny || strstr("precise", only)); i++) {
        char name[128];
        shape s = models[i];
        snprintf(name, sizeof name, "precise %s", s.name);
        s.name = name;
        parity_model(o, &s, 64, PROMPT);
        if (!tiny && i == 4) { /* a window, small blocks, several splits */
            parity_model(o, &s, 6, 61);
            parity_model(o, &s, 64, 700);
        }
        snprintf(name, sizeof name, "precise %s without attention", models[i].name);
        s.n_head = 0;
        parity_model(o, &s, 64, PROMPT);
    }
    for (int i = 0; i < 2 && tinyrest; i++)
        parity_model(o, &models[(int[]){D256, D320}[i]], 64, 61);
    if (!only || strstr("precise", only)) {
        bool no = cuda_refuses((backend_options){.prefill_fp8 = true, .precise = true});
        verdict(o, no, "precise: refused together with prefill fp8", !no, 0);
    }
    rig_precise = false;
    if (!only || tiny || strncmp("fp8", only, 3) == 0)
        parity_bad += run_fp8(o, tiny || (only && strcmp(only, "fp8tiny") == 0), &parity_run);
    jw_end_array(o);
    if (!only || tiny || strstr("sample", only))
        parity_bad += run_sample(o, tiny, &parity_run);
    if (!only || strstr("errors", only))
        parity_bad += run_errors(&parity_run);
    jw_kint(o, "parity_tests", parity_run);
    jw_kint(o, "parity_failures", parity_bad);
    printf("parity: %d tests, %d failures\n", parity_run, parity_bad);
    return parity_bad;
}

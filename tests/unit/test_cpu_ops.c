/* The operations of ops.h on every instruction set, against double: activations over the whole range, norms, rotation,
 * argmax with ties and odd values, attention over odd block sizes, windows and sinks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/cpu.h"
#include "base/mem.h"

static const struct { const char *cpu; const cpu_ops *ops; } ISA[] = {
    {"scalar", &cpu_ops_base}, {"avx2", &cpu_ops_avx2}, {"avx512", &cpu_ops_avx512}};

static uint32_t seed = 3;
static float unit(void) { return (float)((seed = seed * 1664525u + 1013904223u) >> 8) / (1 << 23) - 1.0f; }

static const cpu_ops *ops_of(int i)
{
    backend *b;
    if (backend_cpu.open(&(backend_options){.cpu = ISA[i].cpu, .n_threads = 1}, &b, NULL) != IMP_OK)
        return NULL;
    backend_cpu.close(b);
    return ISA[i].ops;
}

static double act1(plan_act f, double x)
{
    switch (f) {
    case ACT_SILU: return x / (1 + exp(-x));
    case ACT_GELU_TANH: return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case ACT_GELU_ERF: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case ACT_RELU2: return x > 0 ? x * x : 0;
    case ACT_SIGMOID: return 1 / (1 + exp(-x));
    case ACT_TANH: return tanh(x);
    case ACT_SOFTPLUS: return x > 30 ? x : log1p(exp(x));
    default: return x;
    }
}

static void test_activations(void **s)
{
    (void)s;
    enum { N = 40007 };
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
    for (int i = 0; i < N; i++)
        x[i] = i < 20000 ? (float)(i - 10000) * 0.01f : unit() * powf(10, unit() * 6);
    for (int k = 0; k < 3; k++) {
        const cpu_ops *o = ops_of(k);
        for (int f = ACT_SILU; o && f <= ACT_NONE; f++) {
            o->act(y, x, (plan_act)f, N);
            for (int i = 0; i < N; i++) {
                double want = act1((plan_act)f, (double)x[i]);
                double bound = 2e-6 * fabs(want) + 2e-7 * fmin(1, fabs((double)x[i]));
                if (!(fabs((double)y[i] - want) <= bound + 1e-37))
                    fail_msg("%s: activation %d of %.9g: wanted %.9g, got %.9g", o->isa, f, (double)x[i], want,
                             (double)y[i]);
            }
        }
        if (!o)
            continue;
        o->softcap(y, x, 30, N);
        for (int i = 0; i < N; i++)
            assert_true(fabs((double)y[i] - 30 * tanh((double)x[i] / 30)) <= 2e-6 * fabs((double)y[i]) + 1e-37);
        float odd[3] = {NAN, INFINITY, -INFINITY}, out[3];
        o->act(out, odd, ACT_SILU, 3);
        assert_true(isnan(out[0]) && out[1] == INFINITY && !(out[2] > 0));
        o->act(out, odd, ACT_TANH, 3);
        assert_true(isnan(out[0]) && out[1] == 1 && out[2] == -1);
    }
    free(x);
    free(y);
}

static void test_norm(void **s)
{
    (void)s;
    float x[300], w[300], y[300];
    for (int i = 0; i < 300; i++) {
        x[i] = unit() * 3;
        w[i] = unit();
    }
    static const int SHAPE[][2] = {{1, 1}, {8, 8}, {24, 8}, {100, 100}, {300, 300}, {300, 75}, {128, 64}};
    for (int k = 0; k < 3; k++) {
        const cpu_ops *o = ops_of(k);
        for (size_t j = 0; o && j < sizeof SHAPE / sizeof *SHAPE; j++) {
            int n = SHAPE[j][0], g = SHAPE[j][1];
            o->rms_norm(y, x, w, 1, n, g, 0, 1e-5f);
            for (int i = 0; i < n; i++) {
                double ss = 0;
                for (int t = i / g * g; t < i / g * g + g; t++)
                    ss += (double)x[t] * (double)x[t];
                assert_true(fabs((double)y[i] - (double)x[i] / sqrt(ss / g + 1e-5) * ((double)w[i % g] + 1)) < 3e-6);
            }
        }
    }
}

static void test_argmax(void **s)
{
    (void)s;
    enum { N = 5000 };
    float x[N];
    for (int k = 0; k < 3; k++) {
        const cpu_ops *o = ops_of(k);
        if (!o)
            continue;
        for (int round = 0; round < 300; round++) {
            int n = 1 + (int)((unit() + 1) * 2499);
            for (int i = 0; i < n; i++) {
                x[i] = floorf(unit() * 200); /* ties */
                if (round % 3 == 1 && i % 7 == 0)
                    x[i] = NAN;
                if (round % 3 == 2 && i % 11 == 0)
                    x[i] = i % 2 ? INFINITY : -INFINITY;
            }
            uint32_t mask[N / 32 + 1];
            for (int w = 0; w <= N / 32; w++) { /* words with no bit, a few, about half, all */
                float u = unit();
                mask[w] = u > 0.5f ? UINT32_MAX : 0;
                for (int b = 0; b < 32 && u <= 0.5f && u >= -0.5f; b++)
                    mask[w] |= (uint32_t)(unit() > (u > 0 ? 0.0f : 0.9f)) << b;
            }
            long best = -1, masked = -1;
            for (int i = 0; i < n; i++) {
                if (x[i] < INFINITY && x[i] > (best < 0 ? -INFINITY : x[best]))
                    best = i;
                if ((mask[i / 32] >> i % 32 & 1) && x[i] < INFINITY && x[i] > (masked < 0 ? -INFINITY : x[masked]))
                    masked = i;
            }
            assert_int_equal(o->argmax(x, NULL, n), best);
            assert_int_equal(o->argmax(x, mask, n), masked);
        }
        uint32_t first = 1, none = 0;
        x[0] = 1;
        assert_int_equal(o->argmax(x, &first, 1), 0);
        assert_int_equal(o->argmax(x, &none, 1), -1);
        x[0] = x[1] = NAN;
        assert_int_equal(o->argmax(x, NULL, 2), -1);
    }
}

/* Attention over a cache filled through kv_put, against double. */
static void attention(const cpu_ops *o, int dk, int dv, int block, quant_id type, float softcap, float sink,
                      bool v_in_k)
{
    enum { POS = 203, HEADS = 2, ROWS = 7 };
    int n_block = (POS + block - 1) / block;
    uint64_t es = type == QUANT_F32 ? 4 : 2, bytes = (uint64_t)block * HEADS * (uint64_t)(dk + dv) * es;
    cpu_kv_view kv = {.base = calloc((size_t)n_block, bytes), .block_bytes = bytes,
                      .off_v = (uint64_t)block * HEADS * (uint64_t)dk * es, .type = type,
                      .block = block, .tiled = block % 16 == 0 && !v_in_k, .v_in_k = v_in_k,
                      .d_k = (uint32_t)dk, .d_v = (uint32_t)dv};
    float *k = malloc(sizeof(float) * POS * HEADS * (size_t)dk), *v = malloc(sizeof(float) * POS * HEADS * (size_t)dv);
    float *q = malloc(sizeof(float) * ROWS * (size_t)dk), *out = malloc(sizeof(float) * ROWS * (size_t)dv);
    for (int i = 0; i < POS * HEADS * dk; i++)
        k[i] = quant_bf16_to_f32(quant_f32_to_bf16(floorf(unit() * 8) / 4)); /* exact in every cache type */
    for (int i = 0; i < POS * HEADS * dv; i++)
        v[i] = floorf(unit() * 16) / 8;
    for (int i = 0; i < ROWS * dk; i++)
        q[i] = unit();
    int32_t table[POS];
    for (int i = 0; i < n_block; i++)
        table[i] = (i * 7 + 3) % n_block;
    for (int i = 0, j = 0; i < n_block; i++) /* a permutation even when 7 divides n_block */
        if (n_block % 7 == 0)
            table[i] = n_block - 1 - j++;
    for (int p = 0; p < POS; p++)
        o->kv_put(&kv, (uint8_t *)(uintptr_t)kv.base + (uint64_t)table[p / block] * bytes, HEADS, p % block,
                  k + p * HEADS * dk, v_in_k ? NULL : v + p * HEADS * dv);
    static const int RANGE[ROWS][2] = {{0, 1}, {0, POS}, {100, 101}, {63, 65}, {17, 190}, {0, 64}, {64, 128}};
    cpu_attend_task t = {.kv = kv, .table = table, .head = 1, .scale = 0.3f, .softcap = softcap, .n_row = ROWS};
    for (int r = 0; r < ROWS; r++)
        t.row[r] = (cpu_attend_row){.q = q + r * dk, .o = out + r * dv, .lo = RANGE[r][0],
                                    .hi = RANGE[r][1], .sink = sink};
    float *work = mem_aligned(64, cpu_attend_work((uint32_t)dk, (uint32_t)dv) * sizeof(float));
    o->attend(&t, work);
    for (int r = 0; r < ROWS; r++) {
        double score[POS], max = (double)sink, sum = 0;
        for (int p = RANGE[r][0]; p < RANGE[r][1]; p++) {
            score[p] = 0;
            for (int i = 0; i < dk; i++)
                score[p] += (double)q[r * dk + i] * (double)k[(p * HEADS + 1) * dk + i];
            score[p] *= 0.3f;
            if (softcap > 0)
                score[p] = (double)softcap * tanh(score[p] / (double)softcap);
            max = fmax(max, score[p]);
        }
        for (int p = RANGE[r][0]; p < RANGE[r][1]; p++)
            sum += exp(score[p] - max);
        sum += exp((double)sink - max);
        for (int i = 0; i < dv; i++) {
            double want = 0;
            for (int p = RANGE[r][0]; p < RANGE[r][1]; p++)
                want += exp(score[p] - max) / sum *
                        (double)(v_in_k ? k[(p * HEADS + 1) * dk + i] : v[(p * HEADS + 1) * dv + i]);
            if (!(fabs((double)out[r * dv + i] - want) < 2e-5))
                fail_msg("%s: attention %dx%d, block %d, row %d, column %d: wanted %.7g, got %.7g", o->isa, dk, dv,
                         block, r, i, want, (double)out[r * dv + i]);
        }
    }
    mem_free(work);
    free((void *)(uintptr_t)kv.base);
    free(k);
    free(v);
    free(q);
    free(out);
}

static void test_attention(void **s)
{
    (void)s;
    static const int DIM[][2] = {{64, 64}, {80, 80}, {96, 96}, {128, 128}, {256, 256}, {8, 8}, {24, 40}, {192, 128}};
    static const int BLOCK[] = {64, 2, 16, 20, 1, 128};
    static const quant_id TYPE[] = {QUANT_F32, QUANT_F16, QUANT_BF16};
    for (int k = 0; k < 3; k++) {
        const cpu_ops *o = ops_of(k);
        for (size_t d = 0; o && d < sizeof DIM / sizeof *DIM; d++)
            for (size_t b = 0; b < sizeof BLOCK / sizeof *BLOCK; b++)
                attention(o, DIM[d][0], DIM[d][1], BLOCK[b], TYPE[(d + b) % 3], b == 1 ? 5 : 0,
                          b == 2 ? 0.5f : -INFINITY, DIM[d][1] <= DIM[d][0] && b == 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_norm),
        cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

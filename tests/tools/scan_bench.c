/* How fast the CPU's recurrences are: prompt (one state, many tokens: the first cache's business) and decode (many states, one
 * token each: memory's business), one thread. Prints a line a case.
 * build: make build/tools/scan_bench; usage: scan_bench [avx512|avx2|base] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cpu/ops.h"

enum { D = 128, TOK = 512, HEADS = 1024 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *noise(size_t n, float scale)
{
    float *v = aligned_alloc(64, n * sizeof *v);
    uint32_t s = 1;
    for (size_t i = 0; i < n; i++)
        v[i] = scale * ((float)((s = s * 1664525u + 1013904223u) >> 8) / (1 << 23) - 1);
    return v;
}

/* One pass over `heads` states of n_col columns in tiles of 64, n tokens each. */
static void gdn(const cpu_ops *ops, float *state, const float *x, float *o, long heads, long n)
{
    for (long h = 0; h < heads; h++)
        for (long c = 0; c < D; c += CPU_SCAN_COLS) {
            cpu_gdn_task t = {.state = state + (h * D + c) * D, .q = {x, D}, .k = {x + 64, D}, .v = {x + 128 + c, D}, .g = {x + 7, 0},
                              .beta = {x + 9, 0}, .o = o + c, .ld_o = D, .n_tok = n, .d_k = D, .n_col = CPU_SCAN_COLS};
            ops->gdn(&t);
        }
}

static void mamba2(const cpu_ops *ops, float *state, const float *x, float *o, long heads, long n)
{
    for (long h = 0; h < heads; h++) { /* heads of 64 columns */
        cpu_mamba2_task t = {.state = state + h * 64 * D, .x = {x, D}, .b = {x + 64, D}, .c = {x + 128, D}, .dt = {x + 7, 0}, .A = -1, .D = 1,
                             .dt_bias = -4, .y = o, .ld_y = D, .n_tok = n, .d_state = D, .n_col = 64};
        ops->mamba2(&t);
    }
}

typedef void (*scan)(const cpu_ops *ops, float *state, const float *x, float *o, long heads, long n);

static void measure(const char *name, scan f, const cpu_ops *ops, double macs, double state_bytes)
{
    float *state = noise((size_t)HEADS * D * D, 0.1f), *x = noise(TOK * D + 1024, 0.05f), *o = noise(TOK * D, 0);
    double prompt = 1e9, decode = 1e9;
    for (int r = 0; r < 5; r++) {
        double a = now();
        f(ops, state, x, o, 8, TOK);
        double b = now();
        f(ops, state, x, o, HEADS, 1);
        double c = now();
        prompt = fmin(prompt, (b - a) / (8.0 * TOK));
        decode = fmin(decode, (c - b) / HEADS);
    }
    printf("%s, %s: prompt %.3f us a head and token (%.1f G multiply-adds/s); decode over %d MB of states %.3f us (%.1f GB/s read and written)\n", ops->isa,
           name, prompt * 1e6, macs / prompt / 1e9, (int)(HEADS * state_bytes / 1048576), decode * 1e6, 2 * state_bytes / decode / 1e9);
    free(state);
    free(x);
    free(o);
}

int main(int argc, char **argv)
{
    const char *isa = argc > 1 ? argv[1] : "avx512";
    const cpu_ops *ops = strcmp(isa, "base") == 0 ? &cpu_ops_base : strcmp(isa, "avx2") == 0 ? &cpu_ops_avx2 : &cpu_ops_avx512;
    measure("gated delta rule 128 x 128", gdn, ops, 4.0 * D * D, 4.0 * D * D);
    measure("Mamba-2 64 x 128", mamba2, ops, 3.0 * 64 * D, 4.0 * 64 * D);
    return 0;
}

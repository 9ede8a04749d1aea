/* Packed products: every format and instruction set against decoded weights in double, over row counts that are no
 * multiple of 16 and token counts around every tile edge; and all kernels against each other, bit for bit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "avx512_emulated.h"
#include "backend/cpu/cpu.h"
#include "base/mem.h"

enum { ROWS = 37, MAX_TOK = 37 };
static const struct { const char *cpu; const cpu_ops *ops; const cpu_mm *mm; } ISA[] = {
    {"avx2", &cpu_ops_avx2, &cpu_mm_avx2}, {"avx2", &cpu_ops_avx512_emulated, &cpu_mm_vnni_emulated},
    {"avx2", &cpu_ops_avx512_emulated, &cpu_mm_amx_emulated},
    {"vnni", &cpu_ops_avx512, &cpu_mm_vnni}, {"amx", &cpu_ops_avx512, &cpu_mm_amx}};
enum { N_ISA = sizeof ISA / sizeof *ISA };
static const double STEP[CPU_QFORMS] = {2080768, 1896}; /* steps up to a block's largest value */

static bool available(const char *cpu)
{
    backend *b;
    bool ok = backend_cpu.open(&(backend_options){.cpu = cpu, .n_threads = 1}, &b, NULL) == IMP_OK;
    if (ok)
        backend_cpu.close(b);
    return ok;
}

static uint32_t seed;
static uint32_t rnd(void) { return (seed = seed * 1664525u + 1013904223u) >> 8; }
static float unit(void) { return (float)rnd() / (1 << 23) - 1.0f; }

/* Random blocks whose f16 scales are small and finite: exponents are cut down where they stand. */
static void random_blocks(const cpu_pack *p, uint8_t *data, size_t n_blocks)
{
    for (size_t i = 0; i < n_blocks * p->block_bytes; i++)
        data[i] = (uint8_t)rnd();
    static const struct { quant_id id; int off[2], n; } SCALE[] = {
        {QUANT_Q4_0, {0}, 1}, {QUANT_Q4_1, {0, 2}, 2}, {QUANT_Q5_0, {0}, 1}, {QUANT_Q5_1, {0, 2}, 2},
        {QUANT_Q8_0, {0}, 1}, {QUANT_Q2_K, {80, 82}, 2}, {QUANT_Q3_K, {108}, 1}, {QUANT_Q4_K, {0, 2}, 2},
        {QUANT_Q5_K, {0, 2}, 2}, {QUANT_Q6_K, {208}, 1}, {QUANT_IQ4_NL, {0}, 1}, {QUANT_IQ4_XS, {0}, 1}};
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *blk = data + b * p->block_bytes;
        for (size_t k = 0; k < sizeof SCALE / sizeof *SCALE; k++)
            for (int j = 0; SCALE[k].id == p->id && j < SCALE[k].n; j++) {
                uint16_t h = quant_f32_to_f16(unit() * 0.01f);
                memcpy(blk + SCALE[k].off[j], &h, 2);
            }
        if (p->id == QUANT_MXFP4)
            blk[0] = (uint8_t)(120 + rnd() % 10);
    }
}

typedef struct fixture {
    const cpu_pack *p;
    long cols;
    uint8_t *data, *panel;
    float *w, *x, *bias; /* decoded weights, activations */
    uint64_t row_bytes, panel_bytes;
} fixture;

static void make(fixture *f, const cpu_pack *p, long cols)
{
    *f = (fixture){.p = p, .cols = cols};
    f->row_bytes = (uint64_t)cols / p->values * p->block_bytes;
    f->data = malloc(ROWS * f->row_bytes);
    random_blocks(p, f->data, ROWS * (size_t)cols / p->values);
    f->w = malloc((size_t)(ROWS * cols) * sizeof(float));
    f->x = malloc((size_t)(MAX_TOK * cols) * sizeof(float));
    f->bias = malloc(ROWS * sizeof(float));
    for (int r = 0; r < ROWS; r++) {
        quant_get(p->id)->decode(f->data + (uint64_t)r * f->row_bytes, f->w + r * cols, (size_t)cols);
        f->bias[r] = unit();
    }
    for (long i = 0; i < MAX_TOK * cols; i++)
        f->x[i] = unit() * (i % 97 == 0 ? 8 : 1);
    memset(f->x + cols, 0, (size_t)cols * sizeof(float)); /* token 1: nothing but zeros */
    uint64_t n_super = (uint64_t)cols / p->values;
    f->panel_bytes = (n_super * (p->q_bytes + p->s_bytes) + 63) / 64 * 64;
    f->panel = mem_aligned(64, 3 * f->panel_bytes + 8192);
    memset(f->panel, 0, 3 * f->panel_bytes);
    for (int g = 0; g < 3; g++) {
        const uint8_t *row[16];
        for (int i = 0; i < 16; i++)
            row[i] = g * 16 + i < ROWS ? f->data + (uint64_t)(g * 16 + i) * f->row_bytes : NULL;
        p->pack(row, n_super, f->panel + (uint64_t)g * f->panel_bytes + p->s_bytes,
                f->panel + (uint64_t)g * f->panel_bytes);
    }
}

static void drop(fixture *f)
{
    free(f->data);
    free(f->w);
    free(f->x);
    free(f->bias);
    mem_free(f->panel);
}

static void products(const fixture *f, cpu_qform form, int isa, long n_tok, float *y)
{
    long nb = f->cols / 32;
    cpu_qact a = {.q = mem_aligned(64, (size_t)(nb * n_tok * cpu_qblock(form))),
                  .meta = mem_aligned(64, (size_t)(nb * n_tok) * sizeof(cpu_qmeta)), .nb = nb, .n_tok = n_tok};
    for (long t = 0; t < n_tok; t++) {
        long tile = t / 16, step = n_tok - tile * 16 < 16 ? n_tok - tile * 16 : 16, at = tile * 16 * nb + t % 16;
        ISA[isa].ops->quantise[form](f->x + t * f->cols, f->cols, 0, nb, a.q + at * cpu_qblock(form),
                                     a.meta + at, step);
    }
    void *scratch = mem_aligned(64, cpu_mm_scratch((uint64_t)f->cols));
    cpu_panels p = {f->panel, f->panel_bytes, n_tok % 2 ? 1536 : 0};
    ISA[isa].mm->fn[form][f->p - cpu_pack_table](&p, &a, y, ROWS, ROWS, f->bias, scratch);
    mem_free(a.q);
    mem_free(a.meta);
    mem_free(scratch);
}

/* Weights of more than four bits meet the byte that pairs share rounded to eight bits: off by up to 32 of 4080 steps of
 * w_i + 16 * w_j, that is 2^-7 of the widest weight, times half a step of a byte. */
static bool is_wide(const cpu_pack *p)
{
    static const quant_id NARROW[] = {QUANT_Q4_0, QUANT_Q4_1, QUANT_Q4_K, QUANT_Q2_K, QUANT_Q3_K};
    for (size_t i = 0; i < sizeof NARROW / sizeof *NARROW; i++)
        if (p->id == NARROW[i])
            return false;
    return true;
}

static void check_close(const fixture *f, cpu_qform form, const float *y, long n_tok)
{
    for (long t = 0; t < n_tok; t++)
        for (int r = 0; r < ROWS; r++) {
            double sum = f->bias[r], mag = 0, bound = 0;
            for (long b = 0; b < f->cols; b += 32) {
                double max = 0, w1 = 0, widest = 0;
                for (long i = b; i < b + 32; i++) {
                    double v = (double)f->w[r * f->cols + i] * (double)f->x[t * f->cols + i];
                    sum += v;
                    mag += fabs(v);
                    w1 += fabs((double)f->w[r * f->cols + i]);
                    widest = fmax(widest, fabs((double)f->w[r * f->cols + i]));
                    max = fmax(max, fabs((double)f->x[t * f->cols + i]));
                }
                bound += w1 * max / STEP[form] * 0.5001; /* every activation is off by half a step at most */
                if (form == CPU_Q12 && is_wide(f->p))
                    bound += 16 * widest * max / (STEP[form] / 8) / 16;
            }
            bound += form == CPU_Q22 ? mag * 1e-6 + 1e-6 : mag * 1e-5 + 1e-5;
            if (!(fabs((double)y[t * ROWS + r] - sum) <= bound))
                fail_msg("%s: %ld columns, token %ld, row %d: wanted %.7g, got %.7g, bound %.2g",
                         quant_get(f->p->id)->name, f->cols, t, r, sum, (double)y[t * ROWS + r], bound);
        }
}

static void test_formats(void **s)
{
    (void)s;
    static const long TOKENS[] = {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 19, 20, 32, 37};
    seed = 7;
    for (int i = 0; i < PACK_COUNT; i++) {
        const cpu_pack *p = &cpu_pack_table[i];
        assert_ptr_equal(cpu_pack_find(p->id), p);
        for (long n = 1; n <= 4; n++) {
            cpu_qform form = n % 2 ? CPU_Q22 : CPU_Q12;
            fixture f;
            make(&f, p, (n / 3 * 2 + 1) * (long)p->values);
            for (size_t k = 0; k < sizeof TOKENS / sizeof *TOKENS; k++) {
                float *first = NULL;
                for (int isa = 0; isa < N_ISA; isa++) {
                    if (!available(ISA[isa].cpu))
                        continue;
                    float *y = malloc((size_t)(TOKENS[k] * ROWS) * sizeof(float));
                    products(&f, form, isa, TOKENS[k], y);
                    if (!first) {
                        check_close(&f, form, y, TOKENS[k]);
                        first = y;
                        continue;
                    }
                    if (memcmp(first, y, (size_t)(TOKENS[k] * ROWS) * sizeof(float)) != 0)
                        fail_msg("%s, form %d, %ld tokens: %s (row %d) differs from the narrower kernels",
                                 quant_get(p->id)->name, form, TOKENS[k], ISA[isa].cpu, isa);
                    free(y);
                }
                free(first);
            }
            drop(&f);
        }
    }
}

/* A row's bytes do not depend on which tile it is in. */
static void test_neighbours(void **s)
{
    (void)s;
    seed = 11;
    for (int i = 0; i < 2 * PACK_COUNT; i++) {
        cpu_qform form = i < PACK_COUNT ? CPU_Q22 : CPU_Q12;
        fixture f;
        make(&f, &cpu_pack_table[i % PACK_COUNT], 256);
        for (int isa = 0; isa < N_ISA; isa++) {
            if (!available(ISA[isa].cpu))
                continue;
            float all[MAX_TOK * ROWS], one[ROWS], *x = f.x;
            products(&f, form, isa, MAX_TOK, all);
            for (int t = 0; t < MAX_TOK; t++) {
                f.x = x + t * f.cols;
                products(&f, form, isa, 1, one);
                assert_memory_equal(one, all + t * ROWS, sizeof one);
            }
            f.x = x;
        }
        drop(&f);
    }
}

/* Bad activations reach the result as NaN or infinity, never as a plausible number; nothing but zeros gives zero. */
static void test_not_finite(void **s)
{
    (void)s;
    static const float BAD[] = {NAN, INFINITY, -INFINITY};
    seed = 13;
    fixture f;
    make(&f, cpu_pack_find(QUANT_Q8_0), 64);
    for (int isa = 0; isa < N_ISA; isa++) {
        if (!available(ISA[isa].cpu))
            continue;
        for (size_t k = 0; k < 6; k++) {
            float keep = f.x[5], y[2 * ROWS];
            f.x[5] = BAD[k / 2];
            products(&f, (cpu_qform)(k % 2), isa, 2, y);
            for (int r = 0; r < ROWS; r++) {
                assert_false(isfinite(y[r]));
                assert_true(y[ROWS + r] == f.bias[r]); /* token 1 is all zeros */
            }
            f.x[5] = keep;
        }
    }
    drop(&f);
}

/* What a block says of value i: the integer that products use. */
static int value_of(cpu_qform form, const int8_t *q, int i)
{
    if (form == CPU_Q22)
        return 128 * (128 * q[i] + q[32 + i]) + q[64 + i];
    int t = q[32 + i / 16 * 8 + i % 8];
    return 256 * q[i] + (i % 16 < 8 ? t : 16 * t);
}

/* d * n is within half a step of x (and f32's rounding of d and of the product); the sums are those of n; every
 * instruction set writes the same. */
static void test_quantise(void **s)
{
    (void)s;
    seed = 17;
    for (int round = 0; round < 200; round++) {
        float x[96];
        for (int i = 0; i < 96; i++)
            x[i] = unit() * (round % 3 ? 3 : i % 31 == 0 ? 30 : 0.3f);
        x[40] = 1e-30f;
        x[round % 32] = round % 2 ? 3 : -30;
        const cpu_ops *all[] = {&cpu_ops_base, available("avx2") ? &cpu_ops_avx2 : NULL,
                                available("avx2") ? &cpu_ops_avx512_emulated : NULL,
                                available("vnni") ? &cpu_ops_avx512 : NULL};
        for (int form = 0; form < CPU_QFORMS; form++) {
            int8_t q[4][3 * CPU_QBLOCK_MAX] = {{0}};
            cpu_qmeta m[4][3];
            for (int k = 0; k < 4; k++) {
                if (!all[k])
                    continue;
                all[k]->quantise[form](x, 90, 0, 3, q[k], m[k], 1); /* 90 columns: the last block is short */
                assert_memory_equal(q[k], q[0], sizeof q[0]);
                assert_memory_equal(m[k], m[0], sizeof m[0]);
                for (int b = 0; b < 3; b++) {
                    int32_t sum[2] = {0, 0};
                    float max = 0;
                    for (int i = 0; i < 32; i++)
                        max = fmaxf(max, b * 32 + i < 90 ? fabsf(x[b * 32 + i]) : 0);
                    for (int i = 0; i < 32; i++) {
                        int n = value_of((cpu_qform)form, q[k] + b * cpu_qblock((cpu_qform)form), i);
                        float v = b * 32 + i < 90 ? x[b * 32 + i] : 0;
                        if (!(fabsf((float)n * m[k][b].d - v) <= max / (float)STEP[form] * 0.5002f + fabsf(v) * 2e-7f))
                            fail_msg("form %d, block %d, value %d: wanted %.7g, got %.7g", form, b, i, (double)v,
                                     (double)((float)n * m[k][b].d));
                        sum[i / 16] += n;
                    }
                    assert_int_equal(sum[0], form == CPU_Q22 ? 128 * m[k][b].z[0] + m[k][b].z_lo[0] : m[k][b].z[0]);
                    assert_int_equal(sum[1], form == CPU_Q22 ? 128 * m[k][b].z[1] + m[k][b].z_lo[1] : m[k][b].z[1]);
                    assert_int_equal(m[k][b].z[0] + m[k][b].z[1], m[k][b].z_all);
                    assert_true(m[k][b].s_all == m[k][b].d * (float)(sum[0] + sum[1]));
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantise),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_neighbours),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Encoders: error no larger than the reference's (tests/fixtures/make_quant_rmse.py), and sane on any input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <math.h>

#include "quant/quant.h"

#define DIR "tests/fixtures/quant/"
enum { N = 1 << 16 };

static float x[N], w[N], y[N];
static uint8_t packed[4 * N + 16];

static uint64_t splitmix64(uint64_t start, uint64_t i)
{
    uint64_t z = (start + i) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* The distributions of make_quant_rmse.py: bell, heavy tails, uniform. */
static void samples(unsigned kind, int n)
{
    for (int i = 0; i < n; i++) {
        uint64_t z = splitmix64((uint64_t)kind << 40, (uint64_t)i + 1);
        int a = z & 0xFFFF, b = z >> 16 & 0xFFFF, c = z >> 32 & 0xFFFF, d = (int)(z >> 48);
        float bell = (float)(a + b + c + d - 131070) * 0x1p-20f;
        x[i] = kind == 0 ? bell : kind == 1 ? bell * fabsf(bell) * 16 : (float)(a - 32768) * 0x1p-15f;
        z = splitmix64(9ull << 40, (uint64_t)i + 1);
        w[i] = (float)(z & 0xFFFF) * (float)(z >> 16 & 0xFFFF) * 0x1p-32f + 0x1p-10f;
    }
}

static double rmse(const float *weight)
{
    double sum = 0, total = 0;
    for (int i = 0; i < N; i++) {
        double e = (double)y[i] - (double)x[i], k = weight ? (double)weight[i] : 1;
        sum += k * e * e;
        total += k;
    }
    return sqrt(sum / total);
}

static void error_within_reference(void **state)
{
    (void)state;
    FILE *f = fopen(DIR "rmse.txt", "r");
    assert_non_null(f);
    char name[32];
    unsigned kind;
    int weighted, lines = 0;
    double want;
    while (fscanf(f, "%31s %u %d %lf", name, &kind, &weighted, &want) == 4) {
        const quant_fmt *fmt = quant_by_name(name);
        assert_true(fmt && fmt->encode);
        samples(kind, N);
        fmt->encode(x, packed, N, weighted ? w : NULL);
        fmt->decode(packed, y, N);
        double got = rmse(weighted ? w : NULL);
        if (!(got <= want * 1.000001)) /* without freedom in the encoding both are equal but for the sum's rounding */
            fail_msg("%s, distribution %u%s: the reference's rmse is %.9g, ours %.9g", name, kind,
                     weighted ? ", weighted" : "", want, got);
        lines++;
    }
    fclose(f);
    assert_int_equal(lines, 16 * 3 * 2);
}

static void fixed_encodings_equal_gguf(void **state)
{
    (void)state;
    static const char *const NAMES[] = {"Q8_0", "TQ1_0", "TQ2_0"};
    FILE *f = fopen(DIR "q8.bin", "rb");
    assert_non_null(f);
    for (int k = 0; k < 3; k++)
        for (unsigned kind = 0; kind < 3; kind++) {
            const quant_fmt *fmt = quant_by_name(NAMES[k]);
            size_t n = 2048 / fmt->block * fmt->bytes;
            uint8_t want[4096];
            assert_int_equal(fread(want, 1, n, f), n);
            samples(kind, 2048);
            fmt->encode(x, packed, 2048, NULL);
            assert_memory_equal(packed, want, n);
        }
    assert_int_equal(fgetc(f), EOF);
    fclose(f);
}

/* Weights are what they say: giving them lowers the weighted error. */
static void weights_matter(void **state)
{
    (void)state;
    static const char *const NAMES[] = {"Q4_0", "Q4_1", "Q5_0",   "Q5_1",   "Q2_K",  "Q3_K", "Q4_K",
                                        "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"};
    samples(0, N);
    for (size_t k = 0; k < sizeof NAMES / sizeof *NAMES; k++) {
        const quant_fmt *fmt = quant_by_name(NAMES[k]);
        fmt->encode(x, packed, N, NULL);
        fmt->decode(packed, y, N);
        double plain = rmse(w);
        fmt->encode(x, packed, N, w);
        fmt->decode(packed, y, N);
        if (!(rmse(w) < plain))
            fail_msg("%s: weighted error %g with weights, %g without", NAMES[k], rmse(w), plain);
    }
}

/* Simple values that no format may spoil: `d` and its negative, zeros. */
static void simple_blocks_survive(void **state)
{
    (void)state;
    const quant_fmt *fmt;
    for (size_t k = 0; (fmt = quant_at(k)); k++) {
        if (!fmt->encode)
            continue;
        for (float d = 0x1p-12f; d <= 4; d *= 4) {
            if (fmt->id == QUANT_NVFP4 && d < 0.01f) /* E4M3 scales need the tensor's own scale for these */
                continue;
            if (fmt->id == QUANT_F8_E4M3 && d < 0x1p-6f)
                continue;
            if (fmt->id == QUANT_E2M1 && d < 1) /* a bare code without a scale */
                continue;
            for (int i = 0; i < 512; i++)
                x[i] = d;
            fmt->encode(x, packed, 512, NULL);
            fmt->decode(packed, y, 512);
            for (int i = 0; i < 512; i++)
                if (fabsf(y[i] - d) > d * (d < 0x1p-5f ? 0.03f : 0.004f)) /* f16 scales get coarse there */
                    fail_msg("%s: %a became %a", fmt->name, (double)d, (double)y[i]);
            /* Half a step where the levels do not include 0 and both ends. */
            float step = fmt->id == QUANT_Q2_K ? 0.4f : fmt->block == 1 ? 0.01f : 0.08f;
            for (int i = 0; i < 512; i++)
                x[i] = i % 3 == 1 ? d : i % 3 == 2 ? -d : 0;
            fmt->encode(x, packed, 512, NULL);
            fmt->decode(packed, y, 512);
            for (int i = 0; i < 512; i++)
                if (fabsf(y[i] - x[i]) > d * step)
                    fail_msg("%s: %a among its negatives became %a", fmt->name, (double)x[i], (double)y[i]);
        }
        memset(x, 0, sizeof *x * 512);
        memset(packed, 0xEE, sizeof packed);
        fmt->encode(x, packed, 512, NULL);
        fmt->decode(packed, y, 512);
        for (int i = 0; i < 512; i++)
            assert_true(y[i] == 0);
    }
}

/* Bad files hold anything: whatever comes in, every block format's result is finite. UBSan watches. */
static void any_input_gives_finite_blocks(void **state)
{
    (void)state;
    static const float EVIL[] = {NAN, INFINITY, -INFINITY, 0x1.fffffep127f, -0x1.fffffep127f, 0x1p-149f, -0x1p-126f, 0,
                                 -0.0f, 1, -1, 1e10f, -1e-10f, 65504, -65520, 1e-7f, 0x1p100f, -3.5f};
    const int n_evil = sizeof EVIL / sizeof *EVIL;
    for (unsigned round = 0; round < 64; round++) {
        for (int i = 0; i < 1024; i++) {
            uint64_t z = splitmix64((uint64_t)round << 20, (uint64_t)i + 1);
            /* rounds differ in how much is evil; later ones are one kind of evil alone, or random bits */
            x[i] = round < 32 ? (z % 64 < 2 * round ? EVIL[(z >> 8) % n_evil] : (float)(int)(z >> 40 & 255) * 0.01f - 1)
                 : round < 60 ? EVIL[round % n_evil] * (round & 1 ? 1.0f : (float)(int)(i % 5 - 2))
                              : quant_bits_f32((uint32_t)z);
            w[i] = round % 4 == 0 ? 1 : round % 4 == 1 ? EVIL[(z >> 16) % n_evil] : round % 4 == 2 ? 0 : 0x1p-140f;
        }
        const quant_fmt *fmt;
        for (size_t k = 0; (fmt = quant_at(k)); k++) {
            if (!fmt->encode)
                continue;
            fmt->encode(x, packed + 1, 1024, round % 5 ? w : NULL); /* and at any address */
            fmt->decode(packed + 1, y, 1024);
            for (int i = 0; i < 1024 && fmt->block > 2; i++)
                if (!isfinite(y[i]))
                    fail_msg("%s, round %u: value %d: %a became %a", fmt->name, round, i, (double)x[i], (double)y[i]);
        }
    }
}

/* Nothing is written past the last block, and nothing of it is left unwritten. */
static void writes_exactly_its_bytes(void **state)
{
    (void)state;
    samples(0, 512);
    const quant_fmt *fmt;
    for (size_t k = 0; (fmt = quant_at(k)); k++) {
        if (!fmt->encode)
            continue;
        size_t n = 512 / fmt->block * fmt->bytes;
        static uint8_t again[4096];
        memset(packed, 0x55, n + 8);
        memset(again, 0xAA, n);
        fmt->encode(x, packed, 512, NULL);
        fmt->encode(x, again, 512, NULL);
        assert_memory_equal(packed, again, n);
        for (size_t i = n; i < n + 8; i++)
            assert_int_equal(packed[i], 0x55);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_within_reference),      cmocka_unit_test(fixed_encodings_equal_gguf),
        cmocka_unit_test(weights_matter),              cmocka_unit_test(simple_blocks_survive),
        cmocka_unit_test(any_input_gives_finite_blocks), cmocka_unit_test(writes_exactly_its_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

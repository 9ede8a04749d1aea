/* Formats: sizes, exact decoding against gguf's (tests/fixtures/make_quant.py), scalar conversions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <math.h>

#include "quant/blocks.h"
#include "quant/quant.h"

#define DIR "tests/fixtures/quant/"

/* Number `i` (from 1) of splitmix64 started at `start`. */
static uint64_t splitmix64(uint64_t start, uint64_t i)
{
    uint64_t z = (start + i) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static uint32_t canonical(float f)
{
    return isnan(f) ? 0x7FC00000u : quant_f32_bits(f);
}

static const quant_fmt *must_get(const char *name)
{
    const quant_fmt *fmt = quant_by_name(name);
    if (!fmt)
        fail_msg("no format %s", name);
    return fmt;
}

/* Calls check(line's fields) for each line of streams.txt. */
typedef void (*stream_fn)(const char *name, unsigned number, size_t blocks, size_t bytes, size_t block, uint64_t hash);
static void each_stream(stream_fn check)
{
    FILE *f = fopen(DIR "streams.txt", "r");
    assert_non_null(f);
    char name[32];
    unsigned number = 0, n_bytes, block;
    size_t blocks;
    unsigned long long hash;
    while (fscanf(f, "%31s %zu %u %u %llx", name, &blocks, &n_bytes, &block, &hash) == 5)
        check(name, number++, blocks, n_bytes, block, hash);
    fclose(f);
    assert_int_equal(number, 26);
}

static void check_bin(const char *name, unsigned number, size_t blocks, size_t n_bytes, size_t block, uint64_t hash)
{
    (void)number, (void)blocks, (void)hash;
    const quant_fmt *fmt = must_get(name);
    assert_int_equal(fmt->bytes, n_bytes);
    assert_int_equal(fmt->block, block);
    char path[80];
    snprintf(path, sizeof path, DIR "%s.bin", name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    static uint8_t data[32768];
    size_t size = fread(data, 1, sizeof data, f), per_block = n_bytes + 4 * block, n = size / per_block;
    fclose(f);
    assert_true(n >= 3 && n * per_block == size);
    float *got = malloc(n * block * sizeof *got), want;
    fmt->decode(data, got, n * block);
    for (size_t i = 0; i < n * block; i++) {
        memcpy(&want, data + n * n_bytes + 4 * i, 4);
        if (canonical(got[i]) != canonical(want))
            fail_msg("%s: value %zu: wanted %a, got %a", name, i, (double)want, (double)got[i]);
    }
    free(got);
}

static void decode_equals_gguf_on_files(void **state)
{
    (void)state;
    each_stream(check_bin);
}

static void check_stream(const char *name, unsigned number, size_t blocks, size_t n_bytes, size_t block, uint64_t hash)
{
    const quant_fmt *fmt = must_get(name);
    size_t size = blocks * n_bytes, n = blocks * block;
    uint8_t *raw = malloc(size + 8);
    float *got = malloc(n * sizeof *got);
    uint8_t *odd = raw + 1; /* files promise no alignment */
    for (size_t i = 0; i < size; i += 8) {
        uint64_t z = splitmix64((uint64_t)number << 32, i / 8 + 1);
        memcpy(odd + i, &z, size - i < 7 ? size - i : 7);
        if (size - i >= 8)
            odd[i + 7] = (uint8_t)(z >> 56);
    }
    fmt->decode(odd, got, n);
    uint64_t h = 0;
    for (size_t i = 0; i < n; i++)
        h += ((uint64_t)canonical(got[i]) + 1) * splitmix64(0, i + 1);
    free(raw);
    free(got);
    if (h != hash)
        fail_msg("%s: hash of %zu values: wanted %llx, got %llx", name, n, (unsigned long long)hash,
                 (unsigned long long)h);
}

static void decode_equals_gguf_on_streams(void **state)
{
    (void)state;
    each_stream(check_stream);
}

static void table_is_consistent(void **state)
{
    (void)state;
    size_t n = 0;
    for (const quant_fmt *fmt; (fmt = quant_at(n)); n++) {
        assert_ptr_equal(quant_get(fmt->id), fmt);
        assert_ptr_equal(quant_by_name(fmt->name), fmt);
        assert_true(fmt->block > 0 && fmt->bytes > 0 && fmt->decode != NULL);
        quant_id id = fmt->id;
        assert_int_equal(fmt->is_float, id == QUANT_F32 || id == QUANT_F16 || id == QUANT_BF16 || id == QUANT_F64);
    }
    assert_int_equal(n, 40);
    assert_ptr_equal(quant_by_name("q4_k"), quant_get(QUANT_Q4_K));
    assert_null(quant_by_name("Q4"));
    assert_null(quant_get(QUANT_NONE));
    assert_null(quant_get((quant_id)4)); /* Q4_2, long gone */
    assert_null(quant_get((quant_id)-1));

    uint64_t bytes;
    assert_true(quant_bytes(QUANT_Q6_K, 512, &bytes));
    assert_int_equal(bytes, 420);
    assert_true(quant_bytes(QUANT_F32, 0, &bytes));
    assert_int_equal(bytes, 0);
    assert_false(quant_bytes(QUANT_Q6_K, 511, &bytes));
    assert_false(quant_bytes(QUANT_F32, UINT64_MAX / 4 + 1, &bytes));
    assert_false(quant_bytes((quant_id)4, 32, &bytes));
}

/* Activation formats, which gguf does not decode. */
static void q8_1_and_q8_k(void **state)
{
    (void)state;
    blk_q8_1 a = {.d = 0x3800 /* 0.5 */, .qs = {1, -2, [31] = -128}};
    blk_q8_k b = {.d = -0.25f, .qs = {127, [255] = -128}};
    float v[256];
    quant_get(QUANT_Q8_1)->decode(&a, v, 32);
    assert_true(v[0] == 0.5f && v[1] == -1 && v[2] == 0 && v[31] == -64);
    quant_get(QUANT_Q8_K)->decode(&b, v, 256);
    assert_true(v[0] == -31.75f && v[1] == 0 && v[255] == 32);
}

static void integers_and_double(void **state)
{
    (void)state;
    static const struct { quant_id id; union { double f; int64_t i; uint8_t b[8]; } in; float out; } CASES[] = {
        {QUANT_F64, {.f = 1.0 / 3}, 0x1.555556p-2f}, {QUANT_F64, {.f = 1e300}, INFINITY},
        {QUANT_F64, {.f = -1e39}, -INFINITY},
        {QUANT_F64, {.f = 0x1.fffffefffffffp127}, 0x1.fffffep127f}, {QUANT_F64, {.f = -0.0}, -0.0f},
        {QUANT_I8, {.i = 0x80}, -128}, {QUANT_I16, {.i = 0xFFFE}, -2}, {QUANT_I32, {.i = 0x80000000}, -0x1p31f},
        {QUANT_I32, {.i = 16777217}, 16777216}, {QUANT_I64, {.i = INT64_MIN}, -0x1p63f}, {QUANT_U8, {.i = 255}, 255},
        {QUANT_BOOL, {.i = 7}, 1}, {QUANT_BOOL, {.i = 0}, 0},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        float v;
        quant_get(CASES[i].id)->decode(&CASES[i].in, &v, 1);
        if (quant_f32_bits(v) != quant_f32_bits(CASES[i].out))
            fail_msg("case %zu: wanted %a, got %a", i, (double)CASES[i].out, (double)v);
    }
    static const uint8_t packed[4] = {0x10, 0x98, 0xF7, 0x0C};
    static const float e2m1[8] = {0, .5f, -0.0f, -.5f, 6, -6, -2, 0}, i4[8] = {-8, -7, 0, 1, -1, 7, 4, -8};
    float v[8];
    quant_get(QUANT_E2M1)->decode(packed, v, 8);
    assert_memory_equal(v, e2m1, sizeof v);
    quant_get(QUANT_I4)->decode(packed, v, 8);
    assert_memory_equal(v, i4, sizeof v);
}

/* Value of a small float from its definition. */
static double small_float(unsigned code, int exp_bits, int man_bits, int bias)
{
    unsigned man = code & ((1u << man_bits) - 1), exp = code >> man_bits & ((1u << exp_bits) - 1);
    double v = exp ? ldexp(1 + ldexp(man, -man_bits), (int)exp - bias) : ldexp(man, 1 - bias - man_bits);
    return code >> (exp_bits + man_bits) & 1 ? -v : v;
}

static bool same(float got, double want)
{
    return quant_f32_bits(got) == quant_f32_bits((float)want);
}

static void small_floats_decode(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 65536; c++) {
        float got = quant_f16_to_f32((uint16_t)c);
        if ((c & 0x7C00) != 0x7C00)
            assert_true(same(got, small_float(c, 5, 10, 15)));
        else
            assert_true(c & 0x3FF ? isnan(got) : got == (c & 0x8000 ? -INFINITY : INFINITY));
        uint16_t back = quant_f32_to_f16(got);
        assert_true(isnan(got) ? (back & 0x7C00) == 0x7C00 && (back & 0x3FF) : back == c);
        got = quant_bf16_to_f32((uint16_t)c);
        back = quant_f32_to_bf16(got);
        assert_true(isnan(got) ? (back & 0x7F80) == 0x7F80 && (back & 0x7F) : back == c);
    }
    for (unsigned c = 0; c < 256; c++) {
        float a = quant_e4m3_to_f32((uint8_t)c), b = quant_e5m2_to_f32((uint8_t)c), e = quant_e8m0_to_f32((uint8_t)c);
        assert_true((c & 0x7F) == 0x7F ? isnan(a) : same(a, small_float(c, 4, 3, 7)));
        if ((c & 0x7C) == 0x7C)
            assert_true(c & 3 ? isnan(b) : isinf(b));
        else
            assert_true(same(b, small_float(c, 5, 2, 15)));
        assert_true(c == 255 ? isnan(e) : e == ldexpf(1, (int)c - 127));
        assert_true(isnan(a) ? (quant_f32_to_e4m3(a) & 0x7F) == 0x7F : quant_f32_to_e4m3(a) == c);
        if ((c & 0x7C) != 0x7C)
            assert_true(quant_f32_to_e5m2(b) == c);
        assert_true(same(quant_e2m1_to_f32((uint8_t)c), small_float(c & 15, 2, 1, 1)));
    }
    assert_true(isnan(quant_e5m2_to_f32(quant_f32_to_e5m2(NAN))));
}

/* Between neighbours c and c+1: just below the middle rounds down, just above up, the middle to the even code. */
typedef float (*to_f32_fn)(unsigned);
typedef unsigned (*from_f32_fn)(float);
static void check_rounding(to_f32_fn to, from_f32_fn from, unsigned last, unsigned sign)
{
    for (unsigned c = 0; c < last; c++) {
        float mid = (float)(((double)to(c) + (double)to(c + 1)) / 2);
        assert_int_equal(from(mid), c + (c & 1));
        assert_int_equal(from(nextafterf(mid, 0)), c);
        assert_int_equal(from(nextafterf(mid, INFINITY)), c + 1);
        assert_int_equal(from(-mid), sign | (c + (c & 1)));
    }
}

static float f16_to(unsigned c) { return quant_f16_to_f32((uint16_t)c); }
static unsigned f16_from(float f) { return quant_f32_to_f16(f); }
static float bf16_to(unsigned c) { return quant_bf16_to_f32((uint16_t)c); }
static unsigned bf16_from(float f) { return quant_f32_to_bf16(f); }
static float e4m3_to(unsigned c) { return quant_e4m3_to_f32((uint8_t)c); }
static unsigned e4m3_from(float f) { return quant_f32_to_e4m3(f); }
static float e5m2_to(unsigned c) { return quant_e5m2_to_f32((uint8_t)c); }
static unsigned e5m2_from(float f) { return quant_f32_to_e5m2(f); }
static float e2m1_to(unsigned c) { return quant_e2m1_to_f32((uint8_t)c); }
static unsigned e2m1_from(float f) { return quant_f32_to_e2m1(f); }

static void small_floats_round_to_even(void **state)
{
    (void)state;
    check_rounding(f16_to, f16_from, 0x7BFF, 0x8000);
    check_rounding(bf16_to, bf16_from, 0x7F7F, 0x8000);
    check_rounding(e4m3_to, e4m3_from, 0x7E, 0x80);
    check_rounding(e5m2_to, e5m2_from, 0x7B, 0x80);
    check_rounding(e2m1_to, e2m1_from, 7, 8);
    assert_int_equal(quant_f32_to_f16(65519.99f), 0x7BFF);
    assert_int_equal(quant_f32_to_f16(65520), 0x7C00);
    assert_int_equal(quant_f32_to_f16(-INFINITY), 0xFC00);
    assert_int_equal(quant_f32_to_bf16(INFINITY), 0x7F80);
    assert_int_equal(quant_f32_to_bf16(0x1.fffffep127f), 0x7F80);
    assert_int_equal(quant_f32_to_e4m3(-1e30f), 0xFE);
    assert_int_equal(quant_f32_to_e5m2(INFINITY), 0x7B);
    assert_int_equal(quant_f32_to_e2m1(-INFINITY), 15);
    assert_int_equal(quant_f32_to_e2m1(NAN), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_is_consistent),
        cmocka_unit_test(decode_equals_gguf_on_files),
        cmocka_unit_test(decode_equals_gguf_on_streams),
        cmocka_unit_test(q8_1_and_q8_k),
        cmocka_unit_test(integers_and_double),
        cmocka_unit_test(small_floats_decode),
        cmocka_unit_test(small_floats_round_to_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

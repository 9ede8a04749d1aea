/* Weights made by hand: every part, granularity and layout that weight_decode knows; what weight_check refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"
#include "quant/blocks.h"
#include "quant/weight.h"

static void expect(const weight *w, const float *want)
{
    imp_err e = {0};
    if (weight_check(w, &e))
        fail_msg("%s", e.message);
    uint64_t rows = w->n_expert * w->rows;
    float *got = malloc(rows * w->cols * sizeof *got);
    assert_int_equal(weight_decode(w, 0, rows, got, &e), IMP_OK);
    for (uint64_t i = 0; i < rows * w->cols; i++)
        if (got[i] != want[i])
            fail_msg("%s: element %d: wanted %g, got %g", w->name, (int)i, (double)want[i], (double)got[i]);
    memset(got, 0, rows * w->cols * sizeof *got);
    for (uint64_t r = rows; r-- > 0;) /* row by row, backwards */
        assert_int_equal(weight_decode(w, r, 1, got + r * w->cols, &e), IMP_OK);
    assert_memory_equal(got, want, rows * w->cols * sizeof *got);
    free(got);
}

#define B(x) ((const uint8_t *)(x))
#define ONE_EACH .gran_rows = 1, .gran_cols = 1
#define IN(slices_) .n_slices = 1, .slices = &slices_

static void plain_and_bias(void **state)
{
    (void)state;
    static const float data[6] = {1, 2, 3, 4, 5, 6};
    static const uint16_t bias[2] = {0x3F80, 0xC000}; /* bf16 1, -2 */
    const weight_slice d = {B(data), 2, 12, NULL}, b = {B(bias), 2, 2, NULL};
    const weight w = {.name = "plain", .format = QUANT_F32, .n_expert = 1, .rows = 2, .cols = 3, .n_parts = 2, .part = {
        {.role = PART_DATA, .type = QUANT_F32, ONE_EACH, IN(d)},
        {.role = PART_BIAS, .type = QUANT_BF16, ONE_EACH, IN(b)}}};
    expect(&w, data);
    float v[2] = {0};
    assert_true(weight_bias(&w, v));
    assert_true(v[0] == 1 && v[1] == -2);
    assert_ptr_equal(weight_row(&w, 1), data + 3);
    assert_null(weight_row(&w, 2));
    assert_null(weight_find(&w, PART_SCALE));
    weight none = w;
    none.n_parts = 1;
    assert_false(weight_bias(&none, v));
    imp_err e = {0};
    assert_int_equal(weight_decode(&w, 1, 2, v, &e), IMP_E_INTERNAL);
    assert_int_equal(weight_decode(&w, UINT64_MAX, 2, v, NULL), IMP_E_INTERNAL);
}

/* gpt-oss: 2 experts in one slice, E2M1 nibbles with an E8M0 scale for 32 columns. */
static void mxfp4_parts(void **state)
{
    (void)state;
    uint8_t data[2 * 1 * 32], scale[2 * 2] = {127, 128, 126, 127};
    float want[2 * 64];
    for (int i = 0; i < 64; i++) {
        data[i] = (uint8_t)(i * 37);
        want[2 * i] = quant_e2m1_to_f32(data[i] & 15);
        want[2 * i + 1] = quant_e2m1_to_f32(data[i] >> 4);
    }
    for (int i = 0; i < 128; i++)
        want[i] *= (float[]){1, 2, .5f, 1}[i / 32];
    const weight_slice d = {data, 2, 32, NULL}, s = {scale, 2, 2, NULL};
    const weight w = {.name = "mxfp4", .format = QUANT_E2M1, .n_expert = 2, .rows = 1, .cols = 64, .n_parts = 2,
                      .part = {
        {.role = PART_SCALE, .type = QUANT_E8M0, .gran_rows = 1, .gran_cols = 32, IN(s)},
        {.role = PART_DATA, .type = QUANT_E2M1, ONE_EACH, IN(d)}}};
    expect(&w, want);
}

/* NVFP4 as Model Optimizer (scale2 multiplies) and compressed-tensors (reciprocal) store it: 1x16 E4M3, one f32. */
static void nvfp4_parts(void **state)
{
    (void)state;
    uint8_t data[2 * 16], scale[2 * 2] = {0x38, 0x40, 0x30, 0xB8 /* 1, 2, .5, -1 */};
    float scale2 = 0.1f, inverse = 10, want[2][64];
    for (int i = 0; i < 64; i++) {
        if (i % 2 == 0)
            data[i / 2] = (uint8_t)(i * 29 + 3);
        float q = quant_e2m1_to_f32((uint8_t)(i % 2 ? data[i / 2] >> 4 : data[i / 2] & 15));
        float qs = q * (float[]){1, 2, .5f, -1}[i / 16];
        want[0][i] = qs * scale2;
        want[1][i] = qs / inverse;
    }
    const weight_slice d = {data, 2, 16, NULL}, s = {scale, 2, 2, NULL}, s2 = {B(&scale2), 1, 4, NULL};
    weight w = {.name = "nvfp4", .format = QUANT_E2M1, .n_expert = 1, .rows = 2, .cols = 32, .n_parts = 3, .part = {
        {.role = PART_DATA, .type = QUANT_E2M1, ONE_EACH, IN(d)},
        {.role = PART_SCALE2, .type = QUANT_F32, IN(s2)},
        {.role = PART_SCALE, .type = QUANT_F8_E4M3, .gran_rows = 1, .gran_cols = 16, IN(s)}}};
    expect(&w, want[0]);
    const weight_slice inv = {B(&inverse), 1, 4, NULL};
    w.part[1].slices = &inv;
    w.part[1].reciprocal = true;
    expect(&w, want[1]);
}

/* Block FP8 with ragged edges (2x4 blocks on 3x6), two experts in separate slices. */
static void block_scales(void **state)
{
    (void)state;
    static const uint8_t one[36] = {[0 ... 35] = 0x38};
    static const float scale[2][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}};
    static const float want[36] = {1, 1, 1, 1, 2, 2, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4,
                                   5, 5, 5, 5, 6, 6, 5, 5, 5, 5, 6, 6, 7, 7, 7, 7, 8, 8};
    const weight_slice d[2] = {{one, 3, 6, NULL}, {one + 18, 3, 6, NULL}};
    const weight_slice s[2] = {{B(scale[0]), 2, 8, NULL}, {B(scale[1]), 2, 8, NULL}};
    const weight w = {.name = "fp8", .format = QUANT_F8_E4M3, .n_expert = 2, .rows = 3, .cols = 6, .n_parts = 2,
                      .part = {
        {.role = PART_DATA, .type = QUANT_F8_E4M3, ONE_EACH, .n_slices = 2, .slices = d},
        {.role = PART_SCALE, .type = QUANT_F32, .gran_rows = 2, .gran_cols = 4, .n_slices = 2, .slices = s}}};
    expect(&w, want);
    assert_ptr_equal(weight_row(&w, 4), one + 24);
}

/* Fused QKV: slices of 1, 2 and 1 rows; first a scale a row, then one a slice (stride 0). */
static void row_scales_over_slices(void **state)
{
    (void)state;
    static const int8_t q[2] = {1, -2}, k[4] = {3, 4, 5, 6}, v[4] = {7, 8, 99, 99};
    static const uint16_t scale[4] = {0x3C00, 0x4000, 0x4200, 0x4400}; /* 1 2 3 4 */
    const weight_slice d[3] = {{B(q), 1, 2, NULL}, {B(k), 2, 2, NULL}, {B(v), 1, 2, NULL}};
    const weight_slice rows = {B(scale), 4, 2, NULL};
    const weight_slice each[3] = {{B(scale), 1, 0, NULL}, {B(scale + 2), 2, 0, NULL}, {B(scale + 1), 1, 0, NULL}};
    weight w = {.name = "qkv", .format = QUANT_I8, .n_expert = 1, .rows = 4, .cols = 2, .n_parts = 2, .part = {
        {.role = PART_DATA, .type = QUANT_I8, ONE_EACH, .n_slices = 3, .slices = d},
        {.role = PART_SCALE, .type = QUANT_F16, .gran_rows = 1, .gran_cols = 0, IN(rows)}}};
    expect(&w, (float[]){1, -2, 6, 8, 15, 18, 28, 32});
    w.part[1].n_slices = 3;
    w.part[1].slices = each;
    expect(&w, (float[]){1, -2, 9, 12, 15, 18, 14, 16});
}

/* W4A16: eight nibbles an int32, group scale for 8 columns, zero points packed along the rows or as plain bytes. */
static void int4_with_zero_points(void **state)
{
    (void)state;
    uint32_t data[2][2] = {{0x76543210, 0xFEDCBA98}, {0x88888888, 0x01234567}};
    float scale[2][2] = {{1, .5f}, {2, .25f}};
    uint32_t zero_rows[2] = {0x000000A8 /* rows 0, 1 of group 0: 0, 2 */, 0x00000078 /* of group 1: 0, -1 */};
    int8_t zero_plain[2][2] = {{0, 0}, {2, -1}};
    float want[32], symmetric[32];
    for (int i = 0; i < 32; i++) {
        int r = i / 16, g = i / 8 % 2;
        float q = (float)(int)(data[r][g] >> 4 * (i % 8) & 15) - 8;
        symmetric[i] = q * scale[r][g];
        want[i] = (q - (float)zero_plain[r][g]) * scale[r][g];
    }
    const weight_slice d = {B(data), 2, 8, NULL}, s = {B(scale), 2, 8, NULL};
    const weight_slice zr = {B(zero_rows), 2, 8, NULL}, zp = {B(zero_plain), 2, 2, NULL};
    weight w = {.name = "w4a16", .format = QUANT_I4, .n_expert = 1, .rows = 2, .cols = 16, .n_parts = 2, .part = {
        {.role = PART_DATA, .type = QUANT_I4, ONE_EACH, IN(d)},
        {.role = PART_SCALE, .type = QUANT_F32, .gran_rows = 1, .gran_cols = 8, IN(s)},
        {.role = PART_ZERO, .type = QUANT_I4, .packed_rows = true, .gran_rows = 1, .gran_cols = 8, IN(zr)}}};
    expect(&w, symmetric);
    w.n_parts = 3;
    expect(&w, want);
    w.part[2] = (weight_part){.role = PART_ZERO, .type = QUANT_I8, .gran_rows = 1, .gran_cols = 8, IN(zp)};
    expect(&w, want);
}

/* Stored [in][out], two experts; scales transposed as well. */
static void transposed(void **state)
{
    (void)state;
    static const float data[2][3][2] = {{{1, 4}, {2, 5}, {3, 6}}, {{7, 10}, {8, 11}, {9, 12}}};
    static const float scale[3][2] = {{1, 2}, {1, 2}, {10, 20}}; /* [column][row], the same for both experts */
    const weight_slice d[2] = {{B(data[0]), 2, 8, NULL}, {B(data[1]), 2, 8, NULL}};
    const weight_slice s[2] = {{B(scale), 2, 8, NULL}, {B(scale), 2, 8, NULL}};
    weight w = {.name = "transposed", .format = QUANT_F32, .n_expert = 2, .rows = 2, .cols = 3, .n_parts = 1, .part = {
        {.role = PART_DATA, .type = QUANT_F32, .transposed = true, ONE_EACH, .n_slices = 2, .slices = d},
        {.role = PART_SCALE, .type = QUANT_F32, .transposed = true, ONE_EACH, .n_slices = 2, .slices = s}}};
    expect(&w, (float[]){1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
    assert_null(weight_row(&w, 0));
    w.n_parts = 2;
    expect(&w, (float[]){1, 2, 30, 8, 10, 120, 7, 8, 90, 20, 22, 240});
}

/* A block format with one scale an expert and another for all (stride 0). */
static void blocks_with_tensor_scales(void **state)
{
    (void)state;
    blk_q8_0 data[2][2];
    float want[128];
    for (int i = 0; i < 4; i++) {
        data[i / 2][i % 2].d = 0x3C00;
        for (int j = 0; j < 32; j++) {
            data[i / 2][i % 2].qs[j] = (int8_t)(j - 16 + i);
            want[32 * i + j] = (float)(j - 16 + i) * (i < 2 ? 2 : 3) * .5f;
        }
    }
    float each[2] = {2, 3}, all = 2;
    const weight_slice d = {B(data), 2, 68, NULL}, s = {B(each), 2, 4, NULL}, s2 = {B(&all), 2, 0, NULL};
    const weight w = {.name = "q8", .format = QUANT_Q8_0, .n_expert = 2, .rows = 1, .cols = 64, .n_parts = 3, .part = {
        {.role = PART_DATA, .type = QUANT_Q8_0, ONE_EACH, IN(d)},
        {.role = PART_SCALE, .type = QUANT_F32, IN(s)},
        {.role = PART_SCALE2, .type = QUANT_F32, .reciprocal = true, IN(s2)}}};
    expect(&w, want);
}

/* ---- weight_check ---- */

static uint8_t bytes[512];

/* A sound weight (Q8_0, 2 x 32, a scale a row), which each case then breaks. */
typedef struct sample {
    weight_slice data[2], scale[1];
    file_map map;
    weight w;
} sample;

static void break_name(sample *s) { s->w.name = NULL; }
static void break_rows(sample *s) { s->w.rows = 3; }
static void break_no_rows(sample *s) { s->w.rows = 0; }
static void break_cols(sample *s) { s->w.cols = 33; }
static void break_experts(sample *s) { s->w.n_expert = 0; }
static void break_huge(sample *s) { s->w.rows = UINT64_MAX / 2; s->w.cols = 32 * 4; }
static void break_format(sample *s) { s->w.format = QUANT_Q4_0; }
static void break_type(sample *s) { s->w.part[0].type = (quant_id)4; }
static void break_stride(sample *s) { s->data[0].stride = 33; }
static void break_overflow(sample *s) { s->w.rows = s->data[0].rows = 1 << 20, s->data[0].stride = UINT64_MAX / 2; }
static void break_null(sample *s) { s->data[0].data = NULL; }
static void break_empty(sample *s) { s->w.part[0].n_slices = 0; }
static void break_map(sample *s) { s->map.size = 67; }
static void break_map_before(sample *s) { s->map.data = bytes + 1; }
static void break_transposed(sample *s) { s->w.part[0].transposed = true; }
static void break_twice(sample *s) { s->w.part[1].role = PART_DATA; }
static void break_no_data(sample *s) { s->w.part[0].role = PART_ZERO; }
static void break_parts(sample *s) { s->w.n_parts = WEIGHT_MAX_PARTS + 1; }
static void break_role(sample *s) { s->w.part[1].role = (weight_role)9; }
static void break_scale_rows(sample *s) { s->scale[0].rows = 1; }
static void break_scale_gran(sample *s) { s->w.part[1].gran_rows = 2; }
static void break_scale_cols(sample *s) { s->w.part[1].gran_cols = 1; }
static void break_scale_type(sample *s) { s->w.part[1].type = QUANT_Q8_0; }
static void break_packed(sample *s) { s->w.part[1].packed_rows = true; }

static void check_refuses(void **state)
{
    (void)state;
    static const struct { void (*fn)(sample *); imp_status status; const char *says; } CASES[] = {
        {break_name, IMP_E_INTERNAL, "without a name"}, {break_rows, IMP_E_MODEL, "wanted 3 rows, got 2"},
        {break_no_rows, IMP_E_MODEL, "no possible size"}, {break_cols, IMP_E_MODEL, "no multiple of the 32"},
        {break_experts, IMP_E_MODEL, "no possible size"}, {break_huge, IMP_E_MODEL, "no possible size"},
        {break_format, IMP_E_INTERNAL, "not described as Q8_0"}, {break_type, IMP_E_UNSUPPORTED, "type 4"},
        {break_stride, IMP_E_MODEL, "stride of 33"}, {break_overflow, IMP_E_MODEL, "do not fit"},
        {break_null, IMP_E_MODEL, "empty"}, {break_empty, IMP_E_MODEL, "empty"},
        {break_map, IMP_E_MODEL, "end of the file"}, {break_map_before, IMP_E_MODEL, "end of the file"},
        {break_transposed, IMP_E_UNSUPPORTED, "transposed"},
        {break_twice, IMP_E_MODEL, "more than one data"}, {break_no_data, IMP_E_INTERNAL, "without data"},
        {break_parts, IMP_E_INTERNAL, "7 parts"}, {break_role, IMP_E_INTERNAL, "role 9"},
        {break_scale_rows, IMP_E_MODEL, "scale: wanted 2 rows, got 1"},
        {break_scale_gran, IMP_E_MODEL, "wanted 1 rows, got 2"},
        {break_scale_cols, IMP_E_MODEL, "2 x 32 elements of F32"},
        {break_scale_type, IMP_E_UNSUPPORTED, "scale has type Q8_0"},
        {break_packed, IMP_E_UNSUPPORTED, "scale has type F32"},
    };
    for (size_t i = 0; i <= sizeof CASES / sizeof *CASES; i++) {
        sample s = {.data = {{bytes, 2, 34, &s.map}}, .scale = {{bytes + 100, 2, 4, &s.map}}};
        s.map = (file_map){.data = bytes, .size = 108};
        s.w = (weight){.name = "w", .format = QUANT_Q8_0, .n_expert = 1, .rows = 2, .cols = 32, .n_parts = 2, .part = {
            {.role = PART_DATA, .type = QUANT_Q8_0, ONE_EACH, .n_slices = 1, .slices = s.data},
            {.role = PART_SCALE, .type = QUANT_F32, .gran_rows = 1, .n_slices = 1, .slices = s.scale}}};
        imp_err e = {0};
        if (i == sizeof CASES / sizeof *CASES) {
            assert_int_equal(weight_check(&s.w, &e), IMP_OK); /* unbroken */
            break;
        }
        CASES[i].fn(&s);
        imp_status got = weight_check(&s.w, &e);
        if (got != CASES[i].status || !strstr(e.message, CASES[i].says))
            fail_msg("case %zu: wanted %d '%s', got %d '%s'", i, CASES[i].status, CASES[i].says, got, e.message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_and_bias), cmocka_unit_test(mxfp4_parts), cmocka_unit_test(nvfp4_parts),
        cmocka_unit_test(block_scales), cmocka_unit_test(row_scales_over_slices),
        cmocka_unit_test(int4_with_zero_points),
        cmocka_unit_test(transposed), cmocka_unit_test(blocks_with_tensor_scales), cmocka_unit_test(check_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

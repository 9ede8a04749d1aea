/* What prompts in FP8 decide without a GPU: a row's power of two, where rows of gate and up stand in a copy, and which
 * products take part. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "backend/cuda/kernels/params.h"

static int exponent(float m)
{
    uint32_t bits;
    memcpy(&bits, &m, 4);
    return fp8_exponent(bits);
}

static void test_the_largest_value_fits_and_no_smaller_power_would_do(void **state)
{
    (void)state;
    assert_int_equal(exponent(448.0f), 0);
    assert_int_equal(exponent(nextafterf(448.0f, 1e9f)), 1);
    assert_int_equal(exponent(1.0f), -8);
    assert_int_equal(exponent(0.0f), -119);
    assert_int_equal(exponent(INFINITY), 120);
    for (uint32_t bits = 1; bits < 0x7F800000u; bits += 9973) {
        float m;
        memcpy(&m, &bits, 4);
        int x = fp8_exponent(bits);
        assert_true((double)m <= ldexp(448, x));
        assert_true(x == -119 || (double)m > ldexp(448, x - 1));
        assert_true(x >= -119 && x <= 120); /* both 2^x and 2^-x are normal floats */
    }
}

static void test_gate_and_up_take_turns_of_eight(void **state)
{
    (void)state;
    enum { FF = 512 };
    uint8_t seen[2 * FF] = {0};
    for (uint32_t r = 0; r < FF; r++)
        for (uint32_t up = 0; up < 2; up++) {
            uint32_t row = FP8_PAIR_ROW(r, up);
            assert_true(row < 2 * FF);
            assert_int_equal(seen[row]++, 0);
            assert_int_equal(row / 8 % 2, up);
            assert_int_equal(row / 16 * 8 + row % 8, ACT_POS(r)); /* the column that it makes, as f16 rows have it */
        }
}

static weight *matrix(uint64_t rows)
{
    static weight w[8];
    static int n;
    w[n] = (weight){.name = "w", .n_expert = 1, .rows = rows, .cols = 64, .format = QUANT_F32};
    return &w[n++];
}

static int32_t add(plan *p, plan_op_kind k, plan_reg in, weight *w, plan_dim d, int32_t layer, uint32_t width)
{
    plan_op o = plan_op_init(k, layer, "x");
    o.in[0] = in;
    if (w)
        o.weight[0] = plan_add_weight(p, w);
    o.out[0] = plan_add_reg(p, REG_ACT, d, width);
    plan_add_op(p, &o);
    return p->n_op - 1;
}

static void test_what_chooses_or_decays_stays_exact(void **state)
{
    (void)state;
    plan p;
    plan_init(&p, "test");
    plan_reg x = plan_add_reg(&p, REG_WIDE, DIM_T, 64), r = plan_add_reg(&p, REG_WIDE, DIM_R, 64);
    int32_t large = add(&p, OP_LINEAR, x, matrix(128), DIM_T, 0, 128),
            small = add(&p, OP_LINEAR, x, matrix(127), DIM_T, 0, 127),
            router = add(&p, OP_LINEAR, x, matrix(256), DIM_T, 0, 256),
            decay = add(&p, OP_LINEAR, x, matrix(256), DIM_T, 0, 256),
            head = add(&p, OP_LINEAR, r, matrix(256), DIM_R, -1, 256),
            last = add(&p, OP_LINEAR, r, matrix(256), DIM_R, 3, 256);
    int32_t route = add(&p, OP_ROUTE, p.op[router].out[0], NULL, DIM_T, 0, 2);
    add(&p, OP_DECAY, p.op[decay].out[0], NULL, DIM_T, 0, 256);
    assert_true(plan_op_prompt_fp8(&p, large));
    assert_false(plan_op_prompt_fp8(&p, small));
    assert_false(plan_op_prompt_fp8(&p, router));
    assert_false(plan_op_prompt_fp8(&p, decay));
    assert_false(plan_op_prompt_fp8(&p, head));
    assert_false(plan_op_prompt_fp8(&p, last));
    assert_false(plan_op_prompt_fp8(&p, route));
    plan_free(&p);
}

static void test_the_cpu_refuses_by_name(void **state)
{
    (void)state;
    backend *b = NULL;
    imp_err e = {0};
    backend_options o = {.cpu = "auto", .prefill_fp8 = true};
    assert_int_equal(backend_cpu.open(&o, &b, &e), IMP_E_UNSUPPORTED);
    assert_null(b);
    assert_non_null(strstr(e.message, "prefill fp8"));
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(test_the_largest_value_fits_and_no_smaller_power_would_do),
        cmocka_unit_test(test_gate_and_up_take_turns_of_eight),
        cmocka_unit_test(test_what_chooses_or_decays_stays_exact),
        cmocka_unit_test(test_the_cpu_refuses_by_name),
    };
    return cmocka_run_group_tests(t, NULL, NULL);
}

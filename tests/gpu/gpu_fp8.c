/* Prompts in FP8 against the same rounding on the CPU: both factors to e4m3 with a row's power of two, exact sums in
 * double. What is left is Hopper's own sums, which keep about 14 bits within 128 columns. Every tile by itself, odd
 * shapes, biases, residuals, stacked matrices, gate and up, norms; and "same bytes": whatever the tile and the
 * neighbours. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu_test.h"

enum { VOC = 300 };
#define BOUND 1e-3  /* of the emulation; 4e-4 is the most that was seen */
#define PAIR 1.5e-2 /* where an f32 or f16 step before the rounding to e4m3 may fall to the other side */
#define FAR 1e-1    /* of the products without the rounding: what it costs */

static int n_run, n_bad;

static void verdict(jw *o, bool ok, const char *what, double err, double bound)
{
    n_run++;
    n_bad += !ok;
    printf("%s %s: %.3e, bound %.1e\n", ok ? "ok  " : "FAIL", what, err, bound);
    jw_object(o);
    jw_kstr(o, "test", what);
    jw_kdouble(o, "error", err);
    jw_kdouble(o, "bound", bound);
    jw_kbool(o, "ok", ok);
    jw_end_object(o);
}

static double e4m3(double v)
{
    double a = fabs(v), step = a < 0x1p-6 ? 0x1p-9 : ldexp(1, ilogb(a) - 3), r = rint(a / step) * step;
    return copysign(r > 448 ? 448 : r, v);
}

/* v[n] as its e4m3 neighbours */
static void round_row(double *v, uint32_t n)
{
    float m = 0;
    uint32_t bits;
    for (uint32_t i = 0; i < n; i++)
        m = fmaxf(m, fabsf((float)v[i]));
    memcpy(&bits, &m, 4);
    int x = fp8_exponent(bits);
    for (uint32_t i = 0; i < n; i++)
        v[i] = ldexp(e4m3(ldexp(v[i], -x)), x);
}

/* y[n][rows] = x[n][cols] w[rows][cols]^T + b; fp8: both rounded */
static void product(double *y, const double *x, uint32_t n, weight *w, bool fp8)
{
    uint32_t rows = (uint32_t)w->rows, cols = (uint32_t)w->cols;
    float *wf = malloc((size_t)rows * cols * 4), *b = calloc(rows, 4);
    double *wd = malloc((size_t)cols * 8), *xd = malloc((size_t)n * cols * 8);
    imp_err e;
    if (weight_decode(w, 0, rows, wf, &e) != IMP_OK)
        abort();
    weight_bias(w, b);
    memcpy(xd, x, (size_t)n * cols * 8);
    for (uint32_t t = 0; t < n && fp8; t++)
        for (uint32_t k = 0; k < cols; k += 128)
            round_row(xd + (size_t)t * cols + k, cols - k < 128 ? cols - k : 128);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t k = 0; k < cols; k++)
            wd[k] = (double)quant_f16_to_f32(quant_f32_to_f16(wf[(size_t)r * cols + k])); /* what the tiles give */
        if (fp8)
            round_row(wd, cols);
        for (uint32_t t = 0; t < n; t++) {
            double s = 0;
            for (uint32_t k = 0; k < cols; k++)
                s += wd[k] * xd[(size_t)t * cols + k];
            y[(size_t)t * rows + r] = s + (double)b[r];
        }
    }
    free(wf), free(b), free(wd), free(xd);
}

/* ---- one plan a form ---------------------------------------------------------------------------------------- */
/* GATED: the product after the activation takes e4m3 rows from it; MIXED: that product is too small for FP8 and takes
 * f16 rows */
typedef enum form { ONE, NORMED, THREE, RESIDUAL, GATED, MIXED } form;
static const char *const form_name[] = {"one", "after a norm", "three", "residual", "gated", "gated, then f16"};

static plan_reg op1(plan *p, plan_op *o, plan_type t, plan_dim d, uint32_t width)
{
    plan_reg r = o->out[0] = plan_add_reg(p, t, d, width);
    plan_add_op(p, o);
    return r;
}
static plan_reg linear(plan *p, plan_reg x, weight *w)
{
    plan_op o = plan_op_init(OP_LINEAR, 0, w->name);
    o.in[0] = x;
    o.weight[0] = plan_add_weight(p, w);
    return op1(p, &o, REG_ACT, DIM_T, (uint32_t)w->rows);
}

typedef struct rig_case {
    plan p;
    weight *w[4], *norm;
    double *x, *want, *exact; /* [VOC][cols], [VOC][width] */
    uint32_t width;
} rig_case;

static void reference(rig_case *c, form f, uint32_t cols, double *y, bool fp8)
{
    uint32_t rows = (uint32_t)c->w[0]->rows, width = c->width;
    double *x = malloc((size_t)VOC * cols * 8), *a = malloc((size_t)VOC * width * 8 + (size_t)VOC * rows * 8),
           *b = malloc((size_t)VOC * rows * 8);
    memcpy(x, c->x, (size_t)VOC * cols * 8);
    if (f == NORMED)
        for (uint32_t t = 0; t < VOC; t++) {
            double s = 0;
            for (uint32_t k = 0; k < cols; k++)
                s += x[t * cols + k] * x[t * cols + k];
            for (uint32_t k = 0; k < cols; k++)
                x[t * cols + k] *= (double)((const float *)c->norm->part[0].slices[0].data)[k] / sqrt(s / cols + 1e-6);
        }
    if (f == THREE) {
        uint32_t at = 0;
        for (int i = 0; i < 3; at += (uint32_t)c->w[i++]->rows) {
            product(a, x, VOC, c->w[i], fp8);
            for (uint32_t t = 0; t < VOC; t++)
                memcpy(y + (size_t)t * width + at, a + (size_t)t * c->w[i]->rows, c->w[i]->rows * 8);
        }
    } else if (f >= GATED) {
        product(a, x, VOC, c->w[0], fp8);
        product(b, x, VOC, c->w[1], fp8);
        for (uint32_t i = 0; i < VOC * rows; i++) {
            a[i] = a[i] / (1 + exp(-a[i])) * b[i];
        }
        product(y, a, VOC, c->w[2], fp8 && f == GATED);
    } else {
        product(y, x, VOC, c->w[0], fp8);
        for (uint32_t i = 0; f == RESIDUAL && i < VOC * width; i++)
            y[i] += x[i];
    }
    free(x), free(a), free(b);
}

static imp_status make(rig_case *c, form f, quant_id fmt, uint32_t rows, uint32_t cols, bool bias, imp_err *e)
{
    plan *p = &c->p;
    plan_init(p, "fp8");
    p->n_hidden = cols, p->n_layer = 1;
    weight *te = make_weight("embd", QUANT_F32, 1, VOC, cols, 0);
    float *tv = (float *)(uintptr_t)te->part[0].slices[0].data;
    c->x = malloc((size_t)VOC * cols * 8);
    for (uint32_t i = 0; i < VOC * cols; i++) { /* one value in a while is much larger: e4m3 has the range for it */
        tv[i] = quant_f16_to_f32(quant_f32_to_f16(tv[i] * (rnd() % 500 ? 50.0f : 2000.0f)));
        if (i / cols == 17)
            tv[i] = 0; /* a row of zeros */
        c->x[i] = (double)tv[i];
    }
    plan_op em = plan_op_init(OP_EMBED, -1, "embd"), ga = plan_op_init(OP_GATHER, -1, "g");
    em.weight[0] = plan_add_weight(p, te);
    em.attr.scale = 1;
    plan_reg x = op1(p, &em, REG_WIDE, DIM_T, cols), y = x;
    if (f == NORMED) {
        plan_op o = plan_op_init(OP_NORM, 0, "norm");
        c->norm = make_vector("norm", cols, 1, 0.1f);
        o.in[0] = x;
        o.weight[0] = plan_add_weight(p, c->norm);
        o.attr.norm.eps = 1e-6f;
        x = op1(p, &o, REG_ACT, DIM_T, cols);
    }
    uint32_t last = f == GATED ? 384 : f == MIXED ? 96 : rows;
    c->w[0] = make_weight("w0", fmt, 1, rows, cols, 0);
    c->w[1] = make_weight("w1", fmt, 1, f == THREE ? 130 : rows, cols, 0);
    c->w[2] = make_weight("w2", f >= GATED ? QUANT_F16 : fmt, 1, f >= GATED ? last : 256, f >= GATED ? rows : cols, 0);
    if (bias)
        for (int i = 0; i < 3; i++)
            add_bias(c->w[i]);
    c->width = last;
    y = linear(p, x, c->w[0]);
    if (f == THREE) {
        plan_reg b[2] = {linear(p, x, c->w[1]), linear(p, x, c->w[2])};
        for (int i = 0; i < 2; i++) {
            plan_op o = plan_op_init(OP_CONCAT, 0, i ? "concat2" : "concat1");
            o.in[0] = y, o.in[1] = b[i];
            o.attr.concat.groups = 1;
            c->width += (uint32_t)c->w[1 + i]->rows;
            y = op1(p, &o, REG_WIDE, DIM_T, c->width);
        }
    }
    if (f == RESIDUAL) {
        plan_op o = plan_op_init(OP_ADD, 0, "add");
        o.in[0] = x, o.in[1] = y;
        o.attr.scale = 1;
        y = op1(p, &o, REG_WIDE, DIM_T, rows);
    }
    if (f >= GATED) {
        plan_op o = plan_op_init(OP_GLU, 0, "glu");
        o.in[0] = y, o.in[1] = linear(p, x, c->w[1]);
        o.attr.act.act = ACT_SILU;
        y = linear(p, op1(p, &o, REG_ACT, DIM_T, rows), c->w[2]);
    }
    ga.in[0] = y;
    p->logits = op1(p, &ga, REG_WIDE, DIM_R, c->width);
    p->n_vocab = c->width;
    c->want = malloc((size_t)VOC * c->width * 8), c->exact = malloc((size_t)VOC * c->width * 8);
    reference(c, f, cols, c->want, true);
    reference(c, f, cols, c->exact, false);
    return plan_finish(p, e);
}

static void test(jw *o, form f, quant_id fmt, uint32_t rows, uint32_t cols, bool bias, bool every_tile)
{
    static const int32_t counts[] = {300, 1, 3, 64, 65, 128, 129, 257};
    char what[1300];
    imp_err e = {0};
    rig_case c = {0};
    rig r = {0};
    imp_status s = make(&c, f, fmt, rows, cols, bias, &e);
    uint32_t width = c.width;
    float *all = malloc((size_t)VOC * width * 4), *y = malloc((size_t)VOC * width * 4);
    int32_t ids[VOC];
    for (int i = 0; i < VOC; i++)
        ids[i] = i;
    rig_fp8 = true;
    if (s == IMP_OK)
        s = rig_open(&r, &backend_cuda, NULL, false, &c.p, 64, 16, (plan_limits){VOC, VOC, 2}, 1, &e);
    rig_fp8 = false;
    for (int tile = 0; s == IMP_OK && (tile == 0 || (every_tile && exec_fp8_tile_name(r.x, tile - 1))); tile++) {
        r.b->fp8_tile = tile;
        snprintf(what, sizeof what, "fp8 %s %s %ux%u%s tile %s", form_name[f], quant_get(fmt)->name, rows, cols,
                 bias ? " bias" : "", tile ? exec_fp8_tile_name(r.x, tile - 1) : "chosen");
        size_t name = strlen(what);
        bool same = true;
        for (size_t k = 0; k < sizeof counts / sizeof *counts && s == IMP_OK; k++) {
            int32_t n = counts[k], from = n == 1 ? 141 : 0; /* a row of the middle, alone */
            seq_step st = {.n = n, .ids = ids + from, .all_rows = true};
            memset(y, 0xFF, (size_t)n * width * 4);
            s = run_step(&r, &st, 1, y, NULL, &e);
            if (s != IMP_OK)
                break;
            if (tile == 0 && k == 0) {
                double err = rel_l2(y, c.want, (uint64_t)n * width), bound = f == GATED ? PAIR : BOUND,
                       far = rel_l2(y, c.exact, (uint64_t)n * width);
                snprintf(what + name, sizeof what - name, ", 300 rows against the emulation");
                verdict(o, err < bound, what, err, bound);
                snprintf(what + name, sizeof what - name, ", 300 rows against the exact products");
                verdict(o, far < FAR, what, far, FAR);
                memcpy(all, y, (size_t)VOC * width * 4);
            }
            same = same && memcmp(y, all + (size_t)from * width, (size_t)n * width * 4) == 0;
        }
        snprintf(what + name, sizeof what - name, ": same bytes, 1 to 300 rows");
        verdict(o, same && s == IMP_OK, what, !same, 0);
    }
    if (s != IMP_OK) {
        snprintf(what, sizeof what, "fp8 %s %s %ux%u: %s", form_name[f], quant_get(fmt)->name, rows, cols, e.message);
        verdict(o, false, what, 1, 0);
    }
    rig_close(&r);
    plan_free(&c.p);
    free(all), free(y), free(c.x), free(c.want), free(c.exact);
}

int run_fp8(jw *o, bool tiny, int *n_tests)
{
    n_run = n_bad = 0;
    if (tiny) {
        test(o, ONE, QUANT_Q8_0, 130, 512, true, true);
        test(o, GATED, QUANT_Q8_0, 256, 160, false, false);
    } else {
        test(o, ONE, QUANT_F16, 256, 320, false, true);
        test(o, ONE, QUANT_Q8_0, 1000, 1024, true, true);
        test(o, ONE, QUANT_F8_E4M3, 257, 2560, false, false);
        test(o, ONE, QUANT_BF16, 143, 80, false, false);
        test(o, NORMED, QUANT_Q8_0, 512, 1280, false, false);
        test(o, THREE, QUANT_Q8_0, 640, 512, true, true);
        test(o, RESIDUAL, QUANT_F16, 1280, 1280, true, true);
        test(o, RESIDUAL, QUANT_Q8_0, 160, 160, false, false);
        test(o, GATED, QUANT_Q8_0, 512, 320, true, true);
        test(o, GATED, QUANT_F16, 768, 1024, false, true);
        test(o, GATED, QUANT_F16, 320, 96, false, false);
        test(o, MIXED, QUANT_Q8_0, 512, 512, false, true);
        bool no = cuda_refuses((backend_options){.prefill_fp8 = true, .deterministic = true});
        verdict(o, no, "fp8: refused together with deterministic", !no, 0);
    }
    *n_tests += n_run;
    return n_bad;
}

/* ---- timing: two layers of an 8B model, every tile ---------------------------------------------------------- */
int run_fp8_bench(void)
{
    static const shape s = {.name = "two layers of 8B", .n_layer = 2, .hidden = 4096, .n_head = 32, .n_kv_head = 8,
                            .d = 128, .ff = 12288, .vocab = 4096, .qk_norm = true, .pool = 64 << 20, .fmt = QUANT_Q8_0};
    static const struct {
        const char *role;
        double params;
    } roles[] = {{"q:", 6144.0 * 4096}, {"o:", 4096.0 * 4096}, {"gate:", 24576.0 * 4096}, {"down:", 12288.0 * 4096}};
    static const int32_t prompts[] = {8192, 2048, 512};
    imp_err e = {0};
    model m;
    rig r = {0};
    int32_t *ids = malloc(8192 * 4);
    imp_status st = build_model(&s, &m, &e);
    rig_fp8 = true;
    if (st == IMP_OK)
        st = rig_open(&r, &backend_cuda, NULL, false, &m.p, 64, 160, (plan_limits){8192, 8, 8}, 1, &e);
    rig_fp8 = false;
    for (int32_t i = 0; i < 8192; i++)
        ids[i] = (int32_t)(rnd() % s.vocab);
    for (size_t k = 0; k < sizeof prompts / sizeof *prompts && st == IMP_OK; k++)
        for (int tile = 0; st == IMP_OK && (tile == 0 || exec_fp8_tile_name(r.x, tile - 1)); tile++) {
            exec_profile p = {0};
            seq_step q = {.n = prompts[k], .ids = ids};
            r.b->fp8_tile = tile;
            st = run_step(&r, &q, 1, NULL, NULL, &e);
            if (st == IMP_OK)
                st = exec_run_profile(r.x, 10, &p, &e);
            printf("fp8 bench %5d tokens, tile %-10s", prompts[k], tile ? exec_fp8_tile_name(r.x, tile - 1) : "chosen");
            for (int32_t i = 0; i < p.n && st == IMP_OK; i++)
                for (size_t j = 0; j < sizeof roles / sizeof *roles; j++)
                    if (strncmp(p.row[i].name, roles[j].role, strlen(roles[j].role)) == 0)
                        printf("  %s %7.1f us %6.0f TFLOP/s", roles[j].role, p.row[i].us / p.row[i].count,
                               2 * roles[j].params * prompts[k] / (p.row[i].us / p.row[i].count) * 1e-6);
            for (int32_t i = 0; i < p.n && st == IMP_OK && tile == 0; i++)
                printf("\n    %-36s x%-3d %9.2f us each", p.row[i].name, p.row[i].count, p.row[i].us / p.row[i].count);
            printf("\n");
        }
    if (st != IMP_OK)
        printf("fp8 bench: %s\n", e.message);
    rig_close(&r);
    plan_free(&m.p);
    free(ids);
    return st != IMP_OK;
}

#include "quant/fit.h"

#include "quant/fit_vec.h"
#include "quant/quant_impl.h"

/* Nearest whole number in [lo, hi]: adding 1.5 * 2^23 leaves no fraction bits. */
static inline v4 v_level(v4 t, v4 lo, v4 hi)
{
    const v4 magic = {12582912.0f, 12582912.0f, 12582912.0f, 12582912.0f};
    t = v_pick(t < lo, lo, t);
    t = v_pick(t > hi, hi, t);
    return (t + magic) - magic;
}

void fit_load(fit_block *b, const float *x, const float *weight, size_t n, float limit)
{
    float max_w = 0;
    for (size_t i = 0; i < n; i++) {
        float v = quant_finite(x[i]);
        b->x[i] = v > limit ? limit : v < -limit ? -limit : v;
        if (weight && quant_finite(weight[i]) > max_w)
            max_w = weight[i];
    }
    for (size_t i = 0; i < n; i++) {
        float w = max_w > 0 ? quant_finite(weight[i]) / max_w : 1;
        b->w[i] = w > 1e-5f ? w : 1e-5f; /* what nobody cares about is still not thrown away */
    }
}

size_t fit_largest(const float *x, size_t n)
{
    size_t best = 0;
    float max = 0;
    for (size_t i = 0; i < n; i++) {
        float a = x[i] < 0 ? -x[i] : x[i];
        if (a > max)
            max = a, best = i;
    }
    return best;
}

/* Sums for levels q = round((x - m) * id), from which least squares gives the scale. y is x - m0. */
typedef struct sums {
    float q, qq, yq;
} sums;

static sums sums_of(const float *x, const float *w, size_t n, float id, float m, float m0, float lo, float hi)
{
    v4 sq = {0}, sqq = {0}, syq = {0};
    const v4 vid = v_splat(id), vm = v_splat(m), vm0 = v_splat(m0), vlo = v_splat(lo), vhi = v_splat(hi);
    for (size_t i = 0; i < n; i += 4) {
        v4 vx = v_load(x + i), q = v_level((vx - vm) * vid, vlo, vhi), wq = v_load(w + i) * q;
        sq += wq;
        sqq += wq * q;
        syq += wq * (vx - vm0);
    }
    return (sums){v_sum(sq), v_sum(sqq), v_sum(syq)};
}

/* Keeps the scale whose levels remove most of the sum of w * x^2. */
static void try_scale(const float *x, const float *w, size_t n, const fit_levels *l, float id, float *best, float *d)
{
    sums s = sums_of(x, w, n, id, 0, 0, l->lo, l->hi);
    if (s.qq > 0 && s.yq * s.yq > *best * s.qq) {
        *best = s.yq * s.yq / s.qq;
        *d = s.yq / s.qq;
    }
}

float fit_scale(const float *x, const float *w, size_t n, const fit_levels *l)
{
    float max = x[fit_largest(x, n)], best = 0, d = 0;
    float unit = fit_inverse(max);
    if (unit == 0)
        return 0;
    for (int i = -l->n_in; i <= l->n_out; i++) {
        try_scale(x, w, n, l, (l->lo - l->step * (float)i) * unit, &best, &d);
        try_scale(x, w, n, l, (l->hi + l->step * (float)i) * unit, &best, &d);
    }
    for (int i = 0; i < 2; i++) /* the best scale's own levels may suggest a still better one */
        try_scale(x, w, n, l, fit_inverse(d), &best, &d);
    return d;
}

/* A line fit in the making: y = x - m0, so that a common offset does not eat the precision of the sums. */
typedef struct line_fit {
    const float *x, *w;
    size_t n;
    const fit_levels *l;
    float m0, sw, sy; /* sums of w and w * y */
    int m_not_above_0;
    float best, d, m;
} line_fit;

static void try_line(line_fit *f, float id, float m)
{
    sums s = sums_of(f->x, f->w, f->n, id, m, f->m0, f->l->lo, f->l->hi);
    if (!(s.qq > 0))
        return;
    float det = f->sw * s.qq - s.q * s.q, d = s.yq / s.qq, my = 0;
    if (det > 1e-6f * f->sw * s.qq) { /* else all levels are (nearly) one: a slope through m0 is all there is to find */
        d = (f->sw * s.yq - f->sy * s.q) / det;
        my = (s.qq * f->sy - s.q * s.yq) / det;
    }
    float gain = d * s.yq + my * f->sy;
    if (f->m_not_above_0 && my + f->m0 > 0) {
        my = -f->m0;
        float r = s.yq - my * s.q;
        d = r / s.qq;
        gain = r * d + my * (2 * f->sy - my * f->sw);
    }
    if (d > 0 && gain > f->best) {
        f->best = gain;
        f->d = d;
        f->m = my + f->m0;
    }
}

float fit_scale_min(const float *x, const float *w, size_t n, const fit_levels *l, int m_not_above_0, float *m)
{
    float min = x[0], max = x[0];
    for (size_t i = 1; i < n; i++) {
        min = x[i] < min ? x[i] : min;
        max = x[i] > max ? x[i] : max;
    }
    if (m_not_above_0 && min > 0)
        min = 0;
    *m = min;
    float unit = fit_inverse(max - min);
    if (unit == 0)
        return 0;
    line_fit f = {.x = x, .w = w, .n = n, .l = l, .m0 = min, .m_not_above_0 = m_not_above_0, .m = min};
    for (size_t i = 0; i < n; i++) {
        f.sw += w[i];
        f.sy += w[i] * (x[i] - min);
    }
    f.best = -1; /* any line is better than none */
    for (int i = -l->n_in; i <= l->n_out; i++)
        try_line(&f, (l->hi + l->step * (float)i) * unit, min);
    for (int i = 0; i < 3; i++)
        try_line(&f, fit_inverse(f.d), f.m);
    *m = f.m;
    return f.d;
}

float fit_error(const float *x, const float *w, size_t n, float d, float m, float lo, float hi)
{
    v4 sum = {0};
    const v4 vid = v_splat(fit_inverse(d)), vd = v_splat(d), vm = v_splat(m), vlo = v_splat(lo), vhi = v_splat(hi);
    for (size_t i = 0; i < n; i += 4) {
        v4 vx = v_load(x + i), e = vx - (v_level((vx - vm) * vid, vlo, vhi) * vd + vm);
        sum += v_load(w + i) * e * e;
    }
    return v_sum(sum);
}

void fit_quantise(const float *x, size_t n, float d, float m, float lo, float hi, unsigned char *q)
{
    const v4 vid = v_splat(fit_inverse(d)), vm = v_splat(m), vlo = v_splat(lo), vhi = v_splat(hi);
    for (size_t i = 0; i < n; i += 4) {
        v4 t = v_level((v_load(x + i) - vm) * vid, vlo, vhi) - vlo;
        for (int k = 0; k < 4; k++)
            q[i + k] = (unsigned char)t[k];
    }
}

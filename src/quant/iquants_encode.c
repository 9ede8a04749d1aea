/* IQ4_NL and IQ4_XS, encoding: scales by trying, as in fit.c, but levels are the sixteen values of the code list. */
#include "quant/fit.h"
#include "quant/fit_vec.h"
#include "quant/iquants.h"

enum { GROUP = 32, N_TRY = 9, N_GROUP = 8, ROUNDS = 3 };
static const float STEP = 2.0f; /* of the code list, between two tries */

/* Code list values nearest to t: the lowest one plus every gap whose middle lies below t. */
static inline v4 code_value(v4 t)
{
    v4 v = v_splat(iq4_value[0]);
    for (int k = 0; k < 15; k++) {
        v4i above = t > v_splat(0.5f * (float)(iq4_value[k] + iq4_value[k + 1]));
        v += v_pick(above, v_splat((float)(iq4_value[k + 1] - iq4_value[k])), v_splat(0));
    }
    return v;
}

static unsigned code_index(float t)
{
    unsigned i = 0;
    for (int k = 0; k < 15; k++)
        i += t > 0.5f * (float)(iq4_value[k] + iq4_value[k + 1]);
    return i;
}

static void try_scale(const float *x, const float *w, float id, float *best, float *d)
{
    v4 sxv = {0}, svv = {0};
    for (int i = 0; i < GROUP; i += 4) {
        v4 vx = v_load(x + i), v = code_value(vx * v_splat(id)), wv = v_load(w + i) * v;
        sxv += wv * vx;
        svv += wv * v;
    }
    float xv = v_sum(sxv), vv = v_sum(svv);
    if (vv > 0 && xv * xv > *best * vv) {
        *best = xv * xv / vv;
        *d = xv / vv;
    }
}

static float code_scale(const float *x, const float *w)
{
    float unit = fit_inverse(x[fit_largest(x, GROUP)]), best = 0, d = 0;
    if (unit == 0)
        return 0;
    for (int i = -N_TRY; i <= N_TRY; i++) {
        try_scale(x, w, (iq4_value[0] + STEP * (float)i) * unit, &best, &d);
        try_scale(x, w, (iq4_value[15] + STEP * (float)i) * unit, &best, &d);
    }
    for (int i = 0; i < 2; i++)
        try_scale(x, w, fit_inverse(d), &best, &d);
    return d;
}

static float code_error(const float *x, const float *w, float d)
{
    v4 sum = {0};
    for (int i = 0; i < GROUP; i += 4) {
        v4 vx = v_load(x + i), e = vx - code_value(vx * v_splat(fit_inverse(d))) * v_splat(d);
        sum += v_load(w + i) * e * e;
    }
    return v_sum(sum);
}

static void code_pack(const float *x, float d, uint8_t qs[16])
{
    float id = fit_inverse(d);
    for (int j = 0; j < 16; j++)
        qs[j] = (uint8_t)(code_index(x[j] * id) | code_index(x[j + 16] * id) << 4);
}

void encode_iq4_nl(const float *src, void *dst, size_t n, const float *weight)
{
    uint8_t *out = dst;
    for (size_t at = 0; at < n; at += GROUP) {
        blk_iq4_nl b;
        fit_block f;
        fit_load(&f, src + at, weight ? weight + at : NULL, GROUP, 65504.0f * 127);
        b.d = quant_scale_f16(code_scale(f.x, f.w));
        code_pack(f.x, quant_f16_to_f32(b.d), b.qs);
        memcpy(out, &b, sizeof b);
        out += sizeof b;
    }
}

/* Group scales -32..31 for the super-block scale d, each chosen with its error in hand; returns the sum of errors. */
static float choose_scales(const fit_block *f, const float *want, float d, int sc[N_GROUP])
{
    float sum = 0, id = fit_inverse(d);
    for (int g = 0; g < N_GROUP; g++) {
        float best = -1, t = want[g] * id;
        int base = t <= -32 ? -32 : t >= 31 ? 31 : (int)(t < 0 ? t - 0.5f : t + 0.5f);
        for (int c = base - 1; c <= base + 1; c++) {
            if (c < -32 || c > 31)
                continue;
            float e = code_error(f->x + g * GROUP, f->w + g * GROUP, d * (float)c);
            if (best < 0 || e < best) {
                best = e;
                sc[g] = c;
            }
        }
        sum += best;
    }
    return sum;
}

/* Least squares for d, the codes and group scales being what they are. */
static float refit(const fit_block *f, float d, const int sc[N_GROUP])
{
    double xv = 0, vv = 0;
    for (int g = 0; g < N_GROUP; g++) {
        v4 sxv = {0}, svv = {0}, id = v_splat(fit_inverse(d * (float)sc[g]));
        for (int i = g * GROUP; i < (g + 1) * GROUP; i += 4) {
            v4 x = v_load(f->x + i), v = code_value(x * id), wv = v_load(f->w + i) * v;
            sxv += wv * x;
            svv += wv * v;
        }
        xv += sc[g] * (double)v_sum(sxv);
        vv += sc[g] * sc[g] * (double)v_sum(svv);
    }
    return vv > 0 ? (float)(xv / vv) : 0;
}

static uint16_t super_scale(const fit_block *f, int sc[N_GROUP])
{
    float want[N_GROUP], best = -1;
    uint16_t best_d = 0;
    for (int g = 0; g < N_GROUP; g++)
        want[g] = code_scale(f->x + g * GROUP, f->w + g * GROUP);
    float top = want[fit_largest(want, N_GROUP)];
    for (int side = 0; side < 2; side++) { /* the largest scale becomes -32 or 31 */
        float d = top / (side ? 31.0f : -32.0f);
        for (int i = 0; i <= ROUNDS; i++) {
            int next[N_GROUP];
            uint16_t h = quant_scale_f16(d);
            float e = choose_scales(f, want, quant_f16_to_f32(h), next);
            if (best >= 0 && !(e < best))
                break;
            best = e;
            best_d = h;
            memcpy(sc, next, sizeof next);
            d = refit(f, quant_f16_to_f32(h), next);
        }
    }
    return best_d;
}

void encode_iq4_xs(const float *src, void *dst, size_t n, const float *weight)
{
    uint8_t *out = dst;
    for (size_t at = 0; at < n; at += N_GROUP * GROUP) {
        blk_iq4_xs b = {0};
        fit_block f;
        int sc[N_GROUP] = {0};
        fit_load(&f, src + at, weight ? weight + at : NULL, N_GROUP * GROUP, 1e7f);
        b.d = super_scale(&f, sc);
        for (int g = 0; g < N_GROUP; g++) {
            unsigned s = (unsigned)(sc[g] + 32);
            b.scales_l[g >> 1] |= (uint8_t)((s & 15) << 4 * (g & 1));
            b.scales_h = (uint16_t)(b.scales_h | (s >> 4) << 2 * g);
            code_pack(f.x + g * GROUP, quant_f16_to_f32(b.d) * (float)sc[g], b.qs + 16 * g);
        }
        memcpy(out, &b, sizeof b);
        out += sizeof b;
    }
}

/* K formats, encoding. Each group gets its best scale (and minimum) by itself; the super-block scale follows from the
 * largest; then each group looks at the neighbouring small integers for its scale pair with the true error in hand, and
 * least squares over the whole block corrects the super-block scales, as long as that lowers the error. */
#include "quant/fit.h"
#include "quant/kquants.h"

enum { N = QUANT_K, MAX_GROUPS = 16, ROUNDS = 3 };

/* ---- d * sc * q - dmin * m ---- */

typedef struct affine_shape {
    int groups;
    float max_scale; /* of sc and m */
    fit_levels levels;
} affine_shape;

typedef struct affine {
    uint16_t d, dmin;
    uint8_t sc[MAX_GROUPS], m[MAX_GROUPS];
    unsigned char q[N];
} affine;

static float round_to(float x, float lo, float hi)
{
    x = x < lo ? lo : x > hi ? hi : x;
    return x < 0 ? (float)(int)(x - 0.5f) : (float)(int)(x + 0.5f);
}

static float ratio(float a, float b)
{
    return b > 1e-12f || b < -1e-12f ? a / b : 0;
}

/* Best pair of integers for one group, given the super-block scales; returns its error. */
static float affine_group(const float *x, const float *w, const affine_shape *s, float d, float dmin, float want_d,
                          float want_m, uint8_t *sc, uint8_t *m)
{
    const float max = s->max_scale, c0 = round_to(ratio(want_d, d), 0, max), m0 = round_to(ratio(want_m, dmin), 0, max);
    float best = -1;
    for (float c = c0 - 1; c <= c0 + 1; c++)
        for (float k = m0 - 1; k <= m0 + 1; k++) {
            if (c < 0 || c > max || k < 0 || k > max)
                continue;
            float e = fit_error(x, w, (size_t)(N / s->groups), d * c, -(dmin * k), s->levels.lo, s->levels.hi);
            if (best < 0 || e < best) {
                best = e;
                *sc = (uint8_t)c;
                *m = (uint8_t)k;
            }
        }
    return best;
}

static float affine_all(const fit_block *b, const affine_shape *s, const float *want_d, const float *want_m, affine *a)
{
    float sum = 0, d = quant_f16_to_f32(a->d), dmin = quant_f16_to_f32(a->dmin);
    for (int g = 0, n = N / s->groups; g < s->groups; g++) {
        sum += affine_group(b->x + g * n, b->w + g * n, s, d, dmin, want_d[g], want_m[g], &a->sc[g], &a->m[g]);
        fit_quantise(b->x + g * n, (size_t)n, d * (float)a->sc[g], -(dmin * (float)a->m[g]), s->levels.lo, s->levels.hi,
                     a->q + g * n);
    }
    return sum;
}

/* Least squares for d and dmin with everything else fixed; false when it has no sensible solution. */
static bool affine_refit(const fit_block *b, const affine_shape *s, affine *a)
{
    double pp = 0, pr = 0, rr = 0, px = 0, rx = 0; /* x ~ d * p - dmin * r */
    for (int i = 0; i < N; i++) {
        int g = i / (N / s->groups);
        double p = a->sc[g] * a->q[i], r = a->m[g], w = b->w[i];
        pp += w * p * p;
        pr += w * p * r;
        rr += w * r * r;
        px += w * p * b->x[i];
        rx += w * r * b->x[i];
    }
    double det = pp * rr - pr * pr, d, dmin = 0;
    if (det > 1e-9 * pp * rr) {
        d = (px * rr - rx * pr) / det;
        dmin = (px * pr - rx * pp) / det;
    } else if (pp > 0) {
        d = px / pp;
    } else {
        return false;
    }
    if (!(d > 0) || dmin < 0)
        return false;
    a->d = quant_scale_f16((float)d);
    a->dmin = quant_scale_f16((float)dmin);
    return true;
}

static void affine_encode(const float *x, const float *weight, const affine_shape *s, affine *a)
{
    fit_block b;
    float want_d[MAX_GROUPS], want_m[MAX_GROUPS], top_d = 0, top_m = 0;
    fit_load(&b, x, weight, N, 1e7f);
    for (int g = 0, n = N / s->groups; g < s->groups; g++) {
        want_d[g] = fit_scale_min(b.x + g * n, b.w + g * n, (size_t)n, &s->levels, true, &want_m[g]);
        want_m[g] = -want_m[g];
        top_d = want_d[g] > top_d ? want_d[g] : top_d;
        top_m = want_m[g] > top_m ? want_m[g] : top_m;
    }
    /* A single group with a large scale would make the steps coarse for all others: also try what clips it a little. */
    static const float CLIP[] = {1, 0.85f, 0.7f};
    float best = -1;
    for (size_t c = 0; c < CK_COUNT(CLIP); c++) {
        affine next;
        next.d = quant_scale_f16(CLIP[c] * top_d / s->max_scale);
        next.dmin = quant_scale_f16(CLIP[c] * top_m / s->max_scale);
        for (int i = 0; i <= ROUNDS; i++) {
            float e = affine_all(&b, s, want_d, want_m, &next);
            if (best >= 0 && !(e < best))
                break;
            best = e;
            *a = next;
            if (!affine_refit(&b, s, &next))
                break;
        }
    }
}

/* ---- d * sc * q ---- */

typedef struct linear_shape {
    float min_scale, max_scale;
    fit_levels levels;
} linear_shape;

typedef struct linear {
    uint16_t d;
    int8_t sc[MAX_GROUPS];
    unsigned char q[N]; /* minus the lowest level */
} linear;

enum { GROUP = N / MAX_GROUPS };

static float linear_all(const fit_block *b, const linear_shape *s, const float *want, linear *a)
{
    float sum = 0, d = quant_f16_to_f32(a->d);
    for (int g = 0; g < MAX_GROUPS; g++) {
        const float *x = b->x + g * GROUP, *w = b->w + g * GROUP;
        float base = round_to(ratio(want[g], d), s->min_scale, s->max_scale), best = -1;
        for (float c = base - 1; c <= base + 1; c++) {
            if (c < s->min_scale || c > s->max_scale)
                continue;
            float e = fit_error(x, w, GROUP, d * c, 0, s->levels.lo, s->levels.hi);
            if (best < 0 || e < best) {
                best = e;
                a->sc[g] = (int8_t)c;
            }
        }
        sum += best;
        fit_quantise(x, GROUP, d * (float)a->sc[g], 0, s->levels.lo, s->levels.hi, a->q + g * GROUP);
    }
    return sum;
}

static bool linear_refit(const fit_block *b, const linear_shape *s, linear *a)
{
    double pp = 0, px = 0;
    for (int i = 0; i < N; i++) {
        double p = a->sc[i / GROUP] * ((double)a->q[i] + (double)s->levels.lo);
        pp += b->w[i] * p * p;
        px += b->w[i] * p * b->x[i];
    }
    if (!(pp > 0))
        return false;
    a->d = quant_scale_f16((float)(px / pp));
    return true;
}

static void linear_encode(const float *x, const float *weight, const linear_shape *s, linear *a)
{
    fit_block b;
    float want[MAX_GROUPS], best = -1;
    fit_load(&b, x, weight, N, 1e7f);
    for (int g = 0; g < MAX_GROUPS; g++)
        want[g] = fit_scale(b.x + g * GROUP, b.w + g * GROUP, GROUP, &s->levels);
    float top = want[fit_largest(want, MAX_GROUPS)];
    for (int side = 0; side < 2; side++) { /* the largest scale becomes the lowest or the highest integer */
        linear next;
        next.d = quant_scale_f16(top / (side ? s->max_scale : s->min_scale));
        for (int i = 0; i <= ROUNDS; i++) {
            float e = linear_all(&b, s, want, &next);
            if (best >= 0 && !(e < best))
                break;
            best = e;
            *a = next;
            if (!linear_refit(&b, s, &next))
                break;
        }
    }
}

/* ---- packing ---- */

/* Value i's two bits into byte 32*(i/128) + i%32, bits 2*(i%128/32); qs starts as zeros. */
static void put_two_bits(uint8_t qs[64], int i, unsigned v)
{
    qs[i >> 7 << 5 | (i & 31)] |= (uint8_t)((v & 3) << (i >> 4 & 6));
}

static void put_k4_scales(const affine *a, uint8_t s[12])
{
    for (int g = 0; g < 4; g++) {
        s[g] = (uint8_t)(a->sc[g] | (a->sc[g + 4] >> 4) << 6);
        s[g + 4] = (uint8_t)(a->m[g] | (a->m[g + 4] >> 4) << 6);
        s[g + 8] = (uint8_t)((a->sc[g + 4] & 15) | (a->m[g + 4] & 15) << 4);
    }
}

static void put_nibbles_32(const unsigned char q[N], uint8_t qs[128])
{
    for (int i = 0; i < 128; i++) {
        const unsigned char *low = q + 64 * (i >> 5) + (i & 31);
        qs[i] = (uint8_t)((low[0] & 15) | (low[32] & 15) << 4);
    }
}

#define FOR_OUT(blk, b)                                                        \
    uint8_t *out = dst;                                                        \
    blk b;                                                                     \
    for (size_t at = 0; at < n; at += N, memcpy(out, &b, sizeof b), out += sizeof b)

void encode_q2_k(const float *src, void *dst, size_t n, const float *weight)
{
    static const affine_shape SHAPE = {16, 15, {0, 3, 10, 10, 0.1f}};
    FOR_OUT(blk_q2_k, b) {
        affine a = {0};
        affine_encode(src + at, weight ? weight + at : NULL, &SHAPE, &a);
        b.d = a.d;
        b.dmin = a.dmin;
        memset(b.qs, 0, sizeof b.qs);
        for (int g = 0; g < 16; g++)
            b.scales[g] = (uint8_t)(a.sc[g] | a.m[g] << 4);
        for (int i = 0; i < N; i++)
            put_two_bits(b.qs, i, a.q[i]);
    }
}

void encode_q3_k(const float *src, void *dst, size_t n, const float *weight)
{
    static const linear_shape SHAPE = {-32, 31, {-4, 3, 10, 10, 0.1f}};
    FOR_OUT(blk_q3_k, b) {
        linear a = {0};
        linear_encode(src + at, weight ? weight + at : NULL, &SHAPE, &a);
        memset(&b, 0, sizeof b);
        b.d = a.d;
        for (int g = 0; g < 16; g++) {
            unsigned s = (unsigned)(a.sc[g] + 32);
            b.scales[g & 7] |= (uint8_t)((s & 15) << 4 * (g >> 3));
            b.scales[8 + (g & 3)] |= (uint8_t)(s >> 4 << 2 * (g >> 2));
        }
        for (int i = 0; i < N; i++) {
            put_two_bits(b.qs, i, a.q[i]);
            b.hmask[i & 31] |= (uint8_t)(a.q[i] >> 2 << (i >> 5));
        }
    }
}

void encode_q4_k(const float *src, void *dst, size_t n, const float *weight)
{
    static const affine_shape SHAPE = {8, 63, {0, 15, 12, 12, 0.15f}};
    FOR_OUT(blk_q4_k, b) {
        affine a = {0};
        affine_encode(src + at, weight ? weight + at : NULL, &SHAPE, &a);
        b.d = a.d;
        b.dmin = a.dmin;
        put_k4_scales(&a, b.scales);
        put_nibbles_32(a.q, b.qs);
    }
}

void encode_q5_k(const float *src, void *dst, size_t n, const float *weight)
{
    static const affine_shape SHAPE = {8, 63, {0, 31, 12, 12, 0.15f}};
    FOR_OUT(blk_q5_k, b) {
        affine a = {0};
        affine_encode(src + at, weight ? weight + at : NULL, &SHAPE, &a);
        b.d = a.d;
        b.dmin = a.dmin;
        put_k4_scales(&a, b.scales);
        put_nibbles_32(a.q, b.qs);
        memset(b.qh, 0, sizeof b.qh);
        for (int i = 0; i < N; i++)
            b.qh[i & 31] |= (uint8_t)(a.q[i] >> 4 << (i >> 5));
    }
}

void encode_q6_k(const float *src, void *dst, size_t n, const float *weight)
{
    static const linear_shape SHAPE = {-128, 127, {-32, 31, 8, 8, 0.25f}};
    FOR_OUT(blk_q6_k, b) {
        linear a = {0};
        linear_encode(src + at, weight ? weight + at : NULL, &SHAPE, &a);
        memset(&b, 0, sizeof b);
        b.d = a.d;
        memcpy(b.scales, a.sc, sizeof b.scales);
        for (int i = 0; i < N; i++) {
            b.ql[i >> 7 << 6 | (i & 63)] |= (uint8_t)((a.q[i] & 15) << (i >> 4 & 4));
            put_two_bits(b.qh, i, a.q[i] >> 4);
        }
    }
}

/* The value of largest magnitude becomes -127, as in other programs; f32 scale, so nothing can be lost. */
void encode_q8_k(const float *src, void *dst, size_t n, const float *weight)
{
    (void)weight;
    FOR_OUT(blk_q8_k, b) {
        fit_block f;
        fit_load(&f, src + at, NULL, N, 1e12f);
        float max = f.x[fit_largest(f.x, N)], scale = ratio(-127, max);
        memset(&b, 0, sizeof b);
        b.d = scale != 0 ? 1 / scale : 0;
        for (int i = 0; i < N; i++) {
            b.qs[i] = (int8_t)round_to(f.x[i] * scale, -127, 127);
            b.bsums[i / GROUP] = (int16_t)(b.bsums[i / GROUP] + b.qs[i]);
        }
    }
}

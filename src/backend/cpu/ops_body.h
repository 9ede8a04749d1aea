/* ops_body: the functions of ops.h over vec.h. A file that includes it defines CPU_OPS, the name of its table, and
 * CPU_ISA, what it is called. */
#include <math.h>

#include "backend/cpu/attend_body.h"
#include "backend/cpu/matmul_body.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/vec.h"

static float sum_squares(const float *x, long n)
{
    v16 s[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
    long i = 0;
    for (; i + 64 <= n; i += 64)
        for (int j = 0; j < 4; j++) {
            v16 v = v_load(x + i + 16 * j);
            s[j] = v_fma(v, v, s[j]);
        }
    for (int j = 0; i < n; i += 16, j++) {
        v16 v = v_load_n(x + i, n - i);
        s[j & 3] = v_fma(v, v, s[j & 3]);
    }
    return v_sum(v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
}

static void rms_norm(float *y, const float *x, const float *w, float w_add, long n, long group, long w_step, float eps)
{
    for (long g = 0; g < n; g += group, x += group, y += group) {
        v16 r = v_set(1.0f / sqrtf(sum_squares(x, group) / (float)group + eps));
        for (long i = 0; i < group; i += 16) {
            v16 v = v_mul(v_load_n(x + i, group - i), r);
            if (w)
                v = v_mul(v, v_add(v_load_n(w + i, group - i), v_set(w_add)));
            v_store_n(y + i, v, group - i);
        }
        if (w)
            w += w_step;
    }
}

static void layer_norm(float *y, const float *x, const float *w, const float *bias, long n, float eps)
{
    double mean = 0, var = 0;
    for (long i = 0; i < n; i++)
        mean += (double)x[i];
    mean /= (double)n;
    for (long i = 0; i < n; i++)
        var += ((double)x[i] - mean) * ((double)x[i] - mean);
    float r = (float)(1 / sqrt(var / (double)n + (double)eps)), m = (float)mean;
    for (long i = 0; i < n; i++)
        y[i] = (x[i] - m) * r * (w ? w[i] : 1) + (bias ? bias[i] : 0);
}

static void l2_norm(float *y, const float *x, long n, long group, float eps, float scale)
{
    for (long g = 0; g < n; g += group) {
        float r = 1.0f / sqrtf(sum_squares(x + g, group) + eps) * scale;
        for (long i = 0; i < group; i++)
            y[g + i] = x[g + i] * r;
    }
}

static void add(float *y, const float *a, const float *b, float b_scale, long n)
{
    v16 s = v_set(b_scale);
    for (long i = 0; i < n; i += 16)
        v_store_n(y + i, v_add(v_load_n(a + i, n - i), v_mul(v_load_n(b + i, n - i), s)), n - i);
}

static void mul(float *y, const float *a, const float *b, long n)
{
    for (long i = 0; i < n; i += 16)
        v_store_n(y + i, v_mul(v_load_n(a + i, n - i), v_load_n(b + i, n - i)), n - i);
}

static void scale(float *y, const float *a, float s, long n)
{
    for (long i = 0; i < n; i += 16)
        v_store_n(y + i, v_mul(v_load_n(a + i, n - i), v_set(s)), n - i);
}

static void softcap(float *y, const float *x, float cap, long n)
{
    for (long i = 0; i < n; i += 16)
        v_store_n(y + i, v_mul(v_tanh(v_div(v_load_n(x + i, n - i), v_set(cap))), v_set(cap)), n - i);
}

VEC_INLINE v16 gelu_tanh(v16 x)
{ /* 0.5 x (1 + tanh u) = x * sigmoid(2u) */
    v16 u = v_mul(v_set(1.59576912f), v_fma(v_mul(v_mul(x, x), x), v_set(0.044715f), x));
    return v_mul(x, v_sigmoid(u));
}

VEC_INLINE v16 per_lane(v16 x, float (*f)(float))
{
    float t[16];
    v_store(t, x);
    for (int i = 0; i < 16; i++)
        t[i] = f(t[i]);
    return v_load(t);
}
static float gelu_erf1(float x) { return 0.5f * x * (1 + erff(x * 0.707106781f)); }
static float softplus1(float x) { return x > 20 ? x : log1pf(expf(x)); }

VEC_INLINE v16 activate(v16 x, plan_act f)
{
    switch (f) {
    case ACT_SILU: return v_mul(x, v_sigmoid(x));
    case ACT_GELU_TANH: return gelu_tanh(x);
    case ACT_GELU_ERF: return per_lane(x, gelu_erf1);
    case ACT_RELU2: { v16 r = v_max(x, v_set(0)); return v_mul(r, r); }
    case ACT_SIGMOID: return v_sigmoid(x);
    case ACT_TANH: return v_tanh(x);
    case ACT_SOFTPLUS: return per_lane(x, softplus1);
    default: return x;
    }
}

static void act(float *y, const float *x, plan_act f, long n)
{
    for (long i = 0; i < n; i += 16)
        v_store_n(y + i, activate(v_load_n(x + i, n - i), f), n - i);
}

static void glu(float *y, const float *gate, const float *up, plan_act f, float limit, float alpha, long n)
{
    for (long i = 0; i < n; i += 16) {
        v16 g = v_load_n(gate + i, n - i), u = v_load_n(up + i, n - i);
        if (limit > 0) {
            g = v_min(v_set(limit), g);
            u = v_min(v_set(limit), v_max(v_set(-limit), u));
        }
        if (f == ACT_SWIGLU_OAI)
            g = v_mul(v_mul(g, v_sigmoid(v_mul(g, v_set(alpha)))), v_add(u, v_set(1)));
        else
            g = v_mul(activate(g, f), u);
        v_store_n(y + i, g, n - i);
    }
}

static void gate(float *y, const float *x, const float *g, long n, long group)
{
    for (long b = 0; b < n; b += group)
        for (long i = 0; i < group; i += 16) {
            v16 s = group == 1 ? v_load_n(g + b, 1) : v_set(g[b / group]);
            v_store_n(y + b + i, v_mul(v_load_n(x + b + i, group - i), v_sigmoid(s)), group - i);
        }
}

static void rope(float *y, const float *x, const float *cs, const plan_rope *r)
{
    long half = r->rot / 2;
    const float *cosine = cs, *sine = cs + half;
    for (uint32_t h = 0; h < r->n_head; h++, x += r->head_dim, y += r->head_dim) {
        if (r->rot != r->head_dim)
            memcpy(y, x, r->head_dim * sizeof *y);
        const float *a = x + r->rot_off;
        float *o = y + r->rot_off;
        if (r->interleaved) {
            for (long i = 0; i < half; i++) {
                float u = a[2 * i], v = a[2 * i + 1];
                o[2 * i] = u * cosine[i] - v * sine[i];
                o[2 * i + 1] = u * sine[i] + v * cosine[i];
            }
            continue;
        }
        for (long i = 0; i < half; i += 16) {
            long n = half - i;
            v16 u = v_load_n(a + i, n), v = v_load_n(a + half + i, n);
            v16 c = v_load_n(cosine + i, n), s = v_load_n(sine + i, n);
            v_store_n(o + i, v_sub(v_mul(u, c), v_mul(v, s)), n);
            v_store_n(o + half + i, v_add(v_mul(u, s), v_mul(v, c)), n);
        }
    }
}

/* Sixteen values times inv, rounded half to even and split into bytes 128 * (128 * hi + mid) + lo; returns the sum of
 * 128 * hi + mid, in *low that of lo. */
VEC_INLINE int32_t split_bytes(v16 x, float inv, int8_t *hi, int8_t *mid, int8_t *lo, int16_t *low)
{
#if defined(__AVX512F__)
    __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps((__m512)x.r[0], _mm512_set1_ps(inv))), half = _mm512_set1_epi32(64);
    __m512i u = _mm512_srai_epi32(_mm512_add_epi32(v, half), 7), h = _mm512_srai_epi32(_mm512_add_epi32(u, half), 7);
    __m512i l = _mm512_sub_epi32(v, _mm512_slli_epi32(u, 7));
    _mm_storeu_si128((__m128i *)hi, _mm512_cvtepi32_epi8(h));
    _mm_storeu_si128((__m128i *)mid, _mm512_cvtepi32_epi8(_mm512_sub_epi32(u, _mm512_slli_epi32(h, 7))));
    _mm_storeu_si128((__m128i *)lo, _mm512_cvtepi32_epi8(l));
    *low = (int16_t)_mm512_reduce_add_epi32(l);
    return _mm512_reduce_add_epi32(u);
#else
    float t[16];
    int32_t n[16], sum = 0, sum_low = 0;
    v_store(t, v_add(v_mul(x, v_set(inv)), v_set(12582912.0f))); /* the integer lies in the low mantissa bits */
    memcpy(n, t, sizeof n);
    for (int i = 0; i < 16; i++) {
        int32_t v = n[i] - 0x4B400000, u = (v + 64) >> 7, h = (u + 64) >> 7;
        hi[i] = (int8_t)h;
        mid[i] = (int8_t)(u - h * 128);
        lo[i] = (int8_t)(v - u * 128);
        sum += u;
        sum_low += v - u * 128;
    }
    *low = (int16_t)sum_low;
    return sum;
#endif
}

/* The largest magnitude of 32 values, by its bits: a NaN is larger than anything. */
VEC_INLINE float largest(v16 a, v16 c)
{
    union { float f; int32_t i; } max;
#if defined(__AVX512F__)
    max.i = _mm512_reduce_max_epi32(_mm512_max_epi32((__m512i)v_abs(a).r[0], (__m512i)v_abs(c).r[0]));
#else
    int32_t t[16], u[16];
    a = v_abs(a);
    c = v_abs(c);
    memcpy(t, &a, sizeof t);
    memcpy(u, &c, sizeof u);
    max.i = 0;
    for (int i = 0; i < 16; i++)
        t[i] = t[i] > u[i] ? t[i] : u[i];
    for (int i = 0; i < 16; i++)
        max.i = max.i > t[i] ? max.i : t[i];
#endif
    return max.f;
}

/* Sixteen values times inv as eight pairs of Q12; returns the sum of n, in *low that of t. Rounded half to even; a
 * pair's second value first, since what its low bits add to the first one is made good there. */
VEC_INLINE int32_t split_pairs(v16 x, float inv, int8_t *h, int8_t *t, int16_t *low)
{
#if defined(__AVX512F__)
    __m512 v = _mm512_mul_ps((__m512)x.r[0], _mm512_set1_ps(inv));
    __m256 vi = _mm512_castps512_ps256(v), vj = _mm512_extractf32x8_ps(v, 1);
    __m256i eight = _mm256_set1_epi32(8), four_bits = _mm256_set1_epi32(15), mj = _mm256_cvtps_epi32(vj);
    __m256i rj = _mm256_sub_epi32(_mm256_and_si256(_mm256_add_epi32(mj, eight), four_bits), eight);
    __m256i mi = _mm256_cvtps_epi32(_mm256_sub_ps(vi, _mm256_mul_ps(_mm256_cvtepi32_ps(rj), _mm256_set1_ps(0.0625f))));
    __m256i tt = _mm256_add_epi32(_mm256_slli_epi32(mi, 4), rj);
    tt = _mm256_srai_epi32(_mm256_slli_epi32(tt, 24), 24);
    __m256i ri = _mm256_srai_epi32(_mm256_sub_epi32(tt, rj), 4), hi = _mm256_srai_epi32(_mm256_sub_epi32(mi, ri), 4);
    __m256i hj = _mm256_sub_epi32(_mm256_srai_epi32(_mm256_sub_epi32(mj, rj), 4), ri);
    _mm_storel_epi64((__m128i *)h, _mm256_cvtepi32_epi8(hi));
    _mm_storel_epi64((__m128i *)(h + 8), _mm256_cvtepi32_epi8(hj));
    _mm_storel_epi64((__m128i *)t, _mm256_cvtepi32_epi8(tt));
    __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(_mm256_add_epi32(hi, hj), 8),
                                   _mm256_mullo_epi32(tt, _mm256_set1_epi32(17)));
    *low = (int16_t)_mm512_reduce_add_epi32(_mm512_zextsi256_si512(tt));
    return _mm512_reduce_add_epi32(_mm512_zextsi256_si512(sum));
#else
    float v[16];
    int32_t sum = 0, sum_low = 0;
    v_store(v, v_mul(x, v_set(inv)));
    for (int i = 0; i < 8; i++) {
        union { float f; int32_t i; } a = {v[i + 8] + 12582912.0f}, b; /* the integer lies in the low mantissa bits */
        int32_t mj = a.i - 0x4B400000, rj = ((mj + 8) & 15) - 8;
        b.f = v[i] - (float)rj * 0.0625f + 12582912.0f;
        int32_t mi = b.i - 0x4B400000, tt = (int8_t)(16 * mi + rj), ri = (tt - rj) >> 4;
        h[i] = (int8_t)((mi - ri) >> 4);
        h[i + 8] = (int8_t)(((mj - rj) >> 4) - ri);
        t[i] = (int8_t)tt;
        sum += 256 * (h[i] + h[i + 8]) + 17 * tt;
        sum_low += tt;
    }
    *low = (int16_t)sum_low;
    return sum;
#endif
}

/* One block of a form; most: the largest |n|, in steps of `unit`. */
VEC_INLINE void quantise_block(const float *p, long left, cpu_qform form, float most, float unit, int8_t *o,
                               cpu_qmeta *meta)
{
    v16 a = v_load_n(p, left > 0 ? left : 0), c = v_load_n(p + 16, left > 16 ? left - 16 : 0);
    float max = largest(a, c), d = max / (most * unit), inv = max > 0 ? most / max : 0;
    int32_t z[2], n[2];
    int16_t low[2] = {0, 0};
    /* infinity or NaN: the factor carries it, integers must only be defined. Or next to nothing */
    if (!(d < INFINITY && inv < INFINITY)) {
        memset(o, 0, (size_t)cpu_qblock(form));
        o[0] = !(d < INFINITY);
        z[0] = (form == CPU_Q22 ? 128 : 256) * o[0];
        z[1] = 0;
    } else if (form == CPU_Q22) {
        z[0] = split_bytes(a, inv, o, o + 32, o + 64, &low[0]);
        z[1] = split_bytes(c, inv, o + 16, o + 48, o + 80, &low[1]);
    } else {
        z[0] = split_pairs(a, inv, o, o + 32, &low[0]);
        z[1] = split_pairs(c, inv, o + 16, o + 40, &low[1]);
    }
    for (int i = 0; i < 2; i++)
        n[i] = form == CPU_Q22 ? 128 * z[i] + low[i] : z[i];
    *meta = (cpu_qmeta){.d = d, .s = {d * (float)n[0], d * (float)n[1]}, .s_all = d * (float)(n[0] + n[1]),
                        .z = {z[0], z[1]}, .z_all = z[0] + z[1], .z_lo = {low[0], low[1]}};
}

static void quantise22(const float *x, long n, long b0, long b1, int8_t *q, cpu_qmeta *meta, long step)
{
    for (long b = b0; b < b1; b++)
        quantise_block(x + b * 32, n - b * 32, CPU_Q22, 2080768, 1, q + b * step * cpu_qblock(CPU_Q22),
                       meta + b * step);
}

static void quantise12(const float *x, long n, long b0, long b1, int8_t *q, cpu_qmeta *meta, long step)
{
    for (long b = b0; b < b1; b++)
        quantise_block(x + b * 32, n - b * 32, CPU_Q12, 1896, 16, q + b * step * cpu_qblock(CPU_Q12), meta + b * step);
}

#include "backend/cpu/scan_body.h"

static void axpy(float *y, const float *x, float w, long n, bool accumulate)
{
    for (long i = 0; i < n; i += 16) {
        v16 p = v_mul(v_load_n(x + i, n - i), v_set(w));
        v_store_n(y + i, accumulate ? v_add(v_load_n(y + i, n - i), p) : p, n - i);
    }
}

/* The largest of x[0..n), or of those that a mask allows: no branch for each bit, as masks of letters or digits are
 * scattered. */
static float chunk_max(const float *x, const uint32_t *mask, long n)
{
    const v16 none = v_set(-INFINITY);
    v16 m[2] = {none, none};
    long i = 0;
    for (; i + 32 <= n; i += 32) { /* max(x, m) is m where x is a NaN */
        uint32_t w = mask ? mask[i / 32] : UINT32_MAX;
        v16 a = v_load(x + i), b = v_load(x + i + 16);
        if (!w)
            continue;
        if (w != UINT32_MAX) {
            a = v_select(v_bits(w), a, none);
            b = v_select(v_bits(w >> 16), b, none);
        }
        m[0] = v_max(a, m[0]);
        m[1] = v_max(b, m[1]);
    }
    float big = v_max_lane(v_max(m[0], m[1]));
    for (; i < n; i++)
        if (!mask || (mask[i / 32] >> i % 32 & 1))
            big = x[i] > big ? x[i] : big;
    return big;
}

static long argmax(const float *x, const uint32_t *mask, long n)
{
    /* a chunk's maximum first; its index is looked for only where a new best lies */
    long best = -1;
    float top = -INFINITY;
    for (long b = 0; b < n; b += 1024) {
        long e = n - b < 1024 ? n : b + 1024;
        float big = chunk_max(x + b, mask ? mask + b / 32 : NULL, e - b);
        bool odd = big == INFINITY; /* an infinity somewhere: look closely */
        if (!(big > top))
            continue;
        for (long i = b; i < e; i++)
            if (x[i] > top && x[i] < INFINITY && (!mask || (mask[i / 32] >> i % 32 & 1))) {
                top = x[i];
                best = i;
                if (!odd && top == big)
                    break;
            }
    }
    return best;
}

static uint64_t sum_words(const uint64_t *p, long n)
{
    i16v s[8];
    memset(s, 0, sizeof s);
    for (long i = 0; i < n; i += 64) {
        __builtin_prefetch((const char *)(p + i) + 4096);
        __builtin_prefetch((const char *)(p + i) + 4096 + 64);
        __builtin_prefetch((const char *)(p + i) + 4096 + 128);
        __builtin_prefetch((const char *)(p + i) + 4096 + 192);
        __builtin_prefetch((const char *)(p + i) + 4096 + 256);
        __builtin_prefetch((const char *)(p + i) + 4096 + 320);
        __builtin_prefetch((const char *)(p + i) + 4096 + 384);
        __builtin_prefetch((const char *)(p + i) + 4096 + 448);
        for (int j = 0; j < 8; j++)
            VEC_EACH s[j].r[vec_i] ^= *(const vec_iu *)((const char *)(p + i) + 64 * j + vec_i * VEC_BYTES);
    }
    uint64_t t[64], r = 0;
    memcpy(t, s, sizeof t);
    for (int i = 0; i < 64; i++)
        r ^= t[i];
    return r;
}

const cpu_ops CPU_OPS = {
    .isa = CPU_ISA, .rms_norm = rms_norm, .layer_norm = layer_norm, .l2_norm = l2_norm, .add = add, .mul = mul,
    .scale = scale, .softcap = softcap, .act = act, .glu = glu, .gate = gate, .rope = rope,
    .quantise = {quantise22, quantise12}, .matmul = matmul, .kv_put = kv_put, .attend = attend, .gdn = scan_gdn,
    .mamba2 = scan_mamba2, .conv = scan_conv, .axpy = axpy, .argmax = argmax, .sum_words = sum_words,
};

/* mm_avx2: up to FEW tokens straight from panels by bytes (VPMADDUBSW), more of them by words (mm_words.h).
 * VPMADDUBSW's sums have 16 bits: several lines add up in them before they are widened, as many as a format's bits
 * allow; formats with full bytes give their sign to the activations. The order of f32 sums is mm_body.h's, and the
 * integers are the same, so every bit is. */
#include "backend/cpu/mm_words.h"

enum { FEW = 3 };

typedef struct few_task {
    const uint8_t *s; /* a panel */
    long n_super;
    const int8_t *a;  /* block 0 of the first token; `step` tokens between a token's blocks */
    const cpu_qmeta *am;
    long step, ahead;
    float *y;         /* [n][ldy] */
    long ldy, n_row;
    const float *bias;
} few_task;

/* Lines that fit 16 bits together: 2 * 128 * (2^bits - 1) each. */
#define FEW_CHAIN(bits, most) ((bits) <= 4 ? (most) : (bits) == 5 ? 4 : (bits) == 6 ? 2 : 1)

/* unit * the sum over n lines of w . a, `chain` of them at a time. */
U_INLINE __m256i few_dot(const ub *w, const int8_t *a, int n, int chain, int unit)
{
    __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int k = 0; k < n; k += chain) {
        __m256i m = _mm256_maddubs_epi16(w[k], words_bcast(a + 4 * k));
#pragma GCC unroll 8
        for (int i = k + 1; i < k + chain; i++) {
            m = _mm256_add_epi16(m, _mm256_maddubs_epi16(w[i], words_bcast(a + 4 * i)));
            WORDS_KEEP(m);
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(m, _mm256_set1_epi16((short)unit)));
    }
    return sum;
}

/* The same of full bytes w (signed) whose magnitudes are v: |w| <= 128, |a| <= 127. */
U_INLINE __m256i few_dot8(const ub *w, const ub *v, const int8_t *a, int n, int unit)
{
    __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int k = 0; k < n; k++) {
        __m256i m = _mm256_maddubs_epi16(v[k], _mm256_sign_epi8(words_bcast(a + 4 * k), w[k]));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(m, _mm256_set1_epi16((short)unit)));
    }
    return sum;
}

/* A half of the rows of one block, ready for any token. */
typedef struct few_weights {
    ub w[8], v[8];       /* bytes; full ones: signed, and their magnitudes */
    ub low[4], high[4];  /* Q12: what t is multiplied with, once and sixteen times */
} few_weights;

U_INLINE void few_prepare(few_weights *o, const ub p[4], cpu_qform form, int bits)
{
    for (int k = 0; bits == 8 && k < 8; k++) {
        o->w[k] = _mm256_xor_si256(o->w[k], u_set8(0x80));
        o->v[k] = _mm256_abs_epi8(o->w[k]);
    }
    for (int g = 0; form == CPU_Q12 && g < 4; g++) {
        o->low[g] = bits <= 4 ? o->w[g / 2 * 4 + g % 2] : u_low(p[g]);
        o->high[g] = bits <= 4 ? o->w[g / 2 * 4 + g % 2 + 2] : u_high(p[g]);
    }
}

/* The sum over lines [4 * part, 4 * part + n) as f32. */
U_INLINE uf few_sum(const few_weights *o, const int8_t *a, const cpu_qmeta *m, cpu_qform form, int bits, int zero,
                    int part, int n)
{
    int all = n == 8, chain = FEW_CHAIN(bits, n), first = 4 * part;
    int32_t z = zero * (all ? m->z_all : m->z[part]), z_lo = all ? m->z_lo[0] + m->z_lo[1] : m->z_lo[part];
    const ub *w = o->w + first, *v = o->v + first;
    if (form == CPU_Q22) {
        if (bits == 8) {
            __m256i e = _mm256_add_epi32(few_dot8(w, v, a + 4 * first, n, 128),
                                         few_dot8(w, v, a + 32 + 4 * first, n, 1));
            return _mm256_fmadd_ps(u_cvt32(e), u_setf(128), u_cvt32(few_dot8(w, v, a + 64 + 4 * first, n, 1)));
        }
        __m256i e = _mm256_add_epi32(few_dot(w, a + 4 * first, n, chain, 128),
                                     few_dot(w, a + 32 + 4 * first, n, chain, 1));
        __m256i g = _mm256_sub_epi32(few_dot(w, a + 64 + 4 * first, n, chain, 1), _mm256_set1_epi32(zero * z_lo));
        return _mm256_fmadd_ps(u_cvt32(_mm256_sub_epi32(e, _mm256_set1_epi32(z))), u_setf(128), u_cvt32(g));
    }
    const int8_t *t = a + 32 + 2 * first;
    __m256i e = bits == 8 ? few_dot8(w, v, a + 4 * first, n, 256) : few_dot(w, a + 4 * first, n, chain, 256);
    __m256i f = _mm256_add_epi32(few_dot(o->low + 2 * part, t, n / 2, n / 2, 1 << U_DROP(bits)),
                                 few_dot(o->high + 2 * part, t, n / 2, n / 2, 16 << U_DROP(bits)));
    /* signed full bytes leave their pairs off by 17 * 128, in units of pairs */
    z = bits == 8 ? (17 * 128 >> U_DROP(8) << U_DROP(8)) * z_lo : z;
    return u_cvt32(_mm256_sub_epi32(_mm256_add_epi32(e, f), _mm256_set1_epi32(z)));
}

U_INLINE void few_store(float *y, uf v, long n, const float *bias)
{
    float t[8];
    if (bias && n >= 8)
        v = _mm256_add_ps(v, _mm256_loadu_ps(bias));
    if (n >= 8) {
        _mm256_storeu_ps(y, v);
        return;
    }
    _mm256_storeu_ps(t, v);
    for (long i = 0; i < n; i++)
        y[i] = bias ? t[i] + bias[i] : t[i];
}

static void few_all(const cpu_panels *p, const cpu_qact *x, float *y, long ldy, long n_row, const float *bias,
                    void (*const rows[FEW])(const few_task *), long sub)
{
    for (long r = 0; r < n_row; r += 16) {
        few_task k = {.s = p->data + (uint64_t)(r / 16) * p->stride, .n_super = x->nb / sub, .a = x->q, .am = x->meta,
                      .step = x->n_tok, .ahead = p->ahead, .y = y + r, .ldy = ldy, .n_row = n_row - r,
                      .bias = bias ? bias + r : NULL};
        rows[x->n_tok - 1](&k);
    }
}

/* X over super-blocks of SUB blocks of 32: QB bytes of quants, SB of scales; n tokens. */
#define AVX2_KERNEL(X, SUB, QB, SB)                                                                 \
    U_INLINE void X##_few(const few_task *k, cpu_qform form, int n)                                 \
    {                                                                                               \
        uf acc[2][FEW];                                                                             \
        const uint8_t *s = k->s;                                                                    \
        const int8_t *a = k->a;                                                                     \
        const cpu_qmeta *am = k->am;                                                                \
        long ahead = k->ahead;                                                                      \
        for (int t = 0; t < n; t++)                                                                 \
            acc[0][t] = acc[1][t] = u_setf(0);                                                      \
        for (long b = 0; b < k->n_super; b++, s += (QB) + (SB))                                     \
            for (int j = 0; j < (SUB); j++, a += cpu_qblock(form) * k->step, am += k->step) {       \
                if (ahead)                                                                          \
                    for (int i = 0; i < ((QB) + (SB)) / (SUB); i += 64)                             \
                        __builtin_prefetch(s + j * (((QB) + (SB)) / (SUB)) + i + ahead);            \
                _Pragma("GCC unroll 2") for (int h = 0; h < 2; h++)                                 \
                {                                                                                   \
                    few_weights o;                                                                  \
                    ub p[4];                                                                        \
                    uf d[2], m[2];                                                                  \
                    X##_unpack(s + (SB) + 32 * h, j, o.w);                                          \
                    if (form == CPU_Q12 && X##_BITS > 4)                                            \
                        X##_pairs(s + (SB) + 32 * h, j, o.w, p);                                    \
                    X##_scales(s, h, j, d, m);                                                      \
                    few_prepare(&o, p, form, X##_BITS);                                             \
                    for (int t = 0; t < n; t++) {                                                   \
                        const int8_t *at = a + cpu_qblock(form) * t;                                \
                        uf da = u_setf(am[t].d);                                                    \
                        for (int i = 0; i <= X##_SPLIT; i++) {                                      \
                            uf v = few_sum(&o, at, am + t, form, X##_BITS, X##_ZERO, i, X##_SPLIT ? 4 : 8); \
                            acc[h][t] = _mm256_fmadd_ps(u_mul(v, da), d[i], acc[h][t]);             \
                        }                                                                           \
                        for (int i = 0; X##_MIN && i <= X##_SPLIT; i++) {                           \
                            uf sa = u_setf(X##_SPLIT ? am[t].s[i] : am[t].s_all);                   \
                            acc[h][t] = _mm256_fnmadd_ps(m[i], sa, acc[h][t]);                      \
                        }                                                                           \
                    }                                                                               \
                }                                                                                   \
            }                                                                                       \
        for (int t = 0; t < n; t++)                                                                 \
            for (int h = 0; h < 2 && 8 * h < k->n_row; h++)                                         \
                few_store(k->y + t * k->ldy + 8 * h, acc[h][t], k->n_row - 8 * h, k->bias ? k->bias + 8 * h : NULL); \
    }                                                                                               \
    FEW_ROWS(X, few22_1, CPU_Q22, 1)                                                                \
    FEW_ROWS(X, few22_2, CPU_Q22, 2)                                                                \
    FEW_ROWS(X, few22_3, CPU_Q22, 3)                                                                \
    FEW_ROWS(X, few12_1, CPU_Q12, 1)                                                                \
    FEW_ROWS(X, few12_2, CPU_Q12, 2)                                                                \
    FEW_ROWS(X, few12_3, CPU_Q12, 3)                                                                \
    U_INLINE void X##_open(words_chunk *c, const uint8_t *s, long n_super, bool wide)               \
    {                                                                                               \
        for (long i = 0, b = 0; i < n_super; i++, s += (QB) + (SB))                                 \
            for (int j = 0; j < (SUB); j++, b++)                                                    \
                for (int h = 0; h < 2; h++) {                                                       \
                    ub w[8], p[4];                                                                  \
                    uf d[2], m[2];                                                                  \
                    X##_unpack(s + (SB) + 32 * h, j, w);                                            \
                    X##_scales(s, h, j, d, m);                                                      \
                    if (wide)                                                                       \
                        u_pairs(X##_BITS, w, p);                                                    \
                    words_open(c, (int)b, h, w, p, X##_ZERO, X##_BITS, wide);                       \
                    for (int k = 0; k <= X##_SPLIT; k++) {                                          \
                        _mm256_store_ps(&c->d[b][k][8 * h], d[k]);                                  \
                        if (X##_MIN)                                                                \
                            _mm256_store_ps(&c->m[b][k][8 * h], m[k]);                              \
                    }                                                                               \
                }                                                                                   \
    }                                                                                               \
    __attribute__((noinline)) static void X##_open22(words_chunk *c, const uint8_t *s, long n_super) \
    {                                                                                               \
        X##_open(c, s, n_super, false);                                                             \
    }                                                                                               \
    __attribute__((noinline)) static void X##_open12(words_chunk *c, const uint8_t *s, long n_super) \
    {                                                                                               \
        X##_open(c, s, n_super, X##_BITS > 4);                                                      \
    }                                                                                               \
    AVX2_FN(X, mm22, few22, X##_open22, SUB, (QB) + (SB), WORDS_22)                                 \
    AVX2_FN(X, mm12, few12, X##_open12, SUB, (QB) + (SB), X##_BITS > 4 ? WORDS_WIDE : WORDS_NARROW)

#define FEW_ROWS(X, name, form, n) \
    __attribute__((noinline)) static void X##_##name(const few_task *k) { X##_few(k, form, n); }

#define AVX2_FN(X, name, few, open, SUB, bytes, kind)                                               \
    static void X##_##name(const cpu_panels *p, const cpu_qact *x, float *y, long ldy, long n_row,  \
                           const float *bias, void *scratch)                                        \
    {                                                                                               \
        static void (*const rows[FEW])(const few_task *) = {X##_##few##_1, X##_##few##_2, X##_##few##_3}; \
        static const words_format f = {open, SUB, bytes, X##_SPLIT, X##_MIN, kind};                 \
        if (x->n_tok <= FEW)                                                                        \
            few_all(p, x, y, ldy, n_row, bias, rows, SUB);                                          \
        else                                                                                        \
            words_all(&f, p, x, y, ldy, n_row, bias, scratch);                                      \
    }

MM_FORMATS(AVX2_KERNEL)

const cpu_mm cpu_mm_avx2 = {.isa = "AVX2", .fn = {MM_TABLE(mm22), MM_TABLE(mm12)}};

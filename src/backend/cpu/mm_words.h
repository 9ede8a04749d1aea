/* mm_words: products of many tokens with AVX2, whose best multiplier takes 16 bits: VPMADDWD, two columns of eight
 * rows. So both sides become words first: activations once for up to WORDS_TOKENS tokens, a panel of weights by chunks
 * of WORDS_BLOCKS blocks, which stay in the first cache while all those tokens pass. Sixteen rows x four tokens are a
 * step; f32 sums wait in memory between chunks. The integers are those of mm_body.h: what differs is how they are
 * written down.
 *   Q22: n = 128 * (128 * hi + mid) + lo is two words a column.
 *   Q12: w_i * n_i + w_j * n_j as it stands. Wide weights (more than four bits) meet t as a rounded byte there,
 *   2^drop * p = w_i + 16 * w_j + e, so that t * e comes on top: e is small, kept as a byte e + WORDS_BIAS.
 * Included by mm_avx2.c alone. */
#ifndef IMP_BACKEND_CPU_MM_WORDS_H
#define IMP_BACKEND_CPU_MM_WORDS_H

#include <string.h>

#include "backend/cpu/pack.h"
#include "backend/cpu/unpack.h"

enum { WORDS_TOKENS = 64, WORDS_BLOCKS = 8, WORDS_BIAS = 16 };

/* A chunk of a panel: all of it is used again for each group of tokens. */
typedef struct words_chunk {
    _Alignas(64) int16_t w[WORDS_BLOCKS][16][16][2]; /* pairs of columns (4k, 4k + 2), (4k + 1, 4k + 3), rows */
    uint8_t e[WORDS_BLOCKS][4][16][4];               /* wide weights with Q12: lines as pairs have them */
    float d[WORDS_BLOCKS][2][16], m[WORDS_BLOCKS][2][16];
} words_chunk;

/* Activations of some tokens: [token / 4][nb][token % 4], so that what a step takes lies together. */
typedef struct words_act {
    int16_t *n; /* [32] columns in the order of a chunk's; Q22: [2][32], 128 * hi + mid and lo */
    uint8_t *t; /* wide Q12: [16] */
} words_act;

/* How a kernel meets a format. */
typedef enum words_kind { WORDS_NARROW, WORDS_WIDE, WORDS_22, WORDS_KINDS } words_kind;

/* ---- activations ------------------------------------------------------------------------------------------------- */

/* 32 bytes as words, each group of four c0 c1 c2 c3 as c0 c2 c1 c3. */
U_INLINE void words_spread(__m256i even, __m256i odd, int16_t *o)
{
    __m256i a = _mm256_unpacklo_epi32(even, odd), b = _mm256_unpackhi_epi32(even, odd);
    _mm256_storeu_si256((__m256i *)o, _mm256_permute2x128_si256(a, b, 0x20));
    _mm256_storeu_si256((__m256i *)(o + 16), _mm256_permute2x128_si256(a, b, 0x31));
}
U_INLINE __m256i words_even(__m256i v) { return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8); }
U_INLINE __m256i words_odd(__m256i v) { return _mm256_srai_epi16(v, 8); }

U_INLINE void words_block22(const int8_t *q, int16_t *o)
{
    __m256i h = _mm256_loadu_si256((const __m256i *)q), m = _mm256_loadu_si256((const __m256i *)(q + 32)),
            l = _mm256_loadu_si256((const __m256i *)(q + 64));
    words_spread(_mm256_add_epi16(_mm256_slli_epi16(words_even(h), 7), words_even(m)),
                 _mm256_add_epi16(_mm256_slli_epi16(words_odd(h), 7), words_odd(m)), o);
    words_spread(words_even(l), words_odd(l), o + 32);
}

U_INLINE void words_block12(const int8_t *q, int16_t *o)
{
    const __m256i unit = _mm256_setr_epi16(1, 1, 1, 1, 16, 16, 16, 16, 1, 1, 1, 1, 16, 16, 16, 16);
    __m256i h = _mm256_loadu_si256((const __m256i *)q);
    __m256i t = _mm256_permute4x64_epi64(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(q + 32))), 0x50);
    __m256i te = _mm256_mullo_epi16(words_even(t), unit), to = _mm256_mullo_epi16(words_odd(t), unit);
    words_spread(_mm256_add_epi16(_mm256_slli_epi16(h, 8), te),
                 _mm256_add_epi16(_mm256_andnot_si256(_mm256_set1_epi16(255), h), to), o);
}

/* Tokens t0 .. t0 + n of x. */
static void words_convert(const cpu_qact *x, long t0, long n, words_kind kind, words_act *a)
{
    long bytes = cpu_qblock(kind == WORDS_22 ? CPU_Q22 : CPU_Q12), nb = x->nb;
    for (long t = 0; t < n; t++) {
        long tile = (t0 + t) / CPU_TILE * CPU_TILE, step = x->n_tok - tile < CPU_TILE ? x->n_tok - tile : CPU_TILE;
        const int8_t *q = x->q + (tile * nb + (t0 + t) % CPU_TILE) * bytes;
        for (long b = 0; b < nb; b++, q += bytes * step) {
            long at = (t / 4 * nb + b) * 4 + t % 4;
            if (kind == WORDS_22)
                words_block22(q, a->n + at * 64);
            else
                words_block12(q, a->n + at * 32);
            if (kind == WORDS_WIDE)
                memcpy(a->t + at * 16, q + 32, 16);
        }
    }
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

/* Half h of one block: unpacked bytes w (value + zero) and, of wide weights, their pairs p in units of 2^drop. */
U_INLINE void words_open(words_chunk *c, int b, int h, const ub w[8], const ub p[4], int zero, int bits, bool wide)
{
    const __m256i z = _mm256_set1_epi16((short)zero);
    for (int k = 0; k < 8; k++) {
        __m256i even = _mm256_and_si256(w[k], _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(w[k], 8);
        _mm256_store_si256((__m256i *)c->w[b][2 * k][8 * h], zero ? _mm256_sub_epi16(even, z) : even);
        _mm256_store_si256((__m256i *)c->w[b][2 * k + 1][8 * h], zero ? _mm256_sub_epi16(odd, z) : odd);
    }
    for (int g = 0; wide && g < 4; g++) {
        int i = g / 2 * 4 + g % 2;
        /* all modulo 256: what is left is small */
        __m256i left = u_and(u_shl(p[g], U_DROP(bits)), u_set8(256 - (1 << U_DROP(bits))));
        __m256i right = _mm256_add_epi8(w[i], u_and(u_shl(w[i + 2], 4), u_set8(0xF0)));
        __m256i e = _mm256_add_epi8(_mm256_sub_epi8(left, right), u_set8(WORDS_BIAS));
        _mm256_store_si256((__m256i *)c->e[b][g][8 * h], e);
    }
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

U_INLINE __m256i words_bcast(const void *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

/* Keeps a sum as it stands in a register: left alone, gcc makes trees of sums and keeps their leaves in memory. */
#define WORDS_KEEP(v) __asm__("" : "+x"(v))

/* acc[h][t] += pairs [k0, k1) of a block; n[t]: the block's words of token t. */
U_INLINE void words_dot(__m256i acc[2][4], const int16_t w[16][16][2], const int16_t *n, long step, int k0, int k1,
                        int T)
{
#pragma GCC unroll 16
    for (int k = k0; k < k1; k++) {
        __m256i w0 = _mm256_load_si256((const __m256i *)w[k][0]), w1 = _mm256_load_si256((const __m256i *)w[k][8]);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            __m256i x = words_bcast(n + t * step + 2 * k);
            acc[0][t] = _mm256_add_epi32(acc[0][t], _mm256_madd_epi16(w0, x));
            WORDS_KEEP(acc[0][t]);
            acc[1][t] = _mm256_add_epi32(acc[1][t], _mm256_madd_epi16(w1, x));
            WORDS_KEEP(acc[1][t]);
        }
    }
}

/* acc[h][t] = sum of t * e over lines [g0, g1) of a block: at most 4 * 2 * 32 * 128, which 16 bits hold (below zero:
 * just). */
U_INLINE void words_rest(__m256i acc[2][4], const uint8_t e[4][16][4], const uint8_t *q, const cpu_qmeta *meta, int g0,
                         int g1, int T)
{
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
        __m256i v0 = _mm256_setzero_si256(), v1 = v0;
#pragma GCC unroll 4
        for (int g = g0; g < g1; g++) {
            __m256i x = words_bcast(q + t * 16 + 4 * g);
            v0 = _mm256_add_epi16(v0, _mm256_maddubs_epi16(_mm256_load_si256((const __m256i *)e[g][0]), x));
            WORDS_KEEP(v0);
            v1 = _mm256_add_epi16(v1, _mm256_maddubs_epi16(_mm256_load_si256((const __m256i *)e[g][8]), x));
            WORDS_KEEP(v1);
        }
        const int16_t *z = meta[t].z_lo;
        __m256i s = _mm256_set1_epi32(WORDS_BIAS * (g1 - g0 == 4 ? z[0] + z[1] : z[g0 / 2]));
        acc[0][t] = _mm256_sub_epi32(_mm256_madd_epi16(v0, _mm256_set1_epi16(1)), s);
        WORDS_KEEP(acc[0][t]);
        acc[1][t] = _mm256_sub_epi32(_mm256_madd_epi16(v1, _mm256_set1_epi16(1)), s);
        WORDS_KEEP(acc[1][t]);
    }
}

/* Blocks [0, n_block) of a chunk, which are blocks b0 .. of tokens t0 .. t0 + T, onto f32 sums acc[T][16]. meta: of the
 * first of these tokens, `step` tokens between its blocks. */
U_INLINE void words_tokens(const words_chunk *c, int n_block, const words_act *a, long nb, long b0, long t0,
                           const cpu_qmeta *meta, long step, float (*acc)[16], int T, int split, int min,
                           words_kind kind)
{
    long words = kind == WORDS_22 ? 64 : 32;
    __m256 f[2][4];
    for (int t = 0; t < T; t++)
        for (int h = 0; h < 2; h++)
            f[h][t] = _mm256_loadu_ps(&acc[t][8 * h]);
    for (int b = 0; b < n_block; b++) {
        long at = (t0 / 4 * nb + b0 + b) * 4 + t0 % 4;
        const cpu_qmeta *m = meta + (b0 + b) * step;
        const int16_t *n = a->n + at * words;
#pragma GCC unroll 2
        for (int part = 0; part <= split; part++) {
            int k0 = split ? 8 * part : 0, k1 = split ? 8 * part + 8 : 16;
            __m256i i[2][4], low[2][4];
            __m256 v[2][4];
            for (int t = 0; t < T; t++)
                i[0][t] = i[1][t] = low[0][t] = low[1][t] = _mm256_setzero_si256();
            if (kind == WORDS_22) {
                words_dot(low, c->w[b], n + 32, words, k0, k1, T);
                for (int t = 0; t < T; t++)
                    for (int h = 0; h < 2; h++)
                        v[h][t] = _mm256_cvtepi32_ps(low[h][t]);
                __asm__("" ::: "memory"); /* weights are to be read again, not carried over on the stack */
            }
            if (kind == WORDS_WIDE)
                words_rest(i, c->e[b], a->t + at * 16, m, k0 / 4, k1 / 4, T);
            words_dot(i, c->w[b], n, words, k0, k1, T);
            for (int t = 0; t < T; t++) {
                __m256 d = _mm256_set1_ps(m[t].d);
                for (int h = 0; h < 2; h++) {
                    __m256 s = _mm256_cvtepi32_ps(i[h][t]);
                    if (kind == WORDS_22)
                        s = _mm256_fmadd_ps(s, _mm256_set1_ps(128), v[h][t]);
                    f[h][t] = _mm256_fmadd_ps(_mm256_mul_ps(s, d), _mm256_load_ps(&c->d[b][part][8 * h]), f[h][t]);
                }
            }
        }
        for (int t = 0; min && t < T; t++) {
            for (int part = 0; part <= split; part++) {
                __m256 s = _mm256_set1_ps(split ? m[t].s[part] : m[t].s_all);
                for (int h = 0; h < 2; h++)
                    f[h][t] = _mm256_fnmadd_ps(_mm256_load_ps(&c->m[b][part][8 * h]), s, f[h][t]);
            }
        }
    }
    for (int t = 0; t < T; t++)
        for (int h = 0; h < 2; h++)
            _mm256_storeu_ps(&acc[t][8 * h], f[h][t]);
}

typedef void (*words_fn)(const words_chunk *c, int n_block, const words_act *a, long nb, long b0, long t0,
                         const cpu_qmeta *meta, long step, float (*acc)[16]);
#define WORDS_FN(name, T, split, min, kind)                                                                          \
    __attribute__((noinline)) static void name##_##T(const words_chunk *c, int n_block, const words_act *a, long nb, \
                                                     long b0, long t0, const cpu_qmeta *meta, long step,             \
                                                     float (*acc)[16])                                               \
    {                                                                                                                \
        words_tokens(c, n_block, a, nb, b0, t0, meta, step, acc, T, split, min, kind);                               \
    }
#define WORDS_FNS(name, split, min, kind) \
    WORDS_FN(name, 1, split, min, kind)   \
    WORDS_FN(name, 2, split, min, kind)   \
    WORDS_FN(name, 4, split, min, kind)
WORDS_FNS(narrow, 0, 0, WORDS_NARROW)
WORDS_FNS(narrow_min, 0, 1, WORDS_NARROW)
WORDS_FNS(narrow_split, 1, 0, WORDS_NARROW)
WORDS_FNS(narrow_both, 1, 1, WORDS_NARROW)
WORDS_FNS(wide, 0, 0, WORDS_WIDE)
WORDS_FNS(wide_min, 0, 1, WORDS_WIDE)
WORDS_FNS(wide_split, 1, 0, WORDS_WIDE)
WORDS_FNS(fine, 0, 0, WORDS_22)
WORDS_FNS(fine_min, 0, 1, WORDS_22)
WORDS_FNS(fine_split, 1, 0, WORDS_22)
WORDS_FNS(fine_both, 1, 1, WORDS_22)
#define WORDS_ROW(name) {name##_1, name##_2, name##_4}

/* [kind][split][min]: one, two, four tokens. No wide format has both. */
static const words_fn WORDS[WORDS_KINDS][2][2][3] = {
    [WORDS_NARROW] = {{WORDS_ROW(narrow), WORDS_ROW(narrow_min)}, {WORDS_ROW(narrow_split), WORDS_ROW(narrow_both)}},
    [WORDS_WIDE] = {{WORDS_ROW(wide), WORDS_ROW(wide_min)}, {WORDS_ROW(wide_split), {NULL}}},
    [WORDS_22] = {{WORDS_ROW(fine), WORDS_ROW(fine_min)}, {WORDS_ROW(fine_split), WORDS_ROW(fine_both)}}};

/* A format: opens super-blocks into a chunk; blocks a super-block and its bytes. */
typedef struct words_format {
    void (*open)(words_chunk *c, const uint8_t *s, long n_super);
    long sub;
    uint64_t bytes;
    int split, min;
    words_kind kind;
} words_format;

/* All panels times all tokens. scratch: cpu_mm_scratch(cols) bytes. */
static void words_all(const words_format *f, const cpu_panels *p, const cpu_qact *x, float *y, long ldy, long n_row,
                      const float *bias, void *scratch)
{
    long nb = x->nb, words = f->kind == WORDS_22 ? 64 : 32;
    words_chunk *c = scratch;
    float(*acc)[16] = (float(*)[16])(c + 1);
    words_act a = {.n = (int16_t *)(acc + WORDS_TOKENS)};
    a.t = (uint8_t *)(a.n + WORDS_TOKENS * nb * words);
    for (long t0 = 0; t0 < x->n_tok; t0 += WORDS_TOKENS) {
        long n_tok = x->n_tok - t0 < WORDS_TOKENS ? x->n_tok - t0 : WORDS_TOKENS;
        words_convert(x, t0, n_tok, f->kind, &a);
        for (long r = 0; r < n_row; r += 16) {
            const uint8_t *s = p->data + (uint64_t)(r / 16) * p->stride;
            memset(acc, 0, (size_t)n_tok * sizeof *acc);
            for (long b = 0; b < nb; b += WORDS_BLOCKS) {
                int n_block = nb - b < WORDS_BLOCKS ? (int)(nb - b) : WORDS_BLOCKS;
                f->open(c, s + (uint64_t)(b / f->sub) * f->bytes, n_block / f->sub);
                for (long t = 0, n; t < n_tok; t += n) {
                    long tile = (t0 + t) / CPU_TILE * CPU_TILE;
                    long step = x->n_tok - tile < CPU_TILE ? x->n_tok - tile : CPU_TILE;
                    n = n_tok - t >= 4 ? 4 : n_tok - t >= 2 ? 2 : 1;
                    WORDS[f->kind][f->split][f->min][n / 2](c, n_block, &a, nb, b, t,
                                                            x->meta + tile * nb + (t0 + t) % CPU_TILE, step, acc + t);
                }
            }
            long rows = n_row - r < 16 ? n_row - r : 16;
            for (long t = 0; t < n_tok; t++)
                for (long i = 0; i < rows; i++)
                    y[(t0 + t) * ldy + r + i] = bias ? acc[t][i] + bias[r + i] : acc[t][i];
        }
    }
}

#endif

/* mm_amx: tiles of sixteen rows x up to sixteen tokens, TDPBSSD. A panel is unpacked once into signed bytes, which lie
 * as a B tile wants them, and then meets every tile of tokens. Each block of 32 columns gives exact integer tiles (Q22:
 * three, of the high, middle and low bytes of the activations; Q12: two, of their own bytes and what pairs share),
 * which join the f32 sums in the order of mm_body.h; tiles of fewer than eight tokens go to mm_vnni, which agrees in
 * every bit. The tile state is the thread's own: set on entry, released on leaving. */
#include "backend/cpu/unpack.h"

#include "backend/cpu/pack.h"

enum { FEWEST = 8 /* tokens that pay for unpacking */ };

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
} tile_config;

/* An unpacked panel. */
typedef struct panel {
    const int8_t *w;  /* [nb][8 lines][16 rows][4] */
    const uint8_t *p; /* Q12: [nb][4 lines][16 rows][4], pairs as X_pairs gives them */
    const float *d;   /* [nb][16], split: [nb][2][16] */
    const float *m;   /* the same, of formats with minima */
    int drop, zero;   /* Q12: the unit of pairs is 2^drop; bytes are value + zero * 2^drop */
} panel;

/* Q12: tiles 0..3 sums; 4 and 5 activations, own and shared; 6 and 7 weights and their pairs. Q22: 0..5 sums, 6
 * activations, 7 weights. */
static void configure(int h, int split, cpu_qform form)
{
    tile_config c = {.palette = 1};
    int n_sum = form == CPU_Q22 ? 6 : 4;
    for (int i = 0; i < n_sum; i++) {
        c.colsb[i] = 64;
        c.rows[i] = (uint8_t)h;
    }
    for (int i = n_sum; i < (form == CPU_Q22 ? 7 : 6); i++) {
        c.colsb[i] = (uint16_t)((split ? 16 : 32) >> (form == CPU_Q12 && i == 5));
        c.rows[i] = (uint8_t)h;
    }
    for (int i = form == CPU_Q22 ? 7 : 6; i < 8; i++) {
        c.colsb[i] = 64;
        c.rows[i] = (uint8_t)((split ? 4 : 8) >> (form == CPU_Q12 && i == 7));
    }
    /* gcc 12's _tile_loadconfig names 8 of the 64 bytes it reads, so stores to the rest may be dropped (SIGILL). */
    __asm__ volatile("" : : "r"(&c) : "memory");
    _tile_loadconfig(&c);
}

/* One token's sums: their parts joined, scaled, added. Q12's bytes are as unpacked, so its sums are corrected for
 * zero. */
U_INLINE __m512 join(__m512 acc, const int32_t (*c)[CPU_TILE * 16], int t, const panel *p, cpu_qform form, int32_t z,
                     float da, __m512 d)
{
    __m512i e = _mm512_load_si512(c[0] + 16 * t), f = _mm512_load_si512(c[1] + 16 * t);
    __m512 sum;
    if (form == CPU_Q22) {
        e = _mm512_add_epi32(_mm512_slli_epi32(e, 7), f);
        __m512 low = _mm512_cvtepi32_ps(_mm512_load_si512(c[2] + 16 * t));
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(e), _mm512_set1_ps(128), low);
    } else {
        f = _mm512_add_epi32(f, _mm512_set1_epi32(-p->zero * z));
        f = _mm512_sll_epi32(f, _mm_cvtsi32_si128(p->drop));
        sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(e, 8), f));
    }
    return _mm512_fmadd_ps(_mm512_mul_ps(sum, _mm512_set1_ps(da)), d, acc);
}

/* A unit is what shares a scale: a block of 32 columns, or 16 where formats split. Tile registers are not renamed, and
 * a sum takes long to appear: so units alternate between two sets of tiles, a unit's sums are stored while the next one
 * is being multiplied, and are added up one unit later. */
#define DOT22(hi, mid, lo, u)                                               \
    do {                                                                    \
        const int8_t *at = split ? a + (u) / 2 * step + (u) % 2 * 16 : a + (u) * step; \
        _tile_zero(hi);                                                     \
        _tile_zero(mid);                                                    \
        _tile_zero(lo);                                                     \
        _tile_loadd(7, p->w + (u) * (split ? 256 : 512), 64);               \
        _tile_loadd(6, at, cpu_qblock(form));                               \
        _tile_dpbssd(hi, 6, 7);                                             \
        _tile_loadd(6, at + 32, cpu_qblock(form));                          \
        _tile_dpbssd(mid, 6, 7);                                            \
        _tile_loadd(6, at + 64, cpu_qblock(form));                          \
        _tile_dpbssd(lo, 6, 7);                                             \
    } while (0)
#define DOT12(hi, lo, u)                                                    \
    do {                                                                    \
        const int8_t *at = split ? a + (u) / 2 * step : a + (u) * step;     \
        long part = split ? (u) % 2 : 0;                                    \
        _tile_zero(hi);                                                     \
        _tile_zero(lo);                                                     \
        _tile_loadd(6, p->w + (u) * (split ? 256 : 512), 64);               \
        _tile_loadd(4, at + 16 * part, cpu_qblock(form));                   \
        _tile_dpbsud(hi, 4, 6);                                             \
        _tile_loadd(7, p->p + (u) * (split ? 128 : 256), 64);               \
        _tile_loadd(5, at + 32 + 8 * part, cpu_qblock(form));               \
        _tile_dpbsud(lo, 5, 7);                                             \
    } while (0)
/* Sets of tiles: EVEN and ODD units. */
#define DOT_EVEN(u)             \
    do {                        \
        if (form == CPU_Q22)    \
            DOT22(0, 1, 2, u);  \
        else                    \
            DOT12(0, 1, u);     \
    } while (0)
#define DOT_ODD(u)              \
    do {                        \
        if (form == CPU_Q22)    \
            DOT22(3, 4, 5, u);  \
        else                    \
            DOT12(2, 3, u);     \
    } while (0)
#define STORE_EVEN(c)                     \
    do {                                  \
        _tile_stored(0, (c)[0], 64);      \
        _tile_stored(1, (c)[1], 64);      \
        if (form == CPU_Q22)              \
            _tile_stored(2, (c)[2], 64);  \
    } while (0)
#define STORE_ODD(c)                                         \
    do {                                                     \
        if (form == CPU_Q22) {                               \
            _tile_stored(3, (c)[0], 64);                     \
            _tile_stored(4, (c)[1], 64);                     \
            _tile_stored(5, (c)[2], 64);                     \
        } else {                                             \
            _tile_stored(2, (c)[0], 64);                     \
            _tile_stored(3, (c)[1], 64);                     \
        }                                                    \
    } while (0)

typedef int32_t sums[3][CPU_TILE * 16];

U_INLINE void add_unit(__m512 *acc, const sums c, const panel *p, long u, const cpu_qmeta *am, int h, int split,
                       int min, cpu_qform form)
{
    __m512 d = _mm512_load_ps(p->d + 16 * u);
#pragma GCC unroll 16
    for (int t = 0; t < h; t++)
        acc[t] = join(acc[t], c, t, p, form, split ? am[t].z[u % 2] : am[t].z_all, am[t].d, d);
    if (!min || (split && u % 2 == 0))
        return;
    __m512 m0 = _mm512_load_ps(p->m + 16 * (split ? u - 1 : u)), m1 = _mm512_load_ps(p->m + 16 * u);
#pragma GCC unroll 16
    for (int t = 0; t < h; t++) {
        acc[t] = _mm512_fnmadd_ps(m0, _mm512_set1_ps(split ? am[t].s[0] : am[t].s_all), acc[t]);
        if (split)
            acc[t] = _mm512_fnmadd_ps(m1, _mm512_set1_ps(am[t].s[1]), acc[t]);
    }
}

U_INLINE void tile_body(const panel *p, long nb, const int8_t *a, const cpu_qmeta *am, int h, int split, int min,
                        cpu_qform form, float *y, long ldy, long n_row, const float *bias)
{
    _Alignas(64) sums c[2];
    __m512 acc[CPU_TILE];
    long n = split ? 2 * nb : nb, step = cpu_qblock(form) * h;
#define META(u) (am + (split ? (u) / 2 : (u)) * h)
#pragma GCC unroll 16
    for (int t = 0; t < h; t++)
        acc[t] = _mm512_setzero_ps();
    DOT_EVEN(0);
    long u = 0;
    for (; u + 2 < n; u += 2) {
        DOT_ODD(u + 1);
        STORE_EVEN(c[0]);
        if (u > 0)
            add_unit(acc, c[1], p, u - 1, META(u - 1), h, split, min, form);
        DOT_EVEN(u + 2);
        STORE_ODD(c[1]);
        add_unit(acc, c[0], p, u, META(u), h, split, min, form);
    }
    if (u > 0)
        add_unit(acc, c[1], p, u - 1, META(u - 1), h, split, min, form);
    if (u + 1 < n)
        DOT_ODD(u + 1);
    STORE_EVEN(c[0]);
    add_unit(acc, c[0], p, u, META(u), h, split, min, form);
    if (u + 1 < n) {
        STORE_ODD(c[1]);
        add_unit(acc, c[1], p, u + 1, META(u + 1), h, split, min, form);
    }
#undef META
    __mmask16 k = n_row >= 16 ? 0xFFFF : (__mmask16)((1u << n_row) - 1);
#pragma GCC unroll 16
    for (int t = 0; t < h; t++) {
        if (bias)
            acc[t] = _mm512_add_ps(acc[t], _mm512_maskz_loadu_ps(k, bias));
        _mm512_mask_storeu_ps(y + t * ldy, k, acc[t]);
    }
}

#define TILE_FN(name, h_const, split, min, form) \
    __attribute__((noinline)) static void name(const panel *p, long nb, const int8_t *a, const cpu_qmeta *am, int h, \
                                               float *y, long ldy, long n_row, const float *bias) \
    { \
        (void)h; \
        tile_body(p, nb, a, am, h_const, split, min, form, y, ldy, n_row, bias); \
    }
#define TILE_FNS(q, form)                         \
    TILE_FN(full_plain##q, CPU_TILE, 0, 0, form)  \
    TILE_FN(full_min##q, CPU_TILE, 0, 1, form)    \
    TILE_FN(full_split##q, CPU_TILE, 1, 0, form)  \
    TILE_FN(full_both##q, CPU_TILE, 1, 1, form)   \
    TILE_FN(part_plain##q, h, 0, 0, form)         \
    TILE_FN(part_min##q, h, 0, 1, form)           \
    TILE_FN(part_split##q, h, 1, 0, form)         \
    TILE_FN(part_both##q, h, 1, 1, form)
TILE_FNS(22, CPU_Q22)
TILE_FNS(12, CPU_Q12)

typedef void (*tile_fn)(const panel *p, long nb, const int8_t *a, const cpu_qmeta *am, int h, float *y, long ldy,
                        long n_row, const float *bias);

/* [form][whole tile or not][split][min] */
static const tile_fn TILE[CPU_QFORMS][2][2][2] = {
    {{{part_plain22, part_min22}, {part_split22, part_both22}},
     {{full_plain22, full_min22}, {full_split22, full_both22}}},
    {{{part_plain12, part_min12}, {part_split12, part_both12}},
     {{full_plain12, full_min12}, {full_split12, full_both12}}}};

/* Unpacked panels p[0..n) times every tile of x. */
static void all_tiles(const panel *p, const cpu_qact *x, cpu_qform form, int split, int min, float *y, long ldy,
                      long n_row, const float *bias)
{
    int configured = 0;
    for (long t0 = 0; t0 < x->n_tok; t0 += CPU_TILE) {
        int h = x->n_tok - t0 < CPU_TILE ? (int)(x->n_tok - t0) : CPU_TILE;
        if (h != configured)
            configure(h, split, form);
        configured = h;
        for (long r = 0; r < n_row; r += 16)
            TILE[form][h == CPU_TILE][split][min](&p[r / 16], x->nb, x->q + t0 * x->nb * cpu_qblock(form),
                                                  x->meta + t0 * x->nb, h, y + t0 * ldy + r, ldy, n_row - r,
                                                  bias ? bias + r : NULL);
    }
    _tile_release();
}

/* Panels of one format: unpacked into scratch ([nb][512] bytes, [nb][256] of pairs, then scales, then minima), then
 * multiplied. */
#define AMX_KERNEL(X, SUB, QB, SB)                                                                                     \
    U_INLINE void X##_open(const uint8_t *q, const uint8_t *s, long n_super, cpu_qform form, int8_t *w, uint8_t *p,    \
                           float *d, float *m)                                                                         \
    {                                                                                                                  \
        ub zero = u_set8(form == CPU_Q22 ? X##_ZERO : 0);                                                              \
        for (long b = 0; b < n_super; b++, q += (QB) + (SB), s += (QB) + (SB))                                         \
            _Pragma("GCC unroll 8") for (int j = 0; j < (SUB); j++)                                                    \
            {                                                                                                          \
                ub v[8], pv[4];                                                                                        \
                uf dv[2], mv[2];                                                                                       \
                X##_unpack(q, j, v);                                                                                   \
                X##_scales(s, 0, j, dv, mv);                                                                           \
                for (int k = 0; k < 8; k++) {                                                                          \
                    ub value = form == CPU_Q22 && X##_ZERO ? _mm512_sub_epi8(v[k], zero) : v[k];                       \
                    _mm512_store_si512(w + 64 * k, value);                                                             \
                }                                                                                                      \
                if (form == CPU_Q12) {                                                                                 \
                    X##_pairs(q, j, v, pv);                                                                            \
                    for (int k = 0; k < 4; k++)                                                                        \
                        _mm512_store_si512(p + 64 * k, pv[k]);                                                         \
                    p += 256;                                                                                          \
                }                                                                                                      \
                for (int i = 0; i < 1 + X##_SPLIT; i++) {                                                              \
                    _mm512_store_ps(d + 16 * i, dv[i]);                                                                \
                    if (X##_MIN)                                                                                       \
                        _mm512_store_ps(m + 16 * i, mv[i]);                                                            \
                }                                                                                                      \
                w += 512;                                                                                              \
                d += 16 * (1 + X##_SPLIT);                                                                             \
                m += 16 * (1 + X##_SPLIT);                                                                             \
            }                                                                                                          \
    }                                                                                                                  \
    __attribute__((noinline)) static void X##_open22(const uint8_t *q, long n_super, int8_t *w, uint8_t *p, float *d,  \
                                                     float *m)                                                         \
    {                                                                                                                  \
        X##_open(q + (SB), q, n_super, CPU_Q22, w, p, d, m);                                                           \
    }                                                                                                                  \
    __attribute__((noinline)) static void X##_open12(const uint8_t *q, long n_super, int8_t *w, uint8_t *p, float *d,  \
                                                     float *m)                                                         \
    {                                                                                                                  \
        X##_open(q + (SB), q, n_super, CPU_Q12, w, p, d, m);                                                           \
    }                                                                                                                  \
    static void X##_amx22(const cpu_panels *in, const cpu_qact *x, float *y, long ldy, long n_row, const float *bias,  \
                          void *scratch)                                                                               \
    {                                                                                                                  \
        static const format f = {X##_open22, SUB, X##_SPLIT, X##_MIN, 0, 0, PACK_##X};                                 \
        multiply(&f, CPU_Q22, in, x, y, ldy, n_row, bias, scratch);                                                    \
    }                                                                                                                  \
    static void X##_amx12(const cpu_panels *in, const cpu_qact *x, float *y, long ldy, long n_row, const float *bias,  \
                          void *scratch)                                                                               \
    {                                                                                                                  \
        static const format f = {X##_open12, SUB, X##_SPLIT, X##_MIN,                                                  \
                                 U_DROP(X##_BITS), X##_ZERO >> U_DROP(X##_BITS), PACK_##X};                            \
        multiply(&f, CPU_Q12, in, x, y, ldy, n_row, bias, scratch);                                                    \
    }

typedef struct format {
    void (*open)(const uint8_t *q, long n_super, int8_t *w, uint8_t *p, float *d, float *m);
    long sub; /* blocks of 32 a super-block */
    int split, min, drop, zero;
    int id; /* cpu_pack_id */
} format;

static void multiply(const format *f, cpu_qform form, const cpu_panels *in, const cpu_qact *x, float *y, long ldy,
                     long n_row, const float *bias, void *scratch)
{
    long last = x->n_tok % CPU_TILE, nb = x->nb, block = 16 * cpu_mm_panels((uint64_t)nb * 32);
    cpu_qact few = *x, many = *x;
    if (last && last < FEWEST) { /* the last tile is short: it is laid out by itself, so it can go elsewhere */
        many.n_tok -= last;
        few.q += many.n_tok * nb * cpu_qblock(form);
        few.meta += many.n_tok * nb;
        few.n_tok = last;
        cpu_mm_vnni.fn[form][f->id](in, &few, y + many.n_tok * ldy, ldy, n_row, bias, scratch);
        if (!many.n_tok)
            return;
    }
    for (long r0 = 0; r0 < n_row; r0 += block) {
        long n = n_row - r0 < block ? n_row - r0 : block;
        panel p[16];
        int8_t *w = scratch;
        for (long r = 0; r < n; r += 16, w += nb * 1024) {
            uint8_t *pairs = (uint8_t *)w + 512 * nb;
            float *d = (float *)(pairs + 256 * nb), *m = d + 32 * nb;
            f->open(in->data + (uint64_t)((r0 + r) / 16) * in->stride, nb / f->sub, w, pairs, d, m);
            p[r / 16] = (panel){w, pairs, d, m, f->drop, f->zero};
        }
        __asm__ volatile("" ::: "memory"); /* the compiler does not know that tile loads read what was just stored */
        all_tiles(p, &many, form, f->split, f->min, y + r0, ldy, n, bias ? bias + r0 : NULL);
    }
}

/* The formats' ids by the names of MM_FORMATS. */
enum {
    PACK_q4_0 = PACK_Q4_0, PACK_q4_1 = PACK_Q4_1, PACK_q5_0 = PACK_Q5_0, PACK_q5_1 = PACK_Q5_1, PACK_q8_0 = PACK_Q8_0,
    PACK_q2_k = PACK_Q2_K, PACK_q3_k = PACK_Q3_K, PACK_q4_k = PACK_Q4_K, PACK_q5_k = PACK_Q5_K, PACK_q6_k = PACK_Q6_K,
    PACK_iq4_nl = PACK_IQ4_NL, PACK_iq4_xs = PACK_IQ4_XS, PACK_mxfp4 = PACK_MXFP4, PACK_nvfp4 = PACK_NVFP4
};

MM_FORMATS(AMX_KERNEL)

const cpu_mm cpu_mm_amx = {.isa = "AMX + AVX-512 VNNI", .fn = {MM_TABLE(amx22), MM_TABLE(amx12)}};

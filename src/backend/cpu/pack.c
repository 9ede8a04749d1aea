/* Packing, one function a format. Source blocks are described in quant/blocks.h; what a panel holds of one super-block
 * of sixteen rows is said above each function: "q" 64-byte lines (16 rows x 4 bytes), "s" arrays of sixteen. */
#include "backend/cpu/pack.h"

#include <stddef.h>
#include <string.h>

#include "quant/blocks.h"

/* n groups of four bytes of row r, one to each of n lines. */
static inline void lines(uint8_t *q, int r, const uint8_t *src, int n)
{
    q += 4 * r;
    for (int i = 0; i < n; i++)
        memcpy(q + 64 * i, src + 4 * i, 4);
}

/* The nibbles of 32 columns of row r as four lines: columns 16g + i and 16g + 8 + i share a byte. src: 16 bytes, low
 * halves columns 0..15, high halves 16..31. */
static inline void nibbles(uint8_t *q, int r, const uint8_t *src)
{
    uint8_t t[16];
    for (int i = 0; i < 8; i++) {
        t[i] = (uint8_t)((src[i] & 15) | src[i + 8] << 4);
        t[i + 8] = (uint8_t)(src[i] >> 4 | (src[i + 8] & 0xF0));
    }
    lines(q, r, t, 4);
}

/* The same of block j of a K format, which keeps two blocks in the halves of 32 bytes. */
static inline void nibbles_k(uint8_t *q, int r, const uint8_t *qs, int j)
{
    uint8_t t[16];
    qs += j / 2 * 32;
    for (int c = 0; c < 16; c++) /* as a legacy block has them */
        t[c] = (uint8_t)((qs[c] >> (4 * (j % 2)) & 15) | (qs[c + 16] >> (4 * (j % 2)) & 15) << 4);
    nibbles(q, r, t);
}

static inline void half(uint8_t *s, int r, const uint8_t *src) { memcpy(s + 2 * r, src, 2); }

/* Bits 4k + i of h to bit k of byte i: the fifth bits of 32 values in the order of the lines. */
static inline uint32_t spread_bits(uint32_t h)
{
    uint32_t o = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t t = h >> i & 0x11111111u;
        t = (t | t >> 3) & 0x03030303u;
        t = (t | t >> 6) & 0x000F000Fu;
        t = (t | t >> 12) & 0xFFu;
        o |= t << (8 * i);
    }
    return o;
}

/* Runs the last argument for every super-block b and row r that exists, `in` being its bytes and q, s its places in the
 * panel. */
#define EACH_BLOCK(T, qb, sb, ...)                                         \
    for (int r = 0; r < 16; r++) {                                         \
        const uint8_t *in = row[r];                                        \
        uint8_t *q = q0, *s = s0;                                          \
        if (!in) /* rows past the end multiply by zero and are not stored */ \
            continue;                                                      \
        for (uint64_t b = 0; b < n; b++, in += sizeof(T), q += (qb) + (sb), s += (qb) + (sb)) { \
            __VA_ARGS__                                                    \
        }                                                                  \
    }

#define PACKER(name) static void name(const uint8_t *const row[16], uint64_t n, uint8_t *q0, uint8_t *s0)
#define AT(T, field) (in + offsetof(T, field))

/* q: 4 lines of nibbles; s: d */
PACKER(pack_q4_0) { EACH_BLOCK(blk_q4_0, 256, 32, nibbles(q, r, AT(blk_q4_0, qs)); half(s, r, AT(blk_q4_0, d));) }
PACKER(pack_iq4_nl)
{
    EACH_BLOCK(blk_iq4_nl, 256, 32, nibbles(q, r, AT(blk_iq4_nl, qs)); half(s, r, AT(blk_iq4_nl, d));)
}
PACKER(pack_mxfp4) { EACH_BLOCK(blk_mxfp4, 256, 16, nibbles(q, r, AT(blk_mxfp4, qs)); s[r] = *AT(blk_mxfp4, e);) }

/* the same; s: d, m */
PACKER(pack_q4_1)
{
    EACH_BLOCK(blk_q4_1, 256, 64, {
        nibbles(q, r, AT(blk_q4_1, qs));
        half(s, r, AT(blk_q4_1, d));
        half(s + 32, r, AT(blk_q4_1, m));
    })
}

/* q: 4 lines of nibbles, a line of fifth bits (bit k: columns 4k..4k+3); s: d (, m) */
PACKER(pack_q5_0)
{
    EACH_BLOCK(blk_q5_0, 320, 32, {
        uint32_t h;
        nibbles(q, r, AT(blk_q5_0, qs));
        memcpy(&h, AT(blk_q5_0, qh), 4);
        h = spread_bits(h);
        lines(q + 256, r, (const uint8_t *)&h, 1);
        half(s, r, AT(blk_q5_0, d));
    })
}
PACKER(pack_q5_1)
{
    EACH_BLOCK(blk_q5_1, 320, 64, {
        uint32_t h;
        nibbles(q, r, AT(blk_q5_1, qs));
        memcpy(&h, AT(blk_q5_1, qh), 4);
        h = spread_bits(h);
        lines(q + 256, r, (const uint8_t *)&h, 1);
        half(s, r, AT(blk_q5_1, d));
        half(s + 32, r, AT(blk_q5_1, m));
    })
}

/* q: 8 lines of q + 128; s: d */
PACKER(pack_q8_0)
{
    EACH_BLOCK(blk_q8_0, 512, 32, {
        uint32_t t[8];
        memcpy(t, AT(blk_q8_0, qs), 32);
        for (int i = 0; i < 8; i++)
            t[i] ^= 0x80808080u;
        lines(q, r, (const uint8_t *)t, 8);
        half(s, r, AT(blk_q8_0, d));
    })
}

/* Two lines of bit pairs of block j of row r: bits 2m of line g are columns 16g + 4m .. 16g + 4m + 3. qs: as in K
 * formats. */
static inline void bit_pairs(uint8_t *q, int r, const uint8_t *qs, int j)
{
    uint8_t t[8] = {0};
    for (int c = 0; c < 32; c++)
        t[c / 16 * 4 + c % 4] |= (uint8_t)((qs[j / 4 * 32 + c] >> (2 * (j % 4)) & 3) << (2 * (c / 4 % 4)));
    lines(q, r, t, 2);
}

/* One line of bit j of 32 bytes h: bit k of it is columns 4k .. 4k + 3. */
static inline void bit_line(uint8_t *q, int r, const uint8_t *h, int j)
{
    uint32_t v = 0;
    for (int c = 0; c < 32; c++)
        v |= (uint32_t)(h[c] >> j & 1) << c;
    v = spread_bits(v);
    lines(q, r, (const uint8_t *)&v, 1);
}

/* q: 2 lines of bit pairs a block of 32 columns; s: d, dmin, 16 x (scale | min << 4) */
PACKER(pack_q2_k)
{
    EACH_BLOCK(blk_q2_k, 1024, 320, {
        for (int j = 0; j < 8; j++)
            bit_pairs(q + 128 * j, r, AT(blk_q2_k, qs), j);
        half(s, r, AT(blk_q2_k, d));
        half(s + 32, r, AT(blk_q2_k, dmin));
        for (int g = 0; g < 16; g++)
            s[64 + 16 * g + r] = AT(blk_q2_k, scales)[g];
    })
}

/* q: 2 lines of bit pairs and one of third bits a block of 32 columns; s: d, 16 signed scales */
PACKER(pack_q3_k)
{
    EACH_BLOCK(blk_q3_k, 1536, 288, {
        for (int j = 0; j < 8; j++) {
            bit_pairs(q + 192 * j, r, AT(blk_q3_k, qs), j);
            bit_line(q + 192 * j + 128, r, AT(blk_q3_k, hmask), j);
        }
        half(s, r, AT(blk_q3_k, d));
        const uint8_t *c = AT(blk_q3_k, scales);
        for (int g = 0; g < 16; g++) {
            int low = c[g % 8] >> (g < 8 ? 0 : 4) & 15, high = c[8 + g % 4] >> (2 * (g / 4)) & 3;
            s[32 + 16 * g + r] = (uint8_t)((low | high << 4) - 32);
        }
    })
}

/* Scales and minima of q4_k and q5_k: 8 scales, then 8 minima, a byte each. */
static inline void k_scales(uint8_t *s, int r, const uint8_t *c)
{
    for (int g = 0; g < 4; g++) {
        s[16 * g + r] = c[g] & 63;
        s[16 * (8 + g) + r] = c[g + 4] & 63;
        s[16 * (4 + g) + r] = (uint8_t)((c[g + 8] & 15) | (c[g] >> 6) << 4);
        s[16 * (12 + g) + r] = (uint8_t)((c[g + 8] >> 4) | (c[g + 4] >> 6) << 4);
    }
}

/* q: 32 lines of nibbles, 4 a block of 32 columns; s: d, dmin, 8 scales, 8 minima */
PACKER(pack_q4_k)
{
    EACH_BLOCK(blk_q4_k, 2048, 320, {
        for (int j = 0; j < 8; j++)
            nibbles_k(q + 256 * j, r, AT(blk_q4_k, qs), j);
        half(s, r, AT(blk_q4_k, d));
        half(s + 32, r, AT(blk_q4_k, dmin));
        k_scales(s + 64, r, AT(blk_q4_k, scales));
    })
}

/* q: 4 lines of nibbles and one of fifth bits a block of 32 columns; s: the same */
PACKER(pack_q5_k)
{
    EACH_BLOCK(blk_q5_k, 2560, 320, {
        for (int j = 0; j < 8; j++) {
            nibbles_k(q + 320 * j, r, AT(blk_q5_k, qs), j);
            bit_line(q + 320 * j + 256, r, AT(blk_q5_k, qh), j);
        }
        half(s, r, AT(blk_q5_k, d));
        half(s + 32, r, AT(blk_q5_k, dmin));
        k_scales(s + 64, r, AT(blk_q5_k, scales));
    })
}

/* The 256 values of a block, 0..63. */
static inline void q6_values(uint8_t v[256], const uint8_t *ql, const uint8_t *qh)
{
    for (int half = 0; half < 2; half++, v += 128, ql += 64, qh += 32)
        for (int i = 0; i < 128; i++) {
            int low = ql[i % 64] >> (i < 64 ? 0 : 4) & 15, high = qh[i % 32] >> (2 * (i / 32)) & 3;
            v[i] = (uint8_t)(low | high << 4);
        }
}

/* q: for each sixteen columns three lines of columns 0..11, with columns 12..15 two bits a line above them, so that 64
 * columns need no line twice; s: d, 16 signed scales, nothing (32 bytes, so that lines begin where cache lines do) */
PACKER(pack_q6_k)
{
    EACH_BLOCK(blk_q6_k, 3072, 320, {
        uint8_t v[256];
        q6_values(v, AT(blk_q6_k, ql), AT(blk_q6_k, qh));
        for (int g = 0; g < 16; g++) {
            uint8_t t[12];
            for (int i = 0; i < 12; i++)
                t[i] = (uint8_t)(v[16 * g + i] | (v[16 * g + 12 + i % 4] >> (2 * (i / 4)) & 3) << 6);
            lines(q + 192 * g, r, t, 3);
        }
        half(s, r, AT(blk_q6_k, d));
        for (int g = 0; g < 16; g++)
            s[32 + 16 * g + r] = AT(blk_q6_k, scales)[g];
    })
}

/* q: 32 lines of nibbles, 4 a block of 32 columns; s: d, 8 signed scales */
PACKER(pack_iq4_xs)
{
    EACH_BLOCK(blk_iq4_xs, 2048, 160, {
        for (int i = 0; i < 8; i++)
            nibbles(q + 256 * i, r, AT(blk_iq4_xs, qs) + 16 * i);
        half(s, r, AT(blk_iq4_xs, d));
        const uint8_t *h = AT(blk_iq4_xs, scales_h), *l = AT(blk_iq4_xs, scales_l);
        for (int g = 0; g < 8; g++) {
            int low = l[g / 2] >> (4 * (g % 2)) & 15, high = h[g / 4] >> (2 * (g % 4)) & 3;
            s[32 + 16 * g + r] = (uint8_t)((low | high << 4) - 32);
        }
    })
}

/* q: 8 lines of nibbles as in the file; s: 4 E4M3 scales */
PACKER(pack_nvfp4)
{
    EACH_BLOCK(blk_nvfp4, 512, 64, {
        lines(q, r, AT(blk_nvfp4, qs), 8);
        for (int g = 0; g < 4; g++) {
            uint8_t e = AT(blk_nvfp4, d)[g];
            s[16 * g + r] = e == 0x7F ? 0 : e & 0x7F;
        }
    })
}

const cpu_pack cpu_pack_table[PACK_COUNT] = {
    [PACK_Q4_0] = {QUANT_Q4_0, 32, sizeof(blk_q4_0), 256, 32, pack_q4_0},
    [PACK_Q4_1] = {QUANT_Q4_1, 32, sizeof(blk_q4_1), 256, 64, pack_q4_1},
    [PACK_Q5_0] = {QUANT_Q5_0, 32, sizeof(blk_q5_0), 320, 32, pack_q5_0},
    [PACK_Q5_1] = {QUANT_Q5_1, 32, sizeof(blk_q5_1), 320, 64, pack_q5_1},
    [PACK_Q8_0] = {QUANT_Q8_0, 32, sizeof(blk_q8_0), 512, 32, pack_q8_0},
    [PACK_Q2_K] = {QUANT_Q2_K, 256, sizeof(blk_q2_k), 1024, 320, pack_q2_k},
    [PACK_Q3_K] = {QUANT_Q3_K, 256, sizeof(blk_q3_k), 1536, 288, pack_q3_k},
    [PACK_Q4_K] = {QUANT_Q4_K, 256, sizeof(blk_q4_k), 2048, 320, pack_q4_k},
    [PACK_Q5_K] = {QUANT_Q5_K, 256, sizeof(blk_q5_k), 2560, 320, pack_q5_k},
    [PACK_Q6_K] = {QUANT_Q6_K, 256, sizeof(blk_q6_k), 3072, 320, pack_q6_k},
    [PACK_IQ4_NL] = {QUANT_IQ4_NL, 32, sizeof(blk_iq4_nl), 256, 32, pack_iq4_nl},
    [PACK_IQ4_XS] = {QUANT_IQ4_XS, 256, sizeof(blk_iq4_xs), 2048, 160, pack_iq4_xs},
    [PACK_MXFP4] = {QUANT_MXFP4, 32, sizeof(blk_mxfp4), 256, 16, pack_mxfp4},
    [PACK_NVFP4] = {QUANT_NVFP4, 64, sizeof(blk_nvfp4), 512, 64, pack_nvfp4},
};

const cpu_pack *cpu_pack_find(quant_id id)
{
    for (size_t i = 0; i < PACK_COUNT; i++)
        if (cpu_pack_table[i].pack && cpu_pack_table[i].id == id)
            return &cpu_pack_table[i];
    return NULL;
}

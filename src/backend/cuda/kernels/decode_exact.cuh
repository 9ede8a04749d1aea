/* decode_exact: from a tile's bytes (params.h) to the values that src/quant decodes, as f32: the tiles of --precise
 * hold the file's own factors (no unit). A unit is 16 columns of a row, 64c + 16t .. + 15: what a lane of decode.cuh
 * has of a chunk and half. unit_load() fetches one, unit_four() makes four of its values. Each value is rounded once at
 * most, as there: Q4_K and Q5_K where the minimum is added, Q6_K where q times the scale is multiplied by d.
 * Plain C++ but for prmt and two conversions, so that a program on the host can bring its own and compare. */
#ifndef IMP_CUDA_DECODE_EXACT_CUH
#define IMP_CUDA_DECODE_EXACT_CUH

#ifdef __CUDACC__
#include "ptx.cuh"
DEV float bits_float(u32 b) { return __uint_as_float(b); }
#endif

template <int L> struct exact_unit {
    static constexpr int WORDS = L == LAY_F32                    ? 16
                                 : L == LAY_F16 || L == LAY_BF16 ? 8
                                 : L == LAY_I8 || L == LAY_F8    ? 4
                                                                 : 2;
    u32 w[WORDS]; /* values; indices below are taken modulo WORDS for the branches of other layouts */
    u32 s, d, hi; /* as the tile has them: scale (and minimum), factor(s), upper bits */
};

/* Row 8 * half + lane / 4 of a tile, its columns 64 * c + 16 * (lane % 4) .. + 15. */
template <int L> DEV void unit_load(const u8 *tile, u32 lane, u32 half, u32 c, exact_unit<L> &o)
{
    constexpr int W = exact_unit<L>::WORDS;
    const u32 t = lane & 3, r = half * 8 + (lane >> 2), at = (c * 2 + half) * 32 + lane;
    o.s = o.d = o.hi = 0;
    if (L == LAY_F32) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            const uint4 v = *(const uint4 *)(tile + ((c * 2 + half) * 4 + j) * 512 + lane * 16);
            o.w[4 * j % W] = v.x, o.w[(4 * j + 1) % W] = v.y, o.w[(4 * j + 2) % W] = v.z, o.w[(4 * j + 3) % W] = v.w;
        }
    } else if (L == LAY_F16 || L == LAY_BF16) { /* words 2j and 2j + 1 of a step */
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            o.w[i % W] = *(const u32 *)(tile + (c * 4 + i / 2) * 512 + lane * 16 + (i & 1) * 8 + half * 4);
    } else if (L == LAY_I8 || L == LAY_F8) {
        const uint4 v = *(const uint4 *)(tile + at * 16);
        o.w[0] = v.x, o.w[1] = v.y, o.w[2 % W] = v.z, o.w[3 % W] = v.w;
        o.s = *(const u16 *)(tile + 4096 + (L == LAY_I8 ? (r * 2 + (t >> 1)) * 8 + c * 2 : r * 4 + (c >> 1) * 2));
    } else {
        const uint2 v = *(const uint2 *)(tile + at * 8);
        o.w[0] = v.x, o.w[1] = v.y;
        if (L == LAY_U4) {
            o.s = *(const u16 *)(tile + 2048 + (r * 2 + (t >> 1)) * 8 + c * 2);
        } else if (L == LAY_NV4) {
            o.s = tile[2048 + (r * 4 + t) * 4 + c];
        } else if (L == LAY_Q6K) {
            o.s = tile[3072 + (r * 4 + t) * 4 + c];
            o.d = *(const u16 *)(tile + 3328 + r * 2);
            o.hi = *(const u32 *)(tile + 2048 + (half * 32 + lane) * 16 + c * 4);
        } else {
            const u32 so = L == LAY_Q4K ? 2048 : 2560;
            o.s = *(const u16 *)(tile + so + (r * 2 + (t >> 1)) * 8 + c * 2);
            o.d = *(const u32 *)(tile + so + 256 + r * 4);
            if (L == LAY_Q5K)
                o.hi = *(const u32 *)(tile + 2048 + lane * 16 + (half * 2 + (c >> 1)) * 4) >> 8 * (c & 1);
        }
    }
}

/* q + zero as a float, q < 2^23: the bits of 2^23 + q, less 2^23. */
DEV float small_int(u32 q, float zero) { return bits_float(0x4B000000u | q) - (8388608.0f - zero); }

/* An E4M3 number without its sign: a subnormal counts units of 2^-9. */
DEV float e4m3_magnitude(u32 b)
{
    return b < 8 ? small_int(b, 0.0f) * 0.001953125f : bits_float((b << 20) + 0x3C000000u);
}

/* What all values of a unit share: value = q * scale + least. */
struct unit_scale {
    float scale, least;
};
template <int L> DEV unit_scale unit_factors(const exact_unit<L> &u)
{
    unit_scale f = {1.0f, 0.0f};
    if (L == LAY_I8 || L == LAY_U4 || L == LAY_F8)
        f.scale = h2f((u16)u.s);
    if (L == LAY_NV4)
        f.scale = e4m3_magnitude(u.s);
    if (L == LAY_Q4K || L == LAY_Q5K) { /* products of 17 bits */
        f.scale = h2f((u16)u.d) * small_int(u.s & 255u, 0.0f);
        f.least = h2f((u16)(u.d >> 16)) * small_int(u.s >> 8, 0.0f);
    }
    if (L == LAY_Q6K)
        f.scale = h2f((u16)u.d) * small_int(u.s, -128.0f);
    return f;
}

/* Values 4j .. 4j + 3; j is known when this is compiled. */
template <int L> DEV void unit_four(const exact_unit<L> &u, const unit_scale &f, const u32 *lut, int j, float *v)
{
    constexpr int W = exact_unit<L>::WORDS;
    u32 four = 0;
    if (L == LAY_U4 || L == LAY_NV4) { /* through the table, a byte a value */
        const u32 n = u.w[j >> 1] >> 16 * (j & 1);
        const u32 sel = n & 0x7777, lo = prmt(lut[0], lut[1], sel), hi = prmt(lut[2], lut[3], sel);
        four = prmt(lo, hi, (n & 0x8888) >> 1 | 0x3210);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int k = 4 * j + i, p = k >> 1; /* pairs of neighbours: the odd one lies 16 bits higher */
        if (L == LAY_F32) {
            v[i] = bits_float(u.w[k % W]);
        } else if (L == LAY_F16) {
            v[i] = h2f((u16)(u.w[p % W] >> 16 * (k & 1)));
        } else if (L == LAY_BF16) {
            v[i] = bits_float(k & 1 ? u.w[p % W] & 0xFFFF0000u : u.w[p % W] << 16);
        } else if (L == LAY_F8) {
            const u32 b = u.w[j % W] >> 8 * i & 255u;
            const float m = e4m3_magnitude(b & 127u) * f.scale;
            v[i] = b & 128u ? -m : m;
        } else if (L == LAY_I8 || L == LAY_U4 || L == LAY_NV4) {
            const u32 b = (L == LAY_I8 ? u.w[j % W] : four) >> 8 * i & 255u;
            v[i] = small_int(b, -128.0f) * f.scale;
        } else {
            u32 q = u.w[p >> 2] >> (4 * (p & 3) + 16 * (k & 1)) & 15u;
            if (L == LAY_Q5K)
                q |= (u.hi >> (p + 16 * (k & 1)) & 1u) << 4;
            if (L == LAY_Q6K)
                q |= (u.hi >> (Q6K_HI(p) + 16 * (k & 1)) & 3u) << 4;
            v[i] = L == LAY_Q6K ? small_int(q, -32.0f) * f.scale : fmaf(small_int(q, 0.0f), f.scale, f.least);
        }
    }
}

/* As LAYOUT_SWITCH, over the layouts of --precise. */
#define EXACT_SWITCH(layout, ...)                              \
    switch (layout) {                                           \
    case LAY_F16: { constexpr int L = LAY_F16; __VA_ARGS__ } break;    \
    case LAY_BF16: { constexpr int L = LAY_BF16; __VA_ARGS__ } break;  \
    case LAY_F32: { constexpr int L = LAY_F32; __VA_ARGS__ } break;    \
    case LAY_I8: { constexpr int L = LAY_I8; __VA_ARGS__ } break;      \
    case LAY_U4: { constexpr int L = LAY_U4; __VA_ARGS__ } break;      \
    case LAY_NV4: { constexpr int L = LAY_NV4; __VA_ARGS__ } break;    \
    case LAY_Q4K: { constexpr int L = LAY_Q4K; __VA_ARGS__ } break;    \
    case LAY_Q5K: { constexpr int L = LAY_Q5K; __VA_ARGS__ } break;    \
    case LAY_Q6K: { constexpr int L = LAY_Q6K; __VA_ARGS__ } break;    \
    default: { constexpr int L = LAY_F8; __VA_ARGS__ } break;          \
    }

#endif

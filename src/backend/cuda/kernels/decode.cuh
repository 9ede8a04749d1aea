/* decode: from a tile's bytes (params.h) to A fragments of mma.m16n8k16, one function pair a layout. Everything that
 * multiplies weights is written once over these: tile_scales() once a tile, chunk() for each of its four chunks.
 * a[j] of a chunk is step j's fragment. Values are f16, a matrix' `unit` times too small: exact for F16, I8 with
 * d = 2^n, NV4, MXFP4; one rounding else.
 * An integer of up to ten bits, masked out of its word, is a subnormal f16 as it stands, q * 2^-24 (q * 2^-20 four bits
 * higher up): one fma with a scale 2^24 times as large gives the value. Scales that large need the matrix' unit. */
#ifndef IMP_CUDA_DECODE_CUH
#define IMP_CUDA_DECODE_CUH

#include "ptx.cuh"

/* Where a tile lies: shared or global memory. */
struct in_smem {
    u32 p;
    __device__ __forceinline__ u32 ld16(u32 o) const { return lds16(p + o); }
    __device__ __forceinline__ u32 ld32(u32 o) const { return lds32(p + o); }
    __device__ __forceinline__ uint2 ld64(u32 o) const { return lds64(p + o); }
    __device__ __forceinline__ uint4 ld128(u32 o) const { return lds128(p + o); }
};
struct in_gmem {
    const u8 *p;
    __device__ __forceinline__ u32 ld16(u32 o) const { return *(const u16 *)(p + o); }
    __device__ __forceinline__ u32 ld32(u32 o) const { return *(const u32 *)(p + o); }
    __device__ __forceinline__ uint2 ld64(u32 o) const { return *(const uint2 *)(p + o); }
    __device__ __forceinline__ uint4 ld128(u32 o) const { return *(const uint4 *)(p + o); }
};

struct scales {
    u32 s[2][4], r[2][4]; /* [half]: what tile_scales of the layout put there */
    uint4 hi[2];
};

/* As moves of halves: the assembler then reads a half as an operand of the instruction behind it. */
DEV u32 splat_lo(u32 v)
{
    u32 d;
    asm("{.reg .b16 l,h; mov.b32 {l,h},%1; mov.b32 %0,{l,l};}" : "=r"(d) : "r"(v));
    return d;
}
DEV u32 splat_hi(u32 v)
{
    u32 d;
    asm("{.reg .b16 l,h; mov.b32 {l,h},%1; mov.b32 %0,{h,h};}" : "=r"(d) : "r"(v));
    return d;
}
#define H_M1024 0xE400E400u
#define H_M1152 0xE480E480u
#define H_1_16 0x2C002C00u
#define H_M1024_M16 0xCC00E400u
#define H_MIN_I8 0x80808080u /* -128 * 2^-24 */
#define H_MIN_Q6 0x80208020u /* -32 * 2^-24 */

template <int L, class S> DEV void tile_scales(const S &src, u32 lane, scales &q)
{
    u32 g = lane >> 2, t = lane & 3;
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
        u32 r = h * 8 + g;
        if (L == LAY_I8 || L == LAY_U4) {
            uint2 v = src.ld64((L == LAY_I8 ? 4096 : 2048) + (r * 2 + (t >> 1)) * 8);
            q.s[h][0] = v.x, q.s[h][1] = v.y;
            if (L == LAY_I8)
                q.r[h][0] = hmul2(v.x, H_MIN_I8), q.r[h][1] = hmul2(v.y, H_MIN_I8);
        } else if (L == LAY_NV4) {
            u32 v = src.ld32(2048 + (r * 4 + t) * 4);
            q.s[h][0] = e4m3x2_f16x2(v), q.s[h][1] = e4m3x2_f16x2(v >> 16);
        } else if (L == LAY_Q4K || L == LAY_Q5K) { /* {scale, min / 64} of each chunk; r: a sixteenth of them */
            const u32 o = L == LAY_Q4K ? 2048 : 2560;
            uint2 v = src.ld64(o + (r * 2 + (t >> 1)) * 8);
            u32 d = src.ld32(o + 256 + r * 4);
#pragma unroll
            for (int c = 0; c < 4; c++) {
                q.s[h][c] = hmul2(hadd2(prmt(c & 2 ? v.y : v.x, 0x4C64, c & 1 ? 0x5342 : 0x5140), H_M1024_M16), d);
                q.r[h][c] = hmul2(q.s[h][c], H_1_16);
            }
        } else if (L == LAY_Q6K) {
            /* s: scales of chunks 0 and 1, 2 and 3, then what 32 steps less are; r: a sixteenth */
            u32 v = src.ld32(3072 + (r * 4 + t) * 4), d = src.ld16(3328 + r * 2);
            d = splat_lo(d);
            q.s[h][0] = hmul2(hadd2(prmt(v, 0x64646464, 0x4140), H_M1152), d);
            q.s[h][1] = hmul2(hadd2(prmt(v, 0x64646464, 0x4342), H_M1152), d);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                q.r[h][i] = hmul2(q.s[h][i], H_1_16);
                q.s[h][2 + i] = hmul2(q.s[h][i], H_MIN_Q6);
            }
            q.hi[h] = src.ld128(2048 + (h * 32 + lane) * 16);
        } else if (L == LAY_F8) {
            q.s[h][0] = src.ld32(4096 + r * 4);
        }
    }
    if (L == LAY_Q5K)
        q.hi[0] = src.ld128(2048 + lane * 16);
}

DEV u32 word(const uint4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
DEV u32 half_of(u32 v, int i) { return i ? splat_hi(v) : splat_lo(v); }
DEV u32 shift(u32 v, int left) { return left >= 0 ? v << left : v >> -left; }

/* four nibbles (low 16 bits of w) through a table of 16 bytes */
DEV u32 lut4(u32 w, const u32 *lut)
{
    u32 sel = w & 0x7777, lo = prmt(lut[0], lut[1], sel), hi = prmt(lut[2], lut[3], sel);
    return prmt(lo, hi, (w & 0x8888) >> 1 | 0x3210);
}

template <int L, class S> DEV void chunk(const S &src, u32 lane, int c, const scales &q, const u32 *lut, u32 (*a)[4])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (L == LAY_F16) { /* a fragment as it lies: two of the four steps in each turn of h */
#pragma unroll
            for (int j = 2 * h; j < 2 * h + 2; j++) {
                uint4 v = src.ld128((c * 4 + j) * 512 + lane * 16);
                a[j][0] = v.x, a[j][1] = v.y, a[j][2] = v.z, a[j][3] = v.w;
            }
        } else if (L == LAY_I8) {
            uint4 v = src.ld128((c * 2 + h) * 512 + lane * 16);
            const u32 s = half_of(q.s[h][c >> 1], c & 1), m = half_of(q.r[h][c >> 1], c & 1);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                a[j][h] = hfma2(prmt(word(v, j), 0, 0x4140), s, m);
                a[j][2 + h] = hfma2(prmt(word(v, j), 0, 0x4342), s, m);
            }
        } else if (L == LAY_F8) {
            uint4 v = src.ld128((c * 2 + h) * 512 + lane * 16);
            u32 s = c & 2 ? splat_hi(q.s[h][0]) : splat_lo(q.s[h][0]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                a[j][h] = hmul2(e4m3x2_f16x2(word(v, j)), s);
                a[j][2 + h] = hmul2(e4m3x2_f16x2(word(v, j) >> 16), s);
            }
        } else if (L == LAY_U4 || L == LAY_NV4) {
            uint2 v = src.ld64((c * 2 + h) * 256 + lane * 8);
            u32 s = c & 1 ? splat_hi(q.s[h][c >> 1]) : splat_lo(q.s[h][c >> 1]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                u32 w = j & 2 ? v.y : v.x, b = lut4(j & 1 ? w >> 16 : w, lut);
                a[j][h] = hmul2(hadd2(prmt(b, 0x64646464, 0x4140), H_M1152), s);
                a[j][2 + h] = hmul2(hadd2(prmt(b, 0x64646464, 0x4342), H_M1152), s);
            }
        } else { /* K formats */
            uint2 v = src.ld64((c * 2 + h) * 256 + lane * 8);
            u32 s, s16, m, hi = 0;
            if (L == LAY_Q6K) {
                s = half_of(q.s[h][c >> 1], c & 1);
                s16 = half_of(q.r[h][c >> 1], c & 1);
                m = half_of(q.s[h][2 + (c >> 1)], c & 1);
                hi = word(q.hi[h], c);
            } else {
                s = splat_lo(q.s[h][c]);
                s16 = splat_lo(q.r[h][c]);
                m = splat_hi(q.s[h][c]);
                if (L == LAY_Q5K)
                    hi = word(q.hi[0], h * 2 + (c >> 1));
            }
#pragma unroll
            for (int p = 0; p < 8; p++) { /* pairs 2j and 2j+1 are A0/A1 and A2/A3 of step j */
                u32 w = p & 4 ? v.y : v.x, x;
                if (p & 2)
                    w >>= 8;
                x = w & (p & 1 ? 0x00F000F0u : 0x000F000Fu);
                if (L == LAY_Q5K) /* the bit above the nibble */
                    x = and_or(shift(hi, (p & 1 ? 8 : 4) - (8 * (c & 1) + p)), p & 1 ? 0x01000100 : 0x00100010, x);
                if (L == LAY_Q6K)
                    x = and_or(shift(hi, (p & 1 ? 8 : 4) - Q6K_HI(p)), p & 1 ? 0x03000300 : 0x00300030, x);
                x = hfma2(x, p & 1 ? s16 : s, m);
                a[p >> 1][(p & 1) * 2 + h] = x;
            }
        }
    }
}

/* Runs BODY with L bound to the layout's constant. */
#define LAYOUT_SWITCH(layout, BODY)                                        \
    switch (layout) {                                                      \
    case LAY_F16: { constexpr int L = LAY_F16; BODY } break;               \
    case LAY_I8: { constexpr int L = LAY_I8; BODY } break;                 \
    case LAY_U4: { constexpr int L = LAY_U4; BODY } break;                 \
    case LAY_NV4: { constexpr int L = LAY_NV4; BODY } break;               \
    case LAY_Q4K: { constexpr int L = LAY_Q4K; BODY } break;               \
    case LAY_Q5K: { constexpr int L = LAY_Q5K; BODY } break;               \
    case LAY_Q6K: { constexpr int L = LAY_Q6K; BODY } break;               \
    default: { constexpr int L = LAY_F8; BODY } break;                     \
    }

/* Columns [first, last) of a segment: seg runs of k_tiles, as even as whole tiles allow. A function of the shape alone.
 * seg is 1, 2, 4 or 8. */
DEV u32 seg_begin(const dweight &w, u32 s) { return w.k_tiles * s >> (31 - __clz((int)w.seg)); }

/* The last steps of a product; each rounded by itself, so that no kernel fuses what another does not. */
DEV float scale_and_bias(float v, float unit, u64 row_scale, u64 bias, u32 n)
{
    v *= unit; /* exact */
    if (row_scale)
        v = __fmul_rn(v, ((const float *)row_scale)[n]);
    if (bias)
        v = __fadd_rn(v, ((const float *)bias)[n]);
    return v;
}
DEV float with_scale_and_bias(const dweight &w, float v, u32 n)
{
    return scale_and_bias(v, w.unit, w.row_scale, w.bias, n);
}

DEV float act_apply(u32 act, float x)
{
    switch (act) {
    case 0: return __fdividef(x, 1.0f + __expf(-x));
    case 1: { float u = 0.7978845608f * (x + 0.044715f * x * x * x); return x - x / (1.0f + __expf(2.0f * u)); }
    case 2: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case 3: return x > 0 ? x * x : 0.0f;
    case 4: return 1.0f / (1.0f + __expf(-x));
    case 5: return tanhf(x);
    case 6: return x > 20.0f ? x : log1pf(__expf(x));
    default: return x;
    }
}
/* ACT_SWIGLU_OAI is 8: gate <= limit, up in [-limit, limit]; (up + 1) * gate * sigmoid(alpha * gate) */
DEV float glu_apply(u32 act, float gate, float up, float limit, float alpha)
{
    if (act == 8) {
        gate = fminf(gate, limit);
        up = fminf(fmaxf(up, -limit), limit);
        return (up + 1.0f) * gate / (1.0f + __expf(-alpha * gate));
    }
    return act_apply(act, gate) * up;
}

#endif

/* attend_body: keys and values into and out of blocks, and attention over them.
 * A row (one query head of one token) meets the cache in tiles of 64 absolute positions, in order, whatever the block
 * size: scores sum over columns in order, a tile's weights are added to running sums in order of position, and a tile
 * that a row does not see changes nothing. So neighbours, tile of rows and block size cannot be told from the
 * result. */
#include <math.h>

#include "backend/cpu/ops.h"
#include "backend/cpu/vec.h"

VEC_INLINE long type_bytes(quant_id t) { return t == QUANT_F32 ? 4 : 2; }

VEC_INLINE void put1(quant_id type, uint8_t *p, long i, float f)
{
    if (type == QUANT_F32)
        ((float *)p)[i] = f;
    else
        ((uint16_t *)p)[i] = type == QUANT_F16 ? quant_f32_to_f16(f) : quant_f32_to_bf16(f);
}

/* Stores one token's k and v (all heads) at place `at` of a block. */
static void kv_put(const cpu_kv_view *kv, uint8_t *block, uint32_t n_head, int32_t at, const float *k, const float *v)
{
    long es = type_bytes(kv->type), dk = kv->d_k, dv = kv->d_v, n = kv->block;
    uint8_t *pk = block + kv->off_k, *pv = block + kv->off_v;
    for (uint32_t h = 0; h < n_head; h++, pk += n * dk * es, k += dk) {
        uint8_t *o = pk + (kv->tiled ? at / 16 * 16 * dk + at % 16 : at * dk) * es;
        long step = kv->tiled ? 16 : 1;
        for (long i = 0; i < dk; i++)
            put1(kv->type, o, i * step, k[i]);
    }
    if (v && !kv->v_in_k)
        for (uint32_t h = 0; h < n_head; h++, pv += n * dv * es, v += dv)
            for (long i = 0; i < dv; i++)
                put1(kv->type, pv, at * dv + i, v[i]);
}

VEC_INLINE void copy_type(quant_id type, const uint8_t *p, float *o, long n)
{
    long i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(o + i, v_load_type(type, p, i));
    for (; i < n; i++)
        o[i] = type == QUANT_F32   ? ((const float *)p)[i]
               : type == QUANT_F16 ? quant_f16_to_f32(((const uint16_t *)p)[i])
                                   : quant_bf16_to_f32(((const uint16_t *)p)[i]);
}

static void copy_f32(quant_id type, const uint8_t *p, float *o, long n)
{
    if (type == QUANT_F32)
        copy_type(QUANT_F32, p, o, n);
    else if (type == QUANT_F16)
        copy_type(QUANT_F16, p, o, n);
    else
        copy_type(QUANT_BF16, p, o, n);
}

/* Positions [lo, hi) of the tile that starts at base: keys to kt[4][d_k][16], values to vt[64][d_v]. */
static void gather(const cpu_attend_task *t, int32_t base, int32_t lo, int32_t hi, float *kt, float *vt)
{
    const cpu_kv_view *kv = &t->kv;
    long es = type_bytes(kv->type), dk = kv->d_k, dv = kv->d_v, n = kv->block;
    for (int32_t p = lo; p < hi; p++) {
        int32_t at = p % kv->block;
        const uint8_t *b = kv->base + (uint64_t)t->table[p / kv->block - t->table_base] * kv->block_bytes;
        const uint8_t *k = b + kv->off_k + (long)t->head * n * dk * es;
        const uint8_t *v = kv->v_in_k ? k + at * dk * es : b + kv->off_v + ((long)t->head * n + at) * dv * es;
        copy_f32(kv->type, v, vt + (p - base) * dv, dv);
        float *kp = kt + (p - base) / 16 * 16 * dk;
        if (!kv->tiled) {
            float row[64];
            for (long i = 0; i < dk; i += 64) {
                long m = dk - i < 64 ? dk - i : 64;
                copy_f32(kv->type, k + (at * dk + i) * es, row, m);
                for (long j = 0; j < m; j++)
                    kp[(i + j) * 16 + (p - base) % 16] = row[j];
            }
        } else if (p == lo || p % 16 == 0) {
            copy_f32(kv->type, k + at / 16 * 16 * dk * es, kp, dk * 16); /* sixteen positions at once */
        }
    }
}

/* s[r][64] = q[r] . k over the first n16 sixteens of a tile. */
VEC_INLINE void scores(const cpu_attend_row *row, int nr, const float *kt, long dk, float *s)
{
    v16 acc[4][4];
    for (int r = 0; r < nr; r++)
        for (int j = 0; j < 4; j++)
            acc[r][j] = v_set(0);
    for (long i = 0; i < dk; i++) {
        v16 k[4];
        for (int j = 0; j < 4; j++)
            k[j] = v_load(kt + j * 16 * dk + i * 16);
        for (int r = 0; r < nr; r++) {
            v16 q = v_set(row[r].q[i]);
            for (int j = 0; j < 4; j++)
                acc[r][j] = v_fma(q, k[j], acc[r][j]);
        }
    }
    for (int r = 0; r < nr; r++)
        for (int j = 0; j < 4; j++)
            v_store(s + r * CPU_KV_TILE + 16 * j, acc[r][j]);
}

/* acc[r][c..c+64) = acc * corr[r] + sum over positions [lo, hi) of p[r][i] * v[i]. */
VEC_INLINE void values(float *acc, int nr, const float *corr, const float *p, const float *vt, long dv, long c, int nj,
                       long last, int32_t lo, int32_t hi)
{
    v16 a[4][4];
    for (int r = 0; r < nr; r++)
        for (int j = 0; j < nj; j++)
            a[r][j] = v_mul(v_load_n(acc + r * dv + c + 16 * j, j == nj - 1 ? last : 16), v_set(corr[r]));
    for (int32_t i = lo; i < hi; i++) {
        v16 v[4];
        for (int j = 0; j < nj; j++)
            v[j] = v_load_n(vt + i * dv + c + 16 * j, j == nj - 1 ? last : 16);
        for (int r = 0; r < nr; r++) {
            v16 w = v_set(p[r * CPU_KV_TILE + i]);
            for (int j = 0; j < nj; j++)
                a[r][j] = v_fma(w, v[j], a[r][j]);
        }
    }
    for (int r = 0; r < nr; r++)
        for (int j = 0; j < nj; j++)
            v_store_n(acc + r * dv + c + 16 * j, a[r][j], j == nj - 1 ? last : 16);
}

/* Turns a row's scores of a tile into weights; updates its maximum and lane sums; returns the factor for what it
 * had. */
static float weights(const cpu_attend_task *t, const cpu_attend_row *row, int32_t base, float *s, float *max,
                     float *lane_sum)
{
    v16 v[4], top = v_set(-INFINITY);
    for (int j = 0; j < 4; j++) {
        v[j] = v_mul(v_load(s + 16 * j), v_set(t->scale));
        if (t->softcap > 0)
            v[j] = v_mul(v_tanh(v_div(v[j], v_set(t->softcap))), v_set(t->softcap));
        v[j] = v_select(v_in_range(v_iota(base + 16 * j), row->lo, row->hi), v[j], v_set(-INFINITY));
        top = v_max(top, v[j]); /* a NaN in v wins: it must reach the output */
    }
    float m = v_max_lane(top);
    m = m > *max ? m : *max;
    if (m == -INFINITY) { /* nothing seen yet */
        memset(s, 0, CPU_KV_TILE * sizeof *s);
        return 1;
    }
    float corr = *max == m ? 1 : expf(*max - m);
    for (int j = 0; j < 4; j++) {
        v[j] = v_exp(v_sub(v[j], v_set(m)));
        v_store(s + 16 * j, v[j]);
    }
    v16 sum = v_add(v_add(v[0], v[1]), v_add(v[2], v[3]));
    v_store(lane_sum, v_add(v_mul(v_load(lane_sum), v_set(corr)), sum));
    *max = m;
    return corr;
}

static void finish(const cpu_attend_row *row, const float *acc, float max, const float *lane_sum, long dv)
{
    float l = v_sum(v_load(lane_sum)), f = 1;
    if (row->sink > -INFINITY) { /* joins the denominator only */
        float m = row->sink > max ? row->sink : max;
        f = expf(max - m);
        l = l * f + expf(row->sink - m);
    }
    f = l != 0 ? f / l : 0;
    for (long i = 0; i < dv; i += 16)
        v_store_n(row->o + i, v_mul(v_load_n(acc + i, dv - i), v_set(f)), dv - i);
}

VEC_INLINE void rows_of_tile(const cpu_attend_task *t, int r, int nr, int32_t base, int32_t lo, int32_t hi,
                             const float *kt, const float *vt, float *s, float *acc, float *max, float *sum)
{
    long dk = t->kv.d_k, dv = t->kv.d_v;
    float corr[4];
    scores(t->row + r, nr, kt, dk, s);
    for (int i = 0; i < nr; i++)
        corr[i] = weights(t, &t->row[r + i], base, s + i * CPU_KV_TILE, &max[r + i], sum + (r + i) * 16);
    for (long c = 0; c < dv; c += 64) {
        long left = dv - c;
        if (left >= 64)
            values(acc + r * dv, nr, corr, s, vt, dv, c, 4, 16, lo - base, hi - base);
        else
            for (long j = 0; j < left; j += 16)
                values(acc + r * dv, nr, corr, s, vt, dv, c + j, 1, left - j < 16 ? left - j : 16, lo - base,
                       hi - base);
    }
}

static void attend(const cpu_attend_task *t, float *work)
{
    long dk = t->kv.d_k, dv = t->kv.d_v;
    float *kt = work, *vt = kt + CPU_KV_TILE * dk, *s = vt + CPU_KV_TILE * dv, *sum = s + 4 * CPU_KV_TILE;
    float *acc = sum + CPU_ATTEND_ROWS * 16, max[CPU_ATTEND_ROWS];
    int32_t lo = INT32_MAX, hi = 0;
    for (int r = 0; r < t->n_row; r++) {
        lo = t->row[r].lo < lo ? t->row[r].lo : lo;
        hi = t->row[r].hi > hi ? t->row[r].hi : hi;
        max[r] = -INFINITY;
    }
    memset(sum, 0, (size_t)t->n_row * 16 * sizeof *sum);
    memset(acc, 0, (size_t)(t->n_row * dv) * sizeof *acc);
    for (int32_t base = lo / CPU_KV_TILE * CPU_KV_TILE; base < hi; base += CPU_KV_TILE) {
        int32_t b = base > lo ? base : lo, e = base + CPU_KV_TILE < hi ? base + CPU_KV_TILE : hi;
        gather(t, base, b, e, kt, vt);
        int r = 0;
        for (; r + 4 <= t->n_row; r += 4)
            rows_of_tile(t, r, 4, base, b, e, kt, vt, s, acc, max, sum);
        for (; r < t->n_row; r++)
            rows_of_tile(t, r, 1, base, b, e, kt, vt, s, acc, max, sum);
    }
    for (int r = 0; r < t->n_row; r++)
        finish(&t->row[r], acc + r * dv, max[r], sum + r * 16, dv);
}

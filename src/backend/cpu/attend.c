/* Reference attention: online softmax over tiles of 64 absolute positions, in order, whatever the block size and the chunk:
 * a row's bytes depend on its own past alone. One task = one token and one KV head (its query heads share K and V). */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"

#define TILE 64 /* positions; tiles start at multiples of it */

size_t cpu_attend_scratch(const plan_op *op, int32_t block_size)
{
    const plan_attend *a = &op->attr.attend;
    (void)block_size;
    return ((size_t)TILE * (a->d_k + a->d_v) + (size_t)(a->n_head / a->n_kv_head) * (TILE + a->d_v + 2)) * sizeof(float);
}

/* Positions [p, p+n) of one head's K or V as f32 rows. */
static void load(const bexec *x, const batch_seq *s, const plan_attend *a, uint32_t head, bool v, int32_t p, int32_t n, float *dst)
{
    const kvcache *kv = x->kv;
    int32_t bs = kv->block_size;
    const plan_kv_group *pg = &kv->p->group[a->group];
    uint32_t stored = v && !pg->v_is_prefix_of_k ? pg->v_width / kv->group[a->group].n_head : pg->k_width / kv->group[a->group].n_head;
    uint32_t want = v ? a->d_v : a->d_k;
    for (int32_t i = 0; i < n; i++) {
        int32_t block = s->table[a->group][(p + i) / bs - s->base[a->group]], off = (p + i) % bs;
        const uint8_t *row = kv_at(kv, a->group, block, a->slot, head, v);
        if (kv->type == KV_F32) {
            memcpy(dst + (size_t)i * want, row + (size_t)off * stored * 4, want * sizeof *dst);
        } else {
            const uint16_t *h = (const uint16_t *)(const void *)row + (size_t)off * stored;
            for (uint32_t j = 0; j < want; j++)
                dst[(size_t)i * want + j] = quant_f16_to_f32(h[j]);
        }
    }
}

static float dot(const float *a, const float *b, uint32_t n)
{
    float lane[8] = {0};
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++)
            lane[j] += a[i + j] * b[i + j];
    for (int j = 0; i < n; i++, j++)
        lane[j] += a[i] * b[i];
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/* One tile for one query head: scores, then the running maximum, sum and weighted V. */
static void tile_step(const plan_attend *a, const float *q, const float *k, const float *v, int32_t n, float *score, float *max, float *sum, float *acc)
{
    float m = *max;
    for (int32_t i = 0; i < n; i++) {
        float s = dot(q, k + (size_t)i * a->d_k, a->d_k) * a->scale;
        if (a->softcap > 0)
            s = a->softcap * tanhf(s / a->softcap);
        score[i] = s;
        m = s > m ? s : m;
    }
    float fade = *max == m ? 1.0f : expf(*max - m);
    *sum *= fade;
    for (uint32_t j = 0; j < a->d_v; j++)
        acc[j] *= fade;
    for (int32_t i = 0; i < n; i++) {
        float p = expf(score[i] - m);
        *sum += p;
        for (uint32_t j = 0; j < a->d_v; j++)
            acc[j] += p * v[(size_t)i * a->d_v + j];
    }
    *max = m;
}

static void attend_one(bexec *x, const plan_op *op, const bweight *sinks, int32_t t, uint32_t kvh, float *scratch)
{
    const plan_attend *a = &op->attr.attend;
    const batch *b = x->batch;
    const batch_seq *s = &b->seqs[b->seq[t]];
    uint32_t rep = a->n_head / a->n_kv_head;
    float *k = scratch, *v = k + (size_t)TILE * a->d_k, *score = v + (size_t)TILE * a->d_v;
    float *acc = score + (size_t)rep * TILE, *max = acc + (size_t)rep * a->d_v, *sum = max + rep;
    int32_t begin = b->vis_begin[t], end = b->vis_end[t];
    if (a->window && end - begin > (int32_t)a->window)
        begin = end - (int32_t)a->window;
    for (uint32_t r = 0; r < rep; r++) {
        max[r] = sinks ? sinks->vec[kvh * rep + r] : -INFINITY; /* a sink joins the denominator and has no value */
        sum[r] = sinks ? 1 : 0;
        memset(acc + (size_t)r * a->d_v, 0, a->d_v * sizeof *acc);
    }
    for (int32_t p = begin; p < end;) {
        int32_t n = TILE - p % TILE;
        n = n < end - p ? n : end - p;
        load(x, s, a, kvh, false, p, n, k);
        load(x, s, a, kvh, true, p, n, v);
        for (uint32_t r = 0; r < rep; r++) {
            const float *q = exec_reg(x, op->in[0]) + (size_t)t * a->n_head * a->d_k + (size_t)(kvh * rep + r) * a->d_k;
            tile_step(a, q, k, v, n, score + (size_t)r * TILE, &max[r], &sum[r], acc + (size_t)r * a->d_v);
        }
        p += n;
    }
    for (uint32_t r = 0; r < rep; r++) {
        float *y = exec_reg(x, op->out[0]) + (size_t)t * a->n_head * a->d_v + (size_t)(kvh * rep + r) * a->d_v;
        float inv = sum[r] > 0 ? 1 / sum[r] : 0;
        for (uint32_t j = 0; j < a->d_v; j++)
            y[j] = acc[(size_t)r * a->d_v + j] * inv;
    }
}

void cpu_attend(bexec *x, const plan_op *op, int ith, int nth)
{
    const plan_attend *a = &op->attr.attend;
    long begin, end;
    pool_share((long)x->batch->n_tok * a->n_kv_head, 1, ith, nth, &begin, &end);
    for (long i = begin; i < end; i++)
        attend_one(x, op, exec_weight(x, op, 0), (int32_t)(i / a->n_kv_head), (uint32_t)(i % a->n_kv_head), exec_scratch(x, ith));
}

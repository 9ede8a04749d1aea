/* Recurrent mixers: causal convolution, gated delta rule, Mamba-2. One formula for prompt, decode and replay: the recurrence
 * itself, token after token, so that a row depends on its own past alone. Work is split by channel or head; a thread walks all
 * tokens of all sequences for its share and is the only one to touch that part of their states.
 * State of a sequence (f32): CONV [taps-1][width], oldest first; GDN [v head][d_k][d_v]; MAMBA2 [head][head_dim][d_state].
 * Sources: Gated Delta Networks (Yang et al. 2024), Mamba-2 (Dao & Gu 2024), checked against transformers. */
#include <math.h>
#include <string.h>

#include "backend/cpu/exec.h"

static const float *row(const bexec *x, int32_t reg, long t) { return x_f32(x, reg) + t * (long)x->reg[reg].ld; }
static float *out_row(const bexec *x, const instr *in, long t) { return x_f32(x, in->out[0]) + t * (long)x->reg[in->out[0]].ld; }

static float *state_of(const bexec *x, int32_t slot, int32_t state)
{
    return x->kv->state + (uint64_t)slot * x->kv->state_floats + x->kv->state_off[state];
}

/* Every state of a sequence starts from state_in (or zeros) and lives in state_out from here on. */
void cpu_begin_states(const bexec *x)
{
    for (int32_t i = 0; x->kv->state && i < x->b->n_seq; i++)
        if (x->b->seqs[i].state_out >= 0)
            cpu_kv_copy_state(x->kv, x->b->seqs[i].state_in, x->b->seqs[i].state_out);
}

/* After token t: copies this thread's n floats at `from` to every state slot that asked for them. */
static void save(const bexec *x, const batch_seq *s, int32_t state, int32_t t, const float *from, uint64_t off, uint64_t n)
{
    for (int32_t i = 0; i < s->n_save; i++)
        if (s->save[i].tok == t)
            memcpy(state_of(x, s->save[i].state, state) + off, from, n * sizeof *from);
}

static float silu(float v) { return v / (1 + expf(-v)); }
static float softplus(float v) { return v > 20 ? v : log1pf(expf(v)); }

/* ---- convolution -------------------------------------------------------------------------------------------------------- */
void run_conv(const bexec *x, const instr *in, int ith)
{
    uint32_t taps = in->op->attr.conv.taps;
    long width = x->reg[in->in[0]].width, c0, c1;
    const float *w = in->w[0]->vec, *bias = in->w[1] ? in->w[1]->vec : NULL;
    bool act = in->op->attr.conv.act == ACT_SILU;
    pool_share(width, 16, ith, x->be->n_thread, &c0, &c1);
    for (int32_t q = 0; q < x->b->n_seq; q++) {
        const batch_seq *s = &x->b->seqs[q];
        float *st = state_of(x, s->state_out, in->op->attr.conv.state);
        for (int32_t t = s->tok_begin; t < s->tok_end; t++) {
            const float *v = row(x, in->in[0], t);
            float *y = out_row(x, in, t);
            for (long c = c0; c < c1; c++) {
                float sum = bias ? bias[c] : 0;
                for (uint32_t k = 0; k + 1 < taps; k++)
                    sum += w[c * taps + k] * st[(long)k * width + c];
                sum += w[c * taps + taps - 1] * v[c];
                y[c] = act ? silu(sum) : sum;
            }
            for (uint32_t k = 0; k + 2 < taps; k++)
                memcpy(st + (long)k * width + c0, st + (long)(k + 1) * width + c0, (size_t)(c1 - c0) * sizeof *st);
            if (taps > 1)
                memcpy(st + (long)(taps - 2) * width + c0, v + c0, (size_t)(c1 - c0) * sizeof *st);
            for (uint32_t k = 0; k + 1 < taps && s->n_save; k++)
                save(x, s, in->op->attr.conv.state, t, st + (long)k * width + c0, (uint64_t)((long)k * width + c0), (uint64_t)(c1 - c0));
        }
    }
}

/* ---- gated delta rule ---------------------------------------------------------------------------------------------------- */
/* S *= e^g; d = beta (v - k^T S); S += k d^T; o = q^T S, for one head. tmp: 2 d_v floats. */
static void gdn_token(float *st, const float *q, const float *k, const float *v, float g, float beta, uint32_t d_k, uint32_t d_v, float *o, float *tmp)
{
    float decay = expf(g), *d = tmp;
    memset(d, 0, d_v * sizeof *d);
    for (uint32_t i = 0; i < d_k; i++) {
        float *r = st + (size_t)i * d_v, ki = k[i];
        for (uint32_t j = 0; j < d_v; j++) {
            r[j] *= decay;
            d[j] += ki * r[j];
        }
    }
    for (uint32_t j = 0; j < d_v; j++)
        d[j] = beta * (v[j] - d[j]);
    memset(o, 0, d_v * sizeof *o);
    for (uint32_t i = 0; i < d_k; i++) {
        float *r = st + (size_t)i * d_v, ki = k[i], qi = q[i];
        for (uint32_t j = 0; j < d_v; j++) {
            r[j] += ki * d[j];
            o[j] += qi * r[j];
        }
    }
}

void run_gdn(const bexec *x, const instr *in, int ith)
{
    uint32_t nk = in->op->attr.gdn.n_k_head, nv = in->op->attr.gdn.n_v_head, d_k = in->op->attr.gdn.d_k, d_v = in->op->attr.gdn.d_v;
    long h0, h1;
    pool_share(nv, 1, ith, x->be->n_thread, &h0, &h1);
    for (int32_t q = 0; q < x->b->n_seq; q++) {
        const batch_seq *s = &x->b->seqs[q];
        for (long h = h0; h < h1; h++) {
            uint64_t n = (uint64_t)d_k * d_v, off = (uint64_t)h * n;
            float *st = state_of(x, s->state_out, in->op->attr.gdn.state) + off;
            long kh = in->op->attr.gdn.tiled ? h % nk : h / (nv / nk);
            for (int32_t t = s->tok_begin; t < s->tok_end; t++) {
                gdn_token(st, row(x, in->in[0], t) + kh * d_k, row(x, in->in[1], t) + kh * d_k, row(x, in->in[2], t) + h * d_v,
                          row(x, in->in[3], t)[h], row(x, in->in[4], t)[h], d_k, d_v, out_row(x, in, t) + h * d_v, x_scratch(x, ith));
                save(x, s, in->op->attr.gdn.state, t, st, off, n);
            }
        }
    }
}

/* ---- Mamba-2 -------------------------------------------------------------------------------------------------------------- */
void run_mamba2(const bexec *x, const instr *in, int ith)
{
    uint32_t nh = in->op->attr.mamba2.n_head, hd = in->op->attr.mamba2.head_dim, ng = in->op->attr.mamba2.n_group, N = in->op->attr.mamba2.d_state;
    const float *a = in->w[0]->vec, *D = in->w[1]->vec, *dt_bias = in->w[2]->vec;
    long h0, h1;
    pool_share(nh, 1, ith, x->be->n_thread, &h0, &h1);
    for (int32_t q = 0; q < x->b->n_seq; q++) {
        const batch_seq *s = &x->b->seqs[q];
        for (long h = h0; h < h1; h++) {
            uint64_t n = (uint64_t)hd * N, off = (uint64_t)h * n;
            float *st = state_of(x, s->state_out, in->op->attr.mamba2.state) + off;
            long g = h / (nh / ng);
            float A = in->op->attr.mamba2.a_is_negexp ? a[h] : -expf(a[h]);
            for (int32_t t = s->tok_begin; t < s->tok_end; t++) {
                const float *v = row(x, in->in[0], t) + h * hd, *B = row(x, in->in[1], t) + g * N, *C = row(x, in->in[2], t) + g * N;
                float dt = softplus(row(x, in->in[3], t)[h] + dt_bias[h]), decay = expf(A * dt), *y = out_row(x, in, t) + h * hd;
                for (uint32_t i = 0; i < hd; i++) {
                    float *r = st + (size_t)i * N, xi = dt * v[i], lane[16] = {0};
                    for (uint32_t j = 0; j < N; j++) {
                        r[j] = r[j] * decay + xi * B[j];
                        lane[j & 15] += r[j] * C[j];
                    }
                    for (int k = 8; k; k /= 2)
                        for (int l = 0; l < k; l++)
                            lane[l] += lane[l + k];
                    y[i] = lane[0] + D[h] * v[i];
                }
                save(x, s, in->op->attr.mamba2.state, t, st, off, n);
            }
        }
    }
}

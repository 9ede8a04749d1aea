/* Recurrent mixers: causal convolution, gated delta rule, Mamba-2. Here is who computes what; the formulas are
 * scan_body.h's.
 * Work is split by column tiles of heads; a thread walks all tokens of all sequences for its share and is the only one
 * to touch that part of their states.
 * State of a sequence (f32): CONV [taps-1][width], oldest first; GDN and MAMBA2 a head at a time, tiles of
 * CPU_SCAN_COLS columns of it (the last one narrower) one after the other: GDN [v head][tile][d_k][columns of d_v],
 * MAMBA2 [head][tile][d_state][columns of head_dim]. */
#include <math.h>
#include <string.h>

#include "backend/cpu/exec.h"

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

/* The tokens from t on after which no state is asked for but after the last of them: a kernel walks them in one go. */
static int32_t until_save(const batch_seq *s, int32_t t)
{
    int32_t end = s->tok_end;
    for (int32_t i = 0; i < s->n_save; i++)
        if (s->save[i].tok >= t && s->save[i].tok + 1 < end)
            end = s->save[i].tok + 1;
    return end;
}

/* Before token `end`: copies this thread's n floats at `off` of the running state to every slot that asked for them. */
static void save(const bexec *x, const batch_seq *s, int32_t state, int32_t end, uint64_t off, uint64_t n)
{
    for (int32_t i = 0; i < s->n_save; i++)
        if (s->save[i].tok + 1 == end)
            memcpy(state_of(x, s->save[i].state, state) + off, state_of(x, s->state_out, state) + off,
                   n * sizeof(float));
}

static cpu_scan_rows rows(const bexec *x, int32_t reg, long t, long col)
{
    return (cpu_scan_rows){x_f32(x, reg) + t * (long)x->reg[reg].ld + col, x->reg[reg].ld};
}

static float *out_rows(const bexec *x, const instr *in, long t, long col)
{
    return x_f32(x, in->out[0]) + t * (long)x->reg[in->out[0]].ld + col;
}

/* One sequence's share of a mixer: columns [col, col + n_col) of head h, or channels. The state's floats at `off`. */
typedef struct scan_part {
    long h, col, n_col;
    uint64_t off, n;
    int32_t state;
} scan_part;

typedef void (*scan_run)(const bexec *x, const instr *in, const scan_part *p, float *state, int32_t t, int32_t n_tok);

static void scan_sequences(const bexec *x, const instr *in, const scan_part *p, scan_run run)
{
    for (int32_t q = 0; q < x->b->n_seq; q++) {
        const batch_seq *s = &x->b->seqs[q];
        float *state = state_of(x, s->state_out, p->state) + p->off;
        for (int32_t t = s->tok_begin, end; t < s->tok_end; t = end) {
            end = until_save(s, t);
            run(x, in, p, state, t, end - t);
            save(x, s, p->state, end, p->off, p->n);
        }
    }
}

/* All column tiles of all heads, this thread's share of them. */
static void scan_heads(const bexec *x, const instr *in, int ith, long n_head, long n_row, long n_col, int32_t state,
                       scan_run run)
{
    long per = (n_col + CPU_SCAN_COLS - 1) / CPU_SCAN_COLS, i0, i1;
    pool_share(n_head * per, 1, ith, x->be->n_thread, &i0, &i1);
    for (long i = i0; i < i1; i++) {
        scan_part p = {.h = i / per, .col = i % per * CPU_SCAN_COLS, .state = state};
        p.n_col = n_col - p.col < CPU_SCAN_COLS ? n_col - p.col : CPU_SCAN_COLS;
        p.off = (uint64_t)(p.h * n_col + p.col) * (uint64_t)n_row;
        p.n = (uint64_t)(p.n_col * n_row);
        scan_sequences(x, in, &p, run);
    }
}

/* ---- convolution ------------------------------------------------------------------------------------------------- */
static void conv_part(const bexec *x, const instr *in, const scan_part *p, float *state, int32_t t, int32_t n_tok)
{
    uint32_t taps = in->op->attr.conv.taps;
    cpu_conv_task k = {.state = state, .w = in->w[0]->vec + p->col * (long)taps,
                       .bias = in->w[1] ? in->w[1]->vec + p->col : NULL, .x = rows(x, in->in[0], t, p->col),
                       .y = out_rows(x, in, t, p->col), .ld_y = x->reg[in->out[0]].ld,
                       .ld_state = x->reg[in->in[0]].width, .n_tok = n_tok, .n_col = p->n_col, .taps = taps,
                       .act = in->op->attr.conv.act};
    x->be->ops->conv(&k);
}

enum { CONV_TOKENS = 32 };

void run_conv(const bexec *x, const instr *in, int ith)
{
    long width = x->reg[in->in[0]].width, taps = in->op->attr.conv.taps, c0, c1;
    pool_share(width, 16, ith, x->be->n_thread, &c0, &c1);
    for (int32_t q = 0; q < x->b->n_seq; q++) {
        const batch_seq *s = &x->b->seqs[q];
        float *state = state_of(x, s->state_out, in->op->attr.conv.state);
        for (int32_t t = s->tok_begin, end; t < s->tok_end; t = end) {
            end = until_save(s, t);
            for (int32_t u = t; u < end; u += CONV_TOKENS) /* few rows at a time: each is on pages of its own */
                for (long c = c0; c < c1; c += 16)
                    conv_part(x, in, &(scan_part){.col = c, .n_col = c1 - c < 16 ? c1 - c : 16}, state + c, u,
                              end - u < CONV_TOKENS ? end - u : CONV_TOKENS);
            for (long k = 0; k + 1 < taps; k++)
                save(x, s, in->op->attr.conv.state, end, (uint64_t)(k * width + c0), (uint64_t)(c1 - c0));
        }
    }
}

/* ---- gated delta rule -------------------------------------------------------------------------------------------- */
static void gdn_part(const bexec *x, const instr *in, const scan_part *p, float *state, int32_t t, int32_t n_tok)
{
    long nk = in->op->attr.gdn.n_k_head, nv = in->op->attr.gdn.n_v_head;
    long d_k = in->op->attr.gdn.d_k, d_v = in->op->attr.gdn.d_v;
    long kh = in->op->attr.gdn.tiled ? p->h % nk : p->h / (nv / nk), col = p->h * d_v + p->col;
    cpu_gdn_task k = {.state = state, .q = rows(x, in->in[0], t, kh * d_k), .k = rows(x, in->in[1], t, kh * d_k),
                      .v = rows(x, in->in[2], t, col), .g = rows(x, in->in[3], t, p->h),
                      .beta = rows(x, in->in[4], t, p->h), .o = out_rows(x, in, t, col), .ld_o = x->reg[in->out[0]].ld,
                      .n_tok = n_tok, .d_k = d_k, .n_col = p->n_col};
    x->be->ops->gdn(&k);
}

void run_gdn(const bexec *x, const instr *in, int ith)
{
    scan_heads(x, in, ith, in->op->attr.gdn.n_v_head, in->op->attr.gdn.d_k, in->op->attr.gdn.d_v,
               in->op->attr.gdn.state, gdn_part);
}

/* ---- Mamba-2 ----------------------------------------------------------------------------------------------------- */
static void mamba2_part(const bexec *x, const instr *in, const scan_part *p, float *state, int32_t t, int32_t n_tok)
{
    long nh = in->op->attr.mamba2.n_head, hd = in->op->attr.mamba2.head_dim, N = in->op->attr.mamba2.d_state;
    long g = p->h / (nh / in->op->attr.mamba2.n_group), col = p->h * hd + p->col;
    float a = in->w[0]->vec[p->h];
    cpu_mamba2_task k = {.state = state, .x = rows(x, in->in[0], t, col), .b = rows(x, in->in[1], t, g * N),
                         .c = rows(x, in->in[2], t, g * N), .dt = rows(x, in->in[3], t, p->h),
                         .A = in->op->attr.mamba2.a_is_negexp ? a : -expf(a), .D = in->w[1]->vec[p->h],
                         .dt_bias = in->w[2]->vec[p->h], .y = out_rows(x, in, t, col), .ld_y = x->reg[in->out[0]].ld,
                         .n_tok = n_tok, .d_state = N, .n_col = p->n_col};
    x->be->ops->mamba2(&k);
}

void run_mamba2(const bexec *x, const instr *in, int ith)
{
    scan_heads(x, in, ith, in->op->attr.mamba2.n_head, in->op->attr.mamba2.d_state, in->op->attr.mamba2.head_dim,
               in->op->attr.mamba2.state, mamba2_part);
}

/* scan: operations with a state a sequence, token by token in order: causal convolution, gated delta rule, Mamba2. One
 * formula for every class, so prefill, decode and replay agree. The state is read from slot state_in (-1: zeros), kept
 * in registers or shared memory over the step's tokens, written to state_out, and copied out after the tokens that ask
 * for it.
 * States: conv [taps-1][width] oldest first; gdn [n_head][d_k][d_v]; mamba2 [n_head][head_dim][d_state]; f32.
 * Bytes: two passes over the state a sequence + inputs; memory bound when decoding, latency bound in prefill. */
#include "decode.cuh"

DEV const float *state_src(const scan_args &p, const seq_desc &s)
{
    return s.state_in < 0 ? (const float *)0 : (const float *)((const u8 *)p.state + (u64)s.state_in * p.state_stride);
}
DEV float *state_dst(const scan_args &p, i32 slot) { return (float *)((u8 *)p.state + (u64)slot * p.state_stride); }

struct save_desc { i32 tok, state; };

#define CONV_TAPS 8
KERNEL(128, 8) imp_conv(const __grid_constant__ scan_args p)
{
    pdl_launch();
    pdl_wait();
    const seq_desc &s = ((const seq_desc *)p.seq)[blockIdx.y];
    const u32 i = blockIdx.x * 128 + threadIdx.x, past = p.taps - 1;
    if (i >= p.width)
        return;
    float h[CONV_TAPS], w[CONV_TAPS];
    const float *src = state_src(p, s);
#pragma unroll
    for (u32 j = 0; j < CONV_TAPS; j++) {
        h[j] = j < past && src ? src[j * p.width + i] : 0.0f;
        w[j] = j < p.taps ? ((const float *)p.w)[i * p.taps + j] : 0.0f;
    }
    const float b = p.bias ? ((const float *)p.bias)[i] : 0.0f;
    const save_desc *sv = (const save_desc *)p.save + s.save_begin;
    i32 k = 0;
    for (i32 t = s.tok_begin; t < s.tok_end; t++) {
        float x = ((const float *)p.x)[(u64)t * p.ldx + i], y = b;
#pragma unroll
        for (u32 j = 0; j < CONV_TAPS; j++)
            if (j < past)
                y += h[j] * w[j];
            else if (j == past)
                y += x * w[j];
#pragma unroll
        for (u32 j = 0; j + 1 < CONV_TAPS; j++)
            if (j + 1 < past)
                h[j] = h[j + 1];
#pragma unroll
        for (u32 j = 0; j < CONV_TAPS; j++)
            if (j + 1 == past)
                h[j] = x;
        ((float *)p.out)[(u64)t * p.ldo + i] = act_apply(p.act, y);
        for (; k < s.n_save && sv[k].tok == t; k++)
#pragma unroll
            for (u32 j = 0; j < CONV_TAPS; j++)
                if (j < past)
                    state_dst(p, sv[k].state)[j * p.width + i] = h[j];
    }
    if (s.state_out >= 0)
#pragma unroll
        for (u32 j = 0; j < CONV_TAPS; j++)
            if (j < past)
                state_dst(p, s.state_out)[j * p.width + i] = h[j];
}

/* Block: 8 columns of v of one head, a warp each; lanes share d_k <= 256. */
KERNEL(256, 2) imp_gdn(const __grid_constant__ scan_args p)
{
    extern __shared__ float qk[]; /* q[d_k], k[d_k] of the token */
    pdl_launch();
    pdl_wait();
    const seq_desc &s = ((const seq_desc *)p.seq)[blockIdx.z];
    const u32 lane = threadIdx.x & 31, col = blockIdx.x * 8 + (threadIdx.x >> 5), h = blockIdx.y,
              dk = p.d_k, dv = p.d_v;
    const u32 kh = p.tiled ? h % p.n_k_head : h / (p.n_head / p.n_k_head);
    const bool live = col < dv;
    const float *src = state_src(p, s);
    float st[8];
#pragma unroll
    for (u32 j = 0; j < 8; j++)
        st[j] = live && src && j * 32 + lane < dk ? src[((u64)h * dk + j * 32 + lane) * dv + col] : 0.0f;
    const save_desc *sv = (const save_desc *)p.save + s.save_begin;
    i32 n = 0;
    for (i32 t = s.tok_begin; t < s.tok_end; t++) {
        __syncthreads();
        for (u32 i = threadIdx.x; i < dk; i += 256) {
            qk[i] = ((const float *)p.q)[(u64)t * p.ldq + kh * dk + i];
            qk[dk + i] = ((const float *)p.k)[(u64)t * p.ldk + kh * dk + i];
        }
        __syncthreads();
        if (live) {
            float decay = expf(((const float *)p.g)[(u64)t * p.ldg + h]),
                  beta = ((const float *)p.beta)[(u64)t * p.ldb + h];
            float v = ((const float *)p.v)[(u64)t * p.ldv + h * dv + col], kv = 0, o = 0;
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                u32 i = j * 32 + lane;
                st[j] *= decay;
                if (i < dk)
                    kv += st[j] * qk[dk + i];
            }
            float u = (v - warp_sum(kv)) * beta;
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                u32 i = j * 32 + lane;
                if (i < dk) {
                    st[j] += qk[dk + i] * u;
                    o += st[j] * qk[i];
                }
            }
            o = warp_sum(o);
            if (lane == 0)
                ((float *)p.out)[(u64)t * p.ldo + h * dv + col] = o;
        }
        for (; n < s.n_save && sv[n].tok == t; n++)
#pragma unroll
            for (u32 j = 0; j < 8; j++)
                if (live && j * 32 + lane < dk)
                    state_dst(p, sv[n].state)[((u64)h * dk + j * 32 + lane) * dv + col] = st[j];
    }
    if (s.state_out >= 0)
#pragma unroll
        for (u32 j = 0; j < 8; j++)
            if (live && j * 32 + lane < dk)
                state_dst(p, s.state_out)[((u64)h * dk + j * 32 + lane) * dv + col] = st[j];
}

/* Block: 8 values of a head, a warp each; lanes share d_state <= 256. */
KERNEL(256, 2) imp_mamba2(const __grid_constant__ scan_args p)
{
    pdl_launch();
    pdl_wait();
    const seq_desc &s = ((const seq_desc *)p.seq)[blockIdx.z];
    const u32 lane = threadIdx.x & 31, i = blockIdx.x * 8 + (threadIdx.x >> 5), h = blockIdx.y,
              ns = p.d_state, hd = p.head_dim;
    if (i >= hd)
        return;
    const u32 g = h / (p.n_head / p.n_group);
    const float *src = state_src(p, s);
    float st[8];
#pragma unroll
    for (u32 j = 0; j < 8; j++)
        st[j] = src && j * 32 + lane < ns ? src[((u64)h * hd + i) * ns + j * 32 + lane] : 0.0f;
    float a = ((const float *)p.a_log)[h], d = ((const float *)p.d)[h], dtb = ((const float *)p.dt_bias)[h];
    a = p.negexp ? a : -expf(a);
    const save_desc *sv = (const save_desc *)p.save + s.save_begin;
    i32 n = 0;
    for (i32 t = s.tok_begin; t < s.tok_end; t++) {
        float dt = ((const float *)p.dt)[(u64)t * p.lddt + h] + dtb;
        dt = dt > 20.0f ? dt : log1pf(expf(dt));
        float x = ((const float *)p.x)[(u64)t * p.ldx + h * hd + i], decay = expf(dt * a), y = 0;
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            u32 k = j * 32 + lane;
            if (k < ns) {
                st[j] = st[j] * decay + dt * x * ((const float *)p.bmat)[(u64)t * p.ldbm + g * ns + k];
                y += st[j] * ((const float *)p.cmat)[(u64)t * p.ldcm + g * ns + k];
            }
        }
        y = warp_sum(y);
        if (lane == 0)
            ((float *)p.out)[(u64)t * p.ldo + h * hd + i] = y + d * x;
        for (; n < s.n_save && sv[n].tok == t; n++)
#pragma unroll
            for (u32 j = 0; j < 8; j++)
                if (j * 32 + lane < ns)
                    state_dst(p, sv[n].state)[((u64)h * hd + i) * ns + j * 32 + lane] = st[j];
    }
    if (s.state_out >= 0)
#pragma unroll
        for (u32 j = 0; j < 8; j++)
            if (j * 32 + lane < ns)
                state_dst(p, s.state_out)[((u64)h * hd + i) * ns + j * 32 + lane] = st[j];
}

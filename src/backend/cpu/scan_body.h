/* scan_body: the recurrences of ops.h over vec.h; included by ops_body.h after its activations.
 * One formula for prompt, decode and replay: token after token, sums over a state's rows in ascending order, so that a
 * token's row depends on its own past alone, whatever the chunks. Two passes a token: one reads the state (S^T k and
 * S^T q at once: eight independent sums, which is what hides the latency of the multiply-adds), one updates it.
 * Sources: Gated Delta Networks (Yang et al. 2024), Mamba-2 (Dao & Gu 2024), checked against transformers. */

/* W vectors of one state row; the last holds `last` columns. Constant W and last make straight code of it. */
VEC_INLINE v16 scan_load(const float *p, int j, int W, long last)
{
    return j + 1 < W ? v_load(p + 16 * j) : v_load_n(p + 16 * j, last);
}
VEC_INLINE void scan_store(float *p, v16 v, int j, int W, long last)
{
    if (j + 1 < W)
        v_store(p + 16 * j, v);
    else
        v_store_n(p + 16 * j, v, last);
}

#define SCAN_EACH _Pragma("GCC unroll 4") for (int j = 0; j < W; j++) /* sums must live in registers */

VEC_INLINE float scan_dot(const float *a, const float *b, long n)
{
    v16 s = v_set(0);
    for (long i = 0; i < n; i += 16)
        s = v_fma(v_load_n(a + i, n - i), v_load_n(b + i, n - i), s);
    return v_sum(s);
}

VEC_INLINE void gdn_tile(const cpu_gdn_task *t, int W, long last)
{
    for (long n = 0; n < t->n_tok; n++) {
        const float *q = t->q.p + n * t->q.ld, *k = t->k.p + n * t->k.ld, *v = t->v.p + n * t->v.ld;
        float beta = t->beta.p[n * t->beta.ld];
        v16 decay = v_set(expf(t->g.p[n * t->g.ld])), qk = v_set(scan_dot(q, k, t->d_k)), a[4], o[4], d[4];
        SCAN_EACH
            a[j] = o[j] = v_set(0);
        const float *s = t->state;
        for (long i = 0; i < t->d_k; i++, s += t->n_col) {
            v16 ki = v_set(k[i]), qi = v_set(q[i]);
            SCAN_EACH {
                v16 r = scan_load(s, j, W, last);
                a[j] = v_fma(ki, r, a[j]);
                o[j] = v_fma(qi, r, o[j]);
            }
        }
        SCAN_EACH {
            d[j] = v_mul(v_set(beta), v_sub(scan_load(v, j, W, last), v_mul(decay, a[j])));
            scan_store(t->o + n * t->ld_o, v_fma(qk, d[j], v_mul(decay, o[j])), j, W, last);
        }
        float *u = t->state;
        for (long i = 0; i < t->d_k; i++, u += t->n_col) {
            v16 ki = v_set(k[i]);
            SCAN_EACH
                scan_store(u, v_fma(ki, d[j], v_mul(decay, scan_load(u, j, W, last))), j, W, last);
        }
    }
}

VEC_INLINE void mamba2_tile(const cpu_mamba2_task *t, int W, long last)
{
    for (long n = 0; n < t->n_tok; n++) {
        const float *x = t->x.p + n * t->x.ld, *b = t->b.p + n * t->b.ld, *c = t->c.p + n * t->c.ld;
        float dt = softplus1(t->dt.p[n * t->dt.ld] + t->dt_bias);
        v16 decay = v_set(expf(t->A * dt)), u[4], y[4];
        SCAN_EACH {
            u[j] = v_mul(v_set(dt), scan_load(x, j, W, last));
            y[j] = v_set(0);
        }
        float *s = t->state;
        for (long i = 0; i < t->d_state; i++, s += t->n_col) {
            v16 bi = v_set(b[i]), ci = v_set(c[i]);
            SCAN_EACH {
                v16 r = v_fma(bi, u[j], v_mul(decay, scan_load(s, j, W, last)));
                scan_store(s, r, j, W, last);
                y[j] = v_fma(ci, r, y[j]);
            }
        }
        SCAN_EACH
            scan_store(t->y + n * t->ld_y, v_fma(v_set(t->D), scan_load(x, j, W, last), y[j]), j, W, last);
    }
}

/* W is a constant everywhere, so that sums live in registers; a tile of whole vectors has a `last` that is one, too. */
#define SCAN_TILES(name, task)                                   \
    static void scan_##name(const task *t)                       \
    {                                                            \
        long last = (t->n_col - 1) % 16 + 1;                     \
        if (t->n_col == 64)                                      \
            name##_tile(t, 4, 16);                               \
        else if (t->n_col == 32)                                 \
            name##_tile(t, 2, 16);                               \
        else if (t->n_col > 48)                                  \
            name##_tile(t, 4, last);                             \
        else if (t->n_col > 32)                                  \
            name##_tile(t, 3, last);                             \
        else if (t->n_col > 16)                                  \
            name##_tile(t, 2, last);                             \
        else                                                     \
            name##_tile(t, 1, last);                             \
    }
SCAN_TILES(gdn, cpu_gdn_task)
SCAN_TILES(mamba2, cpu_mamba2_task)
#undef SCAN_TILES
#undef SCAN_EACH

/* The last taps-1 inputs of 16 channels move through `past` as a ring; sums from the oldest tap on. */
static void scan_conv(const cpu_conv_task *t)
{
    v16 w[CPU_CONV_TAPS], past[CPU_CONV_TAPS];
    long taps = t->taps, n = t->n_col, oldest = 0;
    for (long k = 0; k < taps; k++) {
        float lane[16] = {0};
        for (long c = 0; c < n; c++)
            lane[c] = t->w[c * taps + k];
        w[k] = v_load(lane);
    }
    for (long k = 0; k + 1 < taps; k++)
        past[k] = v_load_n(t->state + k * t->ld_state, n);
    v16 bias = t->bias ? v_load_n(t->bias, n) : v_set(0);
    for (long i = 0; i < t->n_tok; i++) {
        v16 x = v_load_n(t->x.p + i * t->x.ld, n), sum = bias;
        for (long k = 0, at = oldest; k + 1 < taps; k++) {
            sum = v_fma(w[k], past[at], sum);
            at = at + 2 < taps ? at + 1 : 0;
        }
        v_store_n(t->y + i * t->ld_y, activate(v_fma(w[taps - 1], x, sum), t->act), n);
        past[oldest] = x;
        oldest = oldest + 2 < taps ? oldest + 1 : 0;
    }
    for (long k = 0; k + 1 < taps; k++) {
        v_store_n(t->state + k * t->ld_state, past[oldest], n);
        oldest = oldest + 2 < taps ? oldest + 1 : 0;
    }
}

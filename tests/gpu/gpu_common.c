#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gpu_test.h"

bool rig_fp8, rig_precise, opt_no_pdl, opt_no_graph, opt_decode, opt_prompt, opt_batches;
static uint64_t rng = 88172645463325252ull;
void rnd_seed(uint64_t s) { rng = s * 0x9E3779B97F4A7C15ull + 1; }
uint64_t rnd(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng * 0x2545F4914F6CDD1Dull;
}
float rnd_f(void)
{
    float s = 0;
    for (int i = 0; i < 4; i++)
        s += (float)(rnd() >> 40) / 16777216.0f - 0.5f;
    return s * 1.7320508f;
}

static void put16(uint8_t *p, uint16_t v) { memcpy(p, &v, 2); }

void fill_blocks(quant_id f, void *dst, uint64_t n)
{
    const quant_fmt *q = quant_get(f);
    uint8_t *p = dst;
    if (f == QUANT_F32 || f == QUANT_F16 || f == QUANT_BF16) {
        for (uint64_t i = 0; i < n; i++) {
            float v = rnd_f() * 0.02f;
            if (f == QUANT_F32) {
                if (!rig_precise) /* exact in f16, so that a bound can be tight */
                    v = quant_f16_to_f32(quant_f32_to_f16(v));
                memcpy(p + i * 4, &v, 4);
            } else {
                put16(p + i * 2, f == QUANT_F16 ? quant_f32_to_f16(v) : quant_f32_to_bf16(v));
            }
        }
        return;
    }
    /* where f16 scales lie: offset, value */
    static const struct { quant_id f; uint8_t at[2]; int n; float v; } scale[] = {
        {QUANT_Q4_0, {0}, 1, .004f}, {QUANT_Q4_1, {0, 2}, 2, .004f}, {QUANT_Q5_0, {0}, 1, .002f},
        {QUANT_Q5_1, {0, 2}, 2, .002f}, {QUANT_Q8_0, {0}, 1, .0003f}, {QUANT_Q2_K, {80, 82}, 2, .002f},
        {QUANT_Q3_K, {108}, 1, .0005f}, {QUANT_Q4_K, {0, 2}, 2, .0001f}, {QUANT_Q5_K, {0, 2}, 2, .00006f},
        {QUANT_Q6_K, {208}, 1, .00001f}, {QUANT_IQ4_NL, {0}, 1, .0003f}, {QUANT_IQ4_XS, {0}, 1, .00002f}};
    uint64_t bytes = n * q->bytes, i = 0;
    for (; i + 8 <= bytes; i += 8) {
        uint64_t v = rnd();
        memcpy(p + i, &v, 8);
    }
    for (; i < bytes; i++)
        p[i] = (uint8_t)rnd();
    for (uint64_t b = 0; b < n; b++, p += q->bytes) {
        for (size_t k = 0; k < sizeof scale / sizeof *scale; k++)
            if (scale[k].f == f)
                for (int j = 0; j < scale[k].n; j++)
                    put16(p + scale[k].at[j],
                          quant_f32_to_f16(scale[k].v * (0.75f + (float)(rnd() & 255) / 512.0f) * (j ? 8.0f : 1.0f)));
        if (f == QUANT_MXFP4)
            p[0] = (uint8_t)(119 + rnd() % 3);
        if (f == QUANT_NVFP4)
            for (int j = 0; j < 4; j++)
                p[j] = (uint8_t)(0x10 + rnd() % 16);
        if (f == QUANT_F8_E4M3 && (p[0] & 0x7F) > 0x48)
            p[0] &= 0xBF;
    }
}

weight *make_weight(const char *name, quant_id f, uint32_t n_expert, uint64_t rows, uint64_t cols, uint64_t pool)
{
    uint64_t rb = 0, n = rows * n_expert;
    if (!quant_bytes(f, cols, &rb))
        return NULL;
    weight *w = calloc(1, sizeof *w);
    uint64_t own = pool && pool < n * rb ? pool / rb * rb : n * rb, per = own / rb, ns = (n + per - 1) / per;
    static struct { quant_id f; uint64_t n; uint8_t *p; } pools[32];
    uint8_t *data = NULL;
    for (int i = 0; pool && i < 32; i++) {
        if (pools[i].p && pools[i].f == f && pools[i].n == pool)
            data = pools[i].p;
        if (data)
            break;
        if (!pools[i].p) {
            data = pools[i].p = malloc(pool + 4096);
            pools[i].f = f;
            pools[i].n = pool;
            fill_blocks(f, data, pool / quant_get(f)->bytes);
            break;
        }
    }
    if (!data) {
        data = malloc(own + 64);
        fill_blocks(f, data, own / quant_get(f)->bytes);
    }
    weight_slice *sl = calloc(ns, sizeof *sl);
    for (uint64_t i = 0; i < ns; i++)
        sl[i] = (weight_slice){.data = data, .rows = n - i * per < per ? n - i * per : per, .stride = rb};
    *w = (weight){.name = name, .format = f, .n_expert = n_expert, .rows = rows, .cols = cols,
                  .n_parts = 1, .n_bytes = n * rb};
    w->part[0] = (weight_part){.role = PART_DATA, .type = f, .gran_rows = 1, .gran_cols = 1,
                               .n_slices = (uint32_t)ns, .slices = sl};
    return w;
}

weight *make_vector(const char *name, uint64_t n, float mean, float dev)
{
    weight *w = make_weight(name, QUANT_F32, 1, 1, n, 0);
    float *v = (float *)(uintptr_t)w->part[0].slices[0].data;
    for (uint64_t i = 0; i < n; i++)
        v[i] = mean + dev * rnd_f();
    return w;
}

void add_bias(weight *w)
{
    uint64_t n = w->rows * w->n_expert;
    float *v = malloc(n * 4);
    for (uint64_t i = 0; i < n; i++)
        v[i] = rnd_f() * 0.1f;
    weight_slice *sl = calloc(1, sizeof *sl);
    *sl = (weight_slice){.data = (uint8_t *)v, .rows = n, .stride = 4};
    w->part[w->n_parts++] = (weight_part){.role = PART_BIAS, .type = QUANT_F32, .gran_rows = 1, .gran_cols = 1,
                                          .n_slices = 1, .slices = sl};
}

/* ---- plans ------------------------------------------------------------------------------------------------------ */
static plan_reg out1(plan *p, plan_op *o, plan_type t, plan_dim d, uint32_t w)
{
    o->out[0] = plan_add_reg(p, t, d, w);
    plan_reg r = o->out[0];
    plan_add_op(p, o);
    return r;
}
static float norm_mean = 1; /* of a row's norm, in the model that is being built */
static plan_reg p_norm(plan *p, int32_t l, const char *role, plan_reg x, uint32_t width, uint32_t group, plan_type t)
{
    const float mean = group ? 1 : norm_mean;
    plan_op o = plan_op_init(OP_NORM, l, role);
    o.in[0] = x;
    o.weight[0] = plan_add_weight(p, make_vector("norm", group ? group : width, mean, 0.1f * mean));
    o.attr.norm.eps = 1e-6f;
    o.attr.norm.group = group;
    return out1(p, &o, t, p->reg[x].dim, width);
}
static plan_reg p_lin(plan *p, int32_t l, const char *role, plan_reg x, weight *w, model *m)
{
    plan_op o = plan_op_init(OP_LINEAR, l, role);
    o.in[0] = x;
    o.weight[0] = plan_add_weight(p, w);
    if (m) {
        m->linear_bytes += (double)w->n_bytes;
        m->linear_params += l >= 0 ? (double)w->rows * (double)w->cols : 0;
    }
    return out1(p, &o, REG_ACT, p->reg[x].dim, (uint32_t)w->rows);
}
static plan_reg p_two(plan *p, plan_op_kind k, int32_t l, const char *role, plan_reg a, plan_reg b, plan_type t)
{
    plan_op o = plan_op_init(k, l, role);
    o.in[0] = a;
    o.in[1] = b;
    if (k == OP_ADD)
        o.attr.scale = 1;
    return out1(p, &o, t, p->reg[a].dim, p->reg[a].width);
}
static plan_reg p_rope(plan *p, int32_t l, const char *role, plan_reg x, uint32_t heads, uint32_t d, int32_t freq)
{
    plan_op o = plan_op_init(OP_ROPE, l, role);
    o.in[0] = x;
    o.attr.rope = (plan_rope){.n_head = heads, .head_dim = d, .rot = d, .freq = freq, .mscale = 1,
                              .interleaved = l & 1};
    return out1(p, &o, REG_ACT, DIM_T, heads * d);
}

static plan_reg moe(const shape *s, model *m, int32_t i, plan_reg x)
{
    plan *p = &m->p;
    plan_reg sc = p_lin(p, i, "router", x, make_weight("router", QUANT_F32, 1, s->n_expert, s->hidden, 0), NULL);
    plan_op r = plan_op_init(OP_ROUTE, i, "route");
    r.in[0] = sc;
    r.out[0] = plan_add_reg(p, REG_IDX, DIM_T, s->n_used);
    r.out[1] = plan_add_reg(p, REG_WIDE, DIM_T, s->n_used);
    r.attr.route = s->route;
    if (s->route.scale == 0)
        r.attr.route.renormalise = true, r.attr.route.scale = 1;
    r.attr.route.n_expert = s->n_expert;
    r.attr.route.k = s->n_used;
    if (s->choice_bias > 0)
        r.weight[0] = plan_add_weight(p, make_vector("choice_bias", s->n_expert, 0, s->choice_bias));
    if (s->expert_factor)
        r.weight[1] = plan_add_weight(p, make_vector("expert_factor", s->n_expert, 1, 0.3f));
    plan_add_op(p, &r);
    plan_reg y[3] = {PLAN_NONE, PLAN_NONE, PLAN_NONE};
    static const char *const role[3] = {"gate_e", "up_e", "down_e"};
    for (int k = 0; k < 3; k++) {
        if (s->fused_experts && k == 0)
            continue;
        uint32_t rows = k == 2 ? s->hidden : s->fused_experts ? 2 * s->ff : s->ff, cols = k == 2 ? s->ff : s->hidden;
        weight *w = make_weight(role[k], k == 2 && s->fmt_down && (i & 1) ? s->fmt_down : s->fmt, s->n_expert,
                                rows, cols, s->pool);
        m->linear_bytes += (double)w->n_bytes * s->n_used / s->n_expert;
        m->linear_params += (double)rows * cols * s->n_used;
        plan_op o = plan_op_init(OP_EXPERT_LINEAR, i, role[k]);
        if (s->fused_experts || s->expert_bias)
            add_bias(w);
        o.in[0] = k == 2 ? y[1] : x;
        o.in[1] = r.out[0];
        o.weight[0] = plan_add_weight(p, w);
        o.attr.expert.k = s->n_used;
        o.attr.expert.x_per_choice = k == 2;
        y[k] = out1(p, &o, REG_ACT, DIM_T, rows * s->n_used);
        if (k == 1) {
            plan_op g = plan_op_init(OP_GLU, i, "act_e");
            g.in[0] = s->fused_experts ? y[1] : y[0];
            g.in[1] = s->fused_experts ? PLAN_NONE : y[1];
            g.attr.act.interleaved = s->fused_experts;
            g.attr.act.act = s->act;
            if (s->act == ACT_SWIGLU_OAI) /* no other is limited: the CPU would limit it, CUDA not */
                g.attr.act.limit = 7, g.attr.act.alpha = 1.702f;
            y[1] = out1(p, &g, REG_ACT, DIM_T, s->ff * s->n_used);
        }
    }
    plan_op c = plan_op_init(OP_COMBINE, i, "combine");
    c.in[0] = y[2];
    c.in[1] = r.out[1];
    c.attr.expert.k = s->n_used;
    return out1(p, &c, REG_ACT, DIM_T, s->hidden);
}

static plan_reg attention(const shape *s, model *m, int32_t i, plan_reg x, int32_t fc)
{
    plan *p = &m->p;
    uint32_t qw = s->n_head * s->d, kw = s->n_kv_head * s->d;
    plan_reg h = p_norm(p, i, "attn_norm", x, s->hidden, 0, REG_ACT);
    weight *wq = make_weight("attn_q", s->fmt, 1, qw, s->hidden, s->pool),
           *wk = make_weight("attn_k", s->fmt, 1, kw, s->hidden, s->pool);
    weight *wv = make_weight("attn_v", s->fmt_v && (i & 1) ? s->fmt_v : s->fmt, 1, kw, s->hidden, s->pool);
    if (s->bias)
        add_bias(wq), add_bias(wk), add_bias(wv);
    plan_reg q = p_lin(p, i, "q", h, wq, m), k = p_lin(p, i, "k", h, wk, m), v = p_lin(p, i, "v", h, wv, m);
    if (s->qk_norm) {
        q = p_norm(p, i, "q_norm", q, qw, s->d, REG_ACT);
        k = p_norm(p, i, "k_norm", k, kw, s->d, REG_ACT);
    }
    q = p_rope(p, i, "q_rope", q, s->n_head, s->d, fc);
    k = p_rope(p, i, "k_rope", k, s->n_kv_head, s->d, fc);
    bool win = s->window && (i & 1) == 0;
    int32_t g = plan_add_group(p, (plan_kv_group){.kind = win ? KVG_WINDOW : KVG_FULL, .window = win ? s->window : 0,
                                                  .k_width = kw, .v_width = kw});
    int32_t slot = plan_add_slot(p, g);
    plan_op st = plan_op_init(OP_KV_STORE, i, "store");
    st.in[0] = k;
    st.in[1] = v;
    st.attr.kv.group = g;
    st.attr.kv.slot = slot;
    plan_add_op(p, &st);
    plan_op at = plan_op_init(OP_ATTEND, i, "attend");
    at.in[0] = q;
    if (s->sinks)
        at.weight[0] = plan_add_weight(p, make_vector("sinks", s->n_head, 0, 1));
    at.attr.attend = (plan_attend){.n_head = s->n_head, .n_kv_head = s->n_kv_head, .d_k = s->d, .d_v = s->d,
                                   .scale = 1.0f / sqrtf((float)s->d), .softcap = s->softcap,
                                   .window = win ? s->window : 0, .group = g, .slot = slot};
    plan_reg a = out1(p, &at, REG_ACT, DIM_T, qw);
    a = p_lin(p, i, "o", a, make_weight("attn_output", s->fmt, 1, s->hidden, qw, s->pool), m);
    if (s->post_norm)
        a = p_norm(p, i, "attn_post", a, s->hidden, 0, REG_ACT);
    return p_two(p, OP_ADD, i, "res1", x, a, REG_WIDE);
}

imp_status build_model(const shape *s, model *m, imp_err *e)
{
    plan *p = &m->p;
    memset(m, 0, sizeof *m);
    plan_init(p, s->name);
    p->n_vocab = s->vocab;
    p->n_hidden = s->hidden;
    p->n_layer = s->n_layer;
    p->n_ctx_train = 131072;
    norm_mean = s->norm > 0 ? s->norm : 1;
    float *freq = malloc(s->d / 2 * sizeof *freq);
    for (uint32_t i = 0; i < s->d / 2; i++)
        freq[i] = powf(10000.0f, -2.0f * (float)i / (float)s->d);
    int32_t fc = plan_add_constant(p, freq, s->d / 2);
    free(freq);
    weight *embd = make_weight("token_embd", s->fmt_embd ? s->fmt_embd : s->fmt, 1, s->vocab, s->hidden, s->pool);
    plan_op o = plan_op_init(OP_EMBED, -1, "embd");
    o.weight[0] = plan_add_weight(p, embd);
    o.attr.scale = 1;
    plan_reg x = out1(p, &o, REG_WIDE, DIM_T, s->hidden);
    for (int32_t i = 0; i < (int32_t)s->n_layer; i++) {
        if (s->n_head)
            x = attention(s, m, i, x, fc);
        plan_reg h = p_norm(p, i, "ffn_norm", x, s->hidden, 0, REG_ACT);
        plan_reg a;
        if (s->n_expert) {
            a = moe(s, m, i, h);
        } else {
            plan_reg ga = p_lin(p, i, "gate", h, make_weight("ffn_gate", s->fmt, 1, s->ff, s->hidden, s->pool), m);
            plan_reg up = p_lin(p, i, "up", h, make_weight("ffn_up", s->fmt, 1, s->ff, s->hidden, s->pool), m);
            plan_op gl = plan_op_init(OP_GLU, i, "act");
            gl.in[0] = ga;
            gl.in[1] = up;
            gl.attr.act.act = s->act;
            a = out1(p, &gl, REG_ACT, DIM_T, s->ff);
            a = p_lin(p, i, "down", a,
                      make_weight("ffn_down", s->fmt_down && (i & 1) ? s->fmt_down : s->fmt, 1, s->hidden, s->ff,
                                  s->pool), m);
        }
        if (s->post_norm)
            a = p_norm(p, i, "ffn_post", a, s->hidden, 0, REG_ACT);
        x = p_two(p, OP_ADD, i, "res2", x, a, REG_WIDE);
    }
    plan_op ga = plan_op_init(OP_GATHER, -1, "gather");
    ga.in[0] = x;
    x = out1(p, &ga, REG_WIDE, DIM_R, s->hidden);
    p->hidden = x = p_norm(p, -1, "norm", x, s->hidden, 0, REG_WIDE);
    p->logits = p_lin(p, -1, "head", x,
                      s->tied ? embd
                              : make_weight("output", s->fmt_head ? s->fmt_head : s->fmt, 1, s->vocab, s->hidden,
                                            s->pool), m);
    p->reg[p->logits].type = REG_WIDE;
    if (s->final_softcap > 0) {
        plan_op c = plan_op_init(OP_SOFTCAP, -1, "cap");
        c.in[0] = p->logits;
        c.attr.cap = s->final_softcap;
        p->logits = out1(p, &c, REG_WIDE, DIM_R, s->vocab);
    }
    return plan_finish(p, e);
}

/* ---- rigs ------------------------------------------------------------------------------------------------------- */
static plan_op_kind hint_of(const plan *p, int32_t w)
{
    plan_op_kind k = OP_COUNT;
    for (int32_t i = 0; i < p->n_op; i++)
        for (int j = 0; j < 3; j++)
            if (p->op[i].weight[j] == w && (k == OP_COUNT || k == OP_EMBED))
                k = j == 0 ? p->op[i].kind : OP_NORM;
    return k;
}

imp_status rig_open(rig *r, const backend_api *api, const char *cpu, bool det, plan *p, int32_t block, int64_t n_block,
                    plan_limits lim, int threads, imp_err *e)
{
    *r = (rig){.api = api, .p = p, .block = block};
    backend_options bo = {.cpu = cpu, .n_threads = threads, .deterministic = det,
                          .prefill_fp8 = rig_fp8 && api == &backend_cuda,
                          .precise = rig_precise && api == &backend_cuda};
    imp_status s = api->open(&bo, &r->b, e);
    if (s != IMP_OK)
        return s;
    if (api == &backend_cuda) {
        r->b->no_pdl = opt_no_pdl;
        r->b->no_graph = opt_no_graph;
    }
    r->w = calloc((size_t)p->n_weight + 1, sizeof *r->w);
    double t = clock_s();
    for (int32_t i = 0; i < p->n_weight && s == IMP_OK; i++)
        s = api->upload(r->b, p->weight[i], hint_of(p, i), 0, 0, 0, 0, &r->w[i], e);
    r->upload_s = clock_s() - t;
    kv_options ko = {.type = KV_AUTO, .block_size = block, .n_state = 8};
    for (int32_t g = 0; g < p->n_group; g++)
        ko.n_block[g] = n_block;
    if (s == IMP_OK)
        s = api->kv_open(r->b, p, &ko, &r->kv, e);
    for (int32_t g = 0; g < p->n_group && s == IMP_OK; g++)
        s = api->kv_grow(r->kv, g, n_block, e);
    if (s == IMP_OK)
        s = api->compile(r->b, p, r->w, r->kv, &lim, &r->x, e);
    r->upload_s = clock_s() - t < r->upload_s * 1.5 + 1 ? clock_s() - t : r->upload_s;
    return s;
}
imp_status rig_reopen(rig *r, plan_limits lim, imp_err *e)
{
    r->api->exec_free(r->x);
    r->x = NULL;
    return r->api->compile(r->b, r->p, r->w, r->kv, &lim, &r->x, e);
}
bool cuda_refuses(backend_options bo)
{
    backend *b = NULL;
    imp_err e = {0};
    imp_status s = backend_cuda.open(&bo, &b, &e);
    bool nothing = !b;
    if (b)
        backend_cuda.close(b);
    return s == IMP_E_UNSUPPORTED && nothing;
}
void rig_close(rig *r)
{
    if (!r->b)
        return;
    if (r->x)
        r->api->exec_free(r->x);
    if (r->kv)
        r->api->kv_close(r->kv);
    for (int32_t i = 0; i < r->p->n_weight; i++)
        if (r->w[i])
            r->api->weight_free(r->b, r->w[i]);
    free(r->w);
    r->api->close(r->b);
    *r = (rig){0};
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */
typedef struct bank {
    int32_t *id, *seq, *kv, *vb, *ve, (*pos)[3], *table;
    uint8_t *cls;
    batch_seq *seqs;
    batch_row *rows;
    batch b;
} bank;
static bank banks[4];

imp_status submit_step(rig *r, const seq_step *s, int32_t n_seq, float *logits, int32_t which, backend_ticket *t,
                       imp_err *e)
{
    bank *k = &banks[which];
    int32_t n = 0, n_tab = 0, n_row = 0;
    for (int32_t i = 0; i < n_seq; i++) {
        n += s[i].n;
        n_tab += (s[i].n_past + s[i].n + r->block - 1) / r->block;
        n_row += s[i].all_rows ? s[i].n : 1;
    }
    free(k->id), free(k->seq), free(k->kv), free(k->vb), free(k->ve), free(k->pos);
    free(k->table), free(k->cls), free(k->seqs), free(k->rows);
    size_t N = (size_t)n + 1;
    k->id = malloc(N * 4), k->seq = malloc(N * 4), k->kv = malloc(N * 4);
    k->vb = malloc(N * 4), k->ve = malloc(N * 4), k->pos = malloc(N * 12);
    k->table = malloc((size_t)n_tab * 4 + 4), k->cls = malloc(N), k->seqs = calloc((size_t)n_seq, sizeof *k->seqs);
    k->rows = calloc((size_t)n_row + 1, sizeof *k->rows);
    int32_t at = 0, tab = 0, row = 0;
    for (int32_t i = 0; i < n_seq; i++) {
        int32_t nb = (s[i].n_past + s[i].n + r->block - 1) / r->block;
        batch_seq *q = &k->seqs[i];
        *q = (batch_seq){.n_kv = s[i].n_past + s[i].n, .slot = s[i].slot, .state_in = s[i].n_past ? s[i].slot : -1,
                         .state_out = s[i].slot, .tok_begin = at, .tok_end = at + s[i].n};
        for (int32_t g = 0; g < r->p->n_group; g++)
            q->table[g] = k->table + tab, q->table_len[g] = nb;
        for (int32_t j = 0; j < nb; j++)
            k->table[tab + j] = s[i].first_block + (j ^ 1);
        tab += nb;
        for (int32_t j = 0; j < s[i].n; j++, at++) {
            int32_t pos = s[i].n_past + j;
            k->id[at] = s[i].ids ? s[i].ids[j] : BATCH_LAST;
            k->seq[at] = i, k->kv[at] = pos, k->vb[at] = 0, k->ve[at] = pos + 1;
            k->pos[at][0] = k->pos[at][1] = k->pos[at][2] = pos;
            k->cls[at] = s[i].cls;
            if (s[i].all_rows || j == s[i].n - 1) {
                k->rows[row] = (batch_row){.tok = at, .want = BATCH_SAMPLE | (logits ? BATCH_LOGITS : 0),
                                           .logits = logits ? logits + (uint64_t)row * r->p->n_vocab : NULL};
                sample_params_init(&k->rows[row].sample.par);
                k->rows[row].sample.position = (uint64_t)pos + 1;
                k->rows[row].sample.n_top = -1;
                row++;
            }
        }
    }
    k->b = (batch){.n_tok = n, .n_seq = n_seq, .n_row = n_row, .id = k->id, .seq = k->seq, .kv_index = k->kv,
                   .pos = (const int32_t (*)[3])k->pos, .vis_begin = k->vb, .vis_end = k->ve, .cls = k->cls,
                   .seqs = k->seqs, .rows = k->rows};
    return r->api->submit(r->x, &k->b, t, e);
}

imp_status run_step(rig *r, const seq_step *s, int32_t n_seq, float *logits, int32_t *sampled, imp_err *e)
{
    backend_ticket t;
    step_result res;
    imp_status st = submit_step(r, s, n_seq, logits, 3, &t, e);
    if (st == IMP_OK)
        st = r->api->wait(r->x, t, &res, e);
    for (int32_t i = 0; st == IMP_OK && sampled && i < res.n_row; i++)
        sampled[i] = res.row[i].id;
    return st == IMP_OK ? res.status : st;
}

double rel_l2(const float *a, const double *b, uint64_t n)
{
    double d = 0, r = 0;
    for (uint64_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        r += b[i] * b[i];
    }
    return r > 0 ? sqrt(d / r) : sqrt(d);
}

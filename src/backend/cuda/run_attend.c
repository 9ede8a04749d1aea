/* run_attend: attention and what stands before it. NODE_QKV: norms and rotations of heads, K and V into the cache; then
 * which attention kernel, and how its blocks share the work. Called by run.c on the backend's thread. */
#include "backend/cuda/exec.h"

static imp_status go(bexec *x, kernel_id k, uint32_t gx, uint32_t gy, uint32_t gz, uint32_t threads, uint32_t smem,
                     const void *args, imp_err *e)
{
    return cuda_launch(x->b, x->b->stream, k, gx, gy, gz, threads, smem, true, args, e);
}

/* ---- before it --------------------------------------------------------------------------------------------------- */
/* Attention does the work of its QKV node: one token a sequence, heads that its kernels take. */
static bool attend_takes_qkv(const bexec *x, const node *attend)
{
    return x->one_each && attend->qkv >= 0 && exec_attend_width(x, &x->p->op[attend->op].attr.attend);
}

static qkv_args qkv_of(const bexec *x, const node *n)
{
    const plan *p = x->p;
    const plan_op *st = &p->op[n->op], *at = &p->op[n->attend];
    const kv_group *g = &x->kv->group[st->attr.kv.group];
    qkv_args a = {.q = reg_ptr(x, n->q), .k = reg_ptr(x, n->k), .ldq = reg_ld(x, n->q), .ldk = reg_ld(x, n->k),
                  .n_tok = (uint32_t)x->n_tok, .kv = g->base, .block_bytes = g->block_bytes,
                  .k_off = g->k_off[st->attr.kv.slot], .v_off = g->v_off[st->attr.kv.slot],
                  .tok = x->t->tok, .seq = x->t->seq, .table = x->t->table, .k_width = g->k_width,
                  .v_width = g->v_width, .block_size = (uint32_t)x->kv->block_size,
                  .group = (uint32_t)st->attr.kv.group,
                  .kv_f32 = x->kv->type == KV_F32, .k_head_dim = at->attr.attend.d_k,
                  .n_k_head = at->attr.attend.n_kv_head};
    if (n->v != PLAN_NONE) {
        a.v = reg_ptr(x, n->v);
        a.ldv = reg_ld(x, n->v);
        a.v_head_dim = at->attr.attend.d_v;
        a.n_v_head = at->attr.attend.n_kv_head;
    }
#define NORM_OF(which)                                                               \
    if (n->which##_norm >= 0) {                                                      \
        const plan_op *o = &p->op[n->which##_norm];                                  \
        a.has_##which##_norm = 1;                                                    \
        a.which##_norm = vec(x, o->weight[0]);                                       \
        a.which##_eps = o->attr.norm.eps;                                            \
        a.which##_plus = o->attr.norm.plus_one ? 1.0f : 0.0f;                        \
    }
    NORM_OF(q)
    NORM_OF(k)
    NORM_OF(v)
#undef NORM_OF
#define ROPE_OF(which)                                                                                               \
    if (n->which##_rope >= 0) {                                                                                      \
        const plan_rope *o = &p->op[n->which##_rope].attr.rope;                                                      \
        a.has_rope_##which = 1;                                                                                      \
        a.rope_##which = (rope_args){.freq = x->constant[o->freq], .rot = o->rot, .rot_off = o->rot_off,             \
                                     .interleaved = o->interleaved,                                                  \
                                     .section = {o->section[0], o->section[1], o->section[2]}, .mscale = o->mscale}; \
    }
    ROPE_OF(q)
    ROPE_OF(k)
#undef ROPE_OF
    a.rope_q.n_head = at->attr.attend.n_head;
    a.rope_q.head_dim = at->attr.attend.d_k;
    return a;
}

imp_status exec_qkv(bexec *x, const node *n, imp_err *e)
{
    if (attend_takes_qkv(x, &x->node[x->node_of_op[n->attend]]))
        return IMP_OK;
    qkv_args a = qkv_of(x, n);
    /* a warp a head, or where there are enough tokens one for several, which share its angles */
    uint32_t heads = a.rope_q.n_head + a.n_k_head + a.n_v_head;
    return go(x, K_qkv, div_up(heads, x->n_tok < 256 ? 4 : 16), (uint32_t)x->n_tok, 1, 128, 0, &a, e);
}

/* ---- rows of class D (attend_d.cu) ------------------------------------------------------------------------------- */
/* Flash decoding by head width. */
typedef struct attend_kernel {
    kernel_id k, with_qkv, plain, cluster; /* the last two: plain heads; and a split a block, as a cluster */
} attend_kernel;
static const attend_kernel attend_d64 = {K_attend_d64, K_attend_q64, K_attend_q64l, K_attend_q64p},
                           attend_d128 = {K_attend_d128, K_attend_q128, K_attend_q128l, K_attend_q128p},
                           attend_d256 = {K_attend_d256, K_attend_q256, K_attend_q256, K_attend_q256};

/* Shared memory: places for 32 positions of K and V a warp, barriers, the newest K and V, angles, then the warps' sums:
 * before them, in the same place, queries and room to rotate. */
static uint32_t attend_sums(uint32_t d, uint32_t heads)
{
    uint32_t sums = 16 * heads * (d + 4), before = up_to(heads, 2) * (2 * d + 16) + 16 * d;
    return sums > before ? sums : before;
}
static uint32_t attend_smem(uint32_t d, uint32_t heads) { return 512 * d + 128 + 12 * d + attend_sums(d, heads); }

/* Positions a block takes. Measured: short contexts of few tokens go split by split; of as many as fit two a
 * multiprocessor, whole; of more, a half or less, so that the last round is short. Long ones of few tokens are cut into
 * about four spans a multiprocessor. */
static uint32_t attend_span(const bexec *x, uint32_t pairs)
{
    uint32_t n_sm = (uint32_t)x->b->n_sm, n_pos = SPLIT_BEGIN(x->split), parts = div_up(6 * n_sm, pairs);
    bool once = pairs > n_sm && pairs <= 2 * n_sm;
    parts = once ? 1 : parts < 2 ? 2 : parts;
    if (n_pos <= SPLIT_FROM)
        return up_to(div_up(n_pos, parts), SPLIT_FINE);
    if (!once && pairs <= 4 * n_sm)
        parts = 4 * n_sm / pairs;
    uint32_t span = n_pos / parts / SPLIT_COARSE * SPLIT_COARSE;
    return span ? span : SPLIT_COARSE;
}

/* Blocks of a token and kv head as a cluster: up to 8 splits, one each, when all blocks have room at once. Sets
 * a->share. */
static bool attend_in_cluster(const bexec *x, attend_args *a, uint32_t d, uint32_t blocks)
{
    uint32_t items = a->heads * (d / 4), n_sm = (uint32_t)x->b->n_sm, room = d > 128 ? n_sm : n_sm * 5 / 2;
    if (x->b->cc / 10 != 9 || x->split < 2 || x->split > 8 || a->span != SPLIT_FINE || blocks > room)
        return false;
    for (a->share = 0; x->split << a->share < items; a->share++) {}
    return a->share <= 7; /* a thread each */
}

/* A copy brings all columns of a head, else 64 of them. */
static bool whole_heads(const attend_args *a) { return a->box_shift == 0 && a->d_k % 64 == 0 && a->d_v % 64 == 0; }

/* How K (v: V) of a slot lies in the cache, for the copies of attend_d.cu's kernel for kernel_d columns. */
static imp_status kv_map(const bexec *x, const attend_args *a, uint32_t kernel_d, bool v, CUtensorMap *map,
                         imp_err *e)
{
    const kv_group *g = &x->kv->group[a->group];
    uint32_t d = v ? a->d_v : a->d_k, width = v ? a->v_width : a->k_width;
    bool whole = whole_heads(a);
    cuuint64_t dim[5] = {whole ? 64 : d, a->block_size, whole ? d / 64 : 1, a->n_kv_head, g->reserved / g->block_bytes};
    cuuint64_t stride[4] = {(cuuint64_t)width * 2, 128, (cuuint64_t)d * 2, g->block_bytes};
    cuuint32_t box[5] = {64, 32u >> a->box_shift, whole ? kernel_d / 64 : 1, 1, 1}, step[5] = {1, 1, 1, 1, 1};
    void *at = (void *)(uintptr_t)(a->kv + (v ? a->v_off : a->k_off));
    CUresult r = x->b->cu.TensorMapEncodeTiled(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 5, at, dim, stride, box, step,
                                               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return cu_check(&x->b->cu, r, e, "describing the KV cache");
}

static newest_args newest_of(const qkv_args *x, const attend_args *a)
{
    uint32_t d = a->d_k;
    newest_args n = {
        .kind = {{x->q, x->q_norm, x->ldq, d, x->has_q_norm, x->q_eps, x->q_plus, 0},
                 {x->k, x->k_norm, x->ldk, d, x->has_k_norm, x->k_eps, x->k_plus, 0},
                 {x->v, x->v_norm, x->ldv, a->d_v, x->has_v_norm, x->v_eps, x->v_plus, 0}}};
    for (int i = 0; i < 3; i++)
        n.kind[i].part = 1.0f / (float)n.kind[i].n;
    if (x->has_rope_q)
        n.rope[0] = x->rope_q;
    if (x->has_rope_k)
        n.rope[1] = x->rope_k;
    return n;
}

#define PLAIN_HEADS 6 /* query heads of a block of attend_q*l */
/* What attend_q*l can do (attend_d.cu). */
static bool attend_plain(const attend_args *a, const newest_args *x, uint32_t d)
{
    for (int i = 0; i < 2; i++)
        if (x->rope[i].rot != d || x->rope[i].interleaved || x->rope[i].section[0])
            return false;
    return a->d_k == d && a->d_v == d && a->heads <= PLAIN_HEADS && a->group_heads % a->heads == 0 && !a->box_shift &&
           a->box_cols == 1 && a->out_f16 && a->softcap == 0 && !a->sinks;
}

/* How the heads of a kv head are shared out. Two blocks take them where one cannot, or where there are more than
 * attend_q*l takes but half of them are not: with few tokens and positions, reading K and V twice, the second time out
 * of L2, costs less than that kernel gains. */
static void share_kv_head(const bexec *x, attend_args *a, const newest_args *newest, uint32_t d, uint32_t n_tok)
{
    const uint32_t heads = a->group_heads = a->n_head / a->n_kv_head;
    bool few = n_tok * a->n_kv_head * 8 <= (uint32_t)x->b->n_sm && SPLIT_BEGIN(x->split) <= 4096;
    a->heads = div_up(heads, 2);
    a->sub_shift = heads > ATTEND_HEADS ||
                   (heads > PLAIN_HEADS && heads % 2 == 0 && d <= 128 && few && newest &&
                    attend_plain(a, newest, d));
    a->heads = div_up(heads, 1 + a->sub_shift);
}

/* As many tokens a launch as there is room for split results. */
static imp_status attend_decode(bexec *x, const node *n, const attend_args *base, const run_range *r, uint32_t d,
                                imp_err *e)
{
    struct {
        _Alignas(128) CUtensorMap k; /* the kernels' structs are padded to 128 bytes */
        CUtensorMap v;
        attend_args a;
        newest_args x;
    } p = {.a = *base};
    attend_args *a = &p.a;
    bool with_qkv = attend_takes_qkv(x, n);
    if (with_qkv) {
        qkv_args q = qkv_of(x, &x->node[n->qkv]);
        p.x = newest_of(&q, a);
    }
    while (1u << a->block_shift < a->block_size)
        a->block_shift++;
    a->box_shift = a->block_shift < 5 ? 5 - a->block_shift : 0;
    a->box_cols = whole_heads(a) ? 1 : d / 64;
    share_kv_head(x, a, with_qkv ? &p.x : NULL, d, (uint32_t)r->n);
    a->sums_bytes = attend_sums(d, a->heads);
    a->n_split = x->split;
    imp_status s = kv_map(x, a, d, false, &p.k, e);
    if (s == IMP_OK)
        s = kv_map(x, a, d, true, &p.v, e);

    const attend_kernel *t = d == 64 ? &attend_d64 : d == 128 ? &attend_d128 : &attend_d256;
    uint64_t one = (uint64_t)a->n_head * x->split * PART_LD(d) * 4;
    uint32_t most = one * x->part_tokens > x->part_bytes ? (uint32_t)(x->part_bytes / one) : x->part_tokens;
    uint32_t gy = a->n_kv_head << a->sub_shift;
    for (int32_t k = 0; k < r->n && s == IMP_OK; k += (int32_t)most) {
        a->n_tok = (uint32_t)(r->n - k) < most ? (uint32_t)(r->n - k) : most;
        a->tok0 = (uint32_t)(r->begin + k);
        a->span = attend_span(x, a->n_tok * gy);
        uint32_t gx = div_up(SPLIT_BEGIN(x->split), a->span), smem = attend_smem(d, a->heads);
        a->cluster = attend_in_cluster(x, a, d, gx * gy * a->n_tok);
        if (a->cluster)
            smem += (gx << a->share) * 16 + gx * 64;
        s = cuda_launch_cluster(x->b, x->b->stream,
                                !with_qkv ? t->k :
                                !attend_plain(a, &p.x, d) ? t->with_qkv :
                                a->cluster ? t->cluster : t->plain,
                                gx, gy, a->n_tok, a->cluster ? gx : 1, 128, smem, true, &p, e);
    }
    return s;
}

/* ---- prompts ----------------------------------------------------------------------------------------------------- */
/* Blocks of 128 rows, 128 positions at a time (64 for wide heads): Q, two stages of K and of V, barriers
 * (attend_w.cu). */
static uint32_t attend_smem_w(uint32_t d) { return 1024 + 128 * d * 2 + 4 * (d > 128 ? 64u : 128u) * d * 2 + 256; }

/* A launch for each sequence that has tokens in the range; *done = false: these heads or blocks have no such kernel. */
static imp_status attend_prompt(bexec *x, const attend_args *base, const run_range *r, uint32_t d, bool *done,
                                imp_err *e)
{
    kernel_id k = d == 64 ? K_attend_w64 : d == 128 ? K_attend_w128 : K_attend_w256;
    const kv_group *g = &x->kv->group[base->group];
    *done = d && x->b->fn[k] && x->kv->block_size % 64 == 0 && base->n_head / base->n_kv_head <= 64;
    if (!*done)
        return IMP_OK;
    struct {
        CUtensorMap k, v;
        attend_args a;
    } p = {.a = *base};
    cuuint64_t blocks = g->reserved / g->block_bytes;
    cuuint32_t box[3] = {64, 64, 1}, step[3] = {1, 1, 1};
    imp_status s = IMP_OK;
    for (int v = 0; v < 2 && s == IMP_OK; v++) {
        uint32_t width = v ? g->v_width : g->k_width;
        cuuint64_t dim[3] = {width, (cuuint64_t)x->kv->block_size, blocks};
        cuuint64_t stride[2] = {(cuuint64_t)width * 2, g->block_bytes};
        CUresult mapped =
            x->b->cu.TensorMapEncodeTiled(v ? &p.v : &p.k, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3,
                                          (void *)(uintptr_t)(base->kv + (v ? base->v_off : base->k_off)),
                                          dim, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                          CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                          CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
        s = cu_check(&x->b->cu, mapped, e, "describing the KV cache");
    }
    uint32_t per = 128 / (base->n_head / base->n_kv_head); /* tokens a block */
    for (int32_t q = 0; q < x->n_seq && s == IMP_OK; q++) {
        int32_t b = x->host_seq[q].tok_begin, n = x->host_seq[q].tok_end;
        b = b > r->begin ? b : r->begin;
        n = (n < r->begin + r->n ? n : r->begin + r->n) - b;
        if (n <= 0)
            continue;
        p.a.tok0 = (uint32_t)b;
        p.a.n_tok = (uint32_t)n;
        s = go(x, k, div_up((uint32_t)n, per), base->n_kv_head, 1, 384, attend_smem_w(d), &p, e);
    }
    return s;
}

/* ---- any shape and type (attend.cu) ------------------------------------------------------------------------------ */
typedef struct any_kernel { /* for heads of up to cols columns, up to `heads` of them a block */
    uint32_t cols, heads;
    kernel_id f16, f32;
} any_kernel;
static const any_kernel any_kernels[] = {{128, 4, K_attend_h128, K_attend_f128},
                                         {256, 4, K_attend_h256, K_attend_f256},
                                         {1024, 2, K_attend_h576, K_attend_f576}}; /* of V; K may be wider */

/* What lies where in a block's shared memory; its bytes. few: places for K and V both, if there is room. */
static uint32_t lay_out_any(const bexec *x, attend_args *a, uint32_t heads, bool few)
{
    const uint32_t n = up_to(a->d_k, 4), k_ld = n + 4, most = (uint32_t)x->b->smem_max / 4;
    const bool v_in_k = a->v_off == a->k_off && a->n_kv_head == 1;
    a->v_ld = v_in_k ? k_ld : up_to(a->d_v, 4);
    a->by_four = (a->d_k | a->d_v | a->k_width | a->v_width) % 4 == 0;
    for (a->warps = 4;; a->warps /= 2) {
        const uint32_t k = ATTEND_POS * k_ld, v = ATTEND_POS * a->v_ld, one = up_to((k > v ? k : v) + 32, 4);
        const uint32_t both = up_to(k + v + 32, 4); /* the last row of V is read past its end */
        a->k_at = up_to(heads * n + a->heads * (3 * a->d_v + a->warps * (a->d_v + 2)), 4);
        const bool two = few && !v_in_k && a->k_at + a->warps * both <= most;
        a->v_at = two ? k : 0;
        a->place = two ? both : one;
        if (a->k_at + a->warps * a->place <= most || a->warps == 1)
            return (a->k_at + a->warps * a->place) * 4;
    }
}

/* A split a block while there are few of them. */
static imp_status attend_any(bexec *x, const attend_args *base, const run_range *r, imp_err *e)
{
    attend_args a = *base;
    const uint32_t group = a.n_head / a.n_kv_head, d = a.d_k > a.d_v ? a.d_k : a.d_v;
    const any_kernel *t = any_kernels;
    while (d > t->cols)
        t++;
    a.heads = group < t->heads ? group : t->heads;
    const uint32_t gy = a.n_kv_head * div_up(group, a.heads);
    const uint64_t one = (uint64_t)a.n_head * x->split * PART_LD(a.d_v) * 4;
    const bool few = (uint64_t)r->n * gy < 2 * (uint64_t)x->b->n_sm && !(r->prompt && exec_prompts_whole(x));
    a.n_split = few ? x->split : 1;
    const uint32_t room = one ? (uint32_t)(x->part_bytes / one) : 0, n = (uint32_t)r->n;
    const uint32_t most = a.n_split > 1 && room < n ? room : n, smem = lay_out_any(x, &a, t->heads, few);
    imp_status s = IMP_OK;
    for (uint32_t at = 0; at < n && s == IMP_OK; at += most) {
        a.tok0 = (uint32_t)r->begin + at;
        a.n_tok = n - at < most ? n - at : most;
        s = go(x, x->kv->type == KV_F32 ? t->f32 : t->f16, a.n_tok, gy, a.n_split, 32 * a.warps, smem, &a, e);
        if (s == IMP_OK && a.n_split > 1)
            s = go(x, K_attend_join, a.n_tok, a.n_head, 1, 128, 0, &a, e);
    }
    return s;
}

imp_status exec_attend(bexec *x, const node *n, imp_err *e)
{
    const plan_op *o = &x->p->op[n->op];
    const plan_attend *t = &o->attr.attend;
    const kv_group *g = &x->kv->group[t->group];
    plan_reg out = o->out[0];
    attend_args a = {.q = reg_ptr(x, o->in[0]), .ldq = reg_ld(x, o->in[0]), .out = reg_ptr(x, out),
                     .ldo = reg_ld(x, out), .out_f16 = x->reg[out].f16, .kv = g->base, .block_bytes = g->block_bytes,
                     .k_off = g->k_off[t->slot], .v_off = g->v_off[t->slot], .tok = x->t->tok, .seq = x->t->seq,
                     .table = x->t->table, .sinks = vec(x, o->weight[0]), .part = x->part, .counter = x->counter,
                     .n_head = t->n_head, .n_kv_head = t->n_kv_head, .d_k = t->d_k, .d_v = t->d_v,
                     .k_width = g->k_width, .v_width = g->v_width, .block_size = (uint32_t)x->kv->block_size,
                     .group = (uint32_t)t->group, .window = t->window, .scale = t->scale, .softcap = t->softcap};
    uint32_t d = exec_attend_width(x, t);
    imp_status s = IMP_OK;
    for (int32_t i = 0; i < x->n_tok_run && s == IMP_OK; i++) {
        const run_range *r = &x->tok_run[i];
        bool prompt = r->prompt && !x->b->deterministic, done = false;
        if (prompt)
            s = attend_prompt(x, &a, r, d, &done, e);
        if (done)
            continue;
        if (!d) {
            s = attend_any(x, &a, r, e);
        } else if (prompt && x->b->fn[K_attend_p64]) {
            a.tok0 = (uint32_t)r->begin;
            a.n_tok = (uint32_t)r->n;
            uint32_t per = 64 / (t->n_head / t->n_kv_head); /* tokens a block of 64 rows */
            s = go(x, d == 64 ? K_attend_p64 : d == 128 ? K_attend_p128 : K_attend_p256, div_up((uint32_t)r->n, per),
                   t->n_kv_head, 1, 128, 128 + 4 * 64 * (d * 2 + 16), &a, e);
        } else {
            s = attend_decode(x, n, &a, r, d, e);
        }
    }
    return s;
}


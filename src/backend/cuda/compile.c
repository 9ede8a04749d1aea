/* From a plan to nodes: fusion by pattern, storage types, liveness, one workspace. Every pattern keeps the arithmetic
 * of the operations it joins (the kernels share the functions), so fused and unfused paths give the same bytes. */
#include <string.h>

#include "backend/cuda/exec.h"
#include "base/ck.h"
#include "base/mem.h"

typedef struct ctx {
    bexec *x;
    const plan *p;
    int32_t *use;      /* [n_reg] readers, and one for a plan output */
    bool *gone;        /* [n_op] is part of another node */
    int32_t *lin_node; /* [n_op] of products: node under construction, -1 = none */
    node *draft;       /* [n_op] */
    int32_t *draft_at; /* [n_op] draft that stands at this operation, -1 = none */
    int32_t n_draft;
} ctx;

static const plan_op *def_op(const ctx *c, plan_reg r, plan_op_kind k)
{
    if (r == PLAN_NONE || c->p->reg[r].def < 0)
        return NULL;
    const plan_op *o = &c->p->op[c->p->reg[r].def];
    return o->kind == k && !c->gone[c->p->reg[r].def] ? o : NULL;
}
static int32_t op_index(const ctx *c, const plan_op *o) { return (int32_t)(o - c->p->op); }

static node *new_node(ctx *c, node_kind kind, int32_t at)
{
    node *n = &c->draft[c->n_draft];
    *n = (node){.kind = kind, .op = at, .norm = -1, .glu = -1, .add = -1, .q_norm = -1, .k_norm = -1, .v_norm = -1,
                .q_rope = -1, .k_rope = -1, .attend = -1, .qkv = -1, .q = PLAN_NONE, .k = PLAN_NONE, .v = PLAN_NONE};
    c->draft_at[at] = c->n_draft++;
    return n;
}

/* One head's way back to its projection: [rope] <- [norm]; what was found goes to *rope and *norm. */
static plan_reg chain(ctx *c, plan_reg r, uint32_t head_dim, bool with_rope, int32_t *rope, int32_t *norm)
{
    const plan_op *o = with_rope && c->use[r] == 1 ? def_op(c, r, OP_ROPE) : NULL;
    if (o && o->attr.rope.head_dim == head_dim) {
        *rope = op_index(c, o);
        r = o->in[0];
    }
    o = c->use[r] == 1 ? def_op(c, r, OP_NORM) : NULL;
    if (o && o->attr.norm.group == head_dim && !o->attr.norm.layer && !o->attr.norm.w_full) {
        *norm = op_index(c, o);
        r = o->in[0];
    }
    return r;
}

static void take(ctx *c, int32_t op)
{
    if (op >= 0)
        c->gone[op] = true;
}

static void fuse_qkv(ctx *c)
{
    for (int32_t i = 0; i < c->p->n_op; i++) {
        const plan_op *st = &c->p->op[i], *at = NULL;
        if (st->kind != OP_KV_STORE)
            continue;
        for (int32_t j = i + 1; j < c->p->n_op && !at && c->p->op[j].layer == st->layer; j++) {
            const plan_op *o = &c->p->op[j];
            if (o->kind == OP_ATTEND && o->attr.attend.group == st->attr.kv.group &&
                o->attr.attend.slot == st->attr.kv.slot)
                at = o;
        }
        if (!at || at->attr.attend.d_k > 512 || at->attr.attend.d_v > 512)
            continue;
        node n = {.q_norm = -1, .k_norm = -1, .v_norm = -1, .q_rope = -1, .k_rope = -1};
        n.q = chain(c, at->in[0], at->attr.attend.d_k, true, &n.q_rope, &n.q_norm);
        n.k = chain(c, st->in[0], at->attr.attend.d_k, true, &n.k_rope, &n.k_norm);
        const plan_reg v = st->in[1];
        n.v = v == PLAN_NONE ? PLAN_NONE : chain(c, v, at->attr.attend.d_v, false, &n.v_norm, &n.v_norm);
        /* q is rewritten where it lies: nobody else may read it, and it must be there when the node runs */
        if (c->use[n.q] != 1 || c->p->reg[n.q].def < 0 || c->p->reg[n.q].def >= i || n.q_rope > i || n.q_norm > i)
            continue;
        node *d = new_node(c, NODE_QKV, i);
        d->q = n.q, d->k = n.k, d->v = n.v;
        d->q_norm = n.q_norm, d->k_norm = n.k_norm, d->v_norm = n.v_norm, d->q_rope = n.q_rope, d->k_rope = n.k_rope;
        d->attend = op_index(c, at);
        take(c, n.q_norm), take(c, n.k_norm), take(c, n.v_norm), take(c, n.q_rope), take(c, n.k_rope);
        take(c, i);
    }
}

static void fuse_pairs(ctx *c)
{
    for (int32_t i = 0; i < c->p->n_op; i++) {
        const plan_op *g = &c->p->op[i];
        if (g->kind != OP_GLU || g->in[1] == PLAN_NONE || c->use[g->in[0]] != 1 || c->use[g->in[1]] != 1)
            continue;
        for (int k = 0; k < 2; k++) {
            plan_op_kind kind = k ? OP_EXPERT_LINEAR : OP_LINEAR;
            const plan_op *a = def_op(c, g->in[0], kind), *b = def_op(c, g->in[1], kind);
            if (!a || !b || a == b || a->in[0] != b->in[0])
                continue;
            if (k && (a->in[1] != b->in[1] || a->attr.expert.x_per_choice || b->attr.expert.x_per_choice))
                continue;
            node *n = new_node(c, NODE_LINEAR, i);
            n->n_lin = 2;
            n->lin[0] = op_index(c, a), n->lin[1] = op_index(c, b);
            n->glu = i;
            take(c, n->lin[0]), take(c, n->lin[1]), take(c, i);
        }
    }
}

static void fuse_residuals(ctx *c)
{
    for (int32_t i = 0; i < c->p->n_op; i++) {
        const plan_op *a = &c->p->op[i];
        if (a->kind != OP_ADD || a->attr.scale != 1.0f || a->in[0] == a->in[1])
            continue;
        for (int k = 1; k >= 0; k--) {
            const plan_op *l = def_op(c, a->in[k], OP_LINEAR);
            plan_reg r = a->in[1 - k];
            if (!l || c->use[a->in[k]] != 1 || c->p->reg[r].def >= op_index(c, l))
                continue;
            node *n = new_node(c, NODE_LINEAR, op_index(c, l));
            n->n_lin = 1;
            n->lin[0] = op_index(c, l);
            n->add = i;
            take(c, n->lin[0]), take(c, i);
            break;
        }
    }
}

/* The sum of experts and what is added to it. */
static void fuse_combines(ctx *c)
{
    for (int32_t i = 0; i < c->p->n_op; i++) {
        const plan_op *a = &c->p->op[i];
        if (a->kind != OP_ADD || c->gone[i] || a->attr.scale != 1.0f || a->in[0] == a->in[1])
            continue;
        for (int k = 0; k < 2; k++) {
            const plan_op *m = c->use[a->in[k]] == 1 ? def_op(c, a->in[k], OP_COMBINE) : NULL;
            if (!m || c->p->reg[a->in[1 - k]].width != c->p->reg[a->out[0]].width)
                continue;
            node *n = new_node(c, NODE_OP, i);
            n->op = op_index(c, m);
            n->add = i;
            take(c, n->op), take(c, i);
            break;
        }
    }
}

static void group_products(ctx *c)
{
    for (int32_t i = 0; i < c->p->n_op; i++) {
        const plan_op *a = &c->p->op[i];
        if ((a->kind != OP_LINEAR && a->kind != OP_EXPERT_LINEAR && a->kind != OP_HEAD_LINEAR) || c->gone[i])
            continue;
        node *n = new_node(c, NODE_LINEAR, i);
        n->n_lin = 1;
        n->lin[0] = i;
        take(c, i);
        if (a->kind != OP_LINEAR)
            continue;
        for (int32_t j = i + 1; j < c->p->n_op && c->p->op[j].layer == a->layer && n->n_lin < GEMV_MAX_W; j++)
            if (c->p->op[j].kind == OP_LINEAR && !c->gone[j] && c->p->op[j].in[0] == a->in[0] &&
                c->x->w[c->p->op[j].weight[0]]->d.seg == c->x->w[a->weight[0]]->d.seg) {
                n->lin[n->n_lin++] = j;
                take(c, j);
            }
    }
}

/* The node runs before every other reader of r, so it may make r for them. */
static bool reads_first(const ctx *c, int32_t draft, plan_reg r)
{
    const node *n = &c->draft[draft];
    if (n->glu >= 0 || c->draft_at[n->lin[0]] != draft)
        return false;
    for (int32_t i = 0; i < n->lin[0]; i++)
        for (int j = 0; j < 6; j++)
            if (c->p->op[i].in[j] == r)
                return false;
    return true;
}

static void fuse_norms(ctx *c)
{
    for (int32_t d = 0; d < c->n_draft; d++) {
        node *n = &c->draft[d];
        if (n->kind != NODE_LINEAR || c->p->op[n->lin[0]].kind != OP_LINEAR)
            continue;
        plan_reg r = c->p->op[n->lin[0]].in[0];
        const plan_op *o = c->use[r] == n->n_lin || reads_first(c, d, r) ? def_op(c, r, OP_NORM) : NULL;
        if (o && (o->attr.norm.group == 0 || o->attr.norm.group == c->p->reg[r].width) && !o->attr.norm.layer) {
            n->norm = op_index(c, o);
            n->norm_shared = c->use[r] != n->n_lin;
            take(c, n->norm);
        }
    }
}

/* ---- registers -------------------------------------------------------------------------------------------------- */
static void touch(bexec *x, plan_reg r, int32_t nd)
{
    if (r == PLAN_NONE)
        return;
    while (x->reg[r].alias != PLAN_NONE)
        r = x->reg[r].alias;
    reg *g = &x->reg[r];
    if (!g->used) {
        g->used = true;
        g->first = nd;
    }
    g->last = nd;
}

/* In steps of few tokens other nodes do the work of a mixture's route and of its last product. */
static void touch_mixture(bexec *x, const mixture *m)
{
    const plan *p = x->p;
    plan_reg scores = p->op[x->node[m->route].op].in[0];
    touch(x, scores, m->up), touch(x, scores, m->sum);
    touch(x, p->op[x->node[m->down].lin[0]].in[0], m->sum);
}

static void live_ranges(bexec *x)
{
    const plan *p = x->p;
    for (int32_t i = 0; i < x->n_node; i++) { /* what qkv leaves in place */
        const node *n = &x->node[i];
        if (n->kind != NODE_QKV)
            continue;
        plan_reg out = p->op[n->attend].in[0];
        if (out != n->q)
            x->reg[out].alias = n->q;
    }
    for (int32_t i = 0; i < x->n_node; i++) {
        const node *n = &x->node[i];
        if (n->kind == NODE_OP && n->qkv >= 0) /* attention may do that node's work */
            touch(x, x->node[n->qkv].k, i), touch(x, x->node[n->qkv].v, i);
        if (n->kind == NODE_QKV) {
            touch(x, n->q, i), touch(x, n->k, i), touch(x, n->v, i);
        } else if (n->kind == NODE_OP) {
            for (int j = 0; j < 6; j++)
                touch(x, p->op[n->op].in[j], i);
            if (n->add >= 0)
                touch(x, p->op[n->add].in[0], i), touch(x, p->op[n->add].in[1], i);
            for (int j = 0; j < 2; j++)
                touch(x, p->op[n->add >= 0 ? n->add : n->op].out[j], i);
            if (n->mix && n->mix->sum == i)
                touch_mixture(x, n->mix);
        } else {
            const plan_op *l = &p->op[n->lin[0]];
            touch(x, l->in[0], i), touch(x, l->in[1], i);
            if (n->norm >= 0) {
                plan_reg in = p->op[n->norm].in[0];
                int32_t def = p->reg[in].def;
                touch(x, in, i);
                /* one row may be read where it lies (run.c, ungathered) */
                if (def >= 0 && p->op[def].kind == OP_GATHER)
                    touch(x, p->op[def].in[0], i);
            }
            if (n->add >= 0)
                touch(x, p->op[n->add].in[0], i), touch(x, p->op[n->add].in[1], i), touch(x, p->op[n->add].out[0], i);
            else
                for (int32_t j = 0; j < n->n_lin; j++)
                    touch(x, p->op[n->lin[j]].out[0], i);
            if (n->glu >= 0)
                touch(x, p->op[n->glu].out[0], i);
            if (n->mix && n->mix->up == i && n->mix->router >= 0)
                touch(x, p->op[x->node[n->mix->router].norm].in[0], i);
        }
    }
    plan_reg outs[2] = {p->logits, p->hidden};
    for (int i = 0; i < 2; i++)
        if (outs[i] != PLAN_NONE)
            touch(x, outs[i], x->n_node);
}

bool exec_can_f16(plan_op_kind k)
{
    return k == OP_NORM || k == OP_L2NORM || k == OP_ADD || k == OP_MUL || k == OP_SCALE || k == OP_SOFTCAP ||
           k == OP_ACT || k == OP_GLU || k == OP_GATE || k == OP_SLICE || k == OP_CONCAT || k == OP_ATTEND ||
           k == OP_ROPE || k == OP_COMBINE;
}

/* A register is f16 when nothing but matrix products reads it and its writer can write f16; with --precise none is. */
static void storage_types(ctx *c)
{
    bexec *x = c->x;
    const plan *p = c->p;
    for (plan_reg r = 0; r < p->n_reg; r++) {
        reg *g = &x->reg[r];
        g->width = p->reg[r].width;
        g->dim = p->reg[r].dim;
        bool f16 = !x->b->precise && p->reg[r].type != REG_IDX && p->reg[r].def >= 0 &&
                   exec_can_f16(p->op[p->reg[r].def].kind) && r != p->logits && r != p->hidden && c->use[r] > 0;
        for (int32_t i = 0; i < p->n_op && f16; i++)
            for (int j = 0; j < 6; j++)
                if (p->op[i].in[j] == r &&
                    (j != 0 || (p->op[i].kind != OP_LINEAR &&
                                (p->op[i].kind != OP_EXPERT_LINEAR || p->op[i].attr.expert.x_per_choice))))
                    f16 = false;
        g->f16 = f16;
    }
    /* what a fused node writes: gate/up writes no padding, a residual sum stays f32 */
    for (int32_t d = 0; d < c->n_draft; d++) {
        const node *n = &c->draft[d];
        if (n->glu >= 0 && (p->reg[p->op[n->glu].out[0]].width % TILE_COLS || p->op[n->lin[0]].kind != OP_LINEAR))
            x->reg[p->op[n->glu].out[0]].f16 = false;
        if (n->add >= 0)
            x->reg[p->op[n->add].out[0]].f16 = false;
    }
    for (plan_reg r = 0; r < p->n_reg; r++)
        x->reg[r].ld = x->reg[r].f16 ? up_to(x->reg[r].width, TILE_COLS) : x->reg[r].width;
}

/* First fit over what is alive. */
static imp_status place_registers(bexec *x, uint64_t *total, imp_err *e)
{
    const plan *p = x->p;
    int32_t n = 0;
    plan_reg *order = mem_alloc((size_t)(p->n_reg + 1) * sizeof *order);
    if (!order)
        return err_oom(e, "registers", (unsigned long long)p->n_reg * sizeof *order);
    for (plan_reg r = 0; r < p->n_reg; r++) {
        reg *g = &x->reg[r];
        if (!g->used || g->alias != PLAN_NONE)
            continue;
        uint64_t rows = (uint64_t)(g->dim == DIM_R ? x->lim.n_row : x->lim.n_tok);
        g->bytes = rows * g->ld * (g->f16 ? 2 : 4);
        g->bytes = ((g->bytes > g->least ? g->bytes : g->least) + 255) & ~255ull;
        int32_t i = n++;
        for (; i > 0 && x->reg[order[i - 1]].first > g->first; i--)
            order[i] = order[i - 1];
        order[i] = r;
    }
    *total = 0;
    for (int32_t i = 0; i < n; i++) {
        reg *g = &x->reg[order[i]];
        uint64_t at = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (int32_t j = 0; j < i; j++) {
                const reg *o = &x->reg[order[j]];
                if (o->last >= g->first && at < o->off + o->bytes && o->off < at + g->bytes) {
                    at = o->off + o->bytes;
                    moved = true;
                }
            }
        }
        g->off = at;
        if (at + g->bytes > *total)
            *total = at + g->bytes;
    }
    mem_free(order);
    return IMP_OK;
}

/* ---- scratch and tables ----------------------------------------------------------------------------------------- */
static imp_status scratch(bexec *x, uint64_t n, CUdeviceptr *out, const char *what, imp_err *e)
{
    if (x->n_scratch == (int)CK_COUNT(x->scratch))
        return err_set(e, IMP_E_INTERNAL, "cuda: no place for %s", what);
    n = (n + 255) & ~255ull;
    imp_status s = cuda_alloc(x->b, n, &x->b->workspace, out, what, e);
    if (s != IMP_OK)
        return s;
    x->scratch[x->n_scratch] = *out;
    x->scratch_bytes[x->n_scratch++] = n;
    x->total_bytes += n;
    return cu_check(&x->b->cu, x->b->cu.MemsetD8Async(*out, 0, n, x->b->stream), e, "clearing %s", what);
}

static imp_status make_tables(bexec *x, tables *t, int32_t n_tok, int32_t n_seq, int32_t n_row, uint64_t n_table,
                              imp_err *e)
{
    uint64_t at = 0;
    t->max_tok = n_tok, t->max_seq = n_seq, t->max_row = n_row, t->max_save = n_tok;
    t->max_table = n_table > 1 << 28 ? 1 << 28 : (int32_t)n_table;
    t->sample_bytes = exec_sample_bytes(x, n_row);
#define PUT(field, count, size) t->off_##field = at, at = (at + (uint64_t)(count) * (size) + 255) & ~255ull
    PUT(tok, n_tok, sizeof(tok_desc));
    PUT(seq, n_seq, sizeof(seq_desc));
    PUT(row, n_row, sizeof(row_desc));
    PUT(save, t->max_save, sizeof(batch_save));
    PUT(table, t->max_table, 4);
    PUT(sample, t->sample_bytes, 1);
#undef PUT
    t->n_bytes = at;
    imp_status s = scratch(x, at, &t->dev, "step tables", e);
    t->tok = t->dev + t->off_tok, t->seq = t->dev + t->off_seq, t->row = t->dev + t->off_row;
    t->save = t->dev + t->off_save, t->table = t->dev + t->off_table;
    return s;
}

static imp_status make_scratch(bexec *x, imp_err *e)
{
    const plan *p = x->p;
    uint32_t kmax = 0, heads = 0, dmax = 0, kv_heads = 1, vocab = p->n_vocab;
    uint64_t part = 0, n_table = 0, rows = (uint64_t)(x->lim.n_tok > x->lim.n_row ? x->lim.n_tok : x->lim.n_row);
    for (int32_t i = 0; i < p->n_op; i++) {
        const plan_op *o = &p->op[i];
        /* whose kernels want f16 rows and room for parts of sums */
        bool product = o->kind == OP_LINEAR && !x->b->precise;
        if (product && p->weight[o->weight[0]]->cols > kmax)
            kmax = (uint32_t)p->weight[o->weight[0]]->cols;
        if (product) {
            const dweight *d = &x->w[o->weight[0]]->d;
            uint64_t n = d->z > 1 ? (uint64_t)d->z * rows * d->rows * 4 : 0;
            part = n > part ? n : part;
        }
        if (o->kind == OP_ATTEND) {
            uint32_t d = o->attr.attend.d_v > o->attr.attend.d_k ? o->attr.attend.d_v : o->attr.attend.d_k;
            heads = o->attr.attend.n_head > heads ? o->attr.attend.n_head : heads;
            kv_heads = o->attr.attend.n_kv_head > kv_heads ? o->attr.attend.n_kv_head : kv_heads;
            dmax = d > dmax ? d : dmax;
        }
    }
    x->xh_ld = up_to(kmax, TILE_COLS);
    imp_status s = IMP_OK;
    if (kmax)
        s = scratch(x, rows * x->xh_ld * 2, &x->xh, "f16 activations", e);
    x->partial_bytes = part > 256ull << 20 ? 256ull << 20 : part; /* more rows go through in pieces */
    if (s == IMP_OK && part)
        s = scratch(x, x->partial_bytes, &x->partial, "partial sums", e);
    if (s == IMP_OK && part)
        s = scratch(x, BATCH_MEETS * 8, &x->came, "counters of partial sums", e);
    CUdeviceptr x8 = 0;
    if (s == IMP_OK)
        s = exec_fp8_make(x, e);
    if (s == IMP_OK && exec_fp8_bytes(x, rows))
        s = scratch(x, exec_fp8_bytes(x, rows), &x8, "FP8 activations", e);
    exec_fp8_place(x, x8, rows);
    uint64_t tiles_at, rows_at, moe = exec_moe_bytes(x, x->lim.n_tok, &tiles_at, &rows_at);
    if (s == IMP_OK && moe)
        s = scratch(x, moe, &x->moe_pair, "lists of experts", e);
    x->moe_tile = x->moe_pair + tiles_at;
    x->moe_x = x->moe_pair + rows_at;
    if (s == IMP_OK && x->n_routed)
        s = scratch(x, (uint64_t)x->n_routed * SENT_BYTES, &x->sent, "scores", e);
    if (s == IMP_OK)
        s = exec_unsend(x, e);
    int64_t most = 0;
    for (int32_t g = 0; g < p->n_group && x->kv; g++) {
        int64_t n = (int64_t)(x->kv->group[g].block_bytes ? x->kv->group[g].reserved / x->kv->group[g].block_bytes : 0);
        most = n > most ? n : most;
    }
    n_table = (uint64_t)most * (uint64_t)(p->n_group ? p->n_group : 1);
    /* a sequence cannot be longer than all blocks; shared blocks may stand in several tables */
    uint64_t one = n_table > 1 << 18 ? 1 << 18 : n_table;
    if (heads && s == IMP_OK) {
        uint64_t pos = (uint64_t)most * (uint64_t)x->kv->block_size;
        x->part_splits = attend_splits((uint32_t)(pos > 1 << 20 ? 1 << 20 : pos)) + 1;
        uint32_t cols = up_to(dmax, 64);
        cols = cols > 128 && cols < 256 ? 256 : cols; /* of the widest kernel for heads of their own */
        uint64_t per = (uint64_t)heads * x->part_splits * PART_LD(cols) * 4;
        x->part_tokens = 256;
        const uint64_t most_bytes = 96ull << 20, wanted = per * x->part_tokens;
        x->part_bytes = per > most_bytes ? per : wanted < most_bytes ? wanted : most_bytes;
        x->part_bytes = (x->part_bytes + 255) & ~255ull;
        const uint64_t counters = (uint64_t)x->part_tokens * kv_heads * ATTEND_SUBS * 4;
        s = scratch(x, x->part_bytes + counters, &x->part, "attention splits", e);
        x->counter = x->part + x->part_bytes;
    }
    int32_t sm_tok = x->lim.n_tok < SMALL_STEP ? x->lim.n_tok : SMALL_STEP;
    int32_t sm_seq = x->lim.n_seq < SMALL_STEP ? x->lim.n_seq : SMALL_STEP;
    int32_t sm_row = x->lim.n_row < SMALL_STEP ? x->lim.n_row : SMALL_STEP;
    if (s == IMP_OK)
        s = make_tables(x, &x->small[0], sm_tok, sm_seq, sm_row, one * (uint64_t)(sm_seq < 8 ? sm_seq : 8) + 64, e);
    if (s == IMP_OK)
        s = make_tables(x, &x->small[1], sm_tok, sm_seq, sm_row, one * (uint64_t)(sm_seq < 8 ? sm_seq : 8) + 64, e);
    if (s == IMP_OK)
        s = make_tables(x, &x->large, x->lim.n_tok, x->lim.n_seq, x->lim.n_row, one * (uint64_t)x->lim.n_seq + 64, e);
    uint64_t misc = (uint64_t)x->lim.n_seq * 4 + (uint64_t)x->lim.n_row * (4 + 64 * 8 + 4) + 1024, ext = 0;
    CUdeviceptr m = 0;
    if (s == IMP_OK)
        s = scratch(x, misc, &m, "sampling", e);
    x->greedy_part = m;
    x->out_id = m + (uint64_t)x->lim.n_row * 512;
    x->greedy_counter = x->out_id + (uint64_t)x->lim.n_row * 4;
    x->last = x->greedy_counter + (uint64_t)x->lim.n_row * 4;
    if (s == IMP_OK)
        s = scratch(x, (uint64_t)(x->lim.n_row ? x->lim.n_row : 1) * sizeof(sample_result), &x->sampled,
                    "sampled rows", e);
    ext = (uint64_t)x->lim.n_tok * p->n_hidden * 4;
    if (s == IMP_OK && p->n_hidden)
        s = scratch(x, ext, &x->large.ext, "external rows", e);
    x->small[0].ext = x->small[1].ext = x->large.ext;
    (void)vocab;
    return s;
}

static imp_status send_constants(bexec *x, imp_err *e)
{
    const plan *p = x->p;
    uint64_t n = 0;
    x->constant = mem_calloc((size_t)(p->n_constant ? p->n_constant : 1), sizeof *x->constant);
    if (!x->constant)
        return err_oom(e, "constants", sizeof *x->constant);
    for (int32_t i = 0; i < p->n_constant; i++)
        n += up_to(p->constant[i].n, 64);
    if (!n)
        return IMP_OK;
    CUdeviceptr at = 0;
    imp_status s = scratch(x, n * 4, &at, "constants", e);
    for (int32_t i = 0; i < p->n_constant && s == IMP_OK; i++) {
        x->constant[i] = at;
        CUresult r = x->b->cu.MemcpyHtoDAsync(at, p->constant[i].v, p->constant[i].n * 4, x->b->stream);
        s = cu_check(&x->b->cu, r, e, "uploading constants");
        at += up_to(p->constant[i].n, 64) * 4;
    }
    return s == IMP_OK ? cu_check(&x->b->cu, x->b->cu.StreamSynchronize(x->b->stream), e, "uploading constants") : s;
}

/* ---- putting it together ---------------------------------------------------------------------------------------- */
static imp_status check_supported(const bexec *x, imp_err *e)
{
    const plan *p = x->p;
    for (int32_t i = 0; i < p->n_op; i++) {
        const plan_op *o = &p->op[i];
        const char *why = NULL;
        if (o->kind == OP_ATTEND_FREE)
            why = "no kernel yet";
        for (int j = 0; j < 2; j++)
            if (o->out[j] != PLAN_NONE && p->reg[o->out[j]].dim == DIM_P)
                why = "image patches have no kernels yet";
        if (o->kind == OP_ATTEND && (o->attr.attend.d_v > 576 || o->attr.attend.d_k > 1024))
            why = "heads are too wide";
        if (o->kind == OP_ROPE && o->attr.rope.head_dim > 576)
            why = "heads are too wide";
        if (o->kind == OP_ROUTE && (o->attr.route.n_expert > 512 || o->attr.route.k > 32 || o->attr.route.n_group > 64))
            why = "too many experts";
        bool mat = o->kind == OP_LINEAR || o->kind == OP_EXPERT_LINEAR || o->kind == OP_HEAD_LINEAR ||
                   o->kind == OP_EMBED;
        for (int j = 0; j < 3; j++)
            if (o->weight[j] != PLAN_NONE && (mat && j == 0) == x->w[o->weight[j]]->is_vec)
                why = mat ? "its matrix was uploaded as a vector" : "its vector was uploaded as a matrix";
        if (why)
            return err_set(e, IMP_E_UNSUPPORTED, "cuda: layer %d %s (%s%s%s): %s", (int)o->layer, o->role,
                           plan_op_name(o->kind), o->weight[0] != PLAN_NONE ? " " : "",
                           o->weight[0] != PLAN_NONE ? p->weight[o->weight[0]]->name : "", why);
    }
    return IMP_OK;
}

static imp_status build_nodes(bexec *x, imp_err *e)
{
    const plan *p = x->p;
    size_t n_op = (size_t)p->n_op + 1;
    ctx c = {.x = x, .p = p};
    c.use = mem_calloc((size_t)p->n_reg + 1, sizeof *c.use);
    c.gone = mem_calloc(n_op, sizeof *c.gone);
    c.draft = mem_calloc(n_op, sizeof *c.draft);
    c.draft_at = mem_alloc(n_op * sizeof *c.draft_at);
    x->node = mem_calloc(n_op, sizeof *x->node);
    x->reg = mem_calloc((size_t)p->n_reg + 1, sizeof *x->reg);
    x->node_of_op = mem_alloc(n_op * sizeof *x->node_of_op);
    imp_status s = IMP_OK;
    if (!c.use || !c.gone || !c.draft || !c.draft_at || !x->node || !x->reg || !x->node_of_op) {
        s = err_oom(e, "compiled plan", n_op * sizeof(node));
        goto done;
    }
    for (size_t i = 0; i < n_op; i++)
        c.draft_at[i] = x->node_of_op[i] = -1;
    for (plan_reg r = 0; r < p->n_reg; r++)
        x->reg[r].alias = PLAN_NONE;
    for (int32_t i = 0; i < p->n_op; i++)
        for (int j = 0; j < 6; j++)
            if (p->op[i].in[j] != PLAN_NONE)
                c.use[p->op[i].in[j]]++;
    if (p->logits != PLAN_NONE)
        c.use[p->logits]++;
    if (p->hidden != PLAN_NONE)
        c.use[p->hidden]++;
    fuse_qkv(&c);
    fuse_pairs(&c);
    fuse_residuals(&c);
    fuse_combines(&c);
    group_products(&c);
    fuse_norms(&c);
    storage_types(&c);
    for (int32_t i = 0; i < p->n_op; i++) {
        if (c.draft_at[i] >= 0)
            x->node[x->n_node] = c.draft[c.draft_at[i]];
        else if (!c.gone[i])
            x->node[x->n_node] = (node){.kind = NODE_OP, .op = i, .norm = -1, .glu = -1, .add = -1, .qkv = -1};
        else
            continue;
        x->node_of_op[x->node[x->n_node].op] = x->node_of_op[i] = x->n_node;
        x->n_node++;
    }
    for (int32_t i = 0; i < x->n_node; i++)
        if (x->node[i].kind == NODE_QKV && x->node[i].v != PLAN_NONE)
            x->node[x->node_of_op[x->node[i].attend]].qkv = i;
    s = x->b->precise ? IMP_OK : exec_find_mixtures(x, e);
    if (s != IMP_OK)
        goto done;
    live_ranges(x);
    if (x->b->precise)
        exec_precise_lists(x);
    else
        exec_group_experts(x);
done:
    mem_free(c.use);
    mem_free(c.gone);
    mem_free(c.draft);
    mem_free(c.draft_at);
    return s;
}

static imp_status make_slots(bexec *x, imp_err *e)
{
    backend *b = x->b;
    uint64_t big = x->large.n_bytes > x->small[0].n_bytes ? x->large.n_bytes : x->small[0].n_bytes;
    size_t rows = (size_t)(x->lim.n_row ? x->lim.n_row : 1);
    imp_status s = IMP_OK;
    for (int i = 0; i < N_TICKET && s == IMP_OK; i++) {
        ticket_slot *t = &x->slot[i];
        t->x = x;
        t->host_bytes = big;
        s = cu_check(&b->cu, b->cu.MemAllocHost((void **)&t->host, big), e, "allocating pinned memory");
        if (s == IMP_OK)
            s = cu_check(&b->cu, b->cu.MemAllocHost((void **)&t->out_id, rows * 4), e, "allocating pinned memory");
        if (s == IMP_OK)
            s = cu_check(&b->cu, b->cu.MemAllocHost((void **)&t->sampled, rows * sizeof *t->sampled), e,
                         "allocating pinned memory");
        if (s == IMP_OK)
            s = cu_check(&b->cu, b->cu.EventCreate(&t->done, b->timing ? 0 : CU_EVENT_DISABLE_TIMING), e,
                         "creating an event");
        if (s == IMP_OK)
            s = cu_check(&b->cu, b->cu.EventCreate(&t->sent, CU_EVENT_DISABLE_TIMING), e, "creating an event");
        if (s == IMP_OK && b->timing)
            s = cu_check(&b->cu, b->cu.EventCreate(&t->begin, 0), e, "creating an event");
        t->result = mem_calloc(rows, sizeof *t->result);
        t->row_status = mem_calloc(rows, sizeof *t->row_status);
        t->host_row = mem_calloc(rows, sizeof *t->host_row);
        t->logit_at = mem_calloc(rows, sizeof *t->logit_at);
        t->dev_row = mem_calloc(rows, sizeof *t->dev_row);
        t->work = mem_aligned(16, sample_work_bytes((int32_t)(x->p->n_vocab ? x->p->n_vocab : 1)));
        if (s == IMP_OK && (!t->result || !t->row_status || !t->host_row || !t->logit_at || !t->dev_row || !t->work))
            s = err_oom(e, "tickets", rows * sizeof *t->result);
    }
    x->tok_run = mem_calloc((size_t)x->lim.n_tok + 1, sizeof *x->tok_run);
    x->row_run = mem_calloc(rows + 1, sizeof *x->row_run);
    if (s == IMP_OK && (!x->tok_run || !x->row_run))
        s = err_oom(e, "runs", rows * sizeof *x->row_run);
    return s;
}

void cuda_exec_free(bexec *x)
{
    if (!x)
        return;
    backend *b = x->b;
    if (cuda_enter(b, NULL) == IMP_OK) {
        b->cu.StreamSynchronize(b->tables);
        b->cu.StreamSynchronize(b->stream);
        exec_drop_graphs(x);
        for (int i = 0; i < N_TICKET; i++) {
            ticket_slot *t = &x->slot[i];
            void *pinned[] = {t->host, t->out_id, t->logits, t->hidden, t->sampled};
            for (size_t k = 0; k < CK_COUNT(pinned); k++)
                if (pinned[k])
                    b->cu.MemFreeHost(pinned[k]);
            if (t->done)
                b->cu.EventDestroy(t->done);
            if (t->sent)
                b->cu.EventDestroy(t->sent);
            if (t->begin)
                b->cu.EventDestroy(t->begin);
        }
        for (int i = 0; i < x->n_scratch; i++)
            cuda_free(b, x->scratch[i], x->scratch_bytes[i], &b->workspace);
        cuda_free(b, x->ws, x->ws_bytes, &b->workspace);
    }
    exec_fp8_free(x);
    for (int i = 0; i < N_TICKET; i++) {
        mem_free(x->slot[i].result);
        mem_free(x->slot[i].row_status);
        mem_free(x->slot[i].host_row);
        mem_free(x->slot[i].logit_at);
        mem_free(x->slot[i].dev_row);
        mem_free(x->slot[i].work);
    }
    mem_free(x->node);
    mem_free(x->mix);
    mem_free(x->reg);
    mem_free(x->node_of_op);
    mem_free(x->constant);
    mem_free(x->w);
    mem_free(x->tok_run);
    mem_free(x->row_run);
    mem_free(x);
}

imp_status cuda_compile(backend *b, const plan *p, bweight *const *w, kvcache *kv, const plan_limits *lim, bexec **out,
                        imp_err *e)
{
    imp_status s = cuda_enter(b, e);
    if (s != IMP_OK)
        return s;
    if (lim->n_tok <= 0 || lim->n_row < 0 || lim->n_seq <= 0 || lim->n_tok > 65535 || lim->n_row > 65535)
        return err_set(e, IMP_E_USAGE, "cuda: step limits of %d tokens, %d rows, %d sequences (65535 at most)",
                       (int)lim->n_tok, (int)lim->n_row, (int)lim->n_seq);
    bexec *x = mem_calloc(1, sizeof *x);
    if (!x)
        return err_oom(e, "compiled plan", sizeof *x);
    x->b = b;
    x->p = p;
    x->kv = kv;
    x->lim = *lim;
    x->next_ticket = 1;
    x->w = mem_calloc((size_t)p->n_weight + 1, sizeof *x->w);
    if (!x->w) {
        s = err_oom(e, "weights", sizeof *x->w);
        goto fail;
    }
    memcpy(x->w, w, (size_t)p->n_weight * sizeof *x->w);
    s = check_supported(x, e);
    if (s == IMP_OK)
        s = cu_check(&b->cu, b->cu.StreamSynchronize(b->up), e, "uploading weights");
    cuda_upload_done(b);
    for (int32_t i = 0; i < p->n_weight && s == IMP_OK; i++)
        if (w[i])
            s = cuda_weight_unit(b, w[i], e);
    if (s == IMP_OK)
        s = build_nodes(x, e);
    if (s == IMP_OK)
        s = place_registers(x, &x->ws_bytes, e);
    if (s == IMP_OK)
        s = cuda_alloc(b, x->ws_bytes, &b->workspace, &x->ws, "workspace", e);
    if (s == IMP_OK && x->ws_bytes)
        s = cu_check(&b->cu, b->cu.MemsetD8Async(x->ws, 0, x->ws_bytes, b->stream), e, "clearing the workspace");
    x->total_bytes = x->ws_bytes;
    if (s == IMP_OK)
        s = make_scratch(x, e);
    if (s == IMP_OK)
        s = send_constants(x, e);
    if (s == IMP_OK)
        s = make_slots(x, e);
    if (s == IMP_OK)
        s = cu_check(&b->cu, b->cu.StreamSynchronize(b->stream), e, "preparing the workspace");
    if (s == IMP_OK) {
        *out = x;
        return IMP_OK;
    }
fail:
    cuda_exec_free(x);
    return s;
}

uint64_t cuda_exec_workspace(const bexec *x) { return x->total_bytes; }
const char *cuda_exec_kernel(const bexec *x, int32_t op)
{
    return op < 0 || op >= x->p->n_op || x->node_of_op[op] < 0 ? "" : exec_op_kernel(x, op);
}

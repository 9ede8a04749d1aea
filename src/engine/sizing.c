#include "engine/sizing.h"

#include <math.h>
#include <string.h>

static const double kv_type_bits[] = {
    [KV_F32] = 32, [KV_F16] = 16, [KV_BF16] = 16, [KV_FP8] = 8, [KV_Q8_0] = 8.5, [KV_NVFP4] = 4.5,
};

/* Bits a KV value takes at most, for sizing; the backend may choose less. */
static double kv_bits(kv_type t, const plan *p, bool precise)
{
    if (t != KV_AUTO)
        return kv_type_bits[t];
    if (precise)
        return 32;
    for (int32_t i = 0; i < p->n_op; i++)
        if (p->op[i].kind == OP_ROUTE)
            return 32;
    for (int32_t i = 0; i < p->n_weight; i++) {
        const quant_fmt *f = quant_get(p->weight[i]->format);
        if (f && !f->is_float && p->weight[i]->rows > 1)
            return 16;
    }
    return 32;
}

static uint64_t blocks_for(const plan_kv_group *g, uint64_t tokens, uint64_t n_seq, uint64_t chunk, uint64_t bs)
{
    if (g->kind == KVG_WINDOW && g->window + chunk < tokens)
        tokens = g->window + chunk + bs; /* what one sequence can hold of a window */
    return n_seq * ((tokens + bs - 1) / bs + 1);
}

static double block_bytes(const plan_kv_group *g, double bits, uint64_t bs)
{
    return (double)g->n_slot * (g->k_width + (g->v_is_prefix_of_k ? 0 : g->v_width)) * bits / 8 * (double)bs;
}

static double kv_bytes(const plan *p, double bits, uint64_t ctx, uint64_t n_seq, uint64_t chunk, uint64_t bs)
{
    double sum = 0;
    for (int i = 0; i < p->n_group; i++)
        sum += (double)blocks_for(&p->group[i], ctx, n_seq, chunk, bs) * block_bytes(&p->group[i], bits, bs);
    return sum;
}

/* What the copies of prefill fp8 take: a byte a weight. */
static double fp8_bytes(const plan *p)
{
    double sum = 0;
    for (int32_t i = 0; i < p->n_op; i++)
        if (plan_op_prompt_fp8(p, i))
            sum += (double)p->weight[p->op[i].weight[0]]->rows * (double)p->weight[p->op[i].weight[0]]->cols;
    return sum;
}

#define DEFAULT_CTX 32768 /* without -c: enough for nearly everyone, and KV grows only as it is used */

imp_status engine_sizes(engine *g, const imp_engine_params *p, kv_options *ko, imp_err *e)
{
    const plan *pl = &g->m->text;
    backend_memory mem = {0};
    imp_status st = g->api->memory(g->be, &mem, e);
    if (st != IMP_OK)
        return st;
    g->n_seq = p->n_seq ? p->n_seq : 8;
    g->n_batch = p->n_batch ? p->n_batch : (uint32_t)g->api->n_batch;
    g->n_row = p->n_row ? p->n_row : g->n_seq;
    g->block_size = p->block_size ? (int32_t)p->block_size : 64;
    if (g->n_seq > 4096 || g->n_batch > 65536 || g->n_row > 65536 || p->block_size > 4096)
        return err_set(e, IMP_E_USAGE, "engine: wanted at most 4096 sequences, 65536 tokens and rows a step, "
                       "4096 tokens a block");
    if (g->n_batch < g->n_seq)
        g->n_batch = g->n_seq; /* every running sequence decodes in every step */
    if (g->n_row < g->n_seq)
        g->n_row = g->n_seq;
    uint64_t budget = p->memory_budget ? p->memory_budget : mem.free;
    double copies = p->prefill == IMP_PREFILL_FP8 ? fp8_bytes(pl) : 0;
    double weights = (double)g->m->weight_bytes + copies;
    double room = (double)budget - weights * 1.05; /* repacking may grow a format a little */
    if (weights > (double)budget && copies > 0)
        return err_set(e, IMP_E_NOMEM,
                       "model: wanted %.1f GB for its weights, %.1f of them FP8 copies for prompts (prefill fp8), "
                       "got %.1f GB of memory", weights / 1e9, copies / 1e9, (double)budget / 1e9);
    if (weights > (double)budget)
        return err_set(e, IMP_E_NOMEM, "model: wanted %.1f GB for its weights, got %.1f GB of memory; a file of "
                       "%.1f bits a weight would fit", weights / 1e9, (double)budget / 1e9,
                       0.85 * 8 * (double)budget / (double)g->m->n_param);
    room = room > 64e6 ? room : 64e6;
    double bits = kv_bits((kv_type)p->kv, pl, p->precise);
    uint64_t bs = (uint64_t)g->block_size, asked = p->n_ctx ? p->n_ctx : g->m->config.n_ctx_train;
    if (!p->n_ctx && asked > DEFAULT_CTX)
        asked = DEFAULT_CTX;
    double one = kv_bytes(pl, bits, asked, 1, g->n_batch, bs);
    if (one > room && p->n_ctx)
        return err_set(e, IMP_E_NOMEM, "context of %llu tokens: wanted %.1f GB for KV, got %.1f GB of memory; ask for "
                       "fewer with -c or a smaller --kv", (unsigned long long)asked, one / 1e9, room / 1e9);
    while (one > room && asked > 256) {
        asked /= 2;
        one = kv_bytes(pl, bits, asked, 1, g->n_batch, bs);
    }
    g->n_ctx = (uint32_t)asked;
    if (one > room)
        return err_set(e, IMP_E_NOMEM, "context: wanted %.1f GB for KV, got %.1f GB of memory", one / 1e9, room / 1e9);
    /* every sequence its full context where memory allows; else they share and the youngest waits */
    uint64_t n = g->n_seq;
    while (n > 1 && kv_bytes(pl, bits, asked, n, g->n_batch, bs) > room / 2)
        n--;
    ko->type = (kv_type)p->kv;
    ko->block_size = g->block_size;
    ko->n_state = pl->n_state ? (int32_t)g->n_seq : 0;
    for (int i = 0; i < pl->n_group; i++) {
        uint64_t b = blocks_for(&pl->group[i], asked, n, g->n_batch, bs);
        uint64_t least = blocks_for(&pl->group[i], asked, 1, g->n_batch, bs);
        if (pl->group[i].kind == KVG_WINDOW && p->prefix_cache && g->api->n_ticket > 1)
            b += g->n_batch / bs; /* of an open step, which a window keeps for the cache until it lands */
        if (p->kv_blocks && b > p->kv_blocks)
            b = p->kv_blocks > least ? p->kv_blocks : least;
        if (b > INT32_MAX)
            return err_set(e, IMP_E_LIMIT, "KV cache: %llu blocks are too many", (unsigned long long)b);
        ko->n_block[i] = (int64_t)b;
    }
    return IMP_OK;
}

double plan_step_bytes(const plan *p, kv_type kv, uint32_t n_ctx, uint32_t n_seq)
{
    double sum = 0;
    for (int32_t i = 0; i < p->n_op; i++) {
        const plan_op *o = &p->op[i];
        if (o->kind != OP_LINEAR && o->kind != OP_HEAD_LINEAR && o->kind != OP_EXPERT_LINEAR)
            continue;
        const weight *w = p->weight[o->weight[0]];
        double part = 1;
        if (o->kind == OP_EXPERT_LINEAR) /* that any of n_seq tokens chose an expert */
            part = 1 - pow(1 - (double)o->attr.expert.k / (double)w->n_expert, n_seq);
        sum += (double)w->n_bytes * part;
    }
    for (int i = 0; i < p->n_group; i++) {
        const plan_kv_group *g = &p->group[i];
        uint32_t seen = g->kind == KVG_WINDOW && g->window && g->window < n_ctx ? g->window : n_ctx;
        sum += block_bytes(g, kv_type_bits[kv], seen) * n_seq;
    }
    return sum;
}

double plan_linear_params(const plan *p)
{
    double sum = 0;
    for (int32_t i = 0; i < p->n_op; i++) {
        const plan_op *o = &p->op[i];
        if (o->layer < 0 || (o->kind != OP_LINEAR && o->kind != OP_HEAD_LINEAR && o->kind != OP_EXPERT_LINEAR))
            continue;
        const weight *w = p->weight[o->weight[0]];
        double n = (double)w->n_expert * (double)w->rows * (double)w->cols;
        sum += o->kind == OP_EXPERT_LINEAR ? n * o->attr.expert.k / (double)w->n_expert : n;
    }
    return sum;
}

double plan_attend_flops(const plan *p)
{
    double sum = 0;
    for (int32_t i = 0; i < p->n_op; i++)
        if (p->op[i].kind == OP_ATTEND)
            sum += 2.0 * p->op[i].attr.attend.n_head * (p->op[i].attr.attend.d_k + p->op[i].attr.attend.d_v);
    return sum;
}

/* KV blocks and recurrent states in plain memory. Address space for every block is reserved at open; the kernel gives pages
 * as blocks are first written. Inside a block, K of a slot lies head by head, then V: a head's keys are contiguous. */
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/ck.h"
#include "base/mem.h"

static size_t element(kv_type t) { return t == KV_F32 ? 4 : 2; }

static kv_type choose(const backend *b, const plan *p)
{
    if (b->scalar)
        return KV_F32;
    for (int32_t i = 0; i < p->n_weight; i++) {
        const quant_fmt *f = quant_get(p->weight[i]->format);
        if (f && !f->is_float && p->weight[i]->rows > 1)
            return KV_F16;
    }
    return KV_F32; /* float weights ask for float answers */
}

/* Heads of a group: those of its attentions when they agree, else one (the layout is then by token). */
static uint32_t heads_of(const plan *p, int32_t group)
{
    uint32_t n = 0;
    for (int32_t i = 0; i < p->n_op; i++) {
        const plan_attend *a = &p->op[i].attr.attend;
        if (p->op[i].kind != OP_ATTEND || a->group != group)
            continue;
        if (n && n != a->n_kv_head)
            return 1;
        n = a->n_kv_head;
    }
    return n ? n : 1;
}

static uint64_t slot_bytes(const kvcache *kv, int32_t g)
{
    const plan_kv_group *pg = &kv->p->group[g];
    return (uint64_t)kv->block_size * (pg->k_width + (pg->v_is_prefix_of_k ? 0 : pg->v_width)) * element(kv->type);
}

imp_status cpu_kv_open(backend *b, const plan *p, const kv_options *opt, kvcache **out, imp_err *e)
{
    *out = NULL;
    kvcache *kv = mem_calloc(1, sizeof *kv);
    if (!kv)
        return err_oom(e, "KV cache", sizeof *kv);
    *kv = (kvcache){.b = b, .p = p, .type = opt->type == KV_AUTO ? choose(b, p) : opt->type, .block_size = opt->block_size, .n_state = opt->n_state};
    imp_status s = IMP_OK;
    if (kv->type != KV_F32 && kv->type != KV_F16)
        s = err_set(e, IMP_E_UNSUPPORTED, "--kv: the CPU backend stores f16 or f32");
    for (int32_t i = 0; i < p->n_group && s == IMP_OK; i++) {
        kv->group[i].n_head = heads_of(p, i);
        kv->group[i].n_block = opt->n_block[i];
        kv->group[i].block_bytes = slot_bytes(kv, i) * p->group[i].n_slot;
        if (!ck_mul(kv->group[i].block_bytes, (uint64_t)opt->n_block[i], &kv->group[i].reserved) ||
            !(kv->group[i].mem = mem_map(kv->group[i].reserved)))
            s = err_oom(e, "KV cache", kv->group[i].reserved);
    }
    kv->state_off = mem_calloc((size_t)p->n_state + 1, sizeof *kv->state_off);
    for (int32_t i = 0; kv->state_off && i < p->n_state; i++) {
        kv->state_off[i] = kv->state_floats;
        kv->state_floats += (p->state[i].n_float + 15) & ~15ull;
    }
    if (s == IMP_OK && (!kv->state_off || (kv->state_floats && !(kv->state = mem_map(kv->state_floats * (uint64_t)kv->n_state * sizeof(float))))))
        s = err_oom(e, "recurrent states", kv->state_floats * (uint64_t)kv->n_state * sizeof(float));
    if (s != IMP_OK) {
        cpu_kv_close(kv);
        return s;
    }
    b->kv += kv->state_floats * (uint64_t)kv->n_state * sizeof(float);
    *out = kv;
    return IMP_OK;
}

imp_status cpu_kv_grow(kvcache *kv, int32_t group, int64_t n_block, imp_err *e)
{
    if (n_block > kv->group[group].n_block)
        return err_set(e, IMP_E_NOMEM, "KV cache: wanted %lld blocks, got %lld", (long long)n_block, (long long)kv->group[group].n_block);
    if (n_block > kv->group[group].usable) {
        kv->b->kv += (uint64_t)(n_block - kv->group[group].usable) * kv->group[group].block_bytes;
        kv->group[group].usable = n_block;
    }
    return IMP_OK;
}

uint8_t *kv_at(const kvcache *kv, int32_t g, int32_t block, int32_t slot, uint32_t head, bool v)
{
    const plan_kv_group *pg = &kv->p->group[g];
    uint64_t es = element(kv->type), bs = (uint64_t)kv->block_size, nh = kv->group[g].n_head;
    uint8_t *p = kv->group[g].mem + (uint64_t)block * kv->group[g].block_bytes + (uint64_t)slot * slot_bytes(kv, g);
    if (v && !pg->v_is_prefix_of_k)
        return p + bs * pg->k_width * es + head * bs * (pg->v_width / nh) * es;
    return p + head * bs * (pg->k_width / nh) * es;
}

static void store_row(const kvcache *kv, uint8_t *dst, const float *src, uint32_t n)
{
    if (kv->type == KV_F32) {
        memcpy(dst, src, n * sizeof *src);
        return;
    }
    uint16_t *h = (uint16_t *)(void *)dst;
    for (uint32_t i = 0; i < n; i++)
        h[i] = quant_f32_to_f16(src[i]);
}

void cpu_kv_store(bexec *x, const plan_op *op, int ith, int nth)
{
    const kvcache *kv = x->kv;
    int32_t g = op->attr.kv.group, bs = kv->block_size;
    const plan_kv_group *pg = &kv->p->group[g];
    uint32_t nh = kv->group[g].n_head, kw = pg->k_width / nh, vw = pg->v_is_prefix_of_k ? 0 : pg->v_width / nh;
    const float *k = exec_reg(x, op->in[0]), *v = vw ? exec_reg(x, op->in[1]) : NULL;
    long begin, end;
    pool_share(x->batch->n_tok, 1, ith, nth, &begin, &end);
    for (long t = begin; t < end; t++) {
        const batch_seq *s = &x->batch->seqs[x->batch->seq[t]];
        int32_t p = x->batch->kv_index[t], j = p / bs - s->base[g], off = p % bs;
        if (j < 0 || j >= s->table_len[g])
            continue; /* left behind by the window already: nobody will read it */
        int32_t block = s->table[g][j];
        size_t es = element(kv->type);
        for (uint32_t h = 0; h < nh; h++) {
            store_row(kv, kv_at(kv, g, block, op->attr.kv.slot, h, false) + (size_t)off * kw * es, k + (size_t)t * pg->k_width + h * kw, kw);
            if (vw)
                store_row(kv, kv_at(kv, g, block, op->attr.kv.slot, h, true) + (size_t)off * vw * es, v + (size_t)t * pg->v_width + h * vw, vw);
        }
    }
}

void cpu_kv_copy_block(kvcache *kv, int32_t group, int32_t from, int32_t to)
{
    uint64_t n = kv->group[group].block_bytes;
    memcpy(kv->group[group].mem + (uint64_t)to * n, kv->group[group].mem + (uint64_t)from * n, n);
}

void cpu_kv_copy_state(kvcache *kv, int32_t from, int32_t to)
{
    float *dst = kv->state + (uint64_t)to * kv->state_floats;
    if (from < 0)
        memset(dst, 0, kv->state_floats * sizeof *dst);
    else if (from != to)
        memcpy(dst, kv->state + (uint64_t)from * kv->state_floats, kv->state_floats * sizeof *dst);
}

uint64_t cpu_kv_block_bytes(const kvcache *kv, int32_t group) { return kv->group[group].block_bytes; }
kv_type cpu_kv_get_type(const kvcache *kv) { return kv->type; }

void cpu_kv_close(kvcache *kv)
{
    if (!kv)
        return;
    for (int i = 0; i < PLAN_MAX_GROUPS; i++) {
        kv->b->kv -= (uint64_t)kv->group[i].usable * kv->group[i].block_bytes;
        mem_unmap(kv->group[i].mem, kv->group[i].reserved);
    }
    if (kv->state)
        kv->b->kv -= kv->state_floats * (uint64_t)kv->n_state * sizeof(float);
    mem_unmap(kv->state, kv->state_floats * (uint64_t)kv->n_state * sizeof(float));
    mem_free(kv->state_off);
    mem_free(kv);
}

/* KV blocks and recurrent states. A group's blocks lie one after the other in reserved address space; a block holds all
 * slots (layers) of the group, so that copying or handing on a block is one range. */
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/ck.h"
#include "base/mem.h"

static uint64_t slot_bytes(const kvcache *kv, const plan_kv_group *g)
{
    uint64_t es = kv->elem == QUANT_F32 ? 4 : 2;
    return (uint64_t)kv->block * (g->k_width + (g->v_is_prefix_of_k ? 0 : g->v_width)) * es;
}

cpu_kv_view kv_view(const kvcache *kv, int32_t group, int32_t slot, uint32_t d_k, uint32_t d_v)
{
    const plan_kv_group *g = &kv->p->group[group];
    uint64_t off = (uint64_t)slot * slot_bytes(kv, g), es = kv->elem == QUANT_F32 ? 4 : 2;
    return (cpu_kv_view){.base = kv->group[group].base, .block_bytes = kv->group[group].block_bytes, .off_k = off,
                         .off_v = off + (uint64_t)kv->block * g->k_width * es, .type = kv->elem, .block = kv->block,
                         .tiled = kv->group[group].tiled, .v_in_k = g->v_is_prefix_of_k, .d_k = d_k, .d_v = d_v};
}

/* f32 when every matrix is a float format (the caller asked for exactness then), else f16. */
static kv_type choose(const backend *b, const plan *p)
{
    if (b->level == CPU_SCALAR)
        return KV_F32;
    for (int32_t i = 0; i < p->n_op; i++)
        if (p->op[i].kind == OP_ROUTE)
            return KV_F32; /* a mixture chooses: what f16 rounds away would now and then pick another expert */
    for (int32_t i = 0; i < p->n_weight; i++) {
        const quant_fmt *f = quant_get(p->weight[i]->format);
        if (p->weight[i]->rows > 1 && f && !f->is_float)
            return KV_F16;
    }
    return KV_F32;
}

void cpu_kv_close(kvcache *kv)
{
    if (!kv)
        return;
    for (int i = 0; i < kv->n_group; i++) {
        mem_unmap(kv->group[i].base, kv->group[i].reserved);
        kv->be->n_kv -= (uint64_t)kv->group[i].n_grown * kv->group[i].block_bytes;
    }
    mem_free(kv->state);
    mem_free(kv->state_off);
    mem_free(kv);
}

static imp_status open_states(kvcache *kv, int32_t n, imp_err *e)
{
    const plan *p = kv->p;
    kv->n_state = n;
    if (!p->n_state || n <= 0)
        return IMP_OK;
    kv->state_off = mem_calloc((size_t)p->n_state, sizeof *kv->state_off);
    for (int32_t i = 0; kv->state_off && i < p->n_state; i++) {
        kv->state_off[i] = kv->state_floats;
        kv->state_floats += (p->state[i].n_float + 15) / 16 * 16;
    }
    kv->state = kv->state_off ? mem_calloc((size_t)n, kv->state_floats * sizeof(float)) : NULL;
    return kv->state ? IMP_OK : err_oom(e, "recurrent states", (uint64_t)n * kv->state_floats * sizeof(float));
}

imp_status cpu_kv_open(backend *b, const plan *p, const kv_options *opt, kvcache **out, imp_err *e)
{
    static const quant_id ELEM[] = {[KV_F32] = QUANT_F32, [KV_F16] = QUANT_F16, [KV_BF16] = QUANT_BF16};
    static const char *const NAME[] = {"auto", "f32", "f16", "bf16", "fp8", "q8_0", "nvfp4"};
    *out = NULL;
    kv_type type = opt->type == KV_AUTO ? choose(b, p) : opt->type;
    if (type != KV_F32 && type != KV_F16 && type != KV_BF16)
        return err_set(e, IMP_E_UNSUPPORTED, "kv %s: the cpu backend stores f16, bf16 or f32",
                       (unsigned)type < CK_COUNT(NAME) ? NAME[type] : "?");
    if (opt->block_size < 1 || opt->block_size > 65536)
        return err_set(e, IMP_E_USAGE, "kv: wanted a block size of 1 to 65536, got %d", opt->block_size);
    kvcache *kv = mem_calloc(1, sizeof *kv);
    if (!kv)
        return err_oom(e, "KV cache", sizeof *kv);
    kv->be = b;
    kv->p = p;
    kv->type = type;
    kv->elem = ELEM[type];
    kv->block = opt->block_size;
    imp_status s = open_states(kv, opt->n_state, e);
    for (int i = 0; i < p->n_group && s == IMP_OK; i++) {
        struct kv_group *g = &kv->group[i];
        const plan_kv_group *pg = &p->group[i];
        g->tiled = opt->block_size % 16 == 0 && !pg->v_is_prefix_of_k;
        g->n_block = opt->n_block[i];
        if (g->n_block < 0 || !ck_mul(slot_bytes(kv, pg), pg->n_slot, &g->block_bytes) ||
            !ck_align(g->block_bytes, 64, &g->block_bytes) ||
            !ck_mul(g->block_bytes, (uint64_t)g->n_block, &g->reserved)) {
            s = err_set(e, IMP_E_LIMIT, "KV cache: group %d is too large", i);
            break;
        }
        g->base = mem_map(g->reserved);
        kv->n_group = i + 1;
        if (!g->base)
            s = err_oom(e, "KV cache", g->reserved);
    }
    if (s != IMP_OK) {
        cpu_kv_close(kv);
        return s;
    }
    *out = kv;
    return IMP_OK;
}

imp_status cpu_kv_grow(kvcache *kv, int32_t group, int64_t n_block, imp_err *e)
{
    if (group < 0 || group >= kv->n_group || n_block > kv->group[group].n_block)
        return err_set(e, IMP_E_LIMIT, "KV cache: group %d has no room for %lld blocks", group, (long long)n_block);
    struct kv_group *g = &kv->group[group];
    if (n_block > g->n_grown) { /* the pages come with the first touch */
        kv->be->n_kv += (uint64_t)(n_block - g->n_grown) * g->block_bytes;
        g->n_grown = n_block;
    }
    return IMP_OK;
}

void cpu_kv_copy_block(kvcache *kv, int32_t group, int32_t from, int32_t to)
{
    struct kv_group *g = &kv->group[group];
    if (from != to)
        memcpy(g->base + (uint64_t)to * g->block_bytes, g->base + (uint64_t)from * g->block_bytes, g->block_bytes);
}

void cpu_kv_copy_state(kvcache *kv, int32_t from, int32_t to)
{
    if (!kv->state || to < 0 || to >= kv->n_state || from == to)
        return;
    float *dst = kv->state + (uint64_t)to * kv->state_floats;
    if (from < 0)
        memset(dst, 0, kv->state_floats * sizeof *dst);
    else
        memcpy(dst, kv->state + (uint64_t)from * kv->state_floats, kv->state_floats * sizeof *dst);
}

uint64_t cpu_kv_block_bytes(const kvcache *kv, int32_t group) { return kv->group[group].block_bytes; }

kv_type cpu_kv_get_type(const kvcache *kv) { return kv->type; }

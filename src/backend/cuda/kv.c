/* KV blocks and recurrent states on the device. Invariants: (1) a group's blocks lie in one range of addresses reserved
 * at open, so no pointer changes when memory is mapped behind it; (2) a block holds all slots of its group: for each
 * slot block_size rows of K, then of V, f16 or f32; (3) blocks [0, n_block) are mapped; (4) growing happens between
 * steps. */
#include <string.h>

#include "backend/cuda/cuda_impl.h"
#include "base/ck.h"
#include "base/mem.h"

static CUmemAllocationProp props(const backend *b)
{
    CUmemAllocationProp p;
    memset(&p, 0, sizeof p);
    p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    p.location.id = b->dev;
    return p;
}

void cuda_kv_close(kvcache *kv)
{
    if (!kv)
        return;
    backend *b = kv->b;
    if (cuda_enter(b, NULL) == IMP_OK) {
        b->cu.StreamSynchronize(b->stream);
        for (int32_t g = 0; g < kv->n_group; g++) {
            kv_group *k = &kv->group[g];
            uint64_t off = 0;
            for (int32_t i = 0; i < k->n_chunk; i++) {
                b->cu.MemUnmap(k->base + off, k->chunk_bytes[i]);
                b->cu.MemRelease(k->chunk[i]);
                off += k->chunk_bytes[i];
            }
            b->kv -= off;
            if (k->base)
                b->cu.MemAddressFree(k->base, k->reserved);
        }
        cuda_free(b, kv->state, kv->state_total, &b->kv);
    }
    for (int32_t g = 0; g < kv->n_group; g++) {
        mem_free(kv->group[g].k_off);
        mem_free(kv->group[g].v_off);
        mem_free(kv->group[g].chunk);
        mem_free(kv->group[g].chunk_bytes);
    }
    mem_free(kv->state_off);
    mem_free(kv);
}

static imp_status open_group(kvcache *kv, int32_t g, const plan_kv_group *pg, int64_t n_block, imp_err *e)
{
    kv_group *k = &kv->group[g];
    backend *b = kv->b;
    k->k_off = mem_calloc(pg->n_slot ? pg->n_slot : 1, sizeof *k->k_off);
    k->v_off = mem_calloc(pg->n_slot ? pg->n_slot : 1, sizeof *k->v_off);
    if (!k->k_off || !k->v_off)
        return err_oom(e, "KV group", pg->n_slot * sizeof *k->k_off);
    k->k_width = pg->k_width;
    k->v_width = pg->v_is_prefix_of_k ? pg->k_width : pg->v_width;
    uint64_t at = 0, rows = (uint64_t)kv->block_size * (kv->type == KV_F32 ? 4 : 2);
    for (uint32_t s = 0; s < pg->n_slot; s++) {
        k->k_off[s] = at;
        at += (rows * pg->k_width + 15) & ~15ull;
        k->v_off[s] = pg->v_is_prefix_of_k ? k->k_off[s] : at;
        at += pg->v_is_prefix_of_k ? 0 : (rows * pg->v_width + 15) & ~15ull;
    }
    k->block_bytes = at;
    if (n_block <= 0 || !at)
        return IMP_OK;
    if (!ck_mul(at, (uint64_t)n_block, &k->reserved) || !ck_align(k->reserved, kv->granularity, &k->reserved))
        return err_set(e, IMP_E_USAGE, "cuda: KV group %d: %lld blocks of %llu bytes do not fit an address", (int)g,
                       (long long)n_block, (unsigned long long)at);
    CUresult r = b->cu.MemAddressReserve(&k->base, k->reserved, 0, 0, 0);
    return cu_check(&b->cu, r, e, "reserving addresses for KV group %d", (int)g);
}

imp_status cuda_kv_open(backend *b, const plan *p, const kv_options *opt, kvcache **out, imp_err *e)
{
    /* precise keeps what products gave; else f16, for which the fast kernels are */
    kv_type type = opt->type != KV_AUTO ? opt->type : b->precise ? KV_F32 : KV_F16;
    if (type != KV_F16 && type != KV_F32)
        return err_set(e, IMP_E_UNSUPPORTED, "cuda: the KV cache is f16 or f32; other types are not built yet");
    if (opt->block_size <= 0)
        return err_set(e, IMP_E_USAGE, "cuda: KV block size %d", (int)opt->block_size);
    imp_status s = cuda_enter(b, e);
    if (s != IMP_OK)
        return s;
    kvcache *kv = mem_calloc(1, sizeof *kv);
    if (!kv)
        return err_oom(e, "KV cache", sizeof *kv);
    kv->b = b;
    kv->type = type;
    kv->block_size = opt->block_size;
    kv->n_state = opt->n_state;
    kv->n_plan_state = p->n_state;
    size_t gran = 0;
    CUmemAllocationProp prop = props(b);
    CUresult r = b->cu.MemGetAllocationGranularity(&gran, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
    s = cu_check(&b->cu, r, e, "asking for the page size");
    kv->granularity = gran ? gran : 1;
    for (int32_t g = 0; g < p->n_group && s == IMP_OK; g++) {
        kv->n_group = g + 1;
        s = open_group(kv, g, &p->group[g], opt->n_block[g], e);
    }
    kv->state_off = mem_calloc((size_t)(p->n_state ? p->n_state : 1), sizeof *kv->state_off);
    if (s == IMP_OK && !kv->state_off)
        s = err_oom(e, "states", sizeof *kv->state_off);
    for (int32_t i = 0; i < p->n_state && s == IMP_OK; i++) {
        kv->state_off[i] = kv->state_bytes;
        kv->state_bytes += (p->state[i].n_float * 4 + 255) & ~255ull;
    }
    if (s == IMP_OK && kv->state_bytes && opt->n_state > 0) {
        kv->state_total = kv->state_bytes * (uint64_t)opt->n_state;
        s = cuda_alloc(b, kv->state_total, &b->kv, &kv->state, "recurrent states", e);
        if (s == IMP_OK)
            s = cu_check(&b->cu, b->cu.MemsetD8Async(kv->state, 0, kv->state_total, b->stream), e, "clearing states");
    }
    if (s != IMP_OK) {
        cuda_kv_close(kv);
        return s;
    }
    *out = kv;
    return IMP_OK;
}

imp_status cuda_kv_grow(kvcache *kv, int32_t group, int64_t n_block, imp_err *e)
{
    backend *b = kv->b;
    if (group < 0 || group >= kv->n_group)
        return err_set(e, IMP_E_USAGE, "cuda: there is no KV group %d", (int)group);
    kv_group *k = &kv->group[group];
    uint64_t want = 0;
    if (n_block < 0 || !ck_mul((uint64_t)n_block, k->block_bytes, &want) || want > k->reserved)
        return err_set(e, IMP_E_USAGE, "cuda: KV group %d: %lld blocks are more than were reserved", (int)group,
                       (long long)n_block);
    imp_status s = cuda_enter(b, e);
    if (s != IMP_OK)
        return s;
    if (want > k->mapped) {
        uint64_t n = want - k->mapped;
        ck_align(n, kv->granularity, &n);
        if (k->n_chunk == k->cap_chunk) {
            int32_t cap = k->cap_chunk ? k->cap_chunk * 2 : 16;
            CUmemGenericAllocationHandle *c = mem_realloc(k->chunk, (size_t)cap * sizeof *c);
            if (c)
                k->chunk = c;
            uint64_t *cb = c ? mem_realloc(k->chunk_bytes, (size_t)cap * sizeof *cb) : NULL;
            if (!cb)
                return err_oom(e, "KV chunks", (unsigned long long)cap * sizeof *c);
            k->chunk_bytes = cb;
            k->cap_chunk = cap;
        }
        CUmemAllocationProp prop = props(b);
        CUmemGenericAllocationHandle h;
        CUresult r = b->cu.MemCreate(&h, n, &prop, 0);
        if (r == CUDA_ERROR_OUT_OF_MEMORY) {
            size_t free = 0, total = 0;
            b->cu.MemGetInfo(&free, &total);
            return err_set(e, IMP_E_NOMEM,
                           "cuda: out of memory: KV group %d needs %.1f MiB more for %lld blocks, %.1f MiB are free",
                           (int)group, (double)n / 1048576, (long long)n_block, (double)free / 1048576);
        }
        s = cu_check(&b->cu, r, e, "creating KV memory");
        if (s != IMP_OK)
            return s;
        CUmemAccessDesc acc;
        memset(&acc, 0, sizeof acc);
        acc.location = prop.location;
        acc.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
        s = cu_check(&b->cu, b->cu.MemMap(k->base + k->mapped, n, 0, h, 0), e, "mapping KV memory");
        if (s != IMP_OK) {
            b->cu.MemRelease(h);
            return s;
        }
        k->chunk[k->n_chunk] = h;
        k->chunk_bytes[k->n_chunk++] = n;
        uint64_t at = k->mapped;
        k->mapped += n;
        b->kv += n;
        s = cu_check(&b->cu, b->cu.MemSetAccess(k->base + at, n, &acc, 1), e, "opening KV memory");
        if (s == IMP_OK) /* rows that nobody wrote are multiplied by zero: they must be numbers */
            s = cu_check(&b->cu, b->cu.MemsetD8Async(k->base + at, 0, n, b->stream), e, "clearing KV memory");
        if (s != IMP_OK)
            return s;
    }
    if (n_block > k->n_block)
        k->n_block = n_block;
    return IMP_OK;
}

void cuda_kv_copy_block(kvcache *kv, int32_t group, int32_t from, int32_t to)
{
    kv_group *k = &kv->group[group];
    if (cuda_enter(kv->b, NULL) == IMP_OK)
        kv->b->cu.MemcpyDtoDAsync(k->base + (uint64_t)to * k->block_bytes, k->base + (uint64_t)from * k->block_bytes,
                                  k->block_bytes, kv->b->stream);
}

void cuda_kv_copy_state(kvcache *kv, int32_t from, int32_t to)
{
    if (!kv->state || to < 0 || cuda_enter(kv->b, NULL) != IMP_OK)
        return;
    CUdeviceptr dst = kv->state + (uint64_t)to * kv->state_bytes;
    if (from < 0)
        kv->b->cu.MemsetD8Async(dst, 0, kv->state_bytes, kv->b->stream);
    else
        kv->b->cu.MemcpyDtoDAsync(dst, kv->state + (uint64_t)from * kv->state_bytes, kv->state_bytes, kv->b->stream);
}

uint64_t cuda_kv_block_bytes(const kvcache *kv, int32_t group) { return kv->group[group].block_bytes; }
kv_type cuda_kv_get_type(const kvcache *kv) { return kv->type; }

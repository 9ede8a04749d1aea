/* run_batch: products for 2 and more rows of class D on the batch kernels (kernels/batch.cu): which one, how many
 * stages, one launch for all matrices that share an input. Called by run.c on the backend's thread. */
#include "backend/cuda/exec.h"

#define SMEM_HALF (113u << 10) /* two blocks share a multiprocessor */

typedef struct batch_tile {
    kernel_id k;
    uint32_t n_col, chunks; /* of 64 columns in a place for rows */
    bool two; /* two blocks share a multiprocessor, if shared memory allows it too */
} batch_tile;
static const batch_tile tiles[] = {
    {K_batch128, 128, 1, false}, {K_batch64, 64, 1, true}, {K_batch32, 32, 4, true},
    {K_batch16, 16, 4, true}, {K_batch8, 8, 4, true}};

typedef struct batch_rings {
    uint32_t n_x, n_w, smem;
} batch_rings;

/* Places for rows and for eight tiles. False: not even two of those fit. */
static bool find_rings(const bexec *x, const batch_tile *t, uint32_t slot_bytes, batch_rings *out)
{
    const uint32_t fixed = 2048, xs = t->n_col * 128 * t->chunks, ws = 8 * slot_bytes, least = t->chunks == 4 ? 2 : 5;
    for (int one = !t->two; one < 2; one++) {
        uint32_t most = (one ? (uint32_t)x->b->smem_max : SMEM_HALF) - fixed;
        for (uint32_t n_x = t->chunks == 4 ? 3 : 8; n_x >= least; n_x--)
            if (n_x * xs + 2 * ws <= most) {
                uint32_t n_w = (most - n_x * xs) / ws;
                n_w = n_w > 8 ? 8 : n_w;
                *out = (batch_rings){n_x, n_w, fixed + n_x * xs + n_w * ws};
                return true;
            }
    }
    return false;
}

bool exec_batch_fits(const bexec *x, const gemv_args *g)
{
    batch_rings r;
    if (!x->b->fn[K_batch8])
        return false;
    for (uint32_t i = 0; i < g->n_w; i++)
        if (!find_rings(x, &tiles[4], g->w[i].tile_bytes, &r))
            return false;
    return true;
}

/* One launch: matrices [first, first + n_w) of g, which are cut alike. */
static imp_status launch(bexec *x, const gemv_args *g, uint32_t first, uint32_t n_w, CUdeviceptr xh, uint32_t ldx,
                         imp_err *e)
{
    struct {
        CUtensorMap map;
        batch_args a;
    } p = {.a = {.n_mat = n_w, .m = g->m, .pair = g->pair, .act = g->act, .limit = g->limit, .alpha = g->alpha,
                 .residual = g->residual, .ldr = g->ldr, .out_f16 = g->out_f16}};
    uint32_t items = 0;
    batch_rings r = {0};
    for (uint32_t i = 0; i < n_w; i++) {
        const dweight *w = &g->w[first + i];
        p.a.w[i] = *w;
        p.a.out[i] = g->out[first + i];
        p.a.ldo[i] = g->ldo[first + i];
        p.a.item_begin[i] = items;
        items += g->pair ? (i ? 0 : div_up(w->row_tiles, 4)) : div_up(w->row_tiles, 8);
        p.a.slot_bytes = w->tile_bytes > p.a.slot_bytes ? w->tile_bytes : p.a.slot_bytes;
    }
    const batch_tile *t = tiles, *last = tiles + sizeof tiles / sizeof *tiles - 1;
    /* 128 columns at once where every block has a multiprocessor of its own or there are many rounds; else two blocks
     * share one */
    uint32_t blocks = items * p.a.w[0].z, n_sm = (uint32_t)x->b->n_sm;
    if (blocks > n_sm && blocks < 4 * n_sm)
        t++;
    while (t != last && (t[1].n_col >= g->m || !find_rings(x, t, p.a.slot_bytes, &r)))
        t++;
    find_rings(x, t, p.a.slot_bytes, &r);
    p.a.n_x = r.n_x;
    p.a.n_w = r.n_w;
    cuuint64_t dim[3] = {64, g->m, ldx / 64}, stride[2] = {(cuuint64_t)ldx * 2, 128};
    uint32_t z = p.a.w[0].z;
    uint32_t meets = items * div_up(g->m, t->n_col);
    if (z > 1 && !t->two && meets <= BATCH_MEETS && meets * z <= (uint32_t)x->b->n_sm &&
        (uint64_t)meets * z * t->n_col * 128 * 4 <= x->partial_bytes) {
        p.a.part = x->partial;
        p.a.came = x->came;
    }
    uint32_t cluster = p.a.part ? 1 : z;
    cuuint32_t box[3] = {64, t->n_col, t->chunks}, step[3] = {1, 1, 1};
    void *at = (void *)(uintptr_t)xh;
    CUresult mapped =
        x->b->cu.TensorMapEncodeTiled(&p.map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3, at, dim, stride, box, step,
                                      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    imp_status s = cu_check(&x->b->cu, mapped, e, "describing activations");
    return s != IMP_OK ? s : cuda_launch_cluster(x->b, x->b->stream, t->k, z, div_up(g->m, t->n_col), items, cluster,
                                                 256, r.smem, true, &p, e);
}

imp_status exec_batch(bexec *x, const gemv_args *g, CUdeviceptr xh, uint32_t ldx, imp_err *e)
{
    imp_status s = IMP_OK;
    for (uint32_t i = 0, n; i < g->n_w && s == IMP_OK; i += n) {
        n = 1;
        while (i + n < g->n_w && g->w[i + n].z == g->w[i].z && g->w[i + n].seg == g->w[i].seg &&
               g->w[i + n].k_tiles == g->w[i].k_tiles)
            n++;
        if (g->pair && n != 2)
            return err_set(e, IMP_E_INTERNAL, "cuda: gate and up are cut differently");
        s = launch(x, g, i, n, xh, ldx, e);
    }
    return s;
}

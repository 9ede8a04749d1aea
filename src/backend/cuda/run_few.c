/* run_few: products for 2 to 8 rows of class D on kernels/gemv_few.cu: which one, how many blocks share a row tile, and
 * what lies in their shared memory. Called by run.c on the backend's thread. */
#include "backend/cuda/exec.h"

#define WARPS 8u
#define PLACES 2u   /* of a warp's ring */
#define MOST_SM 3u  /* blocks of a multiprocessor: registers are for no more */
#define LEAST_SM 2u /* fewer warps decode no faster than batch.cu's */
#define X_SHARE 2u  /* a block reads so many times less of the rows than of the weights, if enough others share them */

/* A way to cut a launch. */
typedef struct few_cut {
    uint32_t log_c, groups, stride, sums, ring, buffer, smem, per_sm;
    uint32_t clusters;
} few_cut;

static uint32_t blocks_per_sm(const bexec *x, uint32_t smem)
{
    uint32_t n = MOST_SM;
    while (n && smem > ((uint32_t)x->b->smem_max + 1024) / n - 1024) /* a block takes 1 KiB more than it asks for */
        n--;
    return n;
}

/* c = 1 << log_c blocks share a row tile. per_sm 0: that does not fit. */
static few_cut cut_by(const bexec *x, const gemv_args *g, uint32_t log_c)
{
    const dweight *w = &g->w[0];
    const uint32_t n_sm = (uint32_t)x->b->n_sm, own = w->seg >> log_c, sums = WARPS * (g->pair ? 2 : 1) * FEW_SUMS;
    few_cut c = {.log_c = log_c, .groups = WARPS / own};
    uint32_t tiles = 0;
    for (uint32_t b = 0; b < 1u << log_c; b++) {
        const uint32_t n = w->k_tiles * (b + 1) * own / w->seg - w->k_tiles * b * own / w->seg;
        tiles = n > tiles ? n : tiles;
    }
    c.stride = tiles * TILE_COLS * 2 + 16;
    c.sums = FEW_FIXED + up_to(g->m * c.stride, 128);
    c.ring = c.sums + sums;
    c.smem = c.ring + WARPS * PLACES * g->slot_bytes;
    c.per_sm = blocks_per_sm(x, c.smem);
    c.clusters = div_up(g->n_item, c.groups);
    if (c.clusters << log_c <= n_sm * c.per_sm)
        return c;
    /* More than have room at once: blocks that go through several row tiles, with a second set of sums (a pair's fill
     * the place of both), where multiprocessors, which come by twos, take whole clusters; else blocks that come when
     * others go. */
    few_cut loop = c;
    if (!g->pair && blocks_per_sm(x, c.smem + sums) >= LEAST_SM) {
        loop.buffer = sums, loop.ring += sums, loop.smem += sums;
        loop.per_sm = blocks_per_sm(x, loop.smem);
    }
    loop.clusters = n_sm * loop.per_sm >> log_c;
    return 2 * loop.per_sm % (1u << log_c) == 0 ? loop : c;
}

/* As few blocks share a row tile as will do, for they have to wait for each other: so many that what a block reads of
 * the rows is little beside what it reads of the weights, and that two blocks have room. */
static few_cut choose_cut(const bexec *x, const gemv_args *g)
{
    const dweight *w = &g->w[0];
    const uint32_t all = div_up(g->n_item * w->seg, WARPS), room = LEAST_SM * (uint32_t)x->b->n_sm;
    const bool hopper = x->b->cc / 10 == 9; /* clusters were tried nowhere else */
    uint64_t weights = 0;
    for (uint32_t i = 0; i < g->n_w; i++)
        weights += (uint64_t)g->w[i].row_tiles * w->k_tiles * g->w[i].tile_bytes;
    weights /= all < room ? all : room;
    few_cut best = {.per_sm = 0};
    for (uint32_t i = 0; 1u << i <= w->seg && (i == 0 || hopper); i++) {
        if (i == 3 && best.per_sm)
            break; /* eight, when nothing else fits */
        const few_cut c = cut_by(x, g, i);
        if (c.per_sm < LEAST_SM)
            continue;
        best = c;
        if (X_SHARE * (uint64_t)g->m * c.stride <= weights)
            break;
    }
    return best;
}

/* Measured (docs/kernels.md): up to four rows these kernels win everywhere. With more, all blocks of a cluster wait for
 * rows and for each other, and batch.cu's, which bring rows piece by piece, are faster: but where no other block has to
 * be waited for, or once, or where rows are so long that they hide it. */
static bool worth_it(const gemv_args *g, const few_cut *c)
{
    const bool one_turn = c->clusters == div_up(g->n_item, c->groups);
    return g->m <= 4 || c->log_c == 0 || (c->log_c == 1 && one_turn) || (c->log_c == 2 && g->w[0].k_tiles >= 32);
}

/* False: there is none for this mixture of layouts, or for the work. */
static bool kernel_of(const gemv_args *g, kernel_id *k)
{
#define OF(l) {K_gemv_##l##_few, K_gemv_##l##_few_pair}
    static const kernel_id kernels[LAYS_COUNT][2] = {
        [LAY_F16] = OF(f16), [LAY_I8] = OF(i8), [LAY_U4] = OF(u4), [LAY_NV4] = OF(nv4),
        [LAY_Q4K] = OF(q4k), [LAY_Q5K] = OF(q5k), [LAY_Q6K] = OF(q6k), [LAY_F8] = OF(f8),
        [LAYS_Q4K_Q6K] = {K_gemv_q4k_q6k_few}, [LAYS_Q5K_Q6K] = {K_gemv_q5k_q6k_few}};
#undef OF
    if (g->m < 2 || g->m > FEW_ROWS || (g->residual && (g->n_w > 1 || g->out_f16)) ||
        (g->pair ? g->n_w != 2 : g->n_w > 1 && g->out_f16))
        return false;
    for (uint32_t i = 0; i < g->n_w; i++) /* the kernel counts a matrix in 32 bits */
        if (g->w[i].expert_stride >> 32 || g->w[i].seg != g->w[0].seg || g->w[i].k_tiles != g->w[0].k_tiles)
            return false;
    *k = kernels[exec_layouts(g)][g->pair ? 1 : 0];
    _Static_assert(K_gemv_f16 == 0, "a place of the table that is empty must be no kernel of it");
    return *k != K_gemv_f16;
}

static void describe_weights(const gemv_args *g, few_args *d)
{
    while (1u << d->log_seg < g->w[0].seg)
        d->log_seg++;
    d->log_own = d->log_seg - d->log_c;
    for (uint32_t i = 0; i < GEMV_MAX_W; i++) {
        d->begin[i] = i < g->n_w ? g->item_begin[i] : UINT32_MAX;
        if (i >= g->n_w)
            continue;
        const dweight *w = &g->w[i];
        d->tiles[i] = w->tiles, d->layout[i] = w->layout, d->unit[i] = w->unit, d->rows[i] = w->rows;
        d->per[i] = w->seg / w->z, d->row_scale[i] = w->row_scale, d->bias[i] = w->bias;
        d->out[i] = g->out[i], d->ldo[i] = g->ldo[i];
        for (int j = 0; j < 4; j++)
            d->lut[i][j] = w->lut[j];
    }
}

/* As run_dense.c's: shared memory that keeps a multiprocessor from taking more than its share of the blocks, where
 * whole clusters fill two multiprocessors. */
static uint32_t spread(const bexec *x, uint32_t blocks, uint32_t cluster, uint32_t smem)
{
    const uint32_t n_sm = (uint32_t)x->b->n_sm, each = div_up(blocks, n_sm);
    return blocks > n_sm && 2 * each % cluster == 0 ? exec_spread(x, blocks, smem) : smem;
}

imp_status exec_few(bexec *x, const gemv_args *g, CUdeviceptr xh, uint32_t ldx, bool *done, imp_err *e)
{
    kernel_id k;
    *done = false;
    if (!kernel_of(g, &k))
        return IMP_OK;
    const few_cut c = choose_cut(x, g);
    if (c.per_sm < LEAST_SM || !worth_it(g, &c))
        return IMP_OK;
    few_args d = {.k_tiles = g->w[0].k_tiles, .log_c = c.log_c, .groups = c.groups, .step = c.clusters * c.groups,
                  .n_item = g->n_item, .m = g->m, .stride = c.stride, .sums = c.sums, .ring = c.ring,
                  .buffer = c.buffer, .x = xh, .ldx = ldx, .ldr = g->ldr, .residual = g->residual,
                  .out_f16 = g->out_f16, .act = g->act, .limit = g->limit, .alpha = g->alpha};
    describe_weights(g, &d);
    *done = true;
    const uint32_t cluster = 1u << c.log_c;
    return cuda_launch_cluster(x->b, x->b->stream, k, cluster, c.clusters, 1, cluster, WARPS * 32,
                               spread(x, c.clusters << c.log_c, cluster, c.smem), true, &d, e);
}

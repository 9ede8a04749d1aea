/* run_dense: one row's products of a dense layer on the kernels that are made for just that (kernels/gemv_dense.cu).
 * Called by run.c on the backend's thread. */
#include "backend/cuda/exec.h"

#define BLOCK_FIXED 64u /* of shared memory: a norm's scratch */
#define WARP_SUMS 512u
#define WARPS 8u

typedef enum purpose { NORM, NORM8, PAIR, PAIR8, HALF, NO_PURPOSE } purpose;

uint32_t exec_layouts(const gemv_args *a)
{
    const uint32_t q6k = 1u << LAY_Q6K;
    uint32_t seen = 0;
    for (uint32_t i = 0; i < a->n_w; i++)
        seen |= 1u << a->w[i].layout;
    if (seen == 1u << a->w[0].layout)
        return a->w[0].layout;
    return seen == (q6k | 1u << LAY_Q4K) ? LAYS_Q4K_Q6K : seen == (q6k | 1u << LAY_Q5K) ? LAYS_Q5K_Q6K : LAYS_ANY;
}

/* What a gemv's work is there; NO_PURPOSE: gemv.cu has it. */
static purpose purpose_of(const gemv_args *a)
{
    if (a->x_kind == X_F16)
        return a->n_w == 1 && !a->pair && !a->out_f16 ? HALF : NO_PURPOSE;
    const bool wide = a->k > DENSE_NORM;
    if (a->x_kind != X_NORM || a->k % 4 || a->k > DENSE_NORM8 || (wide && !a->norm_w) || a->residual)
        return NO_PURPOSE;
    if (a->pair)
        return !a->out_f16 || a->norm_out ? NO_PURPOSE : wide ? PAIR8 : PAIR;
    return a->out_f16 ? NO_PURPOSE : wide ? NORM8 : NORM;
}

/* False: there is none for this mixture of layouts. */
static bool kernel_of(const gemv_args *a, purpose what, kernel_id *k)
{
#define OF(l) {K_gemv_##l##_norm, K_gemv_##l##_norm8, K_gemv_##l##_pair, K_gemv_##l##_pair8, K_gemv_##l##_half}
    static const kernel_id kernels[LAYS_COUNT][NO_PURPOSE] = {
        [LAY_F16] = OF(f16), [LAY_I8] = OF(i8), [LAY_U4] = OF(u4), [LAY_NV4] = OF(nv4),
        [LAY_Q4K] = OF(q4k), [LAY_Q5K] = OF(q5k), [LAY_Q6K] = OF(q6k), [LAY_F8] = OF(f8),
        [LAYS_Q4K_Q6K] = {K_gemv_q4k_q6k_norm, K_gemv_q4k_q6k_norm8},
        [LAYS_Q5K_Q6K] = {K_gemv_q5k_q6k_norm, K_gemv_q5k_q6k_norm8}};
#undef OF
    if (what == NO_PURPOSE)
        return false;
    *k = kernels[exec_layouts(a)][what];
    _Static_assert(K_gemv_f16 == 0, "a place of the table that is empty must be no kernel of it");
    return *k != K_gemv_f16;
}

static void describe_weights(const gemv_args *a, dense_args *d)
{
    uint32_t seg = a->w[0].seg;
    while (1u << d->log_seg < seg)
        d->log_seg++;
    d->plain = seg >= 4;
    for (uint32_t i = 0; i < GEMV_MAX_W; i++) {
        d->begin[i] = i < a->n_w ? a->item_begin[i] : UINT32_MAX;
        if (i >= a->n_w)
            continue;
        const dweight *w = &a->w[i];
        d->tiles[i] = w->tiles, d->layout[i] = w->layout, d->unit[i] = w->unit, d->rows[i] = w->rows;
        d->per[i] = seg / w->z, d->row_scale[i] = w->row_scale, d->bias[i] = w->bias, d->out[i] = a->out[i];
        d->plain &= !w->row_scale && !w->bias && (w->z == 1 || w->z == 4);
        for (int j = 0; j < 4; j++)
            d->lut[i][j] = w->lut[j];
    }
}

/* Blocks come while the kernel before still runs, and go where room is: by fours to some multiprocessors, and 20 of 132
 * had none (docs/kernels.md). */
uint32_t exec_spread(const bexec *x, uint32_t blocks, uint32_t smem)
{
    const uint32_t all = (uint32_t)x->b->smem_max + 1024, each = div_up(blocks, (uint32_t)x->b->n_sm);
    const uint32_t least = (all / (each + 1) - 1024 + 128) & ~127u; /* one more does not fit */
    return least > smem ? least : smem;
}

/* Where each multiprocessor has one block or less, spreading keeps the kernels behind from coming early, and does harm;
 * but nearly as many blocks as there are multiprocessors (a mixture's attn_output) must not pair up, nor those of the
 * router behind it. */
static uint32_t spread(const bexec *x, const gemv_args *a, purpose what, uint32_t blocks, uint32_t smem)
{
    const uint32_t n_sm = (uint32_t)x->b->n_sm;
    const bool full = what == HALF ? blocks * 10 > n_sm * 9 : blocks > n_sm, router = a->norm_out != 0;
    return full || router ? exec_spread(x, blocks, smem) : smem;
}

imp_status exec_dense(bexec *x, const gemv_args *a, bool *done, imp_err *e)
{
    purpose what = purpose_of(a);
    kernel_id k;
    *done = false;
    if (!kernel_of(a, what, &k))
        return IMP_OK;
    const uint32_t n_sm = (uint32_t)x->b->n_sm, max = (uint32_t)x->b->smem_max, groups = WARPS / a->w[0].seg;
    const uint32_t ring = BLOCK_FIXED + a->w[0].k_tiles * TILE_COLS * 2 + WARPS * WARP_SUMS;
    uint32_t smem = ring + WARPS * DENSE_PLACES(what == HALF, a->slot_bytes) * a->slot_bytes;
    uint32_t per_sm = DENSE_BLOCKS;
    while (per_sm && smem > (max + 1024) / per_sm - 1024) /* a multiprocessor has 1 KiB more, and a block takes one */
        per_sm--;
    if (!per_sm)
        return IMP_OK;
    uint32_t blocks = div_up(a->n_item, groups) + (a->norm_out != 0); /* one more hands the row on */
    blocks = blocks < n_sm * per_sm ? blocks : n_sm * per_sm;
    smem = spread(x, a, what, blocks, smem);
    dense_args d = {.k_tiles = a->w[0].k_tiles, .n_item = a->n_item, .step = blocks * groups, .groups = groups,
                    .ring = ring, .k = a->k, .x = a->x, .norm_w = a->norm_w, .eps = a->eps,
                    .one = a->norm_w ? a->plus_one : 1.0f, .residual = a->residual, .norm_out = a->norm_out,
                    .norm_f16 = a->norm_f16, .act = a->act, .limit = a->limit, .alpha = a->alpha};
    describe_weights(a, &d);
    *done = true;
    return cuda_launch(x->b, x->b->stream, k, blocks, 1, 1, WARPS * 32, smem, true, &d, e);
}

/* Weights to the device: raw rows go through pinned staging to the device as they are, a kernel turns them into tiles
 * there (kernels/params.h), while the host copies the next piece. What no layout can hold is decoded here and becomes
 * F16. */
#include <math.h>
#include <string.h>

#include "backend/cuda/cuda_impl.h"
#include "base/ck.h"
#include "base/mem.h"
#include "quant/blocks.h"

/* Formats with a layout of their own. table: values + 128 of the 16 codes (U4, NV4); factor: what the codes are too
 * large by. */
typedef struct layout_row {
    quant_id format;
    uint32_t layout;
    const char *name;
    int8_t table[16];
    float factor;
} layout_row;

#define TABLE_Q4_0 {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}
static const layout_row layouts[] = {
    {QUANT_F32, LAY_F16, "F16", {0}, 1},
    {QUANT_F16, LAY_F16, "F16", {0}, 1},
    {QUANT_BF16, LAY_F16, "F16", {0}, 1},
    {QUANT_Q8_0, LAY_I8, "I8", {0}, 1},
    {QUANT_Q5_0, LAY_I8, "I8", {0}, 1},
    {QUANT_Q4_0, LAY_U4, "U4", TABLE_Q4_0, 1},
    {QUANT_IQ4_NL, LAY_U4, "U4", BLK_IQ4_VALUES, 1},
    {QUANT_IQ4_XS, LAY_U4, "U4", BLK_IQ4_VALUES, 1},
    {QUANT_MXFP4, LAY_U4, "U4", BLK_E2M1_X2, 1}, /* the block's power of two is halved instead */
    {QUANT_NVFP4, LAY_NV4, "NV4", BLK_E2M1_X2, 0.5f},
    {QUANT_Q4_K, LAY_Q4K, "Q4K", {0}, 1},
    {QUANT_Q5_K, LAY_Q5K, "Q5K", {0}, 1},
    {QUANT_Q6_K, LAY_Q6K, "Q6K", {0}, 1},
    {QUANT_Q3_K, LAY_Q6K, "Q6K", {0}, 1},
    {QUANT_F8_E4M3, LAY_F8, "F8", {0}, 1},
};
/* The same with --precise, which keeps every bit; the first is also for what must be decoded here. */
static const layout_row exact_layouts[] = {
    {QUANT_F32, LAY_F32, "F32", {0}, 1},
    {QUANT_BF16, LAY_BF16, "BF16", {0}, 1},
};
static const uint32_t tile_bytes[LAY_COUNT] = {
    TILE_BYTES_F16, TILE_BYTES_I8,  TILE_BYTES_U4, TILE_BYTES_NV4,  TILE_BYTES_Q4K,
    TILE_BYTES_Q5K, TILE_BYTES_Q6K, TILE_BYTES_F8, TILE_BYTES_BF16, TILE_BYTES_F32};

static const layout_row *find_layout(const backend *b, quant_id f)
{
    if (b->precise && f == QUANT_IQ4_XS) /* a block's scale times a group's has more bits than U4's f16 */
        return NULL;
    for (size_t i = 0; b->precise && i < CK_COUNT(exact_layouts); i++)
        if (exact_layouts[i].format == f)
            return &exact_layouts[i];
    for (size_t i = 0; i < CK_COUNT(layouts); i++)
        if (layouts[i].format == f)
            return &layouts[i];
    return NULL;
}

static bool is_matrix(plan_op_kind k)
{
    return k == OP_LINEAR || k == OP_EMBED || k == OP_EXPERT_LINEAR || k == OP_HEAD_LINEAR;
}

/* Can the parts besides the data be expressed as one factor a row? */
static bool row_scales_only(const weight *w)
{
    for (uint32_t i = 0; i < w->n_parts; i++) {
        const weight_part *p = &w->part[i];
        if (p->role == PART_DATA ? p->transposed : p->role == PART_ZERO)
            return false;
        if ((p->role == PART_SCALE || p->role == PART_SCALE2) &&
            (p->gran_cols != 0 || p->transposed || p->packed_rows ||
             (p->type != QUANT_F32 && p->type != QUANT_BF16 && p->type != QUANT_F16)))
            return false;
    }
    return true;
}

/* row[e * rows + r] *= the part's factor of that row */
static void apply_scale(const weight *w, const weight_part *p, float *row)
{
    const quant_fmt *f = quant_get(p->type);
    uint64_t gran = p->gran_rows ? p->gran_rows : w->rows, per = (w->rows + gran - 1) / gran;
    for (uint64_t x = 0; x < w->n_expert; x++)
        for (uint64_t r = 0; r < w->rows; r++) {
            uint64_t at = x * per + r / gran;
            const uint8_t *src = NULL;
            for (uint32_t i = 0; i < p->n_slices; at -= p->slices[i++].rows)
                if (at < p->slices[i].rows) {
                    src = p->slices[i].data + at * p->slices[i].stride;
                    break;
                }
            float v = 1;
            if (src)
                f->decode(src, &v, 1);
            row[x * w->rows + r] *= p->reciprocal ? 1.0f / v : v;
        }
}

/* ---- staging ---------------------------------------------------------------------------------------------------- */
static imp_status stage(backend *b, int *out, imp_err *e)
{
    int i = b->stage_next;
    imp_status s = IMP_OK;
    if (!b->stage_host[i]) {
        s = cu_check(&b->cu, b->cu.MemAllocHost(&b->stage_host[i], STAGE_BYTES), e, "allocating pinned memory");
        if (s == IMP_OK)
            s = cuda_alloc(b, STAGE_BYTES, NULL, &b->stage_dev[i], "upload staging", e);
        if (s == IMP_OK)
            s = cu_check(&b->cu, b->cu.EventCreate(&b->stage_done[i], CU_EVENT_DISABLE_TIMING), e, "creating an event");
    }
    if (s == IMP_OK && b->stage_used[i])
        s = cu_check(&b->cu, b->cu.EventSynchronize(b->stage_done[i]), e, "uploading");
    b->stage_next = (i + 1) % N_STAGE;
    *out = i;
    return s;
}

static imp_status stage_send(backend *b, int i, uint64_t n, imp_err *e)
{
    return cu_check(&b->cu, b->cu.MemcpyHtoDAsync(b->stage_dev[i], b->stage_host[i], n, b->up), e, "uploading");
}
static imp_status stage_end(backend *b, int i, imp_err *e)
{
    b->stage_used[i] = true;
    return cu_check(&b->cu, b->cu.EventRecord(b->stage_done[i], b->up), e, "uploading");
}

static imp_status send_floats(backend *b, CUdeviceptr dst, const float *v, uint64_t n, imp_err *e)
{
    imp_status s = IMP_OK;
    for (uint64_t at = 0; at < n && s == IMP_OK;) {
        uint64_t k = n - at < STAGE_BYTES / 4 ? n - at : STAGE_BYTES / 4;
        int i;
        s = stage(b, &i, e);
        if (s != IMP_OK)
            return s;
        memcpy(b->stage_host[i], v + at, k * 4);
        s = cu_check(&b->cu, b->cu.MemcpyHtoDAsync(dst + at * 4, b->stage_host[i], k * 4, b->up), e, "uploading");
        if (s == IMP_OK)
            s = stage_end(b, i, e);
        at += k;
    }
    return s;
}

/* ---- matrices --------------------------------------------------------------------------------------------------- */
typedef struct job {
    backend *b;
    const weight *w;
    bweight *o;
    uint64_t row0, n_rows, col0; /* of an expert */
    bool native;
} job;

/* A copy out of the page cache is bound by one core's loads and page faults: several cores share it. */
typedef struct copy_job {
    uint8_t *dst;
    const uint8_t *src;
    uint64_t n;
} copy_job;

static void copy_part(void *arg, int ith, int nth)
{
    const copy_job *c = arg;
    long begin, end;
    pool_share((long)c->n, 65536, ith, nth, &begin, &end);
    memcpy(c->dst + begin, c->src + begin, (size_t)(end - begin));
}

#define COPY_THREADS 8
#define COPY_SHARED (1u << 20) /* bytes from which it is worth waking the others */

static void copy_bytes(backend *b, uint8_t *dst, const uint8_t *src, uint64_t n)
{
    if (n >= COPY_SHARED && !b->copiers) {
        int most = pool_default_threads();
        if (pool_new(&b->copiers, most < COPY_THREADS ? most : COPY_THREADS, NULL) != IMP_OK)
            b->copiers = NULL; /* one core it is */
    }
    copy_job c = {dst, src, n};
    if (n >= COPY_SHARED && b->copiers)
        pool_run(b->copiers, copy_part, &c);
    else
        memcpy(dst, src, n);
}

void cuda_upload_done(backend *b)
{
    pool_free(b->copiers);
    b->copiers = NULL;
}

/* Rows [first, first + n) of the expert into pinned memory, packed. */
static imp_status gather_rows(job *j, uint64_t expert, uint64_t first, uint64_t n, uint64_t row_bytes, uint8_t *dst,
                              imp_err *e)
{
    const weight *w = j->w;
    uint64_t abs = expert * w->rows + j->row0 + first;
    if (!j->native) { /* decoded to f32, then the columns that are wanted */
        if (w->cols == j->o->d.cols)
            return weight_decode(w, abs, n, (float *)dst, e);
        float *row = mem_alloc(w->cols * sizeof *row);
        if (!row)
            return err_oom(e, "decoded row", w->cols * sizeof *row);
        imp_status s = IMP_OK;
        for (uint64_t i = 0; i < n && s == IMP_OK; i++) {
            s = weight_decode(w, abs + i, 1, row, e);
            memcpy(dst + i * row_bytes, row + j->col0, row_bytes);
        }
        mem_free(row);
        return s;
    }
    const weight_part *p = weight_find(w, PART_DATA);
    uint64_t at = abs;
    uint32_t i = 0;
    while (i < p->n_slices && at >= p->slices[i].rows)
        at -= p->slices[i++].rows;
    for (uint64_t done = 0; done < n; i++, at = 0) {
        if (i >= p->n_slices)
            return err_set(e, IMP_E_INTERNAL, "cuda: %s: row %llu is not in any slice", w->name,
                           (unsigned long long)(abs + done));
        const weight_slice *sl = &p->slices[i];
        uint64_t k = sl->rows - at < n - done ? sl->rows - at : n - done;
        if (sl->stride == row_bytes)
            copy_bytes(j->b, dst + done * row_bytes, sl->data + at * sl->stride, k * row_bytes);
        else
            for (uint64_t r = 0; r < k; r++)
                memcpy(dst + (done + r) * row_bytes, sl->data + (at + r) * sl->stride, row_bytes);
        done += k;
    }
    return IMP_OK;
}

static imp_status send_tiles(job *j, imp_err *e)
{
    backend *b = j->b;
    bweight *o = j->o;
    uint64_t row_bytes = 0;
    if (!quant_bytes(j->native ? j->w->format : QUANT_F32, o->d.cols, &row_bytes) || !row_bytes ||
        row_bytes > STAGE_BYTES)
        return err_set(e, IMP_E_UNSUPPORTED, "cuda: %s: a row of %u columns cannot be uploaded", j->w->name, o->d.cols);
    uint64_t per = STAGE_BYTES / row_bytes;
    per = per > 32768 ? 32768 : per;
    imp_status s = IMP_OK;
    for (uint64_t x = 0; x < o->n_expert; x++)
        for (uint64_t r = 0; r < j->n_rows && s == IMP_OK; r += per) {
            uint64_t n = j->n_rows - r < per ? j->n_rows - r : per;
            int i;
            s = stage(b, &i, e);
            if (s == IMP_OK)
                s = gather_rows(j, x, r, n, row_bytes, b->stage_host[i], e);
            if (s == IMP_OK)
                s = stage_send(b, i, n * row_bytes, e);
            repack_args a = {.src = b->stage_dev[i], .src_stride = row_bytes, .w = o->d,
                             .dst = o->d.tiles + x * o->d.expert_stride,
                             .format = j->native ? j->w->format : QUANT_F32, .row0 = (uint32_t)r,
                             .n_rows = (uint32_t)n, .cols = o->d.cols, .peak = o->peak};
            if (s == IMP_OK)
                s = cuda_launch(b, b->up, K_repack, div_up(div_up(o->d.cols, 16), 128), (uint32_t)n, 1, 128, 0, false,
                                &a, e);
            if (s == IMP_OK)
                s = stage_end(b, i, e);
        }
    return s;
}

/* Layouts whose tiles have a unit (params.h): it follows from the largest factor, which the device finds on the way. */
static bool has_unit(uint32_t layout)
{
    return layout == LAY_I8 || layout == LAY_Q4K || layout == LAY_Q5K || layout == LAY_Q6K;
}

static imp_status peak_begin(job *j, imp_err *e)
{
    backend *b = j->b;
    imp_status s = cuda_alloc(b, sizeof(uint32_t), NULL, &j->o->peak, j->w->name, e);
    if (s != IMP_OK)
        return s;
    return cu_check(&b->cu, b->cu.MemsetD8Async(j->o->peak, 0, sizeof(uint32_t), b->up), e, "clearing %s", j->w->name);
}
static imp_status peak_end(job *j, uint64_t n_tile, imp_err *e)
{
    rescale_args a = {.w = j->o->d, .peak = j->o->peak, .n_tile = n_tile};
    const uint64_t blocks = (n_tile * TILE_ROWS + 255) / 256;
    if (blocks > INT32_MAX)
        return err_set(e, IMP_E_UNSUPPORTED, "cuda: %s is too large", j->w->name);
    return cuda_launch(j->b, j->b->up, K_rescale, (uint32_t)blocks, 1, 1, 256, 0, false, &a, e);
}

imp_status cuda_weight_unit(backend *b, bweight *w, imp_err *e)
{
    if (!w->peak)
        return IMP_OK;
    uint32_t peak = 0;
    CUresult r = b->cu.MemcpyDtoHAsync(&peak, w->peak, sizeof peak, b->up);
    imp_status s = cu_check(&b->cu, r, e, "fetching a matrix' unit");
    if (s == IMP_OK)
        s = cu_check(&b->cu, b->cu.StreamSynchronize(b->up), e, "fetching a matrix' unit");
    if (s != IMP_OK)
        return s;
    w->d.unit = ldexpf(1.0f, PEAK_UNIT(peak));
    cuda_free(b, w->peak, 0, NULL);
    w->peak = 0;
    return IMP_OK;
}

/* How K is cut: a function of the shape alone, because it decides the order of sums (see gemv.cu). Eight warps a row
 * tile where K is long enough: fewer were slower on every shape tried. Four groups, each a block's work in batch.cu,
 * where there are too few rows to give every multiprocessor some. */
static void choose_cut(const backend *b, dweight *d)
{
    d->seg = d->k_tiles >= 8 ? 8 : d->k_tiles >= 4 ? 4 : d->k_tiles >= 2 ? 2 : 1;
    d->z = d->row_tiles > 3 * (uint32_t)b->n_sm ? 1 : d->seg < 4 ? d->seg : 4;
}

static imp_status upload_matrix(job *j, const layout_row *lay, imp_err *e)
{
    backend *b = j->b;
    const weight *w = j->w;
    bweight *o = j->o;
    dweight *d = &o->d;
    d->layout = lay->layout;
    d->tile_bytes = tile_bytes[lay->layout];
    d->rows = (uint32_t)j->n_rows;
    d->row_tiles = div_up(d->rows, TILE_ROWS);
    d->k_tiles = div_up(d->cols, TILE_COLS);
    choose_cut(b, d);
    d->unit = 1;
    o->layout = lay->name;
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 4; k++)
            d->lut[i] |= (uint32_t)(uint8_t)(lay->table[4 * i + k] + 128) << 8 * k;
    uint64_t total = 0;
    if (!ck_mul((uint64_t)d->row_tiles * d->k_tiles, d->tile_bytes, &d->expert_stride) ||
        !ck_mul(d->expert_stride, w->n_expert, &total))
        return err_set(e, IMP_E_UNSUPPORTED, "cuda: %s is too large", w->name);
    o->n_bytes = total;
    imp_status s = cuda_alloc(b, total, &b->weights, &o->mem[0], w->name, e);
    d->tiles = o->mem[0];
    bool whole = d->rows % TILE_ROWS == 0 && d->cols % TILE_COLS == 0;
    if (s == IMP_OK && !whole)
        s = cu_check(&b->cu, b->cu.MemsetD8Async(d->tiles, 0, total, b->up), e, "clearing %s", w->name);
    if (s == IMP_OK && has_unit(d->layout) && !b->precise)
        s = peak_begin(j, e);
    if (s == IMP_OK)
        s = send_tiles(j, e);
    if (s == IMP_OK && o->peak)
        s = peak_end(j, total / d->tile_bytes, e);
    uint64_t n = w->n_expert * w->rows;
    float *v = s == IMP_OK ? mem_alloc(n * sizeof *v) : NULL;
    if (s == IMP_OK && !v)
        s = err_oom(e, "row scales", n * sizeof *v);
    bool scaled = lay->factor != 1.0f && j->native;
    for (uint64_t i = 0; i < n && s == IMP_OK; i++)
        v[i] = j->native ? lay->factor : 1.0f;
    for (uint32_t i = 0; j->native && i < w->n_parts && s == IMP_OK; i++)
        if (w->part[i].role == PART_SCALE || w->part[i].role == PART_SCALE2) {
            scaled = true;
            apply_scale(w, &w->part[i], v);
        }
    if (s == IMP_OK && scaled) {
        s = cuda_alloc(b, n * 4, &b->weights, &o->mem[1], w->name, e);
        d->row_scale = o->mem[1];
        if (s == IMP_OK)
            s = send_floats(b, d->row_scale, v + j->row0, n - j->row0, e);
        o->n_bytes += n * 4;
    }
    if (s == IMP_OK && weight_bias(w, v)) {
        s = cuda_alloc(b, n * 4, &b->weights, &o->mem[2], w->name, e);
        d->bias = o->mem[2];
        if (s == IMP_OK)
            s = send_floats(b, d->bias, v + j->row0, n - j->row0, e);
        o->n_bytes += n * 4;
    }
    mem_free(v);
    return s;
}

static imp_status upload_vector(backend *b, const weight *w, bweight *o, imp_err *e)
{
    o->is_vec = true;
    o->layout = "F32";
    o->n_vec = w->n_expert * w->rows * w->cols;
    if (o->n_vec > 1u << 26)
        return err_set(e, IMP_E_UNSUPPORTED, "cuda: %s: %llu values for an operation that takes a vector", w->name,
                       (unsigned long long)o->n_vec);
    float *v = mem_alloc(o->n_vec * sizeof *v);
    if (!v)
        return err_oom(e, w->name, o->n_vec * sizeof *v);
    imp_status s = weight_decode(w, 0, w->n_expert * w->rows, v, e);
    o->n_bytes = o->n_vec * 4;
    if (s == IMP_OK)
        s = cuda_alloc(b, o->n_bytes, &b->weights, &o->mem[0], w->name, e);
    o->vec = o->mem[0];
    if (s == IMP_OK)
        s = send_floats(b, o->vec, v, o->n_vec, e);
    mem_free(v);
    if (s == IMP_OK && weight_find(w, PART_BIAS)) {
        uint64_t n = w->n_expert * w->rows;
        float *bias = mem_alloc(n * sizeof *bias);
        if (!bias)
            return err_oom(e, w->name, n * sizeof *bias);
        if (weight_bias(w, bias)) {
            s = cuda_alloc(b, n * 4, &b->weights, &o->mem[2], w->name, e);
            o->d.bias = o->mem[2];
            if (s == IMP_OK)
                s = send_floats(b, o->d.bias, bias, n, e);
            o->n_bytes += n * 4;
        }
        mem_free(bias);
    }
    return s;
}

uint64_t cuda_weight_bytes(const bweight *w) { return w->n_bytes; }

void cuda_weight_free(backend *b, bweight *w)
{
    if (!w)
        return;
    if (cuda_enter(b, NULL) == IMP_OK) {
        b->cu.StreamSynchronize(b->up);
        for (size_t i = 0; i < CK_COUNT(w->mem); i++)
            cuda_free(b, w->mem[i], 0, NULL);
        cuda_free(b, w->peak, 0, NULL);
    }
    b->weights -= w->n_bytes < b->weights ? w->n_bytes : b->weights;
    mem_free(w);
}

imp_status cuda_upload(backend *b, const weight *w, plan_op_kind hint, uint64_t row_begin, uint64_t row_end,
                       uint64_t col_begin, uint64_t col_end, bweight **out, imp_err *e)
{
    imp_status s = cuda_enter(b, e);
    if (s != IMP_OK)
        return s;
    if (row_begin == 0 && row_end == 0)
        row_end = w->rows;
    if (col_begin == 0 && col_end == 0)
        col_end = w->cols;
    if (row_end > w->rows || row_begin >= row_end || col_end > w->cols || col_begin >= col_end ||
        w->cols > 1u << 30 || w->rows > 1u << 30)
        return err_set(e, IMP_E_USAGE, "cuda: %s: rows or columns outside of %llu x %llu", w->name,
                       (unsigned long long)w->rows, (unsigned long long)w->cols);
    bweight *o = mem_calloc(1, sizeof *o);
    if (!o)
        return err_oom(e, "device weight", sizeof *o);
    o->n_expert = w->n_expert;
    if (!is_matrix(hint)) {
        s = upload_vector(b, w, o, e);
    } else {
        const layout_row *lay = find_layout(b, w->format);
        job j = {.b = b, .w = w, .o = o, .row0 = row_begin, .n_rows = row_end - row_begin, .col0 = col_begin};
        o->d.cols = (uint32_t)(col_end - col_begin);
        j.native = lay && row_scales_only(w) && o->d.cols == w->cols;
        if (!j.native)
            lay = b->precise ? &exact_layouts[0] : &layouts[0];
        if (j.n_rows != w->rows && w->n_expert > 1)
            s = err_set(e, IMP_E_UNSUPPORTED, "cuda: %s: a row range of stacked experts", w->name);
        else
            s = upload_matrix(&j, lay, e);
    }
    if (s != IMP_OK) {
        cuda_weight_free(b, o);
        return s;
    }
    *out = o;
    return IMP_OK;
}

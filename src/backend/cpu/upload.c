/* Weights: packed for the integer kernels, or left where they lie. */
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/ck.h"
#include "base/file.h"
#include "base/mem.h"

enum { MAX_VECTOR = 1 << 24 /* values of a weight that is not a matrix */ };

static bool is_matrix_hint(plan_op_kind k)
{
    return k == OP_LINEAR || k == OP_EMBED || k == OP_EXPERT_LINEAR || k == OP_HEAD_LINEAR;
}

/* Only data (and a bias): no scale parts, no transposition. */
static bool is_simple(const weight *w)
{
    for (uint32_t i = 0; i < w->n_parts; i++)
        if (w->part[i].role != PART_DATA && w->part[i].role != PART_BIAS && w->part[i].role != PART_INPUT_SCALE)
            return false;
    const weight_part *d = weight_find(w, PART_DATA);
    return d && !d->transposed;
}

typedef struct pack_job {
    bweight *b;
    const weight_part *data;
} pack_job;

static const uint8_t *row_at(const weight_part *p, uint64_t row)
{
    for (uint32_t i = 0; i < p->n_slices; row -= p->slices[i++].rows)
        if (row < p->slices[i].rows)
            return p->slices[i].data + row * p->slices[i].stride;
    return NULL;
}

static void pack_share(void *arg, int ith, int nth)
{
    pack_job *j = arg;
    bweight *b = j->b;
    long g0, g1;
    uint64_t rows = b->w->rows;
    pool_share(b->n_group * (long)b->w->n_expert, 1, ith, nth, &g0, &g1);
    for (long g = g0; g < g1; g++) {
        const uint8_t *row[16];
        uint64_t expert = (uint64_t)(g / b->n_group), first = (uint64_t)(g % b->n_group) * 16;
        for (uint64_t i = 0; i < 16; i++)
            row[i] = first + i < rows ? row_at(j->data, expert * rows + first + i) : NULL;
        uint8_t *panel = b->data + (uint64_t)g * b->panel;
        b->pack->pack(row, b->w->cols / b->pack->values, panel + b->pack->s_bytes, panel);
    }
}

/* ---- memory: a matrix of a small model is less than a huge page, so that they share slabs ------------------------ */
enum { SLAB_BYTES = 64 << 20 };

void cpu_slab_drop(cpu_slab *s)
{
    if (!s || --s->refs)
        return;
    mem_unmap(s->data, s->n_data);
    mem_free(s);
}

static cpu_slab *slab_new(uint64_t n)
{
    cpu_slab *s = mem_calloc(1, sizeof *s);
    if (!s)
        return NULL;
    *s = (cpu_slab){.data = mem_map(n), .n_data = n, .refs = 1};
    if (s->data)
        return s;
    mem_free(s);
    return NULL;
}

/* n bytes for b, 64-aligned. Pages are taken when they are written, so that the end of a slab that nobody uses costs
 * nothing. */
static bool slab_take(backend *be, bweight *b, uint64_t n)
{
    if (n > SLAB_BYTES / 2) { /* alone */
        b->slab = slab_new(n);
        b->data = b->slab ? b->slab->data : NULL;
        return b->data != NULL;
    }
    if (!be->slab || be->slab->n_data - be->slab->used < n) {
        cpu_slab *s = slab_new(SLAB_BYTES);
        if (!s)
            return false;
        cpu_slab_drop(be->slab);
        be->slab = s;
    }
    b->slab = be->slab;
    b->slab->refs++;
    b->data = b->slab->data + b->slab->used;
    b->slab->used += (n + 63) / 64 * 64;
    return true;
}

static imp_status pack(backend *be, bweight *b, imp_err *e)
{
    const weight *w = b->w;
    uint64_t n_super = w->cols / b->pack->values, panels;
    b->n_group = (long)((w->rows + 15) / 16);
    if (!ck_mul(n_super, b->pack->q_bytes + b->pack->s_bytes, &b->panel) || !ck_align(b->panel, 64, &b->panel) ||
        !ck_mul((uint64_t)b->n_group, w->n_expert, &panels) ||
        !ck_mul(panels, b->panel, &b->n_data))
        return err_set(e, IMP_E_LIMIT, "weight '%s': too large", w->name);
    if (!slab_take(be, b, b->n_data))
        return err_oom(e, w->name, b->n_data);
    pack_job j = {b, weight_find(w, PART_DATA)};
    pool_run(be->pool, pack_share, &j);
    for (uint32_t i = 0; i < j.data->n_slices; i++) { /* the file's pages have served */
        const weight_slice *s = &j.data->slices[i];
        if (s->map && s->stride) {
            const file_map *m = s->map;
            file_map_release(m, (uint64_t)(s->data - m->data), s->rows * s->stride);
        }
    }
    b->n_bytes += b->n_data;
    return IMP_OK;
}

static imp_status decode_vector(bweight *b, imp_err *e)
{
    uint64_t n;
    if (!ck_mul(b->w->rows, b->w->cols, &n) || !ck_mul(n, b->w->n_expert, &n) || n > MAX_VECTOR)
        return err_set(e, IMP_E_UNSUPPORTED, "weight '%s': cpu: too many values for a vector", b->w->name);
    b->vec = mem_aligned(64, (n + 16) * sizeof(float));
    if (!b->vec)
        return err_oom(e, b->w->name, n * sizeof(float));
    b->n_bytes += n * sizeof(float);
    return weight_decode(b->w, 0, b->w->rows * b->w->n_expert, b->vec, e);
}

static imp_status load_bias(bweight *b, imp_err *e)
{
    if (!weight_find(b->w, PART_BIAS))
        return IMP_OK;
    uint64_t n = b->w->rows * b->w->n_expert;
    b->bias = mem_aligned(64, (n + 16) * sizeof(float));
    if (!b->bias)
        return err_oom(e, b->w->name, n * sizeof(float));
    weight_bias(b->w, b->bias);
    b->n_bytes += n * sizeof(float);
    return IMP_OK;
}

imp_status cpu_upload(backend *be, const weight *w, plan_op_kind hint, uint64_t row_begin, uint64_t row_end,
                      uint64_t col_begin, uint64_t col_end, bweight **out, imp_err *e)
{
    *out = NULL;
    if (row_begin || col_begin || (row_end && row_end != w->rows) || (col_end && col_end != w->cols))
        return err_set(e, IMP_E_UNSUPPORTED, "weight '%s': cpu: parts of a weight are not supported", w->name);
    imp_status s = weight_check(w, e);
    if (s != IMP_OK)
        return s;
    bweight *b = mem_calloc(1, sizeof *b);
    if (!b)
        return err_oom(e, w->name, sizeof *b);
    b->w = w;
    b->plain = QUANT_NONE;
    const weight_part *data = weight_find(w, PART_DATA);
    const cpu_pack *p = be->mm && is_simple(w) ? cpu_pack_find(data->type) : NULL;
    if (!is_matrix_hint(hint)) {
        s = decode_vector(b, e);
    } else {
        if (is_simple(w) && (data->type == QUANT_F32 || data->type == QUANT_F16 || data->type == QUANT_BF16))
            b->plain = data->type;
        if (hint != OP_EMBED && p && be->mm->fn[CPU_Q22][p - cpu_pack_table] && w->cols % p->values == 0) {
            b->pack = p;
            s = pack(be, b, e);
        } else {
            b->n_bytes += w->n_bytes;
        }
        if (s == IMP_OK)
            s = load_bias(b, e);
    }
    if (s != IMP_OK) {
        be->n_weights += b->n_bytes;
        cpu_weight_free(be, b);
        return s;
    }
    be->n_weights += b->n_bytes;
    *out = b;
    return IMP_OK;
}

uint64_t cpu_weight_bytes(const bweight *w) { return w->n_bytes; }

void cpu_weight_free(backend *b, bweight *w)
{
    if (!w)
        return;
    b->n_weights -= w->n_bytes;
    cpu_slab_drop(w->slab);
    mem_free(w->bias);
    mem_free(w->vec);
    mem_free(w);
}

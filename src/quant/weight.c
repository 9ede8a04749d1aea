#include "quant/weight.h"

#include "base/ck.h"
#include "base/file.h"

/* Scales and zero points are plain types or small packed ones; the widest block among those is I4's. */
enum { MAX_ELEMENT_BLOCK = 8 };

static const char *const ROLE_NAME[] = {"data", "scale", "second scale", "zero point", "bias", "input scale"};

const weight_part *weight_find(const weight *w, weight_role role)
{
    for (uint32_t i = 0; i < w->n_parts; i++)
        if (w->part[i].role == role)
            return &w->part[i];
    return NULL;
}

/* The slice that holds a part's row, and the row's number in it. */
static const weight_slice *find_slice(const weight_part *p, uint64_t *row)
{
    for (uint32_t i = 0; i < p->n_slices; i++) {
        if (*row < p->slices[i].rows)
            return &p->slices[i];
        *row -= p->slices[i].rows;
    }
    return NULL;
}

const uint8_t *weight_row(const weight *w, uint64_t row)
{
    const weight_part *p = weight_find(w, PART_DATA);
    const weight_slice *s = p && !p->transposed ? find_slice(p, &row) : NULL;
    return s ? s->data + row * s->stride : NULL;
}

/* Element (row of the slice, col) of a scale-like part. */
static float element(const weight_part *p, const quant_fmt *fmt, const weight_slice *s, uint64_t row, uint64_t col)
{
    float v[MAX_ELEMENT_BLOCK];
    if (p->packed_rows) {
        fmt->decode(s->data + row / fmt->block * s->stride + col * fmt->bytes, v, fmt->block);
        return v[row % fmt->block];
    }
    if (p->transposed)
        fmt->decode(s->data + col * s->stride + row * fmt->bytes, v, 1);
    else
        fmt->decode(s->data + row * s->stride + col / fmt->block * fmt->bytes, v, fmt->block);
    return v[col % fmt->block];
}

/* How many elements lie along an axis of n, one for every `gran`. */
static uint64_t n_along(uint64_t n, uint32_t gran)
{
    return gran == 0 ? 1 : n / gran + (n % gran != 0);
}

static void apply(const weight *w, const weight_part *p, uint64_t row, float *dst)
{
    const quant_fmt *fmt = quant_get(p->type);
    uint64_t part_row = row / w->rows * n_along(w->rows, p->gran_rows); /* the expert's first */
    if (p->gran_rows)
        part_row += row % w->rows / p->gran_rows;
    const weight_slice *s = find_slice(p, &part_row);
    uint64_t step = p->gran_cols ? p->gran_cols : w->cols;
    for (uint64_t c = 0, k = 0; c < w->cols; k++) {
        float v = element(p, fmt, s, part_row, k);
        uint64_t end = step < w->cols - c ? c + step : w->cols;
        if (p->role == PART_ZERO)
            for (; c < end; c++)
                dst[c] -= v;
        else if (p->reciprocal)
            for (; c < end; c++)
                dst[c] /= v;
        else
            for (; c < end; c++)
                dst[c] *= v;
    }
}

static void decode_row(const weight *w, const weight_part *p, const quant_fmt *fmt, uint64_t row, float *dst)
{
    const weight_slice *s = find_slice(p, &row);
    if (!p->transposed)
        fmt->decode(s->data + row * s->stride, dst, w->cols);
    else
        for (uint64_t c = 0; c < w->cols; c++)
            fmt->decode(s->data + c * s->stride + row * fmt->bytes, dst + c, 1);
}

imp_status weight_decode(const weight *w, uint64_t row, uint64_t n, float *dst, imp_err *e)
{
    static const weight_role ORDER[] = {PART_ZERO, PART_SCALE, PART_SCALE2};
    const weight_part *data = weight_find(w, PART_DATA);
    uint64_t total;
    if (!data || !ck_mul(w->rows, w->n_expert, &total) || !ck_range(row, n, total))
        return err_set(e, IMP_E_INTERNAL, "weight '%s': rows %llu + %llu are not in it", w->name ? w->name : "?",
                       (unsigned long long)row, (unsigned long long)n);
    const quant_fmt *fmt = quant_get(data->type);
    for (uint64_t i = 0; i < n; i++) {
        float *out = dst + i * w->cols;
        decode_row(w, data, fmt, row + i, out);
        for (size_t k = 0; k < CK_COUNT(ORDER); k++) {
            const weight_part *p = weight_find(w, ORDER[k]);
            if (p)
                apply(w, p, row + i, out);
        }
    }
    return IMP_OK;
}

bool weight_bias(const weight *w, float *dst)
{
    const weight_part *p = weight_find(w, PART_BIAS);
    if (!p)
        return false;
    const quant_fmt *fmt = quant_get(p->type);
    for (uint32_t i = 0; i < p->n_slices; i++)
        for (uint64_t r = 0; r < p->slices[i].rows; r++)
            *dst++ = element(p, fmt, &p->slices[i], r, 0);
    return true;
}

/* ---- weight_check ---- */

/* Bytes from a slice's first to its last, given `cols` elements a row; false when the numbers make no sense. */
static bool slice_extent(const weight_part *p, const quant_fmt *fmt, const weight_slice *s, uint64_t cols,
                         uint64_t *out)
{
    uint64_t lines = s->rows, line_bytes; /* a line: what lies together, `stride` from the next */
    if (p->transposed) {
        lines = cols;
        if (!ck_mul(s->rows, fmt->bytes, &line_bytes))
            return false;
    } else if (p->packed_rows) {
        lines = s->rows / fmt->block + (s->rows % fmt->block != 0);
        if (!ck_mul(cols, fmt->bytes, &line_bytes))
            return false;
    } else if (!ck_mul(cols / fmt->block + (cols % fmt->block != 0), fmt->bytes, &line_bytes)) {
        return false;
    }
    if (s->stride != 0 && s->stride < line_bytes)
        return false;
    uint64_t before_last;
    return ck_mul(lines - 1, s->stride, &before_last) && ck_add(before_last, line_bytes, out);
}

static imp_status check_slices(const weight *w, const weight_part *p, const quant_fmt *fmt, uint64_t rows,
                               uint64_t cols, imp_err *e)
{
    const char *role = ROLE_NAME[p->role];
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->n_slices; i++) {
        const weight_slice *s = &p->slices[i];
        uint64_t extent;
        if (!s->data || s->rows == 0 || !ck_add(sum, s->rows, &sum))
            return err_set(e, IMP_E_MODEL, "weight '%s': slice %u of its %s is empty", w->name, i, role);
        if (!slice_extent(p, fmt, s, cols, &extent))
            return err_set(e, IMP_E_MODEL,
                           "weight '%s': slice %u of its %s: %llu x %llu elements of %s do not fit a stride of %llu",
                           w->name, i, role, (unsigned long long)s->rows, (unsigned long long)cols, fmt->name,
                           (unsigned long long)s->stride);
        const file_map *map = s->map;
        if (map && ((uintptr_t)s->data < (uintptr_t)map->data ||
                    !ck_range((uintptr_t)s->data - (uintptr_t)map->data, extent, map->size)))
            return err_set(e, IMP_E_MODEL, "weight '%s': slice %u of its %s runs past the end of the file", w->name, i,
                           role);
    }
    if (sum != rows)
        return err_set(e, IMP_E_MODEL, "weight '%s': its %s: wanted %llu rows, got %llu", w->name, role,
                       (unsigned long long)rows, (unsigned long long)sum);
    return IMP_OK;
}

static imp_status check_part(const weight *w, const weight_part *p, uint64_t total, imp_err *e)
{
    if ((size_t)p->role >= CK_COUNT(ROLE_NAME))
        return err_set(e, IMP_E_INTERNAL, "weight '%s': a part of unknown role %d", w->name, (int)p->role);
    const char *role = ROLE_NAME[p->role];
    const quant_fmt *fmt = quant_get(p->type);
    if (!fmt || !fmt->decode)
        return err_set(e, IMP_E_UNSUPPORTED, "weight '%s': its %s has type %d, which cannot be read", w->name, role,
                       (int)p->type);
    if (weight_find(w, p->role) != p)
        return err_set(e, IMP_E_MODEL, "weight '%s': more than one %s", w->name, role);
    if (p->n_slices == 0 || !p->slices)
        return err_set(e, IMP_E_MODEL, "weight '%s': its %s is empty", w->name, role);
    if (p->transposed && (fmt->block != 1 || p->packed_rows))
        return err_set(e, IMP_E_UNSUPPORTED, "weight '%s': its %s is transposed, which %s cannot be", w->name, role,
                       fmt->name);

    if (p->role == PART_DATA) {
        if (p->type != w->format || p->packed_rows || p->gran_rows != 1 || p->gran_cols != 1)
            return err_set(e, IMP_E_INTERNAL, "weight '%s': its data is not described as %s", w->name, fmt->name);
        if (!p->transposed && w->cols % fmt->block != 0)
            return err_set(e, IMP_E_MODEL, "weight '%s': %llu columns are no multiple of the %u values of a %s block",
                           w->name, (unsigned long long)w->cols, fmt->block, fmt->name);
        return check_slices(w, p, fmt, total, w->cols, e);
    }
    if (fmt->block > MAX_ELEMENT_BLOCK || (p->packed_rows && fmt->id != QUANT_I4))
        return err_set(e, IMP_E_UNSUPPORTED, "weight '%s': its %s has type %s", w->name, role, fmt->name);
    if (p->role == PART_INPUT_SCALE) /* the activations' own: its shape is the backend's business */
        return IMP_OK;
    if (p->role == PART_BIAS)
        return check_slices(w, p, fmt, total, 1, e);
    return check_slices(w, p, fmt, n_along(w->rows, p->gran_rows) * w->n_expert, n_along(w->cols, p->gran_cols), e);
}

imp_status weight_check(const weight *w, imp_err *e)
{
    uint64_t total, values;
    if (!w->name)
        return err_set(e, IMP_E_INTERNAL, "weight without a name");
    if (w->n_expert == 0 || w->rows == 0 || w->cols == 0 || !ck_mul(w->rows, w->n_expert, &total) ||
        !ck_mul(total, w->cols, &values) || values > SIZE_MAX / sizeof(float))
        return err_set(e, IMP_E_MODEL, "weight '%s': %u x %llu x %llu is no possible size", w->name, w->n_expert,
                       (unsigned long long)w->rows, (unsigned long long)w->cols);
    if (w->n_parts > WEIGHT_MAX_PARTS || !weight_find(w, PART_DATA))
        return err_set(e, IMP_E_INTERNAL, "weight '%s': %u parts without data", w->name, w->n_parts);
    for (uint32_t i = 0; i < w->n_parts; i++) {
        imp_status s = check_part(w, &w->part[i], total, e);
        if (s)
            return s;
    }
    return IMP_OK;
}

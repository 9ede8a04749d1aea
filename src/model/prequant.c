#include "model/prequant.h"

#include <stdio.h>
#include <string.h>

/* Where data can stand instead of X.weight, and how its bytes are read. Sources: NVIDIA Model Optimizer (.weight U8),
 * compressed-tensors (.weight_packed), gpt-oss (_blocks). */
typedef struct data_row { const char *suffix; quant_id stored, read; } data_row;
static const data_row data_rows[] = {
    {".weight", QUANT_U8, QUANT_E2M1}, {".weight_packed", QUANT_U8, QUANT_E2M1},
    {".weight_packed", QUANT_I32, QUANT_I4}, {"_blocks", QUANT_U8, QUANT_E2M1},
};

/* Scale tensors. `inverse` in a name says what a writer divided by; whether imp multiplies is the column
 * `reciprocal`. */
typedef struct scale_row { const char *suffix; weight_role role; bool reciprocal; } scale_row;
static const scale_row scale_rows[] = {
    {".weight_scale", PART_SCALE, false}, {".weight_scale_inv", PART_SCALE, false},
    {".weight_scale_2", PART_SCALE2, false}, {".weight_global_scale", PART_SCALE2, true},
    {"_scales", PART_SCALE, false}, {".weight_zero_point", PART_ZERO, false},
};

/* Beside them, without effect on the values: scales for activations and caches, which imp keeps in better formats. */
static const char *const silent[] = {".input_scale", ".input_global_scale", ".activation_scale", ".weight_shape",
                                     ".k_scale", ".v_scale", ".output_scale"};
/* Beside them, with an effect that imp does not know. */
static const char *const unknown[] = {".weight_g_idx", ".qzeros", ".qweight", ".g_idx", ".weight_scale_3"};

static mf_tensor *sibling(modelfile *mf, const char *name, const char *suffix)
{
    char key[384];
    size_t n = strlen(name);
    if (n > 7 && strcmp(name + n - 7, ".weight") == 0)
        n -= 7;
    if (n > 300)
        return NULL;
    snprintf(key, sizeof key, "%.*s%s", (int)n, name, suffix);
    return mf_tensor_find(mf, key);
}

static bool has_scales(modelfile *mf, const char *name)
{
    for (size_t i = 0; i < sizeof scale_rows / sizeof *scale_rows; i++)
        if (sibling(mf, name, scale_rows[i].suffix))
            return true;
    return false;
}

bool prequant_has(modelfile *mf, const char *name)
{
    if (mf_tensor_find(mf, name))
        return true;
    for (size_t i = 0; i < sizeof data_rows / sizeof *data_rows; i++)
        if (sibling(mf, name, data_rows[i].suffix))
            return true;
    return false;
}

static uint64_t count(const mf_tensor *t)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        n *= t->dim[i]; /* the loader checked that the product fits */
    return n;
}

static void shape_text(const mf_tensor *t, char *out, size_t n)
{
    size_t len = 0;
    snprintf(out, n, "scalar");
    for (uint32_t i = t->n_dims; i > 0 && len < n; i--) {
        int k = snprintf(out + len, n - len, "%s%llu", i == t->n_dims ? "" : "x", (unsigned long long)t->dim[i - 1]);
        len += k > 0 ? (size_t)k : 0;
    }
}

static imp_status misshapen(const mf_tensor *t, uint32_t n_expert, uint64_t rows, uint64_t cols, imp_err *e)
{
    char got[96];
    shape_text(t, got, sizeof got);
    if (n_expert > 1)
        return err_set(e, IMP_E_MODEL, "tensor %s: wanted shape %ux%llux%llu, got %s", t->name, n_expert,
                       (unsigned long long)rows, (unsigned long long)cols, got);
    if (rows > 1)
        return err_set(e, IMP_E_MODEL, "tensor %s: wanted shape %llux%llu, got %s", t->name, (unsigned long long)rows,
                       (unsigned long long)cols, got);
    return err_set(e, IMP_E_MODEL, "tensor %s: wanted %llu values, got shape %s", t->name, (unsigned long long)cols,
                   got);
}

/* The data tensor's shape, in values: cols counts what is packed. Trailing dimensions of one are allowed ([C,1,4]
 * filters), and gpt-oss splits its columns over two. */
static bool data_fits(const mf_tensor *t, quant_id read, uint32_t n_expert, uint64_t rows, uint64_t cols,
                      bool transposed)
{
    uint64_t pack = read == QUANT_E2M1 && t->type == QUANT_U8 ? 2 : read == QUANT_I4 ? 8 : 1;
    uint64_t row = transposed ? rows : cols, want = n_expert * rows * cols;
    if (row % pack || count(t) != want / pack)
        return false;
    uint64_t first = t->dim[0];
    for (uint32_t i = 1; i < t->n_dims && first < row / pack; i++)
        first *= t->dim[i];
    return first == row / pack || (rows == 1 && n_expert == 1);
}

/* A scale's granularity, from its shape against the matrix's. */
static imp_status granularity(const mf_tensor *t, uint32_t n_expert, uint64_t rows, uint64_t cols, pq_part *p,
                              imp_err *e)
{
    uint64_t n = count(t), per = n / n_expert;
    uint64_t across = t->n_dims ? t->dim[0] : 1;
    if (n == 1 || n == n_expert) {
        p->gran_rows = p->gran_cols = 0;
    } else if (n % n_expert == 0 && per == rows) {
        p->gran_rows = 1;
        p->gran_cols = 0;
    } else if (n % n_expert == 0 && per % rows == 0 && cols % (per / rows) == 0) {
        p->gran_rows = 1;
        p->gran_cols = (uint32_t)(cols / (per / rows));
    } else if (n % n_expert == 0 && across == (cols + 127) / 128 && per == across * ((rows + 127) / 128)) {
        p->gran_rows = p->gran_cols = 128;
    } else {
        char got[96];
        shape_text(t, got, sizeof got);
        return err_set(e, IMP_E_UNSUPPORTED, "tensor %s: shape %s is no granularity of a %llux%llu matrix", t->name,
                       got, (unsigned long long)rows, (unsigned long long)cols);
    }
    return IMP_OK;
}

static mf_tensor *find_data(modelfile *mf, const char *name, quant_id *read)
{
    mf_tensor *t = mf_tensor_find(mf, name);
    bool scales = has_scales(mf, name);
    if (t && !(scales && t->type == QUANT_U8)) {
        *read = t->type;
        return t;
    }
    for (size_t i = 0; i < sizeof data_rows / sizeof *data_rows; i++) {
        t = sibling(mf, name, data_rows[i].suffix);
        if (t && t->type == data_rows[i].stored) {
            *read = data_rows[i].read;
            return t;
        }
    }
    return NULL;
}

static imp_status add_scales(modelfile *mf, const char *name, uint32_t n_expert, uint64_t rows, uint64_t cols,
                             pq_part *out, uint32_t *n, imp_err *e)
{
    for (size_t i = 0; i < sizeof scale_rows / sizeof *scale_rows; i++) {
        mf_tensor *t = sibling(mf, name, scale_rows[i].suffix);
        if (!t)
            continue;
        pq_part p = {.role = scale_rows[i].role, .t = t, .type = t->type == QUANT_U8 ? QUANT_E8M0 : t->type,
                     .reciprocal = scale_rows[i].reciprocal};
        /* compressed-tensors packs eight rows' zero points in a word */
        if (p.role == PART_ZERO && t->type == QUANT_I32) {
            p.type = QUANT_I4;
            p.packed_rows = 8;
            p.gran_rows = 1;
            p.gran_cols = t->n_dims && t->dim[0] ? (uint32_t)(cols / t->dim[0]) : 0;
        } else {
            imp_status s = granularity(t, n_expert, rows, cols, &p, e);
            if (s != IMP_OK)
                return s;
        }
        if (*n == WEIGHT_MAX_PARTS - 1) /* one place is kept for a bias */
            return err_set(e, IMP_E_UNSUPPORTED, "tensor %s: one scale too many", t->name);
        t->used = true;
        out[(*n)++] = p;
    }
    return IMP_OK;
}

imp_status prequant_parts(modelfile *mf, const char *name, uint32_t n_expert, uint64_t rows, uint64_t cols,
                          bool transposed, pq_part out[WEIGHT_MAX_PARTS], uint32_t *n, imp_err *e)
{
    quant_id read = QUANT_NONE;
    *n = 0;
    mf_tensor *t = find_data(mf, name, &read);
    if (!t)
        return IMP_OK;
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        if (sibling(mf, name, unknown[i]))
            return err_set(e, IMP_E_UNSUPPORTED, "tensor %s: this quantised layout is not supported",
                           sibling(mf, name, unknown[i])->name);
    const quant_fmt *f = quant_get(read);
    if (!f || !f->decode)
        return err_set(e, IMP_E_UNSUPPORTED, "tensor %s: type %s cannot hold weights", t->name, f ? f->name : "?");
    /* A vector may be written as [n], [n,1] or [1,n]: what counts is how many there are. */
    bool vector = rows == 1 && n_expert == 1 && count(t) == cols && f->block == 1;
    if (!vector && !data_fits(t, read, n_expert, rows, cols, transposed))
        return misshapen(t, n_expert, rows, cols, e);
    t->used = true;
    out[(*n)++] = (pq_part){.role = PART_DATA, .t = t, .type = read, .gran_rows = 1, .gran_cols = 1,
                            .transposed = transposed};
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++)
        if ((t = sibling(mf, name, silent[i])) != NULL)
            t->used = true;
    imp_status s = add_scales(mf, name, n_expert, rows, cols, out, n, e);
    bool sub_byte = read == QUANT_E2M1 || read == QUANT_I4, scaled = false;
    for (uint32_t i = 0; i < *n; i++)
        scaled |= out[i].role == PART_SCALE;
    if (s == IMP_OK && sub_byte && !scaled)
        return err_set(e, IMP_E_MODEL, "tensor %s: its scales are missing", out[0].t->name);
    return s;
}

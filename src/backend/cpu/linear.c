/* Uploading weights, and the product that serves every format: rows decoded exactly, f32 activations, one fixed order of
 * summation. It is the reference, and the honest fallback where an instruction set has nothing better. */
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/file.h"
#include "base/mem.h"

/* Sum in 16 running sums over i mod 16, then a tree: the same order on every path that uses it. */
static float dot(const float *a, const float *b, uint64_t n)
{
    float lane[16] = {0};
    uint64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++)
            lane[j] += a[i + j] * b[i + j];
    for (int j = 0; i < n; i++, j++)
        lane[j] += a[i] * b[i];
    for (int step = 8; step; step /= 2)
        for (int j = 0; j < step; j++)
            lane[j] += lane[j + step];
    return lane[0];
}

static void generic_rows(const bweight *w, uint32_t expert, uint64_t row_begin, uint64_t row_end, const void *x, size_t x_stride,
                         int32_t n_tok, float *y, size_t y_stride, void *scratch)
{
    float *row = scratch;
    for (uint64_t r = row_begin; r < row_end; r++) {
        if (weight_decode(w->w, expert * w->rows + r, 1, row, NULL) != IMP_OK) {
            for (int32_t t = 0; t < n_tok; t++)
                y[(size_t)t * y_stride + r] = 0.0f / 0.0f; /* shows as IMP_E_NUMERIC, never as a wrong token */
            continue;
        }
        for (int32_t t = 0; t < n_tok; t++)
            y[(size_t)t * y_stride + r] = dot(row, (const float *)((const uint8_t *)x + (size_t)t * x_stride), w->cols);
    }
}

static size_t generic_scratch(uint64_t k) { return k * sizeof(float); }

const cpu_linear cpu_linear_generic = {.name = "generic (decode to f32)", .generic = true, .rows = generic_rows, .scratch = generic_scratch, .grain = 1};

static bool is_matrix(plan_op_kind hint) { return hint == OP_LINEAR || hint == OP_EXPERT_LINEAR || hint == OP_HEAD_LINEAR || hint == OP_EMBED; }

imp_status cpu_upload(backend *b, const weight *w, plan_op_kind hint, uint64_t row_begin, uint64_t row_end, uint64_t col_begin,
                      uint64_t col_end, bweight **out, imp_err *e)
{
    *out = NULL;
    if (row_begin || col_begin || (row_end && row_end != w->rows) || (col_end && col_end != w->cols))
        return err_set(e, IMP_E_UNSUPPORTED, "tensor %s: the CPU backend does not split weights", w->name);
    bweight *bw = mem_calloc(1, sizeof *bw);
    if (!bw)
        return err_oom(e, w->name, sizeof *bw);
    *bw = (bweight){.w = w, .rows = w->rows, .cols = w->cols};
    imp_status s = IMP_OK;
    uint64_t n = w->n_expert * w->rows;
    if (weight_find(w, PART_BIAS)) {
        bw->bias = mem_alloc(n * sizeof *bw->bias);
        bw->bytes += n * sizeof *bw->bias;
        if (!bw->bias || !weight_bias(w, bw->bias))
            s = err_oom(e, w->name, n * sizeof *bw->bias);
    }
    if (s == IMP_OK && is_matrix(hint)) {
        bw->lin = hint == OP_EMBED ? &cpu_linear_generic : b->isa->pick(w);
        if (bw->lin->pack)
            s = bw->lin->pack(b, bw, e);
        bw->bytes += bw->packed_bytes;
    } else if (s == IMP_OK) {
        bw->vec = mem_alloc(n * w->cols * sizeof *bw->vec);
        bw->bytes += n * w->cols * sizeof *bw->vec;
        s = bw->vec ? weight_decode(w, 0, n, bw->vec, e) : err_oom(e, w->name, n * w->cols * sizeof *bw->vec);
    }
    b->weights += bw->bytes;
    if (s != IMP_OK) {
        cpu_weight_free(b, bw);
        return s;
    }
    *out = bw;
    return IMP_OK;
}

void cpu_weight_free(backend *b, bweight *w)
{
    if (!w)
        return;
    b->weights -= w->bytes;
    mem_unmap(w->packed, w->packed_bytes);
    mem_free(w->vec);
    mem_free(w->bias);
    mem_free(w);
}

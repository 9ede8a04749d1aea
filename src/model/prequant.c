#include "model/prequant.h"

#include <stdio.h>
#include <string.h>

/* Tensors that, when present beside X.weight, say that X.weight is not plain. */
static const char *const scale_suffix[] = {".weight_scale", ".weight_scale_inv", ".weight_scale_2"};
/* Data tensors under another name than X.weight. */
static const char *const data_suffix[] = {".weight_packed"};

static mf_tensor *sibling(modelfile *mf, const char *name, const char *suffix)
{
    char key[320];
    size_t n = strlen(name);
    if (n < 7 || strcmp(name + n - 7, ".weight") != 0 || n > 256)
        return NULL;
    snprintf(key, sizeof key, "%.*s%s", (int)(n - 7), name, suffix);
    return mf_tensor_find(mf, key);
}

bool prequant_wants(modelfile *mf, const char *name)
{
    for (size_t i = 0; i < sizeof scale_suffix / sizeof *scale_suffix; i++)
        if (sibling(mf, name, scale_suffix[i]))
            return true;
    return false;
}

bool prequant_has(modelfile *mf, const char *name)
{
    for (size_t i = 0; i < sizeof data_suffix / sizeof *data_suffix; i++)
        if (sibling(mf, name, data_suffix[i]))
            return true;
    return prequant_wants(mf, name);
}

imp_status prequant_bind(modelfile *mf, arena *mem, const char *name, uint32_t n_expert, uint64_t total, uint64_t row, uint64_t n,
                         uint64_t step, uint64_t cols, weight *w, imp_err *e)
{
    (void)mf, (void)mem, (void)n_expert, (void)total, (void)row, (void)n, (void)step, (void)cols, (void)w;
    return err_set(e, IMP_E_UNSUPPORTED, "tensor %s: prequantised weights are not supported yet", name);
}

const weight *prequant_experts(build *b, int32_t layer, const char *role, weight *w)
{
    (void)layer, (void)w;
    build_fail(b, IMP_E_UNSUPPORTED, "role %s: prequantised experts are not supported yet", role);
    return NULL;
}

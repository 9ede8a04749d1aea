/* Rotation tables: every published way of stretching RoPE, reduced to one frequency a pair and one factor.
 * Sources: Su et al. 2021 (RoPE); Meta's Llama 3.1 scaling; Peng et al. 2023 (YaRN); Ding et al. 2024 (LongRoPE);
 * checked against transformers' modeling_rope_utils. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/config.h"

/* The pair index at which a wavelength makes `turns` turns within the original context (YaRN's ramp ends). */
static double yarn_dim(double turns, double rot, double theta, double ctx)
{
    return rot * log(ctx / (turns * 2 * M_PI)) / (2 * log(theta));
}

static double yarn_mscale(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1; }

static double llama3(double f, const rope_config *r)
{
    double wavelen = 2 * M_PI / f;
    double low = r->original_ctx / r->low_freq, high = r->original_ctx / r->high_freq;
    if (wavelen < high)
        return f;
    if (wavelen > low)
        return f / r->factor;
    double s = (r->original_ctx / wavelen - r->low_freq) / (r->high_freq - r->low_freq);
    return (1 - s) * f / r->factor + s * f;
}

static float table_mscale(const rope_config *r)
{
    if (r->attn_factor > 0)
        return (float)r->attn_factor;
    if (r->kind == ROPE_YARN && r->mscale > 0 && r->mscale_all_dim > 0)
        return (float)(yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim));
    if (r->kind == ROPE_YARN)
        return (float)yarn_mscale(r->factor, 1);
    if (r->kind == ROPE_LONGROPE && r->factor > 1 && r->original_ctx > 1)
        return (float)sqrt(1 + log(r->factor) / log(r->original_ctx));
    return 1;
}

imp_status rope_table(const rope_config *r, uint32_t rot, uint32_t n_ctx, float *freq, float *mscale, imp_err *e)
{
    if (!(r->theta > 1) || rot == 0 || rot % 2)
        return err_set(e, IMP_E_MODEL, "rope: wanted a base above 1 and an even width, got base %g, width %u",
                       r->theta, rot);
    if (r->kind != ROPE_PLAIN && r->kind != ROPE_PROPORTIONAL && !(r->factor > 0))
        return err_set(e, IMP_E_MODEL, "rope: wanted a positive scaling factor, got %g", r->factor);
    if (r->kind == ROPE_PROPORTIONAL && !(r->partial > 0 && r->partial <= 1))
        return err_set(e, IMP_E_MODEL, "rope: wanted a share of pairs up to 1, got %g", r->partial);
    double lo = 0, hi = 0;
    if (r->kind == ROPE_YARN) {
        lo = yarn_dim(r->beta_fast, rot, r->theta, r->original_ctx);
        hi = yarn_dim(r->beta_slow, rot, r->theta, r->original_ctx);
        if (r->truncate) {
            lo = floor(lo);
            hi = ceil(hi);
        }
        lo = lo < 0 ? 0 : lo;
        hi = hi > rot - 1 ? rot - 1 : hi;
        if (lo == hi)
            hi += 0.001; /* a ramp of no width would divide by zero */
    }
    const float *divisor =
        r->kind == ROPE_LONGROPE && r->divisor_long && n_ctx > r->original_ctx ? r->divisor_long : r->divisor;
    for (uint32_t i = 0; i < rot / 2; i++) {
        double f = pow(r->theta, -2.0 * i / rot);
        switch (r->kind) {
        case ROPE_LINEAR: f /= r->factor; break;
        case ROPE_LLAMA3: f = llama3(f, r); break;
        case ROPE_YARN: {
            double ramp = (i - lo) / (hi - lo);
            ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
            f = f / r->factor * ramp + f * (1 - ramp);
            break;
        }
        case ROPE_PROPORTIONAL: f = i < (uint32_t)(r->partial * rot / 2) ? f : 0; break;
        default: break;
        }
        freq[i] = (float)(divisor ? f / (double)divisor[i] : f);
    }
    *mscale = table_mscale(r);
    return IMP_OK;
}

/* ---- reading the keys ------------------------------------------------------------------------------------------- */
static const float *divisors_of(cfg *k, const char *tensor, uint32_t n, bool required)
{
    mf_tensor *t = mf_tensor_find(k->mf, tensor);
    if (!t) {
        if (required)
            cfg_fail(k, "tensor %s: missing", tensor);
        return NULL;
    }
    t->used = true;
    if (t->type != QUANT_F32 || t->n_dims != 1 || t->dim[0] != n) {
        cfg_fail(k, "tensor %s: wanted %u F32 values, got %llu", tensor, n, (unsigned long long)t->dim[0]);
        return NULL;
    }
    float *v = ARENA_ARRAY(k->mem, float, n);
    if (v)
        memcpy(v, t->data, n * sizeof *v);
    for (uint32_t i = 0; v && i < n; i++)
        if (!(v[i] > 0))
            cfg_fail(k, "tensor %s: wanted positive divisors, got %g", tensor, (double)v[i]);
    return v;
}

static const float *divisors_key(cfg *k, const char *hf, uint32_t n)
{
    const meta_value *v = cfg_value(k, NULL, hf);
    if (!v || v->type != META_ARRAY || v->arr.n != n) {
        cfg_fail(k, "key %s: wanted %u numbers", hf, n);
        return NULL;
    }
    float *d = ARENA_ARRAY(k->mem, float, n);
    for (uint32_t i = 0; d && i < n; i++) {
        double x;
        if (!mf_array_float(v, i, &x) || !(x > 0)) {
            cfg_fail(k, "key %s: wanted positive numbers", hf);
            return NULL;
        }
        d[i] = (float)x;
    }
    return d;
}

static rope_kind kind_of(cfg *k)
{
    static const struct { const char *name; rope_kind kind; } known[] = {
        {"none", ROPE_PLAIN}, {"default", ROPE_PLAIN}, {"linear", ROPE_LINEAR}, {"llama3", ROPE_LLAMA3},
        {"yarn", ROPE_YARN}, {"longrope", ROPE_LONGROPE}, {"su", ROPE_LONGROPE},
        {"proportional", ROPE_PROPORTIONAL}, {"mrope", ROPE_PLAIN},
    };
    char key[96];
    meta_str s = cfg_str(k, "rope.scaling.type", "rope_scaling.rope_type", NULL);
    meta_str t = cfg_str(k, NULL, "rope_scaling.type", NULL);
    if (!s.s)
        s = t;
    if (!s.s)
        s = cfg_str(k, NULL, "rope_parameters.rope_type", NULL);
    if (!s.s && k->rope_kind) {
        snprintf(key, sizeof key, "rope_parameters.%s.rope_type", k->rope_kind);
        s = cfg_str(k, NULL, key, NULL);
    }
    if (!s.s)
        return ROPE_PLAIN;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (cfg_str_is(s, known[i].name))
            return known[i].kind;
    cfg_fail(k, "key rope scaling type: '%.*s' is not supported", (int)(s.n < 64 ? s.n : 64), s.s);
    return ROPE_PLAIN;
}

/* transformers moved the same fields from rope_scaling to rope_parameters in version 5. */
static double scaling(cfg *k, const char *gguf, const char *name, double dflt)
{
    char key[96];
    double v = dflt;
    static const char *const home[] = {"rope_scaling.", "rope_parameters."};
    if (k->gguf)
        return cfg_float(k, gguf, NULL, dflt);
    for (size_t i = 0; i < 2; i++) {
        snprintf(key, sizeof key, "%s%s", home[i], name);
        if (cfg_has(k, NULL, key))
            v = cfg_float(k, NULL, key, dflt);
    }
    if (k->rope_kind) {
        snprintf(key, sizeof key, "rope_parameters.%s.%s", k->rope_kind, name);
        v = cfg_float(k, NULL, key, v);
    }
    return v;
}

void cfg_rope_kind(cfg *k, const model_config *c, uint32_t d_head, const char *kind, rope_config *r)
{
    k->rope_kind = kind;
    cfg_rope(k, c, d_head, r);
    k->rope_kind = NULL;
}

void cfg_rope(cfg *k, const model_config *c, uint32_t d_head, rope_config *r)
{
    *r = (rope_config){.kind = kind_of(k), .factor = 1, .truncate = true, .partial = 1};
    r->theta = cfg_float(k, "rope.freq_base", "rope_theta", 10000);
    r->theta = scaling(k, "rope.freq_base", "rope_theta", r->theta);
    double partial = cfg_float(k, NULL, "partial_rotary_factor", 1);
    partial = scaling(k, NULL, "partial_rotary_factor", partial);
    if (!(partial > 0 && partial <= 1)) {
        cfg_fail(k, "key partial_rotary_factor: wanted more than 0 and at most 1, got %g", partial);
        partial = 1;
    }
    r->rot = k->gguf ? (uint32_t)cfg_int(k, "rope.dimension_count", NULL, 2, 4096, d_head)
                     : (uint32_t)(d_head * partial);
    r->factor = scaling(k, "rope.scaling.factor", "factor", 1);
    r->original_ctx = scaling(k, "rope.scaling.original_context_length", "original_max_position_embeddings", 0);
    if (r->original_ctx <= 0 && !k->gguf)
        r->original_ctx = cfg_float(k, NULL, "original_max_position_embeddings", 0);
    r->low_freq = scaling(k, NULL, "low_freq_factor", 1);
    r->high_freq = scaling(k, NULL, "high_freq_factor", 4);
    r->beta_fast = scaling(k, "rope.scaling.yarn_beta_fast", "beta_fast", 32);
    r->beta_slow = scaling(k, "rope.scaling.yarn_beta_slow", "beta_slow", 1);
    r->attn_factor = scaling(k, "rope.scaling.attn_factor", "attention_factor", 0);
    /* Factors beside attention_factor and beyond the ramp: vLLM multiplies by the one, llama.cpp writes both and reads
     * neither. */
    static const char *const one[][2] = {{"rope.scaling.yarn_attn_factor", "attn_factor"},
                                         {"rope.scaling.yarn_ext_factor", "extrapolation_factor"}};
    for (size_t i = 0; i < sizeof one / sizeof *one; i++)
        if (scaling(k, one[i][0], one[i][1], 1) != 1)
            cfg_fail(k, "key %s: only 1 is supported", one[i][!k->gguf]);
    r->mscale = scaling(k, NULL, "mscale", 0);
    r->mscale_all_dim = scaling(k, NULL, "mscale_all_dim", 0);
    const char *truncate_key = cfg_has(k, NULL, "rope_parameters.truncate") ? "rope_parameters.truncate"
                                                                            : "rope_scaling.truncate";
    r->truncate = cfg_bool(k, NULL, truncate_key, true);
    if (r->original_ctx <= 0)
        r->original_ctx = c->n_ctx_train; /* both references take it so, YaRN too */
    if (r->kind == ROPE_LONGROPE && r->factor <= 1 && r->original_ctx > 0)
        r->factor = c->n_ctx_train / r->original_ctx;
    if (r->rot == 0 || r->rot % 2 || r->rot > d_head) {
        cfg_fail(k, "key %s: wanted an even width up to %u, got %u",
                 k->gguf ? "rope.dimension_count" : "partial_rotary_factor", d_head, r->rot);
        return;
    }
    if (k->gguf) { /* the converter writes factors as tensors */
        r->divisor = divisors_of(k, "rope_freqs.weight", r->rot / 2, false);
        if (!r->divisor && mf_tensor_find(k->mf, "rope_factors_short.weight")) {
            r->kind = ROPE_LONGROPE;
            r->divisor = divisors_of(k, "rope_factors_short.weight", r->rot / 2, true);
            r->divisor_long = divisors_of(k, "rope_factors_long.weight", r->rot / 2, true);
        }
    } else if (r->kind == ROPE_LONGROPE) {
        bool old = cfg_has(k, NULL, "rope_scaling.short_factor");
        r->divisor = divisors_key(k, old ? "rope_scaling.short_factor" : "rope_parameters.short_factor", r->rot / 2);
        r->divisor_long = divisors_key(k, old ? "rope_scaling.long_factor" : "rope_parameters.long_factor", r->rot / 2);
    }
}

/* config: a model's hyper-parameters, flat, after a family read them from whatever file it came in.
 * Filled in once by arch_def.config on the loading thread, read-only afterwards. */
#ifndef IMP_MODEL_CONFIG_H
#define IMP_MODEL_CONFIG_H

#include "file/modelfile.h"
#include "plan/plan.h"

typedef enum mixer_kind { MIX_NONE, MIX_ATTENTION, MIX_MLA, MIX_GDN, MIX_MAMBA2 } mixer_kind;
typedef enum ffn_kind { FFN_NONE, FFN_GLU, FFN_MLP /* up, activation, down */, FFN_MOE } ffn_kind;
typedef enum rope_kind {
    ROPE_NONE, ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN, ROPE_LONGROPE, ROPE_PROPORTIONAL
} rope_kind;

typedef struct rope_config {
    rope_kind kind;
    double theta;
    uint32_t rot;              /* rotated columns a head; 0 = all */
    bool interleaved;          /* pairs (2i, 2i+1), as GGUF's llama family stores q and k */
    double factor;             /* context extension factor; 1 = none */
    double original_ctx;       /* context before extension */
    double low_freq, high_freq;        /* llama3 */
    double beta_fast, beta_slow;       /* YaRN; 32 and 1 */
    bool truncate;                     /* YaRN: round the ramp's ends (all but published gpt-oss) */
    double attn_factor;                /* cos and sin are multiplied by it; 0 = the kind's formula */
    double mscale, mscale_all_dim;     /* DeepSeek's YaRN; 0 = not given */
    double partial;            /* proportional: share of the pairs that rotate */
    const float *divisor;      /* [rot/2] per-frequency divisors from the file (llama3, LongRoPE short), NULL = none */
    const float *divisor_long; /* LongRoPE beyond original_ctx */
} rope_config;

typedef struct layer_config {
    mixer_kind mixer;
    ffn_kind ffn;
    uint32_t n_head, n_kv_head, d_k, d_v;
    uint32_t window;           /* 0 = full attention */
    int32_t rope;              /* index into model_config.rope, -1 = no rotation */
    uint32_t n_ff;
    int32_t kv_from;           /* layer whose K and V this one reads (Gemma 4 E), -1 = its own */
    bool v_is_k;               /* V is made from the raw K projection (Gemma 4 global layers) */
} layer_config;

typedef struct moe_config {
    uint32_t n_expert, n_used, n_ff;
    uint32_t n_latent;         /* experts work on a projection of this width (Nemotron 3), 0 = on the hidden row
                                  itself */
    uint32_t n_ff_shared;      /* 0 = no shared expert */
    bool gated;                /* experts are GLUs; else up, activation, down */
    bool shared_gate;          /* sigmoid(gate x) scales the shared expert */
    bool renormalise;
    plan_route_score score;
    bool choice_bias;          /* e_score_correction_bias */
    uint32_t n_group, topk_group, group_top;
    float scale, renorm_eps;
} moe_config;

#define CONFIG_MAX_ROPE 3
#define CONFIG_MAX_NEXT 4

typedef struct model_config {
    uint32_t n_layer, n_hidden, n_vocab, n_ctx_train, n_ctx;
    uint32_t n_next;           /* multi-token-prediction modules after them in the file: plans of their own
                                  (model/next.c) */
    uint32_t n_head, n_kv_head, d_head, n_ff;  /* what most layers have; layer[] is what counts */
    float norm_eps;
    bool norm_plus_one;        /* weights hold w, the norm multiplies by 1 + w */
    bool qkv_bias, o_bias, mlp_bias;
    bool attn_sinks;           /* one logit a head joins the softmax's denominator */
    bool qk_norm;              /* RMS norm of each q and k head before the rotation */
    bool post_norm;            /* Gemma's norms after attention and FFN, before the residual */
    bool tied;                 /* the head is the embedding */
    plan_act act;
    float embed_scale;         /* 1 = none */
    float attn_scale;          /* 0 = 1/sqrt(d_k) */
    float attn_softcap, final_softcap, logit_scale; /* 0 = none; logit_scale 0 = 1 */
    uint32_t window;
    rope_config rope[CONFIG_MAX_ROPE];
    moe_config moe;
    struct { uint32_t q_lora, kv_lora, d_nope, d_rope, d_v; } mla;
    struct { uint32_t n_k_head, n_v_head, d_k, d_v, taps; bool tiled; } gdn;
    struct { uint32_t n_head, head_dim, n_group, d_state, taps; } mamba;
    struct { uint32_t width; } ple;       /* per-layer embeddings of Gemma 4 E, 0 = none */
    layer_config *layer;       /* [n_layer + CONFIG_MAX_NEXT]; module i of n_next is layer n_layer + i */
} model_config;

/* ---- reading keys ----------------------------------------------------------------------------------------------
 * One name for both kinds of file: GGUF keys get the prefix "<architecture>.", config.json keys "text_config." when the
 * file nests them. The first failure sticks in cfg.e; getters after it return their defaults, so check once. */
typedef struct cfg_default {
    const char *hf;
    int64_t value;
} cfg_default;

typedef struct cfg {
    modelfile *mf;
    bool gguf;
    const char *arch;          /* general.architecture */
    const char *nest;          /* "" or "text_config." */
    const cfg_default *absent; /* what config.json's missing integers mean in this family; hf NULL-terminated,
                                  or NULL */
    const char *rope_kind;     /* while cfg_rope_kind reads: the kind of layer; else NULL */
    imp_err *e;
    arena *mem;                /* of the model: what rope divisors and layer tables live in */
    imp_status status;
} cfg;

#define CFG_REQUIRED INT64_MIN
/* gguf or hf may be NULL: that kind of file does not have it (dflt is returned). dflt CFG_REQUIRED: absence is an
 * error. */
int64_t cfg_int(cfg *k, const char *gguf, const char *hf, int64_t min, int64_t max, int64_t dflt);
double cfg_float(cfg *k, const char *gguf, const char *hf, double dflt);
bool cfg_bool(cfg *k, const char *gguf, const char *hf, bool dflt);
meta_str cfg_str(cfg *k, const char *gguf, const char *hf, const char *dflt);
bool cfg_has(cfg *k, const char *gguf, const char *hf);
const meta_value *cfg_value(cfg *k, const char *gguf, const char *hf); /* NULL = absent */
/* A key that holds one number for all layers or an array of them. */
int64_t cfg_layer_int(cfg *k, const char *gguf, const char *hf, int32_t layer, int64_t min, int64_t max, int64_t dflt);
/* Is layer i of the kind that layer_types spells so? dflt when the file has no such list. */
bool cfg_layer_is(cfg *k, uint32_t i, const char *type, bool dflt);
/* A number whose absence means dflt and whose null means none (0). */
double cfg_float_or_none(cfg *k, const char *gguf, const char *hf, double dflt);
/* Is the head the embedding? dflt: what the family's class in transformers takes when config.json is silent. */
bool cfg_tied(cfg *k, bool dflt);
/* A key that may only say one thing (or be absent); strings: one of a NULL-terminated list. */
void cfg_only(cfg *k, const char *gguf, const char *hf, double only);
void cfg_only_bool(cfg *k, const char *hf, bool only);
void cfg_only_str(cfg *k, const char *hf, const char *const *only);
/* Biases: a key in config.json; in GGUF the tensor itself tells. */
bool cfg_bias(cfg *k, const char *hf, const char *tensor);
/* Complains once, by name: "key: wanted .., got ..". */
void cfg_fail(cfg *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool cfg_str_is(meta_str s, const char *text);

/* The fields nearly all families share, then c->layer filled in alike for every layer. */
void cfg_common(cfg *k, model_config *c);
/* rope_theta, rope scaling of every kind, partial rotation, frequency divisors in the file: into *r. */
void cfg_rope(cfg *k, const model_config *c, uint32_t d_head, rope_config *r);
/* The same where rope_parameters are kept by kind of layer ("full_attention"); what rope_scaling and rope_theta say
 * counts for it too. */
void cfg_rope_kind(cfg *k, const model_config *c, uint32_t d_head, const char *kind, rope_config *r);
/* Qwen's windows: use_sliding_window, from layer max_window_layers on or by layer_types. Not in GGUF. */
void cfg_window_from(cfg *k, model_config *c);
/* MoE keys shared by the mixtures. */
void cfg_moe(cfg *k, model_config *c);
/* Qwen's choice of layers that are mixtures: all but mlp_only_layers and those that decoder_sparse_step leaves out. */
void cfg_moe_layers(cfg *k, model_config *c);
/* DeepSeek V3's way of choosing, which others took over: groups, sigmoid scores, choice bias, shared experts, scale,
 * leading dense layers. */
void cfg_moe_deepseek(cfg *k, model_config *c);
/* Gated DeltaNet's widths, and which layers are of that kind. */
void cfg_gdn(cfg *k, model_config *c);
/* Multi-token-prediction modules: GGUF counts them as blocks, so they leave n_layer; call it before layers are told
 * apart. */
void cfg_next(cfg *k, model_config *c, const char *gguf, const char *hf);
/* hidden_act / hidden_activation must be one that c->act says; anything else is refused by name. */
void cfg_act(cfg *k, model_config *c, plan_act dflt);

/* ---- rotation tables ---------------------------------------------------------------------------------------------
 * freq[rot/2] and the factor for cos and sin, for a context of n_ctx positions. */
imp_status rope_table(const rope_config *r, uint32_t rot, uint32_t n_ctx, float *freq, float *mscale, imp_err *e);

#endif

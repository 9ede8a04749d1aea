/* build: writing a family's plan: binding tensors by role and emitting the shared layer pieces.
 * One build lives on the loading thread while a model opens. The first failure sticks (b->status, b->e); after it all
 * calls do nothing and return PLAN_NONE / NULL, so a family checks nothing itself. */
#ifndef IMP_MODEL_BUILD_H
#define IMP_MODEL_BUILD_H

#include "model/config.h"

typedef struct arch_def arch_def;

typedef struct build {
    modelfile *mf;
    const arch_def *arch;
    const model_config *c;
    plan *p;
    arena *mem;            /* of the model: weights and slices */
    imp_err *e;
    imp_status status;
    const char *hf_prefix; /* what stands for "model." in this SafeTensors folder; NULL = just that */
    int32_t *slot_of_layer, *kvgroup_of_layer; /* [n_layer] where each layer's K and V are, -1 = none yet */
    int32_t rope_const[CONFIG_MAX_ROPE];  /* plan constants of c->rope, -1 = not made yet */
    float rope_mscale[CONFIG_MAX_ROPE];
    uint32_t n_next;       /* multi-token-prediction modules that were planned */
    plan_reg ple;          /* inputs of all layers [T, n_layer * width] (Gemma 4 E) */
} build;

typedef enum bind_flags {
    BIND_OPTIONAL = 1,   /* NULL when the file has no such tensor */
    BIND_BIAS = 2,       /* with its bias, which must be there */
    BIND_BIAS_OPT = 4    /* with its bias, if the file has one */
} bind_flags;

/* What is bound: rows row, row+step, .. (n of them) of each of n_expert matrices [total, cols]. */
typedef struct bind_spec {
    const char *role;
    uint32_t n_expert;         /* 1 for ordinary matrices; experts may be stacked in one tensor or have one each */
    uint64_t total, row, n, step, cols;
    bool transposed;           /* the file has [cols][total] */
    uint64_t pitch;            /* transposed: file rows from one matrix to the next, the first `cols` of them are it;
                                  0 = cols */
    unsigned flags;
} bind_spec;
/* A role of a layer (-1: not of a layer), checked against the file: an absent or misshapen tensor is an error with its
 * name, wanted, got. Prequantised layouts are recognised here (prequant.h). The weight lives as long as b->mem. */
const weight *bind_full(build *b, int32_t layer, const bind_spec *q);
/* The common cases: a whole matrix, a vector, experts, rows of a fused tensor (QKV, gate_up). */
const weight *bind_weight(build *b, int32_t layer, const char *role, uint64_t rows, uint64_t cols, unsigned flags);
const weight *bind_vector(build *b, int32_t layer, const char *role, uint64_t n, unsigned flags);
const weight *bind_experts(build *b, int32_t layer, const char *role, uint32_t n_expert, uint64_t rows, uint64_t cols,
                           unsigned flags);
const weight *bind_rows(build *b, int32_t layer, const char *role, uint64_t total, uint64_t row, uint64_t n,
                        uint64_t step, uint64_t cols, unsigned flags);
bool bind_has(build *b, int32_t layer, const char *role);
/* After the plan is written: every tensor was bound or is known to be harmless; every config key was read or is. */
imp_status bind_check_all(build *b);
imp_status build_fail(build *b, imp_status s, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* ---- operations, one line each ---------------------------------------------------------------------------------- */
/* RMS with weight `role`; group 0 = row */
plan_reg op_norm(build *b, int32_t layer, const char *role, plan_reg x, uint32_t group);
plan_reg op_norm_eps(build *b, int32_t layer, const char *role, plan_reg x, uint32_t group, float eps);
plan_reg op_norm_plain(build *b, int32_t layer, const char *role, plan_reg x, uint32_t group); /* without weight */
plan_reg op_linear(build *b, int32_t layer, const char *role, plan_reg x, const weight *w, plan_type out);
/* a wide sum: the residual stream */
plan_reg op_add(build *b, int32_t layer, const char *role, plan_reg a, plan_reg c);
plan_reg op_scale(build *b, int32_t layer, const char *role, plan_reg x, float scale);
plan_reg op_glu(build *b, int32_t layer, const char *role, plan_reg gate, plan_reg up, plan_act act);
plan_reg op_act(build *b, int32_t layer, const char *role, plan_reg x, plan_act act);
plan_reg op_gate(build *b, int32_t layer, const char *role, plan_reg x, plan_reg g);
plan_reg op_rope(build *b, int32_t layer, const char *role, plan_reg x, int32_t rope, uint32_t n_head,
                 uint32_t head_dim, uint32_t rot_off);
plan_reg op_concat(build *b, int32_t layer, const char *role, plan_reg x, plan_reg y, uint32_t groups, bool y_shared);
plan_reg op_head_linear(build *b, int32_t layer, const char *role, plan_reg x, const weight *w);
/* by a vector or a scalar of the file */
plan_reg op_mul(build *b, int32_t layer, const char *role, plan_reg x, const weight *w);
plan_reg op_slice(build *b, int32_t layer, const char *role, plan_reg x, uint32_t off, uint32_t width, uint32_t groups,
                  uint32_t stride);
plan_reg op_expert_linear(build *b, int32_t layer, const char *role, plan_reg x, plan_reg ids, const weight *w,
                          bool per_choice);
plan_reg op_combine(build *b, int32_t layer, plan_reg x, plan_reg w);
/* One GLU over a register that holds gate and up in turn. */
plan_reg op_glu_interleaved(build *b, int32_t layer, const char *role, plan_reg x, plan_act act, float limit,
                            float alpha);
/* Stores k and v (v PLAN_NONE: prefix of k) and attends; records where the layer's cache is. window from the layer. */
plan_reg op_attend(build *b, int32_t layer, plan_reg q, plan_reg k, plan_reg v, float scale, const weight *sinks);

/* ---- layer pieces --------------------------------------------------------------------------------------------------
 * Each takes a normed input and returns what is added to the residual stream. */
plan_reg piece_attention(build *b, int32_t layer, plan_reg x); /* q, k, v, norms, rope, attend, output */
/* q_proj holds [q | gate] a head; the answer is multiplied by sigmoid(gate). */
plan_reg piece_gated_attention(build *b, int32_t layer, plan_reg x);
/* Gated DeltaNet from its projections: qkv [q | k | v] before the convolution, z, beta and a (one a value head). */
plan_reg piece_gdn(build *b, int32_t layer, plan_reg qkv, plan_reg z, plan_reg beta, plan_reg a);
plan_reg piece_mamba2(build *b, int32_t layer, plan_reg x);
plan_reg op_conv(build *b, int32_t layer, const char *role, plan_reg x, uint32_t width, uint32_t taps, bool bias);
/* roles <prefix>_gate, _up, _down */
plan_reg piece_glu(build *b, int32_t layer, plan_reg x, const char *prefix, uint32_t n_ff);
plan_reg piece_mlp(build *b, int32_t layer, plan_reg x, const char *prefix, uint32_t n_ff);
plan_reg piece_moe(build *b, int32_t layer, plan_reg x, plan_reg router_x); /* router, experts, shared expert */
void piece_route(build *b, int32_t layer, plan_reg x, unsigned bias_flags, plan_reg *ids, plan_reg *w);
plan_reg piece_experts(build *b, int32_t layer, plan_reg x, plan_reg ids, plan_reg w); /* the chosen ones, combined */
plan_reg piece_ffn(build *b, int32_t layer, plan_reg x);       /* what c->layer[layer].ffn says */
/* x += post(mixer(norm x)); x += post(ffn(norm x)), post-norms only when c->post_norm. */
void layer_std(build *b, int32_t layer, plan_reg *x);
void embed_std(build *b, plan_reg *x);                          /* embedding * embed_scale */
/* Embedding, layers, final norm, gather, head, softcap: the whole text plan. */
imp_status build_text(build *b);
/* Rows asked for, norm `role`, head, softcap: sets the plan's hidden and logits. head: the text plan's weight, or NULL:
 * the file's own, or the embedding when tied. */
void build_head(build *b, int32_t layer, const char *role, plan_reg x, const weight *head);
/* Multi-token-prediction module i as a plan of its own (next.c); *there says whether the file has it. text: the
 * finished plan. */
imp_status build_next(build *b, const plan *text, uint32_t i, bool *there);

#endif

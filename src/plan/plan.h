/* plan: what a model computes, written down once at load: typed operations over numbered registers.
 * Built by src/model and src/arch into an arena, checked by plan_finish, then immutable and shared by any threads.
 * A register is written once (SSA). Its shape is [rows, width]: rows is free (tokens T, output rows R, image patches
 * P), width is known. Sequences and KV length never shape a register.
 *
 * Notation below: x[T,K] is a register; W[N,K] is a weight of N rows; all sums are f32 or better. */
#ifndef IMP_PLAN_PLAN_H
#define IMP_PLAN_PLAN_H

#include "base/arena.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "quant/weight.h"

typedef int32_t plan_reg; /* index into plan.reg; PLAN_NONE = absent */
#define PLAN_NONE (-1)

typedef enum plan_type {
    REG_ACT,  /* activations: the backend picks the storage type */
    REG_WIDE, /* f32: residual stream, router scores, gates, logits */
    REG_IDX   /* i32 */
} plan_type;
typedef enum plan_dim { DIM_T, DIM_R, DIM_P } plan_dim;

typedef struct plan_register {
    plan_type type;
    plan_dim dim;
    uint32_t width;
    int32_t def, last_use; /* operation indices, set by plan_finish; def -1 = plan input;
                              last_use of an output = n_op */
} plan_register;

/* name, inputs (min), outputs, weights (min)
 *
 * EMBED        out[T,H] = W[id[t]] * scale; a token with an external row takes that row as it is
 * GATHER       out[R,H] = x[row_tok[r]]
 * NORM         RMS: y = x / sqrt(mean(x^2 over each group) + eps) * (w + plus_one);
 *              attr.norm.layer: LayerNorm with bias
 *              weight[0] may be absent (w = 1). group 0 = the whole row, else each run of `group` columns by itself;
 *              w has `group` values (shared by all groups) or the row's width (attr.norm.w_full).
 * L2NORM       y = x * rsqrt(sum(x^2 over each group) + eps) * scale
 * LINEAR       y = x W^T (+ bias part of W)
 * HEAD_LINEAR  x[T, h*K], W of h "experts" [N,K]: y[T, h*N], head by head (MLA's absorbed products)
 * ADD          y = a + b * scale          (scale 1 normally)
 * MUL          y = a * b; b may be a register of the same width, of width 1 (a scalar a row), or weight[0] (a vector
 *              or scalar)
 * SCALE        y = x * scale
 * SOFTCAP      y = cap * tanh(x / cap)
 * ACT          y = f(x)
 * GLU          y = f(gate) * up;  in[1] = PLAN_NONE: in[0] holds [gate | up] halves
 * GATE         y = x * sigmoid(g); g as wide as x, or one value a group of x (attr.gate.group columns share one)
 * ROPE         rotates the first rot columns of each head; freq table and order are attributes
 * SLICE        y[:, g*w + j] = x[:, g*stride + off + j] for g < groups, j < w
 * CONCAT       y = for each group [a_g | b_g]; b may be shared by all groups (attr.concat.b_shared)
 * KV_STORE     k[T,kw] (v[T,vw]) into group and slot at the token's kv_index
 * ATTEND       softmax(scale * q k^T, softcap, sinks, visibility) v over the sequence's blocks
 * ATTEND_FREE  the same without a cache: q, k, v registers, all rows of one image see each other (vision)
 * ROUTE        scores[T,E] -> out0 ids[T,k] (idx), out1 weights[T,k] (wide); weight[0] = choice bias,
 *              weight[1] = a factor on each expert's weight, after everything else
 * EXPERT_LINEAR x[T,K] or x[T,k*K], ids[T,k], W of E experts [N,K]: y[T,k*N]
 * COMBINE      y[T,N] = sum over j of w[t,j] * x[t, j*N ..]      in fixed order j = 0..k-1
 * CONV         causal depthwise convolution over a sequence, `taps` taps, then ACT; weight[0] [width,taps], weight[1]
 *              bias; the last taps-1 inputs of the sequence are state
 * GDN          gated delta rule over heads; in: q, k, v, g (log decay, one a head), beta (one a head)
 * MAMBA2       in: x, B, C, dt (raw); weight: A_log (or A), D, dt_bias
 * HIDDEN       out[T,H] = the batch's hidden rows: what another plan's `hidden` was at the token before (multi-token
 *              prediction)
 * DECAY        y = -exp(A_log) * softplus(x + dt_bias) (attr.decay.a_is_negexp: weight holds -exp(A_log) already) */
#define PLAN_OP_LIST(X)          \
    X(EMBED, 0, 1, 1)            \
    X(GATHER, 1, 1, 0)           \
    X(NORM, 1, 1, 0)             \
    X(L2NORM, 1, 1, 0)           \
    X(LINEAR, 1, 1, 1)           \
    X(HEAD_LINEAR, 1, 1, 1)      \
    X(ADD, 2, 1, 0)              \
    X(MUL, 1, 1, 0)              \
    X(SCALE, 1, 1, 0)            \
    X(SOFTCAP, 1, 1, 0)          \
    X(ACT, 1, 1, 0)              \
    X(GLU, 1, 1, 0)              \
    X(GATE, 2, 1, 0)             \
    X(ROPE, 1, 1, 0)             \
    X(SLICE, 1, 1, 0)            \
    X(CONCAT, 2, 1, 0)           \
    X(KV_STORE, 1, 0, 0)         \
    X(ATTEND, 1, 1, 0)           \
    X(ATTEND_FREE, 3, 1, 0)      \
    X(ROUTE, 1, 2, 0)            \
    X(EXPERT_LINEAR, 2, 1, 1)    \
    X(COMBINE, 2, 1, 0)          \
    X(CONV, 1, 1, 1)             \
    X(GDN, 5, 1, 0)              \
    X(MAMBA2, 4, 1, 3)           \
    X(DECAY, 1, 1, 2)            \
    X(HIDDEN, 0, 1, 0)

typedef enum plan_op_kind {
#define PLAN_X(name, in, out, w) OP_##name,
    PLAN_OP_LIST(PLAN_X)
#undef PLAN_X
    OP_COUNT
} plan_op_kind;

typedef enum plan_act {
    ACT_SILU, ACT_GELU_TANH, ACT_GELU_ERF, ACT_RELU2, ACT_SIGMOID, ACT_TANH,
    ACT_SOFTPLUS, ACT_NONE,
    ACT_SWIGLU_OAI /* gpt-oss: gate <= limit, up in [-limit,limit]; (up+1) * gate * sigmoid(alpha * gate) */
} plan_act;

typedef enum plan_route_score {
    ROUTE_SOFTMAX, ROUTE_SIGMOID,
    ROUTE_TOPK_SOFTMAX /* softmax over the chosen */
} plan_route_score;

/* Where a rotation angle comes from: angle(pos, i) = pos * freq[i]; cos and sin are multiplied by mscale.
 * freq holds rot/2 values in plan.constant, already scaled (linear, llama3, YaRN, LongRoPE, proportional). LongRoPE has
 * a second table, used for every position of a plan compiled for a context longer than `original_ctx`. */
typedef struct plan_rope {
    uint32_t n_head, head_dim;
    uint32_t rot;          /* rotated columns a head, even */
    uint32_t rot_off;      /* first rotated column of a head */
    bool interleaved;      /* pairs (2i, 2i+1); else (i, i + rot/2) */
    int32_t freq;          /* index into plan.constant: rot/2 floats */
    float mscale;
    uint32_t section[3];   /* M-RoPE: pairs that follow pos[1], pos[2] ...; all 0 = pos[0] */
} plan_rope;

typedef struct plan_attend {
    uint32_t n_head, n_kv_head, d_k, d_v;
    float scale, softcap;  /* softcap 0 = none */
    uint32_t window;       /* 0 = all visible; else the last `window` tokens, itself included */
    int32_t group, slot;
} plan_attend;

typedef struct plan_route {
    plan_route_score score;
    uint32_t n_expert, k;
    uint32_t n_group, topk_group;   /* 0 or 1 = no groups */
    uint32_t group_top;             /* a group's score = sum of its best group_top (2: DeepSeek V3; 1: V2's maximum) */
    bool renormalise;
    float renorm_eps, scale;
} plan_route;

typedef struct plan_op {
    plan_op_kind kind;
    int32_t layer;         /* -1 outside the layers */
    const char *role;      /* static string; (layer, role) is the site: "attn_q", "ffn_down", ... unique a plan */
    plan_reg in[6], out[2];
    int32_t weight[3];     /* index into plan.weight; PLAN_NONE = absent */
    union {
        float scale;                                                     /* EMBED ADD SCALE */
        float cap;                                                       /* SOFTCAP */
        struct { float eps; uint32_t group; bool plus_one, layer, w_full; } norm;
        struct { float eps, scale; uint32_t group; } l2norm;
        struct { uint32_t n_head; } head_linear;
        struct { plan_act act; float limit, alpha; bool interleaved; } act;   /* ACT GLU */
        struct { uint32_t group; } gate;
        plan_rope rope;
        struct { uint32_t off, width, groups, stride; } slice;
        struct { uint32_t groups; bool b_shared; } concat;
        struct { int32_t group, slot; } kv;
        plan_attend attend;
        plan_route route;
        struct { uint32_t k; bool x_per_choice; } expert;                /* EXPERT_LINEAR COMBINE */
        struct { uint32_t taps; plan_act act; int32_t state; } conv;
        /* tiled: v head h uses k head h % n_k */
        struct { uint32_t n_k_head, n_v_head, d_k, d_v; bool tiled; int32_t state; } gdn;
        struct { uint32_t n_head, head_dim, n_group, d_state; int32_t state; bool a_is_negexp; } mamba2;
        struct { bool a_is_negexp; } decay;
    } attr;
} plan_op;

typedef enum plan_kv_kind { KVG_FULL, KVG_WINDOW, KVG_LATENT } plan_kv_kind;
typedef struct plan_kv_group {
    plan_kv_kind kind;
    uint32_t window;          /* tokens kept, KVG_WINDOW only */
    uint32_t k_width, v_width; /* values a token and slot */
    bool v_is_prefix_of_k;    /* MLA: nothing is stored for v */
    uint32_t n_slot;          /* layers that store here (several may read one slot) */
} plan_kv_group;

typedef struct plan_state {
    const char *name;
    uint64_t n_float;         /* f32 values a sequence */
} plan_state;

typedef struct plan_constant {
    const float *v;
    uint32_t n;
} plan_constant;

#define PLAN_MAX_GROUPS 4
#define PLAN_MAX_STATES 512

typedef struct plan {
    arena mem;
    const char *family;
    plan_register *reg;
    int32_t n_reg, cap_reg;
    plan_op *op;
    int32_t n_op, cap_op;
    const weight **weight;
    int32_t n_weight, cap_weight;
    plan_constant *constant;
    int32_t n_constant, cap_constant;
    plan_kv_group group[PLAN_MAX_GROUPS];
    int32_t n_group;
    plan_state *state;
    int32_t n_state, cap_state;
    /* inputs are implicit (ids, external rows, positions from the batch); outputs by name, PLAN_NONE = none */
    plan_reg logits;          /* [R, vocab] wide */
    plan_reg hidden;          /* [R, hidden] after the final norm */
    uint32_t n_vocab, n_hidden, n_layer, n_ctx_train;
    bool takes_hidden;        /* it has a HIDDEN operation (set by plan_finish) */
    bool failed;              /* an allocation failed while building (sticky) */
} plan;

/* ---- building (one thread) ------------------------------------------------------------------------------------ */
void plan_init(plan *p, const char *family);
void plan_free(plan *p);
plan_reg plan_add_reg(plan *p, plan_type type, plan_dim dim, uint32_t width);
int32_t plan_add_weight(plan *p, const weight *w); /* NULL gives PLAN_NONE; the same pointer twice, the same index */
int32_t plan_add_constant(plan *p, const float *v, uint32_t n); /* copied */
int32_t plan_add_group(plan *p, plan_kv_group g);         /* an equal group is reused; returns its index */
int32_t plan_add_slot(plan *p, int32_t group);            /* a new slot of the group */
int32_t plan_add_state(plan *p, const char *name, uint64_t n_float);
/* Appends a copy of op; its out registers must be new. Unused in/out/weight entries must be PLAN_NONE
 * (plan_op_init starts so). */
void plan_add_op(plan *p, const plan_op *op);
plan_op plan_op_init(plan_op_kind kind, int32_t layer, const char *role);
/* Checks SSA, shapes, weights, sites and groups; computes liveness. After it the plan is immutable. */
imp_status plan_finish(plan *p, imp_err *e);

/* ---- reading ---------------------------------------------------------------------------------------------------- */
const char *plan_op_name(plan_op_kind kind);
/* May prompts multiply this operation's weight in FP8 where that was asked for: a product of a layer over tokens, of
 * 128 rows or more, whose results choose no expert and are no decay of a state (both answer a small error with a large
 * one). */
bool plan_op_prompt_fp8(const plan *p, int32_t op);
/* One line an operation, "%3d layer role KIND r4[T,1024] = r2, W[4096,1024] Q4_K"; kernel(i) adds the serving
 * kernel's name. */
void plan_print(const plan *p, const char *(*kernel)(void *user, int32_t op), void *user, strbuf *out);
/* Bytes of KV a token (all groups and slots), for an element size in bits. */
uint64_t plan_kv_bytes_per_token(const plan *p, double bits_per_value);

#endif

/* One function an operation: registers of the right type and width, and the site it stands at. */
#include <math.h>
#include <string.h>

#include "model/arch.h"

static uint32_t width(const build *b, plan_reg r) { return r >= 0 && r < b->p->n_reg ? b->p->reg[r].width : 0; }
static plan_dim dim(const build *b, plan_reg r) { return r >= 0 && r < b->p->n_reg ? b->p->reg[r].dim : DIM_T; }

/* Emits `op` with one new result register of the given type and width, in the dimension of its first operand. */
static plan_reg emit(build *b, plan_op *op, plan_type type, uint32_t w)
{
    if (b->status != IMP_OK)
        return PLAN_NONE;
    op->out[0] = plan_add_reg(b->p, type, op->in[0] == PLAN_NONE ? DIM_T : dim(b, op->in[0]), w);
    plan_add_op(b->p, op);
    if (b->p->failed)
        build_fail(b, IMP_E_NOMEM, "plan %s: out of memory or too large", b->p->family);
    return op->out[0];
}

static plan_reg norm(build *b, int32_t layer, const char *role, plan_reg x, uint32_t group, bool weighted)
{
    plan_op op = plan_op_init(OP_NORM, layer, role);
    op.in[0] = x;
    op.attr.norm.eps = b->c->norm_eps;
    op.attr.norm.group = group;
    op.attr.norm.plus_one = weighted && b->c->norm_plus_one;
    if (weighted)
        op.weight[0] = plan_add_weight(b->p, bind_vector(b, layer, role, group ? group : width(b, x), 0));
    return emit(b, &op, REG_ACT, width(b, x));
}

plan_reg op_norm(build *b, int32_t layer, const char *role, plan_reg x, uint32_t group)
{
    return norm(b, layer, role, x, group, true);
}

plan_reg op_norm_plain(build *b, int32_t layer, const char *role, plan_reg x, uint32_t group)
{
    return norm(b, layer, role, x, group, false);
}

plan_reg op_norm_eps(build *b, int32_t layer, const char *role, plan_reg x, uint32_t group, float eps)
{
    plan_reg y = op_norm(b, layer, role, x, group);
    if (b->status == IMP_OK)
        b->p->op[b->p->n_op - 1].attr.norm.eps = eps;
    return y;
}

plan_reg op_concat(build *b, int32_t layer, const char *role, plan_reg x, plan_reg y, uint32_t groups, bool y_shared)
{
    plan_op op = plan_op_init(OP_CONCAT, layer, role);
    op.in[0] = x;
    op.in[1] = y;
    op.attr.concat.groups = groups;
    op.attr.concat.b_shared = y_shared;
    return emit(b, &op, REG_ACT, width(b, x) + (y_shared ? groups : 1) * width(b, y));
}

plan_reg op_head_linear(build *b, int32_t layer, const char *role, plan_reg x, const weight *w)
{
    plan_op op = plan_op_init(OP_HEAD_LINEAR, layer, role);
    op.in[0] = x;
    op.weight[0] = plan_add_weight(b->p, w);
    op.attr.head_linear.n_head = w ? w->n_expert : 0;
    return emit(b, &op, REG_ACT, w ? (uint32_t)(w->rows * w->n_expert) : 0);
}

plan_reg op_mul(build *b, int32_t layer, const char *role, plan_reg x, const weight *w)
{
    plan_op op = plan_op_init(OP_MUL, layer, role);
    op.in[0] = x;
    op.weight[0] = plan_add_weight(b->p, w);
    return emit(b, &op, x >= 0 && b->status == IMP_OK ? b->p->reg[x].type : REG_ACT, width(b, x));
}

plan_reg op_glu_interleaved(build *b, int32_t layer, const char *role, plan_reg x, plan_act act, float limit,
                            float alpha)
{
    plan_op op = plan_op_init(OP_GLU, layer, role);
    op.in[0] = x;
    op.attr.act.act = act;
    op.attr.act.interleaved = true;
    op.attr.act.limit = limit;
    op.attr.act.alpha = alpha;
    return emit(b, &op, REG_ACT, width(b, x) / 2);
}

plan_reg op_linear(build *b, int32_t layer, const char *role, plan_reg x, const weight *w, plan_type out)
{
    plan_op op = plan_op_init(OP_LINEAR, layer, role);
    op.in[0] = x;
    op.weight[0] = plan_add_weight(b->p, w);
    return emit(b, &op, out, w ? (uint32_t)w->rows : 0);
}

plan_reg op_add(build *b, int32_t layer, const char *role, plan_reg a, plan_reg c)
{
    plan_op op = plan_op_init(OP_ADD, layer, role);
    op.in[0] = a;
    op.in[1] = c;
    op.attr.scale = 1;
    return emit(b, &op, REG_WIDE, width(b, a));
}

plan_reg op_scale(build *b, int32_t layer, const char *role, plan_reg x, float scale)
{
    plan_op op = plan_op_init(OP_SCALE, layer, role);
    op.in[0] = x;
    op.attr.scale = scale;
    return emit(b, &op, x >= 0 ? b->p->reg[x].type : REG_ACT, width(b, x));
}

plan_reg op_glu(build *b, int32_t layer, const char *role, plan_reg gate, plan_reg up, plan_act act)
{
    plan_op op = plan_op_init(OP_GLU, layer, role);
    op.in[0] = gate;
    op.in[1] = up;
    op.attr.act.act = act;
    return emit(b, &op, REG_ACT, up == PLAN_NONE ? width(b, gate) / 2 : width(b, gate));
}

plan_reg op_act(build *b, int32_t layer, const char *role, plan_reg x, plan_act act)
{
    plan_op op = plan_op_init(OP_ACT, layer, role);
    op.in[0] = x;
    op.attr.act.act = act;
    return emit(b, &op, REG_ACT, width(b, x));
}

plan_reg op_gate(build *b, int32_t layer, const char *role, plan_reg x, plan_reg g)
{
    plan_op op = plan_op_init(OP_GATE, layer, role);
    op.in[0] = x;
    op.in[1] = g;
    op.attr.gate.group = width(b, g) ? width(b, x) / width(b, g) : 0;
    return emit(b, &op, REG_ACT, width(b, x));
}

plan_reg op_slice(build *b, int32_t layer, const char *role, plan_reg x, uint32_t off, uint32_t w, uint32_t groups,
                  uint32_t stride)
{
    plan_op op = plan_op_init(OP_SLICE, layer, role);
    op.in[0] = x;
    op.attr.slice.off = off;
    op.attr.slice.width = w;
    op.attr.slice.groups = groups;
    op.attr.slice.stride = stride;
    return emit(b, &op, x >= 0 ? b->p->reg[x].type : REG_ACT, w * groups);
}

static void rope_prepare(build *b, int32_t r, uint32_t rot)
{
    if (b->rope_const[r] >= 0 || b->status != IMP_OK)
        return;
    float *freq = ARENA_ARRAY(b->mem, float, rot / 2);
    if (!freq) {
        build_fail(b, IMP_E_NOMEM, "rope table: out of memory");
        return;
    }
    imp_status s = rope_table(&b->c->rope[r], rot, b->c->n_ctx, freq, &b->rope_mscale[r], b->e);
    if (s != IMP_OK)
        b->status = s;
    else
        b->rope_const[r] = plan_add_constant(b->p, freq, rot / 2);
}

plan_reg op_rope(build *b, int32_t layer, const char *role, plan_reg x, int32_t rope, uint32_t n_head,
                 uint32_t head_dim, uint32_t rot_off)
{
    if (rope < 0 || b->status != IMP_OK)
        return x;
    const rope_config *r = &b->c->rope[rope];
    uint32_t rot = r->rot ? r->rot : head_dim - rot_off;
    rope_prepare(b, rope, rot);
    plan_op op = plan_op_init(OP_ROPE, layer, role);
    op.in[0] = x;
    op.attr.rope = (plan_rope){.n_head = n_head, .head_dim = head_dim, .rot = rot, .rot_off = rot_off,
                               .interleaved = r->interleaved, .freq = b->rope_const[rope],
                               .mscale = b->rope_mscale[rope]};
    return emit(b, &op, REG_ACT, width(b, x));
}

/* The layer's cache: its own slot of a matching group, or another layer's. */
static void place_cache(build *b, int32_t layer, plan_reg k, plan_reg v)
{
    const layer_config *l = &b->c->layer[layer];
    plan_kv_group g = {.kind = l->window ? KVG_WINDOW : KVG_FULL, .window = l->window, .k_width = width(b, k)};
    if (v == PLAN_NONE) {
        g.kind = KVG_LATENT;
        g.v_is_prefix_of_k = true;
    } else {
        g.v_width = width(b, v);
    }
    b->kvgroup_of_layer[layer] = plan_add_group(b->p, g);
    b->slot_of_layer[layer] = plan_add_slot(b->p, b->kvgroup_of_layer[layer]);
    plan_op op = plan_op_init(OP_KV_STORE, layer, "kv_store");
    op.in[0] = k;
    op.in[1] = v;
    op.attr.kv.group = b->kvgroup_of_layer[layer];
    op.attr.kv.slot = b->slot_of_layer[layer];
    plan_add_op(b->p, &op);
}

plan_reg op_attend(build *b, int32_t layer, plan_reg q, plan_reg k, plan_reg v, float scale, const weight *sinks)
{
    const layer_config *l = &b->c->layer[layer];
    if (b->status != IMP_OK)
        return PLAN_NONE;
    if (l->kv_from >= 0) {
        b->kvgroup_of_layer[layer] = b->kvgroup_of_layer[l->kv_from];
        b->slot_of_layer[layer] = b->slot_of_layer[l->kv_from];
    } else {
        place_cache(b, layer, k, v);
    }
    plan_op op = plan_op_init(OP_ATTEND, layer, "attend");
    op.in[0] = q;
    op.weight[0] = plan_add_weight(b->p, sinks);
    op.attr.attend = (plan_attend){.n_head = l->n_head, .n_kv_head = l->n_kv_head, .d_k = l->d_k, .d_v = l->d_v,
                                   .scale = scale, .softcap = b->c->attn_softcap, .window = l->window,
                                   .group = b->kvgroup_of_layer[layer], .slot = b->slot_of_layer[layer]};
    return emit(b, &op, REG_ACT, l->n_head * l->d_v);
}

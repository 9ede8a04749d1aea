#include "plan/plan.h"

#include <string.h>

#include "base/mem.h"

static const struct {
    const char *name;
    uint8_t n_in, n_out, n_weight; /* least */
} op_info[OP_COUNT] = {
#define PLAN_X(name, in, out, w) [OP_##name] = {#name, in, out, w},
    PLAN_OP_LIST(PLAN_X)
#undef PLAN_X
};

const char *plan_op_name(plan_op_kind kind) { return (unsigned)kind < OP_COUNT ? op_info[kind].name : "?"; }

bool plan_op_prompt_fp8(const plan *p, int32_t op)
{
    const plan_op *o = &p->op[op];
    if (o->kind != OP_LINEAR || o->layer < 0 || p->reg[o->out[0]].dim != DIM_T || p->weight[o->weight[0]]->rows < 128)
        return false;
    for (int32_t i = op + 1; i < p->n_op; i++)
        if ((p->op[i].kind == OP_ROUTE || p->op[i].kind == OP_DECAY) && p->op[i].in[0] == o->out[0])
            return false;
    return true;
}

void plan_init(plan *p, const char *family)
{
    *p = (plan){.family = family, .logits = PLAN_NONE, .hidden = PLAN_NONE};
}

void plan_free(plan *p)
{
    mem_free(p->reg);
    mem_free(p->op);
    mem_free(p->weight);
    mem_free(p->constant);
    mem_free(p->state);
    arena_free(&p->mem);
    *p = (plan){0};
}

/* Makes room for one more element of an array kept as {pointer, count, capacity}. */
static bool room(plan *p, void **v, int32_t n, int32_t *cap, size_t size)
{
    if (n < *cap)
        return !p->failed;
    int32_t c = *cap ? *cap * 2 : 64;
    void *nv = p->failed || c > (1 << 24) ? NULL : mem_realloc(*v, (size_t)c * size);
    if (!nv) {
        p->failed = true;
        return false;
    }
    *v = nv;
    *cap = c;
    return true;
}
#define ROOM(p, field) room((p), (void **)&(p)->field, (p)->n_##field, &(p)->cap_##field, sizeof *(p)->field)

plan_reg plan_add_reg(plan *p, plan_type type, plan_dim dim, uint32_t width)
{
    if (!ROOM(p, reg))
        return PLAN_NONE;
    p->reg[p->n_reg] = (plan_register){type, dim, width, -1, -1};
    return p->n_reg++;
}

int32_t plan_add_weight(plan *p, const weight *w)
{
    if (!w)
        return PLAN_NONE;
    for (int32_t i = 0; i < p->n_weight; i++)
        if (p->weight[i] == w)
            return i;
    if (!ROOM(p, weight))
        return PLAN_NONE;
    p->weight[p->n_weight] = w;
    return p->n_weight++;
}

int32_t plan_add_constant(plan *p, const float *v, uint32_t n)
{
    for (int32_t i = 0; i < p->n_constant; i++)
        if (p->constant[i].n == n && memcmp(p->constant[i].v, v, n * sizeof *v) == 0)
            return i;
    float *c = ARENA_ARRAY(&p->mem, float, n);
    if (!c || !ROOM(p, constant)) {
        p->failed = true;
        return PLAN_NONE;
    }
    memcpy(c, v, n * sizeof *v);
    p->constant[p->n_constant] = (plan_constant){c, n};
    return p->n_constant++;
}

int32_t plan_add_group(plan *p, plan_kv_group g)
{
    g.n_slot = 0;
    for (int32_t i = 0; i < p->n_group; i++) {
        plan_kv_group *o = &p->group[i];
        if (o->kind == g.kind && o->window == g.window && o->k_width == g.k_width && o->v_width == g.v_width &&
            o->v_is_prefix_of_k == g.v_is_prefix_of_k)
            return i;
    }
    if (p->n_group == PLAN_MAX_GROUPS) {
        p->failed = true;
        return PLAN_NONE;
    }
    p->group[p->n_group] = g;
    return p->n_group++;
}

int32_t plan_add_slot(plan *p, int32_t group)
{
    if (group < 0 || group >= p->n_group) {
        p->failed = true;
        return PLAN_NONE;
    }
    return (int32_t)p->group[group].n_slot++;
}

int32_t plan_add_state(plan *p, const char *name, uint64_t n_float)
{
    if (p->n_state >= PLAN_MAX_STATES || !ROOM(p, state)) {
        p->failed = true;
        return PLAN_NONE;
    }
    p->state[p->n_state] = (plan_state){name, n_float};
    return p->n_state++;
}

plan_op plan_op_init(plan_op_kind kind, int32_t layer, const char *role)
{
    plan_op op;
    memset(&op, 0, sizeof op);
    op.kind = kind;
    op.layer = layer;
    op.role = role;
    for (size_t i = 0; i < sizeof op.in / sizeof *op.in; i++)
        op.in[i] = PLAN_NONE;
    for (size_t i = 0; i < sizeof op.out / sizeof *op.out; i++)
        op.out[i] = PLAN_NONE;
    for (size_t i = 0; i < sizeof op.weight / sizeof *op.weight; i++)
        op.weight[i] = PLAN_NONE;
    return op;
}

void plan_add_op(plan *p, const plan_op *op)
{
    if (ROOM(p, op))
        p->op[p->n_op++] = *op;
}

/* ---- checking --------------------------------------------------------------------------------------------------- */
#define N_IN ((int)(sizeof((plan_op *)0)->in / sizeof(plan_reg)))
#define N_OUT ((int)(sizeof((plan_op *)0)->out / sizeof(plan_reg)))
#define N_W ((int)(sizeof((plan_op *)0)->weight / sizeof(int32_t)))

static imp_status complain(const plan *p, int32_t i, const char *what, imp_err *e)
{
    const plan_op *o = &p->op[i];
    return err_set(e, IMP_E_INTERNAL, "plan %s: operation %d (layer %d %s %s): %s", p->family, i, o->layer,
                   o->role ? o->role : "?", plan_op_name(o->kind), what);
}

static uint32_t width(const plan *p, plan_reg r) { return r == PLAN_NONE ? 0 : p->reg[r].width; }

/* Operands exist, are defined before use, and results are defined once. */
static imp_status check_operands(plan *p, int32_t i, imp_err *e)
{
    const plan_op *o = &p->op[i];
    if ((unsigned)o->kind >= OP_COUNT || !o->role)
        return complain(p, i, "unknown kind or no role", e);
    for (int j = 0; j < N_IN; j++) {
        plan_reg r = o->in[j];
        if (r == PLAN_NONE) {
            if (j < op_info[o->kind].n_in)
                return complain(p, i, "an operand is missing", e);
            continue;
        }
        if (r < 0 || r >= p->n_reg || p->reg[r].def < 0)
            return complain(p, i, "an operand is read before it is written", e);
        p->reg[r].last_use = i;
    }
    for (int j = 0; j < N_W; j++)
        if (o->weight[j] == PLAN_NONE ? j < op_info[o->kind].n_weight : o->weight[j] < 0 || o->weight[j] >= p->n_weight)
            return complain(p, i, "a weight is missing", e);
    for (int j = 0; j < N_OUT; j++) {
        plan_reg r = o->out[j];
        if ((r == PLAN_NONE) != (j >= op_info[o->kind].n_out))
            return complain(p, i, "wrong number of results", e);
        if (r == PLAN_NONE)
            continue;
        if (r < 0 || r >= p->n_reg || p->reg[r].def >= 0)
            return complain(p, i, "a register is written twice", e);
        p->reg[r].def = i;
        p->reg[r].last_use = i;
    }
    return IMP_OK;
}

static bool shape_linear(const plan *p, const plan_op *o)
{
    const weight *w = p->weight[o->weight[0]];
    return w->cols == width(p, o->in[0]) && w->rows == width(p, o->out[0]);
}

static bool shape_attend(const plan *p, const plan_op *o)
{
    const plan_attend *a = &o->attr.attend;
    if (a->group < 0 || a->group >= p->n_group || a->slot < 0 || (uint32_t)a->slot >= p->group[a->group].n_slot)
        return false;
    const plan_kv_group *g = &p->group[a->group];
    return a->n_kv_head && a->n_head % a->n_kv_head == 0 && width(p, o->in[0]) == a->n_head * a->d_k &&
           width(p, o->out[0]) == a->n_head * a->d_v && g->k_width == a->n_kv_head * a->d_k &&
           (g->v_is_prefix_of_k ? a->d_v <= a->d_k : g->v_width == a->n_kv_head * a->d_v);
}

/* Shapes, for the kinds where a mistake in a family would otherwise become a wrong answer or a wild read. */
static bool shape_ok(const plan *p, const plan_op *o)
{
    uint32_t in = width(p, o->in[0]), out = width(p, o->out[0]);
    const weight *w = o->weight[0] == PLAN_NONE ? NULL : p->weight[o->weight[0]];
    switch (o->kind) {
    case OP_LINEAR: return shape_linear(p, o);
    case OP_EMBED: return w->cols == out;
    case OP_NORM: {
        uint32_t g = o->attr.norm.group ? o->attr.norm.group : in;
        return in == out && g && in % g == 0 && (!w || w->rows * w->cols == (o->attr.norm.w_full ? in : g));
    }
    case OP_L2NORM: return in == out && o->attr.l2norm.group && in % o->attr.l2norm.group == 0;
    case OP_ADD: return in == out && in == width(p, o->in[1]);
    case OP_SCALE: case OP_SOFTCAP: case OP_GATHER: return in == out;
    case OP_ACT: return in == out;
    case OP_GLU: return o->in[1] == PLAN_NONE ? in == 2 * out : in == out && width(p, o->in[1]) == out;
    case OP_GATE: return in == out && width(p, o->in[1]) && in % width(p, o->in[1]) == 0;
    case OP_ROPE:
        return in == out && in == o->attr.rope.n_head * o->attr.rope.head_dim && o->attr.rope.rot % 2 == 0 &&
               o->attr.rope.rot_off + o->attr.rope.rot <= o->attr.rope.head_dim && o->attr.rope.freq >= 0 &&
               o->attr.rope.freq < p->n_constant && p->constant[o->attr.rope.freq].n == o->attr.rope.rot / 2;
    case OP_SLICE:
        return o->attr.slice.groups && out == o->attr.slice.groups * o->attr.slice.width &&
               (uint64_t)(o->attr.slice.groups - 1) * o->attr.slice.stride +
                   o->attr.slice.off + o->attr.slice.width <= in;
    case OP_KV_STORE: {
        if (o->attr.kv.group < 0 || o->attr.kv.group >= p->n_group)
            return false;
        const plan_kv_group *g = &p->group[o->attr.kv.group];
        return o->attr.kv.slot >= 0 && (uint32_t)o->attr.kv.slot < g->n_slot && in == g->k_width &&
               (g->v_is_prefix_of_k ? o->in[1] == PLAN_NONE : width(p, o->in[1]) == g->v_width);
    }
    case OP_ATTEND: return shape_attend(p, o);
    case OP_ROUTE: return in == o->attr.route.n_expert && out == o->attr.route.k && out && out <= in;
    case OP_EXPERT_LINEAR:
        return w->rows * o->attr.expert.k == out &&
               w->cols * (o->attr.expert.x_per_choice ? o->attr.expert.k : 1) == in;
    case OP_COMBINE: return out * o->attr.expert.k == in && width(p, o->in[1]) == o->attr.expert.k;
    case OP_HEAD_LINEAR:
        return w->n_expert == o->attr.head_linear.n_head && w->cols * w->n_expert == in && w->rows * w->n_expert == out;
    case OP_CONCAT: {
        uint32_t g = o->attr.concat.groups, b = width(p, o->in[1]);
        return g && in % g == 0 && out == in + (o->attr.concat.b_shared ? b * g : b);
    }
    case OP_CONV: return in == out && w->rows * w->cols == (uint64_t)in * o->attr.conv.taps && o->attr.conv.state >= 0;
    case OP_GDN:
        return o->attr.gdn.n_k_head && o->attr.gdn.n_v_head % o->attr.gdn.n_k_head == 0 &&
               in == o->attr.gdn.n_k_head * o->attr.gdn.d_k && out == o->attr.gdn.n_v_head * o->attr.gdn.d_v;
    case OP_MAMBA2: return in == out && in == o->attr.mamba2.n_head * o->attr.mamba2.head_dim;
    case OP_MUL: {
        uint32_t b = width(p, o->in[1]);
        return in == out && (b == in || b == 1 || (w && (w->rows * w->cols == in || w->rows * w->cols == 1)));
    }
    case OP_HIDDEN: return out == p->n_hidden;
    case OP_DECAY: return in == out && w->rows * w->cols == in;
    case OP_ATTEND_FREE: return true; /* checked by its only maker, the vision tower */
    default: return false;
    }
}

imp_status plan_finish(plan *p, imp_err *e)
{
    if (p->failed || p->mem.failed)
        return err_set(e, IMP_E_NOMEM, "plan %s: out of memory or too large", p->family);
    for (int32_t i = 0; i < p->n_op; i++) {
        imp_status s = check_operands(p, i, e);
        if (s != IMP_OK)
            return s;
        if (!shape_ok(p, &p->op[i]))
            return complain(p, i, "shapes do not fit", e);
        p->takes_hidden |= p->op[i].kind == OP_HIDDEN;
        for (int32_t j = 0; j < i; j++)
            if (p->op[j].layer == p->op[i].layer && strcmp(p->op[j].role, p->op[i].role) == 0)
                return complain(p, i, "its site is taken", e);
    }
    plan_reg outputs[] = {p->logits, p->hidden};
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++)
        if (outputs[i] != PLAN_NONE) {
            if (p->reg[outputs[i]].def < 0)
                return err_set(e, IMP_E_INTERNAL, "plan %s: an output is never written", p->family);
            p->reg[outputs[i]].last_use = p->n_op;
        }
    return IMP_OK;
}

/* ---- printing --------------------------------------------------------------------------------------------------- */
static void print_reg(const plan *p, plan_reg r, strbuf *out)
{
    static const char dim[] = {[DIM_T] = 'T', [DIM_R] = 'R', [DIM_P] = 'P'};
    static const char *const type[] = {[REG_ACT] = "", [REG_WIDE] = " wide", [REG_IDX] = " idx"};
    sb_printf(out, "r%d[%c,%u%s]", r, dim[p->reg[r].dim], p->reg[r].width, type[p->reg[r].type]);
}

void plan_print(const plan *p, const char *(*kernel)(void *user, int32_t op), void *user, strbuf *out)
{
    sb_printf(out, "plan %s: %d operations, %d registers, %d weights\n", p->family, p->n_op, p->n_reg, p->n_weight);
    for (int32_t i = 0; i < p->n_group; i++) {
        const plan_kv_group *g = &p->group[i];
        const char *kind = g->kind == KVG_FULL ? "full" : g->kind == KVG_WINDOW ? "window" : "latent";
        sb_printf(out, "kv group %d: %s", i, kind);
        if (g->window)
            sb_printf(out, " %u", g->window);
        sb_printf(out, ", %u slots, k %u, v %u\n", g->n_slot, g->k_width, g->v_is_prefix_of_k ? 0 : g->v_width);
    }
    for (int32_t i = 0; i < p->n_op; i++) {
        const plan_op *o = &p->op[i];
        sb_printf(out, "%4d %3d %-16s %-13s", i, o->layer, o->role, plan_op_name(o->kind));
        for (int j = 0; j < N_OUT; j++)
            if (o->out[j] != PLAN_NONE) {
                print_reg(p, o->out[j], out);
                sb_char(out, ' ');
            }
        sb_str(out, "<-");
        for (int j = 0; j < N_IN; j++)
            if (o->in[j] != PLAN_NONE)
                sb_printf(out, " r%d", o->in[j]);
        for (int j = 0; j < N_W; j++)
            if (o->weight[j] != PLAN_NONE) {
                const weight *w = p->weight[o->weight[j]];
                const quant_fmt *f = quant_get(w->format);
                sb_printf(out, " %s %s[", w->name, f ? f->name : "?");
                if (w->n_expert > 1)
                    sb_printf(out, "%u,", w->n_expert);
                sb_printf(out, "%llu,%llu]", (unsigned long long)w->rows, (unsigned long long)w->cols);
            }
        if (kernel)
            sb_printf(out, "  : %s", kernel(user, i));
        sb_char(out, '\n');
    }
}

uint64_t plan_kv_bytes_per_token(const plan *p, double bits)
{
    double n = 0;
    for (int32_t i = 0; i < p->n_group; i++) {
        const plan_kv_group *g = &p->group[i];
        n += (double)g->n_slot * (g->k_width + (g->v_is_prefix_of_k ? 0 : g->v_width));
    }
    return (uint64_t)(n * bits / 8);
}

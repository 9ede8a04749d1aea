/* Compiling: instructions, barriers, memory. */
#include "backend/cpu/exec.h"

#include <string.h>

#include "base/ck.h"
#include "base/mem.h"

/* ---- registers --------------------------------------------------------------------------------------------------- */
static int32_t add_reg(bexec *x, plan_dim dim, uint32_t width, bool quantised, int32_t source)
{
    if (x->n_reg == x->cap_reg)
        return -1;
    uint32_t ld = (width + 15) / 16 * 16;
    x->reg[x->n_reg] = (xreg){.dim = dim, .width = width, .ld = ld, .quantised = quantised, .source = source,
                              .epoch = -1, .last = -1};
    return x->n_reg++;
}

/* ---- instructions ------------------------------------------------------------------------------------------------ */

/* May `in`, split as `split`, read register r without a barrier? */
static bool readable(const bexec *x, const instr *in, int32_t r, cpu_split split, bool elementwise)
{
    const xreg *g = &x->reg[r];
    if (g->epoch != x->epoch)
        return true;
    if (split == SPLIT_OTHER || g->split != split)
        return false;
    if (split == SPLIT_COL)
        return elementwise && x->reg[in->out[0]].width == g->width;
    return in->out[0] < 0 || x->reg[in->out[0]].dim == g->dim;
}

static bool all_readable(const bexec *x, const instr *in, cpu_split split, bool elementwise)
{
    for (size_t i = 0; i < CK_COUNT(in->in); i++)
        if (in->in[i] >= 0 && !readable(x, in, in->in[i], split, elementwise))
            return false;
    return in->table < 0 || readable(x, in, in->table, split, false);
}

/* Settles split and barrier, notes liveness, appends. reads_rows: what the operation itself reads of its operands, so
 * that a LINEAR (COL writer) still waits for all of its input. */
static void append(bexec *x, instr *in, bool elementwise)
{
    bool ok = false;
    if (elementwise && all_readable(x, in, SPLIT_COL, true)) {
        for (size_t i = 0; i < CK_COUNT(in->in) && !ok; i++) /* follows a COL writer of this epoch */
            ok = in->in[i] >= 0 && x->reg[in->in[i]].epoch == x->epoch;
        if (ok)
            in->split = SPLIT_COL;
    }
    if (!ok)
        ok = in->split != SPLIT_COL && all_readable(x, in, in->split, false);
    if (!ok && in->split == SPLIT_COL)
        ok = all_readable(x, in, SPLIT_OTHER, false);
    if (in->op && in->op->kind == OP_ATTEND && x->kv_epoch == x->epoch)
        ok = false;
    if (!ok) {
        in->barrier = true;
        x->epoch++;
    }
    if (in->op && in->op->kind == OP_KV_STORE)
        x->kv_epoch = x->epoch;
    for (size_t i = 0; i < CK_COUNT(in->in); i++)
        if (in->in[i] >= 0)
            x->reg[in->in[i]].last = x->epoch;
    if (in->table >= 0)
        x->reg[in->table].last = x->epoch;
    for (size_t i = 0; i < CK_COUNT(in->out); i++)
        if (in->out[i] >= 0) {
            xreg *r = &x->reg[in->out[i]];
            r->epoch = r->last = x->epoch;
            r->split = in->split;
        }
    x->code[x->n_code++] = *in;
}

static instr instr_init(instr_fn run, const plan_op *op, cpu_split split)
{
    instr in = {.run = run, .op = op, .split = split, .in = {-1, -1, -1, -1, -1, -1}, .out = {-1, -1}, .table = -1};
    return in;
}

/* The quantised form of register r, made when operation `op` needs it first. */
static int32_t quantised(bexec *x, int32_t r, int32_t op)
{
    for (int32_t i = x->p->n_reg; i < x->n_reg; i++)
        if (x->reg[i].quantised && x->reg[i].source == r)
            return i;
    instr in = instr_init(run_quantise, NULL, SPLIT_TOKEN);
    in.in[0] = r;
    in.out[0] = add_reg(x, x->reg[r].dim, x->reg[r].width, true, r);
    if (in.out[0] < 0)
        return -1;
    x->reg[in.out[0]].form = op > x->last_route ? CPU_Q12 : CPU_Q22;
    append(x, &in, true);
    return in.out[0];
}

/* The table of cosines and sines that a rotation needs: T rows of rot values, shared by equal rotations. */
static int32_t rope_table(bexec *x, const plan_rope *r)
{
    for (int32_t i = 0; i < x->n_code; i++) {
        const plan_rope *o = x->code[i].rope;
        if (o && o->freq == r->freq && o->rot == r->rot && o->mscale == r->mscale &&
            memcmp(o->section, r->section, sizeof r->section) == 0)
            return x->code[i].out[0];
    }
    instr in = instr_init(run_rope_table, NULL, SPLIT_TOKEN);
    in.rope = r;
    in.out[0] = add_reg(x, DIM_T, r->rot, false, -1);
    if (in.out[0] >= 0)
        append(x, &in, false);
    return in.out[0];
}

/* ---- one operation ----------------------------------------------------------------------------------------------- */
static imp_status unsupported(const bexec *x, int32_t i, const char *why, imp_err *e)
{
    const plan_op *o = &x->p->op[i];
    const weight *w = o->weight[0] >= 0 ? x->p->weight[o->weight[0]] : NULL;
    return err_set(e, IMP_E_UNSUPPORTED,
                   "plan %s: operation %d (layer %d %s %s%s%s): the cpu backend has no kernel for %s", x->p->family, i,
                   o->layer, o->role, plan_op_name(o->kind), w ? ", weight " : "", w ? w->name : "", why);
}

static bool is_product(plan_op_kind k) { return k == OP_LINEAR || k == OP_EXPERT_LINEAR || k == OP_HEAD_LINEAR; }

static const char *product_kernel(const bexec *x, const bweight *w, arena *a)
{
    const quant_fmt *f = quant_get(w->w->format);
    if (w->pack)
        return arena_printf(a, "packed %s, int8 activations, %s", f->name, x->be->mm->isa);
    if (w->plain != QUANT_NONE)
        return arena_printf(a, "%s rows, f32 activations, %s", f->name, x->be->ops->isa);
    return arena_printf(a, "generic: %s decoded to f32, %s", f ? f->name : "?", x->be->ops->isa);
}

static uint32_t store_heads(const plan *p, const plan_op *o)
{
    for (int32_t i = 0; i < p->n_op; i++) {
        const plan_attend *a = &p->op[i].attr.attend;
        if (p->op[i].kind == OP_ATTEND && a->group == o->attr.kv.group && a->slot == o->attr.kv.slot)
            return a->n_kv_head;
    }
    return 1;
}

static imp_status compile_op(bexec *x, int32_t i, bweight *const *w, imp_err *e)
{
    const plan_op *o = &x->p->op[i];
    const op_row *row = &cpu_op_table[o->kind];
    if (!row->run)
        return unsupported(x, i, "this kind of operation", e);
    instr in = instr_init(row->run, o, row->split);
    for (int j = 0; j < 3; j++)
        in.w[j] = o->weight[j] >= 0 ? w[o->weight[j]] : NULL;
    for (size_t j = 0; j < CK_COUNT(in.in); j++)
        in.in[j] = o->in[j];
    for (size_t j = 0; j < CK_COUNT(in.out); j++)
        in.out[j] = o->out[j];
    if (o->kind == OP_KV_STORE)
        in.n_head = store_heads(x->p, o);
    bool matrix = is_product(o->kind) || o->kind == OP_EMBED;
    for (int j = 0; j < 3; j++)
        if (in.w[j] && !(matrix && j == 0) && !in.w[j]->vec)
            return unsupported(x, i, "a matrix where a vector is wanted", e);
    if (matrix && in.w[0]->vec && !in.w[0]->pack && in.w[0]->plain == QUANT_NONE)
        return unsupported(x, i, "a vector where a matrix is wanted", e);
    if (is_product(o->kind) && in.w[0]->pack) {
        in.in[0] = quantised(x, in.in[0], i);
        if (in.in[0] < 0)
            return err_oom(e, "registers", 0);
    }
    if (o->kind == OP_ROPE) {
        in.table = rope_table(x, &o->attr.rope);
        if (in.table < 0)
            return err_oom(e, "registers", 0);
    }
    x->kernel[i] = is_product(o->kind) ? product_kernel(x, in.w[0], &x->mem)
                                       : arena_printf(&x->mem, "%s, %s", row->name, x->be->ops->isa);
    append(x, &in, row->elementwise);
    return IMP_OK;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */
static bool reg_bytes(const bexec *x, xreg *r)
{
    uint64_t rows = (uint64_t)(r->dim == DIM_R ? x->lim.n_row : x->lim.n_tok);
    if (r->quantised) {
        r->bytes = qact_bytes(r->form, (r->width + 31) / 32, (long)rows);
        return ck_align(r->bytes, 64, &r->bytes);
    }
    return ck_mul(rows, (uint64_t)r->ld * sizeof(float), &r->bytes) && ck_align(r->bytes, 64, &r->bytes);
}

/* First fit: the lowest place that no register alive at the same time covers. */
static void place(bexec *x, int32_t i, int32_t n_epoch)
{
    xreg *r = &x->reg[i];
    bool again = true;
    r->off = 0;
    while (again) {
        again = false;
        for (int32_t j = 0; j < i; j++) {
            const xreg *o = &x->reg[j];
            if (o->last < 0 || o->last < r->epoch || r->last < o->epoch)
                continue;
            if (r->off < o->off + o->bytes && o->off < r->off + r->bytes) {
                r->off = o->off + o->bytes;
                again = true;
            }
        }
    }
    (void)n_epoch;
}

static imp_status allocate(bexec *x, imp_err *e)
{
    uint64_t end = 0, scratch = cpu_attend_work(1, 1) * sizeof(float);
    for (int32_t i = 0; i < x->n_reg; i++) {
        xreg *r = &x->reg[i];
        if (r->last < 0)
            continue;
        if (!reg_bytes(x, r))
            return err_set(e, IMP_E_LIMIT, "workspace: register %d is too large", i);
        place(x, i, x->epoch);
        if (r->off + r->bytes > end)
            end = r->off + r->bytes;
    }
    for (int32_t i = 0; i < x->n_code; i++) {
        const instr *in = &x->code[i];
        uint64_t n = 0;
        if (in->op && in->op->kind == OP_ATTEND)
            n = cpu_attend_work(in->op->attr.attend.d_k, in->op->attr.attend.d_v) * sizeof(float);
        else if (in->op && in->op->kind == OP_LINEAR)
            n = in->w[0]->pack ? cpu_mm_scratch(in->w[0]->w->cols) : 4 * (in->w[0]->w->cols + 16) * sizeof(float);
        else if (in->op && (in->op->kind == OP_EXPERT_LINEAR || in->op->kind == OP_HEAD_LINEAR))
            n = cpu_expert_scratch(in->w[0]);
        else if (in->op && in->op->kind == OP_ROUTE)
            n = cpu_route_scratch(&in->op->attr.route);
        scratch = n > scratch ? n : scratch;
    }
    if (sample_work_bytes((int32_t)x->p->n_vocab) > scratch)
        scratch = sample_work_bytes((int32_t)x->p->n_vocab);
    x->scratch_bytes = (scratch + 4095) / 4096 * 4096;
    x->off_scratch = end;
    x->n_work = end + (uint64_t)x->be->n_thread * x->scratch_bytes;
    x->work = mem_map(x->n_work);
    if (!x->work)
        return err_oom(e, "workspace", x->n_work);
    x->be->n_work += x->n_work;
    return IMP_OK;
}

static imp_status step_tables(bexec *x, imp_err *e)
{
    size_t rows = (size_t)x->lim.n_row, toks = (size_t)x->lim.n_tok, seqs = (size_t)x->lim.n_seq;
    x->id = ARENA_ARRAY(&x->mem, int32_t, toks);
    x->ext = ARENA_ARRAY(&x->mem, int32_t, toks);
    x->last_id = ARENA_ARRAY(&x->mem, int32_t, seqs);
    x->best = ARENA_ARRAY(&x->mem, long, rows * (size_t)x->be->n_thread);
    for (int i = 0; i < 2; i++) {
        x->out[i].row = ARENA_ARRAY(&x->mem, sample_row_out, rows);
        x->out[i].status = ARENA_ARRAY(&x->mem, imp_status, rows);
    }
    return x->mem.failed ? err_oom(e, "step tables", rows * sizeof(sample_row_out)) : IMP_OK;
}

/* A router picks experts by differences. On the goldens two experts came as close as 1.1e-5, where 15 bits were off by
 * 2e-5 (and 12 bits by 2e-4): one such token of 192 makes the mean KL 5e-3. So what lies before a router takes the form
 * that is as exact as f32 sums; what comes after the last one (its experts' second product, the head) decides nothing
 * any more. */
static int32_t last_route(const plan *p)
{
    int32_t i = p->n_op - 1;
    while (i >= 0 && p->op[i].kind != OP_ROUTE)
        i--;
    return i;
}

imp_status cpu_compile(backend *b, const plan *p, bweight *const *w, kvcache *kv, const plan_limits *lim, bexec **out,
                       imp_err *e)
{
    *out = NULL;
    if (p->n_group && (!kv || kv->p != p))
        return err_set(e, IMP_E_INTERNAL, "compile: plan %s needs a KV cache of its own", p->family);
    if (lim->n_tok < 1 || lim->n_row < 0 || lim->n_seq < 1)
        return err_set(e, IMP_E_USAGE, "compile: wanted room for a token and a sequence, got %d and %d", lim->n_tok,
                       lim->n_seq);
    bexec *x = mem_calloc(1, sizeof *x);
    if (!x)
        return err_oom(e, "executable", sizeof *x);
    x->be = b;
    x->p = p;
    x->kv = kv;
    x->lim = *lim;
    x->kv_epoch = -1;
    x->last_route = last_route(p);
    x->cap_reg = p->n_reg + p->n_op + 64;
    x->cap_code = 3 * p->n_op + 64;
    x->reg = ARENA_ARRAY(&x->mem, xreg, (size_t)x->cap_reg);
    x->code = ARENA_ARRAY(&x->mem, instr, (size_t)x->cap_code);
    x->kernel = ARENA_ARRAY(&x->mem, const char *, (size_t)p->n_op);
    imp_status s = x->mem.failed ? err_oom(e, "executable", (uint64_t)x->cap_code * sizeof(instr)) : step_tables(x, e);
    for (int32_t i = 0; i < p->n_reg && s == IMP_OK; i++) {
        add_reg(x, p->reg[i].dim, p->reg[i].width, false, -1);
        x->reg[i].idx = p->reg[i].type == REG_IDX;
    }
    for (int32_t i = 0; i < p->n_op && s == IMP_OK; i++)
        s = compile_op(x, i, w, e);
    if (s == IMP_OK && x->mem.failed)
        s = err_oom(e, "executable", 0);
    if (s == IMP_OK) {
        if (p->logits >= 0)
            x->reg[p->logits].last = x->epoch + 1;
        if (p->hidden >= 0)
            x->reg[p->hidden].last = x->epoch + 1;
        s = allocate(x, e);
    }
    if (s != IMP_OK) {
        cpu_exec_free(x);
        return s;
    }
    *out = x;
    return IMP_OK;
}

uint64_t cpu_exec_workspace(const bexec *x) { return x->n_work + x->mem.n_bytes; }

const char *cpu_exec_kernel(const bexec *x, int32_t op) { return op >= 0 && op < x->p->n_op ? x->kernel[op] : ""; }

void cpu_exec_free(bexec *x)
{
    if (!x)
        return;
    if (x->work) {
        x->be->n_work -= x->n_work;
        mem_unmap(x->work, x->n_work);
    }
    arena_free(&x->mem);
    mem_free(x);
}

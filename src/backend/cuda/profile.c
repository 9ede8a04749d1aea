/* Time by role, for `imp bench --profile` and the GPU test; and what serves an operation, for inspect. */
#include <stdio.h>
#include <string.h>

#include "backend/cuda/exec.h"

const char *exec_op_kernel(const bexec *x, int32_t op)
{
    const node *n = &x->node[x->node_of_op[op]];
    const plan_op *o = &x->p->op[n->op];
    static const char *const kinds[OP_COUNT] = {
        [OP_EMBED] = "embed", [OP_GATHER] = "gather", [OP_NORM] = "norm", [OP_L2NORM] = "norm_group",
        [OP_ADD] = "add", [OP_MUL] = "mul", [OP_SCALE] = "unary", [OP_SOFTCAP] = "unary", [OP_ACT] = "unary",
        [OP_GLU] = "glu", [OP_GATE] = "gate", [OP_ROPE] = "rope", [OP_SLICE] = "slice", [OP_CONCAT] = "concat",
        [OP_KV_STORE] = "kv_store", [OP_ROUTE] = "route", [OP_COMBINE] = "combine",
        [OP_CONV] = "conv", [OP_GDN] = "gdn", [OP_MAMBA2] = "mamba2", [OP_DECAY] = "decay"};
    static const char *const products[LAY_COUNT] = {
        "gemv/rows F16", "gemv/rows I8", "gemv/rows U4", "gemv/rows NV4",
        "gemv/rows Q4K", "gemv/rows Q5K", "gemv/rows Q6K", "gemv/rows F8"};
    static const char *const products8[LAY_COUNT] = {
        "gemv/rows F16, prompts fp8", "gemv/rows I8, prompts fp8", "gemv/rows U4, prompts fp8",
        "gemv/rows NV4, prompts fp8", "gemv/rows Q4K, prompts fp8", "gemv/rows Q5K, prompts fp8",
        "gemv/rows Q6K, prompts fp8", "gemv/rows F8, prompts fp8"};
    static const char *const mixed[LAY_COUNT] = {
        "experts F16", "experts I8", "experts U4", "experts NV4",
        "experts Q4K", "experts Q5K", "experts Q6K", "experts F8"};
    if (n->mix && n->kind == NODE_OP)
        return o->kind == OP_ROUTE ? "route/experts" : "combine/experts";
    if (n->kind == NODE_LINEAR && x->b->precise)
        return exec_precise_name(x->w[x->p->op[n->lin[0]].weight[0]]->d.layout);
    if (n->kind == NODE_LINEAR)
        return (n->mix ? mixed : n->fp8 ? products8 : products)[x->w[x->p->op[n->lin[0]].weight[0]]->d.layout];
    if (n->kind == NODE_QKV)
        return "qkv (norm, rope, kv_store)";
    if (o->kind == OP_ATTEND)
        return exec_attend_width(x, &o->attr.attend) ? "attend_d/attend_p" :
               x->kv->type == KV_F32 ? "attend_f (any, f32)" : "attend_h (any)";
    return kinds[o->kind] ? kinds[o->kind] : "?";
}

static const char *role_of(const bexec *x, int32_t i)
{
    const node *n = &x->node[i];
    return x->p->op[n->kind == NODE_LINEAR ? n->lin[0] : n->op].role;
}

/* Bytes of weights that a node reads, as the file has them. */
static double bytes_of(const bexec *x, const node *n)
{
    const mixture *m = n->mix;
    double sum = m && n == &x->node[m->up] && exec_routes_now(x, m) ? bytes_of(x, &x->node[m->router]) : 0;
    for (int32_t i = 0; n->kind == NODE_LINEAR && i < n->n_lin; i++) {
        const plan_op *o = &x->p->op[n->lin[i]];
        const weight *w = x->p->weight[o->weight[0]];
        double experts = o->kind == OP_EXPERT_LINEAR ? (double)o->attr.expert.k * x->n_tok : (double)w->n_expert;
        sum += (double)w->n_bytes * (experts < (double)w->n_expert ? experts / (double)w->n_expert : 1);
    }
    return sum;
}

imp_status exec_run_profile(bexec *x, int32_t reps, exec_profile *out, imp_err *e)
{
    cu_api *cu = &x->b->cu;
    CUevent t0 = NULL, t1 = NULL;
    imp_status s = cuda_enter(x->b, e);
    if (s == IMP_OK)
        s = cu_check(cu, cu->EventCreate(&t0, 0), e, "creating an event");
    if (s == IMP_OK)
        s = cu_check(cu, cu->EventCreate(&t1, 0), e, "creating an event");
    out->n = 0;
    out->n_step = x->n_timed;
    out->idle_us = x->n_timed ? x->idle_ms * 1e3 / (double)x->n_timed : 0;
    out->step_us = x->n_timed ? x->step_ms * 1e3 / (double)x->n_timed : 0;
    x->n_timed = 0;
    x->idle_ms = x->step_ms = 0;
    x->keep_sent = true; /* nodes run out of turn, and more than once */
    for (int32_t i = 0; i < x->n_node && s == IMP_OK; i++) {
        const char *role = role_of(x, i);
        bool seen = false;
        for (int32_t j = 0; j < i && !seen; j++)
            seen = strcmp(role_of(x, j), role) == 0;
        const mixture *elsewhere = x->node[i].routes;
        if (seen || out->n == 64 || (x->n_row == 0 && x->p->op[x->node[i].op].layer < 0) ||
            (elsewhere && exec_routes_now(x, elsewhere)))
            continue;
        exec_profile_row *r = &out->row[out->n++];
        *r = (exec_profile_row){0};
        snprintf(r->name, sizeof r->name, "%s: %s", role, exec_op_kernel(x, x->node[i].op));
        float ms = 0;
        for (int32_t k = 0; k <= reps && s == IMP_OK; k++) {
            if (k == 1)
                cu->EventRecord(t0, x->b->stream); /* the first round warms up */
            r->count = 0;
            for (int32_t j = i; j < x->n_node && s == IMP_OK; j++)
                if (strcmp(role_of(x, j), role) == 0) {
                    s = exec_node(x, j, e);
                    r->bytes += k ? 0 : bytes_of(x, &x->node[j]);
                    r->count++;
                }
        }
        cu->EventRecord(t1, x->b->stream);
        if (s == IMP_OK)
            s = cu_check(cu, cu->EventSynchronize(t1), e, "profiling %s", role);
        if (s == IMP_OK)
            cu->EventElapsedTime(&ms, t0, t1);
        r->us = (double)ms * 1e3 / (reps ? reps : 1);
    }
    x->keep_sent = false;
    if (s == IMP_OK)
        s = exec_unsend(x, e);
    if (t0)
        cu->EventDestroy(t0);
    if (t1)
        cu->EventDestroy(t1);
    return s;
}

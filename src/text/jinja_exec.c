/* Statements: scopes, loops, macros, blocks. A scope is a jenv; macros and loops keep the one they were made in. */
#include <string.h>

#include "text/jinja_impl.h"

static jflow body(jx *c, const jnode *n, jenv *env, jbuf *out)
{
    return n ? jx_exec(c, (const jnode *const *)n->list, n->n, env, out) : JF_NEXT;
}

static const jstr *captured(jx *c, const jnode *n, jenv *env)
{
    jbuf b = {.c = c, .markup = c->autoescape};
    body(c, n, env, &b);
    return jb_done(&b);
}

static void assign_to(jx *c, const jnode *t, jenv *env, jval v)
{
    c->pos = t->pos;
    if (t->kind == N_NAME) {
        jx_assign(c, env, t->sym, v);
        return;
    }
    if (t->kind == N_NSREF) {
        jval ns = jx_lookup(c, env, t->sym);
        if (ns.t == J_UNDEF)
            jx_undefined(c, ns);
        if (ns.t != J_NS)
            jx_type_error(c, "cannot assign attribute on non-namespace object");
        jd_set(c, ns.u.d, jv_str(t->str), v);
        return;
    }
    if (v.t == J_UNDEF)
        jx_undefined(c, v);
    jlist *l = jv_iter_or_null(c, v);
    if (!l)
        jx_type_error(c, "cannot unpack non-iterable %s object", jv_type(v));
    if (l->n != t->n)
        jx_type_error(c, "%s values to unpack (expected %u%s)", l->n > t->n ? "too many" : "not enough", t->n,
                      l->n > t->n ? "" : ", got fewer");
    for (uint32_t i = 0; i < t->n; i++)
        assign_to(c, t->list[i], env, l->v[i]);
}

/* ---- loops ---- */

static jval loop_val(jx *c, const jloop *l, size_t i, const char *hint)
{
    return i < l->items->n ? l->items->v[i] : jv_undef(c, hint);
}

static jval loop_cycle(jx *c, jcall *k)
{
    const jloop *l = k->self.u.p;
    if (!k->args->n_pos)
        jx_type_error(c, "no items for cycling given");
    return k->args->pos[l->i % k->args->n_pos];
}

static jval loop_changed(jx *c, jcall *k)
{
    jloop *l = k->self.u.p;
    const jargs *a = k->args;
    bool same = l->has_changed && l->n_changed == a->n_pos;
    for (size_t i = 0; same && i < a->n_pos; i++)
        same = jv_eq(c, l->changed[i], a->pos[i]);
    l->has_changed = true;
    l->changed = a->pos;
    l->n_changed = a->n_pos;
    return jval_bool(!same);
}

const jrow jinja_loop_methods[] = {{"cycle", loop_cycle, 0, -1, {0}}, {"changed", loop_changed, 0, -1, {0}}, {0}};

jval jloop_getattr(jx *c, jloop *l, const jstr *name, bool *found)
{
    int64_t i = (int64_t)l->i, n = (int64_t)l->items->n;
    const struct { const char *name; jval v; } nums[] = {
        {"index", jval_int(i + 1)}, {"index0", jval_int(i)}, {"revindex", jval_int(n - i)},
        {"revindex0", jval_int(n - i - 1)}, {"first", jval_bool(i == 0)}, {"last", jval_bool(i == n - 1)},
        {"length", jval_int(n)}, {"depth", jval_int(l->depth0 + 1)}, {"depth0", jval_int(l->depth0)}};
    *found = true;
    for (size_t k = 0; k < sizeof nums / sizeof nums[0]; k++)
        if (js_is(name, nums[k].name))
            return nums[k].v;
    if (js_is(name, "previtem"))
        return loop_val(c, l, l->i ? l->i - 1 : SIZE_MAX, "there is no previous item");
    if (js_is(name, "nextitem"))
        return loop_val(c, l, l->i + 1, "there is no next item");
    *found = false;
    return jval_none();
}

static jlist *filtered(jx *c, const jnode *n, jenv *env, jlist *in)
{
    const jnode *cond = n->list[0];
    if (!cond)
        return in;
    jlist *out = jl_new(c, JL_LIST, 0);
    for (size_t i = 0; i < in->n; i++) {
        jenv *e = jenv_new(c, env);
        assign_to(c, n->a, e, in->v[i]);
        if (jv_true(c, jx_eval(c, cond, e)))
            jl_push(c, out, in->v[i]);
    }
    return out;
}

static void run_loop(jx *c, const jnode *n, jenv *env, jval iter, unsigned depth0, jbuf *out)
{
    jloop *l = JX_NEW(c, jloop);
    l->node = n;
    l->env = env;
    l->depth0 = depth0;
    l->items = filtered(c, n, env, jv_iter(c, iter));
    jval lv = {.t = J_LOOP, .u.p = l};
    bool any = false; /* as in jinja2, an iteration cut short by break or continue does not count for `else` */
    for (; l->i < l->items->n; l->i++) {
        jx_step(c, 1);
        jenv *e = jenv_new(c, env);
        assign_to(c, n->a, e, l->items->v[l->i]);
        jx_assign(c, e, SYM_LOOP, lv);
        jflow f = body(c, n->c, e, out);
        any = any || f == JF_NEXT;
        if (f == JF_BREAK)
            break;
    }
    if (!any)
        body(c, n->list[1], jenv_new(c, env), out);
}

jval jx_call_loop(jx *c, jloop *l, jval items)
{
    if (!l->node->op)
        jx_type_error(c, "the loop must have the 'recursive' marker to be called");
    jbuf b = {.c = c, .markup = c->autoescape};
    run_loop(c, l->node, l->env, items, l->depth0 + 1, &b);
    return jv_str(jb_done(&b));
}

/* ---- macros ---- */

static size_t param_index(const jnode *n, const jstr *name)
{
    for (uint32_t i = 0; i < n->n; i++)
        if (js_eq(n->list[i]->str, name))
            return i;
    return SIZE_MAX;
}

jval jx_call_macro(jx *c, const jmacro *m, const jargs *a)
{
    const jnode *n = m->node;
    int len = m->name ? (int)(m->name->n > 100 ? 100 : m->name->n) : 6;
    const char *name = m->name ? m->name->s : "caller";
    jenv *e = jenv_new(c, m->env);
    bool *given = jx_array(c, (size_t)n->n + 1, sizeof *given);
    jval caller = jval_none();
    bool has_caller = false;
    jlist *varargs = jl_new(c, JL_TUPLE, 0);
    jdict *kwargs = jd_new(c);
    for (size_t i = 0; i < a->n_pos; i++) {
        if (i >= n->n) {
            if (!(n->uses & JU_VARARGS))
                jx_type_error(c, "macro '%.*s' takes not more than %u argument(s)", len, name, n->n);
            jl_push(c, varargs, a->pos[i]);
            continue;
        }
        jx_assign(c, e, n->list[i]->sym, a->pos[i]);
        given[i] = true;
    }
    for (size_t i = 0; i < a->n_kw; i++) {
        const jstr *k = a->kw_name[i];
        size_t at = param_index(n, k);
        if (at != SIZE_MAX) {
            if (given[at])
                jx_type_error(c, "macro '%.*s' got multiple values for an argument", len, name);
            jx_assign(c, e, n->list[at]->sym, a->kw[i]);
            given[at] = true;
        } else if (js_is(k, "caller") && (n->uses & JU_CALLER)) {
            caller = a->kw[i];
            has_caller = true;
        } else if (n->uses & JU_KWARGS) {
            jd_set(c, kwargs, jv_str(k), a->kw[i]);
        } else {
            jx_type_error(c, "macro '%.*s' takes no keyword argument '%.*s'", len, name,
                          (int)(k->n > 100 ? 100 : k->n), k->s);
        }
    }
    if ((n->uses & JU_CALLER) && param_index(n, js_lit(c, "caller")) == SIZE_MAX)
        jx_assign(c, e, SYM_CALLER, has_caller ? caller : jv_undef(c, "No caller defined"));
    if (n->uses & JU_KWARGS)
        jx_assign(c, e, SYM_KWARGS, jv_dict(kwargs));
    if (n->uses & JU_VARARGS)
        jx_assign(c, e, SYM_VARARGS, jv_list(varargs));
    uint32_t first = n->n - n->n2;
    for (uint32_t i = 0; i < n->n; i++) {
        if (given[i])
            continue;
        /* A parameter that is not given hides an outer variable even while its default is evaluated. */
        jx_assign(c, e, n->list[i]->sym, jv_undef(c, "a macro's parameter was not provided"));
        if (i >= first)
            jx_assign(c, e, n->list[i]->sym, jx_eval(c, n->list2[i - first], e));
    }
    return jv_str(captured(c, n->c, e));
}

jval jx_call_block(jx *c, uint32_t i)
{
    return jv_str(captured(c, c->prog->block_node[i]->c, jenv_new(c, NULL)));
}

static const jmacro *make_macro(jx *c, const jnode *n, jenv *env)
{
    jmacro *m = JX_NEW(c, jmacro);
    m->node = n;
    m->env = env;
    m->name = n->str;
    return m;
}

/* ---- statements ---- */

static void print(jx *c, jval v, jbuf *out)
{
    if (c->autoescape)
        jb_str(out, js_escaped(c, jv_to_str(c, v)));
    else
        jb_val(out, v);
}

static jflow st_if(jx *c, const jnode *n, jenv *env, jbuf *out)
{
    for (uint32_t i = 0; i + 1 < n->n; i += 2)
        if (jv_true(c, jx_eval(c, n->list[i], env)))
            return body(c, n->list[i + 1], env, out);
    return body(c, n->c, env, out);
}

static void st_setblock(jx *c, const jnode *n, jenv *env)
{
    jval v = jv_str(captured(c, n->c, jenv_new(c, env)));
    if (n->b)
        v = jx_eval_filter(c, n->b, env, v);
    assign_to(c, n->a, env, v);
}

static jflow st_with(jx *c, const jnode *n, jenv *env, jbuf *out)
{
    jenv *e = jenv_new(c, env);
    jval *v = jx_array(c, n->n2, sizeof *v);
    for (uint32_t i = 0; i < n->n2; i++)
        v[i] = jx_eval(c, n->list2[i], env);
    for (uint32_t i = 0; i < n->n; i++)
        assign_to(c, n->list[i], e, v[i]);
    return body(c, n->c, e, out);
}

static jflow st_autoescape(jx *c, const jnode *n, jenv *env, jbuf *out)
{
    bool was = c->autoescape;
    c->autoescape = jv_true(c, jx_eval(c, n->a, env));
    jflow f = body(c, n->c, jenv_new(c, env), out);
    c->autoescape = was;
    return f;
}

static void st_filterblock(jx *c, const jnode *n, jenv *env, jbuf *out)
{
    jval v = jv_str(captured(c, n->c, jenv_new(c, env)));
    print(c, jx_eval_filter(c, n->b, env, v), out);
}

static jflow exec(jx *c, const jnode *n, jenv *env, jbuf *out)
{
    switch (n->kind) {
    case N_TEXT: jb_str(out, n->val.u.s); return JF_NEXT;
    case N_PRINT: print(c, jx_eval(c, n->a, env), out); return JF_NEXT;
    case N_IF: return st_if(c, n, env, out);
    case N_FOR: run_loop(c, n, env, jx_eval(c, n->b, env), 0, out); return JF_NEXT;
    case N_SET: assign_to(c, n->a, env, jx_eval(c, n->b, env)); return JF_NEXT;
    case N_SETBLOCK: st_setblock(c, n, env); return JF_NEXT;
    case N_MACRO:
        jx_assign(c, env, n->a->sym, (jval){.t = J_MACRO, .u.p = (void *)(uintptr_t)make_macro(c, n, env)});
        return JF_NEXT;
    case N_CALLBLOCK: print(c, jx_eval_callblock(c, n->a, env, make_macro(c, n, env)), out); return JF_NEXT;
    case N_FILTERBLOCK: st_filterblock(c, n, env, out); return JF_NEXT;
    case N_WITH: return st_with(c, n, env, out);
    case N_BLOCK: body(c, n->c, jenv_new(c, n->op ? env : NULL), out); return JF_NEXT;
    case N_SCOPE: return body(c, n, env, out);
    case N_AUTOESCAPE: return st_autoescape(c, n, env, out);
    case N_BREAK: return JF_BREAK;
    case N_CONTINUE: return JF_CONTINUE;
    case N_DO: jx_eval(c, n->a, env); return JF_NEXT;
    case N_LOADER: jx_fail(c, IMP_E_UNSUPPORTED, "no loader for this environment specified");
    default: jx_fail(c, IMP_E_INTERNAL, "unexpected statement %d", n->kind);
    }
}

jflow jx_exec(jx *c, const jnode *const *list, size_t n, jenv *env, jbuf *out)
{
    jflow f = JF_NEXT;
    jx_enter(c);
    for (size_t i = 0; i < n && f == JF_NEXT; i++) {
        jx_step(c, 1);
        c->pos = list[i]->pos;
        f = exec(c, list[i], env, out);
    }
    jx_leave(c);
    return f;
}

/* Expressions and calls. */
#include <string.h>

#include "text/jinja_impl.h"

/* ---- variables ---- */

jenv *jenv_new(jx *c, jenv *up)
{
    jenv *e = JX_NEW(c, jenv);
    e->up = up;
    return e;
}

static jval global(jx *c, uint32_t sym)
{
    const jstr *name = c->prog->sym_name[sym];
    if (sym == SYM_SELF)
        return (jval){.t = J_SELF};
    const jval *v = jd_find(c, c->vars.u.d, jv_str(name));
    if (v)
        return *v;
    const jrow *r = jrow_find(jinja_globals, name->s, name->n);
    return r ? (jval){.t = J_FUNC, .u.p = (void *)(uintptr_t)r} : jv_undef_name(c, name);
}

jval jx_lookup(jx *c, jenv *env, uint32_t sym)
{
    for (; env; env = env->up) {
        jx_step(c, env->n / 16);
        for (uint32_t i = env->n; i-- > 0;)
            if (env->sym[i] == sym)
                return env->v[i];
    }
    if (c->root[sym].t == J_MISSING)
        c->root[sym] = global(c, sym);
    return c->root[sym];
}

void jx_assign(jx *c, jenv *env, uint32_t sym, jval v)
{
    if (!env) {
        c->root[sym] = v;
        return;
    }
    jx_step(c, env->n / 16);
    for (uint32_t i = 0; i < env->n; i++)
        if (env->sym[i] == sym) {
            env->v[i] = v;
            return;
        }
    if (env->n == env->cap) {
        uint32_t cap = env->cap ? env->cap * 2 : 4;
        uint32_t *s = jx_array(c, cap, sizeof *s);
        jval *nv = jx_array(c, cap, sizeof *nv);
        if (env->n) {
            memcpy(s, env->sym, env->n * sizeof *s);
            memcpy(nv, env->v, env->n * sizeof *nv);
        }
        env->sym = s;
        env->v = nv;
        env->cap = cap;
    }
    env->sym[env->n] = sym;
    env->v[env->n++] = v;
}

/* ---- operators ---- */

static void no_undef(jx *c, jval v)
{
    if (v.t == J_UNDEF)
        jx_undefined(c, v);
}

static jval repeat(jx *c, jval seq, jval times)
{
    int64_t n;
    if (!jn_to_i64(times, &n))
        jx_type_error(c, "can't multiply sequence by non-int of type '%s'", jv_type(times));
    if (n < 0)
        n = 0;
    if (seq.t == J_STR) {
        jbuf b = {.c = c};
        if (seq.u.s->n)
            for (int64_t i = 0; i < n; i++) {
                jx_step(c, 1);
                jb_str(&b, seq.u.s);
            }
        return jv_str(jb_done(&b));
    }
    jlist *l = jl_new(c, seq.u.l->kind, 0);
    if (seq.u.l->n)
        for (int64_t i = 0; i < n; i++)
            for (size_t j = 0; j < seq.u.l->n; j++) {
                jx_step(c, 1);
                jl_push(c, l, seq.u.l->v[j]);
            }
    return jv_list(l);
}

static bool is_seq(jval v) { return v.t == J_STR || (v.t == J_LIST && v.u.l->kind <= JL_TUPLE); }

static const jstr *escaped(jx *c, const jstr *s)
{
    static const struct { char ch; const char *to; } map[] = {
        {'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};
    if (s->markup)
        return s;
    jbuf b = {.c = c, .markup = true};
    for (size_t i = 0; i < s->n; i++) {
        size_t k = 0;
        while (k < 5 && map[k].ch != s->s[i])
            k++;
        if (k < 5)
            jb_lit_t(&b, map[k].to, js_taint_at(s, i));
        else
            jb_sub(&b, s, i, i + 1);
    }
    return jb_done(&b);
}
const jstr *js_escaped(jx *c, const jstr *s) { return escaped(c, s); }

static jval add(jx *c, jval a, jval b)
{
    if (a.t == J_STR && b.t == J_STR) {
        jbuf out = {.c = c, .markup = a.u.s->markup || b.u.s->markup};
        jb_str(&out, out.markup ? escaped(c, a.u.s) : a.u.s);
        jb_str(&out, out.markup ? escaped(c, b.u.s) : b.u.s);
        return jv_str(jb_done(&out));
    }
    if (a.t == J_LIST && b.t == J_LIST && a.u.l->kind == b.u.l->kind && a.u.l->kind <= JL_TUPLE) {
        jlist *l = jl_new(c, a.u.l->kind, a.u.l->n + b.u.l->n);
        jx_step(c, (a.u.l->n + b.u.l->n) / 8);
        for (size_t i = 0; i < a.u.l->n; i++)
            jl_push(c, l, a.u.l->v[i]);
        for (size_t i = 0; i < b.u.l->n; i++)
            jl_push(c, l, b.u.l->v[i]);
        return jv_list(l);
    }
    if (a.t == J_STR)
        jx_type_error(c, "can only concatenate str (not \"%s\") to str", jv_type(b));
    if (a.t == J_LIST && a.u.l->kind <= JL_TUPLE)
        jx_type_error(c, "can only concatenate %s (not \"%s\") to %s", jv_type(a), jv_type(b), jv_type(a));
    jx_type_error(c, "unsupported operand type(s) for +: '%s' and '%s'", jv_type(a), jv_type(b));
}

jval jx_binary(jx *c, uint8_t op, jval a, jval b)
{
    if (jv_is_num(a) && jv_is_num(b))
        return jn_binary(c, op, a, b);
    no_undef(c, a);
    if (op == T_MOD && a.t == J_STR)
        return jv_str(jstr_format_percent(c, a.u.s, b));
    no_undef(c, b);
    if (op == T_ADD)
        return add(c, a, b);
    if (op == T_MUL && is_seq(a) && jv_is_num(b))
        return repeat(c, a, b);
    if (op == T_MUL && is_seq(b) && jv_is_num(a))
        return repeat(c, b, a);
    if (op == T_MUL && is_seq(a))
        return repeat(c, a, b);
    jx_type_error(c, "unsupported operand type(s) for %s: '%s' and '%s'", op == T_POW ? "** or pow()" : jtok_name(op),
                  jv_type(a), jv_type(b));
}

static bool compare(jx *c, uint8_t op, jval a, jval b)
{
    if (op == T_EQ || op == T_NE)
        return jv_eq(c, a, b) == (op == T_EQ);
    if (op == N_IN || op == N_NOTIN)
        return jv_contains(c, b, a) == (op == N_IN);
    int r = jv_cmp(c, a, b, jtok_name(op));
    return r != 2 && (op == T_LT ? r < 0 : op == T_LE ? r <= 0 : op == T_GT ? r > 0 : r >= 0);
}

static jval negate(jx *c, const jnode *n, jval v)
{
    no_undef(c, v);
    if (!jv_is_num(v))
        jx_type_error(c, "bad operand type for unary %s: '%s'", n->kind == N_NEG ? "-" : "+", jv_type(v));
    if (n->kind == N_NEG)
        return jn_neg(c, v);
    return v.t == J_BOOL ? jval_int(v.u.b) : v;
}

/* ---- calls ---- */

static void add_kw(jargs *a, const jstr *name, jval v)
{
    a->kw_name[a->n_kw] = name;
    a->kw[a->n_kw++] = v;
}

/* Evaluates the arguments of a call; extra is one more keyword (caller), or NULL. */
static void eval_args(jx *c, const jcallargs *n, jenv *env, const jstr *extra, jval extra_v, jargs *a)
{
    *a = (jargs){0};
    if (!n && !extra)
        return;
    static const jcallargs empty = {0};
    if (!n)
        n = &empty;
    jlist *star = NULL;
    jdict *dstar = NULL;
    size_t n_pos = n->n_pos, n_kw = n->n_kw + (extra != NULL);
    jval *pos = jx_array(c, n_pos, sizeof *pos), *kw = jx_array(c, n->n_kw, sizeof *kw);
    for (uint32_t i = 0; i < n->n_pos; i++)
        pos[i] = jx_eval(c, n->pos[i], env);
    if (n->star)
        star = jv_iter(c, jx_eval(c, n->star, env));
    for (uint32_t i = 0; i < n->n_kw; i++)
        kw[i] = jx_eval(c, n->kw[i].v, env);
    if (n->dstar) {
        jval d = jx_eval(c, n->dstar, env);
        if (d.t != J_DICT)
            jx_type_error(c, "argument after ** must be a mapping, not %s", jv_type(d));
        dstar = d.u.d;
        n_kw += dstar->n;
    }
    if (star) {
        jval *p = jx_array(c, n_pos + star->n, sizeof *p);
        if (n_pos)
            memcpy(p, pos, n_pos * sizeof *p);
        if (star->n)
            memcpy(p + n_pos, star->v, star->n * sizeof *p);
        pos = p;
        n_pos += star->n;
    }
    a->pos = pos;
    a->n_pos = n_pos;
    a->kw_name = jx_array(c, n_kw, sizeof *a->kw_name);
    a->kw = jx_array(c, n_kw, sizeof *a->kw);
    for (uint32_t i = 0; i < n->n_kw; i++)
        add_kw(a, n->kw[i].name, kw[i]);
    if (extra)
        add_kw(a, extra, extra_v);
    for (size_t i = 0; dstar && i < dstar->n; i++) {
        if (dstar->k[i].t != J_STR)
            jx_type_error(c, "keywords must be strings");
        add_kw(a, dstar->k[i].u.s, dstar->v[i]);
    }
    for (size_t i = 0; i < a->n_kw && i < 64; i++)
        for (size_t j = 0; j < i; j++)
            if (js_eq(a->kw_name[i], a->kw_name[j]))
                jx_type_error(c, "got multiple values for keyword argument '%.*s'",
                              (int)(a->kw_name[i]->n > 100 ? 100 : a->kw_name[i]->n), a->kw_name[i]->s);
}

const jrow *jrow_find(const jrow *t, const char *name, size_t n)
{
    for (; t->name; t++)
        if (strlen(t->name) == n && !memcmp(t->name, name, n))
            return t;
    return NULL;
}

const jrow *jinja_filter_find(const jstr *name)
{
    const jrow *r = jrow_find(jinja_filters, name->s, name->n);
    return r ? r : jrow_find(jinja_filters_seq, name->s, name->n);
}

jval jx_call_row(jx *c, const jrow *r, jval self, const jargs *a, jenv *env)
{
    jcall k = {.name = r->name, .self = self, .args = a, .env = env};
    for (int i = 0; i < JCALL_MAX; i++)
        k.p[i].t = J_MISSING;
    if (r->n_max < 0)
        return r->fn(c, &k);
    if (a->n_pos > (size_t)r->n_max)
        jx_type_error(c, "%s() takes at most %d argument%s (%zu given)", r->name, r->n_max, r->n_max == 1 ? "" : "s",
                      a->n_pos);
    for (size_t i = 0; i < a->n_pos; i++)
        k.p[i] = a->pos[i];
    for (size_t i = 0; i < a->n_kw; i++) {
        int at = 0;
        while (at < r->n_max && !(r->param[at] && js_is(a->kw_name[i], r->param[at])))
            at++;
        int len = (int)(a->kw_name[i]->n > 100 ? 100 : a->kw_name[i]->n);
        if (at == r->n_max)
            jx_type_error(c, "%s() got an unexpected keyword argument '%.*s'", r->name, len, a->kw_name[i]->s);
        if (k.p[at].t != J_MISSING)
            jx_type_error(c, "%s() got multiple values for argument '%.*s'", r->name, len, a->kw_name[i]->s);
        k.p[at] = a->kw[i];
    }
    for (int i = 0; i < r->n_min; i++)
        if (k.p[i].t == J_MISSING)
            jx_type_error(c, "%s() missing required argument %d", r->name, i + 1);
    return r->fn(c, &k);
}

jval jx_call(jx *c, jval f, const jargs *a, jenv *env)
{
    jx_enter(c);
    jval r;
    switch (f.t) {
    case J_FUNC: r = jx_call_row(c, f.u.p, jval_none(), a, env); break;
    case J_METHOD: {
        const jmethod *m = f.u.p;
        r = jx_call_row(c, m->row, m->self, a, env);
        break;
    }
    case J_MACRO: r = jx_call_macro(c, f.u.p, a); break;
    case J_LOOP:
        if (a->n_pos != 1 || a->n_kw)
            jx_type_error(c, "loop() takes exactly one argument");
        r = jx_call_loop(c, f.u.p, a->pos[0]);
        break;
    case J_BLOCK: r = jx_call_block(c, (uint32_t)f.u.i); break;
    case J_JOINER: {
        jjoiner *j = f.u.p;
        r = j->used ? jv_str(j->sep) : jv_lit(c, "");
        j->used = true;
        break;
    }
    default:
        no_undef(c, f);
        jx_type_error(c, "'%s' object is not callable", jv_type(f));
    }
    jx_leave(c);
    return r;
}

static jval eval_call(jx *c, const jnode *n, jenv *env, const jmacro *caller)
{
    static const jstr caller_name = {.s = "caller", .n = 6, .n_cp = 6};
    jval f = jx_eval(c, n->a, env);
    jargs a;
    eval_args(c, n->args, env, caller ? &caller_name : NULL, (jval){.t = J_MACRO, .u.p = (void *)(uintptr_t)caller},
              &a);
    c->pos = n->pos;
    return jx_call(c, f, &a, env);
}
jval jx_eval_callblock(jx *c, const jnode *n, jenv *env, const jmacro *caller) { return eval_call(c, n, env, caller); }

static jval filter(jx *c, const jnode *n, jenv *env, jval in)
{
    jargs a;
    eval_args(c, n->args, env, NULL, jval_none(), &a);
    c->pos = n->pos;
    const jrow *r = n->row;
    if (!r)
        jx_fail(c, IMP_E_PARSE, "no filter named '%.*s'", (int)(n->str->n > 100 ? 100 : n->str->n), n->str->s);
    return jx_call_row(c, r, in, &a, env);
}

jval jx_eval_filter(jx *c, const jnode *n, jenv *env, jval input)
{
    jx_enter(c);
    jval in = n->a ? jx_eval_filter(c, n->a, env, input) : input;
    jx_leave(c);
    return filter(c, n, env, in);
}

static jval test(jx *c, const jnode *n, jenv *env)
{
    jval in = jx_eval(c, n->a, env);
    jargs a;
    eval_args(c, n->args, env, NULL, jval_none(), &a);
    c->pos = n->pos;
    const jrow *r = n->row;
    if (!r)
        jx_fail(c, IMP_E_PARSE, "no test named '%.*s'", (int)(n->str->n > 100 ? 100 : n->str->n), n->str->s);
    return jx_call_row(c, r, in, &a, env);
}

/* ---- expressions ---- */

static jval list(jx *c, const jnode *n, jenv *env)
{
    jlist *l = jl_new(c, n->kind == N_TUPLE ? JL_TUPLE : JL_LIST, n->n);
    for (uint32_t i = 0; i < n->n; i++)
        jl_push(c, l, jx_eval(c, n->list[i], env));
    return jv_list(l);
}

static jval dict(jx *c, const jnode *n, jenv *env)
{
    jdict *d = jd_new(c);
    for (uint32_t i = 0; i + 1 < n->n; i += 2) {
        jval k = jx_eval(c, n->list[i], env), v = jx_eval(c, n->list[i + 1], env);
        jd_set(c, d, k, v);
    }
    return jv_dict(d);
}

static jval logic(jx *c, const jnode *n, jenv *env)
{
    jval v = jval_none();
    for (uint32_t i = 0; i < n->n; i++) {
        v = jx_eval(c, n->list[i], env);
        if (jv_true(c, v) != (n->kind == N_AND))
            break;
    }
    return v;
}

static jval concat(jx *c, const jnode *n, jenv *env)
{
    jbuf b = {.c = c};
    for (uint32_t i = 0; i < n->n; i++)
        jb_val(&b, jx_eval(c, n->list[i], env));
    return jv_str(jb_done(&b));
}

static jval comparison(jx *c, const jnode *n, jenv *env)
{
    jval a = jx_eval(c, n->a, env);
    for (uint32_t i = 0; i < n->n; i++) {
        jval b = jx_eval(c, n->list[i]->a, env);
        c->pos = n->list[i]->pos;
        if (!compare(c, n->list[i]->op, a, b))
            return jval_bool(false);
        a = b;
    }
    return jval_bool(true);
}

static jval subscript(jx *c, const jnode *n, jenv *env)
{
    jval obj = jx_eval(c, n->a, env), p[3];
    if (n->b->kind != N_SLICE) {
        jval key = jx_eval(c, n->b, env);
        c->pos = n->pos;
        return jv_getitem(c, obj, key);
    }
    const jnode *part[3] = {n->b->a, n->b->b, n->b->c};
    for (int i = 0; i < 3; i++)
        p[i] = part[i] ? jx_eval(c, part[i], env) : jval_none();
    c->pos = n->pos;
    return jv_slice(c, obj, p[0], p[1], p[2]);
}

static jval eval(jx *c, const jnode *n, jenv *env)
{
    jval a, b;
    switch (n->kind) {
    case N_CONST: return n->val;
    case N_NAME: return jx_lookup(c, env, n->sym);
    case N_LIST: case N_TUPLE: return list(c, n, env);
    case N_DICT: return dict(c, n, env);
    case N_AND: case N_OR: return logic(c, n, env);
    case N_NOT: return jval_bool(!jv_true(c, jx_eval(c, n->a, env)));
    case N_NEG: case N_POS: return negate(c, n, jx_eval(c, n->a, env));
    case N_CONCAT: return concat(c, n, env);
    case N_COMPARE: return comparison(c, n, env);
    case N_BIN:
        a = jx_eval(c, n->a, env);
        b = jx_eval(c, n->b, env);
        c->pos = n->pos;
        return jx_binary(c, n->op, a, b);
    case N_COND:
        if (jv_true(c, jx_eval(c, n->a, env)))
            return jx_eval(c, n->b, env);
        return n->c ? jx_eval(c, n->c, env) : jv_undef(c,
            "the inline if-expression evaluated to false and has no else");
    case N_ATTR:
        a = jx_eval(c, n->a, env);
        c->pos = n->pos;
        return jv_getattr(c, a, n->str);
    case N_ITEM: return subscript(c, n, env);
    case N_CALL: return eval_call(c, n, env, NULL);
    case N_FILTER: return filter(c, n, env, jx_eval(c, n->a, env));
    case N_TEST: return test(c, n, env);
    case N_SLICE: jx_type_error(c, "a slice cannot stand here");
    default: jx_fail(c, IMP_E_INTERNAL, "unexpected node %d", n->kind);
    }
}

jval jx_eval(jx *c, const jnode *n, jenv *env)
{
    jx_step(c, 1);
    jx_enter(c);
    c->pos = n->pos;
    jval v = eval(c, n, env);
    jx_leave(c);
    return v;
}

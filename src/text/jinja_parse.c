/* The parser: tokens to a tree. Expressions here, statements in jinja_stmt.c. Grammar and precedence are jinja2's:
 * condition < or < and < not < comparison < + - < ~ < * / // % < ** < unary < postfix, filters, tests. */
#include "text/jinja_parse.h"

#include <string.h>

jtok *jp_cur(jparse *p) { return &p->t->v[p->i]; }
jtok *jp_look(jparse *p) { return &p->t->v[p->i + (p->i + 1 < p->t->n)]; }
jtok *jp_next(jparse *p)
{
    jtok *t = jp_cur(p);
    if (p->i + 1 < p->t->n)
        p->i++;
    return t;
}
bool jp_is_name(const jtok *t, const char *name) { return t->kind == T_NAME && js_is(t->v.u.s, name); }
bool jp_skip(jparse *p, jtok_kind k)
{
    if (jp_cur(p)->kind != k)
        return false;
    jp_next(p);
    return true;
}
bool jp_skip_name(jparse *p, const char *name)
{
    if (!jp_is_name(jp_cur(p), name))
        return false;
    jp_next(p);
    return true;
}

_Noreturn void jp_fail(jparse *p, const jtok *at, const char *wanted)
{
    p->c->pos = at->pos;
    if (at->kind == T_NAME || at->kind == T_STR)
        jx_fail(p->c, IMP_E_PARSE, "%s, got %s '%.*s'", wanted, jtok_name(at->kind),
                (int)(at->v.u.s->n > 60 ? 60 : at->v.u.s->n), at->v.u.s->s);
    jx_fail(p->c, IMP_E_PARSE, "%s, got '%s'", wanted, jtok_name(at->kind));
}

jtok *jp_expect(jparse *p, jtok_kind k)
{
    if (jp_cur(p)->kind != k) {
        char t[64];
        memcpy(t, "expected ", 9);
        size_t n = strlen(jtok_name(k));
        memcpy(t + 9, jtok_name(k), n + 1);
        jp_fail(p, jp_cur(p), t);
    }
    return jp_next(p);
}

jnode *jp_node(jparse *p, jnode_kind kind, uint32_t pos)
{
    jnode *n = JX_NEW(p->c, jnode);
    n->kind = (uint8_t)kind;
    n->pos = pos;
    return n;
}

void jp_push(jparse *p, jnodes *l, jnode *n)
{
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 4;
        jnode **v = jx_array(p->c, cap, sizeof *v);
        if (l->n)
            memcpy(v, l->v, l->n * sizeof *v);
        l->v = v;
        l->cap = cap;
    }
    l->v[l->n++] = n;
}

void jp_enter(jparse *p)
{
    if (++p->depth > JINJA_MAX_PARSE_DEPTH) {
        p->c->pos = jp_cur(p)->pos;
        jx_fail(p->c, IMP_E_LIMIT, "nested more than %d levels deep", JINJA_MAX_PARSE_DEPTH);
    }
}

static void word(jparse *p, const jstr *s)
{
    if (s->n <= 256)
        jd_set(p->c, p->prog->words, jv_str(s), jval_bool(true));
}

jnode *jp_name(jparse *p, const jtok *t)
{
    static const struct { const char *name; uint8_t bit; } special[] = {
        {"caller", JU_CALLER}, {"kwargs", JU_KWARGS}, {"varargs", JU_VARARGS}};
    for (size_t i = 0; i < 3; i++)
        if (js_is(t->v.u.s, special[i].name))
            p->uses |= special[i].bit;
    jnode *n = jp_node(p, N_NAME, t->pos);
    n->str = t->v.u.s;
    n->sym = jinja_intern(p->c, p->prog, t->v.u.s);
    word(p, n->str);
    return n;
}

static jnode *parse_list(jparse *p)
{
    jnode *n = jp_node(p, N_LIST, jp_next(p)->pos);
    jnodes items = {0};
    while (jp_cur(p)->kind != T_RBRACKET) {
        if (items.n)
            jp_expect(p, T_COMMA);
        if (jp_cur(p)->kind == T_RBRACKET)
            break;
        jp_push(p, &items, jp_expr(p, true));
    }
    jp_expect(p, T_RBRACKET);
    n->list = items.v;
    n->n = items.n;
    return n;
}

static jnode *parse_dict(jparse *p)
{
    jnode *n = jp_node(p, N_DICT, jp_next(p)->pos);
    jnodes items = {0};
    while (jp_cur(p)->kind != T_RBRACE) {
        if (items.n)
            jp_expect(p, T_COMMA);
        if (jp_cur(p)->kind == T_RBRACE)
            break;
        jp_push(p, &items, jp_expr(p, true));
        jp_expect(p, T_COLON);
        jp_push(p, &items, jp_expr(p, true));
    }
    jp_expect(p, T_RBRACE);
    n->list = items.v;
    n->n = items.n;
    return n;
}

static jnode *string_const(jparse *p, const jtok *t)
{
    jnode *n = jp_node(p, N_CONST, t->pos);
    const jstr *s = t->v.u.s;
    if (jp_cur(p)->kind == T_STR) {
        jbuf b = {.c = p->c};
        jb_str(&b, s);
        while (jp_cur(p)->kind == T_STR)
            jb_str(&b, jp_next(p)->v.u.s);
        s = jb_done(&b);
    }
    word(p, s);
    n->val = jv_str(s);
    return n;
}

static const struct { const char *name; jval v; } consts[] = {
    {"true", {.t = J_BOOL, .u.b = true}}, {"True", {.t = J_BOOL, .u.b = true}},
    {"false", {.t = J_BOOL}}, {"False", {.t = J_BOOL}}, {"none", {.t = J_NONE}}, {"None", {.t = J_NONE}}};

jnode *jp_primary(jparse *p, bool nsref)
{
    jtok *t = jp_cur(p);
    jnode *n;
    switch (t->kind) {
    case T_NAME:
        jp_next(p);
        for (size_t i = 0; i < sizeof consts / sizeof consts[0]; i++)
            if (js_is(t->v.u.s, consts[i].name)) {
                n = jp_node(p, N_CONST, t->pos);
                n->val = consts[i].v;
                return n;
            }
        n = jp_name(p, t);
        if (nsref && jp_skip(p, T_DOT)) {
            n->kind = N_NSREF;
            n->str = jp_expect(p, T_NAME)->v.u.s;
        }
        return n;
    case T_STR:
        jp_next(p);
        return string_const(p, t);
    case T_INT:
    case T_FLOAT:
        jp_next(p);
        n = jp_node(p, N_CONST, t->pos);
        n->val = t->v;
        return n;
    case T_LPAREN:
        jp_next(p);
        jp_enter(p);
        n = jp_tuple(p, (jtuple){.explicit = true, .cond = true});
        p->depth--;
        jp_expect(p, T_RPAREN);
        return n;
    case T_LBRACKET:
    case T_LBRACE:
        jp_enter(p);
        n = t->kind == T_LBRACKET ? parse_list(p) : parse_dict(p);
        p->depth--;
        return n;
    default:
        jp_fail(p, t, "expected an expression");
    }
}

jcallargs *jp_call_args(jparse *p)
{
    jcallargs *a = JX_NEW(p->c, jcallargs);
    jnodes pos = {0};
    uint32_t cap = 0;
    bool comma = false;
    jtok *open = jp_expect(p, T_LPAREN);
    jp_enter(p);
    while (jp_cur(p)->kind != T_RPAREN) {
        if (comma) {
            jp_expect(p, T_COMMA);
            if (jp_cur(p)->kind == T_RPAREN)
                break;
        }
        bool bad = false;
        if (jp_skip(p, T_MUL)) {
            bad = a->star || a->dstar;
            a->star = jp_expr(p, true);
        } else if (jp_skip(p, T_POW)) {
            bad = a->dstar;
            a->dstar = jp_expr(p, true);
        } else if (jp_cur(p)->kind == T_NAME && jp_look(p)->kind == T_ASSIGN) {
            bad = a->dstar;
            if (a->n_kw == cap) {
                cap = cap ? cap * 2 : 4;
                jkw *kw = jx_array(p->c, cap, sizeof *kw);
                if (a->n_kw)
                    memcpy(kw, a->kw, a->n_kw * sizeof *kw);
                a->kw = kw;
            }
            const jstr *name = jp_next(p)->v.u.s;
            jp_next(p);
            a->kw[a->n_kw].name = name;
            a->kw[a->n_kw++].v = jp_expr(p, true);
        } else {
            bad = a->star || a->dstar || a->n_kw;
            jp_push(p, &pos, jp_expr(p, true));
        }
        if (bad) {
            p->c->pos = open->pos;
            jx_fail(p->c, IMP_E_PARSE, "invalid order of arguments in a call");
        }
        comma = true;
    }
    p->depth--;
    jp_expect(p, T_RPAREN);
    a->pos = pos.v;
    a->n_pos = pos.n;
    return a;
}

static jnode *parse_subscribed(jparse *p)
{
    jnode *start = NULL, *n;
    uint32_t pos = jp_cur(p)->pos;
    if (jp_cur(p)->kind != T_COLON) {
        start = jp_expr(p, true);
        if (jp_cur(p)->kind != T_COLON)
            return start;
    }
    jp_next(p);
    n = jp_node(p, N_SLICE, pos);
    n->a = start;
    jtok_kind k = jp_cur(p)->kind;
    if (k != T_COLON && k != T_RBRACKET && k != T_COMMA)
        n->b = jp_expr(p, true);
    if (jp_skip(p, T_COLON)) {
        k = jp_cur(p)->kind;
        if (k != T_RBRACKET && k != T_COMMA)
            n->c = jp_expr(p, true);
    }
    return n;
}

static jnode *parse_subscript(jparse *p, jnode *obj)
{
    jtok *t = jp_next(p), *name;
    jnode *n;
    if (t->kind == T_DOT) {
        name = jp_next(p);
        if (name->kind == T_NAME) {
            n = jp_node(p, N_ATTR, name->pos);
            n->str = name->v.u.s;
            word(p, n->str);
        } else if (name->kind == T_INT) {
            n = jp_node(p, N_ITEM, name->pos);
            n->b = jp_node(p, N_CONST, name->pos);
            n->b->val = name->v;
        } else {
            jp_fail(p, name, "expected name or number");
        }
        n->a = obj;
        return n;
    }
    n = jp_node(p, N_ITEM, t->pos);
    n->a = obj;
    jnodes args = {0};
    jp_enter(p);
    while (jp_cur(p)->kind != T_RBRACKET) {
        if (args.n)
            jp_expect(p, T_COMMA);
        jp_push(p, &args, parse_subscribed(p));
    }
    p->depth--;
    jp_expect(p, T_RBRACKET);
    if (args.n == 1) {
        n->b = args.v[0];
    } else {
        n->b = jp_node(p, N_TUPLE, t->pos);
        n->b->list = args.v;
        n->b->n = args.n;
    }
    return n;
}

static jnode *parse_call(jparse *p, jnode *f)
{
    jnode *n = jp_node(p, N_CALL, jp_cur(p)->pos);
    n->a = f;
    n->args = jp_call_args(p);
    return n;
}

static jnode *parse_postfix(jparse *p, jnode *n)
{
    for (;;) {
        jtok_kind k = jp_cur(p)->kind;
        if (k == T_DOT || k == T_LBRACKET)
            n = parse_subscript(p, n);
        else if (k == T_LPAREN)
            n = parse_call(p, n);
        else
            return n;
    }
}

static const jstr *dotted(jparse *p)
{
    const jstr *s = jp_expect(p, T_NAME)->v.u.s;
    while (jp_skip(p, T_DOT)) {
        jbuf b = {.c = p->c};
        jb_str(&b, s);
        jb_lit(&b, ".");
        jb_str(&b, jp_expect(p, T_NAME)->v.u.s);
        s = jb_done(&b);
    }
    return s;
}

jnode *jp_filter(jparse *p, jnode *in, bool start_inline)
{
    while (start_inline || jp_skip(p, T_PIPE)) {
        jnode *n = jp_node(p, N_FILTER, jp_cur(p)->pos);
        n->str = dotted(p);
        n->row = jinja_filter_find(n->str);
        if (jp_cur(p)->kind == T_LPAREN)
            n->args = jp_call_args(p);
        n->a = in;
        in = n;
        start_inline = false;
    }
    return in;
}

static jnode *parse_test(jparse *p, jnode *in)
{
    jp_next(p); /* is */
    bool negated = jp_skip_name(p, "not");
    jnode *n = jp_node(p, N_TEST, jp_cur(p)->pos);
    n->str = dotted(p);
    n->row = jrow_find(jinja_tests, n->str->s, n->str->n);
    n->a = in;
    jtok *t = jp_cur(p);
    jtok_kind k = t->kind;
    if (k == T_LPAREN) {
        n->args = jp_call_args(p);
    } else if ((k == T_NAME || k == T_STR || k == T_INT || k == T_FLOAT || k == T_LBRACKET || k == T_LBRACE) &&
               !jp_is_name(t, "else") && !jp_is_name(t, "or") && !jp_is_name(t, "and")) {
        if (jp_is_name(t, "is"))
            jp_fail(p, t, "tests cannot be chained with 'is'");
        jnodes pos = {0};
        jp_push(p, &pos, parse_postfix(p, jp_primary(p, false)));
        n->args = JX_NEW(p->c, jcallargs);
        n->args->pos = pos.v;
        n->args->n_pos = 1;
    }
    if (!negated)
        return n;
    jnode *not = jp_node(p, N_NOT, n->pos);
    not->a = n;
    return not;
}

static jnode *parse_unary(jparse *p, bool with_filter)
{
    jtok *t = jp_cur(p);
    jnode *n;
    if (t->kind == T_SUB || t->kind == T_ADD) {
        jp_enter(p);
        jp_next(p);
        n = jp_node(p, t->kind == T_SUB ? N_NEG : N_POS, t->pos);
        n->a = parse_unary(p, false);
        p->depth--;
    } else {
        n = jp_primary(p, false);
    }
    n = parse_postfix(p, n);
    while (with_filter) {
        t = jp_cur(p);
        if (t->kind == T_PIPE)
            n = jp_filter(p, n, false);
        else if (jp_is_name(t, "is"))
            n = parse_test(p, n);
        else if (t->kind == T_LPAREN)
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

static jnode *binary(jparse *p, jnode *left, const jtok *op, jnode *right)
{
    jnode *n = jp_node(p, N_BIN, op->pos);
    n->op = (uint8_t)op->kind;
    n->a = left;
    n->b = right;
    return n;
}

static jnode *parse_pow(jparse *p)
{
    jnode *n = parse_unary(p, true);
    while (jp_cur(p)->kind == T_POW) {
        jtok *op = jp_next(p);
        n = binary(p, n, op, parse_unary(p, true));
    }
    return n;
}

static jnode *parse_math2(jparse *p)
{
    jnode *n = parse_pow(p);
    for (;;) {
        jtok_kind k = jp_cur(p)->kind;
        if (k != T_MUL && k != T_DIV && k != T_FLOORDIV && k != T_MOD)
            return n;
        jtok *op = jp_next(p);
        n = binary(p, n, op, parse_pow(p));
    }
}

static jnode *parse_concat(jparse *p)
{
    jnode *n = parse_math2(p);
    if (jp_cur(p)->kind != T_TILDE)
        return n;
    jnodes l = {0};
    jp_push(p, &l, n);
    n = jp_node(p, N_CONCAT, jp_cur(p)->pos);
    while (jp_skip(p, T_TILDE))
        jp_push(p, &l, parse_math2(p));
    n->list = l.v;
    n->n = l.n;
    return n;
}

static jnode *parse_math1(jparse *p)
{
    jnode *n = parse_concat(p);
    while (jp_cur(p)->kind == T_ADD || jp_cur(p)->kind == T_SUB) {
        jtok *op = jp_next(p);
        n = binary(p, n, op, parse_concat(p));
    }
    return n;
}

static jnode *parse_compare(jparse *p)
{
    uint32_t pos = jp_cur(p)->pos;
    jnode *first = parse_math1(p);
    jnodes l = {0};
    for (;;) {
        jtok *t = jp_cur(p);
        int op;
        if (t->kind >= T_EQ && t->kind <= T_LE) {
            op = (int)t->kind;
        } else if (jp_is_name(t, "in")) {
            op = N_IN;
        } else if (jp_is_name(t, "not") && jp_is_name(jp_look(p), "in")) {
            op = N_NOTIN;
            jp_next(p);
        } else {
            break;
        }
        jp_next(p);
        jnode *o = jp_node(p, N_COMPARE, t->pos);
        o->op = (uint8_t)op;
        o->a = parse_math1(p);
        jp_push(p, &l, o);
    }
    if (!l.n)
        return first;
    jnode *n = jp_node(p, N_COMPARE, pos);
    n->a = first;
    n->list = l.v;
    n->n = l.n;
    return n;
}

static jnode *parse_not(jparse *p)
{
    jtok *t = jp_cur(p);
    if (!jp_is_name(t, "not"))
        return parse_compare(p);
    jp_next(p);
    jp_enter(p);
    jnode *n = jp_node(p, N_NOT, t->pos);
    n->a = parse_not(p);
    p->depth--;
    return n;
}

/* and, or: one node with all operands, so that long chains stay flat. */
static jnode *chain(jparse *p, const char *name, jnode_kind kind, jnode *(*sub)(jparse *))
{
    jnode *n = sub(p);
    if (!jp_is_name(jp_cur(p), name))
        return n;
    jnodes l = {0};
    jp_push(p, &l, n);
    n = jp_node(p, kind, jp_cur(p)->pos);
    while (jp_skip_name(p, name))
        jp_push(p, &l, sub(p));
    n->list = l.v;
    n->n = l.n;
    return n;
}
static jnode *parse_and(jparse *p) { return chain(p, "and", N_AND, parse_not); }
static jnode *parse_or(jparse *p) { return chain(p, "or", N_OR, parse_and); }

jnode *jp_expr(jparse *p, bool cond)
{
    jnode *n = parse_or(p);
    while (cond && jp_is_name(jp_cur(p), "if")) {
        jnode *x = jp_node(p, N_COND, jp_next(p)->pos);
        x->b = n;
        x->a = parse_or(p);
        if (jp_skip_name(p, "else")) {
            jp_enter(p);
            x->c = jp_expr(p, true);
            p->depth--;
        }
        n = x;
    }
    return n;
}

jnode *jp_tuple(jparse *p, jtuple o)
{
    uint32_t pos = jp_cur(p)->pos;
    jnodes l = {0};
    bool is_tuple = false;
    for (;;) {
        if (l.n)
            jp_expect(p, T_COMMA);
        jtok *t = jp_cur(p);
        if (t->kind == T_VAR_END || t->kind == T_BLOCK_END || t->kind == T_RPAREN || (o.end && jp_is_name(t, o.end)))
            break;
        jp_push(p, &l, o.simple ? jp_primary(p, o.nsref) : jp_expr(p, o.cond));
        if (jp_cur(p)->kind != T_COMMA)
            break;
        is_tuple = true;
    }
    if (!is_tuple) {
        if (l.n)
            return l.v[0];
        if (!o.explicit)
            jp_fail(p, jp_cur(p), "expected an expression");
    }
    jnode *n = jp_node(p, N_TUPLE, pos);
    n->list = l.v;
    n->n = l.n;
    return n;
}

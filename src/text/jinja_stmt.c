/* The parser's statements: one row a tag. */
#include <string.h>

#include "text/jinja_parse.h"

static void body_until(jparse *p, jnodes *out, const char *const *ends);

/* Statements up to one of the end tags, which stays current; a block_end comes first. */
static jnode *block(jparse *p, const char *const *ends)
{
    jp_skip(p, T_COLON);
    jnode *n = jp_node(p, N_SCOPE, jp_expect(p, T_BLOCK_END)->pos);
    jnodes l = {0};
    jp_enter(p);
    body_until(p, &l, ends);
    p->depth--;
    n->list = l.v;
    n->n = l.n;
    return n;
}

static jnode *block_end(jparse *p, const char *end)
{
    const char *ends[] = {end, NULL};
    jnode *n = block(p, ends);
    jp_next(p);
    return n;
}

/* A body that is its own function: break and continue do not reach out of it. */
static jnode *function_body(jparse *p, const char *end, uint8_t *uses)
{
    unsigned loops = p->loops;
    uint8_t outer = p->uses;
    p->loops = 0;
    p->uses = 0;
    jnode *n = block_end(p, end);
    if (uses)
        *uses = p->uses;
    p->loops = loops;
    p->uses |= outer;
    return n;
}

static bool assignable(const jnode *n)
{
    if (n->kind == N_TUPLE || n->kind == N_LIST) {
        for (uint32_t i = 0; i < n->n; i++)
            if (!assignable(n->list[i]))
                return false;
        return true;
    }
    return n->kind == N_NAME || n->kind == N_NSREF;
}

static jnode *target(jparse *p, const char *end, bool nsref)
{
    jtok *t = jp_cur(p);
    uint8_t uses = p->uses;
    jnode *n = jp_tuple(p, (jtuple){.simple = true, .end = end, .nsref = nsref});
    p->uses = uses; /* a name that is assigned is not read */
    if (!assignable(n))
        jp_fail(p, t, "cannot assign to this");
    return n;
}

static jnode *target_name(jparse *p)
{
    uint8_t uses = p->uses;
    jnode *n = jp_name(p, jp_expect(p, T_NAME));
    p->uses = uses;
    return n;
}

static jnode *st_set(jparse *p, uint32_t pos)
{
    jnode *n = jp_node(p, N_SET, pos);
    n->a = target(p, NULL, true);
    if (jp_skip(p, T_ASSIGN)) {
        n->b = jp_tuple(p, (jtuple){.cond = true});
        return n;
    }
    n->kind = N_SETBLOCK;
    n->b = jp_filter(p, NULL, false);
    n->c = block_end(p, "endset");
    return n;
}

static jnode *st_for(jparse *p, uint32_t pos)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    jnode *n = jp_node(p, N_FOR, pos);
    jnodes parts = {0}; /* [0] filter or NULL, [1] else or NULL */
    n->a = target(p, "in", false);
    if (!jp_skip_name(p, "in"))
        jp_fail(p, jp_cur(p), "expected 'in'");
    n->b = jp_tuple(p, (jtuple){.end = "recursive"});
    jp_push(p, &parts, jp_skip_name(p, "if") ? jp_expr(p, true) : NULL);
    n->op = jp_skip_name(p, "recursive");
    p->loops++;
    n->c = block(p, ends);
    p->loops--;
    jp_push(p, &parts, jp_is_name(jp_next(p), "else") ? block_end(p, "endfor") : NULL);
    n->list = parts.v;
    n->n = parts.n;
    return n;
}

static jnode *st_if(jparse *p, uint32_t pos)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    jnode *n = jp_node(p, N_IF, pos);
    jnodes l = {0};
    for (;;) {
        jp_push(p, &l, jp_tuple(p, (jtuple){0}));
        jp_push(p, &l, block(p, ends));
        jtok *t = jp_next(p);
        if (jp_is_name(t, "elif"))
            continue;
        if (jp_is_name(t, "else"))
            n->c = block_end(p, "endif");
        break;
    }
    n->list = l.v;
    n->n = l.n;
    return n;
}

static void signature(jparse *p, jnode *n)
{
    jnodes args = {0}, defaults = {0};
    jp_expect(p, T_LPAREN);
    while (jp_cur(p)->kind != T_RPAREN) {
        if (args.n)
            jp_expect(p, T_COMMA);
        jnode *a = target_name(p);
        if (jp_skip(p, T_ASSIGN))
            jp_push(p, &defaults, jp_expr(p, true));
        else if (defaults.n)
            jp_fail(p, jp_cur(p), "parameter without default follows one with a default");
        jp_push(p, &args, a);
    }
    jp_next(p);
    n->list = args.v;
    n->n = args.n;
    n->list2 = defaults.v;
    n->n2 = defaults.n;
}

static jnode *st_macro(jparse *p, uint32_t pos)
{
    jnode *n = jp_node(p, N_MACRO, pos);
    n->a = target_name(p);
    n->str = n->a->str;
    signature(p, n);
    n->c = function_body(p, "endmacro", &n->uses);
    return n;
}

static jnode *st_call(jparse *p, uint32_t pos)
{
    jnode *n = jp_node(p, N_CALLBLOCK, pos);
    if (jp_cur(p)->kind == T_LPAREN)
        signature(p, n);
    jtok *t = jp_cur(p);
    n->a = jp_expr(p, true);
    if (n->a->kind != N_CALL)
        jp_fail(p, t, "expected a call");
    n->c = function_body(p, "endcall", &n->uses);
    return n;
}

static jnode *st_filter(jparse *p, uint32_t pos)
{
    jnode *n = jp_node(p, N_FILTERBLOCK, pos);
    n->b = jp_filter(p, NULL, true);
    n->c = block_end(p, "endfilter");
    return n;
}

static jnode *st_with(jparse *p, uint32_t pos)
{
    jnode *n = jp_node(p, N_WITH, pos);
    jnodes t = {0}, v = {0};
    while (jp_cur(p)->kind != T_BLOCK_END && jp_cur(p)->kind != T_COLON) {
        if (t.n)
            jp_expect(p, T_COMMA);
        jnode *x = target(p, NULL, false);
        jp_push(p, &t, x);
        jp_expect(p, T_ASSIGN);
        jp_push(p, &v, jp_expr(p, true));
    }
    n->list = t.v;
    n->n = t.n;
    n->list2 = v.v;
    n->n2 = v.n;
    n->c = block_end(p, "endwith");
    return n;
}

static jnode *st_block(jparse *p, uint32_t pos)
{
    jnode *n = jp_node(p, N_BLOCK, pos);
    jtok *t = jp_expect(p, T_NAME);
    n->str = t->v.u.s;
    n->op = jp_skip_name(p, "scoped");
    jp_skip_name(p, "required");
    if (jd_find(p->c, p->prog->blocks, t->v))
        jp_fail(p, t, "block defined twice");
    n->c = function_body(p, "endblock", NULL);
    if (jp_cur(p)->kind == T_NAME && js_eq(jp_cur(p)->v.u.s, n->str))
        jp_next(p);
    jinja_program *g = p->prog;
    if ((g->n_block & (g->n_block + 1)) == 0) { /* 0, 1, 3, 7, ...: room for twice as many */
        jnode **b = jx_array(p->c, g->n_block * 2 + 1, sizeof *b);
        if (g->n_block)
            memcpy(b, g->block_node, g->n_block * sizeof *b);
        g->block_node = b;
    }
    jd_set(p->c, g->blocks, t->v, jval_int((int64_t)g->n_block));
    n->sym = (uint32_t)g->n_block;
    g->block_node[g->n_block++] = n;
    return n;
}

static jnode *st_autoescape(jparse *p, uint32_t pos)
{
    jnode *n = jp_node(p, N_AUTOESCAPE, pos);
    n->a = jp_expr(p, true);
    n->c = block_end(p, "endautoescape");
    return n;
}

/* transformers makes a call block of it: a scope of its own (but here loops may be left from inside). */
static jnode *st_generation(jparse *p, uint32_t pos)
{
    jnode *n = jp_node(p, N_WITH, pos);
    n->c = block_end(p, "endgeneration");
    return n;
}

static jnode *loop_control(jparse *p, uint32_t pos, jnode_kind kind)
{
    if (!p->loops) {
        p->c->pos = pos;
        jx_fail(p->c, IMP_E_PARSE, "'%s' outside of a loop", kind == N_BREAK ? "break" : "continue");
    }
    return jp_node(p, kind, pos);
}
static jnode *st_break(jparse *p, uint32_t pos) { return loop_control(p, pos, N_BREAK); }
static jnode *st_continue(jparse *p, uint32_t pos) { return loop_control(p, pos, N_CONTINUE); }

static jnode *st_do(jparse *p, uint32_t pos)
{
    jnode *n = jp_node(p, N_DO, pos);
    n->a = jp_tuple(p, (jtuple){.cond = true});
    return n;
}

static jnode *st_print(jparse *p, uint32_t pos)
{
    jnode *n = jp_node(p, N_SCOPE, pos);
    jnodes l = {0};
    while (jp_cur(p)->kind != T_BLOCK_END) {
        if (l.n)
            jp_expect(p, T_COMMA);
        jnode *x = jp_node(p, N_PRINT, jp_cur(p)->pos);
        x->a = jp_expr(p, true);
        jp_push(p, &l, x);
    }
    n->list = l.v;
    n->n = l.n;
    return n;
}

/* include, import, extends: there is nothing to load from, which is an error when it is reached. */
static jnode *st_loader(jparse *p, uint32_t pos)
{
    jnode *n = jp_node(p, N_LOADER, pos);
    while (jp_cur(p)->kind != T_BLOCK_END && jp_cur(p)->kind != T_EOF)
        jp_next(p);
    return n;
}

static const struct { const char *name; jnode *(*parse)(jparse *p, uint32_t pos); } statements[] = {
    {"if", st_if}, {"for", st_for}, {"set", st_set}, {"macro", st_macro}, {"call", st_call}, {"filter", st_filter},
    {"with", st_with}, {"block", st_block}, {"generation", st_generation}, {"break", st_break},
    {"continue", st_continue}, {"print", st_print}, {"do", st_do}, {"autoescape", st_autoescape},
    {"include", st_loader}, {"import", st_loader}, {"from", st_loader}, {"extends", st_loader}};

static jnode *statement(jparse *p)
{
    jtok *t = jp_cur(p);
    if (t->kind != T_NAME)
        jp_fail(p, t, "expected a tag name");
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++)
        if (js_is(t->v.u.s, statements[i].name)) {
            jp_next(p);
            return statements[i].parse(p, t->pos);
        }
    jp_fail(p, t, "unknown tag");
}

static void body_until(jparse *p, jnodes *out, const char *const *ends)
{
    for (;;) {
        jtok *t = jp_next(p);
        jnode *n;
        switch (t->kind) {
        case T_DATA:
            n = jp_node(p, N_TEXT, t->pos);
            n->val = t->v;
            jp_push(p, out, n);
            break;
        case T_VAR_BEGIN:
            n = jp_node(p, N_PRINT, jp_cur(p)->pos);
            n->a = jp_tuple(p, (jtuple){.cond = true});
            jp_push(p, out, n);
            jp_expect(p, T_VAR_END);
            break;
        case T_BLOCK_BEGIN:
            for (const char *const *e = ends; e && *e; e++)
                if (jp_is_name(jp_cur(p), *e))
                    return;
            jp_push(p, out, statement(p));
            jp_expect(p, T_BLOCK_END);
            break;
        default:
            if (ends) {
                p->c->pos = t->pos;
                jx_fail(p->c, IMP_E_PARSE, "unexpected end of template, wanted '%s'", ends[0]);
            }
            return;
        }
    }
}

void jinja_parse(jx *c, jinja_program *g, jtoks *t)
{
    jparse p = {.c = c, .prog = g, .t = t};
    jnodes l = {0};
    body_until(&p, &l, NULL);
    g->body = jp_node(&p, N_SCOPE, 0);
    g->body->list = l.v;
    g->body->n = l.n;
}

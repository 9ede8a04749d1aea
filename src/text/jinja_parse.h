/* jinja_parse: what the parser's two files share; private to them. */
#ifndef IMP_TEXT_JINJA_PARSE_H
#define IMP_TEXT_JINJA_PARSE_H

#include "text/jinja_impl.h"

typedef struct jnodes {
    jnode **v;
    uint32_t n, cap;
} jnodes;

typedef struct jparse {
    jx *c;
    jinja_program *prog;
    jtoks *t;
    size_t i;
    unsigned depth;
    unsigned loops;   /* loops around this place, inside the same function body: break and continue need one */
    uint8_t uses;     /* JU_ bits seen so far in the macro body being parsed */
} jparse;

typedef struct jtuple { /* how jp_tuple reads */
    bool simple, cond, explicit, nsref;
    const char *end;  /* a name that ends the tuple */
} jtuple;

jtok *jp_cur(jparse *p);
jtok *jp_look(jparse *p);
jtok *jp_next(jparse *p);
bool jp_is_name(const jtok *t, const char *name);
bool jp_skip(jparse *p, jtok_kind k);
bool jp_skip_name(jparse *p, const char *name);
jtok *jp_expect(jparse *p, jtok_kind k);
_Noreturn void jp_fail(jparse *p, const jtok *at, const char *wanted);
jnode *jp_node(jparse *p, jnode_kind kind, uint32_t pos);
void jp_push(jparse *p, jnodes *l, jnode *n);
void jp_enter(jparse *p);
jnode *jp_name(jparse *p, const jtok *t);
jnode *jp_primary(jparse *p, bool nsref);
jnode *jp_expr(jparse *p, bool cond);
jnode *jp_tuple(jparse *p, jtuple o);
jnode *jp_filter(jparse *p, jnode *in, bool start_inline);
jcallargs *jp_call_args(jparse *p);

#endif

/* grammar_impl: the tree that grammar_parse.c reads and grammar.c lowers. Private to the two. */
#ifndef IMP_CONSTRAIN_GRAMMAR_IMPL_H
#define IMP_CONSTRAIN_GRAMMAR_IMPL_H

#include "constrain/constrain_impl.h"

typedef enum gn_op { GN_EMPTY, GN_RE, GN_REF, GN_CAT, GN_ALT, GN_REP } gn_op;
typedef struct gn {
    gn_op op;
    re_node *re;           /* GN_RE: characters, a literal, a /regular expression/ */
    uint32_t rule;         /* GN_REF */
    uint32_t min, max;
    struct gn **kid;
    size_t n, cap;
} gn;

typedef struct gdef {
    const char *name;
    size_t name_n;
    gn *body;              /* NULL: used but not defined */
    size_t used_at;        /* where it was first used, for the message */
    bool recursive;
    uint8_t mark;
} gdef;

typedef struct grammar {
    cc *c;
    const char *s;
    size_t n, pos;
    bool lark;             /* "name: ..." with [optional], /re/, ~n; else "name ::= ..." */
    int depth;
    gdef *def;
    size_t n_def, cap_def;
    re_sets sets;
} grammar;

void grammar_parse(grammar *g);
gn *gn_new(grammar *g, gn_op op);
void gn_add(grammar *g, gn *p, gn *kid);

#endif

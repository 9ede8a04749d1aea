/* schema_impl: what the schema compiler's files share. Private to schema*.c.
 *
 * A value node stands for a conjunction of schemas (items). It is expanded, one JSON type at a time, into branches:
 * each branch is one conjunction of plain facts about a value of that type (an automaton and lengths, number bounds,
 * layers of properties, ...), and the node means "one of its branches". allOf, $ref and `not` only move facts; anyOf,
 * oneOf, if and negated conjunctions are choices, and choosing makes branches. A schema under `not` is expanded in
 * negation normal form, so every keyword has a positive and a negative meaning (schema_kw.c). */
#ifndef IMP_CONSTRAIN_SCHEMA_IMPL_H
#define IMP_CONSTRAIN_SCHEMA_IMPL_H

#include "constrain/constrain_impl.h"

typedef enum jtype { T_NULL, T_BOOL, T_NUM, T_STR, T_ARR, T_OBJ, T_COUNT } jtype;

/* item: jv id << 2 | constant << 1 | negated; ITEM_FALSE satisfies nothing. */
typedef uint32_t item;
#define ITEM_FALSE 0xFFFFFFFEu
#define ITEM_ANY 0xFFFFFFFDu /* in an elist only: no condition */
static inline item item_of(const jv *v, bool constant, bool neg) { return v->id << 2 | (uint32_t)constant << 1 | neg; }

typedef struct ilist { item it; const struct ilist *next; } ilist;
/* a name, and maybe an item */
typedef struct nlist { const char *s; size_t n; item it; const struct nlist *next; } nlist;
typedef struct llist { const jv *owner; const struct llist *next; } llist;
typedef struct xlist { uint32_t index; item it; const struct xlist *next; } xlist; /* item at an index */
/* contains, from an index on */
typedef struct clist { item it; uint32_t min, max, from; const struct clist *next; } clist;
/* Some key has such a value: one that matches pattern, or that fails the schema `names`, or else one beyond owner's
 * names and patterns. */
typedef struct elist { const jv *owner, *pattern, *names; item it; const struct elist *next; } elist;

typedef struct branch {
    jtype t;
    uint32_t bools;           /* 1 false, 2 true */
    const cdfa *sd;
    uint32_t smin, smax;
    num_con num;
    const llist *olayers;
    const nlist *req, *extra;
    uint32_t minp, maxp;
    const ilist *pnames;
    const elist *exists;
    const llist *alayers;
    const xlist *aextra;
    uint32_t mini, maxi;
    const clist *contains;
    bool unique;
    const jv *unsup;          /* a keyword that cannot be enforced; an error if the branch is used */
    const char *unsup_why;
} branch;

typedef enum atom_kind {
    A_SCHEMA, A_CONST, A_KW, A_NAMES, A_PROP, A_MAYBE, A_ABSENT, A_REQ, A_MINP, A_MAXP, A_INDEX, A_MINI, A_MAXI,
    A_EXISTS, A_BADNAME, A_CONTAINS, A_NUM_BELOW, A_NUM_ABOVE
} atom_kind;
typedef struct atom {
    atom_kind kind;
    const jv *v, *owner;
    bool neg, constant;
    uint32_t a, b;            /* count or index; A_REQ, A_ABSENT: b = the name is v's text, else v's key */
    const struct atom *next;
} atom;
typedef struct alt { const atom *atoms; const struct alt *next; } alt;
typedef struct choice { const alt *alts; uint32_t n; const struct choice *next; } choice;

/* A branch in the making. */
typedef struct work {
    branch b;
    const atom *todo;
    const choice *choices;
    const ilist *applied;     /* schemas already in: a second time changes nothing, and ends $ref loops */
} work;

typedef struct obr {          /* an object branch with its children */
    uint32_t n_names;
    const char **name;
    size_t *name_n;
    uint32_t *node;           /* [n_names << n_ex] */
    uint8_t *required;
    uint32_t *rank;           /* place of each name when keys are ordered, else NULL */
    uint32_t n_ex;
    const cdfa *kd;           /* labels */
    uint32_t *cls_label, *cls_node;
    uint32_t n_cls;
    bool extras_any;          /* kd == NULL and extras are possible */
} obr;
typedef struct abr {
    uint32_t n_prefix, n_con;
    uint32_t *node;           /* [(n_prefix + 1) << n_con] */
    pcontains *con;
} abr;

typedef struct bnode {        /* branch in a node */
    branch b;
    obr o;
    abr a;
    bool sat;
    uint32_t idx;             /* program index once made */
} bnode;

typedef struct vnode {
    item *it;
    uint32_t n;
    bnode *br;
    size_t n_br, cap_br;
    bool expanded, sat;
    uint32_t out;             /* pnode */
} vnode;

typedef struct sx {
    cc *c;
    jdoc doc;
    constrain_prog *p;
    int draft;                /* 4, 6, 7, 2019, 2020; 0: not said */
    vnode *node;
    size_t n_node, cap_node;
    idmap by_items;
    const jv **ref_target;    /* by jv id of the $ref's value */
    idmap ids;                /* hash of $id / $anchor text -> jv id */
    idmap disjoint;
    int depth;
    idmap raw_of;             /* cdfa pointer -> index in program */
    idmap ids_out;            /* value node * 2 + canonical -> program node */
    uint64_t *out_src;        /* and back */
    size_t cap_src, cap_raw, cap_str, cap_pnode, cap_obj, cap_arr;
} sx;

/* schema_expand.c */
uint32_t node_get(sx *x, item *it, size_t n);        /* sorts and dedupes it */
void node_expand(sx *x, uint32_t id);
bool items_sat_quick(sx *x, const item *it, size_t n, int depth); /* false only when certainly empty */
bool pair_disjoint(sx *x, const jv *a, const jv *b, jtype t);
bool apply_all(sx *x, work *w);                      /* works off w->todo; false: contradiction */
void push_atom(sx *x, work *w, atom a);
void push_choice(sx *x, work *w, const alt *alts, uint32_t n);
const alt *alt_new(sx *x, const alt *next, const atom *atoms);
const atom *atom_new(sx *x, atom a, const atom *next);
bool branch_restrict_string(sx *x, branch *b, const cdfa *d, bool neg); /* d NULL: matches nothing */
const cdfa *pattern_dfa(sx *x, const jv *pattern, const char *s, size_t n, uint32_t *min, uint32_t *max);
bool name_matches(sx *x, const jv *pattern_member, const char *s, size_t n);
_Noreturn void schema_fail(sx *x, const jv *v, imp_status s, const char *why);

/* schema_kw.c */
bool kw_apply(sx *x, work *w, const jv *owner, const jv *kw, bool neg); /* kw: the member */
bool names_atoms(sx *x, work *w, const jv *v, bool neg);
bool kw_asserts(sx *x, const jv *owner, const jv *kw);
const jv *schema_ref(sx *x, const jv *ref);
bool const_apply(sx *x, work *w, const jv *v, bool neg);
uint32_t array_prefix(sx *x, const jv *owner, const jv **prefix, const jv **rest);

/* schema_obj.c */
void object_children(sx *x, bnode *b);
void array_children(sx *x, bnode *b);
bool branch_sat(sx *x, bnode *b);
const cdfa *number_dfa(sx *x, const num_con *n, bool canonical, const char *where); /* cached; NULL: none */
const cdfa *with_length(sx *x, const cdfa *d, uint32_t min, uint32_t max); /* d (NULL: any) with the lengths built in */
void schema_emit(sx *x, uint32_t root);
bool string_nonempty(sx *x, const branch *b);

#endif

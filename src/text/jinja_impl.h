/* jinja_impl: what the interpreter's files share; nobody else includes this.
 * Errors travel by longjmp to the one setjmp in jinja_compile, jinja_render or jval_parse: everything that is built on
 * the way lives in an arena, so nothing leaks. Hence "returns" below means "returns, or has jumped". */
#ifndef IMP_TEXT_JINJA_IMPL_H
#define IMP_TEXT_JINJA_IMPL_H

#include <setjmp.h>

#include "text/jinja.h"

typedef struct jnode jnode;
typedef struct jx jx;
typedef struct jenv jenv;

/* ---- tokens (jinja_lex.c) ---- */
typedef enum jtok_kind {
    T_EOF, T_DATA, T_VAR_BEGIN, T_VAR_END, T_BLOCK_BEGIN, T_BLOCK_END, T_NAME, T_STR, T_INT, T_FLOAT,
    T_ADD, T_SUB, T_MUL, T_DIV, T_FLOORDIV, T_MOD, T_POW, T_TILDE, T_LBRACKET, T_RBRACKET, T_LPAREN, T_RPAREN,
    T_LBRACE, T_RBRACE, T_EQ, T_NE, T_GT, T_GE, T_LT, T_LE, T_ASSIGN, T_DOT, T_COLON, T_PIPE, T_COMMA, T_SEMICOLON
} jtok_kind;
typedef struct jtok {
    jtok_kind kind;
    uint32_t pos; /* byte offset in the normalised source */
    jval v;       /* T_DATA, T_NAME, T_STR: text; T_INT, T_FLOAT: number */
} jtok;
typedef struct jtoks {
    jtok *v;
    size_t n, cap;
} jtoks;
void jinja_lex(jx *c, jtoks *out);
const char *jtok_name(jtok_kind k);

/* ---- syntax tree (jinja_parse.c) ---- */
typedef enum jnode_kind {
    N_CONST, N_NAME, N_LIST, N_TUPLE, N_DICT, N_AND, N_OR, N_NOT, N_NEG, N_POS, N_BIN, N_CONCAT, N_COMPARE, N_COND,
    N_ATTR, N_ITEM, N_SLICE, N_CALL, N_FILTER, N_TEST, N_NSREF,
    N_TEXT, N_PRINT, N_IF, N_FOR, N_SET, N_SETBLOCK, N_MACRO, N_CALLBLOCK, N_FILTERBLOCK, N_WITH, N_BLOCK, N_SCOPE,
    N_AUTOESCAPE, N_BREAK, N_CONTINUE, N_DO, N_LOADER, N_IN, N_NOTIN
} jnode_kind;

typedef struct jkw {
    const jstr *name;
    jnode *v;
} jkw;
typedef struct jcallargs {
    jnode **pos;
    jkw *kw;
    jnode *star, *dstar;
    uint32_t n_pos, n_kw;
} jcallargs;

struct jnode {
    uint8_t kind;
    uint8_t op;    /* N_BIN, N_COMPARE operands: token kind, N_IN, N_NOTIN; N_FOR: 1 recursive; N_BLOCK: 1 scoped */
    uint8_t uses;  /* N_MACRO, N_CALLBLOCK: JU_ bits of special names that the body reads */
    uint32_t pos, sym, n;
    const jstr *str;   /* attribute, filter, test, block or tag name */
    const void *row;   /* N_FILTER, N_TEST: table row, NULL when unknown (an error when reached) */
    jnode *a, *b, *c;
    jnode **list;      /* n items: operands, statements, (key, value) pairs, (condition, body) pairs, parameters */
    jnode **list2;     /* N_MACRO: defaults, right-aligned with list; n2 of them */
    uint32_t n2;
    jcallargs *args;
    jval val;
};
enum { JU_CALLER = 1, JU_KWARGS = 2, JU_VARARGS = 4 };
/* Names known to the evaluator have fixed symbol numbers. */
enum { SYM_LOOP, SYM_CALLER, SYM_KWARGS, SYM_VARARGS, SYM_SELF, SYM_SUPER, SYM_FIXED };

#define JINJA_MAX_PARSE_DEPTH 120  /* nesting of tags and parentheses; each level costs at most ~15 C frames */
#define JINJA_MAX_DEPTH 600        /* nesting of evaluation; fits 1 MiB of stack, sanitizers included 8 MiB */
#define JINJA_MAX_RANGE 100000     /* as jinja2's sandbox */
#define JINJA_MAX_TEMPLATE ((size_t)8 << 20)

struct jinja_program {
    arena mem;
    char *name, *src;   /* src: newlines normalised, final newline removed */
    size_t n_src;
    jdict *sym;         /* name -> number */
    const jstr **sym_name;
    size_t n_sym, cap_sym;
    jdict *words;       /* every name and string constant, for jinja_mentions */
    jdict *blocks;      /* block name -> number of the node in block_node */
    jnode **block_node;
    size_t n_block;
    jnode *body;        /* N_SCOPE whose list are the statements */
};
void jinja_parse(jx *c, jinja_program *p, jtoks *t);
uint32_t jinja_intern(jx *c, jinja_program *p, const jstr *name);

/* ---- the running state ---- */
struct jx {
    arena *mem;
    jinja_program *compiling;   /* set while compiling */
    const jinja_program *prog;
    imp_err *err;
    imp_status status;
    jmp_buf jump;
    const char *name;
    uint32_t pos;               /* what is being evaluated, for messages */
    uint64_t steps;             /* left */
    size_t max_memory, max_output;
    unsigned depth, max_depth;
    const jinja_env *env;
    jval vars;
    jval *root;                 /* [n_sym]: variables of the outermost scope; J_MISSING = not looked up yet */
    bool autoescape;
    bool plain;                 /* messages without a position (JSON) */
};
struct jenv {
    jenv *up;                   /* NULL: the root scope, whose variables are jx.root */
    uint32_t n, cap;
    uint32_t *sym;
    jval *v;
};

_Noreturn void jx_fail(jx *c, imp_status s, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#define jx_type_error(c, ...) jx_fail((c), IMP_E_PARSE, __VA_ARGS__) /* where Python raises TypeError and the like */
_Noreturn void jx_undefined(jx *c, jval u);                 /* "'x' is undefined" */
void *jx_alloc(jx *c, size_t n);                            /* zeroed, counted against the memory limit */
void *jx_array(jx *c, size_t n, size_t size);
void jx_step(jx *c, size_t n);                              /* charges n steps */
void jx_enter(jx *c);                                       /* one level deeper, or the depth limit */
static inline void jx_leave(jx *c) { c->depth--; }
#define JX_NEW(c, T) ((T *)jx_alloc((c), sizeof(T)))
void jx_line_col(const jinja_program *p, uint32_t pos, unsigned *line, unsigned *col);

/* ---- strings (jinja_str.c) ---- */
jstr *js_view(jx *c, const char *s, size_t n, bool tainted);     /* borrows */
jstr *js_copy(jx *c, const char *s, size_t n, bool tainted);
jstr *js_lit(jx *c, const char *lit);
const jstr *js_escaped(jx *c, const jstr *s);                     /* HTML */
const jstr *js_replace(jx *c, const jstr *s, const jstr *old, const jstr *new, int64_t max);
jlist *js_lines(jx *c, const jstr *s, bool keep);
const jstr *js_pad(jx *c, const jstr *s, int64_t width, int64_t left, const jstr *ch);
int64_t js_center_left(int64_t missing, int64_t width);
bool js_all_case(jx *c, const jstr *s, bool upper);
jstr *js_sub(jx *c, const jstr *s, size_t from, size_t to);       /* bytes; shares memory */
size_t js_offset(const jstr *s, size_t cp);                       /* byte offset of the cp-th code point */
static inline bool js_ascii(const jstr *s) { return s->n == s->n_cp; }
static inline bool js_taint_at(const jstr *s, size_t i) { return s->taint ? s->taint[i] : s->tainted; }
bool js_eq(const jstr *a, const jstr *b);
bool js_is(const jstr *a, const char *lit);
int js_cmp(const jstr *a, const jstr *b);
size_t js_find(const jstr *s, size_t from, const char *pat, size_t n); /* byte offset or SIZE_MAX */
uint32_t js_cp(const jstr *s, size_t off, size_t *len);

typedef struct jbuf { /* a string under construction; taint is kept a byte */
    jx *c;
    char *s;
    uint8_t *taint; /* NULL until the first tainted byte */
    size_t n, cap;
    bool markup;
} jbuf;
void jb_add(jbuf *b, const char *s, size_t n, bool tainted);
void jb_lit(jbuf *b, const char *lit);                           /* template-trusted */
void jb_lit_t(jbuf *b, const char *lit, bool tainted);
void jb_cp(jbuf *b, uint32_t cp, bool tainted);
void jb_str(jbuf *b, const jstr *s);
void jb_sub(jbuf *b, const jstr *s, size_t from, size_t to);
jstr *jb_done(jbuf *b);

/* ---- values (jinja_value.c) ---- */
typedef struct jundef { /* why a value is undefined */
    const jstr *name;   /* variable, attribute or key */
    jval obj;           /* J_MISSING: a variable */
    const char *hint;   /* whole message, or NULL */
    bool element;       /* the key was not a string */
} jundef;
static inline jval jv_str(const jstr *s) { return (jval){.t = J_STR, .u.s = s}; }
jval jv_lit(jx *c, const char *lit);
jval jv_undef(jx *c, const char *hint);
jval jv_undef_name(jx *c, const jstr *name);
jval jv_undef_attr(jx *c, jval obj, const jstr *name);
jlist *jl_new(jx *c, jlist_kind kind, size_t cap);
void jl_push(jx *c, jlist *l, jval v);
static inline jval jv_list(jlist *l) { return (jval){.t = J_LIST, .u.l = l}; }
jdict *jd_new(jx *c);
const jval *jd_find(jx *c, const jdict *d, jval key);            /* NULL when absent; unhashable keys fail */
const jval *jd_find_lit(const jdict *d, const char *key);
void jd_set(jx *c, jdict *d, jval key, jval v);
static inline jval jv_dict(jdict *d) { return (jval){.t = J_DICT, .u.d = d}; }
bool jv_hashable(jval v);
bool jv_true(jx *c, jval v);
bool jv_eq(jx *c, jval a, jval b);
int jv_cmp(jx *c, jval a, jval b, const char *op);               /* <0, 0, >0; 2 = unordered (NaN) */
bool jv_contains(jx *c, jval box, jval item);
jlist *jv_iter(jx *c, jval v);                                   /* items to loop over; a generator is used up */
jlist *jv_iter_or_null(jx *c, jval v);                           /* NULL when v is not iterable */
size_t jv_len(jx *c, jval v);
const char *jv_type(jval v);                                     /* Python's type name */
bool jv_is_num(jval v);                                          /* bool, int, float */
static inline bool jv_is_int(jval v) { return v.t == J_INT || v.t == J_BIG || v.t == J_BOOL; }
bool jv_tainted(jval v);
jval jv_getattr(jx *c, jval obj, const jstr *name);
jval jv_own_attr(jx *c, jval obj, const jstr *name, bool *found); /* Python's getattr, without the item fallback */
#define JL_GROUP 2 /* jlist.used of a pair that groupby made: has .grouper and .list */
jval jv_getitem(jx *c, jval obj, jval key);
jval jv_slice(jx *c, jval obj, jval start, jval stop, jval step);

/* ---- text forms (jinja_repr.c) ---- */
const jstr *jv_to_str(jx *c, jval v);                            /* str(v) */
const jstr *jv_repr(jx *c, jval v);
void jb_val(jbuf *b, jval v);                                    /* appends str(v) */
void jb_repr(jbuf *b, jval v);
void jb_float(jbuf *b, double f, bool tainted);
typedef struct jjson_opts {
    const jstr *indent; /* NULL: one line */
    const jstr *item_sep, *key_sep;
    bool ascii, sort_keys;
} jjson_opts;
void jb_json(jbuf *b, jval v, const jjson_opts *o);

/* ---- numbers (jinja_num.c) ---- */
jval jn_parse_int(jx *c, const char *digits, size_t n, unsigned base); /* no sign, no underscores */
jval jn_binary(jx *c, uint8_t op, jval a, jval b);               /* both numbers; op is a token kind */
jval jn_neg(jx *c, jval a);
jval jn_abs(jx *c, jval a);
int jn_cmp(jx *c, jval a, jval b);                               /* 2 = unordered */
bool jn_is_zero(jval a);
double jn_double(jx *c, jval a);
jval jn_from_double(jx *c, double f);                            /* int(f) */
void jb_int(jbuf *b, jval v, unsigned base);                     /* without prefix */
bool jn_to_i64(jval v, int64_t *out);                            /* false when it does not fit or is no integer */
uint64_t jn_hash(jval v);
jval jn_round(jx *c, double f, int64_t digits);                  /* Python's round(f, digits) */
void jb_fixed(jbuf *b, double f, char conv, int prec, bool alt, bool tainted); /* printf %e %f %g */

/* ---- Unicode (jinja_text.c) ---- */
bool ju_space(uint32_t cp);       /* str.isspace */
bool ju_printable(uint32_t cp);
bool ju_alpha(uint32_t cp);
bool ju_decimal(uint32_t cp);
bool ju_digit(uint32_t cp);
bool ju_numeric(uint32_t cp);
bool ju_upper_p(uint32_t cp);
bool ju_lower_p(uint32_t cp);
bool ju_title_p(uint32_t cp);
bool ju_word(uint32_t cp);        /* \w */
typedef enum ju_case { JU_UPPER, JU_LOWER, JU_TITLE, JU_CAPITALIZE, JU_SWAP, JU_FOLD } ju_case;
const jstr *ju_convert(jx *c, const jstr *s, ju_case how);
const jstr *ju_strip(jx *c, const jstr *s, const jstr *chars /* NULL: white space */, bool left, bool right);

/* ---- calls ---- */
typedef struct jargs {
    jval *pos;
    size_t n_pos;
    const jstr **kw_name;
    jval *kw;
    size_t n_kw;
} jargs;
#define JCALL_MAX 6
typedef struct jcall { /* what a built-in function receives */
    const char *name;
    jval self;
    const jargs *args;     /* as given */
    jval p[JCALL_MAX];     /* bound to the row's parameters; J_MISSING when not given */
    jenv *env;
} jcall;
typedef jval (*jfn)(jx *c, jcall *k);
#define JROW_UNSAFE (-2)   /* n_max of a method that would change its object: exists, but gives an undefined value */
typedef struct jrow {      /* one built-in: filter, test, function or method */
    const char *name;
    jfn fn;
    int n_min, n_max;      /* parameters besides self; n_max -1: takes any arguments, nothing is bound */
    const char *param[JCALL_MAX];
} jrow;
extern const jrow jinja_filters[], jinja_filters_seq[], jinja_tests[], jinja_globals[]; /* each ends with a NULL name */
extern const jrow jinja_str_methods[], jinja_str_methods2[], jinja_list_methods[], jinja_dict_methods[],
    jinja_num_methods[], jinja_loop_methods[];
const jrow *jrow_find(const jrow *t, const char *name, size_t n);
const jrow *jinja_filter_find(const jstr *name);
const jrow *jinja_method_find(jval obj, const jstr *name);
jval jx_call_row(jx *c, const jrow *r, jval self, const jargs *a, jenv *env);
jval jx_call(jx *c, jval f, const jargs *a, jenv *env);

typedef struct jmethod {
    jval self;
    const jrow *row;
} jmethod;
typedef struct jmacro {
    const jnode *node;     /* N_MACRO or N_CALLBLOCK */
    jenv *env;             /* where it was defined */
    const jstr *name;
} jmacro;
typedef struct jloop {
    const jnode *node;
    jenv *env;             /* outside of the loop */
    jlist *items;
    size_t i;
    unsigned depth0;
    jval *changed;         /* arguments of the last changed() */
    size_t n_changed;
    bool has_changed;
} jloop;
typedef struct jcycler {
    jval *v;
    size_t n, i;
} jcycler;
typedef struct jjoiner {
    const jstr *sep;
    bool used;
} jjoiner;
jval jloop_getattr(jx *c, jloop *l, const jstr *name, bool *found);

/* ---- evaluation (jinja_eval.c, jinja_exec.c) ---- */
jval jx_eval(jx *c, const jnode *n, jenv *env);
jval jx_eval_callblock(jx *c, const jnode *n, jenv *env, const jmacro *caller);
jval jx_eval_filter(jx *c, const jnode *n, jenv *env, jval input); /* chain whose innermost input is given */
jval jx_binary(jx *c, uint8_t op, jval a, jval b);
jval jx_lookup(jx *c, jenv *env, uint32_t sym);
void jx_assign(jx *c, jenv *env, uint32_t sym, jval v);
jenv *jenv_new(jx *c, jenv *up);
typedef enum jflow { JF_NEXT, JF_BREAK, JF_CONTINUE } jflow;
jflow jx_exec(jx *c, const jnode *const *list, size_t n, jenv *env, jbuf *out);
jval jx_call_macro(jx *c, const jmacro *m, const jargs *a);
jval jx_call_loop(jx *c, jloop *l, jval items);
jval jx_call_block(jx *c, uint32_t i);
const jstr *jstr_format_percent(jx *c, const jstr *fmt, jval arg);       /* fmt % arg */
const jstr *jstr_format_braces(jx *c, const jstr *fmt, const jargs *a, jval mapping);
void jb_format_spec(jbuf *b, jval v, const jstr *spec);                    /* format(v, spec) */
jval jx_attr_path(jx *c, jval obj,
    jval attribute);                        /* "a.b.0", as sort(attribute=...) reads it */

#endif

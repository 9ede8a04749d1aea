/* constrain_impl: what the files of src/constrain share. Private.
 *
 * The pieces. A cdfa is a complete deterministic automaton over code points, all of whose states can still reach an
 * end. Strings, keys, numbers, literals, terminals are cdfas read through a codec (JSON string or plain UTF-8) that
 * turns bytes into code points, so no automaton knows escapes or UTF-8. Lengths are counters beside the automaton.
 * Values, objects, arrays and grammar rules are frames of a stack (machine.c).
 *
 * Compiling allocates from one arena and fails by longjmp (cc_fail), so no step needs an unwinding path of its own:
 * nothing but the arena is held while compiling. */
#ifndef IMP_CONSTRAIN_IMPL_H
#define IMP_CONSTRAIN_IMPL_H

#include <setjmp.h>
#include <stdatomic.h>
#include <stdint.h>

#include "base/arena.h"
#include "constrain/constrain.h"

#define DEAD 0xFFFFFFFFu
#define INF 0xFFFFFFFFu
#define CP_MAX 0x10FFFFu

/* ---- compile context ------------------------------------------------------------------------------------------- */
typedef struct dfa_cache_row dfa_cache_row;
typedef struct cc {
    arena *a;                   /* scratch: given back when compiling ends */
    arena *pa;                  /* the program's: what stays */
    imp_err *e;
    constrain_options o;
    jmp_buf fail;
    unsigned long long work;
    dfa_cache_row *dfa_cache;   /* patterns and formats already built */
    struct cdfa *all;           /* every string */
} cc;

_Noreturn void cc_fail(cc *c, imp_status s, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void *cc_alloc(cc *c, size_t n);
void *cc_array(cc *c, size_t n, size_t size);
void *cc_keep(cc *c, size_t n, size_t size); /* from the program's arena */
void cc_work(cc *c, unsigned long long n); /* counts steps; fails with IMP_E_LIMIT */
#define CC_NEW(c, T) ((T *)cc_alloc((c), sizeof(T)))
#define CC_ARRAY(c, T, n) ((T *)cc_array((c), (n), sizeof(T)))
#define CC_KEEP(c, T, n) ((T *)cc_keep((c), (n), sizeof(T)))

/* Open addressing, 64-bit keys to ids; UINT64_MAX is not a key. */
typedef struct idmap {
    uint64_t *key;
    uint32_t *val;
    size_t n, cap;
} idmap;
uint32_t *idmap_at(cc *c, idmap *m, uint64_t key, bool *found); /* valid until the next call */
static inline uint64_t hash64(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93ull;
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93ull;
    return x ^ x >> 32;
}
uint64_t hash_bytes(const void *p, size_t n);

/* Growing arrays in the arena (the old copy stays behind; doubling bounds the waste). */
void *cc_grow(cc *c, void *p, size_t n, size_t *cap, size_t size);
#define CC_PUSH(c, p, n, cap, v) \
    do { \
        (p) = cc_grow((c), (p), (n), &(cap), sizeof *(p)); \
        (p)[(n)++] = (v); \
    } while (0)

/* ---- code point sets ------------------------------------------------------------------------------------------- */
typedef struct cprange { uint32_t lo, hi; } cprange;
typedef struct cpset {
    cprange *r; /* sorted, disjoint, not adjacent after cpset_norm */
    size_t n, cap;
} cpset;
void cpset_add(cc *c, cpset *s, uint32_t lo, uint32_t hi);
void cpset_add_set(cc *c, cpset *s, const cpset *o);
void cpset_norm(cpset *s);
void cpset_invert(cc *c, cpset *s);
bool cpset_add_property(cc *c, cpset *s, const char *name, size_t n); /* L, Lu, Letter, ... ; false: unknown */
void cpset_fold_case(cc *c, cpset *s);

/* ---- automata -------------------------------------------------------------------------------------------------- */
typedef struct cdfa {
    uint32_t n, ncls, start;
    uint16_t ascii[128];
    uint32_t nr;              /* ranges from 0x80 on: [rlo[i], rlo[i+1]) has class rcls[i] */
    const uint32_t *rlo;
    const uint16_t *rcls;
    const uint32_t *trans;    /* [n * ncls], DEAD or a state */
    const uint32_t *label;    /* [n], 0 = not an end */
    /* analysis (dfa_analyse): */
    const uint32_t *mind;     /* code points to the nearest end */
    const uint32_t *maxd;     /* to the farthest end, INF when unbounded */
    const uint32_t *count;    /* number of texts accepted from here, INF when more than 2^31 */
    bool universal;           /* accepts every text */
    const uint32_t *first;    /* kept automata: [n][5] ASCII characters with a live step, and whether any other has
                                 one */
} cdfa;

/* The range beyond ASCII that holds cp; the first, where none does. */
static inline uint32_t dfa_range(const cdfa *d, uint32_t cp)
{
    uint32_t lo = 0, hi = d->nr;
    while (hi - lo > 1) {
        uint32_t m = (lo + hi) / 2;
        if (d->rlo[m] <= cp)
            lo = m;
        else
            hi = m;
    }
    return lo;
}
static inline uint32_t dfa_class(const cdfa *d, uint32_t cp)
{
    return cp < 128 ? d->ascii[cp] : d->rcls[dfa_range(d, cp)];
}
static inline uint32_t dfa_step(const cdfa *d, uint32_t q, uint32_t cp)
{
    return d->trans[q * d->ncls + dfa_class(d, cp)];
}

typedef enum dfa_op { DFA_AND, DFA_OR, DFA_SUB } dfa_op;
cdfa *dfa_product(cc *c, const cdfa *a, const cdfa *b, dfa_op op); /* NULL: accepts nothing */
/* Runs all of d[0..n), n <= 24, side by side; label = bit i when d[i] accepts, | 1<<n always. Never dies. */
cdfa *dfa_tag_product(cc *c, cdfa *const *d, size_t n);
/* Keeps the ends whose label satisfies keep(); NULL when nothing is left. */
cdfa *dfa_filter(cc *c, const cdfa *d, bool (*keep)(void *, uint32_t label), void *arg);
cdfa *dfa_all(cc *c);
cdfa *dfa_strings(cc *c, const char *const *s, const size_t *n, size_t count); /* a finite set of UTF-8 texts */
bool dfa_accepts(const cdfa *d, const char *s, size_t n);       /* UTF-8 in */
uint32_t dfa_run(const cdfa *d, uint32_t q, const char *s, size_t n);
/* Has the automaton a live step from q by some code point in [lo, hi]? */
bool dfa_live_range(const cdfa *d, uint32_t q, uint32_t lo, uint32_t hi);

/* An automaton given by functions over small fixed-size states and the symbols of an ASCII string. */
typedef struct dfa_spec {
    const char *symbols; /* each its own class; other characters are dead */
    size_t state_size;
    bool (*step)(void *arg, const void *from, char symbol, void *to);
    bool (*accept)(void *arg, const void *state);
    void *arg;
} dfa_spec;
cdfa *dfa_from_spec(cc *c, const dfa_spec *s, const void *start); /* NULL: empty */

/* Builder used by regex.c and dfa.c: raw tables in, trimmed, minimised, analysed automaton out (NULL: empty). */
typedef struct dfa_raw {
    uint32_t n, ncls, start;
    uint32_t *trans, *label;
    uint16_t ascii[128];
    uint32_t nr;
    uint32_t *rlo;
    uint16_t *rcls;
} dfa_raw;
cdfa *dfa_finish(cc *c, dfa_raw *r, bool keep_dead);
/* Classes of code points from a list of sets: fills ascii/rlo/rcls/ncls of r and, per class, which sets hold it. */
void dfa_classes(cc *c, dfa_raw *r, const cpset *sets, size_t n_sets, uint64_t **members /* [ncls][*n_words] */,
                 size_t *n_words);

/* ---- regular expressions --------------------------------------------------------------------------------------- */
typedef enum re_op { RE_EMPTY, RE_SET, RE_CAT, RE_ALT, RE_REP, RE_BOL, RE_EOL, RE_NEVER } re_op;
typedef struct re_node {
    re_op op;
    uint32_t set;              /* RE_SET: index into sets */
    uint32_t min, max;         /* RE_REP */
    struct re_node *a, *b;     /* CAT, ALT: both; REP: a */
} re_node;
typedef struct re_sets {
    cpset *s;
    size_t n, cap;
} re_sets;
re_node *re_new(cc *c, re_op op, re_node *a, re_node *b);
re_node *re_rep(cc *c, re_node *a, uint32_t min, uint32_t max);
uint32_t re_set_add(cc *c, re_sets *v, const cpset *s);
/* where: what to call it in messages. */
re_node *re_parse(cc *c, re_sets *sets, const char *s, size_t n, const char *where);
/* search: the pattern may match anywhere. NULL: matches nothing. */
cdfa *re_compile(cc *c, const re_sets *sets, const re_node *re, bool search, const char *where);
/* A pattern as JSON Schema means it. When it is ^C{m,n}$ with one class, the lengths come out as counters. */
cdfa *re_pattern(cc *c, const char *s, size_t n, bool search, const char *where, uint32_t *min_len, uint32_t *max_len,
                 bool counted);
/* When the whole expression is C{m,n} for one class C: C's automaton; else NULL. */
cdfa *re_counted_class(cc *c, const char *s, size_t n, const char *where, uint32_t *min, uint32_t *max);
/* Reads one [class] for regex and grammar alike; *pos stands behind '['. */
void re_parse_class(cc *c, const char *s, size_t n, size_t *pos, cpset *out, const char *where);

cdfa *dfa_cached(cc *c, const char *kind, const char *s, size_t n, bool *found);
void dfa_cache_add(cc *c, const char *kind, const char *s, size_t n, cdfa *d);

/* NULL with *known = false: no such format. */
cdfa *format_dfa(cc *c, const char *name, size_t n, bool *known);

/* ---- numbers --------------------------------------------------------------------------------------------------- */
typedef struct dec { /* sign * digits * 10^exp; digits without leading or trailing zeros, n = 0 means zero */
    bool neg;
    const char *d;
    uint32_t n;
    int64_t exp;
} dec;
bool dec_parse(cc *c, const char *s, size_t n, dec *out); /* a JSON number; false: exponent out of range */
int dec_cmp(const dec *a, const dec *b);
bool dec_is_int(const dec *a);
typedef struct num_multiple {
    dec m;
    bool neg; /* must NOT be a multiple */
    const struct num_multiple *next;
} num_multiple;
typedef struct num_con {
    bool has_lo, has_hi, lo_open, hi_open;
    bool only_int, only_frac;  /* integers only; non-integers only */
    bool canonical;            /* one spelling a value (uniqueItems) */
    dec lo, hi;
    const num_multiple *mult;
} num_con;
bool num_empty_quick(const num_con *n);
cdfa *num_dfa(cc *c, const num_con *n, const char *where); /* NULL: no number satisfies it */

/* ---- program --------------------------------------------------------------------------------------------------- */
typedef struct strlex { /* a JSON string: automaton (NULL: any) and length */
    const cdfa *d;
    uint32_t min, max;     /* INF: none */
    const uint64_t *lens;  /* [d->n][(max+64)/64] bit l: a text of exactly l code points; NULL when not needed */
    uint32_t lens_words;
} strlex;

typedef enum alt_kind { ALT_RAW, ALT_STR, ALT_ARR, ALT_OBJ } alt_kind;
typedef struct palt {
    alt_kind kind;
    uint32_t idx;
} palt;

typedef struct pnode { /* a value: any of its alternatives */
    palt *alt;
    uint32_t n;
    uint32_t domain;       /* number of values, INF unless small and known (uniqueItems) */
} pnode;

/* An object. Obligations (at most 3, from negations: "some key outside these names has a value that ...") are
 * fulfilled by a key or not; so a key has one value node for each set of obligations that it fulfils (index: bit set;
 * DEAD: no). */
typedef struct pclass { /* keys outside the names, by the label of kd where they end */
    uint32_t label;
    const uint32_t *node; /* [1 << n_ex] */
} pclass;

typedef struct pplace {       /* ordered keys: what is left from a place in the order on */
    uint32_t left;            /* required names */
    uint32_t stop;            /* place of the first of them: no name beyond it may come before it */
    uint32_t avail;           /* names that have values */
} pplace;

typedef struct pobj {
    uint32_t n_names, words;   /* words: of a bit map over the names */
    const uint32_t *const *name; /* code points, in their order */
    const uint32_t *name_len;
    const uint32_t *name_node; /* [n_names << n_ex] */
    const uint32_t *required;  /* bit map */
    uint32_t n_required;
    uint32_t minp, maxp;
    bool extras;               /* keys outside the names are possible */
    const cdfa *kd;            /* automaton of other keys, NULL: any key, class 0 */
    uint32_t kcount;           /* how many keys kd accepts, INF */
    uint32_t others;           /* how many keys outside the names there are, INF */
    const pclass *cls;
    uint32_t n_cls;
    uint32_t n_ex;
    const uint32_t *rank;      /* ordered keys: place of each name in the order; NULL: any order */
    const pplace *place;       /* ordered keys: [n_names + 1] */
    const uint32_t *reach;     /* with obligations and maxp: [kd->n] classes (bits) that keys from a state can still
                                  end in */
} pobj;

typedef struct pcontains {
    uint32_t min, max;
} pcontains;
typedef struct parr {
    uint32_t n_prefix;         /* items with a node of their own */
    uint32_t n_var;            /* 1 << n_contains: which contains clauses an item is counted for */
    const uint32_t *node;      /* [(n_prefix + 1) * n_var], DEAD = none */
    uint32_t min, max;
    uint32_t clamp;            /* indices from here on look alike */
    uint32_t n_con;
    const pcontains *con;
    const uint8_t *viable;     /* [(clamp + 1) * n_counts], NULL without contains */
    uint32_t n_counts;
    bool unique, unique_deep;  /* deep: items may be arrays or objects, compared when they close */
} parr;

/* Grammar: symbols of a production. */
typedef enum gsym_kind { GS_END, GS_LEX, GS_RULE, GS_REP } gsym_kind;
typedef struct gsym {
    gsym_kind kind;
    uint32_t idx;              /* raw automaton, rule, or repeat */
} gsym;
typedef struct grule {
    uint32_t *prod;            /* indices into gsyms where each production begins */
    bool nullable;
    uint32_t n;
} grule;
typedef struct grep_ { uint32_t rule, min, max; } grep_;

#define INSIDE_ROWS 256 /* masks of string automata that states of a program share */
/* Tokens that stay inside a string or key from state q of automaton d on, when no length is in the way. */
typedef struct inside_row {
    const cdfa *d;
    uint32_t q;
    uint64_t vocab;        /* its digest */
    size_t words;
    uint32_t bits[];
} inside_row;

struct constrain_prog {
    arena a;
    bool json;                 /* JSON text: strings and values are tracked for duplicate keys and unique items */
    bool any_unique;           /* some array has uniqueItems */
    bool deep_unique;          /* and compares whole arrays or objects */
    int codec;                 /* how strings are spelled: a codec of machine.h */
    constrain_ws ws;
    unsigned ws_max;
    uint32_t root;             /* node, or for grammars rule */
    const cdfa **raw;
    uint32_t n_raw;
    strlex *str;
    uint32_t n_str;
    pnode *node;
    uint32_t n_node;
    pobj *obj;
    uint32_t n_obj;
    parr *arr;
    uint32_t n_arr;
    gsym *gsym;
    uint32_t n_gsym;
    grule *rule;
    uint32_t n_rule;
    grep_ *rep;
    uint32_t n_rep;
    _Atomic(inside_row *) *inside; /* [INSIDE_ROWS] mask.c: only added to, by any state's thread */
};

/* ---- schema text as a tree --------------------------------------------------------------------------------------- */
typedef enum jv_type { JV_NULL, JV_FALSE, JV_TRUE, JV_NUMBER, JV_STRING, JV_ARRAY, JV_OBJECT } jv_type;
typedef struct jv {
    jv_type type;
    uint32_t id;
    const char *key;           /* member name, decoded (NULL in arrays) */
    size_t key_n;
    const char *s;             /* string decoded, or number literal */
    size_t n;
    struct jv *child, *next, *parent;
    uint32_t n_child;
    struct jv **sorted;        /* members by key */
    dec num;
} jv;
typedef struct jdoc {
    jv *root;
    jv **by_id;
    uint32_t n;
} jdoc;
void jdoc_parse(cc *c, const char *text, size_t n, jdoc *out);
const jv *jv_get(const jv *o, const char *key);
const jv *jv_getn(const jv *o, const char *key, size_t n);
bool jv_equal(const jv *a, const jv *b);
/* "#/properties/a": the path of v, in the arena. */
const char *jv_path(cc *c, const jv *v);

const cdfa *dfa_keep(cc *c, const cdfa *d); /* a copy in the program's arena */
void prog_from_dfa(cc *c, constrain_prog *p, const cdfa *d);
void prog_repeat(cc *c, constrain_prog *p, uint32_t min, uint32_t max);
void schema_compile(cc *c, const char *text, size_t n, constrain_prog *p);
void grammar_compile(cc *c, const char *text, size_t n, constrain_prog *p);
/* Canonical text of a JSON value (sorted keys, one number spelling); false: not one complete value. */
bool json_canonical(const char *s, size_t n, strbuf *out);

#endif

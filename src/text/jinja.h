/* jinja: chat templates, as Python's jinja2 3.1 renders them in transformers' environment (immutable sandbox,
 * trim_blocks, lstrip_blocks, loop controls, {% generation %}, tojson, raise_exception, strftime_now).
 * A program is compiled once, is immutable and may be rendered by any number of threads at once. Templates and data are
 * both untrusted: nothing outside the data can be reached, and steps, depth, memory and output are limited.
 * Every string knows which of its bytes came from the data ("tainted") and which from the template; the rendered
 * text carries that along, so that special tokens are recognised in template text only (see jinja_out).
 * Failures: IMP_E_PARSE (template syntax, or an operation that is an error in Python too, with line and column;
 * malformed JSON), IMP_E_USAGE (the template refused the data: raise_exception), IMP_E_LIMIT (a limit was passed),
 * IMP_E_UNSUPPORTED (include and the like), IMP_E_NOMEM. */
#ifndef IMP_TEXT_JINJA_H
#define IMP_TEXT_JINJA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/arena.h"
#include "base/status.h"
#include "base/strbuf.h"

/* ---- values -----------------------------------------------------------------------------------------------------
 * Python's data model as far as templates see it. Values live in an arena and are never changed once shared. */
typedef enum jtype {
    J_UNDEF, J_NONE, J_BOOL, J_INT, J_BIG, J_FLOAT, J_STR, J_LIST, J_DICT, /* data */
    J_NS, J_FUNC, J_METHOD, J_MACRO, J_LOOP, J_CYCLER, J_JOINER, J_SELF, J_BLOCK, /* made by templates only */
    J_MISSING /* internal: an argument that was not given, a name not yet resolved */
} jtype;

typedef struct jstr {
    const char *s;        /* valid UTF-8, not NUL-terminated in general; borrowed or in the arena */
    size_t n;             /* bytes */
    size_t n_cp;          /* code points; == n when ASCII */
    const uint8_t *taint; /* NULL: every byte is as `tainted` says; else one flag (0, 1) a byte */
    bool tainted;         /* some byte came from the data */
    bool markup;          /* Markup: already escaped (|e, |safe) */
} jstr;

typedef struct jval jval;
typedef struct jlist jlist;
typedef struct jdict jdict;
struct jval {
    jtype t;
    union {
        bool b;
        int64_t i;
        double f;
        const jstr *s;
        jlist *l;
        jdict *d;
        void *p; /* the other types' structs, see jinja_impl.h */
    } u;
};

typedef enum jlist_kind { JL_LIST, JL_TUPLE, JL_RANGE, JL_KEYS, JL_VALUES, JL_ITEMS, JL_GEN } jlist_kind;
struct jlist {
    jval *v;
    size_t n, cap;
    jlist_kind kind;
    size_t used; /* JL_GEN: items already handed out */
};

struct jdict { /* keeps insertion order, as Python does */
    jval *k, *v;
    size_t n, cap;
    uint32_t *index; /* open addressing, entry + 1; NULL while small */
    size_t n_index;
};

/* Building data by hand (chat.c). All take memory from the arena; on failure a->failed is set and J_NONE comes back.
 * Text must be valid UTF-8 (invalid bytes become U+FFFD) and is copied. */
jval jval_str(arena *a, const char *s, size_t n, bool tainted);
jval jval_list(arena *a);
jval jval_dict(arena *a);
bool jval_push(arena *a, jval list, jval item);
bool jval_set(arena *a, jval dict, const char *key, jval v); /* the key counts as template text */
const jval *jval_get(jval dict, const char *key);            /* NULL when absent or not a dict */
/* Parses JSON into a value; every string in it is tainted (or not). Objects keep their order, the last of equal keys
 * wins, integers of any size stay exact, as in Python's json.loads. `name` is for messages. */
imp_status jval_parse(arena *a, const char *json, size_t n, bool tainted, const char *name, jval *out, imp_err *e);

/* A string put together from others, each byte keeping its provenance. */
typedef struct jval_text {
    arena *a;
    strbuf s, taint;
} jval_text;
void jval_text_add(jval_text *t, const char *s, size_t n, bool tainted);
void jval_text_val(jval_text *t, jval v);      /* a string; nothing for other values */
bool jval_text_json(jval_text *t, jval v);     /* as tojson writes it; false when v cannot be written */
jval jval_text_done(jval_text *t);             /* frees the buffers; J_NONE when memory ran out */

static inline jval jval_none(void) { return (jval){.t = J_NONE}; }
static inline jval jval_bool(bool b) { return (jval){.t = J_BOOL, .u.b = b}; }
static inline jval jval_int(int64_t i) { return (jval){.t = J_INT, .u.i = i}; }
static inline jval jval_float(double f) { return (jval){.t = J_FLOAT, .u.f = f}; }

/* ---- programs --------------------------------------------------------------------------------------------------- */
typedef struct jinja_program jinja_program;

/* Compiles n bytes of template text (copied). `name` stands in front of messages: "name: line 3, column 7: ...". */
imp_status jinja_compile(jinja_program **out, const char *text, size_t n, const char *name, imp_err *e);
void jinja_free(jinja_program *p); /* NULL is fine */
const char *jinja_source(const jinja_program *p, size_t *n);
/* Does the template mention this variable, attribute or string constant anywhere? (Used to detect what it supports.) */
bool jinja_mentions(const jinja_program *p, const char *word);

typedef struct jinja_env {
    uint64_t max_steps;   /* 0 = default (see jinja.c) */
    size_t max_memory;    /* bytes for values; 0 = default */
    size_t max_output;    /* bytes of any one string; 0 = default */
    unsigned max_depth;   /* nesting of evaluation; 0 = default, and never more than that */
    const struct tm *now; /* what strftime_now shows; NULL = the local time */
    long now_us;          /* microseconds for %f */
} jinja_env;

/* A stretch of the output that came from the data (tainted) or from the template. */
typedef struct jinja_span {
    size_t begin, end; /* bytes of the text */
    bool tainted;
} jinja_span;
typedef struct jinja_out {
    strbuf text;       /* caller may set text.max */
    jinja_span *span;  /* owned; consecutive, covers the text; neighbours differ in `tainted` */
    size_t n_span, cap_span;
} jinja_out;
void jinja_out_free(jinja_out *o);

/* Renders. vars is a dict: the template's variables. env may be NULL. out->text is appended to; spans too. */
imp_status jinja_render(const jinja_program *p, jval vars, const jinja_env *env, jinja_out *out, imp_err *e);

#endif

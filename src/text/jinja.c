/* Entry points: compiling, rendering, limits and errors. */
#include "text/jinja.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/jinja_impl.h"

/* Far above real use (the largest known template takes about 1e5 steps and 1 MB for 100 messages with tools), and
 * still below a second and half a GiB for a hostile one. */
#define DEFAULT_STEPS ((uint64_t)20000000)
#define DEFAULT_MEMORY ((size_t)512 << 20)
#define DEFAULT_OUTPUT ((size_t)64 << 20)

void jx_line_col(const jinja_program *p, uint32_t pos, unsigned *line, unsigned *col)
{
    *line = *col = 1;
    for (size_t i = 0; i < pos && i < p->n_src; i++) {
        if (p->src[i] == '\n') {
            (*line)++;
            *col = 1;
        } else if (((unsigned char)p->src[i] & 0xC0) != 0x80) {
            (*col)++;
        }
    }
}

_Noreturn void jx_fail(jx *c, imp_status s, const char *fmt, ...)
{
    char msg[900];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    const jinja_program *p = c->compiling ? c->compiling : c->prog;
    c->status = s;
    if (p && !c->plain) {
        unsigned line, col;
        jx_line_col(p, c->pos, &line, &col);
        err_set(c->err, s, "%s: line %u, column %u: %s", c->name, line, col, msg);
    } else {
        err_set(c->err, s, "%s: %s", c->name, msg);
    }
    longjmp(c->jump, 1);
}

void *jx_alloc(jx *c, size_t n)
{
    if (c->max_memory && (n > c->max_memory || c->mem->n_bytes > c->max_memory - n))
        jx_fail(c, IMP_E_LIMIT, "more than %zu bytes of memory", c->max_memory);
    void *p = arena_alloc(c->mem, n);
    if (!p)
        jx_fail(c, IMP_E_NOMEM, "out of memory (%zu bytes wanted)", n);
    return p;
}

void *jx_array(jx *c, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes))
        jx_fail(c, IMP_E_LIMIT, "a size overflows");
    return jx_alloc(c, bytes);
}

void jx_step(jx *c, size_t n)
{
    if (c->steps == UINT64_MAX) /* compiling or parsing: bounded by the input */
        return;
    if (n >= c->steps)
        jx_fail(c, IMP_E_LIMIT, "the template takes too many steps");
    c->steps -= n;
}

void jx_enter(jx *c)
{
    if (++c->depth > c->max_depth)
        jx_fail(c, IMP_E_LIMIT, "evaluation nested more than %u levels deep", c->max_depth);
}

/* ---- compiling ---- */

uint32_t jinja_intern(jx *c, jinja_program *p, const jstr *name)
{
    const jval *v = jd_find(c, p->sym, jv_str(name));
    if (v)
        return (uint32_t)v->u.i;
    if (p->n_sym == p->cap_sym) {
        size_t cap = p->cap_sym ? p->cap_sym * 2 : 64;
        const jstr **n = jx_array(c, cap, sizeof *n);
        if (p->n_sym)
            memcpy(n, p->sym_name, p->n_sym * sizeof *n);
        p->sym_name = n;
        p->cap_sym = cap;
    }
    jd_set(c, p->sym, jv_str(name), jval_int((int64_t)p->n_sym));
    p->sym_name[p->n_sym] = name;
    return (uint32_t)p->n_sym++;
}

/* Valid UTF-8, newlines as \n, and without the last one (keep_trailing_newline is off). */
static void normalise(jx *c, jinja_program *p, const char *text, size_t n)
{
    char *s = jx_array(c, n + 1, 3); /* an invalid byte may grow to three */
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = utf8_get(text + i, n - i, &cp, NULL);
        if (cp == '\r') {
            s[k++] = '\n';
            if (i + 1 < n && text[i + 1] == '\n')
                i++;
        } else {
            k += utf8_put(cp, s + k);
        }
        i += len;
    }
    if (k && s[k - 1] == '\n')
        k--;
    s[k] = 0;
    p->src = s;
    p->n_src = k;
}

static void compile(jx *c, jinja_program *p, const char *text, size_t n)
{
    static const char *const fixed[SYM_FIXED] = {"loop", "caller", "kwargs", "varargs", "self", "super"};
    normalise(c, p, text, n);
    c->compiling = p;
    p->sym = jd_new(c);
    p->words = jd_new(c);
    p->blocks = jd_new(c);
    for (size_t i = 0; i < SYM_FIXED; i++)
        jinja_intern(c, p, js_lit(c, fixed[i]));
    jtoks t = {0};
    jinja_lex(c, &t);
    jinja_parse(c, p, &t);
}

/* setjmp stands in functions of their own, whose locals do not change. */
static imp_status guarded_compile(jx *c, jinja_program *p, const char *text, size_t n)
{
    if (setjmp(c->jump))
        return c->status;
    compile(c, p, text, n);
    return IMP_OK;
}

imp_status jinja_compile(jinja_program **out, const char *text, size_t n, const char *name, imp_err *e)
{
    *out = NULL;
    if (n > JINJA_MAX_TEMPLATE)
        return err_set(e, IMP_E_LIMIT, "%s: template of %zu bytes, at most %zu", name, n, JINJA_MAX_TEMPLATE);
    jinja_program *p = mem_calloc(1, sizeof *p);
    if (!p)
        return err_oom(e, name, sizeof *p);
    p->name = arena_strdup(&p->mem, name);
    jx c = {.mem = &p->mem, .err = e, .steps = UINT64_MAX, .max_depth = JINJA_MAX_DEPTH, .name = name};
    /* Tokens and nodes are a small multiple of the text; the bound only stops a hostile multiple. */
    c.max_memory = ((size_t)16 << 20) + n * 1024;
    c.max_output = n + 1;
    imp_status s = p->name ? guarded_compile(&c, p, text, n) : err_oom(e, name, n);
    if (s)
        jinja_free(p);
    else
        *out = p;
    return s;
}

void jinja_free(jinja_program *p)
{
    if (!p)
        return;
    arena_free(&p->mem);
    mem_free(p);
}

const char *jinja_source(const jinja_program *p, size_t *n)
{
    if (n)
        *n = p->n_src;
    return p->src;
}

bool jinja_mentions(const jinja_program *p, const char *word) { return jd_find_lit(p->words, word) != NULL; }

/* ---- rendering ---- */

void jinja_out_free(jinja_out *o)
{
    sb_free(&o->text);
    mem_free(o->span);
    o->span = NULL;
    o->n_span = o->cap_span = 0;
}

static bool add_span(jinja_out *o, size_t begin, size_t end, bool tainted)
{
    if (begin == end)
        return true;
    if (o->n_span && o->span[o->n_span - 1].tainted == tainted && o->span[o->n_span - 1].end == begin) {
        o->span[o->n_span - 1].end = end;
        return true;
    }
    if (o->n_span == o->cap_span) {
        size_t cap = o->cap_span ? o->cap_span * 2 : 32;
        jinja_span *s = mem_realloc(o->span, cap * sizeof *s);
        if (!s)
            return false;
        o->span = s;
        o->cap_span = cap;
    }
    o->span[o->n_span++] = (jinja_span){begin, end, tainted};
    return true;
}

static imp_status deliver(jx *c, const jstr *s, jinja_out *out)
{
    size_t base = out->text.n, run = 0;
    sb_add(&out->text, s->s, s->n);
    if (out->text.failed) {
        bool limit = out->text.max && s->n > out->text.max - base;
        return err_set(c->err, limit ? IMP_E_LIMIT : IMP_E_NOMEM, "%s: the rendered text does not fit (%zu bytes)",
                       c->name, s->n);
    }
    for (size_t i = 1; i <= s->n; i++)
        if (i == s->n || js_taint_at(s, i) != js_taint_at(s, run)) {
            if (!add_span(out, base + run, base + i, js_taint_at(s, run)))
                return err_oom(c->err, c->name, sizeof(jinja_span));
            run = i;
        }
    return IMP_OK;
}

static const jstr *run(jx *c)
{
    c->root = jx_array(c, c->prog->n_sym, sizeof *c->root);
    for (size_t i = 0; i < c->prog->n_sym; i++)
        c->root[i].t = J_MISSING;
    jbuf b = {.c = c};
    const jnode *body = c->prog->body;
    jx_exec(c, (const jnode *const *)body->list, body->n, NULL, &b);
    return jb_done(&b);
}

static imp_status guarded_render(jx *c, jinja_out *out)
{
    if (setjmp(c->jump))
        return c->status;
    return deliver(c, run(c), out);
}

imp_status jinja_render(const jinja_program *p, jval vars, const jinja_env *env, jinja_out *out, imp_err *e)
{
    static const jinja_env none = {0};
    if (!env)
        env = &none;
    arena mem = {0};
    jx c = {.mem = &mem, .prog = p, .err = e, .name = p->name, .env = env, .vars = vars};
    c.steps = env->max_steps ? env->max_steps : DEFAULT_STEPS;
    c.max_memory = env->max_memory ? env->max_memory : DEFAULT_MEMORY;
    c.max_output = env->max_output ? env->max_output : DEFAULT_OUTPUT;
    c.max_depth = env->max_depth && env->max_depth < JINJA_MAX_DEPTH ? env->max_depth : JINJA_MAX_DEPTH;
    imp_status s = vars.t == J_DICT ? IMP_OK : err_set(e, IMP_E_USAGE, "%s: the variables are not a dict", p->name);
    if (!s)
        s = guarded_render(&c, out);
    arena_free(&mem);
    return s;
}

/* Values from JSON and by hand: the data that templates get. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "text/jinja_impl.h"

typedef struct reader {
    jx *c;
    jr r;
    strbuf tmp;
    bool tainted;
} reader;

static jval text(reader *p, const jr_str *s, bool tainted)
{
    if (!s->escaped)
        return jv_str(js_copy(p->c, s->s, s->n, tainted));
    sb_clear(&p->tmp);
    jr_str_decode(s, &p->tmp);
    if (p->tmp.failed)
        jx_fail(p->c, IMP_E_NOMEM, "out of memory (%zu bytes wanted)", s->n);
    return jv_str(js_copy(p->c, p->tmp.s ? p->tmp.s : "", p->tmp.n, tainted));
}

static jval number(reader *p)
{
    const char *s;
    size_t n;
    if (!jr_number_text(&p->r, &s, &n))
        return jval_none();
    bool neg = n && s[0] == '-', integral = true;
    for (size_t i = neg; i < n; i++)
        integral = integral && s[i] >= '0' && s[i] <= '9';
    if (integral) {
        jval v = jn_parse_int(p->c, s + neg, n - neg, 10);
        return neg ? jn_neg(p->c, v) : v;
    }
    char *t = arena_strndup(p->c->mem, s, n);
    if (!t)
        jx_fail(p->c, IMP_E_NOMEM, "out of memory");
    return jval_float(strtod(t, NULL));
}

static jval any(reader *p)
{
    jr_str s;
    bool b = false;
    jval v = jval_none();
    switch (jr_peek(&p->r)) {
    case JR_OBJECT: {
        jdict *d = jd_new(p->c);
        if (jr_enter_object(&p->r))
            while (jr_next_key(&p->r, &s)) {
                jval k = text(p, &s, p->tainted);
                jd_set(p->c, d, k, any(p));
            }
        return jv_dict(d);
    }
    case JR_ARRAY: {
        jlist *l = jl_new(p->c, JL_LIST, 0);
        if (jr_enter_array(&p->r))
            while (jr_next_item(&p->r))
                jl_push(p->c, l, any(p));
        return jv_list(l);
    }
    case JR_STRING:
        if (jr_string(&p->r, &s))
            v = text(p, &s, p->tainted);
        return v;
    case JR_NUMBER: return number(p);
    case JR_TRUE:
    case JR_FALSE:
        jr_bool(&p->r, &b);
        return jval_bool(b);
    default:
        jr_null(&p->r); /* or its error */
        return v;
    }
}

static imp_status guarded(reader *p, jval *out)
{
    if (setjmp(p->c->jump))
        return p->c->status;
    *out = any(p);
    return IMP_OK;
}

imp_status jval_parse(arena *a, const char *json, size_t n, bool tainted, const char *name, jval *out, imp_err *e)
{
    imp_err own = {0};
    jx c = {.mem = a, .err = &own, .name = name, .plain = true, .steps = UINT64_MAX, .max_depth = JINJA_MAX_DEPTH};
    reader p = {.c = &c, .tainted = tainted};
    jr_init(&p.r, json, n, name, &own);
    imp_status s = guarded(&p, out);
    sb_free(&p.tmp);
    if (!s && !jr_end(&p.r))
        s = own.status ? own.status : IMP_E_PARSE;
    if (s && e && e->status == IMP_OK)
        *e = own;
    if (s)
        *out = jval_none();
    return s;
}

/* ---- by hand: no jump, but a sticky flag in the arena ---- */

static imp_status guarded_str(jx *c, const char *s, size_t n, bool tainted, jval *out)
{
    if (setjmp(c->jump))
        return c->status;
    if (utf8_valid(s, n)) {
        *out = jv_str(js_copy(c, s, n, tainted));
        return IMP_OK;
    }
    jbuf b = {.c = c};
    c->max_output = SIZE_MAX;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += utf8_get(s + i, n - i, &cp, NULL);
        jb_cp(&b, cp, tainted);
    }
    *out = jv_str(jb_done(&b));
    return IMP_OK;
}

static imp_status guarded_add(jx *c, jval box, const jval *key, jval v)
{
    if (setjmp(c->jump))
        return c->status;
    if (key)
        jd_set(c, box.u.d, *key, v);
    else
        jl_push(c, box.u.l, v);
    return IMP_OK;
}

static jx by_hand(arena *a) { return (jx){.mem = a, .name = "value", .plain = true, .steps = UINT64_MAX}; }

jval jval_str(arena *a, const char *s, size_t n, bool tainted)
{
    jx c = by_hand(a);
    jval v = jval_none();
    return guarded_str(&c, s, n, tainted, &v) ? jval_none() : v;
}

jval jval_list(arena *a)
{
    jlist *l = ARENA_NEW(a, jlist);
    return l ? jv_list(l) : jval_none();
}

jval jval_dict(arena *a)
{
    jdict *d = ARENA_NEW(a, jdict);
    return d ? jv_dict(d) : jval_none();
}

bool jval_push(arena *a, jval list, jval item)
{
    jx c = by_hand(a);
    return list.t == J_LIST && !guarded_add(&c, list, NULL, item);
}

bool jval_set(arena *a, jval dict, const char *key, jval v)
{
    jx c = by_hand(a);
    jval k = jval_str(a, key, strlen(key), false);
    return dict.t == J_DICT && k.t == J_STR && !guarded_add(&c, dict, &k, v);
}

const jval *jval_get(jval dict, const char *key) { return dict.t == J_DICT ? jd_find_lit(dict.u.d, key) : NULL; }

/* ---- strings of mixed provenance ---- */

void jval_text_add(jval_text *t, const char *s, size_t n, bool tainted)
{
    sb_add(&t->s, s, n);
    for (size_t i = 0; i < n; i++)
        sb_char(&t->taint, (char)tainted);
}

void jval_text_val(jval_text *t, jval v)
{
    if (v.t != J_STR)
        return;
    sb_add(&t->s, v.u.s->s, v.u.s->n);
    for (size_t i = 0; i < v.u.s->n; i++)
        sb_char(&t->taint, (char)js_taint_at(v.u.s, i));
}

static imp_status guarded_json(jx *c, jval v, jval *out)
{
    if (setjmp(c->jump))
        return c->status;
    jjson_opts o = {.item_sep = js_lit(c, ", "), .key_sep = js_lit(c, ": ")};
    jbuf b = {.c = c};
    jb_json(&b, v, &o);
    *out = jv_str(jb_done(&b));
    return IMP_OK;
}

bool jval_text_json(jval_text *t, jval v)
{
    jx c = by_hand(t->a);
    jval s = jval_none();
    c.max_output = SIZE_MAX;
    c.max_depth = JINJA_MAX_DEPTH;
    bool ok = !guarded_json(&c, v, &s);
    jval_text_val(t, s);
    return ok;
}

static imp_status guarded_text(jx *c, const jval_text *t, jval *out)
{
    if (setjmp(c->jump))
        return c->status;
    jstr *s = js_copy(c, t->s.s ? t->s.s : "", t->s.n, false);
    jbuf b = {.c = c};
    uint8_t *map = jx_alloc(c, t->taint.n + 1);
    if (t->taint.n)
        memcpy(map, t->taint.s, t->taint.n);
    s->taint = map;
    s->tainted = s->n > 0;
    c->max_output = SIZE_MAX;
    jb_str(&b, s);
    *out = jv_str(jb_done(&b)); /* drops the map where all bytes are alike */
    return IMP_OK;
}

jval jval_text_done(jval_text *t)
{
    jx c = by_hand(t->a);
    jval v = jval_none();
    if (t->s.failed || t->taint.failed || guarded_text(&c, t, &v))
        t->a->failed = true;
    sb_free(&t->s);
    sb_free(&t->taint);
    return v;
}

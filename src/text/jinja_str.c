/* Strings with provenance: views, and a builder that carries each byte's taint along. */
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_impl.h"

static size_t count_cp(const char *s, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        k += ((unsigned char)s[i] & 0xC0) != 0x80;
    return k;
}

jstr *js_view(jx *c, const char *s, size_t n, bool tainted)
{
    jstr *v = JX_NEW(c, jstr);
    v->s = s ? s : ""; /* an empty builder has no memory */
    v->n = n;
    v->n_cp = count_cp(s, n);
    v->tainted = tainted && n;
    return v;
}

jstr *js_copy(jx *c, const char *s, size_t n, bool tainted)
{
    char *t = jx_alloc(c, n + 1);
    if (n)
        memcpy(t, s, n);
    return js_view(c, t, n, tainted);
}

jstr *js_lit(jx *c, const char *lit) { return js_view(c, lit, strlen(lit), false); }

jstr *js_sub(jx *c, const jstr *s, size_t from, size_t to)
{
    jstr *v = JX_NEW(c, jstr);
    v->s = s->s + from;
    v->n = to - from;
    v->n_cp = js_ascii(s) ? v->n : count_cp(v->s, v->n);
    v->tainted = s->tainted && v->n;
    v->markup = s->markup;
    if (s->taint && v->n) {
        /* A view that is all of one kind needs no map. */
        bool any = memchr(s->taint + from, 1, v->n), none = memchr(s->taint + from, 0, v->n);
        v->tainted = any;
        v->taint = any && none ? s->taint + from : NULL;
    }
    return v;
}

size_t js_offset(const jstr *s, size_t cp)
{
    if (js_ascii(s) || cp >= s->n_cp)
        return cp >= s->n_cp ? s->n : cp;
    size_t i = 0;
    for (;; i++)
        if (((unsigned char)s->s[i] & 0xC0) != 0x80 && cp-- == 0)
            return i;
}

uint32_t js_cp(const jstr *s, size_t off, size_t *len)
{
    uint32_t cp;
    *len = utf8_get(s->s + off, s->n - off, &cp, NULL);
    return cp;
}

bool js_eq(const jstr *a, const jstr *b) { return a->n == b->n && (!a->n || !memcmp(a->s, b->s, a->n)); }
bool js_is(const jstr *a, const char *lit) { return a->n == strlen(lit) && !memcmp(a->s, lit, a->n); }

int js_cmp(const jstr *a, const jstr *b) /* byte order of UTF-8 is code point order */
{
    size_t n = a->n < b->n ? a->n : b->n;
    int r = n ? memcmp(a->s, b->s, n) : 0;
    return r ? (r > 0) - (r < 0) : (a->n > b->n) - (a->n < b->n);
}

size_t js_find(const jstr *s, size_t from, const char *pat, size_t n)
{
    if (from > s->n || n > s->n - from)
        return SIZE_MAX;
    if (!n)
        return from;
    const char *p = memmem(s->s + from, s->n - from, pat, n);
    return p ? (size_t)(p - s->s) : SIZE_MAX;
}

/* ---- builder ---- */

static void reserve(jbuf *b, size_t n)
{
    jx *c = b->c;
    if (n > c->max_output || b->n > c->max_output - n)
        jx_fail(c, IMP_E_LIMIT, "a text of more than %zu bytes", c->max_output);
    if (b->n + n <= b->cap)
        return;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < b->n + n)
        cap *= 2;
    char *s = jx_alloc(c, cap);
    if (b->n)
        memcpy(s, b->s, b->n);
    if (b->taint) {
        uint8_t *t = jx_alloc(c, cap);
        memcpy(t, b->taint, b->n);
        b->taint = t;
    }
    b->s = s;
    b->cap = cap;
}

static void mark(jbuf *b, size_t n, bool tainted, const uint8_t *map)
{
    if (!b->taint && (tainted || map)) {
        b->taint = jx_alloc(b->c, b->cap); /* zeroed: what came before is not tainted */
    }
    if (!b->taint)
        return;
    if (map)
        memcpy(b->taint + b->n, map, n);
    else
        memset(b->taint + b->n, tainted, n);
}

void jb_add(jbuf *b, const char *s, size_t n, bool tainted)
{
    if (!n)
        return;
    reserve(b, n);
    mark(b, n, tainted, NULL);
    memcpy(b->s + b->n, s, n);
    b->n += n;
    jx_step(b->c, n / 64);
}

void jb_lit(jbuf *b, const char *lit) { jb_add(b, lit, strlen(lit), false); }
void jb_lit_t(jbuf *b, const char *lit, bool tainted) { jb_add(b, lit, strlen(lit), tainted); }

void jb_cp(jbuf *b, uint32_t cp, bool tainted)
{
    char t[4];
    jb_add(b, t, utf8_put(cp, t), tainted);
}

void jb_sub(jbuf *b, const jstr *s, size_t from, size_t to)
{
    size_t n = to - from;
    if (!n)
        return;
    reserve(b, n);
    mark(b, n, s->tainted, s->taint ? s->taint + from : NULL);
    memcpy(b->s + b->n, s->s + from, n);
    b->n += n;
    jx_step(b->c, n / 64);
}

void jb_str(jbuf *b, const jstr *s) { jb_sub(b, s, 0, s->n); }

jstr *jb_done(jbuf *b)
{
    jstr *v = js_view(b->c, b->s, b->n, false);
    v->markup = b->markup;
    if (b->taint && b->n) {
        bool any = memchr(b->taint, 1, b->n), none = memchr(b->taint, 0, b->n);
        v->tainted = any;
        v->taint = any && none ? b->taint : NULL;
    }
    return v;
}

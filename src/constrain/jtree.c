/* The schema's JSON as a tree: numbers kept as written, members in order and indexed by name, duplicates refused. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "constrain/constrain_impl.h"

#define JV_SORT_FROM 6 /* objects smaller than this are searched in order */

typedef struct jbuild {
    cc *c;
    jr r;
    jdoc *d;
    size_t cap;
    imp_err err;
} jbuild;

static int by_key(const void *a, const void *b)
{
    const jv *x = *(jv *const *)a, *y = *(jv *const *)b;
    size_t m = x->key_n < y->key_n ? x->key_n : y->key_n;
    int r = memcmp(x->key, y->key, m);
    return r ? r : x->key_n < y->key_n ? -1 : x->key_n > y->key_n;
}

_Noreturn static void bad(jbuild *b)
{
    cc_fail(b->c, b->err.status ? b->err.status : IMP_E_PARSE, "%s", b->err.message);
}

static const char *decode(jbuild *b, const jr_str *v, size_t *n)
{
    if (!v->escaped) {
        char *s = CC_ARRAY(b->c, char, v->n + 1);
        memcpy(s, v->s, v->n);
        *n = v->n;
        return s;
    }
    strbuf sb = {0};
    jr_str_decode(v, &sb);
    bool failed = sb.failed;
    char *s = NULL;
    *n = sb.n;
    if (!failed && b->c->a->n_bytes + sb.n < b->c->o.max_bytes) {
        s = arena_alloc(b->c->a, sb.n + 1);
        if (s)
            memcpy(s, sb.s, sb.n);
    }
    sb_free(&sb);
    if (!s)
        cc_fail(b->c, IMP_E_NOMEM, "schema: out of memory");
    return s;
}

static jv *value(jbuild *b, jv *parent, const char *key, size_t key_n)
{
    jv *v = CC_NEW(b->c, jv);
    v->parent = parent;
    v->key = key;
    v->key_n = key_n;
    size_t n = b->d->n;
    CC_PUSH(b->c, b->d->by_id, n, b->cap, v);
    v->id = b->d->n++;
    cc_work(b->c, 4);
    jv **tail = &v->child;
    jr_str str;
    bool flag;
    switch (jr_peek(&b->r)) {
    case JR_OBJECT:
        v->type = JV_OBJECT;
        jr_enter_object(&b->r);
        while (jr_next_key(&b->r, &str)) {
            size_t kn;
            const char *name = decode(b, &str, &kn);
            jv *m = value(b, v, name, kn);
            *tail = m;
            tail = &m->next;
            v->n_child++;
        }
        v->sorted = CC_ARRAY(b->c, jv *, (size_t)v->n_child + 1);
        n = 0;
        for (jv *m = v->child; m; m = m->next)
            v->sorted[n++] = m;
        if (n)
            qsort(v->sorted, n, sizeof *v->sorted, by_key);
        for (size_t i = 1; i < n; i++)
            if (!by_key(&v->sorted[i - 1], &v->sorted[i]))
                cc_fail(b->c, IMP_E_PARSE, "schema: %s: member \"%.80s\" appears twice", jv_path(b->c, v),
                        v->sorted[i]->key);
        break;
    case JR_ARRAY:
        v->type = JV_ARRAY;
        jr_enter_array(&b->r);
        while (jr_next_item(&b->r)) {
            jv *m = value(b, v, NULL, 0);
            *tail = m;
            tail = &m->next;
            v->n_child++;
        }
        break;
    case JR_STRING:
        v->type = JV_STRING;
        if (jr_string(&b->r, &str))
            v->s = decode(b, &str, &v->n);
        break;
    case JR_NUMBER: {
        const char *s;
        v->type = JV_NUMBER;
        if (jr_number_text(&b->r, &s, &v->n)) {
            char *t = CC_ARRAY(b->c, char, v->n + 1);
            memcpy(t, s, v->n);
            v->s = t;
            if (!dec_parse(b->c, v->s, v->n, &v->num))
                cc_fail(b->c, IMP_E_LIMIT, "schema: %s: number %.40s out of range", jv_path(b->c, v), v->s);
        }
        break;
    }
    case JR_TRUE:
    case JR_FALSE:
        jr_bool(&b->r, &flag);
        v->type = flag ? JV_TRUE : JV_FALSE;
        break;
    case JR_NULL:
        jr_null(&b->r);
        v->type = JV_NULL;
        break;
    default: break;
    }
    if (b->r.failed || b->err.status)
        bad(b);
    return v;
}

void jdoc_parse(cc *c, const char *text, size_t n, jdoc *out)
{
    jbuild b = {.c = c, .d = out};
    jr_init(&b.r, text, n, "schema", &b.err);
    if (jr_peek(&b.r) == JR_ERROR || jr_peek(&b.r) == JR_EOF) {
        jr_end(&b.r);
        if (!b.err.status)
            err_set(&b.err, IMP_E_PARSE, "schema: empty");
        bad(&b);
    }
    out->root = value(&b, NULL, NULL, 0);
    if (!jr_end(&b.r))
        bad(&b);
}

const jv *jv_getn(const jv *o, const char *key, size_t n)
{
    if (o->type != JV_OBJECT)
        return NULL;
    if (o->n_child < JV_SORT_FROM) {
        for (const jv *m = o->child; m; m = m->next)
            if (m->key_n == n && !memcmp(m->key, key, n))
                return m;
        return NULL;
    }
    size_t lo = 0, hi = o->n_child;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const jv *m = o->sorted[mid];
        size_t k = m->key_n < n ? m->key_n : n;
        int r = memcmp(m->key, key, k);
        if (!r)
            r = m->key_n < n ? -1 : m->key_n > n;
        if (!r)
            return m;
        if (r < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

const jv *jv_get(const jv *o, const char *key) { return jv_getn(o, key, strlen(key)); }

bool jv_equal(const jv *a, const jv *b)
{
    if (a->type != b->type)
        return false;
    switch (a->type) {
    case JV_NUMBER: return !dec_cmp(&a->num, &b->num);
    case JV_STRING: return a->n == b->n && !memcmp(a->s, b->s, a->n);
    case JV_ARRAY:
        if (a->n_child != b->n_child)
            return false;
        for (const jv *x = a->child, *y = b->child; x; x = x->next, y = y->next)
            if (!jv_equal(x, y))
                return false;
        return true;
    case JV_OBJECT:
        if (a->n_child != b->n_child)
            return false;
        for (uint32_t i = 0; i < a->n_child; i++)
            if (by_key(&a->sorted[i], &b->sorted[i]) || !jv_equal(a->sorted[i], b->sorted[i]))
                return false;
        return true;
    default: return true;
    }
}

const char *jv_path(cc *c, const jv *v)
{
    const jv *chain[JR_MAX_DEPTH + 2];
    size_t n = 0;
    strbuf b = {.max = 600};
    for (const jv *p = v; p && n < JR_MAX_DEPTH + 2; p = p->parent)
        chain[n++] = p;
    sb_char(&b, '#');
    for (size_t i = n - 1; i-- > 0;) {
        const jv *m = chain[i];
        sb_char(&b, '/');
        if (m->key) {
            for (size_t k = 0; k < m->key_n; k++) {
                if (m->key[k] == '~')
                    sb_str(&b, "~0");
                else if (m->key[k] == '/')
                    sb_str(&b, "~1");
                else
                    sb_char(&b, m->key[k]);
            }
        } else {
            size_t k = 0;
            for (const jv *s = m->parent->child; s && s != m; s = s->next)
                k++;
            sb_printf(&b, "%zu", k);
        }
    }
    char *s = arena_strndup(c->a, b.s ? b.s : "#", b.s ? b.n : 1);
    sb_free(&b);
    return s ? s : "#";
}

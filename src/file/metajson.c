/* metajson: config.json and its siblings as rows of the metadata table: nested keys joined with dots, homogeneous
 * arrays packed as GGUF's are. The recursion is limited here; the text's own nesting by the reader. */
#include "file/metajson.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"

#define CONFIG_MAX_BYTES ((size_t)16 << 20) /* a list of every layer of every expert is a few megabytes */
#define CONFIG_MAX_KEYS ((size_t)1 << 20)
#define CONFIG_MAX_DEPTH 24                 /* objects and arrays together; real ones have five or six */

/* GGUF's numbers for the packed element types used here (see modelfile.c). */
enum { PACKED_BOOL = 7, PACKED_I64 = 11, PACKED_F64 = 12 };

typedef struct walk {
    modelfile *m;
    jr r;
    strbuf key;   /* the dotted name of where we are */
    imp_err *je;  /* the reader's */
    size_t n_keys;
    imp_status status;
    imp_err *e;
} walk;

static void oom(walk *w, const char *what, size_t n)
{
    if (!w->r.failed)
        err_oom(w->je, what, n);
    w->r.failed = true;
}

static void read_value(walk *w, meta_value *v, unsigned depth, bool *is_object);

meta_str metajson_str(modelfile *m, const jr_str *s)
{
    meta_str out = {NULL, s->n};
    if (!s->escaped) {
        out.s = arena_strndup(&m->mem, s->s, s->n);
        return out;
    }
    strbuf b = {0};
    jr_str_decode(s, &b);
    out.n = b.n;
    out.s = b.failed ? NULL : arena_strndup(&m->mem, b.s ? b.s : "", b.n);
    sb_free(&b);
    return out;
}

static void read_number(walk *w, meta_value *v)
{
    jr *r = &w->r;
    jr_peek(r); /* steps over white space, so that the cursor can come back to the number */
    size_t at = r->pos;
    const char *s;
    size_t n;
    if (!jr_number_text(r, &s, &n))
        return;
    uint64_t u = 0;
    size_t i = s[0] == '-';
    for (; i < n && s[i] >= '0' && s[i] <= '9'; i++)
        if (__builtin_mul_overflow(u, 10u, &u) || __builtin_add_overflow(u, (unsigned)(s[i] - '0'), &u))
            break;
    if (i == n && u <= (uint64_t)INT64_MAX + (s[0] == '-')) {
        *v = (meta_value){.type = META_INT, .i = s[0] == '-' ? (int64_t)(0 - u) : (int64_t)u};
    } else if (i == n && s[0] != '-') {
        *v = (meta_value){.type = META_UINT, .u = u};
    } else { /* a point, an exponent, or more digits than an integer has (model_max_length is 1e30 in some files) */
        v->type = META_FLOAT;
        r->pos = at;
        jr_double(r, &v->f);
    }
}

/* All of one kind of scalar: packed, and v[] is not needed. */
static void pack(walk *w, meta_value *a, const meta_value *v, size_t n)
{
    size_t count[META_NULL + 1] = {0};
    for (size_t i = 0; i < n; i++)
        count[v[i].type]++;
    arena *mem = &w->m->mem;
    *a = (meta_value){.type = META_ARRAY, .arr = {.n = n, .elem = META_NULL}};
    void *p = NULL;
    if (!n)
        return;
    if (count[META_STR] == n) {
        meta_str *s = p = ARENA_ARRAY(mem, meta_str, n);
        for (size_t i = 0; s && i < n; i++)
            s[i] = v[i].str;
        a->arr.strs = s;
        a->arr.elem = META_STR;
    } else if (count[META_INT] == n) {
        int64_t *x = p = ARENA_ARRAY(mem, int64_t, n);
        for (size_t i = 0; x && i < n; i++)
            x[i] = v[i].i;
        a->arr.elem = META_INT;
        a->arr.packed_type = PACKED_I64;
    } else if (count[META_INT] + count[META_UINT] + count[META_FLOAT] == n) {
        double *x = p = ARENA_ARRAY(mem, double, n);
        for (size_t i = 0; x && i < n; i++)
            x[i] = v[i].type == META_INT ? (double)v[i].i : v[i].type == META_UINT ? (double)v[i].u : v[i].f;
        a->arr.elem = META_FLOAT;
        a->arr.packed_type = PACKED_F64;
    } else if (count[META_BOOL] == n) {
        uint8_t *x = p = ARENA_ARRAY(mem, uint8_t, n);
        for (size_t i = 0; x && i < n; i++)
            x[i] = v[i].b;
        a->arr.elem = META_BOOL;
        a->arr.packed_type = PACKED_BOOL;
    } else {
        meta_value *x = p = ARENA_ARRAY(mem, meta_value, n);
        if (x)
            memcpy(x, v, n * sizeof *x);
        a->arr.v = x;
        a->arr.elem = count[META_ARRAY] == n ? META_ARRAY : META_NULL;
    }
    if (a->arr.elem != META_STR && !a->arr.v)
        a->arr.packed = p;
    if (!p)
        oom(w, "configuration array", n);
}

/* Appends ".name" (or "name" at the top), reads what follows, and takes it off again. */
static void push(walk *w, const char *name, size_t n)
{
    if (w->key.n && w->key.s[w->key.n - 1] != '.')
        sb_char(&w->key, '.');
    sb_add(&w->key, name, n);
    if (w->key.failed)
        oom(w, "configuration key", n);
    else if (w->key.n > MF_MAX_NAME)
        jr_fail(&w->r, "key longer than %d bytes", MF_MAX_NAME);
}

static void pop(walk *w, size_t n)
{
    if (w->key.n > n) {
        w->key.n = n;
        w->key.s[n] = 0;
    }
}

static void read_array(walk *w, meta_value *a, unsigned depth)
{
    jr *r = &w->r;
    jr start = *r; /* the reader is plain data: one pass counts, the other reads */
    size_t n = 0;
    if (!jr_enter_array(r))
        return;
    while (jr_next_item(r) && jr_skip(r))
        n++;
    if (r->failed)
        return;
    *r = start;
    meta_value *v = mem_calloc(n, sizeof *v);
    if (!v) {
        oom(w, "configuration array", n * sizeof *v);
        return;
    }
    jr_enter_array(r);
    for (size_t i = 0; i < n && jr_next_item(r); i++) {
        char number[24];
        size_t base = w->key.n;
        int len = snprintf(number, sizeof number, "%zu", i);
        bool is_object;
        push(w, number, (size_t)len);
        read_value(w, &v[i], depth + 1, &is_object);
        if (is_object)
            v[i].type = META_NULL;
        pop(w, base);
    }
    jr_next_item(r);
    if (!r->failed)
        pack(w, a, v, n);
    mem_free(v);
}

static void read_object(walk *w, unsigned depth)
{
    jr *r = &w->r;
    jr_str name;
    if (!jr_enter_object(r))
        return;
    while (w->status == IMP_OK && jr_next_key(r, &name)) {
        size_t base = w->key.n;
        strbuf plain = {0};
        jr_str_decode(&name, &plain);
        const char *fault = plain.failed ? NULL : mf_name_fault(plain.s ? plain.s : "", plain.n, MF_MAX_NAME);
        if (plain.failed || (!plain.s && !fault))
            oom(w, "configuration key", name.n);
        else if (fault)
            jr_fail(r, "a key %s", fault);
        else
            push(w, plain.s, plain.n);
        sb_free(&plain);
        if (r->failed)
            return;
        meta_value v = {.type = META_NULL};
        bool is_object;
        read_value(w, &v, depth + 1, &is_object);
        if (r->failed || w->status != IMP_OK)
            return;
        if (!is_object) {
            const char *key = arena_strndup(&w->m->mem, w->key.s, w->key.n);
            if (++w->n_keys > CONFIG_MAX_KEYS)
                jr_fail(r, "more than %zu keys", CONFIG_MAX_KEYS);
            else if (!key)
                oom(w, "configuration key", w->key.n);
            else
                w->status = meta_add(w->m, &w->m->meta, key, v, r->name, w->e);
        }
        pop(w, base);
    }
}

static void read_value(walk *w, meta_value *v, unsigned depth, bool *is_object)
{
    jr *r = &w->r;
    jr_str s;
    *is_object = false;
    *v = (meta_value){.type = META_NULL};
    jr_type t = jr_peek(r);
    if ((t == JR_OBJECT || t == JR_ARRAY) && depth >= CONFIG_MAX_DEPTH) {
        jr_fail(r, "nested deeper than %d levels", CONFIG_MAX_DEPTH);
        return;
    }
    switch (t) {
    case JR_OBJECT:
        *is_object = true;
        read_object(w, depth);
        break;
    case JR_ARRAY:
        read_array(w, v, depth);
        break;
    case JR_STRING:
        v->type = META_STR;
        v->str = (meta_str){"", 0};
        if (jr_string(r, &s) && !(v->str = metajson_str(w->m, &s)).s)
            oom(w, "configuration string", s.n);
        break;
    case JR_NUMBER:
        read_number(w, v);
        break;
    case JR_TRUE:
    case JR_FALSE:
        v->type = META_BOOL;
        jr_bool(r, &v->b);
        break;
    default:
        jr_null(r);
        break;
    }
}

imp_status metajson_status(const jr *r, const char *what, imp_err *e)
{
    const imp_err *je = r->err;
    size_t n = strlen(r->name);
    const char *rest = strncmp(je->message, r->name, n) == 0 ? je->message + n : je->message;
    imp_status s = je->status == IMP_E_NOMEM ? IMP_E_NOMEM : IMP_E_MODEL; /* the text is a part of the model */
    if (s == IMP_E_NOMEM)
        return err_set(e, s, "%s: %s", r->name, je->message);
    return err_set(e, s, "%s%s%s%s%s", r->name, what ? ": " : "", what ? what : "", *rest == ':' ? "" : ": ", rest);
}

imp_status metajson_load(modelfile *m, const char *name, const char *prefix, imp_err *e)
{
    const char *text;
    size_t n;
    imp_status s = mf_side_file(m, name, &text, &n, e);
    if (s != IMP_OK || !text)
        return s;
    const char *path = mf_join(m, m->path, name);
    if (!path)
        return err_oom(e, name, strlen(name));
    if (n > CONFIG_MAX_BYTES)
        return err_set(e, IMP_E_LIMIT, "%s: %zu bytes, wanted at most %zu", path, n, CONFIG_MAX_BYTES);
    imp_err je = {0};
    walk w = {.m = m, .e = e, .je = &je};
    jr_init(&w.r, text, n, path, &je);
    w.r.nonfinite = true; /* Python writes Infinity into config.json */
    sb_str(&w.key, prefix);
    if (w.key.failed)
        oom(&w, name, strlen(prefix));
    read_object(&w, 0);
    if (w.status == IMP_OK && !jr_end(&w.r)) {
        char where[MF_MAX_NAME + 16] = "";
        size_t skip = strlen(prefix);
        if (w.key.n > skip && !w.key.failed)
            snprintf(where, sizeof where, "key '%.*s'", MF_MAX_NAME, w.key.s);
        w.status = metajson_status(&w.r, where[0] ? where : NULL, e);
    }
    sb_free(&w.key);
    return w.status;
}

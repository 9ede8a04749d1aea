/* The API's compile functions. See constrain.h. */
#include "constrain/constrain.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "constrain/machine.h"

typedef void (*compile_fn)(cc *c, const char *text, size_t n, constrain_prog *p);

static imp_status compile(compile_fn fn, const char *text, size_t n, const constrain_options *o, constrain_prog **out,
                          imp_err *e)
{
    arena scratch = {0};
    cc c = {.a = &scratch, .e = e};
    constrain_prog *p = mem_calloc(1, sizeof *p);
    *out = NULL;
    if (!p)
        return err_oom(e, "constraint", sizeof *p);
    if (o)
        c.o = *o;
    c.o.max_bytes = c.o.max_bytes ? c.o.max_bytes : (size_t)192 << 20;
    c.o.max_states = c.o.max_states ? c.o.max_states : 20000;
    c.o.max_work = c.o.max_work ? c.o.max_work : 100ull << 20;
    p->ws = c.o.ws;
    p->codec = c.o.plain_escapes ? CODEC_JSON_PLAIN : CODEC_JSON;
    p->ws_max = c.o.ws_max ? c.o.ws_max : 256;
    c.pa = &p->a;
    /* Nothing but the two arenas and p is held below, so a jump out needs no more than this. */
    int failed = setjmp(c.fail);
    if (!failed)
        fn(&c, text, n, p);
    arena_free(&scratch);
    p->inside = failed ? NULL : arena_array(&p->a, INSIDE_ROWS, sizeof *p->inside);
    if (!p->inside) {
        constrain_prog_free(p);
        return failed ? (imp_status)failed : err_oom(e, "constraint", INSIDE_ROWS * sizeof *p->inside);
    }
    *out = p;
    return IMP_OK;
}

static void regex_compile(cc *c, const char *text, size_t n, constrain_prog *p)
{
    uint32_t min, max;
    cdfa *d = re_counted_class(c, text, n, "regex", &min, &max);
    if (d) {
        prog_from_dfa(c, p, d);
        prog_repeat(c, p, min, max);
        return;
    }
    d = re_pattern(c, text, n, false, "regex", &min, &max, false);
    if (!d)
        cc_fail(c, IMP_E_UNSUPPORTED, "regex: no text matches it");
    prog_from_dfa(c, p, d);
}

static void json_compile(cc *c, const char *text, size_t n, constrain_prog *p)
{
    (void)text;
    (void)n;
    static const char any[] = "{\"type\":\"object\"}";
    schema_compile(c, any, sizeof any - 1, p);
}

imp_status constrain_compile_schema(const char *text, size_t n, const constrain_options *o, constrain_prog **out,
                                    imp_err *e)
{
    return compile(schema_compile, text, n, o, out, e);
}

imp_status constrain_compile_regex(const char *text, size_t n, const constrain_options *o, constrain_prog **out,
                                   imp_err *e)
{
    return compile(regex_compile, text, n, o, out, e);
}

imp_status constrain_compile_grammar(const char *text, size_t n, const constrain_options *o, constrain_prog **out,
                                     imp_err *e)
{
    return compile(grammar_compile, text, n, o, out, e);
}

imp_status constrain_compile_json(const constrain_options *o, constrain_prog **out, imp_err *e)
{
    return compile(json_compile, NULL, 0, o, out, e);
}

void constrain_prog_free(constrain_prog *p)
{
    if (!p)
        return;
    for (size_t i = 0; p->inside && i < INSIDE_ROWS; i++)
        mem_free(atomic_load(&p->inside[i]));
    arena_free(&p->a);
    mem_free(p);
}

size_t constrain_prog_bytes(const constrain_prog *p) { return sizeof *p + p->a.n_bytes; }

/* ---- canonical JSON text ---------------------------------------------------------------------------------------- */
typedef struct member {
    size_t key, n_key, end; /* in the scratch string */
} member;

static void canon_number(const char *s, size_t n, strbuf *out)
{
    /* sign, digits without zeros at either end, decimal exponent: equal values, equal text */
    size_t i = 0, first = out->n, digits = 0, zeros = 0;
    long long exp = 0;
    bool neg = n && s[0] == '-', frac = false, any = false;
    sb_char(out, neg ? '-' : '+');
    for (i = neg; i < n && s[i] != 'e' && s[i] != 'E'; i++) {
        if (s[i] == '.') {
            frac = true;
            continue;
        }
        if (frac)
            exp--;
        if (s[i] == '0') {
            zeros += any;
            if (!any)
                continue;
        } else {
            for (; zeros; zeros--)
                sb_char(out, '0');
            sb_char(out, s[i]);
            any = true;
            digits++;
        }
    }
    exp += (long long)zeros;
    if (i < n) {
        char *end;
        char buf[24] = {0};
        size_t k = n - i - 1 < sizeof buf - 1 ? n - i - 1 : sizeof buf - 1;
        memcpy(buf, s + i + 1, k);
        exp += strtoll(buf, &end, 10);
    }
    (void)digits;
    if (!any) {
        out->n = first;
        sb_char(out, '0');
    } else {
        sb_printf(out, "e%lld", exp);
    }
}

static bool canon(jr *r, strbuf *out);

static int member_cmp(const strbuf *t, const member *a, const member *b)
{
    size_t m = a->n_key < b->n_key ? a->n_key : b->n_key;
    int c = memcmp(t->s + a->key, t->s + b->key, m);
    return c ? c : a->n_key < b->n_key ? -1 : a->n_key > b->n_key;
}

static bool canon_object(jr *r, strbuf *out)
{
    strbuf t = {0};
    member *v = NULL;
    size_t n = 0, cap = 0;
    jr_str key;
    bool ok = jr_enter_object(r);
    while (ok && jr_next_key(r, &key)) {
        if (n == cap) {
            cap = cap ? cap * 2 : 8;
            member *w = mem_realloc(v, cap * sizeof *v);
            if (!w) {
                ok = false;
                break;
            }
            v = w;
        }
        v[n].key = t.n;
        jr_str_decode(&key, &t);
        v[n].n_key = t.n - v[n].key;
        ok = canon(r, &t) && !t.failed;
        v[n++].end = t.n;
    }
    for (size_t i = 1; i < n && ok; i++) { /* insertion sort: objects in arrays are small */
        member x = v[i];
        size_t j = i;
        for (; j && member_cmp(&t, &v[j - 1], &x) > 0; j--)
            v[j] = v[j - 1];
        v[j] = x;
    }
    sb_char(out, '{');
    for (size_t i = 0; i < n && ok; i++) {
        sb_printf(out, "%zu:", v[i].n_key);
        sb_add(out, t.s + v[i].key, v[i].end - v[i].key);
        sb_char(out, ',');
    }
    sb_char(out, '}');
    mem_free(v);
    sb_free(&t);
    return ok && !r->failed;
}

static bool canon(jr *r, strbuf *out)
{
    jr_str s;
    const char *num;
    size_t n;
    bool flag;
    switch (jr_peek(r)) {
    case JR_OBJECT: return canon_object(r, out);
    case JR_ARRAY:
        jr_enter_array(r);
        sb_char(out, '[');
        while (jr_next_item(r)) {
            if (!canon(r, out))
                return false;
            sb_char(out, ',');
        }
        sb_char(out, ']');
        return !r->failed;
    case JR_STRING: {
        if (!jr_string(r, &s))
            return false;
        strbuf d = {0};
        jr_str_decode(&s, &d);
        sb_printf(out, "\"%zu:", d.n);
        sb_add(out, d.s ? d.s : "", d.n);
        bool ok = !d.failed;
        sb_free(&d);
        return ok;
    }
    case JR_NUMBER:
        if (!jr_number_text(r, &num, &n))
            return false;
        canon_number(num, n, out);
        return true;
    case JR_TRUE:
    case JR_FALSE:
        if (!jr_bool(r, &flag))
            return false;
        sb_char(out, flag ? 't' : 'f');
        return true;
    case JR_NULL:
        sb_char(out, 'n');
        return jr_null(r);
    default: return false;
    }
}

bool json_canonical(const char *s, size_t n, strbuf *out)
{
    jr r;
    jr_init(&r, s, n, "item", NULL);
    return canon(&r, out) && jr_end(&r) && !out->failed;
}

/* Tests ("is ...") and global functions. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "text/jinja_impl.h"

static jval yes(bool b) { return jval_bool(b); }

static bool named(jx *c, jval v)
{
    if (!jv_hashable(v))
        jx_type_error(c, "unhashable type: '%s'", jv_type(v));
    return v.t == J_STR;
}

#define TEST(name, expr)                        \
    static jval name(jx *c, jcall *k)           \
    {                                           \
        (void)c;                                \
        jval v = k->self;                       \
        (void)v;                                \
        return yes(expr);                       \
    }
TEST(t_boolean, v.t == J_BOOL)
TEST(t_defined, v.t != J_UNDEF)
TEST(t_undefined, v.t == J_UNDEF)
TEST(t_none, v.t == J_NONE)
TEST(t_true, v.t == J_BOOL && v.u.b)
TEST(t_false, v.t == J_BOOL && !v.u.b)
TEST(t_integer, v.t == J_INT || v.t == J_BIG)
TEST(t_float, v.t == J_FLOAT)
TEST(t_number, jv_is_num(v))
TEST(t_string, v.t == J_STR)
TEST(t_mapping, v.t == J_DICT)
TEST(t_sequence, v.t == J_UNDEF || v.t == J_STR || v.t == J_DICT || (v.t == J_LIST && v.u.l->kind <= JL_RANGE))
TEST(t_iterable, v.t == J_UNDEF || v.t == J_STR || v.t == J_DICT || v.t == J_LIST || v.t == J_LOOP)
TEST(t_callable, v.t == J_UNDEF || v.t == J_FUNC || v.t == J_METHOD || v.t == J_MACRO || v.t == J_LOOP ||
                     v.t == J_JOINER || v.t == J_BLOCK)
TEST(t_escaped, v.t == J_STR && v.u.s->markup)
TEST(t_lower, js_all_case(c, jv_to_str(c, v), false))
TEST(t_upper, js_all_case(c, jv_to_str(c, v), true))
TEST(t_filter, named(c, v) && jinja_filter_find(v.u.s))
TEST(t_test, named(c, v) && jrow_find(jinja_tests, v.u.s->s, v.u.s->n))
TEST(t_in, jv_contains(c, k->p[0], v))
TEST(t_eq, jv_eq(c, v, k->p[0]))
TEST(t_ne, !jv_eq(c, v, k->p[0]))
#undef TEST

static int order(jx *c, const jcall *k, const char *op) { return jv_cmp(c, k->self, k->p[0], op); }
static jval t_lt(jx *c, jcall *k) { return yes(order(c, k, "<") < 0); }
static jval t_le(jx *c, jcall *k) { return yes(order(c, k, "<=") <= 0); }
static jval t_gt(jx *c, jcall *k) { return yes(order(c, k, ">") == 1); }
static jval t_ge(jx *c, jcall *k)
{
    int r = order(c, k, ">=");
    return yes(r >= 0 && r != 2);
}

static jval remainder_is(jx *c, const jcall *k, jval by, int64_t want)
{
    return yes(jv_eq(c, jx_binary(c, T_MOD, k->self, by), jval_int(want)));
}
static jval t_odd(jx *c, jcall *k) { return remainder_is(c, k, jval_int(2), 1); }
static jval t_even(jx *c, jcall *k) { return remainder_is(c, k, jval_int(2), 0); }
static jval t_divisibleby(jx *c, jcall *k) { return remainder_is(c, k, k->p[0], 0); }

static jval t_sameas(jx *c, jcall *k)
{
    jval a = k->self, b = k->p[0];
    if (a.t != b.t)
        return yes(false);
    switch (a.t) {
    case J_NONE: return yes(true);
    case J_BOOL: case J_INT: case J_FLOAT: return yes(jv_eq(c, a, b));
    case J_STR: return yes(js_eq(a.u.s, b.u.s)); /* Python's answer depends on interning */
    default: return yes(a.u.p == b.u.p);
    }
}

const jrow jinja_tests[] = {
    {"boolean", t_boolean, 0, 0, {0}}, {"callable", t_callable, 0, 0, {0}}, {"defined", t_defined, 0, 0, {0}},
    {"divisibleby", t_divisibleby, 1, 1, {"num"}}, {"eq", t_eq, 1, 1, {0}}, {"==", t_eq, 1, 1, {0}},
    {"equalto", t_eq, 1, 1, {0}}, {"escaped", t_escaped, 0, 0, {0}}, {"even", t_even, 0, 0, {0}},
    {"false", t_false, 0, 0, {0}}, {"filter", t_filter, 0, 0, {0}}, {"float", t_float, 0, 0, {0}},
    {"ge", t_ge, 1, 1, {0}}, {">=", t_ge, 1, 1, {0}}, {"gt", t_gt, 1, 1, {0}}, {">", t_gt, 1, 1, {0}},
    {"greaterthan", t_gt, 1, 1, {0}}, {"in", t_in, 1, 1, {"seq"}}, {"integer", t_integer, 0, 0, {0}},
    {"iterable", t_iterable, 0, 0, {0}}, {"le", t_le, 1, 1, {0}}, {"<=", t_le, 1, 1, {0}},
    {"lower", t_lower, 0, 0, {0}}, {"lt", t_lt, 1, 1, {0}}, {"<", t_lt, 1, 1, {0}}, {"lessthan", t_lt, 1, 1, {0}},
    {"mapping", t_mapping, 0, 0, {0}}, {"ne", t_ne, 1, 1, {0}}, {"!=", t_ne, 1, 1, {0}}, {"none", t_none, 0, 0, {0}},
    {"number", t_number, 0, 0, {0}}, {"odd", t_odd, 0, 0, {0}}, {"sameas", t_sameas, 1, 1, {"other"}},
    {"sequence", t_sequence, 0, 0, {0}}, {"string", t_string, 0, 0, {0}}, {"test", t_test, 0, 0, {0}},
    {"true", t_true, 0, 0, {0}}, {"undefined", t_undefined, 0, 0, {0}}, {"upper", t_upper, 0, 0, {0}}, {0}};

/* ---- globals ---- */

static int64_t integer(jx *c, jval v)
{
    int64_t i;
    if (v.t == J_UNDEF)
        jx_undefined(c, v);
    if (!jn_to_i64(v, &i))
        jx_type_error(c, "'%s' object cannot be interpreted as an integer", jv_type(v));
    return i;
}

static jval g_range(jx *c, jcall *k)
{
    int64_t start = 0, stop = integer(c, k->p[0]), step = 1;
    if (k->p[1].t != J_MISSING) {
        start = stop;
        stop = integer(c, k->p[1]);
    }
    if (k->p[2].t != J_MISSING)
        step = integer(c, k->p[2]);
    if (step == 0)
        jx_type_error(c, "range() arg 3 must not be zero");
    uint64_t span = step > 0 ? (stop > start ? (uint64_t)stop - (uint64_t)start : 0)
                             : (start > stop ? (uint64_t)start - (uint64_t)stop : 0);
    uint64_t by = step > 0 ? (uint64_t)step : 0 - (uint64_t)step, n = span / by + (span % by != 0);
    if (n > JINJA_MAX_RANGE)
        jx_fail(c, IMP_E_LIMIT, "range of more than %d items", JINJA_MAX_RANGE);
    jlist *l = jl_new(c, JL_RANGE, (size_t)n + 3);
    jx_step(c, (size_t)n / 4);
    for (uint64_t i = 0; i < n; i++)
        jl_push(c, l, jval_int((int64_t)((uint64_t)start + i * (uint64_t)step)));
    l->v[n] = jval_int(start); /* for repr */
    l->v[n + 1] = jval_int(stop);
    l->v[n + 2] = jval_int(step);
    return jv_list(l);
}

/* dict(mapping or pairs, key=value, ...) */
static jdict *dict_of(jx *c, const jcall *k)
{
    jdict *d = jd_new(c);
    if (k->args->n_pos > 1)
        jx_type_error(c, "%s expected at most 1 argument, got %zu", k->name, k->args->n_pos);
    jval src = k->args->n_pos ? k->args->pos[0] : jval_none();
    if (src.t == J_DICT || src.t == J_NS) {
        for (size_t i = 0; i < src.u.d->n; i++)
            jd_set(c, d, src.u.d->k[i], src.u.d->v[i]);
    } else if (k->args->n_pos) {
        jlist *l = jv_iter(c, src);
        for (size_t i = 0; i < l->n; i++) {
            jlist *pair = jv_iter(c, l->v[i]);
            if (pair->n != 2)
                jx_type_error(c, "dictionary update sequence element #%zu has length %zu; 2 is required", i, pair->n);
            jd_set(c, d, pair->v[0], pair->v[1]);
        }
    }
    for (size_t i = 0; i < k->args->n_kw; i++)
        jd_set(c, d, jv_str(k->args->kw_name[i]), k->args->kw[i]);
    return d;
}
static jval g_dict(jx *c, jcall *k) { return jv_dict(dict_of(c, k)); }
static jval g_namespace(jx *c, jcall *k) { return (jval){.t = J_NS, .u.d = dict_of(c, k)}; }

static jval g_cycler(jx *c, jcall *k)
{
    if (!k->args->n_pos)
        jx_type_error(c, "at least one item has to be provided");
    jcycler *y = JX_NEW(c, jcycler);
    y->v = k->args->pos;
    y->n = k->args->n_pos;
    return (jval){.t = J_CYCLER, .u.p = y};
}

static jval g_joiner(jx *c, jcall *k)
{
    jjoiner *j = JX_NEW(c, jjoiner);
    j->sep = k->p[0].t == J_MISSING ? js_lit(c, ", ") : jv_to_str(c, k->p[0]);
    return (jval){.t = J_JOINER, .u.p = j};
}

static jval g_raise(jx *c, jcall *k)
{
    const jstr *s = jv_to_str(c, k->p[0]);
    jx_fail(c, IMP_E_USAGE, "%.*s", (int)(s->n > 800 ? 800 : s->n), s->s);
}

/* datetime.now().strftime(format): C's strftime, and %f for microseconds. */
static jval g_strftime_now(jx *c, jcall *k)
{
    if (k->p[0].t != J_STR)
        jx_type_error(c, "strftime() argument 1 must be str, not %s", jv_type(k->p[0]));
    const jstr *f = k->p[0].u.s;
    struct tm tm;
    long us = c->env->now_us;
    if (c->env->now) {
        tm = *c->env->now;
    } else {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        localtime_r(&t.tv_sec, &tm);
        us = t.tv_nsec / 1000;
    }
    size_t n = 0, room = 16384;
    char *fmt = jx_alloc(c, f->n * 6 + 2), *out = jx_alloc(c, room);
    if (f->n > 4096)
        jx_fail(c, IMP_E_LIMIT, "time format longer than 4096 bytes");
    for (size_t i = 0; i < f->n && f->s[i]; i++) {
        if (f->s[i] == '%' && i + 1 < f->n && f->s[i + 1] == 'f') {
            n += (size_t)sprintf(fmt + n, "%06ld", us % 1000000);
            i++;
            continue;
        }
        fmt[n++] = f->s[i];
        if (f->s[i] == '%' && i + 1 < f->n)
            fmt[n++] = f->s[++i];
    }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    n = n ? strftime(out, room, fmt, &tm) : 0;
#pragma GCC diagnostic pop
    return jv_str(js_copy(c, out, n, f->tainted));
}

static jval g_lipsum(jx *c, jcall *k) { jx_fail(c, IMP_E_UNSUPPORTED, "%s() is not supported", k->name); }

const jrow jinja_globals[] = {
    {"range", g_range, 1, 3, {0}}, {"dict", g_dict, 0, -1, {0}}, {"namespace", g_namespace, 0, -1, {0}},
    {"cycler", g_cycler, 0, -1, {0}}, {"joiner", g_joiner, 0, 1, {"sep"}},
    {"raise_exception", g_raise, 1, 1, {"message"}}, {"strftime_now", g_strftime_now, 1, 1, {"format"}},
    {"lipsum", g_lipsum, 0, -1, {0}}, {0}};

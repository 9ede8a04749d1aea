/* The other methods of str, and those of list, dict and numbers. Methods that would change a value exist, so that
 * they shadow keys of the same name as in Python, and are refused when called (immutable sandbox). */
#include <math.h>
#include <string.h>

#include "text/jinja_impl.h"

static const jstr *self(const jcall *k) { return k->self.u.s; }

static jval convert(jx *c, jcall *k, ju_case how) { return jv_str(ju_convert(c, self(k), how)); }
static jval m_upper(jx *c, jcall *k) { return convert(c, k, JU_UPPER); }
static jval m_lower(jx *c, jcall *k) { return convert(c, k, JU_LOWER); }
static jval m_title(jx *c, jcall *k) { return convert(c, k, JU_TITLE); }
static jval m_capitalize(jx *c, jcall *k) { return convert(c, k, JU_CAPITALIZE); }
static jval m_swapcase(jx *c, jcall *k) { return convert(c, k, JU_SWAP); }
static jval m_casefold(jx *c, jcall *k) { return convert(c, k, JU_FOLD); }

static int64_t width_arg(jx *c, const jcall *k, int i)
{
    int64_t v;
    if (!jn_to_i64(k->p[i], &v))
        jx_type_error(c, "'%s' object cannot be interpreted as an integer", jv_type(k->p[i]));
    return v;
}

static void fill(jbuf *b, const jstr *ch, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        jx_step(b->c, 1);
        jb_str(b, ch);
    }
}

/* Pads to width with `left` of the missing characters in front. */
const jstr *js_pad(jx *c, const jstr *s, int64_t width, int64_t left, const jstr *ch)
{
    int64_t missing = width - (int64_t)s->n_cp;
    if (missing <= 0)
        return s;
    jbuf b = {.c = c, .markup = s->markup};
    fill(&b, ch, left);
    jb_str(&b, s);
    fill(&b, ch, missing - left);
    return jb_done(&b);
}

/* Where Python's str.center puts the odd character. */
int64_t js_center_left(int64_t missing, int64_t width) { return missing / 2 + (missing & width & 1); }

static jval justify(jx *c, jcall *k, int how)
{
    const jstr *ch = js_lit(c, " ");
    int64_t w = width_arg(c, k, 0), missing = w > (int64_t)self(k)->n_cp ? w - (int64_t)self(k)->n_cp : 0;
    if (k->p[1].t != J_MISSING) {
        if (k->p[1].t != J_STR || k->p[1].u.s->n_cp != 1)
            jx_type_error(c, "the fill character must be exactly one character long");
        ch = k->p[1].u.s;
    }
    int64_t left = how == 0 ? 0 : how == 1 ? missing : js_center_left(missing, w);
    return jv_str(js_pad(c, self(k), w, left, ch));
}
static jval m_ljust(jx *c, jcall *k) { return justify(c, k, 0); }
static jval m_rjust(jx *c, jcall *k) { return justify(c, k, 1); }
static jval m_center(jx *c, jcall *k) { return justify(c, k, 2); }

static jval m_zfill(jx *c, jcall *k)
{
    const jstr *s = self(k);
    int64_t w = width_arg(c, k, 0);
    bool sign = s->n && (s->s[0] == '+' || s->s[0] == '-');
    jbuf b = {.c = c};
    jb_sub(&b, s, 0, sign);
    fill(&b, js_lit(c, "0"), w - (int64_t)s->n_cp);
    jb_sub(&b, s, sign, s->n);
    return jv_str(jb_done(&b));
}

static jval m_expandtabs(jx *c, jcall *k)
{
    const jstr *s = self(k);
    int64_t size = k->p[0].t == J_MISSING ? 8 : width_arg(c, k, 0), col = 0;
    jbuf b = {.c = c};
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t cp = js_cp(s, i, &n);
        jx_step(c, 1);
        if (cp != '\t') {
            jb_sub(&b, s, i, i + n);
            col = cp == '\n' || cp == '\r' ? 0 : col + 1;
        } else if (size > 0) {
            int64_t m = size - col % size;
            fill(&b, js_lit(c, " "), m);
            col += m;
        }
    }
    return jv_str(jb_done(&b));
}

/* ---- questions about every character ---- */

static jval every(jx *c, jcall *k, bool (*is)(uint32_t), bool empty)
{
    const jstr *s = self(k);
    jx_step(c, s->n / 16);
    for (size_t i = 0, n; i < s->n; i += n)
        if (!is(js_cp(s, i, &n)))
            return jval_bool(false);
    return jval_bool(s->n ? true : empty);
}
static bool alnum(uint32_t cp) { return ju_alpha(cp) || ju_numeric(cp); }
static bool ascii(uint32_t cp) { return cp < 0x80; }
static jval m_isalpha(jx *c, jcall *k) { return every(c, k, ju_alpha, false); }
static jval m_isalnum(jx *c, jcall *k) { return every(c, k, alnum, false); }
static jval m_isdecimal(jx *c, jcall *k) { return every(c, k, ju_decimal, false); }
static jval m_isdigit(jx *c, jcall *k) { return every(c, k, ju_digit, false); }
static jval m_isnumeric(jx *c, jcall *k) { return every(c, k, ju_numeric, false); }
static jval m_isspace(jx *c, jcall *k) { return every(c, k, ju_space, false); }
static jval m_isprintable(jx *c, jcall *k) { return every(c, k, ju_printable, true); }
static jval m_isascii(jx *c, jcall *k) { return every(c, k, ascii, true); }

bool js_all_case(jx *c, const jstr *s, bool upper)
{
    bool any = false;
    jx_step(c, s->n / 16);
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t cp = js_cp(s, i, &n);
        if (ju_title_p(cp) || (upper ? ju_lower_p(cp) : ju_upper_p(cp)))
            return false;
        any = any || (upper ? ju_upper_p(cp) : ju_lower_p(cp));
    }
    return any;
}
static jval m_isupper(jx *c, jcall *k) { return jval_bool(js_all_case(c, self(k), true)); }
static jval m_islower(jx *c, jcall *k) { return jval_bool(js_all_case(c, self(k), false)); }

static jval m_istitle(jx *c, jcall *k)
{
    const jstr *s = self(k);
    bool any = false, prev = false;
    jx_step(c, s->n / 16);
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t cp = js_cp(s, i, &n);
        bool up = ju_upper_p(cp) || ju_title_p(cp), low = ju_lower_p(cp);
        if ((up && prev) || (low && !prev))
            return jval_bool(false);
        prev = up || low;
        any = any || prev;
    }
    return jval_bool(any);
}

static jval m_isidentifier(jx *c, jcall *k)
{
    const jstr *s = self(k);
    jx_step(c, s->n / 16);
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t cp = js_cp(s, i, &n);
        if (!(ju_word(cp) && (i || !ju_decimal(cp))))
            return jval_bool(false);
    }
    return jval_bool(s->n > 0);
}

static jval m_format(jx *c, jcall *k) { return jv_str(jstr_format_braces(c, self(k), k->args, jval_none())); }
static jval m_format_map(jx *c, jcall *k)
{
    static const jargs none = {0};
    return jv_str(jstr_format_braces(c, self(k), &none, k->p[0]));
}

static jval refused(jx *c, jcall *k)
{
    jx_type_error(c, "access to attribute '%s' of '%s' object is unsafe.", k->name, jv_type(k->self));
}
static jval unsupported(jx *c, jcall *k) { jx_fail(c, IMP_E_UNSUPPORTED, "%s() is not supported", k->name); }

const jrow jinja_str_methods2[] = {
    {"upper", m_upper, 0, 0, {0}}, {"lower", m_lower, 0, 0, {0}}, {"title", m_title, 0, 0, {0}},
    {"capitalize", m_capitalize, 0, 0, {0}}, {"swapcase", m_swapcase, 0, 0, {0}}, {"casefold", m_casefold, 0, 0, {0}},
    {"ljust", m_ljust, 1, 2, {0}}, {"rjust", m_rjust, 1, 2, {0}}, {"center", m_center, 1, 2, {0}},
    {"zfill", m_zfill, 1, 1, {0}}, {"expandtabs", m_expandtabs, 0, 1, {"tabsize"}}, {"isalpha", m_isalpha, 0, 0, {0}},
    {"isalnum", m_isalnum, 0, 0, {0}}, {"isdecimal", m_isdecimal, 0, 0, {0}}, {"isdigit", m_isdigit, 0, 0, {0}},
    {"isnumeric", m_isnumeric, 0, 0, {0}}, {"isspace", m_isspace, 0, 0, {0}},
    {"isprintable", m_isprintable, 0, 0, {0}}, {"isascii", m_isascii, 0, 0, {0}}, {"isupper", m_isupper, 0, 0, {0}},
    {"islower", m_islower, 0, 0, {0}}, {"istitle", m_istitle, 0, 0, {0}},
    {"isidentifier", m_isidentifier, 0, 0, {0}}, {"format", m_format, 0, -1, {0}},
    {"format_map", m_format_map, 1, 1, {0}}, {"encode", unsupported, 0, -1, {0}},
    {"translate", unsupported, 0, -1, {0}}, {"maketrans", unsupported, 0, -1, {0}}, {0}};

/* ---- list, tuple, range ---- */

static jval l_count(jx *c, jcall *k)
{
    const jlist *l = k->self.u.l;
    int64_t n = 0;
    jx_step(c, l->n);
    for (size_t i = 0; i < l->n; i++)
        n += jv_eq(c, l->v[i], k->p[0]);
    return jval_int(n);
}

static jval l_index(jx *c, jcall *k)
{
    const jlist *l = k->self.u.l;
    int64_t b[2] = {0, (int64_t)l->n}, n = (int64_t)l->n;
    for (int j = 0; j < 2; j++)
        if (k->p[1 + j].t != J_MISSING) {
            int64_t v = width_arg(c, k, 1 + j);
            b[j] = v < 0 ? (v + n < 0 ? 0 : v + n) : v > n ? n : v;
        }
    for (int64_t i = b[0]; i < b[1]; i++) {
        jx_step(c, 1);
        if (jv_eq(c, l->v[i], k->p[0]))
            return jval_int(i);
    }
    jx_type_error(c, "the value is not in the list");
}

static jval l_copy(jx *c, jcall *k)
{
    jlist *l = jl_new(c, JL_LIST, k->self.u.l->n);
    for (size_t i = 0; i < k->self.u.l->n; i++)
        jl_push(c, l, k->self.u.l->v[i]);
    return jv_list(l);
}

const jrow jinja_list_methods[] = { /* tuples and ranges have the first two */
    {"count", l_count, 1, 1, {0}}, {"index", l_index, 1, 3, {0}}, {"copy", l_copy, 0, 0, {0}},
    {"append", refused, 0, JROW_UNSAFE, {0}}, {"clear", refused, 0, JROW_UNSAFE, {0}}, {"extend", refused, 0,
         JROW_UNSAFE, {0}},
    {"insert", refused, 0, JROW_UNSAFE, {0}}, {"pop", refused, 0, JROW_UNSAFE, {0}}, {"remove", refused, 0,
         JROW_UNSAFE, {0}},
    {"reverse", refused, 0, JROW_UNSAFE, {0}}, {"sort", refused, 0, JROW_UNSAFE, {0}}, {0}};

/* ---- dict ---- */

static jval d_view(jx *c, const jcall *k, jlist_kind kind)
{
    const jdict *d = k->self.u.d;
    jlist *l = jl_new(c, kind, d->n);
    jx_step(c, d->n / 4);
    for (size_t i = 0; i < d->n; i++) {
        if (kind != JL_ITEMS) {
            jl_push(c, l, kind == JL_KEYS ? d->k[i] : d->v[i]);
            continue;
        }
        jlist *pair = jl_new(c, JL_TUPLE, 2);
        jl_push(c, pair, d->k[i]);
        jl_push(c, pair, d->v[i]);
        jl_push(c, l, jv_list(pair));
    }
    return jv_list(l);
}
static jval d_keys(jx *c, jcall *k) { return d_view(c, k, JL_KEYS); }
static jval d_values(jx *c, jcall *k) { return d_view(c, k, JL_VALUES); }
static jval d_items(jx *c, jcall *k) { return d_view(c, k, JL_ITEMS); }

static jval d_get(jx *c, jcall *k)
{
    const jval *v = jd_find(c, k->self.u.d, k->p[0]);
    return v ? *v : k->p[1].t == J_MISSING ? jval_none() : k->p[1];
}

static jval d_copy(jx *c, jcall *k)
{
    jdict *d = jd_new(c);
    jx_step(c, k->self.u.d->n / 4);
    for (size_t i = 0; i < k->self.u.d->n; i++)
        jd_set(c, d, k->self.u.d->k[i], k->self.u.d->v[i]);
    return jv_dict(d);
}

const jrow jinja_dict_methods[] = {
    {"get", d_get, 1, 2, {0}}, {"items", d_items, 0, 0, {0}}, {"keys", d_keys, 0, 0, {0}},
    {"values", d_values, 0, 0, {0}}, {"copy", d_copy, 0, 0, {0}}, {"fromkeys", unsupported, 0, -1, {0}},
    {"clear", refused, 0, JROW_UNSAFE, {0}}, {"pop", refused, 0, JROW_UNSAFE, {0}}, {"popitem", refused, 0,
         JROW_UNSAFE, {0}},
    {"setdefault", refused, 0, JROW_UNSAFE, {0}}, {"update", refused, 0, JROW_UNSAFE, {0}}, {0}};

/* ---- numbers, cycler ---- */

static jval n_bit_length(jx *c, jcall *k)
{
    int64_t i;
    if (!jn_to_i64(k->self, &i))
        return unsupported(c, k);
    uint64_t m = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    return jval_int(m ? 64 - __builtin_clzll(m) : 0);
}
static jval n_is_integer(jx *c, jcall *k)
{
    (void)c;
    return jval_bool(k->self.u.f == floor(k->self.u.f) && !isinf(k->self.u.f));
}
const jrow jinja_num_methods[] = {{"bit_length", n_bit_length, 0, 0, {0}}, {"conjugate", unsupported, 0, -1, {0}}, {0}};
static const jrow float_methods[] = {{"is_integer", n_is_integer, 0, 0, {0}}, {0}};

static jval y_next(jx *c, jcall *k)
{
    (void)c;
    jcycler *y = k->self.u.p;
    jval v = y->v[y->i];
    y->i = (y->i + 1) % y->n;
    return v;
}
static jval y_reset(jx *c, jcall *k)
{
    (void)c;
    ((jcycler *)k->self.u.p)->i = 0;
    return jval_none();
}
static const jrow cycler_methods[] = {{"next", y_next, 0, 0, {0}}, {"reset", y_reset, 0, 0, {0}}, {0}};

const jrow *jinja_method_find(jval obj, const jstr *name)
{
    const jrow *r;
    switch (obj.t) {
    case J_STR:
        r = jrow_find(jinja_str_methods, name->s, name->n);
        return r ? r : jrow_find(jinja_str_methods2, name->s, name->n);
    case J_LIST:
        if (obj.u.l->kind > JL_RANGE)
            return NULL;
        r = jrow_find(jinja_list_methods, name->s, name->n);
        return r && (obj.u.l->kind == JL_LIST || r < jinja_list_methods + 2) ? r : NULL;
    case J_DICT: return jrow_find(jinja_dict_methods, name->s, name->n);
    case J_BOOL: case J_INT: case J_BIG: return jrow_find(jinja_num_methods, name->s, name->n);
    case J_FLOAT: return jrow_find(float_methods, name->s, name->n);
    case J_LOOP: return jrow_find(jinja_loop_methods, name->s, name->n);
    case J_CYCLER: return jrow_find(cycler_methods, name->s, name->n);
    default: return NULL;
    }
}

/* Numbers: Python's int (64 bits, growing to decimal limbs when needed) and float. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/jsonw.h"
#include "text/jinja_impl.h"

#define LIMB 1000000000u
#define MAX_LIMBS 480 /* 4320 digits: as far as Python prints integers */

typedef struct jbig { /* |value| = sum limb[i] * 10^(9 i); no leading zeros; does not fit an int64 */
    bool neg;
    uint32_t n;
    uint32_t *limb;
} jbig;

static jbig big_new(jx *c, size_t n)
{
    if (n > 2 * MAX_LIMBS)
        jx_fail(c, IMP_E_LIMIT, "integer with more than 4300 digits");
    return (jbig){.n = (uint32_t)n, .limb = jx_array(c, n + 1, sizeof(uint32_t))};
}

static jbig load(jx *c, jval v)
{
    if (v.t == J_BIG)
        return *(const jbig *)v.u.p;
    int64_t i = v.t == J_BOOL ? v.u.b : v.u.i;
    jbig r = big_new(c, 3);
    uint64_t m = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    r.neg = i < 0;
    for (r.n = 0; m; m /= LIMB)
        r.limb[r.n++] = (uint32_t)(m % LIMB);
    return r;
}

static jval store(jx *c, jbig b)
{
    while (b.n && !b.limb[b.n - 1])
        b.n--;
    if (b.n <= 3) {
        unsigned __int128 m = 0;
        for (uint32_t i = b.n; i-- > 0;)
            m = m * LIMB + b.limb[i];
        if (m <= (unsigned __int128)INT64_MAX + b.neg)
            return jval_int(b.neg ? (int64_t)(0 - (uint64_t)m) : (int64_t)m);
    }
    if (b.n > MAX_LIMBS)
        jx_fail(c, IMP_E_LIMIT, "integer with more than 4300 digits");
    jbig *p = JX_NEW(c, jbig);
    *p = b;
    return (jval){.t = J_BIG, .u.p = p};
}

static int mag_cmp(const jbig *a, const jbig *b)
{
    if (a->n != b->n)
        return a->n > b->n ? 1 : -1;
    for (uint32_t i = a->n; i-- > 0;)
        if (a->limb[i] != b->limb[i])
            return a->limb[i] > b->limb[i] ? 1 : -1;
    return 0;
}

static jbig big_add(jx *c, jbig a, jbig b)
{
    jbig r;
    if (a.neg == b.neg) {
        uint32_t n = a.n > b.n ? a.n : b.n, carry = 0;
        r = big_new(c, n + 1);
        for (uint32_t i = 0; i <= n; i++) {
            uint32_t s = carry + (i < a.n ? a.limb[i] : 0) + (i < b.n ? b.limb[i] : 0);
            carry = s >= LIMB;
            r.limb[i] = s - carry * LIMB;
        }
        r.neg = a.neg;
        return r;
    }
    if (mag_cmp(&a, &b) < 0) {
        jbig t = a;
        a = b;
        b = t;
    }
    r = big_new(c, a.n);
    uint32_t borrow = 0;
    for (uint32_t i = 0; i < a.n; i++) {
        uint32_t s = (i < b.n ? b.limb[i] : 0) + borrow;
        borrow = a.limb[i] < s;
        r.limb[i] = a.limb[i] + borrow * LIMB - s;
    }
    r.neg = a.neg;
    return r;
}

static jbig big_mul(jx *c, jbig a, jbig b)
{
    jbig r = big_new(c, (size_t)a.n + b.n);
    jx_step(c, (size_t)a.n * b.n / 64);
    for (uint32_t i = 0; i < a.n; i++) {
        uint64_t carry = 0;
        for (uint32_t j = 0; j < b.n || carry; j++) {
            uint64_t s = r.limb[i + j] + carry + (j < b.n ? (uint64_t)a.limb[i] * b.limb[j] : 0);
            r.limb[i + j] = (uint32_t)(s % LIMB);
            carry = s / LIMB;
        }
    }
    r.neg = a.neg != b.neg;
    return r;
}

static void trim(jbig *a)
{
    while (a->n && !a->limb[a->n - 1])
        a->n--;
}

/* q = a / b truncated, r the rest, of magnitudes; a limb of q by bisection, which is plenty for templates. */
static void big_divmod(jx *c, jbig a, jbig b, jbig *q, jbig *r)
{
    *q = big_new(c, a.n);
    *r = big_new(c, (size_t)b.n + 1);
    r->n = 0;
    jbig bm = b;
    bm.neg = false;
    for (uint32_t i = a.n; i-- > 0;) {
        jbig t = big_new(c, (size_t)r->n + 1);
        memcpy(t.limb + 1, r->limb, r->n * sizeof *t.limb);
        t.limb[0] = a.limb[i];
        trim(&t);
        uint32_t lo = 0, hi = LIMB - 1;
        while (lo < hi) {
            uint32_t mid = lo + (hi - lo + 1) / 2, limb[1] = {mid};
            jbig m = big_mul(c, bm, (jbig){.n = 1, .limb = limb});
            trim(&m);
            if (mag_cmp(&m, &t) <= 0)
                lo = mid;
            else
                hi = mid - 1;
        }
        uint32_t limb[1] = {lo};
        jbig m = big_mul(c, bm, (jbig){.n = 1, .limb = limb});
        trim(&m);
        m.neg = true;
        q->limb[i] = lo;
        *r = big_add(c, t, m);
        r->neg = false;
        trim(r);
    }
    trim(q);
}

static char *big_text(jx *c, const jbig *b, size_t *n)
{
    char *t = jx_alloc(c, (size_t)b->n * 9 + 3);
    size_t k = (size_t)sprintf(t, "%s%u", b->neg ? "-" : "", b->n ? b->limb[b->n - 1] : 0);
    for (uint32_t i = b->n; i > 1; i--)
        k += (size_t)sprintf(t + k, "%09u", b->limb[i - 2]);
    *n = k;
    return t;
}

/* ---- conversions ---- */

jval jn_parse_int(jx *c, const char *s, size_t n, unsigned base)
{
    uint32_t mul[1] = {base};
    jval v = jval_int(0);
    jbig acc = big_new(c, 0);
    bool is_big = false;
    if (n > (base == 10 ? 4300 : 1000))
        jx_fail(c, IMP_E_LIMIT, "integer with more than 4300 digits");
    if (base == 10 && n > 18) {
        acc = big_new(c, (n + 8) / 9);
        for (size_t i = 0; i < n; i++) {
            uint32_t *l = &acc.limb[(n - 1 - i) / 9];
            *l = *l * 10 + (uint32_t)(s[i] - '0');
        }
        return store(c, acc);
    }
    for (size_t i = 0; i < n; i++) {
        char ch = s[i];
        int d = ch <= '9' ? ch - '0' : (ch | 32) - 'a' + 10;
        if (!is_big && !__builtin_mul_overflow(v.u.i, (int64_t)base, &v.u.i) &&
            !__builtin_add_overflow(v.u.i, (int64_t)d, &v.u.i))
            continue;
        if (!is_big) { /* start again with limbs; at most once */
            is_big = true;
            acc = load(c, jval_int(0));
            i = (size_t)-1;
            continue;
        }
        uint32_t digit[1] = {(uint32_t)d};
        acc = big_add(c, big_mul(c, acc, (jbig){.n = 1, .limb = mul}), (jbig){.n = d ? 1u : 0u, .limb = digit});
        trim(&acc);
    }
    return is_big ? store(c, acc) : v;
}

double jn_double(jx *c, jval v)
{
    size_t n;
    double d;
    switch (v.t) {
    case J_BOOL: return v.u.b;
    case J_INT: return (double)v.u.i;
    case J_FLOAT: return v.u.f;
    default:
        d = strtod(big_text(c, v.u.p, &n), NULL);
        if (isinf(d))
            jx_type_error(c, "int too large to convert to float");
        return d;
    }
}

jval jn_from_double(jx *c, double f)
{
    if (isnan(f) || isinf(f))
        jx_type_error(c, "cannot convert float %s to integer", isnan(f) ? "NaN" : "infinity");
    f = trunc(f);
    if (f >= -0x1p63 && f < 0x1p63)
        return jval_int((int64_t)f);
    char t[400];
    int n = snprintf(t, sizeof t, "%.0f", fabs(f));
    jval v = jn_parse_int(c, t, (size_t)n, 10);
    return f < 0 ? jn_neg(c, v) : v;
}

bool jn_to_i64(jval v, int64_t *out)
{
    if (v.t == J_INT)
        *out = v.u.i;
    else if (v.t == J_BOOL)
        *out = v.u.b;
    return v.t == J_INT || v.t == J_BOOL;
}

bool jn_is_zero(jval v) { return v.t == J_FLOAT ? v.u.f == 0 : v.t == J_BOOL ? !v.u.b : v.t == J_INT && v.u.i == 0; }

uint64_t jn_hash(jval v)
{
    int64_t i;
    if (jn_to_i64(v, &i))
        return (uint64_t)i;
    if (v.t == J_BIG) { /* equal to a float of that size, perhaps: hash what they share */
        const jbig *b = v.u.p;
        return (uint64_t)b->n * 2 + b->neg;
    }
    if (v.u.f >= -0x1p63 && v.u.f < 0x1p63 && v.u.f == trunc(v.u.f))
        return (uint64_t)(int64_t)v.u.f;
    if (fabs(v.u.f) >= 0x1p63 && !isinf(v.u.f)) {
        char t[400];
        int n = snprintf(t, sizeof t, "%.0f", fabs(v.u.f));
        return (uint64_t)((n + 8) / 9) * 2 + (v.u.f < 0);
    }
    uint64_t bits;
    memcpy(&bits, &v.u.f, 8);
    return bits;
}

static int cmp_float(double a, double b) { return isnan(a) || isnan(b) ? 2 : (a > b) - (a < b); }

int jn_cmp(jx *c, jval a, jval b)
{
    int64_t i, j;
    if (a.t == J_FLOAT && b.t == J_FLOAT)
        return cmp_float(a.u.f, b.u.f);
    if (a.t == J_FLOAT) {
        int r = jn_cmp(c, b, a);
        return r == 2 ? 2 : -r;
    }
    if (b.t == J_FLOAT) {
        double d = b.u.f;
        if (isnan(d))
            return 2;
        if (!jn_to_i64(a, &i)) {
            const jbig *x = a.u.p;
            return isinf(d) || fabs(d) < 0x1p63 ? (isinf(d) ? (d < 0 ? 1 : -1) : (x->neg ? -1 : 1))
                                                : jn_cmp(c, a, jn_from_double(c, d));
        }
        if (d >= 0x1p63 || d < -0x1p63)
            return d > 0 ? -1 : 1;
        int64_t t = (int64_t)d;
        double frac = d - (double)t;
        return i != t ? (i > t ? 1 : -1) : frac > 0 ? -1 : frac < 0;
    }
    if (jn_to_i64(a, &i) && jn_to_i64(b, &j))
        return (i > j) - (i < j);
    jbig x = load(c, a), y = load(c, b);
    if (x.neg != y.neg)
        return x.neg ? -1 : 1;
    int r = mag_cmp(&x, &y);
    return x.neg ? -r : r;
}

jval jn_neg(jx *c, jval a)
{
    int64_t i;
    if (a.t == J_FLOAT)
        return jval_float(-a.u.f);
    if (jn_to_i64(a, &i) && i != INT64_MIN)
        return jval_int(-i);
    jbig b = load(c, a);
    b.neg = !b.neg;
    return store(c, b);
}

jval jn_abs(jx *c, jval a)
{
    int64_t i;
    if (a.t == J_FLOAT)
        return jval_float(fabs(a.u.f));
    bool neg = jn_to_i64(a, &i) ? i < 0 : ((const jbig *)a.u.p)->neg;
    return neg ? jn_neg(c, a) : a.t == J_BOOL ? jval_int(i) : a;
}

/* ---- operators ---- */

static jval float_op(jx *c, uint8_t op, double a, double b)
{
    double mod, div, fl;
    switch (op) {
    case T_ADD: return jval_float(a + b);
    case T_SUB: return jval_float(a - b);
    case T_MUL: return jval_float(a * b);
    case T_DIV:
        if (b == 0)
            jx_type_error(c, "float division by zero");
        return jval_float(a / b);
    case T_POW:
        if (a == 0 && b < 0)
            jx_type_error(c, "0.0 cannot be raised to a negative power");
        if (a < 0 && !isinf(a) && b != trunc(b) && !isnan(b))
            jx_type_error(c, "complex numbers are not supported");
        div = pow(a, b);
        if (isinf(div) && !isinf(a) && !isinf(b))
            jx_type_error(c, "numerical result out of range");
        return jval_float(div);
    default:
        if (b == 0)
            jx_type_error(c, op == T_MOD ? "float modulo" : "float floor division by zero");
        mod = fmod(a, b);
        div = (a - mod) / b;
        if (mod != 0) {
            if ((b < 0) != (mod < 0)) {
                mod += b;
                div -= 1;
            }
        } else {
            mod = copysign(0, b);
        }
        if (op == T_MOD)
            return jval_float(mod);
        if (div == 0)
            return jval_float(copysign(0, a / b));
        fl = floor(div);
        return jval_float(div - fl > 0.5 ? fl + 1 : fl);
    }
}

static jval int_pow(jx *c, jval a, jval b)
{
    int64_t e;
    if (jn_cmp(c, b, jval_int(0)) < 0)
        return float_op(c, T_POW, jn_double(c, a), jn_double(c, b));
    jbig base = load(c, a);
    trim(&base);
    if (base.n == 0)
        return jval_int(jn_is_zero(b));
    if (!jn_to_i64(b, &e) || (e > 20000 && !(base.n == 1 && base.limb[0] == 1)))
        jx_fail(c, IMP_E_LIMIT, "integer with more than 4300 digits");
    if (base.n == 1 && base.limb[0] == 1)
        return jval_int(base.neg && e % 2 ? -1 : 1);
    jval r = jval_int(1), x = store(c, base);
    for (; e; e >>= 1) {
        if (e & 1)
            r = jn_binary(c, T_MUL, r, x);
        if (e > 1)
            x = jn_binary(c, T_MUL, x, x);
    }
    return r;
}

/* a / b to the nearest double, by way of more decimal digits than a double has and one that says "and something". */
static double big_quotient(jx *c, jval a, jval b)
{
    jbig x = load(c, a), y = load(c, b), q, r;
    trim(&x);
    trim(&y);
    bool neg = x.neg != y.neg;
    int shift = 0;
    for (; x.n < y.n + 5 && shift < 60; shift++) { /* limbs of nine digits appended to x */
        jbig t = big_new(c, (size_t)x.n + 1);
        memcpy(t.limb + 1, x.limb, x.n * sizeof *t.limb);
        x = t;
    }
    big_divmod(c, x, y, &q, &r);
    q.neg = false;
    size_t n;
    char *digits = big_text(c, &q, &n), *t = jx_alloc(c, n + 32);
    sprintf(t, "%s.%de-%d", digits, r.n ? 1 : 0, 9 * shift);
    double d = strtod(t, NULL);
    if (isinf(d))
        jx_type_error(c, "integer division result too large for a float");
    return neg ? -d : d;
}

static bool exact(int64_t i) { return i >= -(INT64_C(1) << 53) && i <= INT64_C(1) << 53; }

static jval int_divide(jx *c, uint8_t op, jval a, jval b)
{
    int64_t i = 0, j = 0;
    if (jn_is_zero(b))
        jx_type_error(c, op == T_DIV ? "division by zero" : "integer division or modulo by zero");
    bool small = jn_to_i64(a, &i) & jn_to_i64(b, &j);
    if (op == T_DIV)
        return jval_float(small && exact(i) && exact(j) ? (double)i / (double)j : big_quotient(c, a, b));
    if (small && !(i == INT64_MIN && j == -1)) {
        int64_t q = i / j, r = i % j;
        if (r && (r < 0) != (j < 0)) {
            q--;
            r += j;
        }
        return jval_int(op == T_MOD ? r : q);
    }
    jbig x = load(c, a), y = load(c, b), q, r;
    big_divmod(c, x, y, &q, &r);
    q.neg = x.neg != y.neg;
    r.neg = x.neg;
    if (r.n && x.neg != y.neg) {
        q = big_add(c, q, load(c, jval_int(-1)));
        r = big_add(c, r, y);
    }
    return store(c, op == T_MOD ? r : q);
}

jval jn_binary(jx *c, uint8_t op, jval a, jval b)
{
    int64_t i, j, r;
    if (a.t == J_FLOAT || b.t == J_FLOAT)
        return float_op(c, op, jn_double(c, a), jn_double(c, b));
    if (op == T_POW)
        return int_pow(c, a, b);
    if (op == T_DIV || op == T_FLOORDIV || op == T_MOD)
        return int_divide(c, op, a, b);
    if (jn_to_i64(a, &i) && jn_to_i64(b, &j)) {
        bool over = op == T_ADD ? __builtin_add_overflow(i, j, &r)
                    : op == T_SUB ? __builtin_sub_overflow(i, j, &r) : __builtin_mul_overflow(i, j, &r);
        if (!over)
            return jval_int(r);
    }
    jbig x = load(c, a), y = load(c, b);
    if (op == T_MUL)
        return store(c, big_mul(c, x, y));
    y.neg ^= op == T_SUB;
    return store(c, big_add(c, x, y));
}

jval jn_round(jx *c, double f, int64_t digits)
{
    if (isnan(f) || isinf(f) || digits > 320)
        return jval_float(f);
    if (digits < -320)
        return jval_float(copysign(0, f));
    if (digits < 0) {
        double p = pow(10, (double)-digits);
        return jval_float(nearbyint(f / p) * p);
    }
    char *t = jx_alloc(c, 700);
    snprintf(t, 700, "%.*f", (int)digits, f); /* exact ties go to even, as in Python */
    return jval_float(strtod(t, NULL));
}

/* ---- text ---- */

void jb_int(jbuf *b, jval v, unsigned base)
{
    char t[72];
    int64_t i;
    size_t k = sizeof t, n;
    if (v.t == J_BIG && base == 10) {
        char *s = big_text(b->c, v.u.p, &n);
        jb_add(b, s, n, false);
        return;
    }
    if (!jn_to_i64(v, &i))
        jx_type_error(b->c, "this format does not take integers of that size");
    uint64_t m = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    do
        t[--k] = "0123456789abcdef"[m % base];
    while (m /= base);
    if (i < 0)
        t[--k] = '-';
    jb_add(b, t + k, sizeof t - k, false);
}

void jb_float(jbuf *b, double f, bool tainted)
{
    char t[32];
    if (isnan(f) || isinf(f)) {
        jb_lit_t(b, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf", tainted);
        return;
    }
    int n = num_format_double(f, t);
    jb_add(b, t, (size_t)n, tainted);
}

void jb_fixed(jbuf *b, double f, char conv, int prec, bool alt, bool tainted)
{
    char fmt[8] = "%.*f";
    if (prec > 500)
        jx_fail(b->c, IMP_E_LIMIT, "precision too big");
    if (alt)
        strcpy(fmt, "%#.*f");
    fmt[strlen(fmt) - 1] = conv;
    char *t = jx_alloc(b->c, 1000);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int n = snprintf(t, 1000, fmt, prec, f);
#pragma GCC diagnostic pop
    jb_add(b, t, (size_t)n, tainted);
}

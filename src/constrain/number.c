/* Numbers: exact automata over the spelling. Bounds are compared digit by digit, multiples by remainder, never through
 * floating point, so 0.1 is a multiple of 0.1 and 9007199254740993 is what it says.
 *
 * With a bound or a multiple the exponent forms that are accepted are the normalised ones (d.ddde±x): there the order
 * of two numbers is the order of (exponent, mantissa), which a finite automaton can follow. Without them any form is.
 * Exponents end at 307, where the numbers of every JSON library end: what is written here must not be read as infinity,
 * nor -1e-9999 as zero. */
#include <string.h>

#include "constrain/constrain_impl.h"

#define DEC_EXP_MAX 5000

bool dec_parse(cc *c, const char *s, size_t n, dec *out)
{
    memset(out, 0, sizeof *out);
    char *d = CC_ARRAY(c, char, n + 1);
    size_t i = 0;
    uint32_t k = 0;
    int64_t exp = 0;
    bool frac = false;
    if (i < n && s[i] == '-')
        out->neg = true, i++;
    for (; i < n && s[i] != 'e' && s[i] != 'E'; i++) {
        if (s[i] == '.') {
            frac = true;
            continue;
        }
        if (s[i] < '0' || s[i] > '9')
            return false;
        if (k || s[i] != '0')
            d[k++] = s[i];
        if (frac)
            exp--;
    }
    if (i < n) {
        bool neg = false;
        int64_t e = 0;
        i++;
        if (i < n && (s[i] == '+' || s[i] == '-'))
            neg = s[i++] == '-';
        for (; i < n; i++) {
            if (s[i] < '0' || s[i] > '9')
                return false;
            if (e < 100000000)
                e = e * 10 + (s[i] - '0');
        }
        exp += neg ? -e : e;
    }
    while (k && d[k - 1] == '0')
        k--, exp++;
    out->d = d;
    out->n = k;
    out->exp = k ? exp : 0;
    if (!k)
        out->neg = false;
    return exp >= -DEC_EXP_MAX && exp <= DEC_EXP_MAX;
}

static int mag_cmp(const dec *a, const dec *b)
{
    if (!a->n || !b->n)
        return (a->n != 0) - (b->n != 0);
    int64_t pa = a->n + a->exp, pb = b->n + b->exp;
    if (pa != pb)
        return pa < pb ? -1 : 1;
    uint32_t m = a->n < b->n ? a->n : b->n;
    int r = memcmp(a->d, b->d, m);
    if (r)
        return r < 0 ? -1 : 1;
    return a->n < b->n ? -1 : a->n > b->n;
}

int dec_cmp(const dec *a, const dec *b)
{
    if (a->neg != b->neg)
        return a->neg ? -1 : 1;
    return a->neg ? -mag_cmp(a, b) : mag_cmp(a, b);
}

bool dec_is_int(const dec *a) { return a->exp >= 0; }

bool num_empty_quick(const num_con *n)
{
    if (n->only_int && n->only_frac)
        return true;
    if (!n->has_lo || !n->has_hi)
        return false;
    int r = dec_cmp(&n->lo, &n->hi);
    return r > 0 || (r == 0 && (n->lo_open || n->hi_open));
}

/* ---- the automaton ---------------------------------------------------------------------------------------------- */
#define MULT_MAX 4
enum { P_START, P_MINUS, P_ZERO, P_INT, P_DOT, P_FRAC, P_E, P_ESIGN, P_EXP };

typedef struct nst {
    uint8_t phase, neg, nz, fnz, last0, eneg;
    uint8_t ed, e1, e2;  /* digits of the exponent, the first, the second (when they matter) */
    int8_t c[2], s[2];   /* |text| against |lo| and |hi| so far: as plain digits, as mantissa */
    uint16_t k, f, ev;   /* integer digits, fraction digits, exponent (all clamped) */
    uint32_t r[MULT_MAX];
} nst;

typedef struct nctx {
    const num_con *n;
    const dec *b[2];     /* bounds tracked: lo, hi; NULL when their magnitude does not matter */
    int64_t point[2];    /* integer digits of the bound (may be negative) */
    uint16_t k_max, f_max, e_max;
    bool exp_any, exp_norm;
    unsigned n_mult;
    uint32_t m[MULT_MAX], scale[MULT_MAX];
    bool mneg[MULT_MAX], zero_ok;
    bool plain;
} nctx;

static int digit_at(const dec *b, int64_t i) { return i >= 0 && i < b->n ? b->d[i] - '0' : 0; }

static void feed_mult(const nctx *x, nst *t, int d, bool frac)
{
    for (unsigned i = 0; i < x->n_mult; i++) {
        if (t->r[i] == DEAD)
            continue;
        if (frac && t->f >= x->scale[i]) {
            if (d)
                t->r[i] = DEAD; /* finer than the multiple: never one */
            continue;
        }
        t->r[i] = (uint32_t)(((uint64_t)t->r[i] * 10 + (unsigned)d) % x->m[i]);
    }
}

static bool num_step(void *arg, const void *from, char ch, void *to)
{
    const nctx *x = arg;
    nst *t = to;
    memcpy(t, from, sizeof *t);
    bool digit = ch >= '0' && ch <= '9';
    int d = ch - '0';
    switch (t->phase) {
    case P_START:
        if (ch == '-') {
            t->phase = P_MINUS;
            t->neg = 1;
            return true;
        } /* fallthrough */
    case P_MINUS:
        if (ch == '0') {
            t->phase = P_ZERO;
            for (int i = 0; i < 2; i++)
                t->s[i] = -1;
            return true;
        } /* fallthrough */
    case P_INT:
        if (digit) {
            t->phase = P_INT;
            t->nz = 1;
            for (int i = 0; i < 2; i++)
                if (x->b[i]) {
                    if (!t->c[i] && t->k < x->k_max) {
                        int o = digit_at(x->b[i], t->k);
                        t->c[i] = (int8_t)((d > o) - (d < o));
                    }
                    if (!t->k) {
                        int o = digit_at(x->b[i], 0);
                        t->s[i] = (int8_t)((d > o) - (d < o));
                    } else {
                        t->s[i] = 0; /* two integer digits: no longer a mantissa */
                    }
                }
            if (t->k < x->k_max)
                t->k++;
            feed_mult(x, t, d, false);
            return true;
        }
        if (t->phase != P_INT)
            return false; /* fallthrough */
    case P_ZERO:
        if (ch == '.') {
            if (x->n->only_int && (x->plain || x->n->canonical))
                return false;
            t->phase = P_DOT;
            /* The integer part is known: settle the comparison by length. */
            for (int i = 0; i < 2; i++)
                if (x->b[i]) {
                    int64_t p = x->point[i] > 0 ? x->point[i] : 0;
                    if (t->k != p)
                        t->c[i] = t->k < p ? -1 : 1;
                }
            return true;
        }
        break;
    case P_DOT:
    case P_FRAC:
        if (digit) {
            if (d && x->n->only_int)
                return false;
            t->phase = P_FRAC;
            for (int i = 0; i < 2; i++)
                if (x->b[i]) {
                    if (!t->c[i]) { /* past f_max both are past the bound's digits */
                        int o = digit_at(x->b[i], x->point[i] + t->f);
                        t->c[i] = (int8_t)((d > o) - (d < o));
                    }
                    if (t->k == 1 && !t->s[i]) {
                        int o = digit_at(x->b[i], 1 + t->f);
                        t->s[i] = (int8_t)((d > o) - (d < o));
                    }
                }
            feed_mult(x, t, d, true);
            if (t->f < x->f_max)
                t->f++;
            if (d)
                t->nz = t->fnz = 1;
            t->last0 = d == 0 && x->n->canonical;
            return true;
        }
        if (t->phase == P_DOT)
            return false;
        break;
    case P_E:
        if (ch == '+' || ch == '-') {
            t->phase = P_ESIGN;
            t->eneg = ch == '-';
            return true;
        } /* fallthrough */
    case P_ESIGN:
    case P_EXP:
        if (!digit)
            return false;
        t->phase = P_EXP;
        if (t->ed == 3 || (t->ed == 2 && (t->e1 > 3 || (t->e1 == 3 && (t->e2 || d > 7)))))
            return false;
        if (!t->ed)
            t->e1 = (uint8_t)(d < 3 ? 0 : d == 3 ? 3 : 4);
        else if (t->ed == 1 && t->e1 == 3)
            t->e2 = d != 0;
        t->ed++;
        if (!x->exp_any) {
            uint32_t v = (uint32_t)t->ev * 10 + (uint32_t)d;
            t->ev = (uint16_t)(v > x->e_max ? x->e_max : v);
        } else {
            t->eneg = 0;
        }
        return true;
    default: return false;
    }
    if (ch == 'e' || ch == 'E') { /* from ZERO, INT, FRAC */
        if (!(x->exp_any || (x->exp_norm && t->k == 1)))
            return false;
        /* The mantissa is settled: what the bound has left makes it greater. */
        for (int i = 0; i < 2; i++)
            if (x->b[i] && !t->s[i] && (uint32_t)1 + t->f < x->b[i]->n)
                t->s[i] = -1;
        t->phase = P_E;
        t->c[0] = t->c[1] = 0;
        t->f = 0;
        t->k = 0;
        t->last0 = t->fnz = 0;
        return true;
    }
    return false;
}

/* |text| against bound i: -1, 0, 1. */
static int settled(const nctx *x, const nst *t, int i)
{
    if (t->phase == P_EXP) {
        int64_t e = t->eneg ? -(int64_t)t->ev : t->ev, eb = x->point[i] - 1;
        return e != eb ? (e < eb ? -1 : 1) : t->s[i];
    }
    int c = t->c[i];
    if (t->phase == P_INT || t->phase == P_ZERO) {
        int64_t p = x->point[i] > 0 ? x->point[i] : 0;
        if (t->k != p)
            return t->k < p ? -1 : 1;
    }
    if (c)
        return c;
    return x->point[i] + t->f < x->b[i]->n ? -1 : 0;
}

static bool num_accept(void *arg, const void *state)
{
    const nctx *x = arg;
    const nst *t = state;
    const num_con *n = x->n;
    if (t->phase != P_ZERO && t->phase != P_INT && t->phase != P_FRAC && t->phase != P_EXP)
        return false;
    if (t->last0 || (n->canonical && t->neg && !t->nz))
        return false;
    if (n->only_frac && (!t->fnz || t->phase == P_EXP))
        return false;
    for (unsigned i = 0; i < x->n_mult; i++) {
        bool is = false;
        if (t->r[i] != DEAD) {
            uint64_t r = t->r[i];
            for (uint32_t f = t->f; f < x->scale[i]; f++)
                r = r * 10 % x->m[i];
            is = r == 0;
        }
        if (is == x->mneg[i])
            return false;
    }
    if (!t->nz)
        return x->zero_ok;
    if (n->has_lo) {
        if (t->neg ? !n->lo.neg : false)
            return false;
        if (!t->neg == !n->lo.neg && n->lo.n) {
            int r = settled(x, t, 0);
            if (t->neg)
                r = -r;
            if (r < 0 || (r == 0 && n->lo_open))
                return false;
        }
    }
    if (n->has_hi) {
        if (!t->neg && (n->hi.neg || !n->hi.n))
            return false;
        if (!t->neg == !n->hi.neg && n->hi.n) {
            int r = settled(x, t, 1);
            if (t->neg)
                r = -r;
            if (r > 0 || (r == 0 && n->hi_open))
                return false;
        }
    }
    return true;
}

cdfa *num_dfa(cc *c, const num_con *n, const char *where)
{
    if (num_empty_quick(n))
        return NULL;
    nctx x = {.n = n, .plain = c->o.plain_integers, .zero_ok = true};
    const dec zero = {0};
    int64_t kmax = 1, fmax = 1, emax = 1;
    if (n->has_lo) {
        int r = dec_cmp(&zero, &n->lo);
        x.zero_ok = r > 0 || (r == 0 && !n->lo_open);
        x.b[0] = n->lo.n ? &n->lo : NULL;
    }
    if (n->has_hi) {
        int r = dec_cmp(&zero, &n->hi);
        x.zero_ok = x.zero_ok && (r < 0 || (r == 0 && !n->hi_open));
        x.b[1] = n->hi.n ? &n->hi : NULL;
    }
    for (int i = 0; i < 2; i++)
        if (x.b[i]) {
            const dec *b = x.b[i];
            x.point[i] = b->n + b->exp;
            int64_t frac = b->exp < 0 ? -b->exp : 0, e = x.point[i] < 0 ? -x.point[i] : x.point[i];
            kmax = x.point[i] + 1 > kmax ? x.point[i] + 1 : kmax;
            fmax = frac + 1 > fmax ? frac + 1 : fmax;
            fmax = (int64_t)b->n + 1 > fmax ? (int64_t)b->n + 1 : fmax;
            emax = e + 3 > emax ? e + 3 : emax;
        }
    if (x.b[0] || x.b[1])
        kmax = kmax < 2 ? 2 : kmax; /* one integer digit must be told from two */
    for (const num_multiple *m = n->mult; m; m = m->next) {
        if (x.n_mult == MULT_MAX)
            cc_fail(c, IMP_E_LIMIT, "%s: more than %d multipleOf at once", where, MULT_MAX);
        uint64_t a = 0;
        uint32_t scale = m->m.exp < 0 ? (uint32_t)-m->m.exp : 0;
        for (uint32_t i = 0; i < m->m.n && a < 1u << 30; i++)
            a = a * 10 + (unsigned)(m->m.d[i] - '0');
        for (int64_t i = 0; i < m->m.exp && a < 1u << 30; i++)
            a *= 10;
        if (a >= 1u << 30 || scale > 200)
            cc_fail(c, IMP_E_LIMIT, "%s: multipleOf: too large or too fine to be enforced", where);
        x.m[x.n_mult] = (uint32_t)a;
        x.scale[x.n_mult] = scale;
        x.mneg[x.n_mult++] = m->neg;
        fmax = scale + 1 > fmax ? scale + 1 : fmax;
    }
    if (kmax > 6000 || fmax > 6000 || emax > 6000)
        cc_fail(c, IMP_E_LIMIT, "%s: a number of more than 6000 digits", where);
    x.k_max = (uint16_t)kmax;
    x.f_max = (uint16_t)fmax;
    x.e_max = (uint16_t)emax;
    bool exact = n->only_int || n->only_frac || n->mult || n->canonical;
    x.exp_any = !exact && !x.b[0] && !x.b[1];
    x.exp_norm = !exact;
    nst start = {0};
    dfa_spec s = {.symbols = "0123456789-.eE+", .state_size = sizeof start, .step = num_step, .accept = num_accept,
                  .arg = &x};
    return dfa_from_spec(c, &s, &start);
}

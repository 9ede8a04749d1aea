/* Sets of code points: sorted ranges, and the Unicode properties that \p{..} names. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/ck.h"
#include "constrain/constrain_impl.h"

void cpset_add(cc *c, cpset *s, uint32_t lo, uint32_t hi)
{
    cprange r = {lo, hi};
    CC_PUSH(c, s->r, s->n, s->cap, r);
}

void cpset_add_set(cc *c, cpset *s, const cpset *o)
{
    for (size_t i = 0; i < o->n; i++)
        cpset_add(c, s, o->r[i].lo, o->r[i].hi);
}

static int by_lo(const void *a, const void *b)
{
    const cprange *x = a, *y = b;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

void cpset_norm(cpset *s)
{
    if (!s->n)
        return;
    bool sorted = true;
    for (size_t i = 1; i < s->n && sorted; i++)
        sorted = s->r[i - 1].lo <= s->r[i].lo;
    if (!sorted)
        qsort(s->r, s->n, sizeof *s->r, by_lo);
    size_t k = 0;
    for (size_t i = 1; i < s->n; i++) {
        if (s->r[i].lo <= s->r[k].hi || s->r[i].lo == s->r[k].hi + 1) {
            if (s->r[i].hi > s->r[k].hi)
                s->r[k].hi = s->r[i].hi;
        } else {
            s->r[++k] = s->r[i];
        }
    }
    s->n = k + 1;
}

void cpset_invert(cc *c, cpset *s)
{
    cpset out = {0};
    uint32_t at = 0;
    cpset_norm(s);
    for (size_t i = 0; i < s->n; i++) {
        if (s->r[i].lo > at)
            cpset_add(c, &out, at, s->r[i].lo - 1);
        at = s->r[i].hi + 1;
    }
    if (at <= CP_MAX)
        cpset_add(c, &out, at, CP_MAX);
    *s = out;
}

/* One row a property: short name, long name, bit map over utf8proc's general categories. */
#define CAT(x) (1u << UTF8PROC_CATEGORY_##x)
static const struct prop {
    const char *name, *alias;
    uint32_t cats;
} props[] = {
    {"L", "Letter", CAT(LU) | CAT(LL) | CAT(LT) | CAT(LM) | CAT(LO)},
    {"Lu", "Uppercase_Letter", CAT(LU)},
    {"Ll", "Lowercase_Letter", CAT(LL)},
    {"Lt", "Titlecase_Letter", CAT(LT)},
    {"Lm", "Modifier_Letter", CAT(LM)},
    {"Lo", "Other_Letter", CAT(LO)},
    {"M", "Mark", CAT(MN) | CAT(MC) | CAT(ME)},
    {"Mn", "Nonspacing_Mark", CAT(MN)},
    {"Mc", "Spacing_Mark", CAT(MC)},
    {"Me", "Enclosing_Mark", CAT(ME)},
    {"N", "Number", CAT(ND) | CAT(NL) | CAT(NO)},
    {"Nd", "Decimal_Number", CAT(ND)},
    {"Nd", "digit", CAT(ND)},
    {"Nl", "Letter_Number", CAT(NL)},
    {"No", "Other_Number", CAT(NO)},
    {"P", "Punctuation", CAT(PC) | CAT(PD) | CAT(PS) | CAT(PE) | CAT(PI) | CAT(PF) | CAT(PO)},
    {"Pc", "Connector_Punctuation", CAT(PC)},
    {"Pd", "Dash_Punctuation", CAT(PD)},
    {"Ps", "Open_Punctuation", CAT(PS)},
    {"Pe", "Close_Punctuation", CAT(PE)},
    {"Pi", "Initial_Punctuation", CAT(PI)},
    {"Pf", "Final_Punctuation", CAT(PF)},
    {"Po", "Other_Punctuation", CAT(PO)},
    {"S", "Symbol", CAT(SM) | CAT(SC) | CAT(SK) | CAT(SO)},
    {"Sm", "Math_Symbol", CAT(SM)},
    {"Sc", "Currency_Symbol", CAT(SC)},
    {"Sk", "Modifier_Symbol", CAT(SK)},
    {"So", "Other_Symbol", CAT(SO)},
    {"Z", "Separator", CAT(ZS) | CAT(ZL) | CAT(ZP)},
    {"Zs", "Space_Separator", CAT(ZS)},
    {"Zl", "Line_Separator", CAT(ZL)},
    {"Zp", "Paragraph_Separator", CAT(ZP)},
    {"Cc", "Control", CAT(CC)},
    {"Cf", "Format", CAT(CF)},
};

bool cpset_add_property(cc *c, cpset *s, const char *name, size_t n)
{
    static const char gc[] = "General_Category=", gcs[] = "gc=";
    if (n > sizeof gc - 1 && !memcmp(name, gc, sizeof gc - 1))
        name += sizeof gc - 1, n -= sizeof gc - 1;
    else if (n > sizeof gcs - 1 && !memcmp(name, gcs, sizeof gcs - 1))
        name += sizeof gcs - 1, n -= sizeof gcs - 1;
    for (size_t i = 0; i < CK_COUNT(props); i++) {
        const struct prop *p = &props[i];
        if (!((strlen(p->name) == n && !memcmp(p->name, name, n)) ||
              (strlen(p->alias) == n && !memcmp(p->alias, name, n))))
            continue;
        cc_work(c, 400000);
        uint32_t lo = INF;
        for (uint32_t cp = 0; cp <= CP_MAX + 1; cp++) {
            bool in = cp <= CP_MAX && (p->cats >> utf8proc_category((utf8proc_int32_t)cp) & 1);
            if (in && lo == INF)
                lo = cp;
            if (!in && lo != INF) {
                cpset_add(c, s, lo, cp - 1);
                lo = INF;
            }
        }
        return true;
    }
    return false;
}

/* Adds the simple case partners; ASCII ranges fast, the rest by table. */
void cpset_fold_case(cc *c, cpset *s)
{
    cpset_norm(s);
    size_t n = s->n;
    for (size_t i = 0; i < n; i++) {
        cprange r = s->r[i];
        if (r.hi - r.lo > 0x3000)
            continue; /* a negated class: holds both cases of nearly everything */
        for (uint32_t cp = r.lo; cp <= r.hi; cp++) {
            uint32_t u = (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp);
            uint32_t l = (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
            if (u != cp)
                cpset_add(c, s, u, u);
            if (l != cp)
                cpset_add(c, s, l, l);
        }
    }
    cpset_norm(s);
}

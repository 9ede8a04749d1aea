/* Unicode as Python's str methods see it: character classes, case mapping, stripping. */
#include <utf8proc.h>

#include "text/jinja_impl.h"

typedef struct case_row {
    uint32_t cp, to[3];
} case_row;
#include "text/jinja_case.inc"

bool ju_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1C && cp <= 0x20) || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F ||
           cp == 0x3000;
}

static utf8proc_category_t category(uint32_t cp) { return utf8proc_category((utf8proc_int32_t)cp); }

bool ju_printable(uint32_t cp)
{
    if (cp < 0x7F)
        return cp >= 0x20;
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_CC: case UTF8PROC_CATEGORY_CF: case UTF8PROC_CATEGORY_CS: case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN: case UTF8PROC_CATEGORY_ZL: case UTF8PROC_CATEGORY_ZP: case UTF8PROC_CATEGORY_ZS:
        return false;
    default: return true;
    }
}

bool ju_alpha(uint32_t cp)
{
    utf8proc_category_t k = category(cp);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT ||
           k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_LO;
}

bool ju_decimal(uint32_t cp) { return category(cp) == UTF8PROC_CATEGORY_ND; }

/* Superscripts, circled and similar digits: Numeric_Type=Digit without being decimal. */
bool ju_digit(uint32_t cp)
{
    return ju_decimal(cp) || cp == 0xB2 || cp == 0xB3 || cp == 0xB9 || (cp >= 0x1369 && cp <= 0x1371) ||
           cp == 0x19DA || cp == 0x2070 || (cp >= 0x2074 && cp <= 0x2079) || (cp >= 0x2080 && cp <= 0x2089) ||
           (cp >= 0x2460 && cp <= 0x2468) || (cp >= 0x2474 && cp <= 0x247C) || (cp >= 0x2488 && cp <= 0x2490) ||
           cp == 0x24EA || (cp >= 0x24F5 && cp <= 0x24FD) || cp == 0x24FF || (cp >= 0x2776 && cp <= 0x277E) ||
           (cp >= 0x2780 && cp <= 0x2788) || (cp >= 0x278A && cp <= 0x2792) || (cp >= 0x1F100 && cp <= 0x1F10A);
}

bool ju_numeric(uint32_t cp)
{
    static const char han[] = "一二三四五六七八九十百千万億兆零〇壹貳參肆伍陸柒捌玖拾";
    utf8proc_category_t k = category(cp);
    if (k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO)
        return true;
    if (cp < 0x3000 || cp > 0x9FFF)
        return false;
    jstr s = {.s = han, .n = sizeof han - 1};
    for (size_t i = 0, n; i < s.n; i += n)
        if (js_cp(&s, i, &n) == cp)
            return true;
    return false;
}

bool ju_title_p(uint32_t cp) { return category(cp) == UTF8PROC_CATEGORY_LT; }
/* Other_Uppercase, Other_Lowercase: letter-like numbers and symbols, feminine and masculine ordinals, modifiers. */
bool ju_upper_p(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_LU || (cp >= 0x2160 && cp <= 0x216F) || (cp >= 0x24B6 && cp <= 0x24CF);
}
bool ju_lower_p(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_LL || cp == 0xAA || cp == 0xBA || (cp >= 0x02B0 && cp <= 0x02B8) ||
           cp == 0x0345 || (cp >= 0x1D2C && cp <= 0x1D6A) || (cp >= 0x2170 && cp <= 0x217F) ||
           (cp >= 0x24D0 && cp <= 0x24E9);
}
bool ju_word(uint32_t cp) { return cp == '_' || ju_alpha(cp) || ju_numeric(cp); }

static bool cased(uint32_t cp) { return ju_upper_p(cp) || ju_lower_p(cp) || ju_title_p(cp); }

static const case_row *row_find(const case_row *t, size_t n, uint32_t cp)
{
    size_t lo = 0;
    while (lo < n) {
        size_t mid = (lo + n) / 2;
        if (t[mid].cp == cp)
            return &t[mid];
        if (t[mid].cp < cp)
            lo = mid + 1;
        else
            n = mid;
    }
    return NULL;
}

typedef enum one_case { ONE_UPPER, ONE_TITLE, ONE_LOWER } one_case;

static void put_case(jbuf *b, uint32_t cp, one_case how, bool t)
{
    static const case_row *const tab[] = {case_upper, case_title, case_lower};
    static const size_t n[] = {sizeof case_upper / sizeof(case_row), sizeof case_title / sizeof(case_row),
                               sizeof case_lower / sizeof(case_row)};
    const case_row *r = cp < 0x80 ? NULL : row_find(tab[how], n[how], cp);
    if (r) {
        for (int i = 0; i < 3 && r->to[i]; i++)
            jb_cp(b, r->to[i], t);
        return;
    }
    utf8proc_int32_t k = (utf8proc_int32_t)cp;
    k = how == ONE_UPPER ? utf8proc_toupper(k) : how == ONE_TITLE ? utf8proc_totitle(k) : utf8proc_tolower(k);
    jb_cp(b, (uint32_t)k, t);
}

static bool case_ignorable(uint32_t cp)
{
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_ME: case UTF8PROC_CATEGORY_CF: case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK: return true;
    default: return cp == '\'' || cp == '.' || cp == ':' || cp == 0xB7 || cp == 0x2018 || cp == 0x2019 || cp == 0x2024;
    }
}

/* A capital sigma at the end of a word becomes the final form. */
static bool final_sigma(const jstr *s, size_t at, size_t len)
{
    size_t k;
    bool before = false, after = false;
    for (size_t i = at; i > 0;) {
        for (i--; i > 0 && ((unsigned char)s->s[i] & 0xC0) == 0x80; i--)
            ;
        uint32_t cp = js_cp(s, i, &k);
        if (!case_ignorable(cp)) {
            before = cased(cp);
            break;
        }
    }
    for (size_t i = at + len; i < s->n; i += k) {
        uint32_t cp = js_cp(s, i, &k);
        if (!case_ignorable(cp)) {
            after = cased(cp);
            break;
        }
    }
    return before && !after;
}

static void put_lower(jbuf *b, const jstr *s, size_t i, size_t k, uint32_t cp)
{
    if (cp == 0x3A3) {
        jx_step(b->c, 4); /* looking around costs */
        jb_cp(b, final_sigma(s, i, k) ? 0x3C2 : 0x3C3, js_taint_at(s, i));
    } else {
        put_case(b, cp, ONE_LOWER, js_taint_at(s, i));
    }
}

static void put_fold(jbuf *b, uint32_t cp, bool t)
{
    utf8proc_int32_t out[8];
    int last = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, out, 8, UTF8PROC_CASEFOLD, &last);
    if (n < 1 || n > 8)
        jb_cp(b, cp, t);
    else
        for (utf8proc_ssize_t i = 0; i < n; i++)
            jb_cp(b, (uint32_t)out[i], t);
}

const jstr *ju_convert(jx *c, const jstr *s, ju_case how)
{
    jbuf b = {.c = c, .markup = s->markup};
    bool prev_cased = false;
    jx_step(c, s->n / 8);
    for (size_t i = 0, k; i < s->n; i += k) {
        uint32_t cp = js_cp(s, i, &k);
        bool t = js_taint_at(s, i);
        switch (how) {
        case JU_UPPER: put_case(&b, cp, ONE_UPPER, t); break;
        case JU_LOWER: put_lower(&b, s, i, k, cp); break;
        case JU_FOLD: put_fold(&b, cp, t); break;
        case JU_CAPITALIZE:
            if (i == 0)
                put_case(&b, cp, ONE_TITLE, t);
            else
                put_lower(&b, s, i, k, cp);
            break;
        case JU_TITLE:
            if (prev_cased)
                put_lower(&b, s, i, k, cp);
            else
                put_case(&b, cp, ONE_TITLE, t);
            prev_cased = cased(cp);
            break;
        case JU_SWAP:
            if (ju_upper_p(cp))
                put_lower(&b, s, i, k, cp);
            else if (ju_lower_p(cp))
                put_case(&b, cp, ONE_UPPER, t);
            else
                jb_cp(&b, cp, t);
            break;
        }
    }
    return jb_done(&b);
}

static bool strips(uint32_t cp, const jstr *chars)
{
    if (!chars)
        return ju_space(cp);
    for (size_t i = 0, k; i < chars->n; i += k)
        if (js_cp(chars, i, &k) == cp)
            return true;
    return false;
}

const jstr *ju_strip(jx *c, const jstr *s, const jstr *chars, bool left, bool right)
{
    size_t from = 0, to = s->n, k, cost = chars ? chars->n : 1;
    while (left && from < to && strips(js_cp(s, from, &k), chars))
        from += k;
    while (right && to > from) {
        size_t i = to - 1;
        while (i > from && ((unsigned char)s->s[i] & 0xC0) == 0x80)
            i--;
        if (!strips(js_cp(s, i, &k), chars))
            break;
        to = i;
    }
    jx_step(c, (from + s->n - to) * cost / 16);
    return from == 0 && to == s->n ? s : js_sub(c, s, from, to);
}

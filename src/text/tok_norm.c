/* Normalizers: what happens to the text before it is cut. Each reads one buffer and fills another; the two take turns.
 * Canonical ordering is our own (counting sort on long runs of combining marks), because the library's is quadratic
 * there; decomposition and composition data come from utf8proc. */
#include <utf8proc.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_impl.h"

imp_status tok_norm_add(tok *t, tok_norm n, const char *file, imp_err *e)
{
    if (t->n_norm == TOK_MAX_NORMS) {
        pcre2_code_free(n.re);
        return err_set(e, IMP_E_UNSUPPORTED, "%s: tokenizer: more than %d normalizers", file, TOK_MAX_NORMS);
    }
    t->norm[t->n_norm++] = n;
    return IMP_OK;
}

static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static bool is_mark(uint32_t c, bool only_mn)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_MN || (!only_mn && (k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME));
}

/* ---- NFC, NFD, NFKC, NFKD ---------------------------------------------------------------------------------------- */
typedef struct cps {
    utf8proc_int32_t *v;
    size_t n, cap;
} cps;

static bool cps_room(cps *b, size_t n)
{
    if (b->cap - b->n >= n)
        return true;
    size_t cap = b->cap * 2 + n + 64;
    utf8proc_int32_t *p = mem_realloc(b->v, cap * sizeof *p);
    if (!p)
        return false;
    b->v = p;
    b->cap = cap;
    return true;
}

static unsigned ccc(utf8proc_int32_t c) { return (unsigned)utf8proc_get_property(c)->combining_class; }

/* Stable sort of a run of combining marks by class. */
static bool order_run(utf8proc_int32_t *v, size_t n)
{
    if (n <= 32) {
        for (size_t i = 1; i < n; i++) {
            utf8proc_int32_t c = v[i];
            unsigned k = ccc(c);
            size_t j = i;
            for (; j && ccc(v[j - 1]) > k; j--)
                v[j] = v[j - 1];
            v[j] = c;
        }
        return true;
    }
    utf8proc_int32_t *tmp = mem_alloc(n * sizeof *tmp);
    if (!tmp)
        return false;
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++)
        at[ccc(v[i]) + 1]++;
    for (size_t k = 1; k < 257; k++)
        at[k] += at[k - 1];
    memcpy(tmp, v, n * sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[at[ccc(tmp[i])]++] = tmp[i];
    mem_free(tmp);
    return true;
}

static bool decompose(cps *b, const char *s, size_t n, bool compat)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += utf8_get(s + i, n - i, &cp, NULL);
        if (!cps_room(b, 32))
            return false;
        int bound = 0;
        utf8proc_option_t opt = (utf8proc_option_t)(UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0));
        utf8proc_ssize_t k =
            utf8proc_decompose_char((utf8proc_int32_t)cp, b->v + b->n, (utf8proc_ssize_t)(b->cap - b->n), opt, &bound);
        if (k < 0 || (size_t)k > b->cap - b->n)
            return false;
        b->n += (size_t)k;
    }
    for (size_t i = 0; i < b->n;) {
        size_t j = i;
        while (j < b->n && ccc(b->v[j]))
            j++;
        if (j > i + 1 && !order_run(b->v + i, j - i))
            return false;
        i = j > i ? j : i + 1;
    }
    return true;
}

/* Below U+0300 there is nothing to compose, and ASCII never changes. */
static bool unchanged(tok_norm_kind k, const char *s, size_t n)
{
    unsigned limit = k == NORM_NFC ? 0xCC : 0x80;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] >= limit)
            return false;
    return true;
}

static bool nf(tok_norm_kind k, const char *s, size_t n, strbuf *out)
{
    cps b = {0};
    bool ok = decompose(&b, s, n, k == NORM_NFKC || k == NORM_NFKD);
    if (ok && (k == NORM_NFC || k == NORM_NFKC) && b.n) {
        utf8proc_ssize_t m = utf8proc_normalize_utf32(b.v, (utf8proc_ssize_t)b.n,
                                                      (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
        ok = m >= 0;
        b.n = ok ? (size_t)m : 0;
    }
    for (size_t i = 0; ok && i < b.n; i++)
        sb_utf8(out, (unsigned)b.v[i]);
    mem_free(b.v);
    return ok && !out->failed;
}

/* ---- the simple ones --------------------------------------------------------------------------------------------- */
static void lower(uint32_t cp, strbuf *out)
{
    if (cp == 0x130) { /* the one character whose lower case is two */
        sb_str(out, "i\xCC\x87");
        return;
    }
    sb_utf8(out, (unsigned)utf8proc_tolower((utf8proc_int32_t)cp));
}

static void replace(const tok_norm *k, const char *s, size_t n, strbuf *out)
{
    size_t last = 0;
    for (size_t i = 0; i + k->n_from <= n && k->n_from;) {
        const char *p = tok_find_str(s + i, n - i, k->from, k->n_from);
        if (!p)
            break;
        size_t at = (size_t)(p - s);
        sb_add(out, s + last, at - last);
        sb_add(out, k->to, k->n_to);
        i = last = at + k->n_from;
    }
    sb_add(out, s + last, n - last);
}

static void replace_re(tok_enc *c, const tok_norm *k, const char *s, size_t n, strbuf *out)
{
    size_t last = 0, b, e;
    for (size_t from = 0; from <= n && tok_re_next(c, k->re, s, n, from, &b, &e) == 1;) {
        sb_add(out, s + last, b - last);
        sb_add(out, k->to, k->n_to);
        last = e;
        from = e > b ? e : e + 1;
        while (from < n && ((unsigned char)s[from] & 0xC0) == 0x80)
            from++;
    }
    sb_add(out, s + last, n - last);
}

static void strip(unsigned sides, const char *s, size_t n, strbuf *out)
{
    size_t b = 0, e = n;
    uint32_t cp;
    while ((sides & 1) && b < e) {
        size_t k = utf8_get(s + b, e - b, &cp, NULL);
        if (!is_space(cp))
            break;
        b += k;
    }
    while ((sides & 2) && e > b) {
        size_t k = e - 1;
        while (k > b && ((unsigned char)s[k] & 0xC0) == 0x80)
            k--;
        utf8_get(s + k, e - k, &cp, NULL);
        if (!is_space(cp))
            break;
        e = k;
    }
    sb_add(out, s + b, e - b);
}

static bool is_cjk(uint32_t c)
{
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

static bool is_control(uint32_t c)
{
    if (c == '\t' || c == '\n' || c == '\r')
        return false;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CO;
}

static bool bert(unsigned f, const char *s, size_t n, strbuf *out)
{
    strbuf a = {0}, d = {0};
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        i += utf8_get(s + i, n - i, &cp, NULL);
        if ((f & 1) && (cp == 0 || cp == UTF8_REPLACEMENT || is_control(cp)))
            continue;
        if ((f & 1) && is_space(cp))
            cp = ' ';
        bool wide = (f & 2) && is_cjk(cp);
        if (wide)
            sb_char(&a, ' ');
        sb_utf8(&a, cp);
        if (wide)
            sb_char(&a, ' ');
    }
    bool ok = !a.failed && (!(f & 4) || nf(NORM_NFD, a.s ? a.s : "", a.n, &d));
    strbuf *src = f & 4 ? &d : &a;
    for (size_t i = 0; ok && i < src->n;) {
        i += utf8_get(src->s + i, src->n - i, &cp, NULL);
        if ((f & 4) && is_mark(cp, true))
            continue;
        if (f & 8)
            lower(cp, out);
        else
            sb_utf8(out, cp);
    }
    sb_free(&a);
    sb_free(&d);
    return ok && !out->failed;
}

static void nmt(const char *s, size_t n, strbuf *out)
{
    uint32_t c;
    for (size_t i = 0; i < n;) {
        i += utf8_get(s + i, n - i, &c, NULL);
        if ((c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F)
            continue;
        bool space = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
                     c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == UTF8_REPLACEMENT;
        sb_utf8(out, space ? ' ' : c);
    }
}

/* SentencePiece's remove_extra_whitespaces: runs of spaces become one, none at either end. */
static void spm_spaces(const char *s, size_t n, strbuf *out)
{
    bool pending = false, any = false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == ' ') {
            pending = any;
            continue;
        }
        if (pending)
            sb_char(out, ' ');
        pending = false;
        any = true;
        sb_char(out, s[i]);
    }
    for (;;) { /* it strips the end after escaping, so a literal U+2581 goes, too */
        if (out->n && out->s[out->n - 1] == ' ')
            out->n--;
        else if (out->n >= 3 && !memcmp(out->s + out->n - 3, "\xE2\x96\x81", 3))
            out->n -= 3;
        else
            break;
    }
}

/* ---- SentencePiece's precompiled map: a double-array trie over bytes, values are offsets of replacements -----------
 */
static uint32_t unit(const tok_norm *k, uint32_t i)
{
    uint32_t u = 0;
    if ((uint64_t)i * 4 + 4 <= k->n_from)
        memcpy(&u, k->from + (size_t)i * 4, 4);
    return u;
}

/* Longest entry at s; its replacement in *rep. */
static size_t map_match(const tok_norm *k, const char *s, size_t n, const char **rep)
{
    uint32_t node = 0, u = unit(k, 0);
    size_t best = 0;
    node ^= (u >> 10) << ((u & (1u << 9)) >> 6);
    for (size_t i = 0; i < n; i++) {
        uint8_t b = (uint8_t)s[i];
        if (!b)
            break;
        node ^= b;
        u = unit(k, node);
        if ((u & ((1u << 31) | 0xFF)) != b)
            break;
        node ^= (u >> 10) << ((u & (1u << 9)) >> 6);
        if (u >> 8 & 1) {
            uint32_t off = unit(k, node) & 0x7FFFFFFFu;
            if (off < k->n_to) {
                best = i + 1;
                *rep = k->to + off;
            }
        }
    }
    return best;
}

static void charsmap(const tok_norm *k, const char *s, size_t n, strbuf *out)
{
    for (size_t i = 0; i < n;) {
        const char *rep = NULL;
        size_t m = map_match(k, s + i, n - i, &rep);
        if (m) {
            sb_add(out, rep, strnlen(rep, k->n_to - (size_t)(rep - k->to)));
            i += m;
            continue;
        }
        uint32_t cp;
        size_t len = utf8_get(s + i, n - i, &cp, NULL);
        sb_add(out, s + i, len);
        i += len;
    }
}

static bool run_one(tok_enc *c, const tok_norm *k, const char *s, size_t n, strbuf *out)
{
    uint32_t cp;
    switch (k->kind) {
    case NORM_NFC: case NORM_NFD: case NORM_NFKC: case NORM_NFKD:
        return nf(k->kind, s, n, out);
    case NORM_PREPEND:
        if (n)
            sb_add(out, k->to, k->n_to);
        sb_add(out, s, n);
        break;
    case NORM_REPLACE: replace(k, s, n, out); break;
    case NORM_REPLACE_RE: replace_re(c, k, s, n, out); break;
    case NORM_STRIP: strip(k->flags, s, n, out); break;
    case NORM_BERT: return bert(k->flags, s, n, out);
    case NORM_NMT: nmt(s, n, out); break;
    case NORM_CHARSMAP: charsmap(k, s, n, out); break;
    case NORM_SPM_SPACES: spm_spaces(s, n, out); break;
    case NORM_LOWER:
        for (size_t i = 0; i < n;) {
            i += utf8_get(s + i, n - i, &cp, NULL);
            lower(cp, out);
        }
        break;
    case NORM_STRIP_ACCENTS:
        for (size_t i = 0; i < n;) {
            size_t len = utf8_get(s + i, n - i, &cp, NULL);
            if (!is_mark(cp, false))
                sb_add(out, s + i, len);
            i += len;
        }
        break;
    }
    return !out->failed;
}

bool tok_normalize(tok_enc *c, const char *s, size_t n, bool at_start, const char **out, size_t *n_out)
{
    (void)at_start;
    unsigned which = 0;
    for (uint32_t i = 0; i < c->t->n_norm; i++) {
        const tok_norm *k = &c->t->norm[i];
        if (k->kind <= NORM_NFKD && unchanged(k->kind, s, n))
            continue;
        if (k->kind == NORM_REPLACE && !tok_find_str(s, n, k->from, k->n_from))
            continue;
        strbuf *b = &c->buf[which ^= 1];
        sb_clear(b);
        if (!run_one(c, k, s, n, b)) {
            tok_enc_oom(c, "normalized text");
            return false;
        }
        s = b->s ? b->s : "";
        n = b->n;
    }
    *out = s;
    *n_out = n;
    return c->st == IMP_OK;
}

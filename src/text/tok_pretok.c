/* Pre-tokenizers: how a text is cut into words before merging. A tokenizer has a list of stages; each cuts the pieces
 * of the one before and sees nothing outside its piece, as in Hugging Face's `Sequence`. Patterns are Oniguruma's and
 * are translated for PCRE2 where the two differ. */
#include <stdio.h>

#include "base/ck.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_impl.h"

/* ---- compiling --------------------------------------------------------------------------------------------------- */
static void *re_malloc(PCRE2_SIZE n, void *user)
{
    (void)user;
    return mem_alloc(n);
}
static void re_free(void *p, void *user)
{
    (void)user;
    mem_free(p);
}

#define SPACE_SET "\\p{Z}\\t-\\r\\x{85}" /* White_Space; PCRE2's own \s also takes U+180E */

#define WORD_SET                                                                                                       \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}" /* Unicode's word characters; PCRE2's \w has no marks */

/* PCRE2 10.42 reads \p{Han} as script extensions; Oniguruma means the script itself. */
static bool is_script(const char *s, size_t n)
{
    static const char *const names[] = {"Han",      "Hiragana", "Katakana", "Hangul", "Latin",      "Cyrillic",
                                        "Greek",    "Arabic",   "Hebrew",   "Thai",   "Devanagari", "Bengali",
                                        "Tamil",    "Telugu",   "Lao",      "Khmer",  "Myanmar",    "Georgian",
                                        "Armenian", "Ethiopic", "Bopomofo", "Common"};
    for (size_t i = 0; i < CK_COUNT(names); i++)
        if (strlen(names[i]) == n && !memcmp(names[i], s, n))
            return true;
    return false;
}

typedef struct trans {
    const char *p;
    size_t n, i;
    strbuf *out;
    bool set;              /* inside [...] */
    size_t atom;           /* where the last thing that a quantifier can follow begins in out */
    size_t open[64];       /* same for groups not closed yet */
    unsigned depth;
} trans;

/* \x at t->i; false when it is malformed. */
static bool trans_escape(trans *t)
{
    const char *p = t->p;
    strbuf *out = t->out;
    char x = p[++t->i];
    if (!t->set)
        t->atom = out->n;
    if (x == 's') {
        sb_str(out, t->set ? SPACE_SET : "[" SPACE_SET "]");
    } else if (x == 'S' && !t->set) {
        sb_str(out, "[^" SPACE_SET "]");
    } else if (x == 'w') {
        sb_str(out, t->set ? WORD_SET : "[" WORD_SET "]");
    } else if (x == 'W' && !t->set) {
        sb_str(out, "[^" WORD_SET "]");
    } else if (x == 'h') {
        sb_str(out, t->set ? "0-9A-Fa-f" : "[0-9A-Fa-f]");
    } else if (x == 'u' && t->i + 4 < t->n) {
        sb_printf(out, "\\x{%.4s}", p + t->i + 1);
        t->i += 4;
    } else if ((x == 'p' || x == 'P') && t->i + 1 < t->n && p[t->i + 1] == '{') {
        const char *end = memchr(p + t->i, '}', t->n - t->i), *b = p + t->i + 2;
        if (!end)
            return false;
        bool neg = b < end && *b == '^';
        b += neg;
        size_t k = (size_t)(end - b);
        sb_printf(out, "\\%c{%s%s%.*s}", x, neg ? "^" : "", is_script(b, k) ? "sc:" : "", (int)k, b);
        t->i = (size_t)(end - p);
    } else {
        sb_char(out, '\\');
        sb_char(out, x);
    }
    return true;
}

/* X{n,m}+ is a repetition of X{n,m} in Oniguruma and possessive in PCRE2. */
static void trans_interval(trans *t)
{
    const char *end = memchr(t->p + t->i, '}', t->n - t->i);
    size_t k = end ? (size_t)(end - (t->p + t->i)) + 1 : 1;
    bool again = end && t->i + k < t->n && t->p[t->i + k] == '+' && t->i + 1 < t->n && t->p[t->i + 1] >= '0' &&
                 t->p[t->i + 1] <= '9';
    if (again && t->atom <= t->out->n) {
        strbuf tail = {0};
        sb_add(&tail, t->out->s + t->atom, t->out->n - t->atom);
        t->out->n = t->atom;
        sb_str(t->out, "(?:");
        sb_add(t->out, tail.s ? tail.s : "", tail.n);
        t->out->failed |= tail.failed;
        sb_free(&tail);
    }
    sb_add(t->out, t->p + t->i, k);
    if (again)
        sb_char(t->out, ')');
    t->i += k - 1;
}

static bool translate(const char *p, size_t n, strbuf *out)
{
    trans t = {.p = p, .n = n, .out = out};
    for (; t.i < n; t.i++) {
        char ch = p[t.i], next = t.i + 1 < n ? p[t.i + 1] : 0;
        if (ch == '\\' && next) {
            if (!trans_escape(&t))
                return false;
            continue;
        }
        if (t.set) {
            if (ch == '[' && next == ':') { /* [:alpha:] */
                const char *end = memmem(p + t.i, n - t.i, ":]", 2);
                if (!end)
                    return false;
                sb_add(out, p + t.i, (size_t)(end + 2 - p) - t.i);
                t.i = (size_t)(end + 1 - p);
                continue;
            }
            if (ch == '[' || (ch == '&' && next == '&'))
                return false; /* nested sets and intersections are not PCRE2's */
            t.set = ch != ']';
        } else if (ch == '{') {
            trans_interval(&t);
            continue;
        } else if (ch == '(') {
            if (t.depth < CK_COUNT(t.open))
                t.open[t.depth] = out->n;
            t.depth++;
        } else if (ch == ')') {
            if (t.depth && --t.depth < CK_COUNT(t.open))
                t.atom = t.open[t.depth];
        } else if (!strchr("*+?|", ch)) {
            t.atom = out->n;
            t.set = ch == '[';
        }
        sb_char(out, ch);
        if (t.set && ch == '[' &&
            (next == ']' || (next == '^' && t.i + 2 < n && p[t.i + 2] == ']'))) { /* a literal ] first */
            sb_str(out, next == ']' ? "\\]" : "^\\]");
            t.i += next == ']' ? 1 : 2;
        }
    }
    return true;
}

imp_status tok_re_compile(pcre2_code **out, const char *pat, size_t n, const char *name, imp_err *e)
{
    strbuf b = {0};
    *out = NULL;
    if (!translate(pat, n, &b) && !b.failed) {
        sb_free(&b);
        return err_set(e, IMP_E_UNSUPPORTED, "%s: tokenizer: pattern uses set operations that are not supported: %.*s",
                       name, (int)(n > 200 ? 200 : n), pat);
    }
    pcre2_general_context *g = pcre2_general_context_create(re_malloc, re_free, NULL);
    pcre2_compile_context *cc = g ? pcre2_compile_context_create(g) : NULL;
    int code = 0;
    PCRE2_SIZE off = 0;
    imp_status st = IMP_OK;
    if (b.failed || !cc) {
        st = err_oom(e, "a pattern", n);
    } else {
        pcre2_set_compile_extra_options(cc, 0);
        *out =
            pcre2_compile((PCRE2_SPTR)(b.s ? b.s : ""), b.n, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &off, cc);
        if (!*out && code == PCRE2_ERROR_HEAP_FAILED) {
            st = err_oom(e, "a pattern", n);
        } else if (!*out) {
            char why[120] = "";
            pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
            st = err_set(e, IMP_E_UNSUPPORTED, "%s: tokenizer: pattern does not compile at %zu: %s: %.*s", name,
                         (size_t)off, why, (int)(n > 200 ? 200 : n), pat);
        } else {
            pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without JIT the interpreter serves */
        }
    }
    pcre2_compile_context_free(cc);
    pcre2_general_context_free(g);
    sb_free(&b);
    return st;
}

/* ---- matching ---------------------------------------------------------------------------------------------------- */
static bool re_ready(tok_enc *c)
{
    if (c->md)
        return true;
    c->gctx = pcre2_general_context_create(re_malloc, re_free, NULL);
    c->mctx = c->gctx ? pcre2_match_context_create(c->gctx) : NULL;
    c->md = c->mctx ? pcre2_match_data_create(1, c->gctx) : NULL;
    if (!c->md) {
        tok_enc_oom(c, "pattern matching");
        return false;
    }
    pcre2_set_match_limit(c->mctx, UINT32_MAX); /* the text's length is the limit; backtracking is linear in it */
    pcre2_set_depth_limit(c->mctx, UINT32_MAX);
    pcre2_set_heap_limit(c->mctx, 1u << 20);    /* KiB */
    return true;
}

int tok_re_next(tok_enc *c, const pcre2_code *re, const char *s, size_t n, size_t from, size_t *b, size_t *e)
{
    if (c->st != IMP_OK || !re_ready(c))
        return -1;
    /* Text is valid UTF-8 already (invariant 2): checking it again for each match would make this quadratic. */
    int r = pcre2_match(re, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, c->md, c->mctx);
    if (r == PCRE2_ERROR_JIT_STACKLIMIT && !c->jit) {
        c->jit = pcre2_jit_stack_create((size_t)64 << 10, (size_t)1 << 30, c->gctx);
        if (c->jit) {
            pcre2_jit_stack_assign(c->mctx, NULL, c->jit);
            r = pcre2_match(re, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, c->md, c->mctx);
        }
    }
    if (r == PCRE2_ERROR_NOMATCH)
        return 0;
    if (r < 0) {
        char why[120] = "";
        pcre2_get_error_message(r, (PCRE2_UCHAR *)why, sizeof why);
        if (c->st == IMP_OK)
            c->st = err_set(c->e, r == PCRE2_ERROR_NOMEMORY ? IMP_E_NOMEM : IMP_E_LIMIT,
                            "tokenizer: a pre-tokenizer pattern failed at byte %zu of %zu: %s", from, n, why);
        return -1;
    }
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(c->md);
    *b = o[0];
    *e = o[1] > o[0] ? o[1] : o[0];
    return 1;
}

/* ---- running the stages ------------------------------------------------------------------------------------------ */
typedef struct piece_walk {
    tok_enc *c;
    uint32_t stage;
    bool mapped;    /* the text is in GPT-2's alphabet (a stage follows ByteLevel) */
    const char *s;
    bool at_start;
    bool have, prev_match; /* a piece is held back */
    size_t b, e;
} piece_walk;

static void run_stage(tok_enc *c, uint32_t k, const char *s, size_t n, bool at_start, bool mapped);

static void to_model(tok_enc *c, const char *s, size_t n, bool mapped)
{
    if (mapped) {
        sb_clear(&c->unmap);
        sb_add(&c->unmap, s, n);
        if (c->unmap.failed) {
            tok_enc_oom(c, "a word");
            return;
        }
        size_t k = tok_alphabet_to_bytes(s, n, c->unmap.s);
        if (k != SIZE_MAX) {
            s = c->unmap.s;
            n = k;
        }
    }
    switch (c->t->kind) {
    case TOK_KIND_BPE: tok_bpe_word(c, s, n); break;
    case TOK_KIND_SPM: tok_spm_text(c, s, n); break;
    case TOK_KIND_UNIGRAM: tok_unigram_word(c, s, n); break;
    case TOK_KIND_WORDPIECE: tok_wordpiece_word(c, s, n); break;
    }
}

static void piece_out(piece_walk *w, size_t b, size_t e)
{
    if (e > b && w->c->st == IMP_OK)
        run_stage(w->c, w->stage + 1, w->s + b, e - b, w->at_start && b == 0, w->mapped);
}

static void piece_flush(piece_walk *w)
{
    if (w->have)
        piece_out(w, w->b, w->e);
    w->have = false;
}

static void piece_hold(piece_walk *w, size_t b, size_t e)
{
    piece_flush(w);
    w->have = true;
    w->b = b;
    w->e = e;
}

static void piece_seg(piece_walk *w, tok_split how, size_t b, size_t e, bool match)
{
    if (e == b)
        return;
    bool join = false;
    switch (how) {
    case SPLIT_ISOLATED: piece_out(w, b, e); return;
    case SPLIT_REMOVED:
        if (!match)
            piece_out(w, b, e);
        return;
    case SPLIT_CONTIGUOUS: join = w->have && match == w->prev_match; break;
    case SPLIT_MERGE_PREV: join = w->have && match && !w->prev_match; break;
    case SPLIT_MERGE_NEXT: join = w->have && !match && w->prev_match; break;
    }
    w->prev_match = match;
    if (join)
        w->e = e;
    else
        piece_hold(w, b, e);
}

static void split_re(piece_walk *w, const tok_stage *g, const pcre2_code *re, size_t n)
{
    size_t last = 0, b, e;
    bool inv = g->invert;
    for (size_t from = 0; from <= n;) {
        int r = tok_re_next(w->c, re, w->s, n, from, &b, &e);
        if (r < 0)
            return;
        if (r == 0)
            break;
        piece_seg(w, g->behavior, last, b, inv);
        piece_seg(w, g->behavior, b, e, !inv);
        last = e;
        from = e;
        if (e == b) /* an empty match only marks a cut */
            for (from++; from < n && ((unsigned char)w->s[from] & 0xC0) == 0x80;)
                from++;
    }
    piece_seg(w, g->behavior, last, n, inv);
    piece_flush(w);
}

static void split_string(piece_walk *w, const tok_stage *g, size_t n)
{
    size_t last = 0;
    const char *p;
    while (g->n_str && (p = tok_find_str(w->s + last, n - last, g->str, g->n_str)) != NULL && w->c->st == IMP_OK) {
        size_t b = (size_t)(p - w->s);
        piece_seg(w, g->behavior, last, b, g->invert);
        piece_seg(w, g->behavior, b, b + g->n_str, !g->invert);
        last = b + g->n_str;
    }
    piece_seg(w, g->behavior, last, n, g->invert);
    piece_flush(w);
}

/* ByteLevel: a space in front where asked, GPT-2's pattern where asked, then bytes. The printable alphabet is only
 * written out when another stage follows, because that stage would see it. */
static void byte_level(tok_enc *c, uint32_t k, const char *s, size_t n, bool at_start, bool mapped)
{
    const tok_stage *g = &c->t->stage[k];
    strbuf pre = {0}, map = {0};
    if (g->prefix_space && n && s[0] != ' ') {
        sb_char(&pre, ' ');
        sb_add(&pre, s, n);
        s = pre.s;
        n = pre.n;
    }
    bool more = k + 1 < c->t->n_stage;
    if (pre.failed) {
        tok_enc_oom(c, "a word");
    } else if (!more || mapped) {
        piece_walk w = {.c = c, .stage = k, .mapped = mapped, .s = s, .at_start = at_start};
        if (g->re)
            split_re(&w, g, g->re, n);
        else
            piece_out(&w, 0, n);
    } else {
        size_t last = 0, b, e;
        while (last < n && c->st == IMP_OK) {
            size_t end = n;
            if (g->re && tok_re_next(c, g->re, s, n, last, &b, &e) == 1)
                end = b > last ? b : e > b ? e : n;
            sb_clear(&map);
            tok_bytes_to_alphabet(s + last, end - last, &map);
            if (map.failed)
                tok_enc_oom(c, "a word");
            else
                run_stage(c, k + 1, map.s, map.n, at_start && last == 0, true);
            last = end;
        }
    }
    sb_free(&pre);
    sb_free(&map);
}

static void metaspace(tok_enc *c, uint32_t k, const char *s, size_t n, bool at_start, bool mapped)
{
    const tok_stage *g = &c->t->stage[k];
    strbuf b = {0};
    bool starts = n >= g->n_str && !memcmp(s, g->str, g->n_str);
    if (g->prepend && n && s[0] != ' ' && !starts && (at_start || !g->only_first))
        sb_add(&b, g->str, g->n_str);
    for (size_t i = 0; i < n; i++) {
        if (s[i] == ' ')
            sb_add(&b, g->str, g->n_str);
        else
            sb_char(&b, s[i]);
    }
    if (b.failed) {
        tok_enc_oom(c, "a word");
    } else if (n) {
        piece_walk w = {.c = c, .stage = k, .mapped = mapped, .s = b.s, .at_start = at_start};
        tok_stage cut = {.behavior = SPLIT_MERGE_NEXT, .str = g->str, .n_str = g->n_str};
        if (g->split)
            split_string(&w, &cut, b.n);
        else
            piece_out(&w, 0, b.n);
    }
    sb_free(&b);
}

static void run_stage(tok_enc *c, uint32_t k, const char *s, size_t n, bool at_start, bool mapped)
{
    if (c->st != IMP_OK || !n)
        return;
    if (k == c->t->n_stage) {
        to_model(c, s, n, mapped);
        return;
    }
    const tok_stage *g = &c->t->stage[k];
    piece_walk w = {.c = c, .stage = k, .mapped = mapped, .s = s, .at_start = at_start};
    switch (g->kind) {
    case STAGE_RE: split_re(&w, g, g->re, n); break;
    case STAGE_STRING: split_string(&w, g, n); break;
    case STAGE_BYTE_LEVEL: byte_level(c, k, s, n, at_start, mapped); break;
    case STAGE_METASPACE: metaspace(c, k, s, n, at_start, mapped); break;
    }
}

void tok_pretokenize(tok_enc *c, const char *s, size_t n, bool at_start) { run_stage(c, 0, s, n, at_start, false); }

imp_status tok_stage_add(tok *t, tok_stage s, const char *file, imp_err *e)
{
    if (t->n_stage == TOK_MAX_STAGES) {
        pcre2_code_free(s.re);
        return err_set(e, IMP_E_UNSUPPORTED, "%s: tokenizer: more than %d pre-tokenizers", file, TOK_MAX_STAGES);
    }
    t->stage[t->n_stage++] = s;
    return IMP_OK;
}

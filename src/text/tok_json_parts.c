/* The components of tokenizer.json: normalizers, pre-tokenizers, post-processors, decoders. Each becomes a step of the
 * pipeline in tok_impl.h; what is not understood is refused by name. */
#include <stdio.h>

#include "base/ck.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_json.h"

#define SPM_SPACE "\xE2\x96\x81"

/* ---- small objects ----------------------------------------------------------------------------------------------- */
static void sub(tj *j, jr *r, jobj o) { jr_init(r, o.s, o.n, j->name, j->e); }

static void sub_end(tj *j, jr *r)
{
    if (r->failed && j->st == IMP_OK)
        j->st = j->e && j->e->status != IMP_OK ? j->e->status : IMP_E_PARSE;
}

bool jobj_isnull(jobj v) { return !v.s || (v.n >= 4 && !memcmp(v.s, "null", 4)); }

bool jobj_get(tj *j, jobj o, const char *key, jobj *out)
{
    jr r;
    jr_str k;
    bool found = false;
    *out = (jobj){0};
    if (j->st != IMP_OK || !o.s)
        return false;
    sub(j, &r, o);
    if (jr_peek(&r) == JR_OBJECT && jr_enter_object(&r))
        while (jr_next_key(&r, &k)) {
            if (!found && jr_key_is(&k, key)) {
                found = jr_raw(&r, &out->s, &out->n);
            } else {
                jr_skip(&r);
            }
        }
    sub_end(j, &r);
    if (found)
        while (out->n && strchr(" \t\r\n", out->s[0])) {
            out->s++;
            out->n--;
        }
    return found && j->st == IMP_OK && !jobj_isnull(*out);
}

char *jobj_str(tj *j, jobj v, size_t *n)
{
    jr r;
    jr_str s;
    strbuf b = {0};
    char *p = NULL;
    *n = 0;
    if (j->st != IMP_OK || !v.s || !v.n || v.s[0] != '"')
        return NULL;
    sub(j, &r, v);
    if (jr_string(&r, &s)) {
        jr_str_decode(&s, &b);
        p = arena_strndup(&j->t->a, b.s ? b.s : "", b.n);
        *n = b.n;
        if (!p || b.failed)
            j->st = err_oom(j->e, "tokenizer.json", b.n);
    }
    sub_end(j, &r);
    sb_free(&b);
    return p;
}

bool jobj_is(tj *j, jobj v, const char *text)
{
    (void)j;
    size_t n = strlen(text);
    while (v.n && strchr(" \t\r\n", v.s[v.n - 1]))
        v.n--;
    return v.n == n + 2 && v.s[0] == '"' && !memcmp(v.s + 1, text, n);
}

bool jobj_bool(tj *j, jobj o, const char *key, bool dflt)
{
    jobj v;
    return jobj_get(j, o, key, &v) ? v.s[0] == 't' : dflt;
}

int64_t jobj_int(tj *j, jobj o, const char *key, int64_t dflt)
{
    jobj v;
    jr r;
    if (!jobj_get(j, o, key, &v))
        return dflt;
    sub(j, &r, v);
    jr_int(&r, INT32_MIN, INT32_MAX, &dflt);
    sub_end(j, &r);
    return dflt;
}

void jobj_each(tj *j, jobj arr, void (*fn)(tj *j, jobj item, void *user), void *user)
{
    jr r;
    if (j->st != IMP_OK || !arr.s)
        return;
    sub(j, &r, arr);
    if (jr_enter_array(&r))
        while (j->st == IMP_OK && jr_next_item(&r)) {
            jobj v;
            if (!jr_raw(&r, &v.s, &v.n))
                break;
            while (v.n && strchr(" \t\r\n", v.s[0])) {
                v.s++;
                v.n--;
            }
            fn(j, v, user);
        }
    sub_end(j, &r);
}

void tj_refuse(tj *j, const char *what, jobj v)
{
    jobj type;
    if (j->st != IMP_OK)
        return;
    if (!jobj_get(j, v, "type", &type))
        type = v;
    if (j->st == IMP_OK)
        j->st = err_set(j->e, IMP_E_UNSUPPORTED, "%s: %s not supported: %.*s", j->name, what,
                        (int)(type.n > 80 ? 80 : type.n), type.s ? type.s : "");
}

typedef struct has_ctx {
    const char *key, *type;
    bool found;
} has_ctx;

static void has_item(tj *j, jobj v, void *user)
{
    has_ctx *h = user;
    jobj t;
    h->found |= jobj_get(j, v, "type", &t) && jobj_is(j, t, h->type);
}

bool tj_has_type(tj *j, jobj v, const char *list_key, const char *type)
{
    has_ctx h = {list_key, type, false};
    jobj list;
    if (jobj_isnull(v))
        return false;
    has_item(j, v, &h);
    if (!h.found && jobj_get(j, v, list_key, &list))
        jobj_each(j, list, has_item, &h);
    return h.found;
}

/* pattern: {"String": ..} or {"Regex": ..}; gives a string or a compiled pattern. */
static void get_pattern(tj *j, jobj o, const char **str, size_t *n, pcre2_code **re)
{
    jobj p, v;
    *str = NULL;
    *re = NULL;
    *n = 0;
    if (!jobj_get(j, o, "pattern", &p))
        tj_refuse(j, "a component without a pattern", o);
    else if (jobj_get(j, p, "String", &v))
        *str = jobj_str(j, v, n);
    else if (jobj_get(j, p, "Regex", &v) && (*str = jobj_str(j, v, n)) != NULL)
        j->st = tok_re_compile(re, *str, *n, j->name, j->e);
    else
        tj_refuse(j, "pattern", p);
}

/* ---- normalizers ------------------------------------------------------------------------------------------------- */
static int b64(char c)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *p = c ? strchr(set, c) : NULL;
    return p ? (int)(p - set) : -1;
}

/* Precompiled: base64 of {u32 bytes of the trie, trie, replacements}. */
static void norm_charsmap(tj *j, jobj v)
{
    jobj m;
    size_t n, k = 0;
    char *s = jobj_get(j, v, "precompiled_charsmap", &m) ? jobj_str(j, m, &n) : NULL;
    if (!s || !n)
        return; /* an empty map changes nothing */
    uint32_t acc = 0;
    int bits = 0;
    for (size_t i = 0; i < n; i++) {
        int d = b64(s[i]);
        if (d < 0)
            continue;
        acc = acc << 6 | (uint32_t)d;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            s[k++] = (char)(acc >> bits & 255);
        }
    }
    uint32_t trie = 0;
    if (k >= 4)
        memcpy(&trie, s, 4);
    if (k < 4 || trie > k - 4 || trie % 4) {
        j->st = err_set(j->e, IMP_E_PARSE, "%s: precompiled_charsmap: %zu bytes do not hold a trie of %u", j->name, k,
                        trie);
        return;
    }
    char *copy = arena_alloc(&j->t->a, k); /* aligned, and with a zero after the end */
    if (!copy) {
        j->st = err_oom(j->e, "precompiled_charsmap", k);
        return;
    }
    memcpy(copy, s + 4, k - 4);
    j->st = tok_norm_add(
        j->t, (tok_norm){.kind = NORM_CHARSMAP, .from = copy, .n_from = trie, .to = copy + trie, .n_to = k - 4 - trie},
        j->name, j->e);
}

static void norm_item(tj *j, jobj v, void *user)
{
    (void)user;
    tj_normalizer(j, v);
}

void tj_normalizer(tj *j, jobj v)
{
    static const struct {
        const char *type;
        tok_norm_kind kind;
    } plain[] = {{"NFC", NORM_NFC},   {"NFD", NORM_NFD},         {"NFKC", NORM_NFKC},
                 {"NFKD", NORM_NFKD}, {"Lowercase", NORM_LOWER}, {"StripAccents", NORM_STRIP_ACCENTS},
                 {"Nmt", NORM_NMT}};
    jobj type, x;
    tok_norm n = {0};
    if (jobj_isnull(v) || j->st != IMP_OK)
        return;
    if (!jobj_get(j, v, "type", &type)) {
        tj_refuse(j, "normalizer", v);
        return;
    }
    for (size_t i = 0; i < CK_COUNT(plain); i++)
        if (jobj_is(j, type, plain[i].type)) {
            j->st = tok_norm_add(j->t, (tok_norm){.kind = plain[i].kind}, j->name, j->e);
            return;
        }
    if (jobj_is(j, type, "Sequence")) {
        if (j->t->n_norm < TOK_MAX_NORMS && jobj_get(j, v, "normalizers", &x))
            jobj_each(j, x, norm_item, NULL);
    } else if (jobj_is(j, type, "Prepend")) {
        n.kind = NORM_PREPEND;
        n.to = jobj_get(j, v, "prepend", &x) ? jobj_str(j, x, &n.n_to) : NULL;
        if (n.to)
            j->st = tok_norm_add(j->t, n, j->name, j->e);
    } else if (jobj_is(j, type, "Replace")) {
        get_pattern(j, v, &n.from, &n.n_from, &n.re);
        n.kind = n.re ? NORM_REPLACE_RE : NORM_REPLACE;
        n.to = jobj_get(j, v, "content", &x) ? jobj_str(j, x, &n.n_to) : "";
        if (j->st == IMP_OK)
            j->st = tok_norm_add(j->t, n, j->name, j->e);
        else
            pcre2_code_free(n.re);
    } else if (jobj_is(j, type, "Strip")) {
        n.kind = NORM_STRIP;
        n.flags = (jobj_bool(j, v, "strip_left", true) ? 1u : 0) | (jobj_bool(j, v, "strip_right", true) ? 2u : 0);
        j->st = tok_norm_add(j->t, n, j->name, j->e);
    } else if (jobj_is(j, type, "BertNormalizer")) {
        bool low = jobj_bool(j, v, "lowercase", true);
        n.kind = NORM_BERT;
        n.flags = (jobj_bool(j, v, "clean_text", true) ? 1u : 0) |
                  (jobj_bool(j, v, "handle_chinese_chars", true) ? 2u : 0) |
                  (jobj_bool(j, v, "strip_accents", low) ? 4u : 0) | (low ? 8u : 0);
        j->st = tok_norm_add(j->t, n, j->name, j->e);
    } else if (jobj_is(j, type, "Precompiled")) {
        norm_charsmap(j, v);
    } else {
        tj_refuse(j, "normalizer", v);
    }
}

/* ---- pre-tokenizers ---------------------------------------------------------------------------------------------- */
static bool get_behavior(tj *j, jobj v, const char *dflt, tok_split *out)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    static const tok_split kinds[] = {SPLIT_ISOLATED, SPLIT_REMOVED, SPLIT_MERGE_PREV, SPLIT_MERGE_NEXT,
                                      SPLIT_CONTIGUOUS};
    jobj b;
    bool given = jobj_get(j, v, "behavior", &b);
    for (size_t i = 0; i < CK_COUNT(names); i++)
        if (given ? jobj_is(j, b, names[i]) : !strcmp(dflt, names[i])) {
            *out = kinds[i];
            return true;
        }
    tj_refuse(j, "split behavior", b);
    return false;
}

static void add_re(tj *j, const char *pat, tok_split how, bool invert)
{
    tok_stage s = {.kind = STAGE_RE, .behavior = how, .invert = invert};
    if (j->st == IMP_OK)
        j->st = tok_re_compile(&s.re, pat, strlen(pat), j->name, j->e);
    if (j->st == IMP_OK)
        j->st = tok_stage_add(j->t, s, j->name, j->e);
}

static void pre_byte_level(tj *j, jobj v)
{
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    tok_stage s = {.kind = STAGE_BYTE_LEVEL, .prefix_space = jobj_bool(j, v, "add_prefix_space", true)};
    if (jobj_bool(j, v, "use_regex", true) && j->st == IMP_OK)
        j->st = tok_re_compile(&s.re, gpt2, sizeof gpt2 - 1, j->name, j->e);
    if (j->st == IMP_OK)
        j->st = tok_stage_add(j->t, s, j->name, j->e);
}

static void pre_metaspace(tj *j, jobj v)
{
    jobj x;
    tok_stage s = {.kind = STAGE_METASPACE,
                   .str = SPM_SPACE,
                   .n_str = 3,
                   .prepend = true,
                   .split = jobj_bool(j, v, "split", true)};
    if (jobj_get(j, v, "replacement", &x))
        s.str = jobj_str(j, x, &s.n_str);
    if (jobj_get(j, v, "prepend_scheme", &x)) {
        s.prepend = !jobj_is(j, x, "never");
        s.only_first = jobj_is(j, x, "first");
    } else {
        s.prepend = jobj_bool(j, v, "add_prefix_space", true);
    }
    if (j->st == IMP_OK)
        j->st = tok_stage_add(j->t, s, j->name, j->e);
}

static void pre_item(tj *j, jobj v, void *user)
{
    (void)user;
    tj_pre_tokenizer(j, v);
}

void tj_pre_tokenizer(tj *j, jobj v)
{
    jobj type, x;
    tok_stage s = {0};
    if (jobj_isnull(v) || j->st != IMP_OK)
        return;
    if (!jobj_get(j, v, "type", &type)) {
        tj_refuse(j, "pre-tokenizer", v);
    } else if (jobj_is(j, type, "Sequence")) {
        if (jobj_get(j, v, "pretokenizers", &x))
            jobj_each(j, x, pre_item, NULL);
    } else if (jobj_is(j, type, "ByteLevel")) {
        pre_byte_level(j, v);
    } else if (jobj_is(j, type, "Split")) {
        if (!get_behavior(j, v, "Isolated", &s.behavior))
            return;
        s.invert = jobj_bool(j, v, "invert", false);
        get_pattern(j, v, &s.str, &s.n_str, &s.re);
        s.kind = s.re ? STAGE_RE : STAGE_STRING;
        if (j->st == IMP_OK)
            j->st = tok_stage_add(j->t, s, j->name, j->e);
        else
            pcre2_code_free(s.re);
    } else if (jobj_is(j, type, "Metaspace")) {
        pre_metaspace(j, v);
    } else if (jobj_is(j, type, "Whitespace")) {
        add_re(j, "\\w+|[^\\w\\s]+", SPLIT_REMOVED, true);
    } else if (jobj_is(j, type, "WhitespaceSplit")) {
        add_re(j, "\\s", SPLIT_REMOVED, false);
    } else if (jobj_is(j, type, "Digits")) {
        add_re(j, "\\p{N}", jobj_bool(j, v, "individual_digits", false) ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, false);
    } else if (jobj_is(j, type, "Punctuation")) {
        if (get_behavior(j, v, "Isolated", &s.behavior))
            add_re(j, "[\\p{P}$+<=>^`|~]", s.behavior, false);
    } else if (jobj_is(j, type, "BertPreTokenizer")) {
        add_re(j, "\\s", SPLIT_REMOVED, false);
        add_re(j, "[\\p{P}$+<=>^`|~]", SPLIT_ISOLATED, false);
    } else {
        tj_refuse(j, "pre-tokenizer", v);
    }
}

/* ---- post-processors --------------------------------------------------------------------------------------------- */
typedef struct post_ctx {
    jobj specials;
    int32_t pre[32], suf[32];
    size_t n_pre, n_suf;
    bool seen_text;
} post_ctx;

static void post_id(tj *j, jobj v, void *user)
{
    post_ctx *p = user;
    jr r;
    int64_t id = -1;
    sub(j, &r, v);
    jr_int(&r, 0, j->t->n - 1, &id);
    sub_end(j, &r);
    size_t *n = p->seen_text ? &p->n_suf : &p->n_pre;
    if (j->st == IMP_OK && *n == 32)
        j->st = err_set(j->e, IMP_E_UNSUPPORTED, "%s: post-processor adds more than 32 tokens", j->name);
    if (j->st == IMP_OK)
        (p->seen_text ? p->suf : p->pre)[(*n)++] = (int32_t)id;
}

static void post_piece(tj *j, jobj v, void *user)
{
    post_ctx *p = user;
    jobj x, id, def, ids;
    size_t n;
    if (jobj_get(j, v, "Sequence", &x)) {
        p->seen_text = true;
    } else if (jobj_get(j, v, "SpecialToken", &x) && jobj_get(j, x, "id", &id)) {
        char *name = jobj_str(j, id, &n);
        if (name && jobj_get(j, p->specials, name, &def) && jobj_get(j, def, "ids", &ids))
            jobj_each(j, ids, post_id, p);
        else
            tj_refuse(j, "post-processor token", v);
    } else {
        tj_refuse(j, "post-processor piece", v);
    }
}

/* "sep": ["[SEP]", 102] */
static void pair_id(tj *j, jobj v, void *user)
{
    if (v.n && v.s[0] != '"')
        post_id(j, v, user);
}

static void post_item(tj *j, jobj v, void *user)
{
    post_ctx *p = user;
    jobj type, x;
    if (jobj_isnull(v) || j->st != IMP_OK)
        return;
    if (!jobj_get(j, v, "type", &type)) {
        tj_refuse(j, "post-processor", v);
    } else if (jobj_is(j, type, "Sequence")) {
        if (jobj_get(j, v, "processors", &x))
            jobj_each(j, x, post_item, p);
    } else if (jobj_is(j, type, "TemplateProcessing")) {
        p->n_pre = p->n_suf = 0;
        p->seen_text = false;
        jobj_get(j, v, "special_tokens", &p->specials);
        if (jobj_get(j, v, "single", &x))
            jobj_each(j, x, post_piece, p);
    } else if (jobj_is(j, type, "BertProcessing") || jobj_is(j, type, "RobertaProcessing")) {
        p->n_pre = p->n_suf = 0;
        p->seen_text = false;
        if (jobj_get(j, v, "cls", &x))
            jobj_each(j, x, pair_id, p);
        p->seen_text = true;
        if (jobj_get(j, v, "sep", &x))
            jobj_each(j, x, pair_id, p);
    } else if (!jobj_is(j, type, "ByteLevel")) { /* ByteLevel only moves offsets */
        tj_refuse(j, "post-processor", v);
    }
}

void tj_post_processor(tj *j, jobj v)
{
    post_ctx p = {0};
    post_item(j, v, &p);
    if (j->st == IMP_OK)
        j->st = tok_template_set(j->t, p.pre, p.n_pre, p.suf, p.n_suf, j->e);
}

/* ---- decoders ---------------------------------------------------------------------------------------------------- */
typedef struct dec_ctx {
    struct { const char *from, *to; size_t n_from, n_to; } rep[8];
    size_t n_rep;
    bool fused, byte_level;
} dec_ctx;

static void dec_replace(tj *j, dec_ctx *d, const char *from, size_t n_from, const char *to, size_t n_to)
{
    if (d->n_rep == CK_COUNT(d->rep)) {
        j->st = err_set(j->e, IMP_E_UNSUPPORTED, "%s: more than 8 decoders of type Replace", j->name);
        return;
    }
    d->rep[d->n_rep].from = from;
    d->rep[d->n_rep].n_from = n_from;
    d->rep[d->n_rep].to = to;
    d->rep[d->n_rep++].n_to = n_to;
}

static void dec_strip(tj *j, dec_ctx *d, jobj v)
{
    jobj c;
    int64_t start = jobj_int(j, v, "start", 0), stop = jobj_int(j, v, "stop", 0);
    if (!jobj_get(j, v, "content", &c) || !jobj_is(j, c, " ") || start < 0 || start > 1 || stop != 0 || !d->fused)
        tj_refuse(j, "decoder (other than one leading space of the whole text)", v);
    else
        j->t->strip_first = start == 1;
}

static void dec_item(tj *j, jobj v, void *user)
{
    dec_ctx *d = user;
    jobj type, x;
    size_t n = 0;
    if (jobj_isnull(v) || j->st != IMP_OK)
        return;
    if (!jobj_get(j, v, "type", &type)) {
        tj_refuse(j, "decoder", v);
    } else if (jobj_is(j, type, "Sequence")) {
        if (jobj_get(j, v, "decoders", &x))
            jobj_each(j, x, dec_item, d);
    } else if (jobj_is(j, type, "ByteLevel")) {
        j->t->lossy_bytes = d->byte_level = true;
    } else if (jobj_is(j, type, "ByteFallback")) {
        j->t->dec_fallback = true;
    } else if (jobj_is(j, type, "Fuse")) {
        d->fused = true;
    } else if (jobj_is(j, type, "Strip")) {
        dec_strip(j, d, v);
    } else if (jobj_is(j, type, "Replace") && !d->fused) {
        pcre2_code *re;
        const char *from;
        size_t n_from;
        get_pattern(j, v, &from, &n_from, &re);
        char *to = jobj_get(j, v, "content", &x) ? jobj_str(j, x, &n) : NULL;
        if (re) {
            pcre2_code_free(re);
            tj_refuse(j, "decoder with a pattern", v);
        } else if (j->st == IMP_OK && n_from) {
            dec_replace(j, d, from, n_from, to ? to : "", n);
        }
    } else if (jobj_is(j, type, "Metaspace")) {
        const char *rep = jobj_get(j, v, "replacement", &x) ? jobj_str(j, x, &n) : SPM_SPACE;
        bool prefix = jobj_bool(j, v, "add_prefix_space", true);
        if (jobj_get(j, v, "prepend_scheme", &x))
            prefix = !jobj_is(j, x, "never");
        j->t->dec_metaspace = prefix ? rep : NULL;
        if (rep)
            dec_replace(j, d, rep, strlen(rep), " ", 1);
    } else if (jobj_is(j, type, "WordPiece")) {
        j->t->dec_wordpiece = true;
        j->t->dec_cleanup = jobj_bool(j, v, "cleanup", true);
        j->t->dec_prefix = jobj_get(j, v, "prefix", &x) ? jobj_str(j, x, &n) : "##";
    } else {
        tj_refuse(j, "decoder", v);
    }
}

static void out_text(const dec_ctx *d, const char *s, size_t n, strbuf *out, strbuf *tmp)
{
    sb_clear(out);
    sb_add(out, s, n);
    for (size_t k = 0; k < d->n_rep; k++) {
        sb_clear(tmp);
        size_t last = 0;
        const char *p;
        while (out->n > last && (p = memmem(out->s + last, out->n - last, d->rep[k].from, d->rep[k].n_from)) != NULL) {
            sb_add(tmp, out->s + last, (size_t)(p - out->s) - last);
            sb_add(tmp, d->rep[k].to, d->rep[k].n_to);
            last = (size_t)(p - out->s) + d->rep[k].n_from;
        }
        if (out->n > last)
            sb_add(tmp, out->s + last, out->n - last);
        strbuf t = *out;
        *out = *tmp;
        *tmp = t;
    }
}

void tj_decoder(tj *j, jobj v)
{
    tok *t = j->t;
    dec_ctx d = {0};
    dec_item(j, v, &d);
    if (j->st != IMP_OK)
        return;
    t->dec_join_space = jobj_isnull(v);
    if (d.byte_level != t->byte_level) {
        j->st =
            err_set(j->e, IMP_E_UNSUPPORTED, "%s: ByteLevel stands in only one of pre_tokenizer and decoder", j->name);
        return;
    }
    if (d.byte_level && (d.n_rep || t->dec_fallback || t->strip_first)) {
        j->st =
            err_set(j->e, IMP_E_UNSUPPORTED, "%s: decoder: ByteLevel together with others is not supported", j->name);
        return;
    }
    if (!d.n_rep && !t->dec_fallback && !j->shown)
        return;
    strbuf all = {0}, one = {0}, tmp = {0};
    uint32_t *off = ARENA_ARRAY(&t->a, uint32_t, (size_t)t->n + 1);
    for (int32_t i = 0; off && i < t->n; i++) {
        tok_word w = tok_text(t, i);
        unsigned b;
        off[i] = (uint32_t)all.n;
        if (t->dec_fallback && w.n == 6 && tok_byte_token(w, &b)) {
            t->attr[i] |= TOK_BYTE;
            sb_char(&all, (char)b);
            continue;
        }
        bool other = j->shown && j->shown[i].s;
        out_text(&d, other ? j->shown[i].s : w.s, other ? j->shown[i].n : w.n, &one, &tmp);
        if (other && t->byte_level && !one.failed && one.s) {
            size_t k = tok_alphabet_to_bytes(j->shown[i].s, j->shown[i].n, one.s);
            one.n = k == SIZE_MAX ? one.n : k;
            if (k == SIZE_MAX)
                memcpy(one.s, j->shown[i].s, one.n);
        }
        sb_add(&all, one.s ? one.s : "", one.n);
    }
    char *out = off && !all.failed && all.n < UINT32_MAX ? arena_strndup(&t->a, all.s ? all.s : "", all.n) : NULL;
    if (out) {
        off[t->n] = (uint32_t)all.n;
        t->out = out;
        t->out_off = off;
    } else {
        j->st = err_oom(j->e, "the tokens' texts", all.n);
    }
    sb_free(&all);
    sb_free(&one);
    sb_free(&tmp);
}

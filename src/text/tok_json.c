/* tokenizer.json (Hugging Face `tokenizers`), and what else a SafeTensors folder says about its tokenizer. */
#include "text/tok_json.h"

#include <stdio.h>

#include "base/ck.h"
#include "base/mem.h"

#define MAX_ID (1 << 24) /* more tokens than any vocabulary; bounds what a number in the file can make us allocate */

typedef struct vocab_entry {
    uint32_t off, len; /* in the text buffer */
    bool set, in_model;
    double score;
} vocab_entry;

typedef struct vocab {
    tj *j;
    strbuf text;
    vocab_entry *v;
    size_t n, cap; /* n: highest id + 1 */
} vocab;

static bool vocab_put(vocab *w, const jr_str *s, int64_t id, double score, bool in_model)
{
    tj *j = w->j;
    if (id < 0 || id >= MAX_ID) {
        j->st = err_set(j->e, IMP_E_LIMIT, "%s: token id %lld, wanted 0 to %d", j->name, (long long)id, MAX_ID - 1);
        return false;
    }
    size_t i = (size_t)id;
    if (i >= w->cap) {
        size_t cap = i + i / 2 + 1024;
        vocab_entry *v = mem_realloc(w->v, cap * sizeof *v);
        if (!v) {
            j->st = err_oom(j->e, "the vocabulary", cap * sizeof *v);
            return false;
        }
        memset(v + w->cap, 0, (cap - w->cap) * sizeof *v);
        w->v = v;
        w->cap = cap;
    }
    size_t off = w->text.n;
    if (s->escaped)
        jr_str_decode(s, &w->text);
    else
        sb_add(&w->text, s->s, s->n);
    if (w->text.failed || w->text.n > UINT32_MAX / 2) {
        j->st = err_oom(j->e, "the vocabulary's texts", w->text.n);
        return false;
    }
    w->v[i] = (vocab_entry){(uint32_t)off, (uint32_t)(w->text.n - off), true, in_model || w->v[i].in_model, score};
    w->n = i + 1 > w->n ? i + 1 : w->n;
    return true;
}

static void json_failed(tj *j, jr *r)
{
    if (r->failed && j->st == IMP_OK)
        j->st = j->e && j->e->status != IMP_OK ? j->e->status : IMP_E_PARSE;
}

/* {"text": id, ...} for BPE and WordPiece; [["text", score], ...] for Unigram, where the place is the id. */
static void read_vocab(vocab *w, jobj o)
{
    tj *j = w->j;
    jr r;
    jr_str s;
    int64_t id = 0;
    jr_init(&r, o.s, o.n, j->name, j->e);
    if (j->t->kind == TOK_KIND_UNIGRAM) {
        if (jr_enter_array(&r))
            for (double score; j->st == IMP_OK && jr_next_item(&r); id++) {
                if (!jr_enter_array(&r) || !jr_next_item(&r) || !jr_string(&r, &s) || !jr_next_item(&r) ||
                    !jr_double(&r, &score))
                    break;
                if (jr_next_item(&r)) {
                    jr_fail(&r, "a token of a Unigram vocabulary has two members");
                    break;
                }
                vocab_put(w, &s, id, score, true);
            }
    } else if (jr_enter_object(&r)) {
        while (j->st == IMP_OK && jr_next_key(&r, &s))
            if (jr_int(&r, 0, MAX_ID - 1, &id))
                vocab_put(w, &s, id, 0, true);
    }
    json_failed(j, &r);
}

/* One added token as an object; in tokenizer.json a list of them. */
typedef struct added {
    int32_t id;
    unsigned flags;
    bool special, normalized;
} added;
typedef struct added_list {
    vocab *w;
    added *v;
    size_t n, cap;
} added_list;

static void read_added(tj *j, jobj o, void *user)
{
    added_list *l = user;
    jobj c;
    jr r;
    jr_str s;
    if (!jobj_get(j, o, "content", &c)) {
        tj_refuse(j, "an added token without content", o);
        return;
    }
    if (l->n == l->cap) {
        size_t cap = l->cap * 2 + 64;
        added *v = mem_realloc(l->v, cap * sizeof *v);
        if (!v) {
            j->st = err_oom(j->e, "added tokens", cap);
            return;
        }
        l->v = v;
        l->cap = cap;
    }
    int64_t id = jobj_int(j, o, "id", -1);
    bool special = jobj_bool(j, o, "special", false);
    jr_init(&r, c.s, c.n, j->name, j->e);
    if (j->st == IMP_OK && jr_string(&r, &s) && vocab_put(l->w, &s, id, 0, false))
        l->v[l->n++] = (added){(int32_t)id,
                               (jobj_bool(j, o, "lstrip", false) ? (unsigned)TOK_ADDED_LSTRIP : 0) |
                                   (jobj_bool(j, o, "rstrip", false) ? (unsigned)TOK_ADDED_RSTRIP : 0) |
                                   (jobj_bool(j, o, "single_word", false) ? (unsigned)TOK_ADDED_WORD : 0),
                               special, jobj_bool(j, o, "normalized", !special)};
    json_failed(j, &r);
}

/* Texts of the pieces [a, b] or "a b" -> pair table. */
static bool merge_half(tj *j, jr *r, strbuf *b)
{
    jr_str s;
    sb_clear(b);
    if (!jr_string(r, &s))
        return false;
    jr_str_decode(&s, b);
    if (b->failed)
        j->st = err_oom(j->e, "merges", b->n);
    return j->st == IMP_OK;
}

static void read_merges(tj *j, jobj o)
{
    jr r;
    strbuf a = {0}, b = {0};
    tok_pair_batch batch = {0};
    size_t n = 0;
    size_t first = 1;
    while (first < o.n && strchr(" \t\r\n", o.s[first]))
        first++;
    const char sign =
        first < o.n && o.s[first] == '[' ? '[' : ','; /* every merge has one, so this bounds their number */
    for (size_t i = 0; i < o.n; i++)
        n += o.s[i] == sign;
    j->st = tok_pairs_alloc(j->t, n + 1, j->name, j->e);
    jr_init(&r, o.s, o.n, j->name, j->e);
    if (j->st == IMP_OK && jr_enter_array(&r))
        for (uint32_t rank = 0; j->st == IMP_OK && jr_next_item(&r); rank++) {
            tok_word l, x;
            if (jr_peek(&r) == JR_ARRAY) {
                if (!jr_enter_array(&r) || !jr_next_item(&r) || !merge_half(j, &r, &a) || !jr_next_item(&r) ||
                    !merge_half(j, &r, &b))
                    break;
                if (jr_next_item(&r)) {
                    jr_fail(&r, "a merge has two halves");
                    break;
                }
                l = (tok_word){a.s ? a.s : "", a.n};
                x = (tok_word){b.s ? b.s : "", b.n};
            } else {
                if (!merge_half(j, &r, &a))
                    break;
                char *sp = a.n > 1 ? memchr(a.s + 1, ' ', a.n - 1) : NULL;
                if (!sp) {
                    jr_fail(&r, "a merge has a space between its halves");
                    break;
                }
                l = (tok_word){a.s, (size_t)(sp - a.s)};
                x = (tok_word){sp + 1, a.n - l.n - 1};
            }
            if (!tok_pairs_push(j->t, &batch, l, x, rank))
                j->st = err_oom(j->e, "merges", rank);
        }
    json_failed(j, &r);
    if (j->st == IMP_OK)
        tok_pairs_end(j->t, &batch);
    sb_free(&batch.text);
    sb_free(&a);
    sb_free(&b);
}

static bool model_get(tj *j, const char *key, jobj *out)
{
    *out = (jobj){0};
    for (size_t i = 0; i < j->n_model; i++)
        if (jr_key_is(&j->model[i].key, key))
            *out = j->model[i].v;
    return j->st == IMP_OK && !jobj_isnull(*out);
}

static bool model_bool(tj *j, const char *key)
{
    jobj v;
    return model_get(j, key, &v) && v.s[0] == 't';
}

static int64_t model_int(tj *j, const char *key, int64_t min, int64_t max, int64_t dflt)
{
    jobj v;
    jr r;
    if (!model_get(j, key, &v))
        return dflt;
    jr_init(&r, v.s, v.n, j->name, j->e);
    if (!jr_int(&r, min, max, &dflt))
        err_prefix(j->e, "model.%s", key);
    json_failed(j, &r);
    return dflt;
}

static void model_kind(tj *j)
{
    jobj type, x;
    tok *t = j->t;
    if (!model_get(j, "type", &type))
        t->kind = model_get(j, "merges", &x) ? TOK_KIND_BPE : TOK_KIND_WORDPIECE;
    else if (jobj_is(j, type, "BPE"))
        t->kind = TOK_KIND_BPE;
    else if (jobj_is(j, type, "Unigram"))
        t->kind = TOK_KIND_UNIGRAM;
    else if (jobj_is(j, type, "WordPiece"))
        t->kind = TOK_KIND_WORDPIECE;
    else
        tj_refuse(j, "model", type);
}

/* Everything of the model but its vocabulary and merges. */
static void model_options(tj *j)
{
    tok *t = j->t;
    jobj x;
    size_t n = 0;
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2 && t->kind == TOK_KIND_BPE; i++)
        if (model_get(j, affixes[i], &x) && !jobj_is(j, x, ""))
            tj_refuse(j, affixes[i], x);
    t->fuse_unk = model_bool(j, "fuse_unk");
    t->byte_fallback = model_bool(j, "byte_fallback");
    t->ignore_merges = model_bool(j, "ignore_merges");
    t->wp_max_chars = (uint32_t)model_int(j, "max_input_chars_per_word", 0, INT32_MAX, 100);
    t->wp_prefix = "##";
    if (t->kind == TOK_KIND_WORDPIECE && model_get(j, "continuing_subword_prefix", &x))
        t->wp_prefix = jobj_str(j, x, &n);
    if (t->kind == TOK_KIND_UNIGRAM) {
        t->unk = (int32_t)model_int(j, "unk_id", 0, t->n - 1, -1);
    } else if (model_get(j, "unk_token", &x)) {
        char *s = jobj_str(j, x, &n);
        for (int32_t i = 0; s && n && i < t->n && t->unk < 0; i++) /* it is special, so not in the index */
            if (tok_text(t, i).n == n && !memcmp(tok_text(t, i).s, s, n))
                t->unk = i;
    }
}

static void unigram_pieces(tj *j, const vocab *w)
{
    tok *t = j->t;
    double *score = ARENA_ARRAY(&t->a, double, (size_t)t->n), low = 0;
    bool any = false;
    for (int32_t i = 0; score && i < t->n; i++) {
        tok_word k = tok_text(t, i);
        score[i] = w->v[i].score;
        if (!w->v[i].in_model)
            continue;
        low = !any || score[i] < low ? score[i] : low;
        any = true;
        if (!tok_trie_add(&t->pieces, k.s, k.n, i, 0))
            score = NULL;
    }
    if (!score)
        j->st = err_oom(j->e, "the pieces", (unsigned long long)t->n);
    t->score64 = score;
    t->unk_score = low - 10.0;
}

static void override_text(tj *j, int32_t id, const char *s, size_t n)
{
    if (!j->shown)
        j->shown = ARENA_ARRAY(&j->t->a, tok_word, (size_t)j->t->n);
    char *copy = j->shown ? arena_strndup(&j->t->a, s, n) : NULL;
    if (copy)
        j->shown[id] = (tok_word){copy, n};
    else
        j->st = err_oom(j->e, "added tokens", n);
}

/* Added tokens marked `normalized` are looked for in normalized text, so their own text is normalized first; Hugging
 * Face then shows that text when decoding, too. */
static void add_tokens(tj *j, const added_list *l, const vocab *w)
{
    tok *t = j->t;
    tok_ids none = {0};
    tok_enc c = {.t = t, .out = &none, .e = j->e, .st = IMP_OK};
    for (size_t i = 0; i < l->n && j->st == IMP_OK; i++) {
        const added *a = &l->v[i];
        const char *s = w->text.s + w->v[a->id].off;
        size_t n = w->v[a->id].len;
        t->attr[a->id] = a->special ? TOK_CONTROL : TOK_USER;
        if (a->normalized && !tok_normalize(&c, s, n, true, &s, &n))
            j->st = c.st;
        else if (a->normalized && (n != w->v[a->id].len || memcmp(s, w->text.s + w->v[a->id].off, n)))
            override_text(j, a->id, s, n);
        if (j->st == IMP_OK && !tok_trie_add(a->normalized ? &t->normed : &t->raw, s, n, a->id, a->flags))
            j->st = err_oom(j->e, "added tokens", i);
    }
    tok_enc_free(&c);
}

/* Special tokens stay out of the index: their text in a user's words must not merge into them. */
static void fill_vocab(tj *j, vocab *w, const added_list *l)
{
    tok *t = j->t;
    tok_word *words = mem_alloc(w->n * sizeof *words);
    uint8_t *skip = mem_calloc(w->n, 1);
    if (!words || !skip) {
        j->st = err_oom(j->e, "the vocabulary", w->n * sizeof *words);
    } else {
        for (size_t i = 0; i < w->n; i++) {
            words[i] = (tok_word){w->v[i].len ? w->text.s + w->v[i].off : "", w->v[i].len};
            skip[i] = !w->v[i].in_model;
            char sink[256]; /* a text outside the alphabet can't come out of ByteLevel */
            if (t->byte_level && !skip[i])
                skip[i] = words[i].n > sizeof sink || tok_alphabet_to_bytes(words[i].s, words[i].n, sink) == SIZE_MAX;
        }
        for (size_t i = 0; i < l->n; i++)
            skip[l->v[i].id] |= l->v[i].special;
        j->st = tok_vocab_set(t, words, w->n, t->byte_level, j->name, j->e);
        for (size_t i = 0; i < w->n && j->st == IMP_OK; i++)
            if (!w->v[i].set)
                t->attr[i] = TOK_UNUSED;
        if (j->st == IMP_OK)
            j->st = tok_vocab_index(t, skip, j->name, j->e);
    }
    mem_free(words);
    mem_free(skip);
}

static void byte_ids(tok *t)
{
    for (int b = 0; b < 256 && t->byte_level; b++) {
        char one = (char)b;
        t->byte_id[b] = tok_lookup(t, &one, 1);
    }
    for (int32_t i = 0; i < t->n && t->byte_fallback && !t->byte_level; i++) {
        unsigned b;
        if (tok_byte_token(tok_text(t, i), &b))
            t->byte_id[b] = i;
    }
}

static void build(tj *j)
{
    tok *t = j->t;
    vocab w = {.j = j};
    added_list l = {.w = &w};
    jobj x;
    model_kind(j);
    if (j->st == IMP_OK && !model_get(j, "vocab", &x))
        tj_refuse(j, "a model without a vocabulary", (jobj){0});
    if (j->st == IMP_OK)
        read_vocab(&w, x);
    if (j->st == IMP_OK && !jobj_isnull(j->added))
        jobj_each(j, j->added, read_added, &l);
    t->byte_level = tj_has_type(j, j->pre, "pretokenizers", "ByteLevel");
    if (j->st == IMP_OK && !w.n)
        j->st = err_set(j->e, IMP_E_PARSE, "%s: the vocabulary is empty", j->name);
    if (j->st == IMP_OK)
        fill_vocab(j, &w, &l);
    if (j->st == IMP_OK)
        model_options(j);
    if (j->st == IMP_OK)
        byte_ids(t);
    if (j->st == IMP_OK && t->kind == TOK_KIND_BPE) {
        if (model_get(j, "merges", &x))
            read_merges(j, x);
        else if (j->st == IMP_OK)
            tj_refuse(j, "a BPE model without merges", (jobj){0});
        if (j->st == IMP_OK && !t->byte_level)
            j->st = tok_bigrams_build(t, j->name, j->e);
    } else if (j->st == IMP_OK && t->kind == TOK_KIND_UNIGRAM) {
        unigram_pieces(j, &w);
    }
    tj_normalizer(j, j->normalizer);
    tj_pre_tokenizer(j, j->pre);
    if (j->st == IMP_OK)
        add_tokens(j, &l, &w);
    if (j->st == IMP_OK)
        tj_decoder(j, j->decoder);
    if (j->st == IMP_OK)
        tj_post_processor(j, j->post);
    mem_free(w.v);
    sb_free(&w.text);
    mem_free(l.v);
}

static void trim(jobj *o)
{
    while (o->n && strchr(" \t\r\n", o->s[0])) {
        o->s++;
        o->n--;
    }
}

static void read_model(tj *j, jr *r)
{
    jr_str k;
    if (jr_enter_object(r))
        while (jr_next_key(r, &k)) {
            if (j->n_model == TJ_MODEL_KEYS) {
                jr_fail(r, "a model with more than %d members", TJ_MODEL_KEYS);
                return;
            }
            jobj v;
            if (!jr_raw(r, &v.s, &v.n))
                return;
            trim(&v);
            j->model[j->n_model].key = k;
            j->model[j->n_model++].v = v;
        }
}

imp_status tok_load_json(tok *t, const char *s, size_t n, const char *name, imp_err *e)
{
    tj j = {.t = t, .name = name, .e = e};
    const struct { const char *key; jobj *out; } parts[] = {{"added_tokens", &j.added}, {"normalizer", &j.normalizer},
        {"pre_tokenizer", &j.pre}, {"post_processor", &j.post}, {"decoder", &j.decoder}};
    jr r;
    jr_str k;
    jr_init(&r, s, n, name, e);
    if (jr_enter_object(&r))
        while (jr_next_key(&r, &k)) {
            jobj *out = NULL;
            for (size_t i = 0; i < CK_COUNT(parts); i++)
                if (jr_key_is(&k, parts[i].key))
                    out = parts[i].out;
            if (jr_key_is(&k, "model"))
                read_model(&j, &r);
            else if (!(out ? jr_raw(&r, &out->s, &out->n) : jr_skip(&r)))
                break;
            if (out)
                trim(out);
        }
    jr_end(&r);
    json_failed(&j, &r);
    if (j.st == IMP_OK && !j.n_model)
        j.st = err_set(e, IMP_E_PARSE, "%s: no model", name);
    if (j.st == IMP_OK)
        build(&j);
    return j.st;
}

/* ---- the folder -------------------------------------------------------------------------------------------------- */
/* A token given as "text" or {"content": "text"}. */
static int32_t named_token(tj *j, jobj o, const char *key)
{
    jobj v, c;
    size_t n;
    if (!jobj_get(j, o, key, &v))
        return -1;
    if (v.s[0] == '{' && jobj_get(j, v, "content", &c))
        v = c;
    char *s = jobj_str(j, v, &n);
    return s && strlen(s) == n ? tok_find(j->t, s) : -1;
}

static void eog_id(tj *j, jobj v, void *user)
{
    (void)user;
    jr r;
    int64_t id;
    jr_init(&r, v.s, v.n, j->name, NULL);
    if (jr_int(&r, 0, j->t->n - 1, &id))
        j->t->attr[id] |= TOK_EOG;
}

static imp_status side(modelfile *mf, const char *name, jobj *out, imp_err *e)
{
    const char *s = NULL;
    size_t n = 0;
    imp_status st = mf_side_file(mf, name, &s, &n, e);
    *out = st == IMP_OK && s && n ? (jobj){s, n} : (jobj){0};
    while (out->n && strchr(" \t\r\n", out->s[0])) {
        out->s++;
        out->n--;
    }
    return st;
}

/* eos_token_id of config.json (which the model file has read already) and generation_config.json: a number or a list.
 */
static void eog_lists(tj *j, modelfile *mf)
{
    static const char *const keys[] = {"eos_token_id", "text_config.eos_token_id"};
    for (size_t i = 0; i < 2; i++) {
        const meta_value *m = mf_meta(mf, keys[i]);
        uint64_t n = m && m->type == META_ARRAY ? m->arr.n : m && m->type == META_INT ? 1 : 0;
        for (uint64_t k = 0; k < n; k++) {
            int64_t id = m->type == META_INT ? m->i : -1;
            if ((m->type == META_INT || mf_array_int(m, k, &id)) && id >= 0 && id < j->t->n)
                j->t->attr[id] |= TOK_EOG;
        }
    }
    jobj o, v;
    j->name = "generation_config.json";
    if (j->st != IMP_OK || (j->st = side(mf, j->name, &o, j->e)) != IMP_OK || !jobj_get(j, o, "eos_token_id", &v))
        return;
    if (v.s[0] == '[')
        jobj_each(j, v, eog_id, NULL);
    else
        eog_id(j, v, NULL);
}

/* One of several templates, [{"name": "default", "template": ".."}, ..]: the one called default. */
static void default_template(tj *j, jobj item, void *user)
{
    jobj name, text;
    size_t n;
    char *s = jobj_get(j, item, "name", &name) ? jobj_str(j, name, &n) : NULL;
    if (s && strcmp(s, "default") == 0 && jobj_get(j, item, "template", &text))
        *(jobj *)user = text;
}

/* chat_template of tokenizer_config.json, or what older folders keep in chat_template.json. */
static void config_template(tj *j, modelfile *mf, jobj cfg)
{
    jobj v = {0}, list;
    if (!jobj_get(j, cfg, "chat_template", &v) && j->st == IMP_OK) {
        j->name = "chat_template.json";
        if ((j->st = side(mf, j->name, &cfg, j->e)) != IMP_OK || !jobj_get(j, cfg, "chat_template", &v))
            return;
    }
    if (j->st == IMP_OK && v.n && v.s[0] == '[') {
        list = v;
        v = (jobj){0};
        jobj_each(j, list, default_template, &v);
    }
    if (j->st == IMP_OK && v.n && v.s[0] == '"')
        j->t->chat = jobj_str(j, v, &j->t->n_chat);
}

static void folder_config(tj *j, modelfile *mf, bool proto)
{
    jobj cfg, tpl;
    tok *t = j->t;
    j->name = "tokenizer_config.json";
    if ((j->st = side(mf, j->name, &cfg, j->e)) == IMP_OK && cfg.s) {
        int32_t bos = named_token(j, cfg, "bos_token"), eos = named_token(j, cfg, "eos_token");
        t->bos = bos >= 0 ? bos : t->bos;
        t->eos = eos >= 0 ? eos : t->eos;
    }
    if (proto && j->st == IMP_OK) { /* tokenizer.model has no template: BOS and EOS as the configuration says */
        bool bos = jobj_bool(j, cfg, "add_bos_token", true) && t->bos >= 0,
             eos = jobj_bool(j, cfg, "add_eos_token", false) && t->eos >= 0;
        if (j->st == IMP_OK)
            j->st = tok_template_set(t, &t->bos, bos, &t->eos, eos, j->e);
    }
    for (uint32_t i = 0; i < t->n_prefix; i++)
        t->add_bos |= t->prefix[i] == t->bos;
    for (uint32_t i = 0; i < t->n_suffix; i++)
        t->add_eos |= t->suffix[i] == t->eos;
    if (j->st == IMP_OK && (j->st = side(mf, "chat_template.jinja", &tpl, j->e)) == IMP_OK && tpl.s) {
        const char *raw;
        size_t n;
        mf_side_file(mf, "chat_template.jinja", &raw, &n, NULL); /* white space at its start counts */
        t->chat = arena_strndup(&t->a, raw, n);
        t->n_chat = n;
    } else if (j->st == IMP_OK) {
        config_template(j, mf, cfg);
    }
    eog_lists(j, mf);
}

imp_status tok_load_folder(tok *t, modelfile *mf, imp_err *e)
{
    jobj text, proto = {0};
    tj j = {.t = t, .name = "tokenizer.json", .e = e};
    j.st = side(mf, j.name, &text, e);
    if (j.st == IMP_OK && text.s) {
        j.st = tok_load_json(t, text.s, text.n, j.name, e);
    } else if (j.st == IMP_OK) {
        const char *s = NULL;
        size_t n = 0;
        j.st = mf_side_file(mf, "tokenizer.model", &s, &n, e);
        proto = (jobj){s, n};
        if (j.st == IMP_OK)
            j.st = s && n ? tok_load_spm_proto(t, s, n, "tokenizer.model", e)
                          : err_set(e, IMP_E_NOTFOUND, "%s: neither tokenizer.json nor tokenizer.model is there",
                                    mf_path(mf));
    }
    if (j.st == IMP_OK)
        folder_config(&j, mf, proto.s != NULL);
    if (j.st != IMP_OK)
        err_prefix(e, "%s", mf_path(mf));
    return j.st;
}

/* Tokens back to text. Two ways of putting bytes together: byte-level tokens may end inside a character, so their
 * bytes are one stream, and what is no UTF-8 becomes U+FFFD once per maximal subpart; SentencePiece's byte tokens
 * form runs, and a run that is not UTF-8 as a whole becomes one U+FFFD a byte (Hugging Face's rule for both).
 * tok_decode is the stream machine over all ids, so the two cannot differ. */
#include "base/utf8.h"
#include "text/tok_impl.h"

void tok_stream_init(tok_stream *s, const tok *t, bool keep_special)
{
    s->t = t;
    s->keep_special = keep_special;
    s->started = false;
    s->n_held = 0;
}

static void put(tok_stream *s, const char *p, size_t n, strbuf *out)
{
    if (!n)
        return;
    if (!s->started && s->t->strip_first && p[0] == ' ') {
        p++;
        n--;
    }
    s->started = true;
    sb_add(out, p, n);
}

/* Ends a run of byte tokens; `more`: it only grew too long, so an unfinished character at its end stays. */
static void run_end(tok_stream *s, bool more, strbuf *out)
{
    unsigned tail = more ? (unsigned)utf8_incomplete_tail(s->held, s->n_held) : 0, n = s->n_held - tail;
    if (utf8_valid(s->held, n))
        put(s, s->held, n, out);
    else
        for (unsigned i = 0; i < n; i++)
            put(s, "\xEF\xBF\xBD", 3, out);
    memmove(s->held, s->held + n, tail);
    s->n_held = tail;
}

/* Writes the characters of held[] that are complete, all of it when the text ends. */
static void drain(tok_stream *s, bool end, strbuf *out)
{
    unsigned at = 0;
    while (at < s->n_held) {
        uint32_t cp;
        bool ok;
        size_t left = s->n_held - at, k = utf8_get(s->held + at, left, &cp, &ok);
        if (!ok && !end && k == left && utf8_incomplete_tail(s->held + at, left) == left)
            break;
        if (ok)
            put(s, s->held + at, k, out);
        else
            put(s, "\xEF\xBF\xBD", 3, out);
        at += (unsigned)k;
    }
    s->n_held -= at;
    memmove(s->held, s->held + at, s->n_held);
}

static size_t valid_prefix(const char *p, size_t n)
{
    size_t j = 0;
    while (j < n) {
        uint32_t cp;
        bool ok;
        size_t k = utf8_get(p + j, n - j, &cp, &ok);
        if (!ok)
            break;
        j += k;
    }
    return j;
}

/* Metaspace: in the first token the sign for a space stands for nothing. */
static void push_first(tok_stream *s, int32_t id, strbuf *out)
{
    tok_word w = tok_text(s->t, id);
    const char *sign = s->t->dec_metaspace, *p;
    size_t k = strlen(sign);
    s->started = true;
    while ((p = memmem(w.s, w.n, sign, k)) != NULL) {
        sb_add(out, w.s, (size_t)(p - w.s));
        w.n -= (size_t)(p - w.s) + k;
        w.s = p + k;
    }
    sb_add(out, w.s, w.n);
}

/* WordPiece: a space before every word but the first; with clean-up none before punctuation and contractions. */
static void push_wordpiece(tok_stream *s, const char *p, size_t n, strbuf *out)
{
    static const char *const tight[] = {".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"};
    const tok *t = s->t;
    size_t k = strlen(t->dec_prefix);
    bool space = s->started;
    if (s->started && n >= k && !memcmp(p, t->dec_prefix, k)) {
        p += k;
        n -= k;
        space = false;
    }
    for (size_t i = 0; i < sizeof tight / sizeof *tight && space && t->dec_cleanup; i++)
        if (n >= strlen(tight[i]) && !memcmp(p, tight[i], strlen(tight[i])))
            space = false;
    if (space)
        sb_char(out, ' ');
    sb_add(out, p, n);
    s->started = true;
}

void tok_stream_push(tok_stream *s, int32_t id, strbuf *out)
{
    const tok *t = s->t;
    const char *p;
    size_t n;
    if (id < 0 || id >= t->n || (!s->keep_special && (t->attr[id] & TOK_CONTROL)))
        return;
    tok_bytes(t, id, &p, &n);
    if (t->dec_fallback && (t->attr[id] & TOK_BYTE)) {
        if (s->n_held >= TOK_RUN_MAX)
            run_end(s, true, out);
        s->held[s->n_held++] = p[0];
        return;
    }
    if (t->dec_wordpiece) {
        push_wordpiece(s, p, n, out);
        return;
    }
    if (t->dec_join_space) {
        if (s->started)
            sb_char(out, ' ');
        s->started = true;
        sb_add(out, p, n);
        return;
    }
    if (t->dec_metaspace && !s->started) {
        push_first(s, id, out);
        return;
    }
    if (!t->lossy_bytes) {
        if (s->n_held)
            run_end(s, false, out);
        put(s, p, n, out);
        return;
    }
    for (size_t i = 0; i < n;) {
        if (!s->n_held) { /* whole characters go straight through */
            size_t k = valid_prefix(p + i, n - i);
            put(s, p + i, k, out);
            i += k;
            if (i == n)
                break;
        }
        s->held[s->n_held++] = p[i++];
        drain(s, false, out);
    }
}

void tok_stream_flush(tok_stream *s, strbuf *out)
{
    if (s->t->lossy_bytes)
        drain(s, true, out);
    else
        run_end(s, false, out);
}

imp_status tok_decode(const tok *t, const int32_t *id, size_t n, bool keep_special, strbuf *out, imp_err *e)
{
    tok_stream s;
    tok_stream_init(&s, t, keep_special);
    for (size_t i = 0; i < n; i++)
        tok_stream_push(&s, id[i], out);
    tok_stream_flush(&s, out);
    return out->failed ? err_oom(e, "decoded text", out->n) : IMP_OK;
}

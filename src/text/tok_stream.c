/* Tokens back to text. Two ways of putting bytes together: byte-level tokens may end inside a character, so their
 * bytes are one stream, and what is no UTF-8 becomes U+FFFD once per maximal subpart; SentencePiece's byte tokens
 * form runs of their own, and a run that is no UTF-8 becomes one U+FFFD a byte (Hugging Face's rule). */
#include "base/utf8.h"
#include "text/tok_impl.h"

void tok_stream_init(tok_stream *s, const tok *t, bool keep_special) { *s = (tok_stream){.t = t, .keep_special = keep_special}; }

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

static void put_bad(tok_stream *s, unsigned times, strbuf *out)
{
    while (times--)
        put(s, "\xEF\xBF\xBD", 3, out);
}

/* Writes what is complete in held[]; `each`: one U+FFFD a bad byte, else one a maximal subpart. */
static void drain(tok_stream *s, bool each, bool end, strbuf *out)
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
            put_bad(s, each ? (unsigned)k : 1, out);
        at += (unsigned)k;
    }
    s->n_held -= at;
    memmove(s->held, s->held + at, s->n_held);
}

void tok_stream_push(tok_stream *s, int32_t id, strbuf *out)
{
    const tok *t = s->t;
    const char *p;
    size_t n;
    if (id < 0 || id >= t->n || (!s->keep_special && (t->attr[id] & TOK_CONTROL)))
        return;
    tok_bytes(t, id, &p, &n);
    if (t->dec_fallback && !(t->attr[id] & TOK_BYTE)) {
        drain(s, true, true, out);
        put(s, p, n, out);
        return;
    }
    if (!t->lossy_bytes && !t->dec_fallback) {
        put(s, p, n, out);
        return;
    }
    for (size_t i = 0; i < n;) {
        if (!s->n_held) { /* whole characters go straight through */
            size_t j = i;
            while (j < n) {
                uint32_t cp;
                bool ok;
                size_t k = utf8_get(p + j, n - j, &cp, &ok);
                if (!ok)
                    break;
                j += k;
            }
            put(s, p + i, j - i, out);
            i = j;
            if (i == n)
                break;
        }
        s->held[s->n_held++] = p[i++];
        drain(s, t->dec_fallback, false, out);
    }
}

void tok_stream_flush(tok_stream *s, strbuf *out)
{
    drain(s, s->t->dec_fallback, true, out);
}

/* HF's rule for byte tokens needs the whole run: if it is not valid as a whole, every byte of it is replaced. */
static size_t byte_run(const tok *t, const int32_t *id, size_t n, bool keep, tok_stream *s, strbuf *out)
{
    strbuf run = {0};
    size_t i = 0;
    for (; i < n; i++) {
        if (id[i] < 0 || id[i] >= t->n || (!keep && (t->attr[id[i]] & TOK_CONTROL)))
            continue; /* not part of the output, so it does not end the run */
        if (!(t->attr[id[i]] & TOK_BYTE))
            break;
        sb_add(&run, t->out + t->out_off[id[i]], 1);
    }
    if (run.failed)
        out->failed = true;
    else if (utf8_valid(run.s ? run.s : "", run.n))
        put(s, run.s, run.n, out);
    else
        put_bad(s, (unsigned)run.n, out);
    sb_free(&run);
    return i;
}

imp_status tok_decode(const tok *t, const int32_t *id, size_t n, bool keep_special, strbuf *out, imp_err *e)
{
    tok_stream s;
    tok_stream_init(&s, t, keep_special);
    for (size_t i = 0; i < n;) {
        if (t->dec_fallback && id[i] >= 0 && id[i] < t->n && (t->attr[id[i]] & TOK_BYTE)) {
            i += byte_run(t, id + i, n - i, keep_special, &s, out);
            continue;
        }
        tok_stream_push(&s, id[i++], out);
    }
    tok_stream_flush(&s, out);
    return out->failed ? err_oom(e, "decoded text", out->n) : IMP_OK;
}

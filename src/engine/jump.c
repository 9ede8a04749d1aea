/* Forced bytes to tokens. The tokenizer is asked with the last tokens' text before them, and only where it puts a
 * border between the two: elsewhere the tokens so far are not its own, and the model goes on by itself.
 *
 * Which of the tokens are certain? Let F be the forced bytes and X whatever follows. In BPE, SentencePiece and Unigram
 * a token border that the spelling of F X has at place s leaves the spelling of F[0..s) as it is alone. So for every
 * place s at which a token can begin that reaches into X, the tokens are those of F[0..s) up to there; what all of them
 * share is certain. What a pre-tokenizer's pattern looks ahead for (white space before a word, groups of digits) is
 * found by trying an X of each kind. */
#include "engine/jump.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

#define CONTEXT_TOKENS 8  /* of the text so far */
#define FORCED_BYTES 256  /* looked ahead at once */

static const char *const PROBES[] = {"a", "A", " ", "\n", "\"", "1", "11", "111"};

/* The tokens of text[0..n) behind the border at `at`: *first, and how many; 0 when there is no border or the tokens
 * spell other bytes. A space that SentencePiece puts in front is not text. */
static imp_status behind(const tok *t, const char *text, size_t n, size_t at, tok_ids *ids, size_t *first,
                         size_t *count, imp_err *e)
{
    ids->n = 0;
    *first = *count = 0;
    imp_status st = tok_encode(t, text, n, 0, ids, e);
    size_t total = 0, len;
    const char *s;
    for (size_t i = 0; st == IMP_OK && i < ids->n; i++) {
        tok_bytes(t, ids->id[i], &s, &len);
        total += len;
    }
    size_t lead = total == n + 1 ? 1 : 0, pos = 0;
    bool border = at == 0 && lead == 0, same = total == n + lead;
    for (size_t i = 0; st == IMP_OK && i < ids->n && same; i++) {
        tok_bytes(t, ids->id[i], &s, &len);
        for (size_t k = 0; k < len && same; k++)
            same = pos + k < lead ? s[k] == ' ' : s[k] == text[pos + k - lead];
        if (border && !*count)
            *first = i;
        *count += border;
        pos += len;
        border = border || pos == at + lead;
    }
    if (!same)
        *count = 0;
    return st;
}

typedef struct spelling {
    const tok *t;
    strbuf text;        /* context, then the forced bytes, then a probe */
    size_t at;          /* where the forced bytes begin */
    tok_ids base, other;
    size_t first, keep; /* of base: those behind the border, and how many are certain so far */
} spelling;

/* Keeps what the spelling of text[0..n) shares with base. */
static imp_status narrow(spelling *p, size_t n, imp_err *e)
{
    size_t first, count, k = 0;
    imp_status st = behind(p->t, p->text.s, n, p->at, &p->other, &first, &count, e);
    while (st == IMP_OK && k < p->keep && k < count && p->base.id[p->first + k] == p->other.id[first + k])
        k++;
    p->keep = k;
    return st;
}

static imp_status spell(spelling *p, constrain_state *c, const strbuf *forced, imp_err *e)
{
    size_t n = p->at + forced->n;
    imp_status st = behind(p->t, p->text.s, n, p->at, &p->base, &p->first, &p->keep, e);
    for (size_t s = forced->n; s-- > 1 && st == IMP_OK && p->keep;)
        if (constrain_state_crosses(c, forced->s, forced->n, s))
            st = narrow(p, p->at + s, e);
    for (size_t i = 0; i < sizeof PROBES / sizeof *PROBES && st == IMP_OK && p->keep; i++) {
        if (!constrain_state_follows(c, forced->s, forced->n, (unsigned char)PROBES[i][0]))
            continue;
        p->text.n = n;
        sb_add(&p->text, PROBES[i], strlen(PROBES[i]));
        st = p->text.failed ? err_oom(e, "forced tokens", n) : narrow(p, p->text.n, e);
    }
    return st;
}

imp_status jump_tokens(const tok *t, constrain_state *c, const int32_t *said, size_t n_said, size_t max, tok_ids *out,
                       imp_err *e)
{
    strbuf forced = {0};
    spelling p = {.t = t};
    imp_status st = IMP_OK;
    constrain_state_forced(c, FORCED_BYTES, &forced);
    if (forced.n)
        forced.n -= utf8_incomplete_tail(forced.s, forced.n);
    if (forced.n && !forced.failed && !constrain_state_crosses(c, forced.s, forced.n, 0)) {
        for (size_t i = n_said > CONTEXT_TOKENS ? n_said - CONTEXT_TOKENS : 0; i < n_said; i++) {
            const char *s;
            size_t n;
            tok_bytes(t, said[i], &s, &n);
            if (p.text.n || !n || ((unsigned char)s[0] & 0xC0) != 0x80) /* begin with a whole character */
                sb_add(&p.text, s, n);
        }
        p.at = p.text.n;
        sb_add(&p.text, forced.s, forced.n);
        st = p.text.failed ? err_oom(e, "forced tokens", p.at) : spell(&p, c, &forced, e);
        size_t n = p.keep < max ? p.keep : max;
        if (st == IMP_OK && n && out->n + n > out->cap) {
            int32_t *id = mem_realloc(out->id, (out->n + n) * 2 * sizeof *id);
            if (id) {
                out->id = id;
                out->cap = (out->n + n) * 2;
            } else {
                st = err_oom(e, "forced tokens", n * sizeof *id);
            }
        }
        if (st == IMP_OK && n) {
            memcpy(out->id + out->n, p.base.id + p.first, n * sizeof *out->id);
            out->n += n;
        }
    }
    tok_ids_free(&p.base);
    tok_ids_free(&p.other);
    sb_free(&p.text);
    sb_free(&forced);
    return st;
}

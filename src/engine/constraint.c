/* Constraints of requests: compiled once a request on the thread that submits it; each choice follows its own text. The
 * vocabulary's token trie is made once an engine, when the first constrained request comes.
 *
 * Jump-ahead. Where the constraint forces the next tokens (jump.h), they are appended at once and travel through the
 * model with the token before them, as a prompt does: one step instead of one each. That is only a matter of speed: the
 * answer is the one that a mask of the forced token alone would give at each of those places (IMP_JUMP_STEPS does just
 * that, and tests compare). */
#include <string.h>

#include "base/mem.h"
#include "engine/engine_impl.h"
#include "engine/jump.h"

static imp_status make_vocab(engine *g, imp_err *e)
{
    int32_t n = tok_vocab_size(g->tk);
    if ((uint32_t)n > g->m->config.n_vocab)
        n = (int32_t)g->m->config.n_vocab;
    constrain_token *t = mem_calloc((size_t)n, sizeof *t);
    if (!t)
        return err_oom(e, "constraint vocabulary", (uint64_t)n * sizeof *t);
    for (int32_t i = 0; i < n; i++) {
        const char *s;
        size_t len;
        tok_bytes(g->tk, i, &s, &len);
        t[i].eos = tok_is_eog(g->tk, i);
        bool shown = !t[i].eos && !(tok_attrs(g->tk, i) & (TOK_CONTROL | TOK_UNUSED | TOK_UNKNOWN));
        if (shown && len <= UINT32_MAX) {
            t[i].s = s;
            t[i].n = (unsigned)len;
        }
    }
    imp_status st = constrain_vocab_new(t, (size_t)n, &g->vocab, e);
    mem_free(t);
    return st;
}

imp_status constraint_compile(engine *g, request *q, imp_err *e)
{
    const imp_request *r = &q->r;
    if (r->constraint_kind == IMP_CONSTRAINT_NONE)
        return IMP_OK;
    if (!g->tk)
        return err_set(e, IMP_E_UNSUPPORTED, "constraint: this model has no tokenizer");
    if (r->constraint_kind != IMP_CONSTRAINT_JSON && !r->constraint)
        return err_set(e, IMP_E_USAGE, "constraint: wanted its text, got none");
    pthread_mutex_lock(&g->vocab_lock);
    imp_status st = g->vocab ? IMP_OK : make_vocab(g, e);
    pthread_mutex_unlock(&g->vocab_lock);
    if (st != IMP_OK)
        return st;
    size_t n = r->constraint ? strlen(r->constraint) : 0;
    /* One spelling for keys, constants and integers, and no long runs of white space: a model that drifts into \u
     * escapes or blank lines would spend its tokens there. */
    const constrain_options how = {.ws_max = 24, .plain_integers = true, .plain_escapes = true,
                                   .key_order = r->key_order};
    switch (r->constraint_kind) {
    case IMP_CONSTRAINT_JSON: return constrain_compile_json(&how, &q->prog, e);
    case IMP_CONSTRAINT_SCHEMA: return constrain_compile_schema(r->constraint, n, &how, &q->prog, e);
    case IMP_CONSTRAINT_REGEX: return constrain_compile_regex(r->constraint, n, &how, &q->prog, e);
    case IMP_CONSTRAINT_GRAMMAR: return constrain_compile_grammar(r->constraint, n, &how, &q->prog, e);
    default: return err_set(e, IMP_E_USAGE, "constraint: unknown kind %d", (int)r->constraint_kind);
    }
}

static size_t mask_words(const engine *g) { return (g->m->config.n_vocab + 31) / 32; }

imp_status constraint_attach(engine *g, seq *s, imp_err *e)
{
    if (!s->req->prog)
        return IMP_OK;
    s->mask = mem_calloc(mask_words(g), sizeof *s->mask);
    if (!s->mask)
        return err_oom(e, "token mask", mask_words(g) * sizeof *s->mask);
    return constrain_state_new(s->req->prog, g->vocab, &s->constraint, e);
}

imp_status constraint_mask(engine *g, seq *s)
{
    if (!s->constraint)
        return IMP_OK;
    memset(s->mask, 0, mask_words(g) * sizeof *s->mask);
    imp_status st = constrain_state_mask(s->constraint, s->mask);
    for (size_t i = 0; i < mask_words(g) && st == IMP_OK; i++)
        if (s->mask[i])
            return IMP_OK;
    return st == IMP_OK ? IMP_E_LIMIT : st;
}

imp_status constraint_accept(seq *s, int32_t id)
{
    if (!s->constraint)
        return IMP_OK;
    if (!constrain_state_accept_token(s->constraint, id))
        return IMP_E_INTERNAL; /* the mask allowed it */
    s->final = constrain_state_is_final(s->constraint);
    return IMP_OK;
}

imp_status constraint_jump(engine *g, seq *s, imp_err *e)
{
    if (!s->constraint || g->jump == IMP_JUMP_OFF || s->req->r.last_logits || s->req->r.echo_logits)
        return IMP_OK;
    tok_ids ids = {0};
    uint32_t before = s->n_tok;
    imp_status st = IMP_OK;
    bool more = !s->final;
    while (more && s->n_tok < s->cap_tok) {
        ids.n = 0;
        st = jump_tokens(g->tk, s->constraint, s->tok + s->n_prompt, s->n_tok - s->n_prompt, s->cap_tok - s->n_tok,
                         &ids, e);
        more = st == IMP_OK && ids.n;
        for (size_t i = 0; i < ids.n && more; i++) {
            more = ids.id[i] < (int32_t)g->m->config.n_vocab && constrain_state_accept_token(s->constraint, ids.id[i]);
            if (more)
                s->tok[s->n_tok++] = ids.id[i];
        }
    }
    tok_ids_free(&ids);
    if (s->n_tok > before) {
        s->final = constrain_state_is_final(s->constraint);
        s->closed = s->final || s->n_tok >= s->cap_tok;
        atomic_fetch_add(&g->n_forced_tok, s->n_tok - before);
    }
    return st;
}

bool constraint_rows(const engine *g, const seq *s)
{
    return s->constraint && (s->req->r.logprobs >= 0 || s->req->r.gen_logits || g->jump == IMP_JUMP_STEPS);
}

bool constraint_row_masks(const engine *g, flight *f)
{
    if (!f->row_mask)
        f->row_mask = mem_calloc((size_t)g->n_row * mask_words(g), sizeof *f->row_mask);
    if (!f->row_only)
        f->row_only = mem_calloc(g->n_row, sizeof *f->row_only);
    return f->row_mask && f->row_only;
}

const uint32_t *constraint_only(const engine *g, flight *f, int32_t row, int32_t id)
{
    uint32_t *mask = f->row_mask + (size_t)row * mask_words(g);
    mask[f->row_only[row] / 32] = 0;
    mask[id / 32] = 1u << id % 32;
    f->row_only[row] = id;
    return mask;
}

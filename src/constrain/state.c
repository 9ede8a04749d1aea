/* A state: one text on its way through a program, and the bytes that must come next. */
#include <string.h>

#include "base/mem.h"
#include "constrain/state.h"

imp_status constrain_state_new(const constrain_prog *p, const constrain_vocab *v, constrain_state **out, imp_err *e)
{
    *out = NULL;
    constrain_state *s = mem_calloc(1, sizeof *s);
    if (!s)
        return err_oom(e, "constraint state", sizeof *s);
    s->p = p;
    s->v = v;
    size_t depth = v ? (size_t)v->all.max_depth + 2 : 2;
    s->path_set = mem_alloc(depth * sizeof *s->path_set);
    s->path_base = mem_alloc(depth * sizeof *s->path_base);
    s->path_first = mem_alloc(depth * sizeof *s->path_first);
    s->tmp_bits = v ? mem_alloc((v->words + 1) * sizeof *s->tmp_bits) : NULL;
    s->tmp_dfa = v ? mem_alloc((v->words + 1) * sizeof *s->tmp_dfa) : NULL;
    s->cross_bits = v ? mem_alloc((v->words + 1) * sizeof *s->cross_bits) : NULL;
    s->path_at = mem_alloc(depth * sizeof *s->path_at);
    bool ok = s->path_set && s->path_base && s->path_first &&
              (!v || (s->tmp_bits && s->tmp_dfa && s->cross_bits)) && s->path_at && machine_init(&s->m, p);
    if (ok)
        s->set = machine_start(&s->m);
    if (!ok || !s->set) {
        constrain_state_free(s);
        return err_oom(e, "constraint state", 65536);
    }
    *out = s;
    return IMP_OK;
}

void constrain_state_free(constrain_state *s)
{
    if (!s)
        return;
    machine_free(&s->m);
    sb_free(&s->text);
    mem_free(s->lex.start);
    mem_free(s->path_set);
    mem_free(s->path_base);
    mem_free(s->path_first);
    mem_free(s->tmp_bits);
    mem_free(s->tmp_dfa);
    mem_free(s->cross_bits);
    mem_free(s->path_at);
    mem_free(s);
}

imp_status constrain_state_clone(const constrain_state *s, constrain_state **out, imp_err *e)
{
    constrain_state *c;
    imp_status st = constrain_state_new(s->p, s->v, &c, e);
    *out = NULL;
    if (st)
        return st;
    c->set = machine_copy_set(&c->m, &s->m, s->set);
    sb_add(&c->text, s->text.s ? s->text.s : "", s->n_text);
    c->n_text = s->n_text;
    if (!c->set || c->text.failed || !lexer_copy(&c->lex, &s->lex)) {
        constrain_state_free(c);
        return err_oom(e, "constraint state", s->n_text);
    }
    *out = c;
    return IMP_OK;
}

void constrain_state_reset(constrain_state *s)
{
    sb_clear(&s->text);
    s->n_text = 0;
    s->lex.in_str = s->lex.esc = false;
    s->lex.depth = 0;
    s->lex.ws_run = 0;
    s->m.oom = s->m.full = false;
    s->set = machine_start(&s->m);
}

bool state_renew(constrain_state *s)
{
    machine m;
    if (!machine_init(&m, s->p)) {
        machine_free(&m);
        return false;
    }
    uint32_t set = machine_copy_set(&m, &s->m, s->set);
    if (!set) {
        machine_free(&m);
        return false;
    }
    machine_free(&s->m);
    s->m = m;
    s->set = set;
    s->cross_set = 0;
    return true;
}

void state_at_text(constrain_state *s, size_t n)
{
    s->m.text = s->text.s;
    s->m.n_text = n;
    s->m.lex = &s->lex;
    s->m.n_lexed = s->n_text;
    s->m.text_known = true;
}

uint32_t state_try_bytes(constrain_state *s, const char *bytes, size_t n)
{
    uint32_t set = s->set;
    bool json = s->p->json;
    lexer probe = s->lex;
    s->text.n = s->n_text;
    sb_add(&s->text, bytes, n);
    if (s->text.failed) {
        s->text.failed = false;
        return 0;
    }
    for (size_t i = 0; i < n && set; i++) {
        state_at_text(s, s->n_text + i);
        if (json && s->p->ws == CONSTRAIN_WS_FREE) {
            lexer_feed(&probe, bytes[i], s->n_text + i, false);
            if (probe.ws_run > s->p->ws_max)
                return 0;
        }
        set = machine_step(&s->m, set, (unsigned char)bytes[i]);
    }
    return set;
}

static bool take(constrain_state *s, const char *bytes, size_t n)
{
    uint32_t set = state_try_bytes(s, bytes, n);
    if (!set)
        return false;
    if (s->p->json)
        for (size_t i = 0; i < n; i++)
            lexer_feed(&s->lex, bytes[i], s->n_text + i, s->p->any_unique);
    s->n_text += n;
    s->set = set;
    return true;
}

bool constrain_state_accept_bytes(constrain_state *s, const char *bytes, size_t n)
{
    if (!s->set)
        return false;
    if (take(s, bytes, n)) {
        if (s->m.bytes > SOFT_BYTES)
            state_renew(s);
        return true;
    }
    if (s->m.full || s->m.oom) {
        s->m.full = s->m.oom = false;
        return state_renew(s) && take(s, bytes, n);
    }
    return false;
}

bool constrain_state_accept_token(constrain_state *s, int32_t id)
{
    if (!s->v || id < 0 || (size_t)id >= s->v->n)
        return false;
    const constrain_token *t = &s->v->tok[id];
    if (t->eos)
        return constrain_state_is_complete(s);
    return t->n && constrain_state_accept_bytes(s, t->s, t->n);
}

bool constrain_state_is_complete(const constrain_state *s) { return s->set && machine_complete(&s->m, s->set); }

bool constrain_state_is_final(constrain_state *s)
{
    uint32_t first[8] = {0};
    if (!constrain_state_is_complete(s))
        return false;
    machine_first(&s->m, s->set, first);
    for (unsigned b = 0; b < 256; b++) {
        state_at_text(s, s->n_text);
        if ((first[b / 32] >> b % 32 & 1) && machine_step(&s->m, s->set, (unsigned char)b))
            return false;
    }
    return true;
}

/* The one byte that may follow `set`, or -1: several, none, or memory ran out before that was known. */
static int only_byte(constrain_state *s, uint32_t set, size_t at, uint32_t *next)
{
    machine *m = &s->m;
    uint32_t first[8] = {0};
    int only = -1;
    machine_first(m, set, first);
    for (unsigned b = 0; b < 256; b++) {
        if (!(first[b / 32] >> b % 32 & 1))
            continue;
        state_at_text(s, at);
        uint32_t t = machine_step(m, set, (unsigned char)b);
        if (m->full || m->oom) { /* the next mask or token starts with fresh caches */
            m->full = m->oom = false;
            return -1;
        }
        if (t && only >= 0)
            return -1;
        if (t) {
            *next = t;
            only = (int)b;
        }
    }
    return only;
}

void constrain_state_forced(constrain_state *s, size_t max, strbuf *out)
{
    uint32_t set = s->set, next = 0;
    s->text.n = s->n_text;
    for (size_t n = 0; n < max && set && !machine_complete(&s->m, set); n++, set = next) {
        int b = only_byte(s, set, s->n_text + n, &next);
        if (b < 0)
            break;
        sb_char(&s->text, (char)b);
        if (s->text.failed)
            break;
        sb_char(out, (char)b);
    }
    s->text.n = s->n_text;
    s->text.failed = false;
}

bool constrain_state_follows(constrain_state *s, const char *forced, size_t n, unsigned char b)
{
    uint32_t set = state_try_bytes(s, forced, n), first[8] = {0};
    if (set)
        machine_first(&s->m, set, first);
    s->text.n = s->n_text;
    return first[b / 32] >> b % 32 & 1;
}

bool constrain_state_crosses(constrain_state *s, const char *forced, size_t n, size_t at)
{
    const trie *t = &s->v->all;
    uint32_t i = 0, first[8] = {0};
    for (size_t k = at; k < n; k++) {
        uint32_t c = i + 1;
        while (c < t->node[i].end && t->node[c].byte != (uint8_t)forced[k])
            c = t->node[c].end;
        if (c >= t->node[i].end)
            return false;
        i = c;
    }
    uint32_t set = state_try_bytes(s, forced, n);
    if (set)
        machine_first(&s->m, set, first);
    s->text.n = s->n_text;
    for (uint32_t c = i + 1; c < t->node[i].end; c = t->node[c].end)
        if (first[t->node[c].byte / 32] >> t->node[c].byte % 32 & 1)
            return true;
    return false;
}

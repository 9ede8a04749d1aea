/* The text behind a step: where keys and items of uniqueItems begin, their content as blobs, and lists of those. */
#include <string.h>

#include "base/mem.h"
#include "constrain/machine.h"

static bool is_ws(unsigned char b) { return b == ' ' || b == '\n' || b == '\r' || b == '\t'; }

/* ---- the text behind a step ------------------------------------------------------------------------------------- */
void lexer_feed(lexer *l, char ch, size_t pos, bool starts)
{
    l->ws_run = !l->in_str && is_ws((unsigned char)ch) ? l->ws_run + 1 : 0;
    if (l->in_str) {
        if (l->esc)
            l->esc = false;
        else if (ch == '\\')
            l->esc = true;
        else if (ch == '"')
            l->in_str = false;
        return;
    }
    if (ch == '"') {
        l->in_str = true;
        l->str_start = pos + 1;
    }
    if (!starts)
        return;
    if (ch == '[' || ch == '{') {
        if (l->depth == l->cap) {
            size_t cap = l->cap ? l->cap * 2 : 32;
            size_t *s = mem_realloc(l->start, cap * sizeof *s);
            if (!s)
                return; /* the text of an item is then not known, and such items are refused */
            l->start = s;
            l->cap = cap;
        }
        l->start[l->depth++] = pos + 1;
    } else if ((ch == ']' || ch == '}') && l->depth) {
        l->depth--;
    } else if (ch == ',' && l->depth) {
        l->start[l->depth - 1] = pos + 1;
    }
}

bool lexer_copy(lexer *to, const lexer *from)
{
    size_t *s = mem_alloc((from->cap + 1) * sizeof *s);
    if (!s)
        return false;
    if (from->depth)
        memcpy(s, from->start, from->depth * sizeof *s);
    mem_free(to->start);
    *to = *from;
    to->start = s;
    to->cap = from->cap + 1;
    return true;
}

/* The lexer as it stands at the end of m->text: a copy of the known one, fed with the bytes since. */
static bool lexer_now(machine *m, lexer *l)
{
    memset(l, 0, sizeof *l);
    m->used_text = true;
    if (!m->text_known || !lexer_copy(l, m->lex))
        return false;
    for (size_t i = m->n_lexed; i < m->n_text; i++)
        lexer_feed(l, m->text[i], i, m->p->any_unique);
    return true;
}

/* Code points of the JSON string text s[0..n) as a blob: [tag, cp...]. */
static uint32_t string_blob(machine *m, const char *s, size_t n)
{
    uint32_t *v = mem_alloc((n + 1) * sizeof *v), part = 0, k = 0, cp;
    if (!v) {
        m->oom = true;
        return KEY_UNKNOWN;
    }
    v[k++] = 's';
    for (size_t i = 0; i < n; i++)
        if (codec_step(CODEC_JSON, part, (unsigned char)s[i], &part, &cp) == CODEC_CP)
            v[k++] = cp;
    uint32_t id = machine_blob(m, v, k * sizeof *v);
    mem_free(v);
    return id;
}

/* The string that the text ends in (its closing quote is the byte being taken). */
uint32_t text_key(machine *m)
{
    lexer l;
    uint32_t id = KEY_UNKNOWN;
    if (lexer_now(m, &l) && l.in_str && l.str_start <= m->n_text)
        id = string_blob(m, m->text + l.str_start, m->n_text - l.str_start);
    mem_free(l.start);
    return id;
}

/* The item of the innermost array that ends before the byte being taken, as a canonical blob; `closing`: that byte,
 * when it still belongs to the item (a quote or bracket), else 0. */
uint32_t text_item(machine *m, char closing)
{
    lexer l;
    uint32_t id = KEY_UNKNOWN;
    bool ok = lexer_now(m, &l);
    size_t depth = l.depth;
    if (closing == ']' || closing == '}')
        depth -= depth > 0;
    if (ok && depth) {
        size_t from = l.start[depth - 1];
        while (from < m->n_text && is_ws((unsigned char)m->text[from]))
            from++;
        strbuf t = {0}, c = {0};
        sb_add(&t, m->text + from, m->n_text - from);
        if (closing)
            sb_char(&t, closing);
        if (!t.failed && t.n && (t.s[0] == '{' || t.s[0] == '[')) {
            if (json_canonical(t.s, t.n, &c) && !c.failed) {
                while (c.n & 3)
                    sb_char(&c, ' ');
                id = c.failed ? KEY_UNKNOWN : machine_blob(m, c.s, c.n);
            }
        } else if (!t.failed && t.n > 1 && t.s[0] == '"') {
            id = string_blob(m, t.s + 1, t.n - 2);
        } else if (!t.failed && t.n) {
            uint32_t *v = mem_alloc((t.n + 1) * sizeof *v);
            if (v) {
                v[0] = 'r';
                for (size_t i = 0; i < t.n; i++)
                    v[i + 1] = (unsigned char)t.s[i];
                id = machine_blob(m, v, (t.n + 1) * sizeof *v);
            } else {
                m->oom = true;
            }
            mem_free(v);
        }
        sb_free(&t);
        sb_free(&c);
    }
    mem_free(l.start);
    return id;
}

uint32_t list_add(machine *m, uint32_t list, uint32_t id)
{
    size_t n;
    const uint32_t *v = machine_list(m, list, &n);
    uint32_t *t = mem_alloc((n + 1) * sizeof *t), r;
    if (!t) {
        m->oom = true;
        return 0;
    }
    if (n)
        memcpy(t, v, n * sizeof *t);
    t[n] = id;
    r = machine_set(m, t, n + 1);
    mem_free(t);
    return r;
}

bool list_has(const machine *m, uint32_t list, uint32_t id)
{
    size_t n;
    const uint32_t *v = machine_list(m, list, &n);
    for (size_t i = 0; i < n; i++)
        if (v[i] == id || v[i] == KEY_UNKNOWN)
            return true;
    return false;
}

/* Of the values in `list` that agree with the current one up to `depth`, those whose next code point is cp. tag:
 * kind. */
uint32_t list_narrow(machine *m, uint32_t list, uint32_t tag, uint32_t depth, uint32_t cp)
{
    size_t n, k = 0;
    machine_list(m, list, &n);
    uint32_t buf[64], *t = n > 64 ? mem_alloc(n * sizeof *t) : buf, r;
    if (!t) {
        m->oom = true;
        return 0;
    }
    const uint32_t *v = machine_list(m, list, &n);
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const uint32_t *w = v[i] == KEY_UNKNOWN ? NULL : machine_list(m, v[i], &len);
        if (!w || (w[0] == tag && len > depth + 1 && w[depth + 1] == cp))
            t[k++] = v[i]; /* an unknown one may always agree */
    }
    r = machine_set(m, t, k);
    if (t != buf)
        mem_free(t);
    return r;
}

/* Does a value of the list go on, behind `depth` code points, with one of these ranges? */
bool list_specials(const machine *m, uint32_t list, uint32_t depth, const cprange *r, unsigned n)
{
    size_t n_used, len;
    const uint32_t *used = machine_list(m, list, &n_used);
    for (size_t i = 0; i < n_used; i++) {
        const uint32_t *w = used[i] == KEY_UNKNOWN ? NULL : machine_list(m, used[i], &len);
        if (!w)
            return true;
        for (unsigned k = 0; k < n; k++)
            if (len > depth + 1 && w[depth + 1] >= r[k].lo && w[depth + 1] <= r[k].hi)
                return true;
    }
    return false;
}

bool list_ends(const machine *m, uint32_t list, uint32_t tag, uint32_t depth)
{
    size_t n;
    const uint32_t *v = machine_list(m, list, &n);
    for (size_t i = 0; i < n; i++) {
        size_t len;
        if (v[i] == KEY_UNKNOWN)
            return true;
        const uint32_t *w = machine_list(m, v[i], &len);
        if (w[0] == tag && len == depth + 1)
            return true;
    }
    return false;
}

size_t list_len(const machine *m, uint32_t list)
{
    size_t n;
    machine_list(m, list, &n);
    return n;
}

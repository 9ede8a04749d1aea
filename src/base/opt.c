#include "base/opt.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* ---- names ------------------------------------------------------------------------------------------------------ */
/* Does `word` stand in a space-separated list? */
static bool in_list(const char *list, const char *word, size_t n, char sep)
{
    while (list && *list) {
        size_t k = strcspn(list, (char[]){sep, 0});
        if (k == n && memcmp(list, word, n) == 0)
            return true;
        list += k + (list[k] != 0);
    }
    return false;
}

static bool named(const opt_def *d, const char *word, size_t n)
{
    return (n > 2 && word[0] == '-' && word[1] == '-' && strlen(d->name) == n - 2 &&
            memcmp(d->name, word + 2, n - 2) == 0) ||
           in_list(d->alias, word, n, ' ');
}

static const opt_def *find_option(const opt_table *t, uint32_t cmd, const char *word, size_t n)
{
    for (uint32_t i = 0; i < t->n; i++)
        if ((t->def[i].cmds & cmd) && named(&t->def[i], word, n))
            return &t->def[i];
    return NULL;
}

/* Edits to turn a into b (Levenshtein), for words of sensible length. */
static uint32_t distance(const char *a, const char *b)
{
    uint32_t row[64];
    size_t n = strlen(b);
    if (n >= 63 || strlen(a) >= 63)
        return 99;
    for (uint32_t j = 0; j <= n; j++)
        row[j] = j;
    for (uint32_t i = 1; *a; a++, i++) {
        uint32_t diag = row[0];
        row[0] = i;
        for (uint32_t j = 1; j <= n; j++) {
            uint32_t best = diag + (*a != b[j - 1]);
            diag = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            row[j] = best;
        }
    }
    return row[n];
}

static const char *last_part(const char *key)
{
    const char *dot = strrchr(key, '.');
    return dot ? dot + 1 : key;
}

const char *opt_suggest(const opt_table *t, uint32_t cmd, const char *word)
{
    const char *best = NULL;
    uint32_t least = 3;
    while (*word == '-')
        word++;
    for (uint32_t i = 0; i < t->n; i++) {
        const opt_def *d = &t->def[i];
        const char *name = cmd ? d->name : d->key;
        if (!name || d->later || (cmd && !(d->cmds & cmd)))
            continue;
        uint32_t k = distance(word, name);
        if (!cmd && k > 2 && strcmp(last_part(word), last_part(name)) == 0)
            k = 2; /* the right key in the wrong section, or in none */
        if (k < least) {
            least = k;
            best = name;
        }
    }
    return best;
}

/* ---- values ----------------------------------------------------------------------------------------------------- */
static imp_status number(const opt_def *d, const char *shown, const char *text, double *out, imp_err *e)
{
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    bool whole = d->type == OPT_INT;
    if (end == text || *end || !isfinite(v) || errno == ERANGE || (whole && v != floor(v)))
        return err_set(e, IMP_E_USAGE, "%s: wanted %s, got '%s'", shown, whole ? "an integer" : "a number", text);
    if ((d->min != 0 || d->max != 0) && !(v >= d->min && v <= d->max))
        return err_set(e, IMP_E_USAGE, "%s: wanted %.15g to %.15g, got %s", shown, d->min, d->max, text);
    *out = v;
    return IMP_OK;
}

static imp_status flag_value(const char *shown, const char *text, bool *out, imp_err *e)
{
    static const struct { const char *word; bool v; } words[] = {
        {"true", true}, {"yes", true}, {"on", true}, {"1", true},
        {"false", false}, {"no", false}, {"off", false}, {"0", false},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(text, words[i].word) == 0) {
            *out = words[i].v;
            return IMP_OK;
        }
    return err_set(e, IMP_E_USAGE, "%s: wanted true or false, got '%s'", shown, text);
}

static imp_status append(opt_list *l, const char *text, arena *mem, imp_err *e)
{
    if ((l->n & (l->n - 1)) == 0) { /* full: room for twice as many */
        const char **v = ARENA_ARRAY(mem, const char *, l->n ? 2 * (size_t)l->n : 1);
        if (!v)
            return err_oom(e, text, l->n * sizeof *v);
        if (l->n)
            memcpy(v, l->v, l->n * sizeof *v);
        l->v = v;
    }
    l->v[l->n++] = text;
    return IMP_OK;
}

/* Writes text into d's place. shown: how the user spelt the option, for messages. */
static imp_status assign(const opt_def *d, const char *shown, const char *text, void *values, arena *mem, imp_err *e)
{
    void *p = (char *)values + d->off;
    double v = 0;
    imp_status s = IMP_OK;
    switch (d->type) {
    case OPT_FLAG: return flag_value(shown, text, p, e);
    case OPT_INT:
        if ((s = number(d, shown, text, &v, e)) == IMP_OK)
            *(int64_t *)p = fabs(v) < 9e15 ? (int64_t)v : strtoll(text, NULL, 10);
        return s;
    case OPT_FLOAT:
        if ((s = number(d, shown, text, &v, e)) == IMP_OK)
            *(double *)p = v;
        return s;
    case OPT_STR:
        if (d->choices && !in_list(d->choices, text, strlen(text), '|'))
            return err_set(e, IMP_E_USAGE, "%s: wanted %s, got '%s'", shown, d->choices, text);
        *(const char **)p = text;
        return IMP_OK;
    case OPT_LIST: return append(p, text, mem, e);
    }
    return s;
}

imp_status opt_parse(const opt_table *t, uint32_t cmd, int argc, char **argv, void *values, uint8_t *source, arena *mem,
                     const char **rest, uint32_t max_rest, uint32_t *n_rest, imp_err *e)
{
    *n_rest = 0;
    bool only_rest = false;
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i];
        if (only_rest || a[0] != '-' || !a[1]) {
            if (*n_rest == max_rest)
                return err_set(e, IMP_E_USAGE, "unexpected argument '%s'", a);
            rest[(*n_rest)++] = a;
            continue;
        }
        if (strcmp(a, "--") == 0) {
            only_rest = true;
            continue;
        }
        const char *eq = a[1] == '-' ? strchr(a, '=') : NULL;
        size_t n = eq ? (size_t)(eq - a) : strlen(a);
        const opt_def *d = find_option(t, cmd, a, n);
        bool off = false;
        if (!d && n > 5 && memcmp(a, "--no-", 5) == 0) {
            char *plain = arena_printf(mem, "--%.*s", (int)(n - 5), a + 5);
            d = plain ? find_option(t, cmd, plain, strlen(plain)) : NULL;
            off = d && d->type == OPT_FLAG;
            if (!off)
                d = NULL;
        }
        if (!d) {
            const char *near = opt_suggest(t, cmd, a);
            return near ? err_set(e, IMP_E_USAGE, "unknown option %.*s (did you mean --%s?)", (int)n, a, near)
                        : err_set(e, IMP_E_USAGE, "unknown option %.*s", (int)n, a);
        }
        if (d->later)
            return err_set(e, IMP_E_USAGE, "option --%s: not built yet", d->name);
        const char *value = eq ? eq + 1 : NULL;
        if (d->type == OPT_FLAG && !value)
            value = off ? "false" : "true";
        if (!value && i + 1 >= argc)
            return err_set(e, IMP_E_USAGE, "option %s: wanted %s", a, d->arg ? d->arg : "a value");
        imp_status s = assign(d, eq ? d->name : a, value ? value : argv[++i], values, mem, e);
        if (s != IMP_OK)
            return s;
        source[d - t->def] = OPT_FROM_ARGS;
    }
    return IMP_OK;
}

imp_status opt_set_key(const opt_table *t, const char *key, const char *value, opt_source from, void *values,
                       uint8_t *source, arena *mem, imp_err *e)
{
    for (uint32_t i = 0; i < t->n; i++) {
        const opt_def *d = &t->def[i];
        if (!d->key || strcmp(d->key, key) != 0)
            continue;
        if (d->later)
            return err_set(e, IMP_E_USAGE, "key %s: not built yet", key);
        if (source[i] > from)
            return IMP_OK;
        source[i] = (uint8_t)from;
        return assign(d, key, value, values, mem, e);
    }
    const char *near = opt_suggest(t, 0, key);
    return near ? err_set(e, IMP_E_USAGE, "unknown key %s (did you mean %s?)", key, near)
                : err_set(e, IMP_E_USAGE, "unknown key %s", key);
}

/* ---- imp.conf --------------------------------------------------------------------------------------------------- */
static void trim(const char **s, size_t *n)
{
    while (*n && strchr(" \t\r", **s)) {
        ++*s;
        --*n;
    }
    while (*n && strchr(" \t\r", (*s)[*n - 1]))
        --*n;
}

/* A value up to a comment; a quoted one up to its closing quote. */
static imp_status conf_value(const char **s, size_t *n, imp_err *e)
{
    if (*n && **s == '"') {
        const char *end = memchr(*s + 1, '"', *n - 1);
        if (!end)
            return err_set(e, IMP_E_PARSE, "a quote is not closed");
        const char *after = end + 1;
        size_t left = *n - (size_t)(after - *s);
        trim(&after, &left);
        if (left && *after != '#')
            return err_set(e, IMP_E_PARSE, "something follows the closing quote");
        ++*s;
        *n = (size_t)(end - *s);
        return IMP_OK;
    }
    const char *hash = memchr(*s, '#', *n);
    if (hash)
        *n = (size_t)(hash - *s);
    trim(s, n);
    return IMP_OK;
}

static imp_status conf_line(const opt_table *t, const char *s, size_t n, const char **section, void *values,
                            uint8_t *source, arena *mem, imp_err *e)
{
    trim(&s, &n);
    if (n == 0 || *s == '#')
        return IMP_OK;
    if (memchr(s, 0, n))
        return err_set(e, IMP_E_PARSE, "a zero byte");
    if (*s == '[') {
        const char *end = memchr(s, ']', n);
        if (!end)
            return err_set(e, IMP_E_PARSE, "wanted ] after the section's name");
        const char *name = s + 1, *after = end + 1;
        size_t n_name = (size_t)(end - name), left = n - (size_t)(after - s);
        trim(&name, &n_name);
        trim(&after, &left);
        if (left && *after != '#')
            return err_set(e, IMP_E_PARSE, "something follows the section's name");
        *section = arena_strndup(mem, name, n_name);
        return *section ? IMP_OK : err_oom(e, "section", n);
    }
    const char *eq = memchr(s, '=', n);
    if (!eq)
        return err_set(e, IMP_E_PARSE, "wanted key = value");
    const char *k = s, *v = eq + 1;
    size_t nk = (size_t)(eq - s), nv = n - nk - 1;
    trim(&k, &nk);
    trim(&v, &nv);
    imp_status st = conf_value(&v, &nv, e);
    if (st != IMP_OK)
        return st;
    char *key = **section ? arena_printf(mem, "%s.%.*s", *section, (int)nk, k) : arena_strndup(mem, k, nk);
    char *value = arena_strndup(mem, v, nv);
    if (!key || !value)
        return err_oom(e, "value", nv);
    return opt_set_key(t, key, value, OPT_FROM_CONF, values, source, mem, e);
}

imp_status opt_read_conf(const opt_table *t, const char *name, const char *text, size_t n, void *values,
                         uint8_t *source, arena *mem, imp_err *e)
{
    const char *section = "";
    for (size_t pos = 0, line = 1; pos < n; line++) {
        const char *nl = memchr(text + pos, '\n', n - pos);
        size_t len = nl ? (size_t)(nl - text) - pos : n - pos;
        imp_err why = {0};
        imp_status s = conf_line(t, text + pos, len, &section, values, source, mem, &why);
        if (s != IMP_OK)
            return err_set(e, s, "%s: line %zu: %s", name, line, why.message);
        pos += len + 1;
    }
    return IMP_OK;
}

/* ---- printing --------------------------------------------------------------------------------------------------- */
void opt_print_help(const opt_table *t, uint32_t cmd, strbuf *out)
{
    for (uint32_t i = 0; i < t->n; i++) {
        const opt_def *d = &t->def[i];
        if (!(d->cmds & cmd) || d->later)
            continue;
        strbuf left = {0};
        if (d->alias && d->alias[0] == '-' && d->alias[1] != '-')
            sb_printf(&left, "%.*s, ", (int)strcspn(d->alias, " "), d->alias);
        sb_printf(&left, "--%s", d->name);
        if (d->arg)
            sb_printf(&left, " %s", d->arg);
        else if (d->choices)
            sb_printf(&left, " %s", d->choices);
        sb_printf(out, left.n > 28 ? "  %s\n  %-28s %s\n" : "  %-28s %s%s\n", left.s ? left.s : "",
                  left.n > 28 ? "" : d->help, left.n > 28 ? d->help : "");
        sb_free(&left);
    }
}

void opt_print_markdown(const opt_table *t, strbuf *out)
{
    sb_str(out, "| key | option | value | meaning |\n|---|---|---|---|\n");
    for (uint32_t i = 0; i < t->n; i++) {
        const opt_def *d = &t->def[i];
        if (!d->key || d->later)
            continue;
        sb_printf(out, "| `%s` | `--%s` | ", d->key, d->name);
        if (d->choices) {
            for (const char *c = d->choices; *c; c++)
                sb_str(out, *c == '|' ? ", " : (char[]){*c, 0});
        } else {
            const char *arg = d->type == OPT_FLAG ? "true or false" : d->arg ? d->arg : "text";
            for (const char *c = arg; *c; c++) /* a bar would end the table's cell */
                sb_str(out, *c == '|' ? " or " : (char[]){*c, 0});
        }
        sb_printf(out, " | %s |\n", d->help);
    }
}

/* troff's own characters, as text. */
static void man_text(strbuf *out, const char *s)
{
    if (*s == '.' || *s == '\'')
        sb_str(out, "\\&");
    for (const char *c = s; *c; c++)
        sb_str(out, *c == '\\' ? "\\e" : *c == '-' ? "\\-" : (char[]){*c, 0});
}

void opt_print_man(const opt_table *t, uint32_t cmd, strbuf *out)
{
    for (uint32_t i = 0; i < t->n; i++) {
        const opt_def *d = &t->def[i];
        if (!(d->cmds & cmd) || d->later)
            continue;
        sb_str(out, ".TP\n\\fB\\-\\-");
        man_text(out, d->name);
        for (const char *a = d->alias; a && *a; a += strcspn(a, " ") + (a[strcspn(a, " ")] == ' ')) {
            char *one = mem_strndup(a, strcspn(a, " "));
            sb_str(out, "\\fR, \\fB");
            man_text(out, one ? one : "");
            mem_free(one);
        }
        sb_str(out, "\\fR");
        if (d->arg || d->choices) {
            sb_str(out, " \\fI");
            man_text(out, d->arg ? d->arg : d->choices);
            sb_str(out, "\\fR");
        }
        sb_char(out, '\n');
        man_text(out, d->help);
        if (d->key)
            sb_printf(out, "\n(imp.conf: %s)", d->key);
        sb_char(out, '\n');
    }
}

/* Calls written with tags: <function=f><parameter=k>v</parameter></function> (Qwen3-Coder, Seed), and
 * f<arg_key>k</arg_key><arg_value>v</arg_value> (GLM). Values become JSON: strings where the tool's schema says string
 * (streamed), else what reads as JSON, else strings. */
#include <string.h>

#include "base/json.h"
#include "base/jsonw.h"
#include "text/chat_parse_impl.h"

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

static bool str_is(const jval *v, const char *s, size_t n)
{
    return v && v->t == J_STR && v->u.s->n == n && !memcmp(v->u.s->s, s, n);
}

typedef enum param_type { PARAM_UNKNOWN, PARAM_STRING, PARAM_OTHER } param_type;

static param_type type_of(const jval *schema)
{
    const jval *t = schema ? jval_get(*schema, "type") : NULL;
    if (!t)
        return PARAM_UNKNOWN;
    if (t->t == J_LIST) /* ["string", "null"] */
        return PARAM_UNKNOWN;
    return str_is(t, "string", 6) ? PARAM_STRING : PARAM_OTHER;
}

static param_type param_of(const chat_parser *p)
{
    char key[257];
    if (p->tools.t != J_LIST || p->key.n > 256)
        return PARAM_UNKNOWN;
    memcpy(key, p->key.s ? p->key.s : "", p->key.n);
    key[p->key.n] = 0;
    for (size_t i = 0; i < p->tools.u.l->n; i++) {
        jval t = p->tools.u.l->v[i];
        const jval *fn = jval_get(t, "function"), *par, *props;
        if (!fn)
            fn = &t;
        if (!str_is(jval_get(*fn, "name"), p->name.s ? p->name.s : "", p->name.n))
            continue;
        par = jval_get(*fn, "parameters");
        props = par ? jval_get(*par, "properties") : NULL;
        return type_of(props ? jval_get(*props, key) : NULL);
    }
    return PARAM_UNKNOWN;
}

static void out_json(chat_parser *p, const char *s, size_t n)
{
    json_quote(&p->out, s, n, false);
    p->failed = p->failed || p->out.failed;
}

static void send(chat_parser *p)
{
    if (!p->failed)
        cp_args_text(p, p->out.s ? p->out.s : "", p->out.n);
    sb_clear(&p->out);
}

/* The key and its colon; from here on the value. */
static void param_begin(chat_parser *p)
{
    sb_clear(&p->out);
    sb_str(&p->out, p->n_params++ ? ", " : "{");
    out_json(p, p->key.s ? p->key.s : "", p->key.n);
    sb_str(&p->out, ": ");
    p->value_string = param_of(p) == PARAM_STRING;
    p->value_first = true;
    sb_clear(&p->value);
    if (p->value_string)
        sb_char(&p->out, '"');
    send(p);
}

/* A piece of a string value: the newline right behind the tag and the one before the closing tag are not part of it. */
static void value_piece(chat_parser *p, const char *s, size_t n)
{
    if (p->value_first && n) {
        p->value_first = false;
        if (*s == '\n' && p->f->body == CP_TAGGED && p->state == CP_XML_VALUE) {
            s++;
            n--;
        }
    }
    if (!n)
        return;
    if (!p->value_string) {
        sb_add(&p->value, s, n);
        p->failed = p->failed || p->value.failed;
        return;
    }
    strbuf t = {0}; /* what was held (at most one newline) and this, without a newline at the end */
    sb_add(&t, p->value.s ? p->value.s : "", p->value.n);
    sb_add(&t, s, n);
    sb_clear(&p->value);
    if (!t.failed && t.n && t.s[t.n - 1] == '\n') {
        sb_char(&p->value, '\n');
        t.n--;
    }
    p->failed = p->failed || t.failed;
    sb_clear(&p->out);
    if (!t.failed)
        out_json(p, t.s, t.n);
    if (!p->failed && p->out.n > 2)
        cp_args_text(p, (p->out.s[p->out.n - 1] = 0, p->out.s + 1), p->out.n - 2);
    sb_free(&t);
}

/* Python's spellings count as JSON too. */
static const char *python_word(const char *s, size_t n)
{
    static const struct { const char *py, *json; } words[] = {{"True", "true"}, {"False", "false"}, {"None", "null"}};
    for (size_t i = 0; i < 3; i++)
        if (n == strlen(words[i].py) && !memcmp(s, words[i].py, n))
            return words[i].json;
    return NULL;
}

static bool valid_json(const char *s, size_t n)
{
    jr r;
    jr_init(&r, s, n, "value", NULL);
    return n && jr_skip(&r) && jr_end(&r);
}

static void param_end(chat_parser *p)
{
    const char *s = p->value.s ? p->value.s : "";
    size_t n = p->value.n;
    sb_clear(&p->out);
    if (p->value_string) {
        sb_char(&p->out, '"'); /* a newline still held is dropped */
    } else {
        const char *t = s;
        size_t m = n;
        if (m && t[m - 1] == '\n')
            m--;
        size_t text_n = m;
        while (m && is_space(t[m - 1]))
            m--;
        while (m && is_space(*t))
            t++, m--;
        const char *word = python_word(t, m);
        if (word)
            sb_str(&p->out, word);
        else if (valid_json(t, m) && !memchr(t, '\n', m))
            sb_add(&p->out, t, m);
        else if (valid_json(t, m)) /* line breaks between tokens are fine */
            sb_add(&p->out, t, m);
        else
            out_json(p, s, text_n);
    }
    sb_clear(&p->value);
    send(p);
}

static void call_end(chat_parser *p)
{
    if (p->open)
        cp_args_text(p, p->n_params ? "}" : "{}", p->n_params ? 1 : 2);
    cp_end(p);
}

static bool drop(chat_parser *p)
{
    if (p->open) {
        call_end(p);
        return cp_after_call(p);
    }
    return p->keep_raw ? cp_not_a_call(p) : cp_after_call(p);
}

#define NAME_MAX_BYTES 300

/* "NAME>" behind "<function=" or "<parameter=": 1 read, 0 no name, -1 more needed. */
static int attribute(chat_parser *p, strbuf *into)
{
    size_t n = cp_n(p), i = 0;
    while (i < n && i < NAME_MAX_BYTES && cp_s(p)[i] != '>' && cp_s(p)[i] != '\n' && cp_s(p)[i] != '<')
        i++;
    if (i == n && i < NAME_MAX_BYTES && !p->final)
        return -1;
    if (i == n || cp_s(p)[i] != '>' || i == 0)
        return 0;
    size_t b = 0, e = i;
    while (e > b && (is_space(cp_s(p)[e - 1]) || strchr("\"'", cp_s(p)[e - 1])))
        e--;
    while (b < e && (is_space(cp_s(p)[b]) || strchr("\"'", cp_s(p)[b])))
        b++;
    sb_clear(into);
    sb_add(into, cp_s(p) + b, e - b);
    p->failed = p->failed || into->failed;
    cp_eat(p, i + 1);
    return e > b;
}

static bool xml_next(chat_parser *p)
{
    if (!cp_skip_space(p))
        return false;
    int x = cp_starts(p, "<function=");
    if (x <= 0)
        return x < 0 ? false : drop(p);
    /* The name must be there too before anything is eaten. */
    if (!memchr(cp_s(p), '>', cp_n(p)) && cp_n(p) < NAME_MAX_BYTES + 16 && !p->final)
        return false;
    cp_eat(p, strlen("<function="));
    if (attribute(p, &p->name) != 1)
        return drop(p);
    cp_begin(p, p->name.s, p->name.n);
    p->n_params = 0;
    p->state = CP_XML_PARAM;
    return true;
}

static bool xml_param(chat_parser *p)
{
    if (!cp_skip_space(p))
        return false;
    int f = cp_starts(p, "<parameter="), e = cp_starts(p, "</function>"), c = cp_starts(p, p->f->close);
    if (f > 0) {
        if (!memchr(cp_s(p), '>', cp_n(p)) && cp_n(p) < NAME_MAX_BYTES + 16 && !p->final)
            return false;
        cp_eat(p, strlen("<parameter="));
        if (attribute(p, &p->key) != 1)
            return drop(p);
        p->state = CP_XML_VALUE;
        param_begin(p);
        return true;
    }
    if (e > 0) {
        cp_eat(p, strlen("</function>"));
        call_end(p);
        return cp_after_call(p);
    }
    if (f < 0 || e < 0 || c < 0)
        return false;
    return drop(p); /* the section's end, or noise */
}

static bool xml_value(chat_parser *p)
{
    static const char *const tags[] = {"</parameter>", "</function>\n</tool_call>", "</function></tool_call>",
                                       "</function>\n</seed:tool_call>", NULL};
    size_t pos, hold;
    int k = cp_find(p, tags, &pos, &hold);
    if (k < 0)
        pos = cp_n(p) - hold;
    value_piece(p, cp_s(p), pos);
    cp_eat(p, pos);
    if (k < 0)
        return false;
    param_end(p);
    if (k == 0)
        cp_eat(p, strlen(tags[0]));
    p->state = CP_XML_PARAM;
    return true;
}

/* ---- GLM ---- */

static bool glm_name(chat_parser *p)
{
    const char *const tags[] = {"\n", "<", NULL};
    size_t pos, hold;
    int k = cp_find(p, tags, &pos, &hold);
    if (k < 0 && cp_n(p) <= NAME_MAX_BYTES && !p->final)
        return false;
    if (k < 0 || pos == 0 || pos > NAME_MAX_BYTES)
        return drop(p);
    size_t n = pos;
    while (n && is_space(cp_s(p)[n - 1]))
        n--;
    for (size_t i = 0; i < n; i++)
        if (is_space(cp_s(p)[i]) || strchr("{}()\"'`,;", cp_s(p)[i]))
            return drop(p);
    sb_clear(&p->name);
    sb_add(&p->name, cp_s(p), n);
    p->failed = p->failed || p->name.failed;
    cp_eat(p, pos);
    p->state = CP_GLM_NEXT; /* begun when a key or the end shows that it is a call */
    return true;
}

static bool glm_next(chat_parser *p)
{
    if (!cp_skip_space(p))
        return false;
    int k = cp_starts(p, "<arg_key>"), c = cp_starts(p, p->f->close);
    if (k < 0 || c < 0)
        return k > 0 || c > 0;
    if (!k && (!c || (!p->open && strcmp(p->f->name, "glm")))) /* <tool_call>word</tool_call> is a call for GLM only */
        return drop(p);
    if (!p->open)
        cp_begin(p, p->name.s ? p->name.s : "", p->name.n);
    if (c) {
        call_end(p);
        return cp_after_call(p);
    }
    cp_eat(p, strlen("<arg_key>"));
    sb_clear(&p->key);
    p->state = CP_GLM_KEY;
    return true;
}

static bool glm_key(chat_parser *p)
{
    const char *const tags[] = {"</arg_key>", NULL};
    size_t pos, hold;
    int k = cp_find(p, tags, &pos, &hold);
    if (k < 0)
        pos = cp_n(p) - hold;
    sb_add(&p->key, cp_s(p), pos);
    p->failed = p->failed || p->key.failed;
    cp_eat(p, pos);
    if (k < 0)
        return false;
    cp_eat(p, strlen(tags[0]));
    p->state = CP_GLM_SEP;
    return true;
}

static bool glm_sep(chat_parser *p)
{
    if (!p->value_first) { /* between the key and its value */
        if (!cp_skip_space(p))
            return false;
        int x = cp_starts(p, "<arg_value>");
        if (x <= 0)
            return x < 0 ? false : drop(p);
        cp_eat(p, strlen("<arg_value>"));
        param_begin(p);
        p->value_first = true;
        return true;
    }
    const char *const tags[] = {"</arg_value>", NULL};
    size_t pos, hold;
    int k = cp_find(p, tags, &pos, &hold);
    if (k < 0)
        pos = cp_n(p) - hold;
    sb_clear(&p->out);
    if (pos && p->value_string) {
        out_json(p, cp_s(p), pos);
        if (!p->failed && p->out.n > 2)
            cp_args_text(p, (p->out.s[p->out.n - 1] = 0, p->out.s + 1), p->out.n - 2);
    } else {
        sb_add(&p->value, cp_s(p), pos);
    }
    cp_eat(p, pos);
    if (k < 0)
        return false;
    cp_eat(p, strlen(tags[0]));
    param_end(p);
    p->value_first = false;
    p->state = CP_GLM_NEXT;
    return true;
}

bool cp_xml_step(chat_parser *p)
{
    switch (p->state) {
    case CP_XML_NEXT: return xml_next(p);
    case CP_XML_PARAM: return xml_param(p);
    case CP_XML_VALUE: return xml_value(p);
    case CP_GLM_NAME:
        p->value_first = false;
        return glm_name(p);
    case CP_GLM_NEXT: return glm_next(p);
    case CP_GLM_KEY: return glm_key(p);
    default: return glm_sep(p);
    }
}

/* The answer ended inside the call: between parameters it can be completed, inside one it stays cut off. */
void cp_xml_finish(chat_parser *p)
{
    if (p->open && (p->state == CP_XML_PARAM || p->state == CP_GLM_NEXT))
        call_end(p);
}

/* The streaming parser: text, reasoning, sections with a name before JSON arguments, gpt-oss's channels. */
#include "text/chat_parse.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/chat_parse_impl.h"

#define HEAD_MAX 2048 /* longest text before a call's arguments or a harmony message */

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

/* ---- output ---- */

static void event(chat_parser *p, chat_event_kind kind, const char *s, size_t n)
{
    chat_event ev = {.kind = kind, .tool = p->n_tools - 1, .text = s, .n = n};
    p->fn(p->user, &ev);
}

/* Text of one kind goes out without the white space at its end, which waits in p->white for what follows. */
void cp_emit(chat_parser *p, chat_event_kind kind, const char *s, size_t n)
{
    if (p->fresh)
        for (; n && is_space(*s); s++)
            n--;
    size_t end = n;
    while (end && is_space(s[end - 1]))
        end--;
    if (end) {
        p->fresh = false;
        sb_clear(&p->out);
        sb_add(&p->out, p->white.s ? p->white.s : "", p->white.n);
        sb_add(&p->out, s, end);
        sb_clear(&p->white);
        if (p->out.failed)
            p->failed = true;
        else
            event(p, kind, p->out.s, p->out.n);
        p->text_seen = p->text_seen || kind == CHAT_EV_CONTENT;
    }
    sb_add(&p->white, s + end, n - end);
    p->failed = p->failed || p->white.failed;
}

void cp_begin(chat_parser *p, const char *name, size_t n)
{
    sb_clear(&p->white);
    sb_clear(&p->raw);
    p->keep_raw = false;
    p->n_tools++;
    p->open = true;
    p->text_seen = false;
    p->block_seen = true;
    sb_clear(&p->out);
    sb_add(&p->out, name, n);
    if (p->out.failed)
        p->failed = true;
    else
        event(p, CHAT_EV_TOOL_BEGIN, p->out.s, p->out.n);
}

void cp_args_text(chat_parser *p, const char *s, size_t n)
{
    if (n)
        event(p, CHAT_EV_TOOL_ARGS, s, n);
}

void cp_end(chat_parser *p)
{
    if (p->open)
        event(p, CHAT_EV_TOOL_END, "", 0);
    p->open = false;
}

/* ---- input ---- */

void cp_eat(chat_parser *p, size_t n)
{
    if (p->keep_raw)
        sb_add(&p->raw, cp_s(p), n);
    p->failed = p->failed || p->raw.failed;
    p->at += n;
}

int cp_find(const chat_parser *p, const char *const *tags, size_t *pos, size_t *hold)
{
    const char *s = cp_s(p);
    size_t n = cp_n(p);
    *hold = 0;
    for (size_t i = 0; i < n; i++)
        for (int k = 0; tags[k]; k++) {
            if (s[i] != tags[k][0])
                continue;
            size_t len = strlen(tags[k]), have = n - i < len ? n - i : len;
            if (memcmp(s + i, tags[k], have))
                continue;
            if (have == len) {
                *pos = i;
                return k;
            }
            if (!p->final) { /* perhaps the beginning of a tag: nothing behind it can be judged yet */
                *hold = n - i;
                return -1;
            }
        }
    return -1;
}

int cp_starts(const chat_parser *p, const char *lit)
{
    size_t len = strlen(lit), n = cp_n(p), have = n < len ? n : len;
    if (memcmp(cp_s(p), lit, have))
        return 0;
    return have == len ? 1 : p->final ? 0 : -1;
}

size_t cp_skip_space(chat_parser *p)
{
    size_t i = 0, n = cp_n(p);
    while (i < n && is_space(cp_s(p)[i]))
        i++;
    cp_eat(p, i);
    return n - i;
}

/* ---- sections ---- */

bool cp_not_a_call(chat_parser *p)
{
    p->keep_raw = false;
    p->state = CP_TEXT;
    if (p->raw.n) {
        strbuf raw = p->raw; /* cp_emit must not see it change */
        p->raw = (strbuf){0};
        cp_emit(p, CHAT_EV_CONTENT, raw.s, raw.n);
        sb_free(&raw);
    }
    p->text_seen = true; /* what began as a call is content: nothing here begins a block any more */
    return true;
}

bool cp_close_section(chat_parser *p)
{
    p->keep_raw = false;
    sb_clear(&p->raw);
    p->state = CP_TEXT;
    p->fresh = true;
    return true;
}

bool cp_after_call(chat_parser *p)
{
    p->state = p->f->close && !p->bare_now ? CP_SKIP_CLOSE : CP_TEXT;
    if (p->state == CP_TEXT)
        return cp_close_section(p);
    return true;
}

/* Up to the closing tag; what stands before it is noise, but a new opening tag or the end of text ends the wait. */
static bool skip_close(chat_parser *p)
{
    const char *const tags[] = {p->f->close, p->f->open, NULL};
    size_t pos, hold;
    int k = cp_find(p, tags, &pos, &hold);
    if (k >= 0) {
        cp_eat(p, k == 0 ? pos + strlen(p->f->close) : pos);
        return cp_close_section(p);
    }
    cp_eat(p, cp_n(p) - hold);
    return false;
}

static void open_section(chat_parser *p, bool bare)
{
    sb_clear(&p->raw);
    p->keep_raw = true;
    p->bare_now = bare;
    p->state = CP_BODY;
}

static bool body(chat_parser *p)
{
    if (p->f->body == CP_LOOSE) {
        sb_clear(&p->value);
        p->state = CP_COLLECT;
        return true;
    }
    if (p->f->body == CP_NAMED) {
        p->state = CP_CALL_NEXT;
        return true;
    }
    if (!cp_skip_space(p))
        return false;
    char c = cp_s(p)[0];
    if (c == '{' || c == '[') {
        cp_json_start(p);
        return true;
    }
    if (p->f->body == CP_TAGGED) {
        int x = cp_starts(p, "<function=");
        if (x < 0)
            return false;
        p->state = x ? CP_XML_NEXT : CP_GLM_NAME;
        p->n_params = 0;
        sb_clear(&p->name);
        return true;
    }
    if (p->f->body == CP_MISTRAL) {
        p->state = CP_CALL_NAME;
        return true;
    }
    return cp_not_a_call(p);
}

/* ---- text and reasoning ---- */

static bool text(chat_parser *p)
{
    const char *tags[3] = {0};
    int n = 0, tool_tag = -1, think_tag = -1;
    if (p->parse_tools) {
        tool_tag = n;
        tags[n++] = p->f->open;
    }
    if (p->parse_reasoning && !p->text_seen) {
        think_tag = n;
        tags[n++] = p->think_open;
    }
    if (p->parse_tools && p->f->bare && !p->text_seen && !p->n_tools) {
        size_t i = 0;
        while (i < cp_n(p) && is_space(cp_s(p)[i]))
            i++;
        if (i < cp_n(p) && cp_s(p)[i] == '{') {
            cp_emit(p, CHAT_EV_CONTENT, cp_s(p), i);
            cp_eat(p, i);
            open_section(p, true);
            return true;
        }
    }
    size_t pos = 0, hold = 0;
    int k = cp_find(p, tags, &pos, &hold);
    if (k < 0)
        pos = cp_n(p) - hold;
    /* Reasoning may only begin where nothing but white space came before it. */
    if (pos && think_tag >= 0) {
        size_t i = 0;
        while (i < pos && is_space(cp_s(p)[i]))
            i++;
        if (i < pos) {
            size_t len; /* one character of text, then look again without that tag */
            len = utf8_get(cp_s(p) + i, pos - i, &(uint32_t){0}, NULL);
            cp_emit(p, CHAT_EV_CONTENT, cp_s(p), i + len);
            cp_eat(p, i + len);
            return true;
        }
    }
    cp_emit(p, CHAT_EV_CONTENT, cp_s(p), pos);
    cp_eat(p, pos);
    if (k < 0)
        return false;
    if (k == tool_tag) {
        open_section(p, false);
        cp_eat(p, strlen(tags[k]));
    } else {
        cp_eat(p, strlen(tags[k]));
        sb_clear(&p->white);
        p->state = CP_REASON;
        p->fresh = true;
    }
    return true;
}

static bool reason(chat_parser *p)
{
    const char *const tags[] = {p->think_close, NULL};
    size_t pos, hold;
    int k = cp_find(p, tags, &pos, &hold);
    if (k < 0)
        pos = cp_n(p) - hold;
    cp_emit(p, CHAT_EV_REASONING, cp_s(p), pos);
    cp_eat(p, pos);
    if (k < 0)
        return false;
    cp_eat(p, strlen(tags[0]));
    sb_clear(&p->white);
    p->text_seen = false;
    p->block_seen = true;
    return cp_close_section(p);
}

/* ---- name, separator, JSON: DeepSeek, Kimi, Mistral ---- */

static bool call_next(chat_parser *p)
{
    const char *const tags[] = {p->f->call_open, p->f->close, NULL};
    if (!cp_skip_space(p))
        return false;
    for (int k = 0; k < 2; k++) {
        int x = cp_starts(p, tags[k]);
        if (x < 0)
            return false;
        if (x) {
            cp_eat(p, strlen(tags[k]));
            if (k == 1)
                return p->keep_raw ? cp_not_a_call(p) : cp_close_section(p);
            p->state = CP_CALL_NAME;
            return true;
        }
    }
    return p->keep_raw ? cp_not_a_call(p) : cp_close_section(p);
}

/* "functions.f:0" (Kimi), "function<sep>f\n```json" (DeepSeek R1), "f" (the others). */
static void name_part(const char **s, size_t *n)
{
    while (*n && is_space((*s)[*n - 1]))
        --*n;
    while (*n && is_space(**s))
        ++*s, --*n;
    if (*n > 10 && !memcmp(*s, "functions.", 10)) {
        *s += 10;
        *n -= 10;
        const char *colon = memrchr(*s, ':', *n);
        if (colon)
            *n = (size_t)(colon - *s);
    }
}

static bool good_name(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] <= ' ' || strchr("<>{}[]\"'()", s[i]))
            return false;
    return n > 0 && n <= 256;
}

static bool call_name(chat_parser *p)
{
    /* Looks no further than a fixed window, so that the answer does not depend on how much has arrived. */
    const char *s = cp_s(p), *close = p->f->call_close ? p->f->call_close : "\n\n";
    size_t window = cp_n(p) < HEAD_MAX ? cp_n(p) : HEAD_MAX;
    const char *brace = memchr(s, '{', window);
    bool ended = memmem(s, brace ? (size_t)(brace - s) : window, close, strlen(close)) != NULL;
    if (!brace && !ended && window < HEAD_MAX && !p->final)
        return false;
    if (!brace || ended)
        return p->keep_raw ? cp_not_a_call(p) : cp_close_section(p);
    size_t n = (size_t)(brace - s), end = n;
    const char *sep = p->f->call_sep ? p->f->call_sep : "[ARGS]";
    const char *at = memmem(s, n, sep, strlen(sep));
    const char *name = s;
    size_t len = at ? (size_t)(at - s) : n;
    if (p->f->body == CP_MISTRAL) {
        const char *id = memmem(s, len, "[CALL_ID]", 9);
        len = id ? (size_t)(id - s) : len;
    } else if (at && len == 8 && !memcmp(s, "function", 8)) {
        name = at + strlen(sep);
        const char *nl = memchr(name, '\n', n - (size_t)(name - s));
        len = nl ? (size_t)(nl - name) : n - (size_t)(name - s);
    }
    name_part(&name, &len);
    if (!good_name(name, len))
        return p->keep_raw ? cp_not_a_call(p) : cp_close_section(p);
    sb_clear(&p->name);
    sb_add(&p->name, name, len);
    cp_eat(p, end);
    cp_begin(p, p->name.s ? p->name.s : "", p->name.n);
    cp_args_start(p);
    p->state = CP_CALL_ARGS;
    return true;
}

static bool call_args(chat_parser *p)
{
    bool done;
    sb_clear(&p->out);
    size_t used = cp_args_feed(p, cp_s(p), cp_n(p), &done);
    cp_args_text(p, p->out.s ? p->out.s : "", p->out.n);
    cp_eat(p, used);
    if (!done)
        return false;
    cp_end(p);
    if (p->harm_tool || !p->f->call_open)
        p->state = p->harm_tool ? CP_HARM_TEXT : CP_TEXT;
    else
        p->state = CP_CALL_NEXT;
    if (p->state == CP_TEXT)
        return cp_after_call(p);
    if (p->state == CP_CALL_NEXT) { /* the rest up to the call's closing tag: "\n```" */
        p->bare_now = false;
        p->state = CP_SKIP_CLOSE;
    }
    return true;
}

/* Behind a named call: its closing tag, then the next call or the section's end. */
static bool named_close(chat_parser *p)
{
    const char *const tags[] = {p->f->call_close, p->f->call_open, p->f->close, NULL};
    size_t pos, hold;
    int k = cp_find(p, tags, &pos, &hold);
    if (k < 0) {
        cp_eat(p, cp_n(p) - hold);
        return false;
    }
    cp_eat(p, k == 0 ? pos + strlen(tags[0]) : pos);
    p->state = CP_CALL_NEXT;
    return true;
}

/* ---- sections read as a whole ---- */

static bool collect(chat_parser *p)
{
    const char *const tags[] = {p->f->close, NULL};
    size_t pos, hold;
    int k = cp_find(p, tags, &pos, &hold);
    if (k < 0)
        pos = cp_n(p) - hold;
    sb_add(&p->value, cp_s(p), pos);
    cp_eat(p, pos);
    if (k < 0)
        return false;
    cp_eat(p, strlen(tags[0]));
    return cp_loose_calls(p, p->value.s ? p->value.s : "", p->value.n) ? cp_close_section(p) : cp_not_a_call(p);
}

/* ---- gpt-oss: <|start|>assistant<|channel|>C to=functions.F <|constrain|>json<|message|>TEXT<|end|> ---- */

static bool harmony_head(chat_parser *p)
{
    static const char tag[] = "<|message|>";
    int first = cp_starts(p, "<|");
    if (first < 0 && cp_n(p) < 2)
        return false;
    /* An answer without any header is content; " to=functions.f<|channel|>..." is a header too. */
    if (!first && !p->block_seen && !p->text_seen && cp_starts(p, " to=") == 0) {
        p->harm_kind = CHAT_EV_CONTENT;
        p->state = CP_HARM_TEXT;
        return true;
    }
    const char *s = cp_s(p);
    size_t window = cp_n(p) < HEAD_MAX ? cp_n(p) : HEAD_MAX;
    const char *end = memmem(s, window, tag, sizeof tag - 1);
    if (!end) {
        if (window < HEAD_MAX && !p->final)
            return false;
        p->harm_kind = CHAT_EV_CONTENT;
        p->state = CP_HARM_TEXT;
        return cp_n(p) > 0;
    }
    size_t pos = (size_t)(end - s);
    const char *to = memmem(s, pos, " to=functions.", 14), *ch = memmem(s, pos, "<|channel|>", 11);
    bool analysis = ch && (size_t)(s + pos - ch) >= 19 && !memcmp(ch + 11, "analysis", 8);
    p->harm_kind = analysis && p->parse_reasoning ? CHAT_EV_REASONING : CHAT_EV_CONTENT;
    p->harm_tool = to && p->parse_tools;
    if (p->harm_tool) {
        const char *name = to + 14;
        size_t len = 0;
        while (name + len < s + pos && !is_space(name[len]) && name[len] != '<')
            len++;
        sb_clear(&p->name);
        sb_add(&p->name, name, len);
        p->harm_tool = good_name(name, len);
    }
    cp_eat(p, pos + sizeof tag - 1);
    sb_clear(&p->white);
    p->fresh = p->block_seen || p->text_seen;
    if (p->text_seen && p->harm_kind == CHAT_EV_CONTENT && !p->harm_tool) {
        sb_str(&p->white, "\n\n"); /* two messages of content are two paragraphs */
        p->fresh = false;
    }
    if (p->harm_kind == CHAT_EV_REASONING)
        p->block_seen = true;
    p->state = CP_HARM_TEXT;
    if (p->harm_tool) {
        cp_begin(p, p->name.s, p->name.n);
        cp_args_start(p);
        p->state = CP_CALL_ARGS;
    }
    return true;
}

static bool harmony_text(chat_parser *p)
{
    static const char *const tags[] = {"<|end|>", "<|call|>", "<|return|>", "<|start|>", NULL};
    size_t pos, hold;
    int k = cp_find(p, tags, &pos, &hold);
    if (k < 0)
        pos = cp_n(p) - hold;
    if (!p->harm_tool)
        cp_emit(p, p->harm_kind, cp_s(p), pos); /* else: noise behind a call's arguments */
    cp_eat(p, pos);
    if (k < 0)
        return false;
    cp_eat(p, strlen(tags[k]));
    p->harm_tool = false;
    p->block_seen = true;
    p->state = CP_HARM_HEAD;
    return true;
}

/* ---- driving ---- */

static bool step(chat_parser *p)
{
    switch (p->state) {
    case CP_TEXT: return text(p);
    case CP_REASON: return reason(p);
    case CP_BODY: return body(p);
    case CP_JSON_CALLS: return cp_json_step(p);
    case CP_CALL_NEXT: return call_next(p);
    case CP_CALL_NAME: return call_name(p);
    case CP_CALL_ARGS: return call_args(p);
    case CP_SKIP_CLOSE: return p->f->call_close ? named_close(p) : skip_close(p);
    case CP_COLLECT: return collect(p);
    case CP_HARM_HEAD: return harmony_head(p);
    case CP_HARM_TEXT: return harmony_text(p);
    default: return cp_xml_step(p);
    }
}

static void run(chat_parser *p)
{
    while ((cp_n(p) || p->final) && !p->failed) {
        size_t at = p->at;
        cp_state s = p->state;
        if (!step(p) || (p->at == at && p->state == s && !cp_n(p)))
            break;
    }
    if (p->at) { /* what is left is short: a tag's beginning, or one header */
        size_t left = p->in.n - p->at;
        memmove(p->in.s, p->in.s + p->at, left);
        p->in.n = left;
        p->at = 0;
    }
}

imp_status chat_parser_new(chat_parser **out, const chat_parse_opts *o, chat_event_fn fn, void *user, imp_err *e)
{
    chat_parser *p = *out = mem_calloc(1, sizeof *p);
    if (!p)
        return err_oom(e, "chat parser", sizeof *p);
    p->f = o->format ? o->format : chat_format_named("hermes");
    p->tools = o->tools;
    p->parse_tools = o->parse_tools;
    p->parse_reasoning = o->parse_reasoning;
    p->fn = fn;
    p->user = user;
    p->think_open = p->f->think[0] ? p->f->think[0] : "<think>";
    p->think_close = p->f->think[1] ? p->f->think[1] : "</think>";
    if (o->forced)
        p->f = cp_force_format(p->f);
    p->state = p->f->body == CP_HARMONY ? CP_HARM_HEAD : o->in_reasoning && o->parse_reasoning ? CP_REASON : CP_TEXT;
    p->fresh = p->state == CP_REASON;
    sb_add(&p->in, "", 0);
    if (!p->in.failed)
        return IMP_OK;
    chat_parser_free(p);
    *out = NULL;
    return err_oom(e, "chat parser", 64);
}

void chat_parser_free(chat_parser *p)
{
    if (!p)
        return;
    strbuf *const bufs[] = {&p->in, &p->white, &p->raw, &p->name, &p->key, &p->out, &p->held_args, &p->value};
    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++)
        sb_free(bufs[i]);
    mem_free(p);
}

imp_status chat_parser_push(chat_parser *p, const char *text, size_t n)
{
    if (p->n_tail) { /* finish the character that the last piece began */
        sb_add(&p->in, p->tail, p->n_tail);
        p->n_tail = 0;
    }
    sb_add(&p->in, text, n);
    if (p->in.failed || p->failed)
        return IMP_E_NOMEM;
    size_t k = utf8_incomplete_tail(p->in.s, p->in.n);
    k = k < sizeof p->tail ? k : sizeof p->tail;
    if (k)
        memcpy(p->tail, p->in.s + p->in.n - k, k);
    p->n_tail = k;
    p->in.n -= k;
    run(p);
    return p->failed ? IMP_E_NOMEM : IMP_OK;
}

imp_status chat_parser_finish(chat_parser *p)
{
    sb_add(&p->in, p->tail, p->n_tail);
    p->n_tail = 0;
    if (p->in.failed || p->failed)
        return IMP_E_NOMEM;
    p->final = true;
    run(p);
    if (p->state == CP_JSON_CALLS)
        cp_json_finish(p);
    else if (p->state >= CP_XML_NEXT && p->state <= CP_GLM_SEP)
        cp_xml_finish(p);
    else if (p->state == CP_COLLECT && cp_loose_calls(p, p->value.s ? p->value.s : "", p->value.n))
        cp_close_section(p);
    if (p->keep_raw)
        cp_not_a_call(p);
    if (p->open && p->state == CP_CALL_ARGS && !p->args.depth && !p->args.in_string)
        cp_args_text(p, "{}", 2); /* named, and no argument came */
    cp_end(p);
    /* White space at the very end belongs to content that was shown, or to an answer of nothing else. */
    if (p->white.n && (p->text_seen || !p->block_seen) && p->state != CP_REASON) {
        event(p, p->state == CP_HARM_TEXT ? p->harm_kind : CHAT_EV_CONTENT, p->white.s, p->white.n);
        sb_clear(&p->white);
    }
    return p->failed ? IMP_E_NOMEM : IMP_OK;
}

int chat_parser_n_tools(const chat_parser *p) { return p->n_tools; }

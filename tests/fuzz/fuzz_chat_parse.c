/* fuzz_chat_parse: byte 0 picks the format, byte 1 the switches and the size of the pieces; the rest is a model's
 * answer. The events must be the same for the whole text and for the pieces, calls properly nested, texts valid UTF-8
 * where the answer is, and without tools and reasoning the content must be the text itself.
 * Seeds: tests/fuzz/seeds/chat_parse, made by make_chat_parse_seeds.py. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/chat_parse.h"

static void check(bool ok)
{
    if (!ok)
        abort();
}

typedef struct log {
    strbuf s;
    int last, n_tools;
    bool open, utf8;
} log;

static void on_event(void *user, const chat_event *ev)
{
    log *l = user;
    check(!l->utf8 || utf8_valid(ev->text, ev->n));
    check(ev->text[ev->n] == 0);
    switch (ev->kind) {
    case CHAT_EV_TOOL_BEGIN:
        check(!l->open && ev->n > 0 && ev->tool == l->n_tools);
        l->n_tools++;
        l->open = true;
        break;
    case CHAT_EV_TOOL_ARGS: check(l->open && ev->n > 0 && ev->tool == l->n_tools - 1); break;
    case CHAT_EV_TOOL_END:
        check(l->open);
        l->open = false;
        break;
    default: check(!l->open && ev->n > 0);
    }
    if (l->last != (int)ev->kind) {
        sb_char(&l->s, '\0');
        sb_char(&l->s, (char)('0' + (int)ev->kind));
    }
    l->last = (int)ev->kind;
    sb_add(&l->s, ev->text, ev->n);
}

static strbuf parse(const chat_parse_opts *o, const char *s, size_t n, size_t piece)
{
    log l = {.last = -1, .utf8 = utf8_valid(s, n)};
    imp_err e = {0};
    chat_parser *p;
    check(chat_parser_new(&p, o, on_event, &l, &e) == IMP_OK);
    for (size_t i = 0; i < n; i += piece)
        check(chat_parser_push(p, s + i, n - i < piece ? n - i : piece) == IMP_OK);
    check(chat_parser_finish(p) == IMP_OK && !l.open && chat_parser_n_tools(p) == l.n_tools);
    chat_parser_free(p);
    return l.s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char json[] = "[{\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{"
                               "\"s\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"}}}}}]";
    if (size < 2)
        return 0;
    size_t n_formats = 0;
    while (chat_format_at(n_formats))
        n_formats++;
    const char *s = (const char *)data + 2;
    size_t n = size - 2;
    arena a = {0};
    imp_err e = {0};
    chat_parse_opts o = {.format = chat_format_at(data[0] % n_formats), .parse_tools = data[1] & 1,
                         .parse_reasoning = data[1] & 2,
                         .in_reasoning = data[1] & 4, .tools = jval_none()};
    check(jval_parse(&a, json, sizeof json - 1, true, "tools", &o.tools, &e) == IMP_OK);
    strbuf whole = parse(&o, s, n, n ? n : 1), pieces = parse(&o, s, n, (data[1] >> 3) + 1u);
    strbuf bytes = parse(&o, s, n, 1);
    check(whole.n == pieces.n && (!whole.n || !memcmp(whole.s, pieces.s, whole.n)));
    check(whole.n == bytes.n && (!whole.n || !memcmp(whole.s, bytes.s, whole.n)));
    if (!o.parse_tools && !o.parse_reasoning && strcmp(chat_format_name(o.format), "harmony"))
        check(n == 0 ? whole.n == 0 : whole.n == n + 2 && !memcmp(whole.s + 2, s, n));
    sb_free(&whole);
    sb_free(&pieces);
    sb_free(&bytes);
    arena_free(&a);
    return 0;
}

/* fuzz_chat: the input is a chat template, a zero byte, and a request's JSON. The template is probed and the request is
 * rendered both ways; what comes out must be valid UTF-8 and covered by its spans, and failures must have a message.
 * Seeds: tests/fuzz/seeds/chat, made by make_chat_seeds.py. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/chat.h"

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void render(const chat_template *t, const char *json, size_t n, chat_mode mode)
{
    arena a = {0};
    imp_err e = {0};
    jinja_out out = {.text = {0}};
    struct tm now = {.tm_year = 125, .tm_mday = 1};
    chat_request r;
    chat_request_init(&r);
    r.mode = mode;
    r.image_marker = mode == CHAT_FIT ? "<image>" : NULL;
    imp_status s = chat_request_parse(&r, &a, json, n, &e);
    if (!r.now)
        r.now = &now;
    if (!s)
        s = chat_render(t, &r, &a, &out, &e);
    check((s == IMP_OK) == (e.status == IMP_OK) && (s == IMP_OK || e.message[0]) && s != IMP_E_INTERNAL);
    size_t at = 0;
    for (size_t i = 0; i < out.n_span; i++) {
        check(out.span[i].begin == at && out.span[i].end > at);
        at = out.span[i].end;
    }
    check(at == out.text.n && utf8_valid(out.text.s ? out.text.s : "", out.text.n));
    jinja_out_free(&out);
    arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    if (!zero)
        return 0;
    imp_err e = {0};
    chat_template *t;
    const char *json = (const char *)zero + 1;
    size_t n = size - (size_t)(zero - data) - 1;
    imp_status s = chat_template_new(&t, (const char *)data, (size_t)(zero - data), "template", &e);
    check((s == IMP_OK) == (t != NULL));
    if (!s) {
        render(t, json, n, CHAT_FIT);
        render(t, json, n, CHAT_VERBATIM);
    }
    chat_template_free(t);
    return 0;
}

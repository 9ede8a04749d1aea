/* Tokens of a rendered prompt. */
#include <string.h>

#include "base/mem.h"
#include "text/chat.h"

imp_status chat_encode(const tok *t, const jinja_out *prompt, tok_ids *out, imp_err *e)
{
    size_t n = prompt->text.n;
    const char *text = prompt->text.s ? prompt->text.s : "";
    uint8_t *data = mem_alloc(n + 1);
    if (!data)
        return err_oom(e, "prompt", n + 1);
    memset(data, 1, n + 1); /* what no span covers is not trusted */
    for (size_t i = 0; i < prompt->n_span; i++)
        if (!prompt->span[i].tainted)
            memset(data + prompt->span[i].begin, 0, prompt->span[i].end - prompt->span[i].begin);
    imp_status s = tok_encode_marked(t, text, data, n, TOK_PARSE_SPECIAL, out, e);
    mem_free(data);
    return s;
}

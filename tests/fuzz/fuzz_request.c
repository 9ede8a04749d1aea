/* fuzz_request: any bytes as the body of each protocol, as far as they go without a model: JSON, and every field's
 * row. What is refused must be refused with a status and a sentence; what is taken must lie in the ranges that the
 * engine checks again. The first byte chooses the protocol. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/chat.h"
#include "server/protocols.h"
#include "server/tools.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const field_set *const sets[] = {&completions_fields, &chat_fields, &messages_fields};
    if (!n)
        return 0;
    size_t which = data[0] % 3;
    arena mem = {0};
    req_err err = {0};
    server_params p;
    server_params_init(&p);
    ask a = {.sampling = p.sampling, .max_completion = -1, .n = 1, .logprobs = -1, .top_logprobs = -1,
             .seeded = true, .mem = &mem, .err = &err};
    json_t *doc = fields_parse_body((const char *)data + 1, n - 1, &err);
    bool ok = doc && fields_read(&a, sets[which], doc) && fields_settle(&a, &p);
    if (ok && which == 1)
        ok = tools_settle(&a) && chat_check(&a);
    if (ok && which == 2)
        ok = messages_convert(&a, doc) && tools_settle(&a) && chat_check(&a);
    check(ok == (err.http == 0));
    check(ok || (err.http >= 400 && err.message[0]));
    if (ok) {
        const imp_sampling *s = &a.sampling;
        check(s->temperature >= 0 && s->temperature <= 2 && s->top_p >= 0 && s->top_p <= 1 && s->top_k >= 0);
        check(isfinite(s->repeat_penalty) && a.n >= 1 && a.n <= 128 && a.logprobs >= -1 && a.logprobs <= 20 &&
              a.max_tokens >= 0);
        check(a.tool_mode != TOOLS_MUST || (json_array_size(a.tools) && (!a.tool_name || a.tool_name[0])));
        for (size_t i = 0; i < json_array_size(a.tools); i++)
            check(json_string_length(json_object_get(json_object_get(json_array_get(a.tools, i), "function"),
                                                     "name")) > 0);
        for (uint32_t i = 0; i < a.n_stop; i++)
            check(a.stop[i] && a.stop[i][0]);
        for (uint32_t i = 0; i < s->n_logit_bias; i++)
            check(s->logit_bias[i].token >= 0 && fabsf(s->logit_bias[i].bias) <= 100);
    }
    json_decref(doc);
    arena_free(&mem);
    return 0;
}

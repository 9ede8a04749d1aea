/* protocols: the fields of each endpoint that generates, as tables; for the fuzzer and the tests of the tables. */
#ifndef IMP_SERVER_PROTOCOLS_H
#define IMP_SERVER_PROTOCOLS_H

#include "server/fields.h"

extern const field_set completions_fields, chat_fields, messages_fields;
/* Anthropic's messages to OpenAI's form; what is made hangs on doc. */
bool messages_convert(ask *a, json_t *doc);

#endif

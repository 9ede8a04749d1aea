/* chat: what the chat protocols share: messages in OpenAI's form, checked, rendered, tokenised. Workers. */
#ifndef IMP_SERVER_CHAT_H
#define IMP_SERVER_CHAT_H

#include "server/fields.h"

/* Are a->messages a conversation? Else the error names the message. */
bool chat_check(ask *a);
/* The prompt of g: a->messages through the template. */
bool chat_prompt(gen *g);

#endif

/* chat_impl: what the chat files share; private to them. */
#ifndef IMP_TEXT_CHAT_IMPL_H
#define IMP_TEXT_CHAT_IMPL_H

#include "text/chat.h"
#include "text/chat_parse.h"

struct chat_template {
    jinja_program *program;
    chat_caps caps;
};

/* Finds out what the template does. Fails only when memory runs out. */
imp_status chat_probe(const jinja_program *p, chat_caps *caps, imp_err *e);

bool chat_str_is(const jval *v, const char *s);
bool chat_set_key(arena *a, jval dict, const jval *key, jval v);
jval chat_copy_dict(arena *a, jval d); /* shallow */

#endif

/* api: how the C API's opaque objects look inside. Front ends in this repository include only imp.h. */
#ifndef IMP_API_API_H
#define IMP_API_API_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/engine.h"
#include "imp.h"

#define API_MAX_TEMPLATES 8
typedef struct api_templates api_templates; /* chat.c */
struct chat_template;
/* tmpl: NULL = the model's, a built-in's name, or a template's text. *own: the caller frees it (chat_template_free). */
imp_status api_template(const imp_model *m, const char *tmpl, struct chat_template **out, bool *own, imp_err *e);

struct imp_model {
    atomic_int refs;        /* one for the caller, one an engine */
    model *m;
    tok *t;                 /* NULL: no vocabulary */
    char *name;
    imp_sampling sampling;  /* the file's own settings, read while opening */
    api_templates *templates;
    imp_model_params par;
};

struct imp_engine {
    engine *g;
    imp_model *m;
};

/* model.c */
void api_model_unref(imp_model *m);
/* chat.c */
struct chat_template;
/* tmpl: NULL = the model's, a built-in's name, or a template's text. *own: the caller frees it (chat_template_free). */
imp_status api_template(const imp_model *m, const char *tmpl, struct chat_template **out, bool *own, imp_err *e);
imp_status api_templates_new(api_templates **out, imp_err *e);
void api_templates_free(api_templates *a);

#endif

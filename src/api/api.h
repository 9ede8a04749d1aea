/* api: how the C API's opaque objects look inside. Front ends in this repository include only imp.h. */
#ifndef IMP_API_API_H
#define IMP_API_API_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "imp.h"

struct imp_model {
    atomic_int refs;        /* one for the caller, one an engine */
    model *m;
    tok *t;                 /* NULL: no vocabulary */
    char *name;
    imp_model_params par;
};

struct imp_engine {
    engine *g;
    imp_model *m;
};

/* model.c */
void api_model_unref(imp_model *m);

#endif

/* open_model: a model of the fixtures, or the test fails with the reason. Include cmocka.h first. */
#ifndef IMP_TESTS_OPEN_MODEL_H
#define IMP_TESTS_OPEN_MODEL_H

#include "imp.h"

static imp_model *open_model(const char *path)
{
    imp_err e = {0};
    imp_model *m = NULL;
    if (imp_model_open(path, NULL, &m, &e) != IMP_OK)
        fail_msg("%s", e.message);
    return m;
}

#endif

/* metajson: JSON texts of a SafeTensors folder. Loading thread only; everything may fail for want of memory. */
#ifndef IMP_FILE_METAJSON_H
#define IMP_FILE_METAJSON_H

#include "base/json.h"
#include "file/modelfile_impl.h"

/* Adds every value of the folder's file `name` to the metadata table, its dotted keys beginning with prefix ("" or
 * "generation_config."). An absent file adds nothing. */
imp_status metajson_load(modelfile *m, const char *name, const char *prefix, imp_err *e);
/* A string of the text, unescaped, in the arena (NUL added); s is NULL when memory ran out. */
meta_str metajson_str(modelfile *m, const jr_str *s);
/* A failed reader (its err not NULL, its name a path) as a model's error: "path: what: offset N: why". */
imp_status metajson_status(const jr *r, const char *what, imp_err *e);

#endif

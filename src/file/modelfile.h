/* modelfile: what GGUF files and SafeTensors folders both become: a flat metadata table and a tensor directory.
 * Opening validates everything (counts, lengths, offsets, shapes, alignment, duplicates, overlaps) before anything is
 * believed; after that every tensor's bytes lie inside its map. Owns its maps; tensors and strings are borrowed from
 * it. After mf_open it is read-only but for the `used` marks, which only the loading thread sets. */
#ifndef IMP_FILE_MODELFILE_H
#define IMP_FILE_MODELFILE_H

#include "base/arena.h"
#include "base/file.h"
#include "base/status.h"
#include "quant/quant.h"

typedef enum meta_type {
    META_BOOL, META_INT /* i64 */, META_UINT /* u64 > INT64_MAX only */, META_FLOAT, META_STR, META_ARRAY, META_NULL
} meta_type;

typedef struct meta_str {
    const char *s; /* not NUL-terminated when borrowed from a GGUF map */
    size_t n;
} meta_str;

typedef struct meta_value {
    meta_type type;
    union {
        bool b;
        int64_t i;
        uint64_t u;
        double f;
        meta_str str;
        struct {
            meta_type elem;   /* arrays of arrays: META_ARRAY; mixed or with objects inside (config.json): META_NULL */
            uint64_t n;
            const struct meta_value *v; /* elem META_ARRAY or META_NULL with n > 0: n values; else NULL */
            /* homogeneous scalars stay packed; read through mf_array_* */
            const void *packed;         /* raw file bytes */
            const meta_str *strs;       /* elem META_STR */
            uint32_t packed_type;       /* GGUF value type of the packed elements */
        } arr;
    };
} meta_value;

typedef struct meta_kv {
    const char *key; /* GGUF key; config.json keys are flattened with dots: "text_config.rope_scaling.factor", an object
                      * inside an array is META_NULL there and its members follow as "layers.0.type". Keys of
                      * generation_config.json and hf_quant_config.json begin with "generation_config." and
                      * "hf_quant_config.". An empty object leaves no trace; the raw text is mf_side_file's. */
    meta_value v;
    bool used;       /* looked up by someone; what is left unread is refused by name. Null says nothing: born used */
} meta_kv;

#define MF_MAX_DIMS 5 /* GGUF has up to 4; a 3-D patch embedding in SafeTensors has 5 */

typedef struct mf_tensor {
    const char *name;
    quant_id type;
    uint32_t n_dims;
    uint64_t dim[MF_MAX_DIMS]; /* dim[0] runs fastest (GGUF's ne0; SafeTensors shapes are reversed); unused are 1.
                                * A scalar has n_dims 0. Only SafeTensors has empty tensors (a dim of 0, n_bytes 0). */
    uint64_t n_bytes;
    const uint8_t *data;       /* inside map; aligned as the file has it, which may be not at all (SafeTensors) */
    const file_map *map;
    bool used;                 /* bound by the family; what is left unbound is refused by name */
} mf_tensor;

typedef struct modelfile modelfile;
typedef enum mf_kind { MF_GGUF, MF_SAFETENSORS } mf_kind;

/* path: a GGUF file (the first of a split set brings the others), a folder with config.json, or random:SHAPE:FORMAT. */
imp_status mf_open(modelfile **out, const char *path, imp_err *e);
void mf_close(modelfile *m); /* NULL is fine */
mf_kind mf_get_kind(const modelfile *m);
const char *mf_path(const modelfile *m);
uint64_t mf_file_bytes(const modelfile *m); /* all files together */

/* Metadata. Lookups mark the key as read. Null and absent are the same to the typed getters. */
const meta_value *mf_meta(modelfile *m, const char *key);           /* NULL when absent */
size_t mf_meta_count(const modelfile *m);
const meta_kv *mf_meta_at(const modelfile *m, size_t i);
/* Typed getters: absent -> IMP_OK with *out = dflt; wrong type or out of range -> error naming the key, wanted, got. */
imp_status mf_get_int(modelfile *m, const char *key, int64_t min, int64_t max, int64_t dflt, int64_t *out, imp_err *e);
imp_status mf_get_float(modelfile *m, const char *key, double dflt, double *out, imp_err *e);
imp_status mf_get_bool(modelfile *m, const char *key, bool dflt, bool *out, imp_err *e);
imp_status mf_get_str(modelfile *m, const char *key, meta_str dflt, meta_str *out, imp_err *e);
/* Elements of a numeric or bool array, converted; false when i is out of range or the type does not fit. */
bool mf_array_int(const meta_value *v, uint64_t i, int64_t *out);
bool mf_array_float(const meta_value *v, uint64_t i, double *out);
bool mf_array_str(const meta_value *v, uint64_t i, meta_str *out);

/* Tensors. */
mf_tensor *mf_tensor_find(modelfile *m, const char *name);           /* NULL when absent; hash lookup */
size_t mf_tensor_count(const modelfile *m);
mf_tensor *mf_tensor_at(modelfile *m, size_t i);                     /* file order */

/* A file that belongs to the model (SafeTensors folders): tokenizer.json, chat_template.jinja, ... NULL data when
 * absent (IMP_OK), always for GGUF. Not NUL-terminated; borrowed until mf_close. Loading thread only. */
imp_status mf_side_file(modelfile *m, const char *name, const char **data, size_t *n, imp_err *e);

#endif

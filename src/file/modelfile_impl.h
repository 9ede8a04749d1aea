/* modelfile_impl: the inside of a modelfile, for the loaders only. A loader (gguf.c, safetensors.c) adds maps, metadata
 * and tensors to an empty modelfile and returns the first failure; mf_close cleans up whatever is there.
 * Loading thread only; everything here may fail for want of memory. */
#ifndef IMP_FILE_MODELFILE_IMPL_H
#define IMP_FILE_MODELFILE_IMPL_H

#include "file/modelfile.h"

/* Longer names are no names; both formats stay far below. It also keeps messages readable. */
#define MF_MAX_NAME 512

/* Finds records by name. The records live in an array of their owner, each beginning with its `const char *` name.
 * Seeded, so that no file can be made whose names all collide. */
typedef struct name_index {
    uint64_t seed;
    struct name_slot {
        uint32_t hash, at; /* at: record number + 1; 0 is a free slot */
    } *slot;
    size_t n_slots, n; /* n_slots: 0 or a power of two, at most half full */
} name_index;

typedef struct meta_set {
    meta_kv *kv;
    size_t n, cap;
    name_index index;
} meta_set;

typedef struct side_file {
    struct side_file *next;
    const char *name;
    file_map map;
    bool present;
} side_file;

struct modelfile {
    mf_kind kind;
    arena mem; /* names, strings, arrays, maps */
    const char *path;
    uint64_t seed;
    file_map **map;
    size_t n_maps, cap_maps;
    meta_set meta;
    mf_tensor *t;
    size_t n_t, cap_t;
    name_index t_index;
    side_file *side;
};

imp_status gguf_load(modelfile *m, imp_err *e);
imp_status safetensors_load(modelfile *m, imp_err *e);

/* Maps a file that the modelfile then owns; *out stays where it is. */
imp_status mf_add_map(modelfile *m, const char *path, const file_map **out, imp_err *e);
/* A model that is made up: "random:SHAPE:FORMAT" (random.c). */
#define RANDOM_PREFIX "random:"
imp_status random_map_open(file_map *m, const char *spec, imp_err *e);
/* Adds a record whose name is in the arena. where: file name for the message when the name is taken. */
imp_status meta_add(modelfile *m, meta_set *set, const char *key, meta_value v, const char *where, imp_err *e);
meta_kv *meta_find(const meta_set *set, const char *key);
void meta_clear(meta_set *set);
imp_status mf_add_tensor(modelfile *m, const mf_tensor *t, const char *where, imp_err *e);
/* Do tensors [from, n_t), all of one file, share bytes? */
imp_status mf_check_overlap(modelfile *m, size_t from, const char *where, imp_err *e);
/* A name that can be shown and compared as a C string: 1..max bytes, valid UTF-8, no control characters. NULL: fine;
 * else what is wrong with it. */
const char *mf_name_fault(const char *s, size_t n, size_t max);
/* "BF16[4096,512]" for messages (dim[0] first). */
void mf_tensor_describe(const mf_tensor *t, char *buf, size_t n);
const char *meta_type_name(meta_type t); /* "an integer" */

/* Folder `dir` and name `name`, in the arena; NULL when memory ran out. */
char *mf_join(modelfile *m, const char *dir, const char *name);

#endif

/* The modelfile itself: opening by kind, the metadata table, the tensor directory, side files. */
#include "file/modelfile_impl.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/ck.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/utf8.h"

/* ---- names ------------------------------------------------------------------------------------------------------- */

static uint32_t name_hash(uint64_t seed, const char *s, size_t n)
{
    uint64_t h = seed ^ n * 0x9E3779B97F4A7C15u;
    while (n) {
        uint64_t w = 0;
        size_t k = n < 8 ? n : 8;
        memcpy(&w, s, k);
        s += k;
        n -= k;
        unsigned __int128 p = (unsigned __int128)(h ^ w) * 0xD6E8FEB86659FD93u;
        h = (uint64_t)p ^ (uint64_t)(p >> 64) ^ seed;
    }
    return (uint32_t)(h ^ h >> 32);
}

static const char *record_name(const void *base, size_t stride, size_t i)
{
    const char *name;
    memcpy(&name, (const char *)base + i * stride, sizeof name);
    return name;
}

/* Slot of the name, or of the free place where it belongs. */
static struct name_slot *name_seek(const name_index *x, const void *base, size_t stride, const char *name, uint32_t h)
{
    size_t mask = x->n_slots - 1;
    for (size_t i = h & mask;; i = (i + 1) & mask) {
        struct name_slot *s = &x->slot[i];
        if (!s->at || (s->hash == h && strcmp(record_name(base, stride, s->at - 1), name) == 0))
            return s;
    }
}

static bool name_find(const name_index *x, const void *base, size_t stride, const char *name, size_t *at)
{
    if (!x->n_slots)
        return false;
    struct name_slot *s = name_seek(x, base, stride, name, name_hash(x->seed, name, strlen(name)));
    *at = (size_t)s->at - 1;
    return s->at != 0;
}

static imp_status name_grow(name_index *x, imp_err *e)
{
    size_t n = x->n_slots ? x->n_slots * 2 : 64, bytes;
    struct name_slot *slot = ck_mul_sz(n, sizeof *slot, &bytes) ? mem_calloc(n, sizeof *slot) : NULL;
    if (!slot)
        return err_oom(e, "name table", bytes);
    for (size_t i = 0; i < x->n_slots; i++) {
        if (!x->slot[i].at)
            continue;
        size_t k = x->slot[i].hash & (n - 1);
        while (slot[k].at)
            k = (k + 1) & (n - 1);
        slot[k] = x->slot[i];
    }
    mem_free(x->slot);
    x->slot = slot;
    x->n_slots = n;
    return IMP_OK;
}

/* Registers record number `at`, already in the array; *taken when the name is there before. */
static imp_status name_add(name_index *x, const void *base, size_t stride, size_t at, bool *taken, imp_err *e)
{
    *taken = false;
    if (x->n >= x->n_slots / 2) {
        imp_status s = name_grow(x, e);
        if (s != IMP_OK)
            return s;
    }
    const char *name = record_name(base, stride, at);
    uint32_t h = name_hash(x->seed, name, strlen(name));
    struct name_slot *s = name_seek(x, base, stride, name, h);
    if (s->at) {
        *taken = true;
        return IMP_OK;
    }
    *s = (struct name_slot){h, (uint32_t)at + 1};
    x->n++;
    return IMP_OK;
}

/* Room for one more element of an owned array; the counts fit in 31 bits so that an index slot can hold them. */
static imp_status reserve(void *array, size_t *cap, size_t n, size_t size, const char *what, imp_err *e)
{
    if (n < *cap)
        return IMP_OK;
    size_t want = *cap ? *cap * 2 : 64, bytes;
    if (n >= INT32_MAX || !ck_mul_sz(want, size, &bytes))
        return err_set(e, IMP_E_LIMIT, "%s: more than %d", what, INT32_MAX);
    void *old, *p;
    memcpy(&old, array, sizeof old);
    p = mem_realloc(old, bytes);
    if (!p)
        return err_oom(e, what, bytes);
    memcpy(array, &p, sizeof p);
    *cap = want;
    return IMP_OK;
}

const char *mf_name_fault(const char *s, size_t n, size_t max)
{
    if (!n)
        return "is empty";
    if (n > max)
        return "is too long";
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7F)
            return "holds a control character";
    return utf8_valid(s, n) ? NULL : "is not valid UTF-8";
}

/* ---- building ---------------------------------------------------------------------------------------------------- */

imp_status mf_add_map(modelfile *m, const char *path, const file_map **out, imp_err *e)
{
    *out = NULL;
    imp_status s = reserve(&m->map, &m->cap_maps, m->n_maps, sizeof *m->map, "list of files", e);
    if (s != IMP_OK)
        return s;
    file_map *f = ARENA_NEW(&m->mem, file_map);
    if (!f)
        return err_oom(e, path, sizeof *f);
    bool made_up = strncmp(path, RANDOM_PREFIX, strlen(RANDOM_PREFIX)) == 0;
    s = made_up ? random_map_open(f, path, e) : file_map_open(f, path, e);
    if (s == IMP_OK)
        *out = m->map[m->n_maps++] = f;
    return s;
}

imp_status meta_add(modelfile *m, meta_set *set, const char *key, meta_value v, const char *where, imp_err *e)
{
    imp_status s = reserve(&set->kv, &set->cap, set->n, sizeof *set->kv, "metadata table", e);
    if (s != IMP_OK)
        return s;
    set->index.seed = m->seed;
    set->kv[set->n] = (meta_kv){.key = key, .v = v, .used = v.type == META_NULL};
    bool taken;
    s = name_add(&set->index, set->kv, sizeof *set->kv, set->n, &taken, e);
    if (s != IMP_OK)
        return s;
    if (taken)
        return err_set(e, IMP_E_MODEL, "%s: key '%s': appears twice", where, key);
    set->n++;
    return IMP_OK;
}

meta_kv *meta_find(const meta_set *set, const char *key)
{
    size_t i;
    return name_find(&set->index, set->kv, sizeof *set->kv, key, &i) ? &set->kv[i] : NULL;
}

void meta_clear(meta_set *set)
{
    mem_free(set->kv);
    mem_free(set->index.slot);
    *set = (meta_set){0};
}

imp_status mf_add_tensor(modelfile *m, const mf_tensor *t, const char *where, imp_err *e)
{
    imp_status s = reserve(&m->t, &m->cap_t, m->n_t, sizeof *m->t, "tensor directory", e);
    if (s != IMP_OK)
        return s;
    m->t_index.seed = m->seed;
    m->t[m->n_t] = *t;
    bool taken;
    s = name_add(&m->t_index, m->t, sizeof *m->t, m->n_t, &taken, e);
    if (s != IMP_OK)
        return s;
    if (taken)
        return err_set(e, IMP_E_MODEL, "%s: tensor '%s': appears twice", where, t->name);
    m->n_t++;
    return IMP_OK;
}

static int by_place(const void *a, const void *b)
{
    const mf_tensor *const *x = a, *const *y = b;
    if ((*x)->data != (*y)->data)
        return (*x)->data < (*y)->data ? -1 : 1;
    if ((*x)->n_bytes != (*y)->n_bytes) /* empty ones first: they overlap nothing */
        return (*x)->n_bytes < (*y)->n_bytes ? -1 : 1;
    return 0;
}

imp_status mf_check_overlap(modelfile *m, size_t from, const char *where, imp_err *e)
{
    size_t n = m->n_t - from;
    const mf_tensor **order = mem_alloc(n * sizeof *order);
    if (!order)
        return err_oom(e, "tensor order", n * sizeof *order);
    bool sorted = true;
    for (size_t i = 0; i < n; i++) {
        order[i] = &m->t[from + i];
        sorted = sorted && (!i || by_place(&order[i - 1], &order[i]) <= 0);
    }
    if (!sorted)
        qsort(order, n, sizeof *order, by_place);
    imp_status s = IMP_OK;
    for (size_t i = 1; i < n && s == IMP_OK; i++) {
        const mf_tensor *a = order[i - 1], *b = order[i];
        if ((uint64_t)(b->data - a->data) < a->n_bytes)
            s = err_set(e, IMP_E_MODEL,
                        "%s: tensor '%s': its data at byte %llu overlaps tensor '%s' (bytes %llu to %llu)", where,
                        b->name, (unsigned long long)(b->data - b->map->data), a->name,
                        (unsigned long long)(a->data - a->map->data),
                        (unsigned long long)(a->data - a->map->data) + a->n_bytes);
    }
    mem_free(order);
    return s;
}

void mf_tensor_describe(const mf_tensor *t, char *buf, size_t n)
{
    const quant_fmt *f = quant_get(t->type);
    int k = snprintf(buf, n, "%s[", f ? f->name : "?");
    for (uint32_t i = 0; i < t->n_dims && k >= 0 && (size_t)k < n; i++)
        k += snprintf(buf + k, n - (size_t)k, "%s%llu", i ? "," : "", (unsigned long long)t->dim[i]);
    if (k >= 0 && (size_t)k < n)
        snprintf(buf + k, n - (size_t)k, "]");
}

char *mf_join(modelfile *m, const char *dir, const char *name)
{
    size_t n = strlen(dir);
    return arena_printf(&m->mem, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

/* A folder that is not a SafeTensors model: says what was wanted, and names a GGUF file if one lies there. */
static imp_status refuse_folder(const char *path, imp_err *e)
{
    char found[256] = "";
    DIR *d = opendir(path);
    for (struct dirent *f; d && (f = readdir(d));) {
        size_t n = strlen(f->d_name);
        if (n > 5 && n < sizeof found && strcmp(f->d_name + n - 5, ".gguf") == 0 &&
            (!found[0] || strcmp(f->d_name, found) < 0))
            memcpy(found, f->d_name, n + 1);
    }
    if (d)
        closedir(d);
    if (found[0])
        return err_set(e, IMP_E_MODEL, "%s: holds no config.json; to use a GGUF file in it, name the file (%s)", path,
                       found);
    return err_set(e, IMP_E_MODEL,
                   "%s: holds no config.json; wanted a GGUF file or a folder with config.json and SafeTensors", path);
}

imp_status mf_open(modelfile **out, const char *path, imp_err *e)
{
    *out = NULL;
    modelfile *m = mem_calloc(1, sizeof *m);
    if (!m)
        return err_oom(e, path, sizeof *m);
    if (getrandom(&m->seed, sizeof m->seed, GRND_NONBLOCK) != (ssize_t)sizeof m->seed)
        m->seed = (uint64_t)clock_ns();
    m->path = arena_strdup(&m->mem, path);
    char *config = mf_join(m, path, "config.json");
    imp_status s;
    if (!m->path || !config) {
        s = err_oom(e, path, strlen(path));
    } else if (!file_is_dir(path)) {
        m->kind = MF_GGUF;
        s = gguf_load(m, e);
    } else if (!file_exists(config)) {
        s = refuse_folder(path, e);
    } else {
        m->kind = MF_SAFETENSORS;
        s = safetensors_load(m, e);
    }
    if (s != IMP_OK) {
        mf_close(m);
        return s;
    }
    *out = m;
    return IMP_OK;
}

void mf_close(modelfile *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n_maps; i++)
        file_map_close(m->map[i]);
    for (side_file *f = m->side; f; f = f->next)
        if (f->present)
            file_map_close(&f->map);
    mem_free(m->map);
    mem_free(m->t);
    mem_free(m->t_index.slot);
    meta_clear(&m->meta);
    arena_free(&m->mem);
    mem_free(m);
}

mf_kind mf_get_kind(const modelfile *m) { return m->kind; }
const char *mf_path(const modelfile *m) { return m->path; }

uint64_t mf_file_bytes(const modelfile *m)
{
    uint64_t n = 0;
    for (size_t i = 0; i < m->n_maps; i++)
        n += m->map[i]->size;
    return n;
}

/* ---- metadata ---------------------------------------------------------------------------------------------------- */

const meta_value *mf_meta(modelfile *m, const char *key)
{
    meta_kv *kv = meta_find(&m->meta, key);
    if (!kv)
        return NULL;
    kv->used = true;
    return &kv->v;
}

size_t mf_meta_count(const modelfile *m) { return m->meta.n; }
const meta_kv *mf_meta_at(const modelfile *m, size_t i) { return i < m->meta.n ? &m->meta.kv[i] : NULL; }

const char *meta_type_name(meta_type t)
{
    static const char *const name[] = {
        [META_BOOL] = "a boolean", [META_INT] = "an integer", [META_UINT] = "an integer past 2^63",
        [META_FLOAT] = "a number", [META_STR] = "a string",   [META_ARRAY] = "an array",
        [META_NULL] = "null",
    };
    return (size_t)t < CK_COUNT(name) ? name[t] : "?";
}

/* The value for a typed getter; NULL when absent or null. */
static const meta_value *lookup(modelfile *m, const char *key)
{
    const meta_value *v = mf_meta(m, key);
    return v && v->type != META_NULL ? v : NULL;
}

static imp_status wrong_type(modelfile *m, const char *key, const char *want, const meta_value *v, imp_err *e)
{
    return err_set(e, IMP_E_MODEL, "%s: key '%s': wanted %s, got %s", m->path, key, want, meta_type_name(v->type));
}

static bool integral(double d) { return d >= -0x1p63 && d < 0x1p63 && d == floor(d); }

imp_status mf_get_int(modelfile *m, const char *key, int64_t min, int64_t max, int64_t dflt, int64_t *out, imp_err *e)
{
    *out = dflt;
    const meta_value *v = lookup(m, key);
    if (!v)
        return IMP_OK;
    int64_t i = 0;
    if (v->type == META_INT) {
        i = v->i;
    } else if (v->type == META_FLOAT && integral(v->f)) {
        i = (int64_t)v->f;
    } else if (v->type == META_UINT) {
        return err_set(e, IMP_E_MODEL, "%s: key '%s': wanted an integer from %lld to %lld, got %llu", m->path, key,
                       (long long)min, (long long)max, (unsigned long long)v->u);
    } else if (v->type == META_FLOAT) {
        return err_set(e, IMP_E_MODEL, "%s: key '%s': wanted an integer, got %g", m->path, key, v->f);
    } else {
        return wrong_type(m, key, "an integer", v, e);
    }
    if (i < min || i > max)
        return err_set(e, IMP_E_MODEL, "%s: key '%s': wanted an integer from %lld to %lld, got %lld", m->path, key,
                       (long long)min, (long long)max, (long long)i);
    *out = i;
    return IMP_OK;
}

/* A scalar number as a double. */
static bool scalar_float(const meta_value *v, double *out)
{
    if (v->type == META_FLOAT)
        *out = v->f;
    else if (v->type == META_INT)
        *out = (double)v->i;
    else if (v->type == META_UINT)
        *out = (double)v->u;
    else
        return false;
    return true;
}

imp_status mf_get_float(modelfile *m, const char *key, double dflt, double *out, imp_err *e)
{
    *out = dflt;
    const meta_value *v = lookup(m, key);
    double d;
    if (!v)
        return IMP_OK;
    if (!scalar_float(v, &d))
        return wrong_type(m, key, "a number", v, e);
    if (!isfinite(d))
        return err_set(e, IMP_E_MODEL, "%s: key '%s': wanted a finite number, got %g", m->path, key, d);
    *out = d;
    return IMP_OK;
}

imp_status mf_get_bool(modelfile *m, const char *key, bool dflt, bool *out, imp_err *e)
{
    const meta_value *v = lookup(m, key);
    *out = v && v->type == META_BOOL ? v->b : dflt;
    return !v || v->type == META_BOOL ? IMP_OK : wrong_type(m, key, "a boolean", v, e);
}

imp_status mf_get_str(modelfile *m, const char *key, meta_str dflt, meta_str *out, imp_err *e)
{
    const meta_value *v = lookup(m, key);
    *out = v && v->type == META_STR ? v->str : dflt;
    return !v || v->type == META_STR ? IMP_OK : wrong_type(m, key, "a string", v, e);
}

/* ---- array elements. The packed types are GGUF's value types; SafeTensors configs use three of them. ------------- */

static bool packed_at(const meta_value *v, uint64_t i, meta_value *out)
{
#define IMP_ELEM(code, T, kind, field) \
    case code: { \
        T x; \
        memcpy(&x, (const char *)v->arr.packed + i * sizeof x, sizeof x); \
        *out = (meta_value){.type = kind, .field = x}; \
        return true; \
    }
    switch (v->arr.packed_type) {
        IMP_ELEM(0, uint8_t, META_INT, i)
        IMP_ELEM(1, int8_t, META_INT, i)
        IMP_ELEM(2, uint16_t, META_INT, i)
        IMP_ELEM(3, int16_t, META_INT, i)
        IMP_ELEM(4, uint32_t, META_INT, i)
        IMP_ELEM(5, int32_t, META_INT, i)
        IMP_ELEM(6, float, META_FLOAT, f)
        IMP_ELEM(7, uint8_t, META_INT, i)
        IMP_ELEM(10, uint64_t, META_UINT, u)
        IMP_ELEM(11, int64_t, META_INT, i)
        IMP_ELEM(12, double, META_FLOAT, f)
    default: return false;
    }
#undef IMP_ELEM
}

static bool element(const meta_value *v, uint64_t i, meta_value *out)
{
    if (v->type != META_ARRAY || i >= v->arr.n)
        return false;
    if (v->arr.v) {
        *out = v->arr.v[i];
        if (out->type == META_BOOL)
            *out = (meta_value){.type = META_INT, .i = out->b};
        return true;
    }
    if (v->arr.strs) {
        *out = (meta_value){.type = META_STR, .str = v->arr.strs[i]};
        return true;
    }
    return v->arr.packed && packed_at(v, i, out);
}

bool mf_array_int(const meta_value *v, uint64_t i, int64_t *out)
{
    meta_value x;
    if (!element(v, i, &x))
        return false;
    if (x.type == META_INT)
        *out = x.i;
    else if (x.type == META_UINT && x.u <= INT64_MAX)
        *out = (int64_t)x.u;
    else if (x.type == META_FLOAT && integral(x.f))
        *out = (int64_t)x.f;
    else
        return false;
    return true;
}

bool mf_array_float(const meta_value *v, uint64_t i, double *out)
{
    meta_value x;
    return element(v, i, &x) && scalar_float(&x, out);
}

bool mf_array_str(const meta_value *v, uint64_t i, meta_str *out)
{
    meta_value x;
    if (!element(v, i, &x) || x.type != META_STR)
        return false;
    *out = x.str;
    return true;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

mf_tensor *mf_tensor_find(modelfile *m, const char *name)
{
    size_t i;
    return name_find(&m->t_index, m->t, sizeof *m->t, name, &i) ? &m->t[i] : NULL;
}

size_t mf_tensor_count(const modelfile *m) { return m->n_t; }
mf_tensor *mf_tensor_at(modelfile *m, size_t i) { return i < m->n_t ? &m->t[i] : NULL; }

/* ---- side files -------------------------------------------------------------------------------------------------- */

imp_status mf_side_file(modelfile *m, const char *name, const char **data, size_t *n, imp_err *e)
{
    *data = NULL;
    *n = 0;
    if (m->kind != MF_SAFETENSORS)
        return IMP_OK;
    side_file *f = m->side;
    while (f && strcmp(f->name, name) != 0)
        f = f->next;
    if (!f) {
        if (strchr(name, '/'))
            return err_set(e, IMP_E_USAGE, "%s: '%s' is not the name of a file in the folder", m->path, name);
        f = ARENA_NEW(&m->mem, side_file);
        char *path = mf_join(m, m->path, name);
        if (!f || !path || !(f->name = arena_strdup(&m->mem, name)))
            return err_oom(e, name, strlen(name));
        imp_err local = {0};
        imp_status s = file_map_open(&f->map, path, &local);
        if (s != IMP_OK && s != IMP_E_NOTFOUND)
            return err_set(e, s, "%s", local.message);
        f->present = s == IMP_OK;
        f->next = m->side;
        m->side = f;
    }
    if (f->present) {
        *data = f->map.data ? (const char *)f->map.data : "";
        *n = f->map.size;
    }
    return IMP_OK;
}

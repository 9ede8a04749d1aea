/* gguf: reads GGUF version 2 and 3, little-endian, single files and split sets.
 *
 *   "GGUF" | u32 version | u64 n_tensors | u64 n_kv | n_kv x {str key, u32 type, value}
 *   | n_tensors x {str name, u32 n_dims, n_dims x u64 dim, u32 type, u64 offset} | padding | tensor data
 *   str = u64 n, n bytes; array value = u32 type, u64 n, n elements; offsets count from the aligned start of the data.
 *
 * The cursor is sticky: the first failure stays in `status`, and everything after it reads zeros and returns at once.
 * Nothing is allocated for a count before that many elements have been seen to fit in the file. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/ck.h"
#include "base/mem.h"
#include "file/modelfile_impl.h"

#define GGUF_MAX_DIMS 4
#define GGUF_MAX_KEY 65535u         /* the format's own limit */
#define GGUF_MAX_NEST 4             /* arrays of arrays: nobody writes more than one level; bounds the recursion */
#define GGUF_DEFAULT_ALIGN 32
#define GGUF_MIN_KV (8 + 1 + 4 + 1) /* smallest key-value pair and tensor record: bounds for counts */
#define GGUF_MIN_TENSOR (8 + 1 + 4 + 4 + 8)

enum {
    GV_U8, GV_I8, GV_U16, GV_I16, GV_U32, GV_I32, GV_F32, GV_BOOL, GV_STR, GV_ARRAY, GV_U64, GV_I64, GV_F64,
    GV_COUNT
};

static const struct {
    uint8_t size; /* 0: not a scalar */
    meta_type meta;
    const char *name;
} VALUE[GV_COUNT] = {
    [GV_U8] = {1, META_INT, "u8"},    [GV_I8] = {1, META_INT, "i8"},    [GV_U16] = {2, META_INT, "u16"},
    [GV_I16] = {2, META_INT, "i16"},  [GV_U32] = {4, META_INT, "u32"},  [GV_I32] = {4, META_INT, "i32"},
    [GV_F32] = {4, META_FLOAT, "f32"}, [GV_BOOL] = {1, META_BOOL, "bool"}, [GV_STR] = {0, META_STR, "string"},
    [GV_ARRAY] = {0, META_ARRAY, "array"}, [GV_U64] = {8, META_INT, "u64"}, [GV_I64] = {8, META_INT, "i64"},
    [GV_F64] = {8, META_FLOAT, "f64"},
};

typedef struct gguf {
    modelfile *m;
    const file_map *map;
    const char *file;
    uint64_t pos;
    uint64_t n_tensors, n_kv, alignment;
    char what[MF_MAX_NAME + 16]; /* the thing being read, for messages: "key 'x'", "tensor 'y'"; may be empty */
    imp_err *e;
    imp_status status;
} gguf;

__attribute__((format(printf, 3, 4))) static void fail(gguf *g, imp_status s, const char *fmt, ...)
{
    if (g->status != IMP_OK)
        return;
    char why[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    g->status = err_set(g->e, s, "%s: %s%s%s", g->file, g->what, g->what[0] ? ": " : "", why);
}

static void fail_oom(gguf *g, uint64_t n)
{
    fail(g, IMP_E_NOMEM, "out of memory (%" PRIu64 " bytes wanted)", n);
}

/* ---- cursor ------------------------------------------------------------------------------------------------------ */

static uint64_t left(const gguf *g) { return g->map->size - g->pos; }

/* n bytes at the cursor, or NULL with the failure set. */
static const uint8_t *take(gguf *g, uint64_t n, const char *part)
{
    if (g->status != IMP_OK)
        return NULL;
    if (n > left(g)) {
        fail(g, IMP_E_MODEL,
             "%s at byte %" PRIu64 " wants %" PRIu64 " bytes, the file has %" PRIu64 " left (is it truncated?)", part,
             g->pos, n, left(g));
        return NULL;
    }
    const uint8_t *p = g->map->data + g->pos;
    g->pos += n;
    return p;
}

static uint32_t get_u32(gguf *g, const char *part)
{
    const uint8_t *p = take(g, 4, part);
    uint32_t v = 0;
    if (p)
        memcpy(&v, p, 4);
    return v;
}

static uint64_t get_u64(gguf *g, const char *part)
{
    const uint8_t *p = take(g, 8, part);
    uint64_t v = 0;
    if (p)
        memcpy(&v, p, 8);
    return v;
}

static meta_str get_str(gguf *g, const char *part)
{
    uint64_t n = get_u64(g, part);
    const uint8_t *p = take(g, n, part);
    return p ? (meta_str){(const char *)p, (size_t)n} : (meta_str){"", 0};
}

/* A key or tensor name, copied so that it ends in NUL. It becomes g->what. */
static const char *get_name(gguf *g, const char *kind, uint64_t number, size_t max)
{
    snprintf(g->what, sizeof g->what, "%s number %" PRIu64, kind, number);
    meta_str s = get_str(g, "its name");
    const char *fault = g->status == IMP_OK ? mf_name_fault(s.s, s.n, max) : NULL;
    if (fault)
        fail(g, IMP_E_MODEL, "its name %s (%zu bytes)", fault, s.n);
    if (g->status != IMP_OK)
        return NULL;
    char *name = arena_strndup(&g->m->mem, s.s, s.n);
    if (!name)
        fail_oom(g, s.n);
    else
        snprintf(g->what, sizeof g->what, "%s '%.*s'", kind, MF_MAX_NAME, name);
    return name;
}

/* ---- metadata values --------------------------------------------------------------------------------------------- */

static void check_bool(gguf *g, const uint8_t *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (p[i] > 1) {
            fail(g, IMP_E_MODEL, "wanted a boolean (0 or 1), got %u", p[i]);
            return;
        }
}

static meta_value get_scalar(gguf *g, uint32_t type)
{
    meta_value v = {.type = VALUE[type].meta};
    const uint8_t *p = take(g, VALUE[type].size, VALUE[type].name);
    if (!p)
        return v;
    if (type == GV_BOOL) {
        check_bool(g, p, 1);
        v.b = *p == 1;
        return v;
    }
    meta_value one = {.type = META_ARRAY, .arr = {.n = 1, .packed = p, .packed_type = type}};
    if (type == GV_U64) {
        memcpy(&v.u, p, 8);
        v.type = v.u > INT64_MAX ? META_UINT : META_INT;
    } else if (v.type == META_INT) {
        mf_array_int(&one, 0, &v.i);
    } else {
        mf_array_float(&one, 0, &v.f);
    }
    return v;
}

static meta_value get_array(gguf *g, unsigned nest);

/* n strings. They are first only walked over: a count that lies is found out before memory is taken for it. */
static const meta_str *get_strings(gguf *g, uint64_t n)
{
    uint64_t start = g->pos, i = 0;
    const uint8_t *data = g->map->data;
    for (; i < n; i++) {
        uint64_t len;
        if (left(g) < 8)
            break;
        memcpy(&len, data + g->pos, 8);
        if (len > left(g) - 8)
            break;
        g->pos += 8 + len;
    }
    if (i < n) {
        fail(g, IMP_E_MODEL,
             "string %" PRIu64 " of %" PRIu64 " at byte %" PRIu64 " runs past the end of the file (%" PRIu64 " bytes)",
             i + 1, n, g->pos, g->map->size);
        return NULL;
    }
    meta_str *s = ARENA_ARRAY(&g->m->mem, meta_str, (size_t)n);
    if (!s) {
        fail_oom(g, n * sizeof *s);
        return NULL;
    }
    for (i = 0; i < n; i++) {
        uint64_t len;
        memcpy(&len, data + start, 8);
        s[i] = (meta_str){(const char *)data + start + 8, (size_t)len};
        start += 8 + len;
    }
    return s;
}

/* n arrays, each at least 12 bytes long; the values stay within a small multiple of the file's size. */
static const meta_value *get_arrays(gguf *g, uint64_t n, unsigned nest)
{
    if (nest >= GGUF_MAX_NEST) {
        fail(g, IMP_E_LIMIT, "arrays nested deeper than %d levels", GGUF_MAX_NEST);
        return NULL;
    }
    if (n > left(g) / 12) {
        fail(g, IMP_E_MODEL, "%" PRIu64 " arrays do not fit in the %" PRIu64 " bytes left of the file", n, left(g));
        return NULL;
    }
    meta_value *v = ARENA_ARRAY(&g->m->mem, meta_value, (size_t)n);
    if (!v)
        fail_oom(g, n * sizeof *v);
    for (uint64_t i = 0; v && i < n && g->status == IMP_OK; i++)
        v[i] = get_array(g, nest + 1);
    return v;
}

static meta_value get_array(gguf *g, unsigned nest)
{
    meta_value v = {.type = META_ARRAY};
    uint32_t type = get_u32(g, "array type");
    uint64_t n = get_u64(g, "array length"), bytes;
    if (type >= GV_COUNT)
        fail(g, IMP_E_MODEL, "unknown array element type %" PRIu32 " (wanted 0 to %d)", type, GV_COUNT - 1);
    if (type >= GV_COUNT || g->status != IMP_OK)
        return v;
    v.arr.n = n;
    v.arr.elem = VALUE[type].meta;
    v.arr.packed_type = type;
    if (type == GV_STR) {
        v.arr.strs = get_strings(g, n);
    } else if (type == GV_ARRAY) {
        v.arr.v = get_arrays(g, n, nest);
    } else if (!ck_mul(n, VALUE[type].size, &bytes) || bytes > left(g)) {
        fail(g, IMP_E_MODEL,
             "array of %" PRIu64 " %s at byte %" PRIu64 " is larger than the rest of the file (%" PRIu64 " bytes)", n,
             VALUE[type].name, g->pos, left(g));
    } else {
        v.arr.packed = take(g, bytes, "array");
        if (type == GV_BOOL && v.arr.packed)
            check_bool(g, v.arr.packed, n);
    }
    return v;
}

static void get_metadata(gguf *g, meta_set *set)
{
    for (uint64_t i = 0; i < g->n_kv && g->status == IMP_OK; i++) {
        const char *key = get_name(g, "key", i, GGUF_MAX_KEY);
        uint32_t type = get_u32(g, "value type");
        if (type >= GV_COUNT)
            fail(g, IMP_E_MODEL, "unknown value type %" PRIu32 " (wanted 0 to %d)", type, GV_COUNT - 1);
        if (type >= GV_COUNT || g->status != IMP_OK)
            return;
        meta_value v;
        if (type == GV_ARRAY)
            v = get_array(g, 0);
        else if (type == GV_STR)
            v = (meta_value){.type = META_STR, .str = get_str(g, "string")};
        else
            v = get_scalar(g, type);
        if (g->status == IMP_OK && strcmp(key, "general.alignment") == 0) {
            if (type != GV_U32)
                fail(g, IMP_E_MODEL, "wanted a u32, got %s", type == GV_ARRAY ? "an array" : VALUE[type].name);
            else if (v.i < 8 || (v.i & (v.i - 1)))
                fail(g, IMP_E_MODEL, "wanted a power of two of at least 8, got %" PRId64, v.i);
            g->alignment = (uint64_t)v.i;
        }
        if (g->status == IMP_OK)
            g->status = meta_add(g->m, set, key, v, g->file, g->e);
    }
    g->what[0] = 0;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

/* Shape and type give the byte count; what they say is checked before the offset is looked at. */
static void check_shape(gguf *g, mf_tensor *t, uint32_t code)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->dim[i] == 0)
            fail(g, IMP_E_MODEL, "dimension %" PRIu32 " is 0", i);
        else if (!ck_mul(n, t->dim[i], &n) || n > INT64_MAX)
            fail(g, IMP_E_MODEL, "its dimensions multiply to more than 2^63 elements");
    }
    /* ids from 200 on are ours and never GGUF's */
    const quant_fmt *f = code < 200 ? quant_get((quant_id)code) : NULL;
    if (!f) {
        fail(g, IMP_E_UNSUPPORTED, "unknown tensor type %" PRIu32, code);
        return;
    }
    t->type = f->id;
    if (t->dim[0] % f->block)
        fail(g, IMP_E_MODEL, "rows of %" PRIu64 " values; %s wants a multiple of %" PRIu32, t->dim[0], f->name,
             f->block);
    else if (!quant_bytes(t->type, n, &t->n_bytes))
        fail(g, IMP_E_MODEL, "its size does not fit in 64 bits");
}

/* One tensor record. t->data is left unset: the data's start is known only after the last record. */
static void get_tensor(gguf *g, uint64_t number, uint64_t *offset)
{
    mf_tensor t = {.map = g->map};
    t.name = get_name(g, "tensor", number, MF_MAX_NAME);
    t.n_dims = get_u32(g, "number of dimensions");
    if (t.n_dims > GGUF_MAX_DIMS)
        fail(g, IMP_E_MODEL, "%" PRIu32 " dimensions, wanted at most %d", t.n_dims, GGUF_MAX_DIMS);
    if (g->status != IMP_OK)
        return;
    for (uint32_t i = 0; i < MF_MAX_DIMS; i++)
        t.dim[i] = i < t.n_dims ? get_u64(g, "dimension") : 1;
    uint32_t code = get_u32(g, "tensor type");
    *offset = get_u64(g, "offset");
    if (g->status == IMP_OK)
        check_shape(g, &t, code);
    if (g->status == IMP_OK && *offset % g->alignment)
        fail(g, IMP_E_MODEL, "offset %" PRIu64 " is not a multiple of the alignment %" PRIu64, *offset, g->alignment);
    if (g->status == IMP_OK)
        g->status = mf_add_tensor(g->m, &t, g->file, g->e);
}

/* Places tensors [first, ...) whose offsets are given: everything must lie inside the file, nothing may overlap. */
static void place_tensors(gguf *g, size_t first, const uint64_t *offset)
{
    uint64_t start;
    g->what[0] = 0;
    if (!ck_align(g->pos, g->alignment, &start) || start > g->map->size) {
        fail(g, IMP_E_MODEL,
             "the tensor data would start behind the end of the file (%" PRIu64 " bytes; is it truncated?)",
             g->map->size);
        return;
    }
    uint64_t size = g->map->size - start;
    for (size_t i = first; i < g->m->n_t; i++) {
        mf_tensor *t = &g->m->t[i];
        if (!ck_range(offset[i - first], t->n_bytes, size)) {
            snprintf(g->what, sizeof g->what, "tensor '%s'", t->name);
            fail(g, IMP_E_MODEL, "its %" PRIu64 " bytes at offset %" PRIu64 " run past the end of the file (%" PRIu64
                 " bytes of tensor data; is it truncated?)", t->n_bytes, offset[i - first], size);
            return;
        }
        t->data = g->map->data + start + offset[i - first];
    }
    g->status = mf_check_overlap(g->m, first, g->file, g->e);
}

static void get_tensors(gguf *g)
{
    size_t first = g->m->n_t;
    if (!g->n_tensors || g->status != IMP_OK)
        return; /* a file with a vocabulary alone is fine */
    uint64_t *offset = mem_alloc((size_t)g->n_tensors * sizeof *offset);
    if (!offset)
        fail_oom(g, g->n_tensors * sizeof *offset);
    for (uint64_t i = 0; i < g->n_tensors && g->status == IMP_OK; i++)
        get_tensor(g, i, &offset[i]);
    if (g->status == IMP_OK)
        place_tensors(g, first, offset);
    mem_free(offset);
}

/* ---- file -------------------------------------------------------------------------------------------------------- */

/* A file that is something else: says what it looks like, because the remedy differs. */
static void refuse_magic(gguf *g)
{
    static const struct {
        uint8_t at, n;
        const char *bytes, *what;
    } KNOWN[] = {
        {0, 4, "FUGG", "a big-endian GGUF file, which is not supported; convert it to little-endian"},
        {0, 11, "version htt", "a Git LFS pointer, not the model; fetch the file itself"},
        {8, 1, "{", "a SafeTensors file; name the folder that holds it and its config.json"},
        {0, 2, "PK", "a PyTorch or ZIP archive; convert it to GGUF or SafeTensors"},
        {0, 4, "tjgg", "a GGML file from before GGUF; convert the model again"},
        {0, 4, "lmgg", "a GGML file from before GGUF; convert the model again"},
        {0, 1, "<", "an HTML or XML page; the download went wrong"},
    };
    const uint8_t *d = g->map->data;
    for (size_t i = 0; i < CK_COUNT(KNOWN); i++)
        if (ck_range(KNOWN[i].at, KNOWN[i].n, g->map->size) &&
            memcmp(d + KNOWN[i].at, KNOWN[i].bytes, KNOWN[i].n) == 0) {
            fail(g, IMP_E_MODEL, "is %s", KNOWN[i].what);
            return;
        }
    if (g->map->size < 4)
        fail(g, IMP_E_MODEL, "is not a GGUF file (%" PRIu64 " bytes)", g->map->size);
    else
        fail(g, IMP_E_MODEL, "is not a GGUF file: wanted the bytes 'GGUF' first, got %02x %02x %02x %02x", d[0], d[1],
             d[2], d[3]);
}

static void get_header(gguf *g)
{
    if (g->map->size < 4 || memcmp(g->map->data, "GGUF", 4) != 0) {
        refuse_magic(g);
        return;
    }
    g->pos = 4;
    uint32_t version = get_u32(g, "version");
    if (g->status == IMP_OK && version != 2 && version != 3) {
        if (version && !(version & 0xFFFF))
            fail(g, IMP_E_UNSUPPORTED,
                 "is a big-endian GGUF file, which is not supported; convert it to little-endian");
        else
            fail(g, IMP_E_UNSUPPORTED, "GGUF version %" PRIu32 ", wanted 2 or 3", version);
    }
    g->n_tensors = get_u64(g, "tensor count");
    g->n_kv = get_u64(g, "key count");
    if (g->n_kv > left(g) / GGUF_MIN_KV)
        fail(g, IMP_E_MODEL, "%" PRIu64 " keys do not fit in the %" PRIu64 " bytes left of the file", g->n_kv, left(g));
    if (g->n_tensors > left(g) / GGUF_MIN_TENSOR)
        fail(g, IMP_E_MODEL, "%" PRIu64 " tensors do not fit in the %" PRIu64 " bytes left of the file", g->n_tensors,
             left(g));
}

static imp_status load_part(modelfile *m, const char *path, meta_set *set, imp_err *e)
{
    gguf g = {.m = m, .file = path, .alignment = GGUF_DEFAULT_ALIGN, .e = e};
    g.status = mf_add_map(m, path, &g.map, e);
    if (g.status != IMP_OK)
        return g.status;
    if (!g.map->size)
        fail(&g, IMP_E_MODEL, "is empty");
    else
        get_header(&g);
    get_metadata(&g, set);
    get_tensors(&g);
    return g.status;
}

/* ---- split sets: NAME-00001-of-00003.gguf ... -------------------------------------------------------------------- */

#define SPLIT_MAX 99999 /* five digits in the name */

/* A split key of one part: dflt when absent, an error when it is no integer. */
static imp_status split_int(meta_set *set, const char *file, const char *key, int64_t dflt, int64_t *out, imp_err *e)
{
    meta_kv *kv = meta_find(set, key);
    *out = dflt;
    if (!kv)
        return IMP_OK;
    kv->used = true;
    if (kv->v.type != META_INT || kv->v.i < 0)
        return err_set(e, IMP_E_MODEL, "%s: key '%s': wanted a count, got %s", file, key,
                       kv->v.type == META_INT ? "a negative number" : meta_type_name(kv->v.type));
    *out = kv->v.i;
    return IMP_OK;
}

/* Length of path without "-00001-of-00003.gguf"; 0 when it does not end so. */
static size_t split_stem(const char *path, unsigned *no, unsigned *count)
{
    static const char pattern[] = "-#####-of-#####.gguf"; /* # is a digit */
    size_t n = strlen(path), k = sizeof pattern - 1;
    if (n <= k)
        return 0;
    const char *p = path + n - k;
    unsigned v[2] = {0, 0};
    int which = -1;
    for (size_t i = 0; i < k; i++) {
        bool digit = p[i] >= '0' && p[i] <= '9';
        if (pattern[i] == '#' ? !digit : p[i] != pattern[i])
            return 0;
        if (pattern[i] != '#')
            continue;
        which += i == 0 || pattern[i - 1] != '#';
        v[which] = v[which] * 10 + (unsigned)(p[i] - '0');
    }
    *no = v[0];
    *count = v[1];
    return n - k;
}

/* Are two values the same? Strings and packed arrays by their bytes. */
static bool value_same(const meta_value *a, const meta_value *b)
{
    if (a->type != b->type)
        return false;
    if (a->type == META_STR)
        return a->str.n == b->str.n && memcmp(a->str.s, b->str.s, a->str.n) == 0;
    if (a->type == META_BOOL)
        return a->b == b->b;
    return a->type != META_ARRAY && a->u == b->u; /* later parts have no reason to repeat arrays */
}

/* The first part speaks for the set. Another part may repeat it, and may say things about itself under general. and
 * split.; anything else would be lost silently, so it is refused. */
static imp_status check_part_keys(modelfile *m, const meta_set *part, const char *file, imp_err *e)
{
    for (size_t i = 0; i < part->n; i++) {
        const meta_kv *kv = &part->kv[i];
        if (strncmp(kv->key, "split.", 6) == 0 || strncmp(kv->key, "general.", 8) == 0)
            continue;
        const meta_kv *first = meta_find(&m->meta, kv->key);
        if (!first || !value_same(&first->v, &kv->v))
            return err_set(e, IMP_E_MODEL, "%s: key '%s': %s", file, kv->key,
                           first ? "differs from the first part" : "is missing in the first part");
    }
    return IMP_OK;
}

static imp_status load_other_part(modelfile *m, const char *path, int64_t no, int64_t count, imp_err *e)
{
    meta_set set = {0};
    int64_t got_no = 0, got_count = 0;
    imp_status s = load_part(m, path, &set, e);
    if (s == IMP_OK)
        s = split_int(&set, path, "split.count", 0, &got_count, e);
    if (s == IMP_OK)
        s = split_int(&set, path, "split.no", -1, &got_no, e);
    if (s == IMP_OK && got_count != count)
        s = err_set(e, IMP_E_MODEL, "%s: key 'split.count': wanted %" PRId64 " as in the first part, got %" PRId64,
                    path, count, got_count);
    if (s == IMP_OK && got_no != no)
        s = err_set(e, IMP_E_MODEL, "%s: key 'split.no': wanted %" PRId64 ", got %" PRId64, path, no, got_no);
    if (s == IMP_OK)
        s = check_part_keys(m, &set, path, e);
    meta_clear(&set);
    return s;
}

imp_status gguf_load(modelfile *m, imp_err *e)
{
    int64_t count = 0, no = 0, n_tensors = -1;
    imp_status s = load_part(m, m->path, &m->meta, e);
    if (s == IMP_OK)
        s = split_int(&m->meta, m->path, "split.count", 0, &count, e);
    if (s == IMP_OK)
        s = split_int(&m->meta, m->path, "split.no", 0, &no, e);
    if (s == IMP_OK)
        s = split_int(&m->meta, m->path, "split.tensors.count", -1, &n_tensors, e);
    meta_kv *align = s == IMP_OK ? meta_find(&m->meta, "general.alignment") : NULL;
    if (align)
        align->used = true;
    if (s != IMP_OK || count <= 1)
        return s;
    if (count > SPLIT_MAX)
        return err_set(e, IMP_E_MODEL, "%s: key 'split.count': wanted at most %d, got %" PRId64, m->path, SPLIT_MAX,
                       count);
    if (no != 0)
        return err_set(e, IMP_E_MODEL,
                       "%s: is part %" PRId64 " of %" PRId64 "; name the first part (-00001-of-%05" PRId64 ".gguf)",
                       m->path, no + 1, count, count);
    unsigned name_no, name_count;
    size_t stem = split_stem(m->path, &name_no, &name_count);
    if (!stem || name_no != 1 || name_count != count)
        return err_set(e, IMP_E_MODEL,
                       "%s: holds part 1 of %" PRId64 ", so its name should end in -00001-of-%05" PRId64 ".gguf",
                       m->path, count, count);
    for (int64_t i = 1; i < count && s == IMP_OK; i++) {
        const char *path =
            arena_printf(&m->mem, "%.*s-%05" PRId64 "-of-%05" PRId64 ".gguf", (int)stem, m->path, i + 1, count);
        s = path ? load_other_part(m, path, i, count, e) : err_oom(e, m->path, stem);
    }
    if (s == IMP_OK && n_tensors >= 0 && (uint64_t)n_tensors != m->n_t)
        s = err_set(e, IMP_E_MODEL,
                    "%s: key 'split.tensors.count': wanted the %zu tensors of all %" PRId64 " parts, got %" PRId64,
                    m->path, m->n_t, count, n_tensors);
    return s;
}

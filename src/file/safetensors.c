/* safetensors: a folder with config.json and SafeTensors files becomes a modelfile.
 *
 *   u64 n | n bytes of JSON: {"name": {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [begin, end]}, ...,
 *   "__metadata__": {"key": "text"}} | tensor data; offsets count from the end of the JSON.
 *
 * As in the format's own reader, the tensors must cover the data exactly: no overlap, no hole, nothing behind. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/ck.h"
#include "base/mem.h"
#include "file/metajson.h"

#define HEADER_MAX 100000000u /* the format's own limit */
#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

static const struct {
    const char *name;
    quant_id type;
} DTYPE[] = {
    {"BF16", QUANT_BF16}, {"F16", QUANT_F16}, {"F32", QUANT_F32}, {"F64", QUANT_F64}, {"F8_E4M3", QUANT_F8_E4M3},
    {"F8_E5M2", QUANT_F8_E5M2}, {"F8_E8M0", QUANT_E8M0}, {"F4", QUANT_E2M1}, {"U8", QUANT_U8}, {"I8", QUANT_I8},
    {"I16", QUANT_I16}, {"I32", QUANT_I32}, {"I64", QUANT_I64}, {"BOOL", QUANT_BOOL},
};

typedef struct header {
    modelfile *m;
    const file_map *map;
    const uint8_t *data; /* behind the JSON */
    uint64_t size;       /* bytes of data */
    uint64_t covered;    /* sum of the tensors' bytes */
    jr r;
    imp_err je;
    const char *tensor; /* being read, for messages; NULL between tensors */
} header;

static void oom(header *h, const char *what, size_t n)
{
    if (!h->r.failed)
        err_oom(&h->je, what, n);
    h->r.failed = true;
}

static void read_dtype(header *h, mf_tensor *t)
{
    jr_str s;
    if (!jr_string(&h->r, &s))
        return;
    for (size_t i = 0; i < CK_COUNT(DTYPE); i++)
        if (jr_key_is(&s, DTYPE[i].name)) {
            t->type = DTYPE[i].type;
            return;
        }
    jr_fail(&h->r, "unsupported dtype '%.*s'", (int)(s.n < 32 ? s.n : 32), s.s);
}

/* Rows first in the file; here the dimension that runs fastest comes first. */
static void read_shape(header *h, mf_tensor *t)
{
    int64_t dim[MF_MAX_DIMS];
    if (!jr_enter_array(&h->r))
        return;
    while (jr_next_item(&h->r)) {
        if (t->n_dims == MF_MAX_DIMS) {
            jr_fail(&h->r, "more than %d dimensions", MF_MAX_DIMS);
            return;
        }
        if (!jr_int(&h->r, 0, INT64_MAX, &dim[t->n_dims]))
            return;
        t->n_dims++;
    }
    for (uint32_t i = 0; i < MF_MAX_DIMS; i++)
        t->dim[i] = i < t->n_dims ? (uint64_t)dim[t->n_dims - 1 - i] : 1;
}

static void read_offsets(header *h, uint64_t range[2])
{
    int64_t v;
    unsigned n = 0;
    if (!jr_enter_array(&h->r))
        return;
    while (jr_next_item(&h->r)) {
        if (n == 2) {
            jr_fail(&h->r, "data_offsets: wanted two numbers, got more");
            return;
        }
        if (!jr_int(&h->r, 0, INT64_MAX, &v))
            return;
        range[n++] = (uint64_t)v;
    }
    if (n < 2)
        jr_fail(&h->r, "data_offsets: wanted two numbers, got %u", n);
}

/* dtype x shape must give exactly the bytes between the offsets, and those must lie in the file. */
static void check_extent(header *h, mf_tensor *t, const uint64_t range[2])
{
    uint64_t n = 1;
    bool fits = true, empty = false;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        empty = empty || t->dim[i] == 0;
        fits = fits && ck_mul(n, t->dim[i] ? t->dim[i] : 1, &n);
    }
    const quant_fmt *f = quant_get(t->type);
    if (!fits || !f || n > INT64_MAX || !ck_mul(n / f->block, f->bytes, &t->n_bytes)) {
        jr_fail(&h->r, "its shape has too many elements");
        return;
    }
    if (empty)
        t->n_bytes = 0;
    if (!empty && (t->n_dims ? t->dim[0] : 1) % f->block)
        jr_fail(&h->r, "rows of %" PRIu64 " values; %s wants a multiple of %" PRIu32, t->dim[0], f->name, f->block);
    else if (range[0] > range[1])
        jr_fail(&h->r, "its data begins at %" PRIu64 " and ends before, at %" PRIu64, range[0], range[1]);
    else if (range[1] > h->size)
        jr_fail(&h->r, "its data ends at %" PRIu64 " of %" PRIu64 " bytes (is the file truncated?)", range[1], h->size);
    else if (range[1] - range[0] != t->n_bytes)
        jr_fail(&h->r, "dtype and shape want %" PRIu64 " bytes, its offsets give %" PRIu64, t->n_bytes,
                range[1] - range[0]);
    t->data = h->data + range[0];
}

static void read_tensor(header *h, mf_tensor *t)
{
    static const char *const PART[] = {"dtype", "shape", "data_offsets"};
    bool seen[CK_COUNT(PART)] = {false};
    uint64_t range[2] = {0, 0};
    jr *r = &h->r;
    jr_str key;
    if (!jr_enter_object(r))
        return;
    while (jr_next_key(r, &key)) {
        size_t k = 0;
        while (k < CK_COUNT(PART) && !jr_key_is(&key, PART[k]))
            k++;
        if (k == CK_COUNT(PART)) {
            jr_fail(r, "unknown key '%.*s'", (int)(key.n < 64 ? key.n : 64), key.s);
            return;
        }
        if (seen[k]) {
            jr_fail(r, "%s appears twice", PART[k]);
            return;
        }
        seen[k] = true;
        if (k == 0)
            read_dtype(h, t);
        else if (k == 1)
            read_shape(h, t);
        else
            read_offsets(h, range);
    }
    for (size_t k = 0; k < CK_COUNT(PART); k++)
        if (!seen[k])
            jr_fail(r, "%s is missing", PART[k]);
    if (!r->failed)
        check_extent(h, t, range);
    h->covered += t->n_bytes; /* cannot wrap unless tensors overlap, which is refused first */
}

/* People's remarks ({"format": "pt"}): checked as the format's reader does, and not kept. */
static void read_remarks(header *h)
{
    jr_str s;
    if (!jr_enter_object(&h->r))
        return;
    while (jr_next_key(&h->r, &s))
        jr_string(&h->r, &s);
}

static imp_status read_tensors(header *h, imp_err *e)
{
    jr_str key;
    imp_status s = IMP_OK;
    bool remarks = false;
    jr_enter_object(&h->r);
    while (s == IMP_OK && jr_next_key(&h->r, &key)) {
        if (jr_key_is(&key, "__metadata__")) {
            if (remarks)
                jr_fail(&h->r, "__metadata__ appears twice");
            remarks = true;
            read_remarks(h);
            continue;
        }
        mf_tensor t = {.map = h->map};
        meta_str name = metajson_str(h->m, &key);
        const char *fault = name.s ? mf_name_fault(name.s, name.n, MF_MAX_NAME) : NULL;
        if (!name.s)
            oom(h, "tensor name", key.n);
        else if (fault)
            jr_fail(&h->r, "a tensor's name %s", fault);
        if (h->r.failed)
            break;
        t.name = h->tensor = name.s;
        read_tensor(h, &t);
        if (h->r.failed)
            break;
        h->tensor = NULL;
        s = mf_add_tensor(h->m, &t, h->map->path, e);
    }
    if (s != IMP_OK || jr_end(&h->r))
        return s;
    char where[MF_MAX_NAME + 16] = "";
    if (h->tensor)
        snprintf(where, sizeof where, "tensor '%.*s'", MF_MAX_NAME, h->tensor);
    return metajson_status(&h->r, h->tensor ? where : NULL, e);
}

static imp_status load_file(modelfile *m, const char *path, const file_map **out, imp_err *e)
{
    header h = {.m = m};
    uint64_t n = 0;
    size_t first = m->n_t;
    imp_status s = mf_add_map(m, path, &h.map, e);
    *out = h.map;
    if (s != IMP_OK)
        return s;
    uint64_t size = h.map->size;
    if (size < 8)
        return err_set(e, IMP_E_MODEL, "%s: %" PRIu64 " bytes are no SafeTensors file", path, size);
    if (memcmp(h.map->data, "version ", 8) == 0) /* what `git clone` leaves without git-lfs */
        return err_set(e, IMP_E_MODEL, "%s: is a Git LFS pointer, not the weights; fetch the file itself", path);
    memcpy(&n, h.map->data, 8);
    if (n > HEADER_MAX || n > size - 8)
        return err_set(e, IMP_E_MODEL,
                       "%s: its header claims %" PRIu64 " bytes, wanted at most %" PRIu64
                       " (is this a SafeTensors file, and whole?)",
                       path, n, size - 8 < HEADER_MAX ? size - 8 : HEADER_MAX);
    h.data = h.map->data + 8 + n;
    h.size = size - 8 - n;
    jr_init(&h.r, (const char *)h.map->data + 8, (size_t)n, h.map->path, &h.je);
    if (n == 0 || h.map->data[8] != '{')
        return err_set(e, IMP_E_MODEL, "%s: its header does not begin with '{'", path);
    s = read_tensors(&h, e);
    if (s == IMP_OK)
        s = mf_check_overlap(m, first, path, e);
    if (s == IMP_OK && h.covered != h.size)
        s = err_set(e, IMP_E_MODEL, "%s: %" PRIu64 " bytes of data, but its tensors cover %" PRIu64, path, h.size,
                    h.covered);
    return s;
}

/* ---- shards: {"metadata": {...}, "weight_map": {"name": "model-00001-of-00002.safetensors", ...}} ---------------- */

typedef struct shard {
    const char *name;
    const file_map *map;
} shard;

typedef struct shard_index {
    modelfile *m;
    shard *s; /* in order of first mention */
    size_t n, cap, last;
    jr r;
    imp_err je;
    imp_status status;
    imp_err *e;
} shard_index;

/* The shard of that name; a new one is loaded on its first mention. NULL on failure. */
static shard *get_shard(shard_index *x, const char *name)
{
    if (x->n && strcmp(x->s[x->last].name, name) == 0) /* neighbours mostly share a file */
        return &x->s[x->last];
    for (x->last = 0; x->last < x->n; x->last++)
        if (strcmp(x->s[x->last].name, name) == 0)
            return &x->s[x->last];
    if (x->n == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 16;
        shard *p = mem_realloc(x->s, cap * sizeof *p);
        if (!p) {
            x->status = err_oom(x->e, "list of shards", cap * sizeof *p);
            return NULL;
        }
        x->s = p;
        x->cap = cap;
    }
    shard *s = &x->s[x->n];
    const char *path = mf_join(x->m, x->m->path, name);
    s->name = arena_strdup(&x->m->mem, name);
    if (!path || !s->name)
        x->status = err_oom(x->e, name, strlen(name));
    else
        x->status = load_file(x->m, path, &s->map, x->e);
    if (x->status != IMP_OK)
        return NULL;
    x->last = x->n++;
    return s;
}

/* The file that the next value names, decoded into b. */
static bool read_file_name(shard_index *x, strbuf *b)
{
    jr_str file;
    sb_clear(b);
    if (!jr_string(&x->r, &file))
        return false;
    jr_str_decode(&file, b);
    if (b->failed) {
        x->status = err_oom(x->e, "file name", file.n);
        return false;
    }
    const char *fault = mf_name_fault(b->s ? b->s : "", b->n, 255);
    size_t ext = strlen(".safetensors");
    if (fault)
        jr_fail(&x->r, "a file name %s", fault);
    else if (strchr(b->s, '/') || b->n <= ext || strcmp(b->s + b->n - ext, ".safetensors") != 0)
        jr_fail(&x->r, "'%s' is not the name of a SafeTensors file in the folder", b->s);
    return !x->r.failed;
}

/* One walk over weight_map. The first loads the shards; the second, when all tensors are known, checks every entry. */
static void walk_map(shard_index *x, bool check)
{
    jr *r = &x->r;
    jr_str key;
    strbuf name = {0}, file = {0};
    if (jr_enter_object(r))
        while (x->status == IMP_OK && jr_next_key(r, &key)) {
            sb_clear(&name);
            jr_str_decode(&key, &name);
            if (name.failed)
                x->status = err_oom(x->e, "tensor name", key.n);
            const char *fault = mf_name_fault(name.s ? name.s : "", name.n, MF_MAX_NAME);
            if (x->status == IMP_OK && fault)
                jr_fail(r, "a tensor's name %s", fault);
            if (x->status != IMP_OK || r->failed || !read_file_name(x, &file))
                break;
            shard *s = get_shard(x, file.s);
            if (!s || !check)
                continue;
            const mf_tensor *t = mf_tensor_find(x->m, name.s);
            if (!t || t->map != s->map)
                jr_fail(r, "tensor '%s' is not in %s", name.s, s->name);
        }
    sb_free(&name);
    sb_free(&file);
}

static imp_status load_shards(modelfile *m, const char *text, size_t n, imp_err *e)
{
    shard_index x = {.m = m, .e = e};
    const char *path = mf_join(m, m->path, INDEX);
    if (!path)
        return err_oom(e, INDEX, strlen(INDEX));
    for (int check = 0; check < 2 && x.status == IMP_OK; check++) {
        bool seen = false;
        jr_str key;
        jr_init(&x.r, text, n, path, &x.je);
        jr_enter_object(&x.r);
        while (x.status == IMP_OK && jr_next_key(&x.r, &key)) {
            if (!jr_key_is(&key, "weight_map")) {
                jr_skip(&x.r);
            } else if (seen) {
                jr_fail(&x.r, "weight_map appears twice");
            } else {
                seen = true;
                walk_map(&x, check);
            }
        }
        if (x.status == IMP_OK && !x.r.failed && !seen)
            jr_fail(&x.r, "weight_map is missing");
        if (x.status == IMP_OK && !jr_end(&x.r))
            x.status = metajson_status(&x.r, NULL, e);
    }
    if (x.status == IMP_OK && !x.n)
        x.status = err_set(e, IMP_E_MODEL, "%s: weight_map names no file", path);
    mem_free(x.s);
    return x.status;
}

imp_status safetensors_load(modelfile *m, imp_err *e)
{
    static const struct {
        const char *file, *prefix;
    } CONFIG[] = {
        {"config.json", ""},
        {"generation_config.json", "generation_config."},
        {"hf_quant_config.json", "hf_quant_config."},
    };
    imp_status s = IMP_OK;
    for (size_t i = 0; i < CK_COUNT(CONFIG) && s == IMP_OK; i++)
        s = metajson_load(m, CONFIG[i].file, CONFIG[i].prefix, e);
    const char *single = mf_join(m, m->path, SINGLE), *text;
    const file_map *map;
    size_t n;
    if (s == IMP_OK && !single)
        s = err_oom(e, SINGLE, strlen(SINGLE));
    if (s != IMP_OK)
        return s;
    if (file_exists(single)) /* where both are, transformers takes this one */
        return load_file(m, single, &map, e);
    s = mf_side_file(m, INDEX, &text, &n, e);
    if (s == IMP_OK && !text)
        s = err_set(e, IMP_E_MODEL, "%s: holds neither " SINGLE " nor " INDEX, m->path);
    return s == IMP_OK ? load_shards(m, text, n, e) : s;
}

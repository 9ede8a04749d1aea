/* fuzz_safetensors: a SafeTensors folder from any bytes. The first byte says what the rest is: a weight file as it
 * stands, a header (its length and 64 bytes of data are added), a shard index over two good files, or config.json.
 * What opens must keep the promises of modelfile.h. Bit 7 makes an allocation fail. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "file/modelfile.h"

enum { FUZZ_FILE, FUZZ_HEADER, FUZZ_INDEX, FUZZ_CONFIG };

static char dir[64];
static uint64_t sink;

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void path_of(char *out, size_t n, const char *name) { snprintf(out, n, "%s/%s", dir, name); }

static void drop(const char *name)
{
    char path[128];
    path_of(path, sizeof path, name);
    unlink(path);
}

static void store(const char *name, const void *head, size_t n_head, const void *data, size_t n, size_t zeros)
{
    static const char zero[64];
    char path[128];
    path_of(path, sizeof path, name);
    FILE *f = fopen(path, "wb");
    check(f != NULL);
    check(fwrite(head, 1, n_head, f) == n_head && fwrite(data, 1, n, f) == n && fwrite(zero, 1, zeros, f) == zeros);
    check(fclose(f) == 0);
}

static void store_header(const char *name, const void *text, size_t n, size_t n_data)
{
    uint64_t len = n;
    store(name, &len, 8, text, n, n_data);
}

static void clean_up(void)
{
    static const char *const name[] = {"config.json", "model.safetensors", "model.safetensors.index.json",
                                       "1.safetensors", "2.safetensors"};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++)
        drop(name[i]);
    rmdir(dir);
}

static void set_up(void)
{
    static const char a[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    static const char b[] = "{\"b\":{\"dtype\":\"U8\",\"shape\":[2,4],\"data_offsets\":[0,8]}}";
    snprintf(dir, sizeof dir, "%s/imp-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    check(mkdtemp(dir) != NULL);
    store_header("1.safetensors", a, sizeof a - 1, 8);
    store_header("2.safetensors", b, sizeof b - 1, 8);
    atexit(clean_up);
}

static void read_value(const meta_value *v, unsigned depth)
{
    check(depth < 32);
    if (v->type == META_STR)
        check(v->str.s && v->str.s[v->str.n] == 0);
    if (v->type != META_ARRAY)
        return;
    check(v->arr.n == 0 || (v->arr.v != NULL) + (v->arr.packed != NULL) + (v->arr.strs != NULL) == 1);
    for (uint64_t i = 0; i < v->arr.n; i++) {
        int64_t n;
        double d;
        meta_str s;
        bool is_float = mf_array_float(v, i, &d);
        if (mf_array_int(v, i, &n))
            check(is_float);
        if (mf_array_str(v, i, &s))
            sink += s.n;
        if (v->arr.v)
            read_value(&v->arr.v[i], depth + 1);
    }
}

static void read_all(modelfile *m)
{
    for (size_t i = 0; i < mf_meta_count(m); i++) {
        const meta_kv *kv = mf_meta_at(m, i);
        check(kv->key[0] && mf_meta(m, kv->key) == &kv->v);
        read_value(&kv->v, 0);
    }
    for (size_t i = 0; i < mf_tensor_count(m); i++) {
        const mf_tensor *t = mf_tensor_at(m, i);
        uint64_t at = (uint64_t)(t->data - t->map->data), want, count = 1;
        check(mf_tensor_find(m, t->name) == t && at <= t->map->size && t->n_bytes <= t->map->size - at);
        for (unsigned k = 0; k < MF_MAX_DIMS; k++)
            count *= t->dim[k];
        check(quant_bytes(t->type, count, &want) && want == t->n_bytes);
        if (t->n_bytes)
            sink += t->data[0] + t->data[t->n_bytes - 1];
    }
    const char *text;
    size_t n;
    imp_err e = {0};
    check(mf_side_file(m, "config.json", &text, &n, &e) == IMP_OK && text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (!dir[0])
        set_up();
    if (!n)
        return 0;
    const uint8_t *rest = data + 1;
    size_t n_rest = n - 1;
    unsigned kind = data[0] & 3;
    store("config.json", "", 0, kind == FUZZ_CONFIG ? (const void *)rest : "{}", kind == FUZZ_CONFIG ? n_rest : 2, 0);
    if (kind == FUZZ_FILE)
        store("model.safetensors", "", 0, rest, n_rest, 0);
    else if (kind == FUZZ_HEADER)
        store_header("model.safetensors", rest, n_rest, 64);
    else if (kind == FUZZ_CONFIG)
        store_header("model.safetensors", "{}", 2, 0);
    else
        store("model.safetensors.index.json", "", 0, rest, n_rest, 0);
    modelfile *m;
    imp_err e = {0};
    if (data[0] & 128)
        mem_fail_after((long)(n % 48));
    imp_status s = mf_open(&m, dir, &e);
    mem_fail_after(-1);
    check(s == e.status && (s == IMP_OK) == (m != NULL) && (s == IMP_OK) == !e.message[0] && s != IMP_E_PARSE);
    if (m)
        read_all(m);
    mf_close(m);
    drop(kind == FUZZ_INDEX ? "model.safetensors.index.json" : "model.safetensors");
    return 0;
}

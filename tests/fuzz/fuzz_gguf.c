/* fuzz_gguf: any bytes as a GGUF file. What opens must keep the promises of modelfile.h: every name is found again,
 * every value and every tensor byte can be read, nothing overlaps. Odd sizes also make an allocation fail. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "file/modelfile.h"

static void check(bool ok)
{
    if (!ok)
        abort();
}

static uint64_t sink;

static void read_value(const meta_value *v, unsigned depth)
{
    check(depth < 8);
    if (v->type == META_STR)
        for (size_t i = 0; i < v->str.n; i += 1 + v->str.n / 64)
            sink += (unsigned char)v->str.s[i];
    if (v->type != META_ARRAY)
        return;
    uint64_t step = 1 + v->arr.n / 64;
    for (uint64_t i = 0; i < v->arr.n; i += step) {
        int64_t n;
        double d;
        meta_str s;
        bool is_str = mf_array_str(v, i, &s), is_float = mf_array_float(v, i, &d);
        if (mf_array_int(v, i, &n))
            check(is_float);
        if (is_str && s.n)
            sink += (unsigned char)s.s[0] + (unsigned char)s.s[s.n - 1];
        check(!(is_str && is_float));
        if (v->arr.v)
            read_value(&v->arr.v[i], depth + 1);
    }
    int64_t n;
    check(!mf_array_int(v, v->arr.n, &n));
}

static void read_all(modelfile *m)
{
    imp_err e = {0};
    int64_t n;
    double d;
    bool b;
    meta_str s;
    for (size_t i = 0; i < mf_meta_count(m); i++) {
        const meta_kv *kv = mf_meta_at(m, i);
        check(kv->key[0] && mf_meta(m, kv->key) == &kv->v && kv->used);
        read_value(&kv->v, 0);
        mf_get_int(m, kv->key, -100, 100, 0, &n, &e);
        mf_get_float(m, kv->key, 0, &d, &e);
        mf_get_bool(m, kv->key, false, &b, &e);
        mf_get_str(m, kv->key, (meta_str){"", 0}, &s, &e);
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
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static int fd = -1; /* one file in memory, written anew each time */
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        check(fd >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    check(ftruncate(fd, 0) == 0 && pwrite(fd, data, n, 0) == (ssize_t)n);
    modelfile *m;
    imp_err e = {0};
    if (n & 1)
        mem_fail_after((long)(n / 2 % 24));
    imp_status s = mf_open(&m, path, &e);
    mem_fail_after(-1);
    check(s == e.status && (s == IMP_OK) == (m != NULL) && (s == IMP_OK) == !e.message[0]);
    if (m)
        read_all(m);
    mf_close(m);
    return 0;
}

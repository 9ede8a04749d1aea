/* The GGUF loader: a good file is read whole; each of a catalogue of bad ones is refused with its sentence, without a
 * leak of memory (ASan) or of a file descriptor; and no allocation that fails does harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ck.h"
#include "base/file.h"
#include "base/mem.h"
#include "file/modelfile.h"
#include "gguf_make.h"

static char dir[256], file[300];

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/imp-gguf-XXXXXX", tmp && *tmp && strlen(tmp) < 200 ? tmp : "/tmp");
    if (!mkdtemp(dir))
        return -1;
    snprintf(file, sizeof file, "%s/model.gguf", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(file);
    return rmdir(dir);
}

static void store(const char *path, strbuf *b)
{
    imp_err e = {0};
    assert_false(b->failed);
    if (file_write_all(path, b->s, b->n, &e))
        fail_msg("%s", e.message);
    sb_free(b);
}

/* The lowest free descriptor: it is the same before and after unless one leaked. */
static int free_fd(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(fd);
    return fd;
}

/* ---- good files -------------------------------------------------------------------------------------------------- */

/* One key of every type, nested arrays, and tensors of several types and ranks. */
static void make_good(strbuf *b, uint32_t version, uint32_t alignment)
{
    gm_head(b, version, 5, alignment ? 23 : 22);
    gm_kv_str(b, "general.architecture", "llama");
    if (alignment)
        gm_kv_u32(b, "general.alignment", alignment);
    gm_key(b, "k.u8", GM_U8), gm_u8(b, 200);
    gm_key(b, "k.i8", GM_I8), gm_u8(b, 0xFE);
    gm_kv_u16(b, "k.u16", 65535);
    gm_key(b, "k.i16", GM_I16), sb_add(b, (int16_t[]){-3}, 2);
    gm_kv_u32(b, "k.u32", 4000000000u);
    gm_key(b, "k.i32", GM_I32), gm_u32(b, (uint32_t)-4);
    gm_key(b, "k.f32", GM_F32), gm_f32(b, 1.5f);
    gm_key(b, "k.true", GM_BOOL), gm_u8(b, 1);
    gm_key(b, "k.false", GM_BOOL), gm_u8(b, 0);
    gm_key(b, "k.u64", GM_U64), gm_u64(b, 5);
    gm_key(b, "k.u64max", GM_U64), gm_u64(b, UINT64_MAX);
    gm_key(b, "k.i64", GM_I64), gm_u64(b, (uint64_t)INT64_MIN);
    gm_key(b, "k.f64", GM_F64), gm_f64(b, 0.1);
    gm_key(b, "k.nan", GM_F32), gm_u32(b, 0x7FC00000);
    gm_kv_str(b, "k.empty", "");
    gm_key(b, "a.str", GM_ARRAY), gm_array(b, GM_STR, 3), gm_str(b, "a"), gm_str(b, ""), gm_strn(b, "x\0y\xFF", 4);
    gm_key(b, "a.f32", GM_ARRAY), gm_array(b, GM_F32, 2), gm_f32(b, -1), gm_f32(b, 2.5f);
    gm_key(b, "a.i32", GM_ARRAY), gm_array(b, GM_I32, 3), gm_u32(b, 1), gm_u32(b, (uint32_t)-2), gm_u32(b, 3);
    gm_key(b, "a.bool", GM_ARRAY), gm_array(b, GM_BOOL, 3), gm_u8(b, 1), gm_u8(b, 0), gm_u8(b, 1);
    gm_key(b, "a.none", GM_ARRAY), gm_array(b, GM_U64, 0);
    gm_key(b, "a.nest", GM_ARRAY), gm_array(b, GM_ARRAY, 2);
    gm_array(b, GM_U64, 2), gm_u64(b, 7), gm_u64(b, UINT64_MAX);
    gm_array(b, GM_STR, 1), gm_str(b, "in");
    uint32_t a = alignment ? alignment : 32, big = a > 1024 ? a : 1024;
    gm_tensor(b, "token_embd.weight", 2, 32, 4, 1, 1, QUANT_F32, 0);                /* 512 bytes */
    gm_tensor(b, "blk.0.q", 2, 256, 2, 1, 1, QUANT_Q4_K, big);                      /* 288 bytes */
    gm_tensor(b, "blk.0.e", 3, 32, 2, 3, 1, QUANT_Q8_0, 2 * big);                   /* 204 bytes */
    gm_tensor(b, "blk.0.four", 4, 2, 3, 1, 2, QUANT_F16, 3 * big);                  /* 24 bytes */
    gm_tensor(b, "blk.0.one", 1, 1, 1, 1, 1, QUANT_F32, 4 * big);                   /* 4 bytes, not padded */
    gm_pad(b, a);
    for (size_t i = 0; i < 4 * big + 4; i++)
        sb_char(b, (char)(i * 37));
}

static void check_good(modelfile *m, uint64_t alignment)
{
    imp_err e = {0};
    int64_t i;
    double d;
    bool f;
    meta_str s;
    assert_int_equal(mf_get_kind(m), MF_GGUF);
    assert_string_equal(mf_path(m), file);
    assert_int_equal(mf_meta_count(m), alignment ? 23 : 22);
    static const struct {
        const char *key;
        int64_t want;
    } INTS[] = {{"k.u8", 200},         {"k.i8", -2},  {"k.u16", 65535}, {"k.i16", -3},
                {"k.u32", 4000000000}, {"k.i32", -4}, {"k.u64", 5},     {"k.i64", INT64_MIN}};
    for (size_t k = 0; k < CK_COUNT(INTS); k++) {
        assert_int_equal(mf_get_int(m, INTS[k].key, INT64_MIN, INT64_MAX, 0, &i, &e), IMP_OK);
        assert_true(i == INTS[k].want);
    }
    assert_true(mf_get_float(m, "k.f32", 0, &d, &e) == IMP_OK && d == 1.5);
    assert_true(mf_get_float(m, "k.f64", 0, &d, &e) == IMP_OK && d == 0.1);
    assert_true(mf_get_float(m, "k.u8", 0, &d, &e) == IMP_OK && d == 200);
    assert_true(mf_get_float(m, "k.u64max", 0, &d, &e) == IMP_OK && d == 0x1p64);
    assert_true(mf_get_bool(m, "k.true", false, &f, &e) == IMP_OK && f);
    assert_true(mf_get_bool(m, "k.false", true, &f, &e) == IMP_OK && !f);
    assert_true(mf_get_str(m, "general.architecture", (meta_str){0}, &s, &e) == IMP_OK && s.n == 5 &&
                !memcmp(s.s, "llama", 5));
    assert_true(mf_get_str(m, "k.empty", (meta_str){"x", 1}, &s, &e) == IMP_OK && s.n == 0);
    /* absent: the default */
    assert_true(mf_get_int(m, "no", 0, 1, -7, &i, &e) == IMP_OK && i == -7);
    assert_true(mf_get_float(m, "no", 2.5, &d, &e) == IMP_OK && d == 2.5);
    assert_true(mf_get_bool(m, "no", true, &f, &e) == IMP_OK && f);
    assert_true(mf_get_str(m, "no", (meta_str){"dd", 2}, &s, &e) == IMP_OK && s.n == 2);
    assert_int_equal(e.status, IMP_OK);
    const meta_value *v = mf_meta(m, "a.str");
    assert_true(v->type == META_ARRAY && v->arr.elem == META_STR && v->arr.n == 3);
    assert_true(mf_array_str(v, 0, &s) && s.n == 1 && s.s[0] == 'a');
    assert_true(mf_array_str(v, 1, &s) && s.n == 0);
    assert_true(mf_array_str(v, 2, &s) && s.n == 4 && !memcmp(s.s, "x\0y\xFF", 4));
    assert_false(mf_array_str(v, 3, &s) || mf_array_int(v, 0, &i) || mf_array_float(v, 0, &d));
    v = mf_meta(m, "a.f32");
    assert_true(v->arr.elem == META_FLOAT && mf_array_float(v, 1, &d) && d == 2.5 && mf_array_int(v, 0, &i) && i == -1);
    assert_false(mf_array_int(v, 1, &i) || mf_array_float(v, 2, &d) || mf_array_str(v, 0, &s));
    v = mf_meta(m, "a.i32");
    assert_true(v->arr.elem == META_INT && mf_array_int(v, 1, &i) && i == -2 && mf_array_float(v, 2, &d) && d == 3);
    v = mf_meta(m, "a.bool");
    assert_true(v->arr.elem == META_BOOL && mf_array_int(v, 0, &i) && i == 1 && mf_array_int(v, 1, &i) && i == 0);
    v = mf_meta(m, "a.none");
    assert_true(v->arr.n == 0 && !mf_array_int(v, 0, &i));
    v = mf_meta(m, "a.nest");
    assert_true(v->arr.elem == META_ARRAY && v->arr.n == 2 && v->arr.v[0].arr.n == 2 && v->arr.v[1].arr.n == 1);
    assert_true(mf_array_int(&v->arr.v[0], 0, &i) && i == 7 && !mf_array_int(&v->arr.v[0], 1, &i));
    assert_true(mf_array_str(&v->arr.v[1], 0, &s) && s.n == 2);
    assert_false(mf_array_int(v, 0, &i) || mf_array_float(v, 0, &d) || mf_array_str(v, 0, &s));
    /* marks: read keys are used, others not */
    for (size_t k = 0; k < mf_meta_count(m); k++) {
        const meta_kv *kv = mf_meta_at(m, k);
        assert_int_equal(kv->used, strcmp(kv->key, "k.nan") != 0);
    }
    assert_null(mf_meta_at(m, mf_meta_count(m)));
    static const struct {
        const char *name;
        quant_id type;
        uint32_t n_dims;
        uint64_t dim[4], n_bytes;
    } T[] = {{"token_embd.weight", QUANT_F32, 2, {32, 4, 1, 1}, 512}, {"blk.0.q", QUANT_Q4_K, 2, {256, 2, 1, 1}, 288},
             {"blk.0.e", QUANT_Q8_0, 3, {32, 2, 3, 1}, 204}, {"blk.0.four", QUANT_F16, 4, {2, 3, 1, 2}, 24},
             {"blk.0.one", QUANT_F32, 1, {1, 1, 1, 1}, 4}};
    assert_int_equal(mf_tensor_count(m), CK_COUNT(T));
    uint64_t big = alignment > 1024 ? alignment : 1024;
    for (size_t k = 0; k < CK_COUNT(T); k++) {
        mf_tensor *t = mf_tensor_find(m, T[k].name);
        assert_ptr_equal(t, mf_tensor_at(m, k));
        assert_string_equal(t->name, T[k].name);
        assert_true(t->type == T[k].type && t->n_dims == T[k].n_dims && t->n_bytes == T[k].n_bytes && !t->used);
        assert_memory_equal(t->dim, T[k].dim, sizeof T[k].dim);
        assert_true(t->dim[4] == 1);
        uint64_t at = (uint64_t)(t->data - t->map->data);
        assert_true(at % (alignment ? alignment : 32) == 0 && at + t->n_bytes <= t->map->size);
        assert_int_equal(t->data[3], (uint8_t)((k * big + 3) * 37));
    }
    assert_null(mf_tensor_find(m, "blk.0.none"));
    assert_null(mf_tensor_at(m, CK_COUNT(T)));
    const char *side;
    size_t n;
    assert_true(mf_side_file(m, "tokenizer.json", &side, &n, &e) == IMP_OK && !side && n == 0);
}

static void test_good(void **state)
{
    (void)state;
    static const uint32_t alignment[] = {0, 8, 32, 64, 4096};
    for (uint32_t version = 2; version <= 3; version++)
        for (size_t i = 0; i < CK_COUNT(alignment); i++) {
            strbuf b = {0};
            imp_err e = {0};
            modelfile *m;
            make_good(&b, version, alignment[i]);
            size_t size = b.n;
            store(file, &b);
            if (mf_open(&m, file, &e))
                fail_msg("%s", e.message);
            assert_int_equal(mf_file_bytes(m), size);
            check_good(m, alignment[i]);
            mf_close(m);
        }
    mf_close(NULL);
}

static void test_getter_errors(void **state)
{
    (void)state;
    strbuf b = {0};
    modelfile *m;
    make_good(&b, 3, 0);
    store(file, &b);
    assert_int_equal(mf_open(&m, file, NULL), IMP_OK);
    int64_t i;
    double d;
    bool f;
    meta_str s;
#define IMP_REFUSED(call, why) \
    do { \
        imp_err e = {0}; \
        assert_int_equal(call, IMP_E_MODEL); \
        if (!strstr(e.message, why) || !strstr(e.message, file)) \
            fail_msg("wanted <%s>, got <%s>", why, e.message); \
    } while (0)
    IMP_REFUSED(mf_get_int(m, "k.u8", 0, 100, 0, &i, &e), "key 'k.u8': wanted an integer from 0 to 100, got 200");
    IMP_REFUSED(mf_get_int(m, "k.i8", 0, 100, 0, &i, &e), "key 'k.i8': wanted an integer from 0 to 100, got -2");
    IMP_REFUSED(mf_get_int(m, "k.u64max", 0, 100, 0, &i, &e), "got 18446744073709551615");
    IMP_REFUSED(mf_get_int(m, "k.f32", 0, 100, 0, &i, &e), "key 'k.f32': wanted an integer, got 1.5");
    IMP_REFUSED(mf_get_int(m, "k.nan", 0, 100, 0, &i, &e), "key 'k.nan': wanted an integer, got nan");
    IMP_REFUSED(mf_get_int(m, "k.true", 0, 100, 0, &i, &e), "key 'k.true': wanted an integer, got a boolean");
    IMP_REFUSED(mf_get_int(m, "a.i32", 0, 100, 0, &i, &e), "key 'a.i32': wanted an integer, got an array");
    IMP_REFUSED(mf_get_float(m, "k.nan", 0, &d, &e), "key 'k.nan': wanted a finite number, got nan");
    IMP_REFUSED(mf_get_float(m, "k.empty", 0, &d, &e), "key 'k.empty': wanted a number, got a string");
    IMP_REFUSED(mf_get_bool(m, "k.u8", 0, &f, &e), "key 'k.u8': wanted a boolean, got an integer");
    IMP_REFUSED(mf_get_str(m, "k.f64", (meta_str){0}, &s, &e), "key 'k.f64': wanted a string, got a number");
#undef IMP_REFUSED
    mf_close(m);
}

/* ---- the catalogue ----------------------------------------------------------------------------------------------
 * name, part of the message, bytes. `b` is the buffer. H: header of version 3; A: the key general.architecture. */
#define H(n_tensors, n_kv) gm_head(b, 3, n_tensors, n_kv)
#define A gm_kv_str(b, "general.architecture", "llama")
#define T1(name, d0, type, offset) gm_tensor(b, name, 1, d0, 1, 1, 1, type, offset)

#define CATALOGUE(X) \
    X(empty_file, "is empty", (void)b) \
    X(one_byte, "is not a GGUF file (1 bytes)", gm_u8(b, 'G')) \
    X(three_bytes, "is not a GGUF file (3 bytes)", sb_str(b, "GGU")) \
    X(wrong_magic, "wanted the bytes 'GGUF' first, got 41 42 43 44", sb_str(b, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")) \
    X(lower_case_magic, "is not a GGUF file", sb_str(b, "gguf"), gm_u32(b, 3)) \
    X(big_endian_magic, "big-endian", sb_str(b, "FUGG"), gm_u32(b, 3)) \
    X(big_endian_version, "big-endian", sb_str(b, "GGUF"), gm_u32(b, 3u << 24), gm_u64(b, 0), gm_u64(b, 0)) \
    X(lfs_pointer, "Git LFS pointer", sb_str(b, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n")) \
    X(html_page, "HTML", sb_str(b, "<!DOCTYPE html><html></html>")) \
    X(zip_archive, "PyTorch or ZIP", sb_add(b, "PK\3\4aaaaaaaa", 12)) \
    X(safetensors_file, "SafeTensors file; name the folder", gm_u64(b, 2), sb_str(b, "{}")) \
    X(old_ggml, "from before GGUF", sb_str(b, "lmgg"), gm_u32(b, 1)) \
    X(old_ggjt, "from before GGUF", sb_str(b, "tjgg"), gm_u32(b, 1)) \
    X(magic_alone, "version at byte 4 wants 4 bytes, the file has 0 left", sb_str(b, "GGUF")) \
    X(version_cut, "version at byte 4 wants 4 bytes, the file has 2 left", sb_add(b, "GGUF\3\0", 6)) \
    X(version_0, "GGUF version 0, wanted 2 or 3", gm_head(b, 0, 0, 0)) \
    X(version_1, "GGUF version 1, wanted 2 or 3", gm_head(b, 1, 0, 0)) \
    X(version_4, "GGUF version 4, wanted 2 or 3", gm_head(b, 4, 0, 0)) \
    X(tensor_count_cut, "tensor count at byte 8", sb_str(b, "GGUF"), gm_u32(b, 3), gm_u32(b, 0)) \
    X(key_count_cut, "key count at byte 16", sb_str(b, "GGUF"), gm_u32(b, 3), gm_u64(b, 0), gm_u32(b, 0)) \
    X(key_count_huge, "18446744073709551615 keys do not fit in the 0 bytes left", H(0, UINT64_MAX)) \
    X(key_count_large, "keys do not fit", H(0, 1000), A) \
    X(tensor_count_huge, "18446744073709551615 tensors do not fit", H(UINT64_MAX, 0)) \
    X(tensor_count_large, "tensors do not fit", H(1000, 1), A) \
    X(tensor_count_sign, "9223372036854775808 tensors do not fit", H((uint64_t)1 << 63, 1), A) \
    X(key_missing, "key number 1: its name", H(0, 2), A) \
    X(key_name_empty, "key number 0: its name is empty", H(0, 1), gm_key(b, "", GM_U32), gm_u64(b, 1)) \
    X(key_name_huge, "key number 0: its name at byte 32 wants 18446744073709551615 bytes", H(0, 1), \
      gm_u64(b, UINT64_MAX), gm_u64(b, 0)) \
    X(key_name_past_end, "key number 0: its name at byte 32 wants 100 bytes, the file has 8 left", H(0, 1), \
      gm_u64(b, 100), gm_u64(b, 0)) \
    X(key_name_too_long, "key number 0: its name is too long (65536 bytes)", H(0, 1), gm_u64(b, 65536), \
      pad_to(b, 65536), gm_u32(b, GM_U8), gm_u8(b, 1)) \
    X(key_name_nul, "key number 0: its name holds a control character", H(0, 1), gm_strn(b, "a\0b", 3), \
      gm_u32(b, GM_U32), gm_u32(b, 1)) \
    X(key_name_utf8, "key number 0: its name is not valid UTF-8", H(0, 1), gm_str(b, "a\xFF"), gm_u32(b, GM_U32), \
      gm_u32(b, 1)) \
    X(key_twice, "key 'k': appears twice", H(0, 3), gm_kv_u32(b, "k", 1), A, gm_kv_u32(b, "k", 1)) \
    X(value_type_cut, "key 'kkkk': value type at byte", H(0, 1), gm_str(b, "kkkk"), gm_u16(b, 0)) \
    X(value_type_13, "key 'k': unknown value type 13", H(0, 1), gm_key(b, "k", 13), gm_u64(b, 0)) \
    X(value_type_huge, "key 'k': unknown value type 4294967295", H(0, 1), gm_key(b, "k", UINT32_MAX), gm_u64(b, 0)) \
    X(value_u32_cut, "key 'k': u32 at byte 37 wants 4 bytes, the file has 2 left", H(0, 1), gm_key(b, "k", GM_U32), \
      gm_u16(b, 0)) \
    X(value_f64_cut, "key 'k': f64 at byte 37 wants 8 bytes, the file has 4 left", H(0, 1), gm_key(b, "k", GM_F64), \
      gm_u32(b, 0)) \
    X(value_bool_2, "key 'k': wanted a boolean (0 or 1), got 2", H(0, 1), gm_key(b, "k", GM_BOOL), gm_u8(b, 2)) \
    X(string_past_end, "key 'k': string at byte 45 wants 50 bytes, the file has 4 left", H(0, 1), \
      gm_key(b, "k", GM_STR), gm_u64(b, 50), gm_u32(b, 0)) \
    X(string_huge, "key 'k': string at byte 45 wants 18446744073709551615 bytes", H(0, 1), gm_key(b, "k", GM_STR), \
      gm_u64(b, UINT64_MAX), gm_u32(b, 0)) \
    X(array_type_cut, "key 'kk': array type", H(0, 1), gm_key(b, "kk", GM_ARRAY), gm_u16(b, 4)) \
    X(array_type_unknown, "key 'k': unknown array element type 77", H(0, 1), gm_key(b, "k", GM_ARRAY), \
      gm_array(b, 77, 1), gm_u64(b, 0)) \
    X(array_length_cut, "key 'k': array length", H(0, 1), gm_key(b, "k", GM_ARRAY), gm_u32(b, GM_U32), gm_u32(b, 1)) \
    X(array_past_end, "key 'k': array of 3 u32 at byte 49 is larger than the rest of the file (8 bytes)", H(0, 1), \
      gm_key(b, "k", GM_ARRAY), gm_array(b, GM_U32, 3), gm_u64(b, 0)) \
    X(array_huge, "key 'k': array of 18446744073709551615 u8", H(0, 1), gm_key(b, "k", GM_ARRAY), \
      gm_array(b, GM_U8, UINT64_MAX), gm_u64(b, 0)) \
    X(array_overflow, "key 'k': array of 4611686018427387905 f32", H(0, 1), gm_key(b, "k", GM_ARRAY), \
      gm_array(b, GM_F32, ((uint64_t)1 << 62) + 1), gm_u64(b, 0)) \
    X(array_bool_7, "key 'k': wanted a boolean (0 or 1), got 7", H(0, 1), gm_key(b, "k", GM_ARRAY), \
      gm_array(b, GM_BOOL, 2), gm_u8(b, 1), gm_u8(b, 7)) \
    X(strings_past_end, "key 'k': string 2 of 2 at byte 58 runs past the end", H(0, 1), gm_key(b, "k", GM_ARRAY), \
      gm_array(b, GM_STR, 2), gm_str(b, "a"), gm_u64(b, 9)) \
    X(strings_count_huge, "key 'k': string 2 of 1152921504606846976 at byte 58", H(0, 1), gm_key(b, "k", GM_ARRAY), \
      gm_array(b, GM_STR, (uint64_t)1 << 60), gm_str(b, "a")) \
    X(strings_length_huge, "key 'k': string 1 of 1 at byte 49", H(0, 1), gm_key(b, "k", GM_ARRAY), \
      gm_array(b, GM_STR, 1), gm_u64(b, UINT64_MAX - 7), gm_u64(b, 0)) \
    X(arrays_count_huge, "key 'k': 1152921504606846976 arrays do not fit in the 16 bytes left", H(0, 1), \
      gm_key(b, "k", GM_ARRAY), gm_array(b, GM_ARRAY, (uint64_t)1 << 60), gm_u64(b, 0), gm_u64(b, 0)) \
    X(arrays_inner_lie, "key 'k': array of 99 u8", H(0, 1), gm_key(b, "k", GM_ARRAY), gm_array(b, GM_ARRAY, 1), \
      gm_array(b, GM_U8, 99)) \
    X(arrays_too_deep, "key 'k': arrays nested deeper than 4 levels", H(0, 1), gm_key(b, "k", GM_ARRAY), deep(b, 9)) \
    X(alignment_zero, "key 'general.alignment': wanted a power of two of at least 8, got 0", H(0, 1), \
      gm_kv_u32(b, "general.alignment", 0)) \
    X(alignment_one, "key 'general.alignment': wanted a power of two of at least 8, got 1", H(0, 1), \
      gm_kv_u32(b, "general.alignment", 1)) \
    X(alignment_48, "key 'general.alignment': wanted a power of two of at least 8, got 48", H(0, 1), \
      gm_kv_u32(b, "general.alignment", 48)) \
    X(alignment_u64, "key 'general.alignment': wanted a u32, got u64", H(0, 1), \
      gm_key(b, "general.alignment", GM_U64), gm_u64(b, 32)) \
    X(alignment_string, "key 'general.alignment': wanted a u32, got string", H(0, 1), \
      gm_kv_str(b, "general.alignment", "32")) \
    X(alignment_array, "key 'general.alignment': wanted a u32, got an array", H(0, 1), \
      gm_key(b, "general.alignment", GM_ARRAY), gm_array(b, GM_U32, 1), gm_u32(b, 32)) \
    X(alignment_past_end, "the tensor data would start behind the end", H(1, 1), \
      gm_kv_u32(b, "general.alignment", 1u << 31), T1("t", 1, QUANT_F32, 0), gm_data(b, 4)) \
    X(tensor_record_cut, "tensor 't0': number of dimensions", H(1, 1), A, gm_str(b, "t0"), gm_u16(b, 1), pad_front(b)) \
    X(tensor_name_empty, "tensor number 0: its name is empty", H(1, 1), A, T1("", 32, QUANT_F32, 0), gm_data(b, 128)) \
    X(tensor_name_huge, "tensor number 0: its name at byte", H(1, 0), gm_u64(b, UINT64_MAX - 3), gm_data(b, 64)) \
    X(tensor_name_long, "tensor number 0: its name is too long (600 bytes)", H(1, 0), gm_u64(b, 600), pad_to(b, 600), \
      gm_data(b, 128)) \
    X(tensor_name_newline, "tensor number 0: its name holds a control character", H(1, 1), A, \
      T1("a\nb", 32, QUANT_F32, 0), gm_data(b, 128)) \
    X(tensor_name_utf8, "tensor number 0: its name is not valid UTF-8", H(1, 1), A, T1("a\xC3(", 32, QUANT_F32, 0), \
      gm_data(b, 128)) \
    X(tensor_twice, "tensor 't': appears twice", H(2, 1), A, T1("t", 32, QUANT_F32, 0), T1("t", 32, QUANT_F32, 128), \
      gm_data(b, 256)) \
    X(dims_5, "tensor 't': 5 dimensions, wanted at most 4", H(1, 1), A, \
      gm_tensor(b, "t", 5, 32, 1, 1, 1, QUANT_F32, 0), gm_data(b, 128)) \
    X(dims_huge, "tensor 't': 4294967295 dimensions", H(1, 1), A, gm_str(b, "t"), gm_u32(b, UINT32_MAX), \
      gm_data(b, 128)) \
    X(dims_cut, "tensor 't': dimension at byte", H(1, 0), gm_str(b, "t"), gm_u32(b, 4), gm_u64(b, 1), gm_u32(b, 1)) \
    X(dim_zero, "tensor 't': dimension 0 is 0", H(1, 1), A, T1("t", 0, QUANT_F32, 0), gm_data(b, 128)) \
    X(dim_zero_outer, "tensor 't': dimension 1 is 0", H(1, 1), A, gm_tensor(b, "t", 2, 32, 0, 1, 1, QUANT_F32, 0), \
      gm_data(b, 128)) \
    X(dim_huge, "tensor 't': its dimensions multiply to more than 2^63", H(1, 1), A, \
      T1("t", UINT64_MAX, QUANT_F32, 0), gm_data(b, 128)) \
    X(dim_product_wraps, "tensor 't': its dimensions multiply to more than 2^63", H(1, 1), A, \
      gm_tensor(b, "t", 2, (uint64_t)1 << 32, ((uint64_t)1 << 32) + 1, 1, 1, QUANT_F32, 0), gm_data(b, 128)) \
    X(dim_product_wraps_to_zero, "tensor 't': its dimensions multiply", H(1, 1), A, \
      gm_tensor(b, "t", 4, 65536, 65536, 65536, 65536, QUANT_F32, 0), gm_data(b, 128)) \
    X(bytes_wrap, "tensor 't': its size does not fit in 64 bits", H(1, 1), A, \
      gm_tensor(b, "t", 2, (uint64_t)1 << 31, (uint64_t)1 << 31, 1, 1, QUANT_F32, 0), gm_data(b, 128)) \
    X(type_removed, "tensor 't': unknown tensor type 4", H(1, 1), A, T1("t", 32, 4, 0), gm_data(b, 128)) \
    X(type_future, "tensor 't': unknown tensor type 99", H(1, 1), A, T1("t", 32, 99, 0), gm_data(b, 128)) \
    X(type_own_number, "tensor 't': unknown tensor type 200", H(1, 1), A, T1("t", 32, QUANT_F8_E4M3, 0), \
      gm_data(b, 128)) \
    X(type_none, "tensor 't': unknown tensor type 255", H(1, 1), A, T1("t", 32, QUANT_NONE, 0), gm_data(b, 128)) \
    X(type_huge, "tensor 't': unknown tensor type 4294967294", H(1, 1), A, T1("t", 32, UINT32_MAX - 1, 0), \
      gm_data(b, 128)) \
    X(row_half_a_block, "tensor 't': rows of 16 values; Q8_0 wants a multiple of 32", H(1, 1), A, \
      gm_tensor(b, "t", 2, 16, 2, 1, 1, QUANT_Q8_0, 0), gm_data(b, 128)) \
    X(row_not_256, "tensor 't': rows of 128 values; Q4_K wants a multiple of 256", H(1, 1), A, \
      gm_tensor(b, "t", 2, 128, 2, 1, 1, QUANT_Q4_K, 0), gm_data(b, 256)) \
    X(offset_cut, "tensor 't': offset at byte", H(1, 0), gm_str(b, "t"), gm_u32(b, 1), gm_u64(b, 32), gm_u32(b, 0), \
      gm_u32(b, 0)) \
    X(offset_odd, "tensor 't': offset 4 is not a multiple of the alignment 32", H(1, 1), A, T1("t", 1, QUANT_F32, 4), \
      gm_data(b, 128)) \
    X(offset_odd_own, "tensor 't': offset 32 is not a multiple of the alignment 64", H(1, 1), \
      gm_kv_u32(b, "general.alignment", 64), T1("t", 1, QUANT_F32, 32), gm_data(b, 256)) \
    X(offset_past_end, "tensor 't': its 4 bytes at offset 1024 run past the end of the file", H(1, 1), A, \
      T1("t", 1, QUANT_F32, 1024), gm_data(b, 128)) \
    X(offset_wraps, "tensor 't': its 128 bytes at offset 18446744073709551584 run past the end", H(1, 1), A, \
      T1("t", 32, QUANT_F32, UINT64_MAX - 31), gm_data(b, 128)) \
    X(data_cut, "tensor 'u': its 128 bytes at offset 128 run past the end of the file (255 bytes of tensor data", \
      H(2, 1), A, T1("t", 32, QUANT_F32, 0), T1("u", 32, QUANT_F32, 128), gm_data(b, 255)) \
    X(data_missing, "the tensor data would start behind the end", H(1, 1), A, T1("t", 32, QUANT_F32, 0)) \
    X(overlap_same, "tensor 'u': its data at byte 160 overlaps tensor 't'", H(2, 1), A, T1("t", 32, QUANT_F32, 0), \
      T1("u", 32, QUANT_F32, 0), gm_data(b, 256)) \
    X(overlap_part, "tensor 'u': its data at byte 256 overlaps tensor 't' (bytes 192 to 320)", H(2, 1), A, \
      T1("t", 32, QUANT_F32, 32), T1("u", 32, QUANT_F32, 96), gm_data(b, 256)) \
    X(overlap_unordered, "tensor 'a': its data at byte 288 overlaps tensor 'c' (bytes 256 to 384)", H(3, 1), A, \
      T1("a", 32, QUANT_F32, 96), T1("b", 16, QUANT_F32, 256), T1("c", 32, QUANT_F32, 64), gm_data(b, 512)) \
    X(split_count_float, "key 'split.count': wanted a count, got a number", H(0, 1), gm_key(b, "split.count", GM_F32), \
      gm_f32(b, 2)) \
    X(split_count_negative, "key 'split.count': wanted a count, got a negative number", H(0, 1), \
      gm_key(b, "split.count", GM_I32), gm_u32(b, (uint32_t)-1)) \
    X(split_count_huge, "key 'split.count': wanted at most 99999, got 4000000000", H(0, 1), \
      gm_kv_u32(b, "split.count", 4000000000u)) \
    X(split_no_string, "key 'split.no': wanted a count, got a string", H(0, 2), gm_kv_u16(b, "split.count", 2), \
      gm_kv_str(b, "split.no", "1")) \
    X(split_second, "is part 2 of 3; name the first part (-00001-of-00003.gguf)", H(0, 2), \
      gm_kv_u16(b, "split.count", 3), gm_kv_u16(b, "split.no", 1)) \
    X(split_name, "holds part 1 of 3, so its name should end in -00001-of-00003.gguf", H(0, 2), \
      gm_kv_u16(b, "split.count", 3), gm_kv_u16(b, "split.no", 0))

static inline void gm_u16(strbuf *b, uint16_t v) { sb_add(b, &v, 2); }
static inline void pad_to(strbuf *b, size_t n)
{
    while (n--)
        sb_char(b, 'n');
}
/* Keeps a record at the end of the file while the count check in front of it passes: one key grows by what it lacks. */
static inline void pad_front(strbuf *b)
{
    strbuf c = {0};
    gm_head(&c, 3, 1, 2);
    gm_kv_str(&c, "general.description", "as long as a tensor record would be at the least");
    sb_add(&c, b->s + 24, b->n - 24);
    sb_free(b);
    *b = c;
}
static inline void deep(strbuf *b, unsigned n)
{
    while (n--)
        gm_array(b, GM_ARRAY, 1);
    gm_array(b, GM_U8, 1);
    gm_u64(b, 0);
}

#define X(id, message, ...) static void make_##id(strbuf *b) { __VA_ARGS__; }
CATALOGUE(X)
#undef X

static const struct {
    const char *name, *message;
    void (*make)(strbuf *b);
} CASE[] = {
#define X(id, message, ...) {#id, message, make_##id},
    CATALOGUE(X)
#undef X
};

static void test_catalogue(void **state)
{
    (void)state;
    int fd = free_fd();
    for (size_t i = 0; i < CK_COUNT(CASE); i++) {
        strbuf b = {0};
        imp_err e = {0};
        modelfile *m;
        CASE[i].make(&b);
        store(file, &b);
        imp_status s = mf_open(&m, file, &e);
        if (s == IMP_OK || m)
            fail_msg("%s: was accepted", CASE[i].name);
        if (e.status != s || !strstr(e.message, CASE[i].message) || strncmp(e.message, file, strlen(file)) != 0)
            fail_msg("%s: wanted <%s>, got <%s>", CASE[i].name, CASE[i].message, e.message);
        assert_int_equal(mf_open(&m, file, NULL), s); /* and without anyone to tell */
        assert_int_equal(free_fd(), fd);
    }
    assert_true(CK_COUNT(CASE) >= 60);
}

static void test_paths(void **state)
{
    (void)state;
    imp_err e = {0};
    modelfile *m;
    char path[400];
    snprintf(path, sizeof path, "%s/none.gguf", dir);
    assert_int_equal(mf_open(&m, path, &e), IMP_E_NOTFOUND);
    assert_non_null(strstr(e.message, "No such file"));
    strbuf b = {0};
    make_good(&b, 3, 0);
    store(file, &b);
    err_clear(&e);
    assert_int_equal(mf_open(&m, dir, &e), IMP_E_MODEL);
    assert_non_null(strstr(e.message, "holds no config.json; to use a GGUF file in it, name the file (model.gguf)"));
    unlink(file);
    err_clear(&e);
    assert_int_equal(mf_open(&m, dir, &e), IMP_E_MODEL);
    assert_non_null(strstr(e.message, "holds no config.json; wanted a GGUF file or a folder"));
    err_clear(&e);
    assert_int_equal(mf_open(&m, "/dev/null", &e), IMP_E_IO);
    assert_non_null(strstr(e.message, "not a regular file"));
    err_clear(&e);
    assert_true(mf_open(&m, "", &e) != IMP_OK && e.message[0]);
}

/* Every prefix of a good file is refused (none is read past its end: ASan cannot see a map's end, so the file is cut to
 * whole pages as well, where a read behind it would be a SIGBUS). */
static void test_truncated(void **state)
{
    (void)state;
    strbuf b = {0};
    make_good(&b, 3, 0);
    size_t n = b.n;
    store(file, &b);
    for (size_t cut = n; cut-- > 0; cut -= cut > 1400 && cut > 40 ? 40 : 0) {
        modelfile *m;
        imp_err e = {0};
        assert_int_equal(truncate(file, (off_t)cut), 0);
        if (!mf_open(&m, file, &e))
            fail_msg("cut to %zu of %zu bytes: was accepted", cut, n);
    }
}

/* One flipped bit never crashes; what still opens keeps its promises. */
static void test_bit_flips(void **state)
{
    (void)state;
    strbuf b = {0};
    make_good(&b, 3, 0);
    size_t n = b.n, head = n - (4 * 1024 + 4), opened = 0;
    char *bytes = sb_take(&b);
    int fd = open(file, O_RDWR | O_CREAT | O_TRUNC, 0666);
    assert_true(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
    for (size_t bit = 0; bit < head * 8; bit += 3) {
        char c = (char)(bytes[bit / 8] ^ 1 << bit % 8);
        assert_int_equal(pwrite(fd, &c, 1, (off_t)(bit / 8)), 1);
        modelfile *m;
        imp_err e = {0};
        if (mf_open(&m, file, &e) == IMP_OK) {
            opened++;
            for (size_t i = 0; i < mf_tensor_count(m); i++) {
                const mf_tensor *t = mf_tensor_at(m, i);
                uint64_t at = (uint64_t)(t->data - t->map->data);
                assert_true(at <= t->map->size && t->n_bytes <= t->map->size - at);
            }
            mf_close(m);
        } else {
            assert_true(e.message[0] && strlen(e.message) < sizeof e.message);
        }
        assert_int_equal(pwrite(fd, &bytes[bit / 8], 1, (off_t)(bit / 8)), 1);
    }
    close(fd);
    mem_free(bytes);
    assert_true(opened > 0);
}

/* Each allocation in turn fails: the sentence says so and nothing is lost (ASan counts). */
static void ramp(const char *path)
{
    int fd = free_fd();
    for (long n = 0;; n++) {
        modelfile *m;
        imp_err e = {0};
        mem_fail_after(n);
        imp_status s = mf_open(&m, path, &e);
        mem_fail_after(-1);
        if (s == IMP_OK) {
            assert_true(n > 3);
            mf_close(m);
            break;
        }
        if (s != IMP_E_NOMEM || !strstr(e.message, "out of memory"))
            fail_msg("allocation %ld: %s", n, e.message);
        assert_null(m);
        assert_int_equal(free_fd(), fd);
    }
}

static void test_ramp(void **state)
{
    (void)state;
    strbuf b = {0};
    make_good(&b, 3, 0);
    store(file, &b);
    ramp(file);
    /* large enough that every table grows several times and the arena takes blocks */
    gm_head(&b, 3, 700, 300);
    char name[64];
    for (unsigned i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "some.key.with.a.number.%u", i);
        gm_key(&b, name, GM_ARRAY);
        gm_array(&b, GM_STR, 20);
        for (unsigned k = 0; k < 20; k++)
            gm_str(&b, name);
    }
    for (unsigned i = 0; i < 700; i++) {
        snprintf(name, sizeof name, "blk.%u.tensor.weight", i);
        gm_tensor(&b, name, 1, 8, 1, 1, 1, QUANT_F32, (699 - i) * 32);
    }
    gm_data(&b, 700 * 32);
    store(file, &b);
    ramp(file);
    modelfile *m;
    assert_int_equal(mf_open(&m, file, NULL), IMP_OK);
    for (unsigned i = 0; i < 700; i++) {
        snprintf(name, sizeof name, "blk.%u.tensor.weight", i);
        assert_ptr_equal(mf_tensor_find(m, name), mf_tensor_at(m, i));
    }
    for (unsigned i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "some.key.with.a.number.%u", i);
        assert_ptr_equal(mf_meta(m, name), &mf_meta_at(m, i)->v);
    }
    mf_close(m);
}

/* ---- split sets -------------------------------------------------------------------------------------------------- */

typedef struct part {
    uint16_t no, count;
    const char *tensor;   /* one tensor of 32 floats */
    int32_t total;        /* split.tensors.count, -1: absent */
    const char *extra;    /* one more key */
    const char *value;
    bool missing, no_keys;
} part;

static void part_path(char *out, size_t n, unsigned i, unsigned count)
{
    snprintf(out, n, "%s/set-%05u-of-%05u.gguf", dir, i + 1, count);
}

static void make_part(strbuf *b, const part *p)
{
    gm_head(b, 3, 1, (p->no_keys ? 0 : 2) + (p->total >= 0) + (p->extra != NULL));
    if (!p->no_keys) {
        gm_kv_u16(b, "split.no", p->no);
        gm_kv_u16(b, "split.count", p->count);
    }
    if (p->total >= 0)
        gm_key(b, "split.tensors.count", GM_I32), gm_u32(b, (uint32_t)p->total);
    if (p->extra)
        gm_kv_str(b, p->extra, p->value);
    gm_tensor(b, p->tensor ? p->tensor : "x", 1, 32, 1, 1, 1, QUANT_F32, 0);
    gm_data(b, 128);
}

static const struct {
    const char *name, *message; /* NULL: opens */
    unsigned count;
    part p[3];
} SPLIT[] = {
    {"good",
     NULL,
     3,
     {{0, 3, "a", 3, "general.architecture", "llama", 0, 0}, {1, 3, "b", 3, 0, 0, 0, 0}, {2, 3, "c", 3, 0, 0, 0, 0}}},
    {"good_repeats", NULL, 2, {{0, 2, "a", 2, "k", "v", 0, 0}, {1, 2, "b", 2, "k", "v", 0, 0}}},
    {"good_own_general", NULL, 2, {{0, 2, "a", 2, 0, 0, 0, 0}, {1, 2, "b", 2, "general.name", "part two", 0, 0}}},
    {"missing_part", "set-00002-of-00002.gguf: No such file", 2, {{0, 2, "a", 2, 0, 0, 0, 0}, {.missing = true}}},
    {"wrong_number",
     "set-00002-of-00002.gguf: key 'split.no': wanted 1, got 0",
     2,
     {{0, 2, "a", 2, 0, 0, 0, 0}, {0, 2, "b", 2, 0, 0, 0, 0}}},
    {"wrong_count",
     "key 'split.count': wanted 2 as in the first part, got 3",
     2,
     {{0, 2, "a", 2, 0, 0, 0, 0}, {1, 3, "b", 2, 0, 0, 0, 0}}},
    {"part_without_keys",
     "key 'split.count': wanted 2 as in the first part, got 0",
     2,
     {{0, 2, "a", 2, 0, 0, 0, 0}, {1, 2, "b", -1, 0, 0, 0, 1}}},
    {"name_disagrees",
     "holds part 1 of 3, so its name should end in -00001-of-00003.gguf",
     2,
     {{0, 3, "a", 2, 0, 0, 0, 0}, {1, 3, "b", 2, 0, 0, 0, 0}}},
    {"tensor_in_two_parts",
     "set-00002-of-00002.gguf: tensor 'a': appears twice",
     2,
     {{0, 2, "a", 2, 0, 0, 0, 0}, {1, 2, "a", 2, 0, 0, 0, 0}}},
    {"tensor_count",
     "key 'split.tensors.count': wanted the 2 tensors of all 2 parts, got 3",
     2,
     {{0, 2, "a", 3, 0, 0, 0, 0}, {1, 2, "b", 3, 0, 0, 0, 0}}},
    {"stray_key",
     "key 'llama.x': is missing in the first part",
     2,
     {{0, 2, "a", 2, 0, 0, 0, 0}, {1, 2, "b", 2, "llama.x", "1", 0, 0}}},
    {"differing_key",
     "key 'k': differs from the first part",
     2,
     {{0, 2, "a", 2, "k", "v", 0, 0}, {1, 2, "b", 2, "k", "w", 0, 0}}},
};

static void test_split(void **state)
{
    (void)state;
    int fd = free_fd();
    for (size_t i = 0; i < CK_COUNT(SPLIT); i++) {
        char path[3][320];
        for (unsigned k = 0; k < SPLIT[i].count; k++) {
            part_path(path[k], sizeof path[k], k, SPLIT[i].count);
            strbuf b = {0};
            make_part(&b, &SPLIT[i].p[k]);
            store(path[k], &b);
            if (SPLIT[i].p[k].missing)
                unlink(path[k]);
        }
        modelfile *m;
        imp_err e = {0};
        imp_status s = mf_open(&m, path[0], &e);
        if ((s == IMP_OK) != !SPLIT[i].message || (s != IMP_OK && !strstr(e.message, SPLIT[i].message)))
            fail_msg("%s: wanted <%s>, got <%s>", SPLIT[i].name, SPLIT[i].message ? SPLIT[i].message : "success",
                     e.message);
        if (s == IMP_OK) {
            assert_int_equal(mf_tensor_count(m), SPLIT[i].count);
            for (unsigned k = 0; k < SPLIT[i].count; k++) {
                mf_tensor *t = mf_tensor_find(m, SPLIT[i].p[k].tensor);
                assert_ptr_equal(t, mf_tensor_at(m, k));
                assert_string_equal(t->map->path, path[k]);
                assert_int_equal(t->data[5], 5 * 37);
            }
            struct stat st;
            assert_int_equal(stat(path[0], &st), 0);
            assert_true(mf_file_bytes(m) > (uint64_t)st.st_size);
            mf_close(m);
            ramp(path[0]);
        }
        for (unsigned k = 0; k < SPLIT[i].count; k++)
            unlink(path[k]);
        assert_int_equal(free_fd(), fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),      cmocka_unit_test(test_getter_errors), cmocka_unit_test(test_catalogue),
        cmocka_unit_test(test_truncated), cmocka_unit_test(test_bit_flips),     cmocka_unit_test(test_ramp),
        cmocka_unit_test(test_split),     cmocka_unit_test(test_paths),
    };
    return cmocka_run_group_tests_name("gguf", tests, setup, teardown);
}

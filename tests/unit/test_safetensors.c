/* SafeTensors folders: a good one is read whole (configs as dotted keys, tensors with their dimensions reversed,
 * shards); each of a catalogue of bad ones is refused with its sentence and without a leak; no failed allocation does
 * harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ck.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "file/modelfile.h"

#define ONE "model.safetensors"
#define INDEX "model.safetensors.index.json"
static char dir[256];

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/imp-st-XXXXXX", tmp && *tmp && strlen(tmp) < 200 ? tmp : "/tmp");
    return mkdtemp(dir) ? 0 : -1;
}

/* Removes what a test wrote. */
static void clear_dir(void)
{
    DIR *d = opendir(dir);
    for (struct dirent *f; d && (f = readdir(d));) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
        unlink(path);
    }
    if (d)
        closedir(d);
}

static int teardown(void **state)
{
    (void)state;
    clear_dir();
    return rmdir(dir);
}

static void store(const char *name, const void *data, size_t n)
{
    char path[600];
    imp_err e = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (file_write_all(path, data, n, &e))
        fail_msg("%s", e.message);
}

static void store_text(const char *name, const char *text) { store(name, text, strlen(text)); }

/* A SafeTensors file: length, header, n bytes of data. */
static void store_tensors(const char *name, const char *header, size_t n)
{
    strbuf b = {0};
    uint64_t len = strlen(header);
    sb_add(&b, &len, 8);
    sb_str(&b, header);
    for (size_t i = 0; i < n; i++)
        sb_char(&b, (char)(i * 37));
    assert_false(b.failed);
    store(name, b.s, b.n);
    sb_free(&b);
}

static int free_fd(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(fd);
    return fd;
}

/* ---- a good folder ----------------------------------------------------------------------------------------------- */

static const char good_config[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 4096, "
                                  "\"rms_norm_eps\": 1e-05, \"tie\": true, \"none\": null,\n"
                                  " \"rope_scaling\": {\"factor\": 8.0, \"rope_type\": \"llama3\", \"deep\": {\"er\": "
                                  "-7}}, \"empty\": {}, \"huge\": 18446744073709551615,\n"
                                  " \"beyond\": 1000000000000000019884624838656, \"least\": -9223372036854775808, "
                                  "\"esc\\u0061ped\": \"\\u20ac\\n\\\"\", \"name\": \"\",\n"
                                  " \"ints\": [1, -2, 3], \"floats\": [0, 0.5, Infinity], \"flags\": [true, false], "
                                  "\"nothing\": [], \"mixed\": [1, \"a\", null, true],\n"
                                  " \"nested\": [[1, 2], [], [\"x\"]], \"objects\": [{\"type\": \"a\"}, 5, {\"type\": "
                                  "\"b\", \"sub\": {\"n\": 2}}], \"integral\": 4e3}";

static const char good_header[] =
    "{\"__metadata__\": {\"format\": \"pt\"}, \"m\": {\"dtype\": \"BF16\", \"shape\": [3, 2], \"data_offsets\": [0, "
    "12]},\n"
    " \"f8\": {\"shape\": [4], \"data_offsets\": [12, 16], \"dtype\": \"F8_E4M3\"},"
    " \"scalar\": {\"dtype\": \"F32\", \"shape\": [], \"data_offsets\": [16, 20]},"
    " \"conv\": {\"dtype\": \"F16\", \"shape\": [1, 2, 3, 4, 5], \"data_offsets\": [28, 268]},"
    " \"empty\": {\"dtype\": \"I64\", \"shape\": [0, 7], \"data_offsets\": [20, 20]},"
    " \"packed.\\u0061\": {\"dtype\": \"I32\", \"shape\": [2, 1], \"data_offsets\": [20, 28]},"
    " \"fp4\": {\"dtype\": \"F4\", \"shape\": [2, 4], \"data_offsets\": [268, 272]}}    ";

static void make_good(void)
{
    clear_dir();
    store_text("config.json", good_config);
    store_text("generation_config.json", "{\"eos_token_id\": [2, 7], \"temperature\": 0.6}");
    store_text("hf_quant_config.json", "{\"quantization\": {\"quant_algo\": \"NVFP4\"}}");
    store_tensors(ONE, good_header, 272);
}

static modelfile *open_good(void)
{
    modelfile *m;
    imp_err e = {0};
    if (mf_open(&m, dir, &e))
        fail_msg("%s", e.message);
    return m;
}

static void test_config(void **state)
{
    (void)state;
    imp_err e = {0};
    int64_t i;
    double d;
    bool b;
    meta_str s;
    const meta_str none = {0};
    make_good();
    modelfile *m = open_good();
    assert_int_equal(mf_get_kind(m), MF_SAFETENSORS);
    assert_string_equal(mf_path(m), dir);
#define IMP_INT(key, want) assert_true(mf_get_int(m, key, INT64_MIN, INT64_MAX, -1, &i, &e) == IMP_OK && i == (want))
    IMP_INT("hidden_size", 4096);
    IMP_INT("rope_scaling.deep.er", -7);
    IMP_INT("least", INT64_MIN);
    IMP_INT("integral", 4000);
    IMP_INT("objects.2.sub.n", 2);
    IMP_INT("none", -1); /* null is as good as absent */
    IMP_INT("rope_scaling", -1);
    IMP_INT("empty", -1);
#undef IMP_INT
    assert_true(mf_get_float(m, "rms_norm_eps", 0, &d, &e) == IMP_OK && d == 1e-05);
    assert_true(mf_get_float(m, "rope_scaling.factor", 0, &d, &e) == IMP_OK && d == 8);
    assert_true(mf_get_float(m, "beyond", 0, &d, &e) == IMP_OK && d == 1e30);
    assert_true(mf_get_float(m, "generation_config.temperature", 0, &d, &e) == IMP_OK && d == 0.6);
    assert_true(mf_get_bool(m, "tie", false, &b, &e) == IMP_OK && b);
#define IMP_STR(key, want) \
    assert_true(mf_get_str(m, key, none, &s, &e) == IMP_OK && s.n == strlen(want) && !memcmp(s.s, want, s.n))
    IMP_STR("rope_scaling.rope_type", "llama3");
    IMP_STR("escaped", "\xE2\x82\xAC\n\"");
    IMP_STR("name", "");
    IMP_STR("objects.0.type", "a");
    IMP_STR("objects.2.type", "b");
    IMP_STR("hf_quant_config.quantization.quant_algo", "NVFP4");
#undef IMP_STR
    assert_int_equal(mf_meta(m, "huge")->type, META_UINT);
    assert_true(mf_meta(m, "huge")->u == UINT64_MAX);
    const meta_value *v = mf_meta(m, "architectures");
    assert_true(v->arr.elem == META_STR && v->arr.n == 1 && mf_array_str(v, 0, &s) && s.n == 16);
    v = mf_meta(m, "generation_config.eos_token_id");
    assert_true(v->arr.elem == META_INT && v->arr.n == 2 && mf_array_int(v, 1, &i) && i == 7);
    v = mf_meta(m, "ints");
    assert_true(v->arr.elem == META_INT && v->arr.packed && mf_array_int(v, 1, &i) && i == -2 &&
                mf_array_float(v, 2, &d) && d == 3);
    v = mf_meta(m, "floats");
    assert_true(v->arr.elem == META_FLOAT && mf_array_float(v, 1, &d) && d == 0.5 && mf_array_float(v, 2, &d) &&
                isinf(d));
    assert_true(mf_array_int(v, 0, &i) && i == 0 && !mf_array_int(v, 1, &i) && !mf_array_int(v, 2, &i));
    v = mf_meta(m, "flags");
    assert_true(v->arr.elem == META_BOOL && mf_array_int(v, 0, &i) && i == 1 && mf_array_int(v, 1, &i) && i == 0);
    v = mf_meta(m, "nothing");
    assert_true(v->type == META_ARRAY && v->arr.n == 0 && !mf_array_int(v, 0, &i));
    v = mf_meta(m, "mixed");
    assert_true(v->arr.elem == META_NULL && v->arr.n == 4 && mf_array_int(v, 0, &i) && i == 1 &&
                mf_array_str(v, 1, &s));
    assert_true(v->arr.v[2].type == META_NULL && !mf_array_int(v, 2, &i) && mf_array_int(v, 3, &i) && i == 1);
    v = mf_meta(m, "nested");
    assert_true(v->arr.elem == META_ARRAY && v->arr.n == 3 && mf_array_int(&v->arr.v[0], 1, &i) && i == 2);
    assert_true(v->arr.v[1].arr.n == 0 && mf_array_str(&v->arr.v[2], 0, &s));
    v = mf_meta(m, "objects");
    assert_true(v->arr.elem == META_NULL && v->arr.n == 3 && v->arr.v[0].type == META_NULL && mf_array_int(v, 1, &i) &&
                i == 5);
    assert_null(mf_meta(m, "format")); /* a file's remarks are not the model's metadata */
    for (size_t k = 0; k < mf_meta_count(m); k++) /* all were looked at; null needs no reader */
        assert_true(mf_meta_at(m, k)->used);
    /* errors name the folder, the key, wanted and got */
    assert_int_equal(mf_get_int(m, "name", 0, 1, 0, &i, &e), IMP_E_MODEL);
    assert_non_null(strstr(e.message, "key 'name': wanted an integer, got a string"));
    mf_close(m);
}

static void test_tensors(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        quant_id type;
        uint32_t n_dims;
        uint64_t dim[5], at, n_bytes;
    } T[] = {
        {"m", QUANT_BF16, 2, {2, 3, 1, 1, 1}, 0, 12},       {"f8", QUANT_F8_E4M3, 1, {4, 1, 1, 1, 1}, 12, 4},
        {"scalar", QUANT_F32, 0, {1, 1, 1, 1, 1}, 16, 4},   {"conv", QUANT_F16, 5, {5, 4, 3, 2, 1}, 28, 240},
        {"empty", QUANT_I64, 2, {7, 0, 1, 1, 1}, 20, 0},    {"packed.a", QUANT_I32, 2, {1, 2, 1, 1, 1}, 20, 8},
        {"fp4", QUANT_E2M1, 2, {4, 2, 1, 1, 1}, 268, 4},
    };
    make_good();
    modelfile *m = open_good();
    assert_int_equal(mf_tensor_count(m), CK_COUNT(T));
    assert_int_equal(mf_file_bytes(m), 8 + strlen(good_header) + 272);
    for (size_t i = 0; i < CK_COUNT(T); i++) {
        mf_tensor *t = mf_tensor_find(m, T[i].name);
        assert_ptr_equal(t, mf_tensor_at(m, i));
        assert_true(t->type == T[i].type && t->n_dims == T[i].n_dims && t->n_bytes == T[i].n_bytes && !t->used);
        assert_memory_equal(t->dim, T[i].dim, sizeof T[i].dim);
        assert_true(t->data == t->map->data + 8 + strlen(good_header) + T[i].at);
        if (t->n_bytes)
            assert_int_equal(t->data[0], (uint8_t)(T[i].at * 37));
    }
    assert_null(mf_tensor_find(m, "__metadata__"));
    mf_close(m);
}

static void test_side_files(void **state)
{
    (void)state;
    const char *data, *again;
    size_t n;
    imp_err e = {0};
    make_good();
    store_text("tokenizer.json", "{\"a\":1}");
    store_text("chat_template.jinja", "");
    modelfile *m = open_good();
    assert_int_equal(mf_side_file(m, "tokenizer.json", &data, &n, &e), IMP_OK);
    assert_true(n == 7 && memcmp(data, "{\"a\":1}", 7) == 0);
    assert_int_equal(mf_side_file(m, "tokenizer.json", &again, &n, &e), IMP_OK);
    assert_ptr_equal(data, again);
    assert_int_equal(mf_side_file(m, "chat_template.jinja", &data, &n, &e), IMP_OK);
    assert_true(data && n == 0);
    assert_int_equal(mf_side_file(m, "tokenizer.model", &data, &n, &e), IMP_OK);
    assert_true(!data && n == 0);
    assert_int_equal(mf_side_file(m, "config.json", &data, &n, &e), IMP_OK);
    assert_true(n == strlen(good_config) && memcmp(data, good_config, n) == 0);
    assert_int_equal(mf_side_file(m, "../x", &data, &n, &e), IMP_E_USAGE);
    assert_null(data);
    mf_close(m);
    clear_dir();
}

/* ---- shards ------------------------------------------------------------------------------------------------------ */

#define TENSOR(name) "{\"" name "\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}}"

static const struct {
    const char *name, *index, *message; /* NULL: opens */
} SHARDS[] = {
    {"good",
     "{\"metadata\": {\"total_size\": 24}, \"weight_map\": {\"a\": \"1.safetensors\", \"b\": \"2.safetensors\", \"c\": "
     "\"3.safetensors\"}}",
     NULL},
    {"map_first",
     "{\"weight_map\": {\"c\": \"3.safetensors\", \"a\": \"1.safetensors\", \"b\": \"2.safetensors\"}, \"metadata\": "
     "{}}",
     NULL},
    {"not_an_object", "[1]", INDEX ": offset 0: wanted an object, got '['"},
    {"empty_text", "", INDEX ": offset 0: wanted an object, got the end"},
    {"no_map", "{\"metadata\": {}}", "weight_map is missing"},
    {"empty_map", "{\"weight_map\": {}}", "weight_map names no file"},
    {"map_twice", "{\"weight_map\": {\"a\": \"1.safetensors\"}, \"weight_map\": {}}", "weight_map appears twice"},
    {"map_list", "{\"weight_map\": [\"a\"]}", "wanted an object, got '['"},
    {"file_is_number", "{\"weight_map\": {\"a\": 1}}", "wanted a string, got '1'"},
    {"file_missing", "{\"weight_map\": {\"a\": \"9.safetensors\"}}", "9.safetensors: No such file"},
    {"file_elsewhere", "{\"weight_map\": {\"a\": \"../1.safetensors\"}}",
     "'../1.safetensors' is not the name of a SafeTensors file in the folder"},
    {"file_absolute", "{\"weight_map\": {\"a\": \"/etc/1.safetensors\"}}", "is not the name of a SafeTensors file"},
    {"file_of_other_kind", "{\"weight_map\": {\"a\": \"config.json\"}}",
     "'config.json' is not the name of a SafeTensors file"},
    {"file_empty_name", "{\"weight_map\": {\"a\": \"\"}}", "a file name is empty"},
    {"file_name_nul", "{\"weight_map\": {\"a\": \"\\u0000.safetensors\"}}", "a file name holds a control character"},
    {"tensor_empty_name", "{\"weight_map\": {\"\": \"1.safetensors\"}}", "a tensor's name is empty"},
    {"tensor_missing", "{\"weight_map\": {\"a\": \"1.safetensors\", \"x\": \"2.safetensors\"}}",
     "tensor 'x' is not in 2.safetensors"},
    {"tensor_in_other_file",
     "{\"weight_map\": {\"a\": \"1.safetensors\", \"b\": \"1.safetensors\", \"c\": \"2.safetensors\"}}",
     "tensor 'b' is not in 1.safetensors"},
    {"tensor_twice", "{\"weight_map\": {\"a\": \"1.safetensors\", \"b\": \"again.safetensors\"}}",
     "again.safetensors: tensor 'a': appears twice"},
    {"cut", "{\"weight_map\": {\"a\": \"1.safetensors\"", "wanted ',' or '}', got the end"},
    {"trailing", "{\"weight_map\": {\"a\": \"1.safetensors\"}} x", "wanted the end, got 'x'"},
};

static void test_shards(void **state)
{
    (void)state;
    clear_dir();
    store_text("config.json", "{}");
    store_tensors("1.safetensors", TENSOR("a"), 8);
    store_tensors("2.safetensors", TENSOR("b"), 8);
    store_tensors("3.safetensors", TENSOR("c"), 8);
    store_tensors("again.safetensors", TENSOR("a"), 8);
    int fd = free_fd();
    for (size_t i = 0; i < CK_COUNT(SHARDS); i++) {
        modelfile *m;
        imp_err e = {0};
        store_text(INDEX, SHARDS[i].index);
        imp_status s = mf_open(&m, dir, &e);
        if ((s == IMP_OK) != !SHARDS[i].message || (s != IMP_OK && !strstr(e.message, SHARDS[i].message)))
            fail_msg("%s: wanted <%s>, got <%s>", SHARDS[i].name, SHARDS[i].message ? SHARDS[i].message : "success",
                     e.message);
        if (s == IMP_OK) {
            assert_int_equal(mf_tensor_count(m), 3);
            assert_non_null(strstr(mf_tensor_find(m, "b")->map->path, "/2.safetensors"));
        }
        mf_close(m);
        assert_int_equal(free_fd(), fd);
    }
}

/* ---- the catalogue ----------------------------------------------------------------------------------------------- */

#define E(rest) "{\"t\": {" rest "}}"
#define LONG_NAME_16 "nnnnnnnnnnnnnnnn"
#define LONG_NAME_128 \
    LONG_NAME_16 LONG_NAME_16 LONG_NAME_16 LONG_NAME_16 LONG_NAME_16 LONG_NAME_16 LONG_NAME_16 LONG_NAME_16
#define LONG_NAME_640 LONG_NAME_128 LONG_NAME_128 LONG_NAME_128 LONG_NAME_128 LONG_NAME_128

static const struct {
    const char *name, *header;
    size_t data;
    const char *message;
} HEADERS[] = {
    {"not_json", "xyz", 0, "does not begin with '{'"},
    {"list", "[]", 0, "does not begin with '{'"},
    {"leading_space", " {}", 0, "does not begin with '{'"},
    {"empty_header", "", 0, "does not begin with '{'"},
    {"unclosed", "{\"t\": {\"dtype\": \"F32\"", 0, "tensor 't': offset"},
    {"trailing_text", "{} x", 0, "wanted the end, got 'x'"},
    {"trailing_comma", "{\"t\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]},}", 4,
     "wanted a key in quotes"},
    {"invalid_utf8", "{\"\xFF\": {}}", 0, "invalid UTF-8"},
    {"name_empty", "{\"\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 4,
     "a tensor's name is empty"},
    {"name_nul", "{\"a\\u0000b\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 4,
     "a tensor's name holds a control character"},
    {"name_long", "{\"" LONG_NAME_640 "\": {}}", 0, "a tensor's name is too long"},
    {"twice",
     "{\"t\": {\"dtype\": \"U8\", \"shape\": [1], \"data_offsets\": [0, 1]}, \"\\u0074\": {\"dtype\": \"U8\", "
     "\"shape\": [1], \"data_offsets\": [1, 2]}}",
     2, "tensor 't': appears twice"},
    {"entry_is_list", "{\"t\": []}", 0, "tensor 't': offset 6: wanted an object, got '['"},
    {"entry_is_null", "{\"t\": null}", 0, "tensor 't': offset 6: wanted an object"},
    {"entry_empty", E(""), 0, "tensor 't': offset 8: dtype is missing"},
    {"no_dtype", E("\"shape\": [1], \"data_offsets\": [0, 4]"), 4, "dtype is missing"},
    {"no_shape", E("\"dtype\": \"F32\", \"data_offsets\": [0, 4]"), 4, "shape is missing"},
    {"no_offsets", E("\"dtype\": \"F32\", \"shape\": [1]"), 4, "data_offsets is missing"},
    {"unknown_key", E("\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4], \"extra\": 1"), 4,
     "unknown key 'extra'"},
    {"dtype_twice", E("\"dtype\": \"F32\", \"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]"), 4,
     "dtype appears twice"},
    {"shape_twice", E("\"dtype\": \"F32\", \"shape\": [1], \"shape\": [1], \"data_offsets\": [0, 4]"), 4,
     "shape appears twice"},
    {"dtype_unknown", E("\"dtype\": \"F7\", \"shape\": [1], \"data_offsets\": [0, 4]"), 4,
     "tensor 't': offset 20: unsupported dtype 'F7'"},
    {"dtype_lower", E("\"dtype\": \"f32\", \"shape\": [1], \"data_offsets\": [0, 4]"), 4, "unsupported dtype 'f32'"},
    {"dtype_number", E("\"dtype\": 32, \"shape\": [1], \"data_offsets\": [0, 4]"), 4, "wanted a string, got '3'"},
    {"shape_number", E("\"dtype\": \"F32\", \"shape\": 1, \"data_offsets\": [0, 4]"), 4, "wanted an array, got '1'"},
    {"shape_negative", E("\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]"), 4,
     "wanted an integer from 0 to"},
    {"shape_fraction", E("\"dtype\": \"F32\", \"shape\": [1.5], \"data_offsets\": [0, 4]"), 4,
     "wanted an integer, got 1.5"},
    {"shape_text", E("\"dtype\": \"F32\", \"shape\": [\"1\"], \"data_offsets\": [0, 4]"), 4, "wanted a number"},
    {"shape_deep", E("\"dtype\": \"F32\", \"shape\": [[1]], \"data_offsets\": [0, 4]"), 4, "wanted a number, got '['"},
    {"shape_six_dims", E("\"dtype\": \"F32\", \"shape\": [1,1,1,1,1,1], \"data_offsets\": [0, 4]"), 4,
     "more than 5 dimensions"},
    {"shape_huge", E("\"dtype\": \"F32\", \"shape\": [18446744073709551616], \"data_offsets\": [0, 4]"), 4,
     "wanted an integer from 0 to"},
    {"shape_wraps", E("\"dtype\": \"F32\", \"shape\": [4294967296, 4294967297], \"data_offsets\": [0, 4]"), 4,
     "too many elements"},
    {"shape_wraps_to_zero", E("\"dtype\": \"U8\", \"shape\": [4294967296, 4294967296], \"data_offsets\": [0, 0]"), 0,
     "too many elements"},
    {"bytes_wrap", E("\"dtype\": \"F64\", \"shape\": [2305843009213693953], \"data_offsets\": [0, 8]"), 8,
     "too many elements"},
    {"offsets_number", E("\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": 4"), 4, "wanted an array"},
    {"offsets_one", E("\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0]"), 4, "wanted two numbers, got 1"},
    {"offsets_none", E("\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": []"), 4, "wanted two numbers, got 0"},
    {"offsets_three", E("\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4, 8]"), 4,
     "wanted two numbers, got more"},
    {"offsets_negative", E("\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [-4, 0]"), 4,
     "wanted an integer from 0 to"},
    {"offsets_reversed", E("\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 0]"), 4,
     "begins at 4 and ends before, at 0"},
    {"offsets_past_end", E("\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]"), 4,
     "ends at 8 of 4 bytes (is the file truncated?)"},
    {"offsets_huge",
     E("\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [9223372036854775803, 9223372036854775807]"), 4,
     "of 4 bytes (is the file truncated?)"},
    {"too_few_bytes", E("\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 4]"), 4,
     "dtype and shape want 8 bytes, its offsets give 4"},
    {"too_many_bytes", E("\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 8]"), 8,
     "dtype and shape want 4 bytes, its offsets give 8"},
    {"half_a_byte", E("\"dtype\": \"F4\", \"shape\": [2, 3], \"data_offsets\": [0, 3]"), 3,
     "rows of 3 values; E2M1 wants a multiple of 2"},
    {"empty_with_bytes", E("\"dtype\": \"F32\", \"shape\": [0], \"data_offsets\": [0, 4]"), 4,
     "dtype and shape want 0 bytes, its offsets give 4"},
    {"overlap",
     "{\"a\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [0, 4]}, \"b\": {\"dtype\": \"U8\", \"shape\": "
     "[4], \"data_offsets\": [3, 7]}}",
     7, "tensor 'b': its data at byte"},
    {"overlap_same",
     "{\"a\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [0, 4]}, \"b\": {\"dtype\": \"U8\", \"shape\": "
     "[4], \"data_offsets\": [0, 4]}}",
     4, "overlaps tensor"},
    {"hole",
     "{\"a\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [0, 4]}, \"b\": {\"dtype\": \"U8\", \"shape\": "
     "[4], \"data_offsets\": [5, 9]}}",
     9, "9 bytes of data, but its tensors cover 8"},
    {"data_behind", E("\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]"), 5,
     "5 bytes of data, but its tensors cover 4"},
    {"data_without_tensors", "{}", 4, "4 bytes of data, but its tensors cover 0"},
    {"remarks_number", "{\"__metadata__\": {\"a\": 1}}", 0, "offset 23: wanted a string, got '1'"},
    {"remarks_list", "{\"__metadata__\": []}", 0, "wanted an object"},
    {"remarks_twice", "{\"__metadata__\": {}, \"__metadata__\": {}}", 0, "__metadata__ appears twice"},
};

static const struct {
    const char *name, *config, *message;
} CONFIGS[] = {
    {"empty", "", "config.json: offset 0: wanted an object, got the end"},
    {"list", "[]", "config.json: offset 0: wanted an object, got '['"},
    {"cut", "{\"a\": {\"b\": 1", "config.json: key 'a': offset 13: wanted ',' or '}'"},
    {"comment", "{\"a\": 1 // x\n}", "wanted ',' or '}', got '/'"},
    {"twice", "{\"a\": 1, \"a\": 2}", "config.json: key 'a': appears twice"},
    {"twice_dotted", "{\"a\": {\"b\": 1}, \"a.b\": 2}", "key 'a.b': appears twice"},
    {"twice_element", "{\"a.0.b\": 1, \"a\": [{\"b\": 2}]}", "key 'a.0.b': appears twice"},
    {"empty_key", "{\"\": 1}", "a key is empty"},
    {"key_control", "{\"a\\nb\": 1}", "a key holds a control character"},
    {"key_long", "{\"" LONG_NAME_640 "\": 1}", "a key is too long"},
    {"key_long_path",
     "{\"" LONG_NAME_128 "\": {\"" LONG_NAME_128 "\": {\"" LONG_NAME_128 "\": {\"" LONG_NAME_128 "\": {\"x\": 1}}}}}",
     "key longer than 512 bytes"},
    {"number_range", "{\"a\": 1e999}", "key 'a': offset 6: number out of range: 1e999"},
    {"number_form", "{\"a\": 01}", "must not begin with 0"},
    {"lone_surrogate", "{\"a\": \"\\ud800\"}", "key 'a': offset 7: lone surrogate"},
    {"bad_word", "{\"a\": nope}", "key 'a': offset 6: wanted null"},
    {"deep_objects",
     "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{"
     "\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{",
     "nested deeper than 24 levels"},
    {"deep_arrays", "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]}", "nested deeper than 24 levels"},
    {"trailing", "{} {}", "wanted the end, got '{'"},
};

static void expect(const char *name, const char *message)
{
    modelfile *m;
    imp_err e = {0};
    int fd = free_fd();
    imp_status s = mf_open(&m, dir, &e);
    if (s == IMP_OK || m)
        fail_msg("%s: was accepted", name);
    if (e.status != s || s == IMP_E_PARSE || !strstr(e.message, message) || strncmp(e.message, dir, strlen(dir)) != 0)
        fail_msg("%s: wanted <%s>, got <%s>", name, message, e.message);
    assert_int_equal(mf_open(&m, dir, NULL), s);
    assert_int_equal(free_fd(), fd);
}

static void test_catalogue(void **state)
{
    (void)state;
    clear_dir();
    store_text("config.json", "{}");
    for (size_t i = 0; i < CK_COUNT(HEADERS); i++) {
        store_tensors(ONE, HEADERS[i].header, HEADERS[i].data);
        expect(HEADERS[i].name, HEADERS[i].message);
    }
    /* files whose length field lies, or that have none */
    store(ONE, "", 0);
    expect("empty_file", "0 bytes are no SafeTensors file");
    store(ONE, "1234567", 7);
    expect("seven_bytes", "7 bytes are no SafeTensors file");
    store(ONE, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10);
    expect("length_huge", "its header claims 18446744073709551615 bytes, wanted at most 2");
    store(ONE, "\3\0\0\0\0\0\0\0{}", 10);
    expect("length_past_end", "its header claims 3 bytes, wanted at most 2");
    store(ONE, "GGUF\3\0\0\0\0\0\0\0", 12);
    expect("a_gguf_file", "is this a SafeTensors file");
    store_text(ONE, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    expect("lfs_pointer", "is a Git LFS pointer");
    store_tensors(ONE, TENSOR("a"), 8);
    for (size_t i = 0; i < CK_COUNT(CONFIGS); i++) {
        store_text("config.json", CONFIGS[i].config);
        expect(CONFIGS[i].name, CONFIGS[i].message);
    }
    store_text("config.json", "{\"generation_config\": {\"a\": 1}}");
    store_text("generation_config.json", "{\"a\": 1}");
    expect("prefix_taken", "generation_config.json: key 'generation_config.a': appears twice");
    store_text("generation_config.json", "{");
    expect("generation_config_cut", "generation_config.json: offset 1: wanted a key");
    clear_dir();
    store_text("config.json", "{}");
    expect("no_weights", "holds neither model.safetensors nor model.safetensors.index.json");
    clear_dir();
    store_tensors(ONE, TENSOR("a"), 8);
    expect("no_config", "holds no config.json");
}

static void test_truncated(void **state)
{
    (void)state;
    make_good();
    char path[600];
    snprintf(path, sizeof path, "%s/" ONE, dir);
    size_t n = 8 + strlen(good_header) + 272;
    for (size_t cut = n; cut-- > 0;) {
        assert_int_equal(truncate(path, (off_t)cut), 0);
        expect("truncated", "");
    }
    make_good();
    snprintf(path, sizeof path, "%s/config.json", dir);
    for (size_t cut = strlen(good_config); cut-- > 0;) {
        assert_int_equal(truncate(path, (off_t)cut), 0);
        expect("truncated config", "config.json: ");
    }
}

static void ramp(void)
{
    int fd = free_fd();
    for (long n = 0;; n++) {
        modelfile *m;
        imp_err e = {0};
        mem_fail_after(n);
        imp_status s = mf_open(&m, dir, &e);
        mem_fail_after(-1);
        if (s == IMP_OK) {
            assert_true(n > 20);
            mf_close(m);
            return;
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
    make_good();
    ramp();
    clear_dir();
    store_text("config.json", good_config);
    store_tensors("1.safetensors", TENSOR("a"), 8);
    store_tensors("2.safetensors", TENSOR("\\u0062"), 8);
    store_text(INDEX, SHARDS[0].index);
    store_tensors("3.safetensors", TENSOR("c"), 8);
    ramp();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config), cmocka_unit_test(test_tensors),   cmocka_unit_test(test_side_files),
        cmocka_unit_test(test_shards), cmocka_unit_test(test_catalogue), cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_ramp),
    };
    return cmocka_run_group_tests_name("safetensors", tests, setup, teardown);
}

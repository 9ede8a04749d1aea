/* gguf_make: writes GGUF bytes into a strbuf, right or wrong, for the loader's tests. Nothing is checked here: a test
 * that wants a lie tells it. Values are little-endian, as the machines that run the tests are. */
#ifndef IMP_TESTS_GGUF_MAKE_H
#define IMP_TESTS_GGUF_MAKE_H

#include <string.h>

#include "base/strbuf.h"
#include "file/modelfile.h"

enum { GM_U8, GM_I8, GM_U16, GM_I16, GM_U32, GM_I32, GM_F32, GM_BOOL, GM_STR, GM_ARRAY, GM_U64, GM_I64, GM_F64 };

static inline void gm_u8(strbuf *b, unsigned v) { sb_char(b, (char)v); }
static inline void gm_u32(strbuf *b, uint32_t v) { sb_add(b, &v, 4); }
static inline void gm_u64(strbuf *b, uint64_t v) { sb_add(b, &v, 8); }
static inline void gm_f32(strbuf *b, float v) { sb_add(b, &v, 4); }
static inline void gm_f64(strbuf *b, double v) { sb_add(b, &v, 8); }
static inline void gm_strn(strbuf *b, const char *s, size_t n)
{
    gm_u64(b, n);
    sb_add(b, s, n);
}
static inline void gm_str(strbuf *b, const char *s) { gm_strn(b, s, strlen(s)); }

static inline void gm_head(strbuf *b, uint32_t version, uint64_t n_tensors, uint64_t n_kv)
{
    sb_add(b, "GGUF", 4);
    gm_u32(b, version);
    gm_u64(b, n_tensors);
    gm_u64(b, n_kv);
}
/* Key and value type; the value follows. */
static inline void gm_key(strbuf *b, const char *key, uint32_t type)
{
    gm_str(b, key);
    gm_u32(b, type);
}
static inline void gm_kv_u32(strbuf *b, const char *key, uint32_t v) { gm_key(b, key, GM_U32), gm_u32(b, v); }
static inline void gm_kv_u16(strbuf *b, const char *key, uint16_t v) { gm_key(b, key, GM_U16), sb_add(b, &v, 2); }
static inline void gm_kv_str(strbuf *b, const char *key, const char *v) { gm_key(b, key, GM_STR), gm_str(b, v); }
static inline void gm_array(strbuf *b, uint32_t type, uint64_t n) { gm_u32(b, type), gm_u64(b, n); }

/* A tensor record with up to four dimensions, dim[0] first. */
static inline void gm_tensor(strbuf *b, const char *name, uint32_t n_dims, uint64_t d0, uint64_t d1, uint64_t d2,
                             uint64_t d3, uint32_t type, uint64_t offset)
{
    const uint64_t dim[4] = {d0, d1, d2, d3};
    gm_str(b, name);
    gm_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims; i++)
        gm_u64(b, i < 4 ? dim[i] : 1);
    gm_u32(b, type);
    gm_u64(b, offset);
}
static inline void gm_pad(strbuf *b, size_t alignment)
{
    while (b->n % alignment)
        sb_char(b, 0);
}
/* Padding, then n bytes of tensor data. */
static inline void gm_data(strbuf *b, size_t n)
{
    gm_pad(b, 32);
    for (size_t i = 0; i < n; i++)
        sb_char(b, (char)(i * 37));
}

#endif

/* random: "random:SHAPE:FORMAT" in place of a file's name: a GGUF of a published model's shape whose weights are random
 * blocks, for measuring speed without a download. It exists as an address range only: a header, and behind it the pages
 * of one small pool a format mapped again and again, so that 18 GB of weights cost 64 MiB of memory. The loader reads
 * it like any file, checks included. Values: valid blocks of a deviation near 0.02, so that activations stay finite. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/ck.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "file/modelfile_impl.h"

#define POOL_BYTES (64u << 20)
#define PAGE 4096u
#define MAX_POOLS 8
enum { GGUF_U32 = 4, GGUF_F32 = 6, GGUF_STR = 8 };

typedef struct shape {
    const char *name, *arch;
    uint32_t n_layer, hidden, ff, n_head, n_kv_head, d_head, vocab;
    bool qk_norm, tied;
    uint32_t n_expert, n_used, expert_ff;
} shape;

static const shape shapes[] = {
    {"qwen3-0.6b", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, true, true, 0, 0, 0},
    {"qwen3-1.7b", "qwen3", 28, 2048, 6144, 16, 8, 128, 151936, true, true, 0, 0, 0},
    {"qwen3-4b", "qwen3", 36, 2560, 9728, 32, 8, 128, 151936, true, true, 0, 0, 0},
    {"qwen3-8b", "qwen3", 36, 4096, 12288, 32, 8, 128, 151936, true, false, 0, 0, 0},
    {"llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, false, true, 0, 0, 0},
    {"llama-3.2-3b", "llama", 28, 3072, 8192, 24, 8, 128, 128256, false, true, 0, 0, 0},
    {"llama-3.1-8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256, false, false, 0, 0, 0},
    {"qwen3-30b-a3b", "qwen3moe", 48, 2048, 6144, 32, 4, 128, 151936, true, false, 128, 8, 768},
};

/* What a file of this name holds: matrices, the head (the embedding when tied), and, in mixes, the layers llama.cpp
 * gives more bits: attn_v and ffn_down of the first and last eighth and of every third layer between. */
typedef struct mix {
    const char *name;
    quant_id base, head, more;
} mix;
static const mix mixes[] = {
    {"Q8_0", QUANT_Q8_0, QUANT_Q8_0, QUANT_Q8_0},   {"Q6_K", QUANT_Q6_K, QUANT_Q6_K, QUANT_Q6_K},
    {"Q5_K", QUANT_Q5_K, QUANT_Q5_K, QUANT_Q5_K},   {"Q4_K", QUANT_Q4_K, QUANT_Q4_K, QUANT_Q4_K},
    {"Q4_K_M", QUANT_Q4_K, QUANT_Q6_K, QUANT_Q6_K}, {"Q5_K_M", QUANT_Q5_K, QUANT_Q6_K, QUANT_Q6_K},
    {"Q4_0", QUANT_Q4_0, QUANT_Q6_K, QUANT_Q4_0},   {"BF16", QUANT_BF16, QUANT_BF16, QUANT_BF16},
    {"F16", QUANT_F16, QUANT_F16, QUANT_F16},
};

/* Where a block's f16 scales lie and what they are, for a deviation near 0.02. */
static const struct block_scale {
    quant_id f;
    uint8_t at[2], n;
    float v[2];
} scales[] = {
    {QUANT_Q8_0, {0}, 1, {.0003f}},
    {QUANT_Q4_0, {0}, 1, {.004f}},
    {QUANT_Q4_K, {0, 2}, 2, {.0001f, .0008f}},
    {QUANT_Q5_K, {0, 2}, 2, {.00006f, .0009f}},
    {QUANT_Q6_K, {208}, 1, {.00001f}},
};

typedef struct pool {
    quant_id f;
    bool ones; /* norms */
    int fd;
    uint64_t unit; /* bytes after which both a page and a block begin */
    uint64_t size; /* a multiple of it */
} pool;

typedef struct writer {
    const shape *s;
    const mix *x;
    strbuf head, tensors;
    uint32_t n_kv, n_tensor;
    uint64_t at; /* of the next tensor, from the start of the data */
    struct piece {
        uint64_t at, n;
        quant_id f;
        bool ones;
    } * piece;
} writer;

/* ---- pools ------------------------------------------------------------------------------------------------------- */
static uint64_t next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * 0x2545F4914F6CDD1Dull;
}

static void put_f16(uint8_t *p, float v)
{
    uint16_t h = quant_f32_to_f16(v);
    memcpy(p, &h, sizeof h);
}

static void fill(uint8_t *p, const pool *o)
{
    const quant_fmt *q = quant_get(o->f);
    uint64_t seed = 88172645463325252ull + o->f;
    if (q->is_float) {
        for (uint64_t i = 0; i < o->size / q->bytes; i++) {
            float v = o->ones ? 1.0f : ((float)(next(&seed) >> 40) * 0x1p-24f - 0.5f) * 0.07f;
            uint16_t h = o->f == QUANT_F16 ? quant_f32_to_f16(v) : quant_f32_to_bf16(v);
            if (o->f == QUANT_F32)
                memcpy(p + i * 4, &v, 4);
            else
                memcpy(p + i * 2, &h, 2);
        }
        return;
    }
    for (uint64_t i = 0; i + 8 <= o->size; i += 8) {
        uint64_t v = next(&seed);
        memcpy(p + i, &v, 8);
    }
    for (size_t k = 0; k < CK_COUNT(scales); k++)
        for (uint64_t b = 0; scales[k].f == o->f && b < o->size; b += q->bytes)
            for (int j = 0; j < scales[k].n; j++)
                put_f16(p + b + scales[k].at[j], scales[k].v[j] * (0.75f + (float)(next(&seed) & 255) / 512.0f));
}

static imp_status pool_open(pool *o, quant_id f, bool ones, imp_err *e)
{
    uint64_t bytes = quant_get(f)->bytes, a = bytes, b = PAGE;
    while (b) {
        uint64_t r = a % b;
        a = b;
        b = r;
    }
    *o = (pool){.f = f, .ones = ones, .unit = bytes / a * PAGE};
    o->size = POOL_BYTES / (ones ? 64 : 1) / o->unit * o->unit;
    o->fd = memfd_create("imp-random", MFD_CLOEXEC);
    void *p = MAP_FAILED;
    if (o->fd >= 0 && ftruncate(o->fd, (off_t)o->size) == 0)
        p = mmap(NULL, o->size, PROT_READ | PROT_WRITE, MAP_SHARED, o->fd, 0);
    if (p == MAP_FAILED)
        return err_oom(e, "random weights", o->size);
    fill(p, o);
    munmap(p, o->size);
    return IMP_OK;
}

static imp_status pool_of(pool *pools, int *n, quant_id f, bool ones, pool **out, imp_err *e)
{
    for (int i = 0; i < *n; i++)
        if (pools[i].f == f && pools[i].ones == ones) {
            *out = &pools[i];
            return IMP_OK;
        }
    if (*n == MAX_POOLS)
        return err_set(e, IMP_E_INTERNAL, "random weights: more than %d formats", MAX_POOLS);
    *out = &pools[(*n)++];
    return pool_open(*out, f, ones, e);
}

/* ---- the header -------------------------------------------------------------------------------------------------- */
static void put(strbuf *b, const void *v, size_t n) { sb_add(b, v, n); }
static void put_u32(strbuf *b, uint32_t v) { put(b, &v, sizeof v); }
static void put_u64(strbuf *b, uint64_t v) { put(b, &v, sizeof v); }
static void put_str(strbuf *b, const char *s)
{
    put_u64(b, strlen(s));
    sb_str(b, s);
}

static void key(writer *w, const char *name, uint32_t type)
{
    char full[96];
    snprintf(full, sizeof full, "%s%s", name[0] == '.' ? w->s->arch : "", name);
    put_str(&w->head, full);
    put_u32(&w->head, type);
    w->n_kv++;
}
static void key_u32(writer *w, const char *name, uint32_t v) { key(w, name, GGUF_U32), put_u32(&w->head, v); }
static void key_f32(writer *w, const char *name, float v) { key(w, name, GGUF_F32), put(&w->head, &v, sizeof v); }
static void key_str(writer *w, const char *name, const char *v) { key(w, name, GGUF_STR), put_str(&w->head, v); }

static void tensor(writer *w, const char *name, int32_t layer, quant_id f, uint64_t d0, uint64_t d1, uint64_t d2)
{
    char full[96];
    uint64_t dim[3] = {d0, d1, d2}, n = 0;
    uint32_t n_dims = d2 ? 3 : d1 ? 2 : 1;
    int k = layer < 0 ? 0 : snprintf(full, sizeof full, "blk.%d.", (int)layer);
    snprintf(full + k, sizeof full - (size_t)k, "%s.weight", name);
    put_str(&w->tensors, full);
    put_u32(&w->tensors, n_dims);
    for (uint32_t i = 0; i < n_dims; i++)
        put_u64(&w->tensors, dim[i]);
    put_u32(&w->tensors, f);
    put_u64(&w->tensors, w->at);
    quant_bytes(f, d0 * (d1 ? d1 : 1) * (d2 ? d2 : 1), &n);
    w->piece[w->n_tensor++] = (struct piece){w->at, n, f, n_dims == 1};
    w->at += (n + PAGE - 1) / PAGE * PAGE;
}

static void write_keys(writer *w)
{
    const shape *s = w->s;
    key_str(w, "general.architecture", s->arch);
    key_u32(w, "general.alignment", PAGE);
    key_str(w, "tokenizer.ggml.model", "no_vocab");
    const struct {
        const char *name;
        uint32_t v;
    } n[] = {{".block_count", s->n_layer},
             {".context_length", 131072},
             {".embedding_length", s->hidden},
             {".feed_forward_length", s->ff},
             {".attention.head_count", s->n_head},
             {".attention.head_count_kv", s->n_kv_head},
             {".attention.key_length", s->d_head},
             {".attention.value_length", s->d_head},
             {".vocab_size", s->vocab},
             {".rope.dimension_count", s->d_head},
             {".expert_count", s->n_expert},
             {".expert_used_count", s->n_used},
             {".expert_feed_forward_length", s->expert_ff}};
    for (size_t i = 0; i < CK_COUNT(n); i++)
        if (n[i].v)
            key_u32(w, n[i].name, n[i].v);
    key_f32(w, ".rope.freq_base", 1e6f);
    key_f32(w, ".attention.layer_norm_rms_epsilon", 1e-6f);
}

static void write_tensors(writer *w)
{
    const shape *s = w->s;
    uint64_t h = s->hidden, q = (uint64_t)s->n_head * s->d_head, kv = (uint64_t)s->n_kv_head * s->d_head;
    quant_id b = w->x->base;
    tensor(w, "token_embd", -1, w->x->head, h, s->vocab, 0);
    for (uint32_t i = 0; i < s->n_layer; i++) {
        int32_t l = (int32_t)i;
        uint32_t eighth = s->n_layer / 8;
        quant_id more = i < eighth || i >= 7 * s->n_layer / 8 || (i - eighth) % 3 == 2 ? w->x->more : b;
        tensor(w, "attn_norm", l, QUANT_F32, h, 0, 0);
        tensor(w, "attn_q", l, b, h, q, 0);
        tensor(w, "attn_k", l, b, h, kv, 0);
        tensor(w, "attn_v", l, more, h, kv, 0);
        tensor(w, "attn_output", l, b, q, h, 0);
        tensor(w, "ffn_norm", l, QUANT_F32, h, 0, 0);
        if (s->qk_norm) {
            tensor(w, "attn_q_norm", l, QUANT_F32, s->d_head, 0, 0);
            tensor(w, "attn_k_norm", l, QUANT_F32, s->d_head, 0, 0);
        }
        if (s->n_expert) {
            tensor(w, "ffn_gate_inp", l, QUANT_F32, h, s->n_expert, 0);
            tensor(w, "ffn_gate_exps", l, b, h, s->expert_ff, s->n_expert);
            tensor(w, "ffn_up_exps", l, b, h, s->expert_ff, s->n_expert);
            tensor(w, "ffn_down_exps", l, more, s->expert_ff, h, s->n_expert);
        } else {
            tensor(w, "ffn_gate", l, b, h, s->ff, 0);
            tensor(w, "ffn_up", l, b, h, s->ff, 0);
            tensor(w, "ffn_down", l, more, s->ff, h, 0);
        }
    }
    tensor(w, "output_norm", -1, QUANT_F32, h, 0, 0);
    if (!s->tied)
        tensor(w, "output", -1, w->x->head, h, s->vocab, 0);
}

/* ---- the map ----------------------------------------------------------------------------------------------------- */
static imp_status map_pieces(writer *w, uint8_t *data, imp_err *e)
{
    pool pools[MAX_POOLS];
    int n = 0;
    imp_status st = IMP_OK;
    for (uint32_t i = 0; i < w->n_tensor && st == IMP_OK; i++) {
        const struct piece *p = &w->piece[i];
        pool *o = NULL;
        st = pool_of(pools, &n, p->f, p->ones, &o, e);
        /* every tensor begins somewhere else, so that layers differ */
        uint64_t off = st == IMP_OK ? (uint64_t)i * 7919 % (o->size / o->unit) * o->unit : 0,
                 end = (p->n + PAGE - 1) / PAGE * PAGE;
        for (uint64_t at = 0; at < end && st == IMP_OK; off = 0) {
            uint64_t k = end - at < o->size - off ? end - at : o->size - off;
            if (mmap(data + p->at + at, k, PROT_READ, MAP_SHARED | MAP_FIXED, o->fd, (off_t)off) == MAP_FAILED)
                st = err_oom(e, "random weights", k);
            at += k;
        }
    }
    for (int i = 0; i < n; i++)
        if (pools[i].fd >= 0)
            close(pools[i].fd);
    return st;
}

static imp_status unknown(const char *spec, imp_err *e)
{
    strbuf b = {0};
    for (size_t i = 0; i < CK_COUNT(shapes); i++)
        sb_printf(&b, " %s", shapes[i].name);
    sb_str(&b, "; formats");
    for (size_t i = 0; i < CK_COUNT(mixes); i++)
        sb_printf(&b, " %s", mixes[i].name);
    imp_status s = err_set(e, IMP_E_USAGE, "%s: wanted random:SHAPE:FORMAT; shapes%s", spec, b.s ? b.s : "");
    sb_free(&b);
    return s;
}

imp_status random_map_open(file_map *m, const char *spec, imp_err *e)
{
    *m = (file_map){.fd = -1};
    const char *name = spec + strlen(RANDOM_PREFIX), *colon = strchr(name, ':');
    writer w = {0};
    for (size_t i = 0; colon && i < CK_COUNT(shapes); i++)
        if (strlen(shapes[i].name) == (size_t)(colon - name) &&
            strncmp(shapes[i].name, name, (size_t)(colon - name)) == 0)
            w.s = &shapes[i];
    for (size_t i = 0; colon && i < CK_COUNT(mixes); i++)
        if (strcmp(mixes[i].name, colon + 1) == 0)
            w.x = &mixes[i];
    if (!w.s || !w.x)
        return unknown(spec, e);
    w.piece = mem_calloc((size_t)w.s->n_layer * 12 + 3, sizeof *w.piece);
    if (!w.piece)
        return err_oom(e, spec, w.s->n_layer * 12 * sizeof *w.piece);
    write_keys(&w);
    write_tensors(&w);
    uint64_t n_head = 24 + w.head.n + w.tensors.n, data = (n_head + PAGE - 1) / PAGE * PAGE;
    imp_status st = w.head.failed || w.tensors.failed ? err_oom(e, spec, n_head) : IMP_OK;
    m->size = data + w.at;
    void *p =
        st == IMP_OK ? mmap(NULL, m->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) : MAP_FAILED;
    if (st == IMP_OK && p == MAP_FAILED)
        st = err_oom(e, spec, m->size);
    if (st == IMP_OK) {
        m->data = p;
        if (mprotect(p, data, PROT_READ | PROT_WRITE))
            st = err_oom(e, spec, data);
    }
    if (st == IMP_OK) {
        strbuf b = {0};
        sb_add(&b, "GGUF", 4);
        put_u32(&b, 3);
        put_u64(&b, w.n_tensor);
        put_u64(&b, w.n_kv);
        sb_add(&b, w.head.s, w.head.n);
        sb_add(&b, w.tensors.s, w.tensors.n);
        if (b.failed)
            st = err_oom(e, spec, n_head);
        else
            memcpy(p, b.s, b.n);
        sb_free(&b);
    }
    if (st == IMP_OK)
        st = map_pieces(&w, (uint8_t *)p + data, e);
    if (st == IMP_OK && !(m->path = mem_strdup(spec)))
        st = err_oom(e, spec, strlen(spec));
    if (st != IMP_OK)
        file_map_close(m);
    sb_free(&w.head);
    sb_free(&w.tensors);
    mem_free(w.piece);
    return st;
}

/* The CPU backend through its interface, over a small model made here: rows are equal byte for byte alone and in
 * company, whatever the chunks, threads, block size and block table; instruction sets agree closely; bad batches are
 * refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "base/mem.h"

enum {
    VOCAB = 70, HIDDEN = 64, HEADS = 4, KV_HEADS = 2, D = 24, FF = 96, LAYERS = 2, WINDOW = 9, LEN = 150, MAX_W = 64
};

static uint32_t seed = 1;
static float unit(void) { return (float)((seed = seed * 1664525u + 1013904223u) >> 8) / (1 << 23) - 1.0f; }

/* ---- the model ------------------------------------------------------------------------------------------------- */
typedef struct model {
    plan p;
    weight w[MAX_W];
    weight_slice slice[MAX_W];
    plan_op_kind hint[MAX_W];
    int n;
    uint8_t *bytes[MAX_W];
} model;

static int32_t add_weight(model *m, quant_id type, uint64_t rows, uint64_t cols, float scale, float shift,
                          plan_op_kind hint)
{
    const quant_fmt *f = quant_get(type);
    float *v = malloc(rows * cols * sizeof *v);
    for (uint64_t i = 0; i < rows * cols; i++)
        v[i] = unit() * scale + shift;
    uint64_t n;
    assert_true(quant_bytes(type, rows * cols, &n));
    m->bytes[m->n] = malloc(n);
    f->encode(v, m->bytes[m->n], rows * cols, NULL);
    free(v);
    m->slice[m->n] = (weight_slice){.data = m->bytes[m->n], .rows = rows, .stride = n / rows};
    m->w[m->n] = (weight){.name = "test", .format = type, .n_expert = 1, .rows = rows, .cols = cols, .n_parts = 1,
                          .n_bytes = n,
                          .part = {{.role = PART_DATA, .type = type, .gran_rows = 1, .gran_cols = 1, .n_slices = 1,
                                    .slices = &m->slice[m->n]}}};
    m->hint[m->n] = hint;
    return plan_add_weight(&m->p, &m->w[m->n++]);
}

static plan_reg emit(model *m, plan_op op, plan_type type, plan_dim dim, uint32_t width)
{
    op.out[0] = plan_add_reg(&m->p, type, dim, width);
    plan_add_op(&m->p, &op);
    return op.out[0];
}

static plan_reg linear(model *m, int layer, const char *role, plan_reg x, quant_id type, uint32_t rows)
{
    plan_op op = plan_op_init(OP_LINEAR, layer, role);
    op.in[0] = x;
    op.weight[0] = add_weight(m, type, rows, m->p.reg[x].width, 0.15f, 0, OP_LINEAR);
    return emit(m, op, REG_ACT, m->p.reg[x].dim, rows);
}

static plan_reg norm(model *m, int layer, const char *role, plan_reg x, uint32_t group)
{
    plan_op op = plan_op_init(OP_NORM, layer, role);
    op.in[0] = x;
    op.attr.norm.eps = 1e-6f;
    op.attr.norm.group = group;
    op.weight[0] = add_weight(m, QUANT_F32, 1, group ? group : m->p.reg[x].width, 0.2f, 1, OP_NORM);
    return emit(m, op, REG_ACT, m->p.reg[x].dim, m->p.reg[x].width);
}

static plan_reg rope(model *m, int layer, const char *role, plan_reg x, int32_t freq, uint32_t heads)
{
    plan_op op = plan_op_init(OP_ROPE, layer, role);
    op.in[0] = x;
    op.attr.rope = (plan_rope){.n_head = heads, .head_dim = D, .rot = 16, .rot_off = 4, .interleaved = layer == 1,
                               .freq = freq, .mscale = 1};
    return emit(m, op, REG_ACT, DIM_T, m->p.reg[x].width);
}

static plan_reg binary(model *m, plan_op_kind kind, int layer, const char *role, plan_reg a, plan_reg b, plan_type type)
{
    plan_op op = plan_op_init(kind, layer, role);
    op.in[0] = a;
    op.in[1] = b;
    if (kind == OP_ADD)
        op.attr.scale = 1;
    return emit(m, op, type, DIM_T, m->p.reg[a].width);
}

static plan_reg attention(model *m, int layer, plan_reg x, quant_id type, int32_t freq)
{
    plan_reg qn = norm(m, layer, "q_norm", linear(m, layer, "q", x, type, HEADS * D), D);
    plan_reg q = rope(m, layer, "rope_q", qn, freq, HEADS);
    plan_reg k = rope(m, layer, "rope_k", linear(m, layer, "k", x, type, KV_HEADS * D), freq, KV_HEADS);
    plan_reg v = linear(m, layer, "v", x, type, KV_HEADS * D);
    plan_op op = plan_op_init(OP_KV_STORE, layer, "store");
    op.in[0] = k;
    op.in[1] = v;
    op.attr.kv.group = plan_add_group(&m->p, (plan_kv_group){.kind = layer ? KVG_WINDOW : KVG_FULL,
                                                             .window = layer ? WINDOW : 0,
                                                             .k_width = KV_HEADS * D, .v_width = KV_HEADS * D});
    op.attr.kv.slot = plan_add_slot(&m->p, op.attr.kv.group);
    plan_add_op(&m->p, &op);
    plan_op at = plan_op_init(OP_ATTEND, layer, "attend");
    at.in[0] = q;
    if (layer == 0)
        at.weight[0] = add_weight(m, QUANT_F32, 1, HEADS, 1, 0, OP_ATTEND); /* sinks */
    at.attr.attend = (plan_attend){.n_head = HEADS, .n_kv_head = KV_HEADS, .d_k = D, .d_v = D, .scale = 0.2f,
                                   .softcap = layer ? 30 : 0, .window = layer ? WINDOW : 0,
                                   .group = op.attr.kv.group, .slot = op.attr.kv.slot};
    plan_reg o = emit(m, at, REG_ACT, DIM_T, HEADS * D);
    return linear(m, layer, "o", o, type, HIDDEN);
}

static void make_model(model *m, quant_id type)
{
    memset(m, 0, sizeof *m);
    seed = 5;
    plan_init(&m->p, "test");
    m->p.n_vocab = VOCAB;
    m->p.n_hidden = HIDDEN;
    float freq[8];
    for (int i = 0; i < 8; i++)
        freq[i] = powf(100, -(float)i / 8);
    int32_t f = plan_add_constant(&m->p, freq, 8);
    plan_op op = plan_op_init(OP_EMBED, -1, "embed");
    op.weight[0] = add_weight(m, type, VOCAB, HIDDEN, 1, 0, OP_LINEAR);
    op.attr.scale = 1.5f;
    plan_reg x = emit(m, op, REG_WIDE, DIM_T, HIDDEN);
    for (int i = 0; i < LAYERS; i++) {
        x = binary(m, OP_ADD, i, "add", x, attention(m, i, norm(m, i, "norm", x, 0), type, f), REG_WIDE);
        plan_reg n = norm(m, i, "ffn_norm", x, 0);
        plan_reg y = binary(m, OP_GLU, i, "glu", linear(m, i, "gate", n, type, FF), linear(m, i, "up", n, type, FF),
                            REG_ACT);
        x = binary(m, OP_ADD, i, "ffn_add", x, linear(m, i, "down", y, type, HIDDEN), REG_WIDE);
    }
    op = plan_op_init(OP_GATHER, -1, "gather");
    op.in[0] = x;
    x = emit(m, op, REG_WIDE, DIM_R, HIDDEN);
    x = m->p.hidden = norm(m, -1, "out_norm", x, 0);
    op = plan_op_init(OP_LINEAR, -1, "head");
    op.in[0] = x;
    op.weight[0] = 0;
    x = emit(m, op, REG_WIDE, DIM_R, VOCAB);
    op = plan_op_init(OP_SOFTCAP, -1, "softcap");
    op.in[0] = x;
    op.attr.cap = 20;
    m->p.logits = emit(m, op, REG_WIDE, DIM_R, VOCAB);
    imp_err e = {0};
    if (plan_finish(&m->p, &e) != IMP_OK)
        fail_msg("%s", e.message);
}

static void free_model(model *m)
{
    for (int i = 0; i < m->n; i++)
        free(m->bytes[i]);
    plan_free(&m->p);
}

/* ---- running it ------------------------------------------------------------------------------------------------ */
typedef struct machine {
    backend *be;
    bweight *w[MAX_W];
    kvcache *kv;
    bexec *x;
    int n_w, block, n_block;
} machine;

static imp_status start(machine *k, model *m, const char *cpu, int threads, int block, kv_type type, int n_seq,
                        imp_err *e)
{
    *k = (machine){.block = block, .n_w = m->p.n_weight};
    imp_status s = backend_cpu.open(&(backend_options){.cpu = cpu, .n_threads = threads}, &k->be, e);
    for (int i = 0; i < k->n_w && s == IMP_OK; i++)
        s = backend_cpu.upload(k->be, m->p.weight[i], m->hint[i], 0, 0, 0, 0, &k->w[i], e);
    k->n_block = n_seq * ((LEN + block - 1) / block) + 5;
    kv_options ko = {.type = type, .block_size = block, .n_block = {k->n_block, k->n_block}};
    if (s == IMP_OK)
        s = backend_cpu.kv_open(k->be, &m->p, &ko, &k->kv, e);
    for (int g = 0; g < m->p.n_group && s == IMP_OK; g++)
        s = backend_cpu.kv_grow(k->kv, g, k->n_block, e);
    if (s == IMP_OK)
        s = backend_cpu.compile(k->be, &m->p, k->w, k->kv, &(plan_limits){.n_tok = 200, .n_row = 200, .n_seq = n_seq},
                                &k->x, e);
    return s;
}

static void stop(machine *k)
{
    backend_memory mem;
    backend_cpu.exec_free(k->x);
    if (k->kv)
        backend_cpu.kv_close(k->kv);
    for (int i = 0; i < k->n_w; i++)
        if (k->w[i])
            backend_cpu.weight_free(k->be, k->w[i]);
    if (!k->be)
        return;
    assert_int_equal(backend_cpu.memory(k->be, &mem, NULL), IMP_OK);
    assert_true(mem.weights == 0 && mem.kv == 0 && mem.workspace == 0);
    backend_cpu.close(k->be);
}

/* Up to eight sequences step by step: sequence s has len[s] tokens, of which a step takes chunk[s]; logits of every
 * token go to out[s][len][VOCAB]. Tables are shuffled. */
static void run(machine *k, model *m, int n_seq, const int *len, const int *chunk, float **out)
{
    int32_t *table[8];
    int per = (LEN + k->block - 1) / k->block, done[8] = {0};
    int32_t *order = malloc((size_t)k->n_block * sizeof *order);
    for (int i = 0; i < k->n_block; i++)
        order[i] = i;
    uint32_t r = 99;
    for (int i = k->n_block - 1; i > 0; i--) {
        int j = (int)((r = r * 1664525u + 1013904223u) >> 8) % (i + 1);
        int32_t t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (int s = 0; s < n_seq; s++)
        table[s] = order + s * per;
    for (;;) {
        int32_t id[200], seq[200], kv[200], vb[200], ve[200], pos[200][3];
        uint8_t cls[200] = {0};
        batch_seq q[8];
        memset(q, 0, sizeof q);
        batch_row rows[200];
        memset(rows, 0, sizeof rows);
        batch b = {.id = id, .seq = seq, .kv_index = kv, .pos = (const int32_t(*)[3])pos, .vis_begin = vb,
                   .vis_end = ve, .cls = cls, .seqs = q, .rows = rows};
        for (int s = 0; s < n_seq; s++) {
            int n = len[s] - done[s] < chunk[s] ? len[s] - done[s] : chunk[s];
            if (n <= 0)
                continue;
            q[b.n_seq] = (batch_seq){.n_kv = done[s] + n, .slot = s, .state_in = -1, .state_out = -1,
                                     .tok_begin = b.n_tok, .tok_end = b.n_tok + n};
            for (int g = 0; g < m->p.n_group; g++) {
                /* the window has dropped its head */
                int32_t base = g ? (done[s] - WINDOW > 0 ? (done[s] - WINDOW) / k->block : 0) : 0;
                q[b.n_seq].table[g] = table[s] + base;
                q[b.n_seq].table_len[g] = per - base;
                q[b.n_seq].base[g] = base;
            }
            for (int i = 0; i < n; i++, b.n_tok++) {
                int at = done[s] + i;
                id[b.n_tok] = (at * 7 + s * 13 + at * at) % VOCAB;
                seq[b.n_tok] = b.n_seq;
                kv[b.n_tok] = pos[b.n_tok][0] = pos[b.n_tok][1] = pos[b.n_tok][2] = at;
                vb[b.n_tok] = 0;
                ve[b.n_tok] = at + 1;
                rows[b.n_row++] = (batch_row){.tok = b.n_tok, .want = BATCH_LOGITS | BATCH_SAMPLE,
                                              .logits = out[s] + at * VOCAB,
                                              .sample = {.par = {.top_p = 1, .typical_p = 1, .repeat_penalty = 1},
                                                         .n_top = -1}};
            }
            done[s] += n;
            b.n_seq++;
        }
        if (!b.n_seq)
            break;
        imp_err e = {0};
        backend_ticket t;
        step_result res;
        if (backend_cpu.submit(k->x, &b, &t, &e) != IMP_OK || backend_cpu.wait(k->x, t, &res, &e) != IMP_OK)
            fail_msg("%s", e.message);
        for (int i = 0; i < b.n_row; i++) { /* the greedy token is the first of the largest */
            int best = 0;
            for (int v = 1; v < VOCAB; v++)
                if (rows[i].logits[v] > rows[i].logits[best])
                    best = v;
            assert_int_equal(res.row_status[i], IMP_OK);
            assert_int_equal(res.row[i].id, best);
        }
    }
    free(order);
}

static const char *const CPU[] = {"scalar", "avx2", "avx512", "vnni", "amx"};

static bool open_or_skip(machine *k, model *m, const char *cpu, int threads, int block, kv_type type, int n_seq)
{
    imp_err e = {0};
    imp_status s = start(k, m, cpu, threads, block, type, n_seq, &e);
    if (s == IMP_E_UNSUPPORTED && strstr(e.message, "this machine offers")) {
        stop(k);
        return false;
    }
    if (s != IMP_OK)
        fail_msg("%s: %s", cpu, e.message);
    return true;
}

static void same_bytes(quant_id type, kv_type kv)
{
    static const struct { int threads, block, chunk; } WAY[] = {
        {1, 64, 1}, {2, 2, 7}, {3, 16, 64}, {2, 20, 200}, {1, 1, 13}, {5, 64, 150}};
    static const int LENS[8] = {LEN, 1, 17, 64, 65, 33, 2, 100}, CHUNKS[8] = {5, 1, 17, 64, 3, 1, 2, 30};
    model m;
    make_model(&m, type);
    for (size_t c = 0; c < sizeof CPU / sizeof *CPU; c++) {
        float *alone[8], *together[8];
        machine k;
        if (!open_or_skip(&k, &m, CPU[c], 2, 64, kv, 1))
            continue;
        for (int s = 0; s < 8; s++) {
            alone[s] = malloc(LEN * VOCAB * sizeof(float));
            together[s] = malloc(LEN * VOCAB * sizeof(float));
        }
        /* sequence 0 in every way; LENS[0] is the longest, so the others' ids must be theirs: run them alone as
         * sequence s */
        run(&k, &m, 1, LENS, (int[]){200}, alone);
        stop(&k);
        for (size_t w = 0; w < sizeof WAY / sizeof *WAY; w++) {
            assert_true(open_or_skip(&k, &m, CPU[c], WAY[w].threads, WAY[w].block, kv, 1));
            run(&k, &m, 1, LENS, (int[]){WAY[w].chunk}, together);
            stop(&k);
            if (memcmp(alone[0], together[0], LEN * VOCAB * sizeof(float)) != 0)
                fail_msg("%s: %d threads, blocks of %d, chunks of %d change the bytes", CPU[c], WAY[w].threads,
                         WAY[w].block, WAY[w].chunk);
        }
        assert_true(open_or_skip(&k, &m, CPU[c], 2, 16, kv, 8));
        for (int s = 1; s < 8; s++) {
            int len[8] = {0}, chunk[8];
            len[s] = LENS[s];
            for (int i = 0; i < 8; i++)
                chunk[i] = 200;
            run(&k, &m, 8, len, chunk, alone);
        }
        run(&k, &m, 8, LENS, CHUNKS, together);
        stop(&k);
        for (int s = 0; s < 8; s++)
            if (memcmp(alone[s], together[s], (size_t)(LENS[s] * VOCAB) * sizeof(float)) != 0)
                fail_msg("%s: sequence %d differs in company", CPU[c], s);
        for (int s = 0; s < 8; s++) {
            free(alone[s]);
            free(together[s]);
        }
    }
    free_model(&m);
}

static void test_same_bytes_q8(void **s) { (void)s; same_bytes(QUANT_Q8_0, KV_AUTO); }
static void test_same_bytes_q4(void **s) { (void)s; same_bytes(QUANT_Q4_0, KV_BF16); }
static void test_same_bytes_f32(void **s) { (void)s; same_bytes(QUANT_F32, KV_AUTO); }

static void test_paths_agree(void **s)
{
    (void)s;
    static const quant_id TYPE[] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q5_1};
    for (size_t t = 0; t < sizeof TYPE / sizeof *TYPE; t++) {
        model m;
        make_model(&m, TYPE[t]);
        float *ref = malloc(LEN * VOCAB * sizeof(float)), *out = malloc(LEN * VOCAB * sizeof(float));
        for (size_t c = 0; c < sizeof CPU / sizeof *CPU; c++) {
            machine k;
            if (!open_or_skip(&k, &m, CPU[c], 2, 64, KV_F32, 1))
                continue;
            run(&k, &m, 1, (int[]){LEN}, (int[]){40}, c ? &out : &ref);
            stop(&k);
            double err = 0, mag = 0;
            for (int i = 0; c && i < LEN * VOCAB; i++) {
                err = fmax(err, fabs((double)out[i] - (double)ref[i]));
                mag = fmax(mag, fabs((double)ref[i]));
            }
            if (c && !(err <= (t < 3 ? 1e-5 : 1e-3) * mag))
                fail_msg("%s, %s: error %.3g of %.3g", CPU[c], quant_get(TYPE[t])->name, err, mag);
        }
        free(ref);
        free(out);
        free_model(&m);
    }
}

static void test_refusals(void **s)
{
    (void)s;
    model m;
    machine k;
    imp_err e = {0};
    backend *be = NULL;
    assert_int_equal(backend_cpu.open(&(backend_options){.cpu = "abacus"}, &be, &e), IMP_E_USAGE);
    assert_non_null(strstr(e.message, "abacus"));
    make_model(&m, QUANT_Q8_0);
    assert_true(open_or_skip(&k, &m, "auto", 1, 64, KV_AUTO, 1));
    int32_t id[1] = {3}, zero[1] = {0}, one[1] = {1}, pos[1][3] = {{0}}, table[1] = {0};
    uint8_t cls[1] = {0};
    batch_seq q = {.table = {table, table}, .table_len = {1, 1}, .n_kv = 1, .tok_end = 1};
    batch b = {.n_tok = 1, .n_seq = 1, .id = id, .seq = zero, .kv_index = zero, .pos = (const int32_t(*)[3])pos,
               .vis_begin = zero, .vis_end = one, .cls = cls, .seqs = &q};
    backend_ticket t;
    assert_int_equal(backend_cpu.submit(k.x, &b, &t, NULL), IMP_OK);
    id[0] = VOCAB;
    e = (imp_err){0};
    assert_int_equal(backend_cpu.submit(k.x, &b, &t, &e), IMP_E_USAGE);
    id[0] = 3;
    table[0] = k.n_block;
    assert_int_equal(backend_cpu.submit(k.x, &b, &t, NULL), IMP_E_INTERNAL);
    table[0] = 0;
    q.n_kv = 65;
    assert_int_equal(backend_cpu.submit(k.x, &b, &t, NULL), IMP_E_INTERNAL);
    stop(&k);
    assert_int_equal(start(&k, &m, "auto", 1, 64, KV_NVFP4, 1, NULL), IMP_E_UNSUPPORTED);
    stop(&k);
    free_model(&m);
}

/* Every allocation may fail: a status, nothing leaked, nothing half-made used. */
static void test_no_memory(void **s)
{
    (void)s;
    model m;
    make_model(&m, QUANT_Q8_0);
    for (long n = 0;; n++) {
        machine k;
        mem_fail_after(n);
        imp_status st = start(&k, &m, "auto", 2, 64, KV_AUTO, 1, NULL);
        mem_fail_after(-1);
        stop(&k);
        if (st == IMP_OK)
            break;
        assert_int_equal(st, IMP_E_NOMEM);
        assert_true(n < 1000);
    }
    free_model(&m);
}

/* After compile a step allocates nothing. */
static void test_steady(void **s)
{
    (void)s;
    model m;
    machine k;
    make_model(&m, QUANT_Q8_0);
    assert_true(open_or_skip(&k, &m, "auto", 2, 64, KV_AUTO, 1));
    float *out = malloc(LEN * VOCAB * sizeof(float));
    long before = mem_count();
    run(&k, &m, 1, (int[]){LEN}, (int[]){30}, &out);
    assert_int_equal(mem_count(), before);
    stop(&k);
    free(out);
    free_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes_q8),  cmocka_unit_test(test_same_bytes_q4),
        cmocka_unit_test(test_same_bytes_f32), cmocka_unit_test(test_paths_agree),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_steady),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* plan_run: a model's plan on the CPU backend without the engine: one sequence, any chunks, chosen blocks and
 * state slots. */
#ifndef IMP_TESTS_PLAN_RUN_H
#define IMP_TESTS_PLAN_RUN_H

#include "backend/backend.h"
#include "model/model.h"

enum { MAX_TOK = 160, MAX_W = 512, N_BLOCK = 8, N_STATE = 8, BLOCK = 64 };

/* A plan ready to run. */
typedef struct machine {
    const plan *p;
    bweight *w[MAX_W];
    kvcache *kv;
    bexec *x;
} machine;

static void start(machine *k, backend *be, const plan *p)
{
    imp_err e = {0};
    *k = (machine){.p = p};
    assert_true(p->n_weight <= MAX_W);
    for (int32_t i = 0; i < p->n_weight; i++) {
        plan_op_kind hint = OP_LINEAR;
        for (int32_t j = 0; j < p->n_op; j++)
            for (int n = 0; n < 3; n++)
                if (p->op[j].weight[n] == i && p->op[j].kind != OP_EMBED)
                    hint = p->op[j].kind;
        if (backend_cpu.upload(be, p->weight[i], hint, 0, 0, 0, 0, &k->w[i], &e) != IMP_OK)
            fail_msg("%s", e.message);
    }
    kv_options ko = {.block_size = BLOCK, .n_block = {N_BLOCK, N_BLOCK, N_BLOCK, N_BLOCK}, .n_state = N_STATE};
    imp_status s = backend_cpu.kv_open(be, p, &ko, &k->kv, &e);
    for (int32_t g = 0; g < p->n_group && s == IMP_OK; g++)
        s = backend_cpu.kv_grow(k->kv, g, N_BLOCK, &e);
    if (s == IMP_OK)
        s = backend_cpu.compile(be, p, k->w, k->kv, &(plan_limits){.n_tok = MAX_TOK, .n_row = MAX_TOK, .n_seq = 1},
                                &k->x, &e);
    if (s != IMP_OK)
        fail_msg("%s", e.message);
}

static void stop(machine *k, backend *be)
{
    backend_cpu.exec_free(k->x);
    backend_cpu.kv_close(k->kv);
    for (int32_t i = 0; i < k->p->n_weight; i++)
        backend_cpu.weight_free(be, k->w[i]);
}

/* Tokens [from, to) of one sequence. */
typedef struct way {
    const int32_t *ids;      /* of the whole sequence */
    int from, to, chunk;
    int pos0;                /* rope position of token 0 */
    const float *hidden_in;  /* [to][hidden] or NULL */
    const int32_t *table;    /* [N_BLOCK] block numbers */
    int state_in, state_out; /* slots; -1 starts from nothing */
    const batch_save *save;  /* tok counts from the sequence's start */
    int n_save;
} way;

/* Logits and hidden rows of its tokens go to their places in [tokens][vocabulary], [tokens][hidden]. */
static void run(machine *k, const way *w, float *logits, float *hidden)
{
    int32_t zero[MAX_TOK] = {0}, kv[MAX_TOK], ve[MAX_TOK], pos[MAX_TOK][3];
    uint8_t cls[MAX_TOK] = {0};
    uint32_t H = k->p->n_hidden, V = k->p->n_vocab;
    int state = w->state_in;
    for (int at = w->from, m; at < w->to; at += m, state = w->state_out) {
        m = w->to - at < w->chunk ? w->to - at : w->chunk;
        batch_row rows[MAX_TOK];
        batch_save save[8];
        int n_save = 0;
        memset(rows, 0, sizeof rows);
        for (int i = 0; i < m; i++) {
            kv[i] = at + i;
            ve[i] = at + i + 1;
            pos[i][0] = pos[i][1] = pos[i][2] = w->pos0 + at + i;
            rows[i] = (batch_row){.tok = i, .want = BATCH_LOGITS | BATCH_HIDDEN,
                                  .logits = logits + (size_t)(at + i) * V,
                                  .hidden = hidden + (size_t)(at + i) * H};
        }
        for (int i = 0; i < w->n_save; i++)
            if (w->save[i].tok >= at && w->save[i].tok < at + m)
                save[n_save++] = (batch_save){.tok = w->save[i].tok - at, .state = w->save[i].state};
        batch_seq q = {.table = {w->table, w->table, w->table, w->table},
                       .table_len = {N_BLOCK, N_BLOCK, N_BLOCK, N_BLOCK}, .n_kv = at + m,
                       .state_in = state, .state_out = w->state_out, .save = save, .n_save = n_save, .tok_end = m};
        batch b = {.n_tok = m, .n_seq = 1, .n_row = m, .id = w->ids + at, .seq = zero, .kv_index = kv,
                   .pos = (const int32_t(*)[3])pos,
                   .vis_begin = zero, .vis_end = ve, .cls = cls, .seqs = &q, .rows = rows,
                   .hidden = w->hidden_in ? w->hidden_in + (size_t)at * H : NULL};
        imp_err e = {0};
        backend_ticket t;
        step_result r;
        if (backend_cpu.submit(k->x, &b, &t, &e) != IMP_OK || backend_cpu.wait(k->x, t, &r, &e) != IMP_OK)
            fail_msg("%s", e.message);
    }
}

#endif

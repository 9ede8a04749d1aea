/* A step: its tables go to the device in one copy, the nodes run (as a graph when the step only decodes), results come
 * back. Invariants: (1) the stream orders everything but small tables, which come beside the step before (send_tables);
 * (2) a ticket's pinned memory is reused only after its event; (3) rows are chosen by the greedy or the sampling
 * kernel; what those do not take (sample.c) by a host function in the stream, so the next step may already be queued
 * behind it. */
#include <string.h>

#include "backend/cuda/exec.h"
#include "base/ck.h"
#include "base/mem.h"

void exec_drop_graphs(bexec *x)
{
    for (int32_t i = 0; i < x->n_graph; i++)
        x->b->cu.GraphExecDestroy(x->graph[i].exec);
    x->n_graph = 0;
}

static void find_runs(const uint8_t *cls, const batch_row *rows, int32_t n, run_range *out, int32_t *n_out)
{
    *n_out = 0;
    for (int32_t i = 0; i < n; i++) {
        bool prompt = cls[rows ? rows[i].tok : i] == BATCH_P;
        if (*n_out && out[*n_out - 1].prompt == prompt)
            out[*n_out - 1].n++;
        else
            out[(*n_out)++] = (run_range){i, 1, prompt};
    }
}

static imp_status check_batch(const bexec *x, const batch *b, imp_err *e)
{
    if (b->n_tok <= 0 || b->n_tok > x->lim.n_tok || b->n_row < 0 || b->n_row > x->lim.n_row || b->n_seq <= 0 ||
        b->n_seq > x->lim.n_seq)
        return err_set(e, IMP_E_USAGE, "cuda: a step of %d tokens, %d rows, %d sequences; compiled for %d, %d, %d",
                       (int)b->n_tok, (int)b->n_row, (int)b->n_seq, (int)x->lim.n_tok, (int)x->lim.n_row,
                       (int)x->lim.n_seq);
    if (b->ancestors)
        return err_set(e, IMP_E_UNSUPPORTED, "cuda: draft trees have no attention kernel yet");
    for (int32_t i = 0; i < b->n_row; i++)
        if (b->rows[i].tok < 0 || b->rows[i].tok >= b->n_tok)
            return err_set(e, IMP_E_USAGE, "cuda: row %d is of token %d of %d", (int)i, (int)b->rows[i].tok,
                           (int)b->n_tok);
    return IMP_OK;
}

/* Fills the pinned tables; *n_bytes = how much of them goes to the device. */
static imp_status fill_tables(bexec *x, ticket_slot *t, const batch *b, uint64_t *n_bytes, uint64_t *n_data,
                              int32_t *n_ext, imp_err *e)
{
    int64_t n_table = 0, n_save = 0;
    for (int32_t s = 0; s < b->n_seq; s++) {
        n_save += b->seqs[s].n_save;
        for (int32_t g = 0; g < x->p->n_group; g++)
            n_table += b->seqs[s].table_len[g];
    }
    const tables *small = &x->small[x->next_ticket & 1];
    bool fits = b->n_tok <= small->max_tok && b->n_seq <= small->max_seq && b->n_row <= small->max_row &&
                n_table <= small->max_table && n_save <= small->max_save;
    x->t = fits ? small : &x->large;
    if (n_table > x->t->max_table || n_save > x->t->max_save)
        return err_set(e, IMP_E_LIMIT, "cuda: block tables of %lld entries, %d is the limit", (long long)n_table,
                       (int)x->t->max_table);
    tok_desc *tok = (tok_desc *)(t->host + x->t->off_tok);
    seq_desc *seq = (seq_desc *)(t->host + x->t->off_seq);
    row_desc *row = (row_desc *)(t->host + x->t->off_row);
    batch_save *save = (batch_save *)(t->host + x->t->off_save);
    int32_t *table = (int32_t *)(t->host + x->t->off_table), at = 0, sv = 0;
    *n_ext = 0;
    x->host_seq = seq;
    uint32_t split = 1;
    x->one_each = b->n_tok == b->n_seq;
    for (int32_t i = 0; i < b->n_tok; i++) {
        tok[i] = (tok_desc){.id = b->id[i], .seq = b->seq[i], .kv_index = b->kv_index[i],
                            .vis_begin = b->vis_begin[i], .vis_end = b->vis_end[i],
                            .pos = {b->pos[i][0], b->pos[i][1], b->pos[i][2]}, .cls = b->cls[i],
                            .from = b->id[i] == BATCH_EXTERNAL ? (*n_ext)++ : b->seqs[b->seq[i]].slot};
        uint32_t n = attend_splits((uint32_t)b->vis_end[i]);
        x->one_each &= b->cls[i] != BATCH_P && b->seq[i] == i && b->vis_end[i] == b->kv_index[i] + 1 &&
                       b->seqs[b->seq[i]].tok_end - b->seqs[b->seq[i]].tok_begin == 1;
        if (b->cls[i] != BATCH_P || !exec_prompts_whole(x))
            split = n > split ? n : split;
    }
    x->split = 1; /* few different numbers, so that few graphs */
    while (x->split < split)
        x->split = x->split < 8 ? x->split + 1 : x->split + x->split / 8;
    if (x->split > x->part_splits)
        x->split = x->part_splits ? x->part_splits : 1;
    for (int32_t s = 0; s < b->n_seq; s++) {
        const batch_seq *q = &b->seqs[s];
        seq_desc d = {.n_kv = q->n_kv, .slot = q->slot, .state_in = q->state_in, .state_out = q->state_out,
                      .tok_begin = q->tok_begin, .tok_end = q->tok_end, .save_begin = sv, .n_save = q->n_save};
        for (int32_t g = 0; g < x->p->n_group; g++) {
            d.table[g] = at;
            d.base[g] = q->base[g];
            memcpy(table + at, q->table[g], (size_t)q->table_len[g] * sizeof *table);
            at += q->table_len[g];
        }
        if (q->n_save)
            memcpy(save + sv, q->save, (size_t)q->n_save * sizeof *save);
        sv += q->n_save;
        seq[s] = d;
    }
    t->n_host = t->n_dev = 0;
    *n_data = 0;
    for (int32_t i = 0; i < b->n_row; i++) {
        row_sampler who = exec_row_sampler(x, t, b, i, n_data);
        row[i] = (row_desc){.tok = b->rows[i].tok, .slot = b->seqs[b->seq[b->rows[i].tok]].slot,
                            .want = (int32_t)b->rows[i].want, .greedy = who == ROW_GREEDY,
                            .host_id = (uintptr_t)&t->out_id[i]};
        if (who == ROW_HOST)
            t->host_row[t->n_host++] = i;
    }
    *n_bytes = x->t->off_table + (uint64_t)at * 4;
    return IMP_OK;
}

/* ---- rows that the host samples ---------------------------------------------------------------------------------- */
static void CUDA_CB sample_on_host(void *arg)
{
    ticket_slot *t = arg;
    const batch *b = t->bt;
    int32_t vocab = (int32_t)t->x->p->n_vocab;
    for (int32_t i = 0; i < t->n_host; i++) {
        int32_t r = t->host_row[i];
        float *l = t->logits + (uint64_t)t->logit_at[r] * (uint64_t)vocab;
        float *keep = b->rows[r].logits;
        if ((b->rows[r].want & BATCH_LOGITS) && keep) /* sample_row destroys them */
            memcpy(keep, l, (size_t)vocab * sizeof *l);
        t->row_status[r] = sample_row(l, vocab, &b->rows[r].sample, &t->result[r], t->work);
        t->out_id[r] = t->result[r].id < 0 ? 0 : t->result[r].id;
    }
}

static imp_status pinned_floats(bexec *x, float **p, uint64_t *have, uint64_t want, imp_err *e)
{
    if (want <= *have)
        return IMP_OK;
    if (*p)
        x->b->cu.MemFreeHost(*p);
    *p = NULL;
    *have = 0;
    imp_status s = cu_check(&x->b->cu, x->b->cu.MemAllocHost((void **)p, want), e,
                            "allocating %.1f MiB of pinned memory", (double)want / 1048576);
    if (s == IMP_OK)
        *have = want;
    return s;
}

/* Copies back whatever the rows want, queued behind the step. */
static imp_status fetch(bexec *x, ticket_slot *t, const batch *b, imp_err *e)
{
    const plan *p = x->p;
    cu_api *cu = &x->b->cu;
    CUstream st = x->b->stream;
    uint64_t v = p->n_vocab, h = p->n_hidden, n_logit = 0, n_hidden = 0;
    for (int32_t i = 0, k = 0; i < b->n_row; i++) {
        bool host = k < t->n_host && t->host_row[k] == i;
        k += host;
        t->logit_at[i] = host || (b->rows[i].want & BATCH_LOGITS) ? (int32_t)n_logit++ : -1;
        n_hidden += (b->rows[i].want & BATCH_HIDDEN) != 0;
    }
    imp_status s = pinned_floats(x, &t->logits, &t->logits_bytes, n_logit * v * 4, e);
    if (s == IMP_OK && n_hidden)
        s = pinned_floats(x, &t->hidden, &t->hidden_bytes, (uint64_t)b->n_row * h * 4, e);
    for (int32_t i = 0; i < b->n_row && s == IMP_OK; i++)
        if (t->logit_at[i] >= 0)
            s = cu_check(cu,
                         cu->MemcpyDtoHAsync(t->logits + (uint64_t)t->logit_at[i] * v,
                                             reg_ptr(x, p->logits) + (uint64_t)i * v * 4, v * 4, st),
                         e, "fetching logits");
    if (s == IMP_OK && n_hidden)
        s = cu_check(cu, cu->MemcpyDtoHAsync(t->hidden, reg_ptr(x, p->hidden), (uint64_t)b->n_row * h * 4, st), e,
                     "fetching hidden rows");
    bool all_told = t->n_dev == 0 && t->n_host == 0; /* by the greedy kernel: a copy less between two steps */
    if (s == IMP_OK && b->n_row && !all_told && p->logits != PLAN_NONE)
        s = cu_check(cu, cu->MemcpyDtoHAsync(t->out_id, x->out_id, (size_t)b->n_row * 4, st), e, "fetching tokens");
    if (s == IMP_OK && t->n_host) {
        s = cu_check(cu, cu->LaunchHostFunc(st, sample_on_host, t), e, "queueing the sampler");
        for (int32_t i = 0; i < t->n_host && s == IMP_OK; i++) {
            int32_t r = t->host_row[i];
            CUdeviceptr to = x->last + (uint64_t)b->seqs[b->seq[b->rows[r].tok]].slot * 4;
            s = cu_check(cu, cu->MemcpyHtoDAsync(to, &t->out_id[r], 4, st), e, "returning a token");
        }
    }
    return s;
}

/* ---- graphs ------------------------------------------------------------------------------------------------------ */
static imp_status run_graph(bexec *x, imp_err *e)
{
    cu_api *cu = &x->b->cu;
    CUstream st = x->b->stream;
    graph_entry *g = NULL, *oldest = NULL;
    for (int32_t i = 0; i < x->n_graph; i++) {
        graph_entry *q = &x->graph[i];
        if (q->t == x->t && q->n_tok == x->n_tok && q->n_row == x->n_row && q->n_seq == x->n_seq &&
            q->split == (int32_t)x->split && q->one_each == x->one_each)
            g = q;
        if (!oldest || q->last_use < oldest->last_use)
            oldest = q;
    }
    if (!g) {
        CUgraph graph = NULL;
        CUgraphExec exec = NULL;
        CUresult begun = cu->StreamBeginCapture(st, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        imp_status s = cu_check(cu, begun, e, "capturing a step");
        if (s != IMP_OK)
            return s;
        s = exec_nodes(x, e);
        CUresult r = cu->StreamEndCapture(st, &graph);
        if (s == IMP_OK)
            s = cu_check(cu, r, e, "capturing a step");
        if (s == IMP_OK)
            s = cu_check(cu, cu->GraphInstantiateWithFlags(&exec, graph, 0), e, "instantiating a step");
        if (graph)
            cu->GraphDestroy(graph);
        if (s != IMP_OK)
            return s;
        if (x->n_graph < MAX_GRAPHS) {
            g = &x->graph[x->n_graph++];
        } else {
            g = oldest;
            cu->StreamSynchronize(st);
            cu->GraphExecDestroy(g->exec);
        }
        *g = (graph_entry){.t = x->t, .n_tok = x->n_tok, .n_row = x->n_row, .n_seq = x->n_seq,
                           .split = (int32_t)x->split, .one_each = x->one_each, .exec = exec};
    }
    g->last_use = x->next_ticket;
    return cu_check(cu, cu->GraphLaunch(g->exec, st), e, "running a step");
}

/* The step's tables to the device: beside the step before, whose tables are the other set, once the one before that is
 * done. Two steps are then nothing but two graphs, one behind the other. */
static imp_status send_tables(bexec *x, const ticket_slot *t, uint64_t n_bytes, imp_err *e)
{
    cu_api *cu = &x->b->cu;
    CUstream st = x->b->stream, aside = x->t == &x->large ? st : x->b->tables;
    const ticket_slot *last = &x->slot[(x->next_ticket - 2) % N_TICKET];
    imp_status s = IMP_OK;
    if (aside != st && x->next_ticket > 2)
        s = cu_check(cu, cu->StreamWaitEvent(aside, last->done, 0), e, "waiting for an older step");
    if (s == IMP_OK)
        s = cu_check(cu, cu->MemcpyHtoDAsync(x->t->dev, t->host, n_bytes, aside), e, "sending a step's tables");
    if (s == IMP_OK && aside != st)
        s = cu_check(cu, cu->EventRecord(t->sent, aside), e, "sending a step's tables");
    if (s == IMP_OK && aside != st)
        s = cu_check(cu, cu->StreamWaitEvent(st, t->sent, 0), e, "sending a step's tables");
    return s;
}

imp_status cuda_submit(bexec *x, const batch *b, backend_ticket *ticket, imp_err *e)
{
    imp_status s = cuda_enter(x->b, e);
    ticket_slot *t = &x->slot[x->next_ticket % N_TICKET];
    if (s == IMP_OK)
        s = check_batch(x, b, e);
    if (s != IMP_OK)
        return s;
    cu_api *cu = &x->b->cu;
    if (t->id) /* the step that used this memory last */
        s = cu_check(cu, cu->EventSynchronize(t->done), e, "waiting for an older step");
    uint64_t n_bytes = 0, n_data = 0;
    int32_t n_ext = 0;
    t->bt = b;
    t->n_row = b->n_row;
    if (s == IMP_OK)
        s = fill_tables(x, t, b, &n_bytes, &n_data, &n_ext, e);
    if (s != IMP_OK)
        return s;
    x->n_tok = b->n_tok, x->n_row = b->n_row, x->n_seq = b->n_seq;
    find_runs(b->cls, NULL, b->n_tok, x->tok_run, &x->n_tok_run);
    find_runs(b->cls, b->rows, b->n_row, x->row_run, &x->n_row_run);
    if (t->begin)
        cu->EventRecord(t->begin, x->b->stream);
    s = send_tables(x, t, n_bytes, e);
    if (s == IMP_OK)
        s = exec_sample_send(x, t, n_data, e);
    if (s == IMP_OK && n_ext)
        s = cu_check(cu, cu->MemcpyHtoDAsync(x->t->ext, b->ext_row, (uint64_t)n_ext * x->p->n_hidden * 4, x->b->stream),
                     e, "sending external rows");
    bool decode = x->t != &x->large && x->n_tok_run == 1 && !x->tok_run[0].prompt && !x->b->no_graph;
    if (s == IMP_OK)
        s = decode ? run_graph(x, e) : exec_nodes(x, e);
    if (s == IMP_OK)
        s = exec_sample_rows(x, t, e);
    if (s == IMP_OK)
        s = fetch(x, t, b, e);
    if (s == IMP_OK)
        s = cu_check(cu, cu->EventRecord(t->done, x->b->stream), e, "queueing a step");
    if (s != IMP_OK) { /* the next one takes the same tables */
        exec_unsend(x, NULL);
        cu->StreamSynchronize(x->b->stream);
        return s;
    }
    t->open = true;
    t->follows = x->slot[(x->next_ticket - 1) % N_TICKET].open;
    t->id = x->next_ticket++;
    *ticket = t->id;
    return IMP_OK;
}

/* Device time in this step and before it, when the step before it was still open at submit. */
static void take_times(bexec *x, const ticket_slot *t)
{
    const ticket_slot *before = &x->slot[(t->id - 1) % N_TICKET];
    float idle = 0, step = 0;
    if (!t->follows || before->id != t->id - 1 ||
        x->b->cu.EventElapsedTime(&idle, before->done, t->begin) != CUDA_SUCCESS ||
        x->b->cu.EventElapsedTime(&step, t->begin, t->done) != CUDA_SUCCESS)
        return;
    x->n_timed++;
    x->idle_ms += (double)idle;
    x->step_ms += (double)step;
}

imp_status cuda_wait(bexec *x, backend_ticket id, step_result *out, imp_err *e)
{
    ticket_slot *t = &x->slot[id % N_TICKET];
    if (id <= 0 || t->id != id || !t->open)
        return err_set(e, IMP_E_INTERNAL, "cuda: there is no open ticket %lld", (long long)id);
    imp_status s = cuda_enter(x->b, e);
    if (s == IMP_OK)
        s = cu_check(&x->b->cu, x->b->cu.EventSynchronize(t->done), e, "running a step");
    t->open = false;
    if (s == IMP_OK && t->begin)
        take_times(x, t);
    *out = (step_result){.status = s, .n_row = t->n_row, .row = t->result, .row_status = t->row_status};
    if (s != IMP_OK)
        return s;
    const batch *b = t->bt;
    uint64_t v = x->p->n_vocab, h = x->p->n_hidden;
    for (int32_t i = 0, k = 0, d = 0; i < b->n_row; i++) {
        const batch_row *r = &b->rows[i];
        if (k < t->n_host && t->host_row[k] == i) {
            k++;
        } else {
            if (d < t->n_dev && t->dev_row[d] == i)
                exec_sampled(t, d++, &r->sample, &t->result[i]);
            else
                t->result[i] = (sample_row_out){.id = (r->want & BATCH_SAMPLE) ? t->out_id[i] : -1,
                                                .logprob = __builtin_nanf("")};
            t->row_status[i] = (r->want & BATCH_SAMPLE) && t->out_id[i] < 0 ? IMP_E_NUMERIC : IMP_OK;
            if ((r->want & BATCH_LOGITS) && r->logits)
                memcpy(r->logits, t->logits + (uint64_t)t->logit_at[i] * v, v * 4);
        }
        if ((r->want & BATCH_HIDDEN) && r->hidden)
            memcpy(r->hidden, t->hidden + (uint64_t)i * h, h * 4);
    }
    return IMP_OK;
}

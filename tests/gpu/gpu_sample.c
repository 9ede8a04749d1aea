/* The sampling kernel against sample_row: the same logits must give the same token, log-probabilities and alternatives,
 * bit for bit, whatever the parameters; and what it draws must have the distribution that the definition says. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gpu_test.h"

#define MAX_ROWS 128

/* As much of a compiled plan as the kernel's host side looks at. */
typedef struct rig_s {
    backend *b;
    plan p;
    reg reg;
    bexec x;
    tables t;
    ticket_slot slot;
    CUdeviceptr mem[4];
    int32_t out_id[MAX_ROWS], dev_row[MAX_ROWS];
    sample_result sampled[MAX_ROWS];
    int32_t seq_of[MAX_ROWS];
    batch_seq seqs[MAX_ROWS];
    batch_row rows[MAX_ROWS];
    batch bt;
} rig_s;

static imp_status open_rig(rig_s *r, backend *b, uint32_t vocab, imp_err *e)
{
    memset(r, 0, sizeof *r);
    r->b = b;
    r->p = (plan){.n_vocab = vocab, .logits = 0};
    r->reg = (reg){.alias = PLAN_NONE, .ld = vocab};
    r->x = (bexec){.b = b, .p = &r->p, .reg = &r->reg, .lim = {MAX_ROWS, MAX_ROWS, MAX_ROWS}, .t = &r->t};
    r->t.max_row = MAX_ROWS;
    r->t.sample_bytes = exec_sample_bytes(&r->x, MAX_ROWS);
    r->slot = (ticket_slot){.host = calloc(1, r->t.sample_bytes),
                            .out_id = r->out_id,
                            .dev_row = r->dev_row,
                            .sampled = r->sampled,
                            .x = &r->x};
    const uint64_t size[4] = {(uint64_t)MAX_ROWS * vocab * 4, r->t.sample_bytes, MAX_ROWS * sizeof(sample_result),
                              MAX_ROWS * 8};
    imp_status s = IMP_OK;
    for (int i = 0; i < 4 && s == IMP_OK; i++)
        s = cuda_alloc(b, size[i], NULL, &r->mem[i], "sampler test", e);
    for (int i = 0; i < 4 && s == IMP_OK; i++) /* as the plan's own are */
        s = cu_check(&b->cu, b->cu.MemsetD8Async(r->mem[i], 0, size[i], b->stream), e, "clearing");
    r->x.ws = r->mem[0];
    r->t.dev = r->mem[1];
    r->x.sampled = r->mem[2];
    r->x.out_id = r->mem[3];
    r->x.last = r->mem[3] + MAX_ROWS * 4;
    for (int32_t i = 0; i < MAX_ROWS; i++) {
        r->seq_of[i] = i;
        r->seqs[i].slot = i;
        r->rows[i] = (batch_row){.tok = i, .want = BATCH_SAMPLE};
    }
    r->bt = (batch){.seq = r->seq_of, .seqs = r->seqs, .rows = r->rows};
    return s;
}

static void close_rig(rig_s *r)
{
    for (int i = 0; i < 4; i++)
        cuda_free(r->b, r->mem[i], 0, NULL);
    free(r->slot.host);
}

/* Runs rows [0, n); their sample_row_in stand in r->rows. */
static imp_status sample_rows(rig_s *r, int32_t n, imp_err *e)
{
    uint64_t n_data = 0;
    r->slot.n_dev = 0;
    for (int32_t i = 0; i < n; i++)
        if (exec_row_sampler(&r->x, &r->slot, &r->bt, i, &n_data) == ROW_HOST)
            return err_set(e, IMP_E_INTERNAL, "row %d of the sampler test went to the host", (int)i);
    imp_status s = exec_sample_send(&r->x, &r->slot, n_data, e);
    if (s == IMP_OK)
        s = exec_sample_rows(&r->x, &r->slot, e);
    if (s == IMP_OK)
        s = cu_check(&r->b->cu, r->b->cu.MemcpyDtoHAsync(r->out_id, r->x.out_id, sizeof r->out_id, r->b->stream), e,
                     "fetching tokens");
    return s == IMP_OK ? cu_check(&r->b->cu, r->b->cu.StreamSynchronize(r->b->stream), e, "sampling") : s;
}

static imp_status put_logits(rig_s *r, const float *l, int32_t n, imp_err *e)
{
    uint64_t bytes = (uint64_t)n * r->p.n_vocab * 4;
    imp_status s =
        cu_check(&r->b->cu, r->b->cu.MemcpyHtoDAsync(r->mem[0], l, bytes, r->b->stream), e, "sending logits");
    return s == IMP_OK ? cu_check(&r->b->cu, r->b->cu.StreamSynchronize(r->b->stream), e, "sending logits") : s;
}

static void make_logits(float *l, uint32_t v, int kind)
{
    static const float spread[] = {3.0f, 0.05f, 12.0f, 3.0f, 1.0f};
    for (uint32_t i = 0; i < v; i++)
        l[i] = rnd_f() * spread[kind % 5];
    if (kind % 5 == 3) /* many equal values */
        for (uint32_t i = 0; i < v; i++)
            l[i] = rintf(l[i] * 2) / 2;
    if (kind % 7 == 4) {
        l[rnd() % v] = NAN;
        l[rnd() % v] = INFINITY;
        l[rnd() % v] = -INFINITY;
        l[rnd() % v] = 25;
    }
}

static float pick(const float *of, int n) { return of[rnd() % (uint64_t)n]; }

static void make_params(sample_row_in *s, uint32_t v, sample_bias *bias, sample_count *count, uint32_t *mask, int k)
{
    static const float temp[] = {1, 0.7f, 0, 0.2f, 1.7f, 3}, top_p[] = {1, 0.95f, 0.5f, 1, 0.05f, 0},
                       min_p[] = {0, 0, 0.05f, 0.5f, 1e-4f, 1};
    static const float typ[] = {1, 1, 1, 0.9f, 0.3f};
    static const int32_t top_k[] = {0, 0, 40, 1, 5, 1000, 3000, 1 << 30}, n_top[] = {-1, -1, 0, 1, 5, 20};
    memset(s, 0, sizeof *s);
    sample_params_init(&s->par);
    s->par.temperature = pick(temp, 6);
    s->par.top_p = pick(top_p, 6);
    s->par.min_p = pick(min_p, 6);
    s->par.typical_p = pick(typ, 5);
    s->par.top_k = top_k[rnd() % 8];
    s->par.seed = rnd();
    s->par.choice = (uint32_t)(rnd() % 3);
    s->position = rnd() % 100000;
    s->n_top = n_top[rnd() % 6];
    if (k % 3 == 1) {
        for (int i = 0; i < 60; i++)
            bias[i] = (sample_bias){(int32_t)(rnd() % (i % 4 ? v : 8)), rnd_f() * 4}; /* some ids more than once */
        s->bias = bias;
        s->n_bias = 60;
        s->n_count = v < 64 ? (int32_t)v : 64;
        for (int i = 0; i < s->n_count; i++) /* each id once */
            count[i] = (sample_count){(int32_t)((uint32_t)i * (v / (uint32_t)s->n_count)), 1 + (int32_t)(rnd() % 4)};
        s->count = count;
        s->par.repeat_penalty = 1.2f;
        s->par.frequency_penalty = 0.3f;
        s->par.presence_penalty = 0.2f;
    }
    if (k % 4 == 2) {
        for (uint32_t i = 0; i < (v + 31) / 32; i++)
            mask[i] = k % 8 == 2                           ? (uint32_t)rnd() & (uint32_t)rnd()
                      : i == (uint32_t)k % ((v + 31) / 32) ? 0x00010100u
                                                           : 0;
        s->mask = mask;
    }
    if (s->par.temperature <= 0 && s->n_top < 0 && k % 3 != 1)
        s->n_top = 0; /* a plain greedy row is another kernel's */
}

static bool same(const sample_row_out *a, const sample_row_out *b)
{
    bool ok = a->id == b->id && a->n_top == b->n_top &&
              (memcmp(&a->logprob, &b->logprob, 4) == 0 || (isnan(a->logprob) && isnan(b->logprob)));
    for (int32_t i = 0; i < a->n_top && ok; i++)
        ok = a->top_id[i] == b->top_id[i] && memcmp(&a->top_logprob[i], &b->top_logprob[i], 4) == 0;
    return ok;
}

static int equal_tokens(backend *b, uint32_t v, int n, int *n_tests, imp_err *e)
{
    rig_s *r = malloc(sizeof *r);
    float *l = malloc((size_t)n * v * 4);
    sample_bias *bias = calloc((size_t)n * 64, sizeof *bias);
    sample_count *count = calloc((size_t)n * 64, sizeof *count);
    uint32_t words = (v + 31) / 32, *mask = calloc((size_t)n * words, 4);
    void *work = aligned_alloc(16, (sample_work_bytes((int32_t)v) + 15) & ~15ull);
    int bad = 0;
    imp_status s = open_rig(r, b, v, e);
    for (int i = 0; i < n; i++) {
        make_logits(l + (size_t)i * v, v, i);
        make_params(&r->rows[i].sample, v, bias + i * 64, count + i * 64, mask + (size_t)i * words, i);
    }
    if (s == IMP_OK)
        s = put_logits(r, l, n, e);
    if (s == IMP_OK)
        s = sample_rows(r, n, e);
    for (int i = 0; i < n && s == IMP_OK; i++) {
        sample_row_out got, want;
        const sample_row_in *in = &r->rows[i].sample;
        exec_sampled(&r->slot, i, in, &got);
        sample_row(l + (size_t)i * v, (int32_t)v, in, &want, work);
        ++*n_tests;
        if (want.id >= 0 ? same(&got, &want) : got.id == want.id)
            continue;
        bad++;
        printf("FAIL sample V=%u row %d: id %d, wanted %d; logprob %.9g, wanted %.9g; T %g k %d p %g min %g typ %g "
               "n_top %d bias %d mask %d\n",
               v, i, got.id, want.id, (double)got.logprob, (double)want.logprob, (double)in->par.temperature,
               in->par.top_k, (double)in->par.top_p, (double)in->par.min_p, (double)in->par.typical_p, in->n_top,
               in->n_bias, in->mask != NULL);
    }
    if (s != IMP_OK) {
        bad++;
        printf("FAIL sample V=%u: %s\n", v, e->message);
    }
    close_rig(r);
    free(r), free(l), free(bias), free(count), free(mask), free(work);
    return bad;
}

/* 25,600 draws over 50 tokens against softmax: chi-squared within five deviations. */
static int distribution(backend *b, imp_err *e)
{
    enum { V = 50, ROUNDS = 200 };
    rig_s *r = malloc(sizeof *r);
    static float l[MAX_ROWS * V];
    double p[V], z = 0, chi = 0;
    int hits[V] = {0};
    for (int i = 0; i < V; i++) {
        l[i] = rnd_f();
        p[i] = exp((double)l[i]);
        z += p[i];
    }
    for (int i = 1; i < MAX_ROWS; i++)
        memcpy(l + i * V, l, V * sizeof *l);
    imp_status s = open_rig(r, b, V, e);
    if (s == IMP_OK)
        s = put_logits(r, l, MAX_ROWS, e);
    for (int k = 0; k < ROUNDS && s == IMP_OK; k++) {
        for (int i = 0; i < MAX_ROWS; i++) {
            sample_row_in *in = &r->rows[i].sample;
            *in = (sample_row_in){.n_top = -1, .position = (uint64_t)(k * MAX_ROWS + i)};
            sample_params_init(&in->par);
            in->par.temperature = 1;
            in->par.seed = 42;
        }
        s = sample_rows(r, MAX_ROWS, e);
        for (int i = 0; i < MAX_ROWS && s == IMP_OK; i++)
            if (r->out_id[i] >= 0 && r->out_id[i] < V)
                hits[r->out_id[i]]++;
    }
    for (int i = 0; i < V; i++) {
        double want = p[i] / z * ROUNDS * MAX_ROWS;
        chi += (hits[i] - want) * (hits[i] - want) / want;
    }
    close_rig(r);
    free(r);
    double limit = V - 1 + 5 * sqrt(2.0 * (V - 1));
    printf("sample: chi-squared %.1f of %d cells, limit %.1f\n", chi, V, limit);
    if (s != IMP_OK)
        printf("FAIL sample: %s\n", e->message);
    return s != IMP_OK || !(chi <= limit);
}

static void times(backend *b, uint32_t v, jw *o, imp_err *e)
{
    static const struct {
        const char *name;
        float temp;
        int32_t k;
        float p, minp, typ;
    } how[] = {{"temperature", 1, 0, 1, 0, 1},
               {"top-k 40, top-p 0.95", 0.8f, 40, 0.95f, 0, 1},
               {"top-p 0.95", 0.8f, 0, 0.95f, 0, 1},
               {"min-p 0.05", 0.8f, 0, 1, 0.05f, 1},
               {"typical 0.9", 1, 0, 1, 0, 0.9f}};
    rig_s *r = malloc(sizeof *r);
    float *l = malloc((size_t)MAX_ROWS * v * 4);
    for (uint64_t i = 0; i < (uint64_t)MAX_ROWS * v; i++)
        l[i] = rnd_f() * 3;
    CUevent t0 = NULL, t1 = NULL;
    imp_status s = open_rig(r, b, v, e);
    b->cu.EventCreate(&t0, 0);
    b->cu.EventCreate(&t1, 0);
    if (s == IMP_OK)
        s = put_logits(r, l, MAX_ROWS, e);
    for (size_t h = 0; h < sizeof how / sizeof *how; h++)
        for (int32_t n = 1; n <= MAX_ROWS && s == IMP_OK; n *= 128) {
            for (int i = 0; i < n; i++) {
                sample_row_in *in = &r->rows[i].sample;
                *in = (sample_row_in){.n_top = -1, .position = (uint64_t)i};
                sample_params_init(&in->par);
                in->par.temperature = how[h].temp, in->par.top_k = how[h].k, in->par.top_p = how[h].p,
                in->par.min_p = how[h].minp, in->par.typical_p = how[h].typ;
            }
            float ms = 0;
            s = sample_rows(r, n, e);
            b->cu.EventRecord(t0, b->stream);
            for (int k = 0; k < 20 && s == IMP_OK; k++)
                s = exec_sample_rows(&r->x, &r->slot, e);
            b->cu.EventRecord(t1, b->stream);
            if (s == IMP_OK && b->cu.EventSynchronize(t1) == CUDA_SUCCESS)
                b->cu.EventElapsedTime(&ms, t0, t1);
            printf("sample V=%u %-22s x%-3d %8.1f us\n", v, how[h].name, n, (double)ms * 50);
            char key[80];
            snprintf(key, sizeof key, "%s x%d", how[h].name, n);
            jw_kdouble(o, key, (double)ms * 50);
        }
    b->cu.EventDestroy(t0);
    b->cu.EventDestroy(t1);
    close_rig(r);
    free(r), free(l);
}

int run_sample(jw *o, bool tiny, int *n_tests)
{
    static const uint32_t vocab[] = {50, 1000, 32000, 128256, 151669, 151936, 262144};
    imp_err e = {0};
    backend *b = NULL;
    backend_options bo = {0};
    int bad = 0;
    if (backend_cuda.open(&bo, &b, &e) != IMP_OK) {
        printf("FAIL sample: %s\n", e.message);
        return 1;
    }
    rnd_seed(99);
    for (size_t i = 0; i < (tiny ? 2 : sizeof vocab / sizeof *vocab); i++)
        for (int k = 0; k < (tiny ? 1 : 2); k++)
            bad += equal_tokens(b, vocab[i], tiny ? 16 : i < 3 ? MAX_ROWS : 64, n_tests, &e);
    if (!tiny) {
        bad += distribution(b, &e);
        ++*n_tests;
    }
    jw_key(o, "sample_us");
    jw_object(o);
    if (!tiny)
        times(b, 151936, o, &e);
    jw_end_object(o);
    backend_cuda.close(b);
    printf("sample: %d failures so far\n", bad);
    return bad;
}

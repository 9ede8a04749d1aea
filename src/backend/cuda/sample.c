/* Rows whose token the device chooses (kernels/sample.cu). The host describes them: parameters, the draw's random bits,
 * which depend on no result, and the lists of bias, counts and mask. What stays on the host: Mirostat, whose state is
 * there, lists longer than SAMPLE_MAX_SPARSE, and vocabularies that a cluster's shared memory does not hold. */
#include <math.h>
#include <string.h>

#include "backend/cuda/exec.h"

/* Logits a block holds, and the shared memory they take. */
static uint32_t slice_of(const bexec *x) { return up_to(div_up(x->p->n_vocab, SAMPLE_CLUSTER), 32); }

static bool fits_device(const bexec *x)
{
    return x->p->n_vocab <= 1u << 20 && (uint64_t)slice_of(x) * 4 + SAMPLE_FIXED <= (uint64_t)x->b->smem_max;
}

uint64_t exec_sample_bytes(const bexec *x, int32_t n_row)
{
    int32_t n = n_row < x->lim.n_seq ? n_row : x->lim.n_seq; /* a sequence samples one row a step */
    return (uint64_t)n_row * sizeof(sample_desc) + (uint64_t)n * (((uint64_t)x->p->n_vocab + 31) / 32 * 4 + 2048);
}

static bool has_penalties(const sample_row_in *s)
{
    return s->n_count > 0 &&
           (s->par.repeat_penalty != 1 || s->par.frequency_penalty != 0 || s->par.presence_penalty != 0);
}

/* Copies n words behind what the step's rows have used so far; false when they do not fit. */
static bool put_words(const tables *tb, uint8_t *data, uint64_t *n_data, const void *src, uint64_t n, uint32_t *at)
{
    if (n == 0)
        return true;
    uint64_t room = (tb->sample_bytes - (uint64_t)tb->max_row * sizeof(sample_desc)) / 4;
    uint64_t begin = (*n_data + 1) & ~1ull; /* pairs are read as such */
    if (begin + n > room)
        return false;
    memcpy(data + begin * 4, src, n * 4);
    *at = (uint32_t)begin;
    *n_data = begin + n;
    return true;
}

row_sampler exec_row_sampler(const bexec *x, ticket_slot *t, const batch *b, int32_t i, uint64_t *n_data)
{
    const batch_row *r = &b->rows[i];
    const sample_row_in *s = &r->sample;
    if (!(r->want & BATCH_SAMPLE))
        return ROW_NOBODY;
    bool pen = has_penalties(s);
    if (s->par.temperature <= 0 && s->n_bias == 0 && !pen && !s->mask && s->n_top < 0)
        return ROW_GREEDY;
    if ((s->par.mirostat && s->par.temperature > 0) || s->n_bias > SAMPLE_MAX_SPARSE ||
        (pen && s->n_count > SAMPLE_MAX_SPARSE) || !fits_device(x))
        return ROW_HOST;
    const tables *tb = x->t;
    uint8_t *data = t->host + tb->off_sample + (uint64_t)tb->max_row * sizeof(sample_desc);
    sample_desc d = {.row = (uint32_t)i,
                     .slot = (uint32_t)b->seqs[b->seq[r->tok]].slot,
                     .temperature = s->par.temperature,
                     .top_p = s->par.top_p,
                     .min_p = s->par.min_p,
                     .typical_p = s->par.typical_p,
                     .repeat = s->par.repeat_penalty,
                     .frequency = s->par.frequency_penalty,
                     .presence = s->par.presence_penalty,
                     .top_k = s->par.top_k,
                     .n_top = s->n_top > SAMPLE_MAX_TOP ? SAMPLE_MAX_TOP : s->n_top,
                     .n_bias = (uint32_t)s->n_bias,
                     .n_count = pen ? (uint32_t)s->n_count : 0,
                     .mask = SAMPLE_NO_MASK,
                     .bits53 = sample_bits(s->par.seed, s->par.choice, s->position, 0)};
    uint64_t was = *n_data;
    bool ok = put_words(tb, data, n_data, s->bias, d.n_bias * 2ull, &d.bias) &&
              put_words(tb, data, n_data, s->count, d.n_count * 2ull, &d.count);
    if (ok && s->mask)
        ok = put_words(tb, data, n_data, s->mask, ((uint64_t)x->p->n_vocab + 31) / 32, &d.mask);
    if (!ok) {
        *n_data = was;
        return ROW_HOST;
    }
    if (t->n_dev == 0)
        t->dev_stats = false;
    t->dev_stats = t->dev_stats || d.n_top >= 0;
    memcpy(t->host + tb->off_sample + (uint64_t)t->n_dev * sizeof d, &d, sizeof d);
    t->dev_row[t->n_dev++] = i;
    return ROW_DEVICE;
}

imp_status exec_sample_send(bexec *x, const ticket_slot *t, uint64_t n_data, imp_err *e)
{
    cu_api *cu = &x->b->cu;
    const tables *tb = x->t;
    uint64_t off = tb->off_sample, desc = (uint64_t)tb->max_row * sizeof(sample_desc);
    if (t->n_dev == 0)
        return IMP_OK;
    imp_status s = cu_check(
        cu, cu->MemcpyHtoDAsync(tb->dev + off, t->host + off, (uint64_t)t->n_dev * sizeof(sample_desc), x->b->stream),
        e, "sending sampling parameters");
    if (s == IMP_OK && n_data)
        s = cu_check(cu, cu->MemcpyHtoDAsync(tb->dev + off + desc, t->host + off + desc, n_data * 4, x->b->stream), e,
                     "sending bias and masks");
    return s;
}

imp_status exec_sample_rows(bexec *x, ticket_slot *t, imp_err *e)
{
    if (t->n_dev == 0)
        return IMP_OK;
    cu_api *cu = &x->b->cu;
    const tables *tb = x->t;
    sample_args a = {.logits = reg_ptr(x, x->p->logits),
                     .desc = tb->dev + tb->off_sample,
                     .data = tb->dev + tb->off_sample + (uint64_t)tb->max_row * sizeof(sample_desc),
                     .out = x->sampled,
                     .out_id = x->out_id,
                     .last = x->last,
                     .ldl = (uint32_t)(reg_row_bytes(x, x->p->logits) / 4),
                     .n_vocab = x->p->n_vocab,
                     .slice = slice_of(x)};
    imp_status s = cuda_launch(x->b, x->b->stream, K_sample, SAMPLE_CLUSTER, (uint32_t)t->n_dev, 1, SAMPLE_THREADS,
                               slice_of(x) * 4, false, &a, e);
    if (s == IMP_OK && t->dev_stats)
        s = cu_check(
            cu, cu->MemcpyDtoHAsync(t->sampled, x->sampled, (uint64_t)t->n_dev * sizeof(sample_result), x->b->stream),
            e, "fetching log-probabilities");
    return s;
}

void exec_sampled(const ticket_slot *t, int32_t k, const sample_row_in *in, sample_row_out *out)
{
    int32_t id = t->out_id[t->dev_row[k]];
    *out = (sample_row_out){.id = id, .logprob = NAN};
    if (in->n_top < 0 || id < 0)
        return;
    const sample_result *r = &t->sampled[k];
    double log_z = sample_log_z(r->max, r->total);
    out->logprob = (float)((double)r->chosen - log_z);
    out->n_top = r->n_top;
    for (int32_t i = 0; i < r->n_top; i++) {
        out->top_id[i] = r->top_id[i];
        out->top_logprob[i] = (float)((double)r->top[i] - log_z);
    }
}

/* The reference sampler. Masses are integers, so no result depends on the order of a sum. */
#include "plan/sample.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

typedef struct cand {
    float l;    /* logit after stages 1-4 */
    int32_t id;
} cand;

void sample_params_init(sample_params *p)
{
    *p = (sample_params){.top_p = 1, .typical_p = 1, .repeat_penalty = 1, .mirostat_tau = 5, .mirostat_eta = 0.1f};
}

/* ---- random numbers --------------------------------------------------------------------------------------------- */
void sample_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4])
{
    uint32_t k0 = key[0], k1 = key[1], c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint64_t sample_bits(uint64_t seed, uint32_t choice, uint64_t position, uint32_t stage)
{
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32) ^ choice};
    uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), stage, 0}, w[4];
    sample_philox(key, counter, w);
    return ((uint64_t)w[0] << 32 | w[1]) >> 11;
}

double sample_uniform(uint64_t seed, uint32_t choice, uint64_t position, uint32_t stage)
{
    return (double)sample_bits(seed, choice, position, stage) * 0x1p-53;
}

/* ---- exponentials ----------------------------------------------------------------------------------------------- */
/* e^x for x <= 0, branch-free so that loops vectorise: 2^(n + f) with a degree-6 polynomial for 2^f, f in [-1/2, 1/2];
 * relative error below 3e-7; exactly 0 below -87. */
static inline float exp_neg(float x)
{
    float y = x * 1.44269504f;
    float n = y + 12582912.0f; /* 1.5 * 2^23: rounds to an integer in the low bits */
    union { float f; uint32_t u; } b = {n};
    n -= 12582912.0f;
    float f = (x - n * 0.693145752f) - n * 1.42860677e-6f; /* ln 2 in two parts */
    float p = 1.0f + f * (1.0f + f * (0.5f + f * (0.166666672f +
              f * (0.0416666418f + f * (0.00833345205f + f * 0.00138888892f)))));
    union { uint32_t u; float f; } s = {(b.u - 0x4B400000u + 127u) << 23};
    return x >= -87.0f && x <= 0.0f ? p * s.f : 0.0f; /* NaN and infinities have no mass */
}

/* The mass of a token: floor(e^x 2^43), x = l - max <= 0, from two conversions to 32 bits, which vectorise. Both halves
 * are exact: e^x has 24 bits. */
static inline uint64_t mass(float x)
{
    float q = exp_neg(x) * 0x1p20f;
    int32_t hi = (int32_t)q;
    int32_t lo = (int32_t)((q - (float)hi) * 0x1p23f);
    return ((uint64_t)(uint32_t)hi << 23) + (uint32_t)lo;
}

static uint64_t mass_sum(const float *l, int32_t n, float max)
{
    uint64_t hi = 0, lo = 0;
    for (int32_t i = 0; i < n;) {
        uint32_t h32 = 0, l32 = 0; /* 256 times 2^23 fit; so do 2^20 */
        int32_t end = n - i > 256 ? i + 256 : n;
        for (; i < end; i++) {
            float q = exp_neg(l[i] - max) * 0x1p20f;
            int32_t h = (int32_t)q;
            h32 += (uint32_t)h;
            l32 += (uint32_t)(int32_t)((q - (float)h) * 0x1p23f);
        }
        hi += h32;
        lo += l32;
    }
    return (hi << 23) + lo;
}

/* The least integer mass that is p of z; at least one, so that a set is never empty. */
static uint64_t part(float p, uint64_t z)
{
    double need = ceil((double)p * (double)z);
    return need < 1 ? 1 : (uint64_t)need;
}

/* floor(u z), u the 53-bit fraction of a draw. */
static uint64_t target_of(uint64_t bits53, uint64_t z) { return (uint64_t)(((unsigned __int128)bits53 * z) >> 53); }

/* ---- stages 1 to 3 ---------------------------------------------------------------------------------------------- */
static void apply_sparse(float *l, int32_t n_vocab, const sample_row_in *in)
{
    for (int32_t i = 0; i < in->n_bias; i++)
        if (in->bias[i].id >= 0 && in->bias[i].id < n_vocab)
            l[in->bias[i].id] += in->bias[i].add;
    const sample_params *p = &in->par;
    for (int32_t i = 0; i < in->n_count; i++) {
        int32_t id = in->count[i].id;
        if (id < 0 || id >= n_vocab || in->count[i].n <= 0)
            continue;
        if (p->repeat_penalty > 0 && p->repeat_penalty != 1)
            l[id] = l[id] > 0 ? l[id] / p->repeat_penalty : l[id] * p->repeat_penalty;
        l[id] -= p->frequency_penalty * (float)in->count[i].n + p->presence_penalty;
    }
    if (in->mask)
        for (int32_t i = 0; i < n_vocab; i++)
            if (!(in->mask[i >> 5] >> (i & 31) & 1))
                l[i] = -INFINITY;
}

/* Largest finite value and its lowest index; -1 when there is none. */
static int32_t argmax(const float *l, int32_t n)
{
    int32_t best = -1;
    float max = -INFINITY;
    for (int32_t i = 0; i < n; i++)
        if (l[i] > max && l[i] < INFINITY) {
            max = l[i];
            best = i;
        }
    return best;
}

/* ---- ordering --------------------------------------------------------------------------------------------------- */
static bool before(const cand *a, const cand *b) { return a->l > b->l || (a->l == b->l && a->id < b->id); }
static bool by_id(const cand *a, const cand *b) { return a->id < b->id; }

/* Heapsort: in place, no allocation, no bad case. */
static void sort(cand *c, int32_t n, bool (*less)(const cand *, const cand *))
{
    for (int32_t start = n / 2 - 1, end = n; end > 1;) {
        if (start >= 0) {
            start--;
        } else {
            end--;
            cand t = c[0];
            c[0] = c[end];
            c[end] = t;
        }
        int32_t root = start < 0 ? 0 : start + 1; /* building the heap, then emptying it */
        for (;;) {
            int32_t child = 2 * root + 1;
            if (child >= end)
                break;
            if (child + 1 < end && less(&c[child], &c[child + 1]))
                child++;
            if (!less(&c[root], &c[child]))
                break;
            cand t = c[root];
            c[root] = c[child];
            c[child] = t;
            root = child;
        }
    }
}

/* Collects every candidate within `depth` of max, best first. */
static int32_t collect(const float *l, int32_t n_vocab, float max, float depth, cand *c)
{
    int32_t n = 0;
    for (int32_t i = 0; i < n_vocab; i++)
        if (l[i] >= max - depth && l[i] > -INFINITY && l[i] < INFINITY)
            c[n++] = (cand){l[i], i};
    sort(c, n, before);
    return n;
}

static uint64_t mass_of(const cand *c, int32_t n, float max)
{
    uint64_t m = 0;
    for (int32_t i = 0; i < n; i++)
        m += mass(c[i].l - max);
    return m;
}

/* The candidates that stage 5 and 7 can ever keep, best first, without sorting the whole vocabulary when a few hold all
 * the mass: looks deeper only while it must. *all: nothing was left out. */
static int32_t candidates(const float *l, int32_t n_vocab, float max, const sample_params *p, uint64_t total, cand *c)
{
    if (p->min_p > 0 && p->min_p <= 1 && p->top_k <= 0 && p->top_p >= 1 && p->typical_p >= 1)
        return collect(l, n_vocab, max, -logf(p->min_p) + 0.01f, c);
    bool only_nucleus = p->top_p < 1 && p->typical_p >= 1;
    for (float depth = 4; depth < 64; depth *= 2) {
        int32_t n = collect(l, n_vocab, max, depth, c);
        if (p->top_k > 0 && n >= p->top_k)
            return n;
        if (only_nucleus && p->top_k <= 0) {
            if (mass_of(c, n, max) >= part(p->top_p, total))
                return n;
        } else if (p->top_k <= 0) {
            break;
        }
    }
    return collect(l, n_vocab, max, INFINITY, c);
}

/* ---- stages 5 to 8 ---------------------------------------------------------------------------------------------- */
/* Orders c by how close each token's surprise is to the entropy, closest first; overwrites c[].l. With surprise =
 * log z + (max - l) and the entropy its mean, log z cancels: what counts is the distance of max - l to its mean. */
static void order_typical(cand *c, int32_t n, float max, uint64_t z)
{
    uint64_t sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += (uint64_t)((double)mass(c[i].l - max) * (double)(max - c[i].l));
    double mean = (double)sum / (double)z;
    for (int32_t i = 0; i < n; i++)
        c[i].l = -(float)fabs((double)(max - c[i].l) - mean);
    sort(c, n, before);
}

/* Candidates in id order whose surprise, -log2(mass / z), is at most mu bits; at least the best. A cut by mass alone,
 * so nothing is sorted. */
static int32_t mirostat_cut(const float *l, int32_t n_vocab, float max, double z, float mu, int32_t best, cand *c)
{
    const double least = z * exp2(-(double)mu);
    int32_t n = 0;
    for (int32_t i = 0; i < n_vocab; i++)
        if (l[i] > -INFINITY && (double)mass(l[i] - max) >= least)
            c[n++] = (cand){l[i], i};
    if (n == 0)
        c[n++] = (cand){max, best};
    return n;
}

/* How many of the first of c reach this mass; l: their logits, which c[].l may no longer be. */
static int32_t reach(const cand *c, int32_t n, const float *l, float max, uint64_t need)
{
    uint64_t m = 0;
    int32_t k = 0;
    while (k < n && m < need)
        m += mass(l[c[k++].id] - max);
    return k;
}

/* c is best first; returns how many stay, best first. l still holds the values that order_typical overwrites. */
static int32_t truncate_set(cand *c, int32_t n, const float *l, float max, const sample_params *p, uint64_t total)
{
    bool cut = false; /* something was removed, so the mass must be summed anew */
    if (p->top_k > 0) {
        n = n > p->top_k ? p->top_k : n;
        cut = true;
    }
    if (p->typical_p < 1) {
        uint64_t z = mass_of(c, n, max);
        order_typical(c, n, max, z);
        n = reach(c, n, l, max, part(p->typical_p, z));
        for (int32_t i = 0; i < n; i++)
            c[i].l = l[c[i].id];
        sort(c, n, before);
        cut = true;
    }
    if (p->top_p < 1)
        n = reach(c, n, l, max, part(p->top_p, cut ? mass_of(c, n, max) : total));
    if (p->min_p > 0) {
        float least = p->min_p * exp_neg(c[0].l - max);
        int32_t k = 1;
        for (int32_t i = 1; i < n; i++)
            if (exp_neg(c[i].l - max) >= least)
                c[k++] = c[i];
        n = k;
    }
    return n;
}

/* c in id order. */
static int32_t draw(const cand *c, int32_t n, float max, uint64_t bits53)
{
    uint64_t target = target_of(bits53, mass_of(c, n, max)), m = 0;
    for (int32_t i = 0; i < n; i++) {
        m += mass(c[i].l - max);
        if (m > target)
            return c[i].id;
    }
    return c[0].id; /* every mass is 0: a set of tokens that typical-p kept and that hardly occur */
}

/* Stage 9 without any truncation: the running mass over the vocabulary itself. */
static int32_t draw_all(const float *l, int32_t n, float max, uint64_t total, uint64_t bits53, int32_t fallback)
{
    uint64_t target = target_of(bits53, total), m = 0;
    for (int32_t i = 0; i < n;) {
        int32_t end = n - i > 4096 ? i + 4096 : n;
        uint64_t run = mass_sum(l + i, end - i, max);
        if (m + run > target)
            for (; i < end; i++) {
                m += mass(l[i] - max);
                if (m > target)
                    return i;
            }
        m += run;
        i = end;
    }
    return fallback;
}

static int32_t choose(float *l, int32_t n_vocab, const sample_row_in *in, int32_t best, cand *c)
{
    const sample_params *p = &in->par;
    for (int32_t i = 0; i < n_vocab; i++) {
        l[i] = l[i] < INFINITY ? l[i] / p->temperature : -INFINITY; /* NaN fails the comparison and goes */
    }
    float max = l[best];
    uint64_t u = sample_bits(p->seed, p->choice, in->position, 0), total = mass_sum(l, n_vocab, max);
    if (p->mirostat == 2 && in->mirostat_mu) {
        int32_t n = mirostat_cut(l, n_vocab, max, (double)total, *in->mirostat_mu, best, c);
        double z = (double)mass_of(c, n, max);
        int32_t id = draw(c, n, max, u);
        double surprise = -log2((double)mass(l[id] - max) / z);
        *in->mirostat_mu -= p->mirostat_eta * ((float)surprise - p->mirostat_tau);
        return id;
    }
    if (p->top_k <= 0 && p->typical_p >= 1 && p->top_p >= 1 && p->min_p <= 0)
        return draw_all(l, n_vocab, max, total, u, best);
    int32_t n = truncate_set(c, candidates(l, n_vocab, max, p, total, c), l, max, p, total);
    sort(c, n, by_id);
    return draw(c, n, max, u);
}

/* ---- the row ---------------------------------------------------------------------------------------------------- */
uint64_t sample_work_bytes(int32_t n_vocab) { return (uint64_t)n_vocab * (sizeof(cand) + sizeof(float)); }

/* The best n_top of the untouched logits, best first: insertion into a short list. */
static void top_logprobs(const float *l, int32_t n_vocab, double log_z, sample_row_out *out)
{
    int32_t n = 0;
    cand best[SAMPLE_MAX_TOP];
    for (int32_t i = 0; i < n_vocab; i++) {
        if (!(l[i] > -INFINITY) || (n == out->n_top && !(l[i] > best[n - 1].l)))
            continue;
        int32_t j = n < out->n_top ? n++ : n - 1;
        for (; j > 0 && l[i] > best[j - 1].l; j--)
            best[j] = best[j - 1];
        best[j] = (cand){l[i], i};
    }
    out->n_top = n;
    for (int32_t i = 0; i < n; i++) {
        out->top_id[i] = best[i].id;
        out->top_logprob[i] = (float)((double)best[i].l - log_z);
    }
}

double sample_log_z(float max, uint64_t total) { return (double)max + log((double)total * 0x1p-43); }

imp_status sample_row(float *logits, int32_t n_vocab, const sample_row_in *in, sample_row_out *out, void *work)
{
    out->id = -1;
    out->logprob = NAN;
    out->n_top = in->n_top < 0 ? 0 : in->n_top > SAMPLE_MAX_TOP ? SAMPLE_MAX_TOP : in->n_top;
    cand *c = work;
    float *raw = (float *)(c + n_vocab);
    int32_t first = argmax(logits, n_vocab);
    if (first < 0)
        return IMP_E_NUMERIC;
    double log_z = 0;
    if (in->n_top >= 0) {
        log_z = sample_log_z(logits[first], mass_sum(logits, n_vocab, logits[first]));
        memcpy(raw, logits, (size_t)n_vocab * sizeof *raw);
        if (out->n_top)
            top_logprobs(logits, n_vocab, log_z, out);
    }
    apply_sparse(logits, n_vocab, in);
    int32_t best = argmax(logits, n_vocab);
    if (best < 0)
        return IMP_E_NUMERIC;
    out->id = in->par.temperature > 0 ? choose(logits, n_vocab, in, best, c) : best;
    if (in->n_top >= 0)
        out->logprob = (float)((double)raw[out->id] - log_z);
    return IMP_OK;
}

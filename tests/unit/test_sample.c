/* The sampler against a naive one written from the definition in src/plan/sample.h: sets, order of stages,
 * distributions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plan/sample.h"

#define V 200

/* Known answers of Random123 (kat_vectors, philox4x32 10). */
static void philox(void **state)
{
    (void)state;
    static const struct { uint32_t key[2], ctr[4], want[4]; } kat[] = {
        {{0, 0}, {0, 0, 0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u}, {~0u, ~0u, ~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0xa4093822, 0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        sample_philox(kat[i].key, kat[i].ctr, out);
        assert_memory_equal(out, kat[i].want, sizeof out);
    }
}

static uint32_t rnd_state = 1;
static double rnd(void)
{
    rnd_state = rnd_state * 1664525u + 1013904223u;
    return (double)(rnd_state >> 8) / 16777216.0;
}

static void random_logits(float *l, double spread)
{
    for (int i = 0; i < V; i++)
        l[i] = (float)((rnd() + rnd() + rnd() - 1.5) * spread);
}

typedef struct item { double l, p; int id; } item;
static int by_p(const void *a, const void *b)
{
    const item *x = a, *y = b;
    return x->l != y->l ? (x->l < y->l) - (x->l > y->l) : x->id - y->id;
}
static double entropy_of;
static int by_typical(const void *a, const void *b)
{
    double x = fabs(-log(((const item *)a)->p) - entropy_of), y = fabs(-log(((const item *)b)->p) - entropy_of);
    return (x > y) - (x < y);
}
static void renorm(item *it, int n)
{
    double s = 0;
    for (int i = 0; i < n; i++)
        s += it[i].p;
    for (int i = 0; i < n; i++)
        it[i].p /= s;
}

/* Probability of each id by the definition, in double. */
static void naive(const float *logits, const sample_row_in *in, double *prob)
{
    double l[V];
    item it[V];
    int n = 0;
    const sample_params *p = &in->par;
    for (int i = 0; i < V; i++)
        l[i] = (double)logits[i];
    for (int i = 0; i < in->n_bias; i++)
        l[in->bias[i].id] += (double)in->bias[i].add;
    for (int i = 0; i < in->n_count; i++) {
        double *x = &l[in->count[i].id];
        *x = *x > 0 ? *x / (double)p->repeat_penalty : *x * (double)p->repeat_penalty;
        *x -= (double)p->frequency_penalty * in->count[i].n + (double)p->presence_penalty;
    }
    for (int i = 0; i < V; i++)
        if (!in->mask || (in->mask[i / 32] >> (i % 32) & 1))
            it[n++] = (item){l[i] / (double)p->temperature, 0, i};
    qsort(it, (size_t)n, sizeof *it, by_p);
    for (int i = 0; i < n; i++)
        it[i].p = exp(it[i].l - it[0].l);
    if (p->top_k > 0 && n > p->top_k)
        n = p->top_k;
    renorm(it, n);
    if (p->typical_p < 1) {
        entropy_of = 0;
        for (int i = 0; i < n; i++)
            entropy_of -= it[i].p > 0 ? it[i].p * log(it[i].p) : 0;
        qsort(it, (size_t)n, sizeof *it, by_typical);
        double m = 0;
        int k = 0;
        while (k < n && m < (double)p->typical_p)
            m += it[k++].p;
        n = k;
        qsort(it, (size_t)n, sizeof *it, by_p);
        renorm(it, n);
    }
    if (p->top_p < 1) {
        double m = 0;
        int k = 0;
        while (k < n && m < (double)p->top_p)
            m += it[k++].p;
        n = k;
        renorm(it, n);
    }
    if (p->min_p > 0) {
        int k = 1;
        while (k < n && it[k].p >= (double)p->min_p * it[0].p)
            k++;
        n = k;
        renorm(it, n);
    }
    memset(prob, 0, V * sizeof *prob);
    for (int i = 0; i < n; i++)
        prob[it[i].id] = it[i].p;
}

static int32_t draw(const float *logits, const sample_row_in *in)
{
    static float l[V];
    static char work[V * 64];
    sample_row_out out;
    memcpy(l, logits, sizeof l);
    assert_true(sample_work_bytes(V) <= sizeof work);
    assert_int_equal(sample_row(l, V, in, &out, work), IMP_OK);
    return out.id;
}

/* 1e5 draws against the exact distribution: no impossible token, and chi-squared within 5 standard deviations. */
static void distributions(void **state)
{
    (void)state;
    static const struct { float temp; int32_t k; float p, minp, typ, rep, freq, pres; bool bias, mask; } how[] = {
        {1, 0, 1, 0, 1, 1, 0, 0, false, false},            {0.7f, 0, 1, 0, 1, 1, 0, 0, false, false},
        {1.5f, 10, 1, 0, 1, 1, 0, 0, false, false},        {1, 0, 0.8f, 0, 1, 1, 0, 0, false, false},
        {1, 0, 1, 0.1f, 1, 1, 0, 0, false, false},         {1, 0, 1, 0, 0.6f, 1, 0, 0, false, false},
        {1.2f, 40, 0.9f, 0.05f, 1, 1, 0, 0, false, false}, {1, 0, 0.95f, 0, 1, 1.3f, 0.4f, 0.2f, true, false},
        {1, 25, 0.9f, 0, 0.8f, 1.1f, 0, 0.5f, true, true}, {2, 0, 0.5f, 0, 1, 1, 0, 0, false, true},
    };
    for (size_t h = 0; h < sizeof how / sizeof *how; h++) {
        float l[V];
        double prob[V], chi = 0;
        int *hits = calloc(V, sizeof *hits), cells = 0, rest = 0;
        double rest_p = 0;
        random_logits(l, 4);
        sample_bias bias[2] = {{3, 4.0f}, {50, -100.0f}};
        sample_count count[3] = {{7, 2}, {3, 1}, {90, 5}};
        uint32_t mask[(V + 31) / 32];
        for (int i = 0; i < (V + 31) / 32; i++)
            mask[i] = 0xA5A5F0F0u;
        sample_row_in in = {.n_top = -1};
        sample_params_init(&in.par);
        in.par.temperature = how[h].temp;
        in.par.top_k = how[h].k;
        in.par.top_p = how[h].p;
        in.par.min_p = how[h].minp;
        in.par.typical_p = how[h].typ;
        in.par.repeat_penalty = how[h].rep;
        in.par.frequency_penalty = how[h].freq;
        in.par.presence_penalty = how[h].pres;
        in.par.seed = 77 + h;
        if (how[h].bias) {
            in.bias = bias;
            in.n_bias = 2;
        }
        if (how[h].rep != 1) {
            in.count = count;
            in.n_count = 3;
        }
        if (how[h].mask)
            in.mask = mask;
        naive(l, &in, prob);
        for (int i = 0; i < 100000; i++) {
            in.position = (uint64_t)i;
            hits[draw(l, &in)]++;
        }
        for (int i = 0; i < V; i++) {
            if (prob[i] == 0 && hits[i])
                fail_msg("case %zu: token %d cannot occur, drawn %d times", h, i, hits[i]);
            if (prob[i] * 1e5 >= 10) {
                double d = hits[i] - prob[i] * 1e5;
                chi += d * d / (prob[i] * 1e5);
                cells++;
            } else {
                rest_p += prob[i];
                rest += hits[i];
            }
        }
        if (rest_p * 1e5 >= 10) {
            double d = rest - rest_p * 1e5;
            chi += d * d / (rest_p * 1e5);
            cells++;
        }
        double df = cells > 1 ? cells - 1 : 1;
        if (chi > df + 5 * sqrt(2 * df))
            fail_msg("case %zu: chi-squared %.1f over %.0f degrees of freedom", h, chi, df);
        free(hits);
    }
}

static void greedy_and_ties(void **state)
{
    (void)state;
    float l[V];
    sample_row_in in = {.n_top = -1};
    sample_params_init(&in.par);
    for (int i = 0; i < V; i++)
        l[i] = i == 20 || i == 40 ? 3.0f : 0;
    assert_int_equal(draw(l, &in), 20);
    sample_bias b = {40, 0.5f};
    in.bias = &b;
    in.n_bias = 1;
    assert_int_equal(draw(l, &in), 40);
    in.par.temperature = 1;
    in.par.top_k = 1;
    in.n_bias = 0;
    assert_int_equal(draw(l, &in), 20);
}

static void reproducible(void **state)
{
    (void)state;
    float l[V];
    random_logits(l, 2);
    sample_row_in in = {.n_top = -1, .position = 5};
    sample_params_init(&in.par);
    in.par.temperature = 1;
    in.par.seed = 42;
    int same_seed = 0, other_choice = 0;
    for (uint64_t p = 0; p < 200; p++) {
        in.position = p;
        in.par.choice = 0;
        int32_t a = draw(l, &in), b = draw(l, &in);
        in.par.choice = 1;
        same_seed += a == b;
        other_choice += a == draw(l, &in);
    }
    assert_int_equal(same_seed, 200);
    assert_true(other_choice < 60);
}

/* Mirostat: never a token rarer than mu bits (but the first), and mu moves towards tau. */
static void mirostat(void **state)
{
    (void)state;
    float l[V];
    float mu = 6;
    sample_row_in in = {.n_top = 0, .mirostat_mu = &mu};
    sample_params_init(&in.par);
    in.par.temperature = 1;
    in.par.mirostat = 2;
    in.par.mirostat_tau = 3;
    in.par.mirostat_eta = 0.1f;
    for (uint64_t p = 0; p < 4000; p++) {
        random_logits(l, 6);
        float before = mu;
        in.position = p;
        int32_t id = draw(l, &in);
        double z = 0, max = -1e9;
        for (int i = 0; i < V; i++)
            max = fmax(max, (double)l[i]);
        for (int i = 0; i < V; i++)
            z += exp((double)l[i] - max);
        double bits = -((double)l[id] - max - log(z)) / log(2);
        if (bits > (double)before + 1e-3) {
            for (int i = 0; i < V; i++)
                assert_true(l[i] <= l[id]); /* only the likeliest may be rarer */
        }
    }
    assert_true(mu > 1 && mu < 12);
}

/* With mu held still: tokens rarer than mu bits cannot occur, the others keep their proportions; 1e5 draws,
 * chi-squared. */
static void mirostat_distribution(void **state)
{
    (void)state;
    static const struct { float temp, mu; } how[] = {{1, 4}, {0.7f, 2.5f}, {1.6f, 6}, {1, 0.01f}};
    for (size_t h = 0; h < sizeof how / sizeof *how; h++) {
        float l[V];
        double p[V], z = 0, max = -1e30, kept = 0, chi = 0;
        int *hits = calloc(V, sizeof *hits), cells = 0;
        random_logits(l, 5);
        for (int i = 0; i < V; i++)
            max = fmax(max, (double)l[i]);
        for (int i = 0; i < V; i++)
            z += p[i] = exp(((double)l[i] - max) / (double)how[h].temp);
        for (int i = 0; i < V; i++) {
            p[i] /= z;
            if (-log2(p[i]) > (double)how[h].mu && (double)l[i] < max) /* the likeliest always stays */
                p[i] = 0;
            kept += p[i];
        }
        sample_row_in in = {.n_top = -1};
        sample_params_init(&in.par);
        in.par.temperature = how[h].temp;
        in.par.mirostat = 2;
        in.par.mirostat_eta = 0;
        in.par.seed = 5 + h;
        for (int i = 0; i < 100000; i++) {
            float mu = how[h].mu;
            in.mirostat_mu = &mu;
            in.position = (uint64_t)i;
            hits[draw(l, &in)]++;
        }
        for (int i = 0; i < V; i++) {
            double want = p[i] / kept * 1e5;
            if (p[i] == 0 && hits[i])
                fail_msg("case %zu: token %d cannot occur, drawn %d times", h, i, hits[i]);
            if (want >= 10) {
                chi += (hits[i] - want) * (hits[i] - want) / want;
                cells++;
            }
        }
        double df = cells > 1 ? cells - 1 : 1;
        if (chi > df + 5 * sqrt(2 * df))
            fail_msg("case %zu: chi-squared %.1f over %.0f degrees of freedom", h, chi, df);
        free(hits);
    }
}

/* Two choices of a request are independent: the pairs of their draws follow the product of the distributions. */
static void choices_are_independent(void **state)
{
    (void)state;
    enum { M = 6 };
    float l[V];
    double p[M], z = 0, chi = 0;
    int pair[M][M] = {{0}};
    for (int i = 0; i < V; i++)
        l[i] = i < M ? 0.4f * (float)i : -1e9f;
    for (int i = 0; i < M; i++)
        z += p[i] = exp((double)l[i]);
    sample_row_in in = {.n_top = -1};
    sample_params_init(&in.par);
    in.par.temperature = 1;
    in.par.seed = 11;
    for (int i = 0; i < 100000; i++) {
        in.position = (uint64_t)i;
        in.par.choice = 0;
        int32_t a = draw(l, &in);
        in.par.choice = 1;
        pair[a][draw(l, &in)]++;
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < M; j++) {
            double want = p[i] / z * p[j] / z * 1e5;
            chi += (pair[i][j] - want) * (pair[i][j] - want) / want;
        }
    assert_true(chi < M * M - 1 + 5 * sqrt(2.0 * (M * M - 1)));
}

static void logprobs(void **state)
{
    (void)state;
    float l[V], copy[V];
    random_logits(l, 3);
    memcpy(copy, l, sizeof l);
    char work[V * 64];
    sample_row_out out;
    sample_row_in in = {.n_top = 5};
    sample_params_init(&in.par);
    sample_bias b = {17, 50};
    in.bias = &b;
    in.n_bias = 1; /* reported log-probabilities are of the untouched logits */
    assert_int_equal(sample_row(l, V, &in, &out, work), IMP_OK);
    double z = 0;
    for (int i = 0; i < V; i++)
        z += exp((double)copy[i]);
    assert_int_equal(out.id, 17);
    assert_true(fabs((double)out.logprob - ((double)copy[17] - log(z))) < 1e-5);
    assert_int_equal(out.n_top, 5);
    for (int i = 0; i < 5; i++) {
        int better = 0;
        for (int j = 0; j < V; j++)
            better += copy[j] > copy[out.top_id[i]];
        assert_int_equal(better, i);
        assert_true(fabs((double)out.top_logprob[i] - ((double)copy[out.top_id[i]] - log(z))) < 1e-5);
    }
}

static void not_numbers(void **state)
{
    (void)state;
    float l[V];
    char work[V * 64];
    sample_row_out out;
    sample_row_in in = {.n_top = 0};
    sample_params_init(&in.par);
    for (int i = 0; i < V; i++)
        l[i] = NAN;
    assert_int_equal(sample_row(l, V, &in, &out, work), IMP_E_NUMERIC);
    uint32_t none[(V + 31) / 32] = {0};
    for (int i = 0; i < V; i++)
        l[i] = 1;
    in.mask = none;
    assert_int_equal(sample_row(l, V, &in, &out, work), IMP_E_NUMERIC);
    in.mask = NULL;
    for (int i = 0; i < V; i++)
        l[i] = i == 9 ? 1.0f : i % 2 ? INFINITY : NAN; /* one sane value is what is left */
    in.par.temperature = 1;
    assert_int_equal(sample_row(l, V, &in, &out, work), IMP_OK);
    assert_int_equal(out.id, 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox),          cmocka_unit_test(distributions),
        cmocka_unit_test(greedy_and_ties), cmocka_unit_test(reproducible),
        cmocka_unit_test(mirostat), cmocka_unit_test(logprobs),      cmocka_unit_test(not_numbers),
        cmocka_unit_test(mirostat_distribution), cmocka_unit_test(choices_are_independent),
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}

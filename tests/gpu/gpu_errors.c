/* What goes wrong on a device: no memory for a weight or for KV, and a context that a fault has poisoned. Each is an
 * error with its own status, nothing hangs, and afterwards the backend works (or, when the context is gone, a newly
 * opened one). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gpu_test.h"

static int n_run, n_bad;

static void verdict(bool ok, const char *what, const char *message)
{
    n_run++;
    n_bad += !ok;
    printf("%s errors: %s: %s\n", ok ? "ok  " : "FAIL", what, message);
}

static const int32_t prompt[5] = {1, 7, 3, 9, 2};

/* A greedy token of a short prompt; -1 when the step failed with `status`. */
static int32_t answer(rig *r, imp_status *status, imp_err *e)
{
    seq_step q = {.n = 5, .ids = prompt};
    int32_t id = -1;
    *status = run_step(r, &q, 1, NULL, &id, e);
    return *status == IMP_OK ? id : -1;
}

/* Takes all but `leave` bytes of the device. */
static CUdeviceptr hog(backend *b, uint64_t leave)
{
    size_t free = 0, total = 0;
    CUdeviceptr p = 0;
    b->cu.MemGetInfo(&free, &total);
    if (free > leave)
        b->cu.MemAlloc(&p, free - leave);
    return p;
}

int run_errors(int *n_tests)
{
    static const shape small = {.name = "errors",
                                .n_layer = 2,
                                .hidden = 512,
                                .n_head = 8,
                                .n_kv_head = 2,
                                .d = 64,
                                .ff = 1024,
                                .vocab = 500,
                                .fmt = QUANT_Q8_0};
    imp_err e = {0};
    model m;
    rig r = {0};
    imp_status st, got;
    n_run = n_bad = 0;
    plan_limits lim = {64, 8, 4};
    st = build_model(&small, &m, &e);
    if (st == IMP_OK)
        st = rig_open(&r, &backend_cuda, NULL, false, &m.p, 64, 8, lim, 1, &e);
    if (st != IMP_OK) {
        verdict(false, "opening", e.message);
        return 1;
    }
    int32_t want = answer(&r, &got, &e);
    verdict(got == IMP_OK, "a step", got == IMP_OK ? "runs" : e.message);

    CUdeviceptr h = hog(r.b, 300ull << 20);
    weight *big = make_weight("big.weight", QUANT_Q8_0, 1, 65536, 16384, 1 << 20);
    bweight *bw = NULL;
    memset(&e, 0, sizeof e);
    st = backend_cuda.upload(r.b, big, OP_LINEAR, 0, 0, 0, 0, &bw, &e);
    verdict(st == IMP_E_NOMEM && strstr(e.message, "big.weight") && strstr(e.message, "free"), "no memory for a weight",
            e.message);
    verdict(answer(&r, &got, &e) == want, "a step after it", "same token");
    kv_options ko = {.type = KV_AUTO, .block_size = 64, .n_block = {4 << 20, 4 << 20}};
    kvcache *kv = NULL;
    st = backend_cuda.kv_open(r.b, &m.p, &ko, &kv, &e);
    memset(&e, 0, sizeof e);
    if (st == IMP_OK)
        st = backend_cuda.kv_grow(kv, 0, 4 << 20, &e);
    verdict(st == IMP_E_NOMEM, "no memory for KV blocks", e.message);
    if (kv)
        backend_cuda.kv_close(kv);
    r.b->cu.MemFree(h);
    st = backend_cuda.upload(r.b, big, OP_LINEAR, 0, 0, 0, 0, &bw, &e);
    verdict(st == IMP_OK, "the weight when memory is back", st == IMP_OK ? "fits" : e.message);
    if (bw)
        backend_cuda.weight_free(r.b, bw);
    verdict(answer(&r, &got, &e) == want, "a step after it", "same token");

    /* a weight that points nowhere: the kernel faults and takes the context with it */
    for (int32_t i = 0; i < m.p.n_weight; i++)
        if (!r.w[i]->is_vec)
            r.w[i]->d.tiles = 0x1000;
    double t = clock_s();
    memset(&e, 0, sizeof e);
    answer(&r, &got, &e);
    verdict(got == IMP_E_DEVICE && strstr(e.message, "cuda:"), "a fault in a kernel", e.message);
    answer(&r, &got, &e);
    verdict(got == IMP_E_DEVICE, "the next step", e.message);
    rig_close(&r);
    char spent[32];
    snprintf(spent, sizeof spent, "%.2f s", clock_s() - t);
    verdict(clock_s() - t < 10, "all of it and closing, without a hang", spent);
    memset(&e, 0, sizeof e);
    st = rig_open(&r, &backend_cuda, NULL, false, &m.p, 64, 8, lim, 1, &e);
    /* drivers so far give a process no new context after a fault; one that does must work */
    bool works = st == IMP_OK && answer(&r, &got, &e) == want,
         told = st == IMP_E_DEVICE && strstr(e.message, "start it anew");
    verdict(works || told, "opened anew in the same process", works ? "same token" : e.message);
    rig_close(&r);
    plan_free(&m.p);
    *n_tests += n_run;
    return n_bad;
}

/* The CUDA backend's table, the device, and its memory. */
#include <stdio.h>
#include <string.h>

#include "backend/cuda/exec.h"
#include "base/mem.h"

extern const void *const imp_cuda_fatbins[]; /* made by cuda.mk */

imp_status cuda_enter(backend *b, imp_err *e)
{
    return cu_check(&b->cu, b->cu.CtxSetCurrent(b->ctx), e, "making the context current");
}

imp_status cuda_alloc(backend *b, uint64_t n_bytes, uint64_t *account, CUdeviceptr *out, const char *what, imp_err *e)
{
    *out = 0;
    if (!n_bytes)
        return IMP_OK;
    CUresult r = b->cu.MemAlloc(out, n_bytes);
    if (r == CUDA_ERROR_OUT_OF_MEMORY) {
        size_t free = 0, total = 0;
        b->cu.MemGetInfo(&free, &total);
        return err_set(e, IMP_E_NOMEM, "cuda: out of memory: %s needs %.1f MiB, %.1f of %.1f MiB are free on %s", what,
                       (double)n_bytes / 1048576, (double)free / 1048576, (double)total / 1048576, b->name);
    }
    imp_status s = cu_check(&b->cu, r, e, "allocating %s", what);
    if (s == IMP_OK && account)
        *account += n_bytes;
    return s;
}

void cuda_free(backend *b, CUdeviceptr p, uint64_t n_bytes, uint64_t *account)
{
    if (!p)
        return;
    b->cu.MemFree(p);
    if (account)
        *account -= n_bytes;
}

imp_status cuda_launch(backend *b, CUstream s, kernel_id k, uint32_t gx, uint32_t gy, uint32_t gz, uint32_t threads,
                       uint32_t smem, bool pdl, const void *args, imp_err *e)
{
    return cuda_launch_cluster(b, s, k, gx, gy, gz, 1, threads, smem, pdl, args, e);
}

imp_status cuda_launch_cluster(backend *b, CUstream s, kernel_id k, uint32_t gx, uint32_t gy, uint32_t gz,
                               uint32_t cluster, uint32_t threads, uint32_t smem, bool pdl, const void *args,
                               imp_err *e)
{
    if (!gx || !gy || !gz)
        return IMP_OK;
    if (!b->fn[k])
        return err_set(e, IMP_E_UNSUPPORTED, "cuda: kernel %s does not exist for %s", b->fn_name[k], b->name);
    CUlaunchAttribute at[2] = {{.id = 0}};
    unsigned n_at = 0;
    if (pdl && !b->no_pdl) {
        at[n_at].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        at[n_at++].value.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        at[n_at].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        at[n_at].value.clusterDim.x = cluster;
        at[n_at].value.clusterDim.y = 1;
        at[n_at].value.clusterDim.z = 1;
        n_at++;
    }
    CUlaunchConfig c = {.gridDimX = gx, .gridDimY = gy, .gridDimZ = gz,
                        .blockDimX = threads, .blockDimY = 1, .blockDimZ = 1,
                        .sharedMemBytes = smem, .hStream = s, .attrs = at, .numAttrs = n_at};
    void *param[1] = {(void *)(uintptr_t)args};
    return cu_check(&b->cu, b->cu.LaunchKernelEx(&c, b->fn[k], param, NULL), e, "launching %s", b->fn_name[k]);
}

static imp_status load_kernels(backend *b, imp_err *e)
{
    static const char *const names[K_COUNT] = {
#define K_X(n) [K_##n] = "imp_" #n,
        KERNEL_LIST(K_X) KERNEL_LIST_HOPPER(K_X)
#undef K_X
    };
    for (int i = 0; imp_cuda_fatbins[i] && i < MAX_LIBRARIES; i++) {
        CUresult r = b->cu.LibraryLoadData(&b->lib[i], imp_cuda_fatbins[i], NULL, NULL, 0, NULL, NULL, 0);
        if (r == CUDA_ERROR_NO_BINARY_FOR_GPU)
            return err_set(e, IMP_E_UNSUPPORTED,
                           "cuda: %s (compute capability %d.%d) is not supported: "
                           "this build has kernels for 9.0 (Hopper) and 12.x (Blackwell)",
                           b->name, b->cc / 10, b->cc % 10);
        imp_status s = cu_check(&b->cu, r, e, "loading kernels");
        if (s != IMP_OK)
            return s;
        b->n_lib = i + 1;
    }
    for (int k = 0; k < K_COUNT; k++)
        b->fn_name[k] = names[k] + 4;
    for (int i = 0; i < b->n_lib; i++) {
        CUkernel kern[64];
        unsigned n = 0;
        b->cu.LibraryGetKernelCount(&n, b->lib[i]);
        n = n > 64 ? 64 : n;
        imp_status s = cu_check(&b->cu, b->cu.LibraryEnumerateKernels(kern, n, b->lib[i]), e, "listing kernels");
        if (s != IMP_OK)
            return s;
        for (unsigned j = 0; j < n; j++) {
            const char *name = NULL;
            if (b->cu.KernelGetName(&name, kern[j]) != CUDA_SUCCESS || !name)
                continue;
            for (int k = 0; k < K_COUNT; k++)
                if (strcmp(name, names[k]) == 0)
                    b->cu.KernelGetFunction(&b->fn[k], kern[j]);
        }
    }
    for (int k = 0; k < K_COUNT; k++) {
        bool hopper_only = k >= K_prefill_1x64;
        if (!b->fn[k] && !hopper_only)
            return err_set(e, IMP_E_INTERNAL, "cuda: kernel %s is missing from this build", names[k]);
    }
    /* Shared memory: all of it, less what the kernel declares itself. */
    for (int k = 0; k < K_COUNT; k++) {
        int fixed = 0;
        if (b->fn[k] && b->cu.FuncGetAttribute(&fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, b->fn[k]) == CUDA_SUCCESS)
            b->cu.FuncSetAttribute(b->fn[k], CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, b->smem_max - fixed);
        /* One split of the first cache for all: a multiprocessor that has to change it must be empty, and then no
         * kernel can begin beside its predecessor. */
        if (b->fn[k])
            b->cu.FuncSetAttribute(b->fn[k], CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100);
    }
    return IMP_OK;
}

static void cuda_close(backend *b)
{
    if (!b)
        return;
    cuda_upload_done(b);
    if (b->cu.lib) {
        if (b->retained && b->cu.CtxSetCurrent(b->ctx) == CUDA_SUCCESS) {
            for (int i = 0; i < N_STAGE; i++) {
                if (b->stage_host[i])
                    b->cu.MemFreeHost(b->stage_host[i]);
                cuda_free(b, b->stage_dev[i], 0, NULL);
                if (b->stage_done[i])
                    b->cu.EventDestroy(b->stage_done[i]);
            }
            for (int i = 0; i < b->n_lib; i++)
                b->cu.LibraryUnload(b->lib[i]);
            if (b->stream)
                b->cu.StreamDestroy(b->stream);
            if (b->up)
                b->cu.StreamDestroy(b->up);
            if (b->tables)
                b->cu.StreamDestroy(b->tables);
        }
        if (b->retained)
            b->cu.DevicePrimaryCtxRelease(b->dev);
        cu_unload(&b->cu);
    }
    mem_free(b);
}

static imp_status open_device(backend *b, int32_t device, imp_err *e)
{
    cu_api *cu = &b->cu;
    int n = 0, major = 0, minor = 0;
    cu->DeviceGetCount(&n);
    if (device < 0 || device >= n)
        return err_set(e, IMP_E_USAGE, "cuda: there is no device %d: the driver sees %d", (int)device, n);
    imp_status s = cu_check(cu, cu->DeviceGet(&b->dev, device), e, "opening device %d", (int)device);
    if (s != IMP_OK)
        return s;
    cu->DeviceGetName(b->name, sizeof b->name, b->dev);
    size_t total = 0;
    cu->DeviceTotalMem(&total, b->dev);
    b->total = total;
    cu->DeviceGetAttribute(&b->n_sm, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, b->dev);
    cu->DeviceGetAttribute(&b->smem_max, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, b->dev);
    cu->DeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, b->dev);
    cu->DeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, b->dev);
    b->cc = major * 10 + minor;
    CUresult r = cu->DevicePrimaryCtxRetain(&b->ctx, b->dev);
    if (r == CUDA_ERROR_ILLEGAL_ADDRESS || r == CUDA_ERROR_LAUNCH_FAILED || r == CUDA_ERROR_ILLEGAL_INSTRUCTION)
        return err_set(e, IMP_E_DEVICE,
                       "cuda: %s failed in this process before; the driver gives it no new context: start it anew",
                       b->name);
    s = cu_check(cu, r, e, "creating a context on %s", b->name);
    if (s != IMP_OK)
        return s;
    b->retained = true;
    s = cuda_enter(b, e);
    if (s == IMP_OK)
        s = cu_check(cu, cu->StreamCreate(&b->stream, CU_STREAM_NON_BLOCKING), e, "creating a stream");
    if (s == IMP_OK)
        s = cu_check(cu, cu->StreamCreate(&b->up, CU_STREAM_NON_BLOCKING), e, "creating a stream");
    if (s == IMP_OK)
        s = cu_check(cu, cu->StreamCreate(&b->tables, CU_STREAM_NON_BLOCKING), e, "creating a stream");
    return s == IMP_OK ? load_kernels(b, e) : s;
}

static imp_status cuda_open(const backend_options *opt, backend **out, imp_err *e)
{
    backend *b = mem_calloc(1, sizeof *b);
    if (!b)
        return err_oom(e, "CUDA backend", sizeof *b);
    b->log = opt->log;
    b->deterministic = opt->deterministic;
    b->prefill_fp8 = opt->prefill_fp8;
    b->precise = opt->precise;
    b->timing = opt->profile;
    imp_status s = cu_load(&b->cu, e);
    if (s == IMP_OK)
        s = open_device(b, opt->device, e);
    if (s == IMP_OK && b->prefill_fp8 && !b->fn[K_fp8_128x256])
        s = err_set(e, IMP_E_UNSUPPORTED,
                    "cuda: prefill fp8 has kernels for Hopper (compute capability 9.0) alone; %s has %d.%d",
                    b->name, b->cc / 10, b->cc % 10);
    if (s == IMP_OK && b->prefill_fp8 && b->deterministic)
        s = err_set(e, IMP_E_UNSUPPORTED,
                    "cuda: prefill fp8 and deterministic exclude each other: generated tokens are not computed in FP8");
    if (s == IMP_OK && b->prefill_fp8 && b->precise)
        s = err_set(e, IMP_E_UNSUPPORTED,
                    "cuda: prefill fp8 and precise exclude each other: one rounds what the other keeps");
    if (s != IMP_OK) {
        cuda_close(b);
        return s;
    }
    *out = b;
    return IMP_OK;
}

static void cuda_describe(backend *b, char *out, size_t n)
{
    snprintf(out, n, "%s, compute capability %d.%d, driver CUDA %d.%d", b->name, b->cc / 10, b->cc % 10,
             b->cu.version / 1000, b->cu.version % 1000 / 10);
}

static imp_status cuda_memory(backend *b, backend_memory *out, imp_err *e)
{
    size_t free = 0, total = 0;
    imp_status s = cuda_enter(b, e);
    if (s == IMP_OK)
        s = cu_check(&b->cu, b->cu.MemGetInfo(&free, &total), e, "asking for free memory");
    *out = (backend_memory){.total = b->total, .free = free,
                            .weights = b->weights, .kv = b->kv, .workspace = b->workspace};
    return s;
}

static imp_status cuda_read_ceiling(backend *b, uint64_t n_bytes, double *bytes_per_s, imp_err *e)
{
    CUdeviceptr mem = 0;
    CUevent t0 = NULL, t1 = NULL;
    uint64_t n = n_bytes ? n_bytes & ~15ull : 4ull << 30;
    imp_status s = cuda_enter(b, e);
    if (s == IMP_OK)
        s = cuda_alloc(b, n + 16, NULL, &mem, "read test", e);
    if (s == IMP_OK) {
        uint64_t n_word = n / 4;
        struct { uint64_t dst, n_word; uint32_t seed; } fill = {mem, n_word, 7};
        void *fp[3] = {&fill.dst, &fill.n_word, &fill.seed};
        CUlaunchConfig c = {.gridDimX = (unsigned)b->n_sm * 8, .gridDimY = 1, .gridDimZ = 1,
                            .blockDimX = 256, .blockDimY = 1, .blockDimZ = 1, .hStream = b->stream};
        s = cu_check(&b->cu, b->cu.LaunchKernelEx(&c, b->fn[K_fill_random], fp, NULL), e, "launching fill_random");
    }
    if (s == IMP_OK)
        s = cu_check(&b->cu, b->cu.EventCreate(&t0, 0), e, "creating an event");
    if (s == IMP_OK)
        s = cu_check(&b->cu, b->cu.EventCreate(&t1, 0), e, "creating an event");
    float best = 1e30f;
    for (int i = 0; i < 7 && s == IMP_OK; i++) {
        uint64_t src = mem, n_vec = n / 16, out = mem + n;
        void *rp[3] = {&src, &n_vec, &out};
        CUlaunchConfig c = {.gridDimX = (unsigned)b->n_sm * 4, .gridDimY = 1, .gridDimZ = 1,
                            .blockDimX = 512, .blockDimY = 1, .blockDimZ = 1, .hStream = b->stream};
        b->cu.EventRecord(t0, b->stream);
        s = cu_check(&b->cu, b->cu.LaunchKernelEx(&c, b->fn[K_read], rp, NULL), e, "launching read");
        b->cu.EventRecord(t1, b->stream);
        if (s == IMP_OK)
            s = cu_check(&b->cu, b->cu.EventSynchronize(t1), e, "read test");
        float ms = 0;
        if (s == IMP_OK && b->cu.EventElapsedTime(&ms, t0, t1) == CUDA_SUCCESS && i && ms < best)
            best = ms;
    }
    if (s == IMP_OK)
        *bytes_per_s = (double)n / ((double)best * 1e-3);
    if (t0)
        b->cu.EventDestroy(t0);
    if (t1)
        b->cu.EventDestroy(t1);
    cuda_free(b, mem, 0, NULL);
    return s;
}

const backend_api backend_cuda = {
    .version = BACKEND_VERSION,
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .describe = cuda_describe,
    .memory = cuda_memory,
    .upload = cuda_upload,
    .weight_bytes = cuda_weight_bytes,
    .weight_free = cuda_weight_free,
    .kv_open = cuda_kv_open,
    .kv_grow = cuda_kv_grow,
    .kv_copy_block = cuda_kv_copy_block,
    .kv_copy_state = cuda_kv_copy_state,
    .kv_block_bytes = cuda_kv_block_bytes,
    .kv_get_type = cuda_kv_get_type,
    .kv_close = cuda_kv_close,
    .compile = cuda_compile,
    .exec_workspace = cuda_exec_workspace,
    .exec_kernel = cuda_exec_kernel,
    .exec_free = cuda_exec_free,
    .submit = cuda_submit,
    .wait = cuda_wait,
    .read_ceiling = cuda_read_ceiling,
    .n_ticket = 2,
    .n_batch = 2048,
    .profile = exec_run_profile,
};

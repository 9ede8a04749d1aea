/* driver_host: a libcuda.so.1 whose device is the host (simt.h). The backend binds it by name like the real one. Device
 * memory is host memory, poison when new, with a page behind it that nothing may touch; everything in a stream is done
 * at once, but for what is captured. A kernel that is not built for the host is there by name and fails when launched.
 * The device says that it is of compute capability 9.0, with few multiprocessors, so that small models fill it. */
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/cuda/cuda_impl.h"
#include "simt.h"

#define EXPORT __attribute__((visibility("default")))
#define N_SM 6
#define PAGE 4096u
#define POISON 0xFF

/* ---- memory: [size | the block's end at the end of a page | a page that is no memory] ---------------------------- */
typedef struct region {
    void *at;
    size_t bytes;
} region;

static CUresult take(size_t n, int poison, void **out)
{
    const size_t used = (n + 255) & ~255ull, pages = (used + sizeof(region) + PAGE - 1) / PAGE * PAGE;
    uint8_t *p = mmap(NULL, pages + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    mprotect(p + pages, PAGE, PROT_NONE);
    uint8_t *user = p + pages - used;
    ((region *)(void *)user)[-1] = (region){p, pages + PAGE};
    if (poison)
        memset(user, POISON, n);
    *out = user;
    return CUDA_SUCCESS;
}
static CUresult give(void *p)
{
    if (!p)
        return CUDA_SUCCESS;
    region r = ((region *)p)[-1];
    munmap(r.at, r.bytes);
    return CUDA_SUCCESS;
}

static void *host(CUdeviceptr p) { return (void *)(uintptr_t)p; }

static CUresult mem_alloc_dev(CUdeviceptr *p, size_t n)
{
    void *at = NULL;
    CUresult r = take(n, 1, &at);
    *p = (CUdeviceptr)(uintptr_t)at;
    return r;
}
static CUresult mem_free_dev(CUdeviceptr p) { return give(host(p)); }
static CUresult mem_alloc_host(void **p, size_t n) { return take(n, 1, p); }
static CUresult mem_free_host(void *p) { return give(p); }
/* Addresses that memory is mapped at by and by: all of it at once, which costs nothing until it is touched. */
static CUresult reserve(CUdeviceptr *p, size_t n, size_t align, CUdeviceptr at, unsigned long long flags)
{
    (void)align, (void)at, (void)flags;
    void *v = NULL;
    CUresult r = take(n, 0, &v);
    *p = (CUdeviceptr)(uintptr_t)v;
    return r;
}
static CUresult unreserve(CUdeviceptr p, size_t n)
{
    (void)n;
    return give(host(p));
}
static CUresult granularity(size_t *n, const CUmemAllocationProp *p, CUmemAllocationGranularity_flags f)
{
    (void)p, (void)f;
    *n = 1u << 16;
    return CUDA_SUCCESS;
}
static CUresult mem_info(size_t *free_bytes, size_t *total)
{
    *free_bytes = *total = 4ull << 30;
    return CUDA_SUCCESS;
}

/* ---- streams: what is captured waits for its launch -------------------------------------------------------------- */
typedef struct task {
    enum { LAUNCH, COPY, SET, CALL } what;
    simt_kernel *k;
    simt_dim grid;
    uint32_t threads, cluster, smem;
    uint8_t *param[SIMT_PARAMS];
    void *dst;
    const void *src;
    size_t n;
    int value;
    CUhostFn fn;
} task;
typedef struct graph {
    task *t;
    size_t n, cap;
} graph;

static graph *capture;
static char last_error[700];

static CUresult run_task(const task *t)
{
    const char *why = NULL;
    switch (t->what) {
    case LAUNCH:
        if (simt_launch(t->k, (void *const *)t->param, t->grid, t->threads, t->cluster, t->smem, &why))
            return CUDA_SUCCESS;
        snprintf(last_error, sizeof last_error, "%s", why);
        fprintf(stderr, "host: %s\n", why);
        return CUDA_ERROR_LAUNCH_FAILED;
    case COPY: memcpy(t->dst, t->src, t->n); break;
    case SET: memset(t->dst, t->value, t->n); break;
    case CALL: t->fn(t->dst); break;
    }
    return CUDA_SUCCESS;
}

static CUresult queue(task t)
{
    if (!capture)
        return run_task(&t);
    if (capture->n == capture->cap) {
        capture->cap = capture->cap ? 2 * capture->cap : 64;
        capture->t = realloc(capture->t, capture->cap * sizeof *capture->t);
        if (!capture->t)
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    for (int i = 0; t.what == LAUNCH && i < t.k->n_param; i++) {
        void *keep = NULL; /* aligned as a tensor map has to be */
        if (posix_memalign(&keep, 128, t.k->size[i]))
            return CUDA_ERROR_OUT_OF_MEMORY;
        memcpy(keep, t.param[i], t.k->size[i]);
        t.param[i] = keep;
    }
    capture->t[capture->n++] = t;
    return CUDA_SUCCESS;
}
static CUresult copy_any(void *dst, const void *src, size_t n)
{
    return queue((task){.what = COPY, .dst = dst, .src = src, .n = n});
}
static CUresult h2d(CUdeviceptr d, const void *s, size_t n, CUstream q) { (void)q; return copy_any(host(d), s, n); }
static CUresult d2h(void *d, CUdeviceptr s, size_t n, CUstream q) { (void)q; return copy_any(d, host(s), n); }
static CUresult d2d(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream q)
{
    (void)q;
    return copy_any(host(d), host(s), n);
}
static CUresult set8(CUdeviceptr d, unsigned char v, size_t n, CUstream q)
{
    (void)q;
    return queue((task){.what = SET, .dst = host(d), .value = v, .n = n});
}
static CUresult call_host(CUstream q, CUhostFn fn, void *arg)
{
    (void)q;
    return queue((task){.what = CALL, .dst = arg, .fn = fn});
}
static CUresult begin_capture(CUstream q, CUstreamCaptureMode mode)
{
    (void)q, (void)mode;
    capture = calloc(1, sizeof *capture);
    return capture ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
static CUresult end_capture(CUstream q, CUgraph *out)
{
    (void)q;
    *out = (CUgraph)(void *)capture;
    capture = NULL;
    return CUDA_SUCCESS;
}
static CUresult instantiate(CUgraphExec *out, CUgraph g, unsigned long long flags)
{
    (void)flags;
    *out = (CUgraphExec)(void *)g; /* the graph itself: its owner keeps one of the two */
    return CUDA_SUCCESS;
}
static CUresult run_graph(CUgraphExec x, CUstream q)
{
    (void)q;
    const graph *g = (const void *)x;
    CUresult r = CUDA_SUCCESS;
    for (size_t i = 0; i < g->n && r == CUDA_SUCCESS; i++)
        r = run_task(&g->t[i]);
    return r;
}
static CUresult drop_graph(CUgraphExec x)
{
    graph *g = (void *)x;
    for (size_t i = 0; i < g->n; i++)
        for (int k = 0; k < SIMT_PARAMS; k++)
            free(g->t[i].param[k]);
    free(g->t);
    free(g);
    return CUDA_SUCCESS;
}

/* ---- kernels ----------------------------------------------------------------------------------------------------- */
static simt_kernel listed_absent[K_COUNT];
static simt_kernel *listed[K_COUNT]; /* all that the backend wants; of Hopper's own, those that are built */
static size_t n_listed;

static simt_kernel *kernel_named(const char *name)
{
    for (simt_kernel *k = simt_kernels; k; k = k->next)
        if (strcmp(k->name, name) == 0)
            return k;
    return NULL;
}
static void list_kernels(void)
{
    static const char *const names[K_COUNT] = {
#define K_X(n) "imp_" #n,
        KERNEL_LIST(K_X) KERNEL_LIST_HOPPER(K_X)
#undef K_X
    };
    for (size_t i = 0; i < K_COUNT && n_listed < K_COUNT; i++) {
        simt_kernel *k = kernel_named(names[i]);
        listed_absent[i].name = names[i];
        if (k || i < K_prefill_1x64)
            listed[n_listed++] = k ? k : &listed_absent[i];
    }
}

/* The backend looks at 64 kernels of a library. A library's handle is where its first kernel is listed. */
#define PER_LIBRARY 48
EXPORT extern const void *const imp_cuda_fatbins[];
EXPORT const void *const imp_cuda_fatbins[] = {listed, listed + PER_LIBRARY, listed + 2 * PER_LIBRARY,
                                               listed + 3 * PER_LIBRARY, NULL};
_Static_assert(K_COUNT <= 4 * PER_LIBRARY, "libraries for all kernels");

static CUresult library_load(CUlibrary *l, const void *code, CUjit_option *a, void **b, unsigned c, CUlibraryOption *d,
                             void **e, unsigned f)
{
    (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;
    if (!n_listed)
        list_kernels();
    *l = (CUlibrary)(uintptr_t)code;
    return CUDA_SUCCESS;
}
static CUresult library_count(unsigned *n, CUlibrary l)
{
    const size_t first = (size_t)((simt_kernel **)(void *)l - listed), rest = n_listed > first ? n_listed - first : 0;
    *n = (unsigned)(rest < PER_LIBRARY ? rest : PER_LIBRARY);
    return CUDA_SUCCESS;
}
static CUresult library_kernels(CUkernel *k, unsigned n, CUlibrary l)
{
    for (unsigned i = 0; i < n; i++)
        k[i] = (CUkernel)(void *)((simt_kernel **)(void *)l)[i];
    return CUDA_SUCCESS;
}
static CUresult kernel_name(const char **name, CUkernel k)
{
    *name = ((const simt_kernel *)(const void *)k)->name;
    return CUDA_SUCCESS;
}
static CUresult kernel_function(CUfunction *f, CUkernel k)
{
    *f = (CUfunction)(void *)k;
    return CUDA_SUCCESS;
}
static CUresult function_get(int *v, CUfunction_attribute a, CUfunction f)
{
    (void)a, (void)f;
    *v = 0;
    return CUDA_SUCCESS;
}
static CUresult occupancy(int *n, CUfunction f, int threads, size_t smem)
{
    (void)f, (void)threads, (void)smem;
    *n = 1;
    return CUDA_SUCCESS;
}
/* Blocks of a cluster that a kernel's source asks for. */
static uint32_t own_cluster(const simt_kernel *k) { return strcmp(k->name, "imp_sample") == 0 ? SAMPLE_CLUSTER : 1; }
static CUresult launch(const CUlaunchConfig *c, CUfunction f, void **param, void **extra)
{
    (void)extra;
    task t = {.what = LAUNCH, .k = (simt_kernel *)(void *)f, .grid = {c->gridDimX, c->gridDimY, c->gridDimZ},
              .threads = c->blockDimX, .cluster = own_cluster((simt_kernel *)(void *)f), .smem = c->sharedMemBytes};
    if (!t.k->call) {
        fprintf(stderr, "host: kernel %s is not built for the host\n", t.k->name);
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    for (unsigned i = 0; i < c->numAttrs; i++)
        if (c->attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
            t.cluster = c->attrs[i].value.clusterDim.x;
    for (int i = 0; i < t.k->n_param; i++)
        t.param[i] = param[i];
    return queue(t);
}
static CUresult encode(CUtensorMap *out, CUtensorMapDataType type, cuuint32_t rank, void *base, const cuuint64_t *dim,
                       const cuuint64_t *stride, const cuuint32_t *box, const cuuint32_t *step,
                       CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2,
                       CUtensorMapFloatOOBfill fill)
{
    (void)step, (void)interleave, (void)l2, (void)fill;
    if (type != CU_TENSOR_MAP_DATA_TYPE_FLOAT16 || swizzle != CU_TENSOR_MAP_SWIZZLE_128B || rank > 5)
        return CUDA_ERROR_NOT_SUPPORTED;
    simt_map m = {.base = (uintptr_t)base, .rank = (uint16_t)rank};
    for (cuuint32_t i = 0; i < rank; i++) {
        m.dim[i] = (uint32_t)dim[i];
        m.box[i] = (uint16_t)box[i];
        if (i + 1 < rank)
            m.stride[i] = stride[i];
    }
    memset(out, 0, sizeof *out);
    memcpy(out, &m, sizeof m);
    return CUDA_SUCCESS;
}

/* ---- the device -------------------------------------------------------------------------------------------------- */
static CUresult nothing(void) { return CUDA_SUCCESS; } /* whatever its parameters: System V leaves them to the caller */
static CUresult make_handle(void **h)
{
    static int some;
    *h = &some;
    return CUDA_SUCCESS;
}
static CUresult retain(CUcontext *c, CUdevice d)
{
    (void)d;
    return make_handle((void **)c);
}
static CUresult make_stream(CUstream *s, unsigned flags)
{
    (void)flags;
    return make_handle((void **)s);
}
static CUresult make_event(CUevent *e, unsigned flags)
{
    (void)flags;
    return make_handle((void **)e);
}
static CUresult elapsed(float *ms, CUevent a, CUevent b)
{
    (void)a, (void)b;
    *ms = 1;
    return CUDA_SUCCESS;
}
static CUresult version(int *v)
{
    *v = 13000;
    return CUDA_SUCCESS;
}
static CUresult device_count(int *n)
{
    *n = 1;
    return CUDA_SUCCESS;
}
static CUresult device_get(CUdevice *d, int i)
{
    *d = i;
    return CUDA_SUCCESS;
}
static CUresult device_name(char *s, int n, CUdevice d)
{
    (void)d;
    snprintf(s, (size_t)n, "the host");
    return CUDA_SUCCESS;
}
static CUresult device_memory(size_t *n, CUdevice d)
{
    (void)d;
    *n = 4ull << 30;
    return CUDA_SUCCESS;
}
static CUresult device_attribute(int *v, CUdevice_attribute a, CUdevice d)
{
    (void)d;
    *v = a == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT               ? N_SM
         : a == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN ? (int)SIMT_DYNAMIC
         : a == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR          ? 9
                                                                      : 0;
    return CUDA_SUCCESS;
}
static CUresult error_name(CUresult r, const char **s)
{
    *s = r == CUDA_ERROR_LAUNCH_FAILED ? "launch failed" : "host driver";
    return CUDA_SUCCESS;
}
static CUresult error_text(CUresult r, const char **s)
{
    *s = r == CUDA_ERROR_LAUNCH_FAILED ? last_error : "not supported";
    return CUDA_SUCCESS;
}

/* A touch of what is no memory: where, then the end. */
static void crashed(int sig)
{
    char text[200];
    const simt_at *a = simt_me;
    int n = snprintf(text, sizeof text,
                     "host: signal %d; the last kernel launched is %s, at block (%u, %u, %u), thread %u\n", sig,
                     simt_running, a ? a->block.x : 0, a ? a->block.y : 0, a ? a->block.z : 0, a ? a->thread.x : 0);
    if (write(2, text, (size_t)n) < 0)
        _exit(2);
    _exit(1);
}
static CUresult init(unsigned flags)
{
    (void)flags;
    static uint8_t stack[1 << 16];
    stack_t own = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction act = {.sa_handler = crashed, .sa_flags = SA_ONSTACK};
    sigaltstack(&own, NULL);
    sigaction(SIGSEGV, &act, NULL);
    return CUDA_SUCCESS;
}

#define AS(f) ((void (*)(void))(f))
static const struct {
    const char *name;
    void (*fn)(void);
} entries[] = {
    {"cuInit", AS(init)}, {"cuDriverGetVersion", AS(version)}, {"cuDeviceGet", AS(device_get)},
    {"cuDeviceGetCount", AS(device_count)}, {"cuDeviceGetName", AS(device_name)},
    {"cuDeviceTotalMem", AS(device_memory)}, {"cuDeviceGetAttribute", AS(device_attribute)},
    {"cuDevicePrimaryCtxRetain", AS(retain)}, {"cuMemGetInfo", AS(mem_info)}, {"cuMemAlloc", AS(mem_alloc_dev)},
    {"cuMemFree", AS(mem_free_dev)}, {"cuMemAllocHost", AS(mem_alloc_host)}, {"cuMemFreeHost", AS(mem_free_host)},
    {"cuMemcpyHtoDAsync", AS(h2d)}, {"cuMemcpyDtoHAsync", AS(d2h)}, {"cuMemcpyDtoDAsync", AS(d2d)},
    {"cuMemsetD8Async", AS(set8)}, {"cuStreamCreate", AS(make_stream)}, {"cuEventCreate", AS(make_event)},
    {"cuEventElapsedTime", AS(elapsed)}, {"cuLibraryLoadData", AS(library_load)},
    {"cuLibraryGetKernelCount", AS(library_count)}, {"cuLibraryEnumerateKernels", AS(library_kernels)},
    {"cuKernelGetName", AS(kernel_name)}, {"cuKernelGetFunction", AS(kernel_function)},
    {"cuFuncGetAttribute", AS(function_get)}, {"cuOccupancyMaxActiveBlocksPerMultiprocessor", AS(occupancy)},
    {"cuLaunchKernelEx", AS(launch)}, {"cuLaunchHostFunc", AS(call_host)},
    {"cuStreamBeginCapture", AS(begin_capture)}, {"cuStreamEndCapture", AS(end_capture)},
    {"cuGraphInstantiateWithFlags", AS(instantiate)}, {"cuGraphLaunch", AS(run_graph)},
    {"cuGraphExecDestroy", AS(drop_graph)}, {"cuTensorMapEncodeTiled", AS(encode)},
    {"cuMemAddressReserve", AS(reserve)}, {"cuMemAddressFree", AS(unreserve)},
    {"cuMemGetAllocationGranularity", AS(granularity)}, {"cuGetErrorName", AS(error_name)},
    {"cuGetErrorString", AS(error_text)},
};

EXPORT CUresult cuGetProcAddress_v2(const char *name, void **fn, int wanted, cuuint64_t flags,
                                    CUdriverProcAddressQueryResult *found);
EXPORT CUresult cuGetProcAddress_v2(const char *name, void **fn, int wanted, cuuint64_t flags,
                                    CUdriverProcAddressQueryResult *found)
{
    (void)wanted, (void)flags;
    void (*f)(void) = AS(nothing);
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        if (strcmp(entries[i].name, name) == 0)
            f = entries[i].fn;
    memcpy(fn, &f, sizeof f);
    *found = CU_GET_PROC_ADDRESS_SUCCESS;
    return CUDA_SUCCESS;
}

/* The CPU backend's table, and which kernels this machine can run. */
#include <cpuid.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/cpu/cpu.h"
#include "base/clock.h"
#include "base/mem.h"

static const struct {
    const char *option, *name;
    const cpu_ops *ops;
    const cpu_mm *mm;
} LEVEL[CPU_LEVELS] = {
    [CPU_SCALAR] = {"scalar", "scalar", &cpu_ops_base, NULL},
    [CPU_AVX2] = {"avx2", "AVX2", &cpu_ops_avx2, &cpu_mm_avx2},
    [CPU_AVX512] = {"avx512", "AVX-512", &cpu_ops_avx512, &cpu_mm_avx2},
    [CPU_VNNI] = {"vnni", "AVX-512 VNNI", &cpu_ops_avx512, &cpu_mm_vnni},
    [CPU_AMX] = {"amx", "AVX-512 VNNI, AMX", &cpu_ops_avx512, &cpu_mm_amx},
};

/* ---- what the machine can do ------------------------------------------------------------------------------------- */
static uint64_t xcr0(void)
{
    uint32_t a, d;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (uint64_t)d << 32 | a;
}

/* The tile state is big, so Linux wants a process to ask for it (arch_prctl ARCH_REQ_XCOMP_PERM, XTILEDATA). */
static bool tiles_granted(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

static bool bits(uint32_t word, uint32_t wanted) { return (word & wanted) == wanted; }

static cpu_level detect(void)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !bits(c, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C))
        return CPU_SCALAR;
    uint64_t state = xcr0();
    if ((state & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !bits(b, bit_AVX2 | bit_BMI2))
        return CPU_SCALAR;
    if ((state & 0xE0) != 0xE0 || !bits(b, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL))
        return CPU_AVX2;
    if (!bits(c, bit_AVX512VNNI | bit_AVX512VBMI))
        return CPU_AVX512;
    if ((state >> 17 & 3) != 3 || !bits(d, 1u << 24 /* AMX-TILE */ | 1u << 25 /* AMX-INT8 */) || !tiles_granted())
        return CPU_VNNI;
    return CPU_AMX;
}

/* Bytes to prefetch ahead of few tokens' products, as measured: Zen 3 gains by being asked far ahead (one thread, Q4_K:
 * 13 GB/s without, 18 with); Zen 4 follows a stream by itself and does not notice it behind software that asks first
 * (21 GB/s with it, 34 without); Intel gains by it. */
static long prefetch_ahead(cpu_level best)
{
    uint32_t a, b, c, d;
    if (__get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && c == signature_AMD_ecx)
        return best < CPU_AVX512 ? 4096 : 0; /* Zen 4 is AMD's first with AVX-512 */
    return 1536;
}

static imp_status pick_level(const char *wanted, cpu_level *out, imp_err *e)
{
    cpu_level best = detect();
    *out = best;
    if (!wanted || strcmp(wanted, "auto") == 0)
        return IMP_OK;
    for (int i = 0; i < CPU_LEVELS; i++)
        if (strcmp(wanted, LEVEL[i].option) == 0) {
            *out = (cpu_level)i;
            if ((cpu_level)i <= best)
                return IMP_OK;
            return err_set(e, IMP_E_UNSUPPORTED, "cpu %s: this machine offers %s", wanted, LEVEL[best].option);
        }
    return err_set(e, IMP_E_USAGE, "cpu %s: wanted auto, scalar, avx2, avx512, vnni or amx", wanted);
}

static void cpu_close(backend *b)
{
    if (!b)
        return;
    cpu_slab_drop(b->slab);
    pool_free(b->pool);
    mem_free(b);
}

static imp_status cpu_open(const backend_options *opt, backend **out, imp_err *e)
{
    *out = NULL;
    if (opt->prefill_fp8)
        return err_set(e, IMP_E_UNSUPPORTED,
                       "prefill fp8: the cpu backend has no FP8 products; it takes backend cuda on a Hopper GPU");
    cpu_level level;
    bool any = !opt->cpu || strcmp(opt->cpu, "auto") == 0;
    if (opt->precise && !any && strcmp(opt->cpu, LEVEL[CPU_SCALAR].option) != 0)
        return err_set(e, IMP_E_USAGE,
                       "precise: cpu %s rounds the inputs of products; wanted cpu scalar, which precise takes by "
                       "itself",
                       opt->cpu);
    imp_status s = pick_level(opt->precise && any ? LEVEL[CPU_SCALAR].option : opt->cpu, &level, e);
    if (s != IMP_OK)
        return s;
    backend *b = mem_calloc(1, sizeof *b);
    if (!b)
        return err_oom(e, "cpu backend", sizeof *b);
    b->level = level;
    b->ops = LEVEL[level].ops;
    b->mm = LEVEL[level].mm;
    b->ahead = prefetch_ahead(detect());
    b->log = opt->log;
    s = pool_new(&b->pool, opt->n_threads, e);
    if (s != IMP_OK) {
        cpu_close(b);
        return s;
    }
    b->n_thread = pool_size(b->pool);
    *out = b;
    return IMP_OK;
}

static void cpu_describe(backend *b, char *out, size_t n)
{
    snprintf(out, n, "%s, %d thread%s", LEVEL[b->level].name, b->n_thread, b->n_thread == 1 ? "" : "s");
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* A number of kB from /proc/meminfo, in bytes; 0 when it is not there. */
static uint64_t meminfo(const char *key)
{
    char line[256];
    unsigned long long kb = 0;
    size_t n = strlen(key);
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, n) == 0 && sscanf(line + n, ": %llu kB", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return (uint64_t)kb * 1024;
}

static uint64_t read_number(const char *path) /* 0 when absent or "max" */
{
    unsigned long long v = 0;
    FILE *f = fopen(path, "re");
    if (!f || fscanf(f, "%llu", &v) != 1)
        v = 0;
    if (f)
        fclose(f);
    return (uint64_t)v;
}

static imp_status cpu_memory(backend *b, backend_memory *out, imp_err *e)
{
    (void)e;
    *out = (backend_memory){.total = meminfo("MemTotal"), .free = meminfo("MemAvailable"), .weights = b->n_weights,
                            .kv = b->n_kv, .workspace = b->n_work};
    uint64_t limit = read_number("/sys/fs/cgroup/memory.max"), used = read_number("/sys/fs/cgroup/memory.current");
    if (limit && limit < out->total) {
        out->total = limit;
        uint64_t left = limit > used ? limit - used : 0;
        out->free = left < out->free ? left : out->free;
    }
    return IMP_OK;
}

/* ---- the yardstick ----------------------------------------------------------------------------------------------- */
typedef struct ceiling {
    const cpu_ops *ops;
    const uint64_t *p;
    long n;
    uint64_t sum[64];
} ceiling;

static void read_share(void *arg, int ith, int nth)
{
    ceiling *c = arg;
    long b, e;
    pool_share(c->n, 4096, ith, nth, &b, &e);
    c->sum[ith & 63] = c->ops->sum_words(c->p + b, e - b);
}

static void touch_share(void *arg, int ith, int nth)
{
    ceiling *c = arg;
    long b, e;
    pool_share(c->n, 4096, ith, nth, &b, &e);
    memset((void *)(uintptr_t)(c->p + b), 1, (size_t)(e - b) * sizeof *c->p);
}

static imp_status cpu_read_ceiling(backend *b, uint64_t n_bytes, double *out, imp_err *e)
{
    uint64_t n = n_bytes ? n_bytes : (uint64_t)512 << 20; /* more than any last-level cache keeps for a guest */
    n = (n + 32767) / 32768 * 32768;
    void *p = mem_map(n);
    if (!p)
        return err_oom(e, "read test", n);
    ceiling c = {.ops = b->ops, .p = p, .n = (long)(n / sizeof(uint64_t))};
    pool_run(b->pool, touch_share, &c);
    double best = 0;
    for (int i = 0; i < 5; i++) {
        double t = clock_s();
        pool_run(b->pool, read_share, &c);
        t = clock_s() - t;
        if (t > 0 && (double)n / t > best)
            best = (double)n / t;
    }
    mem_unmap(p, n);
    *out = best;
    return IMP_OK;
}

const backend_api backend_cpu = {
    .version = BACKEND_VERSION,
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .memory = cpu_memory,
    .upload = cpu_upload,
    .weight_bytes = cpu_weight_bytes,
    .weight_free = cpu_weight_free,
    .kv_open = cpu_kv_open,
    .kv_grow = cpu_kv_grow,
    .kv_copy_block = cpu_kv_copy_block,
    .kv_copy_state = cpu_kv_copy_state,
    .kv_block_bytes = cpu_kv_block_bytes,
    .kv_get_type = cpu_kv_get_type,
    .kv_close = cpu_kv_close,
    .compile = cpu_compile,
    .exec_workspace = cpu_exec_workspace,
    .exec_kernel = cpu_exec_kernel,
    .exec_free = cpu_exec_free,
    .submit = cpu_submit,
    .wait = cpu_wait,
    .read_ceiling = cpu_read_ceiling,
    .n_ticket = 1,
    .n_batch = 512,
    .one_class = true,
};

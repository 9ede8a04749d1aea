/* The CPU backend's table of functions: choosing an instruction set, telling about memory. */
#include "backend/cpu/cpu.h"

#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "base/clock.h"
#include "base/mem.h"

static const cpu_isa *pick_isa(const char *name)
{
    bool best = !name || strcmp(name, "auto") == 0;
    for (const cpu_isa *const *i = cpu_isa_list; *i; i++)
        if ((best && (!(*i)->supported || (*i)->supported())) || (!best && strcmp((*i)->name, name) == 0))
            return *i;
    return NULL;
}

static imp_status cpu_open(const backend_options *opt, backend **out, imp_err *e)
{
    *out = NULL;
    const cpu_isa *isa = pick_isa(opt->cpu);
    if (!isa) {
        char list[128] = "auto";
        for (const cpu_isa *const *i = cpu_isa_list; *i; i++)
            snprintf(list + strlen(list), sizeof list - strlen(list), ", %s", (*i)->name);
        return err_set(e, IMP_E_USAGE, "cpu path %s: wanted one of %s", opt->cpu, list);
    }
    if (isa->supported && !isa->supported())
        return err_set(e, IMP_E_UNSUPPORTED, "cpu path %s: this processor does not have it", isa->name);
    backend *b = mem_calloc(1, sizeof *b);
    if (!b)
        return err_oom(e, "cpu backend", sizeof *b);
    b->isa = isa;
    b->scalar = isa == &cpu_isa_scalar;
    b->log = opt->log;
    imp_status s = pool_new(&b->pool, opt->n_threads, e);
    if (s != IMP_OK) {
        mem_free(b);
        return s;
    }
    *out = b;
    return IMP_OK;
}

static void cpu_close(backend *b)
{
    pool_free(b->pool);
    mem_free(b);
}

static void cpu_describe(backend *b, char *out, size_t n)
{
    int t = pool_size(b->pool);
    snprintf(out, n, "cpu: %s, %d thread%s", b->isa->name, t, t == 1 ? "" : "s");
}

/* The smaller of what the machine has available and what the cgroup still allows. */
static uint64_t available(uint64_t *total)
{
    struct sysinfo si;
    sysinfo(&si);
    *total = (uint64_t)si.totalram * si.mem_unit;
    uint64_t avail = ((uint64_t)si.freeram + si.bufferram) * si.mem_unit;
    FILE *f = fopen("/proc/meminfo", "re");
    char line[128];
    unsigned long long kb;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kb) == 1)
            avail = kb * 1024;
    if (f)
        fclose(f);
    f = fopen("/sys/fs/cgroup/memory.max", "re");
    unsigned long long max, used = 0;
    if (f && fscanf(f, "%llu", &max) == 1) {
        FILE *u = fopen("/sys/fs/cgroup/memory.current", "re");
        if (u && fscanf(u, "%llu", &used) == 1 && max > used && max - used < avail)
            avail = max - used;
        if (u)
            fclose(u);
        if (max < *total)
            *total = max;
    }
    if (f)
        fclose(f);
    return avail;
}

static imp_status cpu_memory(backend *b, backend_memory *out, imp_err *e)
{
    (void)e;
    out->free = available(&out->total);
    out->weights = b->weights;
    out->kv = b->kv;
    out->workspace = b->workspace;
    return IMP_OK;
}

static uint64_t cpu_weight_bytes(const bweight *w) { return w->packed ? w->packed_bytes : w->w->n_bytes; }
static uint64_t cpu_exec_workspace(const bexec *x) { return x->work_bytes; }

static const char *cpu_exec_kernel(const bexec *x, int32_t op)
{
    const plan_op *o = &x->p->op[op];
    const bweight *w = exec_weight(x, o, 0);
    if ((o->kind == OP_LINEAR || o->kind == OP_EXPERT_LINEAR || o->kind == OP_HEAD_LINEAR) && w && w->lin)
        return w->lin->name;
    if (o->kind == OP_ATTEND)
        return x->b->isa->attend ? x->b->isa->name : "reference";
    return "portable";
}

/* ---- read ceiling ------------------------------------------------------------------------------------------------- */
struct ceiling { backend *b; const uint8_t *p; size_t n; double sum[256]; };

static double read_portable(const void *p, size_t n)
{
    const uint64_t *v = p;
    uint64_t a = 0, c = 0, d = 0, f = 0;
    for (size_t i = 0; i + 4 <= n / 8; i += 4) {
        a += v[i];
        c += v[i + 1];
        d += v[i + 2];
        f += v[i + 3];
    }
    return (double)(a ^ c ^ d ^ f);
}

static void ceiling_part(void *arg, int ith, int nth)
{
    struct ceiling *c = arg;
    long begin, end;
    pool_share((long)(c->n / 4096), 1, ith, nth, &begin, &end);
    double (*read)(const void *, size_t) = c->b->isa->read_bytes ? c->b->isa->read_bytes : read_portable;
    c->sum[ith & 255] = read(c->p + begin * 4096, (size_t)(end - begin) * 4096);
}

static imp_status cpu_read_ceiling(backend *b, uint64_t n_bytes, double *out, imp_err *e)
{
    size_t n = n_bytes ? n_bytes : (size_t)1 << 30; /* past any last-level share that a guest gets */
    n &= ~(size_t)4095;
    uint8_t *p = mem_map(n);
    if (!p)
        return err_oom(e, "read ceiling", n);
    memset(p, 1, n);
    struct ceiling c = {b, p, n, {0}};
    double best = 0;
    for (int i = 0; i < 5; i++) {
        int64_t t = clock_ns();
        pool_run(b->pool, ceiling_part, &c);
        double r = (double)n / ((double)(clock_ns() - t) * 1e-9);
        if (r > best)
            best = r;
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
};

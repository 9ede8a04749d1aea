/* mm_bench: products of packed panels alone, by the thread's own CPU time, so that a busy machine spoils little.
 * usage: mm_bench FORMAT COLUMNS ROWS TOKENS [avx2|vnni|amx [22|12 [AHEAD]]]     FORMAT: Q4_K, Q8_0, ... as in a GGUF file
 * build: gcc -O2 -std=gnu17 -Iinclude -Isrc tests/tools/mm_bench.c build/libimp.a -lm -pthread -o mm_bench */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cpu/pack.h"
#include "base/mem.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const struct { const char *name; const cpu_mm *mm; } KERNELS[] = {{"avx2", &cpu_mm_avx2}, {"vnni", &cpu_mm_vnni}, {"amx", &cpu_mm_amx}};

static const cpu_pack *find(const char *name)
{
    for (int i = 0; i < PACK_COUNT; i++)
        if (strcmp(quant_get(cpu_pack_table[i].id)->name, name) == 0)
            return &cpu_pack_table[i];
    return NULL;
}

/* Weights whose f16 factors are small and finite whatever the format: every byte below 0x3C. */
static void fill(uint8_t *p, uint64_t n)
{
    uint32_t s = 1;
    for (uint64_t i = 0; i < n; i++) {
        s = s * 1664525u + 1013904223u;
        p[i] = (uint8_t)((s >> 24) % 0x3C);
    }
}

int main(int argc, char **argv)
{
    const cpu_pack *pk = argc > 4 ? find(argv[1]) : NULL;
    long cols = argc > 4 ? atol(argv[2]) : 0, rows = argc > 4 ? atol(argv[3]) : 0, n_tok = argc > 4 ? atol(argv[4]) : 0;
    const cpu_mm *mm = &cpu_mm_vnni;
    for (size_t i = 0; argc > 5 && i < sizeof KERNELS / sizeof *KERNELS; i++)
        if (strcmp(argv[5], KERNELS[i].name) == 0)
            mm = KERNELS[i].mm;
    cpu_qform form = argc > 6 && strcmp(argv[6], "22") == 0 ? CPU_Q22 : CPU_Q12;
    if (!pk || cols < 256 || cols % 256 || rows < 16 || n_tok < 1) {
        fputs("usage: mm_bench FORMAT COLUMNS ROWS TOKENS [avx2|vnni|amx [22|12 [AHEAD]]]   (columns: a multiple of 256)\n", stderr);
        return 2;
    }
    uint64_t panel = ((uint64_t)cols / pk->values * (pk->q_bytes + pk->s_bytes) + 63) / 64 * 64, n = panel * (uint64_t)((rows + 15) / 16);
    long nb = cols / 32;
    uint8_t *data = mem_map(n);
    cpu_qact a = {.q = mem_aligned(64, (size_t)(nb * n_tok * cpu_qblock(form))), .nb = nb, .n_tok = n_tok};
    a.meta = mem_aligned(64, ((size_t)(nb * n_tok) * sizeof(cpu_qmeta) + 63) / 64 * 64);
    float *x = malloc((size_t)cols * sizeof *x), *y = malloc((size_t)(rows * n_tok) * sizeof *y);
    void *scratch = mem_aligned(64, (cpu_mm_scratch((uint64_t)cols) + 63) / 64 * 64);
    if (!data || !a.q || !a.meta || !x || !y || !scratch)
        return 1;
    fill(data, n);
    for (long i = 0; i < cols; i++)
        x[i] = (float)(i * 37 % 101 - 50);
    for (long t = 0; t < n_tok; t++) {
        long tile = t / CPU_TILE, left = n_tok - tile * CPU_TILE, step = left < CPU_TILE ? left : CPU_TILE, at = tile * CPU_TILE * nb + t % CPU_TILE;
        cpu_ops_avx2.quantise[form](x, cols, 0, nb, a.q + at * cpu_qblock(form), a.meta + at, step);
    }
    cpu_panels p = {data, panel, argc > 7 ? atol(argv[7]) : 0};
    int reps = (int)(4e8 / ((double)rows * (double)cols * (double)n_tok)) + 1;
    double best = 1e9;
    for (int r = 0; r < 8; r++) {
        double t = now();
        for (int k = 0; k < reps; k++)
            mm->fn[form][pk - cpu_pack_table](&p, &a, y, rows, rows, NULL, scratch);
        t = (now() - t) / reps;
        best = t < best ? t : best;
    }
    double work = (double)rows * (double)cols * (double)n_tok;
    printf("%s, %ld x %ld, %ld tokens, %s, %s bits: %.3f ms, %.1f GB/s of panels, %.1f G multiply-adds/s\n", argv[1], rows, cols, n_tok, mm->isa,
           form == CPU_Q22 ? "22" : "12", best * 1e3, (double)n / best * 1e-9, work / best * 1e-9);
    return 0;
}

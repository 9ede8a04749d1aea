/* gpu_test: parity and timing of the CUDA backend in one program that needs libc and the driver alone.
 * usage: gpu_test [parity|bench|fp8bench|all] [-o report.json] [--no-pdl] [--no-graph] [--decode] [--prompt]
 *                 [--batches] [filter] */
#include <execinfo.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpu_test.h"

static void crashed(int sig)
{
    void *at[64];
    backtrace_symbols_fd(at, backtrace(at, 64), 2);
    signal(sig, SIG_DFL);
    raise(sig);
}

int main(int argc, char **argv)
{
    const char *what = "all", *file = NULL, *only = NULL;
    for (int i = 1, k = 0; i < argc; i++) {
        if (!strcmp(argv[i], "-o") && i + 1 < argc)
            file = argv[++i];
        else if (!strcmp(argv[i], "--no-pdl"))
            opt_no_pdl = true;
        else if (!strcmp(argv[i], "--no-graph"))
            opt_no_graph = true;
        else if (!strcmp(argv[i], "--decode"))
            opt_decode = true;
        else if (!strcmp(argv[i], "--prompt"))
            opt_prompt = true;
        else if (!strcmp(argv[i], "--batches"))
            opt_batches = true;
        else if (k++ == 0)
            what = argv[i];
        else
            only = argv[i];
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGSEGV, crashed);
    imp_err e = {0};
    backend *b = NULL;
    backend_options bo = {0};
    if (backend_cuda.open(&bo, &b, &e) != IMP_OK) {
        fprintf(stderr, "gpu_test: %s\n", e.message);
        return 77;
    }
    char desc[200];
    backend_cuda.describe(b, desc, sizeof desc);
    backend_cuda.close(b);
    strbuf sb = {0};
    jw o;
    jw_init(&o, &sb);
    jw_object(&o);
    jw_kstr(&o, "device", desc);
    printf("%s\n", desc);
#ifdef GPU_SOURCE_HASH
    jw_kstr(&o, "source", GPU_SOURCE_HASH);
    printf("sources %s\n", GPU_SOURCE_HASH); /* known also of a run that is ended before its report */
#endif
    int bad = 0;
    if (strcmp(what, "fp8bench") == 0)
        return run_fp8_bench();
    if (strcmp(what, "bench"))
        bad += run_parity(&o, only);
    if (strcmp(what, "parity"))
        bad += run_bench(&o, only);
    jw_end_object(&o);
    if (file) {
        FILE *f = fopen(file, "w");
        if (!f || fwrite(sb.s, 1, sb.n, f) != sb.n || fclose(f) != 0) {
            fprintf(stderr, "gpu_test: cannot write %s\n", file);
            return 1;
        }
    }
    sb_free(&sb);
    return bad ? 1 : 0;
}

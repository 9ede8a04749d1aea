/* fuzz_config: every family's reading of config.json and what it builds from it. The first byte chooses one of the
 * small folders of tests/fixtures/hf, whose weights are kept; the rest is its config.json. What opens has plans
 * that can be printed; what does not says why. Bit 7 makes an allocation fail. ROOT is the tree's (Makefile). */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "model/model.h"

enum { MAX_FOLDERS = 64 };

static char *folder[MAX_FOLDERS], dir[64];
static unsigned n_folder;

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void path_of(char *out, size_t n, const char *name) { snprintf(out, n, "%s/%s", dir, name); }

static void clean_up(void)
{
    static const char *const name[] = {"config.json", "model.safetensors"};
    char path[128];
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        path_of(path, sizeof path, name[i]);
        unlink(path);
    }
    rmdir(dir);
    for (unsigned i = 0; i < n_folder; i++)
        free(folder[i]);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void set_up(void)
{
    char path[800];
    DIR *d = opendir(ROOT "/tests/fixtures/hf");
    check(d != NULL);
    for (struct dirent *e; n_folder < MAX_FOLDERS && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.') {
            snprintf(path, sizeof path, ROOT "/tests/fixtures/hf/%s/model.safetensors", e->d_name);
            folder[n_folder++] = strdup(path);
        }
    closedir(d);
    check(n_folder > 0);
    qsort(folder, n_folder, sizeof *folder, by_name);
    snprintf(dir, sizeof dir, "%s/imp-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    check(mkdtemp(dir) != NULL);
    atexit(clean_up);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char path[128];
    if (!dir[0])
        set_up();
    if (!n)
        return 0;
    path_of(path, sizeof path, "model.safetensors");
    unlink(path);
    check(symlink(folder[(data[0] & 127) % n_folder], path) == 0);
    path_of(path, sizeof path, "config.json");
    FILE *f = fopen(path, "wb");
    check(f && fwrite(data + 1, 1, n - 1, f) == n - 1 && fclose(f) == 0);
    model *m;
    imp_err e = {0};
    if (data[0] & 128)
        mem_fail_after((long)(n % 64));
    imp_status s = model_open(&m, dir, &(model_options){.n_ctx = n & 1 ? 300 : 0}, &e);
    mem_fail_after(-1);
    check((s == IMP_OK) == (m != NULL) && (s == IMP_OK) == !e.message[0]);
    if (m) {
        strbuf out = {0};
        plan_print(&m->text, NULL, NULL, &out);
        check(m->n_param > 0 && m->text.n_op > 0 && m->n_next <= CONFIG_MAX_NEXT);
        for (uint32_t i = 0; i < m->n_next; i++)
            plan_print(&m->next[i], NULL, NULL, &out);
        sb_free(&out);
    }
    model_close(m);
    return 0;
}

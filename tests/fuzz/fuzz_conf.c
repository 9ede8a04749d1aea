/* fuzz_conf: any bytes as an imp.conf over the program's own table. What is refused is refused with the line; what is
 * taken lies in its row's range or choices, and came from the file. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.c" /* the table belongs to the program, not to the library */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void check_value(const opt_def *d, const options *o)
{
    const void *at = (const char *)o + d->off;
    bool ranged = d->min != 0 || d->max != 0;
    if (d->type == OPT_INT)
        check(!ranged || ((double)*(const int64_t *)at >= d->min && (double)*(const int64_t *)at <= d->max));
    else if (d->type == OPT_FLOAT)
        check(isfinite(*(const double *)at) &&
              (!ranged || (*(const double *)at >= d->min && *(const double *)at <= d->max)));
    else if (d->type == OPT_STR)
        check(*(const char *const *)at && (!d->choices || strstr(d->choices, *(const char *const *)at)));
    else if (d->type == OPT_LIST)
        for (uint32_t i = 0; i < ((const opt_list *)at)->n; i++)
            check(((const opt_list *)at)->v[i] != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static uint8_t source[sizeof defs / sizeof *defs];
    memset(source, 0, sizeof source);
    options o;
    arena mem = {0};
    imp_err e = {0};
    options_init(&o);
    imp_status s = opt_read_conf(&cli_options, "f", (const char *)data, n, &o, source, &mem, &e);
    check(s == IMP_OK ? !e.message[0] : strncmp(e.message, "f: line ", 8) == 0);
    for (uint32_t i = 0; s == IMP_OK && i < cli_options.n; i++)
        if (source[i]) {
            check(source[i] == OPT_FROM_CONF && defs[i].key && !defs[i].later);
            check_value(&defs[i], &o);
        }
    arena_free(&mem);
    return 0;
}

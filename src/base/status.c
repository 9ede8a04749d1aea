#include "base/status.h"

#include <stdio.h>
#include <string.h>

imp_status err_vset(imp_err *e, imp_status s, const char *fmt, va_list ap)
{
    if (e && e->status == IMP_OK) {
        e->status = s;
        vsnprintf(e->message, sizeof e->message, fmt, ap);
    }
    return s;
}

imp_status err_set(imp_err *e, imp_status s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    err_vset(e, s, fmt, ap);
    va_end(ap);
    return s;
}

void err_prefix(imp_err *e, const char *fmt, ...)
{
    if (!e || e->status == IMP_OK)
        return;
    char old[sizeof e->message];
    memcpy(old, e->message, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof e->message)
        snprintf(e->message + n, sizeof e->message - (size_t)n, ": %s", old);
}

imp_status err_oom(imp_err *e, const char *what, unsigned long long n_bytes)
{
    return err_set(e, IMP_E_NOMEM, "%s: out of memory (%llu bytes wanted)", what, n_bytes);
}

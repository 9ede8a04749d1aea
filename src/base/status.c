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
    if (n < 0 || (size_t)n + 3 > sizeof e->message)
        return;
    size_t room = sizeof e->message - (size_t)n - 3, len = strnlen(old, sizeof old);
    if (len > room)
        len = room; /* a long message loses its end, never its beginning */
    memcpy(e->message + n, ": ", 2);
    memcpy(e->message + n + 2, old, len);
    e->message[(size_t)n + 2 + len] = 0;
}

imp_status err_oom(imp_err *e, const char *what, unsigned long long n_bytes)
{
    return err_set(e, IMP_E_NOMEM, "%s: out of memory (%llu bytes wanted)", what, n_bytes);
}

/* status: what every fallible function returns, and the sentence that goes with it.
 * Success is 0 everywhere; failures are the negative codes of imp.h. The first failure written to an imp_err wins, so
 * a caller may keep going and check once. An imp_err is owned by the caller, is not shared between threads, and may be
 * NULL wherever it is taken (the status alone is then returned). */
#ifndef IMP_BASE_STATUS_H
#define IMP_BASE_STATUS_H

#include <stdarg.h>

#include "imp.h"

/* Sets e (unless it already holds a failure) and returns s, so that `return err_set(e, IMP_E_PARSE, "...")` works.
 * The message names what and where first, then why: "model.gguf: tensor 'x': wanted .., got ..". */
imp_status err_set(imp_err *e, imp_status s, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
imp_status err_vset(imp_err *e, imp_status s, const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));

/* Puts "prefix: " in front of a message already set; nothing happens when e holds no failure. */
void err_prefix(imp_err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Out of memory, naming what was being made and its size. */
imp_status err_oom(imp_err *e, const char *what, unsigned long long n_bytes);

static inline void err_clear(imp_err *e)
{
    if (e) {
        e->status = IMP_OK;
        e->message[0] = 0;
    }
}

#endif

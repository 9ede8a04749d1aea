/* imp.h: the C API of imp, a large language model inference engine. The only installed header; C17 and C++.
 *
 * Objects: imp_model (weights, tokenizer, plan; read-only after opening, shared freely) and imp_engine (a thread that
 * runs requests on one model). Requests are submitted and answered by events.
 * Threads: every function may be called from any thread unless its comment says otherwise.
 * Errors: functions return an imp_status (0 is success, failures are negative) and, when given an imp_err, a sentence.
 * Versioning: public structs start with `uint32_t size`, are filled in by their imp_*_init function, and only grow at
 * the end; enum values never change their number.
 */
#ifndef IMP_H
#define IMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define IMP_VERSION_MAJOR 0
#define IMP_VERSION_MINOR 1
#define IMP_VERSION_PATCH 0
#define IMP_VERSION "0.1.0"

#if defined(__GNUC__)
#define IMP_API __attribute__((visibility("default")))
#else
#define IMP_API
#endif

/* ---- Status ---------------------------------------------------------------------------------------------------
 * name, number, text, HTTP code, reach. Reach says what the failure ends: the request, the sequence, the model or the
 * device; everything else goes on. */
#define IMP_STATUS_LIST(X)                                                          \
    X(OK, 0, "success", 200, REQUEST)                                               \
    X(E_USAGE, -1, "wrong arguments", 400, REQUEST)                                 \
    X(E_NOMEM, -2, "out of memory", 503, REQUEST)                                   \
    X(E_IO, -3, "input/output failed", 500, MODEL)                                  \
    X(E_PARSE, -4, "malformed input", 400, REQUEST)                                 \
    X(E_LIMIT, -5, "a limit was passed", 400, REQUEST)                              \
    X(E_UNSUPPORTED, -6, "not supported", 400, REQUEST)                             \
    X(E_NOTFOUND, -7, "not found", 404, REQUEST)                                    \
    X(E_CONTEXT, -8, "longer than the context", 400, REQUEST)                       \
    X(E_CANCELLED, -9, "cancelled", 499, REQUEST)                                   \
    X(E_BUSY, -10, "overloaded", 429, REQUEST)                                      \
    X(E_MODEL, -11, "the model file is unusable", 500, MODEL)                       \
    X(E_NUMERIC, -12, "the model produced no finite numbers", 500, SEQUENCE)        \
    X(E_DEVICE, -13, "the device failed", 503, DEVICE)                              \
    X(E_SHUTDOWN, -14, "shutting down", 503, REQUEST)                               \
    X(E_INTERNAL, -15, "internal error", 500, REQUEST)

typedef enum imp_status {
#define IMP_X(name, num, text, http, reach) IMP_##name = num,
    IMP_STATUS_LIST(IMP_X)
#undef IMP_X
} imp_status;

typedef enum imp_reach { IMP_REACH_REQUEST, IMP_REACH_SEQUENCE, IMP_REACH_MODEL, IMP_REACH_DEVICE } imp_reach;

/* A failure and its sentence ("what: why, wanted, got"). Zero-initialise; the first failure written stays. */
typedef struct imp_err {
    imp_status status;
    char message[1020];
} imp_err;

IMP_API const char *imp_version(void);
IMP_API const char *imp_status_text(imp_status s);
IMP_API int imp_status_http(imp_status s);
IMP_API imp_reach imp_status_reach(imp_status s);

#ifdef __cplusplus
}
#endif
#endif

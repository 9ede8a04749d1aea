/* log: library code does not print. It hands lines to a sink that the front end installs; without one they vanish. */
#ifndef IMP_BASE_LOG_H
#define IMP_BASE_LOG_H

#include "imp.h"

typedef imp_log_level log_level;
#define LOG_DEBUG IMP_LOG_DEBUG
#define LOG_INFO IMP_LOG_INFO
#define LOG_WARN IMP_LOG_WARN
#define LOG_ERROR IMP_LOG_ERROR
typedef imp_log_fn log_fn;
typedef struct log_sink {
    log_fn fn; /* may be NULL */
    void *user;
} log_sink;

void log_line(const log_sink *sink, log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif

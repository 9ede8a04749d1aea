/* log: library code does not print. It hands lines to a sink that the front end installs; without one they vanish. */
#ifndef IMP_BASE_LOG_H
#define IMP_BASE_LOG_H

typedef enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR } log_level;
typedef void (*log_fn)(void *user, log_level level, const char *line);
typedef struct log_sink {
    log_fn fn; /* may be NULL */
    void *user;
} log_sink;

void log_line(const log_sink *sink, log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif

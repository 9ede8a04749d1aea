/* clock: monotonic time in nanoseconds and microseconds; wall time for people. */
#ifndef IMP_BASE_CLOCK_H
#define IMP_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static inline double clock_s(void) { return (double)clock_ns() * 1e-9; }
static inline int64_t clock_unix_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec;
}

#endif

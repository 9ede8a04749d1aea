/* ck: checked arithmetic for sizes that come from files and sockets. Each returns true when the result fits. */
#ifndef IMP_BASE_CK_H
#define IMP_BASE_CK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool ck_mul(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool ck_add(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool ck_mul_sz(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool ck_add_sz(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
/* Rounds up to a power of two; false when the result would not fit. */
static inline bool ck_align(uint64_t a, uint64_t pow2, uint64_t *out)
{
    if (__builtin_add_overflow(a, pow2 - 1, out))
        return false;
    *out &= ~(pow2 - 1);
    return true;
}
/* Is [off, off+n) inside a region of `size` bytes? Subtracts, so that it cannot wrap. */
static inline bool ck_range(uint64_t off, uint64_t n, uint64_t size) { return off <= size && n <= size - off; }

#define CK_COUNT(a) (sizeof(a) / sizeof((a)[0]))

#endif

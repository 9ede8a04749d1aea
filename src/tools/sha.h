/* sha: SHA-256 and SHA-1 (FIPS 180-4) of data that comes in pieces, to check downloads. A hub names large files by
 * their SHA-256 and small ones as git does, by a SHA-1; both guard against accidents here, not against forgers of
 * SHA-1. Pure; a sha belongs to its caller. */
#ifndef IMP_TOOLS_SHA_H
#define IMP_TOOLS_SHA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sha {
    bool is_256;
    uint32_t h[8];
    uint64_t n;       /* bytes so far */
    uint8_t block[64];
} sha;

void sha256_init(sha *s);
void sha1_init(sha *s);
void sha_add(sha *s, const void *data, size_t n);
void sha_hex(sha *s, char out[65]); /* ends it; 64 or 40 digits */

#endif

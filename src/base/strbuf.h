/* strbuf: a growing byte string, NUL-terminated for convenience (bytes inside may be zero).
 * Zero-initialise. On allocation failure `failed` is set and stays set; later appends do nothing, so check once. */
#ifndef IMP_BASE_STRBUF_H
#define IMP_BASE_STRBUF_H

#include <stdbool.h>
#include <stddef.h>

typedef struct strbuf {
    char *s;    /* never NULL after the first successful append; owned */
    size_t n;   /* bytes in use, without the NUL */
    size_t cap;
    size_t max; /* 0 = no limit; an append that would pass it sets `failed` */
    bool failed;
} strbuf;

void sb_add(strbuf *b, const void *s, size_t n);
void sb_str(strbuf *b, const char *s);
void sb_char(strbuf *b, char c);
void sb_printf(strbuf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sb_utf8(strbuf *b, unsigned cp);     /* one code point */
void sb_clear(strbuf *b);                 /* keeps the memory, clears `failed` */
char *sb_take(strbuf *b);                 /* gives the string to the caller (mem_free), empties b; NULL when failed */
void sb_free(strbuf *b);

#endif

#include "base/strbuf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

static bool grow(strbuf *b, size_t n)
{
    if (b->failed || n >= (size_t)-1 - b->n - 1 || (b->max && n > b->max - b->n)) {
        b->failed = true;
        return false;
    }
    size_t need = b->n + n + 1;
    if (need <= b->cap)
        return true;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need)
        cap = cap > (size_t)-1 / 2 ? need : cap * 2;
    char *s = mem_realloc(b->s, cap);
    if (!s) {
        b->failed = true;
        return false;
    }
    b->s = s;
    b->cap = cap;
    return true;
}

void sb_add(strbuf *b, const void *s, size_t n)
{
    if (!grow(b, n))
        return;
    if (n)
        memcpy(b->s + b->n, s, n);
    b->n += n;
    b->s[b->n] = 0;
}

void sb_str(strbuf *b, const char *s) { sb_add(b, s, strlen(s)); }
void sb_char(strbuf *b, char c) { sb_add(b, &c, 1); }

void sb_printf(strbuf *b, const char *fmt, ...)
{
    va_list ap, ap2;
    va_start(ap, fmt);
    va_copy(ap2, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n >= 0 && grow(b, (size_t)n)) {
        vsnprintf(b->s + b->n, (size_t)n + 1, fmt, ap2);
        b->n += (size_t)n;
    }
    va_end(ap2);
}

void sb_utf8(strbuf *b, unsigned cp)
{
    char t[4];
    sb_add(b, t, utf8_put(cp, t));
}

void sb_clear(strbuf *b)
{
    b->n = 0;
    b->failed = false;
    if (b->s)
        b->s[0] = 0;
}

char *sb_take(strbuf *b)
{
    if (!b->s)
        sb_add(b, "", 0);
    char *s = b->failed ? NULL : b->s;
    if (!s)
        mem_free(b->s);
    *b = (strbuf){.max = b->max};
    return s;
}

void sb_free(strbuf *b)
{
    mem_free(b->s);
    *b = (strbuf){0};
}

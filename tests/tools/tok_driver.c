/* tok_driver: lets a script drive a tokenizer. Usage: tok_driver MODEL < lines. One answer a line:
 *   E FLAGS HEX   encode the bytes; answer: ids, then "|" and the decoded text in hex four times:
 *                 decode, decode with special tokens, the same two by streaming
 *   D ID...       decode ids; answer: the same four fields
 *   L N HEX       encode HEX repeated until N bytes; answer: number of ids and seconds */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "text/tok.h"

static void put_hex(const strbuf *b)
{
    putchar('|');
    for (size_t i = 0; i < b->n; i++)
        printf("%02x", (unsigned char)b->s[i]);
}

static void put_texts(const tok *t, const tok_ids *v)
{
    strbuf b = {0};
    for (int keep = 0; keep < 2; keep++) {
        sb_clear(&b);
        tok_decode(t, v->id, v->n, keep, &b, NULL);
        put_hex(&b);
    }
    for (int keep = 0; keep < 2; keep++) {
        tok_stream s;
        sb_clear(&b);
        tok_stream_init(&s, t, keep);
        for (size_t i = 0; i < v->n; i++)
            tok_stream_push(&s, v->id[i], &b);
        tok_stream_flush(&s, &b);
        put_hex(&b);
    }
    sb_free(&b);
    putchar('\n');
}

static size_t unhex(char *s)
{
    size_t n = 0;
    for (; s[0] && s[1] && s[0] != '\n'; s += 2, n++) {
        char two[3] = {s[0], s[1], 0};
        s[-(long)n] = (char)strtol(two, NULL, 16);
    }
    return n;
}

int main(int argc, char **argv)
{
    imp_err e = {0};
    modelfile *mf = NULL;
    tok *t = NULL;
    if (argc != 2)
        return 2;
    double t0 = clock_s();
    if (mf_open(&mf, argv[1], &e) != IMP_OK) {
        fprintf(stderr, "%s\n", e.message);
        return 1;
    }
    double t1 = clock_s();
    if (tok_new(&t, mf, &e) != IMP_OK) {
        fprintf(stderr, "%s\n", e.message);
        return 1;
    }
    fprintf(stderr, "open %.1f ms, tokenizer %.1f ms, %d tokens\n", (t1 - t0) * 1e3, (clock_s() - t1) * 1e3,
            tok_vocab_size(t));
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, stdin) > 0) {
        tok_ids v = {0};
        char *p = line + 1;
        if (line[0] == 'E') {
            unsigned flags = (unsigned)strtoul(p, &p, 10);
            p += *p == ' ';
            size_t n = unhex(p);
            if (tok_encode(t, p, n, flags, &v, &e) != IMP_OK)
                printf("error %s", e.message);
            for (size_t i = 0; i < v.n; i++)
                printf(i ? " %d" : "%d", v.id[i]);
            put_texts(t, &v);
        } else if (line[0] == 'D') {
            for (char *q; *p && *p != '\n'; p = q) {
                long id = strtol(p, &q, 10);
                if (q == p)
                    break;
                int32_t *g = mem_realloc(v.id, (v.n + 1) * sizeof *g);
                if (!g)
                    return 1;
                v.id = g;
                v.id[v.n++] = (int32_t)id;
            }
            put_texts(t, &v);
        } else if (line[0] == 'L') {
            size_t want = strtoul(p, &p, 10);
            p += *p == ' ';
            size_t n = unhex(p);
            strbuf b = {0};
            while (n && b.n < want)
                sb_add(&b, p, n);
            double s = clock_s();
            imp_status st = tok_encode(t, b.s, b.n, 0, &v, &e);
            printf("%zu %.3f %d\n", v.n, clock_s() - s, (int)st);
            sb_free(&b);
        }
        tok_ids_free(&v);
        fflush(stdout);
    }
    free(line);
    tok_free(t);
    mf_close(mf);
    return 0;
}

#include "engine/stream.h"

#include <string.h>

void stream_init(stream *s, const tok *t, bool keep_special, const char *const *stop, uint32_t n_stop)
{
    *s = (stream){.stop = stop, .n_stop = n_stop, .has_tok = t != NULL};
    if (t)
        tok_stream_init(&s->tok, t, keep_special);
    for (uint32_t i = 0; i < n_stop; i++) {
        size_t n = strlen(stop[i]);
        if (n > s->longest)
            s->longest = n;
    }
}

/* First place where any stop string is complete; of two at one place the one listed first. */
static const char *find_stop(stream *s)
{
    const char *best = NULL;
    for (uint32_t i = 0; i < s->n_stop; i++) {
        size_t n = strlen(s->stop[i]);
        const char *p = n && n <= s->held.n ? memmem(s->held.s, s->held.n, s->stop[i], n) : NULL;
        if (p && (!best || p < best)) {
            best = p;
            s->hit = s->stop[i];
        }
    }
    return best;
}

/* Bytes at the end that are a proper beginning of some stop string. */
static size_t undecided(const stream *s)
{
    size_t max = s->longest ? s->longest - 1 : 0;
    if (max > s->held.n)
        max = s->held.n;
    for (size_t k = max; k > 0; k--)
        for (uint32_t i = 0; i < s->n_stop; i++)
            if (strlen(s->stop[i]) > k && memcmp(s->held.s + s->held.n - k, s->stop[i], k) == 0)
                return k;
    return 0;
}

/* What the last call handed out goes now: the caller has read it in between. */
static void drop_delivered(stream *s)
{
    if (!s->given)
        return;
    memmove(s->held.s, s->held.s + s->given, s->held.n - s->given);
    s->held.n -= s->given;
    s->given = 0;
}

static bool take(stream *s, size_t keep, const char **text, size_t *n)
{
    *n = s->given = s->held.n - keep;
    *text = s->held.s ? s->held.s : "";
    return s->hit != NULL;
}

bool stream_push(stream *s, int32_t id, const char **text, size_t *n)
{
    drop_delivered(s);
    if (s->has_tok)
        tok_stream_push(&s->tok, id, &s->held);
    const char *stop = find_stop(s);
    if (stop)
        return take(s, s->held.n - (size_t)(stop - s->held.s), text, n);
    return take(s, undecided(s), text, n);
}

bool stream_flush(stream *s, const char **text, size_t *n)
{
    drop_delivered(s);
    if (s->has_tok && !s->hit)
        tok_stream_flush(&s->tok, &s->held);
    const char *stop = find_stop(s);
    return take(s, stop ? s->held.n - (size_t)(stop - s->held.s) : 0, text, n);
}

void stream_free(stream *s) { sb_free(&s->held); }

/* stream: from tokens to text that may be shown. Holds back unfinished characters and anything that could still become
 * a stop string, so that what was delivered is never taken back. Engine thread. */
#ifndef IMP_ENGINE_STREAM_H
#define IMP_ENGINE_STREAM_H

#include "text/tok.h"

typedef struct stream {
    tok_stream tok;
    bool has_tok;
    const char *const *stop;    /* borrowed from the request */
    uint32_t n_stop;
    size_t longest;             /* bytes of the longest stop string */
    strbuf held;                /* delivered by the last call (the first `given` bytes), then what is held back */
    size_t given;
    const char *hit;            /* the stop string that ended it */
} stream;

void stream_init(stream *s, const tok *t, bool keep_special, const char *const *stop, uint32_t n_stop);
/* Adds a token; *text, *n is what may be delivered now (valid until the next call). True: a stop string is complete. */
bool stream_push(stream *s, int32_t id, const char **text, size_t *n);
/* The rest, at the end of an answer that no stop string ended. */
bool stream_flush(stream *s, const char **text, size_t *n);
void stream_free(stream *s);

#endif

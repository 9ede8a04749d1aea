/* openai: what OpenAI's two endpoints share. Printers run on the pump thread, parsing on workers. */
#ifndef IMP_SERVER_OPENAI_H
#define IMP_SERVER_OPENAI_H

#include "base/jsonw.h"
#include "server/fields.h"

#define OPENAI_PING ":\n\n"

extern const field openai_fields[];                     /* rows of both endpoints, besides fields_sampling */
bool openai_settle(gen *g);                             /* stream_options without stream, best_of, ... */
void openai_usage(jw *w, const gen *g);                 /* the object */
void openai_timings(jw *w, const gen *g);
/* "data: {" id, object, created, model, system_fingerprint; the caller adds choices. */
void openai_chunk(jw *w, strbuf *out, const gen *g, const char *object);
void openai_head(jw *w, const gen *g, const char *object);
void openai_chunk_end(jw *w, strbuf *out, const gen *g, bool usage);
void openai_fail(gen *g, int http, const char *message, strbuf *out);
const char *openai_finish(const choice *c);
/* data: usage chunk when asked for, then [DONE]. */
void openai_end(gen *g, const char *object, strbuf *out);

#endif

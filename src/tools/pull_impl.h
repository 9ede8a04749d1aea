/* pull_impl: between pull.c (what to fetch, and where it goes) and pull_fetch.c (one file over the network). */
#ifndef IMP_TOOLS_PULL_IMPL_H
#define IMP_TOOLS_PULL_IMPL_H

#include "base/strbuf.h"
#include "tools/pull.h"
#include "tools/web.h"

typedef struct pull {
    const pull_params *par;
    const char *endpoint, *revision;
    const char *repo, *want;  /* want: after the colon, or NULL */
    const char *dir;          /* CACHE/models--ORG--NAME */
    arena *mem;
    web *w;
} pull;

/* GET of a small document into body; follows redirects. The status is checked. */
imp_status pull_fetch_text(pull *p, const char *url, strbuf *body, imp_err *e);
/* FILE of a commit into blobs and snapshots. n_bytes: its size; *fetched: what came over the network. */
imp_status pull_fetch_file(pull *p, const char *commit, const char *file, uint64_t *n_bytes, uint64_t *fetched,
                           imp_err *e);
/* Makes the folders above path. */
imp_status pull_make_parents(const char *path, imp_err *e);

#endif

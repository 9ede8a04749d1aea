/* pull: models from a Hugging Face-style hub, into a cache folder laid out as huggingface_hub does:
 *   models--ORG--NAME/refs/REVISION            the commit that a branch was last seen at
 *   models--ORG--NAME/blobs/ETAG               contents; ETAG.incomplete while it comes in, resumed next time
 *   models--ORG--NAME/snapshots/COMMIT/FILE    links into blobs
 * Blobs are checked against the SHA-256 (large files) or git's SHA-1 that the hub names them by, and appear whole or
 * not at all. Two processes may pull at once. Blocks; any thread; no state outside the folder. */
#ifndef IMP_TOOLS_PULL_H
#define IMP_TOOLS_PULL_H

#include "base/arena.h"
#include "base/status.h"

#define PULL_DEFAULT_ENDPOINT "https://huggingface.co"

typedef struct pull_params {
    const char *endpoint;  /* NULL = PULL_DEFAULT_ENDPOINT */
    const char *token;     /* NULL = none; goes to the endpoint's host only */
    const char *cache;     /* the folder that holds models--... */
    const char *revision;  /* NULL = "main" */
    imp_progress_fn progress; /* may be NULL */
    void *user;
} pull_params;

typedef struct pull_result {
    const char *path;      /* what to give to -m: a GGUF file, or a folder; in the arena */
    const char *commit;
    uint32_t n_files;
    uint64_t n_bytes;      /* of these files */
    uint64_t n_fetched;    /* of them, over the network this time */
} pull_result;

/* Does it look like REPO:FILE, with a REPO of the form ORG/NAME? */
bool pull_is_spec(const char *spec);
/* spec: REPO, REPO:FILE or REPO:TAG (a quantisation: "Q4_K_M"). Every file of a split set comes; a REPO without GGUF
 * files comes as its SafeTensors folder. Fails with IMP_E_NOTFOUND (repository, file), IMP_E_IO (network, disk,
 * checksum), IMP_E_CANCELLED, IMP_E_USAGE. */
imp_status pull_model(const pull_params *p, const char *spec, arena *mem, pull_result *out, imp_err *e);
/* The same from the cache alone: IMP_E_NOTFOUND when it is not all there. */
imp_status pull_cached(const pull_params *p, const char *spec, arena *mem, pull_result *out, imp_err *e);

#endif

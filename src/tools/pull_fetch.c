/* One file from a hub: its name by content (ETag), a part that grows and can be resumed, a checksum, a link. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "tools/pull_impl.h"
#include "tools/sha.h"

#define MAX_REDIRECTS 8
#define MAX_TRIES 5 /* of a connection that breaks off; each goes on where the last one stopped */
#define SPACE_TO_LEAVE ((uint64_t)16 << 20)

static imp_status sys_error(imp_err *e, const char *path)
{
    return err_set(e, IMP_E_IO, "%s: %s", path, strerror(errno));
}

imp_status pull_make_parents(const char *path, imp_err *e)
{
    char *dir = mem_strdup(path);
    if (!dir)
        return err_oom(e, path, strlen(path));
    imp_status s = IMP_OK;
    for (char *p = strchr(dir + 1, '/'); p && s == IMP_OK; p = strchr(p + 1, '/')) {
        *p = 0;
        if (mkdir(dir, 0777) && errno != EEXIST)
            s = sys_error(e, dir);
        *p = '/';
    }
    mem_free(dir);
    return s;
}

/* scheme://host:port of a URL. */
static size_t origin_length(const char *url)
{
    const char *host = strstr(url, "://");
    return host ? (size_t)(host + 3 - url) + strcspn(host + 3, "/?#") : 0;
}

static bool same_origin(const char *a, const char *b)
{
    size_t n = origin_length(a);
    return n && n == origin_length(b) && memcmp(a, b, n) == 0;
}

static imp_status status_error(const pull *p, const char *url, const web_answer *a, imp_err *e)
{
    const char *more = a->error_text[0] ? a->error_text : "";
    if (a->status == 401 || a->status == 403)
        return err_set(e, IMP_E_NOTFOUND, "%s: the hub answers %d: %s%s%s", p->repo, a->status,
                       p->par->token ? "HF_TOKEN does not open it"
                                     : "it does not exist, or needs a token: set HF_TOKEN",
                       *more ? "; " : "", more);
    if (a->status == 404)
        return err_set(e, IMP_E_NOTFOUND, "%s: not found on %s%s%s", p->repo, p->endpoint, *more ? "; " : "", more);
    return err_set(e, IMP_E_IO, "%s: the hub answers %d%s%s", url, a->status, *more ? "; " : "", more);
}

/* One request with its redirects. A HEAD stops at a redirect that names the file's content. */
static imp_status exchange(pull *p, const char *url, web_request *r, web_answer *a, imp_err *e)
{
    char at[4096];
    if (strlen(url) >= sizeof at)
        return err_set(e, IMP_E_LIMIT, "%.60s...: the address is too long", url);
    memcpy(at, url, strlen(url) + 1);
    for (int i = 0; i < MAX_REDIRECTS; i++) {
        r->url = at;
        r->token = same_origin(at, p->endpoint) ? p->par->token : NULL;
        imp_status s = web_get(p->w, r, a, e);
        if (s != IMP_OK || a->status < 300 || a->status > 399 || !a->location[0] || (r->head && a->linked_etag[0]))
            return s;
        memcpy(at, a->location, strlen(a->location) + 1);
    }
    return err_set(e, IMP_E_IO, "%s: more than %d redirects", url, MAX_REDIRECTS);
}

/* ---- small documents -------------------------------------------------------------------------------------------- */
typedef struct text_sink {
    const pull *p;
    strbuf *out;
} text_sink;

static bool add_text(void *user, int status, const void *data, size_t n)
{
    (void)status;
    sb_add(((text_sink *)user)->out, data, n);
    return !((text_sink *)user)->out->failed;
}

static bool ask_on(const pull *p, const char *what, uint64_t done, uint64_t total)
{
    return !p->par->progress || p->par->progress(p->par->user, what, done, total);
}

static bool text_go_on(void *user) { return ask_on(((text_sink *)user)->p, "asking the hub", 0, 1); }

imp_status pull_fetch_text(pull *p, const char *url, strbuf *body, imp_err *e)
{
    text_sink t = {p, body};
    web_request r = {.body = add_text, .go_on = text_go_on, .user = &t};
    web_answer a;
    imp_err why = {0};
    imp_status s = exchange(p, url, &r, &a, &why);
    if (body->failed)
        return err_set(e, IMP_E_LIMIT, "%s: the answer is too long", url);
    if (s != IMP_OK)
        return err_set(e, s, "%s", why.message);
    return a.status == 200 ? IMP_OK : status_error(p, url, &a, e);
}

/* ---- one file --------------------------------------------------------------------------------------------------- */
typedef struct part {
    pull *p;
    const char *label, *path;
    int fd;
    uint64_t n, size, fetched;  /* in the part; of the whole; over the network */
    sha sum;
    bool check;                 /* the ETag is a checksum */
    int failed;                 /* errno of a write */
    bool too_long;
} part;

static void begin_sum(part *t, const char *etag)
{
    size_t n = strlen(etag);
    t->check = (n == 64 || n == 40) && strspn(etag, "0123456789abcdef") == n;
    if (n == 64) {
        sha256_init(&t->sum);
    } else { /* git's name of a file: over "blob SIZE" and a zero byte, then the bytes */
        char head[40];
        sha1_init(&t->sum);
        sha_add(&t->sum, head, (size_t)snprintf(head, sizeof head, "blob %llu", (unsigned long long)t->size) + 1);
    }
}

static bool add_part(void *user, int status, const void *data, size_t n)
{
    part *t = user;
    (void)status;
    if (n > t->size - t->n) {
        t->too_long = true;
        return false;
    }
    for (size_t done = 0; done < n;) {
        ssize_t k = write(t->fd, (const char *)data + done, n - done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0) {
            t->failed = errno;
            return false;
        }
        done += (size_t)k;
    }
    sha_add(&t->sum, data, n);
    t->n += n;
    t->fetched += n;
    return true;
}

/* The first piece of an answer tells whether the server goes on where we stopped or begins anew. */
static bool begin_part(void *user, int status, const void *data, size_t n);

typedef struct resumed {
    part *t;
    const char *etag;
    bool begun;
} resumed;

static bool begin_part(void *user, int status, const void *data, size_t n)
{
    resumed *r = user;
    part *t = r->t;
    if (!r->begun && status != 206 && t->n) {
        if (ftruncate(t->fd, 0) || lseek(t->fd, 0, SEEK_SET) < 0) {
            t->failed = errno;
            return false;
        }
        t->n = 0;
        begin_sum(t, r->etag);
    }
    r->begun = true;
    return add_part(t, status, data, n);
}

static bool part_go_on(void *user)
{
    part *t = ((resumed *)user)->t;
    return ask_on(t->p, t->label, t->n, t->size);
}

/* What an earlier run left: counts towards the sum. */
static imp_status read_part(part *t, const char *etag, imp_err *e)
{
    struct stat st;
    if (fstat(t->fd, &st))
        return sys_error(e, t->path);
    if ((uint64_t)st.st_size > t->size && ftruncate(t->fd, 0))
        return sys_error(e, t->path);
    begin_sum(t, etag);
    size_t cap = 1 << 20;
    char *buf = mem_alloc(cap);
    if (!buf)
        return err_oom(e, "buffer", cap);
    imp_status s = IMP_OK;
    for (ssize_t k; s == IMP_OK && (k = read(t->fd, buf, cap)) != 0;) {
        if (k < 0 && errno != EINTR)
            s = sys_error(e, t->path);
        if (k > 0) {
            sha_add(&t->sum, buf, (size_t)k);
            t->n += (uint64_t)k;
            if (!ask_on(t->p, t->label, t->n, t->size))
                s = err_set(e, IMP_E_CANCELLED, "stopped");
        }
    }
    mem_free(buf);
    return s;
}

static imp_status check_space(const part *t, imp_err *e)
{
    struct statvfs v;
    if (fstatvfs(t->fd, &v))
        return IMP_OK; /* a file system that does not tell */
    uint64_t have = (uint64_t)v.f_bavail * v.f_frsize, need = t->size - t->n;
    if (need > have || have - need < SPACE_TO_LEAVE)
        return err_set(e, IMP_E_IO, "%s: no space: %.1f MB are still to come, %.1f MB are free", t->path,
                       (double)need / 1e6, (double)have / 1e6);
    return IMP_OK;
}

/* Tries until the part is whole. */
static imp_status fill_part(part *t, const char *url, const char *etag, imp_err *e)
{
    imp_status s = IMP_OK;
    for (int tries = 0; t->n < t->size; tries++) {
        resumed r = {.t = t, .etag = etag};
        web_request q = {.from = t->n, .body = begin_part, .go_on = part_go_on, .user = &r};
        web_answer a;
        imp_err why = {0};
        uint64_t before = t->fetched;
        s = exchange(t->p, url, &q, &a, &why);
        if (t->failed)
            return err_set(e, IMP_E_IO, "%s: %s", t->path, strerror(t->failed));
        if (t->too_long)
            return err_set(e, IMP_E_IO, "%s: more bytes came than the %llu that the hub announced", url,
                           (unsigned long long)t->size);
        if (s == IMP_E_CANCELLED)
            return err_set(e, s, "%s: stopped at %.1f of %.1f MB; the same command goes on from there", t->label,
                           (double)t->n / 1e6, (double)t->size / 1e6);
        if (s == IMP_OK && a.status != 200 && a.status != 206)
            return status_error(t->p, url, &a, e);
        if (t->fetched > before)
            tries = 0;
        if (t->n < t->size && tries >= MAX_TRIES)
            return err_set(e, IMP_E_IO, "%s", s == IMP_OK ? "the connection ends before the file does" : why.message);
        if (t->n < t->size && t->fetched == before)
            usleep(200000u << (tries < 4 ? tries : 4));
    }
    return IMP_OK;
}

static imp_status check_part(part *t, const char *etag, imp_err *e)
{
    char got[65] = "";
    if (t->check)
        sha_hex(&t->sum, got);
    if (t->check && strcmp(got, etag)) {
        unlink(t->path); /* no part of it can be trusted */
        return err_set(e, IMP_E_IO, "%s: the checksum is wrong: wanted %s, got %s; it was deleted, try again", t->label,
                       etag, got);
    }
    return fsync(t->fd) && errno != EINVAL ? sys_error(e, t->path) : IMP_OK;
}

static imp_status fetch_blob(pull *p, const char *url, const char *file, const char *etag, uint64_t size,
                             const char *blob, uint64_t *fetched, imp_err *e)
{
    part t = {.p = p, .size = size, .label = arena_printf(p->mem, "%s (%.1f MB)", file, (double)size / 1e6),
              .path = arena_printf(p->mem, "%s.incomplete", blob)};
    if (!t.label || !t.path)
        return err_oom(e, file, strlen(file));
    imp_status s = pull_make_parents(blob, e);
    if (s != IMP_OK)
        return s;
    t.fd = open(t.path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (t.fd < 0)
        return sys_error(e, t.path);
    if (flock(t.fd, LOCK_EX | LOCK_NB))
        s = err_set(e, IMP_E_BUSY, "%s: another process is fetching it", file);
    if (s == IMP_OK)
        s = read_part(&t, etag, e);
    if (s == IMP_OK)
        s = check_space(&t, e);
    if (s == IMP_OK)
        s = fill_part(&t, url, etag, e);
    if (s == IMP_OK)
        s = check_part(&t, etag, e);
    if (s == IMP_OK && rename(t.path, blob))
        s = sys_error(e, blob);
    struct stat st;
    if (s != IMP_OK && fstat(t.fd, &st) == 0 && st.st_size == 0)
        unlink(t.path); /* an empty part is no use to anybody */
    close(t.fd);
    if (s == IMP_OK)
        ask_on(p, t.label, t.size, t.size);
    *fetched = t.fetched;
    return s;
}

/* Quotes and a weak mark go; what is left must be fit for a file name. */
static const char *clean_etag(pull *p, const web_answer *a)
{
    const char *s = a->linked_etag[0] ? a->linked_etag : a->etag;
    if (strncmp(s, "W/", 2) == 0)
        s += 2;
    size_t n = strlen(s);
    if (n >= 2 && s[0] == '"' && s[n - 1] == '"') {
        s++;
        n -= 2;
    }
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && !strchr("-_", s[i]))
            return NULL;
    return n && n <= 128 ? arena_strndup(p->mem, s, n) : NULL;
}

/* snapshots/COMMIT/a/b.gguf -> ../../../blobs/ETAG */
static imp_status link_snapshot(pull *p, const char *commit, const char *file, const char *etag, imp_err *e)
{
    strbuf to = {0};
    sb_str(&to, "../../");
    for (const char *c = strchr(file, '/'); c; c = strchr(c + 1, '/'))
        sb_str(&to, "../");
    sb_printf(&to, "blobs/%s", etag);
    char *path = arena_printf(p->mem, "%s/snapshots/%s/%s", p->dir, commit, file);
    char *tmp = arena_printf(p->mem, "%s/snapshots/%s/%s.tmp.%ld", p->dir, commit, file, (long)getpid());
    imp_status s = to.failed || !path || !tmp ? err_oom(e, file, strlen(file)) : pull_make_parents(path, e);
    if (s == IMP_OK && (symlink(to.s, tmp) || rename(tmp, path))) {
        s = sys_error(e, path);
        unlink(tmp);
    }
    sb_free(&to);
    return s;
}

static char *file_url(pull *p, const char *commit, const char *file)
{
    strbuf b = {0};
    sb_printf(&b, "%s/%s/resolve/%s/", p->endpoint, p->repo, commit);
    for (const char *c = file; *c; c++)
        sb_printf(&b, isalnum((unsigned char)*c) || strchr("-._~/", *c) ? "%c" : "%%%02X", (unsigned char)*c);
    char *url = b.failed ? NULL : arena_strdup(p->mem, b.s);
    sb_free(&b);
    return url;
}

imp_status pull_fetch_file(pull *p, const char *commit, const char *file, uint64_t *n_bytes, uint64_t *fetched,
                           imp_err *e)
{
    char *url = file_url(p, commit, file);
    if (!url)
        return err_oom(e, file, strlen(file));
    text_sink t = {p, NULL};
    web_request r = {.head = true, .go_on = text_go_on, .user = &t};
    web_answer a;
    imp_status s = exchange(p, url, &r, &a, e);
    if (s != IMP_OK)
        return s;
    if (a.status >= 400 || (a.status >= 300 && !a.linked_etag[0]))
        return status_error(p, url, &a, e);
    const char *etag = clean_etag(p, &a);
    int64_t size = a.linked_size >= 0 ? a.linked_size : a.length;
    if (!etag || size < 0)
        return err_set(e, IMP_E_IO, "%s: the hub tells no %s", url, etag ? "size" : "usable ETag");
    *n_bytes = (uint64_t)size;
    *fetched = 0;
    char *blob = arena_printf(p->mem, "%s/blobs/%s", p->dir, etag);
    if (!blob)
        return err_oom(e, file, strlen(file));
    struct stat st;
    if (stat(blob, &st) || (uint64_t)st.st_size != *n_bytes)
        s = fetch_blob(p, url, file, etag, *n_bytes, blob, fetched, e);
    return s == IMP_OK ? link_snapshot(p, commit, file, etag, e) : s;
}

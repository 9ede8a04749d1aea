#include "tools/web.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"

/* The part of libcurl's binary interface that we use; the numbers never change within libcurl.so.4. */
enum {
    OPT_WRITEDATA = 10001, OPT_URL = 10002, OPT_ERRORBUFFER = 10010, OPT_USERAGENT = 10018,
    OPT_LOW_SPEED_LIMIT = 19, OPT_LOW_SPEED_TIME = 20, OPT_HTTPHEADER = 10023, OPT_HEADERDATA = 10029,
    OPT_NOPROGRESS = 43, OPT_NOBODY = 44, OPT_FOLLOWLOCATION = 52, OPT_XFERINFODATA = 10057,
    OPT_CONNECTTIMEOUT = 78, OPT_NOSIGNAL = 99, OPT_PROTOCOLS = 181, OPT_WRITEFUNCTION = 20011,
    OPT_HEADERFUNCTION = 20079, OPT_XFERINFOFUNCTION = 20219, OPT_RANGE = 10007
};
enum { INFO_RESPONSE_CODE = 0x200002, INFO_REDIRECT_URL = 0x10001f };
enum { GLOBAL_DEFAULT = 3, PROTO_HTTP = 1, PROTO_HTTPS = 2, ERROR_SIZE = 256 };

struct web {
    void *curl;
    int (*global_init)(long flags);
    void *(*easy_init)(void);
    void (*easy_reset)(void *);
    void (*easy_cleanup)(void *);
    int (*easy_setopt)(void *, int, ...);
    int (*easy_getinfo)(void *, int, ...);
    int (*easy_perform)(void *);
    const char *(*easy_strerror)(int);
    void *(*slist_append)(void *, const char *);
    void (*slist_free_all)(void *);
};

imp_status web_open(web **out, imp_err *e)
{
    static const char *const names[] = {"libcurl.so.4", "libcurl-gnutls.so.4", "libcurl.so"};
    *out = NULL;
    void *lib = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !lib; i++)
        lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!lib)
        return err_set(e, IMP_E_UNSUPPORTED, "downloads need libcurl (libcurl.so.4), which is not here: "
                                             "install the package libcurl4");
    web *w = mem_calloc(1, sizeof *w);
    if (!w)
        return err_oom(e, "web", sizeof *w);
    const struct { const char *name; void *at; } symbols[] = {
        {"curl_global_init", &w->global_init}, {"curl_easy_init", &w->easy_init}, {"curl_easy_reset", &w->easy_reset},
        {"curl_easy_cleanup", &w->easy_cleanup}, {"curl_easy_setopt", &w->easy_setopt},
        {"curl_easy_getinfo", &w->easy_getinfo}, {"curl_easy_perform", &w->easy_perform},
        {"curl_easy_strerror", &w->easy_strerror}, {"curl_slist_append", &w->slist_append},
        {"curl_slist_free_all", &w->slist_free_all}};
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *p = dlsym(lib, symbols[i].name);
        if (!p) {
            mem_free(w);
            return err_set(e, IMP_E_UNSUPPORTED, "libcurl has no %s", symbols[i].name);
        }
        memcpy(symbols[i].at, &p, sizeof p); /* a function pointer, by POSIX's leave */
    }
    /* The library stays loaded: the TLS library under it runs code of its own when the process ends. */
    if (w->global_init(GLOBAL_DEFAULT) || !(w->curl = w->easy_init())) {
        mem_free(w);
        return err_set(e, IMP_E_UNSUPPORTED, "libcurl does not start");
    }
    *out = w;
    return IMP_OK;
}

void web_close(web *w)
{
    if (w)
        w->easy_cleanup(w->curl);
    mem_free(w);
}

/* ---- one exchange ----------------------------------------------------------------------------------------------- */
typedef struct exchange {
    web *w;
    const web_request *r;
    web_answer *a;
} exchange;

static size_t on_body(char *data, size_t size, size_t n, void *user)
{
    exchange *x = user;
    long status = 0;
    x->w->easy_getinfo(x->w->curl, INFO_RESPONSE_CODE, &status);
    if (!x->r->body || status < 200 || status > 299)
        return size * n;
    if (x->r->body(x->r->user, (int)status, data, size * n))
        return size * n;
    x->a->stopped = true;
    return 0;
}

static int64_t to_number(const char *s)
{
    char *end;
    long long v = strtoll(s, &end, 10);
    return end == s || v < 0 ? -1 : v;
}

static size_t on_header(char *data, size_t size, size_t n, void *user)
{
    web_answer *a = ((exchange *)user)->a;
    size_t len = size * n;
    const struct { const char *name; char *text; int64_t *number; } wanted[] = {
        {"etag:", a->etag, NULL}, {"x-linked-etag:", a->linked_etag, NULL}, {"x-repo-commit:", a->commit, NULL},
        {"x-error-message:", a->error_text, NULL}, {"content-length:", NULL, &a->length},
        {"x-linked-size:", NULL, &a->linked_size}, {"content-range:", NULL, &a->range_from}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        size_t k = strlen(wanted[i].name);
        if (len <= k || strncasecmp(data, wanted[i].name, k))
            continue;
        char value[WEB_MAX_HEADER];
        const char *s = data + k;
        size_t m = len - k;
        while (m && strchr(" \t", *s)) {
            s++;
            m--;
        }
        while (m && strchr(" \t\r\n", s[m - 1]))
            m--;
        if (m >= sizeof value)
            continue;
        memcpy(value, s, m);
        value[m] = 0;
        if (wanted[i].text)
            memcpy(wanted[i].text, value, m + 1);
        else
            *wanted[i].number = to_number(strncasecmp(value, "bytes ", 6) == 0 ? value + 6 : value);
    }
    return len;
}

static int on_progress(void *user, int64_t dl_total, int64_t dl, int64_t ul_total, int64_t ul)
{
    exchange *x = user;
    (void)dl_total, (void)dl, (void)ul_total, (void)ul;
    if (x->r->go_on && !x->r->go_on(x->r->user))
        x->a->stopped = true;
    return x->a->stopped;
}

/* Bearer header; NULL and *ok = false when memory ran out. */
static void *headers(web *w, const web_request *r, bool *ok)
{
    strbuf b = {0};
    void *list = NULL;
    *ok = true;
    if (r->token) {
        sb_printf(&b, "Authorization: Bearer %s", r->token);
        list = b.failed ? NULL : w->slist_append(NULL, b.s);
        *ok = list != NULL;
    }
    sb_free(&b);
    return list;
}

imp_status web_get(web *w, const web_request *r, web_answer *a, imp_err *e)
{
    *a = (web_answer){.length = -1, .linked_size = -1, .range_from = -1};
    exchange x = {w, r, a};
    char why[ERROR_SIZE] = "";
    bool ok;
    void *list = headers(w, r, &ok), *c = w->curl;
    if (!ok)
        return err_oom(e, "request", 0);
    w->easy_reset(c);
    w->easy_setopt(c, OPT_URL, r->url);
    w->easy_setopt(c, OPT_USERAGENT, "imp/" IMP_VERSION);
    w->easy_setopt(c, OPT_HTTPHEADER, list);
    w->easy_setopt(c, OPT_NOBODY, r->head ? 1L : 0L);
    w->easy_setopt(c, OPT_FOLLOWLOCATION, 0L);
    w->easy_setopt(c, OPT_PROTOCOLS, (long)(PROTO_HTTP | PROTO_HTTPS));
    w->easy_setopt(c, OPT_CONNECTTIMEOUT, 30L);
    w->easy_setopt(c, OPT_LOW_SPEED_LIMIT, 1L); /* nothing for a minute: gone */
    w->easy_setopt(c, OPT_LOW_SPEED_TIME, 60L);
    w->easy_setopt(c, OPT_NOSIGNAL, 1L);
    w->easy_setopt(c, OPT_ERRORBUFFER, why);
    w->easy_setopt(c, OPT_WRITEFUNCTION, on_body);
    w->easy_setopt(c, OPT_WRITEDATA, &x);
    w->easy_setopt(c, OPT_HEADERFUNCTION, on_header);
    w->easy_setopt(c, OPT_HEADERDATA, &x);
    w->easy_setopt(c, OPT_NOPROGRESS, 0L);
    w->easy_setopt(c, OPT_XFERINFOFUNCTION, on_progress);
    w->easy_setopt(c, OPT_XFERINFODATA, &x);
    char range[32];
    snprintf(range, sizeof range, "%llu-", (unsigned long long)r->from);
    if (r->from)
        w->easy_setopt(c, OPT_RANGE, range);
    int rc = w->easy_perform(c);
    long status = 0;
    char *redirect = NULL;
    w->easy_getinfo(c, INFO_RESPONSE_CODE, &status);
    w->easy_getinfo(c, INFO_REDIRECT_URL, &redirect);
    a->status = (int)status;
    if (redirect && strlen(redirect) < sizeof a->location)
        memcpy(a->location, redirect, strlen(redirect) + 1);
    w->slist_free_all(list);
    if (a->stopped)
        return err_set(e, IMP_E_CANCELLED, "stopped");
    if (rc) {
        a->cut = true;
        return err_set(e, IMP_E_IO, "%s: %s", r->url, why[0] ? why : w->easy_strerror(rc));
    }
    return IMP_OK;
}

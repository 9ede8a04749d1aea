/* web: HTTP through libcurl, which is opened with dlopen when first needed, so that a plain run does not load it.
 * A web belongs to one thread. It follows no redirect by itself: the caller decides where a token may go. */
#ifndef IMP_TOOLS_WEB_H
#define IMP_TOOLS_WEB_H

#include "base/status.h"
#include "base/strbuf.h"

typedef struct web web;

typedef struct web_request {
    const char *url;
    const char *token;      /* sent as "Authorization: Bearer"; NULL = none */
    bool head;
    uint64_t from;          /* > 0: "Range: bytes=FROM-" */
    /* A piece of the body of an answer with a 2xx status; false stops. NULL: the body is dropped. */
    bool (*body)(void *user, int status, const void *data, size_t n);
    bool (*go_on)(void *user); /* asked a few times a second; may be NULL */
    void *user;
} web_request;

#define WEB_MAX_HEADER 1024
typedef struct web_answer {
    int status;
    char location[4096];    /* of a redirect, absolute; "" = none */
    char etag[WEB_MAX_HEADER], linked_etag[WEB_MAX_HEADER], commit[WEB_MAX_HEADER], error_text[WEB_MAX_HEADER];
    int64_t length, linked_size, range_from; /* -1 = not said */
    bool stopped;           /* body or go_on said so */
    bool cut;               /* the connection ended before the body did; trying again may help */
} web_answer;

imp_status web_open(web **out, imp_err *e); /* IMP_E_UNSUPPORTED without libcurl */
void web_close(web *w);                     /* NULL is fine */
/* Any status of the server is IMP_OK; IMP_E_IO when there was no whole answer (see cut), IMP_E_CANCELLED when
 * stopped. */
imp_status web_get(web *w, const web_request *r, web_answer *a, imp_err *e);

#endif

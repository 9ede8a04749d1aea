/* Workers: parsing, rendering and tokenising, so that neither the I/O nor the engine thread does it. */
#include <string.h>

#include "base/mem.h"
#include "server/server_impl.h"

#define N_WORKER 3

static void *worker_main(void *arg)
{
    server *s = arg;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        while (!s->n_job && !atomic_load(&s->stop_jobs))
            pthread_cond_wait(&s->changed, &s->lock);
        if (!s->n_job) {
            pthread_mutex_unlock(&s->lock);
            return NULL;
        }
        call *c = s->job[s->job_head];
        s->job_head = (s->job_head + 1) % SERVER_MAX_JOBS;
        s->n_job--;
        pthread_mutex_unlock(&s->lock);
        pthread_mutex_lock(&c->lock);
        bool gone = c->gone;
        pthread_mutex_unlock(&c->lock);
        if (gone) {
            call_abort(c);
            call_unref(c);
        } else {
            c->route->work(c); /* takes the reference */
        }
    }
}

bool jobs_push(call *c)
{
    server *s = c->s;
    pthread_mutex_lock(&s->lock);
    bool ok = s->n_job < SERVER_MAX_JOBS;
    if (ok) {
        s->job[(s->job_head + s->n_job++) % SERVER_MAX_JOBS] = call_ref(c);
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return ok;
}

imp_status jobs_start(server *s, imp_err *e)
{
    s->job = mem_calloc(SERVER_MAX_JOBS, sizeof *s->job);
    if (!s->job)
        return err_oom(e, "server", SERVER_MAX_JOBS * sizeof *s->job);
    for (int i = 0; i < N_WORKER; i++) {
        int rc = pthread_create(&s->worker[i], NULL, worker_main, s);
        if (rc)
            return err_set(e, IMP_E_NOMEM, "server thread: %s", strerror(rc));
        s->n_worker++;
    }
    return IMP_OK;
}

void jobs_stop(server *s)
{
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->stop_jobs, true);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < s->n_worker; i++)
        pthread_join(s->worker[i], NULL);
    s->n_worker = 0;
    mem_free(s->job);
    s->job = NULL;
}

/* Ctrl-C and SIGTERM. imp_cancel takes a lock, so a signal handler may not call it: a thread waits for the signals
 * instead, and every other thread has them blocked. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"

static atomic_bool interrupted, gentle;
static _Atomic uint64_t current;
static imp_engine *_Atomic current_engine;

/* Function and user go together, so they are read under a lock; it is held while fn runs, so that fn's owner may go
 * away after cli_on_interrupt(NULL, NULL). */
static pthread_mutex_t hook_lock = PTHREAD_MUTEX_INITIALIZER;
static cli_interrupt_fn hook;
static void *hook_user;

void cli_interrupt_gently(bool on) { atomic_store(&gentle, on); }
bool cli_interrupted(void) { return atomic_load(&interrupted); }
void cli_set_request(uint64_t id) { atomic_store(&current, id); }
void cli_set_engine(imp_engine *g) { atomic_store(&current_engine, g); }

void cli_on_interrupt(cli_interrupt_fn fn, void *user)
{
    pthread_mutex_lock(&hook_lock);
    hook = fn;
    hook_user = user;
    pthread_mutex_unlock(&hook_lock);
}

static void end_program(int sig)
{
    cli_progress_end();
    _exit(sig == SIGTERM ? 143 : 130);
}

static void *wait_for_interrupt(void *arg)
{
    sigset_t *set = arg;
    for (int sig;;) {
        if (sigwait(set, &sig))
            continue;
        pthread_mutex_lock(&hook_lock);
        bool hooked = hook != NULL, taken = hooked && hook(hook_user, sig);
        pthread_mutex_unlock(&hook_lock);
        if (taken)
            continue;
        imp_engine *g = atomic_load(&current_engine);
        uint64_t id = atomic_load(&current);
        bool again = atomic_exchange(&interrupted, true), running = g && id;
        if (hooked || again || (!running && !atomic_load(&gentle)))
            end_program(sig);
        if (running)
            imp_cancel(g, id);
    }
    return NULL;
}

void cli_catch_interrupt(cli *c)
{
    static sigset_t set;
    (void)c;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* before any other thread exists, so that all inherit it */
    signal(SIGPIPE, SIG_IGN);               /* a closed pipe is a failed write, handled where it happens */
    pthread_t t;
    if (pthread_create(&t, NULL, wait_for_interrupt, &set) == 0)
        pthread_detach(t);
    else
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

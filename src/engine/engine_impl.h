/* engine_impl: what the engine's own files share. */
#ifndef IMP_ENGINE_ENGINE_IMPL_H
#define IMP_ENGINE_ENGINE_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "constrain/constrain.h"
#include "engine/blocks.h"
#include "engine/engine.h"
#include "engine/penalty.h"
#include "engine/prefix.h"
#include "engine/stream.h"

typedef struct seq seq;

/* A request as the engine keeps it: an own copy of everything the caller handed over. */
typedef struct request {
    struct request *next;      /* in engine.all */
    uint64_t id;
    imp_request r;             /* pointers point into mem */
    arena mem;
    imp_event_fn fn;
    void *user;
    atomic_bool cancelled;
    uint32_t n_left;           /* choices without their DONE event */
    constrain_prog *prog;      /* compiled constraint, shared by the choices; NULL = none */
    int64_t t_submit;
    bool started;
} request;

struct seq {
    seq *next;                 /* in its queue, oldest first */
    request *req;
    uint32_t choice;
    uint64_t age;              /* order of submission */
    int32_t *tok;              /* prompt, then what was generated */
    uint32_t n_tok, cap_tok, n_prompt, n_kv;
    uint32_t n_said;           /* tok[0..n_said) are the prompt and what was delivered; behind them are forced tokens
                                  on their way */
    int32_t *table[PLAN_MAX_GROUPS];
    int32_t table_len[PLAN_MAX_GROUPS], base[PLAN_MAX_GROUPS];
    prefix_at at;              /* its path in the prefix cache: the first at.depth blocks of its tables are
                                  the cache's too */
    uint32_t n_landed;         /* positions whose step has landed; <= n_kv */
    uint32_t n_cached;         /* prompt tokens that the cache had when it was first scheduled */
    bool looked_up;            /* n_cached is known */
    int32_t slot;              /* -1 while waiting */
    bool state_ready;          /* its state slot holds something */
    uint32_t n_step;           /* tokens in the step being built */
    uint32_t n_flight;         /* open steps that hold it */
    uint32_t n_pend;           /* tokens that open steps sample and that are not known yet */
    bool gone;                 /* finished while steps were open: freed with the last of them, req is NULL */
    bool visited;              /* had its chance in the step being built */
    stream text;
    penalty pen;
    sample_row_in sample;      /* this step's row */
    float mirostat_mu;
    constrain_state *constraint; /* NULL = none; it has taken all of tok behind the prompt */
    bool final;                /* its text is complete and nothing may follow */
    bool closed;               /* forced tokens end the answer: no token is chosen behind the last one */
    uint32_t *mask;            /* [(n_vocab + 31) / 32] of it */
    int64_t t_first_sched, t_first_token;
    uint32_t n_row;            /* logits rows already delivered (prompt positions) */
};

typedef struct seq_list {
    seq *head, *tail;
    uint32_t n;
} seq_list;

#define MAX_FLIGHT 2

/* A step from filling to its results. Its arrays are sized once for n_batch tokens; the backend reads them until
 * wait. */
typedef struct flight {
    batch b;
    int32_t *id, *seq_of, *kv_index, *vis_begin, *vis_end;
    int32_t (*pos)[3];
    uint8_t *cls;
    batch_seq *seqs;
    batch_row *rows;
    seq **row_seq;             /* [n_row] whose row it is */
    seq **owner;               /* [n_seq] whose tokens they are */
    uint32_t *from;            /* [n_seq] first position of them */
    float *logits;             /* [n_row][n_vocab] when rows of logits were asked for; made on first use */
    uint32_t *row_mask;        /* [n_row] masks that allow row_only[row] alone, for forced tokens; made on first use */
    int32_t *row_only;
    backend_ticket ticket;
} flight;

struct engine {
    model *m;
    const tok *tk;
    const log_sink *log_p;
    log_sink log;
    const backend_api *api;
    backend *be;
    bweight **w;               /* [text.n_weight] */
    kvcache *kv;
    bexec *exec;
    blocks blk[PLAN_MAX_GROUPS];
    int64_t grown[PLAN_MAX_GROUPS];
    prefix *prefix;            /* NULL: no prefix cache */
    bool cache_answers;        /* generated tokens' blocks serve prompts too: both classes share kernels */
    uint32_t n_ctx, n_seq, n_batch, n_row;
    int32_t block_size;
    double load_seconds;
    char describe[160];

    /* queue: under lock */
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    request *all;              /* every request without all its DONE events */
    seq_list incoming;         /* submitted, not yet seen by the thread */
    uint64_t next_id;
    bool stop;
    constrain_vocab *vocab;    /* made by the first constrained request, under vocab_lock */
    pthread_mutex_t vocab_lock;
    bool have_thread, have_sync;
    pthread_t thread;
    _Atomic uint32_t n_running, n_waiting;
    bool idle;                 /* under lock: the thread waits for work, no step is open */
    _Atomic uint64_t n_prompt_tok, n_query_tok, n_cached_tok, n_gen_tok, n_preempt, n_forced_tok;
    _Atomic int64_t blocks_used, blocks_cached;

    /* engine thread */
    seq_list waiting, running;
    seq **slot;                /* [n_seq] */
    _Atomic imp_status dead;   /* the device is lost: every request fails with this, and with the text,
                                  written before it */
    char dead_why[512];
    /* steps: cur is being filled, flight[first] is the oldest of n_open that are computed */
    flight flight[MAX_FLIGHT], *cur;
    uint32_t n_flight, first, n_open;
    bool drain;                /* a sequence needs room that only preemption gives, which waits for open steps */
    uint64_t n_step;           /* steps so far */
    imp_jump jump;
};

/* engine.c */
void seq_free(engine *g, seq *s);
void engine_event(seq *s, imp_event *ev);   /* fills in id and choice, delivers */
/* constraint.c: compiles a request's constraint (on the caller's thread), gives each choice its state, steers its
 * steps. */
imp_status constraint_compile(engine *g, request *q, imp_err *e);
imp_status constraint_attach(engine *g, seq *s, imp_err *e);
/* Fills s->mask; IMP_E_NUMERIC never: IMP_E_LIMIT when nothing can follow. */
imp_status constraint_mask(engine *g, seq *s);
/* Takes the chosen token; s->final: the text is complete and nothing may follow. */
imp_status constraint_accept(seq *s, int32_t id);
/* Appends the tokens that the constraint forces next (jump.h), up to cap_tok. */
imp_status constraint_jump(engine *g, seq *s, imp_err *e);
/* Forced tokens get rows of their own: somebody wants what the model thinks of them, or a test wants a step for
 * each. */
bool constraint_rows(const engine *g, const seq *s);
bool constraint_row_masks(const engine *g, flight *f); /* makes room for the next; false: out of memory */
/* The mask of batch row `row` that allows `id` alone. */
const uint32_t *constraint_only(const engine *g, flight *f, int32_t row, int32_t id);
/* kv.c: blocks for positions up to n_kv; false when there are not enough free or only cached ones. Drops what windows
 * no longer see. */
bool kv_reserve(engine *g, seq *s, uint32_t n_kv);
void kv_release(engine *g, seq *s);
/* The prefix cache (g->prefix must be there): gives s, which holds nothing yet, the longest computed prefix of its
 * tokens. */
void kv_reuse(engine *g, seq *s);
/* An earlier choice of the same request is computing what s could reuse. */
bool kv_twin_ahead(const engine *g, const seq *s);
/* The step that computed s's positions up to end has landed: its full blocks become reusable. */
void kv_landed(engine *g, seq *s, uint32_t end);
/* Makes g->prefix when it is asked for and the plan allows; after the blocks. */
imp_status kv_cache_open(engine *g, const imp_engine_params *p, imp_err *e);
/* step.c: fills and submits a step over the running sequences, and lands the oldest when as many are open as the
 * backend gains from: on a device the next step computes while the host reads the last one's results. */
void engine_step(engine *g);
void engine_finish(engine *g, seq *s, imp_finish why, imp_status status, const char *message);
void list_push(seq_list *l, seq *s);
void list_push_front(seq_list *l, seq *s);
void list_remove(seq_list *l, seq *s);

#endif

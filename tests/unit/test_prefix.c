/* IMP_TEST_BACKEND=cuda runs it on a GPU, with IMP_TEST_DETERMINISTIC also with answers in the cache;
 * models that the GPU does not run are passed over.
 * The prefix cache. Its tree alone: random sequences in pools so small that blocks are evicted all the time; every
 * block that is handed out must hold what its tokens say. And in the engine: answers have the bytes of an engine
 * without a cache, whatever is hit, evicted, preempted, salted, or asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/prefix.h"
#include "imp.h"
#include "open_model.h"

static uint64_t random_state = 1;
static uint32_t rnd(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

/* ---- the tree alone --------------------------------------------------------------------------------------------- */
enum { BS = 2, N_GROUP = 3, MAX_BLOCKS = 12, N_SIM = 4, MAX_POOL = 64 };
typedef struct sim {
    bool on;
    int32_t tok[MAX_BLOCKS * BS];
    uint32_t n_block, done; /* blocks of its tokens; computed so far */
    const char *salt;
    int32_t *table[N_GROUP], len[N_GROUP], base[N_GROUP], store[N_GROUP][MAX_BLOCKS];
    prefix_at at;
} sim;
typedef struct world {
    plan_kv_group group[N_GROUP];
    blocks blk[N_GROUP];
    prefix *p;
    uint64_t content[N_GROUP][MAX_POOL]; /* what was computed into a block: a digest of the salt and all tokens up to
                                            its end */
    uint64_t taken, evicted;
} world;

static uint64_t digest(const sim *s, uint32_t n_block)
{
    uint64_t h = s->salt ? (uint64_t)s->salt[0] : 7;
    for (uint32_t i = 0; i < n_block * BS; i++)
        h = h * 1099511628211u + (uint64_t)s->tok[i] + 1;
    return h;
}

static void sound(const world *w, const sim *s, const char *when)
{
    const char *fault = prefix_fault(w->p);
    if (fault)
        fail_msg("%s: %s", when, fault);
    for (int i = 0; i < N_GROUP; i++) {
        int32_t held = 0;
        for (int32_t b = 0; b < w->blk[i].n_total; b++)
            held += w->blk[i].ref[b] > 0;
        assert_int_equal(w->blk[i].n_free + held, w->blk[i].n_total);
        for (int k = 0; k < N_SIM; k++)
            for (int32_t j = 0; s[k].on && j < s[k].len[i]; j++)
                if (w->content[i][s[k].table[i][j]] != digest(&s[k], (uint32_t)(s[k].base[i] + j) + 1))
                    fail_msg("%s: group %d: block %d of a sequence holds other tokens", when, i, s[k].base[i] + j);
    }
}

static void drop(world *w, sim *s, int i, int32_t n)
{
    for (int32_t j = 0; j < n; j++) {
        blocks_drop(&w->blk[i], s->table[i][j]);
        prefix_dropped(w->p, i, s->table[i][j]);
    }
    memmove(s->table[i], s->table[i] + n, (size_t)(s->len[i] - n) * sizeof(int32_t));
    s->len[i] -= n;
    s->base[i] += n;
}

static void sim_end(world *w, sim *s)
{
    for (int i = 0; i < N_GROUP; i++)
        drop(w, s, i, s->len[i]);
    prefix_leave(w->p, &s->at);
    s->on = false;
}

static void sim_start(world *w, sim *s)
{
    static const char *const SALT[] = {NULL, NULL, "a", "b"};
    *s = (sim){.on = true, .n_block = 1 + rnd(MAX_BLOCKS), .salt = SALT[rnd(4)], .at = PREFIX_ROOT};
    for (uint32_t i = 0; i < s->n_block * BS; i++)
        s->tok[i] = rnd(8) == 0; /* mostly alike */
    for (int i = 0; i < N_GROUP; i++)
        s->table[i] = s->store[i];
    s->done = prefix_take(w->p, s->salt, s->tok, s->n_block, &s->at, s->table, s->len, s->base);
    w->taken += s->done;
    for (int i = 0; i < N_GROUP; i++) /* all that is seen from there on */
        assert_true(s->base[i] + s->len[i] == (int32_t)s->done && s->base[i] <= (int32_t)s->done);
}

/* Computes one block more; false: no room, and nothing changed that matters. */
static bool sim_step(world *w, sim *s)
{
    int32_t *entry[N_GROUP];
    for (int i = 0; i < N_GROUP; i++) {
        uint32_t win = w->group[i].window;
        int32_t from = win && s->done * BS + 1 > win ? (int32_t)((s->done * BS + 1 - win) / BS) : 0;
        if (from > s->base[i])
            drop(w, s, i, from - s->base[i]);
    }
    for (int i = 0; i < N_GROUP; i++) {
        int32_t b = blocks_take(&w->blk[i]);
        if (b < 0 && prefix_evict(w->p, i)) {
            w->evicted++;
            b = blocks_take(&w->blk[i]);
            assert_true(b >= 0); /* one eviction makes one block */
        }
        if (b < 0) {
            while (i-- > 0)
                blocks_drop(&w->blk[i], s->table[i][--s->len[i]]);
            return false;
        }
        assert_int_equal(w->blk[i].ref[b], 1);
        s->table[i][s->len[i]++] = b;
        w->content[i][b] = digest(s, s->done + 1);
        entry[i] = &s->table[i][s->len[i] - 1];
    }
    prefix_add(w->p, &s->at, s->salt, s->tok + s->done * BS, entry);
    s->done++;
    return true;
}

static void world_run(int32_t full, int32_t window, int32_t n_node, bool only_windows, bool alike)
{
    world w = {.group = {{.kind = KVG_FULL}, {.kind = KVG_WINDOW, .window = 5}, {.kind = KVG_LATENT}}};
    imp_err e = {0};
    sim s[N_SIM] = {0};
    if (only_windows)
        w.group[0] = w.group[2] = (plan_kv_group){.kind = KVG_WINDOW, .window = 4};
    for (int i = 0; i < N_GROUP; i++)
        assert_int_equal(blocks_init(&w.blk[i], w.group[i].window ? window : full, true, &e), IMP_OK);
    assert_int_equal(prefix_new(w.blk, w.group, N_GROUP, BS, n_node, &w.p, &e), IMP_OK);
    if (alike)
        prefix_hash_nothing(w.p);
    for (int step = 0; step < 6000; step++) {
        sim *x = &s[rnd(N_SIM)];
        if (!x->on)
            sim_start(&w, x);
        else if (x->done == x->n_block || !sim_step(&w, x) || rnd(20) == 0)
            sim_end(&w, x); /* over, preempted, or cancelled */
        sound(&w, s, "step");
    }
    assert_true(w.taken > 100 && w.evicted > 100);
    for (int k = 0; k < N_SIM; k++)
        if (s[k].on)
            sim_end(&w, &s[k]);
    for (int i = 0; i < N_GROUP; i++) /* all free or cached */
        assert_int_equal(w.blk[i].n_free + prefix_idle(w.p, i), w.blk[i].n_total);
    prefix_clear(w.p);
    sound(&w, s, "cleared");
    for (int i = 0; i < N_GROUP; i++) {
        assert_int_equal(w.blk[i].n_free, w.blk[i].n_total);
        blocks_free(&w.blk[i]);
    }
    prefix_free(w.p);
}

static void tree(void **state)
{
    (void)state;
    for (int alike = 0; alike < 2; alike++) {
        world_run(20, 12, 20, false, alike);
        world_run(MAX_POOL, 9, 30, false, alike); /* windows run short first, then nodes */
        world_run(14, MAX_POOL, 14, false, alike);
        world_run(20, 12, 25, true, alike);
    }
}

/* Least recently used goes first; what is on a path never does; a parent outlives its children. */
static void order(void **state)
{
    (void)state;
    plan_kv_group group = {.kind = KVG_FULL};
    blocks b;
    prefix *p;
    imp_err e = {0};
    int32_t store[4], one[1], *table = store, *second = one, len = 0, base = 0, *entry;
    assert_int_equal(blocks_init(&b, 4, false, &e), IMP_OK);
    assert_int_equal(prefix_new(&b, &group, 1, BS, 4, &p, &e), IMP_OK);
    static const int32_t TOK[3][4] = {{1, 2, 3, 4}, {1, 2, 5, 6}, {7, 8, 0, 0}};
    static const uint32_t N[3] = {2, 2, 1};
    for (int k = 0; k < 3; k++) { /* four nodes: 12, 1234, 1256, 78 */
        prefix_at at;
        uint32_t n = prefix_take(p, NULL, TOK[k], N[k], &at, &table, &len, &base);
        assert_int_equal(n, k == 1);
        for (; n < N[k]; n++) {
            store[n] = blocks_take(&b);
            entry = &store[n];
            prefix_add(p, &at, NULL, TOK[k] + n * BS, &entry);
        }
        for (uint32_t j = 0; j < N[k]; j++)
            blocks_drop(&b, store[j]);
        prefix_leave(p, &at);
    }
    assert_int_equal(b.n_free, 0);
    prefix_at at, other;
    len = base = 0;
    assert_int_equal(prefix_take(p, "salt", TOK[0], 2, &other, &table, &len, &base), 0);
    assert_int_equal(prefix_take(p, "", TOK[1], 2, &at, &table, &len, &base), 2); /* an empty salt is none */
    assert_true(prefix_evict(p, 0)); /* 1234: longer ago than 78 */
    assert_int_equal(prefix_take(p, NULL, TOK[2], 1, &other, &second, &len, &base), 1);
    blocks_drop(&b, one[0]);
    prefix_leave(p, &other);
    assert_true(prefix_evict(p, 0)); /* 78; the rest is in use */
    assert_false(prefix_evict(p, 0));
    assert_null(prefix_fault(p));
    for (int j = 0; j < 2; j++)
        blocks_drop(&b, store[j]);
    prefix_leave(p, &at);
    prefix_clear(p);
    assert_int_equal(b.n_free, 4);
    prefix_free(p);
    blocks_free(&b);
}

/* ---- in the engine ---------------------------------------------------------------------------------------------- */
enum { N_REQ = 14, MAX_OUT = 64, MAX_PROMPT = 150, MAX_CHOICE = 3 };
typedef struct outcome {
    int32_t id[MAX_CHOICE][MAX_OUT];
    float lp[MAX_CHOICE][MAX_OUT];
    uint32_t n[MAX_CHOICE];
    float prompt_lp[MAX_PROMPT + 1]; /* by position */
    double logits;                   /* sum of all rows of logits */
    uint32_t n_logits, n_cached, n_progress;
    imp_status status;
    char message[200];
} outcome;
typedef struct ask {
    imp_request r;
    int32_t prompt[MAX_PROMPT];
} ask;

static void on_event(void *user, const imp_event *ev)
{
    outcome *o = user;
    uint32_t c = ev->choice;
    if (ev->kind == IMP_EVENT_TOKEN && ev->token >= 0 && o->n[c] < MAX_OUT) {
        o->id[c][o->n[c]] = ev->token;
        o->lp[c][o->n[c]++] = ev->logprob;
    } else if (ev->kind == IMP_EVENT_PROMPT && ev->token >= 0) {
        o->prompt_lp[ev->n_done] = ev->logprob;
    } else if (ev->kind == IMP_EVENT_PROMPT) {
        o->n_progress = ev->n_done;
    } else if (ev->kind == IMP_EVENT_LOGITS) {
        o->n_logits++;
        for (uint32_t i = 0; i < ev->n_vocab; i++)
            o->logits += (double)ev->logits[i] * (double)(i % 7 + 1);
    } else if (ev->kind == IMP_EVENT_DONE) {
        o->status = ev->status;
        if (c == 0)
            o->n_cached = ev->timing.n_cached;
        snprintf(o->message, sizeof o->message, "%s", ev->message ? ev->message : "");
    }
}

typedef struct how {
    int32_t threads;
    uint32_t chunk, block, n_seq, tickets, kv_blocks;
    bool shuffle, cache;
} how;

static imp_engine *open_engine(imp_model *m, const how *h)
{
    imp_err e = {0};
    imp_engine *g = NULL;
    imp_engine_params p;
    imp_engine_params_init(&p);
    assert_true(p.prefix_cache); /* the default */
    const char *backend = getenv("IMP_TEST_BACKEND");
    p.backend = backend ? backend : "cpu";
    p.deterministic = getenv("IMP_TEST_DETERMINISTIC") != NULL;
    p.n_threads = h->threads;
    p.n_batch = h->chunk;
    p.block_size = backend ? 64 : h->block;
    p.shuffle_blocks = h->shuffle;
    p.n_seq = h->n_seq;
    p.n_ticket = h->tickets;
    p.kv_blocks = h->kv_blocks;
    p.n_ctx = 256;
    p.prefix_cache = h->cache;
    imp_status s = imp_engine_new(m, &p, &g, &e);
    if (s != IMP_OK && !(backend && s == IMP_E_UNSUPPORTED))
        fail_msg("%s", e.message);
    return g;
}

static imp_stats stats_of(imp_engine *g)
{
    imp_stats st = {.size = sizeof st};
    imp_engine_stats(g, &st);
    return st;
}

static uint32_t vocab_of(imp_model *m)
{
    imp_model_info info = {.size = sizeof info};
    imp_model_get_info(m, &info);
    return info.n_vocab;
}

static bool has_tok(imp_model *m)
{
    int32_t *ids = NULL;
    size_t n;
    bool has = imp_tokenize(m, "a", 1, 0, &ids, &n, NULL) == IMP_OK;
    imp_free(ids);
    return has;
}

/* Prompts that begin alike for a random length, answered in every way there is. */
static void make_asks(ask *a, uint32_t vocab, bool has_tok)
{
    static const char *const SALT[] = {NULL, "", "x", "y"};
    static int32_t base[3][MAX_PROMPT];
    for (int k = 0; k < 3; k++)
        for (int j = 0; j < MAX_PROMPT; j++)
            base[k][j] = (int32_t)rnd(vocab);
    for (int i = 0; i < N_REQ; i++) {
        imp_request *r = &a[i].r;
        imp_request_init(r);
        r->n_prompt = 1 + rnd(MAX_PROMPT);
        uint32_t alike = rnd(MAX_PROMPT), k = rnd(3);
        for (uint32_t j = 0; j < r->n_prompt; j++)
            a[i].prompt[j] = j < alike ? base[k][j] : (int32_t)rnd(vocab);
        r->prompt = a[i].prompt;
        r->max_tokens = 1 + rnd(40);
        r->ignore_eos = true;
        r->logprobs = 1;
        r->salt = SALT[rnd(4)];
        r->n = rnd(4) ? 1 : MAX_CHOICE;
        if (rnd(2)) {
            r->sampling.temperature = 1.2f;
            r->sampling.seed = 5 + (uint64_t)i;
            r->sampling.repeat_penalty = rnd(2) ? 1.2f : 1;
        }
        switch (rnd(8)) {
        case 0: r->prompt_logprobs = true; r->rows_from = rnd(r->n_prompt); break;
        case 1: r->echo_logits = true; r->rows_from = rnd(r->n_prompt); r->n = 1; break;
        case 2: r->last_logits = true; r->n = 1; break;
        case 3: r->gen_logits = true; r->n = 1; break;
        case 4:
            if (has_tok) {
                r->constraint_kind = IMP_CONSTRAINT_REGEX;
                r->constraint = "[a-c]{3}\\} and then it ends here\\.[a-z ]*";
                r->logprobs = rnd(2) ? 1 : -1; /* with rows for forced tokens, and without */
            }
            break;
        default: break;
        }
    }
}

static void compare(const outcome *a, const outcome *b, int i, const char *what)
{
    if (b->status != IMP_OK)
        fail_msg("request %d, %s: %s", i, what, b->message);
    if (memcmp(a->n, b->n, sizeof a->n) || memcmp(a->id, b->id, sizeof a->id) || memcmp(a->lp, b->lp, sizeof a->lp) ||
        memcmp(a->prompt_lp, b->prompt_lp, sizeof a->prompt_lp) || a->n_logits != b->n_logits ||
        memcmp(&a->logits, &b->logits, sizeof a->logits))
        fail_msg("request %d differs: %s", i, what);
}

/* All of them: `wait` one after the other, else as many at once as the engine takes. */
static void run(imp_engine *g, const ask *a, outcome *o, bool wait)
{
    uint64_t id[N_REQ];
    memset(o, 0, N_REQ * sizeof *o);
    for (int i = 0; i < N_REQ; i++) {
        imp_err e = {0};
        if (imp_submit(g, &a[i].r, on_event, &o[i], &id[i], &e) != IMP_OK)
            fail_msg("%s", e.message);
        if (wait || i % 7 == 6)
            assert_int_equal(imp_wait(g, id[i], 120000), IMP_OK);
    }
    for (int i = 0; i < N_REQ; i++)
        assert_int_equal(imp_wait(g, id[i], 120000), IMP_OK);
}

static void same_bytes(void **state)
{
    (void)state;
    static const char *const MODELS[] = {"tests/fixtures/models/gemma3-window.gguf",
                                         "tests/fixtures/models/qwen3-k.gguf",
                                         "tests/fixtures/models/mistral-window.gguf", "tests/fixtures/hf/deepseek-v3",
                                         "tests/fixtures/hf/gemma4-e"};
    static const how HOW[] = { /* the last two: so few blocks that sequences are preempted and cached blocks evicted */
        {.threads = 2, .chunk = 64, .block = 64, .n_seq = 8},
        {.threads = 1, .chunk = 7, .block = 2, .n_seq = 4, .tickets = 2, .shuffle = true},
        {.threads = 2, .chunk = 1, .block = 64, .n_seq = 8, .tickets = 2},
        {.threads = 2, .chunk = 64, .block = 2, .n_seq = 8, .kv_blocks = 1, .shuffle = true},
        {.threads = 1, .chunk = 13, .block = 8, .n_seq = 6, .tickets = 2, .kv_blocks = 1, .shuffle = true}};
    static const how NONE = {.threads = 2, .chunk = 512, .block = 64, .n_seq = 8};
    ask *a = calloc(N_REQ, sizeof *a);
    outcome *ref = calloc(N_REQ, sizeof *ref), *got = calloc(N_REQ, sizeof *got);
    for (size_t k = 0; k < sizeof MODELS / sizeof *MODELS; k++) {
        imp_model *m = open_model(MODELS[k]);
        random_state = 17 + k;
        make_asks(a, vocab_of(m), has_tok(m));
        imp_engine *g = open_engine(m, &NONE);
        if (!g) {
            print_message("%s: not on this backend\n", MODELS[k]);
            imp_model_close(m);
            continue;
        }
        run(g, a, ref, true);
        assert_int_equal(stats_of(g).cached_tokens, 0);
        assert_int_equal(stats_of(g).prefix_queries, 0);
        imp_engine_free(g);
        for (size_t h = 0; h < sizeof HOW / sizeof *HOW; h++) {
            how with = HOW[h];
            with.cache = true;
            g = open_engine(m, &with);
            uint64_t hits = 0;
            for (int round = 0; round < 2; round++) { /* cold and warm */
                char what[128];
                snprintf(what, sizeof what, "%s, way %zu, round %d", MODELS[k], h, round);
                run(g, a, got, round == 1 && h % 2);
                for (int i = 0; i < N_REQ; i++) {
                    compare(&ref[i], &got[i], i, what);
                    assert_true(got[i].n_cached < a[i].r.n_prompt);
                    if (a[i].r.echo_logits || a[i].r.prompt_logprobs)
                        assert_true(got[i].n_cached <= a[i].r.rows_from);
                    else
                        assert_int_equal(got[i].n_progress, a[i].r.n_prompt);
                }
                imp_stats st = stats_of(g);
                assert_true(st.cached_tokens > hits || st.block_size == 64);
                assert_true(st.cached_tokens <= st.prefix_queries);
                hits = st.cached_tokens;
                assert_int_equal(st.blocks_used, 0); /* all free or cached */
                assert_true((st.blocks_cached > 0 || with.kv_blocks) && /* few blocks: all may be evicted */
                            st.blocks_cached <= st.blocks_total);
            }
            assert_true(hits > 0);
            if (with.kv_blocks && with.n_seq == 8)
                assert_true(stats_of(g).preemptions > 0);
            imp_engine_free(g);
        }
        imp_model_close(m);
    }
    free(a);
    free(ref);
    free(got);
}

/* What is hit, exactly: all full blocks but the last token's, within a salt; the answer's too. */
static void hits(void **state)
{
    (void)state;
    imp_model *m = open_model("tests/fixtures/models/qwen3-k.gguf");
    imp_engine *g = open_engine(m, &(how){.threads = 1, .chunk = 64, .block = 8, .n_seq = 4, .cache = true});
    ask a;
    outcome o = {0};
    imp_request_init(&a.r);
    for (int i = 0; i < 100; i++)
        a.prompt[i] = 3 + i % 50;
    a.r.prompt = a.prompt;
    a.r.max_tokens = 20;
    a.r.ignore_eos = true;
    const uint32_t bs = stats_of(g).block_size;
    struct { uint32_t n_prompt; const char *salt; uint32_t want; bool answer; } step[] = {
        {64, NULL, 0, false}, {64, NULL, 63 / bs * bs, false}, {65, NULL, 64 / bs * bs, false}, {64, "s", 0, false},
        {64, "s", 63 / bs * bs, false}, {64, "t", 0, false}, {84, NULL, 83 / bs * bs, true}};
    for (size_t i = 0; i < sizeof step / sizeof *step; i++) {
        uint64_t id;
        a.r.n_prompt = step[i].n_prompt;
        a.r.salt = step[i].salt;
        if (step[i].answer) { /* the first answer, asked on */
            outcome first = {0};
            a.r.n_prompt = 64;
            assert_int_equal(imp_submit(g, &a.r, on_event, &first, &id, NULL), IMP_OK);
            imp_wait(g, id, 60000);
            memcpy(a.prompt + 64, first.id[0], 20 * sizeof *a.prompt);
            a.r.n_prompt = step[i].n_prompt;
        }
        memset(&o, 0, sizeof o);
        assert_int_equal(imp_submit(g, &a.r, on_event, &o, &id, NULL), IMP_OK);
        assert_int_equal(imp_wait(g, id, 60000), IMP_OK);
        if (o.n_cached != step[i].want)
            fail_msg("step %zu: %u tokens cached, wanted %u", i, o.n_cached, step[i].want);
    }
    imp_stats before = stats_of(g);
    a.r.n = MAX_CHOICE; /* one computes the prompt, the others find it */
    for (int i = 0; i < 96; i++)
        a.prompt[i] = 60 + i % 37;
    a.r.n_prompt = 96;
    uint64_t id;
    memset(&o, 0, sizeof o);
    assert_int_equal(imp_submit(g, &a.r, on_event, &o, &id, NULL), IMP_OK);
    assert_int_equal(imp_wait(g, id, 60000), IMP_OK);
    imp_stats after = stats_of(g);
    assert_int_equal(after.prefix_queries - before.prefix_queries, MAX_CHOICE * 96);
    assert_int_equal(after.cached_tokens - before.cached_tokens, (MAX_CHOICE - 1) * (95 / bs * bs));
    static char longest[1026];
    memset(longest, 'x', 1025);
    imp_err e = {0};
    a.r.salt = longest;
    assert_int_equal(imp_submit(g, &a.r, on_event, &o, &id, &e), IMP_E_USAGE);
    assert_non_null(strstr(e.message, "salt"));
    imp_engine_free(g);
    imp_model_close(m);
}

/* A model with recurrent states has no cache: blocks alone are not its prefix. */
static void recurrent(void **state)
{
    (void)state;
    imp_model *m = open_model("tests/fixtures/hf/qwen3-next");
    imp_engine *g = open_engine(m, &(how){.threads = 1, .chunk = 64, .block = 2, .n_seq = 2, .cache = true});
    if (!g) {
        imp_model_close(m);
        skip();
    }
    ask a;
    outcome o[2];
    imp_request_init(&a.r);
    for (int i = 0; i < 40; i++)
        a.prompt[i] = 3 + i;
    a.r.prompt = a.prompt;
    a.r.n_prompt = 40;
    a.r.max_tokens = 8;
    a.r.logprobs = 0;
    for (int i = 0; i < 2; i++) {
        uint64_t id;
        memset(&o[i], 0, sizeof o[i]);
        assert_int_equal(imp_submit(g, &a.r, on_event, &o[i], &id, NULL), IMP_OK);
        assert_int_equal(imp_wait(g, id, 60000), IMP_OK);
    }
    compare(&o[0], &o[1], 0, "again");
    assert_int_equal(o[1].n_cached, 0);
    imp_engine_free(g);
    imp_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(tree), cmocka_unit_test(order), cmocka_unit_test(same_bytes),
                                       cmocka_unit_test(hits), cmocka_unit_test(recurrent)};
    return cmocka_run_group_tests_name("prefix", tests, NULL, NULL);
}

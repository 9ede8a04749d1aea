/* imp chat: a conversation on a terminal, or one message a line from a pipe. The conversation is kept as the messages
 * of an OpenAI request, rendered anew for each answer by imp_chat_tokenize.
 * Threads: the main one reads and renders; answers are printed by the engine's (on_event), while main waits; signals
 * come on theirs (on_signal), which touches only the atomics, imp_cancel and chat_input_wake. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/jsonw.h"
#include "base/mem.h"
#include "cli/chat_impl.h"

typedef struct message {
    char *role, *json; /* json: the whole object */
} message;

typedef struct chat {
    cli *c;
    message *m;
    uint32_t n, cap;
    const char *tmpl;
    chat_input *in;
    chat_view view;
    imp_timing timing, total;
    imp_finish finish;
    imp_err answer_err;
    uint64_t n_answers, n_again;
    bool leave, failed, interrupted_prompt;
    atomic_bool busy, stop, terminate;
    _Atomic uint64_t request;
} chat;

static void say(const chat *t, const char *text)
{
    fprintf(stderr, t->view.colour ? "\033[2m%s\033[0m\n" : "%s\n", text);
}

static void complain(chat *t, const imp_err *e)
{
    t->failed = true;
    fprintf(stderr, "imp: %s\n", e->message[0] ? e->message : imp_status_text(e->status));
}

/* ---- the conversation ------------------------------------------------------------------------------------------- */
static void forget(chat *t, uint32_t from)
{
    while (t->n > from) {
        message *m = &t->m[--t->n];
        mem_free(m->role);
        mem_free(m->json);
    }
}

/* at <= n: where it goes. Takes nothing over. */
static imp_status insert(chat *t, uint32_t at, const char *role, const char *json, size_t n_json, imp_err *e)
{
    if (t->n == t->cap) {
        uint32_t cap = t->cap ? t->cap * 2 : 16;
        message *m = mem_realloc(t->m, cap * sizeof *m);
        if (!m)
            return err_oom(e, "conversation", cap * sizeof *m);
        t->m = m;
        t->cap = cap;
    }
    message m = {mem_strdup(role), mem_strndup(json, n_json)};
    if (!m.role || !m.json) {
        mem_free(m.role);
        mem_free(m.json);
        return err_oom(e, "message", n_json);
    }
    memmove(t->m + at + 1, t->m + at, (t->n - at) * sizeof *t->m);
    t->m[at] = m;
    t->n++;
    return IMP_OK;
}

static imp_status insert_text(chat *t, uint32_t at, const char *role, const strbuf *text, const strbuf *reasoning,
                              imp_err *e)
{
    strbuf b = {0};
    jw w;
    jw_init(&w, &b);
    jw_object(&w);
    jw_kstr(&w, "role", role);
    jw_key(&w, "content");
    jw_strn(&w, text->s ? text->s : "", text->n);
    if (reasoning && reasoning->n) {
        jw_key(&w, "reasoning_content");
        jw_strn(&w, reasoning->s, reasoning->n);
    }
    jw_end_object(&w);
    imp_status s = b.failed ? err_oom(e, "message", text->n) : insert(t, at, role, b.s, b.n, e);
    sb_free(&b);
    return s;
}

/* {"messages":[...]}: a request, and the form of /save. */
static imp_status to_json(const chat *t, strbuf *b, imp_err *e)
{
    sb_str(b, "{\"messages\":[");
    for (uint32_t i = 0; i < t->n; i++)
        sb_printf(b, "%s%s", i ? ",\n " : "", t->m[i].json);
    sb_str(b, "]}\n");
    return b->failed ? err_oom(e, "conversation", b->n) : IMP_OK;
}

static imp_status read_message(chat *t, const char *name, const char *s, size_t n, imp_err *e)
{
    jr r;
    jr_str key, role = {0};
    bool content = false;
    jr_init(&r, s, n, name, e);
    if (jr_enter_object(&r))
        while (jr_next_key(&r, &key)) {
            if (jr_key_is(&key, "role"))
                jr_string(&r, &role);
            else if ((content = content || jr_key_is(&key, "content") || jr_key_is(&key, "tool_calls")))
                jr_skip(&r);
            else
                jr_skip(&r);
        }
    if (!jr_end(&r))
        return e->status;
    if (!role.n || !content)
        return err_set(e, IMP_E_PARSE, "%s: message %u: wanted a role and content", name, t->n + 1);
    strbuf b = {0};
    jr_str_decode(&role, &b);
    imp_status st = b.failed ? err_oom(e, name, n) : insert(t, t->n, b.s, s, n, e);
    sb_free(&b);
    return st;
}

/* On failure the conversation is what it was. */
static imp_status from_json(chat *t, const char *name, const char *s, size_t n, imp_err *e)
{
    chat fresh = {.c = t->c};
    imp_status st = IMP_OK;
    jr r;
    jr_str key;
    const char *item;
    size_t n_item;
    bool found = false;
    jr_init(&r, s, n, name, e);
    if (jr_enter_object(&r))
        while (jr_next_key(&r, &key)) {
            if (!jr_key_is(&key, "messages")) {
                jr_skip(&r);
                continue;
            }
            found = true;
            if (jr_enter_array(&r))
                while (st == IMP_OK && jr_next_item(&r) && jr_raw(&r, &item, &n_item))
                    st = read_message(&fresh, name, item, n_item, e);
            if (st != IMP_OK)
                break;
        }
    if (st == IMP_OK && !jr_end(&r))
        st = e->status;
    if (st == IMP_OK && !found)
        st = err_set(e, IMP_E_PARSE, "%s: wanted an object with messages", name);
    chat *old = st == IMP_OK ? t : &fresh;
    forget(old, 0);
    if (st == IMP_OK) {
        mem_free(t->m);
        t->m = fresh.m;
        t->n = fresh.n;
        t->cap = fresh.cap;
    } else {
        mem_free(fresh.m);
    }
    return st;
}

/* ---- answering -------------------------------------------------------------------------------------------------- */
static void on_event(void *user, const imp_event *ev)
{
    chat *t = user;
    if (ev->kind == IMP_EVENT_TOKEN) {
        chat_view_add(&t->view, ev->text, ev->n_text);
        if (t->view.write_failed)
            atomic_store(&t->stop, true); /* the reader has gone; main cancels */
    } else if (ev->kind == IMP_EVENT_DONE) {
        t->timing = ev->timing;
        t->finish = ev->finish;
        if (ev->status != IMP_OK && ev->finish != IMP_FINISH_CANCELLED)
            err_set(&t->answer_err, ev->status, "%s", ev->message ? ev->message : imp_status_text(ev->status));
    }
}

static bool on_signal(void *user, int sig)
{
    chat *t = user;
    if (sig == SIGTERM)
        atomic_store(&t->terminate, true);
    if (atomic_load(&t->busy)) {
        if (atomic_exchange(&t->stop, true))
            return false; /* asked twice during one answer: something hangs */
        uint64_t id = atomic_load(&t->request);
        if (id)
            imp_cancel(t->c->engine, id);
        return true;
    }
    if (!chat_input_interactive(t->in))
        return false;
    chat_input_wake(t->in);
    return true;
}

static imp_status submit(chat *t, const int32_t *ids, size_t n, imp_err *e)
{
    const options *o = &t->c->o;
    imp_request r;
    imp_request_init(&r);
    imp_status s = cli_sampling(t->c, &r.sampling, &t->c->mem, e);
    if (s != IMP_OK)
        return s;
    r.sampling.seed += t->n_again; /* /regen with a fixed seed is another answer, the same each time */
    r.prompt = ids;
    r.n_prompt = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
    r.max_tokens = o->max_tokens > 0 ? (uint32_t)o->max_tokens : 0;
    r.stop = o->stop.v;
    r.n_stop = o->stop.n;
    r.ignore_eos = o->ignore_eos;
    uint64_t id = 0;
    t->timing = (imp_timing){0};
    t->finish = IMP_FINISH_NONE;
    err_clear(&t->answer_err);
    s = imp_submit(t->c->engine, &r, on_event, t, &id, e);
    if (s != IMP_OK)
        return s;
    atomic_store(&t->request, id);
    do {
        if (atomic_load(&t->stop)) /* before there was an id, or from on_event */
            imp_cancel(t->c->engine, id);
    } while (imp_wait(t->c->engine, id, 200) == IMP_E_BUSY);
    atomic_store(&t->request, 0);
    return t->answer_err.status == IMP_OK ? IMP_OK : err_set(e, t->answer_err.status, "%s", t->answer_err.message);
}

static imp_status answer(chat *t, imp_err *e)
{
    strbuf json = {0};
    int32_t *ids = NULL;
    size_t n = 0, n_tail = 0;
    char *tail = NULL;
    atomic_store(&t->stop, false);
    atomic_store(&t->busy, true);
    imp_status s = to_json(t, &json, e);
    if (s == IMP_OK)
        s = imp_chat_tokenize(t->c->model, t->tmpl, json.s, json.n, &ids, &n, e);
    if (s == IMP_OK) { /* some templates open the reasoning themselves */
        size_t k = n < 8 ? n : 8;
        s = imp_detokenize(t->c->model, ids + (n - k), k, true, &tail, &n_tail, e);
    }
    if (s == IMP_OK) {
        chat_view_begin(&t->view, tail);
        s = submit(t, ids, n, e);
        chat_view_end(&t->view);
    }
    if (s == IMP_OK && (t->view.text.n || t->view.reasoning.n))
        s = insert_text(t, t->n, "assistant", &t->view.text, &t->view.reasoning, e);
    t->n_answers++;
    t->total.n_prompt += t->timing.n_prompt;
    t->total.n_generated += t->timing.n_generated;
    t->total.prefill_ns += t->timing.prefill_ns;
    t->total.decode_ns += t->timing.decode_ns;
    atomic_store(&t->busy, false);
    if (s == IMP_OK && t->finish == IMP_FINISH_CANCELLED)
        say(t, "[stopped]");
    else if (s == IMP_OK && t->finish == IMP_FINISH_LENGTH)
        say(t, "[cut: the context or -n is used up]");
    imp_free(tail);
    imp_free(ids);
    sb_free(&json);
    return s;
}

/* ---- commands: what begins with / ------------------------------------------------------------------------------- */
static double rate(uint32_t n, int64_t ns) { return ns > 0 ? (double)n / ((double)ns * 1e-9) : 0; }

static imp_status do_help(chat *t, const char *arg, imp_err *e);

static imp_status do_exit(chat *t, const char *arg, imp_err *e)
{
    (void)arg;
    (void)e;
    t->leave = true;
    return IMP_OK;
}

static imp_status set_system(chat *t, const strbuf *text, imp_err *e)
{
    if (t->n && strcmp(t->m[0].role, "system") == 0) {
        mem_free(t->m[0].role);
        mem_free(t->m[0].json);
        memmove(t->m, t->m + 1, --t->n * sizeof *t->m);
    }
    return text->n ? insert_text(t, 0, "system", text, NULL, e) : IMP_OK;
}

static imp_status do_system(chat *t, const char *arg, imp_err *e)
{
    bool has = t->n && strcmp(t->m[0].role, "system") == 0;
    if (!*arg) {
        say(t, has ? t->m[0].json : "no system message; /system TEXT sets one");
        return IMP_OK;
    }
    bool none = strcmp(arg, "\"\"") == 0;
    imp_status s = set_system(t, &(strbuf){.s = (char *)(uintptr_t)arg, .n = none ? 0 : strlen(arg)}, e);
    if (s == IMP_OK)
        say(t, none ? "[no system message]" : "[system message set]");
    return s;
}

static imp_status do_clear(chat *t, const char *arg, imp_err *e)
{
    (void)arg;
    (void)e;
    forget(t, t->n && strcmp(t->m[0].role, "system") == 0 ? 1 : 0);
    say(t, "[a new conversation]");
    return IMP_OK;
}

static imp_status do_save(chat *t, const char *arg, imp_err *e)
{
    if (!*arg)
        return err_set(e, IMP_E_USAGE, "/save: wanted a file");
    strbuf b = {0}, note = {0};
    imp_status s = to_json(t, &b, e);
    if (s == IMP_OK)
        s = file_write_all(arg, b.s, b.n, e);
    if (s == IMP_OK) {
        sb_printf(&note, "[%u messages saved to %s]", t->n, arg);
        say(t, note.s ? note.s : "[saved]");
    }
    sb_free(&b);
    sb_free(&note);
    return s;
}

static imp_status do_load(chat *t, const char *arg, imp_err *e)
{
    char *text;
    size_t n;
    if (!*arg)
        return err_set(e, IMP_E_USAGE, "/load: wanted a file");
    imp_status s = file_read_all(arg, (size_t)64 << 20, &text, &n, e);
    if (s != IMP_OK)
        return s;
    s = from_json(t, arg, text, n, e);
    mem_free(text);
    if (s == IMP_OK) {
        strbuf note = {0};
        sb_printf(&note, "[%u messages loaded from %s]", t->n, arg);
        say(t, note.s ? note.s : "[loaded]");
        sb_free(&note);
    }
    return s;
}

static imp_status do_regen(chat *t, const char *arg, imp_err *e)
{
    (void)arg;
    uint32_t n = t->n;
    while (n && strcmp(t->m[n - 1].role, "assistant") == 0)
        n--;
    if (!n || strcmp(t->m[n - 1].role, "system") == 0)
        return err_set(e, IMP_E_USAGE, "/regen: there is no message to answer");
    forget(t, n);
    t->n_again++;
    return answer(t, e);
}

static imp_status do_stats(chat *t, const char *arg, imp_err *e)
{
    (void)arg;
    (void)e;
    imp_stats st = {.size = sizeof st};
    imp_engine_stats(t->c->engine, &st);
    const imp_timing *l = &t->timing, *a = &t->total;
    strbuf b = {0};
    sb_printf(&b, "%s, loaded in %.2f s; weights %.0f MB, KV cache %.0f MB\n", st.backend ? st.backend : "",
              st.load_seconds, (double)st.weight_bytes / 1e6, (double)st.kv_bytes / 1e6);
    sb_printf(&b, "last answer: prompt %u tokens (%u cached), %.1f tok/s; answer %u tokens, %.1f tok/s\n",
              l->n_prompt, l->n_cached, rate(l->n_prompt - l->n_cached, l->prefill_ns),
              l->n_generated, l->n_generated > 1 ? rate(l->n_generated - 1, l->decode_ns) : 0);
    sb_printf(&b, "%llu answers so far: prompts %u tokens, answers %u tokens, %.1f s\n",
              (unsigned long long)t->n_answers, a->n_prompt, a->n_generated,
              (double)(a->prefill_ns + a->decode_ns) * 1e-9);
    sb_printf(&b, "context: %u of %u tokens", l->n_prompt + l->n_generated, st.n_ctx);
    say(t, b.s ? b.s : "");
    sb_free(&b);
    return IMP_OK;
}

static const struct {
    const char *name, *arg, *help;
    imp_status (*run)(chat *t, const char *arg, imp_err *e);
} commands[] = {
    {"help", "", "this list", do_help},
    {"system", "[TEXT]", "set the system message (\"\" removes it), or show it", do_system},
    {"clear", "", "begin a new conversation; the system message stays", do_clear},
    {"regen", "", "answer the last message again", do_regen},
    {"save", "FILE", "write the conversation as {\"messages\": [...]}", do_save},
    {"load", "FILE", "go on with a saved conversation", do_load},
    {"stats", "", "speed, memory and context", do_stats},
    {"exit", "", "leave; so does Ctrl-D", do_exit},
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static imp_status do_help(chat *t, const char *arg, imp_err *e)
{
    (void)arg;
    (void)e;
    strbuf b = {0};
    for (size_t i = 0; i < N_COMMANDS; i++)
        sb_printf(&b, "/%-6s %-6s  %s\n", commands[i].name, commands[i].arg, commands[i].help);
    sb_str(&b, "A line that ends in \\ goes on in the next; \"\"\" begins and ends a text of several lines; "
               "// begins a message with /.\n"
               "Ctrl-C stops an answer; at the prompt it empties the line, and twice it leaves.");
    say(t, b.s ? b.s : "");
    sb_free(&b);
    return IMP_OK;
}

static imp_status run_command(chat *t, const char *line, imp_err *e)
{
    size_t n = strcspn(line, " \t\n");
    const char *arg = line + n + strspn(line + n, " \t\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strlen(commands[i].name) == n && memcmp(commands[i].name, line, n) == 0)
            return commands[i].run(t, arg, e);
    return err_set(e, IMP_E_USAGE, "unknown command /%.*s; /help lists them, and // begins a message with /",
                   (int)(n < 40 ? n : 40), line);
}

/* ---- the loop --------------------------------------------------------------------------------------------------- */
static imp_status say_to_model(chat *t, const strbuf *text, imp_err *e)
{
    imp_status s = insert_text(t, t->n, "user", text, NULL, e);
    if (s != IMP_OK)
        return s;
    uint32_t n = t->n;
    s = answer(t, e);
    if (s != IMP_OK && t->n == n)
        forget(t, n - 1); /* what could not be answered is not part of the conversation */
    if (s == IMP_E_CONTEXT)
        err_prefix(e, "the conversation no longer fits (/clear begins a new one)");
    return s;
}

static void step(chat *t, strbuf *line)
{
    imp_err e = {0};
    imp_status s = IMP_OK;
    const char *text = line->s ? line->s : "";
    if (line->n == strspn(text, " \t\n"))
        return;
    if (text[0] == '/' && text[1] != '/') {
        s = run_command(t, text + 1, &e);
    } else {
        bool slash = text[0] == '/';
        s = say_to_model(t, &(strbuf){.s = line->s + slash, .n = line->n - slash}, &e);
    }
    if (s != IMP_OK)
        complain(t, &e);
}

static int loop(chat *t)
{
    strbuf line = {0};
    int rc = 0;
    bool interactive = chat_input_interactive(t->in);
    while (!t->leave) {
        chat_read r = chat_input_get(t->in, &line);
        if (r == CHAT_INTERRUPT) {
            bool term = atomic_load(&t->terminate);
            fputs(term || t->interrupted_prompt ? "\n" : "\n(Ctrl-C again to leave)\n", stderr);
            if (term || t->interrupted_prompt) {
                rc = term ? 143 : 130;
                break;
            }
            t->interrupted_prompt = true;
            continue;
        }
        t->interrupted_prompt = false;
        if (r == CHAT_END) {
            if (interactive)
                fputc('\n', stderr);
            break;
        }
        if (r == CHAT_FAILED) {
            fprintf(stderr, "imp: stdin: cannot read a message\n");
            rc = 1;
            break;
        }
        step(t, &line);
        if (atomic_load(&t->terminate) || t->view.write_failed ||
            (!interactive && (t->failed || t->finish == IMP_FINISH_CANCELLED))) {
            rc = atomic_load(&t->terminate) ? 143 : t->failed || t->view.write_failed ? 1 : 130;
            break; /* of a script's conversation the rest would make no sense */
        }
    }
    sb_free(&line);
    return rc;
}

/* --history, else imp/chat_history where the user's programs keep their state. NULL: none. */
static const char *history_file(cli *c)
{
    if (c->o.history)
        return strcmp(c->o.history, "none") ? c->o.history : NULL;
    const char *state = cli_env("XDG_STATE_HOME"), *home = cli_env("HOME");
    if (!state && !home)
        return NULL;
    char *dir = state ? arena_printf(&c->mem, "%s/imp", state) : arena_printf(&c->mem, "%s/.local/state/imp", home);
    for (char *p = dir ? strchr(dir + 1, '/') : NULL; p; p = strchr(p + 1, '/')) {
        *p = 0;
        mkdir(dir, 0700);
        *p = '/';
    }
    return dir && (mkdir(dir, 0700) == 0 || errno == EEXIST) ? arena_printf(&c->mem, "%s/chat_history", dir) : NULL;
}

static void greet(chat *t)
{
    imp_model_info i = {.size = sizeof i};
    imp_stats st = {.size = sizeof st};
    imp_model_get_info(t->c->model, &i);
    imp_engine_stats(t->c->engine, &st);
    strbuf b = {0};
    sb_printf(&b, "%s on %s, context %u. /help tells the commands, Ctrl-D leaves.", i.name,
              st.backend ? st.backend : "", st.n_ctx);
    say(t, b.s ? b.s : "");
    sb_free(&b);
}

int cmd_chat(cli *c)
{
    imp_err e = {0};
    chat t = {.c = c};
    const char *term = cli_env("TERM");
    bool interactive = isatty(0), terminal = isatty(1);
    t.view.show = !c->o.json;
    t.view.colour = terminal && !cli_env("NO_COLOR") && term && strcmp(term, "dumb") != 0;
    t.view.show_reasoning = terminal;
    imp_status s = cli_load_model(c, &e);
    if (s == IMP_OK)
        s = cli_chat_template(c, &t.tmpl, &e);
    if (s == IMP_OK && c->o.system)
        s = set_system(&t, &(strbuf){.s = (char *)(uintptr_t)c->o.system, .n = strlen(c->o.system)}, &e);
    imp_model_info info = {.size = sizeof info};
    if (s == IMP_OK && imp_model_get_info(c->model, &info) == IMP_OK && !t.tmpl && !info.has_template)
        s = err_set(&e, IMP_E_USAGE,
                    "%s has no chat template: name one with --chat-template (chatml, llama3, gemma, ... or a file)",
                    info.name);
    if (s == IMP_OK)
        s = cli_load_engine(c, 0, &e);
    if (s == IMP_OK)
        s = chat_input_new(&t.in, t.view.colour, interactive ? history_file(c) : NULL, &e);
    int rc;
    if (s != IMP_OK) {
        rc = cli_fail(&e);
    } else {
        cli_on_interrupt(on_signal, &t);
        if (interactive)
            greet(&t);
        rc = loop(&t);
        cli_on_interrupt(NULL, NULL);
        strbuf b = {0};
        if (c->o.json && to_json(&t, &b, &e) == IMP_OK)
            fwrite(b.s, 1, b.n, stdout);
        sb_free(&b);
    }
    chat_input_free(t.in);
    chat_view_free(&t.view);
    forget(&t, 0);
    mem_free(t.m);
    return rc;
}

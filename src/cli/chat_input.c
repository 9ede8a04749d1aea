/* Where messages come from. On a terminal libedit edits lines (this is the only file that knows it); it reads through
 * a function of ours that waits for the keyboard and for chat_input_wake at once, so that no signal interrupts
 * anything. */
#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "cli/chat_impl.h"

#define MAX_HISTORY 1000
#define MAX_MESSAGE_BYTES ((size_t)16 << 20)

struct chat_input {
    EditLine *el;              /* NULL: no terminal */
    History *history;
    const char *history_path;  /* NULL: not kept */
    int wake[2];
    bool colour, more, woken;  /* more: a message has begun */
    char *line;                /* of getline */
    size_t line_cap;
};

/* \1 brackets what takes no room on the line. */
static const char *prompt(EditLine *el)
{
    chat_input *in = NULL;
    el_get(el, EL_CLIENTDATA, &in);
    return in->colour ? (in->more ? "\1\033[1;32m\1.\1\033[0m\1 " : "\1\033[1;32m\1>\1\033[0m\1 ")
                      : in->more ? ". " : "> ";
}

/* One character of the keyboard: 1, 0 at the end, -1 when woken. */
static int get_char(EditLine *el, wchar_t *c)
{
    chat_input *in = NULL;
    el_get(el, EL_CLIENTDATA, &in);
    char buf[4];
    for (size_t n = 0;;) {
        struct pollfd p[2] = {{.fd = in->wake[0], .events = POLLIN}, {.fd = 0, .events = POLLIN}};
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return -1;
        if (p[0].revents) {
            in->woken = true;
            return -1;
        }
        if (!p[1].revents)
            continue;
        ssize_t k = read(0, buf + n, 1);
        if (k < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (k <= 0)
            return (int)k;
        /* a Ctrl-D that was typed before the line editor had the terminal; in a line it would be invisible */
        if (!buf[n])
            continue;
        n++;
        if (n < sizeof buf && utf8_incomplete_tail(buf, n))
            continue;
        uint32_t cp;
        utf8_get(buf, n, &cp, NULL);
        *c = (wchar_t)cp;
        return 1;
    }
}

static imp_status start_editor(chat_input *in, imp_err *e)
{
    /* libedit measures characters by the locale; numbers keep their dots. */
    if (!setlocale(LC_CTYPE, "") || !strstr(setlocale(LC_CTYPE, NULL), "UTF"))
        setlocale(LC_CTYPE, "C.UTF-8");
    in->el = el_init("imp", stdin, isatty(1) ? stdout : stderr, stderr);
    in->history = history_init();
    if (!in->el || !in->history)
        return err_set(e, IMP_E_NOMEM, "chat: the line editor does not start");
    HistEvent ev;
    history(in->history, &ev, H_SETSIZE, MAX_HISTORY);
    history(in->history, &ev, H_SETUNIQUE, 1);
    if (in->history_path)
        history(in->history, &ev, H_LOAD, in->history_path); /* there may be none yet */
    el_set(in->el, EL_CLIENTDATA, in);
    el_set(in->el, EL_PROMPT_ESC, prompt, '\1');
    el_set(in->el, EL_EDITOR, "emacs");
    el_set(in->el, EL_HIST, history, in->history);
    el_set(in->el, EL_GETCFN, get_char);
    el_set(in->el, EL_SETTY, "-x", "-echoctl", NULL); /* no ^C in the middle of an answer */
    el_set(in->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_set(in->el, EL_BIND, "\\e[1~", "ed-move-to-beg", NULL);
    el_set(in->el, EL_BIND, "\\e[4~", "ed-move-to-end", NULL);
    el_set(in->el, EL_BIND, "\\e[3~", "ed-delete-next-char", NULL);
    el_source(in->el, NULL); /* the user's own ~/.editrc */
    return IMP_OK;
}

imp_status chat_input_new(chat_input **out, bool colour, const char *history_path, imp_err *e)
{
    chat_input *in = *out = mem_calloc(1, sizeof *in);
    if (!in)
        return err_oom(e, "chat", sizeof *in);
    in->colour = colour;
    in->history_path = history_path;
    if (pipe(in->wake)) {
        mem_free(in);
        *out = NULL;
        return err_set(e, IMP_E_IO, "chat: pipe: %s", strerror(errno));
    }
    return isatty(0) ? start_editor(in, e) : IMP_OK;
}

void chat_input_free(chat_input *in)
{
    if (!in)
        return;
    if (in->history && in->history_path) {
        HistEvent ev;
        mode_t old = umask(077); /* what one types is one's own */
        history(in->history, &ev, H_SAVE, in->history_path);
        umask(old);
    }
    if (in->el)
        el_end(in->el);
    if (in->history)
        history_end(in->history);
    close(in->wake[0]);
    close(in->wake[1]);
    free(in->line); /* of getline */
    mem_free(in);
}

bool chat_input_interactive(const chat_input *in) { return in->el != NULL; }

void chat_input_wake(chat_input *in)
{
    ssize_t k = write(in->wake[1], "", 1);
    (void)k; /* a full pipe wakes as well */
}

/* A line without its end. The text stays valid until the next call. */
static chat_read get_line(chat_input *in, const char **s, size_t *n)
{
    if (!in->el) {
        ssize_t k = getline(&in->line, &in->line_cap, stdin);
        if (k < 0)
            return ferror(stdin) ? CHAT_FAILED : CHAT_END;
        *s = in->line;
        *n = (size_t)k;
    } else {
        int k = 0;
        in->woken = false;
        el_resize(in->el); /* the window may have another size by now */
        *s = el_gets(in->el, &k);
        if (in->woken) {
            char c;
            ssize_t r = read(in->wake[0], &c, 1);
            (void)r;
            return CHAT_INTERRUPT;
        }
        if (!*s || k <= 0)
            return CHAT_END;
        *n = (size_t)k;
        HistEvent ev;
        if (*n > 1)
            history(in->history, &ev, H_ENTER, *s);
    }
    while (*n && ((*s)[*n - 1] == '\n' || (*s)[*n - 1] == '\r'))
        --*n;
    return CHAT_MESSAGE;
}

static bool ends_with_quotes(const char *s, size_t n) { return n >= 3 && memcmp(s + n - 3, "\"\"\"", 3) == 0; }

chat_read chat_input_get(chat_input *in, strbuf *message)
{
    sb_clear(message);
    message->max = MAX_MESSAGE_BYTES;
    in->more = false;
    for (bool block = false, join = false;;) {
        const char *s = NULL;
        size_t n = 0;
        chat_read r = get_line(in, &s, &n);
        if (r != CHAT_MESSAGE)
            return r == CHAT_END && in->more && message->n ? CHAT_MESSAGE : r;
        bool first = !in->more;
        if (first && n >= 3 && memcmp(s, "\"\"\"", 3) == 0) {
            block = true;
            s += 3;
            n -= 3;
        }
        bool closes = block && ends_with_quotes(s, n), goes_on = block ? !closes : n && s[n - 1] == '\\';
        n -= closes ? 3 : !block && goes_on ? 1 : 0;
        bool fence = block && n == 0 && (first || closes); /* """ alone on its line is no line of the text */
        if (join && !fence)
            sb_char(message, '\n');
        sb_add(message, s, n);
        join = !fence;
        if (message->failed)
            return CHAT_FAILED;
        if (!goes_on)
            return CHAT_MESSAGE;
        in->more = true;
    }
}

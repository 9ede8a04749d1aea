/* How an answer is shown: reasoning between a pair of tags is split off, and dimmed on a terminal. */
#include <stdio.h>
#include <string.h>

#include "cli/chat_impl.h"

static const struct { const char *open, *close; } tags[] = {
    {"<think>", "</think>"}, {"<thinking>", "</thinking>"}, {"<thought>", "</thought>"},
    {"<reasoning>", "</reasoning>"}, {"<seed:think>", "</seed:think>"}, {"[THINK]", "[/THINK]"},
    {"<|START_THINKING|>", "<|END_THINKING|>"},
};
#define N_TAGS (sizeof tags / sizeof *tags)

enum { AT_START, IN_REASONING, AFTER_REASONING, IN_TEXT };

static size_t blanks(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && strchr(" \t\r\n", s[i]))
        i++;
    return i;
}

static void print(chat_view *v, const char *s, size_t n)
{
    if (!v->show || n == 0)
        return;
    fwrite(s, 1, n, stdout);
    v->ends_line = s[n - 1] == '\n';
    if (fflush(stdout))
        v->write_failed = true;
}

static void print_str(chat_view *v, const char *s) { print(v, s, strlen(s)); }

static void add_text(chat_view *v, const char *s, size_t n)
{
    sb_add(&v->text, s, n);
    print(v, s, n);
}

static void add_reasoning(chat_view *v, const char *s, size_t n)
{
    if (!v->reasoning.n) { /* the line break after the tag is not part of it */
        size_t b = blanks(s, n);
        s += b;
        n -= b;
    }
    if (!n)
        return;
    sb_add(&v->reasoning, s, n);
    if (!v->show_reasoning)
        return;
    if (!v->printed_reasoning)
        print_str(v, v->colour ? "\033[2m" : "(thinking) ");
    v->printed_reasoning = true;
    print(v, s, n);
}

static void end_reasoning(chat_view *v)
{
    if (!v->printed_reasoning)
        return;
    bool line = v->ends_line;
    if (v->colour)
        print_str(v, "\033[0m");
    print_str(v, line ? "\n" : "\n\n");
}

void chat_view_begin(chat_view *v, const char *prompt_tail)
{
    sb_clear(&v->text);
    sb_clear(&v->reasoning);
    sb_clear(&v->pending);
    v->state = AT_START;
    v->printed_reasoning = v->ends_line = false;
    size_t n = strlen(prompt_tail);
    while (n && strchr(" \t\r\n", prompt_tail[n - 1]))
        n--;
    for (size_t i = 0; i < N_TAGS; i++) {
        size_t k = strlen(tags[i].open);
        if (n >= k && memcmp(prompt_tail + n - k, tags[i].open, k) == 0) {
            v->state = IN_REASONING;
            v->close = tags[i].close;
        }
    }
}

static void drop(strbuf *b, size_t n)
{
    memmove(b->s, b->s + n, b->n - n);
    b->n -= n;
}

/* Before the first word: a tag, the beginning of one (wait), or text. Returns false to wait. */
static bool at_start(chat_view *v, bool final)
{
    strbuf *p = &v->pending;
    size_t b = blanks(p->s, p->n), left = p->n - b;
    for (size_t i = 0; i < N_TAGS; i++) {
        size_t k = strlen(tags[i].open);
        if (left >= k && memcmp(p->s + b, tags[i].open, k) == 0) {
            drop(p, b + k);
            v->state = IN_REASONING;
            v->close = tags[i].close;
            return true;
        }
        if (!final && left < k && memcmp(p->s + b, tags[i].open, left) == 0)
            return false;
    }
    v->state = IN_TEXT;
    return true;
}

/* Up to the closing tag; what may be its beginning waits. */
static bool in_reasoning(chat_view *v, bool final)
{
    strbuf *p = &v->pending;
    size_t k = strlen(v->close);
    for (size_t i = 0; i < p->n; i++) {
        size_t left = p->n - i, n = left < k ? left : k;
        if (memcmp(p->s + i, v->close, n) || (n < k && final))
            continue;
        add_reasoning(v, p->s, i);
        drop(p, i);
        if (n < k)
            return false;
        drop(p, k);
        end_reasoning(v);
        v->state = AFTER_REASONING;
        return true;
    }
    add_reasoning(v, p->s, p->n);
    p->n = 0;
    if (final)
        end_reasoning(v);
    return false;
}

static void advance(chat_view *v, bool final)
{
    strbuf *p = &v->pending;
    bool go = p->n > 0;
    while (go) {
        switch (v->state) {
        case AT_START: go = at_start(v, final); break;
        case IN_REASONING: go = in_reasoning(v, final); break;
        case AFTER_REASONING:
            drop(p, blanks(p->s, p->n));
            go = p->n > 0;
            if (go)
                v->state = IN_TEXT;
            break;
        default:
            add_text(v, p->s, p->n);
            p->n = 0;
            go = false;
        }
    }
}

void chat_view_add(chat_view *v, const char *s, size_t n)
{
    if (n == 0)
        return;
    sb_add(&v->pending, s, n);
    advance(v, false);
}

void chat_view_end(chat_view *v)
{
    bool inside = v->state == IN_REASONING;
    if (v->pending.n)
        advance(v, true);
    else if (inside)
        end_reasoning(v);
    if (v->show && !v->ends_line)
        print_str(v, "\n");
}

void chat_view_free(chat_view *v)
{
    sb_free(&v->text);
    sb_free(&v->reasoning);
    sb_free(&v->pending);
}

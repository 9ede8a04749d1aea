#include "engine/penalty.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

#define DRY_MAX_TOKENS 1024 /* sparse penalties kept a step; more continuations than this are not penalised */
#define DRY_MAX_MATCH 64    /* longer repeats are penalised as this long, which is past any useful bound */

static uint32_t window(int32_t last_n, uint32_t n) { return last_n < 0 || (uint32_t)last_n > n ? n : (uint32_t)last_n; }

imp_status penalty_init(penalty *p, const imp_sampling *s, uint32_t n_ctx, imp_err *e)
{
    *p = (penalty){0};
    p->counts_on = s->repeat_last_n != 0 &&
                   (s->repeat_penalty != 1 || s->frequency_penalty != 0 || s->presence_penalty != 0);
    p->dry_on = s->dry_multiplier > 0;
    p->n_fixed = p->n_bias = (int32_t)s->n_logit_bias;
    p->cap_bias = p->n_fixed + (p->dry_on ? DRY_MAX_TOKENS : 0);
    if (p->cap_bias) {
        p->bias = mem_calloc((size_t)p->cap_bias, sizeof *p->bias);
        if (!p->bias)
            return err_oom(e, "logit bias", (unsigned long long)p->cap_bias * sizeof *p->bias);
    }
    for (int32_t i = 0; i < p->n_fixed; i++)
        p->bias[i] = (sample_bias){s->logit_bias[i].token, s->logit_bias[i].bias};
    if (!p->counts_on)
        return IMP_OK;
    uint32_t w = window(s->repeat_last_n, n_ctx);
    for (p->cap = 16; (uint32_t)p->cap < 2 * w;)
        p->cap *= 2;
    p->count = mem_calloc(w ? w : 1, sizeof *p->count);
    p->hash = mem_calloc((size_t)p->cap, sizeof *p->hash);
    return p->count && p->hash ? IMP_OK : err_oom(e, "penalty window", (unsigned long long)w * 16);
}

void penalty_free(penalty *p)
{
    mem_free(p->count);
    mem_free(p->hash);
    mem_free(p->bias);
    *p = (penalty){0};
}

static void count_window(penalty *p, const int32_t *tok, uint32_t n)
{
    memset(p->hash, 0, (size_t)p->cap * sizeof *p->hash);
    p->n_count = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t h = (uint32_t)tok[i] * 2654435761u;
        for (;; h++) {
            int32_t *slot = &p->hash[h & (uint32_t)(p->cap - 1)];
            if (*slot == 0) {
                p->count[p->n_count] = (sample_count){tok[i], 1};
                *slot = ++p->n_count;
                break;
            }
            if (p->count[*slot - 1].id == tok[i]) {
                p->count[*slot - 1].n++;
                break;
            }
        }
    }
}

static void add_dry(penalty *p, int32_t id, float pen)
{
    for (int32_t i = p->n_fixed; i < p->n_bias; i++)
        if (p->bias[i].id == id) {
            if (-pen < p->bias[i].add)
                p->bias[i].add = -pen;
            return;
        }
    if (p->n_bias < p->cap_bias)
        p->bias[p->n_bias++] = (sample_bias){id, -pen};
}

/* DRY (p-e-w, 2024): a token that would lengthen a repeat of `len` tokens loses multiplier * base^(len - allowed). */
static void dry(penalty *p, const imp_sampling *s, const int32_t *tok, uint32_t n_tok)
{
    p->n_bias = p->n_fixed;
    uint32_t w = window(s->dry_penalty_last_n, n_tok);
    if (w < 2)
        return;
    const int32_t *t = tok + n_tok - w;
    for (uint32_t i = w - 1; i > 0; i--) {
        uint32_t len = 0;
        while (len < i && len < DRY_MAX_MATCH && t[i - 1 - len] == t[w - 1 - len])
            len++;
        if (len && (int32_t)len >= s->dry_allowed_length)
            add_dry(p, t[i], s->dry_multiplier * powf(s->dry_base, (float)((int32_t)len - s->dry_allowed_length)));
    }
}

void penalty_update(penalty *p, const imp_sampling *s, const int32_t *tok, uint32_t n_tok)
{
    if (p->counts_on) {
        uint32_t w = window(s->repeat_last_n, n_tok);
        count_window(p, tok + n_tok - w, w);
    }
    if (p->dry_on)
        dry(p, s, tok, n_tok);
}

#include "tools/perplexity.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "quant/quant.h"

/* The base file: this header, the tokens of all windows, then for each scored token its row of logits less the row's
 * maximum, as f16 (a difference below 2^-10 at the top, where the mass is). */
typedef struct kl_header {
    char magic[8];
    uint32_t n_ctx, n_vocab;
    uint64_t n_window;
} kl_header;
static const char MAGIC[8] = "IMPKL01";

typedef struct run {
    const int32_t *tok;       /* of this window */
    uint32_t first, n_ctx, n_vocab;
    double nll, nll2;
    uint64_t count;
    FILE *write, *read;
    uint16_t *half;           /* one row */
    double kl, kl_max, base_nll;
    uint64_t same_top;
    imp_err err;
} run;

/* log of the sum of e^(l - max), and the place of the maximum. */
static double log_sum(const float *l, uint32_t n, uint32_t *top)
{
    uint32_t b = 0;
    for (uint32_t i = 1; i < n; i++)
        if (l[i] > l[b])
            b = i;
    double s = 0;
    for (uint32_t i = 0; i < n; i++)
        s += exp((double)(l[i] - l[b]));
    *top = b;
    return log(s);
}

static void write_row(run *r, const float *l, float max)
{
    for (uint32_t i = 0; i < r->n_vocab; i++)
        r->half[i] = quant_f32_to_f16(l[i] - max);
    if (fwrite(r->half, sizeof *r->half, r->n_vocab, r->write) != r->n_vocab)
        err_set(&r->err, IMP_E_IO, "cannot write the base file: is the disk full?");
}

static void compare_row(run *r, const float *l, double lz, uint32_t top, int32_t target)
{
    if (fread(r->half, sizeof *r->half, r->n_vocab, r->read) != r->n_vocab) {
        err_set(&r->err, IMP_E_IO, "the base file is shorter than its header says");
        return;
    }
    double bz = 0, kl = 0;
    uint32_t btop = 0;
    float bmax = -INFINITY;
    for (uint32_t i = 0; i < r->n_vocab; i++) {
        float b = quant_f16_to_f32(r->half[i]);
        bz += exp((double)b);
        if (b > bmax) {
            bmax = b;
            btop = i;
        }
    }
    bz = log(bz);
    for (uint32_t i = 0; i < r->n_vocab; i++) {
        double p = (double)quant_f16_to_f32(r->half[i]) - bz, q = (double)(l[i] - l[top]) - lz;
        if (p > -60)
            kl += exp(p) * (p - q);
    }
    r->kl += kl;
    r->kl_max = kl > r->kl_max ? kl : r->kl_max;
    r->same_top += btop == top;
    r->base_nll -= (double)quant_f16_to_f32(r->half[target]) - bz;
}

static void on_event(void *user, const imp_event *ev)
{
    run *r = user;
    if (ev->kind == IMP_EVENT_DONE && ev->status != IMP_OK)
        err_set(&r->err, ev->status, "%s", ev->message ? ev->message : imp_status_text(ev->status));
    if (ev->kind != IMP_EVENT_LOGITS || ev->n_done + 1 >= r->n_ctx || ev->n_done < r->first)
        return;
    uint32_t top;
    double lz = log_sum(ev->logits, ev->n_vocab, &top);
    int32_t target = r->tok[ev->n_done + 1];
    double v = lz - (double)(ev->logits[target] - ev->logits[top]);
    r->nll += v;
    r->nll2 += v * v;
    r->count++;
    if (r->write)
        write_row(r, ev->logits, ev->logits[top]);
    if (r->read)
        compare_row(r, ev->logits, lz, top, target);
}

static imp_status open_base(run *r, const char *path, uint64_t n_window, const int32_t *tok, imp_err *e)
{
    kl_header h = {.n_ctx = r->n_ctx, .n_vocab = r->n_vocab, .n_window = n_window}, got;
    memcpy(h.magic, MAGIC, sizeof MAGIC);
    r->half = mem_alloc(r->n_vocab * sizeof *r->half);
    if (!r->half)
        return err_oom(e, path, r->n_vocab * 2ull);
    if (!file_exists(path)) {
        r->write = fopen(path, "wb");
        if (!r->write || fwrite(&h, sizeof h, 1, r->write) != 1 ||
            fwrite(tok, sizeof *tok, n_window * r->n_ctx, r->write) != n_window * r->n_ctx)
            return err_set(e, IMP_E_IO, "%s: cannot write", path);
        return IMP_OK;
    }
    r->read = fopen(path, "rb");
    if (!r->read || fread(&got, sizeof got, 1, r->read) != 1 || memcmp(&got, &h, sizeof h) != 0)
        return err_set(e, IMP_E_PARSE, "%s: is not a base for this context, vocabulary and text", path);
    for (uint64_t i = 0; i < n_window * r->n_ctx; i++) {
        int32_t t;
        if (fread(&t, sizeof t, 1, r->read) != 1 || t != tok[i])
            return err_set(e, IMP_E_PARSE, "%s: was made from another text or tokenizer", path);
    }
    return IMP_OK;
}

static imp_status window(run *r, imp_engine *g, imp_err *e)
{
    imp_request q;
    imp_request_init(&q);
    q.prompt = r->tok;
    q.n_prompt = r->n_ctx;
    q.echo_logits = true;
    q.rows_from = r->first;
    q.max_tokens = 1;
    uint64_t id;
    imp_status s = imp_submit(g, &q, on_event, r, &id, e);
    if (s == IMP_OK)
        s = imp_wait(g, id, -1);
    if (s == IMP_OK && r->err.status != IMP_OK)
        s = err_set(e, r->err.status, "%s", r->err.message);
    return s;
}

imp_status perplexity_run(imp_model *m, imp_engine *g, const char *text, size_t n, uint32_t n_ctx, const char *kl_base,
                          imp_progress_fn progress, void *user, perplexity_result *out, imp_err *e)
{
    imp_model_info info = {.size = sizeof info};
    imp_model_get_info(m, &info);
    int32_t *tok = NULL;
    size_t n_tok = 0;
    imp_status s = imp_tokenize(m, text, n, IMP_ADD_SPECIAL, &tok, &n_tok, e);
    run r = {.n_ctx = n_ctx, .n_vocab = info.n_vocab, .first = n_ctx / 2};
    uint64_t n_window = n_tok / n_ctx;
    if (s == IMP_OK && n_tok < 2ull * n_ctx)
        s = err_set(e, IMP_E_USAGE, "the text is too short: wanted at least %llu tokens (twice -c), got %zu",
                    2ull * n_ctx, n_tok);
    bool has_bos = s == IMP_OK && info.bos >= 0 && tok[0] == info.bos;
    for (uint64_t w = 0; s == IMP_OK && has_bos && w < n_window; w++)
        tok[w * n_ctx] = info.bos;
    if (s == IMP_OK && kl_base)
        s = open_base(&r, kl_base, n_window, tok, e);
    for (uint64_t w = 0; s == IMP_OK && w < n_window; w++) {
        r.tok = tok + w * n_ctx;
        s = window(&r, g, e);
        if (s == IMP_OK && progress && !progress(user, "perplexity", w + 1, n_window))
            s = err_set(e, IMP_E_CANCELLED, "cancelled");
    }
    if (r.write && fclose(r.write) && s == IMP_OK)
        s = err_set(e, IMP_E_IO, "%s: cannot write: is the disk full?", kl_base);
    if (r.write && s != IMP_OK)
        unlink(kl_base);
    if (s == IMP_OK) {
        double mean = r.nll / (double)r.count, var = r.nll2 / (double)r.count - mean * mean;
        *out = (perplexity_result){.ppl = exp(mean), .n_token = r.count, .n_window = n_window};
        out->error = var > 0 && r.count > 1 ? sqrt(var / (double)(r.count - 1)) * out->ppl : 0;
        if ((out->compared = r.read != NULL)) {
            out->mean_kl = r.kl / (double)r.count;
            out->max_kl = r.kl_max;
            out->top1_agreement = (double)r.same_top / (double)r.count;
            out->base_ppl = exp(r.base_nll / (double)r.count);
        }
    }
    if (r.read)
        fclose(r.read);
    mem_free(r.half);
    imp_free(tok);
    return s;
}

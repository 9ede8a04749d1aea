/* Multi-token prediction: module i of the checkpoint, one layer that guesses the token after the next, as a plan of its
 * own over the same embedding and head. Its inputs are a token and the `hidden` row that the text plan (or module i-1)
 * made of the token before; positions are those of the token. Its own `hidden` is what the next module takes.
 *   x = proj [norm(embedding) | norm(hidden)];  x = layer(x);  hidden = norm(x);  logits = head hidden
 * Sources: DeepSeek-V3 (2024), section 2.2; checked against transformers' MtpModel and a reference of our own. */
#include "model/arch.h"

static plan_reg embed(build *b, const plan *text)
{
    plan_op op = text->op[0];
    op.weight[0] = plan_add_weight(b->p, text->weight[op.weight[0]]);
    op.out[0] = plan_add_reg(b->p, REG_WIDE, DIM_T, b->c->n_hidden);
    plan_add_op(b->p, &op);
    return op.out[0];
}

static plan_reg hidden(build *b, int32_t layer)
{
    plan_op op = plan_op_init(OP_HIDDEN, layer, "next_hidden");
    op.out[0] = plan_add_reg(b->p, REG_WIDE, DIM_T, b->c->n_hidden);
    plan_add_op(b->p, &op);
    return op.out[0];
}

static const weight *head_of(const plan *text)
{
    for (int32_t i = text->n_op - 1; i >= 0; i--)
        if (text->op[i].kind == OP_LINEAR && text->op[i].layer < 0)
            return text->weight[text->op[i].weight[0]];
    return NULL;
}

imp_status build_next(build *b, const plan *text, uint32_t i, bool *there)
{
    int32_t layer = (int32_t)(b->c->n_layer + i);
    uint64_t h = b->c->n_hidden;
    *there = bind_has(b, layer, "next_proj");
    if (!*there || b->status != IMP_OK)
        return b->status;
    plan_reg e = op_norm(b, layer, "next_enorm", embed(b, text), 0);
    plan_reg r = op_norm(b, layer, "next_hnorm", hidden(b, layer), 0);
    plan_reg x = op_concat(b, layer, "next_in", e, r, 1, false);
    x = op_linear(b, layer, "next_proj", x, bind_weight(b, layer, "next_proj", h, 2 * h, 0), REG_WIDE);
    if (b->status == IMP_OK)
        (b->arch->layer ? b->arch->layer : layer_std)(b, layer, &x);
    build_head(b, layer, bind_has(b, layer, "next_norm") ? "next_norm" : "output_norm", x, head_of(text));
    return b->status;
}

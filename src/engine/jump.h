/* jump: the tokens of bytes that a constraint forces, spelled as the tokenizer spells them, so that they are the tokens
 * the model would have written. Any thread that owns the state. */
#ifndef IMP_ENGINE_JUMP_H
#define IMP_ENGINE_JUMP_H

#include "constrain/constrain.h"
#include "text/tok.h"

/* Appends to out the tokens that must follow, at most `max` (0: none is certain). said[0..n_said) are the tokens that
 * the constraint has taken so far; c is not moved. A token is certain when its bytes are forced and no text that may
 * follow them would make the tokenizer cut before or inside it in another way. IMP_E_NOMEM: out is then as it was. */
imp_status jump_tokens(const tok *t, constrain_state *c, const int32_t *said, size_t n_said, size_t max, tok_ids *out,
                       imp_err *e);

#endif

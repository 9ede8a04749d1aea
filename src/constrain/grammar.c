/* Grammars: GBNF, EBNF and a subset of Lark. (being written) */
#include "constrain/constrain_impl.h"

void prog_from_dfa(cc *c, constrain_prog *p, const cdfa *d)
{
    p->raw = (const cdfa **)(void *)CC_KEEP(c, cdfa *, 1);
    p->raw[0] = dfa_keep(c, d);
    p->n_raw = 1;
    p->gsym = CC_KEEP(c, gsym, 2);
    p->gsym[0] = (gsym){GS_LEX, 0};
    p->gsym[1] = (gsym){GS_END, 0};
    p->n_gsym = 2;
    p->rule = CC_KEEP(c, grule, 1);
    p->rule[0].prod = CC_KEEP(c, uint32_t, 1);
    p->rule[0].n = 1;
    p->n_rule = 1;
}

void grammar_compile(cc *c, const char *text, size_t n, constrain_prog *p)
{
    (void)text;
    (void)n;
    (void)p;
    cc_fail(c, IMP_E_UNSUPPORTED, "grammar: not built yet");
}

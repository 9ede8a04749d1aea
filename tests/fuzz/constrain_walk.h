/* What the constraint fuzzers share: compile the input, then walk it with its own bytes. */
#ifndef IMP_TESTS_FUZZ_CONSTRAIN_WALK_H
#define IMP_TESTS_FUZZ_CONSTRAIN_WALK_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "constrain/constrain.h"

typedef imp_status (*compile_fn)(const char *text, size_t n, const constrain_options *o, constrain_prog **out,
                                 imp_err *e);

/* No crash, no leak, no limit passed; every prefix that is accepted must have a way on (invariant 1 of machine.h). */
static int constrain_walk(compile_fn compile, const uint8_t *data, size_t n)
{
    constrain_options o = {.max_bytes = (size_t)64 << 20, .max_states = 3000, .max_work = 20000000};
    constrain_prog *p = NULL;
    constrain_state *s = NULL, *t = NULL;
    imp_err e = {0};
    /* the last third drives the walk */
    size_t cut = n - n / 3;
    if (compile((const char *)data, cut, &o, &p, &e)) {
        if (!e.status || !e.message[0])
            abort(); /* a failure without its sentence */
        return 0;
    }
    if (!constrain_state_new(p, NULL, &s, NULL)) {
        for (size_t i = cut; i < n && i < cut + 200; i++) {
            if (constrain_state_accept_bytes(s, (const char *)data + i, 1))
                continue;
            /* refused: something else must be possible, or the text is complete */
            strbuf f = {0};
            constrain_state_forced(s, 8, &f);
            if (f.n && !constrain_state_accept_bytes(s, f.s, f.n))
                abort();
            if (!f.n && !constrain_state_is_complete(s)) {
                bool any = false;
                for (int b = 0; b < 256 && !any; b++) {
                    char ch = (char)b;
                    if (constrain_state_clone(s, &t, NULL))
                        break;
                    any = constrain_state_accept_bytes(t, &ch, 1);
                    constrain_state_free(t);
                }
                if (!any && p)
                    abort(); /* a dead end */
            }
            sb_free(&f);
        }
        constrain_state_free(s);
    }
    constrain_prog_free(p);
    return 0;
}

#endif

/* Fuzzes constrain_compile_grammar and what it compiles to. */
#include "constrain_walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) { return constrain_walk(constrain_compile_grammar, data, n); }

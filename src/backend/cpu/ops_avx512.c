#define CPU_OPS cpu_ops_avx512
#define CPU_ISA "AVX-512"
#include "backend/cpu/ops_body.h"

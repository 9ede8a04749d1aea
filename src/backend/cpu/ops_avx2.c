#define CPU_OPS cpu_ops_avx2
#define CPU_ISA "AVX2"
#include "backend/cpu/ops_body.h"

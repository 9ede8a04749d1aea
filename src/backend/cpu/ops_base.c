#define CPU_OPS cpu_ops_base
#define CPU_ISA "SSE2"
#include "backend/cpu/ops_body.h"

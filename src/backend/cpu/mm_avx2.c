#include "backend/cpu/pack.h"
const cpu_mm cpu_mm_avx2 = {.isa = "avx2"};

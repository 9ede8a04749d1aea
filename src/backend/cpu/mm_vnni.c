#include "backend/cpu/pack.h"
const cpu_mm cpu_mm_vnni = {.isa = "vnni"};

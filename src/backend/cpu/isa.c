/* The instruction sets, best first. Each lives in files with its suffix; this list is the only place that names them. */
#include "backend/cpu/cpu.h"

static const cpu_linear *scalar_pick(const weight *w)
{
    (void)w;
    return &cpu_linear_generic;
}

const cpu_isa cpu_isa_scalar = {.name = "scalar", .pick = scalar_pick};

const cpu_isa *const cpu_isa_list[] = {
    &cpu_isa_scalar,
    NULL,
};

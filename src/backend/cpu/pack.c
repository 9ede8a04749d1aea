#include "backend/cpu/pack.h"

#include <stddef.h>

const cpu_pack cpu_pack_table[PACK_COUNT] = {[0] = {.id = QUANT_NONE}};

const cpu_pack *cpu_pack_find(quant_id id)
{
    for (size_t i = 0; i < PACK_COUNT; i++)
        if (cpu_pack_table[i].pack && cpu_pack_table[i].id == id)
            return &cpu_pack_table[i];
    return NULL;
}

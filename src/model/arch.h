/* arch: the table row that a model family is (filled in by the plan's author; see docs/design.md). */
#ifndef IMP_MODEL_ARCH_H
#define IMP_MODEL_ARCH_H

#include <stddef.h>

typedef struct arch_def arch_def;
extern const arch_def *const arch_list[]; /* generated from the folder src/arch; NULL-terminated */

#endif

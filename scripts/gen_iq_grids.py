#!/usr/bin/env python3
"""Writes src/quant/iq_grids.h: the code books of the IQ formats, which are facts of the file format.

Needs the PyPI packages gguf and numpy. Each grid point becomes one 16-bit number, eight fields of two bits or four
fields of four bits, field 0 lowest; a field is the index of a magnitude in the format's short value list.
Run it again only if a format gains a grid:  python3 scripts/gen_iq_grids.py > src/quant/iq_grids.h
"""
import numpy as np
import gguf.quants as q

GRIDS = [("IQ2_XXS", q.IQ2_XXS), ("IQ2_XS", q.IQ2_XS), ("IQ2_S", q.IQ2_S),
         ("IQ3_XXS", q.IQ3_XXS), ("IQ3_S", q.IQ3_S), ("IQ1", q.IQ1_S)]

print("""/* iq_grids: code books of the IQ formats, written by scripts/gen_iq_grids.py. A grid point is 16 bits: eight fields of
 * two bits (IQ1, IQ2) or four fields of four bits (IQ3), field 0 lowest; a field indexes the values above its grid.
 * Initialisers, so that a kernel can put them into the memory it likes. */
#ifndef IMP_QUANT_IQ_GRIDS_H
#define IMP_QUANT_IQ_GRIDS_H

/* clang-format off */""")
for name, cls in GRIDS:
    cls.init_grid()
    grid = cls.grid.reshape(cls.grid_shape)
    values = list(cls.grid_map)
    bits = 16 // grid.shape[1]
    points = [sum(values.index(int(v)) << (bits * k) for k, v in enumerate(row)) for row in grid]
    assert len(set(points)) == len(points)
    print(f"\n#define {name}_VALUES {{{', '.join(str(v) for v in values)}}}")
    print(f"#define {name}_POINTS {len(points)}")
    print(f"#define {name}_GRID {{ \\")
    for i in range(0, len(points), 14):
        print("    " + " ".join(f"0x{p:04x}," for p in points[i:i + 14]) + " \\")
    print("}")
print("\n#endif")

/* attend.cuh: what the attention kernels share. A token sees positions [lo, hi); their K and V lie in blocks found
 * through the sequence's table. Softmax runs in base 2 with the scale folded in. */
#ifndef IMP_CUDA_ATTEND_CUH
#define IMP_CUDA_ATTEND_CUH

#include "ptx.cuh"

#define LOG2E 1.4426950408889634f

struct view { /* one token's */
    u32 lo, hi;
    const i32 *table;
    i32 base;
};

/* table, base: the sequence's of the group. */
DEV view token_view(const attend_args &p, const tok_desc &d, i32 table, i32 base)
{
    view v;
    v.lo = (u32)d.vis_begin;
    v.hi = (u32)d.vis_end;
    if (p.window && d.kv_index + 1 > (i32)(v.lo + p.window))
        v.lo = (u32)d.kv_index + 1 - p.window;
    v.table = (const i32 *)p.table + table;
    v.base = base;
    return v;
}
DEV view token_view(const attend_args &p, u32 tok)
{
    const tok_desc &d = ((const tok_desc *)p.tok)[tok];
    const seq_desc &s = ((const seq_desc *)p.seq)[d.seq];
    return token_view(p, d, s.table[p.group], s.base[p.group]);
}
DEV const u8 *block_of(const attend_args &p, const view &v, u32 pos)
{
    return (const u8 *)p.kv + (u64)(u32)v.table[(i32)(pos / p.block_size) - v.base] * p.block_bytes;
}

#endif

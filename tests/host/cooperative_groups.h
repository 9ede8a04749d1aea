/* cooperative_groups: what imp_sample needs of CUDA's header of that name, on simt.h's clusters. */
#ifndef COOPERATIVE_GROUPS_HOST_H
#define COOPERATIVE_GROUPS_HOST_H

#include "simt.h"

namespace cooperative_groups
{
struct cluster_group {
    void sync(void) const
    {
        simt_cluster_arrive();
        simt_cluster_wait();
    }
    /* Where block `rank` of the cluster has what p points to in this block. */
    template <class T> T *map_shared_rank(T *p, uint32_t rank) const
    {
        return (T *)simt_shared(simt_shared_address(p) % SIMT_BLOCK + rank * SIMT_BLOCK, sizeof(T));
    }
};
static inline cluster_group this_cluster(void) { return {}; }
} // namespace cooperative_groups

#endif

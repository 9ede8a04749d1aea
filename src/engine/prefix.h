/* prefix: which computed KV blocks can serve another sequence. A tree: a node is one full block of tokens behind its
 * parent's, with its block in every KV group; two nodes are the same when their tokens, their parents and the salt at
 * the root are. Hashes only find candidates. No I/O, no clock, no locks: engine thread only.
 *
 * Ownership: a node holds one reference on each of its blocks. A sequence that took or added nodes keeps its path
 * (prefix_at) and with it every node of the path alive; what its tables hold are references of its own. Blocks in the
 * tree are full and never written again.
 * Invariants: (1) a node's block in a group without a window is there as long as the node, and equals the table entry
 * of every sequence on it; (2) in a window group it may be missing: it goes alone, when only the tree holds it;
 * (3) nodes on no path stand in one list in order of their last use, a child always before its parent, so the first can
 * be taken out.
 * Cost: nothing in a step that completes no block; O(tokens of a block) for each that is completed; O(path) when a
 * sequence starts and ends. Allocates when made, and for a salt when the first block behind it is added. */
#ifndef IMP_ENGINE_PREFIX_H
#define IMP_ENGINE_PREFIX_H

#include "engine/blocks.h"
#include "plan/plan.h"

typedef struct prefix prefix;

/* Where a sequence stands: start with PREFIX_ROOT. */
typedef struct prefix_at {
    int32_t node;      /* the last node of its path, -1 = none */
    uint32_t depth;    /* nodes of the path */
    bool stuck;        /* no node was to be had: it adds no more */
} prefix_at;
#define PREFIX_ROOT ((prefix_at){.node = -1})

/* blk[n_group] and group[n_group] are borrowed and must outlive it. n_node >= 1 nodes at most. IMP_E_NOMEM. */
imp_status prefix_new(blocks *blk, const plan_kv_group *group, int n_group, int32_t block_size, int32_t n_node,
                      prefix **out, imp_err *e);
/* Forgets the tree without dropping its references (prefix_clear does). NULL is fine. */
void prefix_free(prefix *p);

/* Takes the longest path that serves tok[0..max_blocks * block_size): puts its blocks, each with a reference, into the
 * (empty) tables of a sequence that will go on behind it, without those that no window sees from there. Returns its
 * blocks. salt: NULL = none; different salts share nothing. */
uint32_t prefix_take(prefix *p, const char *salt, const int32_t *tok, uint32_t max_blocks, prefix_at *at,
                     int32_t *const *table, int32_t *table_len, int32_t *base);
/* The next block of a path was computed: tok[block_size] are its tokens, entry[i] its place in the sequence's table of
 * group i, NULL where a window has left it behind. When the tree has that block already, the sequence's own are
 * exchanged for the tree's. */
void prefix_add(prefix *p, prefix_at *at, const char *salt, const int32_t *tok, int32_t *const *entry);
/* The sequence is over, or gave up its blocks; *at is at the root again. */
void prefix_leave(prefix *p, prefix_at *at);

/* To be called after a sequence dropped its reference on a block: it may be the tree's alone now. */
void prefix_dropped(prefix *p, int group, int32_t block);
/* Gives up the least recently used cached data that holds a block of this group; false: there is none. */
bool prefix_evict(prefix *p, int group);
/* Blocks of this group that prefix_evict can still make free. */
int32_t prefix_idle(const prefix *p, int group);
/* Evicts everything that no path holds. */
void prefix_clear(prefix *p);

/* For tests: walks all of it; what is wrong with it, NULL = nothing. */
const char *prefix_fault(const prefix *p);
/* For tests: from now on (nothing was added yet) all hashes are alike, so that comparisons alone tell nodes apart. */
void prefix_hash_nothing(prefix *p);

#endif

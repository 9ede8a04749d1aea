/* simt: runs a CUDA kernel's threads on one thread of the host. Every thread is a fiber that runs until it has to wait
 * for others; which warp is next is drawn from a seeded sequence, so that a run repeats exactly and no order is relied
 * upon.
 *
 * The machine is as unkind as the real one may be, so that what a kernel must not rely on shows:
 *   shared memory is poison before a block begins, and so is the target of a copy from when it is asked for until it is
 *   waited for; copies are done at the last moment allowed (cp.async: at wait_group; bulk: when nothing else can
 *   run, those of one barrier that is waited for);
 *   lanes of a warp stand still together only where an instruction makes them.
 * Blocks of a cluster run at once; without clusters, so do up to SIMT_CLUSTER neighbours along x. An error ends the
 * launch with a message.
 *
 * Addresses of shared memory are offsets into a window that all blocks that run lie in, SIMT_BLOCK apart. One user
 * at a time: all state is global. */
#ifndef SIMT_H
#define SIMT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SIMT_BLOCK (256u << 10)   /* of the window: a block's */
#define SIMT_DYNAMIC (227u << 10) /* of that: what a launch may ask for; arrays that a kernel declares follow */
#define SIMT_CLUSTER 8            /* blocks at most */
#define SIMT_THREADS 1024         /* of a block */
#define SIMT_PARAMS 3

typedef struct simt_dim {
    uint32_t x, y, z;
} simt_dim;

/* A kernel as kernels.cpp lists it: call(fn, param) is fn(*param[0], ...). */
typedef struct simt_kernel {
    const char *name;
    void (*fn)(void);
    void (*call)(void (*fn)(void), void *const *param);
    int n_param;
    size_t size[SIMT_PARAMS];
    uint64_t n_launch;
    struct simt_kernel *next;
} simt_kernel;
/* All kernels there are. This and the seed are for the program that tests, too. */
#define SIMT_PUBLIC __attribute__((visibility("default")))
SIMT_PUBLIC extern simt_kernel *simt_kernels;
SIMT_PUBLIC void simt_seed(uint64_t seed);

/* A launch. False: *error says what went wrong, in which kernel and block. */
bool simt_launch(simt_kernel *k, void *const *param, simt_dim grid, uint32_t threads, uint32_t cluster, uint32_t smem,
                 const char **error);

/* ---- for the code of kernels: all of it is about the thread that calls ------------------------------------------- */
typedef struct simt_at {
    simt_dim thread, block, grid;
    uint32_t lane, rank; /* rank: of its block in the cluster */
} simt_at;
extern const simt_at *simt_me;
extern const char *simt_running; /* the kernel launched last */

void simt_fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

void *simt_dynamic(void);
void *simt_static(const void *key, size_t bytes); /* the block's array that `key` stands for */
uint32_t simt_shared_address(const void *p);
void *simt_shared(uint32_t address, uint32_t bytes); /* checked: aligned, and inside a block that has not left */

/* A warp's instruction: the lanes of mask leave what they have in `in`; the last one to come works out every `out`. */
typedef struct simt_lane {
    uint32_t in[12], out[4];
} simt_lane;
typedef void simt_work(simt_lane *lane, uint32_t mask);
simt_lane *simt_in(void); /* this lane's */
const uint32_t *simt_meet(uint32_t mask, simt_work *work);
uint32_t simt_warp_alive(void); /* lanes that have not left, once all of them are here or gone */

void simt_barrier(uint32_t id, uint32_t n, bool wait); /* n 0: all threads that have not left */
void simt_pause(void); /* in a loop that waits for other blocks */
void simt_cluster_arrive(void);
void simt_cluster_wait(void);

/* cp.async: bytes from src, or zeros where src is NULL. */
void simt_copy(uint32_t dst, const void *src, uint32_t bytes);
void simt_copy_commit(void);
void simt_copy_wait(uint32_t groups);

void simt_mbar_init(uint32_t bar, uint32_t count);
void simt_mbar_arrive(uint32_t bar, uint32_t expect);
void simt_mbar_wait(uint32_t bar, uint32_t parity);
void simt_bulk(uint32_t dst, const void *src, uint32_t bytes, uint32_t bar);
/* A value that another block is sent; told to its barrier. */
void simt_send(uint32_t dst, const void *value, uint32_t bytes, uint32_t bar);

/* What cuTensorMapEncodeTiled makes of a tensor of f16 with 128 bytes swizzle; lies in the CUtensorMap. */
typedef struct simt_map {
    uint64_t base, stride[4];
    uint32_t dim[5];
    uint16_t box[5], rank;
} simt_map;
void simt_tensor(uint32_t dst, const simt_map *map, const uint32_t *at, uint32_t bar);

#ifdef __cplusplus
}
#endif
#endif

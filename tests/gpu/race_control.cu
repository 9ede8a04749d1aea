/* race_control: what racecheck says of hand-overs through mbarriers, on kernels whose answer is known. imp_gemv's warps
 * hand sums to one warp, in turn, through two mbarriers a place: full (the writers arrive, the adding warp waits) and
 * free (the other way round). compute-sanitizer calls that a race; these kernels show what of it the tool follows.
 *
 *   nvcc -O3 -std=c++17 -arch=sm_90a -lineinfo -cudart static -Isrc tests/gpu/race_control.cu -o race_control
 *   race_control        # runs all, checks what those write that are right by construction; 1 if one of them is wrong
 *   python3 tests/gpu/race_control.py --program race_control      # the same under racecheck: wanted and reported
 *
 * Right, no report wanted:
 *   rc_syncthreads   the hand-over with __syncthreads
 *   rc_every_lane    every writing lane arrives itself
 *   rc_lane0         as imp_gemv: __syncwarp, then lane 0 arrives for its warp. Right because each lane's write comes
 *                    before bar.warp.sync, that before lane 0's arrive (release), that before the wait (acquire)
 *   rc_bulk          a warp's values come through a ring of bulk copies that lane 0 asks for, as imp_gemv's tiles
 *   rc_gemv          both
 *   rc_counted       rc_lane0, but its barriers are set up where the compiler counts the places that do so: 3, for 24.
 *                    The tool believes that number, EIATTR_NUM_MBARRIERS in the cubin; --num-cuda-barriers corrects it.
 *                    The others set theirs up in a loop of unknown length, as imp_gemv, and the compiler gives 0xffff
 * Wrong, a report wanted:
 *   rc_read_early    sums are read before full is waited for
 *   rc_arrive_early  lane 0 arrives before its warp has written
 *   rc_no_syncwarp   lane 0 arrives without waiting for its warp's other lanes
 *   rc_write_early   a place is written again before free is waited for
 *   rc_bulk_early    the ring is read before its copy is waited for
 * The wrong ones may still add up: racing is not losing. None can hang: each waits and arrives as often as the right
 * ones, at the wrong place. */
#include <cstdio>
#include <cstring>
#include <vector>

#include "backend/cuda/kernels/ptx.cuh"

#define WARPS 8
#define SUMS 4  /* places whose sums may be under way */
#define STAGE 2 /* places of a warp's ring */
#define TURNS 64
#define BLOCKS 4

enum {
    SYNC = 1, EVERY_LANE = 2, BULK = 4, NO_SUMS = 8,
    READ_EARLY = 16, ARRIVE_EARLY = 32, NO_SYNCWARP = 64, WRITE_EARLY = 128, BULK_EARLY = 256, COUNTED = 512
};

/* x: [TURNS][WARPS][32] small integers, so that sums are exact in any order. out: [BLOCKS][TURNS][32]. stage: STAGE,
 * which the compiler is not to know. */
template <int HOW> DEV void hand_over(const float *x, float *out, u32 stage)
{
    extern __shared__ __align__(128) u8 smem[];
    const u32 tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    /* barriers of sums 64 | of rings 128 | pad | sums | rings; addressed as imp_gemv does, not as __shared__ objects */
    const u32 sums = smem_addr(smem), bars = smem_addr(smem) + 64 + warp * 16;
    float *red = (float *)(smem + 256), *ring = (float *)(smem + 256 + SUMS * WARPS * 128) + warp * STAGE * 32;
    if (tid < SUMS) {
        mbar_init(sums + tid * 16, HOW & EVERY_LANE ? WARPS * 32 : WARPS);
        mbar_init(sums + tid * 16 + 8, HOW & EVERY_LANE ? 32 : 1);
    }
    if ((HOW & COUNTED) && lane < STAGE)
        mbar_init(bars + lane * 8, 1);
    if (!(HOW & COUNTED) && lane == 0)
        for (u32 i = 0; i < stage; i++)
            mbar_init(bars + i * 8, 1);
    mbar_init_fence();
    __syncthreads();

    auto request = [&](u32 turn) {
        if ((HOW & BULK) && lane == 0 && turn < TURNS) {
            mbar_expect(bars + turn % STAGE * 8, 128);
            const u32 to = smem_addr(ring + turn % STAGE * 32);
            bulk_load_keep(to, x + (turn * WARPS + warp) * 32, 128, bars + turn % STAGE * 8);
        }
    };
    for (u32 i = 0; i < STAGE; i++)
        request(i);

    for (u32 turn = 0; turn < TURNS; turn++) {
        const u32 buf = turn % SUMS, full = sums + buf * 16, free = full + 8;
        float v;
        if (HOW & BULK) {
            const u32 slot = turn % STAGE;
            if (HOW & BULK_EARLY)
                v = *(volatile float *)(ring + slot * 32 + ((lane + 3) & 31));
            mbar_wait(bars + slot * 8, turn / STAGE & 1);
            if (!(HOW & BULK_EARLY))
                v = *(volatile float *)(ring + slot * 32 + ((lane + 3) & 31));
            __syncwarp();
            request(turn + STAGE);
        } else {
            v = x[(turn * WARPS + warp) * 32 + ((lane + 3) & 31)];
        }
        if (HOW & NO_SUMS) { /* the ring alone */
            if (turn % WARPS == warp)
                out[(blockIdx.x * TURNS + turn) * 32 + lane] = v;
            continue;
        }
        volatile float *place = red + buf * WARPS * 32;
        if (HOW & WRITE_EARLY)
            place[warp * 32 + lane] = v;
        if (!(HOW & SYNC) && turn >= SUMS)
            mbar_wait(free, (turn / SUMS & 1) ^ 1);
        if ((HOW & ARRIVE_EARLY) && lane == 0)
            mbar_arrive(full);
        if (HOW & (ARRIVE_EARLY | READ_EARLY | NO_SYNCWARP))
            __nanosleep(lane == 31 ? 2000 : 200); /* lets the race be lost at times */
        if (!(HOW & WRITE_EARLY))
            place[warp * 32 + lane] = v;
        if (HOW & SYNC) {
            __syncthreads();
        } else if (HOW & EVERY_LANE) {
            mbar_arrive(full);
        } else if (!(HOW & ARRIVE_EARLY)) {
            if (!(HOW & NO_SYNCWARP))
                __syncwarp();
            if (lane == 0)
                mbar_arrive(full);
        }
        if (turn % WARPS != warp)
            continue;
        if (!(HOW & (SYNC | READ_EARLY)))
            mbar_wait(full, turn / SUMS & 1);
        float sum = 0;
        for (u32 w = 0; w < WARPS; w++)
            sum += place[w * 32 + ((lane + 5) & 31)]; /* another lane's, as in imp_gemv */
        out[(blockIdx.x * TURNS + turn) * 32 + lane] = sum;
        if (HOW & READ_EARLY)
            mbar_wait(full, turn / SUMS & 1);
        if (HOW & SYNC)
            continue; /* SUMS turns lie between this read and the next write, a barrier in each */
        if (HOW & EVERY_LANE) {
            mbar_arrive(free);
        } else {
            __syncwarp();
            if (lane == 0)
                mbar_arrive(free);
        }
    }
}

/* name, what it does, right by construction */
#define CASES(X) \
    X(rc_syncthreads, SYNC, 1) X(rc_every_lane, EVERY_LANE, 1) X(rc_lane0, 0, 1) \
    X(rc_bulk, BULK | NO_SUMS, 1) X(rc_gemv, BULK, 1) X(rc_counted, COUNTED, 1) \
    X(rc_read_early, READ_EARLY, 0) X(rc_arrive_early, ARRIVE_EARLY, 0) X(rc_no_syncwarp, NO_SYNCWARP, 0) \
    X(rc_write_early, WRITE_EARLY, 0) X(rc_bulk_early, BULK | NO_SUMS | BULK_EARLY, 0)

#define DEFINE(name, how, right) \
    KERNEL(WARPS * 32, 1) name(const float *x, float *out, u32 stage) { hand_over<how>(x, out, stage); }
CASES(DEFINE)

#define ROW(name, how, right) {#name, name, how, right},
static const struct {
    const char *name;
    void (*kernel)(const float *, float *, u32);
    int how, right;
} cases[] = {CASES(ROW)};

static bool cuda_ok(cudaError_t e, const char *what)
{
    if (e != cudaSuccess)
        fprintf(stderr, "race_control: %s: %s\n", what, cudaGetErrorString(e));
    return e == cudaSuccess;
}

/* Wrong values among what the kernel wrote. */
static int count_wrong(const std::vector<float> &x, const std::vector<float> &out, int how)
{
    int n = 0;
    for (int b = 0; b < BLOCKS; b++)
        for (int t = 0; t < TURNS; t++)
            for (int lane = 0; lane < 32; lane++) {
                float want = 0;
                if (how & NO_SUMS)
                    want = x[(t * WARPS + t % WARPS) * 32 + ((lane + 3) & 31)];
                else
                    for (int w = 0; w < WARPS; w++)
                        want += x[(t * WARPS + w) * 32 + ((((lane + 5) & 31) + 3) & 31)];
                n += out[(b * TURNS + t) * 32 + lane] != want;
            }
    return n;
}

/* race_control [NAME]: all cases, or those whose name is NAME. */
int main(int argc, char **argv)
{
    std::vector<float> x(TURNS * WARPS * 32), out(BLOCKS * TURNS * 32);
    for (size_t i = 0; i < x.size(); i++)
        x[i] = (float)((i * 2654435761u >> 20) % 1000);
    float *dx, *dout;
    if (!cuda_ok(cudaMalloc(&dx, x.size() * 4), "cudaMalloc") ||
        !cuda_ok(cudaMalloc(&dout, out.size() * 4), "cudaMalloc") ||
        !cuda_ok(cudaMemcpy(dx, x.data(), x.size() * 4, cudaMemcpyHostToDevice), "copy"))
        return 2;
    int bad = 0, n = 0;
    for (auto &c : cases) {
        if (argc > 1 && strcmp(argv[1], c.name))
            continue;
        if (!cuda_ok(cudaMemset(dout, 0xff, out.size() * 4), "cudaMemset")) /* NaN: what is not written is wrong */
            return 2;
        c.kernel<<<BLOCKS, WARPS * 32, 256 + SUMS * WARPS * 128 + WARPS * STAGE * 128>>>(dx, dout, STAGE);
        if (!cuda_ok(cudaGetLastError(), c.name) || !cuda_ok(cudaDeviceSynchronize(), c.name) ||
            !cuda_ok(cudaMemcpy(out.data(), dout, out.size() * 4, cudaMemcpyDeviceToHost), "copy"))
            return 2;
        int wrong = count_wrong(x, out, c.how);
        printf("%-16s %s by construction: %d of %zu values wrong\n", c.name, c.right ? "right" : "wrong", wrong,
               out.size());
        bad += c.right && wrong;
        n++;
    }
    cudaFree(dx);
    cudaFree(dout);
    if (n == 0)
        fprintf(stderr, "race_control: no case has that name\n");
    return n == 0 ? 2 : bad ? 1 : 0;
}

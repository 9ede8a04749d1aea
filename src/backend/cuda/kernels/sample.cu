// The sampler of plan/sample.h, stage by stage, for rows whose next token needs nothing from the host. A cluster of
// eight blocks holds a row's logits in shared memory; masses are integers, so every sum is exact in any order and the
// token is the reference's for the same logits. A set "smallest that reaches a mass" is a threshold on (value, lowest
// id first) keys, found two bits at a time. When few tokens hold what the stages can keep, one block goes on with a
// list of them.
#include <cooperative_groups.h>

#include "ptx.cuh"
#include "sample_params.h"

namespace cg = cooperative_groups;

namespace
{
constexpr u32 WARPS = SAMPLE_THREADS / 32, MAX_SUMS = 5;

struct shared {
    u64 list[SAMPLE_LIST];
    u64 warp[WARPS * MAX_SUMS];
    u64 cross[2][SAMPLE_CLUSTER][MAX_SUMS];
    u64 sum[MAX_SUMS];
    u64 tops[SAMPLE_CLUSTER][SAMPLE_TOPS];
    u64 scan[WARPS];
    u32 n_list;
};
static_assert(sizeof(shared) <= SAMPLE_FIXED, "SAMPLE_FIXED");

// sample.c's exp_neg with its roundings: no product and sum may be joined.
__device__ __forceinline__ float exp_neg(float x)
{
    float n = __fadd_rn(__fmul_rn(x, 1.44269504f), 12582912.0f);
    u32 bits = __float_as_uint(n);
    n = __fsub_rn(n, 12582912.0f);
    float f = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0.693145752f)), __fmul_rn(n, 1.42860677e-6f));
    float p = 0.00138888892f;
    p = __fadd_rn(0.00833345205f, __fmul_rn(f, p));
    p = __fadd_rn(0.0416666418f, __fmul_rn(f, p));
    p = __fadd_rn(0.166666672f, __fmul_rn(f, p));
    p = __fadd_rn(0.5f, __fmul_rn(f, p));
    p = __fadd_rn(1.0f, __fmul_rn(f, p));
    p = __fadd_rn(1.0f, __fmul_rn(f, p));
    return x >= -87.0f && x <= 0.0f ? __fmul_rn(p, __uint_as_float((bits - 0x4B400000u + 127u) << 23)) : 0.0f;
}
__device__ __forceinline__ u64 mass(float x) { return (u64)__fmul_rn(exp_neg(x), 8796093022208.0f); } // 2^43: exact

__device__ __forceinline__ u64 part(float p, u64 z)
{
    double need = ceil(__dmul_rn((double)p, __ull2double_rn(z)));
    return need < 1.0 ? 1 : (u64)need;
}

// Larger float, larger key; then lower id. 0 = no candidate.
__device__ __forceinline__ u32 ordered(float v)
{
    u32 u = __float_as_uint(v == 0.0f ? 0.0f : v);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}
__device__ __forceinline__ float unordered(u32 o) { return __uint_as_float(o & 0x80000000u ? o & 0x7FFFFFFFu : ~o); }
__device__ __forceinline__ u64 key_of(float v, u32 id) { return (u64)ordered(v) << 32 | (0xFFFFFFFFu - id); }

// What is kept, the same in every thread.
struct kept {
    u64 value;   // key by value at least this
    u64 typical; // key by distance at least this; 0: no typical-p
    double mean;
    float max, least; // least e^(l - max), min-p
};

__device__ __forceinline__ u64 typical_key(float v, u32 id, const kept &k)
{
    double d = fabs(__dsub_rn((double)__fsub_rn(k.max, v), k.mean));
    return key_of(-__double2float_rn(d), id);
}
__device__ __forceinline__ bool keeps(float v, u32 id, const kept &k)
{
    if (v == -INFINITY || key_of(v, id) < k.value)
        return false;
    if (k.typical && typical_key(v, id, k) < k.typical)
        return false;
    return k.least == 0.0f || exp_neg(__fsub_rn(v, k.max)) >= k.least;
}

// The elements of this thread: its run of the block's slice, or its share of the list.
struct elements {
    const float *slice;
    u32 base, begin, end; // slice
    const u64 *list;
    u32 n_list;
};

template <bool LIST, class F> __device__ __forceinline__ void each(const elements &el, F f)
{
    if (LIST) {
        for (u32 i = threadIdx.x; i < el.n_list; i += SAMPLE_THREADS)
            f(unordered((u32)(el.list[i] >> 32)), 0xFFFFFFFFu - (u32)el.list[i]);
    } else {
        for (u32 i = el.begin; i < el.end; i++)
            f(el.slice[i], el.base + i);
    }
}

// Sums (or maxima) over the threads that work together; every one of them gets them.
enum group { BLOCK, CLUSTER };
struct reducer {
    shared *s;
    u32 rank, turn;
};
template <group G, int N, bool MAX> __device__ void reduce(reducer &r, u64 (&v)[N])
{
    static_assert(N <= (int)MAX_SUMS, "MAX_SUMS");
    const u32 tid = threadIdx.x, warp = tid >> 5;
#pragma unroll
    for (int j = 0; j < N; j++) {
#pragma unroll
        for (int o = 16; o; o >>= 1) {
            u64 w = __shfl_xor_sync(~0u, v[j], o);
            v[j] = MAX ? (w > v[j] ? w : v[j]) : v[j] + w;
        }
        if ((tid & 31) == 0)
            r.s->warp[warp * N + j] = v[j];
    }
    __syncthreads();
    const u32 j = tid % N, to = tid / N;
    u64 x = 0;
    if (to < (G == CLUSTER ? SAMPLE_CLUSTER : 1u))
        for (u32 w = 0; w < WARPS; w++) {
            u64 y = r.s->warp[w * N + j];
            x = MAX ? (y > x ? y : x) : x + y;
        }
    if (G == CLUSTER) {
        cg::cluster_group c = cg::this_cluster();
        if (to < SAMPLE_CLUSTER)
            *c.map_shared_rank(&r.s->cross[r.turn & 1][r.rank][j], to) = x;
        c.sync();
        if (to == 0) {
            x = 0;
            for (u32 b = 0; b < SAMPLE_CLUSTER; b++) {
                u64 y = r.s->cross[r.turn & 1][b][j];
                x = MAX ? (y > x ? y : x) : x + y;
            }
        }
        r.turn++;
    }
    if (to == 0)
        r.s->sum[j] = x;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < N; k++)
        v[k] = r.s->sum[k];
}

enum by { BY_VALUE, BY_TYPICAL, BY_ID };

// The key of the last element of the smallest set, largest keys first, whose count or mass reaches `need`; 0 when all
// of them do not.
template <bool LIST, group G>
__device__ u64 threshold(reducer &r, const elements &el, const kept &k, by how, bool count, u64 need)
{
    u64 found = 0;
    for (int half = how == BY_ID ? 1 : 0; half < 2; half++) {
        // ids are below 2^20, so the upper bits of the lower half are ones
        u64 have = half ? found | 0xFFF00000u : 0;
        for (int bit = half ? 18 : 62; bit >= (half ? 0 : 32); bit -= 2) {
            u64 s[3] = {0, 0, 0};
            each<LIST>(el, [&](float v, u32 id) {
                u64 key = how == BY_ID ? (u64)(0xFFFFFFFFu - id) : how == BY_VALUE ? key_of(v, id) : 0;
                if (how != BY_TYPICAL && key < (have | 1ull << bit))
                    return;
                if (!keeps(v, id, k))
                    return;
                if (how == BY_TYPICAL) {
                    key = typical_key(v, id, k);
                    if (key < (have | 1ull << bit))
                        return;
                }
                u64 m = count ? 1 : mass(__fsub_rn(v, k.max));
                s[0] += m;
                s[1] += key >= (have | 2ull << bit) ? m : 0;
                s[2] += key >= (have | 3ull << bit) ? m : 0;
            });
            reduce<G, 3, false>(r, s);
            have |= s[2] >= need ? 3ull << bit : s[1] >= need ? 2ull << bit : s[0] >= need ? 1ull << bit : 0;
        }
        found = have;
        if (half)
            break;
        u64 same[1] = {0}; // one token alone has this value: its id decides nothing
        each<LIST>(el, [&](float v, u32 id) {
            u64 key = how == BY_TYPICAL && v > -INFINITY ? typical_key(v, id, k) : key_of(v, id);
            same[0] += key >> 32 == found >> 32 && keeps(v, id, k);
        });
        reduce<G, 1, false>(r, same);
        if (same[0] < 2)
            break;
    }
    return found;
}

template <bool LIST, group G> __device__ u64 kept_mass(reducer &r, const elements &el, const kept &k)
{
    u64 s[1] = {0};
    each<LIST>(el, [&](float v, u32 id) { s[0] += keeps(v, id, k) ? mass(__fsub_rn(v, k.max)) : 0; });
    reduce<G, 1, false>(r, s);
    return s[0];
}

// Stages 5 to 8.
template <bool LIST, group G>
__device__ void truncate_set(reducer &r, const elements &el, kept &k, const sample_desc &d, u64 total)
{
    bool cut = d.top_k > 0;
    if (d.top_k > 0)
        k.value = threshold<LIST, G>(r, el, k, BY_VALUE, true, (u64)d.top_k);
    if (d.typical_p < 1.0f) {
        u64 s[2] = {0, 0};
        each<LIST>(el, [&](float v, u32 id) {
            if (keeps(v, id, k)) {
                u64 m = mass(__fsub_rn(v, k.max));
                s[0] += m;
                s[1] += (u64)__dmul_rn(__ull2double_rn(m), (double)__fsub_rn(k.max, v));
            }
        });
        reduce<G, 2, false>(r, s);
        k.mean = __ddiv_rn(__ull2double_rn(s[1]), __ull2double_rn(s[0]));
        u64 t = threshold<LIST, G>(r, el, k, BY_TYPICAL, false, part(d.typical_p, s[0]));
        k.typical = t ? t : 1;
        cut = true;
    }
    if (d.top_p < 1.0f) {
        u64 need = part(d.top_p, cut ? kept_mass<LIST, G>(r, el, k) : total);
        u64 t = threshold<LIST, G>(r, el, k, BY_VALUE, false, need);
        k.value = t > k.value ? t : k.value;
    }
    if (d.min_p > 0.0f) {
        u64 best[1] = {0};
        each<LIST>(el, [&](float v, u32 id) {
            u64 key = key_of(v, id);
            best[0] = key > best[0] && keeps(v, id, k) ? key : best[0];
        });
        reduce<G, 1, true>(r, best);
        k.least = __fmul_rn(d.min_p, exp_neg(__fsub_rn(unordered((u32)(best[0] >> 32)), k.max)));
    }
}

__device__ __forceinline__ u64 target_of(u64 bits53, u64 z) { return __umul64hi(bits53 << 11, z); }

// Stage 9 over the slices: the block whose part of the running mass passes the target finds the thread, and that one
// the token. Returns the id in one thread of the cluster, -1 in all others.
__device__ i32 draw_slices(reducer &r, const elements &el, const kept &k, u64 bits53)
{
    const u32 tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
    u64 own = 0;
    each<false>(el, [&](float v, u32 id) { own += keeps(v, id, k) ? mass(__fsub_rn(v, k.max)) : 0; });
    u64 z[1] = {own};
    reduce<CLUSTER, 1, false>(r, z);
    u64 target = target_of(bits53, z[0]);
    for (u32 b = 0; b < r.rank; b++) { // reduce left every block's sum here
        u64 m = r.s->cross[(r.turn - 1) & 1][b][0];
        if (target < m)
            return -1;
        target -= m;
    }
    if (target >= r.s->cross[(r.turn - 1) & 1][r.rank][0])
        return -1;
    u64 run = own;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        u64 w = __shfl_up_sync(~0u, run, o);
        run += lane >= (u32)o ? w : 0;
    }
    if (lane == 31)
        r.s->scan[warp] = run;
    __syncthreads();
    for (u32 w = 0; w < warp; w++)
        run += r.s->scan[w];
    if (target >= run || target < run - own)
        return -1;
    target -= run - own;
    u64 m = 0;
    for (u32 i = el.begin; i < el.end; i++) {
        float v = el.slice[i];
        m += keeps(v, el.base + i, k) ? mass(__fsub_rn(v, k.max)) : 0;
        if (m > target)
            return (i32)(el.base + i);
    }
    return -1;
}

// Sorts n keys, a power of two, largest first.
__device__ void sort_list(u64 *list, u32 n)
{
    for (u32 size = 2; size <= n; size *= 2)
        for (u32 step = size / 2; step; step /= 2) {
            for (u32 i = threadIdx.x; i < n / 2; i += SAMPLE_THREADS) {
                u32 a = 2 * i - (i & (step - 1)), b = a + step;
                u64 x = list[a], y = list[b];
                if ((x < y) == ((a & size) == 0)) {
                    list[a] = y;
                    list[b] = x;
                }
            }
            __syncthreads();
        }
}

// Running sums over the block's threads, this one's included; the last one's is the total.
__device__ u64 block_scan(shared *s, u64 own, u64 &total)
{
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    u64 run = own;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        u64 w = __shfl_up_sync(~0u, run, o);
        run += lane >= (u32)o ? w : 0;
    }
    if (lane == 31)
        s->scan[warp] = run;
    __syncthreads();
    u64 before = 0;
    total = 0;
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) {
        u64 x = s->scan[w];
        before += w < warp ? x : 0;
        total += x;
    }
    __syncthreads();
    return before + run;
}

constexpr u32 PER_THREAD = SAMPLE_LIST / SAMPLE_THREADS;

// Position in the list at which the running mass passes `target` (exceeds it); n when it does not.
template <class F> __device__ u32 crossing(shared *s, u32 n, u64 target, F mass_at)
{
    u64 m[PER_THREAD], own = 0, total;
    const u32 first = threadIdx.x * PER_THREAD;
    for (u32 i = 0; i < PER_THREAD; i++)
        own += m[i] = first + i < n ? mass_at(first + i) : 0;
    if (threadIdx.x == 0)
        s->n_list = n;
    u64 run = block_scan(s, own, total) - own;
    for (u32 i = 0; i < PER_THREAD; i++) {
        if (run <= target && run + m[i] > target)
            s->n_list = first + i;
        run += m[i];
    }
    __syncthreads();
    return s->n_list;
}

__device__ __forceinline__ u32 power_of_two(u32 n) { return n <= 1 ? 1 : 1u << (32 - __clz(n - 1)); }

// Stages 5 and 7 to 9 over the list: sorted by value the stages keep a prefix, sorted by id the draw is a crossing.
__device__ i32 draw_sorted(reducer &r, u32 n, const kept &k, const sample_desc &d, u64 total)
{
    u64 *list = r.s->list;
    u32 size = power_of_two(n);
    for (u32 i = threadIdx.x; i < size; i += SAMPLE_THREADS)
        if (i >= n)
            list[i] = 0;
    __syncthreads();
    sort_list(list, size);
    auto value_mass = [&](u32 i) { return mass(__fsub_rn(unordered((u32)(list[i] >> 32)), k.max)); };
    if (d.top_k > 0 && n > (u32)d.top_k)
        n = (u32)d.top_k;
    if (d.top_p < 1.0f) {
        u64 z = total;
        if (d.top_k > 0) {
            u64 s[1] = {0};
            for (u32 i = threadIdx.x; i < n; i += SAMPLE_THREADS)
                s[0] += value_mass(i);
            reduce<BLOCK, 1, false>(r, s);
            z = s[0];
        }
        u32 at = crossing(r.s, n, part(d.top_p, z) - 1, value_mass); // reaches p: exceeds one less
        n = at < n ? at + 1 : n;
    }
    float least =
        d.min_p > 0.0f ? __fmul_rn(d.min_p, exp_neg(__fsub_rn(unordered((u32)(list[0] >> 32)), k.max))) : 0.0f;
    size = power_of_two(n);
    u64 s[1] = {0};
    __syncthreads(); // list[0] was read
    for (u32 i = threadIdx.x; i < size; i += SAMPLE_THREADS) {
        u64 key = i < n ? list[i] : 0;
        float v = unordered((u32)(key >> 32));
        bool keep = i < n && (least == 0.0f || exp_neg(__fsub_rn(v, k.max)) >= least);
        s[0] += keep ? mass(__fsub_rn(v, k.max)) : 0;
        list[i] = keep ? key << 32 | key >> 32 : 0; // by id now: the lowest id has the largest upper half
    }
    reduce<BLOCK, 1, false>(r, s);
    sort_list(list, size);
    u32 at = crossing(r.s, size, target_of(d.bits53, s[0]),
                      [&](u32 i) { return list[i] ? mass(__fsub_rn(unordered((u32)list[i]), k.max)) : 0; });
    return at < size ? (i32)(0xFFFFFFFFu - (u32)(list[at] >> 32)) : -1;
}

// All stages over the list.
__device__ i32 draw_list(reducer &r, const elements &el, kept &k, const sample_desc &d, u64 total)
{
    if (d.typical_p >= 1.0f)
        return draw_sorted(r, el.n_list, k, d, total);
    truncate_set<true, BLOCK>(r, el, k, d, total);
    u64 z = kept_mass<true, BLOCK>(r, el, k);
    u64 key = threshold<true, BLOCK>(r, el, k, BY_ID, false, target_of(d.bits53, z) + 1);
    return (i32)(0xFFFFFFFFu - (u32)key);
}

// Stages 1 to 3 on this block's slice. The first entry of an id applies all of them in order.
__device__ void sparse(float *l, u32 base, u32 n, const sample_desc &d, const u32 *data)
{
    const int2 *bias = (const int2 *)(data + d.bias), *count = (const int2 *)(data + d.count);
    for (u32 i = threadIdx.x; i < d.n_bias; i += SAMPLE_THREADS) {
        u32 id = (u32)bias[i].x;
        bool mine = id >= base && id < base + n;
        for (u32 j = 0; j < i && mine; j++)
            mine = (u32)bias[j].x != id;
        for (u32 j = i; j < d.n_bias && mine; j++)
            if ((u32)bias[j].x == id)
                l[id - base] = __fadd_rn(l[id - base], __int_as_float(bias[j].y));
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < d.n_count; i += SAMPLE_THREADS) { // an id stands there once
        u32 id = (u32)count[i].x;
        if (id < base || id >= base + n || count[i].y <= 0)
            continue;
        float v = l[id - base];
        if (d.repeat > 0.0f && d.repeat != 1.0f)
            v = v > 0.0f ? __fdiv_rn(v, d.repeat) : __fmul_rn(v, d.repeat);
        l[id - base] = __fsub_rn(v, __fadd_rn(__fmul_rn(d.frequency, (float)count[i].y), d.presence));
    }
    __syncthreads();
    if (d.mask != SAMPLE_NO_MASK)
        for (u32 i = threadIdx.x; i < n; i += SAMPLE_THREADS)
            if (!(data[d.mask + ((base + i) >> 5)] >> ((base + i) & 31) & 1))
                l[i] = -INFINITY;
    __syncthreads();
}

__device__ u64 best_of(reducer &r, const elements &el, bool finite)
{
    u64 best[1] = {0};
    each<false>(el, [&](float v, u32 id) {
        if (v > -INFINITY && (v < INFINITY || !finite)) {
            u64 key = key_of(v, id);
            best[0] = key > best[0] ? key : best[0];
        }
    });
    reduce<CLUSTER, 1, true>(r, best);
    return best[0];
}

// Log-probabilities are of the untouched logits: their largest, their mass, and the n_top best.
__device__ void raw_stats(reducer &r, const elements &el, i32 n_top, sample_result *out)
{
    u64 best = best_of(r, el, true);
    float max = unordered((u32)(best >> 32));
    u64 z[1] = {0};
    each<false>(el, [&](float v, u32) { z[0] += mass(__fsub_rn(v, max)); });
    reduce<CLUSTER, 1, false>(r, z);
    cg::cluster_group c = cg::this_cluster();
    u64 below = ~0ull;
    for (i32 t = 0; t < n_top; t++) {
        u64 top[1] = {0};
        each<false>(el, [&](float v, u32 id) {
            u64 key = v > -INFINITY ? key_of(v, id) : 0;
            top[0] = key < below && key > top[0] ? key : top[0];
        });
        reduce<BLOCK, 1, true>(r, top);
        below = top[0];
        if (threadIdx.x == 0)
            *c.map_shared_rank(&r.s->tops[r.rank][t], 0) = below;
    }
    c.sync();
    if (r.rank != 0 || threadIdx.x != 0)
        return;
    u32 at[SAMPLE_CLUSTER] = {0};
    out->max = max;
    out->total = z[0];
    out->n_top = 0;
    for (i32 t = 0; t < n_top; t++) {
        u64 top = 0;
        u32 from = 0;
#pragma unroll
        for (u32 b = 0; b < SAMPLE_CLUSTER; b++) {
            u64 key = at[b] < (u32)n_top ? r.s->tops[b][at[b]] : 0;
            from = key > top ? b : from;
            top = key > top ? key : top;
        }
        if (!top)
            break;
#pragma unroll
        for (u32 b = 0; b < SAMPLE_CLUSTER; b++)
            at[b] += b == from;
        out->top_id[t] = (i32)(0xFFFFFFFFu - (u32)top);
        out->top[t] = unordered((u32)(top >> 32));
        out->n_top = t + 1;
    }
}

// How far below the largest logit the stages can look at most, of 2, 5 and 12; 0: farther.
__device__ float depth_of(const sample_desc &d, const u64 (&s)[5])
{
    if (d.typical_p < 1.0f && d.top_k <= 0)
        return 0.0f;
    const float depth[3] = {2.0f, 5.0f, 12.0f};
    const u64 need = d.top_p < 1.0f ? part(d.top_p, s[0]) : ~0ull;
#pragma unroll
    for (int i = 0; i < 3; i++) {
        u64 n = s[4] >> 21 * i & 0x1FFFFF;
        bool enough = d.top_k > 0      ? n >= (u64)d.top_k
                      : d.top_p < 1.0f ? s[i + 1] >= need
                                       : d.min_p >= (i == 0   ? 0.137f
                                                     : i == 1 ? 0.0069f
                                                              : 6.3e-6f);
        if (enough)
            return n <= SAMPLE_LIST ? depth[i] : 0.0f;
    }
    return 0.0f;
}

// Candidates within depth of the largest, from all blocks into the first one's list.
__device__ void gather(reducer &r, const elements &el, float max, float depth)
{
    cg::cluster_group c = cg::this_cluster();
    u32 *count = c.map_shared_rank(&r.s->n_list, 0);
    u64 *list = c.map_shared_rank(&r.s->list[0], 0);
    each<false>(el, [&](float v, u32 id) {
        if (v >= __fsub_rn(max, depth) && v > -INFINITY) {
            u32 at = atomicAdd(count, 1u);
            if (at < SAMPLE_LIST)
                list[at] = key_of(v, id);
        }
    });
    c.sync();
}
} // namespace

KERNEL(SAMPLE_THREADS, 1) __cluster_dims__(SAMPLE_CLUSTER, 1, 1) imp_sample(const __grid_constant__ sample_args p)
{
    __shared__ shared s;
    extern __shared__ float l[];
    const u32 tid = threadIdx.x, rank = blockIdx.x;
    const sample_desc d = ((const sample_desc *)p.desc)[blockIdx.y];
    sample_result *out = (sample_result *)p.out + blockIdx.y;
    const float *logits = (const float *)p.logits + (u64)d.row * p.ldl;
    const u32 base = rank * p.slice, n = base >= p.n_vocab            ? 0
                                         : p.n_vocab - base < p.slice ? p.n_vocab - base
                                                                      : p.slice;
    const u32 run = ((n + SAMPLE_THREADS - 1) / SAMPLE_THREADS) | 1; // odd: no two threads of a warp in one bank
    reducer r = {&s, rank, 0};
    elements el = {l, base, tid * run < n ? tid * run : n, (tid + 1) * run < n ? (tid + 1) * run : n, s.list, 0};
    for (u32 i = tid; i < n; i += SAMPLE_THREADS)
        l[i] = logits[base + i];
    if (tid == 0)
        s.n_list = 0;
    __syncthreads();
    cg::this_cluster().sync(); // nobody writes into a block that has not begun
    if (d.n_top >= 0)
        raw_stats(r, el, d.n_top, out);
    sparse(l, base, n, d, (const u32 *)p.data);
    u64 best = best_of(r, el, true);
    i32 id = rank == 0 && tid == 0 ? (best ? (i32)(0xFFFFFFFFu - (u32)best) : -1) : -1;
    bool owner = rank == 0 && tid == 0;
    if (best && d.temperature > 0.0f) {
        kept k = {0, 0, 0.0, __fdiv_rn(unordered((u32)(best >> 32)), d.temperature), 0.0f};
        u64 sum[5] = {0, 0, 0, 0, 0}; // mass of all, within 2, 5, 12; counts of those, 21 bits each
        for (u32 i = el.begin; i < el.end; i++) {
            float v = l[i];
            v = l[i] = v < INFINITY ? __fdiv_rn(v, d.temperature) : -INFINITY;
            u64 m = mass(__fsub_rn(v, k.max));
            bool in2 = v >= __fsub_rn(k.max, 2.0f), in5 = v >= __fsub_rn(k.max, 5.0f),
                 in12 = v >= __fsub_rn(k.max, 12.0f);
            sum[0] += m;
            sum[1] += in2 ? m : 0;
            sum[2] += in5 ? m : 0;
            sum[3] += in12 ? m : 0;
            sum[4] += (u64)in2 | (u64)in5 << 21 | (u64)in12 << 42;
        }
        reduce<CLUSTER, 5, false>(r, sum);
        bool whole = d.top_k <= 0 && d.typical_p >= 1.0f && d.top_p >= 1.0f && d.min_p <= 0.0f;
        float depth = whole ? 0.0f : depth_of(d, sum);
        if (depth > 0.0f) {
            gather(r, el, k.max, depth);
            if (rank != 0)
                return;
            el.n_list = s.n_list < SAMPLE_LIST ? s.n_list : SAMPLE_LIST;
            id = draw_list(r, el, k, d, sum[0]);
        } else {
            if (!whole)
                truncate_set<false, CLUSTER>(r, el, k, d, sum[0]);
            id = draw_slices(r, el, k, d.bits53);
            owner = id >= 0;
        }
    }
    if (owner) {
        out->id = id;
        if (id >= 0 && d.n_top >= 0)
            out->chosen = logits[id];
        ((i32 *)p.out_id)[d.row] = id;
        ((i32 *)p.last)[d.slot] = id < 0 ? 0 : id;
    }
    cg::this_cluster().sync(); // no block leaves while others may read its sums
}

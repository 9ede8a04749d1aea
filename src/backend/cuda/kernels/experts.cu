/* experts: a mixture of experts for a step of few tokens of class D, in two kernels behind the router's product.
 *   up    act(gate x) * (up x) of the chosen experts, as f16 rows: a block takes row tiles of one (token, choice).
 *   down  sum over the choices of weight * (down h), and what is added to it: a block takes one row tile of all.
 * Everything here is waiting, so the chain behind the scores is kept short. Each block of `up` chooses for itself, by
 * one warp, while the others fetch x. `down` chooses for itself too: `up` lets it start only once the scores are there
 * (it waits before it launches), so weights of `down` are under way while `up` still works, and what is left to wait
 * for is h alone.
 * Where one token's row and a router of a usual shape are there, `up` does the router's work as well (_r), one kernel
 * less in the row; `down` is then let in before there are scores, and takes them out of memory as they come.
 * What runs once a launch is mostly waiting for instructions. So there are kernels (_p) without what few mixtures ask
 * for, a third of the code; the others go through theirs once before there is anything to compute (`dry`: one tile of
 * whatever lies in shared memory, nothing stored outside), while they would wait.
 * Bytes: the chosen experts' weights, once; memory and waiting. Figures: docs/kernels.md.
 * Numerics: gemv's products and sums (tiles of a segment, segments in order, z groups apart), h rounded to f16 once,
 * then combine's: one fma a choice, in order, and the residual last. The bytes are those of a step of many tokens. */
#include "gemv.cuh"
#include "norm.cuh"
#include "route.cuh"

#define WARPS 8
static_assert(sizeof(route_scratch) + ROUTE_MAX * 4 <= EXPERTS_ROUTE_BYTES, "EXPERTS_ROUTE_BYTES");
static_assert(sizeof(route_scratch) <= WARPS * EXPERTS_UP_STAGES * TILE_BYTES_U4,
              "a choice among many has room in the rings");

/* A row's sum out of its segments' parts, `stride` apart. */
DEV float sum_segments(const dweight &w, const float *part, u32 stride, u32 n)
{
    float x[8];
#pragma unroll
    for (u32 s = 0; s < 8; s++)
        x[s] = s < w.seg ? part[s * stride] : 0.0f;
    return total(w, x, w.seg, n);
}

#define DEV_IN __device__ __forceinline__
/* A warp's ring of S tiles. A place is asked for anew as soon as it is read, so the place to read next is also the next
 * to fill once all of them are under way. A tile is a group of copies, and so is none: waits count them. Copies of 16
 * bytes by all lanes: a bulk copy of so few bytes takes longer to begin. */
template <int L, u32 S> struct ring {
    u32 first, place; /* shared memory */
    DEV_IN ring(u32 rings, u32 warp) : first(rings + warp * S * tile<L>::BYTES), place(first) {}
    DEV_IN void ask(u32 at, const u8 *src, u32 lane) const
    {
        copy_tile<tile<L>::BYTES>(at + lane * 16, src + lane * 16, lane);
    }
    DEV_IN void wait(void) const
    {
        cp_async_wait<S - 1>();
        __syncwarp(); /* other lanes' copies too */
    }
    DEV_IN void next(void) { place = place == first + (S - 1) * tile<L>::BYTES ? first : place + tile<L>::BYTES; }
};

/* The token's row to shared memory as f16, by the threads from `first` on; columns past the row's are zeros. */
template <bool PLAIN> DEV void fetch_x(const experts_args &p, u32 tok, u16 *dst, u32 first)
{
    const u32 kpad = p.w[0].k_tiles * TILE_COLS, n = 256 - first, at = threadIdx.x - first;
    if (!PLAIN && p.x_f32) {
        const float *src = (const float *)p.x + (u64)tok * p.ldx;
        for (u32 i = at; i < kpad; i += n)
            dst[ACT_POS(i)] = f2h(i < p.w[0].cols ? src[i] : 0.0f);
        return;
    }
    const u16 *src = (const u16 *)p.x + (u64)tok * p.ldx;
#pragma unroll 4
    for (u32 i = at * 8; i < kpad; i += n * 8)
        *(uint4 *)(dst + i) = *(const uint4 *)(src + i);
}

/* The same of eight segments, all in order or by twos, with nothing behind them. */
DEV float sum_eight(const dweight &w, const float *part, u32 stride, bool by_twos)
{
    float x[8];
#pragma unroll
    for (u32 s = 0; s < 8; s++)
        x[s] = part[s * stride];
    return add_segments(x, 8, by_twos ? 2 : 8) * w.unit;
}

template <int L, bool PLAIN> DEV void experts_up(const experts_args &p)
{
    extern __shared__ __align__(128) u8 smem[];
    /* a warp's number is the same in all its lanes: told so, the compiler keeps what follows from it once a warp */
    const u32 tid = threadIdx.x, warp = __shfl_sync(~0u, tid >> 5, 0), lane = tid & 31;
    const dweight &w = p.w[0];
    const u32 log_seg = 31 - __clz((int)w.seg), groups = WARPS >> log_seg, grp = warp >> log_seg;
    const u32 seg = warp & (w.seg - 1);
    const u32 tok = blockIdx.z, choice = blockIdx.y;
    u32 *chosen = (u32 *)smem;
    float *sums = (float *)(smem + 128); /* [2 rounds][warp][gate, up][16] */
    u16 *xs = (u16 *)(smem + EXPERTS_UP_FIXED);
    u8 *rings = (u8 *)(xs + w.k_tiles * TILE_COLS);
    const u32 k0 = seg_begin(w, seg), k1 = seg_begin(w, seg + 1), step = gridDim.x * groups;
    ring<L, EXPERTS_UP_STAGES> r(smem_addr(rings), warp);

    const u32 xbase = smem_addr(xs) + (lane >> 3) * 16;
    u16 *out = (u16 *)p.out + (u64)(tok * p.route.k + choice) * p.ldo;
#pragma unroll 1
    for (bool dry = !PLAIN;; dry = false) {
        if (!dry) {
            pdl_wait();
            pdl_launch(); /* not before: who comes next reads the scores without waiting for this kernel */
        }
        if (warp == 0) {
            const float *scores = dry ? (const float *)rings : (const float *)p.route.scores + (u64)tok * p.route.lds;
            const u32 e = route_choice<PLAIN>(p.route, scores, *(route_scratch *)rings, lane, choice);
            if (lane == 0)
                *chosen = e;
        } else if (!dry) {
            fetch_x<PLAIN>(p, tok, xs, 32);
        }
        __syncthreads();
        const u32 e = __shfl_sync(~0u, *chosen, 0);

        /* the warp's stream: row tiles, columns of its segment, gate and up */
        u32 rt_in = blockIdx.x * groups + grp, kt_in = k0, sub_in = 0;
        auto request = [&]() {
            if (rt_in < w.row_tiles) {
                const u8 *matrix = (const u8 *)(sub_in ? p.w[1].tiles : w.tiles); /* of one shape: they lie alike */
                r.ask(r.place, matrix + e * w.expert_stride + (rt_in * w.k_tiles + kt_in) * tile<L>::BYTES, lane);
                sub_in ^= 1;
                if (sub_in == 0 && ++kt_in == k1) {
                    kt_in = k0;
                    rt_in += step;
                }
            }
            cp_async_commit();
        };
#pragma unroll 1
        for (u32 i = 0; i < EXPERTS_UP_STAGES && !dry; i++) {
            request();
            r.next();
        }

        u32 buf = 0;
#pragma unroll 1
        for (u32 rt0 = blockIdx.x * groups; rt0 < w.row_tiles; rt0 += step, buf ^= 1) {
            if (rt0 + grp < w.row_tiles) {
                /* Of the tile that comes; of the other matrix. All columns of the product are the one row of x, so the
                 * odd ones are those before them. */
                float acc[4] = {0, 0, 0, 0}, other[2] = {0, 0};
#pragma unroll 1
                for (u32 i = dry ? 2 * (k1 - k0) - 1 : 0; i < 2 * (k1 - k0); i++) {
                    if (!dry)
                        r.wait();
                    tile_mma<L, 4>({r.place}, lane, p.w[0].lut, xbase + (k0 + (i >> 1)) * 512, acc);
                    __syncwarp();
                    if (!dry) {
                        request();
                        r.next();
                    }
                    const float lo = acc[0], hi = acc[2];
                    acc[0] = acc[1] = other[0], acc[2] = acc[3] = other[1];
                    other[0] = lo, other[1] = hi;
                }
                if ((lane & 3) == 0) {
                    float *q = sums + (buf * WARPS + warp) * 32 + (lane >> 2);
                    q[0] = acc[0], q[8] = acc[2], q[16] = other[0], q[24] = other[1];
                }
            }
            __syncthreads(); /* the sums of the round before the last are read by now, so two rounds have room enough */
            const u32 rt = rt0 + (tid >> 4), n = rt * 16 + (tid & 15);
            if (tid < 16 * groups && rt < w.row_tiles && n < w.rows) {
                const float *q = sums + (buf * WARPS + (tid >> 4) * w.seg) * 32 + (tid & 15);
                const bool eight = PLAIN && p.eight;
                const float gate = eight ? sum_eight(w, q, 32, w.z == 4) : sum_segments(w, q, 32, e * w.rows + n);
                const float up = eight ? sum_eight(p.w[1], q + 16, 32, w.z == 4)
                                       : sum_segments(p.w[1], q + 16, 32, e * w.rows + n);
                const u16 h = f2h(PLAIN ? glu_apply(0, gate, up, 0, 0) : glu_apply(p.act, gate, up, p.limit, p.alpha));
                if (!dry)
                    out[ACT_POS(n)] = h;
            }
            if (dry)
                break;
            if (rt0 + groups >= w.row_tiles) /* `down` multiplies whole tiles */
                for (u32 i = w.rows + tid; i < p.ldo; i += 256)
                    out[ACT_POS(i)] = 0;
        }
        if (!dry)
            return;
        __syncthreads(); /* the dry sums and choice are read */
    }
}

/* ---- up with its router ---- */
/* Eight of sixteen warps normalise the row, in each block for itself. The first blocks have asked for the router's
 * tiles before attn_output is done; each multiplies 16 experts' rows and sends their scores to all blocks, and to
 * `down`, as words in memory that say of themselves whether they were sent. One warp of a block has nothing else to do
 * than to wait for them and choose. Then eight warps are for gate and eight for up. A block's sums lie there until its
 * last row tile, so warps meet once. The bytes are those of gemv_dense (norm, product) and experts_up. */
DEV u32 sent_word(float v)
{
    const u32 u = __float_as_uint(v);
    return u == UNSENT ? 0x7FC00000u : u;
}
DEV bool any_unsent(uint4 v) { return v.x == UNSENT || v.y == UNSENT || v.z == UNSENT || v.w == UNSENT; }

/* By eight warps, after the wait: the row to shared memory, normalised. g: the norm's weights of the thread's columns,
 * as they multiply. */
DEV void normalise_row(const routed_args &p, u8 *smem, const float4 *g, u32 tid, u32 warp, u32 lane)
{
    float *red = (float *)(smem + 16);
    float4 v[2];
    load_part<2>(v, (const float *)p.x, p.k, tid);
    const float squares = warp_sum(add_squares(add_squares(0.0f, v[0]), v[1]));
    if (lane == 0)
        red[warp] = squares;
    bar_sync(1, 256);
    float sum = 0;
#pragma unroll
    for (u32 i = 0; i < 8; i++)
        sum += red[i];
    const float scale = rms_of_all(sum, p.k, p.eps);
    const u32 to = smem_addr(smem) + ROUTED_X + ACT_POS(tid * 4) * 2;
#pragma unroll
    for (u32 j = 0; j < 2; j++) {
        const float4 y = normed(v[j], scale, g[j]);
        sts32(to + 2048 * j, pack_h2(y.x, y.y));
        sts32(to + 2048 * j + 16, pack_h2(y.z, y.w));
    }
}

/* By the same warps: the block's 16 experts' scores, sent. tile: the warp's, which is on its way. */
DEV void score_experts(const routed_args &p, u8 *smem, u32 tile, u32 warp, u32 lane)
{
    const u32 base = smem_addr(smem);
    cp_async_wait<0>();
    bar_sync(1, 256);
    float acc[4] = {0, 0, 0, 0};
    tile_mma<LAY_F16, 4>({tile}, lane, p.router.lut, base + ROUTED_X + (lane >> 3) * 16 + warp * 512, acc);
    const u32 part = base + ROUTED_PARTS + (lane >> 2) * 32 + warp * 4;
    if ((lane & 3) == 0) {
        sts32(part, __float_as_uint(acc[0]));
        sts32(part + 256, __float_as_uint(acc[2]));
    }
    if (warp) {
        bar_arrive(2, 256);
        return;
    }
    bar_sync(2, 256);
    const float *parts = (const float *)(smem + ROUTED_PARTS) + (lane & 15) * 8;
    const float score = sum_eight(p.router, parts, 1, p.router.z == 4);
    const u32 four = lane * 4 & 15; /* a lane sends four neighbours */
    float4 s;
    s.x = __shfl_sync(~0u, score, four), s.y = __shfl_sync(~0u, score, four + 1);
    s.z = __shfl_sync(~0u, score, four + 2), s.w = __shfl_sync(~0u, score, four + 3);
    if (lane < 4)
        st_words((u32 *)p.sent + blockIdx.x * 16 + four,
                 make_uint4(sent_word(s.x), sent_word(s.y), sent_word(s.z), sent_word(s.w)));
}

/* By one warp: all scores, as they come, and the block's choice. The blocks that send are the launch's first, so they
 * run whenever another one waits. */
DEV u32 await_choice(const routed_args &p, u8 *smem, u32 lane)
{
    float *scores = (float *)(smem + ROUTED_SCORES);
    if (lane * 4 < p.route.n_expert) {
        uint4 v = ld_words((const u32 *)p.sent + lane * 4);
#pragma unroll 1
        while (any_unsent(v))
            v = ld_words((const u32 *)p.sent + lane * 4);
        *(uint4 *)(scores + lane * 4) = v;
    }
    __syncwarp();
    return route_choice<true>(p.route, scores, *(route_scratch *)smem, lane, blockIdx.y);
}

template <int L> DEV void experts_up_routed(const routed_args &p)
{
    extern __shared__ __align__(128) u8 smem[];
    const u32 tid = threadIdx.x, warp = __shfl_sync(~0u, tid >> 5, 0), lane = tid & 31;
    const u32 base = smem_addr(smem), sub = warp >> 3, seg = warp & 7, rows = p.w[0].row_tiles;
    const u32 tiles = (rows + gridDim.x - 1) / gridDim.x;
    const u32 rings = base + ROUTED_RINGS(tiles);
    const bool sends = blockIdx.y == 0 && blockIdx.x < p.router.row_tiles;
    u32 *chosen = (u32 *)(smem + 8);
    float4 g[2];
    if (sub == 0) {
        if (sends) {
            const u8 *src = (const u8 *)p.router.tiles + (blockIdx.x * 8 + warp) * TILE_BYTES_F16;
            copy_tile<TILE_BYTES_F16>(rings + warp * TILE_BYTES_F16 + lane * 16, src + lane * 16, lane);
            cp_async_commit();
        }
        load_part<2>(g, (const float *)p.norm_w, p.k, tid, p.norm_w);
        g[0] = plus(g[0], p.one), g[1] = plus(g[1], p.one);
    }
    pdl_wait();
    pdl_launch(); /* `down` waits for its words by itself; not before: they might be the step's before this one */
    if (sub == 0) {
        normalise_row(p, smem, g, tid, warp, lane);
        if (sends)
            score_experts(p, smem, rings + warp * TILE_BYTES_F16, warp, lane);
    } else if (seg == 0) {
        const u32 e = await_choice(p, smem, lane);
        if (lane == 0)
            *chosen = e;
    }
    __syncthreads();

    /* the warp's stream: its matrix' tiles of its segment */
    ring<L, ROUTED_STAGES> r(rings, warp);
    const u32 e = __shfl_sync(~0u, *chosen, 0);
    const u8 *src = (const u8 *)(sub ? p.w[1].tiles : p.w[0].tiles) + e * p.w[0].expert_stride;
    src += (blockIdx.x * 8 + seg) * tile<L>::BYTES;
    u32 rt_in = blockIdx.x;
    auto request = [&]() {
        if (rt_in < rows) {
            r.ask(r.place, src, lane);
            src += gridDim.x * 8 * tile<L>::BYTES;
            rt_in += gridDim.x;
        }
        cp_async_commit();
    };
#pragma unroll
    for (u32 i = 0; i < ROUTED_STAGES; i++) {
        request();
        r.next();
    }
    const u32 xaddr = base + ROUTED_X + (lane >> 3) * 16 + seg * 512;
    float *sums = (float *)(smem + ROUTED_SUMS), *q = sums + warp * 16 + (lane >> 2);
#pragma unroll 1
    for (u32 rt = blockIdx.x; rt < rows; rt += gridDim.x, q += 256) {
        float acc[4] = {0, 0, 0, 0};
        r.wait();
        tile_mma<L, 4>({r.place}, lane, p.w[0].lut, xaddr, acc);
        __syncwarp();
        request();
        r.next();
        if ((lane & 3) == 0)
            q[0] = acc[0], q[8] = acc[2];
    }
    __syncthreads();
    u16 *out = (u16 *)p.out + (u64)blockIdx.y * p.ldo;
    const u32 rt = blockIdx.x + (tid >> 4) * gridDim.x, n = rt * 16 + (tid & 15);
    if (rt < rows && n < p.w[0].rows) {
        const float *part = sums + (tid >> 4) * 256 + (tid & 15);
        const float gate = sum_eight(p.w[0], part, 16, p.w[0].z == 4);
        const float up = sum_eight(p.w[1], part + 128, 16, p.w[0].z == 4);
        out[ACT_POS(n)] = f2h(glu_apply(0, gate, up, 0, 0));
    }
    if (blockIdx.x == gridDim.x - 1) /* `down` multiplies whole tiles */
#pragma unroll 1
        for (u32 i = p.w[0].rows + tid; i < p.ldo; i += ROUTED_WARPS * 32)
            out[ACT_POS(i)] = 0;
}

/* ---- down ---- */
/* n times 16 bytes to shared memory, four trips to memory at a time; src and dst are this thread's. */
DEV void fetch_h(const uint4 *src, uint4 *dst, u32 n, u32 tid)
{
    asm volatile("" : "+l"(src)); /* one address with offsets, not one a load */
#pragma unroll 1
    for (u32 i = tid; i < n; i += 1024, src += 1024, dst += 1024) {
        uint4 v[4];
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            if (i + j * 256 < n)
                v[j] = src[j * 256];
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            if (i + j * 256 < n)
                dst[j * 256] = v[j];
    }
}

/* A row's sum over the choices where each has two parts that are summed apart; part: [choice][2][16]. */
DEV float combine_pairs(const float *part, const float *weights, u32 k, float unit)
{
    float y = 0;
#pragma unroll
    for (u32 j = 0; j < 8; j++)
        if (j < k)
            y = fmaf(weights[j], ((0.0f + part[j * 32]) + part[j * 32 + 16]) * unit, y);
    return y;
}
/* Four scores: a kernel before `up` left them, or `up` sends them while this kernel waits. What does not come in some
 * 40 us is there once `up` is done, or never (this kernel launched by itself, again and again), and not waited for. */
#define SCORE_TRIES 64
DEV uint4 sent_scores(const float *src)
{
    uint4 v = ld_words(src);
#pragma unroll 1
    for (u32 i = 0; i < SCORE_TRIES && any_unsent(v); i++) {
        if (i == SCORE_TRIES - 1)
            pdl_wait();
        v = ld_words(src);
    }
    return v;
}
DEV float rest_added(const experts_args &p, float rest, float y) { return p.residual ? __fadd_rn(rest, y) : y; }

template <int L, bool PLAIN> DEV void experts_down(const experts_args &p)
{
    extern __shared__ __align__(128) u8 smem[];
    const u32 tid = threadIdx.x, warp = __shfl_sync(~0u, tid >> 5, 0), lane = tid & 31;
    const u32 tok = blockIdx.y, rt = blockIdx.x;
    const dweight &w = p.w[0];
    const u32 log_seg = 31 - __clz((int)w.seg), k = p.route.k, kpad = w.k_tiles * TILE_COLS;
    const u32 n_task = k << log_seg;
    u32 *ids = (u32 *)smem;
    float *weights = (float *)(smem + 128);
    float *rest = (float *)(smem + 256); /* what is added to the row tile */
    float *sums = (float *)(smem + 320), *ys = sums + n_task * 16; /* [choice][segment][16], [choice][16] */
    u8 *xs = smem + EXPERTS_DOWN_FIXED(k, w.seg);
    const u32 x_bytes = k * kpad * 2 > EXPERTS_ROUTE_BYTES ? k * kpad * 2 : EXPERTS_ROUTE_BYTES;
    ring<L, EXPERTS_DOWN_STAGES> r(smem_addr(xs) + x_bytes, warp);

    if (warp == 0) { /* x comes later, so its place is free */
        float *scores = (float *)(xs + sizeof(route_scratch));
        const float *src = (const float *)p.route.scores + (u64)tok * p.route.lds;
        if (PLAIN && lane * 4 < p.route.n_expert)
            *(uint4 *)(scores + lane * 4) = sent_scores(src + lane * 4);
        for (u32 i = lane; i < p.route.n_expert && !PLAIN; i += 32)
            scores[i] = __ldcg(src + i); /* written since this kernel may have begun: not out of the first cache */
        __syncwarp();
        i32 e;
        const float weight = route_token<PLAIN>(p.route, scores, *(route_scratch *)xs, lane, e);
        if (lane < k)
            ids[lane] = (u32)e, weights[lane] = weight;
    }
    __syncthreads();

    /* The warp's stream: task t is a segment of a choice. From round to round the segments change warps, so that each
     * has long and short ones. */
    u32 t_in = warp, left = 0;
    const u8 *src = 0;
    auto request = [&]() {
        if (left == 0 && t_in < n_task) {
            const u32 s = (t_in + t_in / WARPS) & (w.seg - 1), kt_in = seg_begin(w, s);
            left = seg_begin(w, s + 1) - kt_in;
            src = (const u8 *)w.tiles + ids[t_in >> log_seg] * w.expert_stride;
            src += (rt * w.k_tiles + kt_in) * tile<L>::BYTES;
            t_in += WARPS;
        }
        if (left) {
            r.ask(r.place, src, lane);
            src += tile<L>::BYTES;
            left--;
        }
        cp_async_commit();
    };
#pragma unroll 1
    for (u32 i = 0; i < EXPERTS_DOWN_STAGES; i++) {
        request();
        r.next();
    }

    const u32 xbase = smem_addr(xs) + (lane >> 3) * 16, n = rt * 16 + tid;
#pragma unroll 1
    for (bool dry = !PLAIN;; dry = false) {
        if (!dry) {
            const uint4 *h = (const uint4 *)((const u16 *)p.x + (u64)tok * p.ldx);
            const float *more = (const float *)p.residual + (u64)tok * p.ldr + n;
            if (PLAIN)
                expect_at(h), expect_at(more);
            pdl_wait();
            const bool adds = tid < 16 && p.residual && n < w.rows;
            const float early = PLAIN && adds ? *more : 0.0f; /* one trip for both; the others lack the register */
            if (PLAIN)
                fetch_h(h + tid, (uint4 *)xs + tid, k * kpad / 8, tid);
            for (u32 i = tid; i < k * kpad / 8 && !PLAIN; i += 256)
                ((uint4 *)xs)[i] = h[i];
            if (adds)
                rest[tid] = PLAIN ? early : *more;
            __syncthreads();
            pdl_launch(); /* not before: the next kernel's blocks would ask for their weights while h comes */
            if (PLAIN && p.unsent && rt == gridDim.x - 1 && tid < p.route.n_expert)
                ((u32 *)p.unsent)[tid] = UNSENT; /* who read them is done, who sends them waits for this kernel */
        }
#pragma unroll 1
        for (u32 t = warp; t < n_task; t += WARPS) {
            const u32 j = t >> log_seg, s = (t + t / WARPS) & (w.seg - 1);
            float acc[4] = {0, 0, 0, 0};
#pragma unroll 1
            for (u32 kt = seg_begin(w, s); kt < seg_begin(w, s + 1); kt++) {
                if (!dry)
                    r.wait();
                tile_mma<L, 4>({r.place}, lane, p.w[0].lut, xbase + (j * w.k_tiles + kt) * 512, acc);
                __syncwarp();
                if (dry)
                    break;
                request();
                r.next();
            }
            if ((lane & 3) == 0) {
                float *q = sums + ((j << log_seg) + s) * 16 + (lane >> 2);
                q[0] = acc[0], q[8] = acc[2];
            }
            if (dry)
                break;
        }
        __syncthreads();
        if (PLAIN && p.pairs) { /* two segments a choice, one by one, at most eight choices */
            if (tid < 16 && n < w.rows)
                ((float *)p.out)[(u64)tok * p.ldo + n] =
                    rest_added(p, rest[tid], combine_pairs(sums + tid, weights, k, w.unit));
            return;
        }
        for (u32 i = tid; i < k * 16; i += 256) {
            const u32 j = i >> 4, row = rt * 16 + (i & 15);
            if (row < w.rows)
                ys[i] = sum_segments(w, sums + (j << log_seg) * 16 + (i & 15), 16, ids[j] * w.rows + row);
        }
        __syncthreads();
        if (tid < 16 && n < w.rows) { /* combine */
            float y = 0;
            for (u32 j = 0; j < k; j++)
                y = fmaf(weights[j], ys[j * 16 + tid], y);
            if (!dry)
                ((float *)p.out)[(u64)tok * p.ldo + n] = rest_added(p, rest[tid], y);
        }
        if (!dry)
            return;
        __syncthreads(); /* the dry sums are read */
    }
}

/* Four of these blocks have room on a multiprocessor: what makes `up` and `down` overlap. */
#define EXPERTS_OF(name, l, plain)                                                                                 \
    KERNEL(256, 4) imp_experts_up_##name(const __grid_constant__ experts_args p) { experts_up<l, plain>(p); }      \
    KERNEL(256, 4) imp_experts_down_##name(const __grid_constant__ experts_args p) { experts_down<l, plain>(p); }
/* p: without the choices that few mixtures need (run_experts.c knows which). */
#define EXPERTS(name, l) EXPERTS_OF(name, l, false) EXPERTS_OF(name##_p, l, true)
EXPERTS(f16, LAY_F16)
EXPERTS(i8, LAY_I8)
EXPERTS(u4, LAY_U4)
EXPERTS(nv4, LAY_NV4)
EXPERTS(q4k, LAY_Q4K)
EXPERTS(q5k, LAY_Q5K)
EXPERTS(q6k, LAY_Q6K)
EXPERTS(f8, LAY_F8)

#define ROUTED(name, l) \
    KERNEL(ROUTED_WARPS * 32, 2) imp_experts_up_##name##_r(const __grid_constant__ routed_args p) \
    { \
        experts_up_routed<l>(p); \
    }
ROUTED(q4k, LAY_Q4K)

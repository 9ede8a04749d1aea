/* ptx: one instruction a function. Shared memory is addressed with 32-bit shared addresses. */
#ifndef IMP_CUDA_PTX_CUH
#define IMP_CUDA_PTX_CUH

#include "params.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;
#define DEV static __device__ __forceinline__
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#if defined(__CUDA_ARCH_SPECIFIC__) && __CUDA_ARCH_SPECIFIC__ == 900
#define HOPPER 1
#endif

DEV u32 smem_addr(const void *p) { return (u32)__cvta_generic_to_shared(p); }

/* ---- loads ---- */
DEV u32 lds32(u32 a) { u32 r; asm volatile("ld.shared.u32 %0,[%1];" : "=r"(r) : "r"(a)); return r; }
DEV u32 lds16(u32 a) { u16 r; asm volatile("ld.shared.u16 %0,[%1];" : "=h"(r) : "r"(a)); return r; }
DEV uint2 lds64(u32 a)
{
    uint2 r;
    asm volatile("ld.shared.v2.u32 {%0,%1},[%2];" : "=r"(r.x), "=r"(r.y) : "r"(a));
    return r;
}
DEV uint4 lds128(u32 a)
{
    uint4 r;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3},[%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "r"(a));
    return r;
}
/* No branch around it. */
DEV void sts32_if(bool yes, u32 a, u32 v)
{
    asm volatile("{.reg .pred p; setp.ne.u32 p,%0,0; @p st.shared.u32 [%1],%2; }"
                 ::"r"((u32)yes), "r"(a), "r"(v) : "memory");
}
DEV void sts32(u32 a, u32 v) { asm volatile("st.shared.u32 [%0],%1;" ::"r"(a), "r"(v) : "memory"); }
DEV void ldmatrix4(u32 *r, u32 a)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a));
}
DEV void ldmatrix4t(u32 *r, u32 a)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a));
}
DEV void sts128(u32 a, uint4 v)
{
    asm volatile("st.shared.v4.u32 [%0],{%1,%2,%3,%4};" ::"r"(a), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
/* Rows of an 8x8 matrix of b16 become its columns. Lane 4g + t holds columns 2t and 2t + 1 of row g, before and
 * after. */
DEV u32 movmatrix(u32 a)
{
    u32 d;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0,%1;" : "=r"(d) : "r"(a));
    return d;
}
DEV float ldg_f32(const float *p) { float r; asm volatile("ld.global.f32 %0,[%1];" : "=f"(r) : "l"(p)); return r; }
DEV uint4 ldg128(const void *p) /* read once: past L1 */
{
    uint4 r;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
    return r;
}
DEV void cp_async16(u32 dst, const void *src, bool valid)
{
    u32 n = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(dst), "l"(src), "r"(n) : "memory");
}
/* A stream, 128 bytes at a time (on an H200 faster than 256, and than none said; with a cache hint ptxas 13.0 made an
 * illegal instruction of it). */
DEV void cp_async16_stream(u32 dst, const void *src)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0],[%1],16;" ::"r"(dst), "l"(src) : "memory");
}
DEV void cp_async_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEV void cp_async_wait(void) { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

/* ---- f16 pairs ---- */
DEV u32 hfma2(u32 a, u32 b, u32 c)
{
    u32 d;
    asm("fma.rn.f16x2 %0,%1,%2,%3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
DEV u32 hadd2(u32 a, u32 b) { u32 d; asm("add.rn.f16x2 %0,%1,%2;" : "=r"(d) : "r"(a), "r"(b)); return d; }
DEV u32 hmul2(u32 a, u32 b) { u32 d; asm("mul.rn.f16x2 %0,%1,%2;" : "=r"(d) : "r"(a), "r"(b)); return d; }
DEV u32 e4m3x2_f16x2(u32 a) { u32 d; u16 h = (u16)a; asm("cvt.rn.f16x2.e4m3x2 %0,%1;" : "=r"(d) : "h"(h)); return d; }
DEV float h2f(u16 h) { float f; asm("cvt.f32.f16 %0,%1;" : "=f"(f) : "h"(h)); return f; }
/* Saturates at the largest finite f16: an activation that large is wrong by a little, an infinity would poison the
 * row. */
/* To f16, the largest for what is larger: one instruction. */
DEV u16 f2h(float f) { u16 h; asm("cvt.rn.satfinite.f16.f32 %0,%1;" : "=h"(h) : "f"(f)); return h; }
DEV u32 pack_h2(float lo, float hi)
{
    u32 d;
    asm("cvt.rn.satfinite.f16x2.f32 %0,%1,%2;" : "=r"(d) : "f"(hi), "f"(lo));
    return d;
}
DEV u32 pack_h2_fast(float lo, float hi)
{
    u32 d;
    asm("cvt.rn.f16x2.f32 %0,%1,%2;" : "=r"(d) : "f"(hi), "f"(lo));
    return d;
}
DEV u32 prmt(u32 a, u32 b, u32 sel)
{
    u32 d;
    asm("prmt.b32 %0,%1,%2,%3;" : "=r"(d) : "r"(a), "r"(b), "r"(sel));
    return d;
}
DEV u32 and_or(u32 a, u32 b, u32 c)
{
    u32 d;
    asm("lop3.b32 %0,%1,%2,%3,0xEA;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
DEV float ex2(float x) { float y; asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x)); return y; }

/* ---- tensor cores ---- */
DEV void mma_f16(float *c, const u32 *a, u32 b0, u32 b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* ---- asynchronous copies ---- */
DEV void mbar_init(u32 m, u32 n) { asm volatile("mbarrier.init.shared::cta.b64 [%0],%1;" ::"r"(m), "r"(n) : "memory"); }
DEV void mbar_init_fence(void) { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEV void mbar_expect(u32 m, u32 bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(m), "r"(bytes) : "memory");
}
DEV void mbar_arrive(u32 m) { asm volatile("mbarrier.arrive.shared::cta.b64 _,[%0];" ::"r"(m) : "memory"); }
DEV void mbar_wait(u32 m, u32 parity)
{
    asm volatile("{.reg .pred p; W_%=: mbarrier.try_wait.parity.shared::cta.b64 p,[%0],%1;"
                 " @p bra D_%=; bra W_%=; D_%=: }" ::"r"(m), "r"(parity) : "memory");
}
/* Past waiting: two seconds and then 2,000 tries more. Seconds alone may be another process', which had the card. */
#define LATE_NS 2000000000u
#define LATE_TRIES 2000u
DEV u32 global_ns(void) /* comes round in 4.3 s */
{
    u32 t;
    asm volatile("mov.u32 %0,%%globaltimer_lo;" : "=r"(t));
    return t;
}
/* The same, but a copy that never comes is a trap and not a hang. All of it one instruction to the compiler, which
 * would spill around it otherwise. */
DEV void mbar_wait_bounded(u32 m, u32 parity)
{
    asm volatile("{.reg .pred p; .reg .u32 t, u, n; mbarrier.try_wait.parity.shared::cta.b64 p,[%0],%1; @p bra D_%=;"
                 " mov.u32 t,%%globaltimer_lo; mov.u32 n,0;"
                 " W_%=: mbarrier.try_wait.parity.shared::cta.b64 p,[%0],%1; @p bra D_%=;"
                 " mov.u32 u,%%globaltimer_lo; sub.u32 u,u,t; setp.lt.u32 p,u,%2; @p bra W_%=;"
                 " add.u32 n,n,1; setp.lt.u32 p,n,%3; @p bra W_%=; trap; D_%=: }"
                 ::"r"(m), "r"(parity), "n"(LATE_NS), "n"(LATE_TRIES) : "memory");
}
DEV u64 policy_evict_first(void)
{
    u64 p;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0,1.0;" : "=l"(p));
    return p;
}
DEV void bulk_load(u32 dst, const void *src, u32 bytes, u32 m, u64 pol)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
                 " [%0],[%1],%2,[%3],%4;"
                 ::"r"(dst), "l"(src), "r"(bytes), "r"(m), "l"(pol) : "memory");
}
DEV void bulk_load_keep(u32 dst, const void *src, u32 bytes, u32 m)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1],%2,[%3];"
                 ::"r"(dst), "l"(src), "r"(bytes), "r"(m) : "memory");
}

/* What this thread wrote to shared memory is before the copies that it asks for next. */
DEV void fence_proxy_async(void) { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/* ---- clusters of blocks: an address is a place in another block's shared memory after cluster_addr ---- */
DEV void cluster_arrive_relaxed(void) { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
DEV void cluster_arrive(void) { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
DEV void cluster_wait(void) { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
DEV void cluster_sync(void)
{
    cluster_arrive();
    cluster_wait();
}
DEV u32 cluster_addr(u32 addr, u32 rank)
{
    u32 r;
    asm volatile("mapa.shared::cluster.u32 %0,%1,%2;" : "=r"(r) : "r"(addr), "r"(rank));
    return r;
}
DEV float ld_cluster(u32 addr)
{
    float v;
    asm volatile("ld.shared::cluster.f32 %0,[%1];" : "=f"(v) : "r"(addr) : "memory");
    return v;
}
/* Sent to another block, whose barrier at bar (a cluster's address too) is told of the bytes when they are there. */
DEV void send(u32 addr, float2 v, u32 bar)
{
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0],{%1,%2},[%3];"
                 ::"r"(addr), "f"(v.x), "f"(v.y), "r"(bar) : "memory");
}
DEV void send(u32 addr, float4 v, u32 bar)
{
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0],{%1,%2,%3,%4},[%5];"
                 ::"r"(addr), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(bar) : "memory");
}

/* Adds, and returns what was there: with __syncthreads before and after it by one thread, what the blocks that added
 * earlier stored can be read past L1 by all. */
DEV u32 add_acq_rel(u32 *p, u32 v)
{
    u32 r;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0,[%1],%2;" : "=r"(r) : "l"(p), "r"(v) : "memory");
    return r;
}

/* Words in memory that one kernel sends another while both run: each arrives whole, in no order. */
DEV void st_words(void *p, uint4 v)
{
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0],{%1,%2,%3,%4};"
                 ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
DEV uint4 ld_words(const void *p)
{
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
}

/* ---- programmatic dependent launch ---- */
DEV void pdl_wait(void) { asm volatile("griddepcontrol.wait;" ::: "memory"); }
DEV void pdl_launch(void) { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

/* For values that are loaded long before their use: the assembler keeps what is the same in a whole warp in registers
 * of the warp and waits for it at once. late_zero is 0, but the assembler does not know that it is one number: an
 * address plus that belongs to a lane; uniform: a value that is the same in all lanes is the warp's from here on. */
DEV u32 late_zero(void)
{
    u32 lane;
    asm volatile("mov.u32 %0,%%laneid;" : "=r"(lane));
    return lane >> 5;
}
/* Before the wait for the kernel that writes what lies there: the address is worked out then, its parameters and its
 * page are at hand. Nothing is read: L2 is where all see the same. Of use to a mixture's `down`; in other kernels the
 * wait then took longer, up to 3.5 us (docs/kernels.md). */
DEV void expect_at(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }
/* v is worked out here, and not where the compiler thinks best: after a wait, say. */
DEV void hold(u32 &v) { asm volatile("" : "+r"(v)); }
DEV u32 uniform(u32 v) { return __reduce_or_sync(~0u, v); }

DEV void bar_sync(u32 id, u32 n) { asm volatile("bar.sync %0,%1;" ::"r"(id), "r"(n) : "memory"); }
DEV void bar_arrive(u32 id, u32 n) { asm volatile("bar.arrive %0,%1;" ::"r"(id), "r"(n) : "memory"); }

DEV float warp_sum(float v)
{
#pragma unroll
    for (int o = 16; o; o >>= 1)
        v += __shfl_xor_sync(~0u, v, o);
    return v;
}
DEV float warp_max(float v)
{
#pragma unroll
    for (int o = 16; o; o >>= 1)
        v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
    return v;
}
/* Sum over a block of 256 threads, the same bits in every thread: lanes by a tree, warps in order. red: 8 floats. */
DEV float block_sum(float v, float *red)
{
    v = warp_sum(v);
    __syncthreads();
    if ((threadIdx.x & 31) == 0)
        red[threadIdx.x >> 5] = v;
    __syncthreads();
    float s = 0;
#pragma unroll
    for (u32 i = 0; i < 8; i++)
        s += red[i];
    return s;
}

#endif

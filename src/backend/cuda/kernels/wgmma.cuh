/* wgmma: D[64 x N] += A[64 x 16] B[16 x N], f16 in, f32 sums, A from registers, B from shared memory (K-major, 128-byte
 * swizzle). One instruction a function. Hopper only. */
#ifndef IMP_CUDA_WGMMA_CUH
#define IMP_CUDA_WGMMA_CUH

#include "ptx.cuh"

#ifdef HOPPER
/* Operand lists of N registers: their numbers in the instruction, and d as what they are to it. */
#define NUMS4 "%0,%1,%2,%3"
#define NUMS8 NUMS4 ",%4,%5,%6,%7"
#define NUMS16 NUMS8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define NUMS32 NUMS16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NUMS64                                                                                                         \
    NUMS32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"                                          \
           ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NUMS128                                                                                                        \
    NUMS64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"                                          \
           ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"                                          \
           ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"                              \
           ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define REGS4_AT(how, i) how(d[i]), how(d[(i) + 1]), how(d[(i) + 2]), how(d[(i) + 3])
#define REGS16_AT(how, i)                                                                                              \
    REGS4_AT(how, i), REGS4_AT(how, (i) + 4), REGS4_AT(how, (i) + 8), REGS4_AT(how, (i) + 12)
#define REGS64_AT(how, i)                                                                                              \
    REGS16_AT(how, i), REGS16_AT(how, (i) + 16), REGS16_AT(how, (i) + 32), REGS16_AT(how, (i) + 48)
#define REGS4(how) REGS4_AT(how, 0)
#define REGS8(how) REGS4(how), REGS4_AT(how, 4)
#define REGS16(how) REGS16_AT(how, 0)
#define REGS32(how) REGS16(how), REGS16_AT(how, 16)
#define REGS64(how) REGS64_AT(how, 0)
#define REGS128(how) REGS64(how), REGS64_AT(how, 64)

/* regs: of d; a0 to b: the numbers of the operands behind it. */
#define WGMMA(n, regs, a0, a1, a2, a3, b_at, transposed)                                                               \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.f16.f16 {" NUMS##regs "}, "                           \
                 "{%" #a0 ",%" #a1 ",%" #a2 ",%" #a3 "}, %" #b_at ", 1, 1, 1, " #transposed ";"                        \
                 : REGS##regs("+f")                                                                                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

template <int N> struct wgmma;
#define WGMMA_OF(n, ...)                                                                                               \
    template <> struct wgmma<n> {                                                                                      \
        static __device__ __forceinline__ void run(float *d, const u32 *a, u64 b) { WGMMA(n, __VA_ARGS__, 0); }        \
    };
WGMMA_OF(8, 4, 4, 5, 6, 7, 8)
WGMMA_OF(16, 8, 8, 9, 10, 11, 12)
WGMMA_OF(32, 16, 16, 17, 18, 19, 20)
WGMMA_OF(64, 32, 32, 33, 34, 35, 36)
WGMMA_OF(128, 64, 64, 65, 66, 67, 68)
WGMMA_OF(256, 128, 128, 129, 130, 131, 132)
#undef WGMMA_OF

/* N = 64 with B lying as [16][64], 64 columns of 128 bytes together */
DEV void wgmma_t64(float *d, const u32 *a, u64 b) { WGMMA(64, 32, 32, 33, 34, 35, 36, 1); }

/* What ordinary stores (and cp.async) put into shared memory, the tensor cores read only after this. */
DEV void proxy_fence(void) { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEV void wgmma_fence(void) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEV void wgmma_commit(void) { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> DEV void wgmma_wait(void) { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
/* The compiler sees no use of these registers between a product and its wait; this keeps it from moving one. */
template <int N> DEV void pin(float *v)
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(v[i])::"memory");
}
DEV u64 wgmma_desc(u32 addr) { return (u64)((addr & 0x3FFFF) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62; }
#endif

#endif

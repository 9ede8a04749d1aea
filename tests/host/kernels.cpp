/* kernels: one source of kernels for the host: HOST_SOURCE is the copy that host.mk made of it, HOST_LIST has a line
 * HOST_KERNEL(name) for every kernel in it. Each joins simt_kernels before main. */
#include HOST_SOURCE

template <class A> static void call(void (*fn)(void), void *const *p) { ((void (*)(A))fn)(*(const A *)p[0]); }
template <class A, class B, class C> static void call(void (*fn)(void), void *const *p)
{
    ((void (*)(A, B, C))fn)(*(const A *)p[0], *(const B *)p[1], *(const C *)p[2]);
}
template <class A> static simt_kernel describe(const char *name, void (*fn)(A))
{
    return {name, (void (*)(void))fn, call<A>, 1, {sizeof(A), 0, 0}, 0, NULL};
}
template <class A, class B, class C> static simt_kernel describe(const char *name, void (*fn)(A, B, C))
{
    return {name, (void (*)(void))fn, call<A, B, C>, 3, {sizeof(A), sizeof(B), sizeof(C)}, 0, NULL};
}

struct listed {
    simt_kernel k;
    explicit listed(const simt_kernel &of) : k(of)
    {
        k.next = simt_kernels;
        simt_kernels = &k;
    }
};
#define HOST_KERNEL(name) static listed list_##name(describe(#name, name));
#include HOST_LIST

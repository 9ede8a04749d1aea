# port: what the host's compiler must not see in a copy of the kernels. PTX outside of the headers that the host has
# of its own: each line is one such place, or a kind of them.
s|"\(\.\./\)*quant/blocks\.h"|"quant/blocks.h"|
# shared memory: of a launch, and of a kernel, which belongs to the block that runs
s|extern __shared__ \(__align__([0-9]*) \)\{0,1\}\([a-z0-9]*\) \([a-z]*\)\[\];|\2 *const \3 = (\2 *)simt_dynamic();|
s|__shared__ \([a-z0-9_]*\) \([a-z_]*\[[^,;]*\]\), \([a-z_]*\[[^,;]*\]\);|__shared__ \1 \2;\n__shared__ \1 \3;|
s|__shared__ \([a-z0-9_]*\) \([a-z_]*\)\(\(\[[^]]*\]\)*\);|SHARED(\2, \1, \3);|g
# ptx_host.cuh has decode.cuh's splats
/^DEV u32 splat_/,/^}/d
# an instruction on one line, to its closing );
/asm volatile(/{
:join
/);[^"]*$/!{
N
s/\n */ /
b join
}
}
# words to the compiler, prefetches
s|asm volatile("" .*;|;|
s|asm volatile("prefetch.*|;|
s|asm volatile("setmaxnreg.*|;|
# precise.cu, attend_p.cu
s|asm volatile("cp\.async\.ca.*|simt_copy(dst, valid ? src : NULL, 4);|
s|asm volatile("st\.shared\.v4.*|sts128(dst + k, make_uint4(0, 0, 0, 0));|
s|asm volatile("fence\.proxy.*|fence_proxy_async();|
# prefill.cu, batch.cu: blocks of a grid that wait for each other in memory
s|asm volatile("st\.shared\.u32 .*|sts32(from + m * 4, q);|
s|asm volatile("ld\.acquire\.gpu.*|simt_pause(), n = *came;|
s|asm volatile("trap;");|simt_fail("trap");|

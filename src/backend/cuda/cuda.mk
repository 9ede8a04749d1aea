# The GPU part of the build, read by the Makefile when CUDA=1. Each kernels/*.cu becomes a compressed fatbin; one
# generated assembler file puts them all into read-only data and lists them in imp_cuda_fatbins[].
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
CUDA_ARCH ?= -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_120f,code=[sm_120f,compute_120f]
NVFLAGS   := -O3 -std=c++17 -Isrc --compress-mode=size $(CUDA_ARCH)
CPPFLAGS  += -isystem $(CUDA_HOME)/include -DIMP_CUDA=1

CU_SRC    := $(wildcard src/backend/cuda/kernels/*.cu)
CU_HDR    := $(wildcard src/backend/cuda/kernels/*.cuh src/backend/cuda/kernels/*.h)
CU_FATBIN := $(CU_SRC:src/backend/cuda/kernels/%.cu=$(BUILD)/cuda/%.fatbin)
CU_EMBED  := $(BUILD)/obj/backend/cuda/fatbins.o

# ptxas says how many registers each kernel takes and whether it spills; scripts/sass_check.py reads that and the code.
$(BUILD)/cuda/%.fatbin: src/backend/cuda/kernels/%.cu $(CU_HDR) src/backend/cuda/cuda.mk
	@mkdir -p $(@D)
	nice -n 10 $(NVCC) $(NVFLAGS) -Xptxas -v -fatbin $< -o $@ 2> $(@:.fatbin=.ptxas) || { cat $(@:.fatbin=.ptxas) >&2; exit 1; }

$(BUILD)/cuda/fatbins.S: $(CU_FATBIN)
	@{ echo '.section .rodata.cuda,"a",@progbits'; \
	   for f in $^; do n=$$(basename $$f .fatbin); printf '.balign 64\n.Lfat_%s: .incbin "%s"\n' $$n $$f; done; \
	   echo '.section .data.rel.ro.cuda,"aw",@progbits'; echo '.balign 8'; echo '.hidden imp_cuda_fatbins'; echo '.globl imp_cuda_fatbins'; \
	   echo 'imp_cuda_fatbins:'; \
	   for f in $^; do printf '.quad .Lfat_%s\n' $$(basename $$f .fatbin); done; echo '.quad 0'; \
	   echo '.section .note.GNU-stack,"",@progbits'; } > $@

$(CU_EMBED): $(BUILD)/cuda/fatbins.S
	@mkdir -p $(@D)
	$(CC) -c $< -o $@

$(BUILD)/libimp.a $(BUILD)/libimp.so: $(CU_EMBED)

# One program with the backend, its reference and the plan layer: libc alone, so that it travels to a GPU machine.
GPU_SRC   := $(wildcard src/base/*.c src/quant/*.c src/plan/*.c src/backend/cpu/*.c src/backend/cuda/*.c)
$(BUILD)/gpu_test: $(wildcard tests/gpu/*.c tests/gpu/*.h) $(GPU_SRC:src/%.c=$(BUILD)/obj/%.o) $(CU_EMBED)
	$(CC) $(CPPFLAGS) -DGPU_SOURCE_HASH='"$(shell cat src/backend/cuda/*.[ch] src/backend/cuda/kernels/* | sha256sum | cut -c1-16)"' -Itests/gpu $(filter-out -Wconversion -Wmissing-prototypes,$(CFLAGS)) $(LDFLAGS) -rdynamic -o $@ $(filter %.c %.o,$^) -lm -ldl -pthread

.PHONY: gpu-test cuda
cuda: $(CU_EMBED)
gpu-test: $(BUILD)/gpu_test

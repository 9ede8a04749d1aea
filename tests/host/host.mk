# The kernels on the host, read by the Makefile: `make host-test` builds build/host/host_test, build/host/imp and,
# beside them, what stands in for the driver, libcuda.so.1. Needs clang and CUDA's headers (cuda.h), no nvcc and no
# GPU. Each kernels/*.cu is copied with ptx.cuh, tma.cuh and wgmma.cuh replaced and the lines of tests/host/port.sed;
# see tests/host/simt.h.
HOST_CUDA_H := $(firstword $(wildcard $(CUDA_HOME)/include/cuda.h /usr/local/cuda/include/cuda.h /usr/include/cuda.h))
HOST        := $(BUILD)/host
# Not here: attend_w and fp8, whose wgmma takes other operands.
HOST_CU     := attend attend_d attend_p batch experts gemv gemv_dense gemv_few ops precise prefill repack rows sample \
               scan
HOST_FLAGS  := -O2 -g1 -mavx2 -mfma -mf16c -ffp-contract=off -fno-math-errno -fPIC -fvisibility=hidden
HOST_CXX    := $(CLANG) -x c++ -std=c++17 $(HOST_FLAGS) -fno-rtti -fno-exceptions -fno-threadsafe-statics -Wall \
               -Wno-unknown-pragmas -Wno-unused-function -Wno-unused-const-variable $(WERROR) \
               -Itests/host -Isrc -I$(HOST)/kernels
HOST_COPIES := $(patsubst src/backend/cuda/kernels/%,$(HOST)/kernels/%,$(wildcard src/backend/cuda/kernels/*))
HOST_HDR    := $(wildcard tests/host/*.h tests/host/*.cuh) tests/host/kernels.cpp tests/host/host.mk

$(patsubst %,$(HOST)/kernels/%.cuh,ptx tma wgmma): $(HOST)/kernels/%.cuh: tests/host/%_host.cuh
	@mkdir -p $(@D)
	@cp $< $@
$(HOST)/kernels/%: src/backend/cuda/kernels/% tests/host/port.sed
	@mkdir -p $(@D)
	@sed -f tests/host/port.sed $< > $@

# Names of the kernels in a source: what the preprocessor leaves of KERNEL().
$(HOST)/%.list: $(HOST)/kernels/%.cu $(HOST_HDR) | $(HOST_COPIES)
	@$(HOST_CXX) -E -DHOST_SOURCE='"$*.cu"' -DHOST_LIST='"/dev/null"' tests/host/kernels.cpp | \
	    grep -o 'extern "C" void *imp_[a-z0-9_]*' | sed 's/.*\(imp_.*\)/HOST_KERNEL(\1)/' > $@
$(HOST)/%.kernels.o: $(HOST)/%.list
	$(HOST_CXX) -DHOST_SOURCE='"$*.cu"' -DHOST_LIST='"$(abspath $<)"' -MMD -MP -c tests/host/kernels.cpp -o $@

HOST_CFLAGS = $(filter-out -Wconversion -Wmissing-prototypes,$(CFLAGS)) $(CPPFLAGS) -isystem $(dir $(HOST_CUDA_H)) \
              -DIMP_CUDA=1 -Itests/host -Itests/gpu
$(HOST)/libcuda.so.1: tests/host/simt.c tests/host/driver_host.c $(HOST_CU:%=$(HOST)/%.kernels.o) \
        $(wildcard tests/host/*.h src/backend/cuda/*.h)
	$(CC) $(HOST_CFLAGS) $(LDFLAGS) -shared -Wl,-soname,libcuda.so.1 -o $@ $(filter %.c %.o,$^) -lm

$(HOST)/obj/%.o: src/backend/cuda/%.c
	@mkdir -p $(@D)
	$(CC) $(HOST_CFLAGS) -MMD -MP -c $< -o $@
HOST_OBJ := $(patsubst src/%.c,$(BUILD)/obj/%.o,$(wildcard $(foreach f,base quant plan backend/cpu,src/$(f)/*.c))) \
            $(patsubst src/backend/cuda/%.c,$(HOST)/obj/%.o,$(wildcard src/backend/cuda/*.c))
HOST_TEST := tests/host/host_test.c tests/gpu/gpu_common.c tests/gpu/gpu_parity.c tests/gpu/gpu_sample.c
$(HOST)/host_test: $(HOST_TEST) tests/gpu/gpu_test.h $(HOST_OBJ) $(HOST)/libcuda.so.1
	$(CC) $(HOST_CFLAGS) $(LDFLAGS) -Wl,-rpath,'$$ORIGIN' -o $@ $(filter %.c %.o,$^) \
	    -L$(HOST) -l:libcuda.so.1 -lm -ldl -pthread

# The program with that backend, for whole models (tests/e2e/test_cuda_host.py).
$(HOST)/obj/engine.o: src/engine/engine.c
	@mkdir -p $(@D)
	$(CC) $(HOST_CFLAGS) -MMD -MP -c $< -o $@
HOST_IMP := $(CLI_OBJ) $(filter-out $(BUILD)/obj/engine/engine.o $(BUILD)/obj/backend/cuda/%,$(LIB_OBJ)) \
            $(HOST)/obj/engine.o $(filter $(HOST)/%,$(HOST_OBJ))
$(HOST)/imp: $(HOST_IMP) $(HOST)/libcuda.so.1
	$(CC) $(CFLAGS) $(LDFLAGS) -Wl,-rpath,'$$ORIGIN' -o $@ $(filter %.o,$^) -L$(HOST) -l:libcuda.so.1 $(LDLIBS)

.PHONY: host-test host-ready
host-ready:
	@echo $(if $(HOST_CUDA_H),yes,no)
host-test: $(HOST)/host_test $(HOST)/imp

-include $(wildcard $(HOST)/*.d $(HOST)/obj/*.d)

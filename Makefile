# imp: `make` builds build/imp; `make help` lists the rest.
# Out of tree (BUILD=...), one wildcard a folder, dependencies by -MMD. Nothing here names a source file.

BUILD   ?= build
CC      ?= gcc
CLANG   ?= clang
NVCC    ?= $(shell command -v nvcc 2>/dev/null)
CUDA    ?= $(if $(NVCC),1,0)
PREFIX  ?= /usr/local
OPT     ?= -O3 -g1
WERROR  ?= $(if $(CI),-Werror)
WARN    := -Wall -Wextra -Wconversion -Wno-sign-conversion -Wmissing-prototypes -Wvla -Wpointer-arith -Wundef
# -ffp-contract=off: a product and a sum are fused where the source says fma() and nowhere else, so that every kernel
# and every compiler rounds alike.
CFLAGS  := -std=c17 -D_GNU_SOURCE $(OPT) $(WARN) $(WERROR) -fPIC -fvisibility=hidden -ffp-contract=off \
           -fno-math-errno -pthread $(EXTRA_CFLAGS)
CPPFLAGS := -Iinclude -Isrc -I$(BUILD)/gen
LDLIBS  := -lpcre2-8 -lutf8proc -ljansson -lmicrohttpd -ledit -lm -ldl -pthread

FOLDERS := base quant file text plan model arch backend backend/cpu constrain engine api server tools cli
SRC     := $(foreach f,$(FOLDERS),$(wildcard src/$(f)/*.c))
ifeq ($(CUDA),1)
SRC     += $(wildcard src/backend/cuda/*.c)
endif
CLI_SRC := $(wildcard src/cli/*.c)
LIB_SRC := $(filter-out $(CLI_SRC),$(SRC))
GEN_SRC := $(BUILD)/gen/arch_list.c
LIB_OBJ := $(LIB_SRC:src/%.c=$(BUILD)/obj/%.o) $(BUILD)/obj/gen/arch_list.o
CLI_OBJ := $(CLI_SRC:src/%.c=$(BUILD)/obj/%.o)

# Instruction-set variants: the suffix of a file's name decides its flags, and only those files may use them.
ISA_avx2   := -mavx2 -mfma -mf16c -mbmi2
ISA_avx512 := $(ISA_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl
ISA_vnni   := $(ISA_avx512) -mavx512vnni -mavx512vbmi
ISA_amx    := $(ISA_vnni) -mamx-tile -mamx-int8 -mamx-bf16
# Kernels that macros write (mm_*.c) are one source line each: their line tables would be megabytes that say nothing.
isa_flags   = $(foreach i,avx2 avx512 vnni amx,$(if $(filter %_$(i).c,$(1)),$(ISA_$(i)))) $(if $(filter %/mm_avx2.c %/mm_vnni.c %/mm_amx.c,$(1)),-g0 $(MM_FLAGS))

.DELETE_ON_ERROR:
.PHONY: all lib test unit unit-build san san-build tsan fuzz fuzz-lib fuzz-build layers readme man install clean help links perf-gate
.SECONDARY:

all: $(BUILD)/imp links lib

lib: $(BUILD)/libimp.a

$(BUILD)/imp: $(CLI_OBJ) $(BUILD)/libimp.a
	$(CC) $(CFLAGS) $(LDFLAGS) -Wl,--compress-debug-sections=zlib -o $@ $^ $(LDLIBS)

links: $(BUILD)/imp
	@for l in imp-cli imp-server imp-bench; do ln -sf imp $(BUILD)/$$l; done

$(BUILD)/libimp.a: $(LIB_OBJ)
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/libimp.so: $(LIB_OBJ)
	$(CC) $(CFLAGS) $(LDFLAGS) -shared -Wl,-soname,libimp.so.0 -o $@ $^ $(LDLIBS)

$(BUILD)/obj/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(call isa_flags,$<) -MMD -MP -c $< -o $@

$(BUILD)/obj/gen/%.o: $(BUILD)/gen/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

# The list of families is the folder: no enum, switch or registry to edit.
$(BUILD)/gen/arch_list.c: $(wildcard src/arch/*.c) Makefile
	@mkdir -p $(@D)
	@{ echo '#include "model/arch.h"'; \
	   for f in $(sort $(basename $(notdir $(wildcard src/arch/*.c)))); do echo "extern const arch_def arch_$$f;"; done; \
	   echo 'const arch_def *const arch_list[] = {'; \
	   for f in $(sort $(basename $(notdir $(wildcard src/arch/*.c)))); do echo "    &arch_$$f,"; done; \
	   echo '    NULL};'; } > $@

# ---- CUDA: see src/backend/cuda/cuda.mk ------------------------------------------------------------------------
ifeq ($(CUDA),1)
-include src/backend/cuda/cuda.mk
endif
# The kernels on the host's CPU, which needs neither nvcc nor a GPU.
include tests/host/host.mk

# ---- tests -----------------------------------------------------------------------------------------------------
UNIT    := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/test_*.c))

$(BUILD)/unit/%: tests/unit/%.c $(BUILD)/libimp.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -Itests/unit $(filter-out -Wmissing-prototypes -Wconversion,$(CFLAGS)) -Wno-psabi $(LDFLAGS) -MMD -MP -o $@ $< $(BUILD)/libimp.a -lcmocka $(LDLIBS)

$(BUILD)/tools/%: tests/tools/%.c $(BUILD)/libimp.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(filter-out -Wmissing-prototypes -Wconversion,$(CFLAGS)) $(LDFLAGS) -o $@ $< $(BUILD)/libimp.a $(LDLIBS)

unit-build: $(UNIT)

unit: $(UNIT)
	@fail=0; for t in $(UNIT); do echo "== $$t"; $$t || fail=1; done; exit $$fail

test: all unit

# The same sources under sanitizers, in folders of their own. Instrumented code draws warnings that the plain build does
# not deserve, so they are no errors here.
SAN  := BUILD=$(BUILD)/san CUDA=0 WERROR= OPT="-O1 -g" EXTRA_CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -DIMP_GUARD_STEPS"
TSAN := BUILD=$(BUILD)/tsan CUDA=0 WERROR= OPT="-O1 -g" EXTRA_CFLAGS="-fsanitize=thread -fno-omit-frame-pointer"
san-build:
	$(MAKE) $(SAN) all unit-build
san:
	$(MAKE) $(SAN) all unit
tsan:
	$(MAKE) $(TSAN) all unit

# libFuzzer: `make fuzz-NAME` builds tests/fuzz/fuzz_NAME.c with clang and runs it for FUZZ_SECONDS on its corpus; what it
# finds is written beside that corpus, in $(BUILD).
FUZZ_SECONDS ?= 60
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SAN := address,undefined -fno-sanitize-recover=undefined
# Parsers' fuzzers never reach the products of weights, whose instrumented code takes clang minutes a file: these stay plain.
fuzz-lib:
	$(MAKE) BUILD=$(BUILD)/fuzz CC=$(CLANG) CUDA=0 OPT="-O1 -g" WARN= WERROR= MM_FLAGS=-fno-sanitize=all EXTRA_CFLAGS="-fsanitize=fuzzer-no-link,$(FUZZ_SAN)" lib
$(BUILD)/fuzz/run-%: tests/fuzz/fuzz_%.c fuzz-lib
	$(CLANG) -std=c17 -D_GNU_SOURCE -DROOT='"$(CURDIR)"' $(CPPFLAGS) -O1 -g -fsanitize=fuzzer,$(FUZZ_SAN) -o $@ $< $(BUILD)/fuzz/libimp.a $(LDLIBS)
fuzz-build: $(FUZZERS:%=$(BUILD)/fuzz/run-%)
$(FUZZERS:%=fuzz-%): fuzz-%: $(BUILD)/fuzz/run-%
	@mkdir -p $(BUILD)/corpus/$*
	$< -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 -artifact_prefix=$(BUILD)/corpus/$*- $(FUZZ_ARGS) \
	    $(BUILD)/corpus/$* $(wildcard tests/fuzz/seeds/$*)

fuzz: $(FUZZERS:%=fuzz-%)

# Includes may only point down the list of folders in docs/design.md.
layers:
	@python3 scripts/layers.py

# Speed against tests/perf_baseline.json; on an idle machine.
perf-gate: $(BUILD)/imp
	@python3 bench/perf_gate.py --imp $(BUILD)/imp

# The tables of README.md and docs/imp.conf.md, printed by the program.
readme: all
	@python3 scripts/readme_tables.py $(BUILD)/imp

install: all $(BUILD)/libimp.so man
	@sh scripts/install.sh "$(BUILD)" "$(PREFIX)" "$(DESTDIR)"

man: all
	@mkdir -p $(BUILD)/man
	@for c in $$($(BUILD)/imp --help | awk '/^  [a-z]/ {print $$1}'); do $(BUILD)/imp help --man $$c > $(BUILD)/man/imp-$$c.1; done

clean:
	rm -rf $(BUILD)

help:
	@echo "make            build/imp (CUDA=0 leaves the GPU out; OPT, BUILD, CC can be set)"
	@echo "make unit       C unit tests        make san     the same under ASan + UBSan   make tsan   ThreadSanitizer"
	@echo "make fuzz-NAME  one libFuzzer target for FUZZ_SECONDS   make fuzz   all of them"
	@echo "make layers     includes point down only                make install PREFIX=/usr/local"

-include $(shell find $(BUILD)/obj $(BUILD)/unit -name '*.d' 2>/dev/null)

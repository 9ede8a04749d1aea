#!/bin/sh
# Runs every test that needs no GPU, from a bare Debian machine on: installs what the tests need, builds with warnings as
# errors, checks the layers, runs the C unit tests plainly and under sanitizers, fuzzes each parser briefly, and runs
# tests/e2e. Every stage runs even when one before it failed; the exit status is 1 if any did.
#   usage: sh scripts/test.sh [STAGE...]      stages: build layers gpu host unit san fuzz e2e (all by default)
# BUILD chooses the build folder; FUZZ_SECONDS (10) the time a fuzz target gets; IMP_TEST_MODEL=none leaves out the tests
# that need the real model (253 MB), IMP_TEST_MODEL=FILE names it, otherwise it is fetched.
set -u
self=test
cd "$(dirname "$0")/.." || exit 1
. scripts/lib.sh

case "${1-}" in
-h | --help) sed -n '2,7s/^# *//p' scripts/test.sh; exit 0 ;;
esac
BUILD=${BUILD:-build}
FUZZ_SECONDS=${FUZZ_SECONDS:-10}
CI=1
export BUILD FUZZ_SECONDS CI
stages=${*:-build layers gpu host unit san fuzz e2e}
jobs=$(cores)
results=""
failed=0

# stage NAME COMMAND...: runs it, shows its output, remembers how it went.
stage() {
    name=$1
    shift
    case " $stages " in *" $name "*) ;; *) return 0 ;; esac
    printf '\n==== %s\n' "$name"
    began=$(date +%s)
    if "$@"; then word=ok; else word=FAILED failed=1; fi
    results="$results$(printf '%-8s %-7s %4d s' "$name" "$word" $(($(date +%s) - began)))
"
    [ "$word" = ok ]
}

# Long logs hide the closing lines that matter: a build shows only the end of what the compilers said, when it fails.
quiet_make() {
    log=$BUILD/log.$1
    shift
    mkdir -p "$BUILD"
    if make -s -j"$jobs" "$@" >"$log" 2>&1; then return 0; fi
    tail -n 40 "$log"
    echo "make $*: failed, see $log"
    return 1
}

build() { quiet_make build all lib "$BUILD/libimp.so" && ls -l "$BUILD/imp" | awk '{print "imp: " $5 " bytes"}'; }

unit() { quiet_make unit unit-build && make -s unit; }

san() {
    quiet_make san san-build || return 1
    ASAN_OPTIONS=abort_on_error=0:detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 make -s san
}

# Every target gets FUZZ_SECONDS, as many at a time as there are cores.
fuzz() {
    quiet_make fuzz fuzz-build || return 1
    names=$(ls tests/fuzz/fuzz_*.c | sed 's|tests/fuzz/fuzz_||; s|\.c$||')
    for t in $names; do echo "$t"; done |
        xargs -P "$jobs" -I{} sh -c 'make -s fuzz-{} >"$BUILD/log.fuzz-{}" 2>&1 || touch "$BUILD/log.fuzz-{}.failed"'
    bad=0 n=0
    for t in $names; do
        n=$((n + 1))
        log=$BUILD/log.fuzz-$t
        if [ ! -e "$log.failed" ]; then
            awk -v t="$t" '/stat::number_of_executed_units/ {print "fuzz " t ": " $2 " inputs, no finding"}' "$log"
        else
            rm -f "$log.failed"
            bad=$((bad + 1))
            tail -n 30 "$log"
            echo "fuzz $t: FAILED, see $log"
        fi
    done
    echo "fuzz: $n targets of $FUZZ_SECONDS s each, $bad failed"
    [ "$bad" = 0 ]
}

venv() {
    stamp=$BUILD/venv/requirements.txt
    if cmp -s tests/requirements.txt "$stamp"; then return 0; fi
    rm -rf "$BUILD/venv"
    python3 -m venv "$BUILD/venv" || return 1
    "$BUILD/venv/bin/python" -m pip install -q --disable-pip-version-check -r tests/requirements.txt || return 1
    cp tests/requirements.txt "$stamp"
}

e2e() {
    venv || { echo "e2e: the virtual environment could not be made"; return 1; }
    case "${IMP_TEST_MODEL-}" in
    none) IMP_TEST_MODEL= ;;
    "") IMP_TEST_MODEL=$(python3 scripts/fetch_model.py) || echo "e2e: no model: the tests that need it are skipped" ;;
    esac
    export IMP_TEST_MODEL
    IMP_BUILD=$BUILD "$BUILD/venv/bin/python" -m pytest -q -p no:cacheprovider tests/e2e
}

# What can be said of the GPU code without a GPU: no spills, the meant instructions, and whether the report of the last run
# on a card (bench/gpu_run.sh) is about these sources.
gpu() {
    now=$(cat src/backend/cuda/*.[ch] src/backend/cuda/kernels/* | sha256sum | cut -c1-16)
    then=$(sed -n 's/^ *"source": "\([0-9a-f]*\)",*$/\1/p' bench/gpu-report.json | head -n 1)
    if [ "$now" = "$then" ]; then echo "gpu: bench/gpu-report.json is of these sources ($now)"
    else echo "gpu: bench/gpu-report.json is of other sources (${then:-none}, here $now): run bench/gpu_run.sh on a GPU machine"; fi
    [ -d "$BUILD/cuda" ] || { echo "gpu: this build has no kernels (no nvcc)"; return 0; }
    python3 scripts/sass_check.py "$BUILD"
}

# The kernels' sources on the CPU, against the same references as on a card (tests/host).
host() {
    grep -qw f16c /proc/cpuinfo || { echo "host: skipped: this CPU has no F16C (x86-64 from 2013 on)"; return 0; }
    [ "$(make -s host-ready)" = yes ] || { echo "host: skipped: no CUDA headers (cuda.h) here"; return 0; }
    quiet_make host host-test && "$BUILD/host/host_test"
}

# shellcheck disable=SC2086
need_packages $build_packages $fetch_packages $test_packages

if stage build build || ! [ "${stages#*build}" != "$stages" ]; then
    stage layers make -s layers
    stage gpu gpu
    stage host host
    stage unit unit
    stage san san
    stage fuzz fuzz
    stage e2e e2e
fi

printf '\n==== summary\n%s' "$results"
exit $failed

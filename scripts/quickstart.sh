#!/bin/sh
# From a bare Debian machine to the answer of a real model: installs what is missing, builds imp, fetches
# Gemma 3 270M (Q4_K_M), and lets it answer.      usage: sh scripts/quickstart.sh [PROMPT [TOKENS]]
# BUILD chooses the build folder, as it does for make.
set -u
self=quickstart
cd "$(dirname "$0")/.." || exit 1
. scripts/lib.sh

case "${1-}" in
-h | --help) sed -n '2,4s/^# //p' scripts/quickstart.sh; exit 0 ;;
esac
prompt=${1:-"The three things that matter most when you learn to cook are"}
tokens=${2:-64}
BUILD=${BUILD:-build}

# shellcheck disable=SC2086
need_packages $build_packages $fetch_packages
for tool in gcc make python3; do
    command -v $tool >/dev/null 2>&1 || die "$tool is missing; install it and try again"
done

say "building (a minute or two; log: $BUILD/quickstart.log)"
mkdir -p "$BUILD" || die "cannot write to $BUILD"
if ! make -s -j"$(cores)" BUILD="$BUILD" >"$BUILD/quickstart.log" 2>&1; then
    tail -n 8 "$BUILD/quickstart.log" >&2
    die "the build failed; the whole log is $BUILD/quickstart.log"
fi

model=$(python3 scripts/fetch_model.py) || exit 1
say "running: $BUILD/imp run -m $model -p '$prompt' -n $tokens"
echo >&2
printf '%s' "$prompt"
"$BUILD/imp" run -m "$model" -p "$prompt" -n "$tokens" --seed 1
status=$?
[ $status = 0 ] || die "imp run failed (exit status $status)"
exit 0

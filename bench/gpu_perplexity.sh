#!/bin/sh
# Perplexity of a model on the GPU and on the CPU of the same machine. A model larger than one transfer travels in parts, over
# calls to a machine that stays warm: `gpu_perplexity.sh keep PART...` puts parts into /tmp/imp-parts, `gpu_perplexity.sh run IMP`
# joins what is there (in order of name), checks the size, and runs both.
set -eu
parts=/tmp/imp-parts
case ${1-} in
keep)
    shift
    mkdir -p $parts
    cp "$@" $parts/
    ls -l $parts
    ;;
run)
    imp=$2
    text=${3-$(dirname "$0")/../tests/fixtures/english.txt}
    cat $parts/* > /tmp/imp-model.gguf
    "$imp" inspect /tmp/imp-model.gguf | head -n 6
    for backend in cuda cpu; do
        echo "== $backend"
        timeout 120 "$imp" perplexity -m /tmp/imp-model.gguf -f "$text" -c 512 --backend $backend
    done
    timeout 60 "$imp" bench -m /tmp/imp-model.gguf --backend cuda -p 512 -n 128 -r 3
    ;;
*)
    sed -n '2,4s/^# *//p' "$0"
    exit 2
    ;;
esac

#!/bin/sh
# Everything that is measured on a GPU machine, with one command: parity, goldens, figures through the engine, logits against
# the CPU, variation over starts, time to ready, sanitizers; writes gpu-report.json. `bench/gpu_run.sh --help` lists the stages.
exec python3 "$(dirname "$0")/gpu_run.py" "$@"

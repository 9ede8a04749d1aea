"""make perf-gate: figures against tests/perf_baseline.json. CPU figures are shares of the bandwidth that the read
kernel reaches in the same run, so that they hold on another day and machine of the kind; GPU figures are shares of the
byte floor, checked where a GPU is.

usage: perf_gate.py [--imp build/imp] [--update cpu|gpu]     --update: measure and write the baseline of that half anew
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BASELINE = ROOT / "tests" / "perf_baseline.json"
TESTS = {  # model, tokens generated, context before them, sequences
    "cpu": [("random:qwen3-0.6b:Q4_K_M", 32, 0, 1), ("random:qwen3-0.6b:Q8_0", 32, 0, 1)],
    "gpu": [
        ("random:qwen3-8b:Q4_K_M", 128, 512, 1),
        ("random:qwen3-8b:Q8_0", 128, 512, 1),
        ("random:llama-3.2-1b:BF16", 128, 512, 1),
        ("random:qwen3-0.6b:Q8_0", 128, 512, 1),
        ("random:qwen3-30b-a3b:Q4_K_M", 128, 512, 1),
        # Parity could not tell if the kernels of few rows (run_few.c) were never chosen: the bytes are the same.
        ("random:qwen3-8b:Q4_K_M", 64, 512, 2),
    ],
}


def name_of(model, n_gen, depth, n_seq):
    return f"{model} tg{n_gen}@{depth}" + (f" x{n_seq}" if n_seq > 1 else "")


def measure(imp, half, model, n_gen, depth, n_seq):
    argv = [
        imp,
        "bench",
        "-m",
        model,
        "-p",
        "0",
        "-n",
        n_gen,
        "-d",
        depth,
        *(["--npl", n_seq] if n_seq > 1 else []),
        "-r",
        "3",
        "-o",
        "json",
        "--backend",
        {"cpu": "cpu", "gpu": "cuda"}[half],
    ]
    r = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=300)
    if r.returncode:
        raise RuntimeError(r.stderr.strip().splitlines()[-1] if r.stderr.strip() else f"status {r.returncode}")
    row = json.loads(r.stdout)[0]
    return row["share_of_ceiling"], row["median_ts"], row["backends"]


def gate(imp, half, baseline, update):
    bad = 0
    old = baseline.get(half, {})
    new = {"tolerance": old.get("tolerance", 0.12 if half == "cpu" else 0.05), "shares": {}}
    for test in TESTS[half]:
        name = name_of(*test)
        share, tok_s, new["machine"] = measure(imp, half, *test)
        new["shares"][name] = round(share, 4)
        want = old.get("shares", {}).get(name)
        least = want * (1 - old["tolerance"]) if want else 0
        ok = update or want is None or share >= least
        bad += not ok
        print(
            f"{'ok  ' if ok else 'SLOW'} {half} {name}: {100 * share:.1f}% of the floor ({tok_s:.1f} tok/s), "
            f"baseline {'none' if want is None else f'{100 * want:.1f}%, at least {100 * least:.1f}%'}"
        )
    if update:
        baseline[half] = new
    return bad


def from_report(path, baseline):
    """The GPU half from a report of bench/gpu_run.sh instead of a run."""
    report = json.loads(pathlib.Path(path).read_text())
    shares = {}
    for r in report["figures"]["rows"]:
        for model, n_gen, depth, n_seq in TESTS["gpu"]:
            if r["model_filename"] == model and r["n_depth"] == depth and r["n_gen"] and r["n_seq"] == n_seq:
                shares[name_of(model, n_gen, depth, n_seq)] = round(r["share_of_ceiling"], 4)
    baseline["gpu"] = {"tolerance": 0.05, "shares": shares, "machine": report["device"]}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--imp", default=str(ROOT / "build" / "imp"))
    a.add_argument("--update", choices=list(TESTS), action="append", default=[])
    a.add_argument("--from-report", help="write the GPU half of the baseline from a gpu-report.json and stop")
    args = a.parse_args()
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if args.from_report:
        from_report(args.from_report, baseline)
        BASELINE.write_text(json.dumps(baseline, indent=1) + "\n")
        return 0
    bad = 0
    for half in TESTS:
        try:
            bad += gate(args.imp, half, baseline, half in args.update)
        except RuntimeError as e:
            print(f"{half}: not measured: {e}")
            bad += half == "cpu" or half in args.update
    if args.update:
        BASELINE.write_text(json.dumps(baseline, indent=1) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

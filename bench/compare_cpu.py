#!/usr/bin/env python3
"""imp against llama.cpp's CPU backend: the same files, threads and tests, interleaved round by round on one machine.

usage: compare_cpu.py --imp build/imp --llama-bench llama-bench [--rounds 5] [--threads 1,2] [-p 512] [-n 32] [-o OUT.json] MODEL.gguf...
A round runs each engine once on each model and thread count; the engines take turns at going first. Medians are compared.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys


def rows(cmd):
    r = subprocess.run(cmd, capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"{' '.join(cmd)}: exit status {r.returncode}: {r.stderr[-500:]}")
    return json.loads(r.stdout)


def main():
    a = argparse.ArgumentParser(usage=__doc__)
    a.add_argument("--imp", required=True)
    a.add_argument("--llama-bench", required=True)
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--threads", default="1,2")
    a.add_argument("-p", default="512")
    a.add_argument("-n", default="32")
    a.add_argument("-o")
    a.add_argument("models", nargs="+")
    a = a.parse_args()
    samples, ceiling = {}, {}
    for r in range(a.rounds):
        for t in a.threads.split(","):
            for m in a.models:
                engines = [("llama.cpp", [a.llama_bench, "-m", m, "-p", a.p, "-n", a.n, "-r", "1", "-t", t, "-o", "json"]),
                           ("imp", [a.imp, "bench", "-m", m, "-p", a.p, "-n", a.n, "-r", "1", "-t", t, "-o", "json", "--backend", "cpu"])]
                for name, cmd in engines if r % 2 == 0 else engines[::-1]:
                    for row in rows(cmd):
                        test = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
                        samples.setdefault((os.path.basename(m), int(t), test), {}).setdefault(name, []).append(row["avg_ts"])
                        if name == "imp":
                            ceiling.setdefault((os.path.basename(m), int(t), test), []).append(
                                (row["read_ceiling_bytes_per_s"], row["model_size"] * row["avg_ts"] / row["read_ceiling_bytes_per_s"]))
        print(f"round {r + 1} of {a.rounds} done", file=sys.stderr)
    out = []
    print("| model | threads | test | llama.cpp | imp | ratio | imp's share of read ceiling |\n|---|---|---|---|---|---|---|")
    for (m, t, test), s in samples.items():
        x, y = statistics.median(s["llama.cpp"]), statistics.median(s["imp"])
        c = statistics.median(v[1] for v in ceiling[m, t, test])
        out.append(dict(model=m, threads=t, test=test, **s, ceiling_gb_s=[v[0] / 1e9 for v in ceiling[m, t, test]]))
        print(f"| {m} | {t} | {test} | {x:.1f} | {y:.1f} | {y / x:.2f} | {f'{100 * c:.0f}%' if test.startswith('tg') else ''} |")
    if a.o:
        json.dump(out, open(a.o, "w"), indent=1)


if __name__ == "__main__":
    main()

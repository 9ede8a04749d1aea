"""racecheck on kernels whose answer is known (race_control.cu), and on imp's own beside them.

usage: race_control.py --program race_control [--sanitizer compute-sanitizer ...] [--real gpu_test ...] [--seconds 240]
                       [--out JSON]
For each sanitizer (several versions may be named), as it counts barriers itself and with --num-cuda-barriers 256:
hazards a kernel, wanted and seen. --real programs run `parity tiny` the same way; their hazards are listed by source
lines where the kernels have them (nvcc -lineinfo). Ends with 1 if the program itself failed or the tool gave no summary
of it; what the tool says is a finding, not a failure.
"""

import argparse
import collections
import json
import pathlib
import re
import subprocess
import sys
import time

RIGHT = ["rc_syncthreads", "rc_every_lane", "rc_lane0", "rc_bulk", "rc_gemv", "rc_counted"]
WRONG = ["rc_read_early", "rc_arrive_early", "rc_no_syncwarp", "rc_write_early", "rc_bulk_early"]
ACCESS = r"(Read|Write) access at (?:void )?(\w+)[^+\n]*\+0x[0-9a-f]+(?: in ([^\s\[]+))?"
REPORT = re.compile(r"Race reported between " + ACCESS + r"[^\n]*((?:\n=+ +and " + ACCESS + r"[^\n]*)+)")
SECOND = re.compile(r"and " + ACCESS + r"(?:[^\[\n]*\[(\d+) hazards?\])?")


def races(text):
    """kernel -> {"write a.cu:1 / read a.cu:2": hazards}"""
    out = collections.defaultdict(collections.Counter)
    for m in REPORT.finditer(text):
        for s in SECOND.finditer(m[4]):
            pair = f"{m[1].lower()} {m[3] or '?'} / {s[1].lower()} {s[3] or '?'}"
            out[m[2]][pair] += int(s[4] or 1)
    return {k: dict(v) for k, v in out.items()}


def check(sanitizer, options, argv, seconds):
    cmd = [sanitizer, "--tool", "racecheck", "--print-limit", "0", "--show-backtrace", "no", *options, *argv]
    t = time.time()
    try:
        r = subprocess.run(cmd, capture_output=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as e:
        return {"failed": f"{type(e).__name__}: {e}"[:200]}
    text = r.stdout.decode(errors="replace") + r.stderr.decode(errors="replace")
    lines = text.splitlines()
    return {
        "status": r.returncode,
        "seconds": round(time.time() - t, 1),
        "summary": next((x.strip("= ") for x in lines if "SUMMARY" in x), "none: " + " | ".join(lines[-3:])[:300]),
        "warnings": sorted({x.strip("= ") for x in lines if "overflow" in x or "Warning: Detected" in x}),
        "races": races(text),
        "said": [x for x in lines if "by construction" in x or "failures" in x or "tests" in x][-14:],
    }


def version(sanitizer):
    try:
        r = subprocess.run([sanitizer, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as e:
        return f"does not run: {e}"
    return (r.stdout.strip().splitlines() or ["says nothing"])[-1]


def table(r):
    """(name, reported, wanted) of every control kernel."""
    seen = r.get("races", {})
    return [(k, sum(seen.get(k, {}).values()), k in WRONG) for k in RIGHT + WRONG]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", required=True)
    p.add_argument("--sanitizer", nargs="+", default=["compute-sanitizer"])
    p.add_argument("--real", nargs="*", default=[], help="builds of gpu_test")
    p.add_argument("--seconds", type=float, default=240, help="no run starts after this long")
    p.add_argument("--out", type=pathlib.Path)
    a = p.parse_args()
    end, rep, good = time.time() + a.seconds, [], True
    try:
        plain = subprocess.run([a.program], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as e:
        sys.exit(f"{a.program}: {e}")
    print(plain.stdout + plain.stderr, end="", flush=True)
    good = plain.returncode == 0
    for s in a.sanitizer:
        rep.append({"sanitizer": s, "version": version(s)})
        print(s, rep[-1]["version"])
    counts = [], ["--num-cuda-barriers", "256"]
    todo = [(s, o, [a.program]) for s in a.sanitizer for o in counts]
    todo += [(s, o, [x, "parity", "tiny"]) for x in a.real for o in counts for s in a.sanitizer]
    for sanitizer, options, argv in todo:
        head = f"{sanitizer} {' '.join(options)} {argv[0]}"
        left = end - time.time()
        if left < 5:
            print(f"== {head}: no time left")
            rep.append({"run": head, "failed": "no time left"})
            continue
        r = check(sanitizer, options, argv, min(left, 150))
        rep.append({"run": head} | r)
        print(
            f"== {head}: {r.get('failed') or r['summary']} ({r.get('seconds')} s)", *r.get("warnings", []), sep="\n   "
        )
        if argv == [a.program]:
            good = good and "summary" in r and "SUMMARY" in r["summary"]
            for name, n, wanted in table(r):
                verdict = "as wanted" if bool(n) == wanted else "NOT AS WANTED"
                print(f"   {name:16} {n:8} hazards, {'some' if wanted else 'none'} wanted: {verdict}", flush=True)
        else:
            for kernel, pairs in r.get("races", {}).items():
                for pair, n in pairs.items():
                    print(f"   {kernel:20} {pair}: {n}")
        if a.out:
            a.out.write_text(json.dumps(rep, indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

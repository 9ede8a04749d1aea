"""The GPU machine's run: see gpu_run.sh. Every stage is bounded in time; one that fails is reported and the next one
runs; the report is written after each, and a later run with the same --out adds to it.

usage: gpu_run.sh [--imp build/imp] [--gpu-test build/gpu_test] [--goldens DIR] [--out DIR] [--quick] [STAGE ...]
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
CHUNK = 8192  # tokens a step for prompt figures


class Run:
    def __init__(self, args):
        self.a, self.report = args, {}
        self.raw = []

    def sh(self, argv, seconds, env=None, cwd=None):
        """Runs, prints the tail, returns (status, stdout, stderr)."""
        t = time.time()
        try:
            r = subprocess.run(
                list(map(str, argv)), capture_output=True, timeout=seconds, env={**os.environ, **(env or {})}, cwd=cwd
            )
            rc, out, err = r.returncode, r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")
        except subprocess.TimeoutExpired as e:
            rc, out, err = 124, (e.stdout or b"").decode(errors="replace"), (e.stderr or b"").decode(errors="replace")
        print(f"$ {' '.join(map(str, argv))[:200]}  [{rc}, {time.time() - t:.1f} s]", flush=True)
        if rc:
            print("\n".join((out + err).splitlines()[-6:]), flush=True)
        return rc, out, err

    def bench(self, model, *options, seconds=120):
        rc, out, err = self.sh([self.a.imp, "bench", "-m", model, "--backend", "cuda", "-o", "json", *options], seconds)
        check = re.search(r"\[check: (.*)\]", err)
        if check:
            print("  " + check.group(1))
        if rc:
            return [], err.strip().splitlines()[-1:] or [f"status {rc}"], None
        rows = json.loads(out[out.index("[") :])
        for r in rows:
            self.raw.append(r)
            name = (f"tg{r['n_gen']}" if r["n_gen"] else f"pp{r['n_prompt']}") + f"@{r['n_depth']} x{r['n_seq']}"
            print(
                f"  {model:34} {name:18} {r['median_ts']:10.1f} tok/s  share {100 * r['share_of_ceiling']:5.1f}%  {r['prompt_tflops']:6.1f} TFLOP/s  "
                f"ceiling {r['read_ceiling_bytes_per_s'] / 1e9:.0f} GB/s",
                flush=True,
            )
        return rows, None, check.group(1) if check else None


def parity(run):
    """Five minutes beside three processes, more than seven beside five: in a call of ten minutes best alone."""
    out = run.a.out / "parity.json"
    rc, text, _ = run.sh([run.a.gpu_test, "parity", "-o", out], 560)
    lines = text.splitlines()
    source = [x.split()[1] for x in lines if x.startswith("sources ")]
    tail = [x for x in lines if "failure" in x or "FAIL" in x][-8:]
    print("\n".join(tail))
    j = json.loads(out.read_text()) if out.exists() else {}
    return {
        "status": rc,
        "source": j.get("source") or (source or [None])[0],
        "summary": tail[-1] if tail else "",
        **{k: v for k, v in j.items() if isinstance(v, int)},
    }


def goldens(run, name="goldens", *options):
    if not run.a.goldens:
        return {"skipped": "no goldens here"}
    out = run.a.out / f"{name}.json"
    argv = [sys.executable, HERE / "gpu_goldens.py", "--imp", run.a.imp, "--goldens", run.a.goldens, "--json", out]
    rc, text, err = run.sh([*argv, *options], 420)
    print(text + err[-500:])
    return json.loads(out.read_text()) if out.exists() else {"status": rc}


def goldens_precise(run):
    """All goldens again with --precise, to the same bounds."""
    return goldens(run, "goldens_precise", "--precise")


def same_bytes(run):
    """The engine's own test on the card: bytes alone, among 31 others, in chunks, with one and two steps open."""
    test = run.a.test_engine
    if not test.exists():
        return {"skipped": f"{test.name} is not built"}
    rc, out, err = run.sh([test], 240, {"IMP_TEST_BACKEND": "cuda"}, cwd=run.a.root)
    tests = re.findall(r"\[\s+(OK|FAILED)\s+\] (\w+)", out + err)
    print("  " + ", ".join(f"{n} {w}" for w, n in tests))
    first = re.search(r"\[\s+ERROR\s+\](.*)", out + err)  # those after it may fail for a device that the first one lost
    if first:
        print("  first error:" + first[1])
    return {"status": rc, **({"first_error": first[1].strip(" -")} if first else {}), **{n: w for w, n in tests}}


def figures(run):
    """The table of issue 5, each row through imp_submit with the sampled tokens fed back."""
    quick = run.a.quick
    rows, lost = [], []
    plan = [
        ("qwen3-8b:Q8_0", ["-p", "0", "-n", "128", "-d", "512,16384"]),
        ("qwen3-8b:Q4_K_M", ["-p", "0", "-n", "128", "-d", "512,16384"]),
        ("qwen3-8b:Q6_K", ["-p", "0", "-n", "128", "-d", "512"]),
        ("llama-3.2-1b:BF16", ["-p", "0", "-n", "256", "-d", "512"]),
        ("qwen3-0.6b:Q8_0", ["-p", "0", "-n", "256", "-d", "512"]),
        ("qwen3-30b-a3b:Q4_K_M", ["-p", "0", "-n", "128", "-d", "512"]),
        ("llama-3.2-3b:Q8_0", ["-p", "0", "-n", "256", "-d", "512"]),
    ]
    if quick:
        plan = plan[1:2] + plan[4:5]
    for model, options in plan:
        got, bad, _ = run.bench("random:" + model, "-r", 3, *options)
        rows += got
        lost += [[model, options, bad]] if bad else []
    for model in [] if quick else ["qwen3-8b:Q4_K_M", "qwen3-8b:Q8_0"]:
        got, bad, _ = run.bench("random:" + model, "-r", 2, "-p", 0, "-n", 64, "-d", 512, "--npl", "2,4,8,32,64,128")
        rows += got
        lost += [[model, "batches", bad]] if bad else []
        got, bad, _ = run.bench("random:" + model, "-r", 3, "-p", "512,2048,8192", "-n", 0, "-b", CHUNK)
        rows += got
        lost += [[model, "prompt", bad]] if bad else []
        got, bad, _ = run.bench(
            "random:" + model, "-r", 3, "-p", "512,2048,8192", "-n", 0, "-b", CHUNK, "--prefill", "fp8"
        )
        rows += [r | {"prefill": "fp8"} for r in got]
        lost += [[model, "prompt fp8", bad]] if bad else []
    if not quick:
        got, bad, _ = run.bench("random:qwen3-30b-a3b:Q4_K_M", "-r", 2, "-p", "512,2048,8192", "-n", 0, "-b", CHUNK)
        rows += got
        lost += [["qwen3-30b-a3b", "prompt", bad]] if bad else []
    return {"rows": rows, "lost": lost}


def precise(run):
    """What --precise costs: one sequence and a prompt of a mixture and of a dense model."""
    rows, lost = [], []
    for model in ["qwen3-30b-a3b:Q4_K_M"] + ([] if run.a.quick else ["qwen3-8b:Q4_K_M"]):
        for options in (["-p", 0, "-n", 32, "-d", 512], ["-p", 2048, "-n", 0, "-b", 2048]):
            for how in ([], ["--precise"]):
                got, bad, _ = run.bench("random:" + model, "-r", 2, *options, *how)
                rows += [r | {"precise": bool(how)} for r in got]
                lost += [[model, options, how, bad]] if bad else []
    return {"rows": rows, "lost": lost}


def check(run):
    """Three decoded rows against the CPU's scalar path, in the process that measures."""
    out = {}
    models = (
        ["qwen3-0.6b:Q8_0"]
        if run.a.quick
        else ["qwen3-0.6b:Q8_0", "llama-3.2-1b:BF16", "llama-3.2-3b:Q8_0", "qwen3-8b:Q4_K_M", "qwen3-30b-a3b:Q4_K_M"]
    )
    for model in models:
        _, bad, text = run.bench("random:" + model, "-r", 1, "-p", 0, "-n", 16, "-d", 64, "--check", 3, seconds=150)
        out[model] = text or bad
    return out


def starts(run):
    """Five processes: how far a figure moves."""
    out = {}
    for model in ["qwen3-8b:Q4_K_M", "qwen3-0.6b:Q8_0"]:
        v = []
        for _ in range(2 if run.a.quick else 5):
            rows, _, _ = run.bench("random:" + model, "-r", 3, "-p", 0, "-n", 128, "-d", 512)
            v += [r["median_ts"] for r in rows]
        if len(v) > 1:
            out[model] = {"tok_s": v, "spread": (max(v) - min(v)) / statistics.median(v)}
            print(f"  {model}: spread {100 * out[model]['spread']:.2f}% over {len(v)} starts")
    return out


def ready(run):
    """An 8 GB file from the page cache: process start to a loaded engine."""
    path = pathlib.Path(run.a.big or "/dev/shm/imp-8gb.gguf")
    if not path.exists():
        rc, _, _ = run.sh([run.a.imp, "bench", "-m", "random:qwen3-8b:Q8_0", "--write", path], 120)
        if rc:
            return {"skipped": "the file could not be written"}
    v = []
    for _ in range(3):
        t = time.time()
        rc, out, err = run.sh(
            [
                run.a.imp,
                "run",
                "-m",
                path,
                "--backend",
                "cuda",
                "--ids",
                "-p",
                "1,2,3",
                "-n",
                1,
                "--temp",
                0,
                "-c",
                4096,
                "--verbose",
            ],
            60,
        )
        v.append(time.time() - t)
        for line in err.splitlines():
            if "loaded in" in line or "GB/s" in line:
                print("  " + line)
    size = path.stat().st_size
    path.unlink()
    print(f"  {size / 1e9:.2f} GB: start to first token {', '.join(f'{x:.2f}' for x in v)} s")
    return {"bytes": size, "seconds_to_first_token": v}


def sampled(run):
    """Decode with the full sampler on the device against greedy."""
    out = {}
    for model in ["qwen3-8b:Q4_K_M", "qwen3-0.6b:Q8_0"]:
        for name, options in (
            ("greedy", ["--temp", 0]),
            ("top-k, top-p", ["--temp", 0.8, "--top-k", 40, "--top-p", 0.95]),
            ("temperature", ["--temp", 1, "--top-p", 1, "--top-k", 0, "--min-p", 0]),
            ("on the host", ["--temp", 0.8, "--mirostat", 2]),
        ):
            rc, _, err = run.sh(
                [
                    run.a.imp,
                    "run",
                    "-m",
                    "random:" + model,
                    "--backend",
                    "cuda",
                    "--ids",
                    "-p",
                    "1,2,3,4,5,6,7,8",
                    "-n",
                    60 if name == "on the host" else 400,
                    "--seed",
                    7,
                    "--ignore-eos",
                    *options,
                ],
                60,
            )
            speed = re.search(r"answer \d+ tokens, ([0-9.]+) tok/s", err)
            out[f"{model} {name}"] = float(speed[1]) if speed else f"status {rc}"
            print(f"  {model} {name}: {out[f'{model} {name}']} tok/s")
    return out


def soak(run):
    """64 streams with random disconnects against a server on the GPU: every text as it was alone."""
    model = run.a.root / "tests" / "fixtures" / "models" / "qwen3-yarn.gguf"
    with subprocess.Popen(
        [
            run.a.imp,
            "serve",
            "-m",
            model,
            "--backend",
            "cuda",
            "--port",
            "18431",
            "--parallel",
            "64",
            "--context",
            "2048",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            time.sleep(4)
            rc, out, err = run.sh(
                [sys.executable, HERE / "soak.py", "http://127.0.0.1:18431", "--seconds", 15, "--completions"], 60
            )
        finally:
            server.terminate()
    print("  " + (out.strip() or err.strip()[-300:]))
    return {"status": rc, "result": out.strip()}


def sanitized(run, tool):
    argv = ["compute-sanitizer", "--tool", tool, "--error-exitcode", 9, "--print-limit", 0]  # all of them
    rc, text, err = run.sh([*argv, run.a.gpu_test, "parity", run.a.sanitize], 300)
    last = [x for x in (text + err).splitlines() if "SUMMARY" in x]
    where = re.findall(r"(?:Read|Write) access at (imp_\w+)", text + err)
    return {
        "status": rc,
        "summary": last[-1] if last else "no summary",
        "kernels": {k: where.count(k) for k in sorted(set(where))},
    }


def sanitize(run):
    """All three at a time: what each waits for is its own instrumented code, not the card."""
    tools = ("memcheck", "racecheck", "initcheck")
    with concurrent.futures.ThreadPoolExecutor(len(tools)) as pool:
        out = dict(zip(tools, pool.map(lambda tool: sanitized(run, tool), tools)))
    for tool, found in out.items():
        print(f"  {tool}: {found['summary']} {found['kernels'] or ''}")
    return out


STAGES = {
    f.__name__: f
    for f in (
        parity,
        goldens,
        goldens_precise,
        same_bytes,
        figures,
        precise,
        check,
        sampled,
        soak,
        starts,
        ready,
        sanitize,
    )
}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = HERE.parent
    a.add_argument("--imp", type=pathlib.Path, default=root / "build" / "imp")
    a.add_argument("--gpu-test", type=pathlib.Path, default=root / "build" / "gpu_test")
    a.add_argument("--test-engine", type=pathlib.Path, default=root / "build" / "unit" / "test_engine")
    a.add_argument("--root", type=pathlib.Path, default=root, help="where tests/fixtures lies")
    a.add_argument("--goldens", type=pathlib.Path)
    a.add_argument("--out", type=pathlib.Path, default=pathlib.Path(os.environ.get("OUT", ".")))
    a.add_argument("--big", help="where the 8 GB file may lie (/dev/shm/imp-8gb.gguf)")
    a.add_argument("--sanitize", default="tiny", help="the parity tests that the sanitizers run")
    a.add_argument("--quick", action="store_true", help="two models, few repeats")
    a.add_argument("stage", nargs="*", help=" ".join(STAGES))
    args = a.parse_args()
    args.imp, args.gpu_test, args.out = args.imp.resolve(), args.gpu_test.resolve(), args.out.resolve()
    args.test_engine = args.test_engine.resolve()
    if not args.goldens:
        args.goldens = next(
            (d for d in (root.parent / "shared" / "goldens", root / "shared" / "goldens") if d.is_dir()), None
        )
    run = Run(args)
    smi = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True
    )
    file = args.out / "gpu-report.json"
    rep = json.loads(file.read_text()) if file.exists() else {}  # a later call adds its stages
    rep |= {"device": smi.stdout.strip(), "date": datetime.date.today().isoformat()}
    t = time.time()
    for name in args.stage or list(STAGES):
        print(f"== {name}", flush=True)
        try:
            rep[name] = STAGES[name](run)
        except Exception as e:  # the stages after it still run
            rep[name] = {"failed": repr(e)}
            print(f"  {name}: {e!r}")
        file.write_text(json.dumps(rep, indent=1) + "\n")
    print(f"{time.time() - t:.0f} s")


if __name__ == "__main__":
    main()

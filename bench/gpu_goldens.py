"""Golden models on one backend, on a machine without pytest: the bounds of the goldens' README.

usage: gpu_goldens.py --imp build/imp --goldens DIR [--backend cuda] [--precise] [--jobs 8] [--json OUT] [FILTER]
For every golden: the last logits of three prompts against the stored reference; mean KL and top-1 agreement of all positions
against the CPU's scalar path and the stored best ids; greedy ids up to the first margin below four times the error measured.
Positions whose KL is above 0.05 are named (prompt:position), with the mean without them: where a mixture takes another
expert at a near tie, one position carries all of the mean (bench/RESULTS.md, "Mixtures on CUDA"). The bound is for the mean
with them.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "e2e"))
from logits import FLOATS, TOP1, error, position_kl  # noqa: E402

FAR = 0.05  # KL of a position that is named
BOUND = {"float": (2e-2, 1e-3), "quantised": (3e-2, 2e-3)}


def folders(root):
    own = {
        p.parent
        for p in root.glob("*/*/goldens.json")
        if (p.parent / "config.json").exists() or (p.parent / "model.gguf").exists()
    }  # others carry reference values alone
    return sorted(own | set(root.glob("gguf/*-F32")))


def reference(root, folder):
    own = folder if (folder / "goldens.json").exists() else root / "hf" / folder.name.removesuffix("-F32")
    return json.loads((own / "goldens.json").read_text())


def kind(folder, golden):
    if folder.parent.name == "gguf":
        return (
            "float"
            if set(golden.get("tensor_types", {"F32": 1})) <= FLOATS or folder.name.endswith("-F32")
            else "quantised"
        )
    return "quantised" if "-" in folder.name else "float"


def run(args, *argv):
    return subprocess.run([args.imp, *map(str, argv)], capture_output=True, timeout=300)


def logits(args, model, ids, out, *options):
    r = run(args, "logits", "-m", model, "--ids", ",".join(map(str, ids)), "-o", out, *options)
    if r.returncode:
        raise RuntimeError(r.stderr.decode(errors="replace").strip().splitlines()[-1])
    return np.load(out, allow_pickle=False)


def greedy(args, model, p, err):
    """Ids against the stored ones up to the first step whose two best logits lie closer than err, of the largest, can part."""
    n = len(p["greedy_ids"])
    r = run(
        args,
        "run",
        "-m",
        model,
        "--backend",
        args.backend,
        "--ids",
        "-p",
        ",".join(map(str, p["input_ids"])),
        "-n",
        n,
        "--temp",
        0,
        "--ignore-eos",
        *args.more,
    )
    got = [int(x) for x in r.stdout.decode().replace(",", " ").split()]
    scale = max(abs(x) for x in p["last_logits"])
    for step, (g, w, m) in enumerate(zip(got, p["greedy_ids"], p["greedy_margin"])):
        if m < err * scale:
            return True, step
        if g != w:
            return False, step
    return len(got) == n, n


def one(args, root, folder):
    g = reference(root, folder)
    model = folder / "model.gguf" if (folder / "model.gguf").exists() else folder
    what = kind(folder, g)
    bound, kl_bound = BOUND[what]
    row = {"golden": f"{folder.parent.name}/{folder.name}", "kind": what, "error": 0.0, "bound": bound}
    kl, where, agree, same, steps = [], [], [], True, 0
    try:
        with tempfile.TemporaryDirectory() as tmp:
            out = pathlib.Path(tmp) / "o.npy"
            for i, p in enumerate(g["prompts"]):
                if any(k.startswith("image") for k in p):
                    continue
                a = logits(args, model, p["input_ids"], out, "--backend", args.backend, *args.more)
                want = np.array(p["last_logits"], np.float32)
                e = float(error(a[-1][: len(want)], want)[0])
                row["error"] = e if not e <= row["error"] else row["error"]
                exact = logits(args, model, p["input_ids"], out, "--backend", "cpu", "--cpu", "scalar")
                kl += list(position_kl(a, exact))
                where += [f"{i}:{j}" for j in range(len(a))]
                agree += list(a.argmax(axis=1) == np.array(p["top5_ids"])[:, 0])
                ok, n = greedy(args, model, p, 4 * max(row["error"], 1e-4))
                same, steps = same and ok, steps + n
    except (RuntimeError, subprocess.TimeoutExpired) as e:
        return {
            **row,
            "status": "refused" if "cuda:" in str(e) and "error" not in str(e) else "failed",
            "message": str(e)[:300],
        }
    kl = np.array(kl)
    row["kl"] = float(kl.mean())
    row["far"] = {w: round(float(k), 4) for w, k in zip(where, kl) if not k <= FAR}
    row["kl_without_far"] = float(kl[kl <= FAR].mean()) if (kl <= FAR).any() else None
    row["top1"] = float(np.mean(agree))
    row["greedy"] = f"{'agrees' if same else 'differs'}, {steps} steps compared"
    good = row["error"] <= bound and row["kl"] <= kl_bound and row["top1"] >= TOP1 and same
    return {**row, "status": "ok" if good else "outside"}


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--imp", required=True)
    a.add_argument("--goldens", required=True, type=pathlib.Path)
    a.add_argument("--backend", default="cuda")
    a.add_argument("--precise", action="store_true", help="the backend with --precise, to the same bounds")
    a.add_argument("--jobs", type=int, default=8)
    a.add_argument("--json")
    a.add_argument("filter", nargs="?", default="")
    args = a.parse_args()
    args.imp = str(pathlib.Path(args.imp).resolve())
    args.more = ["--precise"] if args.precise else []
    todo = [f for f in folders(args.goldens) if args.filter in str(f)]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(lambda f: one(args, args.goldens, f), todo))
    for r in rows:
        print(
            f"{r['golden']:40} {r['status']:8} error {r['error']:.2e} of {r['bound']:.0e}, KL {r.get('kl', float('nan')):.1e}, "
            f"top-1 {r.get('top1', 0):.1%}, {r.get('greedy', r.get('message', ''))}"
        )
        if r.get("far"):
            print(f"{'':40} far: {r['far']}, mean KL without them {r['kl_without_far'] or float('nan'):.1e}")
    count = {s: sum(r["status"] == s for r in rows) for s in ("ok", "outside", "refused", "failed")}
    print(", ".join(f"{n} {s}" for s, n in count.items()))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"options": args.more, "rows": rows, **count}, indent=1))
    return 0 if rows and not count["outside"] and not count["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())

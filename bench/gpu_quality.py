"""What a backend does to a real model's quality, in one run: perplexity on two backends and how far apart they are, and
the distance (KL) of a coarser setting of the last backend, --prefill fp8, from its full quality.

usage: gpu_quality.py run --imp build/imp --model MODEL [--text FILE] [--backends cpu,cuda] [--other='--prefill fp8']
                          [--out JSON]
       gpu_quality.py split MODEL DIR      # parts of at most 40 MB and parts.json; xz where that saves 2% or more
       gpu_quality.py join PART... MODEL   # checks each part and the whole against the parts.json beside the parts
run prints a line a figure and ends with 1 if the backends' perplexities lie further apart than --wanted (0.2%), if one
is no number, or if a run failed. Logits lie in files meanwhile (--tmp): two bytes a scored token and word of the
vocabulary, for each backend (2.8 GB for english.txt and 262,144 words). KL is taken over the scored positions, the
second half of each window, from logits less their maximum rounded to f16; what that rounding alone amounts to is
measured too ("rounding": the last backend against its own file), so a KL of that size says no more than "equal".
A machine that takes less than the model in one transfer gets the parts over several calls, while it stays warm.
"""

import argparse
import concurrent.futures
import hashlib
import json
import lzma
import math
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time

PART = 40_000_000
ROOT = pathlib.Path(__file__).resolve().parents[1]


def sha(data):
    return hashlib.sha256(data).hexdigest()


def sha_file(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def split(a):
    """The whole is packed before it is cut, so that the parts are full; xz only where it is worth its time."""
    data = a.model.read_bytes()
    packed = lzma.compress(data, preset=6)
    xz = len(packed) < 0.98 * len(data)
    body = packed if xz else data
    a.dir.mkdir(parents=True, exist_ok=True)
    parts = []
    for i in range(0, len(body), PART):
        name, piece = f"part-{i // PART:02}", body[i : i + PART]
        (a.dir / name).write_bytes(piece)
        parts.append({"name": name, "bytes": len(piece), "sha256": sha(piece)})
    about = {"model": a.model.name, "bytes": len(data), "sha256": sha(data), "xz": xz, "parts": parts}
    (a.dir / "parts.json").write_text(json.dumps(about, indent=1) + "\n")
    how = "xz" if xz else "as they are"
    print(f"{len(data)} bytes, packed {len(packed)} ({len(packed) / len(data):.1%}): {len(parts)} parts, {how}")
    return 0


def join(a):
    """Parts may come in any order and from several folders; parts.json says which are wanted and what each must be."""
    *given, out = a.path
    lists = [d / "parts.json" for d in {p.parent for p in given} if (d / "parts.json").exists()]
    if not lists:
        sys.exit("join: no parts.json beside the parts")
    about = json.loads(lists[0].read_text())
    where = {p.name: p for p in given}
    missing = [p["name"] for p in about["parts"] if p["name"] not in where]
    if missing:
        sys.exit(f"join: missing {', '.join(missing)}")
    body = b""
    for p in about["parts"]:
        piece = where[p["name"]].read_bytes()
        if sha(piece) != p["sha256"]:
            sys.exit(f"join: {where[p['name']]}: {len(piece)} bytes, wanted {p['bytes']} with another sha256")
        body += piece
    data = lzma.decompress(body) if about["xz"] else body
    if sha(data) != about["sha256"]:
        sys.exit(f"join: {about['model']}: the joined file's sha256 is another")
    out.write_bytes(data)
    print(f"{out}: {len(data)} bytes, sha256 {about['sha256']}")
    return 0


class Runner:
    def __init__(self, a):
        self.a, self.failed = a, []

    def perplexity(self, backend, options, base):
        """imp's own figures of one run, or None, with the reason in failed."""
        argv = [self.a.imp, "perplexity", "-m", self.a.model, "-f", self.a.text, "-c", self.a.context, "--json"]
        argv += ["--backend", backend, *options] + (["--kl-base", base] if base else [])
        t = time.time()
        try:
            r = subprocess.run(list(map(str, argv)), capture_output=True, timeout=self.a.timeout)
            rc, out, err = r.returncode, r.stdout.decode(), r.stderr.decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            rc, out, err = 124, "", f"longer than {self.a.timeout} s"
        if rc:
            message = f"{backend} {' '.join(options)}: status {rc}: {err.splitlines()[-1] if err else ''}"
            print("FAILED " + message, flush=True)
            self.failed.append(message)
            return None
        return json.loads(out) | {"seconds": round(time.time() - t, 1)}


def show(name, r):
    if r and "mean_kl" in r:
        kl = f", mean KL {r['mean_kl']:.3e}, largest {r['max_kl']:.3e}, same best {r['top1_agreement']:.2%}"
    else:
        kl = ""
    if r:
        ppl = f"PPL {r['ppl']:.4f} +/- {r['error']:.4f}"
        print(f"{name:34} {ppl} ({r['tokens']} tokens, {r['seconds']} s){kl}", flush=True)


def apart(a, b):
    """b's relative distance from a, signed."""
    return b["ppl"] / a["ppl"] - 1 if a and b else None


def run(a):
    first, last = a.backends.split(",")[0], a.backends.split(",")[-1]
    other = shlex.split(a.other)
    go = Runner(a)
    rep = {"model": a.model.name, "sha256": sha_file(a.model), "text": a.text.name, "context": a.context}
    rep |= {"text_sha256": sha_file(a.text), "backends": [first, last], "other": a.other}
    with tempfile.TemporaryDirectory(dir=a.tmp) as tmp, concurrent.futures.ThreadPoolExecutor(3) as pool:
        bases = [pathlib.Path(tmp) / "first.kl", pathlib.Path(tmp) / "last.kl"]
        # The runs of a batch are independent, and only their results are of interest, not their times.
        jobs = [pool.submit(go.perplexity, first, [], bases[0]), pool.submit(go.perplexity, last, [], bases[1])]
        rep["first"], rep["last"] = (j.result() for j in jobs)
        show(f"{first}, full quality", rep["first"])
        show(f"{last}, full quality", rep["last"])
        if rep["first"] and rep["last"]:
            jobs = [pool.submit(go.perplexity, last, [], b) for b in bases]
            jobs += [pool.submit(go.perplexity, last, other, bases[1])]
            rep["last_against_first"], rep["rounding"], rep["other_against_last"] = (j.result() for j in jobs)
            show(f"{last} against {first}", rep["last_against_first"])
            show(f"{last} against itself (rounding)", rep["rounding"])
            show(f"{last} {a.other}", rep["other_against_last"])
    rep["last_to_first"] = apart(rep["first"], rep["last"])
    rep["other_to_last"] = apart(rep["last"], rep.get("other_against_last"))
    d, o = rep["last_to_first"], rep["other_to_last"]
    rep["ok"] = d is not None and math.isfinite(d) and abs(d) <= a.wanted and not go.failed
    rep["failed"] = go.failed
    if d is not None:
        verdict = "reached" if math.isfinite(d) and abs(d) <= a.wanted else "missed"
        print(f"perplexity of {last} is {d:+.4%} from {first}'s (wanted within {a.wanted:.1%}: {verdict})")
    if o is not None:
        print(f"perplexity of {last} {a.other} is {o:+.4%} from its full quality")
    if a.out:
        a.out.write_text(json.dumps(rep, indent=1) + "\n")
    return 0 if rep["ok"] else 1


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(required=True)
    r = sub.add_parser("run")
    r.add_argument("--imp", type=pathlib.Path, default=ROOT / "build" / "imp")
    r.add_argument("--model", type=pathlib.Path, required=True)
    r.add_argument("--text", type=pathlib.Path, default=ROOT / "tests" / "fixtures" / "english.txt")
    r.add_argument("--context", type=int, default=512)
    r.add_argument("--backends", default="cpu,cuda", help="two; the second is compared with the first")
    r.add_argument("--other", default="--prefill fp8", help="options compared with the last backend's full quality")
    r.add_argument("--wanted", type=float, default=0.002, help="largest relative distance of the perplexities")
    r.add_argument("--timeout", type=float, default=280, help="seconds a run of imp may take")
    r.add_argument("--tmp", type=pathlib.Path, help="where the logits lie meanwhile")
    r.add_argument("--out", type=pathlib.Path)
    r.set_defaults(do=run)
    s = sub.add_parser("split")
    s.add_argument("model", type=pathlib.Path)
    s.add_argument("dir", type=pathlib.Path)
    s.set_defaults(do=split)
    j = sub.add_parser("join")
    j.add_argument("path", type=pathlib.Path, nargs="+")
    j.set_defaults(do=join)
    a = p.parse_args()
    return a.do(a)


if __name__ == "__main__":
    sys.exit(main())

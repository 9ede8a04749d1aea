"""MaskBench (guidance-ai/jsonschemabench, folder maskbench/data) through token masks, with a tiktoken vocabulary.

  python bench/maskbench.py --data maskbench/data --driver DRIVER --ranks qwen3_6.tiktoken [--shard 0/2] [--out FILE]
  python bench/maskbench.py --sum FILE...

DRIVER is tests/tools/constrain_driver.c, linked with libimp.a. As in MaskBench's own runner, an instance is json.dumps without
indent, each of its tokens must be in the mask, and a mask's time is that of the mask and of taking the token. (Stricter than
there: an invalid instance may also be caught by the end of text not being allowed.) Needs tiktoken; nothing of it is kept here.
"""
import argparse
import base64
import collections
import glob
import json
import os
import re
import struct
import subprocess
import sys

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
           r"\s*[\r\n]+|\s+(?!\S)|\s+")


def vocabulary(path):
    with open(path, "rb") as f:
        return {base64.b64decode(t): int(n) for t, n in (line.split() for line in f.read().splitlines() if line)}


def write_vocabulary(ranks, path):
    n = max(ranks.values()) + 2  # one more: the end of text
    tok = [b""] * n
    for t, i in ranks.items():
        tok[i] = t
    with open(path, "wb") as f:
        f.write(struct.pack("<I", n))
        for i, t in enumerate(tok):
            f.write(struct.pack("<I", len(t) | (1 << 31 if i == n - 1 else 0)) + t)
    return n


def keyword(error):
    """What a refusal is about: the keyword at the end of its path, or the limit."""
    m = re.search(r"#[^:]*?/(\$?[A-Za-z]+)(?:/\d+)?: ", error)
    return (m.group(1) if m else "-") + ": " + re.sub(r"\d+", "N", error.split(": ", 1)[-1])[:70]


def run(a):
    import tiktoken
    ranks = vocabulary(a.ranks)
    enc = tiktoken.Encoding("bench", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    vocab = f"{a.out}.vocab"
    n_vocab = write_vocabulary(ranks, vocab)
    drv = subprocess.Popen([a.driver, vocab], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    k, n = (int(x) for x in a.shard.split("/"))
    res = {"n_vocab": n_vocab, "schemas": 0, "pass": 0, "valid": 0, "invalid": 0, "rejected_valid": [], "accepted_invalid": [],
           "refused": [], "compile_us": [], "hist": {}, "sum_ns": 0, "sum_mask_ns": 0, "masks": 0, "slow": []}
    hist = collections.Counter()
    for path in sorted(glob.glob(os.path.join(a.data, "*.json")))[k::n]:
        name = os.path.basename(path)[:-5]
        with open(path) as f:
            d = json.load(f)
        texts = [json.dumps(t["data"], indent=None, ensure_ascii=False) for t in d["tests"]]
        req = {"schema": json.dumps(d["schema"]), "tokens": [enc.encode_ordinary(t) for t in texts], "times": True}
        drv.stdin.write(json.dumps(req) + "\n")
        drv.stdin.flush()
        ans = json.loads(drv.stdout.readline())
        res["schemas"] += 1
        if not ans["ok"]:
            res["refused"].append([name, keyword(ans["error"]), ans["error"]])
            continue
        res["compile_us"].append(ans["compile_us"])
        good = True
        for i, (t, bad) in enumerate(zip(d["tests"], ans["token_accept"])):
            res["valid" if t["valid"] else "invalid"] += 1
            if t["valid"] != (bad == -1):
                good = False
                res["rejected_valid" if t["valid"] else "accepted_invalid"].append([name, i, bad])
        res["pass"] += good
        times = ans["times"]
        for m, c in zip(times[::2], times[1::2]):
            hist[(m + c) // 1000] += 1
            res["sum_ns"] += m + c
            res["sum_mask_ns"] += m
        res["masks"] += len(times) // 2
        worst = max((m + c for m, c in zip(times[::2], times[1::2])), default=0)
        res["slow"] = sorted(res["slow"] + [[worst // 1000, name]], reverse=True)[:30]
    drv.stdin.close()
    drv.wait(60)
    os.unlink(vocab)
    res["hist"] = dict(hist)
    with open(a.out, "w") as f:
        json.dump(res, f)
    return res


def merge(parts):
    out = parts[0]
    for p in parts[1:]:
        for key, v in p.items():
            if key == "hist":
                for us, n in v.items():
                    out["hist"][us] = out["hist"].get(us, 0) + n
            elif key != "n_vocab":
                out[key] = out[key] + v
    return out


def quantile(hist, q):
    total, seen = sum(hist.values()), 0
    for us in sorted(hist, key=int):
        seen += hist[us]
        if seen >= q * total:
            return int(us)
    return 0


def show(r):
    c = sorted(r["compile_us"])
    print(f"{r['schemas']} schemas, vocabulary {r['n_vocab']}: {r['pass']} pass, {len(r['refused'])} refused, "
          f"{len({x[0] for x in r['rejected_valid']})} with a valid instance rejected, {len(r['accepted_invalid'])} invalid accepted "
          f"({r['valid']} valid and {r['invalid']} invalid instances)")
    print(f"masks (with the token's acceptance): {r['masks']}, average {r['sum_ns'] / 1e3 / r['masks']:.1f} us (mask alone "
          f"{r['sum_mask_ns'] / 1e3 / r['masks']:.1f}), " + ", ".join(f"p{q * 100:g} {quantile(r['hist'], q)}" for q in (.5, .9, .95, .99, .999, 1)))
    print(f"compile: average {sum(c) / len(c) / 1e3:.2f} ms, " + ", ".join(f"p{q * 100:g} {c[min(len(c) - 1, int(q * len(c)))] / 1e3:.2f}"
                                                                           for q in (.5, .9, .99, .999, 1)))
    for k, n in collections.Counter(x[1] for x in r["refused"]).most_common(60):
        print(f"  {n:4} {k}")
    for key in ("rejected_valid", "accepted_invalid"):
        for x in r[key]:
            print(key, *x)
    print("slowest masks:", r["slow"][:8])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--data")
    p.add_argument("--driver")
    p.add_argument("--ranks")
    p.add_argument("--shard", default="0/1")
    p.add_argument("--out", default="maskbench.json")
    p.add_argument("--sum", nargs="+")
    a = p.parse_args()
    if a.sum:
        parts = []
        for f in a.sum:
            with open(f) as fp:
                parts.append(json.load(fp))
        show(merge(parts))
    else:
        show(run(a))


if __name__ == "__main__":
    sys.exit(main())

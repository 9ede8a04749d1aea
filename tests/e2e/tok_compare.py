"""Compares imp's tokenizer with Hugging Face `tokenizers` over tok_corpus.

  python tests/e2e/tok_compare.py DRIVER MODEL TOKENIZER_JSON [--pre 'REGEX'] [--no-norm] [--hidden ID,...]

DRIVER is tests/tools/tok_driver.c, built. Ids with and without the added BOS, decoded text with and without special
tokens, streamed text, and decoding of random ids are compared. Needs the package `tokenizers`; the tests that run
everywhere use fixtures made from the same comparison (tests/fixtures/tok)."""
import argparse
import json
import subprocess
import sys
import os

sys.path.insert(0, os.path.dirname(__file__))
import tok_corpus


class Driver:
    def __init__(self, exe, model):
        self.p = subprocess.Popen([exe, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, line):
        self.p.stdin.write(line.encode() + b"\n")
        self.p.stdin.flush()
        f = self.p.stdout.readline().decode().rstrip("\n").split("|")
        if f[0].startswith("error"):
            raise RuntimeError(f[0])
        return [int(x) for x in f[0].split()], [bytes.fromhex(x).decode("utf-8", "surrogateescape") for x in f[1:]]

    def encode(self, data, flags):
        return self.ask(f"E {flags} {data.hex()}")

    def decode(self, ids):
        return self.ask("D " + " ".join(map(str, ids)))[1]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("driver"), ap.add_argument("model"), ap.add_argument("tokenizer")
    ap.add_argument("--pre"), ap.add_argument("--no-norm", action="store_true"), ap.add_argument("--show", type=int, default=8)
    ap.add_argument("--hidden", default="", help="ids that the model file calls special and tokenizer.json does not")
    ap.add_argument("--shown", default="", help="the other way round")
    a = ap.parse_args()
    from tokenizers import Tokenizer
    d = json.load(open(a.tokenizer))
    if a.pre:
        for s in d["pre_tokenizer"]["pretokenizers"]:
            if s["type"] == "Split":
                s["pattern"] = {"Regex": a.pre}
    if a.no_norm:
        d["normalizer"] = None
    hidden = {int(x) for x in a.hidden.split(",") if x}
    shown = {int(x) for x in a.shown.split(",") if x}
    for t in d["added_tokens"]:
        t["special"] = (t["special"] or t["id"] in hidden) and t["id"] not in shown
    hf = Tokenizer.from_str(json.dumps(d))
    hf.no_truncation(), hf.no_padding()
    drv = Driver(a.driver, a.model)
    texts = [(s, s.encode("utf-8", "replace")) for s in tok_corpus.strings()]
    texts += [(b.decode("utf-8", "replace"), b) for b in tok_corpus.byte_strings()]
    bad = {"ids": 0, "ids+special": 0, "decode": 0, "decode all": 0, "stream": 0, "random": 0, "random stream": 0}
    shown_n = 0

    def note(kind, s, want, got):
        nonlocal shown_n
        bad[kind] += 1
        if shown_n < a.show:
            shown_n += 1
            print(f"{kind}: {s!r}\n  want {want!r}\n  got  {got!r}")

    for s, b in texts:
        want = hf.encode(s, add_special_tokens=False).ids
        got, text = drv.encode(b, 2)
        if want != got:
            note("ids", s, want, got)
        w = hf.encode(s, add_special_tokens=True).ids
        g, _ = drv.encode(b, 3)
        if w != g:
            note("ids+special", s, w, g)
        plain, full = hf.decode(got, skip_special_tokens=True), hf.decode(got, skip_special_tokens=False)
        if text[0] != plain:
            note("decode", s, plain, text[0])
        if text[1] != full:
            note("decode all", s, full, text[1])
        if text[2] != text[0] or text[3] != text[1]:
            note("stream", s, text[:2], text[2:])
    g = tok_corpus.Gen(99)
    n_random = 2000
    size = len(d["model"]["vocab"])
    for _ in range(n_random):
        ids = [g.next(size) for _ in range(1 + g.next(12))]
        text = drv.decode(ids)
        want = [hf.decode(ids, skip_special_tokens=True), hf.decode(ids, skip_special_tokens=False)]
        if text[:2] != want:
            note("random", ids, want, text[:2])
        if text[2:] != text[:2]:
            note("random stream", ids, text[:2], text[2:])
    total = sum(v for k, v in bad.items() if k != "random stream")
    print(f"{a.model}: {len(texts)} strings, {n_random} random id lists:", "equal" if not total else "DIFFERENT", bad)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())

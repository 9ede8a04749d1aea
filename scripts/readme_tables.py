#!/usr/bin/env python3
"""Fills the tables that the program prints from its own tables into README.md and docs/imp.conf.md.

usage: readme_tables.py [--check] [IMP]       IMP: the program (build/imp); --check: say what is out of date, change nothing

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a function below.
"""
import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FILES = ("README.md", "docs/imp.conf.md", "docs/supported-models.md")


def commands(imp):
    rows = [f"| `imp {c['name']}` | {c['help']} | {'yes' if c['built'] else 'not yet'} |" for c in imp["commands"]]
    return ["| command | does | built |", "|---|---|---|", *rows]


def families(imp):
    rows = []
    for f in imp["families"]:
        gguf = [n for n in f["names"] if not n[0].isupper()]
        hf = [n for n in f["names"] if n[0].isupper()]
        code = lambda names: ", ".join(f"`{n}`" for n in names) or "–"
        rows.append(f"| {f['title']} | {code(gguf)} | {code(hf)} |")
    return ["| family | GGUF | Hugging Face |", "|---|---|---|", *rows]


def formats(imp):
    """Grouped by bits a weight, so that thirty formats are a dozen lines."""
    no_weights = re.compile(r"I8|[IU]\d\d|U8|BOOL|E8M0")   # indices, masks and scales
    groups = {}
    for f in imp["formats"]:
        if f["decode"] and not no_weights.fullmatch(f["name"]):
            groups.setdefault(f["bytes"] * 8 / f["block"], []).append(f)
    rows = []
    for bits in sorted(groups):
        names = ", ".join(f["name"] for f in groups[bits])
        written = ", ".join(f["name"] for f in groups[bits] if f["encode"]) or "–"
        rows.append(f"| {bits:.4g} | {names} | {'all' if written == names else written} |")
    return ["| bits a weight | read | written too |", "|---|---|---|", *rows]


def conf(imp):
    return imp["markdown"].strip().split("\n")


def variants(imp):
    """What tests/tools/variants.py found, family by family."""
    seen = {}
    with open(os.path.join(ROOT, "bench", "variants.jsonl"), encoding="utf-8") as f:
        for line in f:
            r = json.loads(line)
            kind = r["file"] if r["file"] in ("hf", "gguf") else "quantised"
            seen.setdefault(r["family"], {"hf": [], "gguf": [], "quantised": []})[kind].append(r)
    rows = []
    for name in sorted(seen):
        all_of = seen[name]["hf"] + seen[name]["gguf"] + seen[name]["quantised"]
        right = lambda kind: f"{sum(not r['wrong'] for r in seen[name][kind])} of {len(seen[name][kind])}" if seen[name][kind] else "–"
        rows.append(f"| {name} | {right('hf')} | {right('gguf')} | {right('quantised')} | {max(r['error'] for r in all_of):.1e} |")
    return ["| family (`variants.py`) | folders right | GGUF right | prequantised folders right | largest error |", "|---|---|---|---|---|", *rows]


TABLES = {f.__name__: f for f in (commands, families, formats, variants, conf)}


def fill(text, imp):
    def one(m):
        if m.group(1) not in TABLES:
            sys.exit(f"readme_tables: no table is called {m.group(1)}")
        return f"<!-- table: {m.group(1)} -->\n" + "\n".join(TABLES[m.group(1)](imp)) + "\n<!-- end -->"
    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", one, text, flags=re.S)


def main():
    args = [a for a in sys.argv[1:] if a != "--check"]
    program = args[0] if args else os.path.join(ROOT, "build", "imp")
    said = lambda *a: subprocess.run([program, "help", *a], check=True, capture_output=True, text=True).stdout
    imp = json.loads(said("--json"))
    imp["markdown"] = said("--markdown")
    stale = []
    for name in FILES:
        path = os.path.join(ROOT, name)
        old = open(path, encoding="utf-8").read()
        new = fill(old, imp)
        if new != old:
            stale.append(name)
            if "--check" not in sys.argv:
                open(path, "w", encoding="utf-8").write(new)
    print(f"readme_tables: {', '.join(stale) or 'nothing'} {'out of date' if '--check' in sys.argv else 'changed'}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())

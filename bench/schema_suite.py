"""The official JSON-Schema-Test-Suite through src/constrain: python bench/schema_suite.py SUITE/tests/draft2020-12 DRIVER

DRIVER is tests/tools/constrain_driver.c, linked with libimp.a. A schema that is refused claims nothing; what is accepted wrongly
or rejected wrongly is listed. Formats are assertions here, so optional/format is read too; format.json (annotations) is not."""
import collections
import glob
import json
import os
import subprocess
import sys


def main(folder, driver):
    p = subprocess.Popen([driver], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    n, refused, wrong = collections.Counter(), collections.Counter(), []
    files = sorted(glob.glob(os.path.join(folder, "*.json")) + glob.glob(os.path.join(folder, "optional", "format", "*.json")))
    for path in files:
        name = os.path.relpath(path, folder)[:-5]
        if name in ("format", "vocabulary", "refRemote", "optional/format/unknown"):
            continue
        with open(path) as f:
            groups = json.load(f)
        for g in groups:
            p.stdin.write(json.dumps({"schema": json.dumps(g["schema"]), "texts": [json.dumps(t["data"]) for t in g["tests"]]}) + "\n")
            p.stdin.flush()
            a = json.loads(p.stdout.readline())
            if not a["ok"]:
                if "no value satisfies" in a["error"] and not any(t["valid"] for t in g["tests"]):
                    n["right"] += len(g["tests"])
                else:
                    n["refused"] += len(g["tests"])
                    refused[name + ": " + a["error"].rsplit(": ", 1)[-1]] += len(g["tests"])
                continue
            for t, got in zip(g["tests"], a["accept"]):
                kind = "right" if got == t["valid"] else "accepted wrongly" if got else "rejected wrongly"
                n[kind] += 1
                if got != t["valid"]:
                    wrong.append((kind, name, g["description"], t["description"], json.dumps(t["data"])[:80]))
    print(dict(n))
    for x in wrong:
        print(*x, sep=" | ")
    for k, v in refused.most_common():
        print(f"refused {v:4} {k}")


if __name__ == "__main__":
    main(*sys.argv[1:])

#!/usr/bin/env python3
"""Writes tests/fuzz/seeds/jinja: a sample of tests/fixtures/jinja_cases.json, several templates a file."""
import json
import os

here = os.path.dirname(os.path.abspath(__file__))
out = os.path.join(here, "jinja")
os.makedirs(out, exist_ok=True)
doc = json.load(open(os.path.join(here, "../../fixtures/jinja_cases.json")))
good = [t for t, o in doc["cases"] if o is not None]
data = json.dumps(doc["vars"], ensure_ascii=False)
for i in range(24):
    body = "\n".join(good[i::24][:40])
    with open(os.path.join(out, "%02d" % i), "wb") as fh:
        fh.write(body.encode() + (b"\0" + data.encode() if i % 2 else b""))

#!/usr/bin/env python3
"""Soak test of imp serve: many streams at once, random disconnects, for minutes. Each finished text must equal the one that the
same request gave alone; resident memory and descriptors must stay flat.
   usage: soak.py URL [--clients 64] [--seconds 300]"""
import argparse
import http.client
import json
import random
import sys
import threading
import time
import urllib.parse
import urllib.request

ap = argparse.ArgumentParser()
ap.add_argument("url")
ap.add_argument("--clients", type=int, default=64)
ap.add_argument("--seconds", type=float, default=300)
ap.add_argument("--tokens", type=int, default=24)
args = ap.parse_args()
host = urllib.parse.urlparse(args.url).netloc
BODIES = [{"prompt": f"Chapter {i}. " + "The road went on. " * (i % 9), "max_tokens": args.tokens, "temperature": 0.9, "top_p": 1, "seed": i} for i in range(24)]


def ask(body, drop_after=None):
    c = http.client.HTTPConnection(host, timeout=300)
    c.request("POST", "/v1/completions", json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
    r = c.getresponse()
    if r.status != 200:
        raise RuntimeError(f"HTTP {r.status}: {r.read()[:200]}")
    text, n = "", 0
    for line in r:
        if not line.startswith(b"data: "):
            continue
        if line.strip() == b"data: [DONE]":
            c.close()
            return text
        d = json.loads(line[6:])
        if "error" in d:
            raise RuntimeError(d)
        text += "".join(x["text"] for x in d["choices"])
        n += 1
        if drop_after is not None and n >= drop_after:
            c.close()
            return None
    raise RuntimeError(f"the stream ended after {n} events")


def metrics():
    out = urllib.request.urlopen(args.url + "/metrics").read().decode()
    get = lambda name: sum(float(x.rsplit(" ", 1)[1]) for x in out.split("\n") if x.split("{")[0].split(" ")[0] == name)
    return get("process_resident_memory_bytes"), get("process_open_fds"), get("vllm:num_requests_running") + get("vllm:num_requests_waiting")


alone = [ask(b) for b in BODIES]
end, lock, count, bad = time.time() + args.seconds, threading.Lock(), {"done": 0, "dropped": 0}, []


def client(k):
    rng = random.Random(k)
    while time.time() < end and len(bad) < 5:
        i = rng.randrange(len(BODIES))
        try:
            got = ask(BODIES[i], rng.randrange(args.tokens) if rng.random() < 0.3 else None)
            with lock:
                count["dropped" if got is None else "done"] += 1
                if got is not None and got != alone[i]:
                    bad.append((i, got, alone[i]))
        except Exception as e:
            with lock:
                bad.append((i, repr(e)))


threads = [threading.Thread(target=client, args=(k,)) for k in range(args.clients)]
for t in threads:
    t.start()
time.sleep(min(20, args.seconds / 5))
first = metrics()
for t in threads:
    t.join()
time.sleep(2)
last = metrics()
print(json.dumps({**count, "bad": bad, "rss_early_mb": first[0] / 1e6, "rss_end_mb": last[0] / 1e6, "fds_early": first[1], "fds_end": last[1], "left": last[2]}))
sys.exit(bool(bad) or last[2] != 0 or last[0] > first[0] * 1.1 + 32e6 or last[1] > first[1])

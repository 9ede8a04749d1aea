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
ap.add_argument("--completions", action="store_true", help="text completions only, for servers and models without chat")
args = ap.parse_args()
host = urllib.parse.urlparse(args.url).netloc
TOOL = {"name": "find", "parameters": {"type": "object", "properties": {"what": {"enum": ["a road", "a house"]}, "far": {"type": "integer", "minimum": 0, "maximum": 9}},
                                       "required": ["what", "far"], "additionalProperties": False}}
SAMPLING = {"max_tokens": args.tokens, "temperature": 0.9, "top_p": 1, "stream": True}


def body(i):
    """(path, request): two in three are text completions; the others are both chat protocols, with tools now and then."""
    text = f"Chapter {i}. " + "The road went on. " * (i % 9)
    kind, own = i % 6, {**SAMPLING, "seed": i}
    if kind < 4 or args.completions:
        return "/v1/completions", {**own, "prompt": text}
    chat = {**own, "messages": [{"role": "user", "content": text}]}
    if kind == 4:
        return "/v1/messages", chat
    return "/v1/chat/completions", {**chat, "max_tokens": 60, "tools": [{"type": "function", "function": TOOL}], "tool_choice": "required"} if i % 12 == 5 else chat


def text_of(d):
    """What a stream's event adds to the answer, in any of the protocols."""
    if "choices" in d:
        return "".join(c.get("text") or "" for c in d["choices"]) + "".join(
            (c["delta"].get("content") or "") + "".join(t["function"]["arguments"] for t in c["delta"].get("tool_calls", [])) for c in d["choices"] if "delta" in c)
    return d.get("delta", {}).get("text", "") if d["type"] == "content_block_delta" else ""


BODIES = [body(i) for i in range(24)]


def ask(request, drop_after=None):
    path, content = request
    c = http.client.HTTPConnection(host, timeout=300)
    c.request("POST", path, json.dumps(content), {"Content-Type": "application/json"})
    r = c.getresponse()
    if r.status != 200:
        raise RuntimeError(f"HTTP {r.status}: {r.read()[:200]}")
    text, n = "", 0
    for line in r:
        if not line.startswith(b"data: "):
            continue
        d = {} if line.strip() == b"data: [DONE]" else json.loads(line[6:])
        if not d or d.get("type") == "message_stop":
            c.close()
            return text
        if "error" in d:
            raise RuntimeError(d)
        text += text_of(d)
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
first, course = metrics(), []
while any(t.is_alive() for t in threads):
    time.sleep(min(30, args.seconds / 8))
    course.append(round(metrics()[0] / 1e6))
for t in threads:
    t.join()
time.sleep(2)
last = metrics()
print(json.dumps({**count, "bad": bad, "rss_early_mb": first[0] / 1e6, "rss_course_mb": course, "rss_end_mb": last[0] / 1e6, "fds_early": first[1], "fds_end": last[1], "left": last[2]}))
sys.exit(bool(bad) or last[2] != 0 or last[0] > first[0] * 1.1 + 32e6 or last[1] > first[1])

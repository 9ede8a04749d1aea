"""Time to first token of a long prompt, cold and from the prefix cache, and the cost of the cache in steps that hit nothing.
usage: prefix_cache.py MODEL [--imp build/imp] [--tokens 2000] [--rounds 5] [-t THREADS]
Every round serves a prompt that was never seen, then the same one again; answers of one token, so the time of the request is that
of its first token. Then answers of 128 tokens, servers with and without the cache in turns."""
import argparse
import atexit
import json
import random
import statistics
import subprocess
import time
import urllib.request


class Server:
    def __init__(self, a, *args):
        self.proc = subprocess.Popen([a.imp, "serve", "-m", a.model, "--port", "0", "-t", str(a.threads), "-c", str(a.tokens + 1024), *args],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        atexit.register(self.proc.kill)
        for line in self.proc.stderr:
            if " on http://" in line:
                self.url = "http://127.0.0.1:" + line.split(" on http://")[1].split(" ")[0].rsplit(":", 1)[1]
                break
        while True:  # 503 until the model is there
            try:
                urllib.request.urlopen(self.url + "/health")
                break
            except OSError:
                time.sleep(0.05)

    def stop(self):
        self.proc.terminate()
        self.proc.wait()

    def ask(self, ids, n):
        body = json.dumps({"prompt": ids, "max_tokens": n, "temperature": 0, "ignore_eos": True}).encode()
        t = time.perf_counter()
        with urllib.request.urlopen(urllib.request.Request(self.url + "/v1/completions", body, {"Content-Type": "application/json"})) as r:
            out = json.load(r)
        return time.perf_counter() - t, out


def show(name, values, unit):
    print(f"{name}: median {statistics.median(values):.4g} {unit} ({min(values):.4g} to {max(values):.4g}, {len(values)} rounds)", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--imp", default="build/imp")
    p.add_argument("--tokens", type=int, default=2000)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("-t", "--threads", type=int, default=0)
    a = p.parse_args()
    r = random.Random(1)
    s = Server(a)
    cold, warm = [], []
    for _ in range(a.rounds):
        ids = [r.randrange(1000, 20000) for _ in range(a.tokens)]
        for times, least in ((cold, 0), (warm, a.tokens - 128)):
            t, out = s.ask(ids, 1)
            found = out["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert found >= least and (least or not found), found
            times.append(t * 1e3)
    show(f"first token of {a.tokens} tokens, cold", cold, "ms")
    show(f"first token of {a.tokens} tokens, {found} of them cached", warm, "ms")
    s.stop()
    s, off, speed = Server(a), Server(a, "--no-prefix-cache"), {True: [], False: []}
    for _ in range(a.rounds):
        ids = [r.randrange(1000, 20000) for _ in range(16)]
        texts = []
        for on in (True, False, False, True):
            _, out = (s if on else off).ask(ids, 128)
            speed[on].append(out["timings"]["predicted_per_second"])
            texts.append(out["choices"][0]["text"])
        assert len(set(texts)) == 1
    for on in (True, False):
        show(f"decode, prefix cache {'on' if on else 'off'}", speed[on], "tok/s")
    for x in (s, off):
        x.stop()


main()

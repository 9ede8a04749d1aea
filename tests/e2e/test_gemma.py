"""The small real model, Gemma 3 270M Q4_K_M: sensible text, perplexity, memory, both CPU paths of one mind."""
import json
import subprocess
import time

import numpy as np
import pytest

from conftest import FIXTURES
from logits import BOUND, error, mean_kl

# llama-perplexity of llama-cpp-python 0.3.36 on this text and this file, -c 512; see bench/RESULTS.md.
LLAMA_PPL = 23.5385

GREEDY = [("Water boils at", "100 degrees Celsius"), ("1, 2, 3, 4, 5, 6,", "7, 8, 9, 10, 11"), ("def fibonacci(n):", "if n == 0:"),
          ("Once upon a time, there was a", "little girl named")]


@pytest.mark.parametrize("prompt,answer", GREEDY, ids=[p for p, _ in GREEDY])
def test_greedy_text_is_sensible(imp, gemma, prompt, answer):
    out = imp.ok("run", "--raw", "-m", gemma, "-p", prompt, "-n", 24, "--temp", 0, "-c", 256).decode()
    assert answer in out, out


def test_perplexity_agrees_with_llama_perplexity(imp, gemma):
    got = float(imp.ok("perplexity", "-m", gemma, "-f", FIXTURES / "english.txt", "-c", 512, "--quiet", timeout=900))
    assert abs(got / LLAMA_PPL - 1) <= 0.005, f"wanted {LLAMA_PPL} within 0.5%, got {got}"


def test_fast_path_stays_with_the_scalar_path(imp, gemma, tmp_path):
    ids = json.loads(imp.ok("tokenize", "-m", gemma, stdin=(FIXTURES / "english.txt").read_bytes()[:600]))
    exact = imp.logits(gemma, ids, tmp_path / "a.npy", "--cpu", "scalar", "-c", 512)
    fast = imp.logits(gemma, ids, tmp_path / "b.npy", "-c", 512)
    assert exact.shape == (len(ids), 262144)
    assert mean_kl(fast, exact) <= 2e-3
    assert error(fast[-1], exact[-1])[0] <= BOUND["fast"]
    assert (fast.argmax(axis=1) == exact.argmax(axis=1)).mean() >= 0.97


def test_tokens_of_a_long_text(imp, gemma):
    """Bytes go in and come out, through stdin, at a speed that says linear."""
    text = (FIXTURES / "english.txt").read_bytes()
    began = time.monotonic()
    ids = json.loads(imp.ok("tokenize", "-m", gemma, stdin=text * 10))
    assert time.monotonic() - began < 30 and len(ids) > 100_000
    ids = json.loads(imp.ok("tokenize", "-m", gemma, "--no-special", stdin=text[:20_000]))
    assert imp.ok("tokenize", "-m", gemma, "--ids", ",".join(map(str, ids))) == text[:20_000]


def anonymous_bytes(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            return next(int(line.split()[1]) << 10 for line in f if line.startswith("Anonymous:"))
    except (FileNotFoundError, ProcessLookupError, StopIteration):
        return 0


def test_memory(imp, gemma):
    """Anonymous memory: weights in use (the file at most), KV of the context asked for, and 64 MB."""
    info = json.loads(imp.ok("inspect", gemma, "--json"))
    p = subprocess.Popen([imp.path, "run", "--raw", "-m", gemma, "-p", "Water", "-n", "48", "-c", "2048", "-np", "1", "--ignore-eos"], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    peak = 0
    while p.poll() is None:
        peak = max(peak, anonymous_bytes(p.pid))
        time.sleep(0.02)
    limit = info["weight_bytes"] + 2048 * info["kv_bytes_per_token_f16"] + (64 << 20)
    assert p.returncode == 0 and 0 < peak <= limit, f"wanted up to {limit >> 20} MiB, got {peak >> 20}"

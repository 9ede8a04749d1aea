"""The command line as ../shared/contract.md promises it: subcommands, streams, exit statuses, and bad input."""
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import FIXTURES

COMMANDS = ("run", "bench", "logits", "perplexity", "tokenize", "inspect")
TEXT = "The thin threads of the other thing, and then the end.\n" * 40


def refused(r, status=1, *words):
    """One line on stderr, nothing on stdout, and the words that make it useful."""
    message = r.stderr.decode(errors="replace")
    assert r.returncode == status, f"wanted exit status {status}, got {r.returncode}: {message[-800:]}"
    assert message.startswith("imp: ") and r.stdout == b"", (message, r.stdout[:200])
    lines = message.strip().split("\n")
    assert len(lines) == 1 or (status == 2 and len(lines) == 2 and lines[1].startswith("usage: ")), message
    for w in words:
        assert w in message, f"wanted {w!r} in: {message}"


# ---- usage ----------------------------------------------------------------------------------------------------------
def test_help_and_version(imp):
    assert imp.ok("--version").startswith(b"imp ")
    text = imp.ok("--help").decode()
    for c in COMMANDS:
        assert c in text
        assert b"--model" in imp.ok(c, "--help") or c in ("inspect",)


@pytest.mark.parametrize("args", [(), ("frob",), ("run",), ("run", "--frob"), ("run", "-m"), ("run", "-m", "x", "-n", "many"), ("run", "-m", "x", "-t", "-5"),
                                  ("run", "-m", "x", "--kv", "f13"), ("run", "-m", "x", "--prefill", "f9"), ("run", "-m", "x", "--set", "nokey"), ("run", "-m", "x", "--set", "model.nothing=1"),
                                  ("logits", "-m", "x"), ("inspect",), ("bench", "-o", "xml", "-m", "x")], ids=" ".join)
def test_usage_is_exit_status_2(imp, args):
    r = imp(*args)
    assert r.returncode == 2 and r.stderr and r.stdout == b"", r


def test_what_is_not_built_yet_is_refused_by_name(imp, tiny):
    r = imp("run", "-m", tiny, "-p", "x", "--mmproj", "tower.gguf")
    if r.returncode != 2:
        pytest.skip("--mmproj is built now")
    assert b"--mmproj" in r.stderr


def test_prefill_fp8_is_never_ignored(imp, tiny):
    r = imp("run", "-m", tiny, "-p", "x", "-n", 2, "--backend", "cpu", "--prefill", "fp8")
    assert r.returncode == 1 and r.stdout == b"" and b"prefill fp8" in r.stderr and b"Hopper" in r.stderr, r
    full = imp.ok("run", "-q", "--raw", "-m", tiny, "-p", "x", "-n", 2, "--temperature", 0, "--backend", "cpu", "--prefill", "full")
    assert full == imp.ok("run", "-q", "--raw", "-m", tiny, "-p", "x", "-n", 2, "--temperature", 0, "--backend", "cpu")


def test_precise_on_the_cpu_is_its_scalar_path(imp, tiny, tmp_path):
    def logits(name, *options):
        imp.ok("logits", "-m", tiny, "--ids", "1,2,3,4,5,6,7", "-o", tmp_path / name, "--backend", "cpu", *options)
        return (tmp_path / name).read_bytes()

    want = logits("scalar", "--cpu", "scalar")
    assert logits("precise", "--precise") == want
    assert logits("both", "--precise", "--cpu", "scalar") == want
    assert logits("set", "--set", "model.precise=true") == want
    assert logits("off", "--precise", "--no-precise") == logits("auto")


@pytest.mark.parametrize(
    "options, words",
    [(("--cpu", "avx2"), (b"precise", b"avx2", b"scalar")), (("--prefill", "fp8"), (b"prefill fp8",))],
    ids=lambda o: str(o[0]),
)
def test_precise_is_refused_with_what_rounds(imp, tiny, options, words):
    r = imp("run", "-m", tiny, "-p", "x", "-n", 2, "--backend", "cpu", "--precise", *options)
    assert r.returncode in (1, 2) and r.stdout == b"" and r.stderr.count(b"\n") == 1, r
    assert all(w in r.stderr for w in words), r


@pytest.mark.parametrize("option", [("--schema", "missing.json"), ("--regex", "("), ("--grammar", "missing.gbnf")], ids=lambda o: o[0])
def test_a_constraint_is_never_ignored(imp, tiny, option):
    r = imp("run", "-m", tiny, "-p", "x", "-n", 2, *option)
    assert r.returncode in (1, 2) and r.stdout == b"" and r.stderr.startswith(b"imp: "), r


def test_constrained_answers(imp, tiny, tmp_path):
    fixed = "(red|blue) is the colour of the [a-c]{2} house\\."
    run = lambda *a: imp.ok("run", "--raw", "-q", "-m", tiny, "-p", "The thing", "-n", 200, "--temperature", 1.2, "--seed", 7, "-c", 512, *a).decode()
    text = run("--regex", fixed).rstrip("\n")
    assert re.fullmatch(fixed, text), text
    assert run("--regex", fixed, "--stop", " house").rstrip("\n") == text.split(" house")[0]
    (tmp_path / "s.json").write_text(json.dumps({"type": "object", "properties": {"k": {"const": "a fixed text"}}, "required": ["k"], "additionalProperties": False}))
    assert json.loads(run("--schema", tmp_path / "s.json")) == {"k": "a fixed text"}
    (tmp_path / "o.json").write_text(json.dumps({"type": "object", "properties": {k: {"enum": [1, 2]} for k in "qba"}, "required": list("abq"), "additionalProperties": False}))
    assert list(json.loads(run("--schema", tmp_path / "o.json", "--key-order", "schema", "-n", 500))) == list("qba")
    lines = b"".join(json.dumps(json.dumps({k: 1 for k in order})).encode() + b"\n" for order in ("qba", "abq"))
    for how, want in (([], ["accept", "accept"]), (["--key-order", "schema"], ["accept", "reject"])):
        assert imp.ok("constrain", "--schema", tmp_path / "o.json", *how, stdin=lines).decode().split() == want
    (tmp_path / "g.gbnf").write_text('root ::= "one" (" and " [0-9])+ " end"\n')
    assert re.fullmatch("one( and [0-9])+ end", run("--grammar", tmp_path / "g.gbnf").rstrip("\n"))


def test_links_behave_as_subcommands(imp):
    folder = os.path.dirname(imp.path)
    for link, command in (("imp-cli", "run"), ("imp-bench", "bench")):
        out = subprocess.run([os.path.join(folder, link), "--help"], capture_output=True)
        assert out.returncode == 0 and out.stdout == imp.ok(command, "--help")


# ---- subcommands ----------------------------------------------------------------------------------------------------
def test_tokenize(imp, tiny):
    ids = json.loads(imp.ok("tokenize", "-m", tiny, "-p", "Then he <|im_end|> è"))
    assert ids[0] == 1 and 4 in ids
    plain = json.loads(imp.ok("tokenize", "-m", tiny, "--no-special", "-p", "<|im_end|>"))
    assert 4 not in plain and len(plain) == 10
    text = "naïve 日本 🙂\tx\n".encode()
    ids = json.loads(imp.ok("tokenize", "-m", tiny, "--no-special", stdin=text))
    assert imp.ok("tokenize", "-m", tiny, "--ids", ",".join(map(str, ids))) == text


def test_invalid_bytes_become_replacement_characters(imp, tiny):
    bad = b"a\xff\xc3(\xe2\x82"
    ids = json.loads(imp.ok("tokenize", "-m", tiny, "--no-special", stdin=bad))
    assert imp.ok("tokenize", "-m", tiny, "--ids", ",".join(map(str, ids))).decode() == bad.decode(errors="replace")
    assert imp("run", "-m", tiny, "--raw", "-n", 2, stdin=bad).returncode == 0


def test_logits(imp, tiny, tmp_path):
    every = imp.logits(tiny, [1, 70, 80, 90], tmp_path / "a.npy")
    last = imp.logits(tiny, [1, 70, 80, 90], tmp_path / "b.npy", "--last")
    assert every.shape == (4, 331) and last.shape == (1, 331) and every.dtype == last.dtype == np.float32
    assert np.array_equal(every[-1:], last)
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "b.npy"]


def test_run_streams(imp, tiny):
    a = imp("run", "-m", tiny, "-p", "The", "-n", 12, "--temp", 0)
    assert a.returncode == 0 and b"tok/s" in a.stderr and b"tok/s" not in a.stdout
    b = imp("run", "-m", tiny, "-p", "The", "-n", 12, "--temp", 0)
    assert a.stdout == b.stdout
    j = json.loads(imp.ok("run", "-m", tiny, "-p", "The", "-n", 12, "--temp", 0, "--json"))
    assert j["text"] == a.stdout.decode(errors="replace")[:-1] and j["n_generated"] == len(j["ids"]) <= 12


def test_run_ids_and_seed(imp, tiny):
    def ids(*more):
        return imp.ok("run", "-m", tiny, "--ids", "-p", "1,70,80", "-n", 24, "--ignore-eos", *more).split(b",")
    assert ids("--seed", 7) == ids("--seed", 7) and len(ids("--seed", 7)) == 24
    assert len({tuple(ids("--seed", s, "--temp", 1.5)) for s in range(6)}) > 3
    assert ids("--temp", 0, "--seed", 1) == ids("--temp", 0, "--seed", 2) == ids("--top-k", 1, "--seed", 3)


def test_prompt_from_file_and_stdin(imp, tiny, tmp_path):
    (tmp_path / "p.txt").write_text("The thing")
    outs = {imp.ok("run", "-m", tiny, "-n", 6, "--temp", 0, *args, stdin=stdin) for args, stdin in
            ((("-p", "The thing"), b""), (("-f", tmp_path / "p.txt"), b""), ((), b"The thing"))}
    assert len(outs) == 1


def test_stop_string(imp, tiny):
    whole = imp.ok("run", "-m", tiny, "-p", "The", "-n", 40, "--temp", 0, "--ignore-eos").decode(errors="replace")
    stop = whole[3:5]
    cut = imp.ok("run", "-m", tiny, "-p", "The", "-n", 40, "--temp", 0, "--ignore-eos", "--stop", stop).decode(errors="replace")
    assert cut.rstrip("\n") == whole[:whole.index(stop)].rstrip("\n")


def test_perplexity(imp, tiny, tmp_path):
    (tmp_path / "t.txt").write_text(TEXT)
    last = imp.ok("perplexity", "-m", tiny, "-f", tmp_path / "t.txt", "-c", 64).decode().strip().split("\n")[-1]
    value = imp.ok("perplexity", "-m", tiny, "-f", tmp_path / "t.txt", "-c", 64, "--quiet").decode().strip()
    assert last.startswith("PPL = ") and " +/- " in last
    assert float(value) == float(last.split()[2])


def test_perplexity_is_what_the_logits_say(imp, tiny, tmp_path):
    """The definition: windows of -c tokens, each beginning with BOS, the second half of each scored."""
    n = 64
    (tmp_path / "t.txt").write_text(TEXT)
    ids = json.loads(imp.ok("tokenize", "-m", tiny, stdin=TEXT.encode()))
    nll, count = 0.0, 0
    for at in range(0, len(ids) // n * n, n):
        window = [1] + ids[at + 1:at + n]
        x = imp.logits(tiny, window, tmp_path / "o.npy").astype(np.float64)
        x -= x.max(axis=1, keepdims=True)
        logp = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
        for j in range(n // 2, n - 1):
            nll -= logp[j, ids[at + j + 1]]
            count += 1
    got = float(imp.ok("perplexity", "-m", tiny, "-f", tmp_path / "t.txt", "-c", n, "--quiet"))
    assert got == pytest.approx(np.exp(nll / count), rel=1e-4)


def test_inspect(imp, tiny, no_vocab):
    j = json.loads(imp.ok("inspect", tiny, "--json"))
    assert j["layers"] == 2 and j["vocabulary"] == 331 and j["parameters"] > 100_000 and j["tokenizer"] is True
    assert json.loads(imp.ok("inspect", no_vocab, "--json"))["tokenizer"] is False
    plan = imp.ok("inspect", tiny, "--plan").decode()
    assert plan.count("ATTEND") == 2 and plan.count("attn_q.weight") >= 2


def test_bench(imp, tiny):
    args = ("bench", "-m", tiny, "-p", "16", "-n", "4", "-r", 2)
    rows = json.loads(imp.ok(*args, "-o", "json"))
    assert [(r["n_prompt"], r["n_gen"]) for r in rows] == [(16, 0), (0, 4)]
    for r in rows:
        assert r["avg_ts"] > 0 and len(r["samples_ns"]) == 2 and r["model_n_params"] > 0 and r["stddev_ns"] >= 0
        assert r["avg_ns"] == pytest.approx(np.mean(r["samples_ns"]), rel=1e-3)
    table = imp.ok(*args).decode()
    assert "pp16" in table and "tg4" in table and "|" in table
    csv = imp.ok(*args, "-o", "csv").decode().strip().split("\n")
    assert len(csv) == 3 and csv[0].count(",") >= 10
    assert len(imp.ok(*args, "-o", "jsonl").strip().split(b"\n")) == 2


def test_bench_batched_counts_while_all_decode(imp, tiny):
    rows = json.loads(imp.ok("bench", "-m", tiny, "-p", "0", "-n", "8", "-d", "20", "-r", 1, "--npl", "1,4", "-o", "json"))
    assert [r["n_seq"] for r in rows] == [1, 4] and all(r["avg_ts"] > 0 and r["floor_bytes"] > 0 for r in rows)
    assert rows[1]["floor_bytes"] > rows[0]["floor_bytes"]   # the same weights, four times the KV


def test_bench_checks_logits_of_a_made_up_model(imp, tmp_path):
    r = imp("bench", "-m", "random:qwen3-0.6b:Q4_K_M", "--backend", "cpu", "-p", "0", "-n", "2", "-r", 1, "--check", 2)
    assert r.returncode == 0
    error = re.search(rb"check: 2 rows against the scalar path: error ([0-9.e+-]+),", r.stderr)
    assert error and float(error[1]) < 3e-2
    refused(imp("bench", "-m", "random:qwen3-0.6b:Q9"), 2, "random:SHAPE:FORMAT")
    imp.ok("bench", "-m", "random:llama-3.2-1b:Q4_0", "--write", tmp_path / "m.gguf")
    text = imp.ok("inspect", tmp_path / "m.gguf").decode()
    assert "16 layers, width 2048, vocabulary 128256" in text and "Q4_0" in text
    (tmp_path / "m.gguf").unlink()


def test_no_tokenizer(imp, no_vocab):
    refused(imp("run", "-m", no_vocab, "-p", "x"), 1, "tokenizer")
    assert imp("run", "-m", no_vocab, "--ids", "-p", "1,5", "-n", 2).returncode == 0


# ---- Ctrl-C ---------------------------------------------------------------------------------------------------------
def test_ctrl_c_is_130(imp, tiny):
    # SIGINT may be ignored in whoever runs the tests, and that would be inherited.
    p = subprocess.Popen([imp.path, "run", "-m", str(tiny), "-p", "x", "-c", "400000", "-n", "300000", "--ignore-eos"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    try:
        assert p.stdout.read(1)
        p.send_signal(signal.SIGINT)
        p.stdout.read()
        assert p.wait(timeout=20) == 130
    finally:
        p.kill()
        p.communicate()


# ---- bad input --------------------------------------------------------------------------------------------------------
def test_missing_and_wrong_files(imp, tiny, tmp_path):
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "text.gguf").write_text("hello, I am no model\n" * 10)
    (tmp_path / "cut.gguf").write_bytes(tiny.read_bytes()[:200_000])
    refused(imp("run", "-m", tmp_path / "none.gguf", "-p", "x"), 1, "none.gguf")
    refused(imp("run", "-m", tmp_path, "-p", "x"), 1, "config.json")
    for name in ("empty.gguf", "text.gguf", "cut.gguf"):
        refused(imp("run", "-m", tmp_path / name, "-p", "x"), 1, name)
        refused(imp("inspect", tmp_path / name), 1, name)
    refused(imp("run", "-m", tiny, "-f", tmp_path / "no.txt"), 1, "no.txt")


def patched(tiny, tmp_path, old, new, count=1):
    data = tiny.read_bytes()
    assert len(old) == len(new) and old in data
    path = tmp_path / "patched.gguf"
    path.write_bytes(data.replace(old, new, count))
    return path


def test_wrong_architecture(imp, tiny, tmp_path):
    name = lambda s: b"general.architecture" + struct.pack("<IQ", 8, 5) + s
    refused(imp("run", "-m", patched(tiny, tmp_path, name(b"llama"), name(b"mambo")), "-p", "x"), 1, "mambo", "llama", "qwen3")


def test_unsupported_tensor_type(imp, tiny, tmp_path):
    name = b"output_norm.weight" + struct.pack("<I", 1) + struct.pack("<Q", 64)
    bad = patched(tiny, tmp_path, name + struct.pack("<I", 0), name + struct.pack("<I", 77))
    refused(imp("run", "-m", bad, "-p", "x"), 1, "output_norm.weight", "77")


def test_unknown_metadata_of_the_family(imp, tiny, tmp_path):
    bad = patched(tiny, tmp_path, b"llama.rope.freq_base", b"llama.rope.freq_bass")
    refused(imp("run", "-m", bad, "-p", "x"), 1, "freq_bass")


def test_missing_tensor(imp, tiny, tmp_path):
    bad = patched(tiny, tmp_path, b"blk.1.ffn_down.weight", b"blk.1.ffn_dawn.weight")
    refused(imp("run", "-m", bad, "-p", "x"), 1, "ffn_d")


def test_nan_weights(imp, tiny, tmp_path):
    import gguf
    data = bytearray(tiny.read_bytes())
    t = next(t for t in gguf.GGUFReader(tiny).tensors if t.name == "blk.0.ffn_down.weight")
    data[t.data_offset:t.data_offset + t.n_bytes] = struct.pack("<f", float("nan")) * (t.n_bytes // 4)
    (tmp_path / "nan.gguf").write_bytes(data)
    r = imp("run", "-m", tmp_path / "nan.gguf", "-p", "x", "-n", 3)
    assert r.returncode == 1 and r.stderr.startswith(b"imp: ") and r.stderr.count(b"\n") == 1, r


def test_context_larger_than_memory(imp, tiny):
    refused(imp("run", "-m", tiny, "-p", "x", "-c", 1_000_000_000), 1, "-c")


def test_prompt_longer_than_the_context(imp, tiny):
    refused(imp("run", "-m", tiny, "-c", 64, "-n", 4, stdin=b"word " * 500), 1, "64")


def test_empty_prompt(imp, no_vocab, tiny):
    refused(imp("run", "-m", no_vocab, "--ids", "-p", "", "-n", 1), *(2, "empty") if imp("run", "-m", no_vocab, "--ids", "-p", "").returncode == 2 else (1, "empty"))
    assert imp("run", "-m", tiny, "-p", "", "-n", 3).returncode == 0   # BOS alone is a prompt


def test_ten_megabytes_of_prompt(imp, tiny):
    began = time.monotonic()
    refused(imp("run", "-m", tiny, "-n", 4, stdin=b"abc the \n" * 1_200_000), 1)
    assert time.monotonic() - began < 60


def test_ids_out_of_range(imp, tiny, tmp_path):
    for ids in ("1,331", "-1", "1,99999999999", "a", "1 2x"):
        r = imp("logits", "-m", tiny, "--ids", ids, "-o", tmp_path / "o.npy")
        assert r.returncode in (1, 2) and r.stderr.startswith(b"imp: "), (ids, r)
    assert os.listdir(tmp_path) == []


def test_nothing_half_written(imp, tiny, tmp_path):
    refused(imp("logits", "-m", tiny, "--ids", "1,2", "-o", tmp_path / "no" / "such" / "o.npy"), 1, "o.npy")
    r = imp("logits", "-m", tiny, "--ids", ",".join(["5"] * 600), "-o", tmp_path / "o.npy", "-c", 64)
    assert r.returncode == 1 and os.listdir(tmp_path) == [], r


def test_closed_output(imp, tiny):
    """A reader that goes away ends the run."""
    p = subprocess.Popen([imp.path, "run", "-m", str(tiny), "-p", "x", "-c", "400000", "-n", "300000", "--ignore-eos"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert p.stdout.read(1)
        p.stdout.close()
        assert p.wait(timeout=30) != 0
    finally:
        p.kill()
        p.wait()
        p.stderr.close()


def test_conf_file(imp, tiny, tmp_path):
    (tmp_path / "imp.conf").write_text(f'# a comment\n[model]\npath = "{tiny}"\n[sampling]\ntemperature = 0\nmax_tokens = 5\n')
    a = imp.ok("run", "-p", "The", cwd=tmp_path)
    assert a == imp.ok("run", "-m", tiny, "-p", "The", "-n", 5, "--temp", 0)
    assert a == imp.ok("run", "-p", "The", env={"IMP_CONFIG": str(tmp_path / "imp.conf")})
    (tmp_path / "bad.conf").write_text("[sampling]\ntemprature = 0\n")
    r = imp("run", "-m", tiny, "-p", "The", "--config", tmp_path / "bad.conf")
    assert r.returncode in (1, 2) and b"temprature" in r.stderr and b"temperature" in r.stderr, r.stderr

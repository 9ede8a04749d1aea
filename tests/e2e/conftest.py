"""Fixtures of the end-to-end tests: the built program, where models are, and how to run it.

IMP_BUILD names the build folder (build), IMP_TEST_MODEL the real model (a file, or empty for none: then its tests are
skipped). The goldens that the developers share lie beside the checkout, in ../shared/goldens; without them the tests on
tests/fixtures/models remain.
"""
import os
import pathlib
import subprocess

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = (ROOT / os.environ.get("IMP_BUILD", "build")).resolve()
GOLDENS = ROOT.parent / "shared" / "goldens"
FIXTURES = ROOT / "tests" / "fixtures"


class Imp:
    """The program: Imp("run", "-m", ...) -> CompletedProcess with bytes; a run that hangs fails after `timeout` seconds."""

    def __init__(self, path):
        self.path = str(path)

    def __call__(self, *args, stdin=b"", timeout=240, cwd=None, env=None):
        environ = {k: v for k, v in os.environ.items() if not k.startswith("IMP_") and k not in ("HF_TOKEN", "HF_ENDPOINT")}
        environ.update(env or {})
        return subprocess.run([self.path, *map(str, args)], input=stdin, capture_output=True, timeout=timeout, cwd=cwd, env=environ)

    def ok(self, *args, **kw):
        """Standard output of a run that must succeed."""
        r = self(*args, **kw)
        assert r.returncode == 0, f"imp {' '.join(map(str, args))[:300]}: exit status {r.returncode}: {r.stderr.decode(errors='replace')[-1500:]}"
        return r.stdout

    def logits(self, model, ids, out, *options):
        """float32 [tokens, vocabulary] of `imp logits`."""
        self.ok("logits", "-m", model, "--ids", ",".join(str(int(i)) for i in ids), "-o", out, *options)
        return np.load(out, allow_pickle=False)


@pytest.fixture(scope="session")
def imp():
    path = BUILD / "imp"
    if not path.exists():
        pytest.fail(f"{path} is not built: run make")
    return Imp(path)


@pytest.fixture(scope="session")
def gemma():
    path = os.environ.get("IMP_TEST_MODEL", "")
    if not path or not os.path.exists(path):
        pytest.skip("no real model: IMP_TEST_MODEL names none (scripts/fetch_model.py fetches it)")
    return path


@pytest.fixture(scope="session")
def tiny():
    """A small model with a byte-level tokenizer and a chat template."""
    return FIXTURES / "models" / "llama-gqa4.gguf"


@pytest.fixture(scope="session")
def no_vocab():
    return FIXTURES / "models" / "mistral-window.gguf"

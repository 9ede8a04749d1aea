"""The decoding fixtures are still what the installed gguf says (the C side of the comparison is test_quant.c)."""
import pathlib
import subprocess
import sys

import pytest

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"


def test_fixtures_equal_gguf():
    pytest.importorskip("gguf")
    done = subprocess.run([sys.executable, str(FIXTURES / "make_quant.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

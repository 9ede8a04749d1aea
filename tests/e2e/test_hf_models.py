"""The tiny SafeTensors folders of tests/fixtures/hf: transformers' logits against imp's, on both paths, in chunks of 1, 7 and 64."""
import numpy as np
import pytest

from conftest import FIXTURES
from logits import BOUND, error

FOLDER = FIXTURES / "hf"
QUANTISED = ("w4a16",)
NAMES = sorted(p.parent.name for p in FOLDER.glob("*/config.json"))


@pytest.mark.parametrize("name", NAMES)
def test_reference(imp, name, tmp_path):
    want = np.load(FOLDER / name / "want.npz")
    bound = 5e-4 if name.startswith("gemma") else 2e-4
    for i in range(3):
        for path in ("scalar", "auto"):
            got = imp.logits(FOLDER / name, want[f"ids_{i}"], tmp_path / "o.npy", "--cpu", path)
            worst = error(got[-1:], want[f"logits_{i}"][None]).max()
            limit = BOUND["fast"] if path == "auto" and name in QUANTISED else bound  # its cache is f16
            assert worst <= limit, f"{name}, {path}, prompt {i}: wanted an error up to {limit}, got {worst:.2e}"


@pytest.mark.parametrize("name", NAMES)
def test_chunks_do_not_matter(imp, name, tmp_path):
    ids = np.load(FOLDER / name / "want.npz")["ids_2"]
    whole = imp.logits(FOLDER / name, ids, tmp_path / "o.npy")
    for chunk in (1, 7, 64):
        got = imp.logits(FOLDER / name, ids, tmp_path / "o.npy", "--chunk", chunk)
        assert got.tobytes() == whole.tobytes(), f"{name}: chunks of {chunk} change bytes"

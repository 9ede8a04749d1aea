"""Whole models on the CUDA backend without a card: build/host/imp has that backend, its kernels on the CPU.

The engine, the plan's compilation for CUDA, every kernel of a family and the sampler are those of a card; what a card
alone can show (speed, races, its own rounding) is bench/gpu_run.sh's.
"""
import concurrent.futures
import json

import pytest

from conftest import BUILD, FIXTURES, GOLDENS, Imp
from logits import error, mean_kl
from test_server import COMPLETIONS, serving

PATH = BUILD / "host" / "imp"
MODELS = sorted(FIXTURES.glob("models/*.gguf"))
FAMILIES = sorted(p.parent for p in GOLDENS.glob("gguf/*-Q4_K_M/model.gguf")) + sorted(
    p.parent for p in GOLDENS.glob("gguf/gpt_oss-*/model.gguf")
)
IDS = [3, 17, 40, 5, 9, 60, 2, 33, 21, 8, 44, 12]
pytestmark = pytest.mark.skipif(not PATH.exists(), reason="build/host/imp is not built (sh scripts/test.sh host)")


@pytest.fixture(scope="module")
def host():
    return Imp(PATH)


def on_cpu(host, model, ids, tmp_path):
    return host.logits(model, ids, tmp_path / "cpu.npy", "--backend", "cpu", "--cpu", "scalar")


@pytest.mark.parametrize("model", MODELS, ids=lambda p: p.stem)
def test_models(host, model, tmp_path):
    """Against the CPU's scalar path: the same numbers with --precise, and close ones without."""
    want = on_cpu(host, model, IDS, tmp_path)
    got = host.logits(model, IDS, tmp_path / "precise.npy", "--backend", "cuda", "--precise")
    assert error(got, want).max() < 2e-5
    for kv in ("auto", "f32"):
        got = host.logits(model, IDS, tmp_path / f"{kv}.npy", "--backend", "cuda", "--kv", kv)
        assert 1e-6 < error(got, want).max() < 3e-2  # f16 products: not the scalar path under another name
        assert mean_kl(got, want) < 2e-3


def test_kv_types(host):
    """What the backend has no kernels for is refused by name, not stored as something else."""
    r = host("logits", "-m", MODELS[0], "--ids", "1,2", "-o", "/dev/null", "--backend", "cuda", "--kv", "q8_0")
    assert r.returncode != 0
    assert b"f16 or f32" in r.stderr


@pytest.mark.parametrize("folder", FAMILIES, ids=lambda p: p.name)
def test_families(host, folder, tmp_path):
    """A golden's prompts with --precise: no expert is taken otherwise, whatever was near."""
    model = folder / "model.gguf"
    for prompt in json.loads((folder / "goldens.json").read_text())["prompts"]:
        want = on_cpu(host, model, prompt["input_ids"], tmp_path)
        got = host.logits(model, prompt["input_ids"], tmp_path / "cuda.npy", "--backend", "cuda", "--precise")
        assert error(got, want).max() < 2e-5


def test_same_text_in_company(host):
    """A request's text alone and among others, greedy or sampled on the device, with prompts of several lengths."""
    bodies = [
        {"prompt": "the " * (1 + 5 * i), "max_tokens": 6, "ignore_eos": True, "temperature": 0.7 * (i % 2), "seed": i}
        for i in range(4)
    ]
    with serving(host, FIXTURES / "models" / "llama-gqa4.gguf", "--backend", "cuda", "-np", "4", "-c", "256") as s:
        alone = [s.post(COMPLETIONS, b) for b in bodies]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda b: s.post(COMPLETIONS, b), bodies))
    texts = [[r["choices"][0]["text"] for r in answers] for answers in (alone, together)]
    assert texts[0] == texts[1]
    assert all(r["usage"]["completion_tokens"] == 6 for r in alone)

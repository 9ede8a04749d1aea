"""The shared goldens (../shared/goldens): published layouts, reference logits of transformers; bounds of their README.

What CLAIMED names must load and pass; anything else must pass if it loads, or be refused in one line.
"""
import json

import numpy as np
import pytest

from conftest import BUILD, GOLDENS, Imp
from logits import BOUND, FLOATS, MEAN_KL, TOP1, error, greedy_agrees, mean_kl, scalar_bound, top1

FOLDERS = sorted(p.parent for p in GOLDENS.glob("*/*/goldens.json")) + sorted(GOLDENS.glob("gguf/*-F32"))
pytestmark = pytest.mark.skipif(not FOLDERS, reason="no goldens beside the checkout (../shared/goldens)")
CHUNKS = (1, 7, 64)
CLAIMED = {"gemma3", "llama", "mistral", "qwen2", "qwen3"}   # one more with every family that is finished


def claimed(folder):
    family, _, rest = folder.name.partition("-")
    return family in CLAIMED and (folder.parent.name == "gguf" or not rest)



def model_path(folder):
    return folder / "model.gguf" if (folder / "model.gguf").exists() else folder


def reference(folder):
    """The goldens of a folder; F32 files share those of the Hugging Face folder that they were made from."""
    own = folder if (folder / "goldens.json").exists() else GOLDENS / "hf" / folder.name.removesuffix("-F32")
    return json.loads((own / "goldens.json").read_text())


def quantised(folder, golden):
    if folder.parent.name == "gguf":
        return not set(golden.get("tensor_types", {"F32": 1})) <= FLOATS
    return folder.name.count("-") > 0


def inspect(imp, folder):
    """None when imp takes the model, else what it says."""
    r = imp("inspect", model_path(folder))
    return None if r.returncode == 0 else (r.returncode, r.stderr.decode(errors="replace"), r.stdout)


def pytest_generate_tests(metafunc):
    if "golden" not in metafunc.fixturenames:
        return
    program = BUILD / "imp"
    taken = [f for f in FOLDERS if claimed(f) or (program.exists() and inspect(Imp(program), f) is None)]
    metafunc.parametrize("golden", taken, ids=lambda f: f"{f.parent.name}/{f.name}", indirect=True)


@pytest.fixture
def golden(request):
    return request.param, reference(request.param)


def test_the_rest_is_refused_in_one_line(imp):
    for folder in FOLDERS:
        refused = None if claimed(folder) else inspect(imp, folder)
        if refused:
            status, message, out = refused
            assert status == 1 and message.startswith("imp: ") and message.count("\n") == 1 and not out, f"{folder.name}: {refused}"


def check_top5(got, prompt, bound):
    """Every position's five stored logits, against the largest stored one."""
    ids, want = np.array(prompt["top5_ids"]), np.array(prompt["top5_vals"])
    mine = np.take_along_axis(got, ids, axis=1)
    return float((np.abs(mine - want).max(axis=1) / np.abs(want).max(axis=1)).max())


def image(prompt):
    return any(k.startswith("image") for k in prompt)


def test_scalar_path(imp, golden, tmp_path):
    folder, g = golden
    bound = scalar_bound(g["family"], quantised(folder, g))
    for p in g["prompts"]:
        if image(p):
            continue
        got = imp.logits(model_path(folder), p["input_ids"], tmp_path / "o.npy", "--cpu", "scalar")
        want = np.array(p["last_logits"], np.float32)
        last = error(got[-1][:len(want)], want)[0]
        assert last <= bound, f"prompt of {len(p['input_ids'])}: wanted an error of the last logits up to {bound}, got {last:.2e}"
        # stored with 7 digits; five values a position see less of max|b| than a whole row, so twice the bound
        assert check_top5(got, p, bound) <= 2 * bound


def test_default_path(imp, golden, tmp_path):
    folder, g = golden
    for_kl, exact, agree = [], [], []
    for p in g["prompts"]:
        if image(p):
            continue
        got = imp.logits(model_path(folder), p["input_ids"], tmp_path / "o.npy")
        want = np.array(p["last_logits"], np.float32)
        last = error(got[-1][:len(want)], want)[0]
        assert last <= BOUND["fast"], f"prompt of {len(p['input_ids'])}: wanted an error up to {BOUND['fast']}, got {last:.2e}"
        for_kl.append(got)
        exact.append(imp.logits(model_path(folder), p["input_ids"], tmp_path / "o.npy", "--cpu", "scalar"))
        agree += list(got.argmax(axis=1) == np.array(p["top5_ids"])[:, 0])
    # The scalar path stands for the reference where only five logits a position are stored: the test above checks it.
    kl = mean_kl(np.concatenate(for_kl), np.concatenate(exact))
    assert kl <= MEAN_KL
    assert np.mean(agree) >= TOP1, f"top-1 agreement: wanted {TOP1:.0%}, got {np.mean(agree):.1%} of {len(agree)} positions"


def test_chunks_give_the_same_bytes(imp, golden, tmp_path):
    folder, g = golden
    p = g["prompts"][-1]
    if image(p):
        pytest.skip("the prompt holds an image")
    base = imp.logits(model_path(folder), p["input_ids"], tmp_path / "o.npy")
    for n in CHUNKS:
        got = imp.logits(model_path(folder), p["input_ids"], tmp_path / "o.npy", "--chunk", n)
        assert got.tobytes() == base.tobytes(), f"--chunk {n}: bytes differ in rows {np.unique(np.nonzero(got != base)[0])[:8]}"


def test_scalar_greedy(imp, golden):
    folder, g = golden
    bound = scalar_bound(g["family"], quantised(folder, g))
    for p in g["prompts"]:
        if image(p):
            continue
        n = len(p["greedy_ids"])
        out = imp.ok("run", "-m", model_path(folder), "--cpu", "scalar", "--ids", "-p", ",".join(map(str, p["input_ids"])), "-n", n, "--temp", 0,
                     "--ignore-eos")
        got = [int(x) for x in out.decode().replace(",", " ").split()]
        assert len(got) == n
        greedy_agrees(got, p["greedy_ids"], p["greedy_margin"], bound, np.abs(p["last_logits"]).max())

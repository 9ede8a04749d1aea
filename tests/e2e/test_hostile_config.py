"""config.json is untrusted: every number of every family's configuration is replaced by values that hurt. imp must refuse in one line or
run; it must never crash, hang, or say more than one line."""
import copy
import json
import os

import pytest

from conftest import FIXTURES

FOLDER = FIXTURES / "hf"
NAMES = sorted(p.parent.name for p in FOLDER.glob("*/config.json"))
VALUES = [0, -1, 1, 3, 2**31, 2**63, -(2**63), 1e300, -0.5, 1e-300, "x", [], [0], True]


def leaves(node, path=()):
    if isinstance(node, dict):
        for k, v in node.items():
            yield from leaves(v, path + (k,))
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield path


def replaced(config, path, value):
    c = copy.deepcopy(config)
    node = c
    for k in path[:-1]:
        node = node[k]
    node[path[-1]] = value
    return c


@pytest.mark.parametrize("name", NAMES)
def test_no_number_hurts(imp, name, tmp_path):
    os.symlink(FOLDER / name / "model.safetensors", tmp_path / "model.safetensors")
    config = json.loads((FOLDER / name / "config.json").read_text())
    for path in leaves(config):
        if path[-1].endswith("token_id"):
            continue
        for value in VALUES:
            (tmp_path / "config.json").write_text(json.dumps(replaced(config, path, value)))
            r = imp("inspect", tmp_path, timeout=20)
            what = f"{name}: {'.'.join(path)} = {value!r}: exit status {r.returncode}: {r.stderr[-300:]!r}"
            assert r.returncode in (0, 1), what
            assert r.returncode == 0 or (r.stderr.startswith(b"imp: ") and r.stderr.count(b"\n") == 1), what


def test_scales_of_a_matrix_without_rows(imp, tmp_path):
    """Empty tensors are legal in SafeTensors; no heads and a scale beside an empty matrix must not divide by nothing."""
    tensors = {"model.embed_tokens.weight": ([8, 4], 64), "model.layers.0.input_layernorm.weight": ([4], 8),
               "model.layers.0.self_attn.q_proj.weight": ([0, 4], 0), "model.layers.0.self_attn.q_proj.weight_scale": ([5], 10)}
    head, at = {}, 0
    for k, (shape, n) in tensors.items():
        head[k] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(head).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))
    (tmp_path / "config.json").write_text(json.dumps(dict(architectures=["LlamaForCausalLM"], hidden_size=4, num_hidden_layers=1, vocab_size=8,
                                                          num_attention_heads=0, num_key_value_heads=0, intermediate_size=4, head_dim=2)))
    r = imp("inspect", tmp_path)
    assert r.returncode == 1 and r.stderr.startswith(b"imp: ") and r.stderr.count(b"\n") == 1, r

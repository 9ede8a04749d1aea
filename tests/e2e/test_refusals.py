"""Nothing runs "anyway": what a family does not know, or what is missing or misshapen, is refused in one line that names it, with what was
wanted and what was found. What published files say beside that, or switch off, is taken."""
import json

import pytest

from conftest import FIXTURES

FOLDER = FIXTURES / "hf"
NAMES = sorted(p.parent.name for p in FOLDER.glob("*/config.json"))


class Copy:
    """A fixture folder whose configuration and tensor table can be changed."""

    def __init__(self, name, folder):
        self.folder = folder
        self.config = json.loads((FOLDER / name / "config.json").read_text())
        raw = (FOLDER / name / "model.safetensors").read_bytes()
        n = int.from_bytes(raw[:8], "little")
        self.tensors, self.data = json.loads(raw[8:8 + n]), raw[8 + n:]
        self.tensors.pop("__metadata__", None)

    def drop(self, name):
        """Takes a tensor out; its bytes go, so that no hole is left."""
        lo, hi = self.tensors.pop(name)["data_offsets"]
        self.data = self.data[:lo] + self.data[hi:]
        for t in self.tensors.values():
            t["data_offsets"] = [x - (hi - lo) if x >= hi else x for x in t["data_offsets"]]

    def add(self, name, dtype, shape, n_bytes):
        self.tensors[name] = dict(dtype=dtype, shape=shape, data_offsets=[len(self.data), len(self.data) + n_bytes])
        self.data += bytes(n_bytes)

    def inspect(self, imp):
        text = json.dumps(self.tensors).encode()
        (self.folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + self.data)
        (self.folder / "config.json").write_text(json.dumps(self.config))
        return imp("inspect", self.folder)

    def refused(self, imp, *parts):
        r = self.inspect(imp)
        message = r.stderr.decode()
        assert r.returncode == 1 and message.startswith("imp: ") and message.count("\n") == 1 and not r.stdout, (r.returncode, message)
        for p in parts:
            assert p in message, f"wanted '{p}' in: {message}"

    def taken(self, imp):
        r = self.inspect(imp)
        assert r.returncode == 0, r.stderr.decode()


@pytest.fixture
def copy(tmp_path):
    return lambda name: Copy(name, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_an_unread_key_is_named(imp, copy, name):
    c = copy(name)
    c.config["temperature_of_the_moon"] = 3
    c.refused(imp, "key temperature_of_the_moon", "does not read it")
    c.config["temperature_of_the_moon"] = None  # says nothing
    c.taken(imp)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_missing_misshapen_left_over(imp, copy, name):
    norm = next(t for t in sorted(copy(name).tensors) if t.endswith("norm.weight") and ".0." in t and "mtp" not in t)
    c = copy(name)
    width = c.tensors[norm]["shape"][0]
    c.drop(norm)
    c.refused(imp, f"tensor {norm}: missing", str(width))
    c.add(norm, "BF16", [width + 1], 2 * (width + 1))
    c.refused(imp, f"tensor {norm}: wanted {width} values, got shape {width + 1}")
    c = copy(name)
    c.add(norm.replace("norm.weight", "north.weight"), "BF16", [4], 8)
    c.refused(imp, f"tensor {norm.replace('norm.weight', 'north.weight')}", "has no place for it")


def test_an_unknown_family_is_refused_with_the_list(imp, copy):
    c = copy("phi3")
    c.config["architectures"] = ["GooseForCausalLM"]
    c.refused(imp, "family 'GooseForCausalLM' is not supported", "llama", "qwen3next", "gemma4")


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes", "hqq"])
def test_quantisation_methods_by_name(imp, copy, method):
    c = copy("phi3")
    c.config["quantization_config"] = dict(quant_method=method, bits=4)
    c.refused(imp, f"quant_method: '{method}' is not supported", "compressed-tensors")


def test_packed_layouts_that_are_not_int4(imp, copy):
    c = copy("w4a16")
    packed = next(t for t in c.tensors if t.endswith("q_proj.weight_packed"))
    rows, cols = c.tensors[packed]["shape"]
    order = packed.replace("weight_packed", "weight_g_idx")  # activation order shuffles the columns
    c.add(order, "I32", [cols * 8], cols * 32)
    c.refused(imp, order, "not supported")
    c.drop(order)
    c.drop(packed)
    c.add(packed, "I32", [rows, 2 * cols], 8 * rows * cols)  # eight bits a value
    c.refused(imp, packed, "wanted")
    c.drop(packed)
    c.add(packed, "I32", [rows, cols], 4 * rows * cols)
    scale = packed.replace("weight_packed", "weight_scale")
    c.drop(scale)
    c.refused(imp, packed, "its scales are missing")


# Keys of published configurations that change nothing as they stand there.
PUBLISHED = {
    "phi3": dict(auto_map={"AutoConfig": "configuration_phi3.Phi3Config"}, embd_pdrop=0.0, resid_pdrop=0.0, attention_bias=False,
                 original_max_position_embeddings=4096, rope_scaling=None, _name_or_path="Phi-3-mini-4k-instruct"),
    "mixtral": dict(output_router_logits=False, router_aux_loss_coef=0.02, attention_dropout=0.0, initializer_range=0.02),
    "deepseek-v3": dict(aux_loss_alpha=0.001, ep_size=1, moe_layer_freq=1, seq_aux=True, scoring_func="sigmoid", topk_method="noaux_tc",
                        pretraining_tp=1, auto_map={}),
    "glm4-moe": dict(router_aux_loss_coef=0.001, output_router_logits=False, use_cache=True),
    "qwen3-next": dict(use_sliding_window=False, full_attention_interval=4, router_aux_loss_coef=0.001, mlp_only_layers=[], decoder_sparse_step=1),
    "qwen3-moe": dict(use_sliding_window=False, sliding_window=None, max_window_layers=48, router_aux_loss_coef=0.001, mlp_only_layers=[]),
    "gpt-oss": dict(experts_per_token=2, initial_context_length=4096, swiglu_limit=7.0, router_aux_loss_coef=0.9),
    "nemotron-h": dict(chunk_size=128, expand=2, hidden_dropout=0.0, mamba_proj_bias=False, partial_rotary_factor=1.0, rope_theta=10000,
                       residual_in_fp32=False, rescale_prenorm_residual=True, sliding_window=None, num_logits_to_keep=1, time_step_rank=None),
    "smollm3": dict(use_sliding_window=False, sliding_window=None, max_window_layers=28, pretraining_tp=2, mlp_bias=False),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_what_published_files_say_besides(imp, copy, name):
    c = copy(name)
    c.config.update(PUBLISHED[name])
    c.taken(imp)

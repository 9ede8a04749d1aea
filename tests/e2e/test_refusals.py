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


# What transformers, its JavaScript sibling and others write into any configuration, here with values that are nobody's default.
GENERIC = dict(max_length=4096, min_length=1, do_sample=True, early_stopping=True, num_beams=2, num_beam_groups=2, diversity_penalty=0.5, temperature=0.6,
               top_k=20, top_p=0.9, typical_p=0.9, repetition_penalty=1.1, length_penalty=2.0, no_repeat_ngram_size=3, num_return_sequences=2,
               encoder_no_repeat_ngram_size=3, bad_words_ids=[[5]], output_scores=True, return_dict_in_generate=True, remove_invalid_values=True,
               suppress_tokens=[1], begin_suppress_tokens=[2], exponential_decay_length_penalty=[3, 1.1], is_decoder=True, torchscript=True,
               use_bfloat16=True, tf_legacy_loss=True, pruned_heads={"0": [1]}, finetuning_task="x", task_specific_params={"a": {"b": 1}},
               tokenizer_class="X", prefix="x", id2label={"0": "A"}, label2id={"A": 0}, problem_type="x", unsloth_fixed=True,
               unsloth_version="2026.1", _attn_implementation_autoset=True, _name_or_path="x",
               **{"transformers.js_config": {"use_external_data_format": {"model.onnx": 1}}})


@pytest.mark.parametrize("name", NAMES)
def test_what_any_file_may_say(imp, copy, name):
    c = copy(name)
    c.config.update(GENERIC)
    c.taken(imp)


# Keys of published configurations that change nothing as they stand there.
PUBLISHED = {
    "phi3": dict(auto_map={"AutoConfig": "configuration_phi3.Phi3Config"}, embd_pdrop=0.0, resid_pdrop=0.0, attention_bias=False,
                 original_max_position_embeddings=4096, rope_scaling=None, _name_or_path="Phi-3-mini-4k-instruct"),
    "mixtral": dict(output_router_logits=False, router_aux_loss_coef=0.02, attention_dropout=0.0, initializer_range=0.02),
    "deepseek-v3": dict(aux_loss_alpha=0.001, ep_size=1, moe_layer_freq=1, seq_aux=True, scoring_func="sigmoid", topk_method="noaux_tc",
                        pretraining_tp=1, auto_map={}),
    "glm4-moe": dict(router_aux_loss_coef=0.001, output_router_logits=False, use_cache=True),
    "qwen3-next": dict(use_sliding_window=False, full_attention_interval=4, router_aux_loss_coef=0.001, mlp_only_layers=[], decoder_sparse_step=1,
                       output_gate_type="swish"),
    "qwen3-moe": dict(use_sliding_window=False, sliding_window=None, max_window_layers=48, router_aux_loss_coef=0.001, mlp_only_layers=[],
                      qkv_bias=False, use_qk_norm=True, shared_expert_intermediate_size=0),
    "gpt-oss": dict(experts_per_token=2, initial_context_length=4096, swiglu_limit=7.0, router_aux_loss_coef=0.9),
    "nemotron-h": dict(chunk_size=128, expand=2, hidden_dropout=0.0, mamba_proj_bias=False, partial_rotary_factor=1.0, rope_theta=10000,
                       residual_in_fp32=False, rescale_prenorm_residual=True, sliding_window=None, num_logits_to_keep=1, time_step_rank=None,
                       mamba_hidden_act="silu", mlp_hidden_act="relu2", attention_head_dim=16),
    "smollm3": dict(use_sliding_window=False, sliding_window=None, max_window_layers=28, pretraining_tp=2, mlp_bias=False),
    "llama-linear": dict(is_llama_config=True, rope_interleaved=False, max_sequence_length=4096, attn_factor=None),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_what_published_files_say_besides(imp, copy, name):
    c = copy(name)
    c.config.update(PUBLISHED[name])
    c.taken(imp)


def test_a_head_that_nobody_mentions(imp, copy):
    """SmolLM3's and Gemma's classes tie the head, so their files say nothing of it; Llama's do not."""
    c = copy("smollm3")
    del c.config["tie_word_embeddings"]
    c.taken(imp)
    c = copy("phi3")
    c.config.pop("tie_word_embeddings", None)
    c.drop("lm_head.weight")
    c.refused(imp, "tensor lm_head.weight: missing")


# The same keys with a value that means another computation.
MEANS_MORE = [("llama-linear", "rope_interleaved", True), ("qwen3-moe", "use_qk_norm", False), ("qwen3-moe", "qkv_bias", True),
              ("qwen3-moe", "shared_expert_intermediate_size", 64), ("qwen3-next", "output_gate_type", "sigmoid"),
              ("nemotron-h", "mamba_hidden_act", "relu"), ("nemotron-h", "mlp_hidden_act", "crelu")]


@pytest.mark.parametrize("name,key,value", MEANS_MORE)
def test_what_they_may_not_say(imp, copy, name, key, value):
    c = copy(name)
    c.config[key] = value
    c.refused(imp, key.replace("mlp_hidden_act", "hidden_act"))


@pytest.mark.parametrize("key", ["attn_factor", "extrapolation_factor"])
def test_factors_of_yarn_beside_the_known(imp, copy, key):
    c = copy("deepseek-v3")
    home = "rope_parameters" if "rope_parameters" in c.config else "rope_scaling"
    c.config[home].update(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
    c.config[home][key] = 1.0
    c.taken(imp)
    c.config[home][key] = 2.0
    c.refused(imp, key, "only 1 is supported")


def test_scales_of_a_quantised_cache_are_left_out(imp, copy):
    """compressed-tensors keeps them beside the attention, Model Optimizer beside the projections; imp's caches need none."""
    c = copy("phi3")
    for name in ("self_attn.k_scale", "self_attn.v_scale", "self_attn.q_scale", "self_attn.kv_scale"):
        c.add(f"model.layers.0.{name}", "F32", [1], 4)
    c.taken(imp)
    c.add("model.layers.0.self_attn.w_scale", "F32", [1], 4)
    c.refused(imp, "self_attn.w_scale", "no place")


def test_padded_layer_numbers(imp, copy):
    """transformers 5 pads the numbers in per_layer_config with zeros when there are ten layers or more."""
    c = copy("gemma4-e")
    c.taken(imp)
    own = c.config["per_layer_config"]
    c.config["per_layer_config"] = {k.zfill(2): v for k, v in own.items()}
    c.taken(imp)
    c.config["per_layer_config"] = {k.zfill(2): dict(v, num_key_value_heads=1000) for k, v in own.items()}
    c.refused(imp, "num_key_value_heads")
    c.config["per_layer_config"] = {"99": dict(head_dim=16), **own}
    c.refused(imp, "key per_layer_config.99.head_dim", "does not read it")


def test_limits_of_a_time_step(imp, copy):
    c = copy("nemotron-h")
    for limit in ([0.0, float("inf")], [0, 1e308], [0.0, {"__float__": "Infinity"}], None):
        c.config["time_step_limit"] = limit
        c.taken(imp)
    for limit in ([0.001, 1e308], [0.0, 0.1]):
        c.config["time_step_limit"] = limit
        c.refused(imp, "key time_step_limit")

"""Published files of one model come in several spellings. Here: Gemma 3's text alone, inside the multimodal class under the tensor names of
transformers 4 and 5, and with everything left out of text_config that its class supplies: the same logits, byte for byte. GGUF: the keys
that llama.cpp's converter writes beside those that count."""
import json
import struct

import numpy as np
import pytest

from conftest import FIXTURES, GOLDENS
from gguf import GGUFReader, GGUFValueType, GGUFWriter

H, FF, LAYERS, V, HEADS, KV, D = 64, 96, 6, 300, 8, 4, 256  # heads, key heads and width are the class's own: a file may leave them out
TEXT = dict(hidden_size=H, intermediate_size=FF, num_hidden_layers=LAYERS, vocab_size=V, num_attention_heads=HEADS, num_key_value_heads=KV,
            head_dim=D, max_position_embeddings=131072, query_pre_attn_scalar=256, rms_norm_eps=1e-6, rope_theta=1e6, rope_local_base_freq=10000,
            rope_scaling=dict(factor=8.0, rope_type="linear"), sliding_window=16, sliding_window_pattern=6, hidden_activation="gelu_pytorch_tanh",
            model_type="gemma3_text")


def tensors():
    rng = np.random.default_rng(3)
    t = {"embed_tokens.weight": (V, H), "norm.weight": (H,)}
    for i in range(LAYERS):
        p = f"layers.{i}."
        t.update({p + "self_attn.q_proj.weight": (HEADS * D, H), p + "self_attn.k_proj.weight": (KV * D, H), p + "self_attn.v_proj.weight": (KV * D, H),
                  p + "self_attn.o_proj.weight": (H, HEADS * D), p + "self_attn.q_norm.weight": (D,), p + "self_attn.k_norm.weight": (D,),
                  p + "mlp.gate_proj.weight": (FF, H), p + "mlp.up_proj.weight": (FF, H), p + "mlp.down_proj.weight": (H, FF)})
        t.update({p + n + "layernorm.weight": (H,) for n in ("input_", "post_attention_", "pre_feedforward_", "post_feedforward_")})
    return {k: (0.1 * rng.standard_normal(s)).astype(np.float32) for k, s in t.items()}


def folder(path, config, weights):
    path.mkdir()
    head, at = {}, 0
    for k, v in weights.items():
        head[k] = dict(dtype="F32", shape=list(v.shape), data_offsets=[at, at + v.nbytes])
        at += v.nbytes
    text = json.dumps(head).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for v in weights.values()))
    (path / "config.json").write_text(json.dumps(config))
    return path


def renamed(weights, prefix, **others):
    return {prefix + k: v for k, v in weights.items()} | {k: np.zeros(4, np.float32) for k in others.get("extra", [])}


VISION = dict(architectures=["Gemma3ForConditionalGeneration"], model_type="gemma3", mm_tokens_per_image=256, boi_token_index=255999,
              eoi_token_index=256000, image_token_index=262144, vision_config=dict(hidden_size=8, model_type="siglip_vision_model"))


def test_gemma3_in_its_multimodal_class(imp, tmp_path):
    w, ids = tensors(), np.arange(40) * 7 % V
    flat = folder(tmp_path / "flat", dict(TEXT, architectures=["Gemma3ForCausalLM"]), renamed(w, "model."))
    want = imp.logits(flat, ids, tmp_path / "o.npy")
    assert np.isfinite(want).all() and np.abs(want).max() > 0.1
    short = {k: v for k, v in TEXT.items() if k in ("hidden_size", "intermediate_size", "model_type", "num_hidden_layers", "rope_scaling",
                                                     "sliding_window", "vocab_size")}
    for name, text, prefix, extra in [
            ("v4", TEXT, "language_model.model.", ["vision_tower.vision_model.post_layernorm.bias", "multi_modal_projector.mm_soft_emb_norm.weight"]),
            ("v5", TEXT, "model.language_model.", ["model.vision_tower.post_layernorm.bias", "model.multi_modal_projector.mm_soft_emb_norm.weight"]),
            ("short", short, "language_model.model.", [])]:
        f = folder(tmp_path / name, dict(VISION, text_config=text), renamed(w, prefix, extra=extra))
        assert imp.logits(f, ids, tmp_path / "o.npy").tobytes() == want.tobytes(), name
    own = folder(tmp_path / "own", dict(VISION, text_config=dict(TEXT, tie_word_embeddings=False)),
                 renamed(w, "model.language_model.") | {"lm_head.weight": 2 * w["embed_tokens.weight"]})
    assert np.allclose(imp.logits(own, ids, tmp_path / "o.npy"), 2 * want, rtol=1e-5)  # a head of its own is used


def test_gemma3_flat_files_may_leave_nothing_out(imp, tmp_path):
    text = {k: v for k, v in TEXT.items() if k != "num_attention_heads"}
    f = folder(tmp_path / "f", dict(text, architectures=["Gemma3ForCausalLM"]), renamed(tensors(), "model."))
    r = imp("inspect", f)
    assert r.returncode == 1 and b"key num_attention_heads: missing" in r.stderr


# ---- GGUF ------------------------------------------------------------------------------------------------------------------------
U32, F32, BOOL, STR = 4, 6, 7, 8


def with_keys(path, out, keys):
    """A copy of a GGUF file with more keys: {name: (type, value)}; a filler keeps the data aligned."""
    raw = path.read_bytes()
    n_kv = struct.unpack_from("<Q", raw, 16)[0]

    def entry(name, kind, value):
        name = name.encode()
        body = {U32: lambda: struct.pack("<I", value), F32: lambda: struct.pack("<f", value), BOOL: lambda: struct.pack("<?", value),
                STR: lambda: struct.pack("<Q", len(value)) + value.encode()}[kind]()
        return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + body

    new = b"".join(entry(k, *v) for k, v in keys.items())
    filler = entry("general.filler", STR, "")
    filler = entry("general.filler", STR, "x" * (-(len(new) + len(filler)) % 32))
    out.write_bytes(raw[:16] + struct.pack("<Q", n_kv + len(keys) + 1) + new + filler + raw[24:])
    return out


WRITTEN = [("models/llama-gqa4.gguf", {"llama.tensor_data_layout": (STR, "Meta AI original pth"), "llama.rope.scaling.finetuned": (BOOL, True)}),
           ("models/qwen3-yarn.gguf", {"qwen3.rope.scaling.yarn_attn_factor": (F32, 1.0), "qwen3.rope.scaling.yarn_ext_factor": (F32, 1.0)})]
OTHER = [("models/qwen3-yarn.gguf", "qwen3.rope.scaling.yarn_ext_factor", (F32, 2.0)),
         ("models/llama-gqa4.gguf", "llama.attention.causal", (BOOL, False)),
         ("models/llama-gqa4.gguf", "llama.attention.temperature_scale", (F32, 0.1))]


@pytest.mark.parametrize("file,keys", WRITTEN)
def test_keys_that_the_converter_writes(imp, file, keys, tmp_path):
    imp.ok("inspect", with_keys(FIXTURES / file, tmp_path / "m.gguf", keys))


@pytest.mark.parametrize("file,key,value", OTHER)
def test_keys_that_mean_more(imp, file, key, value, tmp_path):
    r = imp("inspect", with_keys(FIXTURES / file, tmp_path / "m.gguf", {key: value}))
    assert r.returncode == 1 and key.split(".", 1)[1].encode() in r.stderr and r.stderr.count(b"\n") == 1, r


@pytest.mark.skipif(not GOLDENS.is_dir(), reason="the shared goldens lie beside developers' checkouts only")
def test_converters_keys_of_mixtures(imp, tmp_path):
    """Qwen3-Coder's file has a shared expert of no width."""
    moe = next((GOLDENS / "gguf" / "qwen3_moe-Q8_0").glob("*.gguf"))
    imp.ok("inspect", with_keys(moe, tmp_path / "m.gguf", {"qwen3moe.expert_shared_feed_forward_length": (U32, 0)}))
    r = imp("inspect", with_keys(moe, tmp_path / "m.gguf", {"qwen3moe.expert_shared_feed_forward_length": (U32, 64)}))
    assert r.returncode == 1 and b"expert_shared_feed_forward_length" in r.stderr


@pytest.mark.skipif(not GOLDENS.is_dir(), reason="the shared goldens lie beside developers' checkouts only")
def test_nemotrons_prediction_module_is_left_out(imp, tmp_path):
    """The converter folds it into one more block, which per-layer arrays count; imp has no plan for it, and the text's logits stay."""
    path = next((GOLDENS / "gguf" / "nemotron_h-Q8_0").glob("*.gguf"))
    r, out = GGUFReader(path), tmp_path / "m.gguf"
    arch = r.get_field("general.architecture").contents()
    n = r.get_field(f"{arch}.block_count").contents()
    w = GGUFWriter(out, arch)
    for f in r.fields.values():
        if f.name.startswith("GGUF.") or f.name == "general.architecture":
            continue
        v, kind = f.contents(), f.types[0]
        if f.name == f"{arch}.block_count":
            v += 1
        elif kind == GGUFValueType.ARRAY and len(v) == n:
            v = list(v) + [next((x for x in v if x), 0)]
        w.add_key_value(f.name, v, kind, sub_type=f.types[-1] if kind == GGUFValueType.ARRAY else None)
    w.add_uint32(f"{arch}.nextn_predict_layers", 1)
    for t in r.tensors:
        w.add_tensor(t.name, np.array(t.data), raw_dtype=t.tensor_type)
    for name in ("nextn.eh_proj", "nextn.enorm", "attn_q", "ffn_gate_inp"):
        w.add_tensor(f"blk.{n}.{name}.weight", np.zeros((2, 32), np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    ids = np.arange(20) + 5
    assert imp.logits(out, ids, tmp_path / "a.npy").tobytes() == imp.logits(path, ids, tmp_path / "b.npy").tobytes()

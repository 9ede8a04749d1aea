#!/usr/bin/env python3
"""Random small models of every family against transformers, on the fly: what breaks is kept and said.

For each family and seed a configuration is drawn (GQA ratios, head widths, windows shorter than the prompt, expert counts,
odd vocabularies, tied heads, ways of stretching RoPE), filled with random bf16 weights and saved as a SafeTensors folder,
now and then with the configuration spelt as published files spell it (rope_theta, rope_scaling). With --llama-cpp its
converter writes the same model as GGUF. imp's logits at every position are compared with transformers' float32 ones: the
scalar path within the bounds of tests/e2e/logits.py, the default path too, chunks of 7 byte for byte.

Needs torch, transformers 5 and gguf; nothing in the test suite needs this script.

usage: variants.py --imp build/imp [--llama-cpp SOURCE] [--families a,b] [--seeds 0:8] [--keep DIR]
"""
import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from logits import BOUND, error  # noqa: E402

PROMPTS = (1, 9, 70)


def base(r, ratios=(1, 2, 3, 4, 8), heads=(64, 80, 96, 128, 16, 32, 256), kv=(1, 2)):
    """What all families share: widths, heads, vocabulary."""
    n_kv, ratio = r.choice(kv), r.choice(ratios)
    return dict(hidden_size=r.choice((64, 96, 128, 160)), num_hidden_layers=r.choice((2, 3, 4)), num_attention_heads=n_kv * ratio,
                num_key_value_heads=n_kv, head_dim=r.choice(heads), intermediate_size=r.choice((32, 96, 128, 224)),
                max_position_embeddings=r.choice((128, 512, 2048)), vocab_size=r.choice((101, 256, 317, 512)), rms_norm_eps=r.choice((1e-5, 1e-6)),
                tie_word_embeddings=r.random() < 0.4, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def rope(r, kinds=("default", "linear", "llama3", "yarn"), theta=(1e4, 5e5, 1e6), **more):
    kind = r.choice(kinds)
    p = dict(rope_type=kind, rope_theta=r.choice(theta), **more)
    if kind != "default":
        p["factor"] = r.choice((2.0, 4.0, 8.0))
    if kind in ("llama3", "yarn"):
        p["original_max_position_embeddings"] = r.choice((32, 64))
    if kind == "llama3":
        p.update(low_freq_factor=1.0, high_freq_factor=4.0)
    if kind == "yarn" and r.random() < 0.5:
        p.update(beta_fast=r.choice((32.0, 16.0)), beta_slow=1.0)
    return p


def types(r, n, slide="sliding_attention", full="full_attention"):
    t = [r.choice((slide, full)) for _ in range(n)]
    t[r.randrange(n)] = full
    return t


def moe(r, many=(3, 4, 8, 16), name="num_experts"):
    e = r.choice(many)
    return {name: e, "num_experts_per_tok": r.randint(1, min(e, 5)), "moe_intermediate_size": r.choice((32, 48, 64, 96))}


def deep(r):
    groups = r.choice((1, 2, 4))
    n = groups * r.choice((2, 4))
    pick = r.randint(1, groups)
    return dict(n_routed_experts=n, n_group=groups, topk_group=pick, num_experts_per_tok=r.randint(1, min(4, pick * n // groups)),
                moe_intermediate_size=r.choice((32, 64)), n_shared_experts=r.choice((1, 2)), routed_scaling_factor=r.choice((1.0, 1.8, 2.5)),
                first_k_dense_replace=r.choice((0, 1, 2)))


def mla(r, c):
    n = r.choice((2, 4, 6))
    c.pop("head_dim")
    c.update(num_attention_heads=n, num_key_value_heads=n, kv_lora_rank=r.choice((32, 48, 128)), q_lora_rank=r.choice((None, 32, 96)),
             qk_nope_head_dim=r.choice((32, 64, 128)), qk_rope_head_dim=r.choice((16, 32, 64)), v_head_dim=r.choice((32, 64, 128)))
    return c


def gdn(r):
    k = r.choice((1, 2, 4))
    return dict(linear_num_key_heads=k, linear_num_value_heads=k * r.choice((1, 2, 4)), linear_key_head_dim=r.choice((32, 64, 128)),
                linear_value_head_dim=r.choice((16, 32, 64, 96, 128)), linear_conv_kernel_dim=r.choice((4, 4, 2, 5)))


def llama(r):
    c = base(r)
    c["hidden_size"] = -(-c["hidden_size"] // c["num_attention_heads"]) * c["num_attention_heads"]  # transformers wants a multiple
    return "Llama", dict(c, rope_parameters=rope(r), attention_bias=r.random() < 0.3, mlp_bias=r.random() < 0.3)


def mistral(r):
    return "Mistral", dict(base(r), rope_parameters=rope(r, ("default", "yarn")), sliding_window=r.choice((None, 5, 24, 64)))


def mixtral(r):
    e = r.choice((2, 4, 5, 8))
    return "Mixtral", dict(base(r), num_local_experts=e, num_experts_per_tok=r.randint(1, min(e, 3)), sliding_window=r.choice((None, None, 24)))


def qwen2(r):
    c = dict(base(r), rope_parameters=rope(r, ("default", "yarn")))
    c.pop("head_dim")
    c["hidden_size"] = c["num_attention_heads"] * r.choice((16, 32))
    return "Qwen2", window_of(r, c)


def window_of(r, c):
    if r.random() < 0.4:
        c.update(use_sliding_window=True, sliding_window=r.choice((8, 24)), max_window_layers=r.randint(0, c["num_hidden_layers"]))
    return c


def qwen3(r):
    return "Qwen3", window_of(r, dict(base(r), rope_parameters=rope(r, ("default", "yarn")), attention_bias=r.random() < 0.2))


def qwen3_moe(r):
    c = dict(base(r), norm_topk_prob=r.random() < 0.5, **moe(r))
    if r.random() < 0.4:
        c.update(decoder_sparse_step=r.choice((1, 2)), mlp_only_layers=r.choice(([], [0], [1])))
    return "Qwen3Moe", c


def qwen3_next(r):
    c = dict(base(r, heads=(32, 64, 128, 256)), norm_topk_prob=r.random() < 0.7, shared_expert_intermediate_size=r.choice((32, 64)),
             partial_rotary_factor=r.choice((0.25, 0.5)), **moe(r), **gdn(r))
    c["num_hidden_layers"] = r.choice((4, 5, 8))
    return "Qwen3Next", c


def qwen3_5(r, kind="Qwen3_5"):
    c = dict(base(r, heads=(32, 64, 128, 256)), **gdn(r))
    part = r.choice((0.25, 0.5))
    third = int(c["head_dim"] * part) // 2
    c["rope_parameters"] = dict(rope_type="default", rope_theta=r.choice((1e4, 1e7)), partial_rotary_factor=part,
                                mrope_interleaved=True, mrope_section=[third - 2 * (third // 3), third // 3, third // 3])
    c["num_hidden_layers"] = r.choice((4, 5, 8))
    if r.random() < 0.3:
        c["layer_types"] = types(r, c["num_hidden_layers"], "linear_attention")
    if kind.endswith("Moe"):
        c.update(moe(r), shared_expert_intermediate_size=r.choice((32, 64)))
        c.pop("intermediate_size")
    return f"{kind}Text:{kind}", c


def qwen3_5_moe(r):
    return qwen3_5(r, "Qwen3_5Moe")


def gemma2(r):
    c = dict(base(r), query_pre_attn_scalar=None, sliding_window=r.choice((6, 24, 100)),
             attn_logit_softcapping=r.choice((50.0, 20.0, None)), final_logit_softcapping=r.choice((30.0, None)), tie_word_embeddings=True)
    c["query_pre_attn_scalar"] = r.choice((c["head_dim"], c["head_dim"], 16, 144))
    c["hidden_size"] = -(-c["hidden_size"] // c["num_attention_heads"]) * c["num_attention_heads"]
    return "Gemma2", c


def gemma3(r):
    c = dict(base(r), sliding_window=r.choice((6, 24, 100)), tie_word_embeddings=True)
    c["query_pre_attn_scalar"] = r.choice((c["head_dim"], c["head_dim"], 16, 256))
    c["num_hidden_layers"] = r.choice((3, 6, 7))
    if r.random() < 0.4:
        c["layer_types"] = types(r, c["num_hidden_layers"])
    full = dict(rope_type="linear", factor=8.0, rope_theta=1e6) if r.random() < 0.5 else dict(rope_type="default", rope_theta=1e6)
    c["rope_parameters"] = dict(full_attention=full, sliding_attention=dict(rope_type="default", rope_theta=1e4))
    c["hidden_size"] = -(-c["hidden_size"] // c["num_attention_heads"]) * c["num_attention_heads"]
    return "Gemma3Text:Gemma3", c


def gemma4(r):
    c = dict(base(r, heads=(32, 64, 128)), sliding_window=r.choice((6, 24, 100)), tie_word_embeddings=True,
             final_logit_softcapping=r.choice((30.0, None)), hidden_size_per_layer_input=0, use_double_wide_mlp=False)
    n = c["num_hidden_layers"] = r.choice((4, 6))
    c["layer_types"] = types(r, n)
    c["layer_types"][-1] = "full_attention"
    kind = r.choice(("dense", "moe", "e"))
    c["global_head_dim"] = c["head_dim"] * r.choice((1, 2))
    if kind == "moe":
        m = moe(r)
        c.update(enable_moe_block=True, num_experts=m["num_experts"], top_k_experts=m["num_experts_per_tok"], moe_intermediate_size=m["moe_intermediate_size"],
                 attention_k_eq_v=r.random() < 0.6, num_global_key_value_heads=1)
    if kind == "e":
        c["layer_types"] = ["sliding_attention", "full_attention"] * (n // 2)
        c.update(num_kv_shared_layers=r.choice((0, 1, 2)), hidden_size_per_layer_input=r.choice((8, 16, 32)), vocab_size_per_layer_input=c["vocab_size"],
                 use_double_wide_mlp=r.random() < 0.5)
    return "Gemma4Text:Gemma4", c


def nemotron_h(r):
    c = base(r, heads=(32, 64, 128))
    heads = r.choice((2, 4, 8))
    pattern = r.choice(("M*M-", "MEM*E", "M-M*-", "MMEM*EME", "M*", "MEMEM*E"))
    d = deep(r)
    d.pop("first_k_dense_replace")
    c.update(layers_block_type=[{"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}[x] for x in pattern], mamba_num_heads=heads,
             mamba_head_dim=r.choice((16, 32, 64, 80)), n_groups=r.choice([g for g in (1, 2, 4, 8) if heads % g == 0]),
             ssm_state_size=r.choice((16, 64, 128)), conv_kernel=4, moe_shared_expert_intermediate_size=r.choice((32, 96)), time_step_min=1e-9,
             norm_topk_prob=r.random() < 0.7, layer_norm_epsilon=c.pop("rms_norm_eps"), moe_latent_size=r.choice((None, None, 32)), **d)
    c.pop("num_hidden_layers")
    c["tie_word_embeddings"] = False
    return "NemotronH", c


def deepseek_v2(r):
    c = mla(r, base(r))
    c.update(deep(r), topk_method=r.choice(("greedy", "group_limited_greedy")), norm_topk_prob=False,
             rope_parameters=rope(r, ("default", "yarn")))
    return "DeepseekV2", yarn_scales(r, c)


def yarn_scales(r, c):
    if c["rope_parameters"]["rope_type"] == "yarn":
        m = r.choice((0.707, 1.0))
        c["rope_parameters"].update(mscale=m, mscale_all_dim=m)
    return c


def deepseek_v3(r):
    c = mla(r, base(r))
    c.update(deep(r), norm_topk_prob=r.random() < 0.8, rope_parameters=rope(r, ("default", "yarn")), num_mtp_layers=0,
             rope_interleave=r.random() < 0.8)
    return "DeepseekV3", yarn_scales(r, c)


def phi3(r):
    c = dict(base(r), sliding_window=r.choice((None, 12, 64)))
    c.pop("head_dim")
    c["hidden_size"] = c["num_attention_heads"] * r.choice((32, 64))
    part = r.choice((1.0, 0.5, 0.75))
    c["partial_rotary_factor"] = part
    if r.random() < 0.4:
        rot = int(c["hidden_size"] // c["num_attention_heads"] * part)
        c.update(max_position_embeddings=512, original_max_position_embeddings=r.choice((16, 256)), partial_rotary_factor=part)
        c["rope_parameters"] = dict(rope_type="longrope", rope_theta=1e4, partial_rotary_factor=part, short_factor=[1 + 0.02 * i for i in range(rot // 2)],
                                    long_factor=[1 + 0.3 * i for i in range(rot // 2)], original_max_position_embeddings=c["original_max_position_embeddings"])
    return "Phi3", c


def smollm3(r):
    c = dict(base(r), no_rope_layer_interval=r.choice((2, 3, 4)), rope_parameters=rope(r, ("default", "yarn"), (1e4, 5e6)), attention_bias=r.random() < 0.2)
    c["num_hidden_layers"] = r.choice((4, 6))
    return "SmolLM3", window_of(r, c)


def gpt_oss(r):
    e = r.choice((2, 4, 6))
    c = dict(base(r, heads=(16, 32, 64)), num_local_experts=e, num_experts_per_tok=r.randint(1, min(e, 4)), sliding_window=r.choice((6, 24, 128)),
             rope_parameters=rope(r, ("yarn", "default"), (150000.0,)))
    if c["rope_parameters"]["rope_type"] == "yarn" and r.random() < 0.5:
        c["rope_parameters"]["truncate"] = False
    return "GptOss", c


def glm4_moe(r):
    c = dict(base(r), **deep(r), norm_topk_prob=r.random() < 0.8, use_qk_norm=r.random() < 0.5, attention_bias=r.random() < 0.7,
             partial_rotary_factor=r.choice((0.5, 1.0)), num_mtp_layers=0)
    return "Glm4Moe", c


FAMILIES = {f.__name__: f for f in (llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, qwen3_next, qwen3_5, qwen3_5_moe, gemma2, gemma3, gemma4, nemotron_h,
                                    deepseek_v2, deepseek_v3, phi3, smollm3, gpt_oss, glm4_moe)}
PLUS_ONE = ("gemma2", "gemma3", "qwen3_next", "qwen3_5", "qwen3_5_moe")


def fill(model, family, seed):
    import torch
    torch.manual_seed(seed)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if p.dim() >= 2:
                p.normal_(0, 1.2 / p.shape[-1] ** 0.5)
            elif "A_log" in n:
                p.uniform_(-1, 1)
            elif "norm" in n:
                plain = family not in PLUS_ONE or "linear_attn.norm" in n
                p.copy_(torch.rand_like(p) * 0.5 + (0.75 if plain else -0.25))
            else:
                p.normal_(0, 0.3)
        for n, b in model.named_buffers():
            if "correction" in n:
                b.normal_(0, 0.1)
            if "layer_scalar" in n:
                b.fill_(0.8)
    return model.to(torch.bfloat16)


def publish(folder, family):
    """config.json as published files have it: rope_theta, rope_scaling, torch_dtype at the top."""
    path = folder / "config.json"
    c = json.loads(path.read_text())
    p = c.pop("rope_parameters", None)
    if p is None or "full_attention" in p or family in ("qwen3_5", "qwen3_5_moe"):
        return
    p = dict(p)
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in p:
            c[key] = p.pop(key)
    if p.pop("rope_type", "default") != "default":
        c["rope_scaling"] = dict(p, **{"type" if family == "phi3" else "rope_type": json.loads(path.read_text())["rope_parameters"]["rope_type"]})
    else:
        c["rope_scaling"] = None
    c["torch_dtype"] = c.pop("dtype", "bfloat16")
    if family == "nemotron_h":
        letter = {"mamba": "M", "linear_attention": "M", "attention": "*", "full_attention": "*", "mlp": "-", "moe": "E"}
        c["hybrid_override_pattern"] = "".join(letter[x] for x in c.pop("layers_block_type", None) or c.pop("layer_types"))
        c["num_hidden_layers"] = len(c["hybrid_override_pattern"])
    path.write_text(json.dumps(c, indent=2))


def make(family, seed, folder, layouts=()):
    import torch
    import transformers as tf
    r = random.Random(f"{family} {seed}")
    classes, args = FAMILIES[family](r)
    config, _, model = classes.partition(":")
    m = getattr(tf, (model or config) + "ForCausalLM")(getattr(tf, config + "Config")(**args))
    fill(m, family, seed).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    kind = None
    if layouts:
        kind = r.choice([k for k in layouts if not (family == "phi3" and k == "fp8-block")])  # its blocks straddle q, k and v
        exact = folder.parent / "exact"
        shutil.rmtree(exact, ignore_errors=True)
        prequantise(folder, exact, kind, r, family)
        m = type(m).from_pretrained(exact, dtype=torch.float32).eval()
    else:
        m = type(m).from_pretrained(folder, dtype=torch.float32).eval()
    want = []
    g = torch.Generator().manual_seed(seed)
    for n in PROMPTS:
        ids = torch.randint(3, args["vocab_size"], (1, n), generator=g)
        with torch.no_grad():
            want.append((ids[0].numpy().astype(np.int32), m(ids, use_cache=False).logits[0].numpy()))
    if r.random() < 0.5:
        publish(folder, family)
    return args, want, kind


# ---- prequantised layouts ---------------------------------------------------------------------------------------------------
E2M1 = (0, .5, 1, 1.5, 2, 3, 4, 6)
LAYOUTS = {"fp8-tensor": "compressed-tensors", "fp8-channel": "compressed-tensors", "fp8-block": "fp8", "nvfp4-modelopt": "modelopt",
           "nvfp4-ct": "compressed-tensors", "mxfp4-ct": "compressed-tensors", "mixed-ct": "compressed-tensors"}
KEPT = ("embed", "lm_head", ".gate.", "router", "conv1d", "in_proj_a.", "in_proj_b.", "in_proj_ba.", "shared_expert_gate", "norm", "per_layer", "latent")


def e2m1(w, scale):
    """Packed nibbles and the values that they stand for."""
    import torch
    x = torch.where(scale == 0, torch.zeros_like(w), w / scale)
    grid = torch.tensor(E2M1)
    code = (x.abs()[..., None] - grid).abs().argmin(-1)
    value = grid[code] * x.sign() * scale
    code = (code + 8 * (x < 0)).to(torch.uint8)
    return code[:, 0::2] | code[:, 1::2] << 4, value


def layout(w, kind):
    """One matrix as its tensors (suffix: tensor) and its exact values."""
    import torch
    n, k = w.shape
    if kind.startswith("fp8"):
        rows, cols = {"fp8-tensor": (n, k), "fp8-channel": (1, k), "fp8-block": (128, 128)}[kind]
        scale = torch.zeros(-(-n // rows), -(-k // cols))
        for i in range(scale.shape[0]):
            for j in range(scale.shape[1]):
                scale[i, j] = w[i * rows:(i + 1) * rows, j * cols:(j + 1) * cols].abs().max() / 448
        if kind != "fp8-tensor":
            scale = scale.bfloat16().float()
        full = scale.repeat_interleave(rows, 0)[:n].repeat_interleave(cols, 1)[:, :k]
        q = (w / full).clamp(-448, 448).to(torch.float8_e4m3fn)
        name = "weight_scale_inv" if kind == "fp8-block" else "weight_scale"
        stored = scale[0, 0].clone() if kind == "fp8-tensor" else scale.bfloat16()
        return {"weight": q, name: stored}, q.float() * full
    if kind == "mxfp4-ct":
        exp = torch.floor(torch.log2(w.view(n, -1, 32).abs().amax(-1).clamp(min=1e-30) / 6)).clamp(-127, 127) + 1
        packed, value = e2m1(w, (2.0 ** exp).repeat_interleave(32, 1))
        return {"weight_packed": packed, "weight_scale": (exp + 127).to(torch.uint8)}, value
    top = w.abs().max() / (6 * 448)
    scale = (w.view(n, -1, 16).abs().amax(-1) / 6 / top).to(torch.float8_e4m3fn)
    packed, value = e2m1(w, (scale.float() * top).repeat_interleave(16, 1))
    if kind == "nvfp4-modelopt":
        return {"weight": packed, "weight_scale": scale, "weight_scale_2": top, "input_scale": torch.tensor(0.01)}, value
    inverse = (1 / top).reshape(1)
    value = value / top / inverse  # what the file says, not what was meant
    return {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": inverse, "input_global_scale": torch.ones(1)}, value


def prequantise(folder, exact, kind, r, family):
    """Rewrites the folder's weights in a layout; `exact` becomes a plain folder of the same values in float32."""
    import torch
    from safetensors.torch import load_file, save_file
    shutil.copytree(folder, exact)
    stored, plain, ignore = {}, {}, set()
    chosen = {}
    for name, w in load_file(folder / "model.safetensors").items():
        plain[name] = w.float()
        module = name.removesuffix(".weight")
        fused = w.dim() == 3 and "experts" in name and family != "gpt_oss"
        if not fused and (w.dim() != 2 or not name.endswith(".weight") or any(x in name for x in KEPT) or w.shape[1] % 32):
            stored[name] = w
            continue
        role = ".".join(p for p in module.split(".") if not p.isdigit())
        how = chosen.setdefault(role, r.choice(("fp8-channel", "nvfp4-ct", "mxfp4-ct", None)) if kind == "mixed-ct" else kind)
        if how is None or w.shape[-1] % 32 or (not fused and r.random() < 0.1 and ".experts." not in name):
            stored[name] = w
            ignore.add(module)
            continue
        parts = []
        for e, m in enumerate(w if fused else [w]):
            for part, rows in zip(("gate_proj", "up_proj"), m.chunk(2)) if "gate_up" in name and fused else [("down_proj", m)]:
                base = f"{module.rsplit('.', 1)[0]}.{e}.{part}" if fused else module
                tensors, value = layout(rows.float(), how)
                stored.update({f"{base}.{k}": v.contiguous() for k, v in tensors.items()})
                parts.append(value)
        plain[name] = torch.cat(parts).view(w.shape)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(plain, exact / "model.safetensors", metadata={"format": "pt"})
    c = json.loads((folder / "config.json").read_text())
    c["quantization_config"] = dict(quant_method=LAYOUTS[kind], ignore=sorted(ignore))
    (folder / "config.json").write_text(json.dumps(c, indent=2))


def convert(source, folder, out, args):
    """GGUF by llama.cpp's own converter, without a vocabulary (the ids are all that is compared)."""
    code = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
import conversion, convert_hf_to_gguf as main
def model_class(name, mmproj=False, real=main.get_model_class):
    c = real(name, mmproj=mmproj)
    c.set_vocab = lambda self: self._set_vocab_none()
    c.no_mtp = c.supports_mtp_export
    return c
main.get_model_class = model_class
sys.argv = ["convert", "--outtype", "bf16", "--outfile", sys.argv[3], sys.argv[2]]
main.main()
"""
    copy = out.parent / "convert"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    vocab = {f"<{i}>": i for i in range(args["vocab_size"])}  # Gemma's counts it
    (copy / "tokenizer.json").write_text(json.dumps({"added_tokens": [], "model": {"vocab": vocab, "merges": []}}))
    c = json.loads((copy / "config.json").read_text())
    c.update({k: args[k] for k in ("global_head_dim", "num_global_key_value_heads") if k in args})  # as published; transformers 5 writes them by layer
    (copy / "config.json").write_text(json.dumps(c))
    r = subprocess.run([sys.executable, "-c", code, str(source), str(copy), str(out)], capture_output=True, text=True)
    return None if r.returncode == 0 and out.exists() else (r.stderr.strip().splitlines() or ["?"])[-1]


def gguf_cannot(family, args):
    """What the format has no key for: windows of all but Gemma, Phi and gpt-oss, Qwen's way of weighting experts, Gemma's scales of scores,
    lists of layers that its readers know by heart."""
    return (args.get("use_sliding_window") or family in ("mistral", "mixtral") and args["sliding_window"] or args.get("no_rope_layer_interval", 4) != 4
            or family in ("qwen3_next", "qwen3_moe") and not args["norm_topk_prob"] or family in ("gemma2", "gemma3") and args["query_pre_attn_scalar"] != args["head_dim"]
            or family == "gemma3" and "layer_types" in args or family == "nemotron_h" and "mlp" in args["layers_block_type"])


def logits(imp, path, ids, out, *options):
    r = subprocess.run([imp, "logits", "-m", path, "--ids", ",".join(map(str, ids)), "-o", out, *map(str, options)], capture_output=True, text=True)
    if r.returncode:
        raise RuntimeError(r.stderr.strip() or f"exit status {r.returncode}")
    return np.load(out)


def compare(imp, path, family, want, out, context, quantised):
    """What is wrong, or None, and the largest error of any position."""
    bound = BOUND["quantised, scalar" if quantised else "gemma, float, scalar" if family.startswith("gemma") else "float, scalar"]
    limit = BOUND["fast"] if quantised else bound
    worst = 0.0
    try:
        for ids, ref in want:
            more = ("-c", context(len(ids)))
            got = logits(imp, path, ids, out, "--cpu", "scalar", *more)
            fast = logits(imp, path, ids, out, *more)
            chunked = logits(imp, path, ids, out, "--chunk", 7, *more)
            e = error(got, ref).max()
            f = error(fast, ref).max()
            worst = max(worst, float(e), 0.0 if quantised else float(f))
            if not e <= bound:
                return f"scalar path, {len(ids)} tokens: error {e:.1e}, first at row {int(np.argmax(error(got, ref) > bound))}", worst
            if not error(fast[-1], ref[-1])[0] <= limit if quantised else not f <= bound:
                return f"default path, {len(ids)} tokens: error {f:.1e}", worst
            if chunked.tobytes() != fast.tobytes():
                return f"{len(ids)} tokens: chunks of 7 change bytes", worst
    except RuntimeError as e:
        return str(e), worst
    return None, worst


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--imp", required=True)
    p.add_argument("--llama-cpp", help="source folder with convert_hf_to_gguf.py")
    p.add_argument("--families", default=",".join(FAMILIES))
    p.add_argument("--layouts", help=f"prequantised instead of bf16, one of these a seed: {','.join(LAYOUTS)}")
    p.add_argument("--seeds", default="0:4")
    p.add_argument("--jsonl", type=pathlib.Path, help="a line a model is appended here (bench/variants.jsonl feeds docs/supported-models.md)")
    p.add_argument("--keep", type=pathlib.Path, help="where models that fail are kept")
    a = p.parse_args()
    lo, hi = map(int, a.seeds.split(":"))
    n = bad = 0
    for family in a.families.split(","):
        for seed in range(lo, hi):
            with tempfile.TemporaryDirectory() as tmp:
                tmp = pathlib.Path(tmp)
                folder = tmp / f"{family}-{seed}"
                try:
                    args, want, layout_of = make(family, seed, folder, a.layouts.split(",") if a.layouts else ())
                except Exception as e:  # the reference itself refuses this drawing
                    print(f"skip {family} {seed}: {type(e).__name__}: {str(e)[:160]}", flush=True)
                    continue
                files = [(layout_of or "hf", folder)]
                if a.llama_cpp and not layout_of and not gguf_cannot(family, args):
                    why = convert(a.llama_cpp, folder, tmp / "model.gguf", args)
                    if why:
                        print(f"skip {family} {seed} gguf: {why[:200]}", flush=True)
                    else:
                        files.append(("gguf", tmp / "model.gguf"))
                # LongRoPE's factors depend on the planned context
                orig = args.get("original_max_position_embeddings")
                for kind, path in files:
                    wrong, worst = compare(a.imp, path, family, want, tmp / "o.npy", lambda n: 256 if not orig or n > orig else orig,
                                           layout_of is not None)
                    n += 1
                    bad += wrong is not None
                    print(f"{'FAIL' if wrong else 'ok  '} {family} {seed} {kind} {worst:.1e} {wrong or ''}", flush=True)
                    if a.jsonl:
                        with a.jsonl.open("a") as f:
                            print(json.dumps(dict(family=family, seed=seed, file=kind, error=float(f"{worst:.2e}"), wrong=wrong)), file=f)
                    if wrong and a.keep:
                        shutil.copytree(folder, a.keep / folder.name, dirs_exist_ok=True)
                        if kind == "gguf":
                            shutil.copy(path, a.keep / folder.name / "model.gguf")
    print(f"{n} models, {bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""Seeds of fuzz_tok from tests/fixtures/tok: one small file of each kind, the first byte says which."""
import json
import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
fix, out = os.path.join(here, "../fixtures/tok"), os.path.join(here, "seeds/tok")
os.makedirs(out, exist_ok=True)


def put(name, kind, data):
    open(os.path.join(out, name), "wb").write(bytes([kind]) + data)


def cut(path, n):
    d = json.load(open(path))
    m = d["model"]
    if isinstance(m["vocab"], dict):
        m["vocab"] = dict(sorted(m["vocab"].items(), key=lambda x: x[1])[:n])
        if "merges" in m:
            m["merges"] = [x for x in m["merges"] if "".join(x) in m["vocab"]]
    else:
        m["vocab"] = m["vocab"][:n]
    return json.dumps(d, ensure_ascii=False).encode()


for name in ("json-gemma", "json-unigram", "json-wordpiece"):
    put(name, 0, cut(os.path.join(fix, name, "tokenizer.json"), 500 if name == "json-unigram" else 300))
byte_level = {"added_tokens": [{"id": 3, "content": "<s>", "special": True, "lstrip": True, "rstrip": True, "single_word": True}],
              "normalizer": {"type": "Sequence", "normalizers": [{"type": t} for t in ("NFC", "NFKD", "Lowercase", "StripAccents", "Nmt")]
                             + [{"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Prepend", "prepend": "\u2581"},
                                {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}, {"type": "BertNormalizer", "strip_accents": True},
                                {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAAAAA=="}]},
              "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Contiguous"},
                                {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": True}, {"type": "WhitespaceSplit"},
                                {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}, {"type": "Split", "pattern": {"Regex": "\\p{N}{1,2}+"}, "behavior": "Removed"}]},
              "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "RobertaProcessing", "sep": ["<s>", 3], "cls": ["<s>", 3]}]},
              "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "unk_token": "<unk>", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}
put("parts", 0, json.dumps(byte_level).encode())
put("spm", 1, open(os.path.join(fix, "spm-bpe/tokenizer.model"), "rb").read()[:6000])
put("unigram", 1, open(os.path.join(fix, "spm-unigram/tokenizer.model"), "rb").read())
put("gguf-spm", 2, open(os.path.join(fix, "spm-llama.gguf"), "rb").read())
put("gguf-bytes", 2, open(os.path.join(fix, "pre-qwen35.gguf"), "rb").read())
put("gguf-gemma4", 2, open(os.path.join(fix, "gemma4.gguf"), "rb").read())
for i, t in enumerate(["Hello  world's 123\n\n", "\u4e2d\u6587 e\u0301 \U0001f642 <s>x</s><|im_end|>", "aaaaaaaa the  the\r\n \t"]):
    put(f"text{i}", 3 | i << 2, t.encode())

#!/usr/bin/env python3
"""Writes the seed inputs of the file and JSON fuzzers into tests/fuzz/seeds. Plain struct packing, no packages."""
import pathlib
import struct

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fuzz" / "seeds"
U8, U32, I32, F32, BOOL, STR, ARRAY, U64, F64 = 0, 4, 5, 6, 7, 8, 9, 10, 12


def text(s):
    s = s.encode() if isinstance(s, str) else s
    return struct.pack("<Q", len(s)) + s


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def array(kind, items):
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def tensor(name, dims, kind, offset):
    return text(name) + struct.pack("<I", len(dims)) + struct.pack("<%dQ" % len(dims), *dims) + struct.pack("<IQ", kind, offset)


def gguf(version, keys, tensors, data):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


def gguf_seeds():
    arch = key("general.architecture", STR, text("llama"))
    yield "empty", gguf(3, [], [], b"")
    yield "keys", gguf(3, [
        arch, key("a.u8", U8, b"\1"), key("a.u32", U32, struct.pack("<I", 7)), key("a.f32", F32, struct.pack("<f", 1e-5)),
        key("a.bool", BOOL, b"\1"), key("a.u64", U64, struct.pack("<Q", 1 << 63)), key("a.f64", F64, struct.pack("<d", 0.5)),
    ], [], b"")
    yield "arrays", gguf(3, [
        arch, key("s", ARRAY, array(STR, [text(t) for t in ("<s>", "a", "")])),
        key("f", ARRAY, array(F32, [struct.pack("<f", i) for i in range(3)])),
        key("i", ARRAY, array(I32, [struct.pack("<i", -i) for i in range(3)])),
        key("b", ARRAY, array(BOOL, [b"\0", b"\1"])),
        key("n", ARRAY, array(ARRAY, [array(U8, [b"\2"]), array(STR, [text("x")])])),
    ], [], b"")
    yield "tensors", gguf(3, [arch], [tensor("w", [32, 2], 8, 0), tensor("b", [4], 0, 96)], b"\1" * 112)
    yield "version2", gguf(2, [arch, key("general.alignment", U32, struct.pack("<I", 32))], [tensor("w", [256, 1], 12, 0)], b"\2" * 144)
    yield "split", gguf(3, [key("split.count", U32, struct.pack("<I", 1)), key("split.no", U32, struct.pack("<I", 0))], [], b"")


def json_seeds():
    yield "object", b'{"a": [1, -2.5e3, true, false, null, "x\\n\\u20ac\\ud83d\\ude00"], "b": {"c": {}}, "d": []}'
    yield "numbers", b"[0, -0, 1e5, 1E-7, 0.1, 123456789012345678901234567890, 9007199254740993, 5e-324, 1.7976931348623157e308]"
    yield "config", b'{"architectures": ["LlamaForCausalLM"], "rope_scaling": {"factor": 8.0}, "limit": [0.0, Infinity]} '
    yield "nested", b"[" * 70 + b"]" * 70
    yield "utf8", '["é", "漢字", "😀"]'.encode()


def safetensors_seeds():
    one = b'{"t": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}, "__metadata__": {"format": "pt"}}'
    two = (b'{"a": {"dtype": "F8_E4M3", "shape": [2, 16], "data_offsets": [0, 32]},'
           b' "b": {"dtype": "F32", "shape": [], "data_offsets": [32, 36]}, "c": {"dtype": "I64", "shape": [0], "data_offsets": [36, 36]},'
           b' "d": {"dtype": "U8", "shape": [1, 2, 1, 7, 2], "data_offsets": [36, 64]}}')
    yield "file", b"\0" + struct.pack("<Q", len(one)) + one + b"\1" * 64
    yield "header", b"\1" + one
    yield "header2", b"\1" + two
    yield "index", b'\2{"metadata": {"total_size": 16}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}'
    yield "config", (b'\3{"architectures": ["X"], "a": {"b": {"c": [1, 2.5, -3]}}, "l": [{"t": "x"}, [1], null, true, "s"],'
                     b' "n": null, "f": 1e-05, "i": 18446744073709551615, "s": "\\u20ac", "lim": [0.0, Infinity]}')
    yield "config_oom", b'\x83{"a": {"b": ["x", "y"]}, "c": [true, false], "d": [[1], [2]]}'


def write(folder, seeds):
    (ROOT / folder).mkdir(parents=True, exist_ok=True)
    for name, data in seeds:
        (ROOT / folder / name).write_bytes(data)


write("gguf", gguf_seeds())
write("json", json_seeds())
write("safetensors", safetensors_seeds())

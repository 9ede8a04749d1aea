"""src/constrain against outside judges: Python's jsonschema on random schemas and instances, Python's re on random regular
expressions, random walks through masks that must end in valid text, and the schemas that bring others down.

The library is driven by tests/tools/constrain_driver.c (JSON lines), built here against libimp.a."""
import base64
import itertools
import json
import math
import os
import random
import re
import shlex
import struct
import subprocess
import sys

import jsonschema
import pytest

from conftest import BUILD, ROOT
from constrain_cases import CASES

SEED = int(os.environ.get("IMP_TEST_SEED", "20261"))
PUBLIC = ROOT.parent / "shared" / "conformance" / "jsonschema_cases_public.json"
LIBS = ["-lpcre2-8", "-lutf8proc", "-ljansson", "-lm", "-ldl", "-pthread"]


class Driver:
    def __init__(self, path, *args):
        self.p = subprocess.Popen([path, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, **request):
        self.p.stdin.write(json.dumps(request) + "\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        assert line, f"the driver died on {request}"
        return json.loads(line)

    def close(self):
        self.p.stdin.close()
        assert self.p.wait(60) == 0


def vocabulary():
    """Bytes, and longer tokens that cross the borders of strings, keys, numbers and brackets."""
    words = [bytes([b]) for b in range(256)]
    parts = ['"', '":', '": ', '",', '", "', '"}', '"]', '{"', '[{"', "}}", "]}", "},{", ", ", "true", "false", "null", "-1", "12", "0.", ".5", "e+",
             "e1", "\\n", "\\u", "\\u00", "\\u00e9", "é", "日本", "\n  ", "    ", "a", "ab", "abc", "name", "type", "value", "x1", " the", "1,", "2]", '1}']
    words += [w.encode() for w in parts if len(w.encode()) > 1]
    words += ["a\u2028b".encode(), "\u201d".encode(), "本\",".encode(), "é2".encode(), "😀".encode(), "😀".encode()[:2], "Дд".encode(), "ab-1_c".encode()]
    rng = random.Random(7)
    for _ in range(600):
        words.append("".join(rng.choice("abcdefgh019_\"{}[]:, -.é") for _ in range(rng.randint(2, 5))).encode())
    words = list(dict.fromkeys(words))
    return words + [b"</s>"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    d = tmp_path_factory.mktemp("constrain")
    exe, vocab = d / "driver", d / "vocab"
    cc = shlex.split(os.environ.get("CC", "gcc"))
    subprocess.run([*cc, "-O1", "-std=c17", "-D_GNU_SOURCE", f"-I{ROOT}/src", f"-I{ROOT}/include", str(ROOT / "tests/tools/constrain_driver.c"),
                    "-o", str(exe), str(BUILD / "libimp.a"), *LIBS], check=True, timeout=120)
    words = vocabulary()
    with open(vocab, "wb") as f:
        f.write(struct.pack("<I", len(words)))
        for i, w in enumerate(words):
            f.write(struct.pack("<I", len(w) | (1 << 31 if i == len(words) - 1 else 0)) + w)
    drv = Driver(str(exe), str(vocab))
    yield drv
    drv.close()


# ---- the public cases ---------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not PUBLIC.exists(), reason="the public cases lie beside the checkout")
def test_public_cases(driver):
    wrong = []
    for case in json.loads(PUBLIC.read_text())["cases"]:
        texts = [(json.dumps(v, indent=i, ensure_ascii=a), True) for v in case["valid"] for i in (None, 2) for a in (True, False)]
        texts += [(json.dumps(v), False) for v in case["invalid"]]
        a = driver(schema=json.dumps(case["schema"]), texts=[t for t, _ in texts])
        assert a["ok"], (case["name"], a)
        wrong += [(case["name"], t, want) for (t, want), got in zip(texts, a["accept"]) if want != got]
    assert not wrong


# ---- schemas as people write them ----------------------------------------------------------------------------------------
LEAVES = [None, True, False, 0, 1, -1, 2, 5, 9, 10, 11, 13, 100, 0.5, -0.5, 2.5, 12.345, 10000000000, "", "a", "ab", "abc", "root", "x-a", "2024-02-30", "1234 AB", "12345", "A" * 70, "é\"\\\n", [], [1], [None, None], {}, {"a": 1}, {"zz": "b"}]


def variants(r, v, n):
    """n instances that differ from v in one or two places: another leaf, a member less or more, items swapped, dropped, doubled."""
    def change(x):
        if isinstance(x, dict) and x and r.random() < 0.8:
            x = dict(x)
            k = r.choice(list(x))
            how = r.randrange(6)
            if how == 0:
                del x[k]
            elif how == 1:
                x[r.choice(["zz", "a", "b", "x-a", k + "x", k[:-1]])] = r.choice(LEAVES)
            elif how == 2:
                x = dict(sorted(x.items(), key=lambda _: r.random()))
            else:
                x[k] = change(x[k])
            return x
        if isinstance(x, list) and x and r.random() < 0.8:
            x = list(x)
            k = r.randrange(len(x))
            how = r.randrange(5)
            if how == 0:
                del x[k]
            elif how == 1:
                x.insert(k, x[k])
            elif how == 2:
                r.shuffle(x)
            else:
                x[k] = change(x[k])
            return x
        if isinstance(x, str) and x and r.random() < 0.6:
            k = r.randrange(len(x))
            return r.choice([x[:k] + x[k + 1:], x[:k] + r.choice("aA0 -.\"é\n") + x[k:], x[:k] + r.choice("zZ9_/") + x[k + 1:], x + x])
        if type(x) is int and r.random() < 0.6:
            return x + r.choice([-1, 1, -10, 7, 1000])
        if isinstance(x, float) and r.random() < 0.6:
            return round(x + r.choice([-1, 1, 0.25, -0.01]), 4)
        return r.choice(LEAVES)
    out = []
    for _ in range(n):
        w = change(v)
        out.append(change(w) if r.random() < 0.3 else w)
    return out


def test_written_schemas(driver):
    """Accepted exactly when valid, in four spellings; walks end in valid texts."""
    r = random.Random(SEED + 5)
    counts = {True: 0, False: 0}
    assert len({name for name, _, _ in CASES}) == len(CASES) >= 100
    for n, (name, s, good) in enumerate(CASES):
        loose = re.search("email|date-time|uuid", json.dumps(s))  # Python's judge looks less closely
        cls = jsonschema.validators.validator_for(s, jsonschema.Draft202012Validator)
        judge = cls(s, format_checker=cls.FORMAT_CHECKER)
        values = good + [w for v in good for w in variants(r, v, 60)]
        texts = [json.dumps(v, ensure_ascii=k % 2 == 0, indent=2 if k % 4 > 1 else None) for k, v in enumerate(values)]
        a = driver(schema=json.dumps(s), texts=texts, walks=3, max_steps=12, seed=n)
        assert a["ok"], (name, a)
        assert all(judge.is_valid(v) for v in good), name
        for v, t, got in zip(values, texts, a["accept"]):
            want = judge.is_valid(v)
            if got != want and '"multipleOf": 0.01' in json.dumps(s):
                continue  # 2.01 is no multiple of 0.01 in Python's floats
            counts[want] += 1
            # Python's $ also matches before a last line end, and its \\w and \\s reach beyond ASCII and ECMA's
            assert got == want or (want and loose) or (want and re.search(r"\\n\"", t)) or not json.dumps(v, ensure_ascii=False).isascii() and "pattern" in json.dumps(s), (name, t, want, got)
        for w in a["walks"]:
            assert not isinstance(w, dict), (name, w)
            assert w is None or judge.is_valid(json.loads(w)) or not w.isascii() or re.search(r"\\u|\d{14}|[eE]", w), (name, w)
    assert counts[True] > 2000 and counts[False] > 4000, counts


# ---- random schemas, judged by jsonschema -------------------------------------------------------------------------------
NAMES = ["a", "b", "ab", "name", "é", "x y"]
PATTERNS = ["^a", "b$", "^[a-c]{1,3}$", "a|b", "^(ab)+$", "[0-9]", "^.{2}$", "^[^b]*$"]


def value(r, depth=0):
    k = r.randrange(11 if depth < 3 else 8)
    if k < 2:
        return r.choice(["", "a", "ab", "abc", "abab", "b", "cab", "1", "é", "2024-02-29", "x y", 'q"\\'])
    if k < 4:
        return r.choice([0, 1, 2, 3, 5, 6, 7, 10, -1, -4, 100])
    if k == 4:
        return r.choice([0.5, 1.5, -2.5, 2.25, 1e-7, 3.0, 1e20])
    if k < 7:
        return r.choice([None, True, False])
    if k < 9:
        return [value(r, depth + 1) for _ in range(r.randrange(4))]
    return {r.choice(NAMES): value(r, depth + 1) for _ in range(r.randrange(4))}


def schema(r, depth=0):
    if r.random() < 0.06:
        return r.random() < 0.8
    s = {}
    deep = depth < 3

    def sub():
        return schema(r, depth + 1)

    kinds = [
        lambda: s.update(type=r.choice(["string", "number", "integer", "object", "array", "boolean", "null", ["string", "null"], ["integer", "object"]])),
        lambda: s.update(minimum=r.choice([-3, 0, 1.5, 5])), lambda: s.update(maximum=r.choice([-1, 3, 6.5, 100])),
        lambda: s.update(exclusiveMinimum=r.choice([-1, 0, 2])), lambda: s.update(exclusiveMaximum=r.choice([0, 3.5, 10])),
        lambda: s.update(multipleOf=r.choice([2, 3, 0.5])),
        lambda: s.update(minLength=r.randrange(3)), lambda: s.update(maxLength=r.randrange(1, 5)), lambda: s.update(pattern=r.choice(PATTERNS)),
        lambda: s.update(enum=[value(r) for _ in range(r.randrange(1, 4))]), lambda: s.update(const=value(r)),
        lambda: s.update(minItems=r.randrange(3)), lambda: s.update(maxItems=r.randrange(1, 4)),
        lambda: s.update(required=r.sample(NAMES, r.randrange(1, 3))),
        lambda: s.update(minProperties=r.randrange(3)), lambda: s.update(maxProperties=r.randrange(1, 4)),
        lambda: s.update(dependentRequired={r.choice(NAMES): r.sample(NAMES, 1)}),
    ]
    if deep:
        kinds += [
            lambda: s.update(properties={k: sub() for k in r.sample(NAMES, r.randrange(1, 4))}),
            lambda: s.update(properties={k: sub() for k in r.sample(NAMES, r.randrange(1, 4))}, additionalProperties=r.choice([False, sub()])),
            lambda: s.update(patternProperties={r.choice(PATTERNS): sub()}), lambda: s.update(propertyNames={"pattern": r.choice(PATTERNS)}),
            lambda: s.update(items=sub()), lambda: s.update(prefixItems=[sub() for _ in range(r.randrange(1, 3))], items=r.choice([False, sub()])),
            lambda: s.update(contains=sub()), lambda: s.update(uniqueItems=True, items={"enum": [1, "a", "b", None]}),
            lambda: s.update(anyOf=[sub() for _ in range(r.randrange(1, 3))]), lambda: s.update(oneOf=[sub() for _ in range(r.randrange(1, 3))]),
            lambda: s.update(allOf=[sub() for _ in range(r.randrange(1, 3))]), lambda: s.update({"not": sub()}),
            lambda: s.update({"if": sub(), "then": sub(), "else": sub()}),
        ]
    for _ in range(r.randrange(1, 4)):
        r.choice(kinds)()
    return s


def exact(v, unique):
    """Values that docs/constrain.md promises to accept: no exponents where a number is bound, and inside uniqueItems one
    spelling a number (3, never 3.0)."""
    if isinstance(v, float):
        return v not in (1e-7, 1e20) and not (unique and v == int(v))
    if isinstance(v, list):
        return all(exact(x, unique) for x in v)
    if isinstance(v, dict):
        return all(exact(x, unique) for x in v.values())
    return True


def test_random_schemas(driver):
    r = random.Random(SEED)
    compiled = checked = walked = 0
    for n in range(700):
        s = schema(r)
        values = [value(r) for _ in range(30)]
        if isinstance(s, dict):
            values += s.get("enum", [])
        judge = jsonschema.Draft202012Validator(s)
        a = driver(schema=json.dumps(s), texts=[json.dumps(v) for v in values], walks=2, max_steps=12, seed=n, verify=n % 10 == 0,
                   plain_escapes=n % 20 == 0)
        if not a["ok"]:
            assert a["error"] and ("#" in a["error"] or "constraint:" in a["error"]), a
            if "no value satisfies" in a["error"]:
                assert not any(judge.is_valid(v) for v in values), (s, a)
            continue
        compiled += 1
        for v, got in zip(values, a["accept"]):
            want = judge.is_valid(v)
            if got and not want:
                pytest.fail(f"accepts what is invalid: {json.dumps(v)} under {json.dumps(s)}")
            if want and not got and exact(v, "uniqueItems" in json.dumps(s)):
                pytest.fail(f"rejects what is valid: {json.dumps(v)} under {json.dumps(s)}")
            checked += 1
        for w in a["walks"]:
            assert not isinstance(w, dict), f"a walk got stuck at {w} under {json.dumps(s)}"
            if w is not None and not re.search(r"\d{14}|\d\.\d{9}|[eE]", w):  # beyond what the judge's floats can tell
                walked += 1
                assert judge.is_valid(json.loads(w)), (w, json.dumps(s))
    assert compiled > 450 and checked > 12000 and walked > 300, (compiled, checked, walked)


# ---- ordered keys ----------------------------------------------------------------------------------------------------------
def permutations(v, most=60):
    """The spellings of v with its keys in every order; None: too many."""
    if isinstance(v, list):
        parts = [permutations(x, most) for x in v]
        if None in parts or math.prod(map(len, parts)) > most:
            return None
        return [list(p) for p in itertools.product(*parts)]
    if isinstance(v, dict):
        inner = permutations(list(v.values()), most)
        if inner is None or len(inner) * math.factorial(len(v)) > most:
            return None
        return [dict(o) for vals in inner for o in itertools.permutations(zip(v, vals))]
    return [v]


def test_ordered_keys_random_schemas(driver):
    """Whatever the schema joins: what is accepted is valid, and what is valid is accepted in some order of its keys."""
    r = random.Random(SEED + 8)
    compiled = objects = walked = 0
    for n in range(400):
        one = schema(r)
        s = {"type": ["object", "array"], **one} if isinstance(one, dict) and r.random() < 0.5 else {"type": "object", "properties": {k: schema(r, 2) for k in r.sample(NAMES, 4)}, "allOf": [schema(r, 1)]}
        values = [v for v in (value(r) for _ in range(60)) if isinstance(v, (dict, list))]
        values += [{k: value(r, 3) for k in r.sample(NAMES, r.randrange(4))} for _ in range(20)]
        judge = jsonschema.Draft202012Validator(s)
        spelled = [(v, p) for v, p in ((v, permutations(v)) for v in values) if p]
        a = driver(schema=json.dumps(s), texts=[json.dumps(t) for _, p in spelled for t in p], walks=2, max_steps=12, seed=n, verify=n % 10 == 0, key_order=True)
        free = driver(schema=json.dumps(s), texts=[])
        assert a["ok"] == free["ok"], (s, a, free)
        if not a["ok"]:
            continue
        compiled += 1
        at = 0
        for v, p in spelled:
            got, want = a["accept"][at:at + len(p)], judge.is_valid(v)
            at += len(p)
            assert want or not any(got), (s, v)
            assert not want or any(got) or not exact(v, "uniqueItems" in json.dumps(s)), (s, v)
            objects += want and isinstance(v, dict) and len(v) > 1
        for w in a["walks"]:
            assert not isinstance(w, dict), f"a walk got stuck at {w} under {json.dumps(s)}"
            if w is not None and not re.search(r"\d{14}|\d\.\d{9}|[eE]", w):
                walked += 1
                assert judge.is_valid(json.loads(w)), (w, json.dumps(s))
    assert compiled > 200 and objects > 300 and walked > 100, (compiled, objects, walked)


def test_ordered_keys_exactly(driver):
    """Objects whose keys one schema names: accepted exactly in its order, others after them in any order."""
    def form(depth):
        names = r.sample(NAMES + ["A", "zz", "abc", "b0", *[f"n{i}" for i in range(r.choice([0, 0, 40]))]], r.randrange(1, 6))
        s = {"type": "object", "properties": {k: form(depth + 1) if depth < 2 and r.random() < 0.3 else {"type": "integer"} for k in names}}
        s["required"] = [k for k in names if r.random() < 0.4]
        s.update(r.choice([{}, {"additionalProperties": False}, {"additionalProperties": {"type": "integer"}},
                           {"patternProperties": {"^[xy]$": {"type": "integer"}}, "additionalProperties": False}]))
        if r.random() < 0.3:
            s["minProperties"] = r.randrange(len(names) + 1)
        if r.random() < 0.3:
            s["maxProperties"] = max(len(s["required"]), r.randrange(len(names) + 1), s.get("minProperties", 0))
        return s

    def fill(s):
        v = {}
        for k, sub in s["properties"].items():
            if k in s["required"] or r.random() < 0.5:
                v[k] = fill(sub) if sub["type"] == "object" else 1
        for k in r.sample(["x", "y", "x1"], r.choice([0, 0, 1, 2])):
            v[k] = 2
        return v

    def shuffled(v):
        return dict(r.sample([(k, shuffled(x)) for k, x in v.items()], len(v))) if isinstance(v, dict) else v

    def in_order(s, v):
        places = [list(s["properties"]).index(k) if k in s["properties"] else 999 for k in v]
        return places == sorted(places) and all(in_order(s["properties"][k], x) for k, x in v.items() if isinstance(x, dict))
    r = random.Random(SEED + 9)
    yes = no = 0
    for n in range(250):
        s = form(0)
        judge = jsonschema.Draft202012Validator(s)
        values = [fill(s) for _ in range(15)]
        values += [shuffled(v) for v in values for _ in range(2)]
        a = driver(schema=json.dumps(s), texts=[json.dumps(v) for v in values], walks=3, max_steps=15, seed=n, verify=n % 10 == 0, key_order=True)
        if not a["ok"]:
            assert "minProperties" in a["error"] or "no value" in a["error"], (s, a)
            continue
        for v, got in zip(values, a["accept"]):
            want = judge.is_valid(v) and in_order(s, v)
            assert got == want, (s, v, got)
            yes += want
            no += judge.is_valid(v) and not want
        for w in a["walks"]:
            assert not isinstance(w, dict), (s, w)
            assert w is None or (judge.is_valid(json.loads(w)) and in_order(s, json.loads(w))), (s, w)
    assert yes > 1000 and no > 300, (yes, no)


# ---- some key must break a rule, and there is not much room ----------------------------------------------------------------
def broken_rule(r):
    small = [{"type": "integer"}, {"const": 1}, {"type": "string"}, {"enum": ["s", None]}]
    return r.choice([
        lambda: {"propertyNames": r.choice([{"pattern": "^a"}, {"minLength": 2}, {"enum": ["a", "b"]}, {"pattern": "^[a-z]*$"}])},
        lambda: {"additionalProperties": r.choice(small), "properties": {k: r.choice([*small, {}]) for k in r.sample(NAMES, r.randrange(3))}},
        lambda: {"patternProperties": {r.choice(["^a", "b$", "^[a-z]+$", "x"]): r.choice(small)}},
        lambda: {"properties": {k: r.choice(small) for k in r.sample(NAMES, 2)}}])()


def test_negated_conditions_on_keys(driver):
    r = random.Random(SEED + 7)
    compiled = checked = 0
    for n in range(120):
        s = {"type": "object", "maxProperties": r.randrange(1, 5), "allOf": [{"not": broken_rule(r)} for _ in range(r.randrange(1, 4))]}
        if r.random() < 0.5:
            s["required"] = r.sample(NAMES, r.randrange(1, 3))
        if r.random() < 0.4:
            s["properties"] = {k: r.choice([{"type": "integer"}, {"type": "string"}, True, False]) for k in r.sample(NAMES, 2)}
        if r.random() < 0.3:
            s["additionalProperties"] = r.choice([{"type": "integer"}, False])
        values = [{k: r.choice([1, 2, "s", "t", None]) for k in r.sample(NAMES, r.randrange(6))} for _ in range(30)]
        judge = jsonschema.Draft202012Validator(s)
        a = driver(schema=json.dumps(s), texts=[json.dumps(v) for v in values], walks=2, max_steps=10, seed=n)
        if not a["ok"]:
            assert "no value satisfies" not in a["error"] or not any(judge.is_valid(v) for v in values), (s, a)
            continue
        compiled += 1
        for v, got in zip(values, a["accept"]):
            assert got == judge.is_valid(v), (s, v, got)
            checked += 1
        for w in a["walks"]:
            assert not isinstance(w, dict), (s, w)
            assert w is None or judge.is_valid(json.loads(w)), (s, w)
    assert compiled > 60 and checked > 1500, (compiled, checked)


# ---- random regular expressions, judged by re -----------------------------------------------------------------------------
def regex(r, depth=0):
    k = r.randrange(9 if depth < 3 else 4)
    if k < 2:
        return r.choice("abc1-é")
    if k == 2:
        return r.choice(["[a-c]", "[^a]", r"\d", r"\w", r"[\w-]", ".", r"\.", r"[^\d\n]", r"\x41", r"[é-ü]"])
    if k == 3:
        return r.choice(["ab", "a1", "(?:ab)", ""])
    if k < 6:
        return regex(r, depth + 1) + regex(r, depth + 1)
    if k == 6:
        return "(" + regex(r, depth + 1) + "|" + regex(r, depth + 1) + ")"
    body = "(?:" + regex(r, depth + 1) + ")"
    return body + r.choice(["*", "+", "?", "{2}", "{1,3}", "{0,2}?", "{2,}"])


def test_random_regexes(driver):
    r = random.Random(SEED + 1)
    texts = ["", "a", "b", "ab", "abc", "a1", "1", "aab", "abab", "é", "éa", "-", ".", "A", "ba", "cab", "a\n", "aaa", "bbb", "ab1ab", "ü"]
    texts += ["".join(r.choice("abc1-éA.") for _ in range(r.randrange(1, 8))) for _ in range(40)]
    checked = 0
    for n in range(500):
        rx = regex(r)
        if r.random() < 0.3:
            rx = r.choice(["^", ""]) + rx + r.choice(["$", ""])
        if r.random() < 0.15:
            rx = "^(?" + r.choice("!=") + regex(r, 2) + r.choice(["", "$"]) + ")" + rx
        want = re.compile(rx, re.ASCII)
        a = driver(regex=rx, texts=texts, walks=1, max_steps=8, seed=n)
        if not a["ok"]:
            assert "no text matches" in a["error"] and not any(want.fullmatch(t) for t in texts), (rx, a)
            continue
        for t, got in zip(texts, a["accept"]):
            # Python's $ also matches before a last newline
            assert got == bool(want.fullmatch(t)) or t.endswith("\n"), (rx, t, got)
            checked += 1
        for w in a["walks"]:
            assert not isinstance(w, dict), (rx, w)
            # Python's \w and . differ from ECMA's only beyond ASCII and at line ends
            assert w is None or want.fullmatch(w) or not w.isascii() or re.search(r"[\r\n\u2028\u2029]", w), (rx, w)
        s = driver(schema=json.dumps({"type": "string", "pattern": rx}), texts=[json.dumps(t) for t in texts])
        assert s["ok"], (rx, s)
        for t, got in zip(texts, s["accept"]):
            assert got == bool(want.search(t)) or t.endswith("\n"), ("search", rx, t, got)
    assert checked > 20000


# ---- masks against every token: automata that take whole parts of the vocabulary at once ---------------------------------------
TAKERS = [
    ".*", r"[\s\S]*", "[a-h]+", "[a-h]{2,9}", "[a-h ]{0,300}", "([a-h]{1,4} ?)+", r"[a-h]+(-[a-h]+)*", r"[^\n]{1,12}\n.*",
    r"[\t\n a-h]*", r"[\x00-\x1f]*[a-h]*", r'[^"]{0,6}"[^"]*', r"\w{3}[0-9]{0,3}\w*", r"[\u0080-\uffff]{1,4}",
    r"[^\u0400-\u04ff]*", r"[\u00e0-\u00ff日-本]+x?", "(ab|cd|[e-h]{2,5})*", r"(?:[a-h]{3})*[0-9]?", r"^(?!ab)[a-h]+"]
TAKING_GRAMMARS = [
    'root ::= ([a-h]+ " ")+ "." | [0-9]{2,5} root', 'root ::= w (" " w)* "\\n"\nw ::= [a-h]{1,5} | "(" root ")"\n',
    'root ::= "<" [^<>]{0,9} ">" root? "</>"\n', 'root ::= (x | y){2,40}\nx ::= [a-d]{1,3} ("," root)?\ny ::= [e-h]+ "é"\n']


def test_masks_of_classes_against_every_token(driver):
    """Words and texts in classes of characters, loose, counted, with lengths: the mask allows what is taken, no more, no less."""
    def check(**request):
        a = driver(max_steps=6, verify=True, **request)
        assert a["ok"] and not any(isinstance(w, dict) for w in a["walks"]), (request, a)

    for n, rx in enumerate(TAKERS):
        check(regex=rx, walks=3, seed=n)
        for more in ({}, {"maxLength": 9}, {"minLength": 4}, {"minLength": 2, "maxLength": 6}):
            item = {"type": "string", "pattern": rx + "$" if rx[0] == "^" else f"^(?:{rx})$", **more}
            check(schema=json.dumps({"type": "array", "items": item}), walks=2, seed=n, plain_escapes=n % 2 == 0)
    for n, g in enumerate(TAKING_GRAMMARS):
        check(grammar=g, walks=3, seed=n)


# ---- grammars ---------------------------------------------------------------------------------------------------------------
def test_grammar_walks(driver):
    arith = 'root ::= sum\nsum ::= prod ([-+] prod)*\nprod ::= atom ("*" atom)*\natom ::= [0-9]{1,3} | "(" sum ")"\n'
    lark = 'start: sum\nsum: sum ("+" | "-") prod | prod\nprod: prod "*" atom | atom\natom: NUM | "(" sum ")"\nNUM: /[0-9]{1,3}/\n'
    texts = ["1", "1+2*3", "(1)", "((1+2)*3-4)", "", "1+", "()", "1234", "(1", "1)"]
    want = [True] * 4 + [False] * 6
    for g in (arith, lark):
        a = driver(grammar=g, texts=texts, walks=20, max_steps=10, seed=3)
        assert a["ok"] and a["accept"] == want, a
        ended = [w for w in a["walks"] if w is not None]
        assert len(ended) >= 5
        for w in ended:
            assert isinstance(w, str), w
            eval(re.sub(r"\b0+(?=\d)", "", w))  # digits, brackets and operators only: the grammar just proved it
    json_g = r'''root ::= value
value ::= "{" (pair ("," pair)*)? "}" | "[" (value ("," value)*)? "]" | string | number | "true" | "false" | "null"
pair ::= string ":" value
string ::= "\"" ([^"\\\x00-\x1f] | "\\" ["\\/bfnrt])* "\""
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)?
'''
    a = driver(grammar=json_g, texts=['{"a":[1,{"b":null}]}', '{"a":}', "[1,]"], walks=30, max_steps=10, seed=5)
    assert a["accept"] == [True, False, False]
    for w in a["walks"]:
        if w is not None:
            json.loads(w)


# ---- what brings others down (peers.md) -----------------------------------------------------------------------------------
def killers():
    yield "nested pattern", {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object", "properties": {
        "b": {"type": "string", "pattern": "^(([a-z]+-)*[a-z]+\\.)*([a-z]{2,10}|[0-9]{1,3})$"}}}}}}
    yield "maxLength 65536", {"type": "string", "minLength": 1, "maxLength": 65536}
    yield "pattern with counters", {"type": "string", "pattern": "^[\\s\\S]{0,65536}$"}
    yield "empty objects", {"type": "object", "properties": {}, "additionalProperties": False}
    yield "64 tools", {"anyOf": [{"type": "object", "properties": {"name": {"const": f"tool_{i}"}, "arguments": {
        "type": "object", "properties": {f"p{j}": {"type": "string", "maxLength": 4096} for j in range(8)}, "required": ["p0"],
        "additionalProperties": False}}, "required": ["name", "arguments"], "additionalProperties": False} for i in range(64)]}
    deep = {"type": "integer"}
    for _ in range(50):
        deep = {"type": "object", "properties": {"n": deep}, "required": ["n"]}
    yield "deep nesting", deep
    yield "recursion", {"$defs": {"n": {"type": "object", "properties": {"l": {"$ref": "#/$defs/n"}, "r": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}},
                                        "additionalProperties": False}}, "$ref": "#/$defs/n"}
    yield "many enums", {"enum": [f"value {i}" for i in range(2000)]}


def test_schemas_that_kill_others(driver):
    for name, s in killers():
        best = min(driver(schema=json.dumps(s))["compile_us"] for _ in range(3))
        a = driver(schema=json.dumps(s), walks=1, max_steps=6, seed=1)
        assert a["ok"], (name, a)
        assert best < 50000, (name, best)
        for w in a["walks"]:
            assert not isinstance(w, dict), (name, w)


def test_hostile_input_is_refused_quickly(driver):
    bombs = [dict(regex="(((a{100}){100}){100}){100}"), dict(regex="(a|b)*a" + "(a|b)" * 40), dict(schema="[" * 100000), dict(schema='{"not":' * 120 + "{}" + "}" * 120),
             dict(grammar='root ::= ' + "(" * 5000), dict(grammar="root ::= a0\n" + "\n".join(f"a{i} ::= a{i+1} a{i+1}" for i in range(40)) + '\na40 ::= "x"'),
             dict(schema=json.dumps({"allOf": [{"anyOf": [{"required": [f"k{i}"]}, {"required": [f"l{i}"]}]} for i in range(40)]}))]
    bombs += [dict(regex=x) for x in ("(B{0,40}C?){213}", "((a{0,20}b{0,20}){20}){20}", "(.{0,100}x?){100}")]
    for b in bombs:
        a = driver(**b)
        assert a["compile_us"] < 5e6, (str(b)[:80], a["compile_us"])
        assert a["ok"] or a["error"]


# ---- a real model --------------------------------------------------------------------------------------------------------
def test_answers_of_a_real_model_are_valid(gemma, tmp_path):
    """A part of what bench/constrained.py does: temperature 1.5, half of its schemas, one answer each."""
    exe = tmp_path / "generate"
    cc = shlex.split(os.environ.get("CC", "gcc"))
    subprocess.run([*cc, "-O1", "-std=c17", "-D_GNU_SOURCE", f"-I{ROOT}/include", str(ROOT / "tests/tools/generate_driver.c"), "-o", str(exe), str(BUILD / "libimp.a"),
                    *LIBS, "-lmicrohttpd", "-ledit"], check=True, timeout=120)
    r = subprocess.run([sys.executable, str(ROOT / "bench" / "constrained.py"), gemma, str(exe), "--answers", "25", "--schemas", "25", "--seed", str(SEED)],
                       capture_output=True, text=True, timeout=600)
    assert r.returncode == 0 and " 0 invalid" in r.stdout, r.stdout + r.stderr

"""Constrained answers of a real model, judged by Python's jsonschema.

  python bench/constrained.py MODEL DRIVER [--answers 1000] [--temperature 1.5] [--seed 1]     every answer must be valid
  python bench/constrained.py MODEL DRIVER --overhead                                           a step with and without a constraint, in turns
  python bench/constrained.py MODEL DRIVER --compare                                            jump-ahead against the model's own spelling, greedy

DRIVER is tests/tools/generate_driver.c, linked with libimp.a. The schemas bound what they can, so that an answer at a high
temperature comes to an end; an answer that ran into the token limit is counted apart.
"""
import argparse
import decimal
import json
import subprocess
import sys
import time

import jsonschema

S = {"type": "string", "maxLength": 24}
I = {"type": "integer", "minimum": 0, "maximum": 999}


def obj(required=None, extra=False, **props):
    return {"type": "object", "properties": props, "required": list(props) if required is None else required, "additionalProperties": extra}


def arr(items, lo=0, hi=3, **more):
    return {"type": "array", "items": items, "minItems": lo, "maxItems": hi, **more}


def schemas():
    """name -> schema; 50 of them, over all groups of keywords."""
    yield "person", obj(name=S, age=I, married={"type": "boolean"})
    yield "nullable", obj(a={"type": ["string", "null"], "maxLength": 9}, b={"type": ["integer", "null"], "maximum": 9, "minimum": -9})
    yield "enum of all kinds", obj(v={"enum": ["red", "green", 1, 2.5, None, True, [1, "x"], {"k": "v"}]})
    yield "const object", obj(kind={"const": {"type": "fixed", "version": 3}}, note=S)
    yield "one of two shapes", {"oneOf": [obj(type={"const": "circle"}, radius=I), obj(type={"const": "square"}, side=I)]}
    yield "overlapping oneOf", {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 60}, {"type": "integer", "minimum": 40, "maximum": 100}]}
    yield "any of types", obj(v={"anyOf": [S, I, arr(I), obj(x=I)]})
    yield "all of", {"allOf": [obj(["a"], True, a=I), {"properties": {"b": S}, "required": ["b"], "maxProperties": 2}], "type": "object"}
    yield "not", obj(a={"type": "integer", "minimum": 0, "maximum": 50, "not": {"multipleOf": 5}})
    yield "not a word", obj(w={"type": "string", "pattern": "^[a-z]{1,8}$", "not": {"enum": ["yes", "no"]}})
    yield "if then else", {"type": "object", "properties": {"country": {"enum": ["US", "NL"]}, "code": {"type": "string"}}, "required": ["country", "code"],
                           "additionalProperties": False, "if": {"properties": {"country": {"const": "US"}}},
                           "then": {"properties": {"code": {"pattern": "^[0-9]{5}$"}}}, "else": {"properties": {"code": {"pattern": "^[0-9]{4} [A-Z]{2}$"}}}}
    yield "date", obj(d={"type": "string", "format": "date"})
    yield "date-time", obj(t={"type": "string", "format": "date-time", "maxLength": 32})
    yield "time and duration", obj(t={"type": "string", "format": "time", "maxLength": 20}, d={"type": "string", "format": "duration", "maxLength": 12})
    yield "email", obj(e={"type": "string", "format": "email", "maxLength": 30})
    yield "hosts", arr({"type": "string", "format": "hostname", "maxLength": 20}, 1, 3)
    yield "addresses", obj(v4={"type": "string", "format": "ipv4"}, v6={"type": "string", "format": "ipv6", "maxLength": 24})
    yield "uuid", obj(id={"type": "string", "format": "uuid"})
    yield "uri", obj(u={"type": "string", "format": "uri", "maxLength": 30})
    yield "version pattern", obj(v={"type": "string", "pattern": "^v?[0-9]{1,3}(\\.[0-9]{1,3}){2}(-[a-z]{1,5})?$"})
    yield "unanchored pattern", obj(v={"type": "string", "pattern": "[0-9]{2}", "maxLength": 12})
    yield "unicode pattern", obj(v={"type": "string", "pattern": "^[\\u3041-\\u3096\\u4e00-\\u9fa5]{1,6}$"})
    yield "lengths", arr({"type": "string", "minLength": 3, "maxLength": 5}, 2, 4)
    yield "exact length", obj(s={"type": "string", "minLength": 10, "maxLength": 10})
    yield "numbers", obj(a={"type": "number", "minimum": -1.5, "maximum": 1.5, "multipleOf": 0.25}, b={"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 20})
    yield "multiples", arr({"type": "integer", "minimum": 0, "maximum": 700, "multipleOf": 7}, 3, 3)
    yield "money", obj(amount={"type": "number", "minimum": 0, "maximum": 10000, "multipleOf": 0.01}, currency={"enum": ["EUR", "USD", "JPY"]})
    yield "tuple", {"type": "array", "prefixItems": [S, I, {"type": "boolean"}], "items": False, "minItems": 3}
    yield "tuple with rest", {"type": "array", "prefixItems": [{"enum": ["sum", "mean"]}], "items": I, "minItems": 2, "maxItems": 5}
    yield "unique enum", arr({"enum": ["a", "b", "c", "d"]}, 2, 4, uniqueItems=True)
    yield "unique numbers", arr({"type": "integer", "minimum": 0, "maximum": 9}, 3, 6, uniqueItems=True)
    yield "contains", arr({"type": "integer", "minimum": 0, "maximum": 99}, 2, 5, contains={"minimum": 90}, minContains=1, maxContains=2)
    yield "nested arrays", arr(arr(I, 1, 2), 1, 3)
    yield "optional members", obj([], False, first=S, second=I, third={"type": "boolean"})
    yield "many members", obj(**{f"field_{i}": {"enum": [0, 1]} for i in range(12)})
    yield "pattern members", {"type": "object", "patternProperties": {"^n_[a-z]{1,6}$": I, "^s_[a-z]{1,6}$": S}, "additionalProperties": False, "minProperties": 1, "maxProperties": 3}
    yield "free members", {"type": "object", "additionalProperties": I, "propertyNames": {"pattern": "^[a-z]{1,10}$"}, "minProperties": 2, "maxProperties": 4}
    yield "names by enum", {"type": "object", "propertyNames": {"enum": ["north", "south", "east", "west"]}, "additionalProperties": {"type": "boolean"}, "minProperties": 1, "maxProperties": 4}
    yield "dependent", {"type": "object", "properties": {"card": {"type": "string", "pattern": "^[0-9]{8}$"}, "cvv": {"type": "string", "pattern": "^[0-9]{3}$"}, "cash": {"type": "boolean"}},
                        "additionalProperties": False, "dependentRequired": {"card": ["cvv"]}, "minProperties": 1}
    yield "dependent schema", {"type": "object", "properties": {"a": I, "b": I}, "additionalProperties": False, "dependentSchemas": {"a": {"required": ["b"], "properties": {"b": {"maximum": 5}}}}}
    yield "reference", {"$defs": {"point": obj(x=I, y=I)}, **obj(start={"$ref": "#/$defs/point"}, end={"$ref": "#/$defs/point"})}
    yield "tree", {"$defs": {"node": {"type": "object", "properties": {"v": I, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/leaf"}]}}, "required": ["v", "next"], "additionalProperties": False},
                             "leaf": obj(v=I, leaf={"const": True})}, "$ref": "#/$defs/node"}
    yield "list by recursion", {"$defs": {"l": {"type": "array", "prefixItems": [{"enum": [0, 1]}, {"$ref": "#/$defs/l"}], "items": False, "maxItems": 1}}, "$ref": "#/$defs/l"}
    yield "anchor", {"$defs": {"c": {"$anchor": "color", "enum": ["red", "blue"]}}, **obj(front={"$ref": "#color"}, back={"$ref": "#color"})}
    yield "boolean schemas", {"type": "object", "properties": {"yes": {"type": "boolean"}, "never": False}, "required": ["yes"], "additionalProperties": False}
    yield "tool call", obj(name={"const": "get_weather"}, arguments=obj(location=S, unit={"enum": ["celsius", "fahrenheit"]}, days={"type": "integer", "minimum": 1, "maximum": 7}))
    yield "tools", {"anyOf": [obj(name={"const": f"tool_{k}"}, arguments=obj(**{f"arg_{k}": t})) for k, t in (("a", S), ("b", I), ("c", arr(S, 0, 2)))]}
    yield "quotes and escapes", obj(s={"type": "string", "pattern": "^[\"\\\\\\n\\t]{1,6}$"}, k={"const": "a \"quoted\" \\ word\n"})
    yield "odd names", {"type": "object", "properties": {"a b": I, "é": I, "\"q\"": I, "": I}, "required": ["a b", "é", "\"q\"", ""], "additionalProperties": False}
    yield "draft 7", {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"t": {"enum": ["x", "y"]}}, "type": "object",
                      "properties": {"pair": {"type": "array", "items": [{"$ref": "#/definitions/t"}, I], "additionalItems": False, "minItems": 2}}, "required": ["pair"], "additionalProperties": False}


class Driver:
    def __init__(self, driver, model, jump, n_seq):
        self.p = subprocess.Popen([driver, model, str(jump), str(n_seq)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, **request):
        self.p.stdin.write(json.dumps(request) + "\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        assert line, f"the driver died ({self.p.wait(10)}) on {request}"
        return json.loads(line)

    def close(self):
        self.p.stdin.close()
        self.p.wait(60)


def prompt(name, schema):
    return f"An example of \"{name}\" as a JSON document that fits the schema {json.dumps(schema)[:300]}:\n"


def judge(schema):
    cls = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    return cls(decimals(json.dumps(schema)), format_checker=cls.FORMAT_CHECKER)  # jsonschema[format-nongpl] judges more formats


def decimals(text):
    """Exact numbers: in floats 1103.32 is no multiple of 0.01."""
    return json.loads(text, parse_float=decimal.Decimal)


def generate(a):
    """Answers, those cut at the limit, and the invalid ones."""
    drv, total, cut, bad, forced, tokens, t0 = Driver(a.driver, a.model, 0, a.parallel), 0, 0, [], 0, 0, time.time()
    all_schemas = list(schemas())[:a.schemas]
    each = -(-a.answers // len(all_schemas))
    for k, (name, schema) in enumerate(all_schemas):
        r = drv(schema=json.dumps(schema), prompt=prompt(name, schema), n=each, temperature=a.temperature, seed=a.seed + 1000 * k, max_tokens=a.max_tokens)
        assert r["ok"], (name, r)
        forced, tokens = forced + r["forced"], tokens + r["generated"]
        for c in r["choices"]:
            total += 1
            if c["finish"] == 3:
                cut += 1
                continue
            try:
                ok = c["finish"] == 1 and judge(schema).is_valid(decimals(c["text"]))
            except ValueError:
                ok = False
            if not ok:
                bad.append((name, c))
    drv.close()
    print(f"{total} answers over {len(all_schemas)} schemas at temperature {a.temperature}: {total - cut - len(bad)} valid, {len(bad)} invalid, "
          f"{cut} cut at {a.max_tokens} tokens; {forced} of {tokens} tokens forced ({forced / max(tokens, 1):.1%}); {time.time() - t0:.0f} s")
    for x in bad[:10]:
        print("INVALID", x)
    return not bad


FIXED = [  # what tools and forms look like: much is fixed
    ("grammar", 'root ::= "Name: " [A-Z] [a-z]{2,9} "\\nDate of birth: " [0-9]{4} "-" [0-9]{2} "-" [0-9]{2} "\\nFavourite colour: " ("red" | "green" | "blue") "\\nThat is all that is known.\\n"'),
    ("regex", r"The temperature in (Paris|London|Berlin) is [0-9]{1,2} degrees Celsius, and the humidity is [0-9]{2} percent\."),
    ("regex", r'\{"name": "get_current_weather", "arguments": \{"location": "[A-Z][a-z]{2,10}", "unit": "(celsius|fahrenheit)"\}\}'),
]


def compare(a):
    """Greedy answers with jump-ahead and with the model's own spelling: equal texts, equal tokens, tokens and steps."""
    jobs = [("schema", json.dumps(s), prompt(n, s)) for n, s in schemas()] + [(k, t, "Here is the answer.\n") for k, t in FIXED]
    on, off = Driver(a.driver, a.model, 0, 1), Driver(a.driver, a.model, 2, 1)
    rows = {"schemas": [0] * 5, "fixed texts": [0] * 5}
    for i, (kind, text, p) in enumerate(jobs):
        req = {kind: text, "prompt": p, "max_tokens": 300}
        x, y = on(**req), off(**req)
        cx, cy = x["choices"][0], y["choices"][0]
        r = rows["schemas" if kind == "schema" else "fixed texts"]
        r[0] += 1
        r[1] += cx["text"] == cy["text"]
        r[2] += cx["ids"] == cy["ids"]
        r[3] += len(cx["ids"])
        r[4] += x["forced"]
        if cx["ids"] != cy["ids"]:
            k = next((k for k, (s, t) in enumerate(zip(cx["ids"], cy["ids"])) if s != t), min(len(cx["ids"]), len(cy["ids"])))
            print(f"job {i}: first differs at token {k}: {cx['ids'][k:k + 4]} / {cy['ids'][k:k + 4]}; {cx['text'][:70]!r} / {cy['text'][:70]!r}")
    on.close()
    off.close()
    for name, (n, same_text, same_ids, tokens, forced) in rows.items():
        print(f"{name}: {n} greedy answers, {same_text} with the same text and {same_ids} with the same tokens as the model's own spelling; "
              f"{forced} of {tokens} tokens took no step of their own ({forced / tokens:.1%})")
    return True


def overhead(a):
    """Milliseconds a token of greedy answers of 160 tokens, one sequence, jump-ahead off: both sides run the same prompt and 159
    steps of one token each. 11 rounds; who comes first changes from round to round. Each request compiles its constraint anew, so
    the masks that its states need are made within the time measured."""
    drv = Driver(a.driver, a.model, 2, 1)
    record = obj(id=I, name={"type": "string"}, tags=arr({"type": "string"}, 0, 9), when={"type": "string", "format": "date"},
                 kind={"enum": ["alpha", "beta", "gamma"]}, score={"type": "number"})
    jobs = {"free": {}, "schema": {"schema": json.dumps(arr(record, 60, 99))},
            "string": {"schema": json.dumps({"type": "string", "minLength": 3000})},
            "pattern": {"schema": json.dumps(arr({"type": "string", "pattern": "^[a-z]+(-[a-z]+)*$"}, 900, 999))},
            "grammar": {"grammar": 'root ::= line{400}\nline ::= word (" " word)* "\\n"\nword ::= [a-zA-Z]+ [,.]?\n'}}
    names, rounds = list(jobs), 11
    ms = {k: [] for k in jobs}
    for k, extra in jobs.items():  # warm
        drv(prompt="A list of records:\n", max_tokens=8, ignore_eos=True, **extra)
    for n in range(rounds):
        for k in names[n % len(names):] + names[:n % len(names)]:
            r = drv(prompt="A list of records:\n", max_tokens=160, ignore_eos=True, **jobs[k])
            assert r["ok"] and r["generated"] == 160 and r["forced"] == 0, (k, r["error"], r["generated"], r["forced"])
            ms[k].append(r["decode_ns"] / 1e6 / 159)
    drv.close()
    free = ms["free"]
    for k, v in ms.items():
        pairs = sorted(x / f - 1 for x, f in zip(v, free))
        print(f"{k:8} median {sorted(v)[rounds // 2]:.3f} ms a token ({min(v):.3f} to {max(v):.3f}), "
              f"{sorted(v)[rounds // 2] / sorted(free)[rounds // 2] - 1:+.2%}; fastest {min(v) / min(free) - 1:+.2%}; "
              f"median of the rounds' ratios {pairs[rounds // 2]:+.2%}")
    return True


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("driver")
    p.add_argument("--answers", type=int, default=1000)
    p.add_argument("--schemas", type=int, default=50)
    p.add_argument("--parallel", type=int, default=20)
    p.add_argument("--temperature", type=float, default=1.5)
    p.add_argument("--max-tokens", type=int, default=700)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--compare", action="store_true")
    p.add_argument("--overhead", action="store_true")
    a = p.parse_args()
    return 0 if (compare if a.compare else overhead if a.overhead else generate)(a) else 1


if __name__ == "__main__":
    sys.exit(main())

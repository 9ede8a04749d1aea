"""imp template: conversations through chat templates, byte for byte what transformers renders.

The shared goldens (real templates) lie beside the checkout in ../shared/conformance/chat_templates; without them the
small templates below remain."""
import json

import pytest

from conftest import FIXTURES, ROOT

GOLDEN = ROOT.parent / "shared" / "conformance" / "chat_templates"


def request(conversation, golden, add_generation_prompt):
    r = {"messages": conversation["messages"], "add_generation_prompt": add_generation_prompt, "bos_token": golden["bos_token"],
         "eos_token": golden["eos_token"], "strftime_now": golden["strftime_now"], **conversation.get("kwargs", {})}
    if conversation.get("tools") is not None:
        r["tools"] = conversation["tools"]
    return json.dumps(r).encode()


def golden_cases():
    path = GOLDEN / "golden.json"
    if not path.exists():
        return []
    golden = json.loads(path.read_text(encoding="utf-8"))
    names = sorted({c["template"].split("/")[-1] for c in golden["golden"]})
    return [(golden, n) for n in names if (GOLDEN / n).exists()]


@pytest.mark.parametrize("golden,name", [pytest.param(g, n, id=n) for g, n in golden_cases()] or
                         [pytest.param(None, None, marks=pytest.mark.skip(reason="no shared goldens beside the checkout"))])
def test_golden(imp, golden, name):
    for case in golden["golden"]:
        if case["template"].split("/")[-1] != name or "error" in case:
            continue
        body = request(golden["conversations"][case["conversation"]], golden, case["add_generation_prompt"])
        r = imp("template", "--template", GOLDEN / name, stdin=body)
        if "raises" in case:
            assert r.returncode == 1 and case["raises"] in r.stderr.decode(), (case["conversation"], r.stderr)
        else:
            assert (r.returncode, r.stdout.decode()) == (0, case["output"]), (case["conversation"], r.stderr)


TEMPLATE = """{{ bos_token }}{% for m in messages %}
<|{{ m.role }}|>{{ m.content | trim }}<|end|>
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}"""


def render(imp, tmp_path, template, body, **kw):
    path = tmp_path / "t.jinja"
    path.write_text(template, encoding="utf-8")
    return imp("template", "--template", path, stdin=json.dumps(body).encode(), **kw)


def test_small(imp, tmp_path):
    body = {"messages": [{"role": "user", "content": " naïve 🙂\n"}], "bos_token": "<s>"}
    r = render(imp, tmp_path, TEMPLATE, body)
    assert (r.returncode, r.stdout.decode()) == (0, "<s><|user|>naïve 🙂<|end|>\n<|assistant|>")
    assert render(imp, tmp_path, TEMPLATE, {**body, "add_generation_prompt": False}).stdout.decode() == "<s><|user|>naïve 🙂<|end|>\n"


def test_variables(imp, tmp_path):
    t = "{{ a }} {{ b }} {{ tools is none }} {{ strftime_now('%d %B %Y') }}"
    body = {"messages": [{"role": "user", "content": ""}], "a": 1.0, "chat_template_kwargs": {"b": [None, True]}, "strftime_now": "2025-07-01"}
    assert render(imp, tmp_path, t, body).stdout == b"1.0 [None, True] True 01 July 2025"


def test_builtin(imp):
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
    assert imp.ok("template", "--chat-template", "chatml", stdin=body) == b"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_model(imp, tiny):
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
    assert b"Hi" in imp.ok("template", "-m", tiny, "--chat-template", "llama3", stdin=body)


@pytest.mark.parametrize("template,body,status,message", [
    ("{{ 1 + }}", {"messages": [{"role": "user", "content": ""}]}, 1, "line 1, column 8"),
    ("{{ raise_exception('no ' + messages[0].role) }}", {"messages": [{"role": "user", "content": ""}]}, 1, "no user"),
    ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", {"messages": [{"role": "user", "content": ""}]}, 1, "more than"),
    ("{% for a in range(9999) %}{% for b in 'x' * 9999 %}{% endfor %}{% endfor %}", {"messages": [{"role": "user", "content": ""}]}, 1, "chat template"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", {"messages": [{"role": "user", "content": ""}]}, 1, "levels deep"),
    ("{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", {"messages": [{"role": "user", "content": ""}]}, 1, "chat template"),
    ("{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}", {"messages": [{"role": "user", "content": ""}]}, 1, "chat template"),
    ("{% set ns = namespace(s='x' * 1000) %}{% for i in range(9) %}{% set ns.s = ns.s | replace('x', ns.s) %}{% endfor %}", {"messages": [{"role": "user", "content": ""}]}, 1, "chat template"),
    ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", {"messages": [{"role": "user", "content": ""}]}, 1, "chat template"),
    ("{{ '(' * 9999 }}{{ messages | tojson(indent=999999999) }}", {"messages": [{"role": "user", "content": ""}]}, 1, "chat template"),
    ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", {"messages": [{"role": "user", "content": ""}]}, 1, "chat template"),
    ("{% if 1 %}" * 5000 + "{% endif %}" * 5000, {"messages": [{"role": "user", "content": ""}]}, 1, "chat template"),
    ("{{ 9 ** 99999999 }}", {"messages": [{"role": "user", "content": ""}]}, 1, "chat template"),
    ("{{ '%999999999d' % 1 }}{{ '{:999999999}'.format(1) }}", {"messages": [{"role": "user", "content": ""}]}, 1, "chat template"),
    ("{{ 'x' * 999999999999 }}", {"messages": [{"role": "user", "content": ""}]}, 1, "template"),
    ("{{ 1 }}", {"messages": []}, 1, "messages"), ("{{ 1 }}", {}, 1, "messages"), ("{{ 1 }}", [], 1, "object"),
])
def test_failures(imp, tmp_path, template, body, status, message):
    r = render(imp, tmp_path, template, body, timeout=60)
    assert r.returncode == status and message in r.stderr.decode(), r.stderr
    assert r.stdout == b"" and r.stderr.startswith(b"imp: ")


def test_no_template(imp):
    r = imp("template", stdin=b"{}")
    assert r.returncode == 2 and b"--template" in r.stderr


LISTED = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain {{ messages[0].content }}"}]


@pytest.mark.parametrize("files,want", [
    ({"tokenizer_config.json": {"chat_template": "one {{ messages[0].content }}"}}, b"one hi"),
    ({"tokenizer_config.json": {"chat_template": LISTED}}, b"plain hi"),
    ({"chat_template.json": {"chat_template": "older {{ messages[0].content }}"}}, b"older hi"),
    ({"tokenizer_config.json": {"chat_template": "one"}, "chat_template.json": {"chat_template": "older"}}, b"one"),
    ({"tokenizer_config.json": {"chat_template": LISTED}, "chat_template.jinja": "newest"}, b"newest"),
    ({"tokenizer_config.json": {"chat_template": LISTED[:1]}}, None)])
def test_where_folders_keep_their_template(imp, tmp_path, files, want):
    """As transformers looks for it: chat_template.jinja, then tokenizer_config.json (one or a list, of which `default` counts), and what
    processors once wrote beside it."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(FIXTURES / "hf" / "phi3" / name)
    (tmp_path / "tokenizer.json").symlink_to(FIXTURES / "tok" / "json-gemma" / "tokenizer.json")
    for name, text in files.items():
        (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
    r = imp("template", "-m", tmp_path, stdin=json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode())
    assert (r.returncode, r.stdout) == (0, want) if want else r.returncode == 1, (r.returncode, r.stdout, r.stderr)

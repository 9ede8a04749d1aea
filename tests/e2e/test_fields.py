"""Every request field, flipped. One table a protocol says for each row of the server's tables what value to send and what to send
beside it; everything that comes back (status, type, body without ids and times, over three seeds) must then differ from the answer
without the field. A field that changes nothing must be ignored by a documented row or refused by name. The tables here and the
server's own are compared, so a new field cannot come without its row."""
import json
import re

import pytest

from conftest import FIXTURES, ROOT
from test_server import CHAT, COMPLETIONS, MESSAGES, Server

USER = [{"role": "user", "content": "Hello"}]
BASE = {COMPLETIONS: {"prompt": "The"}, CHAT: {"messages": USER}, MESSAGES: {"messages": USER}}
DEFAULTS = {"temperature": 1.5, "top_p": 1, "max_tokens": 16, "ignore_eos": True}
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
TEMPLATE = """{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if not loop.last or not continue_final_message %}#{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}{{ mood }}{{ reasoning_effort }}{{ enable_thinking }}"""
TALK = [*USER, {"role": "assistant", "content": "Well"}]

TOOL = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}}}]
TOOL_ANTHROPIC = [{"name": "f", "input_schema": TOOL[0]["function"]["parameters"]}]
CALL = re.escape('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>')

SAMPLING = {
    "temperature": (0.3, {}), "top_p": (0.3, {}), "top_k": (2, {}), "min_p": (0.5, {}), "typical_p": (0.2, {}), "seed": (99, {}),
    "repetition_penalty": (5, {}), "repeat_penalty": (5, {}), "frequency_penalty": (2, {}), "presence_penalty": (2, {}),
    "repeat_last_n": (0, {"repetition_penalty": 5}), "mirostat": (2, {}), "mirostat_tau": (0.1, {"mirostat": 2}),
    "mirostat_eta": (0, {"mirostat": 2, "mirostat_tau": 1, "max_tokens": 48}), "logit_bias": ({str(i): 50 for i in range(70, 75)}, {}),
    "dry_multiplier": (5, {"dry_allowed_length": 1, "temperature": 0, "max_tokens": 64}),
    "dry_base": (10, {"dry_multiplier": 0.5, "dry_allowed_length": 1, "temperature": 0, "max_tokens": 64}),
    "dry_allowed_length": (40, {"dry_multiplier": 20, "temperature": 0, "max_tokens": 64}),
    "dry_penalty_last_n": (0, {"dry_multiplier": 20, "dry_allowed_length": 1, "temperature": 0, "max_tokens": 64}),
    "ignore_eos": (False, {"logit_bias": {"2": 100}}), "stop_token_ids": (list(range(3, 1000)), {}), "skip_special_tokens": (False, {"logit_bias": {"2": 100}}),
    "stream": (True, {}), "model": ("no-such-model", {}), "max_tokens": (3, {}),
}
OPENAI = {
    "n": (3, {}), "stop": (["e", "a", "o", "t"], {}), "stream_options": ({"include_usage": True}, {"stream": True}), "response_format": ({"type": "json_object"}, {}),
    "guided_json": (SCHEMA, {}), "guided_regex": ("[0-9]{3}", {}), "guided_grammar": ('root ::= "yes" | "no"', {}), "guided_choice": (["left", "right"], {}),
    "grammar": ('root ::= "yes" | "no"', {}), "json_schema": (SCHEMA, {}), "structured_outputs": ({"regex": "[0-9]{3}"}, {}),
}
EFFECT = {
    COMPLETIONS: {**SAMPLING, **OPENAI, "prompt": ("A", {}), "logprobs": (2, {}), "echo": (True, {}), "best_of": (2, {}), "add_special_tokens": (False, {})},
    CHAT: {**SAMPLING, **OPENAI, "messages": (TALK, {}), "max_completion_tokens": (3, {}), "logprobs": (True, {}), "top_logprobs": (2, {"logprobs": True}),
           "chat_template_kwargs": ({"mood": "very happy"}, {}), "add_generation_prompt": (False, {}), "continue_final_message": (True, {"messages": TALK}),
           "reasoning_effort": ("high", {}), "modalities": (["audio"], {}), "tools": (TOOL, {}), "tool_choice": ("required", {"tools": TOOL}),
           "parallel_tool_calls": (False, {"tools": TOOL, "guided_regex": f"({CALL}){{2}}", "max_tokens": 400})},
    MESSAGES: {**SAMPLING, "messages": (TALK, {}), "system": ("Be kind.", {}), "stop_sequences": (["e", "a", "o", "t"], {}), "thinking": ({"type": "disabled"}, {}),
               "tools": (TOOL_ANTHROPIC, {}), "tool_choice": ({"type": "any"}, {"tools": TOOL_ANTHROPIC}),
               "output_format": ({"type": "json_schema", "schema": SCHEMA}, {})},
}
IGNORED_SAMPLING = {"cache_salt": "a", "priority": 3}
IGNORED_OPENAI = {**IGNORED_SAMPLING, "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "safety_identifier": "s", "prompt_cache_key": "k",
                  "prompt_cache_retention": "24h", "cache_prompt": True, "id_slot": 0, "request_id": "x"}
IGNORED = {
    COMPLETIONS: IGNORED_OPENAI, CHAT: {**IGNORED_OPENAI, "prediction": {"type": "content", "content": "x"}, "verbosity": "low"},
    MESSAGES: {**IGNORED_SAMPLING, "metadata": {"user_id": "u"}, "service_tier": "auto"},
}
REFUSED_OPENAI = {"min_tokens": 3, "prompt_logprobs": 1, "lora": [{"id": 0}], "no_such_field": 1}
REFUSED = {
    COMPLETIONS: {**REFUSED_OPENAI, "suffix": "x"},
    CHAT: {**REFUSED_OPENAI, "functions": TOOL, "function_call": "auto", "audio": {"voice": "x"}, "web_search_options": {"a": 1}, "chat_template": "{{ 1 }}"},
    MESSAGES: {"mcp_servers": [{"url": "x"}]},
}
SOURCES = {COMPLETIONS: ("fields.c", "openai.c", "openai_text.c"), CHAT: ("fields.c", "openai.c", "openai_chat.c"), MESSAGES: ("fields.c", "anthropic.c")}


def rows(table):
    return [pytest.param(path, field, id=f"{path.rsplit('/', 1)[1] if path != CHAT else 'chat'}-{field}") for path in table for field in table[path]]


@pytest.fixture(scope="module")
def server(imp, tmp_path_factory):
    t = tmp_path_factory.mktemp("template") / "t.jinja"
    t.write_text(TEMPLATE)
    s = Server(imp, FIXTURES / "models" / "llama-gqa4.gguf", "--chat-template", t, "-np", "4", "-c", "4096")
    yield s
    assert s.stop() == 0


def scrub(text):
    """An answer without what differs from call to call: ids, times, what the prefix cache had, signs of life on a busy machine."""
    text = text.replace(":\n\n", "") if text.startswith(":") else text
    text = re.sub(r'\n\n:\n\n', "\n\n", text).replace('event: ping\ndata: {"type": "ping"}\n\n', "")
    text = re.sub(r'"(id|request_id|created)":("[^"]*"|\d+)', r'"\1":0', text)
    text = re.sub(r'"cached_tokens":\d+', '"cached_tokens":0', text)
    text = re.sub(r'"input_tokens":(\d+),"cache_creation_input_tokens":0,"cache_read_input_tokens":(\d+)', lambda m: f'"input_tokens":{int(m[1]) + int(m[2])}', text)
    return re.sub(r'"timings":\{[^}]*\}', '"timings":{}', text)


KNOWN = {}


def answers(server, path, body):
    """Three seeds' answers; what was asked before is not asked again."""
    key = json.dumps([path, body])
    if key not in KNOWN:
        got = []
        for seed in range(3):
            full = {**DEFAULTS, "seed": seed, **BASE[path], **body}
            code, headers, out = server.call("POST", path, full)
            got.append((code, headers["Content-Type"], scrub(out.decode())))
        KNOWN[key] = got
    return KNOWN[key]


@pytest.mark.parametrize("path", BASE)
def test_an_answer_repeats(server, path):
    first = answers(server, path, {})
    KNOWN.clear()
    assert answers(server, path, {}) == first and first[0][0] == 200 and first[0] != first[1]


@pytest.mark.parametrize("path,field", rows(EFFECT))
def test_field_has_an_effect(server, path, field):
    value, beside = EFFECT[path][field]
    base = answers(server, path, beside)
    assert all(code == 200 for code, _, _ in base), base[0]
    assert answers(server, path, {**beside, field: value}) != base
    if field not in {**DEFAULTS, **BASE[path], **beside, "seed": 0}:
        assert answers(server, path, {**beside, field: None}) == base, "null is the same as absent"


@pytest.mark.parametrize("path,field", rows(IGNORED))
def test_ignored_field_is_documented(server, path, field):
    assert answers(server, path, {field: IGNORED[path][field]}) == answers(server, path, {})
    ignored = (ROOT / "docs" / "server.md").read_text().split("Accepted and ignored")[1].split("\n\n")[0]
    assert f"`{field}`" in ignored


@pytest.mark.parametrize("path,field", rows(REFUSED))
def test_refused_field_is_named(server, path, field):
    for code, _, out in answers(server, path, {field: REFUSED[path][field]}):
        assert code == 400 and field in json.loads(out)["error"]["message"]
        assert path == MESSAGES or json.loads(out)["error"]["param"] == field


@pytest.mark.parametrize("path", SOURCES)
def test_no_row_of_the_server_is_missing_here(path):
    src = ROOT / "src" / "server"
    own = {name for f in SOURCES[path] for name in re.findall(r'\{\.name = "(\w+)"', (src / f).read_text())}
    here = {*EFFECT[path], *IGNORED[path], *REFUSED[path]} - {"no_such_field"}
    assert here == own, f"only here: {here - own}; only in the server: {own - here}"


WRONG = ["x", -1e9, 1e9, [], {}, True, "9" * 400, [[]], 1e308, [{"type": "x"}], {"type": 5}]


@pytest.mark.parametrize("path", BASE)
def test_wrong_values_never_crash_and_never_give_500(server, path):
    for field in sorted({*EFFECT[path], *IGNORED[path], *REFUSED[path]}):
        for value in WRONG:
            code, _, out = server.call("POST", path, {**BASE[path], "max_tokens": 1, field: value})
            assert code in (200, 400, 404), (field, value, code, out[:300])
            assert code == 200 or json.loads(out)["error"]["message"]
    assert server.call("GET", "/health")[0] == 200


SMALL = [("/tokenize", {"content": "<s>a"}, {"content": "b", "add_special": True, "parse_special": False, "with_pieces": True}),
         ("/tokenize", {"prompt": "<s>a"}, {"prompt": "b", "add_special_tokens": False, "parse_special": False, "with_pieces": True, "content": "x"}),
         ("/tokenize", {"messages": USER}, {"messages": TALK, "with_pieces": True, "mood": "very happy", "add_generation_prompt": False}),
         ("/detokenize", {"tokens": [100, 101]}, {"tokens": [102]}),
         ("/apply-template", {"messages": USER}, {"messages": TALK, "mood": "very happy", "add_generation_prompt": False})]


@pytest.mark.parametrize("path,base,fields", SMALL, ids=lambda x: x if isinstance(x, str) else next(iter(x)))
def test_fields_of_the_small_endpoints(server, path, base, fields):
    plain = server.post(path, base)
    for field, value in fields.items():
        assert server.post(path, {**base, field: value}) != plain, field
    if "messages" not in base:
        assert "no_such_field" in server.post(path, {**base, "no_such_field": 1}, 400)["error"]["message"]

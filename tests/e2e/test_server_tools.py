"""Tools and reasoning through both protocols. The fixture model's own texts mean nothing, so what it says is dictated by constraints:
the raw text of an answer is fixed by guided_regex, and what the server makes of it is known."""
import json
import re

import pytest

from conftest import FIXTURES
from test_server import CHAT, MESSAGES, USER, Server, serving

ARGS = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["city", "days"],
        "additionalProperties": False}
REF = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["a"], "additionalProperties": False, "$defs": {"n": {"enum": [1, 2]}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Weather", "parameters": ARGS}},
         {"type": "function", "function": {"name": "with-ref", "parameters": REF}}, {"type": "function", "function": {"name": "bare.1"}}]
ANTHROPIC = [{"name": t["function"]["name"], "input_schema": t["function"].get("parameters", {"type": "object"})} for t in TOOLS]
C = {"messages": USER, "max_tokens": 400, "temperature": 1.2, "top_p": 1}


@pytest.fixture(scope="module")
def tiny():
    return FIXTURES / "models" / "llama-gqa4.gguf"


@pytest.fixture(scope="module")
def server(imp, tiny):
    s = Server(imp, tiny, "--chat-template", "chatml", "-np", "4", "-c", "4096")
    yield s
    assert s.stop() == 0


def said(text):
    """Makes the model say exactly this."""
    return {"guided_regex": re.escape(text)}


def chat(server, **kw):
    c = server.post(CHAT, {**C, **kw})["choices"][0]
    return c["message"], c["finish_reason"]


def streamed(server, **kw):
    """The message that a stream's deltas add up to, and its finish reason."""
    m, calls, finish = {"content": "", "reasoning_content": ""}, [], None
    for e in server.events(CHAT, {**C, **kw})[:-1]:
        for c in json.loads(e["data"])["choices"]:
            finish = c["finish_reason"] or finish
            for key in m:
                m[key] += c["delta"].get(key) or ""
            for d in c["delta"].get("tool_calls", []):
                if d["index"] == len(calls):
                    assert d["id"] and d["type"] == "function" and d["function"]["name"]
                    calls.append([d["function"]["name"], ""])
                calls[d["index"]][1] += d["function"]["arguments"]
    return m, calls, finish


def valid(name, args):
    if name == "weather":
        return set(args) == {"city", "days"} and args["city"] in ("Rome", "Oslo") and 1 <= args["days"] <= 9
    return args.get("a") in (1, 2) if name == "with-ref" else isinstance(args, dict)


# ---- calls that must come ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("choice", ["required", "weather", "with-ref"])
def test_forced_calls_fit_their_schema(server, choice, seed):
    how = choice if choice == "required" else {"type": "function", "function": {"name": choice}}
    body = {"tools": TOOLS[:2], "tool_choice": how, "seed": seed}
    m, finish = chat(server, **body)
    assert len(m["tool_calls"]) == 1 and m["content"] is None
    call = m["tool_calls"][0]
    assert call["type"] == "function" and call["id"] and choice in ("required", call["function"]["name"])
    if finish == "tool_calls":
        assert valid(call["function"]["name"], json.loads(call["function"]["arguments"]))
    else:
        assert finish == "length"
    _, calls, end = streamed(server, **body)
    assert calls == [[call["function"]["name"], call["function"]["arguments"]]] and end == finish


def test_ids_differ(server):
    body = {"tools": TOOLS[:1], "tool_choice": "required", "n": 3}
    r = server.post(CHAT, {**C, **body})
    ids = [c["message"]["tool_calls"][0]["id"] for c in r["choices"]]
    assert len({*ids, chat(server, **body)[0]["tool_calls"][0]["id"]}) == 4


@pytest.mark.parametrize("template", ["chatml", "llama3", "mistral-v7", "granite", "gemma", "deepseek", "phi4"])
def test_forced_calls_in_any_template(imp, tiny, template):
    with serving(imp, tiny, "--chat-template", template, "-c", "4096") as s:
        for seed in range(2):
            for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
                m, finish = chat(s, tools=TOOLS[:2], tool_choice=choice, seed=seed)
                call = m["tool_calls"][0]["function"]
                assert finish == "length" or valid(call["name"], json.loads(call["arguments"])), (m, finish)


def test_forced_calls_anthropic(server):
    body = {"messages": USER, "max_tokens": 400, "temperature": 1.2, "tools": ANTHROPIC}
    for seed in range(3):
        for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
            r = server.post(MESSAGES, {**body, "tool_choice": choice, "seed": seed})
            (block,) = r["content"]
            assert block["type"] == "tool_use" and block["id"].startswith("toolu_") and r["stop_reason"] in ("tool_use", "max_tokens")
            assert r["stop_reason"] == "max_tokens" or valid(block["name"], block["input"])
            ev = [json.loads(e["data"]) for e in server.events(MESSAGES, {**body, "tool_choice": choice, "seed": seed})]
            assert [e["type"] for e in ev][:2] == ["message_start", "content_block_start"] and ev[1]["content_block"]["name"] == block["name"]
            text = "".join(e["delta"]["partial_json"] for e in ev if e["type"] == "content_block_delta")
            assert ev[-2]["delta"]["stop_reason"] == r["stop_reason"]
            assert r["stop_reason"] == "max_tokens" or json.loads(text or "{}") == block["input"]


def test_a_call_cut_by_the_limit(server):
    body = {"tools": TOOLS[:1], "tool_choice": "required", "max_tokens": 4}
    m, finish = chat(server, **body)
    assert finish == "length" and m["tool_calls"][0]["function"]["name"] == "weather"
    r = server.post(MESSAGES, {"messages": USER, "max_tokens": 4, "tools": ANTHROPIC[:1], "tool_choice": {"type": "any"}})
    assert r["stop_reason"] == "max_tokens" and r["content"][0]["input"] == {}


# ---- calls that the model makes ---------------------------------------------------------------------------------------------
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "with-ref", "arguments": {"a": 1}}\n</tool_call>'


def names(calls):
    return [c["function"]["name"] for c in calls]


def test_calls_are_found_in_the_text(server):
    m, finish = chat(server, tools=TOOLS, **said("I will look.\n" + CALL + "\n" + OTHER))
    assert m["content"] == "I will look." and names(m["tool_calls"]) == ["weather", "with-ref"] and finish == "tool_calls"
    assert json.loads(m["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome", "days": 2}
    s, calls, end = streamed(server, tools=TOOLS, **said("I will look.\n" + CALL + "\n" + OTHER))
    assert s["content"] == "I will look." and [c[0] for c in calls] == ["weather", "with-ref"] and end == "tool_calls"
    assert [c[1] for c in calls] == [c["function"]["arguments"] for c in m["tool_calls"]]


def test_only_one_call_when_parallel_ones_are_not_wanted(server):
    for body in ({"parallel_tool_calls": False}, {}):
        m, _ = chat(server, tools=TOOLS, **body, **said(CALL + "\n" + OTHER + "\n" + CALL))
        assert len(m["tool_calls"]) == (1 if body else 3)


def test_without_tools_a_call_is_text(server):
    for body in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        m, finish = chat(server, **body, **said(CALL))
        assert m["content"] == CALL and "tool_calls" not in m and finish == "stop"


def test_what_looks_like_a_call_and_is_none_is_text(server):
    for text in ("<tool_call>\nnonsense\n</tool_call>", "<tool_call>[1, 2]</tool_call>", "a < b and <tool"):
        m, finish = chat(server, tools=TOOLS, **said(text))
        assert m["content"] == text and "tool_calls" not in m and finish == "stop"


def test_logprobs_of_every_token_beside_calls(server):
    body = {"tools": TOOLS, "logprobs": True, "seed": 1, **said("Yes.\n" + CALL)}
    r = server.post(CHAT, {**C, **body})
    n = len(r["choices"][0]["logprobs"]["content"])
    assert r["usage"]["completion_tokens"] - 1 <= n <= r["usage"]["completion_tokens"]
    got = [t for e in server.events(CHAT, {**C, **body})[:-1] for c in json.loads(e["data"])["choices"] for t in (c["logprobs"] or {}).get("content", [])]
    assert got == r["choices"][0]["logprobs"]["content"]


def test_tools_and_results_reach_the_prompt(server):
    n = lambda **kw: server.post(CHAT, {**C, "max_tokens": 1, **kw})["usage"]["prompt_tokens"]
    fat = json.loads(json.dumps(TOOLS))
    fat[0]["function"]["description"] += " and many more words" * 10
    assert n() < n(tools=TOOLS) < n(tools=fat) and n(tools=TOOLS, tool_choice="none") == n()
    talk = [*USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "sun"}]
    longer = json.loads(json.dumps(talk))
    longer[-1]["content"] += " and more sun" * 10
    assert n(tools=TOOLS) < n(tools=TOOLS, messages=talk) < n(tools=TOOLS, messages=longer)
    count = lambda **kw: server.post(MESSAGES + "/count_tokens", {"messages": USER, **kw})["input_tokens"]
    assert count(tools=ANTHROPIC) > count()


# ---- reasoning ---------------------------------------------------------------------------------------------------------------
THINKS = """{% for m in messages %}<|{{ m.role }}|>{{ m.reasoning_content }}{{ m.content }}{% endfor %}<|assistant|>{# <think> </think> #}{{ open }}{% if enable_thinking %}<think>
{% endif %}"""


@pytest.fixture(scope="module")
def thinker(imp, tiny, tmp_path_factory):
    t = tmp_path_factory.mktemp("t") / "t.jinja"
    t.write_text(THINKS)
    s = Server(imp, tiny, "--chat-template", t, "-np", "4", "-c", "4096")
    yield s
    assert s.stop() == 0


def test_reasoning_is_apart(thinker):
    body = said("<think>Hm, why not?</think>\n\nYes.")
    r = thinker.post(CHAT, {**C, **body})
    m = r["choices"][0]["message"]
    assert (m["reasoning_content"], m["content"]) == ("Hm, why not?", "Yes.") and r["choices"][0]["finish_reason"] == "stop"
    assert 0 < r["usage"]["completion_tokens_details"]["reasoning_tokens"] < r["usage"]["completion_tokens"]
    assert streamed(thinker, **body)[0] == {"content": "Yes.", "reasoning_content": "Hm, why not?"}


def test_a_constrained_answer_is_not_reasoning(thinker):
    """Where the prompt opens the reasoning, a constraint would hold the reasoning: it is closed first."""
    for opened in ({}, {"open": "<think>\n"}):
        m, finish = chat(thinker, chat_template_kwargs=opened, response_format={"type": "json_schema", "json_schema": {"schema": {"const": "x"}}})
        assert (m["content"], finish, "reasoning_content" in m) == ('"x"', "stop", False)
        m, finish = chat(thinker, chat_template_kwargs=opened, tools=TOOLS[:1], tool_choice="required")
        assert m["tool_calls"][0]["function"]["name"] == "weather" and "reasoning_content" not in m


def test_reasoning_anthropic(thinker):
    body = {"messages": USER, "max_tokens": 300, "output_format": {"type": "json_schema", "schema": {"const": "x"}}}
    assert thinker.post(MESSAGES, body)["content"] == [{"type": "text", "text": '"x"'}]
    body = {"messages": USER, "max_tokens": 12, "temperature": 0, "ignore_eos": True, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    (block,) = thinker.post(MESSAGES, body)["content"]
    assert block["type"] == "thinking" and block["thinking"] and block["signature"] == ""
    ev = [json.loads(e["data"]) for e in thinker.events(MESSAGES, body)]
    assert ev[1]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert "".join(e["delta"].get("thinking", "") for e in ev if e["type"] == "content_block_delta") == block["thinking"]
    assert [e["type"] for e in ev][-3:] == ["content_block_stop", "message_delta", "message_stop"] and ev[-4]["delta"]["type"] == "signature_delta"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "thinking", "thinking": "long " * 20, "signature": ""}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "c"}]
    n = lambda m: thinker.post(MESSAGES + "/count_tokens", {"messages": m})["input_tokens"]
    assert n(talk) > n([talk[0], {"role": "assistant", "content": "b"}, talk[2]]) + 20


# ---- mistakes -----------------------------------------------------------------------------------------------------------------
BAD = [{"tools": "x"}, {"tools": [{}]}, {"tools": [{"type": "function"}]}, {"tools": [{"type": "function", "function": {}}]},
       {"tools": [{"type": "function", "function": {"name": "a b"}}]}, {"tools": [{"type": "function", "function": {"name": "x" * 129}}]},
       {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, {"tools": [{"type": "web_search"}]}, {"tool_choice": "required"},
       {"tools": TOOLS, "tool_choice": "sometimes"}, {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nope"}}},
       {"tools": TOOLS, "tool_choice": "required", "guided_regex": "a"}, {"tools": TOOLS, "parallel_tool_calls": 1},
       {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}], "tool_choice": "required"}]


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
def test_mistakes_are_400s(server, body):
    e = server.post(CHAT, {**C, **body}, 400)["error"]
    assert e["message"] and e["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [{"tools": [{"type": "bash_20250124", "name": "bash"}]}, {"tools": [{"name": "f"}]}, {"tools": [{"input_schema": {}}]},
                                  {"tools": ANTHROPIC, "tool_choice": {"type": "tool"}}, {"tool_choice": {"type": "any"}}, {"tools": ANTHROPIC, "tool_choice": "any"}], ids=range(6))
def test_mistakes_are_400s_anthropic(server, body):
    assert server.post(MESSAGES, {"messages": USER, "max_tokens": 5, **body}, 400)["error"]["type"] == "invalid_request_error"


def test_a_schema_that_cannot_be_held_is_told_by_tool_and_place(server):
    bad = {"type": "function", "function": {"name": "bad", "parameters": {"type": "object", "properties": {"p": {"type": "string", "pattern": "(?=x)y"}}}}}
    for tools, choice in (([TOOLS[0], bad], "required"), ([bad], "required"), ([TOOLS[0], bad], {"type": "function", "function": {"name": "bad"}})):
        e = server.post(CHAT, {**C, "tools": tools, "tool_choice": choice}, 400)["error"]["message"]
        assert e.startswith("tool 'bad': #/properties/p/pattern: "), e
    assert chat(server, tools=[TOOLS[0], bad], tool_choice="none")[1] in ("stop", "length")

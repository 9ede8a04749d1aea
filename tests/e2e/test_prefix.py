"""The prefix cache through the server: what usage and metrics say of it, and that answers are the same bytes hot, cold and without it."""
import json

import pytest

from conftest import FIXTURES
from test_server import CHAT, COMPLETIONS, MESSAGES, Server, serving, wait_for

BLOCK = 8
MODELS = {"llama": FIXTURES / "models" / "llama-gqa4.gguf", "window": FIXTURES / "models" / "gemma3-window.gguf"}
TALK = [{"role": "user", "content": "Tell me of the harbour and of the ships that lie there in winter. " * 2}]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.fixture
def server(imp, model):
    with serving(imp, model, "--chat-template", "chatml", "-np", "3", "--block-size", BLOCK, "-c", "512") as s:
        yield s
        assert s.stop() == 0


@pytest.fixture(scope="module")
def without(imp, model):
    with serving(imp, model, "--chat-template", "chatml", "-np", "3", "-c", "512", "--no-prefix-cache") as s:
        yield s


def full_blocks(n):
    """Tokens that a prompt of n tokens can find: whole blocks, and its last token is always computed."""
    return (n - 1) // BLOCK * BLOCK


def cached(usage):
    return usage["prompt_tokens_details"]["cached_tokens"]


def test_usage_and_bytes(server, without):
    for path, body in ((COMPLETIONS, {"prompt": "It was a dark and stormy night, and the rain fell in torrents."}), (CHAT, {"messages": TALK})):
        body = {**body, "max_tokens": 20, "temperature": 0.9, "seed": 7, "ignore_eos": True, "logprobs": 1 if path == COMPLETIONS else True, "n": 2}
        ref, cold, hot = (s.post(path, body) for s in (without, server, server))
        n = ref["usage"]["prompt_tokens"]
        assert full_blocks(n) >= 2 * BLOCK
        assert [cached(x["usage"]) for x in (ref, cold, hot)] == [0, 0, full_blocks(n)]
        assert ref["choices"] == cold["choices"] == hot["choices"]
        assert hot["usage"]["prompt_tokens"] == n and hot["timings"]["cache_n"] == full_blocks(n)
        last = [json.loads(e["data"]) for e in server.events(path, {**body, "stream_options": {"include_usage": True}})[:-1]][-1]
        assert cached(last["usage"]) == full_blocks(n)
        other = server.post(path, {**body, "cache_salt": "tenant"})
        assert cached(other["usage"]) == 0 and other["choices"] == ref["choices"]
        assert cached(server.post(path, {**body, "cache_salt": "tenant"})["usage"]) == full_blocks(n)


def test_anthropic_usage(server, without):
    body = {"messages": TALK, "max_tokens": 12, "temperature": 0}
    ref, cold, hot = (s.post(MESSAGES, body) for s in (without, server, server))
    n = ref["usage"]["input_tokens"]
    assert ref["content"] == cold["content"] == hot["content"]
    assert (cold["usage"]["input_tokens"], cold["usage"]["cache_read_input_tokens"]) == (n, 0)
    assert (hot["usage"]["input_tokens"], hot["usage"]["cache_read_input_tokens"]) == (n - full_blocks(n), full_blocks(n))
    begin = json.loads(server.events(MESSAGES, body)[0]["data"])["message"]["usage"]
    assert (begin["input_tokens"], begin["cache_read_input_tokens"]) == (n - full_blocks(n), full_blocks(n))


def test_a_conversation_finds_its_own_answers(server):
    """On the CPU an answer's blocks serve the next turn: nearly all of what was said before."""
    answer = "The harbour is quiet tonight, and nobody writes to the keeper of the light"
    body = {"messages": TALK, "temperature": 0, "guided_regex": answer + "( again|, ever)"}  # with a choice at its end, or nobody asks the model
    first = server.post(CHAT, body)
    answer = first["choices"][0]["message"]["content"]
    talk = [*TALK, {"role": "assistant", "content": answer}, {"role": "user", "content": "And the ships?"}]
    second = server.post(CHAT, {"messages": talk, "max_tokens": 3, "temperature": 0})
    before = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert first["usage"]["completion_tokens"] > 3 * BLOCK
    assert before - 3 * BLOCK <= cached(second["usage"]) <= before


def test_metrics(server):
    names = ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total", "vllm:prompt_tokens_total", "vllm:prompt_tokens_cached_total",
             "vllm:prompt_tokens_by_source_total")
    body = {"prompt": "One two three four five six seven eight nine ten eleven twelve", "max_tokens": 3, "temperature": 0, "ignore_eos": True}
    n = [server.post(COMPLETIONS, body)["usage"]["prompt_tokens"] for _ in range(3)][0]
    assert wait_for(lambda: server.metric(names[2]) == 3 * n)
    assert [server.metric(x) for x in names] == [3 * n, 2 * full_blocks(n), 3 * n, 2 * full_blocks(n), 3 * n]
    out = server.call("GET", "/metrics")[2].decode()
    source = {k: float(x.rsplit(" ", 1)[1]) for k in ("local_compute", "local_cache_hit") for x in out.split("\n") if f'source="{k}"' in x}
    assert source == {"local_compute": 3 * n - 2 * full_blocks(n), "local_cache_hit": 2 * full_blocks(n)}
    assert server.metric("vllm:kv_cache_usage_perc") == 0  # cached blocks are as good as free


def test_switched_off(imp, without, tmp_path):
    body = {"prompt": "One two three four five six seven eight nine ten eleven twelve " * 3, "max_tokens": 3, "temperature": 0}
    assert [cached(without.post(COMPLETIONS, body)["usage"]) for _ in range(2)] == [0, 0]
    assert without.metric("vllm:prefix_cache_queries_total") == 0
    conf = tmp_path / "imp.conf"
    conf.write_text("[model]\nprefix_cache = off\n")
    for args, on in ((["--config", conf], False), (["--config", conf, "--prefix-cache=on"], True), (["--no-cache-prompt"], False)):
        with serving(imp, MODELS["llama"], "--block-size", BLOCK, *args) as s:
            s.post(COMPLETIONS, body)
            assert (cached(s.post(COMPLETIONS, body)["usage"]) > 0) == on, args


def test_salt_is_checked(server):
    assert server.post(COMPLETIONS, {"prompt": "a", "max_tokens": 1, "cache_salt": "x" * 1024})
    for salt in (5, "x" * 1025):
        assert "salt" in json.dumps(server.post(COMPLETIONS, {"prompt": "a", "max_tokens": 1, "cache_salt": salt}, 400))

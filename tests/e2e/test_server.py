"""imp serve: protocols, every request field, errors, concurrency and ends. On the small fixture model, whose texts mean nothing
but are the same every time. Plain urllib and sockets: the real SDKs are in shared/conformance."""
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

BAN = {"1": -100, "2": -100}


class Server:
    def __init__(self, imp, model, *args):
        self.proc = subprocess.Popen([imp.path, "serve", "-m", str(model), "--port", "0", *map(str, args)], stderr=subprocess.PIPE, text=True)
        self.log = []
        for line in self.proc.stderr:
            self.log.append(line)
            if " on http://" in line:
                break
        assert self.log and " on http://" in self.log[-1], "".join(self.log)
        self.port = int(self.log[-1].split(" on http://")[1].split(" ")[0].rsplit(":", 1)[1])
        self.drain = threading.Thread(target=lambda: self.log.extend(self.proc.stderr), daemon=True)
        self.drain.start()

    def call(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers, bytes)"""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        c.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        r = c.getresponse()
        out = r.read()
        c.close()
        return r.status, r.headers, out

    def post(self, path, body, status=200, **kw):
        code, _, out = self.call("POST", path, body, **kw)
        assert code == status, (code, out[:500])
        return json.loads(out)

    def events(self, path, body, **kw):
        code, headers, out = self.call("POST", path, {**body, "stream": True}, **kw)
        assert code == 200 and headers["Content-Type"].startswith("text/event-stream"), out[:300]
        return [dict(x.split(": ", 1) for x in e.split("\n")) for e in out.decode().split("\n\n") if e and not e.startswith(":")]

    def metric(self, name):
        code, _, out = self.call("GET", "/metrics")
        assert code == 200
        return sum(float(x.rsplit(" ", 1)[1]) for x in out.decode().split("\n") if x.split("{")[0].split(" ")[0] == name)

    def stop(self):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        return self.proc.wait(30)


@contextlib.contextmanager
def serving(imp, model, *args):
    s = Server(imp, model, *args)
    try:
        yield s
    finally:
        s.proc.kill()
        s.proc.wait()


@pytest.fixture(scope="module")
def server(imp, tiny):
    s = Server(imp, tiny, "--chat-template", "chatml", "-np", "4")
    yield s
    assert s.stop() == 0, "".join(s.log)


@pytest.fixture(scope="module")
def tiny():
    import pathlib
    return pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "models" / "llama-gqa4.gguf"


COMPLETIONS, CHAT, MESSAGES = "/v1/completions", "/v1/chat/completions", "/v1/messages"
P = {"prompt": "The", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
USER = [{"role": "user", "content": "Hello"}]
C = {"messages": USER, "max_tokens": 12, "temperature": 0, "ignore_eos": True}


def text(server, **kw):
    return server.post(COMPLETIONS, {**P, **kw})["choices"][0]["text"]


# ---- fields: more than that each has an effect (test_fields.py) ----------------------------------------------------------
def test_max_tokens_and_stops(server):
    whole = server.post(COMPLETIONS, P)
    t = whole["choices"][0]["text"]
    assert whole["usage"]["completion_tokens"] == 12 and whole["choices"][0]["finish_reason"] == "length"
    assert server.post(COMPLETIONS, {**P, "max_tokens": 5})["usage"]["completion_tokens"] == 5
    cut = server.post(COMPLETIONS, {**P, "stop": t[4:6]})["choices"][0]
    assert cut["text"] == t[:t.index(t[4:6])] and cut["finish_reason"] == "stop"
    ids = server.post("/tokenize", {"content": t})["tokens"]
    by_id = server.post(COMPLETIONS, {**P, "stop_token_ids": ids[-3:]})
    assert by_id["usage"]["completion_tokens"] <= 12 and by_id["choices"][0]["finish_reason"] == "stop"
    assert server.post(COMPLETIONS, {**P, "max_tokens": 0})["choices"][0]["text"] == ""
    for field in ("max_tokens", "max_completion_tokens"):
        assert server.post(CHAT, {**C, field: 3})["usage"]["completion_tokens"] == 3
    assert server.post(CHAT, {**C, "max_tokens": 9, "max_completion_tokens": 3})["usage"]["completion_tokens"] == 3


def test_ignore_eos_and_special_tokens(server):
    eos = {"logit_bias": {"2": 100}}
    assert server.post(COMPLETIONS, {**P, "ignore_eos": False, **eos})["choices"][0]["finish_reason"] == "stop"
    on = server.post(COMPLETIONS, {**P, "ignore_eos": True, **eos})["choices"][0]
    assert on["finish_reason"] == "length" and on["text"] == ""
    assert text(server, skip_special_tokens=False, **eos) != ""


def test_prompt_fields(server):
    a = server.post(COMPLETIONS, {**P, "echo": True})["choices"][0]["text"]
    assert a == "The" + text(server)
    n = [server.post(COMPLETIONS, {**P, "add_special_tokens": x})["usage"]["prompt_tokens"] for x in (True, False)]
    assert n[0] == n[1] + 1
    ids = server.post("/tokenize", {"prompt": "The"})["tokens"]
    assert server.post(COMPLETIONS, {**P, "prompt": ids})["choices"][0]["text"] == text(server)
    many = server.post(COMPLETIONS, {**P, "prompt": ["The", "A", "The"], "n": 2})
    assert [c["index"] for c in many["choices"]] == list(range(6))
    assert many["choices"][0]["text"] == many["choices"][1]["text"] == many["choices"][4]["text"] == text(server)


def test_n_and_best_of(server):
    r = server.post(COMPLETIONS, {**P, "n": 3, "temperature": 1.5, "seed": 1, "top_p": 1, "best_of": 3})
    assert len({c["text"] for c in r["choices"]}) > 1
    server.post(COMPLETIONS, {**P, "n": 1, "best_of": 2}, 400)


def test_logprobs(server):
    c = server.post(COMPLETIONS, {**P, "logprobs": 3, "echo": True})["choices"][0]
    lp = c["logprobs"]
    assert len(lp["tokens"]) == len(lp["token_logprobs"]) == len(lp["top_logprobs"]) == len(lp["text_offset"])
    assert lp["token_logprobs"][0] is None and all(x <= 0 for x in lp["token_logprobs"][1:])
    n = server.post(COMPLETIONS, P)["usage"]["prompt_tokens"]
    scored = server.post(COMPLETIONS, {**P, "max_tokens": 0, "logprobs": 3, "echo": True})["choices"][0]["logprobs"]
    assert scored["token_logprobs"] == lp["token_logprobs"][:n] and len(lp["tokens"]) == n + 12
    for k in (0, 5):
        items = server.post(CHAT, {**C, "logprobs": True, "top_logprobs": k})["choices"][0]["logprobs"]["content"]
        assert len(items) == 12 and all(len(i["top_logprobs"]) == k for i in items)
    assert server.post(CHAT, C)["choices"][0]["logprobs"] is None
    streamed = [json.loads(e["data"]) for e in server.events(CHAT, {**C, "logprobs": True, "top_logprobs": 1})[:-1]]
    got = [t for s in streamed for t in (s["choices"][0]["logprobs"] or {}).get("content", [])]
    want = server.post(CHAT, {**C, "logprobs": True, "top_logprobs": 1})["choices"][0]["logprobs"]["content"]
    assert got == want


def test_constraints(server):
    assert text(server, guided_choice=["left", "right"], ignore_eos=False) in ("left", "right")
    assert text(server, guided_regex="[0-9]{3}-x", ignore_eos=False) == text(server, structured_outputs={"regex": "[0-9]{3}-x"}, ignore_eos=False)
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    for field in ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}, {"guided_json": schema}, {"json_schema": schema}):
        r = server.post(CHAT, {**C, "max_tokens": 400, "ignore_eos": False, **field})["choices"][0]
        if r["finish_reason"] == "stop":
            assert set(json.loads(r["message"]["content"])) == {"ok"}
        assert r["message"]["content"].lstrip()[:1] in ("{", "")
    keys = ["q", "b", "zeta", "a", "name"]
    schema["properties"] = {k: {"enum": [k]} for k in keys}
    schema["required"] = sorted(keys)
    for temperature in (0, 1.5):
        body = {**P, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, "ignore_eos": False, "max_tokens": 400,
                "temperature": temperature}
        c = server.post(COMPLETIONS, body)["choices"][0]
        got = re.findall(r'"(\w+)"\s*:', c["text"])
        assert got == keys[: len(got)], c  # the schema's order, as OpenAI's server
        if c["finish_reason"] == "stop":  # warm, a model of random weights may spend all its tokens on white space
            assert list(json.loads(c["text"])) == keys, c
        assert temperature or c["finish_reason"] == "stop", c
    assert text(server, grammar='root ::= "yes" | "no"', ignore_eos=False) in ("yes", "no")
    assert text(server, guided_grammar='root ::= "yes" | "no"', ignore_eos=False) in ("yes", "no")
    for bad in ({"guided_regex": "("}, {"guided_json": {"type": "nonsense"}}, {"grammar": "root ::= ("}, {"guided_json": schema, "guided_regex": "a"}):
        server.post(COMPLETIONS, {**P, **bad}, 400)


FIXED = "(red|blue) is the colour of the [a-c]{2} house, and the number is [0-9]{3}\\."


@pytest.mark.parametrize("regex", [".{24}", "[a-f]{24}", "[^a-zA-Z]{24}", "(x|yy|[0-9 ])+"])
def test_greedy_under_a_mask_is_the_reference_choice(server, regex):
    """With log-probabilities the reference sampler chooses, without them the threads' shared search does."""
    for prompt in ("The", "1, 2", "Once upon a time"):
        body = {**P, "prompt": prompt, "guided_regex": regex, "temperature": 0, "max_tokens": 24, "ignore_eos": False}
        assert server.post(COMPLETIONS, body)["choices"][0]["text"] == server.post(COMPLETIONS, {**body, "logprobs": 1})["choices"][0]["text"]


def test_constraints_with_choices_logprobs_and_stops(server):
    body = {**P, "guided_regex": FIXED, "ignore_eos": False, "max_tokens": 200, "temperature": 1.3, "seed": 5, "n": 3}
    plain = server.post(COMPLETIONS, body)
    texts = [c["text"] for c in plain["choices"]]
    assert all(re.fullmatch(FIXED, t) for t in texts) and [c["finish_reason"] for c in plain["choices"]] == ["stop"] * 3, texts
    # log-probabilities: the same answers and counts, one entry a token, forced tokens included
    told = server.post(COMPLETIONS, {**body, "logprobs": 2})
    assert [c["text"] for c in told["choices"]] == texts and told["usage"] == plain["usage"]
    for c in told["choices"]:
        lp = c["logprobs"]
        assert "".join(lp["tokens"]) == c["text"] and len(lp["tokens"]) == len(lp["token_logprobs"]) == len(lp["top_logprobs"])
        assert all(x < 0 for x in lp["token_logprobs"])
    assert sum(len(c["logprobs"]["tokens"]) for c in told["choices"]) == told["usage"]["completion_tokens"]
    # a stop string inside forced text, and a limit inside it
    cut = server.post(COMPLETIONS, {**body, "stop": [" house"]})
    assert [c["text"] for c in cut["choices"]] == [t.split(" house")[0] for t in texts] and cut["choices"][0]["finish_reason"] == "stop"
    short = server.post(COMPLETIONS, {**body, "max_tokens": 9})
    assert all(t.startswith(c["text"]) and c["finish_reason"] == "length" for t, c in zip(texts, short["choices"]))
    assert short["usage"]["completion_tokens"] == 27
    # streamed
    seen = ["", "", ""]
    for e in server.events(COMPLETIONS, body)[:-1]:
        for c in json.loads(e["data"])["choices"]:
            seen[c["index"]] += c["text"]
    assert seen == texts


def test_response_format_with_choices_and_logprobs(server):
    schema = {"type": "object", "properties": {"identifier": {"enum": ["first", "second"]}, "done": {"type": "boolean"}}, "required": ["identifier", "done"],
              "additionalProperties": False}
    body = {**C, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, "ignore_eos": False, "max_tokens": 200,
            "temperature": 1.0, "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 1}
    r = server.post(CHAT, body)
    for c in r["choices"]:
        v = json.loads(c["message"]["content"])
        assert set(v) == {"identifier", "done"} and v["identifier"] in ("first", "second") and v["done"] in (True, False)
        assert "".join(t["token"] for t in c["logprobs"]["content"]) == c["message"]["content"]
        assert all(len(t["top_logprobs"]) == 1 for t in c["logprobs"]["content"])
    del body["logprobs"], body["top_logprobs"]
    assert [c["message"]["content"] for c in server.post(CHAT, body)["choices"]] == [c["message"]["content"] for c in r["choices"]]


def test_template_fields(server):
    n = lambda **kw: server.post(CHAT, {**C, **kw})["usage"]["prompt_tokens"]
    assert n(add_generation_prompt=False) < n()
    talk = [*USER, {"role": "assistant", "content": "Well"}]
    assert n(messages=talk, continue_final_message=True) < n(messages=talk)
    p = lambda **kw: server.post("/apply-template", {"messages": USER, **kw})["prompt"]
    assert "Hello" in p() and p(add_generation_prompt=False) != p()


def test_chat_template_kwargs_and_effort_reach_the_template(imp, tiny, tmp_path):
    t = tmp_path / "t.jinja"
    t.write_text("{% for m in messages %}{{ m.content }}{% endfor %}|{{ mood }}|{{ reasoning_effort }}|{{ enable_thinking }}")
    with serving(imp, tiny, "--chat-template", t) as s:
        n = lambda **kw: s.post(CHAT, {**C, **kw})["usage"]["prompt_tokens"]
        assert n(chat_template_kwargs={"mood": "very very happy"}) > n()
        assert n(reasoning_effort="high") > n()
        on, off = (s.post(MESSAGES, {"messages": USER, "max_tokens": 2, "thinking": {"type": x}})["usage"]["input_tokens"] for x in ("enabled", "disabled"))
        assert on != n() and off != n()


def test_salt_and_priority_are_taken(server):
    assert text(server, cache_salt="a", priority=-3) == text(server)
    for bad in ({"cache_salt": 5}, {"priority": "high"}):
        server.post(COMPLETIONS, {**P, **bad}, 400)


# ---- protocols -----------------------------------------------------------------------------------------------------------
def test_chat_stream(server):
    whole = server.post(CHAT, C)["choices"][0]["message"]["content"]
    ev = server.events(CHAT, {**C, "stream_options": {"include_usage": True}})
    assert ev[-1] == {"data": "[DONE]"}
    chunks = [json.loads(e["data"]) for e in ev[:-1]]
    assert len({(c["id"], c["created"], c["model"], c["object"], c["system_fingerprint"]) for c in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 12 and all(c["usage"] is None for c in chunks[:-1])
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks[:-1]) == whole
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]][-1] == "length"


def test_anthropic_stream_and_errors(server):
    body = {"messages": USER, "max_tokens": 8, "temperature": 0, "ignore_eos": True, "some_future_field": 1}
    whole = server.post(MESSAGES, body)
    ev = server.events(MESSAGES, body)
    data = [json.loads(e["data"]) for e in ev]
    assert [e["event"] for e in ev] == [d["type"] for d in data]
    kinds = [d["type"] for d in data]
    assert kinds[:2] == ["message_start", "content_block_start"] and kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert "".join(d["delta"]["text"] for d in data[2:-3]) == whole["content"][0]["text"]
    assert whole["stop_reason"] == "max_tokens" and whole["usage"]["output_tokens"] == 8
    t = whole["content"][0]["text"]
    cut = server.post(MESSAGES, {**body, "stop_sequences": [t[2:4]]})
    assert cut["stop_reason"] == "stop_sequence" and cut["stop_sequence"] == t[2:4] and cut["content"][0]["text"] == t[:t.index(t[2:4])]
    n = server.post(MESSAGES + "/count_tokens", {"messages": USER})["input_tokens"]
    assert n == whole["usage"]["input_tokens"] + whole["usage"]["cache_read_input_tokens"]
    e = server.post(MESSAGES, {"messages": USER}, 400)
    assert e["type"] == "error" and e["error"]["type"] == "invalid_request_error" and e["request_id"]
    code, headers, _ = server.call("POST", MESSAGES, body)
    assert headers["request-id"].startswith("req_")


def test_billing_line_of_claude_code_does_not_count(server):
    n = lambda sys: server.post(MESSAGES + "/count_tokens", {"messages": USER, "system": sys})["input_tokens"]
    assert n([{"type": "text", "text": "x-anthropic-billing-header: cch=abcde;"}, {"type": "text", "text": "Be kind."}]) == n("Be kind.")


def test_tokens_round_trip(server):
    s = "Hello, wörld 🙂"
    ids = server.post("/tokenize", {"content": s})["tokens"]
    assert server.post("/detokenize", {"tokens": ids})["content"] == s
    pieces = server.post("/tokenize", {"content": s, "with_pieces": True})["tokens"]
    assert b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces) == s.encode()
    v = server.post("/tokenize", {"model": "m", "prompt": "Hello"})
    assert v["count"] == len(v["tokens"]) and v["max_model_len"] > 0
    assert server.post("/tokenize", {"model": "m", "messages": USER})["count"] == server.post(CHAT, C)["usage"]["prompt_tokens"]
    for bad in ({}, {"content": 5}, {"tokens": [1]}):
        server.post("/tokenize", bad, 400)
    for bad in ({}, {"tokens": [-1]}, {"tokens": [1 << 40]}, {"tokens": "x"}):
        server.post("/detokenize", bad, 400)


def test_unbuilt_endpoints_are_named(server):
    for path in ("/v1/responses", "/v1/embeddings"):
        assert path in server.post(path, {}, 404)["error"]["message"]
    code, headers, out = server.call("GET", COMPLETIONS)
    assert code == 405 and headers["Allow"] == "POST" and json.loads(out)["error"]["message"]


def test_model_names(imp, tiny):
    with serving(imp, tiny, "--alias", "fine", "--alias", "other") as s:
        assert json.loads(s.call("GET", "/v1/models")[2])["data"][0]["id"] == "fine"
        for name in ("fine", "other", "llama-gqa4" if s.call("GET", "/v1/models/llama-gqa4")[0] == 200 else "fine"):
            s.post(COMPLETIONS, {**P, "model": name})
        assert s.post(COMPLETIONS, {**P, "model": "gpt-5"}, 404)["error"]["code"] == "model_not_found"
    with serving(imp, tiny, "--alias", "*") as s:
        s.post(COMPLETIONS, {**P, "model": "gpt-5"})


# ---- limits ---------------------------------------------------------------------------------------------------------------
def test_bodies(server):
    for bad in (b"", b"[1]", b'"x"', b"{", b"[" * 100000, b'{"prompt":"a","prompt":"b"}', b'{"prompt":"\xff"}', b'{"prompt":"\\ud800"}', b'{"prompt":"a","seed":1e400}',
                b'{"prompt":"a","seed":99999999999999999999}', b'{"prompt":"a",}', b'{"prompt":' + b"[" * 200 + b"]" * 200 + b"}"):
        e = server.post(COMPLETIONS, bad, 400)["error"]
        assert e["type"] == "invalid_request_error"
    for empty in ([], [[]], ["", []]):
        server.post(COMPLETIONS, {**P, "prompt": empty}, 400)
    assert server.post(COMPLETIONS, {**P, "prompt": "a\x00b c"})["usage"]["prompt_tokens"] > server.post(COMPLETIONS, {**P, "prompt": "a"})["usage"]["prompt_tokens"]


def test_context_error_tells_both_numbers(imp, tiny):
    with serving(imp, tiny, "-c", 64) as s:
        for extra in ({}, {"stream": True}):
            e = s.post(COMPLETIONS, {**P, "prompt": "word " * 500, **extra}, 400)["error"]
            assert e["code"] == "context_length_exceeded" and e["n_ctx"] == 64 and e["n_prompt_tokens"] > 64 and "context" in e["message"]


def test_body_limit(imp, tiny):
    with serving(imp, tiny, "--max-body", 1) as s:
        with socket.create_connection(("127.0.0.1", s.port), timeout=10) as c:
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 8589934592\r\n\r\n{")
            assert c.recv(4096).startswith(b"HTTP/1.1 413")
        c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=30)
        c.request("POST", COMPLETIONS, iter([b"x" * 65536] * 20), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
        assert c.getresponse().status == 413
        assert s.call("GET", "/health")[0] == 200


def test_keys_guard_every_route(imp, tiny):
    with serving(imp, tiny, "--api-key", "sk-1") as s:
        routes = [("GET", "/metrics"), ("GET", "/v1/models"), ("GET", "/v1/models/x"), ("POST", COMPLETIONS), ("POST", CHAT), ("POST", MESSAGES),
                  ("POST", "/v1/messages/count_tokens"), ("POST", "/tokenize"), ("POST", "/detokenize"), ("POST", "/apply-template"), ("POST", "/v1/responses"),
                  ("POST", "/v1/embeddings"), ("GET", "/"), ("GET", "/nope"), ("DELETE", "/v1/models")]
        for method, path in routes:
            for headers in ({}, {"Authorization": "Bearer sk-"}, {"Authorization": "Bearer sk-12"}, {"x-api-key": ""}, {"Authorization": "sk-1"}):
                code, _, out = s.call(method, path, b"{}" if method == "POST" else None, headers)
                assert code == 401 and json.loads(out)["error"]["message"], (method, path, headers)
        assert s.call("GET", "/health")[0] == 200
        for headers in ({"Authorization": "Bearer sk-1"}, {"x-api-key": "sk-1"}):
            assert s.call("POST", COMPLETIONS, P, headers)[0] == 200


def test_queue_limit_is_429(imp, tiny):
    with serving(imp, tiny, "-np", 1, "--max-queue", 2) as s:
        assert s.post(COMPLETIONS, {**P, "n": 3, "max_tokens": 2})["usage"]["completion_tokens"] == 6
        code, headers, out = s.call("POST", COMPLETIONS, {**P, "n": 4})
        assert code == 429 and headers["Retry-After"] and json.loads(out)["error"]["type"] == "rate_limit_exceeded"


def long_request(n=100000):
    return json.dumps({**P, "max_tokens": n}).encode()


def open_post(s, body, stream):
    c = socket.create_connection(("127.0.0.1", s.port), timeout=30)
    body = body[:-1] + b', "stream": true}' if stream else body
    c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return c


def wait_for(fn, seconds=10):
    end = time.time() + seconds
    while time.time() < end:
        if fn():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_leaving_cancels(imp, tiny, stream):
    with serving(imp, tiny, "-c", 200000, "-np", 2) as s:
        socks = [open_post(s, long_request(), stream) for _ in range(4)]  # two run, two wait
        assert wait_for(lambda: s.metric("vllm:num_requests_running") == 2)
        for c in socks:
            c.close()
        assert wait_for(lambda: s.metric("vllm:num_requests_running") + s.metric("vllm:num_requests_waiting") == 0, 5)
        assert s.post(COMPLETIONS, P)["usage"]["completion_tokens"] == 12


def test_half_closed_client_is_answered(server):
    body = json.dumps({**P, "max_tokens": 2}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as c:
        c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        c.shutdown(socket.SHUT_WR)
        out = b""
        while part := c.recv(65536):
            out += part
    assert out.startswith(b"HTTP/1.1 200")


def test_timeout(imp, tiny):
    with serving(imp, tiny, "-c", 200000, "--timeout", 1) as s:
        code, _, out = s.call("POST", COMPLETIONS, long_request(190000))
        assert code in (200, 504)  # a machine that is fast enough may finish
        ev = s.events(COMPLETIONS, json.loads(long_request(190000)))
        assert "error" in json.loads(ev[-1]["data"]) if code == 504 else True


def test_sigterm_drains(imp, tiny):
    with serving(imp, tiny, "-c", 200000) as s:
        c = open_post(s, long_request(3000), True)
        first = c.recv(100)
        s.proc.send_signal(signal.SIGTERM)
        assert first.startswith(b"HTTP/1.1 200")
        refused = wait_for(lambda: s.proc.poll() is not None or s.call("GET", "/health")[0] == 503, 5)
        out = first
        while part := c.recv(65536):
            out += part
        assert refused and b"data: [DONE]" in out and b'"finish_reason":"length"' in out
        assert s.proc.wait(20) == 0


def test_second_signal_ends_at_once(imp, tiny):
    with serving(imp, tiny, "-c", 200000) as s:
        c = open_post(s, long_request(), True)
        c.recv(100)
        s.proc.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        s.proc.send_signal(signal.SIGTERM)
        assert s.proc.wait(20) in (0, 1)


# ---- many at once -----------------------------------------------------------------------------------------------------------
def test_streams_with_disconnects_equal_sequential_texts(server):
    """A short version of bench/soak.py: 12 clients, a third of whose requests are dropped half-way; the others' texts are those
    that the same requests give alone; nothing leaks."""
    bodies = [{"prompt": f"Item {i}:", "max_tokens": 24, "temperature": 0.9, "seed": i, "top_p": 1, "ignore_eos": True} for i in range(8)]
    alone = [server.post(COMPLETIONS, b)["choices"][0]["text"] for b in bodies]
    fds = server.metric("process_open_fds")
    bad = []

    def client(k):
        rng = random.Random(k)
        for _ in range(10):
            i = rng.randrange(len(bodies))
            body = json.dumps({**bodies[i], "stream": True}).encode()
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as c:
                c.sendall(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                out, drop = b"", rng.random() < 0.33
                while part := c.recv(4096):
                    out += part
                    if drop and len(out) > 1200:
                        break
                if drop:
                    continue
            events = [e[6:] for e in out.split(b"\r\n\r\n", 1)[1].decode().split("\n\n") if e.startswith("data: ")]
            got = "".join(c["text"] for e in events[:-1] for c in json.loads(e)["choices"])
            if events[-1] != "[DONE]" or got != alone[i]:
                bad.append((i, got, alone[i]))
    threads = [threading.Thread(target=client, args=(k,)) for k in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not bad, bad[:2]
    assert wait_for(lambda: server.metric("vllm:num_requests_running") == 0)
    assert wait_for(lambda: server.metric("process_open_fds") <= fds + 2), (server.metric("process_open_fds"), fds)


def test_health_answers_while_prompts_are_computed(imp, tiny):
    with serving(imp, tiny, "-c", 100000, "-np", 4) as s:
        threads = [threading.Thread(target=s.call, args=("POST", COMPLETIONS, {**P, "prompt": f"{i} word " * 2000}), kwargs={"timeout": 240}) for i in range(4)]
        for t in threads:
            t.start()
        worst = 0
        for _ in range(20):
            t0 = time.time()
            assert s.call("GET", "/health")[0] == 200
            worst = max(worst, time.time() - t0)
            time.sleep(0.02)
        for t in threads:
            t.join()
        assert worst < 1


def test_metrics_names_and_counts(server):
    a = server.metric("vllm:generation_tokens_total"), server.metric("vllm:request_success_total")
    server.post(COMPLETIONS, P)
    assert wait_for(lambda: server.metric("vllm:generation_tokens_total") == a[0] + 12)
    assert server.metric("vllm:request_success_total") == a[1] + 1
    out = server.call("GET", "/metrics")[2].decode()
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:cache_config_info", "vllm:gpu_cache_usage_perc",
                 "vllm:prefix_cache_queries_total", "vllm:time_to_first_token_seconds_bucket", "vllm:e2e_request_latency_seconds_count", "http_requests_total",
                 "process_resident_memory_bytes"):
        assert f"\n{name}{{" in out or f"\n{name} " in out, name
    buckets = [x for x in out.split("\n") if x.startswith("vllm:time_to_first_token_seconds_bucket")]
    counts = [float(x.rsplit(" ", 1)[1]) for x in buckets]
    assert len(buckets) == 23 and counts == sorted(counts) and 'le="+Inf"' in buckets[-1]

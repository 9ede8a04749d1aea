"""imp serve against unlucky and hostile clients, on the wire: pieces, pipelines, half-open sockets, headers without end. After each the
server must answer others at once."""
import json
import socket
import time

import pytest

from conftest import FIXTURES
from test_server import CHAT, COMPLETIONS, P, USER, Server, wait_for

BODY = json.dumps({**P, "max_tokens": 4}).encode()
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture(scope="module")
def server(imp):
    s = Server(imp, FIXTURES / "models" / "llama-gqa4.gguf", "--chat-template", "chatml", "-c", "200000")
    yield s
    assert s.stop() == 0


@pytest.fixture(autouse=True)
def others_are_answered(server):
    yield
    start = time.time()
    assert server.call("GET", "/health", timeout=5)[0] == 200 and time.time() - start < 2
    assert server.post(COMPLETIONS, {**P, "max_tokens": 2})["usage"]["completion_tokens"] == 2


def connect(server, timeout=20):
    return socket.create_connection(("127.0.0.1", server.port), timeout=timeout)


def read_answers(c, n):
    """n answers with Content-Length, from one connection."""
    buf, out = b"", []
    while len(out) < n:
        while b"\r\n\r\n" not in buf:
            part = c.recv(65536)
            if not part:
                return out
            buf += part
        head, buf = buf.split(b"\r\n\r\n", 1)
        size = next(int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length:"))
        while len(buf) < size:
            buf += c.recv(65536)
        out.append((int(head.split(b" ")[1]), buf[:size]))
        buf = buf[size:]
    return out


def test_byte_by_byte(server):
    with connect(server) as c:
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(POST)):
            c.sendall(POST[i:i + 1])
        ((code, body),) = read_answers(c, 1)
        assert code == 200 and json.loads(body)["usage"]["completion_tokens"] == 4


def test_pipelined_requests_are_answered_in_order(server):
    bodies = [json.dumps({**P, "max_tokens": n}).encode() for n in (5, 1, 3)]
    with connect(server) as c:
        c.sendall(b"".join(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(b) + b for b in bodies) +
                  b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        got = read_answers(c, 4)
    assert [code for code, _ in got] == [200] * 4
    assert [json.loads(b)["usage"]["completion_tokens"] for _, b in got[:3]] == [5, 1, 3] and json.loads(got[3][1]) == {"status": "ok"}


def test_a_connection_is_kept_after_errors_and_streams(server):
    stream = json.dumps({**P, "max_tokens": 3, "stream": True}).encode()
    with connect(server) as c:
        c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{")
        assert read_answers(c, 1)[0][0] == 400
        c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(stream) + stream)
        out = b""
        while not out.endswith(b"0\r\n\r\n"):
            part = c.recv(65536)
            assert part
            out += part
        assert b"data: [DONE]" in out
        c.sendall(POST)
        assert read_answers(c, 1)[0][0] == 200


@pytest.mark.parametrize("raw", [
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Long: " + b"a" * 200000 + b"\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % i for i in range(20000)) + b"\r\n",
    b"GET /" + b"a" * 200000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    b"\r\n\r\n\r\n\r\n", b"GET\r\n\r\n", b"GET /health\r\n\r\n", b"NONSENSE /health HTTP/9.9\r\nHost: x\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n{}", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}", b"\0" * 5000,
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /%00%ff%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
], ids=range(18))
def test_malformed_requests(server, raw):
    """Refused, or cut; never an answer for a request that generates, never 500."""
    with connect(server, 5) as c:
        out = b""
        try:
            c.sendall(raw)
            c.shutdown(socket.SHUT_WR)
            while part := c.recv(65536):
                out += part
        except OSError:  # cut while we were still sending
            pass
        first = out.split(b" ")[1:2]
        assert not first or 400 <= int(first[0]) < 500 or int(first[0]) in (501, 505) or b'{"status":"ok"}' in out, out[:200]


def test_clients_that_stop_half_way_hold_up_nobody(server):
    """Headers without end, bodies without end, connections that say nothing: two hundred of them, and others are served."""
    half = [b"", b"POST /v1/comp", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-A: ", POST[:-3]]
    socks = [connect(server) for _ in range(200)]
    for i, c in enumerate(socks):
        c.sendall(half[i % 4])
    start = time.time()
    assert server.post(CHAT, {"messages": USER, "max_tokens": 2})["usage"]["completion_tokens"] == 2 and time.time() - start < 5
    fds = server.metric("process_open_fds")
    for c in socks:
        c.close()
    assert wait_for(lambda: server.metric("process_open_fds") <= fds - 190)


def test_a_client_that_reads_nothing_holds_up_nobody(server):
    """Its answer fills its own buffers; the others go on, and when it goes its request ends."""
    body = json.dumps({**P, "max_tokens": 20000, "stream": True}).encode()
    c = socket.socket()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    c.connect(("127.0.0.1", server.port))
    c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert wait_for(lambda: server.metric("vllm:num_requests_running") >= 1)
    assert server.post(COMPLETIONS, {**P, "max_tokens": 8})["usage"]["completion_tokens"] == 8
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # goes with a reset
    c.close()
    assert wait_for(lambda: server.metric("vllm:num_requests_running") == 0, 15)


def test_expect_continue(server):
    with connect(server) as c:
        c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        assert c.recv(4096).startswith(b"HTTP/1.1 100")
        c.sendall(BODY)
        assert read_answers(c, 1)[0][0] == 200


def test_old_http_gets_a_stream_that_ends_with_the_connection(server):
    body = json.dumps({**P, "max_tokens": 3, "stream": True}).encode()
    with connect(server) as c:
        c.sendall(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        out = b""
        while part := c.recv(65536):
            out += part
    assert out.startswith(b"HTTP/1.") and b"chunked" not in out.split(b"\r\n\r\n")[0].lower() and out.endswith(b"data: [DONE]\n\n")

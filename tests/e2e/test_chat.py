"""imp chat, as a person uses it (on a pseudo-terminal) and as a script does (from a pipe)."""
import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest


class Terminal:
    """A program on a terminal of its own: type into it, wait for what it shows."""

    def __init__(self, args, env):
        self.main, side = pty.openpty()
        self.proc = subprocess.Popen([str(a) for a in args], stdin=side, stdout=side, stderr=side, start_new_session=True, env=env,
                                     preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0))
        os.close(side)
        self.raw = b""
        self.seen = 0

    def type(self, text):
        os.write(self.main, text.encode())

    def line(self, text):
        self.type(text + "\r")

    def read(self, seconds):
        if select.select([self.main], [], [], seconds)[0]:
            with contextlib.suppress(OSError):
                self.raw += os.read(self.main, 65536)

    @property
    def text(self):
        """What is shown, without colours and movements."""
        return re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\r", b"", self.raw).decode("utf-8", "replace")

    def wait(self, pattern, seconds=30):
        """Waits until the pattern stands behind what was waited for last."""
        end = time.time() + seconds
        while time.time() < end:
            m = re.search(pattern, self.text[self.seen:])
            if m:
                self.seen += m.end()
                return m
            self.read(0.1)
        pytest.fail(f"waited for {pattern!r}, there is: {self.text[self.seen:][-800:]!r}")

    def leave(self):
        """Ctrl-D, more than once: libedit shows its prompt a moment before it takes the terminal over, and one typed then is lost."""
        for _ in range(10):
            self.type("\x04")
            self.read(0.5)
            if self.proc.poll() is not None:
                break
        return self.ended()

    def ended(self, seconds=20):
        end = time.time() + seconds
        while self.proc.poll() is None and time.time() < end:
            self.read(0.05)
        assert self.proc.poll() is not None, self.text[-500:]
        return self.proc.returncode


@pytest.fixture
def terminal(imp, tiny, tmp_path):
    open_ones = []

    def start(*args, **env):
        home = {k: v for k, v in os.environ.items() if not k.startswith(("IMP_", "XDG_", "NO_COLOR"))}
        t = Terminal([imp.path, "chat", "-m", tiny, "--chat-template", "chatml", "--seed", "1", *args],
                     {**home, "HOME": str(tmp_path), "TERM": "xterm", "LC_ALL": "C.UTF-8", **env})
        open_ones.append(t)
        t.wait(r"Ctrl-D leaves\.\n")
        t.wait("> ")
        return t
    yield start
    for t in open_ones:
        t.proc.kill()
        t.proc.wait()
        os.close(t.main)


def test_a_conversation(terminal, tmp_path):
    t = terminal("-n", "8")
    t.line("/system Be brief.")
    t.wait(r"\[system message set\]\n> ")
    t.line("Hello")
    t.wait(r"\n> ")
    t.line('"""')
    t.wait(r"\. ")
    t.line("two")
    t.line('lines"""')
    t.wait(r"\n> ")
    t.line("joined \\")
    t.wait(r"\. ")
    t.line("lines")
    t.wait(r"\n> ")
    t.line("//slash")
    t.wait(r"\n> ")
    t.line("/save talk.json".replace("talk.json", str(tmp_path / "talk.json")))
    t.wait(r"\[9 messages saved")
    t.line("/stats")
    t.wait(r"last answer: prompt \d+ tokens")
    t.wait(r"context: \d+ of \d+ tokens")
    m = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [x["role"] for x in m] == ["system"] + ["user", "assistant"] * 4
    assert [x["content"] for x in m if x["role"] == "user"] == ["Hello", "two\nlines", "joined \nlines", "/slash"]
    t.line("/clear")
    t.wait(r"\[a new conversation\]")
    t.line(f"/load {tmp_path / 'talk.json'}")
    t.wait(r"\[9 messages loaded")
    t.line("/regen")
    t.wait(r"\n> ")
    t.line("/nonsense")
    t.wait(r"unknown command /nonsense; /help lists them")
    t.line("/load /nowhere")
    t.wait(r"imp: /nowhere")
    t.line("/exit")
    assert t.ended() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal):
    t = terminal("--ignore-eos", "-c", "200000", "-n", "150000")
    for _ in range(2):
        t.line("Tell me a story")
        t.wait(r"Tell me a story\n(?s:.{20})")  # it streams
        t.type("\x03")
        t.wait(r"\[stopped\]\n> ", 10)
    assert "^C" not in t.text  # not even as what was typed
    t.line("/stats")
    t.wait(r"2 answers so far")
    t.type("half a line\x03")
    t.wait(r"\(Ctrl-C again to leave\)")
    t.line("/stats")  # what was typed is forgotten, and the next line is read
    t.wait(r"2 answers so far")
    t.type("\x03")
    t.wait(r"\(Ctrl-C again to leave\)")
    t.type("\x03")
    assert t.ended() == 130


def test_ctrl_d_leaves_and_lines_are_kept(terminal, tmp_path):
    t = terminal("-n", "2", "--history", str(tmp_path / "h"))
    t.line("first things")
    t.wait(r"\[cut.*\n> ")
    assert t.leave() == 0
    assert "first" in (tmp_path / "h").read_text() and (tmp_path / "h").stat().st_mode & 0o77 == 0
    t = terminal("-n", "2", "--history", str(tmp_path / "h"))
    t.type("\x1b[A")  # the line of last time
    t.wait("first things")
    t.type("\r")
    t.wait(r"\[cut.*\n> ")
    assert t.leave() == 0


def test_colours_only_where_they_are_wanted(terminal):
    t = terminal("-n", "2")
    assert b"\x1b[2m" in t.raw
    assert b"\x1b[2m" not in terminal("-n", "2", NO_COLOR="1").raw and b"\x1b[2m" not in terminal("-n", "2", TERM="dumb").raw


def test_sigterm_ends_it(terminal):
    t = terminal("--ignore-eos", "-c", "200000", "-n", "150000")
    t.line("Hello")
    t.wait(r"Hello\n(?s:.{20})")
    t.proc.send_signal(signal.SIGTERM)
    assert t.ended() == 143


def test_from_a_pipe(imp, tiny):
    args = ("chat", "-m", tiny, "--chat-template", "chatml", "--temp", "0", "-n", "6")
    out = imp.ok(*args, stdin=b"Hello\n\nAgain\n")
    assert b"\x1b" not in out and out.count(b"\n") >= 2
    m = json.loads(imp.ok(*args, "--json", "--system", "S", stdin=b'Hello\n"""\na\nb\n"""\n'))["messages"]
    assert [x["role"] for x in m] == ["system", "user", "assistant", "user", "assistant"] and m[3]["content"] == "a\nb"
    r = imp(*args, stdin=b"Hello\n/load /nowhere\nAgain\n")
    assert r.returncode == 1 and b"imp: /nowhere" in r.stderr  # of a script's conversation the rest would make no sense


def test_reasoning_is_dimmed(terminal, tmp_path):
    t = tmp_path / "t.jinja"
    t.write_text("{% for m in messages %}{{ m.content }}{% endfor %}<think>\n")
    p = terminal("--chat-template", t, "-n", "12", "--ignore-eos")
    p.line("Hello")
    p.wait(r"\n> ")
    shown = p.raw.split(b"Hello")[-1]
    assert b"\x1b[2m" in shown.split(b">")[0], shown


def test_imp_cli_without_a_prompt_is_a_conversation(imp, tiny, tmp_path):
    cli = os.path.join(os.path.dirname(imp.path), "imp-cli")
    t = Terminal([cli, "-m", tiny, "--chat-template", "chatml", "-n", "2"], {**os.environ, "HOME": str(tmp_path), "TERM": "xterm"})
    try:
        t.wait(r"Ctrl-D leaves\.\n")
        t.wait("> ")
        assert t.leave() == 0
    finally:
        t.proc.kill()
        t.proc.wait()
        os.close(t.main)
    assert subprocess.run([cli, "-m", str(tiny), "--raw", "-n", "2"], input=b"Hi", capture_output=True).returncode == 0

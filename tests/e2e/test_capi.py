"""The program in docs/c-api.md compiles as C17 and C++17 without a warning, and does what the command line does."""
import json
import re
import subprocess

import pytest

from conftest import BUILD, ROOT

LIBS = "-lpcre2-8 -lutf8proc -ljansson -lmicrohttpd -ledit -lm -ldl -pthread".split()
REQUEST = {"messages": [{"role": "user", "content": "The thing"}]}


@pytest.fixture(scope="module", params=[("gcc", "c17", "c"), ("g++", "c++17", "cpp")], ids=["c17", "c++17"])
def example(request, tmp_path_factory):
    compiler, standard, ending = request.param
    source = tmp_path_factory.mktemp("capi") / f"example.{ending}"
    source.write_text(re.search(r"```c\n(.*?)```", (ROOT / "docs" / "c-api.md").read_text(), re.S).group(1))
    out = source.with_suffix("")
    r = subprocess.run([compiler, f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", ROOT / "include", source, BUILD / "libimp.a", "-o", out, *LIBS],
                       capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    return out


def test_answers_as_the_command_line_does(example, imp, tiny, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(REQUEST))
    r = subprocess.run([example, tiny, tmp_path / "r.json", "chatml"], capture_output=True, timeout=120)
    assert r.returncode == 0, r.stderr
    prompt, generated = map(int, re.search(rb"\[(\d+) prompt tokens, (\d+) generated\]", r.stderr).groups())
    assert prompt > 5 and 1 <= generated <= 64
    chat = imp("chat", "-m", tiny, "--chat-template", "chatml", "-c", 2048, "-n", 64, "--temp", 0, stdin=b"The thing\n")
    assert chat.returncode == 0 and chat.stdout.rstrip(b"\n") == r.stdout.rstrip(b"\n") != b"", (chat, r)


def test_failures_are_sentences(example, tiny, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(REQUEST))
    (tmp_path / "bad.json").write_text('{"messages": [')
    for args, words in ((("no.gguf", tmp_path / "r.json"), b"no.gguf"), ((tiny, tmp_path / "bad.json"), b"malformed"), ((tiny, tmp_path / "r.json", "no-such"), b"no-such")):
        r = subprocess.run([example, *args], capture_output=True, timeout=60)
        assert r.returncode == 1 and words in r.stderr and r.stdout == b"", r

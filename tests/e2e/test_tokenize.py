"""`imp tokenize` against the ids and texts that Hugging Face gave for the shared goldens (tokenizer_goldens.json).

The fixtures of tests/fixtures/tok, which need nobody's goldens, are compared string by string in tests/unit/test_tok.c;
tok_compare.py does the same against any installed tokenizer.json."""
import json

import pytest

from conftest import GOLDENS

FILES = sorted(p for p in GOLDENS.glob("hf/*/tokenizer_goldens.json"))
pytestmark = pytest.mark.skipif(not FILES, reason="no goldens beside the checkout (../shared/goldens)")
# gpt_oss: the GGUF names o200k, the folder's tokenizer.json is Qwen's and normalizes to NFC
DIFFERS = {("gpt_oss", "gguf"): {"e\u0301 combining"}}


def models():
    for f in FILES:
        family = f.parent.name
        yield pytest.param(family, "hf", f.parent, id=f"hf-{family}")
        for g in sorted(GOLDENS.glob(f"gguf/{family}-*/model.gguf"))[-1:]:
            yield pytest.param(family, "gguf", g, id=f"gguf-{family}")


@pytest.mark.parametrize("family,kind,model", list(models()))
def test_goldens(imp, family, kind, model):
    golden = json.loads((GOLDENS / "hf" / family / "tokenizer_goldens.json").read_text())
    first = imp("tokenize", "-m", model, "-p", "a")
    if first.returncode:
        assert len(first.stderr.splitlines()) == 1
        pytest.skip("the family is not supported: " + first.stderr.decode(errors="replace").strip())
    # every string costs a process, so the folders get a part of them; each stands in the GGUF's run in full
    texts = [t for t in golden["texts"] if t["text"] and t["text"] not in DIFFERS.get((family, kind), ())]
    for t in texts[:: 1 if kind == "gguf" else 4]:
        data = t["text"].encode()
        if b"\0" in data:
            continue
        ids = json.loads(imp.ok("tokenize", "-m", model, stdin=data))
        assert ids == t["ids_special"], t["text"]
    some = [t for t in texts if t["ids"]][::5]
    for t in some:
        text = imp.ok("tokenize", "-m", model, "--ids", ",".join(map(str, t["ids"])))
        assert text.decode() == t["decoded"]


def test_invalid_bytes_and_no_special(imp, tiny):
    bad = imp.ok("tokenize", "-m", tiny, "--no-special", stdin=b"a\xff\xe4\xb8b")
    good = imp.ok("tokenize", "-m", tiny, "--no-special", stdin="a\ufffd\ufffdb".encode())
    assert bad == good

"""imp pull against a hub on loopback: layout of the cache, resuming, checksums, tokens, redirects, refusals."""
import hashlib
import json
import os
import signal
import subprocess
import time

import pytest

from hub import COMMIT, Hub, serve

DATA = hashlib.shake_256(b"weights").digest(900_000)
SMALL = b'{"architectures": ["X"]}'


@pytest.fixture
def hub():
    with serve(Hub({"org/model": {"model-Q4_K_M.gguf": DATA, "model-Q4_K_S.gguf": DATA[:5000], "model-Q8_0.gguf": DATA[::-1], "mmproj-f16.gguf": DATA[:3000],
                                  "README.md": b"words"},
                    "org/one": {"sub/w ä.gguf": DATA},
                    "org/split": {f"m-Q8_0-{i:05}-of-00003.gguf": DATA[i * 1000:i * 1000 + 2000] for i in (1, 2, 3)},
                    "org/folder": {"config.json": SMALL, "tokenizer.json": b"{}", "model.safetensors": DATA, "model.onnx": DATA, "sub/config.json": b"{}"},
                    "org/empty": {"README.md": b"words"}})) as h:
        yield h


@pytest.fixture
def pull(imp, hub, tmp_path):
    def call(*args, env=None, **kw):
        return imp("pull", *args, env={"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hub"), "HOME": str(tmp_path), "HF_TOKEN": "", **(env or {})}, **kw)
    return call


def path_of(r):
    assert r.returncode == 0, r.stderr.decode()
    return r.stdout.decode().rstrip("\n")


def failed(r, status, *words):
    text = r.stderr.decode()
    assert r.returncode == status and r.stdout == b"" and text.startswith("imp: ") and text.count("\n") == 1, r
    for w in words:
        assert w in text, (w, text)


def incomplete(tmp_path):
    return list(tmp_path.rglob("*.incomplete"))


def test_layout_is_huggingface_hubs(pull, hub, tmp_path):
    path = path_of(pull("org/model:model-Q4_K_M.gguf"))
    repo = tmp_path / "hub" / "models--org--model"
    assert path == str(repo / "snapshots" / COMMIT / "model-Q4_K_M.gguf")
    assert open(path, "rb").read() == DATA
    sha = hashlib.sha256(DATA).hexdigest()
    assert os.readlink(path) == f"../../blobs/{sha}" and (repo / "blobs" / sha).stat().st_size == len(DATA)
    assert (repo / "refs" / "main").read_text() == COMMIT
    assert not incomplete(tmp_path) and not list(tmp_path.rglob("*.tmp*"))
    before = len(hub.gets())
    assert path_of(pull("org/model:model-Q4_K_M.gguf")) == path and len(hub.gets()) == before   # nothing comes twice


def test_huggingface_hub_finds_what_we_pulled(pull, tmp_path):
    hh = pytest.importorskip("huggingface_hub")   # comes with tokenizers
    path = path_of(pull("org/model:Q4_K_M"))
    assert str(hh.try_to_load_from_cache("org/model", "model-Q4_K_M.gguf", cache_dir=tmp_path / "hub")) == path
    scan = hh.scan_cache_dir(tmp_path / "hub")
    assert not scan.warnings and [r.repo_id for r in scan.repos] == ["org/model"] and scan.size_on_disk == len(DATA)


@pytest.mark.parametrize("spec,file", [("org/model", "model-Q4_K_M.gguf"), ("org/model:Q4_K_M", "model-Q4_K_M.gguf"), ("org/model:q8_0", "model-Q8_0.gguf"),
                                       ("org/model:Q4_K_S", "model-Q4_K_S.gguf"), ("org/one", "sub/w ä.gguf"), ("org/one:sub/w ä.gguf", "sub/w ä.gguf")])
def test_choosing(pull, hub, spec, file):
    path = path_of(pull(spec))
    assert path.endswith("/" + file) and open(path, "rb").read() == hub.repos[spec.split(":")[0]][file]


def test_split_set_comes_whole(pull, hub):
    j = json.loads(path_of(pull("org/split:Q8_0", "--json")))
    assert j["files"] == 3 and j["fetched"] == j["bytes"] == 6000 and j["commit"] == COMMIT
    for i in (1, 2, 3):
        assert open(j["path"].replace("00001-of", f"{i:05}-of"), "rb").read() == hub.repos["org/split"][f"m-Q8_0-{i:05}-of-00003.gguf"]


def test_folder(pull):
    path = path_of(pull("org/folder"))
    assert sorted(os.listdir(path)) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert open(f"{path}/config.json", "rb").read() == SMALL


def test_broken_connection_is_resumed(pull, hub):
    hub.cut_at = 300_000
    assert open(path_of(pull("org/model:Q4_K_M")), "rb").read() == DATA
    ranges = [g[3] for g in hub.gets()]
    assert ranges[0] is None and ranges[1] == "bytes=300000-", ranges


def test_ctrl_c_leaves_a_part_that_is_resumed(imp, pull, hub, tmp_path):
    hub.slow = 0.2
    p = subprocess.Popen([imp.path, "pull", "org/model:Q4_K_M"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hub"), "HOME": str(tmp_path)},
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    for _ in range(200):
        if incomplete(tmp_path) and incomplete(tmp_path)[0].stat().st_size > 60_000:
            break
        time.sleep(0.02)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=20)
    assert p.returncode == 130 and b"goes on from there" in err, (p.returncode, err)
    part = incomplete(tmp_path)[0]
    n = part.stat().st_size
    assert 0 < n < len(DATA) and part.read_bytes() == DATA[:n]
    hub.slow = 0
    hub.log.clear()
    j = json.loads(path_of(pull("org/model:Q4_K_M", "--json")))
    assert open(j["path"], "rb").read() == DATA and j["fetched"] == len(DATA) - n
    assert [g[3] for g in hub.gets()] == [f"bytes={n}-"] and not incomplete(tmp_path)


def test_a_server_without_ranges_begins_anew(pull, hub):
    hub.no_ranges = True
    hub.cut_at = 300_000
    assert open(path_of(pull("org/model:Q4_K_M")), "rb").read() == DATA


def test_wrong_checksum(pull, hub, tmp_path):
    hub.wrong_bytes = True
    failed(pull("org/model:Q4_K_M"), 1, "checksum", hashlib.sha256(DATA).hexdigest())
    assert not incomplete(tmp_path) and not list(tmp_path.rglob("*.gguf"))
    hub.wrong_bytes = False
    assert open(path_of(pull("org/model:Q4_K_M")), "rb").read() == DATA


def test_wrong_checksum_of_a_small_file(pull, hub):
    hub.wrong_bytes = True
    failed(pull("org/folder"), 1, "checksum")


def test_a_damaged_part_is_found_out(pull, hub, tmp_path):
    blobs = tmp_path / "hub" / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(DATA).hexdigest()}.incomplete").write_bytes(b"x" * 1000)
    failed(pull("org/model:Q4_K_M"), 1, "checksum")
    assert open(path_of(pull("org/model:Q4_K_M")), "rb").read() == DATA


def test_token(pull, hub):
    hub.token = "hf_secret"
    failed(pull("org/model:Q4_K_M"), 1, "401", "HF_TOKEN")
    failed(pull("org/model:Q4_K_M", env={"HF_TOKEN": "hf_wrong"}), 1, "401", "HF_TOKEN does not open it")
    hub.log.clear()
    r = pull("org/model:Q4_K_M", env={"HF_TOKEN": "hf_secret"})
    path_of(r)
    assert all(e[4] == "Bearer hf_secret" for e in hub.log if e[0] == "hub")
    assert hub.gets("cdn") and all(e[4] is None for e in hub.log if e[0] == "cdn")   # another host never sees it
    assert b"hf_secret" not in r.stderr + r.stdout


def test_not_found(pull, hub):
    failed(pull("org/nothing"), 1, "org/nothing", "not found")
    failed(pull("org/model:no.gguf"), 1, "no.gguf", "model-Q4_K_M.gguf")
    failed(pull("org/model:Q2_K"), 1, "Q2_K")
    failed(pull("org/model", "--revision", "v9"), 1, "not found")
    failed(pull("org/empty"), 1, "GGUF")
    failed(pull("org/model:gguf"), 2, "name one")


@pytest.mark.parametrize("spec", ["", "a/b/c", "../x", "org/model:../../x", "org/model:/etc/passwd", "org/mo del", "/abs"])
def test_bad_specs(pull, hub, spec):
    failed(pull(spec), 2, "wanted ORG/NAME")
    assert hub.log == []


def test_unsafe_names_from_the_hub(pull, hub, tmp_path):
    hub.extra_siblings = ["../../../evil.gguf"]
    failed(pull("org/model"), 1, "unsafe")
    hub.extra_siblings = []
    hub.etag["model-Q4_K_M.gguf"] = "../../evil"
    failed(pull("org/model:Q4_K_M"), 1, "ETag")
    assert not list(tmp_path.rglob("evil*"))


def test_renamed_repository(pull, hub):
    hub.moved["old/name"] = "org/model"
    assert open(path_of(pull("old/name:Q4_K_M")), "rb").read() == DATA


def test_no_space(pull, hub, tmp_path):
    hub.claim["model-Q4_K_M.gguf"] = 1 << 60
    failed(pull("org/model:Q4_K_M"), 1, "no space")
    assert not incomplete(tmp_path) and not hub.gets("cdn")


def test_more_bytes_than_announced(pull, hub):
    hub.claim["model-Q4_K_M.gguf"] = 1000
    failed(pull("org/model:Q4_K_M"), 1, "announced")


def test_no_server(pull):
    failed(pull("org/model", env={"HF_ENDPOINT": "http://127.0.0.1:9"}), 1, "127.0.0.1")


def test_quiet_and_the_report(pull):
    r = pull("org/model:Q4_K_S")
    assert b"files" in r.stderr
    assert pull("org/model:Q4_K_S", "--quiet").stderr == b""


def test_model_option_pulls_on_demand(imp, hub, tiny, tmp_path):
    hub.repos["org/tiny"] = {"tiny-F32.gguf": tiny.read_bytes()}
    env = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hub")}
    args = ("-p", "The", "-n", 6, "--temp", 0)
    assert imp.ok("run", "-m", "org/tiny:F32", *args, env=env) == imp.ok("run", "-m", tiny, *args)
    n = len(hub.log)
    assert n > 0
    imp.ok("run", "-m", "org/tiny:tiny-F32.gguf", *args, env={**env, "HF_ENDPOINT": "http://127.0.0.1:9"})   # from the cache, without a network
    assert len(hub.log) == n

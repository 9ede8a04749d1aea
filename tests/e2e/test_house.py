"""The house around the code: headers, installation, layers, and what may not be in the repository."""
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from conftest import BUILD, ROOT

PROGRAM = '#include <imp.h>\n#include <stdio.h>\nint main(void) { puts(imp_version()); return imp_status_text(IMP_OK) == NULL; }\n'


def run(*args, **kw):
    return subprocess.run([str(a) for a in args], capture_output=True, text=True, **kw)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    root = tmp_path_factory.mktemp("install")
    if not (BUILD / "libimp.so").exists():
        pytest.fail(f"{BUILD}/libimp.so is not built")
    r = run("sh", "scripts/install.sh", BUILD, root, cwd=ROOT)
    assert r.returncode == 0, r.stderr
    return root


def test_every_header_compiles_alone():
    headers = [h for h in sorted((ROOT / "src").rglob("*.h")) if not h.name.endswith("_body.h") and "cuda" not in h.parts]
    assert len(headers) > 20
    bad = []
    for h in headers:
        r = run("gcc", "-std=c17", "-D_GNU_SOURCE", "-fsyntax-only", "-x", "c", "-Iinclude", "-Isrc", "-I", BUILD / "gen", h, cwd=ROOT)
        if r.returncode:
            bad.append(f"{h.relative_to(ROOT)}: {r.stderr.splitlines()[0]}")
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("compiler,standard", [("gcc", "-std=c17"), ("g++", "-std=c++17")])
def test_public_header_compiles_strictly(compiler, standard, tmp_path):
    source = tmp_path / ("t.c" if compiler == "gcc" else "t.cpp")
    source.write_text(PROGRAM)
    r = run(compiler, standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-I", ROOT / "include", source)
    assert r.returncode == 0, r.stderr


@pytest.mark.parametrize("compiler", ["gcc", "g++"])
@pytest.mark.parametrize("kind", ["shared", "static"])
def test_installed_library_links(installed, tmp_path, compiler, kind):
    if not shutil.which("pkg-config"):
        pytest.skip("no pkg-config")
    source = tmp_path / ("t.c" if compiler == "gcc" else "t.cpp")
    source.write_text(PROGRAM)
    env = {**os.environ, "PKG_CONFIG_PATH": str(installed / "lib" / "pkgconfig"), "LD_LIBRARY_PATH": str(installed / "lib")}
    flags = run("pkg-config", "--cflags", "--libs", *(["--static"] if kind == "static" else []), "imp", env=env).stdout.split()
    if kind == "static":
        flags = [str(installed / "lib" / "libimp.a") if f == "-limp" else f for f in flags]
    r = run(compiler, source, "-o", tmp_path / "t", *flags)
    assert r.returncode == 0, r.stderr
    r = run(tmp_path / "t", env=env)
    assert r.returncode == 0 and re.fullmatch(r"\d+\.\d+\.\d+\n", r.stdout)


def test_installed_program_and_links(installed):
    version = run(installed / "bin" / "imp", "--version").stdout
    assert version.startswith("imp ")
    for link in ("imp-cli", "imp-server", "imp-bench"):
        assert (installed / "bin" / link).is_symlink() and (installed / "bin" / link).resolve().name == "imp"


def test_only_the_public_names_are_exported(installed):
    names = [line.split()[-1] for line in run("nm", "-D", "--defined-only", installed / "lib" / "libimp.so").stdout.splitlines()]
    assert "imp_version" in names and all(n.startswith("imp_") for n in names), [n for n in names if not n.startswith("imp_")]


def test_the_executable_stays_small():
    limit = 36 if (BUILD / "cuda").exists() else 6   # MiB; kernels for GPUs travel in it
    size = (BUILD / "imp").stat().st_size
    assert size <= limit << 20, f"wanted up to {limit} MiB, got {size} bytes"


@pytest.fixture
def house(tmp_path):
    """A copy of the parts that scripts/layers.py looks at."""
    for part in ("src", "docs", "scripts"):
        shutil.copytree(ROOT / part, tmp_path / part)
    return tmp_path


def layers(house):
    return run(sys.executable, house / "scripts" / "layers.py")


def test_layers_hold(house):
    r = layers(house)
    assert r.returncode == 0, r.stdout


@pytest.mark.parametrize("file,line", [("src/base/bad.c", '#include "engine/engine.h"'), ("src/model/bad.c", '#include "backend/backend.h"'),
                                       ("src/server/bad.c", '#include "engine/engine.h"'), ("src/quant/bad.h", '#include "../file/modelfile.h"'),
                                       ("src/text/bad.c", "int f(void) { return getenv(\"HOME\") != 0; }"), ("src/engine/bad.c", "void f(void) { abort(); }"),
                                       ("src/cli/bad.c", "char *f(void) { return getenv(\"HOME\"); }"), ("src/attic/bad.c", "int x;")])
def test_layers_fail_where_they_must(house, file, line):
    (house / file).parent.mkdir(exist_ok=True)
    (house / file).write_text("/* abort(), getenv() and exit() in a comment are fine */\n" + line + "\n")
    r = layers(house)
    assert r.returncode == 1 and f"{file}:" in r.stdout and ", 1 violations" in r.stdout, r.stdout


def tracked():
    r = run("git", "ls-files", "-z", cwd=ROOT)
    if r.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / f for f in r.stdout.split("\0") if f]


def test_no_registry_host_and_no_path_of_a_machine():
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "deb.debian" + ".org", "files.python" + "hosted", "crates" + ".io/api", "registry.npm" + "js"]
    paths = ["/work" + "/main", "/work" + "/shared", "/root" + "/."]
    bad = []
    for f in tracked():
        if f.suffix in (".gguf", ".npz", ".bin", ".png") or not f.is_file():
            continue
        text = f.read_bytes().decode("utf-8", "replace")
        bad += [f"{f.relative_to(ROOT)}: {w}" for w in hosts + paths if w in text]
    assert not bad, "\n".join(bad)


def test_scripts_are_posix_shell():
    shells = [f for f in tracked() if f.suffix == ".sh" or f.name == "run" and f.parent.name == ".ci"]
    assert len(shells) >= 4
    for f in shells:
        r = run("dash" if shutil.which("dash") else "sh", "-n", f)
        assert r.returncode == 0, r.stderr


def test_tables_of_the_readme_are_the_programs_own():
    r = run(sys.executable, ROOT / "scripts" / "readme_tables.py", "--check", BUILD / "imp")
    assert r.returncode == 0, r.stdout + r.stderr + "run: python3 scripts/readme_tables.py"


def test_manual_pages_are_well_formed(imp):
    import json
    for c in json.loads(imp.ok("help", "--json"))["commands"]:
        if c["built"]:
            page = imp.ok("help", "--man", c["name"]).decode()
            assert page.startswith(".TH ") and ".SH OPTIONS" in page and "\n\n" not in page

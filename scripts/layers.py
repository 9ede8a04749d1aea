#!/usr/bin/env python3
"""Checks that the house stands on its foundations; prints every violation as file:line and exits 1 if there is one.

- An include may only point to the folders that the table of docs/design.md allows (and to those which these allow).
- getenv appears only in src/cli/env.c: the environment is one table there.
- exit, _exit, quick_exit and abort appear only in src/cli and src/server: library code returns a status.
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# The server and the tools of people sit on the C API; what lies under it is out of their sight, base excepted.
FRONT = {"server"}
ONLY = {
    r"\b(secure_)?getenv\s*\(": ("getenv", re.compile(r"^src/cli/env\.c$")),
    r"(?<![\w.>])(_exit|_Exit|exit|quick_exit|abort)\s*\(": ("exit/abort", re.compile(r"^src/(cli|server)/")),
}


def allowed_folders():
    """{folder: folders it may include}, from the table: column one names the folder, column three lists what it may include."""
    direct, order = {}, []
    for line in open(os.path.join(ROOT, "docs/design.md"), encoding="utf-8"):
        m = re.match(r"\| `src/(\w+)/` \|.*\| ([^|]+) \|\s*$", line)
        if not m:
            continue
        folder, words = m.group(1), [w.strip() for w in m.group(2).split(",")]
        direct[folder] = set(order) if words == ["all above"] else {w for w in words if w != "libc"}
        order.append(folder)
    if len(direct) < 10:
        sys.exit("layers: docs/design.md: the table of folders is gone or changed its form")
    unknown = {(f, w) for f, ws in direct.items() for w in ws if w not in direct}
    if unknown:
        sys.exit(f"layers: docs/design.md: the table allows folders it does not list: {sorted(unknown)}")
    closed = {}
    for folder in order:
        if folder in FRONT:
            closed[folder] = direct[folder] | {folder, "base"}
            continue
        reach, todo = {folder}, list(direct[folder])
        while todo:
            f = todo.pop()
            if f not in reach:
                reach.add(f)
                todo.extend(direct[f])
        closed[folder] = reach
    return closed


def blank(text):
    """The text with comments and the insides of literals blanked, line for line."""
    token = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return token.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def main():
    allowed = allowed_folders()
    wrong, n_files, n_includes = [], 0, 0
    for folder, dirs, files in os.walk(os.path.join(ROOT, "src")):
        dirs.sort()
        for name in sorted(files):
            if not name.endswith((".c", ".h", ".cu", ".cuh", ".inc")):
                continue
            n_files += 1
            path = os.path.relpath(os.path.join(folder, name), ROOT)
            layer = path.split(os.sep)[1]
            text = open(os.path.join(ROOT, path), encoding="utf-8").read()
            if layer not in allowed:
                wrong.append(f"{path}:1: folder src/{layer} is not in the table of docs/design.md")
                continue
            for i, line in enumerate(text.split("\n"), 1):
                m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                if not m:
                    continue
                n_includes += 1
                target = m.group(1)
                full = os.path.normpath(os.path.join(folder, target)) if target.startswith(".") else None
                first = os.path.relpath(full, os.path.join(ROOT, "src")).split(os.sep)[0] if full else target.split("/")[0]
                if "/" in target and first in allowed and first not in allowed[layer]:
                    wrong.append(f"{path}:{i}: src/{layer} may not include {target} (allowed: {', '.join(sorted(allowed[layer]))})")
            code = blank(text)
            for pattern, (what, where) in ONLY.items():
                if where.match(path):
                    continue
                for m in re.finditer(pattern, code):
                    line = code.count("\n", 0, m.start()) + 1
                    wrong.append(f"{path}:{line}: {what} belongs in {where.pattern.strip('^$')} only")
    print("\n".join(wrong) if wrong else "", end="\n" if wrong else "")
    print(f"layers: {n_files} files, {n_includes} includes, {len(wrong)} violations")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Seeds of fuzz_config: every folder's own config.json behind the byte that chooses the folder."""
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
for i, folder in enumerate(sorted((HERE.parent / "fixtures" / "hf").iterdir())):
    (HERE / "seeds" / "config").mkdir(parents=True, exist_ok=True)
    (HERE / "seeds" / "config" / folder.name).write_bytes(bytes([i]) + (folder / "config.json").read_bytes())

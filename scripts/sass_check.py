#!/usr/bin/env python3
"""Checks the GPU build: no spills in hot kernels, no serialised wgmma, the instructions that each is meant to use, and
how many a block of gemv_dense runs before it asks for its first weights.

usage: sass_check.py BUILD   (after `make cuda`; needs cuobjdump for the second half: PyPI nvidia-cuda-cuobjdump)
"""
import re
import shutil
import subprocess
import sys
from pathlib import Path

HOT = {  # kernel: instructions that its sm_90a code must contain
    **{f"imp_gemv_{k}": ["HMMA.16816", "LDGSTS", "LDSM"] for k in ("f16", "i8", "u4", "nv4", "q4k", "q5k", "q6k", "f8")},
    **{f"imp_gemv_{k}_{what}": ["HMMA.16816", "LDGSTS", "LDSM"] for what in ("norm", "norm8", "pair", "pair8", "half")
       for k in ("f16", "i8", "u4", "nv4", "q4k", "q5k", "q6k", "f8")},
    **{f"imp_gemv_{k}_q6k_{what}": ["HMMA.16816", "LDGSTS", "LDSM"] for what in ("norm", "norm8") for k in ("q4k", "q5k")},
    **{f"imp_gemv_{k}_few{p}": ["HMMA.16816", "LDGSTS", "LDSM", "UBLKCP"] for p in ("", "_pair")
       for k in ("f16", "i8", "u4", "nv4", "q4k", "q5k", "q6k", "f8")},
    **{f"imp_gemv_{k}_q6k_few": ["HMMA.16816", "LDGSTS", "LDSM", "UBLKCP"] for k in ("q4k", "q5k")},
    **{f"imp_experts_{d}_{k}{p}": ["HMMA.16816", "LDGSTS", "LDSM"] for d in ("up", "down") for p in ("", "_p")
       for k in ("f16", "i8", "u4", "nv4", "q4k", "q5k", "q6k", "f8")},
    "imp_rows2": ["HMMA.16816", "UBLKCP"],
    "imp_rows4": ["HMMA.16816", "UBLKCP"],
    "imp_batch8": ["HGMMA.64x8x16", "UTMALDG.3D", "UBLKCP"],
    "imp_batch16": ["HGMMA.64x16x16", "UTMALDG.3D", "UBLKCP"],
    "imp_batch32": ["HGMMA.64x32x16", "UTMALDG.3D", "UBLKCP"],
    "imp_batch64": ["HGMMA.64x64x16", "UTMALDG.3D", "UBLKCP"],
    "imp_batch128": ["HGMMA.64x128x16", "UTMALDG.3D", "UBLKCP"],
    "imp_attend_d64": ["HMMA.16816", "UTMALDG.5D", "LDSM.16.MT88.4", "MOVM"],
    "imp_attend_d128": ["HMMA.16816", "UTMALDG.5D", "LDSM.16.MT88.4", "MOVM"],
    **{f"imp_attend_q{d}{p}": ["HMMA.16816", "UTMALDG.5D", "LDSM.16.MT88.4", "MOVM"] for d in (64, 128) for p in "lp"},
    "imp_attend_q64": ["HMMA.16816", "UTMALDG.5D", "LDSM.16.MT88.4", "MOVM"],
    "imp_attend_q128": ["HMMA.16816", "UTMALDG.5D", "LDSM.16.MT88.4", "MOVM"],
    "imp_prefill_1x128": ["HGMMA.64x128x16", "UTMALDG.2D", "UBLKCP"],
    "imp_prefill_1x256": ["HGMMA.64x256x16", "UTMALDG.2D", "UBLKCP"],
    "imp_prefill_2x64": ["HGMMA.64x64x16", "UTMALDG.2D", "UBLKCP", "LDGSTS"],
    "imp_prefill_2x128": ["HGMMA.64x128x16", "UTMALDG.2D", "UBLKCP", "LDGSTS"],
    "imp_experts_up_q4k_r": ["HMMA.16816", "LDGSTS", "LDSM"],
    "imp_experts_d16": ["HGMMA.64x16x16", "UTMALDG.2D", "UBLKCP", "LDGSTS"],
    "imp_fp8_128x256": ["QGMMA.64x128x32.F32.E4M3.E4M3", "UTMALDG.2D"],
    "imp_fp8_64x256": ["QGMMA.64x128x32.F32.E4M3.E4M3", "UTMALDG.2D"],
    "imp_fp8_128x128": ["QGMMA.64x128x32.F32.E4M3.E4M3", "UTMALDG.2D"],
    "imp_fp8_64x128": ["QGMMA.64x64x32.F32.E4M3.E4M3", "UTMALDG.2D"],
    "imp_fp8_64x64": ["QGMMA.64x32x32.F32.E4M3.E4M3", "UTMALDG.2D"],
    "imp_fp8_rows": ["E4M3"],
    "imp_attend_w64": ["HGMMA.64x128x16", "HGMMA.64x64x16", "UTMALDG.3D"],
    "imp_attend_w128": ["HGMMA.64x128x16", "UTMALDG.3D"],
    "imp_attend_w256": ["HGMMA.64x64x16", "HGMMA.64x256x16", "UTMALDG.3D"],
    "imp_precise_one": ["FFMA", "SHFL.BFLY"],
    "imp_precise_four": ["FFMA", "SHFL.BFLY"],
    "imp_precise_many": ["FFMA", "LDS.128", "LDGSTS"],
    "imp_sample": ["UCGABAR_ARV", "UCGABAR_WAIT"],
}

# Instructions are fetched anew at each launch, and until the first copy memory does nothing: 53 instead of 134 of them
# were worth 3 to 16% of a decoding step (docs/kernels.md, "2026-11-29, third part", 3).
FIRST_COPY = {k: 80 if "_few" in k else 72 for k in HOT if re.fullmatch(r"imp_gemv_\w+_(norm8?|pair8?|half|few)", k)}


def first_copy(code):
    """The number of instructions before the first copy to shared memory."""
    found = re.findall(r"/\*[0-9a-f]{4,5}\*/\s+(.*?);", code)
    return next((i for i, text in enumerate(found) if "LDGSTS" in text), len(found))


def spills(build):
    """(kernel, arch) -> bytes of spills, from ptxas -v; and its warnings about serialised wgmma."""
    out, warn = {}, []
    for f in sorted((build / "cuda").glob("*.ptxas")):
        kernel = None
        for line in f.read_text().splitlines():
            m = re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line)
            if m:
                kernel = m.groups()
            m = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)
            if m and kernel:
                out[kernel] = int(m[1]) + int(m[2])
            if "wgmma.mma_async instructions are serialized" in line:
                warn.append(line.strip())
    return out, warn


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    build, bad = Path(sys.argv[1]), []
    spill, warn = spills(build)
    bad += warn
    for k in HOT:
        if (k, "sm_90a") not in spill:
            bad.append(f"{k}: not in this build")
        elif spill[k, "sm_90a"]:
            bad.append(f"{k}: {spill[k, 'sm_90a']} bytes of spills")
    tool = shutil.which("cuobjdump")
    if not tool:
        print("sass_check: no cuobjdump: instructions not checked")
    else:
        code = {}
        for f in sorted((build / "cuda").glob("*.fatbin")):
            text = subprocess.run([tool, "-sass", "-arch", "sm_90a", str(f)], capture_output=True, text=True, check=True).stdout
            for part in text.split("Function : ")[1:]:
                code[part.split()[0]] = part
        for k, wanted in HOT.items():
            bad += [f"{k}: no {i}" for i in wanted if i not in code.get(k, "")]
        for k, most in FIRST_COPY.items():
            n = first_copy(code.get(k, ""))
            if n > most:
                bad.append(f"{k}: {n} instructions before its first copy, {most} are allowed")
    for line in bad:
        print("sass_check:", line)
    print(f"sass_check: {len(HOT)} kernels, {len(bad)} findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

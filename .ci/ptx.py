"""Compiles the CUDA kernels to the PTX that the package holds. Needs nvcc; the result runs without it.

A comment in its first line has the SHA-256 of the sources. The version of the PTX is lowered to the first that knows
the target, so that the drivers of CUDA 11 and 12 read it; ptxas checks that it holds nothing newer.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

KERNELS = Path(__file__).parents[1] / "tta_server" / "backends" / "cuda" / "kernels"
SOURCES = ("views.cuh", "views.cu")
TARGET, VERSION = 75, "6.3"
CHECKED = (75, 80, 90, 100)
"""Architectures that must assemble it without spilled registers."""


def main() -> int:
    target = KERNELS / "views.ptx"
    digest = hashlib.sha256(b"".join((KERNELS / name).read_bytes() for name in SOURCES)).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "views.ptx"
        nvcc = ["nvcc", "-ptx", f"-arch=compute_{TARGET}", "-O3", "-fmad=false", "-o", str(made)]
        subprocess.run([*nvcc, str(KERNELS / "views.cu")], check=True)
        ptx = re.sub(r"(?m)^\.version .*$", f".version {VERSION}", made.read_text("ascii"))
        made.write_text(f"// sources: {digest}\n{ptx}", "ascii")
        for number in CHECKED:
            _assemble(made, number)
        target.write_bytes(made.read_bytes())
    sys.stdout.write(f"{target}: {target.stat().st_size} bytes\n")
    return 0


def _assemble(ptx: Path, number: int) -> None:
    command = ["ptxas", f"-arch=sm_{number}", "-v", str(ptx), "-o", "/dev/null"]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    registers = [int(found) for found in re.findall(r"Used (\d+) registers", report)]
    spilled = sum(int(found) for found in re.findall(r"(\d+) bytes spill", report))
    sys.stdout.write(f"sm_{number}: {len(registers)} kernels, at most {max(registers)} registers, {spilled} spilled\n")
    if spilled:
        raise SystemExit(f"sm_{number}: {spilled} bytes of registers are spilled to memory; split the kernel")


if __name__ == "__main__":
    sys.exit(main())

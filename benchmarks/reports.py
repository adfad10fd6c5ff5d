"""Whether known failures with files, threads and requests, from public bug reports, are absent here.

Runs the scripts of ../shared/hunt that reproduce such reports. Each builds a small model or image, uses the server or
the Python API, and prints PASS or FAIL. Exits with 1 where one fails.

    .venv/bin/python benchmarks/reports.py [--scripts DIR]
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parents[1]
NAMED = ("tiff_", "png_", "base64_", "form_", "head_", "fork_", "submit_", "drone_", "full_hd_")
NEW_KEY = ("max_size: 1333", "max_long_side: 1333, max_size: 1344")
"""full_hd_* was written before this key had its final name."""


def verdict(script: Path) -> str:
    ran = subprocess.run([sys.executable, "-B", str(script)], cwd=ROOT, capture_output=True, text=True, timeout=400)
    line = next((x for x in ran.stdout.splitlines() if x.startswith(("PASS", "FAIL"))), None)
    return line or f"FAIL {script.stem}: no verdict: {(ran.stderr.strip().splitlines() or ['-'])[-1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=Path, default=ROOT.parent / "shared" / "hunt")
    folder, console = parser.parse_args().scripts, Console(highlight=False, soft_wrap=True, markup=False)
    if not folder.is_dir():
        raise SystemExit(f"there are no scripts in {folder}; name their folder with --scripts")
    with tempfile.TemporaryDirectory() as copied:
        copy = Path(shutil.copytree(folder, Path(copied) / "hunt"))
        scripts = sorted(script for script in copy.glob("*.py") if script.name.startswith(NAMED))
        for script in scripts:
            if script.name.startswith("full_hd_"):
                script.write_text(script.read_text().replace(*NEW_KEY))
        verdicts = [verdict(script) for script in scripts]
    for line in verdicts:
        console.print(line[:200])
    passed = sum(line.startswith("PASS") for line in verdicts)
    console.print(f"{passed} of {len(verdicts)} pass (target: all)")
    return 0 if verdicts and passed == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())

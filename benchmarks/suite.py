"""How long the tests take: `make test` of this checkout against `pytest` of another, one after the other.

Met where it takes at most 0.40 of the time and runs at least 95 % of the test functions of `make test-all`. Exits with
1 where either is missed, or where a test of this checkout fails. The machine has to be idle.

    .venv/bin/python benchmarks/suite.py COMMIT_OR_FOLDER [--rounds 1]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from benchmarks.against import checkout

ROOT = Path(__file__).parents[1]
TIME, FUNCTIONS = 0.40, 0.95
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


@contextmanager
def tree(other: str) -> Iterator[Path]:
    """The other checkout: a folder, or a commit of this repository."""
    if Path(other).is_dir():
        yield Path(other).resolve()
    else:
        with checkout(other) as folder:
            yield folder


def timed(command: list[str], folder: Path) -> tuple[float, str]:
    """Seconds, and the last line of its output."""
    begun = time.monotonic()
    ran = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    lines = (ran.stdout + ran.stderr).strip().splitlines() or ["no output"]
    return time.monotonic() - begun, f"exit status {ran.returncode}: {lines[-1]}"


def functions(target: str) -> set[str]:
    """The test functions of a make target, as file::name."""
    command = ["make", "-s", target, "ARGS=--collect-only -q"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {line.partition("[")[0] for line in listed.splitlines() if "::" in line}


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", help="a commit, or the folder of another checkout")
    parser.add_argument("--rounds", type=int, default=1, help="each runs both; the ratio is that of the medians (1)")
    args = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True, markup=False)
    some, every = functions("test"), functions("test-all")
    share = len(some) / len(every)
    console.print(
        f"make test runs {len(some)} of {len(every)} test functions, {share:.1%}; "
        f"target {FUNCTIONS:.0%}: {verdict(share >= FUNCTIONS)}"
    )
    seconds: dict[str, list[float]] = {"other": [], "here": []}
    passed = True
    with tree(args.other) as folder:
        for number in range(args.rounds):
            for name, command, where in (("other", PYTEST, folder), ("here", ["make", "-s", "test"], ROOT)):
                taken, ended = timed(command, where)
                seconds[name].append(taken)
                passed &= name == "other" or ended.startswith("exit status 0")
                console.print(f"round {number + 1}, {name}: {taken:.0f} s, {ended}")
    ratio = statistics.median(seconds["here"]) / statistics.median(seconds["other"])
    console.print(
        f"ratio {ratio:.2f}; target {TIME:.2f}: {verdict(ratio <= TIME)}; passed: {'yes' if passed else 'NO'}"
    )
    return 0 if ratio <= TIME and share >= FUNCTIONS and passed else 1


if __name__ == "__main__":
    sys.exit(main())

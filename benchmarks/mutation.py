"""How many mutants of the core the tests find: a sample of those that mutmut makes, always the same for a seed.

Mutates a copy of this checkout in a temporary folder. Each mutant meets the tests that run its function, with the few
examples of the profile `fast`, until one fails. Prints the score, killed of tried, and the mutants that survive.

    .venv/bin/python benchmarks/mutation.py [--mutants 300] [--seed 0] [--minutes 30]
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from configparser import ConfigParser
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parents[1]
MUTATED = ("tta_server/scheduling", "tta_server/views", "tta_server/tasks")
TESTS = ("tests/scheduling", "tests/views", "tests/tasks")
COPIED = ("tta_server", "tests", "benchmarks", "models", "docs", "README.md", "pyproject.toml")
SPARED = ("__pycache__", ".*")
CONFIG = {
    "source_paths": MUTATED,
    "only_mutate": [f"{folder}/*" for folder in MUTATED],
    "also_copy": COPIED,
    "pytest_add_cli_args": ["-p", "no:cacheprovider", "--hypothesis-profile=fast"],
    "pytest_add_cli_args_test_selection": [*TESTS, "-m", "not slow"],
    "timeout_multiplier": ["2"],
    "timeout_constant": ["10"],  # seconds
    "use_git_change_detection": ["false"],
}
VERDICTS: dict[int | None, str] = {
    None: "not tried",
    2: "not tried",
    **dict.fromkeys((1, 3, -9, -11), "killed"),
    **dict.fromkeys((24, -24, 36, 152, 255), "timeout"),
}
"""Exit status of a mutant's tests -> what became of it; any other, no test at all included: it survived."""


def copy_tree(folder: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns(*SPARED))
        else:
            shutil.copy(source, folder / name)
    config = ConfigParser()
    config["mutmut"] = {key: "\n".join(["", *values] if len(values) > 1 else values) for key, values in CONFIG.items()}
    with (folder / "setup.cfg").open("w") as file:
        config.write(file)


class Mutmut:
    """mutmut in a folder, with an end."""

    def __init__(self, folder: Path, seconds: float, children: int) -> None:
        self.folder = folder
        self._end = time.monotonic() + seconds
        self._children = children

    def run(self, *names: str) -> str:
        """Its output; ends when its time is up."""
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(self._children), *names]
        log = self.folder / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, stdout=out, stderr=subprocess.STDOUT, env=os.environ, start_new_session=True
            )
            try:
                process.wait(max(1.0, self._end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
        return log.read_text(errors="replace").replace("\r", "\n")

    def statuses(self) -> dict[str, int | None]:
        """Of each mutant."""
        found: dict[str, int | None] = {}
        for path in sorted((self.folder / "mutants").rglob("*.meta")):
            found |= json.loads(path.read_text())["exit_code_by_key"]
        return found

    def difference(self, name: str) -> str:
        """The changed lines of a mutant."""
        shown = subprocess.run(
            [sys.executable, "-m", "mutmut", "show", name], cwd=self.folder, capture_output=True, text=True
        ).stdout
        lines = shown.splitlines()
        return "\n".join(line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=300, help="how many are tried (300)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    parser.add_argument("--minutes", type=float, default=30.0, help="after which those left are not tried (30)")
    parser.add_argument("--children", type=int, default=os.cpu_count() or 1, help="mutants at a time (one a core)")
    args = parser.parse_args()
    console, begun = Console(highlight=False, soft_wrap=True, markup=False), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(Path(folder))
        mutmut = Mutmut(Path(folder), 60 * args.minutes, args.children)
        prepared = mutmut.run("none")  # makes the mutants, times the tests, and finds none of that name
        names = sorted(mutmut.statuses())
        if not names or "nothing matches" not in prepared:
            raise SystemExit(f"mutmut made no mutants, or the tests fail without any:\n{prepared[-3000:]}")
        sample = random.Random(args.seed).sample(names, min(args.mutants, len(names)))
        console.print(f"{len(sample)} of {len(names)} mutants, seed {args.seed} ...")
        mutmut.run(*sample)
        statuses = mutmut.statuses()
        verdicts = {name: VERDICTS.get(statuses[name], "survived") for name in sorted(sample)}
        survivors = {name: mutmut.difference(name) for name, found in verdicts.items() if found == "survived"}
    for name, difference in survivors.items():
        console.print(f"\n{name}\n{difference}")
    counts = Counter(verdicts.values())
    tried = len(sample) - counts["not tried"]
    found = counts["killed"] + counts["timeout"]
    console.print(
        f"\nseed {args.seed}: {found} of {tried} mutants found ({found / max(tried, 1):.1%}), "
        f"{counts['timeout']} of them by time; {counts['survived']} survived, {counts['not tried']} not tried; "
        f"{time.monotonic() - begun:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

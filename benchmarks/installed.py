"""What installing this checkout takes, without and with an extra, each in a fresh virtual environment.

Measures the size of the installed packages, the processor time of `from tta_server import load` and of `tta-server
--help`, and whether the bundled classifier answers the same, with the extra `compile` also where graphs make its views.
`--against COMMIT` installs that commit too: the default install should not have grown. Needs a package index. Exits
with 1 if a target is missed.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.server import MODELS, ROOT

ROUNDS = 9
MOST_MB, GROWN = 450, 1.02
"""Targets: of the default install, and its size over that of the other commit."""
SLOWER = 1.15
"""Processor time of an import over that of the install that it is compared with, at most."""
ANSWER = """
import json, sys, tta_server
with tta_server.load(sys.argv[1], 1) as model:
    answer = model.predict(sys.argv[2], stop="all", min_views="all", budget_ms=60_000, include="probabilities")
print(json.dumps(answer.prediction["probabilities"]))
"""


@dataclass(frozen=True)
class Install:
    """A virtual environment with the package of `source`, and with extras."""

    name: str
    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def megabytes(self) -> float:
        """All packages but pip, without compiled files: those depend on what was imported."""
        (packages,) = self.folder.glob("lib/python*/site-packages")
        files = (path for path in packages.rglob("*") if path.is_file() and not path.is_symlink())
        own = (p for p in files if p.suffix != ".pyc" and not p.relative_to(packages).parts[0].startswith("pip"))
        return sum(path.stat().st_size for path in own) / 1e6

    def packages(self) -> set[str]:
        listed = subprocess.check_output([self.python, "-m", "pip", "list", "--format=json"])
        return {each["name"] for each in json.loads(listed)}

    def probabilities(self, folder: Path) -> list[float]:
        (sample,) = folder.glob("sample.*")
        found: list[float] = json.loads(_run(self.python, "-c", ANSWER, str(folder), str(sample)))
        return found


def _run(*command: str | Path) -> str:
    """Output of a program that sees no other checkout."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        command, cwd=tempfile.gettempdir(), env=environment, stdout=subprocess.PIPE, check=True, text=True
    ).stdout


def install(source: Path, extra: str, folder: Path) -> Install:
    """Install the package of a folder, with an extra like `[compile]`, or none."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    made = Install(f"{source.name}{extra.replace('[', ' + ').rstrip(']')}", folder)
    _run(made.python, "-m", "pip", "--disable-pip-version-check", "install", "-qq", f"{source}{extra}")
    return made


def working_tree(folder: Path) -> Path:
    """A copy of the files that git tracks here: pip writes beside them."""
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for name in filter(None, names):
        (folder / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "here" / name)
    return folder / "here"


def checkout(commit: str, folder: Path) -> Path:
    """The files of a commit, in a folder of its name."""
    made = folder / commit
    made.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-x", "-C", made], input=archive, check=True)
    return made


def processor_seconds(*command: str | Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(*command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def in_turns(installs: list[Install], *arguments: str) -> dict[str, float]:
    """Median processor seconds of a program in each install; other load then slows all alike."""
    found: dict[str, list[float]] = {each.name: [] for each in installs}
    for number in range(ROUNDS + 1):
        for each in installs:
            seconds = processor_seconds(each.python, *arguments)
            if number:  # the first run may compile files
                found[each.name].append(seconds)
    return {name: statistics.median(times) for name, times in found.items()}


class Report:
    """A table of figures and targets; `met` is false once one was missed."""

    def __init__(self) -> None:
        self.table = Table("figure", "found", "target", "met")
        self.met = True

    def add(self, name: str, found: str, target: str, is_met: bool) -> None:
        self.met &= is_met
        self.table.add_row(name, found, target, "yes" if is_met else "[red]missed")


def compare_extra(report: Report, plain: Install, extra: Install) -> None:
    added = sorted(extra.packages() - plain.packages())
    more = extra.megabytes() - plain.megabytes()
    report.add(f"packages of {extra.name}", f"{', '.join(added)}: {more:.0f} MB more", "some", bool(added))
    own = plain.probabilities(MODELS / "cifar10")
    report.add(f"answer of {extra.name}", "as without", "equal", extra.probabilities(MODELS / "cifar10") == own)
    if "onnx" not in added:
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = shutil.copytree(MODELS / "cifar10", Path(scratch) / "cifar10")
        with (folder / "tta.yaml").open("a", encoding="utf-8") as config:
            config.write("\nbackend: {views: graph}\n")
        off = max(abs(a - b) for a, b in zip(own, extra.probabilities(folder), strict=True))
    report.add("the same with views: graph, largest difference", f"{off:.1e}", "1e-05", off <= 1e-5)


def compare_times(report: Report, installs: list[Install]) -> None:
    plain = installs[0]
    for title, arguments in (
        ("from tta_server import load", ("-c", "from tta_server import load")),
        ("tta-server --help", ("-m", "tta_server", "--help")),
    ):
        found = in_turns(installs, *arguments)
        for name, seconds in found.items():
            ratio = found[plain.name] / seconds if name != plain.name else 1.0
            over = max(ratio, 1 / ratio)
            report.add(f"{title}, {name}", f"{seconds * 1e3:.0f} core-ms", f"within {SLOWER}x", over <= SLOWER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", default="compile", help="of pyproject.toml")
    parser.add_argument("--against", metavar="COMMIT")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as scratch:
        here = working_tree(Path(scratch))
        sources = [(here, ""), (here, f"[{options.extra}]")]
        if options.against:
            sources.append((checkout(options.against, Path(scratch)), ""))
        installs = [install(source, extra, Path(scratch) / f"install-{n}") for n, (source, extra) in enumerate(sources)]
        plain, extra = installs[:2]
        size = plain.megabytes()
        report.add("default install", f"{size:.0f} MB", f"under {MOST_MB} MB", size < MOST_MB)
        for other in installs[2:]:
            was, new = other.megabytes(), sorted(plain.packages() ^ other.packages())
            is_met = size <= GROWN * was and not new
            found = f"{size / was:.3f} of {was:.0f} MB; packages that differ: {', '.join(new) or 'none'}"
            report.add(f"the same over {other.name}", found, f"{GROWN}, none", is_met)
        compare_extra(report, plain, extra)
        compare_times(report, installs)
    Console(width=140).print(report.table)
    sys.exit(not report.met)


if __name__ == "__main__":
    main()

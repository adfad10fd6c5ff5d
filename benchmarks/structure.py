"""The size and the words of this checkout's code, beside another commit's: files, functions, parameters, layers.

Targets are those of CONTRIBUTING.md. Counted are the lines of the package's files, and its functions with their
docstrings; options of the command line are no parameters. Words are counted in code, tests, docs, README and CHANGELOG.
"""

import argparse
import ast
import re
import statistics
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.against import checkout
from benchmarks.server import ROOT

WORDS = re.compile(r"\b(told|nobody|somebody|whoever|anew|so\s+many)\b", re.IGNORECASE)
NOT_COUNTED = ("__init__.py", "__main__.py", "__pycache__")
MAX_ROOT, MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS, MAX_WORDS = 16, 300, 40, 6, 20

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node


def body_lines(function: Function) -> int:
    """From its `def`; of a command of the CLI without the list of its options."""
    first = function.body[0] if is_command(function) else function
    return (function.end_lineno or 0) - first.lineno + 1


def is_command(function: Function) -> bool:
    """True for a function whose parameters are options of the command line."""
    kinds = [ast.unparse(each.annotation) for each in function.args.args if each.annotation]
    return any(kind.endswith(("Option", "Argument")) for kind in kinds)


def parameters(function: Function) -> int:
    """Without self and cls."""
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


@dataclass(frozen=True)
class Figures:
    files: int
    root: int
    layers: int
    longest_file: tuple[int, str]
    longest_function: tuple[int, str]
    median_function: float
    p90_function: int
    many_parameters: int
    words: int


def measure(tree: Path) -> Figures:
    paths = sorted((tree / "tta_server").rglob("*.py"))
    known = [(path, function) for path in paths for function in functions(path)]
    outside = [(p, f) for p, f in known if "cli" not in p.parts or not is_command(f)]
    lengths = sorted(body_lines(function) for _, function in outside)
    contracts = tomllib.loads((tree / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return Figures(
        files=len(paths),
        root=sum(entry.name not in NOT_COUNTED for entry in (tree / "tta_server").iterdir()),
        layers=len(next(contract["layers"] for contract in contracts if contract["type"] == "layers")),
        longest_file=max((len(path.read_text().splitlines()), path.name) for path in paths),
        longest_function=max((body_lines(f), f"{p.name}:{f.name}") for p, f in known),
        median_function=statistics.median(lengths),
        p90_function=lengths[int(0.9 * len(lengths))],
        many_parameters=sum(parameters(function) > MAX_PARAMETERS for _, function in outside),
        words=sum(len(WORDS.findall(path.read_text())) for path in texts(tree)),
    )


def texts(tree: Path) -> Iterator[Path]:
    """Code, tests and prose; this file names the words."""
    for folder, kinds in {
        "tta_server": "py",
        "tests": "py",
        "benchmarks": "py md",
        "loadtest": "py",
        "docs": "md",
    }.items():
        for kind in kinds.split():
            yield from (path for path in (tree / folder).rglob(f"*.{kind}") if path.name != Path(__file__).name)
    yield from (tree / "models").rglob("*.md")
    yield from tree.glob("*.md")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?", help="the other commit")
    args = parser.parse_args()
    here, before = measure(ROOT), None
    if args.commit:
        with checkout(args.commit) as tree:
            before = measure(tree)
    limits = {
        "root": (here.root, MAX_ROOT),
        "longest_file": (here.longest_file[0], MAX_FILE),
        "longest_function": (here.longest_function[0], MAX_FUNCTION),
        "many_parameters": (here.many_parameters, 0),
        "words": (here.words, MAX_WORDS),
    }
    table = Table("what", "before", "here", "at most")
    for name in Figures.__dataclass_fields__:
        limit = str(limits[name][1]) if name in limits else ""
        table.add_row(name, str(getattr(before, name, "")), str(getattr(here, name)), limit)
    Console().print(table)
    missed = [name for name, (value, limit) in limits.items() if value > limit]
    print(f"missed: {', '.join(missed)}" if missed else "every target met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Holds the size limits that ruff does not know: lines of a file and of a function of the package."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "tta_server"
FILE, FUNCTION = 300, 40
"""Lines at most."""


def too_long(path: Path) -> Iterator[str]:
    source = path.read_text("utf-8")
    name = path.relative_to(PACKAGE.parent)
    if (lines := len(source.splitlines())) > FILE:
        yield f"{name}: {lines} lines, over {FILE}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = (
                node.body[0].lineno if "cli" in path.parts else node.lineno
            )  # a command's parameters are its options
            lines = (node.end_lineno or first) - first + 1
            if lines > FUNCTION:
                yield f"{name}:{node.lineno}: {node.name} has {lines} lines, over {FUNCTION}"


def main() -> int:
    found = [line for path in sorted(PACKAGE.rglob("*.py")) for line in too_long(path)]
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

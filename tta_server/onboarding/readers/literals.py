"""Python literals in metadata, as Ultralytics writes them; files come from anywhere, so their size is bounded."""

import ast
from typing import Any

LONGEST = 1 << 20
"""Characters of a literal that is read."""
DEEPEST = 8
"""Brackets inside one another."""


def read_literal(text: str) -> Any:
    """Return the value of a Python literal; None for a text that is none, too long or too deeply nested."""
    if len(text) > LONGEST or _depth(text) > DEEPEST:
        return None
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _depth(text: str) -> int:
    """Most brackets that are open at once; those in quotes count too."""
    depth = most = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        most = max(most, depth)
    return most

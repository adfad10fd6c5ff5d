"""`labels` of tta.yaml: a list of names, or a text file beside it with one name a line."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationInfo

from tta_server.errors import shown

LISTED = 3
"""Repeated labels that an error names."""


def parse_labels(found: Any, info: ValidationInfo) -> tuple[str, ...]:
    """Return the names; raise ValueError that begins with the key.

    The context of the validation has `folder`, that of tta.yaml, and `text`, its content.
    """
    context = info.context or {}
    if isinstance(found, str) and "folder" in context:
        return _from_file(context["folder"], found)
    if not isinstance(found, list | tuple):
        raise ValueError(f"labels is {shown(found)}; it should be a list of names, or a text file with one name a line")
    for index, label in enumerate(found):
        if not isinstance(label, str):
            raise ValueError(_no_text(index, label, context.get("text", "")))
    _check_unique(found, "labels[{}] and labels[{}]", first=0)
    return tuple(found)


def _from_file(folder: Path, name: str) -> tuple[str, ...]:
    found = f"labels is {shown(name)}"
    if Path(name).name != name or name in ("", "..") or not name.isprintable():
        raise ValueError(f"{found}; it should be a list of names, or the name of a text file beside tta.yaml")
    path = folder / name
    if not path.is_file():
        raise ValueError(
            f"{found}, and there is no such file beside tta.yaml; it should be a list of names, or a text file with "
            "one name a line"
        )
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{found}, which can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{found}, which is not text in UTF-8; save it as such") from None
    labels = [line.strip() for line in text.rstrip().split("\n")]
    if labels == [""]:
        raise ValueError(f"{found}, which is empty; it should have one name a line")
    if "" in labels:
        raise ValueError(f"{found}, whose line {labels.index('') + 1} is blank; it should have one name a line")
    _check_unique(labels, f"lines {{}} and {{}} of {name}", first=1)
    return tuple(labels)


def _check_unique(labels: Sequence[str], places: str, first: int) -> None:
    """Raise ValueError that names repeated labels and the `places` of two of each, numbered from `first`."""
    seen: dict[str, int] = {}
    repeated: dict[str, str] = {}
    for number, label in enumerate(labels, start=first):
        if label in seen:
            repeated.setdefault(label, f"{shown(label)} more than once ({places.format(seen[label], number)})")
        seen.setdefault(label, number)
    if repeated:
        rest = f", and {len(repeated) - LISTED} others" if len(repeated) > LISTED else ""
        raise ValueError(f"labels has {', '.join(list(repeated.values())[:LISTED])}{rest}; labels must be unique")


def _no_text(index: int, value: Any, text: str) -> str:
    """Return the sentence for an entry that YAML reads as something else than text."""
    written = _written(text, index) or shown(value)
    quoted = f'put it in quotes: "{written}"'
    match value:
        case bool():
            return f"labels[{index}] is the boolean {shown(value)}: YAML reads no, yes, on, off so; {quoted}"
        case None:
            return f"labels[{index}] is null: YAML reads null, ~ and an empty entry so; {quoted}"
        case date():
            return f"labels[{index}] is a date; {quoted}"
        case int() | float():
            return f"labels[{index}] is the number {shown(value)}; {quoted}"
        case _:
            return f"labels[{index}] is {shown(value)}; it should be text; put it in quotes"


def _written(text: str, index: int) -> str:
    """Return an entry of `labels` as it is written in tta.yaml; empty if it can't be found."""
    root = yaml.compose(text, yaml.SafeLoader)
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "labels" and isinstance(value, yaml.SequenceNode) and index < len(value.value):
            entry = value.value[index]
            return str(entry.value) if isinstance(entry, yaml.ScalarNode) else ""
    return ""

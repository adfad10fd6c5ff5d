"""Names of classes as tta.yaml takes them: unique, none empty."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Note

MOST = 100_000
"""Names that are read."""


def read_label_file(evidence: Evidence) -> Iterator[Finding]:
    """The lines of a text file."""
    for document in evidence.documents:
        if isinstance(document.content, list):
            yield from label_facts(document.content, f"{document.name}: {len(document.content)} lines")
            return


def read_character(evidence: Evidence) -> Iterator[Finding]:
    """Metadata `character` of PaddleOCR's family: a name a line, if the outputs have as many classes."""
    names = evidence.file.metadata.get("character", "").split("\n")
    if any(len(output.sizes) == 2 and output.sizes[1] == len(names) > 1 for output in evidence.file.tensors):
        yield from label_facts(names, f"metadata character, {len(names)} lines")


def label_facts(names: Sequence[Any], source: str) -> Iterator[Finding]:
    """The names, with a number behind those that are empty or repeated, and a note that says so."""
    cleaned = [" ".join(str(name).split()) for name in names[:MOST]]
    unique = _unique(cleaned)
    changed = [name for name, before in zip(unique, cleaned, strict=True) if name != before]
    if changed:
        yield Note(
            f"{source}: {len(changed)} names are empty or repeated; labels must be unique, so they got their class "
            f"number, as {changed[0]!r}"
        )
    yield Fact("labels", unique, source)


def _unique(names: Sequence[str]) -> list[str]:
    """The names that are there once, and the others with their number behind them, as often as it takes."""
    counts = Counter(names)
    taken = {name for name in names if name and counts[name] == 1}
    found = []
    for index, name in enumerate(names):
        if not name or counts[name] > 1:
            name = f"{name or 'class'} ({index})"
            while name in taken:
                name = f"{name} ({index})"
            taken.add(name)
        found.append(name)
    return found


def numbered(found: Any) -> list[Any] | None:
    """The names of a mapping of class numbers, 0 to C - 1, to names, or of a list; None for anything else."""
    if isinstance(found, list):
        return found
    if not isinstance(found, Mapping):
        return None
    try:
        by_number = {int(number): name for number, name in found.items()}
    except (TypeError, ValueError):
        return None
    if sorted(by_number) != list(range(len(by_number))):
        return None
    return [by_number[number] for number in range(len(by_number))]

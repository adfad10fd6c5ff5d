"""The text of a tta.yaml: each value with its evidence behind it, each open choice as a comment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import yaml

from tta_server.errors import ConfigError, shown
from tta_server.onboarding.choices import Choice
from tta_server.onboarding.conclusions import Conclusion
from tta_server.onboarding.evidence import Fact
from tta_server.onboarding.readers.labels import MOST
from tta_server.repository.input_config import InputConfig

INLINE = 12
"""Labels that are written into tta.yaml; more of them go into a file."""
LABEL_FILE = "labels.txt"
LONGEST = 200
"""Characters of a comment."""
FIRST = ("task", "description", "labels")
SECTIONS = ("input", "output")
ORDER = [*InputConfig.model_fields, "head", "name", "rows", "boxes", "scores", "labels", "holds", "transposed", "kind"]
"""Of keys in a section; all others come behind."""
HEAD = """\
# Made by `tta-server init`; behind each value is where it comes from. All keys: docs/models.md.
"""
CHOOSE = """\
# Fill in the lines that begin with `# ?` and remove these marks; nothing says what belongs there.
"""
VIEWS = """\
# Only the plain view runs. State the mirrors and turns that keep the label, and a policy that uses them:
# symmetries: [hflip]
# policy: hflip
"""


@dataclass(frozen=True, slots=True)
class Draft:
    """Text of tta.yaml, and the labels for the file that it names, if it does."""

    text: str
    labels: Sequence[str] = ()


def draft(found: Conclusion, inline: int = INLINE) -> Draft:
    """Write what was concluded as a tta.yaml; more than `inline` labels go into a file."""
    facts = dict(found.facts)
    labels = facts.get("labels")
    listed: Sequence[str] = ()
    if labels and isinstance(labels.value, list) and len(labels.value) > inline:
        listed = labels.value
        facts["labels"] = Fact("labels", LABEL_FILE, labels.source)
    lines = [*_top(facts, found.choices)]
    for section in SECTIONS:
        lines += _section(section, facts, found.choices)
    rest = [fact for key, fact in facts.items() if key not in FIRST and key.partition(".")[0] not in SECTIONS]
    lines += [_line(fact.key, fact) for fact in rest]
    views = "" if {"policy", "symmetries"} & facts.keys() else VIEWS
    head = HEAD + (CHOOSE if found.choices else "")
    return Draft(head + "".join(f"{line}\n" for line in lines) + views, listed)


def embeddable(found: Conclusion) -> Draft:
    """Write what was concluded as a tta.yaml that holds its labels. Raises ConfigError if a value is a file's name."""
    for key, endings in (("labels", ("",)), ("policy", (".yaml", ".yml"))):
        fact = found.facts.get(key)
        if fact and isinstance(fact.value, str) and fact.value.endswith(endings):
            raise ConfigError(
                f"--embed: {key} is {shown(fact.value)}, a file's name, and a model file goes without other files; "
                f"state {'them with --labels FILE' if key == 'labels' else 'a preset or a list of views'}"
            )
    return draft(found, MOST)


def _top(facts: dict[str, Fact], choices: Sequence[Choice]) -> Iterator[str]:
    open_keys = {choice.key: choice for choice in choices}
    for key in FIRST:
        if key in facts:
            yield _line(key, facts[key])
        elif key in open_keys:
            yield _open(key, open_keys[key])


def _section(section: str, facts: dict[str, Fact], choices: Sequence[Choice]) -> Iterator[str]:
    """A mapping; braces if it has no key at all."""
    entries: list[Fact | Choice] = [*facts.values(), *choices]
    found = {each.key.partition(".")[2]: each for each in entries if each.key.startswith(f"{section}.")}
    yield f"{section}:" if found else f"{section}: {{}}"
    for key in sorted(found, key=lambda key: ORDER.index(key) if key in ORDER else len(ORDER)):
        each = found[key]
        yield f"  {_line(key, each) if isinstance(each, Fact) else _open(key, each)}"


def _line(key: str, fact: Fact) -> str:
    return f"{_value(key)}: {_value(fact.value)}  # {_comment(fact.source)}"


def _open(key: str, choice: Choice) -> str:
    return f"# ? {key}:  # {_comment(choice.allowed)}"


def _value(value: Any) -> str:
    """A value in YAML's flow style, on one line."""
    text = yaml.safe_dump([value], default_flow_style=True, width=inf, allow_unicode=True, sort_keys=False)
    if not text[:-1].isprintable():
        text = yaml.safe_dump([value], default_flow_style=True, default_style='"', width=inf, sort_keys=False)
    return text[1:-2]


def _comment(text: str) -> str:
    """Text that can't end its line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:LONGEST]

"""What readers are given, and what they find."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tta_server.onboarding.model_file import ModelFile


@dataclass(frozen=True, slots=True)
class Fact:
    """A value for a key of tta.yaml, as in `input.size`, and where it comes from."""

    key: str
    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the model can't be served right, unless something stronger states `key`. One sentence."""

    key: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Note:
    """What a user should know. One sentence."""

    sentence: str


Finding = Fact | Refusal | Note


@dataclass(frozen=True, slots=True)
class Document:
    """A file beside the model, or one that was named: its JSON, or its lines if it is a text.

    `problem` is why it can't be read, and the content then None.
    """

    name: str
    content: Any
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a reader may look at."""

    file: ModelFile
    documents: Sequence[Document] = ()

    def document(self, *keys: str) -> tuple[str, Mapping[str, Any]] | None:
        """Name and content of the first JSON object that has one of the keys."""
        for each in self.documents:
            if isinstance(each.content, dict) and any(key in each.content for key in keys):
                return each.name, each.content
        return None


class Reads(Enum):
    """What a reader looks at. Files that the user named come before metadata, and those beside the model after it."""

    DOCUMENTS = "documents"
    METADATA = "metadata"
    SHAPES = "shapes"


@dataclass(frozen=True, slots=True)
class Reader:
    """Finds facts in one kind of evidence; what it does not know yields nothing."""

    name: str
    reads: Reads
    read: Callable[[Evidence], Iterator[Finding]]

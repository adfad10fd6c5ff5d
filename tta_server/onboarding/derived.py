"""What follows from facts of different sources together."""

from collections.abc import Iterator, Mapping

from tta_server.onboarding.evidence import Fact
from tta_server.onboarding.model_file import ModelFile


def derived(facts: Mapping[str, Fact], file: ModelFile) -> Iterator[Fact]:
    """Further facts, of keys that none of the facts states."""
    if "output.head" in facts and "task" not in facts:
        yield Fact("task", "detection", f"output.head is {facts['output.head'].value}")
    if _is("segmentation", facts) and "output.multilabel" not in facts and _has_one_map(facts, file):
        yield Fact("output.multilabel", True, "the file has one map: its label is present at a pixel or not")


def _is(task: str, facts: Mapping[str, Fact]) -> bool:
    return "task" in facts and facts["task"].value == task


def _has_one_map(facts: Mapping[str, Fact], file: ModelFile) -> bool:
    """Whether the output that is read is [N, 1, h, w]."""
    name = facts["output.name"].value if "output.name" in facts else None
    read = [output for output in file.tensors if name in (None, output.name)]
    return len(read) == 1 and len(read[0].sizes) == 4 and read[0].sizes[1] == 1

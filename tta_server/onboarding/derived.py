"""What follows from facts of different sources together."""

from collections.abc import Iterator, Mapping
from typing import Any

from tta_server.onboarding.evidence import Fact
from tta_server.onboarding.model_file import ModelFile
from tta_server.tasks.points.sides import pairs_of


def derived(facts: Mapping[str, Fact], file: ModelFile) -> Iterator[Fact]:
    """Further facts, of keys that none of the facts states."""
    if "output.head" in facts and "task" not in facts:
        yield Fact("task", "detection", f"output.head is {facts['output.head'].value}")
    if _is("segmentation", facts) or _is("keypoints", facts):
        yield from _maps(facts, file)
    if _is("keypoints", facts) and "output.pairs" not in facts:
        labels = _value("labels", facts)
        pairs = pairs_of([str(label) for label in labels]) if isinstance(labels, list) else None
        if pairs:
            yield Fact("output.pairs", pairs, "labels that name a side, and the same with the other side")


def _maps(facts: Mapping[str, Fact], file: ModelFile) -> Iterator[Fact]:
    """What the shape of scores says: that labels are last, or that there is one, which is present at a pixel or not."""
    name, kind, labels = (_value(key, facts) for key in ("output.name", "output.kind", "labels"))
    read = [output for output in file.tensors if name in (None, output.name)]
    if kind not in ("logits", "probabilities", "heatmaps", None) or len(read) != 1 or len(read[0].sizes) != 4:
        return
    _, first, _, last = read[0].sizes
    count = len(labels) if isinstance(labels, list) else 1
    is_last = last == count and first != count
    if is_last and "output.layout" not in facts:
        yield Fact("output.layout", "NHWC", f"output {read[0].name} is {read[0].text}, with {count} labels")
    if _is("segmentation", facts) and "output.multilabel" not in facts and 1 in (first, last if is_last else None):
        yield Fact("output.multilabel", True, "the file has one map: its label is present at a pixel or not")


def _is(task: str, facts: Mapping[str, Fact]) -> bool:
    return bool(_value("task", facts) == task)


def _value(key: str, facts: Mapping[str, Fact]) -> Any:
    return facts[key].value if key in facts else None

"""Which heads of detectors may give a file's outputs, by their shapes: what a user chooses from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tta_server.onboarding.model_file import ModelFile
from tta_server.tasks.boxes.cells import count_cells
from tta_server.tasks.boxes.heads import HEADS, NAMES, HeadName
from tta_server.tasks.boxes.mismatches import Shape, takes
from tta_server.views.geometry import Size

MORE = range(7)
"""Columns beside the scores of classes, at most six."""
MEANS = {
    "yolox": "yolox, if boxes are offsets in cells, as YOLOX exports them by default",
    "yolov5": "yolov5, if they are pixels",
}
"""What tells two heads of one shape apart."""


def fitting_heads(values: Mapping[str, Any], file: ModelFile) -> str:
    """The heads that take the outputs, in words; all of them if none does."""
    found = fitting(values, file)
    if {"yolox", "yolov5"} <= set(found):
        return " | ".join([*MEANS.values(), *(name for name in found if name not in MEANS)])
    return " | ".join(found or HEADS)


def fitting(values: Mapping[str, Any], file: ModelFile) -> Sequence[HeadName]:
    """The heads that take the outputs; those that fit by name too, if there are any."""
    labels = values.get("labels")
    classes = [len(labels)] if isinstance(labels, list) else None
    found = [name for name in HEADS if _takes(name, file, classes)]
    return [name for name in found if HEADS[name].usual.keys() & set(NAMES)] or found


def _takes(name: HeadName, file: ModelFile, classes: list[int] | None) -> bool:
    return any(
        takes(name, count, found) and _has_cells(name, file, found)
        for found in _parts(name, file)
        for count in classes or _counts(name, found)
    )


def _parts(name: HeadName, file: ModelFile) -> Iterator[Mapping[str, Shape]]:
    """The shapes that a head would read, by key of `output`; none if the outputs have other names."""
    shapes = {output.name: output.sizes for output in file.tensors}
    names = {key: str(HEADS[name].usual[key]) for key in NAMES if key in HEADS[name].usual}
    if not names:
        yield from ({"rows": shape} for shape in shapes.values())
    elif set(names.values()) <= shapes.keys():
        yield {key: shapes[output] for key, output in names.items()}


def _counts(name: HeadName, found: Mapping[str, Shape]) -> Iterator[int]:
    """How many classes there may be; a grid has more rows than columns."""
    yield 1
    if "rows" not in found:
        last = found["scores"][-1] if found.get("scores") else None
        yield from (last - more for more in MORE if last and last > more)
    elif len(found["rows"]) == 3:
        rows, columns = found["rows"][::-1][:2] if HEADS[name].form["transposed"] else found["rows"][1:]
        if columns is not None and (rows is None or rows > columns):
            yield from (columns - more for more in MORE if columns > more)


def _has_cells(name: HeadName, file: ModelFile, found: Mapping[str, Shape]) -> bool:
    """Whether rows of the head are as many as there are cells, if that is known."""
    strides = HEADS[name].usual.get("strides")
    height, width = file.size(file.layout or "NCHW")
    rows = found["rows"][1] if "rows" in found else None
    if not strides or not height or not width or rows is None:
        return True
    return rows == count_cells(Size(width, height), strides)

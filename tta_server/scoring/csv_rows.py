"""Rows as CSV (RFC 4180, UTF-8): flat columns, the same in every shard, and a header in each."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tta_server.scoring.batches import Scored
from tta_server.scoring.schema import Schema
from tta_server.serving.answer import Answer

Cells = Mapping[str, Any]
"""Column -> value; a column that is left out is empty."""

BEFORE, AFTER = ("id", "status", "error"), ("views", "confidence", "stop_reason")
BOX = ("box", "label", "index", "score", "left", "top", "right", "bottom", "found_by", "visible_in", "spread")
POINT = ("label", "x", "y", "score", "visible", "visible_in", "spread")


def _classification(schema: Schema, answer: Answer) -> Iterable[Cells]:
    result = answer.result
    yield {"label": result.label, "index": result.index} | _named("probability", schema.labels, result.probabilities)


def _multilabel(schema: Schema, answer: Answer) -> Iterable[Cells]:
    present = [int(label in answer.prediction["labels"]) for label in schema.labels]
    probabilities = _named("probability", schema.labels, answer.result.probabilities)
    yield probabilities | _named("present", schema.labels, present)


def _regression(schema: Schema, answer: Answer) -> Iterable[Cells]:
    values = answer.prediction["values"]
    yield _named("value", values.keys(), list(values.values()))


def _embedding(schema: Schema, answer: Answer) -> Iterable[Cells]:
    vector = np.array(answer.prediction["embedding"], np.float32)
    yield _named("embedding", range(len(vector)), vector)


def _segmentation(schema: Schema, answer: Answer) -> Iterable[Cells]:
    found = answer.prediction
    areas = {f"area_{label}": area for label, area in found["area"].items()}
    masks = {f"rle_{label}": mask["counts"] for label, mask in found["masks"].items()}
    yield {"height": found["height"], "width": found["width"], **areas, **masks}


def _detection(schema: Schema, answer: Answer) -> Iterable[Cells]:
    """A row a box, or one row for an image without any."""
    found = answer.prediction
    size = {"height": found["height"], "width": found["width"]}
    for number, box in enumerate(found["boxes"]):
        corners = dict(zip(("left", "top", "right", "bottom"), box["box"], strict=True))
        seen = {"found_by": box["views"], "visible_in": box["of"], "spread": box["spread"]}
        named = {key: box[key] for key in ("label", "index", "score")}
        yield {**size, "box": number, **named, **corners, **seen}
    if not found["boxes"]:
        yield size


def _keypoints(schema: Schema, answer: Answer) -> Iterable[Cells]:
    """A row a point."""
    found = answer.prediction
    size = {"height": found["height"], "width": found["width"]}
    for point in found["keypoints"]:
        of_point = {key: point[key] for key in ("label", "x", "y", "spread")}
        visible = {"visible": int(point["visible"]), "visible_in": point["views"]}
        yield {**size, **of_point, "score": point["confidence"], **visible}


CELLS: Mapping[str, Callable[[Schema, Answer], Iterable[Cells]]] = {
    "classification": _classification,
    "multilabel": _multilabel,
    "regression": _regression,
    "embedding": _embedding,
    "segmentation": _segmentation,
    "detection": _detection,
    "keypoints": _keypoints,
}

COLUMNS: Mapping[str, Callable[[Schema], Sequence[str]]] = {
    "classification": lambda schema: ("label", "index", *_names("probability", schema.labels)),
    "multilabel": lambda schema: _names("probability", schema.labels) + _names("present", schema.labels),
    "regression": lambda schema: _names("value", schema.labels),
    "embedding": lambda schema: _names("embedding", range(schema.dimensions or 0)),
    "segmentation": lambda schema: (
        "height", "width", *_names("area", schema.labels), *_names("rle", schema.labels),
    ),
    "detection": lambda schema: ("height", "width", *BOX),
    "keypoints": lambda schema: ("height", "width", *POINT),
}  # fmt: skip


def csv_rows(schema: Schema, scored: Scored) -> Sequence[Cells]:
    """The rows of an image: one, or one for each of its boxes or points."""
    if isinstance(scored.outcome, str):
        return [{"id": scored.id, "status": "failed", "error": scored.outcome}]
    receipt = scored.outcome.receipt
    before = {"id": scored.id, "status": "ok"}
    after = {"views": len(receipt.views), "confidence": receipt.confidence, "stop_reason": str(receipt.stop_reason)}
    return [{**before, **cells, **after} for cells in CELLS[schema.task](schema, scored.outcome)]


def encode_csv(schema: Schema, first: int, rows: Sequence[Sequence[Cells]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*BEFORE, *COLUMNS[schema.task](schema), *AFTER])
    writer.writeheader()
    for cells in rows:
        writer.writerows(cells)
    return text.getvalue().encode()


def _names(prefix: str, labels: Iterable[Any]) -> tuple[str, ...]:
    return tuple(f"{prefix}_{label}" for label in labels)


def _named(prefix: str, labels: Iterable[Any], values: Any) -> dict[str, Any]:
    """A column each, with the fewest digits that give the value back in its own precision."""
    texts = [str(value) for value in np.asarray(values)]
    return dict(zip(_names(prefix, labels), texts, strict=True))

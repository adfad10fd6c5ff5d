"""Rows as Parquet, with typed columns for each task."""

import io
import json
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tta_server.scoring.arrow import pyarrow, pyarrow_parquet
from tta_server.scoring.batches import Scored
from tta_server.scoring.rows import receipt_of
from tta_server.scoring.schema import Schema
from tta_server.serving.answer import Answer

Columns = Mapping[str, tuple[Any, Callable[[Answer], Any]]]
"""Name -> type, and the value of an answer."""


def _classification(pa: Any) -> Columns:
    return {
        "label": (pa.string(), lambda answer: answer.result.label),
        "index": (pa.int32(), lambda answer: answer.result.index),
        "probabilities": (pa.list_(pa.float32()), lambda answer: answer.result.probabilities),
    }


def _multilabel(pa: Any) -> Columns:
    return {
        "labels": (pa.list_(pa.string()), _part("labels")),
        "probabilities": (pa.list_(pa.float32()), lambda answer: answer.result.probabilities),
    }


def _regression(pa: Any) -> Columns:
    return {"values": (pa.map_(pa.string(), pa.float64()), lambda answer: list(answer.prediction["values"].items()))}


def _embedding(pa: Any) -> Columns:
    return {"embedding": (pa.list_(pa.float32()), _part("embedding"))}


def _size(pa: Any) -> Columns:
    return {key: (pa.int32(), _part(key)) for key in ("height", "width")}


def _segmentation(pa: Any) -> Columns:
    masks = pa.map_(pa.string(), pa.binary())
    return {
        **_areas(pa),
        "mask": (pa.binary(), lambda answer: _png(answer.prediction.get("mask"))),
        "masks": (masks, lambda answer: [(k, _png(v)) for k, v in answer.prediction.get("masks", {}).items()]),
    }


def _segmentation_rle(pa: Any) -> Columns:
    rle = pa.struct({"size": pa.list_(pa.int32(), 2), "counts": pa.string()})
    masks = pa.map_(pa.string(), rle)
    return {**_areas(pa), "masks": (masks, lambda answer: list(answer.prediction["masks"].items()))}


def _areas(pa: Any) -> Columns:
    areas = pa.map_(pa.string(), pa.int64())
    return {**_size(pa), "area": (areas, lambda answer: list(answer.prediction["area"].items()))}


def _detection(pa: Any) -> Columns:
    box = {"label": pa.string(), "index": pa.int32(), "score": pa.float64(), "box": pa.list_(pa.float64(), 4)}
    counts = {"views": pa.int32(), "of": pa.int32(), "spread": pa.float64()}
    boxes = pa.list_(pa.struct({**box, **counts}))
    return {**_size(pa), "boxes": (boxes, _part("boxes"))}


def _keypoints(pa: Any) -> Columns:
    numbers = dict.fromkeys(("x", "y", "confidence", "spread"), pa.float64())
    point = pa.struct({"label": pa.string(), **numbers, "visible": pa.bool_(), "views": pa.int32()})
    return {**_size(pa), "keypoints": (pa.list_(point), _part("keypoints"))}


TASKS: Mapping[str, Callable[[Any], Columns]] = {
    "classification": _classification,
    "multilabel": _multilabel,
    "regression": _regression,
    "embedding": _embedding,
    "segmentation": _segmentation,
    "detection": _detection,
    "keypoints": _keypoints,
}


def _columns(schema: Schema) -> Columns:
    """All columns of an answer; what has none of its own is JSON in `included`."""
    pa = pyarrow()
    is_rle = schema.task == "segmentation" and schema.masks == "rle"
    typed = _segmentation_rle(pa) if is_rle else TASKS[schema.task](pa)
    return {
        **typed,
        "views": (pa.int32(), lambda answer: len(answer.receipt.views)),
        "confidence": (pa.float64(), lambda answer: answer.receipt.confidence),
        "stop_reason": (pa.string(), lambda answer: str(answer.receipt.stop_reason)),
        "receipt": (pa.string(), lambda answer: json.dumps(receipt_of(answer), ensure_ascii=False)),
        "included": (pa.string(), lambda answer: _rest(answer, typed)),
    }


def parquet_row(schema: Schema, scored: Scored) -> Mapping[str, Any]:
    """The values of an image, by column; of one that failed only its error."""
    if isinstance(scored.outcome, str):
        return {"id": scored.id, "status": "failed", "error": scored.outcome}
    answer = scored.outcome
    values = {name: value(answer) for name, (_, value) in _columns(schema).items()}
    return {"id": scored.id, "status": "ok", **values}


def encode_parquet(schema: Schema, first: int, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows as one row group."""
    pa, file = pyarrow(), io.BytesIO()
    kinds = dict.fromkeys(("id", "status", "error"), pa.string())
    kinds |= {name: kind for name, (kind, _) in _columns(schema).items()}
    table = pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()})
    pyarrow_parquet().write_table(table, file, compression="zstd")
    return file.getvalue()


def _rest(answer: Answer, columns: Columns) -> str:
    """The parts of the prediction that are no columns, as JSON."""
    found = {key: value for key, value in answer.prediction.items() if key not in columns}
    return json.dumps(found, ensure_ascii=False)


def _part(key: str) -> Callable[[Answer], Any]:
    return lambda answer: answer.prediction[key]


def _png(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text)

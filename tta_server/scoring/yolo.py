"""Boxes as Ultralytics' text files, `class cx cy w h confidence` in shares of the image; a shard is a tar of them."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tta_server.errors import ConfigError, shown
from tta_server.imaging.inputs import SUFFIXES
from tta_server.scoring.batches import Scored
from tta_server.scoring.schema import Schema

LABELS, STATUS = "labels", "status"
"""Folders in the archive."""


def label_path(image_id: str) -> str:
    """`sub/a.jpg` -> `labels/sub/a.txt`, below `labels` whatever the path of the image."""
    path = PurePosixPath(image_id)
    parts = [part for part in path.parts if part not in ("/", "//", "..")]
    name = "/".join(parts).removesuffix(path.suffix) if path.suffix.lower() in SUFFIXES else "/".join(parts)
    return f"{LABELS}/{name}.txt"


def check_label_paths(ids: Sequence[str]) -> None:
    """Raises ConfigError where two images would have one file."""
    seen: dict[str, str] = {}
    for each in ids:
        path = label_path(each)
        if path in seen:
            raise ConfigError(
                f"{shown(seen[path])} and {shown(each)} would both be {path}; rename one of them, or use --format coco"
            )
        seen[path] = each


def yolo_row(schema: Schema, scored: Scored) -> dict[str, Any]:
    """`lines` of an image; an image that failed has none, and no file."""
    if isinstance(scored.outcome, str):
        return {"id": scored.id, "status": "failed", "error": scored.outcome}
    found, receipt = scored.outcome.prediction, scored.outcome.receipt
    lines = [_line(box, found["width"], found["height"]) for box in found["boxes"]]
    status = {"id": scored.id, "status": "ok", "labels": label_path(scored.id), "boxes": len(lines)}
    size = {"width": found["width"], "height": found["height"]}
    how = {"views": len(receipt.views), "confidence": receipt.confidence, "stop_reason": str(receipt.stop_reason)}
    return {**status, **size, **how, "lines": lines}


def _line(box: dict[str, Any], width: int, height: int) -> str:
    """Six digits, as Ultralytics writes with `save_txt` and `save_conf`."""
    left, top, right, bottom = box["box"]
    center = (left + right) / 2 / width, (top + bottom) / 2 / height
    numbers = *center, (right - left) / width, (bottom - top) / height, box["score"]
    return " ".join([str(box["index"]), *(f"{number:g}" for number in numbers)]) + "\n"


def encode_yolo(schema: Schema, first: int, rows: Sequence[dict[str, Any]]) -> bytes:
    """The labels of each image, and a line of JSON for each, also for those that failed."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for row in rows:
            if row["status"] == "ok":
                _add(archive, row["labels"], "".join(row["lines"]))
        status = [{key: value for key, value in row.items() if key != "lines"} for row in rows]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in status]
        _add(archive, f"{STATUS}/{first:09d}.jsonl", "".join(lines))
    return file.getvalue()


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    """A file without owner or date, so that the same content is the same bytes."""
    content, entry = text.encode(), tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def yolo_summaries(schema: Schema, shards: Sequence[Path]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The names of the classes, a line each."""
    yield "classes.txt", iter([f"{label}\n".encode() for label in schema.labels])

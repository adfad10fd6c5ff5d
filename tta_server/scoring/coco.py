"""Boxes, points and masks as COCO's JSON: a data set a shard, and at the end one list that `COCO.loadRes` takes."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tta_server.errors import ConfigError
from tta_server.scoring.batches import Scored
from tta_server.scoring.schema import Schema
from tta_server.serving.answer import Answer

Entry = dict[str, Any]
ANNOTATIONS_AN_IMAGE = 100_000
"""Numbers of annotations that each image has, so that they are unique without knowing other shards."""
KEPT: Mapping[str, Sequence[str]] = {
    "detection": ("image_id", "category_id", "bbox", "score"),
    "segmentation": ("image_id", "category_id", "segmentation", "score"),
    "keypoints": ("image_id", "category_id", "keypoints", "score"),
}
"""What `loadRes` reads of each task's annotations."""
HALF_PIXEL = 0.5
"""COCO's points count from the centre of the first pixel, ours from its corner; boxes count from the corner in both."""


def _boxes(answer: Answer) -> Iterable[Entry]:
    for found in answer.prediction["boxes"]:
        left, top, right, bottom = found["box"]
        yield {"category_id": found["index"] + 1, **_extent(left, top, right, bottom), "score": found["score"]}


def _points(answer: Answer) -> Iterable[Entry]:
    """All points are one annotation, whose score is their mean confidence."""
    found = answer.prediction["keypoints"]
    places = [(round(point["x"] - HALF_PIXEL, 3), round(point["y"] - HALF_PIXEL, 3)) for point in found]
    xs, ys = zip(*places, strict=True)
    triples = [(x, y, 2 if point["visible"] else 1) for (x, y), point in zip(places, found, strict=True)]
    yield {
        "category_id": 1,
        "keypoints": [number for triple in triples for number in triple],
        "num_keypoints": len(found),
        **_extent(min(xs), min(ys), max(xs), max(ys)),
        "score": round(sum(point["confidence"] for point in found) / len(found), 6),
    }


def _masks(answer: Answer) -> Iterable[Entry]:
    """A mask for each label that occurs; its score is the answer's confidence."""
    found, confidence = answer.prediction, answer.receipt.confidence
    for number, (label, mask) in enumerate(found["masks"].items(), 1):
        if area := found["area"][label]:
            score = 1.0 if confidence is None else confidence
            yield {"category_id": number, "segmentation": mask, "area": area, "score": score}


ANNOTATIONS: Mapping[str, Callable[[Answer], Iterable[Entry]]] = {
    "detection": _boxes,
    "keypoints": _points,
    "segmentation": _masks,
}


def _extent(left: float, top: float, right: float, bottom: float) -> Entry:
    width, height = round(right - left, 3), round(bottom - top, 3)
    return {"bbox": [left, top, width, height], "area": round(width * height, 3)}


def coco_row(schema: Schema, scored: Scored) -> Entry:
    """The entry of an image in `images` or in `failures`, and its annotations, without numbers."""
    if isinstance(scored.outcome, str):
        return {"failures": {"file_name": scored.id, "error": scored.outcome}, "annotations": []}
    found = scored.outcome.prediction
    image = {"file_name": scored.id, "width": found["width"], "height": found["height"]}
    return {"images": image, "annotations": list(ANNOTATIONS[schema.task](scored.outcome))}


def encode_coco(schema: Schema, first: int, rows: Sequence[Entry]) -> bytes:
    """A data set: images, failures, annotations and categories; an image's id is its place in the input, from 0."""
    content: dict[str, list[Entry]] = {"images": [], "failures": [], "annotations": []}
    for image_id, row in enumerate(rows, first):
        key = "images" if "images" in row else "failures"
        content[key].append({"id": image_id, **row[key]})
        for number, entry in enumerate(row["annotations"], image_id * ANNOTATIONS_AN_IMAGE + 1):
            content["annotations"].append({"id": number, "image_id": image_id, **entry, "iscrowd": 0})
    return _json({**content, "categories": categories(schema)}) + b"\n"


def categories(schema: Schema) -> Sequence[Entry]:
    """The labels from 1 on; of keypoints the model's one object, with its points."""
    if schema.task == "keypoints":
        return [{"id": 1, "name": schema.model, "keypoints": list(schema.labels), "skeleton": []}]
    return [{"id": number, "name": label} for number, label in enumerate(schema.labels, 1)]


def coco_summaries(schema: Schema, shards: Sequence[Path]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The files of a whole run, piece by piece: all results as one list, and what their numbers mean."""
    kept = KEPT[schema.task]
    results = ({key: entry[key] for key in kept} for entry in _entries(shards, "annotations"))
    yield "results.json", _listed(results)
    yield "images.json", _dataset(schema, shards)


def _dataset(schema: Schema, shards: Sequence[Path]) -> Iterator[bytes]:
    for key in ("images", "failures"):
        yield b'{"' if key == "images" else b', "'
        yield key.encode() + b'": '
        yield from _listed(_entries(shards, key))
    yield b', "annotations": [], "categories": ' + _json(categories(schema)) + b"}\n"


def _entries(shards: Sequence[Path], key: str) -> Iterator[Entry]:
    for path in shards:
        try:
            found = json.loads(path.read_bytes())[key]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{path}: not as it was written; delete it, and the same command scores it again"
            ) from None
        yield from found


def _listed(entries: Iterable[Entry]) -> Iterator[bytes]:
    """A JSON array with an entry a line."""
    before = b"[\n"
    for entry in entries:
        yield before + _json(entry)
        before = b",\n"
    yield b"[]\n" if before == b"[\n" else b"\n]\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()

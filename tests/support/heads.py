"""Outputs of the heads that detectors commonly have, for one image: with trained and with random weights."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tta_server.tasks.boxes.detection import Detection
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.checks import CardRun
from tta_server.views.geometry import Size

LABELS = tuple("abcdefgh")
INPUT = Size(256, 192)
CARDS = ("photo", "noise", "grey", "black")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def cells(size, strides=(8, 16, 32)):
    """Centres (A, 2) of the cells of grids, in pixels, and their strides (A, 1)."""
    parts = []
    for stride in strides:
        y, x = np.mgrid[0 : -(-size.height // stride), 0 : -(-size.width // stride)]
        parts.append(np.column_stack([x.ravel(), y.ravel(), np.full(x.size, stride)]))
    table = np.concatenate(parts).astype(np.float64)
    return (table[:, :2] + 0.5) * table[:, 2:], table[:, 2:]


def objects(rng, size, count):
    """Boxes inside an input: left, top, right, bottom in pixels (count, 4)."""
    sides = np.clip(rng.lognormal(np.log(0.2), 0.6, (count, 2)), 0.02, 0.9)
    start = rng.uniform(0, 1 - sides)
    return np.concatenate([start, start + sides], axis=1) * np.tile(size, 2)


def as_centres(xyxy):
    return np.concatenate([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def as_sides(xyxy):
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def swapped(xyxy):
    return xyxy[:, [1, 0, 3, 2]]


def chances(rng, trained, *shape):
    """Sigmoids of classes that are mostly absent, or of random weights."""
    return sigmoid(rng.normal(-6, 2, shape) if trained else rng.normal(0, 0.3, shape))


def yolov8(rng, size, trained):
    """[4 + C, A]: centres and sides in pixels, from distances to the edges in cells."""
    middle, stride = cells(size)
    reach = rng.lognormal(0.5, 0.7, (len(middle), 4)) if trained else rng.normal(7.5, 0.4, (len(middle), 4))
    start, end = middle - reach[:, :2] * stride, middle + reach[:, 2:] * stride
    boxes = np.concatenate([(start + end) / 2, end - start], axis=1)
    return {"y": np.column_stack([boxes, chances(rng, trained, len(boxes), len(LABELS))]).T}


def yolov5(rng, size, trained):
    """[A, 5 + C]: centres and sides in pixels, an objectness."""
    middle, stride = (np.repeat(part, 3, axis=0) for part in cells(size))
    z = rng.normal(0, 0.8 if trained else 0.1, (len(middle), 4))
    boxes = np.concatenate(
        [middle + (2 * sigmoid(z[:, :2]) - 1) * stride, (2 * sigmoid(z[:, 2:])) ** 2 * 3 * stride], 1
    )
    return {"y": np.column_stack([boxes, chances(rng, trained, len(boxes), 1 + len(LABELS))])}


def yolox_raw(rng, size, trained):
    """[A, 5 + C]: offsets in cells and logarithms of sides in strides."""
    middle, _ = cells(size)
    offset = rng.normal(0.5, 0.4, (len(middle), 2)) if trained else rng.normal(0, 0.1, (len(middle), 2))
    sides = rng.normal(1.0, 0.8, (len(middle), 2)) if trained else rng.normal(0, 0.1, (len(middle), 2))
    return {"y": np.column_stack([offset, sides, chances(rng, trained, len(middle), 1 + len(LABELS))])}


def yolox(rng, size, trained):
    """The same decoded: centres and sides in pixels."""
    rows = yolox_raw(rng, size, trained)["y"]
    middle, stride = cells(size)
    return {"y": np.column_stack([(rows[:, :2] - 0.5) * stride + middle, np.exp(rows[:, 2:4]) * stride, rows[:, 4:]])}


def end_to_end(rng, size, trained, count=4):
    """[300, 6]: corners in pixels, score, class; zeros after the last."""
    rows = np.zeros((300, 6))
    if not trained:
        count = 300
    rows[:count, :4] = objects(rng, size, count)
    rows[:count, 4] = np.sort(rng.uniform(0.01, 0.9, count))[::-1]
    rows[:count, 5] = rng.integers(0, len(LABELS), count)
    return {"y": rows}


def detr(rng, size, trained):
    """Logits of C + 1 classes, the last for no object, and normalized centres and sides; softmax."""
    queries = 100
    logits = rng.normal(0, 0.5, (queries, len(LABELS) + 1)) + rng.normal(0, 0.5, len(LABELS) + 1)
    logits[:, -1] += 8 * trained
    z = rng.normal(0, 0.1, (queries, 4)) + rng.normal(0, 0.3, 4)
    boxes = as_centres(objects(rng, size, queries)) / np.tile(size, 2) if trained else sigmoid(z)
    return {"boxes": boxes, "scores": logits}


def rt_detr(rng, size, trained):
    """As `detr`, with logits of C classes; sigmoid."""
    found = detr(rng, size, trained)
    return {**found, "scores": found["scores"][:, :-1] - 5 * trained}


def rf_detr(rng, size, trained):
    """As `rt_detr`, with a class more, the last, which is trained never to be found."""
    found = detr(rng, size, trained)
    found["scores"][:, :-1] -= 5 * trained
    found["scores"][:, -1] -= 20 * trained
    return found


def one_class(rng, size, trained):
    """As `rt_detr`, of one class."""
    found = rt_detr(rng, size, trained)
    weak = np.abs(rng.normal(0.3, 0.05, (len(found["boxes"]), 1)))
    return {**found, "scores": found["scores"][:, :1] if trained else weak}


def tensorflow(rng, size, trained, count=5):
    """Normalized, y first; classes from 1 as floats; zeros after the last."""
    found = end_to_end(rng, size, trained, count)["y"][:100]
    score = found[:, 4]
    boxes = swapped(found[:, :4] / np.tile(size, 2))
    return {"boxes": boxes, "scores": score, "labels": np.where(score > 0, found[:, 5] + 1, 0)}


def torchvision(rng, size, trained, count=3):
    """Corners in pixels, integer classes from 1: 0 is the background, which is never found."""
    boxes = objects(rng, size, count if trained else 100)
    score = np.sort(rng.uniform(0.05, 0.9, len(boxes)))[::-1]
    return {"boxes": boxes, "scores": score, "labels": rng.integers(1, len(LABELS) + 1, len(boxes))}


def nothing_found(rng, size, trained):
    return torchvision(rng, size, True, 0)


def ssd(rng, size, trained):
    """Softmax of C + 1 classes, the first the background; normalized corners that may reach beyond the input."""
    middle, stride = cells(size, (16, 32))
    sides = np.exp(rng.normal(0, 0.2 if trained else 0.02, (len(middle), 2))) * stride * 2
    boxes = np.concatenate([middle - sides / 2, middle + sides / 2], axis=1) / np.tile(size, 2)
    z = rng.normal(0, 0.5, (len(boxes), len(LABELS) + 1))
    z[:, 0] += 6 * trained
    return {"boxes": boxes, "scores": softmax(z)}


def suppressed_padding(rng, size, trained):
    """As `torchvision`, padded to 50 with boxes of -1, classes of -1 and scores of 0."""
    found = torchvision(rng, size, True)
    missing = 50 - len(found["scores"])
    pad = {"boxes": np.full((missing, 4), -1.0), "scores": np.zeros(missing), "labels": np.full(missing, -1)}
    return {name: np.concatenate([found[name], pad[name]]) for name in found}


@dataclass(frozen=True)
class Head:
    """What gives the outputs, and their right `output:`."""

    outputs: Any
    form: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = LABELS

    def runs(self, size=INPUT, trained=True, seed=0, cards=CARDS):
        """Runs of test images, each with outputs of its own."""
        rng = np.random.default_rng(seed)
        found = [self.outputs(rng, size, trained) for _ in cards]
        return [CardRun(card, batch(each), size) for card, each in zip(cards, found, strict=True)]

    def found(self, runs, labels=None, **changes):
        """What the task finds if `output:` has these changes: check -> sentence."""
        shapes = {
            name: (None, *(None for _ in values.shape[1:-1]), values.shape[-1])
            for name, values in runs[0].outputs.items()
        }
        if self.form.get("transposed"):
            shapes = {"y": (None, 4 + len(LABELS), None)}
        task = Detection(labels or self.labels, BoxesOutput(**{**self.form, **changes}), shapes)
        for run in runs:
            task.check(run.outputs, run.tensor)
        return {finding.check: finding.sentence for finding in task.findings(runs)}


def batch(outputs):
    return {
        name: (values if values.dtype.kind in "iu" else values.astype(np.float32))[None]
        for name, values in outputs.items()
    }


CLASS_ROWS = {"rows": "y", "format": "cxcywh", "holds": "box_class_scores"}
QUERIES = {"boxes": "boxes", "scores": "scores", "format": "cxcywh", "units": "normalized", "kind": "logits"}
NUMBERED = {"boxes": "boxes", "scores": "scores", "labels": "labels"}
HEADS = {
    "YOLOv8": Head(yolov8, {**CLASS_ROWS, "transposed": True}),
    "YOLOv5": Head(yolov5, {**CLASS_ROWS, "holds": "box_objectness_class_scores"}),
    "YOLOX, decoded": Head(yolox, {**CLASS_ROWS, "holds": "box_objectness_class_scores"}),
    "YOLOv10": Head(end_to_end, {"rows": "y"}),
    "DETR": Head(detr, {**QUERIES, "background": "last"}),
    "RT-DETR": Head(rt_detr, QUERIES),
    "RF-DETR with an unused slot": Head(rt_detr, QUERIES, (*LABELS[:-1], "unused")),
    "RT-DETR of one class": Head(one_class, QUERIES, ("a",)),
    "TensorFlow": Head(tensorflow, {**NUMBERED, "format": "yxyx", "units": "normalized", "first_label": 1}),
    "torchvision": Head(torchvision, {**NUMBERED, "first_label": 1}),
    "torchvision with a background": Head(torchvision, {**NUMBERED, "background": "first"}),
    "torchvision that names the background": Head(torchvision, NUMBERED, ("__background__", *LABELS)),
    "nothing found": Head(nothing_found, {**NUMBERED, "first_label": 1}),
    "padded with -1": Head(suppressed_padding, {**NUMBERED, "first_label": 1}),
    "SSD": Head(ssd, {"boxes": "boxes", "scores": "scores", "units": "normalized", "background": "first"}),
}  # fmt: skip
RF_DETR = Head(rf_detr)
YOLOX_RAW = Head(yolox_raw, {**CLASS_ROWS, "holds": "box_objectness_class_scores"})

"""Accuracy of answers against labelled images. Each function returns its metrics by name."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.datasets import Sample
from tta_server import Answer

Answers = Iterable[tuple[Sample, Answer]]
Metrics = dict[str, float]


def classification(answers: Answers) -> Metrics:
    """Share of right top classes, and mean negative log likelihood (NLL) of the true class."""
    hits, losses = [], []
    for sample, answer in answers:
        hits.append(answer.prediction["top"][0]["index"] == sample.label)
        losses.append(-np.log(max(answer.prediction["probabilities"][sample.label], 1e-12)))
    return {"accuracy": float(np.mean(hits)), "NLL": float(np.mean(losses))}


def foreground_iou(answers: Answers) -> Metrics:
    """Mean over images of the IoU of all classes but the background."""
    scores = []
    for sample, answer in answers:
        found = mask_of(answer) > 0
        truth = np.asarray(Image.open(sample.label)) > 0
        scores.append((found & truth).sum() / max(1, (found | truth).sum()))
    return {"IoU": float(np.mean(scores))}


def average_precision(answers: Answers) -> Metrics:
    """Mean over classes of the area under precision against recall (Pascal VOC, all points).

    A hit has an IoU of 0.5 or more with its best true box; each true box is hit once.
    """
    found = [(sample.label, answer.prediction["boxes"]) for sample, answer in answers]
    labels = sorted({box[0] for truth, _ in found for box in truth})
    return {"mAP50": float(np.mean([_precision_of(label, found) for label in labels]))}


def _precision_of(label: str, found: Sequence[tuple[Any, Any]]) -> float:
    hits, total = [], 0
    for truth, boxes in found:
        true = np.array([box[1:] for box in truth if box[0] == label]).reshape(-1, 4)
        total += len(true)
        taken = set()
        for box in boxes:
            if box["label"] != label:
                continue
            ious = _ious(np.array(box["box"]), true)
            best = int(ious.argmax()) if len(ious) else -1
            hits.append((box["score"], best >= 0 and ious[best] >= 0.5 and best not in taken))
            if hits[-1][1]:
                taken.add(best)
    right = np.array([hit for _, hit in sorted(hits, key=lambda entry: -entry[0])], float)
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * right).sum() / total)


def _ious(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    shared = np.clip(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0, None).prod(axis=1)
    areas = [(b[..., 2:] - b[..., :2]).prod(axis=-1) for b in (box, others)]
    return shared / (areas[0] + areas[1] - shared)


def pixel_error(answers: Answers) -> Metrics:
    """Distance to the true point, in pixels of the image, over all points of all images."""
    far = [
        np.hypot(point["x"] - sample.label[point["label"]][0], point["y"] - sample.label[point["label"]][1])
        for sample, answer in answers
        for point in answer.prediction["keypoints"]
        if point["label"] in sample.label
    ]
    return {"mean px": float(np.mean(far)), "median px": float(np.median(far))}


def count_error(answers: Answers) -> Metrics:
    """Mean absolute error (MAE)."""
    return {"MAE": float(np.mean([abs(answer.prediction["values"]["nuclei"] - s.label) for s, answer in answers]))}


def mask_of(answer: Answer) -> np.ndarray:
    """The mask of classes (H, W)."""
    assert answer.picture is not None
    return np.asarray(Image.open(io.BytesIO(answer.picture)))

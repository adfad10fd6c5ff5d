"""Accuracy of the bundled models, plain and with TTA, beside reference figures made by independent code.

Needs the labelled images (--data, by default ../shared/data). Runs the same Predictor that serves requests, with
stop=all and min_views=all. Prints one row a figure; exits 1 if one differs by more than its tolerance.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from variants import variant

from tta_server import Answer, LoadedModel, load

BUDGET_MS = 10_000
IN_FLIGHT = 8
SHIFTS = ["identity", "hflip", *({"shift": s} for s in ([-2, 0], [2, 0], [0, -2], [0, 2]))]


@dataclass(frozen=True)
class Column:
    """One way to use the model, and its reference figure a set; policy None is the model's own."""

    name: str
    policy: str | None
    merge: str
    reference: dict[str, float]


@dataclass(frozen=True)
class Sample:
    """An image and its truth: a class, a mask's file, boxes as (label, x1, y1, x2, y2), points as (x, y), a count."""

    path: Path
    label: Any


def predicted(
    model: LoadedModel, samples: Sequence[Sample], column: Column, include: str
) -> Iterator[tuple[Sample, Answer]]:
    """Answers in order, a few requests at a time so that both cores are busy."""
    waiting: list[tuple[Sample, Future[Answer]]] = []
    for sample in track(samples, f"{model.model.name} {column.name}", transient=True):
        waiting.append((sample, model.submit(
            sample.path, policy=column.policy, merge=column.merge, min_views="all", stop="all",
            budget_ms=model.model.config.budget.max_ms, include=include,
        )))  # fmt: skip
        if len(waiting) == IN_FLIGHT:
            done, future = waiting.pop(0)
            yield done, future.result()
    for done, future in waiting:
        yield done, future.result()


def classes(folder: Path, labels: Sequence[str]) -> list[Sample]:
    return [
        Sample(path, index) for index, label in enumerate(labels) for path in sorted((folder / label).glob("*.jpg"))
    ]


def nuclei(folder: Path, split: str) -> list[Sample]:
    rows = csv.DictReader((folder / "index.csv").open())
    return [
        Sample(folder / "images" / f"{row['id']}.png", folder / "labels" / f"{row['id']}.png")
        for row in rows
        if row["split"] == split
    ]


def counts(folder: Path, split: str) -> list[Sample]:
    rows = csv.DictReader((folder / "index.csv").open())
    return [Sample(folder / "images" / f"{row['id']}.png", int(row["nuclei"])) for row in rows if row["split"] == split]


def smears(folder: Path, split: str) -> list[Sample]:
    boxes: dict[str, list[tuple[str, float, float, float, float]]] = {}
    for row in csv.DictReader((folder / "boxes.csv").open()):
        corners = [float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax")]
        boxes.setdefault(row["file"], []).append((row["label"], *corners))
    rows = csv.DictReader((folder / "index.csv").open())
    return [
        Sample(folder / "images" / row["file"], boxes.get(row["file"], [])) for row in rows if row["split"] == split
    ]


def mice(folder: Path, split: str) -> list[Sample]:
    names = ("snout", "leftear", "rightear", "tailbase")
    rows = [row for row in csv.DictReader((folder / "points.csv").open()) if row["split"] == split]
    return [
        Sample(folder / "images" / row["file"], {n: (float(row[f"{n}_x"]), float(row[f"{n}_y"])) for n in names})
        for row in rows
    ]


def accuracy(answers: Iterator[tuple[Sample, Answer]]) -> dict[str, float]:
    hits, losses = [], []
    for sample, answer in answers:
        hits.append(answer.prediction["top"][0]["index"] == sample.label)
        losses.append(-np.log(max(answer.prediction["probabilities"][sample.label], 1e-12)))
    return {"accuracy": float(np.mean(hits)), "NLL": float(np.mean(losses))}


def foreground_iou(answers: Iterator[tuple[Sample, Answer]]) -> dict[str, float]:
    """Mean over images of the IoU of 'class is not background'."""
    scores = []
    for sample, answer in answers:
        found = mask_of(answer) > 0
        truth = np.asarray(Image.open(sample.label)) > 0
        scores.append((found & truth).sum() / max(1, (found | truth).sum()))
    return {"IoU": float(np.mean(scores))}


def average_precision(answers: Iterator[tuple[Sample, Answer]]) -> dict[str, float]:
    """Mean over classes of the area under precision against recall, all points, a hit having an IoU of 0.5 or more with
    its best true box, each of which is hit once (Pascal VOC)."""
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


def pixel_error(answers: Iterator[tuple[Sample, Answer]]) -> dict[str, float]:
    """Distances of all points of all images from the true ones."""
    far = [
        np.hypot(point["x"] - sample.label[point["label"]][0], point["y"] - sample.label[point["label"]][1])
        for sample, answer in answers
        for point in answer.prediction["keypoints"]
        if point["label"] in sample.label
    ]
    return {"mean px": float(np.mean(far)), "median px": float(np.median(far))}


def count_error(answers: Iterator[tuple[Sample, Answer]]) -> dict[str, float]:
    return {"MAE": float(np.mean([abs(answer.prediction["values"]["nuclei"] - s.label) for s, answer in answers]))}


def mask_of(answer: Answer) -> np.ndarray:
    import io

    assert answer.picture is not None
    return np.asarray(Image.open(io.BytesIO(answer.picture)))


CLOTHING = (
    Column("plain", "plain", "mean_probabilities", {"validation": 0.8563, "test": 0.8468}),
    Column("hflip, mean p", "hflip", "mean_probabilities", {"validation": 0.8504, "test": 0.8468}),
    Column("five, mean p", "five_crop", "mean_probabilities", {"validation": 0.8387, "test": 0.8629}),
    Column("ten, mean p", "ten_crop", "mean_probabilities", {"validation": 0.8446, "test": 0.8602}),
    Column("ten, mean z", "ten_crop", "mean_logits", {"validation": 0.8416, "test": 0.8575}),
)
OWN = Column("its own policy, mean p", None, "mean_probabilities", {})
CIFAR10 = (
    Column("plain", "plain", "mean_probabilities", {"all": 0.9130}),
    Column("hflip, mean p", "hflip", "mean_probabilities", {"all": 0.9168}),
    Column("hflip, mean z", "hflip", "mean_logits", {"all": 0.9174}),
    Column("shifts, mean p", "shifts", "mean_probabilities", {"all": 0.9178}),
)
NUCLEI = (
    Column("plain", "plain", "mean_probabilities", {"val": 0.8643, "test": 0.8595}),
    Column("hflip, mean p", "hflip", "mean_probabilities", {"val": 0.8656, "test": 0.8610}),
    Column("d4, mean p", "d4", "mean_probabilities", {"val": 0.8680, "test": 0.8617}),
    Column("d4, vote", "d4", "vote", {"val": 0.8678, "test": 0.8618}),
)
BLOODCELLS = (
    Column("plain", "plain", "wbf", {"test": 0.9218}),
    Column("hflip, wbf", "hflip", "wbf", {"test": 0.9205}),
    Column("flips, wbf", "flips", "wbf", {"test": 0.9384}),
    Column("flips, nms", "flips", "nms", {}),
    Column("flips, soft_nms", "flips", "soft_nms", {}),
    Column("flips, nmw", "flips", "nmw", {}),
)
MOUSE = (
    Column("plain", "plain", "mean_heatmaps", {"test": 5.567}),
    Column("hflip, maps", "hflip", "mean_heatmaps", {"test": 5.272}),
    Column("flips, maps", "flips", "mean_heatmaps", {"test": 5.178}),
    Column("flips, points", "flips", "mean_coordinates", {}),
    Column("d4, points", "d4", "mean_coordinates", {}),
)
MOUSE_MEDIAN = {"plain": 5.407, "hflip, maps": 5.040, "flips, maps": 4.943}
COUNT = (
    Column("plain", "plain", "mean", {"val": 5.134, "test": 6.657}),
    Column("d4, mean", "d4", "mean", {"val": 4.779, "test": 5.444}),
    Column("d4, median", "d4", "median", {}),
    Column("d4, trimmed mean", "d4", "trimmed_mean", {}),
)
CLOTHING_NLL = {
    "plain": {"validation": 0.5170, "test": 0.5005},
    "hflip, mean p": {"validation": 0.5045, "test": 0.5010},
    "ten, mean p": {"validation": 0.5834, "test": 0.5631},
}


@dataclass(frozen=True)
class Study:
    model: str
    columns: Sequence[Column]
    sets: Callable[[Path, Sequence[str]], dict[str, list[Sample]]]
    judge: Callable[[Iterator[tuple[Sample, Answer]]], dict[str, float]]
    include: str
    output: dict[str, Any] = field(default_factory=dict)
    """What the references were made with, where tta.yaml says otherwise."""


STUDIES = (
    Study(
        "clothing",
        (*CLOTHING, OWN),
        lambda data, labels: {s: classes(data / "clothing" / s, labels) for s in ("validation", "test")},
        accuracy,
        "probabilities",
    ),
    Study(
        "cifar10",
        CIFAR10,
        lambda data, labels: {"all": classes(data / "cifar10", labels)},
        accuracy,
        "probabilities",
    ),
    Study(
        "nuclei",
        NUCLEI,
        lambda data, labels: {s: nuclei(data / "nuclei", s) for s in ("val", "test")},
        foreground_iou,
        "",
    ),
    Study(
        "bloodcells",
        BLOODCELLS,
        lambda data, labels: {"test": smears(data / "bloodcells", "test")},
        average_precision,
        "",
        {"min_score": 0.02},
    ),
    Study(
        "bloodcells",
        (Column("plain, as shipped", "plain", "wbf", {}), Column("flips, wbf, as shipped", "flips", "wbf", {})),
        lambda data, labels: {s: smears(data / "bloodcells", s) for s in ("val", "test")},
        average_precision,
        "",
    ),
    Study(
        "mouse", MOUSE, lambda data, labels: {s: mice(data / "mouse", s) for s in ("train", "test")}, pixel_error, ""
    ),
    Study(
        "nuclei-count",
        COUNT,
        lambda data, labels: {s: counts(data / "nuclei", s) for s in ("val", "test")},
        count_error,
        "",
    ),
)


def reference(study: Study, column: Column, metric: str, name: str) -> float | None:
    if metric == "NLL":
        return CLOTHING_NLL.get(column.name, {}).get(name) if study.model == "clothing" else None
    if metric == "median px":
        return MOUSE_MEDIAN.get(column.name) if name == "test" else None
    return column.reference.get(name)


TOLERANCE = {"mean px": 0.0005, "median px": 0.0005, "MAE": 0.0005}
"""Half of the last digit given."""


def is_same(metric: str, found: float, expected: float | None) -> bool:
    return expected is None or abs(found - expected) <= TOLERANCE.get(metric, 0.00005)


def compared(metric: str, found: float, expected: float | None) -> tuple[str, str]:
    """The reference as shown, and whether the figure is the same; both empty where there is none."""
    if expected is None:
        return "", ""
    shown = f"{expected:.4f}" if metric not in TOLERANCE else f"{expected:.3f}"
    return shown, "yes" if is_same(metric, found, expected) else f"[red]off by {abs(found - expected):.4f}"


def changed(models: Path, study: Study, scratch: str) -> Path:
    return variant(models / study.model, Path(scratch), output=study.output) if study.output else models / study.model


def run(study: Study, models: Path, data: Path, table: Table) -> bool:
    agrees = True
    with (
        TemporaryDirectory() as scratch,
        load(variant(models / study.model, Path(scratch), output=study.output)) as model,
    ):
        for name, samples in study.sets(data, model.model.config.labels).items():
            for column in study.columns:
                figures = study.judge(predicted(model, samples, column, study.include))
                for metric, found in figures.items():
                    expected = reference(study, column, metric, name)
                    agrees &= is_same(metric, found, expected)
                    table.add_row(
                        study.model, f"{name} ({len(samples)})", column.name, metric, f"{found:.4f}",
                        *compared(metric, found, expected),
                    )  # fmt: skip
    return agrees


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--only", choices=[s.model for s in STUDIES])
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"accuracy: skipped, there is no folder {args.data} of labelled images (--data)")
        return
    table = Table("model", "set", "views, merge", "metric", "found", "reference", "same")
    agrees = [run(study, args.models, args.data, table) for study in STUDIES if args.only in (None, study.model)]
    Console().print(table)
    sys.exit(not all(agrees))


if __name__ == "__main__":
    main()

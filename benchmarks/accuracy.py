"""Accuracy of the bundled models without and with TTA, against reference figures of an independent implementation.

Needs the labelled images (--data, by default ../shared/data). Runs the Predictor that serves requests, with stop=all
and min_views=all. Prints a row for each figure; exits with 1 if one differs by more than its tolerance.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.datasets import Sample, blood_smears, classes, counts, mice, nuclei
from benchmarks.metrics import (
    Answers,
    Metrics,
    average_precision,
    classification,
    count_error,
    foreground_iou,
    pixel_error,
)
from benchmarks.variants import variant
from tta_server import Answer, LoadedModel, load
from tta_server.errors import BackendFailed, DeadlineExceeded, NotReady

BUDGET_MS = 10_000
IN_FLIGHT = 8
AGAIN = 20
"""How often an image is asked again after its run failed, and for how many seconds while the model is not ready."""
SHIFTS = ["identity", "hflip", *({"shift": s} for s in ([-2, 0], [2, 0], [0, -2], [0, 2]))]


@dataclass(frozen=True)
class Column:
    """A policy and a merge, and the reference figure by set; policy None is the model's own."""

    name: str
    policy: str | None
    merge: str
    reference: dict[str, float]


def predicted(
    model: LoadedModel, samples: Sequence[Sample], column: Column, include: str, in_flight: int
) -> Iterator[tuple[Sample, Answer]]:
    """Answers in order; several requests at a time keep all cores busy."""

    def submit(sample: Sample) -> Future[Answer]:
        for _ in range(AGAIN):
            with suppress(NotReady):  # after failed runs, until a probe works
                return model.submit(
                    sample.path, policy=column.policy, merge=column.merge, min_views="all", stop="all",
                    budget_ms=model.model.config.budget.max_ms, include=include,
                )  # fmt: skip
            time.sleep(1)
        raise NotReady(f"{model.model.name} is not ready")

    def answer(sample: Sample, future: Future[Answer]) -> tuple[Sample, Answer]:
        for _ in range(AGAIN):
            try:
                return sample, future.result()
            except (BackendFailed, DeadlineExceeded):  # of runs that stood still on a busy machine
                future = submit(sample)
        return sample, future.result()

    waiting: list[tuple[Sample, Future[Answer]]] = []
    for sample in track(samples, f"{model.model.name} {column.name}", transient=True):
        waiting.append((sample, submit(sample)))
        if len(waiting) == in_flight:
            yield answer(*waiting.pop(0))
    for each in waiting:
        yield answer(*each)


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
    """A model, its columns, its sets of images, and how answers are judged."""

    model: str
    columns: Sequence[Column]
    sets: Callable[[Path, Sequence[str]], dict[str, list[Sample]]]
    metrics: Callable[[Answers], Metrics]
    include: str
    output: dict[str, Any] = field(default_factory=dict)
    """Keys of `output` that the references were made with, where tta.yaml differs."""


STUDIES = (
    Study(
        "clothing",
        (*CLOTHING, OWN),
        lambda data, labels: {s: classes(data / "clothing" / s, labels) for s in ("validation", "test")},
        classification,
        "probabilities",
    ),
    Study(
        "cifar10",
        CIFAR10,
        lambda data, labels: {"all": classes(data / "cifar10", labels)},
        classification,
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
        lambda data, labels: {"test": blood_smears(data / "bloodcells", "test")},
        average_precision,
        "",
        {"min_score": 0.02},
    ),
    Study(
        "bloodcells",
        (Column("plain, as shipped", "plain", "wbf", {}), Column("flips, wbf, as shipped", "flips", "wbf", {})),
        lambda data, labels: {s: blood_smears(data / "bloodcells", s) for s in ("val", "test")},
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
"""By metric: half of the last digit of the reference; 0.00005 for the others."""


def is_same(metric: str, found: float, expected: float | None) -> bool:
    return expected is None or abs(found - expected) <= TOLERANCE.get(metric, 0.00005)


def compared(metric: str, found: float, expected: float | None) -> tuple[str, str]:
    """The reference and whether the figure equals it, as shown; both empty where there is no reference."""
    if expected is None:
        return "", ""
    shown = f"{expected:.4f}" if metric not in TOLERANCE else f"{expected:.3f}"
    return shown, "yes" if is_same(metric, found, expected) else f"[red]off by {abs(found - expected):.4f}"


def run(study: Study, args: argparse.Namespace, table: Table) -> bool:
    """Add the study's rows; returns whether all figures agree with their references."""
    backend = {"views": args.views}
    agrees = True
    with (
        TemporaryDirectory() as scratch,
        load(variant(args.models / study.model, Path(scratch), output=study.output, backend=backend)) as model,
    ):
        for name, samples in study.sets(args.data, model.model.config.labels).items():
            for column in study.columns:
                figures = study.metrics(predicted(model, samples, column, study.include, args.in_flight))
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
    parser.add_argument("--views", choices=["local", "graph"], default="local", help="backend.views of all models")
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, help="requests at a time")
    parser.add_argument("--only", choices=[s.model for s in STUDIES])
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"accuracy: skipped, there is no folder {args.data} of labelled images (--data)")
        return
    table = Table("model", "set", "views, merge", "metric", "found", "reference", "same")
    agrees = [run(study, args, table) for study in STUDIES if args.only in (None, study.model)]
    Console().print(table)
    sys.exit(not all(agrees))


if __name__ == "__main__":
    main()

"""How far the answers of two model folders differ, by the Python API."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.device_steps.report import Report
from tta_server import LoadedModel, load

MOST_PROBABILITY, FEWEST_CELLS = 1e-4, 0.9999
HALF_PROBABILITY, HALF_TOP = 5e-3, 0.999
"""In float16: the largest difference of a probability, and the share of equal top classes."""
POLICIES: dict[str, dict[str, str]] = {"plain": {"policy": "plain"}, "own": {}}
"""Options of requests; the d4 of the nuclei is their model's own policy."""
IN_FLIGHT = 8
Found = dict[str, Any]


def results(folder: Path, images: Sequence[Path]) -> dict[str, list[Any]]:
    """By name of POLICIES the result of each image, with all views."""
    with load(folder) as model:
        return {name: _results(model, images, options) for name, options in POLICIES.items()}


def _results(model: LoadedModel, images: Sequence[Path], options: dict[str, str]) -> list[Any]:
    """With IN_FLIGHT requests at a time."""
    budget, found = model.model.config.budget.max_ms, list[Any]()
    for start in range(0, len(images), IN_FLIGHT):
        some = images[start : start + IN_FLIGHT]
        futures = [model.submit(path, min_views="all", stop="all", budget_ms=budget, **options) for path in some]
        found += (future.result().result for future in futures)
    return found


def compare(there: Iterable[Any], here: Iterable[Any]) -> Found:
    """Figures over all images, by what the task answers; "images" is their number."""
    pairs = list(zip(there, here, strict=True))
    first = pairs[0][0]
    for field, measure in MEASURES.items():
        if hasattr(first, field):
            return {"images": len(pairs)} | measure(pairs)
    raise ValueError(f"no measure for {type(first).__name__}")


Pairs = Sequence[tuple[Any, Any]]


def _probabilities(pairs: Pairs) -> Found:
    return {
        "probability": max(float(np.abs(a.probabilities - b.probabilities).max()) for a, b in pairs),
        "equal_top": float(np.mean([a.probabilities.argmax() == b.probabilities.argmax() for a, b in pairs])),
    }


def _masks(pairs: Pairs) -> Found:
    equal, cells = sum(int((a.mask == b.mask).sum()) for a, b in pairs), sum(a.mask.size for a, _ in pairs)
    return {"equal_cells": equal / cells, "cells": cells}


def _boxes(pairs: Pairs) -> Found:
    """Boxes are compared where both answers have as many."""
    same = [(a, b) for a, b in pairs if len(a.boxes) == len(b.boxes)]
    pixels = [float(np.abs(a.boxes - b.boxes).max()) for a, b in same if len(a.boxes)]
    return {"equal_counts": len(same) / len(pairs), "pixels": max(pixels, default=0.0)}


def _points(pairs: Pairs) -> Found:
    return {"pixels": max(float(np.nanmax(np.abs(a.keypoints - b.keypoints))) for a, b in pairs)}


def _values(pairs: Pairs) -> Found:
    return {"value": max(float(np.abs(a.values - b.values).max()) for a, b in pairs)}


MEASURES = {"mask": _masks, "probabilities": _probabilities, "boxes": _boxes, "keypoints": _points, "values": _values}
"""By the field that a result has."""


def check_exact(report: Report, name: str, found: Found) -> None:
    """Targets in full precision, of classes and masks."""
    if "probability" in found:
        report.check(9, f"{name}, exact: largest difference of a probability", found["probability"],
                     ("<=", MOST_PROBABILITY), always=True)  # fmt: skip
    if "equal_cells" in found:
        report.check(
            9, f"{name}, exact: share of equal mask cells", found["equal_cells"], (">=", FEWEST_CELLS), always=True
        )


def check_half(report: Report, name: str, found: Found) -> None:
    """Targets in float16, of classes."""
    if "probability" in found:
        report.check(9, f"{name}, fp16: largest difference of a probability", found["probability"],
                     ("<=", HALF_PROBABILITY), always=True)  # fmt: skip
        report.check(9, f"{name}, fp16: share of equal top classes", found["equal_top"], (">=", HALF_TOP), always=True)

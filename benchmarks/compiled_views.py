"""How far views made by graphs, and answers from them, differ from those made one by one; needs the extra `compile`.

Views: every primitive with every border, resize mode, layout and type of input, on noise and on slow waves. Answers:
the bundled models' samples with every preset that a model allows, every merge, and interpolated views. Exits with 1 if
a target is missed.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.server import MODELS
from tests.support.compiled import GREY_LEVELS, Fronts, grey_levels_of_one
from tests.support.patterns import noise, smooth
from tests.support.preparations import EXACT_VIEWS, MEAN, SAMPLED_VIEWS, STD
from tta_server import LoadedModel, load
from tta_server.errors import InvalidInput
from tta_server.imaging.normalization import Normalization
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.views.geometry import Size
from tta_server.views.presets import PRESETS
from tta_server.views.spec import read_view
from tta_server.views.view import Border

RAW = Normalization(scale=1.0)
IMAGENET = Normalization(255.0, MEAN, STD)
RESIZES = {
    "crop": Preprocessing(Size(48, 40), Resize.SHORT, 56),
    "exact": Preprocessing(Size(37, 44), Resize.EXACT),
    "letterbox": Preprocessing(Size(60, 60), Resize.LETTERBOX),
    "multiple": Preprocessing(multiple=16),
    "short multiple": Preprocessing(None, Resize.SHORT, 53, multiple=8),
}
COLORS = [{"brightness": 1.4}, {"contrast": 0.7}, {"saturation": 1.6}, {"hue": 25}, "grayscale"]
IMAGES = [noise(Size(83, 71)), smooth(Size(71, 90))]
SAMPLED = ["identity", {"rotate": 7}, ["hflip", {"zoom": 1.2}], {"shift": [1.5, 2]}, {"contrast": 1.3}]
IN_PIXELS = ("boxes", "keypoints", "spread", "mean_spread", "spread_by_keypoint", "view_boxes", "view_keypoints")
KINDS = {"grid_probabilities": "cells", **dict.fromkeys(IN_PIXELS, "pixels")}
"""Of fields of answers; others are numbers."""
TIMES = ("elapsed_ms", "stages_ms", "request_id")
TARGETS = {"float32": GREY_LEVELS["float32"], "float16": GREY_LEVELS["float16"], "uint8": 1.0}
LIMITS = {"numbers": 1e-5, "cells": 5e-5, "pixels": 5e-4, "whole": 0.0}
"""Of answers: numbers, relative to 1 and themselves; cells of maps, the same; places in pixels; whole numbers."""


@dataclass
class Views:
    """Rows of one type of input."""

    exact: int = 0
    equal: int = 0
    sampled: int = 0
    largest: float = 0.0
    """In grey levels, of sampled and coloured rows."""
    unexplained: int = 0
    """Pixels of uint8 that differ although the float is over 0.02 from a half."""

    def add(self, rows: Any, made: Any, expected: Any, levels: Any) -> None:
        for row, one, other in zip(rows, made, expected, strict=True):
            if row.placement.exact and row.view.color.is_identity:
                self.exact += 1
                self.equal += int(np.array_equal(one, other))
            else:
                self.sampled += 1
                off = np.abs(one.astype(np.float64) - other) * levels
                self.largest = max(self.largest, float(off.max()))


def compare_views(dtype: str) -> Views:
    found = Views()
    views = [
        replace(read_view(spec), border=border) for spec in [*EXACT_VIEWS, *SAMPLED_VIEWS, *COLORS] for border in Border
    ]
    for resize in RESIZES.values():
        for layout in ("NCHW", "NHWC"):
            by = Normalization() if dtype == "uint8" else IMAGENET
            prep = replace(resize, dtype=np.dtype(dtype), layout=layout, normalization=by)
            levels = 1.0 if dtype == "uint8" else grey_levels_of_one(prep)
            for rows, made, expected in Fronts(prep).batches(IMAGES, views):
                found.add(rows, made, expected, levels)
                if dtype == "uint8":
                    found.unexplained += _unexplained(prep, views, rows, made, expected)
    return found


def _unexplained(prep: Preprocessing, views: Any, rows: Any, made: Any, expected: Any) -> int:
    floats = replace(prep, dtype=np.dtype(np.float32), normalization=RAW)
    placements = [row.placement for row in rows]
    values = next(
        values
        for other, _, values in Fronts(floats).batches(IMAGES, views)
        if [row.placement for row in other] == placements
    )
    return int(((made != expected) & (np.abs(values % 1 - 0.5) > 0.02)).sum())


@dataclass
class Answers:
    """Answers of one model."""

    count: int = 0
    equal: int = 0
    """All numbers to the bit."""
    receipts: int = 0
    largest: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LIMITS, 0.0))
    """Largest differences by kind."""

    def add(self, local: Any, graph: Any) -> None:
        self.count += 1
        before = dict(self.largest)
        self.largest = dict.fromkeys(before, 0.0)
        for name, one, other in numbers(local.result, graph.result):
            kind = "whole" if one.dtype.kind in "biu" else KINDS.get(name, "numbers")
            off = np.abs(other.astype(np.float64) - one) / (1 + np.abs(one) if kind in ("numbers", "cells") else 1)
            self.largest[kind] = max(self.largest[kind], float(off.max(initial=0)))
        self.equal += not any(self.largest.values())
        self.largest = {kind: max(before[kind], found) for kind, found in self.largest.items()}
        one, other = (_words({**answer.receipt.to_dict(), **dict.fromkeys(TIMES)}) for answer in (local, graph))
        self.receipts += one == other


def _words(value: Any) -> Any:
    """A receipt without its fractions, which are numbers of the answer, rounded."""
    if isinstance(value, Mapping):
        return {key: _words(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_words(each) for each in value]
    return None if isinstance(value, float) else value


def numbers(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The arrays and numbers of two results of one shape, each with the name of its field."""
    if is_dataclass(one) and not isinstance(one, type):
        for each in fields(one):
            yield from numbers(getattr(one, each.name), getattr(other, each.name), each.name)
    elif isinstance(one, Mapping):
        for key in one:
            yield from numbers(one[key], other[key], name)
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            yield from numbers(a, b, name)
    elif isinstance(one, np.ndarray | float | int) and not isinstance(one, bool):
        a, b = np.asarray(one), np.asarray(other)
        if a.shape != b.shape:
            yield name, np.zeros(1, int), np.full(1, 10**9)
        elif a.dtype.kind in "biuf":
            yield name, a, b


def ways(model: LoadedModel) -> Iterator[dict[str, Any]]:
    """Options of requests: each preset that the model allows with its own merge, interpolated views with each merge."""
    include = sorted({"uncertainty", "probabilities"} & set(model.model.task.includes))
    for preset in PRESETS:
        yield {"policy": preset, "include": include}
    for merge in model.model.task.merges:
        yield {"policy": SAMPLED, "merge": merge, "include": include}
        yield {"policy": SAMPLED, "merge": merge, "include": ["views"]}


def compare_answers(name: str, models: Path, scratch: Path) -> Answers:
    from tests.support.graphed import with_graphs

    found = Answers()
    (sample,) = (models / name).glob("sample.*")
    with load(models / name) as local, load(with_graphs(scratch, models / name)) as graph:
        for options in ways(local):
            every = {"budget_ms": 60_000, "min_views": "all", "stop": "all", **options}
            try:
                expected = local.predict(sample, **every)
            except InvalidInput:  # the model does not allow these views
                continue
            found.add(expected, graph.predict(sample, **every))
    return found


def views_table() -> tuple[Table, bool]:
    columns = ("type", "copied rows equal to the bit", "others", "largest difference, grey levels", "target", "met")
    table, met = Table(*columns, title="Views", title_justify="left"), True
    for dtype, target in TARGETS.items():
        found = compare_views(dtype)
        is_met = found.exact == found.equal and found.largest <= target and not found.unexplained
        met &= is_met
        shown = f"{found.largest:.4f}" + (f", {found.unexplained} not at a half" if dtype == "uint8" else "")
        table.add_row(
            dtype, f"{found.equal} of {found.exact}", str(found.sampled), shown, f"all, {target:g}", _word(is_met)
        )
    return table, met


def answers_table(models: Path) -> tuple[Table, bool]:
    columns = ("model", "answers", "equal to the bit", "receipts equal", *LIMITS, "met")
    targets = ", ".join(f"{kind} {limit:g}" for kind, limit in LIMITS.items())
    table = Table(*columns, title=f"Answers; targets: all receipts, {targets}", title_justify="left")
    met = True
    for folder in sorted(models.glob("*/tta.yaml")):
        with tempfile.TemporaryDirectory() as scratch:
            found = compare_answers(folder.parent.name, models, Path(scratch))
        is_met = found.receipts == found.count
        is_met &= all(found.largest[kind] <= limit for kind, limit in LIMITS.items())
        met &= is_met
        shown = (f"{found.largest[kind]:.1e}" for kind in LIMITS)
        counts = (str(number) for number in (found.count, found.equal, found.receipts))
        table.add_row(folder.parent.name, *counts, *shown, _word(is_met))
    return table, met


def _word(is_met: bool) -> str:
    return "yes" if is_met else "[red]missed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS)
    options = parser.parse_args()
    console, met = Console(width=140), True
    for table, is_met in (views_table(), answers_table(options.models)):
        console.print(table)
        met &= is_met
    sys.exit(not met)


if __name__ == "__main__":
    main()
